package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/internal/webhook"
)

// maxClockSkew is by how much a clock may be wrong: signatures and tokens are refused beyond it (IAM User Guide, "Elements of an AWS
// API request signature").
const maxClockSkew = 5 * time.Minute

func checkServer(f *Facts) Result {
	if f.Server.Value == nil {
		return unknown(cmp.Or(f.Server.Grant,
			"See whether `kubectl version` works with the same kubeconfig and context, or name others with --kubeconfig and --kube-context."),
			"The Kubernetes API server could not be asked: %s.", f.Server.Why).stop()
	}
	return ok("The Kubernetes API server at %s answers.", f.Server.Value.Address)
}

func checkControlPlane(f *Facts) Result {
	if f.ControlPlane.Value == nil {
		return unknown("Give --endpoint-url and --region, or set AWS_ENDPOINT_URL, AWS_REGION and AWS_CA_BUNDLE as for the other commands.",
			"%s could not be asked from here: %s.", f.who(), f.ControlPlane.Why).stop()
	}
	return ok("%s answers at %s.", f.who(), f.ControlPlane.Value.Address)
}

// who is who gives credentials.
func (f *Facts) who() string {
	if f.Lanyard {
		return "Lanyard"
	}
	return "AWS"
}

func checkClock(f *Facts) Result {
	fix := "Set the clocks by NTP: `timedatectl set-ntp true` on the machine that is wrong, then `chronyc tracking` or `timedatectl " +
		"timesync-status`."
	var wrong, seen []string
	for _, s := range []struct {
		name   string
		server *Server
	}{{"the Kubernetes API server", f.Server.Value}, {f.who(), f.ControlPlane.Value}} {
		if s.server == nil || s.server.Date.IsZero() {
			continue
		}
		seen = append(seen, s.name)
		if skew := s.server.Date.Sub(f.Now); skew.Abs() > maxClockSkew {
			direction := "ahead of"
			if skew < 0 {
				direction = "behind"
			}
			wrong = append(wrong, fmt.Sprintf("the clock of %s is %s %s this machine's", s.name, skew.Abs().Round(time.Second), direction))
		}
	}
	if a, b := f.Server.Value, f.ControlPlane.Value; a != nil && b != nil && !a.Date.IsZero() && !b.Date.IsZero() {
		if skew := a.Date.Sub(b.Date); skew.Abs() > maxClockSkew {
			return broken(fix, "The clocks of the Kubernetes API server and of %s are %s apart, and tokens and signatures are refused beyond "+
				"%s: %s.",
				f.who(), skew.Abs().Round(time.Second), maxClockSkew, strings.Join(wrong, ", and "))
		}
	}
	switch {
	case len(seen) == 0:
		return unknown("", "The clocks could not be compared, since no server told its time.")
	case len(wrong) > 0:
		return warn(fix, "%s: it is not the pod's trouble, but what is signed here is refused.", capital(strings.Join(wrong, ", and ")))
	}
	return ok("The clocks of %s and of this machine agree.", strings.Join(seen, ", "))
}

// capital begins a text with a capital letter.
func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// sentence makes a sentence of what is none yet.
func sentence(s string) string { return strings.TrimSuffix(capital(s), ".") + "." }

func checkPod(f *Facts) Result {
	switch p := f.Pod.Value; {
	case f.Pod.Absent:
		return broken(fmt.Sprintf("See `kubectl get pods -n %s` for its pods, or ask about a service account with `lanyard doctor -n %[1]s "+
			"-s SERVICE_ACCOUNT`.", f.Namespace),
			"There is no pod %s in namespace %s.", f.PodName, f.Namespace)
	case p == nil:
		return f.Pod.unknown("pod " + f.Namespace + "/" + f.PodName).stop()
	case mirror(p):
		return broken("Make it a pod of the API server's own, such as a DaemonSet's.",
			"The pod is the mirror of a static pod, which its kubelet has made: it has no service account, and so no identity.")
	case p.DeletionTimestamp != nil:
		return warn("", "The pod is being deleted.")
	case p.Spec.NodeName == "":
		return warn(fmt.Sprintf("See why with `kubectl describe pod -n %s %s`.", f.Namespace, f.PodName),
			"The pod has no node yet, so nothing runs in it; its phase is %s.", cmp.Or(string(p.Status.Phase), "unknown"))
	default:
		return ok("The pod is on node %s, and its phase is %s.", p.Spec.NodeName, cmp.Or(string(p.Status.Phase), "unknown"))
	}
}

// leftAlone reports whether a pod has no identity because whoever made it wants it so.
func leftAlone(p *corev1.Pod) bool {
	_, is := p.Labels[webhook.SkipLabel]
	return is
}

// mirror reports whether a pod only shows a static pod of its kubelet.
func mirror(p *corev1.Pod) bool {
	_, is := p.Annotations[corev1.MirrorPodAnnotationKey]
	return is
}

func checkAccount(f *Facts) Result {
	name := f.Namespace + "/" + f.account()
	switch {
	case f.account() == "":
		return unknown("Name it with -s.", "The service account is not known, since the pod could not be read.").stop()
	case f.Account.Absent:
		return broken(fmt.Sprintf("Make it with `kubectl create serviceaccount -n %s %s`, or name another one in the pod's serviceAccountName.",
			f.Namespace, f.account()),
			"There is no service account %s.", name)
	case f.Account.Value == nil:
		return f.Account.unknown("service account " + name)
	}
	return ok("The service account %s is there.", name)
}

func checkCluster(f *Facts) Result {
	fix := fmt.Sprintf("See `lanyard cluster list` and give its name with --cluster, or register it: `lanyard cluster register %s "+
		"--kubeconfig FILE`.", f.Cluster)
	switch {
	case f.Registered.Absent && f.way() == podspec.WebIdentity:
		return ok("%s knows no cluster %s, and for IRSA it need not: the provider of the cluster's issuer is what counts.", f.who(), f.Cluster)
	case f.Registered.Absent:
		return broken(fix, "%s knows no cluster of the name %s.", f.who(), f.Cluster)
	case f.Registered.Value == nil:
		return f.Registered.unknown("cluster " + f.Cluster)
	}
	return ok("Cluster %s is registered, with the issuer %s.", f.Registered.Value.ARN, cmp.Or(f.Registered.Value.Issuer, "of nobody"))
}

func checkWay(f *Facts) Result {
	account := f.Namespace + "/" + f.account()
	due, given := f.due(), f.given()
	switch {
	case due == podspec.WebIdentity && f.Associations.unread() && given != podspec.WebIdentity:
		return unknown(f.Associations.Grant,
			"Service account %s names role %s, but it cannot be told whether it has an association too, which would go before it: %s.",
			account, f.firstRole(), f.Associations.Why)
	case f.selfMade():
		return ok("The pod's own specification has it go by IRSA, as role %s: no webhook is needed for that.", cmp.Or(f.firstRole(), "of a variable"))
	case due == 0 && given == 0 && f.ownVolume() != "":
		return unknown("", "The pod's own specification has it go by web identity with a token in volume %s, which is none that Kubernetes makes for its service "+
			"account: whose it is cannot be told.", f.ownVolume()).stop()
	case due == 0 && given == 0 && (f.Account.unread() || f.Associations.unread() || f.Configured.unread()):
		return unknown(cmp.Or(f.Account.Grant, f.Associations.Grant, f.Configured.Grant),
			"It cannot be told whether service account %s has a role or an association: %s.",
			account, cmp.Or(f.Account.Why, f.Associations.Why, f.Configured.Why)).stop()
	case due == 0 && given != 0 && f.way() != 0:
		return unknown(cmp.Or(f.Account.Grant, f.Associations.Grant, f.Configured.Grant),
			"The pod goes by %s, but it cannot be told whether service account %s still has what that takes: %s.",
			wayName(given), account, cmp.Or(f.Account.Why, f.Associations.Why, f.Configured.Why))
	case due == 0:
		return noWay(f, account, given)
	case given == podspec.WebIdentity && due == podspec.PodIdentity && f.annotated():
		return warn(recreate(f), "Service account %s has a role of its own and an association. The pod was made before the association "+
			"and goes by IRSA; "+
			"one that is made today goes by Pod Identity, which goes before.", account)
	case due == podspec.PodIdentity && f.annotated():
		return ok("Service account %s has an association, and %s names role %s, too: Pod Identity goes before IRSA, so that the association counts.",
			account, f.named(), f.Settings.Role(f.annotations()))
	case due == podspec.PodIdentity:
		return ok("Service account %s has an association: its pods go by Pod Identity.", account)
	}
	return ok("%s names role %s: pods of service account %s go by IRSA.", capital(f.named()), f.firstRole(), account)
}

// noWay is for a service account that has neither a role nor an association.
func noWay(f *Facts, account string, given podspec.Way) Result {
	r := broken(fmt.Sprintf("Give it one: `lanyard association create --cluster %s -n %s -s %s --role-arn ARN`, or `kubectl annotate "+
		"serviceaccount -n %[2]s %[3]s %s=ARN`; then make the pod again.",
		f.Cluster, f.Namespace, f.account(), f.Settings.RoleAnnotation()),
		"Service account %s has neither an association in cluster %s nor the annotation %s.", account, f.Cluster, f.Settings.RoleAnnotation())
	if f.Configured.Value != nil {
		r = r.note("The ConfigMap %s/%s, which the webhook reads, does not name it either.", home(f), webhook.ConfiguredConfigMap)
	}
	if given == 0 && f.Pod.Value != nil {
		r = r.note("Without either, SDKs go on to the node's role, where the node's metadata service (IMDS) answers pods.")
	}
	if given != 0 {
		r = r.note("The pod was made when it had one: it goes by %s.", wayName(given))
	}
	for key := range f.annotations() {
		if want := f.Settings.RoleAnnotation(); key != want && strings.HasSuffix(key, "/role-arn") || similar(key, want) {
			r = r.note("It has the annotation %s, which is another one: was %s meant?", key, want)
		}
	}
	if f.Associations.Value == nil {
		return r
	}
	for _, a := range *f.Associations.Value {
		if a.Whom.ServiceAccount == f.account() || a.Whom.Namespace == f.Namespace && similar(a.Whom.ServiceAccount, f.account()) {
			r = r.note("There is an association %s of %s/%s: was %s meant?", a.ID, a.Whom.Namespace, a.Whom.ServiceAccount, account)
		}
	}
	slices.Sort(r.Notes)
	return r
}

func wayName(w podspec.Way) string {
	if w == podspec.PodIdentity {
		return "Pod Identity"
	}
	return "IRSA"
}

// recreate says how a pod is made again: by what owns it, if anything does.
func recreate(f *Facts) string {
	if f.Pod.Value != nil {
		for _, o := range f.Pod.Value.OwnerReferences {
			switch o.Kind {
			case "ReplicaSet":
				return fmt.Sprintf("Make the pod again: `kubectl delete pod -n %s %s`, which its ReplicaSet replaces; or all at once with "+
					"`kubectl rollout restart -n %[1]s deployment/%[3]s`.",
					f.Namespace, f.PodName, trimHash(o.Name))
			case "StatefulSet", "DaemonSet":
				return fmt.Sprintf("Make the pod again: `kubectl rollout restart -n %s %s/%s`.", f.Namespace, strings.ToLower(o.Kind), o.Name)
			}
		}
	}
	return fmt.Sprintf("Make the pod again: `kubectl delete pod -n %s %s`, and create it anew unless something owns it.", f.Namespace, f.PodName)
}

// trimHash takes the hash of a ReplicaSet's name away, which leaves its Deployment's.
func trimHash(name string) string {
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		return name[:i]
	}
	return name
}

func checkRoleARN(f *Facts) Result {
	if f.selfMade() {
		return ok("The pod's own specification names the role.")
	}
	if f.Account.Value == nil {
		return f.Account.unknown("the role that the service account names")
	}
	if !f.annotated() { // it cannot be told whether the pod's own way is still what its service account has
		return unknown(cmp.Or(f.Configured.Grant, f.Associations.Grant), "The service account names no role, and it cannot be told what else has given the pod "+
			"its own: %s.", cmp.Or(f.Configured.Why, f.Associations.Why, "it was not asked for"))
	}
	id, err := f.identity()
	if err != nil {
		if f.Configured.Value != nil && f.Settings.Role(f.Account.Value.Annotations) == "" {
			return broken(fmt.Sprintf("Write the whole ARN: `kubectl edit configmap -n %s %s`, then make the pod again.", home(f), webhook.ConfiguredConfigMap),
				"What the ConfigMap %s/%s says of service account %s/%s is no role's ARN: %s. The webhook gives pods nothing by it.",
				home(f), webhook.ConfiguredConfigMap, f.Namespace, f.account(), err)
		}
		r := broken(fmt.Sprintf("Write the whole ARN: `kubectl annotate --overwrite serviceaccount -n %s %s "+
			"%s=arn:aws:iam::ACCOUNT:role/NAME`, then make the pod again.",
			f.Namespace, f.account(), f.Settings.RoleAnnotation()), "The service account's %s. The webhook gives pods nothing by it.", err)
		if service(f) == nil || f.Unseen != "" {
			r = r.note("A webhook with --compose-role-arn completes names of roles; this cannot be seen from here.")
		}
		return r
	}
	naming := "service account"
	if f.Settings.Role(f.Account.Value.Annotations) == "" {
		naming = f.named()
	}
	for _, c := range f.containers() {
		v, set := variable(c, "AWS_ROLE_ARN")
		if set && v.ValueFrom == nil && v.Value != id.RoleARN && f.given() == podspec.WebIdentity {
			return broken(recreate(f), "Container %s has role %s, and the %s now names %s: the pod was made before that "+
				"was changed, or sets the variable itself.",
				c.Name, v.Value, naming, id.RoleARN)
		}
	}
	return ok("%s names %s, which is the ARN of a role.", capital(f.named()), id.RoleARN)
}

// similar reports whether one name becomes the other by at most two slips of the pen.
func similar(a, b string) bool {
	const most = 2
	if a == b || len(a) > 300 || len(b) > 300 || len(a)-len(b) > most || len(b)-len(a) > most {
		return false
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal, row[j+1] = row[j+1], min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)] <= most
}
