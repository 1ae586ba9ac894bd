package doctor_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/doctor"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/localca"
	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/internal/subject"
)

const (
	issuer   = "https://oidc.example.com/id/A"
	roleARN  = "arn:aws:iam::111122223333:role/reader"
	provider = "arn:aws:iam::111122223333:oidc-provider/oidc.example.com/id/A"
	cluster  = "arn:aws:eks:us-east-1:111122223333:cluster/prod"
	secret   = "a-secret-that-nobody-may-see"
)

var now = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func is[T any](v T) doctor.Read[T] { return doctor.Read[T]{Value: &v} }

func absent[T any](r *doctor.Read[T]) { *r = doctor.Read[T]{Absent: true} }

func forbidden[T any](r *doctor.Read[T]) {
	*r = doctor.Read[T]{Why: "it is forbidden", Grant: "Have the right given."}
}

// webIdentityTrust trusts one service account of an issuer.
func webIdentityTrust(operator, key, sub, aud string) []byte {
	return fmt.Appendf(nil, `{
  "Version": "2012-10-17",
  "Statement": [{
    "Effect": "Allow",
    "Principal": {"Federated": %q},
    "Action": "sts:AssumeRoleWithWebIdentity",
    "Condition": {
      %q: {%q: %q},
      "StringEqualsIgnoreCase": {"oidc.example.com/id/A:aud": %q}
    }
  }]
}`, provider, operator, key, sub, aud)
}

// serviceTrust trusts EKS.
func serviceTrust(service, actions, condition string) []byte {
	return fmt.Appendf(nil, `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": %q},
  "Action": %s, "Condition": {%s}}]}`, service, actions, condition)
}

const bothActions = `["sts:AssumeRole", "sts:TagSession"]`

// healthy is what is known of a pod whose chain is whole.
func healthy(t *testing.T, way podspec.Way) *doctor.Facts {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "worker"}}
	associations := []doctor.Association{{ID: "a-other", Whom: subject.Subject{Namespace: "batch", ServiceAccount: "cron"}}}
	role := doctor.Role{Trust: serviceTrust("pods.eks.amazonaws.com", bothActions, ""), MaxSession: time.Hour}
	if way == podspec.WebIdentity {
		account.Annotations = map[string]string{"eks.amazonaws.com/role-arn": roleARN}
		role.Trust = webIdentityTrust("StringLike", "oidc.example.com/id/A:sub", "system:serviceaccount:web:worker", "sts.amazonaws.com")
	} else {
		associations = append(associations, doctor.Association{ID: "a-1", Whom: subject.Subject{Namespace: "web", ServiceAccount: "worker"}})
	}
	var err error
	if role.ARN, err = arn.Parse(roleARN); err != nil {
		t.Fatal(err)
	}
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "worker-0", UID: "uid-0", Labels: map[string]string{"app": "worker"}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "worker", NodeName: "node-1",
			InitContainers: []corev1.Container{{Name: "prepare", Image: "app"}},
			Containers:     []corev1.Container{{Name: "app", Image: "app"}, {Name: "sidecar", Image: "app"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	settings := podspec.Settings{Region: "us-east-1", Endpoint: "https://lanyard.example", CA: podspec.ConfigMapKey{Name: "lanyard-ca", Key: "ca.pem"}}
	id, err := settings.Identity(way, account.Annotations)
	if err != nil {
		t.Fatal(err)
	}
	pod = given(t, settings, id, pod)
	ca, err := localca.New(now)
	if err != nil {
		t.Fatal(err)
	}
	ignore, path := admissionv1.Ignore, "/mutate"
	f := &doctor.Facts{
		Now: now, Namespace: "web", PodName: "worker-0", Cluster: "prod", Webhook: "pod-identity-webhook",
		Lanyard: true, PrivateCA: true, Duration: time.Hour,
		Server:       is(doctor.Server{Address: "https://kubernetes.example", Date: now}),
		ControlPlane: is(doctor.Server{Address: "https://lanyard.example", Date: now}),
		Pod:          is(pod), Account: is(*account), NamespaceLabels: is(map[string]string{"kubernetes.io/metadata.name": "web"}),
		Registration: is(admissionv1.MutatingWebhookConfiguration{Webhooks: []admissionv1.MutatingWebhook{{
			Name: "pod-identity.lanyard.dev", FailurePolicy: &ignore,
			ClientConfig: admissionv1.WebhookClientConfig{
				Service: &admissionv1.ServiceReference{Namespace: "lanyard", Name: "pod-identity-webhook", Path: &path}, CABundle: ca.PEM(),
			},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
			NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: "kubernetes.io/metadata.name", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"lanyard", "kube-system"}},
			}},
		}}}),
		Endpoints: is(2), DryRun: is(doctor.DryRun{Pod: &pod}),
		Token: is(doctor.Token{Claims: idtoken.Claims{
			Issuer: issuer, Subject: "system:serviceaccount:web:worker", Audience: []string{id.Audience}, IssuedAt: now, NotBefore: now,
			Expires: now.Add(10 * time.Minute), KeyID: "key-1",
		}}),
		Issuer: is(doctor.Issuer{URL: issuer, KeyIDs: []string{"key-1"}}), Sources: map[string]doctor.Read[[]string]{},
		Registered: is(doctor.Cluster{ARN: cluster, Issuer: issuer}), Associations: is(associations), Role: is(role),
		Call: is(doctor.Call{Expires: now.Add(time.Hour)}),
	}
	if way == podspec.WebIdentity {
		f.Provider = is(doctor.Provider{ARN: provider, ClientIDs: []string{"sts.amazonaws.com"}})
		return f
	}
	a := associations[1]
	a.RoleARN = roleARN
	f.Association = is(a)
	f.Policies = is([]networkingv1.NetworkPolicy{})
	f.Agents = is([]corev1.Pod{agentOn("node-1", corev1.ConditionTrue), agentOn("node-2", corev1.ConditionTrue)})
	f.Probe = is(doctor.Probe{Status: 200})
	return f
}

func agentOn(node string, ready corev1.ConditionStatus) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "lanyard", Name: "lanyard-agent-" + node},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}},
	}
}

// given is the pod as the webhook makes it.
func given(t *testing.T, s podspec.Settings, id podspec.Identity, pod corev1.Pod) corev1.Pod {
	t.Helper()
	operations, err := s.Patch(&pod, id)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(operations)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		t.Fatal(err)
	}
	before, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	after, err := patch.Apply(before)
	if err != nil {
		t.Fatal(err)
	}
	var made corev1.Pod
	if err := json.Unmarshal(after, &made); err != nil {
		t.Fatal(err)
	}
	return made
}

// bare takes from the pod all that the webhook has given to it.
func bare(f *doctor.Facts) {
	p := f.Pod.Value.DeepCopy()
	p.Spec.Volumes = nil
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			list[i].Env, list[i].VolumeMounts = nil, nil
		}
	}
	f.Pod.Value = p
}

// unanswered is what a dry run shows when no webhook answers.
func unanswered(f *doctor.Facts) {
	bare(f)
	f.DryRun = is(doctor.DryRun{Pod: f.Pod.Value})
}

// setEnv sets a variable of the first container.
func setEnv(f *doctor.Facts, v corev1.EnvVar) {
	p := f.Pod.Value.DeepCopy()
	p.Spec.Containers[0].Env = append(slices.DeleteFunc(p.Spec.Containers[0].Env, func(e corev1.EnvVar) bool { return e.Name == v.Name }), v)
	f.Pod.Value = p
}

func unsetEnv(f *doctor.Facts, names ...string) {
	p := f.Pod.Value.DeepCopy()
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		c.Env = slices.DeleteFunc(c.Env, func(e corev1.EnvVar) bool { return slices.Contains(names, e.Name) })
	}
	f.Pod.Value = p
}

// of is a chain whose webhook has flags: the pod is what it makes of one that has nothing yet.
func of(t *testing.T, f *doctor.Facts, s podspec.Settings, way podspec.Way, annotations map[string]string) {
	t.Helper()
	bare(f)
	id, err := s.Identity(way, annotations)
	if err != nil {
		t.Fatal(err)
	}
	f.Settings = s
	s.Region, s.Endpoint, s.CA = "us-east-1", "https://lanyard.example", podspec.ConfigMapKey{Name: "lanyard-ca", Key: "ca.pem"}
	pod := given(t, s, id, *f.Pod.Value)
	f.Pod, f.DryRun = is(pod), is(doctor.DryRun{Pod: &pod})
	f.Token.Value.Claims.Audience = []string{id.Audience}
	if way == podspec.WebIdentity {
		f.Provider.Value.ClientIDs = []string{id.Audience}
		f.Role.Value.Trust = webIdentityTrust("StringEquals", "oidc.example.com/id/A:sub", "system:serviceaccount:web:worker", id.Audience)
	}
}

// onKind puts the pod on a node of EKS's of a kind, on which no agent's pod is.
func onKind(f *doctor.Facts, kind string, lanyard bool) {
	f.Agents, f.Probe, f.Lanyard = is([]corev1.Pod{agentOn("node-2", corev1.ConditionTrue)}), doctor.Read[doctor.Probe]{}, lanyard
	f.Node = is(corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{"eks.amazonaws.com/compute-type": kind}}})
}

func refused(code, message string) doctor.Read[doctor.Call] {
	return is(doctor.Call{Code: code, Message: message})
}

var (
	trustRefusal = refused("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
	eksRefusal   = refused("AccessDeniedException", "Unauthorized Exception! EKS does not have permissions to assume the associated role.")
)

func trusting(f *doctor.Facts, document []byte) {
	role := *f.Role.Value
	role.Trust = document
	f.Role, f.Call = is(role), trustRefusal
	if f.Association.Value != nil {
		f.Call = eksRefusal
	}
}

func TestWholeChains(t *testing.T) {
	t.Parallel()
	for _, way := range []podspec.Way{podspec.WebIdentity, podspec.PodIdentity} {
		t.Run(way.String(), func(t *testing.T) {
			t.Parallel()
			r := doctor.Diagnose(healthy(t, way))
			for _, one := range r.Results {
				if one.Status != doctor.OK {
					t.Errorf("%s: %s: %s", one.Link, one.Status, one.Text)
				}
			}
			if r.Status != doctor.OK || r.Way != way.String() || r.RoleARN != roleARN || r.Cause != "" {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestFirstBrokenLink(t *testing.T) {
	t.Parallel()
	const irsa, eks = podspec.WebIdentity, podspec.PodIdentity
	sub, aud := "oidc.example.com/id/A:sub", "sts.amazonaws.com"
	for _, c := range []struct {
		name      string
		way       podspec.Way
		change    func(*doctor.Facts)
		link      string
		text, fix string
	}{
		{"there is no such pod", eks, func(f *doctor.Facts) { absent(&f.Pod); f.ServiceAccount = "" }, "pod", "There is no pod worker-0 in namespace web",
			"kubectl get pods -n web"},
		{"the pod mirrors a static pod", eks, func(f *doctor.Facts) {
			f.Pod.Value.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
		}, "pod", "the mirror of a static pod", "such as a DaemonSet's"},
		{"there is no such service account", irsa, func(f *doctor.Facts) { absent(&f.Account) }, "service account", "There is no service account web/worker",
			"kubectl create serviceaccount -n web worker"},
		{"the cluster has another name", eks, func(f *doctor.Facts) {
			absent(&f.Registered)
			f.Associations, f.Association = is([]doctor.Association{}), doctor.Read[doctor.Association]{}
		}, "cluster", "Lanyard knows no cluster of the name prod", "lanyard cluster list"},
		{"nothing is associated", eks, func(f *doctor.Facts) {
			f.Associations, f.Association = is([]doctor.Association{{ID: "a-2", Whom: subject.Subject{Namespace: "wed", ServiceAccount: "worker"}}}),
				doctor.Read[doctor.Association]{}
		}, "way", "neither an association in cluster prod nor the annotation", "lanyard association create --cluster prod -n web -s worker --role-arn ARN"},
		{"the annotation is a role's name", irsa, func(f *doctor.Facts) {
			f.Account.Value.Annotations = map[string]string{"eks.amazonaws.com/role-arn": "reader"}
		}, "role ARN", `is no role's ARN: "reader"`, "kubectl annotate --overwrite serviceaccount -n web worker"},
		{"the annotation was changed after the pod was made", irsa, func(f *doctor.Facts) {
			f.Account.Value.Annotations = map[string]string{"eks.amazonaws.com/role-arn": roleARN + "-2"}
		}, "role ARN", "has role " + roleARN, "kubectl delete pod -n web worker-0"},
		{"the ConfigMap names no role's ARN", irsa, func(f *doctor.Facts) {
			f.Account.Value.Annotations = nil
			f.Configured = is(podspec.ConfiguredAccounts{"web/worker": {RoleARN: "reader"}})
		}, "role ARN", "What the ConfigMap lanyard/pod-identity-webhook says of service account web/worker", "kubectl edit configmap -n lanyard pod-identity-webhook"},
		{"the ConfigMap was changed after the pod was made", irsa, func(f *doctor.Facts) {
			f.Account.Value.Annotations = nil
			f.Configured = is(podspec.ConfiguredAccounts{"web/worker": {RoleARN: roleARN + "-2"}})
		}, "role ARN", "the ConfigMap lanyard/pod-identity-webhook now names " + roleARN + "-2", "kubectl delete pod -n web worker-0"},
		{"a webhook with another annotation", irsa, func(f *doctor.Facts) { bare(f); f.Settings.AnnotationPrefix = "example.com" }, "way",
			"nor the annotation example.com/role-arn", "example.com/role-arn=ARN"},
		{"Lanyard's pod on a node of EKS Auto Mode", eks, func(f *doctor.Facts) { onKind(f, "auto", true) }, "agent", "which asks AWS and not Lanyard", "another node"},
		{"a pod on Fargate", eks, func(f *doctor.Facts) { onKind(f, "fargate", false) }, "agent", "runs on Fargate (node-1)", "use IRSA"},
		{"an older node without an agent", eks, func(f *doctor.Facts) { onKind(f, "", false) }, "agent", "There is no agent on the pod's node node-1", "taints"},
		{"the webhook is not installed", irsa, func(f *doctor.Facts) { unanswered(f); absent(&f.Registration) }, "webhook",
			"There is no MutatingWebhookConfiguration pod-identity-webhook", "helm upgrade --install lanyard deploy/chart"},
		{"the webhook is not asked about pods", eks, func(f *doctor.Facts) {
			unanswered(f)
			f.Registration.Value.Webhooks[0].Rules[0].Resources = []string{"configmaps"}
		}, "webhook", "asks no webhook when pods are created", "operation CREATE on resource pods"},
		{"the namespace is left out", irsa, func(f *doctor.Facts) {
			unanswered(f)
			f.NamespaceLabels = is(map[string]string{"kubernetes.io/metadata.name": "kube-system"})
		}, "webhook's choice", "namespaceSelector leaves out namespace web", "kubectl edit mutatingwebhookconfiguration pod-identity-webhook"},
		{"the pod's labels are left out", irsa, func(f *doctor.Facts) {
			unanswered(f)
			f.Registration.Value.Webhooks[0].ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"identity": "yes"}}
		}, "webhook's choice", "objectSelector leaves out the pod's labels", "the pod's template"},
		{"the pod is labelled to be left alone", eks, func(f *doctor.Facts) {
			unanswered(f)
			f.Pod.Value.Labels = map[string]string{"eks.amazonaws.com/skip-pod-identity-webhook": ""}
		}, "webhook's choice", "has the label eks.amazonaws.com/skip-pod-identity-webhook", "Take the label"},
		{"the webhook has no service", eks, func(f *doctor.Facts) { unanswered(f); absent(&f.Endpoints) }, "webhook's service",
			"service lanyard/pod-identity-webhook is not there", "helm upgrade --install lanyard deploy/chart"},
		{"no replica of the webhook is ready", eks, func(f *doctor.Facts) { unanswered(f); f.Endpoints = is(0) }, "webhook's service",
			"has no endpoint that is ready", "kubectl get pods -n lanyard"},
		{"the caBundle is empty", irsa, func(f *doctor.Facts) {
			unanswered(f)
			f.Registration.Value.Webhooks[0].ClientConfig.CABundle = nil
		}, "webhook's certificate", "caBundle of webhook pod-identity.lanyard.dev is empty", "kubectl rollout restart -n lanyard deployment/lanyard-webhook"},
		{"the caBundle is empty, of a webhook in another namespace", irsa, func(f *doctor.Facts) {
			unanswered(f)
			c := &f.Registration.Value.Webhooks[0].ClientConfig
			c.CABundle, c.Service.Namespace = nil, "identity"
		}, "webhook's certificate", "is empty", "kubectl rollout restart -n identity deployment/lanyard-webhook"},
		{"nobody answers in another namespace", eks, func(f *doctor.Facts) {
			unanswered(f)
			f.Registration.Value.Webhooks[0].ClientConfig.Service.Namespace = "identity"
		}, "next pod", "gets nothing from the webhook", "kubectl logs -n identity deployment/lanyard-webhook"},
		{"the caBundle is no certificate", irsa, func(f *doctor.Facts) {
			unanswered(f)
			f.Registration.Value.Webhooks[0].ClientConfig.CABundle = []byte("Cg==")
		}, "webhook's certificate", "cannot be used: it holds no certificate", "rollout restart"},
		{"the caBundle has ended", irsa, func(f *doctor.Facts) {
			unanswered(f)
			f.Now = now.AddDate(30, 0, 0)
			f.Server, f.ControlPlane = is(doctor.Server{Date: f.Now}), is(doctor.Server{Date: f.Now})
			f.Token.Value.Claims.Expires = f.Now.Add(time.Hour)
		}, "webhook's certificate", "ended on", "rollout restart"},
		{"the webhook serves another certificate", irsa, func(f *doctor.Facts) {
			unanswered(f)
			f.Serving = is(doctor.Serving{Fault: "x509: certificate signed by unknown authority"})
		}, "webhook's certificate", "does not match what is registered: x509: certificate signed by unknown authority", "rollout restart"},
		{"failurePolicy Fail, and nobody answers", irsa, func(f *doctor.Facts) {
			bare(f)
			f.DryRun = is(doctor.DryRun{Refusal: `Internal error occurred: failed calling webhook "pod-identity.lanyard.dev": connection refused`})
		}, "next pod", "cannot ask the webhook, and refuses pods", "kubectl logs -n lanyard"},
		{"failurePolicy Fail, and the certificate is not trusted", irsa, func(f *doctor.Facts) {
			bare(f)
			f.DryRun = is(doctor.DryRun{Refusal: `Internal error occurred: failed calling webhook "pod-identity.lanyard.dev": tls: x509: certificate has expired`})
		}, "next pod", "does not trust the webhook's certificate", "rollout restart"},
		{"failurePolicy Ignore, and nobody answers", eks, unanswered, "next pod", "A pod that is made today gets nothing from the webhook",
			"kubectl logs -n lanyard"},
		{"the webhook has not seen the pattern yet", eks, func(f *doctor.Facts) {
			unanswered(f)
			f.Associations = is([]doctor.Association{{ID: "a-1", Whom: subject.Subject{Namespace: "web", ServiceAccount: "work*"}}})
		}, "next pod", "its association is for the pattern web/work*", "--association-sync-period"},
		{"the webhook says why it gives nothing", irsa, func(f *doctor.Facts) {
			unanswered(f)
			f.DryRun.Value.Warnings = []string{"lanyard: service account web/worker: it cannot be told; the pod runs without AWS credentials"}
		}, "next pod", "gets nothing from the webhook", "it tells of service account web/worker"},
		{"the pod was made before its annotation", irsa, bare, "containers", "made before its service account had its annotation",
			"kubectl delete pod -n web worker-0"},
		{"the pod was made before its association", eks, bare, "containers", "made before its service account had an association",
			"kubectl delete pod -n web worker-0"},
		{"the pod belongs to a Deployment", eks, func(f *doctor.Facts) {
			bare(f)
			f.Pod.Value.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "worker-5d4c"}}
		}, "containers", "nothing of its identity", "kubectl rollout restart -n web deployment/worker"},
		{"one container lacks a variable", eks, func(f *doctor.Facts) {
			p := f.Pod.Value.DeepCopy()
			p.Spec.Containers[1].Env = nil
			f.Pod.Value = p
		}, "containers", "container sidecar lacks AWS_CONTAINER_CREDENTIALS_FULL_URI, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "kubectl delete pod"},
		{"one container was meant to be skipped, but for a blank", eks, func(f *doctor.Facts) {
			p := f.Pod.Value.DeepCopy()
			p.Annotations = map[string]string{"eks.amazonaws.com/skip-containers": "app, sidecar"}
			p.Spec.Containers[1].Env = nil
			f.Pod.Value = p
		}, "containers", "container sidecar lacks AWS_CONTAINER_CREDENTIALS_FULL_URI", "kubectl delete pod"},
		{"one container lacks the mount", irsa, func(f *doctor.Facts) {
			p := f.Pod.Value.DeepCopy()
			p.Spec.InitContainers[0].VolumeMounts = nil
			f.Pod.Value = p
		}, "containers", "container prepare lacks the mount of aws-iam-token", "kubectl delete pod"},
		{"the pod has another volume of that name", irsa, func(f *doctor.Facts) {
			p := f.Pod.Value.DeepCopy()
			for i := range p.Spec.Volumes {
				if p.Spec.Volumes[i].Name == "aws-iam-token" {
					p.Spec.Volumes[i].VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
				}
			}
			f.Pod.Value = p
		}, "containers", "The pod's volume aws-iam-token is another one", "another name"},
		{"the token in the pod has ended", irsa, func(f *doctor.Facts) {
			f.Token.Value.Claims.Expires, f.Token.Value.Exec = now.Add(-time.Minute), true
		}, "token", "The token in the pod ended at", "kubelet"},
		{"the token in the pod is for another audience", eks, func(f *doctor.Facts) {
			f.Token.Value.Claims.Audience, f.Token.Value.Exec = []string{"sts.amazonaws.com"}, true
		}, "token", "is for audience sts.amazonaws.com, and it must be for pods.eks.amazonaws.com", "Project a token for pods.eks.amazonaws.com"},
		{"the token is somebody else's", eks, func(f *doctor.Facts) {
			f.Token.Value.Claims.Subject = "system:serviceaccount:web:other"
		}, "token", "is one of system:serviceaccount:web:other", "Make the pod again"},
		{"the API server has another issuer than the one registered", eks, func(f *doctor.Facts) {
			f.Registered = is(doctor.Cluster{ARN: cluster, Issuer: issuer + "/"})
			f.Call = refused("InvalidTokenException", "The token was not issued by the cluster's issuer.")
		}, "issuer", "registered with the issuer " + issuer + "/", "lanyard cluster register prod"},
		{"the issuer is no https URL", irsa, func(f *doctor.Facts) {
			f.Token.Value.Claims.Issuer = "http://oidc.example.com/id/A"
			f.Registered.Value.Issuer = "http://oidc.example.com/id/A"
		}, "issuer", "which is no https URL", "--service-account-issuer"},
		{"the provider is not there", irsa, func(f *doctor.Facts) {
			absent(&f.Provider)
			f.Call = refused("InvalidIdentityToken", "No OpenIDConnect provider found in your account for "+issuer)
		}, "provider", "has no OIDC provider " + provider, "aws iam create-open-id-connect-provider --url " + issuer},
		{"the provider does not take the audience", irsa, func(f *doctor.Facts) {
			f.Provider.Value.ClientIDs = []string{"sts.amazonaws.com.cn"}
			f.Call = refused("InvalidIdentityToken", "Incorrect token audience")
		}, "provider", "does not take the audience sts.amazonaws.com; those that it takes: sts.amazonaws.com.cn", "--client-id sts.amazonaws.com"},
		{"the provider may not be read, and STS says that it is not there", irsa, func(f *doctor.Facts) {
			forbidden(&f.Provider)
			f.Call = refused("InvalidIdentityToken", "No OpenIDConnect provider found in your account for "+issuer)
		}, "provider", "has no OIDC provider", "create-open-id-connect-provider"},
		{"STS cannot fetch the keys", irsa, func(f *doctor.Facts) {
			f.Published = is(doctor.Published{Fault: "discovery: oidc.example.com answers 403 Forbidden", Fix: "everybody must be let read it"})
			f.Call = refused("InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider")
		}, "keys", "discovery: oidc.example.com answers 403 Forbidden", "Everybody must be let read it."},
		{"the key was rotated and not published", irsa, func(f *doctor.Facts) {
			f.Published = is(doctor.Published{KeyIDs: []string{"key-0"}})
			f.Call = refused("InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider")
		}, "keys", "key key-1 is not among those that " + issuer + " publishes: key-0", "lanyard oidc publish"},
		{"the key was rotated and not registered", eks, func(f *doctor.Facts) {
			f.Call = refused("InvalidTokenException", "The token is not signed by a key of the cluster's issuer.")
		}, "keys", "key key-1 is not among those that Lanyard has", "lanyard cluster update-keys prod"},
		{"the role is not there", irsa, func(f *doctor.Facts) { absent(&f.Role); f.Call = trustRefusal }, "role", "There is no role " + roleARN,
			"lanyard irsa create --cluster prod -n web -s worker"},
		{"the association's role was deleted", eks, func(f *doctor.Facts) { absent(&f.Role); f.Call = eksRefusal }, "role", "There is no role " + roleARN,
			"lanyard association create"},
		{"the role has a path", irsa, func(f *doctor.Facts) {
			f.Role.Value.ARN = arn.New("aws", "iam", "", "111122223333", "role/apps/reader")
			f.Call = trustRefusal
		}, "role", "the role of that name is arn:aws:iam::111122223333:role/apps/reader", "Write arn:aws:iam::111122223333:role/apps/reader instead"},
		{"a slip of the pen in the subject", irsa, func(f *doctor.Facts) {
			trusting(f, webIdentityTrust("StringEquals", sub, "system:serviceaccount:web:wroker", aud))
		}, "trust policy", "wants oidc.example.com/id/A:sub to be system:serviceaccount:web:wroker (StringEquals at line 8), and the pod's is " +
			"system:serviceaccount:web:worker",
			`let oidc.example.com/id/A:sub at line 8 be "system:serviceaccount:web:worker"`},
		{"a wildcard that is none", irsa, func(f *doctor.Facts) {
			trusting(f, webIdentityTrust("StringEquals", sub, "system:serviceaccount:web:*", aud))
		}, "trust policy", "to be system:serviceaccount:web:*", "write StringLike instead of StringEquals at line 8"},
		{"a pattern that does not fit", irsa, func(f *doctor.Facts) {
			trusting(f, webIdentityTrust("StringLike", sub, "system:serviceaccount:batch:*", aud))
		}, "trust policy", "to be system:serviceaccount:batch:* (StringLike at line 8)", "be \"system:serviceaccount:web:worker\""},
		{"another audience", irsa, func(f *doctor.Facts) {
			trusting(f, webIdentityTrust("StringLike", sub, "system:serviceaccount:web:worker", "sts.amazonaws.com.cn"))
		}, "trust policy", "wants oidc.example.com/id/A:aud to be sts.amazonaws.com.cn", `be "sts.amazonaws.com"`},
		{"the subject of another cluster's issuer", irsa, func(f *doctor.Facts) {
			trusting(f, webIdentityTrust("StringEquals", "oidc.example.com/id/B:sub", "system:serviceaccount:web:worker", aud))
		}, "trust policy", "which is of another issuer than the cluster's",
			`write "oidc.example.com/id/A:sub" instead of "oidc.example.com/id/B:sub" at line 8`},
		{"another cluster's provider", irsa, func(f *doctor.Facts) {
			trusting(f, []byte(strings.ReplaceAll(string(f.Role.Value.Trust), "id/A", "id/B")))
		}, "trust policy", "names the principal", `{"Federated":"` + provider + `"}`},
		{"another action", irsa, func(f *doctor.Facts) {
			trusting(f, []byte(strings.ReplaceAll(string(f.Role.Value.Trust), "sts:AssumeRoleWithWebIdentity", "sts:TagSession")))
		}, "trust policy", "allows sts:TagSession at line 6, and not sts:AssumeRoleWithWebIdentity", `be "sts:AssumeRoleWithWebIdentity"`},
		{"a statement that denies", eks, func(f *doctor.Facts) {
			trusting(f, []byte(`{"Version": "2012-10-17", "Statement": [
{"Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": ["sts:AssumeRole", "sts:TagSession"]},
{"Sid": "Frozen", "Effect": "Deny", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": "sts:AssumeRole"}]}`))
		}, "trust policy", "denies sts:AssumeRole to EKS for web/worker, by its statement at line 3 (Frozen)", "Take the statement at line 3 out"},
		{"sts:TagSession is missing", eks, func(f *doctor.Facts) {
			trusting(f, serviceTrust("pods.eks.amazonaws.com", `"sts:AssumeRole"`, ""))
		}, "trust policy", "allows sts:AssumeRole, but not sts:TagSession", `["sts:AssumeRole", "sts:TagSession"]`},
		{"another service", eks, func(f *doctor.Facts) {
			trusting(f, serviceTrust("ec2.amazonaws.com", bothActions, ""))
		}, "trust policy", "names the principal Service ec2.amazonaws.com at line 1, and the pod's credentials are asked for by pods.eks.amazonaws.com",
			`{"Service":"pods.eks.amazonaws.com"}`},
		{"another namespace's session tag", eks, func(f *doctor.Facts) {
			trusting(f, serviceTrust("pods.eks.amazonaws.com", bothActions, `"StringEquals": {"aws:RequestTag/kubernetes-namespace": "wep"}`))
		}, "trust policy", "wants aws:RequestTag/kubernetes-namespace to be wep", `be "web"`},
		{"another cluster's ARN", eks, func(f *doctor.Facts) {
			trusting(f, serviceTrust("pods.eks.amazonaws.com", bothActions, `"ArnEquals": {"aws:SourceArn": "arn:aws:eks:us-east-1:111122223333:cluster/test"}`))
		}, "trust policy", "wants aws:SourceArn to be arn:aws:eks:us-east-1:111122223333:cluster/test", `be "` + cluster + `"`},
		{"the trust policy may not be read, and STS refuses by it", eks, func(f *doctor.Facts) { forbidden(&f.Role); f.Call = eksRefusal }, "trust policy",
			"could not be read, and STS refuses by it", `{"Service":"pods.eks.amazonaws.com"}`},
		{"the target role is not there", eks, func(f *doctor.Facts) {
			f.Association.Value.TargetARN = "arn:aws:iam::111122223333:role/target"
			absent(&f.Target)
			f.Call = eksRefusal
		}, "target role", "There is no target role arn:aws:iam::111122223333:role/target", "lanyard association update --target-role-arn"},
		{"the target role trusts somebody else", eks, func(f *doctor.Facts) {
			f.Association.Value.TargetARN = "arn:aws:iam::111122223333:role/target"
			f.Target = is(doctor.Role{ARN: arn.New("aws", "iam", "", "111122223333", "role/target"), Trust: []byte(`{"Version": "2012-10-17", "Statement": [
{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:role/writer"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}]}`)})
			f.Call = eksRefusal
		}, "target role", "names the principal AWS arn:aws:iam::111122223333:role/writer at line 2", `{"AWS":"` + roleARN + `"}`},
		{"sessions that are too long", irsa, func(f *doctor.Facts) {
			f.Duration = 3 * time.Hour
			f.Call = refused("ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
		}, "session", "asks for sessions of 3h0m0s", "--role-name reader --max-session-duration 10800"},
		{"STS refuses for a reason of its own", irsa, func(f *doctor.Facts) {
			f.Call = trustRefusal
		}, "credentials", "Lanyard refuses AssumeRoleWithWebIdentity: AccessDenied", "aws:SourceIp"},
		{"no SDK asks that address", eks, func(f *doctor.Facts) {
			setEnv(f, corev1.EnvVar{Name: "AWS_CONTAINER_CREDENTIALS_FULL_URI", Value: "http://169.254.170.32/v1/credentials"})
		}, "agent's address", "asks http://169.254.170.32/v1/credentials", "Take AWS_CONTAINER_CREDENTIALS_FULL_URI out"},
		{"the agent has no such path", eks, func(f *doctor.Facts) {
			setEnv(f, corev1.EnvVar{Name: "AWS_CONTAINER_CREDENTIALS_FULL_URI", Value: "http://169.254.170.23/credentials"})
		}, "agent's address", "at path /credentials, and it answers at /v1/credentials", "so that the webhook sets it"},
		{"no agent is installed", eks, func(f *doctor.Facts) { f.Agents = is([]corev1.Pod{}) }, "agent", "No agent runs in the cluster",
			"helm upgrade --install lanyard deploy/chart"},
		{"no agent is on the pod's node", eks, func(f *doctor.Facts) { f.Agents = is([]corev1.Pod{agentOn("node-2", corev1.ConditionTrue)}) }, "agent",
			"There is no agent on the pod's node node-1; there are 1 on others", "taints"},
		{"the agent is not ready", eks, func(f *doctor.Facts) {
			f.Agents, f.Probe = is([]corev1.Pod{agentOn("node-1", corev1.ConditionFalse)}), doctor.Read[doctor.Probe]{Why: "forbidden"}
		}, "agent", "lanyard/lanyard-agent-node-1 on the pod's node node-1 is not ready", "kubectl logs -n lanyard lanyard-agent-node-1"},
		{"the agent's probe fails", eks, func(f *doctor.Facts) {
			f.Probe = is(doctor.Probe{Status: 500, Text: "Internal Server Error occurred"})
		}, "agent", "answers its probe with 500: Internal Server Error occurred", "kubectl logs -n lanyard lanyard-agent-node-1"},
		{"a proxy is between the pod and the agent", eks, func(f *doctor.Facts) {
			setEnv(f, corev1.EnvVar{Name: "HTTP_PROXY", Value: "http://proxy.example:3128"})
			setEnv(f, corev1.EnvVar{Name: "NO_PROXY", Value: "10.0.0.0/8,.svc"})
		}, "proxy", "Container app has HTTP_PROXY and no NO_PROXY for 169.254.170.23", "Set NO_PROXY in container app to include 169.254.170.23"},
		{"keys are left over in the pod", irsa, func(f *doctor.Facts) {
			setEnv(f, corev1.EnvVar{Name: "AWS_ACCESS_KEY_ID", Value: secret})
		}, "SDK's choice", "Container app has AWS_ACCESS_KEY_ID, from the pod's specification",
			"Take AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN out of container app"},
		{"keys come from a secret", eks, func(f *doctor.Facts) {
			setEnv(f, corev1.EnvVar{Name: "AWS_SECRET_ACCESS_KEY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: "aws"}, Key: "key",
			}}})
		}, "SDK's choice", "has AWS_SECRET_ACCESS_KEY, from secret aws", "they come from secret aws"},
		{"keys come with all of a secret", eks, func(f *doctor.Facts) {
			f.Pod.Value.Spec.Containers[1].EnvFrom = []corev1.EnvFromSource{{Prefix: "AWS_",
				SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "old"}}}}
			f.Sources["secret/old"] = is([]string{"ACCESS_KEY_ID", "SECRET_ACCESS_KEY"})
		}, "SDK's choice", "Container sidecar has AWS_ACCESS_KEY_ID, from secret old", "container sidecar"},
		{"web identity beside Pod Identity", eks, func(f *doctor.Facts) {
			setEnv(f, corev1.EnvVar{Name: "AWS_ROLE_ARN", Value: roleARN})
			setEnv(f, corev1.EnvVar{Name: "AWS_WEB_IDENTITY_TOKEN_FILE", Value: "/token"})
		}, "SDK's choice", "Container app has AWS_WEB_IDENTITY_TOKEN_FILE beside Pod Identity", "Take AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE out"},
		{"a role of the container's own, which keeps the webhook from giving it the token's file", irsa, func(f *doctor.Facts) {
			unsetEnv(f, "AWS_WEB_IDENTITY_TOKEN_FILE")
		}, "SDK's choice", "Container app has AWS_ROLE_ARN of its own and no AWS_WEB_IDENTITY_TOKEN_FILE", "Take AWS_ROLE_ARN out of container app"},
		{"a token's file of the container's own", eks, func(f *doctor.Facts) { unsetEnv(f, "AWS_CONTAINER_CREDENTIALS_FULL_URI") }, "SDK's choice",
			"Container app has AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE of its own and no AWS_CONTAINER_CREDENTIALS_FULL_URI", "so that the webhook sets both"},
		{"credentials of ECS", eks, func(f *doctor.Facts) {
			setEnv(f, corev1.EnvVar{Name: "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", Value: "/x"})
		}, "SDK's choice", "has AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "Take AWS_CONTAINER_CREDENTIALS_RELATIVE_URI out"},
		{"the pod asks AWS instead of Lanyard", irsa, func(f *doctor.Facts) { unsetEnv(f, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS") }, "endpoint",
			"Container app has neither AWS_ENDPOINT_URL nor AWS_ENDPOINT_URL_STS", "--pod-endpoint-url"},
		{"the pod does not trust Lanyard's certificates", irsa, func(f *doctor.Facts) {
			unsetEnv(f, "AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
		}, "certificates", "trusts only the certificates of its image", "--pod-ca-config-map"},
		{"the clocks of the two servers differ", eks, func(f *doctor.Facts) {
			f.Server.Value.Date = now.Add(-10 * time.Minute)
		}, "clock", "are 10m0s apart", "timedatectl set-ntp true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, c.way)
			c.change(f)
			r := doctor.Diagnose(f)
			first := r.First(doctor.Broken)
			if r.Status != doctor.Broken || first == nil || first.Link != c.link || r.Cause != c.link {
				t.Fatalf("got %q because of %q, want %q; all: %+v", r.Status, r.Cause, c.link, r.Results)
			}
			if !strings.Contains(first.Text, c.text) {
				t.Errorf("it says %q, want %q", first.Text, c.text)
			}
			if !strings.Contains(first.Fix, c.fix) {
				t.Errorf("what mends it is %q, want %q", first.Fix, c.fix)
			}
			sayNothingSecret(t, r)
			beSentences(t, r)
		})
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	const irsa, eks = podspec.WebIdentity, podspec.PodIdentity
	egress := func(to ...networkingv1.NetworkPolicyEgressRule) networkingv1.NetworkPolicy {
		return networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "tight"}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "worker"}}, Egress: to,
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		}}
	}
	port := intstr.FromInt32(443)
	for _, c := range []struct {
		name   string
		way    podspec.Way
		change func(*doctor.Facts)
		link   string
		text   string
	}{
		{"the webhook is gone, but the pod has its identity", irsa, func(f *doctor.Facts) { absent(&f.Registration) }, "webhook",
			"This pod has its identity already"},
		{"a pod by IRSA whose service account was associated since", irsa, func(f *doctor.Facts) {
			f.Associations = is([]doctor.Association{{ID: "a-1", Whom: subject.Subject{Namespace: "web", ServiceAccount: "*"}}})
		}, "way", "was made before the association and goes by IRSA"},
		{"a container that is skipped", eks, func(f *doctor.Facts) {
			p := f.Pod.Value.DeepCopy()
			p.Annotations = map[string]string{"eks.amazonaws.com/skip-containers": "sidecar"}
			p.Spec.Containers[1].Env, p.Spec.Containers[1].VolumeMounts = nil, nil
			f.Pod.Value = p
		}, "containers", "keeps the webhook from its containers sidecar"},
		{"a container for the pod's start that is skipped", irsa, func(f *doctor.Facts) {
			p := f.Pod.Value.DeepCopy()
			p.Annotations = map[string]string{"eks.amazonaws.com/skip-containers": "prepare"}
			p.Spec.InitContainers[0].Env, p.Spec.InitContainers[0].VolumeMounts = nil, nil
			f.Pod.Value = p
		}, "containers", "keeps the webhook from its containers prepare"},
		{"a network policy that allows something else", eks, func(f *doctor.Facts) {
			f.Policies = is([]networkingv1.NetworkPolicy{egress(networkingv1.NetworkPolicyEgressRule{Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}})})
		}, "network policies", "(tight) lets it reach 169.254.170.23, port 80"},
		{"a network policy with an exception", eks, func(f *doctor.Facts) {
			f.Policies = is([]networkingv1.NetworkPolicy{egress(networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{
				{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"169.254.0.0/16"}}}, {PodSelector: &metav1.LabelSelector{}},
			}})})
		}, "network policies", "(tight)"},
		{"a profile", irsa, func(f *doctor.Facts) { setEnv(f, corev1.EnvVar{Name: "AWS_PROFILE", Value: "dev"}) }, "SDK's choice", "those for Go and Java not"},
		{"an agent of the pod itself", eks, func(f *doctor.Facts) {
			setEnv(f, corev1.EnvVar{Name: "AWS_CONTAINER_CREDENTIALS_FULL_URI", Value: "http://127.0.0.1:8080/v1/credentials"})
		}, "agent's address", "which is the pod itself"},
		{"a profile beside Pod Identity", eks, func(f *doctor.Facts) {
			p := f.Pod.Value.DeepCopy()
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "home", MountPath: "/root/.aws"})
			f.Pod.Value = p
		}, "SDK's choice", "volume home at /root/.aws"},
		{"the SDK for Go without its own endpoint variable", irsa, func(f *doctor.Facts) { unsetEnv(f, "AWS_ENDPOINT_URL_STS") }, "containers",
			"AWS_ENDPOINT_URL_STS"},
		{"no region", irsa, func(f *doctor.Facts) {
			unsetEnv(f, "AWS_REGION", "AWS_DEFAULT_REGION")
			f.DryRun.Value.Pod = f.Pod.Value
		}, "region", "has neither AWS_REGION nor AWS_DEFAULT_REGION"},
		{"this machine's clock", eks, func(f *doctor.Facts) {
			f.Server.Value.Date, f.ControlPlane.Value.Date = now.Add(time.Hour), now.Add(time.Hour)
			f.Token.Value.Claims.Expires = now.Add(2 * time.Hour)
		}, "clock", "ahead of this machine's"},
		{"a pod without a node", irsa, func(f *doctor.Facts) { f.Pod.Value.Spec.NodeName = "" }, "pod", "has no node yet"},
		{"a container with a region of its own, which the webhook adds nothing to", irsa, func(f *doctor.Facts) {
			unsetEnv(f, "AWS_REGION", "AWS_DEFAULT_REGION")
			setEnv(f, corev1.EnvVar{Name: "AWS_REGION", Value: "us-east-1"})
			f.Pod.Value.Spec.Containers[1].Env = f.DryRun.Value.Pod.Spec.Containers[1].Env
		}, "region", "ontainer app has AWS_REGION but not AWS_DEFAULT_REGION"},
		{"a container with an endpoint of its own, which the webhook adds nothing to", irsa, func(f *doctor.Facts) {
			unsetEnv(f, "AWS_ENDPOINT_URL_STS")
			setEnv(f, corev1.EnvVar{Name: "AWS_ENDPOINT_URL", Value: "https://other.example"})
			f.Pod.Value.Spec.Containers[1].Env = f.DryRun.Value.Pod.Spec.Containers[1].Env
		}, "endpoint", "ontainer app has AWS_ENDPOINT_URL but not AWS_ENDPOINT_URL_STS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, c.way)
			c.change(f)
			r := doctor.Diagnose(f)
			first := r.First(doctor.Warning)
			if r.Status != doctor.Warning || first == nil || first.Link != c.link || !strings.Contains(first.Text, c.text) {
				t.Errorf("got %q, %+v, want %q of %q; all: %+v", r.Status, first, c.text, c.link, r.Results)
			}
			beSentences(t, r)
		})
	}
}

// What makes no difference is not found fault with.
func TestWhatIsAsItMustBe(t *testing.T) {
	t.Parallel()
	const irsa, eks = podspec.WebIdentity, podspec.PodIdentity
	for _, c := range []struct {
		name   string
		way    podspec.Way
		change func(*doctor.Facts)
	}{
		{"a proxy that leaves the agent out, by its network", eks, func(f *doctor.Facts) {
			setEnv(f, corev1.EnvVar{Name: "http_proxy", Value: "http://proxy.example"})
			setEnv(f, corev1.EnvVar{Name: "no_proxy", Value: "localhost, 169.254.0.0/16"})
		}},
		{"a proxy that leaves out what another variable says", eks, func(f *doctor.Facts) {
			setEnv(f, corev1.EnvVar{Name: "HTTP_PROXY", Value: "http://proxy.example"})
			setEnv(f, corev1.EnvVar{Name: "NO_PROXY", Value: "$(CLUSTER_NO_PROXY),example.com"})
		}},
		{"a proxy for HTTPS alone", eks, func(f *doctor.Facts) { setEnv(f, corev1.EnvVar{Name: "HTTPS_PROXY", Value: "http://proxy.example"}) }},
		{"a network policy that lets the agent be reached", eks, func(f *doctor.Facts) {
			f.Policies = is([]networkingv1.NetworkPolicy{{Spec: networkingv1.NetworkPolicySpec{
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
				Egress:      []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "169.254.170.23/32"}}}}},
			}}})
		}},
		{"a network policy for what comes in", eks, func(f *doctor.Facts) {
			f.Policies = is([]networkingv1.NetworkPolicy{{Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}}})
		}},
		{"a network policy for other pods", eks, func(f *doctor.Facts) {
			f.Policies = is([]networkingv1.NetworkPolicy{{Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}},
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			}}})
		}},
		{"a webhook with another annotation, audience and path", irsa, func(f *doctor.Facts) {
			f.Account.Value.Annotations = map[string]string{"example.com/role-arn": roleARN}
			of(t, f, podspec.Settings{
				AnnotationPrefix: "example.com", WebIdentity: podspec.Projection{Audience: "sts.example.com", MountPath: "/var/run/tokens"},
			}, irsa, f.Account.Value.Annotations)
		}},
		{"a webhook with another volume", eks, func(f *doctor.Facts) {
			of(t, f, podspec.Settings{PodIdentity: podspec.Projection{Volume: "own-token", File: "own"}}, eks, nil)
		}},
		{"a webhook that completes roles", irsa, func(f *doctor.Facts) {
			f.Account.Value.Annotations = map[string]string{"eks.amazonaws.com/role-arn": "reader"}
			of(t, f, podspec.Settings{Compose: &podspec.Account{Partition: "aws", ID: "111122223333"}}, irsa, f.Account.Value.Annotations)
		}},
		{"a role by the webhook's ConfigMap", irsa, func(f *doctor.Facts) {
			f.Account.Value.Annotations = nil
			f.Configured = is(podspec.ConfiguredAccounts{"*/worker": {RoleARN: roleARN}})
		}},
		{"a service account that asks for regional endpoints since", irsa, func(f *doctor.Facts) {
			f.Account.Value.Annotations["eks.amazonaws.com/sts-regional-endpoints"] = "true"
		}},
		{"a node of EKS Auto Mode", eks, func(f *doctor.Facts) { onKind(f, "auto", false) }},
		{"a pod in its node's network", eks, func(f *doctor.Facts) { f.Pod.Value.Spec.HostNetwork = true }},
		{"a role's ARN beside Pod Identity, which SDKs pass over", eks, func(f *doctor.Facts) {
			setEnv(f, corev1.EnvVar{Name: "AWS_ROLE_ARN", Value: roleARN + "-of-another-account"})
		}},
		{"a variable that is empty", irsa, func(f *doctor.Facts) { setEnv(f, corev1.EnvVar{Name: "AWS_ACCESS_KEY_ID"}) }},
		{"an association and a role", eks, func(f *doctor.Facts) {
			f.Account.Value.Annotations = map[string]string{"eks.amazonaws.com/role-arn": roleARN}
		}},
		{"the role cannot be read, and it works", eks, func(f *doctor.Facts) { forbidden(&f.Role) }},
		{"the provider cannot be read, and it works", irsa, func(f *doctor.Facts) { forbidden(&f.Provider); forbidden(&f.Role) }},
		{"a condition that only STS knows about, and it works", irsa, func(f *doctor.Facts) {
			f.Role.Value.Trust = []byte(strings.Replace(string(f.Role.Value.Trust), `"StringLike": {`, `"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}, "StringLike": {`, 1))
		}},
		{"a cluster that nobody has registered, by IRSA", irsa, func(f *doctor.Facts) { absent(&f.Registered) }},
		{"no call was to be made", irsa, func(f *doctor.Facts) {
			f.NoCall, f.Call = true, doctor.Read[doctor.Call]{}
			f.Published = is(doctor.Published{KeyIDs: []string{"key-1"}})
		}},
		{"a pod that was configured without the webhook", irsa, func(f *doctor.Facts) {
			p := f.Pod.Value.DeepCopy()
			p.Spec.InitContainers, p.Spec.Volumes = nil, append(slices.Clip(p.Spec.Volumes), corev1.Volume{Name: "own"})
			for i := range p.Spec.Containers {
				p.Spec.Containers[i].VolumeMounts = []corev1.VolumeMount{{Name: "own", MountPath: "/var/run/secrets/eks.amazonaws.com/serviceaccount"}}
			}
			f.Pod.Value = p
		}},
		{"a pod that has all by its own specification, without annotation and webhook", irsa, func(f *doctor.Facts) {
			before := f.Pod.Value.Spec.Containers[0].Env
			bare(f)
			absent(&f.Registration)
			absent(&f.Registered)
			f.DryRun, f.Account.Value.Annotations = doctor.Read[doctor.DryRun]{}, nil
			p := f.Pod.Value
			p.Spec.Volumes = []corev1.Volume{{Name: "own", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "sts.amazonaws.com", Path: "token"}},
			}}}}}
			p.Spec.Containers[0].Env = before
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "own", MountPath: "/var/run/secrets/eks.amazonaws.com/serviceaccount"}}
		}},
		{"a pod that asks the control plane itself", eks, func(f *doctor.Facts) {
			p := f.Pod.Value.DeepCopy()
			for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
				for i := range list {
					for j := range list[i].Env {
						if v := &list[i].Env[j]; v.Name == "AWS_CONTAINER_CREDENTIALS_FULL_URI" {
							v.Value = "https://lanyard.example/v1/credentials"
						}
					}
				}
			}
			f.Pod.Value, f.Agents = p, is([]corev1.Pod{})
		}},
		{"an optional secret that is not there", irsa, func(f *doctor.Facts) {
			yes := true
			f.Pod.Value.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: "none"}, Optional: &yes,
			}}}
			f.Sources["secret/none"] = doctor.Read[[]string]{Absent: true}
		}},
		{"a service account without a pod", irsa, func(f *doctor.Facts) {
			f.PodName, f.ServiceAccount, f.Pod = "", "worker", doctor.Read[corev1.Pod]{}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, c.way)
			c.change(f)
			if r := doctor.Diagnose(f); r.Status != doctor.OK {
				t.Errorf("got %q, want it to be well: %+v", r.Status, r.First(r.Status))
			}
		})
	}
}

// What an SDK falls through to is told where nothing leads it to the pod's credentials.
func TestTheNodesRoleWinsAtLast(t *testing.T) {
	t.Parallel()
	without := func(f *doctor.Facts, variables ...corev1.EnvVar) {
		p := f.Pod.Value.DeepCopy()
		p.Spec.Containers[1].Env = variables
		f.Pod.Value = p
	}
	const disabled = "AWS_EC2_METADATA_DISABLED"
	for _, c := range []struct {
		name   string
		change func(*doctor.Facts)
		link   string
		status doctor.Status
		text   string // part of the text, or of a note
	}{
		{"a container without variables", func(f *doctor.Facts) { without(f) }, "SDK's choice", doctor.Broken,
			"Nothing leads the SDKs to Pod Identity: container sidecar takes its node's role at last, where the node's metadata service (IMDS) answers pods."},
		{"one that is kept from the node's", func(f *doctor.Facts) { without(f, corev1.EnvVar{Name: disabled, Value: "true"}) }, "SDK's choice", doctor.Broken,
			"container sidecar has no credentials at all, since AWS_EC2_METADATA_DISABLED keeps it from the node's role."},
		{"one that is left alone", func(f *doctor.Facts) {
			without(f)
			f.Pod.Value.Annotations = map[string]string{"eks.amazonaws.com/skip-containers": "sidecar"}
		}, "SDK's choice", doctor.OK, "The webhook leaves container sidecar alone, which takes its node's role at last"},
		{"a pod that has neither way", func(f *doctor.Facts) {
			bare(f)
			f.Associations, f.Association = is([]doctor.Association{}), doctor.Read[doctor.Association]{}
		}, "way", doctor.Broken, "Without either, SDKs go on to the node's role"},
	} {
		f := healthy(t, podspec.PodIdentity)
		c.change(f)
		r := doctor.Diagnose(f)
		i := slices.IndexFunc(r.Results, func(one doctor.Result) bool { return one.Link == c.link })
		if i < 0 {
			t.Errorf("%s: there is no link %s", c.name, c.link)
			continue
		}
		one := r.Results[i]
		if one.Status != c.status || !strings.Contains(strings.Join(append(one.Notes, one.Text), "\n"), c.text) {
			t.Errorf("%s: got %+v, want %s and %q", c.name, one, c.status, c.text)
		}
		beSentences(t, r)
	}
}

// What may not be read cannot be told, and the right that is missing is.
func TestWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	const irsa, eks = podspec.WebIdentity, podspec.PodIdentity
	for _, c := range []struct {
		name   string
		way    podspec.Way
		change func(*doctor.Facts)
		link   string
	}{
		{"the API server", eks, func(f *doctor.Facts) { forbidden(&f.Server) }, "API server"},
		{"the control plane", eks, func(f *doctor.Facts) { forbidden(&f.ControlPlane) }, "control plane"},
		{"the pod", eks, func(f *doctor.Facts) { forbidden(&f.Pod) }, "pod"},
		{"the service account", irsa, func(f *doctor.Facts) { forbidden(&f.Account) }, "service account"},
		{"the cluster", eks, func(f *doctor.Facts) { forbidden(&f.Registered) }, "cluster"},
		{"the associations", irsa, func(f *doctor.Facts) {
			forbidden(&f.Associations)
			f.PodName, f.ServiceAccount, f.Pod = "", "worker", doctor.Read[corev1.Pod]{}
		}, "way"},
		{"the registration", irsa, func(f *doctor.Facts) { forbidden(&f.Registration) }, "webhook"},
		{"the namespace", irsa, func(f *doctor.Facts) { forbidden(&f.NamespaceLabels) }, "webhook's choice"},
		{"the endpoints", irsa, func(f *doctor.Facts) { forbidden(&f.Endpoints) }, "webhook's service"},
		{"the next pod", irsa, func(f *doctor.Facts) { forbidden(&f.DryRun) }, "next pod"},
		{"tokens", irsa, func(f *doctor.Facts) { forbidden(&f.Token); forbidden(&f.Call) }, "token"},
		{"tokens and the issuer", irsa, func(f *doctor.Facts) { forbidden(&f.Token); forbidden(&f.Issuer); forbidden(&f.Call) }, "token"},
		{"the association", eks, func(f *doctor.Facts) { forbidden(&f.Association); forbidden(&f.Call) }, "association"},
		{"the provider", irsa, func(f *doctor.Facts) { forbidden(&f.Provider); forbidden(&f.Call) }, "provider"},
		{"the role", irsa, func(f *doctor.Facts) { forbidden(&f.Role); forbidden(&f.Call) }, "keys"},
		{"a trust policy's condition", irsa, func(f *doctor.Facts) {
			f.Published = is(doctor.Published{KeyIDs: []string{"key-1"}})
			f.Role.Value.Trust = []byte(strings.Replace(string(f.Role.Value.Trust), `"StringLike": {`, `"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}, "StringLike": {`, 1))
			forbidden(&f.Call)
		}, "trust policy"},
		{"credentials", eks, func(f *doctor.Facts) {
			f.Call = refused("AccessDeniedException", "User: x is not authorized to perform: eks-auth:AssumeRoleForPodIdentity on resource: y")
		}, "credentials"},
		{"the agents", eks, func(f *doctor.Facts) { forbidden(&f.Agents) }, "agent"},
		{"the network policies", eks, func(f *doctor.Facts) { forbidden(&f.Policies) }, "network policies"},
		{"whose token a pod's own specification has", irsa, func(f *doctor.Facts) {
			before := f.Pod.Value.Spec.Containers[0].Env
			bare(f)
			f.Account.Value.Annotations = nil
			f.Pod.Value.Spec.Volumes = []corev1.Volume{{Name: "own"}}
			f.Pod.Value.Spec.Containers[0].Env = before
			f.Pod.Value.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "own", MountPath: "/var/run/secrets/eks.amazonaws.com/serviceaccount"}}
		}, "way"},
		{"the node, which may be of EKS Auto Mode", eks, func(f *doctor.Facts) { onKind(f, "", false); forbidden(&f.Node) }, "agent"},
		{"the webhook's ConfigMap", irsa, func(f *doctor.Facts) { f.Account.Value.Annotations = nil; forbidden(&f.Configured) }, "way"},
		{"the associations, of a pod whose service account names no role any more", irsa, func(f *doctor.Facts) {
			f.Account.Value.Annotations = nil
			forbidden(&f.Associations)
		}, "way"},
		{"the webhook's ConfigMap, of a pod without an identity", irsa, func(f *doctor.Facts) {
			bare(f)
			f.Account.Value.Annotations = nil
			forbidden(&f.Configured)
		}, "way"},
		{"a secret with variables", eks, func(f *doctor.Facts) {
			f.Pod.Value.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "some"}}}}
			f.Sources["secret/some"] = doctor.Read[[]string]{Why: "it is forbidden", Grant: "Have the right given."}
		}, "SDK's choice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, c.way)
			c.change(f)
			r := doctor.Diagnose(f)
			first := r.First(doctor.Unknown)
			if r.Status != doctor.Unknown || first == nil || first.Link != c.link {
				t.Fatalf("got %q, %+v, want it of %q; all: %+v", r.Status, first, c.link, r.Results)
			}
			beSentences(t, r)
		})
	}
}

// Nothing at all is known: it is told, and nothing panics.
func TestNothingIsKnown(t *testing.T) {
	t.Parallel()
	for _, f := range []*doctor.Facts{{}, {PodName: "p", Namespace: "n"}, {ServiceAccount: "s", Namespace: "n"}} {
		if r := doctor.Diagnose(f); r.Status != doctor.Unknown {
			t.Errorf("%+v: got %+v", f, r)
		}
	}
}

// Names that are almost right are pointed out.
func TestSlipsOfThePen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		way    podspec.Way
		change func(*doctor.Facts)
		note   string
	}{
		{"an association of another namespace", podspec.PodIdentity, func(f *doctor.Facts) {
			f.Associations = is([]doctor.Association{{ID: "a-2", Whom: subject.Subject{Namespace: "wed", ServiceAccount: "worker"}}})
		}, "There is an association a-2 of wed/worker: was web/worker meant?"},
		{"an association of another service account", podspec.PodIdentity, func(f *doctor.Facts) {
			f.Associations = is([]doctor.Association{{ID: "a-2", Whom: subject.Subject{Namespace: "web", ServiceAccount: "wroker"}}})
		}, "There is an association a-2 of web/wroker: was web/worker meant?"},
		{"another annotation", podspec.WebIdentity, func(f *doctor.Facts) {
			f.Account.Value.Annotations = map[string]string{"eks.amazonaws.com/role-arns": roleARN}
		}, "was eks.amazonaws.com/role-arn meant?"},
		{"another subject", podspec.WebIdentity, func(f *doctor.Facts) {
			trusting(f, webIdentityTrust("StringEquals", "oidc.example.com/id/A:sub", "system:serviceaccount:web:workers", "sts.amazonaws.com"))
		}, "slip of the pen"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := healthy(t, c.way)
			c.change(f)
			r := doctor.Diagnose(f)
			first := r.First(doctor.Broken)
			if first == nil || !slices.ContainsFunc(first.Notes, func(n string) bool { return strings.Contains(n, c.note) }) {
				t.Errorf("got %+v, want the note %q", first, c.note)
			}
		})
	}
}

func sayNothingSecret(t *testing.T, r *doctor.Report) {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), secret) {
		t.Errorf("it tells a secret: %s", text)
	}
}

// beSentences holds what is said to whole sentences.
func beSentences(t *testing.T, r *doctor.Report) {
	t.Helper()
	for _, one := range r.Results {
		for what, text := range map[string]string{"text": one.Text, "fix": one.Fix} {
			if what == "fix" && text == "" {
				continue
			}
			if !strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "`") || text[:1] != strings.ToUpper(text[:1]) || strings.Contains(text, "..") || strings.Contains(text, "%!") {
				t.Errorf("the %s of %s is no sentence: %q", what, one.Link, text)
			}
		}
	}
}
