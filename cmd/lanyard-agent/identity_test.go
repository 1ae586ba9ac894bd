package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
)

// environment sets what the AWS SDK reads, and nothing else.
func environment(t *testing.T, values map[string]string) {
	t.Helper()
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS",
		"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "HTTP_PROXY", "http_proxy",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for name, value := range values {
		t.Setenv(name, value)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A role for the token of the agent's own service account, by the wire of STS.
func TestWebIdentity(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, "projected")
	refused := false
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("RoleArn") != "arn:aws:iam::111122223333:role/agent" ||
			r.FormValue("WebIdentityToken") != "projected" || !strings.HasPrefix(r.FormValue("RoleSessionName"), "lanyard-agent-") || r.Header.Get("Authorization") != "" {
			t.Errorf("asked for %v", r.Form)
		}
		if refused {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>`)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>
			<AccessKeyId>ASIAAGENT</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration>
			</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer sts.Close()
	environment(t, map[string]string{"AWS_ENDPOINT_URL_STS": sts.URL})
	cfg, err := config.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &serverConfig{roleARN: "arn:aws:iam::111122223333:role/agent", tokenFile: file}
	own := c.identity(cfg)
	for range 3 {
		got, err := own.get(t.Context())
		if err != nil || got.AccessKeyID != "ASIAAGENT" || got.SecretAccessKey != "s" || got.SessionToken != "t" {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	refused = true
	if got, err := own.get(t.Context()); err != nil || got.AccessKeyID != "ASIAAGENT" {
		t.Errorf("what is kept: %+v, %v", got, err)
	}
	if _, err := c.identity(cfg).get(t.Context()); err == nil || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("a refusal: %v", err)
	}
}

func TestRotatedCredentialsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	environment(t, map[string]string{"AWS_SHARED_CREDENTIALS_FILE": file})
	text := "[default]\naws_access_key_id = %s\naws_secret_access_key = s\n"
	write(t, file, fmt.Sprintf(text, "AKIAFIRST"))
	synctest.Test(t, func(t *testing.T) {
		own := (&serverConfig{rotateCredentials: true}).identity(aws.Config{Credentials: aws.AnonymousCredentials{}})
		ctx, stop := context.WithCancel(t.Context())
		go own.run(ctx)
		want := func(id string) {
			t.Helper()
			if got, err := own.get(ctx); err != nil || got.AccessKeyID != id {
				t.Errorf("got %s, %v, want %s", got.AccessKeyID, err, id)
			}
		}
		want("AKIAFIRST")
		write(t, file, fmt.Sprintf(text, "AKIASECOND"))
		want("AKIAFIRST")
		<-time.After(time.Minute + 5*time.Second)
		synctest.Wait()
		want("AKIASECOND")
		write(t, file, "[default]\n") // half written
		<-time.After(2 * time.Minute)
		synctest.Wait()
		want("AKIASECOND")
		stop()
	})
}

func TestCredentialsThatCannotBeHad(t *testing.T) {
	none := errors.New("none")
	own := (&serverConfig{}).identity(aws.Config{Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{}, none
	})})
	if _, err := own.get(t.Context()); !errors.Is(err, none) {
		t.Errorf("got %v", err)
	}
}

func TestKeysOfTheCluster(t *testing.T) {
	dir := t.TempDir()
	ca, token, file := filepath.Join(dir, "ca"), filepath.Join(dir, "token"), filepath.Join(dir, "jwks")
	write(t, token, "own\n")
	write(t, file, "{}")
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer own":
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/keys":
			fmt.Fprint(w, `{"keys":[]}`)
		case r.URL.Path == "/long":
			fmt.Fprint(w, strings.Repeat(" ", 1<<20+1))
		default:
			http.Redirect(w, r, "/keys", http.StatusFound)
		}
	}))
	defer api.Close()
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})))
	for _, tt := range []struct {
		name string
		c    serverConfig
		want string // none is an error
	}{
		{"from a file", serverConfig{jwksFile: file}, "{}"},
		{"from a file that is not there", serverConfig{jwksFile: file + "x"}, ""},
		{"from the API server", serverConfig{jwksURL: api.URL + "/keys", jwksCA: ca, jwksToken: token}, `{"keys":[]}`},
		{"without a token", serverConfig{jwksURL: api.URL + "/keys", jwksCA: ca}, ""},
		{"with a token that is not there", serverConfig{jwksURL: api.URL + "/keys", jwksCA: ca, jwksToken: token + "x"}, ""},
		{"without its CA", serverConfig{jwksURL: api.URL + "/keys", jwksToken: token}, ""},
		{"by a redirect", serverConfig{jwksURL: api.URL + "/other", jwksCA: ca, jwksToken: token}, ""},
		{"too long", serverConfig{jwksURL: api.URL + "/long", jwksCA: ca, jwksToken: token}, ""},
	} {
		load, err := tt.c.keys()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := load(t.Context()); string(got) != tt.want && tt.want != "" || (err == nil) != (tt.want != "") {
			t.Errorf("%s: got %d bytes, %v", tt.name, len(got), err)
		}
	}
	if load, err := (&serverConfig{}).keys(); load != nil || err != nil {
		t.Errorf("none: %v", err)
	}
	if _, err := (&serverConfig{jwksURL: api.URL, jwksCA: token}).keys(); err == nil {
		t.Error("a CA file without a certificate is taken")
	}
}
