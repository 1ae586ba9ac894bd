package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/tokenreview"
)

// config is the configuration file. Unknown keys are refused, and all faults are reported at once.
type config struct {
	// DataDir holds what belongs to this process alone: the root key, the audit trail, and the embedded stores where they are used.
	// Mode 0700.
	DataDir string `yaml:"dataDir"`
	// Account is the first account, made at the first start.
	Account string `yaml:"account"`
	// Region is what unsigned requests are taken to be for; it also decides the partition.
	Region string `yaml:"region"`
	// IssuerURL is the https URL under which the issuers of hosted clusters are reached.
	IssuerURL string `yaml:"issuerURL"`
	// Listen is the address for plain HTTP; empty for none.
	Listen string `yaml:"listen"`
	// ListenTLS is the address for HTTPS; empty for none.
	ListenTLS string `yaml:"listenTLS"`
	// ListenProbes is the address of /healthz and /readyz; empty for none.
	ListenProbes string `yaml:"listenProbes"`
	// StopDelay is for how long the server goes on serving when it is told to stop, while /readyz says that it will: so that load balancers
	// turn to other replicas. When nil it is 5 s, or nothing with an embedded store, which has no other replicas.
	StopDelay *time.Duration `yaml:"stopDelay"`
	// TLS names the certificate for HTTPS, in PEM, which is read again when it changes; or the authority that certificates are made by.
	TLS tlsConfig `yaml:"tls"`
	// Etcd is the cluster that replicas share. Without endpoints, the store is embedded and there can be one replica.
	Etcd struct {
		Endpoints []string `yaml:"endpoints"`
		CAFile    string   `yaml:"caFile"`
		CertFile  string   `yaml:"certFile"`
		KeyFile   string   `yaml:"keyFile"`
	} `yaml:"etcd"`
	// MasterKeyFile holds 64 hex digits that all replicas share; required with etcd. Without it, dataDir/master.key is made and used.
	MasterKeyFile string `yaml:"masterKeyFile"`
	// S3 is what the gateway stands in front of: an embedded store, or an S3-compatible service. Neither leaves S3 out.
	S3 struct {
		Embedded bool `yaml:"embedded"`
		Upstream struct {
			Endpoint            string `yaml:"endpoint"`
			Region              string `yaml:"region"`
			AccessKeyID         string `yaml:"accessKeyID"`
			SecretAccessKeyFile string `yaml:"secretAccessKeyFile"`
		} `yaml:"upstream"`
	} `yaml:"s3"`
	// MaxAssociations is the quota of pod identity associations per cluster; EKS's 5,000 when 0.
	MaxAssociations int `yaml:"maxAssociations"`
	// TrustGuard says what becomes of trust policies that let in whom nobody meant to let in: off, warn (a warning in the log and in
	// the answer) or deny; warn when empty. The flag --trust-guard takes its place.
	TrustGuard string `yaml:"trustGuard"`
	// TokenReview has clusters asked whether they still honour their service accounts' tokens.
	TokenReview struct {
		// Every is the time within which a token is refused that its cluster does not honour any more; 0 asks none. The flag
		// --token-review takes its place.
		Every time.Duration `yaml:"every"`
		// Clusters are asked: by name, in the first account and the region, or by ARN.
		Clusters map[string]clusterAccess `yaml:"clusters"`
	} `yaml:"tokenReview"`
	// Audit says where the audit trail is kept, and what becomes of calls that cannot be recorded.
	Audit auditConfig `yaml:"audit"`
	Log   struct {
		Level  string `yaml:"level"`  // debug, info, warn or error
		Format string `yaml:"format"` // json or text
	} `yaml:"log"`
}

func readConfig(file string) (config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return config{}, fmt.Errorf("read configuration: %w", err)
	}
	return parseConfig(file, text)
}

func parseConfig(file string, text []byte) (config, error) {
	c := config{DataDir: "/var/lib/lanyard", Account: "111122223333", Region: "us-east-1", ListenProbes: "127.0.0.1:4568"}
	c.Log.Level, c.Log.Format = "info", "json"
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return config{}, fmt.Errorf("read configuration %s: %w", file, err)
	}
	if c.StopDelay == nil {
		c.StopDelay = new(time.Duration)
		if len(c.Etcd.Endpoints) > 0 {
			*c.StopDelay = 5 * time.Second
		}
	}
	if err := c.validate(); err != nil {
		return config{}, fmt.Errorf("configuration %s:\n%w", file, err)
	}
	return c, nil
}

func (c *config) validate() error {
	issuer, err := url.Parse(c.IssuerURL)
	goodIssuer := err == nil && issuer.Scheme == "https" && issuer.Host != "" && issuer.Path == "" && issuer.RawQuery == "" && issuer.User == nil
	_, goodRegion := arn.PartitionOfRegion(c.Region)
	upstream := c.S3.Upstream
	badEndpoint := func(s string) bool { return !strings.HasPrefix(s, "https://") && !strings.HasPrefix(s, "http://") }
	mixed := func(s string) bool {
		return strings.HasPrefix(s, "https://") != strings.HasPrefix(c.Etcd.Endpoints[0], "https://")
	}
	_, badGuard := iam.ParseTrustGuard(c.TrustGuard)
	var faults []error
	for _, f := range []struct {
		bad     bool
		message string
	}{
		{c.DataDir == "", "dataDir: must be set"},
		{*c.StopDelay < 0, "stopDelay: must not be negative"},
		{!arn.ValidAccountID(c.Account), "account: must have 12 digits"},
		{!goodRegion, "region: must be a region of AWS, such as us-east-1"},
		{!goodIssuer, "issuerURL: must be an https URL without a path, such as https://issuer.example.com"},
		{c.Listen == "" && c.ListenTLS == "", "listen, listenTLS: at least one must be set"},
		{c.ListenTLS != "" && !c.TLS.whole(), "tls: either certFile and keyFile, or caCertFile, caKeyFile and hosts must be set for listenTLS"},
		{slices.ContainsFunc(c.TLS.Hosts, badHost), "tls.hosts: must be names such as a.example.com or *.example.com, or addresses"},
		{len(c.Etcd.Endpoints) > 0 && c.MasterKeyFile == "", "masterKeyFile: must be set with etcd.endpoints, for all replicas need the same"},
		{slices.ContainsFunc(c.Etcd.Endpoints, badEndpoint) || slices.ContainsFunc(c.Etcd.Endpoints, mixed),
			"etcd.endpoints: must be https URLs, or all http URLs"},
		{(c.Etcd.CertFile == "") != (c.Etcd.KeyFile == ""), "etcd: certFile and keyFile must be set together"},
		{c.S3.Embedded && upstream.Endpoint != "", "s3: embedded and upstream exclude each other"},
		{c.S3.Embedded && len(c.Etcd.Endpoints) > 0, "s3.embedded: each replica would have objects of its own; use an upstream"},
		{upstream.Endpoint != "" && (upstream.AccessKeyID == "" || upstream.SecretAccessKeyFile == "" || upstream.Region == ""),
			"s3.upstream: region, accessKeyID and secretAccessKeyFile must be set"},
		{c.Audit.Bucket.Name != "" && c.Audit.Bucket.Region == "" && !c.S3.Embedded && upstream.Endpoint == "",
			"audit.bucket.region: must be set, or s3: without a region, the bucket is in the S3 that this server has"},
		{c.MaxAssociations < 0, "maxAssociations: must not be negative"},
		{badGuard != nil, "trustGuard: must be off, warn or deny"},
		{c.TokenReview.Every != 0 && c.TokenReview.Every < tokenreview.MinEvery,
			fmt.Sprintf("tokenReview.every: must be 0, or %s or more", tokenreview.MinEvery)},
		{c.TokenReview.Every != 0 && len(c.TokenReview.Clusters) == 0, "tokenReview.clusters: must be set with tokenReview.every"},
		{slices.ContainsFunc(slices.Collect(maps.Values(c.TokenReview.Clusters)), clusterAccess.unclear),
			"tokenReview.clusters: each must have either a kubeconfig or inCluster: true"},
	} {
		if f.bad {
			faults = append(faults, errors.New("  "+f.message))
		}
	}
	return errors.Join(append(faults, c.Audit.faults()...)...)
}

// trim removes the line end that files of one value usually have.
func trim(b []byte) string { return strings.TrimRight(string(b), "\r\n") }
