package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/gateway"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

func TestBucketSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		config bucketConfig
		fault  string // "" for none
	}{
		{"no delivery", bucketConfig{}, ""},
		{"a bucket of the server's own S3", bucketConfig{Name: "trail"}, ""},
		{"a bucket of AWS", bucketConfig{Name: "trail", Region: "eu-west-1", Prefix: "a/b"}, ""},
		{"a bucket elsewhere", bucketConfig{Name: "trail.x", Region: "us-east-1", Endpoint: "https://minio:9000"}, ""},
		{"no name", bucketConfig{Prefix: "a"}, "audit.bucket.name"},
		{"no name of a bucket", bucketConfig{Name: "Trail/x"}, "audit.bucket.name"},
		{"a slash at the end", bucketConfig{Name: "trail", Prefix: "a/"}, "audit.bucket.prefix"},
		{"a way out", bucketConfig{Name: "trail", Prefix: "a/../b"}, "audit.bucket.prefix"},
		{"a long prefix", bucketConfig{Name: "trail", Prefix: strings.Repeat("a", 201)}, "audit.bucket.prefix"},
		{"an endpoint without a Region", bucketConfig{Name: "trail", Endpoint: "https://minio"}, "audit.bucket.region"},
		{"an endpoint that is no URL", bucketConfig{Name: "trail", Region: "us-east-1", Endpoint: "minio"}, "audit.bucket.endpoint"},
	} {
		audit := auditConfig{Bucket: c.config}
		err := errors.Join(audit.faults()...)
		if (c.fault == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v, want %q", c.name, err, c.fault)
		}
	}
	const minimal = "issuerURL: https://x.test\nlisten: :0\naudit: {bucket: {name: trail}}\n"
	if _, err := parseConfig("f", []byte(minimal)); err == nil || !strings.Contains(err.Error(), "audit.bucket.region") {
		t.Errorf("a bucket of a server without S3: %v", err)
	}
	if _, err := parseConfig("f", []byte(minimal+"s3: {embedded: true}\n")); err != nil {
		t.Errorf("a bucket of the embedded store: %v", err)
	}
}

// buckets is an S3 that can be asked by anybody's name: the account ID is the access key.
func buckets(t *testing.T, store http.Handler) *httptest.Server {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s3 := gateway.NewS3(gateway.Config{
		Authenticator: &awsapi.Authenticator{Credentials: func(_ context.Context, keyID, _ string) (awsapi.Credential, error) {
			return awsapi.Credential{Secret: "secret", Identity: awsapi.Identity{
				Kind: policy.Root, Account: keyID[:12], UserID: keyID[:12], ARN: "arn:aws:iam::" + keyID[:12] + ":root", AccessKeyID: keyID,
			}}, nil
		}, Region: "us-east-1"},
		Authorize: func(context.Context, *awsapi.Caller, awsapi.Access) policy.Decision {
			return policy.Decision{Allowed: true}
		},
		EncodeDenial: func(context.Context, *awsapi.Caller, awsapi.Access) (string, error) { return "", nil },
		Store:        store, Account: "111122223333", Log: log,
	})
	web := httptest.NewServer(s3)
	t.Cleanup(web.Close)
	return web
}

func (c config) deliverFrom(t *testing.T, objects http.Handler) (records *audit.Files, stop func()) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	records, err := audit.OpenFiles(audit.FilesConfig{Dir: filepath.Join(t.TempDir(), "audit"), Deliver: true, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := records.Close(); err != nil {
			t.Error(err)
		}
	})
	d, err := openDelivery(t.Context(), c, records, objects, log)
	if err != nil {
		t.Fatal(err)
	}
	if d.Bucket != c.Audit.Bucket.Name {
		t.Errorf("the bucket is %q", d.Bucket)
	}
	e := &audit.Event{Version: "1.08", Name: "AssumeRole", Account: "111122223333", Region: "us-east-1", Time: time.Now()}
	if err := records.Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { d.Run(ctx) })
	return records, func() {
		cancel()
		running.Wait()
	}
}

// outcome waits until a delivery has been attempted.
func outcome(t *testing.T, records *audit.Files) audit.Delivery {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		d, err := records.Delivery(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !d.Attempted.IsZero() {
			return d
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// The trail arrives in the server's own S3, which is embedded or elsewhere, and in any other.
func TestTheTrailArrives(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "111122223333KEY") // of the standard chain
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	const own, other = "111122223333", "444455556666"
	for _, way := range []string{"embedded", "upstream", "elsewhere"} {
		for _, c := range []struct {
			name, owner string // of the bucket; "" for no bucket
			failure     string
			onlyOf      string // the way that has this case
		}{
			{"a bucket", own, "", ""},
			{"no bucket", "", "NoSuchBucket", ""},
			{"another account's bucket", other, "AccessDenied", "embedded"},
		} {
			if c.onlyOf != "" && c.onlyOf != way {
				continue
			}
			t.Run(way+", "+c.name, func(t *testing.T) {
				store, err := gateway.OpenDirectory(t.TempDir(), slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				web := buckets(t, store)
				client := s3.New(s3.Options{
					Region: "us-east-1", BaseEndpoint: &web.URL, UsePathStyle: true, Credentials: credentials.NewStaticCredentialsProvider(c.owner+"KEY", "secret", ""),
				})
				if c.owner != "" {
					if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("trail")}); err != nil {
						t.Fatal(err)
					}
				}
				settings := config{Account: own, Region: "us-east-1"}
				settings.Audit.Bucket = bucketConfig{Name: "trail", Prefix: "p"}
				objects := store
				switch way {
				case "embedded":
					settings.S3.Embedded = true
				case "upstream":
					endpoint, err := url.Parse(web.URL)
					if err != nil {
						t.Fatal(err)
					}
					if objects, err = gateway.Upstream(endpoint, sigv4.Credentials{AccessKeyID: own + "KEY", SecretAccessKey: "secret"}, "us-east-1"); err != nil {
						t.Fatal(err)
					}
				default:
					settings.Audit.Bucket.Region, settings.Audit.Bucket.Endpoint = "us-east-1", web.URL
				}
				records, stop := settings.deliverFrom(t, objects)
				defer stop()
				if d := outcome(t, records); d.Failure != c.failure || (c.failure == "") == d.Delivered.IsZero() {
					t.Fatalf("%+v, want the failure %q", d, c.failure)
				}
				if c.failure != "" {
					return
				}
				list, err := client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("trail"), Prefix: aws.String("p/AWSLogs/111122223333/CloudTrail/us-east-1/")})
				if err != nil || len(list.Contents) != 1 {
					t.Fatalf("%+v, %v", list, err)
				}
				object, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("trail"), Key: list.Contents[0].Key})
				if err != nil {
					t.Fatal(err)
				}
				defer object.Body.Close()
				zip, err := gzip.NewReader(object.Body)
				if err != nil {
					t.Fatal(err)
				}
				var file struct{ Records []audit.Event }
				if err := json.NewDecoder(zip).Decode(&file); err != nil || len(file.Records) != 1 || file.Records[0].Name != "AssumeRole" {
					t.Errorf("%+v, %v", file, err)
				}
				if aws.ToString(object.ContentType) != "application/json" || aws.ToString(object.ContentEncoding) != "gzip" {
					t.Errorf("%s, %s", aws.ToString(object.ContentType), aws.ToString(object.ContentEncoding))
				}
			})
		}
	}
}
