package kubenode_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/test/kubenode"
)

func TestSomebodyElsesCluster(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if _, err := kubenode.Use(file); err == nil {
		t.Error("a kubeconfig that is not there was used")
	}
	if err := os.WriteFile(file, []byte(`{"apiVersion": "v1", "kind": "Config", "current-context": "x",
		"clusters": [{"name": "x", "cluster": {"server": "https://cluster.test:6443"}}], "users": [{"name": "x", "user": {"token": "t"}}],
		"contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(kubenode.Existing, file)
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
	// What would need the node itself says so.
	for what, err := range map[string]error{
		"import":  n.Import(t.Context(), "image.tar"),
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
