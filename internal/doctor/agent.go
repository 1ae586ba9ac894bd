package doctor

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/lanyard-id/lanyard/internal/agent"
	"github.com/lanyard-id/lanyard/internal/podspec"
)

// agentVariable says where the SDKs ask for credentials.
const agentVariable = "AWS_CONTAINER_CREDENTIALS_FULL_URI"

// agentless reports whether the pod's containers ask a server over HTTPS instead of the agent on their node.
func (f *Facts) agentless() bool {
	return slices.ContainsFunc(f.containers(), func(c corev1.Container) bool {
		v, set := variable(c, agentVariable)
		return set && strings.HasPrefix(v.Value, "https://")
	})
}

func checkAgentAddress(f *Facts) Result {
	var seen []string
	for _, c := range f.containers() {
		v, set := variable(c, agentVariable)
		if !set || v.ValueFrom != nil {
			continue
		}
		u, err := url.Parse(v.Value)
		fix := fmt.Sprintf("Take %s out of the container, so that the webhook sets it to %s, and make the pod again.", agentVariable,
			podspec.AgentURI)
		switch host := ""; {
		case err != nil || u.Hostname() == "":
			return broken(fix, "Container %s has %s set to what is no URL.", c.Name, agentVariable)
		case u.Scheme == "https":
		default:
			host = u.Hostname()
			ip, err := netip.ParseAddr(host)
			switch {
			case host == agent.LinkLocalIPv4 || host == agent.LinkLocalIPv6:
				if u.Path != agent.Path {
					return broken(fix, "Container %s asks the agent at path %s, and it answers at %s alone.", c.Name, u.Path, agent.Path)
				}
				if u.Port() != "" && u.Port() != "80" {
					return broken(fix, "Container %s asks the agent at port %s, and it answers at port 80.", c.Name, u.Port())
				}
			case host == "localhost" || err == nil && ip.IsLoopback():
				return warn(fix, "Container %s asks %s, which is the pod itself and not the node's agent.", c.Name, u.Redacted())
			default:
				return broken(fix, "Container %s asks %s, and SDKs ask no other host than %s, [%s] and loopback without TLS.",
					c.Name, u.Redacted(), agent.LinkLocalIPv4, agent.LinkLocalIPv6)
			}
		}
		if !slices.Contains(seen, u.Redacted()) {
			seen = append(seen, u.Redacted())
		}
	}
	if len(seen) == 0 {
		return unknown("", "Where the containers ask for credentials is not in the pod's specification.")
	}
	return ok("The containers ask %s for credentials.", strings.Join(seen, ", "))
}

func checkAgent(f *Facts) Result {
	node := f.Pod.Value.Spec.NodeName
	switch {
	case node == "":
		return unknown("", "The pod has no node yet, and so no agent beside it.")
	case f.Agents.Value == nil:
		return f.Agents.unknown("the agents")
	}
	here := f.agent()
	if here == nil {
		if r, told := f.nodeWithout(); told {
			return r
		}
	}
	install := "Install it: `helm upgrade --install lanyard deploy/chart`, or on EKS `aws eks create-addon --addon-name eks-pod-identity-agent " +
		"--cluster-name " + f.Cluster + "`."
	if len(*f.Agents.Value) == 0 {
		return broken(install, "No agent runs in the cluster: there is no pod with the label app.kubernetes.io/name=lanyard-agent or "+
			"eks-pod-identity-agent.")
	}
	if here == nil {
		return broken("See `kubectl describe daemonset -A -l app.kubernetes.io/name` and the node's taints and labels: the agent's DaemonSet "+
			"must take node "+node+".",
			"There is no agent on the pod's node %s; there are %d on others.", node, len(*f.Agents.Value))
	}
	name := here.Namespace + "/" + here.Name
	logs := fmt.Sprintf("See why: `kubectl logs -n %s %s`, and `kubectl describe pod -n %[1]s %[2]s`.", here.Namespace, here.Name)
	switch p := f.Probe.Value; {
	case p != nil && p.Status != http.StatusOK && p.Status != http.StatusNotFound:
		return broken(logs, "The agent %s on the pod's node answers its probe with %d: %s.", name, p.Status, strings.TrimSpace(p.Text))
	case !ready(here):
		return broken(logs, "The agent %s on the pod's node %s is not ready.", name, node)
	case p != nil && p.Status == http.StatusOK:
		return ok("The agent %s on the pod's node is ready, and answers its probe.", name)
	}
	r := ok("The agent %s on the pod's node is ready.", name)
	if f.Probe.unread() {
		r = r.note("Its probe could not be asked: %s.", f.Probe.Why)
	}
	return r
}

// computeType is the label of EKS's own nodes that says of what kind they are.
const computeType = "eks.amazonaws.com/compute-type"

// nodeWithout tells of a node that no agent is to be seen on, if it is of a kind that never has one: those of EKS Auto Mode have EKS's in
// them, which is no pod, and Fargate has none (EKS User Guide, "Learn how EKS Pod Identity grants pods access to AWS services").
func (f *Facts) nodeWithout() (r Result, told bool) {
	node := f.Pod.Value.Spec.NodeName
	switch kind := value(f.Node.Value).Labels[computeType]; {
	case f.Node.unread() && !f.Lanyard:
		return unknown(f.Node.Grant, "There is no pod of an agent on the pod's node %s. Nodes of EKS Auto Mode have EKS's own in them, and it cannot be told "+
			"whether this is one: %s.", node, f.Node.Why), true
	case kind == "auto" && !f.Lanyard:
		return ok("The pod's node %s is one of EKS Auto Mode, with EKS's agent in it.", node), true
	case kind == "auto":
		return broken("Have the pod run on another node, or use IRSA.",
			"The pod's node %s is one of EKS Auto Mode: it has EKS's own agent, which asks AWS and not Lanyard.", node), true
	case kind == "fargate":
		return broken("Have the pod run on a node of another kind, or use IRSA.", "The pod runs on Fargate (%s), which has no agents.", node), true
	}
	return r, false
}

// agent returns the agent on the pod's node, a ready one if there are several, or nil.
func (f *Facts) agent() (here *corev1.Pod) {
	if f.Agents.Value == nil || f.Pod.Value == nil || f.Pod.Value.Spec.NodeName == "" {
		return nil
	}
	for i := range *f.Agents.Value {
		p := &(*f.Agents.Value)[i]
		if p.Spec.NodeName == f.Pod.Value.Spec.NodeName && (here == nil || ready(p)) {
			here = p
		}
	}
	return here
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// proxied reports whether a container beside an agent has a proxy for plain HTTP, which the agent speaks.
func proxied(f *Facts) bool {
	return besideAgent(f) && slices.ContainsFunc(f.containers(), func(c corev1.Container) bool {
		env, _ := f.environment(c)
		return first(env, "HTTP_PROXY", "http_proxy") != ""
	})
}

// checkProxy looks for proxies that would get the requests to the agent: SDKs that heed HTTP_PROXY send them there.
func checkProxy(f *Facts) Result {
	for _, c := range f.containers() {
		env, _ := f.environment(c)
		proxy := first(env, "HTTP_PROXY", "http_proxy")
		if proxy == "" {
			continue
		}
		none := first(env, "NO_PROXY", "no_proxy")
		if s := env[none]; none != "" && (!s.known || exempt(s.value)) {
			continue
		}
		return broken(fmt.Sprintf("Set NO_PROXY in container %s to include %s and %s, or take %s away and leave HTTPS_PROXY.", c.Name,
			agent.LinkLocalIPv4, "[fd00:ec2::23]", proxy),
			"Container %s has %s and no NO_PROXY for %s: SDKs that heed it, as the one for Go does, ask the proxy for credentials instead of "+
				"the agent.", c.Name, proxy, agent.LinkLocalIPv4)
	}
	return ok("NO_PROXY keeps the requests to the agent from the proxy.")
}

// exempt reports whether a NO_PROXY keeps requests to the agent from the proxy.
func exempt(noProxy string) bool {
	address := netip.MustParseAddr(agent.LinkLocalIPv4)
	for one := range strings.SplitSeq(noProxy, ",") {
		one = strings.TrimSpace(one)
		prefix, err := netip.ParsePrefix(one)
		if one == "*" || one == agent.LinkLocalIPv4 || one == agent.LinkLocalIPv4+":80" || err == nil && prefix.Contains(address) {
			return true
		}
	}
	return false
}

// checkNetwork looks for network policies that keep the pod from the agent. Those of other kinds than Kubernetes' own are not seen.
func checkNetwork(f *Facts) Result {
	if f.Pod.Value.Spec.HostNetwork {
		return ok("The pod has its node's network, so that network policies do not concern it.")
	}
	if f.Policies.Value == nil {
		return f.Policies.unknown("the network policies of namespace " + f.Namespace)
	}
	var limiting []string
	for _, p := range *f.Policies.Value {
		selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil || !selector.Matches(labels.Set(f.Pod.Value.Labels)) || !slices.Contains(p.Spec.PolicyTypes,
			networkingv1.PolicyTypeEgress) {
			continue
		}
		if slices.ContainsFunc(p.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool { return letsOut(r, agent.LinkLocalIPv4, 80) }) {
			return ok("The network policy %s lets the pod reach the agent.", p.Name)
		}
		limiting = append(limiting, p.Name)
	}
	if len(limiting) == 0 {
		return ok("No network policy limits where the pod may go.")
	}
	return warn(fmt.Sprintf("Add this rule to the egress of %s: `- {to: [{ipBlock: {cidr: %s/32}}], ports: [{protocol: TCP, port: 80}]}`.",
		limiting[0], agent.LinkLocalIPv4),
		"No egress rule of the network policies that limit the pod (%s) lets it reach %s, port 80: where the network plugin applies them to "+
			"link-local addresses, the agent cannot be asked.",
		strings.Join(limiting, ", "), agent.LinkLocalIPv4)
}

// letsOut reports whether a rule allows TCP to an address and port. Rules that name pods or namespaces allow no address outside.
func letsOut(r networkingv1.NetworkPolicyEgressRule, address string, port int32) bool {
	ip := netip.MustParseAddr(address)
	in := func(cidr string) bool {
		p, err := netip.ParsePrefix(cidr)
		return err == nil && p.Contains(ip)
	}
	to := len(r.To) == 0 || slices.ContainsFunc(r.To, func(p networkingv1.NetworkPolicyPeer) bool {
		return p.IPBlock != nil && in(p.IPBlock.CIDR) && !slices.ContainsFunc(p.IPBlock.Except, in)
	})
	through := len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p networkingv1.NetworkPolicyPort) bool {
		if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			return false
		}
		if p.Port == nil {
			return true
		}
		first := int32(p.Port.IntValue())
		return first == port || p.EndPort != nil && first <= port && port <= *p.EndPort
	})
	return to && through
}
