// Package tokenreview shows service account tokens to the API server that issued them: signature and times say nothing of
// whether a token's pod, service account or node still exists. The answers are remembered for a while.
package tokenreview

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

const (
	// Timeout is the longest that a review takes, with all its waiting.
	Timeout = 3 * time.Second
	// MinEvery is the least that Config.Every may be: less could not be kept.
	MinEvery = 15 * time.Second

	// apiServerRemembers is how long kube-apiserver itself takes a token for good that it has found so. It is no setting
	// (TokenSuccessCacheTTL of its authentication options).
	apiServerRemembers = 10 * time.Second
	// refusedFor is how long a refusal is remembered: an API server may have been behind.
	refusedFor = 5 * time.Second
	// maxRemembered is how many answers are remembered, at about 150 bytes each. The older half is forgotten for more.
	maxRemembered = 50_000
	// maxUnderWay is how many tokens may be under review at a time.
	maxUnderWay = 4096
)

var errBusy = fmt.Errorf("%w: too many tokens are under review", idtoken.ErrUnreviewed)

// Config is what Reviews need.
type Config struct {
	// Every is how long a token may be taken for good after its API server has ceased to honour it; at least MinEvery. What
	// kube-apiserver remembers, and the time of the review, is part of it: an answer is remembered for 13 s less.
	Every time.Duration
	// Ask has a verified token reviewed. Errors that wrap idtoken.ErrRevoked refuse it; all others leave it undecided. It is
	// called without a caller's context, since the answer is for all who wait for it. Required.
	Ask func(ctx context.Context, token string, c *idtoken.Claims) error
}

// Reviews remembers what API servers have said of tokens. Of a token it keeps the digest. It is safe for concurrent use.
type Reviews struct {
	ask  func(ctx context.Context, token string, c *idtoken.Claims) error
	keep time.Duration // from when the question was asked

	mu sync.Mutex
	// Answers are added to recent. When it is as old as the answers live, or half of all that there may be, it becomes older, and
	// what was older is gone: nothing has to look for what is over.
	recent, older map[digest]answer
	turned        time.Time // when recent was begun
	underWay      map[digest]*review
}

type digest [sha256.Size]byte

// answer is nil for a token that is honoured, or why it is refused.
type answer struct {
	err   error
	until time.Time
}

// review is one under way. err may be read once done is closed.
type review struct {
	done chan struct{}
	err  error
}

// New makes Reviews that remember nothing yet. An error is about Config.Every.
func New(c Config) (*Reviews, error) {
	if c.Every < MinEvery {
		return nil, fmt.Errorf("tokens cannot be reviewed every %s: an API server itself remembers them for %s, so that %s is the least",
			c.Every, apiServerRemembers, MinEvery)
	}
	return &Reviews{
		ask: c.Ask, keep: c.Every - apiServerRemembers - Timeout, recent: map[digest]answer{}, underWay: map[digest]*review{},
	}, nil
}

// Review returns nil if the API server honours a token, and whether that was remembered. The caller has verified the token, and c
// is what it says. Callers with the same token share one review. Errors wrap idtoken.ErrRevoked or idtoken.ErrUnreviewed.
func (r *Reviews) Review(ctx context.Context, token string, c *idtoken.Claims) (remembered bool, err error) {
	d := digest(sha256.Sum256([]byte(token)))
	r.mu.Lock()
	if a, ok := r.recall(d, time.Now()); ok {
		r.mu.Unlock()
		return true, a.err
	}
	this, ok := r.underWay[d]
	if !ok {
		if len(r.underWay) >= maxUnderWay {
			r.mu.Unlock()
			return false, errBusy
		}
		this = r.start(d, token, c)
	}
	r.mu.Unlock()
	select {
	case <-this.done:
		return false, this.err
	case <-ctx.Done():
		return false, fmt.Errorf("%w: %w", idtoken.ErrUnreviewed, context.Cause(ctx))
	}
}

// start starts the review of a token that is not under review.
func (r *Reviews) start(d digest, token string, c *idtoken.Claims) *review {
	this := &review{done: make(chan struct{})}
	r.underWay[d] = this
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), Timeout)
		defer cancel()
		asked := time.Now()
		this.err = r.ask(ctx, token, c)
		if this.err != nil && !errors.Is(this.err, idtoken.ErrRevoked) && !errors.Is(this.err, idtoken.ErrUnreviewed) {
			this.err = fmt.Errorf("%w: %w", idtoken.ErrUnreviewed, this.err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.underWay, d)
		switch {
		case this.err == nil:
			r.remember(d, answer{until: asked.Add(r.keep)}, asked)
		case errors.Is(this.err, idtoken.ErrRevoked):
			r.remember(d, answer{err: this.err, until: asked.Add(refusedFor)}, asked)
		}
		close(this.done)
	}()
	return this
}

func (r *Reviews) recall(d digest, now time.Time) (answer, bool) {
	a, ok := r.recent[d]
	if !ok {
		a, ok = r.older[d]
	}
	return a, ok && now.Before(a.until)
}

func (r *Reviews) remember(d digest, a answer, now time.Time) {
	if now.Sub(r.turned) >= max(r.keep, refusedFor) || len(r.recent) >= maxRemembered/2 {
		r.recent, r.older, r.turned = map[digest]answer{}, r.recent, now
	}
	r.recent[d] = a
}
