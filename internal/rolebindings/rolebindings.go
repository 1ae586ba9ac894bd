// Package rolebindings makes access policies true in the namespaces of a cluster: for those who have a policy in some namespaces only, it keeps
// a RoleBinding in each of these. The EKS API, AWS's or Lanyard's, says which they are.
package rolebindings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	rbacv1client "k8s.io/client-go/kubernetes/typed/rbac/v1"

	"github.com/lanyard-id/lanyard/internal/accesspolicy"
	"github.com/lanyard-id/lanyard/internal/subject"
)

// The labels of the RoleBindings that a Keeper keeps. One without either is somebody else's, whatever its name.
const (
	managedLabel = "app.kubernetes.io/managed-by"
	managedBy    = "lanyard-webhook"
	policyLabel  = "lanyard.dev/access-policy" // the policy's name
)

const (
	// roundTimeout bounds one look at everything, with all that is changed then.
	roundTimeout = 2 * time.Minute
	// page is how many objects are asked for at a time.
	page = 100
)

// Config is what a Keeper needs; all of it is required.
type Config struct {
	Namespaces corev1client.NamespacesGetter   // may be listed
	Bindings   rbacv1client.RoleBindingsGetter // may be listed, got, created, updated and deleted; and the policies' ClusterRoles may be bound
	EKS        *eks.Client                     // AWS's, or one that Lanyard answers
	Cluster    string                          // its name in EKS
	Every      time.Duration                   // from one look to the next
	Metrics    *Metrics
	Log        *slog.Logger
}

// Metrics are a Keeper's.
type Metrics struct {
	rounds   *prometheus.CounterVec
	bindings prometheus.Gauge
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lanyard_webhook_access_rounds_total", Help: "Looks at whether the RoleBindings are those that access policies ask for, by result: ok or failed.",
		}, []string{"result"}),
		bindings: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lanyard_webhook_access_bindings", Help: "RoleBindings that access policies ask for. Only the leading replica has them.",
		}),
	}
	for _, c := range []prometheus.Collector{m.rounds, m.bindings} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Keeper keeps the RoleBindings. There must be one at a time.
type Keeper struct{ c Config }

// New returns a Keeper that has done nothing yet; Run does it.
func New(c Config) *Keeper { return &Keeper{c} }

// Run keeps the RoleBindings until ctx ends. What cannot be found out changes nothing.
func (k *Keeper) Run(ctx context.Context) {
	defer k.c.Metrics.bindings.Set(0) // another replica's to count
	tick := time.NewTicker(k.c.Every)
	defer tick.Stop()
	for {
		result := "ok"
		if err := k.round(ctx); err != nil && ctx.Err() == nil {
			result = "failed"
			k.c.Log.Warn("role bindings of access policies not all kept", "err", err)
		}
		k.c.Metrics.rounds.WithLabelValues(result).Inc()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// place is where a RoleBinding is.
type place struct{ namespace, name string }

// round looks at everything once, and mends what differs.
func (k *Keeper) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	scopes, err := k.scopes(ctx)
	if err != nil {
		return err
	}
	namespaces, err := k.namespaces(ctx)
	if err != nil {
		return err
	}
	have, err := list(ctx, k.c.Bindings)
	if err != nil {
		return err
	}
	want := wanted(scopes, namespaces)
	k.c.Metrics.bindings.Set(float64(len(want)))
	var failed error
	for at, binding := range want {
		if err := k.ensure(ctx, binding, have[at]); err != nil {
			failed = errors.Join(failed, fmt.Errorf("keep RoleBinding %s/%s: %w", at.namespace, at.name, err))
		}
	}
	for at, binding := range have {
		if _, ok := want[at]; ok {
			continue
		}
		if err := remove(ctx, k.c.Bindings, binding, k.c.Log); err != nil {
			failed = errors.Join(failed, fmt.Errorf("delete RoleBinding %s/%s: %w", at.namespace, at.name, err))
		}
	}
	return failed
}

// scopes are patterns of namespaces by the access policies that somebody has there.
type scopes map[accesspolicy.Policy]map[string]bool

// scopes asks the EKS API. An entry that goes meanwhile has none.
func (k *Keeper) scopes(ctx context.Context) (scopes, error) {
	found := scopes{}
	entries := eks.NewListAccessEntriesPaginator(k.c.EKS, &eks.ListAccessEntriesInput{ClusterName: &k.c.Cluster, MaxResults: aws.Int32(page)})
	for entries.HasMorePages() {
		list, err := entries.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list access entries: %w", err)
		}
		for _, principal := range list.AccessEntries {
			err := k.entryScopes(ctx, principal, found)
			if _, gone := errors.AsType[*ekstypes.ResourceNotFoundException](err); err != nil && !gone {
				return nil, fmt.Errorf("list the access policies of %s: %w", principal, err)
			}
		}
	}
	return found, nil
}

// entryScopes adds those of one access entry.
func (k *Keeper) entryScopes(ctx context.Context, principal string, to scopes) error {
	policies := eks.NewListAssociatedAccessPoliciesPaginator(k.c.EKS, &eks.ListAssociatedAccessPoliciesInput{
		ClusterName: &k.c.Cluster, PrincipalArn: &principal, MaxResults: aws.Int32(page),
	})
	for policies.HasMorePages() {
		list, err := policies.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, a := range list.AssociatedAccessPolicies {
			if a.AccessScope == nil || a.AccessScope.Type != ekstypes.AccessScopeTypeNamespace {
				continue // the chart binds those of the whole cluster
			}
			text := aws.ToString(a.PolicyArn)
			p, ok := accesspolicy.Named(text[strings.LastIndexByte(text, '/')+1:])
			if !ok {
				k.c.Log.Warn("access policy is not known", "principal", principal, "policy", text)
				continue
			}
			if to[p] == nil {
				to[p] = map[string]bool{}
			}
			for _, namespace := range a.AccessScope.Namespaces {
				to[p][namespace] = true
			}
		}
	}
	return nil
}

// namespaces returns the names of those that are not on their way out.
func (k *Keeper) namespaces(ctx context.Context) (names []string, err error) {
	options := metav1.ListOptions{Limit: page}
	for {
		list, err := k.c.Namespaces.Namespaces().List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("list namespaces: %w", err)
		}
		for _, n := range list.Items {
			if n.DeletionTimestamp == nil {
				names = append(names, n.Name)
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return names, nil
		}
	}
}

// list returns the RoleBindings that are a Keeper's.
func list(ctx context.Context, bindings rbacv1client.RoleBindingsGetter) (map[place]*rbacv1.RoleBinding, error) {
	have := map[place]*rbacv1.RoleBinding{}
	options := metav1.ListOptions{Limit: page, LabelSelector: managedLabel + "=" + managedBy + "," + policyLabel}
	for {
		list, err := bindings.RoleBindings(metav1.NamespaceAll).List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("list RoleBindings: %w", err)
		}
		for i := range list.Items {
			b := &list.Items[i]
			have[place{b.Namespace, b.Name}] = b
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return have, nil
		}
	}
}

// wanted are the RoleBindings that there are to be: one for each policy in each namespace, to the groups of all patterns that match it.
func wanted(scopes scopes, namespaces []string) map[place]*rbacv1.RoleBinding {
	want := map[place]*rbacv1.RoleBinding{}
	for p, patterns := range scopes {
		for _, namespace := range namespaces {
			var groups []rbacv1.Subject
			for _, pattern := range slices.Sorted(maps.Keys(patterns)) {
				if (subject.Subject{Namespace: pattern}).Covers(subject.Subject{Namespace: namespace}) {
					groups = append(groups, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: p.Group(pattern)})
				}
			}
			if groups == nil {
				continue
			}
			want[place{namespace, p.Binding()}] = &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: namespace, Name: p.Binding(), Labels: map[string]string{managedLabel: managedBy, policyLabel: p.Name},
				},
				Subjects: groups,
				RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: p.ClusterRole},
			}
		}
	}
	return want
}

// ensure makes a RoleBinding, or mends the one that there is.
func (k *Keeper) ensure(ctx context.Context, want, have *rbacv1.RoleBinding) error {
	bindings := k.c.Bindings.RoleBindings(want.Namespace)
	if have != nil && have.RoleRef != want.RoleRef { // which cannot be changed
		if err := remove(ctx, k.c.Bindings, have, k.c.Log); err != nil {
			return err
		}
		have = nil
	}
	if have == nil {
		_, err := bindings.Create(ctx, want, metav1.CreateOptions{})
		switch {
		case apierrors.IsAlreadyExists(err):
			return errors.New("there is one of the name that is not the webhook's: it has not the labels")
		case apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return nil // the namespace goes
		case err == nil:
			k.c.Log.Info("role binding made", "namespace", want.Namespace, "name", want.Name)
		}
		return err
	}
	if equality.Semantic.DeepEqual(have.Subjects, want.Subjects) && have.Labels[policyLabel] == want.Labels[policyLabel] {
		return nil
	}
	changed := have.DeepCopy()
	changed.Subjects = want.Subjects
	changed.Labels[policyLabel] = want.Labels[policyLabel]
	if _, err := bindings.Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		return err // also of one that somebody has just deleted: the next look makes it
	}
	k.c.Log.Info("role binding changed", "namespace", want.Namespace, "name", want.Name)
	return nil
}

// remove deletes a RoleBinding unless it is another by now.
func remove(ctx context.Context, bindings rbacv1client.RoleBindingsGetter, b *rbacv1.RoleBinding, log *slog.Logger) error {
	err := bindings.RoleBindings(b.Namespace).Delete(ctx, b.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &b.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	log.Info("role binding deleted", "namespace", b.Namespace, "name", b.Name)
	return nil
}

// DeleteAll deletes the RoleBindings that a Keeper has made, of all namespaces. Others' stay. It may list and delete RoleBindings.
func DeleteAll(ctx context.Context, bindings rbacv1client.RoleBindingsGetter, log *slog.Logger) error {
	have, err := list(ctx, bindings)
	if err != nil {
		return err
	}
	var failed error
	for at, b := range have {
		if err := remove(ctx, bindings, b, log); err != nil {
			failed = errors.Join(failed, fmt.Errorf("delete RoleBinding %s/%s: %w", at.namespace, at.name, err))
		}
	}
	return failed
}
