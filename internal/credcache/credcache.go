// Package credcache keeps credentials by key: one fetch at a time per key, refreshed before they expire, kept when a
// refresh fails, bounded in number and size. Failures are remembered for a moment. It does no I/O of its own and knows
// nothing of what a key is.
package credcache

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// The times and bounds of a Cache that are not settings.
const (
	// minLeft is the least life that credentials must have left to be handed out.
	minLeft = 15 * time.Second
	// sweepEvery is how often Run looks for what is due or over.
	sweepEvery = 5 * time.Second
	// retryAfter, plus up to as much again, passes after a refresh that failed.
	retryAfter = time.Minute
	// maxRetries is how often a fetch that somebody waits for is repeated, after retryPause, twice that, and so on.
	maxRetries = 2
	retryPause = 100 * time.Millisecond
	// maxFailures is how many failures are remembered; any of them goes when there are more.
	maxFailures = 1024
	// entryOverhead is roughly what an entry takes beside its value and its token, in bytes.
	entryOverhead = 512
)

// ErrBusy is returned by Get when Config.MaxFlights fetches are under way.
var ErrBusy = errors.New("too many fetches are under way")

// Config is what a Cache needs. K is the key, V what is kept under it.
type Config[K comparable, V any] struct {
	// Fetch trades a ticket for what belongs to its key, and says when that expires. Required. It is called without a
	// caller's context, since the result is for all who wait for it.
	Fetch func(ctx context.Context, t Ticket) (value V, expires time.Time, err error)
	// FetchTimeout bounds a fetch with all its repetitions; 10 s when zero.
	FetchTimeout time.Duration
	// Judge says what follows from an error of Fetch. Required.
	Judge func(error) Verdict
	// Retain is the age at which credentials are refreshed, or half of their life if that is less. Each entry's refresh is
	// drawn from the last quarter of that time, so that entries that came together do not stay together. Required.
	Retain time.Duration
	// MaxAge is the age at which credentials are not handed out any more without having been fetched anew, with the ticket of who
	// asks, however long they live: an error of that fetch goes to who asks, even if what is kept is kept. No bound when zero.
	MaxAge time.Duration
	// MaxEntries is how many keys are kept; the least recently used goes first. Zero keeps nothing: callers that come
	// during a fetch still share it.
	MaxEntries int
	// MaxBytes is how large all entries together may be, by Size and their tokens; no bound when zero.
	MaxBytes int64
	Size     func(V) int // of a value in bytes; values count nothing when nil
	// MaxFlights is how many fetches may be under way at a time, for callers; 8,192 when zero.
	MaxFlights int
	// Pace, if not nil, returns when the next refresh may start, or with ctx's error.
	Pace func(ctx context.Context) error
	// Observe, if not nil, is told what happens. It must not call the cache.
	Observe func(Event)
}

// Ticket is what Fetch trades for credentials. What a cache keeps is refreshed with the ticket of its key that lives the
// longest.
type Ticket struct {
	Token   Token
	Holder  string    // to whose account fetches go; the cache does not look at it
	Expires time.Time // no refresh is tried with a ticket whose time is over; zero is never
}

// Token is the secret part of a ticket. It redacts itself in logs and in fmt's verbs.
type Token string

// LogValue implements slog.LogValuer.
func (Token) LogValue() slog.Value { return slog.StringValue("REDACTED") }

// String redacts.
func (Token) String() string { return "REDACTED" }

// GoString redacts.
func (Token) GoString() string { return "REDACTED" }

// Verdict is what follows from an error of Fetch. The zero value keeps what is kept, and the error for no time.
type Verdict struct {
	// Drop means that the key is good for nothing any more: what is kept under it goes at once. Otherwise it is kept until it
	// expires.
	Drop bool
	// Retry means that it may help to repeat the call a moment later, which is done as long as somebody waits.
	Retry bool
	// Remember is for how long callers of the key are answered with the error, and how long at least passes until the next
	// refresh. A ticket that lives longer than the one that failed is tried at once.
	Remember time.Duration
}

// Event is something that happened in a Cache.
type Event struct {
	Kind EventKind
	Err  error         // of RefreshFailed and Dropped
	Late time.Duration // of Refreshing: how long ago the refresh was due
}

// EventKind says what happened.
type EventKind int

// The kinds of Event.
const (
	Hit           EventKind = iota + 1 // a caller was answered from memory
	Miss                               // a caller had to wait for a fetch, or got a remembered failure
	Evicted                            // a key left because of the bounds, or because it expired
	Refreshing                         // a refresh starts
	RefreshFailed                      // a refresh failed, and what was kept is kept
	Dropped                            // a refresh failed irrecoverably, and what was kept was dropped
)

// Cache keeps credentials. It is safe for concurrent use.
type Cache[K comparable, V any] struct {
	config Config[K, V]

	mu       sync.Mutex
	entries  map[K]*list.Element // of *entry[K, V]
	recent   *list.List          // of *entry[K, V], most recently used first
	bytes    int64               // of all entries
	flights  map[K]*flight[V]
	failures map[K]failure
}

type entry[K comparable, V any] struct {
	key       K
	value     V
	size      int64 // of value, in bytes
	ticket    Ticket
	fetched   time.Time // when the fetch began
	expires   time.Time
	refreshAt time.Time
}

// bytes is what the entry counts against Config.MaxBytes.
func (e *entry[K, V]) bytes() int64 { return e.size + int64(len(e.ticket.Token)) + entryOverhead }

// flight is a fetch under way. value and err may be read once done is closed; waiting is guarded by Cache.mu.
type flight[V any] struct {
	done    chan struct{}
	waiting int // callers
	value   V
	err     error
}

// failure is a remembered error.
type failure struct {
	err    error
	until  time.Time
	ticket time.Time // when the ticket that failed expires
}

// New makes an empty cache.
func New[K comparable, V any](c Config[K, V]) *Cache[K, V] {
	if c.FetchTimeout == 0 {
		c.FetchTimeout = 10 * time.Second
	}
	if c.MaxFlights == 0 {
		c.MaxFlights = 8192
	}
	if c.Size == nil {
		c.Size = func(V) int { return 0 }
	}
	if c.Pace == nil {
		c.Pace = func(ctx context.Context) error { return ctx.Err() }
	}
	if c.Observe == nil {
		c.Observe = func(Event) {}
	}
	return &Cache[K, V]{
		config: c, entries: map[K]*list.Element{}, recent: list.New(), flights: map[K]*flight[V]{}, failures: map[K]failure{},
	}
}

// Get returns what is kept under the key, or fetches it with the ticket, and says whether it was kept. The caller vouches
// that the ticket is one for this key. Callers with the same key share one fetch and are all woken when it ends; one whose
// context ends leaves, and the fetch goes on for the others. Errors are those of Fetch, ErrBusy, and the context's.
func (c *Cache[K, V]) Get(ctx context.Context, key K, t Ticket) (value V, hit bool, err error) {
	c.mu.Lock()
	now := time.Now()
	if e, ok := c.lookup(key, t, now); ok {
		value = e.value
		c.mu.Unlock()
		c.config.Observe(Event{Kind: Hit})
		return value, true, nil
	}
	f, err := c.join(key, t, now)
	c.mu.Unlock()
	c.config.Observe(Event{Kind: Miss})
	if err != nil {
		return value, false, err
	}
	select {
	case <-f.done:
		return f.value, false, f.err
	case <-ctx.Done():
		c.mu.Lock()
		f.waiting--
		c.mu.Unlock()
		return value, false, fmt.Errorf("wait for credentials: %w", context.Cause(ctx))
	}
}

// Stats returns how many entries are kept, and their size in bytes.
func (c *Cache[K, V]) Stats() (entries int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries), c.bytes
}

// Run refreshes in the background until ctx ends, the most urgent first. Without it, credentials are only fetched anew once
// they have expired.
func (c *Cache[K, V]) Run(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		for key, ok := c.sweep(time.Now()); ok; key, ok = c.sweep(time.Now()) {
			if c.config.Pace(ctx) != nil {
				return // only ctx's end stops the wait
			}
			c.refresh(key)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// lookup finds a usable entry, marks it as used, and leaves it the better ticket.
func (c *Cache[K, V]) lookup(key K, t Ticket, now time.Time) (*entry[K, V], bool) {
	element, ok := c.entries[key]
	if !ok {
		return nil, false
	}
	e := element.Value.(*entry[K, V])
	if e.expires.Sub(now) <= minLeft || c.config.MaxAge > 0 && now.Sub(e.fetched) >= c.config.MaxAge {
		return nil, false
	}
	c.recent.MoveToFront(element)
	if t.Expires.After(e.ticket.Expires) {
		c.bytes -= e.bytes()
		e.ticket = t
		c.bytes += e.bytes()
	}
	return e, true
}

// join joins or starts the flight of a key for one more caller, or returns why there is none.
func (c *Cache[K, V]) join(key K, t Ticket, now time.Time) (*flight[V], error) {
	f, ok := c.flights[key]
	if !ok {
		if failed, ok := c.failures[key]; ok && now.Before(failed.until) && !t.Expires.After(failed.ticket) {
			return nil, failed.err
		}
		if len(c.flights) >= c.config.MaxFlights {
			return nil, ErrBusy
		}
		f = c.start(key, t, false)
	}
	f.waiting++
	return f, nil
}

// start starts the flight of a key that has none.
func (c *Cache[K, V]) start(key K, t Ticket, refresh bool) *flight[V] {
	f := &flight[V]{done: make(chan struct{})}
	c.flights[key] = f
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), c.config.FetchTimeout)
		defer cancel()
		began := time.Now()
		value, expires, verdict, err := c.fetch(ctx, t, f)
		f.value, f.err = value, err
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.flights, key)
		if now := time.Now(); err == nil {
			c.store(key, value, t, expires, began, now)
		} else {
			c.failed(key, t, refresh, verdict, err, now)
		}
		close(f.done)
	}()
	return f
}

// fetch calls Fetch, and again while that may help and somebody waits: the pauses are short and jittered.
func (c *Cache[K, V]) fetch(ctx context.Context, t Ticket, f *flight[V]) (value V, expires time.Time, verdict Verdict, err error) {
	for attempt := 0; ; attempt++ {
		if value, expires, err = c.config.Fetch(ctx, t); err == nil {
			return value, expires, Verdict{}, nil
		}
		verdict = c.config.Judge(err)
		if !verdict.Retry || attempt == maxRetries || !c.awaited(f) {
			return value, expires, verdict, err
		}
		pause := retryPause << attempt
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			return value, expires, verdict, err
		}
	}
}

func (c *Cache[K, V]) awaited(f *flight[V]) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f.waiting > 0
}

// store keeps what was fetched, if it lives long enough, and makes room for it.
func (c *Cache[K, V]) store(key K, value V, t Ticket, expires, began, now time.Time) {
	delete(c.failures, key)
	left := expires.Sub(now)
	if c.config.MaxEntries <= 0 || left <= minLeft {
		return
	}
	if element, ok := c.entries[key]; ok {
		// A caller may have left a better ticket during the fetch.
		if old := element.Value.(*entry[K, V]).ticket; old.Expires.After(t.Expires) {
			t = old
		}
		c.remove(element)
	}
	after := min(left/2, c.config.Retain)
	e := &entry[K, V]{
		key: key, value: value, size: int64(c.config.Size(value)), ticket: t, fetched: began, expires: expires,
		refreshAt: now.Add(after - rand.N(after/4+1)),
	}
	c.entries[key] = c.recent.PushFront(e)
	c.bytes += e.bytes()
	for len(c.entries) > c.config.MaxEntries || c.config.MaxBytes > 0 && c.bytes > c.config.MaxBytes {
		c.remove(c.recent.Back())
		c.config.Observe(Event{Kind: Evicted})
	}
}

// failed decides what a failure leaves.
func (c *Cache[K, V]) failed(key K, t Ticket, refresh bool, verdict Verdict, err error, now time.Time) {
	element, kept := c.entries[key]
	if kept && !verdict.Drop {
		element.Value.(*entry[K, V]).refreshAt = now.Add(max(retryAfter, verdict.Remember) + rand.N(retryAfter))
	}
	if kept && verdict.Drop {
		c.remove(element)
	}
	if refresh {
		kind := RefreshFailed
		if verdict.Drop {
			kind = Dropped
		}
		c.config.Observe(Event{Kind: kind, Err: err})
	}
	if verdict.Remember <= 0 {
		return
	}
	if len(c.failures) >= maxFailures {
		for other := range c.failures {
			delete(c.failures, other)
			break
		}
	}
	c.failures[key] = failure{err: err, until: now.Add(verdict.Remember), ticket: t.Expires}
}

func (c *Cache[K, V]) remove(element *list.Element) {
	e := element.Value.(*entry[K, V])
	delete(c.entries, e.key)
	c.recent.Remove(element)
	c.bytes -= e.bytes()
}

// sweep drops what is over and returns, of the entries that are to be refreshed, the one that expires first.
func (c *Cache[K, V]) sweep(now time.Time) (urgent K, found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, f := range c.failures {
		if !now.Before(f.until) {
			delete(c.failures, key)
		}
	}
	var first time.Time
	var next *list.Element
	for element := c.recent.Front(); element != nil; element = next {
		next = element.Next()
		e := element.Value.(*entry[K, V])
		if e.expires.Sub(now) <= minLeft {
			c.remove(element)
			c.config.Observe(Event{Kind: Evicted})
			continue
		}
		if c.due(e, now) && (!found || e.expires.Before(first)) {
			urgent, first, found = e.key, e.expires, true
		}
	}
	return urgent, found
}

func (c *Cache[K, V]) due(e *entry[K, V], now time.Time) bool {
	if now.Before(e.refreshAt) || !e.ticket.Expires.IsZero() && !now.Before(e.ticket.Expires) {
		return false
	}
	_, flying := c.flights[e.key]
	return !flying
}

// refresh starts a fetch behind what is kept, which stays in use until the fetch has ended.
func (c *Cache[K, V]) refresh(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	element, ok := c.entries[key]
	if !ok || !c.due(element.Value.(*entry[K, V]), now) {
		return // it left, or was fetched, while the pace was waited for
	}
	e := element.Value.(*entry[K, V])
	c.config.Observe(Event{Kind: Refreshing, Late: now.Sub(e.refreshAt)})
	c.start(key, e.ticket, true)
}
