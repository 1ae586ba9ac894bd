package kubenode_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/test/kubenode"
)

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
