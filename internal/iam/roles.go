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
	shape.PermissionsBoundary, shape.Tags, shape.RoleLastUsed = boundaryOut(r.Boundary), r.Tags, s.lastUsedOf(r)
	return &roleOut{shape}, nil
}

// lastUsedOf is empty for a role that was never used.
func (s *Service) lastUsedOf(r *roleRow) *lastUsedShape {
	u, _, _ := s.lastUse(r.ID)
	return &lastUsedShape{u.At, u.Region}
}

// serviceLinkedPath begins the paths of roles that are linked to a service: their policies are AWS's to change.
const serviceLinkedPath = "/aws-service-role/"

// modifiable fails for service-linked roles.
func (r *role) modifiable() error {
	if !strings.HasPrefix(r.Path, serviceLinkedPath) {
		return nil
	}
	return awsapi.Errorf("UnmodifiableEntity",
		"Cannot perform the operation on the protected role '%s' - this role is only modifiable by AWS", r.Name)
}

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

func roleExists(name string) error {
	return awsapi.Errorf("EntityAlreadyExists", "Role with name %s already exists.", name)
}

func (s *Service) createRole(ctx context.Context, c *awsapi.Caller, in *createRoleIn) (*roleOut, error) {
	if strings.HasPrefix(in.Path, serviceLinkedPath) {
		return nil, awsapi.Errorf("InvalidInput", "The path %s is reserved for service-linked roles.", serviceLinkedPath)
	}
	e, err := s.newEntity(c, arn.RoleID, in.RoleName, in.Path, in.Tags, "Role")
	if err != nil {
		return nil, err
	}
	maxSession := in.MaxSessionDuration
	if maxSession == 0 {
		maxSession = defaultMaxSession
	}
	var made *roleRow
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		trust, err := s.trustByID(tx, in.AssumeRolePolicyDocument)
		if err != nil {
			return err
		}
		made = &roleRow{role: role{entity: e.clone(), Trust: trust, Description: in.Description, MaxSession: maxSession}}
		if err := s.setBoundary(tx, &made.entity, in.PermissionsBoundary); err != nil {
			return err
		}
		return add(s, tx, s.roles, e.key(), made, rolesQuota, roleExists(in.RoleName))
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

// roleName names a role.
type roleName struct{ RoleName string }

func (n roleName) noun() string { return "Role" }

func (n roleName) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, n.RoleName)
}

func (n roleName) find(s *Service, c *awsapi.Caller) (*entity, error) {
	r, err := s.role(c.Account, n.RoleName)
	if err != nil {
		return nil, err
	}
	return &r.entity, nil
}

func (n roleName) edit(ctx context.Context, s *Service, c *awsapi.Caller, do func(tx *kv.Tx, e *entity) error) error {
	return s.changeRole(ctx, c.Account, n.RoleName, func(tx *kv.Tx, r *roleRow) error {
		if err := r.modifiable(); err != nil {
			return err
		}
		return do(tx, &r.entity)
	})
}

func (n roleName) tags(s *Service, c *awsapi.Caller) ([]awsapi.Tag, error) {
	r, err := s.role(c.Account, n.RoleName)
	if err != nil {
		return nil, err
	}
	return r.Tags, nil
}

func (n roleName) retag(ctx context.Context, s *Service, c *awsapi.Caller, edit func([]awsapi.Tag) ([]awsapi.Tag, error)) error {
	return s.changeRole(ctx, c.Account, n.RoleName, func(_ *kv.Tx, r *roleRow) (err error) {
		r.Tags, err = edit(r.Tags)
		return err
	})
}

// roleIn is the input of the operations that take a role's name only.
type roleIn struct{ roleName }

func (in *roleIn) conditions(p *policy.Context, t target) { boundaryOf(p, t) }

func (s *Service) getRole(_ context.Context, c *awsapi.Caller, in *roleIn) (*roleOut, error) {
	r, err := s.role(c.Account, in.RoleName)
	if err != nil {
		return nil, err
	}
	return s.roleOf(r)
}

type listRolesIn struct{ pathPage }

func (in *listRolesIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.listTarget(c, "role", in.PathPrefix)
}

type listRolesOut struct {
	Roles []roleShape
	truncated
}

func (s *Service) listRoles(_ context.Context, c *awsapi.Caller, in *listRolesIn) (*listRolesOut, error) {
	rows, rest, err := paginate(s, c, in.page, ofAccount(s.roles, c.Account), func(r *roleRow) (*roleRow, bool) {
		return r, strings.HasPrefix(r.Path, in.PathPrefix)
	})
	if err != nil {
		return nil, err
	}
	out := &listRolesOut{make([]roleShape, len(rows)), rest}
	for i, r := range rows {
		if out.Roles[i], err = s.listedRole(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

type updateRoleIn struct {
	roleName
	Description        *string
	MaxSessionDuration *int32
}

func (s *Service) updateRole(ctx context.Context, c *awsapi.Caller, in *updateRoleIn) error {
	return s.changeRole(ctx, c.Account, in.RoleName, func(_ *kv.Tx, r *roleRow) error {
		if in.Description != nil {
			r.Description = *in.Description // of a service-linked role too
		}
		if in.MaxSessionDuration != nil {
			if err := r.modifiable(); err != nil {
				return err
			}
			r.MaxSession = *in.MaxSessionDuration
		}
		return nil
	})
}

type updateRoleDescriptionIn struct {
	roleName
	Description string
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

type updateAssumeRolePolicyIn struct {
	roleName
	PolicyDocument string
}

func (s *Service) updateAssumeRolePolicy(ctx context.Context, c *awsapi.Caller, in *updateAssumeRolePolicyIn) error {
	var changed *roleRow
	err := s.changeRole(ctx, c.Account, in.RoleName, func(tx *kv.Tx, r *roleRow) (err error) {
		if err := r.modifiable(); err != nil {
			return err
		}
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
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.roles.Read(tx, key)
		switch {
		case !ok:
			return noSuchRole(in.RoleName)
		case r.modifiable() != nil:
			return r.modifiable()
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
		s.usage.Remove(tx, r.ID)
		s.release(tx, c.Account, rolesQuota)
		return nil
	})
}

// The requests about what a role has.
type (
	listOfRoleIn struct {
		roleName
		page
	}
	tagRoleIn struct {
		roleName
		newTags
	}
	untagRoleIn struct {
		roleName
		oldTags
	}
	putRolePolicyIn struct {
		roleName
		inlinePolicy
	}
	rolePolicyIn struct {
		roleName
		inlineName
	}
	roleAttachmentIn struct {
		roleName
		attachment
	}
	listAttachedRolePoliciesIn struct {
		roleName
		pathPage
	}
	putRoleBoundaryIn struct {
		roleName
		boundary
	}
)

type rolePolicyOut struct {
	roleName
	inlinePolicy
}

func (s *Service) getRolePolicy(_ context.Context, c *awsapi.Caller, in *rolePolicyIn) (*rolePolicyOut, error) {
	name, p, err := s.inlineOf(c, in, in.PolicyName)
	return &rolePolicyOut{roleName{name}, p}, err
}
