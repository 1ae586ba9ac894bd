package agent_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/agent"
)

// BenchmarkCachedHits compares answers from memory with those of a handler that only writes the same bytes, by turns, over two
// connections each, from a client that does nothing but write the request and count the bytes of the answer. Its figure
// "ratio" is the agent's requests per second divided by the other's. Then each is asked half as often as the agent could answer.
func BenchmarkCachedHits(b *testing.B) {
	c := newCluster(b, "k")
	keys := loadedKeys(b, c)
	u := &upstream{t: b, life: time.Hour}
	a, _ := newAgent(b, agent.Config{Fetch: u.fetch, Verify: keys.Verify, Retain: time.Hour, MaxEntries: 2000, Log: slog.New(slog.NewJSONHandler(io.Discard, nil))})
	_, address := serving(b, a, slog.New(slog.DiscardHandler))
	token := c.token("pod-0", 0)
	for i := range 2000 {
		if status, body, err := askOver(b.Context(), http.DefaultClient, address, c.token(podName(i), 0)); status != 200 {
			b.Fatal(status, body, err)
		}
	}
	_, body, err := askOver(b.Context(), http.DefaultClient, address, token)
	if err != nil {
		b.Fatal(err)
	}
	bytes := []byte(body)
	_, bareAddress := serving(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(bytes)))
		if _, err := w.Write(bytes); err != nil {
			b.Error(err)
		}
	}), slog.New(slog.DiscardHandler))

	request := []byte("GET /v1/credentials HTTP/1.1\r\nHost: 169.254.170.23\r\nUser-Agent: Boto3/1.43\r\nAccept: */*\r\nAuthorization: " + token + "\r\n\r\n")
	round := func(address string) func(n int) {
		var connections [2]net.Conn
		for i := range connections {
			connection, err := net.Dial("tcp", address)
			if err != nil {
				b.Fatal(err)
			}
			connections[i] = connection
			b.Cleanup(func() { connection.Close() })
		}
		answer := exchange(b, connections[0], request, 0)
		return func(n int) {
			var all sync.WaitGroup
			for _, connection := range connections {
				all.Go(func() {
					for range n / len(connections) {
						exchange(b, connection, request, answer)
					}
				})
			}
			all.Wait()
		}
	}
	hits, bare := round(address), round(bareAddress)
	const turn = 2000
	var forHits, forBare time.Duration
	for b.Loop() {
		start := time.Now()
		hits(turn)
		middle := time.Now()
		bare(turn)
		forHits, forBare = forHits+middle.Sub(start), forBare+time.Since(middle)
	}
	n := float64(b.N * turn)
	b.ReportMetric(n/forHits.Seconds(), "hits/s")
	b.ReportMetric(n/forBare.Seconds(), "bare/s")
	b.ReportMetric(forBare.Seconds()/forHits.Seconds(), "ratio")
	b.StopTimer()
	for name, to := range map[string]string{"half-load-p99-ms": address, "bare-half-load-p99-ms": bareAddress} {
		b.ReportMetric(atRate(b, to, request, n/forHits.Seconds()/2), name)
	}
}

// atRate has 16 connections ask as often in a second as perSecond says, for a second, and returns the 99th percentile of their
// waits in milliseconds.
func atRate(b *testing.B, address string, request []byte, perSecond float64) float64 {
	const connections = 16
	period := time.Duration(connections / perSecond * float64(time.Second))
	waits := make([][]time.Duration, connections)
	var all sync.WaitGroup
	for i := range waits {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		defer connection.Close()
		answer := exchange(b, connection, request, 0)
		all.Go(func() {
			next := time.Now().Add(period * time.Duration(i) / connections)
			for end := next.Add(time.Second); next.Before(end); next = next.Add(period) {
				time.Sleep(time.Until(next)) // the load that is wanted leaves the server time
				start := time.Now()
				exchange(b, connection, request, answer)
				waits[i] = append(waits[i], time.Since(start))
			}
		})
	}
	all.Wait()
	sorted := slices.Concat(waits...)
	slices.Sort(sorted)
	return float64(sorted[len(sorted)*99/100].Microseconds()) / 1000
}

// exchange sends a request and reads an answer of the given length, which is returned; zero takes what comes.
func exchange(b *testing.B, c net.Conn, request []byte, length int) int {
	var buffer [8192]byte
	if _, err := c.Write(request); err != nil {
		b.Error(err)
		return 0
	}
	if length > 0 {
		if _, err := io.ReadFull(c, buffer[:length]); err != nil {
			b.Error(err)
		}
		return length
	}
	n, err := c.Read(buffer[:])
	if err != nil || !strings.HasPrefix(string(buffer[:n]), "HTTP/1.1 200 OK") {
		b.Errorf("%s, %v", buffer[:n], err)
	}
	return n
}

func loadedKeys(t testing.TB, c *cluster) *agent.Keys {
	t.Helper()
	keys := agent.NewKeys(func(context.Context) ([]byte, error) { return c.jwks(), nil }, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	go keys.Run(ctx)
	for _, err := keys.Verify(ctx, c.token("x", 0)); err != nil; _, err = keys.Verify(ctx, c.token("x", 0)) {
		runtime.Gosched()
	}
	return keys
}

// BenchmarkHerd has 200 callers ask at once with one token, over 200 connections, of an EKS Auth that takes 50 ms, and then
// 1,000 pods with a token each. Its figures are the median and the 99th percentile of their waits, and of those of callers of a
// handler that only takes as long and writes as much, by turns: what the machine and the clients add is in both.
func BenchmarkHerd(b *testing.B) {
	const takes = 50 * time.Millisecond
	c := newCluster(b, "k")
	for _, bench := range []struct {
		name          string
		callers, pods int
		perSecond     int
	}{
		{"200 callers of one token", 200, 1, 0},
		{"1000 pods", 1000, 1000, 0},
		{"1000 pods with a limit of 5000 per second", 1000, 1000, 5000},
	} {
		b.Run(bench.name, func(b *testing.B) {
			log := slog.New(slog.NewJSONHandler(io.Discard, nil))
			verify := loadedKeys(b, c).Verify
			_, bareAddress := serving(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "x" {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				time.Sleep(takes) // as the other's EKS Auth does
				w.Write(make([]byte, 500))
			}), log)
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: bench.callers}}
			defer client.CloseIdleConnections()
			var waits, bare []time.Duration
			for b.Loop() {
				// A node that has just started: nothing is kept, and no call was made.
				u := &upstream{t: b, takes: takes, life: time.Hour}
				a, _ := newAgent(b, agent.Config{
					Fetch: u.fetch, Verify: verify, Retain: time.Hour, MaxEntries: 5000, FetchesPerSecond: bench.perSecond, Log: log,
				})
				_, address := serving(b, a, log)
				tokens := make([]string, bench.callers)
				for i := range tokens {
					tokens[i] = c.token(podName(i%bench.pods), i%bench.pods)
				}
				waits = append(waits, herd(b, client, address, tokens)...)
				bare = append(bare, herd(b, client, bareAddress, tokens)...)
				if got := len(u.made()); got != bench.pods {
					b.Fatalf("%d calls for %d pods", got, bench.pods)
				}
			}
			for name, list := range map[string][]time.Duration{"": waits, "bare-": bare} {
				slices.Sort(list)
				b.ReportMetric(float64(list[len(list)/2].Microseconds())/1000, name+"p50-ms")
				b.ReportMetric(float64(list[len(list)*99/100].Microseconds())/1000, name+"p99-ms")
			}
		})
	}
}

// herd has a caller for each token ask at once, over a connection each that is open already, and returns their waits.
func herd(b *testing.B, client *http.Client, address string, tokens []string) []time.Duration {
	took := make([]time.Duration, len(tokens))
	begin := make(chan struct{})
	var open, all sync.WaitGroup
	open.Add(len(tokens))
	for i := range tokens {
		all.Go(func() {
			if status, _, err := askOver(b.Context(), client, address, "x"); status != 400 {
				b.Error(status, err)
			}
			open.Done()
			<-begin
			start := time.Now()
			if status, body, err := askOver(b.Context(), client, address, tokens[i]); status != 200 {
				b.Error(status, body, err)
			}
			took[i] = time.Since(start)
		})
	}
	open.Wait()
	close(begin)
	all.Wait()
	return took
}

// BenchmarkHandler is a hit without the network.
func BenchmarkHandler(b *testing.B) {
	c := newCluster(b, "k")
	u := &upstream{t: b, life: time.Hour}
	a, _ := newAgent(b, agent.Config{Fetch: u.fetch, Verify: loadedKeys(b, c).Verify, Log: slog.New(slog.NewJSONHandler(io.Discard, nil))})
	r, err := http.NewRequest("GET", "http://"+agent.LinkLocalIPv4+agent.Path, nil)
	if err != nil {
		b.Fatal(err)
	}
	r.RemoteAddr = "10.0.0.1:1"
	r.Header.Set("Authorization", c.token("a", 0))
	w := &sink{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		a.ServeHTTP(w, r)
	}
}

type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(int)             {}
