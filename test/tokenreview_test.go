//go:build e2e

package test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/internal/agent"
)

const (
	// reviewEvery is the least that server and agent take. A pod that asks the agent may have twice as long.
	reviewEvery = 15 * time.Second

	stsAudience = "sts.amazonaws.com"
	podAudience = "pods.eks.amazonaws.com"
)

// reviewerKubeconfig makes a service account that may have tokens reviewed and nothing else, and returns a kubeconfig that reads its
// token from a file, as a pod would.
func (k *apiServer) reviewerKubeconfig() string {
	k.t.Helper()
	const rbac = "/apis/rbac.authorization.k8s.io/v1"
	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "lanyard"}}`)
	k.must(http.MethodPost, "/api/v1/namespaces/lanyard/serviceaccounts", `{"metadata": {"name": "lanyard-server"}}`)
	k.must(http.MethodPost, rbac+"/clusterroles", `{"metadata": {"name": "lanyard-token-review"},
		"rules": [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]}`)
	k.must(http.MethodPost, rbac+"/clusterrolebindings", `{"metadata": {"name": "lanyard-token-review"},
		"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "lanyard-token-review"},
		"subjects": [{"kind": "ServiceAccount", "namespace": "lanyard", "name": "lanyard-server"}]}`)
	text, err := os.ReadFile(k.kubeconfig)
	if err != nil {
		k.t.Fatal(err)
	}
	dir := k.t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(k.boundToken("lanyard", "lanyard-server", "", "{}")), 0o600); err != nil {
		k.t.Fatal(err)
	}
	file := filepath.Join(dir, "kubeconfig")
	own := strings.Replace(string(text), `token: "`+kubernetesToken+`"`, `tokenFile: "`+token+`"`, 1)
	if err := os.WriteFile(file, []byte(own), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return file
}

// boundToken asks for a token, for an audience or the API server itself, that is bound to an object unless that is {}.
func (k *apiServer) boundToken(namespace, serviceAccount, audience, boundTo string) string {
	k.t.Helper()
	spec := `{}`
	if audience != "" {
		spec = fmt.Sprintf(`{"audiences": [%q], "boundObjectRef": %s}`, audience, boundTo)
	}
	if boundTo == "{}" {
		spec = strings.Replace(spec, `, "boundObjectRef": {}`, "", 1)
	}
	var reply struct{ Status struct{ Token string } }
	read(k.t, k.must(http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+serviceAccount+"/token", `{"spec": `+spec+`}`), &reply)
	return reply.Status.Token
}

// bindable creates an object and returns what a token is bound to it by.
func (k *apiServer) bindable(kind, path, body string) (reference string) {
	k.t.Helper()
	var made struct{ Metadata struct{ Name, UID string } }
	read(k.t, k.must(http.MethodPost, path, body), &made)
	return fmt.Sprintf(`{"kind": %q, "apiVersion": "v1", "name": %q, "uid": %q}`, kind, made.Metadata.Name, made.Metadata.UID)
}

// startAgent runs an agent of the cluster on this machine until the test ends, as the server's root, and returns its address.
func startAgent(t *testing.T, s *server, args ...string) (address string) {
	t.Helper()
	cmd := exec.Command(binary("lanyard-agent"), append([]string{"server", "--cluster-name", "one", "--bind-hosts", "127.0.0.1", "--port", "0",
		"--probe-port", "0", "--metrics-address", "127.0.0.1", "--metrics-port", "0", "--service-timeout", "10s", "--endpoint", s.env["AWS_ENDPOINT_URL"]}, args...)...)
	cmd.Env = cleanEnvironment()
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-drained
		cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var line struct {
			Server  string `json:"server"`
			Address string `json:"bind-addr"`
		}
		read(t, lines.Bytes(), &line)
		if line.Server == "credentials" {
			go func() {
				defer close(drained)
				io.Copy(t.Output(), out)
			}()
			return line.Address
		}
	}
	close(drained)
	t.Fatal("the agent ended before it listened")
	return ""
}

// A token is honoured as long as its pod, its service account or its node is there, within the time that is set; and without that until
// it expires.
func TestTokenReview(t *testing.T) {
	t.Parallel()
	k := startKubernetes(t)
	kubeconfig := k.reviewerKubeconfig()
	reviewing := startServer(t, fmt.Sprintf("tokenReview: {every: %s, clusters: {one: {kubeconfig: %s}}}\n", reviewEvery, kubeconfig))
	trusting := startServer(t, "tokenReview: {clusters: {one: {kubeconfig: "+kubeconfig+"}}}\n")

	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web"}}`)
	jwks := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(jwks, k.must(http.MethodGet, "/openid/v1/jwks", ""), 0o600); err != nil {
		t.Fatal(err)
	}
	role := map[string]string{}
	for _, name := range []string{"app", "leaving"} {
		k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", fmt.Sprintf(`{"metadata": {"name": %q}}`, name))
		role[name] = "arn:aws:iam::" + account + ":role/one-web-" + name
	}
	for _, s := range []*server{reviewing, trusting} {
		s.must("cluster", "register", "one", "--issuer", kubernetesIssuer, "--jwks", jwks)
		pods, err := iam.NewFromConfig(s.aws()).CreateRole(t.Context(), &iam.CreateRoleInput{
			RoleName: aws.String("pods"), AssumeRolePolicyDocument: aws.String(trustPods),
		})
		if err != nil {
			t.Fatal(err)
		}
		for name := range role {
			s.must("irsa", "create", "--cluster", "one", "-n", "web", "-s", name, "--policy-arn", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
			s.must("association", "create", "--cluster", "one", "-n", "web", "-s", name, "--role-arn", aws.ToString(pods.Role.Arn))
		}
	}
	pod := func(name, serviceAccount string) string {
		return k.bindable("Pod", "/api/v1/namespaces/web/pods", fmt.Sprintf(
			`{"metadata": {"name": %q}, "spec": {"serviceAccountName": %q, "containers": [{"name": "app", "image": "app"}]}}`, name, serviceAccount))
	}
	staying, deleted, orphan := pod("staying", "app"), pod("deleted", "app"), pod("orphan", "leaving")
	node := k.bindable("Node", "/api/v1/nodes", `{"metadata": {"name": "node-1"}}`)

	agents := map[*server]string{
		reviewing: startAgent(t, reviewing, "--token-review", reviewEvery.String()), trusting: startAgent(t, trusting),
	}
	// bearer is a token, and how it is traded: at STS, or at the agent.
	type bearer struct{ what, serviceAccount, audience, token string }
	of := func(what, serviceAccount, audience, boundTo string) bearer {
		return bearer{what, serviceAccount, audience, k.boundToken("web", serviceAccount, audience, boundTo)}
	}
	stays := []bearer{
		of("a pod's token", "app", stsAudience, staying),
		of("a pod's token", "app", podAudience, staying),
		of("a service account's token", "app", stsAudience, "{}"),
	}
	goes := []bearer{
		of("a deleted pod's token", "app", stsAudience, deleted),
		of("a deleted pod's token", "app", podAudience, deleted),
		of("a deleted service account's token", "leaving", stsAudience, "{}"),
		of("a deleted service account's pod's token", "leaving", stsAudience, orphan),
		of("a deleted service account's pod's token", "leaving", podAudience, orphan),
		of("a deleted node's token", "app", stsAudience, node),
	}
	spare := []bearer{of("a token that nobody has shown", "app", stsAudience, staying), of("a token that nobody has shown", "app", podAudience, pod("spare", "app"))}
	refusals := map[string]struct{ revoked, down string }{
		stsAudience: {"InvalidIdentityToken", "IDPCommunicationError"},
		podAudience: {"InvalidTokenException", "ServiceUnavailableException"},
	}
	// trade returns the code of the refusal.
	trade := func(s *server, b bearer) (code string) {
		t.Helper()
		if b.audience == stsAudience {
			_, err := sts.NewFromConfig(s.as(aws.Credentials{})).AssumeRoleWithWebIdentity(t.Context(), &sts.AssumeRoleWithWebIdentityInput{
				RoleArn: aws.String(role[b.serviceAccount]), RoleSessionName: aws.String("test"), WebIdentityToken: &b.token,
			})
			if api, ok := errors.AsType[smithy.APIError](err); ok {
				return api.ErrorCode()
			}
			if err != nil {
				t.Fatal(err)
			}
			return ""
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+agents[s]+agent.Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = agent.LinkLocalIPv4
		r.Header.Set("Authorization", b.token)
		reply, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer reply.Body.Close()
		text, err := io.ReadAll(reply.Body)
		if err != nil {
			t.Fatal(err)
		}
		if reply.StatusCode == http.StatusOK {
			return ""
		}
		_, rest, _ := strings.Cut(string(text), "(")
		code, _, _ = strings.Cut(rest, ")")
		return code
	}
	want := func(when string, s *server, b bearer, want string) {
		t.Helper()
		if got := trade(s, b); got != want {
			t.Errorf("%s for %s, %s: got %q, want %q", b.what, b.audience, when, got, want)
		}
	}
	// soon waits until a token is refused, or honoured.
	soon := func(when string, s *server, b bearer, want string) {
		t.Helper()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 4*reviewEvery)
		defer cancel()
		for tick := time.Tick(200 * time.Millisecond); ; {
			got := trade(s, b)
			if got == want {
				t.Logf("%s for %s, %s: %q after %s", b.what, b.audience, when, want, time.Since(begun).Round(100*time.Millisecond))
				return
			}
			select {
			case <-tick:
			case <-ctx.Done():
				t.Errorf("%s for %s, %s: got %q, want %q", b.what, b.audience, when, got, want)
				return
			}
		}
	}

	for _, b := range append(stays, goes...) {
		want("at first", reviewing, b, "")
		want("at first, unasked", trusting, b, "")
	}
	const gone = "?gracePeriodSeconds=0"
	k.must(http.MethodDelete, "/api/v1/namespaces/web/pods/deleted"+gone, "")
	k.must(http.MethodDelete, "/api/v1/namespaces/web/serviceaccounts/leaving"+gone, "")
	k.must(http.MethodDelete, "/api/v1/nodes/node-1"+gone, "")
	for _, b := range goes {
		soon("after that", reviewing, b, refusals[b.audience].revoked)
	}
	for _, b := range stays {
		want("after that", reviewing, b, "")
	}
	for _, b := range append(stays, goes...) {
		want("after that, unasked", trusting, b, "")
	}

	k.stop()
	for _, b := range spare {
		want("with no API server", reviewing, b, refusals[b.audience].down)
		want("with no API server, unasked", trusting, b, "")
	}
	for _, b := range stays {
		soon("with no API server", reviewing, b, refusals[b.audience].down)
	}
	k.start(filepath.Join(k.dir, "sa.key"))
	for _, b := range append(stays, spare...) {
		soon("with the API server back", reviewing, b, "")
	}
	for _, b := range goes {
		soon("with the API server back", reviewing, b, refusals[b.audience].revoked)
	}
}
