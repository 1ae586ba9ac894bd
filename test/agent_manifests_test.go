package test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/lanyard-id/lanyard/deploy"
)

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// readManifest reads the objects of one of the plain manifests.
func readManifest(t testing.TB, name string) (objects []runtime.Object) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../deploy/manifests", name))
	if err != nil {
		t.Fatal(err)
	}
	all, err := deploy.Decode(string(text))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, d := range all {
		objects = append(objects, d.Object)
	}
	return objects
}

// renderChart returns what the chart makes of values, in YAML.
func renderChart(t *testing.T, values string) (objects []runtime.Object) {
	t.Helper()
	var v map[string]any
	if err := yaml.Unmarshal([]byte(values), &v); err != nil {
		t.Fatal(err)
	}
	all, _, err := deploy.Render(deploy.Release{Values: v})
	if err != nil {
		t.Fatalf("%s: %v", values, err)
	}
	for _, d := range all {
		objects = append(objects, d.Object)
	}
	return objects
}

// object returns the only one of a type.
func object[T any](t testing.TB, objects []runtime.Object) (found T) {
	t.Helper()
	count := 0
	for _, o := range objects {
		if o, ok := o.(T); ok {
			found = o
			count++
		}
	}
	if count != 1 {
		t.Fatalf("there are %d of %T", count, found)
	}
	return found
}

// takesFlags checks that the program of a container takes its flags. It parses them all before it sees the last one, which has it print
// something and stop.
func takesFlags(t *testing.T, name string, c corev1.Container, program, last string) {
	t.Helper()
	same(t, name+": the program", "/"+program, c.Command[0])
	args := slices.Concat(c.Command[1:], c.Args)
	if out, err := exec.Command(binary(program), append(slices.Clone(args), last)...).CombinedOutput(); err != nil {
		t.Errorf("%s: %q: %v\n%s", name, args, err, out)
	}
	var exit *exec.ExitError
	if _, err := exec.Command(binary(program), append(args, "--unknown", last)...).CombinedOutput(); !errors.As(err, &exit) {
		t.Errorf("%s: a flag that is not known is no error: this test shows nothing", name)
	}
}

func TestAgentManifestsReachEveryNode(t *testing.T) {
	t.Parallel()
	set := object[*appsv1.DaemonSet](t, readManifest(t, "agent.yaml"))
	pod := set.Spec.Template.Spec
	same(t, "priority", "system-node-critical", pod.PriorityClassName)
	same(t, "tolerations", []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, pod.Tolerations)
	same(t, "names, of which one is a Service's", corev1.DNSClusterFirstWithHostNet, pod.DNSPolicy)
	if u := set.Spec.UpdateStrategy.RollingUpdate; u == nil || u.MaxUnavailable.String() != "0" || u.MaxSurge.String() != "10%" {
		t.Errorf("updated by %+v, want the next agent on a tenth of the nodes at a time, before the one there ends", set.Spec.UpdateStrategy)
	}
	handedOver := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.HostPath != nil })
	if handedOver < 0 {
		t.Fatal("nothing is handed over from one agent to the next")
	}
	dir := pod.Volumes[handedOver].HostPath.Path
	containers := map[string]corev1.Container{}
	for _, c := range pod.Containers {
		containers[c.Name] = c
		if len(c.Ports) != 0 { // of which the node could have but one
			t.Errorf("%s lists the ports %+v", c.Name, c.Ports)
		}
		if !slices.Contains(slices.Concat(c.Command, c.Args), "--handover="+dir) {
			t.Errorf("%s hands nothing over in %s: %q", c.Name, dir, c.Args)
		}
	}
	agent := containers["agent"]
	if get := agent.LivenessProbe.HTTPGet; get.Path != "/healthz" || get.Host != "localhost" || get.Port.IntValue() != 2703 {
		t.Errorf("the probe of its health asks %+v", get)
	}
	same(t, "its own answer to whether it is ready", []string{"/lanyard-agent", "health", "--socket=/run/health/socket"}, agent.ReadinessProbe.Exec.Command)
	if !slices.Contains(agent.Args, "--health-socket=/run/health/socket") {
		t.Errorf("it does not answer there: %q", agent.Args)
	}
	life, mode := int64(3600), int32(0o400)
	same(t, "its token", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "sts.amazonaws.com", ExpirationSeconds: &life, Path: "token"}},
	}}}, pod.Volumes[0].VolumeSource)
}

func TestAgentManifestsHaveFlagsThatAreKnown(t *testing.T) {
	t.Parallel()
	for name, objects := range map[string][]runtime.Object{
		"the manifest": readManifest(t, "agent.yaml"),
		"more flags":   renderChart(t, "clusterName: demo\nagent: {jwksURL: https://issuer/jwks, extraArgs: [--max-cache-size=10, --verbosity=debug]}"),
	} {
		pod := object[*appsv1.DaemonSet](t, objects).Spec.Template.Spec
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			takesFlags(t, name+", "+c.Name, c, "lanyard-agent", "--help")
		}
	}
}
