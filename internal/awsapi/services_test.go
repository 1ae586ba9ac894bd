package awsapi_test

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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

const (
	account = "111122223333"
	userARN = "arn:aws:iam::111122223333:user/alice"
	keyID   = "AKIAIOSFODNN7EXAMPLE"
	secret  = sigv4.Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
	expired = "expired-token"
)

var (
	now   = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	alice = sigv4.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}
)

// credentials knows alice's key, a session that has expired, and a key whose record cannot be read.
func credentials(_ context.Context, id, token string) (awsapi.Credential, error) {
	switch {
	case id == "AKIAUNAVAILABLE":
		return awsapi.Credential{}, fmt.Errorf("read key: %w", kv.ErrUnavailable)
	case id == "AKIABROKEN":
		return awsapi.Credential{}, fmt.Errorf("the record of a key is broken: hunter2")
	case id != keyID:
		return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey}
	case token == expired:
		return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.ExpiredSession}
	case token != "":
		return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey}
	}
	return awsapi.Credential{Secret: secret, Identity: awsapi.Identity{
		Kind: policy.User, Account: account, ARN: userARN, UserID: "AIDAEXAMPLE", EntityID: "AIDAEXAMPLE", EntityARN: userARN, AccessKeyID: id,
	}}, nil
}

// authorize refuses everything about what is forbidden.
func authorize(_ context.Context, _ *awsapi.Caller, a awsapi.Access) policy.Decision {
	if strings.Contains(a.Resource, "forbidden") {
		return policy.Decision{Layer: policy.IdentityLayer}
	}
	return policy.Decision{Allowed: true, Layer: policy.IdentityLayer, Policy: "AllowAll"}
}

type none struct{}

func noop[In, Out any](context.Context, *awsapi.Caller, *In) (*Out, error) { return new(Out), nil }

type identityOut struct{ UserId, Account, Arn string }

func getCallerIdentity(_ context.Context, c *awsapi.Caller, _ *none) (*identityOut, error) {
	return &identityOut{c.UserID, c.Account, c.ARN}, nil
}

type tagShape struct{ Key, Value string }

type policyARN struct{ Arn string }

type assumeRoleIn struct {
	RoleArn, RoleSessionName string
	Policy                   *string
	PolicyArns               []policyARN
	DurationSeconds          *int32
	Tags                     []tagShape
	TransitiveTagKeys        []string
	ExternalId               string
}

type credentialsShape struct {
	AccessKeyId, SecretAccessKey, SessionToken string
	Expiration                                 time.Time
}

type assumedRoleUser struct{ AssumedRoleId, Arn string }

type assumeRoleOut struct {
	Credentials     *credentialsShape
	AssumedRoleUser assumedRoleUser
	SourceIdentity  string
	// PackedPolicySize is left out when nothing was packed.
	PackedPolicySize *int32
}

// assumeRole answers with its input, so that tests can see it.
func assumeRole(_ context.Context, _ *awsapi.Caller, in *assumeRoleIn) (*assumeRoleOut, error) {
	text, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	return &assumeRoleOut{
		Credentials:     &credentialsShape{"ASIAEXAMPLE", "s3cr3t/+=", "token", now.Add(time.Hour)},
		AssumedRoleUser: assumedRoleUser{string(text), in.RoleArn},
	}, nil
}

type webIdentityIn struct {
	RoleArn, RoleSessionName, WebIdentityToken string
	DurationSeconds                            *int32
}

type webIdentityOut struct {
	Credentials                 *credentialsShape
	SubjectFromWebIdentityToken string
}

func assumeRoleWithWebIdentity(_ context.Context, c *awsapi.Caller, in *webIdentityIn) (*webIdentityOut, error) {
	if c.Kind != policy.Anonymous {
		return nil, fmt.Errorf("the caller is %v", c.Kind)
	}
	if in.WebIdentityToken == "reject" {
		return nil, awsapi.Errorf("InvalidIdentityToken", "Incorrect token audience")
	}
	return &webIdentityOut{Credentials: &credentialsShape{"ASIAEXAMPLE", "s3cr3t/+=", "token", now.Add(time.Hour)}, SubjectFromWebIdentityToken: "sub"}, nil
}

func stsService() awsapi.Service {
	return awsapi.Service{Model: awsapi.ModelNamed("sts"), Operations: []awsapi.Operation{
		awsapi.Op("GetCallerIdentity", getCallerIdentity, awsapi.Open),
		awsapi.Op("AssumeRole", assumeRole, func(_ *awsapi.Caller, in *assumeRoleIn) ([]awsapi.Access, error) {
			return []awsapi.Access{{Action: "sts:AssumeRole", Resource: in.RoleArn}}, nil
		}),
		awsapi.Op("AssumeRoleWithWebIdentity", assumeRoleWithWebIdentity, awsapi.Open),
	}}
}

type roleIn struct{ RoleName string }

type roleShape struct {
	Path, RoleName, RoleId, Arn string
	CreateDate                  time.Time
	AssumeRolePolicyDocument    string
	MaxSessionDuration          int32
	Tags                        []tagShape
}

type roleOut struct{ Role roleShape }

// getRole fails in many ways, one for each name.
func getRole(ctx context.Context, _ *awsapi.Caller, in *roleIn) (*roleOut, error) {
	switch in.RoleName {
	case "missing":
		return nil, awsapi.Errorf("NoSuchEntity", "The role with name %s cannot be found.", in.RoleName)
	case "secret":
		return nil, fmt.Errorf("the password is hunter2")
	case "unavailable":
		return nil, fmt.Errorf("load role: %w", kv.ErrUnavailable)
	case "panic":
		panic("hunter2")
	case "wrapped":
		return nil, fmt.Errorf("load role: %w", awsapi.Errorf("EntityAlreadyExists", "<&>"))
	case "annotated":
		awsapi.Annotate(ctx, slog.String("role", "annotated"))
	case "warned":
		awsapi.Warn(ctx, "look \"there\":\r\nX-Evil: \\ é\x00")
		for range 5 {
			awsapi.Warn(ctx, strings.Repeat("é", 1000))
		}
	case "warned-missing":
		awsapi.Warn(ctx, "it is gone")
		return nil, awsapi.Errorf("NoSuchEntity", "The role with name %s cannot be found.", in.RoleName)
	case "nil":
		return nil, nil
	}
	return &roleOut{Role: roleShape{
		Path: "/", RoleName: in.RoleName, RoleId: "AROAEXAMPLE", Arn: "arn:aws:iam::111122223333:role/" + in.RoleName, CreateDate: now,
		AssumeRolePolicyDocument: "%7B%22a%22%3A%20%221%22%7D", MaxSessionDuration: 3600, Tags: []tagShape{{"a", "<1>&\r\n\t\"'\x01é"}},
	}}, nil
}

type listRolesIn struct {
	Marker, PathPrefix string
	MaxItems           *int32
}

type listRolesOut struct {
	Roles       []roleShape
	IsTruncated bool
	Marker      string
}

type contextEntry struct {
	ContextKeyName, ContextKeyType string
	ContextKeyValues               []string
}

type simulateIn struct {
	PolicyInputList, ActionNames, ResourceArns []string
	ContextEntries                             []contextEntry
	MaxItems                                   int32
}

type evaluation struct {
	EvalActionName, EvalDecision string
	EvalDecisionDetails          map[string]string
}

type simulateOut struct {
	EvaluationResults []evaluation
	IsTruncated       bool
}

func simulate(_ context.Context, _ *awsapi.Caller, in *simulateIn) (*simulateOut, error) {
	text, err := json.Marshal(in)
	return &simulateOut{EvaluationResults: []evaluation{{string(text), "allowed", map[string]string{"b": "allowed", "a": "implicitDeny"}}}}, err
}

type updateRoleIn struct {
	RoleName, Description string
	MaxSessionDuration    *int32
}

func iamService() awsapi.Service {
	return awsapi.Service{Model: awsapi.ModelNamed("iam"), Operations: []awsapi.Operation{
		awsapi.Op("GetRole", getRole, func(_ *awsapi.Caller, in *roleIn) ([]awsapi.Access, error) {
			if in.RoleName == "gone" {
				return nil, awsapi.Errorf("NoSuchEntity", "gone before it was asked for")
			}
			return []awsapi.Access{{Action: "iam:GetRole", Resource: "arn:aws:iam::111122223333:role/" + in.RoleName}}, nil
		}),
		awsapi.Op("DeleteRole", noop[roleIn, none], awsapi.Open),
		awsapi.Op("UpdateRole", noop[updateRoleIn, none], awsapi.Open),
		awsapi.Op("ListRoles", func(context.Context, *awsapi.Caller, *listRolesIn) (*listRolesOut, error) {
			return &listRolesOut{Roles: []roleShape{}}, nil
		}, awsapi.Open),
		awsapi.Op("SimulateCustomPolicy", simulate, awsapi.Open),
	}}
}

type clusterIn struct{ Name string }

type oidcShape struct{ Issuer string }

type clusterIdentity struct{ Oidc *oidcShape }

type clusterShape struct {
	Name, Arn, Status  string
	CreatedAt          time.Time
	Identity           *clusterIdentity
	Tags               map[string]string
	ResourcesVpcConfig *struct {
		SubnetIds            []string
		EndpointPublicAccess bool
	}
}

type clusterOut struct{ Cluster *clusterShape }

func describeCluster(_ context.Context, _ *awsapi.Caller, in *clusterIn) (*clusterOut, error) {
	if in.Name == "missing" {
		e := awsapi.Errorf("ResourceNotFoundException", "No cluster found for name: %s.", in.Name)
		e.Fields = map[string]any{"clusterName": in.Name}
		return nil, e
	}
	if in.Name == "secret" {
		return nil, fmt.Errorf("the password is hunter2")
	}
	if in.Name == "unavailable" {
		return nil, kv.ErrUnavailable
	}
	c := &clusterShape{Name: in.Name, Status: "ACTIVE", CreatedAt: now.Add(50 * time.Millisecond),
		Identity: &clusterIdentity{&oidcShape{"https://issuer.example/id/1"}}, Tags: map[string]string{}}
	c.ResourcesVpcConfig = &struct {
		SubnetIds            []string
		EndpointPublicAccess bool
	}{SubnetIds: []string{}}
	return &clusterOut{c}, nil
}

type createAssociationIn struct {
	ClusterName, Namespace, ServiceAccount, RoleArn string
	Policy                                          string
	Tags                                            map[string]string
	DisableSessionTags                              *bool
}

type associationShape struct {
	ClusterName, Namespace, ServiceAccount, RoleArn string
	Policy                                          string
	Tags                                            map[string]string
	DisableSessionTags                              *bool
}

type associationOut struct{ Association associationShape }

type listAssociationsIn struct {
	ClusterName, Namespace, ServiceAccount, NextToken string
	MaxResults                                        *int32
}

type listAssociationsOut struct {
	Associations []associationSummary
	NextToken    string
}

type associationSummary struct{ ClusterName, Namespace, ServiceAccount string }

type tagResourceIn struct {
	ResourceArn string
	Tags        map[string]string
}

type untagResourceIn struct {
	ResourceArn string
	TagKeys     []string
}

func eksService(seen *recorder) awsapi.Service {
	return awsapi.Service{Model: awsapi.ModelNamed("eks"), Operations: []awsapi.Operation{
		awsapi.Op("DescribeCluster", describeCluster, func(_ *awsapi.Caller, in *clusterIn) ([]awsapi.Access, error) {
			return []awsapi.Access{{Action: "eks:DescribeCluster", Resource: "arn:aws:eks:us-east-1:111122223333:cluster/" + in.Name}}, nil
		}),
		awsapi.Op("CreatePodIdentityAssociation", func(_ context.Context, _ *awsapi.Caller, in *createAssociationIn) (*associationOut, error) {
			return &associationOut{associationShape(*in)}, nil
		}, awsapi.Open),
		awsapi.Op("ListPodIdentityAssociations", func(_ context.Context, _ *awsapi.Caller, in *listAssociationsIn) (*listAssociationsOut, error) {
			seen.add(in)
			return &listAssociationsOut{Associations: []associationSummary{{in.ClusterName, in.Namespace, in.ServiceAccount}}}, nil
		}, awsapi.Open),
		awsapi.Op("TagResource", func(_ context.Context, _ *awsapi.Caller, in *tagResourceIn) (*none, error) {
			seen.add(in)
			return nil, nil
		}, awsapi.Open),
		awsapi.Op("UntagResource", func(_ context.Context, _ *awsapi.Caller, in *untagResourceIn) (*none, error) {
			seen.add(in)
			return &none{}, nil
		}, awsapi.Open),
	}}
}

type podIn struct{ ClusterName, Token string }

type podOut struct {
	Audience    string
	Subject     *struct{ Namespace, ServiceAccount string }
	Credentials *credentialsShape
}

func eksAuthService() awsapi.Service {
	return awsapi.Service{Model: awsapi.ModelNamed("eks-auth"), Operations: []awsapi.Operation{
		awsapi.Op("AssumeRoleForPodIdentity", func(_ context.Context, _ *awsapi.Caller, in *podIn) (*podOut, error) {
			if in.ClusterName == "secret" {
				return nil, fmt.Errorf("the password is hunter2")
			}
			return &podOut{Audience: "pods.eks.amazonaws.com", Credentials: &credentialsShape{"ASIAEXAMPLE", "s3cr3t/+=", "token", now.Add(time.Hour)}}, nil
		}, func(_ *awsapi.Caller, in *podIn) ([]awsapi.Access, error) {
			return []awsapi.Access{{Action: "eks-auth:AssumeRoleForPodIdentity", Resource: "arn:aws:eks:us-east-1:111122223333:cluster/" + in.ClusterName}}, nil
		}),
	}}
}

type lookupIn struct {
	LookupAttributes   []struct{ AttributeKey, AttributeValue string }
	StartTime, EndTime *time.Time
	MaxResults         *int32
}

type eventShape struct {
	EventId   string
	EventTime time.Time
}

type lookupOut struct{ Events []eventShape }

func cloudtrailService() awsapi.Service {
	return awsapi.Service{Model: awsapi.ModelNamed("cloudtrail"), Operations: []awsapi.Operation{
		awsapi.Op("LookupEvents", func(_ context.Context, _ *awsapi.Caller, in *lookupIn) (*lookupOut, error) {
			if in.StartTime == nil {
				return nil, awsapi.Errorf("InvalidTimeRangeException", "no start")
			}
			return &lookupOut{Events: []eventShape{{"e-1", in.StartTime.Add(time.Second)}}}, nil
		}, awsapi.Open),
	}}
}

// recorder keeps the inputs of operations.
type recorder struct {
	mu   sync.Mutex
	seen []any
}

func (r *recorder) add(in any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, in)
}

// api is a handler with all test services.
type api struct {
	*awsapi.Handler
	seen recorder
	log  bytes.Buffer // of one request at a time
}

func newAPI(t testing.TB, change ...func(*awsapi.HandlerConfig)) *api {
	t.Helper()
	a := &api{}
	c := awsapi.HandlerConfig{
		Services:      []awsapi.Service{stsService(), iamService(), eksService(&a.seen), eksAuthService(), cloudtrailService()},
		Authenticator: &awsapi.Authenticator{Credentials: credentials, Region: "us-east-1", Now: func() time.Time { return now }},
		Authorize:     authorize,
		Raw: map[string]http.Handler{"s3": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/panic" {
				panic("hunter2")
			}
			awsapi.Annotate(r.Context(), slog.String("bucket", "b"))
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprintf(w, "raw %s", r.URL.Path)
		})},
		Log: slog.New(slog.NewJSONHandler(&a.log, nil)),
	}
	for _, f := range change {
		f(&c)
	}
	h, err := awsapi.NewHandler(c)
	if err != nil {
		t.Fatal(err)
	}
	a.Handler = h
	return a
}

// call is a request in the making.
type call struct {
	method, url string
	service     string // of the credential scope; unsigned when empty
	region      string
	body        string
	header      http.Header
	creds       sigv4.Credentials
	alter       func(*http.Request) // after signing
}

func form(service, body string) call {
	return call{method: "POST", url: "http://localhost:4566/", service: service, body: body,
		header: http.Header{"Content-Type": {"application/x-www-form-urlencoded; charset=utf-8"}}}
}

func stsQuery(params string) call { return form("sts", "Version=2011-06-15&"+params) }

func iamQuery(params string) call { return form("iam", "Version=2010-05-08&"+params) }

func rest(service, method, path, body string) call {
	return call{method: method, url: "http://localhost:4566" + path, service: service, body: body}
}

func (c call) request(t testing.TB) *http.Request {
	t.Helper()
	r := httptest.NewRequest(c.method, c.url, strings.NewReader(c.body))
	for k, v := range c.header {
		r.Header[k] = v
	}
	if c.service != "" {
		creds, region := c.creds, c.region
		if creds.AccessKeyID == "" {
			creds = alice
		}
		if region == "" {
			region = "us-east-1"
		}
		sum := sha256.Sum256([]byte(c.body))
		sigv4.Sign(r, creds, c.service, region, hex.EncodeToString(sum[:]), now)
	}
	if c.alter != nil {
		c.alter(r)
	}
	return r
}

// send answers the call.
func (a *api) send(t testing.TB, c call) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	a.ServeHTTP(w, c.request(t))
	return w.Result()
}

func text(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// realClock is for clients that cannot be told the time.
func realClock(c *awsapi.HandlerConfig) { c.Authenticator.Now = time.Now }
