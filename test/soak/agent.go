package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// agent is the running program under test.
type agent struct {
	cmd         *exec.Cmd
	credentials string // host:port
	probes      string // host:port
	ended       chan struct{}

	mu     sync.Mutex
	at     map[string]string // by server, as its log says
	keys   bool              // it has loaded them
	logged int               // lines
	leaked []string
	grown  chan struct{} // has room for one
	err    error         // of its end
}

// startAgent runs the program, and waits until it serves and has the cluster's keys.
func startAgent(ctx context.Context, program, upstream string) (*agent, error) {
	a := &agent{at: map[string]string{}, grown: make(chan struct{}, 1), ended: make(chan struct{})}
	a.cmd = exec.Command(program, "server", "--cluster-name", "soak", "--endpoint", upstream, "--jwks-url", upstream+"/jwks",
		"--bind-hosts", "127.0.0.1", "--port", "0", "--probe-port", "0", "--metrics-address", "127.0.0.1", "--metrics-port", "0",
		"--max-service-qps", "100", "--pprof")
	a.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=AKIASOAK", "AWS_SECRET_ACCESS_KEY=" + secretMark,
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
	}
	a.cmd.Stderr = os.Stderr
	log, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	go func() {
		defer close(a.ended)
		a.read(log)
		a.err = a.cmd.Wait()
	}()
	for !a.ready() {
		select {
		case <-a.grown:
		case <-a.ended:
			return nil, fmt.Errorf("the agent ended: %w", a.err)
		case <-ctx.Done():
			a.kill()
			return nil, ctx.Err()
		}
	}
	a.credentials, a.probes = a.at["credentials"], a.at["probes"]
	return a, nil
}

// read follows the log.
func (a *agent) read(log io.Reader) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Message string `json:"msg"`
			Server  string
			Address string `json:"bind-addr"`
		}
		text := lines.Text()
		a.mu.Lock()
		a.logged++
		switch err := json.Unmarshal([]byte(text), &line); {
		case err != nil || strings.Contains(text, "eyJ") || strings.Contains(text, secretMark): // which a token begins with
			if len(a.leaked) < 10 {
				a.leaked = append(a.leaked, text)
			}
		case line.Message == "listening":
			a.at[line.Server] = line.Address
		case line.Message == "keys loaded":
			a.keys = true
		}
		a.mu.Unlock()
		select {
		case a.grown <- struct{}{}:
		default:
		}
	}
}

func (a *agent) ready() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.keys && a.at["credentials"] != "" && a.at["probes"] != ""
}

// leaks returns lines of the log that hold a token or a secret, or are no JSON.
func (a *agent) leaks() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leaked
}

func (a *agent) lines() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.logged
}

// stop ends the agent as Kubernetes does.
func (a *agent) stop() error {
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-a.ended:
		return a.err
	case <-time.After(30 * time.Second):
		return errors.New("it still runs after 30 s")
	}
}

func (a *agent) kill() {
	a.cmd.Process.Kill()
	<-a.ended
}

// usage is what the agent uses.
type usage struct {
	goroutines int
	heap       int // bytes that are in use after a collection
	resident   int // bytes
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %.1f MiB of heap, %.1f MiB resident", u.goroutines, float64(u.heap)/(1<<20), float64(u.resident)/(1<<20))
}

var (
	goroutineTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)
	heapAlloc      = regexp.MustCompile(`# HeapAlloc = (\d+)`)
	residentSet    = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)
)

func (a *agent) measure(ctx context.Context) (u usage, err error) {
	profile := func(name string) string {
		if err != nil {
			return ""
		}
		var text []byte
		text, err = get(ctx, "http://"+a.probes+"/debug/pprof/"+name)
		return string(text)
	}
	number := func(pattern *regexp.Regexp, text string) int {
		found := pattern.FindStringSubmatch(text)
		if err != nil || found == nil {
			err = errors.Join(err, fmt.Errorf("no %v", pattern))
			return 0
		}
		var n int
		n, err = strconv.Atoi(found[1])
		return n
	}
	u.goroutines = number(goroutineTotal, profile("goroutine?debug=1"))
	u.heap = number(heapAlloc, profile("heap?gc=1&debug=1"))
	status, statusErr := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	if statusErr == nil { // on Linux
		u.resident = number(residentSet, string(status)) << 10
	}
	if err != nil {
		return u, fmt.Errorf("measure the agent: %w", err)
	}
	return u, nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Close = true
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, reply.Status)
	}
	return io.ReadAll(reply.Body)
}
