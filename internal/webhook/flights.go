package webhook

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// maxFlights bounds the lookups that are under way at a time.
const maxFlights = 64

// flights makes lookups of the same key share their answer. A caller never gets the answer of a lookup that began before it
// came, which may have missed what the caller knows to be there: it waits for that one to end, together with all who came
// meanwhile, and the next is for them.
type flights[K comparable, V any] struct {
	look    func(context.Context, K) (V, error)
	timeout time.Duration // of a lookup, with the wait for its turn
	turns   chan struct{}

	mu      sync.Mutex
	running map[K]*flight[V]
}

type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
	next  *flight[V] // for those who came while this one was under way; guarded by flights.mu
}

func newFlights[K comparable, V any](timeout time.Duration, look func(context.Context, K) (V, error)) *flights[K, V] {
	return &flights[K, V]{look: look, timeout: timeout, turns: make(chan struct{}, maxFlights), running: map[K]*flight[V]{}}
}

// do returns the answer of a lookup that begins after it is called.
func (f *flights[K, V]) do(ctx context.Context, key K) (V, error) {
	mine := f.join(key)
	select {
	case <-mine.done:
		return mine.value, mine.err
	case <-ctx.Done():
		var none V
		return none, context.Cause(ctx)
	}
}

func (f *flights[K, V]) join(key K) *flight[V] {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.running[key]
	if now == nil {
		now = &flight[V]{done: make(chan struct{})}
		f.running[key] = now
		go f.run(key, now)
		return now
	}
	if now.next == nil {
		now.next = &flight[V]{done: make(chan struct{})}
	}
	return now.next
}

// run looks a key up until nobody waits for it any more.
func (f *flights[K, V]) run(key K, now *flight[V]) {
	for now != nil {
		now.value, now.err = f.lookup(key)
		close(now.done)
		f.mu.Lock()
		if now = now.next; now != nil {
			f.running[key] = now
		} else {
			delete(f.running, key)
		}
		f.mu.Unlock()
	}
}

// lookup is without a caller's context, since the answer is for all who wait for it.
func (f *flights[K, V]) lookup(key K) (V, error) {
	ctx, cancel := context.WithTimeout(context.Background(), f.timeout)
	defer cancel()
	select {
	case f.turns <- struct{}{}:
		defer func() { <-f.turns }()
		return f.look(ctx, key)
	case <-ctx.Done():
		var none V
		return none, fmt.Errorf("%d lookups are under way: %w", maxFlights, ctx.Err())
	}
}
