package awsapi

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
)

// service is an API that the handler serves.
type service struct {
	model      *Model // nil for the stand-ins that answer requests of no service
	protocol   protocol
	operations map[string]*operation // all operations of the model, served or not
	// routes has the operations of a REST service by their method and number of path segments.
	routes map[routeKey][]*operation
}

type routeKey struct {
	method   string
	segments int
}

// operation is one operation of a service.
type operation struct {
	*opModel
	service *service
	served  bool
	impl    Operation
	in, out *codec
}

// request is what routing finds out about a request.
type request struct {
	*http.Request
	service   *service // before identify: the one that the host or the credential scope names; nil for none
	byHost    bool     // the host names the service: it can be for no other
	operation *operation
	params    params            // of a query
	labels    map[string]string // of a REST path
	asJSON    bool              // a query that asks for JSON
}

// hostService finds the service that an AWS host name is of, such as sts.us-east-1.amazonaws.com; empty for other hosts.
// Only names below AWS's own suffixes tell: elsewhere eks.example.com may be the whole server.
func (h *Handler) hostService(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	rest := ""
	for _, suffix := range h.suffixes {
		if before, ok := strings.CutSuffix(host, suffix); ok {
			rest = before
			break
		}
	}
	if rest == "" {
		return ""
	}
	labels := strings.Split(rest, ".")
	drop := func(is func(string) bool) {
		if n := len(labels) - 1; n > 0 && is(labels[n]) {
			labels = labels[:n]
		}
	}
	drop(func(l string) bool { return l == "vpce" })
	drop(func(l string) bool {
		_, ok := arn.PartitionOfRegion(l)
		return ok || l == "us-gov"
	})
	drop(func(l string) bool { return l == "dualstack" })
	name := strings.TrimSuffix(labels[len(labels)-1], "-fips")
	if region, ok := strings.CutPrefix(name, "s3-"); ok {
		if _, ok := arn.PartitionOfRegion(region); ok {
			return "s3"
		}
	}
	if len(labels) > 1 && name != "s3" && !strings.HasPrefix(labels[0], "vpce-") {
		return ""
	}
	return name
}

// awsSuffixes returns the DNS suffixes of all partitions, each with its leading dot, longer ones before those that they end in.
func awsSuffixes() []string {
	var all []string
	for _, p := range arn.Partitions() {
		all = append(all, "."+p.DNSSuffix, "."+p.DualStackSuffix)
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return slices.Compact(all)
}

// matchPath finds the operation of a REST request. The path is split before it is decoded, so that an encoded slash is
// part of a label, and it is never cleaned: no signature survives that.
func (s *service) matchPath(method, escaped string) (*operation, map[string]string) {
	trimmed, ok := strings.CutPrefix(escaped, "/")
	if !ok || len(s.routes) == 0 {
		return nil, nil
	}
	parts := strings.Split(strings.TrimSuffix(trimmed, "/"), "/")
	var best *operation
	for _, op := range s.routes[routeKey{method, len(parts)}] {
		if matches(op.path, parts) && (best == nil || literals(op.path) > literals(best.path)) {
			best = op
		}
	}
	if best == nil {
		return nil, nil
	}
	labels := map[string]string{}
	for i, seg := range best.path {
		if seg.label == "" {
			continue
		}
		text, err := url.PathUnescape(parts[i])
		if err != nil {
			return nil, nil
		}
		labels[seg.label] = text
	}
	return best, labels
}

func matches(path []segment, parts []string) bool {
	for i, seg := range path {
		if seg.label == "" && seg.literal != parts[i] || seg.label != "" && parts[i] == "" {
			return false
		}
	}
	return true
}

func literals(path []segment) int {
	n := 0
	for _, seg := range path {
		if seg.label == "" {
			n++
		}
	}
	return n
}

// identify finds the operation that a request is for, and its service. The service that the host or the credential scope
// names is taken unless the request can only be for another one. Both may remain nil.
func (h *Handler) identify(q *request, form string) error {
	if target := q.Header.Get("X-Amz-Target"); target != "" {
		// SDKs disagree on what stands before the dot.
		name := target[strings.LastIndexByte(target, '.')+1:]
		h.find(q, jsonProtocol, func(s *service) *operation { return s.operations[name] })
		return nil
	}
	escaped := q.URL.EscapedPath()
	h.find(q, restJSONProtocol, func(s *service) *operation {
		op, labels := s.matchPath(q.Method, escaped)
		if op != nil {
			q.labels = labels
		}
		return op
	})
	if q.operation != nil {
		return nil
	}
	if q.service != nil && q.service.protocol != queryProtocol && !strings.Contains(q.URL.RawQuery+form, "Action=") {
		return nil
	}
	var err error
	if q.params, err = parseParams(q.URL.RawQuery, form); err != nil {
		return err
	}
	action, _ := q.params.get("Action")
	version, _ := q.params.get("Version")
	q.asJSON = strings.Contains(q.Header.Get("Accept"), jsonType)
	h.find(q, queryProtocol, func(s *service) *operation {
		if s.model.version != version {
			return nil
		}
		return s.operations[action]
	})
	return nil
}

// find sets the request's operation to what lookup finds in its service, or in any other that speaks the protocol.
func (h *Handler) find(q *request, p protocol, lookup func(*service) *operation) {
	try := func(s *service) bool {
		if s.protocol == p {
			if op := lookup(s); op != nil {
				q.service, q.operation = s, op
			}
		}
		return q.operation != nil
	}
	if q.service != nil && try(q.service) || q.byHost {
		return
	}
	for _, s := range h.services {
		if try(s) {
			return
		}
	}
}
