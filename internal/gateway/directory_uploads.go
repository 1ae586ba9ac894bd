package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rclone/gofakes3"
)

// upload is a multipart upload that has not been completed.
type upload struct {
	key      string
	dir      string
	metadata map[string]string
	parts    map[int]part // under the bucket's mu
}

type part struct {
	file string
	size int64
	md5  string
}

// CreateMultipartUpload implements gofakes3.MultipartBackend.
func (d *directory) CreateMultipartUpload(_ context.Context, bucketName, key string, meta map[string]string) (gofakes3.UploadID, error) {
	b, err := d.find(bucketName)
	if err != nil {
		return "", err
	}
	id := gofakes3.UploadID(rand.Text() + rand.Text())
	u := &upload{key: key, dir: filepath.Join(b.dir, uploadsDir, string(id)), metadata: meta, parts: map[int]part{}}
	if err := os.Mkdir(u.dir, ownerOnly); err != nil {
		return "", fmt.Errorf("create upload: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.uploads[id] = u
	return id, nil
}

// findUpload returns an upload for a key.
func (d *directory) findUpload(bucketName, key string, id gofakes3.UploadID) (*bucket, *upload, error) {
	b, err := d.find(bucketName)
	if err != nil {
		return nil, nil, err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	u := b.uploads[id]
	if u == nil || u.key != key {
		return nil, nil, gofakes3.ErrNoSuchUpload
	}
	return b, u, nil
}

// UploadPart implements gofakes3.MultipartBackend.
func (d *directory) UploadPart(_ context.Context, bucketName, key string, id gofakes3.UploadID, number int, size int64,
	input io.Reader) (string, error) {
	b, u, err := d.findUpload(bucketName, key, id)
	if err != nil {
		return "", err
	}
	path, n, sum, err := b.spool(u.dir, input, size)
	if err != nil {
		return "", err
	}
	p := part{file: path, size: n, md5: hex.EncodeToString(sum)}
	b.mu.Lock()
	old, replaced := u.parts[number]
	u.parts[number] = p
	b.mu.Unlock()
	if replaced {
		if err := removeIfPresent(old.file); err != nil {
			return "", fmt.Errorf("remove replaced part: %w", err)
		}
	}
	return `"` + p.md5 + `"`, nil
}

// CompleteMultipartUpload implements gofakes3.MultipartBackend. The object's ETag is the MD5 of its content.
func (d *directory) CompleteMultipartUpload(ctx context.Context, bucketName, key string, id gofakes3.UploadID,
	input *gofakes3.CompleteMultipartUploadRequest) (gofakes3.VersionID, string, error) {
	b, u, err := d.findUpload(bucketName, key, id)
	if err != nil {
		return "", "", err
	}
	parts, err := b.choose(u, input.Parts)
	if err != nil {
		return "", "", err
	}
	o := &object{Key: key, Metadata: maps.Clone(u.metadata)}
	o.Metadata["Last-Modified"] = time.Now().UTC().Format(http.TimeFormat)
	var total int64
	for _, p := range parts {
		o.Parts = append(o.Parts, p.size)
		total += p.size
	}
	content := &partsReader{parts: parts}
	stored, err := b.put(ctx, o, content, total)
	if err = withCleanup(err, content.Close()); err != nil {
		return "", "", err
	}
	// The object stands; an upload that cannot be removed now is removed when the store is opened next.
	_ = d.AbortMultipartUpload(ctx, bucketName, key, id)
	return "", `"` + stored.MD5 + `"`, nil
}

// choose returns the listed parts, which must have been uploaded, in order.
func (b *bucket) choose(u *upload, list []gofakes3.CompletedPart) ([]part, error) {
	const minPart = 5 << 20 // of all parts but the last
	b.mu.RLock()
	defer b.mu.RUnlock()
	if len(list) == 0 {
		return nil, gofakes3.ErrMalformedXML
	}
	if !slices.IsSortedFunc(list, func(a, b gofakes3.CompletedPart) int { return cmp.Compare(a.PartNumber, b.PartNumber) }) {
		return nil, gofakes3.ErrInvalidPartOrder
	}
	parts := make([]part, len(list))
	for i, listed := range list {
		if i > 0 && listed.PartNumber == list[i-1].PartNumber {
			return nil, gofakes3.ErrInvalidPartOrder
		}
		p, ok := u.parts[listed.PartNumber]
		if !ok || strings.Trim(listed.ETag, `"`) != p.md5 {
			return nil, gofakes3.ErrInvalidPart
		}
		if i < len(list)-1 && p.size < minPart {
			return nil, gofakes3.ErrorCode("EntityTooSmall")
		}
		parts[i] = p
	}
	return parts, nil
}

// AbortMultipartUpload implements gofakes3.MultipartBackend.
func (d *directory) AbortMultipartUpload(_ context.Context, bucketName, key string, id gofakes3.UploadID) error {
	b, u, err := d.findUpload(bucketName, key, id)
	if err != nil {
		return err
	}
	b.mu.Lock()
	delete(b.uploads, id)
	b.mu.Unlock()
	return os.RemoveAll(u.dir)
}

// partsReader reads parts one after the other, with one file open at a time.
type partsReader struct {
	parts []part
	file  *os.File
}

// Read implements io.Reader.
func (p *partsReader) Read(buf []byte) (int, error) {
	for {
		if p.file == nil {
			if len(p.parts) == 0 {
				return 0, io.EOF
			}
			f, err := os.Open(p.parts[0].file)
			if err != nil {
				return 0, fmt.Errorf("open part: %w", err)
			}
			p.file, p.parts = f, p.parts[1:]
		}
		n, err := p.file.Read(buf)
		if err != io.EOF {
			return n, err
		}
		if err := p.Close(); err != nil {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// Close implements io.Closer.
func (p *partsReader) Close() error {
	if p.file == nil {
		return nil
	}
	err := p.file.Close()
	p.file = nil
	return err
}
