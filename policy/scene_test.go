package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

// A scene is a request and everything that bears on it, as texts. An empty text is no document.
type scene struct {
	principal                       policy.Principal
	action, resource, owner         string
	context                         []sceneKey
	identity, session               []string
	passed                          bool // session policies were, even if none is left
	boundary, resourcePolicy, trust string
	serviceControl, resourceControl [][]string
}

type sceneKey struct {
	name string
	naiveKey
}

func (x scene) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "principal %+v\naction %s\nresource %s of %q\n", x.principal, x.action, x.resource, x.owner)
	for _, k := range x.context {
		fmt.Fprintf(&b, "context %s = %q (list: %v)\n", k.name, k.values, k.list)
	}
	x.edit(func(kind policy.Kind, document string) string {
		fmt.Fprintf(&b, "%s: %s\n", kindName(kind), document)
		return document
	})
	return b.String()
}

// kindNames are the kinds as golden files call them.
func kindName(kind policy.Kind) string {
	return [...]string{"", "identity", "trust", "session", "resource", "boundary", "scp", "rcp"}[kind]
}

// edit returns the scene with every document replaced.
func (x scene) edit(document func(policy.Kind, string) string) scene {
	one := func(kind policy.Kind, text string) string {
		if text == "" {
			return ""
		}
		return document(kind, text)
	}
	list := func(kind policy.Kind, texts []string) (out []string) {
		for _, text := range texts {
			out = append(out, one(kind, text))
		}
		return out
	}
	levels := func(kind policy.Kind, levels [][]string) (out [][]string) {
		for _, level := range levels {
			out = append(out, list(kind, level))
		}
		return out
	}
	x.identity, x.session = list(policy.Identity, x.identity), list(policy.Session, x.session)
	x.boundary, x.resourcePolicy, x.trust = one(policy.Boundary, x.boundary), one(policy.Resource, x.resourcePolicy), one(policy.Trust, x.trust)
	x.serviceControl = levels(policy.ServiceControl, x.serviceControl)
	x.resourceControl = levels(policy.ResourceControl, x.resourceControl)
	return x
}

// A compiledScene is a scene in the package's types.
type compiledScene struct {
	request  *policy.Request
	policies *policy.Policies
	trust    *policy.Policy
	texts    map[string]string // of the policies, by name
}

func (x scene) compile(t testing.TB) compiledScene {
	t.Helper()
	context := new(policy.Context)
	for _, k := range x.context {
		if k.list {
			context.SetList(k.name, k.values)
		} else {
			context.Set(k.name, k.values[0])
		}
	}
	texts := make(map[string]string)
	one := func(kind policy.Kind, text string) *policy.Policy {
		if text == "" {
			return nil
		}
		name := fmt.Sprintf("policy-%d", len(texts)+1)
		texts[name] = text
		p, err := policy.New(name, kind, []byte(text))
		if err != nil {
			t.Fatalf("%s: %v (%s)", text, err, detail(err))
		}
		return p
	}
	list := func(kind policy.Kind, texts []string) []*policy.Policy {
		out := make([]*policy.Policy, 0, len(texts))
		for _, text := range texts {
			out = append(out, one(kind, text))
		}
		return out
	}
	c := compiledScene{
		request:  &policy.Request{Principal: x.principal, Action: x.action, Resource: x.resource, ResourceAccount: x.owner, Context: context},
		policies: &policy.Policies{Identity: list(policy.Identity, x.identity), Boundary: one(policy.Boundary, x.boundary)},
		trust:    one(policy.Trust, x.trust),
		texts:    texts,
	}
	c.policies.Resource = one(policy.Resource, x.resourcePolicy)
	if x.passed {
		c.policies.Session = list(policy.Session, x.session)
	}
	for _, level := range x.serviceControl {
		c.policies.ServiceControl = append(c.policies.ServiceControl, list(policy.ServiceControl, level))
	}
	for _, level := range x.resourceControl {
		c.policies.ResourceControl = append(c.policies.ResourceControl, list(policy.ResourceControl, level))
	}
	return c
}

func (c compiledScene) decide() policy.Decision {
	if c.trust != nil {
		return policy.EvaluateTrust(c.request, c.trust, c.policies)
	}
	return policy.Evaluate(c.request, c.policies)
}

func (c compiledScene) explain() policy.Decision {
	if c.trust != nil {
		return policy.ExplainTrust(c.request, c.trust, c.policies)
	}
	return policy.Explain(c.request, c.policies)
}

// dice make choices out of bytes, so that a fuzzer can steer them. When the bytes are used up they make the first choice.
type dice struct{ bytes []byte }

func (d *dice) roll(sides int) int {
	if len(d.bytes) == 0 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return int(b) % sides
}

// once is true once in so many times.
func (d *dice) once(in int) bool { return d.roll(in) == in-1 }

func (d *dice) pick(words ...string) string { return words[d.roll(len(words))] }

// some picks a word, or a list of words, and returns it as JSON.
func (d *dice) some(words ...string) string {
	if d.roll(2) == 0 {
		return d.json(d.pick(words...))
	}
	list := []string{d.json(d.pick(words...))}
	for range d.roll(3) {
		list = append(list, d.json(d.pick(words...)))
	}
	return "[" + strings.Join(list, ",") + "]"
}

// json encodes a text; a number or a boolean it sometimes writes without quotes.
func (d *dice) json(text string) string {
	if (text == "true" || text == "10" || text == "-2.5") && d.once(2) {
		return text
	}
	out, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(out)
}

// A family is a type of values, with the operators that compare them and the key that usually has them.
type family struct {
	key                 string
	operators           []string
	policy, request     []string
	policyWithVariables []string // more values of policies whose version has variables
}

func families() []family {
	return []family{
		{
			"t:string",
			[]string{"StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", "StringLike", "StringNotLike"},
			[]string{"red", "r*", "?e?", "*", "RED", "a*", "$", "${t:string}", "ä?"},
			[]string{"red", "Red", "r*", "a*d", "*", "", "äö", "\xff", "${t:string}"},
			[]string{
				"${T:Other}", "a${t:other}*", "${*}", "r${?}", "${$}{x}", "${t:none}", "${t:none, 'red'}x", "${t:other,''}", "${t:list}", "${t:list, 'red'}",
			},
		},
		{
			"t:number",
			[]string{"NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericLessThanEquals", "NumericGreaterThan", "NumericGreaterThanEquals"},
			[]string{"10", "-2.5", "10.00", "+7", "-0", "9007199254740993", "0.1"},
			[]string{"10", "010", "-2.50", "7", "0", "9007199254740992", "0.10", "ten", "1e1", ""},
			nil,
		},
		{
			"t:date",
			[]string{"DateEquals", "DateNotEquals", "DateLessThan", "DateLessThanEquals", "DateGreaterThan", "DateGreaterThanEquals"},
			[]string{"2025-01-31T12:00:00Z", "2025", "2025-02", "1738324800", "2025-01-31T12:00:00.5Z"},
			[]string{
				"2025-01-31T13:00+01:00", "2025-01-01", "2025-02-01T00:00:00Z", "1738324800", "2025-01-31T12:00:00.500Z", "soon", "2025-02-30",
				"99999999999999999",
			},
			nil,
		},
		{
			"t:bool",
			[]string{"Bool", "Bool", "Null"},
			[]string{"true", "False"},
			[]string{"true", "FALSE", "yes", ""},
			nil,
		},
		{
			"t:bytes",
			[]string{"BinaryEquals"},
			[]string{"QUJD", "/w==", ""},
			[]string{"ABC", "\xff", "", "QUJD"},
			nil,
		},
		{
			"t:address",
			[]string{"IpAddress", "NotIpAddress"},
			[]string{"10.0.0.0/8", "10.1.2.3", "2001:db8::/32", "::ffff:10.1.0.0/112", "::/0", "10.1.2.3/31"},
			[]string{"10.1.2.3", "10.1.2.2", "::ffff:10.1.9.9", "2001:DB8::1", "192.168.0.1", "10.1.2", "10.1.2.3/32", "fe80::1%eth0"},
			nil,
		},
		{
			"aws:PrincipalArn",
			[]string{"ArnEquals", "ArnNotEquals", "ArnLike", "ArnNotLike", "StringEquals", "Null"},
			[]string{"*", "arn:aws:iam::*:role/*", "arn:aws:iam::111122223333:user/ann", "arn:aws:iam:*:*:role/team/re?der", roleARN},
			[]string{roleARN, "arn:aws:iam::111122223333:user/ann", "arn:aws:iam::111122223333:user/*", "arn:aws:logs:us-east-1:1:group:/x:*", "ann"},
			[]string{"${aws:PrincipalArn}", "arn:aws:iam::*:user/${t:other}", "arn:aws:iam::*:user/${*}", "arn:aws:iam::${t:none, '1'}:role/*", "${t:other}"},
		},
	}
}

// condition writes a part of a Condition element. Those of policies that name principals are often about the principal.
func (d *dice) condition(kind policy.Kind, variables bool) string {
	all := families()
	f := all[d.roll(len(all))]
	if (kind == policy.Trust || kind == policy.Resource) && d.once(3) {
		f = all[len(all)-1]
	}
	operator := d.pick(f.operators...)
	words := f.policy
	if variables {
		words = append(words, f.policyWithVariables...)
	}
	switch {
	case operator == "Null":
		words = []string{"false", "true"}
	case operator == "Bool" && variables:
		words = append(words, "${t:bool}", "${t:none, 'true'}")
	}
	if operator != "Null" {
		operator = d.pick("", "", "ForAllValues:", "ForAnyValue:") + operator + d.pick("", "", "IfExists")
	}
	key := d.pick(f.key, f.key, f.key, strings.ToUpper(f.key), "t:list", "t:none", "t:other")
	return fmt.Sprintf(`%q:{%q:%s}`, operator, key, d.some(words...))
}

// principals writes a Principal or NotPrincipal element.
func (d *dice) principals(kind policy.Kind, effect string) string {
	names := []string{
		roleARN, "*", home, abroad, "arn:aws:iam::" + home + ":root", roleID, session().ARN, user().ARN, user().ID, federated().ARN,
		stranger().ARN, stranger().RoleARN,
	}
	element := "Principal"
	if kind == policy.Resource && effect == "Deny" && d.once(3) {
		element = "NotPrincipal"
	}
	switch {
	case kind == policy.ResourceControl, kind == policy.Resource && d.once(6):
		return fmt.Sprintf(`%q:"*",`, element)
	case d.once(3):
		return fmt.Sprintf(`%q:{"AWS":"*"},`, element)
	case d.once(4):
		return fmt.Sprintf(`%q:{"AWS":%s,"Service":%s},`, element, d.some(names...), d.some(pods, "ec2.amazonaws.com"))
	case d.once(5):
		return fmt.Sprintf(`%q:{"Federated":%s},`, element, d.some(issuer, "accounts.google.com"))
	}
	return fmt.Sprintf(`%q:{"AWS":%s},`, element, d.some(names...))
}

func (d *dice) statement(kind policy.Kind, variables bool, effect string) string {
	var b strings.Builder
	b.WriteString("{")
	if kind == policy.Trust || kind == policy.Resource || kind == policy.ResourceControl {
		b.WriteString(d.principals(kind, effect))
	}
	fmt.Fprintf(&b, `"Effect":%q,`, effect)
	if kind == policy.Trust {
		fmt.Fprintf(&b, `%q:%s`, d.pick("Action", "Action", "Action", "NotAction"),
			d.some("sts:AssumeRole", "sts:*", "STS:assume*", "sts:TagSession", "sts:SetSourceIdentity", "sts:AssumeRoleWithWebIdentity", "sts:?agSession"))
	} else {
		fmt.Fprintf(&b, `%q:%s`, d.pick("Action", "Action", "Action", "Action", "NotAction"),
			d.some("*", "s3:GetObject", "S3:Get*", "s3:*", "s3:*Object", "s?:Put*", "sts:*", "s*:assumerole", "*:*"))
		resources := []string{
			"*", "*", "*", "arn:aws:s3:::reports/*", "arn:aws:s3:::*", "arn:aws:iam::*:role/*", "arn:aws:s3",
			"arn:*:s3:::report?/*.csv", object, "arn:aws:sqs:us-east-1",
			"arn:aws:s3:::${t:other}/*",
		}
		if variables {
			resources = append(resources, "arn:aws:s3:::${t:none}/*", "arn:aws:s3:::${t:none, 'reports'}/*", "arn:aws:s3:::a${*}/*", "arn:aws:s3:::${t:list}*")
		}
		fmt.Fprintf(&b, `,%q:%s`, d.pick("Resource", "Resource", "Resource", "Resource", "NotResource"), d.some(resources...))
	}
	if d.once(3) {
		one := d.condition(kind, variables)
		if other := d.condition(kind, variables); d.once(3) && one[:strings.Index(one, "{")] != other[:strings.Index(other, "{")] {
			one += "," + other
		}
		b.WriteString(when([]string{one}))
	}
	return b.String() + "}"
}

func (d *dice) document(kind policy.Kind) string {
	version := d.pick(`"Version":"2012-10-17",`, `"Version":"2012-10-17",`, `"Version":"2012-10-17",`, `"Version":"2008-10-17",`, ``)
	variables := strings.Contains(version, "2012")
	effect := func() string { return d.pick("Allow", "Allow", "Allow", "Allow", "Allow", "Allow", "Allow", "Deny") }
	statements := []string{d.statement(kind, variables, effect())}
	for range d.roll(4) {
		statements = append(statements, d.statement(kind, variables, effect()))
	}
	if len(statements) == 1 && d.once(2) {
		return `{` + version + `"Statement":` + statements[0] + `}`
	}
	return `{` + version + `"Statement":[` + strings.Join(statements, ",") + `]}`
}

func (d *dice) documents(kind policy.Kind, atMost int) (list []string) {
	for range d.roll(atMost + 1) {
		list = append(list, d.document(kind))
	}
	return list
}

// maybe is a document, or none most of the time.
func (d *dice) maybe(kind policy.Kind) string {
	if !d.once(4) {
		return ""
	}
	return d.document(kind)
}

// levels are an organization's, most of them with AWS's policy that allows everything.
func (d *dice) levels(kind policy.Kind, full string) (levels [][]string) {
	if !d.once(4) {
		return nil
	}
	for range 1 + d.roll(2) {
		level := d.documents(kind, 1)
		if !d.once(4) {
			level = append(level, document(full))
		}
		levels = append(levels, level)
	}
	return levels
}

func (d *dice) scene() scene {
	people := []policy.Principal{session(), session(), session(), user(), root(), federated(), stranger(), service(), webIdentity(), {}}
	x := scene{principal: people[d.roll(len(people))]}
	trust := d.once(3)
	if trust {
		x.action = d.pick("sts:AssumeRole", "sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity", "sts:AssumeRoleWithWebIdentity")
		x.resource = d.pick("arn:aws:iam::111122223333:role/target", "arn:aws:iam::111122223333:role/target", "arn:aws:iam::444455556666:role/target", "*")
		x.trust = d.document(policy.Trust)
	} else {
		x.action = d.pick("s3:GetObject", "S3:PutObject", "sqs:SendMessage")
		x.resource = d.pick(object, object, "arn:aws:s3:::a*/x", "arn:aws:s3:::red/x", "*", "", "arn:aws:sqs:us-east-1:111122223333:q", "arn:aws:s3")
		x.resourcePolicy = d.pick("", "?")
		if x.resourcePolicy != "" {
			x.resourcePolicy = d.document(policy.Resource)
		}
	}
	x.owner = d.pick("", "", home, abroad)
	for _, f := range families() {
		if !d.once(4) {
			x.context = append(x.context, sceneKey{f.key, naiveKey{values: []string{d.pick(f.request...)}}})
		}
	}
	if !d.once(4) {
		x.context = append(x.context, sceneKey{"T:Other", naiveKey{values: []string{d.pick("red", "reports", "ann", "*", "?", "\xff", roleARN)}}})
	}
	if !d.once(4) {
		all := families()
		list := naiveKey{list: true}
		for range d.roll(4) {
			list.values = append(list.values, d.pick(all[d.roll(len(all))].request...))
		}
		x.context = append(x.context, sceneKey{"t:list", list})
	}
	x.identity = d.documents(policy.Identity, 3)
	x.boundary = d.maybe(policy.Boundary)
	if x.passed = d.once(4); x.passed {
		x.session = d.documents(policy.Session, 2)
	}
	x.serviceControl = d.levels(policy.ServiceControl, allow("*", "*"))
	x.resourceControl = d.levels(policy.ResourceControl, grants(`"*"`, "*", "*"))
	return x
}
