package iam

import (
	"context"
	"iter"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

// The structs named …In, …Out and …Shape are requests, responses and parts of them, with the names of IAM's model.

type userShape struct {
	Path                string
	UserName            string
	UserID              string
	Arn                 string
	CreateDate          time.Time
	PermissionsBoundary *boundaryShape
	Tags                []awsapi.Tag
}

type boundaryShape struct {
	PermissionsBoundaryType string
	PermissionsBoundaryArn  string
}

type userOut struct{ User userShape }

func boundaryOut(policyARN string) *boundaryShape {
	if policyARN == "" {
		return nil
	}
	return &boundaryShape{PermissionsBoundaryType: "Policy", PermissionsBoundaryArn: policyARN}
}

// listedUser is a user as ListUsers shows it; userOf adds what the other operations do.
func (s *Service) listedUser(r *userRow) userShape {
	return userShape{Path: r.Path, UserName: r.Name, UserID: r.ID, Arn: s.userARN(&r.entity), CreateDate: r.Created}
}

func (s *Service) userOf(r *userRow) *userOut {
	u := s.listedUser(r)
	u.PermissionsBoundary, u.Tags = boundaryOut(r.Boundary), r.Tags
	return &userOut{u}
}

func (s *Service) newEntity(c *awsapi.Caller, kind arn.IDKind, name, path string, tags []awsapi.Tag, noun string) (entity, error) {
	tags, err := tagsOfNew(c, tags, noun)
	if err != nil {
		return entity{}, err
	}
	return entity{
		Account: c.Account, Name: name, Path: pathOrRoot(path), ID: arn.NewID(kind, c.Account), Created: s.time(), Tags: tags,
	}, nil
}

type createUserIn struct {
	UserName            string
	Path                string
	PermissionsBoundary string
	Tags                []awsapi.Tag
}

func (in *createUserIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.newTarget(c, "user", in.Path, in.UserName)
}

func (in *createUserIn) conditions(p *policy.Context, _ target) {
	requestTags(p, in.Tags)
	boundaryOf(p, target{boundary: in.PermissionsBoundary})
}

func userExists(name string) error {
	return awsapi.Errorf("EntityAlreadyExists", "User with name %s already exists.", name)
}

func (s *Service) createUser(ctx context.Context, c *awsapi.Caller, in *createUserIn) (*userOut, error) {
	e, err := s.newEntity(c, arn.UserID, in.UserName, in.Path, in.Tags, "User")
	if err != nil {
		return nil, err
	}
	var made *userRow
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		made = &userRow{user: user{entity: e.clone()}}
		if err := s.setBoundary(tx, &made.entity, in.PermissionsBoundary); err != nil {
			return err
		}
		return add(s, tx, s.users, e.key(), made, usersQuota, userExists(in.UserName))
	})
	if err != nil {
		return nil, err
	}
	return s.userOf(made), nil
}

// userName names a user.
type userName struct{ UserName string }

func (n userName) noun() string { return "User" }

func (n userName) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.userTarget(c, n.UserName)
}

func (n userName) find(s *Service, c *awsapi.Caller) (*entity, error) {
	r, err := s.user(c.Account, n.UserName)
	if err != nil {
		return nil, err
	}
	return &r.entity, nil
}

func (n userName) edit(ctx context.Context, s *Service, c *awsapi.Caller, do func(tx *kv.Tx, e *entity) error) error {
	return s.changeUser(ctx, c.Account, n.UserName, func(tx *kv.Tx, r *userRow) error { return do(tx, &r.entity) })
}

func (n userName) tags(s *Service, c *awsapi.Caller) ([]awsapi.Tag, error) {
	r, err := s.user(c.Account, n.UserName)
	if err != nil {
		return nil, err
	}
	return r.Tags, nil
}

func (n userName) retag(ctx context.Context, s *Service, c *awsapi.Caller, edit func([]awsapi.Tag) ([]awsapi.Tag, error)) error {
	return s.changeUser(ctx, c.Account, n.UserName, func(_ *kv.Tx, r *userRow) (err error) {
		r.Tags, err = edit(r.Tags)
		return err
	})
}

// userIn is the input of the operations that take a user's name only.
type userIn struct{ userName }

func (in *userIn) conditions(p *policy.Context, t target) { boundaryOf(p, t) }

// selfIn is a userIn whose name may be absent: then the caller is meant.
type selfIn struct{ UserName string }

func (in *selfIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.ownerTarget(c, in.UserName)
}

// owner finds whom an optional UserName means: a user by name, or root, for whom the name stays empty.
func (s *Service) owner(c *awsapi.Caller, userName string) (name string, err error) {
	switch {
	case userName != "":
		return userName, nil
	case c.Kind == policy.Root:
		return "", nil
	case c.Kind == policy.User:
		if _, r, ok := s.usersByID.First(c.EntityID); ok {
			return r.Name, nil
		}
	}
	return "", awsapi.Errorf("ValidationError", "Must specify userName when calling with non-User credentials")
}

func (s *Service) ownerTarget(c *awsapi.Caller, userName string) (target, error) {
	name, err := s.owner(c, userName)
	if err != nil {
		return target{}, err
	}
	if name == "" {
		return target{arn: s.rootARN(c.Account)}, nil
	}
	return s.userTarget(c, name)
}

func (s *Service) getUser(_ context.Context, c *awsapi.Caller, in *selfIn) (*userOut, error) {
	name, err := s.owner(c, in.UserName)
	if err != nil {
		return nil, err
	}
	if name == "" {
		a, ok := s.accounts.Get(c.Account)
		if !ok {
			return nil, noSuchUser("root")
		}
		return &userOut{userShape{UserID: a.ID, Arn: s.rootARN(a.ID), CreateDate: a.Created}}, nil
	}
	r, err := s.user(c.Account, name)
	if err != nil {
		return nil, err
	}
	return s.userOf(r), nil
}

type listUsersIn struct{ pathPage }

func (in *listUsersIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.listTarget(c, "user", in.PathPrefix)
}

type listUsersOut struct {
	Users []userShape
	truncated
}

func (s *Service) listUsers(_ context.Context, c *awsapi.Caller, in *listUsersIn) (*listUsersOut, error) {
	users, rest, err := paginate(s, c, in.page, ofAccount(s.users, c.Account), func(r *userRow) (userShape, bool) {
		return s.listedUser(r), strings.HasPrefix(r.Path, in.PathPrefix)
	})
	return &listUsersOut{users, rest}, err
}

// ofAccount yields the rows of a table that belong to an account, as paginate wants them.
func ofAccount[T any](t *kv.Table[T], account string) func(after string) iter.Seq2[string, *T] {
	return func(after string) iter.Seq2[string, *T] { return t.Scan(account+"/", after) }
}

type updateUserIn struct {
	userName
	NewUserName string
	NewPath     string
}

// accessUpdateUser asks for permission on the user as it is and as it will be.
func (s *Service) accessUpdateUser(c *awsapi.Caller, in *updateUserIn) ([]awsapi.Access, error) {
	before, err := s.access("iam:UpdateUser", c, in)
	if err != nil {
		return nil, err
	}
	e := &entity{Account: c.Account, Name: in.UserName, Path: "/"}
	if r, ok := s.users.Get(e.key()); ok {
		e = &r.entity
	}
	after := before
	after.Resource = s.userARN(e.renamed(in.NewUserName, in.NewPath))
	return []awsapi.Access{before, after}, nil
}

func (s *Service) updateUser(ctx context.Context, c *awsapi.Caller, in *updateUserIn) (*struct{}, error) {
	key := nameKey(c.Account, in.UserName)
	return &struct{}{}, s.db.Update(ctx, func(tx *kv.Tx) error {
		old, ok := s.users.Read(tx, key)
		if !ok {
			return noSuchUser(in.UserName)
		}
		next := old.clone()
		next.entity = *next.renamed(in.NewUserName, in.NewPath)
		return rename(tx, s.users, key, next.key(), next, userExists(in.NewUserName))
	})
}

func (s *Service) deleteUser(ctx context.Context, c *awsapi.Caller, in *userIn) error {
	key := nameKey(c.Account, in.UserName)
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.users.Read(tx, key)
		switch {
		case !ok:
			return noSuchUser(in.UserName)
		case len(r.Groups) > 0:
			return hasMembers()
		case len(r.AccessKeys) > 0:
			return awsapi.Errorf("DeleteConflict", "Cannot delete entity, must remove referenced objects first.")
		}
		if err := removable(&r.entity); err != nil {
			return err
		}
		if err := s.releaseBoundary(tx, &r.entity); err != nil {
			return err
		}
		s.users.Remove(tx, key)
		s.usage.Remove(tx, r.ID)
		s.release(tx, c.Account, usersQuota)
		return nil
	})
}

// The requests about what a user has.
type (
	listOfUserIn struct {
		userName
		page
	}
	tagUserIn struct {
		userName
		newTags
	}
	untagUserIn struct {
		userName
		oldTags
	}
	putUserPolicyIn struct {
		userName
		inlinePolicy
	}
	userPolicyIn struct {
		userName
		inlineName
	}
	userAttachmentIn struct {
		userName
		attachment
	}
	listAttachedUserPoliciesIn struct {
		userName
		pathPage
	}
	putUserBoundaryIn struct {
		userName
		boundary
	}
)

type userPolicyOut struct {
	userName
	inlinePolicy
}

func (s *Service) getUserPolicy(_ context.Context, c *awsapi.Caller, in *userPolicyIn) (*userPolicyOut, error) {
	name, p, err := s.inlineOf(c, in, in.PolicyName)
	return &userPolicyOut{userName{name}, p}, err
}
