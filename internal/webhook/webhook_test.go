package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/internal/subject"
	"github.com/lanyard-id/lanyard/internal/webhook"
)

const role = "arn:aws:iam::111122223333:role/reader"

// world is a cluster and a control plane: what is there, and what of it memory has seen.
type world struct {
	accounts, seenAccounts         map[string]*corev1.ServiceAccount // by namespace/name
	associations, seenAssociations []subject.Subject
	configured, seenConfigured     podspec.ConfiguredAccounts // nil: the webhook has no ConfigMap
	noPodIdentity                  bool
	accountsDown, associationsDown error
	configuredDown                 error
	failClosed                     bool
	settings                       podspec.Settings

	*asked // since the handler was made
}

// asked is what a handler has asked for and told.
type asked struct {
	mu           sync.Mutex
	liveAccounts int
	finds        int
	configMaps   int
	events       []string
	given        []string // namespaces
}

func account(annotations ...string) *corev1.ServiceAccount {
	a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "reader", UID: "u-1", Annotations: map[string]string{}}}
	for i := 0; i < len(annotations); i += 2 {
		a.Annotations[annotations[i]] = annotations[i+1]
	}
	return a
}

func only(a *corev1.ServiceAccount) map[string]*corev1.ServiceAccount {
	return map[string]*corev1.ServiceAccount{a.Namespace + "/" + a.Name: a}
}

func metrics(t testing.TB) (*webhook.Metrics, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	m, err := webhook.NewMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	return m, registry
}

// listAndFind returns Associations that have listed seen, and find the others by asking.
func (w *world) listAndFind(t testing.TB, m *webhook.Metrics) *webhook.Associations {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	listed := make(chan struct{})
	a := webhook.NewAssociations(webhook.AssociationsConfig{
		List: func(context.Context) ([]subject.Subject, error) {
			defer close(listed)
			return w.seenAssociations, nil
		},
		Find: func(_ context.Context, who subject.Subject) (bool, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.finds++
			for _, s := range w.associations {
				if s == who {
					return w.associationsDown == nil, w.associationsDown
				}
			}
			return false, w.associationsDown
		},
		Every: time.Hour, ListTimeout: time.Minute, FindTimeout: time.Minute, Metrics: m, Log: slog.New(slog.DiscardHandler),
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.Run(ctx)
	}()
	<-listed
	cancel() // the list that has been made is kept
	<-ended
	return a
}

func (w *world) handler(t testing.TB) (http.Handler, *prometheus.Registry) {
	t.Helper()
	m, registry := metrics(t)
	w.asked = &asked{}
	c := webhook.Config{
		Settings: w.settings,
		Accounts: webhook.Accounts{
			Memory: func(namespace, name string) *corev1.ServiceAccount { return w.seenAccounts[namespace+"/"+name] },
			Live: func(_ context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.liveAccounts++
				if w.accountsDown != nil {
					return nil, w.accountsDown
				}
				return w.accounts[namespace+"/"+name], nil
			},
		},
		FailClosed: w.failClosed,
		Event: func(a *corev1.ServiceAccount, reason, message string) {
			w.events = append(w.events, fmt.Sprintf("%s/%s %s: %s", a.Namespace, a.Name, reason, message))
		},
		Given:   func(namespace string) { w.given = append(w.given, namespace) },
		Metrics: m,
		Log:     slog.New(slog.DiscardHandler),
	}
	if w.configured != nil {
		annotations := func(all podspec.ConfiguredAccounts, namespace, name string) map[string]string {
			if one, ok := all.Find(namespace, name); ok {
				return w.settings.Annotations(one)
			}
			return nil
		}
		c.Configured = webhook.Configured{
			Memory: func(namespace, name string) map[string]string { return annotations(w.seenConfigured, namespace, name) },
			Live: func(_ context.Context, namespace, name string) (map[string]string, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.configMaps++
				if w.configuredDown != nil {
					return nil, w.configuredDown
				}
				return annotations(w.configured, namespace, name), nil
			},
		}
	}
	if !w.noPodIdentity {
		c.Associations = w.listAndFind(t, m)
	}
	return webhook.New(c), registry
}

const plainPod = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "app-"},
	"spec": {"serviceAccountName": "reader", "containers": [{"name": "app", "image": "app"}]}}`

// createReview is what an API server sends when a pod is created.
func createReview(pod string) string {
	return `{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "r-1", "namespace": "web", "operation": "CREATE",
		"kind": {"group": "", "version": "v1", "kind": "Pod"}, "resource": {"group": "", "version": "v1", "resource": "pods"},
		"dryRun": false, "object": ` + pod + `}}`
}

func send(t testing.TB, h http.Handler, body string) *admissionv1.AdmissionReview {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, webhook.Path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("answered %d: %s", w.Code, w.Body)
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &review); err != nil {
		t.Fatal(err)
	}
	if review.Kind != "AdmissionReview" || review.Request != nil || review.Response == nil || review.Response.UID != "r-1" {
		t.Fatalf("answered %s", w.Body)
	}
	return &review
}

// given applies the answer's patch, and tells which variables each container has, and which volumes the pod.
func given(t testing.TB, pod string, response *admissionv1.AdmissionResponse) (names []string) {
	t.Helper()
	if !response.Allowed {
		t.Fatalf("the pod is refused: %+v", response.Result)
	}
	patched := []byte(pod)
	if response.Patch != nil {
		if response.PatchType == nil || *response.PatchType != admissionv1.PatchTypeJSONPatch {
			t.Errorf("the patch's type is %v", response.PatchType)
		}
		patch, err := jsonpatch.DecodePatch(response.Patch)
		if err != nil {
			t.Fatal(err)
		}
		if patched, err = patch.Apply(patched); err != nil {
			t.Fatal(err)
		}
	}
	var p corev1.Pod
	if err := json.Unmarshal(patched, &p); err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Spec.Containers {
		for _, v := range c.Env {
			names = append(names, c.Name+" "+v.Name)
		}
	}
	for _, c := range p.Spec.EphemeralContainers {
		for _, v := range c.Env {
			names = append(names, c.Name+" "+v.Name)
		}
	}
	for _, v := range p.Spec.Volumes {
		names = append(names, v.Name)
	}
	return names
}

func irsa() []string {
	return []string{"app AWS_ROLE_ARN", "app AWS_WEB_IDENTITY_TOKEN_FILE", "aws-iam-token"}
}

func podIdentity() []string {
	return []string{"app AWS_CONTAINER_CREDENTIALS_FULL_URI", "app AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "eks-pod-identity-token"}
}

func TestPodsAreGivenWhatTheirServiceAccountHas(t *testing.T) {
	t.Parallel()
	annotated, plain := only(account("eks.amazonaws.com/role-arn", role)), only(account())
	invalid := only(account("eks.amazonaws.com/role-arn", "arn:aws:iam::1:role/r"))
	reader := []subject.Subject{{Namespace: "web", ServiceAccount: "reader"}}
	down := errors.New("it is down")
	for _, c := range []struct {
		name              string
		world             world
		want              []string
		warning           string // part of it
		accounts, finds   int    // lookups
		outcome           string
		wantEvent, denied bool
	}{
		{name: "a role that memory has, and an association that is looked for", world: world{accounts: annotated, seenAccounts: annotated},
			want: irsa(), finds: 1, outcome: "mutated"},
		{name: "a role, without Pod Identity: no lookup", world: world{accounts: annotated, seenAccounts: annotated, noPodIdentity: true},
			want: irsa(), outcome: "mutated"},
		{name: "a role that memory has not seen", world: world{accounts: annotated, noPodIdentity: true}, want: irsa(), accounts: 1, outcome: "mutated"},
		{name: "an annotation that memory has not seen", world: world{accounts: annotated, seenAccounts: plain, noPodIdentity: true},
			want: irsa(), accounts: 1, outcome: "mutated"},
		{name: "an association that memory has: no lookup", world: world{accounts: plain, seenAccounts: plain, seenAssociations: reader},
			want: podIdentity(), outcome: "mutated"},
		{name: "an association that memory has not seen", world: world{accounts: plain, seenAccounts: plain, associations: reader},
			want: podIdentity(), accounts: 1, finds: 1, outcome: "mutated"},
		{name: "neither has been seen", world: world{accounts: plain, associations: reader}, want: podIdentity(), accounts: 1, finds: 1, outcome: "mutated"},
		{name: "an association goes before a role", world: world{accounts: annotated, seenAccounts: annotated, seenAssociations: reader},
			want: podIdentity(), outcome: "mutated"},
		{name: "also one that memory has not seen", world: world{accounts: annotated, seenAccounts: annotated, associations: reader},
			want: podIdentity(), finds: 1, outcome: "mutated"},
		{name: "an association goes before an invalid role", world: world{accounts: invalid, seenAccounts: invalid, seenAssociations: reader},
			want: podIdentity(), outcome: "mutated"},
		{name: "an association by a pattern", world: world{accounts: plain, seenAccounts: plain, seenAssociations: []subject.Subject{{Namespace: "w*", ServiceAccount: "*"}}},
			want: podIdentity(), outcome: "mutated"},
		{name: "nothing", world: world{accounts: plain, seenAccounts: plain}, accounts: 1, finds: 1, outcome: "none"},
		{name: "others' associations", world: world{accounts: plain, seenAccounts: plain,
			associations:     []subject.Subject{{Namespace: "web", ServiceAccount: "writer"}, {Namespace: "reader", ServiceAccount: "web"}},
			seenAssociations: []subject.Subject{{Namespace: "web", ServiceAccount: "writer"}, {Namespace: "x*", ServiceAccount: "*"}}},
			accounts: 1, finds: 1, outcome: "none"},
		{name: "a service account that is not there", world: world{}, accounts: 1, finds: 1, outcome: "none"},
		{name: "an invalid role: the pod stays as it is, and somebody is told", world: world{accounts: invalid, seenAccounts: invalid},
			finds: 1, outcome: "invalid", warning: `lanyard: service account web/reader: annotation eks.amazonaws.com/role-arn is no role's ARN: "arn:aws:iam::1:role/r"; the pod runs without AWS credentials`, wantEvent: true},
		{name: "an invalid role is no reason to refuse", world: world{accounts: invalid, seenAccounts: invalid, failClosed: true},
			finds: 1, outcome: "invalid", warning: "is no role's ARN", wantEvent: true},
		{name: "the control plane is down: a role is enough", world: world{accounts: annotated, seenAccounts: annotated, associationsDown: down},
			want: irsa(), finds: 1, outcome: "mutated"},
		{name: "the control plane is down: the pod is admitted with a warning", world: world{accounts: plain, seenAccounts: plain, associationsDown: down},
			accounts: 1, finds: 1, outcome: "unconfirmed", warning: "it cannot be told whether it has a role: its associations could not be looked up; the pod runs without AWS credentials"},
		{name: "the control plane is down: the pod is refused where that is asked for",
			world: world{accounts: plain, seenAccounts: plain, associationsDown: down, failClosed: true}, accounts: 1, finds: 1, outcome: "unconfirmed", denied: true},
		{name: "the control plane is down: what memory has is enough",
			world: world{accounts: plain, seenAccounts: plain, seenAssociations: reader, associationsDown: down, failClosed: true}, want: podIdentity(), outcome: "mutated"},
		{name: "the API server's lookups fail: admitted with a warning", world: world{accountsDown: down, noPodIdentity: true},
			accounts: 1, outcome: "unconfirmed", warning: "its annotations could not be looked up"},
		{name: "the API server's lookups fail: refused where that is asked for", world: world{accountsDown: down, noPodIdentity: true, failClosed: true},
			accounts: 1, outcome: "unconfirmed", denied: true},
		{name: "the API server's lookups fail: an association is enough", world: world{accountsDown: down, seenAssociations: reader},
			want: podIdentity(), accounts: 1, outcome: "mutated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := &c.world
			h, registry := w.handler(t)
			response := send(t, h, createReview(plainPod)).Response
			if c.denied {
				if response.Allowed || response.Patch != nil || response.Result.Code != 503 || !strings.Contains(response.Result.Message, "web/reader") {
					t.Errorf("it is not refused: %+v", response)
				}
			} else if diff := cmp.Diff(c.want, given(t, plainPod, response)); diff != "" {
				t.Errorf("what the pod gets (-want +got):\n%s", diff)
			}
			if got := strings.Join(response.Warnings, "\n"); (got == "") != (c.warning == "") || !strings.Contains(got, c.warning) {
				t.Errorf("got warnings %q, want %q", got, c.warning)
			}
			if w.liveAccounts != c.accounts || w.finds != c.finds {
				t.Errorf("it looked up %d service accounts and %d associations, want %d and %d", w.liveAccounts, w.finds, c.accounts, c.finds)
			}
			if (len(w.events) > 0) != c.wantEvent {
				t.Errorf("got events %q", w.events)
			}
			if got := counted(t, registry, "lanyard_webhook_pods_total"); got != c.outcome {
				t.Errorf("got outcome %q, want %q", got, c.outcome)
			}
		})
	}
}

func TestRolesOfTheConfigMap(t *testing.T) {
	t.Parallel()
	const other = "arn:aws:iam::111122223333:role/other"
	annotated := only(account("eks.amazonaws.com/role-arn", role, "eks.amazonaws.com/token-expiration", "3600"))
	plain := only(account("eks.amazonaws.com/token-expiration", "3600"))
	invalid := podspec.ConfiguredAccounts{"web/reader": {RoleARN: "reader"}}
	configured := podspec.ConfiguredAccounts{"web/reader": {RoleARN: other}, "*/reader": {RoleARN: role}}
	everywhere := podspec.ConfiguredAccounts{"*/reader": {RoleARN: other}}
	others := podspec.ConfiguredAccounts{"web/writer": {RoleARN: other}}
	reader := []subject.Subject{{Namespace: "web", ServiceAccount: "reader"}}
	down := errors.New("it is down")
	for _, c := range []struct {
		name       string
		world      world
		want       string // the role, or the agent's URL
		warning    string
		configMaps int // lookups
	}{
		{"one that memory has", world{accounts: plain, configured: configured, seenConfigured: configured}, other, "", 0},
		{"one that memory has not seen", world{accounts: plain, configured: configured}, other, "", 1},
		{"one of all namespaces", world{accounts: plain, configured: everywhere}, other, "", 1},
		{"an annotation goes before it", world{accounts: annotated, seenAccounts: annotated, configured: configured, seenConfigured: configured}, role, "", 0},
		{"also one that memory has not seen", world{accounts: annotated, seenAccounts: plain, configured: configured, seenConfigured: configured}, role, "", 0},
		{"an association goes before it", world{accounts: plain, associations: reader, configured: configured, seenConfigured: configured}, podspec.AgentURI, "", 0},
		{"a service account that memory has not, and an association that it has", world{accounts: plain, seenAssociations: reader, configured: configured},
			podspec.AgentURI, "", 0},
		{"nothing of this one", world{accounts: plain, configured: others, seenConfigured: others}, "", "", 1},
		{"no role that is one", world{accounts: plain, configured: invalid}, "",
			`as the ConfigMap pod-identity-webhook says it, annotation eks.amazonaws.com/role-arn is no role's ARN: "reader"`, 1},
		{"it cannot be looked up", world{accounts: plain, configured: others, configuredDown: down}, "", "what the ConfigMap pod-identity-webhook says of it could not be looked up", 1},
		{"it cannot be looked up, and there is an association", world{accounts: plain, associations: reader, configured: others, configuredDown: down}, podspec.AgentURI, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := &c.world
			h, _ := w.handler(t)
			response := send(t, h, createReview(plainPod)).Response
			got := ""
			if names := given(t, plainPod, response); len(names) > 0 {
				for _, value := range []string{role, other, podspec.AgentURI} {
					if strings.Contains(string(response.Patch), `"`+value+`"`) {
						got += value
					}
				}
			}
			if got != c.want {
				t.Errorf("the pod gets %q, want %q: %s", got, c.want, response.Patch)
			}
			if c.want == podspec.AgentURI && !strings.Contains(string(response.Patch), `"expirationSeconds":3600`) {
				t.Errorf("the service account's own annotations do not count: %s", response.Patch)
			}
			if text := strings.Join(response.Warnings, "\n"); (text == "") != (c.warning == "") || !strings.Contains(text, c.warning) {
				t.Errorf("got warnings %q, want %q", text, c.warning)
			}
			if w.configMaps != c.configMaps {
				t.Errorf("it looked the ConfigMap up %d times, want %d", w.configMaps, c.configMaps)
			}
		})
	}
}

// counted returns the label of the only counter of a name that has counted 1.
func counted(t *testing.T, registry *prometheus.Registry, name string) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		if m := f.GetMetric(); len(m) != 1 || m[0].GetCounter().GetValue() != 1 {
			t.Fatalf("%s: %v", name, m)
		}
		return f.GetMetric()[0].GetLabel()[0].GetValue()
	}
	return ""
}

func TestDryRunsHaveNoEvent(t *testing.T) {
	t.Parallel()
	invalid := only(account("eks.amazonaws.com/role-arn", "none"))
	w := &world{accounts: invalid, seenAccounts: invalid}
	h, _ := w.handler(t)
	response := send(t, h, strings.Replace(createReview(plainPod), `"dryRun": false`, `"dryRun": true`, 1)).Response
	if len(response.Warnings) != 1 || len(w.events) != 0 {
		t.Errorf("got warnings %q and events %q", response.Warnings, w.events)
	}
	send(t, h, createReview(plainPod))
	want := []string{`web/reader PodWithoutCredentials: annotation eks.amazonaws.com/role-arn is no role's ARN: "none"`}
	if diff := cmp.Diff(want, w.events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestNamespacesOfPodsThatAreGivenSomethingAreTold(t *testing.T) {
	t.Parallel()
	annotated := only(account("eks.amazonaws.com/role-arn", role))
	w := &world{accounts: annotated, seenAccounts: annotated}
	h, _ := w.handler(t)
	for _, body := range []string{
		strings.Replace(createReview(plainPod), `"dryRun": false`, `"dryRun": true`, 1),
		createReview(strings.Replace(plainPod, "reader", "other", 1)),
	} {
		if send(t, h, body); w.given != nil {
			t.Errorf("told %q", w.given)
		}
	}
	send(t, h, createReview(plainPod))
	if diff := cmp.Diff([]string{"web"}, w.given); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestWhatDoesNotConcernTheWebhookIsAllowed(t *testing.T) {
	t.Parallel()
	annotated := only(account("eks.amazonaws.com/role-arn", role))
	w := &world{accounts: annotated, seenAccounts: annotated}
	h, _ := w.handler(t)
	review := createReview(plainPod)
	for name, body := range map[string]string{
		"another resource": strings.Replace(review, `"resource": "pods"`, `"resource": "secrets"`, 1),
		"another group":    strings.Replace(review, `"resource": {"group": ""`, `"resource": {"group": "x"`, 1),
		"an update":        strings.Replace(review, "CREATE", "UPDATE", 1),
		"a deletion":       strings.Replace(review, "CREATE", "DELETE", 1),
		"a subresource":    strings.Replace(review, `"operation"`, `"subResource": "binding", "operation"`, 1),
		"the mirror of a static pod, by whatever account": createReview(strings.Replace(plainPod, `"generateName"`,
			`"annotations": {"kubernetes.io/config.mirror": "hash"}, "generateName"`, 1)),
		"a pod with the label": createReview(strings.Replace(plainPod, `"generateName"`, `"labels": {"eks.amazonaws.com/skip-pod-identity-webhook": ""}, "generateName"`, 1)),
	} {
		response := send(t, h, body).Response
		if !response.Allowed || response.Patch != nil || len(response.Warnings) > 0 {
			t.Errorf("%s: %+v", name, response)
		}
	}
	if w.finds+w.liveAccounts > 0 {
		t.Errorf("there were lookups")
	}
	if response := send(t, h, review).Response; response.Patch == nil {
		t.Errorf("the review itself is not about the webhook")
	}
}

func TestPodsWithoutAServiceAccountHaveTheDefaultOne(t *testing.T) {
	t.Parallel()
	a := account("eks.amazonaws.com/role-arn", role)
	a.Name = "default"
	h, _ := (&world{accounts: only(a)}).handler(t)
	pod := strings.Replace(plainPod, `"serviceAccountName": "reader", `, "", 1)
	if diff := cmp.Diff(irsa(), given(t, pod, send(t, h, createReview(pod)).Response)); diff != "" {
		t.Errorf("what the pod gets (-want +got):\n%s", diff)
	}
}

// patchedPod is a pod as the API server has it after a review.
func patchedPod(t *testing.T, h http.Handler, pod string) string {
	t.Helper()
	patch, err := jsonpatch.DecodePatch(send(t, h, createReview(pod)).Response.Patch)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := patch.Apply([]byte(pod))
	if err != nil {
		t.Fatal(err)
	}
	return string(patched)
}

func TestReinvocation(t *testing.T) {
	t.Parallel()
	annotated := only(account("eks.amazonaws.com/role-arn", role))
	reader := []subject.Subject{{Namespace: "web", ServiceAccount: "reader"}}
	before, _ := (&world{accounts: annotated}).handler(t)
	after, _ := (&world{accounts: annotated, associations: reader}).handler(t)
	for _, c := range []struct {
		name          string
		first, second http.Handler
		want          []string
	}{
		{"a pod that has a role gets nothing more", before, before, irsa()},
		{"a pod that has an association gets nothing more", after, after, podIdentity()},
		{"a pod keeps its role when an association comes between", before, after, irsa()},
		{"a pod keeps Pod Identity when the association goes between", after, before, podIdentity()},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := patchedPod(t, c.first, plainPod)
			response := send(t, c.second, createReview(pod)).Response
			if response.Patch != nil {
				t.Errorf("it adds %s", response.Patch)
			}
			if diff := cmp.Diff(c.want, given(t, pod, response)); diff != "" {
				t.Errorf("what the pod has (-want +got):\n%s", diff)
			}
		})
	}
}

// A volume of IRSA's name does not make a pod IRSA's when its service account has no role.
func TestVolumesAloneAreNoWay(t *testing.T) {
	t.Parallel()
	plain := only(account())
	h, _ := (&world{accounts: plain, seenAccounts: plain, associations: []subject.Subject{{Namespace: "web", ServiceAccount: "reader"}}}).handler(t)
	pod := strings.Replace(plainPod, `"containers"`, `"volumes": [{"name": "aws-iam-token", "emptyDir": {}}], "containers"`, 1)
	if diff := cmp.Diff(append(podIdentity(), "aws-iam-token"), given(t, pod, send(t, h, createReview(pod)).Response)); diff != "" {
		t.Errorf("what the pod gets (-want +got):\n%s", diff)
	}
}

func TestEphemeralContainers(t *testing.T) {
	t.Parallel()
	annotated := only(account("eks.amazonaws.com/role-arn", role))
	w := &world{accounts: annotated, seenAccounts: annotated, noPodIdentity: true}
	h, _ := w.handler(t)
	with := func(pod, name string) string {
		return strings.Replace(pod, `"containers":`, `"ephemeralContainers": [{"name": "`+name+`", "image": "i"}], "containers":`, 1)
	}
	review := func(pod, old string) string {
		return strings.NewReplacer(`"operation": "CREATE"`, `"operation": "UPDATE", "subResource": "ephemeralcontainers"`,
			`"dryRun": false`, `"oldObject": `+old).Replace(createReview(pod))
	}
	had := patchedPod(t, h, plainPod)
	for _, c := range []struct {
		name, pod, old string
		want           []string
	}{
		{"one that is added gets what the pod has", with(had, "debug"), had,
			[]string{"app AWS_ROLE_ARN", "app AWS_WEB_IDENTITY_TOKEN_FILE", "debug AWS_ROLE_ARN", "debug AWS_WEB_IDENTITY_TOKEN_FILE", "aws-iam-token"}},
		{"one that is there stays as it is", with(had, "debug"), with(had, "debug"), irsa()},
		{"one of a pod that has nothing gets nothing", with(plainPod, "debug"), plainPod, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, given(t, c.pod, send(t, h, review(c.pod, c.old)).Response)); diff != "" {
				t.Errorf("what the pod has (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPodsThatCannotBeReadAreRefused(t *testing.T) {
	t.Parallel()
	h, _ := (&world{}).handler(t)
	for name, body := range map[string]string{
		"no object":            createReview("null"),
		"a list":               createReview("[]"),
		"members' types":       createReview(`{"spec": {"containers": 1}}`),
		"an update of nothing": strings.Replace(createReview(plainPod), `"operation": "CREATE"`, `"operation": "UPDATE", "subResource": "ephemeralcontainers"`, 1),
	} {
		response := send(t, h, body).Response
		if response.Allowed || response.Result.Code != 400 {
			t.Errorf("%s: %+v", name, response)
		}
	}
}

func TestBothVersionsOfReviewsAreAnsweredInKind(t *testing.T) {
	t.Parallel()
	h, _ := (&world{}).handler(t)
	for _, version := range []string{"admission.k8s.io/v1", "admission.k8s.io/v1beta1"} {
		body := strings.Replace(createReview(plainPod), "admission.k8s.io/v1", version, 1)
		if got := send(t, h, body).APIVersion; got != version {
			t.Errorf("%s is answered as %s", version, got)
		}
	}
}

// A lookup that takes longer than the API server waits is not waited for: the pod gets its warning, or its refusal.
func TestAnswersComeBeforeTheAPIServerGivesUp(t *testing.T) {
	for _, c := range []struct {
		query      string
		failClosed bool
		want       time.Duration
	}{
		{"?timeout=10s", false, 9500 * time.Millisecond},
		{"?timeout=1s", true, 900 * time.Millisecond},
		{"?timeout=1h", false, time.Minute}, // that of the lookup
		{"?timeout=-1s", false, time.Minute},
		{"?timeout=soon", false, time.Minute},
		{"", false, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			m, _ := metrics(t)
			h := webhook.New(webhook.Config{
				Accounts: webhook.Accounts{
					Memory: func(string, string) *corev1.ServiceAccount { return nil },
					Live: func(ctx context.Context, _, _ string) (*corev1.ServiceAccount, error) {
						select {
						case <-ctx.Done():
							return nil, ctx.Err()
						case <-time.After(time.Minute):
							return nil, errors.New("no answer")
						}
					},
				},
				FailClosed: c.failClosed, Metrics: m, Log: slog.New(slog.DiscardHandler),
			})
			r := httptest.NewRequest(http.MethodPost, webhook.Path+c.query, strings.NewReader(createReview(plainPod)))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			start := time.Now()
			h.ServeHTTP(w, r)
			if took := time.Since(start); took != c.want {
				t.Errorf("%q: answered after %s, want %s", c.query, took, c.want)
			}
			var review admissionv1.AdmissionReview
			if err := json.Unmarshal(w.Body.Bytes(), &review); err != nil {
				t.Fatal(err)
			}
			if got := review.Response; got.Allowed == c.failClosed || (len(got.Warnings) > 0) == c.failClosed {
				t.Errorf("%q: got %+v", c.query, got)
			}
		})
	}
}

func TestRequestsThatAreNoReviews(t *testing.T) {
	t.Parallel()
	h, _ := (&world{}).handler(t)
	server := httptest.NewServer(h)
	defer server.Close()
	review := createReview(plainPod)
	for _, c := range []struct {
		name, method, media, body string
		status                    int
		text                      string
	}{
		{"another method", http.MethodPut, "application/json", review, 405, "POST"},
		{"no media type", http.MethodPost, "", review, 415, "Invalid Content-Type, expected `application/json`"},
		{"another media type", http.MethodPost, "application/yaml", review, 415, "Invalid Content-Type, expected `application/json`"},
		{"a media type with a parameter", http.MethodPost, "application/json; charset=utf-8", review, 200, "r-1"},
		{"nothing", http.MethodPost, "application/json", "", 400, "cannot be read"},
		{"no JSON", http.MethodPost, "application/json", "{", 400, "cannot be read"},
		{"more than one", http.MethodPost, "application/json", review + review, 400, "cannot be read"},
		{"too much", http.MethodPost, "application/json", review + strings.Repeat(" ", 8<<20), 413, "too large"},
		{"another kind", http.MethodPost, "application/json", strings.Replace(review, "AdmissionReview", "TokenReview", 1), 400, "TokenReview"},
		{"another version", http.MethodPost, "application/json", strings.Replace(review, "admission.k8s.io/v1", "admission.k8s.io/v2", 1), 400, "v2"},
		{"no kind", http.MethodPost, "application/json", `{"request": {"uid": "r-1"}}`, 400, "no AdmissionReview"},
		{"members in another case", http.MethodPost, "application/json", strings.Replace(review, `"request"`, `"Request"`, 1), 400, "no request"},
		{"no request", http.MethodPost, "application/json", `{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}`, 400, "no request"},
		{"no UID", http.MethodPost, "application/json", strings.Replace(review, `"uid": "r-1", `, "", 1), 400, "no request"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+webhook.Path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", c.media)
		reply, err := server.Client().Do(r)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		text, err := io.ReadAll(reply.Body)
		reply.Body.Close()
		if err != nil || reply.StatusCode != c.status || !strings.Contains(string(text), c.text) {
			t.Errorf("%s: got %d %q, %v; want %d and %q", c.name, reply.StatusCode, text, err, c.status, c.text)
		}
	}
}

// Whatever arrives is answered: with a review that has the request's UID, or with a status that says what is wrong.
func FuzzReview(f *testing.F) {
	f.Add(createReview(plainPod))
	f.Add(strings.Replace(createReview(plainPod), "CREATE", "UPDATE", 1))
	f.Add(createReview(`{"spec": {"initContainers": [{"env": null}], "containers": [{"volumeMounts": []}], "volumes": []}, "metadata": {"labels": {}}}`))
	f.Add(`{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "r-1"}}`)
	a := account("eks.amazonaws.com/role-arn", role)
	h, _ := (&world{accounts: only(a), seenAccounts: only(a), noPodIdentity: true}).handler(f)
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest(http.MethodPost, webhook.Path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			if w.Code/100 != 4 {
				t.Errorf("answered %d", w.Code)
			}
			return
		}
		var sent, got admissionv1.AdmissionReview
		if err := json.Unmarshal([]byte(body), &sent); err != nil {
			t.Fatalf("took what is no JSON: %v", err)
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.TypeMeta != sent.TypeMeta || got.Response == nil || got.Response.UID == "" {
			t.Fatalf("answered %s", w.Body)
		}
		if got.Response.Patch == nil {
			return
		}
		patch, err := jsonpatch.DecodePatch(got.Response.Patch)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := patch.Apply(sent.Request.Object.Raw); err != nil {
			t.Errorf("the patch cannot be applied: %v", err)
		}
	})
}
