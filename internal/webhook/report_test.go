package webhook

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWhatAPodLacks(t *testing.T) {
	t.Parallel()
	const role = "arn:aws:iam::111122223333:role/reader"
	accounts := map[string]string{"reader": role, "broken": "no role"}
	r := NewReporter(ReporterConfig{
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
