// Package kvtest is the conformance suite that every kv.Store passes, and a store that fails on command.
package kvtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// Harness is an empty store to test.
type Harness struct {
	Store kv.Store // the suite closes it
	// Compact drops the history up to a revision; nil if the store cannot be told to.
	Compact func(ctx context.Context, revision int64) error
}

// Run runs the suite. open makes a new store for every test.
func Run(t *testing.T, open func(t testing.TB) Harness) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, h Harness)
	}{
		{"reads show the latest commit", testReads},
		{"expectations", testExpectations},
		{"a commit is all or nothing", testAtomicity},
		{"invalid commits are refused", testInvalidCommits},
		{"commits up to the limits work", testLimits},
		{"prefixes", testPrefixes},
		{"a long list is of one revision", testLongList},
		{"a watch tells what changed", testWatchEvents},
		{"a watch has no gaps and no duplicates", testWatchConcurrent},
		{"a watch makes progress without writes", testWatchProgress},
		{"a watch before the compaction fails", testCompaction},
		{"contexts end calls and watches", testContexts},
		{"a closed store is unavailable", testClosed},
		{"DB: a write is seen at once", testReadYourWrites},
		{"DB: a miss is confirmed by Sync", testSyncConfirmsMiss},
		{"DB: concurrent updates lose nothing", testConcurrentUpdates},
		{"DB: transactions are serializable", testTransfers},
		{"DB: tables and indexes survive a compaction", testDBCompaction},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			t.Cleanup(func() {
				if err := h.Store.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test.run(t, h)
		})
	}
}

func put(key string, expect int64, value string) kv.Op {
	return kv.Op{Key: key, Expect: expect, Kind: kv.OpPut, Value: []byte(value)}
}

func remove(key string, expect int64) kv.Op {
	return kv.Op{Key: key, Expect: expect, Kind: kv.OpDelete}
}

func check(key string, expect int64) kv.Op {
	return kv.Op{Key: key, Expect: expect, Kind: kv.OpCheck}
}

func mustCommit(t testing.TB, s kv.Store, ops ...kv.Op) int64 {
	t.Helper()
	revision, err := s.Commit(t.Context(), ops...)
	if err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return revision
}

func mustRevision(t testing.TB, s kv.Store) int64 {
	t.Helper()
	revision, err := s.Revision(t.Context())
	if err != nil {
		t.Fatalf("Revision: %v", err)
	}
	return revision
}

// content lists a prefix as "key=value@revision" lines.
func content(t testing.TB, s kv.Store, prefix string) []string {
	t.Helper()
	entries, _, err := s.List(t.Context(), prefix)
	if err != nil {
		t.Fatalf("List(%q): %v", prefix, err)
	}
	lines := []string{}
	for _, e := range entries {
		lines = append(lines, fmt.Sprintf("%s=%s@%d", e.Key, e.Value, e.Revision))
	}
	return lines
}

func testReads(t *testing.T, h Harness) {
	if _, err := h.Store.Get(t.Context(), "/a"); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("Get of a missing key = %v, want ErrNotFound", err)
	}
	if entries, _, err := h.Store.List(t.Context(), "/"); err != nil || len(entries) != 0 {
		t.Errorf("List of an empty store = %v, %v", entries, err)
	}
	value := []byte("one")
	first, err := h.Store.Commit(t.Context(), kv.Op{Key: "/a", Kind: kv.OpPut, Value: value})
	if err != nil {
		t.Fatal(err)
	}
	copy(value, "XXX") // the caller's again
	second := mustCommit(t, h.Store, put("/b", 0, ""))
	if second <= first {
		t.Errorf("revisions do not increase: %d, then %d", first, second)
	}
	want := kv.Entry{Key: "/a", Value: []byte("one"), Revision: first}
	if got, err := h.Store.Get(t.Context(), "/a"); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("Get = %v, %v; want %v", got, err, want)
	}
	if got, err := h.Store.Get(t.Context(), "/b"); err != nil || len(got.Value) != 0 {
		t.Errorf("Get of an empty value = %v, %v", got, err)
	}
	if got := mustRevision(t, h.Store); got != second {
		t.Errorf("Revision = %d, want that of the last commit, %d", got, second)
	}
	_, listed, err := h.Store.List(t.Context(), "/")
	if err != nil || listed != second {
		t.Errorf("List is of revision %d, %v; want %d", listed, err, second)
	}
}

func testExpectations(t *testing.T, h Harness) {
	now := mustCommit(t, h.Store, put("/there", 0, "old"))
	for _, c := range []struct {
		why  string
		op   kv.Op
		want error
	}{
		{"create what is there", put("/there", 0, "x"), kv.ErrConflict},
		{"create what is missing", put("/new", 0, "x"), nil},
		{"put at an older revision", put("/there", now-1, "x"), kv.ErrConflict},
		{"put at a later revision", put("/there", now+1, "x"), kv.ErrConflict},
		{"put at a revision of what is missing", put("/missing", now, "x"), kv.ErrConflict},
		{"delete at another revision", remove("/there", now-1), kv.ErrConflict},
		{"delete as missing what is there", remove("/there", 0), kv.ErrConflict},
		{"check another revision", check("/there", now+1), kv.ErrConflict},
		{"check as missing what is there", check("/there", 0), kv.ErrConflict},
		{"check as there what is missing", check("/missing", now), kv.ErrConflict},
		{"check the revision", check("/there", now), nil},
		{"check as missing what is missing", check("/missing", 0), nil},
		{"check whatever", check("/missing", kv.AnyRevision), nil},
		{"put whatever is there", put("/any", kv.AnyRevision, "x"), nil},
		{"put whatever is there again", put("/any", kv.AnyRevision, "y"), nil},
		{"delete whatever is there", remove("/any", kv.AnyRevision), nil},
		{"delete whatever, though missing", remove("/any", kv.AnyRevision), nil},
		{"put at the revision", put("/there", now, "new"), nil},
		{"put at the revision before", put("/there", now, "newer"), kv.ErrConflict},
	} {
		if _, err := h.Store.Commit(t.Context(), c.op); !errors.Is(err, c.want) || err != nil && c.want == nil {
			t.Errorf("%s: %v, want %v", c.why, err, c.want)
		}
	}
	e, err := h.Store.Get(t.Context(), "/there")
	if err != nil || string(e.Value) != "new" {
		t.Fatalf("/there is %q, %v; want the value of the last commit that applied", e.Value, err)
	}
	mustCommit(t, h.Store, remove("/there", e.Revision))
	if _, err := h.Store.Get(t.Context(), "/there"); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("after the deletion: %v, want ErrNotFound", err)
	}
	again := mustCommit(t, h.Store, put("/there", 0, "again"))
	if _, err := h.Store.Commit(t.Context(), put("/there", e.Revision, "x")); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("put at the revision of before the deletion: %v, want ErrConflict", err)
	}
	mustCommit(t, h.Store, put("/there", again, "and again"))
}

func testAtomicity(t *testing.T, h Harness) {
	start := mustCommit(t, h.Store, put("/a", 0, "1"), put("/b", 0, "1"), put("/c", 0, "1"))
	want := []string{fmt.Sprintf("/a=1@%d", start), fmt.Sprintf("/b=1@%d", start), fmt.Sprintf("/c=1@%d", start)}
	if diff := cmp.Diff(want, content(t, h.Store, "/")); diff != "" {
		t.Errorf("one commit, one revision: %s", diff)
	}
	for _, ops := range [][]kv.Op{
		{put("/a", start, "2"), put("/b", 0, "2")},
		{put("/a", kv.AnyRevision, "2"), remove("/b", start), check("/c", 0)},
		{check("/missing", start), put("/d", 0, "2")},
	} {
		if _, err := h.Store.Commit(t.Context(), ops...); !errors.Is(err, kv.ErrConflict) {
			t.Errorf("Commit(%v) = %v, want ErrConflict", ops, err)
		}
	}
	if diff := cmp.Diff(want, content(t, h.Store, "/")); diff != "" {
		t.Errorf("commits in conflict left something: %s", diff)
	}
	if got := mustRevision(t, h.Store); got != start {
		t.Errorf("commits in conflict moved the revision from %d to %d", start, got)
	}
	for _, ops := range [][]kv.Op{{check("/a", start)}, {remove("/missing", kv.AnyRevision)}, {remove("/missing", 0)}} {
		if got := mustCommit(t, h.Store, ops...); got != start {
			t.Errorf("Commit(%v), which changes nothing, has revision %d, want %d", ops, got, start)
		}
	}
	next := mustCommit(t, h.Store, check("/a", start), remove("/b", start), put("/c", start, "2"), put("/d", 0, "2"))
	want = []string{fmt.Sprintf("/a=1@%d", start), fmt.Sprintf("/c=2@%d", next), fmt.Sprintf("/d=2@%d", next)}
	if diff := cmp.Diff(want, content(t, h.Store, "/")); diff != "" {
		t.Error(diff)
	}
}

func testInvalidCommits(t *testing.T, h Harness) {
	tooMany := make([]kv.Op, kv.MaxOps+1)
	for i := range tooMany {
		tooMany[i] = put(fmt.Sprint("/", i), 0, "x")
	}
	for _, c := range []struct {
		why  string
		ops  []kv.Op
		want error // nil: any
	}{
		{"no operation", nil, nil},
		{"no key", []kv.Op{put("", 0, "x")}, nil},
		{"one key twice", []kv.Op{put("/a", 0, "x"), remove("/a", 0)}, nil},
		{"an expectation below -1", []kv.Op{put("/a", -2, "x")}, nil},
		{"an unknown kind", []kv.Op{{Key: "/a", Kind: 9}}, nil},
		{"too many operations", tooMany, kv.ErrTooLarge},
		{"a value too large", []kv.Op{put("/a", 0, strings.Repeat("x", kv.MaxCommitBytes))}, kv.ErrTooLarge},
	} {
		_, err := h.Store.Commit(t.Context(), c.ops...)
		if err == nil || errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrUnavailable) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.why, err, c.want)
		}
	}
	if got := content(t, h.Store, ""); len(got) != 0 {
		t.Errorf("invalid commits left %v", got)
	}
}

func testLimits(t *testing.T, h Harness) {
	ops := make([]kv.Op, kv.MaxOps)
	room := kv.MaxCommitBytes/kv.MaxOps - len("/000")
	for i := range ops {
		ops[i] = put(fmt.Sprintf("/%03d", i), 0, strings.Repeat("x", room))
	}
	revision := mustCommit(t, h.Store, ops...)
	large := strings.Repeat("y", kv.MaxCommitBytes-len("/large"))
	mustCommit(t, h.Store, put("/large", 0, large))
	if got := len(content(t, h.Store, "/")); got != kv.MaxOps+1 {
		t.Errorf("%d entries, want %d", got, kv.MaxOps+1)
	}
	var batches []kv.Batch
	for b := range h.Store.Watch(t.Context(), "/", revision-1) {
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		if batches = append(batches, b); len(batches) == 2 {
			break
		}
	}
	if len(batches[0].Events) != kv.MaxOps || batches[0].Revision != revision {
		t.Errorf("the largest commit came as %d events at revision %d", len(batches[0].Events), batches[0].Revision)
	}
	if len(batches[1].Events) != 1 || string(batches[1].Events[0].Value) != large {
		t.Error("the largest value did not come through the watch as it was")
	}
}

func testPrefixes(t *testing.T, h Harness) {
	for _, key := range []string{"/b/2", "/b", "/a", "/b/1", "/b/", "/b0", "/c", "/b/\x00", "/b/\xff\xff", "a b\tü"} {
		mustCommit(t, h.Store, put(key, 0, ""))
	}
	for prefix, want := range map[string][]string{
		"":      {"/a", "/b", "/b/", "/b/\x00", "/b/1", "/b/2", "/b/\xff\xff", "/b0", "/c", "a b\tü"},
		"/b":    {"/b", "/b/", "/b/\x00", "/b/1", "/b/2", "/b/\xff\xff", "/b0"},
		"/b/":   {"/b/", "/b/\x00", "/b/1", "/b/2", "/b/\xff\xff"},
		"/b/1":  {"/b/1"},
		"/b/10": {},
		"/d":    {},
	} {
		entries, _, err := h.Store.List(t.Context(), prefix)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, e := range entries {
			got = append(got, e.Key)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("List(%q): %s", prefix, diff)
		}
	}
}

// testLongList lists, in more than one page, while every commit moves a mark from one end of the list to the other: a
// list of one revision has exactly one mark.
func testLongList(t *testing.T, h Harness) {
	const rows = 12_000
	for i := 0; i < rows; i += 100 {
		var ops []kv.Op
		for j := range 100 {
			ops = append(ops, put(fmt.Sprintf("/row/%05d", i+j), 0, "x"))
		}
		mustCommit(t, h.Store, ops...)
	}
	mustCommit(t, h.Store, put("/row/first", 0, ""), remove("/row/", kv.AnyRevision))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		from, to := "/row/first", "/row/"
		for ctx.Err() == nil {
			if _, err := h.Store.Commit(t.Context(), remove(from, kv.AnyRevision), put(to, 0, "")); err != nil {
				t.Errorf("Commit: %v", err)
				return
			}
			from, to = to, from
		}
	})
	for range 3 {
		entries, revision, err := h.Store.List(t.Context(), "/row/")
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != rows+1 {
			t.Errorf("%d entries, want %d", len(entries), rows+1)
		}
		if !slices.IsSortedFunc(entries, func(a, b kv.Entry) int { return strings.Compare(a.Key, b.Key) }) {
			t.Error("the list is not in key order")
		}
		for _, e := range entries {
			if e.Revision > revision {
				t.Fatalf("%s is of revision %d in a list of revision %d", e.Key, e.Revision, revision)
			}
		}
	}
	stop()
	wg.Wait()
}

func next(t testing.TB, watch <-chan kv.Batch) kv.Batch {
	t.Helper()
	b, ok := <-watch
	if !ok {
		t.Fatal("the watch has ended")
	}
	if b.Err != nil {
		t.Fatalf("the watch failed: %v", b.Err)
	}
	return b
}

func testWatchEvents(t *testing.T, h Harness) {
	before := mustCommit(t, h.Store, put("/w/old", 0, "x"), put("/w/gone", 0, "x"))
	past := mustCommit(t, h.Store, put("/w/b", 0, "1"), put("/other", 0, "1"), put("/w/a", 0, "2"), remove("/w/gone", before))
	mustCommit(t, h.Store, put("/other", past, "2"))
	watch := h.Store.Watch(t.Context(), "/w/", before)
	want := kv.Batch{Revision: past, Events: []kv.Event{
		{Entry: kv.Entry{Key: "/w/a", Value: []byte("2"), Revision: past}},
		{Entry: kv.Entry{Key: "/w/b", Value: []byte("1"), Revision: past}},
		{Entry: kv.Entry{Key: "/w/gone", Revision: past}, Deleted: true},
	}}
	if diff := cmp.Diff(want, next(t, watch)); diff != "" {
		t.Errorf("what was in the past: %s", diff)
	}
	now := mustCommit(t, h.Store, put("/w/a", past, "3"))
	want = kv.Batch{Revision: now, Events: []kv.Event{{Entry: kv.Entry{Key: "/w/a", Value: []byte("3"), Revision: now}}}}
	got := next(t, watch)
	for len(got.Events) == 0 { // progress may come first
		got = next(t, watch)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what is new: %s", diff)
	}
}

// testWatchConcurrent has writers commit to overlapping keys while watches begin at all kinds of revisions. Each must
// deliver exactly the commits after its start.
func testWatchConcurrent(t *testing.T, h Harness) {
	const writers, commits = 4, 60
	start := mustRevision(t, h.Store)
	var mu sync.Mutex
	history := map[int64][]string{} // the keys of each commit
	var writing, watching sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range commits {
				keys := []string{fmt.Sprintf("/w/%d", random.IntN(5)), fmt.Sprintf("/w/%d/%d", w, i)}
				revision, err := h.Store.Commit(t.Context(), put(keys[0], kv.AnyRevision, "x"), put(keys[1], 0, "x"))
				if err != nil {
					t.Errorf("Commit: %v", err)
					return
				}
				mu.Lock()
				if history[revision] != nil {
					t.Errorf("two commits have revision %d", revision)
				}
				slices.Sort(keys)
				history[revision] = keys
				mu.Unlock()
			}
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	type log struct {
		after   int64
		batches map[int64][]string
	}
	logs := make([]log, 6)
	last := make(chan int64) // closed once final is set
	var final int64
	for i := range logs {
		watching.Go(func() {
			after := start
			if i%2 == 1 {
				var err error
				if after, err = h.Store.Revision(ctx); err != nil {
					t.Errorf("Revision: %v", err)
					return
				}
			}
			logs[i] = log{after, map[int64][]string{}}
			seen := after
			watch := h.Store.Watch(ctx, "/w/", after)
			finished := (<-chan int64)(last)
			for {
				select {
				case b := <-watch:
					if b.Err != nil {
						t.Errorf("watch %d: %v", i, b.Err)
						return
					}
					if b.Revision <= seen {
						t.Errorf("watch %d: revision %d comes after %d", i, b.Revision, seen)
					}
					seen = b.Revision
					for _, e := range b.Events {
						logs[i].batches[b.Revision] = append(logs[i].batches[b.Revision], e.Key)
					}
				case <-finished:
					finished = nil
				}
				if finished == nil && seen >= final {
					return
				}
			}
		})
	}
	writing.Wait()
	final = mustRevision(t, h.Store)
	close(last)
	watching.Wait()
	for i, l := range logs {
		want := map[int64][]string{}
		for revision, keys := range history {
			if revision > l.after {
				want[revision] = keys
			}
		}
		if diff := cmp.Diff(want, l.batches); diff != "" {
			t.Errorf("watch %d, after revision %d: %s", i, l.after, diff)
		}
	}
}

func testWatchProgress(t *testing.T, h Harness) {
	start := mustRevision(t, h.Store)
	quiet, busy := h.Store.Watch(t.Context(), "/quiet/", start), h.Store.Watch(t.Context(), "/busy/", start)
	for i := range 20 {
		wrote := mustCommit(t, h.Store, put(fmt.Sprint("/busy/", i), 0, "x"))
		now := mustRevision(t, h.Store)
		if now < wrote {
			t.Fatalf("Revision = %d after a commit at %d", now, wrote)
		}
		for {
			b := next(t, quiet)
			if len(b.Events) > 0 {
				t.Fatalf("events below another prefix: %v", b)
			}
			if b.Revision >= now {
				break
			}
		}
	}
	for i := 0; i < 20; {
		b := next(t, busy)
		for _, e := range b.Events {
			if want := fmt.Sprint("/busy/", i); e.Key != want {
				t.Fatalf("event for %s, want %s: progress %d was reported too early", e.Key, want, b.Revision)
			}
			i++
		}
	}
}

func testCompaction(t *testing.T, h Harness) {
	if h.Compact == nil {
		t.Skip("the store cannot be told to compact")
	}
	first := mustCommit(t, h.Store, put("/a", 0, "1"))
	second := mustCommit(t, h.Store, put("/a", first, "2"))
	third := mustCommit(t, h.Store, put("/a", second, "3"))
	if err := h.Compact(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	watch := h.Store.Watch(t.Context(), "/", first)
	if b := <-watch; !errors.Is(b.Err, kv.ErrCompacted) {
		t.Errorf("a watch after %d, compacted at %d, begins with %v; want ErrCompacted", first, third, b)
	}
	if b, ok := <-watch; ok {
		t.Errorf("after the error comes %v", b)
	}
	if diff := cmp.Diff([]string{fmt.Sprintf("/a=3@%d", third)}, content(t, h.Store, "/")); diff != "" {
		t.Errorf("after the compaction: %s", diff)
	}
	watch = h.Store.Watch(t.Context(), "/", third)
	fourth := mustCommit(t, h.Store, put("/a", third, "4"))
	b := next(t, watch)
	for len(b.Events) == 0 {
		b = next(t, watch)
	}
	if b.Revision != fourth {
		t.Errorf("the watch goes on with revision %d, want %d", b.Revision, fourth)
	}
}

func testContexts(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	start := mustRevision(t, h.Store)
	idle, unread := h.Store.Watch(ctx, "/", start), h.Store.Watch(ctx, "/", start)
	first := mustCommit(t, h.Store, put("/a", 0, "1"))
	mustCommit(t, h.Store, put("/a", first, "2"))
	if b := next(t, idle); b.Revision != first {
		t.Errorf("the watch begins with %v", b)
	}
	cancel()
	for name, watch := range map[string]<-chan kv.Batch{"idle": idle, "unread": unread} {
		seen := start
		var last kv.Batch
		for b := range watch {
			if b.Err == nil && b.Revision <= seen {
				t.Errorf("%s: revision %d comes after %d", name, b.Revision, seen)
			}
			seen, last = b.Revision, b
		}
		if !errors.Is(last.Err, context.Canceled) {
			t.Errorf("%s: the watch ends with %v, want context.Canceled", name, last)
		}
	}
	if _, err := h.Store.Get(ctx, "/a"); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("Get = %v, want ErrUnavailable", err)
	}
	if _, _, err := h.Store.List(ctx, "/"); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("List = %v, want ErrUnavailable", err)
	}
	if _, err := h.Store.Commit(ctx, put("/b", 0, "")); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("Commit = %v, want ErrUnavailable", err)
	}
	if _, err := h.Store.Revision(ctx); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("Revision = %v, want ErrUnavailable", err)
	}
}

func testClosed(t *testing.T, h Harness) {
	start := mustCommit(t, h.Store, put("/a", 0, ""))
	open := h.Store.Watch(t.Context(), "/", start)
	if err := h.Store.Close(); err != nil {
		t.Fatal(err)
	}
	for name, watch := range map[string]<-chan kv.Batch{"open": open, "new": h.Store.Watch(t.Context(), "/", start)} {
		var last kv.Batch
		for b := range watch {
			last = b
		}
		if !errors.Is(last.Err, kv.ErrUnavailable) {
			t.Errorf("the %s watch ends with %v, want ErrUnavailable", name, last)
		}
	}
	if _, err := h.Store.Get(t.Context(), "/a"); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("Get = %v, want ErrUnavailable", err)
	}
	if _, err := h.Store.Commit(t.Context(), put("/b", 0, "")); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("Commit = %v, want ErrUnavailable", err)
	}
}

// account is the row of the DB tests.
type account struct {
	Owner   string
	Balance int
}

// bank is a DB over a store under test.
type bank struct {
	*kv.DB
	accounts *kv.Table[account]
	byOwner  *kv.Index[account]
	totals   *kv.Table[int]
}

func newBank(t testing.TB, store kv.Store) *bank {
	t.Helper()
	db := kv.NewDB(kv.Config{Store: store, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	accounts := kv.NewTable[account](db, "accounts")
	b := &bank{
		DB:       db,
		accounts: accounts,
		byOwner:  kv.NewIndex(accounts, func(_ string, a *account) []string { return []string{a.Owner} }),
		totals:   kv.NewTable[int](db, "totals"),
	}
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bank) set(t testing.TB, key string, a account) {
	t.Helper()
	if err := b.Update(t.Context(), func(tx *kv.Tx) error { b.accounts.Write(tx, key, &a); return nil }); err != nil {
		t.Errorf("Update: %v", err)
	}
}

func testReadYourWrites(t *testing.T, h Harness) {
	b := newBank(t, h.Store)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				key, owner := fmt.Sprintf("%d-%d", w, i), fmt.Sprintf("owner-%d-%d", w, i)
				err := b.Update(t.Context(), func(tx *kv.Tx) error {
					b.accounts.Write(tx, key, &account{Owner: owner})
					b.totals.Write(tx, key, &i)
					return nil
				})
				if err != nil {
					t.Errorf("Update: %v", err)
					return
				}
				_, inTable := b.accounts.Get(key)
				_, inOther := b.totals.Get(key)
				_, _, inIndex := b.byOwner.First(owner)
				if !inTable || !inOther || !inIndex {
					t.Errorf("right after its Update %s is in the table: %v, in the other: %v, in the index: %v", key, inTable, inOther, inIndex)
				}
			}
		})
	}
	wg.Wait()
	if err := b.Fresh(); err != nil {
		t.Errorf("Fresh: %v", err)
	}
}

func testSyncConfirmsMiss(t *testing.T, h Harness) {
	a, b := newBank(t, h.Store), newBank(t, h.Store)
	for i := range 50 {
		key := fmt.Sprint(i)
		if err := b.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, ok := b.accounts.Get(key); ok {
			t.Fatalf("%s is there before it was written", key)
		}
		a.set(t, key, account{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := b.Sync(t.Context()); err != nil {
					t.Errorf("Sync: %v", err)
				}
				if _, ok := b.accounts.Get(key); !ok {
					t.Errorf("%s was written before Sync, and is missing after it", key)
				}
			})
		}
		wg.Wait()
	}
}

func testConcurrentUpdates(t *testing.T, h Harness) {
	banks := []*bank{newBank(t, h.Store), newBank(t, h.Store)}
	const writers, times = 6, 15
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			b := banks[w%len(banks)]
			for range times {
				err := b.Update(t.Context(), func(tx *kv.Tx) error {
					n := 1
					if old, ok := b.totals.Read(tx, "counter"); ok {
						n += *old
					}
					b.totals.Write(tx, "counter", &n)
					return nil
				})
				if err != nil {
					t.Errorf("Update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for i, b := range banks {
		if err := b.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, ok := b.totals.Get("counter"); !ok || *n != writers*times {
			t.Errorf("replica %d counts %v, want %d", i, *n, writers*times)
		}
	}
}

// testTransfers moves money between accounts as long as the payer has enough, which a transaction can only know if
// what it read still holds.
func testTransfers(t *testing.T, h Harness) {
	banks := []*bank{newBank(t, h.Store), newBank(t, h.Store)}
	const accounts, each = 3, 10
	for i := range accounts {
		banks[0].set(t, fmt.Sprint(i), account{Balance: each})
	}
	if err := banks[1].Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			b := banks[w%len(banks)]
			random := rand.New(rand.NewPCG(2, uint64(w)))
			for range 15 {
				from, to := fmt.Sprint(random.IntN(accounts)), fmt.Sprint(random.IntN(accounts))
				amount := 1 + random.IntN(8)
				err := b.Update(t.Context(), func(tx *kv.Tx) error {
					payer, ok := b.accounts.Read(tx, from)
					if !ok || from == to || payer.Balance < amount {
						return nil
					}
					payee, _ := b.accounts.Read(tx, to)
					b.accounts.Write(tx, from, &account{Balance: payer.Balance - amount})
					b.accounts.Write(tx, to, &account{Balance: payee.Balance + amount})
					return nil
				})
				if err != nil {
					t.Errorf("Update: %v", err)
				}
				sum := 0
				for _, a := range b.accounts.Scan("", "") {
					sum += a.Balance
				}
				if sum != accounts*each {
					t.Errorf("a scan sees %d in all, want %d", sum, accounts*each)
				}
			}
		})
	}
	wg.Wait()
	for key, a := range banks[0].accounts.Scan("", "") {
		if a.Balance < 0 {
			t.Errorf("account %s has %d", key, a.Balance)
		}
	}
}

func testDBCompaction(t *testing.T, h Harness) {
	if h.Compact == nil {
		t.Skip("the store cannot be told to compact")
	}
	behind := NewFaulty(h.Store)
	a, b := newBank(t, h.Store), newBank(t, behind)
	a.set(t, "stays", account{Owner: "ann"})
	a.set(t, "changes", account{Owner: "ann"})
	a.set(t, "vanishes", account{Owner: "ann"})
	if err := b.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept, _ := b.accounts.Get("stays")
	behind.Disconnect()
	a.set(t, "changes", account{Owner: "bob"})
	a.set(t, "comes", account{Owner: "bob"})
	if err := a.Update(t.Context(), func(tx *kv.Tx) error { a.accounts.Remove(tx, "vanishes"); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := h.Compact(t.Context(), mustRevision(t, h.Store)); err != nil {
		t.Fatal(err)
	}
	behind.Reconnect()
	if err := b.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for key, a := range b.accounts.Scan("", "") {
		got[key] = a.Owner
	}
	if diff := cmp.Diff(map[string]string{"stays": "ann", "changes": "bob", "comes": "bob"}, got); diff != "" {
		t.Errorf("the table: %s", diff)
	}
	for owner, want := range map[string][]string{"ann": {"stays"}, "bob": {"changes", "comes"}} {
		var got []string
		for key := range b.byOwner.Get(owner) {
			got = append(got, key)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the index under %s: %s", owner, diff)
		}
	}
	if again, _ := b.accounts.Get("stays"); again != kept {
		t.Error("a row that has not changed was decoded again")
	}
	a.set(t, "later", account{Owner: "cyd"})
	if err := b.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := b.byOwner.First("cyd"); !ok {
		t.Error("the watch does not go on after the compaction")
	}
}
