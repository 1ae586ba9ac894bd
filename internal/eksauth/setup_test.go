package eksauth_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/go-jose/go-jose/v4"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/awstest"
	"github.com/lanyard-id/lanyard/internal/eksauth"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/internal/sts"
)

const (
	account = "111122223333"
	other   = "444455556666"
	region  = awstest.Region
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
	awstest.Client
	handler http.Handler
	iam     *iam.Service
	sts     *sts.Service
	audit   *recorder
	log     *lockedBuffer // the wide events, as JSON
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
	services := awstest.New(t, awstest.Config{
		Store: kv.NewMemory(), Network: &http.Client{Transport: offline{}}, Log: slog.New(slog.NewJSONHandler(s.log, nil)),
	})
	s.iam = services.IAM
	s.sts = sts.New(sts.Config{
		IAM: s.iam, Keyring: services.Keyring, Partition: "aws", Audit: s.audit,
		Keys: func(*iam.Provider, string) (idtoken.KeySource, error) { return nil, idtoken.ErrKeys },
	})
	pods := eksauth.New(eksauth.Config{EKS: services.EKS, STS: s.sts, Partition: "aws", Audit: s.audit})
	s.handler = services.Handler(t, awsapi.HandlerConfig{
		Services:      []awsapi.Service{s.sts.API(), pods.API()},
		Authenticator: &awsapi.Authenticator{Credentials: s.sts.Credentials, Region: region},
	})
	s.Client = services.Serve(t, s.handler)
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
	copied.Key = key
	return &copied
}

// role makes a role with a trust policy and, unless they are empty, permissions.
func (s *server) role(t testing.TB, name, trust, permissions string) string {
	t.Helper()
	c := s.IAM()
	out, err := c.CreateRole(t.Context(), &awsiam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: awstest.Document(trust)})
	if err != nil {
		t.Fatal(err)
	}
	if permissions != "" {
		_, err := c.PutRolePolicy(t.Context(), &awsiam.PutRolePolicyInput{
			RoleName: &name, PolicyName: aws.String("p"), PolicyDocument: awstest.Document(permissions),
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
	return s.as(s.User(t, name, permissions))
}

// call signs and makes a REST-JSON call. A refusal comes back as the SDK would return it, with the status.
func (s *server) call(t testing.TB, service, path string, in any) (map[string]any, error) {
	t.Helper()
	return s.Call(t, service, http.MethodPost, path, text(t, in))
}

func (s *server) request(t testing.TB, service, path string, in any) *http.Request {
	t.Helper()
	return s.Request(t, service, http.MethodPost, path, text(t, in))
}

func text(t testing.TB, in any) string {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// assume trades a token.
func (s *server) assume(t testing.TB, cluster, token string) (map[string]any, error) {
	t.Helper()
	return s.call(t, "eks-auth", "/clusters/"+cluster+"/assume-role-for-pod-identity", map[string]string{"token": token})
}

// wantRefused fails the test unless err is a refusal with the status, code and message, of which … leaves the rest open.
func wantRefused(t testing.TB, err error, status int, code, message string) {
	t.Helper()
	got, ok := errors.AsType[*awstest.Refusal](err)
	if !ok {
		t.Fatalf("got %v, want %s", err, code)
	}
	text := got.Message
	if begin, open := strings.CutSuffix(message, "…"); open && strings.HasPrefix(text, begin) {
		text = message
	}
	if got.Status != status || got.Code != code || text != message {
		t.Errorf("refused with %d %s: %s\nwant %d %s: %s", got.Status, got.Code, got.Message, status, code, message)
	}
}

func must[T any](v T, err error) func(t testing.TB) T { return awstest.Must(v, err) }

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
	out, err := s.EKS().CreatePodIdentityAssociation(t.Context(), in)
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
