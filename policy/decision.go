package policy

import (
	"fmt"
	"strings"
)

// Layer names the type of policy that decided.
type Layer int

// The layers, in the order of IAM's evaluation.
const (
	NoLayer Layer = iota
	ResourceControlLayer
	ServiceControlLayer
	ResourceLayer
	IdentityLayer
	BoundaryLayer
	SessionLayer
	TrustLayer
	RootLayer // the root user's implicit permission

	layerCount = iota
)

// String returns the type of policy in IAM's words, such as "identity-based policy".
func (l Layer) String() string {
	switch l {
	case ResourceControlLayer:
		return "resource control policy"
	case ServiceControlLayer:
		return "service control policy"
	case ResourceLayer:
		return "resource-based policy"
	case IdentityLayer:
		return "identity-based policy"
	case BoundaryLayer:
		return "permissions boundary"
	case SessionLayer:
		return "session policy"
	case TrustLayer:
		return "role trust policy"
	case RootLayer:
		return "root user"
	}
	return "policy"
}

// MarshalText returns what String does, for JSON.
func (l Layer) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Decision is the answer. The zero Decision denies.
type Decision struct {
	Allowed   bool
	Explicit  bool   // denied by a Deny statement
	Layer     Layer  // which type of policy decided
	Action    string // what was asked for
	Policy    string // the name of the deciding statement's policy, when one decided
	Sid       string // its Sid, if it has one
	Statement int    // its index, from 0
	Line      int    // its place in the document, 1-based; 0 when no statement decided
	Column    int

	Explanation *Explanation // why; nil unless Explain or ExplainTrust was asked
}

// Message is AWS's sentence for a denial: "User: ARN is not authorized to perform: …", with the resource unless it is
// "*" or empty, and the reason (IAM User Guide, "Troubleshoot access denied error messages"). It is empty when the
// decision allows.
func (d Decision) Message(r *Request) string {
	if d.Allowed {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "User: %s is not authorized to perform: %s", r.Principal.label(), r.Action)
	if r.Resource != "" && r.Resource != "*" {
		b.WriteString(" on resource: " + r.Resource)
	}
	switch {
	case d.Explicit && d.Layer == TrustLayer:
		b.WriteString(" with an explicit deny in the role trust policy")
	case d.Explicit:
		b.WriteString(" with an explicit deny in " + article(d.Layer) + " " + d.Layer.String())
	case d.Layer != NoLayer:
		fmt.Fprintf(&b, " because no %s allows the %s action", d.Layer, r.Action)
	}
	return b.String()
}

func article(l Layer) string {
	if l == IdentityLayer {
		return "an"
	}
	return "a"
}

// label is how error texts call the principal.
func (p *Principal) label() string {
	switch {
	case p.ARN != "":
		return p.ARN
	case p.Name != "":
		return p.Name
	}
	return "anonymous"
}

// String says for logs and audit events what decided, such as: "denied: no identity-based policy allows s3:GetObject",
// or "allowed by statement 0 (Sid ReadOwn) of role-policy at 4:7".
func (d Decision) String() string {
	verdict := "denied"
	if d.Allowed {
		verdict = "allowed"
	}
	switch {
	case d.Line > 0:
		sid := ""
		if d.Sid != "" {
			sid = " (Sid " + d.Sid + ")"
		}
		return fmt.Sprintf("%s by statement %d%s of %s at %d:%d", verdict, d.Statement, sid, d.Policy, d.Line, d.Column)
	case d.Layer == NoLayer:
		return verdict
	case d.Allowed:
		return "allowed: the account's root user may do everything"
	}
	return fmt.Sprintf("denied: no %s allows %s", d.Layer, d.Action)
}
