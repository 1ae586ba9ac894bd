//go:build e2e && linux

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/action"
	chartrelease "helm.sh/helm/v4/pkg/release"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	sessionsOf = "arn:aws:sts::" + account + ":assumed-role/"
	podsRole   = "one-pods-reader" // which trusts EKS Auth
	irsaRole   = "one-web-irsa"
)

// The chart from nothing to nothing on a real node: parts of one story, in their order.
func TestChartOnANode(t *testing.T) {
	in := cluster(t)
	before := in.everything()
	in.must("install, and register the cluster", (*installation).begin)
	in.step("unmodified clients in pods", (*installation).clientsInPods)
	in.step("tokens are renewed under running pods", (*installation).renewal)
	in.step("three pods: no token, the default token, a role's", (*installation).tutorial)
	in.step("the chart's rights", (*installation).rights)
	in.step("associations as resources", (*installation).resources)
	in.step("upgrade, and roll back", (*installation).upgradeAndRollBack)
	in.step("agents die and are replaced", (*installation).agentsUnderLoad)
	in.step("AWS's own names", (*installation).interception)
	in.step("tokens of what is deleted", (*installation).deletedTokens)
	in.step("doctor", (*installation).doctor)
	in.step("people come as they are in IAM", (*installation).people)
	in.step("uninstall", func(in *installation) { in.uninstallAll(before) })
}

// begin does what docs/install.md says.
func (in *installation) begin() {
	in.install("")
	in.rollout("statefulset/lanyard-server")
	in.becomeRoot()
	in.mustLanyard("cluster", "register", "one", "--kubeconfig", in.node.Kubeconfig())
	in.rollout("daemonset/lanyard-agent")
	in.rollout("deployment/lanyard-webhook")

	for _, name := range []string{"app-data", "logs", "team-data"} {
		in.bucket(name)
	}
	in.mustLanyard("irsa", "create", "--cluster", "one", "-n", web, "-s", "irsa", "--policy-arn", s3ReadOnly)
	in.account("irsa", "arn:aws:iam::"+account+":role/"+irsaRole)
	in.mustLanyard("association", "create", "--cluster", "one", "-n", web, "-s", "pods", "--role-arn", in.role(podsRole))
	in.account("pods", "")
}

// inPod is how a client's command is started in a pod. Java knows no variable that names certificates.
func (c client) inPod(t *testing.T) []string {
	t.Helper()
	command := slices.Clone(c.command)
	for i, arg := range command {
		if strings.HasPrefix(arg, "clients/") {
			command[i] = absolute(t, arg)
		}
	}
	if c.install == "java" {
		java, err := exec.LookPath(command[0])
		if err == nil {
			java, err = filepath.EvalSymlinks(java) // by ways that the pod does not have
		}
		if err != nil {
			t.Fatal(err)
		}
		command[0] = java
		command = append([]string{"sh", "-c", javaTrust, filepath.Join(filepath.Dir(java), "keytool")}, command...)
	}
	return command
}

// javaTrust runs a command once the certificates that the pod was given are in a trust store, in the pod's own /tmp: programs in Java know no
// variable that names certificates.
const javaTrust = `"$0" -importcert -noprompt -alias lanyard -file "$SSL_CERT_FILE" -keystore /tmp/trust -storepass changeit >&2 || exit 1
export JDK_JAVA_OPTIONS='-Djavax.net.ssl.trustStore=/tmp/trust -Djavax.net.ssl.trustStorePassword=changeit'
exec "$@"
`

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// programs lets a pod have this machine's programs, the clients, and a folder for files.
func (in *installation) programs(p *corev1.Pod, more ...string) *corev1.Pod {
	in.Helper()
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "tmp", MountPath: "/tmp"})
	return in.mount(p, append(machine(in.T), append(more, absolute(in.T, "clients"))...)...)
}

// ways are the service accounts of the two ways to an identity, and what their pods' identities begin with.
var ways = map[string]string{"irsa": sessionsOf + irsaRole, "pods": sessionsOf + podsRole}

// clientsInPods runs a client of each SDK by both ways. Nothing of AWS stands in the pods that are applied.
func (in *installation) clientsInPods() {
	dir := cache(in.T)
	for i, c := range clients(dir) {
		if c.intercepted {
			continue
		}
		for way, role := range ways {
			in.step(c.name+" by "+way, func(in *installation) {
				c.needs(in.T, dir)
				name := fmt.Sprintf("client-%d-%s", i, way)
				in.start(in.programs(pod(name, way, c.inPod(in.T)...)))
				out, failure := in.output(name)
				if failure != "" {
					in.Fatalf("it ended with %s\n%s", failure, out)
				}
				check(in.T, out, role)
				in.remove(name)
			})
		}
	}
}

// tutorial is the usual one. The first pod has no token. The second shows its own, for the API server, to STS. The third's service
// account has a role.
func (in *installation) tutorial() {
	aws := filepath.Join(cache(in.T), "python", "bin", "aws")
	const ask = `"$1" --region us-east-1 --endpoint-url https://lanyard-server.` + release + `.svc --ca-bundle /lanyard/ca.pem`
	trusting := func(p *corev1.Pod) *corev1.Pod {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "ca", VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "lanyard-ca"}}}})
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "ca", MountPath: "/lanyard"})
		return in.programs(p)
	}
	refused := func(p *corev1.Pod, words ...string) {
		in.Helper()
		in.start(trusting(p))
		out, _ := in.output(p.Name)
		for _, want := range words {
			if !strings.Contains(string(out), want) {
				in.Errorf("pod %s is told %q, want %q", p.Name, out, want)
			}
		}
		in.remove(p.Name)
	}

	none := pod("no-token", "default", "sh", "-c", ask+` s3api list-buckets 2>&1; `+ask+` --no-sign-request s3api list-buckets 2>&1`, "sh", aws)
	none.Spec.AutomountServiceAccountToken = new(bool)
	refused(none, "Unable to locate credentials", "An error occurred (MissingAuthenticationToken) when calling the ListBuckets operation: "+
		"Request is missing Authentication Token")

	refused(pod("default-token", "default", "sh", "-c", ask+` --no-sign-request sts assume-role-with-web-identity --role-session-name default `+
		`--role-arn arn:aws:iam::`+account+`:role/`+irsaRole+` --web-identity-token file:///var/run/secrets/kubernetes.io/serviceaccount/token 2>&1`, "sh", aws),
		"An error occurred (InvalidIdentityToken) when calling the AssumeRoleWithWebIdentity operation")

	third := pod("role", "irsa", "sh", "-c", `"$1" s3api list-buckets --query 'Buckets[].Name' --output text; "$1" ec2 describe-instances 2>&1`, "sh", aws)
	refused(third, "app-data\tlogs\tteam-data", "An error occurred (UnauthorizedOperation) when calling the DescribeInstances operation: "+
		"You are not authorized to perform this operation. User: "+sessionsOf+irsaRole+"/")
}

// resources makes an association as kubectl's users do.
func (in *installation) resources() {
	in.account("kept", "")
	role := in.role("one-web-kept")
	in.apply(fmt.Sprintf(`
apiVersion: lanyard.dev/v1alpha1
kind: PodIdentityAssociation
metadata: {namespace: %s, name: kept}
spec: {serviceAccountName: kept, roleARN: %q}
`, web, role))
	in.kubectl("wait", "-n", web, "podidentityassociation/kept", "--for=condition=Ready", "--timeout="+patience.String())

	lines := strings.Split(strings.TrimSpace(in.kubectl("get", "podidentityassociations", "-n", web)), "\n")
	want := []string{"NAME", "SERVICE ACCOUNT", "ROLE", "ARN", "READY", "AGE"}
	if got := strings.Join(strings.Fields(lines[0]), " "); len(lines) != 2 || got != strings.Join(want, " ") {
		in.Fatalf("kubectl prints %q, want the columns %q and one line", lines, want)
	}
	row := strings.Fields(lines[1])
	if len(row) != 6 || row[0] != "kept" || row[1] != "kept" || row[2] != role || row[4] != "True" ||
		!strings.HasPrefix(row[3], "arn:aws:eks:us-east-1:"+account+":podidentityassociation/one/a-") {
		in.Errorf("kubectl prints %q", row)
	}

	in.start(in.programs(pod("kept", "kept", filepath.Join(cache(in.T), "gov2", "client"))))
	out, failure := in.output("kept")
	if failure != "" {
		in.Fatalf("it ended with %s\n%s", failure, out)
	}
	check(in.T, out, sessionsOf+"one-web-kept")

	in.kubectl("delete", "podidentityassociation", "-n", web, "kept", "--timeout="+patience.String())
	if diff := cmp.Diff([]string{"pods"}, in.associations()); diff != "" {
		in.Errorf("associations after the resource is deleted (-want +got):\n%s", diff)
	}
	in.remove("kept")
}

// interception has a program that is given nothing but a region find Lanyard by the cluster's DNS.
func (in *installation) interception() {
	dir := cache(in.T)
	i := slices.IndexFunc(clients(dir), func(c client) bool { return c.install == "gov1" })
	dns, err := in.api.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(in.Context(), "coredns", metav1.GetOptions{})
	if err != nil {
		in.Fatal(err)
	}
	if strings.Contains(dns.Data["Corefile"], "import /etc/coredns/custom/*.override") {
		in.upgrade(intercepted)
	} else {
		in.upgrade(intercepted, "intercept: {corednsCustom: false}")
		in.addToCorefile(dns)
	}
	server, err := in.api.CoreV1().Services(release).Get(in.Context(), "lanyard-server", metav1.GetOptions{})
	if err != nil {
		in.Fatal(err)
	}
	resolved := in.programs(pod("resolves", "default", "sh", "-c", `until getent ahostsv4 "$1" | grep "^$2 "; do sleep 0.2; done`, "sh",
		"app-data.s3.us-east-1.amazonaws.com", server.Spec.ClusterIP))
	in.start(resolved)
	if _, failure := in.output(resolved.Name); failure != "" {
		in.Fatalf("AWS's names in the cluster's DNS: %s", failure)
	}
	in.remove(resolved.Name)
	for way, role := range ways {
		p := in.programs(pod("by-name-"+way, way, append([]string{"env", "-u", "AWS_ENDPOINT_URL", "-u", "AWS_ENDPOINT_URL_STS"}, clients(dir)[i].command...)...))
		in.start(p)
		out, failure := in.output(p.Name)
		if failure != "" {
			in.Fatalf("by %s it ended with %s\n%s", way, failure, out)
		}
		check(in.T, out, role)
		in.remove(p.Name)
	}
}

// addToCorefile does what the chart's notes say for a cluster whose CoreDNS imports nothing, until the test ends.
func (in *installation) addToCorefile(dns *corev1.ConfigMap) {
	in.Helper()
	got, err := action.NewGet(in.helm).Run(release)
	if err != nil {
		in.Fatal(err)
	}
	r, err := chartrelease.NewAccessor(got)
	if err != nil {
		in.Fatal(err)
	}
	_, lines, ok := strings.Cut(r.Notes(), "server block of your Corefile:\n")
	lines, _, also := strings.Cut(lines, "\nPrograms must trust")
	before, after, is := strings.Cut(dns.Data["Corefile"], ".:53 {\n")
	if !ok || !also || !is {
		in.Fatalf("the notes or the Corefile are others than expected:\n%s\n%s", r.Notes(), dns.Data["Corefile"])
	}
	set := func(corefile string) error {
		text, err := json.Marshal(map[string]any{"data": map[string]string{"Corefile": corefile}})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(in.Context()), patience)
		defer cancel()
		_, err = in.node.Kubectl(ctx, "patch", "configmap", "-n", dns.Namespace, dns.Name, "-p", string(text))
		return err
	}
	if err := set(before + ".:53 {\n" + lines + "\n" + after); err != nil {
		in.Fatal(err)
	}
	in.Cleanup(func() {
		if err := set(dns.Data["Corefile"]); err != nil {
			in.Error(err)
		}
	})
}

// intercepted has the one name besides that the client programs know.
const intercepted = "intercept: {enabled: true, corednsCustom: true, hosts: [ec2.us-east-1.amazonaws.com]}"

// serverRestarts are the errors of calls to a server that is not there for a moment: it is the only replica of its store. What programs
// say when they get no credentials is none of them.
var serverRestarts = []string{
	"EndpointConnectionError('Could not connect to the endpoint URL: \"https://lanyard-server." + release + ".svc",
	"STS: GetCallerIdentity, exceeded maximum number of attempts, 3, https response error",
}

// upgradeAndRollBack changes the templates of the server and the webhook. Meanwhile pods go on to have credentials, from the agent's memory;
// and they are served again when the one server is back.
func (in *installation) upgradeAndRollBack() {
	secret := func() map[string][]byte {
		in.Helper()
		s, err := in.api.CoreV1().Secrets(release).Get(in.Context(), "lanyard-server", metav1.GetOptions{})
		if err != nil {
			in.Fatal(err)
		}
		return s.Data
	}
	keys, ca := secret(), in.authority()
	load := in.startLoad("across-upgrade", "pods")
	for _, change := range []struct {
		name string
		do   func()
	}{
		{"upgrade", func() {
			in.upgrade(`{server: {podAnnotations: {round: "2"}}, webhook: {podAnnotations: {round: "2"}}}`)
		}},
		{"rollback", in.rollback},
	} {
		change.do()
		if diff := cmp.Diff(keys, secret()); diff != "" {
			in.Errorf("after the %s the server's keys are others", change.name) // without the keys themselves
		}
		if diff := cmp.Diff(ca, in.authority()); diff != "" {
			in.Errorf("after the %s the authority is another (-want +got):\n%s", change.name, diff)
		}
		in.start(in.programs(pod("after-"+change.name, "pods", filepath.Join(cache(in.T), "gov2", "client"))))
		out, failure := in.output("after-" + change.name)
		if failure != "" {
			in.Fatalf("after the %s a pod ended with %s\n%s", change.name, failure, out)
		}
		check(in.T, out, ways["pods"])
		in.remove("after-" + change.name)
	}
	load.serves(in, serverRestarts...)
}
