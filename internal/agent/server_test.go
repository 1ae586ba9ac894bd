package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-id/lanyard/internal/agent"
)

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serving runs a server on a free port until the test ends.
func serving(t testing.TB, h http.Handler, log *slog.Logger) (s *agent.Server, address string) {
	t.Helper()
	l := listen(t)
	s = agent.NewServer(h, []net.Listener{l}, log)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

// Every kind of bad request gets its answer, and leaves nothing behind: no goroutine, no connection, no entry, no call, and
// hardly a line of log.
func TestBadRequests(t *testing.T) {
	var log lockedBuffer
	u := &upstream{t: t, life: time.Hour}
	a, registry := newAgent(t, agent.Config{Fetch: u.fetch, Log: slog.New(slog.NewTextHandler(&log, nil))})
	s, address := serving(t, a, slog.New(slog.NewTextHandler(&log, nil)))
	good := newCluster(t, "k").token("a", 0)
	const head = "GET /v1/credentials HTTP/1.1\r\nHost: 169.254.170.23\r\n"
	requests := []struct {
		name, text string
		want       string // of the answer
	}{
		{"no token", head + "\r\n", "400 Bad Request|Service account token cannot be empty"},
		{"a scheme", head + "Authorization: Bearer " + good + "\r\n\r\n", "400 Bad Request|token is malformed"},
		{"a token of bytes", head + "Authorization: \xff\xfe\xfd\r\n\r\n", "400 Bad Request|invalid number of segments"},
		{"a token of control characters", head + "Authorization: a\x01b\r\n\r\n", "400 Bad Request|400 Bad Request"},
		{"a token with NUL", head + "Authorization: a\x00b\r\n\r\n", "400 Bad Request|"},
		{"two tokens of which the first is bad", head + "Authorization: x\r\nAuthorization: " + good + "\r\n\r\n", "400 Bad Request|Service account token"},
		{"a token that is too long", head + "Authorization: " + strings.Repeat("a", 25000) + "\r\n\r\n", "400 Bad Request|longer than 20000 bytes"},
		{"64 KiB of headers", head + "Authorization: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", "431 Request Header Fields Too Large"},
		{"many headers", head + strings.Repeat("A: b\r\n", 20000) + "\r\n", "431 Request Header Fields Too Large"},
		{"deep JSON", head + "Authorization: e30." + strings.Repeat("W1tb", 4000) + ".AA\r\n\r\n", "400 Bad Request|token is malformed"},
		{"an HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 Bad Request|"},
		{"HTTP/3.0", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505 HTTP Version Not Supported|"},
		{"no HTTP", "hello\r\n\r\n", "400 Bad Request|"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400 Bad Request|"},
		{"no host", "GET /v1/credentials HTTP/1.1\r\n\r\n", "400 Bad Request|missing required Host header"},
		{"two hosts", "GET /v1/credentials HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request|400 Bad Request"},
		{"another host", "GET /v1/credentials HTTP/1.1\r\nHost: evil.example\r\nAuthorization: " + good + "\r\n\r\n", "403 Forbidden|Access Denied."},
		{"another host by the URL", "GET http://evil.example/v1/credentials HTTP/1.1\r\nHost: 169.254.170.23\r\n\r\n", "403 Forbidden|Access Denied."},
		{"another path", "GET /v1/credentials/../x HTTP/1.1\r\nHost: 169.254.170.23\r\n\r\n", "30"},
		{"a proxy's request", "CONNECT 10.0.0.1:80 HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n", "404 Not Found|"},
		{"an unknown transfer encoding", head + "Transfer-Encoding: x\r\n\r\n", "501 Not Implemented|"},
		{"both lengths", head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 Bad Request|"},
		{"a good one after all", head + "Authorization: " + good + "\r\n\r\n", `200 OK|"AccessKeyId":"ASIA.a."`},
	}
	// An answer shows that all of the server's own goroutines run.
	if status, body, err := askOver(t.Context(), &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, address, ""); status != 400 {
		t.Fatal(status, body, err)
	}
	before := runtime.NumGoroutine()
	for _, tt := range requests {
		for _, halfClose := range []bool{false, true} {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, tt.text) //nolint:errcheck // the server may have answered and closed before it has read all
			if halfClose {
				if err := c.(*net.TCPConn).CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
					t.Error(err)
				}
			}
			var got string
			if response, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
				body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
				if err != nil && tt.want[0] == '2' {
					t.Errorf("%s: %v", tt.name, err)
				}
				got = response.Status + "|" + string(body)
			}
			status, text, _ := strings.Cut(tt.want, "|")
			// A client that sends more than is read may find the connection reset before it has read the answer.
			if !strings.HasPrefix(got, status) && len(tt.text) < 32<<10 || got != "" && !strings.Contains(got, text) {
				t.Errorf("%s: got %.300q, want %q", tt.name, got, tt.want)
			}
			c.Close()
		}
	}
	u.wantCalls(1)
	for s.Connections() > 0 || runtime.NumGoroutine() > before {
		runtime.Gosched() // until the test's time limit
	}
	if got := gather(t, registry)["lanyard_agent_cache_entries"]; got != 1 {
		t.Errorf("%v entries", got)
	}
	if lines := strings.Count(log.String(), "\n"); lines > 6 {
		t.Errorf("%d lines of log:\n%s", lines, log.String())
	}
	if strings.Contains(log.String(), good) {
		t.Error("a token is in the log")
	}
}

// lockedBuffer takes a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Clients that send slowly, or nothing, are cut off, in the time of a bubble and over a network of pipes.
func TestSlowClientsAreCutOff(t *testing.T) {
	for _, tt := range []struct {
		name   string
		first  string
		every  string // is sent each second
		within time.Duration
	}{
		{"nothing", "", "", 6 * time.Second},
		{"a header, a byte at a time", "GET /v1/credentials HTTP/1.1\r\nX: ", "x", 6 * time.Second},
		{"a body, a byte at a time", "POST /v1/credentials HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", "x", 12 * time.Second},
		{"no second request", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "", 2*time.Minute + 2*time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _ := newAgent(t, agent.Config{Fetch: give(someCredentials, nil)})
				pipes := newPipes()
				s := agent.NewServer(a, []net.Listener{pipes}, slog.New(slog.DiscardHandler))
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- s.Serve(ctx) }()
				c := pipes.dial()
				start := time.Now()
				go io.Copy(io.Discard, c) //nolint:errcheck // it ends when the server has closed
				_, err := io.WriteString(c, tt.first)
				for err == nil && time.Since(start) < time.Hour {
					<-time.After(time.Second)
					if tt.every != "" {
						_, err = io.WriteString(c, tt.every)
					} else if synctest.Wait(); s.Connections() == 0 {
						break
					}
				}
				if took := time.Since(start); took > tt.within {
					t.Errorf("cut off after %s", took)
				}
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// pipes is a listener whose connections are in memory, so that they live in a synctest bubble.
type pipes struct {
	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once
	accept   func() error // may fail
}

func newPipes() *pipes { return &pipes{incoming: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.incoming <- server
	return client
}

func (p *pipes) Accept() (net.Conn, error) {
	if p.accept != nil {
		if err := p.accept(); err != nil {
			return nil, err
		}
	}
	select {
	case c := <-p.incoming:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(169, 254, 170, 23), Port: 80} }

// What the probes say follows from what happens to the listeners.
func TestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		a, _ := newAgent(t, agent.Config{Fetch: func(context.Context, string) (agent.Credentials, error) {
			<-release
			return someCredentials, nil
		}})
		var mu sync.Mutex
		var acceptErr error
		first, second := newPipes(), newPipes()
		second.accept = func() error {
			mu.Lock()
			defer mu.Unlock()
			return acceptErr
		}
		s := agent.NewServer(a, []net.Listener{first, second}, slog.New(slog.DiscardHandler))
		probes := agent.NewProbes(
			func() error { return errors.Join(s.Healthy(), a.Healthy()) }, func() error { return errors.Join(s.Ready(), a.Ready()) },
			slog.New(slog.NewTextHandler(t.Output(), nil)))
		want := func(path string, status int, when string) {
			t.Helper()
			got, _, body := get(t, probes, "GET", "localhost:2703", path, "")
			text := ""
			if status == 500 {
				text = "Internal Server Error occurred"
			}
			if got != status || body != text {
				t.Errorf("%s: %s is %d %q, want %d %q", when, path, got, body, status, text)
			}
		}
		want("/healthz", 200, "before it serves")
		want("/readyz", 500, "before it serves")
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ctx) }()
		synctest.Wait()
		want("/healthz", 200, "serving")
		want("/readyz", 200, "serving")

		mu.Lock()
		acceptErr = &net.OpError{Op: "accept", Err: syscall.EMFILE} // which net/http takes for temporary
		mu.Unlock()
		second.dial().Close() // the last that is accepted
		<-time.After(30 * time.Second)
		want("/healthz", 200, "when it cannot accept for half a minute")
		want("/readyz", 500, "when it cannot accept for half a minute")
		<-time.After(40 * time.Second)
		want("/healthz", 500, "when it cannot accept for over a minute")
		mu.Lock()
		acceptErr = nil
		mu.Unlock()
		<-time.After(10 * time.Second)
		want("/healthz", 200, "when it can accept again")
		want("/readyz", 200, "when it can accept again")

		busy := first.dial() // a request that holds up the stop
		if _, err := io.WriteString(busy, "GET /v1/credentials HTTP/1.1\r\nHost: 169.254.170.23\r\nAuthorization: "+liveToken()+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stop()
		synctest.Wait()
		want("/healthz", 200, "stopping")
		want("/readyz", 500, "stopping")
		close(release)
		if response, err := http.ReadResponse(bufio.NewReader(busy), nil); err != nil || response.StatusCode != 200 {
			t.Errorf("the request in flight got %v, %v", response, err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestProbesThatTakeTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		released := make(chan struct{})
		stuck := func() error {
			<-released
			return nil
		}
		probes := agent.NewProbes(stuck, func() error { return nil }, slog.New(slog.NewTextHandler(t.Output(), nil)))
		start := time.Now()
		if status, _, body := get(t, probes, "GET", "localhost:2703", "/healthz", ""); status != 408 || body != "" || time.Since(start) != 10*time.Second {
			t.Errorf("got %d %q after %s", status, body, time.Since(start))
		}
		close(released)
	})
}

// A listener that fails for good ends the server with its error.
func TestAServerWhoseListenerFailsEnds(t *testing.T) {
	l := listen(t)
	l.Close()
	other := listen(t)
	err := agent.NewServer(http.NotFoundHandler(), []net.Listener{other, l}, slog.New(slog.DiscardHandler)).Serve(t.Context())
	if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

// A stop answers what is under way.
func TestStopAnswersWhatIsUnderWay(t *testing.T) {
	c := newCluster(t, "k")
	entered, release := make(chan struct{}), make(chan struct{})
	u := &upstream{t: t, life: time.Hour}
	a, _ := newAgent(t, agent.Config{Fetch: func(ctx context.Context, token string) (agent.Credentials, error) {
		close(entered)
		<-release
		return u.fetch(ctx, token)
	}})
	l := listen(t)
	s := agent.NewServer(a, []net.Listener{l}, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	answer := make(chan string, 1)
	go func() {
		status, body, err := askOver(t.Context(), http.DefaultClient, l.Addr().String(), c.token("a", 0))
		answer <- fmt.Sprint(status, body, err)
	}()
	<-entered
	stop()
	for s.Ready() == nil {
		runtime.Gosched()
	}
	close(release)
	if got := <-answer; !strings.HasPrefix(got, `200{"AccessKeyId":"ASIA.a."`) {
		t.Errorf("got %s", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// askOver asks over the network.
func askOver(ctx context.Context, client *http.Client, address, token string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+address+agent.Path, nil)
	if err != nil {
		return 0, "", err
	}
	r.Host = agent.LinkLocalIPv4
	r.Header.Set("Authorization", token)
	response, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// Whatever a client sends as host and token, it gets one of the statuses that there are, in plain text, and what is sent on
// to EKS Auth is a token that parses.
func FuzzRequest(f *testing.F) {
	c := newCluster(f, "k")
	good := c.token("a", 0)
	f.Add("169.254.170.23", good)
	f.Add("[fd00:ec2::23]:80", "Bearer "+good)
	f.Add("evil.example", "")
	f.Add("169.254.170.23:80:80", "a.b.c")
	f.Add("[169.254.170.23", "\x00\xff")
	keys := loadedKeys(f, c)
	a, _ := newAgent(f, agent.Config{Verify: keys.Verify, FetchesPerPod: 1 << 20, Log: slog.New(slog.DiscardHandler), Fetch: func(_ context.Context, token string) (agent.Credentials, error) {
		if token == good {
			return someCredentials, nil
		}
		return agent.Credentials{}, &agent.APIError{Status: 400, Code: "InvalidTokenException", Message: "no"}
	}})
	f.Fuzz(func(t *testing.T, host, token string) {
		r := httptest.NewRequest("GET", "http://x"+agent.Path, nil)
		r.Host = host
		r.Header.Set("Authorization", token)
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		body, kind := w.Body.String(), w.Header().Get("Content-Type")
		switch {
		case w.Code == 200 && token == good && kind == "application/json" && strings.Contains(host, agent.LinkLocalIPv4) || strings.Contains(host, agent.LinkLocalIPv6):
		case (w.Code == 400 || w.Code == 403 || w.Code == 429) && strings.HasPrefix(kind, "text/plain") && strings.HasSuffix(body, "\n"):
		default:
			t.Errorf("host %q, token %q: %d %s %q", host, token, w.Code, kind, body)
		}
		if strings.Contains(body, "the-secret") {
			t.Error("a secret")
		}
	})
}
