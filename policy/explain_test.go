package policy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/lanyard-id/lanyard/policy"
)

// A question is a request and the policies that bear on it, read from a golden file; its README tells the form.
type question struct {
	request  policy.Request
	policies policy.Policies
	trust    *policy.Policy
	trusted  bool // it is asked of a trust policy, which may be missing
}

func (q *question) evaluate() policy.Decision {
	if q.trusted {
		return policy.EvaluateTrust(&q.request, q.trust, &q.policies)
	}
	return policy.Evaluate(&q.request, &q.policies)
}

func (q *question) explain() policy.Decision {
	if q.trusted {
		return policy.ExplainTrust(&q.request, q.trust, &q.policies)
	}
	return policy.Explain(&q.request, &q.policies)
}

func (q *question) read(t *testing.T, archive *txtar.Archive) {
	t.Helper()
	principals := map[string]policy.Principal{
		"session": session(), "user": user(), "federated user": federated(), "root": root(), "stranger": stranger(),
		"service": service(), "web identity": webIdentity(), "nobody": {},
	}
	q.request.Context = new(policy.Context)
	for line := range strings.Lines(string(archive.Comment)) {
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "", "#":
		case "principal":
			p, ok := principals[rest]
			if !ok {
				t.Fatalf("unknown principal %q", rest)
			}
			q.request.Principal = p
		case "action":
			q.request.Action = rest
		case "resource":
			q.request.Resource = rest
		case "owner":
			q.request.ResourceAccount = rest
		case "passed": // session policies, of which none is left
			q.policies.Session = []*policy.Policy{}
		case "trust":
			q.trusted = true
		case "context":
			key, value, list := strings.Cut(rest, " = ")
			if list {
				q.request.Context.Set(key, value)
				continue
			}
			key, values, _ := strings.Cut(rest, " in ")
			q.request.Context.SetList(key, strings.Fields(values))
		default:
			t.Fatalf("unknown line %q", line)
		}
	}
	for _, file := range archive.Files {
		layer, name, _ := strings.Cut(file.Name, "/")
		compile := func(kind policy.Kind) *policy.Policy {
			p, err := policy.New(name, kind, file.Data)
			if err != nil {
				t.Fatalf("%s: %v (%s)", file.Name, err, detail(err))
			}
			return p
		}
		level := func(levels [][]*policy.Policy, kind policy.Kind) [][]*policy.Policy {
			return append(levels, []*policy.Policy{compile(kind)})
		}
		switch layer {
		case "identity":
			q.policies.Identity = append(q.policies.Identity, compile(policy.Identity))
		case "boundary":
			q.policies.Boundary = compile(policy.Boundary)
		case "session":
			q.policies.Session = append(q.policies.Session, compile(policy.Session))
		case "resource":
			q.policies.Resource = compile(policy.Resource)
		case "misplaced": // a resource's policy among the caller's own
			q.policies.Identity = append(q.policies.Identity, compile(policy.Resource))
		case "trust":
			q.trust, q.trusted = compile(policy.Trust), true
		case "scp":
			q.policies.ServiceControl = level(q.policies.ServiceControl, policy.ServiceControl)
		case "rcp":
			q.policies.ResourceControl = level(q.policies.ResourceControl, policy.ResourceControl)
		case "tree", "json":
		default:
			t.Fatalf("unknown file %q", file.Name)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/explain/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden files: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var q question
			q.read(t, archive)
			d := q.explain()
			checkAnswer(t, &q, d)
			tree := d.Explanation.Tree()
			encoded, err := json.MarshalIndent(d.Explanation, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden := map[string]string{"tree": tree, "json": string(encoded) + "\n"}
			for i := range archive.Files {
				got, ok := golden[archive.Files[i].Name]
				if !ok {
					continue
				}
				if *update {
					archive.Files[i].Data = []byte(got)
				}
				if diff := cmp.Diff(string(archive.Files[i].Data), got); diff != "" {
					t.Errorf("%s: %s", archive.Files[i].Name, diff)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// checkAnswer checks what holds of every explanation.
func checkAnswer(t *testing.T, q *question, d policy.Decision) {
	t.Helper()
	x := d.Explanation
	d.Explanation = nil
	if want := q.evaluate(); d != want {
		t.Errorf("explained the decision is %v, else it is %v", d, want)
	}
	if x.Verdict != d.Verdict() {
		t.Errorf("the explanation of %v says %s", d, x.Verdict)
	}
	statements, found := 0, d.Line == 0
	for _, l := range x.Layers {
		statements += len(l.Statements)
		if (l.Decided == nil) != (l.Verdict == policy.ImplicitDeny) && l.Layer != policy.RootLayer {
			t.Errorf("%v says %s by statement %v", l.Layer, l.Verdict, l.Decided)
		}
		for i, s := range l.Statements {
			if s.Applies != (s.Failed == nil) {
				t.Errorf("statement %d of %s applies: %v, but failed at %v", s.Statement, s.Policy, s.Applies, s.Failed)
			}
			decided := l.Decided != nil && *l.Decided == i
			if decided && l.Layer == d.Layer && s.Policy == d.Policy && s.Statement == d.Statement && s.Start.Line == d.Line {
				found = s.Applies
			}
		}
	}
	if statements != x.Statements {
		t.Errorf("%d statements are explained, of %d", statements, x.Statements)
	}
	if !found {
		t.Errorf("the statement that decided, %v, is not the one that its layer names", d)
	}
}
