// Package credcache keeps credentials by key: one fetch at a time per key, refreshed before they expire, kept when a
// refresh fails, bounded in number. It does no I/O of its own and knows nothing of what a key is.
package credcache

import (
	"container/list"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// The times of a Cache that are not settings.
const (
	// minLeft is the least life that credentials must have left to be handed out.
	minLeft = 15 * time.Second
	// sweepEvery is how often Run looks for credentials that are due.
	sweepEvery = time.Minute
	// retryAfter, plus up to as much again, passes after a refresh that failed.
	retryAfter = time.Minute
)

// Config is what a Cache needs. K is the key, V what is kept under it.
type Config[K comparable, V any] struct {
	// Fetch gets what belongs to a key, and when it expires. Required. Its context carries the values of the caller's, but
	// has its own end: the result is for all who wait for it.
	Fetch func(ctx context.Context, key K) (value V, expires time.Time, err error)
	// FetchTimeout bounds Fetch; 10 s when zero.
	FetchTimeout time.Duration
	// Irrecoverable reports whether an error of Fetch means that the key is good for nothing any more; required. What is
	// kept under it is then dropped; after any other error it is kept until it expires.
	Irrecoverable func(error) bool
	// Retain is the age at which credentials are refreshed, or half of their life if that is less. Required.
	Retain time.Duration
	// MaxSize is how many keys are kept; the least recently used goes first. Zero keeps nothing: callers that come during a
	// fetch still share it.
	MaxSize int
	// Wait, if not nil, returns when the next refresh may start, or with ctx's error: to limit the rate.
	Wait func(ctx context.Context) error
	// Observe, if not nil, is told what happens. It must not call the cache.
	Observe func(Event)
}

// Event is something that happened in a Cache.
type Event struct {
	Kind EventKind
	Err  error // of RefreshFailed and Dropped
}

// EventKind says what happened.
type EventKind int

// The kinds of Event.
const (
	Hit           EventKind = iota + 1 // a caller was answered from memory
	Miss                               // a caller had to wait for a fetch
	Evicted                            // a key left because of MaxSize, or because it expired
	RefreshFailed                      // a refresh failed, and what was kept is kept
	Dropped                            // a refresh failed irrecoverably, and what was kept was dropped
)

// Cache keeps credentials. It is safe for concurrent use.
type Cache[K comparable, V any] struct {
	config Config[K, V]

	mu      sync.Mutex
	entries map[K]*list.Element // of *entry[K, V]
	recent  *list.List          // of *entry[K, V], most recently used first
	flights map[K]*flight[V]
}

type entry[K comparable, V any] struct {
	key       K
	value     V
	expires   time.Time
	refreshAt time.Time
}

// flight is a fetch under way. value and err may be read once done is closed.
type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
}

// New makes an empty cache.
func New[K comparable, V any](c Config[K, V]) *Cache[K, V] {
	if c.FetchTimeout == 0 {
		c.FetchTimeout = 10 * time.Second
	}
	if c.Wait == nil {
		c.Wait = func(ctx context.Context) error { return ctx.Err() }
	}
	if c.Observe == nil {
		c.Observe = func(Event) {}
	}
	return &Cache[K, V]{config: c, entries: map[K]*list.Element{}, recent: list.New(), flights: map[K]*flight[V]{}}
}

// Get returns what is kept under the key, or fetches it. Callers with the same key share one fetch and are all woken
// when it ends; one whose context ends leaves, and the fetch goes on for the others. An error of Fetch goes to all who
// waited and is not kept.
func (c *Cache[K, V]) Get(ctx context.Context, key K) (V, error) {
	c.mu.Lock()
	if e, ok := c.lookup(key, time.Now()); ok {
		value := e.value
		c.mu.Unlock()
		c.config.Observe(Event{Kind: Hit})
		return value, nil
	}
	f := c.fetch(ctx, key)
	c.mu.Unlock()
	c.config.Observe(Event{Kind: Miss})
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var none V
		return none, fmt.Errorf("wait for credentials: %w", context.Cause(ctx))
	}
}

// Len returns the number of keys that are kept.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

// Run refreshes in the background until ctx ends. Without it, credentials are only fetched anew once they have expired.
func (c *Cache[K, V]) Run(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for _, key := range c.due(time.Now()) {
				if c.config.Wait(ctx) != nil {
					return // only ctx's end stops the wait
				}
				c.refresh(ctx, key)
			}
		}
	}
}

// lookup finds a usable entry and marks it as used.
func (c *Cache[K, V]) lookup(key K, now time.Time) (*entry[K, V], bool) {
	element, ok := c.entries[key]
	if !ok {
		return nil, false
	}
	e := element.Value.(*entry[K, V])
	if e.expires.Sub(now) <= minLeft {
		return nil, false
	}
	c.recent.MoveToFront(element)
	return e, true
}

// fetch starts, or joins, the flight of a key.
func (c *Cache[K, V]) fetch(ctx context.Context, key K) *flight[V] {
	if f, ok := c.flights[key]; ok {
		return f
	}
	f := &flight[V]{done: make(chan struct{})}
	c.flights[key] = f
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.config.FetchTimeout)
	go func() {
		defer cancel()
		value, expires, err := c.config.Fetch(ctx, key)
		f.value, f.err = value, err
		c.mu.Lock()
		delete(c.flights, key)
		evicted := 0
		if err == nil {
			evicted = c.store(key, value, expires, time.Now())
		}
		c.mu.Unlock()
		close(f.done)
		for range evicted {
			c.config.Observe(Event{Kind: Evicted})
		}
	}()
	return f
}

// store keeps what was fetched and returns how many keys had to leave for it.
func (c *Cache[K, V]) store(key K, value V, expires, now time.Time) (evicted int) {
	left := expires.Sub(now)
	if c.config.MaxSize <= 0 || left <= minLeft {
		return 0
	}
	e := &entry[K, V]{key: key, value: value, expires: expires, refreshAt: now.Add(min(left/2, c.config.Retain))}
	if element, ok := c.entries[key]; ok {
		element.Value = e
		return 0
	}
	for ; len(c.entries) >= c.config.MaxSize; evicted++ {
		c.remove(c.recent.Back())
	}
	c.entries[key] = c.recent.PushFront(e)
	return evicted
}

func (c *Cache[K, V]) remove(element *list.Element) {
	delete(c.entries, element.Value.(*entry[K, V]).key)
	c.recent.Remove(element)
}

// due drops what has expired and returns the keys that are to be refreshed, the most recently used first.
func (c *Cache[K, V]) due(now time.Time) []K {
	c.mu.Lock()
	defer c.mu.Unlock()
	var keys []K
	var next *list.Element
	for element := c.recent.Front(); element != nil; element = next {
		next = element.Next()
		e := element.Value.(*entry[K, V])
		switch {
		case e.expires.Sub(now) <= minLeft:
			c.remove(element)
			c.config.Observe(Event{Kind: Evicted})
		case !now.Before(e.refreshAt):
			keys = append(keys, e.key)
		}
	}
	return keys
}

// refresh starts a fetch behind what is kept; what is kept stays in use until it has ended. Its outcome is recorded in the
// background, so that a slow fetch does not hold up the others.
func (c *Cache[K, V]) refresh(ctx context.Context, key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.entries[key]
	if !ok {
		return // evicted while the rate limit was waited for
	}
	// If this refresh fails recoverably, the next try is after a pause.
	e := element.Value.(*entry[K, V])
	e.refreshAt = time.Now().Add(retryAfter + rand.N(retryAfter))
	f := c.fetch(ctx, key)
	go func() {
		<-f.done
		if f.err != nil {
			c.refreshFailed(key, f.err)
		}
	}()
}

func (c *Cache[K, V]) refreshFailed(key K, err error) {
	if !c.config.Irrecoverable(err) {
		c.config.Observe(Event{Kind: RefreshFailed, Err: err})
		return
	}
	c.mu.Lock()
	if element, ok := c.entries[key]; ok {
		c.remove(element)
	}
	c.mu.Unlock()
	c.config.Observe(Event{Kind: Dropped, Err: err})
}
