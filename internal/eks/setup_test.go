package eks_test

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
	"sync/atomic"
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

const (
	account = "111122223333"
	other   = "444455556666"
	region  = "us-east-1"

	trustPods = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},` +
		`"Action":["sts:AssumeRole","sts:TagSession"]}]}`
	trustEKS = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"eks.amazonaws.com"},` +
		`"Action":"sts:AssumeRole"}]}`
)

// world is a store, and the clock and the settings of the replicas over it.
type world struct {
	store           kv.Store
	now             atomic.Int64 // Unix nanoseconds
	maxAssociations int
}

func newWorld() *world {
	w := &world{store: kv.NewMemory()}
	w.now.Store(time.Now().UnixNano())
	return w
}

func (w *world) time() time.Time { return time.Unix(0, w.now.Load()) }

func (w *world) sleep(d time.Duration) { w.now.Add(int64(d)) }

// replica is one server: the services over a store, and real clients of them with root's key of the account.
type replica struct {
	w    *world
	url  string
	eks  *eks.Service
	iam  *iam.Service
	root sigv4.Credentials
}

// start starts a replica over store, which is the world's or one in front of it.
func (w *world) start(t testing.TB, store kv.Store) *replica {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	db := kv.NewDB(kv.Config{Store: store, Log: log})
	ring, err := keyring.New(keyring.Config{DB: db, MasterKey: keyring.MasterKey{1, 2, 3}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	issuers := oidc.New(oidc.Config{DB: db, Keyring: ring, BaseURL: "https://oidc.example.com", Now: w.time, Log: log})
	users := iam.New(iam.Config{DB: db, Keyring: ring, Partition: "aws", Now: w.time, Log: log})
	clusters := eks.New(eks.Config{
		DB: db, IAM: users, Issuers: issuers, Partition: "aws", MaxAssociations: w.maxAssociations, Now: w.time, Log: log,
		KeyCache: idtoken.NewCache(idtoken.CacheConfig{Client: http.DefaultClient, Now: w.time}),
	})
	authenticator := &awsapi.Authenticator{
		Region: region, // by the real clock, as the clients
		Credentials: func(_ context.Context, id, _ string) (awsapi.Credential, error) {
			c, ok := users.Credential(id)
			if !ok {
				return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey}
			}
			return c, nil
		},
	}
	handler, err := awsapi.NewHandler(awsapi.HandlerConfig{
		Services: []awsapi.Service{
			users.API(), clusters.API(), {Model: awsapi.ModelNamed("lanyard"), Operations: append(users.Extension(), clusters.Extension()...)},
		},
		Authenticator: authenticator,
		Authorize:     users.Authorize,
		Log:           log,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ring.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &replica{w: w, url: server.URL, eks: clusters, iam: users}
}

// newReplica is a world with one replica, which has made the account.
func newReplica(t testing.TB) *replica {
	t.Helper()
	w := newWorld()
	return w.start(t, w.store).withAccount(t, account)
}

// withAccount makes an account and returns the replica as its root uses it.
func (r *replica) withAccount(t testing.TB, id string) *replica {
	t.Helper()
	root, err := r.iam.EnsureAccount(t.Context(), id, "test")
	if err != nil {
		t.Fatal(err)
	}
	return r.as(*root)
}

// as is the replica as somebody else uses it.
func (r *replica) as(c sigv4.Credentials) *replica {
	copied := *r
	copied.root = c
	return &copied
}

func (r *replica) credentials() aws.CredentialsProviderFunc {
	return func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: r.root.AccessKeyID, SecretAccessKey: string(r.root.SecretAccessKey)}, nil
	}
}

func (r *replica) client() *awseks.Client {
	return awseks.New(awseks.Options{Region: region, BaseEndpoint: &r.url, Credentials: r.credentials(), Retryer: aws.NopRetryer{}})
}

func (r *replica) iamClient() *awsiam.Client {
	return awsiam.New(awsiam.Options{Region: region, BaseEndpoint: &r.url, Credentials: r.credentials(), Retryer: aws.NopRetryer{}})
}

// role makes a role and returns its ARN.
func (r *replica) role(t testing.TB, name, trust string) string {
	t.Helper()
	out, err := r.iamClient().CreateRole(t.Context(), &awsiam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: &trust})
	if err != nil {
		t.Fatal(err)
	}
	return *out.Role.Arn
}

// user makes a user with an inline policy of these statements, and returns the replica as that user uses it.
func (r *replica) user(t testing.TB, name, statements string) *replica {
	t.Helper()
	c := r.iamClient()
	if _, err := c.CreateUser(t.Context(), &awsiam.CreateUserInput{UserName: &name}); err != nil {
		t.Fatal(err)
	}
	_, err := c.PutUserPolicy(t.Context(), &awsiam.PutUserPolicyInput{
		UserName: &name, PolicyName: aws.String("p"), PolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[` + statements + `]}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.CreateAccessKey(t.Context(), &awsiam.CreateAccessKeyInput{UserName: &name})
	if err != nil {
		t.Fatal(err)
	}
	return r.as(sigv4.Credentials{AccessKeyID: *key.AccessKey.AccessKeyId, SecretAccessKey: sigv4.Secret(*key.AccessKey.SecretAccessKey)})
}

// hosted registers a cluster with a hosted issuer.
func (r *replica) hosted(t testing.TB, name string) {
	t.Helper()
	if _, err := r.call(t, "POST", "/lanyard/clusters", `{"name":"`+name+`"}`); err != nil {
		t.Fatal(err)
	}
}

// call makes a call of Lanyard's own API. A refusal comes back as the SDK would return it.
func (r *replica) call(t testing.TB, method, path, body string) (map[string]any, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	hash := sha256.Sum256([]byte(body))
	sigv4.Sign(req, r.root, "lanyard", region, hex.EncodeToString(hash[:]), time.Now())
	res, err := http.DefaultClient.Do(req)
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
		return nil, &smithy.GenericAPIError{Code: res.Header.Get("X-Amzn-Errortype"), Message: message}
	}
	return out, nil
}

// wantRefused fails the test unless err is a refusal with the code and, when it is not empty, the message.
func wantRefused(t testing.TB, err error, code, message string) {
	t.Helper()
	refusal, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		t.Fatalf("got %v, want %s", err, code)
	}
	if refusal.ErrorCode() != code || message != "" && refusal.ErrorMessage() != message {
		t.Errorf("refused with %s: %s\nwant %s: %s", refusal.ErrorCode(), refusal.ErrorMessage(), code, message)
	}
}

// must unwraps what must succeed.
func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
