package oidc_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/oidc"
)

const (
	baseURL = "https://oidc.example:8443"
	account = "111122223333"
)

// replica is a publisher with a database of its own, in front of a store that may be shared.
type replica struct {
	*oidc.Publisher
	db *kv.DB
}

func newReplica(t *testing.T, store kv.Store) replica {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	// Long, because the tests of rotation go through weeks, in which the DB would ask the store every few seconds.
	db := kv.NewDB(kv.Config{Store: store, Log: log, MaxStaleness: 12 * time.Hour})
	ring, err := keyring.New(keyring.Config{DB: db, MasterKey: keyring.MasterKey{1}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	p := oidc.New(oidc.Config{DB: db, Keyring: ring, BaseURL: baseURL, Log: log})
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return replica{p, db}
}

func newStore(t *testing.T) kv.Store {
	store := kv.NewMemory()
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// create makes and stores an issuer.
func (r replica) create(t *testing.T) string {
	t.Helper()
	i, err := r.NewIssuer(account)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.db.Update(t.Context(), func(tx *kv.Tx) error { r.Put(tx, i); return nil }); err != nil {
		t.Fatal(err)
	}
	return i.ID
}

func (r replica) sync(t *testing.T) {
	t.Helper()
	if err := r.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// sign makes a token that lives as long as it may.
func (r replica) sign(t *testing.T, id string) string {
	t.Helper()
	now := time.Now()
	token, err := r.Sign(t.Context(), id, map[string]any{"sub": "s", "aud": "a", "iat": now.Unix(), "exp": now.Add(24 * time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (r replica) get(t *testing.T, path string, header http.Header) *http.Response {
	t.Helper()
	return request(t, r.Handler(), http.MethodGet, path, header)
}

func request(t *testing.T, h http.Handler, method, path string, header http.Header) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// jwks fetches an issuer's key set over HTTP.
func (r replica) jwks(t *testing.T, id string) idtoken.Static {
	t.Helper()
	response := r.get(t, "/id/"+id+"/keys", nil)
	set, err := idtoken.ParseJWKS(body(t, response))
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", response.Status, err)
	}
	return idtoken.Static{Set: set}
}

func body(t *testing.T, r *http.Response) []byte {
	t.Helper()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPublishes(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newStore(t))
	id := r.create(t)
	url := baseURL + "/id/" + id
	if got := r.URL(id); got != url {
		t.Errorf("URL is %q, want %q", got, url)
	}
	if len(id) != 32 || strings.ToUpper(id) != id || strings.Trim(id, "0123456789ABCDEF") != "" {
		t.Errorf("ID %q is not 32 upper-case hex digits", id)
	}

	response := r.get(t, "/id/"+id+"/.well-known/openid-configuration", nil)
	var discovery map[string]any
	if err := json.Unmarshal(body(t, response), &discovery); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"issuer": url, "jwks_uri": url + "/keys", "authorization_endpoint": "urn:kubernetes:programmatic_authorization",
		"response_types_supported": []any{"id_token"}, "subject_types_supported": []any{"public"},
		"claims_supported": []any{"sub", "iss"}, "id_token_signing_alg_values_supported": []any{"RS256"},
	}
	if diff := cmp.Diff(want, discovery); diff != "" {
		t.Errorf("discovery document (-want +got):\n%s", diff)
	}

	response = r.get(t, "/id/"+id+"/keys", nil)
	for name, want := range map[string]string{"Content-Type": "application/json", "Cache-Control": "public, max-age=3600"} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	etag := response.Header.Get("Etag")
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(body(t, response), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 {
		t.Fatalf("%d keys are published", len(set.Keys))
	}
	key := set.Keys[0]
	if len(key) != 6 || key["kty"] != "RSA" || key["use"] != "sig" || key["alg"] != "RS256" || key["e"] != "AQAB" || len(key["n"]) != 342 || len(key["kid"]) != 43 {
		t.Errorf("published key is %v", key)
	}
	if keys, ok := r.Keys(id); !ok || len(keys.Keys) != 1 || keys.Keys[0].KeyID != key["kid"] {
		t.Errorf("Keys gives %v, %t", keys, ok)
	}
	if response := r.get(t, "/id/"+id+"/keys", http.Header{"If-None-Match": {etag}}); response.StatusCode != http.StatusNotModified {
		t.Errorf("with the ETag: %s", response.Status)
	}
}

func TestHandlerStatuses(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newStore(t))
	id := r.create(t)
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/id/" + id + "/keys", 200},
		{"HEAD", "/id/" + id + "/keys", 200},
		{"HEAD", "/id/" + id + "/.well-known/openid-configuration", 200},
		{"POST", "/id/" + id + "/keys", 405},
		{"GET", "/id/" + id, 404},
		{"GET", "/id/" + id + "/", 404},
		{"GET", "/id/" + strings.ToLower(id) + "/keys", 404},
		{"GET", "/id/" + strings.Repeat("0", 32) + "/keys", 404},
		{"GET", "/id/x/keys", 404},
		{"GET", "/id/" + id + "%2F/keys", 404},
		{"GET", "/", 404},
	} {
		response := request(t, r.Handler(), tt.method, tt.path, nil)
		if response.StatusCode != tt.want {
			t.Errorf("%s %s: got %d, want %d", tt.method, tt.path, response.StatusCode, tt.want)
		}
		if tt.method == "HEAD" && len(body(t, response)) != 0 {
			t.Errorf("%s %s has a body", tt.method, tt.path)
		}
	}
}

func TestByURL(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newStore(t))
	id := r.create(t)
	for url, ok := range map[string]bool{
		baseURL + "/id/" + id:                     true,
		"https://oidc.example/id/" + id:           true,
		"https://oidc.example:443/id/" + id:       true,
		"https://OIDC.example/id/" + id:           true,
		"https://other.example/id/" + id:          false,
		"https://oidc.example.evil/id/" + id:      false,
		"http://oidc.example/id/" + id:            false,
		"oidc.example/id/" + id:                   false,
		baseURL + "/id/" + id + "/":               false,
		baseURL + "/id/" + id + "/keys":           false,
		baseURL + "/id/" + id + "?x":              false,
		baseURL + "/id/" + id + "#x":              false,
		baseURL + "/x/" + id:                      false,
		baseURL + "/id/" + strings.ToLower(id):    false,
		baseURL + "/id/" + strings.Repeat("0", 8): false,
		baseURL + "/id/":                          false,
		"https://u@oidc.example/id/" + id:         false,
		"":                                        false,
	} {
		gotID, gotAccount, gotOK := r.ByURL(url)
		if gotOK != ok || (ok && (gotID != id || gotAccount != account)) || (!ok && gotID+gotAccount != "") {
			t.Errorf("%s: got %q, %q, %t; want %t", url, gotID, gotAccount, gotOK, ok)
		}
	}
}

func TestSign(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newStore(t))
	id, other := r.create(t), r.create(t)
	now := time.Now()
	token, err := r.Sign(t.Context(), id, map[string]any{"iss": r.URL(id), "sub": "s", "aud": []string{"a"}, "iat": now.Unix(), "exp": int(now.Unix()) + 600})
	if err != nil {
		t.Fatal(err)
	}
	want := idtoken.Expect{Issuer: r.URL(id), Audiences: []string{"a"}, Now: now}
	got, err := idtoken.Verify(t.Context(), token, want, r.jwks(t, id))
	if err != nil {
		t.Fatal(err)
	}
	if got.Subject != "s" || got.KeyID == "" || got.Expires.Unix() != now.Unix()+600 {
		t.Errorf("got %+v", got)
	}
	if _, err := idtoken.Verify(t.Context(), token, want, r.jwks(t, other)); !errors.Is(err, idtoken.ErrKeys) {
		t.Errorf("with the keys of another issuer: %v", err)
	}
	for name, claims := range map[string]map[string]any{
		"without exp":      {"sub": "s"},
		"exp is text":      {"exp": "1"},
		"exp is too late":  {"exp": now.Add(25 * time.Hour).Unix()},
		"another issuer":   {"exp": now.Unix() + 1, "iss": r.URL(other)},
		"cannot be a JSON": {"exp": now.Unix() + 1, "x": func() {}},
	} {
		if token, err := r.Sign(t.Context(), id, claims); err == nil {
			t.Errorf("%s: signed %s", name, token)
		}
	}
}

func TestRemovedIssuer(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	r, peer := newReplica(t, store), newReplica(t, store)
	id := r.create(t)
	peer.sync(t)
	for _, replica := range []replica{r, peer} {
		replica.sign(t, id) // and fill the caches
		replica.jwks(t, id)
	}
	if err := r.db.Update(t.Context(), func(tx *kv.Tx) error { r.Remove(tx, id); return nil }); err != nil {
		t.Fatal(err)
	}
	peer.sync(t)
	for name, replica := range map[string]replica{"the replica itself": r, "its peer": peer} {
		if _, err := replica.Sign(t.Context(), id, map[string]any{"exp": time.Now().Unix()}); !errors.Is(err, oidc.ErrNotFound) {
			t.Errorf("%s: Sign gives %v", name, err)
		}
		if _, ok := replica.Keys(id); ok {
			t.Errorf("%s: Keys still gives keys", name)
		}
		if _, _, ok := replica.ByURL(replica.URL(id)); ok {
			t.Errorf("%s: ByURL still finds it", name)
		}
		for _, path := range []string{"/keys", "/.well-known/openid-configuration"} {
			if response := replica.get(t, "/id/"+id+path, nil); response.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %s gives %s", name, path, response.Status)
			}
		}
	}
}

func TestIssuerOfAnotherReplicaIsFoundAtOnce(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	r, peer := newReplica(t, store), newReplica(t, store)
	for range 3 {
		id := r.create(t)
		peer.sign(t, id)
		id = r.create(t)
		peer.jwks(t, id)
	}
}

func TestConfigValidate(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://oidc.example": true, "https://oidc.example:8443": true, "https://127.0.0.1:1": true,
		"http://oidc.example": false, "https://oidc.example/": false, "https://oidc.example/x": false, "https://oidc.example?x": false,
		"https://u@oidc.example": false, "https://": false, "oidc.example": false, "": false, "https://a b": false,
	} {
		if err := (oidc.Config{BaseURL: url}).Validate(); ok != (err == nil) {
			t.Errorf("%q: got %v, want it accepted: %t", url, err, ok)
		}
	}
	for every, ok := range map[time.Duration]bool{0: true, 7 * time.Minute: true, 6 * time.Minute: false, -1: false} {
		if err := (oidc.Config{BaseURL: baseURL, RotateEvery: every}).Validate(); ok != (err == nil) {
			t.Errorf("rotation every %s: got %v, want it accepted: %t", every, err, ok)
		}
	}
}

// heldToken is a token of the rotation test that has not expired.
type heldToken struct {
	text    string
	keyID   string
	expires time.Time
}

// Over weeks of rotation by two replicas at once, each token verifies on every day of its life, with a key set that is
// served then and with one that was served an hour (max-age) before.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		store := kv.NewMemory()
		replicas := []replica{newReplica(t, store), newReplica(t, store)}
		id := replicas[0].create(t)
		replicas[1].sync(t)
		for _, r := range replicas {
			r.Start(ctx)
		}
		const step = time.Hour // the max-age of key sets
		var (
			held      []heldToken
			cached    [][]idtoken.Static // per step, of each replica
			signedBy  []string           // key IDs in the order of their use
			published = map[string]time.Time{}
			most      int
		)
		ticks := time.NewTicker(step)
		defer ticks.Stop()
		for n := range 5 * 7 * 24 {
			<-ticks.C
			synctest.Wait()
			now := time.Now()
			var sets []idtoken.Static
			for _, r := range replicas {
				s := r.jwks(t, id)
				sets = append(sets, s)
				most = max(most, len(s.Set.Keys))
				for _, key := range s.Set.Keys {
					if _, ok := published[key.KeyID]; !ok {
						published[key.KeyID] = now
					}
				}
			}
			if diff := cmp.Diff(keyIDs(sets[0]), keyIDs(sets[1])); diff != "" {
				t.Fatalf("step %d: the replicas publish different keys:\n%s", n, diff)
			}
			cached = append(cached, sets)
			token := replicas[n%2].sign(t, id)
			claims, err := idtoken.ParseInsecure(token)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, heldToken{token, claims.KeyID, now.Add(24 * time.Hour)})
			if len(signedBy) == 0 || signedBy[len(signedBy)-1] != claims.KeyID {
				signedBy = append(signedBy, claims.KeyID)
				if since := now.Sub(published[claims.KeyID]); len(signedBy) > 1 && since < 22*time.Hour {
					t.Errorf("key %s signs after having been published for %s only", claims.KeyID, since)
				}
			}
			for len(held) > 0 && !now.Before(held[0].expires) {
				held = held[1:]
			}
			available := sets
			if n > 0 {
				available = append(available, cached[n-1]...)
			}
			for _, token := range held {
				for _, set := range available {
					if _, err := set.Keys(ctx, token.keyID); err != nil {
						t.Fatalf("step %d: %v", n, err)
					}
				}
			}
			for _, set := range available { // in full for one: signatures take long
				if _, err := idtoken.Verify(ctx, held[0].text, idtoken.Expect{Issuer: replicas[0].URL(id), Now: now}, set); err != nil {
					t.Fatalf("step %d: %v", n, err)
				}
			}
		}
		if len(signedBy) != 5 && len(signedBy) != 6 {
			t.Errorf("%d keys signed in five weeks", len(signedBy))
		}
		if most > 3 {
			t.Errorf("up to %d keys were published at once", most)
		}
		if got := keyIDs(cached[len(cached)-1][0]); len(got) > 2 {
			t.Errorf("%d keys are still published in the end", len(got))
		}
		stop()
		synctest.Wait()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
}

func keyIDs(s idtoken.Static) []string {
	var ids []string
	for _, key := range s.Set.Keys {
		ids = append(ids, key.KeyID)
	}
	return ids
}

// After an outage of weeks the old key signs on until the next one has been published for as long as it must be.
func TestRotationAfterOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		store := kv.NewMemory()
		r := newReplica(t, store)
		id := r.create(t)
		first := r.jwks(t, id)
		<-time.After(30 * 24 * time.Hour)
		if diff := cmp.Diff(keyIDs(first), keyIDs(r.jwks(t, id))); diff != "" {
			t.Errorf("keys changed without rotation:\n%s", diff)
		}
		r.Start(ctx)
		<-time.After(time.Hour)
		token := r.sign(t, id)
		if _, err := idtoken.Verify(ctx, token, idtoken.Expect{Issuer: r.URL(id), Now: time.Now()}, first); err != nil {
			t.Errorf("the first key does not sign until the next is known: %v", err)
		}
		second := r.jwks(t, id)
		if len(second.Set.Keys) != 2 {
			t.Fatalf("%d keys are published", len(second.Set.Keys))
		}
		<-time.After(24 * time.Hour)
		token = r.sign(t, id)
		if _, err := idtoken.Verify(ctx, token, idtoken.Expect{Issuer: r.URL(id), Now: time.Now()}, first); !errors.Is(err, idtoken.ErrKeys) {
			t.Errorf("the first key still signs: %v", err)
		}
		if _, err := idtoken.Verify(ctx, token, idtoken.Expect{Issuer: r.URL(id), Now: time.Now()}, second); err != nil {
			t.Error(err)
		}
		stop()
		synctest.Wait()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	log := slog.New(slog.DiscardHandler)
	store := kv.NewMemory()
	defer store.Close()
	db := kv.NewDB(kv.Config{Store: store, Log: log})
	ring, err := keyring.New(keyring.Config{DB: db, MasterKey: keyring.MasterKey{1}, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	p := oidc.New(oidc.Config{DB: db, Keyring: ring, BaseURL: baseURL, Log: log})
	if err := db.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	i, err := p.NewIssuer(account)
	if err != nil {
		b.Fatal(err)
	}
	if err := db.Update(b.Context(), func(tx *kv.Tx) error { p.Put(tx, i); return nil }); err != nil {
		b.Fatal(err)
	}
	claims := map[string]any{"sub": "s", "aud": "a", "exp": time.Now().Unix()}
	for b.Loop() {
		if _, err := p.Sign(b.Context(), i.ID, claims); err != nil {
			b.Fatal(err)
		}
	}
}
