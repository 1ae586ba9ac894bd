package deploy_test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/lanyard-id/lanyard/deploy"
	"github.com/lanyard-id/lanyard/internal/accesspolicy"
)

// releases are ways to install the chart, by what they are for.
var releases = map[string]string{
	"all of it":                       "clusterName: demo",
	"the server alone":                "agent: {enabled: false}\nwebhook: {enabled: false}",
	"a cluster that joins Lanyard":    "clusterName: demo\nendpoint: https://lanyard.example.com\nserver: {enabled: false}",
	"one that trusts its authority":   "clusterName: demo\nendpoint: https://lanyard.example.com\nserver: {enabled: false}\nca: {pem: \"-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n\"}",
	"one whose authority is kept":     "clusterName: demo\nendpoint: https://lanyard.example.com\nserver: {enabled: false}\nca: {configMap: trust, key: root.crt}\npodCA: {publicRoots: false}",
	"credentials of AWS":              "clusterName: demo\nissuer: aws\nserver: {enabled: false}",
	"the agent alone":                 "clusterName: demo\nissuer: aws\nserver: {enabled: false}\nwebhook: {enabled: false}\ncrd: {enabled: false}",
	"the webhook alone":               "clusterName: demo\nissuer: aws\nserver: {enabled: false}\nagent: {enabled: false}",
	"no associations by resource":     "clusterName: demo\ncrd: {enabled: false}",
	"associations that stay":          "clusterName: demo\ncrd: {keep: true}",
	"keys that are not pushed":        "clusterName: demo\ncrd: {enabled: false}\nwebhook: {pushKeys: false, cleanup: {enabled: false}}",
	"a trial":                         "clusterName: demo\nserver: {persistence: {enabled: false}, s3: {embedded: true}}\nnetworkPolicies: {enabled: false}\npodDisruptionBudgets: {enabled: false}",
	"replicas over etcd":              "clusterName: demo\nserver: {replicas: 3, etcd: {endpoints: [https://a:2379, https://b:2379], tlsSecret: etcd}, audit: {existingSecret: trail}}",
	"replicas over etcd without TLS":  "clusterName: demo\nserver: {replicas: 3, etcd: {endpoints: [http://a:2379]}, persistence: {enabled: false}}",
	"keys of one's own":               "clusterName: demo\nserver: {existingSecret: keys}\nca: {configMap: trust}",
	"a certificate of cert-manager's": "clusterName: demo\nserver: {tls: {existingSecret: server-tls}}\nca: {configMap: trust}",
	"a public certificate":            "clusterName: demo\nendpoint: https://id.example.com\nserver: {tls: {existingSecret: server-tls}, service: {type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/8], annotations: {a: b}}}",
	"an upstream S3":                  "clusterName: demo\nserver: {s3: {upstream: {endpoint: \"https://minio\", accessKeyID: lanyard, existingSecret: minio}}}",
	"a trail in a bucket":             "clusterName: demo\nserver: {audit: {bucket: {name: trail, prefix: lanyard, region: eu-west-1}}}",
	"token reviews":                   "clusterName: demo\nserver: {tokenReview: 30s}",
	"people by IAM":                   "clusterName: demo\naccess: {enabled: true}",
	"more configuration":              "clusterName: demo\nserver: {extraConfig: {log: {level: debug}, listen: \":8080\"}, extraArgs: [-trust-guard=deny], extraEnv: [{name: A, value: b}], trustGuard: \"off\"}",
	"interception":                    "clusterName: demo\nintercept: {enabled: true, corednsCustom: true, hosts: [sts.us-west-2.amazonaws.com]}\nserver: {s3: {embedded: true}}",
	"a Corefile by hand":              "clusterName: demo\nintercept: {enabled: true}",
	"kube-system has identities":      "clusterName: demo\nwebhook: {exceptNamespaces: []}",
	"a network plugin's namespace":    "clusterName: demo\nwebhook: {failurePolicy: Fail, exceptNamespaces: [kube-flannel, kube-system]}",
	"roles in a ConfigMap":            "clusterName: demo\nwebhook: {watchConfigMap: true}",
	"cert-manager's webhook":          "clusterName: demo\nwebhook: {certManager: {enabled: true}, failurePolicy: Fail}",
	"an issuer of cert-manager's":     "clusterName: demo\nwebhook: {certManager: {enabled: true, issuerRef: {name: ca, kind: ClusterIssuer}}, pushKeys: false}\ncrd: {enabled: false}",
	"China":                           "clusterName: demo\nregion: cn-north-1\nintercept: {enabled: true}",
	"labels, places and a registry": `
clusterName: demo
image: {registry: registry.example.com/lanyard, tag: v9, pullPolicy: Never, pullSecrets: [pull]}
labels: {team: identity, app.kubernetes.io/component: identity}
annotations: {contact: identity@example.com}
server: &pods
  podLabels: {a: b}
  podAnnotations: {c: d}
  nodeSelector: {disk: fast}
  tolerations: [{operator: Exists}]
  affinity: {nodeAffinity: {}}
  priorityClassName: ""
  resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 2Gi}}
  goMemoryLimit: 1GiB
  extraArgs: []
  extraEnv: [{name: HTTPS_PROXY, value: "http://proxy:3128"}]
agent: *pods
webhook: *pods
`,
}

// parse reads values from YAML.
func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &v); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return v
}

// objects are those of a release.
type objects []deploy.Document

func render(t *testing.T, values string) objects {
	t.Helper()
	all, _, err := deploy.Render(deploy.Release{Values: parse(t, values)})
	if err != nil {
		t.Fatalf("%v with\n%s", err, values)
	}
	return all
}

// of returns the objects of a type, by name.
func of[T metav1.Object](all objects) map[string]T {
	found := map[string]T{}
	for _, d := range all {
		if o, ok := d.Object.(T); ok {
			found[o.GetName()] = o
		}
	}
	return found
}

// pods returns the pods of all workloads, by the workloads' names.
func (all objects) pods() map[string]corev1.PodTemplateSpec {
	found := map[string]corev1.PodTemplateSpec{}
	for _, d := range all {
		switch o := d.Object.(type) {
		case *appsv1.StatefulSet:
			found[o.Name] = o.Spec.Template
		case *appsv1.Deployment:
			found[o.Name] = o.Spec.Template
		case *appsv1.DaemonSet:
			found[o.Name] = o.Spec.Template
		case *batchv1.Job:
			found[o.Name] = o.Spec.Template
		}
	}
	return found
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestEveryReleaseHangsTogether(t *testing.T) {
	t.Parallel()
	for name, values := range releases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := render(t, values)
			if len(all) == 0 {
				t.Fatal("there are no objects")
			}
			checkNames(t, all)
			checkReferences(t, all, values)
			checkSelectors(t, all)
			checkRights(t, all)
			checkSecrets(t, all)
			for workload, pod := range all.pods() {
				checkPod(t, workload, pod)
			}
		})
	}
}

// What Helm's own linter has to say.
func TestTheChartHasNothingToMend(t *testing.T) {
	t.Parallel()
	lint := action.NewLint()
	lint.Strict, lint.Namespace = true, "lanyard"
	result := lint.Run([]string{"chart"}, parse(t, releases["all of it"]))
	for _, m := range result.Messages {
		if m.Severity > support.InfoSev {
			t.Error(m)
		}
	}
	if len(result.Errors) > 0 || result.TotalChartsLinted != 1 {
		t.Errorf("%d charts: %v", result.TotalChartsLinted, result.Errors)
	}
}

// checkNames checks that objects have a namespace if their kind has, no name twice, and the release's labels.
func checkNames(t *testing.T, all objects) {
	t.Helper()
	seen := map[string]bool{}
	for _, d := range all {
		o := d.Object.(metav1.Object)
		kind := d.Object.GetObjectKind().GroupVersionKind().Kind
		want := "lanyard"
		switch kind {
		case "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration", "CustomResourceDefinition":
			want = ""
		case "ConfigMap":
			if o.GetName() == "coredns-custom" {
				want = "kube-system"
			}
		}
		same(t, "the namespace of "+kind+" "+o.GetName(), want, o.GetNamespace())
		if id := kind + " " + o.GetName(); seen[id] {
			t.Errorf("%s is there twice", id)
		} else {
			seen[id] = true
		}
		if kind != "CustomResourceDefinition" && o.GetLabels()["app.kubernetes.io/part-of"] != "lanyard" {
			t.Errorf("%s %s has the labels %v", kind, o.GetName(), o.GetLabels())
		}
		if strings.Contains(d.Text, "\n\n") || regexp.MustCompile(`(?m) +$`).MatchString(d.Text) {
			t.Errorf("%s has empty lines, or spaces at the end of some:\n%s", d.Template, d.Text)
		}
	}
}

// checkReferences checks that what pods, bindings and registrations refer to is there, or is in the values.
func checkReferences(t *testing.T, all objects, values string) {
	t.Helper()
	accounts, maps, secrets := of[*corev1.ServiceAccount](all), of[*corev1.ConfigMap](all), of[*corev1.Secret](all)
	given := func(name string) bool { return strings.Contains(values, ": "+name) }
	for workload, pod := range all.pods() {
		if accounts[pod.Spec.ServiceAccountName] == nil {
			t.Errorf("%s runs as %s, which is not there", workload, pod.Spec.ServiceAccountName)
		}
		volumes := map[string]bool{}
		for _, v := range pod.Spec.Volumes {
			volumes[v.Name] = true
			switch {
			case v.ConfigMap != nil && maps[v.ConfigMap.Name] == nil && !given(v.ConfigMap.Name):
				t.Errorf("%s mounts the ConfigMap %s, which is not there", workload, v.ConfigMap.Name)
			case v.ConfigMap != nil && maps[v.ConfigMap.Name] != nil:
				for _, item := range v.ConfigMap.Items {
					if _, ok := maps[v.ConfigMap.Name].Data[item.Key]; !ok {
						t.Errorf("%s mounts the key %s of the ConfigMap %s, which is not there", workload, item.Key, v.ConfigMap.Name)
					}
				}
			case v.Secret != nil && secrets[v.Secret.SecretName] == nil && !given(v.Secret.SecretName) && v.Secret.SecretName != "pod-identity-webhook-tls":
				t.Errorf("%s mounts the Secret %s, which is not there", workload, v.Secret.SecretName)
			}
		}
		if s := of[*appsv1.StatefulSet](all)[workload]; s != nil {
			for _, c := range s.Spec.VolumeClaimTemplates {
				volumes[c.Name] = true
			}
		}
		mounted := map[string]bool{}
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for _, m := range c.VolumeMounts {
				mounted[m.Name] = true
			}
		}
		same(t, "the volumes that "+workload+" mounts", volumes, mounted)
	}
	roles, clusterRoles := of[*rbacv1.Role](all), of[*rbacv1.ClusterRole](all)
	bound := func(kind, name string, ref rbacv1.RoleRef, subjects []rbacv1.Subject, exists bool) {
		same(t, "the role of "+kind+" "+name, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: strings.TrimSuffix(kind, "Binding"), Name: name}, ref)
		same(t, "whose it is", []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "lanyard", Name: name}}, subjects)
		if !exists || accounts[name] == nil {
			t.Errorf("%s %s binds what is not there", kind, name)
		}
	}
	for name, b := range of[*rbacv1.RoleBinding](all) {
		bound("RoleBinding", name, b.RoleRef, b.Subjects, roles[name] != nil)
	}
	for name, b := range of[*rbacv1.ClusterRoleBinding](all) {
		if b.Subjects[0].Kind == rbacv1.GroupKind {
			continue // TestAccessPoliciesAreBoundInTheWholeCluster checks these
		}
		bound("ClusterRoleBinding", name, b.RoleRef, b.Subjects, clusterRoles[name] != nil)
	}
	for _, m := range of[*admissionv1.MutatingWebhookConfiguration](all) {
		service := m.Webhooks[0].ClientConfig.Service
		if s := of[*corev1.Service](all)[service.Name]; s == nil || s.Namespace != service.Namespace || s.Spec.Ports[0].Port != *service.Port {
			t.Errorf("the registration asks %+v, which is not there", service)
		}
	}
}

// checkSelectors checks that selectors select the pods they are meant for, and that ports by name are theirs.
func checkSelectors(t *testing.T, all objects) {
	t.Helper()
	pods := all.pods()
	check := func(what string, s *metav1.LabelSelector, ports ...string) {
		selector, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		var selected []string
		for workload, pod := range pods {
			if !selector.Matches(labels.Set(pod.Labels)) {
				continue
			}
			selected = append(selected, workload)
			for _, port := range ports {
				if !slices.ContainsFunc(pod.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool { return p.Name == port }) {
					t.Errorf("%s has the port %s, which %s does not have", what, port, workload)
				}
			}
		}
		if len(selected) != 1 {
			t.Errorf("%s selects %v, want the pods of one", what, selected)
		}
	}
	for name, s := range of[*corev1.Service](all) {
		check("the service "+name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector}, s.Spec.Ports[0].TargetPort.StrVal)
	}
	for name, p := range of[*policyv1.PodDisruptionBudget](all) {
		check("the budget "+name, p.Spec.Selector)
		same(t, "pods that are not ready, in a drain", policyv1.AlwaysAllow, *p.Spec.UnhealthyPodEvictionPolicy)
		same(t, "pods of "+name+" that a drain takes at a time", "1", p.Spec.MaxUnavailable.String())
	}
	for name, p := range of[*networkingv1.NetworkPolicy](all) {
		same(t, "what "+name+" limits", []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, p.Spec.PolicyTypes)
		for _, rule := range p.Spec.Ingress {
			for _, port := range rule.Ports {
				check("the policy "+name, &p.Spec.PodSelector, port.Port.StrVal)
			}
			if len(rule.Ports) == 0 {
				t.Errorf("%s opens all ports", name)
			}
		}
	}
	for workload, pod := range pods {
		for _, spread := range pod.Spec.TopologySpreadConstraints {
			check("the spread of "+workload, spread.LabelSelector)
			same(t, "where "+workload+" cannot be spread", corev1.ScheduleAnyway, spread.WhenUnsatisfiable)
		}
		for _, c := range pod.Spec.Containers {
			for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
				switch {
				case probe == nil:
				case probe.Exec != nil:
					same(t, "the program that probes "+c.Name, c.Command[0], probe.Exec.Command[0])
				case pod.Spec.HostNetwork && probe.HTTPGet.Port.StrVal == "": // TestAgentManifestsReachEveryNode knows the number
				case !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == probe.HTTPGet.Port.StrVal }):
					t.Errorf("%s is probed at %s, which it does not have", workload, probe.HTTPGet.Port.StrVal)
				}
			}
		}
	}
}

// checkSecrets checks that nothing secret is anywhere but in Secrets.
func checkSecrets(t *testing.T, all objects) {
	t.Helper()
	for _, d := range all {
		if _, ok := d.Object.(*corev1.Secret); ok {
			continue
		}
		for _, s := range of[*corev1.Secret](all) {
			for key, value := range s.Data {
				if key != "ca.crt" && strings.Contains(d.Text, string(value)) {
					t.Errorf("%s has the key %s of the Secret %s", d.Template, key, s.Name)
				}
			}
		}
		if strings.Contains(d.Text, "PRIVATE KEY") {
			t.Errorf("%s has a private key:\n%s", d.Template, d.Text)
		}
	}
}

// checkPod holds a pod to Pod Security's "restricted" standard (Kubernetes, "Pod Security Standards"); the agent, which needs its node's network, to
// no more than that network, a folder of the node's, and, where it does not talk with pods, two capabilities.
func checkPod(t *testing.T, workload string, pod corev1.PodTemplateSpec) {
	t.Helper()
	no, yes, user := new(bool), new(bool), int64(65532)
	*yes = true
	agent := workload == "lanyard-agent"
	spec := pod.Spec
	if spec.HostPID || spec.HostIPC || spec.HostNetwork != agent || spec.EnableServiceLinks == nil || *spec.EnableServiceLinks {
		t.Errorf("%s has something of the host, or other services' addresses", workload)
	}
	seccomp := &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	if agent {
		same(t, "the security of "+workload, &corev1.PodSecurityContext{SeccompProfile: seccomp}, spec.SecurityContext)
	} else {
		once := corev1.FSGroupChangeOnRootMismatch
		same(t, "the security of "+workload, &corev1.PodSecurityContext{
			RunAsNonRoot: yes, RunAsUser: &user, RunAsGroup: &user, FSGroup: &user, FSGroupChangePolicy: &once, SeccompProfile: seccomp,
		}, spec.SecurityContext)
	}
	for _, v := range spec.Volumes {
		if s := v.VolumeSource; agent && s.HostPath != nil {
			kind := corev1.HostPathDirectoryOrCreate
			same(t, "the node's folder", &corev1.HostPathVolumeSource{Path: "/run/lanyard-agent", Type: &kind}, s.HostPath)
		} else if s.ConfigMap == nil && s.Secret == nil && s.Projected == nil && s.EmptyDir == nil {
			t.Errorf("%s has a volume of a kind that is not restricted: %+v", workload, v)
		}
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		want := &corev1.SecurityContext{
			Privileged: no, AllowPrivilegeEscalation: no, ReadOnlyRootFilesystem: yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		}
		if agent {
			want.RunAsUser, want.RunAsGroup = new(int64), new(int64)
			want.Capabilities.Add = map[string][]corev1.Capability{"hold": {"NET_ADMIN", "NET_BIND_SERVICE"}}[c.Name]
		}
		same(t, "the security of "+c.Name, want, c.SecurityContext)
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s asks for %v of at most %v", c.Name, c.Resources.Requests, c.Resources.Limits)
		}
		for _, p := range c.Ports {
			if p.ContainerPort < 1024 || p.HostPort != 0 && p.HostPort != p.ContainerPort {
				t.Errorf("%s listens at %+v", c.Name, p)
			}
		}
		for _, m := range c.VolumeMounts {
			if !m.ReadOnly && m.Name != "data" && !(agent && (m.Name == "handover" || m.Name == "health")) {
				t.Errorf("%s may write to %s", c.Name, m.MountPath)
			}
		}
	}
}

// rights lists each verb, resource and name that rules give.
func rights(rules []rbacv1.PolicyRule) (all []string) {
	for _, r := range rules {
		names := r.ResourceNames
		if len(names) == 0 {
			names = []string{"any"}
		}
		for _, verb := range r.Verbs {
			for _, u := range r.NonResourceURLs {
				all = append(all, u+" "+verb)
			}
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					for _, name := range names {
						all = append(all, strings.TrimLeft(strings.Join([]string{group, resource, name, verb}, " "), " "))
					}
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

// granted returns the rights of each role.
func (all objects) granted() map[string][]string {
	found := map[string][]string{}
	for name, r := range of[*rbacv1.ClusterRole](all) {
		found["everywhere "+name] = rights(r.Rules)
	}
	for name, r := range of[*rbacv1.Role](all) {
		found["here "+name] = rights(r.Rules)
	}
	return found
}

// checkRights checks what no role may ever give, whatever it comes to be.
func checkRights(t *testing.T, all objects) {
	t.Helper()
	for name, r := range of[*rbacv1.ClusterRole](all) {
		if r.AggregationRule != nil {
			t.Errorf("%s takes in other roles", name)
		}
	}
	for role, granted := range all.granted() {
		if len(granted) == 0 {
			t.Errorf("%s gives nothing", role)
		}
		for what, never := range map[string]string{
			"all of something":                       `\*`,
			"ruin":                                   ` any (delete|deletecollection)$`,
			"somebody else's rights":                 ` (impersonate|escalate|bind|approve|sign)$`,
			"subresources, with tokens and programs": `^(pods|serviceaccounts|nodes)/`,
			"any secret, or a list of them":          `^secrets any (get|update|patch|list|watch)$|^secrets .* (list|watch)$`,
			"any registration":                       `webhookconfigurations any `,
			"pods and service accounts to change":    `^(pods|serviceaccounts) .* (create|update|patch)$`,
			"what others keep in config maps":        `^configmaps any (get|update|patch|list|watch|delete)$`,
			"rights to give":                         `^(rbac|certificates|authorization)\.`,
		} {
			for _, g := range granted {
				if regexp.MustCompile(never).MatchString(g) && !slices.Contains(exceptions()[role], g) {
					t.Errorf("%s gives %s: %s", role, what, g)
				}
			}
			if strings.HasPrefix(role, "everywhere") && slices.ContainsFunc(granted, func(g string) bool { return strings.HasPrefix(g, "secrets") }) {
				t.Errorf("%s gives secrets of all namespaces: %v", role, granted)
			}
		}
	}
}

// exceptions are the rights, by roles, that are given all the same: what stands for the resources' associations, and for access policies, has to
// be made and deleted anywhere; and those who have AmazonEKSAdminViewPolicy may see everything.
func exceptions() map[string][]string {
	const group = "rbac.authorization.k8s.io "
	keeper := []string{group + "rolebindings any create", group + "rolebindings any delete", group + "rolebindings any list", group + "rolebindings any update"}
	for _, p := range accesspolicy.All() {
		keeper = append(keeper, group+"clusterroles "+p.ClusterRole+" bind")
	}
	return map[string][]string{
		"everywhere lanyard-webhook": keeper,
		"everywhere lanyard-webhook-cleanup": {
			"lanyard.dev podidentityassociations any delete", group + "rolebindings any delete", group + "rolebindings any list",
		},
		"everywhere " + accesspolicy.AdminView: {"* * any get", "* * any list", "* * any watch"},
	}
}

// The chart binds the groups that Lanyard puts people into.
func TestAccessPoliciesAreBoundInTheWholeCluster(t *testing.T) {
	t.Parallel()
	all := render(t, releases["people by IAM"])
	want := map[string]string{}
	for _, p := range accesspolicy.All() {
		want[p.Group("")] = p.ClusterRole
		if b := of[*rbacv1.ClusterRoleBinding](all)[p.Binding()]; b == nil {
			t.Errorf("there is no binding of the name %s", p.Binding())
		}
	}
	got := map[string]string{}
	for _, b := range of[*rbacv1.ClusterRoleBinding](all) {
		for _, s := range b.Subjects {
			if s.Kind == rbacv1.GroupKind {
				got[s.Name] = b.RoleRef.Name
			}
		}
	}
	same(t, "groups and their roles", want, got)
	for name, values := range releases {
		if name == "people by IAM" {
			continue
		}
		for binding, b := range of[*rbacv1.ClusterRoleBinding](render(t, values)) {
			if b.Subjects[0].Kind != rbacv1.ServiceAccountKind {
				t.Errorf("%s: %s binds %+v", name, binding, b.Subjects)
			}
		}
	}
}

// An agent, which is on its node's network, asks the cluster's DNS for what only that knows.
func TestAgentsFindTheEndpoint(t *testing.T) {
	t.Parallel()
	const joined = "clusterName: demo\nserver: {enabled: false}\nendpoint: "
	for _, tt := range []struct {
		name, values string
		want         corev1.DNSPolicy
	}{
		{"the release's own server", "clusterName: demo", corev1.DNSClusterFirstWithHostNet},
		{"a service", joined + "https://lanyard-server.lanyard.svc", corev1.DNSClusterFirstWithHostNet},
		{"a service with its port", joined + "https://lanyard-server.lanyard.svc:8443", corev1.DNSClusterFirstWithHostNet},
		{"a service with the cluster's domain", joined + "https://lanyard-server.lanyard.svc.cluster.local:8443", corev1.DNSClusterFirstWithHostNet},
		{"a service with another cluster's domain", joined + "https://lanyard-server.lanyard.svc.other.local", corev1.DNSDefault},
		{"a name for all", joined + "https://lanyard.example.com:8443", corev1.DNSDefault},
		{"AWS", "clusterName: demo\nissuer: aws\nserver: {enabled: false}", corev1.DNSDefault},
		{"what somebody chose", "clusterName: demo\nagent: {dnsPolicy: Default}", corev1.DNSDefault},
	} {
		agent := of[*appsv1.DaemonSet](render(t, tt.values))["lanyard-agent"]
		if agent == nil {
			t.Fatalf("%s: there is no agent", tt.name)
		}
		if got := agent.Spec.Template.Spec.DNSPolicy; got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestRolesGiveLeast(t *testing.T) {
	t.Parallel()
	const cleanup, webhook = "lanyard-webhook-cleanup", "lanyard-webhook"
	base := []string{
		"serviceaccounts any get", "serviceaccounts any list", "serviceaccounts any watch", "pods any list", "events any create", "events any patch",
	}
	certificates := []string{"configmaps any create", "configmaps lanyard-ca get", "configmaps lanyard-ca list", "configmaps lanyard-ca update"}
	registration := []string{
		"admissionregistration.k8s.io mutatingwebhookconfigurations pod-identity-webhook get",
		"admissionregistration.k8s.io mutatingwebhookconfigurations pod-identity-webhook update",
	}
	keys := []string{"/.well-known/openid-configuration get", "/openid/v1/jwks get"}
	associations := []string{
		"lanyard.dev podidentityassociations any get", "lanyard.dev podidentityassociations any list", "lanyard.dev podidentityassociations any update",
		"lanyard.dev podidentityassociations any watch", "lanyard.dev podidentityassociations/status any update",
	}
	lease := []string{
		"coordination.k8s.io leases any create", "coordination.k8s.io leases lanyard-webhook get", "coordination.k8s.io leases lanyard-webhook update",
	}
	secret := func(name string) []string { return []string{"secrets " + name + " get", "secrets " + name + " update"} }
	makes := []string{"secrets any create"}
	cleans := map[string][]string{
		"everywhere " + cleanup: {
			"configmaps lanyard-ca delete", "configmaps lanyard-ca list", "lanyard.dev podidentityassociations any delete", "lanyard.dev podidentityassociations any list",
		},
		"here " + cleanup: {"coordination.k8s.io leases lanyard-webhook delete", "secrets lanyard-webhook-keys delete", "secrets pod-identity-webhook delete"},
	}
	for _, c := range []struct {
		release            string
		everywhere, here   [][]string
		cleanup, lookAtOwn map[string][]string
	}{
		{
			"all of it", [][]string{base, certificates, registration, keys, associations},
			[][]string{makes, secret("pod-identity-webhook"), secret("lanyard-webhook-keys"), lease}, cleans, nil,
		},
		{"credentials of AWS", [][]string{base, registration, associations}, [][]string{makes, secret("pod-identity-webhook"), lease}, cleans, nil},
		{"keys that are not pushed", [][]string{base, certificates, registration}, [][]string{makes, secret("pod-identity-webhook")}, nil, nil},
		{
			"cert-manager's webhook", [][]string{base, certificates, keys, associations}, [][]string{makes, secret("lanyard-webhook-keys"), lease},
			cleans, nil,
		},
		{
			"roles in a ConfigMap", [][]string{base, certificates, registration, keys, associations},
			[][]string{
				makes, secret("pod-identity-webhook"), secret("lanyard-webhook-keys"), lease,
				{"configmaps pod-identity-webhook get", "configmaps pod-identity-webhook list", "configmaps pod-identity-webhook watch"},
			}, cleans, nil,
		},
		{"an issuer of cert-manager's", [][]string{base, certificates}, nil, cleans, nil},
		{
			"token reviews", [][]string{base, certificates, registration, keys, associations},
			[][]string{makes, secret("pod-identity-webhook"), secret("lanyard-webhook-keys"), lease}, cleans,
			map[string][]string{"everywhere lanyard-server": {"authentication.k8s.io tokenreviews any create"}},
		},
		{
			"people by IAM", [][]string{base, certificates, registration, keys, associations, {"namespaces any list"}, exceptions()["everywhere "+webhook]},
			[][]string{makes, secret("pod-identity-webhook"), secret("lanyard-webhook-keys"), lease},
			map[string][]string{
				"here " + cleanup: cleans["here "+cleanup],
				"everywhere " + cleanup: slices.Sorted(slices.Values(slices.Concat(cleans["everywhere "+cleanup], []string{
					"rbac.authorization.k8s.io rolebindings any delete", "rbac.authorization.k8s.io rolebindings any list",
				}))),
			},
			map[string][]string{"everywhere " + accesspolicy.AdminView: exceptions()["everywhere "+accesspolicy.AdminView]},
		},
		{"the server alone", nil, nil, nil, nil},
		{"the agent alone", nil, nil, nil, nil},
	} {
		want := map[string][]string{}
		for role, lists := range map[string][][]string{"everywhere " + webhook: c.everywhere, "here " + webhook: c.here} {
			if all := slices.Concat(lists...); all != nil {
				slices.Sort(all)
				want[role] = all
			}
		}
		maps.Copy(want, c.cleanup)
		maps.Copy(want, c.lookAtOwn)
		same(t, c.release, want, render(t, releases[c.release]).granted())
	}
}

// Tokens for the API server are in pods that ask it something, and in no others.
func TestOnlyPodsThatAskTheAPIServerHaveItsTokens(t *testing.T) {
	t.Parallel()
	for name, values := range releases {
		all := render(t, values)
		for workload, pod := range all.pods() {
			want := workload == "lanyard-webhook" || workload == "lanyard-webhook-cleanup" || workload == "lanyard-server" && name == "token reviews"
			if pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken != want {
				t.Errorf("%s: the pods of %s have the token: %v, want %v", name, workload, pod.Spec.AutomountServiceAccountToken, want)
			}
		}
		for account, a := range of[*corev1.ServiceAccount](all) {
			if a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken {
				t.Errorf("%s: any pod of the service account %s has its token", name, account)
			}
		}
	}
}

func TestRefusedValuesSayWhatToDo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, values, want string }{
		{"no cluster", "{}", "clusterName: name the cluster"},
		{"no cluster to review tokens of", "agent: {enabled: false}\nwebhook: {enabled: false}\nserver: {tokenReview: 30s}", "clusterName: name the cluster"},
		{"a key that is not there", "clusterName: demo\nclustername: demo", "additional properties 'clustername' not allowed"},
		{"one below", "clusterName: demo\nserver: {replica: 2}", "additional properties 'replica' not allowed"},
		{"access to AWS's clusters", "clusterName: demo\nissuer: aws\nserver: {enabled: false}\naccess: {enabled: true}", "access.enabled: only Lanyard answers"},
		{"access without the webhook", "clusterName: demo\nwebhook: {enabled: false}\naccess: {enabled: true}", "access.enabled: the webhook keeps"},
		{"a cluster that waits for itself", "clusterName: demo\nwebhook: {failurePolicy: Fail, exceptNamespaces: [kube-flannel]}", "leave kube-system in it with failurePolicy: Fail"},
		{"a label of the chart's own", "clusterName: demo\nlabels: {app.kubernetes.io/version: v1}", "labels: app.kubernetes.io/version is the chart's own"},
		{"a pod that is not found by its name", "clusterName: demo\nwebhook: {podLabels: {app.kubernetes.io/name: mine}}", "webhook.podLabels: app.kubernetes.io/name is the chart's own"},
		{"an account that is a number", "clusterName: demo\naccount: 111122223333", "at '/account': got number, want string"},
		{"a short account", "clusterName: demo\naccount: \"1111\"", "at '/account': '1111' does not match pattern"},
		{"a place for a region", "clusterName: demo\nregion: Frankfurt", "at '/region'"},
		{"an endpoint without https", "clusterName: demo\nendpoint: http://lanyard", "at '/endpoint'"},
		{"an endpoint with a path", "clusterName: demo\nendpoint: https://lanyard/x", "at '/endpoint'"},
		{"an issuer that is none", "clusterName: demo\nissuer: azure", "value must be one of 'lanyard', 'aws'"},
		{"an endpoint of AWS's", "clusterName: demo\nissuer: aws\nendpoint: https://lanyard", "endpoint: leave it empty with issuer: aws"},
		{"nobody to ask", "clusterName: demo\nserver: {enabled: false}", "endpoint: say where Lanyard is"},
		{"replicas of an embedded store", "clusterName: demo\nserver: {replicas: 2}", "set server.etcd.endpoints"},
		{"replicas of embedded objects", "clusterName: demo\nserver: {replicas: 2, etcd: {endpoints: [https://a]}, s3: {embedded: true}}", "set server.s3.upstream"},
		{"a bucket nowhere", "clusterName: demo\nserver: {audit: {bucket: {name: trail}}}", "server.audit.bucket.region"},
		{"two kinds of objects", "clusterName: demo\nserver: {s3: {embedded: true, upstream: {endpoint: \"https://a\"}}}", "choose embedded or upstream"},
		{"an upstream without a key", "clusterName: demo\nserver: {s3: {upstream: {endpoint: \"https://a\"}}}", "accessKeyID and existingSecret are needed"},
		{"keys without their authority", "clusterName: demo\nserver: {existingSecret: keys}", "say what its ca.crt is"},
		{"two authorities", "clusterName: demo\nca: {configMap: a, pem: \"-----BEGIN CERTIFICATE-----\\n\"}", "give pem or configMap, not both"},
		{"a key for an authority", "clusterName: demo\nca: {pem: \"-----BEGIN PRIVATE KEY-----\\n\"}", "at '/ca/pem'"},
		{"names without certificates", "clusterName: demo\nintercept: {corednsCustom: true}", "needs intercept.enabled"},
		{"interception by another release", "clusterName: demo\nendpoint: https://a\nserver: {enabled: false}\nintercept: {enabled: true}", "belongs to the release that has the server"},
		{"a trust guard that is none", "clusterName: demo\nserver: {trustGuard: maybe}", "'off', 'warn', 'deny'"},
		{"flags that are none", "clusterName: demo\nagent: {extraArgs: [debug]}", "at '/agent/extraArgs/0'"},
		{"a role by its name", "clusterName: demo\nagent: {roleARN: agent}", "at '/agent/roleARN'"},
		{"no replicas", "clusterName: demo\nwebhook: {replicas: 0}", "minimum: got 0, want 1"},
	} {
		_, _, err := deploy.Render(deploy.Release{Values: parse(t, c.values)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}
