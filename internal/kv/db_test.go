package kv_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/kv/kvtest"
)

type person struct {
	Name  string
	Teams []string
	Count int
}

// world is a DB with two tables and an index.
type world struct {
	*kv.DB
	people *kv.Table[person]
	byTeam *kv.Index[person]
	teams  *kv.Table[string]
}

func newWorld(t testing.TB, store kv.Store) *world {
	db := kv.NewDB(kv.Config{Store: store, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	people := kv.NewTable[person](db, "people")
	return &world{
		DB:     db,
		people: people,
		byTeam: kv.NewIndex(people, func(_ string, p *person) []string { return p.Teams }),
		teams:  kv.NewTable[string](db, "teams"),
	}
}

func start(t testing.TB, w *world) *world {
	t.Helper()
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) put(t testing.TB, key string, p person) {
	t.Helper()
	if err := w.Update(t.Context(), func(tx *kv.Tx) error { w.people.Write(tx, key, &p); return nil }); err != nil {
		t.Fatal(err)
	}
}

func keys[T any](seq func(func(string, *T) bool)) []string {
	got := []string{}
	for k := range seq {
		got = append(got, k)
	}
	return got
}

func TestTableScansInOrder(t *testing.T) {
	w := start(t, newWorld(t, kv.NewMemory()))
	for _, key := range []string{"b/2", "a/1", "b/1", "c", "b/3"} {
		w.put(t, key, person{Name: key})
	}
	for _, c := range []struct {
		prefix, after string
		want          []string
	}{
		{"", "", []string{"a/1", "b/1", "b/2", "b/3", "c"}},
		{"b/", "", []string{"b/1", "b/2", "b/3"}},
		{"b/", "b/1", []string{"b/2", "b/3"}},
		{"b/", "b/11", []string{"b/2", "b/3"}},
		{"b/", "a", []string{"b/1", "b/2", "b/3"}},
		{"b/", "b/3", []string{}},
		{"b/", "z", []string{}},
		{"d", "", []string{}},
		{"", "b/3", []string{"c"}},
	} {
		if diff := cmp.Diff(c.want, keys(w.people.Scan(c.prefix, c.after))); diff != "" {
			t.Errorf("Scan(%q, %q): %s", c.prefix, c.after, diff)
		}
	}
	if w.people.Len() != 5 {
		t.Errorf("Len() = %d, want 5", w.people.Len())
	}
}

func TestIndexFollowsWrites(t *testing.T) {
	w := start(t, newWorld(t, kv.NewMemory()))
	w.put(t, "ann", person{Teams: []string{"red", "blue"}})
	w.put(t, "bob", person{Teams: []string{"red", "red"}})
	check := func(team string, want ...string) {
		t.Helper()
		if got := keys(w.byTeam.Get(team)); !slices.Equal(got, want) {
			t.Errorf("team %s has %v, want %v", team, got, want)
		}
		first, _, ok := w.byTeam.First(team)
		if ok != (len(want) > 0) || ok && first != want[0] {
			t.Errorf("first of team %s is %q, %v; want the first of %v", team, first, ok, want)
		}
	}
	check("red", "ann", "bob")
	check("blue", "ann")
	w.put(t, "ann", person{Teams: []string{"green"}})
	check("red", "bob")
	check("blue")
	check("green", "ann")
	check("gree")
	if err := w.Update(t.Context(), func(tx *kv.Tx) error { w.people.Remove(tx, "bob"); return nil }); err != nil {
		t.Fatal(err)
	}
	check("red")
}

func TestTxSeesItsOwnWrites(t *testing.T) {
	w := start(t, newWorld(t, kv.NewMemory()))
	w.put(t, "ann", person{Name: "Ann"})
	err := w.Update(t.Context(), func(tx *kv.Tx) error {
		if p, ok := w.people.Read(tx, "ann"); !ok || p.Name != "Ann" {
			t.Errorf("ann is %v, %v", p, ok)
		}
		w.people.Write(tx, "ann", &person{Name: "Anna"})
		if p, ok := w.people.Read(tx, "ann"); !ok || p.Name != "Anna" {
			t.Errorf("after the write ann is %v, %v", p, ok)
		}
		w.people.Remove(tx, "ann")
		if p, ok := w.people.Read(tx, "ann"); ok {
			t.Errorf("after the removal ann is %v", p)
		}
		if p, ok := w.people.Get("ann"); !ok || p.Name != "Ann" {
			t.Errorf("outside of the transaction ann is %v, %v", p, ok)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := w.people.Get("ann"); ok {
		t.Errorf("after the commit ann is %v", p)
	}
}

func TestUpdateThatFailsOrWritesNothingCommitsNothing(t *testing.T) {
	store := kv.NewMemory()
	w := start(t, newWorld(t, store))
	before, err := store.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	oops := errors.New("oops")
	err = w.Update(t.Context(), func(tx *kv.Tx) error {
		w.people.Write(tx, "ann", &person{})
		return oops
	})
	if err != oops {
		t.Errorf("Update = %v, want the function's own error", err)
	}
	if err := w.Update(t.Context(), func(tx *kv.Tx) error { w.people.Read(tx, "ann"); return nil }); err != nil {
		t.Error(err)
	}
	after, err := store.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after != before {
		t.Errorf("revision went from %d to %d", before, after)
	}
}

func TestConcurrentIncrementsLoseNothing(t *testing.T) {
	store := kv.NewMemory()
	replicas := []*world{start(t, newWorld(t, store)), start(t, newWorld(t, store))}
	const writers, times = 8, 25
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			w := replicas[i%len(replicas)]
			for range times {
				err := w.Update(t.Context(), func(tx *kv.Tx) error {
					p := person{Name: "counter"}
					if old, ok := w.people.Read(tx, "counter"); ok {
						p = *old
					}
					p.Count++
					w.people.Write(tx, "counter", &p)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i, w := range replicas {
		if err := w.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p, ok := w.people.Get("counter"); !ok || p.Count != writers*times {
			t.Errorf("replica %d: counter is %v, want %d", i, p, writers*times)
		}
	}
}

func TestSyncShowsWhatAnotherReplicaWrote(t *testing.T) {
	store := kv.NewMemory()
	a, b := start(t, newWorld(t, store)), start(t, newWorld(t, store))
	for i := range 100 {
		key := fmt.Sprint(i)
		a.put(t, key, person{})
		if err := b.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, ok := b.people.Get(key); !ok {
			t.Fatalf("row %s is missing after Sync", key)
		}
	}
}

func TestBeforeStartNothingIsServed(t *testing.T) {
	w := newWorld(t, kv.NewMemory())
	if _, ok := w.people.Get("ann"); ok || w.people.Len() != 0 || len(keys(w.people.Scan("", ""))) != 0 || len(keys(w.byTeam.Get("x"))) != 0 {
		t.Error("a DB that has not started has rows")
	}
	for name, err := range map[string]error{
		"Fresh":  w.Fresh(),
		"Sync":   w.Sync(t.Context()),
		"Update": w.Update(t.Context(), func(*kv.Tx) error { return nil }),
	} {
		if !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("%s before Start = %v, want ErrUnavailable", name, err)
		}
	}
}

func TestAfterItsContextTheDBIsUnavailable(t *testing.T) {
	w := newWorld(t, kv.NewMemory())
	ctx, cancel := context.WithCancel(t.Context())
	if err := w.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	// The row that is written after the end never arrives; Update must not wait for it for ever.
	err := w.Update(t.Context(), func(tx *kv.Tx) error { w.people.Write(tx, "ann", &person{}); return nil })
	if !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("Update after the end = %v, want ErrUnavailable", err)
	}
	if err := w.Fresh(); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("Fresh after the end = %v, want ErrUnavailable", err)
	}
}

func BenchmarkTableGet(b *testing.B) {
	w := start(b, newWorld(b, kv.NewMemory()))
	for i := range 1000 {
		w.put(b, fmt.Sprint("person-", i), person{Name: "Ann"})
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok := w.people.Get("person-500"); !ok {
				b.Error("missing")
			}
		}
	})
}

func BenchmarkUpdate(b *testing.B) {
	w := start(b, newWorld(b, kv.NewMemory()))
	p := &person{Name: "Ann", Teams: []string{"red"}}
	for b.Loop() {
		err := w.Update(b.Context(), func(tx *kv.Tx) error {
			w.people.Read(tx, "ann")
			w.people.Write(tx, "ann", p)
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// faultyWorld is a DB behind a network that fails on command, next to one whose network works.
func faultyWorld(t testing.TB) (behind *world, f *kvtest.Faulty, ahead *world, store kv.Store) {
	t.Helper()
	store = kv.NewMemory()
	f = kvtest.NewFaulty(store)
	return start(t, newWorld(t, f)), f, start(t, newWorld(t, store)), store
}

func has(w *world, key string) bool {
	_, ok := w.people.Get(key)
	return ok
}

func TestAWatchResumesWhereItWasCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind, f, ahead, _ := faultyWorld(t)
		for i := range 20 {
			key := fmt.Sprint(i)
			if i%3 == 0 {
				f.CutWatches()
			}
			ahead.put(t, key, person{})
			if err := behind.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !has(behind, key) {
				t.Fatalf("row %s is missing after Sync", key)
			}
		}
		if f.WatchesBegun() < 7 {
			t.Errorf("only %d watches were begun", f.WatchesBegun())
		}
	})
}

func TestFreshEndsWithTheConnectionAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind, f, ahead, _ := faultyWorld(t)
		time.Sleep(time.Hour)
		if err := behind.Fresh(); err != nil {
			t.Errorf("after an idle hour: %v", err)
		}
		f.Disconnect()
		ahead.put(t, "ann", person{})
		time.Sleep(7 * time.Second)
		if err := behind.Fresh(); err != nil {
			t.Errorf("7 s after the connection broke: %v", err)
		}
		time.Sleep(4 * time.Second)
		if err := behind.Fresh(); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("11 s after the connection broke: %v, want ErrUnavailable", err)
		}
		if err := behind.Sync(t.Context()); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("Sync without a connection = %v, want ErrUnavailable", err)
		}
		f.Reconnect()
		time.Sleep(6 * time.Second)
		if err := behind.Fresh(); err != nil {
			t.Errorf("after the connection came back: %v", err)
		}
		if !has(behind, "ann") {
			t.Error("what was written meanwhile is missing")
		}
	})
}

func TestFreshNeedsTheWatchNotOnlyTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind, f, ahead, _ := faultyWorld(t)
		f.Hold()
		ahead.put(t, "ann", person{})
		time.Sleep(11 * time.Second)
		if err := behind.Fresh(); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("with a watch that delivers nothing: %v, want ErrUnavailable", err)
		}
		f.Release()
		time.Sleep(5 * time.Second)
		if err := behind.Fresh(); err != nil {
			t.Errorf("once the watch delivers: %v", err)
		}
	})
}

func TestAWatchThatHangsIsReplacedBeforeFreshFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind, f, ahead, _ := faultyWorld(t)
		time.Sleep(time.Minute)
		f.Hang()
		ahead.put(t, "ann", person{})
		for range 30 {
			time.Sleep(time.Second)
			if err := behind.Fresh(); err != nil {
				t.Errorf("Fresh: %v", err)
			}
		}
		if !has(behind, "ann") {
			t.Error("what was written meanwhile is missing")
		}
	})
}

func TestSyncAndUpdateWaitForTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind, f, ahead, _ := faultyWorld(t)
		f.Hold()
		ahead.put(t, "ann", person{})
		var synced, updated bool
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := behind.Sync(t.Context()); err != nil {
				t.Errorf("Sync: %v", err)
			}
			synced = has(behind, "ann")
		})
		wg.Go(func() {
			behind.put(t, "bob", person{})
			updated = has(behind, "bob")
		})
		synctest.Wait()
		if synced || updated || has(behind, "ann") {
			t.Error("something was seen while the watch was held")
		}
		f.Release()
		wg.Wait()
		if !synced || !updated {
			t.Errorf("after Sync its row is there: %v; after Update: %v", synced, updated)
		}
	})
}

func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind, f, ahead, _ := faultyWorld(t)
		f.Hold()
		ahead.put(t, "ann", person{})
		if err := behind.Sync(t.Context()); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("Sync while nothing arrives = %v, want ErrUnavailable", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := behind.Sync(ctx); !errors.Is(err, kv.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Sync within a second = %v, want ErrUnavailable and DeadlineExceeded", err)
		}
		f.Release()
	})
}

func TestTheOutcomeOfALostCommitIsUnknown(t *testing.T) {
	for _, c := range []struct {
		why     string
		lose    func(*kvtest.Faulty)
		applied bool
	}{
		{"the request was lost", (*kvtest.Faulty).LoseCommit, false},
		{"the answer was lost", (*kvtest.Faulty).LoseAnswer, true},
	} {
		w, f, _, _ := faultyWorld(t)
		c.lose(f)
		runs := 0
		err := w.Update(t.Context(), func(tx *kv.Tx) error {
			runs++
			w.people.Write(tx, "ann", &person{})
			return nil
		})
		if !errors.Is(err, kv.ErrUnavailable) || runs != 1 {
			t.Errorf("%s: Update = %v after %d runs, want ErrUnavailable after one", c.why, err, runs)
		}
		if err := w.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if has(w, "ann") != c.applied {
			t.Errorf("%s: the row is there: %v", c.why, has(w, "ann"))
		}
	}
}

func TestUpdateRetriesOnConflictUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newWorld(t, kv.NewMemory()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		runs := 0
		err := w.Update(ctx, func(tx *kv.Tx) error {
			w.people.Read(tx, "ann")
			runs++
			w.put(t, "ann", person{Count: runs}) // somebody else is always faster
			w.people.Write(tx, "ann", &person{})
			return nil
		})
		if !errors.Is(err, context.DeadlineExceeded) || runs < 100 || runs > 20_000 {
			t.Errorf("Update = %v after %d runs, want DeadlineExceeded after many, with pauses", err, runs)
		}
	})
}

func TestTxReadsOneRevision(t *testing.T) {
	w := start(t, newWorld(t, kv.NewMemory()))
	runs := 0
	err := w.Update(t.Context(), func(tx *kv.Tx) error {
		runs++
		_, before := w.people.Read(tx, "ann")
		if runs == 1 {
			err := w.Update(t.Context(), func(other *kv.Tx) error {
				name := "x"
				w.people.Write(other, "ann", &person{})
				w.teams.Write(other, "red", &name)
				return nil
			})
			if err != nil {
				return err
			}
		}
		if _, after := w.teams.Read(tx, "red"); after != before {
			t.Errorf("run %d sees one half of a transaction: %v, %v", runs, before, after)
		}
		w.people.Write(tx, "bob", &person{})
		return nil
	})
	if err != nil || runs != 2 {
		t.Errorf("Update = %v after %d runs, want success after a conflict", err, runs)
	}
}

func TestWritesThatCannotBeMadeFailTheUpdate(t *testing.T) {
	db := kv.NewDB(kv.Config{Store: kv.NewMemory(), Log: slog.New(slog.DiscardHandler)})
	numbers, texts := kv.NewTable[float64](db, "numbers"), kv.NewTable[string](db, "texts")
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	large, small, nan := strings.Repeat("x", kv.MaxCommitBytes), "x", math.NaN()
	for _, c := range []struct {
		why  string
		fn   func(tx *kv.Tx)
		want string
	}{
		{"JSON cannot express it", func(tx *kv.Tx) { numbers.Write(tx, "a", &nan) }, "write /lanyard/numbers/a"},
		{"empty key", func(tx *kv.Tx) { texts.Write(tx, "", &small) }, "empty key"},
		{"removal of an empty key", func(tx *kv.Tx) { texts.Remove(tx, "") }, "empty key"},
		{"nil value", func(tx *kv.Tx) { texts.Write(tx, "a", nil) }, "nil value"},
		{"too large", func(tx *kv.Tx) { texts.Write(tx, "a", &large) }, "the largest value is /lanyard/texts/a with 1048578 bytes"},
		{"too many rows", func(tx *kv.Tx) {
			for i := range kv.MaxOps + 1 {
				texts.Write(tx, fmt.Sprint(i), &small)
			}
		}, "130 operations, at most 128"},
	} {
		err := db.Update(t.Context(), func(tx *kv.Tx) error { c.fn(tx); texts.Write(tx, "other", &small); return nil })
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Update = %v, want an error with %q", c.why, err, c.want)
		}
	}
	if texts.Len()+numbers.Len() != 0 {
		t.Error("some of it was written")
	}
}

// raw puts bytes under a key, past the DB.
func raw(t testing.TB, store kv.Store, key, value string) {
	t.Helper()
	if _, err := store.Commit(t.Context(), kv.Op{Key: key, Expect: kv.AnyRevision, Kind: kv.OpPut, Value: []byte(value)}); err != nil {
		t.Fatal(err)
	}
}

func TestStartNamesTheRowThatDoesNotDecode(t *testing.T) {
	for _, value := range []string{`{"Name": 1}`, `{`, ``, `null`, `{} {}`} {
		store := kv.NewMemory()
		raw(t, store, "/lanyard/people/ann", value)
		w := newWorld(t, store)
		err := w.Start(t.Context())
		if err == nil || !strings.Contains(err.Error(), "/lanyard/people/ann") || !strings.Contains(err.Error(), "delete the key") {
			t.Errorf("Start over %q = %v", value, err)
		}
		raw(t, store, "/lanyard/people/ann", `{"Name": "Ann", "FieldOfALaterVersion": 1}`)
		if err := w.Start(t.Context()); err != nil || !has(w, "ann") {
			t.Errorf("Start again, with the row repaired: %v", err)
		}
	}
}

func TestARowThatDoesNotDecodeMakesTheDBUnavailableUntilItIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := kv.NewMemory()
		w := start(t, newWorld(t, store))
		w.put(t, "ann", person{Name: "Ann"})
		raw(t, store, "/lanyard/people/ann", "garbage")
		raw(t, store, "/lanyard/people/bob", "{}")
		synctest.Wait()
		for name, err := range map[string]error{
			"Fresh":  w.Fresh(),
			"Sync":   w.Sync(t.Context()),
			"Update": w.Update(t.Context(), func(*kv.Tx) error { return nil }),
		} {
			if !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), "/lanyard/people/ann") {
				t.Errorf("%s = %v, want ErrUnavailable with the key", name, err)
			}
		}
		if _, err := store.Commit(t.Context(), kv.Op{Key: "/lanyard/people/ann", Expect: kv.AnyRevision, Kind: kv.OpDelete}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if err := w.Fresh(); err != nil {
			t.Errorf("after the repair: %v", err)
		}
		if has(w, "ann") || !has(w, "bob") {
			t.Error("after the repair the table is not the store's")
		}
	})
}

func TestKeysOfOthersAreLeftAlone(t *testing.T) {
	store := kv.NewMemory()
	raw(t, store, "/lanyard/futuretable/x", "not JSON")
	raw(t, store, "/lanyard/peoples", "not JSON")
	raw(t, store, "/lanyardish/people/x", "not JSON")
	w := start(t, newWorld(t, store))
	raw(t, store, "/lanyard/futuretable/y", "not JSON")
	if err := w.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.people.Len() != 0 {
		t.Errorf("%d rows, want none", w.people.Len())
	}
}

// switchable is a store whose content can be replaced by that of another, as by a restore from a backup.
type switchable struct {
	*kvtest.Faulty
	now atomic.Pointer[kvtest.Faulty]
}

func (s *switchable) List(ctx context.Context, prefix string) ([]kv.Entry, int64, error) {
	return s.now.Load().List(ctx, prefix)
}
func (s *switchable) Revision(ctx context.Context) (int64, error) { return s.now.Load().Revision(ctx) }
func (s *switchable) Watch(ctx context.Context, prefix string, after int64) <-chan kv.Batch {
	return s.now.Load().Watch(ctx, prefix, after)
}

func TestARestoredStoreIsListedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before, backup := kv.NewMemory(), kv.NewMemory()
		for i := range 5 {
			raw(t, before, "/lanyard/people/ann", fmt.Sprintf(`{"Count": %d}`, i))
		}
		raw(t, backup, "/lanyard/people/bob", "{}")
		store := &switchable{}
		store.now.Store(kvtest.NewFaulty(before))
		w := start(t, newWorld(t, store))
		synctest.Wait()
		store.now.Store(kvtest.NewFaulty(backup))
		if err := w.Sync(t.Context()); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("Sync right after the restore = %v, want ErrUnavailable", err)
		}
		time.Sleep(time.Second)
		if err := w.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if has(w, "ann") || !has(w, "bob") {
			t.Error("the tables do not show the restored store")
		}
	})
}

func TestTablesAreMadeOnceAndBeforeTheStart(t *testing.T) {
	panics := func(why string, f func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s does not panic", why)
			}
		}()
		f()
	}
	w := newWorld(t, kv.NewMemory())
	panics("a second table of the same name", func() { kv.NewTable[person](w.DB, "people") })
	panics("a table without a name", func() { kv.NewTable[person](w.DB, "") })
	panics("a table with a slash", func() { kv.NewTable[person](w.DB, "a/b") })
	start(t, w)
	panics("a table after the start", func() { kv.NewTable[person](w.DB, "late") })
	panics("an index after the start", func() { kv.NewIndex(w.people, func(string, *person) []string { return nil }) })
	if err := w.Start(t.Context()); err == nil {
		t.Error("a second Start succeeds")
	}
}

// countingStore counts the calls of Revision and lets them go on one by one.
type countingStore struct {
	kv.Store
	calls   atomic.Int64
	proceed chan struct{}
}

func (s *countingStore) Revision(ctx context.Context) (int64, error) {
	s.calls.Add(1)
	<-s.proceed
	return s.Store.Revision(ctx)
}

func TestConcurrentSyncsShareACallThatBeginsAfterThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &countingStore{Store: kv.NewMemory(), proceed: make(chan struct{})}
		w := start(t, newWorld(t, store))
		var wg sync.WaitGroup
		sync := func() {
			wg.Go(func() {
				if err := w.Sync(t.Context()); err != nil {
					t.Errorf("Sync: %v", err)
				}
			})
		}
		sync()
		synctest.Wait()
		for range 10 {
			sync()
		}
		synctest.Wait()
		if n := store.calls.Load(); n != 1 {
			t.Errorf("%d calls while the first is under way, want 1", n)
		}
		close(store.proceed)
		wg.Wait()
		if n := store.calls.Load(); n != 2 {
			t.Errorf("%d calls in all, want one more for the ten that came later", n)
		}
	})
}

// TestRowsStaySmall measures the heap that a table and an index take for 100,000 rows, next to the values themselves.
func TestRowsStaySmall(t *testing.T) {
	const rows = 100_000
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	db := kv.NewDB(kv.Config{Store: &listed{rows: rows}, Log: slog.New(slog.DiscardHandler)})
	table := kv.NewTable[struct{}](db, "rows")
	index := kv.NewIndex(table, func(key string, _ *struct{}) []string { return []string{key[:3]} })
	before := heap()
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	perRow := (heap() - before) / rows
	t.Logf("%d bytes per row", perRow)
	if perRow > 400 {
		t.Errorf("%d bytes of heap per row, want at most 400", perRow)
	}
	if table.Len() != rows {
		t.Errorf("%d rows", table.Len())
	}
	runtime.KeepAlive(index)
}

// listed is a store with many rows that keeps none of them.
type listed struct {
	kv.Store
	rows int
}

func (l *listed) List(context.Context, string) ([]kv.Entry, int64, error) {
	entries := make([]kv.Entry, l.rows)
	for i := range entries {
		entries[i] = kv.Entry{Key: fmt.Sprintf("/lanyard/rows/%08d", i), Value: []byte("{}"), Revision: 1}
	}
	return entries, 1, nil
}

func (l *listed) Watch(ctx context.Context, _ string, _ int64) <-chan kv.Batch {
	return kv.Deliver(ctx, func(func(kv.Batch) bool) error { <-ctx.Done(); return ctx.Err() })
}
