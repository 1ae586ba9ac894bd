// Package link gives a node the link-local addresses by which its pods reach the agent, and takes them away again.
package link

import (
	"errors"
	"fmt"
	"net/netip"
)

// DefaultName is the name of the link that AWS's EKS Pod Identity Agent makes, and that Ensure makes.
const DefaultName = "pod-id-link0"

// Config says what a node shall have.
type Config struct {
	// Name is that of the link; DefaultName when empty. A link of this name that is there is used, whatever its kind, so that
	// "lo" keeps a node without a further link.
	Name string
	// IPv4 is the address that the node must have. Required.
	IPv4 netip.Addr
	// IPv6 is one that it has besides, if it can; the zero Addr is none.
	IPv6 netip.Addr
}

// Result says what Ensure, Park and Remove did.
type Result struct {
	Link    string // the name of the link that has the addresses, or had them
	Changed bool   // whether anything was done
	NoIPv6  error  // why the node does not have the IPv6 address; nil when it does, or when none was asked for
}

func (c *Config) check() error {
	switch {
	case !c.IPv4.Is4():
		return errors.New("no IPv4 address for the link")
	case c.IPv6.IsValid() && !c.IPv6.Is6():
		return fmt.Errorf("%s is no IPv6 address", c.IPv6)
	}
	if c.Name == "" {
		c.Name = DefaultName
	}
	return nil
}

// addresses are those that are asked for.
func (c *Config) addresses() []netip.Addr {
	if !c.IPv6.IsValid() {
		return []netip.Addr{c.IPv4}
	}
	return []netip.Addr{c.IPv4, c.IPv6}
}
