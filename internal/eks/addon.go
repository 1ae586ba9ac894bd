package eks

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/subject"
)

// maxAddonAssociations bounds the associations that one add-on may have.
const maxAddonAssociations = 50

// addonRecord is an add-on of a cluster as it is stored. Its associations are those that name it as their owner.
type addonRecord struct {
	ID            string            `json:"id"` // the last part of its ARN
	Version       string            `json:"version"`
	Namespace     string            `json:"namespace"`
	Role          string            `json:"role,omitempty"` // ARN of the role of its service account, for IRSA
	Configuration string            `json:"configuration,omitempty"`
	Tags          map[string]string `json:"tags,omitempty"`
	Created       int64             `json:"created"`            // Unix milliseconds
	Modified      int64             `json:"modified,omitempty"` // Unix milliseconds; 0 for never
	Token         string            `json:"token,omitempty"`    // clientRequestToken that made it
}

// addonKey is an add-on's place in its table.
func addonKey(cluster, name string) string { return cluster + "/" + name }

// addonARN is that of an add-on of a cluster, which is given by its key.
func (s *Service) addonARN(cluster, name, id string) string {
	account, rest, _ := strings.Cut(cluster, "/")
	region, clusterName, _ := strings.Cut(rest, "/")
	return s.arnOf(region, account, "addon/"+clusterName+"/"+name+"/"+id)
}

// owned yields the associations of an add-on, by their keys.
func (s *Service) owned(cluster, owner string) map[string]*associationRecord {
	all := map[string]*associationRecord{}
	for key, r := range s.associations.Scan(cluster+"/", "") {
		if r.More != nil && r.More.Owner == owner {
			all[key] = r
		}
	}
	return all
}

type addonOut struct{ Addon *addonShape }

type addonShape struct {
	AddonName               string
	ClusterName             string
	Status                  string
	AddonVersion            string
	Health                  addonHealthShape
	AddonArn                string
	CreatedAt               time.Time
	ModifiedAt              time.Time
	ServiceAccountRoleArn   string
	Tags                    map[string]string
	Publisher               string
	Owner                   string
	ConfigurationValues     string
	PodIdentityAssociations []string
	NamespaceConfig         namespaceConfigShape
}

type addonHealthShape struct{ Issues []addonIssueShape }

type addonIssueShape struct {
	Code, Message string
	ResourceIds   []string
}

type namespaceConfigShape struct{ Namespace string }

// addonShape is an add-on as DescribeAddon prints it.
func (s *Service) addonShape(cluster, name string, k *addonKind, r *addonRecord) *addonShape {
	_, rest, _ := strings.Cut(cluster, "/")
	_, clusterName, _ := strings.Cut(rest, "/")
	shape := &addonShape{
		AddonName:               name,
		ClusterName:             clusterName,
		AddonVersion:            r.Version,
		AddonArn:                s.addonARN(cluster, name, r.ID),
		CreatedAt:               time.UnixMilli(r.Created),
		ModifiedAt:              time.UnixMilli(max(r.Created, r.Modified)),
		ServiceAccountRoleArn:   r.Role,
		Tags:                    tagMap(r.Tags),
		Publisher:               k.Publisher,
		Owner:                   k.Owner,
		ConfigurationValues:     r.Configuration,
		PodIdentityAssociations: []string{},
		NamespaceConfig:         namespaceConfigShape{Namespace: r.Namespace},
	}
	for key, a := range s.owned(cluster, shape.AddonArn) {
		shape.PodIdentityAssociations = append(shape.PodIdentityAssociations, s.association(key, a).ARN)
	}
	slices.Sort(shape.PodIdentityAssociations)
	shape.Status, shape.Health.Issues = s.addonHealth(cluster, name, r)
	return shape
}

type addonAssociationIn struct{ ServiceAccount, RoleArn string }

type createAddonIn struct {
	ClusterName             string
	AddonName               string
	AddonVersion            string
	ClientRequestToken      string
	ConfigurationValues     string
	NamespaceConfig         *namespaceConfigShape
	PodIdentityAssociations []addonAssociationIn
	ResolveConflicts        string // there is nothing in the cluster that could conflict
	ServiceAccountRoleArn   string
	Tags                    map[string]string
}

// passAddonRoles asks to pass what an add-on is given: the roles of associations to EKS Pod Identity, and the one for IRSA to nobody
// in particular, as the service account takes it by itself.
func (s *Service) passAddonRoles(c *awsapi.Caller, access []awsapi.Access, associations []addonAssociationIn, irsa string) ([]awsapi.Access, error) {
	for _, a := range associations {
		pass, err := s.passRole(c, a.RoleArn, podsService)
		if err != nil {
			return nil, err
		}
		access = append(access, pass)
	}
	if irsa != "" {
		pass, err := s.passRole(c, irsa, "eks.amazonaws.com")
		if err != nil {
			return nil, err
		}
		access = append(access, pass)
	}
	return access, nil
}

func (s *Service) createAddonAccess(c *awsapi.Caller, in *createAddonIn) ([]awsapi.Access, error) {
	access := []awsapi.Access{s.clusterAccess(c, "eks:CreateAddon", in.ClusterName, in.Tags)}
	if len(in.PodIdentityAssociations) > 0 {
		access = append(access, s.clusterAccess(c, "eks:CreatePodIdentityAssociation", in.ClusterName, nil))
	}
	return s.passAddonRoles(c, access, in.PodIdentityAssociations, in.ServiceAccountRoleArn)
}

func (s *Service) createAddon(ctx context.Context, c *awsapi.Caller, in *createAddonIn) (*addonOut, error) {
	cluster, err := s.liveCluster(ctx, c, in.ClusterName)
	if err != nil {
		return nil, err
	}
	k, err := s.kind(in.AddonName)
	if err != nil {
		return nil, err
	}
	made := &addonRecord{
		ID: awsapi.NewUUID(), Version: in.AddonVersion, Namespace: k.Namespace, Role: in.ServiceAccountRoleArn,
		Configuration: in.ConfigurationValues, Tags: tagsOfNew(c, in.Tags), Created: s.now().UnixMilli(), Token: in.ClientRequestToken,
	}
	if made.Version == "" {
		made.Version = k.Versions[0]
	}
	if in.NamespaceConfig != nil && in.NamespaceConfig.Namespace != "" {
		made.Namespace = in.NamespaceConfig.Namespace
	}
	if err := checkTags("InvalidParameterException", in.Tags); err != nil {
		return nil, err
	}
	if err := s.checkAddon(ctx, k, made); err != nil {
		return nil, err
	}
	roles, err := s.addonRoles(ctx, c, made.Namespace, in.PodIdentityAssociations)
	if err != nil {
		return nil, err
	}
	owner := s.addonARN(cluster, k.Name, made.ID)
	key := addonKey(cluster, k.Name)
	stored := made
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		if r, ok := s.clusters.Read(tx, cluster); !ok || r.Deleting {
			return noSuchCluster(in.ClusterName)
		}
		if have, ok := s.addons.Read(tx, key); ok {
			if in.ClientRequestToken != "" && have.Token == in.ClientRequestToken {
				stored = have
				return nil
			}
			e := awsapi.Errorf("ResourceInUseException", "Addon already exists.")
			e.Fields = map[string]any{"clusterName": in.ClusterName, "addonName": in.AddonName}
			return e
		}
		stored = made
		s.addons.Write(tx, key, made)
		return s.giveAssociations(tx, in.ClusterName, cluster, owner, made.Namespace, roles, nil)
	})
	if err != nil {
		return nil, err
	}
	return &addonOut{Addon: s.addonShape(cluster, k.Name, k, stored)}, nil
}

// liveCluster returns the key of a cluster that is there and is not being deleted.
func (s *Service) liveCluster(ctx context.Context, c *awsapi.Caller, name string) (string, error) {
	have, err := s.findCluster(ctx, c.Account, c.Region, name)
	if err != nil {
		return "", err
	}
	if have == nil || have.Deleting {
		return "", noSuchCluster(name)
	}
	return clusterKey(c.Account, c.Region, name), nil
}

// checkAddon refuses an add-on of a version, with a configuration or a role that it cannot have.
func (s *Service) checkAddon(ctx context.Context, k *addonKind, r *addonRecord) error {
	if !slices.Contains(k.Versions, r.Version) {
		return noSuchVersion()
	}
	if !validName(r.Namespace, maxNamespace, false) {
		return invalidParameter("The namespace %q is not the name of a Kubernetes namespace.", r.Namespace)
	}
	if r.Role != "" {
		role, err := s.parseRoleARN("serviceAccountRoleArn", r.Role)
		if err != nil {
			return err
		}
		if _, ok, err := s.findRole(ctx, role); err != nil {
			return err
		} else if !ok {
			return invalidParameter("Role provided in the request does not exist.")
		}
	}
	return k.checkConfiguration(r.Configuration)
}

// addonRoles checks the associations that an add-on is given, and returns the names of their roles by service account.
func (s *Service) addonRoles(ctx context.Context, c *awsapi.Caller, namespace string, in []addonAssociationIn) (map[string]string, error) {
	if len(in) > maxAddonAssociations {
		return nil, invalidParameter("An add-on has at most %d pod identity associations.", maxAddonAssociations)
	}
	roles := map[string]string{}
	for _, a := range in {
		who := subject.Subject{Namespace: namespace, ServiceAccount: a.ServiceAccount}
		if err := checkSubject(who); err != nil {
			return nil, err
		}
		if who.IsPattern() {
			return nil, invalidParameter("The service account %q of an add-on must be a name.", a.ServiceAccount)
		}
		if roles[a.ServiceAccount] != "" {
			return nil, invalidParameter("The service account %q has two associations.", a.ServiceAccount)
		}
		role, err := s.podRole(ctx, c, a.RoleArn)
		if err != nil {
			return nil, err
		}
		roles[a.ServiceAccount] = role
	}
	return roles, nil
}

// giveAssociations makes an add-on's associations those of roles: it adds, changes and removes. have is those that it owns. A
// service account that has one of somebody else's is a conflict.
func (s *Service) giveAssociations(
	tx *kv.Tx, clusterName, cluster, owner, namespace string, roles map[string]string, have map[string]*associationRecord,
) error {
	now := s.now().UnixMilli()
	for key := range have {
		if _, who := splitAssociationKey(key); roles[who.ServiceAccount] == "" || who.Namespace != namespace {
			s.associations.Remove(tx, key)
		}
	}
	for _, account := range slices.Sorted(maps.Keys(roles)) {
		key := associationKey(cluster, subject.Subject{Namespace: namespace, ServiceAccount: account})
		role := newRoleName(roles[account])
		r, ok := s.associations.Read(tx, key)
		switch {
		case !ok:
			if s.full(cluster) {
				return s.tooMany(clusterName)
			}
			r = &associationRecord{ID: newID(cluster, ""), Role: role, Created: now}
			s.associations.Write(tx, key, r.with(associationDetail{Owner: owner}))
		case r.detail().Owner != owner:
			e := awsapi.Errorf("ResourceInUseException", "Association already exists: %s", r.ID)
			e.Fields = map[string]any{"clusterName": clusterName}
			return e
		case r.Role != role:
			d := r.detail()
			d.Modified = now
			changed := r.with(d)
			changed.Role = role
			s.associations.Write(tx, key, changed)
		}
	}
	return nil
}

type addonIn struct{ ClusterName, AddonName string }

// addonAccess asks for an action on an add-on. One that does not exist has no ARN: then it is asked for any of that name.
func (s *Service) addonAccess(c *awsapi.Caller, action, cluster, name string) awsapi.Access {
	of := clusterKey(c.Account, c.Region, cluster)
	id, tags := "*", map[string]string(nil)
	if r, ok := s.addons.Get(addonKey(of, name)); ok {
		id, tags = r.ID, r.Tags
	}
	return awsapi.Access{Action: action, Resource: s.addonARN(of, name, id), Context: tagContext(tags, nil, nil)}
}

// findAddon finds an add-on of a cluster. A miss is confirmed.
func (s *Service) findAddon(ctx context.Context, c *awsapi.Caller, clusterName, name string) (cluster string, k *addonKind, r *addonRecord, err error) {
	if cluster, err = s.liveCluster(ctx, c, clusterName); err != nil {
		return "", nil, nil, err
	}
	r, ok := s.addons.Get(addonKey(cluster, name))
	if !ok {
		if err := s.db.Sync(ctx); err != nil {
			return "", nil, nil, fmt.Errorf("confirm that add-on %s does not exist: %w", name, err)
		}
		if r, ok = s.addons.Get(addonKey(cluster, name)); !ok {
			return "", nil, nil, noSuchAddon(clusterName, name)
		}
	}
	k, err = s.kind(name)
	return cluster, k, r, err
}

func noSuchAddon(cluster, name string) *awsapi.Error {
	e := awsapi.Errorf("ResourceNotFoundException", "No addon: %s found in cluster: %s", name, cluster)
	e.Fields = map[string]any{"clusterName": cluster, "addonName": name}
	return e
}

func (s *Service) describeAddonAccess(c *awsapi.Caller, in *addonIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.addonAccess(c, "eks:DescribeAddon", in.ClusterName, in.AddonName)}, nil
}

func (s *Service) describeAddon(ctx context.Context, c *awsapi.Caller, in *addonIn) (*addonOut, error) {
	cluster, k, r, err := s.findAddon(ctx, c, in.ClusterName, in.AddonName)
	if err != nil {
		return nil, err
	}
	return &addonOut{Addon: s.addonShape(cluster, in.AddonName, k, r)}, nil
}

type listAddonsIn struct {
	ClusterName string
	MaxResults  int32
	NextToken   string
}

type listAddonsOut struct {
	Addons    []string
	NextToken string
}

func (s *Service) listAddons(ctx context.Context, c *awsapi.Caller, in *listAddonsIn) (*listAddonsOut, error) {
	cluster, err := s.liveCluster(ctx, c, in.ClusterName)
	if err != nil {
		return nil, err
	}
	var names []string
	for key := range s.addons.Scan(cluster+"/", "") {
		names = append(names, strings.TrimPrefix(key, cluster+"/"))
	}
	page, next, err := pageOf(names, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	return &listAddonsOut{Addons: list(page), NextToken: next}, nil
}

type updateAddonIn struct {
	ClusterName             string
	AddonName               string
	AddonVersion            *string
	ClientRequestToken      string
	ConfigurationValues     *string
	PodIdentityAssociations []addonAssociationIn // nil leaves them, an empty one takes them away
	ResolveConflicts        string
	ServiceAccountRoleArn   *string
}

func (s *Service) updateAddonAccess(c *awsapi.Caller, in *updateAddonIn) ([]awsapi.Access, error) {
	access := []awsapi.Access{s.addonAccess(c, "eks:UpdateAddon", in.ClusterName, in.AddonName)}
	if in.PodIdentityAssociations != nil {
		access = append(access, s.giveAssociationsAccess(c, in)...)
	}
	irsa := ""
	if in.ServiceAccountRoleArn != nil {
		irsa = *in.ServiceAccountRoleArn
	}
	return s.passAddonRoles(c, access, in.PodIdentityAssociations, irsa)
}

// giveAssociationsAccess asks for what an update does to the add-on's associations, as if each were made, changed or deleted by itself.
func (s *Service) giveAssociationsAccess(c *awsapi.Caller, in *updateAddonIn) (access []awsapi.Access) {
	cluster := clusterKey(c.Account, c.Region, in.ClusterName)
	var have map[string]*associationRecord
	if r, ok := s.addons.Get(addonKey(cluster, in.AddonName)); ok {
		have = s.owned(cluster, s.addonARN(cluster, in.AddonName, r.ID))
	}
	roles := map[string]string{}
	for _, a := range in.PodIdentityAssociations {
		roles[a.ServiceAccount] = a.RoleArn
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		a := s.association(key, have[key])
		switch role, stays := roles[a.ServiceAccount]; {
		case !stays:
			access = append(access, s.associationAccess(c, "eks:DeletePodIdentityAssociation", in.ClusterName, a.ID))
		case role != a.RoleARN:
			access = append(access, s.associationAccess(c, "eks:UpdatePodIdentityAssociation", in.ClusterName, a.ID))
		}
		delete(roles, a.ServiceAccount)
	}
	if len(roles) > 0 {
		access = append(access, s.clusterAccess(c, "eks:CreatePodIdentityAssociation", in.ClusterName, nil))
	}
	return access
}

// updateAddon changes what the request has, and leaves the rest. It is done when it answers.
func (s *Service) updateAddon(ctx context.Context, c *awsapi.Caller, in *updateAddonIn) (*updateOut, error) {
	cluster, k, have, err := s.findAddon(ctx, c, in.ClusterName, in.AddonName)
	if err != nil {
		return nil, err
	}
	roles, err := s.addonRoles(ctx, c, have.Namespace, in.PodIdentityAssociations)
	if err != nil {
		return nil, err
	}
	id := awsapi.NewUUID()
	update := &updateRecord{Type: "AddonUpdate", Params: []updateParam{}, Addon: addonOwner(in.AddonName, have), Created: s.now().UnixMilli()}
	apply := func(r *addonRecord) {
		for _, change := range []struct {
			name  string
			value *string
			into  *string
		}{
			{"AddonVersion", in.AddonVersion, &r.Version},
			{"ServiceAccountRoleArn", in.ServiceAccountRoleArn, &r.Role},
			{"ConfigurationValues", in.ConfigurationValues, &r.Configuration},
		} {
			if change.value != nil {
				*change.into = *change.value
				update.Params = append(update.Params, updateParam{Type: change.name, Value: *change.value})
			}
		}
	}
	wanted := *have
	apply(&wanted)
	if err := s.checkAddon(ctx, k, &wanted); err != nil {
		return nil, err
	}
	if in.ResolveConflicts != "" {
		update.Params = append(update.Params, updateParam{Type: "ResolveConflicts", Value: in.ResolveConflicts})
	}
	if in.PodIdentityAssociations != nil {
		accounts := slices.Sorted(maps.Keys(roles))
		update.Params = append(update.Params, updateParam{Type: "PodIdentityAssociations", Value: "[" + strings.Join(accounts, ", ") + "]"})
	}
	key := addonKey(cluster, in.AddonName)
	params := update.Params
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.addons.Read(tx, key)
		if !ok || r.ID != have.ID {
			return noSuchAddon(in.ClusterName, in.AddonName)
		}
		changed := *r
		apply(&changed)
		update.Params = params // which apply would tell again
		changed.Modified = s.now().UnixMilli()
		s.addons.Write(tx, key, &changed)
		s.keepUpdate(tx, cluster, id, update)
		if in.PodIdentityAssociations == nil {
			return nil
		}
		owner := s.addonARN(cluster, in.AddonName, r.ID)
		return s.giveAssociations(tx, in.ClusterName, cluster, owner, r.Namespace, roles, s.owned(cluster, owner))
	})
	if err != nil {
		return nil, err
	}
	return update.out(id), nil
}

type deleteAddonIn struct {
	ClusterName, AddonName string
	Preserve               bool
}

func (s *Service) deleteAddonAccess(c *awsapi.Caller, in *deleteAddonIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.addonAccess(c, "eks:DeleteAddon", in.ClusterName, in.AddonName)}, nil
}

// deleteAddon deletes an add-on and its associations; those of one whose software is preserved stay, and are nobody's.
func (s *Service) deleteAddon(ctx context.Context, c *awsapi.Caller, in *deleteAddonIn) (*addonOut, error) {
	cluster, k, have, err := s.findAddon(ctx, c, in.ClusterName, in.AddonName)
	if err != nil {
		return nil, err
	}
	last := s.addonShape(cluster, in.AddonName, k, have)
	last.Status = "DELETING"
	key := addonKey(cluster, in.AddonName)
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.addons.Read(tx, key)
		if !ok || r.ID != have.ID {
			return noSuchAddon(in.ClusterName, in.AddonName)
		}
		s.addons.Remove(tx, key)
		for key, a := range s.owned(cluster, s.addonARN(cluster, in.AddonName, r.ID)) {
			if !in.Preserve {
				s.associations.Remove(tx, key)
				continue
			}
			d := a.detail()
			d.Owner = ""
			s.associations.Write(tx, key, a.with(d))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &addonOut{Addon: last}, nil
}
