package webhook

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

// reportPage is how many pods are read at a time.
const reportPage = 500

// ReporterConfig is what a Reporter needs.
type ReporterConfig struct {
	Settings     podspec.Settings
	Pods         corev1client.PodsGetter   // required; may list pods
	Events       corev1client.EventsGetter // required; may create events
	Accounts     Accounts                  // required; only Memory is used
	Configured   Configured                // only Memory is used
	Associations *Associations             // nil for none
	Except       []string                  // namespaces that the registration leaves out, so that their pods lack nothing
	// Given tells of a namespace that a pod in it needs the ConfigMap with certificates to trust, which it may have been given long ago;
	// nil tells nobody. It must not block.
	Given   func(namespace string)
	Every   time.Duration // from one look to the next; required
	Metrics *Metrics      // required
	Log     *slog.Logger
}

// Reporter looks for pods that run without the identity which their service account has: those that were made before it had one,
// or while the webhook could not be asked. It counts them in a metric, and makes an event of each. Since it sees all pods, it also tells
// where there are some that need the certificates to trust.
type Reporter struct{ ReporterConfig }

// NewReporter returns a Reporter; Run reports.
func NewReporter(c ReporterConfig) *Reporter { return &Reporter{c} }

// Run looks again and again until ctx ends, the first time after a moment in which memory fills.
func (r *Reporter) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(r.Every):
		}
		if err := r.look(ctx); err != nil && ctx.Err() == nil {
			r.Log.Warn("pods without their identity not all reported", "err", err)
		}
	}
}

func (r *Reporter) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(r.Every, time.Minute))
	defer cancel()
	found, untold := 0, 0
	var failure error // the first of those that are untold: one namespace may take no events, by a quota for instance
	options := metav1.ListOptions{Limit: reportPage, FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"}
	for {
		page, err := r.Pods.Pods(metav1.NamespaceAll).List(ctx, options)
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		for i := range page.Items {
			pod := &page.Items[i]
			if r.Given != nil && r.Settings.TrustsConfigMap(pod) {
				r.Given(pod.Namespace)
			}
			has := r.lacks(pod)
			if has == "" {
				continue
			}
			found++
			if err := r.report(ctx, pod, has); err != nil {
				untold++
				failure = cmp.Or(failure, err)
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			break
		}
	}
	r.Metrics.unmutated.Set(float64(found))
	if failure != nil {
		return fmt.Errorf("%d of %d such pods have no event, the first because of: %w", untold, found, failure)
	}
	return nil
}

// lacks returns what a pod's service account has, in words, if the pod has nothing of it. A role that no pod could be given
// does not count.
func (r *Reporter) lacks(pod *corev1.Pod) string {
	if leftAlone(pod) || pod.DeletionTimestamp != nil || slices.Contains(r.Except, pod.Namespace) {
		return ""
	}
	if r.Settings.Mutated(pod, podspec.PodIdentity) || r.Settings.Mutated(pod, podspec.WebIdentity) {
		return ""
	}
	if r.Associations != nil && r.Associations.Memory(pod.Namespace, pod.Spec.ServiceAccountName) {
		return "a pod identity association"
	}
	var annotations map[string]string
	if account := r.Accounts.Memory(pod.Namespace, pod.Spec.ServiceAccountName); account != nil {
		annotations = account.Annotations
	}
	if r.Settings.Role(annotations) == "" && r.Configured.Memory != nil {
		annotations = r.Configured.Memory(pod.Namespace, pod.Spec.ServiceAccountName)
	}
	if id, err := r.Settings.Identity(podspec.WebIdentity, annotations); err == nil {
		return "role " + id.RoleARN
	}
	return ""
}

// report makes the pod's event. It is the same whoever makes it, so that of several replicas only one does.
func (r *Reporter) report(ctx context.Context, pod *corev1.Pod, has string) error {
	now := metav1.Now()
	_, err := r.Events.Events(pod.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: pod.Namespace, Name: "lanyard-" + string(pod.UID)},
		InvolvedObject:      corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Source:              corev1.EventSource{Component: "lanyard-webhook"},
		ReportingController: "lanyard-webhook",
		Type:                corev1.EventTypeWarning,
		Reason:              "PodWithoutCredentials",
		Message: fmt.Sprintf("service account %s has %s, but the pod was made without it: create the pod again",
			pod.Spec.ServiceAccountName, has),
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	switch {
	case err == nil:
		r.Log.Warn("pod runs without the identity of its service account", "namespace", pod.Namespace, "pod", pod.Name,
			"serviceAccount", pod.Spec.ServiceAccountName)
	case !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return fmt.Errorf("create event for %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
