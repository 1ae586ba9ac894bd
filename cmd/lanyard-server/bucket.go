package main

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/internal/audit"
)

// bucketConfig says which bucket the audit trail is delivered to.
type bucketConfig struct {
	// Name is the bucket's; the trail is not delivered when it is empty.
	Name string `yaml:"name"`
	// Prefix of the objects' keys, without a slash at the end.
	Prefix string `yaml:"prefix"`
	// Region of the bucket. When it is empty, the bucket is in the S3 that this server has: its embedded store, or its upstream.
	Region string `yaml:"region"`
	// Endpoint is the URL of an S3-compatible service; AWS's own when empty.
	Endpoint string `yaml:"endpoint"`
}

// maxPrefix is CloudTrail's limit (CloudTrail API Reference, "CreateTrail").
const maxPrefix = 200

// faults are what is wrong with the settings.
func (b *bucketConfig) faults() (faults []error) {
	goodName := regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	segments := strings.Split(b.Prefix, "/")
	dots := slices.ContainsFunc(segments, func(s string) bool { return s == "" || s == "." || s == ".." })
	for _, f := range []struct {
		bad     bool
		message string
	}{
		{b.Name != "" && !goodName.MatchString(b.Name), "audit.bucket.name: must be the name of a bucket"},
		{b.Name == "" && *b != bucketConfig{}, "audit.bucket.name: must be set with the others of audit.bucket"},
		{b.Prefix != "" && (dots || len(b.Prefix) > maxPrefix), "audit.bucket.prefix: must be a path such as a/b, of 200 bytes at most"},
		{b.Endpoint != "" && b.Region == "", "audit.bucket.region: must be set with audit.bucket.endpoint"},
		{b.Endpoint != "" && !strings.HasPrefix(b.Endpoint, "https://") && !strings.HasPrefix(b.Endpoint, "http://"),
			"audit.bucket.endpoint: must be a URL"},
	} {
		if f.bad {
			faults = append(faults, errors.New("  "+f.message))
		}
	}
	return faults
}

// openDelivery returns what writes the trail to its bucket; nil if it has none. objects is the S3 that this server has.
func openDelivery(ctx context.Context, c config, records audit.Outbox, objects http.Handler, log *slog.Logger) (*audit.Deliverer, error) {
	b := c.Audit.Bucket
	if b.Name == "" {
		return nil, nil
	}
	to := bucket{name: b.Name}
	if b.Region == "" {
		to.client = s3.New(s3.Options{
			Region: c.Region, BaseEndpoint: aws.String("http://s3.internal"), UsePathStyle: true,
			HTTPClient: within{objects}, Credentials: aws.AnonymousCredentials{}, RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		})
		if c.S3.Embedded {
			to.owner = c.Account
		}
	} else {
		chain, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(b.Region))
		if err != nil {
			return nil, fmt.Errorf("configure the audit trail's bucket: %w", err)
		}
		to.client = s3.NewFromConfig(chain, func(o *s3.Options) {
			// Every S3-compatible service knows Content-MD5, and not every one newer checksums.
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
			if b.Endpoint != "" {
				o.BaseEndpoint, o.UsePathStyle = &b.Endpoint, true
			}
		})
	}
	return audit.NewDeliverer(audit.DelivererConfig{Outbox: records, Bucket: b.Name, Prefix: b.Prefix, Put: to.put, Log: log}), nil
}

// bucket is where the trail is delivered to.
type bucket struct {
	client *s3.Client
	name   string
	owner  string // the account that it must be of; any when empty
}

// put writes an object as CloudTrail does.
func (b *bucket) put(ctx context.Context, key string, gzipped []byte) error {
	if err := b.checkOwner(ctx); err != nil {
		return err
	}
	sum := md5.Sum(gzipped)
	_, err := b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &b.name, Key: &key, Body: bytes.NewReader(gzipped), ContentMD5: aws.String(base64.StdEncoding.EncodeToString(sum[:])),
		ContentType: aws.String("application/json"), ContentEncoding: aws.String("gzip"),
	})
	return err
}

// checkOwner keeps the trail from an account that has made a bucket of this name first: the embedded store is all accounts'.
func (b *bucket) checkOwner(ctx context.Context) error {
	if b.owner == "" {
		return nil
	}
	acl, err := b.client.GetBucketAcl(ctx, &s3.GetBucketAclInput{Bucket: &b.name})
	if err != nil {
		return err
	}
	if acl.Owner == nil || aws.ToString(acl.Owner.DisplayName) != b.owner {
		return &smithy.GenericAPIError{Code: "AccessDenied", Message: "the bucket is not of the first account, " + b.owner}
	}
	return nil
}

// within asks the server's own S3, in this process.
type within struct{ handler http.Handler }

// Do implements aws.HTTPClient.
func (w within) Do(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context()) // as a server has it
	if r.Body == nil {
		r.Body = http.NoBody
	}
	r.Header.Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
	a := &response{header: http.Header{}, status: http.StatusOK}
	w.handler.ServeHTTP(a, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(a.status), StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.header, Body: io.NopCloser(&a.body), ContentLength: int64(a.body.Len()), Request: r,
	}, nil
}

// response is an http.ResponseWriter that keeps what is written.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *response) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *response) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *response) Write(p []byte) (int, error) { return a.body.Write(p) }
