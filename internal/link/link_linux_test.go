package link_test

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lanyard-id/lanyard/internal/link"
)

var (
	ipv4 = netip.MustParseAddr("169.254.170.23")
	ipv6 = netip.MustParseAddr("fd00:ec2::23")
)

// enterNamespace gives the test, on a thread of its own that ends with it, a network namespace in which there is only a loopback link.
func enterNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // for good: nothing else may run on this thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no network namespace: %v", err)
		}
		t.Skipf("no network namespace, which needs root: %v", err)
	}
}

// needKind ends the test when the kernel's knowing dummy links is not what it is about.
func needKind(t *testing.T, known bool) {
	t.Helper()
	probe := &netlink.Dummy{LinkAttrs: named("probe")}
	err := netlink.LinkAdd(probe)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	if err == nil {
		must(t, netlink.LinkDel(probe))
	}
	if (err == nil) != known {
		t.Skipf("this kernel knows dummy links: %v", !known)
	}
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// state lists the addresses beside the loopback addresses, the main table's routes to a single address, and the links.
func state(t *testing.T) (all []string) {
	t.Helper()
	links, err := netlink.LinkList()
	must(t, err)
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
		all = append(all, "link "+l.Attrs().Name)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		addresses, err := netlink.AddrList(nil, family)
		must(t, err)
		for _, a := range addresses {
			if !a.IP.IsLoopback() && !strings.HasPrefix(a.IP.String(), "fe80:") {
				all = append(all, "address "+a.IPNet.String()+" on "+names[a.LinkIndex])
			}
		}
		routes, err := netlink.RouteList(nil, family)
		must(t, err)
		for _, r := range routes {
			if ones, bits := r.Dst.Mask.Size(); ones == bits {
				to := names[r.LinkIndex]
				if r.Type == unix.RTN_BLACKHOLE {
					to = "nowhere"
				}
				all = append(all, "route "+r.Dst.String()+" to "+to)
			}
		}
	}
	return all
}

func wantState(t *testing.T, when string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, state(t)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

func ensure(t *testing.T, c link.Config, want link.Result) {
	t.Helper()
	got, err := link.Ensure(c)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Ensure (-want +got):\n%s", diff)
	}
}

func remove(t *testing.T, c link.Config, want link.Result) {
	t.Helper()
	got, err := link.Remove(c)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Remove (-want +got):\n%s", diff)
	}
}

// at is the state in which a link, among others, has both addresses.
func at(name string, links ...string) []string {
	var all []string
	for _, l := range links {
		all = append(all, "link "+l)
	}
	return append(all, "address 169.254.170.23/32 on "+name, "route 169.254.170.23/32 to "+name,
		"address fd00:ec2::23/128 on "+name, "route fd00:ec2::23/128 to "+name)
}

// On whatever link it is: twice is once, and all of it goes again.
func TestEnsureAndRemove(t *testing.T) {
	const own = link.DefaultName
	for _, c := range []struct {
		name, asked string
		given       func(*testing.T)
		link        string   // that has the addresses
		then        []string // the state
		left        []string // the state after all
	}{
		{
			name:  "a link of its own",
			given: func(t *testing.T) { needKind(t, true) },
			link:  own, then: at(own, "lo", own), left: []string{"link lo"},
		},
		{
			name:  "the loopback link where the kernel has no dummy links",
			given: func(t *testing.T) { needKind(t, false) },
			link:  "lo", then: at("lo", "lo"), left: []string{"link lo"},
		},
		{
			name:  "the loopback link because it is asked for",
			asked: "lo",
			given: func(*testing.T) {},
			link:  "lo", then: at("lo", "lo"), left: []string{"link lo"},
		},
		{
			name:  "a link of the name and of another kind",
			given: func(t *testing.T) { must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: named(own)})) },
			link:  own, then: at(own, "lo", own), left: []string{"link lo", "link " + own},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			enterNamespace(t)
			c.given(t)
			config := link.Config{Name: c.asked, IPv4: ipv4, IPv6: ipv6}
			remove(t, config, link.Result{})
			for range 2 { // since it can be had again
				ensure(t, config, link.Result{Link: c.link, Changed: true})
				wantState(t, "done once", c.then...)
				ensure(t, config, link.Result{Link: c.link})
				wantState(t, "done twice", c.then...)
				remove(t, config, link.Result{Link: c.link, Changed: true})
				wantState(t, "undone", c.left...)
				remove(t, config, link.Result{})
			}
		})
	}
}

// parkedAt is the state in which a link, among others, had both addresses.
func parkedAt(links ...string) []string {
	var all []string
	for _, l := range links {
		all = append(all, "link "+l)
	}
	return append(all, "route 169.254.170.23/32 to nowhere", "route fd00:ec2::23/128 to nowhere")
}

// What is sent to a parked address goes nowhere, until it is given again or nothing of it is to be left.
func TestPark(t *testing.T) {
	const own = link.DefaultName
	for _, c := range []struct {
		name, asked string
		given       func(*testing.T)
		link        string
		links       []string // while there are addresses
		left        []string // after all
	}{
		{"a link of its own", "", func(t *testing.T) { needKind(t, true) }, own, []string{"lo", own}, []string{"link lo"}},
		{"the loopback link", "lo", func(*testing.T) {}, "lo", []string{"lo"}, []string{"link lo"}},
		{
			"somebody's link", "", func(t *testing.T) { must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: named(own)})) },
			own, []string{"lo", own}, []string{"link lo", "link " + own},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			enterNamespace(t)
			c.given(t)
			config := link.Config{Name: c.asked, IPv4: ipv4, IPv6: ipv6}
			park := func(want link.Result) {
				t.Helper()
				got, err := link.Park(config)
				must(t, err)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("Park (-want +got):\n%s", diff)
				}
			}
			park(link.Result{}) // there is nothing
			ensure(t, config, link.Result{Link: c.link, Changed: true})
			for range 2 {
				park(link.Result{Link: c.link, Changed: true})
				wantState(t, "parked", parkedAt(c.links...)...)
				park(link.Result{})
				ensure(t, config, link.Result{Link: c.link, Changed: true})
				wantState(t, "given again", at(c.link, c.links...)...)
			}
			park(link.Result{Link: c.link, Changed: true})
			if got, err := link.Remove(config); err != nil || !got.Changed {
				t.Errorf("Remove: %+v, %v", got, err)
			}
			wantState(t, "undone", c.left...)
		})
	}
}

func TestAddressesOfSomebodyElseAreNotParked(t *testing.T) {
	enterNamespace(t)
	must(t, netlink.AddrAdd(loopbackLink(t), parseAddr(t, "169.254.170.23/32")))
	if got, err := link.Park(link.Config{IPv4: ipv4, IPv6: ipv6}); err != nil || got.Changed {
		t.Errorf("Park: %+v, %v", got, err)
	}
	wantState(t, "left alone", "link lo", "address 169.254.170.23/32 on lo")
}

// loopbackOnly asks for the loopback link, which all kernels have.
var loopbackOnly = link.Config{Name: "lo", IPv4: ipv4, IPv6: ipv6}

func TestNodeWithoutIPv6(t *testing.T) {
	enterNamespace(t)
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)) // this thread's namespace's
	for _, changed := range []bool{true, false} {
		got, err := link.Ensure(loopbackOnly)
		must(t, err)
		if got.Link != "lo" || got.Changed != changed || got.NoIPv6 == nil {
			t.Errorf("got %+v, want changed %v, and why there is no IPv6", got, changed)
		}
		wantState(t, "IPv4", "link lo", "address 169.254.170.23/32 on lo", "route 169.254.170.23/32 to lo")
	}
	remove(t, loopbackOnly, link.Result{Link: "lo", Changed: true})
	wantState(t, "undone", "link lo")
}

func TestIPv4Alone(t *testing.T) {
	enterNamespace(t)
	c := link.Config{Name: "lo", IPv4: ipv4}
	ensure(t, c, link.Result{Link: "lo", Changed: true})
	wantState(t, "done", "link lo", "address 169.254.170.23/32 on lo", "route 169.254.170.23/32 to lo")
	remove(t, c, link.Result{Link: "lo", Changed: true})
	wantState(t, "undone", "link lo")
}

func loopbackLink(t *testing.T) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(l))
	return l
}

func parseAddr(t *testing.T, s string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(s)
	must(t, err)
	return a
}

// What an administrator has given the node is used, and neither changed nor removed.
func TestAddressesOfSomebodyElse(t *testing.T) {
	enterNamespace(t)
	must(t, netlink.AddrAdd(loopbackLink(t), parseAddr(t, "169.254.170.23/32")))
	c := link.Config{IPv4: ipv4, IPv6: ipv6}
	ensure(t, c, link.Result{Link: "lo", Changed: true}) // by the IPv6 address, which is its own
	wantState(t, "done", "link lo", "address 169.254.170.23/32 on lo", "address fd00:ec2::23/128 on lo", "route fd00:ec2::23/128 to lo")
	ensure(t, c, link.Result{Link: "lo"})
	remove(t, c, link.Result{Link: "lo", Changed: true})
	wantState(t, "undone", "link lo", "address 169.254.170.23/32 on lo")
	remove(t, c, link.Result{})
}

// Whatever is lost is put back: both ends of a run that was cut off.
func TestEnsureRepairs(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, lo netlink.Link){
		"the address": func(t *testing.T, lo netlink.Link) { must(t, netlink.AddrDel(lo, parseAddr(t, "169.254.170.23/32"))) },
		"everything of IPv4": func(t *testing.T, lo netlink.Link) {
			must(t, netlink.AddrDel(lo, parseAddr(t, "169.254.170.23/32")))
			must(t, netlink.RouteDel(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: parseAddr(t, "169.254.170.23/32").IPNet, Scope: netlink.SCOPE_LINK}))
		},
		"IPv6": func(t *testing.T, lo netlink.Link) { must(t, netlink.AddrDel(lo, parseAddr(t, "fd00:ec2::23/128"))) },
	} {
		t.Run(name, func(t *testing.T) {
			enterNamespace(t)
			lo := loopbackLink(t)
			ensure(t, loopbackOnly, link.Result{Link: "lo", Changed: true})
			lose(t, lo)
			ensure(t, loopbackOnly, link.Result{Link: "lo", Changed: true})
			wantState(t, "repaired", at("lo", "lo")...)
			lose(t, lo)
			remove(t, loopbackOnly, link.Result{Link: "lo", Changed: true})
			wantState(t, "undone", "link lo")
		})
	}
}

func TestRouteOfSomebodyElseIsTold(t *testing.T) {
	enterNamespace(t)
	other := &netlink.Bridge{LinkAttrs: named("other")}
	must(t, netlink.LinkAdd(other))
	must(t, netlink.LinkSetUp(other))
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: other.Index, Dst: parseAddr(t, "169.254.170.23/32").IPNet, Scope: netlink.SCOPE_LINK}))
	before := state(t)
	_, err := link.Ensure(loopbackOnly)
	if err == nil || !strings.Contains(err.Error(), "ip route delete 169.254.170.23") {
		t.Errorf("got error %v, want what to do about the route", err)
	}
	wantState(t, "refused", before...)
}

// dropNetAdmin takes CAP_NET_ADMIN from this thread.
func dropNetAdmin(t *testing.T) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	must(t, unix.Capget(&header, &data[0]))
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	must(t, unix.Capset(&header, &data[0]))
}

func TestMissingRightsAreTold(t *testing.T) {
	t.Run("to add", func(t *testing.T) {
		enterNamespace(t)
		dropNetAdmin(t)
		for _, name := range []string{"", "lo"} {
			_, err := link.Ensure(link.Config{Name: name, IPv4: ipv4, IPv6: ipv6})
			if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
				t.Errorf("link %q: got error %v, want that CAP_NET_ADMIN is missing", name, err)
			}
		}
		wantState(t, "refused", "link lo")
		remove(t, loopbackOnly, link.Result{})
	})
	t.Run("to remove", func(t *testing.T) {
		enterNamespace(t)
		ensure(t, loopbackOnly, link.Result{Link: "lo", Changed: true})
		dropNetAdmin(t)
		ensure(t, loopbackOnly, link.Result{Link: "lo"})
		if _, err := link.Remove(loopbackOnly); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("got error %v, want that CAP_NET_ADMIN is missing", err)
		}
		if _, err := link.Park(loopbackOnly); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("got error %v, want that CAP_NET_ADMIN is missing", err)
		}
		wantState(t, "refused", at("lo", "lo")...)
	})
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]link.Config{
		"no address":           {},
		"IPv6 alone":           {IPv6: ipv6},
		"IPv6 in IPv4's place": {IPv4: ipv6},
		"IPv4 in IPv6's place": {IPv4: ipv4, IPv6: ipv4},
	} {
		if _, err := link.Ensure(c); err == nil {
			t.Errorf("%s: Ensure takes it", name)
		}
		if _, err := link.Remove(c); err == nil {
			t.Errorf("%s: Remove takes it", name)
		}
		if _, err := link.Park(c); err == nil {
			t.Errorf("%s: Park takes it", name)
		}
	}
}
