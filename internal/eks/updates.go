package eks

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// maxUpdates is how many updates of a cluster and its add-ons are kept: the latest.
const maxUpdates = 100

// updateRecord is an update of a cluster or of one of its add-ons as it is stored. All are done when they are stored: what could not
// be done was refused.
type updateRecord struct {
	Type    string        `json:"type"`
	Params  []updateParam `json:"params"`
	Addon   string        `json:"addon,omitempty"` // NAME/ID of the add-on; empty for the cluster's own
	Created int64         `json:"created"`         // Unix milliseconds
}

type updateParam struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

type updateOut struct{ Update *updateShape }

type updateShape struct {
	Id        string
	Status    string
	Type      string
	Params    []updateParam
	CreatedAt time.Time
	Errors    []updateErrorShape
}

type updateErrorShape struct{ ErrorCode, ErrorMessage string }

func (r *updateRecord) out(id string) *updateOut {
	return &updateOut{Update: &updateShape{
		Id: id, Status: "Successful", Type: r.Type, Params: r.Params, CreatedAt: time.UnixMilli(r.Created), Errors: []updateErrorShape{},
	}}
}

// addonOwner is what an update says of the add-on it is for: one that was deleted and made again has none of the updates.
func addonOwner(name string, r *addonRecord) string { return name + "/" + r.ID }

// keepUpdate stores an update of a cluster, and drops the oldest that are too many.
func (s *Service) keepUpdate(tx *kv.Tx, cluster, id string, r *updateRecord) {
	type aged struct {
		key     string
		created int64
	}
	var have []aged
	for key, old := range s.updates.Scan(cluster+"/", "") {
		have = append(have, aged{key, old.Created})
	}
	slices.SortFunc(have, func(a, b aged) int { return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.key, b.key)) })
	for _, old := range have[:max(0, len(have)-maxUpdates+1)] {
		s.updates.Remove(tx, old.key)
	}
	s.updates.Write(tx, cluster+"/"+id, r)
}

// updateOf is what DescribeUpdate and ListUpdates name: a cluster, and what of it the updates are for.
type updateOf struct{ Name, AddonName, NodegroupName, CapabilityName string }

// updateAccess asks for an action on the cluster, and on the add-on if one is named.
func (s *Service) updateAccess(c *awsapi.Caller, action string, of updateOf) []awsapi.Access {
	access := []awsapi.Access{s.clusterAccess(c, action, of.Name, nil)}
	if of.AddonName != "" {
		access = append(access, s.addonAccess(c, action, of.Name, of.AddonName))
	}
	return access
}

// updatesOf finds the cluster, and whose updates are asked for, as updateRecord.Addon has it.
func (s *Service) updatesOf(ctx context.Context, c *awsapi.Caller, of updateOf) (cluster, owner string, err error) {
	if of.AddonName != "" {
		cluster, _, r, err := s.findAddon(ctx, c, of.Name, of.AddonName)
		if err != nil {
			return "", "", err
		}
		return cluster, addonOwner(of.AddonName, r), nil
	}
	if cluster, err = s.liveCluster(ctx, c, of.Name); err != nil {
		return "", "", err
	}
	if of.NodegroupName != "" {
		e := awsapi.Errorf("ResourceNotFoundException", "No node group found for name: %s.", of.NodegroupName)
		e.Fields = map[string]any{"clusterName": of.Name, "nodegroupName": of.NodegroupName}
		return "", "", e
	}
	if of.CapabilityName != "" {
		e := awsapi.Errorf("ResourceNotFoundException", "No capability found for name: %s.", of.CapabilityName)
		e.Fields = map[string]any{"clusterName": of.Name}
		return "", "", e
	}
	return cluster, "", nil
}

type describeUpdateIn struct{ Name, UpdateId, AddonName, NodegroupName, CapabilityName string }

func (in *describeUpdateIn) of() updateOf {
	return updateOf{in.Name, in.AddonName, in.NodegroupName, in.CapabilityName}
}

func (s *Service) describeUpdateAccess(c *awsapi.Caller, in *describeUpdateIn) ([]awsapi.Access, error) {
	return s.updateAccess(c, "eks:DescribeUpdate", in.of()), nil
}

// describeUpdate finds an update by its ID. Those of an add-on are found with its name alone (Amazon EKS API Reference,
// DescribeUpdate). A miss is confirmed.
func (s *Service) describeUpdate(ctx context.Context, c *awsapi.Caller, in *describeUpdateIn) (*updateOut, error) {
	cluster, owner, err := s.updatesOf(ctx, c, in.of())
	if err != nil {
		return nil, err
	}
	key := cluster + "/" + in.UpdateId
	r, ok := s.updates.Get(key)
	if !ok {
		if err := s.db.Sync(ctx); err != nil {
			return nil, fmt.Errorf("confirm that update %s does not exist: %w", in.UpdateId, err)
		}
		r, ok = s.updates.Get(key)
	}
	if !ok || r.Addon != owner {
		e := awsapi.Errorf("ResourceNotFoundException", "No update found for ID: %s", in.UpdateId)
		e.Fields = map[string]any{"clusterName": in.Name}
		if in.AddonName != "" {
			e.Fields["addonName"] = in.AddonName
		}
		return nil, e
	}
	return r.out(in.UpdateId), nil
}

type listUpdatesIn struct {
	Name, AddonName, NodegroupName, CapabilityName string
	MaxResults                                     int32
	NextToken                                      string
}

func (in *listUpdatesIn) of() updateOf {
	return updateOf{in.Name, in.AddonName, in.NodegroupName, in.CapabilityName}
}

type listUpdatesOut struct {
	UpdateIds []string
	NextToken string
}

func (s *Service) listUpdatesAccess(c *awsapi.Caller, in *listUpdatesIn) ([]awsapi.Access, error) {
	return s.updateAccess(c, "eks:ListUpdates", in.of()), nil
}

// listUpdates lists the updates of a cluster, without those of its add-ons, or of one add-on, by their IDs.
func (s *Service) listUpdates(ctx context.Context, c *awsapi.Caller, in *listUpdatesIn) (*listUpdatesOut, error) {
	cluster, owner, err := s.updatesOf(ctx, c, in.of())
	if err != nil {
		return nil, err
	}
	var ids []string
	for key, r := range s.updates.Scan(cluster+"/", "") {
		if r.Addon == owner {
			ids = append(ids, strings.TrimPrefix(key, cluster+"/"))
		}
	}
	page, next, err := pageOf(ids, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	return &listUpdatesOut{UpdateIds: list(page), NextToken: next}, nil
}

// updateClusterIn has the members of UpdateClusterConfig for which a cluster keeps settings.
type updateClusterIn struct {
	Name               string
	ClientRequestToken string
	ResourcesVpcConfig *vpcConfigIn
	Logging            *loggingShape
	AccessConfig       *updateAccessConfigIn
	UpgradePolicy      *upgradePolicyShape
}

type updateAccessConfigIn struct{ AuthenticationMode string }

// updateCluster changes settings of a cluster that CreateCluster made. As at AWS a request is of one type. It is done when it answers.
func (s *Service) updateCluster(ctx context.Context, c *awsapi.Caller, in *updateClusterIn) (*updateOut, error) {
	cluster, err := s.liveCluster(ctx, c, in.Name)
	if err != nil {
		return nil, err
	}
	id := awsapi.NewUUID()
	var update *updateRecord
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.clusters.Read(tx, cluster)
		if !ok || r.Deleting {
			return noSuchCluster(in.Name)
		}
		if r.Settings == nil {
			return invalidRequest("The cluster %s was registered: its configuration is not Lanyard's to change.", in.Name)
		}
		changed := *r
		settings := *r.Settings
		changed.Settings = &settings
		update = &updateRecord{Created: s.now().UnixMilli()}
		if err := in.apply(&settings, update); err != nil {
			return err
		}
		s.clusters.Write(tx, cluster, &changed)
		s.keepUpdate(tx, cluster, id, update)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return update.out(id), nil
}

// apply changes the settings, and says in the update what it does to them.
func (in *updateClusterIn) apply(settings *clusterSettings, update *updateRecord) error {
	type change struct {
		kind  string
		apply func(*clusterSettings, *updateRecord) error
	}
	var changes []change
	if v := in.ResourcesVpcConfig; v != nil {
		if v.EndpointPublicAccess != nil || v.EndpointPrivateAccess != nil || v.PublicAccessCidrs != nil {
			changes = append(changes, change{"EndpointAccessUpdate", v.applyEndpoint})
		}
		if v.SubnetIds != nil || v.SecurityGroupIds != nil {
			changes = append(changes, change{"VpcConfigUpdate", v.applyNetwork})
		}
	}
	if in.Logging != nil {
		changes = append(changes, change{"LoggingUpdate", in.Logging.apply})
	}
	if in.AccessConfig != nil && in.AccessConfig.AuthenticationMode != "" {
		changes = append(changes, change{"AccessConfigUpdate", in.AccessConfig.apply})
	}
	if in.UpgradePolicy != nil && in.UpgradePolicy.SupportType != "" {
		changes = append(changes, change{"UpgradePolicyUpdate", in.UpgradePolicy.apply})
	}
	switch len(changes) {
	case 0:
		return invalidParameter("The request names nothing to update.")
	case 1:
		update.Type = changes[0].kind
		return changes[0].apply(settings, update)
	}
	return invalidParameter("Only one type of update can be allowed.")
}

// param says what the update does. A value that is no text is in JSON.
func (r *updateRecord) param(kind string, value any) error {
	text, ok := value.(string)
	if !ok {
		encoded, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("describe the update: %w", err)
		}
		text = string(encoded)
	}
	r.Params = append(r.Params, updateParam{kind, text})
	return nil
}

func (v *vpcConfigIn) applyEndpoint(settings *clusterSettings, update *updateRecord) error {
	have := settings.VPC
	vpc := &settings.VPC
	if v.EndpointPublicAccess != nil {
		vpc.EndpointPublicAccess = *v.EndpointPublicAccess
	}
	if v.EndpointPrivateAccess != nil {
		vpc.EndpointPrivateAccess = *v.EndpointPrivateAccess
	}
	if v.PublicAccessCidrs != nil {
		vpc.PublicAccessCidrs = v.PublicAccessCidrs
	}
	if !vpc.EndpointPublicAccess && !vpc.EndpointPrivateAccess {
		return invalidParameter("Private and public endpoint access cannot be false")
	}
	if vpc.EndpointPublicAccess && len(vpc.PublicAccessCidrs) == 0 {
		vpc.PublicAccessCidrs = []string{"0.0.0.0/0"}
	}
	if have.EndpointPublicAccess == vpc.EndpointPublicAccess && have.EndpointPrivateAccess == vpc.EndpointPrivateAccess &&
		slices.Equal(have.PublicAccessCidrs, vpc.PublicAccessCidrs) {
		return invalidParameter("Cluster is already at the desired configuration with endpointPrivateAccess: %t , endpointPublicAccess: %t, "+
			"and Public Endpoint Restrictions: [%s]", vpc.EndpointPrivateAccess, vpc.EndpointPublicAccess, strings.Join(vpc.PublicAccessCidrs, ", "))
	}
	update.Params = []updateParam{
		{"EndpointPublicAccess", strconv.FormatBool(vpc.EndpointPublicAccess)}, {"EndpointPrivateAccess", strconv.FormatBool(vpc.EndpointPrivateAccess)},
	}
	return update.param("PublicAccessCidrs", list(vpc.PublicAccessCidrs))
}

func (v *vpcConfigIn) applyNetwork(settings *clusterSettings, update *updateRecord) error {
	have := settings.VPC
	vpc := &settings.VPC
	if v.SubnetIds != nil {
		vpc.SubnetIds = v.SubnetIds
	}
	if v.SecurityGroupIds != nil {
		vpc.SecurityGroupIds = v.SecurityGroupIds
	}
	if slices.Equal(have.SubnetIds, vpc.SubnetIds) && slices.Equal(have.SecurityGroupIds, vpc.SecurityGroupIds) {
		return invalidParameter("No changes needed for the VPC config provided")
	}
	if err := update.param("Subnets", list(vpc.SubnetIds)); err != nil {
		return err
	}
	return update.param("SecurityGroups", list(vpc.SecurityGroupIds))
}

// kinds says which kinds of logs are enabled, of those that are named.
func (l *loggingShape) kinds() map[string]bool {
	enabled := map[string]bool{}
	if l == nil {
		return enabled
	}
	for _, setup := range l.ClusterLogging {
		for _, kind := range setup.Types {
			enabled[kind] = setup.Enabled
		}
	}
	return enabled
}

// apply changes the kinds of logs that the request names, and leaves the others.
func (l *loggingShape) apply(settings *clusterSettings, update *updateRecord) error {
	enabled, wanted := settings.Logging.kinds(), l.kinds()
	changed := false
	for kind, on := range wanted {
		changed = changed || enabled[kind] != on
		enabled[kind] = on
	}
	if !changed {
		return invalidParameter("No changes needed for the logging config provided")
	}
	on, off := logSetupShape{Types: []string{}, Enabled: true}, logSetupShape{Types: []string{}}
	for _, kind := range []string{"api", "audit", "authenticator", "controllerManager", "scheduler"} {
		if enabled[kind] {
			on.Types = append(on.Types, kind)
		} else {
			off.Types = append(off.Types, kind)
		}
	}
	settings.Logging = &loggingShape{}
	for _, setup := range []logSetupShape{on, off} {
		if len(setup.Types) > 0 {
			settings.Logging.ClusterLogging = append(settings.Logging.ClusterLogging, setup)
		}
	}
	type setup struct {
		Types   []string `json:"types"`
		Enabled bool     `json:"enabled"`
	}
	asked := struct {
		ClusterLogging []setup `json:"clusterLogging"`
	}{}
	for _, s := range l.ClusterLogging {
		asked.ClusterLogging = append(asked.ClusterLogging, setup(s))
	}
	return update.param("ClusterLogging", asked)
}

// apply changes the mode in the one direction that there is.
func (a *updateAccessConfigIn) apply(settings *clusterSettings, update *updateRecord) error {
	modes := []string{modeConfigMap, modeBoth, modeAPI}
	have := accessConfigShape{}
	if settings.Access != nil {
		have = *settings.Access
	}
	from, to := slices.Index(modes, cmp.Or(have.AuthenticationMode, modes[0])), slices.Index(modes, a.AuthenticationMode)
	if to <= from {
		return invalidParameter("Unsupported authentication mode update from %s to %s", modes[from], a.AuthenticationMode)
	}
	have.AuthenticationMode = a.AuthenticationMode
	settings.Access = &have
	return update.param("AuthenticationMode", a.AuthenticationMode)
}

func (p *upgradePolicyShape) apply(settings *clusterSettings, update *updateRecord) error {
	if settings.Upgrade != nil && *settings.Upgrade == *p {
		return invalidParameter("No changes needed for the upgrade policy provided")
	}
	wanted := *p
	settings.Upgrade = &wanted
	return update.param("UpgradePolicy", struct {
		SupportType string `json:"supportType"`
	}{p.SupportType})
}
