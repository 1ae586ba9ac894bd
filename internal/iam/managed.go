package iam

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base32"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

// awsPolicies are the managed policies that AWS ships, as far as Lanyard has them. Below managed/ a file's path is the
// policy's path and name.
//
//go:embed managed
var awsPolicies embed.FS

// awsOwned stands for the account in the ARNs of what AWS owns.
const awsOwned = "aws"

// loadAWSPolicies reads the embedded policies for a partition, by ARN. A test holds that all compile.
func loadAWSPolicies(partition string) (map[string]*managedRow, error) {
	policies := make(map[string]*managedRow)
	err := fs.WalkDir(awsPolicies, "managed", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := awsPolicies.ReadFile(file)
		if err != nil {
			return err
		}
		path, name := splitPath(strings.TrimSuffix(strings.TrimPrefix(file, "managed"), ".json"))
		// AWS gives no rule for these IDs; what matters is that one policy keeps one ID.
		sum := sha256.Sum256([]byte(path + name))
		created := time.Date(2015, time.February, 6, 18, 39, 46, 0, time.UTC)
		m := managed{
			Account: awsOwned, Name: name, Path: path,
			ARN:      arn.New(partition, "iam", "", awsOwned, "policy"+path+name).String(),
			ID:       string(arn.ManagedPolicyID) + base32.StdEncoding.EncodeToString(sum[:])[:17],
			Created:  created,
			Updated:  created,
			Versions: []version{{1, strings.ReplaceAll(string(text), `"arn:aws:`, `"arn:`+partition+`:`), created}},
			Default:  1,
			Last:     1,
		}
		policies[m.ARN] = &managedRow{managed: m}
		return nil
	})
	return policies, err
}

// findManaged finds a managed policy, AWS's or the account's own, in memory.
func (s *Service) findManaged(account, policyARN string) (*managedRow, error) {
	if _, err := parsePolicyARN(policyARN); err != nil {
		return nil, err
	}
	if m, ok := s.lookupManaged(account, policyARN); ok {
		return m, nil
	}
	return nil, notFoundPolicy(policyARN)
}

func (s *Service) lookupManaged(account, policyARN string) (*managedRow, bool) {
	if m, ok := s.aws[policyARN]; ok {
		return m, true
	}
	if _, m, ok := s.managedByARN.First(policyARN); ok && m.Account == account {
		return m, true
	}
	return nil, false
}

// readManaged finds a managed policy as tx sees it; nil when there is none.
func (s *Service) readManaged(tx *kv.Tx, account, policyARN string) (*managedRow, error) {
	a, err := parsePolicyARN(policyARN)
	if err != nil {
		return nil, err
	}
	if m, ok := s.aws[policyARN]; ok {
		return m, nil
	}
	path, name := splitPath(strings.TrimPrefix(a.Resource(), "policy"))
	if s.ownPolicyARN(account, path, name) != policyARN {
		return nil, nil
	}
	m, ok := s.managed.Read(tx, nameKey(account, name))
	if !ok || m.ARN != policyARN {
		return nil, nil
	}
	return m, nil
}

// changeManaged changes one of the account's own policies.
func (s *Service) changeManaged(ctx context.Context, account, policyARN string, do func(*kv.Tx, *managedRow) error) error {
	if _, ok := s.aws[policyARN]; ok {
		return awsManaged(policyARN)
	}
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		m, err := s.readManaged(tx, account, policyARN)
		if err != nil {
			return err
		}
		if m == nil {
			return notFoundPolicy(policyARN)
		}
		next := m.clone()
		if err := do(tx, next); err != nil {
			return err
		}
		s.managed.Write(tx, next.key(), next)
		return nil
	})
}

func awsManaged(policyARN string) error {
	return awsapi.Errorf("AccessDenied", "Policy %s is managed by AWS and cannot be changed.", policyARN)
}

func parsePolicyARN(text string) (arn.ARN, error) {
	a, err := arn.Parse(text)
	if err != nil {
		return arn.ARN{}, awsapi.Errorf("ValidationError", "Invalid ARN:  Could not be parsed!")
	}
	return a, nil
}

func notFoundPolicy(policyARN string) error {
	return awsapi.Errorf("NoSuchEntity", "Policy %s was not found.", policyARN)
}

func (s *Service) ownPolicyARN(account, path, name string) string {
	return s.iamARN(account, "policy"+path+name)
}

// policyCore is what every answer shows of a managed policy.
type policyCore struct {
	PolicyName                    string
	PolicyID                      string
	Arn                           string
	Path                          string
	DefaultVersionID              string
	AttachmentCount               int32
	PermissionsBoundaryUsageCount int32
	IsAttachable                  bool
	CreateDate                    time.Time
	UpdateDate                    time.Time
}

type policyShape struct {
	policyCore
	Description string
	Tags        []awsapi.Tag
}

type policyOut struct{ Policy policyShape }

// coreOf is a policy as ListPolicies shows it: without description and tags.
func (s *Service) coreOf(account string, m *managedRow) policyCore {
	attached, boundaries := s.usesOf(account, m)
	return policyCore{
		PolicyName: m.Name, PolicyID: m.ID, Arn: m.ARN, Path: m.Path, DefaultVersionID: versionID(m.Default),
		AttachmentCount: int32(attached), PermissionsBoundaryUsageCount: int32(boundaries), IsAttachable: true,
		CreateDate: m.Created, UpdateDate: m.Updated,
	}
}

// usesOf counts the account's users, groups and roles that have the policy attached, or as boundary.
func (s *Service) usesOf(account string, m *managedRow) (attached, boundaries int) {
	if m.Account == account {
		return m.Attachments, m.BoundaryUses
	}
	s.eachUse(account, m.ARN, func(_ string, e *entity) {
		if slices.Contains(e.Attached, m.ARN) {
			attached++
		}
		if e.Boundary == m.ARN {
			boundaries++
		}
	})
	return attached, boundaries
}

func versionID(number int) string { return "v" + strconv.Itoa(number) }

// parseVersionID is the way back; 0 stands for what is no version's ID.
func parseVersionID(id string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(id, "v"))
	if err != nil || versionID(n) != id {
		return 0
	}
	return n
}

type createPolicyIn struct {
	PolicyName     string
	Path           string
	PolicyDocument string
	Description    string
	Tags           []awsapi.Tag
}

func (in *createPolicyIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.newTarget(c, "policy", in.Path, in.PolicyName)
}

func (in *createPolicyIn) conditions(p *policy.Context, _ target) { requestTags(p, in.Tags) }

func (s *Service) createPolicy(ctx context.Context, c *awsapi.Caller, in *createPolicyIn) (*policyOut, error) {
	tags, err := tagsOfNew(c, in.Tags, "Policy")
	if err != nil {
		return nil, err
	}
	if err := checkManagedPolicy(in.PolicyName, in.PolicyDocument); err != nil {
		return nil, err
	}
	now, path := s.time(), pathOrRoot(in.Path)
	made := &managedRow{managed: managed{
		Account: c.Account, Name: in.PolicyName, Path: path, ARN: s.ownPolicyARN(c.Account, path, in.PolicyName),
		ID: arn.NewID(arn.ManagedPolicyID, c.Account), Description: in.Description, Created: now, Updated: now, Tags: tags,
		Versions: []version{{1, in.PolicyDocument, now}}, Default: 1, Last: 1,
	}}
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		return add(s, tx, s.managed, made.key(), made, policiesQuota, awsapi.Errorf("EntityAlreadyExists",
			"A policy called %s already exists. Duplicate names are not allowed.", in.PolicyName))
	})
	if err != nil {
		return nil, err
	}
	return &policyOut{policyShape{policyCore: s.coreOf(c.Account, made), Tags: made.Tags}}, nil
}

func checkManagedPolicy(name, document string) error {
	if policy.Size([]byte(document)) > maxManagedSize {
		return overQuota("PolicySize", maxManagedSize)
	}
	return checkIdentityPolicy(name, document)
}

// managedARN names a managed policy.
type managedARN struct{ PolicyArn string }

func (a managedARN) noun() string { return "Policy" }

func (a managedARN) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.policyTarget(c, a.PolicyArn)
}

func (a managedARN) tags(s *Service, c *awsapi.Caller) ([]awsapi.Tag, error) {
	m, err := s.findManaged(c.Account, a.PolicyArn)
	if err != nil {
		return nil, err
	}
	return m.Tags, nil
}

func (a managedARN) retag(ctx context.Context, s *Service, c *awsapi.Caller, edit func([]awsapi.Tag) ([]awsapi.Tag, error)) error {
	return s.changeManaged(ctx, c.Account, a.PolicyArn, func(_ *kv.Tx, m *managedRow) (err error) {
		m.Tags, err = edit(m.Tags)
		return err
	})
}

func (s *Service) getPolicy(_ context.Context, c *awsapi.Caller, in *managedARN) (*policyOut, error) {
	m, err := s.findManaged(c.Account, in.PolicyArn)
	if err != nil {
		return nil, err
	}
	return &policyOut{policyShape{s.coreOf(c.Account, m), m.Description, m.Tags}}, nil
}

type listPoliciesIn struct {
	Scope             string
	OnlyAttached      bool
	PolicyUsageFilter string
	pathPage
}

func (in *listPoliciesIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.listTarget(c, "policy", in.PathPrefix)
}

type listPoliciesOut struct {
	Policies []policyCore
	truncated
}

func (s *Service) listPolicies(_ context.Context, c *awsapi.Caller, in *listPoliciesIn) (*listPoliciesOut, error) {
	var rows []*managedRow
	if in.Scope != "AWS" {
		for _, m := range s.managed.Scan(c.Account+"/", "") {
			rows = append(rows, m)
		}
	}
	if in.Scope != "Local" {
		for _, m := range s.aws {
			rows = append(rows, m)
		}
	}
	policies, rest, err := paginate(s, c, in.page, sorted(rows, (*managedRow).key), func(m *managedRow) (policyCore, bool) {
		shape := s.coreOf(c.Account, m)
		attached, boundary := shape.AttachmentCount > 0, shape.PermissionsBoundaryUsageCount > 0
		switch {
		case !strings.HasPrefix(m.Path, in.PathPrefix):
			return shape, false
		case in.PolicyUsageFilter == "PermissionsPolicy":
			return shape, attached
		case in.PolicyUsageFilter == "PermissionsBoundary":
			return shape, boundary
		default:
			return shape, !in.OnlyAttached || attached || boundary
		}
	})
	return &listPoliciesOut{policies, rest}, err
}

func (s *Service) deletePolicy(ctx context.Context, c *awsapi.Caller, in *managedARN) error {
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		m, err := s.readManaged(tx, c.Account, in.PolicyArn)
		switch {
		case err != nil:
			return err
		case m == nil:
			return notFoundPolicy(in.PolicyArn)
		case m.Account == awsOwned:
			return awsManaged(in.PolicyArn)
		case m.Attachments > 0 || m.BoundaryUses > 0:
			return awsapi.Errorf("DeleteConflict", "Cannot delete a policy attached to entities.")
		case len(m.Versions) > 1:
			return awsapi.Errorf("DeleteConflict", "This policy has more than one version. Before you delete a policy, you must "+
				"delete the policy's versions. The default version is deleted with the policy.")
		}
		s.managed.Remove(tx, m.key())
		s.release(tx, c.Account, policiesQuota)
		return nil
	})
}

type versionShape struct {
	Document         string
	VersionID        string
	IsDefaultVersion bool
	CreateDate       time.Time
}

type versionOut struct{ PolicyVersion versionShape }

func (m *managed) shapeOf(v version) versionShape {
	return versionShape{VersionID: versionID(v.Number), IsDefaultVersion: v.Number == m.Default, CreateDate: v.Created}
}

type createPolicyVersionIn struct {
	managedARN
	PolicyDocument string
	SetAsDefault   bool
}

func (s *Service) createPolicyVersion(ctx context.Context, c *awsapi.Caller, in *createPolicyVersionIn) (*versionOut, error) {
	if err := checkManagedPolicy(in.PolicyArn, in.PolicyDocument); err != nil {
		return nil, err
	}
	now := s.time()
	var out versionOut
	err := s.changeManaged(ctx, c.Account, in.PolicyArn, func(_ *kv.Tx, m *managedRow) error {
		if len(m.Versions) >= maxVersions {
			return awsapi.Errorf("LimitExceeded", "A managed policy can have up to %d versions. Before you create a new version, "+
				"you must delete an existing version.", maxVersions)
		}
		m.Last++
		v := version{m.Last, in.PolicyDocument, now}
		m.Versions = append(m.Versions, v)
		m.Updated = now
		if in.SetAsDefault {
			m.Default = m.Last
		}
		out.PolicyVersion = m.shapeOf(v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// policyVersionIn names a version of a managed policy.
type policyVersionIn struct {
	managedARN
	VersionID string
}

func noSuchVersion(policyARN, id string) error {
	return awsapi.Errorf("NoSuchEntity", "Policy %s version %s does not exist or is not attachable.", policyARN, id)
}

func (s *Service) getPolicyVersion(_ context.Context, c *awsapi.Caller, in *policyVersionIn) (*versionOut, error) {
	m, err := s.findManaged(c.Account, in.PolicyArn)
	if err != nil {
		return nil, err
	}
	v, ok := m.version(parseVersionID(in.VersionID))
	if !ok {
		return nil, noSuchVersion(in.PolicyArn, in.VersionID)
	}
	shape := m.shapeOf(v)
	shape.Document = encodeDocument(v.Document)
	return &versionOut{shape}, nil
}

type listVersionsOut struct {
	Versions []versionShape
	truncated
}

func (s *Service) listPolicyVersions(_ context.Context, c *awsapi.Caller, in *listOfPolicyIn) (*listVersionsOut, error) {
	m, err := s.findManaged(c.Account, in.PolicyArn)
	if err != nil {
		return nil, err
	}
	// The newest comes first, as in AWS: keys count down.
	from := sorted(m.Versions, func(v version) string { return fmt.Sprintf("%010d", 9_999_999_999-v.Number) })
	versions, rest, err := paginate(s, c, in.page, from, func(v version) (versionShape, bool) { return m.shapeOf(v), true })
	return &listVersionsOut{versions, rest}, err
}

func (s *Service) deletePolicyVersion(ctx context.Context, c *awsapi.Caller, in *policyVersionIn) error {
	number := parseVersionID(in.VersionID)
	return s.changeManaged(ctx, c.Account, in.PolicyArn, func(_ *kv.Tx, m *managedRow) error {
		if _, ok := m.version(number); !ok {
			return noSuchVersion(in.PolicyArn, in.VersionID)
		}
		if number == m.Default {
			return awsapi.Errorf("DeleteConflict", "Cannot delete the default version of a policy.")
		}
		m.Versions = slices.DeleteFunc(m.Versions, func(v version) bool { return v.Number == number })
		m.Updated = s.time()
		return nil
	})
}

func (s *Service) setDefaultPolicyVersion(ctx context.Context, c *awsapi.Caller, in *policyVersionIn) error {
	number := parseVersionID(in.VersionID)
	return s.changeManaged(ctx, c.Account, in.PolicyArn, func(_ *kv.Tx, m *managedRow) error {
		if _, ok := m.version(number); !ok {
			return noSuchVersion(in.PolicyArn, in.VersionID)
		}
		m.Default, m.Updated = number, s.time()
		return nil
	})
}

// The requests about what a managed policy has.
type (
	listOfPolicyIn struct {
		managedARN
		page
	}
	tagPolicyIn struct {
		managedARN
		newTags
	}
	untagPolicyIn struct {
		managedARN
		oldTags
	}
)

// entitiesForPolicyIn is the input of ListEntitiesForPolicy.
type entitiesForPolicyIn struct {
	managedARN
	EntityFilter      string
	PolicyUsageFilter string
	pathPage
}

type policyGroupShape struct{ GroupName, GroupID string }

type policyUserShape struct{ UserName, UserID string }

type policyRoleShape struct{ RoleName, RoleID string }

type entitiesForPolicyOut struct {
	PolicyGroups []policyGroupShape
	PolicyUsers  []policyUserShape
	PolicyRoles  []policyRoleShape
	truncated
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
		if (in.EntityFilter == "" || in.EntityFilter == kind) && (attached || boundary) && strings.HasPrefix(e.Path, in.PathPrefix) {
			uses = append(uses, use{kind, e})
		}
	}
	s.eachUse(c.Account, m.ARN, add)
	rows, rest, err := paginate(s, c, in.page, sorted(uses, func(u use) string { return u.kind + u.key() }), all)
	if err != nil {
		return nil, err
	}
	out := &entitiesForPolicyOut{
		PolicyGroups: []policyGroupShape{}, PolicyUsers: []policyUserShape{}, PolicyRoles: []policyRoleShape{}, truncated: rest,
	}
	for _, u := range rows {
		switch u.kind {
		case "User":
			out.PolicyUsers = append(out.PolicyUsers, policyUserShape{u.Name, u.ID})
		case "Group":
			out.PolicyGroups = append(out.PolicyGroups, policyGroupShape{u.Name, u.ID})
		default:
			out.PolicyRoles = append(out.PolicyRoles, policyRoleShape{u.Name, u.ID})
		}
	}
	return out, nil
}

// eachUse shows the users, groups and roles of an account that have a managed policy attached, or as boundary.
func (s *Service) eachUse(account, policyARN string, show func(kind string, e *entity)) {
	key := account + "/" + policyARN
	for _, r := range s.usersByPolicy.Get(key) {
		show("User", &r.entity)
	}
	for _, r := range s.groupsByPolicy.Get(key) {
		show("Group", &r.entity)
	}
	for _, r := range s.rolesByPolicy.Get(key) {
		show("Role", &r.entity)
	}
}
