package policy_test

import (
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

// TestMistakesOfOthers names, row by row, what emulators and auditors of IAM are reported to get wrong.
func TestMistakesOfOthers(t *testing.T) {
	t.Parallel()
	const web = "sts:AssumeRoleWithWebIdentity"
	read := asks("s3:GetObject", object, nil)
	with := func(context *policy.Context) *policy.Request { return asks("s3:GetObject", object, context) }
	assumes := func(who policy.Principal, action string, context *policy.Context) *policy.Request {
		return &policy.Request{Principal: who, Action: action, Resource: "arn:aws:iam::111122223333:role/target", Context: context}
	}
	tags := func(values ...string) *policy.Context {
		c := new(policy.Context)
		c.SetList("aws:TagKeys", values)
		return c
	}
	public := compile(t, policy.Resource, grants(`"*"`, "s3:GetObject", "*"))
	publicTyped := compile(t, policy.Resource, grants(`{"AWS":"*"}`, "s3:GetObject", "*"))
	external := compile(t, policy.Trust, trusts(`"AWS":"`+roleID+`"`, "sts:AssumeRole", `"StringEquals":{"sts:ExternalId":"42"}`))
	oneSubject := compile(t, policy.Trust, trusts(`"Federated":"`+issuer+`"`, web,
		`"StringEquals":{"oidc.example.com/id/1:aud":"sts.amazonaws.com","oidc.example.com/id/1:sub":"system:serviceaccount:shop:cart"}`))
	claims := func(aud, sub string) *policy.Context {
		return keys("oidc.example.com/id/1:aud", aud, "oidc.example.com/id/1:sub", sub)
	}
	ofPods := compile(t, policy.Trust, trusts(`"Service":"`+pods+`"`, "sts:AssumeRole"))
	ofEC2 := compile(t, policy.Trust, trusts(`"Service":"ec2.amazonaws.com"`, "sts:AssumeRole"), trusts(`"Service":"ec2.amazonaws.com"`, "sts:TagSession"))
	unlessTagged := identity(t, allow("s3:*", "*"), deny("*", "*", `"StringNotEquals":{"aws:PrincipalTag/team":"red"}`))
	neither := identity(t, allow("*", "*", `"StringNotEquals":{"t:k":["a","b"]}`))
	barred := identity(t, allow("*", "*"), deny("*", "*", `"StringNotLike":{"t:k":["a*","b*"]}`))
	noSecrets := identity(t, allow("*", "*", `"ForAllValues:StringNotLike":{"aws:TagKeys":"secret-*"}`))
	someTag := identity(t, allow("*", "*", `"ForAnyValue:StringEquals":{"aws:TagKeys":["team","owner"]}`))
	lone := identity(t, allow("*", "*"))
	lone.Identity = append(lone.Identity, compileDocument(t, policy.Identity, `{"Statement":`+deny("s3:*", "*")+`}`))
	limited := identity(t, allow("*", "*"))
	limited.Session = []*policy.Policy{compile(t, policy.Session, allow("s3:List*", "*"))}
	someoneElse := policy.Request{Action: "s3:GetObject", Resource: object, ResourceAccount: home}

	for _, c := range []struct {
		mistake  string
		request  *policy.Request
		trust    *policy.Policy // of a request for a role
		policies *policy.Policies
		want     bool
	}{
		{"conditions of trust policies are ignored", assumes(webIdentity(), web, claims("sts.amazonaws.com", "system:serviceaccount:shop:other")), oneSubject, nil, false},
		{"… also the audience", assumes(webIdentity(), web, claims("other", "system:serviceaccount:shop:cart")), oneSubject, nil, false},
		{"… also when the token has no such claims", assumes(webIdentity(), web, nil), oneSubject, nil, false},
		{"… but the right token passes", assumes(webIdentity(), web, claims("sts.amazonaws.com", "system:serviceaccount:shop:cart")), oneSubject, nil, true},
		{"a missing external ID passes", assumes(session(), "sts:AssumeRole", nil), external, nil, false},
		{"… and a wrong one", assumes(session(), "sts:AssumeRole", keys("sts:ExternalId", "43")), external, nil, false},
		{"… but the right one passes", assumes(session(), "sts:AssumeRole", keys("sts:ExternalId", "42")), external, nil, true},
		{"a role for pods is not asked for its own trust policy", assumes(service(), "sts:AssumeRole", nil), ofEC2, nil, false},
		{"tags of a session need no allowance", assumes(service(), "sts:TagSession", nil), ofPods, nil, false},
		{"… nor does its source identity", assumes(service(), "sts:SetSourceIdentity", nil), ofPods, nil, false},
		{"a role without a trust policy can be assumed", assumes(session(), "sts:AssumeRole", nil), nil, identity(t, allow("*", "*")), false},

		{"a missing key makes negated operators fail: deny unless tagged never fires", read, nil, unlessTagged, false},
		{"… with another tag", with(keys("aws:PrincipalTag/team", "blue")), nil, unlessTagged, false},
		{"… with the tag", with(keys("aws:PrincipalTag/team", "red")), nil, unlessTagged, true},
		{"several values of a negated operator are ORed", with(keys("t:k", "a")), nil, neither, false},
		{"… the other of them", with(keys("t:k", "b")), nil, neither, false},
		{"… none of them", with(keys("t:k", "c")), nil, neither, true},
		{"several patterns of a negated operator are ORed", with(keys("t:k", "beta")), nil, barred, true},
		{"… none of them", with(keys("t:k", "gamma")), nil, barred, false},
		{"negated set operators are unknown", with(tags("team", "secret-1")), nil, noSecrets, false},
		{"… without a secret", with(tags("team", "owner")), nil, noSecrets, true},
		{"set operators are unknown", with(tags("cost", "team")), nil, someTag, true},
		{"… with other tags", with(tags("cost")), nil, someTag, false},
		{"… with none", with(tags()), nil, someTag, false},
		{"a session has all that its role has, whatever its session policy says", read, nil, limited, false},

		{`the principal "*" is nobody`, &someoneElse, nil, &policy.Policies{Resource: public}, true},
		{`the principal {"AWS":"*"} is nobody`, &someoneElse, nil, &policy.Policies{Resource: publicTyped}, true},
		{"* stops at a slash", read, nil, identity(t, allow("s3:*", "arn:aws:s3:::rep*csv")), true},
		{"… in conditions", with(keys("t:k", "a/b/c")), nil, identity(t, allow("s3:*", "*", `"StringLike":{"t:k":"a*c"}`)), true},
		{"… in the resource of an ARN", with(keys("t:k", roleARN)), nil, identity(t, allow("s3:*", "*", `"ArnLike":{"t:k":"arn:aws:iam::*:role/*"}`)), true},
		{"a statement that is one object is not read", read, nil, lone, false},
	} {
		d := policy.Evaluate(c.request, c.policies)
		if c.trust != nil || c.request.Action[:4] == "sts:" {
			d = policy.EvaluateTrust(c.request, c.trust, c.policies)
		}
		check(t, c.mistake, d, c.want)
	}
}

// TestWhatIsNotUnderstoodIsRefused is for the mistakes of those who skip what they cannot read, with its Denies: such a document
// is no policy.
func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	for mistake, doc := range map[string]string{
		"an unknown operator fails open":             document(allow("s3:*", "*"), deny("*", "*", `"StringStartsWith":{"t:k":"a"}`)),
		"… also without keys":                        document(allow("s3:*", "*"), deny("*", "*", `"StringStartsWith":{}`)),
		"an unknown operator of an Allow is met":     document(allow("s3:*", "*", `"StringStartsWith":{"t:k":"a"}`)),
		"an unknown set operator is left out":        document(deny("*", "*", `"ForNoValue:StringEquals":{"t:k":"a"}`)),
		"an operator in another case is unknown":     document(deny("*", "*", `"stringEquals":{"t:k":"a"}`)),
		"an unknown element is skipped":              document(`{"Effect":"Deny","Action":"*","Resource":"*","Unless":{}}`),
		"an unknown element beside the statements":   `{"Statement":` + deny("*", "*") + `,"Statements":[]}`,
		"a resource that is no ARN matches nothing":  document(`{"Effect":"Deny","Action":"*","Resource":"nonsense"}`),
		"an action without a service matches nought": document(deny("GetObject", "*")),
		"an effect in lower case is no Deny":         document(`{"Effect":"deny","Action":"*","Resource":"*"}`),
		"of two elements of a name the last counts":  document(`{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}`),
		"a number that is none is never compared":    document(deny("*", "*", `"NumericLessThan":{"t:k":"ten"}`)),
		"a network that is none contains nothing":    document(deny("*", "*", `"NotIpAddress":{"aws:SourceIp":"10.0.0.0/99"}`)),
		"a variable that does not end is text":       document(deny("*", "arn:aws:s3:::${aws:username")),
		"text behind the document is skipped":        document(allow("s3:*", "*")) + document(deny("*", "*")),
		"a document that is not JSON is skipped":     `{"Statement":[` + deny("*", "*") + `,]}`,
	} {
		if _, err := policy.New("p", policy.Identity, []byte(doc)); err == nil {
			t.Errorf("%s: %s was compiled", mistake, doc)
		}
	}
}
