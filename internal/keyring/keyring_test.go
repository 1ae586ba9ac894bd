package keyring_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
)

var master = keyring.MasterKey{1, 2, 3}

// newReplica returns the keyring of a replica over a store, and its DB, neither started.
func newReplica(t testing.TB, store kv.Store, master keyring.MasterKey) (*kv.DB, *keyring.Keyring) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	db := kv.NewDB(kv.Config{Store: store, Log: log})
	ring, err := keyring.New(keyring.Config{DB: db, MasterKey: master, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return db, ring
}

// startReplica starts both, until ctx ends.
func startReplica(ctx context.Context, t testing.TB, store kv.Store) *keyring.Keyring {
	t.Helper()
	db, ring := newReplica(t, store, master)
	if err := db.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := ring.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return ring
}

func seal(t testing.TB, ring *keyring.Keyring, text string) []byte {
	t.Helper()
	sealed, err := ring.Seal("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func opens(t testing.TB, ring *keyring.Keyring, sealed []byte, want string) {
	t.Helper()
	got, err := ring.Open("test", sealed)
	if err != nil || string(got) != want {
		t.Errorf("Open = %q, %v; want %q", got, err, want)
	}
}

func doesNotOpen(t testing.TB, ring *keyring.Keyring, sealed []byte) {
	t.Helper()
	if got, err := ring.Open("test", sealed); !errors.Is(err, keyring.ErrOpen) {
		t.Errorf("Open = %q, %v; want ErrOpen", got, err)
	}
}

// dataKeys returns the names of the stored data keys.
func dataKeys(t testing.TB, store kv.Store) []string {
	t.Helper()
	entries, _, err := store.List(t.Context(), "/lanyard/keyring/")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimPrefix(e.Key, "/lanyard/keyring/"))
	}
	return names
}

func TestWhatOneReplicaSealsEveryReplicaOpens(t *testing.T) {
	store := kv.NewMemory()
	a, b := startReplica(t.Context(), t, store), startReplica(t.Context(), t, store)
	sealed := seal(t, a, "secret")
	if bytes.Contains(sealed, []byte("secret")) {
		t.Error("the sealed bytes show the secret")
	}
	opens(t, a, sealed, "secret")
	opens(t, b, sealed, "secret")
	if bytes.Equal(sealed, seal(t, a, "secret")) {
		t.Error("sealing twice gives the same bytes")
	}
	opens(t, b, seal(t, a, ""), "")
}

func TestNothingElseOpens(t *testing.T) {
	ring := startReplica(t.Context(), t, kv.NewMemory())
	sealed := seal(t, ring, "secret")
	wrapped, err := ring.Wrap("test", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		altered := bytes.Clone(sealed)
		altered[i] ^= 1
		doesNotOpen(t, ring, altered)
		doesNotOpen(t, ring, sealed[:i])
	}
	for i := range wrapped {
		altered := bytes.Clone(wrapped)
		altered[i] ^= 1
		if _, err := ring.Unwrap("test", altered); !errors.Is(err, keyring.ErrOpen) {
			t.Errorf("Unwrap with byte %d altered = %v, want ErrOpen", i, err)
		}
		if _, err := ring.Unwrap("test", wrapped[:i]); !errors.Is(err, keyring.ErrOpen) {
			t.Errorf("Unwrap of the first %d bytes = %v, want ErrOpen", i, err)
		}
	}
	doesNotOpen(t, ring, append(bytes.Clone(sealed), 0))
	doesNotOpen(t, ring, wrapped)
	if _, err := ring.Open("other", sealed); !errors.Is(err, keyring.ErrOpen) {
		t.Errorf("Open for another purpose = %v, want ErrOpen", err)
	}
	if _, err := ring.Unwrap("other", wrapped); !errors.Is(err, keyring.ErrOpen) {
		t.Errorf("Unwrap for another purpose = %v, want ErrOpen", err)
	}
	if _, err := ring.Unwrap("test", sealed); !errors.Is(err, keyring.ErrOpen) {
		t.Errorf("Unwrap of what was sealed = %v, want ErrOpen", err)
	}
	if got, err := ring.Unwrap("test", wrapped); err != nil || string(got) != "secret" {
		t.Errorf("Unwrap = %q, %v", got, err)
	}
	doesNotOpen(t, startReplica(t.Context(), t, kv.NewMemory()), sealed)
}

func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := kv.NewMemory()
		a, b := startReplica(t.Context(), t, store), startReplica(t.Context(), t, store)
		old := seal(t, a, "old")

		time.Sleep(24*time.Hour - time.Second)
		if got := fmt.Sprint(dataKeys(t, store)); got != "[00000001]" {
			t.Errorf("before the first rotation the keys are %s", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := fmt.Sprint(dataKeys(t, store)); got != "[00000001 00000002]" {
			t.Errorf("both replicas rotated, and the keys are %s; want one new one", got)
		}
		if id := seal(t, a, "x")[4]; id != 1 {
			t.Errorf("a key that was just made is in use already: %d", id)
		}
		time.Sleep(time.Minute)
		fresh := seal(t, a, "new")
		if id := fresh[4]; id != 2 {
			t.Errorf("a minute after it was made the key in use is %d, want 2", id)
		}
		opens(t, b, old, "old")
		opens(t, b, fresh, "new")

		// The last session under the first key was sealed a minute after the second was made, and may live 36 hours.
		time.Sleep(36*time.Hour - 2*time.Minute)
		opens(t, a, old, "old")
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		doesNotOpen(t, a, old)
		doesNotOpen(t, b, old)
		opens(t, a, fresh, "new")
		if got := fmt.Sprint(dataKeys(t, store)); got != "[00000002 00000003]" {
			t.Errorf("after the first key's end the keys are %s", got)
		}
	})
}

func TestReplicasThatStartTogetherMakeOneKey(t *testing.T) {
	store := kv.NewMemory()
	rings := make([]*keyring.Keyring, 8)
	var wg sync.WaitGroup
	for i := range rings {
		wg.Go(func() { rings[i] = startReplica(t.Context(), t, store) })
	}
	wg.Wait()
	if got := dataKeys(t, store); len(got) != 1 {
		t.Errorf("keys are %v, want one", got)
	}
	for _, a := range rings {
		sealed := seal(t, a, "secret")
		for _, b := range rings {
			opens(t, b, sealed, "secret")
		}
	}
}

func TestWrongMasterKeyIsRefused(t *testing.T) {
	for _, age := range []time.Duration{0, 25 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			store := kv.NewMemory()
			first, stop := context.WithCancel(t.Context())
			startReplica(first, t, store)
			stop()
			time.Sleep(age)
			db, ring := newReplica(t, store, keyring.MasterKey{9})
			if err := db.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := ring.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "start with the master key") {
				t.Errorf("after %s: Start with another master key = %v", age, err)
			}
			if got := dataKeys(t, store); len(got) != 1 {
				t.Errorf("after %s: keys are %v, want only the first", age, got)
			}
		})
	}
}

func TestSettingsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		why    string
		config keyring.Config
		want   string
	}{
		{"no master key", keyring.Config{}, "all zero"},
		{"retention below the longest session", keyring.Config{MasterKey: master, RetainFor: 35 * time.Hour}, "end sessions early"},
		{"hectic rotation", keyring.Config{MasterKey: master, RotateEvery: time.Second}, "too often"},
	} {
		c.config.DB = kv.NewDB(kv.Config{Store: kv.NewMemory(), Log: slog.New(slog.DiscardHandler)})
		c.config.Log = slog.New(slog.DiscardHandler)
		if _, err := keyring.New(c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: New = %v, want an error with %q", c.why, err, c.want)
		}
	}
}

func TestSealBeforeStartFails(t *testing.T) {
	_, ring := newReplica(t, kv.NewMemory(), master)
	if _, err := ring.Seal("test", nil); err == nil {
		t.Error("Seal without a data key succeeds")
	}
	doesNotOpen(t, ring, make([]byte, 100))
}

func TestMasterKeyPrintsRedacted(t *testing.T) {
	var key keyring.MasterKey
	copy(key[:], "SECRETSECRETSECRETSECRETSECRETSE")
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "key", key, "config", keyring.Config{MasterKey: key})
	asJSON, err := json.Marshal(struct{ Key keyring.MasterKey }{key})
	if err != nil {
		t.Fatal(err)
	}
	printed := fmt.Sprintf("%v %+v %#v %s %x %X %d %q", key, key, key, key, key, key, key, key) + logged.String() + string(asJSON)
	for _, leak := range []string{"SECRET", "534543", "83, 69", "83 69", "0x53"} {
		if strings.Contains(printed, leak) {
			t.Errorf("%q is in %s", leak, printed)
		}
	}
}

func FuzzOpen(f *testing.F) {
	ring := startReplica(f.Context(), f, kv.NewMemory())
	real := seal(f, ring, "secret")
	f.Add("test", real)
	f.Add("test", real[:len(real)-1])
	f.Add("", []byte{1, 0, 0, 0, 1})
	f.Add("test", []byte{})
	f.Fuzz(func(t *testing.T, purpose string, input []byte) {
		got, err := ring.Open(purpose, input)
		if err == nil && (purpose != "test" || !bytes.Equal(input, real) || string(got) != "secret") {
			t.Fatalf("opened %x for %q", input, purpose)
		}
		if err != nil && !errors.Is(err, keyring.ErrOpen) {
			t.Fatalf("Open = %v, want ErrOpen", err)
		}
		sealed, err := ring.Seal(purpose, input)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ring.Open(purpose, sealed); err != nil || !bytes.Equal(back, input) {
			t.Fatalf("sealed %x opens as %x, %v", input, back, err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	ring := startReplica(b.Context(), b, kv.NewMemory())
	plaintext := make([]byte, 500)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ring.Seal("test", plaintext); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	ring := startReplica(b.Context(), b, kv.NewMemory())
	sealed := seal(b, ring, strings.Repeat("x", 500))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ring.Open("test", sealed); err != nil {
			b.Fatal(err)
		}
	}
}
