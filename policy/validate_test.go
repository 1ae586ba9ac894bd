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
const syntax = "Syntax errors in policy."

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
