package credcache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/credcache"
)

var (
	errGone   = errors.New("gone")   // drops what is kept
	errBusy   = errors.New("busy")   // is remembered for a minute
	errBroken = errors.New("broken") // is retried, and remembered for a second
)

func judge(err error) credcache.Verdict {
	switch {
	case errors.Is(err, errGone):
		return credcache.Verdict{Drop: true, Remember: 2 * time.Second}
	case errors.Is(err, errBusy):
		return credcache.Verdict{Remember: time.Minute}
	case errors.Is(err, errBroken):
		return credcache.Verdict{Retry: true, Remember: time.Second}
	}
	return credcache.Verdict{}
}

// source fetches credentials that are just numbered: "token#1", "token#2", …
type source struct {
	mu    sync.Mutex
	life  time.Duration
	takes time.Duration
	err   error
	calls map[string]int
	times []time.Time // of all calls
}

func (s *source) fetch(ctx context.Context, t credcache.Ticket) (string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := string(t.Token)
	s.calls[token]++
	s.times = append(s.times, time.Now())
	if s.takes > 0 {
		takes := s.takes
		s.mu.Unlock()
		select {
		case <-time.After(takes):
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return "", time.Time{}, ctx.Err()
		}
	}
	if s.err != nil {
		return "", time.Time{}, s.err
	}
	return fmt.Sprintf("%s#%d", token, s.calls[token]), time.Now().Add(s.life), nil
}

func (s *source) set(f func(*source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// asked returns when the source was asked so far.
func (s *source) asked() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.times)
}

// wantCalls checks how often a token was traded so far.
func (f *fixture) wantCalls(token string, want int) {
	f.t.Helper()
	f.set(func(s *source) {
		if got := s.calls[token]; got != want {
			f.t.Errorf("%s was traded %d times, want %d", token, got, want)
		}
	})
}

// fixture is a running cache, in a synctest bubble, over a source whose credentials live six hours.
type fixture struct {
	*source
	*credcache.Cache[string, string]
	t      *testing.T
	day    time.Time // when the tickets of ask end
	mu     sync.Mutex
	events []credcache.EventKind
	late   time.Duration // the most that a refresh was
}

// run calls f with a cache of two keys and a retention of three hours, unless change says otherwise.
func run(t *testing.T, change func(*credcache.Config[string, string]), f func(*fixture)) {
	synctest.Test(t, func(t *testing.T) {
		fx := &fixture{t: t, day: time.Now().Add(24 * time.Hour), source: &source{life: 6 * time.Hour, calls: map[string]int{}}}
		config := credcache.Config[string, string]{
			Fetch:      fx.fetch,
			Judge:      judge,
			Retain:     3 * time.Hour,
			MaxEntries: 2,
			Observe: func(e credcache.Event) {
				fx.mu.Lock()
				defer fx.mu.Unlock()
				fx.events = append(fx.events, e.Kind)
				fx.late = max(fx.late, e.Late)
			},
		}
		if change != nil {
			change(&config)
		}
		fx.Cache = credcache.New(config)
		ctx, stop := context.WithCancel(t.Context())
		go fx.Run(ctx)
		f(fx)
		stop()
		synctest.Wait()
	})
}

// after lets time pass, and background work finish.
func (f *fixture) after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// ask gets a key with a ticket whose token is the key, or another one, and that lives until a day after the start.
func (f *fixture) ask(key string, token ...string) (string, error) {
	return f.askWith(f.t.Context(), key, credcache.Ticket{Token: credcache.Token(append(token, key)[0]), Expires: f.day})
}

func (f *fixture) askWith(ctx context.Context, key string, t credcache.Ticket) (string, error) {
	got, _, err := f.Get(ctx, key, t)
	return got, err
}

func (f *fixture) want(key, want string) {
	f.t.Helper()
	if got, err := f.ask(key); err != nil || got != want {
		f.t.Errorf("Get(%s) = %q, %v; want %q", key, got, err, want)
	}
}

func (f *fixture) wantErr(key string, want error) {
	f.t.Helper()
	if got, err := f.ask(key); !errors.Is(err, want) || got != "" {
		f.t.Errorf("Get(%s) = %q, %v; want error %v", key, got, err, want)
	}
}

func (f *fixture) wantEvents(want ...credcache.EventKind) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if diff := cmp.Diff(want, f.events); diff != "" {
		f.t.Errorf("events (-want +got):\n%s", diff)
	}
}

func (f *fixture) wantEntries(want int) {
	f.t.Helper()
	if got, bytes := f.Stats(); got != want || (bytes == 0) != (want == 0) {
		f.t.Errorf("%d entries of %d bytes are kept, want %d", got, bytes, want)
	}
}

func TestFetchesOnceAndKeeps(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.want("a", "a#1")
		f.want("a", "a#1")
		f.want("b", "b#1")
		f.wantEvents(credcache.Miss, credcache.Hit, credcache.Miss)
		f.wantEntries(2)
	})
}

func TestCallersShareAFetch(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.takes = time.Second
		start := time.Now()
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() { f.want("a", "a#1") })
		}
		all.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("they waited %s for a fetch that took a second", took)
		}
	})
}

func TestCallersShareAFailureForAMoment(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.takes, f.err = time.Second, errBusy
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { f.wantErr("a", errBusy) })
		}
		all.Wait()
		f.set(func(s *source) { s.err = nil })
		f.after(59 * time.Second)
		f.wantErr("a", errBusy)
		f.wantCalls("a", 1)
		f.want("b", "b#1") // another key is not concerned
		f.after(time.Second)
		f.want("a", "a#2")
	})
}

func TestABetterTicketIsTriedInSpiteOfAFailure(t *testing.T) {
	run(t, nil, func(f *fixture) {
		old := credcache.Ticket{Token: "old", Expires: time.Now().Add(time.Hour)}
		f.err = errGone
		if _, err := f.askWith(f.t.Context(), "a", old); !errors.Is(err, errGone) {
			t.Errorf("got %v", err)
		}
		f.err = nil
		if _, err := f.askWith(f.t.Context(), "a", old); !errors.Is(err, errGone) {
			t.Errorf("the failure was forgotten: %v", err)
		}
		if got, err := f.ask("a", "rotated"); got != "rotated#1" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestFailuresAreBounded(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.err = errBusy
		for i := range 5000 {
			f.wantErr(fmt.Sprint(i), errBusy)
		}
		remembered := 0
		for i := range 5000 {
			before := len(f.asked())
			f.wantErr(fmt.Sprint(i), errBusy)
			if len(f.asked()) == before {
				remembered++
			}
		}
		if remembered > 1024 {
			t.Errorf("%d failures are remembered", remembered)
		}
		f.wantEntries(0)
	})
}

func TestRetriesWhileSomebodyWaits(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.err = errBroken
		start := time.Now()
		f.wantErr("a", errBroken)
		f.wantCalls("a", 3)
		if took := time.Since(start); took < 150*time.Millisecond || took > 300*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		f.wantErr("a", errBroken)
		f.wantCalls("a", 3)

		f.takes = 2 * time.Second
		ctx, leave := context.WithTimeout(f.t.Context(), time.Second)
		defer leave()
		if _, err := f.askWith(ctx, "b", credcache.Ticket{Token: "b"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		f.after(5 * time.Second)
		f.wantCalls("b", 1) // nobody waited any more
	})
}

func TestARetryMayHelp(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.err = errBroken
		go func() {
			<-time.After(time.Millisecond)
			f.set(func(s *source) { s.err = nil })
		}()
		f.want("a", "a#2")
	})
}

func TestCallerLeavesAndTheFetchGoesOn(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.takes = 5 * time.Second
		ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := f.askWith(ctx, "a", credcache.Ticket{Token: "a"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if left := time.Since(start); left != time.Second {
			t.Errorf("left after %s", left)
		}
		f.want("a", "a#1")
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("the next caller was answered after %s", took)
		}
	})
}

func TestFetchIsBoundedInTime(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.takes = time.Hour
		start := time.Now()
		f.wantErr("a", context.DeadlineExceeded)
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("gave up after %s", took)
		}
	})
}

func TestFetchesUnderWayAreBounded(t *testing.T) {
	run(t, func(c *credcache.Config[string, string]) { c.MaxFlights = 2 }, func(f *fixture) {
		f.takes = time.Second
		var all sync.WaitGroup
		for _, key := range []string{"a", "b", "a", "b"} {
			all.Go(func() { f.want(key, key+"#1") })
		}
		synctest.Wait()
		f.wantErr("c", credcache.ErrBusy)
		all.Wait()
		f.want("c", "c#1")
	})
}

func TestRefreshesAhead(t *testing.T) {
	for _, tt := range []struct {
		name          string
		life          time.Duration
		before, after time.Duration // the refresh, with the sweep
	}{
		{"at the retention", 12 * time.Hour, 135 * time.Minute, 3*time.Hour + 6*time.Second},
		{"at half of a short life", time.Hour, 22 * time.Minute, 30*time.Minute + 6*time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, nil, func(f *fixture) {
				f.life = tt.life
				f.want("a", "a#1")
				f.after(tt.before)
				f.want("a", "a#1")
				f.after(tt.after - tt.before)
				f.want("a", "a#2")
				f.wantEvents(credcache.Miss, credcache.Hit, credcache.Refreshing, credcache.Hit)
				if f.late > 5*time.Second {
					t.Errorf("the refresh was %s late", f.late)
				}
			})
		})
	}
}

// What came together is refreshed over 45 minutes, at an even pace.
func TestRefreshesAreSpread(t *testing.T) {
	const n = 900
	run(t, func(c *credcache.Config[string, string]) { c.MaxEntries = n }, func(f *fixture) {
		for i := range n {
			f.want(fmt.Sprint(i), fmt.Sprintf("%d#1", i))
		}
		f.after(3*time.Hour + 5*time.Second)
		perMinute := map[time.Time]int{}
		for _, at := range f.asked()[n:] {
			perMinute[at.Truncate(time.Minute)]++
		}
		for at, calls := range perMinute {
			if calls > 4*n/45 {
				t.Errorf("%d refreshes in the minute of %s", calls, at)
			}
		}
		if len(f.asked()) != 2*n || len(perMinute) < 40 {
			t.Errorf("%d fetches, the refreshes in %d minutes", len(f.asked()), len(perMinute))
		}
	})
}

func TestKeepsOldWhileARefreshIsSlow(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.want("a", "a#1")
		f.set(func(s *source) { s.takes = 8 * time.Second })
		for len(f.asked()) < 2 {
			f.after(time.Second)
		}
		f.want("a", "a#1")
		f.after(8 * time.Second)
		f.want("a", "a#2")
	})
}

func TestKeepsOldOnRecoverableErrors(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.want("a", "a#1")
		f.set(func(s *source) { s.err = errBroken })
		f.after(5 * time.Hour)
		f.want("a", "a#1")
		f.set(func(s *source) {
			if n := s.calls["a"]; n < 60 || n > 166 { // each one to two minutes, for two to two and three quarter hours
				t.Errorf("%d fetches", n)
			}
			s.err = nil
		})
		f.after(4 * time.Minute)
		got, err := f.ask("a")
		if err != nil || got == "a#1" {
			t.Errorf("got %q, %v after the source has recovered", got, err)
		}
	})
}

func TestWhatIsTooOldIsFetchedBeforeItIsHandedOut(t *testing.T) {
	t.Parallel()
	run(t, func(c *credcache.Config[string, string]) { c.MaxAge, c.MaxEntries = time.Minute, 3 }, func(f *fixture) {
		f.set(func(s *source) { s.takes = 5 * time.Second })
		f.want("a", "a#1")
		f.after(54 * time.Second) // since the fetch began: 59 s
		f.want("a", "a#1")
		f.after(time.Second)
		f.want("a", "a#2")
		f.wantEvents(credcache.Miss, credcache.Hit, credcache.Miss)

		f.set(func(s *source) { s.takes, s.err = 0, errBusy })
		f.after(30 * time.Second)
		f.want("a", "a#2")
		f.after(30 * time.Second)
		f.wantErr("a", errBusy)
		f.wantEntries(1)
		f.set(func(s *source) { s.err = nil })
		f.after(time.Minute) // the failure is remembered
		f.want("a", "a#4")

		f.want("b", "b#1")
		f.set(func(s *source) { s.err = errGone })
		f.after(time.Minute)
		f.wantErr("a", errGone)
		f.wantEntries(1) // that of the other key
	})
}

func TestHardExpiry(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.want("a", "a#1")
		f.set(func(s *source) { s.err = errBusy })
		f.after(6*time.Hour - 16*time.Second)
		f.want("a", "a#1")
		f.after(time.Second) // 15 s are left
		f.wantErr("a", errBusy)
		f.after(time.Minute)
		f.wantEntries(0)
	})
}

func TestCredentialsThatHardlyLiveAreNotKept(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.life = 15 * time.Second
		f.want("a", "a#1")
		f.want("a", "a#2")
	})
}

func TestDropsOnIrrecoverableErrors(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.want("a", "a#1")
		f.set(func(s *source) { s.err = fmt.Errorf("fetch: %w", errGone) })
		f.after(3*time.Hour + 5*time.Second)
		f.wantEvents(credcache.Miss, credcache.Refreshing, credcache.Dropped)
		f.wantErr("a", errGone)
		f.wantEntries(0)
	})
}

func TestRefreshesWithTheTicketThatLivesLongest(t *testing.T) {
	ticket := func(name string, hours int) credcache.Ticket {
		return credcache.Ticket{Token: credcache.Token(name), Expires: time.Now().Add(time.Duration(hours) * time.Hour)}
	}
	run(t, nil, func(f *fixture) {
		for _, tt := range []credcache.Ticket{ticket("first", 10), ticket("last", 20), ticket("second", 15)} {
			if got, err := f.askWith(f.t.Context(), "a", tt); got != "first#1" {
				t.Errorf("got %q, %v", got, err)
			}
		}
		f.after(3*time.Hour + 5*time.Second)
		f.want("a", "last#1")
		f.wantEntries(1)
	})
	t.Run("and with none whose time is over", func(t *testing.T) {
		run(t, nil, func(f *fixture) {
			if got, err := f.askWith(f.t.Context(), "a", ticket("short", 1)); got != "short#1" {
				t.Errorf("got %q, %v", got, err)
			}
			f.after(5 * time.Hour)
			f.wantCalls("short", 1)
			if got, err := f.ask("a", "fresh"); got != "short#1" {
				t.Errorf("got %q, %v", got, err)
			}
			f.after(5 * time.Second)
			f.want("a", "fresh#1")
		})
	})
}

func TestEvictsTheLeastRecentlyUsed(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.want("a", "a#1")
		f.want("b", "b#1")
		f.want("a", "a#1")
		f.want("c", "c#1") // b goes
		f.wantEvents(credcache.Miss, credcache.Miss, credcache.Hit, credcache.Miss, credcache.Evicted)
		f.want("a", "a#1")
		f.want("b", "b#2")
		f.wantEntries(2)
	})
}

func TestEvictsWhatIsTooMuch(t *testing.T) {
	run(t, func(c *credcache.Config[string, string]) {
		c.MaxEntries, c.MaxBytes = 100, 10_000
		c.Size = func(value string) int { return 3000 * strings.Count(value, "big") }
	}, func(f *fixture) {
		for i := range 20 {
			f.want(fmt.Sprint("big", i), fmt.Sprintf("big%d#1", i))
		}
		f.wantEntries(2)
		for i := range 20 {
			f.want(fmt.Sprint(i), fmt.Sprintf("%d#1", i))
		}
		if entries, bytes := f.Stats(); bytes > 10_000 || entries < 10 {
			t.Errorf("%d entries of %d bytes", entries, bytes)
		}
		f.after(7 * time.Hour) // their tickets allow refreshes
		f.set(func(s *source) { s.err = errBusy })
		f.after(7 * time.Hour)
		f.wantEntries(0)
	})
}

func TestKeepsNothing(t *testing.T) {
	run(t, func(c *credcache.Config[string, string]) { c.MaxEntries = 0 }, func(f *fixture) {
		f.takes = time.Second
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { f.want("a", "a#1") })
		}
		all.Wait()
		f.want("a", "a#2")
		f.wantEntries(0)
	})
}

func TestRefreshesArePacedTheMostUrgentFirst(t *testing.T) {
	var paced []time.Time
	run(t, func(c *credcache.Config[string, string]) {
		c.MaxEntries = 100
		c.Pace = func(ctx context.Context) error {
			select {
			case <-time.After(time.Minute):
				paced = append(paced, time.Now())
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}, func(f *fixture) {
		for i := range 60 { // in each minute more are due than the pace allows
			f.want(fmt.Sprint(i), fmt.Sprintf("%d#1", i))
			f.after(time.Second)
		}
		f.after(6*time.Hour - 5*time.Minute)
		refreshes := f.asked()[60:]
		if len(refreshes) < 60 || len(refreshes) > len(paced) {
			t.Fatalf("%d refreshes at %d paces", len(refreshes), len(paced))
		}
		for i := range 60 {
			f.set(func(s *source) {
				if s.calls[fmt.Sprint(i)] < 2 {
					t.Errorf("%d was not refreshed in time", i)
				}
			})
		}
	})
}

// The source is gone for two hours, then slow, then busy, then back: whoever is kept never sees an error, and the source
// never sees more than the pace.
func TestOutage(t *testing.T) {
	const n = 60
	run(t, func(c *credcache.Config[string, string]) {
		c.MaxEntries = n
		c.Pace = func(ctx context.Context) error {
			select {
			case <-time.After(time.Second / 3):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}, func(f *fixture) {
		everybody := func() {
			f.t.Helper()
			for i := range n {
				if got, err := f.ask(fmt.Sprint(i)); err != nil || !strings.HasPrefix(got, fmt.Sprintf("%d#", i)) {
					f.t.Fatalf("%d got %q, %v", i, got, err)
				}
			}
		}
		everybody()
		f.set(func(s *source) { s.times = nil })
		for _, phase := range []struct {
			hours int
			is    func(*source)
		}{
			{2, func(*source) {}},
			{2, func(s *source) { s.err = errBroken }},
			{1, func(s *source) { s.err, s.takes = nil, 9*time.Second }},
			{1, func(s *source) { s.err, s.takes = errBusy, 0 }},
			{6, func(s *source) { s.err = nil }},
		} {
			f.set(phase.is)
			for range phase.hours * 20 {
				f.after(3 * time.Minute)
				everybody()
			}
		}
		asked := f.asked()
		for i, at := range asked {
			if i >= 4 && at.Sub(asked[i-4]) < time.Second {
				t.Fatalf("five calls within a second, at %s", at)
			}
		}
	})
}

func TestTokensRedact(t *testing.T) {
	var log strings.Builder
	ticket := credcache.Ticket{Token: "hidden", Holder: "pod"}
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "ticket", ticket, "token", ticket.Token)
	fmt.Fprintf(&log, "%v %+v %#v %s", ticket, ticket, ticket, ticket.Token)
	if strings.Contains(log.String(), "hidden") || !strings.Contains(log.String(), "REDACTED") {
		t.Error(log.String())
	}
}

// Whatever the order of many callers, keys and refreshes, an answer is never expired and never another key's.
func TestConcurrentUse(t *testing.T) {
	cache := credcache.New(credcache.Config[int, string]{
		Fetch: func(_ context.Context, t credcache.Ticket) (string, time.Time, error) {
			if strings.HasSuffix(string(t.Token), "7") {
				return "", time.Time{}, errGone
			}
			return string(t.Token), time.Now().Add(time.Hour), nil
		},
		Judge:      judge,
		Retain:     time.Hour,
		MaxEntries: 5,
	})
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 2000 {
				key := (i*31 + worker) % 20
				got, _, err := cache.Get(t.Context(), key, credcache.Ticket{Token: credcache.Token(fmt.Sprint(key))})
				if key%10 == 7 != errors.Is(err, errGone) || (err == nil && got != fmt.Sprint(key)) {
					t.Errorf("Get(%d) = %v, %v", key, got, err)
				}
			}
		})
	}
	all.Wait()
	if n, _ := cache.Stats(); n > 5 {
		t.Errorf("%d keys are kept", n)
	}
}

func TestHitsAllocateNothing(t *testing.T) {
	for _, n := range []int{1, 2000} {
		cache := filled(t, n)
		ticket := credcache.Ticket{Token: "x"}
		if allocs := testing.AllocsPerRun(100, func() {
			if _, hit, err := cache.Get(t.Context(), 0, ticket); !hit || err != nil {
				t.Errorf("%t, %v", hit, err)
			}
		}); allocs != 0 {
			t.Errorf("a hit among %d entries makes %v allocations", n, allocs)
		}
	}
}

// Two thousand entries with tokens and values of 1,500 bytes each take less than 8 MiB, and count as much as they take.
func TestMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	cache := filled(t, 2000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	taken := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	if _, counted := cache.Stats(); taken > 8<<20 || counted < taken*3/4 {
		t.Errorf("they take %d bytes and count as %d", taken, counted)
	}
	runtime.KeepAlive(cache)
}

func filled(t *testing.T, n int) *credcache.Cache[int, string] {
	t.Helper()
	cache := credcache.New(credcache.Config[int, string]{
		Fetch: func(_ context.Context, t credcache.Ticket) (string, time.Time, error) {
			return strings.Repeat("v", 1500), time.Now().Add(time.Hour), nil
		},
		Judge: judge, Retain: time.Hour, MaxEntries: n, Size: func(v string) int { return len(v) },
	})
	for i := range n {
		if _, _, err := cache.Get(t.Context(), i, credcache.Ticket{Token: credcache.Token(strings.Repeat("t", 1500))}); err != nil {
			t.Fatal(err)
		}
	}
	return cache
}
