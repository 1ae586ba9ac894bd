// Command lanyard-webhook is the admission webhook that gives pods what they need for their credentials: it is AWS's pod
// identity webhook, with the same flags, for any cluster and for AWS as well as Lanyard.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/internal/webhook"
)

func main() { daemon.Main("lanyard-webhook", run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "cleanup" {
		return runCleanup(ctx, args[1:], stdout, stderr)
	}
	c, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if c.version {
		fmt.Fprintln(stdout, version())
		return nil
	}
	return serve(ctx, c, stdout)
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// The names of what the webhook keeps in its namespace, besides its certificate, unless flags say otherwise.
const (
	tlsSecret  = "pod-identity-webhook"
	keysSecret = "lanyard-webhook-keys"
	leaseName  = "lanyard-webhook"
)

// config is what the flags say.
type config struct {
	version             bool
	logLevel            string
	address             string // to listen on
	port, metricsPort   uint16
	kubeconfig, kubeAPI string
	// inCluster makes the certificate; otherwise it is read from files, as cert-manager writes them.
	inCluster                                  bool
	tlsCert, tlsKey                            string
	namespace, service, tlsSecret, webhookName string
	settings                                   podspec.Settings
	watchConfigMap                             bool
	cluster, identitiesFile                    string // where the associations are: of at most one
	syncPeriod, firstSync, lookupTimeout       time.Duration
	stopDelay                                  time.Duration
	caFiles                                    []string      // whose certificates are published to the pods' namespaces
	reportPeriod                               time.Duration // 0 reports nothing
	reportExcept                               string        // namespaces, with commas between
	pushKeys                                   bool
	keyPeriod, keyRetention                    time.Duration
	keysSecret                                 string
	reconcile                                  bool
	reconcilePeriod                            time.Duration
	keepAccess                                 bool
	accessPeriod                               time.Duration
	lease                                      string
	failClosed                                 bool
	composeRole                                bool
	account                                    string
}

func parse(args []string, stderr io.Writer) (*config, error) {
	c := &config{port: 443, metricsPort: 9999}
	flags := flag.NewFlagSet("lanyard-webhook", flag.ContinueOnError)
	flags.SetOutput(stderr)
	port := func(into *uint16, name, what string) {
		flags.Func(name, fmt.Sprintf("%s (default %d)", what, *into), func(s string) error {
			n, err := strconv.ParseUint(s, 10, 16)
			if err != nil {
				return errors.New("not a port")
			}
			*into = uint16(n)
			return nil
		})
	}
	flags.StringVar(&c.address, "address", "", "`address` to listen on (default all)")
	port(&c.port, "port", "`port` for API servers")
	port(&c.metricsPort, "metrics-port", "`port` for metrics and probes")
	flags.StringVar(&c.kubeconfig, "kubeconfig", "", "`file` that says where the API server is (default the pod's own service account)")
	flags.StringVar(&c.kubeAPI, "kube-api", "", "`URL` of the API server")
	flags.BoolVar(&c.inCluster, "in-cluster", true, "make the serving certificate, keep it in a secret, and have the MutatingWebhookConfiguration trust it; false reads it from files")
	flags.StringVar(&c.tlsCert, "tls-cert", "/etc/webhook/certs/tls.crt", "`file` with the serving certificate, with --in-cluster=false; read again when it changes")
	flags.StringVar(&c.tlsKey, "tls-key", "/etc/webhook/certs/tls.key", "`file` with its key")
	flags.StringVar(&c.service, "service-name", "pod-identity-webhook", "`name` of the service in front of the webhook")
	flags.StringVar(&c.namespace, "namespace", "eks", "`namespace` of the service and of the secret")
	flags.StringVar(&c.tlsSecret, "tls-secret", tlsSecret, "`name` of the secret that keeps the certificate's authority")
	flags.StringVar(&c.webhookName, "webhook-configuration", "pod-identity-webhook", "`name` of the MutatingWebhookConfiguration")

	s := &c.settings
	s.Flags(flags)
	flags.BoolVar(&c.composeRole, "compose-role-arn", false, "take a role's path and name for its ARN; needs --account-id and --aws-default-region")
	flags.StringVar(&c.account, "account-id", "", "`account` of roles that are annotated without it")
	flags.Func("pod-ca-file", "`file` with certificates in PEM to keep in that ConfigMap, where pods need it; may be given more than once: pods trust only these (default: somebody else keeps it)",
		func(s string) error {
			c.caFiles = append(c.caFiles, s)
			return nil
		})

	flags.BoolVar(&c.watchConfigMap, "watch-config-map", false, "give roles to service accounts without annotations as the ConfigMap "+webhook.ConfiguredConfigMap+" of --namespace says, too")
	flags.StringVar(&c.cluster, "cluster-name", "", "`name` of the cluster whose Pod Identity associations are asked for at the EKS API")
	flags.StringVar(&c.identitiesFile, "watch-container-credentials-config", "", "`file` with the service accounts that use Pod Identity, instead of the EKS API")
	flags.BoolVar(&c.pushKeys, "push-keys", false, "register the API server's public keys with Lanyard, for --cluster-name, as the API server rotates them")
	flags.DurationVar(&c.keyPeriod, "key-push-period", 5*time.Second, "`time` from one look at the API server's keys to the next")
	flags.DurationVar(&c.keyRetention, "key-retention", 24*time.Hour, "`time` that keys stay registered which the API server does not publish any more: as long as tokens live")
	flags.StringVar(&c.keysSecret, "keys-secret", keysSecret, "`name` of the secret that remembers which keys were pushed")
	flags.BoolVar(&c.reconcile, "reconcile-associations", false, "have the EKS API have the associations that PodIdentityAssociation resources say, in --cluster-name")
	flags.DurationVar(&c.reconcilePeriod, "reconcile-period", 5*time.Minute, "`time` after which the association of a resource is looked at again")
	flags.BoolVar(&c.keepAccess, "keep-access", false, "keep the RoleBindings that the access policies of --cluster-name ask for in namespaces")
	flags.DurationVar(&c.accessPeriod, "access-period", 15*time.Second, "`time` from one look at the access policies to the next")
	flags.StringVar(&c.lease, "lease", leaseName, "`name` of the lease by which one replica is chosen to do these three")
	flags.DurationVar(&c.syncPeriod, "association-sync-period", 15*time.Second, "`time` from one list of all associations to the next")
	flags.DurationVar(&c.firstSync, "association-first-sync", time.Minute, "`time` to wait, not ready, for the first list of associations while nobody answers; then the webhook serves without it")
	flags.DurationVar(&c.lookupTimeout, "lookup-timeout", 3*time.Second, "`time` that the lookup of a service account or an association may take")
	flags.BoolVar(&c.failClosed, "fail-closed", false, "refuse pods of which it cannot be told whether they have a role, instead of admitting them with a warning")
	flags.DurationVar(&c.stopDelay, "stop-delay", 5*time.Second, "`time` to go on serving after SIGTERM, while the service's endpoints change")
	flags.DurationVar(&c.reportPeriod, "report-period", time.Minute, "`time` from one look for pods that run without the identity of their service account to the next; 0 does not look")
	flags.StringVar(&c.reportExcept, "report-except", "kube-system", "`namespaces`, with commas between, that the registration leaves out, as it does --namespace: their pods are not reported")
	flags.StringVar(&c.logLevel, "log-level", "info", "log `level`: debug, info, warn or error")
	flags.Func("v", "log `verbosity` as AWS's webhook takes it: from 4 on it is --log-level debug", func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil {
			return errors.New("not a number")
		}
		if n >= 4 {
			c.logLevel = "debug"
		}
		return nil
	})
	flags.BoolVar(&c.version, "version", false, "print the version")
	flags.Duration("resync-period", time.Minute, "taken for AWS's manifests; nothing depends on it")
	flags.Duration("service-account-lookup-grace-period", 0, "taken for AWS's manifests; service accounts are looked up at once")
	if err := daemon.ParseFlags(flags, args); err != nil {
		return nil, err
	}
	switch {
	case c.cluster != "" && c.identitiesFile != "":
		return nil, errors.New("--cluster-name and --watch-container-credentials-config are two sources of associations: give one")
	case c.syncPeriod <= 0 || c.lookupTimeout <= 0 || c.firstSync < 0 || c.stopDelay < 0 || c.reportPeriod < 0:
		return nil, errors.New("--association-sync-period and --lookup-timeout must be positive, --association-first-sync, --stop-delay and --report-period not negative")
	case c.keyPeriod <= 0 || c.keyRetention <= 0 || c.reconcilePeriod <= 0 || c.accessPeriod <= 0:
		return nil, errors.New("--key-push-period, --key-retention, --reconcile-period and --access-period must be positive")
	case (c.pushKeys || c.reconcile || c.keepAccess) && c.cluster == "":
		return nil, errors.New("--push-keys, --reconcile-associations and --keep-access are for --cluster-name, which is missing")
	case s.CA.Name != "" && s.Endpoint == "":
		return nil, errors.New("--pod-ca-config-map is for --pod-endpoint-url, which is missing")
	case len(c.caFiles) > 0 && s.CA.Name == "":
		return nil, errors.New("--pod-ca-file is for --pod-ca-config-map, which is missing")
	}
	s.TokenExpiration = podspec.ClampExpiration(s.TokenExpiration)
	return c, c.compose()
}

// compose reads what roles without an account are completed with.
func (c *config) compose() error {
	if !c.composeRole {
		return nil
	}
	partition, ok := arn.PartitionOfRegion(c.settings.Region)
	if !ok || !arn.ValidAccountID(c.account) {
		return errors.New("--compose-role-arn needs the roles' account, by --account-id, and their partition, by --aws-default-region")
	}
	c.settings.Compose = &podspec.Account{Partition: partition.Name, ID: c.account}
	return nil
}
