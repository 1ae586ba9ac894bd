package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	loopback = "lo"
	// protocol is what a route says about who made it. It is none that iproute2 lists, so that the routes that Ensure made, and
	// with them the addresses, are known on a link that is not its own.
	protocol = 170
	// parkMetric is that of the routes that Park makes. Any other route comes first.
	parkMetric = 1 << 24
	// dumps is how often the kernel is asked for a list that changes while it is being read.
	dumps = 10
)

// Ensure gives the node the addresses, each with a route to it in the main table, on a dummy link of that name, and brings the
// link up. Instead of making one it uses the link that has the IPv4 address already, or the loopback link where the kernel
// knows no dummy links. An address that somebody else put there is left as it is. What is there already is done already: no
// rights are needed to find that out; for all else it is CAP_NET_ADMIN.
//
// That the node cannot have the IPv6 address is no error, but told in the result.
func Ensure(c Config) (Result, error) {
	if err := c.check(); err != nil {
		return Result{}, err
	}
	r, err := ensure(c)
	if err != nil {
		return Result{}, fmt.Errorf("set up %s for %s: %w", c.Name, c.IPv4, explain(err))
	}
	return r, nil
}

func ensure(c Config) (Result, error) {
	link, created, err := choose(c)
	if err != nil {
		return Result{}, err
	}
	r := Result{Link: link.Attrs().Name, Changed: created}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return r, fmt.Errorf("bring %s up: %w", r.Link, err)
		}
		r.Changed = true
	}
	added, err := ensureAddress(c, link, c.IPv4)
	if err != nil {
		return r, err
	}
	r.Changed = r.Changed || added
	if c.IPv6.IsValid() {
		added, r.NoIPv6 = ensureAddress(c, link, c.IPv6)
		r.Changed = r.Changed || added
	}
	for _, address := range c.addresses() {
		if _, err := unpark(address); err != nil {
			return r, err
		}
	}
	return r, nil
}

// choose returns the link that is to have the addresses, and whether it made it.
func choose(c Config) (link netlink.Link, created bool, err error) {
	link, err = netlink.LinkByName(c.Name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); !missing {
		return link, false, err
	}
	holders, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, false, fmt.Errorf("list addresses: %w", err)
	}
	if i := slices.IndexFunc(holders, is(c.IPv4)); i >= 0 {
		link, err = netlink.LinkByIndex(holders[i].LinkIndex)
		return link, false, err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = c.Name
	switch err = netlink.LinkAdd(&netlink.Dummy{LinkAttrs: attributes}); {
	case errors.Is(err, unix.EOPNOTSUPP):
		link, err = netlink.LinkByName(loopback)
		return link, false, err
	case err != nil && !errors.Is(err, unix.EEXIST): // which is when two do this at once
		return nil, false, fmt.Errorf("make a dummy link: %w", err)
	}
	link, err = netlink.LinkByName(c.Name)
	return link, true, err
}

// own reports whether all of a link is there for the agent.
func own(c Config, link netlink.Link) bool {
	return link.Type() == "dummy" && link.Attrs().Name == c.Name
}

// ensureAddress adds an address and its route, and reports whether that was necessary. The route comes first, because it is
// what Remove knows the address by.
func ensureAddress(c Config, link netlink.Link, address netip.Addr) (added bool, err error) {
	addresses, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family(address)) })
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	there := slices.ContainsFunc(addresses, is(address))
	if there && !own(c, link) {
		return false, nil
	}
	routed, err := ensureRoute(link, address)
	if err != nil || there {
		return routed, err
	}
	a := &netlink.Addr{IPNet: host(address)}
	if address.Is4() {
		// Such an address is never taken for the source of what the node sends from a link without an address.
		a.Scope = int(netlink.SCOPE_LINK)
	} else {
		// The address is to be had at once, without looking for others that have it, and has its route.
		a.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
	}
	switch err = netlink.AddrAdd(link, a); {
	case errors.Is(err, unix.EEXIST): // when two do this at once
		return routed, nil
	case err != nil:
		err = fmt.Errorf("add address %s: %w", address, err)
		if routed {
			err = errors.Join(err, netlink.RouteDel(route(link, address)))
		}
		return false, err
	}
	return true, nil
}

// ensureRoute adds the route to an address, and reports whether that was necessary.
func ensureRoute(link netlink.Link, address netip.Addr) (added bool, err error) {
	err = netlink.RouteAdd(route(link, address))
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("add route to %s: %w", address, err)
	}
	there, err := routes(address, &netlink.Route{}, 0)
	if err != nil {
		return false, err
	}
	for _, r := range there {
		if !parked(r) && r.LinkIndex != link.Attrs().Index {
			return false, fmt.Errorf(`there is another route to %s, %v: remove it ("ip route delete %[1]s") and try again`, address, r)
		}
	}
	return false, nil
}

// Remove undoes what Ensure did: it deletes the dummy link of that name, whoever made it, and takes from other links the
// addresses and routes that Ensure gave them. It needs CAP_NET_ADMIN unless there is nothing to do.
func Remove(c Config) (Result, error) {
	if err := c.check(); err != nil {
		return Result{}, err
	}
	r, err := remove(c)
	if err != nil {
		return Result{}, fmt.Errorf("remove %s from %s: %w", c.IPv4, c.Name, explain(err))
	}
	return r, nil
}

func remove(c Config) (Result, error) {
	link, err := netlink.LinkByName(c.Name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); err != nil && !missing {
		return Result{}, err
	}
	var r Result
	if err == nil && own(c, link) {
		if err := netlink.LinkDel(link); err != nil {
			return r, fmt.Errorf("delete %s: %w", c.Name, err)
		}
		r = Result{Link: c.Name, Changed: true}
	}
	for _, address := range c.addresses() {
		name, err := removeOurs(address)
		if err != nil {
			return r, err
		}
		unparked, err := unpark(address)
		if err != nil {
			return r, err
		}
		if name != "" {
			r.Link = name
		}
		r.Changed = r.Changed || unparked || name != ""
	}
	return r, nil
}

// Park takes the addresses that Ensure has given, until Ensure gives them again. Meanwhile the node drops what is sent to them, so that
// clients try again to connect, as TCP does, where the node would otherwise refuse the connection, and nothing of it leaves the node. A
// link that Ensure has made stays. It needs CAP_NET_ADMIN unless there is nothing to do.
func Park(c Config) (Result, error) {
	if err := c.check(); err != nil {
		return Result{}, err
	}
	var r Result
	for _, address := range c.addresses() {
		name, err := park(address)
		if err != nil {
			return Result{}, fmt.Errorf("park %s: %w", address, explain(err))
		}
		if name != "" {
			r.Link, r.Changed = name, true
		}
	}
	return r, nil
}

// park returns the link that had the address, if it did something.
func park(address netip.Addr) (name string, err error) {
	ours, err := ourRoutes(address)
	if err != nil || !slices.ContainsFunc(ours, func(r netlink.Route) bool { return !parked(r) }) {
		return "", err // the address is somebody else's
	}
	if err := netlink.RouteAdd(drop(address)); err != nil && !errors.Is(err, unix.EEXIST) {
		return "", fmt.Errorf("add route: %w", err)
	}
	return removeOurs(address)
}

// unpark reports whether there was something to undo.
func unpark(address netip.Addr) (done bool, err error) {
	ours, err := ourRoutes(address)
	if err != nil || !slices.ContainsFunc(ours, parked) {
		return false, err
	}
	if err := netlink.RouteDel(drop(address)); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("remove route to %s: %w", address, err)
	}
	return true, nil
}

// drop is the route by which nothing gets to a parked address.
func drop(address netip.Addr) *netlink.Route {
	return &netlink.Route{Dst: host(address), Type: unix.RTN_BLACKHOLE, Priority: parkMetric, Protocol: protocol}
}

func parked(r netlink.Route) bool { return r.Type == unix.RTN_BLACKHOLE }

func ourRoutes(address netip.Addr) ([]netlink.Route, error) {
	return routes(address, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
}

// removeOurs takes an address, and the route to it, from the link that Ensure gave them. It returns the link's name, or nothing.
func removeOurs(address netip.Addr) (name string, err error) {
	ours, err := ourRoutes(address)
	if err != nil {
		return "", err
	}
	for _, at := range ours {
		if parked(at) {
			continue
		}
		if name, err = removeAddress(at, address); err != nil {
			return name, err
		}
	}
	return name, nil
}

// removeAddress removes an address from the link that its route leads to, and then the route. It returns the link's name.
func removeAddress(at netlink.Route, address netip.Addr) (name string, err error) {
	link, err := netlink.LinkByIndex(at.LinkIndex)
	if err != nil {
		return "", err
	}
	name = link.Attrs().Name
	if err := netlink.AddrDel(link, &netlink.Addr{IPNet: host(address)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return name, fmt.Errorf("remove address %s from %s: %w", address, name, err)
	}
	if err := netlink.RouteDel(&at); err != nil && !errors.Is(err, unix.ESRCH) {
		return name, fmt.Errorf("remove route to %s: %w", address, err)
	}
	return name, nil
}

// route is the one that Ensure makes.
func route(link netlink.Link, address netip.Addr) *netlink.Route {
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: host(address), Protocol: protocol}
	if address.Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

// routes lists the main table's routes to exactly an address that pass the filter besides.
func routes(address netip.Addr, filter *netlink.Route, mask uint64) ([]netlink.Route, error) {
	filter.Dst = host(address)
	list, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family(address), filter, mask|netlink.RT_FILTER_DST)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return list, nil
}

// dump asks the kernel for a list until it did not change meanwhile.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumps {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// explain says what to do about missing rights. EACCES is not among them: it is what the kernel says when IPv6 is switched off.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: it needs CAP_NET_ADMIN in the node's network namespace, so run it as root there, or in a container with hostNetwork and that capability", err)
	}
	return err
}

func is(address netip.Addr) func(netlink.Addr) bool {
	return func(a netlink.Addr) bool {
		ip, ok := netip.AddrFromSlice(a.IP)
		return ok && ip.Unmap() == address
	}
}

func family(address netip.Addr) int {
	if address.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// host is the network that an address is alone in.
func host(address netip.Addr) *net.IPNet {
	return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(address.BitLen(), address.BitLen())}
}
