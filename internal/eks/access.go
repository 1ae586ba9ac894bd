package eks

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/accesspolicy"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

const (
	maxGroups     = 50  // Kubernetes groups of one access entry
	maxPolicies   = 20  // access policies of one access entry
	maxScopes     = 100 // namespaces of one access policy
	maxAccessName = 256 // bytes of a Kubernetes username or group
)

// entryRecord is an access entry as it is stored: what a user or role is in a cluster's Kubernetes.
type entryRecord struct {
	ID        string                  `json:"id"`        // the last part of its ARN
	Principal string                  `json:"principal"` // unique ID of the user or role, or the account's of root
	Type      string                  `json:"type"`
	Username  string                  `json:"username,omitempty"` // empty for the default
	Groups    []string                `json:"groups,omitempty"`
	Policies  map[string]policyRecord `json:"policies,omitempty"` // by the access policy's name
	Tags      map[string]string       `json:"tags,omitempty"`
	Created   int64                   `json:"created"`            // Unix milliseconds
	Modified  int64                   `json:"modified,omitempty"` // Unix milliseconds; 0 for never
	Token     string                  `json:"token,omitempty"`    // clientRequestToken that made it
}

// policyRecord is where an access policy applies.
type policyRecord struct {
	Namespaces []string `json:"namespaces,omitempty"` // patterns; none for the whole cluster
	Associated int64    `json:"associated"`           // Unix milliseconds
	Modified   int64    `json:"modified"`
}

// accessPolicies are the names of the policies that an entry can be given, in order.
func accessPolicies() (names []string) {
	for _, p := range accesspolicy.All() {
		names = append(names, p.Name)
	}
	return names
}

func (s *Service) accessPolicyARN(name string) string {
	return "arn:" + s.partition + ":eks::aws:cluster-access-policy/" + name
}

// accessPolicyName is the inverse of accessPolicyARN; false for ARNs of no policy.
func (s *Service) accessPolicyName(text string) (string, bool) {
	name, ok := strings.CutPrefix(text, s.accessPolicyARN(""))
	return name, ok && slices.Contains(accessPolicies(), name)
}

// Access is what a principal is in a cluster.
type Access struct {
	// Username is what Kubernetes calls the principal, with placeholders such as {{SessionName}} for sessions.
	Username string
	Groups   []string
	// Policies are the namespaces that each access policy applies to, by the policy's name: patterns; none for the whole cluster.
	Policies map[string][]string
}

// Access finds what the user, role or root with a unique ID is in a cluster; nil for nobody. A miss in memory is confirmed against
// the store before it is believed. An entry that was made for another user or role of the same ARN is not this one's.
func (s *Service) Access(ctx context.Context, c *Cluster, principalID string) (*Access, error) {
	principal := s.iam.PrincipalARN(principalID)
	if principal == "" {
		return nil, nil
	}
	key := entryKey(clusterKey(c.Account, c.Region, c.Name), principal)
	r, ok := s.entries.Get(key)
	if !ok {
		if err := s.db.Sync(ctx); err != nil {
			return nil, fmt.Errorf("confirm that %s has no access to cluster %s: %w", principal, c.Name, err)
		}
		r, ok = s.entries.Get(key)
	}
	if !ok || r.Principal != principalID {
		return nil, nil
	}
	a := &Access{Username: s.username(r, principal), Groups: r.Groups, Policies: map[string][]string{}}
	for name, p := range r.Policies {
		a.Policies[name] = p.Namespaces
	}
	return a, nil
}

// username is what Kubernetes calls an entry's principal.
func (s *Service) username(r *entryRecord, principal string) string {
	if r.Username != "" {
		return r.Username
	}
	a, err := arn.Parse(principal)
	if err != nil {
		return principal
	}
	if name := roleResource(a); name != "" {
		return arn.New(s.partition, "sts", "", a.Account(), "assumed-role/"+name[strings.LastIndexByte(name, '/')+1:]+"/{{SessionName}}").String()
	}
	return principal
}

// entryKey is an access entry's place in its table. There is one per cluster and ARN, even when the user or role is gone.
func entryKey(cluster, principal string) string { return cluster + "/" + principal }

func (s *Service) entryARN(c *awsapi.Caller, cluster, principal, id string) string {
	kind, name := "*", "*"
	account := c.Account
	if a, err := arn.Parse(principal); err == nil {
		account = a.Account()
		var path string
		kind, path, _ = strings.Cut(a.Resource(), "/")
		if name = path[strings.LastIndexByte(path, '/')+1:]; name == "" {
			name = kind // root
		}
	}
	return s.arnOf(c.Region, c.Account, "access-entry/"+cluster+"/"+kind+"/"+account+"/"+name+"/"+id)
}

type entryIn struct{ ClusterName, PrincipalArn string }

type entryOut struct{ AccessEntry *entryShape }

type entryShape struct {
	ClusterName      string
	PrincipalArn     string
	KubernetesGroups []string
	AccessEntryArn   string
	CreatedAt        time.Time
	ModifiedAt       time.Time
	Tags             map[string]string
	Username         string
	Type             string
}

func (s *Service) entryOut(c *awsapi.Caller, cluster, principal string, r *entryRecord) *entryOut {
	return &entryOut{AccessEntry: &entryShape{
		ClusterName:      cluster,
		PrincipalArn:     principal,
		KubernetesGroups: list(r.Groups),
		AccessEntryArn:   s.entryARN(c, cluster, principal, r.ID),
		CreatedAt:        time.UnixMilli(r.Created),
		ModifiedAt:       time.UnixMilli(max(r.Created, r.Modified)),
		Tags:             tagMap(r.Tags),
		Username:         s.username(r, principal),
		Type:             r.Type,
	}}
}

// entryAccess asks for an action on an access entry, with the condition keys that concern it (Service Authorization Reference, "Actions,
// resources, and condition keys for Amazon Elastic Kubernetes Service").
func (s *Service) entryAccess(c *awsapi.Caller, action, cluster, principal string, more func(*policy.Context)) awsapi.Access {
	id := "*"
	var tags map[string]string
	kind := ""
	if r, ok := s.entries.Get(entryKey(clusterKey(c.Account, c.Region, cluster), principal)); ok {
		id, tags, kind = r.ID, r.Tags, r.Type
	}
	base := tagContext(tags, nil, nil)
	return awsapi.Access{Action: action, Resource: s.entryARN(c, cluster, principal, id), Context: func(p *policy.Context) {
		if base != nil {
			base(p)
		}
		p.Set("eks:principalArn", principal)
		if kind != "" {
			p.Set("eks:accessEntryType", kind)
		}
		if more != nil {
			more(p)
		}
	}}
}

// entriesOf returns the key of a cluster that has access entries: not one that goes by its aws-auth ConfigMap alone.
func (s *Service) entriesOf(ctx context.Context, c *awsapi.Caller, name string) (string, error) {
	key, err := s.liveCluster(ctx, c, name)
	if err != nil {
		return "", err
	}
	if r, ok := s.clusters.Get(key); ok && r.authenticationMode() == modeConfigMap {
		return "", invalidRequest("The cluster's authentication mode must be set to one of [%s, %s] to perform this operation.", modeAPI, modeBoth)
	}
	return key, nil
}

// findEntry finds a cluster's access entry by its principal's ARN, and confirms that there is none before it says so.
func (s *Service) findEntry(ctx context.Context, c *awsapi.Caller, clusterName, principal string) (key string, r *entryRecord, err error) {
	cluster, err := s.entriesOf(ctx, c, clusterName)
	if err != nil {
		return "", nil, err
	}
	key = entryKey(cluster, principal)
	r, ok := s.entries.Get(key)
	if ok {
		return key, r, nil
	}
	if err := s.db.Sync(ctx); err != nil {
		return "", nil, fmt.Errorf("confirm that %s has no access entry: %w", principal, err)
	}
	if r, ok = s.entries.Get(key); !ok {
		return "", nil, noSuchEntry(clusterName, principal)
	}
	return key, r, nil
}

func noSuchEntry(cluster, principal string) *awsapi.Error {
	e := awsapi.Errorf("ResourceNotFoundException", "The specified principalArn could not be found. You can view your available access entries with 'list-access-entries'.")
	e.Fields = map[string]any{"clusterName": cluster}
	e.Cause = fmt.Errorf("cluster %s has no access entry of %s", cluster, principal)
	return e
}

type createEntryIn struct {
	ClusterName        string
	PrincipalArn       string
	ClientRequestToken string
	KubernetesGroups   []string
	Tags               map[string]string
	Type               string
	Username           string
}

func (s *Service) createEntryAccess(c *awsapi.Caller, in *createEntryIn) ([]awsapi.Access, error) {
	a := s.clusterAccess(c, "eks:CreateAccessEntry", in.ClusterName, in.Tags)
	base := a.Context
	a.Context = func(p *policy.Context) {
		if base != nil {
			base(p)
		}
		p.Set("eks:principalArn", in.PrincipalArn)
		p.Set("eks:accessEntryType", entryType(in.Type))
		if in.Username != "" {
			p.Set("eks:username", in.Username)
		}
		if len(in.KubernetesGroups) > 0 {
			p.SetList("eks:kubernetesGroups", in.KubernetesGroups)
		}
	}
	return []awsapi.Access{a}, nil
}

func entryType(t string) string {
	if t == "" {
		return "STANDARD"
	}
	return t
}

func (s *Service) createEntry(ctx context.Context, c *awsapi.Caller, in *createEntryIn) (*entryOut, error) {
	cluster, err := s.entriesOf(ctx, c, in.ClusterName)
	if err != nil {
		return nil, err
	}
	if entryType(in.Type) != "STANDARD" {
		return nil, invalidParameter("The access entry type %s is for nodes that EKS runs; only STANDARD is supported.", in.Type)
	}
	id, err := s.findPrincipal(ctx, in.PrincipalArn)
	if err != nil {
		return nil, err
	}
	if err := checkTags("InvalidParameterException", in.Tags); err != nil {
		return nil, err
	}
	made := &entryRecord{
		ID: awsapi.NewUUID(), Principal: id, Type: "STANDARD", Username: in.Username, Groups: in.KubernetesGroups, Tags: tagsOfNew(c, in.Tags),
		Created: s.now().UnixMilli(), Token: in.ClientRequestToken,
	}
	if err := checkEntry(made, in.PrincipalArn); err != nil {
		return nil, err
	}
	key := entryKey(cluster, in.PrincipalArn)
	stored := made
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		if r, ok := s.clusters.Read(tx, cluster); !ok || r.Deleting {
			return noSuchCluster(in.ClusterName)
		}
		if have, ok := s.entries.Read(tx, key); ok {
			if in.ClientRequestToken != "" && have.Token == in.ClientRequestToken {
				if !sameEntry(have, made) {
					return invalidRequest("The clientRequestToken was used with other parameters, for the access entry of %s.", in.PrincipalArn)
				}
				stored = have
				return nil
			}
			e := awsapi.Errorf("ResourceInUseException", "The specified access entry resource is already in use on this cluster.")
			e.Fields = map[string]any{"clusterName": in.ClusterName}
			return e
		}
		stored = made
		s.entries.Write(tx, key, made)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.entryOut(c, in.ClusterName, in.PrincipalArn, stored), nil
}

// sameEntry reports whether an entry is what a new one would be.
func sameEntry(have, made *entryRecord) bool {
	return have.Principal == made.Principal && have.Type == made.Type && have.Username == made.Username &&
		slices.Equal(have.Groups, made.Groups) && maps.Equal(have.Tags, made.Tags)
}

// findPrincipal returns the unique ID of the user, role or root that an entry is for. A miss is confirmed.
func (s *Service) findPrincipal(ctx context.Context, text string) (string, error) {
	invalid := invalidParameter("The specified principalArn is invalid: invalid principal.")
	a, err := arn.Parse(text)
	if err != nil {
		return "", invalid
	}
	if id, ok := s.iam.PrincipalID(a); ok {
		return id, nil
	}
	if err := s.db.Sync(ctx); err != nil {
		return "", fmt.Errorf("confirm that %s does not exist: %w", text, err)
	}
	id, ok := s.iam.PrincipalID(a)
	if !ok {
		return "", invalid
	}
	return id, nil
}

// checkEntry refuses usernames and groups that EKS keeps to itself (EKS User Guide, "Create access entries").
func checkEntry(r *entryRecord, principal string) error {
	if len(r.Groups) > maxGroups {
		return invalidParameter("An access entry has at most %d kubernetesGroups.", maxGroups)
	}
	for _, name := range append(slices.Clone(r.Groups), r.Username) {
		if len(name) > maxAccessName || strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7F }) {
			return invalidParameter("A username or group has at most %d printable characters.", maxAccessName)
		}
		if Reserved(name) {
			return invalidParameter("The username or group %q may not begin with any of: %s", name, strings.Join(reserved(), " "))
		}
	}
	for _, name := range r.Groups {
		if name == "" {
			return invalidParameter("A Kubernetes group must have a name.")
		}
	}
	if strings.Contains(principal, ":role/") && strings.Contains(r.Username, ":assumed-role/") && !strings.Contains(r.Username, "{{SessionName") {
		return invalidParameter("The username of a role's sessions must have {{SessionName}} in it, so that they can be told apart.")
	}
	return nil
}

// reserved begin the usernames and groups that EKS, Kubernetes and Lanyard keep to themselves.
func reserved() []string { return []string{"system:", "eks:", "aws:", "amazon:", "iam:", "lanyard:"} }

// Reserved reports whether a Kubernetes username or group is one that no access entry can give.
func Reserved(name string) bool {
	return slices.ContainsFunc(reserved(), func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

func (s *Service) describeEntryAccess(c *awsapi.Caller, in *entryIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.entryAccess(c, "eks:DescribeAccessEntry", in.ClusterName, in.PrincipalArn, nil)}, nil
}

func (s *Service) describeEntry(ctx context.Context, c *awsapi.Caller, in *entryIn) (*entryOut, error) {
	_, r, err := s.findEntry(ctx, c, in.ClusterName, in.PrincipalArn)
	if err != nil {
		return nil, err
	}
	return s.entryOut(c, in.ClusterName, in.PrincipalArn, r), nil
}

type listEntriesIn struct {
	ClusterName         string
	AssociatedPolicyArn string
	MaxResults          int32
	NextToken           string
}

type listEntriesOut struct {
	AccessEntries []string
	NextToken     string
}

func (s *Service) listEntries(ctx context.Context, c *awsapi.Caller, in *listEntriesIn) (*listEntriesOut, error) {
	cluster, err := s.entriesOf(ctx, c, in.ClusterName)
	if err != nil {
		return nil, err
	}
	name := ""
	if in.AssociatedPolicyArn != "" {
		var ok bool
		if name, ok = s.accessPolicyName(in.AssociatedPolicyArn); !ok {
			return nil, noSuchPolicy()
		}
	}
	var principals []string
	for key, r := range s.entries.Scan(cluster+"/", "") {
		if _, has := r.Policies[name]; name == "" || has {
			principals = append(principals, strings.TrimPrefix(key, cluster+"/"))
		}
	}
	page, next, err := pageOf(principals, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	return &listEntriesOut{AccessEntries: list(page), NextToken: next}, nil
}

type updateEntryIn struct {
	ClusterName        string
	PrincipalArn       string
	ClientRequestToken string
	KubernetesGroups   []string // nil leaves them
	Username           *string
}

func (s *Service) updateEntryAccess(c *awsapi.Caller, in *updateEntryIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.entryAccess(c, "eks:UpdateAccessEntry", in.ClusterName, in.PrincipalArn, func(p *policy.Context) {
		if in.Username != nil {
			p.Set("eks:username", *in.Username)
		}
		if len(in.KubernetesGroups) > 0 {
			p.SetList("eks:kubernetesGroups", in.KubernetesGroups)
		}
	})}, nil
}

func (s *Service) updateEntry(ctx context.Context, c *awsapi.Caller, in *updateEntryIn) (*entryOut, error) {
	changed, err := s.changeEntry(ctx, c, in.ClusterName, in.PrincipalArn, func(r *entryRecord) error {
		if in.KubernetesGroups != nil {
			r.Groups = in.KubernetesGroups
		}
		if in.Username != nil {
			r.Username = *in.Username
		}
		return checkEntry(r, in.PrincipalArn)
	})
	if err != nil {
		return nil, err
	}
	return s.entryOut(c, in.ClusterName, in.PrincipalArn, changed), nil
}

// changeEntry replaces an entry by what change makes of a copy of it.
func (s *Service) changeEntry(ctx context.Context, c *awsapi.Caller, cluster, principal string, change func(*entryRecord) error) (*entryRecord, error) {
	key, have, err := s.findEntry(ctx, c, cluster, principal)
	if err != nil {
		return nil, err
	}
	var changed entryRecord
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.entries.Read(tx, key)
		if !ok || r.ID != have.ID {
			return noSuchEntry(cluster, principal)
		}
		changed = *r
		changed.Policies = maps.Clone(r.Policies)
		changed.Modified = s.now().UnixMilli()
		if err := change(&changed); err != nil {
			return err
		}
		s.entries.Write(tx, key, &changed)
		return nil
	})
	return &changed, err
}

func (s *Service) deleteEntryAccess(c *awsapi.Caller, in *entryIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.entryAccess(c, "eks:DeleteAccessEntry", in.ClusterName, in.PrincipalArn, nil)}, nil
}

func (s *Service) deleteEntry(ctx context.Context, c *awsapi.Caller, in *entryIn) (*emptyOut, error) {
	key, have, err := s.findEntry(ctx, c, in.ClusterName, in.PrincipalArn)
	if err != nil {
		return nil, err
	}
	return &emptyOut{}, s.db.Update(ctx, func(tx *kv.Tx) error {
		if r, ok := s.entries.Read(tx, key); !ok || r.ID != have.ID {
			return noSuchEntry(in.ClusterName, in.PrincipalArn)
		}
		s.entries.Remove(tx, key)
		return nil
	})
}

type scopeShape struct {
	Type       string
	Namespaces []string
}

type associatePolicyIn struct {
	ClusterName  string
	PrincipalArn string
	PolicyArn    string
	AccessScope  scopeShape
}

type associatePolicyOut struct {
	ClusterName            string
	PrincipalArn           string
	AssociatedAccessPolicy *associatedPolicyShape
}

type associatedPolicyShape struct {
	PolicyArn    string
	AccessScope  scopeShape
	AssociatedAt time.Time
	ModifiedAt   time.Time
}

func (s *Service) associatedPolicy(name string, p policyRecord) associatedPolicyShape {
	scope := scopeShape{Type: "cluster", Namespaces: []string{}}
	if len(p.Namespaces) > 0 {
		scope = scopeShape{Type: "namespace", Namespaces: p.Namespaces}
	}
	return associatedPolicyShape{
		PolicyArn: s.accessPolicyARN(name), AccessScope: scope, AssociatedAt: time.UnixMilli(p.Associated), ModifiedAt: time.UnixMilli(p.Modified),
	}
}

func noSuchPolicy() *awsapi.Error {
	return awsapi.Errorf("ResourceNotFoundException", "The policyArn parameter format is not valid. You can view your available policies with 'list-access-policies'.")
}

func (s *Service) associatePolicyAccess(c *awsapi.Caller, in *associatePolicyIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.entryAccess(c, "eks:AssociateAccessPolicy", in.ClusterName, in.PrincipalArn, func(p *policy.Context) {
		p.Set("eks:policyArn", in.PolicyArn)
		p.Set("eks:accessScope", in.AccessScope.Type)
		if len(in.AccessScope.Namespaces) > 0 {
			p.SetList("eks:namespaces", in.AccessScope.Namespaces)
		}
	})}, nil
}

func (s *Service) associatePolicy(ctx context.Context, c *awsapi.Caller, in *associatePolicyIn) (*associatePolicyOut, error) {
	name, ok := s.accessPolicyName(in.PolicyArn)
	if !ok {
		return nil, noSuchPolicy()
	}
	if err := checkScope(in.AccessScope); err != nil {
		return nil, err
	}
	changed, err := s.changeEntry(ctx, c, in.ClusterName, in.PrincipalArn, func(r *entryRecord) error {
		now := s.now().UnixMilli()
		p := policyRecord{Namespaces: in.AccessScope.Namespaces, Associated: now, Modified: now}
		if have, ok := r.Policies[name]; ok {
			p.Associated = have.Associated
		}
		if r.Policies == nil {
			r.Policies = map[string]policyRecord{}
		}
		r.Policies[name] = p
		if len(r.Policies) > maxPolicies {
			return invalidRequest("An access entry has at most %d access policies.", maxPolicies)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	shape := s.associatedPolicy(name, changed.Policies[name])
	return &associatePolicyOut{ClusterName: in.ClusterName, PrincipalArn: in.PrincipalArn, AssociatedAccessPolicy: &shape}, nil
}

// checkScope refuses scopes that say nothing, or two things.
func checkScope(scope scopeShape) error {
	switch {
	case scope.Type == "cluster" && len(scope.Namespaces) > 0:
		return invalidParameter("The access scope cluster has no namespaces.")
	case scope.Type == "namespace" && len(scope.Namespaces) == 0:
		return invalidParameter("The access scope namespace needs namespaces.")
	case scope.Type != "cluster" && scope.Type != "namespace":
		return invalidParameter("The access scope must be cluster or namespace.")
	case len(scope.Namespaces) > maxScopes:
		return invalidParameter("An access scope has at most %d namespaces.", maxScopes)
	}
	for _, n := range scope.Namespaces {
		if !validName(n, maxNamespace, false) {
			return invalidParameter("The namespace %q is neither a Kubernetes namespace nor a pattern of such.", n)
		}
	}
	return nil
}

type disassociatePolicyIn struct{ ClusterName, PrincipalArn, PolicyArn string }

func (s *Service) disassociatePolicyAccess(c *awsapi.Caller, in *disassociatePolicyIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.entryAccess(c, "eks:DisassociateAccessPolicy", in.ClusterName, in.PrincipalArn, func(p *policy.Context) {
		p.Set("eks:policyArn", in.PolicyArn)
	})}, nil
}

func (s *Service) disassociatePolicy(ctx context.Context, c *awsapi.Caller, in *disassociatePolicyIn) (*emptyOut, error) {
	name, ok := s.accessPolicyName(in.PolicyArn)
	if !ok {
		return nil, noSuchPolicy()
	}
	_, err := s.changeEntry(ctx, c, in.ClusterName, in.PrincipalArn, func(r *entryRecord) error {
		if _, ok := r.Policies[name]; !ok {
			return awsapi.Errorf("ResourceNotFoundException", "No associated policy %s found.", in.PolicyArn)
		}
		delete(r.Policies, name)
		return nil
	})
	return &emptyOut{}, err
}

type listAssociatedIn struct {
	ClusterName, PrincipalArn, NextToken string
	MaxResults                           int32
}

type listAssociatedOut struct {
	ClusterName, PrincipalArn, NextToken string
	AssociatedAccessPolicies             []associatedPolicyShape
}

func (s *Service) listAssociatedAccess(c *awsapi.Caller, in *listAssociatedIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.entryAccess(c, "eks:ListAssociatedAccessPolicies", in.ClusterName, in.PrincipalArn, nil)}, nil
}

func (s *Service) listAssociated(ctx context.Context, c *awsapi.Caller, in *listAssociatedIn) (*listAssociatedOut, error) {
	_, r, err := s.findEntry(ctx, c, in.ClusterName, in.PrincipalArn)
	if err != nil {
		return nil, err
	}
	names, next, err := pageOf(slices.Sorted(maps.Keys(r.Policies)), in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &listAssociatedOut{ClusterName: in.ClusterName, PrincipalArn: in.PrincipalArn, NextToken: next, AssociatedAccessPolicies: []associatedPolicyShape{}}
	for _, name := range names {
		out.AssociatedAccessPolicies = append(out.AssociatedAccessPolicies, s.associatedPolicy(name, r.Policies[name]))
	}
	return out, nil
}

type listAccessPoliciesIn struct {
	MaxResults int32
	NextToken  string
}

type listAccessPoliciesOut struct {
	AccessPolicies []accessPolicyShape
	NextToken      string
}

type accessPolicyShape struct{ Name, Arn string }

func listAccessPoliciesAccess(*awsapi.Caller, *listAccessPoliciesIn) ([]awsapi.Access, error) {
	return []awsapi.Access{{Action: "eks:ListAccessPolicies", Resource: "*"}}, nil
}

func (s *Service) listAccessPolicies(_ context.Context, _ *awsapi.Caller, in *listAccessPoliciesIn) (*listAccessPoliciesOut, error) {
	names, next, err := pageOf(accessPolicies(), in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &listAccessPoliciesOut{AccessPolicies: []accessPolicyShape{}, NextToken: next}
	for _, name := range names {
		out.AccessPolicies = append(out.AccessPolicies, accessPolicyShape{Name: name, Arn: s.accessPolicyARN(name)})
	}
	return out, nil
}

// creatorEntry is the access entry that a cluster's creator gets: the administrator's (EKS User Guide, "Grant IAM users and roles access to
// Kubernetes APIs"). Sessions that are nobody's in IAM, as federated ones, get none.
func (s *Service) creatorEntry(c *awsapi.Caller) (principal string, r *entryRecord, ok bool) {
	id := c.EntityID
	if c.Kind == policy.Root {
		id = c.Account
	}
	if c.Kind == policy.Root || c.Kind == policy.User || c.Kind == policy.RoleSession {
		principal = s.iam.PrincipalARN(id)
	}
	if principal == "" {
		return "", nil, false
	}
	now := s.now().UnixMilli()
	return principal, &entryRecord{
		ID: awsapi.NewUUID(), Principal: id, Type: "STANDARD", Created: now,
		Policies: map[string]policyRecord{accesspolicy.ClusterAdmin: {Associated: now, Modified: now}},
	}, true
}
