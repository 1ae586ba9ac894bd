package cloudformation

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

func addTemplates(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) == 0 {
		f.Fatalf("no templates: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, text := range []string{
		"a: &x [1]\nb: *x", "!Sub [a, {b: !Ref c}]", `{"a":1,"a":2}`, "? [1]\n: 2", "1e999", "{", "---\na: 1\n---\nb: 2",
		"<<: {a: b}", "a: !!binary aGk=", "x: 2012-10-17", "x: 0777", "x: .inf", strings.Repeat("[", 100), strings.Repeat(`{"a":`, 100),
	} {
		f.Add(text)
	}
}

// wantRefusal fails the test unless err is one that callers may see: what strangers write is never a failure of the server.
func wantRefusal(t *testing.T, err error) {
	t.Helper()
	if refused, ok := errors.AsType[*awsapi.Error](err); !ok || refused.Code != "ValidationError" || refused.Message == "" {
		t.Fatalf("got %v, want a ValidationError", err)
	}
}

// What is read of a template, written as JSON, reads as the same; and it is a template whatever language it was in.
func FuzzParse(f *testing.F) {
	addTemplates(f)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > maxTemplate {
			return
		}
		v, err := parseText(text)
		if err != nil {
			wantRefusal(t, err)
			return
		}
		if depth(v) > maxDepth+1 {
			t.Fatalf("the value is %d levels deep", depth(v))
		}
		object, ok := v.(map[string]any)
		if !ok {
			return
		}
		again, err := parseText(canonical(object))
		if err != nil {
			t.Fatalf("written as JSON it cannot be read: %v", err)
		}
		if diff := cmp.Diff(v, again); diff != "" {
			t.Fatalf("written as JSON it reads differently:\n%s", diff)
		}
		_, first := parseTemplate(text)
		if asJSON := canonical(object); len(asJSON) <= maxTemplate {
			if _, second := parseTemplate(asJSON); (first == nil) != (second == nil) {
				t.Fatalf("as it is: %v; as JSON: %v", first, second)
			}
		}
	})
}

func depth(v any) int {
	deepest := 0
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			deepest = max(deepest, depth(item))
		}
	case map[string]any:
		for _, item := range v {
			deepest = max(deepest, depth(item))
		}
	default:
		return 0
	}
	return deepest + 1
}

// A template that was accepted evaluates to the same each time, within its bounds, and with all resources made nothing is unknown.
func FuzzEvaluate(f *testing.F) {
	addTemplates(f)
	s := &Service{}
	st := identity{Partition: "aws", Region: "us-east-1", Account: "111122223333", Name: "app", ID: "1"}
	f.Fuzz(func(t *testing.T, text string) {
		tmpl, err := parseTemplate(text)
		if err != nil {
			wantRefusal(t, err)
			return
		}
		chosen, err := tmpl.chooseParameters(nil, nil)
		if err != nil {
			wantRefusal(t, err)
			return
		}
		made := func(id string) (*state, bool) {
			attributes := map[string]string{}
			for _, name := range tmpl.resources[id].typ.attributes {
				attributes[name] = id + "." + name
			}
			return &state{Reference: id, Attributes: attributes}, true
		}
		pass := func() (string, error) {
			e := s.newEvaluator(tmpl, st, chosen, made)
			e.imported = func(name string) (string, error) { return "imported " + name, nil }
			ordered, err := e.order()
			if err != nil {
				return "", err
			}
			var all []any
			seen := map[string]bool{}
			for _, r := range ordered {
				for _, other := range r.dependsOn {
					if active, err := e.active(tmpl.resources[other].condition); err == nil && active && !seen[other] {
						t.Fatalf("%s comes before %s, which it needs", r.id, other)
					}
				}
				seen[r.id] = true
				w, err := e.want(r, nil)
				if err != nil {
					return "", err
				}
				for name, v := range w.properties {
					if hasUnknown(v) {
						t.Fatalf("%s of %s is unknown", name, r.id)
					}
				}
				all = append(all, w.properties)
			}
			outputs, err := e.outputs()
			if err != nil {
				return "", err
			}
			if e.spent > maxEvaluated {
				t.Fatalf("the evaluation has %d bytes", e.spent)
			}
			return canonical([]any{all, outputs}), nil
		}
		first, err := pass()
		if err != nil {
			wantRefusal(t, err)
		}
		second, again := pass()
		if first != second || (err == nil) != (again == nil) {
			t.Fatalf("two evaluations differ: %s (%v) and %s (%v)", first, err, second, again)
		}
	})
}
