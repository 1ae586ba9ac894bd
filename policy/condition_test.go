package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

// holds evaluates one condition of an Allow that has no other bound.
func holds(t *testing.T, condition string, context *policy.Context) bool {
	t.Helper()
	return policy.Evaluate(asks("s3:GetObject", object, context), identity(t, allow("*", "*", condition))).Allowed
}

func TestOperators(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		operator, values, request string
		want                      bool
	}{
		{"StringEquals", `"red"`, "red", true},
		{"StringEquals", `"red"`, "Red", false},
		{"StringEquals", `"r*"`, "red", false},
		{"StringEquals", `"r*"`, "r*", true},
		{"StringEquals", `["blue","red"]`, "red", true},
		{"StringEquals", `["blue","red"]`, "green", false},
		{"StringEquals", `true`, "true", true},
		{"StringEquals", `1.50`, "1.50", true},
		{"StringNotEquals", `"red"`, "blue", true},
		{"StringNotEquals", `"red"`, "red", false},
		{"StringNotEquals", `["blue","red"]`, "red", false},
		{"StringNotEquals", `["blue","red"]`, "green", true},
		{"StringEqualsIgnoreCase", `"Red"`, "rED", true},
		{"StringEqualsIgnoreCase", `"Red"`, "reds", false},
		{"StringNotEqualsIgnoreCase", `"Red"`, "rED", false},
		{"StringNotEqualsIgnoreCase", `"Red"`, "blue", true},
		{"StringLike", `"r*d"`, "red/round", true},
		{"StringLike", `"R*d"`, "red", false},
		{"StringLike", `"r?d"`, "read", false},
		{"StringNotLike", `["r*","b*"]`, "blue", false},
		{"StringNotLike", `["r*","b*"]`, "green", true},

		{"NumericEquals", `"10"`, "10.0", true},
		{"NumericEquals", `10`, "010", true},
		{"NumericEquals", `"-0"`, "0", true},
		{"NumericEquals", `"+7"`, "7", true},
		{"NumericEquals", `"9007199254740993"`, "9007199254740992", false},
		{"NumericEquals", `"10"`, "ten", false},
		{"NumericEquals", `"10"`, "1e1", false},
		{"NumericNotEquals", `"10"`, "10.00", false},
		{"NumericNotEquals", `"10"`, "10.01", true},
		{"NumericNotEquals", `"10"`, "ten", true},
		{"NumericLessThan", `"10"`, "9.99", true},
		{"NumericLessThan", `"10"`, "10", false},
		{"NumericLessThan", `"10"`, "-11", true},
		{"NumericLessThan", `"-10"`, "-11", true},
		{"NumericLessThan", `"-10"`, "-9", false},
		{"NumericLessThan", `"-10"`, "9", false},
		{"NumericLessThan", `"0.5"`, "0.45", true},
		{"NumericLessThanEquals", `"10"`, "10", true},
		{"NumericLessThanEquals", `"10"`, "10.1", false},
		{"NumericGreaterThan", `"10"`, "100", true},
		{"NumericGreaterThan", `"10"`, "10", false},
		{"NumericGreaterThanEquals", `"10"`, "10", true},
		{"NumericGreaterThanEquals", `"10"`, "9", false},
		{"NumericGreaterThanEquals", `"10"`, "", false},

		{"DateEquals", `"2025-01-31T12:00:00Z"`, "2025-01-31T12:00:00Z", true},
		{"DateEquals", `"2025-01-31T12:00:00Z"`, "2025-01-31T13:00:00+01:00", true},
		{"DateEquals", `"2025-01-31T12:00:00Z"`, "2025-01-31T06:30-05:30", true},
		{"DateEquals", `"2025-01-31T12:00:00Z"`, "1738324800", true},
		{"DateEquals", `"2025-01-31T12:00:00.5Z"`, "2025-01-31T12:00:00.500Z", true},
		{"DateEquals", `"2025-01-31T12:00:00.5Z"`, "2025-01-31T12:00:00Z", false},
		{"DateEquals", `"2025"`, "2025-01-01T00:00:00Z", true},
		{"DateEquals", `"2025-02"`, "2025-02-01", true},
		{"DateEquals", `"2024-02-29"`, "2024-02-29T00:00Z", true},
		{"DateEquals", `"2025"`, "soon", false},
		{"DateNotEquals", `"2025"`, "2025-01-01", false},
		{"DateNotEquals", `"2025"`, "2026", true},
		{"DateLessThan", `"2025-02-01"`, "2025-01-31T23:59:59.999999999Z", true},
		{"DateLessThan", `"2025-02-01"`, "2025-02-01", false},
		{"DateLessThanEquals", `"2025-02-01"`, "2025-02-01", true},
		{"DateGreaterThan", `"2025-02-01"`, "2025-02-02", true},
		{"DateGreaterThan", `1738324800`, "1738324801", true},
		{"DateGreaterThan", `"2025-02-01"`, "2025-02-01", false},
		{"DateGreaterThanEquals", `"2025-02-01"`, "2025-02-01", true},
		{"DateGreaterThanEquals", `"2025-02-01"`, "2025-01-31", false},

		{"Bool", `"true"`, "TRUE", true},
		{"Bool", `true`, "true", true},
		{"Bool", `"false"`, "true", false},
		{"Bool", `"False"`, "false", true},
		{"Bool", `"true"`, "yes", false},

		{"BinaryEquals", `"QUJD"`, "ABC", true},
		{"BinaryEquals", `"QUJD"`, "QUJD", false},

		{"IpAddress", `"203.0.113.0/24"`, "203.0.113.7", true},
		{"IpAddress", `"203.0.113.9/24"`, "203.0.113.7", true},
		{"IpAddress", `"203.0.113.0/24"`, "203.0.114.7", false},
		{"IpAddress", `"203.0.113.7"`, "203.0.113.7", true},
		{"IpAddress", `"203.0.113.7"`, "203.0.113.8", false},
		{"IpAddress", `"203.0.113.0/24"`, "::ffff:203.0.113.7", true},
		{"IpAddress", `"::ffff:203.0.113.0/120"`, "203.0.113.7", true},
		{"IpAddress", `"2001:db8::/32"`, "2001:0DB8::1", true},
		{"IpAddress", `"2001:db8::1"`, "2001:db8::2", false},
		{"IpAddress", `"0.0.0.0/0"`, "2001:db8::2", false},
		{"IpAddress", `"::/0"`, "203.0.113.7", false},
		{"IpAddress", `"fe80::/10"`, "fe80::1%eth0", false},
		{"IpAddress", `"203.0.113.0/24"`, "203.0.113.7/32", false},
		{"NotIpAddress", `["203.0.113.0/24","2001:db8::/32"]`, "203.0.113.7", false},
		{"NotIpAddress", `["203.0.113.0/24","2001:db8::/32"]`, "198.51.100.1", true},
		{"NotIpAddress", `"203.0.113.0/24"`, "nowhere", true},

		{"ArnLike", `"arn:aws:iam::*:role/*"`, roleARN, true},
		{"ArnEquals", `"arn:aws:iam::*:role/*"`, roleARN, true},
		{"ArnEquals", `"arn:aws:iam::111122223333:role/team/reader"`, roleARN, true},
		{"ArnEquals", `"arn:aws:iam::111122223333:role/team/Reader"`, roleARN, false},
		{"ArnLike", `"arn:aws:iam:*:*:user/*"`, roleARN, false},
		{"ArnLike", `"arn:aws:*:*:*:role/*"`, roleARN, true},
		{"ArnLike", `"arn:aws:iam:*:team/reader:*"`, roleARN, false},
		{"ArnLike", `"arn:aws:logs:*:*:log-group:*"`, "arn:aws:logs:us-east-1:111122223333:log-group:/x:*", true},
		{"ArnLike", `"*"`, roleARN, true},
		{"ArnLike", `"*"`, "not an ARN", false},
		{"ArnLike", `"arn:aws:iam::*:role/*"`, "arn:aws:iam", false},
		{"ArnNotLike", `"arn:aws:iam::*:role/*"`, roleARN, false},
		{"ArnNotLike", `"arn:aws:iam::*:user/*"`, roleARN, true},
		{"ArnNotEquals", `["arn:aws:iam::*:user/*","arn:aws:iam::*:role/*"]`, roleARN, false},
		{"ArnNotEquals", `"arn:aws:iam::*:user/*"`, "not an ARN", true},

		{"Null", `"true"`, "red", false},
		{"Null", `"false"`, "red", true},
		{"Null", `false`, "", true},
		{"Null", `["true","false"]`, "red", true},
	} {
		condition := fmt.Sprintf(`%q:{"Test:Key":%s}`, c.operator, c.values)
		if got := holds(t, condition, keys("test:key", c.request)); got != c.want {
			t.Errorf("%s is %v for %q, want %v", condition, got, c.request, c.want)
		}
	}
}

func TestSetOperators(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		condition string
		request   string // values, separated by spaces
		want      bool
	}{
		{`"ForAllValues:StringEquals":{"aws:TagKeys":["a","b"]}`, "a", true},
		{`"ForAllValues:StringEquals":{"aws:TagKeys":["a","b"]}`, "b a", true},
		{`"ForAllValues:StringEquals":{"aws:TagKeys":["a","b"]}`, "a c", false},
		{`"ForAnyValue:StringEquals":{"aws:TagKeys":["a","b"]}`, "c a", true},
		{`"ForAnyValue:StringEquals":{"aws:TagKeys":["a","b"]}`, "c d", false},
		{`"ForAllValues:StringNotEquals":{"aws:TagKeys":["a","b"]}`, "c d", true},
		{`"ForAllValues:StringNotEquals":{"aws:TagKeys":["a","b"]}`, "c a", false},
		{`"ForAnyValue:StringNotEquals":{"aws:TagKeys":["a","b"]}`, "a c", true},
		{`"ForAnyValue:StringNotEquals":{"aws:TagKeys":["a","b"]}`, "a b", false},
		{`"ForAllValues:StringLike":{"aws:TagKeys":"team-*"}`, "team-a team-b", true},
		{`"ForAllValues:StringLike":{"aws:TagKeys":"team-*"}`, "team-a other", false},
		{`"ForAllValues:NumericLessThan":{"aws:TagKeys":"5"}`, "1 4", true},
		{`"ForAllValues:NumericLessThan":{"aws:TagKeys":"5"}`, "1 5", false},
		{`"ForAnyValue:StringEqualsIfExists":{"aws:TagKeys":"a"}`, "b", false},
		{`"StringEquals":{"aws:TagKeys":"a"}`, "b a", true},
		{`"StringEquals":{"aws:TagKeys":"a"}`, "b c", false},
		{`"StringNotEquals":{"aws:TagKeys":"a"}`, "a b", true},
		{`"StringNotEquals":{"aws:TagKeys":"a"}`, "a a", false},
		{`"Null":{"aws:TagKeys":"true"}`, "a", false},
	} {
		context := new(policy.Context)
		context.SetList("aws:tagkeys", strings.Fields(c.request))
		if got := holds(t, c.condition, context); got != c.want {
			t.Errorf("%s is %v for %s, want %v", c.condition, got, c.request, c.want)
		}
	}
}

func TestConditionsMustAllHold(t *testing.T) {
	t.Parallel()
	two := `"StringEquals":{"a:a":"1","a:b":"2"},"Bool":{"a:c":"true"}`
	for _, c := range []struct {
		context *policy.Context
		want    bool
	}{
		{keys("a:a", "1", "a:b", "2", "a:c", "true"), true},
		{keys("a:a", "1", "a:b", "3", "a:c", "true"), false},
		{keys("a:a", "1", "a:b", "2", "a:c", "false"), false},
		{keys("a:a", "1", "a:b", "2"), false},
	} {
		if got := holds(t, two, c.context); got != c.want {
			t.Errorf("%+v gives %v, want %v", c.context, got, c.want)
		}
	}
	for _, nothing := range []string{``, `"StringEquals":{}`} {
		if !holds(t, nothing, nil) {
			t.Errorf("the empty condition {%s} does not hold", nothing)
		}
	}
}

func TestVariables(t *testing.T) {
	t.Parallel()
	tags := new(policy.Context)
	tags.SetList("aws:TagKeys", []string{"red"})
	for _, c := range []struct {
		condition string
		context   *policy.Context
		want      bool
	}{
		{`"StringEquals":{"t:k":"${aws:username}"}`, keys("t:k", "ann", "aws:username", "ann"), true},
		{`"StringEquals":{"t:k":"${AWS:UserName}"}`, keys("t:k", "ann", "aws:username", "ann"), true},
		{`"StringEquals":{"t:k":"${aws:username}"}`, keys("t:k", "ann", "aws:username", "bob"), false},
		{`"StringEquals":{"t:k":"<${aws:username}/${aws:username}>"}`, keys("t:k", "<a/a>", "aws:username", "a"), true},
		{`"StringEquals":{"t:k":"${aws:PrincipalTag/team name}"}`, keys("t:k", "red", "aws:PrincipalTag/Team Name", "red"), true},
		{`"StringEquals":{"t:k":"${aws:username}"}`, keys("t:k", ""), false},
		{`"StringNotEquals":{"t:k":"${aws:username}"}`, keys("t:k", "ann"), true},
		{`"StringNotEquals":{"t:k":"${aws:username}"}`, keys("t:k", "ann", "aws:username", "ann"), false},
		{`"StringNotEquals":{"t:k":["${aws:username}","ann"]}`, keys("t:k", "ann"), false},
		{`"StringEquals":{"t:k":"${aws:username, 'nobody'}"}`, keys("t:k", "nobody"), true},
		{`"StringEquals":{"t:k":"${aws:username, 'nobody'}"}`, keys("t:k", "nobody", "aws:username", "ann"), false},
		{`"StringEquals":{"t:k":"${aws:username,''}!"}`, keys("t:k", "!"), true},
		{`"StringEquals":{"t:k":"${a:b, 'x}y'}"}`, keys("t:k", "x}y"), true},
		{`"StringLike":{"t:k":"${a:b, '*'}"}`, keys("t:k", "anything"), false},
		{`"StringEquals":{"t:k":"${*}${?}${$}"}`, keys("t:k", "*?$"), true},
		{`"StringLike":{"t:k":"${*}*${?}"}`, keys("t:k", "*abc?"), true},
		{`"StringLike":{"t:k":"${*}*${?}"}`, keys("t:k", "abc?"), false},
		{`"StringLike":{"t:k":"home/${aws:username}/*"}`, keys("t:k", "home/ann/x/y", "aws:username", "ann"), true},
		{`"StringLike":{"t:k":"home/${aws:username}/*"}`, keys("t:k", "home/ann/x", "aws:username", "*"), false},
		{`"StringLike":{"t:k":"home/${aws:username}/*"}`, keys("t:k", "home/*/x", "aws:username", "*"), true},
		{`"StringLike":{"t:k":"home/${aws:username}"}`, keys("t:k", "home/ann", "aws:username", "\xfe"), false},
		{`"StringLike":{"t:k":"home/${aws:username}"}`, keys("t:k", "home/ann", "aws:username", "an?"), false},
		{`"StringEqualsIgnoreCase":{"t:k":"${aws:username}"}`, keys("t:k", "ANN", "aws:username", "ann"), true},
		{`"StringEqualsIgnoreCase":{"t:k":"${aws:username}"}`, keys("t:k", "ANN"), false},
		{`"StringLike":{"t:k":"${aws:username}"}`, keys("t:k", "ANN"), false},
		{`"ArnLike":{"t:k":"arn:aws:iam::*:user/${aws:username}"}`, keys("t:k", user().ARN, "aws:username", "ann"), true},
		{`"ArnLike":{"t:k":"arn:aws:iam::*:user/${aws:username}"}`, keys("t:k", user().ARN, "aws:username", "*"), false},
		{`"ArnLike":{"t:k":"arn:aws:iam::*:user/${aws:username}"}`, keys("t:k", user().ARN), false},
		{`"ArnEquals":{"t:k":"${aws:PrincipalArn}"}`, keys("t:k", user().ARN, "aws:PrincipalArn", user().ARN), true},
		{`"ArnEquals":{"t:k":"${aws:PrincipalArn}"}`, keys("t:k", user().ARN, "aws:PrincipalArn", "*"), false},
		{`"ArnNotEquals":{"t:k":"${aws:PrincipalArn}"}`, keys("t:k", user().ARN), true},
		{`"Bool":{"t:k":"${t:other}"}`, keys("t:k", "true", "t:other", "True"), true},
		{`"Bool":{"t:k":"${t:other}"}`, keys("t:k", "true", "t:other", "false"), false},
		{`"Bool":{"t:k":"${t:other}"}`, keys("t:k", "true", "t:other", "maybe"), false},
		{`"Bool":{"t:k":"${t:other}"}`, keys("t:k", "true"), false},
		{`"StringEquals":{"aws:TagKeys":"${aws:TagKeys}"}`, tags, false},
		{`"StringEquals":{"t:k":"$5 {x}"}`, keys("t:k", "$5 {x}"), true},
	} {
		if got := holds(t, c.condition, c.context); got != c.want {
			t.Errorf("%s is %v with %+v, want %v", c.condition, got, *c.context, c.want)
		}
	}
}

func TestVariablesAreTextInOldVersions(t *testing.T) {
	t.Parallel()
	statement := allow("s3:*", "arn:aws:s3:::${aws:username}", `"StringEquals":{"t:k":"${aws:username"}`)
	for _, version := range []string{``, `"Version":"2008-10-17",`} {
		old := &policy.Policies{Identity: []*policy.Policy{
			compileDocument(t, policy.Identity, `{`+version+`"Statement":`+statement+`}`),
		}}
		context := keys("aws:username", "ann", "t:k", "${aws:username")
		check(t, "the text itself", policy.Evaluate(asks("s3:GetObject", "arn:aws:s3:::${aws:username}", context), old), true)
		check(t, "its value", policy.Evaluate(asks("s3:GetObject", "arn:aws:s3:::ann", context), old), false)
	}
}

func TestVariablesInResources(t *testing.T) {
	t.Parallel()
	own := identity(t, allow("s3:*", "arn:aws:s3:::home/${aws:username}/*"))
	notOwn := `{"Effect":%q,"Action":"s3:*","NotResource":"arn:aws:s3:::home/${aws:username}/*"}`
	ann, nobody := keys("aws:username", "ann"), new(policy.Context)
	ask := func(context *policy.Context) *policy.Request {
		return asks("s3:GetObject", "arn:aws:s3:::home/ann/x", context)
	}
	check(t, "ann's own", policy.Evaluate(ask(ann), own), true)
	check(t, "bob's", policy.Evaluate(ask(keys("aws:username", "bob")), own), false)
	check(t, "a value with a wildcard", policy.Evaluate(ask(keys("aws:username", "*")), own), false)
	check(t, "no value", policy.Evaluate(ask(nobody), own), false)

	others := identity(t, fmt.Sprintf(notOwn, "Allow"))
	check(t, "all but ann's own", policy.Evaluate(ask(ann), others), false)
	check(t, "all but bob's", policy.Evaluate(ask(keys("aws:username", "bob")), others), true)
	check(t, "all but nobody knows whose", policy.Evaluate(ask(nobody), others), false)
	check(t, "another bucket needs no value", policy.Evaluate(asks("s3:GetObject", "arn:aws:sqs:::x", nobody), others), true)

	guarded := identity(t, allow("s3:*", "*"), fmt.Sprintf(notOwn, "Deny"))
	check(t, "denied but ann's own", policy.Evaluate(ask(ann), guarded), true)
	check(t, "denied but bob's", policy.Evaluate(ask(keys("aws:username", "bob")), guarded), false)
	check(t, "denied but nobody knows whose", policy.Evaluate(ask(nobody), guarded), false)
}

func TestALongVariableIsNotCut(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1000)
	if !holds(t, `"StringEquals":{"t:k":"${t:long}"}`, keys("t:k", long, "t:long", long)) {
		t.Error("a long value does not equal itself")
	}
	if holds(t, `"StringEquals":{"t:k":"${t:long}"}`, keys("t:k", long, "t:long", long+"y")) {
		t.Error("a long value equals a longer one")
	}
}
