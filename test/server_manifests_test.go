package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// The server understands the configuration files that the chart writes, and its flags.
func TestServerManifestsHaveAConfigurationThatIsUnderstood(t *testing.T) {
	t.Parallel()
	for name, values := range map[string]string{
		"all of it":          "clusterName: demo",
		"objects":            "clusterName: demo\nserver: {s3: {embedded: true}, trustGuard: deny}\nintercept: {enabled: true}",
		"an upstream":        "clusterName: demo\nserver: {s3: {upstream: {endpoint: \"https://minio\", accessKeyID: lanyard, existingSecret: minio}}}",
		"replicas over etcd": "clusterName: demo\nserver: {replicas: 3, etcd: {endpoints: [https://a:2379], tlsSecret: etcd}, tls: {existingSecret: tls}, audit: {existingSecret: trail, mode: best-effort}, log: {level: debug, format: text}}",
		"token reviews":      "clusterName: demo\nserver: {tokenReview: 30s, extraArgs: [-trust-guard=warn]}",
		"another partition":  "clusterName: demo\nregion: cn-north-1\naccount: \"444455556666\"",
		"more configuration": "clusterName: demo\nserver: {extraConfig: {listen: \":8080\"}}",
	} {
		objects := renderChart(t, values)
		var config string
		for _, o := range objects {
			if m, ok := o.(*corev1.ConfigMap); ok && m.Name == "lanyard-server" {
				config = m.Data["server.yaml"]
			}
		}
		container := object[*appsv1.StatefulSet](t, objects).Spec.Template.Spec.Containers[0]
		takesFlags(t, name, container, "lanyard-server", "-help")

		// What the image has at the default place of the configuration is mounted there.
		mounted := false
		for _, m := range container.VolumeMounts {
			mounted = mounted || m.MountPath == "/etc/lanyard/server.yaml"
		}
		if !mounted {
			t.Errorf("%s: the configuration is not where the server looks for it", name)
		}
		dir := t.TempDir()
		file := filepath.Join(dir, "server.yaml")
		config = strings.Replace(config, "/var/lib/lanyard/data", dir+"/data", 1)
		for text, want := range map[string]string{config: "there is no root key in " + dir + "/data", config + "unknown: true\n": "field unknown not found"} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(binary("lanyard-server"), "root-key", "-config", file).CombinedOutput()
			if err == nil || !strings.Contains(string(out), want) {
				t.Errorf("%s: got %v, %s, want %q of\n%s", name, err, out, want, text)
			}
		}
	}
}
