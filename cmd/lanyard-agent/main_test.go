package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/daemon"
)

func TestParseServer(t *testing.T) {
	defaults := serverConfig{
		cluster: "demo", port: 80, probePort: 2703, metricsAddress: "0.0.0.0", metricsPort: 2705,
		retain: 3 * time.Hour, cacheSize: 2000, perSecond: 3, verbosity: "info",
		timeout: time.Second, fetchesPerSecond: 500, fetchesPerPod: 64,
	}
	tests := []struct {
		args string
		want func(*serverConfig) // nil: refused
	}{
		{"-c demo", func(*serverConfig) {}},
		{"--cluster-name demo", func(*serverConfig) {}},
		{"--cluster-name=demo -p 81 --probe-port 1 --metrics-port 2 --metrics-address 127.0.0.1", func(c *serverConfig) {
			c.port, c.probePort, c.metricsPort, c.metricsAddress = 81, 1, 2, "127.0.0.1"
		}},
		{"-c demo --port 0", func(c *serverConfig) { c.port = 0 }},
		{"-c demo -b 169.254.170.23", func(c *serverConfig) { c.bindHosts = []string{"169.254.170.23"} }},
		{"-c demo -b 127.0.0.1 --bind-hosts [fd00:ec2::23]", func(c *serverConfig) { c.bindHosts = []string{"127.0.0.1", "fd00:ec2::23"} }},
		{"-c demo --max-cache-size 0", func(c *serverConfig) { c.cacheSize = 0 }},
		{"-c demo --max-credential-retention-before-renewal 0", func(c *serverConfig) { c.retain = 0 }},
		{"-c demo --max-service-qps 10 --endpoint https://x -v debug --rotate-credentials", func(c *serverConfig) {
			c.perSecond, c.endpoint, c.verbosity, c.rotateCredentials = 10, "https://x", "debug", true
		}},
		{"-c demo --service-timeout 2s --max-fetch-qps 1000 --max-fetches-per-pod 10 --pprof", func(c *serverConfig) {
			c.timeout, c.fetchesPerSecond, c.fetchesPerPod, c.profile = 2*time.Second, 1000, 10, true
		}},
		{"-c demo --token-review 30s", func(c *serverConfig) { c.tokenReview = 30 * time.Second }},
		{"-c demo --role-arn arn:aws:iam::111122223333:role/agent --web-identity-token-file /t", func(c *serverConfig) {
			c.roleARN, c.tokenFile = "arn:aws:iam::111122223333:role/agent", "/t"
		}},
		{"-c demo --jwks-url https://kubernetes.default.svc/openid/v1/jwks --jwks-ca-file /ca --jwks-token-file /t", func(c *serverConfig) {
			c.jwksURL, c.jwksCA, c.jwksToken = "https://kubernetes.default.svc/openid/v1/jwks", "/ca", "/t"
		}},
		{"-c demo --jwks-url http://127.0.0.1:8001/keys", func(c *serverConfig) { c.jwksURL = "http://127.0.0.1:8001/keys" }},
		{"-c demo --jwks-file /keys", func(c *serverConfig) { c.jwksFile = "/keys" }},
		{"-c demo --jwks-url http://cluster.example/keys", nil}, // anybody on the way could be any pod
		{"-c demo --jwks-url /keys", nil},
		{"-c demo --jwks-url https://a --jwks-file /keys", nil},
		{"-c demo --jwks-ca-file /ca", nil},
		{"-c demo --jwks-file /keys --jwks-token-file /t", nil},
		{"-c demo --role-arn arn:aws:iam::111122223333:role/agent", nil},
		{"-c demo --web-identity-token-file /t", nil},
		{"-c demo --handover /run/x --health-socket /run/y", func(c *serverConfig) { c.handover, c.healthSocket = "/run/x", "/run/y" }},
		{"-c demo --role-arn agent --web-identity-token-file /t", nil},
		{"-c demo --role-arn arn:aws:iam::111122223333:role/agent --web-identity-token-file /t --rotate-credentials", nil},
		{"-c demo --max-fetch-qps 0", nil},
		{"-c demo --service-timeout 0s", nil},
		{"-c demo --token-review 14s", nil},
		{"-c demo --token-review -30s", nil},
		{"", nil},
		{"-c demo extra", nil},
		{"-c demo --unknown", nil},
		{"-c demo -p 65536", nil},
		{"-c demo -p http", nil},
		{"-c demo --max-service-qps 0", nil},
		{"-c demo --max-cache-size -1", nil},
		{"-c demo --max-credential-retention-before-renewal -1s", nil},
		{"-c demo --max-credential-retention-before-renewal 5m --max-cache-size 2000", nil}, // 900 renewals in five minutes
	}
	for _, tt := range tests {
		got, err := parseServer(strings.Fields(tt.args), io.Discard)
		if (err == nil) != (tt.want != nil) {
			t.Errorf("%q: got error %v", tt.args, err)
			continue
		}
		if tt.want == nil {
			continue
		}
		want := defaults
		tt.want(&want)
		if diff := cmp.Diff(&want, got, cmp.AllowUnexported(serverConfig{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.args, diff)
		}
	}
}

func TestCommands(t *testing.T) {
	var out, errs bytes.Buffer
	if err := run(t.Context(), nil, &out, &errs); !errors.Is(err, daemon.ErrUsage) || !strings.Contains(errs.String(), "usage:") {
		t.Errorf("no command: %v, %s", err, &errs)
	}
	errs.Reset()
	if err := run(t.Context(), []string{"x"}, &out, &errs); !errors.Is(err, daemon.ErrUsage) || !strings.Contains(errs.String(), `"x"`) {
		t.Errorf("unknown command: %v, %s", err, &errs)
	}
	if err := run(t.Context(), []string{"initialize", "extra"}, &out, &errs); err == nil { // no test may change this machine's interfaces
		t.Error("initialize takes an argument")
	}
	for _, args := range [][]string{{"supervise"}, {"supervise", "supervise", "version"}} {
		if err := run(t.Context(), args, &out, &errs); !errors.Is(err, daemon.ErrUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
	for _, args := range []string{"hold", "hold --handover", "hold --handover /run/x --link=", "hold --handover /run/x extra", "health",
		"health --socket s --path /", "health --socket s extra", "hold --handover " + filepath.Join(t.TempDir(), "none")} {
		if err := run(t.Context(), strings.Fields(args), io.Discard, io.Discard); err == nil {
			t.Errorf("took %q", args)
		}
	}
	errs.Reset()
	if err := run(t.Context(), []string{"server", "-h"}, &out, &errs); !errors.Is(err, flag.ErrHelp) || !strings.Contains(errs.String(), "cluster-name") {
		t.Errorf("server -h: %v, %s", err, &errs)
	}
	if out.Len() > 0 {
		t.Errorf("printed %s", &out)
	}
	if err := run(t.Context(), []string{"version"}, &out, &errs); err != nil || out.Len() < 2 {
		t.Errorf("version: %v, %s", err, &out)
	}
}

func TestDefaultEndpoint(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL", "")
	t.Setenv("AWS_ENDPOINT_URL_EKS_AUTH", "")
	for region, want := range map[string]string{
		"us-west-2":     "https://eks-auth.us-west-2.api.aws",
		"cn-north-1":    "https://eks-auth.cn-north-1.api.amazonwebservices.com.cn",
		"us-gov-west-1": "https://eks-auth.us-gov-west-1.api.aws",
		"nowhere":       "",
	} {
		if got, err := defaultEndpoint(region); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", region, got, err, want)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL", "https://all.example")
	if got, err := defaultEndpoint("nowhere"); got != "https://all.example" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	t.Setenv("AWS_ENDPOINT_URL_EKS_AUTH", "https://one.example")
	if got, err := defaultEndpoint("nowhere"); got != "https://one.example" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// patience is how long agents wait for EKS Auth where that is not what is tested: the machine may be slow.
const patience = "1m"

// lockedBuffer takes the log of the running program.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
	grown chan struct{} // has room for one
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.grown <- struct{}{}:
	default:
	}
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSpace(b.Buffer.String()), "\n")
}

// addresses waits until the program listens everywhere, and reads where from its log.
func (b *lockedBuffer) addresses(t *testing.T, n int) map[string]string {
	t.Helper()
	for {
		found := map[string]string{}
		for _, text := range b.lines() {
			var line struct {
				Message string `json:"msg"`
				Server  string
				Address string `json:"bind-addr"`
			}
			if json.Unmarshal([]byte(text), &line) == nil && line.Message == "listening" {
				found[line.Server] = line.Address
			}
		}
		if len(found) == n {
			return found
		}
		select {
		case <-b.grown:
		case <-t.Context().Done():
			t.Fatalf("it listens on %v only", found)
		}
	}
}

// The whole program, between a pod and a fake EKS Auth.
func TestServer(t *testing.T) {
	calls := 0
	claims := fmt.Sprintf(`{"exp":%d}`, time.Now().Add(time.Hour).Unix())
	token := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".AA"
	eksAuth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		if !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIANODE/") || !strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/eks-auth/aws4_request") {
			t.Errorf("signed as %s", r.Header.Get("Authorization"))
		}
		if calls == 1 {
			w.Header().Set("X-Amzn-ErrorType", "ThrottlingException")
			w.Header().Set("X-Amzn-RequestId", "r-1")
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"message":"Rate exceeded"}`)
			return
		}
		fmt.Fprintf(w, `{"assumedRoleUser":{"arn":"arn:aws:sts::111122223333:assumed-role/r/s","assumeRoleId":"AROAEXAMPLE:s"},
			"credentials":{"sessionToken":"t","secretAccessKey":"s","accessKeyId":"ASIAEXAMPLE","expiration":%d}}`, time.Now().Add(6*time.Hour).Unix())
	}))
	defer eksAuth.Close()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIANODE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_REGION": "eu-west-1",
		"AWS_PROFILE": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_CA_BUNDLE": "",
		"HTTP_PROXY": "", "http_proxy": "",
	} {
		t.Setenv(name, value)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	log := &lockedBuffer{grown: make(chan struct{}, 1)}
	ended := make(chan error)
	go func() {
		ended <- run(ctx, []string{"server", "-c", "demo", "-b", "127.0.0.1", "-p", "0", "--probe-port", "0", "--metrics-address", "127.0.0.1", "--metrics-port", "0",
			"--endpoint", eksAuth.URL, "--service-timeout", patience}, log, io.Discard)
	}()
	at := log.addresses(t, 3)

	get := func(address, path, host, token string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		r.Header.Set("Authorization", token)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	if status, body := get(at["credentials"], "/v1/credentials", "169.254.170.23", token+"AA"); status != 429 || body != "[r-1]: (ThrottlingException): Rate exceeded, fault: client\n" {
		t.Errorf("throttled: %d %s", status, body)
	}
	for range 3 {
		status, body := get(at["credentials"], "/v1/credentials", "169.254.170.23", token)
		if status != 200 || !strings.Contains(body, `"AccessKeyId":"ASIAEXAMPLE"`) || !strings.Contains(body, `"AccountId":"111122223333"`) {
			t.Errorf("%d %s", status, body)
		}
	}
	if calls != 2 {
		t.Errorf("EKS Auth was called %d times", calls)
	}
	if status, _ := get(at["credentials"], "/v1/credentials", "127.0.0.1", token); status != 403 {
		t.Errorf("through the address it is bound to: %d", status)
	}
	for _, name := range []string{"probes", "metrics"} {
		for _, path := range []string{"/healthz", "/readyz"} {
			if status, body := get(at[name], path, "", ""); status != 200 || body != "" {
				t.Errorf("%s on %s: %d %s", path, name, status, body)
			}
		}
	}
	if status, body := get(at["metrics"], "/metrics", "", ""); status != 200 || !strings.Contains(body, `pod_identity_cache_state{state="hit"} 2`) {
		t.Errorf("metrics: %d %s", status, body)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, line := range log.lines() {
		if strings.Contains(line, token) || strings.Contains(line, `"secret"`) {
			t.Errorf("logged %s", line)
		}
	}
}

func TestServerDoesNotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
	for name, value := range map[string]string{"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": ""} {
		t.Setenv(name, value)
	}
	if err := run(t.Context(), []string{"server", "-c", "demo", "-b", "127.0.0.1", "-p", port}, io.Discard, io.Discard); err == nil {
		t.Error("starts on a port that is taken")
	}
	if err := run(t.Context(), []string{"server", "-c", "demo", "-v", "loud"}, io.Discard, io.Discard); err == nil {
		t.Error("starts with an unknown log level")
	}
	t.Setenv("AWS_REGION", "")
	if err := run(t.Context(), []string{"server", "-c", "demo"}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("without a region: %v", err)
	}
}
