package agent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lanyard-id/lanyard/internal/agent"
	"github.com/lanyard-id/lanyard/internal/idtoken"
)

// cluster signs pods' tokens.
type cluster struct {
	t   testing.TB
	key *ecdsa.PrivateKey
	id  string
}

func newCluster(t testing.TB, id string) *cluster {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t, key, id}
}

func (c *cluster) jwks() []byte {
	c.t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: c.key.Public(), KeyID: c.id, Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

// claims are those of a pod's token. Each call makes other ones: they are numbered.
func claims(pod string, n int) jwt.MapClaims {
	now := time.Now()
	return jwt.MapClaims{
		"iss": "https://cluster.example", "sub": "system:serviceaccount:team-a:app", "aud": []string{"pods.eks.amazonaws.com"},
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(24*time.Hour + time.Duration(n)*time.Second).Unix(), "jti": fmt.Sprint(n),
		"kubernetes.io": map[string]any{
			"namespace": "team-a", "serviceaccount": map[string]string{"name": "app", "uid": "sa-uid"},
			"pod": map[string]string{"name": pod, "uid": pod + "-uid"},
		},
	}
}

func (c *cluster) sign(claims jwt.MapClaims) string {
	c.t.Helper()
	unsigned := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	unsigned.Header["kid"] = c.id
	text, err := unsigned.SignedString(c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

func (c *cluster) token(pod string, n int) string { return c.sign(claims(pod, n)) }

// upstream is an EKS Auth that gives each pod credentials with the pod's name in them, without looking at signatures.
type upstream struct {
	t     testing.TB
	takes time.Duration
	life  time.Duration // of credentials

	mu     sync.Mutex
	err    error
	refuse map[string]error // by token
	calls  []time.Time
}

func (u *upstream) fetch(ctx context.Context, token string) (agent.Credentials, error) {
	u.mu.Lock()
	u.calls = append(u.calls, time.Now())
	takes, err := u.takes, u.err
	if err == nil {
		err = u.refuse[token]
	}
	u.mu.Unlock()
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return agent.Credentials{}, ctx.Err()
		}
	}
	if err != nil {
		return agent.Credentials{}, err
	}
	claims, err := idtoken.ParseInsecure(token)
	if err != nil {
		u.t.Errorf("asked for %q: %v", token, err)
		return agent.Credentials{}, err
	}
	return agent.Credentials{
		AccessKeyID: "ASIA." + claims.Kubernetes.Pod.Name + ".", SecretAccessKey: "the-secret", SessionToken: "the-session",
		AccountID: "111122223333", Expires: time.Now().Add(u.life),
	}, nil
}

func (u *upstream) set(change func(*upstream)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change(u)
}

// made returns when calls were made.
func (u *upstream) made() []time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.calls)
}

func (u *upstream) wantCalls(want int) {
	u.t.Helper()
	u.set(func(u *upstream) {
		if len(u.calls) != want {
			u.t.Errorf("EKS Auth was called %d times, want %d", len(u.calls), want)
		}
	})
}

// node is an agent in a synctest bubble, with keys that are loaded unless there is no cluster.
type node struct {
	*agent.Agent
	*upstream
	t        *testing.T
	registry *prometheus.Registry
}

func onNode(t *testing.T, keys *cluster, change func(*agent.Config), f func(*node)) {
	if keys == nil {
		onNodeWith(t, nil, change, f)
		return
	}
	onNodeWith(t, func(context.Context) ([]byte, error) { return keys.jwks(), nil }, change, f)
}

// onNodeWith is onNode with the function that loads the keys, or nil.
func onNodeWith(t *testing.T, load func(context.Context) ([]byte, error), change func(*agent.Config), f func(*node)) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{upstream: &upstream{t: t, takes: 50 * time.Millisecond, life: 6 * time.Hour}, t: t}
		c := agent.Config{Fetch: n.fetch, Retain: 3 * time.Hour, MaxEntries: 2000, Log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		if load != nil {
			set := agent.NewKeys(load, c.Log)
			c.Verify = set.Verify
			go set.Run(ctx)
		}
		if change != nil {
			change(&c)
		}
		n.Agent, n.registry = newAgent(t, c)
		go n.Run(ctx)
		synctest.Wait()
		f(n)
		stop()
		<-time.After(15 * time.Second) // fetches under way, and places that failures hold
		synctest.Wait()
	})
}

// ask asks as a client with the address.
func (n *node) ask(ctx context.Context, address, token string) (int, string) {
	r := httptest.NewRequestWithContext(ctx, "GET", "http://"+agent.LinkLocalIPv4+agent.Path, nil)
	r.RemoteAddr = address + ":1234"
	r.Header.Set("Authorization", token)
	w := httptest.NewRecorder()
	n.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// want expects credentials of the pod, as JSON.
func (n *node) want(pod, token string) {
	n.t.Helper()
	if status, body := n.ask(n.t.Context(), "10.0.0.1", token); status != 200 || !strings.Contains(body, `"ASIA.`+pod+`."`) {
		n.t.Errorf("%s got %d %s", pod, status, body)
	}
}

func (n *node) wantRefused(token string, status int, text string) {
	n.t.Helper()
	if got, body := n.ask(n.t.Context(), "10.0.0.1", token); got != status || !strings.Contains(body, text) {
		n.t.Errorf("got %d %s, want %d and %s", got, body, status, text)
	}
}

func (n *node) entries() int { return int(gather(n.t, n.registry)["lanyard_agent_cache_entries"]) }

func podName(i int) string { return fmt.Sprintf("pod-%d", i) }

func TestRotatedTokensOfRunningPodsAreHits(t *testing.T) {
	c := newCluster(t, "k1")
	onNode(t, c, nil, func(n *node) {
		const pods = 500 // that all rotate
		for i := range pods {
			n.want(podName(i), c.token(podName(i), 0))
		}
		n.wantCalls(pods)
		var all sync.WaitGroup
		for i := range pods {
			all.Go(func() { n.want(podName(i), c.token(podName(i), 1)) })
		}
		all.Wait()
		n.wantCalls(pods)
		if got := n.entries(); got != pods {
			t.Errorf("%d entries", got)
		}
	})
}

func TestWithoutKeysTokensAreKeptByDigest(t *testing.T) {
	c := newCluster(t, "k1")
	onNode(t, nil, nil, func(n *node) {
		first, second := c.token("a", 0), c.token("a", 1)
		for range 3 {
			n.want("a", first)
			n.want("a", second)
		}
		n.wantCalls(2)
	})
}

// With keys, what is not verified gets nothing of what is kept, and leaves nothing behind.
func TestForgedTokens(t *testing.T) {
	c, other := newCluster(t, "k1"), newCluster(t, "k1")
	unknown := newCluster(t, "k2")
	alter := func(change func(jwt.MapClaims)) string {
		altered := claims("a", 0)
		change(altered)
		return c.sign(altered)
	}
	onNode(t, c, nil, func(n *node) {
		genuine := c.token("a", 0)
		n.want("a", genuine)
		n.want("b", c.token("b", 0))
		for name, tt := range map[string]struct {
			token string
			text  string
		}{
			"signed by another key of the same ID": {other.token("a", 0), "signature does not verify"},
			"with another one's signature":         {genuine[:strings.LastIndex(genuine, ".")] + "." + strings.Split(c.token("b", 0), ".")[2], "signature does not verify"},
			"without a signature":                  {genuine[:strings.LastIndex(genuine, ".")+1], "cannot be"},
			"for another audience": {alter(func(c jwt.MapClaims) { c["aud"] = "sts.amazonaws.com" }),
				"issued for another audience"},
			"expired": {alter(func(c jwt.MapClaims) { c["exp"] = time.Now().Unix() }), "token is expired"},
			"without an expiration": {alter(func(c jwt.MapClaims) { delete(c, "exp") }),
				"Missing a required claim: exp"},
		} {
			for range 3 {
				status, body := n.ask(t.Context(), "10.0.0.1", tt.token)
				if status != 400 || !strings.HasPrefix(body, "Service account token ") || !strings.Contains(body, tt.text) {
					t.Errorf("%s: %d %s", name, status, body)
				}
			}
		}
		n.wantCalls(2)
		if n.entries() != 2 {
			t.Errorf("%d entries", n.entries())
		}
		// Those of which the keys cannot tell are for EKS Auth, and share nothing with the pod's.
		n.set(func(u *upstream) {
			u.err = &agent.APIError{Status: 400, Code: "InvalidTokenException", Message: "no", RequestID: "r"}
		})
		n.wantRefused(unknown.token("a", 0), 400, "[r]: (InvalidTokenException): no, fault: client")
		n.wantCalls(3)
		// The same token with another pod's claims, or of another namespace, is another key.
		n.wantRefused(alter(func(c jwt.MapClaims) {
			c["kubernetes.io"].(map[string]any)["namespace"] = "team-b"
		}), 400, "InvalidTokenException")
		n.wantRefused(alter(func(c jwt.MapClaims) { c["iss"] = "https://other.example" }), 400, "InvalidTokenException")
		n.wantRefused(alter(func(c jwt.MapClaims) { delete(c, "kubernetes.io") }), 400, "InvalidTokenException")
		n.wantCalls(6)
		n.want("a", genuine)
		n.want("b", c.token("b", 0))
		n.wantCalls(6)
	})
}

func TestKnownTokensExpireToo(t *testing.T) {
	c := newCluster(t, "k1")
	for name, keys := range map[string]*cluster{"with keys": c, "without": nil} {
		t.Run(name, func(t *testing.T) {
			onNode(t, keys, nil, func(n *node) {
				token := claims("a", 0)
				token["exp"] = time.Now().Add(time.Minute).Unix()
				text := c.sign(token)
				n.want("a", text)
				<-time.After(59 * time.Second)
				n.want("a", text)
				<-time.After(time.Second)
				n.wantRefused(text, 400, "Service account token failed basic claim validations: token is expired")
				n.wantCalls(1)
			})
		})
	}
}

func TestKeysThatRotate(t *testing.T) {
	old, next := newCluster(t, "k1"), newCluster(t, "k2")
	var mu sync.Mutex
	current, loads := old, 0
	var loadErr error
	load := func(context.Context) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		loads++
		return current.jwks(), loadErr
	}
	onNodeWith(t, load, nil, func(n *node) {
		n.want("a", old.token("a", 0))
		mu.Lock()
		current = next
		mu.Unlock()
		n.want("a", next.token("a", 1)) // not known: EKS Auth tells, by the digest
		n.wantCalls(2)
		<-time.After(time.Minute) // the unknown key has been looked for
		n.want("a", next.token("a", 2))
		n.wantCalls(2) // a hit
		mu.Lock()
		if loads != 2 {
			t.Errorf("keys were loaded %d times", loads)
		}
		loadErr = errors.New("gone")
		mu.Unlock()
		<-time.After(time.Hour)
		n.want("a", next.token("a", 3))
		n.wantCalls(2)
		<-time.After(time.Second)
		n.wantRefused(newCluster(t, "k2").token("a", 4), 400, "signature")
	})
}

func Test200CallersOfOneToken(t *testing.T) {
	c := newCluster(t, "k1")
	for name, keys := range map[string]*cluster{"with keys": c, "without": nil} {
		t.Run(name, func(t *testing.T) {
			onNode(t, keys, nil, func(n *node) {
				token, start := c.token("a", 0), time.Now()
				var all sync.WaitGroup
				for range 200 {
					all.Go(func() { n.want("a", token) })
				}
				all.Wait()
				n.wantCalls(1)
				if took := time.Since(start); took != 50*time.Millisecond {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

func Test1000PodsAtOnce(t *testing.T) {
	c := newCluster(t, "k1")
	tokens := make([]string, 1000) // made in the first bubble: the others begin at the same time
	for _, tt := range []struct {
		name      string
		keys      *cluster
		perSecond int
		perPod    int
		within    time.Duration
	}{
		{"with keys, as it is", c, 0, 0, 1100 * time.Millisecond},
		{"with keys and a higher limit", c, 1000, 0, 50 * time.Millisecond},
		{"from one address without keys", nil, 0, 0, 1100 * time.Millisecond},
		{"from one address without keys, with higher limits", nil, 1000, 1000, 50 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onNode(t, tt.keys, func(c *agent.Config) { c.FetchesPerSecond, c.FetchesPerPod = tt.perSecond, tt.perPod }, func(n *node) {
				for i := range tokens {
					if tokens[i] == "" {
						tokens[i] = c.token(podName(i), 0)
					}
				}
				start := time.Now()
				var all sync.WaitGroup
				for i, token := range tokens {
					all.Go(func() { n.want(podName(i), token) })
				}
				all.Wait()
				n.wantCalls(len(tokens))
				if took := time.Since(start); took > tt.within {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// EKS Auth is gone for two hours, then slow, then throttling, then back. No pod that is kept ever sees an error, pods that are
// not are told, and EKS Auth never sees more calls than the limits allow.
func TestOutage(t *testing.T) {
	c := newCluster(t, "k1")
	onNode(t, c, nil, func(n *node) {
		const pods = 30
		tokens := make([]string, pods)
		for i := range pods {
			tokens[i] = c.token(podName(i), 0)
		}
		everybody := func() {
			n.t.Helper()
			for i, token := range tokens {
				n.want(podName(i), token)
			}
		}
		everybody()
		<-time.After(2 * time.Hour) // refreshes begin
		n.set(func(u *upstream) { u.calls = nil })
		for i, phase := range []struct {
			lasts time.Duration
			err   error
			takes time.Duration
			text  string // what a pod that is not kept is told
		}{
			{2 * time.Hour, errors.New("dial tcp: connection refused"), 0, "connection refused"},
			{30 * time.Minute, nil, 20 * time.Second, "deadline exceeded"},
			{30 * time.Minute, &agent.APIError{Status: 429, Code: "ThrottlingException", Message: "Rate exceeded", RetryAfter: 20 * time.Second}, 0, "Rate exceeded"},
			{3 * time.Hour, nil, 50 * time.Millisecond, ""},
		} {
			n.set(func(u *upstream) { u.err, u.takes = phase.err, phase.takes })
			stranger := c.token(fmt.Sprint("stranger-", i), 0)
			for end := time.Now().Add(phase.lasts); time.Now().Before(end); {
				everybody()
				for range 5 { // a pod that asks again and again
					if status, body := n.ask(n.t.Context(), "10.0.0.9", stranger); phase.text != "" && (status < 400 || !strings.Contains(body, phase.text)) {
						n.t.Fatalf("a stranger got %d %s", status, body)
					}
				}
				<-time.After(5 * time.Minute)
			}
		}
		// Three refreshes a second, and what the stranger causes: a call and two repetitions each five minutes.
		calls := n.made()
		for i := 7; i < len(calls); i++ {
			if calls[i].Sub(calls[i-7]) < time.Second {
				n.t.Fatalf("more than seven calls within a second, at %s", calls[i])
			}
		}
	})
}

func TestAFailingPodCannotStorm(t *testing.T) {
	c, forger := newCluster(t, "k1"), newCluster(t, "k9")
	onNode(t, c, nil, func(n *node) {
		n.want("a", c.token("a", 0))
		refused := &agent.APIError{Status: 400, Code: "InvalidTokenException", Message: "no"}
		n.set(func(u *upstream) { u.err, u.calls = refused, nil })
		token := forger.token("a", 0)
		for range 100 {
			n.wantRefused(token, 400, "InvalidTokenException")
		}
		n.wantCalls(1) // it is remembered
		<-time.After(20 * time.Second)

		// Tokens that are all different, for a minute.
		n.set(func(u *upstream) { u.calls = nil })
		var all sync.WaitGroup
		for i := range 60 {
			for j := range 20 {
				ctx, leave := context.WithTimeout(n.t.Context(), time.Second)
				text := forger.token("a", 1+i*20+j)
				all.Go(func() {
					defer leave()
					if status, body := n.ask(ctx, "10.0.0.6", text); status < 400 {
						t.Errorf("%d %s", status, body)
					}
				})
			}
			<-time.After(time.Second)
		}
		n.set(func(u *upstream) { u.err = nil })
		n.want("a", c.token("a", 1))
		n.want("b", c.token("b", 0)) // other pods do not notice
		all.Wait()
		if got := len(n.made()); got > 64*8 {
			t.Errorf("one address caused %d calls in a minute", got)
		}
		if n.entries() > 70 { // those in the queue that got credentials in the end: this EKS Auth believes everybody now
			t.Errorf("%d entries", n.entries())
		}
	})
}

func TestRetryAfterIsHeeded(t *testing.T) {
	c := newCluster(t, "k1")
	onNode(t, nil, nil, func(n *node) {
		n.set(func(u *upstream) {
			u.err = &agent.APIError{Status: 429, Code: "ThrottlingException", Message: "Rate exceeded", RetryAfter: 20 * time.Second}
		})
		token := c.token("a", 0)
		n.wantRefused(token, 429, "Rate exceeded")
		n.set(func(u *upstream) { u.err = nil })
		<-time.After(19 * time.Second)
		n.wantRefused(token, 429, "Rate exceeded")
		<-time.After(time.Second)
		n.want("a", token)
		n.wantCalls(2)
	})
}

func TestDroppedAtOnce(t *testing.T) {
	c := newCluster(t, "k1")
	for _, code := range []string{"ResourceNotFoundException", "ExpiredTokenException", "InvalidTokenException", "AccessDeniedException"} {
		onNode(t, c, nil, func(n *node) {
			token := c.token("a", 0)
			n.want("a", token)
			n.set(func(u *upstream) { u.err = &agent.APIError{Status: 400, Code: code, Message: "no"} })
			<-time.After(3*time.Hour + 10*time.Second)
			n.wantRefused(token, 400, code)
			if n.entries() != 0 {
				t.Error("it is kept")
			}
		})
	}
}

func TestTokensThatAreNotHonouredAnyMore(t *testing.T) {
	const every = 30 * time.Second
	c := newCluster(t, "k1")
	reviewed := func(c *agent.Config) { c.MaxAge = every }
	revoked := &agent.APIError{Status: 400, Code: "InvalidTokenException", Message: "The cluster does not honour the token any more"}
	for name, keys := range map[string]*cluster{"with the cluster's keys": c, "without": nil} {
		t.Run(name, func(t *testing.T) {
			onNode(t, keys, reviewed, func(n *node) {
				one, two := c.token("a", 0), c.token("b", 0)
				n.want("a", one)
				n.want("b", two)
				n.set(func(u *upstream) { u.refuse = map[string]error{one: revoked} })
				<-time.After(every - time.Second)
				n.want("a", one) // it has been asked for less than that ago
				<-time.After(time.Second)
				n.wantRefused(one, 400, "InvalidTokenException")
				n.want("b", two)
				if n.entries() != 1 {
					n.t.Errorf("%d pods' credentials are kept, want the other's", n.entries())
				}
			})
			onNode(t, keys, nil, func(n *node) {
				one := c.token("a", 0)
				n.want("a", one)
				n.set(func(u *upstream) { u.refuse = map[string]error{one: revoked} })
				<-time.After(time.Hour)
				n.want("a", one) // nobody asks
			})
			onNode(t, keys, reviewed, func(n *node) {
				one := c.token("a", 0)
				n.want("a", one)
				n.set(func(u *upstream) { u.err = errors.New("no route to host") })
				<-time.After(every)
				n.wantRefused(one, 500, "no route to host")
				if n.Ready() == nil {
					n.t.Error("it is ready, with nothing to hand out")
				}
				n.set(func(u *upstream) { u.err = nil })
				<-time.After(2 * time.Second) // a failure is remembered
				n.want("a", one)
			})
		})
	}
}

// The service account was deleted, and made again: what is kept for tokens of the one is not for tokens of the other.
func TestServiceAccountsOfOneName(t *testing.T) {
	c := newCluster(t, "k1")
	onNode(t, c, func(c *agent.Config) { c.MaxAge = 30 * time.Second }, func(n *node) {
		again := claims("a", 1)
		again["kubernetes.io"].(map[string]any)["serviceaccount"] = map[string]string{"name": "app", "uid": "another-uid"}
		old, made := c.token("a", 0), c.sign(again)
		n.want("a", made)
		n.set(func(u *upstream) {
			u.refuse = map[string]error{old: &agent.APIError{Status: 400, Code: "InvalidTokenException", Message: "no"}}
		})
		n.wantRefused(old, 400, "InvalidTokenException")
		n.want("a", made)
		n.wantCalls(2)
	})
}

func TestReady(t *testing.T) {
	c := newCluster(t, "k1")
	var mu sync.Mutex
	own := errors.New("no credentials of its own")
	onNode(t, nil, func(c *agent.Config) {
		c.Check = func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return own
		}
	}, func(n *node) {
		want := func(ready bool, when string) {
			t.Helper()
			if err := n.Ready(); (err == nil) != ready {
				t.Errorf("%s: %v", when, err)
			}
		}
		want(false, "without credentials of its own")
		mu.Lock()
		own = nil
		mu.Unlock()
		<-time.After(10 * time.Second)
		want(true, "with them")
		n.set(func(u *upstream) { u.err = &agent.APIError{Status: 404, Code: "ResourceNotFoundException"} })
		n.wantRefused(c.token("none", 0), 404, "")
		want(true, "after a refusal")
		n.set(func(u *upstream) { u.err = errors.New("dial tcp: no route to host") })
		n.wantRefused(c.token("a", 0), 500, "no route")
		want(false, "when EKS Auth cannot be reached and nothing is kept")
		n.set(func(u *upstream) { u.err = nil })
		n.want("b", c.token("b", 0))
		n.set(func(u *upstream) { u.err = errors.New("dial tcp: no route to host") })
		n.wantRefused(c.token("c", 0), 500, "no route")
		want(true, "when EKS Auth cannot be reached and something is kept")
	})
}

func TestRepeatedErrorsAreFolded(t *testing.T) {
	var log lockedBuffer
	onNode(t, nil, func(c *agent.Config) { c.Log = slog.New(slog.NewJSONHandler(&log, nil)) }, func(n *node) {
		for range 1000 {
			n.wantRefused("x", 400, "malformed")
		}
		n.ask(n.t.Context(), "10.0.0.2", "x")
		<-time.After(25 * time.Second)
	})
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 3 || !strings.Contains(lines[2], `"repeated":999`) || !strings.Contains(lines[2], `"client-addr":"10.0.0.1"`) {
		t.Errorf("logged %s", log.String())
	}
}

// Nothing that is secret is in the log, the metrics, or what formatting and refusals show.
func TestNothingTellsSecrets(t *testing.T) {
	c := newCluster(t, "k1")
	var log lockedBuffer
	secrets := []string{"the-secret", "the-session"}
	onNode(t, c, func(c *agent.Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}))
	}, func(n *node) {
		show := func(token string) {
			_, signature, _ := strings.Cut(token[strings.Index(token, ".")+1:], ".")
			secrets = append(secrets, token, signature)
			if status, body := n.ask(n.t.Context(), "10.0.0.1", token); status >= 400 {
				fmt.Fprint(&log, body)
			}
		}
		show(c.token("a", 0))
		show(c.token("a", 0))
		show(newCluster(t, "k1").token("a", 0))
		show("Bearer " + c.token("a", 2))
		show(c.token("a", 3) + "\xff\x00")
		show(c.token("a", 4) + ".x.y")
		for _, err := range []error{errors.New("dial tcp: refused"), context.DeadlineExceeded, &agent.APIError{Status: 400, Code: "InvalidTokenException"}} {
			n.set(func(u *upstream) { u.err = err })
			show(c.token(fmt.Sprint("b", err), 0))
		}
		metrics := httptest.NewRecorder()
		promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}).ServeHTTP(metrics, httptest.NewRequest("GET", "/metrics", nil))
		log.Write(metrics.Body.Bytes())
		got, err := n.fetch(n.t.Context(), c.token("a", 0))
		fmt.Fprintf(&log, "%v %+v %#v %v", got, got, got, err)
		<-time.After(4 * time.Hour) // refreshes, which fail
	})
	for _, secret := range secrets {
		if i := strings.Index(log.String(), secret); i >= 0 {
			t.Errorf("%.20s… is in …%s…", secret, log.String()[max(0, i-200):i])
		}
	}
	if len(log.String()) < 1000 {
		t.Error("nothing was logged")
	}
}

// The control plane answers pods itself, by HTTPS, for any host: same handler, and the function that it calls is its own.
func TestAgentless(t *testing.T) {
	c := newCluster(t, "k1")
	u := &upstream{t: t, life: time.Hour}
	a, _ := newAgent(t, agent.Config{AnyHost: true, Fetch: u.fetch})
	server := httptest.NewTLSServer(a)
	defer server.Close()
	for range 2 {
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+agent.Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", c.token("a", 0))
		response, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ AccessKeyID string }
		if err := json.NewDecoder(response.Body).Decode(&got); err != nil || got.AccessKeyID != "ASIA.a." {
			t.Errorf("%s: %+v, %v", response.Status, got, err)
		}
		response.Body.Close()
	}
}
