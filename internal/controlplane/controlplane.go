// Package controlplane puts the services together behind one HTTP handler: what `lanyard dev` and lanyard-server run.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/agent"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/cloudformation"
	"github.com/lanyard-id/lanyard/internal/cloudtrail"
	"github.com/lanyard-id/lanyard/internal/eks"
	"github.com/lanyard-id/lanyard/internal/eksauth"
	"github.com/lanyard-id/lanyard/internal/gateway"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kubeaccess"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/oidc"
	"github.com/lanyard-id/lanyard/internal/sts"
)

// Config is what a control plane needs.
type Config struct {
	Store     kv.Store          // required; closed by the caller, after Close
	MasterKey keyring.MasterKey // required
	Partition string            // aws, aws-cn, aws-us-gov, …
	Region    string            // taken for unsigned requests
	Account   string            // the first account, made at the first start
	// IssuerURL is the https URL, without a path, under which hosted issuers are reached.
	IssuerURL string
	// Objects serves S3's REST API for the gateway; nil leaves S3 out: its requests are answered as not implemented.
	Objects http.Handler
	Audit   *audit.Trail // required
	// Delivery writes the trail to a bucket; nil for none.
	Delivery *audit.Deliverer
	// Client fetches the keys of issuers elsewhere; one with safe limits and the system's roots when nil.
	Client *http.Client
	// MaxAssociations is the quota of pod identity associations per cluster; EKS's 5,000 when zero.
	MaxAssociations int
	// TrustGuard says what becomes of dangerous trust policies: off, warn or deny (see iam.TrustGuard); warn when empty.
	TrustGuard string
	// TokenReview has clusters asked whether they still honour their service accounts' tokens; the zero value leaves it out.
	TokenReview TokenReview
	// Hosts are names and addresses, besides the IssuerURL's, that clients reach the control plane by (see kubeaccess.Config).
	Hosts []string
	Now   func() time.Time // time.Now when nil
	Log   *slog.Logger     // required
}

// ControlPlane is one replica: all services over one store. Start it before its Handler is served.
type ControlPlane struct {
	config  Config
	db      *kv.DB
	keyring *keyring.Keyring
	keys    issuerKeys
	iam     *iam.Service
	reviews *reviews // nil when they are off
	stacks  *cloudformation.Service
	agent   *agent.Agent // for pods that have none on their node
	handler http.Handler
}

const (
	fetchTimeout = 10 * time.Second // of an issuer's discovery document or keys
	bodyTimeout  = 30 * time.Second // for a request, but not S3's, to arrive in full
)

// New wires the services. It does no I/O.
func New(c Config) (*ControlPlane, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Client == nil {
		c.Client = &http.Client{
			Timeout:       fetchTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	guard, err := iam.ParseTrustGuard(c.TrustGuard)
	if err != nil {
		return nil, err
	}
	db := kv.NewDB(kv.Config{Store: c.Store, Log: c.Log})
	ring, err := keyring.New(keyring.Config{DB: db, MasterKey: c.MasterKey, Log: c.Log})
	if err != nil {
		return nil, err
	}
	issuers := oidc.New(oidc.Config{DB: db, Keyring: ring, BaseURL: c.IssuerURL, Now: c.Now, Log: c.Log})
	users := iam.New(iam.Config{DB: db, Keyring: ring, Partition: c.Partition, TrustGuard: guard, Now: c.Now, Log: c.Log})
	cache := idtoken.NewCache(idtoken.CacheConfig{Client: c.Client, Now: c.Now})
	clusters := eks.New(eks.Config{
		DB: db, IAM: users, Issuers: issuers, KeyCache: cache, Partition: c.Partition,
		MaxAssociations: c.MaxAssociations, Now: c.Now, Log: c.Log,
	})
	keys := issuerKeys{issuers: issuers, clusters: clusters, cache: cache}
	reviewed, err := newReviews(c, clusters)
	if err != nil {
		return nil, err
	}
	tokens := sts.New(sts.Config{
		IAM: users, Keyring: ring, Partition: c.Partition, Keys: keys.of, Review: reviewed.review(), Audit: c.Audit, Now: c.Now,
	})
	pods := eksauth.New(eksauth.Config{
		EKS: clusters, STS: tokens, Review: reviewed.review(), Audit: c.Audit, Partition: c.Partition, Now: c.Now,
	})
	direct, err := (&agentless{clusters: clusters, pods: pods, reviewed: reviewed != nil, fresh: db.Fresh, now: c.Now}).newAgent(c.Log)
	if err != nil {
		return nil, err
	}

	// What is stale honours nobody, at the gateway as little as elsewhere.
	credentials := func(ctx context.Context, accessKeyID, sessionToken string) (awsapi.Credential, error) {
		if err := db.Fresh(); err != nil {
			return awsapi.Credential{}, err
		}
		return tokens.Credentials(ctx, accessKeyID, sessionToken)
	}
	authenticator := &awsapi.Authenticator{Credentials: credentials, Region: c.Region, Now: c.Now}
	edge := gateway.Config{
		Authenticator: authenticator, Authorize: users.Authorize, EncodeDenial: tokens.EncodeDenial,
		Store: c.Objects, Account: c.Account, Log: c.Log,
	}
	raw := map[string]http.Handler{"ec2": gateway.NewEC2(edge)}
	if c.Objects != nil {
		raw["s3"] = unhurried(gateway.NewS3(edge))
	}
	var api *awsapi.Handler
	stacks := cloudformation.New(cloudformation.Config{
		DB: db, Keyring: ring, Partition: c.Partition, Now: c.Now, Log: c.Log,
		// A stack's resources are made by calls of the API that its own operations are part of.
		Invoke: func(ctx context.Context, c *awsapi.Caller, service, operation string, in map[string]any) (map[string]any, error) {
			return api.Invoke(ctx, c, service, operation, in)
		},
		Buckets: gateway.NewBuckets(edge, func(
			ctx context.Context, c *awsapi.Caller, service, operation string, do func(context.Context, *awsapi.Caller) error,
		) error {
			return api.InvokeRaw(ctx, c, service, operation, do)
		}),
	})
	trails := cloudtrail.New(cloudtrail.Config{Trail: c.Audit, Delivery: c.Delivery, Partition: c.Partition, Region: c.Region, Now: c.Now})
	api, err = awsapi.NewHandler(awsapi.HandlerConfig{
		Services: []awsapi.Service{
			tokens.API(), users.API(), clusters.API(), pods.API(), trails.API(), stacks.API(),
			{Model: awsapi.ModelNamed("lanyard"), Operations: append(users.Extension(), clusters.Extension()...)},
		},
		Authenticator: authenticator,
		Authorize:     users.Authorize,
		Used:          users.NoteUse,
		Raw:           raw,
		Audit:         c.Audit,
		Ready:         func() error { return ready(db, c.Audit) },
		Log:           c.Log,
	})
	if err != nil {
		return nil, err
	}
	documents := issuers.Handler()
	people, err := c.people(clusters, users, credentials)
	if err != nil {
		return nil, err
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		hurry(w, time.Now().Add(bodyTimeout))
		// Not a ServeMux: it would redirect paths that it finds unclean, and no signature survives that.
		switch {
		case isDocument(r):
			documents.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, kubeaccess.Path) && isUnsigned(r):
			people.ServeHTTP(w, r)
		case isPodRequest(r):
			direct.ServeHTTP(w, r)
		default:
			api.ServeHTTP(w, r)
		}
	}
	return &ControlPlane{
		config: c, db: db, keyring: ring, keys: keys, iam: users, reviews: reviewed, stacks: stacks, agent: direct, handler: http.HandlerFunc(handler),
	}, nil
}

// isDocument tells a request for a hosted issuer's document from one for S3. No bucket can be named "id", since S3's names
// have at least three characters; but where the bucket is in the host, "id/" may begin a key. Those requests are signed.
func isDocument(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/id/") && isUnsigned(r) }

// isUnsigned tells a request that is not for an API, nor for S3. No signature of S3's is taken but in a header or the query.
func isUnsigned(r *http.Request) bool {
	return r.Header.Get("Authorization") == "" && !strings.Contains(r.URL.RawQuery, "X-Amz-Signature=")
}

// people returns what API servers ask who somebody is in Kubernetes.
func (c *Config) people(
	clusters *eks.Service, users *iam.Service,
	credentials func(ctx context.Context, accessKeyID, sessionToken string) (awsapi.Credential, error),
) (http.Handler, error) {
	issuer, err := url.Parse(c.IssuerURL)
	if err != nil {
		return nil, fmt.Errorf("read the issuers' URL: %w", err)
	}
	return kubeaccess.New(kubeaccess.Config{
		Clusters: clusters, Credentials: credentials, Used: users.NoteUse, Partition: c.Partition,
		Hosts: append(slices.Clone(c.Hosts), issuer.Hostname()), Audit: c.Audit, Now: c.Now, Log: c.Log,
	}), nil
}

// hurry sets when the request must have been read; the zero time sets no limit. Connections that know no deadlines, which
// are not from a network, are left alone.
func hurry(w http.ResponseWriter, deadline time.Time) {
	http.NewResponseController(w).SetReadDeadline(deadline) //nolint:errcheck // a connection that is broken fails at the next read
}

// unhurried gives the requests of a handler as long as they take: objects may be large.
func unhurried(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hurry(w, time.Time{})
		h.ServeHTTP(w, r)
	})
}

// Start fills the tables from the store, starts what runs until ctx ends (the watch, rotations), and makes the first
// account unless it exists. The account's root key is then in the directory; it is never shown again. A replica that finds the
// account made by another one gets none.
func (p *ControlPlane) Start(ctx context.Context, dir Directory) error {
	if err := p.db.Start(ctx); err != nil {
		return err
	}
	if err := p.keyring.Start(ctx); err != nil {
		return err
	}
	if p.reviews != nil {
		p.reviews.warn(p.config.Log)
	}
	p.keys.issuers.Start(ctx)
	go p.iam.Run(ctx)
	p.stacks.Start(ctx)
	if p.config.Delivery != nil {
		go p.config.Delivery.Run(ctx)
	}
	go p.agent.Run(ctx)
	return p.makeAccount(ctx, dir)
}

func (p *ControlPlane) makeAccount(ctx context.Context, dir Directory) error {
	account := p.config.Account
	root, err := dir.rootKeyFor(account)
	if err != nil {
		return err
	}
	if of, _ := arn.AccountOfID(root.AccessKeyID); of != account {
		return fmt.Errorf("the root key in %s is of account %s, not %s: use that account, or another directory", dir.path, of, account)
	}
	kept, err := p.iam.EnsureFirstAccount(ctx, account, "management", root)
	if err != nil {
		return err
	}
	made, err := dir.settleRootKey(kept)
	if made {
		p.config.Log.Info("root key made", "account", account, "file", dir.Path(rootKeyFile))
	}
	return err
}

// Handler serves all APIs and the hosted issuers' documents.
func (p *ControlPlane) Handler() http.Handler { return p.handler }

// Ready returns nil while requests are answered from state that is fresh enough, and can be recorded.
func (p *ControlPlane) Ready() error { return ready(p.db, p.config.Audit) }

func ready(db *kv.DB, trail *audit.Trail) error {
	if err := db.Fresh(); err != nil {
		return err
	}
	return trail.Ready()
}

// issuerKeys finds the keys that a registered provider's tokens are verified with.
type issuerKeys struct {
	issuers  *oidc.Publisher
	clusters *eks.Service
	cache    *idtoken.Cache
}

var errOtherPort = errors.New("the token's issuer is not at the address that the provider was registered with")

// of is sts.Config.Keys. The keys of a hosted issuer and those that were registered with a cluster are at hand; only
// the address that a provider was registered with is ever fetched. Registered keys count only for providers in the
// cluster's own account: anybody could register keys of their own for any issuer.
func (k issuerKeys) of(p *iam.Provider, issuerURL string) (idtoken.KeySource, error) {
	if id, _, ok := k.issuers.ByURL(issuerURL); ok {
		set, ok := k.issuers.Keys(id)
		if !ok || issuerURL != k.issuers.URL(id) {
			return nil, fmt.Errorf("hosted issuer %s: %w", issuerURL, idtoken.ErrKeys)
		}
		return idtoken.Static{Set: set}, nil
	}
	if keys, ok := k.clusters.RegisteredKeys(p.Account, issuerURL); ok {
		return keys, nil
	}
	if issuerURL != p.FetchURL {
		return nil, fmt.Errorf("%w: %w", errOtherPort, idtoken.ErrKeys)
	}
	return k.cache.Issuer(p.FetchURL, p.Thumbprints), nil
}
