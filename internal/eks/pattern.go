package eks

import (
	"cmp"
	"strings"
)

// Limits of the names of Kubernetes' objects: a namespace is a DNS label, a service account a DNS subdomain (RFC 1123).
const (
	maxNamespace      = 63
	maxServiceAccount = 253
)

// subject says whom an association is for: a namespace and a service account, each a name or a pattern. In a pattern
// every * stands for any characters, also none.
type subject struct{ namespace, serviceAccount string }

func isPattern(s string) bool { return strings.Contains(s, "*") }

func (p subject) isPattern() bool { return isPattern(p.namespace) || isPattern(p.serviceAccount) }

// covers reports whether the subject, as a pattern, includes a service account.
func (p subject) covers(namespace, serviceAccount string) bool {
	return matches(p.namespace, namespace) && matches(p.serviceAccount, serviceAccount)
}

// moreSpecific orders subjects: it is negative when a is more specific than b, and zero only when they are equal. The
// namespace counts before the service account. In each a name goes before a pattern, and a pattern with more literal
// characters before one with fewer; where this does not tell them apart, the texts do, so that all replicas agree.
func moreSpecific(a, b subject) int {
	return cmp.Or(
		moreLiteral(a.namespace, b.namespace),
		moreLiteral(a.serviceAccount, b.serviceAccount),
		cmp.Compare(a.namespace, b.namespace),
		cmp.Compare(a.serviceAccount, b.serviceAccount),
	)
}

func moreLiteral(a, b string) int {
	switch pa, pb := isPattern(a), isPattern(b); {
	case !pa && !pb:
		return 0
	case !pa:
		return -1
	case !pb:
		return 1
	}
	return cmp.Compare(literals(b), literals(a))
}

func literals(pattern string) int { return len(pattern) - strings.Count(pattern, "*") }

// matches reports whether a name matches a pattern. The leftmost match of each literal part is enough: whatever follows
// can then only have more room.
func matches(pattern, name string) bool {
	part, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == name
	}
	if !strings.HasPrefix(name, part) {
		return false
	}
	name = name[len(part):]
	for {
		part, rest, wild = strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
}

// checkSubject refuses names that Kubernetes cannot have, and patterns that no name can match.
func checkSubject(p subject) error {
	if !validName(p.namespace, maxNamespace, false) {
		return invalidParameter("The namespace %q is neither a Kubernetes namespace nor a pattern of such.", p.namespace)
	}
	if !validName(p.serviceAccount, maxServiceAccount, true) {
		return invalidParameter("The serviceAccount %q is neither a Kubernetes service account nor a pattern of such.", p.serviceAccount)
	}
	return nil
}

// validName reports whether s is a DNS label (or, with dots, a subdomain), or a pattern that has one among its matches.
// Two wildcards in a row are refused, so that no pattern can be written in two ways.
func validName(s string, limit int, dots bool) bool {
	if strings.Contains(s, "**") {
		return false
	}
	s = strings.ReplaceAll(s, "*", "x")
	if s == "" || len(s) > limit {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return dots || !strings.Contains(s, ".")
}
