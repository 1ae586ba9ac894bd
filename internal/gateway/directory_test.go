package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/gateway"
)

// files lists what is in a directory, below it.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found = append(found, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDirectorySurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openDirectory(t, dir)
	c := client(serve(t, store, alice), alice)
	mustCreate(t, c, "kept")
	_, err := c.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("kept"), Key: aws.String("a/b"), Body: strings.NewReader("hello"),
		ContentType: aws.String("text/x"), Metadata: map[string]string{"m": "v"}, Tagging: aws.String("t=1")})
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, c, "kept", "gone", "x")
	if _, err := c.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String("kept"), Key: aws.String("gone")}); err != nil {
		t.Fatal(err)
	}
	upload, err := c.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: aws.String("kept"), Key: aws.String("begun")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.UploadPart(t.Context(), &s3.UploadPartInput{Bucket: aws.String("kept"), Key: aws.String("begun"), UploadId: upload.UploadId,
		PartNumber: aws.Int32(1), Body: strings.NewReader("part")}); err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	closeStore(t, store)

	// What a crash leaves: data without a record, half a record, half a bucket.
	var record string
	for _, f := range before {
		if strings.HasPrefix(f, "buckets/kept/objects/") && strings.HasSuffix(f, ".json") {
			record = filepath.Join(dir, f)
		}
	}
	for _, path := range []string{strings.TrimSuffix(record, ".json") + ".LEFT", filepath.Join(dir, "buckets/kept/temporary/half"), filepath.Join(dir, "buckets/.new-X/bucket.json")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	c = client(serve(t, openDirectory(t, dir), alice), alice)
	if got, err := get(t, c, "kept", "a/b"); err != nil || got != "hello" {
		t.Errorf("%q %v, want hello", got, err)
	}
	head, err := c.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String("kept"), Key: aws.String("a/b")})
	if err != nil || aws.ToString(head.ContentType) != "text/x" || head.Metadata["m"] != "v" || aws.ToInt32(head.TagCount) != 1 ||
		aws.ToString(head.ETag) != `"5d41402abc4b2a76b9719d911017c592"` {
		t.Errorf("HeadObject: %+v %v", head, err)
	}
	if diff := cmp.Diff([]string{"a/b"}, keysOf(t, c, "kept")); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	left := files(t, dir)
	if len(left) != 4 { // lock, bucket.json, one record and its data
		t.Errorf("files: %q", left)
	}
}

func TestDirectoryIsOpenOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openDirectory(t, dir)
	if _, err := gateway.OpenDirectory(dir, testLog(t)); err == nil {
		t.Error("opened twice at a time")
	}
	closeStore(t, store)
	closeStore(t, openDirectory(t, dir))
}

func TestDirectoryRefusesDamage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		damage func(record string) error
	}{
		{"a record that cannot be read", func(record string) error { return os.WriteFile(record, []byte("{"), 0o600) }},
		{"a record of another key", func(record string) error {
			return os.WriteFile(record, []byte(`{"key":"other","size":0,"md5":""}`), 0o600)
		}},
		{"a record without its data", func(record string) error {
			names, err := filepath.Glob(strings.TrimSuffix(record, ".json") + ".[A-Z2-7]*")
			if err != nil || len(names) != 1 {
				return errors.Join(err, fmt.Errorf("data files: %q", names))
			}
			return os.Remove(names[0])
		}},
		{"a bucket without its owner", func(record string) error {
			return os.Remove(filepath.Join(filepath.Dir(record), "../../bucket.json"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			store := openDirectory(t, dir)
			c := client(serve(t, store, alice), alice)
			mustCreate(t, c, "data")
			mustPut(t, c, "data", "k", "hello")
			closeStore(t, store)
			for _, f := range files(t, dir) {
				if strings.Contains(f, "/objects/") && strings.HasSuffix(f, ".json") {
					if err := tt.damage(filepath.Join(dir, f)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if again, err := gateway.OpenDirectory(dir, testLog(t)); err == nil {
				closeStore(t, again)
				t.Error("opened")
			}
		})
	}
}

func TestDirectoryUnderConcurrentUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := client(serve(t, openDirectory(t, dir), alice), alice)
	mustCreate(t, c, "busy")
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 10 {
				key := fmt.Sprintf("k%d", (i+n)%3)
				content := strings.Repeat(fmt.Sprint(i), 1000)
				if _, err := c.PutObject(context.Background(), &s3.PutObjectInput{Bucket: aws.String("busy"), Key: &key, Body: strings.NewReader(content)}); err != nil {
					t.Errorf("put: %v", err)
				}
				got, err := get(t, c, "busy", key)
				if err != nil && code(err) != "NoSuchKey" || err == nil && (len(got) != 1000 || strings.Count(got, got[:1]) != 1000) {
					t.Errorf("get: %d bytes, %v", len(got), err)
				}
				if n%5 == 4 {
					if _, err := c.DeleteObject(context.Background(), &s3.DeleteObjectInput{Bucket: aws.String("busy"), Key: &key}); err != nil {
						t.Errorf("delete: %v", err)
					}
				}
			}
		})
	}
	group.Wait()
	if keys, found := keysOf(t, c, "busy"), files(t, filepath.Join(dir, "buckets/busy/objects")); len(found) != 2*len(keys) {
		t.Errorf("%d files for %d objects: %q", len(found), len(keys), found)
	}
}
