//go:build e2e

package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// A cluster joins by its kubeconfig alone, and its API server rotates its key: tokens of the old key and of the new one are honoured until
// the old one is not served any more.
func TestJoiningAClusterAndRotatingItsKey(t *testing.T) {
	k := startKubernetes(t)
	s := startDev(t, dataDir(t))
	const role = "arn:aws:iam::" + account + ":role/one-web-app"

	out, next, err := s.lanyard("cluster", "register", "one", "--kubeconfig", k.kubeconfig, "-o", "json")
	if err != nil {
		t.Fatalf("%v\n%s", err, next)
	}
	var cluster struct {
		Issuer, ProviderARN string
		KeyIDs              []string
	}
	if err := json.Unmarshal([]byte(out), &cluster); err != nil {
		t.Fatal(err)
	}
	provider := "arn:aws:iam::" + account + ":oidc-provider/" + strings.TrimPrefix(kubernetesIssuer, "https://")
	if cluster.Issuer != kubernetesIssuer || cluster.ProviderARN != provider || len(cluster.KeyIDs) != 1 {
		t.Errorf("registered: %s", out)
	}
	if !strings.Contains(next, "cluster one registered with 1 key\n") || !strings.Contains(next, "oidc.kubernetes.test is not a name of the Internet") {
		t.Errorf("it says: %s", next)
	}
	s.must("irsa", "create", "--cluster", "one", "-n", "web", "-s", "app", "--policy-arn", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
	s.must("association", "create", "--cluster", "one", "-n", "web", "-s", "worker", "--role-arn", "arn:aws:iam::"+account+":role/dev-s3-sa")

	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web"}}`)
	for _, name := range []string{"app", "worker"} {
		k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", fmt.Sprintf(`{"metadata": {"name": %q}}`, name))
	}
	k.must(http.MethodPost, "/api/v1/namespaces/web/pods",
		`{"metadata": {"name": "worker-0"}, "spec": {"serviceAccountName": "worker", "containers": [{"name": "app", "image": "app"}]}}`)
	token := func() string {
		var reply struct{ Status struct{ Token string } }
		text := k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts/app/token", `{"spec": {"audiences": ["sts.amazonaws.com"]}}`)
		if err := json.Unmarshal(text, &reply); err != nil {
			t.Fatal(err)
		}
		return reply.Status.Token
	}
	honoured := func(when, token string, want bool) {
		t.Helper()
		_, err := sts.NewFromConfig(s.aws()).AssumeRoleWithWebIdentity(t.Context(), &sts.AssumeRoleWithWebIdentityInput{
			RoleArn: aws.String(role), RoleSessionName: aws.String("test"), WebIdentityToken: &token,
		})
		if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "Couldn't retrieve verification key") {
			t.Errorf("%s: got %v, want it honoured: %t", when, err, want)
		}
	}
	podIdentity := func(when, want string) {
		t.Helper()
		out, errs, err := s.lanyard("run", "--kubeconfig", k.kubeconfig, "--cluster", "one", "-n", "web", "-s", "worker", "--pod", "worker-0",
			"--", binary("lanyard"), "demo", "pod")
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: got %v, %s%s, want %s", when, err, out, errs, want)
		}
	}
	update := func(want string) {
		t.Helper()
		if out := s.must("cluster", "update-keys", "one", "--kubeconfig", k.kubeconfig); !strings.Contains(out, want) {
			t.Errorf("update-keys: got %s, want %s", out, want)
		}
	}
	const session = "assumed-role/dev-s3-sa/"
	first := token()
	honoured("a token of the first key", first, true)
	podIdentity("a pod of the first key", session)

	k.stop()
	nextKey := k.newKey("next.key")
	k.start(nextKey, filepath.Join(k.dir, "sa.key"))
	second := token()
	honoured("a token of a key that is not registered", second, false)
	update("1 key added, 0 keys removed, 1 kept")
	honoured("a token of the old key", first, true)
	honoured("a token of the next key", second, true)
	podIdentity("a pod of the next key", session)
	update("its keys are the same")

	public := filepath.Join(t.TempDir(), "public")
	if out := s.must("oidc", "publish", "--to", public, "--kubeconfig", k.kubeconfig); strings.Count(out, " added\n") != 2 {
		t.Errorf("published: %s", out)
	}
	published, err := os.ReadFile(filepath.Join(public, "openid", "v1", "jwks"))
	if err != nil || !strings.Contains(string(published), cluster.KeyIDs[0]) {
		t.Errorf("published: %s, %v", published, err)
	}

	k.stop()
	k.start(nextKey)
	if _, says, err := s.lanyard("cluster", "register", "one", "--kubeconfig", k.kubeconfig); err != nil ||
		!strings.Contains(says, "cluster one was registered already: 0 keys added, 1 key removed, 1 kept") {
		t.Errorf("registered again: %s, %v", says, err)
	}
	honoured("a token of the withdrawn key", first, false)
	honoured("a token of the next key, alone", second, true)
	podIdentity("a pod of the next key, alone", session)
}
