package iam

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// A simulation is everything about the simulated requests but their actions.
type simulation struct {
	policies  policy.Policies
	principal policy.Principal
	known     bool   // the principal was named; otherwise it belongs to whoever owns the resource
	owner     string // account that owns the resources whose ARNs do not say; empty for the principal's
	keys      policy.Context
	resources []string
	listed    bool            // resources were named, other than "*"
	reported  map[string]bool // the condition keys, in lower case, whose absence is reported
	size      int             // bytes of all documents
	brought   int             // bytes of those that came with the request
}

// newSimulation begins a simulation for a caller of the API. Of the keys that every request has, the time is filled in;
// those of the simulated principal are too, where it is named.
func (s *Service) newSimulation(c *awsapi.Caller) *simulation {
	m := &simulation{principal: policy.Principal{Kind: policy.User, Account: c.Account}}
	m.keys.Set("aws:CurrentTime", c.Time.UTC().Format(time.RFC3339))
	m.keys.Set("aws:EpochTime", strconv.FormatInt(c.Time.Unix(), 10))
	return m
}

// simulateCaller names the simulated principal: a user, or a role as its sessions are seen by policies. It need not exist.
func (s *Service) simulateCaller(m *simulation, text string) error {
	a, kind, name, err := parseEntity(text)
	if err != nil {
		return err
	}
	if kind == "group" {
		return invalidInput("Invalid caller - %s cannot call operations; name a user or a role.", text)
	}
	m.known = true
	m.principal = policy.Principal{Kind: policy.User, Account: a.Account(), ARN: text}
	if kind == "role" {
		m.principal.Kind, m.principal.RoleARN = policy.RoleSession, text
	} else {
		m.keys.Set("aws:username", name)
	}
	if e := s.findEntity(a, kind, name).entity; e != nil {
		m.principal.ID = e.ID
		if kind == "user" {
			m.keys.Set("aws:userid", e.ID)
		}
		for _, t := range e.Tags {
			m.keys.Set("aws:PrincipalTag/"+t.Key, t.Value)
		}
	}
	m.keys.Set("aws:PrincipalArn", text)
	m.keys.Set("aws:PrincipalAccount", a.Account())
	m.keys.Set("aws:PrincipalType", principalType(m.principal.Kind))
	m.keys.Set("aws:PrincipalIsAWSService", "false")
	return nil
}

// given compiles documents that came with the request; results call them by the parameter's name and their numbers.
func (m *simulation) given(name string, kind policy.Kind, documents []string) ([]*policy.Policy, error) {
	list := make([]*policy.Policy, len(documents))
	for i, text := range documents {
		p, err := m.compile(document{fmt.Sprintf("%s.%d", name, i+1), text}, kind)
		if err != nil {
			return nil, err
		}
		list[i] = p
	}
	return list, nil
}

// compile compiles a document that came with the request.
func (m *simulation) compile(d document, kind policy.Kind) (*policy.Policy, error) {
	if m.brought += len(d.text); m.brought > maxSimulatedText {
		return nil, invalidInput("The policies of a request must have %d bytes at most together.", maxSimulatedText)
	}
	m.size += len(d.text)
	p, err := policy.New(d.id, kind, []byte(d.text))
	if e, ok := errors.AsType[*policy.Error](err); ok {
		return nil, invalidInput("Invalid policy %s at line %d, column %d: %s", d.id, e.Line, e.Column, e.Message)
	}
	return p, err
}

// stored compiles a policy of the simulated user or role.
func (m *simulation) stored(d document) (*policy.Policy, error) {
	m.size += len(d.text)
	p, err := policy.New(d.id, policy.Identity, []byte(d.text))
	if err != nil {
		failed := awsapi.Errorf("PolicyEvaluation", "The policy %s cannot be evaluated: %v", d.id, err)
		failed.Cause = err
		return nil, failed
	}
	return p, nil
}

// read adds what both simulations bring along, and holds it to the rules.
func (m *simulation) read(in *simulationIn) error {
	list, err := m.given("PolicyInputList", policy.Identity, in.PolicyInputList)
	if err != nil {
		return err
	}
	m.policies.Identity = append(m.policies.Identity, list...)
	if err := m.readBoundary(in.PermissionsBoundaryPolicyInputList); err != nil {
		return err
	}
	if err := m.readResources(in); err != nil {
		return err
	}
	if err := m.readResourcePolicy(in); err != nil {
		return err
	}
	if len(in.ActionNames) == 0 || len(in.ActionNames) > maxSimulatedNames {
		return invalidInput("ActionNames must have between 1 and %d members.", maxSimulatedNames)
	}
	for _, action := range in.ActionNames {
		if !isActionName(action) {
			return invalidInput("Invalid Action Name: %s is not a service and an operation, such as iam:CreateUser, without wildcards.", action)
		}
	}
	m.reported = make(map[string]bool)
	for _, p := range slices.Concat(m.policies.Identity, []*policy.Policy{m.policies.Boundary, m.policies.Resource}) {
		if p == nil {
			continue
		}
		for _, key := range policy.ContextKeys(p) {
			m.reported[strings.ToLower(key)] = true
		}
	}
	return readContext(&m.keys, in.ContextEntries)
}

func (m *simulation) readBoundary(documents []string) error {
	if len(documents) > 1 {
		return invalidInput("PermissionsBoundaryPolicyInputList can have one policy only.")
	}
	list, err := m.given("PermissionsBoundaryPolicyInputList", policy.Boundary, documents)
	if err == nil && len(list) == 1 {
		m.policies.Boundary = list[0]
	}
	return err
}

func (m *simulation) readResourcePolicy(in *simulationIn) (err error) {
	if in.ResourcePolicy == "" {
		return nil
	}
	if m.principal.Kind != policy.User {
		return invalidInput("Simulation of resource-based policies isn't supported for IAM roles.")
	}
	m.policies.Resource, err = m.compile(document{"ResourcePolicy", in.ResourcePolicy}, policy.Resource)
	return err
}

func (m *simulation) readResources(in *simulationIn) error {
	if len(in.ResourceArns) > maxSimulatedNames {
		return invalidInput("ResourceArns must have %d members at most.", maxSimulatedNames)
	}
	m.resources = in.ResourceArns
	if len(m.resources) == 0 {
		m.resources = []string{"*"}
	}
	m.listed = len(m.resources) > 1 || m.resources[0] != "*"
	for _, text := range m.resources {
		if _, err := arn.Parse(text); err != nil && text != "*" {
			return invalidInput("Invalid Resource Arn: %s", text)
		}
	}
	if in.ResourceOwner != "" {
		a, err := arn.Parse(in.ResourceOwner)
		switch {
		case arn.ValidAccountID(in.ResourceOwner):
			m.owner = in.ResourceOwner
		case err == nil && a.Service() == "iam" && a.Resource() == "root" && arn.ValidAccountID(a.Account()):
			m.owner = a.Account()
		default:
			return invalidInput("Invalid Resource Owner: %s is not the ARN of an account, such as arn:aws:iam::111122223333:root.", in.ResourceOwner)
		}
	}
	return checkHandling(in.ResourceHandlingOption, m.resources)
}

// checkHandling holds a ResourceHandlingOption to those of IAM's API, and the resources to what the option requires.
func checkHandling(option string, resources []string) error {
	kinds := []string{"instance", "image", "security-group", "network-interface"}
	switch option {
	case "":
		return nil
	case "EC2-VPC-InstanceStore":
	case "EC2-VPC-InstanceStore-Subnet":
		kinds = append(kinds, "subnet")
	case "EC2-VPC-EBS":
		kinds = append(kinds, "volume")
	case "EC2-VPC-EBS-Subnet":
		kinds = append(kinds, "subnet", "volume")
	default:
		return invalidInput("Invalid Resource Handling Option: %s", option)
	}
	for _, kind := range kinds {
		if !slices.ContainsFunc(resources, func(text string) bool {
			a, err := arn.Parse(text)
			return err == nil && a.Service() == "ec2" && strings.HasPrefix(a.Resource(), kind+"/")
		}) {
			return invalidInput("The Resource Handling Option %s requires a resource of the type %s.", option, kind)
		}
	}
	return nil
}

// isActionName reports whether an action is a service's prefix and an operation's name.
func isActionName(action string) bool {
	service, name, ok := strings.Cut(action, ":")
	plain := func(s, more string) bool {
		return s != "" && strings.IndexFunc(s, func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune(more, r)
		}) < 0
	}
	return ok && plain(service, "-") && plain(name, "-_.")
}

// result evaluates an action with every resource. Since 2026 IAM has one result for each action, whose decision is the most
// restrictive of all resources' (IAM API Reference, "EvaluationResult").
func (m *simulation) result(action string) evaluationResult {
	out := evaluationResult{EvalActionName: action, EvalResourceName: "*", EvalDecision: string(policy.Allowed)}
	if len(m.resources) == 1 {
		out.EvalResourceName = m.resources[0]
	}
	if m.listed {
		out.EvalDecisionDetails = map[string]string{}
	}
	var matched union[statementShape]
	var missing union[string]
	for _, resource := range m.resources {
		r, organizations := m.evaluate(action, resource)
		if compareVerdicts(r.EvalResourceDecision, out.EvalDecision) > 0 {
			out.EvalDecision, matched = r.EvalResourceDecision, union[statementShape]{}
		}
		if r.EvalResourceDecision == out.EvalDecision {
			matched.add(r.MatchedStatements)
		}
		missing.add(r.MissingContextValues)
		if organizations != nil && (out.OrganizationsDecisionDetail == nil || !organizations.AllowedByOrganizations) {
			out.OrganizationsDecisionDetail = organizations
		}
		if b := r.PermissionsBoundaryDecisionDetail; b != nil && (out.PermissionsBoundaryDecisionDetail == nil || !b.AllowedByPermissionsBoundary) {
			out.PermissionsBoundaryDecisionDetail = b
		}
		if out.EvalDecisionDetails == nil {
			out.EvalDecisionDetails = maps.Clone(r.EvalDecisionDetails)
		}
		for from, verdict := range r.EvalDecisionDetails {
			if old, ok := out.EvalDecisionDetails[from]; !ok || compareVerdicts(verdict, old) > 0 {
				out.EvalDecisionDetails[from] = verdict
			}
		}
		if m.listed {
			out.ResourceSpecificResults = append(out.ResourceSpecificResults, r)
		}
	}
	out.MatchedStatements, out.MissingContextValues = matched.items(), missing.items()
	return out
}

// A union holds each value once, in the order in which they came.
type union[T comparable] struct {
	list []T
	seen map[T]bool
}

func (u *union[T]) add(values []T) {
	for _, v := range values {
		if !u.seen[v] {
			if u.seen == nil {
				u.seen = make(map[T]bool)
			}
			u.seen[v] = true
			u.list = append(u.list, v)
		}
	}
}

// items returns the values; the answer has the list even if it is empty.
func (u *union[T]) items() []T { return append([]T{}, u.list...) }

// compareVerdicts is positive if a is more restrictive than b.
func compareVerdicts(a, b string) int {
	order := []string{string(policy.Allowed), string(policy.ImplicitDeny), string(policy.ExplicitDeny)}
	return cmp.Compare(slices.Index(order, a), slices.Index(order, b))
}

// evaluate decides one request. The organizations' part is nil if no service control policies were given.
func (m *simulation) evaluate(action, resource string) (resourceResult, *organizationsDetail) {
	request := &policy.Request{Principal: m.principal, Action: action, Resource: resource, ResourceAccount: m.owner, Context: m.keys.Clone()}
	if a, err := arn.Parse(resource); err == nil && a.Account() != "" {
		request.ResourceAccount = a.Account()
	}
	if request.ResourceAccount == "" {
		request.ResourceAccount = m.principal.Account
	}
	if !m.known {
		request.Principal.Account = request.ResourceAccount
	}
	if _, given := request.Context.Get("aws:ResourceAccount"); !given {
		request.Context.Set("aws:ResourceAccount", request.ResourceAccount)
	}
	decision := policy.Explain(request, &m.policies)
	verdicts := map[policy.Layer]policy.Verdict{}
	out := resourceResult{
		EvalResourceName: resource, EvalResourceDecision: string(decision.Verdict()),
		MatchedStatements: []statementShape{}, MissingContextValues: []string{},
	}
	for i := range decision.Explanation.Layers {
		l := &decision.Explanation.Layers[i]
		if old, ok := verdicts[l.Layer]; !ok || compareVerdicts(string(l.Verdict), string(old)) > 0 {
			verdicts[l.Layer] = l.Verdict
		}
		out.MatchedStatements = append(out.MatchedStatements, matched(l, decision.Verdict())...)
	}
	for _, key := range decision.Explanation.Missing {
		if m.reported[strings.ToLower(key)] {
			out.MissingContextValues = append(out.MissingContextValues, key)
		}
	}
	if m.policies.Boundary != nil {
		out.PermissionsBoundaryDecisionDetail = &boundaryDetail{verdicts[policy.BoundaryLayer] == policy.Allowed}
	}
	var organizations *organizationsDetail
	if m.policies.ServiceControl != nil {
		organizations = &organizationsDetail{verdicts[policy.ServiceControlLayer] == policy.Allowed}
	}
	stopped := organizations != nil && !organizations.AllowedByOrganizations
	if request.Principal.Account != request.ResourceAccount && !stopped {
		out.EvalDecisionDetails = m.details(verdicts)
	}
	return out, organizations
}

// details says what each type of policy contributes to a decision between accounts.
func (m *simulation) details(verdicts map[policy.Layer]policy.Verdict) map[string]string {
	from := map[policy.Layer]string{policy.IdentityLayer: fromIdentity, policy.ResourceLayer: fromResource}
	if m.policies.Boundary != nil {
		from[policy.BoundaryLayer] = fromBoundary
	}
	details := make(map[string]string, len(from))
	for l, name := range from {
		details[name] = string(policy.ImplicitDeny)
		if v, ok := verdicts[l]; ok {
			details[name] = string(v)
		}
	}
	return details
}

// matched returns the statements of a layer that contributed to a decision: if it allows, those of the identity's and the
// resource's policies that allow; if it denies explicitly, those that deny, of the boundary too.
func matched(l *policy.LayerExplanation, verdict policy.Verdict) []statementShape {
	effect, from := "", ""
	switch l.Layer {
	case policy.IdentityLayer:
		from = fromIdentity
	case policy.ResourceLayer:
		from = fromResource
	case policy.BoundaryLayer:
		from = fromBoundary
	}
	switch {
	case verdict == policy.ExplicitDeny:
		effect = "Deny"
	case verdict == policy.Allowed && l.Layer != policy.BoundaryLayer:
		effect = "Allow"
	}
	if from == "" || effect == "" {
		return nil
	}
	var list []statementShape
	for i := range l.Statements {
		if st := &l.Statements[i]; st.Applies && st.Effect == effect {
			list = append(list, statementShape{st.Policy, from, positionOf(st.Start), positionOf(st.End)})
		}
	}
	return list
}

func positionOf(p policy.Position) positionShape {
	return positionShape{Column: int32(p.Column), Line: int32(p.Line)} // documents are far shorter
}
