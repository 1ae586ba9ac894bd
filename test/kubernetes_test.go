//go:build e2e

package test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/kv/etcd/embedded"
)

// apiServer is a running kube-apiserver: no nodes, and so no containers, but service accounts, pods and tokens as they are anywhere.
type apiServer struct {
	t          testing.TB
	url        string
	client     *http.Client
	kubeconfig string

	dir  string
	args []string // the program's, with it, but for its service account keys
	cmd  *exec.Cmd
}

const (
	kubernetesIssuer = "https://oidc.kubernetes.test/clusters/one"
	kubernetesToken  = "an-administrator-s-token"
	controllersToken = "a-controller-s-token" // of a service account that may do as much, but takes its turn
)

// startKubernetes runs the API server that `make e2e` builds, over an etcd in this process, until the test ends.
func startKubernetes(t testing.TB) *apiServer {
	t.Helper()
	program, err := filepath.Abs("../.cache/kubenode/bin/kube-apiserver")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		leftOut(t, "kube-apiserver is not built: run make e2e")
	}
	dir := t.TempDir()
	etcd, err := embedded.Serve(t.Context(), filepath.Join(dir, "etcd"), "127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := etcd.Close(); err != nil {
			t.Error(err)
		}
	})
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tokens := write("tokens.csv", []byte(kubernetesToken+",admin,admin,system:masters\n"+
		controllersToken+",system:serviceaccount:kube-system:controller,controller,\"system:serviceaccounts,controllers\"\n"))
	// The API server takes no port 0.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	k := &apiServer{t: t, url: "https://" + address, dir: dir, args: []string{program,
		"--etcd-servers=" + etcd.Endpoint, "--bind-address=127.0.0.1", "--secure-port=" + port, "--cert-dir=" + filepath.Join(dir, "certs"),
		"--service-account-issuer=" + kubernetesIssuer, "--authorization-mode=RBAC", "--token-auth-file=" + tokens,
		"--service-cluster-ip-range=10.96.0.0/16", "-v=0",
	}}
	t.Cleanup(k.stop)
	k.start(k.newKey("sa.key"))
	k.kubeconfig = write("kubeconfig", fmt.Appendf(nil, `
apiVersion: v1
kind: Config
clusters: [{name: one, cluster: {server: "%s", certificate-authority: "%s"}}]
users: [{name: admin, user: {token: "%s"}}]
contexts: [{name: one, context: {cluster: one, user: admin}}]
current-context: one
`, k.url, filepath.Join(dir, "certs", "apiserver.crt"), kubernetesToken))
	return k
}

// newKey makes a service account key and returns its file.
func (k *apiServer) newKey(name string) string {
	k.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		k.t.Fatal(err)
	}
	file := filepath.Join(k.dir, name)
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		k.t.Fatal(err)
	}
	return file
}

// start runs the program, which signs with one key and serves and accepts others besides, until it answers.
func (k *apiServer) start(signing string, others ...string) {
	k.t.Helper()
	args := append(k.args[1:len(k.args):len(k.args)], "--service-account-signing-key-file="+signing)
	for _, file := range append([]string{signing}, others...) {
		args = append(args, "--service-account-key-file="+file)
	}
	log, err := os.Create(filepath.Join(k.dir, "log"))
	if err != nil {
		k.t.Fatal(err)
	}
	defer log.Close()
	k.cmd = exec.Command(k.args[0], args...)
	k.cmd.Stdout, k.cmd.Stderr = log, log
	if err := k.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	if err := k.waitUntilReady(filepath.Join(k.dir, "certs", "apiserver.crt")); err != nil {
		text, _ := os.ReadFile(log.Name())
		k.t.Fatalf("%v; its log:\n%s", err, text)
	}
}

func (k *apiServer) stop() {
	if k.cmd != nil && k.cmd.Process != nil {
		k.cmd.Process.Kill()
		k.cmd.Wait()
	}
}

// waitUntilReady waits for the API server's certificate, which it makes for itself, and then for its own word.
func (k *apiServer) waitUntilReady(certFile string) error {
	ctx, cancel := context.WithTimeout(k.t.Context(), 3*time.Minute)
	defer cancel()
	for tick := time.Tick(100 * time.Millisecond); ; {
		err := k.ready(certFile)
		if err == nil {
			return nil
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return fmt.Errorf("the API server is not ready: %w", err)
		}
	}
}

func (k *apiServer) ready(certFile string) error {
	if k.client == nil {
		cert, err := os.ReadFile(certFile)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(cert) {
			return fmt.Errorf("%s holds no certificate yet", certFile)
		}
		k.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}
	}
	_, err := k.do(http.MethodGet, "/readyz", "")
	return err
}

func (k *apiServer) do(method, path, body string) ([]byte, error) {
	return k.doAs(kubernetesToken, method, path, body)
}

func (k *apiServer) doAs(token, method, path, body string) ([]byte, error) {
	r, err := http.NewRequestWithContext(k.t.Context(), method, k.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	reply, err := k.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(reply.Body)
	if err == nil && reply.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, reply.Status, data)
	}
	return data, err
}

// must asks the API server and fails the test when it refuses.
func (k *apiServer) must(method, path, body string) []byte {
	k.t.Helper()
	data, err := k.do(method, path, body)
	if err != nil {
		k.t.Fatal(err)
	}
	return data
}

// Tokens of a real API server, for service accounts and pods that it knows, by the keys that it publishes.
func TestTokensOfKubernetes(t *testing.T) {
	k := startKubernetes(t)
	s := startDev(t, dataDir(t))
	program := filepath.Join(cache(t), "gov2", "client")

	jwks := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(jwks, k.must(http.MethodGet, "/openid/v1/jwks", ""), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("cluster", "register", "one", "--issuer", kubernetesIssuer, "--jwks", jwks)
	role := "arn:aws:iam::" + account + ":role/one-web-reader"
	s.must("irsa", "create", "--cluster", "one", "-n", "web", "-s", "reader", "--policy-arn", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
	s.must("association", "create", "--cluster", "one", "-n", "web", "-s", "worker", "--role-arn", "arn:aws:iam::"+account+":role/dev-s3-sa")

	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web"}}`)
	for _, serviceAccount := range []string{
		`{"metadata": {"name": "reader", "annotations": {"eks.amazonaws.com/role-arn": "` + role + `"}}}`,
		`{"metadata": {"name": "worker"}}`,
		`{"metadata": {"name": "thief", "annotations": {"eks.amazonaws.com/role-arn": "` + role + `"}}}`,
	} {
		k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", serviceAccount)
	}
	for pod, serviceAccount := range map[string]string{"worker-0": "worker", "thief-0": "thief"} {
		k.must(http.MethodPost, "/api/v1/namespaces/web/pods", fmt.Sprintf(
			`{"metadata": {"name": %q}, "spec": {"serviceAccountName": %q, "containers": [{"name": "app", "image": "app"}]}}`, pod, serviceAccount))
	}
	run := func(args ...string) (out, errs string, err error) {
		args = append([]string{"run", "--kubeconfig", k.kubeconfig, "--cluster", "one", "-n", "web"}, args...)
		return s.lanyard(append(args, "--", program)...)
	}
	for _, c := range []struct {
		name, session string
		args          []string
	}{
		{"IRSA, by the service account's annotation", "one-web-reader", []string{"-s", "reader"}},
		{"IRSA, by a role that is named", "one-web-reader", []string{"-s", "reader", "--via", "irsa", "--role-arn", role}},
		{"Pod Identity", "dev-s3-sa", []string{"-s", "worker", "--pod", "worker-0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errs, err := run(c.args...)
			if err != nil {
				t.Fatalf("%v\n%s%s", err, out, errs)
			}
			check(t, []byte(out), "arn:aws:sts::"+account+":assumed-role/"+c.session)
		})
	}
	for _, c := range []struct {
		name, refusal string
		args          []string
	}{
		{"another service account is refused the role", "Not authorized to perform sts:AssumeRoleWithWebIdentity", []string{"-s", "thief"}},
		{"a pod without an association gets nothing", "ResourceNotFoundException", []string{"-s", "thief", "--pod", "thief-0", "--via", "pod-identity"}},
		{"a pod is its own service account's", `cannot bind token for serviceaccount "worker" to pod running with different serviceaccount`,
			[]string{"-s", "worker", "--pod", "thief-0"}},
		{"Pod Identity needs a pod", "--pod", []string{"-s", "worker"}},
		{"the pod must be there", `pods "worker-1" not found`, []string{"-s", "worker", "--pod", "worker-1"}},
		{"IRSA needs an annotation", "has no annotation eks.amazonaws.com/role-arn", []string{"-s", "worker", "--via", "irsa"}},
		{"the service account must be there", `serviceaccounts "nobody" not found`, []string{"-s", "nobody", "--via", "irsa"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errs, err := run(c.args...)
			wantStatus(t, err, 1)
			if !strings.Contains(errs, c.refusal) {
				t.Errorf("got %q and %q, want %q", out, errs, c.refusal)
			}
		})
	}
}
