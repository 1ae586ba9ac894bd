package idtoken_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

const fakeIssuer = "https://issuer.example/id/A"

// fakeSite serves an issuer from memory, as an http.RoundTripper: synctest cannot see through sockets.
type fakeSite struct {
	mu        sync.Mutex
	issuer    string
	keys      []string // JWKs
	header    http.Header
	discovery map[string]any // members to change; nil removes
	down      bool
	hang      bool
	fetches   int // of the key set
	attempts  int // of the discovery document
}

func (s *fakeSite) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isDiscovery(r) {
		s.attempts++
		switch {
		case s.hang:
			s.mu.Unlock()
			<-r.Context().Done()
			s.mu.Lock()
			return nil, r.Context().Err()
		case s.down:
			return nil, errors.New("connection refused")
		}
	} else {
		s.fetches++
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result(), nil
}

func isDiscovery(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration")
}

func (s *fakeSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !isDiscovery(r) {
		if !strings.Contains(r.Header.Get("Accept"), "application/jwk-set+json") { // as a Kubernetes API server has it
			w.WriteHeader(http.StatusNotAcceptable)
			return
		}
		maps.Copy(w.Header(), s.header)
		fmt.Fprintf(w, `{"keys":[%s]}`, strings.Join(s.keys, ","))
		return
	}
	document := map[string]any{
		"issuer": s.issuer, "jwks_uri": s.issuer + "/keys", "response_types_supported": []string{"id_token"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
	}
	maps.Copy(document, s.discovery)
	maps.DeleteFunc(document, func(_ string, v any) bool { return v == nil })
	if err := json.NewEncoder(w).Encode(document); err != nil {
		panic(err)
	}
}

// set changes the site under its lock.
func (s *fakeSite) set(f func(*fakeSite)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *fakeSite) counts() (fetches, attempts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetches, s.attempts
}

// fixture is a cache in front of a fake site, with a clock that only moves when told.
type fixture struct {
	t     *testing.T
	site  *fakeSite
	cache *idtoken.Cache
	clock *atomic.Int64
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, clock: new(atomic.Int64)}
	f.clock.Store(now.UnixNano())
	f.site = &fakeSite{issuer: fakeIssuer, keys: []string{publicJWK(t, &keysOnce().p256.PublicKey, "one")}}
	f.cache = idtoken.NewCache(idtoken.CacheConfig{
		Client: &http.Client{Transport: f.site}, MaxIssuers: 2,
		Now: func() time.Time { return time.Unix(0, f.clock.Load()) },
	})
	return f
}

func (f *fixture) advance(d time.Duration) { f.clock.Add(int64(d)) }

// keys asks for a key, expects to get it or not, and lets background work finish.
func (f *fixture) keys(id string, ok bool) {
	f.t.Helper()
	keys, err := f.cache.Issuer(fakeIssuer, nil).Keys(f.t.Context(), id)
	synctest.Wait()
	if ok != (err == nil) || (ok && len(keys) == 0) {
		f.t.Fatalf("key %q: got %d keys, error %v; want it found: %t", id, len(keys), err, ok)
	}
	if err != nil && !errors.Is(err, idtoken.ErrKeys) {
		f.t.Fatalf("%v does not wrap ErrKeys", err)
	}
}

func (f *fixture) wantFetches(want int) {
	f.t.Helper()
	if got, _ := f.site.counts(); got != want {
		f.t.Fatalf("the key set was fetched %d times, want %d", got, want)
	}
}

func (f *fixture) wantAttempts(want int) {
	f.t.Helper()
	if _, got := f.site.counts(); got != want {
		f.t.Fatalf("the issuer was asked %d times, want %d", got, want)
	}
}

func TestCacheKeepsKeys(t *testing.T) {
	tests := []struct {
		name   string
		header http.Header
		life   time.Duration
	}{
		{"without cache-control", nil, time.Hour},
		{"max-age", http.Header{"Cache-Control": {"public, max-age=7200"}}, 2 * time.Hour},
		{"max-age less age", http.Header{"Cache-Control": {"max-age=7200"}, "Age": {"3600"}}, time.Hour},
		{"unreadable max-age", http.Header{"Cache-Control": {"max-age=x"}}, time.Hour},
		{"very short", http.Header{"Cache-Control": {"max-age=1"}}, time.Minute},
		{"no-store", http.Header{"Cache-Control": {"no-store, max-age=7200"}}, time.Minute},
		{"older than its max-age", http.Header{"Cache-Control": {"max-age=3600"}, "Age": {"99999"}}, time.Minute},
		{"very long", http.Header{"Cache-Control": {"MAX-AGE=31536000"}}, 24 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.site.header = tt.header
				f.keys("one", true)
				f.advance(tt.life/2 + tt.life/5)
				f.keys("one", true)
				f.wantFetches(1)
				f.advance(tt.life / 10) // in the last quarter: refreshed behind the answer
				f.keys("one", true)
				f.wantFetches(2)
				f.keys("one", true)
				f.wantFetches(2)
			})
		})
	}
}

func TestCacheWithdrawnKeyEndsWithItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.keys("one", true)
		f.site.set(func(s *fakeSite) { s.keys = []string{publicJWK(t, &keysOnce().p384.PublicKey, "two")} })
		f.advance(30 * time.Minute)
		f.keys("one", true)
		f.advance(30 * time.Minute)
		f.keys("one", false)
		f.keys("two", true)
		f.wantFetches(2)
	})
}

func TestCacheUnknownKeyID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.site.set(func(s *fakeSite) { s.keys = append(s.keys, publicJWK(t, &keysOnce().p521.PublicKey, "other")) })
		f.keys("one", true)
		f.site.set(func(s *fakeSite) { s.keys = append(s.keys, publicJWK(t, &keysOnce().p384.PublicKey, "two")) })
		f.keys("two", false) // fetched less than a minute ago
		f.wantFetches(1)
		f.advance(time.Minute)
		f.keys("two", true)
		f.wantFetches(2)
		for i := range 20 {
			f.keys(fmt.Sprint("made up ", i), false)
		}
		f.wantFetches(2)
		f.advance(time.Minute)
		f.keys("made up", false)
		f.keys("made up again", false)
		f.wantFetches(3)
		f.keys("one", true)
	})
}

func TestCacheOutlivesOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.keys("one", true)
		f.site.set(func(s *fakeSite) { s.down = true })
		for range 24 {
			f.advance(time.Hour)
			f.keys("one", true)
		}
		f.advance(time.Hour) // a day beyond the life of one hour
		f.keys("one", false)
		f.site.set(func(s *fakeSite) { s.down = false })
		f.advance(time.Minute)
		f.keys("one", true)
	})
}

func TestCacheBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.site.set(func(s *fakeSite) { s.down = true })
		f.keys("one", false)
		for range 50 {
			f.keys("one", false)
		}
		f.wantAttempts(1)
		// The pause doubles from one second to one minute, and is jittered down to half of that.
		for i := 1; i < 12; i++ {
			longest := min(time.Second<<(i-1), time.Minute)
			f.advance(longest/2 - 1)
			f.keys("one", false)
			f.wantAttempts(i)
			f.advance(longest/2 + 1)
			f.keys("one", false)
			f.wantAttempts(i + 1)
		}
		f.site.set(func(s *fakeSite) { s.down = false })
		f.keys("one", false) // still in the pause
		f.advance(time.Minute)
		f.keys("one", true)
	})
}

func TestCacheSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.site.mu.Lock() // the fetch hangs here; a mutex does not count as blocked, so no synctest.Wait until it is free
		results := make(chan error)
		leaving, leave := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		go func() {
			_, err := f.cache.Issuer(fakeIssuer, nil).Keys(leaving, "one")
			results <- err
		}()
		leave(gone)
		if err := <-results; !errors.Is(err, gone) || !errors.Is(err, idtoken.ErrKeys) {
			t.Errorf("caller that left: got %v", err)
		}
		for range 50 {
			go func() {
				_, err := f.cache.Issuer(fakeIssuer, nil).Keys(t.Context(), "one")
				results <- err
			}()
		}
		f.site.mu.Unlock()
		for range 50 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		f.wantFetches(1)
	})
}

func TestCacheTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.site.set(func(s *fakeSite) { s.hang = true })
		start := time.Now()
		f.keys("one", false)
		if got := time.Since(start); got != 10*time.Second {
			t.Errorf("gave up after %s", got)
		}
	})
}

func TestCacheForgetsLeastRecentlyUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		ask := func(url string) {
			f.site.set(func(s *fakeSite) { s.issuer = url })
			if _, err := f.cache.Issuer(url, nil).Keys(t.Context(), "one"); err != nil {
				t.Fatal(err)
			}
		}
		ask("https://a.example")
		ask("https://b.example")
		ask("https://a.example")
		f.wantFetches(2)
		ask("https://c.example") // b goes
		ask("https://a.example")
		f.wantFetches(3)
		ask("https://b.example")
		f.wantFetches(4)
	})
}

func TestCacheDiscoveryDocument(t *testing.T) {
	tests := []struct {
		name    string
		changes map[string]any
		ok      bool
	}{
		{"as it should be", nil, true},
		{"another issuer", map[string]any{"issuer": fakeIssuer + "/"}, false},
		{"no issuer", map[string]any{"issuer": nil}, false},
		{"no jwks_uri", map[string]any{"jwks_uri": nil}, false},
		{"keys over http", map[string]any{"jwks_uri": "http://issuer.example/keys"}, false},
		{"keys from a file", map[string]any{"jwks_uri": "file:///etc/passwd"}, false},
		{"keys on another host", map[string]any{"jwks_uri": "https://keys.example/keys"}, true},
		{"keys with a user", map[string]any{"jwks_uri": "https://u:p@issuer.example/keys"}, false},
		{"no response types", map[string]any{"response_types_supported": nil}, false},
		{"no subject types", map[string]any{"subject_types_supported": nil}, false},
		{"no algorithms", map[string]any{"id_token_signing_alg_values_supported": []string{}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.site.discovery = tt.changes
				f.keys("one", tt.ok)
			})
		})
	}
}

func TestCacheIssuerURL(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://issuer.example":           true,
		"https://issuer.example/":          true,
		"https://issuer.example:8443/id/A": true,
		"http://issuer.example":            false,
		"issuer.example":                   false,
		"https://":                         false,
		"https://issuer.example?x=y":       false,
		"https://issuer.example#x":         false,
		"https://u@issuer.example":         false,
		"":                                 false,
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t)
			f.site.issuer = url
			f.site.discovery = map[string]any{"jwks_uri": "https://issuer.example/keys"}
			_, err := f.cache.Issuer(url, nil).Keys(t.Context(), "one")
			if ok != (err == nil) || (err != nil && !errors.Is(err, idtoken.ErrKeys)) {
				t.Errorf("%q: got %v, want it accepted: %t", url, err, ok)
			}
		})
	}
}

// tlsIssuer serves an issuer on a socket, with the certificate or one that no root vouches for. A nil handler is a
// proper issuer.
func tlsIssuer(t *testing.T, certificate *tls.Certificate, handler func(s *httptest.Server, w http.ResponseWriter, r *http.Request)) *httptest.Server {
	t.Helper()
	if handler == nil {
		handler = func(s *httptest.Server, w http.ResponseWriter, r *http.Request) { serveIssuer(t, s, w, r) }
	}
	server := httptest.NewUnstartedServer(nil)
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler(server, w, r) })
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshakes that are meant to fail
	if certificate != nil {
		server.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func serveIssuer(t *testing.T, s *httptest.Server, w http.ResponseWriter, r *http.Request) {
	(&fakeSite{issuer: s.URL, keys: []string{publicJWK(t, &keysOnce().p256.PublicKey, "one")}}).ServeHTTP(w, r)
}

func thumbprint(c *x509.Certificate) string {
	sum := sha1.Sum(c.Raw)
	return hex.EncodeToString(sum[:])
}

func TestCacheThumbprints(t *testing.T) {
	server := tlsIssuer(t, nil, nil)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	untrusting := &http.Client{}
	trusting := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	right, wrong := thumbprint(server.Certificate()), strings.Repeat("0", 40)
	byName := strings.Replace(server.URL, "127.0.0.1", "localhost", 1) // a name that is not in the certificate
	tests := []struct {
		name        string
		client      *http.Client
		url         string
		thumbprints []string
		want        error
	}{
		{"roots vouch", trusting, server.URL, nil, nil},
		{"roots vouch, the thumbprint does not", trusting, server.URL, []string{wrong}, nil},
		{"nothing vouches", untrusting, server.URL, nil, idtoken.ErrKeys},
		{"a thumbprint vouches", untrusting, server.URL, []string{wrong, right}, nil},
		{"a thumbprint in upper case vouches", untrusting, server.URL, []string{strings.ToUpper(right)}, nil},
		{"no thumbprint fits", untrusting, server.URL, []string{wrong}, idtoken.ErrThumbprint},
		{"thumbprint fits, name does not", untrusting, byName, []string{right}, idtoken.ErrThumbprint},
		{"a transport of an unknown kind", &http.Client{Transport: roundTripper(http.DefaultTransport.RoundTrip)}, server.URL, []string{right}, idtoken.ErrKeys},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cache := idtoken.NewCache(idtoken.CacheConfig{Client: tt.client})
			_, err := cache.Issuer(tt.url, tt.thumbprints).Keys(t.Context(), "one")
			if !errors.Is(err, tt.want) || (err != nil && !errors.Is(err, idtoken.ErrKeys)) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("what one thumbprint accepted counts for no other", func(t *testing.T) {
		cache := idtoken.NewCache(idtoken.CacheConfig{Client: untrusting})
		if _, err := cache.Issuer(server.URL, []string{right}).Keys(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
		for _, other := range [][]string{nil, {wrong}} {
			if _, err := cache.Issuer(server.URL, other).Keys(t.Context(), "one"); !errors.Is(err, idtoken.ErrKeys) {
				t.Errorf("thumbprints %v: got %v", other, err)
			}
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A public CA's certificate is no secret: whoever holds the connection can serve it next to a chain of their own.
func TestCacheThumbprintMustBeInTheLeafsChain(t *testing.T) {
	ca := newAuthority(t, "listed CA")
	leaf := ca.issue(t, "127.0.0.1")
	stranger := newAuthority(t, "another CA").issue(t, "127.0.0.1")
	for name, tt := range map[string]struct {
		served tls.Certificate
		want   error
	}{
		"issued by the listed CA": {tls.Certificate{Certificate: [][]byte{leaf.Certificate[0], ca.certificate.Raw}, PrivateKey: leaf.PrivateKey}, nil},
		"issued by another CA and served with the listed one": {
			tls.Certificate{Certificate: [][]byte{stranger.Certificate[0], ca.certificate.Raw}, PrivateKey: stranger.PrivateKey}, idtoken.ErrThumbprint},
	} {
		t.Run(name, func(t *testing.T) {
			server := tlsIssuer(t, &tt.served, nil)
			cache := idtoken.NewCache(idtoken.CacheConfig{Client: &http.Client{}})
			_, err := cache.Issuer(server.URL, []string{thumbprint(ca.certificate)}).Keys(t.Context(), "one")
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestCacheRefusesAnswers(t *testing.T) {
	tests := []struct {
		name    string
		handler func(s *httptest.Server, w http.ResponseWriter, r *http.Request)
	}{
		{"a redirect to another host", func(_ *httptest.Server, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://other.example/", http.StatusFound)
		}},
		{"a redirect within the host", func(s *httptest.Server, w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/there") {
				http.Redirect(w, r, s.URL+"/there"+r.URL.Path, http.StatusMovedPermanently)
				return
			}
			serveIssuer(t, s, w, r)
		}},
		{"an error", func(_ *httptest.Server, w http.ResponseWriter, r *http.Request) {
			http.Error(w, "sorry", http.StatusInternalServerError)
		}},
		{"a page", func(_ *httptest.Server, w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>") }},
		{"too long a document", func(s *httptest.Server, w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, strings.Repeat(" ", 10_000))
			serveIssuer(t, s, w, r)
		}},
		{"too long a header", func(s *httptest.Server, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 100_000))
			serveIssuer(t, s, w, r)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := tlsIssuer(t, nil, tt.handler)
			cache := idtoken.NewCache(idtoken.CacheConfig{Client: server.Client(), MaxBytes: 10_000})
			if keys, err := cache.Issuer(server.URL, nil).Keys(t.Context(), ""); !errors.Is(err, idtoken.ErrKeys) {
				t.Errorf("got %v, %v", keys, err)
			}
		})
	}
	t.Run("but not a proper one", func(t *testing.T) {
		server := tlsIssuer(t, nil, nil)
		cache := idtoken.NewCache(idtoken.CacheConfig{Client: server.Client(), MaxBytes: 10_000})
		keys, err := cache.Issuer(server.URL, nil).Keys(t.Context(), "")
		if err != nil || len(keys) != 1 {
			t.Fatalf("got %v, %v", keys, err)
		}
		if !keysOnce().p256.PublicKey.Equal(keys[0].Key.(*ecdsa.PublicKey)) {
			t.Error("got another key")
		}
	})
}
