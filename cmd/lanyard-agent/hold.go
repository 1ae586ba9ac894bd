package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/lanyard-id/lanyard/internal/agent"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/handover"
	"github.com/lanyard-id/lanyard/internal/link"
)

// By what names sockets are offered: by those that only hold them, those that serve, and those that are to serve.
const (
	holders = "hold"
	servers = "server"
	next    = "next"
)

// holdConfig is what the flags of the hold command say.
type holdConfig struct {
	dir       string
	link      string
	port      uint16
	verbosity string
}

func parseHold(args []string, stderr io.Writer) (*holdConfig, error) {
	c := &holdConfig{port: 80}
	flags := flag.NewFlagSet("hold", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&c.dir, "handover", "", "`folder` of this user in which sockets are handed over (required)")
	flags.StringVar(&c.link, "link", link.DefaultName, "`name` of the link for the addresses, as of initialize")
	portFlag(flags, &c.port, "`port` for the pods", "p", "port")
	verbosityFlag(flags, &c.verbosity)
	if err := daemon.ParseFlags(flags, args); err != nil {
		return nil, err
	}
	switch {
	case c.dir == "":
		return nil, errors.New("--handover is required")
	case c.link == "":
		return nil, errors.New("--link must not be empty")
	}
	return c, nil
}

// hold has the sockets that pods connect to, and the node's addresses, until ctx ends, so that connections wait while nobody serves. It takes the
// sockets from those who have them already.
func hold(ctx context.Context, c *holdConfig, stdout io.Writer) error {
	log, err := daemon.NewLogger(stdout, c.verbosity, "json")
	if err != nil {
		return err
	}
	node := link.Config{Name: c.link, IPv4: netip.MustParseAddr(agent.LinkLocalIPv4), IPv6: netip.MustParseAddr(agent.LinkLocalIPv6)}
	offer, err := c.begin(ctx, node, log)
	if err != nil {
		return err
	}
	log.Info("sockets are held", "version", version())
	<-ctx.Done()
	// What Kubernetes gives a pod to end in is longer than servers take to answer what they have accepted.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), agent.StopTimeout+5*time.Second)
	defer cancel()
	return c.end(ctx, node, offer, log)
}

// begin takes or makes the sockets, offers them, and then has the node take the addresses: a connection is not refused at any time.
func (c *holdConfig) begin(ctx context.Context, node link.Config, log *slog.Logger) (offer *handover.Offer, err error) {
	unlock, err := handover.Lock(ctx, c.dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	all, err := handover.Take(c.dir, "")
	if err != nil {
		return nil, err
	}
	var sockets []*handover.Socket
	for _, host := range []string{agent.LinkLocalIPv4, agent.LinkLocalIPv6} {
		address := hostPort(host, c.port)
		s := handover.Find(all, address)
		taken := s != nil
		if taken {
			all = handover.Without(all, s)
		} else if s, err = handover.Listen(ctx, address); err != nil {
			if host == agent.LinkLocalIPv6 { // many nodes have none
				log.Warn("not serving on IPv6", "err", err)
				continue
			}
			return nil, errors.Join(fmt.Errorf("listen for pods: %w", err), handover.CloseAll(all))
		}
		log.Info("socket", "bind-addr", address, "taken", taken)
		sockets = append(sockets, s)
	}
	if err := handover.CloseAll(all); err != nil { // of probes and metrics, which are for servers
		return nil, errors.Join(err, handover.CloseAll(sockets))
	}
	if offer, err = handover.NewOffer(c.dir, holders, sockets, log); err != nil {
		return nil, errors.Join(err, handover.CloseAll(sockets))
	}
	done, err := link.Ensure(node)
	if err != nil {
		return nil, errors.Join(err, offer.Close())
	}
	if done.NoIPv6 != nil {
		log.Warn("no IPv6 on this node: pods reach the agent by IPv4 only", "link", done.Link, "err", done.NoIPv6)
	}
	log.Info("addresses ready", "link", done.Link, "changed", done.Changed)
	return offer, nil
}

// end gives the sockets up. If another holder has them, that is all. Otherwise it waits until the last server has gone, and parks the addresses:
// clients then wait for the next holder where the node would refuse them.
func (c *holdConfig) end(ctx context.Context, node link.Config, own *handover.Offer, log *slog.Logger) error {
	if err := own.Withdraw(); err != nil {
		return errors.Join(err, own.Close())
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		left, err := c.leave(ctx, node, own.Sockets(), log)
		if err != nil || left {
			return errors.Join(err, own.Close())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for the server to stop: %w", context.Cause(ctx)), own.Close())
		}
	}
}

// leave reports whether this holder may go.
func (c *holdConfig) leave(ctx context.Context, node link.Config, own []*handover.Socket, log *slog.Logger) (ok bool, err error) {
	unlock, err := handover.Lock(ctx, c.dir)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	for _, from := range []string{holders, servers, next} {
		others, err := handover.Take(c.dir, from)
		if err != nil {
			return false, err
		}
		if err := handover.CloseAll(others); err != nil {
			return false, err
		}
		if len(others) > 0 {
			return from == holders, nil
		}
	}
	// In this order, since a connection that waits could not be reset from an address that is parked.
	for _, s := range own {
		if err := s.Drain(); err != nil {
			return false, err
		}
	}
	done, err := link.Park(node)
	if err != nil {
		return false, err
	}
	log.Info("addresses parked", "link", done.Link, "changed", done.Changed)
	return true, nil
}
