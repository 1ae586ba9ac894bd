package webhook_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
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
			Every: time.Minute, ListTimeout: time.Second, FindTimeout: time.Second, Metrics: m, Log: slog.New(slog.DiscardHandler),
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
