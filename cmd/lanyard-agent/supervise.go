package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/lanyard-id/lanyard/internal/daemon"
)

// steady is how long a process must have run for its end to be an accident, after which the next may start at once.
const steady = 10 * time.Second

// supervise runs this program with arguments, as supervisor does. It is meant to be the first process of a container, whose end is that of all
// others.
func supervise(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 || args[0] == "supervise" {
		fmt.Fprintln(stderr, "usage: lanyard-agent supervise COMMAND [FLAGS]")
		return daemon.ErrUsage
	}
	// Its environment may have secrets, which are those of the program that it runs.
	if err := daemon.NoCoreDumps(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	log, err := daemon.NewLogger(stdout, "info", "json")
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	return (&supervisor{program, args, steady, stdout, stderr, log}).run(ctx)
}

// supervisor runs a program until it succeeds, and again whenever it fails after it had run for some time. If it fails sooner, so does run, and
// whoever called for it decides how long to wait. When ctx ends, the program is told to stop, and is waited for.
type supervisor struct {
	program        string
	args           []string
	steady         time.Duration
	stdout, stderr io.Writer
	log            *slog.Logger
}

func (s *supervisor) run(ctx context.Context) error {
	for {
		begun := time.Now()
		c := exec.CommandContext(ctx, s.program, s.args...)
		c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
		c.Stdout, c.Stderr = s.stdout, s.stderr
		err := c.Run()
		ran := time.Since(begun)
		switch {
		case err == nil, ctx.Err() != nil && (c.ProcessState == nil || c.ProcessState.Success()):
			return nil
		case ctx.Err() != nil || ran < s.steady:
			return fmt.Errorf("%s ended after %s: %w", s.args[0], ran.Round(time.Millisecond), err)
		}
		s.log.Error("process failed, and is started again", "command", s.args[0], "ran", ran, "err", err)
	}
}
