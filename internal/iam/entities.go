package iam

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

// This file holds what is alike for users, groups and roles: their inline policies, attached policies and boundary.

// A holder is a user, group or role, as a request names it.
type holder interface {
	subject
	// noun is User, Group or Role.
	noun() string
	find(s *Service, c *awsapi.Caller) (*entity, error)
	// edit changes what policies it has. It fails for roles whose policies are AWS's to change.
	edit(ctx context.Context, s *Service, c *awsapi.Caller, do func(tx *kv.Tx, e *entity) error) error
}

// inlineLimit is how large the inline policies of a holder may be together.
func inlineLimit(noun string) int {
	switch noun {
	case "Role":
		return maxRoleInlineSize
	case "Group":
		return maxGroupInlineSize
	default:
		return maxUserInlineSize
	}
}

// inlinePolicy is an inline policy in a request or an answer.
type inlinePolicy struct{ PolicyName, PolicyDocument string }

func (p inlinePolicy) policy() inlinePolicy { return p }

func (p inlinePolicy) conditions(keys *policy.Context, t target) { boundaryOf(keys, t) }

// putInline makes the operations that set an inline policy.
func putInline[In any, P interface {
	*In
	holder
	policy() inlinePolicy
}](s *Service) func(context.Context, *awsapi.Caller, *In) error {
	return func(ctx context.Context, c *awsapi.Caller, in *In) error {
		p := P(in).policy()
		if err := checkIdentityPolicy(p.PolicyName, p.PolicyDocument); err != nil {
			return err
		}
		return P(in).edit(ctx, s, c, func(_ *kv.Tx, e *entity) error { return e.putInline(p, P(in).noun()) })
	}
}

// inlineName names an inline policy.
type inlineName struct{ PolicyName string }

func (n inlineName) policyName() string { return n.PolicyName }

func (n inlineName) conditions(p *policy.Context, t target) { boundaryOf(p, t) }

// deleteInline makes the operations that delete an inline policy.
func deleteInline[In any, P interface {
	*In
	holder
	policyName() string
}](s *Service) func(context.Context, *awsapi.Caller, *In) error {
	return func(ctx context.Context, c *awsapi.Caller, in *In) error {
		return P(in).edit(ctx, s, c, func(_ *kv.Tx, e *entity) error { return e.deleteInline(P(in).policyName(), P(in).noun()) })
	}
}

// inlineOf answers with an inline policy and the name of its holder.
func (s *Service) inlineOf(c *awsapi.Caller, h holder, name string) (holderName string, p inlinePolicy, err error) {
	e, err := h.find(s, c)
	if err != nil {
		return "", inlinePolicy{}, err
	}
	found, err := e.findInline(name, h.noun())
	return e.Name, inlinePolicy{found.Name, encodeDocument(found.Document)}, err
}

type policyNamesOut struct {
	PolicyNames []string
	truncated
}

// listInline makes the operations that list inline policies.
func listInline[In any, P interface {
	*In
	holder
	paged
}](s *Service) func(context.Context, *awsapi.Caller, *In) (*policyNamesOut, error) {
	return func(_ context.Context, c *awsapi.Caller, in *In) (*policyNamesOut, error) {
		e, err := P(in).find(s, c)
		if err != nil {
			return nil, err
		}
		from := sorted(e.Inline, func(p inline) string { return p.Name })
		names, rest, err := paginate(s, c, P(in).window(), from, func(p inline) (string, bool) { return p.Name, true })
		return &policyNamesOut{names, rest}, err
	}
}

// attachment names a managed policy that is attached or detached.
type attachment struct{ PolicyArn string }

func (a attachment) managedPolicy() string { return a.PolicyArn }

func (a attachment) conditions(p *policy.Context, t target) {
	p.Set("iam:PolicyARN", a.PolicyArn)
	boundaryOf(p, t)
}

// attaches is an input that names a holder and a managed policy.
type attaches[In any] interface {
	*In
	holder
	managedPolicy() string
}

// attach makes the operations that attach a managed policy.
func attach[In any, P attaches[In]](s *Service) func(context.Context, *awsapi.Caller, *In) error {
	return func(ctx context.Context, c *awsapi.Caller, in *In) error {
		return P(in).edit(ctx, s, c, func(tx *kv.Tx, e *entity) error { return s.attach(tx, e, P(in).managedPolicy(), P(in).noun()) })
	}
}

// detach makes the operations that detach one.
func detach[In any, P attaches[In]](s *Service) func(context.Context, *awsapi.Caller, *In) error {
	return func(ctx context.Context, c *awsapi.Caller, in *In) error {
		return P(in).edit(ctx, s, c, func(tx *kv.Tx, e *entity) error { return s.detach(tx, e, P(in).managedPolicy()) })
	}
}

type attachedShape struct{ PolicyName, PolicyArn string }

func attachedOf(policyARN string) attachedShape {
	_, name := splitPath(resourceOf(policyARN))
	return attachedShape{name, policyARN}
}

type attachedOut struct {
	AttachedPolicies []attachedShape
	truncated
}

// listAttached makes the operations that list attached policies.
func listAttached[In any, P interface {
	*In
	holder
	paged
	below() string
}](s *Service) func(context.Context, *awsapi.Caller, *In) (*attachedOut, error) {
	return func(_ context.Context, c *awsapi.Caller, in *In) (*attachedOut, error) {
		e, err := P(in).find(s, c)
		if err != nil {
			return nil, err
		}
		from := sorted(e.Attached, func(policyARN string) string { return policyARN })
		policies, rest, err := paginate(s, c, P(in).window(), from, func(policyARN string) (attachedShape, bool) {
			path, _ := splitPath(strings.TrimPrefix(resourceOf(policyARN), "policy"))
			return attachedOf(policyARN), strings.HasPrefix(path, P(in).below())
		})
		return &attachedOut{policies, rest}, err
	}
}

// boundary names the managed policy that becomes a permissions boundary.
type boundary struct{ PermissionsBoundary string }

func (b boundary) boundaryPolicy() string { return b.PermissionsBoundary }

func (b boundary) conditions(p *policy.Context, _ target) {
	p.Set("iam:PermissionsBoundary", b.PermissionsBoundary)
}

// putBoundary makes the operations that set a permissions boundary.
func putBoundary[In any, P interface {
	*In
	holder
	boundaryPolicy() string
}](s *Service) func(context.Context, *awsapi.Caller, *In) error {
	return func(ctx context.Context, c *awsapi.Caller, in *In) error {
		return P(in).edit(ctx, s, c, func(tx *kv.Tx, e *entity) error { return s.setBoundary(tx, e, P(in).boundaryPolicy()) })
	}
}

// deleteBoundary makes the operations that take it away.
func deleteBoundary[In any, P interface {
	*In
	holder
}](s *Service) func(context.Context, *awsapi.Caller, *In) error {
	return func(ctx context.Context, c *awsapi.Caller, in *In) error {
		return P(in).edit(ctx, s, c, func(tx *kv.Tx, e *entity) error { return s.setBoundary(tx, e, "") })
	}
}

// checkIdentityPolicy refuses a document that is no identity policy.
func checkIdentityPolicy(name, document string) error {
	_, err := policy.New(name, policy.Identity, []byte(document))
	return malformed(err)
}

// malformed turns the policy engine's refusals into IAM's.
func malformed(err error) error {
	if e, ok := errors.AsType[*policy.Error](err); ok {
		return awsapi.Errorf("MalformedPolicyDocument", "%s", e.Message)
	}
	return err
}

func hasCode(err error, code string) bool {
	e, ok := errors.AsType[*awsapi.Error](err)
	return ok && e.Code == code
}

// renamed returns a user or group as it is under another name and path; an empty one stays as it is.
func (e *entity) renamed(name, path string) *entity {
	next := *e
	next.Name, next.Path = cmp.Or(name, e.Name), cmp.Or(path, e.Path)
	return &next
}

// add stores a row of an account as part of tx, and counts it. taken is returned when something else is at its key.
func add[T any](s *Service, tx *kv.Tx, t *kv.Table[T], key string, row *T, quota string, taken error) error {
	if _, there := t.Read(tx, key); there {
		return taken
	}
	account, _, _ := strings.Cut(key, "/")
	if err := s.take(tx, account, quota); err != nil {
		return err
	}
	t.Write(tx, key, row)
	return nil
}

// rename puts a row at another key, which may be the same, as part of tx. taken is returned when something else is there.
func rename[T any](tx *kv.Tx, t *kv.Table[T], from, to string, row *T, taken error) error {
	if from != to {
		if _, there := t.Read(tx, to); there {
			return taken
		}
		t.Remove(tx, from)
	}
	t.Write(tx, to, row)
	return nil
}

func (e *entity) putInline(set inlinePolicy, noun string) error {
	size, bytes := policy.Size([]byte(set.PolicyDocument)), len(set.PolicyDocument)
	for _, p := range e.Inline {
		if p.Name != set.PolicyName {
			size, bytes = size+policy.Size([]byte(p.Document)), bytes+len(p.Document)
		}
	}
	if limit := inlineLimit(noun); size > limit || bytes > maxInlineBytes {
		return awsapi.Errorf("LimitExceeded", "Maximum policy size of %d bytes exceeded for %s %s", limit, strings.ToLower(noun), e.Name)
	}
	i, found := e.inlineAt(set.PolicyName)
	if !found {
		e.Inline = slices.Insert(e.Inline, i, inline{})
	}
	e.Inline[i] = inline{set.PolicyName, set.PolicyDocument}
	return nil
}

func (e *entity) inlineAt(name string) (int, bool) {
	return slices.BinarySearchFunc(e.Inline, name, func(p inline, name string) int { return strings.Compare(p.Name, name) })
}

func (e *entity) findInline(name, noun string) (inline, error) {
	i, found := e.inlineAt(name)
	if !found {
		return inline{}, awsapi.Errorf("NoSuchEntity", "The %s policy with name %s cannot be found.", strings.ToLower(noun), name)
	}
	return e.Inline[i], nil
}

func (e *entity) deleteInline(name, noun string) error {
	if _, err := e.findInline(name, noun); err != nil {
		return err
	}
	e.Inline = slices.DeleteFunc(e.Inline, func(p inline) bool { return p.Name == name })
	return nil
}

// removable reports what a user, group or role must lose before it may be deleted.
func removable(e *entity) error {
	if len(e.Attached) > 0 {
		return awsapi.Errorf("DeleteConflict", "Cannot delete entity, must detach all policies first.")
	}
	if len(e.Inline) > 0 {
		return awsapi.Errorf("DeleteConflict", "Cannot delete entity, must delete policies first.")
	}
	return nil
}

// attach adds a managed policy to a user, group or role, as part of tx. What is attached already stays attached.
func (s *Service) attach(tx *kv.Tx, e *entity, policyARN, noun string) error {
	m, err := s.readManaged(tx, e.Account, policyARN)
	switch {
	case err != nil:
		return err
	case m == nil:
		return awsapi.Errorf("NoSuchEntity", "Policy %s does not exist or is not attachable.", policyARN)
	case slices.Contains(e.Attached, m.ARN):
		return nil
	case len(e.Attached) >= maxAttached:
		return overQuota("PoliciesPer"+noun, maxAttached)
	}
	s.countUses(tx, m, 1, 0)
	e.Attached = append(e.Attached, m.ARN)
	return nil
}

func (s *Service) detach(tx *kv.Tx, e *entity, policyARN string) error {
	m, err := s.readManaged(tx, e.Account, policyARN)
	if err != nil {
		return err
	}
	i := slices.Index(e.Attached, policyARN)
	if i < 0 {
		return notFoundPolicy(policyARN)
	}
	s.countUses(tx, m, -1, 0)
	e.Attached = slices.Delete(e.Attached, i, i+1)
	return nil
}

// setBoundary gives a user or role another permissions boundary, or none, as part of tx.
func (s *Service) setBoundary(tx *kv.Tx, e *entity, policyARN string) error {
	if err := s.releaseBoundary(tx, e); err != nil {
		return err
	}
	if policyARN != "" {
		m, err := s.readManaged(tx, e.Account, policyARN)
		if err != nil {
			return err
		}
		if m == nil {
			return awsapi.Errorf("NoSuchEntity", "Scope ARN: %s does not exist or is not attachable.", policyARN)
		}
		s.countUses(tx, m, 0, 1)
	}
	e.Boundary = policyARN
	return nil
}

// releaseBoundary stops counting the use of the entity's boundary, as part of tx.
func (s *Service) releaseBoundary(tx *kv.Tx, e *entity) error {
	if e.Boundary == "" {
		return nil
	}
	m, err := s.readManaged(tx, e.Account, e.Boundary)
	if err == nil {
		s.countUses(tx, m, 0, -1)
	}
	return err
}

// countUses changes the counts of an account's own policy; of AWS's, which cannot be deleted, none are kept.
func (s *Service) countUses(tx *kv.Tx, m *managedRow, attachments, boundaries int) {
	if m == nil || m.Account == awsOwned {
		return
	}
	next := m.clone()
	next.Attachments += attachments
	next.BoundaryUses += boundaries
	s.managed.Write(tx, m.key(), next)
}

// trustByID returns a trust policy with the users and roles that it names replaced by their unique IDs. Each must exist
// (IAM User Guide, "AWS JSON policy elements: Principal"), and the trust guard must let the policy pass.
func (s *Service) trustByID(tx *kv.Tx, document string) (string, error) {
	if policy.Size([]byte(document)) > maxTrustSize {
		return "", overQuota("ACLSizePerRole", maxTrustSize)
	}
	if _, err := policy.New("", policy.Trust, []byte(document)); err != nil {
		return "", malformed(err)
	}
	byID, err := policy.RewritePrincipals([]byte(document), func(typ, value string) (string, error) {
		if typ != "AWS" {
			return value, nil
		}
		id, ok := s.principalID(tx, value)
		if !ok {
			return "", awsapi.Errorf("MalformedPolicyDocument", `Invalid principal in policy: "AWS":"%s"`, value)
		}
		return id, nil
	})
	if err != nil {
		return "", malformed(err)
	}
	if _, err := policy.New("", policy.Trust, byID); err != nil {
		return "", malformed(err)
	}
	if err := s.checkTrust(document); err != nil {
		return "", err
	}
	return string(byID), nil
}

// principalID returns what stands in a stored trust policy for a principal.
func (s *Service) principalID(tx *kv.Tx, value string) (string, bool) {
	if value == "*" || arn.ValidAccountID(value) {
		return value, true
	}
	if isEntityID(value) {
		return value, s.arnOfID(value) != ""
	}
	a, err := arn.Parse(value)
	if err != nil || a.Partition() != s.partition || a.Region() != "" || !arn.ValidAccountID(a.Account()) {
		return "", false
	}
	kind, rest, _ := strings.Cut(a.Resource(), "/")
	switch {
	case a.Service() == "iam" && a.Resource() == "root":
		return value, true
	case a.Service() == "sts" && (kind == "assumed-role" || kind == "federated-user") && rest != "" && !strings.ContainsAny(rest, "*?"):
		return value, true
	case a.Service() == "iam" && kind == "user":
		_, name := splitPath("/" + rest)
		if r, ok := s.users.Read(tx, nameKey(a.Account(), name)); ok && s.userARN(&r.entity) == value {
			return r.ID, true
		}
	case a.Service() == "iam" && kind == "role":
		_, name := splitPath("/" + rest)
		if r, ok := s.roles.Read(tx, nameKey(a.Account(), name)); ok && s.roleARN(&r.entity) == value {
			return r.ID, true
		}
	}
	return "", false
}

// trustByARN is the way back, for readers. An ID whose user or role is gone stays an ID.
func (s *Service) trustByARN(stored string) (string, error) {
	document, err := policy.RewritePrincipals([]byte(stored), func(typ, value string) (string, error) {
		if typ == "AWS" && isEntityID(value) {
			if a := s.arnOfID(value); a != "" {
				return a, nil
			}
		}
		return value, nil
	})
	return string(document), err
}

// isEntityID reports whether s has the form of a user's or role's unique ID.
func isEntityID(s string) bool {
	return len(s) == 21 && (strings.HasPrefix(s, string(arn.UserID)) || strings.HasPrefix(s, string(arn.RoleID)))
}

// arnOfID returns the ARN of the user or role with a unique ID, or nothing when there is none.
func (s *Service) arnOfID(id string) string {
	if _, r, ok := s.rolesByID.First(id); ok {
		return s.roleARN(&r.entity)
	}
	if _, r, ok := s.usersByID.First(id); ok {
		return s.userARN(&r.entity)
	}
	return ""
}

// splitPath splits "/a/b/name" into "/a/b/" and "name".
func splitPath(s string) (path, name string) {
	i := strings.LastIndexByte(s, '/')
	return s[:i+1], s[i+1:]
}

// resourceOf returns the last part of an ARN that is known to be one.
func resourceOf(text string) string {
	a, err := arn.Parse(text)
	if err != nil {
		return ""
	}
	return a.Resource()
}

// policiesOf are the keys under which the indexes find a user or role by its managed policies.
func (e *entity) policiesOf() []string {
	keys := make([]string, 0, len(e.Attached)+1)
	for _, a := range e.Attached {
		keys = append(keys, e.Account+"/"+a)
	}
	if e.Boundary != "" && !slices.Contains(e.Attached, e.Boundary) {
		keys = append(keys, e.Account+"/"+e.Boundary)
	}
	return keys
}
