package agent

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

const (
	// podIdentityAudience is what pods' tokens for EKS Auth are for.
	podIdentityAudience = "pods.eks.amazonaws.com"
	// keysEvery is how often keys are loaded again, and keysAfterMiss how soon after a token with an unknown key.
	keysEvery     = 5 * time.Minute
	keysAfterMiss = 30 * time.Second
	loadTimeout   = 10 * time.Second
)

// Keys are the public keys of the cluster that the agent serves, to verify pods' tokens with. It is safe for concurrent use.
type Keys struct {
	load    func(ctx context.Context) ([]byte, error)
	log     *slog.Logger
	current atomic.Pointer[idtoken.Static] // nil until they were loaded once
	missed  chan struct{}                  // has room for one: a token's key was not among them
}

// NewKeys makes an empty set; load gets it as a JWK set (RFC 7517). Run fills it.
func NewKeys(load func(ctx context.Context) ([]byte, error), log *slog.Logger) *Keys {
	return &Keys{load: load, log: log, missed: make(chan struct{}, 1)}
}

// Run loads the keys, and again every few minutes and sometime after a token with an unknown key has come, until ctx ends. Old
// keys are kept when that fails.
func (k *Keys) Run(ctx context.Context) {
	failing := false
	for {
		n, err := k.reload(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			k.log.LogAttrs(ctx, slog.LevelWarn, "keys not loaded", slog.Any("err", err))
		case err == nil && (failing || n >= 0):
			k.log.LogAttrs(ctx, slog.LevelInfo, "keys loaded", slog.Int("keys", n))
		}
		failing = err != nil
		wait := keysEvery
		if failing {
			wait = keysAfterMiss
		}
		if !k.pause(ctx, wait) {
			return
		}
	}
}

// pause waits some time, or less if a key is missed, but never less than keysAfterMiss. It returns false when ctx ends.
func (k *Keys) pause(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(keysAfterMiss + rand.N(keysAfterMiss/4))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	timer.Reset(wait - keysAfterMiss + rand.N(keysAfterMiss))
	select {
	case <-timer.C:
	case <-k.missed:
	case <-ctx.Done():
		return false
	}
	return true
}

// reload returns how many keys there are, or -1 if they are as many as before.
func (k *Keys) reload(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	document, err := k.load(ctx)
	if err != nil {
		return 0, err
	}
	set, err := idtoken.ParseJWKS(document)
	if err != nil {
		return 0, err
	}
	if len(set.Keys) == 0 {
		return 0, fmt.Errorf("%w: the set has none that can be used", idtoken.ErrKeys)
	}
	before := k.current.Swap(&idtoken.Static{Set: set})
	if before != nil && len(before.Set.Keys) == len(set.Keys) {
		return -1, nil
	}
	return len(set.Keys), nil
}

// Verify checks a token in full, with the keys at hand: it never waits for others. The keys are the cluster's, so the
// issuer is whatever they sign for. Errors wrap idtoken.ErrKeys if the token's key is not among them.
func (k *Keys) Verify(ctx context.Context, token string) (*idtoken.Claims, error) {
	keys := k.current.Load()
	if keys == nil {
		return nil, fmt.Errorf("%w: none was loaded yet", idtoken.ErrKeys)
	}
	said, err := idtoken.ParseInsecure(token)
	if err != nil {
		return nil, err
	}
	if _, err := keys.Keys(ctx, said.KeyID); err != nil {
		select {
		case k.missed <- struct{}{}:
		default:
		}
		return nil, err
	}
	return idtoken.Verify(ctx, token, idtoken.Expect{Issuer: said.Issuer, Audiences: []string{podIdentityAudience}, Now: time.Now()}, keys)
}
