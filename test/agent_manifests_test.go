package test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// kustomization is what the agent's has.
type kustomization struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Resources  []string
	Images     []struct {
		Name    string `json:"name"`
		NewName string `json:"newName"`
		NewTag  string `json:"newTag"`
	} `json:"images"`
	ConfigMapGenerator []struct {
		Name     string   `json:"name"`
		Literals []string `json:"literals"`
	} `json:"configMapGenerator"`
}

// manifest reads a file of the agent's manifests. A key that its kind does not have fails the test.
func manifest(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../deploy/agent", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestAgentManifestsAreWhole(t *testing.T) {
	t.Parallel()
	var k kustomization
	manifest(t, "kustomization.yaml", &k)
	same(t, "namespace, whose pods may be critical for nodes", "kube-system", k.Namespace)
	files, err := filepath.Glob("../deploy/agent/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	listed := append(slices.Clone(k.Resources), "kustomization.yaml")
	for i, f := range files {
		files[i] = filepath.Base(f)
	}
	slices.Sort(listed)
	same(t, "files", files, listed)
	var set appsv1.DaemonSet
	manifest(t, "daemonset.yaml", &set)
	pod := set.Spec.Template.Spec
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		same(t, "the image of "+c.Name, k.Images[0].Name, c.Image)
	}
	for _, from := range pod.Containers[0].EnvFrom {
		same(t, "the config map", k.ConfigMapGenerator[0].Name, from.ConfigMapRef.Name)
	}
	same(t, "selector", set.Spec.Selector.MatchLabels, set.Spec.Template.Labels)
}

func TestAgentManifestsGrantLeast(t *testing.T) {
	t.Parallel()
	var account corev1.ServiceAccount
	manifest(t, "serviceaccount.yaml", &account)
	var set appsv1.DaemonSet
	manifest(t, "daemonset.yaml", &set)
	pod := set.Spec.Template.Spec
	no, yes := new(bool), new(bool)
	*yes = true

	same(t, "account's token", no, account.AutomountServiceAccountToken)
	same(t, "pod's token", no, pod.AutomountServiceAccountToken)
	same(t, "account", account.Name, pod.ServiceAccountName)
	same(t, "seccomp", &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}, pod.SecurityContext.SeccompProfile)
	if pod.HostPID || pod.HostIPC || !pod.HostNetwork {
		t.Errorf("of the host it has PIDs %v, IPC %v and network %v, want the network alone", pod.HostPID, pod.HostIPC, pod.HostNetwork)
	}
	if len(pod.Volumes) != 1 || len(pod.InitContainers) != 1 || len(pod.Containers) != 1 {
		t.Fatalf("it has %d volumes, %d init containers and %d containers, want one each", len(pod.Volumes), len(pod.InitContainers), len(pod.Containers))
	}
	life, mode := int64(3600), int32(0o400)
	same(t, "volume", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "sts.amazonaws.com", ExpirationSeconds: &life, Path: "token"}},
	}}}, pod.Volumes[0].VolumeSource)
	for _, c := range []struct {
		container corev1.Container
		adds      corev1.Capability
		mounts    int
	}{
		{pod.InitContainers[0], "NET_ADMIN", 0},
		{pod.Containers[0], "NET_BIND_SERVICE", 1},
	} {
		got := c.container.SecurityContext
		same(t, "capabilities of "+c.container.Name, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{c.adds}}, got.Capabilities)
		same(t, "privileged "+c.container.Name, no, got.Privileged)
		same(t, "more rights for "+c.container.Name, no, got.AllowPrivilegeEscalation)
		same(t, "read-only files of "+c.container.Name, yes, got.ReadOnlyRootFilesystem)
		if got.SeccompProfile != nil {
			t.Errorf("%s has a seccomp profile of its own", c.container.Name)
		}
		if len(c.container.VolumeMounts) != c.mounts || c.mounts > 0 && !c.container.VolumeMounts[0].ReadOnly {
			t.Errorf("%s mounts %+v", c.container.Name, c.container.VolumeMounts)
		}
		if c.container.Resources.Limits.Memory().IsZero() || c.container.Resources.Requests.Cpu().IsZero() {
			t.Errorf("%s has no memory limit, or asks for no CPU", c.container.Name)
		}
	}
}

func TestAgentManifestsReachEveryNode(t *testing.T) {
	t.Parallel()
	var set appsv1.DaemonSet
	manifest(t, "daemonset.yaml", &set)
	pod := set.Spec.Template.Spec
	same(t, "priority", "system-node-critical", pod.PriorityClassName)
	same(t, "tolerations", []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, pod.Tolerations)
	if u := set.Spec.UpdateStrategy.RollingUpdate; u == nil || u.MaxUnavailable.String() != "10%" || u.MaxSurge != nil {
		t.Errorf("updated by %+v, want a tenth of the nodes at a time: two agents cannot have one address", set.Spec.UpdateStrategy)
	}
	agent := pod.Containers[0]
	ports := map[string]int32{}
	for _, p := range agent.Ports {
		ports[p.Name] = p.ContainerPort
	}
	same(t, "ports", map[string]int32{"probes": 2703, "metrics": 2705}, ports)
	for path, probe := range map[string]*corev1.Probe{"/healthz": agent.LivenessProbe, "/readyz": agent.ReadinessProbe} {
		if get := probe.HTTPGet; get.Path != path || get.Host != "localhost" || get.Port.String() != "probes" {
			t.Errorf("the probe of %s asks %+v", path, get)
		}
	}
}

// The programs know the flags: they parse them all before they see the last one, which asks for help.
func TestAgentManifestsHaveFlagsThatAreKnown(t *testing.T) {
	t.Parallel()
	var k kustomization
	manifest(t, "kustomization.yaml", &k)
	var set appsv1.DaemonSet
	manifest(t, "daemonset.yaml", &set)
	var values []string
	for _, literal := range k.ConfigMapGenerator[0].Literals {
		name, value, _ := strings.Cut(literal, "=")
		values = append(values, "$("+name+")", value)
	}
	pod := set.Spec.Template.Spec
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		var args []string
		for _, a := range append(slices.Clone(c.Command[1:]), c.Args...) {
			a = strings.NewReplacer(values...).Replace(a)
			if strings.Contains(a, "$(") {
				t.Errorf("%s: %s has no value", c.Name, a)
			}
			args = append(args, a)
		}
		same(t, "program", "/lanyard-agent", c.Command[0])
		out, err := exec.Command(binary("lanyard-agent"), append(args, "--help")...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", c.Name, err, out)
		}
		var exit *exec.ExitError
		if _, err := exec.Command(binary("lanyard-agent"), append(args, "--unknown", "--help")...).CombinedOutput(); !errors.As(err, &exit) {
			t.Errorf("%s: a flag that is not known is no error: this test shows nothing", c.Name)
		}
	}
}
