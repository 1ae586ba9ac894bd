package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/awstest"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/lanyardapi"
	"github.com/lanyard-id/lanyard/internal/subject"
)

// Associations are found by their names and, where Lanyard is asked, by patterns: without a list, since a pod may be made in the moment
// after its association. Whoever else answers is asked for the names alone, as AWS is.
func TestAssociationsAreFound(t *testing.T) {
	t.Parallel()
	services := awstest.New(t, awstest.Config{Store: kv.NewMemory()})
	lanyard := services.Handler(t, awsapi.HandlerConfig{})
	client := services.Serve(t, lanyard)
	client.Key = services.Root(t, "111122223333")
	client.Register(t, "demo")
	role, err := client.IAM().CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("app"), AssumeRolePolicyDocument: awstest.Document(
		`{"Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}`,
	)})
	if err != nil {
		t.Fatal(err)
	}
	named, byPattern := subject.Subject{Namespace: "web", ServiceAccount: "reader"}, subject.Subject{Namespace: "team-a", ServiceAccount: "app"}
	none := subject.Subject{Namespace: "web", ServiceAccount: "writer"}
	for _, who := range []subject.Subject{named, {Namespace: "team-*", ServiceAccount: "*"}} {
		_, err := client.EKS().CreatePodIdentityAssociation(t.Context(), &eks.CreatePodIdentityAssociationInput{
			ClusterName: aws.String("demo"), Namespace: &who.Namespace, ServiceAccount: &who.ServiceAccount, RoleArn: role.Role.Arn,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// answering serves Lanyard's own API otherwise.
	answering := func(status int, code, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/lanyard/") {
				lanyard.ServeHTTP(w, r)
				return
			}
			if code != "" {
				w.Header().Set("X-Amzn-ErrorType", code)
			}
			w.WriteHeader(status)
			w.Write([]byte(body))
		})
	}
	both, names := []subject.Subject{named, byPattern}, []subject.Subject{named}
	for _, c := range []struct {
		name    string
		handler http.Handler
		cluster string
		found   []subject.Subject
		fault   string // part of the error
	}{
		{"Lanyard", lanyard, "demo", both, ""},
		{"a cluster that is not there", lanyard, "other", nil, "No cluster found for name: other."},
		{"a Lanyard that does not know the question", answering(404, "UnknownOperationException", `{"message": "There is no operation."}`), "demo", names, ""},
		{"AWS", answering(403, "MissingAuthenticationTokenException", `{"message": "Missing Authentication Token"}`), "demo", names, ""},
		{"an emulator of AWS", answering(501, "", "<Error/>"), "demo", names, ""},
		{"a page", answering(200, "", "<html>"), "demo", names, ""},
		{"a Lanyard that is out of order", answering(503, "ServiceUnavailableException", `{"message": "The store is down."}`), "demo", nil, "The store is down."},
		{"a Lanyard that has too much to do", answering(429, "ThrottlingException", `{"message": "Rate exceeded"}`), "demo", nil, "Rate exceeded"},
		{"a proxy without anybody behind it", answering(502, "", "Bad Gateway"), "demo", nil, "answers 502 Bad Gateway, but not as Lanyard does"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(c.handler)
			defer server.Close()
			cfg := aws.Config{Region: awstest.Region, Credentials: client.Credentials(), BaseEndpoint: &server.URL, RetryMaxAttempts: 1}
			e := eksAssociations{client: eks.NewFromConfig(cfg), lanyard: lanyardapi.Client{Config: cfg, Endpoint: server.URL}, cluster: c.cluster}
			for _, who := range []subject.Subject{named, byPattern, none} {
				found, err := e.find(t.Context(), who)
				if c.fault != "" {
					if found || err == nil || !strings.Contains(err.Error(), c.fault) {
						t.Errorf("%v: got %v, %v, want %q", who, found, err, c.fault)
					}
					continue
				}
				want := false
				for _, one := range c.found {
					want = want || one == who
				}
				if found != want || err != nil {
					t.Errorf("%v: got %v, %v, want %v", who, found, err, want)
				}
			}
		})
	}
}

// An API that says no is there; one that is out of order, or that cannot be reached, is waited for.
func TestRefusalsAreAnswers(t *testing.T) {
	t.Parallel()
	answering := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			w.Write([]byte(body))
		}
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		handler http.Handler // nil for nobody
		byToken bool         // whether credentials are asked for first
		want    bool
	}{
		{"there is no such cluster", answering(404, `{"__type": "ResourceNotFoundException"}`), false, true},
		{"the caller may not", answering(403, `{"__type": "AccessDeniedException"}`), false, true},
		{"there are no credentials for the caller", answering(400, "<ErrorResponse><Error><Code>InvalidIdentityToken</Code></Error></ErrorResponse>"), true, true},
		{"too much to do", answering(429, `{"__type": "ThrottlingException"}`), false, false},
		{"out of order", answering(503, `{"__type": "ServiceUnavailableException"}`), false, false},
		{"out of order, where credentials come from", answering(500, "<ErrorResponse><Error><Code>InternalFailure</Code></Error></ErrorResponse>"), true, false},
		{"nobody there", nil, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(tt.handler)
			defer server.Close()
			if tt.handler == nil {
				server.Close()
			}
			cfg := aws.Config{
				Region: awstest.Region, BaseEndpoint: &server.URL, Credentials: awstest.Client{}.Credentials(),
				Retryer: func() aws.Retryer { return aws.NopRetryer{} },
			}
			if tt.byToken {
				cfg.Credentials = stscreds.NewWebIdentityRoleProvider(sts.NewFromConfig(cfg), "arn:aws:iam::111122223333:role/webhook", stscreds.IdentityTokenFile(token))
			}
			_, err := eksAssociations{client: eks.NewFromConfig(cfg), cluster: "demo"}.list(t.Context())
			if err == nil || answered(err) != tt.want {
				t.Errorf("%v: an answer %t, want %t", err, answered(err), tt.want)
			}
		})
	}
}
