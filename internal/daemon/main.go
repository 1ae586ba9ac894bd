package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// ErrUsage is returned by a program that was called in a wrong way, once it has printed what is wrong with its usage.
var ErrUsage = errors.New("usage")

// Main runs a program with its arguments until it returns, and ends its context when it is told to stop; told again, it ends at once. Then the process exits: with
// 0, also after help was asked for; with 2 after ErrUsage; and with 1 after any other error, which is printed behind the name.
func Main(name string, run func(ctx context.Context, args []string, stdout, stderr io.Writer) error) {
	ctx, stop := context.WithCancel(context.Background())
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-told
		signal.Stop(told) // before anybody can see that the program stops, and tell it again
		stop()
	}()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	signal.Stop(told)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, ErrUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}

// ParseFlags parses arguments that are flags only. The set prints what is wrong with a flag, and help: then the error is ErrUsage or
// flag.ErrHelp.
func ParseFlags(flags *flag.FlagSet, args []string) error {
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return ErrUsage
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return nil
}
