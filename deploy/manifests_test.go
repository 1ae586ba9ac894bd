package deploy_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/deploy"
)

var update = flag.Bool("update", false, "write the manifests")

// manifestValues are those of the plain manifests. What is secret is its user's to make, and there are no hooks, which kubectl would run at once.
const manifestValues = `
clusterName: demo
server: {existingSecret: lanyard-server}
ca: {configMap: lanyard-server-ca}
webhook: {cleanup: {enabled: false}}
`

// manifests are the plain manifests, by name, with what stands above them.
var manifests = map[string]struct{ templates, head string }{
	"server.yaml": {"server/", `# The control plane. Make its namespace and its keys first: docs/install.md, "Without Helm".`},
	"agent.yaml":  {"agent/", "# The agent on every node. Change the cluster's name, the role, the region and the endpoint."},
	"webhook.yaml": {"webhook/", `# The admission webhook. Change the cluster's name, the role, the region and the endpoint. It has the name of AWS's and would overwrite it:
# not for clusters that have that one, as EKS has.`},
	"crd.yaml": {"podidentityassociations.yaml", "# The resource PodIdentityAssociation."},
}

func TestManifestsAreThoseOfTheChart(t *testing.T) {
	t.Parallel()
	all, _, err := deploy.Render(deploy.Release{Values: parse(t, manifestValues), Service: "kubectl"})
	if err != nil {
		t.Fatal(err)
	}
	left := len(all)
	for name, m := range manifests {
		var b strings.Builder
		b.WriteString("# Made from the chart by `make manifests`: change it there.\n" + m.head + "\n")
		for _, d := range all {
			if strings.HasPrefix(d.Template, m.templates) {
				b.WriteString("---\n" + d.Text)
				left--
			}
		}
		file := filepath.Join("manifests", name)
		if *update {
			if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(have) != b.String() {
			t.Errorf("%s is not what the chart makes: run `make manifests`", file)
		}
	}
	if left != 0 {
		t.Errorf("%d objects are in no manifest", left)
	}
	files, err := filepath.Glob("manifests/*")
	if err != nil || len(files) != len(manifests) {
		t.Errorf("there are %v, %v", files, err)
	}
}
