package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/kubeaccess"
	"github.com/lanyard-id/lanyard/internal/lanyardapi"
)

// registration is Lanyard's RegisterCluster.
type registration struct {
	Name   string            `json:"name"`
	Issuer string            `json:"issuer,omitempty"`
	JWKS   string            `json:"jwks,omitempty"`
	Tags   map[string]string `json:"tags,omitempty"`
	whereabouts
}

// whereabouts are where a cluster's API server is, and what it is known by; zero where that is not told.
type whereabouts struct {
	Endpoint             string     `json:"endpoint,omitempty"`
	CertificateAuthority *authority `json:"certificateAuthority,omitempty"`
}

// authority has certificates in PEM.
type authority struct {
	Data []byte `json:"data"`
}

// endpointInput says otherwise than a kubeconfig where the API server is.
type endpointInput struct{ url, authorityFile string }

func (e *endpointInput) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&e.url, "endpoint", "", "URL of the API server, as people reach it (default: the kubeconfig's)")
	cmd.Flags().StringVar(&e.authorityFile, "certificate-authority", "", "file with certificates in PEM that vouch for it (default: the kubeconfig's)")
}

// read returns what is known of an API server, which may be nil.
func (e *endpointInput) read(api *kubernetesAPI) (w whereabouts, err error) {
	var certificates []byte
	if api != nil {
		w.Endpoint, certificates = api.address, api.authority
	}
	w.Endpoint = cmp.Or(e.url, w.Endpoint)
	if e.authorityFile != "" {
		if certificates, err = readCertificates(e.authorityFile); err != nil {
			return whereabouts{}, err
		}
	}
	switch {
	case e.authorityFile != "" && w.Endpoint == "":
		return whereabouts{}, withHint(errors.New("--certificate-authority is for an endpoint, which is missing"), "add --endpoint URL, or --kubeconfig FILE")
	case certificates == nil && e.url != "":
		return whereabouts{}, withHint(errors.New("--endpoint is given without the certificates that vouch for it"), "add --certificate-authority FILE")
	case certificates == nil:
		return whereabouts{}, nil
	}
	w.CertificateAuthority = &authority{certificates}
	return w, nil
}

// readCertificates reads a file that has at least one certificate in PEM.
func readCertificates(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	defer f.Close()
	text, err := readAtMost(f, maxKeySet)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %s: %w", name, err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read certificates: %s has none in PEM", name)
	}
	return text, nil
}

// registered is what RegisterCluster answers.
type registered struct {
	Cluster struct {
		clusterView
		CreatedAt epoch `json:"createdAt"`
		Identity  struct {
			OIDC struct {
				Issuer string `json:"issuer"`
			} `json:"oidc"`
		} `json:"identity"`
	} `json:"cluster"`
}

func newClusterCommand(c *cli) *cobra.Command {
	return group("cluster", "Register, list, describe and delete clusters",
		newClusterRegister(c), newClusterUpdateKeys(c), newClusterTokenWebhook(c), newClusterList(c), newClusterDescribe(c), newClusterDelete(c))
}

func newClusterRegister(c *cli) *cobra.Command {
	var r registration
	var keys keyInput
	var endpoint endpointInput
	var provider bool
	var roles componentRoles
	cmd := &cobra.Command{
		Use:   "register NAME",
		Short: "Register a cluster, with a hosted issuer or with its own",
		Long: `Register a cluster. Without more, Lanyard hosts the cluster's issuer: it keeps the keys and signs the tokens.

With --kubeconfig, the cluster signs its own tokens: issuer and public keys are read from its API server, and its address and the certificates
that vouch for it from the kubeconfig, for "aws eks update-kubeconfig". The OIDC provider for IRSA is made
unless --oidc-provider=false, and, unless --roles=false, the roles by which the chart's agent and webhook do their work: each for its own
service account in --namespace, and for this cluster alone. Nothing is installed in the cluster. Done again, it brings all of it up to date.

Whoever may make PodIdentityAssociation resources in a namespace can use every role that --pass-roles names and that trusts pods: those whose
names begin with the cluster's and a dash, unless it says otherwise.

With --issuer the same is said by hand; the keys come from --jwks or --public-key, or are fetched from the issuer whenever
they are needed. An issuer need not be reachable where its keys are given.`,
		Example: `  lanyard cluster register dev
  lanyard cluster register prod --kubeconfig ~/.kube/config --kube-context prod
  lanyard cluster register prod --issuer https://oidc.example.com/prod
  lanyard cluster register prod --issuer https://kubernetes.default.svc --public-key /etc/kubernetes/pki/sa.pub`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[0]
			var read publicKeys
			if keys.given() {
				if r.Issuer == "" && !keys.fromKubernetes() {
					return withHint(errors.New("keys are given without --issuer"), "name the issuer whose keys these are with --issuer URL")
				}
				var err error
				if read, err = keys.read(cmd.Context()); err != nil {
					return err
				}
				if r.Issuer != "" && read.issuer != "" && r.Issuer != read.issuer {
					return withHint(fmt.Errorf("the API server's tokens are issued by %s, not by %s", read.issuer, r.Issuer),
						"leave --issuer out: the API server knows its own")
				}
				c.warnOfKeys(read.keys)
				r.Issuer, r.JWKS = cmp.Or(r.Issuer, read.issuer), string(read.document)
			}
			var err error
			if r.whereabouts, err = endpoint.read(read.api); err != nil {
				return err
			}
			if read.api != nil && r.Endpoint == "" {
				fmt.Fprintf(c.err, "note: the kubeconfig names no certificate authority, so that nobody is told where the API server is: see --certificate-authority\n")
			}
			if !cmd.Flags().Changed("oidc-provider") {
				provider = keys.fromKubernetes() && strings.HasPrefix(r.Issuer, "https://")
			}
			switch {
			case !cmd.Flags().Changed("roles"):
				roles.make = provider && keys.fromKubernetes()
			case roles.make && !provider:
				return withHint(errors.New("--roles needs the OIDC provider, which the roles trust"), "add --oidc-provider")
			}
			if !cmd.Flags().Changed("pass-roles") {
				roles.passable = r.Name + "-*"
			}
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			v, update, err := registerCluster(cmd.Context(), cfg, r)
			if err != nil {
				return err
			}
			if read.document != nil {
				v.KeyIDs = read.ids()
			}
			if provider {
				if v.ProviderARN, err = providerFor(cmd.Context(), cfg, v.Issuer); err != nil {
					return withHint(fmt.Errorf("cluster %s is registered, but IRSA is not ready: %w", r.Name, err),
						"run the same again when that is mended, or with --oidc-provider=false to do without IRSA")
				}
			}
			if roles.make {
				if err := roles.ensure(cmd.Context(), cfg, &v); err != nil {
					return fmt.Errorf("cluster %s is registered, but the roles of the agent and the webhook are not ready: %w", r.Name, err)
				}
			}
			if err := c.printCluster(v); err != nil {
				return err
			}
			if keys.given() {
				c.printNext(v, update)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&r.Issuer, "issuer", "", "URL of the cluster's own issuer (default: hosted, or that of the API server)")
	keys.flags(cmd)
	endpoint.flags(cmd)
	cmd.Flags().BoolVar(&provider, "oidc-provider", false, "make the OIDC provider that IRSA needs (default: with --kubeconfig)")
	roles.flags(cmd)
	cmd.Flags().StringToStringVar(&r.Tags, "tags", nil, "tags, as key=value,…")
	return cmd
}

// registerCluster registers a cluster, or brings the keys, the endpoint and the tags of the one that is there up to date if its issuer is the same.
// update is nil for one that was not there.
func registerCluster(ctx context.Context, cfg aws.Config, r registration) (v clusterView, update *keyUpdate, err error) {
	var out registered
	err = lanyardAPI(ctx, cfg, http.MethodPost, "/lanyard/clusters", r, &out)
	if err == nil {
		v = out.Cluster.clusterView
		v.Issuer, v.CreatedAt = out.Cluster.Identity.OIDC.Issuer, &out.Cluster.CreatedAt.Time
		return v, nil, nil
	}
	taken := explainCluster(err, r.Name, "register")
	api := smithy.APIError(nil)
	if r.JWKS == "" || !errors.As(err, &api) || api.ErrorCode() != "ResourceInUseException" {
		return clusterView{}, nil, taken
	}
	client := eks.NewFromConfig(cfg)
	have, err := describeCluster(ctx, client, r.Name)
	switch missing := (*types.ResourceNotFoundException)(nil); {
	case errors.As(err, &missing): // it is the issuer that is taken, by a cluster of another name
		return clusterView{}, nil, taken
	case err != nil:
		return clusterView{}, nil, err
	case have.Issuer != r.Issuer:
		return clusterView{}, nil, withHint(fmt.Errorf("cluster %s is registered with the issuer %s, not with %s", r.Name, have.Issuer, r.Issuer),
			"is this the kubeconfig of another cluster? Take another name for it; or, if the cluster's issuer has changed, "+
				"`lanyard cluster delete %s` first, which deletes its associations too", r.Name)
	}
	if update, err = updateKeys(ctx, cfg, r.Name, r.JWKS); err != nil {
		return clusterView{}, nil, err
	}
	if r.Endpoint != "" {
		if err := lanyardAPI(ctx, cfg, http.MethodPut, lanyardapi.ClusterPath(r.Name, "/endpoint"), r.whereabouts, &out); err != nil {
			return clusterView{}, nil, explainCluster(err, r.Name, "update the endpoint of")
		}
	}
	if len(r.Tags) > 0 {
		if _, err := client.TagResource(ctx, &eks.TagResourceInput{ResourceArn: &have.ARN, Tags: r.Tags}); err != nil {
			return clusterView{}, nil, fmt.Errorf("tag cluster %s: %w", r.Name, err)
		}
		if have, err = describeCluster(ctx, client, r.Name); err != nil {
			return clusterView{}, nil, err
		}
	}
	return have, update, nil
}

// providerFor makes the OIDC provider of an issuer in the caller's account.
func providerFor(ctx context.Context, cfg aws.Config, issuer string) (string, error) {
	who, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", fmt.Errorf("find out the account: %w", err)
	}
	return ensureProvider(ctx, iam.NewFromConfig(cfg), value(who.Arn), issuer)
}

// printNext says what was done to a cluster with an issuer of its own, and what to do with it.
func (c *cli) printNext(v clusterView, update *keyUpdate) {
	if update == nil {
		fmt.Fprintf(c.err, "cluster %s registered with %s\n", v.Name, count(len(v.KeyIDs), "key"))
	} else {
		fmt.Fprintf(c.err, "cluster %s was registered already: %s\n", v.Name, update)
	}
	fmt.Fprintf(c.err, "next: lanyard association create --cluster %s -n NAMESPACE -s SERVICE_ACCOUNT --role-arn ARN\n", v.Name)
	if v.ProviderARN != "" {
		fmt.Fprintf(c.err, "  or: lanyard irsa create --cluster %s -n NAMESPACE -s SERVICE_ACCOUNT --policy-arn ARN\n", v.Name)
	}
	fmt.Fprintf(c.err, "when the API server's keys change, unless lanyard-webhook runs in the cluster: lanyard cluster update-keys %s\n", v.Name)
	if reason := notPublic(v.Issuer); reason != "" {
		fmt.Fprintf(c.err, "note: Pod Identity works, but AWS's own STS takes no tokens of %s for IRSA: %s; see `lanyard oidc publish --help`\n", v.Issuer, reason)
	}
}

// count prints a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// keyUpdate is what became of a cluster's registered keys.
type keyUpdate struct {
	Name     string   `json:"name"`
	Previous []string `json:"previousKeyIds"`
	KeyIDs   []string `json:"keyIds"`
}

// String says which keys came and went.
func (u *keyUpdate) String() string {
	added := slices.DeleteFunc(slices.Clone(u.KeyIDs), func(id string) bool { return slices.Contains(u.Previous, id) })
	removed := slices.DeleteFunc(slices.Clone(u.Previous), func(id string) bool { return slices.Contains(u.KeyIDs, id) })
	if len(added)+len(removed) == 0 {
		return "its keys are the same"
	}
	return fmt.Sprintf("%s added, %s removed, %d kept", count(len(added), "key"), count(len(removed), "key"), len(u.KeyIDs)-len(added))
}

func updateKeys(ctx context.Context, cfg aws.Config, cluster, jwks string) (*keyUpdate, error) {
	u := &keyUpdate{Name: cluster}
	if err := lanyardAPI(ctx, cfg, http.MethodPut, lanyardapi.ClusterPath(cluster, "/keys"), map[string]string{"jwks": jwks}, u); err != nil {
		return nil, explainCluster(err, cluster, "update the keys of")
	}
	return u, nil
}

func newClusterUpdateKeys(c *cli) *cobra.Command {
	var keys keyInput
	cmd := &cobra.Command{
		Use:   "update-keys NAME {--kubeconfig FILE | --jwks FILE | --public-key FILE…}",
		Short: "Replace the registered keys of a cluster by those that its API server serves",
		Long: `Replace the registered keys of a cluster that has an issuer of its own. An API server that rotates its keys goes on serving the old ones
for as long as it is told to accept them, so that tokens of both are honoured; a key that is not served any more is
gone at once, and its tokens are refused. lanyard-webhook does the same by itself.`,
		Example: `  lanyard cluster update-keys prod --kubeconfig ~/.kube/config
  lanyard cluster update-keys prod --public-key sa.pub --public-key sa-next.pub`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			read, err := keys.read(cmd.Context())
			if err != nil {
				return err
			}
			c.warnOfKeys(read.keys)
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			if read.issuer != "" {
				have, err := describeCluster(cmd.Context(), eks.NewFromConfig(cfg), args[0])
				if err != nil {
					return err
				}
				if have.Issuer != read.issuer {
					return withHint(fmt.Errorf("the issuer of cluster %s is %s, but that of the API server %s", args[0], have.Issuer, read.issuer),
						"is this the kubeconfig of another cluster?")
				}
			}
			u, err := updateKeys(cmd.Context(), cfg, args[0], string(read.document))
			if err != nil {
				return err
			}
			return c.printFields(u, [][2]string{
				{"Name", u.Name}, {"Keys before", strings.Join(u.Previous, ", ")}, {"Keys", strings.Join(u.KeyIDs, ", ")}, {"Result", u.String()},
			})
		},
	}
	keys.flags(cmd)
	cmd.MarkFlagsOneRequired("kubeconfig", "kube-context", "jwks", "public-key")
	return cmd
}

func newClusterTokenWebhook(c *cli) *cobra.Command {
	var server, authorityFile, serverName string
	cmd := &cobra.Command{
		Use:   "token-webhook NAME",
		Short: "Print the file by which a kube-apiserver asks Lanyard who people are",
		Long: `Print the file by which a kube-apiserver asks Lanyard who the bearer of a token is, for its flags

  --authentication-token-webhook-config-file=FILE --authentication-token-webhook-version=v1

People then come with "aws eks update-kubeconfig", as they are in IAM, and may do what their access entries say. docs/access.md tells the rest.`,
		Example: `  lanyard cluster token-webhook prod > /etc/kubernetes/lanyard.yaml
  lanyard cluster token-webhook prod --server https://10.96.0.20 --tls-server-name lanyard-server.lanyard.svc --certificate-authority ca.pem`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			address := strings.TrimSuffix(cmp.Or(server, serviceEndpoint(cfg, "AWS_ENDPOINT_URL_LANYARD")), "/")
			if !strings.HasPrefix(address, "https://") {
				return withHint(fmt.Errorf("API servers ask over TLS alone, and %q is no https URL", address), "say where Lanyard is with --server https://…")
			}
			v, err := describeCluster(cmd.Context(), eks.NewFromConfig(cfg), args[0])
			if err != nil {
				return err
			}
			cluster, err := arn.Parse(v.ARN)
			if err != nil {
				return fmt.Errorf("read the cluster's ARN: %w", err)
			}
			var certificates []byte
			if file := cmp.Or(authorityFile, os.Getenv("AWS_CA_BUNDLE")); file != "" {
				if certificates, err = readCertificates(file); err != nil {
					return err
				}
			}
			const name = "lanyard"
			config := clientcmdapi.NewConfig()
			config.Clusters[name] = &clientcmdapi.Cluster{
				Server:                   address + kubeaccess.Path + cluster.Account() + "/" + cluster.Region() + "/" + v.Name,
				TLSServerName:            serverName,
				CertificateAuthorityData: certificates,
			}
			config.AuthInfos[name] = clientcmdapi.NewAuthInfo()
			config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
			config.CurrentContext = name
			text, err := clientcmd.Write(*config)
			if err != nil {
				return fmt.Errorf("write the file: %w", err)
			}
			_, err = c.out.Write(text)
			return err
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "https URL of Lanyard, as the API server reaches it (default: the endpoint)")
	cmd.Flags().StringVar(&authorityFile, "certificate-authority", "", "file with certificates in PEM that vouch for it (default: AWS_CA_BUNDLE; without either, the API server's machine knows)")
	cmd.Flags().StringVar(&serverName, "tls-server-name", "", "name to know it by, where it is reached by another")
	return cmd
}

func newClusterList(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List clusters",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			client := eks.NewFromConfig(cfg)
			clusters := []clusterView{}
			for pages := eks.NewListClustersPaginator(client, &eks.ListClustersInput{}); pages.HasMorePages(); {
				page, err := pages.NextPage(cmd.Context())
				if err != nil {
					return fmt.Errorf("list clusters: %w", err)
				}
				for _, name := range page.Clusters {
					cluster, err := describeCluster(cmd.Context(), client, name)
					if err != nil {
						return err
					}
					clusters = append(clusters, cluster)
				}
			}
			rows := [][]string{{"NAME", "STATUS", "ISSUER", "AGE"}}
			for _, v := range clusters {
				rows = append(rows, []string{v.Name, v.Status, v.Issuer, age(v.CreatedAt)})
			}
			return c.print(clusters, rows)
		},
	}
}

func newClusterDescribe(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "describe NAME",
		Short:             "Describe a cluster",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			v, err := describeCluster(cmd.Context(), eks.NewFromConfig(cfg), args[0])
			if err != nil {
				return err
			}
			return c.printCluster(v)
		},
	}
}

func newClusterDelete(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "delete NAME",
		Short:             "Delete a cluster, its associations, and its issuer if Lanyard hosts it",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			if _, err := eks.NewFromConfig(cfg).DeleteCluster(cmd.Context(), &eks.DeleteClusterInput{Name: &args[0]}); err != nil {
				return explainCluster(err, args[0], "delete")
			}
			fmt.Fprintf(c.err, "cluster %s deleted\n", args[0])
			return nil
		},
	}
}

// clusterView is a cluster as it is printed.
type clusterView struct {
	Name      string            `json:"name"`
	ARN       string            `json:"arn"`
	Status    string            `json:"status"`
	Version   string            `json:"version,omitempty"`
	Issuer    string            `json:"issuer,omitempty"`
	CreatedAt *time.Time        `json:"createdAt,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`

	// What `cluster register` has done besides.
	KeyIDs      []string `json:"keyIds,omitempty"`
	ProviderARN string   `json:"providerArn,omitempty"`
	// The roles of the chart's agent and webhook.
	AgentRoleARN   string `json:"agentRoleArn,omitempty"`
	WebhookRoleARN string `json:"webhookRoleArn,omitempty"`
}

func (c *cli) printCluster(v clusterView) error {
	return c.printFields(v, [][2]string{
		{"Name", v.Name}, {"ARN", v.ARN}, {"Status", v.Status}, {"Version", v.Version}, {"Issuer", v.Issuer}, {"Age", age(v.CreatedAt)},
		{"Tags", pairs(v.Tags)}, {"Keys", strings.Join(v.KeyIDs, ", ")}, {"Provider", v.ProviderARN},
		{"Agent", v.AgentRoleARN}, {"Webhook", v.WebhookRoleARN},
	})
}

func describeCluster(ctx context.Context, client *eks.Client, name string) (clusterView, error) {
	out, err := client.DescribeCluster(ctx, &eks.DescribeClusterInput{Name: &name})
	if err != nil {
		return clusterView{}, explainCluster(err, name, "describe")
	}
	v := clusterView{
		Name: value(out.Cluster.Name), ARN: value(out.Cluster.Arn), Status: string(out.Cluster.Status), Version: value(out.Cluster.Version),
		CreatedAt: out.Cluster.CreatedAt, Tags: out.Cluster.Tags,
	}
	if id := out.Cluster.Identity; id != nil && id.Oidc != nil {
		v.Issuer = value(id.Oidc.Issuer)
	}
	return v, nil
}

func explainCluster(err error, name, verb string) error {
	wrapped := fmt.Errorf("%s cluster %s: %w", verb, name, err)
	if api := smithy.APIError(nil); errors.As(err, &api) {
		switch api.ErrorCode() {
		case "ResourceNotFoundException":
			return withHint(wrapped, "list the clusters with `lanyard cluster list`, or register this one with `lanyard cluster register %s`", name)
		case "ResourceInUseException":
			if strings.Contains(api.ErrorMessage(), "is registered with the issuer") {
				return withHint(wrapped, "`lanyard cluster list` says by which name, if it is this cluster. If not, this one needs an issuer of its own, by its API servers' "+
					"--service-account-issuer: many installers give the same one to all clusters")
			}
			return withHint(wrapped, "see what is there with `lanyard cluster list`, or take another name")
		}
	}
	return wrapped
}
