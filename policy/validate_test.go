package policy_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

// refused compiles a document and returns its error as "LINE:COLUMN TEXT".
func refused(t *testing.T, kind policy.Kind, doc string) string {
	t.Helper()
	_, err := policy.New("p", kind, []byte(doc))
	if err == nil {
		return "accepted"
	}
	var e *policy.Error
	if !errors.As(err, &e) {
		t.Fatalf("%s: %T is no *policy.Error", doc, err)
	}
	if e.Detail == "" {
		t.Errorf("%s: the error has no detail", doc)
	}
	return fmt.Sprintf("%d:%d %s", e.Line, e.Column, e.Message)
}

// checkRefused compares a document's error with IAM's text, and its place with the text that stands there.
func checkRefused(t *testing.T, kind policy.Kind, doc, at, want string) {
	t.Helper()
	place, message, _ := strings.Cut(refused(t, kind, doc), " ")
	if want == "accepted" {
		message = place
	}
	if message != want {
		t.Errorf("kind %d: %s\n got %s\nwant %s", kind, doc, message, want)
		return
	}
	var line, column int
	if n, _ := fmt.Sscanf(place, "%d:%d", &line, &column); n == 2 && !strings.HasPrefix(doc[column-1:], at) || line > 1 {
		t.Errorf("kind %d: %s\n is refused at %s, not at %s", kind, doc, place, at)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ doc, place string }{
		{"", "1:1"},
		{" \n\t", "2:2"},
		{"{", "1:2"},
		{"{}x", "1:3"},
		{"{} {}", "1:4"},
		{"\xef\xbb\xbf{}", "1:1"},
		{`{"a":1,"a":2}`, "1:8"},
		{`{"a":{"b":[{"c":1,"\u0063":2}]}}`, "1:19"},
		{"{\"ü\":1,\n\"b\" 2}", "2:5"},
		{`{"üü":nul}`, "1:10"},
		{`{"a":truE}`, "1:9"},
		{`{"a":fals}`, "1:10"},
		{`{a:1}`, "1:2"},
		{`{"a":1,}`, "1:8"},
		{`{"a":1 "b":2}`, "1:8"},
		{`{"a":}`, "1:6"},
		{`{"a"`, "1:5"},
		{`{"a`, "1:4"},
		{`{"a":[1,]}`, "1:9"},
		{`{"a":[1 2]}`, "1:9"},
		{`{"a":[`, "1:7"},
		{`{"a":01}`, "1:7"},
		{`{"a":-}`, "1:7"},
		{`{"a":1.}`, "1:8"},
		{`{"a":1e}`, "1:8"},
		{`{"a":1e+}`, "1:9"},
		{`{"a":.5}`, "1:6"},
		{"{\"a\":\"\x00\"}", "1:7"},
		{"{\"a\":\"\n\"}", "1:7"},
		{"{\"a\":\"\xff\"}", "1:7"},
		{"{\"a\":\"ü\xc3\"}", "1:8"},
		{`{"a":"\x"}`, "1:8"},
		{`{"a":"\`, "1:8"},
		{`{"a":"\u12g4"}`, "1:11"},
		{`{"a":"\ud800"}`, "1:13"},
		{`{"a":"\ud800\n"}`, "1:14"},
		{`{"a":"\ud800\u0041"}`, "1:19"},
		{`{"a":"\ud800\u00g1"}`, "1:17"},
		{`{"a":"\udc00\ud800"}`, "1:19"},
		{strings.Repeat("[", 20), "1:18"},
		{`{"a":"` + strings.Repeat("x", policy.MaxDocument) + `"}`, "1:1"},
	} {
		for _, kind := range []policy.Kind{policy.Identity, policy.Trust} {
			if got, want := refused(t, kind, c.doc), c.place+" This policy contains invalid Json"; got != want {
				t.Errorf("%.40q: %s, want %s", c.doc, got, want)
			}
		}
	}
}

func TestJSONThatIsUnusual(t *testing.T) {
	t.Parallel()
	doc := " \r\n{\"\\u0056ersion\":\"2012-10-17\",\"Statement\":{\"Effect\":\"\\u0041llow\",\"Action\":\"s3:\\u0047et*\",\r\n\"Resource\":[\"*\"]," +
		`"Condition":{"NumericEquals":{"t:k":[-1.50E0,1e2,0]}}}}`
	if got, want := refused(t, policy.Identity, doc), "3:55 The policy failed legacy parsing"; got != want {
		t.Errorf("an exponent: %s, want %s", got, want)
	}
	doc = strings.NewReplacer("-1.50E0,1e2,0", `-1.5,0,"\"\\\/\b\f\n\r\t\ud83d\uDE00"`, "NumericEquals", "StringEquals").Replace(doc)
	p := &policy.Policies{Identity: []*policy.Policy{compileDocument(t, policy.Identity, doc)}}
	for _, value := range []string{"-1.5", "0", "\"\\/\b\f\n\r\t😀"} {
		check(t, fmt.Sprintf("the value %q", value), policy.Evaluate(asks("s3:GetObject", object, keys("t:k", value)), p), true)
	}
	full := document(allow("s3:*", "*"))
	full += strings.Repeat(" ", policy.MaxDocument-len(full))
	if got := refused(t, policy.Identity, full); got != "accepted" {
		t.Errorf("a document of the largest size: %s", got)
	}
}

// syntax is IAM's text for what has no meaning.
const (
	syntax      = "Syntax errors in policy."
	legacy      = "The policy failed legacy parsing"
	trustSyntax = "Syntax error in policy."
)

func TestIdentityPoliciesAreValidated(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ doc, at, want string }{
		{`[]`, `[]`, syntax},
		{`{}`, `{}`, syntax},
		{`{"Version":"2012-10-17"}`, `{"Version"`, syntax},
		{`{"Version":"2013-10-17","Statement":` + allow("s3:*", "*") + `}`, `"2013-10-17"`, syntax},
		{`{"Version":20121017,"Statement":` + allow("s3:*", "*") + `}`, `20121017`, syntax},
		{`{"Version":"2008-10-17","Statement":` + allow("s3:*", "*") + `}`, ``, "accepted"},
		{`{"Statement":` + allow("s3:*", "*") + `}`, ``, "accepted"},
		{`{"Id":"x","Statement":` + allow("s3:*", "*") + `}`, ``, "accepted"},
		{`{"Id":["x"],"Statement":` + allow("s3:*", "*") + `}`, `["x"`, syntax},
		{`{"version":"2012-10-17","Statement":` + allow("s3:*", "*") + `}`, `"version"`, syntax},
		{`{"Statement":` + allow("s3:*", "*") + `,"Extra":1}`, `"Extra"`, syntax},
		{`{"Statement":[]}`, `[]`, syntax},
		{`{"Statement":["x"]}`, `"x"`, syntax},
		{`{"Statement":null}`, `null`, syntax},
		{`{"Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*","Extra":1}}`, `"Extra"`, syntax},
		{`{"Statement":{"Action":"s3:*","Resource":"*"}}`, `{"Action"`, syntax},
		{`{"Statement":{"Effect":"Maybe","Action":"s3:*","Resource":"*"}}`, `"Maybe"`, syntax},
		{`{"Statement":{"Effect":true,"Action":"s3:*","Resource":"*"}}`, `true`, syntax},
		{`{"Statement":{"Effect":"allow","Action":"s3:*","Resource":"*"}}`, `"allow"`, legacy},
		{`{"Statement":{"Effect":"DENY","Action":"s3:*","Resource":"*"}}`, `"DENY"`, legacy},
		{`{"Statement":{"Effect":"Allow","Action":"s3:*","NotAction":"s3:*","Resource":"*"}}`, `"s3:*","Resource"`, syntax},
		{`{"Statement":{"Effect":"Allow","Action":"s3:*","NotResource":"*","Resource":"*"}}`, `"*"`, syntax},
		{`{"Statement":{"Effect":"Allow","Action":{},"Resource":"*"}}`, `{}`, syntax},
		{`{"Statement":{"Effect":"Allow","Action":["s3:*",1],"Resource":"*"}}`, `1`, syntax},
		{`{"Statement":{"Effect":"Allow","Action":["s3:*"],"Resource":[["*"]]}}`, `["*"`, syntax},
		{`{"Statement":{"Effect":"Allow","Action":[],"Resource":"*"}}`, `{"Effect"`, "Policy statement must contain actions."},
		{`{"Statement":{"Effect":"Allow","Resource":"*"}}`, `{"Effect"`, "Policy statement must contain actions."},
		{`{"Statement":{"Effect":"Allow","Action":"s3:*"}}`, `{"Effect"`, "Policy statement must contain resources."},
		{`{"Statement":{"Effect":"Allow","Action":"s3:*","Resource":[]}}`, `{"Effect"`, "Policy statement must contain resources."},
		{`{"Statement":{"Effect":"Allow"}}`, `{"Effect"`, "Policy statement must contain actions."},
		{`{"Statement":{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"*"}}`, `"Principal"`, "Policy document should not specify a principal."},
		{`{"Statement":{"Effect":"Allow","NotPrincipal":"*","Action":"s3:*","Resource":"*"}}`, `"NotPrincipal"`, "Policy document should not specify a principal."},
		{`{"Statement":{"Sid":1,"Effect":"Allow","Action":"s3:*","Resource":"*"}}`, `1`, syntax},
		{`{"Statement":{"Sid":"a b","Effect":"Allow","Action":"s3:*","Resource":"*"}}`, `"a b"`, "Statement IDs (SID) must be alpha-numeric. " +
			"Check that your input satisfies the regular expression [0-9A-Za-z]*"},
		{`{"Statement":[{"Sid":"a","Effect":"Allow","Action":"s3:*","Resource":"*"},{"Sid":"a","Effect":"Allow","Action":"s3:*","Resource":"*"}]}`,
			`"a","Effect"`, "Statement IDs (SID) in a single policy must be unique."},
		{`{"Statement":[{"Sid":"","Effect":"Allow","Action":"s3:*","Resource":"*"},{"Sid":"","Effect":"Allow","Action":"s3:*","Resource":"*"}]}`, ``, "accepted"},

		{document(allow("GetObject", "*")), `"GetObject"`, "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."},
		{document(allow("", "*")), `""`, "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."},
		{document(allow(":GetObject", "*")), `":GetObject"`, "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."},
		{document(allow("s3:Get:Object", "*")), `"s3:Get:Object"`, "Actions/Condition can contain only one colon."},
		{document(allow("s 3:GetObject", "*")), `"s 3:GetObject"`, "Vendor s 3 is not valid"},
		{document(allow("s3:", "*")), `"s3:"`, syntax},
		{document(allow("s3-object-lambda:Get*", "*")), ``, "accepted"},
		{document(`{"Effect":"Deny","NotAction":["s3:Get*","List"],"Resource":"*"}`), `"List"`, "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."},

		{document(allow("s3:*", "reports")), `"reports"`, `Resource reports must be in ARN format or "*".`},
		{document(allow("s3:*", "")), `""`, `Resource  must be in ARN format or "*".`},
		{document(allow("s3:*", "**")), `"**"`, `Resource ** must be in ARN format or "*".`},
		{document(allow("s3:*", "s3:aws:s3:::x")), `"s3:aws:s3:::x"`, `Resource s3:aws:s3:::x must be in ARN format or "*".`},
		{document(allow("s3:*", "aws:s3:::x")), `"aws:s3:::x"`, `Partition "s3" is not valid for resource "arn:s3:::x:*".`},
		{document(allow("s3:*", "arn:moon:s3:::x")), `"arn:moon:s3:::x"`, `Partition "moon" is not valid for resource "arn:moon:s3:::x".`},
		{document(allow("s3:*", "arn:aws-us-gov:s3:::x")), ``, "accepted"},
		{document(allow("s3:*", "arn:aws*:s3:::x")), ``, "accepted"},
		{document(allow("s3:*", "arn:aws")), `"arn:aws"`, "Resource vendor must be fully qualified and cannot contain regexes."},
		{document(allow("s3:*", "arn:aws:s*:::x")), `"arn:aws:s*:::x"`, "Resource vendor must be fully qualified and cannot contain regexes."},
		{document(allow("s3:*", "arn:aws::::x")), `"arn:aws::::x"`, legacy},
		{document(allow("s3:*", "arn:aws:s3::x")), `"arn:aws:s3::x"`, legacy},
		{document(allow("s3:*", "arn:aws:s3:::")), `"arn:aws:s3:::"`, legacy},
		{document(allow("s3:*", "arn:aws:sqs:us-east-1")), ``, "accepted"},
		{document(allow("s3:*", "arn:aws:iam:us-east-1:111122223333:role/x")), `"arn:aws:iam:us-east-1:111122223333:role/x"`, "IAM resource arn:aws:iam:us-east-1:111122223333:role/x cannot contain region information."},
		{document(allow("s3:*", "arn:aws:iam::111122223333:*")), ``, "accepted"},
		{document(allow("s3:*", "arn:aws:iam::111122223333:roles/x")), `"arn:aws:iam::111122223333:roles/x"`, `IAM resource path must either be "*" or start with user/, federated-user/, role/, ` +
			"group/, instance-profile/, mfa/, server-certificate/, policy/, sms-mfa/, saml-provider/, oidc-provider/, report/, access-report/."},
		{document(allow("s3:*", "arn:aws:s3::${aws:PrincipalAccount}:x")), `"arn:aws:s3::${aws:PrincipalAccount}:x"`, syntax},
		{document(allow("s3:*", "arn:aws:s3:::${aws:username")), `"arn:aws:s3:::${aws:username"`, syntax},
		{document(allow("s3:*", "arn:aws:s3:::${}")), `"arn:aws:s3:::${}"`, syntax},
		{document(allow("s3:*", "arn:aws:s3:::${a:${b}}")), `"arn:aws:s3:::${a:${b}}"`, syntax},
		{document(allow("s3:*", "arn:aws:s3:::${a:b, default}")), `"arn:aws:s3:::${a:b, default}"`, syntax},
		{document(allow("s3:*", "arn:aws:s3:::${a:b, 'x'")), `"arn:aws:s3:::${a:b, 'x'"`, syntax},
		{document(allow("s3:*", "arn:aws:s3:::${a:b, 'x'y'}")), `"arn:aws:s3:::${a:b, 'x'y'}"`, syntax},

		{document(allow("s3:*", "*", `"Bool":"true"`)), `"true"`, syntax},
		{document(`{"Effect":"Allow","Action":"s3:*","Resource":"*","Condition":[]}`), `[]`, syntax},
		{document(allow("s3:*", "*", `"StringMatches":{"t:k":"x"}`)), `"StringMatches"`, syntax},
		{document(allow("s3:*", "*", `"stringequals":{"t:k":"x"}`)), `"stringequals"`, syntax},
		{document(allow("s3:*", "*", `"ForEachValue:StringEquals":{"t:k":"x"}`)), `"ForEachValue:StringEquals"`, syntax},
		{document(allow("s3:*", "*", `"ForAnyValue:ForAllValues:StringEquals":{"t:k":"x"}`)), `"ForAnyValue:ForAllValues:StringEquals"`, syntax},
		{document(allow("s3:*", "*", `"StringEqualsIfExistsIfExists":{"t:k":"x"}`)), `"StringEqualsIfExistsIfExists"`, syntax},
		{document(allow("s3:*", "*", `"NullIfExists":{"t:k":"true"}`)), `"NullIfExists"`, syntax},
		{document(allow("s3:*", "*", `"ForAllValues:Null":{"t:k":"true"}`)), `"ForAllValues:Null"`, syntax},
		{document(allow("s3:*", "*", `"StringEquals":{"":"x"}`)), `""`, syntax},
		{document(allow("s3:*", "*", `"StringEquals":{"t:k":[]}`)), `[]`, syntax},
		{document(allow("s3:*", "*", `"StringEquals":{"t:k":null}`)), `null`, syntax},
		{document(allow("s3:*", "*", `"StringEquals":{"t:k":{"x":"y"}}`)), `{"x"`, syntax},
		{document(allow("s3:*", "*", `"StringEquals":{"t:k":["x",["y"]]}`)), `["y"`, syntax},
		{document(allow("s3:*", "*", `"StringEquals":{"t:k":"${x"}`)), `"${x"`, legacy},
		{document(allow("s3:*", "*", `"StringEqualsIgnoreCase":{"t:k":"${x"}`)), `"${x"`, legacy},
		{document(allow("s3:*", "*", `"StringLike":{"t:k":"${x"}`)), `"${x"`, legacy},
		{document(allow("s3:*", "*", `"ArnLike":{"t:k":"${x"}`)), `"${x"`, legacy},
		{document(allow("s3:*", "*", `"ArnLike":{"t:k":"role/x"}`)), `"role/x"`, legacy},
		{document(allow("s3:*", "*", `"ArnLike":{"t:k":"arn:aws:iam::role/x"}`)), `"arn:aws:iam::role/x"`, legacy},
		{document(allow("s3:*", "*", `"ArnLike":{"t:k":"brn:aws:iam:::role/x"}`)), `"brn:aws:iam:::role/x"`, legacy},
		{document(allow("s3:*", "*", `"Bool":{"t:k":"yes"}`)), `"yes"`, legacy},
		{document(allow("s3:*", "*", `"Bool":{"t:k":"${x"}`)), `"${x"`, legacy},
		{document(allow("s3:*", "*", `"Null":{"t:k":"yes"}`)), `"yes"`, legacy},
		{document(allow("s3:*", "*", `"Null":{"t:k":"${t:other}"}`)), `"${t:other}"`, legacy},
		{document(allow("s3:*", "*", `"NumericEquals":{"t:k":"ten"}`)), `"ten"`, legacy},
		{document(allow("s3:*", "*", `"NumericEquals":{"t:k":"1."}`)), `"1."`, legacy},
		{document(allow("s3:*", "*", `"NumericEquals":{"t:k":"-+1"}`)), `"-+1"`, legacy},
		{document(allow("s3:*", "*", `"NumericEquals":{"t:k":"${t:other}"}`)), `"${t:other}"`, legacy},
		{document(allow("s3:*", "*", `"BinaryEquals":{"t:k":"QQ"}`)), `"QQ"`, legacy},
		{document(allow("s3:*", "*", `"IpAddress":{"t:k":"203.0.113.0/33"}`)), `"203.0.113.0/33"`, legacy},
		{document(allow("s3:*", "*", `"IpAddress":{"t:k":"203.0.113"}`)), `"203.0.113"`, legacy},
		{document(allow("s3:*", "*", `"IpAddress":{"t:k":"fe80::1%eth0"}`)), `"fe80::1%eth0"`, legacy},
	} {
		checkRefused(t, policy.Identity, c.doc, c.at, c.want)
	}
}

func TestDatesAreValidated(t *testing.T) {
	t.Parallel()
	for value, ok := range map[string]bool{
		"2025": true, "2025-12": true, "2025-12-31": true, "2025-12-31T23:59Z": true, "2025-12-31T23:59:59+23:59": true,
		"2025-12-31T23:59:59.123456789Z": true, "0": true, "123456789012": true, "9223372036854775807": true, "20250131": true,
		"": false, "soon": false, "2025-13": false, "2025-00": false, "2025-02-29": false, "2025-1-1": false, "2025-01-32": false,
		"2025-12-31T": false, "2025-12-31T23:59": false, "2025-12-31T24:00Z": false, "2025-12-31T23:60Z": false, "2025-12-31T23:59:60Z": false,
		"2025-12-31T23:59:59.Z": false, "2025-12-31T23:59:59,5Z": false, "2025-12-31T23:59:59.1234567890Z": false, "2025-12-31T23:59+24:00": false,
		"2025-12-31T23:59+0100": false, "2025-12-31T23:59+01": false, "2025-12-31 23:59Z": false, "2025/12/31": false, "9223372036854775808": false,
		"-1": false, "2025-12-31T23:59:59Zulu": false, "2025-": false, "202": true,
	} {
		got := refused(t, policy.Identity, document(allow("s3:*", "*", `"DateLessThan":{"aws:CurrentTime":"`+value+`"}`)))
		if accepted := got == "accepted"; accepted != ok {
			t.Errorf("the date %q: %s, want accepted %v", value, got, ok)
		}
	}
}

func TestTrustPoliciesAreValidated(t *testing.T) {
	t.Parallel()
	const assume = `"Action":"sts:AssumeRole"`
	one := func(statement string) string { return `{"Statement":` + statement + `}` }
	invalid := func(typ, value string) string { return `Invalid principal in policy: "` + typ + `":"` + value + `"` }
	for _, c := range []struct{ doc, at, want string }{
		{one(trusts(`"AWS":"`+roleARN+`"`, "sts:AssumeRole")), ``, "accepted"},
		{one(trusts(`"AWS":["`+home+`","arn:aws:iam::`+home+`:root","`+roleID+`","`+user().ARN+`","`+session().ARN+`","`+federated().ARN+`"]`, "sts:*")), ``, "accepted"},
		{one(trusts(`"AWS":"*"`, "STS:TagSession")), ``, "accepted"},
		{one(trusts(`"Federated":["`+issuer+`","accounts.google.com","arn:aws:iam::`+home+`:saml-provider/x"]`, "sts:AssumeRoleWithWebIdentity")), ``, "accepted"},
		{one(trusts(`"Service":["`+pods+`","ec2.amazonaws.com.cn"]`, "sts:AssumeRole")), ``, "accepted"},
		{one(`{"Effect":"Allow","Principal":{"AWS":"*"},"NotAction":"sts:TagSession"}`), ``, "accepted"},

		{`{}`, `{}`, "Missing required field Statement"},
		{one(`[]`), `[]`, "Could not parse the policy: Statement is empty!"},
		{`{"Statement":[],"Extra":1}`, `"Extra"`, "Unknown field Extra"},
		{`{"Version":"2012","Statement":[]}`, `"2012"`, trustSyntax},
		{one(`{"Effect":"Allow","Principal":{"AWS":"*"},` + assume + `,"Extra":1}`), `"Extra"`, "Unknown field Extra"},
		{one(`{"Principal":{"AWS":"*"},` + assume + `}`), `{"Principal"`, "Missing required field Effect"},
		{one(`{"Effect":"Allow",` + assume + `}`), `{"Effect"`, "Missing required field Principal"},
		{one(`{"Effect":"Allow","Principal":{"AWS":"*"}}`), `{"Effect"`, "Missing required field Action"},
		{one(`{"Effect":"allow","Principal":{"AWS":"*"},` + assume + `}`), `"allow"`, "Invalid effect: allow"},
		{one(`{"Effect":"Allow","Principal":{},` + assume + `}`), `{}`, "Missing required field Principal cannot be empty!"},
		{one(`{"Effect":"Allow","Principal":{"AWS":[]},` + assume + `}`), `{"AWS"`, "Missing required field Principal cannot be empty!"},
		{one(`{"Effect":"Allow","Principal":"*",` + assume + `}`), `"*"`, `AssumeRolepolicy contained an invalid principal: "STAR":"*".`},
		{one(`{"Effect":"Allow","Principal":"` + home + `",` + assume + `}`), `"111122223333"`, trustSyntax},
		{one(`{"Effect":"Allow","Principal":{"AWS":1},` + assume + `}`), `1`, trustSyntax},
		{one(`{"Effect":"Deny","NotPrincipal":{"AWS":"*"},` + assume + `}`), `"NotPrincipal"`, "AssumeRole policy must not contain NotPrincipal field."},
		{one(`{"Effect":"Allow","Principal":{"AWS":"*"},` + assume + `,"Resource":"*"}`), `"Resource"`, "Has prohibited field Resource"},
		{one(`{"Effect":"Allow","Principal":{"AWS":"*"},` + assume + `,"NotResource":"*"}`), `"NotResource"`, "AssumeRole policy must not contain resources."},
		{one(trusts(`"AWS":"*"`, "*")), `"*"}}`, "AssumeRole policy may only specify STS AssumeRole actions."},
		{one(trusts(`"AWS":"*"`, "s3:GetObject")), `"s3:GetObject"`, "AssumeRole policy may only specify STS AssumeRole actions."},
		{one(trusts(`"AWS":"*"`, "st*:AssumeRole")), `"st*:AssumeRole"`, "AssumeRole policy may only specify STS AssumeRole actions."},
		{one(trusts(`"AWS":"*"`, "sts:")), `"sts:"`, "AssumeRole policy may only specify STS AssumeRole actions."},
		{one(trusts(`"AWS":"*"`, "sts:Assume:Role")), `"sts:Assume:Role"`, "AssumeRole policy may only specify STS AssumeRole actions."},
		{one(trusts(`"AWS":"*"`, "sts:AssumeRole", `"StringIs":{"t:k":"x"}`)), `"StringIs"`, trustSyntax},
		{one(trusts(`"AWS":"*"`, "sts:AssumeRole", `"Bool":{"t:k":"x"}`)), `"x"`, trustSyntax},
		{one(`[{"Sid":"a","Effect":"Allow","Principal":{"AWS":"*"},` + assume + `},{"Sid":"a","Effect":"Allow","Principal":{"AWS":"*"},` + assume + `}]`),
			`"a","Effect"`, "The Statement Ids in the policy are not unique"},

		{one(trusts(`"AWS":"`+home+`1"`, "sts:AssumeRole")), `"1111222233331"`, invalid("AWS", home+"1")},
		{one(trusts(`"AWS":"arn:aws:iam::*:root"`, "sts:AssumeRole")), `"arn:aws:iam::*:root"`, invalid("AWS", "arn:aws:iam::*:root")},
		{one(trusts(`"AWS":"arn:aws:iam::`+home+`:role/*"`, "sts:AssumeRole")), `"arn:aws:iam::111122223333:role/*"`, invalid("AWS", "arn:aws:iam::"+home+":role/*")},
		{one(trusts(`"AWS":"arn:aws:iam::`+home+`:role/"`, "sts:AssumeRole")), `"arn:aws:iam::111122223333:role/"`, invalid("AWS", "arn:aws:iam::"+home+":role/")},
		{one(trusts(`"AWS":"arn:aws:iam::`+home+`:group/x"`, "sts:AssumeRole")), `"arn:aws:iam::111122223333:group/x"`, invalid("AWS", "arn:aws:iam::"+home+":group/x")},
		{one(trusts(`"AWS":"arn:moon:iam::`+home+`:role/x"`, "sts:AssumeRole")), `"arn:moon:iam::111122223333:role/x"`, invalid("AWS", "arn:moon:iam::"+home+":role/x")},
		{one(trusts(`"AWS":"arn:aws:iam:us-east-1:`+home+`:role/x"`, "sts:AssumeRole")), `"arn:aws:iam:us-east-1:111122223333:role/x"`, invalid("AWS", "arn:aws:iam:us-east-1:"+home+":role/x")},
		{one(trusts(`"AWS":"arn:aws:sts::`+home+`:assumed-role/x"`, "sts:AssumeRole")), `"arn:aws:sts::111122223333:assumed-role/x"`, invalid("AWS", "arn:aws:sts::"+home+":assumed-role/x")},
		{one(trusts(`"AWS":"AROAlowercase1234"`, "sts:AssumeRole")), `"AROAlowercase1234"`, invalid("AWS", "AROAlowercase1234")},
		{one(trusts(`"AWS":"AGPA37QFXJP5LOO5CGXEC"`, "sts:AssumeRole")), `"AGPA37QFXJP5LOO5CGXEC"`, invalid("AWS", "AGPA37QFXJP5LOO5CGXEC")},
		{one(trusts(`"Service":"*"`, "sts:AssumeRole")), `"*"`, invalid("SERVICE", "*")},
		{one(trusts(`"Service":"pods"`, "sts:AssumeRole")), `"pods"`, invalid("SERVICE", "pods")},
		{one(trusts(`"CanonicalUser":"79a5"`, "sts:AssumeRole")), `"79a5"`, invalid("CANONICALUSER", "79a5")},
		{one(trusts(`"Human":"ann"`, "sts:AssumeRole")), `"ann"`, invalid("HUMAN", "ann")},
		{one(trusts(`"Federated":"*"`, "sts:AssumeRole")), `"*"`, "Federated principals must be valid domain names or SAML metadata ARNs"},
		{one(trusts(`"Federated":"oidc.example..com"`, "sts:AssumeRole")), `"oidc.example..com"`, "Federated principals must be valid domain names or SAML metadata ARNs"},
		{one(trusts(`"Federated":"oidc.example.com/id/1"`, "sts:AssumeRole")), `"oidc.example.com/id/1"`, "Federated principals must be valid domain names or SAML metadata ARNs"},
		{one(trusts(`"Federated":"`+roleARN+`"`, "sts:AssumeRole")), `"arn:aws:iam::111122223333:role/team/reader"`, "Federated principals must be valid domain names or SAML metadata ARNs"},
		{one(trusts(`"Federated":"arn:moon:iam::`+home+`:oidc-provider/x"`, "sts:AssumeRole")), `"arn:moon:iam::111122223333:oidc-provider/x"`, "Federated principals must be valid domain names or SAML metadata ARNs"},
	} {
		checkRefused(t, policy.Trust, c.doc, c.at, c.want)
	}
}

func TestOtherKindsAreValidated(t *testing.T) {
	t.Parallel()
	own := document(allow("s3:*", "*"))
	everybody := document(grants(`"*"`, "s3:*", "*"))
	ann := document(grants(`{"AWS":"`+user().ARN+`"}`, "s3:*", "*"))
	not := func(effect string) string {
		return document(`{"Effect":"` + effect + `","NotPrincipal":{"AWS":"` + home + `"},"Action":"s3:*","Resource":"*"}`)
	}
	for _, kind := range []policy.Kind{policy.Session, policy.Boundary, policy.ServiceControl} {
		checkRefused(t, kind, own, ``, "accepted")
		checkRefused(t, kind, everybody, `"Principal"`, "Policy document should not specify a principal.")
	}
	for _, c := range []struct {
		kind          policy.Kind
		doc, at, want string
	}{
		{policy.Resource, everybody, ``, "accepted"},
		{policy.Resource, ann, ``, "accepted"},
		{policy.Resource, not("Deny"), ``, "accepted"},
		{policy.Resource, not("Allow"), `"NotPrincipal"`, "Allow with NotPrincipal is not allowed."},
		{policy.Resource, own, `{"Effect"`, "Missing required field Principal"},
		{policy.Resource, replace(everybody, `"Effect"`, `"Sid":"Public read","Effect"`), ``, "accepted"},
		{policy.Resource, replace(everybody, `,"Resource":"*"`, ""), `{"Effect"`, "Policy statement must contain resources."},
		{policy.Resource, replace(everybody, `"Resource":"*"`, `"Resource":"arn:aws:iam::111122223333:root"`), ``, "accepted"},
		{policy.Resource, replace(everybody, `"Principal":"*"`, `"Principal":"*","NotPrincipal":"*"`), `"*","Action"`, syntax},
		{policy.Resource, replace(everybody, `"Principal":"*"`, `"Principal":["*"]`), `["*"`, syntax},
		{policy.ResourceControl, everybody, ``, "accepted"},
		{policy.ResourceControl, ann, `{"AWS"`, "The provided policy document does not meet the requirements of the specified policy type."},
		{policy.ResourceControl, not("Deny"), `{"AWS"`, "The provided policy document does not meet the requirements of the specified policy type."},
		{policy.ResourceControl, own, `{"Effect"`, "Missing required field Principal"},
	} {
		checkRefused(t, c.kind, c.doc, c.at, c.want)
	}
}

func TestOfSeveralFaultsTheGravestIsNamed(t *testing.T) {
	t.Parallel()
	doc := "{\"Version\":\"2012-10-17\",\"Statement\":[\n" +
		"{\"Effect\":\"Allow\",\"Action\":\"Get\",\"Resource\":\"x\"},\n" +
		"{\"Effect\":\"Allow\",\"Resource\":\"x\"},\n" +
		"{\"Effect\":\"allow\",\"Action\":\"s3:*\",\"Resource\":\"*\"},\n" +
		"{\"Effect\":\"Allow\",\"Action\":\"s3:*\",\"Resource\":\"*\",\"Extra\":1}]}"
	for _, want := range []string{
		"5:50 Syntax errors in policy.",
		"4:11 The policy failed legacy parsing",
		"3:1 Policy statement must contain actions.",
		`2:45 Resource x must be in ARN format or "*".`,
		"2:28 Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.",
	} {
		if got := refused(t, policy.Identity, doc); got != want {
			t.Fatalf("%s\n got %s\nwant %s", doc, got, want)
		}
		// Mend that fault.
		switch want[:1] {
		case "5":
			doc = replace(doc, `,"Extra":1`, "")
		case "4":
			doc = replace(doc, `"allow"`, `"Allow"`)
		case "3":
			doc = replace(doc, `{"Effect":"Allow","Resource":"x"}`, allow("s3:*", "*"))
		default:
			doc = replace(doc, `"Resource":"x"`, `"Resource":"*"`)
		}
	}
}

func TestRewritePrincipals(t *testing.T) {
	t.Parallel()
	doc := "{ \"Statement\" : [\r\n\t{\"Principal\":{\"AWS\":[ \"arn:aws:iam::111122223333:role\\/r\" , \"*\"],\"Service\":\"pods.eks.amazonaws.com\"},\"Extra\":{\"AWS\":\"x\"}},\n" +
		"\t{\"NotPrincipal\":{\"Federated\":\"a<b>\"}}, {\"Principal\":\"*\"}, {}] }\n"
	var seen []string
	got, err := policy.RewritePrincipals([]byte(doc), func(typ, value string) (string, error) {
		seen = append(seen, typ+"="+value)
		switch value {
		case "arn:aws:iam::111122223333:role/r":
			return "AROA", nil
		case "a<b>":
			return "\"<é>\"\\", nil
		}
		return value, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(`"arn:aws:iam::111122223333:role\/r"`, `"AROA"`, `"a<b>"`, `"\"<é>\"\\"`).Replace(doc)
	if string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got, want := strings.Join(seen, " "), "AWS=arn:aws:iam::111122223333:role/r AWS=* Service=pods.eks.amazonaws.com Federated=a<b>"; got != want {
		t.Errorf("rewrote %s, want %s", got, want)
	}
	same, err := policy.RewritePrincipals([]byte(doc), func(_, value string) (string, error) { return value, nil })
	if err != nil || string(same) != doc {
		t.Errorf("rewritten to the same it is %q, %v", same, err)
	}
	back, err := policy.RewritePrincipals([]byte(document(trusts(`"AWS":"`+home+`"`, "sts:*"))), func(_, value string) (string, error) {
		return "arn:aws:iam::" + value + ":root", nil
	})
	if want := document(trusts(`"AWS":"arn:aws:iam::`+home+`:root"`, "sts:*")); err != nil || string(back) != want {
		t.Errorf("got %s, %v, want %s", back, err, want)
	}
}

func TestRewritePrincipalsRefuses(t *testing.T) {
	t.Parallel()
	unknown := errors.New("no such role")
	_, err := policy.RewritePrincipals([]byte(document(trusts(`"AWS":"x"`, "sts:*"))), func(string, string) (string, error) { return "", unknown })
	if err != unknown {
		t.Errorf("the error of rewrite comes back as %v", err)
	}
	for doc, want := range map[string]string{
		`{"Statement":`:                  "1:14 This policy contains invalid Json",
		`{}`:                             "1:1 " + syntax,
		`[]`:                             "1:1 " + syntax,
		`{"Statement":[1]}`:              "1:15 " + syntax,
		`{"Statement":{"Principal":[]}}`: "1:27 " + syntax,
		`{"Statement":{"Principal":{"AWS":[1]}}}`:  "1:35 " + syntax,
		`{"Statement":{"NotPrincipal":{"AWS":1}}}`: "1:37 " + syntax,
	} {
		out, err := policy.RewritePrincipals([]byte(doc), func(_, value string) (string, error) { return value, nil })
		var e *policy.Error
		if !errors.As(err, &e) || fmt.Sprintf("%d:%d %s", e.Line, e.Column, e.Message) != want || out != nil {
			t.Errorf("%s: %q, %v, want %s", doc, out, err, want)
		}
	}
}

func TestNewDoesNotKeepTheDocument(t *testing.T) {
	t.Parallel()
	doc := []byte(document(allow("s3:Get*", object)))
	p, err := policy.New("p", policy.Identity, doc)
	if err != nil {
		t.Fatal(err)
	}
	copy(doc, bytes.Repeat([]byte{'x'}, len(doc)))
	check(t, "after the caller changed it", policy.Evaluate(asks("s3:GetObject", object, nil), &policy.Policies{Identity: []*policy.Policy{p}}), true)
}
