// Package policy is the IAM policy language: it parses, validates, compiles and evaluates policy documents, says why it
// decided as it did, prints documents in canonical form, and finds the faults in them. It does no I/O, imports the standard
// library and package arn only, and is safe for concurrent use.
//
// New compiles a document, once. Evaluate and EvaluateTrust decide requests; Explain and ExplainTrust do the same and say why.
// Findings looks at a document as a reviewer would.
//
// The rules are those of the IAM User Guide, "IAM JSON policy reference" and "Policy evaluation logic". What the
// package does not understand it refuses when a document is compiled, so that no statement is ever skipped.
package policy

import "fmt"

// MaxDocument is the longest document that New and RewritePrincipals read, in bytes (the IAM service model's limit).
// The smaller quotas for each kind of policy are for the services to check.
const MaxDocument = 131_072

// Kind is the use that a document is put to; it decides which elements it may have and how large it may be.
type Kind int

// The kinds of policy.
const (
	Identity        Kind = iota + 1 // inline or managed policy of a user or role
	Trust                           // a role's AssumeRolePolicyDocument
	Session                         // passed when assuming a role
	Resource                        // attached to a resource
	Boundary                        // permissions boundary
	ServiceControl                  // Organizations SCP
	ResourceControl                 // Organizations RCP
)

// takesPrincipals reports whether statements of the kind name principals.
func (k Kind) takesPrincipals() bool { return k == Trust || k == Resource || k == ResourceControl }

// Policy is a document that was parsed, validated for its kind, and compiled. It is immutable.
type Policy struct {
	name       string
	kind       Kind
	statements []statement
	document   string
}

// New parses, validates and compiles a document. The name appears in decisions (an ARN, or an inline policy's name).
// Errors about the document are *Error, with AWS's MalformedPolicyDocument text.
//
// A managed policy is compiled as Identity wherever it is used: as a boundary and as a session policy too.
func New(name string, kind Kind, document []byte) (*Policy, error) {
	if kind < Identity || kind > ResourceControl {
		return nil, fmt.Errorf("compile policy %s: kind %d is not one of the kinds of policy", name, kind)
	}
	root, err := parse(document)
	if err != nil {
		return nil, err
	}
	c := compiler{kind: kind}
	statements := c.document(root)
	if c.problem != nil {
		return nil, c.problem
	}
	return &Policy{name: name, kind: kind, statements: statements, document: string(document)}, nil
}

// Name returns the name that New was given.
func (p *Policy) Name() string { return p.name }

// Kind returns the kind that the policy was compiled for.
func (p *Policy) Kind() Kind { return p.kind }

// Error says why a document was refused. Message is AWS's text where it is known.
type Error struct {
	Message string
	Detail  string // what is wrong in particular, for people; AWS does not say it
	Line    int    // 1-based
	Column  int    // 1-based, in characters
}

// Error returns the message without the place, as AWS prints it.
func (e *Error) Error() string { return e.Message }
