package main

import (
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

func TestWhatADocumentIsFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, document string
		want           policy.Kind
	}{
		{"no principal", `{"Statement": [{"Action": "s3:*", "Resource": "*"}]}`, policy.Identity},
		{"a principal and no resource", `{"Statement": [{"Principal": "*"}]}`, policy.Trust},
		{"one statement without a list", `{"Statement": {"NotPrincipal": "*"}}`, policy.Trust},
		{"a principal and a resource", `{"Statement": [{"Principal": "*", "Resource": "*"}]}`, policy.Resource},
		{"a principal, and a resource in another statement", `{"Statement": [{"Principal": "*"}, {"NotResource": "*"}]}`, policy.Resource},
		{"no statements", `{}`, policy.Identity},
		{"statements that are none", `{"Statement": [1]}`, policy.Identity},
		{"no JSON", `{"Statement": [{"Principal"`, policy.Identity},
	} {
		if got := guessKind([]byte(c.document)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, kindName(got), kindName(c.want))
		}
	}
}

// The names of the flags' values follow the order of the constants.
func TestKindsAndSeveritiesHaveTheirNames(t *testing.T) {
	t.Parallel()
	for kind, want := range map[policy.Kind]string{
		policy.Identity: "identity", policy.Trust: "trust", policy.Session: "session", policy.Resource: "resource", policy.Boundary: "boundary",
		policy.ServiceControl: "scp", policy.ResourceControl: "rcp",
	} {
		if got := kindName(kind); got != want {
			t.Errorf("kind %d is called %s, want %s", kind, got, want)
		}
	}
	for severity, want := range map[policy.Severity][3]string{
		policy.Low: {"low", "note", "2.0"}, policy.Medium: {"medium", "warning", "5.5"}, policy.High: {"high", "error", "8.0"},
	} {
		if got := [3]string{severityName(severity), sarifLevel(severity), securitySeverity(severity)}; got != want {
			t.Errorf("severity %d is called %v, want %v", severity, got, want)
		}
	}
}
