package policy_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/policy"
)

func TestNothingAllowsNothing(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]*policy.Policies{"nil": nil, "none": {}, "another action": identity(t, allow("s3:PutObject", "*"))} {
		d := policy.Evaluate(asks("s3:GetObject", object, nil), p)
		want := policy.Decision{Layer: policy.IdentityLayer, Action: "s3:GetObject"}
		if diff := cmp.Diff(want, d); diff != "" {
			t.Errorf("%s policies: (-want +got)\n%s", name, diff)
		}
	}
	if (policy.Decision{}).Allowed {
		t.Error("the zero decision allows")
	}
}

func TestADecisionNamesItsStatement(t *testing.T) {
	t.Parallel()
	doc := "{\n  \"Statement\": [\n    {\"Effect\":\"Allow\",\"Action\":\"s3:List*\",\"Resource\":\"*\"},\n" +
		"    /**/ {\"Sid\":\"ReadOwn\",\"Effect\":\"Allow\",\"Action\":\"s3:Get*\",\"Resource\":\"*\"},\n" +
		"    {\"Sid\":\"NoSecrets\",\"Effect\":\"Deny\",\"Action\":\"*\",\"Resource\":\"arn:aws:s3:::secrets/*\"}]}"
	doc = replace(doc, "/**/", "    ")
	p := &policy.Policies{Identity: []*policy.Policy{compileDocument(t, policy.Identity, doc)}}
	for resource, want := range map[string]policy.Decision{
		object: {
			Allowed: true, Layer: policy.IdentityLayer, Action: "s3:GetObject", Policy: "the-policy", Sid: "ReadOwn", Statement: 1, Line: 4, Column: 10,
		},
		"arn:aws:s3:::secrets/x": {
			Explicit: true, Layer: policy.IdentityLayer, Action: "s3:GetObject", Policy: "the-policy", Sid: "NoSecrets", Statement: 2, Line: 5, Column: 5,
		},
	} {
		if diff := cmp.Diff(want, policy.Evaluate(asks("s3:GetObject", resource, nil), p)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", resource, diff)
		}
	}
}

// layers describes a request's policies by what each says: allow, deny, or nothing.
type layers struct {
	identity, boundary, session, scp, rcp string
	resource                              string // a statement of the resource's policy
}

const (
	yes  = "allow"
	no   = "deny"
	mute = "silent" // there is a policy, but it does not speak of the action
)

func (l layers) policies(t *testing.T) *policy.Policies {
	t.Helper()
	say := func(kind policy.Kind, what string) []*policy.Policy {
		switch what {
		case "":
			return nil
		case yes:
			return []*policy.Policy{compile(t, kind, allow("s3:*", "*"))}
		case no:
			return []*policy.Policy{compile(t, kind, allow("s3:*", "*"), deny("s3:*", "*"))}
		}
		return []*policy.Policy{compile(t, kind, allow("sqs:*", "*"))}
	}
	p := &policy.Policies{Identity: say(policy.Identity, l.identity), Session: say(policy.Session, l.session)}
	if boundary := say(policy.Boundary, l.boundary); boundary != nil {
		p.Boundary = boundary[0]
	}
	if l.scp != "" {
		p.ServiceControl = [][]*policy.Policy{{compile(t, policy.ServiceControl, allow("*", "*"))}, say(policy.ServiceControl, l.scp)}
	}
	full := grants(`"*"`, "*", "*")
	switch l.rcp {
	case yes:
		p.ResourceControl = [][]*policy.Policy{{compile(t, policy.ResourceControl, full)}}
	case no:
		p.ResourceControl = [][]*policy.Policy{{compile(t, policy.ResourceControl, full, forbids(`"*"`, "s3:*", "*"))}}
	case mute:
		p.ResourceControl = [][]*policy.Policy{{compile(t, policy.ResourceControl, full)}, {compile(t, policy.ResourceControl, grants(`"*"`, "sqs:*", "*"))}}
	}
	if l.resource != "" {
		p.Resource = compile(t, policy.Resource, l.resource)
	}
	return p
}

func TestTheOrderOfEvaluation(t *testing.T) {
	t.Parallel()
	aws := func(principal string) string { return grants(`{"AWS":"`+principal+`"}`, "s3:GetObject", "*") }
	bars := func(principal string) string { return forbids(`{"AWS":"`+principal+`"}`, "s3:GetObject", "*") }
	sessionARN, userARN, bobARN := session().ARN, user().ARN, federated().ARN
	anybody := grants(`"*"`, "s3:GetObject", "*")
	anybodyWhoIs := grants(`"*"`, "s3:GetObject", "*", `"ArnEquals":{"aws:PrincipalArn":"`+roleARN+`"}`)
	anybodyWho := func(operator, value string) string {
		return grants(`"*"`, "s3:GetObject", "*", `"`+operator+`":{"aws:PrincipalArn":"`+value+`"}`)
	}
	unlessOther := grants(`"*"`, "s3:GetObject", "*", `"ArnNotEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/x"}`)
	for _, c := range []struct {
		name      string
		principal policy.Principal
		policies  layers
		want      string // allowed, denied or refused (explicitly), and the layer
	}{
		{"identity", session(), layers{identity: yes}, "allowed by identity-based policy"},
		{"nothing", session(), layers{}, "denied by identity-based policy"},
		{"silence", session(), layers{identity: mute}, "denied by identity-based policy"},
		{"refusal", session(), layers{identity: no}, "refused by identity-based policy"},

		{"boundary allows", session(), layers{identity: yes, boundary: yes}, "allowed by identity-based policy"},
		{"boundary is silent", session(), layers{identity: yes, boundary: mute}, "denied by permissions boundary"},
		{"boundary refuses", session(), layers{identity: yes, boundary: no}, "refused by permissions boundary"},
		{"boundary alone", session(), layers{boundary: yes}, "denied by identity-based policy"},

		{"session policy allows", session(), layers{identity: yes, session: yes}, "allowed by identity-based policy"},
		{"session policy is silent", session(), layers{identity: yes, session: mute}, "denied by session policy"},
		{"session policy refuses", session(), layers{identity: yes, session: no}, "refused by session policy"},
		{"session policy alone", session(), layers{session: yes}, "denied by identity-based policy"},
		{"boundary before session", session(), layers{identity: yes, boundary: mute, session: mute}, "denied by permissions boundary"},

		{"SCP allows", session(), layers{identity: yes, scp: yes}, "allowed by identity-based policy"},
		{"SCP is silent at one level", session(), layers{identity: yes, scp: mute}, "denied by service control policy"},
		{"SCP refuses", session(), layers{identity: yes, scp: no}, "refused by service control policy"},
		{"RCP allows", session(), layers{identity: yes, rcp: yes}, "allowed by identity-based policy"},
		{"RCP is silent at one level", session(), layers{identity: yes, rcp: mute}, "denied by resource control policy"},
		{"RCP refuses", session(), layers{identity: yes, rcp: no}, "refused by resource control policy"},
		{"RCP before SCP", session(), layers{identity: yes, rcp: no, scp: no}, "refused by resource control policy"},
		{"any refusal before silence", session(), layers{rcp: mute, session: no}, "refused by session policy"},

		{"resource names the session", session(), layers{resource: aws(sessionARN)}, "allowed by resource-based policy"},
		{"… beyond boundary and session policy", session(), layers{boundary: mute, session: mute, resource: aws(sessionARN)},
			"allowed by resource-based policy"},
		{"… but not a refusal", session(), layers{boundary: no, resource: aws(sessionARN)}, "refused by permissions boundary"},
		{"… nor the SCP", session(), layers{scp: mute, resource: aws(sessionARN)}, "denied by service control policy"},
		{"resource names another session", session(), layers{resource: aws(sessionARN + "x")}, "denied by identity-based policy"},
		{"resource names the role", session(), layers{resource: aws(roleARN)}, "allowed by resource-based policy"},
		{"resource names the role's ID", session(), layers{resource: aws(roleID)}, "allowed by resource-based policy"},
		{"… within the boundary", session(), layers{boundary: mute, resource: aws(roleARN)}, "denied by permissions boundary"},
		{"… within the session policy", session(), layers{session: mute, resource: aws(roleARN)}, "denied by session policy"},
		{"… both of which allow", session(), layers{boundary: yes, session: yes, resource: aws(roleARN)}, "allowed by resource-based policy"},
		{"resource names role and session", session(), layers{session: mute, resource: grants(`{"AWS":["`+roleARN+`","`+sessionARN+`"]}`, "s3:*", "*")},
			"allowed by resource-based policy"},
		{"resource names the account", session(), layers{resource: aws(home)}, "denied by identity-based policy"},
		{"resource names the account, identity allows", session(), layers{identity: yes, resource: aws("arn:aws:iam::" + home + ":root")},
			"allowed by identity-based policy"},
		{"resource names another account", session(), layers{resource: aws(abroad)}, "denied by identity-based policy"},
		{"resource bars the role", session(), layers{identity: yes, resource: bars(roleARN)}, "refused by resource-based policy"},
		{"resource bars the session", session(), layers{identity: yes, resource: bars(sessionARN)}, "refused by resource-based policy"},
		{"resource bars the account", session(), layers{identity: yes, resource: bars(home)}, "refused by resource-based policy"},
		{"resource bars everybody", session(), layers{identity: yes, resource: bars("*")}, "refused by resource-based policy"},
		{"resource bars a service", session(), layers{identity: yes, resource: forbids(`{"Service":"`+pods+`"}`, "*", "*")}, "allowed by identity-based policy"},
		{"resource bars all but the role", session(), layers{identity: yes, resource: replace(bars(roleARN), "Principal", "NotPrincipal")},
			"allowed by identity-based policy"},
		{"resource bars all but another", session(), layers{identity: yes, resource: replace(bars(userARN), "Principal", "NotPrincipal")},
			"refused by resource-based policy"},
		{"resource names everybody", session(), layers{resource: anybody}, "allowed by resource-based policy"},
		{"… within the session policy", session(), layers{session: mute, resource: anybody}, "denied by session policy"},
		{"… picked by a condition", session(), layers{session: mute, boundary: mute, resource: anybodyWhoIs}, "allowed by resource-based policy"},
		{"… picked by one for any value", session(), layers{session: mute, resource: anybodyWho("ForAnyValue:ArnLike", roleARN)}, "allowed by resource-based policy"},
		{"… not picked by a negated one", session(), layers{session: mute, resource: unlessOther}, "denied by session policy"},
		{"… nor by one that a missing key meets", session(), layers{session: mute, resource: anybodyWho("ArnEqualsIfExists", roleARN)}, "denied by session policy"},
		{"… nor by one for all values", session(), layers{session: mute, resource: anybodyWho("ForAllValues:ArnEquals", roleARN)}, "denied by session policy"},
		{"… nor by one for the key's presence", session(), layers{session: mute, resource: anybodyWho("Null", "false")}, "denied by session policy"},

		{"user by identity", user(), layers{identity: yes}, "allowed by identity-based policy"},
		{"resource names the user", user(), layers{boundary: mute, resource: aws(userARN)}, "allowed by resource-based policy"},
		{"resource names the user's ID", user(), layers{boundary: mute, resource: aws(user().ID)}, "allowed by resource-based policy"},
		{"resource names everybody to a user", user(), layers{boundary: mute, resource: anybody}, "denied by permissions boundary"},
		{"resource names the account to a user", user(), layers{resource: aws(home)}, "denied by identity-based policy"},

		{"federated user without a session policy", federated(), layers{identity: yes}, "denied by session policy"},
		{"federated user with one", federated(), layers{identity: yes, session: yes}, "allowed by identity-based policy"},
		{"federated user by name", federated(), layers{resource: aws(bobARN)}, "allowed by resource-based policy"},
		{"federated user by the user's ID", federated(), layers{session: mute, resource: aws(user().ID)}, "denied by session policy"},
		{"federated user by the user's ID, session allows", federated(), layers{session: yes, resource: aws(user().ID)},
			"allowed by resource-based policy"},

		{"root", root(), layers{}, "allowed by root user"},
		{"root and SCP", root(), layers{scp: mute}, "denied by service control policy"},
		{"root and RCP", root(), layers{rcp: no}, "refused by resource control policy"},
		{"root and resource", root(), layers{resource: bars(home)}, "refused by resource-based policy"},
		{"root named", root(), layers{resource: aws(home)}, "allowed by resource-based policy"},
		{"root with a session policy", root(), layers{session: mute}, "denied by session policy"},

		{"stranger, both sides", stranger(), layers{identity: yes, resource: aws(abroad)}, "allowed by resource-based policy"},
		{"stranger, role named", stranger(), layers{identity: yes, resource: aws(stranger().RoleARN)}, "allowed by resource-based policy"},
		{"stranger, everybody", stranger(), layers{identity: yes, resource: anybody}, "allowed by resource-based policy"},
		{"stranger, own side only", stranger(), layers{identity: yes}, "denied by resource-based policy"},
		{"stranger, resource speaks of others", stranger(), layers{identity: yes, resource: aws(home)}, "denied by resource-based policy"},
		{"stranger, resource only", stranger(), layers{resource: aws(abroad)}, "denied by identity-based policy"},
		{"stranger, session named, resource only", stranger(), layers{resource: aws(stranger().ARN)}, "denied by identity-based policy"},
		{"stranger, session policy is silent", stranger(), layers{identity: yes, session: mute, resource: aws(stranger().ARN)}, "denied by session policy"},
		{"stranger, boundary is silent", stranger(), layers{identity: yes, boundary: mute, resource: aws(abroad)}, "denied by permissions boundary"},
		{"stranger, own refusal", stranger(), layers{identity: no, resource: aws(abroad)}, "refused by identity-based policy"},

		{"service", service(), layers{resource: grants(`{"Service":"`+pods+`"}`, "*", "*")}, "allowed by resource-based policy"},
		{"another service", service(), layers{resource: grants(`{"Service":"ec2.amazonaws.com"}`, "*", "*")}, "denied by resource-based policy"},
		{"service without a policy", service(), layers{}, "denied by resource-based policy"},
		{"service among everybody", service(), layers{resource: anybody}, "allowed by resource-based policy"},
		{"service by account", service(), layers{resource: aws(home)}, "denied by resource-based policy"},
		{"nobody among everybody", policy.Principal{}, layers{resource: anybody}, "allowed by resource-based policy"},
		{"nobody among the AWS type", policy.Principal{}, layers{resource: aws("*")}, "allowed by resource-based policy"},
		{"nobody by account", policy.Principal{}, layers{resource: aws(home)}, "denied by resource-based policy"},
		{"nobody without a policy", policy.Principal{}, layers{identity: yes}, "denied by resource-based policy"},
		{"web identity", webIdentity(), layers{resource: grants(`{"Federated":"`+issuer+`"}`, "*", "*")}, "allowed by resource-based policy"},
		{"web identity of another issuer", webIdentity(), layers{resource: grants(`{"Federated":"`+issuer+`2"}`, "*", "*")}, "denied by resource-based policy"},
	} {
		r := &policy.Request{Principal: c.principal, Action: "s3:GetObject", Resource: object, Context: keys("aws:PrincipalArn", roleARN)}
		if c.principal.Account != home {
			r.ResourceAccount = home
		}
		if got := outcome(policy.Evaluate(r, c.policies.policies(t))); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func outcome(d policy.Decision) string {
	verdict := "denied"
	switch {
	case d.Allowed:
		verdict = "allowed"
	case d.Explicit:
		verdict = "refused"
	}
	return fmt.Sprintf("%s by %s", verdict, d.Layer)
}

func TestAnEmptyListOfSessionPoliciesAllowsNothing(t *testing.T) {
	t.Parallel()
	p := identity(t, allow("*", "*"))
	p.Session = []*policy.Policy{}
	check(t, "policies were passed, but none is there", policy.Evaluate(asks("s3:GetObject", object, nil), p), false)
	p.Session = nil
	check(t, "no policies were passed", policy.Evaluate(asks("s3:GetObject", object, nil), p), true)
}

func TestAnEmptyLevelOfTheOrganizationAllowsNothing(t *testing.T) {
	t.Parallel()
	p := identity(t, allow("*", "*"))
	p.ServiceControl = [][]*policy.Policy{{compile(t, policy.ServiceControl, allow("*", "*"))}, {}}
	check(t, "a level without policies", policy.Evaluate(asks("s3:GetObject", object, nil), p), false)
}

func TestSessionPoliciesAddUp(t *testing.T) {
	t.Parallel()
	p := identity(t, allow("s3:*", "*"))
	p.Session = []*policy.Policy{compile(t, policy.Session, allow("s3:Get*", "*")), compile(t, policy.Identity, allow("s3:List*", "*"))}
	check(t, "the first allows", policy.Evaluate(asks("s3:GetObject", object, nil), p), true)
	check(t, "the second allows", policy.Evaluate(asks("s3:ListBucket", bucket, nil), p), true)
	check(t, "neither allows", policy.Evaluate(asks("s3:PutObject", object, nil), p), false)
}

func TestAPolicyOfAnotherUseGivesNothing(t *testing.T) {
	t.Parallel()
	read := asks("s3:GetObject", object, nil)
	trust := compile(t, policy.Trust, trusts(`"AWS":"*"`, "sts:AssumeRole"))
	assume := asks("sts:AssumeRole", roleARN, nil)
	check(t, "a trust policy as the caller's own", policy.Evaluate(assume, &policy.Policies{Identity: []*policy.Policy{trust}}), false)
	both := identity(t, allow("*", "*"))
	both.Resource = compile(t, policy.Identity, deny("s3:Get*", "*"))
	check(t, "a denial without principals as a resource's policy", policy.Evaluate(read, both), false)
	foreign := *read
	foreign.ResourceAccount = abroad
	both.Resource = compile(t, policy.Identity, allow("*", "*"))
	check(t, "an allowance without principals as a resource's policy", policy.Evaluate(&foreign, both), false)
}

func TestTrust(t *testing.T) {
	t.Parallel()
	const assume, web, tag = "sts:AssumeRole", "sts:AssumeRoleWithWebIdentity", "sts:TagSession"
	homeRole, foreignRole := "arn:aws:iam::111122223333:role/target", "arn:aws:iam::444455556666:role/target"
	account := `"AWS":"arn:aws:iam::` + home + `:root"`
	mayAssume := allow(assume, "*")
	for _, c := range []struct {
		name      string
		principal policy.Principal
		action    string
		role      string
		trust     []string
		own       *policy.Policies
		want      string
	}{
		{"no trust", session(), assume, homeRole, []string{trusts(`"AWS":"`+abroad+`"`, assume)}, identity(t, mayAssume), "denied by role trust policy"},
		{"role by ID", session(), assume, homeRole, []string{trusts(`"AWS":"`+roleID+`"`, assume)}, nil, "allowed by role trust policy"},
		{"role by ARN", session(), assume, homeRole, []string{trusts(`"AWS":"`+roleARN+`"`, assume)}, nil, "allowed by role trust policy"},
		{"a namesake made later", session(), assume, homeRole, []string{trusts(`"AWS":"AROA37QFXJP5AAAAAAAAA"`, assume)}, nil, "denied by role trust policy"},
		{"role by ID, session policy is silent", session(), assume, homeRole, []string{trusts(`"AWS":"`+roleID+`"`, assume)},
			layers{session: mute}.policies(t), "denied by session policy"},
		{"role by ID, boundary is silent", session(), assume, homeRole, []string{trusts(`"AWS":"`+roleID+`"`, assume)},
			layers{boundary: mute}.policies(t), "denied by permissions boundary"},
		{"session by name, session policy is silent", session(), assume, homeRole, []string{trusts(`"AWS":"`+session().ARN+`"`, assume)},
			layers{session: mute}.policies(t), "allowed by role trust policy"},
		{"own refusal", session(), assume, homeRole, []string{trusts(`"AWS":"`+roleID+`"`, assume)}, identity(t, deny(assume, homeRole)),
			"refused by identity-based policy"},
		{"own refusal of another role", session(), assume, homeRole, []string{trusts(`"AWS":"`+roleID+`"`, assume)}, identity(t, deny(assume, foreignRole)),
			"allowed by role trust policy"},
		{"trust refuses", session(), assume, homeRole, []string{trusts(account, assume), distrusts(`"AWS":"`+roleID+`"`, "sts:*")}, identity(t, mayAssume),
			"refused by role trust policy"},
		{"trust refuses everybody", webIdentity(), web, homeRole, []string{trusts(`"Federated":"`+issuer+`"`, web), distrusts(`"AWS":"*"`, "sts:*")}, nil,
			"refused by role trust policy"},
		{"account, own policies allow", session(), assume, homeRole, []string{trusts(account, assume)}, identity(t, mayAssume), "allowed by role trust policy"},
		{"account, own policies are silent", session(), assume, homeRole, []string{trusts(account, assume)}, identity(t, allow("s3:*", "*")),
			"denied by identity-based policy"},
		{"account, own policies allow another role", session(), assume, homeRole, []string{trusts(account, assume)}, identity(t, allow(assume, foreignRole)),
			"denied by identity-based policy"},
		{"account by number", user(), assume, homeRole, []string{trusts(`"AWS":"`+home+`"`, assume)}, identity(t, mayAssume), "allowed by role trust policy"},
		{"user by ID", user(), assume, homeRole, []string{trusts(`"AWS":"`+user().ID+`"`, assume)}, layers{boundary: mute}.policies(t),
			"allowed by role trust policy"},
		{"everybody of AWS", session(), assume, homeRole, []string{trusts(`"AWS":"*"`, assume)}, nil, "allowed by role trust policy"},
		{"everybody of AWS, abroad", stranger(), assume, homeRole, []string{trusts(`"AWS":"*"`, assume)}, nil, "denied by identity-based policy"},
		{"everybody of AWS, abroad, own policies allow", stranger(), assume, homeRole, []string{trusts(`"AWS":"*"`, assume)}, identity(t, mayAssume),
			"allowed by role trust policy"},
		{"everybody of AWS has no services", service(), assume, homeRole, []string{trusts(`"AWS":"*"`, assume)}, nil, "denied by role trust policy"},
		{"everybody of AWS has no web identities", webIdentity(), web, homeRole, []string{trusts(`"AWS":"*"`, web)}, nil, "denied by role trust policy"},
		{"everybody of AWS is somebody", policy.Principal{}, assume, homeRole, []string{trusts(`"AWS":"*"`, assume)}, nil, "denied by role trust policy"},
		{"abroad, both sides", session(), assume, foreignRole, []string{trusts(`"AWS":"`+roleID+`"`, assume)}, identity(t, mayAssume),
			"allowed by role trust policy"},
		{"abroad, trust only", session(), assume, foreignRole, []string{trusts(`"AWS":"`+session().ARN+`"`, assume)}, nil, "denied by identity-based policy"},
		{"abroad, own side only", session(), assume, foreignRole, []string{trusts(`"AWS":"`+abroad+`"`, assume)}, identity(t, mayAssume),
			"denied by role trust policy"},
		{"service", service(), assume, homeRole, []string{trusts(`"Service":"`+pods+`"`, assume)}, nil, "allowed by role trust policy"},
		{"service, tags", service(), tag, homeRole, []string{trusts(`"Service":"`+pods+`"`, assume)}, nil, "denied by role trust policy"},
		{"another service", service(), assume, homeRole, []string{trusts(`"Service":"ec2.amazonaws.com"`, assume)}, nil, "denied by role trust policy"},
		{"web identity", webIdentity(), web, homeRole, []string{trusts(`"Federated":"`+issuer+`"`, web)}, nil, "allowed by role trust policy"},
		{"web identity, another action", webIdentity(), web, homeRole, []string{trusts(`"Federated":"`+issuer+`"`, assume)}, nil, "denied by role trust policy"},
		{"web identity, another issuer", webIdentity(), web, homeRole, []string{trusts(`"Federated":"`+issuer+`0"`, web)}, nil, "denied by role trust policy"},
		{"SCP is silent", session(), assume, homeRole, []string{trusts(`"AWS":"`+roleID+`"`, assume)}, layers{scp: mute}.policies(t), "denied by service control policy"},
		{"RCP is silent", service(), assume, homeRole, []string{trusts(`"Service":"`+pods+`"`, assume)}, layers{rcp: mute}.policies(t), "denied by resource control policy"},
		{"root of the account", root(), assume, homeRole, []string{trusts(account, assume)}, nil, "allowed by role trust policy"},
		{"a role of no account", session(), assume, "*", []string{trusts(`"AWS":"`+roleID+`"`, assume)}, nil, "denied by identity-based policy"},
	} {
		r := &policy.Request{Principal: c.principal, Action: c.action, Resource: c.role}
		d := policy.EvaluateTrust(r, compile(t, policy.Trust, c.trust...), c.own)
		if got := outcome(d); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	d := policy.EvaluateTrust(asks(assume, homeRole, nil), nil, identity(t, mayAssume))
	check(t, "a role without a trust policy", d, false)
	r := asks(assume, homeRole, nil)
	r.ResourceAccount = abroad
	d = policy.EvaluateTrust(r, compile(t, policy.Trust, trusts(`"AWS":"`+roleID+`"`, assume)), nil)
	check(t, "a role whose owner the request gives", d, false)
}

// TestIRSA is the trust policy that web identities of a cluster meet, with its conditions.
func TestIRSA(t *testing.T) {
	t.Parallel()
	trust := compile(t, policy.Trust, trusts(`"Federated":"`+issuer+`"`, "sts:AssumeRoleWithWebIdentity",
		`"StringEquals":{"oidc.example.com/id/1:aud":"sts.amazonaws.com","oidc.example.com/id/1:sub":"system:serviceaccount:shop:cart"}`))
	for _, c := range []struct {
		name     string
		aud, sub string
		want     bool
	}{
		{"its service account", "sts.amazonaws.com", "system:serviceaccount:shop:cart", true},
		{"another service account", "sts.amazonaws.com", "system:serviceaccount:shop:cart2", false},
		{"another namespace", "sts.amazonaws.com", "system:serviceaccount:shop2:cart", false},
		{"another audience", "other", "system:serviceaccount:shop:cart", false},
	} {
		r := &policy.Request{
			Principal: webIdentity(), Action: "sts:AssumeRoleWithWebIdentity", Resource: roleARN,
			Context: keys("OIDC.example.com/id/1:AUD", c.aud, "oidc.example.com/id/1:sub", c.sub),
		}
		check(t, c.name, policy.EvaluateTrust(r, trust, nil), c.want)
	}
	r := &policy.Request{Principal: webIdentity(), Action: "sts:AssumeRoleWithWebIdentity", Resource: roleARN}
	check(t, "no claims", policy.EvaluateTrust(r, trust, nil), false)
}
