package webhook

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	corev1fake "k8s.io/client-go/kubernetes/typed/core/v1/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

func TestWhatAPodLacks(t *testing.T) {
	t.Parallel()
	const role = "arn:aws:iam::111122223333:role/reader"
	accounts := map[string]string{"reader": role, "broken": "no role"}
	r := NewReporter(ReporterConfig{
		Configured: Configured{Memory: func(namespace, name string) map[string]string {
			if namespace+"/"+name == "web/configured" || name == "reader" {
				return map[string]string{"eks.amazonaws.com/role-arn": role + "-configured"}
			}
			return nil
		}},
		Except: []string{"kube-system", "lanyard"},
		Accounts: Accounts{Memory: func(_, name string) *corev1.ServiceAccount {
			return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"eks.amazonaws.com/role-arn": accounts[name]}}}
		}},
	})
	for _, c := range []struct {
		name, namespace, account string
		change                   func(*corev1.Pod)
		want                     string
	}{
		{"its service account's role", "web", "reader", nil, "role " + role},
		{"the role that is configured", "web", "configured", nil, "role " + role + "-configured"},
		{"nothing, where the service account has none", "web", "plain", nil, ""},
		{"nothing, where the role is none", "web", "broken", nil, ""},
		{"nothing, in a namespace that the registration leaves out", "kube-system", "reader", nil, ""},
		{"nothing, if it was left alone on purpose", "web", "reader", func(p *corev1.Pod) { p.Labels = map[string]string{SkipLabel: ""} }, ""},
		{"nothing, if it mirrors a static pod", "web", "reader", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }, ""},
		{"nothing, if it is going", "web", "reader", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }, ""},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "p"}, Spec: corev1.PodSpec{ServiceAccountName: c.account}}
		if c.change != nil {
			c.change(pod)
		}
		if got := r.lacks(pod); got != c.want {
			t.Errorf("%s: it lacks %q, want %q", c.name, got, c.want)
		}
	}
}

// A namespace that takes no events keeps no other pod from being told of, nor from being counted.
func TestPodsAreReportedThoughOneCannotBe(t *testing.T) {
	t.Parallel()
	cluster := memoryCluster()
	cluster.PrependReactor("create", "events", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetNamespace() == "full" {
			return true, nil, errors.New("exceeded quota")
		}
		return false, nil, nil
	})
	core := &corev1fake.FakeCoreV1{Fake: cluster}
	for _, namespace := range []string{"a", "full", "web"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p", UID: types.UID(namespace)}}
		if _, err := core.Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	registry := prometheus.NewRegistry()
	metrics, err := NewMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	annotated := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/r"}}}
	r := NewReporter(ReporterConfig{
		Pods: core, Events: core, Accounts: Accounts{Memory: func(string, string) *corev1.ServiceAccount { return annotated }},
		Every: time.Minute, Metrics: metrics, Log: slog.New(slog.DiscardHandler),
	})
	for range 2 { // the second time the events are there
		if err := r.look(t.Context()); err == nil || !strings.Contains(err.Error(), "1 of 3 such pods") || !strings.Contains(err.Error(), "full/p: exceeded quota") {
			t.Errorf("got %v", err)
		}
	}
	events, err := core.Events("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range events.Items {
		told = append(told, e.Namespace+" "+e.Reason)
	}
	slices.Sort(told)
	if diff := cmp.Diff([]string{"a PodWithoutCredentials", "web PodWithoutCredentials"}, told); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := 0.0
	for _, f := range families {
		if f.GetName() == "lanyard_webhook_unmutated_pods" {
			counted = f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	if counted != 3 {
		t.Errorf("%v pods are counted, want 3", counted)
	}
}

// Pods that were given certificates to trust may have come when no webhook, or another one, saw to the ConfigMap that has them.
func TestNamespacesOfPodsThatTrustCertificatesAreTold(t *testing.T) {
	t.Parallel()
	settings := podspec.Settings{Endpoint: "https://lanyard.example", CA: podspec.ConfigMapKey{Name: "lanyard-ca", Key: "ca.pem"}}
	volume := func(name, configMap string) []corev1.Volume {
		return []corev1.Volume{{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: configMap}}},
		}}}}}
	}
	core := &corev1fake.FakeCoreV1{Fake: memoryCluster()}
	for namespace, volumes := range map[string][]corev1.Volume{
		"trusting": volume("lanyard-ca", "lanyard-ca"), "bare": nil, "another-config-map": volume("lanyard-ca", "corporate-ca"), "another-volume": volume("ca", "lanyard-ca"),
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p"}, Spec: corev1.PodSpec{Volumes: volumes}}
		if _, err := core.Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	metrics, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	r := NewReporter(ReporterConfig{
		Settings: settings, Pods: core, Events: core, Accounts: Accounts{Memory: func(string, string) *corev1.ServiceAccount { return nil }},
		Given: func(namespace string) { told = append(told, namespace) }, Every: time.Minute, Metrics: metrics, Log: slog.New(slog.DiscardHandler),
	})
	if err := r.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"trusting"}, told); diff != "" {
		t.Errorf("namespaces (-want +got):\n%s", diff)
	}
}
