package doctor

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/internal/webhook"
)

// suffers returns the result of something that is wrong with the webhook: the pod itself is not hurt by it if it has its identity
// already, but the next one will be.
func (f *Facts) suffers(fix, format string, args ...any) Result {
	if f.PodName != "" && f.Pod.Value != nil && f.complete() {
		r := warn(fix, format, args...)
		r.Text += " This pod has its identity already; the next one would not."
		return r.stop()
	}
	return broken(fix, format, args...)
}

// complete reports whether the pod has all of its identity.
func (f *Facts) complete() bool {
	id, err := f.identity()
	if err != nil || f.given() != f.way() {
		return false
	}
	patch, err := f.Settings.Patch(f.Pod.Value, id)
	return err == nil && len(patch) == 0
}

func checkRegistration(f *Facts) Result {
	switch {
	case f.Registration.Absent:
		return f.suffers("Install the webhook: `helm upgrade --install lanyard deploy/chart`, or name its registration with --webhook-configuration.",
			"There is no MutatingWebhookConfiguration %s, so that pods are given nothing.", f.Webhook)
	case f.Registration.Value == nil:
		return f.Registration.unknown("the webhook's registration")
	case len(podWebhooks(f)) == 0:
		return f.suffers(fmt.Sprintf("Restore its rule, with operation CREATE on resource pods: `helm upgrade --install lanyard deploy/chart`, or "+
			"`kubectl edit mutatingwebhookconfiguration %s`.", f.Webhook),
			"The MutatingWebhookConfiguration %s asks no webhook when pods are created.", f.Webhook)
	}
	var policies []string
	for _, w := range podWebhooks(f) {
		policy := admissionv1.Fail // what is not said is that
		if w.FailurePolicy != nil {
			policy = *w.FailurePolicy
		}
		policies = append(policies, fmt.Sprintf("%s with failurePolicy %s", w.Name, policy))
	}
	r := ok("The webhook is registered: %s.", strings.Join(policies, ", "))
	if f.Unseen != "" {
		r = r.note("Its flags could not be seen, so that it is taken for one without: %s.", f.Unseen)
	}
	return r
}

// podWebhooks returns the registered webhooks that are asked when pods are created.
func podWebhooks(f *Facts) []admissionv1.MutatingWebhook {
	var all []admissionv1.MutatingWebhook
	has := func(list []string, what string) bool {
		return slices.Contains(list, what) || slices.Contains(list, "*")
	}
	for _, w := range f.Registration.Value.Webhooks {
		if slices.ContainsFunc(w.Rules, func(r admissionv1.RuleWithOperations) bool {
			creates := slices.Contains(r.Operations, admissionv1.Create) || slices.Contains(r.Operations, admissionv1.OperationAll)
			return creates && has(r.APIGroups, "") && has(r.APIVersions,
				"v1") && (has(r.Resources, "pods") || slices.Contains(r.Resources, "*/*"))
		}) {
			all = append(all, w)
		}
	}
	return all
}

// chosen returns the webhooks that are asked about this pod, and why each of the others is not.
func chosen(f *Facts) (asked []admissionv1.MutatingWebhook, not []string, err error) {
	pod := labels.Set{}
	if f.Pod.Value != nil {
		pod = f.Pod.Value.Labels
	}
	for _, w := range podWebhooks(f) {
		why := ""
		for _, s := range []struct {
			selector *metav1.LabelSelector
			labels   map[string]string
			what     string
			known    bool
		}{
			{w.NamespaceSelector, value(f.NamespaceLabels.Value), "namespaceSelector leaves out namespace " + f.Namespace,
				f.NamespaceLabels.Value != nil},
			{w.ObjectSelector, pod, "objectSelector leaves out the pod's labels", true},
		} {
			selector, err := metav1.LabelSelectorAsSelector(s.selector)
			if err != nil {
				return nil, nil, fmt.Errorf("read a selector of %s: %w", w.Name, err)
			}
			if s.selector == nil { // unlike elsewhere, all is selected (API reference, MutatingWebhook)
				selector = labels.Everything()
			}
			if s.known && !selector.Matches(labels.Set(s.labels)) {
				why = fmt.Sprintf("%s of %s, which is %q", s.what, w.Name, selector)
				break
			}
		}
		if why == "" {
			asked = append(asked, w)
		} else {
			not = append(not, why)
		}
	}
	return asked, not, nil
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func checkSelectors(f *Facts) Result {
	if f.Pod.Value != nil {
		if _, skip := f.Pod.Value.Labels[webhook.SkipLabel]; skip {
			return f.suffers(fmt.Sprintf("Take the label %s out of the pod's template, and make the pod again.", webhook.SkipLabel),
				"The pod has the label %s, which keeps the webhook from it.", webhook.SkipLabel)
		}
	}
	asked, not, err := chosen(f)
	switch {
	case err != nil:
		return unknown("", "The webhook's selectors could not be read: %s.", err)
	case len(asked) == 0:
		return f.suffers(fmt.Sprintf("Change the selector with `kubectl edit mutatingwebhookconfiguration %s`, or the labels of the "+
			"namespace or of the pod's template; then make the pod again.", f.Webhook),
			"No webhook is asked about this pod: the %s.", strings.Join(not, "; the "))
	case f.NamespaceLabels.Value == nil:
		return f.NamespaceLabels.unknown("whether the webhook's namespaceSelector takes namespace " + f.Namespace)
	}
	return ok("The webhook's selectors take the pod and its namespace.")
}

// service returns the service that the API server asks about this pod; nil for none.
func service(f *Facts) *admissionv1.ServiceReference {
	if f.Registration.Value == nil {
		return nil
	}
	asked, _, _ := chosen(f) //nolint:errcheck // selectors that cannot be read are the choice's affair
	for _, w := range asked {
		if w.ClientConfig.Service != nil {
			return w.ClientConfig.Service
		}
	}
	return nil
}

// home returns the webhook's namespace: that of its service, or the one that docs/install.md has, where no service is registered.
func home(f *Facts) string {
	if s := service(f); s != nil {
		return s.Namespace
	}
	return "lanyard"
}

func byService(f *Facts) bool { return byWebhook(f) && service(f) != nil }

func checkService(f *Facts) Result {
	s := service(f)
	name := s.Namespace + "/" + s.Name
	switch {
	case f.Endpoints.Absent:
		return f.suffers("Install the webhook: `helm upgrade --install lanyard deploy/chart`.", "The webhook's service %s is not there.", name)
	case f.Endpoints.Value == nil:
		return f.Endpoints.unknown("the endpoints of the webhook's service " + name)
	case *f.Endpoints.Value == 0:
		return f.suffers(fmt.Sprintf("See why with `kubectl get pods -n %s -l app.kubernetes.io/name=lanyard-webhook` and `kubectl describe "+
			"deployment -n %[1]s lanyard-webhook`.", s.Namespace),
			"The webhook's service %s has no endpoint that is ready, so that nobody answers the API server.", name)
	}
	return ok("The webhook's service %s has %d endpoints that are ready.", name, *f.Endpoints.Value)
}

func checkServing(f *Facts) Result {
	asked, _, err := chosen(f)
	if err != nil {
		return unknown("", "The webhook's selectors could not be read: %s.", err)
	}
	restart := fmt.Sprintf("Let the webhook write its certificates anew: `kubectl rollout restart -n %s deployment/lanyard-webhook`; with "+
		"cert-manager, see that its CA injector runs.", home(f))
	for _, w := range asked {
		bundle := w.ClientConfig.CABundle
		if len(bundle) == 0 {
			if w.ClientConfig.URL != nil {
				continue // the API server trusts the system's authorities then
			}
			return f.suffers(restart, "The caBundle of webhook %s is empty, so that the API server does not trust its certificate.", w.Name)
		}
		until, err := lastDay(bundle)
		switch {
		case err != nil:
			return f.suffers(restart, "The caBundle of webhook %s cannot be used: %s.", w.Name, err)
		case f.Now.After(until):
			return f.suffers(restart, "The certificates in the caBundle of webhook %s ended on %s.", w.Name, until.UTC().Format(time.DateOnly))
		}
	}
	switch s := f.Serving; {
	case s.Value != nil && s.Value.Fault != "":
		return f.suffers(restart, "The webhook's certificate does not match what is registered: %s.", s.Value.Fault)
	case s.unread():
		return ok("The caBundle has certificates that are valid.").note("The certificate that the webhook serves could not be looked at from "+
			"here: %s.", s.Why)
	case s.Value != nil:
		return ok("The webhook's certificate is one that the registration has the API server trust.")
	}
	return ok("The caBundle has certificates that are valid; whether the webhook's own is signed by them, the next pod shows.")
}

// lastDay returns when the last of the certificates ends.
func lastDay(bundle []byte) (until time.Time, err error) {
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return until, fmt.Errorf("read a certificate: %w", err)
		}
		if c.NotAfter.After(until) {
			until = c.NotAfter
		}
	}
	if until.IsZero() {
		return until, fmt.Errorf("it holds no certificate")
	}
	return until, nil
}

func checkDryRun(f *Facts) Result {
	if f.DryRun.Value == nil {
		return f.DryRun.unknown("what a pod would get that is made today")
	}
	d := f.DryRun.Value
	warnings := func(r Result) Result {
		for _, w := range d.Warnings {
			if strings.HasPrefix(w, "lanyard:") {
				r = r.note("The webhook warns: %s.", strings.TrimSuffix(w, "."))
			}
		}
		return r
	}
	logs := fmt.Sprintf("See `kubectl logs -n %s deployment/lanyard-webhook`: it tells of service account %s/%s.", home(f), f.Namespace, f.account())
	switch {
	case d.Pod == nil && strings.Contains(d.Refusal, "failed calling webhook") && strings.Contains(d.Refusal, "x509:"):
		return f.suffers(fmt.Sprintf("Let the webhook write its certificates anew: `kubectl rollout restart -n %s deployment/lanyard-webhook`.", home(f)),
			"The API server does not trust the webhook's certificate, and refuses pods: %s.", d.Refusal)
	case d.Pod == nil && strings.Contains(d.Refusal, "failed calling webhook"):
		return f.suffers(fmt.Sprintf("See that the webhook runs, and that the API server reaches it: `kubectl get pods -n %s` and `kubectl logs -n "+
			"%[1]s deployment/lanyard-webhook`.", home(f)),
			"The API server cannot ask the webhook, and refuses pods: %s.", d.Refusal)
	case d.Pod == nil:
		return unknown("", "Such a pod would be refused, so that nothing can be told about the webhook: %s.", d.Refusal)
	case !f.Settings.Mutated(d.Pod, f.due()) && f.due() == podspec.PodIdentity && f.applies().Whom.IsPattern():
		return warnings(f.suffers("Wait for the webhook's next look at the associations (its flag --association-sync-period says when), and "+
			"make the pod again. "+logs,
			"A pod that is made today gets nothing from the webhook: its association is for the pattern %s/%s, and the webhook may not have "+
				"seen that yet.",
			f.applies().Whom.Namespace, f.applies().Whom.ServiceAccount))
	case !f.Settings.Mutated(d.Pod, f.due()) && f.due() != 0:
		if f.Registration.Value != nil && len(podWebhooks(f)) > 0 && len(d.Warnings) == 0 {
			return warnings(f.suffers(fmt.Sprintf("See that the webhook runs and that the API server reaches it and trusts its certificate: `kubectl get "+
				"pods -n %s`, then `kubectl logs -n %[1]s deployment/lanyard-webhook`.", home(f)),
				"A pod that is made today gets nothing from the webhook: with failurePolicy Ignore, the API server does without one that it "+
					"cannot reach or trust."))
		}
		return warnings(f.suffers(logs, "A pod that is made today gets nothing from the webhook."))
	}
	return warnings(ok("A pod that is made today gets its identity by %s, as a dry run shows.", wayName(f.due())))
}

// checkContainers holds the pod against what podspec gives to one, container by container.
func checkContainers(f *Facts) Result {
	pod, way := f.Pod.Value, f.way()
	if f.selfMade() {
		return ok("The containers have what IRSA takes by the pod's own specification.")
	}
	id, err := f.identity()
	if err != nil {
		return unknown("", "What the pod should have cannot be told, since its service account names no role that could be read.")
	}
	if f.given() == 0 && !f.byHand() {
		return broken(recreate(f), "The pod has nothing of its identity: it was made before its service account had %s, or while no webhook "+
			"answered.", what(way))
	}
	patch, err := f.Settings.Patch(pod, id)
	if err != nil {
		return broken(fmt.Sprintf("Give the pod's own volume %s another name, and make the pod again.", f.projection().Volume), "%s.",
			capital(err.Error()))
	}
	lacks := map[string][]string{}
	for _, o := range patch {
		if c := container(pod, o.Path); c != "" {
			lacks[c] = append(lacks[c], names(o)...)
		}
	}
	skipped := f.skippedContainers()
	var faults []string
	for _, c := range f.containers() {
		if len(lacks[c.Name]) > 0 && !configured(c, way) {
			faults = append(faults, fmt.Sprintf("container %s lacks %s", c.Name, strings.Join(lacks[c.Name], ", ")))
		}
	}
	if len(faults) > 0 {
		return broken(recreate(f), "Not all containers have the pod's identity: %s.", strings.Join(faults, "; "))
	}
	r := ok("All containers have what %s takes.", wayName(way))
	if len(skipped) > 0 {
		r = warn(fmt.Sprintf("If they need credentials, take them out of the annotation %s.", f.Settings.SkipAnnotation()),
			"The pod keeps the webhook from its containers %s, and the others have what %s takes.", strings.Join(skipped, ", "), wayName(way))
	}
	if d := f.DryRun.Value; d != nil && d.Pod != nil {
		if missing := behind(pod, d.Pod, skipped); missing != "" {
			return warn(recreate(f), "The pod has what %s takes, but one that is made today gets more: %s.", wayName(way), missing)
		}
	}
	return r
}

// byHand reports whether some container is configured for the way without the webhook's volume.
func (f *Facts) byHand() bool {
	first := podspec.Env(f.way(), podspec.Options{})[0].Name
	return slices.ContainsFunc(f.containers(), func(c corev1.Container) bool { _, set := variable(c, first); return set })
}

// configured reports whether a container has both variables of a way, and a mount that the token's file is in: whoever made the pod has
// seen to it.
func configured(c corev1.Container, way podspec.Way) bool {
	for _, v := range podspec.Env(way, podspec.Options{}) {
		have, set := variable(c, v.Name)
		if !set {
			return false
		}
		if strings.HasSuffix(v.Name, "_FILE") && !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
			return strings.HasPrefix(have.Value, strings.TrimSuffix(m.MountPath, "/")+"/")
		}) {
			return false
		}
	}
	return true
}

// what is what makes a way.
func what(w podspec.Way) string {
	if w == podspec.PodIdentity {
		return "an association"
	}
	return "its annotation"
}

// container returns the name of the container that a path of a patch is in; empty if it is in none.
func container(pod *corev1.Pod, path string) string {
	for _, list := range []struct {
		at         string
		containers []corev1.Container
	}{{"/spec/initContainers/", pod.Spec.InitContainers}, {"/spec/containers/", pod.Spec.Containers}} {
		rest, in := strings.CutPrefix(path, list.at)
		index, _, _ := strings.Cut(rest, "/")
		for i, c := range list.containers {
			if in && index == fmt.Sprint(i) {
				return c.Name
			}
		}
	}
	return ""
}

// names returns the names of the variables and mounts that an operation of a patch adds.
func names(o podspec.Operation) []string {
	text, err := json.Marshal(o.Value)
	if err != nil {
		return []string{o.Path}
	}
	type named struct{ Name, MountPath string }
	var list []named
	if json.Unmarshal(text, &list) != nil {
		list = make([]named, 1)
		if json.Unmarshal(text, &list[0]) != nil {
			return []string{o.Path}
		}
	}
	var all []string
	for _, n := range list {
		if n.MountPath != "" {
			n.Name = "the mount of " + n.Name
		}
		all = append(all, n.Name)
	}
	return all
}

// skippedContainers returns the containers of the pod that its annotation keeps the webhook from, or that a pod which has made its identity
// itself has not given it to.
func (f *Facts) skippedContainers() (all []string) {
	skip := f.Settings.Skipped(f.Pod.Value)
	for _, c := range f.containers() {
		if skip[c.Name] || f.selfMade() && !configured(c, podspec.WebIdentity) {
			all = append(all, c.Name)
		}
	}
	return all
}

// behind says which variables the containers of a pod that is made today have, and this pod's have not, although they would if it were
// made again: the webhook leaves out what goes together with one that a container has of its own.
func behind(pod, today *corev1.Pod, skipped []string) string {
	var all []string
	for _, c := range pod.Spec.Containers {
		i := slices.IndexFunc(today.Spec.Containers, func(t corev1.Container) bool { return t.Name == c.Name })
		if i < 0 || slices.Contains(skipped, c.Name) {
			continue
		}
		var missing []string
		for _, v := range today.Spec.Containers[i].Env {
			if _, set := variable(c, v.Name); !set && !chosenOtherwise(c, today.Spec.Containers[i], v.Name) {
				missing = append(missing, v.Name)
			}
		}
		if len(missing) > 0 {
			all = append(all, fmt.Sprintf("container %s lacks %s", c.Name, strings.Join(missing, ", ")))
		}
	}
	return strings.Join(all, "; ")
}

// chosenOtherwise reports whether a container has of its own what goes together with a variable: another value than is given today, or one
// region variable alone, as no webhook gives it.
func chosenOtherwise(c, today corev1.Container, name string) bool {
	return slices.ContainsFunc(podspec.Together(name), func(other string) bool {
		have, set := variable(c, other)
		given, _ := variable(today, other)
		return set && (have.Value != given.Value || strings.HasSuffix(other, "_REGION"))
	})
}

// checkProjection looks at the token's volume.
func checkProjection(f *Facts) Result {
	volume := f.projection().Volume
	t := f.projected()
	if t == nil {
		return broken("Give that volume another name in the pod's template, and make the pod again.",
			"The pod's volume %s projects no service account token.", volume)
	}
	want := f.projection().Audience
	if id, err := f.identity(); err == nil {
		want = id.Audience
	}
	life := time.Duration(value(t.ExpirationSeconds)) * time.Second
	if t.Audience != want {
		return broken(fmt.Sprintf("Project the token for %s: take the volume %s out of the pod's template, so that the webhook gives its "+
			"own, or correct its audience; then make the pod again.", want, volume),
			"The pod's token is for audience %q, and it must be for %s.", cmp.Or(t.Audience, "of the API server"), want)
	}
	return ok("The volume %s projects a token for %s that is valid for %s.", volume, want, life)
}
