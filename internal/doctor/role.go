package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/internal/subject"
)

// proven reports whether credentials were given: then all that STS decides by is as it must be, also where it could not be read.
func (f *Facts) proven() bool { return f.Call.Value != nil && f.Call.Value.Code == "" }

// refused returns what the call was refused with; empty if it was not.
func (f *Facts) refused() string {
	if f.Call.Value == nil || f.Call.Value.Code == "" {
		return ""
	}
	return f.Call.Value.Code + ": " + f.Call.Value.Message
}

// subject is the sub of the service account's tokens.
func (f *Facts) subject() string { return "system:serviceaccount:" + f.Namespace + ":" + f.account() }

func checkToken(f *Facts) Result {
	t := f.Token.Value
	if t == nil {
		return unknown(f.Token.Grant, "No token of service account %s/%s could be had, so that only the pod's specification was read: %s.",
			f.Namespace, f.account(), cmp.Or(f.Token.Why, "none was asked for"))
	}
	source := "a token that the API server gives for the service account"
	if f.PodName != "" {
		source = "a token that the API server gives for the pod"
	}
	if t.Exec {
		source = "the token in the pod"
	}
	audience, err := t.Claims.EffectiveAudience()
	switch want := f.audience(); {
	case err != nil || audience != want:
		return broken(fmt.Sprintf("Project a token for %s alone, and make the pod again.", want),
			"%s is for audience %s, and it must be for %s.", capital(source), strings.Join(t.Claims.Audience, ", "), want)
	case t.Claims.Subject != f.subject():
		return broken(recreate(f), "%s is one of %s, and the pod's is %s.", capital(source), t.Claims.Subject, f.subject())
	case !f.Now.Before(t.Claims.Expires):
		return broken("See that the kubelet of the pod's node runs: it renews the token at 80 % of its life. A program must read the file "+
			"anew each time.",
			"%s ended at %s.", capital(source), t.Claims.Expires.UTC().Format(time.RFC3339))
	case t.Claims.NotBefore.After(f.Now.Add(maxClockSkew)):
		return broken("Set the clocks by NTP.", "%s is valid only from %s.", capital(source), t.Claims.NotBefore.UTC().Format(time.RFC3339))
	}
	return ok("%s is of %s, for audience %s, and valid until %s.", capital(source), t.Claims.Subject, audience,
		t.Claims.Expires.UTC().Format(time.RFC3339))
}

// signs returns the issuer that the cluster's tokens name; empty where it is not known.
func (f *Facts) signs() string {
	if f.Token.Value != nil {
		return f.Token.Value.Claims.Issuer
	}
	return value(f.Issuer.Value).URL
}

// issuer returns the issuer of the cluster's tokens, or where it is not known the one that is registered; empty for neither.
func (f *Facts) issuer() string { return cmp.Or(f.signs(), value(f.Registered.Value).Issuer) }

func checkIssuer(f *Facts) Result {
	issuer := f.signs()
	if issuer == "" {
		return f.Issuer.unknown("the issuer of the cluster's tokens")
	}
	c := f.Registered.Value
	if c != nil && c.Issuer != issuer {
		return broken(fmt.Sprintf("If this is another cluster, name it with --cluster or its kubeconfig with --kube-context. If the API "+
			"server's --service-account-issuer has changed, "+
			"register the cluster anew: `lanyard cluster delete %s`, then `lanyard cluster register %[1]s --kubeconfig FILE`.", f.Cluster),
			"The cluster's tokens are issued by %s, but cluster %s is registered with the issuer %s.", issuer, f.Cluster,
			cmp.Or(c.Issuer, "of nobody"))
	}
	if f.way() == podspec.WebIdentity && !strings.HasPrefix(issuer, "https://") {
		return broken("Give the API server a --service-account-issuer that is an https URL: `lanyard oidc publish --help` says how one is "+
			"published.",
			"The cluster's tokens are issued by %s, which is no https URL: STS takes no tokens of such an issuer.", issuer)
	}
	return ok("The cluster's tokens are issued by %s.", issuer)
}

func checkAssociation(f *Facts) Result {
	a := f.Association.Value
	if a == nil {
		if f.Associations.Value != nil && f.applies() == nil {
			return noWay(f, f.Namespace+"/"+f.account(), f.given())
		}
		if f.proven() {
			return ok("The association could not be read, and it works: credentials were given.")
		}
		return f.Association.unknown("the association")
	}
	text := fmt.Sprintf("Association %s of %s/%s in cluster %s gives role %s", a.ID, a.Whom.Namespace, a.Whom.ServiceAccount, f.Cluster,
		a.RoleARN)
	if a.TargetARN != "" {
		text += " and from it target role " + a.TargetARN
	}
	r := ok("%s.", text)
	if f.Associations.Value != nil {
		who := subject.Subject{Namespace: f.Namespace, ServiceAccount: f.account()}
		for _, other := range *f.Associations.Value {
			if other.ID != a.ID && other.Whom.Covers(who) {
				r = r.note("Association %s of %s/%s fits too, and is less specific.", other.ID, other.Whom.Namespace, other.Whom.ServiceAccount)
			}
		}
	}
	return r
}

// providerARN returns the ARN that the provider of the cluster's issuer has in the role's account.
func (f *Facts) providerARN() string {
	role, err := arn.Parse(f.firstRole())
	if err != nil {
		return ""
	}
	name := issuerName(f.issuer())
	if name == "" {
		return ""
	}
	return arn.New(role.Partition(), "iam", "", role.Account(), "oidc-provider/"+name).String()
}

func checkProvider(f *Facts) Result {
	want := f.providerARN()
	create := fmt.Sprintf("Make it: `aws iam create-open-id-connect-provider --url %s --client-id-list %s`, in the role's account.", f.issuer(),
		f.audience())
	p := f.Provider.Value
	switch {
	case f.Provider.Absent || strings.Contains(f.refused(), "No OpenIDConnect provider found"):
		return broken(create, "The role's account has no OIDC provider %s, so that STS takes no tokens of the cluster's issuer.", want)
	case strings.Contains(f.refused(), "Incorrect token audience") && p == nil, p != nil && !slices.Contains(p.ClientIDs, f.audience()):
		return broken(fmt.Sprintf("Add it: `aws iam add-client-id-to-open-id-connect-provider --open-id-connect-provider-arn %s --client-id %s`.",
			want, f.audience()),
			"The provider %s does not take the audience %s; those that it takes: %s.", want, f.audience(),
			cmp.Or(strings.Join(value(p).ClientIDs, ", "), "none"))
	case p == nil && f.proven():
		return ok("The provider of %s could not be read, and it works: credentials were given.", f.issuer())
	case p == nil:
		return f.Provider.unknown("the provider of the cluster's issuer")
	}
	return ok("The provider %s takes the audience %s.", p.ARN, f.audience())
}

func checkKeys(f *Facts) Result {
	id := ""
	if f.Token.Value != nil {
		id = f.Token.Value.Claims.KeyID
	}
	update := fmt.Sprintf("Bring the registered keys up to date: `lanyard cluster update-keys %s --kubeconfig FILE`; lanyard-webhook does it "+
		"by itself.", f.Cluster)
	refused := f.refused()
	switch p := f.Published.Value; {
	case f.proven():
		return ok("The token's key is known: credentials were given for it.")
	case p != nil && p.Fault != "":
		return broken(sentence(cmp.Or(p.Fix, "see `lanyard oidc check "+f.issuer()+"`")),
			"STS must fetch the keys of %s, and cannot use what is published there: %s.", f.issuer(), p.Fault)
	case p != nil && id != "" && !slices.Contains(p.KeyIDs, id):
		return broken("Publish the API server's keys: `lanyard oidc publish --help` says how.",
			"The token's key %s is not among those that %s publishes: %s.", id, f.issuer(), cmp.Or(strings.Join(p.KeyIDs, ", "), "none"))
	case strings.Contains(refused, "not signed by a key of the cluster's issuer"),
		strings.Contains(refused, "Couldn't retrieve verification key"),
		strings.Contains(refused, "signature is not valid"), strings.Contains(refused, "keys of the cluster's issuer cannot be had"):
		return broken(update, "The token's key %s is not among those that %s has of the issuer %s: %s.", id, f.who(), f.issuer(),
			strings.TrimSuffix(refused, "."))
	case p != nil:
		return ok("The token's key %s is among those that %s publishes.", cmp.Or(id, "without an ID"), f.issuer())
	case id == "":
		return unknown("", "Without a token it cannot be told by which key tokens are signed.")
	case f.Issuer.Value != nil && !slices.Contains(f.Issuer.Value.KeyIDs, id):
		return warn("See that all replicas of the API server have the same --service-account-key-file flags.",
			"The token's key %s is not among those that this API server serves.", id)
	case f.Call.Value == nil:
		return unknown("", "The keys that are registered with a cluster cannot be read, and no credentials were asked for, which would show "+
			"whether key %s is among them.", id)
	}
	return ok("The token's key %s is not what is refused.", id)
}

func checkRole(f *Facts) Result {
	name := f.firstRole()
	switch r := f.Role.Value; {
	case name == "":
		return unknown("", "The role is not known.")
	case f.Role.Absent:
		return broken(fmt.Sprintf("Make the role, or name another one: `aws iam list-roles` lists those of the account; `%s` makes one.",
			f.makeRole()),
			"There is no role %s.", name)
	case r == nil && f.proven():
		return ok("Role %s could not be read, and it works: credentials were given.", name)
	case r == nil:
		return f.Role.unknown("role " + name)
	case r.ARN.String() != name:
		return broken(fmt.Sprintf("Write %s instead, with the role's path.", r.ARN), "There is no role %s; the role of that name is %s.", name,
			r.ARN)
	}
	return ok("Role %s is there.", name)
}

// makeRole is the command that gives the service account a role.
func (f *Facts) makeRole() string {
	if f.way() == podspec.PodIdentity {
		return fmt.Sprintf("lanyard association create --cluster %s -n %s -s %s --role-arn ARN", f.Cluster, f.Namespace, f.account())
	}
	return fmt.Sprintf("lanyard irsa create --cluster %s -n %s -s %s", f.Cluster, f.Namespace, f.account())
}

// eksSession is how long the sessions are that EKS makes, and chainedSession those of a target role (EKS User Guide, "How EKS Pod
// Identity works").
const (
	eksSession     = 6 * time.Hour
	chainedSession = time.Hour
)

func checkSession(f *Facts) Result {
	if f.way() == podspec.PodIdentity {
		life := eksSession
		if a := f.Association.Value; a != nil && a.TargetARN != "" {
			life = chainedSession
		}
		return ok("EKS makes sessions of %s, and the agent renews them.", life)
	}
	r := f.Role.Value
	switch {
	case r != nil && r.MaxSession > 0 && f.Duration > r.MaxSession, strings.Contains(f.refused(), "MaxSessionDuration"):
		return broken(fmt.Sprintf("Let sessions be longer: `aws iam update-role --role-name %s --max-session-duration %d`; or ask for less.",
			roleName(f.firstRole()), int(f.Duration.Seconds())),
			"The program asks for sessions of %s, and the role's MaxSessionDuration is less.", f.Duration)
	case r == nil && f.proven():
		return ok("The role gives sessions of %s.", f.Duration)
	case r == nil:
		return f.Role.unknown("how long the role's sessions may be")
	}
	return ok("Sessions of %s are asked for, and the role gives them for %s at most.", f.Duration, r.MaxSession)
}

func roleName(role string) string { return role[strings.LastIndexByte(role, '/')+1:] }

func checkCall(f *Facts) Result {
	operation := "AssumeRoleWithWebIdentity"
	if f.way() == podspec.PodIdentity {
		operation = "AssumeRoleForPodIdentity"
	}
	switch {
	case f.NoCall:
		return Result{Status: Skipped, Text: "Credentials were not asked for, as --call=false says."}
	case f.proven():
		return ok("%s gives credentials for a token of the pod by %s, valid until %s. They were thrown away.",
			f.who(), operation, f.Call.Value.Expires.UTC().Format(time.RFC3339))
	case f.Call.Value == nil:
		return unknown(f.Call.Grant, "Credentials were not asked for: %s.", cmp.Or(f.Call.Why, "there is no token"))
	case f.Call.Value.Code == "AccessDeniedException" && strings.Contains(f.Call.Value.Message, "eks-auth:AssumeRoleForPodIdentity"):
		return unknown("Have the action eks-auth:AssumeRoleForPodIdentity allowed to your credentials on the cluster, or leave the call out "+
			"with --call=false.",
			"Your own credentials may not ask for a pod's: %s.", strings.TrimSuffix(f.refused(), "."))
	}
	fix := "All that could be read is as it must be: look at conditions on what cannot be known here, such as aws:SourceIp, and at policies " +
		"of the organization."
	if f.Call.Value.Code == "ThrottlingException" || strings.Contains(f.Call.Value.Code, "Unavailable") {
		return unknown("Try again.", "%s answers %s with %s.", f.who(), operation, strings.TrimSuffix(f.refused(), "."))
	}
	return broken(fix, "%s refuses %s: %s.", f.who(), operation, strings.TrimSuffix(f.refused(), "."))
}
