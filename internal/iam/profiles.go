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
	tags, err := mergeTags(nil, in.Tags, "TagsPerInstanceProfile")
	if err != nil {
		return nil, err
	}
	made := &instanceProfile{
		Account: c.Account, Name: in.InstanceProfileName, Path: pathOrRoot(in.Path),
		ID: arn.NewID(arn.InstanceProfileID, c.Account), Created: s.time(), Tags: tags,
	}
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		if _, taken := s.profiles.Read(tx, made.key()); taken {
			return awsapi.Errorf("EntityAlreadyExists", "Instance Profile %s already exists.", in.InstanceProfileName)
		}
		if err := s.take(tx, c.Account, profilesQuota); err != nil {
			return err
		}
		s.profiles.Write(tx, made.key(), made)
		return nil
	})
	if err != nil {
		return nil, err
	}
	shape, err := s.listedProfile(made)
	shape.Tags = tags
	return &profileOut{shape}, err
}

// profileIn is the input of the operations that take an instance profile's name only.
type profileIn struct{ InstanceProfileName string }

func (in *profileIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.profileTarget(c, in.InstanceProfileName)
}

func (s *Service) getProfile(_ context.Context, c *awsapi.Caller, in *profileIn) (*profileOut, error) {
	p, ok := s.profiles.Get(nameKey(c.Account, in.InstanceProfileName))
	if !ok {
		return nil, noSuchProfile(in.InstanceProfileName)
	}
	shape, err := s.listedProfile(p)
	shape.Tags = p.Tags
	return &profileOut{shape}, err
}

type listProfilesIn struct {
	PathPrefix string
	Marker     string
	MaxItems   int32
}

func (in *listProfilesIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.listTarget(c, "instance-profile", in.PathPrefix)
}

type listProfilesOut struct {
	InstanceProfiles []profileShape
	IsTruncated      bool
	Marker           string
}

func (s *Service) listProfiles(_ context.Context, c *awsapi.Caller, in *listProfilesIn) (*listProfilesOut, error) {
	keep := func(p *instanceProfile) (*instanceProfile, bool) { return p, strings.HasPrefix(p.Path, in.PathPrefix) }
	page, next, err := paginate(s, c, in.Marker, in.MaxItems, ofAccount(s.profiles, c.Account), keep)
	return s.profilesOut(page, next, err)
}

// pageOfProfiles is a page of the instance profiles with the given names.
func (s *Service) pageOfProfiles(c *awsapi.Caller, marker string, maxItems int32, names []string) (*listProfilesOut, error) {
	page, next, err := paginate(s, c, marker, maxItems, sorted(names, strings.ToLower), func(name string) (*instanceProfile, bool) {
		return s.profiles.Get(nameKey(c.Account, name))
	})
	return s.profilesOut(page, next, err)
}

func (s *Service) profilesOut(page []*instanceProfile, next string, err error) (*listProfilesOut, error) {
	if err != nil {
		return nil, err
	}
	out := &listProfilesOut{InstanceProfiles: make([]profileShape, len(page)), IsTruncated: next != "", Marker: next}
	for i, p := range page {
		if out.InstanceProfiles[i], err = s.listedProfile(p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *Service) deleteProfile(ctx context.Context, c *awsapi.Caller, in *profileIn) error {
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

type tagProfileIn struct {
	InstanceProfileName string
	Tags                []awsapi.Tag
}

func (in *tagProfileIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.profileTarget(c, in.InstanceProfileName)
}

func (in *tagProfileIn) conditions(p *policy.Context, _ target) { requestTags(p, in.Tags) }

func (s *Service) tagProfile(ctx context.Context, c *awsapi.Caller, in *tagProfileIn) error {
	return s.changeProfile(ctx, c.Account, in.InstanceProfileName, func(_ *kv.Tx, p *instanceProfile) (err error) {
		p.Tags, err = mergeTags(p.Tags, in.Tags, "TagsPerInstanceProfile")
		return err
	})
}

type untagProfileIn struct {
	InstanceProfileName string
	TagKeys             []string
}

func (in *untagProfileIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.profileTarget(c, in.InstanceProfileName)
}

func (in *untagProfileIn) conditions(p *policy.Context, _ target) {
	p.SetList("aws:TagKeys", in.TagKeys)
}

func (s *Service) untagProfile(ctx context.Context, c *awsapi.Caller, in *untagProfileIn) error {
	return s.changeProfile(ctx, c.Account, in.InstanceProfileName, func(_ *kv.Tx, p *instanceProfile) error {
		p.Tags = removeTags(p.Tags, in.TagKeys)
		return nil
	})
}

type listProfileTagsIn struct {
	InstanceProfileName string
	Marker              string
	MaxItems            int32
}

func (in *listProfileTagsIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.profileTarget(c, in.InstanceProfileName)
}

func (s *Service) listProfileTags(_ context.Context, c *awsapi.Caller, in *listProfileTagsIn) (*listTagsOut, error) {
	p, ok := s.profiles.Get(nameKey(c.Account, in.InstanceProfileName))
	if !ok {
		return nil, noSuchProfile(in.InstanceProfileName)
	}
	return s.pageOfTags(c, p.Tags, in.Marker, in.MaxItems)
}
