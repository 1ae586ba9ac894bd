package webhook_test

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/lanyard-id/lanyard/internal/webhook"
)

func TestAssociationsAreListedAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := metrics(t)
		type controlPlane struct {
			list  []webhook.Subject
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
			List:  func(context.Context) ([]webhook.Subject, error) { return get().list, get().down },
			Find:  func(context.Context, webhook.Subject) (bool, error) { return get().found, get().down },
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
		set(controlPlane{list: []webhook.Subject{{Namespace: "web", ServiceAccount: "reader"}}})
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
		set(controlPlane{list: []webhook.Subject{{Namespace: "w*b", ServiceAccount: "*"}}})
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

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"web", "web", true}, {"web", "we", false}, {"web", "webs", false}, {"*", "", true}, {"*", "web", true}, {"", "", true}, {"", "x", false},
		{"w*", "web", true}, {"w*", "w", true}, {"w*", "aw", false}, {"*b", "web", true}, {"*b", "webs", false},
		{"w*b", "web", true}, {"w*b", "wb", true}, {"w*b", "w", false}, {"aa*aa", "aaa", false}, {"a*b*c", "aXbYbZc", true}, {"a*b*c", "acb", false},
		{"team-*-*", "team-a-b", true}, {"team-*-*", "team-a", false}, {"*a*", "bab", true}, {"*a*", "bbb", false}, {"*ab", "aab", true},
	} {
		if got := webhook.Fits(c.pattern, c.name); got != c.want {
			t.Errorf("%q and %q: got %v", c.pattern, c.name, got)
		}
	}
}

// A pattern is what it would be as a regular expression.
func FuzzPattern(f *testing.F) {
	f.Add("team-*", "team-a")
	f.Add("a*b*a", "aba")
	f.Add("**", "")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		parts := strings.Split(pattern, "*")
		if len(parts) > 20 || len(name) > 300 || !utf8.ValidString(pattern) || !utf8.ValidString(name) {
			return
		}
		for i, p := range parts {
			parts[i] = regexp.QuoteMeta(p)
		}
		want := regexp.MustCompile(`(?s)^(?:` + strings.Join(parts, ".*") + `)$`).MatchString(name)
		if got := webhook.Fits(pattern, name); got != want {
			t.Errorf("%q and %q: got %v, want %v", pattern, name, got, want)
		}
	})
}
