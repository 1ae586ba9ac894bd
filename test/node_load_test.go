//go:build e2e && linux

package test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// callers are pods that ask for credentials all the time, by real SDKs with their default retries.
type callers []string

// startLoad starts a program of each of two SDKs by the ways, and waits until all have been served.
func (in *installation) startLoad(name string, ways ...string) callers {
	in.Helper()
	loop := goProgram(in.T, "./nodes/loop")
	python := []string{filepath.Join(cache(in.T), "python", "bin", "python"), absolute(in.T, "nodes/loop.py")}
	var l callers
	for _, way := range ways {
		for sdk, command := range map[string][]string{"go": {loop}, "boto3": python} {
			p := in.programs(pod(name+"-"+sdk+"-"+way, way, command...), filepath.Dir(loop), absolute(in.T, "nodes"))
			p.Spec.TerminationGracePeriodSeconds = new(int64(30))
			in.start(p)
			l = append(l, p.Name)
		}
	}
	for _, pod := range l {
		in.eventually(pod+" is to be served", func(ctx context.Context) error {
			calls, _, err := in.calls(ctx, pod)
			if err == nil && calls == 0 {
				err = errors.New("not yet")
			}
			return err
		})
	}
	return l
}

// calls reads what one of these pods has written: how many calls were answered, and how long the longest took. The error is one that the
// program saw, unless it is tolerated.
func (in *installation) calls(ctx context.Context, pod string, tolerated ...string) (calls int, longest time.Duration, err error) {
	out, err := in.api.CoreV1().Pods(web).GetLogs(pod, &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		took, said, _ := strings.Cut(strings.TrimSpace(line), " ")
		ms, err := strconv.Atoi(took)
		if err != nil {
			return calls, longest, fmt.Errorf("it wrote %q", line)
		}
		longest = max(longest, time.Duration(ms)*time.Millisecond)
		switch {
		case strings.HasPrefix(said, "is "+sessionsOf):
			calls++
		case !slices.ContainsFunc(tolerated, func(text string) bool { return strings.Contains(said, text) }):
			return calls, longest, fmt.Errorf("after %d calls it saw: %s", calls, said)
		}
	}
	return calls, longest, nil
}

// serves wants each of these pods to be served from now on, and to have seen no error till then but those that are tolerated; then it ends
// them.
func (l callers) serves(in *installation, tolerated ...string) {
	in.Helper()
	for _, pod := range l {
		before, _, err := in.calls(in.Context(), pod, tolerated...)
		if err != nil {
			in.Errorf("%s: %v", pod, err)
			in.remove(pod)
			continue
		}
		in.eventually(pod+" is to be served again", func(ctx context.Context) error {
			now, longest, err := in.calls(ctx, pod, tolerated...)
			if err == nil && now < before+3 {
				err = fmt.Errorf("it made %d calls", now-before)
			}
			if err == nil {
				in.Logf("%s: %d calls, the longest took %v", pod, now, longest)
			}
			return err
		})
		in.remove(pod)
	}
}

// agent returns the pod of the node's agent.
func (in *installation) agent(ctx context.Context) (*corev1.Pod, error) {
	pods, err := in.api.CoreV1().Pods(release).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=lanyard-agent"})
	switch {
	case err != nil:
		return nil, err
	case len(pods.Items) != 1:
		return nil, fmt.Errorf("there are %d agents", len(pods.Items))
	}
	return &pods.Items[0], nil
}

// botocoreGaveUp is what boto3 says when it could not connect three times within two seconds. A busy node takes longer to replace an agent,
// which cannot be there twice; the SDK for Go goes on for longer, and is to see nothing.
const botocoreGaveUp = `Could not connect to the endpoint URL: "http://169.254.170.23/v1/credentials"`

// agentsUnderLoad deletes the agent's pod, and has another template take its place, while pods are served.
func (in *installation) agentsUnderLoad() {
	l := in.startLoad("across-agents", "irsa", "pods")
	for _, c := range []struct {
		name string
		do   func(agent *corev1.Pod)
	}{
		{"its pod is deleted", func(agent *corev1.Pod) {
			in.kubectl("delete", "pod", "-n", release, agent.Name, "--wait=false")
		}},
		{"another template", func(*corev1.Pod) { in.upgrade(`{agent: {podAnnotations: {round: "3"}}}`) }},
	} {
		before, err := in.agent(in.Context())
		if err != nil {
			in.Fatal(err)
		}
		c.do(before)
		in.eventually(c.name+": another agent", func(ctx context.Context) error {
			now, err := in.agent(ctx)
			if apierrors.IsNotFound(err) || err == nil && now.UID == before.UID {
				err = errors.New("not yet")
			}
			return err
		})
		in.rollout("daemonset/lanyard-agent")
	}
	l.serves(in, botocoreGaveUp)
}
