package iam

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

// This file holds what is alike for users and roles: their inline policies, attached policies and boundary.

type policyNamesOut struct {
	PolicyNames []string
	IsTruncated bool
	Marker      string
}

type attachedShape struct{ PolicyName, PolicyArn string }

type attachedOut struct {
	AttachedPolicies []attachedShape
	IsTruncated      bool
	Marker           string
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

func (e *entity) putInline(name, document, noun string, limit int) error {
	size, bytes := policy.Size([]byte(document)), len(document)
	for _, p := range e.Inline {
		if p.Name != name {
			size, bytes = size+policy.Size([]byte(p.Document)), bytes+len(p.Document)
		}
	}
	if size > limit || bytes > maxInlineBytes {
		return awsapi.Errorf("LimitExceeded", "Maximum policy size of %d bytes exceeded for %s %s", limit, noun, e.Name)
	}
	i, found := e.inlineAt(name)
	if !found {
		e.Inline = slices.Insert(e.Inline, i, inline{})
	}
	e.Inline[i] = inline{name, document}
	return nil
}

func (e *entity) inlineAt(name string) (int, bool) {
	return slices.BinarySearchFunc(e.Inline, name, func(p inline, name string) int { return strings.Compare(p.Name, name) })
}

func (e *entity) findInline(name, noun string) (inline, error) {
	i, found := e.inlineAt(name)
	if !found {
		return inline{}, awsapi.Errorf("NoSuchEntity", "The %s policy with name %s cannot be found.", noun, name)
	}
	return e.Inline[i], nil
}

func (e *entity) removeInline(name, noun string) error {
	if _, err := e.findInline(name, noun); err != nil {
		return err
	}
	e.Inline = slices.DeleteFunc(e.Inline, func(p inline) bool { return p.Name == name })
	return nil
}

// removable reports what a user or role must lose before it may be deleted.
func removable(e *entity) error {
	if len(e.Attached) > 0 {
		return awsapi.Errorf("DeleteConflict", "Cannot delete entity, must detach all policies first.")
	}
	if len(e.Inline) > 0 {
		return awsapi.Errorf("DeleteConflict", "Cannot delete entity, must delete policies first.")
	}
	return nil
}

func (s *Service) pageOfInline(c *awsapi.Caller, e *entity, marker string, maxItems int32) (*policyNamesOut, error) {
	from := sorted(e.Inline, func(p inline) string { return p.Name })
	page, next, err := paginate(s, c, marker, maxItems, from, func(p inline) (string, bool) { return p.Name, true })
	if err != nil {
		return nil, err
	}
	return &policyNamesOut{PolicyNames: page, IsTruncated: next != "", Marker: next}, nil
}

func (s *Service) pageOfAttached(c *awsapi.Caller, e *entity, pathPrefix, marker string, maxItems int32) (*attachedOut, error) {
	from := sorted(e.Attached, func(policyARN string) string { return policyARN })
	page, next, err := paginate(s, c, marker, maxItems, from, func(policyARN string) (attachedShape, bool) {
		path, name := splitPath(strings.TrimPrefix(resourceOf(policyARN), "policy"))
		return attachedShape{name, policyARN}, strings.HasPrefix(path, pathPrefix)
	})
	if err != nil {
		return nil, err
	}
	return &attachedOut{AttachedPolicies: page, IsTruncated: next != "", Marker: next}, nil
}

// attach adds a managed policy to a user or role, as part of tx. What is attached already stays attached.
func (s *Service) attach(tx *kv.Tx, e *entity, policyARN, quota string) error {
	m, err := s.readManaged(tx, e.Account, policyARN)
	switch {
	case err != nil:
		return err
	case m == nil:
		return awsapi.Errorf("NoSuchEntity", "Policy %s does not exist or is not attachable.", policyARN)
	case slices.Contains(e.Attached, m.ARN):
		return nil
	case len(e.Attached) >= maxAttached:
		return overQuota(quota, maxAttached)
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

// entitiesForPolicyIn is the input of ListEntitiesForPolicy.
type entitiesForPolicyIn struct {
	PolicyArn         string
	EntityFilter      string
	PathPrefix        string
	PolicyUsageFilter string
	Marker            string
	MaxItems          int32
}

func (in *entitiesForPolicyIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.policyTarget(c, in.PolicyArn)
}

type policyGroupShape struct{ GroupName, GroupID string }

type policyUserShape struct{ UserName, UserID string }

type policyRoleShape struct{ RoleName, RoleID string }

type entitiesForPolicyOut struct {
	PolicyGroups []policyGroupShape
	PolicyUsers  []policyUserShape
	PolicyRoles  []policyRoleShape
	IsTruncated  bool
	Marker       string
}

func (s *Service) listEntitiesForPolicy(_ context.Context, c *awsapi.Caller, in *entitiesForPolicyIn) (*entitiesForPolicyOut, error) {
	m, err := s.findManaged(c.Account, in.PolicyArn)
	if err != nil {
		return nil, err
	}
	type use struct {
		kind string
		*entity
	}
	var uses []use
	add := func(kind string, e *entity) {
		attached, boundary := slices.Contains(e.Attached, m.ARN), e.Boundary == m.ARN
		switch in.PolicyUsageFilter {
		case "PermissionsPolicy":
			boundary = false
		case "PermissionsBoundary":
			attached = false
		}
		if e.Account == c.Account && (attached || boundary) && strings.HasPrefix(e.Path, in.PathPrefix) {
			uses = append(uses, use{kind, e})
		}
	}
	if in.EntityFilter == "" || in.EntityFilter == "User" {
		for _, r := range s.usersByPolicy.Get(c.Account + "/" + m.ARN) {
			add("User", &r.entity)
		}
	}
	if in.EntityFilter == "" || in.EntityFilter == "Role" {
		for _, r := range s.rolesByPolicy.Get(c.Account + "/" + m.ARN) {
			add("Role", &r.entity)
		}
	}
	page, next, err := paginate(s, c, in.Marker, in.MaxItems, sorted(uses, func(u use) string { return u.kind + u.key() }), all)
	if err != nil {
		return nil, err
	}
	out := &entitiesForPolicyOut{
		PolicyGroups: []policyGroupShape{}, PolicyUsers: []policyUserShape{}, PolicyRoles: []policyRoleShape{},
		IsTruncated: next != "", Marker: next,
	}
	for _, u := range page {
		if u.kind == "User" {
			out.PolicyUsers = append(out.PolicyUsers, policyUserShape{u.Name, u.ID})
		} else {
			out.PolicyRoles = append(out.PolicyRoles, policyRoleShape{u.Name, u.ID})
		}
	}
	return out, nil
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
