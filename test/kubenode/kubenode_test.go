//go:build e2e

package kubenode_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lanyard-id/lanyard/deploy/image"
	"github.com/lanyard-id/lanyard/test/kubenode"
)

// startNode starts a node even where tests may use another cluster: this is about nodes.
func startNode(t *testing.T, c kubenode.Config) *kubenode.Node {
	t.Setenv(kubenode.KubeconfigVariable, "")
	t.Setenv("KUBECONFIG", "")
	return kubenode.ForTest(t, c)
}

// kubectl fails the test when kubectl does.
func kubectl(t *testing.T, n *kubenode.Node, args ...string) string {
	t.Helper()
	out, err := n.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// create creates what manifests describe.
func create(t *testing.T, n *kubenode.Node, manifests string) {
	t.Helper()
	cmd := n.Command(t.Context(), "kubectl", "create", "--validate=false", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// eventually calls f until it succeeds, for as long as a slow machine may take.
func eventually(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tick := time.Tick(100 * time.Millisecond); ; {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// workloads are a pod with the machine's programs and kubectl, and a Service: CoreDNS's own readiness, which answers "OK".
const workloads = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  serviceAccountName: reader
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: kubenode.test/host:1
      imagePullPolicy: Never
      volumeMounts:
        - {name: usr, mountPath: /usr, readOnly: true}
        - {name: programs, mountPath: /programs, readOnly: true}
        - {name: token, mountPath: /var/run/secrets/test}
  volumes:
    - name: usr
      hostPath: {path: /usr}
    - name: programs
      hostPath: {path: /run/cache/bin}
    - name: token
      projected: {sources: [{serviceAccountToken: {path: token, audience: sts.amazonaws.com, expirationSeconds: 3600}}]}
---
apiVersion: v1
kind: Service
metadata: {name: answers, namespace: kube-system}
spec:
  selector: {k8s-app: kube-dns}
  ports: [{port: 80, targetPort: 8181}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  selector: {app: nobody}
  ports: [{port: 80}]
`

// get has the client pod fetch a page by HTTP. Nothing but bash and cat is needed for that.
func get(ctx context.Context, n *kubenode.Node, host, path string) (string, error) {
	script := fmt.Sprintf(`exec 3<>/dev/tcp/%s/80 && printf 'GET %s HTTP/1.0\r\n\r\n' >&3 && cat <&3`, host, path)
	out, err := n.Kubectl(ctx, "exec", "client", "--", "bash", "-c", script)
	return string(out), err
}

func TestNode(t *testing.T) {
	const issuer = "https://oidc.kubernetes.test/clusters/tested"
	n := startNode(t, kubenode.Config{Issuer: issuer, APIServerFlags: []string{"--service-account-max-token-expiration=2h"}})
	create(t, n, workloads)
	kubectl(t, n, "wait", "--for=condition=Ready", "--timeout=1m", "pod/client")

	t.Run("a pod reaches the API server by its name", func(t *testing.T) {
		const credentials = "/var/run/secrets/kubernetes.io/serviceaccount/"
		out := kubectl(t, n, "exec", "client", "--", "bash", "-c", `/programs/kubectl --server=https://kubernetes.default.svc `+
			`--certificate-authority=`+credentials+`ca.crt --token="$(cat `+credentials+`token)" auth whoami -o jsonpath={.status.userInfo.username}`)
		if want := "system:serviceaccount:default:reader"; out != want {
			t.Errorf("got %q, want %q", out, want)
		}
	})

	t.Run("a pod has the token that it asked for", func(t *testing.T) {
		parts := strings.Split(kubectl(t, n, "exec", "client", "--", "cat", "/var/run/secrets/test/token"), ".")
		if len(parts) != 3 {
			t.Fatalf("got %d parts, want a JWT's 3", len(parts))
		}
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		var claims struct {
			Issuer   string   `json:"iss"`
			Audience []string `json:"aud"`
			Subject  string   `json:"sub"`
			Issued   int64    `json:"iat"`
			Expires  int64    `json:"exp"`
		}
		if err := json.Unmarshal(payload, &claims); err != nil {
			t.Fatal(err)
		}
		if claims.Issuer != issuer || len(claims.Audience) != 1 || claims.Audience[0] != "sts.amazonaws.com" ||
			claims.Subject != "system:serviceaccount:default:reader" || claims.Expires-claims.Issued != 3600 {
			t.Errorf("got %s", payload)
		}
	})

	t.Run("a Service answers by its name, whole and short", func(t *testing.T) {
		for _, host := range []string{"answers.kube-system", "answers.kube-system.svc.cluster.local"} {
			eventually(t, func(ctx context.Context) error { // until kube-proxy has heard of it
				out, err := get(ctx, n, host, "/ready")
				if err == nil && !strings.HasSuffix(out, "\r\n\r\nOK") {
					err = fmt.Errorf("%s answered %q", host, out)
				}
				return err
			})
		}
	})

	t.Run("a Service without pods refuses", func(t *testing.T) {
		eventually(t, func(ctx context.Context) error {
			out, err := get(ctx, n, "nobody", "/")
			if err == nil || !strings.Contains(err.Error(), "Connection refused") {
				return fmt.Errorf("got %q, %v", out, err)
			}
			return nil
		})
	})

	t.Run("the test reaches a Service by its name, too", func(t *testing.T) {
		c, err := n.DialContext(t.Context(), "tcp", "answers.kube-system.svc.cluster.local:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /ready HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if out, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(out), "\r\n\r\nOK") {
			t.Errorf("got %q, %v", out, err)
		}
	})

	t.Run("names of the outside do not exist, but for those that coredns-custom rewrites", func(t *testing.T) {
		const sts = "sts.us-east-1.amazonaws.com"
		lookup := func(ctx context.Context, name string) (status string) {
			// getent says 2 for a name that does not exist.
			out, err := n.Kubectl(ctx, "exec", "client", "--", "bash", "-c", "getent ahostsv4 "+name+" >/dev/null; echo $?")
			if err != nil {
				return err.Error()
			}
			return strings.TrimSpace(string(out))
		}
		for _, name := range []string{sts, "nothing.example", "no-such-service.default.svc.cluster.local"} {
			if got := lookup(t.Context(), name); got != "2" {
				t.Errorf("%s: getent's status is %s, want 2", name, got)
			}
		}
		create(t, n, `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "coredns-custom", "namespace": "kube-system"},
			"data": {"sts.override": "rewrite name exact `+sts+` answers.kube-system.svc.cluster.local"}}`)
		eventually(t, func(ctx context.Context) error {
			if got := lookup(ctx, sts); got != "0" {
				return fmt.Errorf("%s: getent's status is %s, want 0", sts, got)
			}
			return nil
		})
		if out, err := get(t.Context(), n, sts, "/ready"); err != nil || !strings.HasSuffix(out, "\r\n\r\nOK") {
			t.Errorf("%s answered %q, %v", sts, out, err)
		}
		for _, name := range []string{"sts.eu-west-1.amazonaws.com", "nothing.example"} {
			if got := lookup(t.Context(), name); got != "2" {
				t.Errorf("%s: getent's status is %s, want 2", name, got)
			}
		}
	})

	t.Run("an image that is imported runs", func(t *testing.T) {
		pause := filepath.Join(t.TempDir(), "pause")
		build := exec.CommandContext(t.Context(), "go", "build", "-o", pause, "./pause")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		index, err := image.New(image.Config{Name: "sleeper", Programs: map[string]string{runtime.GOARCH: pause}, User: image.Nonroot})
		if err != nil {
			t.Fatal(err)
		}
		archive := filepath.Join(t.TempDir(), "sleeper.tar")
		if err := image.WriteArchive(archive, index, "registry.test/sleeper:1.0"); err != nil {
			t.Fatal(err)
		}
		if err := n.Import(t.Context(), archive); err != nil {
			t.Fatal(err)
		}
		create(t, n, `
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: registry.test/sleeper:1.0
      imagePullPolicy: Never
      securityContext:
        runAsNonRoot: true
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
        seccompProfile: {type: RuntimeDefault}
`)
		kubectl(t, n, "wait", "--for=condition=Ready", "--timeout=1m", "pod/sleeper")
	})

	t.Run("an archive that is none is refused", func(t *testing.T) {
		if err := n.Import(t.Context(), "kubenode_test.go"); err == nil {
			t.Error("it was imported")
		}
	})

	t.Run("pods reach what the test listens at", func(t *testing.T) {
		l, err := n.Listen(t.Context(), "tcp", kubenode.NodeAddress+":4566")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				io.WriteString(c, "hello")
				c.Close()
			}
		}()
		if out := kubectl(t, n, "exec", "client", "--", "bash", "-c", "cat </dev/tcp/"+kubenode.NodeAddress+"/4566"); out != "hello" {
			t.Errorf("got %q", out)
		}
	})

	t.Run("the API server starts again with another key for tokens", func(t *testing.T) {
		keys := func() int {
			var set struct{ Keys []any }
			if err := json.Unmarshal([]byte(kubectl(t, n, "get", "--raw", "/openid/v1/jwks")), &set); err != nil {
				t.Fatal(err)
			}
			return len(set.Keys)
		}
		before, token := keys(), kubectl(t, n, "create", "token", "reader")
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "sa.key")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := n.RestartAPIServer(t.Context(), "--service-account-signing-key-file="+file, "--service-account-key-file="+file); err != nil {
			t.Fatal(err)
		}
		if after := keys(); before != 1 || after != 2 {
			t.Errorf("%d key was published, and then %d", before, after)
		}
		header := func(token string) string { head, _, _ := strings.Cut(token, "."); return head }
		for _, token := range []string{token, kubectl(t, n, "create", "token", "reader")} {
			if out := kubectl(t, n, "--token", token, "auth", "whoami", "-o", "name"); out == "" {
				t.Errorf("nobody has the token %s", header(token))
			}
		}
		if header(token) == header(kubectl(t, n, "create", "token", "reader")) {
			t.Error("the key is the same")
		}
	})

	t.Run("the link-local address is the agent's to add", func(t *testing.T) {
		out, err := n.Command(t.Context(), "ip", "-o", "address").Output()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(out, []byte(kubenode.NodeAddress+"/32")) || bytes.Contains(out, []byte("169.254.170.23")) {
			t.Errorf("got\n%s", out)
		}
	})
}

// A node that is reached as somebody else's cluster is: by its API server alone.
func TestServicesOfSomebodyElsesCluster(t *testing.T) {
	own := startNode(t, kubenode.Config{})
	create(t, own, workloads)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // it is closed
			}
			go relay(t, own, c)
		}
	}()
	config, err := clientcmd.LoadFromFile(own.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range config.Clusters {
		c.Server, c.TLSServerName = "https://"+l.Addr().String(), "kubernetes"
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	n, err := kubenode.Use(kubenode.Existing{Kubeconfig: file})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()

	var c net.Conn
	eventually(t, func(ctx context.Context) (err error) {
		c, err = n.DialContext(ctx, "tcp", "answers.kube-system.svc.cluster.local:80")
		return err
	})
	defer c.Close()
	if _, err := io.WriteString(c, "GET /ready HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(out), "\r\n\r\nOK") {
		t.Errorf("the Service answered %q, %v", out, err)
	}
	for address, want := range map[string]string{"missing.default.svc:80": `services "missing" not found`, "answers.kube-system.svc:81": "does not have a service port 81"} {
		if _, err := n.DialContext(t.Context(), "tcp", address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", address, err)
		}
	}
	for range 2 {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	}
	if _, err := n.DialContext(t.Context(), "tcp", "answers.kube-system.svc:80"); err == nil {
		t.Error("it connects after its end")
	}
}

// relay connects what has come with a node's API server.
func relay(t *testing.T, n *kubenode.Node, c net.Conn) {
	defer c.Close()
	s, err := n.DialContext(t.Context(), "tcp", kubenode.NodeAddress+":443")
	if err != nil {
		return // the client sees it end
	}
	defer s.Close()
	go func() {
		io.Copy(s, c)
		s.Close()
	}()
	io.Copy(c, s)
}

func TestNodesAtOnce(t *testing.T) {
	one := kubenode.Config{Dir: t.TempDir(), Name: "one", Issuer: "https://one.test"}
	two := kubenode.Config{Dir: t.TempDir(), Name: "two", Issuer: "https://two.test"}
	nodes := []*kubenode.Node{startNode(t, one), startNode(t, two)}
	for i, c := range []kubenode.Config{one, two} {
		client, err := kubernetes.NewForConfig(nodes[i].RESTConfig())
		if err != nil {
			t.Fatal(err)
		}
		list, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) != 1 || list.Items[0].Name != c.Name {
			t.Errorf("%s: got the nodes %v", c.Name, list.Items)
		}
		if out := kubectl(t, nodes[i], "get", "--raw", "/.well-known/openid-configuration"); !strings.Contains(out, `"issuer":"`+c.Issuer+`"`) {
			t.Errorf("%s: got %s", c.Name, out)
		}
	}
	if _, err := kubenode.Start(t.Context(), one); err == nil || !strings.Contains(err.Error(), "a node is up in "+one.Dir) {
		t.Errorf("a third node in the first one's folder: %v", err)
	}
	kubectl(t, nodes[0], "get", "nodes") // which that has not harmed
}

func TestFoldersOfOthersAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "precious")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kubenode.Start(t.Context(), kubenode.Config{Dir: dir}); err == nil {
		t.Error("a node started there")
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	n := startNode(t, kubenode.Config{Dir: dir})
	create(t, n, workloads)
	kubectl(t, n, "wait", "--for=condition=Ready", "--timeout=1m", "pod/client")
	processes := descendants(t, os.Getpid())
	if len(processes) < 10 {
		t.Fatalf("found %d processes of the node, want its programs, and those of pods", len(processes))
	}
	if left := traces(t, dir); len(left) == 0 {
		t.Fatal("a node that is up has left no traces: the test does not see them")
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := n.Stop(); err != nil {
		t.Errorf("again: %v", err)
	}
	for pid, began := range processes {
		if now, ok := startOf(pid); ok && now == began {
			t.Errorf("process %d is still there", pid)
		}
	}
	if left := traces(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder: %v", err)
	}
}

// A node whose starter was killed ends, and its folder is free for another.
func TestNodeEndsWithItsStarter(t *testing.T) {
	t.Setenv(kubenode.KubeconfigVariable, "")
	t.Setenv("KUBECONFIG", "")
	dir := t.TempDir()
	if err := errors.Join(kubenode.Supported(), kubenode.Built(kubenode.Config{})); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	starter := exec.CommandContext(t.Context(), "../../.cache/kubenode/bin/cluster", "up", dir)
	starter.Stderr = t.Output()
	out, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // it is up
		t.Fatal(err)
	}
	processes := descendants(t, starter.Process.Pid)
	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := starter.Wait(); err == nil {
		t.Error("the starter was killed, and ended well")
	}
	eventually(t, func(context.Context) error {
		for pid, began := range processes {
			if now, ok := startOf(pid); ok && now == began {
				return fmt.Errorf("process %d is still there", pid)
			}
		}
		return nil
	})
	n := startNode(t, kubenode.Config{Dir: dir})
	kubectl(t, n, "get", "nodes")
}

// descendants returns the processes that came of one, with the times that they began at.
func descendants(t *testing.T, of int) map[int]string {
	t.Helper()
	parents := make(map[int]int)
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range all {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		if fields, ok := stat(pid); ok {
			if parents[pid], err = strconv.Atoi(fields[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	found := make(map[int]string)
	for pid := range parents {
		for p := parents[pid]; p > 1; p = parents[p] {
			if p == of {
				if began, ok := startOf(pid); ok {
					found[pid] = began
				}
				break
			}
		}
	}
	return found
}

// startOf is when a process began.
func startOf(pid int) (string, bool) {
	fields, ok := stat(pid)
	if !ok {
		return "", false
	}
	return fields[19], true
}

// stat returns what proc(5) lists of a process after its name.
func stat(pid int) ([]string, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, false // it ended
	}
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	return fields, len(fields) > 19
}

// traces lists what there is of a node in this process's namespaces: mounts, cgroups, and namespaces that are held open.
func traces(t *testing.T, dir string) (found []string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) || strings.Contains(line, "/run/containerd") {
			found = append(found, line)
		}
	}
	// In the machine's hierarchies the node's cgroup is named after its folder, and other nodes have others.
	name := filepath.Base(kubenode.CgroupRoot(dir))
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		cgroups, err := filepath.Glob(pattern + name)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, cgroups...)
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if target, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && strings.HasPrefix(target, "net:[") {
			found = append(found, target)
		}
	}
	return found
}
