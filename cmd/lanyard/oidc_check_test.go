package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

// site is an issuer on a socket, whose documents a test spoils.
type site struct {
	url       string
	roots     *x509.CertPool
	key       *ecdsa.PrivateKey
	discovery map[string]any
	keys      []any
	serve     func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
}

// newSite serves an issuer that is as it should be.
func newSite(t *testing.T) *site {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{key: key, roots: x509.NewCertPool(), keys: []any{jose.JSONWebKey{Key: &key.PublicKey, KeyID: "one", Algorithm: "ES256", Use: "sig"}}}
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	server.StartTLS()
	t.Cleanup(server.Close)
	s.url = server.URL
	s.roots.AddCert(server.Certificate())
	s.discovery = map[string]any{
		"issuer": s.url, "jwks_uri": s.url + "/keys", "response_types_supported": []string{"id_token"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
	}
	return s
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.serve != nil && s.serve(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		json.NewEncoder(w).Encode(s.discovery)
	case "/keys":
		json.NewEncoder(w).Encode(map[string]any{"keys": s.keys})
	default:
		http.NotFound(w, r)
	}
}

// check checks the issuer, and lists what was not ok as "RESULT CHECK: FOUND".
func (s *site) check(t *testing.T, url string, change func(*issuerCheck)) []string {
	t.Helper()
	k := &issuerCheck{issuer: url, client: checkClient(s.roots), timeout: time.Minute, now: time.Now()}
	if change != nil {
		change(k)
	}
	k.run(t.Context())
	return k.complaints()
}

func (k *issuerCheck) complaints() []string {
	var all []string
	for _, r := range k.results {
		if r.Result != checkOK {
			all = append(all, r.Result+" "+r.Check+": "+r.Found)
		}
	}
	return all
}

// wantComplaints compares complaints with what each is to begin with and to contain, around "…".
func wantComplaints(t *testing.T, got, want []string) {
	t.Helper()
	fits := func(got, want string) bool {
		begin, rest, _ := strings.Cut(want, "…")
		return strings.HasPrefix(got, begin) && strings.Contains(got[len(begin):], rest)
	}
	if !slices.EqualFunc(got, want, fits) {
		t.Errorf("complaints (-want +got):\n%s", cmp.Diff(want, got))
	}
}

func TestCheckFindsNothingWrongWithAProperIssuer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	wantComplaints(t, s.check(t, s.url, nil), nil)
}

func TestCheckFaultsOfIssuers(t *testing.T) {
	t.Parallel()
	without := func(member string) func(*site) { return func(s *site) { delete(s.discovery, member) } }
	answer := func(path string, do http.HandlerFunc) func(*site) {
		return func(s *site) {
			s.serve = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == path {
					do(w, r)
				}
				return r.URL.Path == path
			}
		}
	}
	const discovery, keys = "/.well-known/openid-configuration", "/keys"
	jwk := func(change func(map[string]any)) func(*site) {
		return func(s *site) {
			text, _ := json.Marshal(s.keys[0])
			var members map[string]any
			json.Unmarshal(text, &members)
			change(members)
			s.keys = []any{members}
		}
	}
	rsaKey := func(bits int) map[string]any {
		modulus := make([]byte, bits/8)
		rand.Read(modulus)
		modulus[0] |= 0x80
		return map[string]any{"kty": "RSA", "kid": "rsa", "use": "sig", "alg": "RS256", "e": "AQAB", "n": base64.RawURLEncoding.EncodeToString(modulus)}
	}
	for _, c := range []struct {
		name  string
		spoil func(*site)
		want  []string
	}{
		{"there is no discovery document", answer(discovery, http.NotFound), []string{"FAIL discovery: https://…answers 404"}},
		{"it is for some only", answer(discovery, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }),
			[]string{"FAIL discovery: https://…answers 403"}},
		{"it is elsewhere", answer(discovery, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/there", http.StatusFound) }),
			[]string{`FAIL discovery: https://…redirects to "/there"`}},
		{"it is a page", answer(discovery, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }),
			[]string{`WARN discovery: https://…served as "text/html`, "FAIL discovery: it is not the JSON that it should be"}},
		{"it is a list", answer(discovery, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, "[]")
		}), []string{"FAIL discovery: it is not the JSON that it should be"}},
		{"a member is there twice", answer(discovery, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"issuer": "https://a.example", "issuer": "https://b.example"}`)
		}), []string{"FAIL discovery: it is not the JSON that it should be…duplicate"}},
		{"it has no end", answer(discovery, func(w http.ResponseWriter, _ *http.Request) {
			for range 1100 {
				w.Write(make([]byte, 1024))
			}
		}), []string{"FAIL discovery: https://…longer than 1048576 bytes"}},
		{"its header has no end", answer(discovery, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Long", strings.Repeat("x", 100_000)) }),
			[]string{"FAIL discovery: https://…header"}},
		{"the slash at the end is one too many", func(s *site) { s.discovery["issuer"] = s.url + "/" }, []string{"FAIL issuer: …the slash at the end counts"}},
		{"it is another issuer's", func(s *site) { s.discovery["issuer"] = "https://other.example" },
			[]string{`FAIL issuer: the document says "https://other.example"`}},
		{"it names no issuer", without("issuer"), []string{`FAIL issuer: the document says ""`}},
		{"no response types", without("response_types_supported"), []string{"FAIL metadata: there is no response_types_supported"}},
		{"no subject types", without("subject_types_supported"), []string{"FAIL metadata: there is no subject_types_supported"}},
		{"no algorithms", func(s *site) { s.discovery["id_token_signing_alg_values_supported"] = []string{} },
			[]string{"FAIL metadata: there is no id_token_signing_alg_values_supported"}},
		{"no RS256", func(s *site) { s.discovery["id_token_signing_alg_values_supported"] = []string{"ES256"} },
			[]string{"WARN metadata: id_token_signing_alg_values_supported has no RS256"}},
		{"no address of keys", without("jwks_uri"), []string{"FAIL jwks_uri: the document names no address"}},
		{"keys over http", func(s *site) { s.discovery["jwks_uri"] = "http://" + strings.TrimPrefix(s.url, "https://") + "/keys" },
			[]string{"FAIL jwks_uri: …is not an https URL"}},
		{"keys from a file", func(s *site) { s.discovery["jwks_uri"] = "file:///etc/keys" }, []string{"FAIL jwks_uri: …is not an https URL"}},
		{"keys for a user", func(s *site) { s.discovery["jwks_uri"] = "https://u:p@127.0.0.1/keys" }, []string{"FAIL jwks_uri: …has a user or a fragment"}},
		{"no keys there", answer(keys, http.NotFound), []string{"FAIL keys: https://…answers 404"}},
		{"keys as text", answer(keys, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "none") }),
			[]string{`WARN keys: https://…served as "text/plain`, "FAIL keys: parse key set"}},
		{"keys at a host that nobody listens at", func(s *site) { s.discovery["jwks_uri"] = "https://127.0.0.1:1/keys" },
			[]string{"FAIL keys: https://127.0.0.1:1/keys: "}},
		{"an empty set", func(s *site) { s.keys = []any{} }, []string{"FAIL keys: there is no key"}},
		{"a set without keys", answer(keys, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, "{}")
		}), []string{"FAIL keys: parse key set: it has no keys member"}},
		{"a private key", jwk(func(m map[string]any) { m["d"] = m["x"] }), []string{"FAIL keys: parse key set: key 0: it is not a public key"}},
		{"a point off its curve", jwk(func(m map[string]any) { m["y"] = m["x"] }), []string{"FAIL keys: parse key set: key 0: "}},
		{"a weak key beside a good one", func(s *site) { s.keys = append(s.keys, rsaKey(1024)) },
			[]string{"FAIL key: key rsa: an RSA key of 1024 bits is weak"}},
		{"a huge key", func(s *site) { s.keys = []any{rsaKey(12288)} }, []string{"FAIL keys: parse key set: key 0: …too large"}},
		{"an algorithm that is not the key's", jwk(func(m map[string]any) { m["alg"] = "RS256" }),
			[]string{"FAIL keys: there is no key", "FAIL key: key one: STS takes RS256"}},
		{"an ID twice", func(s *site) { s.keys = append(s.keys, s.keys[0]) }, []string{"FAIL key: key one: its kid is there twice"}},
		{"two keys without an ID", func(s *site) {
			jwk(func(m map[string]any) { delete(m, "kid") })(s)
			s.keys = append(s.keys, rsaKey(2048))
		}, []string{"FAIL key: key 1, which has no ID: it has no kid, and there are others"}},
		{"one key without an ID", jwk(func(m map[string]any) { delete(m, "kid") }), []string{"WARN key: key 1, which has no ID: …only taken of a single key"}},
		{"a key that does not say what it is for", jwk(func(m map[string]any) { delete(m, "use") }), []string{"WARN key: key one: …lacks alg or use"}},
		{"a key for another use", func(s *site) {
			other := rsaKey(2048)
			other["use"] = "enc"
			s.keys = append(s.keys, other)
		}, []string{`WARN key: key rsa: its use is "enc", not sig`}},
		{"101 keys", func(s *site) {
			for i := range 101 {
				k := rsaKey(2048)
				k["kid"] = fmt.Sprint(i)
				s.keys = append(s.keys, k)
			}
		}, []string{"FAIL keys: parse key set: more than 100 RSA keys"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			c.spoil(s)
			for i := range c.want {
				c.want[i] = strings.Replace(c.want[i], "WARN", checkWarn, 1)
			}
			wantComplaints(t, s.check(t, s.url, nil), c.want)
		})
	}
}

func TestCheckFollowsNobodyToPlainHTTP(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(plain.Close)
	s := newSite(t)
	s.serve = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusMovedPermanently)
		return true
	}
	wantComplaints(t, s.check(t, s.url, nil), []string{"FAIL discovery: https://…redirects to"})
	wantComplaints(t, s.check(t, plain.URL, nil), []string{"FAIL url: …is not an https URL"})
	wantComplaints(t, s.check(t, strings.Replace(plain.URL, "http:", "https:", 1), nil), []string{"FAIL discovery: …does not speak TLS"})
	if n := asked.Load(); n != 0 {
		t.Errorf("plain HTTP was asked %d times", n)
	}
}

func TestCheckGivesUpOnSilence(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve = func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done() // until the client has left
		return true
	}
	wantComplaints(t, s.check(t, s.url, func(k *issuerCheck) { k.timeout = 100 * time.Millisecond }),
		[]string{"FAIL discovery: …no answer within 100ms"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	k := &issuerCheck{issuer: s.url, client: checkClient(s.roots), timeout: time.Minute, now: time.Now()}
	k.run(ctx)
	wantComplaints(t, k.complaints(), []string{"FAIL discovery: …context canceled"})
}

func TestCheckURLs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for url, want := range map[string]string{
		"oidc.example.com":                "FAIL url: …is not an https URL",
		"https://":                        "FAIL url: …is not an https URL",
		"ftp://oidc.example.com":          "FAIL url: …is not an https URL",
		s.url + "?a=b":                    "FAIL url: …has a user, a query or a fragment",
		s.url + "?":                       "FAIL url: …has a user, a query or a fragment",
		s.url + "#":                       "FAIL url: …has a user, a query or a fragment",
		"https://me@oidc.example.com":     "FAIL url: …has a user, a query or a fragment",
		"https://a.example/\x7f":          "FAIL url: …is not an https URL",
		s.url + strings.Repeat("/a", 130): "FAIL url: it has more than 255 characters",
	} {
		got := s.check(t, url, nil)
		wantComplaints(t, got[:1], []string{want})
	}
}

func TestIssuersThatAWSCannotAsk(t *testing.T) {
	t.Parallel()
	for issuer, want := range map[string]string{
		"https://oidc.example.com/prod":                 "",
		"https://oidc.example.com:443":                  "",
		"https://203.0.113.7":                           "",
		"https://oidc.example.com:6443":                 "its port is 6443",
		"https://kubernetes.default.svc":                "kubernetes.default.svc is not a name of the Internet",
		"https://kubernetes.default.svc.cluster.local":  "kubernetes.default.svc.cluster.local is not a name of the Internet",
		"https://Kubernetes.Default.SVC.cluster.local.": "kubernetes.default.svc.cluster.local is not a name of the Internet",
		"https://localhost":                             "localhost is not a name of the Internet",
		"https://10.0.0.1":                              "10.0.0.1 is not an address of the Internet",
		"https://127.0.0.1/id/A":                        "127.0.0.1 is not an address of the Internet",
		"https://100.64.0.1":                            "100.64.0.1 is not an address of the Internet",
		"https://169.254.1.1":                           "169.254.1.1 is not an address of the Internet",
		"https://[::ffff:10.0.0.1]":                     "::ffff:10.0.0.1 is not an address of the Internet",
		"http://oidc.example.com":                       `the issuer "http://oidc.example.com" is not an https URL`,
	} {
		if got := notPublic(issuer); got != want {
			t.Errorf("%s: got %q, want %q", issuer, got, want)
		}
	}
	s := newSite(t)
	wantComplaints(t, s.check(t, s.url, func(k *issuerCheck) { k.aws = true }), []string{"FAIL url: its port is ", "FAIL jwks_uri: …its port is "})
	// A name of this machine, which its certificate does not have.
	wantComplaints(t, s.check(t, strings.Replace(s.url, "127.0.0.1", "localhost", 1), func(k *issuerCheck) { k.aws = true }),
		[]string{"FAIL url: its port is ", checkWarn + " address: localhost is …not an address of the Internet", "FAIL certificate: …localhost"})
}

// certificate makes one for a host, signed by itself.
func certificate(t *testing.T, host string, from, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{host},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestCheckCertificates(t *testing.T) {
	t.Parallel()
	now := time.Now()
	year := now.AddDate(1, 0, 0)
	for _, c := range []struct {
		name        string
		certificate tls.Certificate
		trusted     bool
		want        []string
	}{
		{"a good one", certificate(t, "127.0.0.1", now.AddDate(0, 0, -1), year), true, nil},
		{"of a CA that nobody knows", certificate(t, "127.0.0.1", now.AddDate(0, 0, -1), year), false, []string{"FAIL certificate: …unknown authority"}},
		{"expired", certificate(t, "127.0.0.1", now.AddDate(0, 0, -2), now.AddDate(0, 0, -1)), true, []string{"FAIL certificate: …expired"}},
		{"of another host", certificate(t, "other.example", now.AddDate(0, 0, -1), year), true, []string{"FAIL certificate: …127.0.0.1"}},
		{"at its end", certificate(t, "127.0.0.1", now.AddDate(0, -3, 0), now.AddDate(0, 0, 3)), true, []string{checkWarn + " certificate: …valid until"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			server := httptest.NewUnstartedServer(s)
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.TLS = &tls.Config{Certificates: []tls.Certificate{c.certificate}}
			server.StartTLS()
			t.Cleanup(server.Close)
			s.discovery["issuer"], s.discovery["jwks_uri"] = server.URL, server.URL+"/keys"
			if c.trusted {
				s.roots.AddCert(c.certificate.Leaf)
			}
			wantComplaints(t, s.check(t, server.URL, nil), c.want)
		})
	}
}

func TestCheckTokens(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	sign := func(key *ecdsa.PrivateKey, id string, change func(map[string]any)) string {
		claims := map[string]any{
			"iss": s.url, "aud": []string{stsAudience}, "sub": "system:serviceaccount:web:api",
			"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		}
		if change != nil {
			change(claims)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(text)
		if err != nil {
			t.Fatal(err)
		}
		token, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	set := func(claim string, to any) string { return sign(s.key, "one", func(c map[string]any) { c[claim] = to }) }
	for _, c := range []struct {
		name, token string
		want        []string
	}{
		{"a good one", set("jti", "x"), nil},
		{"of another issuer", set("iss", s.url+"/"), []string{"FAIL token iss: it is "}},
		{"for another audience", set("aud", "vault"), []string{`FAIL token aud: it is "vault", not "sts.amazonaws.com"`}},
		{"for several", set("aud", []string{stsAudience, "vault"}), []string{"FAIL token aud: Token audience contains more than one"}},
		{"of no service account", set("sub", "ann"), []string{checkWarn + " token sub: ann"}},
		{"of a very long name", set("sub", "system:serviceaccount:web:"+strings.Repeat("a", 250)), []string{"FAIL token sub: it has more than 255"}},
		{"expired", set("exp", now.Add(-time.Second).Unix()), []string{"FAIL token exp: Token expired"}},
		{"from the future", set("iat", now.Add(6*time.Minute).Unix()), []string{"FAIL token iat: "}},
		{"from a clock that is a little ahead", set("nbf", now.Add(4*time.Minute).Unix()), nil},
		{"by a key that is not published", sign(stranger, "two", nil), []string{`FAIL token signature: …no key with the ID "two"`}},
		{"by another key of that ID", sign(stranger, "one", nil), []string{"FAIL token signature: signature does not verify"}},
		{"no token", "none", []string{"FAIL token: not a valid JWT"}},
		{"without a subject", sign(s.key, "one", func(c map[string]any) { delete(c, "sub") }), []string{"FAIL token: Missing a required claim: sub."}},
		{"several faults at once", sign(stranger, "one", func(c map[string]any) { c["aud"], c["exp"] = "vault", 1 }),
			[]string{"FAIL token aud: ", "FAIL token exp: ", "FAIL token signature: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k := &issuerCheck{issuer: s.url, client: checkClient(s.roots), timeout: time.Minute, now: now}
			k.checkToken(t.Context(), c.token, stsAudience, k.run(t.Context()))
			wantComplaints(t, k.complaints(), c.want)
		})
	}
}
