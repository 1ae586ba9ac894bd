package agent_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-id/lanyard/internal/agent"
)

// token makes a token that looks like a service account's; nobody here verifies its signature.
func token(notBefore, expires time.Time) string {
	claims := fmt.Sprintf(`{"sub":"s","nbf":%d,"exp":%d}`, notBefore.Unix(), expires.Unix())
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"k"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".AAAA"
}

func liveToken() string { return token(time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour)) }

var someCredentials = agent.Credentials{
	AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: "secret", SessionToken: "session", AccountID: "111122223333",
	Expires: time.Date(2130, 1, 2, 3, 4, 5, 600, time.FixedZone("", 3600)),
}

type fetchFunc = func(context.Context, string) (agent.Credentials, error)

func give(c agent.Credentials, err error) fetchFunc {
	return func(context.Context, string) (agent.Credentials, error) { return c, err }
}

// newAgent makes an agent that keeps a hundred pods' credentials and whose log goes to the test, and the registry of its metrics.
func newAgent(t testing.TB, c agent.Config) (*agent.Agent, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	metrics, err := agent.NewMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	c.ClusterName, c.Metrics = "demo", metrics
	if c.Retain == 0 {
		c.Retain, c.MaxEntries = 3*time.Hour, 100
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return agent.New(c), registry
}

func get(t testing.TB, h http.Handler, method, host, path, authorization string) (status int, contentType, body string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://"+agent.LinkLocalIPv4+path, nil)
	r.Host = host
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Result().Header.Get("Content-Type"), w.Body.String()
}

func TestCredentials(t *testing.T) {
	want := liveToken()
	for _, method := range []string{"GET", "POST"} { // AWS's agent minds no method
		h, _ := newAgent(t, agent.Config{Fetch: func(_ context.Context, got string) (agent.Credentials, error) {
			if got != want {
				t.Errorf("fetched for %q, want %q", got, want)
			}
			return someCredentials, nil
		}})
		status, contentType, body := get(t, h, method, agent.LinkLocalIPv4, "/v1/credentials", want)
		if status != 200 || contentType != "application/json" {
			t.Errorf("%s: %d, %s", method, status, contentType)
		}
		const wantBody = `{"AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"secret","Token":"session","AccountId":"111122223333","Expiration":"2130-01-02T02:04:05Z"}`
		if diff := cmp.Diff(wantBody, body); diff != "" {
			t.Errorf("body (-want +got):\n%s", diff)
		}
	}
}

func TestHosts(t *testing.T) {
	tests := []struct {
		host    string
		allowed []string
		refused string // how the answer names the host; empty when it is accepted
	}{
		{"169.254.170.23", nil, ""},
		{"169.254.170.23:80", nil, ""},
		{"[fd00:ec2::23]", nil, ""},
		{"[fd00:ec2::23]:80", nil, ""},
		{"fd00:ec2::23", nil, ""},
		{"127.0.0.1", nil, "127.0.0.1"},
		{"127.0.0.1:8080", nil, "127.0.0.1"},
		{"rebound.example", nil, "rebound.example"},
		{"169.254.170.23.evil.example", nil, "169.254.170.23.evil.example"},
		{"169.254.170.2", nil, "169.254.170.2"},
		{"", nil, ""},
		{"127.0.0.1:8080", []string{"127.0.0.1"}, ""},
		{"169.254.170.23", []string{"127.0.0.1"}, "169.254.170.23"},
		{"127.0.0.1", []string{}, "127.0.0.1"},
	}
	for _, tt := range tests {
		h, _ := newAgent(t, agent.Config{Hosts: tt.allowed, Fetch: give(someCredentials, nil)})
		status, contentType, body := get(t, h, "GET", tt.host, "/v1/credentials", liveToken())
		if tt.refused == "" && tt.host != "" {
			if status != 200 {
				t.Errorf("host %q with %v: %d %s", tt.host, tt.allowed, status, body)
			}
			continue
		}
		allowed := tt.allowed
		if allowed == nil {
			allowed = []string{"169.254.170.23", "fd00:ec2::23"}
		}
		want := fmt.Sprintf("Access Denied. Called agent through invalid address, please use either %v address not %s\n", allowed, tt.refused)
		if status != 403 || body != want || !strings.HasPrefix(contentType, "text/plain") {
			t.Errorf("host %q with %v: %d %s %q, want 403 %q", tt.host, tt.allowed, status, contentType, body, want)
		}
	}
}

func TestTokens(t *testing.T) {
	now := time.Now()
	h, _ := newAgent(t, agent.Config{Fetch: give(someCredentials, nil)})
	tests := []struct {
		name, token string
		status      int
		text        string
	}{
		{"live", liveToken(), 200, ""},
		{"none", "", 400, "Service account token cannot be empty\n"},
		{"with a scheme", "Bearer " + liveToken(), 400,
			"Service account token cannot be parsed: token is malformed: could not base64 decode header: illegal base64 data at input byte 6\n"},
		{"no JWT", "abc", 400, "Service account token cannot be parsed: token is malformed: token contains an invalid number of segments\n"},
		{"claims are no JSON", "e30.YQ.AA", 400,
			"Service account token cannot be parsed: token is malformed: could not JSON decode claim: invalid character 'a' looking for beginning of value\n"},
		{"expired", token(now.Add(-time.Hour), now.Add(-time.Minute)), 400,
			"Service account token failed basic claim validations: token is expired\n"},
		{"not valid yet", token(now.Add(time.Minute), now.Add(time.Hour)), 400,
			"Service account token failed basic claim validations: token is not valid yet\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, _, body := get(t, h, "GET", agent.LinkLocalIPv4, "/v1/credentials", tt.token)
			if status != tt.status || (tt.status != 200 && body != tt.text) {
				t.Errorf("got %d %q, want %d %q", status, body, tt.status, tt.text)
			}
		})
	}
}

func TestErrorsOfFetch(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		status int
		text   string
	}{
		{"answered by EKS Auth", fmt.Errorf("fetch: %w", &agent.APIError{Status: 404, Code: "ResourceNotFoundException", Message: "none", RequestID: "r-1"}),
			404, "[r-1]: (ResourceNotFoundException): none, fault: client\n"},
		{"by its fault", &agent.APIError{Status: 503, Code: "ServiceUnavailableException", Message: "m", RequestID: "r"},
			503, "[r]: (ServiceUnavailableException): m, fault: server\n"},
		{"not in the model", &agent.APIError{Status: 403, Code: "UnrecognizedClientException", Message: "m", RequestID: "r"},
			403, "[r]: (UnrecognizedClientException): m, fault: unknown\n"},
		{"no answer", errors.New("dial tcp: connection refused"), 500, "dial tcp: connection refused\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, _ := newAgent(t, agent.Config{Fetch: give(agent.Credentials{}, tt.err)})
			if status, _, body := get(t, h, "GET", agent.LinkLocalIPv4, "/v1/credentials", liveToken()); status != tt.status || body != tt.text {
				t.Errorf("got %d %q, want %d %q", status, body, tt.status, tt.text)
			}
		})
	}
}

func TestOtherPaths(t *testing.T) {
	h, _ := newAgent(t, agent.Config{Fetch: give(someCredentials, nil)})
	for _, path := range []string{"/", "/v1", "/v1/credentials/", "/v1/credentials/x", "/metrics", "/healthz"} {
		if status, _, body := get(t, h, "GET", agent.LinkLocalIPv4, path, liveToken()); status != 404 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestMetrics(t *testing.T) {
	a, registry := newAgent(t, agent.Config{Fetch: give(someCredentials, nil)})
	get(t, a, "GET", agent.LinkLocalIPv4, "/v1/credentials", liveToken())
	get(t, a, "GET", agent.LinkLocalIPv4, "/v1/credentials", "")
	get(t, a, "GET", "other", "/v1/credentials", "")
	get(t, a, "GET", "other", "/v1/credentials", "")
	if _, err := agent.NewMetrics(registry); err == nil {
		t.Error("the same metrics are registered twice")
	}
	got := gather(t, registry)
	delete(got, "lanyard_agent_cache_bytes")
	want := map[string]float64{
		"pod_identity_http_response 200": 1, "pod_identity_http_response 400": 1, "pod_identity_http_response 403": 2,
		"pod_identity_cache_state miss": 1, "lanyard_agent_upstream_calls_total OK": 1, "lanyard_agent_cache_entries": 1,
		"lanyard_agent_request_duration_seconds miss": 1, "lanyard_agent_request_duration_seconds refused": 3,
		"lanyard_agent_upstream_duration_seconds": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// gather reads all metrics but those that are zero: their name and labels' values. Of histograms it is the count.
func gather(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			if value := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount()); value != 0 {
				got[name] = value
			}
		}
	}
	return got
}

func TestMetricsOfTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := map[string]error{
			"gone":    &agent.APIError{Code: "ResourceNotFoundException"},
			"strange": &agent.APIError{Code: "HTTPInventedByAProxy"},
			"down":    errors.New("no route"),
			"slow":    context.DeadlineExceeded,
		}
		var failing atomic.Bool
		a, registry := newAgent(t, agent.Config{Retain: 3 * time.Hour, MaxEntries: 4, Fetch: func(_ context.Context, token string) (agent.Credentials, error) {
			if err := failures[named(token)]; failing.Load() && err != nil {
				return agent.Credentials{}, err
			}
			return agent.Credentials{AccessKeyID: named(token), Expires: time.Now().Add(6 * time.Hour)}, nil
		}})
		ctx, stop := context.WithCancel(t.Context())
		go a.Run(ctx)
		for _, name := range []string{"old", "gone", "strange", "down", "slow", "slow"} {
			status, _, body := get(t, a, "GET", agent.LinkLocalIPv4, "/v1/credentials", namedToken(name))
			if status != 200 || !strings.Contains(body, name) {
				t.Fatalf("%s: %d %s", name, status, body)
			}
		}
		failing.Store(true)
		<-time.After(3*time.Hour + 10*time.Second)
		stop()
		synctest.Wait()
		got := gather(t, registry)
		for name, want := range map[string]float64{
			"pod_identity_cache_state hit": 1, "pod_identity_cache_state miss": 5, "pod_identity_cache_state evicted": 1,
			"pod_identity_cache_errors ResourceNotFoundException NonRecoverable": 1,
			"lanyard_agent_upstream_calls_total OK":                              5,
			"lanyard_agent_upstream_calls_total ResourceNotFoundException":       1,
			"lanyard_agent_cache_entries":                                        3,
		} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v", name, got[name], want)
			}
		}
		for _, name := range []string{
			"pod_identity_cache_errors other Recoverable", "pod_identity_cache_errors  Recoverable", "lanyard_agent_upstream_calls_total other",
			"lanyard_agent_upstream_calls_total Timeout", "lanyard_agent_upstream_calls_total Unreachable", "lanyard_agent_refresh_lag_seconds",
		} {
			if got[name] == 0 {
				t.Errorf("%s is zero", name)
			}
		}
	})
}

// namedToken is a token of a name, which named reads.
func namedToken(name string) string {
	return liveToken() + base64.RawURLEncoding.EncodeToString([]byte(name))
}

func named(token string) string {
	_, text, _ := strings.Cut(token, ".AAAA")
	name, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return string(name)
}

func TestNoRetentionMeansNoCache(t *testing.T) {
	calls := 0
	a, _ := newAgent(t, agent.Config{Retain: -1, MaxEntries: 100, Fetch: func(context.Context, string) (agent.Credentials, error) {
		calls++
		return someCredentials, nil
	}})
	for range 3 {
		if status, _, body := get(t, a, "GET", agent.LinkLocalIPv4, "/v1/credentials", liveToken()); status != 200 {
			t.Fatal(status, body)
		}
	}
	if calls != 3 {
		t.Errorf("%d calls", calls)
	}
}

func TestLogTellsNoSecrets(t *testing.T) {
	var text strings.Builder
	h, _ := newAgent(t, agent.Config{Fetch: give(someCredentials, nil), Log: slog.New(slog.NewJSONHandler(&text, nil))})
	live := liveToken()
	get(t, h, "GET", agent.LinkLocalIPv4, "/v1/credentials", live)
	fmt.Fprintf(&text, "%v %+v %#v", someCredentials, someCredentials, someCredentials)
	log, _, _ := strings.Cut(text.String(), "\n")
	for _, secret := range []string{"secret\"", "session\"", live, "{ASIAEXAMPLE secret"} {
		if strings.Contains(text.String(), secret) {
			t.Errorf("%q is in %s", secret, text.String())
		}
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(log), &line); err != nil {
		t.Fatal(err)
	}
	if line["cluster-name"] != "demo" || line["status"] != 200.0 || line["client-addr"] == nil {
		t.Errorf("logged %v", line)
	}
}
