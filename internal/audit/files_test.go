package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
)

// open opens a store on disk until the test ends.
func open(t testing.TB, c audit.FilesConfig) *audit.Files {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	f, err := audit.OpenFiles(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func record(t testing.TB, s audit.Recorder, events ...*audit.Event) {
	t.Helper()
	for _, e := range events {
		if err := s.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

// find returns the names of all events that a query finds, page by page.
func find(t testing.TB, s audit.Store, q audit.Query) (names []string) {
	t.Helper()
	q.Account, q.Region = account, region
	if q.Limit == 0 {
		q.Limit = 50
	}
	for range 10_000 {
		page, err := s.Lookup(t.Context(), &q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) > q.Limit {
			t.Fatalf("a page of %d", len(page.Events))
		}
		for _, e := range page.Events {
			names = append(names, e.Name)
		}
		if page.Next == "" {
			return names
		}
		q.After = page.Next
	}
	t.Fatal("the pages do not end")
	return nil
}

func TestLookupFindsByEveryAttribute(t *testing.T) {
	t.Parallel()
	s := open(t, audit.FilesConfig{Dir: filepath.Join(t.TempDir(), "audit")})
	first, second, web, user, root := event("First"), event("Second"), event("Web"), event("User"), event("Root")
	second.Identity = audit.UserIdentity{Type: "AssumedRole", PrincipalID: "AROA1:session", AccessKeyID: "ASIA2"}
	second.Lanyard, second.ReadOnly, second.EventID = audit.Lanyard{Resources: []audit.Named{{Type: "AWS::EKS::Cluster", Name: "c"}}}, false, "id-2"
	web.Identity, web.Lanyard = audit.UserIdentity{Type: "WebIdentityUser", UserName: "system:serviceaccount:ns:sa"}, audit.Lanyard{}
	user.Identity, user.Lanyard = audit.UserIdentity{Type: "IAMUser", UserName: "alice \"the\" admin"}, audit.Lanyard{}
	root.Identity, root.Lanyard, root.Source = audit.UserIdentity{Type: "Root"}, audit.Lanyard{}, "iam.amazonaws.com"
	elsewhere, foreign := event("Elsewhere"), event("Foreign")
	elsewhere.Region, foreign.Account = "eu-west-1", "444455556666"
	for i, e := range []*audit.Event{first, second, web, user, root, elsewhere, foreign} {
		e.Time = e.Time.Add(time.Duration(i) * time.Minute)
		record(t, s, e)
	}
	at := func(i int) time.Time { return event("").Time.Add(time.Duration(i) * time.Minute) }
	for _, c := range []struct {
		name string
		q    audit.Query
		want []string
	}{
		{"all, newest first", audit.Query{}, []string{"Root", "User", "Web", "Second", "First"}},
		{"by event ID", audit.Query{Attribute: audit.ByEventID, Value: "id-2"}, []string{"Second"}},
		{"by name", audit.Query{Attribute: audit.ByEventName, Value: "Web"}, []string{"Web"}},
		{"by a part of a name", audit.Query{Attribute: audit.ByEventName, Value: "We"}, nil},
		{"what reads", audit.Query{Attribute: audit.ByReadOnly, Value: "true"}, []string{"Root", "User", "Web", "First"}},
		{"what writes", audit.Query{Attribute: audit.ByReadOnly, Value: "false"}, []string{"Second"}},
		{"by session name", audit.Query{Attribute: audit.ByUsername, Value: "session"}, []string{"Second"}},
		{"by subject as user", audit.Query{Attribute: audit.ByUsername, Value: "system:serviceaccount:ns:sa"}, []string{"Web"}},
		{"by a user's name", audit.Query{Attribute: audit.ByUsername, Value: "alice \"the\" admin"}, []string{"User"}},
		{"of root", audit.Query{Attribute: audit.ByUsername, Value: "root"}, []string{"Root"}},
		{"by source", audit.Query{Attribute: audit.ByEventSource, Value: "iam.amazonaws.com"}, []string{"Root"}},
		{"by access key", audit.Query{Attribute: audit.ByAccessKeyID, Value: "ASIA2"}, []string{"Second"}},
		{"not by a key that was made", audit.Query{Attribute: audit.ByAccessKeyID, Value: "ASIA1"}, nil},
		{"by type", audit.Query{Attribute: audit.ByResourceType, Value: "AWS::EKS::Cluster"}, []string{"Second"}},
		{"by resource", audit.Query{Attribute: audit.ByResourceName, Value: roleARN}, []string{"First"}},
		{"by service account", audit.Query{Attribute: audit.ByResourceName, Value: "system:serviceaccount:ns:sa"}, []string{"First"}},
		{"by pod", audit.Query{Attribute: audit.ByResourceName, Value: "ns/pod-1"}, []string{"First"}},
		{"from a time", audit.Query{From: at(3)}, []string{"Root", "User"}},
		{"from a part of a second", audit.Query{From: at(3).Add(time.Millisecond)}, []string{"Root", "User"}},
		{"until a time", audit.Query{To: at(1)}, []string{"Second", "First"}},
		{"between times", audit.Query{From: at(1), To: at(2)}, []string{"Web", "Second"}},
	} {
		if diff := cmp.Diff(c.want, find(t, s, c.q)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.name, diff)
		}
		c.q.Limit = 1
		if diff := cmp.Diff(c.want, find(t, s, c.q)); diff != "" {
			t.Errorf("%s, one by one (-want +got)\n%s", c.name, diff)
		}
	}
}

// small is a trail whose segments are full after some dozens of records.
func small(dir string) audit.FilesConfig { return audit.FilesConfig{Dir: dir, MaxSize: audit.MinSize} }

// numbered returns events of 2 KiB, of which every seventh has the resource "seventh".
func numbered(n int) (events []*audit.Event, names []string) {
	begun := time.Now()
	for i := range n {
		e := event(fmt.Sprintf("E%05d", i))
		e.Time = begun.Add(time.Duration(i) * time.Second)
		e.Parameters = audit.Object(nil).Text("padding", strings.Repeat("x", 2048))
		if i%7 == 0 {
			e.Lanyard.Resources = append(e.Lanyard.Resources, audit.Named{Type: "T", Name: "seventh"})
		}
		events, names = append(events, e), append(names, e.Name)
	}
	return events, names
}

// Records are found in whatever segment they are, also by a process that opens the trail later, and after a crash that left an
// unfinished line, a summary that cannot be read and one that is not there.
func TestSegments(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	events, names := numbered(200)
	s := open(t, small(dir))
	record(t, s, events...)
	slices.Reverse(names)
	var sevenths []string
	for i := range names {
		if number := len(names) - 1 - i; number%7 == 0 {
			sevenths = append(sevenths, names[i])
		}
	}
	check := func(what string, s audit.Store) {
		t.Helper()
		if diff := cmp.Diff(names, find(t, s, audit.Query{Limit: 7})); diff != "" {
			t.Errorf("%s (-want +got)\n%s", what, diff)
		}
		if diff := cmp.Diff(sevenths, find(t, s, audit.Query{Limit: 3, Attribute: audit.ByResourceName, Value: "seventh"})); diff != "" {
			t.Errorf("%s, every seventh (-want +got)\n%s", what, diff)
		}
	}
	check("while it is written", s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Record(t.Context(), event("late")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Record after Close: %v, want os.ErrClosed", err)
	}
	if _, err := s.Lookup(t.Context(), &audit.Query{Limit: 1}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Lookup after Close: %v, want os.ErrClosed", err)
	}

	segments, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(segments) < 3 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	for _, damage := range []func() error{
		func() error { return nil },
		func() error {
			return os.WriteFile(strings.Replace(segments[0], ".jsonl", ".summary", 1), []byte("{"), 0o600)
		},
		func() error { return os.RemoveAll(strings.Replace(segments[1], ".jsonl", ".summary", 1)) },
		func() error {
			f, err := os.OpenFile(segments[len(segments)-1], os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString(`{"eventName":"cut o`)
			return errors.Join(err, f.Close())
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		s = open(t, small(dir))
		check("when it is opened again", s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, small(dir))
	record(t, s, event("next"))
	names = append([]string{"next"}, names...)
	check("after an unfinished line", s)
}

func TestLookupGoesOnWhileRecordsCome(t *testing.T) {
	t.Parallel()
	s := open(t, small(filepath.Join(t.TempDir(), "audit")))
	events, names := numbered(20)
	record(t, s, events...)
	q := audit.Query{Account: account, Region: region, Limit: 5}
	page, err := s.Lookup(t.Context(), &q)
	if err != nil {
		t.Fatal(err)
	}
	record(t, s, event("meanwhile"))
	slices.Reverse(names)
	if diff := cmp.Diff(names[5:], find(t, s, audit.Query{After: page.Next})); diff != "" {
		t.Errorf("the pages after the first (-want +got)\n%s", diff)
	}
	for _, bad := range []string{"x", "1", "1.x", "-1.0", "1.-1", "."} {
		if _, err := s.Lookup(t.Context(), &audit.Query{Limit: 1, After: bad}); !errors.Is(err, audit.ErrPosition) {
			t.Errorf("position %q: %v, want ErrPosition", bad, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Lookup(ctx, &q); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that is gone: %v", err)
	}
}

func TestTheOldestGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "audit")
		var log bytes.Buffer
		c := small(dir)
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		s := open(t, c)
		events, names := numbered(1000) // more than 2 MiB
		record(t, s, events...)
		synctest.Wait()
		got := find(t, s, audit.Query{})
		slices.Reverse(got)
		if len(got) < 200 || len(got) > 500 || !slices.Equal(got, names[len(names)-len(got):]) {
			t.Errorf("%d records are left, want the newest of about 1 MiB", len(got))
		}
		if !strings.Contains(log.String(), "largest size") {
			t.Errorf("what was dropped before its time is not told: %s", log.String())
		}
		size := int64(0)
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			info, err := f.Info()
			if err != nil {
				t.Fatal(err)
			}
			size += info.Size()
		}
		if size > audit.MinSize {
			t.Errorf("the trail has %d bytes, want at most %d", size, audit.MinSize)
		}
	})
}

func TestRecordsGoAfterTheirTime(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := small(filepath.Join(t.TempDir(), "audit"))
			c.Retention = 10 * 24 * time.Hour
			s := open(t, c)
			for day := range 15 {
				e := event(fmt.Sprint("day", day))
				e.Time = time.Now()
				record(t, s, e)
				time.Sleep(26 * time.Hour)
				if !restarts {
					continue
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, c)
			}
			synctest.Wait()
			got := find(t, s, audit.Query{})
			if len(got) < 9 || len(got) > 11 || got[0] != "day14" {
				t.Errorf("after 16 days with 10 to be kept, there are %v", got)
			}
		})
	}
}

func TestTheTrailBelongsToOneProcessAndNobodyElse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	s := open(t, audit.FilesConfig{Dir: dir})
	record(t, s, event("A"))
	log := slog.New(slog.DiscardHandler)
	if _, err := audit.OpenFiles(audit.FilesConfig{Dir: dir, Log: log}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: %v", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", f.Name(), info.Mode(), err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.OpenFiles(audit.FilesConfig{Dir: dir, Log: log}); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("opened although others may read it: %v", err)
	}
	if _, err := audit.OpenFiles(audit.FilesConfig{Dir: dir + "2", MaxSize: 1000, Log: log}); err == nil {
		t.Error("a trail of 1,000 bytes was opened")
	}
}

func TestManyMayRecord(t *testing.T) {
	t.Parallel()
	s := open(t, small(filepath.Join(t.TempDir(), "audit")))
	const writers, each = 8, 50
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			for j := range each {
				e := event(fmt.Sprintf("%d-%d", i, j))
				e.Time = time.Now()
				if err := s.Record(context.Background(), e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	found := find(t, s, audit.Query{})
	slices.Sort(found)
	if n := len(slices.Compact(found)); n != writers*each {
		t.Errorf("%d distinct records, want %d", n, writers*each)
	}
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
}

// BenchmarkFiles is what a record costs: to one caller, and to many at once.
func BenchmarkFiles(b *testing.B) {
	keep := func(b *testing.B, s *audit.Files, e *audit.Event) {
		e.EventID = ""
		if err := s.Record(b.Context(), e); err != nil {
			b.Error(err)
		}
	}
	b.Run("one caller", func(b *testing.B) {
		s := open(b, audit.FilesConfig{Dir: filepath.Join(b.TempDir(), "audit")})
		e := fresh("AssumeRole")
		b.ReportAllocs()
		for b.Loop() {
			keep(b, s, e)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	})
	b.Run("64 callers", func(b *testing.B) {
		s := open(b, audit.FilesConfig{Dir: filepath.Join(b.TempDir(), "audit")})
		b.ReportAllocs()
		b.SetParallelism(64 / runtime.GOMAXPROCS(0))
		b.RunParallel(func(loop *testing.PB) {
			e := fresh("AssumeRole")
			for loop.Next() {
				keep(b, s, e)
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	})
}
