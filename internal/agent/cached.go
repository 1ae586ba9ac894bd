package agent

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/lanyard-id/lanyard/internal/credcache"
)

// NewCache keeps the credentials that fetch gets, by token, for Config.Fetch to be its Get. retain is the age at which
// they are refreshed, size how many are kept (zero for either keeps none), and refreshes go at most perSecond.
func NewCache(fetch func(ctx context.Context, token string) (Credentials, error), retain time.Duration, size, perSecond int, m *Metrics) *credcache.Cache[string, Credentials] {
	if retain <= 0 {
		size = 0
	}
	return credcache.New(credcache.Config[string, Credentials]{
		Fetch: func(ctx context.Context, token string) (Credentials, time.Time, error) {
			c, err := fetch(ctx, token)
			return c, c.Expires, err
		},
		Irrecoverable: Irrecoverable,
		Retain:        retain,
		MaxSize:       size,
		Wait:          rate.NewLimiter(rate.Limit(perSecond), 1).Wait,
		Observe:       m.Observe,
	})
}
