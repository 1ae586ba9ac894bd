package kubenode_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/test/kubenode"
)

// KUBECONFIG names the cluster where somebody works; only what is called a cluster for tests is one.
func TestKubeconfigNamesAClusterForTests(t *testing.T) {
	kubeconfig := func(context string) string {
		file := filepath.Join(t.TempDir(), "kubeconfig")
		if err := os.WriteFile(file, []byte(`{"apiVersion": "v1", "kind": "Config", "current-context": "`+context+`"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ours := kubeconfig("kind-lanyard-test")
	load := []string{"kind", "load", "image-archive", "--name", "lanyard-test"}
	for _, tt := range []struct {
		name, kubeconfig string
		own              map[string]string
		want             *kubenode.Existing
	}{
		{"nothing", "", nil, nil},
		{"a cluster of kind's for tests", ours, nil, &kubenode.Existing{Kubeconfig: ours, Load: load, Machine: "/machine"}},
		{"another cluster of kind's", kubeconfig("kind-kind"), nil, nil},
		{"a cluster at work", kubeconfig("arn:aws:eks:eu-west-1:111122223333:cluster/prod"), nil, nil},
		{"several files", ours + string(filepath.ListSeparator) + kubeconfig("prod"), nil, nil},
		{"a file that is not there", ours + "x", nil, nil},
		{"a cluster of kind's for tests, set up otherwise", ours,
			map[string]string{kubenode.LoadVariable: "podman load", kubenode.MachineVariable: "/host"},
			&kubenode.Existing{Kubeconfig: ours, Load: []string{"podman", "load"}, Machine: "/host"}},
		{"another cluster beside it, by the tests' own variable", ours,
			map[string]string{kubenode.KubeconfigVariable: "own", kubenode.LoadVariable: "cp -t /images"},
			&kubenode.Existing{Kubeconfig: "own", Load: []string{"cp", "-t", "/images"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", tt.kubeconfig)
			for _, name := range []string{kubenode.KubeconfigVariable, kubenode.LoadVariable, kubenode.MachineVariable} {
				t.Setenv(name, tt.own[name])
			}
			got, named := kubenode.FromEnvironment()
			if want := tt.want; named != (want != nil) {
				t.Errorf("named: %t", named)
			} else if diff := cmp.Diff(want, &got); named && diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestSomebodyElsesCluster(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if _, err := kubenode.Use(kubenode.Existing{Kubeconfig: file}); err == nil {
		t.Error("a kubeconfig that is not there was used")
	}
	if err := os.WriteFile(file, []byte(`{"apiVersion": "v1", "kind": "Config", "current-context": "x",
		"clusters": [{"name": "x", "cluster": {"server": "https://cluster.test:6443"}}], "users": [{"name": "x", "user": {"token": "t"}}],
		"contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(kubenode.KubeconfigVariable, file)
	t.Setenv(kubenode.LoadVariable, "")
	t.Setenv(kubenode.MachineVariable, "")
	t.Setenv("HTTPS_PROXY", "http://proxy.test")
	n := kubenode.ForTest(t, kubenode.Config{})
	if c := n.RESTConfig(); c.Host != "https://cluster.test:6443" || c.BearerToken != "t" {
		t.Errorf("its clients would connect to %s", c.Host)
	}
	cmd := n.Command(t.Context(), "kubectl", "get", "pods")
	if !slices.Equal(cmd.Args, []string{"kubectl", "get", "pods"}) {
		t.Errorf("the command is %q", cmd.Args)
	}
	for _, want := range []string{"KUBECONFIG=" + file, "HTTPS_PROXY=http://proxy.test"} {
		if !slices.Contains(cmd.Env, want) {
			t.Errorf("the command lacks %s", want)
		}
	}
	const folder = "/usr/lib"
	if path, err := n.MachinePath(folder); err == nil || !strings.Contains(err.Error(), kubenode.MachineVariable) {
		t.Errorf("a folder of this machine is at %q there, %v", path, err)
	}
	if err := n.Import(t.Context(), "image.tar"); err == nil || !strings.Contains(err.Error(), kubenode.LoadVariable) {
		t.Errorf("without a command that loads images: %v", err)
	}
	if _, err := n.DialContext(t.Context(), "tcp", "cluster.test:443"); err == nil || !strings.Contains(err.Error(), "only Services") {
		t.Errorf("a connection to what is no Service: %v", err)
	}

	t.Setenv(kubenode.LoadVariable, "cp -t "+filepath.Dir(file))
	t.Setenv(kubenode.MachineVariable, "/machine")
	n = kubenode.ForTest(t, kubenode.Config{})
	if path, err := n.MachinePath(folder); err != nil || path != "/machine"+folder {
		t.Errorf("a folder of this machine is at %q there, %v", path, err)
	}
	image := filepath.Join(t.TempDir(), "image.tar")
	if err := errors.Join(os.WriteFile(image, []byte("layers"), 0o600), n.Import(t.Context(), image)); err != nil {
		t.Fatal(err)
	}
	if loaded, err := os.ReadFile(filepath.Join(filepath.Dir(file), "image.tar")); err != nil || string(loaded) != "layers" {
		t.Errorf("the image was given as %q, %v", loaded, err)
	}
	if err := n.Import(t.Context(), "missing.tar"); err == nil || !strings.Contains(err.Error(), "missing.tar") {
		t.Errorf("an image that is not there: %v", err)
	}

	// What would need the node itself says so.
	for what, err := range map[string]error{
		"restart": n.RestartAPIServer(t.Context()),
		"listen":  func() error { _, err := n.Listen(t.Context(), "tcp", "127.0.0.1:0"); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), "somebody else's cluster") {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if n.Logs() != "" || n.LogTails() != "" {
		t.Error("it has logs")
	}
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
}
