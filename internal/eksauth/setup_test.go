package eksauth_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/smithy-go"
	"github.com/go-jose/go-jose/v4"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/eks"
	"github.com/lanyard-id/lanyard/internal/eksauth"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/oidc"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/internal/sts"
)

const (
	account = "111122223333"
	other   = "444455556666"
	region  = "us-east-1"
	issuer  = "https://kubernetes.example.com"

	trustPods = `{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":["sts:AssumeRole","sts:TagSession"]}`
	denied    = "Unauthorized Exception! EKS does not have permissions to assume the associated role."
)

// recorder keeps audit events, until it is broken.
type recorder struct {
	mu     sync.Mutex
	events []audit.Event
	broken bool
}

func (r *recorder) Record(_ context.Context, e *audit.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken {
		return errors.New("disk full")
	}
	r.events = append(r.events, *e)
	return nil
}

// named returns the events of a name, in order.
func (r *recorder) named(name string) (found []audit.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Name == name {
			found = append(found, e)
		}
	}
	return found
}

// server is all that is needed to trade a token, and real clients of it with some key.
type server struct {
	url     string
	handler http.Handler
	iam     *iam.Service
	sts     *sts.Service
	audit   *recorder
	log     *lockedBuffer // the wide events, as JSON
	key     sigv4.Credentials
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// offline is a network without a way anywhere.
type offline struct{}

func (offline) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no route to host")
}

// newServer starts a server with an account, as whose root it is used.
func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{audit: &recorder{}, log: &lockedBuffer{}}
	log := slog.New(slog.NewJSONHandler(s.log, nil))
	db := kv.NewDB(kv.Config{Store: kv.NewMemory(), Log: log})
	ring, err := keyring.New(keyring.Config{DB: db, MasterKey: keyring.MasterKey{1, 2, 3}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	issuers := oidc.New(oidc.Config{DB: db, Keyring: ring, BaseURL: "https://oidc.example.com", Log: log})
	s.iam = iam.New(iam.Config{DB: db, Keyring: ring, Partition: "aws", Log: log})
	cache := idtoken.NewCache(idtoken.CacheConfig{Client: &http.Client{Transport: offline{}}})
	clusters := eks.New(eks.Config{DB: db, IAM: s.iam, Issuers: issuers, KeyCache: cache, Partition: "aws", Log: log})
	s.sts = sts.New(sts.Config{
		IAM: s.iam, Keyring: ring, Partition: "aws", Audit: s.audit,
		Keys: func(*iam.Provider, string) (idtoken.KeySource, error) { return nil, idtoken.ErrKeys },
	})
	pods := eksauth.New(eksauth.Config{EKS: clusters, STS: s.sts, Partition: "aws", Audit: s.audit})
	s.handler, err = awsapi.NewHandler(awsapi.HandlerConfig{
		Services: []awsapi.Service{
			s.iam.API(), s.sts.API(), clusters.API(), pods.API(),
			{Model: awsapi.ModelNamed("lanyard"), Operations: append(s.iam.Extension(), clusters.Extension()...)},
		},
		Authenticator: &awsapi.Authenticator{Credentials: s.sts.Credentials, Region: region},
		Authorize:     s.iam.Authorize,
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
	server := httptest.NewServer(s.handler)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s.rootOf(t, account)
}

// rootOf makes an account and returns the server as its root uses it.
func (s *server) rootOf(t testing.TB, id string) *server {
	t.Helper()
	root, err := s.iam.EnsureAccount(t.Context(), id, "test")
	if err != nil {
		t.Fatal(err)
	}
	return s.as(*root)
}

func (s *server) as(key sigv4.Credentials) *server {
	copied := *s
	copied.key = key
	return &copied
}

func (s *server) credentials() aws.CredentialsProviderFunc {
	return func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{
			AccessKeyID: s.key.AccessKeyID, SecretAccessKey: string(s.key.SecretAccessKey), SessionToken: s.key.SessionToken,
		}, nil
	}
}

func (s *server) eksClient() *awseks.Client {
	return awseks.New(awseks.Options{Region: region, BaseEndpoint: &s.url, Credentials: s.credentials(), Retryer: aws.NopRetryer{}})
}

func (s *server) iamClient() *awsiam.Client {
	return awsiam.New(awsiam.Options{Region: region, BaseEndpoint: &s.url, Credentials: s.credentials(), Retryer: aws.NopRetryer{}})
}

func document(statements string) *string {
	return aws.String(`{"Version":"2012-10-17","Statement":[` + statements + `]}`)
}

// role makes a role with a trust policy and, unless they are empty, permissions.
func (s *server) role(t testing.TB, name, trust, permissions string) string {
	t.Helper()
	c := s.iamClient()
	out, err := c.CreateRole(t.Context(), &awsiam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: document(trust)})
	if err != nil {
		t.Fatal(err)
	}
	if permissions != "" {
		_, err := c.PutRolePolicy(t.Context(), &awsiam.PutRolePolicyInput{
			RoleName: &name, PolicyName: aws.String("p"), PolicyDocument: document(permissions),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return *out.Role.Arn
}

// user makes a user with permissions and returns the server as that user uses it.
func (s *server) user(t testing.TB, name, permissions string) *server {
	t.Helper()
	c := s.iamClient()
	if _, err := c.CreateUser(t.Context(), &awsiam.CreateUserInput{UserName: &name}); err != nil {
		t.Fatal(err)
	}
	_, err := c.PutUserPolicy(t.Context(), &awsiam.PutUserPolicyInput{
		UserName: &name, PolicyName: aws.String("p"), PolicyDocument: document(permissions),
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.CreateAccessKey(t.Context(), &awsiam.CreateAccessKeyInput{UserName: &name})
	if err != nil {
		t.Fatal(err)
	}
	return s.as(sigv4.Credentials{AccessKeyID: *key.AccessKey.AccessKeyId, SecretAccessKey: sigv4.Secret(*key.AccessKey.SecretAccessKey)})
}

// call signs and makes a REST-JSON call. A refusal comes back as the SDK would return it, with the status.
func (s *server) call(t testing.TB, service, path string, in any) (map[string]any, error) {
	t.Helper()
	res := s.send(t, service, path, in)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%s: %s: %v", path, text, err)
	}
	if res.StatusCode != http.StatusOK {
		message, _ := out["message"].(string)
		return nil, &refusal{smithy.GenericAPIError{Code: res.Header.Get("X-Amzn-Errortype"), Message: message}, res.StatusCode}
	}
	return out, nil
}

func (s *server) send(t testing.TB, service, path string, in any) *http.Response {
	t.Helper()
	res, err := http.DefaultClient.Do(s.request(t, service, path, in))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (s *server) request(t testing.TB, service, path string, in any) *http.Request {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	hash := sha256.Sum256(body)
	sigv4.Sign(req, s.key, service, region, hex.EncodeToString(hash[:]), time.Now())
	return req
}

type refusal struct {
	smithy.GenericAPIError
	status int
}

// assume trades a token.
func (s *server) assume(t testing.TB, cluster, token string) (map[string]any, error) {
	t.Helper()
	return s.call(t, "eks-auth", "/clusters/"+cluster+"/assume-role-for-pod-identity", map[string]string{"token": token})
}

// wantRefused fails the test unless err is a refusal with the status, code and message, of which … leaves the rest open.
func wantRefused(t testing.TB, err error, status int, code, message string) {
	t.Helper()
	got, ok := errors.AsType[*refusal](err)
	if !ok {
		t.Fatalf("got %v, want %s", err, code)
	}
	text := got.Message
	if begin, open := strings.CutSuffix(message, "…"); open && strings.HasPrefix(text, begin) {
		text = message
	}
	if got.status != status || got.Code != code || text != message {
		t.Errorf("refused with %d %s: %s\nwant %d %s: %s", got.status, got.Code, got.Message, status, code, message)
	}
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// kubernetes is a cluster's token issuer, elsewhere.
type kubernetes struct {
	key *ecdsa.PrivateKey
	id  string
}

func newKubernetes(t testing.TB) *kubernetes {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &kubernetes{key: key, id: "key"}
}

func (k *kubernetes) jwks(t testing.TB) string {
	t.Helper()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &k.key.PublicKey, KeyID: k.id, Algorithm: "ES256", Use: "sig"}}}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// claims are those of a token of a pod, which is valid for another hour.
func claims(namespace, serviceAccount, pod string) map[string]any {
	now := time.Now()
	return map[string]any{
		"aud": []string{"pods.eks.amazonaws.com"}, "iss": issuer, "sub": "system:serviceaccount:" + namespace + ":" + serviceAccount,
		"exp": now.Add(time.Hour).Unix(), "iat": now.Unix(), "nbf": now.Unix(), "jti": "1d1b0b1a-8d0c-4b60-a7b6-8b6f3a7a7c11",
		"kubernetes.io": map[string]any{
			"namespace":      namespace,
			"serviceaccount": map[string]any{"name": serviceAccount, "uid": "0fb8aef7-1f4b-4a06-9e09-1b54b3a1e6b3"},
			"pod":            map[string]any{"name": pod, "uid": "b1d0a6e9-4dd2-44ce-a7a0-0cd3f1bd9b6e"},
			"node":           map[string]any{"name": "node-1", "uid": "9c9d3a6d-6a47-4c07-8a43-3f2a3cf5dd0a"},
		},
	}
}

func (k *kubernetes) sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	return signed(t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: k.key, KeyID: k.id}}, claims)
}

func signed(t testing.TB, key jose.SigningKey, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	return must(jws.CompactSerialize())(t)
}

// join registers a cluster with its own issuer and its keys.
func (s *server) join(t testing.TB, name string, k *kubernetes) {
	t.Helper()
	in := map[string]any{"name": name, "issuer": issuer, "tags": map[string]string{"color": "red"}}
	if k != nil {
		in["jwks"] = k.jwks(t)
	}
	must(s.call(t, "lanyard", "/lanyard/clusters", in))(t)
}

// associate makes an association; change may be nil.
func (s *server) associate(t testing.TB, cluster, namespace, serviceAccount, role string, change func(*awseks.CreatePodIdentityAssociationInput)) string {
	t.Helper()
	in := &awseks.CreatePodIdentityAssociationInput{ClusterName: &cluster, Namespace: &namespace, ServiceAccount: &serviceAccount, RoleArn: &role}
	if change != nil {
		change(in)
	}
	out, err := s.eksClient().CreatePodIdentityAssociation(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return *out.Association.AssociationId
}

// session opens the credentials of an answer.
func (s *server) session(t testing.TB, answer map[string]any) awsapi.Identity {
	t.Helper()
	c := answer["credentials"].(map[string]any)
	return must(s.sts.Credentials(t.Context(), c["accessKeyId"].(string), c["sessionToken"].(string)))(t).Identity
}

func tags(id awsapi.Identity) []string {
	var out []string
	for _, tag := range id.Session.Tags {
		out = append(out, fmt.Sprintf("%s=%s", tag.Key, tag.Value))
	}
	return out
}

func credentials(answer map[string]any) sigv4.Credentials {
	c := answer["credentials"].(map[string]any)
	return sigv4.Credentials{
		AccessKeyID: c["accessKeyId"].(string), SecretAccessKey: sigv4.Secret(c["secretAccessKey"].(string)), SessionToken: c["sessionToken"].(string),
	}
}
