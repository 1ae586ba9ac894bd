package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	rbacv1client "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/lanyard-id/lanyard/internal/associations"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/rolebindings"
	"github.com/lanyard-id/lanyard/internal/webhook"
)

// cleanup takes away what the webhook and its users have made in a cluster, before it is uninstalled and after.
type cleanup struct {
	kubeconfig, kubeAPI, logLevel           string
	namespace, tlsSecret, keysSecret, lease string
	configMap                               string
	access                                  bool
	timeout                                 time.Duration
}

func parseCleanup(args []string, stderr io.Writer) (*cleanup, error) {
	c := &cleanup{}
	flags := flag.NewFlagSet("lanyard-webhook cleanup", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&c.kubeconfig, "kubeconfig", "", "`file` that says where the API server is (default the pod's own service account)")
	flags.StringVar(&c.kubeAPI, "kube-api", "", "`URL` of the API server")
	flags.StringVar(&c.namespace, "namespace", "eks", "`namespace` of the webhook")
	flags.StringVar(&c.tlsSecret, "tls-secret", tlsSecret, "`name` of the secret with its certificate's authority")
	flags.StringVar(&c.keysSecret, "keys-secret", keysSecret, "`name` of the secret that remembers which keys were pushed")
	flags.StringVar(&c.lease, "lease", leaseName, "`name` of its lease")
	flags.StringVar(&c.configMap, "pod-ca-config-map", "lanyard-ca", "`name` of the ConfigMaps with certificates in pods' namespaces")
	flags.BoolVar(&c.access, "keep-access", false, "also delete the RoleBindings of access policies")
	flags.DurationVar(&c.timeout, "timeout", 5*time.Minute, "`time` that all of it may take")
	flags.StringVar(&c.logLevel, "log-level", "info", "log `level`: debug, info, warn or error")
	if err := daemon.ParseFlags(flags, args); err != nil {
		return nil, err
	}
	if c.timeout <= 0 {
		return nil, errors.New("--timeout must be positive")
	}
	return c, nil
}

func runCleanup(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, err := parseCleanup(args, stderr)
	if err != nil {
		return err
	}
	log, err := daemon.NewLogger(stdout, c.logLevel, "json")
	if err != nil {
		return err
	}
	cluster, err := kubernetes(c.kubeAPI, c.kubeconfig)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.run(ctx, cluster, log)
}

// run does it in the order of what needs what: the associations need the webhook, and so all the rest.
func (c *cleanup) run(ctx context.Context, cluster *rest.Config, log *slog.Logger) error {
	resources, err := dynamic.NewForConfig(cluster)
	if err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	core, err := corev1client.NewForConfig(cluster)
	if err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	leases, err := coordinationclient.NewForConfig(cluster)
	if err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	if err := associations.DeleteAll(ctx, resources, log); err != nil {
		return err
	}
	if err := webhook.DeleteBundles(ctx, core, c.configMap, log); err != nil {
		return err
	}
	if c.access {
		roles, err := rbacv1client.NewForConfig(cluster)
		if err != nil {
			return fmt.Errorf("make a client of the API server: %w", err)
		}
		if err := rolebindings.DeleteAll(ctx, roles, log); err != nil {
			return err
		}
	}
	for _, name := range []string{c.tlsSecret, c.keysSecret} {
		if err := core.Secrets(c.namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete secret %s: %w", name, err)
		}
	}
	if err := leases.Leases(c.namespace).Delete(ctx, c.lease, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete lease %s: %w", c.lease, err)
	}
	log.Info("cleaned up")
	return nil
}
