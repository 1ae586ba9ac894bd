package webhook_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-id/lanyard/internal/subject"
	"github.com/lanyard-id/lanyard/internal/webhook"
)

func TestAssociationsAreListedAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := metrics(t)
		type controlPlane struct {
			list  []subject.Subject
			found bool
			down  error
		}
		var mu sync.Mutex
		var current controlPlane
		set := func(c controlPlane) {
			mu.Lock()
			defer mu.Unlock()
			current = c
		}
		get := func() controlPlane {
			mu.Lock()
			defer mu.Unlock()
			return current
		}
		a := webhook.NewAssociations(webhook.AssociationsConfig{
			List:  func(context.Context) ([]subject.Subject, error) { return get().list, get().down },
			Find:  func(context.Context, subject.Subject) (bool, error) { return get().found, get().down },
			Every: time.Minute, Answered: func(error) bool { return true }, ListTimeout: time.Second, FindTimeout: time.Second, Metrics: m, Log: slog.New(slog.DiscardHandler),
		})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go a.Run(ctx)
		check := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if got := a.Memory("web", "reader"); got != want {
				t.Errorf("%s: in memory is %v, want %v", when, got, want)
			}
		}
		check("at first", false)
		set(controlPlane{list: []subject.Subject{{Namespace: "web", ServiceAccount: "reader"}}})
		time.Sleep(50 * time.Second)
		check("before the next list", false)
		time.Sleep(10 * time.Second)
		check("after it", true)
		set(controlPlane{down: errors.New("down")})
		time.Sleep(10 * time.Minute)
		check("while there is no list", true)
		set(controlPlane{})
		time.Sleep(time.Minute)
		check("when it has gone from the list", false)
		set(controlPlane{list: []subject.Subject{{Namespace: "w*b", ServiceAccount: "*"}}})
		time.Sleep(time.Minute)
		check("by a pattern", true)
		set(controlPlane{})
		time.Sleep(time.Minute)
		check("without the pattern", false)
		if ok, err := a.Live(t.Context(), "web", "reader"); ok || err != nil {
			t.Errorf("asked for what is not there: %v, %v", ok, err)
		}
		check("when it was not found", false)
		set(controlPlane{found: true})
		if ok, err := a.Live(t.Context(), "web", "reader"); !ok || err != nil {
			t.Errorf("asked for what is there: %v, %v", ok, err)
		}
		check("when it was found", true)
	})
}

// A replica that has just come is asked for pods once it knows the associations, as those before it do; but it does not wait for ever.
func TestTheFirstListIsWaitedFor(t *testing.T) {
	errDown, errRefused := errors.New("connection refused"), errors.New("there is no such cluster")
	for _, tt := range []struct {
		name   string
		listed func(after time.Duration) error
		synced time.Duration // to the second, after the start
		lists  int           // within the first ten minutes
	}{
		{"the control plane answers", func(time.Duration) error { return nil }, 0, 11},
		{"it comes after ten seconds", func(after time.Duration) error {
			if after < 10*time.Second {
				return errDown
			}
			return nil
		}, 10 * time.Second, 22},
		{"it does not know the cluster yet", func(time.Duration) error { return errRefused }, 0, 11},
		{"it does not come", func(time.Duration) error { return errDown }, 30 * time.Second, 42},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _ := metrics(t)
				start := time.Now()
				var lists atomic.Int64
				a := webhook.NewAssociations(webhook.AssociationsConfig{
					List: func(context.Context) ([]subject.Subject, error) {
						lists.Add(1)
						return nil, tt.listed(time.Since(start))
					},
					Find:  func(context.Context, subject.Subject) (bool, error) { return false, nil },
					Every: time.Minute, Patience: 30 * time.Second, Answered: func(err error) bool { return errors.Is(err, errRefused) },
					ListTimeout: time.Second, FindTimeout: time.Second, Metrics: m, Log: slog.New(slog.DiscardHandler),
				})
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				go a.Run(ctx)
				synctest.Wait()
				for !a.Synced() && time.Since(start) < time.Hour {
					time.Sleep(time.Second / 2)
					synctest.Wait()
				}
				if took := time.Since(start); took < tt.synced || took > tt.synced+time.Second {
					t.Errorf("it was ready after %v, want %v", took, tt.synced)
				}
				time.Sleep(10*time.Minute - time.Since(start))
				synctest.Wait()
				if n := int(lists.Load()); n < tt.lists-2 || n > tt.lists+6 {
					t.Errorf("it asked %d times in ten minutes, want about %d", n, tt.lists)
				}
				if !a.Synced() {
					t.Error("it is not ready any more")
				}
			})
		})
	}
}
