package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/lanyard-id/lanyard/internal/credcache"
)

const (
	// failureHolds is how long a fetch that failed by the pod's fault keeps its place.
	failureHolds = 10 * time.Second
	// maxPodQueue is how many fetches of one pod may be under way or waiting.
	maxPodQueue = 1024

	// How long a failure is remembered: that of a call, one for which the token or its association is to blame, and the
	// longest that EKS Auth may ask for.
	rememberFailure = time.Second
	rememberRefusal = 2 * time.Second
	maxRetryAfter   = time.Minute

	// How often Check is tried until it succeeds.
	checkEvery = 5 * time.Second
)

// errThrottled is a fetch that had to wait for longer than it could.
var errThrottled = errors.New("limit of fetches")

// fetch asks EKS Auth for what belongs to a ticket, within the limits of the pod and the node.
func (a *Agent) fetch(ctx context.Context, t credcache.Ticket) (*answer, time.Time, error) {
	release, err := a.pods.acquire(ctx, t.Holder)
	if err != nil {
		a.config.Metrics.throttles.WithLabelValues("pod").Inc()
		return nil, time.Time{}, err
	}
	if err := a.node.Wait(ctx); err != nil {
		release(0)
		a.config.Metrics.throttles.WithLabelValues("node").Inc()
		return nil, time.Time{}, fmt.Errorf("%w of the node: %w", errThrottled, err)
	}
	start := time.Now()
	c, err := a.config.Fetch(ctx, string(t.Token))
	a.config.Metrics.called(err, time.Since(start))
	a.upstream.report(err)
	if isPodsFault(err) {
		release(failureHolds)
	} else {
		release(0)
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	v, err := newAnswer(c)
	return v, c.Expires, err
}

// judge says what follows from an error of fetch.
func judge(err error) credcache.Verdict {
	if errors.Is(err, errThrottled) {
		return credcache.Verdict{}
	}
	api, ok := errors.AsType[*APIError](err)
	switch {
	case !ok: // unreachable, too slow, or not understood
		return credcache.Verdict{Retry: true, Remember: rememberFailure}
	case Irrecoverable(err):
		return credcache.Verdict{Drop: true, Remember: rememberRefusal}
	}
	return credcache.Verdict{
		Retry:    api.Status >= http.StatusInternalServerError && api.RetryAfter == 0,
		Remember: max(rememberFailure, min(api.RetryAfter, maxRetryAfter)),
	}
}

// isPodsFault reports whether an error is one that a pod can cause as often as it likes. What is forbidden, by status, is
// so to the agent itself.
func isPodsFault(err error) bool {
	api, ok := errors.AsType[*APIError](err)
	return ok && api.Fault() == "client" && api.Code != "ThrottlingException" && api.Status != http.StatusForbidden
}

// pods counts the fetches under way of each pod that has any.
type pods struct {
	each int // how many one pod may have

	mu     sync.Mutex
	byName map[string]*podFetches
}

type podFetches struct {
	places chan struct{} // one is in it for each fetch under way
	users  int           // of this struct; guarded by pods.mu
}

// acquire waits for a place, which is given back some time after release is called.
func (p *pods) acquire(ctx context.Context, name string) (release func(after time.Duration), err error) {
	p.mu.Lock()
	if p.byName == nil {
		p.byName = map[string]*podFetches{}
	}
	f, ok := p.byName[name]
	if !ok {
		f = &podFetches{places: make(chan struct{}, p.each)}
		p.byName[name] = f
	}
	if f.users >= p.each+maxPodQueue {
		p.mu.Unlock()
		return nil, fmt.Errorf("%w of the pod: too many wait", errThrottled)
	}
	f.users++
	p.mu.Unlock()
	select {
	case f.places <- struct{}{}:
	case <-ctx.Done():
		p.leave(name, f)
		return nil, fmt.Errorf("%w of the pod: %w", errThrottled, ctx.Err())
	}
	free := func() {
		<-f.places
		p.leave(name, f)
	}
	return func(after time.Duration) {
		if after == 0 {
			free()
			return
		}
		time.AfterFunc(after, free)
	}, nil
}

func (p *pods) leave(name string, f *podFetches) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.users--; f.users == 0 {
		delete(p.byName, name)
	}
}

// upstream is whether EKS Auth can be asked.
type upstream struct {
	mu      sync.Mutex
	unknown bool // nobody has tried yet
	err     error
}

// report takes note of how a call went. That EKS Auth refuses a pod is proof that it works.
func (u *upstream) report(err error) {
	if isPodsFault(err) {
		err = nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unknown, u.err = false, err
}

func (u *upstream) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.unknown {
		return errors.New("not tried yet")
	}
	return u.err
}

// checkUpstream calls Check until it succeeds, so that it is known before the first pod comes whether EKS Auth can be asked.
func (a *Agent) checkUpstream(ctx context.Context) {
	if a.config.Check == nil {
		return
	}
	for {
		bounded, cancel := context.WithTimeout(ctx, checkEvery)
		err := a.config.Check(bounded)
		cancel()
		if ctx.Err() != nil {
			return
		}
		a.upstream.report(err)
		if err == nil {
			return
		}
		a.log.error(ctx, time.Now(), foldKey{class: "check"}, "eks auth cannot be asked", slog.Any("err", err))
		select {
		case <-time.After(checkEvery):
		case <-ctx.Done():
			return
		}
	}
}
