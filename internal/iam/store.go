package iam

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

// The rows of this file are shared with every reader once they are in a table. A change copies the row, changes the
// copy, and writes it (see change). Each row type embeds its data, so that what is derived from a row stays with that
// row alone and is never copied.

// lazy is a value that is derived from an immutable row when it is first asked for. Two callers may both derive it;
// they derive the same.
type lazy[T any] struct{ p atomic.Pointer[T] }

func (l *lazy[T]) get(derive func() *T) *T {
	if v := l.p.Load(); v != nil {
		return v
	}
	v := derive()
	l.p.Store(v)
	return v
}

// account is keyed by its ID.
type account struct {
	ID         string
	Name       string
	Created    time.Time
	Alias      string         // also a key of the alias table
	AccessKeys []string       // IDs of root's keys
	Usage      map[string]int // how much of each quota is in use, by the quota's name
}

type accountRow struct {
	account
	rootARN lazy[string]
}

func (r *accountRow) clone() *accountRow {
	n := &accountRow{account: r.account}
	n.AccessKeys, n.Usage = slices.Clone(r.AccessKeys), maps.Clone(r.Usage)
	return n
}

// installation is the one row that says which account came first.
type installation struct{ ManagementAccount string }

const installationKey = "installation"

// alias is keyed by itself, since an alias is unique among all accounts.
type alias struct{ Account string }

// entity is what users, groups and roles have in common. Groups have no tags and no boundary.
type entity struct {
	Account  string
	Name     string // as it was given; keys have it in lower case
	Path     string
	ID       string
	Created  time.Time
	Tags     []awsapi.Tag // by key
	Inline   []inline     // by name
	Attached []string     // ARNs of managed policies
	Boundary string       // ARN; empty when none is set
}

type inline struct{ Name, Document string }

func (e *entity) key() string { return nameKey(e.Account, e.Name) }

func (e entity) clone() entity {
	e.Tags, e.Inline, e.Attached = slices.Clone(e.Tags), slices.Clone(e.Inline), slices.Clone(e.Attached)
	return e
}

// compiled is what authorization needs of a user or role.
type compiled struct {
	arn    string
	inline []*policy.Policy
	err    error // an inline policy that does not compile; whoever needs it must be denied
	role   *Role // nil for users, and for roles whose trust policy does not compile
}

type user struct {
	entity
	AccessKeys []string // IDs
	Groups     []string // unique IDs of the groups that the user is in
}

type userRow struct {
	user
	derived lazy[compiled]
}

func (r *userRow) clone() *userRow {
	n := &userRow{user: r.user}
	n.entity, n.AccessKeys, n.Groups = r.entity.clone(), slices.Clone(r.AccessKeys), slices.Clone(r.Groups)
	return n
}

// group counts its members in the transactions that add and remove them, so that a group with members cannot be deleted.
type group struct {
	entity
	Members int
}

type groupRow struct {
	group
	derived lazy[compiled]
}

func (r *groupRow) clone() *groupRow {
	n := &groupRow{group: r.group}
	n.entity = r.entity.clone()
	return n
}

type role struct {
	entity
	Trust       string // the trust policy, in which users and roles are named by unique ID
	Description string
	MaxSession  int32    // seconds
	Profiles    []string // names of the instance profiles that the role is in
}

type roleRow struct {
	role
	derived lazy[compiled]
}

func (r *roleRow) clone() *roleRow {
	n := &roleRow{role: r.role}
	n.entity, n.Profiles = r.entity.clone(), slices.Clone(r.Profiles)
	return n
}

// accessKey is keyed by its ID. Its owner is a user by unique ID, or the account's root.
type accessKey struct {
	ID      string
	Account string
	UserID  string // empty for root
	Wrapped []byte // the secret
	Active  bool
	Created time.Time
}

type accessKeyRow struct {
	accessKey
	secret lazy[unwrapped]
}

type unwrapped struct {
	secret sigv4.Secret
	err    error
}

//lint:ignore U1000 change calls it, by the constraint of its type parameter
func (r *accessKeyRow) clone() *accessKeyRow { return &accessKeyRow{accessKey: r.accessKey} }

// managed is a managed policy. Its two counts change in the transactions that attach and detach it, so that a policy
// in use cannot be deleted.
type managed struct {
	Account      string // or "aws"
	Name         string
	Path         string
	ARN          string
	ID           string
	Description  string
	Created      time.Time
	Updated      time.Time
	Tags         []awsapi.Tag
	Versions     []version // oldest first
	Default      int       // number of the default version
	Last         int       // highest version number ever given
	Attachments  int
	BoundaryUses int
}

type version struct {
	Number   int
	Document string
	Created  time.Time
}

func (m *managed) version(number int) (version, bool) {
	for _, v := range m.Versions {
		if v.Number == number {
			return v, true
		}
	}
	return version{}, false
}

type managedRow struct {
	managed
	derived lazy[compiledVersion]
}

type compiledVersion struct {
	policy *policy.Policy
	err    error
}

func (r *managedRow) key() string { return nameKey(r.Account, r.Name) }

func (r *managedRow) clone() *managedRow {
	n := &managedRow{managed: r.managed}
	n.Tags, n.Versions = slices.Clone(r.Tags), slices.Clone(r.Versions)
	return n
}

// compile returns the default version.
func (r *managedRow) compile() (*policy.Policy, error) {
	c := r.derived.get(func() *compiledVersion {
		v, _ := r.version(r.Default)
		p, err := policy.New(r.ARN, policy.Identity, []byte(v.Document))
		return &compiledVersion{p, err}
	})
	return c.policy, c.err
}

// provider is keyed by its account and URL, the host in lower case.
type provider struct {
	Account     string
	URL         string // without scheme and port
	Port        string // empty for 443
	ClientIDs   []string
	Thumbprints []string
	Created     time.Time
	Tags        []awsapi.Tag
}

type providerRow struct {
	provider
	derived lazy[Provider]
}

//lint:ignore U1000 change calls it, by the constraint of its type parameter
func (r *providerRow) clone() *providerRow {
	n := &providerRow{provider: r.provider}
	n.ClientIDs, n.Thumbprints, n.Tags = slices.Clone(r.ClientIDs), slices.Clone(r.Thumbprints), slices.Clone(r.Tags)
	return n
}

type instanceProfile struct {
	Account string
	Name    string
	Path    string
	ID      string
	Created time.Time
	Role    string // name; empty when there is none
	Tags    []awsapi.Tag
}

func (p *instanceProfile) key() string { return nameKey(p.Account, p.Name) }

//lint:ignore U1000 change calls it, by the constraint of its type parameter
func (p *instanceProfile) clone() *instanceProfile {
	n := *p
	n.Tags = slices.Clone(p.Tags)
	return &n
}

// nameKey is the key of something that is unique by name within its account, without regard to case.
func nameKey(account, name string) string { return account + "/" + strings.ToLower(name) }

// change replaces a row by a changed copy of it. missing is returned when there is no such row.
func change[R any, P interface {
	*R
	clone() P
}](ctx context.Context, db *kv.DB, t *kv.Table[R], key string, missing error, do func(tx *kv.Tx, r P) error) error {
	return db.Update(ctx, func(tx *kv.Tx) error {
		old, ok := t.Read(tx, key)
		if !ok {
			return missing
		}
		next := P(old).clone()
		if err := do(tx, next); err != nil {
			return err
		}
		t.Write(tx, key, next)
		return nil
	})
}

func (s *Service) changeUser(ctx context.Context, account, name string, do func(*kv.Tx, *userRow) error) error {
	return change(ctx, s.db, s.users, nameKey(account, name), noSuchUser(name), do)
}

func (s *Service) changeRole(ctx context.Context, account, name string, do func(*kv.Tx, *roleRow) error) error {
	return change(ctx, s.db, s.roles, nameKey(account, name), noSuchRole(name), do)
}

func (s *Service) changeGroup(ctx context.Context, account, name string, do func(*kv.Tx, *groupRow) error) error {
	return change(ctx, s.db, s.groups, nameKey(account, name), noSuchGroup(name), do)
}

func (s *Service) user(account, name string) (*userRow, error) {
	if r, ok := s.users.Get(nameKey(account, name)); ok {
		return r, nil
	}
	return nil, noSuchUser(name)
}

func (s *Service) group(account, name string) (*groupRow, error) {
	if r, ok := s.groups.Get(nameKey(account, name)); ok {
		return r, nil
	}
	return nil, noSuchGroup(name)
}

func (s *Service) role(account, name string) (*roleRow, error) {
	if r, ok := s.roles.Get(nameKey(account, name)); ok {
		return r, nil
	}
	return nil, noSuchRole(name)
}

func noSuchUser(name string) error {
	return awsapi.Errorf("NoSuchEntity", "The user with name %s cannot be found.", name)
}

func noSuchGroup(name string) error {
	return awsapi.Errorf("NoSuchEntity", "The group with name %s cannot be found.", name)
}

func noSuchRole(name string) error {
	return awsapi.Errorf("NoSuchEntity", "The role with name %s cannot be found.", name)
}

// The quotas of IAM (IAM User Guide, "IAM and AWS STS quotas") that are counted per account, by the names that errors
// print.
const (
	usersQuota     = "UsersPerAccount"
	groupsQuota    = "GroupsPerAccount"
	rolesQuota     = "RolesPerAccount"
	policiesQuota  = "PoliciesPerAccount"
	profilesQuota  = "InstanceProfilesPerAccount"
	providersQuota = "OpenIDConnectProvidersPerAccount"
	samlQuota      = "SAMLProvidersPerAccount"
)

func quotaLimit(quota string) int {
	switch quota {
	case usersQuota:
		return 5000
	case policiesQuota:
		return 1500
	case groupsQuota:
		return 300
	case providersQuota, samlQuota:
		return 100
	default: // rolesQuota, profilesQuota
		return 1000
	}
}

// The other quotas: sizes count characters other than white space, except maxInlineBytes, which keeps the white space of
// an entity's inline policies within bounds too.
const (
	maxTrustSize       = 2048
	maxManagedSize     = 6144
	maxUserInlineSize  = 2048
	maxRoleInlineSize  = 10240
	maxGroupInlineSize = 5120
	maxInlineBytes     = 256 << 10
	maxAttached        = 10
	maxVersions        = 5
	maxVersionsInUse   = 10_000 // of all policies of an account together; it is shown, not enforced
	maxRoleName        = 64
	maxTags            = 50
	maxAccessKeys      = 2
	maxGroupsPerUser   = 10
	maxClientIDs       = 100
	maxThumbprints     = 5
	defaultMaxSession  = 3600 // seconds
)

// take uses one more of an account's quota as part of tx.
func (s *Service) take(tx *kv.Tx, accountID, quota string) error {
	a, ok := s.accounts.Read(tx, accountID)
	if !ok {
		return noSuchAccount(accountID)
	}
	limit := quotaLimit(quota)
	if a.Usage[quota] >= limit {
		return overQuota(quota, limit)
	}
	next := a.clone()
	next.Usage[quota]++
	s.accounts.Write(tx, accountID, next)
	return nil
}

// release gives back what take used.
func (s *Service) release(tx *kv.Tx, accountID, quota string) {
	if a, ok := s.accounts.Read(tx, accountID); ok {
		next := a.clone()
		next.Usage[quota]--
		s.accounts.Write(tx, accountID, next)
	}
}

func overQuota(quota string, limit int) error {
	return awsapi.Errorf("LimitExceeded", "Cannot exceed quota for %s: %d", quota, limit)
}

// iamARN makes the ARN of something of an account.
func (s *Service) iamARN(account, resource string) string {
	return arn.New(s.partition, "iam", "", account, resource).String()
}

func (s *Service) userARN(e *entity) string { return s.iamARN(e.Account, "user"+e.Path+e.Name) }

func (s *Service) groupARN(e *entity) string { return s.iamARN(e.Account, "group"+e.Path+e.Name) }

func (s *Service) roleARN(e *entity) string { return s.iamARN(e.Account, "role"+e.Path+e.Name) }

func (s *Service) rootARN(account string) string { return s.iamARN(account, "root") }

// time returns the present as IAM keeps it: to the second.
func (s *Service) time() time.Time { return s.now().UTC().Truncate(time.Second) }
