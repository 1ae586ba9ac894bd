package policy_test

import (
	stdcmp "cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/lanyard-id/lanyard/policy"
)

func kindsByName() map[string]policy.Kind {
	return map[string]policy.Kind{
		"identity": policy.Identity, "trust": policy.Trust, "session": policy.Session, "resource": policy.Resource,
		"boundary": policy.Boundary, "servicecontrol": policy.ServiceControl, "resourcecontrol": policy.ResourceControl,
	}
}

func severity(s policy.Severity) string {
	return map[policy.Severity]string{policy.Low: "low", policy.Medium: "medium", policy.High: "high"}[s]
}

// listing is how golden files and failures show findings.
func listing(findings []policy.Finding) string {
	var b strings.Builder
	for _, f := range findings {
		statement := "document"
		if f.Statement >= 0 {
			statement = fmt.Sprintf("statement %d", f.Statement)
		}
		if f.Sid != "" {
			statement += " " + f.Sid
		}
		fmt.Fprintf(&b, "%d:%d-%d:%d %s %s %s: %s\n", f.Start.Line, f.Start.Column, f.End.Line, f.End.Column,
			statement, severity(f.Severity), f.ID, f.Message)
	}
	return b.String()
}

// A golden is a case of a golden file.
type golden struct {
	name     string
	kind     policy.Kind
	document []byte
}

func goldens(t *testing.T, archive *txtar.Archive) (cases []golden) {
	t.Helper()
	for _, f := range archive.Files {
		parts := strings.Split(f.Name, ".")
		if len(parts) != 3 {
			continue
		}
		if kind, ok := kindsByName()[parts[1]]; ok {
			cases = append(cases, golden{parts[0], kind, f.Data})
		}
	}
	if len(cases) == 0 {
		t.Fatal("there is no case")
	}
	return cases
}

func goldenFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/findings/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden files: %v, %v", files, err)
	}
	return files
}

func TestFindings(t *testing.T) {
	t.Parallel()
	for _, name := range goldenFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := &txtar.Archive{Comment: archive.Comment}
			for _, c := range goldens(t, archive) {
				kind := nameOf(c.kind)
				got.Files = append(got.Files, txtar.File{Name: c.name + "." + kind + ".json", Data: c.document})
				findings := policy.Findings(c.document, c.kind)
				got.Files = append(got.Files, txtar.File{Name: c.name + ".want", Data: []byte(listing(findings))})
				shown := make(map[string]bool)
				for _, f := range findings {
					if f.Fixed == "" {
						continue
					}
					checkFix(t, c, f, findings)
					if !shown[f.ID] {
						got.Files = append(got.Files, txtar.File{Name: c.name + "." + f.ID + ".json", Data: []byte(f.Fixed)})
					}
					shown[f.ID] = true
				}
			}
			if *update {
				if err := os.WriteFile(name, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(txtar.Format(archive)), string(txtar.Format(got))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		})
	}
}

func nameOf(kind policy.Kind) string {
	for name, k := range kindsByName() {
		if k == kind {
			return name
		}
	}
	return "none"
}

// checkFix asserts that the corrected document of a finding is valid and has fewer findings of its rule.
func checkFix(t *testing.T, c golden, f policy.Finding, before []policy.Finding) {
	t.Helper()
	if _, err := policy.New("p", c.kind, []byte(f.Fixed)); err != nil {
		t.Errorf("%s: the fix of %s is refused: %v\n%s", c.name, f.ID, err, f.Fixed)
	}
	after := policy.Findings([]byte(f.Fixed), c.kind)
	if got, want := count(after, f.ID), count(before, f.ID); got >= want {
		t.Errorf("%s: after the fix of %s there are %d such findings, before it %d\n%s", c.name, f.ID, got, want, f.Fixed)
	}
}

func count(findings []policy.Finding, id string) (n int) {
	for _, f := range findings {
		if f.ID == id {
			n++
		}
	}
	return n
}

// The golden files show each rule, and each has a document that it does not complain of.
func TestRules(t *testing.T) {
	t.Parallel()
	rules := policy.Rules()
	if !slices.IsSortedFunc(rules, func(a, b policy.Rule) int { return strings.Compare(a.ID, b.ID) }) {
		t.Error("the rules are not in the order of their IDs")
	}
	known := make(map[string]policy.Rule)
	for _, r := range rules {
		if _, twice := known[r.ID]; twice {
			t.Errorf("the rule %s occurs twice", r.ID)
		}
		known[r.ID] = r
		if severity(r.Severity) == "" || r.Title == "" || !strings.HasSuffix(r.Why, ".") ||
			strings.Trim(r.ID, "abcdefghijklmnopqrstuvwxyz-") != "" {
			t.Errorf("the rule %+v is not complete", r)
		}
	}
	seen := make(map[string]bool)
	for _, name := range goldenFiles(t) {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		silent := false
		for _, c := range goldens(t, archive) {
			findings := policy.Findings(c.document, c.kind)
			silent = silent || len(findings) == 0
			for _, f := range findings {
				seen[f.ID] = true
				if f.Rule != known[f.ID] {
					t.Errorf("%s: %s has the rule %+v, want %+v", name, c.name, f.Rule, known[f.ID])
				}
			}
		}
		if !silent {
			t.Errorf("%s has no case without findings", name)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if !seen[id] {
			t.Errorf("no golden file has a finding of the rule %s", id)
		}
	}
}

// worst returns the findings of the severity and above.
func worst(document string, kind policy.Kind, s policy.Severity) (found []policy.Finding) {
	for _, f := range policy.Findings([]byte(document), kind) {
		if f.Severity >= s {
			found = append(found, f)
		}
	}
	return found
}

func TestUsualTrustPoliciesAreFine(t *testing.T) {
	t.Parallel()
	const cluster = "oidc.eks.us-west-2.amazonaws.com/id/ABC"
	web := func(issuer string, conditions ...string) string {
		return trusts(`"Federated":"arn:aws:iam::111122223333:oidc-provider/`+issuer+`"`, "sts:AssumeRoleWithWebIdentity", conditions...)
	}
	equals := func(issuer, sub string) string {
		return `"StringEquals":{"` + issuer + `:aud":"sts.amazonaws.com","` + issuer + `:sub":` + sub + `}`
	}
	pods := func(condition string) string {
		return `{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":["sts:AssumeRole","sts:TagSession"]` + condition + `}`
	}
	const github = "token.actions.githubusercontent.com"
	for name, statement := range map[string]string{
		"IRSA":                              web(cluster, equals(cluster, `"system:serviceaccount:shop:orders"`)),
		"IRSA for several service accounts": web(cluster, equals(cluster, `["system:serviceaccount:shop:orders","system:serviceaccount:shop:bills"]`)),
		"IRSA with a local issuer":          web("127.0.0.1:4567/id/1", equals("127.0.0.1:4567/id/1", `"system:serviceaccount:shop:orders"`)),
		"Pod Identity":                      pods(""),
		"Pod Identity for one namespace":    pods(`,"Condition":{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"shop"}}`),
		"EC2":                               trusts(`"Service":"ec2.amazonaws.com"`, "sts:AssumeRole"),
		"Lambda":                            trusts(`"Service":"lambda.amazonaws.com"`, "sts:AssumeRole"),
		"the role's account":                trusts(`"AWS":"111122223333"`, "sts:AssumeRole"),
		"a role":                            trusts(`"AWS":"arn:aws:iam::111122223333:role/ci"`, "sts:AssumeRole"),
		"a third party":                     trusts(`"AWS":"444455556666"`, "sts:AssumeRole", `"StringEquals":{"sts:ExternalId":"7"}`),
		"an organization":                   trusts(`"AWS":"*"`, "sts:AssumeRole", `"StringEquals":{"aws:PrincipalOrgID":"o-a1b2c3d4e5"}`),
		"SAML": trusts(`"Federated":"arn:aws:iam::111122223333:saml-provider/idp"`, "sts:AssumeRoleWithSAML",
			`"StringEquals":{"SAML:aud":"https://signin.aws.amazon.com/saml"}`),
		"a repository's branches": web(github, `"StringEquals":{"`+github+`:aud":"sts.amazonaws.com"}`, `"StringLike":{"`+github+`:sub":"repo:octo/shop:*"}`),
	} {
		if got := worst(document(statement), policy.Trust, policy.Medium); len(got) > 0 {
			t.Errorf("%s:\n%s", name, listing(got))
		}
	}
}

func TestManagedPoliciesHaveNoHighFindings(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../internal/iam/managed/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("managed policies: %v, %v", files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := worst(string(text), policy.Identity, policy.High); len(got) > 0 {
			t.Errorf("%s:\n%s", name, listing(got))
		}
	}
}

// manyStatements returns a document of as many statements as fit.
func manyStatements(statement func(i int) string) string {
	var b strings.Builder
	b.WriteString(`{"Version":"2012-10-17","Statement":[`)
	for i := 0; ; i++ {
		s := statement(i)
		if b.Len()+len(s)+3 > policy.MaxDocument {
			return b.String() + `]}`
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(s)
	}
}

func TestLongDocuments(t *testing.T) {
	t.Parallel()
	list := func(format string, length int) string {
		var b strings.Builder
		for i := 0; b.Len() < length; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	stars := strings.Repeat("*a", 30_000)
	for name, c := range map[string]struct {
		kind policy.Kind
		text string
	}{
		"statements": {policy.Identity, manyStatements(func(i int) string { return allow(fmt.Sprintf("s3:Get%d*", i), "arn:aws:s3:::x/*") })},
		"actions": {policy.Identity, document(
			`{"Effect":"Allow","Action":[`+list(`"s3:a%d",`, 60_000)+`],"Resource":"*"}`,
			`{"Effect":"Allow","Action":[`+list(`"s3:b%d",`, 60_000)+`],"Resource":"*"}`)},
		"stars":     {policy.Identity, document(allow("s3:"+stars, "*"), allow("s3:"+stars+"b", "*"))},
		"dead ends": {policy.Identity, document(allow("s3:*"+strings.Repeat("a", 20_000)+"b", "*"), allow("s3:"+strings.Repeat("a", 60_000), "*"))},
		"keys": {policy.Identity, document(`{"Effect":"Allow","Action":[` + list(`"s3:a%d",`, 40_000) + `],"Resource":"*","Condition":{` +
			`"ForAllValues:StringEquals":{` + list(`"aws:PrincipleTag%d":"*",`, 40_000) + `},"StringLike":{` + list(`"iam:a%d":"*",`, 40_000) + `}}}`)},
		"values": {policy.Identity, document(allow("*", "*",
			`"StringEquals":{"aws:userid":[`+list(`"a%d",`, 60_000)+`]}`, `"StringLike":{"aws:userid":[`+list(`"b%d",`, 60_000)+`]}`))},
		"issuers": {policy.Trust, document(trusts(`"Federated":[`+list(`"arn:aws:iam::111122223333:oidc-provider/a%d.b",`, 60_000)+`]`,
			"sts:*", `"StringNotLike":{`+list(`"a%d.b:sub":"*",`, 60_000)+`}`))},
		"principals": {policy.Trust, document(
			trusts(`"AWS":[`+list(`"arn:aws:iam::111122223333:role/a%d",`, 60_000)+`]`, "sts:*"),
			trusts(`"AWS":[`+list(`"arn:aws:iam::111122223333:role/b%d",`, 60_000)+`]`, "sts:*"))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := policy.New("p", c.kind, []byte(c.text)); err != nil {
				t.Fatalf("%d bytes: %v", len(c.text), err)
			}
			policy.Findings([]byte(c.text), c.kind)
		})
	}
}

func FuzzFindings(f *testing.F) {
	files, err := filepath.Glob("testdata/findings/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if parts := strings.Split(file.Name, "."); len(parts) == 3 && kindsByName()[parts[1]] != 0 {
				f.Add(file.Data, int(kindsByName()[parts[1]]))
			}
		}
	}
	f.Add([]byte(`{"Statement":[null,{"Principal":{"AWS":[1,{}]},"Condition":{"Null":{"a":[[]]},":":{"":null}}}]}`), 2)
	f.Add([]byte("{\"Version\":\"2012-10-17\",\r\n\"Statement\":\xff"), 9)
	f.Add([]byte(` "a"`), 0)
	f.Fuzz(func(t *testing.T, doc []byte, number int) {
		kind := policy.Kind(number % 9)
		findings := policy.Findings(doc, kind)
		if diff := cmp.Diff(findings, policy.Findings(doc, kind)); diff != "" {
			t.Fatalf("%q has different findings when looked at again:\n%s", doc, diff)
		}
		_, err := policy.New("p", kind, doc)
		if got, want := count(findings, "malformed"), 1; err != nil && got != want {
			t.Fatalf("%q is refused: %v, and has %d findings that say so", doc, err, got)
		} else if err == nil && got != 0 {
			t.Fatalf("%q is taken, and findings say that it is not:\n%s", doc, listing(findings))
		}
		if !slices.IsSortedFunc(findings, func(a, b policy.Finding) int { return comparePositions(a.Start, b.Start) }) {
			t.Fatalf("the findings of %q are not in order:\n%s", doc, listing(findings))
		}
		for _, found := range findings {
			if found.Message == "" || found.ID == "" || !inside(doc, found.Start) || !inside(doc, found.End) ||
				comparePositions(found.Start, found.End) > 0 {
				t.Fatalf("%q has the finding %+v", doc, found)
			}
			if found.Fixed != "" {
				checkFix(t, golden{string(doc), kind, doc}, found, findings)
			}
		}
	})
}

func comparePositions(p, q policy.Position) int {
	return stdcmp.Or(stdcmp.Compare(p.Line, q.Line), stdcmp.Compare(p.Column, q.Column))
}

// inside reports whether the document has text up to the position.
func inside(doc []byte, p policy.Position) bool {
	lines := strings.Split(string(doc), "\n")
	if p.Line < 1 || p.Line > len(lines) || p.Column < 1 {
		return false
	}
	return !utf8.Valid(doc) || p.Column <= utf8.RuneCountInString(lines[p.Line-1])+1
}

func TestLongTextsAreCut(t *testing.T) {
	t.Parallel()
	doc := document(allow("s3:ListBucket", "*", `"StringEquals":{"aws:`+strings.Repeat("ü", 200)+`":"x","aws:x`+strings.Repeat("ü", 200)+`":"x"}`))
	findings := policy.Findings([]byte(doc), policy.Identity)
	if len(findings) != 2 {
		t.Fatalf("got\n%s", listing(findings))
	}
	for _, f := range findings {
		if !strings.Contains(f.Message, `ü…"`) || len(f.Message) > 250 || !utf8.ValidString(f.Message) {
			t.Errorf("got the message %q", f.Message)
		}
	}
}

// A document with many faults has a bounded number of corrected copies.
func TestFixesAreBounded(t *testing.T) {
	t.Parallel()
	doc := manyStatements(func(int) string { return allow("s3:*", "arn:aws:s3:::${aws:username}") })
	doc = strings.Replace(doc, "2012-10-17", "2008-10-17", 1)
	size, findings := 0, policy.Findings([]byte(doc), policy.Identity)
	for _, f := range findings {
		size += len(f.Fixed)
	}
	if most := 32 * len(doc); size == 0 || size > most || len(findings) < 1000 {
		t.Errorf("%d findings have %d bytes of fixes, want at most %d", len(findings), size, most)
	}
}
