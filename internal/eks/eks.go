// Package eks keeps clusters, pod identity associations and add-ons: the parts of the Amazon EKS API that say which pods get which
// role. A cluster here is a name, tags and an issuer of service account tokens; there is no control plane behind it.
package eks

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/oidc"
	"github.com/lanyard-id/lanyard/policy"
)

// defaultMaxAssociations is EKS's quota of associations per cluster (EKS User Guide, "Learn how EKS Pod Identity grants
// pods access to AWS services").
const defaultMaxAssociations = 5000

// maxTags is EKS's quota of tags per resource.
const maxTags = 50

// Config is what the service needs.
type Config struct {
	DB        *kv.DB          // required, not yet started
	IAM       *iam.Service    // required
	Issuers   *oidc.Publisher // required; hosts the issuers of clusters that have none of their own
	KeyCache  *idtoken.Cache  // required; for clusters whose issuer serves its own keys
	Partition string
	// MaxAssociations is the quota of associations per cluster; 5,000 when zero. It is counted in memory: creates that
	// run at the same time, or on several replicas, may exceed it by as many as there are of them.
	MaxAssociations int
	Now             func() time.Time // time.Now when nil
	Log             *slog.Logger     // required
}

// Service is EKS.
type Service struct {
	db              *kv.DB
	iam             *iam.Service
	issuers         *oidc.Publisher
	keyCache        *idtoken.Cache
	partition       string
	maxAssociations int
	now             func() time.Time
	log             *slog.Logger

	clusters     *kv.Table[clusterRecord]     // by ACCOUNT/REGION/NAME
	byIssuer     *kv.Index[clusterRecord]     // by the issuer's URL, of all accounts
	claims       *kv.Table[issuerClaim]       // by ACCOUNT/ISSUER-URL: the one cluster of the account that has it
	associations *kv.Table[associationRecord] // by ACCOUNT/REGION/CLUSTER/NAMESPACE/SERVICE-ACCOUNT
	byID         *kv.Index[associationRecord] // by the head of the ID, see idHead
	patterns     *kv.Index[associationRecord] // by ACCOUNT/REGION/CLUSTER: only the associations that are patterns
	addons       *kv.Table[addonRecord]       // by ACCOUNT/REGION/CLUSTER/NAME
	heard        *kv.Table[agentRecord]       // by ACCOUNT/REGION/CLUSTER/NODE
	entries      *kv.Table[entryRecord]       // by ACCOUNT/REGION/CLUSTER/PRINCIPAL-ID
	updates      *kv.Table[updateRecord]      // by ACCOUNT/REGION/CLUSTER/ID
	seen         agents

	catalogue func() (catalogue, error)
}

// New makes the service and its tables.
func New(c Config) *Service {
	s := &Service{
		db:              c.DB,
		iam:             c.IAM,
		issuers:         c.Issuers,
		keyCache:        c.KeyCache,
		partition:       c.Partition,
		maxAssociations: c.MaxAssociations,
		now:             c.Now,
		log:             c.Log,
		clusters:        kv.NewTable[clusterRecord](c.DB, "eks-clusters"),
		claims:          kv.NewTable[issuerClaim](c.DB, "eks-issuers"),
		associations:    kv.NewTable[associationRecord](c.DB, "eks-associations"),
		addons:          kv.NewTable[addonRecord](c.DB, "eks-addons"),
		heard:           kv.NewTable[agentRecord](c.DB, "eks-agents"),
		entries:         kv.NewTable[entryRecord](c.DB, "eks-access-entries"),
		updates:         kv.NewTable[updateRecord](c.DB, "eks-updates"),
		catalogue:       sync.OnceValues(readCatalogue),
	}
	if s.maxAssociations == 0 {
		s.maxAssociations = defaultMaxAssociations
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.byIssuer = kv.NewIndex(s.clusters, func(_ string, r *clusterRecord) []string { return []string{s.issuerURL(r)} })
	s.byID = kv.NewIndex(s.associations, func(_ string, a *associationRecord) []string { return []string{idHead(a.ID)} })
	s.patterns = kv.NewIndex(s.associations, func(key string, _ *associationRecord) []string {
		cluster, who := splitAssociationKey(key)
		if !who.IsPattern() {
			return nil
		}
		return []string{cluster}
	})
	return s
}

// API returns the operations of the EKS API.
func (s *Service) API() awsapi.Service {
	return awsapi.Service{Model: awsapi.ModelNamed("eks"), Operations: []awsapi.Operation{
		awsapi.Op("CreateCluster", s.createCluster, s.createClusterAccess),
		awsapi.Op("DescribeCluster", s.describeCluster, onCluster(s, "eks:DescribeCluster", func(in *clusterIn) string { return in.Name })),
		awsapi.Op("ListClusters", s.listClusters, s.listClustersAccess),
		awsapi.Op("DeleteCluster", s.deleteCluster, onCluster(s, "eks:DeleteCluster", func(in *clusterIn) string { return in.Name })),
		awsapi.Op("UpdateClusterConfig", s.updateCluster, onCluster(s, "eks:UpdateClusterConfig", func(in *updateClusterIn) string { return in.Name })),
		awsapi.Op("DescribeUpdate", s.describeUpdate, s.describeUpdateAccess),
		awsapi.Op("ListUpdates", s.listUpdates, s.listUpdatesAccess),
		awsapi.Op("DescribeClusterVersions", s.describeClusterVersions, describeClusterVersionsAccess),

		awsapi.Op("CreatePodIdentityAssociation", s.createAssociation, s.createAssociationAccess),
		awsapi.Op("DescribePodIdentityAssociation", s.describeAssociation, s.describeAssociationAccess),
		awsapi.Op("ListPodIdentityAssociations", s.listAssociations,
			onCluster(s, "eks:ListPodIdentityAssociations", func(in *listAssociationsIn) string { return in.ClusterName })),
		awsapi.Op("UpdatePodIdentityAssociation", s.updateAssociation, s.updateAssociationAccess),
		awsapi.Op("DeletePodIdentityAssociation", s.deleteAssociation, s.deleteAssociationAccess),

		awsapi.Op("DescribeAddonVersions", s.describeAddonVersions, describeAddonVersionsAccess),
		awsapi.Op("DescribeAddonConfiguration", s.describeAddonConfiguration, describeAddonConfigurationAccess),
		awsapi.Op("CreateAddon", s.createAddon, s.createAddonAccess),
		awsapi.Op("DescribeAddon", s.describeAddon, s.describeAddonAccess),
		awsapi.Op("ListAddons", s.listAddons, onCluster(s, "eks:ListAddons", func(in *listAddonsIn) string { return in.ClusterName })),
		awsapi.Op("UpdateAddon", s.updateAddon, s.updateAddonAccess),
		awsapi.Op("DeleteAddon", s.deleteAddon, s.deleteAddonAccess),

		awsapi.Op("CreateAccessEntry", s.createEntry, s.createEntryAccess),
		awsapi.Op("DescribeAccessEntry", s.describeEntry, s.describeEntryAccess),
		awsapi.Op("ListAccessEntries", s.listEntries, onCluster(s, "eks:ListAccessEntries", func(in *listEntriesIn) string { return in.ClusterName })),
		awsapi.Op("UpdateAccessEntry", s.updateEntry, s.updateEntryAccess),
		awsapi.Op("DeleteAccessEntry", s.deleteEntry, s.deleteEntryAccess),
		awsapi.Op("AssociateAccessPolicy", s.associatePolicy, s.associatePolicyAccess),
		awsapi.Op("DisassociateAccessPolicy", s.disassociatePolicy, s.disassociatePolicyAccess),
		awsapi.Op("ListAssociatedAccessPolicies", s.listAssociated, s.listAssociatedAccess),
		awsapi.Op("ListAccessPolicies", s.listAccessPolicies, listAccessPoliciesAccess),

		awsapi.Op("TagResource", s.tagResource, s.tagResourceAccess),
		awsapi.Op("UntagResource", s.untagResource, s.untagResourceAccess),
		awsapi.Op("ListTagsForResource", s.listTagsForResource, s.listTagsForResourceAccess),
	}}
}

// clusterKey is a cluster's place in its table. None of the parts can contain a slash.
func clusterKey(account, region, name string) string { return account + "/" + region + "/" + name }

// clusterARN returns the ARN of the caller's cluster of that name, whether it exists or not.
func (s *Service) clusterARN(c *awsapi.Caller, name string) string {
	return s.arnOf(c.Region, c.Account, "cluster/"+name)
}

func (s *Service) arnOf(region, account, resource string) string {
	return "arn:" + s.partition + ":eks:" + region + ":" + account + ":" + resource
}

// onCluster is the access of operations on one cluster.
func onCluster[In any](s *Service, action string, name func(*In) string) func(*awsapi.Caller, *In) ([]awsapi.Access, error) {
	return func(c *awsapi.Caller, in *In) ([]awsapi.Access, error) {
		return []awsapi.Access{s.clusterAccess(c, action, name(in), nil)}, nil
	}
}

// clusterAccess asks for an action on a cluster, which need not exist: whether it does is for those who may know.
func (s *Service) clusterAccess(c *awsapi.Caller, action, name string, requestTags map[string]string) awsapi.Access {
	var tags map[string]string
	if r, ok := s.clusters.Get(clusterKey(c.Account, c.Region, name)); ok {
		tags = r.Tags
	}
	context := tagContext(tags, requestTags, slices.Sorted(maps.Keys(requestTags)))
	return awsapi.Access{Action: action, Resource: s.clusterARN(c, name), Context: context}
}

// tagContext sets the condition keys for the tags of a resource, and for the tags and tag keys of a request (Service
// Authorization Reference, "Actions, resources, and condition keys for Amazon Elastic Kubernetes Service").
func tagContext(resource, request map[string]string, keys []string) func(*policy.Context) {
	if len(resource) == 0 && len(keys) == 0 {
		return nil
	}
	return func(c *policy.Context) {
		for k, v := range resource {
			c.Set("aws:ResourceTag/"+k, v)
		}
		for k, v := range request {
			c.Set("aws:RequestTag/"+k, v)
		}
		if len(keys) > 0 {
			c.SetList("aws:TagKeys", keys)
		}
	}
}

// passRole asks for iam:PassRole on a role that the caller hands to a service principal. A role of another account
// cannot be passed at all.
func (s *Service) passRole(c *awsapi.Caller, roleARN, service string) (awsapi.Access, error) {
	role, err := s.parseRoleARN("roleArn", roleARN)
	if err != nil {
		return awsapi.Access{}, err
	}
	if role.Account() != c.Account {
		return awsapi.Access{}, &awsapi.Error{Code: "AccessDeniedException", Message: "Cross-account pass role is not allowed.", Status: 403}
	}
	return awsapi.Access{
		Action:   "iam:PassRole",
		Resource: roleARN,
		Context:  func(p *policy.Context) { p.Set("iam:PassedToService", service) },
	}, nil
}

// parseRoleARN reads the ARN of a role, of any account, in the service's partition.
func (s *Service) parseRoleARN(member, text string) (arn.ARN, error) {
	a, err := arn.Parse(text)
	if err != nil || a.Service() != "iam" || a.Region() != "" || !arn.ValidAccountID(a.Account()) || roleResource(a) == "" {
		return arn.ARN{}, invalidParameter("The %s %q is not the ARN of an IAM role.", member, text)
	}
	if a.Partition() != s.partition {
		return arn.ARN{}, invalidParameter("The %s %q is not of the partition %s.", member, text, s.partition)
	}
	return a, nil
}

// findRole finds a role by its ARN. A miss is confirmed: the role may have been made on another replica a moment ago,
// as tools do that make a role and at once an association.
func (s *Service) findRole(ctx context.Context, a arn.ARN) (*iam.Role, bool, error) {
	if r, ok := s.iam.Role(a); ok {
		return r, true, nil
	}
	if err := s.db.Sync(ctx); err != nil {
		return nil, false, fmt.Errorf("confirm that role %s does not exist: %w", a, err)
	}
	r, ok := s.iam.Role(a)
	return r, ok, nil
}

func invalidParameter(format string, args ...any) *awsapi.Error {
	return awsapi.Errorf("InvalidParameterException", format, args...)
}

func invalidRequest(format string, args ...any) *awsapi.Error {
	return awsapi.Errorf("InvalidRequestException", format, args...)
}

func noSuchCluster(name string) *awsapi.Error {
	e := awsapi.Errorf("ResourceNotFoundException", "No cluster found for name: %s.", name)
	e.Fields = map[string]any{"clusterName": name}
	return e
}
