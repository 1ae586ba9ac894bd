// Package awstest is the servers and clients that the tests of several services share: real services over a store, behind the wire, and
// AWS's own clients of them. Only tests import it.
package awstest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/eks"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/oidc"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// Region is the region of the servers and of their clients.
const Region = "us-east-1"

// Config is what services are over.
type Config struct {
	Store           kv.Store // required
	Now             func() time.Time
	Network         *http.Client // by which issuers' keys are fetched; http.DefaultClient when nil
	MaxAssociations int          // EKS's own when zero
	Log             *slog.Logger // none when nil
}

// Services are IAM and EKS, and what they stand on.
type Services struct {
	DB      *kv.DB
	Keyring *keyring.Keyring
	IAM     *iam.Service
	EKS     *eks.Service
	Log     *slog.Logger
}

// New makes the services. They are at work from Serve on: until then others can add tables to the DB.
func New(t testing.TB, c Config) *Services {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Network == nil {
		c.Network = http.DefaultClient
	}
	db := kv.NewDB(kv.Config{Store: c.Store, Log: c.Log})
	ring, err := keyring.New(keyring.Config{DB: db, MasterKey: keyring.MasterKey{1, 2, 3}, Log: c.Log})
	if err != nil {
		t.Fatal(err)
	}
	issuers := oidc.New(oidc.Config{DB: db, Keyring: ring, BaseURL: "https://oidc.example.com", Now: c.Now, Log: c.Log})
	users := iam.New(iam.Config{DB: db, Keyring: ring, Partition: "aws", Now: c.Now, Log: c.Log})
	clusters := eks.New(eks.Config{
		DB: db, IAM: users, Issuers: issuers, Partition: "aws", MaxAssociations: c.MaxAssociations, Now: c.Now, Log: c.Log,
		KeyCache: idtoken.NewCache(idtoken.CacheConfig{Client: c.Network, Now: c.Now}),
	})
	return &Services{DB: db, Keyring: ring, IAM: users, EKS: clusters, Log: c.Log}
}

// Authenticator knows the long-term keys of IAM's users, by the real clock, as the clients have it.
func (s *Services) Authenticator() *awsapi.Authenticator {
	return &awsapi.Authenticator{Region: Region, Credentials: func(_ context.Context, id, _ string) (awsapi.Credential, error) {
		c, ok := s.IAM.Credential(id)
		if !ok {
			return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey}
		}
		return c, nil
	}}
}

// Handler serves IAM, EKS and Lanyard's own API, with what c has besides.
func (s *Services) Handler(t testing.TB, c awsapi.HandlerConfig) *awsapi.Handler {
	t.Helper()
	c.Services = append(c.Services, s.IAM.API(), s.EKS.API(),
		awsapi.Service{Model: awsapi.ModelNamed("lanyard"), Operations: append(s.IAM.Extension(), s.EKS.Extension()...)})
	if c.Authenticator == nil {
		c.Authenticator = s.Authenticator()
	}
	c.Authorize, c.Used, c.Log = s.IAM.Authorize, s.IAM.NoteUse, s.Log
	h, err := awsapi.NewHandler(c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Serve starts the services and a server of a handler of theirs, until the test ends.
func (s *Services) Serve(t testing.TB, h http.Handler) Client {
	t.Helper()
	if err := s.DB.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Keyring.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return Client{URL: server.URL}
}

// Root makes an account unless it is there, and returns its root's key.
func (s *Services) Root(t testing.TB, account string) sigv4.Credentials {
	t.Helper()
	root, err := s.IAM.EnsureAccount(t.Context(), account, "test")
	if err != nil {
		t.Fatal(err)
	}
	return *root
}

// Client is a server as somebody uses it.
type Client struct {
	URL string
	Key sigv4.Credentials
}

// Credentials are the key as AWS's clients take it.
func (c Client) Credentials() aws.CredentialsProviderFunc {
	return func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: c.Key.AccessKeyID, SecretAccessKey: string(c.Key.SecretAccessKey), SessionToken: c.Key.SessionToken}, nil
	}
}

// HTTPClient is what AWS's clients that try once are to connect by. The SDK closes a request's body when its answer begins. Whoever copies the
// body still, and would be at its end, is then told of an error by its WriteTo, where its Read would just say that it ends; and net/http closes
// the connection for that, under an answer of which some kilobytes may be on their way. The SDK's retries hide it.
func HTTPClient() *http.Client {
	return &http.Client{Transport: whole{http.DefaultTransport.(*http.Transport).Clone()}}
}

// whole sends bodies that can only be read.
type whole struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (w whole) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context())
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return w.RoundTripper.RoundTrip(r)
}

// IAM is AWS's client of IAM; it tries once.
func (c Client) IAM() *awsiam.Client {
	return awsiam.New(awsiam.Options{
		Region: Region, BaseEndpoint: &c.URL, Credentials: c.Credentials(), HTTPClient: HTTPClient(), Retryer: aws.NopRetryer{},
	})
}

// EKS is AWS's client of EKS; it tries once.
func (c Client) EKS() *awseks.Client {
	return awseks.New(awseks.Options{
		Region: Region, BaseEndpoint: &c.URL, Credentials: c.Credentials(), HTTPClient: HTTPClient(), Retryer: aws.NopRetryer{},
	})
}

// Document is a policy of statements.
func Document(statements string) *string {
	return aws.String(`{"Version":"2012-10-17","Statement":[` + statements + `]}`)
}

// User makes a user with an inline policy of these statements, and returns the user's key.
func (c Client) User(t testing.TB, name, statements string) sigv4.Credentials {
	t.Helper()
	users := c.IAM()
	if _, err := users.CreateUser(t.Context(), &awsiam.CreateUserInput{UserName: &name}); err != nil {
		t.Fatal(err)
	}
	_, err := users.PutUserPolicy(t.Context(), &awsiam.PutUserPolicyInput{
		UserName: &name, PolicyName: aws.String("p"), PolicyDocument: Document(statements),
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := users.CreateAccessKey(t.Context(), &awsiam.CreateAccessKeyInput{UserName: &name})
	if err != nil {
		t.Fatal(err)
	}
	return sigv4.Credentials{AccessKeyID: *key.AccessKey.AccessKeyId, SecretAccessKey: sigv4.Secret(*key.AccessKey.SecretAccessKey)}
}

// Request makes a signed request of a service that speaks JSON.
func (c Client) Request(t testing.TB, service, method, path, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.URL+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	hash := sha256.Sum256([]byte(body))
	sigv4.Sign(req, c.Key, service, Region, hex.EncodeToString(hash[:]), time.Now())
	return req
}

// Refusal is a refusal as the SDK would return it, with the status.
type Refusal struct {
	smithy.GenericAPIError
	Status int
}

// Call makes a call of a service that speaks JSON. The error is a *Refusal.
func (c Client) Call(t testing.TB, service, method, path, body string) (map[string]any, error) {
	t.Helper()
	res, err := http.DefaultClient.Do(c.Request(t, service, method, path, body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%s %s: %s: %v", method, path, text, err)
	}
	if res.StatusCode != http.StatusOK {
		message, _ := out["message"].(string)
		return nil, &Refusal{smithy.GenericAPIError{Code: res.Header.Get("X-Amzn-Errortype"), Message: message}, res.StatusCode}
	}
	return out, nil
}

// Register registers a cluster with a hosted issuer.
func (c Client) Register(t testing.TB, cluster string) {
	t.Helper()
	if _, err := c.Call(t, "lanyard", http.MethodPost, "/lanyard/clusters", `{"name":"`+cluster+`"}`); err != nil {
		t.Fatal(err)
	}
}

// WantRefused fails the test unless err is a refusal with the code and, when it is not empty, the message.
func WantRefused(t testing.TB, err error, code, message string) {
	t.Helper()
	refusal, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		t.Fatalf("got %v, want %s", err, code)
	}
	if refusal.ErrorCode() != code || message != "" && refusal.ErrorMessage() != message {
		t.Errorf("refused with %s: %s\nwant %s: %s", refusal.ErrorCode(), refusal.ErrorMessage(), code, message)
	}
}

// Must unwraps what must succeed.
func Must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
