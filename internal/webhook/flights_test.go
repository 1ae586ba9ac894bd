package webhook

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestNobodyGetsTheAnswerOfALookupThatBeganBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var there atomic.Bool
		var lookups atomic.Int32
		f := newFlights(time.Minute, func(context.Context, string) (bool, error) {
			lookups.Add(1)
			found := there.Load() // read at the beginning, answered at the end
			time.Sleep(time.Second)
			return found, nil
		})
		var group sync.WaitGroup
		group.Go(func() {
			if found, err := f.do(t.Context(), "a"); found || err != nil {
				t.Errorf("before it was made: %v, %v", found, err)
			}
		})
		synctest.Wait()
		there.Store(true)
		for range 50 {
			group.Go(func() {
				if found, err := f.do(t.Context(), "a"); !found || err != nil {
					t.Errorf("after it was made: %v, %v", found, err)
				}
			})
		}
		group.Wait()
		if n := lookups.Load(); n != 2 {
			t.Errorf("there were %d lookups for 51 callers, want 2", n)
		}
		synctest.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.running) != 0 {
			t.Errorf("%d lookups are kept", len(f.running))
		}
	})
}

func TestLookupsOfDifferentKeysDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlights(time.Minute, func(_ context.Context, key string) (string, error) {
			time.Sleep(time.Second)
			return "of " + key, nil
		})
		start := time.Now()
		var group sync.WaitGroup
		for _, key := range []string{"a", "b", "c"} {
			group.Go(func() {
				if got, err := f.do(t.Context(), key); got != "of "+key || err != nil {
					t.Errorf("%s: %q, %v", key, got, err)
				}
			})
		}
		group.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("together they took %s", took)
		}
	})
}

func TestErrorsAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		answers := []error{down, nil}
		f := newFlights(time.Minute, func(context.Context, string) (bool, error) {
			err := answers[0]
			answers = answers[1:]
			return err == nil, err
		})
		if found, err := f.do(t.Context(), "a"); found || !errors.Is(err, down) {
			t.Errorf("at first: %v, %v", found, err)
		}
		synctest.Wait()
		if found, err := f.do(t.Context(), "a"); !found || err != nil {
			t.Errorf("then: %v, %v", found, err)
		}
	})
}

func TestLookupsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlights(3*time.Second, func(ctx context.Context, _ int) (bool, error) {
			<-ctx.Done()
			return false, ctx.Err()
		})
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.do(ctx, -1); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("a caller's own time: %v after %s", err, time.Since(start))
		}
		var group sync.WaitGroup
		for key := range 2 * maxFlights { // half of them never have their turn
			group.Go(func() {
				if _, err := f.do(t.Context(), key); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("lookup %d: %v", key, err)
				}
			})
		}
		group.Wait()
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}
