//go:build e2e && linux

package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	kubeclient "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/lanyard-id/lanyard/deploy"
	"github.com/lanyard-id/lanyard/test/kubenode"
)

const (
	release = "lanyard" // the chart's, and its namespace
	web     = "web"     // the namespace of the pods that use it
	// patience bounds what a node does in seconds when nothing else runs.
	patience = 4 * time.Minute
)

// baseValues are what the chart is installed with.
const baseValues = `
clusterName: one
image: {tag: dev, pullPolicy: Never}
server: {s3: {embedded: true}, resources: {requests: {cpu: 10m}}}
`

// installation is Lanyard as its chart installs it, in a real cluster of one node.
type installation struct {
	*testing.T
	node *kubenode.Node
	api  *kubeclient.Clientset
	helm *action.Configuration
	dir  string   // for files
	root []string // the variables by which the CLI is the control plane's root
	aws  aws.Config
}

// cluster returns a node, or somebody else's cluster, that has Lanyard's images, the two namespaces, and a volume for the server.
func cluster(t *testing.T) *installation {
	n := kubenode.ForTest(t, kubenode.Config{})
	if _, err := n.MachinePath("/"); err != nil {
		leftOut(t, err.Error())
	}
	if err := n.ImportHostImage(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lanyard-agent", "lanyard-server", "lanyard-webhook"} {
		archive := filepath.Join("..", ".cache", "images", name+".tar")
		if _, err := os.Stat(archive); err != nil {
			leftOut(t, "the images are not built: run make e2e")
		}
		if err := n.Import(t.Context(), archive); err != nil {
			t.Fatal(err)
		}
	}
	api, err := kubeclient.NewForConfig(n.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	in := &installation{T: t, node: n, api: api, dir: t.TempDir()}
	in.helm = action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))
	if err := in.helm.Init(getter{n.RESTConfig(), memory.NewMemCacheClient(api.Discovery())}, release, "secret"); err != nil {
		t.Fatal(err)
	}
	if !n.Own() {
		t.Cleanup(in.clear)
	}
	in.apply(fmt.Sprintf(`
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: Namespace, metadata: {name: %s}}
  - {apiVersion: v1, kind: Namespace, metadata: {name: %s}}
`, release, web))
	in.volume()
	for _, namespace := range []string{release, web} {
		in.eventually("the namespace "+namespace, func(ctx context.Context) error {
			_, account := api.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
			_, roots := api.CoreV1().ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
			return errors.Join(account, roots)
		})
	}
	return in
}

// volume makes one for the server, unless the cluster makes volumes by itself.
func (in *installation) volume() {
	in.Helper()
	classes, err := in.api.StorageV1().StorageClasses().List(in.Context(), metav1.ListOptions{})
	if err != nil {
		in.Fatal(err)
	}
	for _, class := range classes.Items {
		if class.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			return
		}
	}
	dir := filepath.Join(in.dir, "volume")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 65532, 65532)); err != nil {
		in.Fatal(err)
	}
	in.apply(fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: server}
spec: {capacity: {storage: 8Gi}, accessModes: [ReadWriteOnce], hostPath: {path: %q}}
`, in.machinePath(dir)))
}

// machinePath is where the cluster's nodes have a path of this machine.
func (in *installation) machinePath(path string) string {
	in.Helper()
	path, err := in.node.MachinePath(path)
	if err != nil {
		in.Fatal(err)
	}
	return path
}

// clear takes what the story made out of somebody else's cluster, wherever it ended.
func (in *installation) clear() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(in.Context()), patience)
	defer cancel()
	u := action.NewUninstall(in.helm)
	u.Timeout, u.WaitStrategy, u.IgnoreNotFound = patience, kube.StatusWatcherStrategy, true
	_, uninstalled := u.Run(release)
	_, namespaces := in.node.Kubectl(ctx, "delete", "namespace", release, web, "--ignore-not-found")
	_, volume := in.node.Kubectl(ctx, "delete", "persistentvolume", "server", "--ignore-not-found")
	if err := errors.Join(uninstalled, namespaces, volume); err != nil {
		in.Error(err)
	}
}

// ownNode leaves a part out where the cluster is somebody else's.
func (in *installation) ownNode(why string) {
	in.Helper()
	if !in.node.Own() {
		in.Skip("in somebody else's cluster " + why)
	}
}

// step runs a part of the story, for what t tells of it.
func (in *installation) step(name string, f func(in *installation)) bool {
	in.Helper()
	return in.Run(name, func(t *testing.T) {
		one := *in
		one.T = t
		f(&one)
		in.root, in.aws = one.root, one.aws
	})
}

// must is step for what the rest of the story needs.
func (in *installation) must(name string, f func(in *installation)) {
	in.Helper()
	if !in.step(name, f) {
		in.Log(in.describe())
		in.FailNow()
	}
}

// describe tells of all pods, and of what the chart's own have logged.
func (in *installation) describe() string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(in.Context()), patience)
	defer cancel()
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "pods", "--all-namespaces", "-o", "wide"},
		{"get", "events", "--all-namespaces", "--field-selector=type!=Normal"},
		{"logs", "-n", release, "-l", "app.kubernetes.io/name=lanyard-server", "--tail=30"},
		{"logs", "-n", release, "-l", "app.kubernetes.io/name=lanyard-agent", "--tail=30"},
		{"logs", "-n", release, "-l", "app.kubernetes.io/name=lanyard-webhook", "--tail=30"},
	} {
		out, err := in.node.Kubectl(ctx, args...)
		fmt.Fprintf(&b, "kubectl %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}

// eventually calls f until it succeeds.
func (in *installation) eventually(what string, f func(context.Context) error) {
	in.Helper()
	ctx, cancel := context.WithTimeout(in.Context(), patience)
	defer cancel()
	var last error
	for tick := time.Tick(100 * time.Millisecond); ; {
		err := f(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil || last == nil { // else it may be about the end only
			last = err
		}
		select {
		case <-tick:
		case <-ctx.Done():
			in.Fatalf("%s: %v", what, last)
		}
	}
}

// kubectl fails the test when kubectl does.
func (in *installation) kubectl(args ...string) string {
	in.Helper()
	out, err := in.node.Kubectl(in.Context(), args...)
	if err != nil {
		in.Fatal(err)
	}
	return string(out)
}

// apply has kubectl apply manifests.
func (in *installation) apply(manifests string) {
	in.Helper()
	cmd := in.node.Command(in.Context(), "kubectl", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		in.Fatalf("%v\n%s\n%s", err, out, manifests)
	}
}

// getter gives Helm clients of the node.
type getter struct {
	config    *rest.Config
	discovery discovery.CachedDiscoveryInterface
}

func (g getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.config), nil }

func (g getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.discovery, nil
}

func (g getter) ToRESTMapper() (meta.RESTMapper, error) {
	return restmapper.NewDeferredDiscoveryRESTMapper(g.discovery), nil
}

func (g getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	overrides := &clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: release}}
	return clientcmd.NewDefaultClientConfig(clientcmdapi.Config{}, overrides)
}

// values merges YAML texts, of which later ones count.
func (in *installation) values(texts ...string) map[string]any {
	in.Helper()
	merged := map[string]any{}
	for _, text := range texts {
		var v map[string]any
		if err := yaml.UnmarshalStrict([]byte(text), &v); err != nil {
			in.Fatal(err)
		}
		merge(merged, v)
	}
	return merged
}

func merge(into, from map[string]any) {
	for k, v := range from {
		inner, isMap := v.(map[string]any)
		have, both := into[k].(map[string]any)
		if isMap && both {
			merge(have, inner)
		} else {
			into[k] = v
		}
	}
}

// install is `helm install`, which does not wait: neither agent nor webhook is ready before the cluster is registered.
func (in *installation) install(values string) {
	in.Helper()
	chart, err := deploy.Chart()
	if err != nil {
		in.Fatal(err)
	}
	i := action.NewInstall(in.helm)
	i.ReleaseName, i.Namespace, i.Timeout, i.WaitStrategy = release, release, patience, kube.HookOnlyStrategy
	if _, err := i.RunWithContext(in.Context(), chart, in.values(baseValues, values)); err != nil {
		in.Fatalf("helm install: %v", err)
	}
}

// upgrade is `helm upgrade --wait`.
func (in *installation) upgrade(values ...string) {
	in.Helper()
	chart, err := deploy.Chart()
	if err != nil {
		in.Fatal(err)
	}
	u := action.NewUpgrade(in.helm)
	u.Namespace, u.Timeout, u.WaitStrategy = release, patience, kube.StatusWatcherStrategy
	if _, err := u.RunWithContext(in.Context(), release, chart, in.values(append([]string{baseValues}, values...)...)); err != nil {
		in.Fatalf("helm upgrade: %v\n%s", err, in.describe())
	}
}

// rollback is `helm rollback --wait`, to the revision before.
func (in *installation) rollback() {
	in.Helper()
	r := action.NewRollback(in.helm)
	r.Timeout, r.WaitStrategy = patience, kube.StatusWatcherStrategy
	if err := r.Run(release); err != nil {
		in.Fatalf("helm rollback: %v\n%s", err, in.describe())
	}
}

// uninstall is `helm uninstall --wait`.
func (in *installation) uninstall() {
	in.Helper()
	u := action.NewUninstall(in.helm)
	u.Timeout, u.WaitStrategy = patience, kube.StatusWatcherStrategy
	if _, err := u.Run(release); err != nil {
		in.Fatalf("helm uninstall: %v\n%s", err, in.describe())
	}
}

// rollout waits until all pods of a workload are those of its template, and ready.
func (in *installation) rollout(workload string) {
	in.Helper()
	in.kubectl("rollout", "status", "-n", release, "--timeout="+patience.String(), workload)
}

// becomeRoot reads the root key and the authority's certificate, as the chart's notes say.
func (in *installation) becomeRoot() {
	in.Helper()
	key := in.kubectl("exec", "-n", release, "lanyard-server-0", "--", "/lanyard-server", "root-key")
	variables := map[string]string{}
	for line := range strings.Lines(key) {
		name, value, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "export ")), "=")
		if !ok {
			in.Fatalf("root-key printed %q", line)
		}
		variables[name] = value
		in.root = append(in.root, name+"="+value)
	}
	ca := in.authority()
	file := filepath.Join(in.dir, "ca.pem")
	if err := os.WriteFile(file, []byte(ca), 0o600); err != nil {
		in.Fatal(err)
	}
	in.root = append(in.root, "AWS_CA_BUNDLE="+file)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) {
		in.Fatalf("the ConfigMap has no certificate: %s", ca)
	}
	in.aws = aws.Config{
		Region:       variables["AWS_REGION"],
		BaseEndpoint: aws.String("https://lanyard-server." + release + ".svc.cluster.local"),
		HTTPClient:   &http.Client{Transport: &http.Transport{DialContext: in.node.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots}}},
		Credentials:  credentials.NewStaticCredentialsProvider(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"], ""),
	}
}

// authority is the certificate that the chart tells clients to trust.
func (in *installation) authority() string {
	in.Helper()
	configMap, err := in.api.CoreV1().ConfigMaps(release).Get(in.Context(), "lanyard-server-ca", metav1.GetOptions{})
	if err != nil {
		in.Fatal(err)
	}
	return configMap.Data["ca.pem"]
}

// forwarded is where programs on the node find the control plane while something is called by atForwarded.
const forwarded = "https://localhost:8443"

// atForwarded calls something while `kubectl port-forward` runs.
func (in *installation) atForwarded(do func()) {
	in.Helper()
	forward := in.node.Command(in.Context(), "kubectl", "port-forward", "-n", release, "service/lanyard-server", "8443:443")
	out, err := forward.StdoutPipe()
	if err != nil {
		in.Fatal(err)
	}
	var complaints bytes.Buffer
	forward.Stderr = &complaints
	if err := forward.Start(); err != nil {
		in.Fatal(err)
	}
	defer func() {
		forward.Process.Kill()
		forward.Wait()
	}()
	if _, err := out.Read(make([]byte, 100)); err != nil { // it says that it forwards
		in.Fatalf("kubectl port-forward: %v: %v %s", err, forward.Wait(), complaints.String())
	}
	do()
}

// lanyard runs the CLI as root, on the node. The error is of the CLI.
func (in *installation) lanyard(args ...string) (stdout, stderr string, err error) {
	in.Helper()
	cmd := in.node.Command(in.Context(), binary("lanyard"), args...)
	cmd.Env = append(cleanEnvironment(), append(in.root, "KUBECONFIG="+in.node.Kubeconfig(), "AWS_ENDPOINT_URL="+forwarded, "AWS_ENDPOINT_URL_STS="+forwarded)...)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	in.atForwarded(func() { err = cmd.Run() })
	return o.String(), e.String(), err
}

// mustLanyard is lanyard for what must succeed.
func (in *installation) mustLanyard(args ...string) string {
	in.Helper()
	out, errs, err := in.lanyard(args...)
	if err != nil {
		in.Fatalf("lanyard %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	return out
}

const s3ReadOnly = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"

// role makes a role for Pod Identity that may read S3.
func (in *installation) role(name string) (arn string) {
	in.Helper()
	client := iam.NewFromConfig(in.aws)
	out, err := client.CreateRole(in.Context(), &iam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: aws.String(trustPods)})
	if err != nil {
		in.Fatal(err)
	}
	if _, err := client.AttachRolePolicy(in.Context(), &iam.AttachRolePolicyInput{RoleName: &name, PolicyArn: aws.String(s3ReadOnly)}); err != nil {
		in.Fatal(err)
	}
	return aws.ToString(out.Role.Arn)
}

// associations returns the service accounts of the namespace web that have an association.
func (in *installation) associations() (accounts []string) {
	in.Helper()
	out, err := eks.NewFromConfig(in.aws).ListPodIdentityAssociations(in.Context(), &eks.ListPodIdentityAssociationsInput{
		ClusterName: aws.String("one"), Namespace: aws.String(web),
	})
	if err != nil {
		in.Fatal(err)
	}
	for _, a := range out.Associations {
		accounts = append(accounts, aws.ToString(a.ServiceAccount))
	}
	return accounts
}

// bucket makes a bucket.
func (in *installation) bucket(name string) {
	in.Helper()
	client := s3.NewFromConfig(in.aws, func(o *s3.Options) { o.UsePathStyle = true })
	if _, err := client.CreateBucket(in.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		in.Fatal(err)
	}
}

// account makes a service account, with a role by annotation unless it is empty.
func (in *installation) account(name, role string) {
	in.Helper()
	text := fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  namespace: %s\n  name: %s\n  labels: {by: test}\n", web, name)
	if role != "" {
		text += fmt.Sprintf("  annotations: {eks.amazonaws.com/role-arn: %q}\n", role)
	}
	in.apply(text)
}

// pod is a pod of a service account whose one container runs a command, with this machine's programs: nothing of AWS. What the command
// writes to its standard error becomes the container's last message.
func pod(name, account string, command ...string) *corev1.Pod {
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: web, Name: name, Labels: map[string]string{"by": "test"}},
		Spec: corev1.PodSpec{
			ServiceAccountName: account, RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: aws.Int64(1),
			Containers: []corev1.Container{{
				Name: "main", Image: kubenode.HostImage, ImagePullPolicy: corev1.PullNever,
				Command: append([]string{"sh", "-c", `exec "$@" 2>/dev/termination-log`, "sh"}, command...),
			}},
		},
	}
	return p
}

// mount lets a pod read files of this machine, at their own paths.
func (in *installation) mount(p *corev1.Pod, paths ...string) *corev1.Pod {
	in.Helper()
	for i, path := range paths {
		volume := fmt.Sprintf("machine-%d", i)
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{
			Name: volume, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: in.machinePath(path)}},
		})
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: path, ReadOnly: true})
	}
	return p
}

// machine are the folders that this machine's interpreters and the installed clients need.
func machine(t *testing.T) []string {
	t.Helper()
	clients := cache(t)
	paths := []string{"/usr", clients}
	java, err := filepath.Glob("/etc/java-*")
	if err != nil {
		t.Fatal(err)
	}
	paths = append(paths, java...)
	if python, err := filepath.EvalSymlinks(filepath.Join(clients, "python", "bin", "python")); err == nil && !strings.HasPrefix(python, "/usr/bin/") {
		paths = append(paths, filepath.Dir(filepath.Dir(python)))
	}
	return paths
}

// start has kubectl apply a pod.
func (in *installation) start(p *corev1.Pod) {
	in.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		in.Fatal(err)
	}
	in.apply(string(text))
}

// output waits until a pod has ended, and returns what it wrote and what it complained of, unless it succeeded.
func (in *installation) output(name string) (out []byte, failure string) {
	in.Helper()
	var p *corev1.Pod
	in.eventually("the end of the pod "+name, func(ctx context.Context) (err error) {
		if p, err = in.api.CoreV1().Pods(web).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			return fmt.Errorf("it is %s: %+v", p.Status.Phase, p.Status.ContainerStatuses)
		}
		return nil
	})
	out, err := in.api.CoreV1().Pods(web).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(in.Context())
	if err != nil {
		in.Fatal(err)
	}
	if p.Status.Phase == corev1.PodFailed {
		failure = p.Status.ContainerStatuses[0].State.Terminated.Message
	}
	return out, failure
}

// remove deletes a pod, and waits until it is gone.
func (in *installation) remove(name string) {
	in.Helper()
	in.kubectl("delete", "pod", "-n", web, name, "--wait", "--timeout="+patience.String())
}

// assume trades a token for credentials of a role, which it throws away.
func (in *installation) assume(role, token string) error {
	in.Helper()
	_, err := sts.NewFromConfig(in.aws).AssumeRoleWithWebIdentity(in.Context(), &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: &role, RoleSessionName: aws.String("test"), WebIdentityToken: &token,
	})
	return err
}

// goProgram builds a static program of this module, and returns its file.
func goProgram(t *testing.T, pkg string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(pkg))
	build := exec.Command("go", "build", "-trimpath", "-o", file, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+runtime.GOARCH)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}
