package main

import (
	"bytes"
	"cmp"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lanyard-id/lanyard/policy"
)

// The parts of a SARIF log (OASIS, "Static Analysis Results Interchange Format (SARIF) Version 2.1.0") that findings need.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name  string      `json:"name"`
		Rules []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID            string             `json:"id"`
		Short         sarifText          `json:"shortDescription"`
		Full          sarifText          `json:"fullDescription"`
		Configuration sarifConfiguration `json:"defaultConfiguration"`
		Properties    sarifProperties    `json:"properties"`
	}
	sarifConfiguration struct {
		Level string `json:"level"`
	}
	// sarifProperties are those that GitHub's code scanning reads of a rule: what is a security matter, and how grave, from 0 to 10.
	sarifProperties struct {
		Tags             []string `json:"tags"`
		SecuritySeverity string   `json:"security-severity"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations"`
		Fixes     []sarifFix      `json:"fixes,omitempty"`
	}
	// sarifLocation is a place in a file, or a document of IAM's, which is in none.
	sarifLocation struct {
		Physical *sarifPhysical `json:"physicalLocation,omitempty"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifLogical struct {
		Name          string `json:"name"`
		QualifiedName string `json:"fullyQualifiedName"`
		Kind          string `json:"kind"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn"`
		EndLine     int `json:"endLine"`
		EndColumn   int `json:"endColumn"` // behind the last character
	}
	sarifFix struct {
		Description sarifText     `json:"description"`
		Changes     []sarifChange `json:"artifactChanges"`
	}
	sarifChange struct {
		Artifact     sarifArtifact      `json:"artifactLocation"`
		Replacements []sarifReplacement `json:"replacements"`
	}
	sarifReplacement struct {
		Deleted  sarifRegion `json:"deletedRegion"`
		Inserted sarifText   `json:"insertedContent"`
	}
)

// newSARIF makes a log of findings. Files are named relative to the working directory where they are below it.
func newSARIF(documents []linted) (*sarifLog, error) {
	driver := sarifDriver{Name: "lanyard", Rules: []sarifRule{}}
	rules := policy.Rules()
	for _, r := range rules {
		driver.Rules = append(driver.Rules, sarifRule{
			ID: r.ID, Short: sarifText{r.Title}, Full: sarifText{r.Why}, Configuration: sarifConfiguration{sarifLevel(r.Severity)},
			Properties: sarifProperties{Tags: []string{"security"}, SecuritySeverity: securitySeverity(r.Severity)},
		})
	}
	run := sarifRun{Tool: sarifTool{driver}, ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the working directory: %w", err)
	}
	for _, d := range documents {
		artifact := sarifArtifact{fileURI(dir, cmp.Or(d.file, d.name))}
		for _, f := range d.findings {
			result := sarifResult{
				RuleID: f.ID, RuleIndex: slices.IndexFunc(rules, func(r policy.Rule) bool { return r.ID == f.ID }),
				Level: sarifLevel(f.Severity), Message: sarifText{f.Message},
			}
			location := sarifLocation{Physical: &sarifPhysical{artifact, sarifRegion{f.Start.Line, f.Start.Column, f.End.Line, f.End.Column}}}
			if d.role != "" {
				_, name, _ := strings.Cut(strings.TrimPrefix(d.name, "role/"), "/")
				location = sarifLocation{Logical: []sarifLogical{{Name: name, QualifiedName: d.role + "/" + name, Kind: "resource"}}}
			}
			result.Locations = []sarifLocation{location}
			if f.Fixed != "" && d.file != "" {
				result.Fixes = []sarifFix{{
					Description: sarifText{"Mend: " + f.Title},
					Changes:     []sarifChange{{artifact, []sarifReplacement{{wholeRegion(d.text), sarifText{f.Fixed}}}}},
				}}
			}
			run.Results = append(run.Results, result)
		}
	}
	return &sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}, nil
}

// fileURI is the name of a file as a URI: a relative one for those below the directory.
func fileURI(dir, name string) string {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	if below, err := filepath.Rel(dir, name); err == nil && filepath.IsLocal(below) {
		return (&url.URL{Path: filepath.ToSlash(below)}).String()
	}
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(name)}).String()
}

// wholeRegion is the region of all of a document.
func wholeRegion(text []byte) sarifRegion {
	last := text[bytes.LastIndexByte(text, '\n')+1:]
	return sarifRegion{1, 1, bytes.Count(text, []byte("\n")) + 1, utf8.RuneCount(last) + 1}
}

// sarifLevel is a severity as SARIF has it.
func sarifLevel(s policy.Severity) string {
	return [...]string{policy.Low: "note", policy.Medium: "warning", policy.High: "error"}[s]
}

// securitySeverity is a severity as a score, in the middle of the range that GitHub's code scanning calls by the same name.
func securitySeverity(s policy.Severity) string {
	return [...]string{policy.Low: "2.0", policy.Medium: "5.5", policy.High: "8.0"}[s]
}
