package test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
)

// webhookManifests are the webhook's, by their kinds.
type webhookManifests struct {
	kustomization  kustomization
	objects        []runtime.Object // all of those below, in the order of the kustomization
	account        *corev1.ServiceAccount
	clusterRole    *rbacv1.ClusterRole
	clusterBinding *rbacv1.ClusterRoleBinding
	role           *rbacv1.Role
	binding        *rbacv1.RoleBinding
	deployment     *appsv1.Deployment
	service        *corev1.Service
	budget         *policyv1.PodDisruptionBudget
	network        *networkingv1.NetworkPolicy
	registration   *admissionv1.MutatingWebhookConfiguration
}

// readWebhookManifests reads the files that the kustomization lists. One that has a key which its kind does not have fails the test.
func readWebhookManifests(t *testing.T) (m webhookManifests) {
	t.Helper()
	manifest(t, "../webhook/kustomization.yaml", &m.kustomization)
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, name := range m.kustomization.Resources {
		data, err := os.ReadFile(filepath.Join("../deploy/webhook", name))
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(data, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m.objects = append(m.objects, object)
		switch o := object.(type) {
		case *corev1.ServiceAccount:
			m.account = o
		case *rbacv1.ClusterRole:
			m.clusterRole = o
		case *rbacv1.ClusterRoleBinding:
			m.clusterBinding = o
		case *rbacv1.Role:
			m.role = o
		case *rbacv1.RoleBinding:
			m.binding = o
		case *appsv1.Deployment:
			m.deployment = o
		case *corev1.Service:
			m.service = o
		case *policyv1.PodDisruptionBudget:
			m.budget = o
		case *networkingv1.NetworkPolicy:
			m.network = o
		case *admissionv1.MutatingWebhookConfiguration:
			m.registration = o
		default:
			t.Fatalf("%s is a %T, of which these tests know nothing", name, object)
		}
	}
	if len(m.objects) != 10 {
		t.Fatalf("there are %d objects, want one of each kind", len(m.objects))
	}
	return m
}

// args returns the arguments that the kubelet makes of the container's, with the values of the config map, or others.
func (m *webhookManifests) args(t *testing.T, others map[string]string) []string {
	t.Helper()
	container := m.deployment.Spec.Template.Spec.Containers[0]
	values := map[string]string{"POD_NAMESPACE": m.deployment.Namespace}
	for _, literal := range m.kustomization.ConfigMapGenerator[0].Literals {
		name, value, _ := strings.Cut(literal, "=")
		values[name] = value
	}
	maps.Copy(values, others)
	var args []string
	for _, a := range container.Args {
		for name, value := range values {
			a = strings.ReplaceAll(a, "$("+name+")", value)
		}
		if strings.Contains(a, "$(") {
			t.Errorf("%s has no value", a)
		}
		args = append(args, a)
	}
	return args
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
	for _, a := range m.args(t, nil) {
		name, value, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		flags[name] = value
	}
	return flags
}

func TestWebhookManifestsAreWhole(t *testing.T) {
	t.Parallel()
	m := readWebhookManifests(t)
	files, err := filepath.Glob("../deploy/webhook/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		files[i] = filepath.Base(f)
	}
	listed := append(slices.Clone(m.kustomization.Resources), "kustomization.yaml")
	slices.Sort(listed)
	same(t, "files", files, listed)
	for i, o := range m.objects {
		object, err := meta.Accessor(o)
		if err != nil {
			t.Fatal(err)
		}
		switch o.(type) {
		case *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding, *admissionv1.MutatingWebhookConfiguration:
			same(t, "the namespace of "+m.kustomization.Resources[i], "", object.GetNamespace())
		default: // named, so that an overlay's namespace reaches what refers to it
			same(t, "the namespace of "+m.kustomization.Resources[i], m.kustomization.Namespace, object.GetNamespace())
		}
	}
	who := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: m.account.Namespace, Name: m.account.Name}}
	same(t, "whose the cluster role is", who, m.clusterBinding.Subjects)
	same(t, "whose the role is", who, m.binding.Subjects)
	same(t, "the cluster role", rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: m.clusterRole.Name}, m.clusterBinding.RoleRef)
	same(t, "the role", rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: m.role.Name}, m.binding.RoleRef)
	pod := m.deployment.Spec.Template
	same(t, "the pods' account", m.account.Name, pod.Spec.ServiceAccountName)
	same(t, "the image", m.kustomization.Images[0].Name, pod.Spec.Containers[0].Image)
	same(t, "the config map", m.kustomization.ConfigMapGenerator[0].Name, pod.Spec.Containers[0].EnvFrom[0].ConfigMapRef.Name)

	selectors := map[string]*metav1.LabelSelector{
		"deployment": m.deployment.Spec.Selector, "budget": m.budget.Spec.Selector, "network policy": &m.network.Spec.PodSelector,
		"service": {MatchLabels: m.service.Spec.Selector},
	}
	for _, spread := range pod.Spec.TopologySpreadConstraints {
		selectors["spread over "+spread.TopologyKey] = spread.LabelSelector
	}
	for what, s := range selectors {
		selector, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		if selector.Empty() || !selector.Matches(labels.Set(pod.Labels)) {
			t.Errorf("the %s selects %s, and not the pods, which have %v", what, selector, pod.Labels)
		}
	}
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
	same(t, "secret that it may get and update", []string{flags["tls-secret"]}, m.role.Rules[len(m.role.Rules)-1].ResourceNames)

	ports := map[string]string{}
	for _, p := range container.Ports {
		ports[p.Name] = strconv.Itoa(int(p.ContainerPort))
		if p.ContainerPort < 1024 {
			t.Errorf("port %d needs a capability", p.ContainerPort)
		}
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
}

func TestWebhookManifestsGrantLeast(t *testing.T) {
	t.Parallel()
	m := readWebhookManifests(t)
	// Each verb, resource and name that rules give.
	grants := func(rules []rbacv1.PolicyRule) (all []string) {
		for _, r := range rules {
			if len(r.NonResourceURLs) > 0 || len(r.APIGroups) != 1 {
				t.Errorf("a rule that is not of one API group: %v", r)
			}
			names := r.ResourceNames
			if len(names) == 0 {
				names = []string{"any"}
			}
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					for _, name := range names {
						all = append(all, strings.TrimLeft(strings.Join([]string{r.APIGroups[0], resource, name, verb}, " "), " "))
					}
				}
			}
		}
		return all
	}
	everywhere, own := grants(m.clusterRole.Rules), grants(m.role.Rules)
	same(t, "in all namespaces", []string{
		"serviceaccounts any get", "serviceaccounts any list", "serviceaccounts any watch",
		"pods any list",
		"events any create", "events any patch",
		"configmaps any create", "configmaps lanyard-ca get", "configmaps lanyard-ca list", "configmaps lanyard-ca update",
		"admissionregistration.k8s.io mutatingwebhookconfigurations pod-identity-webhook get",
		"admissionregistration.k8s.io mutatingwebhookconfigurations pod-identity-webhook update",
	}, everywhere)
	same(t, "in its own namespace", []string{
		"secrets any create", "secrets pod-identity-webhook get", "secrets pod-identity-webhook update",
	}, own)
	if m.clusterRole.AggregationRule != nil {
		t.Error("the cluster role takes in others")
	}
	// What may never be among them, whatever they come to be.
	for what, never := range map[string]string{
		"all of something":                       `\*`,
		"ruin":                                   ` (delete|deletecollection)$`,
		"somebody else's rights":                 ` (impersonate|escalate|bind|approve|sign)$`,
		"subresources, with tokens and programs": `/`,
		"any secret, or a list of them":          `^secrets any (get|update|patch|list|watch)$|^secrets .* (list|watch)$`,
		"any registration":                       `webhookconfigurations any `,
		"pods and service accounts to change":    `^(pods|serviceaccounts) .* (create|update|patch)$`,
		"what others keep in config maps":        `^configmaps any (get|update|patch|list|watch)$`,
		"rights to give":                         `^(rbac|certificates|authentication|authorization)\.`,
	} {
		for _, g := range append(everywhere, own...) {
			if regexp.MustCompile(never).MatchString(g) {
				t.Errorf("it gets %s: %s", what, g)
			}
		}
	}
	for _, g := range everywhere {
		if strings.HasPrefix(g, "secrets") {
			t.Errorf("it gets secrets of all namespaces: %s", g)
		}
	}
}

func TestWebhookManifestsRunWithoutPrivileges(t *testing.T) {
	t.Parallel()
	m := readWebhookManifests(t)
	pod := m.deployment.Spec.Template.Spec
	no, yes := new(bool), new(bool)
	*yes = true
	user := int64(65532)
	same(t, "the account's token, in other pods", no, m.account.AutomountServiceAccountToken)
	same(t, "the account's token, in these", yes, pod.AutomountServiceAccountToken)
	same(t, "of the pod", &corev1.PodSecurityContext{
		RunAsNonRoot: yes, RunAsUser: &user, RunAsGroup: &user, FSGroup: &user,
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}, pod.SecurityContext)
	if pod.HostPID || pod.HostIPC || pod.HostNetwork || len(pod.InitContainers) > 0 || len(pod.Containers) != 1 || len(pod.Volumes) != 1 {
		t.Fatalf("it has something of the host, or not one container and one volume: %+v", pod)
	}
	c := pod.Containers[0]
	same(t, "of the container", &corev1.SecurityContext{
		Privileged: no, AllowPrivilegeEscalation: no, ReadOnlyRootFilesystem: yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}, c.SecurityContext)
	if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
		t.Error("it has no memory limit, or asks for no CPU")
	}

	// Its web identity.
	life, mode := int64(3600), int32(0o400)
	same(t, "volume", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "sts.amazonaws.com", ExpirationSeconds: &life, Path: "token"}},
	}}}, pod.Volumes[0].VolumeSource)
	const path = "/var/run/secrets/lanyard.id/serviceaccount"
	same(t, "mounts", []corev1.VolumeMount{{Name: pod.Volumes[0].Name, MountPath: path, ReadOnly: true}}, c.VolumeMounts)
	env := map[string]string{}
	for _, v := range c.Env {
		env[v.Name] = v.Value
	}
	same(t, "token", path+"/token", env["AWS_WEB_IDENTITY_TOKEN_FILE"])
	same(t, "role", "$(ROLE_ARN)", env["AWS_ROLE_ARN"])
}

func TestWebhookManifestsKeepAnsweringAndNeverDeadlock(t *testing.T) {
	t.Parallel()
	m := readWebhookManifests(t)
	spec := m.deployment.Spec
	if *spec.Replicas < 2 || m.budget.Spec.MinAvailable.IntValue() != 1 {
		t.Errorf("of %d replicas %s are kept", *spec.Replicas, m.budget.Spec.MinAvailable)
	}
	if u := spec.Strategy.RollingUpdate; u == nil || u.MaxUnavailable.String() != "0" || u.MaxSurge.String() != "1" {
		t.Errorf("updated by %+v, want a pod more before one less", spec.Strategy)
	}
	same(t, "priority", "system-cluster-critical", spec.Template.Spec.PriorityClassName)
	for _, s := range spec.Template.Spec.TopologySpreadConstraints {
		same(t, "where it cannot be spread over "+s.TopologyKey, corev1.ScheduleAnyway, s.WhenUnsatisfiable)
	}
	same(t, "limited by the network policy", []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, m.network.Spec.PolicyTypes)
	if rule := m.network.Spec.Ingress[0]; len(rule.From) > 0 || len(rule.Ports) != 1 || rule.Ports[0].Port.String() != "reviews" {
		t.Errorf("API servers, which may have any address, cannot ask: %+v", rule)
	}

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

// The program takes the flags, of the manifests and of the overlays that the README shows.
func TestWebhookManifestsHaveFlagsThatAreKnown(t *testing.T) {
	t.Parallel()
	m := readWebhookManifests(t)
	readme, err := os.ReadFile("../deploy/webhook/README.md")
	if err != nil {
		t.Fatal(err)
	}
	overlay := func(heading string) (flags []string) {
		_, section, found := strings.Cut(string(readme), "\n## "+heading+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		for _, f := range regexp.MustCompile(`/args/-, value: (--[^}]+)}`).FindAllStringSubmatch(section, -1) {
			flags = append(flags, f[1])
		}
		if !found || len(flags) == 0 {
			t.Errorf("the README's section %q adds no flags", heading)
		}
		return flags
	}
	private := overlay("Lanyard with a certificate of its own authority")
	if !slices.ContainsFunc(m.clusterRole.Rules, func(r rbacv1.PolicyRule) bool {
		return len(r.ResourceNames) == 1 && slices.Contains(private, "--pod-ca-config-map="+r.ResourceNames[0])
	}) {
		t.Errorf("the README gives %q, and none of them is what the cluster role names", private)
	}
	registrations := fmt.Sprintf("path: /rules/%d}", slices.IndexFunc(m.clusterRole.Rules, func(r rbacv1.PolicyRule) bool {
		return slices.Contains(r.Resources, "mutatingwebhookconfigurations")
	}))
	if !strings.Contains(string(readme), registrations) {
		t.Errorf("the README does not take away the rule of the registration with %s", registrations)
	}
	same(t, "program", []string{"/lanyard-webhook"}, m.deployment.Spec.Template.Spec.Containers[0].Command)
	for name, args := range map[string][]string{
		"as they are":          m.args(t, nil),
		"with AWS":             m.args(t, map[string]string{"AWS_ENDPOINT_URL": ""}),
		"without Pod Identity": m.args(t, map[string]string{"CLUSTER_NAME": "", "ROLE_ARN": ""}),
		"private authority":    append(m.args(t, nil), private...),
		"cert-manager":         append(m.args(t, nil), overlay("A certificate by cert-manager")...),
	} {
		if out, err := exec.Command(binary("lanyard-webhook"), append(args, "--version")...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		var exit *exec.ExitError
		if _, err := exec.Command(binary("lanyard-webhook"), append(args, "--unknown", "--version")...).CombinedOutput(); !errors.As(err, &exit) {
			t.Errorf("%s: a flag that is not known is no error: this test shows nothing", name)
		}
	}
}
