package lanyard_test

import (
	"encoding/json"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/lanyard-id/lanyard"

// layers lists the rooms of the house from the bottom up. A package may import packages of lower layers, and within
// its own layer those that stand before it. A package that is not listed fails the test: give it a place.
var layers = [][]string{
	{"arn", "internal/filelock", "internal/audit", "internal/audit/postgres", "internal/sigv4", "internal/lanyardapi", "internal/credcache", "internal/subject", "internal/podspec", "internal/daemon", "internal/link", "internal/handover", "internal/localca", "internal/accesspolicy"},
	{"internal/kv", "internal/kv/kvtest", "internal/kv/etcd", "internal/kv/etcd/embedded", "internal/keyring", "policy", "internal/idtoken", "internal/tokenreview", "internal/oidc"},
	{"internal/awsapi"},
	{"internal/cloudtrail", "internal/iam", "internal/eks", "internal/cloudformation", "internal/awstest"},
	{"internal/sts"},
	{"internal/eksauth"},
	{"internal/gateway", "internal/agent", "internal/intercept", "internal/webhook", "internal/associations", "internal/rolebindings", "internal/kubeaccess"},
	{"internal/controlplane", "internal/doctor"},
	{"cmd/lanyard", "cmd/lanyard-server", "cmd/lanyard-agent", "cmd/lanyard-webhook"},
	{"deploy", "deploy/image", "deploy/image/build", "test/kubenode/internal/pid1", "test/kubenode", "test/kubenode/cluster", "test/kubenode/pause", "test", "test/nodes/loop", "test/nodes/stay", "test/soak"},
}

// rooms says which packages a module outside may be imported by, directly or through others.
var rooms = []struct {
	imports string
	allowed []string // prefixes of package paths
	direct  bool     // only direct imports count
}{
	{"go.etcd.io/", []string{"internal/kv/etcd"}, true},
	{"github.com/google/go-containerregistry/", []string{"deploy/image"}, true},
	{"github.com/jackc/", []string{"internal/audit/postgres", "test"}, true},
	{"k8s.io/", []string{"internal/podspec", "internal/webhook", "internal/associations", "internal/rolebindings", "internal/doctor", "cmd/", "deploy", "test"}, true},
	{"net/http", []string{
		"internal/idtoken", "internal/tokenreview", "internal/oidc", "internal/sigv4", "internal/lanyardapi", "internal/awsapi", "internal/awstest", "internal/gateway", "internal/agent", "internal/intercept",
		"internal/webhook", "internal/kubeaccess", "internal/daemon", "internal/controlplane", "internal/doctor", "cmd/", "test",
	}, true},
	{"github.com/aws/", []string{"internal/lanyardapi", "internal/awstest", "internal/associations", "internal/rolebindings", "internal/doctor", "cmd/", "test"}, true},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Doc        string
	Name       string
}

func load(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps,Doc,Name", "./...").Output()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("decode package list: %v", err)
		}
		all = append(all, p)
	}
	return all
}

func rel(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
}

// rank returns a package's layer and its place within it.
func rank(p string) (layer, place int, ok bool) {
	for l, names := range layers {
		if i := slices.Index(names, p); i >= 0 {
			return l, i, true
		}
	}
	return 0, 0, false
}

func TestImportsRunDownward(t *testing.T) {
	for _, p := range load(t) {
		from := rel(p.ImportPath)
		if from == "" {
			continue
		}
		layer, place, ok := rank(from)
		if !ok {
			t.Errorf("%s has no place in the layers of imports_test.go", from)
			continue
		}
		for _, i := range p.Imports {
			if !strings.HasPrefix(i, module+"/") {
				continue
			}
			l, at, ok := rank(rel(i))
			if ok && (l > layer || l == layer && at >= place) {
				t.Errorf("%s imports %s, which is not below it", from, rel(i))
			}
		}
	}
}

func TestModulesKeepToTheirRooms(t *testing.T) {
	for _, p := range load(t) {
		from := rel(p.ImportPath)
		for _, rule := range rooms {
			for _, i := range p.Imports {
				match := i == rule.imports || strings.HasSuffix(rule.imports, "/") && strings.HasPrefix(i, rule.imports)
				if match && !slices.ContainsFunc(rule.allowed, func(a string) bool { return strings.HasPrefix(from, a) }) {
					t.Errorf("%s imports %s", from, i)
				}
			}
		}
	}
}

// The agent runs beside every pod of a fleet: it must stay small.
func TestAgentLinksNoHeavyModules(t *testing.T) {
	for _, p := range load(t) {
		if rel(p.ImportPath) != "cmd/lanyard-agent" {
			continue
		}
		for _, d := range p.Deps {
			for _, heavy := range []string{"go.etcd.io/", "google.golang.org/grpc", "k8s.io/"} {
				if strings.HasPrefix(d, heavy) {
					t.Errorf("cmd/lanyard-agent links %s", d)
				}
			}
		}
		return
	}
	t.Error("cmd/lanyard-agent is not there")
}

func TestPolicyNeedsOnlyTheStandardLibrary(t *testing.T) {
	for _, p := range load(t) {
		if rel(p.ImportPath) != "policy" {
			continue
		}
		for _, i := range p.Imports {
			if strings.Contains(strings.Split(i, "/")[0], ".") && i != module+"/arn" {
				t.Errorf("policy imports %s", i)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range load(t) {
		if rel(p.ImportPath) == "" {
			continue
		}
		want := "Package " + path.Base(p.ImportPath)
		if p.Name == "main" {
			want = "Command " + path.Base(p.ImportPath)
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("the doc comment of %s begins %q, want %q", rel(p.ImportPath), p.Doc, want)
		}
	}
}

// What tests share is in no binary.
func TestOnlyTestsImportAwstest(t *testing.T) {
	for _, p := range load(t) {
		if slices.Contains(p.Imports, module+"/internal/awstest") {
			t.Errorf("%s imports internal/awstest", rel(p.ImportPath))
		}
	}
}
