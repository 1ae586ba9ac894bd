package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// asProgram makes the test binary be the program.
const asProgram = "LANYARD_AGENT_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// fakeEKSAuth gives credentials to everybody.
func fakeEKSAuth(t testing.TB, sessionToken string, check func(*http.Request)) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if check != nil {
			check(r)
		}
		fmt.Fprintf(w, `{"assumedRoleUser":{"arn":"arn:aws:sts::111122223333:assumed-role/r/s","assumeRoleId":"AROAEXAMPLE:s"},
			"credentials":{"sessionToken":%q,"secretAccessKey":"s","accessKeyId":"ASIAEXAMPLE","expiration":%d}}`, sessionToken, time.Now().Add(6*time.Hour).Unix())
	}))
	t.Cleanup(s.Close)
	return s
}

func unsignedToken(claims string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".AA"
}

// While one agent is replaced by the next, again and again, by way of a socket that is held meanwhile, no request fails.
func TestRestartsDropNothing(t *testing.T) {
	eksAuth := fakeEKSAuth(t, "t", nil)
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	socket, err := held.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	_, port, err := net.SplitHostPort(held.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	start := func() *exec.Cmd {
		c := exec.CommandContext(t.Context(), "/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0],
			"server", "-c", "demo", "-b", "127.0.0.1", "-p", port, "--probe-port", "0", "--metrics-address", "127.0.0.1", "--metrics-port", "0", "--endpoint", eksAuth.URL,
			"--service-timeout", patience)
		c.Env = []string{asProgram + "=1", "LISTEN_FDS=1", "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=AKIANODE", "AWS_SECRET_ACCESS_KEY=secret",
			"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "GORACE=" + os.Getenv("GORACE")}
		c.ExtraFiles = []*os.File{socket}
		c.Stdout, c.Stderr = t.Output(), t.Output()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	token := unsignedToken(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(time.Hour).Unix()))
	ask := func() error {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+held.Addr().String()+"/v1/credentials", nil)
		if err != nil {
			return err
		}
		r.Host = "169.254.170.23"
		r.Header.Set("Authorization", token)
		response, err := client.Do(r)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s, %w", response.Status, body, err)
		}
		return nil
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var answered atomic.Int64
	var clients sync.WaitGroup
	agent := start()
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if err := ask(); err != nil {
					t.Error(err)
					return
				}
				answered.Add(1)
			}
		})
	}
	for restart := range 4 {
		for want := answered.Load() + 50; answered.Load() < want && !t.Failed(); {
			if err := ask(); err != nil {
				t.Fatal(err)
			}
		}
		next := agent
		if restart%2 == 0 {
			next = start() // before the other one stops
		}
		if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := agent.Wait(); err != nil {
			t.Error(err)
		}
		if next == agent {
			next = start()
		}
		agent = next
	}
	if err := ask(); err != nil {
		t.Error(err)
	}
	stop()
	clients.Wait()
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := agent.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d requests were answered", answered.Load())
}

func TestInherited(t *testing.T) {
	env := map[string]string{}
	getenv := func(name string) string { return env[name] }
	for _, tt := range []struct {
		name string
		env  map[string]string
		ok   bool
	}{
		{"nothing is handed over", nil, true},
		{"what is handed over is another process's", map[string]string{"LISTEN_PID": "8", "LISTEN_FDS": "1"}, true},
		{"not a number", map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "x"}, false},
		{"negative", map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, false},
		{"too many", map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "17"}, false},
	} {
		env = tt.env
		if got, err := inherited(getenv, "7"); len(got) != 0 || (err == nil) != tt.ok {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
	}
}

// Profiles are only there when asked for, and only on localhost.
func TestProfiles(t *testing.T) {
	for _, on := range []bool{false, true} {
		c := &serverConfig{metricsAddress: "127.0.0.1", profile: on}
		servers, err := c.admin(nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), http.NotFoundHandler())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range servers {
			w := httptest.NewRecorder()
			s.Handler.ServeHTTP(w, httptest.NewRequest("GET", "/debug/pprof/heap", nil))
			if (w.Code == http.StatusOK) != (on && s.Name == "probes") {
				t.Errorf("asked for: %t, on %s: %d", on, s.Name, w.Code)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
