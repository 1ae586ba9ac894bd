package doctor

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/policy"
)

// issuerName returns the part of an issuer that names its provider and its condition keys; the port is not part of it.
func issuerName(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	return u.Hostname() + u.EscapedPath()
}

// trial is one question to a trust policy.
type trial struct {
	role      *Role
	principal policy.Principal
	action    string
	keys      *policy.Context
	policies  *policy.Policies // of the principal
}

// trials returns the questions that the first role's trust policy must answer with yes.
func (f *Facts) trials() []trial {
	keys := f.baseKeys(f.Role.Value)
	if f.way() == podspec.WebIdentity {
		name := issuerName(f.issuer())
		keys.Set(name+":sub", f.subject())
		keys.Set(name+":aud", f.audience())
		return []trial{{f.Role.Value, policy.Principal{Kind: policy.WebIdentity, Name: f.providerARN()}, "sts:AssumeRoleWithWebIdentity", keys,
			nil}}
	}
	service := podspec.PodIdentity.Projection().Audience
	keys.Set("aws:PrincipalIsAWSService", "true")
	keys.Set("aws:PrincipalServiceName", service)
	keys.SetList("aws:PrincipalServiceNamesList", []string{service})
	if c := f.Registered.Value; c != nil {
		keys.Set("aws:SourceArn", c.ARN)
		if a, err := arn.Parse(c.ARN); err == nil {
			keys.Set("aws:SourceAccount", a.Account())
		}
	}
	return f.assuming(f.Role.Value, policy.Principal{Kind: policy.Service, Name: service}, keys, nil)
}

// targetTrials returns the questions to the target role's trust policy. What the first role's own policies allow is not known here:
// they are taken to allow it.
func (f *Facts) targetTrials() ([]trial, error) {
	first := f.Role.Value
	name := roleName(first.ARN.String())
	who := policy.Principal{
		Kind: policy.RoleSession, Account: first.ARN.Account(), RoleARN: first.ARN.String(),
		ARN: arn.New(first.ARN.Partition(), "sts", "", first.ARN.Account(), "assumed-role/"+name+"/SESSION").String(),
	}
	own, err := policy.New("own", policy.Identity, []byte(`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sts:*", "Resource": "*"}}`))
	if err != nil {
		return nil, err
	}
	keys := f.baseKeys(f.Target.Value)
	keys.Set("aws:PrincipalIsAWSService", "false")
	keys.Set("aws:PrincipalAccount", who.Account)
	keys.Set("aws:PrincipalArn", who.RoleARN)
	keys.Set("aws:PrincipalType", "AssumedRole")
	if c, err := arn.Parse(value(f.Registered.Value).ARN); err == nil {
		keys.Set("sts:ExternalId", strings.Join([]string{c.Region(), c.Account(), f.Cluster, f.Namespace, f.account()}, "/"))
	}
	return f.assuming(f.Target.Value, who, keys, &policy.Policies{Identity: []*policy.Policy{own}}), nil
}

// assuming returns the questions that assuming a role with the session tags of EKS amounts to.
func (f *Facts) assuming(role *Role, who policy.Principal, keys *policy.Context, own *policy.Policies) []trial {
	all := []trial{{role, who, "sts:AssumeRole", keys, own}}
	if f.Association.Value == nil || f.Association.Value.DisableSessionTags {
		return all
	}
	tags := [][2]string{
		{"eks-cluster-arn", value(f.Registered.Value).ARN}, {"eks-cluster-name", f.Cluster}, {"kubernetes-namespace", f.Namespace},
		{"kubernetes-service-account", f.account()}, {"kubernetes-pod-name", f.PodName}, {"kubernetes-pod-uid", string(value(f.Pod.Value).UID)},
	}
	var names []string
	for _, t := range tags {
		names = append(names, t[0])
		if t[1] != "" {
			keys.Set("aws:RequestTag/"+t[0], t[1])
		}
	}
	keys.SetList("aws:TagKeys", names)
	keys.SetList("sts:TransitiveTagKeys", names)
	return append(all, trial{role, who, "sts:TagSession", keys, own})
}

// baseKeys are the condition keys that any request for a role has.
func (f *Facts) baseKeys(role *Role) *policy.Context {
	keys := new(policy.Context)
	keys.Set("aws:ViaAWSService", "false")
	keys.Set("aws:SecureTransport", "true")
	keys.Set("aws:CurrentTime", f.Now.UTC().Format(time.RFC3339))
	keys.Set("aws:EpochTime", strconv.FormatInt(f.Now.Unix(), 10))
	keys.Set("aws:ResourceAccount", role.ARN.Account())
	for k, v := range role.Tags {
		keys.Set("aws:ResourceTag/"+k, v)
		keys.Set("iam:ResourceTag/"+k, v)
	}
	return keys
}

func checkTrust(f *Facts) Result {
	if f.Role.Value == nil {
		switch {
		case f.proven():
			return ok("The trust policy could not be read, and it works: credentials were given.")
		case strings.Contains(f.refused(), "Not authorized to perform sts:AssumeRoleWithWebIdentity"),
			strings.Contains(f.refused(), "EKS does not have permissions to assume the associated role"):
			return broken(f.statementFix(f.firstRole(), "its trust policy"),
				"The trust policy of role %s could not be read, and STS refuses by it: %s.",
				f.firstRole(), strings.TrimSuffix(f.refused(), "."))
		}
		return f.Role.unknown("the trust policy of role " + f.firstRole())
	}
	if f.way() == podspec.WebIdentity && f.issuer() == "" && !f.proven() {
		return f.Issuer.unknown("the trust policy, which names the issuer of the cluster's tokens")
	}
	return f.judge(f.Role.Value, f.trials())
}

func checkTarget(f *Facts) Result {
	a := f.Association.Value
	switch {
	case f.Target.Absent:
		return broken("Make the role, or name another one with `lanyard association update --target-role-arn`.", "There is no target role %s.",
			a.TargetARN)
	case f.Target.Value == nil && f.proven():
		return ok("The target role %s could not be read, and it works: credentials were given.", a.TargetARN)
	case f.Target.Value == nil:
		return f.Target.unknown("target role " + a.TargetARN)
	case f.Role.Value == nil:
		return f.Role.unknown("role " + a.RoleARN + ", which assumes the target role")
	}
	all, err := f.targetTrials()
	if err != nil {
		return unknown("", "The target role's trust policy cannot be asked: %s.", err)
	}
	return f.judge(f.Target.Value, all)
}

// judge asks a role's trust policy, by the engine that decides in Lanyard's own STS.
func (f *Facts) judge(role *Role, all []trial) Result {
	trust, err := policy.New(role.ARN.String(), policy.Trust, role.Trust)
	if err != nil {
		if f.proven() {
			return ok("The trust policy lets the pod have the role: credentials were given.").note("It could not be read here: %s.", err)
		}
		return unknown("", "The trust policy of role %s could not be read: %s.", role.ARN, strings.TrimSuffix(err.Error(), "."))
	}
	for _, t := range all {
		r := policy.Request{Principal: t.principal, Action: t.action, Resource: role.ARN.String(), ResourceAccount: role.ARN.Account(),
			Context: t.keys}
		if d := policy.ExplainTrust(&r, trust, t.policies); !d.Allowed {
			if f.proven() {
				return ok("The trust policy of role %s lets the pod have it: credentials were given.", role.ARN)
			}
			return f.denied(role, t, d)
		}
	}
	return ok("The trust policy of role %s lets %s have it.", role.ARN, f.whose())
}

// whose names those whom a trust policy is to let have a role.
func (f *Facts) whose() string {
	if f.way() == podspec.WebIdentity {
		return f.subject()
	}
	return "EKS for " + f.Namespace + "/" + f.account()
}

// denied says which part of a trust policy is in the way: that of the statement which fits best.
func (f *Facts) denied(role *Role, t trial, d policy.Decision) Result {
	where := "the trust policy of role " + roleName(role.ARN.String())
	if d.Explicit {
		return broken(fmt.Sprintf("Take the statement at line %d out of %s, or narrow it: `aws iam update-assume-role-policy --role-name %s "+
			"--policy-document file://trust.json`.",
			d.Line, where, roleName(role.ARN.String())), "%s denies %s to %s, by its statement at line %d%s.", capital(where), t.action,
			f.whose(), d.Line, sid(d.Sid))
	}
	s := nearest(d.Explanation)
	if s == nil {
		return broken(f.statementFix(role.ARN.String(), where), "%s has no statement that could allow %s.", capital(where), t.action)
	}
	m, at := s.Failed, fmt.Sprintf("line %d", s.Failed.Start.Line)
	update := fmt.Sprintf("`aws iam update-assume-role-policy --role-name %s --policy-document file://trust.json`", roleName(role.ARN.String()))
	got := strings.Join(m.Got, ", ")
	want := strings.Join(m.Want, ", ")
	switch {
	case m.Key == "" && strings.HasSuffix(m.Element, "Action") && t.action == "sts:TagSession":
		return broken(fmt.Sprintf("In %s, let the action at %s be [\"sts:AssumeRole\", \"sts:TagSession\"]: %s. Or do without session tags: "+
			"`lanyard association update -n %s -s %s --disable-session-tags`.",
			where, at, update, f.Namespace, f.account()),
			"%s allows sts:AssumeRole, but not sts:TagSession, which EKS needs for the session's tags.", capital(where))
	case m.Key == "" && strings.HasSuffix(m.Element, "Action"):
		return broken(fmt.Sprintf("In %s, let the action at %s be %q: %s.", where, at, t.action, update),
			"%s allows %s at %s, and not %s.", capital(where), want, at, t.action)
	case m.Key == "":
		principal := t.principal.Name
		if t.principal.Kind == policy.RoleSession {
			principal = t.principal.RoleARN
		}
		return broken(f.statementFix(role.ARN.String(), where),
			"%s names the principal %s at %s, and the pod's credentials are asked for by %s.", capital(where), want, at, principal)
	case m.Missing && !strings.HasSuffix(m.Key, ":sub") && !strings.HasSuffix(m.Key, ":aud") && !strings.HasPrefix(m.Key, "aws:RequestTag/"):
		if f.refused() == "" {
			return unknown("Ask from where the pod runs, or with `lanyard explain --context KEY=VALUE`.",
				"%s has a condition on %s at %s, which cannot be known here.", capital(where), m.Key, at)
		}
	case m.Missing && (strings.HasSuffix(m.Key, ":sub") || strings.HasSuffix(m.Key, ":aud")):
		suffix := m.Key[strings.LastIndexByte(m.Key, ':'):]
		return broken(fmt.Sprintf("In %s, write %q instead of %q at %s: %s.", where, issuerName(f.issuer())+suffix, m.Key, at, update),
			"%s has a condition on %s at %s, which is of another issuer than the cluster's, %s.", capital(where), m.Key, at, f.issuer())
	}
	r := broken(fmt.Sprintf("In %s, let %s at %s be %q: %s.", where, m.Key, at, got, update),
		"%s wants %s to be %s (%s at %s), and the pod's is %s.", capital(where), m.Key, want, m.Operator, at, got)
	if len(m.Got) == 0 {
		r.Text = fmt.Sprintf("%s wants %s to be %s (%s at %s), and the request has none.", capital(where), m.Key, want, m.Operator, at)
		r.Fix = fmt.Sprintf("Take that condition out of %s, or see to it that the request has the key: %s.", where, update)
	}
	wildcards := slices.ContainsFunc(m.Want, func(w string) bool { return strings.ContainsAny(w, "*?") })
	switch {
	case wildcards && !strings.Contains(strings.ToLower(m.Operator), "like"):
		r.Fix = fmt.Sprintf("In %s, write StringLike instead of %s at %s, or name %q itself: %s.", where, m.Operator, at, got, update)
		r = r.note("%s compares letter by letter: * and ? are no wildcards in it.", m.Operator)
	case slices.ContainsFunc(m.Want, func(w string) bool { return similar(w, got) }):
		r = r.note("They are almost the same: it looks like a slip of the pen.")
	}
	return r
}

func sid(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// nearest returns the Allow statement of a trust policy that got furthest: elements are looked at in the order of principal, action
// and conditions. It is nil when there is none.
func nearest(e *policy.Explanation) *policy.StatementExplanation {
	rank := func(m *policy.Mismatch) int {
		switch {
		case m.Key != "" || m.Element == "Condition":
			return 3
		case strings.HasSuffix(m.Element, "Action"):
			return 2
		}
		return 1
	}
	var best *policy.StatementExplanation
	for _, l := range e.Layers {
		if l.Layer != policy.TrustLayer {
			continue
		}
		for i := range l.Statements {
			if s := &l.Statements[i]; s.Effect == "Allow" && s.Failed != nil && (best == nil || rank(s.Failed) > rank(best.Failed)) {
				best = s
			}
		}
	}
	return best
}

// statementFix says which statement lets the pod have a role.
func (f *Facts) statementFix(role, where string) string {
	statement := map[string]any{"Effect": "Allow"}
	switch {
	case f.way() == podspec.WebIdentity:
		name := issuerName(f.issuer())
		statement["Principal"] = map[string]string{"Federated": f.providerARN()}
		statement["Action"] = "sts:AssumeRoleWithWebIdentity"
		statement["Condition"] = map[string]any{"StringEquals": map[string]string{name + ":sub": f.subject(), name + ":aud": f.audience()}}
	case f.Association.Value != nil && role == f.Association.Value.TargetARN:
		statement["Principal"] = map[string]string{"AWS": f.Association.Value.RoleARN}
		statement["Action"] = []string{"sts:AssumeRole", "sts:TagSession"}
	default:
		statement["Principal"] = map[string]string{"Service": podspec.PodIdentity.Projection().Audience}
		statement["Action"] = []string{"sts:AssumeRole", "sts:TagSession"}
	}
	text, err := json.Marshal(statement)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("Add this statement to %s: %s, with `aws iam update-assume-role-policy --role-name %s --policy-document "+
		"file://trust.json`.", where, text, roleName(role))
}
