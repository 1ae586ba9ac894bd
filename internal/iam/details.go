package iam

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

type detailsIn struct {
	Filter []string
	page
}

func (in *detailsIn) target(*Service, *awsapi.Caller) (target, error) { return target{arn: "*"}, nil }

type userDetail struct {
	userShape
	UserPolicyList          []inlinePolicy
	GroupList               []string
	AttachedManagedPolicies []attachedShape
}

type groupDetail struct {
	groupShape
	GroupPolicyList         []inlinePolicy
	AttachedManagedPolicies []attachedShape
}

type roleDetail struct {
	Path                     string
	RoleName                 string
	RoleID                   string
	Arn                      string
	CreateDate               time.Time
	AssumeRolePolicyDocument string
	InstanceProfileList      []profileShape
	RolePolicyList           []inlinePolicy
	AttachedManagedPolicies  []attachedShape
	PermissionsBoundary      *boundaryShape
	Tags                     []awsapi.Tag
	RoleLastUsed             *lastUsedShape
}

type policyDetail struct {
	policyCore
	Description       string
	PolicyVersionList []versionShape
}

type detailsOut struct {
	UserDetailList  []userDetail
	GroupDetailList []groupDetail
	RoleDetailList  []roleDetail
	Policies        []policyDetail
	truncated
}

// getAuthorizationDetails shows users, groups, roles and managed policies in this order, in pages that may have some of
// each. Of AWS's policies it shows those that are in use.
func (s *Service) getAuthorizationDetails(_ context.Context, c *awsapi.Caller, in *detailsIn) (*detailsOut, error) {
	out := &detailsOut{
		UserDetailList: []userDetail{}, GroupDetailList: []groupDetail{}, RoleDetailList: []roleDetail{}, Policies: []policyDetail{},
	}
	rows, rest, err := paginate(s, c, in.page, s.everything(c.Account, in.Filter), all)
	if err != nil {
		return nil, err
	}
	out.truncated = rest
	for _, row := range rows {
		switch r := row.(type) {
		case *userRow:
			out.UserDetailList = append(out.UserDetailList, s.detailOfUser(r))
		case *groupRow:
			out.GroupDetailList = append(out.GroupDetailList, groupDetail{s.groupOf(r), r.inlineShapes(), r.attachedShapes()})
		case *roleRow:
			detail, err := s.detailOfRole(r)
			if err != nil {
				return nil, err
			}
			out.RoleDetailList = append(out.RoleDetailList, detail)
		case *managedRow:
			out.Policies = append(out.Policies, s.detailOfPolicy(c.Account, r))
		}
	}
	return out, nil
}

// everything is the list of an account's rows that a filter asks for, as paginate wants it: the keys of each kind begin with
// a letter of their own.
func (s *Service) everything(account string, filter []string) func(after string) iter.Seq2[string, any] {
	asked := func(kind string) bool { return len(filter) == 0 || slices.Contains(filter, kind) }
	var policies []*managedRow
	if asked("LocalManagedPolicy") {
		for _, m := range s.managed.Scan(account+"/", "") {
			policies = append(policies, m)
		}
	}
	if asked("AWSManagedPolicy") {
		for _, m := range s.aws {
			if attached, boundaries := s.usesOf(account, m); attached+boundaries > 0 {
				policies = append(policies, m)
			}
		}
	}
	return func(after string) iter.Seq2[string, any] {
		return func(yield func(string, any) bool) {
			_ = (!asked("User") || each("a", after, ofAccount(s.users, account), yield)) &&
				(!asked("Group") || each("b", after, ofAccount(s.groups, account), yield)) &&
				(!asked("Role") || each("c", after, ofAccount(s.roles, account), yield)) &&
				each("d", after, sorted(policies, (*managedRow).key), yield)
		}
	}
}

// each yields the rows of one kind whose keys, behind the kind's letter, come after a key of any kind. It reports whether to
// go on.
func each[R any](kind, after string, from func(after string) iter.Seq2[string, R], yield func(string, any) bool) bool {
	switch {
	case after != "" && after[:1] > kind:
		return true
	case after == "" || after[:1] < kind:
		after = kind
	}
	for key, row := range from(after[1:]) {
		if !yield(kind+key, row) {
			return false
		}
	}
	return true
}

func (e *entity) inlineShapes() []inlinePolicy {
	shapes := make([]inlinePolicy, len(e.Inline))
	for i, p := range e.Inline {
		shapes[i] = inlinePolicy{p.Name, encodeDocument(p.Document)}
	}
	return shapes
}

func (e *entity) attachedShapes() []attachedShape {
	shapes := make([]attachedShape, len(e.Attached))
	for i, policyARN := range e.Attached {
		shapes[i] = attachedOf(policyARN)
	}
	return shapes
}

func (s *Service) detailOfUser(r *userRow) userDetail {
	d := userDetail{s.userOf(r).User, r.inlineShapes(), []string{}, r.attachedShapes()}
	for _, g := range s.groupsOf(r) {
		d.GroupList = append(d.GroupList, g.Name)
	}
	return d
}

func (s *Service) detailOfRole(r *roleRow) (roleDetail, error) {
	shape, err := s.createdRole(r)
	if err != nil {
		return roleDetail{}, err
	}
	d := roleDetail{
		Path: shape.Path, RoleName: shape.RoleName, RoleID: shape.RoleID, Arn: shape.Arn, CreateDate: shape.CreateDate,
		AssumeRolePolicyDocument: shape.AssumeRolePolicyDocument, InstanceProfileList: []profileShape{},
		RolePolicyList: r.inlineShapes(), AttachedManagedPolicies: r.attachedShapes(),
		PermissionsBoundary: boundaryOut(r.Boundary), Tags: r.Tags, RoleLastUsed: s.lastUsedOf(r),
	}
	for _, name := range r.Profiles {
		p, err := s.profile(r.Account, name)
		if err != nil {
			return roleDetail{}, err
		}
		profile, err := s.listedProfile(p)
		if err != nil {
			return roleDetail{}, err
		}
		d.InstanceProfileList = append(d.InstanceProfileList, profile)
	}
	return d, nil
}

func (s *Service) detailOfPolicy(account string, m *managedRow) policyDetail {
	d := policyDetail{policyCore: s.coreOf(account, m), Description: m.Description}
	for _, v := range slices.Backward(m.Versions) {
		shape := m.shapeOf(v)
		shape.Document = encodeDocument(v.Document)
		d.PolicyVersionList = append(d.PolicyVersionList, shape)
	}
	return d
}
