package controlplane

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"html"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/gateway"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

const (
	account = "111122223333"
	other   = "444455556666"
)

// config returns a configuration over a store in memory.
func config(t *testing.T, store kv.Store) Config {
	t.Helper()
	return Config{
		Store: store, MasterKey: keyring.MasterKey{1}, Partition: "aws", Region: "us-east-1", Account: account,
		IssuerURL: "https://id.example.com:8443", Audit: openTrail(t, filepath.Join(t.TempDir(), "audit")),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// openTrail opens an audit trail until the test ends.
func openTrail(t *testing.T, dir string) *audit.Trail {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	records, err := audit.OpenFiles(audit.FilesConfig{Dir: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := records.Close(); err != nil {
			t.Error(err)
		}
	})
	return audit.NewTrail(records, audit.Required, log)
}

// directory returns a new directory.
func directory(t *testing.T) Directory {
	t.Helper()
	dir, err := OpenDirectory(t.TempDir() + "/data")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// start starts a control plane until the test ends.
func start(t *testing.T, c Config, dir Directory) *ControlPlane {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	return p
}

// sign makes a request that is signed for a service. The hash of a body that is read later is UNSIGNED-PAYLOAD.
func sign(t *testing.T, key sigv4.Credentials, service, method, url string, body io.Reader, hash string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Content-Sha256", hash)
	sigv4.Sign(r, key, service, "us-east-1", hash, time.Now())
	return r
}

// call asks Lanyard's own API and reads the answer into out.
func call(t *testing.T, p *ControlPlane, key sigv4.Credentials, path string, in, out any) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, sign(t, key, "lanyard", "POST", "http://localhost"+path, bytes.NewReader(body), hex.EncodeToString(sum[:])))
	if w.Code != http.StatusOK {
		t.Fatalf("POST %s: %d %s", path, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
		t.Fatal(err)
	}
}

func TestTheRootKeySurvivesCrashes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		undo func(t *testing.T, dir Directory, store kv.Store) kv.Store // what a crash left undone
	}{
		{"after all", func(_ *testing.T, _ Directory, store kv.Store) kv.Store { return store }},
		{"after the account was made", func(t *testing.T, dir Directory, store kv.Store) kv.Store {
			if err := os.Rename(dir.Path("root.key"), dir.Path("root.key.new")); err != nil {
				t.Fatal(err)
			}
			return store
		}},
		{"before the account was made", func(t *testing.T, dir Directory, _ kv.Store) kv.Store {
			if err := os.Rename(dir.Path("root.key"), dir.Path("root.key.new")); err != nil {
				t.Fatal(err)
			}
			return kv.NewMemory()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, store := directory(t), kv.NewMemory()
			start(t, config(t, store), dir)
			first, err := dir.RootKey()
			if err != nil {
				t.Fatal(err)
			}
			p := start(t, config(t, c.undo(t, dir, store)), dir)
			again, err := dir.RootKey()
			if err != nil || again != first {
				t.Fatalf("the key is %s, %v; it was %s", again.AccessKeyID, err, first.AccessKeyID)
			}
			if _, err := os.Stat(dir.Path("root.key.new")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("root.key.new is still there, or %v", err)
			}
			var made struct{ Account struct{ ID string } }
			call(t, p, again, "/lanyard/accounts", map[string]string{"name": "other", "accountId": other}, &made)
			if made.Account.ID != other {
				t.Errorf("the key made account %q", made.Account.ID)
			}
		})
	}
}

func TestOneReplicaGetsTheRootKey(t *testing.T) {
	t.Parallel()
	store := kv.NewMemory()
	dirs := []Directory{directory(t), directory(t), directory(t)}
	var group sync.WaitGroup
	for _, dir := range dirs {
		p, err := New(config(t, store))
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			if err := p.Start(t.Context(), dir); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	keys := 0
	for _, dir := range dirs {
		if _, err := dir.RootKey(); err == nil {
			keys++
		}
		if _, err := os.Stat(dir.Path("root.key.new")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("root.key.new is still there, or %v", err)
		}
	}
	if keys != 1 {
		t.Errorf("%d replicas have a root key, want 1", keys)
	}
}

func TestAnotherFirstAccountIsRefused(t *testing.T) {
	t.Parallel()
	store, dir := kv.NewMemory(), directory(t)
	start(t, config(t, store), dir)
	before, err := dir.RootKey()
	if err != nil {
		t.Fatal(err)
	}
	changed := config(t, store)
	changed.Account = other
	for name, dir := range map[string]Directory{"the same directory": dir, "another replica's": directory(t)} {
		p, err := New(changed)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(t.Context(), dir); err == nil || !strings.Contains(err.Error(), account) {
			t.Errorf("%s: got %v, want an error that names %s", name, err, account)
		}
	}
	if after, err := dir.RootKey(); err != nil || after != before {
		t.Errorf("the root key is %s, %v; it was %s", after.AccessKeyID, err, before.AccessKeyID)
	}
}

// jwks makes a key pair and returns the public key as a JWK set.
func jwks(t *testing.T, id string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: id, Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// roundTripper is an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestWhereKeysComeFrom(t *testing.T) {
	t.Parallel()
	var fetched []string
	c := config(t, kv.NewMemory())
	c.Client = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		fetched = append(fetched, r.URL.String())
		return nil, errors.New("there is no network")
	})}
	dir := directory(t)
	p := start(t, c, dir)
	root, err := dir.RootKey()
	if err != nil {
		t.Fatal(err)
	}
	var made struct{ AccessKeyID, SecretAccessKey string }
	call(t, p, root, "/lanyard/accounts", map[string]string{"name": "other", "accountId": other}, &made)
	theirs := sigv4.Credentials{AccessKeyID: made.AccessKeyID, SecretAccessKey: sigv4.Secret(made.SecretAccessKey)}
	register := func(key sigv4.Credentials, name, issuer, jwks string) (issuerURL string) {
		var out struct {
			Cluster struct {
				Identity struct{ OIDC struct{ Issuer string } }
			}
		}
		in := map[string]string{"name": name, "issuer": issuer, "jwks": jwks}
		maps.DeleteFunc(in, func(_, v string) bool { return v == "" })
		call(t, p, key, "/lanyard/clusters", in, &out)
		return out.Cluster.Identity.OIDC.Issuer
	}
	const (
		ownURL   = "https://own.example.com/x"
		theirURL = "https://their.example.com/x"
		bareURL  = "https://bare.example.com/x"
	)
	hosted := register(root, "hosted", "", "")
	register(root, "own", ownURL, jwks(t, "own-key"))
	register(theirs, "their", theirURL, jwks(t, "their-key"))
	register(root, "bare", bareURL, "")
	onPort := func(url, port string) string {
		return strings.Replace(strings.Replace(url, ":8443", "", 1), ".com", ".com"+port, 1)
	}
	const idpURL = "https://idp.example.com"
	gone := hosted[:len(hosted)-32] + strings.Repeat("0", 32)

	for _, c := range []struct {
		name     string
		account  string // of the provider
		provider string // the URL that it was registered with
		issuer   string // of the token; the provider's URL when empty
		keys     bool   // are at hand
		fetched  bool   // are asked for at the provider's URL
		refused  bool
	}{
		{name: "a hosted issuer's keys are at hand", account: account, provider: hosted, keys: true},
		{name: "to another account's provider, too", account: other, provider: hosted, keys: true},
		{name: "whatever port the provider was registered with", account: account, provider: onPort(hosted, ""), issuer: hosted, keys: true},
		{name: "a token that names a hosted issuer by another port", account: account, provider: hosted, issuer: onPort(hosted, ":9443"), refused: true},
		{name: "even if that is the provider's port", account: account, provider: onPort(hosted, ":9443"), refused: true},
		{name: "an issuer that is hosted no more is like any other", account: account, provider: gone, fetched: true},
		{name: "keys that were registered in the account", account: account, provider: ownURL, keys: true},
		{name: "keys that were registered in another account do not count", account: account, provider: theirURL, fetched: true},
		{name: "but they do there", account: other, provider: theirURL, keys: true},
		{name: "a cluster without registered keys", account: account, provider: bareURL, fetched: true},
		{name: "no cluster at all", account: account, provider: idpURL, fetched: true},
		{name: "a token from another port than the provider's", account: account, provider: bareURL, issuer: onPort(bareURL, ":9443"), refused: true},
		{name: "registered keys are not for another port", account: account, provider: ownURL, issuer: onPort(ownURL, ":9443"), refused: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			fetched = nil
			source, err := p.keys.of(&iam.Provider{Account: c.account, FetchURL: c.provider}, cmp.Or(c.issuer, c.provider))
			if c.refused {
				if !errors.Is(err, idtoken.ErrKeys) || len(fetched) > 0 {
					t.Errorf("got error %v and fetched %v, want ErrKeys and nothing", err, fetched)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			keys, err := source.Keys(t.Context(), "")
			if (err == nil && len(keys) > 0) != c.keys {
				t.Errorf("got %d keys, %v; want some: %v", len(keys), err, c.keys)
			}
			if (len(fetched) > 0) != c.fetched || c.fetched && !strings.HasPrefix(fetched[0], c.provider+"/.well-known/") {
				t.Errorf("fetched %v, want something: %v", fetched, c.fetched)
			}
		})
	}
}

func TestDocumentsAndObjectsBelowID(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, target, authorization string
		document                    bool
	}{
		{"a discovery document", "/id/ABC/.well-known/openid-configuration", "", true},
		{"with a query, which caches may add", "/id/ABC/keys?v=1", "", true},
		{"an object whose bucket is in the host", "/id/report.csv", "AWS4-HMAC-SHA256 Credential=…", false},
		{"the same by a presigned URL", "/id/report.csv?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00", "", false},
		{"anything else", "/", "", false},
	} {
		r := httptest.NewRequest("GET", c.target, nil)
		if c.authorization != "" {
			r.Header.Set("Authorization", c.authorization)
		}
		if got := isDocument(r); got != c.document {
			t.Errorf("%s: got %v, want %v", c.name, got, c.document)
		}
	}
}

// pipes is a net.Listener whose connections are pipes, so that time can be virtual.
type pipes struct {
	accept chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error { close(p.closed); return nil }

func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.accept <- server
	return client, nil
}

// slowly is a body whose second half takes its time.
func slowly(ctx context.Context, text string, pause time.Duration) io.Reader {
	half := len(text) / 2
	return io.MultiReader(strings.NewReader(text[:half]), waiting{ctx, pause}, strings.NewReader(text[half:]))
}

// waiting is a reader of nothing, which takes a while.
type waiting struct {
	ctx   context.Context
	pause time.Duration
}

func (w waiting) Read([]byte) (int, error) {
	select {
	case <-time.After(w.pause):
	case <-w.ctx.Done():
	}
	return 0, io.EOF
}

func TestOnlyObjectsMayTakeTheirTime(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	dir := directory(t)
	synctest.Test(t, func(t *testing.T) {
		c := config(t, kv.NewMemory())
		var err error
		if c.Objects, err = gateway.OpenDirectory(data, c.Log); err != nil {
			t.Fatal(err)
		}
		defer c.Objects.(io.Closer).Close()
		p := start(t, c, dir)
		root, err := dir.RootKey()
		if err != nil {
			t.Fatal(err)
		}
		l := pipes{make(chan net.Conn), make(chan struct{})}
		server := &http.Server{Handler: p.Handler()}
		go server.Serve(l)
		defer server.Close()
		client := &http.Client{Transport: &http.Transport{DialContext: l.dial}}
		defer client.CloseIdleConnections()
		send := func(service, method, path, body string, pause time.Duration) (status int, took time.Duration) {
			const unsigned = "UNSIGNED-PAYLOAD"
			hash := unsigned
			if service != "s3" {
				sum := sha256.Sum256([]byte(body))
				hash = hex.EncodeToString(sum[:])
			}
			r := sign(t, root, service, method, "http://localhost"+path, nil, hash)
			if body != "" {
				r.Body, r.ContentLength = io.NopCloser(slowly(t.Context(), body, pause)), int64(len(body))
			}
			began := time.Now()
			reply, err := client.Do(r)
			if err != nil {
				t.Fatalf("%s %s: %v", method, path, err)
			}
			defer reply.Body.Close()
			if _, err := io.Copy(io.Discard, reply.Body); err != nil {
				t.Fatal(err)
			}
			return reply.StatusCode, time.Since(began)
		}
		for _, c := range []struct {
			name, service, method, path, body string
			pause                             time.Duration
			status                            int
			took                              time.Duration
		}{
			{"a small request in time", "lanyard", "POST", "/lanyard/clusters", `{"name": "one"}`, 29 * time.Second, 200, 29 * time.Second},
			{"a small request that never ends", "lanyard", "POST", "/lanyard/clusters", `{"name": "two"}`, time.Hour, 400, 30 * time.Second},
			{"a bucket", "s3", "PUT", "/a-bucket", "", 0, 200, 0},
			{"an object over a slow line", "s3", "PUT", "/a-bucket/object", "of many bytes", 10 * time.Minute, 200, 10 * time.Minute},
		} {
			if status, took := send(c.service, c.method, c.path, c.body, c.pause); status != c.status || took != c.took {
				t.Errorf("%s: got %d after %s, want %d after %s", c.name, status, took, c.status, c.took)
			}
		}
	})
}

func TestATrustGuardThatIsNone(t *testing.T) {
	t.Parallel()
	c := config(t, kv.NewMemory())
	c.TrustGuard = "lenient"
	if _, err := New(c); err == nil || !strings.Contains(err.Error(), "lenient") {
		t.Errorf("got error %v", err)
	}
}

// What EC2 says of a denied change is what STS decodes, and the trust guard stands in front of IAM.
func TestThePolicyLanguageInTheServices(t *testing.T) {
	t.Parallel()
	c, dir := config(t, kv.NewMemory()), directory(t)
	c.TrustGuard = "deny"
	p := start(t, c, dir)
	root, err := dir.RootKey()
	if err != nil {
		t.Fatal(err)
	}
	query := func(key sigv4.Credentials, service string, params ...string) (status int, body string) {
		t.Helper()
		form := url.Values{}
		for i := 0; i < len(params); i += 2 {
			form.Set(params[i], params[i+1])
		}
		text := form.Encode()
		sum := sha256.Sum256([]byte(text))
		r := sign(t, key, service, "POST", "http://localhost/", strings.NewReader(text), hex.EncodeToString(sum[:]))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		p.Handler().ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	between := func(text, before, after string) string {
		t.Helper()
		_, rest, ok := strings.Cut(text, before)
		value, _, ended := strings.Cut(rest, after)
		if !ok || !ended {
			t.Fatalf("%s is not between %q and %q", text, before, after)
		}
		return value
	}
	const iamVersion, ec2Version, stsVersion = "2010-05-08", "2016-11-15", "2011-06-15"
	query(root, "iam", "Action", "CreateUser", "Version", iamVersion, "UserName", "bob")
	_, made := query(root, "iam", "Action", "CreateAccessKey", "Version", iamVersion, "UserName", "bob")
	bob := sigv4.Credentials{
		AccessKeyID:     between(made, "<AccessKeyId>", "</AccessKeyId>"),
		SecretAccessKey: sigv4.Secret(between(made, "<SecretAccessKey>", "</SecretAccessKey>")),
	}
	status, refusal := query(bob, "ec2", "Action", "DescribeInstances", "Version", ec2Version)
	if status != http.StatusForbidden || strings.Contains(refusal, "Encoded") {
		t.Errorf("reading: %d %s", status, refusal)
	}
	status, refusal = query(bob, "ec2", "Action", "TerminateInstances", "Version", ec2Version)
	blob := between(refusal, "allows the ec2:TerminateInstances action. Encoded authorization failure message: ", "</Message>")
	if status != http.StatusForbidden || !strings.Contains(refusal, "<Code>UnauthorizedOperation</Code>") {
		t.Errorf("a change: %d %s", status, refusal)
	}
	if status, answer := query(bob, "sts", "Action", "DecodeAuthorizationMessage", "Version", stsVersion, "EncodedMessage", blob); status != http.StatusForbidden {
		t.Errorf("without permission it is decoded: %d %s", status, answer)
	}
	status, answer := query(root, "sts", "Action", "DecodeAuthorizationMessage", "Version", stsVersion, "EncodedMessage", blob)
	var decoded struct {
		Allowed, ExplicitDeny bool
		Context               struct {
			Action    string
			Principal struct{ Name string }
		}
	}
	if err := json.Unmarshal([]byte(html.UnescapeString(between(answer, "<DecodedMessage>", "</DecodedMessage>"))), &decoded); err != nil {
		t.Fatal(err)
	}
	if status != http.StatusOK || decoded.Allowed || decoded.ExplicitDeny || decoded.Context.Action != "ec2:TerminateInstances" || decoded.Context.Principal.Name != "bob" {
		t.Errorf("%d, decoded %+v", status, decoded)
	}
	status, answer = query(root, "iam", "Action", "CreateRole", "Version", iamVersion, "RoleName", "open", "AssumeRolePolicyDocument",
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::`+account+
			`:oidc-provider/oidc.example.com"},"Action":"sts:AssumeRoleWithWebIdentity"}]}`)
	if status != http.StatusBadRequest || !strings.Contains(answer, "<Code>MalformedPolicyDocument</Code>") || !strings.Contains(answer, "trust-without-subject") {
		t.Errorf("the trust guard: %d %s", status, answer)
	}
}
