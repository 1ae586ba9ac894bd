package iam_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/awstest"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

const (
	account = "111122223333"
	other   = "444455556666"
)

// An installation is IAM behind its wire, over a store in memory, with the accounts of the two constants.
type installation struct {
	*iam.Service
	store    kv.Store
	db       *kv.DB
	url      string
	sessions sync.Map // awsapi.Credential by access key ID: temporary credentials, as STS would know them
	root     *awsiam.Client
	other    *awsiam.Client // root of the other account
	rootKey  sigv4.Credentials
}

func start(t testing.TB, partition string, edit ...func(*iam.Config)) *installation {
	t.Helper()
	in := startEmpty(t, partition, edit...)
	for _, a := range []struct {
		id     string
		client **awsiam.Client
	}{{account, &in.root}, {other, &in.other}} {
		key, err := in.EnsureAccount(t.Context(), a.id, "test")
		if err != nil {
			t.Fatal(err)
		}
		*a.client = in.client(*key)
		if a.id == account {
			in.rootKey = *key
		}
	}
	return in
}

// startEmpty starts an installation without accounts.
func startEmpty(t testing.TB, partition string, edit ...func(*iam.Config)) *installation {
	t.Helper()
	in, h := replica(t, kv.NewMemory(), partition, edit...)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	in.url = server.URL
	return in
}

// replica starts an installation over a store, without a server before its wire.
func replica(t testing.TB, store kv.Store, partition string, edit ...func(*iam.Config)) (*installation, *awsapi.Handler) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	db := kv.NewDB(kv.Config{Store: store, Log: log})
	ring, err := keyring.New(keyring.Config{DB: db, MasterKey: keyring.MasterKey{1}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	config := iam.Config{DB: db, Keyring: ring, Partition: partition, Log: log}
	for _, f := range edit {
		f(&config)
	}
	in := &installation{store: store, db: db, Service: iam.New(config)}
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ring.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, err := awsapi.NewHandler(awsapi.HandlerConfig{
		Services: []awsapi.Service{in.API(), {Model: awsapi.ModelNamed("lanyard"), Operations: in.Extension()}},
		Authenticator: &awsapi.Authenticator{Region: "us-east-1", Credentials: func(_ context.Context, id, _ string) (awsapi.Credential, error) {
			if c, ok := in.sessions.Load(id); ok {
				return c.(awsapi.Credential), nil
			}
			if c, ok := in.Credential(id); ok {
				return c, nil
			}
			return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey}
		}},
		Authorize: in.Authorize,
		Log:       log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return in, h
}

func (in *installation) client(c sigv4.Credentials) *awsiam.Client {
	return awsiam.New(awsiam.Options{
		Region:       "us-east-1",
		BaseEndpoint: &in.url,
		Credentials:  credentials.NewStaticCredentialsProvider(c.AccessKeyID, string(c.SecretAccessKey), c.SessionToken),
		HTTPClient:   awstest.HTTPClient(),
		Retryer:      aws.NopRetryer{},
	})
}

// session returns a client with temporary credentials of an identity.
func (in *installation) session(id awsapi.Identity) *awsiam.Client {
	c := sigv4.Credentials{AccessKeyID: arn.NewID(arn.TemporaryAccessKeyID, id.Account), SecretAccessKey: "secret", SessionToken: "token"}
	id.AccessKeyID = c.AccessKeyID
	in.sessions.Store(c.AccessKeyID, awsapi.Credential{Secret: c.SecretAccessKey, Identity: id})
	return in.client(c)
}

// roleSession is the identity of a session of one of the account's roles.
func (in *installation) roleSession(t testing.TB, role string) awsapi.Identity {
	t.Helper()
	out, err := in.root.GetRole(t.Context(), &awsiam.GetRoleInput{RoleName: &role})
	check(t, err)
	return awsapi.Identity{
		Kind: policy.RoleSession, Account: account, ARN: "arn:aws:sts::" + account + ":assumed-role/" + role + "/test",
		UserID: *out.Role.RoleId + ":test", EntityID: *out.Role.RoleId, EntityARN: *out.Role.Arn,
		Session: &awsapi.Session{Name: "test", Issued: time.Now(), Expires: time.Now().Add(time.Hour)},
	}
}

// user makes a user with an access key, and a client for it.
func (in *installation) user(t testing.TB, name string) (*awsiam.Client, sigv4.Credentials) {
	t.Helper()
	_, err := in.root.CreateUser(t.Context(), &awsiam.CreateUserInput{UserName: &name})
	check(t, err)
	out, err := in.root.CreateAccessKey(t.Context(), &awsiam.CreateAccessKeyInput{UserName: &name})
	check(t, err)
	c := sigv4.Credentials{AccessKeyID: *out.AccessKey.AccessKeyId, SecretAccessKey: sigv4.Secret(*out.AccessKey.SecretAccessKey)}
	return in.client(c), c
}

func (in *installation) role(t testing.TB, name string) {
	t.Helper()
	_, err := in.root.CreateRole(t.Context(), &awsiam.CreateRoleInput{
		RoleName: &name, AssumeRolePolicyDocument: aws.String(trusts("AWS", account)),
	})
	check(t, err)
}

func (in *installation) policy(t testing.TB, name, document string) (policyARN *string) {
	t.Helper()
	out, err := in.root.CreatePolicy(t.Context(), &awsiam.CreatePolicyInput{PolicyName: &name, PolicyDocument: &document})
	check(t, err)
	return out.Policy.Arn
}

// trusts is a trust policy for principals of one type.
func trusts(typ string, principals ...string) string {
	list, _ := json.Marshal(principals)
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"` + typ + `":` + string(list) +
		`},"Action":"sts:AssumeRole"}]}`
}

// statement is an identity policy of one statement.
func statement(effect, action, resource string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"` + effect + `","Action":"` + action + `","Resource":"` + resource + `"}]}`
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused holds an error to IAM's code and the beginning of its text.
func refused(t testing.TB, err error, code, message string) {
	t.Helper()
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		t.Fatalf("got error %v, want %s: %s", err, code, message)
	}
	if api.ErrorCode() != code || !strings.HasPrefix(api.ErrorMessage(), message) {
		t.Errorf("got %s: %s\nwant %s: %s", api.ErrorCode(), api.ErrorMessage(), code, message)
	}
}

// A refusal is a call and how IAM refuses it.
type refusal struct {
	name    string
	call    func() error
	code    string
	message string
}

func refuses(t *testing.T, cases []refusal) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { refused(t, c.call(), c.code, c.message) })
	}
}

// failure drops the result of a call.
func failure[T any](_ T, err error) error { return err }

func of[T any](v T) *T { return &v }
