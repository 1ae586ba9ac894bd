package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/dynamic"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	rbacv1client "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/lanyard-id/lanyard/internal/associations"
	"github.com/lanyard-id/lanyard/internal/lanyardapi"
	"github.com/lanyard-id/lanyard/internal/rolebindings"
	"github.com/lanyard-id/lanyard/internal/webhook"
)

// led is what one replica does at a time; its functions are nil where there is nothing to do.
type led struct {
	run      func(context.Context)
	followed func() // see webhook.ClusterAccountsConfig
}

// led makes what --push-keys, --reconcile-associations and --keep-access ask for.
func (c *config) led(
	ctx context.Context, cluster *rest.Config, core *corev1client.CoreV1Client, events record.EventRecorder,
	metrics *webhook.Metrics, registry prometheus.Registerer, log *slog.Logger,
) (l led, err error) {
	if !c.pushKeys && !c.reconcile && !c.keepAccess {
		return l, nil
	}
	cfg, err := loadAWS(ctx)
	if err != nil {
		return l, err
	}
	var jobs []func(context.Context)
	if c.pushKeys {
		keys, err := c.keys(cfg, core, events, metrics, log)
		if err != nil {
			return l, err
		}
		jobs, l.followed = append(jobs, keys.Run), keys.Look
	}
	if c.reconcile {
		resources, err := dynamic.NewForConfig(cluster)
		if err != nil {
			return l, fmt.Errorf("make a client of the API server: %w", err)
		}
		reconciling, err := associations.NewMetrics(registry)
		if err != nil {
			return l, fmt.Errorf("register metrics: %w", err)
		}
		jobs = append(jobs, associations.New(associations.Config{
			Resources: resources, EKS: eks.NewFromConfig(cfg), Cluster: c.cluster, Every: c.reconcilePeriod,
			Events: events, Metrics: reconciling, Log: log,
		}).Run)
	}
	if c.keepAccess {
		roles, err := rbacv1client.NewForConfig(cluster)
		if err != nil {
			return l, fmt.Errorf("make a client of the API server: %w", err)
		}
		keeping, err := rolebindings.NewMetrics(registry)
		if err != nil {
			return l, fmt.Errorf("register metrics: %w", err)
		}
		jobs = append(jobs, rolebindings.New(rolebindings.Config{
			Namespaces: core, Bindings: roles, EKS: eks.NewFromConfig(cfg), Cluster: c.cluster, Every: c.accessPeriod, Metrics: keeping, Log: log,
		}).Run)
	}
	leases, err := coordinationclient.NewForConfig(cluster)
	if err != nil {
		return l, fmt.Errorf("make a client of the API server: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return l, fmt.Errorf("find out the host's name: %w", err)
	}
	election := webhook.LeaderConfig{
		Leases: leases, Namespace: c.namespace, Name: c.lease, Identity: host + "_" + rand.Text(), Metrics: metrics, Log: log,
	}
	l.run = func(ctx context.Context) {
		if err := webhook.Lead(ctx, election, jobs...); err != nil {
			log.Error("no replica is elected", "err", err)
		}
	}
	return l, nil
}

// keys returns what pushes the API server's keys to Lanyard.
func (c *config) keys(
	cfg aws.Config, core *corev1client.CoreV1Client, events record.EventRecorder, metrics *webhook.Metrics, log *slog.Logger,
) (*webhook.Keys, error) {
	api := newLanyard(cfg)
	if api.Endpoint == "" {
		return nil, errors.New("--push-keys needs Lanyard, and AWS has nothing like it: set AWS_ENDPOINT_URL")
	}
	client := eks.NewFromConfig(cfg)
	namespace := &corev1.ObjectReference{APIVersion: "v1", Kind: "Namespace", Namespace: c.namespace, Name: c.namespace}
	return webhook.NewKeys(webhook.KeysConfig{
		Read: func(ctx context.Context) (string, []byte, error) { return readKeys(ctx, core.RESTClient()) },
		Registered: func(ctx context.Context) (string, error) {
			out, err := client.DescribeCluster(ctx, &eks.DescribeClusterInput{Name: &c.cluster})
			if err != nil {
				return "", err
			}
			if id := out.Cluster.Identity; id != nil && id.Oidc != nil {
				return aws.ToString(id.Oidc.Issuer), nil
			}
			return "", fmt.Errorf("cluster %s has no issuer", c.cluster)
		},
		Push: func(ctx context.Context, jwks []byte) (previous []string, err error) {
			var answer struct{ PreviousKeyIDs []string }
			err = api.Do(ctx, http.MethodPut, lanyardapi.ClusterPath(c.cluster, "/keys"), map[string]string{"jwks": string(jwks)}, &answer)
			return answer.PreviousKeyIDs, err
		},
		Secrets: core, Namespace: c.namespace, Secret: c.keysSecret, Every: c.keyPeriod, Retention: c.keyRetention,
		Event:   func(reason, message string) { events.Event(namespace, corev1.EventTypeWarning, reason, message) },
		Metrics: metrics, Log: log,
	}), nil
}

// readKeys reads the issuer of the API server's tokens and its public keys (Kubernetes, "Service account issuer discovery").
func readKeys(ctx context.Context, api rest.Interface) (issuer string, jwks []byte, err error) {
	get := func(path string) ([]byte, error) {
		text, err := api.Get().AbsPath(path).SetHeader("Accept", "application/json, application/jwk-set+json").Do(ctx).Raw()
		if err != nil {
			return nil, fmt.Errorf("get %s of the API server: %w", path, err)
		}
		return text, nil
	}
	document, err := get("/.well-known/openid-configuration")
	if err != nil {
		return "", nil, err
	}
	var discovery struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(document, &discovery); err != nil {
		return "", nil, fmt.Errorf("read the API server's issuer: %w", err)
	}
	if discovery.Issuer == "" {
		return "", nil, errors.New("read the API server's issuer: its discovery document names none")
	}
	jwks, err = get("/openid/v1/jwks")
	return discovery.Issuer, jwks, err
}
