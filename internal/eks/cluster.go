package eks

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// clusterRecord is a cluster as it is stored.
type clusterRecord struct {
	HostedID string            `json:"hosted,omitempty"`   // the issuer that Lanyard hosts; else
	Issuer   string            `json:"issuer,omitempty"`   // the URL of the cluster's own
	Keys     *keySet           `json:"jwks,omitempty"`     // registered keys of its own issuer
	Endpoint string            `json:"endpoint,omitempty"` // URL of its API server; empty for one that nobody serves
	CA       string            `json:"ca"`                 // PEM
	Created  int64             `json:"created"`            // Unix milliseconds
	Tags     map[string]string `json:"tags,omitempty"`
	// Deleting marks a cluster whose deletion has begun: it authenticates nobody, and what is left of it is its
	// associations. A repeated DeleteCluster finishes.
	Deleting bool `json:"deleting,omitempty"`
	// Request is the hash of the CreateCluster request that made the cluster, for repeating it; empty without a token.
	Request  string           `json:"request,omitempty"`
	Settings *clusterSettings `json:"settings,omitempty"` // nil for registered clusters
}

// clusterSettings are the members of CreateCluster that have no effect here but that DescribeCluster gives back.
type clusterSettings struct {
	RoleARN string                 `json:"roleArn"`
	Version string                 `json:"version"`
	VPC     vpcConfigShape         `json:"vpc"`
	Network *kubernetesNetworkConf `json:"network,omitempty"`
	Logging *loggingShape          `json:"logging,omitempty"`
	Access  *accessConfigShape     `json:"access,omitempty"`
	Upgrade *upgradePolicyShape    `json:"upgrade,omitempty"`
}

// The authentication modes of a cluster, in the order in which it can change from one to another (EKS User Guide, "Change authentication mode
// to use access entries").
const (
	modeConfigMap = "CONFIG_MAP"
	modeBoth      = "API_AND_CONFIG_MAP"
	modeAPI       = "API"
)

// authenticationMode is where the cluster's Kubernetes takes from who somebody is. Of a registered cluster it is the access entries: no
// aws-auth ConfigMap is read.
func (r *clusterRecord) authenticationMode() string {
	switch {
	case r.Settings == nil:
		return modeAPI
	case r.Settings.Access == nil:
		return modeConfigMap
	}
	return cmp.Or(r.Settings.Access.AuthenticationMode, modeConfigMap)
}

// bootstraps reports whether the cluster's creator becomes its administrator: unless the request says otherwise.
func (r *clusterRecord) bootstraps() bool {
	if r.Settings == nil || r.Settings.Access == nil || r.Settings.Access.BootstrapClusterCreatorAdminPermissions == nil {
		return true
	}
	return *r.Settings.Access.BootstrapClusterCreatorAdminPermissions
}

// issuerClaim gives an issuer's URL to one cluster of an account.
type issuerClaim struct {
	Region  string `json:"region"`
	Cluster string `json:"cluster"`
}

// keySet is a JWK set as it was registered. It is parsed when it is decoded, once for all the tokens that it verifies.
// It is a KeySource.
type keySet struct {
	document []byte
	keys     idtoken.Static
	err      error // of a stored document that does not parse: then nothing verifies
}

func newKeySet(document []byte) (*keySet, error) {
	set, err := idtoken.ParseJWKS(document)
	if err != nil {
		return nil, err
	}
	return &keySet{document: document, keys: idtoken.Static{Set: set}}, nil
}

// Keys implements idtoken.KeySource.
func (k *keySet) Keys(ctx context.Context, keyID string) ([]jose.JSONWebKey, error) {
	if k.err != nil {
		return nil, fmt.Errorf("%w: %w", idtoken.ErrKeys, k.err)
	}
	return k.keys.Keys(ctx, keyID)
}

// ids returns the IDs of the keys, which may be empty, in the set's order; none of no set.
func (k *keySet) ids() []string {
	ids := []string{}
	if k == nil {
		return ids
	}
	for _, key := range k.keys.Set.Keys {
		ids = append(ids, key.KeyID)
	}
	return ids
}

// MarshalJSON stores the document as text, so that it stays byte for byte what was registered.
func (k *keySet) MarshalJSON() ([]byte, error) { return json.Marshal(string(k.document)) }

// UnmarshalJSON reads what MarshalJSON stored.
func (k *keySet) UnmarshalJSON(data []byte) error {
	var document string
	if err := json.Unmarshal(data, &document); err != nil {
		return err
	}
	set, err := idtoken.ParseJWKS([]byte(document))
	*k = keySet{document: []byte(document), keys: idtoken.Static{Set: set}, err: err}
	return nil
}

// Cluster is a cluster as others see it; it must not be modified.
type Cluster struct {
	Account  string
	Region   string
	Name     string
	ARN      string
	Issuer   string // URL, exactly as in its tokens
	HostedID string // the hosted issuer's ID; empty for clusters with their own
	JWKS     []byte // registered keys of a cluster with its own issuer; nil when they are fetched from it
	Created  time.Time
	Tags     map[string]string

	keys *keySet
}

// Cluster finds a cluster in memory. A cluster that is being deleted is not found.
func (s *Service) Cluster(account, region, name string) (*Cluster, bool) {
	r, ok := s.clusters.Get(clusterKey(account, region, name))
	if !ok || r.Deleting {
		return nil, false
	}
	return s.view(account, region, name, r), true
}

// FindCluster is Cluster, but a miss in memory is confirmed against the store before it is believed. nil without an
// error means that there is none; errors wrap kv.ErrUnavailable.
func (s *Service) FindCluster(ctx context.Context, account, region, name string) (*Cluster, error) {
	r, err := s.findCluster(ctx, account, region, name)
	if err != nil || r == nil || r.Deleting {
		return nil, err
	}
	return s.view(account, region, name, r), nil
}

// findCluster finds a cluster's record, even of one that is being deleted; nil when there is none. A miss is confirmed.
func (s *Service) findCluster(ctx context.Context, account, region, name string) (*clusterRecord, error) {
	key := clusterKey(account, region, name)
	if r, ok := s.clusters.Get(key); ok {
		return r, nil
	}
	if err := s.db.Sync(ctx); err != nil {
		return nil, fmt.Errorf("confirm that cluster %s does not exist: %w", name, err)
	}
	r, _ := s.clusters.Get(key)
	return r, nil
}

// ErrSharedIssuer is an issuer that clusters of several accounts were registered with.
var ErrSharedIssuer = errors.New("clusters of several accounts have the issuer")

// ClusterOfIssuer finds the cluster, of whatever account, whose tokens the issuer signs; nil without an error means that there
// is none. Whoever registers a cluster can name any issuer, so one that several accounts name is nobody's: ErrSharedIssuer.
func (s *Service) ClusterOfIssuer(issuerURL string) (found *Cluster, err error) {
	for key, r := range s.byIssuer.Get(issuerURL) {
		if r.Deleting {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%w %s", ErrSharedIssuer, issuerURL)
		}
		account, rest, _ := strings.Cut(key, "/")
		region, name, _ := strings.Cut(rest, "/")
		found = s.view(account, region, name, r)
	}
	return found, nil
}

// FindClusterOfIssuer is ClusterOfIssuer, but a miss in memory is confirmed against the store before it is believed.
func (s *Service) FindClusterOfIssuer(ctx context.Context, issuerURL string) (*Cluster, error) {
	if c, err := s.ClusterOfIssuer(issuerURL); c != nil || err != nil {
		return c, err
	}
	if err := s.db.Sync(ctx); err != nil {
		return nil, fmt.Errorf("confirm that no cluster has the issuer %s: %w", issuerURL, err)
	}
	return s.ClusterOfIssuer(issuerURL)
}

func (s *Service) view(account, region, name string, r *clusterRecord) *Cluster {
	c := &Cluster{
		Account:  account,
		Region:   region,
		Name:     name,
		ARN:      s.arnOf(region, account, "cluster/"+name),
		Issuer:   s.issuerURL(r),
		HostedID: r.HostedID,
		Created:  time.UnixMilli(r.Created).UTC(),
		Tags:     r.Tags,
		keys:     r.Keys,
	}
	if r.Keys != nil {
		c.JWKS = r.Keys.document
	}
	return c
}

// Keys returns the keys that sign a cluster's tokens: those of the hosted issuer, those that were registered, or those
// that the cluster's own issuer serves.
func (s *Service) Keys(c *Cluster) idtoken.KeySource {
	if c.HostedID != "" {
		set, _ := s.issuers.Keys(c.HostedID) // of an issuer that is gone: no keys, so nothing verifies
		return idtoken.Static{Set: set}
	}
	if c.keys != nil {
		return c.keys
	}
	return s.keyCache.Issuer(c.Issuer, nil)
}

// RegisteredKeys returns the keys of the account's cluster whose own issuer is the URL, if one was registered with keys.
// Another account's registration never counts: it could name any issuer.
func (s *Service) RegisteredKeys(account, issuerURL string) (idtoken.KeySource, bool) {
	claim, ok := s.claims.Get(claimKey(account, issuerURL))
	if !ok {
		return nil, false
	}
	r, ok := s.clusters.Get(clusterKey(account, claim.Region, claim.Cluster))
	if !ok || r.Deleting || r.Issuer != issuerURL || r.Keys == nil {
		return nil, false
	}
	return r.Keys, true
}

func claimKey(account, issuerURL string) string { return account + "/" + issuerURL }

func (s *Service) issuerURL(r *clusterRecord) string {
	if r.HostedID != "" {
		return s.issuers.URL(r.HostedID)
	}
	return r.Issuer
}

type clusterIn struct{ Name string }

type clusterOut struct{ Cluster *clusterShape }

type clusterShape struct {
	Name                    string
	Arn                     string
	CreatedAt               time.Time
	Version                 string
	PlatformVersion         string
	Endpoint                string
	RoleArn                 string
	Status                  string
	CertificateAuthority    certificateShape
	Identity                identityShape
	Health                  healthShape
	ResourcesVpcConfig      vpcConfigShape
	KubernetesNetworkConfig *kubernetesNetworkConf
	Logging                 *loggingShape
	AccessConfig            *accessConfigShape
	UpgradePolicy           *upgradePolicyShape
	Tags                    map[string]string
}

type certificateShape struct{ Data string }

type identityShape struct{ Oidc oidcShape }

type oidcShape struct{ Issuer string }

type healthShape struct{ Issues []issueShape }

type issueShape struct{ Code, Message string }

type vpcConfigShape struct {
	SubnetIds             []string `json:"subnets"`
	SecurityGroupIds      []string `json:"groups"`
	EndpointPublicAccess  bool     `json:"public"`
	EndpointPrivateAccess bool     `json:"private"`
	PublicAccessCidrs     []string `json:"cidrs"`
}

type kubernetesNetworkConf struct {
	ServiceIpv4Cidr string `json:"ipv4,omitempty"`
	IpFamily        string `json:"family,omitempty"`
}

type loggingShape struct {
	ClusterLogging []logSetupShape `json:"setups"`
}

type logSetupShape struct {
	Types   []string `json:"types"`
	Enabled bool     `json:"enabled"`
}

type accessConfigShape struct {
	AuthenticationMode                      string `json:"mode,omitempty"`
	BootstrapClusterCreatorAdminPermissions *bool  `json:"admin,omitempty"`
}

type upgradePolicyShape struct {
	SupportType string `json:"type,omitempty"`
}

// shape is a cluster as DescribeCluster prints it. id and connectorConfig are never there: eksctl takes the one for the
// cluster's name and the other for a cluster that is not its business.
func (s *Service) shape(account, region, name string, r *clusterRecord) *clusterShape {
	settings := r.Settings
	if settings == nil {
		settings = &clusterSettings{Version: defaultVersion(), VPC: vpcConfigShape{}}
	}
	status := "ACTIVE"
	if r.Deleting {
		status = "DELETING"
	}
	access := accessConfigShape{}
	if settings.Access != nil {
		access = *settings.Access
	}
	access.AuthenticationMode = r.authenticationMode()
	vpc := settings.VPC
	vpc.SubnetIds = list(vpc.SubnetIds)
	vpc.SecurityGroupIds = list(vpc.SecurityGroupIds)
	vpc.PublicAccessCidrs = list(vpc.PublicAccessCidrs)
	return &clusterShape{
		Name:                    name,
		Arn:                     s.arnOf(region, account, "cluster/"+name),
		CreatedAt:               time.UnixMilli(r.Created),
		Version:                 settings.Version,
		PlatformVersion:         platformVersion,
		Endpoint:                cmp.Or(r.Endpoint, s.endpoint(account, region, name)),
		RoleArn:                 settings.RoleARN,
		Status:                  status,
		CertificateAuthority:    certificateShape{Data: base64.StdEncoding.EncodeToString([]byte(r.CA))},
		Identity:                identityShape{Oidc: oidcShape{Issuer: s.issuerURL(r)}},
		Health:                  healthShape{Issues: []issueShape{}},
		ResourcesVpcConfig:      vpc,
		KubernetesNetworkConfig: settings.Network,
		Logging:                 settings.Logging,
		AccessConfig:            &access,
		UpgradePolicy:           settings.Upgrade,
		Tags:                    tagMap(r.Tags),
	}
}

// endpoint is the address of a Kubernetes API that Lanyard does not run. The name ends in .invalid, which never
// resolves (RFC 2606): clients that only read it are content, and those that would connect cannot reach a stranger.
func (s *Service) endpoint(account, region, name string) string {
	sum := sha256.Sum256([]byte(s.arnOf(region, account, "cluster/"+name)))
	return "https://" + strings.ToUpper(hex.EncodeToString(sum[:16])) + "." + region + ".eks.invalid"
}

// newCA makes the certificate that goes with an endpoint that nobody serves. Its key is dropped here, so that no
// certificate it has signed can exist.
func newCA(now time.Time) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("generate the key of a cluster's certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "kubernetes"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(10, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", fmt.Errorf("make a cluster's certificate: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

type createClusterIn struct {
	Name                       string
	RoleArn                    string
	Version                    string
	ClientRequestToken         string
	Tags                       map[string]string
	ResourcesVpcConfig         vpcConfigIn
	KubernetesNetworkConfig    *kubernetesNetworkConf
	Logging                    *loggingShape
	AccessConfig               *accessConfigShape
	UpgradePolicy              *upgradePolicyShape
	BootstrapSelfManagedAddons *bool

	// What only a real control plane can do.
	ComputeConfig       *enabledIn
	DeletionProtection  bool
	EncryptionConfig    []encryptionConfigIn
	OutpostConfig       *outpostConfigIn
	RemoteNetworkConfig *remoteNetworkConfigIn
	StorageConfig       *storageConfigIn
	ZonalShiftConfig    *enabledIn
}

type vpcConfigIn struct {
	SubnetIds             []string
	SecurityGroupIds      []string
	EndpointPublicAccess  *bool
	EndpointPrivateAccess *bool
	PublicAccessCidrs     []string
}

type enabledIn struct{ Enabled bool }

type encryptionConfigIn struct{ Resources []string }

type outpostConfigIn struct {
	OutpostArns              []string
	ControlPlaneInstanceType string
}

type remoteNetworkConfigIn struct{ RemoteNodeNetworks, RemotePodNetworks []cidrsIn }

type cidrsIn struct{ Cidrs []string }

type storageConfigIn struct{ BlockStorage *enabledIn }

// unsupported names a member that asks for something that Lanyard does not do, and that would not be true if it were
// only given back.
func (in *createClusterIn) unsupported() string {
	switch {
	case in.ComputeConfig != nil && in.ComputeConfig.Enabled:
		return "computeConfig"
	case in.DeletionProtection:
		return "deletionProtection"
	case len(in.EncryptionConfig) > 0:
		return "encryptionConfig"
	case in.OutpostConfig != nil:
		return "outpostConfig"
	case in.RemoteNetworkConfig != nil:
		return "remoteNetworkConfig"
	case in.StorageConfig != nil && in.StorageConfig.BlockStorage != nil && in.StorageConfig.BlockStorage.Enabled:
		return "storageConfig"
	case in.ZonalShiftConfig != nil && in.ZonalShiftConfig.Enabled:
		return "zonalShiftConfig"
	}
	return ""
}

func (in *createClusterIn) settings() *clusterSettings {
	vpc := in.ResourcesVpcConfig
	network := in.KubernetesNetworkConfig
	if network == nil {
		network = &kubernetesNetworkConf{}
	}
	settings := &clusterSettings{
		RoleARN: in.RoleArn,
		Version: in.Version,
		VPC: vpcConfigShape{
			SubnetIds:             vpc.SubnetIds,
			SecurityGroupIds:      vpc.SecurityGroupIds,
			EndpointPublicAccess:  vpc.EndpointPublicAccess == nil || *vpc.EndpointPublicAccess,
			EndpointPrivateAccess: vpc.EndpointPrivateAccess != nil && *vpc.EndpointPrivateAccess,
			PublicAccessCidrs:     vpc.PublicAccessCidrs,
		},
		Network: &kubernetesNetworkConf{ServiceIpv4Cidr: network.ServiceIpv4Cidr, IpFamily: network.IpFamily},
		Logging: in.Logging,
		Access:  in.AccessConfig,
		Upgrade: in.UpgradePolicy,
	}
	if settings.Version == "" {
		settings.Version = defaultVersion()
	}
	if settings.VPC.EndpointPublicAccess && len(vpc.PublicAccessCidrs) == 0 {
		settings.VPC.PublicAccessCidrs = []string{"0.0.0.0/0"}
	}
	if settings.Network.IpFamily == "" {
		settings.Network.IpFamily = "ipv4"
	}
	if settings.Network.IpFamily == "ipv4" && settings.Network.ServiceIpv4Cidr == "" {
		settings.Network.ServiceIpv4Cidr = "10.100.0.0/16"
	}
	if settings.Access == nil {
		settings.Access = &accessConfigShape{AuthenticationMode: modeConfigMap}
	}
	if settings.Upgrade == nil {
		settings.Upgrade = &upgradePolicyShape{SupportType: "EXTENDED"}
	}
	return settings
}

func (s *Service) createClusterAccess(c *awsapi.Caller, in *createClusterIn) ([]awsapi.Access, error) {
	pass, err := s.passRole(c, in.RoleArn, "eks.amazonaws.com")
	if err != nil {
		return nil, err
	}
	return []awsapi.Access{s.clusterAccess(c, "eks:CreateCluster", in.Name, in.Tags), pass}, nil
}

func (s *Service) createCluster(ctx context.Context, c *awsapi.Caller, in *createClusterIn) (*clusterOut, error) {
	if member := in.unsupported(); member != "" {
		return nil, invalidParameter("%s is not supported: Lanyard runs no control plane.", member)
	}
	if in.Version != "" && !slices.ContainsFunc(clusterVersions(), func(v clusterVersion) bool {
		return v.version == in.Version && v.status(s.now()) != "UNSUPPORTED"
	}) {
		return nil, invalidParameter("unsupported Kubernetes version %s", in.Version)
	}
	if err := checkTags("InvalidParameterException", in.Tags); err != nil {
		return nil, err
	}
	role, err := s.parseRoleARN("roleArn", in.RoleArn)
	if err != nil {
		return nil, err
	}
	if _, ok, err := s.findRole(ctx, role); err != nil {
		return nil, err
	} else if !ok {
		return nil, invalidParameter("Role with arn: %s, could not be assumed because it does not exist or the trusted entity is not correct",
			in.RoleArn)
	}
	request, err := requestHash(in.ClientRequestToken, in)
	if err != nil {
		return nil, err
	}
	r, err := s.addCluster(ctx, c, in.Name, &clusterRecord{Tags: in.Tags, Request: request, Settings: in.settings()})
	if err != nil {
		return nil, err
	}
	return &clusterOut{Cluster: s.shape(c.Account, c.Region, in.Name, r)}, nil
}

// requestHash identifies a request that carries a token: to be repeated, it must be the same in everything.
func requestHash(token string, in *createClusterIn) (string, error) {
	if token == "" {
		return "", nil
	}
	text, err := json.Marshal(in)
	if err != nil {
		return "", fmt.Errorf("hash a CreateCluster request: %w", err)
	}
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// addCluster stores a new cluster, and the issuer with it: a hosted one, unless the record names the cluster's own. It
// returns the cluster that is there afterwards, which may be one that the same request has made before.
func (s *Service) addCluster(ctx context.Context, c *awsapi.Caller, name string, r *clusterRecord) (*clusterRecord, error) {
	if strings.Contains(c.Region, "*") || !validName(c.Region, 63, false) {
		return nil, invalidParameter("%q is not the name of a region.", c.Region) // it becomes part of ARNs and host names
	}
	key := clusterKey(c.Account, c.Region, name)
	taken := func(have *clusterRecord) error {
		if r.Request != "" && r.Request == have.Request && !have.Deleting {
			return nil
		}
		e := awsapi.Errorf("ResourceInUseException", "Cluster already exists with name: %s", name)
		e.Fields = map[string]any{"clusterName": name}
		return e
	}
	if have, ok := s.clusters.Get(key); ok { // before the cost of a key pair
		return have, taken(have)
	}
	now := s.now()
	r.Created = now.UnixMilli()
	if r.CA == "" {
		var err error
		if r.CA, err = newCA(now); err != nil {
			return nil, err
		}
	}
	put := func(tx *kv.Tx) error {
		if _, claimed := s.claims.Read(tx, claimKey(c.Account, r.Issuer)); claimed {
			return awsapi.Errorf("ResourceInUseException", "A cluster of the account is registered with the issuer %s already.", r.Issuer)
		}
		s.claims.Write(tx, claimKey(c.Account, r.Issuer), &issuerClaim{Region: c.Region, Cluster: name})
		return nil
	}
	if r.Issuer == "" {
		issuer, err := s.issuers.NewIssuer(c.Account)
		if err != nil {
			return nil, fmt.Errorf("make an issuer for cluster %s: %w", name, err)
		}
		r.HostedID = issuer.ID
		put = func(tx *kv.Tx) error { s.issuers.Put(tx, issuer); return nil }
	}
	stored := r
	err := s.db.Update(ctx, func(tx *kv.Tx) error {
		if have, ok := s.clusters.Read(tx, key); ok {
			stored = have
			return taken(have)
		}
		stored = r
		s.clusters.Write(tx, key, r)
		if principal, entry, ok := s.creatorEntry(c); ok && r.bootstraps() {
			s.entries.Write(tx, entryKey(key, principal), entry)
		}
		return put(tx)
	})
	if err != nil {
		return nil, err
	}
	return stored, nil
}

func (s *Service) describeCluster(ctx context.Context, c *awsapi.Caller, in *clusterIn) (*clusterOut, error) {
	r, err := s.findCluster(ctx, c.Account, c.Region, in.Name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, noSuchCluster(in.Name)
	}
	return &clusterOut{Cluster: s.shape(c.Account, c.Region, in.Name, r)}, nil
}

type listClustersIn struct {
	Include    []string
	MaxResults int32
	NextToken  string
}

type listClustersOut struct {
	Clusters  []string
	NextToken string
}

func (s *Service) listClustersAccess(c *awsapi.Caller, _ *listClustersIn) ([]awsapi.Access, error) {
	return []awsapi.Access{{Action: "eks:ListClusters", Resource: s.clusterARN(c, "*")}}, nil
}

func (s *Service) listClusters(_ context.Context, c *awsapi.Caller, in *listClustersIn) (*listClustersOut, error) {
	for _, what := range in.Include {
		if what != "all" {
			return nil, invalidParameter("The include value %q is not known; the only one is all.", what)
		}
	}
	after, err := readPageToken(in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &listClustersOut{Clusters: []string{}}
	prefix := clusterKey(c.Account, c.Region, "")
	for key := range s.clusters.Scan(prefix, prefix+after) {
		if len(out.Clusters) == pageSize(in.MaxResults) {
			out.NextToken = pageToken(out.Clusters[len(out.Clusters)-1])
			break
		}
		out.Clusters = append(out.Clusters, strings.TrimPrefix(key, prefix))
	}
	return out, nil
}

// deleteBatch is how many associations one transaction of DeleteCluster removes.
const deleteBatch = kv.MaxOps - 8

// deleteCluster first takes away what the cluster authenticates with, then its associations, and with the last of them
// the cluster. Each transaction leaves a state that a repeated call finishes.
func (s *Service) deleteCluster(ctx context.Context, c *awsapi.Caller, in *clusterIn) (*clusterOut, error) {
	if have, err := s.findCluster(ctx, c.Account, c.Region, in.Name); err != nil {
		return nil, err
	} else if have == nil {
		return nil, noSuchCluster(in.Name)
	}
	key := clusterKey(c.Account, c.Region, in.Name)
	var deleted *clusterRecord
	err := s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.clusters.Read(tx, key)
		if !ok {
			return noSuchCluster(in.Name)
		}
		if deleted = r; r.Deleting {
			return nil
		}
		marked := *r
		marked.Deleting = true
		deleted = &marked
		s.clusters.Write(tx, key, deleted)
		if r.HostedID != "" {
			s.issuers.Remove(tx, r.HostedID)
		} else {
			s.claims.Remove(tx, claimKey(c.Account, r.Issuer))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Whoever adds an association reads the cluster in the same transaction, so that none can be added any more; and
	// the tables, which now show the mark, show every one that was added before it. Should another call finish first
	// and the name be taken again, then the mark is gone, and nothing of the new cluster is touched.
	for done := false; !done; {
		err := s.db.Update(ctx, func(tx *kv.Tx) error {
			done = true
			if r, ok := s.clusters.Read(tx, key); !ok || !r.Deleting {
				return nil
			}
			n := 0
			for a := range s.associations.Scan(key+"/", "") {
				if n++; n > deleteBatch {
					done = false
					return nil
				}
				s.associations.Remove(tx, a)
			}
			for a := range s.addons.Scan(key+"/", "") {
				s.addons.Remove(tx, a)
			}
			for a := range s.heard.Scan(key+"/", "") {
				if n++; n > deleteBatch {
					done = false
					return nil
				}
				s.heard.Remove(tx, a)
			}
			for e := range s.entries.Scan(key+"/", "") {
				if n++; n > deleteBatch {
					done = false
					return nil
				}
				s.entries.Remove(tx, e)
			}
			for u := range s.updates.Scan(key+"/", "") {
				if n++; n > deleteBatch {
					done = false
					return nil
				}
				s.updates.Remove(tx, u)
			}
			s.clusters.Remove(tx, key)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("delete what belongs to cluster %s: %w", in.Name, err)
		}
	}
	s.log.InfoContext(ctx, "cluster deleted", slog.String("cluster", s.clusterARN(c, in.Name)))
	return &clusterOut{Cluster: s.shape(c.Account, c.Region, in.Name, deleted)}, nil
}

// list makes a nil slice an empty one, which is printed.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
