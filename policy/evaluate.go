package policy

import (
	"strings"

	"github.com/lanyard-id/lanyard/arn"
)

// Request is one question: may this principal do this?
type Request struct {
	Principal       Principal
	Action          string // such as s3:GetObject
	Resource        string // ARN, or "*" for actions without one
	ResourceAccount string // owner of the resource; the principal's account when empty
	Context         *Context
}

// Policies are all the policies that bear on a request.
type Policies struct {
	Identity        []*Policy   // of the user or role
	Boundary        *Policy     // nil when none is set
	Session         []*Policy   // passed to the session; nil when none was
	Resource        *Policy     // of the resource; nil when it has none
	ServiceControl  [][]*Policy // one list per level of the organization, each of which must allow
	ResourceControl [][]*Policy
}

// Evaluate decides a request in IAM's order (IAM User Guide, "Policy evaluation logic"). A nil p is no policies.
//
// Within one account the resource's policy or the caller's must allow; between accounts both must. Requests without
// an account (of a service, a web identity or nobody) are for the resource's policy alone.
func Evaluate(r *Request, p *Policies) Decision {
	var e evaluation
	return e.evaluate(r, p)
}

func (e *evaluation) evaluate(r *Request, p *Policies) Decision {
	e.owner = r.ResourceAccount
	if e.owner == "" {
		e.owner = r.Principal.Account
	}
	e.read(r, p)
	e.scanOwner(ResourceLayer, e.policies.Resource)
	e.scanCaller()
	return e.decide(ResourceLayer)
}

// EvaluateTrust decides whether the principal may perform an sts action (AssumeRole, AssumeRoleWithWebIdentity,
// TagSession, SetSourceIdentity) on a role: the role's trust policy must always allow; p holds the caller's own
// policies, which must allow too unless the trust policy names the caller in its own account, or the caller is a
// service or a web identity. The request's resource is the role's ARN, which also tells the account if
// ResourceAccount is empty. Without a trust policy the answer is no.
func EvaluateTrust(r *Request, trust *Policy, p *Policies) Decision {
	var e evaluation
	return e.evaluateTrust(r, trust, p)
}

func (e *evaluation) evaluateTrust(r *Request, trust *Policy, p *Policies) Decision {
	e.owner = r.ResourceAccount
	if role, err := arn.Parse(r.Resource); e.owner == "" && err == nil {
		e.owner = role.Account()
	}
	e.read(r, p)
	e.scanOwner(TrustLayer, trust)
	e.scanOwner(ResourceLayer, e.policies.Resource)
	e.scanCaller()
	return e.decide(TrustLayer)
}

// An evaluation is one request being decided: the request in the form that statements are matched with, and what the
// policies of each layer say about it.
type evaluation struct {
	request  *Request
	policies Policies
	owner    string // account of the resource
	vendor   string // the action's parts in lower case
	name     string
	target   target
	layers   [layerCount]outcome
	missing  []string // keys that a statement asks for and the request does not have; only filled in to explain
}

// foreign reports whether the caller belongs to another account than the resource.
func (e *evaluation) foreign() bool {
	return e.request.Principal.Kind.hasIdentityPolicies() && e.request.Principal.Account != e.owner
}

// An outcome is what the policies of a layer say. Scanning a layer fills it in, and only deciding reads it, so that
// every Deny is heard before any Allow counts.
type outcome struct {
	deny     hit   // the first statement that denies
	allow    hit   // the first statement that allows; where principals are named, the first that reaches farthest
	reach    reach // of allow, where principals are named
	withheld bool  // some level of the organization does not allow
}

// A hit is a statement that applies to the request.
type hit struct {
	policy    *Policy
	statement *statement
}

// read prepares an empty evaluation for a request.
func (e *evaluation) read(r *Request, p *Policies) {
	if p != nil {
		e.policies = *p
	}
	e.request, e.target = r, makeTarget(r.Resource)
	e.vendor, e.name, _ = strings.Cut(strings.ToLower(r.Action), ":")
}

// A misfit tells why a statement is not about a request: fits if it is, or the first element that does not fit. The values
// from conditionMisfit on are the statement's conditions, in their order.
type misfit int

const (
	fits misfit = iota
	actionMisfit
	resourceMisfit
	conditionMisfit
)

// misfit compares the statement with the request, apart from its principals.
func (e *evaluation) misfit(s *statement) misfit {
	if !s.actions.contains(e.vendor, e.name) {
		return actionMisfit
	}
	if s.resources != nil && !s.resources.contains(&e.target, e.request.Context, s.deny) {
		return resourceMisfit
	}
	for i := range s.conditions {
		if !s.conditions[i].holds(e.request.Context) {
			return conditionMisfit + misfit(i)
		}
	}
	return fits
}

// applies reports whether the statement is about the request, apart from its principals.
func (e *evaluation) applies(s *statement) bool { return e.misfit(s) == fits }

// scanCaller scans the caller's own policies and those of the organizations.
func (e *evaluation) scanCaller() {
	p := &e.policies
	for _, level := range p.ResourceControl {
		e.scanLevel(ResourceControlLayer, level)
	}
	for _, level := range p.ServiceControl {
		e.scanLevel(ServiceControlLayer, level)
	}
	for _, policy := range p.Identity {
		e.scan(IdentityLayer, policy)
	}
	if p.Boundary != nil {
		e.scan(BoundaryLayer, p.Boundary)
	}
	for _, policy := range p.Session {
		e.scan(SessionLayer, policy)
	}
}

// scanLevel scans the policies of one level of an organization, of which one must allow.
func (e *evaluation) scanLevel(l Layer, level []*Policy) {
	o := &e.layers[l]
	o.allow, o.reach = hit{}, unnamed
	for _, policy := range level {
		if l == ResourceControlLayer {
			e.scanOwner(l, policy)
		} else {
			e.scan(l, policy)
		}
	}
	o.withheld = o.withheld || o.allow.statement == nil
}

// scan scans a policy whose principal is what it is attached to. An Allow that names principals is not for such use.
func (e *evaluation) scan(l Layer, policy *Policy) {
	o := &e.layers[l]
	for i := range policy.statements {
		s := &policy.statements[i]
		switch {
		case s.deny && o.deny.statement == nil && e.applies(s):
			o.deny = hit{policy, s}
		case !s.deny && o.allow.statement == nil && s.principals == nil && e.applies(s):
			o.allow = hit{policy, s}
		}
	}
}

// scanOwner scans a policy that names principals, of the resource's owner; nil is none.
func (e *evaluation) scanOwner(l Layer, policy *Policy) {
	if policy == nil {
		return
	}
	o := &e.layers[l]
	for i := range policy.statements {
		s := &policy.statements[i]
		switch r := s.reach(&e.request.Principal); {
		case r == unnamed:
		case s.deny && o.deny.statement == nil && e.applies(s):
			o.deny = hit{policy, s}
		case !s.deny && r > o.reach && e.applies(s):
			o.allow, o.reach = hit{policy, s}, r
		}
	}
}

// decide reads the outcomes. The layer is the one of the owner's policy.
func (e *evaluation) decide(ownerLayer Layer) Decision {
	for l := range e.layers {
		if h := e.layers[l].deny; h.statement != nil {
			return e.decision(false, Layer(l), h)
		}
	}
	for _, l := range []Layer{ResourceControlLayer, ServiceControlLayer} {
		if e.layers[l].withheld {
			return e.decision(false, l, hit{})
		}
	}
	caller := &e.request.Principal
	grant := &e.layers[ownerLayer]
	hasAccount := caller.Kind.hasIdentityPolicies()
	foreign := e.foreign()
	if grant.reach == unnamed && (ownerLayer == TrustLayer || foreign || !hasAccount) {
		return e.decision(false, ownerLayer, hit{})
	}
	blocked := NoLayer
	switch {
	case !hasAccount, !foreign && grant.reach == direct:
		// The owner's word is enough.
	case !foreign && grant.reach == limited:
		blocked = e.limit()
	case caller.Kind != Root && e.layers[IdentityLayer].allow.statement == nil:
		blocked = IdentityLayer
	default:
		blocked = e.limit()
	}
	switch {
	case blocked != NoLayer:
		return e.decision(false, blocked, hit{})
	case ownerLayer == TrustLayer || foreign || !hasAccount || grant.reach > delegated:
		return e.decision(true, ownerLayer, grant.allow)
	case e.layers[IdentityLayer].allow.statement == nil:
		return e.decision(true, RootLayer, hit{})
	}
	return e.decision(true, IdentityLayer, e.layers[IdentityLayer].allow)
}

// limit returns the layer that keeps the caller from using what was allowed, if one does. What a federated user may
// do is only what both its user and its session policies allow.
func (e *evaluation) limit() Layer {
	p := &e.policies
	if p.Boundary != nil && e.layers[BoundaryLayer].allow.statement == nil {
		return BoundaryLayer
	}
	passed := p.Session != nil || e.request.Principal.Kind == Federated
	if passed && e.layers[SessionLayer].allow.statement == nil {
		return SessionLayer
	}
	return NoLayer
}

// decision makes the answer; the hit is empty when no statement decided.
func (e *evaluation) decision(allowed bool, l Layer, h hit) Decision {
	d := Decision{Allowed: allowed, Explicit: !allowed && h.statement != nil, Layer: l, Action: e.request.Action}
	if h.statement != nil {
		d.Policy, d.Sid, d.Statement = h.policy.name, h.statement.sid, h.statement.index
		d.Line, d.Column = h.statement.start.line, h.statement.start.column
	}
	return d
}
