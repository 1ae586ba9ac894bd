package main

import (
	"strings"
	"testing"
)

func TestProviderARN(t *testing.T) {
	t.Parallel()
	const root = "arn:aws:iam::111122223333:root"
	for _, c := range []struct {
		name, caller, issuer, want string // no want: refused
	}{
		{"the port is no part of it", root, "https://127.0.0.1:4567/id/ABC", "arn:aws:iam::111122223333:oidc-provider/127.0.0.1/id/ABC"},
		{"an issuer may have no path", root, "https://oidc.example.com", "arn:aws:iam::111122223333:oidc-provider/oidc.example.com"},
		{"a path stays as it was written", root, "https://oidc.example.com/a%2Fb/", "arn:aws:iam::111122223333:oidc-provider/oidc.example.com/a%2Fb/"},
		{"the partition is the caller's", "arn:aws-cn:sts::222233334444:assumed-role/admin/me", "https://oidc.example.com/x",
			"arn:aws-cn:iam::222233334444:oidc-provider/oidc.example.com/x"},
		{"plain HTTP is no issuer", root, "http://oidc.example.com", ""},
		{"a cluster without an issuer", root, "", ""},
		{"no host", root, "https:///id/ABC", ""},
		{"a caller without an ARN", "", "https://oidc.example.com", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := providerARN(c.caller, c.issuer)
			if got != c.want || (err != nil) != (c.want == "") {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestTrustNames(t *testing.T) {
	t.Parallel()
	const key, subject = "oidc.example.com/x:sub", "system:serviceaccount:web:api"
	own, err := irsaTrust("arn:aws:iam::111122223333:oidc-provider/oidc.example.com/x", "web", "api")
	if err != nil {
		t.Fatal(err)
	}
	condition := func(text string) string { return `{"Statement": [{}, {"Condition": ` + text + `}]}` }
	for _, c := range []struct {
		name, document string
		want           bool
	}{
		{"what irsa create writes", own, true},
		{"one statement without a list", `{"Statement": {"Condition": {"StringEquals": {"` + key + `": "` + subject + `"}}}}`, true},
		{"one of several subjects", condition(`{"StringLike": {"OIDC.example.com/x:sub": ["other", "` + subject + `"]}}`), true},
		{"a pattern that fits is not a name", condition(`{"StringLike": {"` + key + `": "system:serviceaccount:web:*"}}`), false},
		{"another service account", strings.ReplaceAll(own, ":api", ":other"), false},
		{"another issuer", strings.ReplaceAll(own, "/x:", "/y:"), false},
		{"the audience alone", condition(`{"StringEquals": {"oidc.example.com/x:aud": "sts.amazonaws.com"}}`), false},
		{"the subject denied", condition(`{"StringNotEquals": {"` + key + `": "` + subject + `"}}`), false},
		{"a number for a subject", condition(`{"StringEquals": {"` + key + `": 1}}`), false},
		{"no conditions", `{"Statement": [{"Effect": "Allow"}]}`, false},
		{"no statements", `{}`, false},
		{"no policy", `not JSON`, false},
	} {
		if got := trustNames(c.document, key, subject); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestSameJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{`{"a": 1, "b": [1, 2]}`, `{"b":[1,2],"a":1}`, true},
		{`{"a": [1, 2]}`, `{"a": [2, 1]}`, false},
		{`{"a": "x"}`, `{"a": ["x"]}`, false},
		{`{}`, `{"a": null}`, false},
		{`damaged`, `damaged`, false},
		{`{}`, `damaged`, false},
	} {
		if got := sameJSON(c.a, c.b); got != c.want {
			t.Errorf("%s and %s: got %v, want %v", c.a, c.b, got, c.want)
		}
	}
}
