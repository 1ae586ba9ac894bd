//go:build e2e

package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/lanyard-id/lanyard/internal/doctor"
)

// ward is where doctor is tried: a real API server whose pods a real webhook gives their identity to, and a real control plane. There
// is no kubelet: which node a pod is on, and whether an agent is ready, is written by the API.
type ward struct {
	*testing.T
	k *apiServer
	s *server
}

// ask runs doctor, and returns what it reports, all that it printed, and its exit status.
func (w *ward) ask(args ...string) (r doctor.Report, printed string, status int) {
	w.Helper()
	args = append([]string{"doctor", "--kubeconfig", w.k.kubeconfig, "-o", "json"}, args...)
	if !slices.Contains(args, "--cluster") {
		args = append(args, "--cluster", "one")
	}
	out, errs, err := w.s.lanyard(args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		w.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		w.Fatalf("lanyard %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	return r, out + errs, status
}

// broken asks about a pod and wants one link to be the first that is broken, with words of what is said and of what mends it.
func (w *ward) broken(name, link, text, fix string, args ...string) {
	w.Run(name, func(t *testing.T) {
		one := ward{t, w.k, w.s}
		r, printed, status := one.ask(args...)
		first := r.First(doctor.Broken)
		if status != 3 || first == nil || first.Link != link || r.Cause != link {
			t.Fatalf("status %d because of %q, want %q:\n%s", status, r.Cause, link, printed)
		}
		if !strings.Contains(first.Text, text) || !strings.Contains(first.Fix, fix) {
			t.Errorf("it says %q and %q, want %q and %q", first.Text, first.Fix, text, fix)
		}
		for _, secret := range []string{"eyJ", "wJalr", "hunter2"} { // what tokens begin with, and what is in the secret
			if strings.Contains(printed, secret) {
				t.Errorf("it prints %s…:\n%s", secret, printed)
			}
		}
	})
}

// account makes a service account; role is what it is annotated with, and empty for none.
func (w *ward) account(name, role string) {
	w.Helper()
	annotations := ""
	if role != "" {
		annotations = fmt.Sprintf(`"eks.amazonaws.com/role-arn": %q`, role)
	}
	w.k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", fmt.Sprintf(`{"metadata": {"name": %q, "annotations": {%s}}}`, name, annotations))
}

// pod makes a pod of the service account of the same name, on a node, with more of a container's members.
func (w *ward) pod(name, node, more string) {
	w.Helper()
	w.k.must(http.MethodPost, "/api/v1/namespaces/web/pods", fmt.Sprintf(
		`{"metadata": {"name": %q, "labels": {"app": %[1]q}}, "spec": {"serviceAccountName": %[1]q, "nodeName": %q, "containers": [{"name": "app", "image": "app"%s}]}}`,
		name, node, more))
}

// agent puts an agent on a node.
func (w *ward) agent(node, ready string) {
	w.Helper()
	name, path := "lanyard-agent-"+node, "/api/v1/namespaces/lanyard/pods"
	w.k.must(http.MethodPost, path, fmt.Sprintf(`{"metadata": {"name": %q, "labels": {"app.kubernetes.io/name": "lanyard-agent"}},
"spec": {"serviceAccountName": "agent", "nodeName": %q, "containers": [{"name": "agent", "image": "agent"}]}}`, name, node))
	var pod corev1.Pod
	read(w, w.k.must(http.MethodGet, path+"/"+name, ""), &pod)
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionStatus(ready)}}
	body, err := json.Marshal(pod)
	if err != nil {
		w.Fatal(err)
	}
	w.k.must(http.MethodPut, path+"/"+name+"/status", string(body))
}

// role makes a role that trusts as the document says.
func (w *ward) role(name, trust string) (arn string) {
	w.Helper()
	out, err := iam.NewFromConfig(w.s.aws()).CreateRole(w.Context(), &iam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: &trust})
	if err != nil {
		w.Fatal(err)
	}
	return aws.ToString(out.Role.Arn)
}

func (w *ward) trust(name, trust string) {
	w.Helper()
	in := &iam.UpdateAssumeRolePolicyInput{RoleName: &name, PolicyDocument: &trust}
	if _, err := iam.NewFromConfig(w.s.aws()).UpdateAssumeRolePolicy(w.Context(), in); err != nil {
		w.Fatal(err)
	}
}

const trustsEKS = `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}]}`

func TestDoctor(t *testing.T) {
	w := &ward{t, startKubernetes(t), startDev(t, dataDir(t))}
	k, s := w.k, w.s
	jwks := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(jwks, k.must(http.MethodGet, "/openid/v1/jwks", ""), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("cluster", "register", "one", "--issuer", kubernetesIssuer, "--jwks", jwks)
	s.must("cluster", "register", "two", "--issuer", kubernetesIssuer+"/of-old", "--jwks", jwks)
	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web", "labels": {"team": "web"}}}`)
	kubeconfig := k.webhookKubeconfig()
	cmd, address, admin := startWebhook(t, s, kubeconfig, "--aws-default-region", "us-east-1", "--pod-endpoint-url", "https://lanyard.example",
		"--pod-ca-config-map", "lanyard-ca", "--pod-ca-file", filepath.Join(s.dir, "ca.pem"))
	k.register("Fail", address)
	waitReady(t, admin)
	k.waitUntilTrusted()
	for _, node := range []string{"node-1", "node-2", "node-3"} {
		k.must(http.MethodPost, "/api/v1/nodes", fmt.Sprintf(`{"metadata": {"name": %q}}`, node))
	}
	k.must(http.MethodPost, "/api/v1/namespaces/lanyard/serviceaccounts", `{"metadata": {"name": "agent"}}`)

	s.must("irsa", "create", "--cluster", "one", "-n", "web", "-s", "reader")
	reader := "arn:aws:iam::" + account + ":role/one-web-reader"
	provider := "oidc.kubernetes.test/clusters/one"
	webTrust := func(operator, key, value string) string {
		return fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Federated": "arn:aws:iam::%s:oidc-provider/%s"},
  "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {%q: {%q: %q}}}]}`, account, provider, operator, provider+key, value)
	}
	associate := func(name, trust string) {
		t.Helper()
		arn := w.role(name, trustsEKS)
		s.must("association", "create", "--cluster", "one", "-n", "web", "-s", name, "--role-arn", arn)
		if trust != trustsEKS {
			w.trust(name, trust)
		}
	}

	// No agent at all, while there is none.
	associate("worker", trustsEKS)
	w.account("worker", "")
	w.pod("worker", "node-1", "")
	w.broken("no agent is installed", "agent", "No agent runs in the cluster", "helm upgrade --install lanyard deploy/chart", "-n", "web", "worker")
	w.agent("node-1", "True")
	w.agent("node-3", "False")

	w.account("reader", reader)
	w.pod("reader", "node-1", "")
	for _, c := range []struct{ name, way string }{{"reader", "irsa"}, {"worker", "pod-identity"}} {
		t.Run("all is well by "+c.way, func(t *testing.T) {
			one := ward{t, k, s}
			r, printed, status := one.ask("-n", "web", c.name)
			if status != 0 || r.Status != doctor.OK || r.Way != c.way {
				t.Errorf("status %d, way %s:\n%s", status, r.Way, printed)
			}
			if call := link(&r, "credentials"); call == nil || call.Status != doctor.OK || !strings.Contains(call.Text, "gives credentials") {
				t.Errorf("the call: %+v", call)
			}
		})
		t.Run("all is well before there is a pod, by "+c.way, func(t *testing.T) {
			one := ward{t, k, s}
			r, printed, status := one.ask("-n", "web", "-s", c.name)
			// EKS Auth takes only tokens of pods.
			if want := map[string]int{"irsa": 0, "pod-identity": 1}[c.way]; status != want || r.First(doctor.Broken) != nil {
				t.Errorf("status %d:\n%s", status, printed)
			}
		})
	}

	w.broken("there is no such pod", "pod", "There is no pod nobody in namespace web", "kubectl get pods -n web", "-n", "web", "nobody")
	w.broken("there is no such service account", "service account", "There is no service account web/nobody-at-all", "kubectl create serviceaccount", "-n",
		"web", "-s", "nobody-at-all")
	w.account("plain", "")
	w.pod("plain", "node-1", "")
	w.broken("a service account without anything", "way", "neither an association in cluster one nor the annotation",
		"lanyard association create --cluster one -n web -s plain", "-n", "web", "plain")
	w.account("invalid", "one-web-reader")
	w.pod("invalid", "node-1", "")
	w.broken("an annotation that is no ARN", "role ARN", `is no role's ARN: "one-web-reader"`, "kubectl annotate --overwrite", "-n", "web", "invalid")
	w.broken("a cluster of another name", "cluster", "knows no cluster of the name three", "lanyard cluster list", "-n", "web", "worker", "--cluster", "three")
	s.must("association", "create", "--cluster", "two", "-n", "web", "-s", "worker", "--role-arn", "arn:aws:iam::"+account+":role/worker")
	w.broken("a cluster of another issuer", "issuer", "registered with the issuer "+kubernetesIssuer+"/of-old", "--cluster", "-n", "web", "worker", "--cluster",
		"two")

	// Pods that the webhook did not get, or came to too early.
	w.account("late", "")
	w.pod("late", "node-1", "")
	annotate(w, "late", reader)
	w.broken("made before the annotation", "containers", "made before its service account had its annotation", "kubectl delete pod -n web late", "-n", "web",
		"late")
	w.account("early", "")
	w.pod("early", "node-1", "")
	associate("early", trustsEKS)
	w.broken("made before the association", "containers", "made before its service account had an association", "kubectl delete pod -n web early", "-n", "web",
		"early")
	w.account("moved", reader)
	w.pod("moved", "node-1", "")
	annotate(w, "moved", reader+"-2")
	w.broken("made before the annotation was changed", "role ARN", "and the service account now names "+reader+"-2", "kubectl delete pod -n web moved", "-n",
		"web", "moved")
	k.must(http.MethodPost, "/api/v1/namespaces/web/pods", `{"metadata": {"name": "skipped", "labels": {"eks.amazonaws.com/skip-pod-identity-webhook": "true"}},
"spec": {"serviceAccountName": "worker", "nodeName": "node-1", "containers": [{"name": "app", "image": "app"}]}}`)
	w.broken("labelled to be left alone", "webhook's choice", "has the label eks.amazonaws.com/skip-pod-identity-webhook", "Take the label", "-n", "web",
		"skipped")
	k.must(http.MethodPost, "/api/v1/namespaces/lanyard/serviceaccounts",
		fmt.Sprintf(`{"metadata": {"name": "own", "annotations": {"eks.amazonaws.com/role-arn": %q}}}`, reader))
	k.must(http.MethodPost, "/api/v1/namespaces/lanyard/pods",
		`{"metadata": {"name": "own"}, "spec": {"serviceAccountName": "own", "containers": [{"name": "app", "image": "app"}]}}`)
	w.broken("in a namespace that is left out", "webhook's choice", "namespaceSelector leaves out namespace lanyard",
		"kubectl edit mutatingwebhookconfiguration", "-n", "lanyard", "own")

	// Roles, and whom they trust.
	for _, c := range []struct{ name, account, role, link, text, fix string }{
		{"a role that is not there", "ghost", "arn:aws:iam::" + account + ":role/ghost", "role", "There is no role arn:aws:iam::" + account + ":role/ghost",
			"lanyard irsa create --cluster one -n web -s ghost"},
		{"somebody else's role", "readers", reader, "trust policy", "wants " + provider + ":sub to be system:serviceaccount:web:reader",
			`be "system:serviceaccount:web:readers"`},
		{"a wildcard that is none", "starred", w.role("starred", webTrust("StringEquals", ":sub", "system:serviceaccount:web:*")), "trust policy",
			"to be system:serviceaccount:web:* (StringEquals at line 2)", "write StringLike instead of StringEquals"},
		{"another audience", "audience", w.role("audience", webTrust("StringEquals", ":aud", "sts.amazonaws.com.cn")), "trust policy",
			"wants " + provider + ":aud to be sts.amazonaws.com.cn", `be "sts.amazonaws.com"`},
		{"another issuer's subject", "issuer", w.role("issuer", webTrust("StringEquals", "/of-old:sub", "system:serviceaccount:web:issuer")), "trust policy",
			"is of another issuer than the cluster's", `write "` + provider + `:sub"`},
		{"a role that trusts EKS instead", "confused", w.role("confused", trustsEKS), "trust policy", "names the principal Service pods.eks.amazonaws.com",
			`"Federated":"arn:aws:iam::` + account},
	} {
		w.account(c.account, c.role)
		w.pod(c.account, "node-1", "")
		w.broken(c.name, c.link, c.text, c.fix, "-n", "web", c.account)
	}
	for _, c := range []struct{ name, account, trust, text, fix string }{
		{"without sts:TagSession", "untagged", strings.Replace(trustsEKS, `, "sts:TagSession"`, "", 1), "but not sts:TagSession",
			`["sts:AssumeRole", "sts:TagSession"]`},
		{"another service", "machine", strings.Replace(trustsEKS, "pods.eks", "ec2", 1), "names the principal Service ec2.amazonaws.com",
			`{"Service":"pods.eks.amazonaws.com"}`},
		{"another namespace", "stranger",
			strings.Replace(trustsEKS, `"Action"`, `"Condition": {"StringEquals": {"aws:RequestTag/kubernetes-namespace": "wed"}}, "Action"`, 1),
			"wants aws:RequestTag/kubernetes-namespace to be wed", `be "web"`},
	} {
		associate(c.account, c.trust)
		w.account(c.account, "")
		w.pod(c.account, "node-1", "")
		w.broken(c.name, "trust policy", c.text, c.fix, "-n", "web", c.account)
	}
	associate("orphan", trustsEKS)
	w.account("orphan", "")
	w.pod("orphan", "node-1", "")
	if _, err := iam.NewFromConfig(s.aws()).DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: aws.String("orphan")}); err != nil {
		t.Fatal(err)
	}
	w.broken("an association's role that was deleted", "role", "There is no role", "make", "-n", "web", "orphan")
	w.broken("sessions that are too long", "session", "asks for sessions of 3h0m0s", "--max-session-duration 10800", "-n", "web", "reader", "--duration", "3h")

	// Agents, and what is in the containers.
	k.must(http.MethodPost, "/api/v1/namespaces/web/secrets",
		`{"metadata": {"name": "old-keys"}, "stringData": {"AWS_ACCESS_KEY_ID": "hunter2", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI"}}`)
	for _, c := range []struct{ name, account, node, more, link, text, fix string }{
		{"no agent on the node", "on-node-2", "node-2", "", "agent", "There is no agent on the pod's node node-2", "taints"},
		{"an agent that is not ready", "on-node-3", "node-3", "", "agent", "lanyard/lanyard-agent-node-3 on the pod's node node-3 is not ready",
			"kubectl logs -n lanyard lanyard-agent-node-3"},
		{"an address of nobody", "on-address", "node-1", `, "env": [{"name": "AWS_CONTAINER_CREDENTIALS_FULL_URI", "value": "http://169.254.170.32/v1/credentials"},
{"name": "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "value": "/token"}]`, "agent's address", "asks http://169.254.170.32/v1/credentials", "Take AWS_CONTAINER_CREDENTIALS_FULL_URI out"},
		{"a proxy", "on-proxy", "node-1", `, "env": [{"name": "HTTP_PROXY", "value": "http://user:hunter2@proxy.example"}]`, "proxy",
			"Container app has HTTP_PROXY", "Set NO_PROXY in container app"},
		{"keys that are left over", "on-keys", "node-1", `, "env": [{"name": "AWS_ACCESS_KEY_ID", "value": "hunter2"}]`, "SDK's choice",
			"has AWS_ACCESS_KEY_ID, from the pod's specification", "Take AWS_ACCESS_KEY_ID"},
		{"keys of a secret", "on-secret", "node-1", `, "envFrom": [{"secretRef": {"name": "old-keys"}}]`, "SDK's choice",
			"has AWS_ACCESS_KEY_ID, from secret old-keys", "they come from secret old-keys"},
		{"web identity beside Pod Identity", "on-both", "node-1", `, "env": [{"name": "AWS_ROLE_ARN", "value": "arn:aws:iam::111122223333:role/reader"},
{"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/token"}]`, "SDK's choice", "has AWS_WEB_IDENTITY_TOKEN_FILE beside Pod Identity", "Take AWS_ROLE_ARN"},
	} {
		s.must("association", "create", "--cluster", "one", "-n", "web", "-s", c.account, "--role-arn", "arn:aws:iam::"+account+":role/worker")
		w.account(c.account, "")
		w.pod(c.account, c.node, c.more)
		w.broken(c.name, c.link, c.text, c.fix, "-n", "web", c.account)
	}
	t.Run("a network policy", func(t *testing.T) {
		k.must(http.MethodPost, "/apis/networking.k8s.io/v1/namespaces/web/networkpolicies",
			`{"metadata": {"name": "closed"}, "spec": {"podSelector": {"matchLabels": {"app": "worker"}}, "policyTypes": ["Egress"]}}`)
		defer k.must(http.MethodDelete, "/apis/networking.k8s.io/v1/namespaces/web/networkpolicies/closed", "")
		one := ward{t, k, s}
		r, printed, status := one.ask("-n", "web", "worker")
		if found := link(&r, "network policies"); status != 0 || found == nil || found.Status != doctor.Warning || !strings.Contains(found.Text, "(closed)") {
			t.Errorf("status %d:\n%s", status, printed)
		}
	})

	t.Run("the token in the pod", func(t *testing.T) { w.inThePod(t) })
	t.Run("all pods", func(t *testing.T) { w.allPods(t) })
	t.Run("with few rights", func(t *testing.T) { w.fewRights(t) })
	t.Run("for people", func(t *testing.T) {
		out, _, err := s.lanyard("doctor", "--kubeconfig", k.kubeconfig, "--cluster", "one", "-n", "web", "readers")
		wantStatus(t, err, 3)
		for _, want := range []string{"pod web/readers, service account readers, cluster one\n", "✓  API server ", "✗  trust policy ",
			"→ In the trust policy of role one-web-reader", "–  credentials ",
			"slip of the pen", "\nThe first link that is broken: trust policy.\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("it does not print %q:\n%s", want, out)
			}
		}
		if strings.Contains(out, "\x1b") {
			t.Error("it prints colours into a pipe")
		}
	})

	// The provider.
	client := iam.NewFromConfig(s.aws())
	providerARN := aws.String("arn:aws:iam::" + account + ":oidc-provider/" + provider)
	remove := &iam.RemoveClientIDFromOpenIDConnectProviderInput{OpenIDConnectProviderArn: providerARN, ClientID: aws.String("sts.amazonaws.com")}
	if _, err := client.RemoveClientIDFromOpenIDConnectProvider(t.Context(), remove); err != nil {
		t.Fatal(err)
	}
	w.broken("a provider without the audience", "provider", "does not take the audience sts.amazonaws.com", "aws iam add-client-id-to-open-id-connect-provider",
		"-n", "web", "reader")
	if _, err := client.DeleteOpenIDConnectProvider(t.Context(), &iam.DeleteOpenIDConnectProviderInput{OpenIDConnectProviderArn: providerARN}); err != nil {
		t.Fatal(err)
	}
	w.broken("no provider", "provider", "has no OIDC provider", "aws iam create-open-id-connect-provider --url "+kubernetesIssuer, "-n", "web", "reader")

	// The webhook.
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.broken("a webhook that is gone, with failurePolicy Fail", "next pod", "cannot ask the webhook, and refuses pods", "kubectl logs -n lanyard", "-n", "web",
		"-s", "worker")
	registration := readWebhookManifests(t).registration
	const registrations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
	change := func(change func(*admissionv1.MutatingWebhook)) {
		t.Helper()
		var have admissionv1.MutatingWebhookConfiguration
		read(t, k.must(http.MethodGet, registrations+"/"+registration.Name, ""), &have)
		change(&have.Webhooks[0])
		body, err := json.Marshal(have)
		if err != nil {
			t.Fatal(err)
		}
		k.must(http.MethodPut, registrations+"/"+registration.Name, string(body))
	}
	ignore := admissionv1.Ignore
	change(func(h *admissionv1.MutatingWebhook) { h.FailurePolicy = &ignore })
	k.waitFor("a pod without webhook", func() bool {
		_, _, err := k.createPod(fmt.Sprintf("bare-%d", time.Now().UnixNano()), "worker")
		return err == nil
	})
	w.broken("a webhook that is gone, with failurePolicy Ignore", "next pod", "gets nothing from the webhook", "kubectl logs -n lanyard", "-n", "web", "-s",
		"worker")
	other := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	change(func(h *admissionv1.MutatingWebhook) { h.ClientConfig.URL = aws.String(other.URL + "/mutate") })
	w.broken("a certificate of somebody else", "webhook's certificate", "does not match what is registered: x509",
		"kubectl rollout restart -n lanyard deployment/lanyard-webhook", "-n", "web", "-s", "worker")
	change(func(h *admissionv1.MutatingWebhook) { h.ClientConfig = registration.Webhooks[0].ClientConfig })
	w.broken("a service without endpoints", "webhook's service", "has no endpoint that is ready", "kubectl get pods -n lanyard", "-n", "web", "-s", "worker")
	k.must(http.MethodPost, "/apis/discovery.k8s.io/v1/namespaces/lanyard/endpointslices", `{"metadata": {"name": "webhook", "labels": {"kubernetes.io/service-name": "pod-identity-webhook"}},
"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}], "ports": [{"port": 8443}]}`)
	w.broken("an empty caBundle", "webhook's certificate", "is empty", "rollout restart", "-n", "web", "-s", "worker")
	k.must(http.MethodDelete, "/api/v1/namespaces/lanyard/services/pod-identity-webhook", "")
	w.broken("no service", "webhook's service", "lanyard/pod-identity-webhook is not there", "helm upgrade --install lanyard deploy/chart", "-n", "web", "-s", "worker")
	k.must(http.MethodDelete, registrations+"/"+registration.Name, "")
	w.broken("no registration", "webhook", "There is no MutatingWebhookConfiguration pod-identity-webhook", "helm upgrade --install lanyard deploy/chart", "-n", "web",
		"-s", "worker")

	// Keys that were rotated, and not registered.
	k.stop()
	k.start(k.newKey("next.key"), filepath.Join(k.dir, "sa.key"))
	w.broken("a key that is not registered", "keys", "is not among those that Lanyard has of the issuer", "lanyard cluster update-keys one", "-n", "web",
		"worker")

	s.kill()
	t.Run("the control plane is gone", func(t *testing.T) {
		one := ward{t, k, s}
		if r, printed, status := one.ask("-n", "web", "reader"); status != 1 || r.First(doctor.Unknown).Link != "control "+
			"plane" || r.First(doctor.Broken) != nil {
			t.Errorf("status %d:\n%s", status, printed)
		}
	})
	k.stop()
	t.Run("the API server is gone", func(t *testing.T) {
		one := ward{t, k, s}
		if r, printed, status := one.ask("-n", "web", "reader"); status != 1 || r.First(doctor.Unknown).Link != "API server" {
			t.Errorf("status %d:\n%s", status, printed)
		}
	})
}

// A healthy pod has what its webhook is told to give: by other annotations, for another audience, at another path, or by a ConfigMap.
func TestDoctorSeesWhatTheWebhookIsTold(t *testing.T) {
	w := &ward{t, startKubernetes(t), startDev(t, dataDir(t))}
	k, s := w.k, w.s
	jwks := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(jwks, k.must(http.MethodGet, "/openid/v1/jwks", ""), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("cluster", "register", "one", "--issuer", kubernetesIssuer, "--jwks", jwks)
	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web"}}`)
	kubeconfig := k.webhookKubeconfig()
	rights, err := json.Marshal(object[*rbacv1.Role](t, renderChart(t, "clusterName: demo\nwebhook: {watchConfigMap: true, cleanup: {enabled: false}}")))
	if err != nil {
		t.Fatal(err)
	}
	k.must(http.MethodPut, "/apis/rbac.authorization.k8s.io/v1/namespaces/lanyard/roles/lanyard-webhook", string(rights))
	flags := []string{
		"--aws-default-region", "us-east-1", "--pod-endpoint-url=https://lanyard.example", "--pod-ca-config-map=lanyard-ca", "--watch-config-map",
		"--annotation-prefix=example.com", "--token-audience", "sts.example.com", "--token-mount-path=/var/run/tokens",
	}
	_, address, admin := startWebhook(t, s, kubeconfig, flags...)
	k.register("Fail", address)
	waitReady(t, admin)
	k.waitUntilTrusted()

	// The program runs here, but the cluster shows it as it does elsewhere: by a webhook with a service, and a pod behind that.
	m := readWebhookManifests(t)
	const registrations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/"
	var registration admissionv1.MutatingWebhookConfiguration
	k.waitFor("the registration with another webhook", func() bool {
		read(t, k.must(http.MethodGet, registrations+m.registration.Name, ""), &registration)
		shown := m.registration.Webhooks[0].DeepCopy()
		shown.Name, shown.ObjectSelector = "shown.lanyard.dev", &metav1.LabelSelector{MatchLabels: map[string]string{"nobody": "asks"}}
		registration.Webhooks = append(registration.Webhooks, *shown)
		body, err := json.Marshal(registration)
		if err != nil {
			t.Fatal(err)
		}
		_, err = k.do(http.MethodPut, registrations+registration.Name, string(body)) // the webhook writes it too
		return err == nil
	})
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "lanyard-webhook-0", Labels: m.service.Spec.Selector},
		Spec: corev1.PodSpec{
			ServiceAccountName: m.account.Name,
			Containers:         []corev1.Container{{Name: "webhook", Image: "webhook", Command: []string{"/lanyard-webhook"}, Args: flags}},
		},
	}
	body, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	k.must(http.MethodPost, "/api/v1/namespaces/lanyard/pods", string(body))

	s.must("irsa", "create", "--cluster", "one", "-n", "web", "-s", "reader") // and the provider
	provider := "oidc.kubernetes.test/clusters/one"
	added := &iam.AddClientIDToOpenIDConnectProviderInput{
		OpenIDConnectProviderArn: aws.String("arn:aws:iam::" + account + ":oidc-provider/" + provider), ClientID: aws.String("sts.example.com"),
	}
	if _, err := iam.NewFromConfig(s.aws()).AddClientIDToOpenIDConnectProvider(t.Context(), added); err != nil {
		t.Fatal(err)
	}
	trusting := func(name string) (arn string) {
		return w.role(name, fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Federated": "arn:aws:iam::%s:oidc-provider/%s"},
  "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {%q: "system:serviceaccount:web:%s"}}}]}`, account, provider, provider+":sub", name))
	}
	k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts",
		fmt.Sprintf(`{"metadata": {"name": "annotated", "annotations": {"example.com/role-arn": %q}}}`, trusting("annotated")))
	w.account("configured", "")
	k.must(http.MethodPost, "/api/v1/namespaces/lanyard/configmaps", fmt.Sprintf(
		`{"metadata": {"name": "pod-identity-webhook"}, "data": {"config": "{\"web/configured\": {\"RoleARN\": \"%s\"}}"}}`, trusting("configured")))
	for _, name := range []string{"annotated", "configured"} {
		w.pod(name, "node-1", "")
		r, printed, status := w.ask("-n", "web", name)
		if status != 0 || r.Way != "irsa" || r.First(doctor.Broken) != nil || r.First(doctor.Unknown) != nil {
			t.Errorf("%s: status %d, way %s:\n%s", name, status, r.Way, printed)
		}
	}
	out, _, err := s.lanyard("doctor", "--kubeconfig", k.kubeconfig, "--cluster", "one", "--all", "-n", "web")
	if err != nil {
		t.Errorf("of all pods: %v", err)
	}
	for _, name := range []string{"annotated", "configured"} {
		if !strings.Contains(out, name) {
			t.Errorf("%s is not among all pods:\n%s", name, out)
		}
	}
}

func link(r *doctor.Report, name string) *doctor.Result {
	if i := slices.IndexFunc(r.Results, func(one doctor.Result) bool { return one.Link == name }); i >= 0 {
		return &r.Results[i]
	}
	return nil
}

func annotate(w *ward, name, role string) {
	w.Helper()
	path := "/api/v1/namespaces/web/serviceaccounts/" + name
	var account corev1.ServiceAccount
	read(w, w.k.must(http.MethodGet, path, ""), &account)
	account.Annotations = map[string]string{"eks.amazonaws.com/role-arn": role}
	body, err := json.Marshal(account)
	if err != nil {
		w.Fatal(err)
	}
	w.k.must(http.MethodPut, path, string(body))
}

// inThePod has doctor read the token in a pod by a kubectl that stands in for the kubelet: it knows one file of one container.
func (w *ward) inThePod(t *testing.T) {
	var reply struct{ Status struct{ Token string } }
	read(t, w.k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts/reader/token", `{"spec": {"audiences": ["vault"]}}`), &reply)
	dir := t.TempDir()
	script := fmt.Sprintf(`#!/bin/sh
case "$*" in
*"exec --namespace web reader --container app "*"-- cat /var/run/secrets/eks.amazonaws.com/serviceaccount/token") echo '%s';;
*) echo "error: unable to upgrade connection" >&2; exit 1;;
esac
`, reply.Status.Token)
	if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	one := ward{t, w.k, w.s}
	one.broken("is for another audience", "token", "The token in the pod is for audience vault, and it must be for sts.amazonaws.com",
		"Project a token for sts.amazonaws.com", "-n", "web", "reader", "--exec")
	r, printed, status := one.ask("-n", "web", "worker", "--exec")
	if found := link(&r, "token"); status != 1 || found == nil || found.Status != doctor.Unknown || !strings.Contains(found.Text,
		"unable to upgrade connection") {
		t.Errorf("a container that cannot be reached: status %d\n%s", status, printed)
	}
}

func (w *ward) allPods(t *testing.T) {
	out, errs, err := w.s.lanyard("doctor", "--kubeconfig", w.k.kubeconfig, "--cluster", "one", "--all", "-o", "json")
	wantStatus(t, err, 3)
	var all []doctor.Report
	read(t, []byte(out), &all)
	causes := map[string]string{}
	for _, r := range all {
		causes[r.Namespace+"/"+r.Pod] = string(r.Status) + " " + r.Cause
	}
	for pod, want := range map[string]string{
		"web/worker": "ok ", "web/reader": "ok ", "web/late": "broken containers", "web/untagged": "broken trust policy",
		"lanyard/own":   "broken webhook's choice",
		"web/on-node-2": "broken agent",
	} {
		if causes[pod] != want {
			t.Errorf("%s: got %q, want %q", pod, causes[pod], want)
		}
	}
	for _, pod := range []string{"web/plain", "web/skipped"} {
		if _, there := causes[pod]; there || len(errs) > 0 {
			t.Errorf("%s, which should have nothing, is in the list, or it complains: %s", pod, errs)
		}
	}
	out, _, err = w.s.lanyard("doctor", "--kubeconfig", w.k.kubeconfig, "--cluster", "one", "-A", "-n", "lanyard")
	wantStatus(t, err, 3)
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 2 || !strings.HasPrefix(lines[0], "NAMESPACE ") || !strings.Contains(lines[1],
		"webhook's choice") {
		t.Errorf("of one namespace:\n%s", out)
	}
}

// fewRights asks as somebody who may do nothing but look at pods, and then as one who has all that the documentation says.
func (w *ward) fewRights(t *testing.T) {
	k := *w.k
	k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", `{"metadata": {"name": "doctor"}}`)
	grant := func(name, rules string) {
		k.must(http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterroles", fmt.Sprintf(`{"metadata": {"name": %q}, "rules": %s}`, name, rules))
		k.must(http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", fmt.Sprintf(`{"metadata": {"name": %q},
"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": %[1]q}, "subjects": [{"kind": "ServiceAccount", "namespace": "web", "name": "doctor"}]}`, name))
	}
	grant("pods-only", `[{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]`)
	var reply struct{ Status struct{ Token string } }
	read(t, k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts/doctor/token", `{"spec": {}}`), &reply)
	text, err := os.ReadFile(k.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	k.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(k.kubeconfig, []byte(strings.Replace(string(text), kubernetesToken, reply.Status.Token, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	one := ward{t, &k, w.s}
	r, printed, status := one.ask("-n", "web", "worker")
	if status != 1 || r.First(doctor.Broken) != nil {
		t.Errorf("status %d:\n%s", status, printed)
	}
	for name, rule := range map[string]string{
		"service account":  `{apiGroups: [""], resources: [serviceaccounts], verbs: [get]}`,
		"webhook":          `{apiGroups: ["admissionregistration.k8s.io"], resources: [mutatingwebhookconfigurations], verbs: [get]}`,
		"next pod":         `{apiGroups: [""], resources: [pods], verbs: [create]}`,
		"token":            `{apiGroups: [""], resources: [serviceaccounts/token], verbs: [create]}`,
		"agent":            `{apiGroups: [""], resources: [pods], verbs: [list]}`,
		"network policies": `{apiGroups: ["networking.k8s.io"], resources: [networkpolicies], verbs: [list]}`,
	} {
		if found := link(&r, name); found == nil || found.Status != doctor.Unknown || !strings.Contains(found.Fix, rule) {
			t.Errorf("%s: got %+v, want it to be told that %s is missing", name, found, rule)
		}
	}
	document, err := os.ReadFile("../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	_, manifest, found := strings.Cut(string(document), "```yaml\n")
	manifest, _, ended := strings.Cut(manifest, "\n```")
	if !found || !ended {
		t.Fatal("docs/doctor.md has no manifest")
	}
	grant("all-of-the-documentation", rulesOf(t, manifest))
	k.waitFor("the rights", func() bool {
		_, _, status := one.ask("-n", "web", "worker")
		return status == 0
	})
	if r, printed, status := one.ask("-n", "web", "on-secret"); status != 3 || r.Cause != "SDK's choice" {
		t.Errorf("with a secret: status %d because of %q:\n%s", status, r.Cause, printed)
	}
}

// rulesOf returns the rules of a ClusterRole, as JSON.
func rulesOf(t *testing.T, manifest string) string {
	t.Helper()
	var role rbacv1.ClusterRole
	if err := yaml.UnmarshalStrict([]byte(manifest), &role); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(role.Rules)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
