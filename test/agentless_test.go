package test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// claim reads a text claim of a token.
func claim(t *testing.T, token, name string) string {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	text, _ := claims[name].(string)
	return text
}

// A pod that no agent can be beside asks the control plane itself, as an SDK does of any HTTPS host.
func TestPodsWithoutAnAgent(t *testing.T) {
	s := startDev(t, dataDir(t))
	token := func(cluster, serviceAccount, audience string) string {
		return strings.TrimSpace(s.must("token", cluster, "-n", "default", "-s", serviceAccount, "--audience", audience))
	}
	good := token("dev", "s3-sa", "pods.eks.amazonaws.com")
	issuer, err := url.Parse(claim(t, good, "iss"))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(filepath.Join(s.dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	t.Cleanup(client.CloseIdleConnections)
	endpoint := "https://" + issuer.Host + "/v1/credentials"

	sdk := endpointcreds.New(endpoint, func(o *endpointcreds.Options) { o.AuthorizationToken, o.HTTPClient = good, client })
	got, err := sdk.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	who, err := sts.NewFromConfig(s.as(got)).GetCallerIdentity(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if arn := aws.ToString(who.Arn); !strings.HasPrefix(arn, "arn:aws:sts::"+account+":assumed-role/dev-s3-sa/eks-dev-") || got.AccountID != account {
		t.Errorf("got credentials of %s in account %q", arn, got.AccountID)
	}
	rotated := endpointcreds.New(endpoint, func(o *endpointcreds.Options) {
		o.AuthorizationToken, o.HTTPClient = token("dev", "s3-sa", "pods.eks.amazonaws.com"), client
	})
	if again, err := rotated.Retrieve(t.Context()); err != nil || again.AccessKeyID != got.AccessKeyID {
		t.Errorf("the pod's next token got %s, %v, and not what is kept", again.AccessKeyID, err)
	}

	s.must("cluster", "register", "other")
	stranger := token("other", "s3-sa", "pods.eks.amazonaws.com")
	forged := good[:strings.LastIndexByte(good, '.')] + stranger[strings.LastIndexByte(stranger, '.'):]
	for _, c := range []struct {
		name, url, token string
		status           int
		text             string
	}{
		{"a token for another audience", endpoint, token("dev", "s3-sa", "sts.amazonaws.com"), 400, "cannot be verified: "},
		{"a signature of another cluster's key", endpoint, forged, 400, "cannot be verified: "},
		{"a token of an issuer that no cluster has", endpoint, newKubernetes(t).tokens(t, 1)[0], 404, "(ResourceNotFoundException): No cluster found"},
		{"a service account without an association", endpoint, token("dev", "nobody", "pods.eks.amazonaws.com"), 404,
			"(ResourceNotFoundException): No association found for service account nobody in namespace default of cluster dev."},
		{"the same service account of another cluster", endpoint, stranger, 404, "of cluster other."},
		{"not a token", endpoint, "Bearer x", 400, "Service account token cannot be parsed"},
		{"plain HTTP", s.env["AWS_ENDPOINT_URL"] + "/v1/credentials", good, 400, ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", c.token)
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != c.status || !strings.Contains(string(body), c.text) || strings.Contains(string(body), "SecretAccessKey") {
			t.Errorf("%s: got %d %s, %v; want %d and %q", c.name, answer.StatusCode, body, err, c.status, c.text)
		}
	}
}
