package awsapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

type (
	invokedIn  struct{ RoleName string }
	invokedOut struct {
		Role struct {
			Path, RoleName, RoleId, Arn string
			CreateDate                  time.Time
			MaxSessionDuration          *int32
		}
	}
)

func TestInvoke(t *testing.T) {
	t.Parallel()
	created := time.Unix(1_800_000_000, 0)
	hours := int32(3600)
	var seen *awsapi.Caller
	var asked []string
	var trail bytes.Buffer
	getRole := awsapi.Op("GetRole", func(_ context.Context, c *awsapi.Caller, in *invokedIn) (*invokedOut, error) {
		seen = c
		switch in.RoleName {
		case "missing":
			return nil, awsapi.Errorf("NoSuchEntity", "The role with name missing cannot be found.")
		case "panics":
			panic("the operation")
		}
		out := &invokedOut{}
		out.Role.RoleName, out.Role.Path, out.Role.CreateDate, out.Role.MaxSessionDuration = in.RoleName, "/", created, &hours
		return out, nil
	}, func(_ *awsapi.Caller, in *invokedIn) ([]awsapi.Access, error) {
		return []awsapi.Access{{Action: "iam:GetRole", Resource: "arn:aws:iam::111122223333:role/" + in.RoleName, Context: func(p *policy.Context) {
			p.Set("iam:ResourceTag/own", "stays")
		}}}, nil
	})
	handler, err := awsapi.NewHandler(awsapi.HandlerConfig{
		Services: []awsapi.Service{{Model: awsapi.ModelNamed("iam"), Operations: []awsapi.Operation{getRole}}},
		Authenticator: &awsapi.Authenticator{
			Credentials: func(context.Context, string, string) (awsapi.Credential, error) { return awsapi.Credential{}, nil },
		},
		Authorize: func(_ context.Context, c *awsapi.Caller, a awsapi.Access) policy.Decision {
			keys := new(policy.Context)
			a.Context(keys)
			asked = nil
			for name, values := range keys.All() {
				asked = append(asked, strings.ToLower(name)+"="+strings.Join(values, ","))
			}
			return policy.Decision{Allowed: !strings.HasSuffix(a.Resource, "/forbidden")}
		},
		Audit: audit.NewWriter(&trail),
		Log:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	caller := &awsapi.Caller{
		Identity:  awsapi.Identity{Kind: policy.User, Account: "111122223333", ARN: "arn:aws:iam::111122223333:user/ann"},
		RequestID: "outer", Service: "cloudformation", Operation: "CreateStack", Region: "us-east-1", SourceIP: netip.MustParseAddr("192.0.2.1"),
		UserAgent: "aws-cli", Secure: true, TLSVersion: "TLSv1.3", TLSCipher: "TLS_AES_128_GCM_SHA256",
	}
	invoke := func(in map[string]any) (map[string]any, error) {
		return handler.Invoke(t.Context(), caller, "iam", "GetRole", in)
	}

	got, err := invoke(map[string]any{"RoleName": "reader"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"Role": map[string]any{
		"RoleName": "reader", "Path": "/", "CreateDate": float64(created.Unix()), "MaxSessionDuration": float64(3600),
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	if seen.ARN != caller.ARN || seen.Service != "iam" || seen.Operation != "GetRole" || seen.RequestID == "outer" || seen.Region != "us-east-1" ||
		seen.UserAgent != "cloudformation.amazonaws.com" || seen.Time.IsZero() {
		t.Errorf("the operation saw the caller %+v", seen)
	}
	if caller.Service != "cloudformation" || caller.RequestID != "outer" {
		t.Errorf("the caller was changed: %+v", caller)
	}
	record, err := audit.Decode(strings.TrimSpace(trail.String()))
	if err != nil {
		t.Fatal(err)
	}
	const service = "cloudformation.amazonaws.com"
	if record.Identity.ARN != caller.ARN || record.Identity.InvokedBy != service || record.SourceIP != service || record.UserAgent != service || record.TLS != nil {
		t.Errorf("the record is %s, want a call by the service for the user", record.Text)
	}
	keys := strings.Join(asked, " ")
	for _, key := range []string{
		"aws:viaawsservice=true", "aws:calledvia=cloudformation.amazonaws.com", "aws:calledviafirst=cloudformation.amazonaws.com",
		"aws:calledvialast=cloudformation.amazonaws.com", "iam:resourcetag/own=stays",
	} {
		if !strings.Contains(keys, key) {
			t.Errorf("the permission was asked for with %s, without %s", keys, key)
		}
	}

	for _, tc := range []struct {
		name   string
		in     map[string]any
		code   string
		status int
	}{
		{"a refusal of the operation", map[string]any{"RoleName": "missing"}, "NoSuchEntity", 404},
		{"a caller who may not", map[string]any{"RoleName": "forbidden"}, "AccessDenied", 403},
		{"an input that the model does not allow", map[string]any{"RoleName": "no/name"}, "ValidationError", 400},
		{"a missing member", map[string]any{}, "ValidationError", 400},
		{"a member of another type", map[string]any{"RoleName": true}, "MalformedInput", 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := invoke(tc.in)
			refused, ok := errors.AsType[*awsapi.Error](err)
			if !ok || refused.Code != tc.code || refused.Status != tc.status {
				t.Errorf("got %v, want %s with status %d", err, tc.code, tc.status)
			}
		})
	}
	for name, call := range map[string]func() (map[string]any, error){
		"an operation that panics":        func() (map[string]any, error) { return invoke(map[string]any{"RoleName": "panics"}) },
		"an operation that is not served": func() (map[string]any, error) { return handler.Invoke(t.Context(), caller, "iam", "CreateRole", nil) },
		"a service that is not there":     func() (map[string]any, error) { return handler.Invoke(t.Context(), caller, "sqs", "SendMessage", nil) },
	} {
		_, err := call()
		if _, refusal := errors.AsType[*awsapi.Error](err); err == nil || refusal {
			t.Errorf("%s: got %v, want a failure of the server", name, err)
		}
	}
}

// What a service without a model does for a caller has the same event as other calls, and errors with their status.
func TestInvokeRaw(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	handler, err := awsapi.NewHandler(awsapi.HandlerConfig{
		Authenticator: &awsapi.Authenticator{
			Credentials: func(context.Context, string, string) (awsapi.Credential, error) { return awsapi.Credential{}, nil },
		},
		Authorize: func(context.Context, *awsapi.Caller, awsapi.Access) policy.Decision { return policy.Decision{} },
		Log:       slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	caller := &awsapi.Caller{
		Identity:  awsapi.Identity{Kind: policy.User, Account: "111122223333", ARN: "arn:aws:iam::111122223333:user/ann"},
		RequestID: "outer", Service: "cloudformation", Operation: "CreateStack", Region: "us-east-1",
	}
	broken := errors.New("the disk is full")
	for _, tc := range []struct {
		name  string
		do    func() error
		want  error
		event string
	}{
		{"is done", func() error { return nil }, nil, "service=s3 operation=CreateBucket caller=arn:aws:iam::111122223333:user/ann account=111122223333 region=us-east-1 status=200"},
		{"is refused", func() error { return &awsapi.Error{Code: "BucketNotEmpty", Status: 409} }, &awsapi.Error{Code: "BucketNotEmpty", Status: 409}, "status=409 code=BucketNotEmpty"},
		{"fails", func() error { return broken }, broken, "status=500"},
		{"panics", func() error { panic("the store") }, errors.New("panic: the store"), "status=500"},
	} {
		log.Reset()
		err := handler.InvokeRaw(t.Context(), caller, "s3", "CreateBucket", func(_ context.Context, c *awsapi.Caller) error {
			if c.Via != "cloudformation" || c.Service != "s3" || c.Operation != "CreateBucket" || c.RequestID == "outer" ||
				c.UserAgent != "cloudformation.amazonaws.com" {
				t.Errorf("what %s is called by %+v", tc.name, c)
			}
			return tc.do()
		})
		if diff := cmp.Diff(fmt.Sprint(tc.want), fmt.Sprint(err)); diff != "" {
			t.Errorf("what %s (-want +got):\n%s", tc.name, diff)
		}
		if !strings.Contains(log.String(), tc.event) {
			t.Errorf("what %s leaves the event %s", tc.name, log.String())
		}
	}
	if caller.Via != "" || caller.Service != "cloudformation" {
		t.Errorf("the caller of the request has changed: %+v", caller)
	}
}
