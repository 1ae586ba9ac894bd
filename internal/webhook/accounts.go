package webhook

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

// ClusterAccounts are the service accounts of a cluster: a copy in memory that follows the API server.
type ClusterAccounts struct {
	store      cache.Store
	controller cache.Controller
	live       *flights[types.NamespacedName, *corev1.ServiceAccount]
}

// ClusterAccountsConfig is what ClusterAccounts needs.
type ClusterAccountsConfig struct {
	Client           corev1client.CoreV1Interface // required; may get, list and watch service accounts
	AnnotationPrefix string                       // of the annotations to keep; podspec.AnnotationPrefix when empty
	Timeout          time.Duration                // of a live lookup; required
	Metrics          *Metrics                     // required
	// Followed is called whenever the API server begins to tell of changes, at first and again after it was restarted; nil calls
	// nobody. It must not block.
	Followed func()
}

// NewClusterAccounts returns ClusterAccounts with nothing in memory; Run fills it.
func NewClusterAccounts(c ClusterAccountsConfig) *ClusterAccounts {
	if c.AnnotationPrefix == "" {
		c.AnnotationPrefix = podspec.AnnotationPrefix
	}
	a := &ClusterAccounts{}
	source := cache.NewListWatchFromClient(c.Client.RESTClient(), "serviceaccounts", metav1.NamespaceAll, fields.Everything())
	if follow := source.WatchFuncWithContext; c.Followed != nil {
		source.WatchFuncWithContext = func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			changes, err := follow(ctx, o)
			if err == nil {
				c.Followed()
			}
			return changes, err
		}
	}
	a.store, a.controller = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(source, c.Client.RESTClient()),
		ObjectType:    &corev1.ServiceAccount{},
		Handler:       cache.ResourceEventHandlerFuncs{},
		Transform: func(o any) (any, error) {
			if account, ok := o.(*corev1.ServiceAccount); ok {
				return trimAccount(account, c.AnnotationPrefix+"/"), nil
			}
			return o, nil
		},
	})
	a.live = newFlights(c.Timeout, func(ctx context.Context, who types.NamespacedName) (*corev1.ServiceAccount, error) {
		start := time.Now()
		account, err := c.Client.ServiceAccounts(who.Namespace).Get(ctx, who.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			account, err = nil, nil
		}
		c.Metrics.lookedUp(sourceAccounts, account != nil, err, time.Since(start))
		if err != nil {
			return nil, fmt.Errorf("get service account %s: %w", who, err)
		}
		return account, nil
	})
	return a
}

// trimAccount returns what is needed of a service account, since there may be many.
func trimAccount(a *corev1.ServiceAccount, prefix string) *corev1.ServiceAccount {
	small := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: a.Namespace, Name: a.Name, UID: a.UID, ResourceVersion: a.ResourceVersion,
	}}
	for k, v := range a.Annotations {
		if strings.HasPrefix(k, prefix) {
			if small.Annotations == nil {
				small.Annotations = map[string]string{}
			}
			small.Annotations[k] = v
		}
	}
	return small
}

// Run follows the API server until ctx ends. While it cannot be reached, what is in memory stays.
func (a *ClusterAccounts) Run(ctx context.Context) { a.controller.RunWithContext(ctx) }

// Synced reports whether all service accounts have been read once.
func (a *ClusterAccounts) Synced() bool { return a.controller.HasSynced() }

// Accounts returns them as a Handler needs them.
func (a *ClusterAccounts) Accounts() Accounts {
	return Accounts{
		Memory: func(namespace, name string) *corev1.ServiceAccount {
			o, _, _ := a.store.GetByKey(namespace + "/" + name) //nolint:errcheck // what memory cannot tell is looked up
			account, _ := o.(*corev1.ServiceAccount)
			return account
		},
		Live: func(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
			return a.live.do(ctx, types.NamespacedName{Namespace: namespace, Name: name})
		},
	}
}
