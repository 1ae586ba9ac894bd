package iam

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// The bounds of a simulation beyond the model's. Lists are held to a length each; and what one answer costs, which is the
// characters of all policies and something more for each pair of an action and a resource, to maxSimulationCost: of the
// actions, a page has as many as that allows, and one at least must fit.
const (
	maxSimulatedNames = 1000
	maxSimulatedText  = 128 << 10 // bytes of the documents that the request brings
	maxSimulationCost = 10_000_000
	costOfPair        = 2000
)

// simulationIn is what SimulateCustomPolicy and SimulatePrincipalPolicy have in common.
type simulationIn struct {
	ActionNames                        []string
	CallerArn                          string
	ContextEntries                     []contextEntry
	PermissionsBoundaryPolicyInputList []string
	PolicyInputList                    []string
	ResourceArns                       []string
	ResourceHandlingOption             string
	ResourceOwner                      string
	ResourcePolicy                     string
	page
}

type organizationLevel struct{ ServiceControlPolicyInputList []string }

type simulateCustomIn struct {
	simulationIn
	OrderedOrganizationPolicyInputList []organizationLevel
}

func (in *simulateCustomIn) target(*Service, *awsapi.Caller) (target, error) {
	return target{arn: "*"}, nil
}

type simulatePrincipalIn struct {
	simulationIn
	PolicySourceArn     string
	PolicyExclusionList []policyIdentifier
}

func (in *simulatePrincipalIn) target(s *Service, _ *awsapi.Caller) (target, error) {
	return s.sourceTarget(in.PolicySourceArn)
}

type customKeysIn struct{ PolicyInputList []string }

func (in *customKeysIn) target(*Service, *awsapi.Caller) (target, error) {
	return target{arn: "*"}, nil
}

type principalKeysIn struct {
	PolicyInputList []string
	PolicySourceArn string
}

func (in *principalKeysIn) target(s *Service, _ *awsapi.Caller) (target, error) {
	return s.sourceTarget(in.PolicySourceArn)
}

type contextKeysOut struct{ ContextKeyNames []string }

type positionShape struct{ Column, Line int32 }

type statementShape struct {
	SourcePolicyID   string
	SourcePolicyType string
	StartPosition    positionShape
	EndPosition      positionShape
}

type organizationsDetail struct{ AllowedByOrganizations bool }

type boundaryDetail struct{ AllowedByPermissionsBoundary bool }

type resourceResult struct {
	EvalResourceName                  string
	EvalResourceDecision              string
	MatchedStatements                 []statementShape
	MissingContextValues              []string
	EvalDecisionDetails               map[string]string
	PermissionsBoundaryDecisionDetail *boundaryDetail
}

type evaluationResult struct {
	EvalActionName                    string
	EvalResourceName                  string
	EvalDecision                      string
	MatchedStatements                 []statementShape
	MissingContextValues              []string
	OrganizationsDecisionDetail       *organizationsDetail
	PermissionsBoundaryDecisionDetail *boundaryDetail
	EvalDecisionDetails               map[string]string
	ResourceSpecificResults           []resourceResult
}

type simulationOut struct {
	EvaluationResults []evaluationResult
	truncated
}

// How results name where a statement comes from. These are not the values of the model's PolicySourceType, but what IAM
// answers with.
const (
	fromIdentity = "IAM Policy"
	fromBoundary = "Permissions Boundary Policy"
	fromResource = "Resource Policy"
)

func invalidInput(format string, args ...any) *awsapi.Error {
	return awsapi.Errorf("InvalidInput", format, args...)
}

func invalidCaller() error { return invalidInput("Invalid caller - Caller cannot be null or empty.") }

func (s *Service) simulateCustomPolicy(ctx context.Context, c *awsapi.Caller, in *simulateCustomIn) (*simulationOut, error) {
	m := s.newSimulation(c)
	if in.CallerArn != "" {
		if err := s.simulateCaller(m, in.CallerArn); err != nil {
			return nil, err
		}
	} else if in.ResourcePolicy != "" {
		return nil, invalidCaller()
	}
	for i, level := range in.OrderedOrganizationPolicyInputList {
		name := fmt.Sprintf("OrderedOrganizationPolicyInputList.%d.ServiceControlPolicyInputList", i+1)
		list, err := m.given(name, policy.ServiceControl, level.ServiceControlPolicyInputList)
		if err != nil {
			return nil, err
		}
		m.policies.ServiceControl = append(m.policies.ServiceControl, list)
	}
	return s.simulate(ctx, c, m, &in.simulationIn)
}

func (s *Service) simulatePrincipalPolicy(ctx context.Context, c *awsapi.Caller, in *simulatePrincipalIn) (*simulationOut, error) {
	for i := range in.PolicyExclusionList {
		if err := in.PolicyExclusionList[i].check(); err != nil {
			return nil, err
		}
	}
	source, err := s.sourceOf(c, in.PolicySourceArn)
	if err != nil {
		return nil, err
	}
	m := s.newSimulation(c)
	caller := in.CallerArn
	if caller == "" && source.kind != "group" {
		caller = in.PolicySourceArn
	}
	if caller != "" {
		if err := s.simulateCaller(m, caller); err != nil {
			return nil, err
		}
	} else if in.ResourcePolicy != "" {
		return nil, invalidCaller()
	}
	identity, boundary, err := s.policiesOfSource(source, in.PolicyExclusionList)
	if err != nil {
		return nil, err
	}
	for _, d := range identity {
		p, err := m.stored(d)
		if err != nil {
			return nil, err
		}
		m.policies.Identity = append(m.policies.Identity, p)
	}
	if boundary != nil && len(in.PermissionsBoundaryPolicyInputList) == 0 {
		if m.policies.Boundary, err = m.stored(*boundary); err != nil {
			return nil, err
		}
	}
	return s.simulate(ctx, c, m, &in.simulationIn)
}

// simulate adds what the request brings to a simulation, runs it, and answers with one result for each action.
func (s *Service) simulate(ctx context.Context, c *awsapi.Caller, m *simulation, in *simulationIn) (*simulationOut, error) {
	if err := m.read(in); err != nil {
		return nil, err
	}
	perAction := len(m.resources) * (m.size + costOfPair)
	if perAction > maxSimulationCost {
		return nil, invalidInput("Policies of this size can be simulated with %d resources at most.", maxSimulationCost/(m.size+costOfPair))
	}
	limit := defaultPage
	if in.MaxItems > 0 {
		limit = int(in.MaxItems)
	}
	limit = min(limit, maxSimulationCost/perAction)
	actions, rest, err := paginate(s, c, page{in.Marker, int32(limit)}, numbered(in.ActionNames), all[string])
	if err != nil {
		return nil, err
	}
	out := &simulationOut{make([]evaluationResult, len(actions)), rest}
	for i, action := range actions {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("simulate %s: %w", action, err)
		}
		out.EvaluationResults[i] = m.result(action)
	}
	return out, nil
}

// numbered is a list in its own order as paginate wants it.
func numbered[T any](items []T) func(after string) iter.Seq2[string, T] {
	return func(after string) iter.Seq2[string, T] {
		return func(yield func(string, T) bool) {
			for i, item := range items {
				if k := fmt.Sprintf("%010d", i); k > after && !yield(k, item) {
					return
				}
			}
		}
	}
}

func (s *Service) contextKeysForCustomPolicy(_ context.Context, c *awsapi.Caller, in *customKeysIn) (*contextKeysOut, error) {
	list, err := s.newSimulation(c).given("PolicyInputList", policy.Identity, in.PolicyInputList)
	if err != nil {
		return nil, err
	}
	return contextKeys(list), nil
}

func (s *Service) contextKeysForPrincipalPolicy(_ context.Context, c *awsapi.Caller, in *principalKeysIn) (*contextKeysOut, error) {
	source, err := s.sourceOf(c, in.PolicySourceArn)
	if err != nil {
		return nil, err
	}
	identity, _, err := s.policiesOfSource(source, nil)
	if err != nil {
		return nil, err
	}
	m := s.newSimulation(c)
	list, err := m.given("PolicyInputList", policy.Identity, in.PolicyInputList)
	if err != nil {
		return nil, err
	}
	for _, d := range identity {
		p, err := m.stored(d)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return contextKeys(list), nil
}

func contextKeys(policies []*policy.Policy) *contextKeysOut {
	return &contextKeysOut{append([]string{}, policy.ContextKeys(policies...)...)}
}

// A source is the user, group or role whose policies are simulated.
type source struct {
	kind string // user, group or role
	*entity
	groups []*groupRow // of a user
}

// A document is a policy with the name that results have for it.
type document struct{ id, text string }

// parseEntity takes the ARN of a user, group or role apart.
func parseEntity(text string) (a arn.ARN, kind, name string, err error) {
	a, parseErr := arn.Parse(text)
	kind, rest, _ := strings.Cut(a.Resource(), "/")
	_, name = splitPath("/" + rest)
	known := kind == "user" || kind == "role" || kind == "group"
	if parseErr != nil || a.Service() != "iam" || a.Region() != "" || !arn.ValidAccountID(a.Account()) || !known || name == "" {
		return arn.ARN{}, "", "", invalidInput("Invalid Entity Arn: %s does not clearly define entity type and name.", text)
	}
	return a, kind, name, nil
}

// findEntity finds a user, group or role by its ARN; its entity is nil when there is none.
func (s *Service) findEntity(a arn.ARN, kind, name string) source {
	key := nameKey(a.Account(), name)
	if r, ok := s.users.Get(key); ok && kind == "user" && s.userARN(&r.entity) == a.String() {
		return source{kind, &r.entity, s.groupsOf(r)}
	}
	if r, ok := s.groups.Get(key); ok && kind == "group" && s.groupARN(&r.entity) == a.String() {
		return source{kind: kind, entity: &r.entity}
	}
	if r, ok := s.roles.Get(key); ok && kind == "role" && s.roleARN(&r.entity) == a.String() {
		return source{kind: kind, entity: &r.entity}
	}
	return source{}
}

func (s *Service) sourceTarget(text string) (target, error) {
	a, kind, name, err := parseEntity(text)
	if err != nil {
		return target{}, err
	}
	t := target{arn: text}
	if e := s.findEntity(a, kind, name).entity; e != nil {
		t.tags, t.boundary = e.Tags, e.Boundary
	}
	return t, nil
}

// sourceOf finds the user, group or role, of the caller's account, whose policies are simulated.
func (s *Service) sourceOf(c *awsapi.Caller, text string) (source, error) {
	a, kind, name, err := parseEntity(text)
	if err != nil {
		return source{}, err
	}
	of := s.findEntity(a, kind, name)
	if of.entity == nil || of.Account != c.Account {
		return source{}, awsapi.Errorf("NoSuchEntity", "The %s with name %s cannot be found.", kind, name)
	}
	return of, nil
}

// policiesOfSource returns the policies of a user, with those of its groups, a group or a role, but for those that are excluded,
// and the boundary or nil.
func (s *Service) policiesOfSource(of source, excluded []policyIdentifier) (identity []document, boundary *document, err error) {
	if identity, err = s.ownPolicies(nil, of, excluded); err != nil {
		return nil, nil, err
	}
	for _, g := range of.groups {
		if identity, err = s.ownPolicies(identity, source{kind: "group", entity: &g.entity}, excluded); err != nil {
			return nil, nil, err
		}
	}
	if of.Boundary != "" && !slices.ContainsFunc(excluded, func(x policyIdentifier) bool { return x.PolicyType == "permission-boundary" }) {
		d, err := s.managedDocument(of.Account, of.Boundary)
		if err != nil {
			return nil, nil, err
		}
		boundary = &d
	}
	return identity, boundary, nil
}

// ownPolicies adds the policies that a user, group or role has itself, but for those that are excluded.
func (s *Service) ownPolicies(to []document, of source, excluded []policyIdentifier) ([]document, error) {
	for _, p := range of.Inline {
		if !slices.ContainsFunc(excluded, func(x policyIdentifier) bool { return x.matchesInline(of, p.Name) }) {
			to = append(to, document{of.kind + "_" + of.Name + "_" + p.Name, p.Document})
		}
	}
	for _, a := range of.Attached {
		if slices.ContainsFunc(excluded, func(x policyIdentifier) bool { return x.matchesManaged(a) }) {
			continue
		}
		d, err := s.managedDocument(of.Account, a)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(to, d) { // of a user and its groups, several may have the same policy
			to = append(to, d)
		}
	}
	return to, nil
}

func (s *Service) managedDocument(account, policyARN string) (document, error) {
	m, ok := s.lookupManaged(account, policyARN)
	if !ok {
		return document{}, awsapi.Errorf("PolicyEvaluation", "The attached policy %s does not exist.", policyARN)
	}
	v, _ := m.version(m.Default)
	return document{m.Name, v.Document}, nil
}

// policyIdentifier is one entry of a PolicyExclusionList.
type policyIdentifier struct {
	InlinePolicyIdentifier *inlineIdentifier
	PolicyArn              string
	PolicyType             string
}

type inlineIdentifier struct{ AttachmentName, AttachmentType, PolicyName string }

// check refuses an identifier that is not exactly one of its three forms, and ARNs with other wildcards than one "*" and
// any "?" in the policy's path and name.
func (x *policyIdentifier) check() error {
	forms := 0
	for _, there := range []bool{x.InlinePolicyIdentifier != nil, x.PolicyArn != "", x.PolicyType != ""} {
		if there {
			forms++
		}
	}
	if forms != 1 {
		return invalidInput("Each member of PolicyExclusionList must have exactly one of InlinePolicyIdentifier, PolicyArn and PolicyType.")
	}
	if x.PolicyArn == "" {
		return nil
	}
	a, err := arn.Parse(x.PolicyArn)
	name, ok := strings.CutPrefix(a.Resource(), "policy/")
	head := strings.TrimSuffix(x.PolicyArn, name)
	if err != nil || a.Service() != "iam" || !ok || strings.ContainsAny(head, "*?") || strings.Count(name, "*") > 1 {
		return invalidInput("Invalid policy ARN in PolicyExclusionList: %s", x.PolicyArn)
	}
	return nil
}

func (x *policyIdentifier) matchesInline(of source, name string) bool {
	if i := x.InlinePolicyIdentifier; i != nil {
		return i.AttachmentType == of.kind && strings.EqualFold(i.AttachmentName, of.Name) && i.PolicyName == name
	}
	return x.PolicyType == "inline"
}

func (x *policyIdentifier) matchesManaged(policyARN string) bool {
	if x.PolicyType != "" {
		kind := "user-managed"
		if a, err := arn.Parse(policyARN); err == nil && a.Account() == awsOwned {
			kind = "aws-managed"
		}
		return x.PolicyType == kind
	}
	head, tail, star := strings.Cut(x.PolicyArn, "*")
	if !star {
		return alike(x.PolicyArn, policyARN)
	}
	return len(policyARN) >= len(head)+len(tail) && alike(head, policyARN[:len(head)]) && alike(tail, policyARN[len(policyARN)-len(tail):])
}

// alike compares a text with a pattern whose "?" stand for any character.
func alike(pattern, text string) bool {
	if len(pattern) != len(text) {
		return false
	}
	for i := range len(text) {
		if pattern[i] != text[i] && pattern[i] != '?' {
			return false
		}
	}
	return true
}
