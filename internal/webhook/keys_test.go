package webhook

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1fake "k8s.io/client-go/kubernetes/typed/core/v1/fake"
)

// publicKey makes a key with an ID.
func publicKey(t *testing.T, id string) jose.JSONWebKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key.Public(), KeyID: id, Algorithm: "ES256", Use: "sig"}
}

func TestKeysComeAtOnceAndGoLate(t *testing.T) {
	t.Parallel()
	all := map[string]jose.JSONWebKey{}
	for _, id := range []string{"a", "b", "c"} {
		all[id] = publicKey(t, id)
	}
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	var r keyRecord
	for _, step := range []struct {
		hours     int
		published string // IDs
		want      string // IDs, with a ' of those that are retained
	}{
		{0, "a", "a"},
		{1, "a b", "a b"},
		{2, "b", "a' b"},
		{3, "a", "a b'"}, // another API server of the cluster, which is behind
		{4, "b", "a' b"}, // it counts from when it was missed last
		{27, "b", "a' b"},
		{28, "b", "b"},
		{29, "c", "b' c"},
		{100, "c", "c"},
	} {
		var published []jose.JSONWebKey
		for _, id := range strings.Fields(step.published) {
			published = append(published, all[id])
		}
		at := start.Add(time.Duration(step.hours) * time.Hour)
		next := r.merge(published, at, 24*time.Hour)
		if again := next.merge(published, at, 24*time.Hour); again.differs(next) {
			t.Errorf("after %d h: the same again is another", step.hours)
		}
		var got []string
		for _, id := range next.ids() {
			if _, retired := next.Retired[id]; retired {
				id += "'"
			}
			got = append(got, id)
		}
		if diff := cmp.Diff(step.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("after %d h (-want +got):\n%s", step.hours, diff)
		}
		r = next
	}
	other := publicKey(t, "c")
	next := r.merge([]jose.JSONWebKey{other}, start, time.Hour)
	if !next.differs(r) || !next.Keys.Keys[0].Key.(*ecdsa.PublicKey).Equal(other.Key) {
		t.Error("another key of the same ID is not taken in its place")
	}
}

func TestPublishedKeys(t *testing.T) {
	t.Parallel()
	document := func(keys ...jose.JSONWebKey) string {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for text, ok := range map[string]bool{
		document(publicKey(t, "a"), publicKey(t, "b")): true,
		document():                 false,
		document(publicKey(t, "")): false,
		`{"keys": [{"kty": "RSA"`:  false,
		`{"message": "forbidden"}`: false,
		document(jose.JSONWebKey{Key: private, KeyID: "a"}): false, // never leaves the cluster
	} {
		if _, err := parsePublished([]byte(text)); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// keysWorld is what Keys meet: an API server, its secrets, and a control plane.
type keysWorld struct {
	t       *testing.T
	secrets *corev1fake.FakeCoreV1

	mu                 sync.Mutex // guards what follows
	issuer, registered string
	published          []jose.JSONWebKey
	keys               []string // IDs of those that are registered
	pushes             []time.Duration
	down               bool // of the control plane
	events             []string
	start              time.Time
}

func newKeysWorld(t *testing.T) *keysWorld {
	return &keysWorld{
		t: t, secrets: &corev1fake.FakeCoreV1{Fake: memoryCluster()}, issuer: "https://one.test", registered: "https://one.test",
		published: []jose.JSONWebKey{publicKey(t, "a")}, start: time.Now(),
	}
}

// run runs Keys until the function that it returns is called.
func (w *keysWorld) run() (k *Keys, stop func()) {
	metrics, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		w.t.Fatal(err)
	}
	k = NewKeys(KeysConfig{
		Read: func(context.Context) (string, []byte, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			text, err := json.Marshal(jose.JSONWebKeySet{Keys: w.published})
			return w.issuer, text, err
		},
		Registered: func(context.Context) (string, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.registered, nil
		},
		Push: func(_ context.Context, document []byte) ([]string, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.pushes = append(w.pushes, time.Since(w.start))
			if w.down {
				return nil, errors.New("connection refused")
			}
			keys, err := parsePublished(document)
			if err != nil {
				return nil, err
			}
			previous := w.keys
			w.keys = keyRecord{Keys: jose.JSONWebKeySet{Keys: keys}}.ids()
			return previous, nil
		},
		Secrets: w.secrets, Namespace: "lanyard", Secret: "keys", Every: 5 * time.Second, Retention: 24 * time.Hour,
		Event: func(reason, message string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, reason+" "+message)
		},
		Metrics: metrics, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.Run(ctx)
	}()
	return k, func() {
		cancel()
		<-ended
	}
}

// change changes something of the world.
func (w *keysWorld) change(how func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	how()
}

// after lets some time pass, and checks which keys are registered then.
func (w *keysWorld) after(d time.Duration, want string) {
	w.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := strings.Join(w.keys, " "); got != want {
		w.t.Errorf("after %s the keys are %q, want %q", time.Since(w.start), got, want)
	}
}

func TestKeysArePushedWhenTheyChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newKeysWorld(t)
		k, stop := w.run()
		w.after(0, "a")
		w.after(time.Hour, "a")
		if len(w.pushes) != 1 {
			t.Errorf("without a change there were pushes at %v", w.pushes)
		}
		w.change(func() { w.published = append(w.published, publicKey(t, "b")) })
		w.after(5*time.Second, "a b")
		w.change(func() { w.published = append(w.published, publicKey(t, "c")) })
		time.Sleep(time.Second)
		k.Look()
		w.after(0, "a b c")
		stop()
		if len(w.pushes) != 3 {
			t.Errorf("for three changes there were pushes at %v", w.pushes)
		}

		// Another replica knows what was pushed, and for how long it stays.
		w.change(func() { w.published = w.published[2:] })
		_, stop = w.run()
		w.after(23*time.Hour, "a b c")
		w.after(2*time.Hour, "c")
		stop()
	})
}

func TestKeysThatOthersTookAwayStayAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newKeysWorld(t)
		w.change(func() { w.published = append(w.published, publicKey(t, "b")) })
		_, stop := w.run()
		defer stop()
		w.after(0, "a b")
		w.change(func() { w.published = w.published[1:] })
		w.after(time.Minute, "a b")
		w.change(func() { w.keys = []string{"b"} }) // somebody replaces the keys by those that are published
		w.change(func() { w.published = append(w.published, publicKey(t, "c")) })
		w.after(5*time.Second, "b c")
		w.after(time.Minute, "b c")

		// Without the secret nothing is retained, either.
		w.change(func() { w.published = w.published[1:] })
		w.after(time.Minute, "b c")
		if err := w.secrets.Secrets("lanyard").Delete(t.Context(), "keys", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.change(func() { w.published = append(w.published, publicKey(t, "d")) })
		w.after(time.Minute, "c d")
	})
}

func TestKeysOfAnUnreachableControlPlaneArePushedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newKeysWorld(t)
		w.change(func() { w.down = true })
		_, stop := w.run()
		defer stop()
		w.after(time.Minute, "")
		if want := []time.Duration{0, 1 * time.Second, 3 * time.Second, 7 * time.Second}; !slices.Equal(w.pushes[:4], want) {
			t.Errorf("pushes at %v, want %v", w.pushes[:4], want)
		}
		w.change(func() { w.published = []jose.JSONWebKey{publicKey(t, "b")} }) // its predecessor has signed tokens meanwhile
		time.Sleep(10 * time.Second)
		w.change(func() { w.down = false })
		w.after(5*time.Second, "a b")
	})
}

func TestKeysOfAnotherIssuerAreNotPushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newKeysWorld(t)
		_, stop := w.run()
		defer stop()
		w.after(0, "a")
		w.change(func() { w.issuer, w.published = "https://other.test", []jose.JSONWebKey{publicKey(t, "b")} })
		w.after(time.Hour, "a")
		const want = "IssuerMismatch the API server's issuer is https://other.test, but the cluster is registered with https://one.test"
		if len(w.events) != 1 || !strings.Contains(w.events[0], want) {
			t.Errorf("events: %q", w.events)
		}
		w.change(func() { w.registered = w.issuer })
		w.after(5*time.Second, "a b")
	})
}

func TestASecretThatIsBrokenStopsThePushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newKeysWorld(t)
		broken := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "lanyard", Name: "keys"}, Data: map[string][]byte{recordKey: []byte("{")}}
		if _, err := w.secrets.Secrets("lanyard").Create(t.Context(), broken, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		_, stop := w.run()
		defer stop()
		w.after(time.Minute, "")
		if err := w.secrets.Secrets("lanyard").Delete(t.Context(), "keys", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.after(10*time.Second, "a")
	})
}

// FuzzKeyRecord reads what a secret may have: what was read is written as the same.
func FuzzKeyRecord(f *testing.F) {
	f.Add(`{"keys": {"keys": []}, "retired": {"a": "2030-01-01T00:00:00Z"}, "pushed": ["a"]}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, text string) {
		var r, again keyRecord
		if json.Unmarshal([]byte(text), &r) != nil {
			return
		}
		written, err := json.Marshal(r)
		if err != nil {
			return // a key that is none
		}
		if err := json.Unmarshal(written, &again); err != nil {
			t.Fatalf("%s is written as %s: %v", text, written, err)
		}
		if again.differs(r) || !maps.Equal(again.Retired, r.Retired) || !slices.Equal(again.Pushed, r.Pushed) {
			t.Errorf("%s is written as %s", text, written)
		}
	})
}
