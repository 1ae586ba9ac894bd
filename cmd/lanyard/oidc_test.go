package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

// publicPEM is a public key in PEM.
func publicPEM(t *testing.T, kind string, public any) []byte {
	t.Helper()
	var der []byte
	var err error
	if kind == "RSA PUBLIC KEY" {
		der = x509.MarshalPKCS1PublicKey(public.(*rsa.PublicKey))
	} else {
		der, err = x509.MarshalPKIXPublicKey(public)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func newECKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRSAKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestPublicKeysInPEM(t *testing.T) {
	t.Parallel()
	first, second := newRSAKey(t), newECKey(t, elliptic.P384())
	private, err := x509.MarshalPKCS8PrivateKey(first)
	if err != nil {
		t.Fatal(err)
	}
	cert := certificate(t, "api.example", time.Now(), time.Now().Add(time.Hour))
	pkix := publicPEM(t, "PUBLIC KEY", &first.PublicKey)
	for _, c := range []struct {
		name  string
		files [][]byte
		want  []string // algorithms
		error string
	}{
		{"one key", [][]byte{pkix}, []string{"RS256"}, ""},
		{"PKCS #1", [][]byte{publicPEM(t, "RSA PUBLIC KEY", &first.PublicKey)}, []string{"RS256"}, ""},
		{"two in a file", [][]byte{append(pkix[:len(pkix):len(pkix)], publicPEM(t, "PUBLIC KEY", &second.PublicKey)...)}, []string{"RS256", "ES384"}, ""},
		{"two files", [][]byte{pkix, publicPEM(t, "PUBLIC KEY", &second.PublicKey)}, []string{"RS256", "ES384"}, ""},
		{"one key in two forms", [][]byte{pkix, publicPEM(t, "RSA PUBLIC KEY", &first.PublicKey)}, []string{"RS256"}, ""},
		{"a certificate", [][]byte{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})}, []string{"ES256"}, ""},
		{"a private key", [][]byte{pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}, nil, "holds a private key"},
		{"a private key behind a public one", [][]byte{append(pkix[:len(pkix):len(pkix)], pem.EncodeToMemory(
			&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(first)})...)}, nil, "holds a private key"},
		{"a curve that STS does not take", [][]byte{publicPEM(t, "PUBLIC KEY", &newECKey(t, elliptic.P224()).PublicKey)}, nil, "STS takes"},
		{"something else", [][]byte{pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte("x")})}, nil, `a PEM block of type "X509 CRL"`},
		{"no PEM", [][]byte{[]byte("{}")}, nil, "holds no public key in PEM"},
		{"a damaged key", [][]byte{pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})}, nil, "asn1"},
		{"a very long file", [][]byte{make([]byte, maxKeySet+1)}, nil, "longer than 1048576 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var in keyInput
			for i, text := range c.files {
				name := filepath.Join(t.TempDir(), string(rune('a'+i)))
				if err := os.WriteFile(name, text, 0o600); err != nil {
					t.Fatal(err)
				}
				in.pem = append(in.pem, name)
			}
			got, err := in.read(t.Context())
			if c.error != "" {
				if err == nil || !strings.Contains(err.Error(), c.error) {
					t.Errorf("got error %v, want %q", err, c.error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var algorithms []string
			for _, k := range got.usable() {
				algorithms = append(algorithms, k.Algorithm)
			}
			if diff := cmp.Diff(c.want, algorithms); diff != "" {
				t.Errorf("algorithms (-want +got):\n%s", diff)
			}
			if strings.Contains(string(got.document), `"d"`) {
				t.Errorf("a private key: %s", got.document)
			}
		})
	}
}

func TestMergingKeys(t *testing.T) {
	t.Parallel()
	key := func(id string, curve elliptic.Curve) jose.JSONWebKey {
		return jose.JSONWebKey{Key: &newECKey(t, curve).PublicKey, KeyID: id, Algorithm: "ES256", Use: "sig"}
	}
	a, b, d := key("a", elliptic.P256()), key("b", elliptic.P256()), key("d", elliptic.P256())
	otherA, anonymous := key("a", elliptic.P256()), key("", elliptic.P256())
	var many []jose.JSONWebKey
	for i := range 100 {
		many = append(many, key("many-"+string(rune('0'+i/10))+string(rune('0'+i%10)), elliptic.P256()))
	}
	type keys = []jose.JSONWebKey
	for _, c := range []struct {
		name        string
		have, given keys
		prune       bool
		want        []string
		error       string
	}{
		{"nothing there", nil, keys{a, b}, false, []string{"a added", "b added"}, ""},
		{"the same again", keys{a, b}, keys{b, a}, false, []string{"a published", "b published"}, ""},
		{"the next key", keys{a}, keys{a, b}, false, []string{"a published", "b added"}, ""},
		{"only the next key", keys{a}, keys{b}, false, []string{"a kept", "b added"}, ""},
		{"only the next key, pruned", keys{a}, keys{b}, true, []string{"a removed", "b added"}, ""},
		{"the old one goes in the end", keys{a, b, d}, keys{d, b}, true, []string{"a removed", "b published", "d published"}, ""},
		{"another key of that ID", keys{a}, keys{otherA}, false, nil, `another key is published with the ID "a"`},
		{"another key of that ID, pruned", keys{a}, keys{otherA}, true, []string{"a added"}, ""},
		{"one without an ID", nil, keys{anonymous}, false, []string{" added"}, ""},
		{"one without an ID among others", keys{a}, keys{anonymous}, false, nil, "it has no kid, and there are others"},
		{"one without an ID, alone in the end", keys{a}, keys{anonymous}, true, []string{"a removed", " added"}, ""},
		{"more than STS reads", many, keys{a}, false, nil, "more than 100 EC keys"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			set, report, err := mergeKeys(c.have, c.given, c.prune)
			if c.error != "" {
				if err == nil || !strings.Contains(err.Error(), c.error) || hint(err) == "" {
					t.Errorf("got %v, want %q with a hint", err, c.error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got, left []string
			for _, k := range report {
				got = append(got, k.ID+" "+k.Status)
				if k.Status != "removed" {
					left = append(left, k.ID)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			var ids []string
			for _, k := range set {
				ids = append(ids, k.KeyID)
			}
			if diff := cmp.Diff(left, ids); diff != "" {
				t.Errorf("set (-report +set):\n%s", diff)
			}
			if c.name == "another key of that ID, pruned" && !sameKey(set[0], otherA) {
				t.Error("the published key was not replaced")
			}
		})
	}
}

func TestWhereADiscoveryDocumentHasItsKeys(t *testing.T) {
	t.Parallel()
	const issuer = "https://oidc.example.com/prod"
	for _, c := range []struct{ issuer, keys, want string }{ // no want: refused
		{issuer, issuer + "/keys", "keys"},
		{issuer, issuer + "/openid/v1/jwks", "openid/v1/jwks"},
		{issuer, issuer + "/a%20b", "a b"},
		{issuer, "https://oidc.example.com/other/keys", ""},
		{issuer, issuer + "-2/keys", ""},
		{issuer, "https://keys.example.com/keys", ""},
		{issuer, issuer + "/../other/keys", ""},
		{issuer, issuer + "/..%2Fother", ""},
		{issuer, issuer + "/%2Fetc/keys", ""},
		{issuer, issuer + "/", ""},
		{issuer, issuer + "/keys?version=1", ""},
		{issuer, issuer + "/%zz", ""},
		{issuer, issuer + "/" + discoveryPath, ""},
		{issuer, "", ""},
		{issuer + "/", issuer + "/keys", ""}, // another issuer
	} {
		text, err := json.Marshal(map[string]string{"issuer": c.issuer, "jwks_uri": c.keys})
		if err != nil {
			t.Fatal(err)
		}
		got, err := keysPathOf(text, issuer)
		if got != c.want || (err != nil) != (c.want == "") || err != nil && hint(err) == "" {
			t.Errorf("%s: got %q, %v; want %q", c.keys, got, err, c.want)
		}
	}
}

func TestDirectoriesAreReplacedInOneStepAndStayWithinThemselves(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	d := directory(filepath.Join(root, "public"))
	if err := d.write(t.Context(), "openid/v1/jwks", []byte("one"), nil); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(string(d), "openid", "v1", "jwks")
	open, err := os.Open(file) // as a web server may have it at that moment
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := d.write(t.Context(), "openid/v1/jwks", []byte("two, which is longer"), nil); err != nil {
		t.Fatal(err)
	}
	old := make([]byte, 100)
	if n, _ := open.Read(old); string(old[:n]) != "one" {
		t.Errorf("a reader of the old file sees %q", old[:n])
	}
	got, err := d.read(t.Context(), "openid/v1/jwks")
	if err != nil || string(got.text) != "two, which is longer" {
		t.Errorf("got %v, %v", got, err)
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o444 != 0o444 {
		t.Errorf("not everybody may read it: %v, %v", info.Mode(), err)
	}
	if err := os.Symlink(root, filepath.Join(string(d), ".well-known")); err != nil {
		t.Fatal(err)
	}
	if err := d.write(t.Context(), discoveryPath, []byte("x"), nil); err == nil {
		t.Error("a symbolic link led out of the directory")
	}
	if _, err := os.Stat(filepath.Join(root, "openid-configuration")); err == nil {
		t.Error("a file was written outside")
	}
}

// FuzzInspectKeys holds the reports on keys to what verifies tokens: no usable key goes unreported, and none is made up.
func FuzzInspectKeys(f *testing.F) {
	for _, seed := range []string{
		`{"keys":[]}`, `{"keys":[{}]}`, `{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`, `{"keys":[{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"one",` +
			`"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}, {"kty":"oct"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		keys, err := inspectKeys(document)
		if err != nil {
			return
		}
		for _, k := range keys {
			if (k.key == nil) != (k.fault != "") {
				t.Errorf("key %d is usable and faulty, or neither: %+v", k.index, k)
			}
			if k.key != nil && !k.key.Valid() {
				t.Errorf("key %d is not valid", k.index)
			}
		}
	})
}

// bucketOf is a bucket of a server that answers as it is told, and the requests that it got.
func bucketOf(t *testing.T, answer http.HandlerFunc) *bucketPlace {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return &bucketPlace{bucket: "b", prefix: "p", cacheControl: "public, max-age=60", client: s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: &server.URL, UsePathStyle: true, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider("AKIAIOSFODNN7EXAMPLE", "secret", ""),
	})}
}

func TestBucketsAreWrittenOverWhatWasRead(t *testing.T) {
	t.Parallel()
	var got http.Header
	b := bucketOf(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header })
	for _, c := range []struct {
		have               *document
		ifMatch, noneMatch string
	}{
		{nil, "", "*"},
		{&document{version: `"tag"`}, `"tag"`, ""},
	} {
		if err := b.write(t.Context(), "keys", []byte("x"), c.have); err != nil {
			t.Fatal(err)
		}
		if got.Get("If-Match") != c.ifMatch || got.Get("If-None-Match") != c.noneMatch ||
			got.Get("Content-Type") != "application/json" || got.Get("Cache-Control") != "public, max-age=60" {
			t.Errorf("over %v: sent %v", c.have, got)
		}
	}
}

func TestBucketsRefusals(t *testing.T) {
	t.Parallel()
	refuse := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprintf(w, `<Error><Code>%s</Code><Message>words</Message></Error>`, code)
		}
	}
	if _, err := bucketOf(t, refuse(404, "NoSuchKey")).read(t.Context(), "keys"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing object: got %v", err)
	}
	if _, err := bucketOf(t, refuse(404, "NoSuchBucket")).read(t.Context(), "keys"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing bucket: got %v", err)
	}
	if _, err := bucketOf(t, refuse(403, "AccessDenied")).read(t.Context(), "keys"); err == nil || !strings.Contains(hint(err), "s3:ListBucket") {
		t.Errorf("a forbidden object: got %v (%s)", err, hint(err))
	}
	endless := func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, maxKeySet+1)) }
	if _, err := bucketOf(t, endless).read(t.Context(), "keys"); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a long object: got %v", err)
	}
	for status, code := range map[int]string{412: "PreconditionFailed", 409: "ConditionalRequestConflict"} {
		err := bucketOf(t, refuse(status, code)).write(t.Context(), "keys", []byte("x"), nil)
		if err == nil || !strings.Contains(hint(err), "run it again") {
			t.Errorf("%s: got %v (%s)", code, err, hint(err))
		}
	}
	if err := bucketOf(t, refuse(403, "AccessDenied")).write(t.Context(), "keys", []byte("x"), nil); err == nil || strings.Contains(hint(err), "run it again") {
		t.Errorf("a forbidden write: got %v (%s)", err, hint(err))
	}
}

func TestPublishingFromAnAPIServer(t *testing.T) {
	t.Parallel()
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &newECKey(t, elliptic.P256()).PublicKey, KeyID: "one", Algorithm: "ES256", Use: "sig"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	server := apiServer(t, tls.Certificate{}, func(w http.ResponseWriter, path string) {
		if strings.HasSuffix(path, "/jwks") {
			w.Write(set)
			return
		}
		properAnswer(w, path)
	})
	file := kubeconfig(t, server, caOf(server), `{token: secret}`)
	dir := filepath.Join(t.TempDir(), "public")
	run := func(args ...string) (out, errs string, err error) {
		var stdout, stderr bytes.Buffer
		root := newRootCommand(&cli{in: strings.NewReader(""), out: &stdout, err: &stderr})
		root.SetArgs(append(args, "--kubeconfig", file, "--kube-context", "good"))
		err = root.ExecuteContext(t.Context())
		return stdout.String(), stderr.String(), err
	}
	if out, _, err := run("oidc", "publish", "--to", dir); err != nil || !strings.Contains(out, "https://oidc.example.com/openid/v1/jwks: written") {
		t.Errorf("the API server's issuer: got %s, %v", out, err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if _, errs, err := run("oidc", "publish", "--to", other, "--issuer", "https://next.example.com"); err != nil ||
		!strings.Contains(errs, "warning: the API server's tokens are issued by https://oidc.example.com") {
		t.Errorf("the issuer to come: got %s, %v", errs, err)
	}
	if _, _, err := run("cluster", "register", "one", "--issuer", "https://next.example.com"); err == nil ||
		!strings.Contains(err.Error(), "issued by https://oidc.example.com, not by https://next.example.com") {
		t.Errorf("registered by another issuer: got %v", err)
	}
}
