package gateway

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxKey      = 1024 // bytes of an object key (Amazon S3 User Guide, "Naming Amazon S3 objects")
	minBucket   = 3
	maxBucket   = 63
	maxRawQuery = 16 << 10
)

// s3Request is what a request asks for, taken apart once. Authorization and the request that the store sees are both made
// from it and from nothing else, so that what was authorized is what is touched.
type s3Request struct {
	op      *s3Operation
	bucket  string     // empty for ListBuckets
	key     string     // of the object; empty for operations on buckets
	query   url.Values // without signature parameters; every name occurs once
	header  http.Header
	source  copySource // of copies
	presign bool
}

// copySource is what X-Amz-Copy-Source names.
type copySource struct{ bucket, key, version string }

// header returns the canonical X-Amz-Copy-Source.
func (c copySource) header() string {
	s := escapePath(c.bucket + "/" + c.key)
	if c.version != "" {
		s += "?versionId=" + url.QueryEscape(c.version)
	}
	return s
}

// parseS3Request takes a request apart. Everything that it does not understand is an error: methods, sub-resources, query
// parameters and x-amz- headers alike.
func parseS3Request(r *http.Request) (*s3Request, *s3Error) {
	bucket, key, err := parseTarget(r.Host, r.URL.Path)
	if err != nil {
		return nil, err
	}
	query, fromQuery, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	q := &s3Request{bucket: bucket, key: key, query: query, presign: len(r.Header["Authorization"]) == 0}
	if q.header, err = understoodHeaders(r.Header, fromQuery); err != nil {
		return nil, err
	}
	if q.op, err = findOperation(r.Method, q); err != nil {
		return nil, err
	}
	if q.op.header == headerCopySource {
		if q.source, err = parseCopySource(q.header.Get(headerCopySource)); err != nil {
			return nil, err
		}
		q.header.Set(headerCopySource, q.source.header())
	}
	return q, nil
}

// url returns the path-style URL by which a store is asked. Its path is encoded as S3 encodes.
func (q *s3Request) url() *url.URL {
	u := &url.URL{Path: "/", RawQuery: q.query.Encode()}
	if q.bucket != "" {
		u.Path += q.bucket
	}
	if q.key != "" {
		u.Path += "/" + q.key
	}
	u.RawPath = escapePath(u.Path)
	return u
}

// parseTarget finds bucket and key in the host (virtual-hosted style) or in the path (path style). The path is the
// decoded one: an encoded slash is a slash of the key, and dots and repeated slashes have no meaning (Amazon S3 User Guide,
// "Virtual hosting of buckets").
func parseTarget(host, path string) (bucket, key string, err *s3Error) {
	if !utf8.ValidString(path) || strings.ContainsRune(path, 0) || !strings.HasPrefix(path, "/") {
		return "", "", s3Errorf("InvalidURI", "Couldn't parse the specified URI.")
	}
	bucket, hosted, err := bucketOfHost(host)
	if err != nil {
		return "", "", err
	}
	if key = path[1:]; !hosted {
		bucket, key, _ = strings.Cut(key, "/")
	}
	switch {
	case bucket == "" && key != "":
		return "", "", s3Errorf("InvalidURI", "Couldn't parse the specified URI.")
	case bucket != "" && !validBucket(bucket):
		return "", "", s3Errorf("InvalidBucketName", "The specified bucket is not valid.")
	case len(key) > maxKey:
		return "", "", s3Errorf("KeyTooLongError", "Your key is too long")
	}
	return bucket, key, nil
}

// bucketOfHost returns the bucket of a virtual-hosted-style host: BUCKET.s3.REGION.amazonaws.com, BUCKET.s3.HOST, or
// BUCKET.localhost. Hosts of S3's other APIs are refused, because their paths mean something else.
func bucketOfHost(host string) (bucket string, hosted bool, err *s3Error) {
	host = strings.ToLower(host)
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	if strings.HasSuffix(host, ".localhost") {
		bucket = strings.TrimSuffix(host, ".localhost")
		if bucket = strings.TrimSuffix(bucket, ".s3"); bucket == "s3" {
			return "", false, nil
		}
		return bucket, true, nil
	}
	if strings.Contains(host, ".amazonaws.com") {
		for label := range strings.SplitSeq(host, ".") {
			if strings.HasPrefix(label, "s3-") && !legacyRegionLabel.MatchString(label) || strings.HasPrefix(label, "s3express") {
				return "", false, notImplemented("The host " + host + " belongs to an API of S3 that")
			}
		}
	}
	if i := strings.LastIndex(host, ".s3."); i > 0 {
		return host[:i], true, nil
	}
	if i := strings.LastIndex(host, ".s3-"); i > 0 && strings.Contains(host, ".amazonaws.com") {
		return host[:i], true, nil
	}
	return "", false, nil
}

// legacyRegionLabel matches the s3-REGION hosts of S3's first regions.
var legacyRegionLabel = regexp.MustCompile(`^s3-(us|us-gov|eu|ap|sa|ca|cn)-[a-z]+-[0-9]$`)

// validBucket holds a name to the rules that new buckets have (Amazon S3 User Guide, "Bucket naming rules"), as far as they
// are about characters.
func validBucket(name string) bool {
	if len(name) < minBucket || len(name) > maxBucket || strings.Contains(name, "..") {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case (c == '-' || c == '.') && 0 < i && i < len(name)-1:
		default:
			return false
		}
	}
	return !dottedQuad.MatchString(name)
}

var dottedQuad = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$`)

// signatureParams are the query parameters of presigned requests, spelled as headers, that end with the verification.
var signatureParams = []string{
	"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Signedheaders", "X-Amz-Signature",
	"X-Amz-Security-Token", "X-Amz-Content-Sha256",
}

// parseQuery reads the query strictly: a name may occur once. What presigned requests carry there instead of in x-amz-
// headers is returned apart.
func parseQuery(raw string) (query url.Values, headers http.Header, err *s3Error) {
	if len(raw) > maxRawQuery {
		return nil, nil, s3Errorf("InvalidURI", "The query is longer than %d bytes.", maxRawQuery)
	}
	all, perr := url.ParseQuery(raw)
	if perr != nil {
		return nil, nil, s3Errorf("InvalidURI", "Couldn't parse the specified URI.")
	}
	query, headers = url.Values{}, http.Header{}
	for name, values := range all {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case len(values) != 1:
			return nil, nil, s3Errorf("InvalidArgument", "The query parameter %s occurs more than once.", name)
		case slices.Contains(signatureParams, canonical):
		case strings.HasPrefix(canonical, "X-Amz-"):
			if headers[canonical] != nil {
				return nil, nil, s3Errorf("InvalidArgument", "The query parameter %s occurs more than once.", name)
			}
			headers[canonical] = values
		default:
			query[name] = values
		}
	}
	return query, headers, nil
}

const (
	headerCopySource = "X-Amz-Copy-Source"
	headerTagging    = "X-Amz-Tagging"
	headerACL        = "X-Amz-Acl"
	headerSHA256     = "X-Amz-Content-Sha256"
)

// understood are the request headers that the gateway or the store gives a meaning to. All others that begin with x-amz-
// are refused, and the rest is dropped.
var understood = map[string]bool{
	"Cache-Control": true, "Content-Disposition": true, "Content-Encoding": true, "Content-Language": true, "Content-Md5": true,
	"Content-Type": true, "Expires": true, "Range": true,
	"If-Match": true, "If-None-Match": true, "If-Modified-Since": true, "If-Unmodified-Since": true,

	headerACL: true, headerTagging: true, headerCopySource: true, headerSHA256: true,
	"X-Amz-Checksum-Algorithm": true, "X-Amz-Checksum-Crc32": true, "X-Amz-Checksum-Crc32c": true, "X-Amz-Checksum-Crc64nvme": true,
	"X-Amz-Checksum-Mode": true, "X-Amz-Checksum-Sha1": true, "X-Amz-Checksum-Sha256": true, "X-Amz-Checksum-Type": true,
	"X-Amz-Copy-Source-If-Match": true, "X-Amz-Copy-Source-If-Modified-Since": true, "X-Amz-Copy-Source-If-None-Match": true,
	"X-Amz-Copy-Source-If-Unmodified-Since": true, "X-Amz-Copy-Source-Range": true,
	"X-Amz-Expected-Bucket-Owner": true, "X-Amz-Source-Expected-Bucket-Owner": true,
	"X-Amz-If-Match-Last-Modified-Time": true, "X-Amz-If-Match-Size": true,
	"X-Amz-Max-Parts": true, "X-Amz-Part-Number-Marker": true, "X-Amz-Object-Attributes": true, "X-Amz-Optional-Object-Attributes": true,
	"X-Amz-Metadata-Directive": true, "X-Amz-Tagging-Directive": true, "X-Amz-Mp-Object-Size": true,
	"X-Amz-Object-Ownership": true, "X-Amz-Request-Payer": true, "X-Amz-Sdk-Checksum-Algorithm": true,
	"X-Amz-Server-Side-Encryption": true, "X-Amz-Storage-Class": true, "X-Amz-Website-Redirect-Location": true,
}

// transport are the x-amz- headers that end at the gateway: they are about the signature or the transfer.
var transport = map[string]bool{
	"X-Amz-Date": true, "X-Amz-Security-Token": true, "X-Amz-Decoded-Content-Length": true, "X-Amz-Trailer": true,
	"X-Amz-User-Agent": true,
}

// understoodHeaders returns the headers that matter to the operation, with those that a presigned request has in its query.
func understoodHeaders(in, fromQuery http.Header) (http.Header, *s3Error) {
	out := http.Header{}
	add := func(name string, values []string) *s3Error {
		amz := strings.HasPrefix(name, "X-Amz-")
		switch {
		case transport[name] || !amz && !understood[name]:
			return nil
		case amz && !understood[name] && !strings.HasPrefix(name, "X-Amz-Meta-") && !strings.HasPrefix(name, "X-Amz-Grant-"):
			return notImplemented("The header " + strings.ToLower(name) + " implies functionality that")
		case len(values) != 1 && amz || out[name] != nil:
			return s3Errorf("InvalidArgument", "The header %s occurs more than once.", strings.ToLower(name))
		}
		out[name] = values
		return nil
	}
	for _, headers := range []http.Header{in, fromQuery} {
		for name, values := range headers {
			if err := add(name, values); err != nil {
				return nil, err
			}
		}
	}
	if encodings := out["Content-Encoding"]; encodings != nil {
		setTokens(out, "Content-Encoding", encodings, "aws-chunked")
	}
	return out, nil
}

// setTokens sets a header to the listed tokens without one of them, or removes it when none is left.
func setTokens(h http.Header, name string, lists []string, without string) {
	var kept []string
	for _, list := range lists {
		for token := range strings.SplitSeq(list, ",") {
			if token = strings.TrimSpace(token); token != "" && !strings.EqualFold(token, without) {
				kept = append(kept, token)
			}
		}
	}
	if h.Del(name); kept != nil {
		h.Set(name, strings.Join(kept, ","))
	}
}

// parseCopySource reads X-Amz-Copy-Source: BUCKET/KEY, percent-encoded, perhaps after a slash, perhaps with ?versionId=.
func parseCopySource(v string) (copySource, *s3Error) {
	invalid := s3Errorf("InvalidArgument", "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
	if strings.HasPrefix(v, "arn:") {
		return copySource{}, notImplemented("A copy source that is an access point")
	}
	path, query, versioned := strings.Cut(v, "?")
	var c copySource
	if versioned {
		version, ok := strings.CutPrefix(query, "versionId=")
		var err error
		if c.version, err = url.QueryUnescape(version); !ok || err != nil || c.version == "" {
			return copySource{}, invalid
		}
	}
	path, err := url.QueryUnescape(path)
	if err != nil {
		return copySource{}, invalid
	}
	var serr *s3Error
	if c.bucket, c.key, serr = parseTarget("", "/"+strings.TrimPrefix(path, "/")); serr != nil {
		return copySource{}, serr
	}
	if c.bucket == "" || c.key == "" {
		return copySource{}, invalid
	}
	return c, nil
}

// escapePath encodes a path as S3 clients do: all but unreserved characters and slashes (RFC 3986 section 2.3).
func escapePath(path string) string {
	const upperHex = "0123456789ABCDEF"
	b := make([]byte, 0, len(path)+16)
	for i := range len(path) {
		switch c := path[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~/", c) >= 0:
			b = append(b, c)
		default:
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return string(b)
}
