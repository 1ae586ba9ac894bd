package iam

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// derive compiles what authorization needs of a user, group or role. The names of its inline policies get a prefix.
func (e *entity) derive(ownARN, prefix string) *compiled {
	c := &compiled{arn: ownARN}
	for _, in := range e.Inline {
		p, err := policy.New(prefix+in.Name, policy.Identity, []byte(in.Document))
		if err != nil {
			c.err = fmt.Errorf("compile inline policy %s of %s: %w", in.Name, ownARN, err)
			return c
		}
		c.inline = append(c.inline, p)
	}
	return c
}

func (s *Service) compiledUser(r *userRow) *compiled {
	return r.derived.get(func() *compiled { return r.derive(s.userARN(&r.entity), "") })
}

// compiledGroup names a group's inline policies GROUP/POLICY, which no policy of a user or role can be called.
func (s *Service) compiledGroup(r *groupRow) *compiled {
	return r.derived.get(func() *compiled { return r.derive(s.groupARN(&r.entity), r.Name+"/") })
}

func (s *Service) compiledRole(r *roleRow) *compiled {
	return r.derived.get(func() *compiled {
		c := r.derive(s.roleARN(&r.entity), "")
		trust, err := policy.New(c.arn, policy.Trust, []byte(r.Trust))
		if err != nil {
			s.log.Error("role has a trust policy that does not compile", slog.String("role", c.arn), slog.Any("err", err))
			return c
		}
		c.role = &Role{
			Account: r.Account, Name: r.Name, Path: r.Path, ID: r.ID, Description: r.Description,
			MaxSessionDuration: time.Duration(r.MaxSession) * time.Second, Tags: r.Tags, Created: r.Created, Trust: trust,
		}
		return c
	})
}

// Role finds a role by its ARN: partition, account, path and name must all fit.
func (s *Service) Role(a arn.ARN) (*Role, bool) {
	_, name := splitPath(a.Resource())
	r, ok := s.roles.Get(nameKey(a.Account(), name))
	if !ok {
		return nil, false
	}
	c := s.compiledRole(r)
	if c.role == nil || c.arn != a.String() {
		return nil, false
	}
	return c.role, true
}

// RoleByID finds a role by its unique ID.
func (s *Service) RoleByID(id string) (*Role, bool) {
	_, r, ok := s.rolesByID.First(id)
	if !ok {
		return nil, false
	}
	c := s.compiledRole(r)
	return c.role, c.role != nil
}

// RoleARN returns a role's ARN.
func (s *Service) RoleARN(r *Role) arn.ARN {
	return arn.New(s.partition, "iam", "", r.Account, "role"+r.Path+r.Name)
}

// ManagedPolicy returns the compiled default version of a managed policy, AWS's or the account's own, by its ARN.
func (s *Service) ManagedPolicy(account string, a arn.ARN) (*policy.Policy, bool) {
	p, err := s.managedPolicy(account, a.String())
	return p, err == nil
}

func (s *Service) managedPolicy(account, policyARN string) (*policy.Policy, error) {
	m, ok := s.lookupManaged(account, policyARN)
	if !ok {
		return nil, fmt.Errorf("managed policy %s of account %s does not exist", policyARN, account)
	}
	p, err := m.compile()
	if err != nil {
		return nil, fmt.Errorf("compile managed policy %s: %w", policyARN, err)
	}
	return p, nil
}

// Credential resolves a long-term access key: an active one of a user, or a root key.
func (s *Service) Credential(accessKeyID string) (awsapi.Credential, bool) {
	k, ok := s.keys.Get(accessKeyID)
	if !ok || !k.Active {
		return awsapi.Credential{}, false
	}
	id := awsapi.Identity{Account: k.Account, AccessKeyID: k.ID}
	if k.UserID == "" {
		a, ok := s.accounts.Get(k.Account)
		if !ok {
			return awsapi.Credential{}, false
		}
		root := a.rootARN.get(func() *string { root := s.rootARN(a.ID); return &root })
		id.Kind, id.ARN, id.EntityARN, id.UserID = policy.Root, *root, *root, a.ID
	} else {
		_, r, ok := s.usersByID.First(k.UserID)
		if !ok {
			return awsapi.Credential{}, false
		}
		user := s.compiledUser(r).arn
		id.Kind, id.ARN, id.EntityARN, id.UserID, id.EntityID = policy.User, user, user, r.ID, r.ID
	}
	secret, err := s.secretOf(k)
	if err != nil {
		s.log.Error("secret of access key cannot be unwrapped", slog.String("accessKey", k.ID), slog.Any("err", err))
		return awsapi.Credential{}, false
	}
	return awsapi.Credential{Secret: secret, Identity: id}, true
}

// Exists reports whether the user or role that an identity belongs to is still there, by its unique ID. It is true for
// root of an existing account, and for federated users that root made.
func (s *Service) Exists(id *awsapi.Identity) bool {
	switch id.Kind {
	case policy.Root:
		_, ok := s.accounts.Get(id.Account)
		return ok
	case policy.RoleSession:
		_, r, ok := s.rolesByID.First(id.EntityID)
		return ok && r.Account == id.Account
	case policy.Federated:
		if id.EntityID == "" {
			_, ok := s.accounts.Get(id.Account)
			return ok
		}
		fallthrough
	case policy.User:
		_, r, ok := s.usersByID.First(id.EntityID)
		return ok && r.Account == id.Account
	default:
		return false
	}
}

// EntityTags returns the tags of the user or role by its unique ID.
func (s *Service) EntityTags(entityID string) []awsapi.Tag {
	if entityID == "" {
		return nil
	}
	if _, r, ok := s.rolesByID.First(entityID); ok {
		return r.Tags
	}
	if _, r, ok := s.usersByID.First(entityID); ok {
		return r.Tags
	}
	return nil
}

// Principal returns the caller as the policy engine sees it. A federated user has the unique ID of the user that made it.
func Principal(id *awsapi.Identity) policy.Principal {
	p := policy.Principal{Kind: id.Kind, Account: id.Account, ARN: id.ARN, ID: id.EntityID}
	if id.Kind == policy.RoleSession {
		p.RoleARN = id.EntityARN
	}
	return p
}

// Context returns the condition keys that every request of the caller has (IAM User Guide, "AWS global condition
// context keys"): aws:PrincipalArn, aws:PrincipalTag/k, aws:SourceIp, aws:TokenIssueTime and so on.
func (s *Service) Context(c *awsapi.Caller) *policy.Context {
	p := new(policy.Context)
	if c.Session != nil {
		// Whatever a session brings along, none of it takes the place of the keys below.
		for _, kv := range c.Session.ContextKeys {
			p.Set(kv.Key, kv.Value)
		}
	}
	p.Set("aws:CurrentTime", c.Time.UTC().Format(time.RFC3339))
	p.Set("aws:EpochTime", strconv.FormatInt(c.Time.Unix(), 10))
	p.Set("aws:SecureTransport", strconv.FormatBool(c.Secure))
	p.Set("aws:ViaAWSService", "false")
	p.Set("aws:RequestedRegion", c.Region)
	if c.UserAgent != "" {
		p.Set("aws:UserAgent", c.UserAgent)
	}
	if c.SourceIP.IsValid() {
		p.Set("aws:SourceIp", c.SourceIP.Unmap().WithZone("").String())
	}
	p.Set("aws:PrincipalType", principalType(c.Kind))
	if c.Kind == policy.Anonymous {
		p.Set("aws:userid", "anonymous")
		return p
	}
	p.Set("aws:ResourceAccount", c.Account)
	p.Set("aws:PrincipalAccount", c.Account)
	p.Set("aws:PrincipalIsAWSService", "false")
	p.Set("aws:userid", c.UserID)
	if c.Kind == policy.RoleSession {
		p.Set("aws:PrincipalArn", c.EntityARN)
	} else {
		p.Set("aws:PrincipalArn", c.ARN)
	}
	if c.Kind == policy.User {
		_, name := splitPath(c.EntityARN)
		p.Set("aws:username", name)
	}
	for _, t := range s.EntityTags(c.EntityID) {
		p.Set("aws:PrincipalTag/"+t.Key, t.Value)
	}
	if c.Session == nil {
		return p
	}
	for _, t := range c.Session.Tags {
		p.Set("aws:PrincipalTag/"+t.Key, t.Value) // over a tag of the entity: keys are compared without regard to case
	}
	p.Set("aws:TokenIssueTime", c.Session.Issued.UTC().Format(time.RFC3339))
	p.Set("aws:MultiFactorAuthPresent", "false")
	if c.Session.FederatedProvider != "" {
		p.Set("aws:FederatedProvider", c.Session.FederatedProvider)
	}
	if c.Session.SourceIdentity != "" {
		p.Set("aws:SourceIdentity", c.Session.SourceIdentity)
		p.Set("sts:SourceIdentity", c.Session.SourceIdentity)
	}
	return p
}

// principalType is the value of aws:PrincipalType.
func principalType(k policy.PrincipalKind) string {
	switch k {
	case policy.Root:
		return "Account"
	case policy.User:
		return "User"
	case policy.RoleSession:
		return "AssumedRole"
	case policy.Federated:
		return "FederatedUser"
	default:
		return "Anonymous"
	}
}

// Policies returns the identity policies, boundary and session policies that bear on an identity. An error means that one of
// them cannot be had; the caller must then deny. Session policies of nil limit nothing, except for federated users, to
// whom the policy engine then allows nothing.
func (s *Service) Policies(id *awsapi.Identity) (*policy.Policies, error) {
	p := new(policy.Policies)
	var err error
	switch id.Kind {
	case policy.Anonymous:
	case policy.Root:
		if !s.Exists(id) {
			return nil, fmt.Errorf("account %s does not exist", id.Account)
		}
	case policy.RoleSession:
		_, r, ok := s.rolesByID.First(id.EntityID)
		if !ok || r.Account != id.Account {
			return nil, fmt.Errorf("role %s (%s) does not exist", id.EntityARN, id.EntityID)
		}
		err = s.addEntity(p, &r.entity, s.compiledRole(r))
	case policy.User, policy.Federated:
		if id.Kind == policy.Federated && id.EntityID == "" {
			err = s.addRootPermissions(p, id)
			break
		}
		_, r, ok := s.usersByID.First(id.EntityID)
		if !ok || r.Account != id.Account {
			return nil, fmt.Errorf("user %s (%s) does not exist", id.EntityARN, id.EntityID)
		}
		if err = s.addEntity(p, &r.entity, s.compiledUser(r)); err == nil {
			err = s.addGroups(p, r)
		}
	default:
		return nil, fmt.Errorf("principals of kind %d have no policies here", id.Kind)
	}
	if err != nil {
		return nil, err
	}
	if id.Session != nil {
		if err := s.addSession(p, id); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// addEntity adds the identity policies and the boundary of a user or role.
func (s *Service) addEntity(p *policy.Policies, e *entity, c *compiled) error {
	if err := s.addIdentity(p, e, c); err != nil || e.Boundary == "" {
		return err
	}
	m, err := s.managedPolicy(e.Account, e.Boundary)
	p.Boundary = m
	return err
}

// addIdentity adds the identity policies of a user, group or role.
func (s *Service) addIdentity(p *policy.Policies, e *entity, c *compiled) error {
	if c.err != nil {
		return c.err
	}
	p.Identity = slices.Grow(p.Identity, len(c.inline)+len(e.Attached))
	p.Identity = append(p.Identity, c.inline...)
	for _, a := range e.Attached {
		m, err := s.managedPolicy(e.Account, a)
		if err != nil {
			return err
		}
		p.Identity = append(p.Identity, m)
	}
	return nil
}

// addGroups adds the identity policies of the groups that a user is in. A group that cannot be found may be one that denies.
func (s *Service) addGroups(p *policy.Policies, r *userRow) error {
	for _, id := range r.Groups {
		_, g, ok := s.groupsByID.First(id)
		if !ok {
			return fmt.Errorf("group %s of user %s does not exist", id, r.Name)
		}
		if err := s.addIdentity(p, &g.entity, s.compiledGroup(g)); err != nil {
			return err
		}
	}
	return nil
}

// addRootPermissions gives a federated user that root made what root may do, for its session policies to limit.
func (s *Service) addRootPermissions(p *policy.Policies, id *awsapi.Identity) error {
	if !s.Exists(id) {
		return fmt.Errorf("account %s does not exist", id.Account)
	}
	m, err := s.managedPolicy(id.Account, s.iamARN(awsOwned, "policy/AdministratorAccess"))
	p.Identity = []*policy.Policy{m}
	return err
}

func (s *Service) addSession(p *policy.Policies, id *awsapi.Identity) error {
	for _, document := range id.Session.Policies {
		c, err := s.sessionPolicies.get(document)
		if err != nil {
			return fmt.Errorf("compile session policy: %w", err)
		}
		p.Session = append(p.Session, c)
	}
	for _, a := range id.Session.PolicyARNs {
		m, err := s.managedPolicy(id.Account, a)
		if err != nil {
			return err
		}
		p.Session = append(p.Session, m)
	}
	return nil
}

// Authorize decides whether the caller has a permission. It is awsapi's Authorize.
func (s *Service) Authorize(ctx context.Context, c *awsapi.Caller, a awsapi.Access) policy.Decision {
	s.NoteUse(c)
	policies, err := s.Policies(&c.Identity)
	if err != nil {
		s.log.ErrorContext(ctx, "policies of the caller cannot be had", slog.String("caller", c.ARN), slog.Any("err", err))
		return policy.Decision{}
	}
	return policy.Evaluate(s.request(c, a), policies)
}

// request is a permission that the caller asks for, as the policy engine sees it.
func (s *Service) request(c *awsapi.Caller, a awsapi.Access) *policy.Request {
	keys := s.Context(c)
	if a.ResourceAccount != "" {
		keys.Set("aws:ResourceAccount", a.ResourceAccount)
	}
	if a.Context != nil {
		a.Context(keys)
	}
	return &policy.Request{
		Principal: Principal(&c.Identity), Action: a.Action, Resource: a.Resource, ResourceAccount: a.ResourceAccount, Context: keys,
	}
}

// An Explained is a permission that was decided on, with all that went into it.
type Explained struct {
	Request  *policy.Request
	Decision policy.Decision                  // with its Explanation
	Document func(name string) (string, bool) // the text of the caller's policy that the Explanation calls so
}

// Explain decides as Authorize does, and says why. It is not on the way of requests: it costs several times as much. Errors
// mean that the caller's policies cannot be had.
func (s *Service) Explain(c *awsapi.Caller, a awsapi.Access) (*Explained, error) {
	policies, err := s.Policies(&c.Identity)
	if err != nil {
		return nil, fmt.Errorf("find the policies of %s: %w", c.ARN, err)
	}
	request := s.request(c, a)
	return &Explained{
		Request: request, Decision: policy.Explain(request, policies),
		Document: func(name string) (string, bool) { return s.documentOf(&c.Identity, name) },
	}, nil
}

// documentOf finds the text of a policy that Policies returns for an identity. The name of a managed policy is its ARN,
// which no inline policy can have. Of several session policies, which share a name, none is found.
func (s *Service) documentOf(id *awsapi.Identity, name string) (string, bool) {
	if m, ok := s.lookupManaged(id.Account, name); ok {
		v, ok := m.version(m.Default)
		return v.Document, ok
	}
	if name == sessionPolicyName {
		if id.Session == nil || len(id.Session.Policies) != 1 {
			return "", false
		}
		return id.Session.Policies[0], true
	}
	if _, r, ok := s.rolesByID.First(id.EntityID); ok {
		return r.inlineDocument(name)
	}
	_, r, ok := s.usersByID.First(id.EntityID)
	if !ok {
		return "", false
	}
	group, name, ofGroup := strings.Cut(name, "/")
	if !ofGroup {
		return r.inlineDocument(group)
	}
	for _, g := range s.groupsOf(r) {
		if g.Name == group {
			return g.inlineDocument(name)
		}
	}
	return "", false
}

func (e *entity) inlineDocument(name string) (string, bool) {
	i, found := e.inlineAt(name)
	if !found {
		return "", false
	}
	return e.Inline[i].Document, true
}

// sessionPolicyName is the name of every compiled session policy. No inline policy can have it, for the space.
const sessionPolicyName = "session policy"

// maxSessionPolicies bounds the cache of compiled session policies.
const maxSessionPolicies = 1024

// sessionPolicies keeps compiled session policies by their text: a session sends the same one with every request.
type sessionPolicies struct {
	mu     sync.Mutex
	byText map[string]*policy.Policy
}

func (s *sessionPolicies) get(document string) (*policy.Policy, error) {
	s.mu.Lock()
	p, ok := s.byText[document]
	s.mu.Unlock()
	if ok {
		return p, nil
	}
	p, err := policy.New(sessionPolicyName, policy.Session, []byte(document))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byText) >= maxSessionPolicies {
		for victim := range s.byText {
			delete(s.byText, victim)
			break
		}
	}
	s.byText[document] = p
	return p, nil
}
