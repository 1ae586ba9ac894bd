package iam

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

type profileShape struct {
	Path                string
	InstanceProfileName string
	InstanceProfileID   string
	Arn                 string
	CreateDate          time.Time
	Roles               []roleShape
	Tags                []awsapi.Tag
}

type profileOut struct{ InstanceProfile profileShape }

func (s *Service) profileARN(p *instanceProfile) string {
	return s.iamARN(p.Account, "instance-profile"+p.Path+p.Name)
}

// listedProfile is an instance profile as lists show it: without tags.
func (s *Service) listedProfile(p *instanceProfile) (profileShape, error) {
	shape := profileShape{
		Path: p.Path, InstanceProfileName: p.Name, InstanceProfileID: p.ID, Arn: s.profileARN(p), CreateDate: p.Created,
		Roles: []roleShape{},
	}
	if p.Role == "" {
		return shape, nil
	}
	r, err := s.role(p.Account, p.Role)
	if err != nil {
		return shape, err
	}
	inside, err := s.createdRole(r)
	shape.Roles = append(shape.Roles, inside)
	return shape, err
}

func noSuchProfile(name string) error {
	return awsapi.Errorf("NoSuchEntity", "Instance Profile %s cannot be found.", name)
}

func (s *Service) profile(account, name string) (*instanceProfile, error) {
	if p, ok := s.profiles.Get(nameKey(account, name)); ok {
		return p, nil
	}
	return nil, noSuchProfile(name)
}

func (s *Service) changeProfile(ctx context.Context, account, name string, do func(*kv.Tx, *instanceProfile) error) error {
	return change(ctx, s.db, s.profiles, nameKey(account, name), noSuchProfile(name), do)
}

type createProfileIn struct {
	InstanceProfileName string
	Path                string
	Tags                []awsapi.Tag
}

func (in *createProfileIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.newTarget(c, "instance-profile", in.Path, in.InstanceProfileName)
}

func (in *createProfileIn) conditions(p *policy.Context, _ target) { requestTags(p, in.Tags) }

func (s *Service) createProfile(ctx context.Context, c *awsapi.Caller, in *createProfileIn) (*profileOut, error) {
	tags, err := tagsOfNew(c, in.Tags, "InstanceProfile")
	if err != nil {
		return nil, err
	}
	made := &instanceProfile{
		Account: c.Account, Name: in.InstanceProfileName, Path: pathOrRoot(in.Path),
		ID: arn.NewID(arn.InstanceProfileID, c.Account), Created: s.time(), Tags: tags,
	}
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		return add(s, tx, s.profiles, made.key(), made, profilesQuota,
			awsapi.Errorf("EntityAlreadyExists", "Instance Profile %s already exists.", in.InstanceProfileName))
	})
	if err != nil {
		return nil, err
	}
	shape, err := s.listedProfile(made)
	shape.Tags = tags
	return &profileOut{shape}, err
}

// profileName names an instance profile.
type profileName struct{ InstanceProfileName string }

func (n profileName) noun() string { return "InstanceProfile" }

func (n profileName) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.profileTarget(c, n.InstanceProfileName)
}

func (n profileName) tags(s *Service, c *awsapi.Caller) ([]awsapi.Tag, error) {
	p, err := s.profile(c.Account, n.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	return p.Tags, nil
}

func (n profileName) retag(ctx context.Context, s *Service, c *awsapi.Caller, edit func([]awsapi.Tag) ([]awsapi.Tag, error)) error {
	return s.changeProfile(ctx, c.Account, n.InstanceProfileName, func(_ *kv.Tx, p *instanceProfile) (err error) {
		p.Tags, err = edit(p.Tags)
		return err
	})
}

func (s *Service) getProfile(_ context.Context, c *awsapi.Caller, in *profileName) (*profileOut, error) {
	p, err := s.profile(c.Account, in.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	shape, err := s.listedProfile(p)
	shape.Tags = p.Tags
	return &profileOut{shape}, err
}

type listProfilesIn struct{ pathPage }

func (in *listProfilesIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.listTarget(c, "instance-profile", in.PathPrefix)
}

type listProfilesOut struct {
	InstanceProfiles []profileShape
	truncated
}

func (s *Service) listProfiles(_ context.Context, c *awsapi.Caller, in *listProfilesIn) (*listProfilesOut, error) {
	rows, rest, err := paginate(s, c, in.page, ofAccount(s.profiles, c.Account), func(p *instanceProfile) (*instanceProfile, bool) {
		return p, strings.HasPrefix(p.Path, in.PathPrefix)
	})
	if err != nil {
		return nil, err
	}
	shapes, err := s.listedProfiles(rows)
	return &listProfilesOut{shapes, rest}, err
}

func (s *Service) listInstanceProfilesForRole(_ context.Context, c *awsapi.Caller, in *listOfRoleIn) (*listProfilesOut, error) {
	r, err := s.role(c.Account, in.RoleName)
	if err != nil {
		return nil, err
	}
	rows, rest, err := paginate(s, c, in.page, sorted(r.Profiles, strings.ToLower), func(name string) (*instanceProfile, bool) {
		return s.profiles.Get(nameKey(c.Account, name))
	})
	if err != nil {
		return nil, err
	}
	shapes, err := s.listedProfiles(rows)
	return &listProfilesOut{shapes, rest}, err
}

func (s *Service) listedProfiles(rows []*instanceProfile) ([]profileShape, error) {
	shapes := make([]profileShape, len(rows))
	for i, p := range rows {
		var err error
		if shapes[i], err = s.listedProfile(p); err != nil {
			return nil, err
		}
	}
	return shapes, nil
}

func (s *Service) deleteProfile(ctx context.Context, c *awsapi.Caller, in *profileName) error {
	key := nameKey(c.Account, in.InstanceProfileName)
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		p, ok := s.profiles.Read(tx, key)
		switch {
		case !ok:
			return noSuchProfile(in.InstanceProfileName)
		case p.Role != "":
			return awsapi.Errorf("DeleteConflict", "Cannot delete entity, must remove roles from instance profile first.")
		}
		s.profiles.Remove(tx, key)
		s.release(tx, c.Account, profilesQuota)
		return nil
	})
}

// profileRoleIn names an instance profile and a role.
type profileRoleIn struct{ InstanceProfileName, RoleName string }

func (in *profileRoleIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.profileTarget(c, in.InstanceProfileName)
}

// accessAddRole asks, besides the operation's own permission, whether the caller may hand the role to EC2.
func (s *Service) accessAddRole(c *awsapi.Caller, in *profileRoleIn) ([]awsapi.Access, error) {
	add, err := s.access("iam:AddRoleToInstanceProfile", c, in)
	if err != nil {
		return nil, err
	}
	pass, err := s.access("iam:PassRole", c, &passRole{in.RoleName, "ec2.amazonaws.com"})
	if err != nil {
		return nil, err
	}
	return []awsapi.Access{add, pass}, nil
}

// passRole is handing a role to an AWS service.
type passRole struct{ role, service string }

func (in *passRole) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.roleTarget(c, in.role)
}

func (in *passRole) conditions(p *policy.Context, _ target) {
	p.Set("iam:PassedToService", in.service)
}

func (s *Service) addRoleToProfile(ctx context.Context, c *awsapi.Caller, in *profileRoleIn) (*struct{}, error) {
	err := s.changeProfile(ctx, c.Account, in.InstanceProfileName, func(tx *kv.Tx, p *instanceProfile) error {
		r, ok := s.roles.Read(tx, nameKey(c.Account, in.RoleName))
		switch {
		case !ok:
			return noSuchRole(in.RoleName)
		case r.modifiable() != nil:
			return r.modifiable()
		case p.Role != "":
			return overQuota("InstanceSessionsPerInstanceProfile", 1)
		}
		next := r.clone()
		next.Profiles = append(next.Profiles, p.Name)
		s.roles.Write(tx, next.key(), next)
		p.Role = r.Name
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &struct{}{}, nil
}

func (s *Service) removeRoleFromProfile(ctx context.Context, c *awsapi.Caller, in *profileRoleIn) error {
	return s.changeProfile(ctx, c.Account, in.InstanceProfileName, func(tx *kv.Tx, p *instanceProfile) error {
		r, ok := s.roles.Read(tx, nameKey(c.Account, in.RoleName))
		if !ok || p.Role != r.Name {
			return noSuchRole(in.RoleName)
		}
		next := r.clone()
		next.Profiles = slices.DeleteFunc(next.Profiles, func(name string) bool { return name == p.Name })
		s.roles.Write(tx, next.key(), next)
		p.Role = ""
		return nil
	})
}

// The requests about an instance profile's tags.
type (
	tagProfileIn struct {
		profileName
		newTags
	}
	untagProfileIn struct {
		profileName
		oldTags
	}
	listOfProfileIn struct {
		profileName
		page
	}
)
