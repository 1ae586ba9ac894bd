package gateway

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"net/http"
	"strconv"
	"strings"

	"github.com/rclone/gofakes3"
)

// bucketList is the answer to ListBuckets.
type bucketList struct {
	XMLName           xml.Name     `xml:"ListAllMyBucketsResult"`
	Namespace         string       `xml:"xmlns,attr"`
	Owner             owner        `xml:"Owner"`
	Buckets           []listBucket `xml:"Buckets>Bucket"`
	ContinuationToken string       `xml:"ContinuationToken,omitempty"`
	Prefix            string       `xml:"Prefix,omitempty"`
}

type listBucket struct{ Name, CreationDate string }

// owner is an account as S3 names it.
type owner struct{ ID, DisplayName string }

// newOwner makes the canonical user ID of an account: 64 hexadecimal digits that do not tell the account.
func newOwner(account string) owner {
	sum := sha256.Sum256([]byte("canonical user of account " + account))
	return owner{hex.EncodeToString(sum[:]), account}
}

// accessControlPolicy is the only access control list there is: the owner has full control.
type accessControlPolicy struct {
	XMLName   xml.Name `xml:"AccessControlPolicy"`
	Namespace string   `xml:"xmlns,attr"`
	Owner     owner    `xml:"Owner"`
	Grant     struct {
		Grantee struct {
			XSI  string `xml:"xmlns:xsi,attr"`
			Type string `xml:"xsi:type,attr"`
			owner
		}
		Permission string
	} `xml:"AccessControlList>Grant"`
}

// ServeHTTP implements http.Handler. It answers by itself where gofakes3 would name an owner of its own making, or leave out
// that a list is empty.
func (d *directory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && bucket == "":
		d.serveBuckets(w, r)
	case r.Method == http.MethodGet && key == "" && query.Get("list-type") == "2" && !query.Has("versions") && !query.Has("uploads"):
		d.serveList(w, r, bucket)
	case r.Method == http.MethodGet && query.Has("policyStatus") && d.exists(bucket, ""):
		writeStoreError(w, http.StatusNotFound, "NoSuchBucketPolicy", "") // gofakes3 takes an unsigned API to be public
	case r.Method == http.MethodGet && query.Has("acl") && d.exists(bucket, key):
		var acl accessControlPolicy
		acl.Namespace, acl.Owner = s3Namespace, newOwner(d.owner(bucket))
		acl.Grant.Grantee.owner, acl.Grant.Permission = acl.Owner, "FULL_CONTROL"
		acl.Grant.Grantee.XSI, acl.Grant.Grantee.Type = "http://www.w3.org/2001/XMLSchema-instance", "CanonicalUser"
		writeStoreXML(w, acl)
	default:
		d.wire.ServeHTTP(w, r)
	}
}

func (d *directory) exists(bucket, key string) bool {
	b, err := d.find(bucket)
	if err != nil || key == "" {
		return err == nil
	}
	_, ok := b.get(key)
	return ok
}

func writeStoreXML(w http.ResponseWriter, doc any) {
	b, err := xml.Marshal(doc)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	// A caller that has gone away is no failure of the store.
	_, _ = w.Write(append([]byte(xml.Header), b...))
}

// serveBuckets lists the buckets of the account on whose behalf the store is asked, in pages.
func (d *directory) serveBuckets(w http.ResponseWriter, r *http.Request) {
	const maxBuckets = 10000
	query := r.URL.Query()
	limit := maxBuckets
	if v := query.Get("max-buckets"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxBuckets {
			writeStoreError(w, http.StatusBadRequest, "InvalidArgument", "max-buckets must be between 1 and 10000")
			return
		}
		limit = n
	}
	after, err := base64.URLEncoding.DecodeString(query.Get("continuation-token"))
	if err != nil {
		writeStoreError(w, http.StatusBadRequest, "InvalidArgument", "The continuation token provided is incorrect")
		return
	}
	account := accountOf(r.Context())
	list := bucketList{Namespace: s3Namespace, Owner: newOwner(account), Prefix: query.Get("prefix")}
	for _, b := range d.bucketsOf(account) {
		if b.name <= string(after) || !strings.HasPrefix(b.name, list.Prefix) {
			continue
		}
		if len(list.Buckets) == limit {
			list.ContinuationToken = base64.URLEncoding.EncodeToString([]byte(list.Buckets[limit-1].Name))
			break
		}
		list.Buckets = append(list.Buckets, listBucket{b.name, b.Created.Format("2006-01-02T15:04:05.000Z")})
	}
	writeStoreXML(w, list)
}

func writeStoreError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	writeStoreXML(w, struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: code, Message: message})
}

// objectList is the answer to ListObjectsV2.
type objectList struct {
	XMLName               xml.Name       `xml:"ListBucketResult"`
	Namespace             string         `xml:"xmlns,attr"`
	Name                  string         `xml:"Name"`
	Prefix                string         `xml:"Prefix"`
	Delimiter             string         `xml:"Delimiter,omitempty"`
	StartAfter            string         `xml:"StartAfter,omitempty"`
	EncodingType          string         `xml:"EncodingType,omitempty"`
	MaxKeys               int            `xml:"MaxKeys"`
	KeyCount              int            `xml:"KeyCount"`
	IsTruncated           bool           `xml:"IsTruncated"`
	ContinuationToken     string         `xml:"ContinuationToken,omitempty"`
	NextContinuationToken string         `xml:"NextContinuationToken,omitempty"`
	Contents              []listedObject `xml:"Contents"`
	CommonPrefixes        []listedPrefix `xml:"CommonPrefixes"`
}

type listedPrefix struct{ Prefix string }

type listedObject struct {
	Key, LastModified, ETag string
	Size                    int64
	StorageClass            string
	Owner                   *owner `xml:",omitempty"`
}

// serveList answers ListObjectsV2. The continuation token is the last key or common prefix, in base64.
func (d *directory) serveList(w http.ResponseWriter, r *http.Request, bucket string) {
	query := r.URL.Query()
	page := gofakes3.ListBucketPage{Marker: query.Get("start-after")}
	maxKeys, encoding := gofakes3.MaxBucketKeys, query.Get("encoding-type")
	if v := query.Get("max-keys"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			writeStoreError(w, http.StatusBadRequest, "InvalidArgument", "Argument maxKeys must be an integer between 0 and 2147483647")
			return
		}
		maxKeys = min(n, maxKeys)
	}
	if encoding != "" && encoding != "url" {
		writeStoreError(w, http.StatusBadRequest, "InvalidArgument", "Invalid Encoding Method specified in Request")
		return
	}
	if token := query.Get("continuation-token"); token != "" {
		marker, err := base64.URLEncoding.DecodeString(token)
		if err != nil {
			writeStoreError(w, http.StatusBadRequest, "InvalidArgument", "The continuation token provided is incorrect")
			return
		}
		page.Marker = string(marker)
	}
	prefix := gofakes3.Prefix{Prefix: query.Get("prefix"), Delimiter: query.Get("delimiter")}
	page.MaxKeys = int64(max(maxKeys, 1))
	found, err := d.ListBucket(r.Context(), bucket, &prefix, page)
	if err != nil {
		writeStoreError(w, http.StatusNotFound, "NoSuchBucket", "")
		return
	}
	if maxKeys == 0 {
		found = gofakes3.NewObjectList()
	}
	encode := func(s string) string { return s }
	if encoding == "url" {
		encode = gofakes3.URLEncode
	}
	list := objectList{Namespace: s3Namespace, Name: bucket, Prefix: encode(prefix.Prefix), Delimiter: encode(prefix.Delimiter),
		StartAfter: encode(query.Get("start-after")), EncodingType: encoding, MaxKeys: maxKeys,
		KeyCount: len(found.Contents) + len(found.CommonPrefixes), IsTruncated: found.IsTruncated, ContinuationToken: query.Get("continuation-token")}
	if found.IsTruncated {
		list.NextContinuationToken = base64.URLEncoding.EncodeToString([]byte(found.NextMarker))
	}
	for _, c := range found.Contents {
		o := listedObject{Key: encode(c.Key), LastModified: c.LastModified.UTC().Format("2006-01-02T15:04:05.000Z"), ETag: c.ETag,
			Size: c.Size, StorageClass: string(c.StorageClass)}
		if query.Get("fetch-owner") == "true" {
			o.Owner = &owner{c.Owner.ID, c.Owner.DisplayName}
		}
		list.Contents = append(list.Contents, o)
	}
	for _, p := range found.CommonPrefixes {
		list.CommonPrefixes = append(list.CommonPrefixes, listedPrefix{encode(p.Prefix)})
	}
	writeStoreXML(w, list)
}
