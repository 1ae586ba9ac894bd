package gateway_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/gateway"
	"github.com/lanyard-id/lanyard/policy"
)

func TestBucketsForOtherServices(t *testing.T) {
	t.Parallel()
	maker := allowing("s3:CreateBucket s3:DeleteBucket s3:ListBucket", "arn:aws:s3:::team-*")
	authenticator, authorize := iam(t, alice, bob, maker)
	var asked []string // condition keys of the last permission
	config := gateway.Config{
		Authenticator: authenticator, Store: openDirectory(t, t.TempDir()), Log: slog.New(slog.DiscardHandler),
		Authorize: func(ctx context.Context, c *awsapi.Caller, a awsapi.Access) policy.Decision {
			var keys policy.Context
			a.Context(&keys)
			asked = nil
			for name, values := range keys.All() {
				asked = append(asked, name+"="+values[0])
			}
			return authorize(ctx, c, a)
		},
	}
	var operations []string
	buckets := gateway.NewBuckets(config, func(
		ctx context.Context, c *awsapi.Caller, service, operation string, do func(context.Context, *awsapi.Caller) error,
	) error {
		operations = append(operations, service+":"+operation)
		nested := *c
		nested.Via = "cloudformation"
		return do(ctx, &nested)
	})
	as := func(u user, region string) *awsapi.Caller {
		return &awsapi.Caller{Identity: awsapi.Identity{Kind: policy.User, Account: u.account, ARN: u.arn()}, Region: region}
	}
	for _, tc := range []struct {
		name, operation, bucket string
		who                     *awsapi.Caller
		code                    string // of the refusal; empty for none
		status                  int
	}{
		{"is made", "CreateBucket", "team-data", as(alice, "us-east-1"), "", 0},
		{"is there", "HeadBucket", "team-data", as(maker, "us-east-1"), "", 0},
		{"is made again", "CreateBucket", "team-data", as(maker, "us-east-1"), "BucketAlreadyOwnedByYou", 409},
		{"is made by another account", "CreateBucket", "team-data", as(bob, "us-east-1"), "BucketAlreadyExists", 409},
		{"is asked for by another account", "HeadBucket", "team-data", as(bob, "us-east-1"), "AccessDenied", 403},
		{"is removed by another account", "DeleteBucket", "team-data", as(bob, "us-east-1"), "AccessDenied", 403},
		{"is one that the caller may not make", "CreateBucket", "other", as(maker, "us-east-1"), "AccessDenied", 403},
		{"is in another region", "CreateBucket", "team-west", as(alice, "eu-west-1"), "IllegalLocationConstraintException", 400},
		{"has a name that is none", "CreateBucket", "Team_Data", as(alice, "us-east-1"), "InvalidBucketName", 400},
		{"has a name that leads elsewhere", "DeleteBucket", "team-data/../other?tagging", as(alice, "us-east-1"), "InvalidBucketName", 400},
		{"is not there", "HeadBucket", "team-none", as(alice, "us-east-1"), "NoSuchBucket", 404},
		{"is not there to be removed", "DeleteBucket", "team-none", as(alice, "us-east-1"), "NoSuchBucket", 404},
		{"is removed", "DeleteBucket", "team-data", as(maker, "us-east-1"), "", 0},
		{"is gone", "HeadBucket", "team-data", as(alice, "us-east-1"), "NoSuchBucket", 404},
	} {
		made, err := buckets(t.Context(), tc.who, tc.operation, tc.bucket)
		if tc.code == "" {
			if err != nil || made.IsZero() == (tc.operation == "HeadBucket") {
				t.Errorf("a bucket that %s: %v, %v", tc.name, made, err)
			}
			continue
		}
		refused, ok := errors.AsType[*awsapi.Error](err)
		if !ok || refused.Code != tc.code || refused.Status != tc.status || refused.Message == "" {
			t.Errorf("a bucket that %s: got %v, want %s with status %d", tc.name, err, tc.code, tc.status)
		}
	}
	if !slices.Contains(asked, "aws:CalledViaFirst=cloudformation.amazonaws.com") || !slices.Contains(asked, "s3:ResourceAccount="+accountA) {
		t.Errorf("permissions are asked for with the keys %q", asked)
	}
	if diff := cmp.Diff([]string{"s3:CreateBucket", "s3:HeadBucket"}, operations[:2]); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	if _, err := buckets(t.Context(), as(alice, "us-east-1"), "PutBucketPolicy", "team-data"); err == nil {
		t.Error("an operation that is not served was done")
	}

	config.Store = http.NotFoundHandler()
	if gateway.NewBuckets(config, nil) != nil {
		t.Error("there are buckets for a store that is not embedded")
	}
}
