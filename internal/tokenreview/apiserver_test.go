package tokenreview_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/tokenreview"
)

const subject = "system:serviceaccount:web:app"

var claims = &idtoken.Claims{Subject: subject, Audience: []string{"sts.amazonaws.com", "other"}}

// answering returns an API server that gives one answer.
func answering(t *testing.T, status int, body string) *tokenreview.APIServer {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return tokenreview.NewAPIServer(s.URL, s.Client())
}

// status is a TokenReview with the status.
func status(text string) string {
	return `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","metadata":{},"spec":{"token":"t"},"status":` + text + `}`
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	const user = `"user":{"username":"` + subject + `","uid":"1","groups":["system:authenticated"]}`
	for _, c := range []struct {
		name string
		code int
		body string
		want error
		says string
	}{
		{"an honoured token", 201, status(`{"authenticated":true,` + user + `,"audiences":["other"]}`), nil, ""},
		{"an honoured token, from who answers 200", 200, status(`{"authenticated":true,` + user + `,"audiences":["sts.amazonaws.com"]}`), nil, ""},
		{"a revoked token", 201, status(`{"user":{},"error":"[service account token has been invalidated]"}`), idtoken.ErrRevoked, "has been invalidated"},
		{"a token that is refused without a reason", 201, status(`{"authenticated":false}`), idtoken.ErrRevoked, "nothing more"},
		{"a reason of any length", 201, status(`{"error":"` + strings.Repeat("x", 1000) + `"}`), idtoken.ErrRevoked, strings.Repeat("x", 300) + "…"},
		{"no status", 201, status(`{}`), idtoken.ErrRevoked, ""},
		{"somebody else's token", 201, status(`{"authenticated":true,"user":{"username":"admin"},"audiences":["other"]}`), idtoken.ErrRevoked, `"admin"`},
		{"nobody's token", 201, status(`{"authenticated":true,"audiences":["other"]}`), idtoken.ErrRevoked, ""},
		{"a token for other audiences", 201, status(`{"authenticated":true,` + user + `,"audiences":["https://kubernetes"]}`), idtoken.ErrRevoked, "https://kubernetes"},
		{"an authenticator that knows no audiences", 201, status(`{"authenticated":true,` + user + `}`), idtoken.ErrRevoked, ""},
		{"members by another case", 201, `{"Kind":"TokenReview","status":{"Authenticated":true,` + user + `,"audiences":["other"]}}`, idtoken.ErrUnreviewed, ""},
		{"a member twice", 201, status(`{"authenticated":false,"authenticated":true,` + user + `,"audiences":["other"]}`), idtoken.ErrUnreviewed, ""},
		{"another kind of object", 201, `{"kind":"Status","status":{"authenticated":true}}`, idtoken.ErrUnreviewed, `"Status"`},
		{"no object", 201, `ok`, idtoken.ErrUnreviewed, ""},
		{"no permission", 403, `{"kind":"Status","message":"User \"x\" cannot create resource \"tokenreviews\"","code":403}`, idtoken.ErrUnreviewed, "cannot create"},
		{"no authentication", 401, `{"kind":"Status","message":"Unauthorized","code":401}`, idtoken.ErrUnreviewed, "401"},
		{"a proxy's page", 502, `<html>`, idtoken.ErrUnreviewed, "502"},
		{"a review with a status that is an error's", 500, status(`{"authenticated":true,` + user + `,"audiences":["other"]}`), idtoken.ErrUnreviewed, ""},
		{"a redirect", 307, "", idtoken.ErrUnreviewed, "307"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := answering(t, c.code, c.body).Review(t.Context(), "the-token", claims)
			if c.want == nil && err != nil || !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "the-token") || len(err.Error()) > 600) {
				t.Errorf("it says %v, want %q, and not the token", err, c.says)
			}
		})
	}
}

func TestTheQuestion(t *testing.T) {
	t.Parallel()
	var got map[string]any
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.URL.Path != "/prefix/apis/authentication.k8s.io/v1/tokenreviews" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s of %s", r.Method, r.URL, r.Header.Get("Content-Type"))
		}
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	err := tokenreview.NewAPIServer(s.URL+"/prefix/", s.Client()).Review(t.Context(), "the-token", claims)
	if !errors.Is(err, idtoken.ErrUnreviewed) {
		t.Errorf("no answer is %v", err)
	}
	want := map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"spec": map[string]any{"token": "the-token", "audiences": []any{"sts.amazonaws.com", "other"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// roundTripper is an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAnAPIServerIsNotFlooded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var open atomic.Int32
		s := tokenreview.NewAPIServer("https://kubernetes", &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			open.Add(1)
			defer open.Add(-1)
			<-r.Context().Done()
			return nil, r.Context().Err()
		})})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		for range 100 {
			go func() {
				if err := s.Review(ctx, "t", claims); !errors.Is(err, idtoken.ErrUnreviewed) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			}()
		}
		synctest.Wait()
		if n := open.Load(); n != 32 {
			t.Errorf("%d reviews are under way", n)
		}
		<-ctx.Done()
		synctest.Wait()
		if n := open.Load(); n != 0 {
			t.Errorf("%d reviews are under way in the end", n)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(201, status(`{"authenticated":true,"user":{"username":"`+subject+`"},"audiences":["other"]}`))
	f.Add(201, status(`{"error":"no"}`))
	f.Add(403, `{"kind":"Status","message":"no"}`)
	f.Fuzz(func(t *testing.T, code int, body string) {
		s := tokenreview.NewAPIServer("https://kubernetes", &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Status: fmt.Sprint(code), Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		})})
		err := s.Review(t.Context(), "t", claims)
		if err != nil {
			if errors.Is(err, idtoken.ErrRevoked) == errors.Is(err, idtoken.ErrUnreviewed) {
				t.Errorf("%v is not one kind of error", err)
			}
			return
		}
		// encoding/json is more lenient: what it does not find there, nobody does.
		var is struct {
			Status struct {
				Authenticated bool
				User          struct{ Username string }
			}
		}
		if err := json.Unmarshal([]byte(body), &is); err != nil || !is.Status.Authenticated || is.Status.User.Username != subject {
			t.Errorf("%q is taken for yes", body)
		}
	})
}
