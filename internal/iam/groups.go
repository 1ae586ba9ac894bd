package iam

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

type groupShape struct {
	Path       string
	GroupName  string
	GroupID    string
	Arn        string
	CreateDate time.Time
}

type groupOut struct{ Group groupShape }

func (s *Service) groupOf(r *groupRow) groupShape {
	return groupShape{r.Path, r.Name, r.ID, s.groupARN(&r.entity), r.Created}
}

// groupName names a group.
type groupName struct{ GroupName string }

func (n groupName) noun() string { return "Group" }

func (n groupName) target(s *Service, c *awsapi.Caller) (target, error) {
	if r, ok := s.groups.Get(nameKey(c.Account, n.GroupName)); ok {
		return target{arn: s.groupARN(&r.entity)}, nil
	}
	return target{arn: s.iamARN(c.Account, "group/"+n.GroupName)}, nil
}

func (n groupName) find(s *Service, c *awsapi.Caller) (*entity, error) {
	r, err := s.group(c.Account, n.GroupName)
	if err != nil {
		return nil, err
	}
	return &r.entity, nil
}

func (n groupName) edit(ctx context.Context, s *Service, c *awsapi.Caller, do func(tx *kv.Tx, e *entity) error) error {
	return s.changeGroup(ctx, c.Account, n.GroupName, func(tx *kv.Tx, r *groupRow) error { return do(tx, &r.entity) })
}

type createGroupIn struct {
	GroupName string
	Path      string
}

func (in *createGroupIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.newTarget(c, "group", in.Path, in.GroupName)
}

func groupExists(name string) error {
	return awsapi.Errorf("EntityAlreadyExists", "Group with name %s already exists.", name)
}

func (s *Service) createGroup(ctx context.Context, c *awsapi.Caller, in *createGroupIn) (*groupOut, error) {
	e, err := s.newEntity(c, arn.GroupID, in.GroupName, in.Path, nil, "Group")
	if err != nil {
		return nil, err
	}
	made := &groupRow{group: group{entity: e}}
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		return add(s, tx, s.groups, e.key(), made, groupsQuota, groupExists(in.GroupName))
	})
	return &groupOut{s.groupOf(made)}, err
}

// getGroupIn is also the input of the lists of a group's inline policies.
type getGroupIn struct {
	groupName
	page
}

type getGroupOut struct {
	Group groupShape
	Users []userShape
	truncated
}

func (s *Service) getGroup(_ context.Context, c *awsapi.Caller, in *getGroupIn) (*getGroupOut, error) {
	r, err := s.group(c.Account, in.GroupName)
	if err != nil {
		return nil, err
	}
	users, rest, err := paginate(s, c, in.page, found(s.usersByGroup, r.ID), func(u *userRow) (userShape, bool) {
		return s.listedUser(u), true
	})
	return &getGroupOut{s.groupOf(r), users, rest}, err
}

type listGroupsIn struct{ pathPage }

func (in *listGroupsIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.listTarget(c, "group", in.PathPrefix)
}

type listGroupsOut struct {
	Groups []groupShape
	truncated
}

func (s *Service) listGroups(_ context.Context, c *awsapi.Caller, in *listGroupsIn) (*listGroupsOut, error) {
	groups, rest, err := paginate(s, c, in.page, ofAccount(s.groups, c.Account), func(r *groupRow) (groupShape, bool) {
		return s.groupOf(r), strings.HasPrefix(r.Path, in.PathPrefix)
	})
	return &listGroupsOut{groups, rest}, err
}

func (s *Service) listGroupsForUser(_ context.Context, c *awsapi.Caller, in *listOfUserIn) (*listGroupsOut, error) {
	r, err := s.user(c.Account, in.UserName)
	if err != nil {
		return nil, err
	}
	groups, rest, err := paginate(s, c, in.page, sorted(s.groupsOf(r), (*groupRow).key), func(g *groupRow) (groupShape, bool) {
		return s.groupOf(g), true
	})
	return &listGroupsOut{groups, rest}, err
}

// groupsOf returns the groups that a user is in.
func (s *Service) groupsOf(r *userRow) []*groupRow {
	groups := make([]*groupRow, 0, len(r.Groups))
	for _, id := range r.Groups {
		if _, g, ok := s.groupsByID.First(id); ok {
			groups = append(groups, g)
		}
	}
	return groups
}

type updateGroupIn struct {
	groupName
	NewGroupName string
	NewPath      string
}

// accessUpdateGroup asks for permission on the group as it is and as it will be.
func (s *Service) accessUpdateGroup(c *awsapi.Caller, in *updateGroupIn) ([]awsapi.Access, error) {
	before, err := s.access("iam:UpdateGroup", c, in)
	if err != nil {
		return nil, err
	}
	e := &entity{Account: c.Account, Name: in.GroupName, Path: "/"}
	if r, ok := s.groups.Get(e.key()); ok {
		e = &r.entity
	}
	after := before
	after.Resource = s.groupARN(e.renamed(in.NewGroupName, in.NewPath))
	return []awsapi.Access{before, after}, nil
}

func (s *Service) updateGroup(ctx context.Context, c *awsapi.Caller, in *updateGroupIn) (*struct{}, error) {
	key := nameKey(c.Account, in.GroupName)
	return &struct{}{}, s.db.Update(ctx, func(tx *kv.Tx) error {
		old, ok := s.groups.Read(tx, key)
		if !ok {
			return noSuchGroup(in.GroupName)
		}
		next := old.clone()
		next.entity = *next.renamed(in.NewGroupName, in.NewPath)
		return rename(tx, s.groups, key, next.key(), next, groupExists(in.NewGroupName))
	})
}

// hasMembers keeps a group with members, and a member of a group, from being deleted.
func hasMembers() error {
	return awsapi.Errorf("DeleteConflict", "Cannot delete entity, must remove users from group first.")
}

func (s *Service) deleteGroup(ctx context.Context, c *awsapi.Caller, in *groupName) error {
	key := nameKey(c.Account, in.GroupName)
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.groups.Read(tx, key)
		switch {
		case !ok:
			return noSuchGroup(in.GroupName)
		case r.Members > 0:
			return hasMembers()
		}
		if err := removable(&r.entity); err != nil {
			return err
		}
		s.groups.Remove(tx, key)
		s.release(tx, c.Account, groupsQuota)
		return nil
	})
}

// membershipIn names a group and a user.
type membershipIn struct {
	groupName
	UserName string
}

// addUserToGroup does nothing for a user that is in the group already.
func (s *Service) addUserToGroup(ctx context.Context, c *awsapi.Caller, in *membershipIn) error {
	return s.changeMembership(ctx, c, in, func(g *groupRow, u *userRow) error {
		switch {
		case slices.Contains(u.Groups, g.ID):
			return nil
		case len(u.Groups) >= maxGroupsPerUser:
			return overQuota("GroupsPerUser", maxGroupsPerUser)
		}
		u.Groups = append(u.Groups, g.ID)
		g.Members++
		return nil
	})
}

func (s *Service) removeUserFromGroup(ctx context.Context, c *awsapi.Caller, in *membershipIn) error {
	return s.changeMembership(ctx, c, in, func(g *groupRow, u *userRow) error {
		i := slices.Index(u.Groups, g.ID)
		if i < 0 {
			return noSuchUser(in.UserName)
		}
		u.Groups = slices.Delete(u.Groups, i, i+1)
		g.Members--
		return nil
	})
}

// changeMembership changes a group and a user together.
func (s *Service) changeMembership(ctx context.Context, c *awsapi.Caller, in *membershipIn, do func(*groupRow, *userRow) error) error {
	return s.changeGroup(ctx, c.Account, in.GroupName, func(tx *kv.Tx, g *groupRow) error {
		old, ok := s.users.Read(tx, nameKey(c.Account, in.UserName))
		if !ok {
			return noSuchUser(in.UserName)
		}
		u := old.clone()
		if err := do(g, u); err != nil {
			return err
		}
		s.users.Write(tx, u.key(), u)
		return nil
	})
}

// The requests about what a group has.
type (
	putGroupPolicyIn struct {
		groupName
		inlinePolicy
	}
	groupPolicyIn struct {
		groupName
		inlineName
	}
	groupAttachmentIn struct {
		groupName
		attachment
	}
	listAttachedGroupPoliciesIn struct {
		groupName
		pathPage
	}
)

type groupPolicyOut struct {
	groupName
	inlinePolicy
}

func (s *Service) getGroupPolicy(_ context.Context, c *awsapi.Caller, in *groupPolicyIn) (*groupPolicyOut, error) {
	name, p, err := s.inlineOf(c, in, in.PolicyName)
	return &groupPolicyOut{groupName{name}, p}, err
}
