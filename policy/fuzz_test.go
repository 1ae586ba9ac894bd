package policy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/lanyard-id/lanyard/policy"
)

// documents are seeds for the targets that read documents, each with its kind.
func documents() map[string]policy.Kind {
	return map[string]policy.Kind{
		document(allow("s3:Get*", "arn:aws:s3:::home/${aws:username}/*", `"Bool":{"aws:SecureTransport":true}`)):                policy.Identity,
		document(allow("s3:*", "*", `"ForAllValues:StringLikeIfExists":{"t:k":["${a:b, 'x'}","${*}"]},"Null":{"t:l":"false"}`)): policy.Session,
		document(deny("*", "*", `"NotIpAddress":{"aws:SourceIp":["10.0.0.0/8","::1"]}`, `"DateLessThan":{"t:d":"2025-01-01"}`)): policy.Boundary,
		document(trusts(`"AWS":["*","111122223333"]`, "sts:AssumeRole")):                                                        policy.Trust,
		document(trusts(`"Federated":"`+issuer+`"`, "sts:*", `"StringEquals":{"oidc.example.com/id/1:sub":"x"}`)):               policy.Trust,
		document(grants(`"*"`, "s3:*", "*"), forbids(`{"Service":"pods.eks.amazonaws.com"}`, "*", "*")):                         policy.Resource,
		document(grants(`"*"`, "*", "*")): policy.ResourceControl,
		`{"Statement":{"Effect":"Deny","NotPrincipal":{"AWS":"\u0041"},"NotAction":[],"NotResource":[1e9]}}`:                            policy.Resource,
		"{\r\n\"Id\":\"ü\",\"Statement\":[{\"Sid\":\"a\",\"Effect\":\"Deny\",\"NotAction\":[\"*\"],\"NotResource\":[\"arn:aws:s3\"]}]}": policy.Identity,
	}
}

// probes are requests that tell policies apart.
func probes() (all []*policy.Request) {
	context := keys("aws:username", "ann", "t:k", "x", "aws:SecureTransport", "true", "aws:SourceIp", "10.0.0.1", "oidc.example.com/id/1:sub", "x")
	for _, who := range []policy.Principal{session(), stranger(), root(), service(), webIdentity(), {}} {
		for action, resource := range map[string]string{
			"s3:GetObject": "arn:aws:s3:::home/ann/x", "sts:AssumeRole": roleARN, "sts:AssumeRoleWithWebIdentity": "*",
		} {
			all = append(all,
				&policy.Request{Principal: who, Action: action, Resource: resource, Context: context},
				&policy.Request{Principal: who, Action: action, Resource: resource, ResourceAccount: home})
		}
	}
	return all
}

// uses are all the ways to evaluate a policy, whatever it was compiled for.
func uses(r *policy.Request, p *policy.Policy) []policy.Decision {
	list := []*policy.Policy{p}
	return []policy.Decision{
		policy.Evaluate(r, &policy.Policies{Identity: list}),
		policy.Evaluate(r, &policy.Policies{Identity: list, Session: list, Boundary: p, ServiceControl: [][]*policy.Policy{list}}),
		policy.Evaluate(r, &policy.Policies{Resource: p}),
		policy.Evaluate(r, &policy.Policies{Identity: list, Resource: p, ResourceControl: [][]*policy.Policy{list}}),
		policy.EvaluateTrust(r, p, nil),
	}
}

func FuzzNew(f *testing.F) {
	for doc, kind := range documents() {
		f.Add([]byte(doc), int(kind))
	}
	f.Fuzz(func(t *testing.T, doc []byte, kind int) {
		p, err := policy.New("p", policy.Kind(kind%9), doc)
		var refused *policy.Error
		switch {
		case err == nil && !json.Valid(doc):
			t.Fatalf("%q is not JSON but was accepted", doc)
		case err == nil && !strings.Contains(string(doc), "llow") && !strings.Contains(string(doc), `\u`):
			// Without an Allow it allows nothing, save what the root user may do anyway.
			for _, r := range probes() {
				for _, d := range uses(r, p) {
					if d.Allowed && d.Layer != policy.RootLayer {
						t.Fatalf("%q has no Allow, but %v", doc, d)
					}
				}
			}
		case err == nil:
			for _, r := range probes() {
				uses(r, p)
			}
		case errors.As(err, &refused):
			lines := strings.Split(string(doc), "\n")
			if refused.Line < 1 || refused.Line > len(lines) || refused.Column < 1 ||
				utf8.Valid(doc) && refused.Column > utf8.RuneCountInString(lines[refused.Line-1])+1 {
				t.Fatalf("%q is refused at %d:%d, where it has no text", doc, refused.Line, refused.Column)
			}
			if refused.Message == "" || refused.Detail == "" {
				t.Fatalf("%q is refused without a reason", doc)
			}
		}
	})
}

func FuzzPrint(f *testing.F) {
	for doc, kind := range documents() {
		f.Add([]byte(doc), int(kind))
	}
	f.Fuzz(func(t *testing.T, doc []byte, kind int) {
		const indentation = 10 // by which a document may grow
		if len(doc) > policy.MaxDocument/indentation {
			return
		}
		printed, err := policy.Print(doc)
		if err != nil {
			var refused *policy.Error
			if !errors.As(err, &refused) {
				t.Fatalf("%q: %T is no *policy.Error", doc, err)
			}
			if _, err := policy.New("p", policy.Kind(kind%9), doc); err == nil {
				t.Fatalf("%q is a policy but cannot be printed: %v", doc, refused)
			}
			return
		}
		again, err := policy.Print(printed)
		if err != nil || !bytes.Equal(again, printed) {
			t.Fatalf("%q is printed as %q, and that as %q, %v", doc, printed, again, err)
		}
		before, refusedBefore := policy.New("p", policy.Kind(kind%9), doc)
		after, refusedAfter := policy.New("p", policy.Kind(kind%9), printed)
		if (refusedBefore == nil) != (refusedAfter == nil) {
			t.Fatalf("%q: %v; printed as %q: %v", doc, refusedBefore, printed, refusedAfter)
		}
		if refusedBefore != nil {
			return
		}
		for _, r := range probes() {
			was, is := uses(r, before), uses(r, after)
			for i := range was {
				is[i].Line, is[i].Column = was[i].Line, was[i].Column
				if was[i] != is[i] {
					t.Fatalf("%q is printed as %q, and then %+v decides %+v, not %+v", doc, printed, r, is[i], was[i])
				}
			}
		}
	})
}

func FuzzRewritePrincipals(f *testing.F) {
	f.Add([]byte(document(trusts(`"AWS":["*","111122223333"],"Federated":"x"`, "sts:AssumeRole"))))
	f.Add([]byte(`{"Statement":[{"NotPrincipal":{"AWS":"\u0041\/"}},{"Principal":"*"}]}`))
	f.Add([]byte("{ \"Statement\" : {\"Principal\":{\"AWS\":[ ]},\"x\":[1.50,{\"AWS\":\"y\"}]}}\n"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		same, err := policy.RewritePrincipals(doc, func(_, value string) (string, error) { return value, nil })
		if err != nil {
			return
		}
		if !bytes.Equal(same, doc) {
			t.Fatalf("%q became %q", doc, same)
		}
		there, err := policy.RewritePrincipals(doc, func(_, value string) (string, error) { return "<" + value + ">", nil })
		if err != nil {
			t.Fatal(err)
		}
		if len(there) > policy.MaxDocument {
			return
		}
		back, err := policy.RewritePrincipals(there, func(_, value string) (string, error) {
			return strings.TrimSuffix(strings.TrimPrefix(value, "<"), ">"), nil
		})
		if err != nil {
			t.Fatalf("%q became %q, which is refused: %v", doc, there, err)
		}
		var want, got any
		mustDecode(string(doc), &want)
		mustDecode(string(back), &got)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q became %q, and that %q", doc, there, back)
		}
	})
}

// compare evaluates one comparison; accepted is false if the operator refuses the policy's value.
func compare(t *testing.T, operator, want, got string) (holds, accepted bool) {
	t.Helper()
	p, err := policy.New("p", policy.Identity, []byte(document(allow("*", "*", `"`+operator+`":{"t:k":`+mustEncode(want)+`}`))))
	if err != nil {
		return false, false
	}
	return policy.Evaluate(asks("s3:GetObject", object, keys("t:k", got)), &policy.Policies{Identity: []*policy.Policy{p}}).Allowed, true
}

// FuzzPattern compares the matcher of wildcards, wherever it is used, with a regular expression of the same meaning.
func FuzzPattern(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add("*a*a*b", "aaaaaaab")
	f.Add("?*", "ü")
	f.Add("*?a?*", "áab")
	f.Add("*a?ö?b*", "aaöaöaöüb\xffx")
	f.Add("*a"+strings.Repeat("?", 70)+"b*", "ba"+strings.Repeat("ä", 70)+"bc")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		const unknown = "\ufffd" // regular expressions take bytes that are not UTF-8 for it
		if len(pattern) > 200 || len(text) > 1000 || !utf8.ValidString(pattern) || strings.Contains(pattern, "${") || strings.Contains(pattern, unknown) {
			return
		}
		expression := func(pattern string) *regexp.Regexp {
			pattern = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(pattern))
			return regexp.MustCompile(`(?s)\A` + pattern + `\z`)
		}
		want := expression(pattern).MatchString(text)
		if got, _ := compare(t, "StringLike", pattern, text); got != want {
			t.Fatalf("%q matches %q: %v, want %v", text, pattern, got, want)
		}
		if got, _ := compare(t, "StringNotLike", pattern, text); got == want {
			t.Fatalf("%q does not match %q: %v, want %v", text, pattern, got, !want)
		}
		if got, _ := compare(t, "ArnLike", "arn:aws:s3:::"+pattern, "arn:aws:s3:::"+text); got != want {
			t.Fatalf("the ARN of %q matches %q: %v, want %v", text, pattern, got, want)
		}
		resource := document(`{"Effect":"Allow","Action":"s3:*","Resource":` + mustEncode("arn:aws:s3:::"+pattern) + `}`)
		if p, err := policy.New("p", policy.Identity, []byte(resource)); err == nil {
			r := asks("s3:GetObject", "arn:aws:s3:::"+text, nil)
			if got := policy.Evaluate(r, &policy.Policies{Identity: []*policy.Policy{p}}).Allowed; got != want {
				t.Fatalf("the resource %q matches %q: %v, want %v", text, pattern, got, want)
			}
		}
		if !utf8.ValidString(text) {
			return
		}
		action := document(`{"Effect":"Allow","Action":` + mustEncode("s3:"+pattern) + `,"Resource":"*"}`)
		if p, err := policy.New("p", policy.Identity, []byte(action)); err == nil {
			want := expression(strings.ToLower(pattern)).MatchString(strings.ToLower(text))
			if got := policy.Evaluate(asks("s3:"+text, "*", nil), &policy.Policies{Identity: []*policy.Policy{p}}).Allowed; got != want {
				t.Fatalf("the action %q matches %q: %v, want %v", text, pattern, got, want)
			}
		}
		// What comes out of a variable has no wildcards.
		variable := identity(t, allow("*", "*", `"StringLike":{"t:k":"<${t:v}>"}`))
		if got := policy.Evaluate(asks("s3:GetObject", object, keys("t:k", "<"+text+">", "t:v", pattern)), variable).Allowed; got != (text == pattern) {
			t.Fatalf("%q matches the value %q of a variable: %v", text, pattern, got)
		}
	})
}

func FuzzNumber(f *testing.F) {
	f.Add("10", "10.00")
	f.Add("-0", "+0.0")
	f.Add("9007199254740993", "9007199254740992")
	f.Add("-1.5", "1e3")
	f.Fuzz(func(t *testing.T, want, got string) { checkOrder(t, "Numeric", want, got) })
}

func FuzzDate(f *testing.F) {
	f.Add("2025-01-31T12:00:00Z", "2025-01-31T12:00:00.5+01:00")
	f.Add("2025", "2025-02")
	f.Add("1738324800", "99999999999999")
	f.Add("2024-02-29", "2023-02-29")
	f.Fuzz(func(t *testing.T, want, got string) { checkOrder(t, "Date", want, got) })
}

// checkOrder compares the six operators of numbers or dates with the naive evaluator's.
func checkOrder(t *testing.T, operators, want, got string) {
	t.Helper()
	if !utf8.ValidString(want) || len(want)+len(got) > 500 {
		return
	}
	for _, relation := range []string{"Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals"} {
		operator := operators + relation
		valid := naiveNumber(want) != nil
		if operators == "Date" {
			valid = naiveDate(want) != nil
		}
		holds, accepted := compare(t, operator, want, got)
		if accepted != valid {
			t.Fatalf("%s takes the value %q: %v, want %v", operator, want, accepted, valid)
		}
		context := naiveContext{"t:k": {values: []string{got}}}
		if naive := context.naiveCondition(operator, "t:k", []string{want}, false); accepted && holds != naive {
			t.Fatalf("%s %q holds for %q: %v, want %v", operator, want, got, holds, naive)
		}
	}
}

func FuzzNetwork(f *testing.F) {
	f.Add("203.0.113.0/24", "203.0.113.7")
	f.Add("::ffff:203.0.113.0/120", "::ffff:203.0.113.7")
	f.Add("2001:db8::/32", "2001:db8::1")
	f.Add("::/0", "10.0.0.1")
	f.Add("10.0.0.1", "fe80::1%eth0")
	f.Fuzz(func(t *testing.T, network, address string) {
		if !utf8.ValidString(network) {
			return
		}
		in, accepted := compare(t, "IpAddress", network, address)
		out, _ := compare(t, "NotIpAddress", network, address)
		if !accepted {
			if net.ParseIP(network) != nil {
				t.Fatalf("the address %q is refused", network)
			}
			return
		}
		if want := naiveNetwork(network, address); in != want || out == want {
			t.Fatalf("%q is in %q: %v, is not: %v, want %v", address, network, in, out, want)
		}
	})
}

// FuzzEvaluate makes a scene out of the bytes, and compares what the package decides with the naive evaluator's answer and with
// the explanation.
func FuzzEvaluate(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("policies and a request are made out of these bytes, which say what to choose"))
	f.Fuzz(func(t *testing.T, bytes []byte) {
		d := &dice{bytes}
		x := d.scene()
		checkOracle(t, x)
		checkExplanation(t, x)
	})
}
