package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"
)

func TestErrorsForPeople(t *testing.T) {
	t.Parallel()
	call := func(err error) error {
		failed := &smithy.OperationError{ServiceID: "EKS", OperationName: "ListClusters", Err: fmt.Errorf("many words: %w", err)}
		return fmt.Errorf("list clusters: %w", failed)
	}
	api := func(code string) error { return call(&smithy.GenericAPIError{Code: code, Message: "AWS's words."}) }
	address := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4566}
	for _, c := range []struct {
		name          string
		err           error
		message, hint string // the hint's beginning
	}{
		{"one without a hint", errors.New("broken"), "broken", ""},
		{"one with its own", withHint(errors.New("broken"), "mend %s", "it"), "broken", "mend it"},
		{"its own goes first", withHint(api("AccessDenied"), "mend it"), "list clusters: AccessDenied: AWS's words.", "mend it"},
		{"a refusal", api("AccessDeniedException"), "list clusters: AccessDeniedException: AWS's words.", "the caller's policies"},
		{"an unknown key", api("InvalidClientTokenId"), "list clusters: InvalidClientTokenId: AWS's words.", "the access key is not one"},
		{"a wrong secret", api("InvalidSignatureException"), "list clusters: InvalidSignatureException: AWS's words.", "the access key is not one"},
		{"an old session", api("ExpiredTokenException"), "list clusters: ExpiredTokenException: AWS's words.", "the credentials have expired"},
		{"a code that speaks for itself", api("ValidationError"), "list clusters: ValidationError: AWS's words.", ""},
		{"nobody there", call(&net.OpError{Op: "dial", Net: "tcp", Addr: address, Err: errors.New("connection refused")}),
			"list clusters: dial tcp 127.0.0.1:4566: connection refused", "nothing answers at 127.0.0.1:4566"},
		{"a name that is none", call(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "nowhere.example"}}),
			"list clusters: dial tcp: lookup nowhere.example: no such host", "the name nowhere.example does not resolve"},
		{"a certificate of nobody", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
			"tls: failed to verify certificate: x509: certificate signed by unknown authority", "the server's certificate is not trusted"},
		{"no credentials", call(errors.New("get identity: get credentials: failed to refresh cached credentials")),
			"list clusters: operation error EKS: ListClusters, many words: get identity: get credentials: failed to refresh cached credentials",
			"no AWS credentials were found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := message(c.err); got != c.message {
				t.Errorf("message\n got %s\nwant %s", got, c.message)
			}
			if got := hint(c.err); !strings.HasPrefix(got, c.hint) || (got == "") != (c.hint == "") {
				t.Errorf("hint\n got %s\nwant %s…", got, c.hint)
			}
		})
	}
}

func TestAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // in which no time passes
		for ago, want := range map[time.Duration]string{
			30 * time.Second: "30s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 119 * time.Minute: "119m",
			3*time.Hour + time.Minute: "3h", 47 * time.Hour: "47h", 49 * time.Hour: "2d", 24 * 400 * time.Hour: "400d",
		} {
			then := time.Now().Add(-ago)
			if got := age(&then); got != want {
				t.Errorf("%s ago: got %q, want %q", ago, got, want)
			}
		}
	})
	if got := age(nil); got != "" {
		t.Errorf("no time: got %q", got)
	}
}

func TestServicesOwnWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"operation error S3: PutObject, https response error StatusCode: 403, RequestID: x, api error AccessDenied: no": "AccessDenied: no",
		"get credentials: api error A: first: api error B: second":                                                      "B: second",
		"no credentials": "no credentials",
	} {
		if got := sdkMessage(text); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
