package test

import (
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// webhookManifests are the objects of the webhook's manifest.
type webhookManifests struct {
	objects      []runtime.Object
	account      *corev1.ServiceAccount
	role         *rbacv1.Role
	deployment   *appsv1.Deployment
	service      *corev1.Service
	registration *admissionv1.MutatingWebhookConfiguration
}

func readWebhookManifests(t testing.TB) webhookManifests {
	t.Helper()
	objects := readManifest(t, "webhook.yaml")
	return webhookManifests{
		objects: objects, account: object[*corev1.ServiceAccount](t, objects), role: object[*rbacv1.Role](t, objects),
		deployment: object[*appsv1.Deployment](t, objects), service: object[*corev1.Service](t, objects),
		registration: object[*admissionv1.MutatingWebhookConfiguration](t, objects),
	}
}

// flags returns the values of the webhook's flags: those that it is given, and the defaults that it prints.
func (m *webhookManifests) flags(t *testing.T) map[string]string {
	t.Helper()
	usage, err := exec.Command(binary("lanyard-webhook"), "-h").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, usage)
	}
	flags := map[string]string{}
	for _, f := range regexp.MustCompile(`(?m)^  -(\S+).*\n.*\(default "?([^")]+)"?\)$`).FindAllStringSubmatch(string(usage), -1) {
		flags[f[1]] = f[2]
	}
	for _, a := range m.deployment.Spec.Template.Spec.Containers[0].Args {
		name, value, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		flags[name] = value
	}
	return flags
}

// The names and ports in the manifests are those that the program goes by.
func TestWebhookManifestsAgreeWithTheProgram(t *testing.T) {
	t.Parallel()
	m := readWebhookManifests(t)
	flags := m.flags(t)
	container := m.deployment.Spec.Template.Spec.Containers[0]
	registered := m.registration.Webhooks[0].ClientConfig
	same(t, "namespace", flags["namespace"], m.deployment.Namespace)
	same(t, "service", flags["service-name"], m.service.Name)
	same(t, "registered service", flags["service-name"], registered.Service.Name)
	same(t, "registered namespace", flags["namespace"], registered.Service.Namespace)
	same(t, "registered path", "/mutate", *registered.Service.Path)
	same(t, "registered port", m.service.Spec.Ports[0].Port, *registered.Service.Port)
	same(t, "registered certificates, which are the webhook's to write", []byte(nil), registered.CABundle)
	same(t, "registration", flags["webhook-configuration"], m.registration.Name)
	updated := map[string]bool{}
	for _, r := range m.role.Rules {
		for _, name := range r.ResourceNames {
			updated[r.Resources[0]+" "+name] = true
		}
	}
	same(t, "what it may get and update", map[string]bool{
		"secrets " + flags["tls-secret"]: true, "secrets " + flags["keys-secret"]: true, "leases " + flags["lease"]: true,
	}, updated)

	ports := map[string]string{}
	for _, p := range container.Ports {
		ports[p.Name] = strconv.Itoa(int(p.ContainerPort))
	}
	same(t, "ports", map[string]string{"reviews": flags["port"], "metrics": flags["metrics-port"]}, ports)
	same(t, "the service's ports", []corev1.ServicePort{{Name: "reviews", Port: 443, TargetPort: m.service.Spec.Ports[0].TargetPort}}, m.service.Spec.Ports)
	same(t, "the service's target", "reviews", m.service.Spec.Ports[0].TargetPort.String())
	for path, probe := range map[string]*corev1.Probe{"/healthz": container.LivenessProbe, "/readyz": container.ReadinessProbe} {
		if get := probe.HTTPGet; get.Path != path || get.Port.String() != "metrics" {
			t.Errorf("the probe of %s asks %+v", path, get)
		}
	}
	for flag, limit := range map[string]int64{
		"lookup-timeout": int64(*m.registration.Webhooks[0].TimeoutSeconds), "stop-delay": *m.deployment.Spec.Template.Spec.TerminationGracePeriodSeconds,
	} {
		if d, err := time.ParseDuration(flags[flag]); err != nil || 2*d > time.Duration(limit)*time.Second {
			t.Errorf("of %d s --%s=%s leaves too little: %v", limit, flag, flags[flag], err)
		}
	}
	env := map[string]string{}
	for _, v := range container.Env {
		env[v.Name] = v.Value
	}
	mount := container.VolumeMounts[0]
	same(t, "token", mount.MountPath+"/token", env["AWS_WEB_IDENTITY_TOKEN_FILE"])
	same(t, "role", "arn:aws:iam::111122223333:role/demo-lanyard-lanyard-webhook", env["AWS_ROLE_ARN"])
}

func TestWebhookManifestsKeepAnsweringAndNeverDeadlock(t *testing.T) {
	t.Parallel()
	m := readWebhookManifests(t)
	spec := m.deployment.Spec
	if *spec.Replicas < 2 {
		t.Errorf("there are %d replicas", *spec.Replicas)
	}
	if u := spec.Strategy.RollingUpdate; u == nil || u.MaxUnavailable.String() != "0" || u.MaxSurge.String() != "1" {
		t.Errorf("updated by %+v, want a pod more before one less", spec.Strategy)
	}
	same(t, "priority", "system-cluster-critical", spec.Template.Spec.PriorityClassName)
	if len(m.registration.Webhooks) != 1 {
		t.Fatalf("there are %d registrations", len(m.registration.Webhooks))
	}
	w := m.registration.Webhooks[0]
	scope := admissionv1.NamespacedScope
	same(t, "what is reviewed", []admissionv1.RuleWithOperations{
		{Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{
			APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: &scope,
		}},
		{Operations: []admissionv1.OperationType{admissionv1.Update}, Rule: admissionv1.Rule{
			APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/ephemeralcontainers"}, Scope: &scope,
		}},
	}, w.Rules)
	same(t, "failure policy", admissionv1.Ignore, *w.FailurePolicy)
	same(t, "reinvocation", admissionv1.IfNeededReinvocationPolicy, *w.ReinvocationPolicy)
	same(t, "side effects", admissionv1.SideEffectClassNoneOnDryRun, *w.SideEffects)
	same(t, "versions", []string{"v1"}, w.AdmissionReviewVersions)
	for _, c := range []struct {
		name      string
		selector  *metav1.LabelSelector
		labels    labels.Set
		isMatched bool
	}{
		{"a namespace", w.NamespaceSelector, labels.Set{"kubernetes.io/metadata.name": "web"}, true},
		{"the webhook's own namespace", w.NamespaceSelector, labels.Set{"kubernetes.io/metadata.name": m.deployment.Namespace}, false},
		{"the namespace of the cluster's own pods", w.NamespaceSelector, labels.Set{"kubernetes.io/metadata.name": "kube-system"}, false},
		{"a pod", w.ObjectSelector, labels.Set{"app": "web"}, true},
		{"a pod that is to be left alone", w.ObjectSelector, labels.Set{"eks.amazonaws.com/skip-pod-identity-webhook": ""}, false},
		{"the webhook's own pod, in whatever namespace", w.ObjectSelector, spec.Template.Labels, false},
	} {
		selector, err := metav1.LabelSelectorAsSelector(c.selector)
		if err != nil {
			t.Fatal(err)
		}
		same(t, c.name, c.isMatched, selector.Matches(c.labels))
	}
}

func TestWebhookManifestsHaveFlagsThatAreKnown(t *testing.T) {
	t.Parallel()
	for name, objects := range map[string][]runtime.Object{
		"the manifest":            readManifest(t, "webhook.yaml"),
		"all of the chart":        renderChart(t, "clusterName: demo"),
		"with AWS":                renderChart(t, "clusterName: demo\nissuer: aws\nserver: {enabled: false}"),
		"a public certificate":    renderChart(t, "clusterName: demo\nendpoint: https://lanyard.example.com\nserver: {enabled: false}"),
		"with cert-manager":       renderChart(t, "clusterName: demo\nwebhook: {certManager: {enabled: true}, exceptNamespaces: []}"),
		"with the least of flags": renderChart(t, "clusterName: demo\ncrd: {enabled: false}\npodCA: {publicRoots: false}\nwebhook: {pushKeys: false}"),
		"with a ConfigMap":        renderChart(t, "clusterName: demo\nwebhook: {watchConfigMap: true}"),
		"with more":               renderChart(t, "clusterName: demo\nwebhook: {extraArgs: [--fail-closed, --log-level=debug]}"),
	} {
		takesFlags(t, name, object[*appsv1.Deployment](t, objects).Spec.Template.Spec.Containers[0], "lanyard-webhook", "--version")
		if name == "all of the chart" {
			takesFlags(t, "the cleanup", object[*batchv1.Job](t, objects).Spec.Template.Spec.Containers[0], "lanyard-webhook", "--help")
		}
	}
}
