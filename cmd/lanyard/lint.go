package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/policy"
)

// linting is what `lanyard lint` is asked.
type linting struct {
	kind     string
	severity string
	failOn   string
	fix      bool
	sarif    bool
	verbose  bool
}

func newLintCommand(c *cli) *cobra.Command {
	var l linting
	cmd := &cobra.Command{
		Use:   "lint {FILE | ROLE}…",
		Short: "Find faults in policy documents: what IAM refuses, and what lets in or allows more than was meant",
		Long: `Find faults in policy documents, in files or of roles.

A file holds one document as JSON; - is standard input. What kind of policy it is, --kind says; else statements with a Principal make it
a trust policy, or a resource policy if they have a Resource too, and all others an identity policy. An argument that is no file is a
role, by name or ARN: IAM is asked for its trust policy, its inline policies, and the managed policies of the account itself.

--fix rewrites files where there is one right way to write what has a fault. The exit status is 3 if there is a finding (after
rewriting) that is at least as severe as --fail-on says, and 1 if something cannot be read.`,
		Example: `  lanyard lint policies/*.json
  lanyard lint --kind trust --fail-on low --fix trust.json
  lanyard lint --sarif policies/*.json > lint.sarif
  lanyard lint dev-my-sa arn:aws:iam::111122223333:role/dev-s3-sa`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.lint(cmd.Context(), l, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&l.kind, "kind", "", "kind of policy in the files: "+strings.Join(kindNames(), ", ")+" (default: see above)")
	flags.StringVar(&l.severity, "severity", "low", "least severity to report, and to fix: low, medium or high")
	flags.StringVar(&l.failOn, "fail-on", "medium", "least severity that makes the exit status 3: low, medium, high or never")
	flags.BoolVar(&l.fix, "fix", false, "rewrite files without the faults that there is one way to mend")
	flags.BoolVar(&l.sarif, "sarif", false, "print SARIF 2.1.0, which code scanners and editors read")
	flags.BoolVarP(&l.verbose, "verbose", "v", false, "say what kind of policy each document is taken for")
	for flag, values := range map[string][]string{"kind": kindNames(), "severity": severityNames(), "fail-on": append(severityNames(), "never")} {
		cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

// linted is a document with its findings.
type linted struct {
	name     string // as findings are printed
	file     string // where it is; empty for standard input and for documents of roles
	role     string // the ARN of the role that it is of; empty for files
	kind     policy.Kind
	text     []byte
	findings []policy.Finding
}

// found is a finding as it is printed for programs.
type found struct {
	File      string          `json:"file"`
	Kind      string          `json:"kind"`
	ID        string          `json:"id"`
	Severity  string          `json:"severity"`
	Title     string          `json:"title"`
	Message   string          `json:"message"`
	Why       string          `json:"why"`
	Statement int             `json:"statement"`
	Sid       string          `json:"sid,omitempty"`
	Start     policy.Position `json:"start"`
	End       policy.Position `json:"end"`
	Fixed     string          `json:"fixed,omitempty"`
}

func (c *cli) lint(ctx context.Context, l linting, args []string) error {
	least, err := parseSeverity("severity", l.severity, severityNames())
	if err != nil {
		return err
	}
	failing, err := parseSeverity("fail-on", l.failOn, append(severityNames(), "never"))
	if err != nil {
		return err
	}
	documents, err := c.lintable(ctx, l, args)
	if err != nil {
		return err
	}
	failed := false
	for i := range documents {
		d := &documents[i]
		if l.fix {
			if err := c.fix(d, least); err != nil {
				return err
			}
		}
		all := policy.Findings(d.text, d.kind)
		failed = failed || slices.ContainsFunc(all, func(f policy.Finding) bool { return f.Severity >= failing })
		d.findings = slices.DeleteFunc(all, func(f policy.Finding) bool { return f.Severity < least })
	}
	if err := c.printFindings(l, documents); err != nil {
		return err
	}
	if failed {
		return exitNo
	}
	return nil
}

// lintable finds the documents that the arguments name.
func (c *cli) lintable(ctx context.Context, l linting, args []string) ([]linted, error) {
	kind := policy.Kind(0)
	if l.kind != "" {
		i := slices.Index(kindNames(), l.kind)
		if i < 0 {
			return nil, withHint(fmt.Errorf("unknown kind of policy %q", l.kind), "use --kind %s", strings.Join(kindNames(), ", --kind "))
		}
		kind = policy.Kind(i + 1)
	}
	read := c.reader()
	var documents []linted
	for _, a := range args {
		isFile, err := lintsFile(a)
		if err != nil {
			return nil, err
		}
		if !isFile {
			if l.fix {
				return nil, withHint(fmt.Errorf("the policies of role %s are not rewritten in IAM", a), "--fix is for files")
			}
			of, err := c.lintRole(ctx, a)
			if err != nil {
				return nil, err
			}
			documents = append(documents, of...)
			continue
		}
		if a == "-" && l.fix {
			return nil, withHint(errors.New("standard input cannot be rewritten"), "--fix is for files")
		}
		name, text, err := read(a)
		if err != nil {
			return nil, err
		}
		d := linted{name: name, kind: kind, text: text}
		if a != "-" {
			d.file = a
		}
		if d.kind == 0 {
			d.kind = guessKind(text)
		}
		if l.verbose {
			fmt.Fprintf(c.err, "%s: read as %s\n", d.name, kindText(d.kind))
		}
		documents = append(documents, d)
	}
	return documents, nil
}

// lintsFile tells files from roles, and refuses what is neither.
func lintsFile(name string) (bool, error) {
	if name == "-" {
		return true, nil
	}
	switch ext := strings.ToLower(filepath.Ext(name)); ext {
	case ".tf", ".tfvars", ".hcl", ".yaml", ".yml", ".ts", ".py":
		return false, withHint(fmt.Errorf("%s: %s files are not read", name, ext), "lint takes policy documents as JSON: "+
			"give it what your tool makes of the file, such as the policy in `terraform show -json`")
	}
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return false, withHint(fmt.Errorf("%s is a directory", name), "name the files: %s", filepath.Join(name, "*.json"))
	case err == nil:
		return true, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("read policy: %w", err)
	case roleName(name) == name && (strings.ContainsRune(name, '/') || filepath.Ext(name) == ".json"):
		return false, fmt.Errorf("read policy: %w", err)
	}
	return false, nil
}

// lintRole reads a role's documents, except the managed policies that AWS owns.
func (c *cli) lintRole(ctx context.Context, text string) ([]linted, error) {
	cfg, err := c.aws(ctx)
	if err != nil {
		return nil, err
	}
	name := roleName(text)
	r, err := readRole(ctx, iam.NewFromConfig(cfg), name)
	if err != nil {
		return nil, explainRole(err, text)
	}
	if name != text && text != r.arn.String() {
		return nil, withHint(fmt.Errorf("role %s is %s, not %s", name, r.arn, text), "give its name, or use credentials of the other account")
	}
	var documents []linted
	for _, d := range r.documents {
		if a, err := arn.Parse(d.name); err == nil && a.Account() == "aws" {
			continue
		}
		documents = append(documents, linted{name: r.called(d), role: r.arn.String(), kind: d.kind(), text: d.text})
	}
	return documents, nil
}

// maxFixes bounds how often one document is rewritten. What is left then is reported, as all is that cannot be mended.
const maxFixes = 1000

// fix mends a document's faults one by one, since mending one moves the others, and writes the file once.
func (c *cli) fix(d *linted, least policy.Severity) error {
	text := d.text
	var fixes []policy.Finding
	for len(fixes) < maxFixes {
		all := policy.Findings(text, d.kind)
		i := slices.IndexFunc(all, func(f policy.Finding) bool {
			return f.Severity >= least && f.Fixed != "" && f.Fixed != string(text)
		})
		if i < 0 {
			break
		}
		fixes = append(fixes, all[i])
		text = []byte(all[i].Fixed)
	}
	if len(fixes) == 0 {
		return nil
	}
	if err := replaceFile(d.file, text); err != nil {
		return fmt.Errorf("fix %s: %w", d.name, err)
	}
	d.text = text
	for _, f := range fixes {
		fmt.Fprintf(c.err, "%s: fixed %s: %s\n", d.name, f.ID, f.Message)
	}
	return nil
}

// replaceFile replaces what a file holds in one step. A symbolic link stays one.
func replaceFile(name string, text []byte) error {
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = cmp.Or(err, f.Chmod(info.Mode().Perm()), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// printFindings prints the findings: for people a line each, and why it matters below it.
func (c *cli) printFindings(l linting, documents []linted) error {
	switch {
	case l.sarif:
		log, err := newSARIF(documents)
		if err != nil {
			return err
		}
		e := json.NewEncoder(c.out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(log)
	case c.output != "table":
		all := []found{}
		for _, d := range documents {
			for _, f := range d.findings {
				all = append(all, found{
					File: d.name, Kind: kindName(d.kind), ID: f.ID, Severity: severityName(f.Severity), Title: f.Title, Message: f.Message, Why: f.Why,
					Statement: f.Statement, Sid: f.Sid, Start: f.Start, End: f.End, Fixed: f.Fixed,
				})
			}
		}
		return c.print(all, nil)
	}
	var b bytes.Buffer
	for _, d := range documents {
		for _, f := range d.findings {
			fmt.Fprintf(&b, "%s:%d:%d: %s %s: %s\n", d.name, f.Start.Line, f.Start.Column, severityName(f.Severity), f.ID, f.Message)
			if f.Why != "" {
				fmt.Fprintf(&b, "    %s\n", f.Why)
			}
		}
	}
	_, err := c.out.Write(b.Bytes())
	return err
}

// guessKind says what a document is for by what its statements have. What cannot be read is taken for an identity policy,
// the kind that most are.
func guessKind(text []byte) policy.Kind {
	var d struct{ Statement json.RawMessage }
	if json.Unmarshal(text, &d) != nil {
		return policy.Identity
	}
	var statements []map[string]json.RawMessage
	if json.Unmarshal(d.Statement, &statements) != nil {
		statements = make([]map[string]json.RawMessage, 1)
		if json.Unmarshal(d.Statement, &statements[0]) != nil {
			return policy.Identity
		}
	}
	has := func(names ...string) bool {
		return slices.ContainsFunc(statements, func(s map[string]json.RawMessage) bool {
			return slices.ContainsFunc(names, func(n string) bool { return s[n] != nil })
		})
	}
	switch {
	case !has("Principal", "NotPrincipal"):
		return policy.Identity
	case has("Resource", "NotResource"):
		return policy.Resource
	}
	return policy.Trust
}

// kindNames are the kinds of policy as flags name them, in the order of policy.Kind.
func kindNames() []string {
	return []string{"identity", "trust", "session", "resource", "boundary", "scp", "rcp"}
}

func kindName(k policy.Kind) string { return kindNames()[k-1] }

// kindText is a kind of policy in IAM's words.
func kindText(k policy.Kind) string {
	return [...]string{
		"an identity-based policy", "a role trust policy", "a session policy", "a resource-based policy", "a permissions boundary",
		"a service control policy", "a resource control policy",
	}[k-1]
}

// severityNames are the severities as flags name them, in the order of policy.Severity.
func severityNames() []string { return []string{"low", "medium", "high"} }

func severityName(s policy.Severity) string { return severityNames()[s-1] }

// parseSeverity reads a flag. Never is more than any finding's severity.
func parseSeverity(flag, text string, names []string) (policy.Severity, error) {
	i := slices.Index(names, text)
	if i < 0 {
		return 0, withHint(fmt.Errorf("unknown severity %q", text), "use --%s %s", flag, strings.Join(names, ", "))
	}
	return policy.Severity(i + 1), nil
}
