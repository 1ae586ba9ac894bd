package doctor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/podspec"
)

// Config is what a Doctor needs.
type Config struct {
	// Address is the Kubernetes API server's URL, without a slash at its end, and Client reaches it with the caller's credentials.
	// Both are required.
	Address string
	Client  *http.Client

	AWS      aws.Config   // of the caller, for EKS, IAM and STS; required
	Endpoint string       // where STS is, to see whether it answers; required
	Plain    *http.Client // for requests to it without credentials; required
	Cluster  string       // its name; required
	Webhook  string       // name of the MutatingWebhookConfiguration; required

	Lanyard   bool          // Endpoint is Lanyard's
	PrivateCA bool          // the caller trusts certificates besides the system's
	Duration  time.Duration // of sessions by web identity; required
	NoCall    bool          // no credentials are asked for

	// PodIdentity trades a token at EKS Auth, with the caller's credentials, and returns when the credentials end; what it gets it
	// throws away. Errors that EKS Auth answered are *agent.APIError. Required.
	PodIdentity func(ctx context.Context, token string) (expires time.Time, err error)
	// Published looks at the documents and keys of an issuer as STS does that has to fetch them. Required.
	Published func(ctx context.Context, issuer string) Published
	// Exec reads a file in a container of a pod; nil leaves the pods alone.
	Exec func(ctx context.Context, namespace, pod, container, file string) ([]byte, error)
}

// Doctor gathers facts. It asks for what several pods have in common once, and is not safe for concurrent use.
type Doctor struct {
	c      Config
	asked  map[string]answer // of the API server, by path
	shared shared
}

// New returns a Doctor.
func New(c Config) *Doctor {
	return &Doctor{c: c, asked: map[string]answer{}, shared: newShared()}
}

const (
	maxAnswer = 32 << 20 // bytes of an API server's answer: lists of all pods of a large cluster come in pages
	pageSize  = 500
	tokenLife = 600 // seconds: the least that Kubernetes takes
)

// answer is what the API server answered.
type answer struct {
	status   int
	body     []byte
	warnings []string
	date     time.Time
	err      error // there was none
}

func (d *Doctor) do(ctx context.Context, method, path string, in any) answer {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return answer{err: fmt.Errorf("encode request: %w", err)}
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, d.c.Address+path, bytes.NewReader(body))
	if err != nil {
		return answer{err: fmt.Errorf("make request: %w", err)}
	}
	r.Header.Set("Accept", "application/json, application/jwk-set+json")
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	reply, err := d.c.Client.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer reply.Body.Close()
	a := answer{status: reply.StatusCode}
	for _, w := range reply.Header.Values("Warning") { // 299 - "text" (RFC 7234, section 5.5)
		if _, text, quoted := strings.Cut(w, `"`); quoted {
			a.warnings = append(a.warnings, strings.ReplaceAll(strings.TrimSuffix(text, `"`), `\"`, `"`))
		}
	}
	if date, err := http.ParseTime(reply.Header.Get("Date")); err == nil {
		a.date = date
	}
	if a.body, a.err = io.ReadAll(io.LimitReader(reply.Body, maxAnswer+1)); a.err == nil && len(a.body) > maxAnswer {
		a.err = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	return a
}

// get asks once.
func (d *Doctor) get(ctx context.Context, path string) answer {
	a, known := d.asked[path]
	if !known {
		a = d.do(ctx, http.MethodGet, path, nil)
		if ctx.Err() == nil {
			d.asked[path] = a
		}
	}
	return a
}

// message is what an API server says about a refusal.
func (a answer) message() string {
	var status metav1.Status
	if json.Unmarshal(a.body, &status) == nil && status.Message != "" {
		return strings.TrimSuffix(status.Message, ".")
	}
	return fmt.Sprintf("it answers %d %s", a.status, http.StatusText(a.status))
}

// right is a right at a Kubernetes API server.
type right struct{ verb, group, resource, namespace string }

// grant says what to do about a right that is missing.
func (r right) grant() string {
	where := "in all namespaces, by a ClusterRole"
	if r.namespace != "" {
		where = "in namespace " + r.namespace
	}
	return fmt.Sprintf("Have your user given the right to %s %s %s: `- {apiGroups: [%q], resources: [%s], verbs: [%s]}`; `lanyard doctor "+
		"--help` names all that are needed.",
		r.verb, r.resource, where, r.group, r.resource, r.verb)
}

// as turns an answer into a Read.
func as[T any](a answer, r right) Read[T] {
	switch {
	case a.err != nil:
		return Read[T]{Why: networkText(a.err)}
	case a.status == http.StatusForbidden:
		return Read[T]{Why: a.message(), Grant: r.grant()}
	case a.status == http.StatusNotFound:
		return Read[T]{Absent: true}
	case a.status >= 300:
		return Read[T]{Why: a.message()}
	}
	var v T
	if err := json.Unmarshal(a.body, &v); err != nil {
		return Read[T]{Why: "the API server's answer cannot be read: " + err.Error()}
	}
	return found(v)
}

// networkText is an error of a connection, without the request that it was for.
func networkText(err error) string {
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return err.Error()
}

func read[T any](ctx context.Context, d *Doctor, group, resource, namespace, path string) Read[T] {
	return as[T](d.get(ctx, path), right{"get", group, resource, namespace})
}

// Gather finds out about a pod, or about a service account when the pod's name is empty.
func (d *Doctor) Gather(ctx context.Context, namespace, pod, serviceAccount string) *Facts {
	f := &Facts{
		Now: time.Now(), Namespace: namespace, PodName: pod, ServiceAccount: serviceAccount, Cluster: d.c.Cluster, Webhook: d.c.Webhook,
		Lanyard: d.c.Lanyard, PrivateCA: d.c.PrivateCA, Duration: d.c.Duration, NoCall: d.c.NoCall, Sources: map[string]Read[[]string]{},
	}
	f.Server = d.server(ctx)
	d.control(ctx, f)
	if f.Server.Value == nil {
		return f
	}
	in := "/api/v1/namespaces/" + url.PathEscape(namespace)
	if pod != "" {
		a := d.do(ctx, http.MethodGet, in+"/pods/"+url.PathEscape(pod), nil) // nobody asks for it again
		f.Pod = as[corev1.Pod](a, right{"get", "", "pods", namespace})
	}
	if f.account() == "" {
		return f
	}
	f.Account = read[corev1.ServiceAccount](ctx, d, "", "serviceaccounts", namespace, in+"/serviceaccounts/"+url.PathEscape(f.account()))
	d.associations(ctx, f)
	d.webhook(ctx, f)
	d.sources(ctx, f)
	if f.way() == 0 {
		return f
	}
	token := d.token(ctx, f)
	d.role(ctx, f)
	d.call(ctx, f, token)
	if f.way() == podspec.PodIdentity {
		d.agents(ctx, f)
	}
	return f
}

// server asks the API server for its version, which everybody may.
func (d *Doctor) server(ctx context.Context) Read[Server] {
	a := d.get(ctx, "/version")
	switch {
	case a.err != nil:
		return Read[Server]{Why: networkText(a.err)}
	case a.status >= 300:
		return Read[Server]{Why: a.message()}
	}
	return found(Server{Address: d.c.Address, Date: a.date})
}

// webhook reads the registration and what the webhook is told, what its selectors need, and what becomes of a pod that is made today.
func (d *Doctor) webhook(ctx context.Context, f *Facts) {
	d.settings(ctx, f)
	namespace := read[corev1.Namespace](ctx, d, "", "namespaces", "", "/api/v1/namespaces/"+url.PathEscape(f.Namespace))
	f.NamespaceLabels = Read[map[string]string]{Absent: namespace.Absent, Why: namespace.Why, Grant: namespace.Grant}
	if namespace.Value != nil {
		f.NamespaceLabels = found(namespace.Value.Labels)
	}
	if f.Registration.Value != nil {
		asked, _, _ := chosen(f) //nolint:errcheck // the check says so
		for _, w := range asked {
			if s := w.ClientConfig.Service; s != nil {
				f.Endpoints = d.endpoints(ctx, s.Namespace, s.Name)
			} else if w.ClientConfig.URL != nil {
				f.Serving = d.serving(ctx, *w.ClientConfig.URL, w.ClientConfig.CABundle)
			}
		}
	}
	if f.due() != 0 {
		f.DryRun = d.dryRun(ctx, f)
	}
}

func (d *Doctor) endpoints(ctx context.Context, namespace, service string) Read[int] {
	in := "/namespaces/" + url.PathEscape(namespace)
	s := read[corev1.Service](ctx, d, "", "services", namespace, "/api/v1"+in+"/services/"+url.PathEscape(service))
	if s.Absent {
		return Read[int]{Absent: true}
	}
	const group = "discovery.k8s.io"
	a := d.get(ctx, "/apis/"+group+"/v1"+in+"/endpointslices?labelSelector="+url.QueryEscape(discoveryv1.LabelServiceName+"="+service))
	slices := as[discoveryv1.EndpointSliceList](a, right{"list", group, "endpointslices", namespace})
	if slices.Value == nil {
		return Read[int]{Why: cmp.Or(slices.Why, "there are no such objects"), Grant: slices.Grant}
	}
	n := 0
	for _, s := range slices.Value.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				n += len(e.Addresses)
			}
		}
	}
	return found(n)
}

// serving holds the certificate that a webhook serves against what is registered, if it can be reached from here.
func (d *Doctor) serving(ctx context.Context, address string, bundle []byte) Read[Serving] {
	u, err := url.Parse(address)
	if err != nil {
		return found(Serving{Fault: "its URL cannot be read: " + err.Error()})
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	config := &tls.Config{ServerName: u.Hostname()}
	if len(bundle) > 0 {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(bundle)
	}
	connection, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")))
	if err == nil {
		connection.Close() //nolint:errcheck // nothing was sent
		return found(Serving{})
	}
	if bad := (*tls.CertificateVerificationError)(nil); errors.As(err, &bad) {
		return found(Serving{Fault: bad.Err.Error()})
	}
	return Read[Serving]{Why: err.Error()}
}

// dryRun has the API server make a pod like this one without keeping it: the same labels, annotations and containers, but nothing
// that the webhook may have given to it, and nothing of its volumes and variables.
func (d *Doctor) dryRun(ctx context.Context, f *Facts) Read[DryRun] {
	pod := bare(f)
	path := "/api/v1/namespaces/" + url.PathEscape(f.Namespace) + "/pods?dryRun=All"
	a := d.do(ctx, http.MethodPost, path, pod)
	if a.err != nil {
		return Read[DryRun]{Why: networkText(a.err)}
	}
	if a.status >= 300 {
		if text := a.message(); a.status == http.StatusForbidden && strings.Contains(text, "cannot create resource") {
			r := right{"create", "", "pods", f.Namespace}
			return Read[DryRun]{Why: "no dry run can be made: " + text,
				Grant: r.grant() + " It is used with dryRun=All alone, and leaves nothing behind."}
		}
		return found(DryRun{Refusal: a.message(), Warnings: a.warnings})
	}
	var made corev1.Pod
	if err := json.Unmarshal(a.body, &made); err != nil {
		return Read[DryRun]{Why: "the API server's answer cannot be read: " + err.Error()}
	}
	return found(DryRun{Pod: &made, Warnings: a.warnings})
}

func bare(f *Facts) *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{GenerateName: "lanyard-doctor-", Namespace: f.Namespace},
		Spec: corev1.PodSpec{
			ServiceAccountName: f.account(),
			Containers:         []corev1.Container{{Name: "app", Image: "app"}},
		},
	}
	have := f.Pod.Value
	if have == nil {
		return pod
	}
	pod.Annotations = have.Annotations
	pod.Labels = map[string]string{}
	for k, v := range have.Labels {
		if k != podspec.PodIdentityLabel {
			pod.Labels[k] = v
		}
	}
	pod.Spec.NodeSelector, pod.Spec.OS, pod.Spec.SecurityContext = have.Spec.NodeSelector, have.Spec.OS, have.Spec.SecurityContext
	pod.Spec.HostNetwork = have.Spec.HostNetwork
	strip := func(list []corev1.Container) (all []corev1.Container) {
		for _, c := range list {
			c.Resources.Claims = nil
			all = append(all, corev1.Container{
				Name: c.Name, Image: c.Image, Resources: c.Resources, SecurityContext: c.SecurityContext, RestartPolicy: c.RestartPolicy,
			})
		}
		return all
	}
	pod.Spec.InitContainers, pod.Spec.Containers = strip(have.Spec.InitContainers), strip(have.Spec.Containers)
	return pod
}

// keysOnly is a secret or a config map of which nothing but the keys is read: the values are passed over.
type keysOnly struct {
	Data       map[string]passedOver `json:"data"`
	BinaryData map[string]passedOver `json:"binaryData"`
}

type passedOver struct{}

// UnmarshalJSON implements json.Unmarshaler.
func (passedOver) UnmarshalJSON([]byte) error { return nil }

// sources reads which variables the containers get from secrets and config maps.
func (d *Doctor) sources(ctx context.Context, f *Facts) {
	in := "/api/v1/namespaces/" + url.PathEscape(f.Namespace)
	one := func(kind, resource, name string) {
		if _, known := f.Sources[kind+"/"+name]; known {
			return
		}
		// It is not kept: a secret's value is nothing to have at hand.
		a := d.do(ctx, http.MethodGet, in+"/"+resource+"/"+url.PathEscape(name), nil)
		object := as[keysOnly](a, right{"get", "", resource, f.Namespace})
		r := Read[[]string]{Absent: object.Absent, Why: object.Why, Grant: object.Grant}
		if o := object.Value; o != nil {
			keys := []string{}
			for key := range o.Data {
				keys = append(keys, key)
			}
			for key := range o.BinaryData {
				keys = append(keys, key)
			}
			r = found(keys)
		}
		f.Sources[kind+"/"+name] = r
	}
	for _, c := range f.containers() {
		for _, e := range c.EnvFrom {
			switch {
			case e.SecretRef != nil:
				one("secret", "secrets", e.SecretRef.Name)
			case e.ConfigMapRef != nil:
				one("configmap", "configmaps", e.ConfigMapRef.Name)
			}
		}
	}
}

// token gets a token as the pod has it, and what it says. The token itself is for the call alone.
func (d *Doctor) token(ctx context.Context, f *Facts) (secret string) {
	d.issuer(ctx, f)
	if d.c.Exec != nil && f.Pod.Value != nil && f.given() == f.way() {
		text, err := d.inside(ctx, f)
		if err == nil {
			f.Token, secret = claims(text, true)
			return secret
		}
		f.Token = Read[Token]{Why: "the token in the pod could not be read: " + err.Error()}
		return ""
	}
	life := int64(tokenLife)
	request := authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{f.audience()}, ExpirationSeconds: &life,
	}}
	if p := f.Pod.Value; p != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}
	}
	path := "/api/v1/namespaces/" + url.PathEscape(f.Namespace) + "/serviceaccounts/" + url.PathEscape(f.account()) + "/token"
	reply := as[authenticationv1.TokenRequest](d.do(ctx, http.MethodPost, path, request),
		right{"create", "", "serviceaccounts/token", f.Namespace})
	if reply.Value == nil {
		f.Token = Read[Token]{Why: cmp.Or(reply.Why, "there is no such service account"), Grant: reply.Grant}
		return ""
	}
	f.Token, secret = claims(reply.Value.Status.Token, false)
	return secret
}

func claims(token string, exec bool) (Read[Token], string) {
	c, err := idtoken.ParseInsecure(token)
	if err != nil {
		return Read[Token]{Why: "the token cannot be read: " + err.Error()}, ""
	}
	return found(Token{Claims: *c, Exec: exec}), token
}

// inside reads the token in the pod.
func (d *Doctor) inside(ctx context.Context, f *Facts) (string, error) {
	names := map[podspec.Way]string{podspec.WebIdentity: "AWS_WEB_IDENTITY_TOKEN_FILE",
		podspec.PodIdentity: "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"}
	for _, c := range f.Pod.Value.Spec.Containers {
		v, set := variable(c, names[f.way()])
		if !set || v.Value == "" {
			continue
		}
		text, err := d.c.Exec(ctx, f.Namespace, f.PodName, c.Name, v.Value)
		return strings.TrimSpace(string(text)), err
	}
	return "", errors.New("no container names its file")
}

// issuer reads the API server's issuer and the IDs of its keys.
func (d *Doctor) issuer(ctx context.Context, f *Facts) {
	discovery := as[struct {
		Issuer string `json:"issuer"`
	}](d.get(ctx, "/.well-known/openid-configuration"), right{"get", "", "/.well-known/openid-configuration", ""})
	if discovery.Value == nil {
		f.Issuer = Read[Issuer]{Why: cmp.Or(discovery.Why, "the API server publishes no issuer"), Grant: discovery.Grant}
		if discovery.Grant != "" {
			f.Issuer.Grant = "Have your user given the ClusterRole system:service-account-issuer-discovery."
		}
		return
	}
	i := Issuer{URL: discovery.Value.Issuer}
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	if a := d.get(ctx, "/openid/v1/jwks"); a.err == nil && a.status == http.StatusOK && jsonv2.Unmarshal(a.body, &set) == nil {
		for _, k := range set.Keys {
			i.KeyIDs = append(i.KeyIDs, k.ID)
		}
	}
	f.Issuer = found(i)
}

// agentLabels are those of Lanyard's agent and of AWS's.
const agentLabels = "app.kubernetes.io/name in (lanyard-agent, eks-pod-identity-agent)"

// agentAdminPort is where both agents answer probes from outside their pod (beside the probe port, which is the node's own).
const agentAdminPort = "2705"

// agents reads what is between the pod and EKS Auth.
func (d *Doctor) agents(ctx context.Context, f *Facts) {
	if f.Pod.Value == nil {
		return
	}
	group := "networking.k8s.io"
	a := d.get(ctx, "/apis/"+group+"/v1/namespaces/"+url.PathEscape(f.Namespace)+"/networkpolicies")
	policies := as[networkingv1.NetworkPolicyList](a, right{"list", group, "networkpolicies", f.Namespace})
	f.Policies = Read[[]networkingv1.NetworkPolicy]{Why: policies.Why, Grant: policies.Grant}
	if policies.Value != nil {
		f.Policies = found(policies.Value.Items)
	}
	a = d.get(ctx, "/api/v1/pods?labelSelector="+url.QueryEscape(agentLabels))
	agents := as[corev1.PodList](a, right{"list", "", "pods", ""})
	f.Agents = Read[[]corev1.Pod]{Why: agents.Why, Grant: agents.Grant}
	if agents.Value != nil {
		f.Agents = found(agents.Value.Items)
	}
	here := f.agent()
	if node := f.Pod.Value.Spec.NodeName; here == nil && node != "" {
		f.Node = read[corev1.Node](ctx, d, "", "nodes", "", "/api/v1/nodes/"+url.PathEscape(node))
	}
	if here == nil {
		return
	}
	a = d.get(ctx, "/api/v1/namespaces/"+url.PathEscape(here.Namespace)+"/pods/"+url.PathEscape(here.Name)+":"+agentAdminPort+"/proxy/readyz")
	switch {
	case a.err != nil:
		f.Probe = Read[Probe]{Why: networkText(a.err)}
	case a.status == http.StatusForbidden, a.status == http.StatusBadGateway, a.status == http.StatusServiceUnavailable, isStatus(a.body):
		f.Probe = Read[Probe]{Why: a.message()} // of the API server, and not of the agent
	default:
		text := a.body
		if len(text) > 200 {
			text = text[:200]
		}
		f.Probe = found(Probe{Status: a.status, Text: string(text)})
	}
}

// isStatus reports whether an answer is an API server's own.
func isStatus(body []byte) bool {
	var s metav1.TypeMeta
	return json.Unmarshal(body, &s) == nil && s.Kind == "Status"
}

// PodsWithIdentity returns the names of the pods, by namespace and name, that should have an identity or have one: of one namespace, or
// of all if it is empty.
func (d *Doctor) PodsWithIdentity(ctx context.Context, namespace string) ([][2]string, error) {
	in := "/api/v1"
	if namespace != "" {
		in += "/namespaces/" + url.PathEscape(namespace)
	}
	accounts := map[[2]string]corev1.ServiceAccount{}
	if err := list(ctx, d, in, "serviceaccounts", namespace, func(page *corev1.ServiceAccountList) string {
		for _, a := range page.Items {
			accounts[[2]string{a.Namespace, a.Name}] = a
		}
		return page.Continue
	}); err != nil {
		return nil, err
	}
	common := &Facts{Webhook: d.c.Webhook}
	d.settings(ctx, common)
	var found [][2]string
	err := list(ctx, d, in, "pods", namespace, func(page *corev1.PodList) string {
		for _, p := range page.Items {
			if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || mirror(&p) {
				continue
			}
			f := &Facts{
				Namespace: p.Namespace, PodName: p.Name, Pod: Read[corev1.Pod]{Value: &p}, Settings: common.Settings, Configured: common.Configured,
			}
			if a, there := accounts[[2]string{p.Namespace, f.account()}]; there {
				f.Account = Read[corev1.ServiceAccount]{Value: &a}
			}
			d.associations(ctx, f)
			if f.given() != 0 || f.selfMade() || f.due() != 0 && !leftAlone(&p) {
				found = append(found, [2]string{p.Namespace, p.Name})
			}
		}
		return page.Continue
	})
	return found, err
}

// list reads all pages of a list. Each gets a page and returns where the next begins.
func list[T any](ctx context.Context, d *Doctor, in, resource, namespace string, each func(*T) (next string)) error {
	next := ""
	for {
		query := url.Values{"limit": {fmt.Sprint(pageSize)}}
		if next != "" {
			query.Set("continue", next)
		}
		page := as[T](d.do(ctx, http.MethodGet, in+"/"+resource+"?"+query.Encode(), nil), right{"list", "", resource, namespace})
		if page.Value == nil {
			return &UnreadError{What: resource, Why: cmp.Or(page.Why, "there are none"), Grant: page.Grant}
		}
		if next = each(page.Value); next == "" {
			return nil
		}
	}
}

// UnreadError says that something could not be read without which there is nothing to tell.
type UnreadError struct {
	What, Why string
	Grant     string // the right that is missing; empty if that is not why
}

func (e *UnreadError) Error() string { return fmt.Sprintf("list %s: %s", e.What, e.Why) }
