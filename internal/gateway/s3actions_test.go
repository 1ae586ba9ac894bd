package gateway

import (
	"bufio"
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// plan says what a request is, and what it needs: "Operation: action resource key=value, action resource".
func plan(method, host, target string, headers ...string) string {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return err.Error()
	}
	r := &http.Request{Method: method, Host: host, URL: u, Header: http.Header{"Authorization": {"AWS4-HMAC-SHA256"}}}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	q, refused := parseS3Request(r)
	if refused != nil {
		return refused.code
	}
	needs, refused := q.permissions(nil, "")
	if refused != nil {
		return refused.code
	}
	var all []string
	for _, p := range needs {
		text := p.action + " " + p.resource("aws")
		var keys []string
		for k, v := range p.single {
			if k != "s3:authType" && k != "s3:signatureversion" {
				keys = append(keys, strings.TrimPrefix(k, "s3:")+"="+v)
			}
		}
		slices.Sort(keys)
		all = append(all, strings.Join(append([]string{text}, keys...), " "))
	}
	return q.op.name + ": " + strings.Join(all, ", ")
}

func TestWhatRequestsNeed(t *testing.T) {
	t.Parallel()
	const path = "s3.us-east-1.amazonaws.com"
	tests := []struct {
		method, host, target string
		headers              []string
		want                 string
	}{
		{"GET", path, "/", nil, "ListBuckets: s3:ListAllMyBuckets arn:aws:s3:::*"},
		{"GET", path, "/?x-id=ListBuckets", nil, "ListBuckets: s3:ListAllMyBuckets arn:aws:s3:::*"},
		{"PUT", path, "/", nil, "MethodNotAllowed"},
		{"PUT", path, "/bkt", nil, "CreateBucket: s3:CreateBucket arn:aws:s3:::bkt"},
		{"PUT", path, "/bkt/", nil, "CreateBucket: s3:CreateBucket arn:aws:s3:::bkt"},
		{"PUT", path, "/bkt", []string{"X-Amz-Acl", "private"},
			"CreateBucket: s3:CreateBucket arn:aws:s3:::bkt x-amz-acl=private, s3:PutBucketAcl arn:aws:s3:::bkt x-amz-acl=private"},
		{"PUT", "bkt.s3.us-east-1.amazonaws.com", "/", nil, "CreateBucket: s3:CreateBucket arn:aws:s3:::bkt"},
		{"HEAD", path, "/bkt", nil, "HeadBucket: s3:ListBucket arn:aws:s3:::bkt"},
		{"DELETE", path, "/bkt", nil, "DeleteBucket: s3:DeleteBucket arn:aws:s3:::bkt"},
		{"GET", path, "/bkt", nil, "ListObjects: s3:ListBucket arn:aws:s3:::bkt"},
		{"GET", path, "/bkt?list-type=2&prefix=a%2F&delimiter=%2F&max-keys=7", nil, "ListObjects: s3:ListBucket arn:aws:s3:::bkt delimiter=/ max-keys=7 prefix=a/"},
		{"GET", path, "/bkt?versions&prefix=", nil, "ListObjectVersions: s3:ListBucketVersions arn:aws:s3:::bkt prefix="},
		{"GET", path, "/bkt?uploads&prefix=a", nil, "ListMultipartUploads: s3:ListBucketMultipartUploads arn:aws:s3:::bkt"},
		{"GET", path, "/bkt?location", nil, "GetBucketLocation: s3:GetBucketLocation arn:aws:s3:::bkt"},
		{"GET", path, "/bkt?policy", nil, "GetBucketPolicy: s3:GetBucketPolicy arn:aws:s3:::bkt"},
		{"DELETE", path, "/bkt?policy", nil, "DeleteBucketPolicy: s3:DeleteBucketPolicy arn:aws:s3:::bkt"},
		{"PUT", path, "/bkt?cors", nil, "PutBucketCors: s3:PutBucketCORS arn:aws:s3:::bkt"},
		{"DELETE", path, "/bkt?lifecycle", nil, "DeleteBucketLifecycleConfiguration: s3:PutLifecycleConfiguration arn:aws:s3:::bkt"},
		{"GET", path, "/bkt?encryption", nil, "GetBucketEncryption: s3:GetEncryptionConfiguration arn:aws:s3:::bkt"},
		{"DELETE", path, "/bkt?versioning", nil, "MethodNotAllowed"},
		{"POST", path, "/bkt?delete", nil, "DeleteObjects: "},
		{"GET", path, "/bkt/a/b", nil, "GetObject: s3:GetObject arn:aws:s3:::bkt/a/b"},
		{"GET", "bkt.s3.us-east-1.amazonaws.com", "/a/b", nil, "GetObject: s3:GetObject arn:aws:s3:::bkt/a/b"},
		{"GET", "my.dotted.bkt.s3.us-east-1.amazonaws.com", "/a", nil, "GetObject: s3:GetObject arn:aws:s3:::my.dotted.bkt/a"},
		{"GET", path, "/bkt/a?versionId=v1", nil, "GetObject: s3:GetObjectVersion arn:aws:s3:::bkt/a VersionId=v1"},
		{"HEAD", path, "/bkt/a", nil, "HeadObject: s3:GetObject arn:aws:s3:::bkt/a"},
		{"GET", path, "/bkt/a?attributes", nil, "GetObjectAttributes: s3:GetObjectAttributes arn:aws:s3:::bkt/a, s3:GetObject arn:aws:s3:::bkt/a"},
		{"PUT", path, "/bkt/a", []string{"X-Amz-Storage-Class", "GLACIER"}, "PutObject: s3:PutObject arn:aws:s3:::bkt/a x-amz-storage-class=GLACIER"},
		{"PUT", path, "/bkt/a", []string{"X-Amz-Tagging", "k=v&l="},
			"PutObject: s3:PutObject arn:aws:s3:::bkt/a RequestObjectTag/k=v RequestObjectTag/l=, s3:PutObjectTagging arn:aws:s3:::bkt/a RequestObjectTag/k=v RequestObjectTag/l="},
		{"PUT", path, "/bkt/a?x-amz-acl=private", nil,
			"PutObject: s3:PutObject arn:aws:s3:::bkt/a x-amz-acl=private, s3:PutObjectAcl arn:aws:s3:::bkt/a x-amz-acl=private"},
		{"PUT", path, "/bkt/a?x-amz-acl=private", []string{"X-Amz-Acl", "public-read"}, "InvalidArgument"},
		{"PUT", path, "/bkt/a", []string{"X-Amz-Tagging", "k=v&k=w"}, "InvalidTag"},
		{"PUT", path, "/bkt/a", []string{"X-Amz-Copy-Source", "/src/b%2Fc%20d"},
			"CopyObject: s3:PutObject arn:aws:s3:::bkt/a x-amz-copy-source=src/b/c d, s3:GetObject arn:aws:s3:::src/b/c d x-amz-copy-source=src/b/c d"},
		{"PUT", path, "/bkt/a", []string{"X-Amz-Copy-Source", "src/b?versionId=v%2F1"},
			"CopyObject: s3:PutObject arn:aws:s3:::bkt/a x-amz-copy-source=src/b, s3:GetObjectVersion arn:aws:s3:::src/b VersionId=v/1 x-amz-copy-source=src/b"},
		{"DELETE", path, "/bkt/a", nil, "DeleteObject: s3:DeleteObject arn:aws:s3:::bkt/a"},
		{"DELETE", path, "/bkt/a?versionId=v1", nil, "DeleteObject: s3:DeleteObjectVersion arn:aws:s3:::bkt/a VersionId=v1"},
		{"POST", path, "/bkt/a?uploads", nil, "CreateMultipartUpload: s3:PutObject arn:aws:s3:::bkt/a"},
		{"PUT", path, "/bkt/a?uploadId=u&partNumber=1", nil, "UploadPart: s3:PutObject arn:aws:s3:::bkt/a"},
		{"PUT", path, "/bkt/a?uploadId=u&partNumber=1", []string{"X-Amz-Copy-Source", "src/b"},
			"UploadPartCopy: s3:PutObject arn:aws:s3:::bkt/a x-amz-copy-source=src/b, s3:GetObject arn:aws:s3:::src/b x-amz-copy-source=src/b"},
		{"POST", path, "/bkt/a?uploadId=u", nil, "CompleteMultipartUpload: s3:PutObject arn:aws:s3:::bkt/a"},
		{"DELETE", path, "/bkt/a?uploadId=u", nil, "AbortMultipartUpload: s3:AbortMultipartUpload arn:aws:s3:::bkt/a"},
		{"DELETE", path, "/bkt/a?uploadId=", nil, "NoSuchUpload"},
		{"GET", path, "/bkt/a?uploadId=u", nil, "ListParts: s3:ListMultipartUploadParts arn:aws:s3:::bkt/a"},
		{"GET", path, "/bkt/a?tagging", nil, "GetObjectTagging: s3:GetObjectTagging arn:aws:s3:::bkt/a"},
		{"DELETE", path, "/bkt/a?tagging&versionId=v1", nil, "DeleteObjectTagging: s3:DeleteObjectVersionTagging arn:aws:s3:::bkt/a VersionId=v1"},
		{"PUT", path, "/bkt/a?acl", nil, "PutObjectAcl: s3:PutObjectAcl arn:aws:s3:::bkt/a"},
		{"GET", path, "/bkt/a?tagging", []string{"X-Amz-Copy-Source", "src/b"}, "InvalidArgument"},

		// The ARN has the key as it is.
		{"GET", path, "/bkt/a%2Fb", nil, "GetObject: s3:GetObject arn:aws:s3:::bkt/a/b"},
		{"GET", path, "/bkt/a%252Fb", nil, "GetObject: s3:GetObject arn:aws:s3:::bkt/a%2Fb"},
		{"GET", path, "/bkt%2Fa", nil, "GetObject: s3:GetObject arn:aws:s3:::bkt/a"},
		{"GET", path, "/bkt/a/../b", nil, "GetObject: s3:GetObject arn:aws:s3:::bkt/a/../b"},
		{"GET", path, "/bkt/../src/b", nil, "GetObject: s3:GetObject arn:aws:s3:::bkt/../src/b"},
		{"GET", path, "/bkt//a", nil, "GetObject: s3:GetObject arn:aws:s3:::bkt//a"},
		{"GET", path, "/bkt/a+b", nil, "GetObject: s3:GetObject arn:aws:s3:::bkt/a+b"},
		{"GET", path, "//bkt/a", nil, "InvalidURI"},
		{"GET", path, "/../bkt/a", nil, "InvalidBucketName"},
		{"GET", path, "/BKT/a", nil, "InvalidBucketName"},
		{"GET", path, "/192.168.1.1/a", nil, "InvalidBucketName"},
		{"GET", path, "/bkt/a%00", nil, "InvalidURI"},
		{"GET", path, "/bkt/%C0%AF", nil, "InvalidURI"},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, plan(tt.method, tt.host, tt.target, tt.headers...)); diff != "" {
			t.Errorf("%s %s%s %q (-want +got):\n%s", tt.method, tt.host, tt.target, tt.headers, diff)
		}
	}
}

// Every operation has its row once, and each that can be reached by its row is.
func TestOperationsAreDistinct(t *testing.T) {
	t.Parallel()
	for i, a := range s3Operations {
		for _, b := range s3Operations[i+1:] {
			if a.on == b.on && a.method == b.method && a.sub == b.sub && a.header == b.header {
				t.Errorf("%s and %s are the same", a.name, b.name)
			}
		}
		if (a.action == "") != (a.body == deleteBody) {
			t.Errorf("%s needs an action", a.name)
		}
	}
}

// What is authorized is what the store finds in the request that it gets.
func FuzzAuthorizedIsTouched(f *testing.F) {
	for _, seed := range []struct{ method, host, target, source string }{
		{"GET", "s3.amazonaws.com", "/bkt/a/b", ""}, {"PUT", "bkt.localhost:80", "/a%2F..%2Fb?x-id=PutObject", ""},
		{"PUT", "h", "/bkt/a//b", "src/%2e%2e/x?versionId=1"}, {"DELETE", "h", "/bkt/a%3Ftagging", ""}, {"GET", "h", "/bkt/a?tagging&versionId=%2B", ""},
		{"POST", "h", "/bkt?delete", ""}, {"GET", "h", "/bkt/%25%32%65", "/src/a+b"}, {"GET", "b.s3.s3.x", "//a", ""},
	} {
		f.Add(seed.method, seed.host, seed.target, seed.source)
	}
	f.Fuzz(func(t *testing.T, method, host, target, source string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" || u.Opaque != "" {
			return
		}
		in := &http.Request{Method: method, Host: host, URL: u, Header: http.Header{}}
		if source != "" {
			in.Header.Set(headerCopySource, source)
		}
		q, refused := parseS3Request(in)
		if refused != nil {
			return
		}
		// The request goes over a wire, as it does to an upstream.
		var wire bytes.Buffer
		wire.WriteString(q.op.method + " " + q.url().RequestURI() + " HTTP/1.1\r\nHost: store\r\n")
		if v := q.header.Get(headerCopySource); v != "" {
			wire.WriteString(headerCopySource + ": " + v + "\r\n")
		}
		wire.WriteString("\r\n")
		out, err := http.ReadRequest(bufio.NewReader(&wire))
		if err != nil {
			t.Fatalf("%s %s: the store cannot read it: %v", method, target, err)
		}
		bucket, key, _ := strings.Cut(strings.TrimPrefix(out.URL.Path, "/"), "/")
		if bucket != q.bucket || key != q.key {
			t.Errorf("%s %s %s: authorized %q %q, touched %q %q", method, host, target, q.bucket, q.key, bucket, key)
		}
		again, refused := parseS3Request(out)
		if refused != nil {
			t.Fatalf("%s %s: not understood a second time: %v", method, target, refused)
		}
		if again.op != q.op || again.bucket != q.bucket || again.key != q.key || again.source != q.source || !cmp.Equal(again.query, q.query) {
			t.Errorf("%s %s: authorized %+v, touched %+v", method, target, q, again)
		}
		needs, _ := q.permissions(nil, "")
		if len(needs) > 0 && q.key != "" && needs[0].resource("aws") != "arn:aws:s3:::"+bucket+"/"+key {
			t.Errorf("%s %s: authorized %s", method, target, needs[0].resource("aws"))
		}
		if strings.ContainsRune(q.key, 0) || len(q.key) > maxKey || strings.Contains(q.bucket, "/") {
			t.Errorf("%s %s: key %q of bucket %q", method, target, q.key, q.bucket)
		}
	})
}
