package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

// The ConfigMap of AWS's webhook, in its namespace, and the key of its text.
const (
	ConfiguredConfigMap = "pod-identity-webhook"
	ConfiguredKey       = "config"
)

// Configured knows the service accounts that have a role without an annotation; the zero Configured knows none. Both functions return the
// annotations that say the same, nil for an account of which nothing is said.
type Configured struct {
	// Memory answers at once, from what may be behind the cluster by moments.
	Memory func(namespace, name string) map[string]string
	// Live asks the cluster.
	Live func(ctx context.Context, namespace, name string) (map[string]string, error)
}

// ConfigMapAccounts are the service accounts that a ConfigMap gives roles to: a copy in memory that follows the API server.
type ConfigMapAccounts struct {
	settings   podspec.Settings
	log        *slog.Logger
	controller cache.Controller
	current    atomic.Pointer[podspec.ConfiguredAccounts] // as they could be read last
	live       *flights[struct{}, podspec.ConfiguredAccounts]
}

// ConfigMapAccountsConfig is what ConfigMapAccounts needs.
type ConfigMapAccountsConfig struct {
	Client    corev1client.CoreV1Interface // required; may get, list and watch the ConfigMap
	Namespace string                       // of the ConfigMap ConfiguredConfigMap; required
	Settings  podspec.Settings             // of the webhook
	Timeout   time.Duration                // of a live lookup; required
	Metrics   *Metrics                     // required
	Log       *slog.Logger
}

// NewConfigMapAccounts returns ConfigMapAccounts with nothing in memory; Run fills it.
func NewConfigMapAccounts(c ConfigMapAccountsConfig) *ConfigMapAccounts {
	a := &ConfigMapAccounts{settings: c.Settings, log: c.Log}
	a.current.Store(&podspec.ConfiguredAccounts{})
	source := cache.NewListWatchFromClient(c.Client.RESTClient(), "configmaps", c.Namespace, fields.OneTermEqualSelector("metadata.name", ConfiguredConfigMap))
	_, a.controller = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(source, c.Client.RESTClient()),
		ObjectType:    &corev1.ConfigMap{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    a.follow,
			UpdateFunc: func(_, changed any) { a.follow(changed) },
			DeleteFunc: func(any) { a.current.Store(&podspec.ConfiguredAccounts{}) },
		},
	})
	a.live = newFlights(c.Timeout, func(ctx context.Context, _ struct{}) (podspec.ConfiguredAccounts, error) {
		start := time.Now()
		m, err := c.Client.ConfigMaps(c.Namespace).Get(ctx, ConfiguredConfigMap, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			m, err = nil, nil
		}
		c.Metrics.lookedUp(sourceConfigMap, m != nil, err, time.Since(start))
		switch {
		case err != nil:
			return nil, fmt.Errorf("get ConfigMap %s/%s: %w", c.Namespace, ConfiguredConfigMap, err)
		case m == nil:
			return nil, nil
		}
		return podspec.ParseConfiguredAccounts([]byte(m.Data[ConfiguredKey]))
	})
	return a
}

// follow takes what the API server tells. What cannot be read does not change what is in memory.
func (a *ConfigMapAccounts) follow(o any) {
	m, ok := o.(*corev1.ConfigMap)
	if !ok {
		return
	}
	accounts, err := podspec.ParseConfiguredAccounts([]byte(m.Data[ConfiguredKey]))
	if err != nil {
		a.log.Warn("ConfigMap not read, so that its roles are those of before", "namespace", m.Namespace, "name", m.Name, "err", err)
		return
	}
	a.current.Store(&accounts)
}

// Run follows the API server until ctx ends. While it cannot be reached, what is in memory stays.
func (a *ConfigMapAccounts) Run(ctx context.Context) { a.controller.RunWithContext(ctx) }

// Synced reports whether the ConfigMap has been read once, or is known not to be there.
func (a *ConfigMapAccounts) Synced() bool { return a.controller.HasSynced() }

// Configured returns them as a Handler needs them.
func (a *ConfigMapAccounts) Configured() Configured {
	annotations := func(all podspec.ConfiguredAccounts, namespace, name string) map[string]string {
		if c, ok := all.Find(namespace, name); ok {
			return a.settings.Annotations(c)
		}
		return nil
	}
	return Configured{
		Memory: func(namespace, name string) map[string]string { return annotations(*a.current.Load(), namespace, name) },
		Live: func(ctx context.Context, namespace, name string) (map[string]string, error) {
			all, err := a.live.do(ctx, struct{}{})
			return annotations(all, namespace, name), err
		},
	}
}
