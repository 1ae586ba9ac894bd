package lanyardapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/awstest"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/lanyardapi"
)

// Lanyard answers what it is asked, says what it refuses, and knows by the signature who asks.
func TestRequestsAreSigned(t *testing.T) {
	t.Parallel()
	services := awstest.New(t, awstest.Config{Store: kv.NewMemory()})
	client := services.Serve(t, services.Handler(t, awsapi.HandlerConfig{}))
	client.Key = services.Root(t, "111122223333")
	cfg := aws.Config{Region: awstest.Region, Credentials: client.Credentials()}
	api := lanyardapi.Client{Config: cfg, Endpoint: client.URL + "/"}

	var made struct{ Cluster struct{ Name, ARN string } }
	in := map[string]string{"name": "demo"}
	if err := api.Do(t.Context(), http.MethodPost, "/lanyard/clusters", in, &made); err != nil {
		t.Fatal(err)
	}
	if made.Cluster.Name != "demo" || !strings.Contains(made.Cluster.ARN, "111122223333") {
		t.Errorf("made %+v", made)
	}
	query := lanyardapi.ClusterPath("demo", "/effective-association?namespace=web&serviceAccount=reader")
	if err := api.Do(t.Context(), http.MethodGet, query, nil, nil); err != nil {
		t.Errorf("with a query, and nothing to read the answer into: %v", err)
	}

	stranger := api
	stranger.Config.Credentials = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		c, err := cfg.Credentials.Retrieve(ctx)
		c.SecretAccessKey += "x"
		return c, err
	})
	for _, tt := range []struct {
		name   string
		api    lanyardapi.Client
		in     any
		code   string
		status int
	}{
		{"what is there already", api, in, "ResourceInUseException", 409},
		{"a wrong secret", stranger, in, "InvalidSignatureException", 403},
		{"a name that cannot be one", api, map[string]string{"name": "a/b"}, "InvalidParameterException", 400},
	} {
		err := tt.api.Do(t.Context(), http.MethodPost, "/lanyard/clusters", tt.in, nil)
		refused, ok := errors.AsType[smithy.APIError](err)
		answer, is := errors.AsType[*lanyardapi.AnswerError](err)
		if !ok || !is || refused.ErrorCode() != tt.code || refused.ErrorMessage() == "" || answer.Status != tt.status {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// What is not Lanyard is not taken for it, and its pages are not repeated.
func TestOthersAreTold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, code, body string
		status           int
		fault            string // part of the error
		answer           bool   // whether the error is one of an answer
	}{
		{"a page", "", "<html>secret</html>", 200, "answers 200 OK, but not as Lanyard does", true},
		{"an error's page", "", "<html>secret</html>", 404, "answers 404 Not Found, but not as Lanyard does", true},
		{"an error that names its kind alone", "AccessDenied", "secret", 403, "answers 403 Forbidden, but not as Lanyard does", true},
		{"an error without a kind", "", `{"Message": "secret"}`, 403, "answers 403 Forbidden, but not as Lanyard does", true},
		{"a redirection", "", "secret", 304, "answers 304 Not Modified, but not as Lanyard does", true},
		{"an endless answer", "", `"` + strings.Repeat("secret", 1<<20) + `"`, 200, "is longer than 4 MiB", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if tt.code != "" {
					w.Header().Set("X-Amzn-ErrorType", tt.code)
				}
				w.WriteHeader(tt.status)
				w.Write([]byte(tt.body))
			}))
			defer server.Close()
			cfg := aws.Config{Region: awstest.Region, Credentials: awstest.Client{}.Credentials()}
			var out json.RawMessage
			err := lanyardapi.Client{Config: cfg, Endpoint: server.URL}.Do(t.Context(), http.MethodGet, "/lanyard/accounts", nil, &out)
			if err == nil || !strings.Contains(err.Error(), tt.fault) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q", err, tt.fault)
			}
			if _, ok := errors.AsType[*lanyardapi.AnswerError](err); ok != tt.answer {
				t.Errorf("%T, of an answer: %t", err, ok)
			}
		})
	}
}
