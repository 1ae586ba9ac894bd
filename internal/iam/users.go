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

func (s *Service) newEntity(kind arn.IDKind, account, name, path string, tags []awsapi.Tag, quota string) (entity, error) {
	tags, err := mergeTags(nil, tags, quota)
	if err != nil {
		return entity{}, err
	}
	return entity{
		Account: account, Name: name, Path: pathOrRoot(path), ID: arn.NewID(kind, account), Created: s.time(), Tags: tags,
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

func (s *Service) createUser(ctx context.Context, c *awsapi.Caller, in *createUserIn) (*userOut, error) {
	e, err := s.newEntity(arn.UserID, c.Account, in.UserName, in.Path, in.Tags, "TagsPerUser")
	if err != nil {
		return nil, err
	}
	var made *userRow
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		if _, taken := s.users.Read(tx, e.key()); taken {
			return awsapi.Errorf("EntityAlreadyExists", "User with name %s already exists.", in.UserName)
		}
		if err := s.take(tx, c.Account, usersQuota); err != nil {
			return err
		}
		made = &userRow{user: user{entity: e.clone()}}
		if err := s.setBoundary(tx, &made.entity, in.PermissionsBoundary); err != nil {
			return err
		}
		s.users.Write(tx, e.key(), made)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.userOf(made), nil
}

// userIn is the input of the operations that take a user's name only.
type userIn struct{ UserName string }

func (in *userIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.userTarget(c, in.UserName)
}

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

type listUsersIn struct {
	PathPrefix string
	Marker     string
	MaxItems   int32
}

func (in *listUsersIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.listTarget(c, "user", in.PathPrefix)
}

type listUsersOut struct {
	Users       []userShape
	IsTruncated bool
	Marker      string
}

func (s *Service) listUsers(_ context.Context, c *awsapi.Caller, in *listUsersIn) (*listUsersOut, error) {
	page, next, err := paginate(s, c, in.Marker, in.MaxItems, ofAccount(s.users, c.Account), func(r *userRow) (userShape, bool) {
		return s.listedUser(r), strings.HasPrefix(r.Path, in.PathPrefix)
	})
	if err != nil {
		return nil, err
	}
	return &listUsersOut{Users: page, IsTruncated: next != "", Marker: next}, nil
}

// ofAccount yields the rows of a table that belong to an account, as paginate wants them.
func ofAccount[T any](t *kv.Table[T], account string) func(after string) iter.Seq2[string, *T] {
	return func(after string) iter.Seq2[string, *T] { return t.Scan(account+"/", after) }
}

type updateUserIn struct {
	UserName    string
	NewUserName string
	NewPath     string
}

// accessUpdateUser asks for permission on the user as it is and as it will be.
func (s *Service) accessUpdateUser(c *awsapi.Caller, in *updateUserIn) ([]awsapi.Access, error) {
	before, err := s.access("iam:UpdateUser", c, &userIn{in.UserName})
	if err != nil {
		return nil, err
	}
	after := before
	name, path := in.UserName, "/"
	if r, ok := s.users.Get(nameKey(c.Account, in.UserName)); ok {
		name, path = r.Name, r.Path
	}
	if in.NewUserName != "" {
		name = in.NewUserName
	}
	if in.NewPath != "" {
		path = in.NewPath
	}
	after.Resource = s.iamARN(c.Account, "user"+path+name)
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
		if in.NewPath != "" {
			next.Path = in.NewPath
		}
		if in.NewUserName != "" {
			next.Name = in.NewUserName
		}
		if next.key() != key {
			if _, taken := s.users.Read(tx, next.key()); taken {
				return awsapi.Errorf("EntityAlreadyExists", "User with name %s already exists.", in.NewUserName)
			}
			s.users.Remove(tx, key)
		}
		s.users.Write(tx, next.key(), next)
		return nil
	})
}

func (s *Service) deleteUser(ctx context.Context, c *awsapi.Caller, in *userIn) error {
	key := nameKey(c.Account, in.UserName)
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.users.Read(tx, key)
		switch {
		case !ok:
			return noSuchUser(in.UserName)
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
		s.release(tx, c.Account, usersQuota)
		return nil
	})
}

type tagUserIn struct {
	UserName string
	Tags     []awsapi.Tag
}

func (in *tagUserIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.userTarget(c, in.UserName)
}

func (in *tagUserIn) conditions(p *policy.Context, _ target) { requestTags(p, in.Tags) }

func (s *Service) tagUser(ctx context.Context, c *awsapi.Caller, in *tagUserIn) error {
	return s.changeUser(ctx, c.Account, in.UserName, func(_ *kv.Tx, r *userRow) (err error) {
		r.Tags, err = mergeTags(r.Tags, in.Tags, "TagsPerUser")
		return err
	})
}

type untagUserIn struct {
	UserName string
	TagKeys  []string
}

func (in *untagUserIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.userTarget(c, in.UserName)
}

func (in *untagUserIn) conditions(p *policy.Context, _ target) { p.SetList("aws:TagKeys", in.TagKeys) }

func (s *Service) untagUser(ctx context.Context, c *awsapi.Caller, in *untagUserIn) error {
	return s.changeUser(ctx, c.Account, in.UserName, func(_ *kv.Tx, r *userRow) error {
		r.Tags = removeTags(r.Tags, in.TagKeys)
		return nil
	})
}

// listOfUserIn is the input of the lists of one user's things.
type listOfUserIn struct {
	UserName string
	Marker   string
	MaxItems int32
}

func (in *listOfUserIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.userTarget(c, in.UserName)
}

func (s *Service) listUserTags(_ context.Context, c *awsapi.Caller, in *listOfUserIn) (*listTagsOut, error) {
	r, err := s.user(c.Account, in.UserName)
	if err != nil {
		return nil, err
	}
	return s.pageOfTags(c, r.Tags, in.Marker, in.MaxItems)
}

type putUserPolicyIn struct{ UserName, PolicyName, PolicyDocument string }

func (in *putUserPolicyIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.userTarget(c, in.UserName)
}

func (in *putUserPolicyIn) conditions(p *policy.Context, t target) { boundaryOf(p, t) }

func (s *Service) putUserPolicy(ctx context.Context, c *awsapi.Caller, in *putUserPolicyIn) error {
	if err := checkIdentityPolicy(in.PolicyName, in.PolicyDocument); err != nil {
		return err
	}
	return s.changeUser(ctx, c.Account, in.UserName, func(_ *kv.Tx, r *userRow) error {
		return r.putInline(in.PolicyName, in.PolicyDocument, "user", maxUserInlineSize)
	})
}

// userPolicyIn names an inline policy of a user.
type userPolicyIn struct{ UserName, PolicyName string }

func (in *userPolicyIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.userTarget(c, in.UserName)
}

func (in *userPolicyIn) conditions(p *policy.Context, t target) { boundaryOf(p, t) }

type userPolicyOut struct{ UserName, PolicyName, PolicyDocument string }

func (s *Service) getUserPolicy(_ context.Context, c *awsapi.Caller, in *userPolicyIn) (*userPolicyOut, error) {
	r, err := s.user(c.Account, in.UserName)
	if err != nil {
		return nil, err
	}
	p, err := r.findInline(in.PolicyName, "user")
	if err != nil {
		return nil, err
	}
	return &userPolicyOut{r.Name, p.Name, encodeDocument(p.Document)}, nil
}

func (s *Service) deleteUserPolicy(ctx context.Context, c *awsapi.Caller, in *userPolicyIn) error {
	return s.changeUser(ctx, c.Account, in.UserName, func(_ *kv.Tx, r *userRow) error {
		return r.removeInline(in.PolicyName, "user")
	})
}

func (s *Service) listUserPolicies(_ context.Context, c *awsapi.Caller, in *listOfUserIn) (*policyNamesOut, error) {
	r, err := s.user(c.Account, in.UserName)
	if err != nil {
		return nil, err
	}
	return s.pageOfInline(c, &r.entity, in.Marker, in.MaxItems)
}

// userAttachmentIn names a managed policy and a user.
type userAttachmentIn struct{ UserName, PolicyArn string }

func (in *userAttachmentIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.userTarget(c, in.UserName)
}

func (in *userAttachmentIn) conditions(p *policy.Context, t target) {
	p.Set("iam:PolicyARN", in.PolicyArn)
	boundaryOf(p, t)
}

func (s *Service) attachUserPolicy(ctx context.Context, c *awsapi.Caller, in *userAttachmentIn) error {
	return s.changeUser(ctx, c.Account, in.UserName, func(tx *kv.Tx, r *userRow) error {
		return s.attach(tx, &r.entity, in.PolicyArn, "PoliciesPerUser")
	})
}

func (s *Service) detachUserPolicy(ctx context.Context, c *awsapi.Caller, in *userAttachmentIn) error {
	return s.changeUser(ctx, c.Account, in.UserName, func(tx *kv.Tx, r *userRow) error {
		return s.detach(tx, &r.entity, in.PolicyArn)
	})
}

type listAttachedUserPoliciesIn struct {
	UserName   string
	PathPrefix string
	Marker     string
	MaxItems   int32
}

func (in *listAttachedUserPoliciesIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.userTarget(c, in.UserName)
}

func (s *Service) listAttachedUserPolicies(_ context.Context, c *awsapi.Caller, in *listAttachedUserPoliciesIn) (*attachedOut, error) {
	r, err := s.user(c.Account, in.UserName)
	if err != nil {
		return nil, err
	}
	return s.pageOfAttached(c, &r.entity, in.PathPrefix, in.Marker, in.MaxItems)
}

type putUserBoundaryIn struct{ UserName, PermissionsBoundary string }

func (in *putUserBoundaryIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.userTarget(c, in.UserName)
}

func (in *putUserBoundaryIn) conditions(p *policy.Context, _ target) {
	p.Set("iam:PermissionsBoundary", in.PermissionsBoundary)
}

func (s *Service) putUserBoundary(ctx context.Context, c *awsapi.Caller, in *putUserBoundaryIn) error {
	return s.changeUser(ctx, c.Account, in.UserName, func(tx *kv.Tx, r *userRow) error {
		return s.setBoundary(tx, &r.entity, in.PermissionsBoundary)
	})
}

func (s *Service) deleteUserBoundary(ctx context.Context, c *awsapi.Caller, in *userIn) error {
	return s.changeUser(ctx, c.Account, in.UserName, func(tx *kv.Tx, r *userRow) error {
		return s.setBoundary(tx, &r.entity, "")
	})
}
