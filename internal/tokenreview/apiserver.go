package tokenreview

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

const (
	// path is where API servers take reviews (Kubernetes API Reference, "TokenReview").
	path = "/apis/authentication.k8s.io/v1/tokenreviews"
	// maxAnswer bounds what is read of an answer, in bytes, and maxText what is kept of a text in it.
	maxAnswer = 1 << 20
	maxText   = 300
	// maxAtOnce is how many reviews of one API server are under way at a time; others wait.
	maxAtOnce = 32
)

// APIServer is the API server of a cluster, at which tokens are reviewed. It is safe for concurrent use.
type APIServer struct {
	url    string
	client *http.Client
	places chan struct{} // one is in it for each review under way
}

// NewAPIServer returns the API server at a URL. The client brings what it is authenticated with, as somebody who may create
// tokenreviews; redirects are not followed.
func NewAPIServer(url string, client *http.Client) *APIServer {
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &APIServer{url: strings.TrimRight(url, "/") + path, client: &own, places: make(chan struct{}, maxAtOnce)}
}

// reviewed is a TokenReview. A member that is not there refuses.
type reviewed struct {
	Kind   string `json:"kind"`
	Status struct {
		Authenticated bool `json:"authenticated"`
		User          struct {
			Username string `json:"username"`
		} `json:"user"`
		Audiences []string `json:"audiences"`
		Error     string   `json:"error"`
	} `json:"status"`
	Message string `json:"message"` // of kind Status
}

// Review asks whether a token is honoured for its own audiences, as its own subject. Errors wrap idtoken.ErrRevoked if it is not,
// and idtoken.ErrUnreviewed if that could not be found out before ctx ended.
func (s *APIServer) Review(ctx context.Context, token string, c *idtoken.Claims) error {
	got, err := s.ask(ctx, token, c.Audience)
	if err != nil {
		return fmt.Errorf("%w: %w", idtoken.ErrUnreviewed, err)
	}
	switch is := got.Status; {
	case !is.Authenticated && is.Error != "":
		return fmt.Errorf("%w: %s", idtoken.ErrRevoked, clip(is.Error))
	case !is.Authenticated:
		return fmt.Errorf("%w, and says nothing more", idtoken.ErrRevoked)
	case is.User.Username != c.Subject:
		return fmt.Errorf("%w: it is %q there, not %q", idtoken.ErrRevoked, clip(is.User.Username), c.Subject)
	case !slices.ContainsFunc(is.Audiences, func(a string) bool { return slices.Contains(c.Audience, a) }):
		// An authenticator that does not look at audiences says so by this.
		return fmt.Errorf("%w for %q, but for %q", idtoken.ErrRevoked, c.Audience, is.Audiences[:min(len(is.Audiences), 3)])
	}
	return nil
}

func (s *APIServer) ask(ctx context.Context, token string, audiences []string) (*reviewed, error) {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other reviews: %w", ctx.Err())
	}
	type spec struct {
		Token     string   `json:"token"`
		Audiences []string `json:"audiences"`
	}
	body, err := json.Marshal(struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       spec   `json:"spec"`
	}{"authentication.k8s.io/v1", "TokenReview", spec{token, audiences}})
	if err != nil {
		return nil, fmt.Errorf("encode review: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	// An empty list is not sent, and lets net/http repeat the call when the server has just closed the idle connection.
	r.Header["Idempotency-Key"] = []string{}
	response, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read review: %w", err)
	}
	var got reviewed
	err = json.Unmarshal(text, &got)
	switch {
	case response.StatusCode != http.StatusCreated && response.StatusCode != http.StatusOK:
		// What is not Kubernetes' Status, such as a proxy's page, has no message.
		return nil, fmt.Errorf("%s answers %s: %s", s.url, response.Status, clip(got.Message))
	case err != nil:
		return nil, fmt.Errorf("read review: %w", err)
	case got.Kind != "TokenReview":
		return nil, fmt.Errorf("%s answers a %q, not a TokenReview", s.url, clip(got.Kind))
	}
	return &got, nil
}

// clip bounds a text that others chose.
func clip(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
