//go:build e2e && linux

package test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// life is how long credentials live in these tests. The agent hands none out in the last fifteen seconds.
const life = 30 * time.Second

// needs leaves the test out when the client is not installed.
func (c client) needs(t *testing.T, dir string) {
	t.Helper()
	if c.missing(t, dir) {
		leftOut(t, "its toolchain is not on this machine")
	}
}

// missing reports whether the machine lacks what the client is made with.
func (c client) missing(t *testing.T, dir string) bool {
	t.Helper()
	missing, err := os.ReadFile(filepath.Join(dir, "missing"))
	if err != nil {
		t.Fatalf("the clients are not installed (run make e2e, or test/clients/install.sh): %v", err)
	}
	return slices.Contains(strings.Fields(string(missing)), c.install)
}

// Official SDKs in a pod's place: from the agent's link-local addresses, on port 80, in a namespace that is nothing but a node.
func TestClientsOnANode(t *testing.T) {
	dir := cache(t)
	s := startDevForAgents(t)
	n := startNode(t, newNamespace(t), s, life)
	slots := make(chan struct{}, 2) // as in TestUnmodifiedClients
	for _, c := range clients(dir) {
		if c.intercepted {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			c.needs(t, dir)
			t.Parallel()
			for _, uri := range []string{credentialsIPv4, credentialsIPv6} {
				slots <- struct{}{}
				cmd := n.command(c.command[0], c.command[1:]...)
				cmd.Env = append(cmd.Env, n.podEnvironment(uri, n.token("app"))...)
				var errs strings.Builder
				cmd.Stderr = &errs
				out, err := cmd.Output()
				<-slots
				if err != nil {
					t.Fatalf("%s: %v\n%s%s", uri, err, out, errs.String())
				}
				check(t, out, "arn:aws:sts::"+account+":assumed-role/dev-s3-sa")
			}
		})
	}
}

// A client of each SDK outlives its credentials, and then those that came after them. Its calls go on, and what it holds is
// never too old; most of the time the agent answers from memory.
func TestClientsAcrossExpiry(t *testing.T) {
	dir := cache(t)
	s := startDevForAgents(t)
	n := startNode(t, newNamespace(t), s, life)
	for _, c := range clients(dir) {
		if c.intercepted || c.name == "AWS CLI" { // which does not live that long
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			c.needs(t, dir)
			t.Parallel()
			token := n.token("app")
			cmd := n.command(c.command[0], append(slices.Clone(c.command[1:]), "identities")...)
			cmd.Env = append(cmd.Env, n.podEnvironment(credentialsIPv4, token)...)
			cmd.Stderr = t.Output()
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			var sessions []string
			calls := 0
			lines := bufio.NewScanner(out)
			begun := time.Now()
			for tick := time.Tick(time.Second); len(sessions) < 3 || time.Since(begun) < life*3/2; <-tick {
				if time.Since(begun) > 5*life {
					t.Fatalf("after %v it has had only the sessions %q", time.Since(begun), sessions)
				}
				fmt.Fprintln(in)
				if !lines.Scan() {
					t.Fatalf("it ended after %d calls: %v", calls, cmd.Wait())
				}
				calls++
				who := lines.Text()
				if !strings.HasPrefix(who, "arn:aws:sts::"+account+":assumed-role/dev-s3-sa/eks-dev-app-") {
					t.Fatalf("it is %q", who)
				}
				if !slices.Contains(sessions, who) {
					sessions = append(sessions, who)
				}
			}
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
			mints := n.relay.mints(token)
			t.Logf("%d calls in %v, %d sessions, Lanyard was asked %d times", calls, time.Since(begun).Round(time.Second), len(sessions), mints)
			if mints*4 > calls {
				t.Errorf("Lanyard was asked %d times for %d calls", mints, calls)
			}
		})
	}
}
