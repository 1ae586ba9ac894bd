// Command soak puts mixed load on a lanyard-agent whose EKS Auth fails in all the ways that it can, and checks that each
// answer is for the pod that asked, that what must be refused is, that pods get credentials whenever EKS Auth is well, that
// no token or secret is logged, and that memory and goroutines are in the end what they were at first.
//
//	go run ./test/soak -duration 10m
//
// It ends with status 1 when something is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

func main() {
	var c config
	flag.DurationVar(&c.duration, "duration", 10*time.Minute, "how long the load lasts")
	flag.IntVar(&c.pods, "pods", 500, "pods on the node")
	flag.IntVar(&c.rate, "rate", 300, "requests per second")
	flag.StringVar(&c.agent, "agent", "", "lanyard-agent to try (default: it is built)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, c, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

type config struct {
	duration   time.Duration
	pods, rate int
	agent      string // the program's path
}

// How much more there may be in the end than before the load.
const (
	moreGoroutines = 10
	moreHeap       = 4 << 20 // bytes, and half of what there was
	settleFor      = time.Minute
)

func run(ctx context.Context, c config, out io.Writer) error {
	if flag.NArg() > 0 || c.duration <= 0 || c.pods <= 0 || c.rate <= 0 {
		return errors.New("all flags must be positive, and there are no arguments")
	}
	ctx, cancel := context.WithTimeout(ctx, c.duration+5*time.Minute) // for a machine on which all of it hangs
	defer cancel()
	if c.agent == "" {
		dir, err := os.MkdirTemp("", "lanyard-soak-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c.agent = filepath.Join(dir, "lanyard-agent")
		build := exec.CommandContext(ctx, "go", "build", "-o", c.agent, "github.com/lanyard-id/lanyard/cmd/lanyard-agent")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build the agent: %w", err)
		}
	}
	node, err := newNode(c.pods)
	if err != nil {
		return err
	}
	up, err := startUpstream(node)
	if err != nil {
		return err
	}
	defer up.close()
	a, err := startAgent(ctx, c.agent, up.url)
	if err != nil {
		return err
	}
	defer a.kill()

	l := newLoad(a.credentials, node, up)
	if err := l.warmUp(ctx); err != nil {
		return err
	}
	l.rest()
	before, err := a.measure(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%8s  %v\n", "before", before)

	loaded, stop := context.WithTimeout(ctx, c.duration)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.run(loaded, c.rate)
	}()
	go up.fail(loaded)
	begun := time.Now()
	for tick := time.Tick(max(c.duration/10, time.Second)); ; {
		select {
		case <-tick:
			now, err := a.measure(ctx)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%8v  %v\n", time.Since(begun).Round(time.Second), now)
			continue
		case <-ended:
		}
		break
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	l.rest()
	after, flat, err := settle(ctx, a, before)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%8s  %v\n\n", "after", after)
	if !flat {
		l.fault("it was %v before, and is %v %v after the load", before, after, settleFor)
	}
	if err := a.stop(); err != nil {
		l.fault("the agent does not stop as it should: %v", err)
	}
	for _, leak := range a.leaks() {
		l.fault("logged: %s", leak)
	}
	return l.summary(out, up.calls(), a.lines())
}

// settle measures until the agent is back at what it was, or that has lasted too long.
func settle(ctx context.Context, a *agent, before usage) (after usage, flat bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	for tick := time.Tick(time.Second); ; {
		now, err := a.measure(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return after, false, nil
			}
			return after, false, err
		}
		after = now
		if after.goroutines <= before.goroutines+moreGoroutines && after.heap <= before.heap+before.heap/2+moreHeap {
			return after, true, nil
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return after, false, nil
		}
	}
}

// summary prints what was done, and returns an error if anything was wrong.
func (l *load) summary(out io.Writer, calls map[string]int, lines int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	print := func(title string, counts map[string]int) {
		fmt.Fprintln(out, title)
		var names []string
		for name := range counts {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintf(out, "  %9d  %s\n", counts[name], name)
		}
	}
	print("requests", l.counts)
	print("calls to EKS Auth", calls)
	slices.Sort(l.took)
	if n := len(l.took); n > 0 {
		fmt.Fprintf(out, "answers while EKS Auth was well: median %v, p99 %v, longest %v\n", l.took[n/2], l.took[n*99/100], l.took[n-1])
	}
	fmt.Fprintf(out, "%d lines of log\n", lines)
	if l.faults == 0 {
		fmt.Fprintln(out, "all is well")
		return nil
	}
	for _, f := range l.first {
		fmt.Fprintln(out, "WRONG:", f)
	}
	return fmt.Errorf("%d things were wrong", l.faults)
}
