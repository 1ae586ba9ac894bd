package main

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/policy"
)

// What the schema of SARIF 2.1.0 requires of the parts that the log has.
func checkSARIF(t *testing.T, text []byte) {
	t.Helper()
	var log struct {
		Schema  string `json:"$schema"`
		Version string
		Runs    []struct {
			ColumnKind string
			Tool       struct {
				Driver struct {
					Name  string
					Rules []struct {
						ID                                string
						ShortDescription, FullDescription struct{ Text string }
						DefaultConfiguration              struct{ Level string }
						Properties                        map[string]any
					}
				}
			}
			Results []struct {
				RuleID    string
				RuleIndex *int
				Level     string
				Message   struct{ Text string }
				Locations []struct {
					PhysicalLocation *struct {
						ArtifactLocation struct{ URI string }
						Region           sarifRegion
					}
					LogicalLocations []struct{ Name, FullyQualifiedName, Kind string }
				}
				Fixes []struct {
					Description     struct{ Text string }
					ArtifactChanges []struct {
						ArtifactLocation struct{ URI string }
						Replacements     []struct {
							DeletedRegion   sarifRegion
							InsertedContent struct{ Text string }
						}
					}
				}
			}
		}
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&log); err != nil {
		t.Fatal(err)
	}
	must := func(ok bool, what string, values ...any) {
		t.Helper()
		if !ok {
			t.Errorf("%s: %q", what, values)
		}
	}
	region := func(r sarifRegion) {
		t.Helper()
		must(r.StartLine >= 1 && r.StartColumn >= 1, "a region begins before its file", r)
		must(r.EndLine > r.StartLine || r.EndLine == r.StartLine && r.EndColumn >= r.StartColumn, "a region ends before it begins", r)
	}
	uri := func(text string) {
		t.Helper()
		u, err := url.Parse(text)
		must(err == nil && text != "" && !strings.ContainsAny(text, "\\ "), "not a URI", text)
		must(u.Scheme == "" && !strings.HasPrefix(u.Path, "/") || u.Scheme == "file" && strings.HasPrefix(u.Path, "/"), "neither relative nor a file", text)
	}
	must(log.Version == "2.1.0" && len(log.Runs) == 1 && log.Schema != "", "version", log.Version)
	run := log.Runs[0]
	must(run.ColumnKind == "unicodeCodePoints", "columnKind", run.ColumnKind)
	must(run.Tool.Driver.Name == "lanyard", "driver", run.Tool.Driver.Name)
	must(run.Results != nil, "results of a run that was completed must be there")
	levels := []string{"none", "note", "warning", "error"}
	seen := make(map[string]bool)
	for _, r := range run.Tool.Driver.Rules {
		must(r.ID != "" && !seen[r.ID] && r.ShortDescription.Text != "" && r.FullDescription.Text != "", "rule", r.ID)
		must(slices.Contains(levels, r.DefaultConfiguration.Level), "level of a rule", r.DefaultConfiguration.Level)
		seen[r.ID] = true
	}
	for _, r := range run.Results {
		if r.RuleIndex == nil || *r.RuleIndex < 0 || *r.RuleIndex >= len(run.Tool.Driver.Rules) {
			t.Fatalf("result of %s points to no rule", r.RuleID)
		}
		must(run.Tool.Driver.Rules[*r.RuleIndex].ID == r.RuleID, "ruleIndex is another rule's", r.RuleID)
		must(slices.Contains(levels, r.Level) && r.Message.Text != "" && len(r.Locations) == 1, "result", r.RuleID)
		for _, l := range r.Locations {
			must((l.PhysicalLocation != nil) != (len(l.LogicalLocations) == 1), "location", r.RuleID)
			if l.PhysicalLocation != nil {
				uri(l.PhysicalLocation.ArtifactLocation.URI)
				region(l.PhysicalLocation.Region)
			}
		}
		for _, f := range r.Fixes {
			must(len(f.ArtifactChanges) == 1 && len(f.ArtifactChanges[0].Replacements) == 1 && f.Description.Text != "", "fix", r.RuleID)
			uri(f.ArtifactChanges[0].ArtifactLocation.URI)
			region(f.ArtifactChanges[0].Replacements[0].DeletedRegion)
			must(f.ArtifactChanges[0].Replacements[0].InsertedContent.Text != "", "a fix that empties the file", r.RuleID)
		}
	}
}

func TestSARIF(t *testing.T) {
	t.Parallel()
	document := func(name, file, role, text string) linted {
		d := linted{name: name, file: file, role: role, text: []byte(text)}
		d.kind = guessKind(d.text)
		d.findings = policy.Findings(d.text, d.kind)
		return d
	}
	const (
		unversioned = `{"Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::ü/*"}}`
		open        = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sts:AssumeRoleWithWebIdentity",
			"Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/oidc.example.com/id/A"}}}`
	)
	documents := []linted{
		document("policies/own # 100%.json", "policies/own # 100%.json", "", unversioned),
		document("a:b.json", "a:b.json", "", open),
		document("stdin", "", "", "{"),
		document("role/web/inline/own", "", "arn:aws:iam::111122223333:role/web", unversioned),
	}
	log, err := newSARIF(documents)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(log)
	if err != nil {
		t.Fatal(err)
	}
	checkSARIF(t, text)

	results := log.Runs[0].Results
	find := func(uri, rule string) *sarifResult {
		for i := range results {
			if p := results[i].Locations[0].Physical; p != nil && p.Artifact.URI == uri && results[i].RuleID == rule {
				return &results[i]
			}
		}
		t.Fatalf("no result %s for %s in %s", rule, uri, text)
		return nil
	}
	own := find("policies/own%20%23%20100%25.json", "missing-version")
	if own.Level != "note" || len(own.Fixes) != 1 {
		t.Fatalf("got %+v", own)
	}
	replacement := own.Fixes[0].Changes[0].Replacements[0]
	if want := (sarifRegion{1, 1, 1, 1 + len([]rune(unversioned))}); replacement.Deleted != want {
		t.Errorf("the fix replaces %v, want %v: all of the file, in characters", replacement.Deleted, want)
	}
	if again := policy.Findings([]byte(replacement.Inserted.Text), policy.Identity); len(again) != 0 {
		t.Errorf("after the fix there is still %v", again)
	}
	if r := find("./a:b.json", "trust-without-subject"); r.Level != "error" || len(r.Fixes) != 0 {
		t.Errorf("got %+v", r)
	}
	find("stdin", "malformed")
	last := results[len(results)-1]
	want := []sarifLocation{{Logical: []sarifLogical{{Name: "inline/own", QualifiedName: "arn:aws:iam::111122223333:role/web/inline/own", Kind: "resource"}}}}
	if diff := cmp.Diff(want, last.Locations); diff != "" || len(last.Fixes) != 0 {
		t.Errorf("where a role's finding is (-want +got):\n%s\nfixes %v", diff, last.Fixes)
	}

	if log, err = newSARIF(nil); err != nil {
		t.Fatal(err)
	}
	if text, err = json.Marshal(log); err != nil {
		t.Fatal(err)
	}
	checkSARIF(t, text)
}

func TestFilesAsURIs(t *testing.T) {
	t.Parallel()
	dir := filepath.FromSlash("/home/ann/my repo")
	for name, want := range map[string]string{
		"a.json":                       "a.json",
		"./sub/../sub/a b.json":        "sub/a%20b.json",
		"/home/ann/my repo/sub/a.json": "sub/a.json",
		"../other/a.json":              "file:///home/ann/other/a.json",
		"/elsewhere/ä.json":            "file:///elsewhere/%C3%A4.json",
		"..a.json":                     "..a.json",
		"x?y.json":                     "x%3Fy.json",
	} {
		if got := fileURI(dir, filepath.FromSlash(name)); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestTheRegionOfAWholeFile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]sarifRegion{
		"":         {1, 1, 1, 1},
		"{}":       {1, 1, 1, 3},
		"{}\n":     {1, 1, 2, 1},
		"{\n ä\n}": {1, 1, 3, 2},
		"ää":       {1, 1, 1, 3},
	} {
		if got := wholeRegion([]byte(text)); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

// Replacing a file keeps its mode and leaves nothing else behind, also when it cannot be done.
func TestReplaceFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "a.json")
	if err := os.WriteFile(name, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(name, []byte("new")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if err != nil || string(text) != "new" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if err := replaceFile(filepath.Join(dir, "missing.json"), []byte("new")); err == nil {
		t.Error("a file that is not there was replaced")
	}
	if err := replaceFile(dir, []byte("new")); err == nil {
		t.Error("a directory was replaced")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
	beside, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".*"))
	if err != nil || len(beside) != 0 {
		t.Errorf("left behind: %v, %v", beside, err)
	}
}
