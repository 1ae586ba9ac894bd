package agent_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/agent"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

var nodeCredentials = sigv4.Credentials{AccessKeyID: "AKIANODE", SecretAccessKey: "node secret", SessionToken: "node session"}

// newClient makes a client of a fake EKS Auth. Requests that are not signed as they must be fail the test.
func newClient(t *testing.T, answer http.HandlerFunc, change func(*agent.ClientConfig)) *agent.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		sum := sha256.Sum256(body)
		signature, err := sigv4.Parse(r)
		if err != nil {
			t.Errorf("signature: %v", err)
		} else if err := signature.Verify(r, nodeCredentials.SecretAccessKey, hex.EncodeToString(sum[:]), time.Minute, time.Now(), nil); err != nil {
			t.Errorf("signature: %v", err)
		} else if signature.Service != "eks-auth" || signature.Region != "us-west-2" || signature.AccessKeyID != "AKIANODE" || signature.SessionToken != "node session" {
			t.Errorf("signed as %+v", signature)
		}
		var in map[string]string
		if err := json.Unmarshal(body, &in); err != nil || len(in) != 1 || in["token"] != "pod's token" {
			t.Errorf("body is %s", body)
		}
		if r.Method != "POST" || r.URL.Path != "/clusters/demo/assume-role-for-pod-identity" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	c := agent.ClientConfig{
		Endpoint: server.URL, Region: "us-west-2", ClusterName: "demo",
		Credentials: func(context.Context) (sigv4.Credentials, error) { return nodeCredentials, nil },
		Transport:   server.Client().Transport,
		Timeout:     10 * time.Second, // the machine that tests may be slow
		Log:         slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if change != nil {
		change(&c)
	}
	client, err := agent.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

const assumed = `{"subject":{"namespace":"ns-a","serviceAccount":"app1"},"audience":"pods.eks.amazonaws.com",
 "podIdentityAssociation":{"associationArn":"arn:aws:eks:us-west-2:111122223333:podidentityassociation/demo/a-1","associationId":"a-1"},
 "assumedRoleUser":{"arn":"arn:aws:sts::111122223333:assumed-role/r/eks-demo-app1-x","assumeRoleId":"AROAEXAMPLE:eks-demo-app1-x"},
 "credentials":{"sessionToken":"session","secretAccessKey":"secret","accessKeyId":"ASIAEXAMPLE","expiration":1702206632.5}}`

func TestAssumeRoleForPodIdentity(t *testing.T) {
	var connections atomic.Int32
	seen := map[string]bool{}
	client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if !seen[r.RemoteAddr] {
			seen[r.RemoteAddr] = true
			connections.Add(1)
		}
		fmt.Fprint(w, assumed)
	}, func(c *agent.ClientConfig) { c.Endpoint += "/" })
	want := agent.Credentials{
		AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: "secret", SessionToken: "session", AccountID: "111122223333",
		Expires: time.Unix(1702206632, 5e8),
	}
	for range 5 {
		got, err := client.AssumeRoleForPodIdentity(t.Context(), "pod's token")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections for five calls, one after the other", n)
	}
}

func TestErrorsOfEKSAuth(t *testing.T) {
	header := func(code string) http.Header {
		return http.Header{"X-Amzn-Errortype": {code}, "X-Amzn-Requestid": {"r-1"}}
	}
	tests := []struct {
		name          string
		status        int
		header        http.Header
		body          string
		want          agent.APIError
		irrecoverable bool
	}{
		{"expired token", 400, header("ExpiredTokenException"), `{"message":"over"}`, agent.APIError{Status: 400, Code: "ExpiredTokenException", Message: "over", RequestID: "r-1"}, true},
		{"invalid token", 400, header("InvalidTokenException"), `{"message":"bad"}`, agent.APIError{Status: 400, Code: "InvalidTokenException", Message: "bad", RequestID: "r-1"}, true},
		{"no association", 404, header("ResourceNotFoundException"), `{"message":"none"}`, agent.APIError{Status: 404, Code: "ResourceNotFoundException", Message: "none", RequestID: "r-1"}, true},
		{"denied", 400, header("AccessDeniedException"), `{"message":"no"}`, agent.APIError{Status: 400, Code: "AccessDeniedException", Message: "no", RequestID: "r-1"}, true},
		{"throttled", 429, header("ThrottlingException"), `{"message":"Rate exceeded"}`, agent.APIError{Status: 429, Code: "ThrottlingException", Message: "Rate exceeded", RequestID: "r-1"}, false},
		{"throttled for some time", 429, http.Header{"X-Amzn-Errortype": {"ThrottlingException"}, "Retry-After": {"7"}}, ``,
			agent.APIError{Status: 429, Code: "ThrottlingException", Message: "ThrottlingException", RetryAfter: 7 * time.Second}, false},
		{"a senseless Retry-After", 503, http.Header{"Retry-After": {"-1"}}, ``, agent.APIError{Status: 503, Code: "UnknownError", Message: "UnknownError"}, false},
		{"a Retry-After that is over", 503, http.Header{"Retry-After": {"Wed, 21 Oct 2015 07:28:00 GMT"}}, ``,
			agent.APIError{Status: 503, Code: "UnknownError", Message: "UnknownError"}, false},
		{"internal", 500, header("InternalServerException"), `{}`, agent.APIError{Status: 500, Code: "InternalServerException", Message: "InternalServerException", RequestID: "r-1"}, false},
		{"code with a URL", 400, header("ExpiredTokenException:http://internal.amazon.com/"), `{"Message":"m"}`, agent.APIError{Status: 400, Code: "ExpiredTokenException", Message: "m", RequestID: "r-1"}, true},
		{"code in the body, with its namespace", 403, nil, `{"__type":"com.amazonaws#AccessDeniedException","message":"m"}`, agent.APIError{Status: 403, Code: "AccessDeniedException", Message: "m"}, true},
		{"code in the body", 403, nil, `{"code":"Custom","message":"m"}`, agent.APIError{Status: 403, Code: "Custom", Message: "m"}, false},
		{"a proxy's page", 502, nil, `<html>`, agent.APIError{Status: 502, Code: "UnknownError", Message: "UnknownError"}, false},
		{"a redirect", 302, http.Header{"Location": {"http://other.example/"}}, ``, agent.APIError{Status: 500, Code: "UnknownError", Message: "UnknownError"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
				for name, values := range tt.header {
					w.Header()[name] = values
				}
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			}, nil)
			_, err := client.AssumeRoleForPodIdentity(t.Context(), "pod's token")
			got, ok := errors.AsType[*agent.APIError](err)
			if !ok {
				t.Fatalf("%v is no APIError", err)
			}
			if diff := cmp.Diff(tt.want, *got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if agent.Irrecoverable(err) != tt.irrecoverable {
				t.Errorf("irrecoverable is %t", !tt.irrecoverable)
			}
		})
	}
}

func TestAnswersThatCannotBeUsed(t *testing.T) {
	for name, body := range map[string]string{
		"empty":                  ``,
		"no JSON":                `<html>`,
		"an empty object":        `{}`,
		"cut off":                assumed[:len(assumed)-2],
		"without a secret":       strings.Replace(assumed, `"secret"`, `""`, 1),
		"without a key":          strings.Replace(assumed, `"ASIAEXAMPLE"`, `null`, 1),
		"without a session":      strings.Replace(assumed, `"session"`, `""`, 1),
		"without an expiration":  strings.Replace(assumed, `1702206632.5`, `null`, 1),
		"an absurd expiration":   strings.Replace(assumed, `1702206632.5`, `1e300`, 1),
		"a role that is no ARN":  strings.Replace(assumed, `arn:aws:sts::`, `x`, 1),
		"longer than it is read": strings.Repeat(" ", 1<<20) + assumed,
	} {
		t.Run(name, func(t *testing.T) {
			client := newClient(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }, nil)
			got, err := client.AssumeRoleForPodIdentity(t.Context(), "pod's token")
			if err == nil || agent.Irrecoverable(err) || got != (agent.Credentials{}) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestClientFailures(t *testing.T) {
	t.Run("no credentials of its own", func(t *testing.T) {
		none := errors.New("no credentials")
		client := newClient(t, func(http.ResponseWriter, *http.Request) { t.Error("called") }, func(c *agent.ClientConfig) {
			c.Credentials = func(context.Context) (sigv4.Credentials, error) { return sigv4.Credentials{}, none }
		})
		if _, err := client.AssumeRoleForPodIdentity(t.Context(), "pod's token"); !errors.Is(err, none) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("too slow", func(t *testing.T) {
		client := newClient(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			func(c *agent.ClientConfig) { c.Timeout = time.Millisecond })
		if _, err := client.AssumeRoleForPodIdentity(t.Context(), "pod's token"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestNewClientChecks(t *testing.T) {
	good := agent.ClientConfig{Endpoint: "https://eks-auth.us-east-1.api.aws", Region: "us-east-1", ClusterName: "demo"}
	if _, err := agent.NewClient(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*agent.ClientConfig){
		"no endpoint":             func(c *agent.ClientConfig) { c.Endpoint = "" },
		"endpoint without host":   func(c *agent.ClientConfig) { c.Endpoint = "https://" },
		"endpoint is a file":      func(c *agent.ClientConfig) { c.Endpoint = "file:///x" },
		"endpoint has a query":    func(c *agent.ClientConfig) { c.Endpoint += "?x" + "=1" },
		"endpoint does not parse": func(c *agent.ClientConfig) { c.Endpoint = "https://a b" },
		"no region":               func(c *agent.ClientConfig) { c.Region = "" },
		"no cluster":              func(c *agent.ClientConfig) { c.ClusterName = "" },
	} {
		c := good
		change(&c)
		if _, err := agent.NewClient(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
