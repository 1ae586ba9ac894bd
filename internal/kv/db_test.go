package kv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-id/lanyard/internal/kv"
	"log/slog"
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
