package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/gateway"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestObjectsComeBackAsTheyWerePut(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, store http.Handler) {
		c := client(serve(t, store, alice), alice)
		mustCreate(t, c, "photos")
		key := "2026/summer trip+ü/a&b.jpg"
		put, err := c.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: aws.String("photos"), Key: &key, Body: strings.NewReader("hello"), ContentType: aws.String("image/jpeg"),
			CacheControl: aws.String("no-store"), Metadata: map[string]string{"camera": "x1"}, Tagging: aws.String("year=2026&who=me"),
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("photos"), Key: &key})
		if err != nil {
			t.Fatal(err)
		}
		defer got.Body.Close()
		content, err := io.ReadAll(got.Body)
		if err != nil {
			t.Fatal(err)
		}
		type seen struct {
			Content, ContentType, CacheControl, ETag string
			Length                                   int64
			Metadata                                 map[string]string
			Tags                                     int32
		}
		want := seen{"hello", "image/jpeg", "no-store", `"5d41402abc4b2a76b9719d911017c592"`, 5, map[string]string{"camera": "x1"}, 2}
		have := seen{string(content), aws.ToString(got.ContentType), aws.ToString(got.CacheControl), aws.ToString(got.ETag),
			aws.ToInt64(got.ContentLength), got.Metadata, aws.ToInt32(got.TagCount)}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("GetObject (-want +got):\n%s", diff)
		}
		if aws.ToString(put.ETag) != want.ETag {
			t.Errorf("PutObject ETag %s, want %s", aws.ToString(put.ETag), want.ETag)
		}

		ranged, err := c.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("photos"), Key: &key, Range: aws.String("bytes=1-3")})
		if err != nil {
			t.Fatal(err)
		}
		defer ranged.Body.Close()
		if b, err := io.ReadAll(ranged.Body); err != nil || string(b) != "ell" || aws.ToString(ranged.ContentRange) != "bytes 1-3/5" {
			t.Errorf("range: %q %v %s", b, err, aws.ToString(ranged.ContentRange))
		}
		head, err := c.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String("photos"), Key: &key})
		if err != nil || aws.ToInt64(head.ContentLength) != 5 || head.Metadata["camera"] != "x1" {
			t.Errorf("HeadObject: %v %v", head, err)
		}

		source := "photos/2026/summer%20trip%2B%C3%BC/a%26b.jpg"
		if _, err := c.CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: aws.String("photos"), Key: aws.String("copy"), CopySource: &source}); err != nil {
			t.Fatal(err)
		}
		tags, err := c.GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: aws.String("photos"), Key: aws.String("copy")})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{"year": "2026", "who": "me"}, tagMap(tags.TagSet)); diff != "" {
			t.Errorf("tags of the copy (-want +got):\n%s", diff)
		}
		_, err = c.PutObjectTagging(t.Context(), &s3.PutObjectTaggingInput{Bucket: aws.String("photos"), Key: aws.String("copy"),
			Tagging: &types.Tagging{TagSet: []types.Tag{{Key: aws.String("a<b"), Value: aws.String("c&d")}}}})
		if err != nil {
			t.Fatal(err)
		}
		if tags, err = c.GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: aws.String("photos"), Key: aws.String("copy")}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{"a<b": "c&d"}, tagMap(tags.TagSet)); diff != "" {
			t.Errorf("changed tags (-want +got):\n%s", diff)
		}

		if _, err := c.DeleteBucket(t.Context(), &s3.DeleteBucketInput{Bucket: aws.String("photos")}); code(err) != "BucketNotEmpty" {
			t.Errorf("delete a bucket that is not empty: %v", err)
		}
		deleted, err := c.DeleteObjects(t.Context(), &s3.DeleteObjectsInput{Bucket: aws.String("photos"), Delete: &types.Delete{
			Objects: []types.ObjectIdentifier{{Key: &key}, {Key: aws.String("never was")}},
		}})
		if err != nil || len(deleted.Deleted) != 2 || len(deleted.Errors) != 0 {
			t.Errorf("DeleteObjects: %+v %v", deleted, err)
		}
		if _, err := c.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String("photos"), Key: aws.String("copy")}); err != nil {
			t.Error(err)
		}
		if _, err := c.DeleteBucket(t.Context(), &s3.DeleteBucketInput{Bucket: aws.String("photos")}); err != nil {
			t.Error(err)
		}
		if _, err := c.HeadBucket(t.Context(), &s3.HeadBucketInput{Bucket: aws.String("photos")}); code(err) != "NotFound" {
			t.Errorf("HeadBucket after DeleteBucket: %v", err)
		}
	})
}

func tagMap(set []types.Tag) map[string]string {
	m := map[string]string{}
	for _, t := range set {
		m[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return m
}

func TestMultipartUpload(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, store http.Handler) {
		c := client(serve(t, store, alice), alice)
		mustCreate(t, c, "big-things")
		bucket, key := aws.String("big-things"), aws.String("film.mkv")
		begun, err := c.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: bucket, Key: key, ContentType: aws.String("video/x-matroska")})
		if err != nil {
			t.Fatal(err)
		}
		content := [][]byte{repeated('a', 5<<20), repeated('b', 7)}
		var parts []types.CompletedPart
		for i, b := range content {
			number := aws.Int32(int32(i + 1))
			out, err := c.UploadPart(t.Context(), &s3.UploadPartInput{Bucket: bucket, Key: key, UploadId: begun.UploadId, PartNumber: number, Body: bytes.NewReader(b)})
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, types.CompletedPart{PartNumber: number, ETag: out.ETag})
		}
		listed, err := c.ListParts(t.Context(), &s3.ListPartsInput{Bucket: bucket, Key: key, UploadId: begun.UploadId})
		if err != nil || len(listed.Parts) != 2 {
			t.Errorf("ListParts: %+v %v", listed, err)
		}
		uploads, err := c.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: bucket})
		if err != nil || len(uploads.Uploads) != 1 {
			t.Errorf("ListMultipartUploads: %+v %v", uploads, err)
		}
		swapped := []types.CompletedPart{parts[1], parts[0]}
		complete := func(parts []types.CompletedPart) error {
			_, err := c.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{
				Bucket: bucket, Key: key, UploadId: begun.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}})
			return err
		}
		if err := complete(swapped); code(err) != "InvalidPartOrder" {
			t.Errorf("parts out of order: %v", err)
		}
		if err := complete(parts); err != nil {
			t.Fatal(err)
		}
		got, err := get(t, c, "big-things", "film.mkv")
		if want := string(slices.Concat(content...)); err != nil || got != want {
			t.Errorf("read back %d bytes, want %d: %v", len(got), len(want), err)
		}
		head, err := c.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: bucket, Key: key})
		if err != nil || aws.ToString(head.ContentType) != "video/x-matroska" {
			t.Errorf("HeadObject: %+v %v", head, err)
		}

		begun, err = c.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: bucket, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: bucket, Key: key, UploadId: begun.UploadId}); err != nil {
			t.Error(err)
		}
		if err := complete(parts); code(err) != "NoSuchUpload" {
			t.Errorf("complete an aborted upload: %v", err)
		}
	})
}

func TestListings(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, store http.Handler) {
		c := client(serve(t, store, alice), alice)
		mustCreate(t, c, "shelf")
		for _, key := range []string{"a", "a/1", "a/2", "a/b/3", "b", "c/", "c/4", "ä"} {
			mustPut(t, c, "shelf", key, "x")
		}
		tests := []struct {
			name         string
			in           s3.ListObjectsV2Input
			keys, common []string
		}{
			{"everything, in byte order", s3.ListObjectsV2Input{}, []string{"a", "a/1", "a/2", "a/b/3", "b", "c/", "c/4", "ä"}, nil},
			{"by a prefix", s3.ListObjectsV2Input{Prefix: aws.String("a/")}, []string{"a/1", "a/2", "a/b/3"}, nil},
			{"one level", s3.ListObjectsV2Input{Delimiter: aws.String("/")}, []string{"a", "b", "ä"}, []string{"a/", "c/"}},
			{"one level below a prefix", s3.ListObjectsV2Input{Prefix: aws.String("a/"), Delimiter: aws.String("/")}, []string{"a/1", "a/2"}, []string{"a/b/"}},
			{"a prefix that ends in a name", s3.ListObjectsV2Input{Prefix: aws.String("a"), Delimiter: aws.String("/")}, []string{"a"}, []string{"a/"}},
			{"after a key", s3.ListObjectsV2Input{StartAfter: aws.String("a/b/3")}, []string{"b", "c/", "c/4", "ä"}, nil},
			{"after a key before the prefix", s3.ListObjectsV2Input{StartAfter: aws.String("a"), Prefix: aws.String("c")}, []string{"c/", "c/4"}, nil},
			{"what does not exist", s3.ListObjectsV2Input{Prefix: aws.String("zzz")}, nil, nil},
		}
		for _, tt := range tests {
			for _, size := range []int32{0, 1, 2, 3} {
				in := tt.in
				in.Bucket = aws.String("shelf")
				if size > 0 {
					in.MaxKeys = &size
				}
				var keys, common []string
				pages := s3.NewListObjectsV2Paginator(c, &in)
				for pages.HasMorePages() {
					page, err := pages.NextPage(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if got := int32(len(page.Contents) + len(page.CommonPrefixes)); size > 0 && got > size {
						t.Errorf("%s: page of %d, want at most %d", tt.name, got, size)
					}
					for _, o := range page.Contents {
						keys = append(keys, aws.ToString(o.Key))
					}
					for _, p := range page.CommonPrefixes {
						common = append(common, aws.ToString(p.Prefix))
					}
				}
				if diff := cmp.Diff([][]string{tt.keys, tt.common}, [][]string{keys, common}); diff != "" {
					t.Errorf("%s, %d a page (-want +got):\n%s", tt.name, size, diff)
				}
			}
		}
		v1, err := c.ListObjects(t.Context(), &s3.ListObjectsInput{Bucket: aws.String("shelf"), Delimiter: aws.String("/"), MaxKeys: aws.Int32(2)})
		if err != nil || len(v1.Contents) != 1 || len(v1.CommonPrefixes) != 1 || aws.ToString(v1.NextMarker) != "a/" {
			t.Errorf("version 1: %+v %v", v1, err)
		}
		buckets, err := c.ListBuckets(t.Context(), &s3.ListBucketsInput{})
		if err != nil || len(buckets.Buckets) != 1 || aws.ToString(buckets.Buckets[0].Name) != "shelf" || buckets.Buckets[0].CreationDate.IsZero() {
			t.Errorf("ListBuckets: %+v %v", buckets, err)
		}
		where, err := c.GetBucketLocation(t.Context(), &s3.GetBucketLocationInput{Bucket: aws.String("shelf")})
		if err != nil || where.LocationConstraint != "" {
			t.Errorf("GetBucketLocation: %+v %v", where, err)
		}
	})
}

func TestPermissionsAreAsked(t *testing.T) {
	t.Parallel()
	store := openDirectory(t, t.TempDir())
	c := client(serve(t, store, alice), alice)
	mustCreate(t, c, "data")
	mustPut(t, c, "data", "team/a", "1")
	mustPut(t, c, "data", "other/b", "2")
	if _, err := c.PutObjectTagging(t.Context(), &s3.PutObjectTaggingInput{Bucket: aws.String("data"), Key: aws.String("other/b"),
		Tagging: &types.Tagging{TagSet: []types.Tag{{Key: aws.String("level"), Value: aws.String("open")}}}}); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	bucket := aws.String("data")
	getKey := func(key string) func(*s3.Client) error {
		return func(c *s3.Client) error { _, err := get(t, c, "data", key); return err }
	}
	list := func(prefix string) func(*s3.Client) error {
		return func(c *s3.Client) error {
			_, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: bucket, Prefix: &prefix})
			return err
		}
	}
	put := func(key string, change func(*s3.PutObjectInput)) func(*s3.Client) error {
		return func(c *s3.Client) error {
			in := &s3.PutObjectInput{Bucket: bucket, Key: &key, Body: strings.NewReader("x")}
			if change != nil {
				change(in)
			}
			_, err := c.PutObject(ctx, in)
			return err
		}
	}
	copyKey := func(from, to string) func(*s3.Client) error {
		return func(c *s3.Client) error {
			_, err := c.CopyObject(ctx, &s3.CopyObjectInput{Bucket: bucket, Key: &to, CopySource: aws.String("data/" + from)})
			return err
		}
	}
	condition := func(action, resource, cond string) user {
		return user{accountA, "carol", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"` + action + `","Resource":"` + resource + `","Condition":` + cond + `}]}`}
	}
	tests := []struct {
		name string
		who  user
		do   func(*s3.Client) error
		want string // the action and resource that are missing; empty when allowed
	}{
		{"read what is allowed", allowing("s3:GetObject", "arn:aws:s3:::data/team/*"), getKey("team/a"), ""},
		{"read what is not", allowing("s3:GetObject", "arn:aws:s3:::data/team/*"), getKey("other/b"), `s3:GetObject on resource: "arn:aws:s3:::data/other/b"`},
		{"read with dots in the key", allowing("s3:GetObject", "arn:aws:s3:::data/team/*"), getKey("team/../other/b"), `s3:ListBucket on resource: "arn:aws:s3:::data"`},
		{"a missing object is hidden from who may not list", allowing("s3:GetObject", "*"), getKey("team/none"), `s3:ListBucket on resource: "arn:aws:s3:::data"`},
		{"a missing object is missing for who may list", allowing("s3:GetObject s3:ListBucket", "*"), getKey("team/none"), "NoSuchKey"},
		{"list with an allowed prefix", condition("s3:ListBucket", "arn:aws:s3:::data", `{"StringLike":{"s3:prefix":"team/*"}}`), list("team/"), ""},
		{"list with another prefix", condition("s3:ListBucket", "arn:aws:s3:::data", `{"StringLike":{"s3:prefix":"team/*"}}`), list("other/"), `s3:ListBucket on resource: "arn:aws:s3:::data"`},
		{"write", allowing("s3:PutObject", "arn:aws:s3:::data/*"), put("new", nil), ""},
		{"write with tags needs their permission", allowing("s3:PutObject", "arn:aws:s3:::data/*"),
			put("new", func(in *s3.PutObjectInput) { in.Tagging = aws.String("a=b") }), `s3:PutObjectTagging on resource: "arn:aws:s3:::data/new"`},
		{"write with a required tag", condition("s3:PutObject*", "*", `{"StringEquals":{"s3:RequestObjectTag/a":"b"}}`),
			put("new", func(in *s3.PutObjectInput) { in.Tagging = aws.String("a=b") }), ""},
		{"write with another tag", condition("s3:PutObject*", "*", `{"StringEquals":{"s3:RequestObjectTag/a":"b"}}`),
			put("new", func(in *s3.PutObjectInput) { in.Tagging = aws.String("a=c") }), `s3:PutObject on resource: "arn:aws:s3:::data/new"`},
		{"write with a list needs its permission", allowing("s3:PutObject", "*"),
			put("new", func(in *s3.PutObjectInput) { in.ACL = types.ObjectCannedACLPrivate }), `s3:PutObjectAcl on resource: "arn:aws:s3:::data/new"`},
		{"a list that grants is not taken", allowing("s3:*", "*"),
			put("new", func(in *s3.PutObjectInput) { in.ACL = types.ObjectCannedACLPublicRead }), "AccessControlListNotSupported"},
		{"copy", allowing("s3:GetObject s3:PutObject", "arn:aws:s3:::data/*"), copyKey("team/a", "copy"), ""},
		{"copy from where it may not read", allowing("s3:PutObject", "*"), copyKey("team/a", "copy"), `s3:GetObject on resource: "arn:aws:s3:::data/team/a"`},
		{"copy to where it may not write", allowing("s3:GetObject", "*"), copyKey("team/a", "copy"), `s3:PutObject on resource: "arn:aws:s3:::data/copy"`},
		{"copy tags along", allowing("s3:GetObject s3:PutObject", "*"), copyKey("other/b", "copy"), `s3:GetObjectTagging on resource: "arn:aws:s3:::data/other/b"`},
		{"read by a tag of the object", condition("s3:GetObject", "*", `{"StringEquals":{"s3:ExistingObjectTag/level":"open"}}`), getKey("other/b"), ""},
		{"read without the tag", condition("s3:GetObject", "*", `{"StringEquals":{"s3:ExistingObjectTag/level":"open"}}`), getKey("team/a"),
			`s3:GetObject on resource: "arn:aws:s3:::data/team/a"`},
		{"list buckets", allowing("s3:ListAllMyBuckets", "arn:aws:s3:::*"), func(c *s3.Client) error { _, err := c.ListBuckets(ctx, nil); return err }, ""},
		{"list buckets without", allowing("s3:GetObject", "*"), func(c *s3.Client) error { _, err := c.ListBuckets(ctx, nil); return err }, "s3:ListAllMyBuckets"},
		{"make a bucket without", allowing("s3:GetObject", "*"), func(c *s3.Client) error {
			_, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("mine")})
			return err
		}, `s3:CreateBucket on resource: "arn:aws:s3:::mine"`},
		{"change a policy, which is not served", allowing("s3:*", "*"), func(c *s3.Client) error {
			_, err := c.PutBucketPolicy(ctx, &s3.PutBucketPolicyInput{Bucket: bucket, Policy: aws.String("{}")})
			return err
		}, "NotImplemented"},
		{"change a policy without permission", allowing("s3:GetObject", "*"), func(c *s3.Client) error {
			_, err := c.PutBucketPolicy(ctx, &s3.PutBucketPolicyInput{Bucket: bucket, Policy: aws.String("{}")})
			return err
		}, `s3:PutBucketPolicy on resource: "arn:aws:s3:::data"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			authenticator, authorize := iam(t, tt.who)
			server := httptest.NewServer(gateway.NewS3(gateway.Config{Authenticator: authenticator, Authorize: authorize, Store: store, Log: testLog(t)}))
			defer server.Close()
			err := tt.do(client(server, tt.who))
			if !strings.Contains(tt.want, ":") {
				if code(err) != tt.want {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				return
			}
			action, _, _ := strings.Cut(tt.want, " ")
			want := "User: " + tt.who.arn() + " is not authorized to perform: " + tt.want + " because no identity-based policy allows the " + action + " action"
			if code(err) != "AccessDenied" || message(err) != want {
				t.Errorf("got  %s: %s\nwant AccessDenied: %s", code(err), message(err), want)
			}
		})
	}
}

func TestMultiDeleteDecidesOnEachObject(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, store http.Handler) {
		carol := allowing("s3:DeleteObject", "arn:aws:s3:::data/mine/*")
		server := serve(t, store, alice, carol)
		c := client(server, alice)
		mustCreate(t, c, "data")
		mustPut(t, c, "data", "mine/1", "x")
		mustPut(t, c, "data", "yours/2", "x")
		out, err := client(server, carol).DeleteObjects(t.Context(), &s3.DeleteObjectsInput{Bucket: aws.String("data"), Delete: &types.Delete{
			Objects: []types.ObjectIdentifier{{Key: aws.String("mine/1")}, {Key: aws.String("yours/2")}}}})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Deleted) != 1 || aws.ToString(out.Deleted[0].Key) != "mine/1" {
			t.Errorf("deleted %+v, want mine/1", out.Deleted)
		}
		if len(out.Errors) != 1 || aws.ToString(out.Errors[0].Key) != "yours/2" || aws.ToString(out.Errors[0].Code) != "AccessDenied" {
			t.Errorf("errors %+v, want AccessDenied for yours/2", out.Errors)
		}
		if diff := cmp.Diff([]string{"yours/2"}, keysOf(t, c, "data")); diff != "" {
			t.Errorf("what is left (-want +got):\n%s", diff)
		}
		many := `<Delete>` + strings.Repeat(`<Object><Key>k</Key></Object>`, 1001) + `</Delete>`
		status, _, body := ask(t, server, alice, "POST", "/data?delete", many, nil)
		if e := parseError(t, body); status != 400 || e.Code != "MalformedXML" {
			t.Errorf("1001 keys: %d %s", status, e.Code)
		}
	})
}

func TestBucketsBelongToTheAccountThatMadeThem(t *testing.T) {
	t.Parallel()
	server := serve(t, openDirectory(t, t.TempDir()), alice, bob)
	a, b := client(server, alice), client(server, bob)
	mustCreate(t, a, "of-alice")
	mustCreate(t, b, "of-bob")
	mustPut(t, a, "of-alice", "k", "secret")
	mustPut(t, b, "of-bob", "k", "bob's")

	if _, err := get(t, b, "of-alice", "k"); code(err) != "AccessDenied" || message(err) != "Access Denied" {
		t.Errorf("another account reads: %v", err)
	}
	_, err := b.CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: aws.String("of-bob"), Key: aws.String("stolen"), CopySource: aws.String("of-alice/k")})
	if code(err) != "AccessDenied" {
		t.Errorf("another account copies: %v", err)
	}
	for _, tt := range []struct {
		who    *s3.Client
		bucket string
		want   string
	}{{a, "of-alice", "BucketAlreadyOwnedByYou"}, {b, "of-alice", "BucketAlreadyExists"}, {a, "of-bob", "BucketAlreadyExists"}} {
		if _, err := tt.who.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &tt.bucket}); code(err) != tt.want {
			t.Errorf("create %s: got %v, want %s", tt.bucket, err, tt.want)
		}
	}
	for _, tt := range []struct {
		who  *s3.Client
		want string
	}{{a, "of-alice"}, {b, "of-bob"}} {
		out, err := tt.who.ListBuckets(t.Context(), nil)
		if err != nil || len(out.Buckets) != 1 || aws.ToString(out.Buckets[0].Name) != tt.want {
			t.Errorf("ListBuckets: %+v %v, want %s", out, err, tt.want)
		}
	}
	_, err = a.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("of-alice"), Key: aws.String("k"), ExpectedBucketOwner: aws.String(accountB)})
	if code(err) != "AccessDenied" {
		t.Errorf("another owner was expected: %v", err)
	}
	if out, err := a.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("of-alice"), Key: aws.String("k"), ExpectedBucketOwner: aws.String(accountA)}); err != nil {
		t.Errorf("the owner was expected: %v", err)
	} else {
		out.Body.Close()
	}
}

func TestAnUpstreamBelongsToOneAccount(t *testing.T) {
	t.Parallel()
	server := serve(t, behind(t, serve(t, openDirectory(t, t.TempDir()), alice)), alice, bob)
	a, b := client(server, alice), client(server, bob)
	mustCreate(t, a, "shared")
	if _, err := get(t, b, "shared", "k"); code(err) != "AccessDenied" {
		t.Errorf("another account reads: %v", err)
	}
	if _, err := b.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("of-bob")}); code(err) != "AccessDenied" {
		t.Errorf("another account makes a bucket: %v", err)
	}
	if out, err := b.ListBuckets(t.Context(), nil); err != nil || len(out.Buckets) != 0 {
		t.Errorf("another account lists: %+v %v", out, err)
	}

	authenticator, authorize := iam(t, alice)
	unowned := httptest.NewServer(gateway.NewS3(gateway.Config{Authenticator: authenticator, Authorize: authorize, Store: behind(t, server), Log: testLog(t)}))
	defer unowned.Close()
	if _, err := get(t, client(unowned, alice), "shared", "k"); code(err) != "AccessDenied" {
		t.Errorf("a store that nobody owns: %v", err)
	}
}

func TestRefusedSignatures(t *testing.T) {
	t.Parallel()
	server := serve(t, openDirectory(t, t.TempDir()), alice)
	stranger := user{accountA, "mallory", allowAll}
	unsigned := func(r *http.Request) { r.Header.Del("Authorization") }
	tests := []struct {
		name   string
		who    user
		change func(*http.Request)
		status int
		want   string
	}{
		{"unsigned", alice, unsigned, 403, "AccessDenied: Access Denied"},
		{"an unknown key", stranger, nil, 403, "InvalidAccessKeyId: The AWS Access Key Id you provided does not exist in our records."},
		{"an expired session", user{accountA, "expired", ""}, nil, 400, "ExpiredToken: The provided token has expired."},
		{"no store of keys", user{accountA, "outage", ""}, nil, 503, "ServiceUnavailable: Service is unable to handle request."},
		{"another path than was signed", alice, func(r *http.Request) { r.URL.Path = "/other" }, 403,
			"SignatureDoesNotMatch: The request signature we calculated does not match the signature you provided. Check your key and signing method."},
		{"an x-amz- header that was not signed", alice, func(r *http.Request) { r.Header.Set("X-Amz-Acl", "private") }, 403,
			"AccessDenied: There were headers present in the request which were not signed: x-amz-acl"},
		{"an old signature", alice, func(r *http.Request) {
			sigv4.Sign(r, sigv4.Credentials{AccessKeyID: alice.key(), SecretAccessKey: alice.secret()}, "s3", "us-east-1", sigv4.EmptyPayload, time.Now().Add(-time.Hour))
		}, 403, "RequestTimeTooSkewed: The difference between the request time and the current time is too large."},
		{"another service", alice, func(r *http.Request) {
			sigv4.Sign(r, sigv4.Credentials{AccessKeyID: alice.key(), SecretAccessKey: alice.secret()}, "sts", "us-east-1", sigv4.EmptyPayload, time.Now())
		}, 400, "AuthorizationHeaderMalformed: Credential should be scoped to correct service: 's3'."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, header, body := ask(t, server, tt.who, "GET", "/bucket/key", "", tt.change)
			e := parseError(t, body)
			if got := e.Code + ": " + e.Message; status != tt.status || got != tt.want {
				t.Errorf("got %d %s\nwant %d %s", status, got, tt.status, tt.want)
			}
			if len(e.RequestID) != 16 || e.RequestID != header.Get("X-Amz-Request-Id") || e.HostID == "" || e.HostID != header.Get("X-Amz-Id-2") {
				t.Errorf("request ID %q and host ID %q do not fit the headers", e.RequestID, e.HostID)
			}
			if e.Code == "SignatureDoesNotMatch" {
				for _, element := range []string{"AWSAccessKeyId", "StringToSign", "SignatureProvided", "StringToSignBytes", "CanonicalRequest"} {
					if !strings.Contains(body, "<"+element+">") {
						t.Errorf("no %s in %s", element, body)
					}
				}
			}
		})
	}
	status, _, body := ask(t, server, stranger, "HEAD", "/bucket/key", "", nil)
	if status != 403 || body != "" {
		t.Errorf("HEAD: %d %q, want 403 without a body", status, body)
	}
}

func TestPresignedRequests(t *testing.T) {
	t.Parallel()
	server := serve(t, openDirectory(t, t.TempDir()), alice)
	c := client(server, alice)
	mustCreate(t, c, "data")
	mustPut(t, c, "data", "k", "hello")
	presign := s3.NewPresignClient(c)
	read, err := presign.PresignGetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: aws.String("k"), ResponseContentType: aws.String("text/x")})
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(method, target, body string) (int, http.Header, string) {
		r, err := http.NewRequest(method, target, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		return send(t, server, r)
	}
	if status, header, body := fetch("GET", read.URL, ""); status != 200 || body != "hello" || header.Get("Content-Type") != "text/x" {
		t.Errorf("presigned GET: %d %s %q", status, header.Get("Content-Type"), body)
	}
	if status, _, body := fetch("GET", strings.Replace(read.URL, "/data/k?", "/data/other?", 1), ""); status != 403 {
		t.Errorf("presigned for another key: %d %q", status, body)
	}
	write, err := presign.PresignPutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: aws.String("new")})
	if err != nil {
		t.Fatal(err)
	}
	if status, _, body := fetch("PUT", write.URL, "fresh"); status != 200 {
		t.Errorf("presigned PUT: %d %q", status, body)
	}
	if got, err := get(t, c, "data", "new"); err != nil || got != "fresh" {
		t.Errorf("after a presigned PUT: %q %v", got, err)
	}
	expired, err := http.NewRequest("GET", server.URL+"/data/k", nil)
	if err != nil {
		t.Fatal(err)
	}
	sigv4.Presign(expired, sigv4.Credentials{AccessKeyID: alice.key(), SecretAccessKey: alice.secret()}, "s3", "us-east-1", time.Minute, time.Now().Add(-time.Hour))
	status, _, body := send(t, server, expired)
	if e := parseError(t, body); status != 403 || e.Code != "AccessDenied" || e.Message != "Request has expired" {
		t.Errorf("expired: %d %+v", status, e)
	}
}

func TestBodiesAreHeldToWhatWasDeclared(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, store http.Handler) {
		server := serve(t, store, alice)
		c := client(server, alice)
		mustCreate(t, c, "data")
		big := strings.Repeat("0123456789abcdef", 1<<14)
		sign := func(headers map[string]string, hash string) func(*http.Request) {
			return func(r *http.Request) {
				for name, value := range headers {
					r.Header.Set(name, value)
				}
				sigv4.Sign(r, sigv4.Credentials{AccessKeyID: alice.key(), SecretAccessKey: alice.secret()}, "s3", "us-east-1", hash, time.Now())
			}
		}
		chunked := func(length, trailer string) map[string]string {
			return map[string]string{"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": length, "X-Amz-Trailer": trailer}
		}
		tests := []struct {
			name   string
			body   string
			change func(*http.Request)
			want   string // the error code; empty when it is stored
			stored string
		}{
			{"the right hash", "hello", sign(nil, sha256Hex("hello")), "", "hello"},
			{"the right hash of a long body", big, sign(nil, sha256Hex(big)), "", big},
			{"another hash", "hello", sign(nil, sha256Hex("other")), "XAmzContentSHA256Mismatch", ""},
			{"another hash of a long body", big, sign(nil, sha256Hex("other")), "XAmzContentSHA256Mismatch", ""},
			{"another hash of an empty body", "", sign(nil, sha256Hex("other")), "XAmzContentSHA256Mismatch", ""},
			{"no hash", "hello", sign(nil, sigv4.UnsignedPayload), "", "hello"},
			{"no hash of a long body", big + big + big + big + big, sign(nil, sigv4.UnsignedPayload), "", big + big + big + big + big},
			{"an empty body", "", sign(nil, sigv4.EmptyPayload), "", ""},
			{"the right MD5", "hello", sign(map[string]string{"Content-Md5": "XUFAKrxLKna5cZ2REBfFkg=="}, sha256Hex("hello")), "", "hello"},
			{"another MD5", "hellO", sign(map[string]string{"Content-Md5": "XUFAKrxLKna5cZ2REBfFkg=="}, sha256Hex("hellO")), "BadDigest", ""},
			{"no MD5", "hello", sign(map[string]string{"Content-Md5": "XUFA"}, sha256Hex("hello")), "InvalidDigest", ""},
			{"the right checksum", "hello", sign(map[string]string{"X-Amz-Checksum-Crc32": "NhCmhg=="}, sha256Hex("hello")), "", "hello"},
			{"another checksum", "hellO", sign(map[string]string{"X-Amz-Checksum-Crc32": "NhCmhg=="}, sha256Hex("hellO")), "BadDigest", ""},
			{"a checksum that is none", "hello", sign(map[string]string{"X-Amz-Checksum-Crc32": "hello"}, sha256Hex("hello")), "InvalidRequest", ""},
			{"a kind of checksum that is not known", "hello", sign(map[string]string{"X-Amz-Checksum-Xxhash3": "NhCmhg=="}, sha256Hex("hello")), "NotImplemented", ""},
			{"chunks with a checksum", "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n",
				sign(chunked("5", "x-amz-checksum-crc32"), sigv4.StreamingUnsignedTrailer), "", "hello"},
			{"chunks with another checksum", "5\r\nhellO\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n",
				sign(chunked("5", "x-amz-checksum-crc32"), sigv4.StreamingUnsignedTrailer), "BadDigest", ""},
			{"chunks without the checksum", "5\r\nhello\r\n0\r\n\r\n",
				sign(chunked("5", "x-amz-checksum-crc32"), sigv4.StreamingUnsignedTrailer), "InvalidRequest", ""},
			{"chunks that are shorter than declared", "5\r\nhello\r\n0\r\n\r\n",
				sign(chunked("6", "x-amz-checksum-crc32"), sigv4.StreamingUnsignedTrailer), "InvalidRequest", ""},
			{"chunks that are longer than declared", "5\r\nhello\r\n0\r\n\r\n",
				sign(chunked("4", "x-amz-checksum-crc32"), sigv4.StreamingUnsignedTrailer), "InvalidRequest", ""},
			{"chunks that break off", "5\r\nhel", sign(chunked("5", "x-amz-checksum-crc32"), sigv4.StreamingUnsignedTrailer), "IncompleteBody", ""},
			{"chunks with a wrong signature", "5;chunk-signature=" + strings.Repeat("0", 64) + "\r\nhello\r\n0;chunk-signature=" + strings.Repeat("0", 64) + "\r\n\r\n",
				sign(map[string]string{"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": "5"}, sigv4.StreamingPayload), "SignatureDoesNotMatch", ""},
		}
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				key := fmt.Sprintf("k%d", i)
				status, _, body := ask(t, server, alice, "PUT", "/data/"+key, tt.body, tt.change)
				if tt.want != "" {
					if e := parseError(t, body); e.Code != tt.want {
						t.Errorf("got %d %s: %s, want %s", status, e.Code, e.Message, tt.want)
					}
					if _, err := get(t, c, "data", key); code(err) != "NoSuchKey" {
						t.Errorf("something was stored: %v", err)
					}
					return
				}
				if status != 200 {
					t.Errorf("got %d %s", status, body)
				}
				if got, err := get(t, c, "data", key); err != nil || got != tt.stored {
					t.Errorf("stored %d bytes %v, want %d", len(got), err, len(tt.stored))
				}
			})
		}
	})
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	server := serve(t, openDirectory(t, t.TempDir()), alice)
	c := client(server, alice)
	mustCreate(t, c, "data")
	mustPut(t, c, "data", "k", "hello")
	resign := func(name, value string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set(name, value)
			sigv4.Sign(r, sigv4.Credentials{AccessKeyID: alice.key(), SecretAccessKey: alice.secret()}, "s3", "us-east-1", sigv4.EmptyPayload, time.Now())
		}
	}
	tests := []struct {
		name, method, target string
		change               func(*http.Request)
		status               int
		want                 string
	}{
		{"an unknown sub-resource", "GET", "/data?newFeature", nil, 501, "NotImplemented"},
		{"an unknown sub-resource of a deletion", "DELETE", "/data?newFeature", nil, 501, "NotImplemented"},
		{"a sub-resource that the method does not have", "DELETE", "/data?location", nil, 405, "MethodNotAllowed"},
		{"two sub-resources", "GET", "/data/k?tagging&acl", nil, 400, "InvalidArgument"},
		{"a parameter twice", "GET", "/data/k?versionId=a&versionId=b", nil, 400, "InvalidArgument"},
		{"a semicolon in the query", "GET", "/data?prefix=a;acl", nil, 400, "InvalidURI"},
		{"an unknown method", "PATCH", "/data/k", nil, 405, "MethodNotAllowed"},
		{"a header that would lock", "PUT", "/data/k2", resign("X-Amz-Object-Lock-Mode", "COMPLIANCE"), 501, "NotImplemented"},
		{"a header that nobody knows", "GET", "/data/k", resign("X-Amz-Surprise", "1"), 501, "NotImplemented"},
		{"a version of a source, where there are none", "PUT", "/data/k2", resign("X-Amz-Copy-Source", "data/k?versionId=abc"), 501, "NotImplemented"},
		{"the tags of a version, where there are none", "GET", "/data/k?tagging&versionId=abc", nil, 501, "NotImplemented"},
		{"a signature of version 2", "GET", "/data/k", func(r *http.Request) { r.Header.Set("Authorization", "AWS AKIA:c2ln") }, 400, "InvalidRequest"},
		{"a version, where there are none", "GET", "/data/k?versionId=abc", nil, 501, "NotImplemented"},
		{"an HTML form", "POST", "/data", nil, 501, "NotImplemented"},
		{"a bucket name with dots", "GET", "/..", nil, 400, "InvalidBucketName"},
		{"an empty bucket name", "PUT", "//k", nil, 400, "InvalidURI"},
		{"NUL in a key", "PUT", "/data/a%00b", nil, 400, "InvalidURI"},
		{"a key that is not UTF-8", "PUT", "/data/%ff", nil, 400, "InvalidURI"},
		{"a key that is too long", "PUT", "/data/" + strings.Repeat("k", 1025), nil, 400, "KeyTooLongError"},
		{"an access point as the source", "PUT", "/data/k2", resign("X-Amz-Copy-Source", "arn:aws:s3:us-east-1:111122223333:accesspoint/a/object/k"), 501, "NotImplemented"},
		{"a source without a key", "PUT", "/data/k2", resign("X-Amz-Copy-Source", "data"), 400, "InvalidArgument"},
		{"a source with another parameter", "PUT", "/data/k2", resign("X-Amz-Copy-Source", "data/k?acl"), 400, "InvalidArgument"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, _, body := ask(t, server, alice, tt.method, tt.target, "", tt.change)
			if e := parseError(t, body); status != tt.status || e.Code != tt.want {
				t.Errorf("got %d %s: %s, want %d %s", status, e.Code, e.Message, tt.status, tt.want)
			}
		})
	}
	status, _, body := ask(t, server, alice, "POST", "/data?delete", `<Delete><Object><Key>k</Key><VersionId>abc</VersionId></Object></Delete>`, nil)
	if status != 200 || !strings.Contains(body, "<Code>NotImplemented</Code>") {
		t.Errorf("deleting a version: %d %s", status, body)
	}
	if got, err := get(t, c, "data", "k"); err != nil || got != "hello" {
		t.Errorf("after all this the object is %q %v", got, err)
	}
	if diff := cmp.Diff([]string{"k"}, keysOf(t, c, "data")); diff != "" {
		t.Errorf("something has changed (-want +got):\n%s", diff)
	}
}

func TestOddKeysAreThemselves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := serve(t, openDirectory(t, dir), alice)
	c := client(server, alice)
	mustCreate(t, c, "data")
	odd := map[string]string{ // how the key goes over the wire, and the key
		"a/../b": "a/../b", "..": "..", "../../etc/passwd": "../../etc/passwd", "%2e%2e/x": "../x", "a%2Fb": "a/b", "a//b": "a//b", "/lead": "/lead",
		"trail/": "trail/", "a%252Fb": "a%2Fb", "plus+plus": "plus+plus", "%20space": " space", "bucket.json": "bucket.json",
		strings.Repeat("k", 1024): strings.Repeat("k", 1024), "*": "*", "a%3Fb": "a?b",
	}
	for wire, key := range odd {
		status, _, body := ask(t, server, alice, "PUT", "/data/"+wire, key, nil)
		if status != 200 {
			t.Errorf("put %q: %d %s", wire, status, body)
		}
	}
	want := []string{}
	for _, key := range odd {
		want = append(want, key)
		if got, err := get(t, c, "data", key); err != nil || got != key {
			t.Errorf("get %q: %q %v", key, got, err)
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, keysOf(t, c, "data")); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}

	far := serve(t, behind(t, server), alice)
	for _, wire := range []string{"a/../b", "..", "a//b", "%2e/x", "a/."} {
		status, _, body := ask(t, far, alice, "GET", "/data/"+wire, "", nil)
		if e := parseError(t, body); status != 400 || e.Code != "InvalidURI" {
			t.Errorf("%q upstream: %d %s, want InvalidURI", wire, status, e.Code)
		}
	}
}

func TestVirtualHostedStyle(t *testing.T) {
	t.Parallel()
	server := serve(t, openDirectory(t, t.TempDir()), alice)
	c := client(server, alice)
	mustCreate(t, c, "photos")
	mustPut(t, c, "photos", "a/b", "hello")
	for host, want := range map[string]int{
		"photos.s3.us-east-1.amazonaws.com": 200, "photos.s3.amazonaws.com": 200, "photos.s3.dualstack.us-east-1.amazonaws.com": 200,
		"photos.s3-us-west-2.amazonaws.com": 200, "photos.localhost:4566": 200, "photos.s3.localhost:4566": 200, "photos.s3.example.com": 200,
		"others.s3.us-east-1.amazonaws.com": 404, "photos-111122223333.s3-accesspoint.us-east-1.amazonaws.com": 501,
		"photos--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com": 501, "-.s3.us-east-1.amazonaws.com": 400,
	} {
		status, _, body := ask(t, server, alice, "GET", "/a/b", "", func(r *http.Request) {
			r.Host = host
			sigv4.Sign(r, sigv4.Credentials{AccessKeyID: alice.key(), SecretAccessKey: alice.secret()}, "s3", "us-east-1", sigv4.EmptyPayload, time.Now())
		})
		if status != want || want == 200 && body != "hello" {
			t.Errorf("%s: %d %q, want %d", host, status, body, want)
		}
	}
}

func TestRegionsOfBuckets(t *testing.T) {
	t.Parallel()
	authenticator, authorize := iam(t, alice)
	authenticator.Region = "eu-central-1"
	server := httptest.NewServer(gateway.NewS3(gateway.Config{Authenticator: authenticator, Authorize: authorize, Store: openDirectory(t, t.TempDir()), Log: testLog(t)}))
	defer server.Close()
	body := func(region string) string {
		return `<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><LocationConstraint>` + region + `</LocationConstraint></CreateBucketConfiguration>`
	}
	for _, tt := range []struct {
		name, body, want string
	}{
		{"another region", body("eu-west-1"), "IllegalLocationConstraintException"}, {"no region", "", "IllegalLocationConstraintException"},
		{"not XML", "<", "MalformedXML"}, {"an unknown setting", "<CreateBucketConfiguration><Bucket/></CreateBucketConfiguration>", "NotImplemented"},
	} {
		if _, _, answer := ask(t, server, alice, "PUT", "/data", tt.body, nil); parseError(t, answer).Code != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, answer, tt.want)
		}
	}
	_, err := client(server, alice).CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("data"), ObjectOwnership: types.ObjectOwnershipObjectWriter,
		CreateBucketConfiguration: &types.CreateBucketConfiguration{LocationConstraint: "eu-central-1"}})
	if code(err) != "NotImplemented" {
		t.Errorf("objects that their writers own: %v", err)
	}
	if status, header, answer := ask(t, server, alice, "PUT", "/data", body("eu-central-1"), nil); status != 200 || header.Get("Location") != "/data" {
		t.Errorf("create: %d %s", status, answer)
	}
	if _, _, answer := ask(t, server, alice, "GET", "/data?location", "", nil); !strings.Contains(answer, ">eu-central-1</LocationConstraint>") {
		t.Errorf("location: %s", answer)
	}
	if _, header, _ := ask(t, server, alice, "HEAD", "/data", "", nil); header.Get("X-Amz-Bucket-Region") != "eu-central-1" {
		t.Errorf("region header %q", header.Get("X-Amz-Bucket-Region"))
	}
}

func TestConditionalWrites(t *testing.T) {
	t.Parallel()
	server := serve(t, openDirectory(t, t.TempDir()), alice)
	c := client(server, alice)
	mustCreate(t, c, "data")
	var won sync.Map
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			_, err := c.PutObject(context.Background(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: aws.String("lock"), IfNoneMatch: aws.String("*"),
				Body: strings.NewReader(fmt.Sprint(i))})
			if err == nil {
				won.Store(i, true)
			} else if code(err) != "PreconditionFailed" {
				t.Error(err)
			}
		})
	}
	group.Wait()
	winners := 0
	won.Range(func(any, any) bool { winners++; return true })
	if winners != 1 {
		t.Errorf("%d writers won, want 1", winners)
	}
}

// The store's own failures are not shown.
func TestStoreFailures(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		store  http.HandlerFunc
		status int
		want   string
	}{
		{"it refuses the gateway", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			io.WriteString(w, `<Error><Code>InvalidAccessKeyId</Code><Message>key AKIAUPSTREAM</Message></Error>`)
		}, 500, "InternalError: We encountered an internal error. Please try again."},
		{"it redirects", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://elsewhere/")
			w.WriteHeader(307)
		}, 500, "InternalError: We encountered an internal error. Please try again."},
		{"it is no S3", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502); io.WriteString(w, "<html>") }, 500,
			"InternalError: We encountered an internal error. Please try again."},
		{"it is busy", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(503)
			io.WriteString(w, `<Error><Code>SlowDown</Code><Message>Slow.</Message><Upstream>secret</Upstream></Error>`)
		}, 503, "SlowDown: Slow."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := serve(t, tt.store, alice)
			status, header, body := ask(t, server, alice, "GET", "/data/k", "", nil)
			e := parseError(t, body)
			if got := e.Code + ": " + e.Message; status != tt.status || got != tt.want {
				t.Errorf("got %d %s, want %d %s", status, got, tt.status, tt.want)
			}
			if strings.Contains(body, "pstream") || strings.Contains(body, "elsewhere") || header.Get("Location") != "" {
				t.Errorf("tells of the store: %s", body)
			}
		})
	}
}

func TestWhatTheStoreSees(t *testing.T) {
	t.Parallel()
	var seen *http.Request
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen = r.Clone(context.Background()) }), alice)
	r, err := http.NewRequest("GET", server.URL+"/data/a%2Fb?response-content-type=x&x-amz-checksum-mode=ENABLED", nil)
	if err != nil {
		t.Fatal(err)
	}
	sigv4.Presign(r, sigv4.Credentials{AccessKeyID: alice.key(), SecretAccessKey: alice.secret(), SessionToken: "token"}, "s3", "us-east-1", time.Minute, time.Now())
	r.Header.Set("X-Forwarded-For", "10.0.0.1")
	if status, _, body := send(t, server, r); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if got, want := seen.URL.String(), "/data/a/b?response-content-type=x"; got != want {
		t.Errorf("URL %s, want %s", got, want)
	}
	if diff := cmp.Diff(http.Header{"X-Amz-Checksum-Mode": {"ENABLED"}}, seen.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestUpstreamIsDown(t *testing.T) {
	t.Parallel()
	// A port that was free a moment ago may be another test's by now. Of this one, nobody is given a free one.
	server := serve(t, behind(t, &httptest.Server{URL: "http://127.0.0.1:1"}), alice)
	status, _, body := ask(t, server, alice, "GET", "/data/k", "", nil)
	if e := parseError(t, body); status != 503 || e.Code != "ServiceUnavailable" {
		t.Errorf("%d %s", status, e.Code)
	}
}

func TestBucketListsComeInPages(t *testing.T) {
	t.Parallel()
	c := client(serve(t, openDirectory(t, t.TempDir()), alice), alice)
	for _, name := range []string{"logs-1", "logs-2", "logs-3", "data"} {
		mustCreate(t, c, name)
	}
	pages := s3.NewListBucketsPaginator(c, &s3.ListBucketsInput{MaxBuckets: aws.Int32(2), Prefix: aws.String("logs-")})
	var names []string
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Buckets) > 2 {
			t.Errorf("a page of %d", len(page.Buckets))
		}
		for _, b := range page.Buckets {
			names = append(names, aws.ToString(b.Name))
		}
	}
	if diff := cmp.Diff([]string{"logs-1", "logs-2", "logs-3"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, in := range []s3.ListBucketsInput{{MaxBuckets: aws.Int32(10001)}, {ContinuationToken: aws.String("%")}} {
		if _, err := c.ListBuckets(t.Context(), &in); code(err) != "InvalidArgument" {
			t.Errorf("%v", err)
		}
	}
}

func TestSettingsThatABucketDoesNotHave(t *testing.T) {
	t.Parallel()
	server := serve(t, openDirectory(t, t.TempDir()), alice)
	c := client(server, alice)
	mustCreate(t, c, "data")
	mustPut(t, c, "data", "k", "x")
	for sub, want := range map[string]string{
		"policy": "NoSuchBucketPolicy", "policyStatus": "NoSuchBucketPolicy", "cors": "NoSuchCORSConfiguration", "lifecycle": "NoSuchLifecycleConfiguration",
		"tagging": "NoSuchTagSet", "website": "NoSuchWebsiteConfiguration", "notification": "NotImplemented",
	} {
		if _, _, body := ask(t, server, alice, "GET", "/data?"+sub, "", nil); parseError(t, body).Code != want {
			t.Errorf("%s: %s, want %s", sub, body, want)
		}
	}
	for _, target := range []string{"/data?acl", "/data/k?acl"} {
		if status, _, body := ask(t, server, alice, "GET", target, "", nil); status != 200 || !strings.Contains(body, "<Permission>FULL_CONTROL</Permission>") {
			t.Errorf("%s: %d %s", target, status, body)
		}
	}
	if _, _, body := ask(t, server, alice, "GET", "/data/none?acl", "", nil); parseError(t, body).Code != "NoSuchKey" {
		t.Errorf("acl of a missing object: %s", body)
	}
	many := strings.Repeat("<Tag><Key>k</Key><Value/></Tag>", 2)
	for body, want := range map[string]string{"<": "MalformedXML", "<Tagging><TagSet>" + many + "</TagSet></Tagging>": "InvalidTag"} {
		if _, _, answer := ask(t, server, alice, "PUT", "/data/k?tagging", body, nil); parseError(t, answer).Code != want {
			t.Errorf("tags %s: %s, want %s", body, answer, want)
		}
	}
	if _, _, answer := ask(t, server, alice, "PUT", "/data/k?tagging", strings.Repeat(" ", 4<<20+1), nil); parseError(t, answer).Code != "MaxMessageLengthExceeded" {
		t.Errorf("tags that are too long: %s", answer)
	}
}

func TestARNsHaveTheRegionsPartition(t *testing.T) {
	t.Parallel()
	authenticator, _ := iam(t, alice)
	authenticator.Region = "cn-north-1"
	var asked []string
	server := httptest.NewServer(gateway.NewS3(gateway.Config{Authenticator: authenticator, Store: openDirectory(t, t.TempDir()), Log: testLog(t),
		Authorize: func(_ context.Context, _ *awsapi.Caller, a awsapi.Access) policy.Decision {
			asked = append(asked, a.Action+" "+a.Resource)
			return policy.Decision{Allowed: true}
		}}))
	defer server.Close()
	ask(t, server, alice, "GET", "/data/k", "", nil)
	if diff := cmp.Diff([]string{"s3:GetObject arn:aws-cn:s3:::data/k"}, asked); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOneEventTellsOfARequest(t *testing.T) {
	t.Parallel()
	authenticator, authorize := iam(t, alice, allowing("s3:GetObject", "*"))
	var log bytes.Buffer
	events := slog.New(slog.NewJSONHandler(&log, nil))
	config := gateway.Config{Authenticator: authenticator, Authorize: authorize, Store: openDirectory(t, t.TempDir()), Log: events}
	handler, err := awsapi.NewHandler(awsapi.HandlerConfig{Authenticator: authenticator, Authorize: authorize, Log: events,
		Raw: map[string]http.Handler{"s3": gateway.NewS3(config), "ec2": gateway.NewEC2(config)}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	carol := allowing("s3:GetObject", "*")
	ask(t, server, carol, "PUT", "/data/k?x-id=PutObject", "secret content", nil)
	server.Close()
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Fatalf("%d events:\n%s", n, log.String())
	}
	var event map[string]any
	if err := json.Unmarshal(log.Bytes(), &event); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"service": "s3", "operation": "PutObject", "caller": carol.arn(), "bucket": "data", "key": "k",
		"code": "AccessDenied", "status": 403.0, "decision": "denied: no identity-based policy allows s3:PutObject"} {
		if event[key] != want {
			t.Errorf("%s is %v, want %v", key, event[key], want)
		}
	}
	if strings.Contains(log.String(), "secret") {
		t.Error("the event tells too much")
	}
}

func TestUpstreamConfiguration(t *testing.T) {
	t.Parallel()
	key := sigv4.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "s"}
	tests := []struct {
		name, endpoint string
		key            sigv4.Credentials
		region         string
		ok             bool
	}{
		{"http", "http://127.0.0.1:9000", key, "us-east-1", true},
		{"https, below a path", "https://minio.example.com/s3/", key, "us-east-1", true},
		{"another scheme", "ftp://minio.example.com", key, "us-east-1", false},
		{"no host", "http:///x", key, "us-east-1", false},
		{"a password", "http://u:p@minio.example.com", key, "us-east-1", false},
		{"a query", "http://minio.example.com/?a=b", key, "us-east-1", false},
		{"no key", "http://minio.example.com", sigv4.Credentials{}, "us-east-1", false},
		{"no region", "http://minio.example.com", key, "", false},
	}
	for _, tt := range tests {
		u, err := url.Parse(tt.endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := gateway.Upstream(u, tt.key, tt.region); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		} else if err != nil && strings.Contains(err.Error(), "u:p@") {
			t.Errorf("%s: the error tells the password: %v", tt.name, err)
		}
	}
}

func TestUpstreamSeesNothingOfTheCaller(t *testing.T) {
	t.Parallel()
	var seen *http.Request
	var body string
	far := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		seen, body = r.Clone(context.Background()), string(b)
		w.Header().Set("Connection", "close")
		w.Header().Set("X-Amz-Meta-Camera", "x1")
	}))
	defer far.Close()
	store := behind(t, far)
	gateway.TrustOf(store, far.Client())
	server := serve(t, store, alice)
	status, header, answer := ask(t, server, alice, "PUT", "/data/k", "hello", func(r *http.Request) {
		r.Header.Set("X-Amz-Meta-Owner", "me")
		r.Header.Set("Te", "trailers")
		r.Header.Set("Cookie", "secret")
		sigv4.Sign(r, sigv4.Credentials{AccessKeyID: alice.key(), SecretAccessKey: alice.secret(), SessionToken: "the-token"}, "s3", "us-east-1",
			sigv4.UnsignedPayload, time.Now())
	})
	if status != 200 || body != "hello" {
		t.Fatalf("%d %s; the upstream has %q", status, answer, body)
	}
	sig, err := sigv4.Parse(seen)
	if err != nil {
		t.Fatal(err)
	}
	if err := sig.Verify(seen, alice.secret(), "", time.Minute, time.Now(), nil); err != nil {
		t.Errorf("the upstream's signature: %v", err)
	}
	if sig.PayloadHash != sigv4.UnsignedPayload || sig.SessionToken != "" {
		t.Errorf("payload hash %s, session token %q", sig.PayloadHash, sig.SessionToken)
	}
	if seen.Header.Get("X-Amz-Meta-Owner") != "me" || seen.Header.Get("Te") != "" || seen.Header.Get("Cookie") != "" {
		t.Errorf("headers %v", seen.Header)
	}
	if header.Get("Connection") != "" || header.Get("X-Amz-Meta-Camera") != "x1" {
		t.Errorf("the caller has headers %v", header)
	}
}
