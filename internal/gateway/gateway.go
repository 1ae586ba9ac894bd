// Package gateway puts SigV4 and IAM in front of an S3-compatible store, embedded or elsewhere, and answers the
// describing calls of EC2.
//
// A request to S3 is taken apart once, into the operation, the bucket and the key that it names. Authorization is decided on
// these, and the request that the store sees is made anew from them, so that what was authorized is what is touched.
package gateway

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// Config is what the gateway needs.
type Config struct {
	Authenticator *awsapi.Authenticator // required; its Region is the region of all buckets
	// Authorize decides on one permission; required.
	Authorize func(ctx context.Context, c *awsapi.Caller, a awsapi.Access) policy.Decision
	// EncodeDenial returns the encoded authorization message that goes with the refusal of a change in EC2, for
	// DecodeAuthorizationMessage of STS; nil sends none. It is asked for denied requests only.
	EncodeDenial func(ctx context.Context, c *awsapi.Caller, a awsapi.Access) (string, error)
	// Store serves S3's REST API without authentication, by path-style URLs; required for S3. See OpenDirectory and Upstream.
	Store http.Handler
	// Account owns every bucket of a Store that does not keep owners, as that of Upstream does not. When it is empty, such
	// buckets belong to nobody, and every access to them is refused.
	Account string
	// Log takes what is wrong with the configuration; required. What the gateway has to say of a request, it adds to the
	// request's event (see awsapi.Annotate).
	Log *slog.Logger
}

// NewS3 returns the handler of the S3 API: it authenticates, finds out which actions on which resources a request
// needs, authorizes them, and hands the request to the store. Bodies are held to the hash, the chunk signatures and the
// checksums that were declared before the store has the last of them.
func NewS3(c Config) http.Handler {
	owners, ok := c.Store.(ownership)
	if !ok {
		owners = soleOwner(c.Account)
		if c.Account == "" {
			c.Log.Warn("no account owns the buckets of the s3 store: all access to them is refused")
		}
	}
	return &s3Gateway{Config: c, owners: owners, partition: partitionOf(c.Authenticator.Region)}
}

// NewEC2 returns the handler of the EC2 API. Nothing is kept of EC2, so Describe* calls answer with empty lists, but for
// the region and its zone; everything else is authorized and then answered with UnsupportedOperation.
func NewEC2(c Config) http.Handler {
	return &ec2Gateway{Config: c, lists: parseDescribes(ec2Describes)}
}
