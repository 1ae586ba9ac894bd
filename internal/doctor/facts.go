package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/internal/subject"
	"github.com/lanyard-id/lanyard/internal/webhook"
)

// Read is one thing that was asked for. The zero Read was not asked for.
type Read[T any] struct {
	Value  *T     // what was read; nil if it was not
	Absent bool   // it is not there
	Why    string // why it cannot be told, without a full stop
	Grant  string // what would let it be told: a right that is missing, as a sentence
}

// found returns a Read of a value.
func found[T any](v T) Read[T] { return Read[T]{Value: &v} }

// unread reports whether something was asked for in vain.
func (r Read[T]) unread() bool { return r.Why != "" }

// unknown is the result where something could not be read. What says what it was, as in "the pod".
func (r Read[T]) unknown(what string) Result {
	return unknown(r.Grant, "It cannot be told about %s: %s.", what, cmp.Or(r.Why, "it was not asked for"))
}

// Facts is what is known of a pod's chain. The names that were asked about, the settings and Now are always there, the rest as far
// as it could be read.
type Facts struct {
	Now            time.Time
	Namespace      string
	PodName        string // empty for a service account without a pod
	ServiceAccount string // what was asked about; the pod's counts where there is one
	Cluster        string // the name by which Lanyard or EKS knows the cluster
	Webhook        string // name of the MutatingWebhookConfiguration

	Lanyard   bool          // Lanyard is asked, and not AWS
	PrivateCA bool          // whoever asks trusts certificates besides the system's
	Duration  time.Duration // that programs ask for by web identity
	NoCall    bool          // credentials were not to be asked for

	// Settings are those of the webhook, of what every pod must have: what a webhook may leave out (region, endpoint, certificates) is
	// not said. Zero for a webhook without flags, and for one whose flags could not be seen.
	Settings podspec.Settings
	// Configured has the service accounts that a ConfigMap gives roles to; it was not asked for unless the webhook reads one.
	Configured Read[podspec.ConfiguredAccounts]
	// Unseen says why the flags of a webhook in the cluster could not be seen.
	Unseen string

	// Of the Kubernetes API.
	Server          Read[Server]
	Pod             Read[corev1.Pod]
	Account         Read[corev1.ServiceAccount]
	NamespaceLabels Read[map[string]string]
	Registration    Read[admissionv1.MutatingWebhookConfiguration]
	Endpoints       Read[int]     // ready endpoints of the webhook's service
	Serving         Read[Serving] // the certificate that a webhook with a URL serves
	DryRun          Read[DryRun]
	Token           Read[Token]
	Issuer          Read[Issuer]
	Sources         map[string]Read[[]string] // "secret/NAME" and "configmap/NAME" of envFrom: the keys, without values
	Policies        Read[[]networkingv1.NetworkPolicy]
	Agents          Read[[]corev1.Pod] // agents of the whole cluster
	Node            Read[corev1.Node]  // the pod's, asked for where there is no agent on it
	Probe           Read[Probe]        // of the agent beside the pod

	// Of EKS, IAM, STS and EKS Auth: Lanyard's or AWS's.
	ControlPlane Read[Server]
	Registered   Read[Cluster]
	Associations Read[[]Association] // without their roles
	Association  Read[Association]   // the one that applies
	Provider     Read[Provider]
	Published    Read[Published] // where STS must fetch the issuer's keys
	Role, Target Read[Role]
	Call         Read[Call]
}

// Server is a server that answered.
type Server struct {
	Address string
	Date    time.Time // what it thinks the time is; zero when it did not say
}

// Serving is what became of looking at the certificate of a webhook.
type Serving struct{ Fault string }

// DryRun is what the API server would make of such a pod.
type DryRun struct {
	Pod      *corev1.Pod // nil when it was refused
	Refusal  string
	Warnings []string
}

// Token is what a token says.
type Token struct {
	Claims idtoken.Claims
	Exec   bool // it is the one in the pod, and not one that was made for this
}

// Issuer is what an API server tells of its tokens' issuer.
type Issuer struct {
	URL    string
	KeyIDs []string
}

// Published is what is wrong with the documents that an issuer publishes; empty if nothing is.
type Published struct {
	Fault, Fix string
	KeyIDs     []string
}

// Probe is what an agent answered to its probe.
type Probe struct {
	Status int // HTTP
	Text   string
}

// Cluster is a cluster as EKS knows it.
type Cluster struct{ ARN, Issuer string }

// Association is a pod identity association.
type Association struct {
	ID                 string
	Whom               subject.Subject
	RoleARN, TargetARN string
	DisableSessionTags bool
}

// Provider is an OIDC provider in the role's account.
type Provider struct {
	ARN       string
	ClientIDs []string
}

// Role is a role as IAM has it.
type Role struct {
	ARN        arn.ARN
	Trust      []byte
	MaxSession time.Duration
	Tags       map[string]string
}

// Call is what became of asking for credentials.
type Call struct {
	Code, Message string // of a refusal; empty if credentials were given
	Expires       time.Time
}

// account returns the service account's name.
func (f *Facts) account() string {
	if p := f.Pod.Value; p != nil {
		return cmp.Or(p.Spec.ServiceAccountName, "default")
	}
	return f.ServiceAccount
}

// annotations are those that count for web identity: the service account's own, or what the ConfigMap says in place of them if they
// name no role.
func (f *Facts) annotations() map[string]string {
	var own map[string]string
	if f.Account.Value != nil {
		own = f.Account.Value.Annotations
	}
	if c, ok := value(f.Configured.Value).Find(f.Namespace, f.account()); ok && f.Settings.Role(own) == "" {
		return f.Settings.Annotations(c)
	}
	return own
}

// named says what names the service account's role.
func (f *Facts) named() string {
	if f.Account.Value != nil && f.Settings.Role(f.Account.Value.Annotations) != "" || f.Configured.Value == nil {
		return "service account " + f.Namespace + "/" + f.account()
	}
	return fmt.Sprintf("ConfigMap %s/%s", home(f), webhook.ConfiguredConfigMap)
}

// annotated reports whether the service account has a role by its annotation, or by the ConfigMap, whatever it is.
func (f *Facts) annotated() bool { return f.Settings.Role(f.annotations()) != "" }

// applies returns the association that EKS Auth would choose, or nil: of several that fit, the most specific one.
func (f *Facts) applies() *Association {
	if f.Associations.Value == nil {
		return nil
	}
	who := subject.Subject{Namespace: f.Namespace, ServiceAccount: f.account()}
	var best *Association
	for i, a := range *f.Associations.Value {
		if a.Whom.Covers(who) && (best == nil || subject.Compare(a.Whom, best.Whom) < 0) {
			best = &(*f.Associations.Value)[i]
		}
	}
	return best
}

// due returns the way that a pod made today gets, as the webhook decides it: an association goes before a role.
func (f *Facts) due() podspec.Way {
	switch {
	case f.applies() != nil:
		return podspec.PodIdentity
	case f.annotated():
		return podspec.WebIdentity
	}
	return 0
}

// given returns the way that the pod has been given; zero for none.
func (f *Facts) given() podspec.Way {
	if f.Pod.Value == nil {
		return 0
	}
	for _, w := range []podspec.Way{podspec.PodIdentity, podspec.WebIdentity} {
		if f.Settings.Mutated(f.Pod.Value, w) {
			return w
		}
	}
	return 0
}

// way returns the way that the chain goes: the pod's own, as long as its service account still has what that takes, and else the one
// that is due. Where that cannot be told, the pod's own is believed.
func (f *Facts) way() podspec.Way {
	due, given := f.due(), f.given()
	switch {
	case given == podspec.WebIdentity && f.annotated():
		return given
	case f.selfMade():
		return podspec.WebIdentity
	case due == 0 && given != 0 && (f.Associations.Value == nil || f.Account.Value == nil || f.Configured.unread()):
		return given
	}
	return due
}

// selfMade reports whether the pod goes by web identity because its own specification says so, with a token of its service account: nobody
// else has given it a way, and no webhook is needed.
func (f *Facts) selfMade() bool {
	_, own := f.ownToken()
	return own && f.due() == 0 && f.given() == 0
}

// ownToken returns the volume that containers which are configured for web identity have their token in, and whether it is one of the
// service account; empty where none is.
func (f *Facts) ownToken() (volume string, own bool) {
	for _, c := range f.containers() {
		if !configured(c, podspec.WebIdentity) {
			continue
		}
		file, _ := variable(c, "AWS_WEB_IDENTITY_TOKEN_FILE")
		for _, m := range c.VolumeMounts {
			if strings.HasPrefix(file.Value, strings.TrimSuffix(m.MountPath, "/")+"/") {
				volume = m.Name
			}
		}
		return volume, slices.ContainsFunc(f.Pod.Value.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == volume && v.Projected != nil &&
				slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil })
		})
	}
	return "", false
}

// ownVolume returns the volume of ownToken.
func (f *Facts) ownVolume() string {
	volume, _ := f.ownToken()
	return volume
}

// identity returns what pods must have by the way. A pod has credentials without what asks for regional endpoints.
func (f *Facts) identity() (podspec.Identity, error) {
	id, err := f.Settings.Identity(f.way(), f.annotations())
	id.RegionalSTS = false
	return id, err
}

// projection is the token of the way.
func (f *Facts) projection() podspec.Projection { return f.Settings.Projection(f.way()) }

// roleARN returns the role whose credentials the pod gets; empty where it is not known.
func (f *Facts) roleARN() string {
	if f.way() == podspec.PodIdentity {
		if a := f.Association.Value; a != nil {
			return cmp.Or(a.TargetARN, a.RoleARN)
		}
		return ""
	}
	return f.firstRole()
}

// firstRole returns the role that is assumed first: by web identity, or by EKS.
func (f *Facts) firstRole() string {
	if f.way() == podspec.PodIdentity {
		if a := f.Association.Value; a != nil {
			return a.RoleARN
		}
		return ""
	}
	if id, err := f.identity(); err == nil && id.RoleARN != "" {
		return id.RoleARN // as the webhook completes it
	}
	if role := f.Settings.Role(f.annotations()); role != "" {
		return role
	}
	for _, c := range f.containers() { // where the service account could not be read
		if v, ok := variable(c, "AWS_ROLE_ARN"); ok {
			return v.Value
		}
	}
	return ""
}

// audience returns the audience of the token that SDKs use.
func (f *Facts) audience() string {
	if f.Pod.Value != nil && (f.given() == f.way() || f.selfMade()) {
		if t := f.projected(); t != nil {
			return cmp.Or(t.Audience, "the API server's own")
		}
	}
	id, err := f.identity()
	if err != nil || id.Audience == "" {
		return f.projection().Audience
	}
	return id.Audience
}

// projected returns the token of the way that is projected into the pod, or nil.
func (f *Facts) projected() *corev1.ServiceAccountTokenProjection {
	name := f.projection().Volume
	if f.selfMade() {
		name, _ = f.ownToken()
	}
	for _, v := range f.Pod.Value.Spec.Volumes {
		if v.Name != name || v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				return s.ServiceAccountToken
			}
		}
	}
	return nil
}

// containers returns the pod's containers that are to have the identity: those for its start, too.
func (f *Facts) containers() []corev1.Container {
	if f.Pod.Value == nil {
		return nil
	}
	return slices.Concat(f.Pod.Value.Spec.InitContainers, f.Pod.Value.Spec.Containers)
}

// variable returns a variable of a container.
func variable(c corev1.Container, name string) (corev1.EnvVar, bool) {
	for _, v := range slices.Backward(c.Env) { // of two, the last counts
		if v.Name == name {
			return v, true
		}
	}
	return corev1.EnvVar{}, false
}
