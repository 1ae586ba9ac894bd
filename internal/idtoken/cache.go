package idtoken

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// How long a Cache keeps what it fetched.
const (
	minLife     = time.Minute    // however short the issuer's max-age
	defaultLife = time.Hour      // of a key set that comes without max-age
	maxLife     = 24 * time.Hour // however long the issuer's max-age
	// maxStale bounds how long keys serve beyond their life while every refresh fails. It makes an outage of the issuer
	// harmless for a day, and bounds for how long keys verify that the issuer may have withdrawn meanwhile.
	maxStale = 24 * time.Hour
	// missInterval is how often an unknown key ID may cause a fetch ahead of time: anyone can make up key IDs.
	missInterval = time.Minute

	minBackoff = time.Second
	maxBackoff = time.Minute

	fetchTimeout = 10 * time.Second
)

// CacheConfig is what a Cache needs.
type CacheConfig struct {
	// Client is required. Its redirect policy and its time-out are replaced: redirects are refused, and a fetch of both
	// documents takes at most 10 s. Thumbprints need its Transport to be nil or an *http.Transport.
	Client     *http.Client
	Now        func() time.Time // time.Now when nil
	MaxIssuers int              // sets kept, least recently used go first; 1,000 when zero
	MaxBytes   int64            // of one document; 1 MiB when zero
}

// Cache fetches and keeps the key sets of issuers: one fetch at a time per issuer, cache-control honoured within
// bounds (a minute and a day; an hour without it), old keys kept for up to a day when a refresh fails, failures
// remembered with backoff (a second to a minute). It is safe for concurrent use.
type Cache struct {
	fetcher    fetcher
	now        func() time.Time
	maxIssuers int

	mu      sync.Mutex
	entries map[cacheKey]*list.Element // of *entry
	recent  *list.List                 // of *entry, most recently used first
}

// cacheKey tells sets apart by what vouched for them, too: a certificate that one account's thumbprint accepts says
// nothing to another account that registered the same issuer.
type cacheKey struct{ url, thumbprints string }

// entry is what is known of one issuer. Its fields are guarded by Cache.mu.
type entry struct {
	key    cacheKey
	flight *flight // nil unless a fetch is under way

	keys    []jose.JSONWebKey
	fetched time.Time // when keys came; zero if they never did
	life    time.Duration

	tried    time.Time // when the last fetch ended
	failures int       // since the last success
	backoff  time.Duration
	err      error // of the last fetch
}

// flight is a fetch that callers wait for.
type flight struct{ done chan struct{} }

// NewCache makes an empty cache.
func NewCache(c CacheConfig) *Cache {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxIssuers == 0 {
		c.MaxIssuers = 1000
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 20
	}
	return &Cache{
		fetcher:    newFetcher(c.Client, c.MaxBytes),
		now:        c.Now,
		maxIssuers: c.MaxIssuers,
		entries:    map[cacheKey]*list.Element{},
		recent:     list.New(),
	}
}

// Issuer returns the KeySource of an issuer by its URL (https only). The caller vouches that the URL is registered: nothing else
// decides what is fetched. thumbprints, SHA-1 in hex, are the certificates of which one must be in the served chain
// when the system's roots do not vouch for it; none means that only the roots count.
func (c *Cache) Issuer(url string, thumbprints []string) KeySource {
	sorted := make([]string, len(thumbprints))
	for i, t := range thumbprints {
		sorted[i] = strings.ToLower(t)
	}
	slices.Sort(sorted)
	return cachedIssuer{c, cacheKey{url, strings.Join(slices.Compact(sorted), " ")}}
}

// cachedIssuer is the KeySource of one issuer in a Cache.
type cachedIssuer struct {
	cache *Cache
	key   cacheKey
}

// Keys implements KeySource. A caller whose context ends leaves; the fetch that it waited for goes on for the others.
func (s cachedIssuer) Keys(ctx context.Context, keyID string) ([]jose.JSONWebKey, error) {
	c := s.cache
	waited := false
	for {
		keys, wait, err := c.look(s.key, keyID, waited)
		if wait == nil {
			return keys, err
		}
		select {
		case <-wait.done:
			waited = true
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: wait for the keys of %s: %w", ErrKeys, s.key.url, context.Cause(ctx))
		}
	}
}

// look answers from memory, or starts or joins the fetch that the caller must wait for. waited says that the caller has
// waited already: then memory is as good as it gets.
func (c *Cache) look(key cacheKey, keyID string, waited bool) ([]jose.JSONWebKey, *flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	e := c.entry(key)
	known := keyID == "" || len(selectKeys(e.keys, keyID)) > 0
	if !waited && e.flight != nil && !(known && e.fresh(now)) {
		return nil, e.flight, nil
	}
	switch {
	case !waited && e.mustFetch(known, now):
		c.fetch(e)
		return nil, e.flight, nil
	case !e.usable(now):
		return nil, nil, e.failure(key.url)
	case !known:
		return nil, nil, fmt.Errorf("keys of %s: %w", key.url, unknownKey(keyID))
	}
	if e.flight == nil && e.mayRefresh(now) {
		c.fetch(e)
	}
	if keyID == "" {
		return e.keys, nil, nil
	}
	return selectKeys(e.keys, keyID), nil, nil
}

// entry finds or makes the entry of an issuer and marks it as used.
func (c *Cache) entry(key cacheKey) *entry {
	if element, ok := c.entries[key]; ok {
		c.recent.MoveToFront(element)
		return element.Value.(*entry)
	}
	for c.recent.Len() >= c.maxIssuers {
		oldest := c.recent.Back()
		delete(c.entries, oldest.Value.(*entry).key)
		c.recent.Remove(oldest)
	}
	e := &entry{key: key}
	c.entries[key] = c.recent.PushFront(e)
	return e
}

// fresh reports whether the keys are within their life.
func (e *entry) fresh(now time.Time) bool {
	return !e.fetched.IsZero() && now.Before(e.fetched.Add(e.life))
}

// usable reports whether there are keys that may still be used if a refresh fails.
func (e *entry) usable(now time.Time) bool {
	return !e.fetched.IsZero() && now.Before(e.fetched.Add(e.life+maxStale))
}

// backingOff reports whether the last fetch failed so recently that the next must wait.
func (e *entry) backingOff(now time.Time) bool {
	return e.failures > 0 && now.Before(e.tried.Add(e.backoff))
}

// mustFetch reports whether a caller has to wait for a fetch before it can be answered.
func (e *entry) mustFetch(known bool, now time.Time) bool {
	switch {
	case e.backingOff(now):
		return false
	case !e.fresh(now):
		return true
	}
	return !known && !now.Before(e.tried.Add(missInterval))
}

// mayRefresh reports whether keys in the last quarter of their life are due for a refresh that nobody waits for.
func (e *entry) mayRefresh(now time.Time) bool {
	return !e.backingOff(now) && !now.Before(e.fetched.Add(e.life-e.life/4))
}

func (e *entry) failure(url string) error {
	if e.err == nil { // the entry was evicted and made anew while its caller waited
		return fmt.Errorf("%w: the cache of issuers is too small: %s was evicted", ErrKeys, url)
	}
	return e.err
}

// fetch starts a flight. It has a time limit of its own and outlives the callers that wait for it.
func (c *Cache) fetch(e *entry) {
	f := &flight{done: make(chan struct{})}
	e.flight = f
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
		defer cancel()
		keys, life, err := c.fetcher.issuer(ctx, e.key)
		c.mu.Lock()
		defer c.mu.Unlock()
		e.land(keys, life, err, c.now())
		close(f.done)
	}()
}

// land records how a fetch went. A jittered backoff keeps replicas, and the issuers that share a host, apart.
func (e *entry) land(keys []jose.JSONWebKey, life time.Duration, err error, now time.Time) {
	e.flight, e.tried = nil, now
	if err == nil {
		e.keys, e.fetched, e.life = keys, now, life
		e.failures, e.err = 0, nil
		return
	}
	if !errors.Is(err, ErrKeys) {
		err = fmt.Errorf("%w: %w", ErrKeys, err)
	}
	e.failures++
	e.err = fmt.Errorf("keys of %s: %w", e.key.url, err)
	longest := min(minBackoff<<min(e.failures-1, 10), maxBackoff)
	e.backoff = longest/2 + rand.N(longest/2)
}
