package controlplane

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
	awscredentials "github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/go-jose/go-jose/v4"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/internal/tokenreview"
)

// defaultIssuer is what API servers have that nobody has told otherwise.
const defaultIssuer = "https://kubernetes.default.svc.cluster.local"

// signer is a cluster's key for its service accounts' tokens.
type signer struct {
	t      *testing.T
	key    *ecdsa.PrivateKey
	id     string
	issuer string
}

func newSigner(t *testing.T, id, issuer string) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{t, key, id, issuer}
}

func (s signer) jwks() string {
	s.t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: s.key.Public(), KeyID: s.id, Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// token is one of a pod of web/app.
func (s signer) token(audience, pod string) string {
	s.t.Helper()
	sign, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.key, KeyID: s.id}}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	now := time.Now()
	text, err := json.Marshal(map[string]any{
		"aud": []string{audience}, "iss": s.issuer, "sub": "system:serviceaccount:web:app", "exp": now.Add(time.Hour).Unix(), "iat": now.Unix(),
		"kubernetes.io": map[string]any{
			"namespace": "web", "serviceaccount": map[string]string{"name": "app", "uid": "1"}, "pod": map[string]string{"name": pod, "uid": pod},
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	jws, err := sign.Sign(text)
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// kubernetes is an API server that reviews tokens.
type kubernetes struct {
	mu      sync.Mutex
	reviews int
	revoked bool
	down    bool
}

func (k *kubernetes) RoundTrip(r *http.Request) (*http.Response, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reviews++
	if k.down {
		return nil, errors.New("no route to host")
	}
	status := `{"authenticated":true,"user":{"username":"system:serviceaccount:web:app"},"audiences":["sts.amazonaws.com","pods.eks.amazonaws.com"]}`
	if k.revoked {
		status = `{"error":"service account token has been invalidated"}`
	}
	body := `{"kind":"TokenReview","status":` + status + `}`
	return &http.Response{StatusCode: http.StatusCreated, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func (k *kubernetes) set(revoked, down bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revoked, k.down, k.reviews = revoked, down, 0
}

func (k *kubernetes) asked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reviews
}

func (k *kubernetes) server() *tokenreview.APIServer {
	return tokenreview.NewAPIServer("https://kubernetes", &http.Client{Transport: k})
}

// site is a control plane of two accounts, as the root of one of them sees it.
type site struct {
	*httptest.Server
	t    *testing.T
	p    *ControlPlane
	root sigv4.Credentials
}

func (s *site) aws() aws.Config {
	return aws.Config{
		Region: "us-east-1", BaseEndpoint: &s.URL, Retryer: func() aws.Retryer { return aws.NopRetryer{} }, HTTPClient: s.Client(),
		Credentials: awscredentials.NewStaticCredentialsProvider(s.root.AccessKeyID, string(s.root.SecretAccessKey), ""),
	}
}

// join registers a cluster with its keys, and gives web/app there the role "app" by both ways.
func (s *site) join(name string, of signer) {
	s.t.Helper()
	must := func(_ any, err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	call(s.t, s.p, s.root, "/lanyard/clusters", map[string]string{"name": name, "issuer": of.issuer, "jwks": of.jwks()}, &struct{}{})
	identities := iam.NewFromConfig(s.aws())
	made, err := identities.CreateOpenIDConnectProvider(s.t.Context(), &iam.CreateOpenIDConnectProviderInput{
		Url: &of.issuer, ClientIDList: []string{"sts.amazonaws.com"},
	})
	must(nil, err)
	role, err := identities.CreateRole(s.t.Context(), &iam.CreateRoleInput{RoleName: aws.String(name), AssumeRolePolicyDocument: aws.String(fmt.Sprintf(
		`{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Principal":{"Federated":%q},"Action":"sts:AssumeRoleWithWebIdentity","Condition":{"StringEquals":{"%s:sub":"system:serviceaccount:web:app"}}},
			{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":["sts:AssumeRole","sts:TagSession"]}]}`,
		aws.ToString(made.OpenIDConnectProviderArn), strings.TrimPrefix(of.issuer, "https://")))})
	must(nil, err)
	must(eks.NewFromConfig(s.aws()).CreatePodIdentityAssociation(s.t.Context(), &eks.CreatePodIdentityAssociationInput{
		ClusterName: &name, Namespace: aws.String("web"), ServiceAccount: aws.String("app"), RoleArn: role.Role.Arn,
	}))
}

// ways are the two by which a token is traded for the role that has the cluster's name. They return the error's code.
func (s *site) ways() map[string]func(cluster string, of signer, pod string) (code string) {
	codeOf := func(err error) string {
		if err == nil {
			return ""
		}
		if api, ok := errors.AsType[smithy.APIError](err); ok {
			return api.ErrorCode()
		}
		return err.Error()
	}
	return map[string]func(string, signer, string) string{
		"IRSA": func(cluster string, of signer, pod string) string {
			_, err := sts.NewFromConfig(s.aws()).AssumeRoleWithWebIdentity(s.t.Context(), &sts.AssumeRoleWithWebIdentityInput{
				RoleArn: aws.String("arn:aws:iam::" + s.account() + ":role/" + cluster), RoleSessionName: aws.String("test"),
				WebIdentityToken: aws.String(of.token("sts.amazonaws.com", pod)),
			})
			return codeOf(err)
		},
		"Pod Identity": func(cluster string, of signer, pod string) string {
			s.t.Helper()
			body := `{"token":"` + of.token("pods.eks.amazonaws.com", pod) + `"}`
			sum := sha256.Sum256([]byte(body))
			r := sign(s.t, s.root, "eks-auth", "POST", s.URL+"/clusters/"+cluster+"/assume-role-for-pod-identity", strings.NewReader(body), hex.EncodeToString(sum[:]))
			reply, err := s.Client().Do(r)
			if err != nil {
				s.t.Fatal(err)
			}
			defer reply.Body.Close()
			return reply.Header.Get("X-Amzn-Errortype")
		},
	}
}

func (s *site) account() string {
	s.t.Helper()
	who, err := sts.NewFromConfig(s.aws()).GetCallerIdentity(s.t.Context(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return aws.ToString(who.Account)
}

// newSite starts a control plane with reviews, and returns it as both accounts' roots see it.
func newSite(t *testing.T, c Config) (own, theirs *site) {
	t.Helper()
	dir := directory(t)
	p := start(t, c, dir)
	root, err := dir.RootKey()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(p.Handler())
	t.Cleanup(server.Close)
	var made struct{ AccessKeyID, SecretAccessKey string }
	call(t, p, root, "/lanyard/accounts", map[string]string{"name": "other", "accountId": other}, &made)
	return &site{server, t, p, root}, &site{server, t, p, sigv4.Credentials{AccessKeyID: made.AccessKeyID, SecretAccessKey: sigv4.Secret(made.SecretAccessKey)}}
}

// lockedBuffer is a buffer for a log.
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

// recorder is a store whose records are only written.
type recorder struct {
	audit.Store
	w *audit.Writer
}

func (r recorder) Record(ctx context.Context, e *audit.Event) error { return r.w.Record(ctx, e) }

func (recorder) Room() error { return nil }

func TestTokensAreReviewed(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"own", "arn:aws:eks:us-east-1:" + account + ":cluster/own"} {
		var k kubernetes
		var log lockedBuffer
		c := config(t, kv.NewMemory())
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		var trail lockedBuffer
		c.Audit = audit.NewTrail(recorder{w: audit.NewWriter(&trail)}, audit.Required, c.Log)
		c.TokenReview = TokenReview{Every: time.Hour, Servers: map[string]*tokenreview.APIServer{key: k.server(), "gone": k.server()}}
		own, theirs := newSite(t, c)
		reviewed, same, plain := newSigner(t, "k", defaultIssuer), newSigner(t, "k", defaultIssuer), newSigner(t, "p", "https://plain.example.com")
		otherID := newSigner(t, "another-id", defaultIssuer)
		own.join("own", reviewed)
		own.join("plain", plain)
		theirs.join("own", same)
		if !strings.Contains(log.String(), `msg="cluster of token reviews is not registered"`) || !strings.Contains(log.String(), "cluster=gone") {
			t.Errorf("what is not registered is not told: %s", log.String())
		}
		refusals := map[string]struct{ revoked, down, forged string }{
			"IRSA":         {"InvalidIdentityToken", "IDPCommunicationError", "InvalidIdentityToken"},
			"Pod Identity": {"InvalidTokenException", "ServiceUnavailableException", "InvalidTokenException"},
		}
		for way, trade := range own.ways() {
			refused := refusals[way]
			want := func(what, want string, asked int, got string) {
				t.Helper()
				if got != want || k.asked() != asked {
					t.Errorf("%s by %s: got %q after %d reviews, want %q after %d", what, way, got, k.asked(), want, asked)
				}
			}
			k.set(false, false)
			want("an honoured token", "", 1, trade("own", reviewed, "pod-1"))
			want("another one", "", 2, trade("own", reviewed, "pod-2"))
			want("a token that does not verify", refused.forged, 2, trade("own", same, "pod-3"))
			want("a token of no known key", refused.forged, 2, trade("own", otherID, "pod-3"))
			want("a cluster that is not asked", "", 2, trade("plain", plain, "pod-1"))
			want("a cluster of the same issuer, elsewhere", "", 2, theirs.ways()[way]("own", same, "pod-1"))
			k.set(true, false)
			want("a revoked token", refused.revoked, 1, trade("own", reviewed, "pod-4-"+strings.ToLower(way[:1])))
			want("a cluster that is not asked, then", "", 1, trade("plain", plain, "pod-2"))
			k.set(false, true)
			want("a token while nobody can be asked", refused.down, 1, trade("own", reviewed, "pod-5"))
			k.set(false, false)
			want("a token when they can be again", "", 1, trade("own", reviewed, "pod-5"))
		}
		for _, line := range []string{
			"token_review=honoured remembered=false", "token_review=refused", "token_review=failed",
		} {
			if !strings.Contains(log.String(), line) {
				t.Errorf("the log does not say %s", line)
			}
		}
		for _, said := range []string{"service account token has been invalidated", "no route to host", "system:serviceaccount:web:app", "pod-4-p"} {
			if !strings.Contains(trail.String(), said) {
				t.Errorf("the record does not say %s:\n%s", said, trail.String())
			}
		}
	}
}

func TestTokensAreNotReviewedUnasked(t *testing.T) {
	t.Parallel()
	var k kubernetes
	k.set(true, false)
	c := config(t, kv.NewMemory())
	c.TokenReview.Servers = map[string]*tokenreview.APIServer{"own": k.server()}
	own, _ := newSite(t, c)
	of := newSigner(t, "k", defaultIssuer)
	own.join("own", of)
	for way, trade := range own.ways() {
		if code := trade("own", of, "pod"); code != "" || k.asked() != 0 {
			t.Errorf("by %s: %s, after %d reviews", way, code, k.asked())
		}
	}
}

// What an agent would keep for hours, the control plane keeps for itself only if nobody need be asked.
func TestPodsWithoutAnAgentAreReviewed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		every                time.Duration
		credentials, reviews int // after two requests
	}{{0, 1, 0}, {time.Hour, 2, 1}} {
		var k kubernetes
		settings := config(t, kv.NewMemory())
		settings.TokenReview = TokenReview{Every: c.every, Servers: map[string]*tokenreview.APIServer{"own": k.server()}}
		own, _ := newSite(t, settings)
		of := newSigner(t, "k", defaultIssuer)
		own.join("own", of)
		token := of.token("pods.eks.amazonaws.com", "pod")
		keys := map[string]bool{}
		for range 2 {
			r, err := http.NewRequestWithContext(t.Context(), "GET", own.URL+"/v1/credentials", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", token)
			reply, err := own.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ AccessKeyID string }
			err = json.NewDecoder(reply.Body).Decode(&got)
			reply.Body.Close()
			if err != nil || got.AccessKeyID == "" {
				t.Fatalf("every %s: %s %v", c.every, reply.Status, err)
			}
			keys[got.AccessKeyID] = true
		}
		if len(keys) != c.credentials || k.asked() != c.reviews {
			t.Errorf("every %s: got %d credentials after %d reviews, want %d after %d", c.every, len(keys), k.asked(), c.credentials, c.reviews)
		}
	}
}

func TestReviewsThatCannotBe(t *testing.T) {
	t.Parallel()
	var k kubernetes
	for name, review := range map[string]TokenReview{
		"no API server":               {Every: time.Hour},
		"more often than can be kept": {Every: time.Second, Servers: map[string]*tokenreview.APIServer{"own": k.server()}},
		"not an ARN":                  {Every: time.Hour, Servers: map[string]*tokenreview.APIServer{"arn:aws": k.server()}},
		"not a cluster's ARN":         {Every: time.Hour, Servers: map[string]*tokenreview.APIServer{"arn:aws:iam::111122223333:role/own": k.server()}},
		"another partition's cluster": {Every: time.Hour, Servers: map[string]*tokenreview.APIServer{"arn:aws-cn:eks:cn-north-1:111122223333:cluster/own": k.server()}},
	} {
		c := config(t, kv.NewMemory())
		c.TokenReview = review
		if _, err := New(c); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
