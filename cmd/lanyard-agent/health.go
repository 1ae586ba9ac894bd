package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/lanyard-id/lanyard/internal/agent"
	"github.com/lanyard-id/lanyard/internal/daemon"
)

// healthConfig is what the flags of the health command say.
type healthConfig struct {
	socket, path string
}

func parseHealth(args []string, stderr io.Writer) (*healthConfig, error) {
	c := &healthConfig{}
	flags := flag.NewFlagSet("health", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&c.socket, "socket", "", "`file` that the server was given as --health-socket (required)")
	flags.StringVar(&c.path, "path", "/readyz", "`path` of the probe: /readyz or /healthz")
	if err := daemon.ParseFlags(flags, args); err != nil {
		return nil, err
	}
	switch {
	case c.socket == "":
		return nil, errors.New("--socket is required")
	case c.path != "/readyz" && c.path != "/healthz":
		return nil, errors.New("--path is neither /readyz nor /healthz")
	}
	return c, nil
}

// health asks a server of this container how it is: those that share its addresses with it cannot answer in its place. It fails unless all is
// well.
func health(ctx context.Context, c *healthConfig) error {
	ctx, cancel := context.WithTimeout(ctx, agent.ProbeTimeout)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", c.socket)
	}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+c.path, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	if err := response.Body.Close(); err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s: its log says why", response.Status)
	}
	return nil
}
