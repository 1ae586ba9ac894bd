package main

import (
	"errors"
	"flag"
	"io"
	"net/netip"

	"github.com/lanyard-id/lanyard/internal/agent"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/link"
)

// initializeConfig is what the flags of the initialize command say.
type initializeConfig struct {
	link      string
	cleanup   bool
	verbosity string
}

func parseInitialize(args []string, stderr io.Writer) (*initializeConfig, error) {
	c := &initializeConfig{}
	flags := flag.NewFlagSet("initialize", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&c.link, "link", link.DefaultName,
		"`name` of the link for the addresses; it is made unless it is there, where the kernel can; lo needs no further link")
	flags.BoolVar(&c.cleanup, "cleanup", false, "take from the node what this command has given it")
	verbosityFlag(flags, &c.verbosity)
	if err := daemon.ParseFlags(flags, args); err != nil {
		return nil, err
	}
	switch {
	case c.link == "":
		return nil, errors.New("--link must not be empty")
	}
	return c, nil
}

// initialize gives the node the addresses that the server command listens on, or takes them away.
func initialize(args []string, stdout, stderr io.Writer) error {
	c, err := parseInitialize(args, stderr)
	if err != nil {
		return err
	}
	log, err := daemon.NewLogger(stdout, c.verbosity, "json")
	if err != nil {
		return err
	}
	node := link.Config{Name: c.link, IPv4: netip.MustParseAddr(agent.LinkLocalIPv4), IPv6: netip.MustParseAddr(agent.LinkLocalIPv6)}
	if c.cleanup {
		done, err := link.Remove(node)
		if err != nil {
			return err
		}
		log.Info("addresses removed", "link", done.Link, "changed", done.Changed)
		return nil
	}
	done, err := link.Ensure(node)
	if err != nil {
		return err
	}
	if done.NoIPv6 != nil {
		log.Warn("no IPv6 on this node: pods reach the agent by IPv4 only", "link", done.Link, "err", done.NoIPv6)
	}
	log.Info("addresses ready", "link", done.Link, "changed", done.Changed)
	return nil
}
