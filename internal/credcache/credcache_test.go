package credcache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/credcache"
)

var (
	errGone = errors.New("gone")
	errBusy = errors.New("busy")
)

// source fetches credentials that are just numbered: "key#1", "key#2", …
type source struct {
	mu    sync.Mutex
	life  time.Duration
	takes time.Duration
	err   error
	calls map[string]int
}

func (s *source) fetch(ctx context.Context, key string) (string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[key]++
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
	return fmt.Sprintf("%s#%d", key, s.calls[key]), time.Now().Add(s.life), nil
}

func (s *source) set(f func(*source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// fixture is a running cache, in a synctest bubble, over a source whose credentials live six hours.
type fixture struct {
	*source
	*credcache.Cache[string, string]
	t      *testing.T
	mu     sync.Mutex
	events []credcache.EventKind
}

// run calls f with a cache of two keys and a retention of three hours, unless change says otherwise.
func run(t *testing.T, change func(*credcache.Config[string, string]), f func(*fixture)) {
	synctest.Test(t, func(t *testing.T) {
		fx := &fixture{t: t, source: &source{life: 6 * time.Hour, calls: map[string]int{}}}
		config := credcache.Config[string, string]{
			Fetch:         fx.fetch,
			Irrecoverable: func(err error) bool { return errors.Is(err, errGone) },
			Retain:        3 * time.Hour,
			MaxSize:       2,
			Observe: func(e credcache.Event) {
				fx.mu.Lock()
				defer fx.mu.Unlock()
				fx.events = append(fx.events, e.Kind)
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

func (f *fixture) want(key, want string) {
	f.t.Helper()
	got, err := f.Get(f.t.Context(), key)
	if err != nil || got != want {
		f.t.Errorf("Get(%s) = %q, %v; want %q", key, got, err, want)
	}
}

func (f *fixture) wantErr(key string, want error) {
	f.t.Helper()
	if got, err := f.Get(f.t.Context(), key); !errors.Is(err, want) || got != "" {
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

func TestFetchesOnceAndKeeps(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.want("a", "a#1")
		f.want("a", "a#1")
		f.want("b", "b#1")
		f.wantEvents(credcache.Miss, credcache.Hit, credcache.Miss)
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

func TestCallersShareAFailureThatIsNotKept(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.takes, f.err = time.Second, errBusy
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { f.wantErr("a", errBusy) })
		}
		all.Wait()
		if f.calls["a"] != 1 {
			t.Errorf("%d fetches", f.calls["a"])
		}
		f.err = nil
		f.want("a", "a#2")
	})
}

func TestCallerLeavesAndTheFetchGoesOn(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.takes = 5 * time.Second
		ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := f.Get(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
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

func TestRefreshesAhead(t *testing.T) {
	for _, tt := range []struct {
		name    string
		life    time.Duration
		refresh time.Duration
	}{
		{"at the retention", 12 * time.Hour, 3 * time.Hour},
		{"at half of a short life", time.Hour, 30 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, nil, func(f *fixture) {
				f.life = tt.life
				f.want("a", "a#1")
				f.after(tt.refresh - time.Minute)
				f.want("a", "a#1")
				f.after(2 * time.Minute)
				f.want("a", "a#2")
				f.wantEvents(credcache.Miss, credcache.Hit, credcache.Hit)
			})
		})
	}
}

func TestKeepsOldWhileARefreshIsSlow(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.want("a", "a#1")
		f.set(func(s *source) { s.takes = 8 * time.Second })
		f.after(3*time.Hour + 5*time.Second) // the sweep at three hours sharp has begun a refresh
		f.want("a", "a#1")
		f.after(8 * time.Second)
		f.want("a", "a#2")
	})
}

func TestKeepsOldOnRecoverableErrors(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.want("a", "a#1")
		f.set(func(s *source) { s.err = errBusy })
		f.after(5 * time.Hour)
		f.want("a", "a#1")
		f.set(func(s *source) {
			if n := s.calls["a"]; n < 40 || n > 120 { // each one to two minutes, for two hours
				t.Errorf("%d fetches", n)
			}
			s.err = nil
		})
		f.after(4 * time.Minute)
		got, err := f.Get(f.t.Context(), "a")
		if err != nil || got == "a#1" {
			t.Errorf("got %q, %v after the source has recovered", got, err)
		}
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
		if f.Len() != 0 {
			t.Error("expired credentials are kept")
		}
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
		f.after(3*time.Hour + time.Second)
		f.wantEvents(credcache.Miss, credcache.Dropped)
		f.wantErr("a", errGone)
		if f.Len() != 0 {
			t.Error("dropped credentials are kept")
		}
	})
}

func TestEvictsTheLeastRecentlyUsed(t *testing.T) {
	run(t, nil, func(f *fixture) {
		f.want("a", "a#1")
		f.want("b", "b#1")
		f.want("a", "a#1")
		f.want("c", "c#1") // b goes
		synctest.Wait()
		f.wantEvents(credcache.Miss, credcache.Miss, credcache.Hit, credcache.Miss, credcache.Evicted)
		f.want("a", "a#1")
		f.want("b", "b#2")
		if f.Len() != 2 {
			t.Errorf("%d keys are kept", f.Len())
		}
	})
}

func TestKeepsNothing(t *testing.T) {
	run(t, func(c *credcache.Config[string, string]) { c.MaxSize = 0 }, func(f *fixture) {
		f.takes = time.Second
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { f.want("a", "a#1") })
		}
		all.Wait()
		f.want("a", "a#2")
		if f.Len() != 0 {
			t.Errorf("%d keys are kept", f.Len())
		}
	})
}

func TestRefreshesAreLimited(t *testing.T) {
	var waits atomic.Int64
	run(t, func(c *credcache.Config[string, string]) {
		c.MaxSize = 100
		c.Wait = func(ctx context.Context) error {
			waits.Add(1)
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}, func(f *fixture) {
		for i := range 30 {
			f.want(fmt.Sprint(i), fmt.Sprintf("%d#1", i))
		}
		f.after(3*time.Hour + 10*time.Second)
		refreshed := 0
		f.set(func(s *source) {
			for _, n := range s.calls {
				refreshed += n - 1
			}
		})
		if int(waits.Load()) < refreshed || refreshed < 9 || refreshed > 11 {
			t.Errorf("%d refreshes and %d waits in ten seconds at one a second", refreshed, waits.Load())
		}
		f.after(30 * time.Second)
		f.set(func(s *source) {
			for key, n := range s.calls {
				if n != 2 {
					t.Errorf("%s was fetched %d times", key, n)
				}
			}
		})
	})
}

// Whatever the order of many callers, keys and refreshes, an answer is never expired and never another key's.
func TestConcurrentUse(t *testing.T) {
	cache := credcache.New(credcache.Config[int, []int]{
		Fetch: func(_ context.Context, key int) ([]int, time.Time, error) {
			if key%7 == 0 {
				return nil, time.Time{}, errBusy
			}
			return []int{key}, time.Now().Add(time.Hour), nil
		},
		Irrecoverable: func(error) bool { return false },
		Retain:        time.Hour,
		MaxSize:       5,
	})
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 2000 {
				key := (i*31 + worker) % 20
				got, err := cache.Get(t.Context(), key)
				if key%7 == 0 != errors.Is(err, errBusy) || (err == nil && !slices.Equal(got, []int{key})) {
					t.Errorf("Get(%d) = %v, %v", key, got, err)
				}
			}
		})
	}
	all.Wait()
	if cache.Len() > 5 {
		t.Errorf("%d keys are kept", cache.Len())
	}
}
