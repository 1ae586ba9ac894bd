//go:build linux

package test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace that stands for a node: with a loopback link, and no way to anything else.
type namespace struct {
	t    testing.TB
	name string
}

// newNamespace makes a network namespace for the test. The test is left out where that cannot be done, unless this is CI.
func newNamespace(t testing.TB) *namespace {
	t.Helper()
	n := &namespace{t, "lanyard-test-" + rand.Text()}
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		why := fmt.Sprintf("no network namespaces, which need root and iproute2: %v %s", err, out)
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", n.name).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
	n.must("ip", "link", "set", "lo", "up")
	return n
}

// command is one to be run in the namespace. Its process is the program's own.
func (n *namespace) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command("ip", append([]string{"netns", "exec", n.name, program}, args...)...)
	for _, v := range cleanEnvironment() {
		if !strings.HasPrefix(strings.ToLower(v), "http_proxy=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	return cmd
}

// must runs a program in the namespace, and returns what it printed.
func (n *namespace) must(program string, args ...string) string {
	n.t.Helper()
	out, err := n.command(program, args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// in runs f on a thread that is in the namespace. Sockets stay where they are made.
func (n *namespace) in(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		done <- func() error {
			file, err := os.Open(filepath.Join("/run/netns", n.name))
			if err != nil {
				return err
			}
			defer file.Close()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", n.name, err)
			}
			return f()
		}()
	}()
	return <-done
}

// listen listens in the namespace.
func (n *namespace) listen(address string) net.Listener {
	n.t.Helper()
	var l net.Listener
	err := n.in(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return l
}

// client connects from within the namespace.
func (n *namespace) client() *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = n.in(func() (err error) {
			c, err = new(net.Dialer).DialContext(ctx, network, address) // an IP address, and so on this thread
			return err
		})
		return c, err
	}}
	n.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
