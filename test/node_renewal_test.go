//go:build e2e && linux

package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// stay starts a pod whose program keeps one client of the SDK for Go. The account's tokens are for ten minutes, the shortest there are.
func (in *installation) stay(way string, args ...string) (name string) {
	in.Helper()
	in.kubectl("annotate", "serviceaccount", "-n", web, way, "--overwrite", "eks.amazonaws.com/token-expiration=600")
	program := goProgram(in.T, "./nodes/stay")
	name = "stay-" + way
	in.start(in.programs(pod(name, way, append([]string{program}, args...)...), filepath.Dir(program)))
	return name
}

// lifetime is what a pod of stay's has seen so far.
type lifetime struct {
	calls        int
	tokens, keys []string // each once, in their order
	longest      int      // how many calls one access key was good for
}

// lifeOf reads it. The error is one that the program saw.
func (in *installation) lifeOf(ctx context.Context, name, role string) (lifetime, error) {
	out, err := in.api.CoreV1().Pods(web).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return lifetime{}, err
	}
	var l lifetime
	run := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if !strings.HasSuffix(line, "\n") {
			break
		}
		if len(words) != 3 || !strings.HasPrefix(words[2], role+"/") {
			return l, fmt.Errorf("after %d calls it saw: %s", l.calls, line)
		}
		l.calls++
		if n := len(l.tokens); n == 0 || l.tokens[n-1] != words[0] {
			l.tokens = append(l.tokens, words[0])
		}
		if n := len(l.keys); n == 0 || l.keys[n-1] != words[1] {
			l.keys, run = append(l.keys, words[1]), 0
		}
		run++
		l.longest = max(l.longest, run)
	}
	return l, nil
}

// always has the SDK renew its credentials at every call, since all of them end within a day.
const always = "-early=24h"

// renewal has the kubelet, which asks for tokens anew when it starts, give running pods other tokens. The same client goes on with them.
func (in *installation) renewal() {
	in.ownNode("the kubelet cannot be restarted: LANYARD_LONG=1 has TestRenewalWhenItIsDue wait for it")
	names := map[string]string{}
	for way := range ways {
		names[way] = in.stay(way, always, "-every=100ms")
	}
	first := map[string]lifetime{}
	for way, role := range ways {
		in.eventually(names[way]+" is to be served", func(ctx context.Context) error {
			l, err := in.lifeOf(ctx, names[way], role)
			if err == nil && l.calls == 0 {
				err = fmt.Errorf("not yet")
			}
			first[way] = l
			return err
		})
	}
	if err := in.node.RestartKubelet(); err != nil {
		in.Fatal(err)
	}
	for way, role := range ways {
		in.eventually(names[way]+" is to be served with another token", func(ctx context.Context) error {
			l, err := in.lifeOf(ctx, names[way], role)
			if err == nil && (len(l.tokens) < 2 || l.calls < first[way].calls+20) {
				err = fmt.Errorf("%d calls with %d tokens", l.calls, len(l.tokens))
			}
			if err == nil {
				in.Logf("%s: %d calls, %d tokens, %d access keys", names[way], l.calls, len(l.tokens), len(l.keys))
			}
			return err
		})
		in.remove(names[way])
	}
}

// Tokens are renewed by the kubelet and sessions by the SDK when each is due, at their shortest, and no call fails. This takes as long as
// they live: LANYARD_LONG=1 asks for it.
func TestRenewalWhenItIsDue(t *testing.T) {
	if os.Getenv("LANYARD_LONG") == "" {
		t.Skip("this takes 20 minutes: LANYARD_LONG=1 asks for it")
	}
	in := cluster(t)
	in.must("install, and register the cluster", (*installation).begin)
	names := map[string]string{"irsa": in.stay("irsa", "-session=15m"), "pods": in.stay("pods", always)}
	end := time.After(20 * time.Minute)
	for tick := time.Tick(10 * time.Second); ; {
		done := true
		for way, role := range ways {
			l, err := in.lifeOf(t.Context(), names[way], role)
			if err != nil && (l.calls > 0 || strings.Contains(err.Error(), "it saw")) {
				t.Fatalf("%s: %v", names[way], err)
			}
			enough := len(l.tokens) >= 3 && (way != "irsa" || len(l.keys) >= 2)
			done = done && enough
			if enough {
				t.Logf("%s: %d calls, %d tokens, %d access keys, of which one was good for %d calls", names[way], l.calls, len(l.tokens), len(l.keys), l.longest)
			}
		}
		if done {
			return
		}
		select {
		case <-tick:
		case <-end:
			t.Fatal("after 20 minutes not all was renewed")
		}
	}
}
