//go:build e2e

package test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
)

// webhookKubeconfig applies the webhook's manifests but for its registration, and returns a kubeconfig of its service account.
func (k *apiServer) webhookKubeconfig() string {
	k.t.Helper()
	m := readWebhookManifests(k.t)
	k.must(http.MethodPost, "/api/v1/namespaces", fmt.Sprintf(`{"metadata": {"name": %q}}`, m.account.Namespace))
	for _, o := range m.objects {
		if o != runtime.Object(m.registration) {
			k.create(o)
		}
	}
	var reply struct{ Status struct{ Token string } }
	read(k.t, k.must(http.MethodPost, "/api/v1/namespaces/"+m.account.Namespace+"/serviceaccounts/"+m.account.Name+"/token", `{"spec": {}}`), &reply)
	text, err := os.ReadFile(k.kubeconfig)
	if err != nil {
		k.t.Fatal(err)
	}
	file := filepath.Join(k.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), kubernetesToken, reply.Status.Token, 1)), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return file
}

// create creates an object of a manifest. What the API server does not know, or does not take, fails the test.
func (k *apiServer) create(o runtime.Object) {
	k.t.Helper()
	object, err := meta.Accessor(o)
	if err != nil {
		k.t.Fatal(err)
	}
	body, err := json.Marshal(o)
	if err != nil {
		k.t.Fatal(err)
	}
	kind := o.GetObjectKind().GroupVersionKind()
	path := "/apis/" + kind.GroupVersion().String()
	if kind.Group == "" {
		path = "/api/" + kind.Version
	}
	if object.GetNamespace() != "" {
		path += "/namespaces/" + object.GetNamespace()
	}
	resource, _ := meta.UnsafeGuessKindToResource(kind)
	k.must(http.MethodPost, path+"/"+resource.Resource+"?fieldValidation=Strict", string(body))
}

func read(t testing.TB, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// startWebhook runs the webhook on free ports until the test ends, and returns its process and its addresses.
func startWebhook(t testing.TB, s *server, kubeconfig string, args ...string) (cmd *exec.Cmd, reviews, admin string) {
	t.Helper()
	cmd = exec.Command(binary("lanyard-webhook"), append([]string{"--kubeconfig", kubeconfig, "--namespace", "lanyard", "--address", "127.0.0.1",
		"--port", "0", "--metrics-port", "0", "--cluster-name", "one", "--lookup-timeout", "10s", "--stop-delay", "0s"}, args...)...)
	cmd.Env = cleanEnvironment()
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		cmd.Wait()
	})
	addresses := make(chan [2]string, 2)
	go func() {
		defer close(ended)
		defer close(addresses)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var line struct{ Msg, Server, Address, Level string }
			if json.Unmarshal(lines.Bytes(), &line) != nil || line.Level != "INFO" {
				t.Logf("webhook: %s", lines.Bytes())
				continue
			}
			if line.Msg == "listening" {
				addresses <- [2]string{line.Server, line.Address}
			}
		}
	}()
	for range 2 {
		switch a := <-addresses; a[0] {
		case "reviews":
			reviews = a[1]
		case "admin":
			admin = a[1]
		default:
			t.Fatal("the webhook has ended")
		}
	}
	return cmd, reviews, admin
}

// waitReady waits until a webhook says that it is.
func waitReady(t testing.TB, admin string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for tick := time.Tick(50 * time.Millisecond); ; {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := http.DefaultClient.Do(r)
		if err == nil {
			reply.Body.Close()
			if reply.StatusCode == http.StatusOK {
				return
			}
			err = fmt.Errorf("it answers %s", reply.Status)
		}
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatalf("the webhook is not ready: %v", err)
		}
	}
}

// register has the API server ask webhooks at these addresses, as the manifest has it ask the service; they are to see to the trust in them.
func (k *apiServer) register(failurePolicy string, addresses ...string) {
	k.t.Helper()
	registration := readWebhookManifests(k.t).registration
	policy, timeout := admissionv1.FailurePolicyType(failurePolicy), int32(20) // of lookups that may take 10 s
	var webhooks []admissionv1.MutatingWebhook
	for i, a := range addresses {
		url := "https://" + a + *registration.Webhooks[0].ClientConfig.Service.Path
		w := registration.Webhooks[0].DeepCopy()
		w.Name, w.ClientConfig = fmt.Sprintf("replica-%d.%s", i, w.Name), admissionv1.WebhookClientConfig{URL: &url}
		w.FailurePolicy, w.TimeoutSeconds = &policy, &timeout
		webhooks = append(webhooks, *w)
	}
	registration.Webhooks = webhooks
	k.create(registration)
}

// createPod creates a pod of a service account, and returns what the API server made of it, and its warnings.
func (k *apiServer) createPod(name, account string) (pod *corev1.Pod, warnings []string, err error) {
	return k.createPodAs(kubernetesToken, name, account)
}

// createPodAs is createPod for who has the token.
func (k *apiServer) createPodAs(token, name, account string) (pod *corev1.Pod, warnings []string, err error) {
	body := fmt.Sprintf(`{"metadata": {"name": %q}, "spec": {"serviceAccountName": %q, "containers": [{"name": "app", "image": "app"}]}}`, name, account)
	r, err := http.NewRequestWithContext(k.t.Context(), http.MethodPost, k.url+"/api/v1/namespaces/web/pods", strings.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	reply, err := k.client.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusCreated {
		var status struct{ Message string }
		err := json.NewDecoder(reply.Body).Decode(&status)
		return nil, nil, fmt.Errorf("create pod %s: %s %s: %w", name, reply.Status, status.Message, err)
	}
	pod = &corev1.Pod{}
	return pod, reply.Header.Values("Warning"), json.NewDecoder(reply.Body).Decode(pod)
}

func variables(env []corev1.EnvVar) (names []string) {
	for _, v := range env {
		names = append(names, v.Name)
	}
	return names
}

func TestWebhook(t *testing.T) {
	k := startKubernetes(t)
	s := startDev(t, dataDir(t))
	jwks := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(jwks, k.must(http.MethodGet, "/openid/v1/jwks", ""), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("cluster", "register", "one", "--issuer", kubernetesIssuer, "--jwks", jwks)
	role := "arn:aws:iam::" + account + ":role/dev-s3-sa"
	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web"}}`)

	// Two replicas at once: they agree on the authority of their certificates, and both see each pod.
	kubeconfig := k.webhookKubeconfig()
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	publish := func(certificates []byte) {
		if err := os.WriteFile(caFile, certificates, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := os.ReadFile(filepath.Join(s.dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	publish(ca)
	flags := []string{
		"--pod-endpoint-url", "https://lanyard.example", "--pod-ca-config-map", "lanyard-ca", "--pod-ca-file", caFile, "--report-period", "1s",
		"--watch-config-map",
	}
	rights, err := json.Marshal(object[*rbacv1.Role](t, renderChart(t, "clusterName: demo\nwebhook: {watchConfigMap: true, cleanup: {enabled: false}}")))
	if err != nil {
		t.Fatal(err)
	}
	k.must(http.MethodPut, "/apis/rbac.authorization.k8s.io/v1/namespaces/lanyard/roles/lanyard-webhook", string(rights))
	_, first, firstAdmin := startWebhook(t, s, kubeconfig, flags...)
	_, second, secondAdmin := startWebhook(t, s, kubeconfig, flags...)
	k.register("Fail", first, second)
	waitReady(t, firstAdmin)
	waitReady(t, secondAdmin)
	k.waitUntilTrusted()

	lanyard := []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS", "AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"}
	irsa := append([]string{"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"}, lanyard...)
	podIdentity := append([]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"}, lanyard...)
	serviceAccount := func(name, annotations string) {
		k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", fmt.Sprintf(`{"metadata": {"name": %q, "annotations": {%s}}}`, name, annotations))
	}

	t.Run("pods made in the same moment as what they need", func(t *testing.T) {
		associations := eks.NewFromConfig(s.aws())
		one := func(i int) error {
			name := fmt.Sprintf("worker-%d", i)
			annotations, want := "", podIdentity
			if i%5 == 0 {
				annotations, want = `"eks.amazonaws.com/role-arn": "`+role+`"`, irsa
			}
			made := make(chan error, 2)
			go func() {
				_, err := k.do(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", fmt.Sprintf(`{"metadata": {"name": %q, "annotations": {%s}}}`, name, annotations))
				made <- err
			}()
			go func() {
				if annotations != "" {
					made <- nil
					return
				}
				whom := name
				if i%5 == 1 {
					whom = fmt.Sprintf("w*-%d", i) // a pattern
				}
				_, err := associations.CreatePodIdentityAssociation(t.Context(), &eks.CreatePodIdentityAssociationInput{
					ClusterName: aws.String("one"), Namespace: aws.String("web"), ServiceAccount: &whom, RoleArn: &role,
				})
				made <- err
			}()
			for range 2 {
				if err := <-made; err != nil {
					return err
				}
			}
			pod, warnings, err := k.createPod(name, name)
			if err != nil {
				return err
			}
			if diff := cmp.Diff(want, variables(pod.Spec.Containers[0].Env)); diff != "" || len(warnings) > 0 {
				return fmt.Errorf("%s has the wrong variables (-want +got):\n%s\nwarnings: %q", name, diff, warnings)
			}
			return nil
		}
		const pods, workers = 500, 25
		next := make(chan int)
		var group sync.WaitGroup
		for range workers {
			group.Go(func() {
				for i := range next {
					if err := one(i); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for i := range pods {
			next <- i
		}
		close(next)
		group.Wait()
		t.Logf("lookups of associations: %v, of service accounts: %v",
			counts(t, firstAdmin)[`lanyard_webhook_lookup_duration_seconds_count{source="associations"}`],
			counts(t, firstAdmin)[`lanyard_webhook_lookup_duration_seconds_count{source="service_accounts"}`])
	})

	t.Run("what is in memory is not looked up", func(t *testing.T) {
		k.waitFor("all in memory", func() bool { return counts(t, firstAdmin)["lanyard_webhook_associations"] == 400 })
		before := counts(t, firstAdmin)
		var group sync.WaitGroup
		for worker := range 50 {
			group.Go(func() {
				for i := range 8 {
					account := fmt.Sprintf("worker-%d", worker*10+i/4*5+i%4+1)
					pod, _, err := k.createPod(fmt.Sprintf("again-%d-%d", worker, i), account)
					if err != nil {
						t.Error(err)
						continue
					}
					if diff := cmp.Diff(podIdentity, variables(pod.Spec.Containers[0].Env)); diff != "" {
						t.Errorf("%s (-want +got):\n%s", account, diff)
					}
				}
			})
		}
		group.Wait()
		after := counts(t, firstAdmin)
		for name := range after {
			if strings.HasPrefix(name, "lanyard_webhook_lookups_total") && after[name] != before[name] {
				t.Errorf("%s was %v, and is %v", name, before[name], after[name])
			}
		}
		const reviews = "lanyard_webhook_request_duration_seconds"
		for _, le := range []string{"0.0005", "0.001", "0.002", "0.005", "0.01"} {
			bucket := reviews + `_bucket{le="` + le + `"}`
			t.Logf("%v of %v reviews took less than %s s", after[bucket]-before[bucket], after[reviews+"_count"]-before[reviews+"_count"], le)
		}
	})

	t.Run("a role by the ConfigMap, made in the same moment", func(t *testing.T) {
		serviceAccount("configured", "")
		const config = "/api/v1/namespaces/lanyard/configmaps"
		k.must(http.MethodPost, config, `{"metadata": {"name": "pod-identity-webhook"},
			"data": {"config": "{\"*/configured\": {\"RoleARN\": \"`+role+`\", \"TokenExpiration\": 3600}}"}}`)
		pod, warnings, err := k.createPod("configured", "configured")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(irsa, variables(pod.Spec.Containers[0].Env)); diff != "" || len(warnings) > 0 {
			t.Errorf("warnings %q; it has (-want +got):\n%s", warnings, diff)
		}
		// It is followed, too: one that cannot be read changes nothing of what is known.
		k.waitFor("the role in memory of both", func() bool {
			before := counts(t, firstAdmin)[`lanyard_webhook_lookups_total{result="found",source="config_map"}`] +
				counts(t, secondAdmin)[`lanyard_webhook_lookups_total{result="found",source="config_map"}`]
			if _, _, err := k.createPod(fmt.Sprintf("configured-%d", time.Now().UnixNano()), "configured"); err != nil {
				t.Fatal(err)
			}
			return before == counts(t, firstAdmin)[`lanyard_webhook_lookups_total{result="found",source="config_map"}`]+
				counts(t, secondAdmin)[`lanyard_webhook_lookups_total{result="found",source="config_map"}`]
		})
		k.must(http.MethodPut, config+"/pod-identity-webhook", `{"metadata": {"name": "pod-identity-webhook"}, "data": {"config": "{"}}`)
		serviceAccount("unknown", "")
		_, warnings, err = k.createPod("unknown", "unknown")
		if err != nil || len(warnings) == 0 || !strings.Contains(warnings[0], "what the ConfigMap pod-identity-webhook says of it could not be looked up") {
			t.Errorf("got %v, warnings %q", err, warnings)
		}
		if pod, _, err := k.createPod("configured-still", "configured"); err != nil || pod.Spec.Containers[0].Env == nil {
			t.Errorf("what was known has gone: %+v, %v", pod, err)
		}
		k.must(http.MethodDelete, config+"/pod-identity-webhook", "")
		k.waitFor("no role", func() bool {
			pod, _, err := k.createPod(fmt.Sprintf("configured-%d", time.Now().UnixNano()), "configured")
			if err != nil {
				t.Fatal(err)
			}
			return pod.Spec.Containers[0].Env == nil
		})
	})

	t.Run("an invalid role: a warning and an event", func(t *testing.T) {
		serviceAccount("invalid", `"eks.amazonaws.com/role-arn": "dev-s3-sa"`)
		pod, warnings, err := k.createPod("invalid", "invalid")
		if err != nil {
			t.Fatal(err)
		}
		if pod.Spec.Containers[0].Env != nil || len(warnings) == 0 || !strings.Contains(warnings[0], "is no role's ARN") {
			t.Errorf("got %+v, warnings %q", pod.Spec.Containers[0], warnings)
		}
		k.waitForEvent("ServiceAccount", "invalid")
	})

	t.Run("a pod that was made before its service account had a role", func(t *testing.T) {
		serviceAccount("late", "")
		if _, _, err := k.createPod("late", "late"); err != nil {
			t.Fatal(err)
		}
		var account corev1.ServiceAccount
		read(t, k.must(http.MethodGet, "/api/v1/namespaces/web/serviceaccounts/late", ""), &account)
		account.Annotations = map[string]string{"eks.amazonaws.com/role-arn": role}
		body, err := json.Marshal(account)
		if err != nil {
			t.Fatal(err)
		}
		k.must(http.MethodPut, "/api/v1/namespaces/web/serviceaccounts/late", string(body))
		k.waitForEvent("Pod", "late")
		if pod, _, err := k.createPod("late-2", "late"); err != nil || pod.Spec.Containers[0].Env == nil {
			t.Errorf("one that is made then has %+v, %v", pod, err)
		}
	})

	t.Run("the certificates that pods trust", func(t *testing.T) {
		k.waitFor("the certificates", func() bool { return k.bundle() == string(ca)+"\n" })
		publish(append(slices.Clip(ca), ca...))
		k.waitFor("the changed certificates", func() bool { return k.bundle() == string(ca)+string(ca)+"\n" })
		k.must(http.MethodDelete, "/api/v1/namespaces/web/configmaps/lanyard-ca", "")
		k.waitFor("them again", func() bool { return k.bundle() != "" })
		k.must(http.MethodGet, "/api/v1/namespaces/web/configmaps/lanyard-ca", "")
		if _, err := k.do(http.MethodGet, "/api/v1/namespaces/default/configmaps/lanyard-ca", ""); err == nil {
			t.Error("a namespace without such pods has them")
		}
	})

	t.Run("an ephemeral container", func(t *testing.T) {
		serviceAccount("debugged", `"eks.amazonaws.com/role-arn": "`+role+`"`)
		if _, _, err := k.createPod("debugged", "debugged"); err != nil {
			t.Fatal(err)
		}
		path := "/api/v1/namespaces/web/pods/debugged"
		var pod corev1.Pod
		read(t, k.must(http.MethodGet, path, ""), &pod)
		pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "debug"}}}
		body, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		read(t, k.must(http.MethodPut, path+"/ephemeralcontainers", string(body)), &pod)
		c := pod.Spec.EphemeralContainers[0]
		if diff := cmp.Diff(irsa, variables(c.Env)); diff != "" || len(c.VolumeMounts) == 0 || c.VolumeMounts[0].Name != "aws-iam-token" {
			t.Errorf("it has %+v", c)
		}
	})

	t.Run("the secret is lost: the certificate is made anew", func(t *testing.T) {
		k.must(http.MethodDelete, "/api/v1/namespaces/lanyard/secrets/pod-identity-webhook", "")
		k.waitFor("another secret", func() bool {
			_, err := k.do(http.MethodGet, "/api/v1/namespaces/lanyard/secrets/pod-identity-webhook", "")
			return err == nil
		})
		waitReady(t, firstAdmin)
		waitReady(t, secondAdmin)
		k.waitUntilTrusted()
	})

	t.Run("the control plane is gone", func(t *testing.T) {
		s.kill()
		serviceAccount("alone", "")
		_, warnings, err := k.createPod("alone", "alone")
		if err != nil || len(warnings) == 0 || !strings.Contains(warnings[0], "it cannot be told whether it has a role") {
			t.Errorf("got %v, warnings %q", err, warnings)
		}
		serviceAccount("annotated", `"eks.amazonaws.com/role-arn": "`+role+`"`)
		pod, warnings, err := k.createPod("annotated", "annotated")
		if err != nil || len(warnings) > 0 {
			t.Fatalf("got %v, warnings %q", err, warnings)
		}
		if diff := cmp.Diff(irsa, variables(pod.Spec.Containers[0].Env)); diff != "" {
			t.Errorf("a role needs no control plane (-want +got):\n%s", diff)
		}
	})
}

// While the webhook is killed and started again, no pod is made without its identity, or every one that is gets reported.
func TestWebhookRestarts(t *testing.T) {
	for _, policy := range []string{"Fail", "Ignore"} {
		t.Run(policy, func(t *testing.T) {
			k := startKubernetes(t)
			k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web"}}`)
			k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts",
				`{"metadata": {"name": "reader", "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/reader"}}}`)
			kubeconfig := k.webhookKubeconfig()
			none := &server{} // IRSA needs no control plane
			flags := []string{"--cluster-name", "", "--report-period", "1s"}
			cmd, address, admin := startWebhook(t, none, kubeconfig, flags...)
			k.register(policy, address)
			waitReady(t, admin)
			k.waitFor("a pod with its identity", func() bool {
				pod, _, err := k.createPod(fmt.Sprintf("first-%d", time.Now().UnixNano()), "reader")
				return err == nil && pod.Spec.Containers[0].Env != nil
			})
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				t.Fatal(err)
			}

			var bare []string
			refused := 0
			create := func(name string) {
				pod, _, err := k.createPod(name, "reader")
				switch {
				case err != nil:
					refused++
				case pod.Spec.Containers[0].Env == nil:
					bare = append(bare, name)
				}
			}
			for i := range 3 {
				for j := range 20 {
					create(fmt.Sprintf("before-%d-%d", i, j))
				}
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				for j := range 20 {
					create(fmt.Sprintf("without-%d-%d", i, j))
				}
				cmd, _, admin = startWebhook(t, none, kubeconfig, append(flags, "--port", port)...)
				for j := range 20 {
					create(fmt.Sprintf("after-%d-%d", i, j))
				}
				waitReady(t, admin)
			}
			t.Logf("of 180 pods %d were refused, and %d are without their identity", refused, len(bare))
			if policy == "Fail" && (refused == 0 || len(bare) > 0) || policy == "Ignore" && (refused > 0 || len(bare) == 0) {
				t.Errorf("that is not what %s means", policy)
			}
			for _, name := range bare {
				k.waitForEvent("Pod", name)
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if state, err := cmd.Process.Wait(); err != nil || !state.Success() {
				t.Errorf("after SIGTERM it ended with %v, %v", state, err)
			}
		})
	}
}

// Pods that are there need the certificates when one of their containers starts again, also where nobody has seen to them for a while.
func TestCertificatesComeBackForPodsThatAreThere(t *testing.T) {
	k := startKubernetes(t)
	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web"}}`)
	k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts",
		`{"metadata": {"name": "reader", "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/reader"}}}`)
	kubeconfig := k.webhookKubeconfig()
	none := &server{} // IRSA needs no control plane
	flags := []string{
		"--cluster-name", "", "--report-period", "1s", "--pod-endpoint-url", "https://lanyard.example", "--pod-ca-config-map", "lanyard-ca",
		"--pod-ca-file", filepath.Join(k.dir, "certs", "apiserver.crt"),
	}
	cmd, address, admin := startWebhook(t, none, kubeconfig, flags...)
	k.register("Fail", address)
	waitReady(t, admin)
	k.waitUntilTrusted()
	if _, _, err := k.createPod("reader", "reader"); err != nil {
		t.Fatal(err)
	}
	k.waitFor("the certificates", func() bool { return k.bundle() != "" })

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	k.must(http.MethodDelete, "/api/v1/namespaces/web/configmaps/lanyard-ca", "") // as an uninstallation does, and a loss
	startWebhook(t, none, kubeconfig, flags...)
	k.waitFor("the certificates again", func() bool { return k.bundle() != "" })
}

// waitFor waits until something is there.
func (k *apiServer) waitFor(what string, there func() bool) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Minute)
	defer cancel()
	for tick := time.Tick(100 * time.Millisecond); !there(); {
		select {
		case <-tick:
		case <-ctx.Done():
			k.t.Fatalf("there is not %s", what)
		}
	}
}

// waitUntilTrusted waits until the API server has seen what the webhooks have registered.
func (k *apiServer) waitUntilTrusted() {
	k.t.Helper()
	k.do(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", `{"metadata": {"name": "nobody"}}`) // it may be there
	i := 0
	k.waitFor("a pod", func() bool {
		i++
		_, _, err := k.createPod(fmt.Sprintf("nobody-%d-%d", i, time.Now().UnixNano()), "nobody")
		return err == nil
	})
}

// waitForEvent waits until an object is said to be without credentials.
func (k *apiServer) waitForEvent(kind, name string) {
	k.t.Helper()
	k.waitFor("an event of "+name, func() bool {
		var events corev1.EventList
		read(k.t, k.must(http.MethodGet, "/api/v1/namespaces/web/events", ""), &events)
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name && e.Reason == "PodWithoutCredentials"
		})
	})
}

// bundle returns the certificates that pods of the namespace web trust; empty for none.
func (k *apiServer) bundle() string {
	k.t.Helper()
	text, err := k.do(http.MethodGet, "/api/v1/namespaces/web/configmaps/lanyard-ca", "")
	if err != nil {
		return ""
	}
	var configMap corev1.ConfigMap
	read(k.t, text, &configMap)
	return configMap.Data["ca.pem"]
}

// counts returns a webhook's metrics by their names and labels.
func counts(t testing.TB, admin string) map[string]float64 {
	t.Helper()
	reply, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return parseCounts(t, text)
}

// parseCounts reads metrics in Prometheus' text format.
func parseCounts(t testing.TB, text []byte) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if i := strings.LastIndexByte(line, ' '); i > 0 && !strings.HasPrefix(line, "#") {
			var err error
			if all[line[:i]], err = strconv.ParseFloat(line[i+1:], 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}
