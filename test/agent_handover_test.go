//go:build linux

package test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// agents are the processes of agents on a node, as the manifests' containers start them.
type agents struct {
	*node
	dir      string // for sockets
	identity []string
}

// start starts a command of the agent's program, which ends with the test.
func (a *agents) start(capabilities []string, args ...string) *process {
	a.t.Helper()
	cmd := a.restricted(strings.Join(capabilities, ",+"), args...)
	cmd.Env = append(cmd.Env, "AWS_REGION="+a.server.env["AWS_REGION"], "AWS_ENDPOINT_URL=http://"+controlPlane)
	cmd.Stdout, cmd.Stderr = a.t.Output(), a.t.Output()
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	p := &process{cmd, make(chan error, 1)}
	go func() { p.ended <- cmd.Wait() }()
	a.t.Cleanup(func() { p.end(syscall.SIGKILL) })
	return p
}

type process struct {
	*exec.Cmd
	ended chan error
}

// end sends a signal, and returns what the process ended with.
func (p *process) end(s syscall.Signal) error {
	if err := p.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := <-p.ended
	p.ended <- err // for who asks again
	return err
}

// hold starts a holder, and waits until it offers the sockets.
func (a *agents) hold() *process {
	a.t.Helper()
	before := a.offers("hold")
	p := a.start([]string{"net_admin", "net_bind_service"}, "hold", "--handover="+a.dir)
	a.eventually("the holder", func() error {
		if slices.ContainsFunc(a.offers("hold"), func(f string) bool { return !slices.Contains(before, f) }) {
			return nil
		}
		return errors.New("it offers nothing")
	})
	return p
}

// serve starts a server, which has no rights, and waits until it is ready.
func (a *agents) serve() *process {
	a.t.Helper()
	own := filepath.Join(a.dir, fmt.Sprintf("health-%d", time.Now().UnixNano()))
	p := a.start(nil, slices.Concat([]string{"server", "--handover=" + a.dir, "--health-socket=" + own}, a.identity)...)
	a.eventually("the server", func() error {
		out, err := a.command(binary("lanyard-agent"), "health", "--socket="+own).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	return p
}

func (a *agents) offers(from string) []string {
	a.t.Helper()
	files, err := filepath.Glob(filepath.Join(a.dir, from+".*"))
	if err != nil {
		a.t.Fatal(err)
	}
	return files
}

func (a *agents) eventually(what string, f func() error) {
	a.t.Helper()
	for tick := time.Tick(20 * time.Millisecond); ; {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick:
		case <-a.t.Context().Done():
			a.t.Fatalf("%s: %v", what, err)
		}
	}
}

// ask asks for credentials by a client that does not try again.
func (a *agents) ask(client *http.Client, token string) error {
	r, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, credentialsIPv4, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", token)
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return err
}

// No request fails while agents take each other's place, and no connection is refused when they are killed: whoever was not being answered yet is
// answered by the next one.
func TestAgentsTakeEachOthersPlace(t *testing.T) {
	t.Parallel()
	s := startDevForAgents(t)
	n := &node{newNamespace(t), s, nil}
	n.relay = startRelay(t, n.listen(controlPlane), s.env["AWS_ENDPOINT_URL"], 0)
	dir, err := os.MkdirTemp("", "agents") // a short name, as those of Unix sockets have to be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	a := &agents{n, dir, n.agentIdentity()}
	token := n.token("app-0")

	hold, serve := a.hold(), a.serve()
	var killing atomic.Bool
	var stopped atomic.Bool
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stopped.Store(true)
	answered := make([]atomic.Int64, 4)
	for i := range answered {
		clients.Go(func() {
			client := n.client()
			client.Transport.(*http.Transport).DisableKeepAlives = i%2 == 0
			for !stopped.Load() {
				tolerant := killing.Load()
				switch err := a.ask(client, token); {
				case err == nil:
					answered[i].Add(1)
				case errors.Is(err, syscall.ECONNREFUSED) || !tolerant && !killing.Load():
					t.Error(err)
					return
				}
			}
		})
	}
	goOn := func() { // each client is answered anew
		t.Helper()
		for i := range answered {
			want := answered[i].Load() + 3
			a.eventually("answers", func() error {
				if t.Failed() || answered[i].Load() >= want {
					return nil
				}
				return errors.New("a client waits")
			})
		}
	}
	stop := func(p *process) {
		t.Helper()
		if err := p.end(syscall.SIGTERM); err != nil {
			t.Errorf("told to end, %q ended with %v", p.Args, err)
		}
	}
	kill := func(p *process) {
		t.Helper()
		if err := p.end(syscall.SIGKILL); err == nil {
			t.Errorf("%q had ended", p.Args)
		}
	}
	goOn()

	// An upgrade: the next ones are there before.
	nextHold := a.hold()
	next := a.serve()
	goOn()
	stop(hold)
	stop(serve)
	hold, serve = nextHold, next
	goOn()

	// The next one cannot serve, and leaves all to the one that can.
	health := filepath.Join(a.dir, "health")
	useless := a.start(nil, slices.Concat([]string{"server", "--handover=" + a.dir, "--health-socket=" + health}, a.identity, []string{"--role-arn=" + agentRole + "-none"})...)
	a.eventually("that it is not ready", func() error {
		out, err := a.command(binary("lanyard-agent"), "health", "--socket="+health).CombinedOutput()
		if err == nil || strings.Contains(string(out), "500") {
			return nil
		}
		return fmt.Errorf("%w: %s", err, out)
	})
	goOn()
	if a.command(binary("lanyard-agent"), "health", "--socket="+health).Run() == nil {
		t.Error("what cannot serve is ready")
	}
	stop(useless)

	// A holder that has ended, one way or another, takes the sockets back.
	for _, end := range []func(*process){stop, kill} {
		next := a.hold()
		end(hold)
		hold = next
		goOn()
	}
	kill(hold)
	goOn()
	hold = a.hold()

	// A server is told to end while there is no other.
	stop(serve)
	serve = a.serve()
	goOn()

	// A server is killed. What it was about to answer is lost.
	killing.Store(true)
	kill(serve)
	serve = a.serve()
	goOn()
	killing.Store(false)
	goOn()

	// None is left: then the node drops what is sent to the agent's address, until there is one again.
	stopped.Store(true)
	clients.Wait()
	kept := n.addresses()
	done := make(chan error, 1)
	go func() { done <- hold.end(syscall.SIGTERM) }() // it waits for the server
	a.eventually("the holder is to end", func() error {
		if len(a.offers("hold")) > 0 {
			return errors.New("it offers sockets")
		}
		return nil
	})
	stop(serve)
	if err := <-done; err != nil {
		t.Errorf("the holder ended with %v", err)
	}
	if got := n.addresses(); slices.ContainsFunc(got, func(a string) bool { return strings.Contains(a, " on ") }) {
		t.Errorf("the node has %q", got)
	}
	if routes := n.must("ip", "route", "show", "table", "main"); !strings.Contains(routes, "blackhole 169.254.170.23") {
		t.Errorf("the node does not drop what is sent to the agent: %s", routes)
	}
	a.hold()
	a.serve()
	same(t, "the addresses", kept, n.addresses())
	if err := a.ask(n.client(), token); err != nil {
		t.Error(err)
	}
}
