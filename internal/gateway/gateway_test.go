package gateway_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/gateway"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

const (
	accountA = "111122223333"
	accountB = "444455556666"
)

// user is someone with an access key and one identity policy.
type user struct {
	account string
	name    string
	policy  string
}

func (u user) key() string { return "AKIA" + strings.ToUpper(u.name) }

func (u user) secret() sigv4.Secret { return sigv4.Secret("secret-of-" + u.name) }

func (u user) arn() string { return "arn:aws:iam::" + u.account + ":user/" + u.name }

const allowAll = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`

var (
	alice = user{accountA, "alice", allowAll}
	bob   = user{accountB, "bob", allowAll}
)

// allowing returns a user of account A who may do this.
func allowing(actions, resources string) user {
	list := func(s string) string { return `["` + strings.ReplaceAll(s, " ", `","`) + `"]` }
	return user{accountA, "carol", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":` + list(actions) + `,"Resource":` + list(resources) + `}]}`}
}

// iam makes an Authenticator and an Authorize function for users.
func iam(t *testing.T, users ...user) (*awsapi.Authenticator, func(context.Context, *awsapi.Caller, awsapi.Access) policy.Decision) {
	t.Helper()
	byKey := map[string]user{}
	policies := map[string]*policy.Policy{}
	for _, u := range users {
		p, err := policy.New("policy-of-"+u.name, policy.Identity, []byte(u.policy))
		if err != nil {
			t.Fatalf("policy of %s: %v", u.name, err)
		}
		byKey[u.key()], policies[u.arn()] = u, p
	}
	authenticator := &awsapi.Authenticator{Region: "us-east-1", Credentials: func(_ context.Context, id, _ string) (awsapi.Credential, error) {
		u, ok := byKey[id]
		switch {
		case id == "AKIAEXPIRED":
			return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.ExpiredSession}
		case id == "AKIAOUTAGE":
			return awsapi.Credential{}, fmt.Errorf("find key: %w", kv.ErrUnavailable)
		case !ok:
			return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey}
		}
		return awsapi.Credential{Secret: u.secret(), Identity: awsapi.Identity{
			Kind: policy.User, Account: u.account, ARN: u.arn(), UserID: "AIDA" + u.name, EntityID: "AIDA" + u.name, EntityARN: u.arn(), AccessKeyID: id,
		}}, nil
	}}
	authorize := func(_ context.Context, c *awsapi.Caller, a awsapi.Access) policy.Decision {
		var keys policy.Context
		if a.Context != nil {
			a.Context(&keys)
		}
		return policy.Evaluate(&policy.Request{
			Principal: policy.Principal{Kind: c.Kind, Account: c.Account, ARN: c.ARN, ID: c.EntityID},
			Action:    a.Action, Resource: a.Resource, ResourceAccount: a.ResourceAccount, Context: &keys,
		}, &policy.Policies{Identity: []*policy.Policy{policies[c.ARN]}})
	}
	return authenticator, authorize
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// openDirectory opens a store that is closed when the test ends.
func openDirectory(t *testing.T, dir string) http.Handler {
	t.Helper()
	store, err := gateway.OpenDirectory(dir, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, store) })
	return store
}

func closeStore(t *testing.T, store http.Handler) {
	t.Helper()
	if err := store.(io.Closer).Close(); err != nil && !strings.Contains(err.Error(), "already closed") {
		t.Error(err)
	}
}

// serve starts a gateway before a store.
func serve(t *testing.T, store http.Handler, users ...user) *httptest.Server {
	t.Helper()
	authenticator, authorize := iam(t, users...)
	server := httptest.NewServer(gateway.NewS3(gateway.Config{
		Authenticator: authenticator, Authorize: authorize, Store: store, Account: accountA, Log: testLog(t),
	}))
	t.Cleanup(server.Close)
	return server
}

// client returns the AWS SDK's client for a user.
func client(server *httptest.Server, u user) *s3.Client {
	return s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: &server.URL, UsePathStyle: true, HTTPClient: server.Client(), RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(u.key(), string(u.secret()), ""),
	})
}

// ask sends a signed request that no SDK would send. A payload hash of "" is that of the body.
func ask(t *testing.T, server *httptest.Server, u user, method, target, body string, change func(*http.Request)) (status int, header http.Header, answer string) {
	t.Helper()
	r, err := http.NewRequest(method, server.URL+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	sigv4.Sign(r, sigv4.Credentials{AccessKeyID: u.key(), SecretAccessKey: u.secret()}, "s3", "us-east-1", sha256Hex(body), time.Now())
	if change != nil {
		change(r)
	}
	return send(t, server, r)
}

func send(t *testing.T, server *httptest.Server, r *http.Request) (status int, header http.Header, answer string) {
	t.Helper()
	res, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

// errorOf reads S3's error.
type errorOf struct {
	XMLName   xml.Name `xml:"Error"`
	Code      string
	Message   string
	RequestID string `xml:"RequestId"`
	HostID    string `xml:"HostId"`
}

func parseError(t *testing.T, body string) errorOf {
	t.Helper()
	var e errorOf
	if err := xml.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("not an S3 error: %v\n%s", err, body)
	}
	return e
}

// code returns the error code of an SDK's error, or "" for none.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func message(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorMessage()
	}
	return ""
}

func mustCreate(t *testing.T, c *s3.Client, bucket string) {
	t.Helper()
	if _, err := c.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
}

func mustPut(t *testing.T, c *s3.Client, bucket, key, content string) {
	t.Helper()
	_, err := c.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader(content)})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func get(t *testing.T, c *s3.Client, bucket, key string) (string, error) {
	t.Helper()
	out, err := c.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		return "", err
	}
	defer out.Body.Close()
	b, err := io.ReadAll(out.Body)
	return string(b), err
}

func keysOf(t *testing.T, c *s3.Client, bucket string) []string {
	t.Helper()
	out, err := c.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &bucket})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, o := range out.Contents {
		keys = append(keys, aws.ToString(o.Key))
	}
	return keys
}

// stores are the ways to have one: embedded, and elsewhere, behind a second gateway that wants real signatures.
func stores(t *testing.T, test func(t *testing.T, store http.Handler)) {
	t.Run("directory", func(t *testing.T) {
		t.Parallel()
		test(t, openDirectory(t, t.TempDir()))
	})
	t.Run("upstream", func(t *testing.T) {
		t.Parallel()
		test(t, behind(t, serve(t, openDirectory(t, t.TempDir()), alice)))
	})
}

// behind returns a store that is a server elsewhere.
func behind(t *testing.T, server *httptest.Server) http.Handler {
	t.Helper()
	endpoint, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	store, err := gateway.Upstream(endpoint, sigv4.Credentials{AccessKeyID: alice.key(), SecretAccessKey: alice.secret()}, "us-east-1")
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func repeated(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
