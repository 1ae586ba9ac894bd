package gateway

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

// NewBuckets returns what makes and removes buckets of an embedded store for callers that another service has authenticated. Their
// requests go the way of requests by wire from there on: the same permissions are asked for, and the same is refused. operation is
// CreateBucket, in the region of the caller's request; HeadBucket, which returns when the bucket was made; or DeleteBucket, which takes
// a bucket that is empty. A refusal is an *awsapi.Error with S3's code, text and status.
//
// invoke gives the call its place in the log: see awsapi.Handler.InvokeRaw.
//
// It is nil when c.Store is not embedded: what others keep is not Lanyard's to make and remove.
func NewBuckets(
	c Config, invoke func(ctx context.Context, caller *awsapi.Caller, service, operation string, do func(context.Context, *awsapi.Caller) error) error,
) func(ctx context.Context, caller *awsapi.Caller, operation, bucket string) (time.Time, error) {
	store, ok := c.Store.(*directory)
	if !ok {
		return nil
	}
	g := &s3Gateway{Config: c, owners: store, partition: partitionOf(c.Authenticator.Region)}
	return func(ctx context.Context, caller *awsapi.Caller, operation, bucket string) (time.Time, error) {
		err := invoke(ctx, caller, "s3", operation, func(ctx context.Context, caller *awsapi.Caller) error {
			return g.onBucket(ctx, caller, operation, bucket)
		})
		if err != nil {
			return time.Time{}, err
		}
		if operation != "HeadBucket" {
			return time.Time{}, nil
		}
		b, err := store.find(bucket)
		if err != nil {
			return time.Time{}, &awsapi.Error{Code: "NoSuchBucket", Message: s3Codes["NoSuchBucket"].message, Status: http.StatusNotFound}
		}
		return b.Created, nil
	}
}

// onBucket does what is asked for with a bucket.
func (g *s3Gateway) onBucket(ctx context.Context, caller *awsapi.Caller, operation, bucket string) error {
	if !validBucket(bucket) { // before it is part of a URL
		return &awsapi.Error{Code: "InvalidBucketName", Message: s3Codes["InvalidBucketName"].message, Status: http.StatusBadRequest}
	}
	method, text := "", ""
	switch operation {
	case "CreateBucket":
		method = http.MethodPut
		if caller.Region != unconstrained {
			doc, err := xml.Marshal(createBucketConfiguration{LocationConstraint: caller.Region})
			if err != nil {
				return fmt.Errorf("encode the region of bucket %s: %w", bucket, err)
			}
			text = string(doc)
		}
	case "HeadBucket":
		method = http.MethodHead
	case "DeleteBucket":
		method = http.MethodDelete
	default:
		return fmt.Errorf("the operation %s is not one on a bucket", operation)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://store/"+bucket, strings.NewReader(text))
	if err != nil {
		return fmt.Errorf("ask for bucket %s: %w", bucket, err)
	}
	x := &exchange{g: g, w: unread{}, r: r, requestID: newRequestID(), hostID: newHostID(), caller: caller}
	refused := x.serve(r.Body, r.ContentLength)
	if refused == nil {
		refused = x.failure
	}
	if refused == nil {
		return nil
	}
	if operation == "HeadBucket" && refused.code == "NoSuchKey" { // HEAD has no body that would say what is missing
		refused.code = "NoSuchBucket"
	}
	status := refused.status(http.StatusInternalServerError)
	if status >= http.StatusInternalServerError && refused.code != "NotImplemented" {
		return fmt.Errorf("%s of bucket %s: %w", operation, bucket, errors.Join(refused, refused.cause))
	}
	e := &awsapi.Error{Code: refused.code, Message: refused.message, Status: status, Cause: refused.cause}
	if e.Message == "" {
		e.Message = s3Codes[refused.code].message
	}
	return e
}

// unread is the http.ResponseWriter of a request whose answer tells nothing but that it was done.
type unread struct{}

// Header implements http.ResponseWriter.
func (unread) Header() http.Header { return http.Header{} }

// Write implements http.ResponseWriter.
func (unread) Write(p []byte) (int, error) { return len(p), nil }

// WriteHeader implements http.ResponseWriter.
func (unread) WriteHeader(int) {}
