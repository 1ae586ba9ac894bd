// Command lanyard is what people type: it runs Lanyard on one machine, keeps clusters, associations and roles, and
// runs commands as if they were in a pod.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	c := &cli{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	cmd, err := newRootCommand(c).ExecuteContextC(ctx)
	if err == nil {
		return
	}
	var exit exitError
	if errors.As(err, &exit) { // of the command that was run: it has said what there is to say
		os.Exit(int(exit))
	}
	fmt.Fprintln(os.Stderr, "error:", message(err))
	h := hint(err)
	if h == "" && !c.running {
		h = fmt.Sprintf("see `%s --help`", cmd.CommandPath())
	}
	if h != "" {
		fmt.Fprintln(os.Stderr, "hint:", h)
	}
	os.Exit(1)
}
