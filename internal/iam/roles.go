package iam

import (
	"context"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

type roleShape struct {
	Path                     string
	RoleName                 string
	RoleID                   string
	Arn                      string
	CreateDate               time.Time
	AssumeRolePolicyDocument string
	Description              string
	MaxSessionDuration       *int32
	PermissionsBoundary      *boundaryShape
	Tags                     []awsapi.Tag
	RoleLastUsed             *lastUsedShape
}

type lastUsedShape struct {
	LastUsedDate time.Time
	Region       string
}

type roleOut struct{ Role roleShape }

// createdRole is a role as CreateRole echoes it; listedRole and roleOf add what the other operations show.
func (s *Service) createdRole(r *roleRow) (roleShape, error) {
	document, err := s.trustByARN(r.Trust)
	if err != nil {
		return roleShape{}, err
	}
	return roleShape{
		Path: r.Path, RoleName: r.Name, RoleID: r.ID, Arn: s.roleARN(&r.entity), CreateDate: r.Created,
		AssumeRolePolicyDocument: encodeDocument(document), Description: r.Description,
	}, nil
}

func (s *Service) listedRole(r *roleRow) (roleShape, error) {
	shape, err := s.createdRole(r)
	shape.MaxSessionDuration = &r.MaxSession
	return shape, err
}

func (s *Service) roleOf(r *roleRow) (*roleOut, error) {
	shape, err := s.listedRole(r)
	if err != nil {
		return nil, err
	}
	shape.PermissionsBoundary, shape.Tags, shape.RoleLastUsed = boundaryOut(r.Boundary), r.Tags, &lastUsedShape{}
	if u, ok := s.lastUse(r.ID); ok {
		shape.RoleLastUsed = &lastUsedShape{u.at, u.region}
	}
	return &roleOut{shape}, nil
}

// serviceLinkedPath begins the paths of roles that only AWS services make.
const serviceLinkedPath = "/aws-service-role/"

type createRoleIn struct {
	RoleName                 string
	Path                     string
	AssumeRolePolicyDocument string
	Description              string
	MaxSessionDuration       int32
	PermissionsBoundary      string
	Tags                     []awsapi.Tag
}

func (in *createRoleIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.newTarget(c, "role", in.Path, in.RoleName)
}

func (in *createRoleIn) conditions(p *policy.Context, _ target) {
	requestTags(p, in.Tags)
	boundaryOf(p, target{boundary: in.PermissionsBoundary})
}

func (s *Service) createRole(ctx context.Context, c *awsapi.Caller, in *createRoleIn) (*roleOut, error) {
	if strings.HasPrefix(in.Path, serviceLinkedPath) {
		return nil, awsapi.Errorf("InvalidInput", "The path %s is reserved for service-linked roles.", serviceLinkedPath)
	}
	e, err := s.newEntity(arn.RoleID, c.Account, in.RoleName, in.Path, in.Tags, "TagsPerRole")
	if err != nil {
		return nil, err
	}
	maxSession := in.MaxSessionDuration
	if maxSession == 0 {
		maxSession = defaultMaxSession
	}
	var made *roleRow
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		if _, taken := s.roles.Read(tx, e.key()); taken {
			return awsapi.Errorf("EntityAlreadyExists", "Role with name %s already exists.", in.RoleName)
		}
		if err := s.take(tx, c.Account, rolesQuota); err != nil {
			return err
		}
		trust, err := s.trustByID(tx, in.AssumeRolePolicyDocument)
		if err != nil {
			return err
		}
		made = &roleRow{role: role{entity: e.clone(), Trust: trust, Description: in.Description, MaxSession: maxSession}}
		if err := s.setBoundary(tx, &made.entity, in.PermissionsBoundary); err != nil {
			return err
		}
		s.roles.Write(tx, e.key(), made)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.warnTrust(ctx, c, &made.entity, in.AssumeRolePolicyDocument)
	shape, err := s.createdRole(made)
	if err != nil {
		return nil, err
	}
	shape.PermissionsBoundary, shape.Tags = boundaryOut(made.Boundary), made.Tags
	return &roleOut{shape}, nil
}

// roleIn is the input of the operations that take a role's name only.
type roleIn struct{ RoleName string }

func (in *roleIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (in *roleIn) conditions(p *policy.Context, t target) { boundaryOf(p, t) }

func (s *Service) getRole(_ context.Context, c *awsapi.Caller, in *roleIn) (*roleOut, error) {
	r, err := s.role(c.Account, in.RoleName)
	if err != nil {
		return nil, err
	}
	return s.roleOf(r)
}

type listRolesIn struct {
	PathPrefix string
	Marker     string
	MaxItems   int32
}

func (in *listRolesIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.listTarget(c, "role", in.PathPrefix)
}

type listRolesOut struct {
	Roles       []roleShape
	IsTruncated bool
	Marker      string
}

func (s *Service) listRoles(_ context.Context, c *awsapi.Caller, in *listRolesIn) (*listRolesOut, error) {
	page, next, err := paginate(s, c, in.Marker, in.MaxItems, ofAccount(s.roles, c.Account), func(r *roleRow) (*roleRow, bool) {
		return r, strings.HasPrefix(r.Path, in.PathPrefix)
	})
	if err != nil {
		return nil, err
	}
	out := &listRolesOut{Roles: make([]roleShape, len(page)), IsTruncated: next != "", Marker: next}
	for i, r := range page {
		if out.Roles[i], err = s.listedRole(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

type updateRoleIn struct {
	RoleName           string
	Description        *string
	MaxSessionDuration *int32
}

func (in *updateRoleIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (s *Service) updateRole(ctx context.Context, c *awsapi.Caller, in *updateRoleIn) error {
	return s.changeRole(ctx, c.Account, in.RoleName, func(_ *kv.Tx, r *roleRow) error {
		if in.Description != nil {
			r.Description = *in.Description
		}
		if in.MaxSessionDuration != nil {
			r.MaxSession = *in.MaxSessionDuration
		}
		return nil
	})
}

type updateRoleDescriptionIn struct{ RoleName, Description string }

func (in *updateRoleDescriptionIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (s *Service) updateRoleDescription(ctx context.Context, c *awsapi.Caller, in *updateRoleDescriptionIn) (*roleOut, error) {
	var changed *roleRow
	err := s.changeRole(ctx, c.Account, in.RoleName, func(_ *kv.Tx, r *roleRow) error {
		r.Description = in.Description
		changed = r
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.roleOf(changed)
}

type updateAssumeRolePolicyIn struct{ RoleName, PolicyDocument string }

func (in *updateAssumeRolePolicyIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (s *Service) updateAssumeRolePolicy(ctx context.Context, c *awsapi.Caller, in *updateAssumeRolePolicyIn) error {
	var changed *roleRow
	err := s.changeRole(ctx, c.Account, in.RoleName, func(tx *kv.Tx, r *roleRow) (err error) {
		changed = r
		r.Trust, err = s.trustByID(tx, in.PolicyDocument)
		return err
	})
	if err == nil {
		s.warnTrust(ctx, c, &changed.entity, in.PolicyDocument)
	}
	return err
}

func (s *Service) deleteRole(ctx context.Context, c *awsapi.Caller, in *roleIn) error {
	key := nameKey(c.Account, in.RoleName)
	var id string
	err := s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.roles.Read(tx, key)
		switch {
		case !ok:
			return noSuchRole(in.RoleName)
		case len(r.Profiles) > 0:
			return awsapi.Errorf("DeleteConflict", "Cannot delete entity, must remove roles from instance profile first.")
		}
		if err := removable(&r.entity); err != nil {
			return err
		}
		if err := s.releaseBoundary(tx, &r.entity); err != nil {
			return err
		}
		s.roles.Remove(tx, key)
		s.release(tx, c.Account, rolesQuota)
		id = r.ID
		return nil
	})
	if err == nil {
		s.uses.Delete(id)
	}
	return err
}

type tagRoleIn struct {
	RoleName string
	Tags     []awsapi.Tag
}

func (in *tagRoleIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (in *tagRoleIn) conditions(p *policy.Context, _ target) { requestTags(p, in.Tags) }

func (s *Service) tagRole(ctx context.Context, c *awsapi.Caller, in *tagRoleIn) error {
	return s.changeRole(ctx, c.Account, in.RoleName, func(_ *kv.Tx, r *roleRow) (err error) {
		r.Tags, err = mergeTags(r.Tags, in.Tags, "TagsPerRole")
		return err
	})
}

type untagRoleIn struct {
	RoleName string
	TagKeys  []string
}

func (in *untagRoleIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (in *untagRoleIn) conditions(p *policy.Context, _ target) { p.SetList("aws:TagKeys", in.TagKeys) }

func (s *Service) untagRole(ctx context.Context, c *awsapi.Caller, in *untagRoleIn) error {
	return s.changeRole(ctx, c.Account, in.RoleName, func(_ *kv.Tx, r *roleRow) error {
		r.Tags = removeTags(r.Tags, in.TagKeys)
		return nil
	})
}

// listOfRoleIn is the input of the lists of one role's things.
type listOfRoleIn struct {
	RoleName string
	Marker   string
	MaxItems int32
}

func (in *listOfRoleIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (s *Service) listRoleTags(_ context.Context, c *awsapi.Caller, in *listOfRoleIn) (*listTagsOut, error) {
	r, err := s.role(c.Account, in.RoleName)
	if err != nil {
		return nil, err
	}
	return s.pageOfTags(c, r.Tags, in.Marker, in.MaxItems)
}

type putRolePolicyIn struct{ RoleName, PolicyName, PolicyDocument string }

func (in *putRolePolicyIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (in *putRolePolicyIn) conditions(p *policy.Context, t target) { boundaryOf(p, t) }

func (s *Service) putRolePolicy(ctx context.Context, c *awsapi.Caller, in *putRolePolicyIn) error {
	if err := checkIdentityPolicy(in.PolicyName, in.PolicyDocument); err != nil {
		return err
	}
	return s.changeRole(ctx, c.Account, in.RoleName, func(_ *kv.Tx, r *roleRow) error {
		return r.putInline(in.PolicyName, in.PolicyDocument, "role", maxRoleInlineSize)
	})
}

// rolePolicyIn names an inline policy of a role.
type rolePolicyIn struct{ RoleName, PolicyName string }

func (in *rolePolicyIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (in *rolePolicyIn) conditions(p *policy.Context, t target) { boundaryOf(p, t) }

type rolePolicyOut struct{ RoleName, PolicyName, PolicyDocument string }

func (s *Service) getRolePolicy(_ context.Context, c *awsapi.Caller, in *rolePolicyIn) (*rolePolicyOut, error) {
	r, err := s.role(c.Account, in.RoleName)
	if err != nil {
		return nil, err
	}
	p, err := r.findInline(in.PolicyName, "role")
	if err != nil {
		return nil, err
	}
	return &rolePolicyOut{r.Name, p.Name, encodeDocument(p.Document)}, nil
}

func (s *Service) deleteRolePolicy(ctx context.Context, c *awsapi.Caller, in *rolePolicyIn) error {
	return s.changeRole(ctx, c.Account, in.RoleName, func(_ *kv.Tx, r *roleRow) error {
		return r.removeInline(in.PolicyName, "role")
	})
}

func (s *Service) listRolePolicies(_ context.Context, c *awsapi.Caller, in *listOfRoleIn) (*policyNamesOut, error) {
	r, err := s.role(c.Account, in.RoleName)
	if err != nil {
		return nil, err
	}
	return s.pageOfInline(c, &r.entity, in.Marker, in.MaxItems)
}

// roleAttachmentIn names a managed policy and a role.
type roleAttachmentIn struct{ RoleName, PolicyArn string }

func (in *roleAttachmentIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (in *roleAttachmentIn) conditions(p *policy.Context, t target) {
	p.Set("iam:PolicyARN", in.PolicyArn)
	boundaryOf(p, t)
}

func (s *Service) attachRolePolicy(ctx context.Context, c *awsapi.Caller, in *roleAttachmentIn) error {
	return s.changeRole(ctx, c.Account, in.RoleName, func(tx *kv.Tx, r *roleRow) error {
		return s.attach(tx, &r.entity, in.PolicyArn, "PoliciesPerRole")
	})
}

func (s *Service) detachRolePolicy(ctx context.Context, c *awsapi.Caller, in *roleAttachmentIn) error {
	return s.changeRole(ctx, c.Account, in.RoleName, func(tx *kv.Tx, r *roleRow) error {
		return s.detach(tx, &r.entity, in.PolicyArn)
	})
}

type listAttachedRolePoliciesIn struct {
	RoleName   string
	PathPrefix string
	Marker     string
	MaxItems   int32
}

func (in *listAttachedRolePoliciesIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (s *Service) listAttachedRolePolicies(_ context.Context, c *awsapi.Caller, in *listAttachedRolePoliciesIn) (*attachedOut, error) {
	r, err := s.role(c.Account, in.RoleName)
	if err != nil {
		return nil, err
	}
	return s.pageOfAttached(c, &r.entity, in.PathPrefix, in.Marker, in.MaxItems)
}

type putRoleBoundaryIn struct{ RoleName, PermissionsBoundary string }

func (in *putRoleBoundaryIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.RoleName)
}

func (in *putRoleBoundaryIn) conditions(p *policy.Context, _ target) {
	p.Set("iam:PermissionsBoundary", in.PermissionsBoundary)
}

func (s *Service) putRoleBoundary(ctx context.Context, c *awsapi.Caller, in *putRoleBoundaryIn) error {
	return s.changeRole(ctx, c.Account, in.RoleName, func(tx *kv.Tx, r *roleRow) error {
		return s.setBoundary(tx, &r.entity, in.PermissionsBoundary)
	})
}

func (s *Service) deleteRoleBoundary(ctx context.Context, c *awsapi.Caller, in *roleIn) error {
	return s.changeRole(ctx, c.Account, in.RoleName, func(tx *kv.Tx, r *roleRow) error {
		return s.setBoundary(tx, &r.entity, "")
	})
}

func (s *Service) listInstanceProfilesForRole(_ context.Context, c *awsapi.Caller, in *listOfRoleIn) (*listProfilesOut, error) {
	r, err := s.role(c.Account, in.RoleName)
	if err != nil {
		return nil, err
	}
	return s.pageOfProfiles(c, in.Marker, in.MaxItems, r.Profiles)
}
