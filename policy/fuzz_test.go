package policy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/lanyard-id/lanyard/policy"
)

func FuzzNew(f *testing.F) {
	f.Add([]byte(document(allow("s3:Get*", "arn:aws:s3:::home/${aws:username}/*", `"Bool":{"aws:SecureTransport":true}`))), 1)
	f.Add([]byte(document(trusts(`"AWS":["*","111122223333"]`, "sts:AssumeRole"))), 2)
	f.Add([]byte(document(grants(`"*"`, "s3:*", "*"), forbids(`{"Service":"pods.eks.amazonaws.com"}`, "*", "*"))), 4)
	f.Add([]byte(`{"Statement":{"Effect":"Deny","NotPrincipal":{"AWS":"\u0041"},"NotAction":[],"NotResource":[1e9]}}`), 4)
	f.Fuzz(func(t *testing.T, doc []byte, kind int) {
		p, err := policy.New("p", policy.Kind(kind%9), doc)
		var refused *policy.Error
		switch {
		case err == nil && !json.Valid(doc):
			t.Fatalf("%q is not JSON but was accepted", doc)
		case errors.As(err, &refused):
			lines := strings.Split(string(doc), "\n")
			if refused.Line < 1 || refused.Line > len(lines) || refused.Column < 1 ||
				utf8.Valid(doc) && refused.Column > utf8.RuneCountInString(lines[refused.Line-1])+1 {
				t.Fatalf("%q is refused at %d:%d, where it has no text", doc, refused.Line, refused.Column)
			}
			if refused.Message == "" || refused.Detail == "" {
				t.Fatalf("%q is refused without a reason", doc)
			}
		case err == nil:
			// Whatever New accepts can be evaluated, also in a place that it was not compiled for.
			for _, resource := range []string{"*", object, roleARN} {
				policy.Evaluate(asks("s3:GetObject", resource, keys("aws:username", "ann")), &policy.Policies{Identity: []*policy.Policy{p}, Resource: p})
				policy.EvaluateTrust(asks("sts:AssumeRole", resource, nil), p, nil)
			}
		}
	})
}

func FuzzRewritePrincipals(f *testing.F) {
	f.Add([]byte(document(trusts(`"AWS":["*","111122223333"],"Federated":"x"`, "sts:AssumeRole"))))
	f.Add([]byte(`{"Statement":[{"NotPrincipal":{"AWS":"\u0041\/"}},{"Principal":"*"}]}`))
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
		back, err := policy.RewritePrincipals(there, func(_, value string) (string, error) {
			return strings.TrimSuffix(strings.TrimPrefix(value, "<"), ">"), nil
		})
		if err != nil {
			t.Fatalf("%q became %q, which is refused: %v", doc, there, err)
		}
		var want, got any
		if json.Unmarshal(doc, &want) != nil || json.Unmarshal(back, &got) != nil {
			t.Fatalf("%q became %q", doc, back)
		}
	})
}

// FuzzStringLike compares the matcher with a regular expression of the same meaning.
func FuzzStringLike(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add("*a*a*b", "aaaaaaab")
	f.Add("?*", "ü")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 100 || len(text) > 1000 || !utf8.ValidString(pattern) || !utf8.ValidString(text) {
			return
		}
		var expression strings.Builder
		for _, r := range pattern {
			switch r {
			case '*':
				expression.WriteString(`.*`)
			case '?':
				expression.WriteString(`.`)
			default:
				expression.WriteString(regexp.QuoteMeta(string(r)))
			}
		}
		value, err := json.Marshal(pattern)
		if err != nil {
			t.Fatal(err)
		}
		doc := `{"Statement":` + allow("*", "*", `"StringLike":{"t:k":`+string(value)+`}`) + `}`
		p := &policy.Policies{Identity: []*policy.Policy{compileDocument(t, policy.Identity, doc)}}
		got := policy.Evaluate(asks("s3:GetObject", object, keys("t:k", text)), p).Allowed
		if want := regexp.MustCompile(`(?s)\A` + expression.String() + `\z`).MatchString(text); got != want {
			t.Fatalf("%q matches %q: %v, want %v", pattern, text, got, want)
		}
	})
}

// condition evaluates one comparison; accepted is false if the operator refuses the policy's value.
func condition(t *testing.T, operator, want, got string) (holds, accepted bool) {
	t.Helper()
	value, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.New("p", policy.Identity, []byte(document(allow("*", "*", `"`+operator+`":{"t:k":`+string(value)+`}`))))
	if err != nil {
		return false, false
	}
	return policy.Evaluate(asks("s3:GetObject", object, keys("t:k", got)), &policy.Policies{Identity: []*policy.Policy{p}}).Allowed, true
}

func FuzzDate(f *testing.F) {
	f.Add("2025-01-31T12:00:00Z", "2025-01-31T12:00:00.5+01:00")
	f.Add("2025", "2025-02")
	f.Add("1738324800", "99999999999999")
	f.Fuzz(func(t *testing.T, a, b string) {
		if _, ok := condition(t, "DateEquals", a, b); !ok || !utf8.ValidString(a) {
			return
		}
		if same, _ := condition(t, "DateEquals", a, a); !same {
			t.Fatalf("%q does not equal itself", a)
		}
		if _, ok := condition(t, "DateEquals", b, a); !ok || !utf8.ValidString(b) {
			return
		}
		less, _ := condition(t, "DateLessThan", b, a)
		equal, _ := condition(t, "DateEquals", b, a)
		greater, _ := condition(t, "DateGreaterThan", b, a)
		atMost, _ := condition(t, "DateLessThanEquals", b, a)
		if less && equal || equal && greater || less && greater || !less && !equal && !greater || atMost != (less || equal) {
			t.Fatalf("%q and %q: less %v, equal %v, greater %v, at most %v", a, b, less, equal, greater, atMost)
		}
		x, errX := time.Parse(time.RFC3339Nano, a)
		y, errY := time.Parse(time.RFC3339Nano, b)
		if errX == nil && errY == nil && less != x.Before(y) {
			t.Fatalf("%q is before %q: %v", a, b, less)
		}
	})
}

func FuzzIpAddress(f *testing.F) {
	f.Add("203.0.113.0/24", "203.0.113.7")
	f.Add("::ffff:203.0.113.0/120", "::ffff:203.0.113.7")
	f.Add("2001:db8::/32", "2001:db8::1")
	f.Fuzz(func(t *testing.T, network, address string) {
		in, ok := condition(t, "IpAddress", network, address)
		out, _ := condition(t, "NotIpAddress", network, address)
		if !ok || !utf8.ValidString(network) {
			return
		}
		if in == out {
			t.Fatalf("%q is in %q and not in it: %v", address, network, in)
		}
		prefix, err := netip.ParsePrefix(network)
		a, err2 := netip.ParseAddr(address)
		if err != nil || err2 != nil || prefix.Addr().Is4In6() || a.Is4In6() || a.Zone() != "" {
			return
		}
		if in != prefix.Contains(a) {
			t.Fatalf("%q is in %q: %v", address, network, in)
		}
	})
}
