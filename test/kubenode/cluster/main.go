// Command cluster runs a Kubernetes cluster of one node until it is interrupted: see package kubenode.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/lanyard-id/lanyard/test/kubenode"
	"github.com/lanyard-id/lanyard/test/kubenode/internal/pid1"
)

const usage = `usage: cluster up [FOLDER]    run a node until it is interrupted, with its files in a folder; build what is missing first
       cluster build          build what a node needs
       cluster exec PID CMD…  run a command in the network of a node's process`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	config := kubenode.Config{Out: os.Stderr}
	switch {
	case len(args) > 0 && len(args) < 3 && args[0] == "up":
		config.Dir = strings.Join(args[1:], "")
		return up(ctx, config)
	case len(args) == 1 && args[0] == "build":
		return kubenode.Build(ctx, config)
	case len(args) > 2 && args[0] == "exec":
		pid, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return pid1.Exec(pid, args[2:])
	case len(args) == 4 && args[0] == "init": // what kubenode starts a node with
		return pid1.Run(args[1], args[2], args[3])
	}
	return errors.New(usage)
}

func up(ctx context.Context, config kubenode.Config) error {
	if err := kubenode.Supported(); err != nil {
		return err
	}
	if err := kubenode.Build(ctx, config); err != nil {
		return err
	}
	n, err := kubenode.Start(ctx, config)
	if err != nil {
		return err
	}
	fmt.Printf(`
The cluster is up, until Ctrl-C. At another terminal, as root:

  %[1]s/kubectl get pods -A
  %[1]s/ctr images import IMAGE.tar    (such as bin/images/lanyard-agent.tar, which "make images" makes)

Logs of its programs, and of pods: %[2]s
`, filepath.Dir(n.Kubeconfig()), n.Logs())
	select {
	case <-ctx.Done():
		return n.Stop()
	case <-n.Done():
		return errors.Join(errors.New(n.LogTails()), n.Stop())
	}
}
