package tokenreview_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/tokenreview"
)

var (
	errGone = fmt.Errorf("%w: the pod is gone", idtoken.ErrRevoked)
	errDown = errors.New("no route to host")
)

// cluster answers questions in virtual time, and counts them.
type cluster struct {
	mu    sync.Mutex
	asked map[string]int
	err   error
	takes time.Duration
}

func (c *cluster) ask(ctx context.Context, token string, _ *idtoken.Claims) error {
	c.mu.Lock()
	c.asked[token]++
	err, takes := c.err, c.takes
	c.mu.Unlock()
	select {
	case <-time.After(takes):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *cluster) answers(err error, takes time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err, c.takes = err, takes
}

// fixture is reviews over a cluster, in a synctest bubble.
type fixture struct {
	*cluster
	*tokenreview.Reviews
	t *testing.T
}

func run(t *testing.T, every time.Duration, f func(*fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{asked: map[string]int{}, takes: 100 * time.Millisecond}
		r, err := tokenreview.New(tokenreview.Config{Every: every, Ask: c.ask})
		if err != nil {
			t.Fatal(err)
		}
		f(&fixture{c, r, t})
		<-time.After(tokenreview.Timeout) // of what is under way
		synctest.Wait()
	})
}

// want checks the answer for a token, and how often it has been asked for by then.
func (f *fixture) want(when, token string, want error, asked int) {
	f.t.Helper()
	_, err := f.Review(f.t.Context(), token, &idtoken.Claims{})
	if !errors.Is(err, want) || want == nil && err != nil {
		f.t.Errorf("%s: got %v, want %v", when, err, want)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked[token] != asked {
		f.t.Errorf("%s: the cluster was asked %d times, want %d", when, f.asked[token], asked)
	}
}

func TestATokenThatIsRevokedIsRefusedInTime(t *testing.T) {
	t.Parallel()
	for _, every := range []time.Duration{tokenreview.MinEvery, 30 * time.Second, 10 * time.Minute} {
		run(t, every, func(f *fixture) {
			f.want("at first", "a", nil, 1)
			f.want("at once again", "a", nil, 1)
			f.answers(errGone, 100*time.Millisecond)
			revoked := time.Now()
			for {
				_, err := f.Review(f.t.Context(), "a", &idtoken.Claims{})
				if errors.Is(err, idtoken.ErrRevoked) {
					break
				}
				if err != nil {
					f.t.Fatal(err)
				}
				<-time.After(100 * time.Millisecond)
			}
			// The API server itself may have been ten seconds behind.
			if took := time.Since(revoked) + 10*time.Second; took > every || took < every-5*time.Second {
				f.t.Errorf("every %s: it is refused after %s", every, took)
			}
		})
	}
}

func TestARefusalIsRememberedForAMoment(t *testing.T) {
	t.Parallel()
	run(t, time.Minute, func(f *fixture) {
		f.answers(errGone, 0)
		f.want("at first", "a", idtoken.ErrRevoked, 1)
		f.want("at once again", "a", idtoken.ErrRevoked, 1)
		f.answers(nil, 0)
		<-time.After(4 * time.Second)
		f.want("four seconds later", "a", idtoken.ErrRevoked, 1)
		<-time.After(time.Second)
		f.want("five seconds later", "a", nil, 2)
	})
}

func TestAClusterThatCannotBeAsked(t *testing.T) {
	t.Parallel()
	run(t, 30*time.Second, func(f *fixture) {
		f.want("while it can be", "a", nil, 1)
		f.answers(errDown, 0)
		f.want("what is remembered counts on", "a", nil, 1)
		f.want("another token does not", "b", idtoken.ErrUnreviewed, 1)
		f.want("and the failure is not remembered", "b", idtoken.ErrUnreviewed, 2)
		<-time.After(17 * time.Second)
		f.want("what was remembered has run out", "a", idtoken.ErrUnreviewed, 2)
		f.answers(nil, 0)
		f.want("it can be asked again", "a", nil, 3)
	})
}

func TestAClusterThatHangs(t *testing.T) {
	t.Parallel()
	run(t, 30*time.Second, func(f *fixture) {
		f.answers(nil, time.Hour)
		start := time.Now()
		f.want("until the time is up", "a", idtoken.ErrUnreviewed, 1)
		if took := time.Since(start); took != tokenreview.Timeout {
			f.t.Errorf("it took %s", took)
		}
		ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
		defer cancel()
		if _, err := f.Review(ctx, "b", &idtoken.Claims{}); !errors.Is(err, idtoken.ErrUnreviewed) || !errors.Is(err, context.DeadlineExceeded) {
			f.t.Errorf("a caller that leaves gets %v", err)
		}
	})
}

func TestCallersShareAReview(t *testing.T) {
	t.Parallel()
	run(t, 30*time.Second, func(f *fixture) {
		f.answers(nil, time.Second)
		ctx, leave := context.WithCancel(f.t.Context())
		var group sync.WaitGroup
		for i := range 50 {
			group.Go(func() {
				if i == 0 {
					if _, err := f.Review(ctx, "a", &idtoken.Claims{}); !errors.Is(err, context.Canceled) {
						f.t.Errorf("who leaves gets %v", err)
					}
					return
				}
				if remembered, err := f.Review(f.t.Context(), "a", &idtoken.Claims{}); err != nil || remembered {
					f.t.Errorf("got %v, %v", remembered, err)
				}
			})
		}
		synctest.Wait()
		leave()
		group.Wait()
		f.want("all of them", "a", nil, 1)
	})
}

func TestReviewsUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	run(t, 30*time.Second, func(f *fixture) {
		f.answers(nil, time.Second)
		var group sync.WaitGroup
		for i := range 4096 {
			group.Go(func() {
				if _, err := f.Review(f.t.Context(), fmt.Sprint(i), &idtoken.Claims{}); err != nil {
					f.t.Error(err)
				}
			})
		}
		synctest.Wait()
		f.want("one too many", "a", idtoken.ErrUnreviewed, 0)
		group.Wait()
		f.want("when they are done", "a", nil, 1)
	})
}

func TestAnswersAreBoundedInNumber(t *testing.T) {
	t.Parallel()
	run(t, time.Hour, func(f *fixture) {
		f.answers(nil, 0)
		for i := range 25_000 { // half of what is remembered
			f.want("", fmt.Sprint(i), nil, 1)
		}
		f.want("the first is remembered", "0", nil, 1)
		for i := range 25_001 {
			f.want("", fmt.Sprint("more", i), nil, 1)
		}
		f.want("the first is forgotten, and asked for", "0", nil, 2)
		f.want("a later one is remembered", "more1", nil, 1)
	})
}

func TestWhatCannotBeKeptIsNotPromised(t *testing.T) {
	t.Parallel()
	for _, every := range []time.Duration{0, -time.Second, tokenreview.MinEvery - 1} {
		if _, err := tokenreview.New(tokenreview.Config{Every: every}); err == nil {
			t.Errorf("tokens are reviewed every %s", every)
		}
	}
}

func BenchmarkRemembered(b *testing.B) {
	r, err := tokenreview.New(tokenreview.Config{Every: time.Hour, Ask: func(context.Context, string, *idtoken.Claims) error { return nil }})
	if err != nil {
		b.Fatal(err)
	}
	token := fmt.Sprintf("%01100d", 1)
	if _, err := r.Review(b.Context(), token, nil); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Review(b.Context(), token, nil); err != nil {
			b.Fatal(err)
		}
	}
}
