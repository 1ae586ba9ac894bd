package policy_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

var update = flag.Bool("update", false, "rewrite the golden files under testdata")

// The people and things that the tests are about.
const (
	home    = "111122223333"
	abroad  = "444455556666"
	bucket  = "arn:aws:s3:::reports"
	object  = "arn:aws:s3:::reports/2025/q1.csv"
	roleARN = "arn:aws:iam::111122223333:role/team/reader"
	roleID  = "AROA37QFXJP5LOO5CGXEC"
	pods    = "pods.eks.amazonaws.com"
	issuer  = "arn:aws:iam::111122223333:oidc-provider/oidc.example.com/id/1"
)

func session() policy.Principal {
	return policy.Principal{
		Kind: policy.RoleSession, Account: home, ID: roleID, RoleARN: roleARN,
		ARN: "arn:aws:sts::111122223333:assumed-role/reader/pod-1",
	}
}

func user() policy.Principal {
	return policy.Principal{Kind: policy.User, Account: home, ID: "AIDA37QFXJP5LOO5CGXEC", ARN: "arn:aws:iam::111122223333:user/ann"}
}

func federated() policy.Principal {
	return policy.Principal{
		Kind: policy.Federated, Account: home, ID: "AIDA37QFXJP5LOO5CGXEC", ARN: "arn:aws:sts::111122223333:federated-user/bob",
	}
}

func root() policy.Principal {
	return policy.Principal{Kind: policy.Root, Account: home, ARN: "arn:aws:iam::111122223333:root"}
}

func stranger() policy.Principal {
	return policy.Principal{
		Kind: policy.RoleSession, Account: abroad, ID: "AROA77777JP5LOO5CGXEC", RoleARN: "arn:aws:iam::444455556666:role/visitor",
		ARN: "arn:aws:sts::444455556666:assumed-role/visitor/v",
	}
}

func service() policy.Principal { return policy.Principal{Kind: policy.Service, Name: pods} }

func webIdentity() policy.Principal { return policy.Principal{Kind: policy.WebIdentity, Name: issuer} }

// allow and deny write statements of policies whose principal is what they are attached to; a condition is the inside
// of the Condition element.
func allow(action, resource string, conditions ...string) string {
	return write("Allow", "Action", action, quote(resource), conditions)
}

func deny(action, resource string, conditions ...string) string {
	return write("Deny", "Action", action, quote(resource), conditions)
}

func write(effect, actionElement, action, resource string, conditions []string) string {
	return fmt.Sprintf(`{"Effect":%q,%q:%q,"Resource":%s%s}`, effect, actionElement, action, resource, when(conditions))
}

func when(conditions []string) string {
	if len(conditions) == 0 {
		return ""
	}
	return `,"Condition":{` + strings.Join(conditions, ",") + `}`
}

func quote(s string) string { return `"` + s + `"` }

// trusts and distrusts write statements of trust policies; the principal is the inside of the Principal element.
func trusts(principal, action string, conditions ...string) string {
	return fmt.Sprintf(`{"Effect":"Allow","Principal":{%s},"Action":%q%s}`, principal, action, when(conditions))
}

func distrusts(principal, action string, conditions ...string) string {
	return fmt.Sprintf(`{"Effect":"Deny","Principal":{%s},"Action":%q%s}`, principal, action, when(conditions))
}

// grants writes a statement of a resource's policy; the principal is the whole value of the element.
func grants(principal, action, resource string, conditions ...string) string {
	return fmt.Sprintf(`{"Effect":"Allow","Principal":%s,"Action":%q,"Resource":%q%s}`, principal, action, resource, when(conditions))
}

func forbids(principal, action, resource string, conditions ...string) string {
	return fmt.Sprintf(`{"Effect":"Deny","Principal":%s,"Action":%q,"Resource":%q%s}`, principal, action, resource, when(conditions))
}

// document writes a policy document of statements.
func document(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func compile(t testing.TB, kind policy.Kind, statements ...string) *policy.Policy {
	t.Helper()
	return compileDocument(t, kind, document(statements...))
}

func compileDocument(t testing.TB, kind policy.Kind, doc string) *policy.Policy {
	t.Helper()
	p, err := policy.New("the-policy", kind, []byte(doc))
	if err != nil {
		t.Fatalf("compile %s: %v (%s)", doc, err, detail(err))
	}
	return p
}

func detail(err error) string {
	if e, ok := err.(*policy.Error); ok {
		return fmt.Sprintf("%d:%d %s", e.Line, e.Column, e.Detail)
	}
	return "no place"
}

func identity(t testing.TB, statements ...string) *policy.Policies {
	t.Helper()
	return &policy.Policies{Identity: []*policy.Policy{compile(t, policy.Identity, statements...)}}
}

// keys makes a context of single values, given as key, value, key, value.
func keys(pairs ...string) *policy.Context {
	c := new(policy.Context)
	for i := 0; i < len(pairs); i += 2 {
		c.Set(pairs[i], pairs[i+1])
	}
	return c
}

// asks is a request of the session for an action on a resource.
func asks(action, resource string, context *policy.Context) *policy.Request {
	return &policy.Request{Principal: session(), Action: action, Resource: resource, Context: context}
}

// check compares whether a decision allows.
func check(t *testing.T, what string, d policy.Decision, want bool) {
	t.Helper()
	if d.Allowed != want {
		t.Errorf("%s: %v, want allowed %v", what, d, want)
	}
}

func TestNewKeepsNameAndKind(t *testing.T) {
	t.Parallel()
	p, err := policy.New("inline", policy.Boundary, []byte(document(allow("s3:*", "*"))))
	if err != nil {
		t.Fatal(err)
	}
	if p.Name() != "inline" || p.Kind() != policy.Boundary {
		t.Errorf("got %q of kind %d", p.Name(), p.Kind())
	}
	for _, kind := range []policy.Kind{0, policy.ResourceControl + 1} {
		if _, err := policy.New("inline", kind, []byte(document(allow("s3:*", "*")))); err == nil {
			t.Errorf("the unknown kind %d was compiled", kind)
		}
	}
}

func TestActions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, action string
		want            bool
	}{
		{"s3:GetObject", "s3:GetObject", true},
		{"s3:GetObject", "s3:PutObject", false},
		{"s3:GetObject", "s3:GetObjectAcl", false},
		{"S3:getobject", "s3:GetObject", true},
		{"s3:GetObject", "S3:GETOBJECT", true},
		{"s3:Get*", "s3:GetObject", true},
		{"s3:Get*", "s3:Get", true},
		{"s3:Get*", "s3:PutObject", false},
		{"s3:*Object", "s3:GetObject", true},
		{"s3:*Object", "s3:GetObjects", false},
		{"s3:?etObject", "s3:GetObject", true},
		{"s3:?etObject", "s3:etObject", false},
		{"s3:*", "s3:ListBucket", true},
		{"s3:*", "s3-object-lambda:ListBucket", false},
		{"s*:GetObject", "s3:GetObject", true},
		{"*:Get*", "ec2:GetConsoleOutput", true},
		{"*:Get*", "ec2:DescribeInstances", false},
		{"*", "ec2:DescribeInstances", true},
		{"*", "nonsense", true},
		{"s3:*", "s3", true}, // an action without a name is of its service
		{"s3:Get*", "s3", false},
	} {
		d := policy.Evaluate(asks(c.action, "*", nil), identity(t, allow(c.pattern, "*")))
		check(t, fmt.Sprintf("%s on a policy that allows %s", c.action, c.pattern), d, c.want)
		not := `{"Effect":"Allow","NotAction":"` + c.pattern + `","Resource":"*"}`
		d = policy.Evaluate(asks(c.action, "*", nil), identity(t, not))
		check(t, fmt.Sprintf("%s on a policy that allows all but %s", c.action, c.pattern), d, !c.want)
	}
}

func TestResources(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, resource string
		want              bool
	}{
		{object, object, true},
		{object, strings.ToUpper(object), false},
		{"arn:aws:s3:::reports/*", object, true},
		{"arn:aws:s3:::reports*", bucket, true},
		{"arn:aws:s3:::reports/*", bucket, false},
		{"arn:aws:s3:::report?", bucket, true},
		{"arn:aws:s3:::reports?", bucket, false},
		{"arn:aws:s3:::*/q1.csv", object, true},
		{"arn:aws:s3:::*/q2.csv", object, false},
		{"arn:aws:s3:::*", object, true},
		{"*", object, true},
		{"*", "*", true},
		{"*", "", true},
		{"arn:aws:s3:::*", "*", false},
		{"arn:aws:s3:::*", "reports", false},
		{"arn:aws:s3:::*", "arx:aws:s3:::reports", false},
		{"arn:aws:iam::*:role/*", roleARN, true},
		{"arn:aws:iam::111122223333:role/team/*", roleARN, true},
		{"arn:aws:iam::444455556666:role/*", roleARN, false},
		{"arn:aws:iam::111*:role/*", roleARN, true},
		{"arn:aws-cn:iam::*:role/*", roleARN, false},
		{"arn:*:iam::*:role/*", roleARN, true},
		{"arn:aws:logs:*:*:log-group:*", "arn:aws:logs:us-east-1:111122223333:log-group:/x:log-stream:y", true},
		{"arn:aws:logs:*:*:*:y", "arn:aws:logs:us-east-1:111122223333:log-group:/x:log-stream:y", true},
		{"arn:aws:sqs:*", "arn:aws:sqs:us-east-1:111122223333:jobs", true},
		{"arn:aws:sqs:us-east-1", "arn:aws:sqs:us-east-1:111122223333:jobs", true},
		{"arn:aws:sqs:us-east-1", "arn:aws:sqs:us-east-2:111122223333:jobs", false},
		{"arn:aws:sqs", "arn:aws:sqs:us-east-1:111122223333:jobs", true},
		{"arn:aws:s3:::*:*:*:*", "arn:aws:s3:::a:b", false},
	} {
		d := policy.Evaluate(asks("s3:GetObject", c.resource, nil), identity(t, allow("s3:GetObject", c.pattern)))
		check(t, fmt.Sprintf("%s on a policy for %s", c.resource, c.pattern), d, c.want)
		not := `{"Effect":"Allow","Action":"*","NotResource":"` + c.pattern + `"}`
		d = policy.Evaluate(asks("s3:GetObject", c.resource, nil), identity(t, not))
		check(t, fmt.Sprintf("%s on a policy for all but %s", c.resource, c.pattern), d, !c.want)
	}
}

func TestWildcards(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"?", "", false},
		{"?", "ü", true},
		{"??", "ü", false},
		{"*ü", "büü", true},
		{"b*?", "b", false},
		{"**", "x", true},
		{"a*b*c", "a1b2c", true},
		{"a*b*c", "a1b2", false},
		{"*a*b", "ab ab", true},
		{"*a?b*", "xxazbyy", true},
		{"*a?b", "aab ayb", true},
		{"a*", "b", false},
		{"*.csv", "a.csv.csv", true},
		{"ab**", "ab", true},
		{"ab*?", "ab", false},
		{"\xc3\xbc", "\xc3", false},
		{"*", "\xfe\xff", true},
		{"?", "\xfe", true},
		{"a", "\xfe", false},
		{"*??b*", "x", false},
		{"*?a?*", "xa", false},
		{"*?a?*", "xay", true},
		{"*a?b*", "aabab axb", true},
		{"*a?b*", "aüb", true},
		{"*a?b*", "aüüb", false},
		{"*ö?ö*", "öaaöüöx", true},
		{"*a?b?c*", "a1b a2b3c", true},
		{"*a" + strings.Repeat("?", 63) + "b*", "aa" + strings.Repeat("x", 63) + "b", true},
		{"*a" + strings.Repeat("?", 63) + "b*", "a" + strings.Repeat("ü", 62) + "b", false},
		{"*a" + strings.Repeat("?", 200) + "b*", "a" + strings.Repeat("ü", 200) + "b", true},
		{"*a" + strings.Repeat("?", 200) + "b*", "a" + strings.Repeat("ü", 199) + "b", false},
	} {
		p := identity(t, allow("s3:*", "*", `"StringLike":{"s3:prefix":"`+c.pattern+`"}`))
		check(t, fmt.Sprintf("%q against %q", c.text, c.pattern), policy.Evaluate(asks("s3:ListBucket", bucket, keys("s3:prefix", c.text)), p), c.want)
	}
}

func TestAPatternOfManyWildcardsIsCheap(t *testing.T) {
	t.Parallel()
	// Backtracking into every star would take longer than the universe has.
	for _, pattern := range []string{strings.Repeat("*a", 200) + "*b", "*" + strings.Repeat("a?", 200) + "b*", "*" + strings.Repeat("a", 400) + "b"} {
		text := strings.Repeat("a", 4000)
		p := identity(t, allow("s3:*", "*", `"StringLike":{"s3:prefix":"`+pattern+`"}`))
		check(t, "a text without b", policy.Evaluate(asks("s3:ListBucket", bucket, keys("s3:prefix", text)), p), false)
		check(t, "a text with b", policy.Evaluate(asks("s3:ListBucket", bucket, keys("s3:prefix", text+"b")), p), true)
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	var c policy.Context
	c.Set("aws:PrincipalTag/Team", "red")
	c.Set("AWS:principaltag/TEAM", "blue")
	names := []string{"a", "b"}
	c.SetList("aws:TagKeys", names)
	names[0] = "changed by its owner"
	c.SetList("empty", nil)
	copied := c.Clone()
	copied.Set("aws:principaltag/team", "green")
	copied.Set("new", "1")
	for key, want := range map[string]string{"AWS:PrincipalTag/team": "[blue] true", "aws:tagkeys": "[a b] true", "empty": "[] true", "new": "[] false"} {
		values, ok := c.Get(key)
		if got := fmt.Sprint(values, ok); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
		if len(values) > 0 {
			values[0] = "changed by a reader"
		}
	}
	if values, _ := c.Get("aws:PrincipalTag/Team"); values[0] != "blue" {
		t.Errorf("a reader changed the context to %q", values)
	}
	if values, _ := copied.Get("aws:PrincipalTag/Team"); values[0] != "green" {
		t.Errorf("the copy has %q", values)
	}
	if values, ok := (*policy.Context)(nil).Clone().Get("x"); ok {
		t.Errorf("a copy of nothing has %q", values)
	}
}

func TestKeysAreTheSameButForCase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"aws:PrincipalArn", "AWS:PRINCIPALARN", true},
		{"aws:PrincipalArn", "aws:PrincipalArm", false},
		{"aws:PrincipalTag/a@", "aws:PrincipalTag/A`", false}, // they differ by the bit that is the case of letters
		{"aws:PrincipalTag/Größe", "aws:principaltag/GRÖßE", true},
		{"aws:PrincipalTag/Größe", "aws:PrincipalTag/Grösse", false},
		{"aws:PrincipalTag/\u212A", "aws:PrincipalTag/k", true}, // the sign for Kelvin
		{"aws:PrincipalTag/\u212A", "aws:PrincipalTag/K", true},
	} {
		for _, pair := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			var context policy.Context
			context.Set(pair[0], "1")
			_, found := context.Get(pair[1])
			context.Set(pair[1], "2")
			values, _ := context.Get(pair[0])
			if replaced := values[0] == "2"; found != c.same || replaced != c.same {
				t.Errorf("%q set, %q: found %v, replaced %v; want %v", pair[0], pair[1], found, replaced, c.same)
			}
		}
	}
}

func replace(s, old, new string) string { return strings.Replace(s, old, new, 1) }
