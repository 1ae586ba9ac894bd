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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// callers are pods that ask for credentials all the time, by real SDKs with their default retries.
type callers []string

// startLoad starts a program of each of two SDKs by the ways, and waits until all have been served.
func (in *installation) startLoad(name string, ways ...string) callers {
	in.Helper()
	return in.startCallers(name, in.loops()[:2], ways...)
}

// loop is a program that asks again and again.
type loop struct {
	sdk     string
	command []string
	folders []string // that its pod needs
}

// loops are the programs, one of each SDK that this machine has.
func (in *installation) loops() []loop {
	in.Helper()
	dir, sources := cache(in.T), absolute(in.T, "nodes")
	file := goProgram(in.T, "./nodes/loop")
	all := []loop{
		{"go", []string{file}, []string{filepath.Dir(file)}},
		{"boto3", []string{filepath.Join(dir, "python", "bin", "python"), filepath.Join(sources, "loop.py")}, []string{sources}},
	}
	java := []string{"java", "-cp", filepath.Join(dir, "java", "target", "dependency", "*"), filepath.Join(sources, "Loop.java")}
	for _, c := range []client{
		{install: "js", command: []string{"node", filepath.Join(sources, "loop.mjs"), filepath.Join(dir, "js")}},
		{install: "java", command: java},
	} {
		if c.missing(in.T, dir) {
			in.Logf("without %s: its toolchain is not on this machine", c.install)
		} else {
			all = append(all, loop{c.install, c.inPod(in.T), []string{sources}})
		}
	}
	return all
}

// startCallers starts programs by the ways, and waits until all have been served.
func (in *installation) startCallers(name string, loops []loop, ways ...string) callers {
	in.Helper()
	var l callers
	for _, way := range ways {
		for _, loop := range loops {
			p := in.programs(pod(name+"-"+loop.sdk+"-"+way, way, loop.command...), loop.folders...)
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

// call is a line that one of these pods has written.
type call struct {
	took    time.Duration
	failure string // what the program saw, if it was not served
}

// lines reads what one of these pods has written.
func (in *installation) lines(ctx context.Context, pod string) (all []call, err error) {
	out, err := in.api.CoreV1().Pods(web).GetLogs(pod, &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		took, said, _ := strings.Cut(strings.TrimSpace(line), " ")
		ms, err := strconv.Atoi(took)
		if err != nil {
			return all, fmt.Errorf("it wrote %q", line)
		}
		c := call{took: time.Duration(ms) * time.Millisecond}
		if !strings.HasPrefix(said, "is "+sessionsOf) {
			c.failure = said
		}
		all = append(all, c)
	}
	return all, nil
}

// calls reads what one of these pods has written: how many calls were answered, and how long the longest took. The error is one that the
// program saw, unless it is tolerated.
func (in *installation) calls(ctx context.Context, pod string, tolerated ...string) (calls int, longest time.Duration, err error) {
	all, err := in.lines(ctx, pod)
	for _, c := range all {
		longest = max(longest, c.took)
		switch {
		case c.failure == "":
			calls++
		case !slices.ContainsFunc(tolerated, func(text string) bool { return strings.Contains(c.failure, text) }):
			return calls, longest, errors.Join(fmt.Errorf("after %d calls it saw: %s", calls, c.failure), err)
		}
	}
	return calls, longest, err
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

// processesOf prints the IDs of the processes whose command line begins as its arguments say.
const processesOf = `for p in /proc/[0-9]*; do case "$(tr '\0' ' ' <"$p/cmdline")" in "$*"*) echo "${p#/proc/}";; esac; done 2>/dev/null`

// process finds the node's process of a command of the agent's program, by its first arguments, in a pod that sees all of them.
func (in *installation) process(args ...string) (pid string, err error) {
	in.Helper()
	out, err := in.node.Kubectl(in.Context(), append([]string{"exec", "-n", web, processes, "--", "sh", "-c", processesOf, "sh", "/lanyard-agent"}, args...)...)
	if err != nil {
		return "", err
	}
	if found := strings.Fields(string(out)); len(found) == 1 {
		return found[0], nil
	}
	return "", fmt.Errorf("the processes %q are %q", args, out)
}

// processes is the pod that sees the node's processes, and may kill them.
const processes = "processes"

func (in *installation) startProcesses() {
	in.Helper()
	p := in.programs(pod(processes, "default", "sleep", "infinity"))
	p.Spec.HostPID = true
	in.start(p)
	in.kubectl("wait", "-n", web, "pod/"+processes, "--for=condition=Ready", "--timeout="+patience.String())
}

// kill ends a process of the agent's at once, and waits until there is another.
func (in *installation) kill(args ...string) {
	in.Helper()
	before, err := in.process(args...)
	if err != nil {
		in.Fatal(err)
	}
	in.kubectl("exec", "-n", web, processes, "--", "sh", "-c", `kill -9 "$1"`, "sh", before)
	begun := time.Now()
	in.eventually("another process", func(context.Context) error {
		now, err := in.process(args...)
		if err == nil && now == before {
			err = errors.New("not yet")
		}
		return err
	})
	in.Logf("another process %q was there after %v", args, time.Since(begun).Round(time.Millisecond))
}

// another waits until another pod is the only agent, and ready.
func (in *installation) another(before *corev1.Pod) {
	in.Helper()
	in.eventually("another agent", func(ctx context.Context) error {
		now, err := in.agent(ctx)
		if err == nil && now.UID == before.UID {
			err = errors.New("not yet")
		}
		return err
	})
	in.rollout("daemonset/lanyard-agent")
}

// agentsUnderLoad has agents end in all ways that there are, and be replaced, while pods ask for credentials. None is to see an error.
func (in *installation) agentsUnderLoad() {
	in.startProcesses()
	l := in.startCallers("across-agents", in.loops(), "pods")
	for _, c := range []struct {
		name string
		do   func(in *installation, agent *corev1.Pod)
	}{
		{"the serving process is killed", func(in *installation, _ *corev1.Pod) { in.kill("server") }},
		{"its container is killed", func(in *installation, _ *corev1.Pod) {
			in.kill("supervise")
			in.rollout("daemonset/lanyard-agent")
		}},
		{"the container that holds its sockets is killed", func(in *installation, _ *corev1.Pod) {
			in.kill("hold")
			in.rollout("daemonset/lanyard-agent")
		}},
		{"its pod is deleted", func(in *installation, agent *corev1.Pod) {
			in.kubectl("delete", "pod", "-n", release, agent.Name, "--wait=false")
			in.another(agent)
		}},
		{"its pod is deleted by force", func(in *installation, agent *corev1.Pod) {
			in.kubectl("delete", "pod", "-n", release, agent.Name, "--wait=false", "--grace-period=0", "--force")
			in.another(agent)
		}},
		{"an upgrade", func(in *installation, agent *corev1.Pod) {
			in.upgrade(`{agent: {podAnnotations: {round: "3"}}}`)
			in.another(agent)
		}},
		{"a rollback", func(in *installation, agent *corev1.Pod) {
			in.rollback()
			in.another(agent)
		}},
	} {
		in.step(c.name, func(in *installation) {
			agent, err := in.agent(in.Context())
			if err != nil {
				in.Fatal(err)
			}
			before := l.count(in)
			c.do(in, agent)
			l.goesOn(in, before)
		})
	}
	for _, pod := range append(l, processes) {
		in.remove(pod)
	}
}

// count returns how many lines each has written.
func (l callers) count(in *installation) map[string]int {
	in.Helper()
	lines := map[string]int{}
	for _, pod := range l {
		all, err := in.lines(in.Context(), pod)
		if err != nil {
			in.Fatal(err)
		}
		lines[pod] = len(all)
	}
	return lines
}

// goesOn wants each to be served from now on, and to have seen no error since it had written some lines.
func (l callers) goesOn(in *installation, since map[string]int) {
	in.Helper()
	now := l.count(in)
	for _, pod := range l {
		var after []call
		in.eventually(pod+" is to be served again", func(ctx context.Context) error {
			all, err := in.lines(ctx, pod)
			if err != nil {
				return err
			}
			if after = all[since[pod]:]; len(all) < now[pod]+5 || after[len(after)-1].failure != "" {
				err = fmt.Errorf("it made %d calls since, the last saw %+v", len(after), after)
			}
			return err
		})
		var errs int
		var longest time.Duration
		for _, c := range after {
			longest = max(longest, c.took)
			if c.failure != "" {
				errs++
				in.Errorf("%s saw after %v: %s", pod, c.took, c.failure)
			}
		}
		in.Logf("%s: %d calls, %d errors, the longest took %v", pod, len(after), errs, longest)
	}
}
