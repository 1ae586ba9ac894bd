// Package agent answers the SDKs of a node's pods the way the EKS Pod Identity Agent (v0.1.37) does: it takes a pod's
// token, asks EKS Auth for credentials, keeps them, and hands them on. Statuses and texts are that agent's.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/lanyard-id/lanyard/internal/credcache"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// Where pods find the agent of their node.
const (
	LinkLocalIPv4 = "169.254.170.23"
	LinkLocalIPv6 = "fd00:ec2::23"
	Path          = "/v1/credentials"
)

// maxEntryBytes is how large the entries of the cache may be on average, in bytes; most have a quarter of that.
const maxEntryBytes = 16 << 10

// Credentials are what a pod gets.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey sigv4.Secret
	SessionToken    sigv4.Secret // as secret as the key: whoever has both signs
	AccountID       string
	Expires         time.Time
}

// Config is what an Agent needs.
type Config struct {
	ClusterName string // for the log
	// Hosts are the addresses, without port and brackets, of which one must be the request's Host, so that no page in a
	// browser and no other name that resolves here reaches the agent; the link-local pair when nil.
	Hosts []string
	// AnyHost leaves the Host unchecked: for HTTPS, where the certificate says whom the client meant.
	AnyHost bool
	// Fetch gets the credentials for a token. An *APIError is passed on with its status; anything else becomes a 500. Required.
	Fetch func(ctx context.Context, token string) (Credentials, error)
	// Verify checks a token's signature, and everything else of it, with keys that are at hand. What it verifies is kept by
	// pod and service account, so that a pod's next token finds it. An error that wraps idtoken.ErrKeys leaves the token to
	// EKS Auth, and what belongs to it is kept by the token's digest, as all is when Verify is nil. Any other error refuses.
	Verify func(ctx context.Context, token string) (*idtoken.Claims, error)
	// Check, if not nil, says whether EKS Auth can be asked at all. Run calls it until it succeeds.
	Check func(ctx context.Context) error

	// MaxAge is the age at which EKS Auth is asked again, with the token at hand, before kept credentials are handed out: it may have
	// ceased to honour the token. If it cannot be asked, the pod gets the error. Zero: never before they are refreshed.
	MaxAge time.Duration

	Retain             time.Duration // the age at which credentials are refreshed; zero keeps none
	MaxEntries         int           // how many pods' credentials are kept; zero keeps none
	RefreshesPerSecond int           // 3 when zero
	// FetchesPerSecond limits the calls to EKS Auth for pods that wait; 500 when zero. Twice as many may come at once: all pods
	// of a full node, when it starts. More have to wait.
	FetchesPerSecond int
	// FetchesPerPod is how many fetches of one pod may be under way; 64 when zero. More have to wait. One that fails by the
	// pod's fault counts for ten seconds more. A pod whose token is not verified is known by its address.
	FetchesPerPod int

	Metrics *Metrics     // required
	Log     *slog.Logger // required
}

// Agent is the agent of a node: a handler for pods, and what runs behind it. It is safe for concurrent use.
type Agent struct {
	config   Config
	log      *foldedLog
	cache    *credcache.Cache[key, *answer]
	tokens   tokens
	node     *rate.Limiter
	pods     pods
	upstream upstream
	mux      http.ServeMux
}

// answer is the body of an answer with credentials.
type answer struct {
	body   []byte
	length string // of body, for the header
}

// New makes an agent. Credentials are only refreshed ahead while Run runs.
func New(c Config) *Agent {
	if c.Hosts == nil {
		c.Hosts = []string{LinkLocalIPv4, LinkLocalIPv6}
	}
	if c.Retain <= 0 {
		c.MaxEntries = 0
	}
	if c.RefreshesPerSecond == 0 {
		c.RefreshesPerSecond = 3
	}
	if c.FetchesPerSecond == 0 {
		c.FetchesPerSecond = 500
	}
	if c.FetchesPerPod == 0 {
		c.FetchesPerPod = 64
	}
	a := &Agent{
		config: c,
		log:    &foldedLog{log: c.Log},
		tokens: tokens{max: 2 * c.MaxEntries},
		node:   rate.NewLimiter(rate.Limit(c.FetchesPerSecond), 2*c.FetchesPerSecond),
		pods:   pods{each: c.FetchesPerPod},
	}
	a.upstream.unknown = c.Check != nil
	a.cache = credcache.New(credcache.Config[key, *answer]{
		Fetch:      a.fetch,
		Judge:      judge,
		Retain:     c.Retain,
		MaxAge:     c.MaxAge,
		MaxEntries: c.MaxEntries,
		MaxBytes:   int64(c.MaxEntries) * maxEntryBytes,
		Size:       func(v *answer) int { return len(v.body) },
		Pace:       rate.NewLimiter(rate.Limit(c.RefreshesPerSecond), 1).Wait,
		Observe:    c.Metrics.observe,
	})
	stats := a.cache.Stats
	c.Metrics.stats.Store(&stats)
	// Every other path is 404, as probes of AWS's agent expect.
	a.mux.HandleFunc(Path, a.serve)
	return a
}

// ServeHTTP implements http.Handler.
func (a *Agent) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// Run refreshes credentials, and does what else is to be done in the background, until ctx ends.
func (a *Agent) Run(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() { a.cache.Run(ctx) })
	group.Go(func() { a.checkUpstream(ctx) })
	group.Go(func() {
		ticker := time.NewTicker(foldFor)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-ticker.C:
				a.log.flush(ctx, now)
			}
		}
	})
	group.Wait()
}

// Ready returns why no pod can be served: EKS Auth cannot be asked, and nothing is kept that is handed out without asking.
func (a *Agent) Ready() error {
	err := a.upstream.failure()
	if err == nil {
		return nil
	}
	if entries, _ := a.cache.Stats(); entries > 0 && a.config.MaxAge == 0 {
		return nil
	}
	return fmt.Errorf("no credentials are kept, and EKS Auth cannot be asked: %w", err)
}

// Healthy returns once it has seen that requests are not stuck behind one another. It never does otherwise.
func (a *Agent) Healthy() error {
	a.cache.Stats()
	a.tokens.recall(key{}, time.Time{})
	return nil
}

// refusal is a request that is refused before EKS Auth is asked.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// serve answers a request for credentials. The method does not matter, as in AWS's agent.
func (a *Agent) serve(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	v, hit, err := a.get(r, start)
	status, text, outcome := http.StatusOK, "", outcomeMiss
	if hit {
		outcome = outcomeHit
	}
	if err != nil {
		status, text, outcome = describe(err)
		http.Error(w, text, status)
	} else {
		header := w.Header()
		header.Set("Content-Type", "application/json")
		header.Set("Content-Length", v.length)
		if _, err = w.Write(v.body); err != nil {
			err = fmt.Errorf("write credentials: %w", err)
		} else if !hit {
			// Many may have waited for the same fetch: they all get their answers before any of them is logged.
			http.NewResponseController(w).Flush() //nolint:errcheck // a broken connection is its client's affair
		}
	}
	took := time.Since(start)
	a.config.Metrics.answered(status, outcome, took)
	a.logRequest(r, status, outcome, took, err)
}

// get finds or fetches the answer to a request.
func (a *Agent) get(r *http.Request, now time.Time) (v *answer, hit bool, err error) {
	if err := a.checkHost(r.Host); err != nil {
		return nil, false, err
	}
	token := r.Header.Get("Authorization")
	who, known, err := a.identify(r.Context(), token, r.RemoteAddr, now)
	if err != nil {
		return nil, false, err
	}
	v, hit, err = a.cache.Get(r.Context(), who.key, credcache.Ticket{Token: credcache.Token(token), Holder: who.holder, Expires: who.expires})
	switch {
	case errors.Is(err, credcache.ErrBusy):
		a.config.Metrics.throttles.WithLabelValues("busy").Inc()
	case err == nil && !known:
		// Only who got credentials is remembered: what strangers make up leaves nothing behind.
		a.tokens.remember(who, now)
	}
	return v, hit, err
}

func (a *Agent) checkHost(host string) error {
	if a.config.AnyHost {
		return nil
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	if slices.Contains(a.config.Hosts, host) {
		return nil
	}
	return &refusal{http.StatusForbidden,
		fmt.Sprintf("Access Denied. Called agent through invalid address, please use either %s address not %s", a.config.Hosts, host)}
}

// describe turns an error into what the pod is told.
func describe(err error) (status int, text string, o outcome) {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused.status, refused.text, outcomeRefused
	}
	if api, ok := errors.AsType[*APIError](err); ok {
		return api.Status, api.Error(), outcomeFailed
	}
	switch {
	case errors.Is(err, credcache.ErrBusy), errors.Is(err, errThrottled):
		return http.StatusTooManyRequests, "Too Many Requests", outcomeFailed
	case errors.Is(err, context.Canceled): // the client is gone, or has closed its half of the connection
		return http.StatusRequestTimeout, "Request Timeout", outcomeFailed
	}
	return http.StatusInternalServerError, err.Error(), outcomeFailed
}

// logRequest writes the one line of a request: quietly if it was answered from memory, and once in a while if it fails as
// one of the same client just did.
func (a *Agent) logRequest(r *http.Request, status int, o outcome, took time.Duration, err error) {
	level := slog.LevelInfo
	switch {
	case err != nil:
		level = slog.LevelError
	case o == outcomeHit:
		level = slog.LevelDebug
	}
	if !a.config.Log.Enabled(r.Context(), level) {
		return
	}
	attributes := make([]slog.Attr, 0, 10)
	attributes = append(attributes,
		slog.String("client-addr", r.RemoteAddr),
		slog.String("cluster-name", a.config.ClusterName),
		slog.Int("status", status),
		slog.String("outcome", string(o)),
		slog.Duration("took", took),
	)
	if bound, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		attributes = append(attributes, slog.String("bind-addr", bound.String()))
	}
	const message = "request for credentials"
	if err == nil {
		a.config.Log.LogAttrs(r.Context(), level, message, attributes...)
		return
	}
	attributes = append(attributes, slog.String("err", short(err)))
	if api, ok := errors.AsType[*APIError](err); ok {
		attributes = append(attributes, slog.String("service", "EKS Auth"), slog.String("operation", "AssumeRoleForPodIdentity"),
			slog.String("request-id", api.RequestID))
	}
	a.log.error(r.Context(), time.Now(), foldKey{clientHost(r.RemoteAddr), status, codeLabel(err)}, message, attributes...)
}

// short is an error's text for the log. Clients choose parts of it, such as the host, and their length.
func short(err error) string {
	const most = 300
	if text := err.Error(); len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return err.Error()
}

// newAnswer makes an answer in the form that the SDKs' container provider reads.
func newAnswer(c Credentials) (*answer, error) {
	body, err := json.Marshal(struct {
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		Token           string
		AccountID       string `json:"AccountId"`
		Expiration      string
	}{c.AccessKeyID, string(c.SecretAccessKey), string(c.SessionToken), c.AccountID, c.Expires.UTC().Format(time.RFC3339)})
	if err != nil {
		return nil, fmt.Errorf("encode credentials: %w", err)
	}
	return &answer{body: body, length: strconv.Itoa(len(body))}, nil
}
