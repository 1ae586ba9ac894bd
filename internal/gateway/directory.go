package gateway

import (
	"cmp"
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rclone/gofakes3"
	"github.com/tidwall/btree"

	"github.com/lanyard-id/lanyard/internal/filelock"
)

// The files of a directory store:
//
//	lock                                    held while the store is open
//	buckets/NAME/bucket.json                owner and creation time
//	buckets/NAME/objects/HH/HASH.json       an object's record; HASH is the SHA-256 of its key, HH its first byte
//	buckets/NAME/objects/HH/HASH.RANDOM     the object's data, as the record names it
//	buckets/NAME/uploads/ID/…               parts of multipart uploads; they do not outlive the process
//	buckets/NAME/temporary/…                files that are being written
//
// No name of a file is made of a key. A write is done when its record was renamed into place and synced; data that no
// record names was left by a crash and is removed when the store is opened.
const (
	bucketsDir   = "buckets"
	bucketFile   = "bucket.json"
	objectsDir   = "objects"
	uploadsDir   = "uploads"
	temporaryDir = "temporary"
	recordSuffix = ".json"
	newPrefix    = ".new-"     // a bucket that is being made
	deadPrefix   = ".deleted-" // a bucket that is being removed
	ownerOnly    = 0o700
)

// OpenDirectory returns an embedded S3 store that keeps its buckets in dir, which it creates. One process may have it open at
// a time. Records of all objects are held in memory, about 0.75 KiB each. Buckets remember the account that made them. The handler is also
// an io.Closer.
func OpenDirectory(dir string, log *slog.Logger) (http.Handler, error) {
	if err := os.MkdirAll(filepath.Join(dir, bucketsDir), ownerOnly); err != nil {
		return nil, fmt.Errorf("create the S3 store: %w", err)
	}
	unlock, err := filelock.Hold(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("lock the S3 store in %s: %w", dir, err)
	}
	d := &directory{root: filepath.Join(dir, bucketsDir), unlock: unlock, buckets: map[string]*bucket{}}
	if err := d.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the S3 store in %s: %w", dir, err), unlock())
	}
	d.wire = gofakes3.New(d, gofakes3.WithTimeSkewLimit(0), gofakes3.WithLogger(storeLog{log})).Server()
	return d, nil
}

// directory is the embedded store: a gofakes3.Backend, and the handler in front of it.
type directory struct {
	root   string
	unlock func() error
	wire   http.Handler // gofakes3's S3 API over this backend

	mu      sync.RWMutex
	buckets map[string]*bucket
}

// bucket is one bucket. Commits are made one at a time; index is also read between them.
type bucket struct {
	name string
	dir  string
	bucketInfo

	commit  sync.Mutex // held while files are renamed
	deleted bool       // under commit

	mu      sync.RWMutex
	index   btree.Map[string, *object] // by key
	uploads map[gofakes3.UploadID]*upload
}

// bucketInfo is what bucket.json holds.
type bucketInfo struct {
	Owner   string    `json:"owner"` // account ID
	Created time.Time `json:"created"`
}

// object is what an object's record holds. It is immutable.
type object struct {
	Key      string            `json:"key"`
	Data     string            `json:"data"` // name of the data's file, beside the record
	Size     int64             `json:"size"`
	MD5      string            `json:"md5"` // hex
	Metadata map[string]string `json:"metadata"`
	Parts    []int64           `json:"parts,omitempty"` // sizes, of a multipart upload
}

// storeLog gives gofakes3's warnings and errors to slog.
type storeLog struct{ log *slog.Logger }

// Print implements gofakes3.Logger.
func (l storeLog) Print(level gofakes3.LogLevel, v ...any) {
	if level == gofakes3.LogErr || level == gofakes3.LogWarn {
		l.log.Warn("s3 store", slog.String("detail", fmt.Sprint(v...)))
	}
}

// Close lets another process open the store. Requests must have ended.
func (d *directory) Close() error { return d.unlock() }

// load reads all buckets and removes what crashes have left.
func (d *directory) load() error {
	entries, err := os.ReadDir(d.root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(d.root, e.Name())
		if strings.HasPrefix(e.Name(), newPrefix) || strings.HasPrefix(e.Name(), deadPrefix) {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		b := &bucket{name: e.Name(), dir: dir, uploads: map[gofakes3.UploadID]*upload{}}
		if err := b.load(); err != nil {
			return fmt.Errorf("bucket %s: %w", b.name, err)
		}
		d.buckets[b.name] = b
	}
	return nil
}

func (b *bucket) load() error {
	if err := readJSON(filepath.Join(b.dir, bucketFile), &b.bucketInfo); err != nil {
		return err
	}
	for _, name := range []string{uploadsDir, temporaryDir} {
		if err := errors.Join(os.RemoveAll(filepath.Join(b.dir, name)), os.Mkdir(filepath.Join(b.dir, name), ownerOnly)); err != nil {
			return err
		}
	}
	shards, err := os.ReadDir(filepath.Join(b.dir, objectsDir))
	if err != nil {
		return err
	}
	for _, shard := range shards {
		if err := b.loadShard(filepath.Join(b.dir, objectsDir, shard.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (b *bucket) loadShard(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	unnamed := map[string]bool{}
	for _, e := range entries {
		unnamed[e.Name()] = true
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), recordSuffix) {
			continue
		}
		var o object
		path := filepath.Join(dir, e.Name())
		if err := readJSON(path, &o); err != nil {
			return err
		}
		if b.recordPath(o.Key) != path || !unnamed[o.Data] {
			return fmt.Errorf("%s does not fit its object or has lost its data", path)
		}
		delete(unnamed, e.Name())
		delete(unnamed, o.Data)
		b.index.Set(o.Key, &o)
	}
	for name := range unnamed {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// recordPath is the file of a key's record.
func (b *bucket) recordPath(key string) string {
	sum := sha256.Sum256([]byte(key))
	name := hex.EncodeToString(sum[:])
	return filepath.Join(b.dir, objectsDir, name[:2], name+recordSuffix)
}

// dataPath is the file of an object's data.
func (b *bucket) dataPath(o *object) string {
	return filepath.Join(filepath.Dir(b.recordPath(o.Key)), o.Data)
}

// find returns a bucket, or S3's error for one that does not exist.
func (d *directory) find(name string) (*bucket, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if b := d.buckets[name]; b != nil {
		return b, nil
	}
	return nil, gofakes3.BucketNotFound(name)
}

func (b *bucket) get(key string) (*object, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.index.Get(key)
}

// owner implements ownership.
func (d *directory) owner(name string) string {
	b, err := d.find(name)
	if err != nil {
		return ""
	}
	return b.Owner
}

// tags implements ownership.
func (d *directory) tags(bucket, key string) map[string]string {
	b, err := d.find(bucket)
	if err != nil {
		return nil
	}
	o, ok := b.get(key)
	if !ok {
		return nil
	}
	values, err := url.ParseQuery(o.Metadata[gofakes3.TaggingMetadataKey])
	if err != nil {
		return nil
	}
	tags := make(map[string]string, len(values))
	for k := range values {
		tags[k] = values.Get(k)
	}
	return tags
}

// versioned implements ownership.
func (d *directory) versioned() bool { return false }

// bucketsOf returns an account's buckets by name.
func (d *directory) bucketsOf(account string) []*bucket {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var own []*bucket
	for _, b := range d.buckets {
		if b.Owner == account {
			own = append(own, b)
		}
	}
	slices.SortFunc(own, func(a, b *bucket) int { return cmp.Compare(a.name, b.name) })
	return own
}

// ListBuckets implements gofakes3.Backend.
func (d *directory) ListBuckets(ctx context.Context) ([]gofakes3.BucketInfo, error) {
	var infos []gofakes3.BucketInfo
	for _, b := range d.bucketsOf(accountOf(ctx)) {
		infos = append(infos, gofakes3.BucketInfo{Name: b.name, CreationDate: gofakes3.NewContentTime(b.Created)})
	}
	return infos, nil
}

// BucketExists implements gofakes3.Backend.
func (d *directory) BucketExists(_ context.Context, name string) (bool, error) {
	_, err := d.find(name)
	return err == nil, nil
}

// CreateBucket implements gofakes3.Backend. The account of the context becomes the owner.
func (d *directory) CreateBucket(ctx context.Context, name string) error {
	account := accountOf(ctx)
	if account == "" {
		return errors.New("create a bucket for no account")
	}
	if !validBucket(name) {
		return gofakes3.ErrInvalidBucketName
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.buckets[name] != nil {
		return gofakes3.ResourceError(gofakes3.ErrBucketAlreadyExists, name)
	}
	b := &bucket{name: name, dir: filepath.Join(d.root, name), uploads: map[gofakes3.UploadID]*upload{},
		bucketInfo: bucketInfo{Owner: account, Created: time.Now().UTC().Truncate(time.Millisecond)}}
	made := filepath.Join(d.root, newPrefix+rand.Text())
	for _, dir := range []string{"", objectsDir, uploadsDir, temporaryDir} {
		if err := os.Mkdir(filepath.Join(made, dir), ownerOnly); err != nil {
			return fmt.Errorf("create bucket %s: %w", name, err)
		}
	}
	raw, err := json.Marshal(b.bucketInfo)
	if err == nil {
		err = writeSynced(filepath.Join(made, bucketFile), raw)
	}
	if err == nil {
		err = syncDir(made)
	}
	if err == nil {
		err = renameSynced(made, b.dir)
	}
	if err != nil {
		return withCleanup(fmt.Errorf("create bucket %s: %w", name, err), os.RemoveAll(made))
	}
	d.buckets[name] = b
	return nil
}

// DeleteBucket implements gofakes3.Backend.
func (d *directory) DeleteBucket(_ context.Context, name string) error {
	b, err := d.find(name)
	if err != nil {
		return err
	}
	b.commit.Lock()
	defer b.commit.Unlock()
	b.mu.RLock()
	empty := b.index.Len() == 0
	b.mu.RUnlock()
	switch {
	case b.deleted:
		return gofakes3.BucketNotFound(name)
	case !empty:
		return gofakes3.ResourceError(gofakes3.ErrBucketNotEmpty, name)
	}
	dead := filepath.Join(d.root, deadPrefix+rand.Text())
	d.mu.Lock()
	err = renameSynced(b.dir, dead)
	if err == nil {
		b.deleted = true
		delete(d.buckets, name)
	}
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("delete bucket %s: %w", name, err)
	}
	return os.RemoveAll(dead)
}

// ListBucket implements gofakes3.Backend.
func (d *directory) ListBucket(_ context.Context, name string, prefix *gofakes3.Prefix, page gofakes3.ListBucketPage) (*gofakes3.ObjectList, error) {
	b, err := d.find(name)
	if err != nil {
		return nil, err
	}
	var want gofakes3.Prefix
	if prefix != nil {
		want = *prefix
	}
	limit := int(page.MaxKeys)
	if limit <= 0 {
		limit = gofakes3.MaxBucketKeys
	}
	own := newOwner(b.Owner)
	list := gofakes3.NewObjectList()
	b.mu.RLock()
	defer b.mu.RUnlock()
	last := ""
	for from := max(want.Prefix, page.Marker); ; {
		next := "" // where to go on after a common prefix
		b.index.Ascend(from, func(key string, o *object) bool {
			if !strings.HasPrefix(key, want.Prefix) {
				return false // keys are in order, and from is not before the prefix
			}
			if key <= page.Marker && page.Marker != "" {
				return true
			}
			common := commonPrefix(key, want)
			if common != "" && common == page.Marker {
				next = successor(common)
				return false
			}
			if len(list.Contents)+len(list.CommonPrefixes) == limit {
				list.IsTruncated, list.NextMarker = true, last
				return false
			}
			if common == "" {
				list.Add(o.content(own))
				last = key
				return true
			}
			list.AddPrefix(common)
			last, next = common, successor(common)
			return false
		})
		if next == "" {
			return list, nil
		}
		from = next
	}
}

// commonPrefix returns the part of a key up to the delimiter after the prefix, or "" when there is no such part.
func commonPrefix(key string, p gofakes3.Prefix) string {
	if p.Delimiter == "" {
		return ""
	}
	i := strings.Index(key[len(p.Prefix):], p.Delimiter)
	if i < 0 {
		return ""
	}
	return key[:len(p.Prefix)+i+len(p.Delimiter)]
}

// successor returns the first string after all that begin with s, or "" when there is none.
func successor(s string) string {
	b := []byte(s)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return string(b[:i+1])
		}
	}
	return ""
}

func (o *object) content(own owner) *gofakes3.Content {
	c := &gofakes3.Content{Key: o.Key, ETag: `"` + o.MD5 + `"`, Size: o.Size, StorageClass: "STANDARD",
		Owner: &gofakes3.UserInfo{ID: own.ID, DisplayName: own.DisplayName}}
	if class := o.Metadata["X-Amz-Storage-Class"]; class != "" {
		c.StorageClass = gofakes3.StorageClass(class)
	}
	if t, err := http.ParseTime(o.Metadata["Last-Modified"]); err == nil {
		c.LastModified = gofakes3.NewContentTime(t)
	}
	return c
}

// HeadObject implements gofakes3.Backend.
func (d *directory) HeadObject(_ context.Context, bucketName, key string) (*gofakes3.Object, error) {
	b, err := d.find(bucketName)
	if err != nil {
		return nil, err
	}
	o, ok := b.get(key)
	if !ok {
		return nil, gofakes3.KeyNotFound(key)
	}
	return o.found(io.NopCloser(strings.NewReader("")), nil)
}

// GetObject implements gofakes3.Backend.
func (d *directory) GetObject(_ context.Context, bucketName, key string, rangeRequest *gofakes3.ObjectRangeRequest) (*gofakes3.Object, error) {
	b, err := d.find(bucketName)
	if err != nil {
		return nil, err
	}
	o, f, err := b.open(key)
	if err != nil {
		return nil, err
	}
	rng, err := rangeRequest.Range(o.Size)
	switch {
	case err != nil:
		return nil, withCleanup(err, f.Close())
	case rng == nil:
		return o.found(f, nil)
	}
	return o.found(section{io.NewSectionReader(f, rng.Start, rng.Length), f}, rng)
}

// open returns an object and its data. The file is opened before the object can be replaced.
func (b *bucket) open(key string) (*object, *os.File, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	o, ok := b.index.Get(key)
	if !ok {
		return nil, nil, gofakes3.KeyNotFound(key)
	}
	f, err := os.Open(b.dataPath(o))
	if err != nil {
		return nil, nil, fmt.Errorf("open object: %w", err)
	}
	return o, f, nil
}

// section is a range of an object's data.
type section struct {
	io.Reader
	io.Closer
}

// found makes gofakes3's form of an object.
func (o *object) found(contents io.ReadCloser, rng *gofakes3.ObjectRange) (*gofakes3.Object, error) {
	sum, err := hex.DecodeString(o.MD5)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("record of object: %w", err), contents.Close())
	}
	return &gofakes3.Object{Name: o.Key, Metadata: maps.Clone(o.Metadata), Size: o.Size, Contents: contents, Hash: sum, Range: rng,
		PartSizes: o.Parts}, nil
}

// PutObject implements gofakes3.Backend.
func (d *directory) PutObject(ctx context.Context, bucketName, key string, meta map[string]string,
	input io.Reader, size int64) (gofakes3.PutObjectResult, error) {
	b, err := d.find(bucketName)
	if err != nil {
		return gofakes3.PutObjectResult{}, err
	}
	o, err := b.put(ctx, &object{Key: key, Metadata: meta}, input, size)
	if err != nil {
		return gofakes3.PutObjectResult{}, err
	}
	return gofakes3.PutObjectResult{ETag: `"` + o.MD5 + `"`}, nil
}

// put stores an object: its data first, then its record. It fills in what the data tells.
func (b *bucket) put(ctx context.Context, o *object, input io.Reader, size int64) (*object, error) {
	temporary, n, sum, err := b.spool(filepath.Join(b.dir, temporaryDir), input, size)
	if err != nil {
		return nil, err
	}
	stored := &object{Key: o.Key, Metadata: maps.Clone(o.Metadata), Parts: o.Parts, Size: n, MD5: hex.EncodeToString(sum)}
	if err := b.replace(ctx, stored, temporary); err != nil {
		return nil, withCleanup(err, removeIfPresent(temporary))
	}
	return stored, nil
}

// spool writes a body to a new file in dir and syncs it. A size of -1 is unknown.
func (b *bucket) spool(dir string, input io.Reader, size int64) (path string, n int64, sum []byte, err error) {
	f, err := os.CreateTemp(dir, "")
	if err != nil {
		return "", 0, nil, fmt.Errorf("create temporary file: %w", err)
	}
	h := md5.New()
	n, err = copyInto(f, h, input)
	switch {
	case err == nil && size >= 0 && n != size:
		err = gofakes3.ErrIncompleteBody
	case err == nil:
		err = f.Sync()
	}
	if err = withCleanup(err, f.Close()); err != nil {
		return "", 0, nil, withCleanup(err, os.Remove(f.Name()))
	}
	return f.Name(), n, h.Sum(nil), nil
}

func copyInto(f *os.File, h hash.Hash, input io.Reader) (int64, error) {
	n, err := io.Copy(io.MultiWriter(f, h), input)
	if err != nil {
		return n, fmt.Errorf("write object: %w", err)
	}
	return n, nil
}

// replace makes an object the one that its key has. Its data is in the temporary file.
func (b *bucket) replace(ctx context.Context, o *object, temporary string) error {
	b.commit.Lock()
	defer b.commit.Unlock()
	if b.deleted {
		return gofakes3.BucketNotFound(b.name)
	}
	old, exists := b.get(o.Key)
	etag := ""
	if exists {
		etag = old.MD5
	}
	if err := gofakes3.CheckWriteConditions(ctx, exists, etag); err != nil {
		return err
	}
	record := b.recordPath(o.Key)
	if err := mkdirSynced(filepath.Dir(record)); err != nil {
		return fmt.Errorf("create shard: %w", err)
	}
	name := strings.TrimSuffix(filepath.Base(record), recordSuffix)
	o.Data = name + "." + rand.Text()
	if err := os.Rename(temporary, b.dataPath(o)); err != nil {
		return fmt.Errorf("move data into place: %w", err)
	}
	if err := b.writeRecord(o); err != nil {
		return err // the data stays, because the record may be in place, though not synced
	}
	if exists {
		// The object is replaced; data that stays behind is removed when the store is opened next.
		_ = os.Remove(b.dataPath(old))
	}
	return nil
}

// writeRecord makes a record durable, and then visible. The commit lock is held.
func (b *bucket) writeRecord(o *object) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	temporary := filepath.Join(b.dir, temporaryDir, rand.Text())
	if err := writeSynced(temporary, raw); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	if err := renameSynced(temporary, b.recordPath(o.Key)); err != nil {
		return fmt.Errorf("move record into place: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index.Set(o.Key, o)
	return nil
}

// SetObjectTagging implements gofakes3.ObjectTaggingBackend.
func (d *directory) SetObjectTagging(_ context.Context, bucketName, key, tagging string) error {
	b, err := d.find(bucketName)
	if err != nil {
		return err
	}
	b.commit.Lock()
	defer b.commit.Unlock()
	old, ok := b.get(key)
	if b.deleted || !ok {
		return gofakes3.KeyNotFound(key)
	}
	o := *old
	o.Metadata = maps.Clone(old.Metadata)
	delete(o.Metadata, gofakes3.TaggingMetadataKey)
	if tagging != "" {
		o.Metadata[gofakes3.TaggingMetadataKey] = tagging
	}
	return b.writeRecord(&o)
}

// DeleteObject implements gofakes3.Backend.
func (d *directory) DeleteObject(_ context.Context, bucketName, key string) (gofakes3.ObjectDeleteResult, error) {
	b, err := d.find(bucketName)
	if err != nil {
		return gofakes3.ObjectDeleteResult{}, err
	}
	b.commit.Lock()
	defer b.commit.Unlock()
	o, ok := b.get(key)
	if b.deleted || !ok {
		return gofakes3.ObjectDeleteResult{}, nil
	}
	record := b.recordPath(key)
	if err := os.Remove(record); err != nil {
		return gofakes3.ObjectDeleteResult{}, fmt.Errorf("remove record: %w", err)
	}
	if err := syncDir(filepath.Dir(record)); err != nil {
		return gofakes3.ObjectDeleteResult{}, err
	}
	b.mu.Lock()
	b.index.Delete(key)
	b.mu.Unlock()
	// The object is gone; data that stays behind is removed when the store is opened next.
	_ = os.Remove(b.dataPath(o))
	return gofakes3.ObjectDeleteResult{}, nil
}

// DeleteMulti implements gofakes3.Backend.
func (d *directory) DeleteMulti(ctx context.Context, bucketName string, keys ...string) (gofakes3.MultiDeleteResult, error) {
	var result gofakes3.MultiDeleteResult
	for _, key := range keys {
		if _, err := d.DeleteObject(ctx, bucketName, key); err != nil {
			failed := gofakes3.ErrorResultFromError(err)
			failed.Key = key
			result.Error = append(result.Error, failed)
			continue
		}
		result.Deleted = append(result.Deleted, gofakes3.ObjectID{Key: key})
	}
	return result, nil
}

// CopyObject implements gofakes3.Backend.
func (d *directory) CopyObject(ctx context.Context, srcBucket, srcKey, dstBucket, dstKey string,
	meta map[string]string) (gofakes3.CopyObjectResult, error) {
	from, err := d.find(srcBucket)
	if err != nil {
		return gofakes3.CopyObjectResult{}, err
	}
	to, err := d.find(dstBucket)
	if err != nil {
		return gofakes3.CopyObjectResult{}, err
	}
	src, contents, err := from.open(srcKey)
	if err != nil {
		return gofakes3.CopyObjectResult{}, err
	}
	o, err := to.put(ctx, &object{Key: dstKey, Metadata: meta}, contents, src.Size)
	if err = withCleanup(err, contents.Close()); err != nil {
		return gofakes3.CopyObjectResult{}, err
	}
	modified, err := http.ParseTime(meta["Last-Modified"])
	if err != nil {
		return gofakes3.CopyObjectResult{}, fmt.Errorf("time of a copy: %w", err)
	}
	return gofakes3.CopyObjectResult{ETag: `"` + o.MD5 + `"`, LastModified: gofakes3.NewContentTime(modified)}, nil
}
