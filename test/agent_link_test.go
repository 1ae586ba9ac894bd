//go:build linux

package test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// addresses lists the namespace's addresses of the agent, each with its link, and the routes to them.
func (n *namespace) addresses() (all []string) {
	n.t.Helper()
	var links []struct {
		Name      string `json:"ifname"`
		Addresses []struct {
			Local  string
			Prefix int `json:"prefixlen"`
		} `json:"addr_info"`
	}
	n.parse(&links, "-json", "address")
	for _, l := range links {
		for _, a := range l.Addresses {
			if a.Prefix == 32 && a.Local == "169.254.170.23" || a.Prefix == 128 && a.Local == "fd00:ec2::23" {
				all = append(all, a.Local+" on "+l.Name)
			}
		}
	}
	for _, family := range []string{"-4", "-6"} {
		var routes []struct{ Dst, Dev string }
		n.parse(&routes, "-json", family, "route", "show", "table", "main")
		for _, r := range routes {
			if r.Dst == "169.254.170.23" || r.Dst == "fd00:ec2::23" {
				all = append(all, r.Dst+" through "+r.Dev)
			}
		}
	}
	return all
}

func (n *namespace) parse(into any, args ...string) {
	n.t.Helper()
	out := n.must("ip", args...)
	if strings.TrimSpace(out) == "" { // which is how some versions print an empty list
		return
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		n.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// ownLink is the link that `lanyard-agent initialize` takes: its own if the kernel can make it.
func (n *namespace) ownLink() string {
	if n.command("ip", "link", "add", "probe", "type", "dummy").Run() != nil {
		return "lo"
	}
	n.must("ip", "link", "delete", "probe")
	return "pod-id-link0"
}

func TestInitialize(t *testing.T) {
	t.Parallel()
	both := func(link string) []string {
		return []string{"169.254.170.23 on " + link, "fd00:ec2::23 on " + link, "169.254.170.23 through " + link, "fd00:ec2::23 through " + link}
	}
	for _, c := range []struct {
		name    string
		args    []string
		given   func(n *namespace) (link string)
		without bool // IPv6
	}{
		{"as on any node", nil, (*namespace).ownLink, false},
		{"on the loopback link", []string{"--link", "lo"}, func(*namespace) string { return "lo" }, false},
		{"on a link that is there", nil, func(n *namespace) string {
			n.must("ip", "link", "add", "pod-id-link0", "type", "bridge")
			return "pod-id-link0"
		}, false},
		{"without IPv6", nil, func(n *namespace) string {
			n.must("sysctl", "-q", "net.ipv6.conf.all.disable_ipv6=1")
			return n.ownLink()
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNamespace(t)
			link := c.given(n)
			want := both(link)
			if c.without {
				want = []string{want[0], want[2]}
			}
			initialize := func(args ...string) string {
				return n.must(binary("lanyard-agent"), append(append([]string{"initialize"}, c.args...), args...)...)
			}
			for _, changed := range []string{`"changed":true`, `"changed":false`} {
				log := initialize()
				if !strings.Contains(log, `"link":"`+link+`"`) || !strings.Contains(log, changed) {
					t.Errorf("the log has not %s and the link %s: %s", changed, link, log)
				}
				if strings.Contains(log, "no IPv6 on this node") != c.without {
					t.Errorf("without IPv6 %v, and the log says: %s", c.without, log)
				}
				if diff := cmp.Diff(want, n.addresses()); diff != "" {
					t.Errorf("addresses (-want +got):\n%s", diff)
				}
			}
			initialize("--cleanup")
			if got := n.addresses(); len(got) > 0 {
				t.Errorf("after cleaning up there are %q", got)
			}
			if log := initialize("--cleanup"); !strings.Contains(log, `"changed":false`) {
				t.Errorf("cleaned up twice: %s", log)
			}
		})
	}
}
