// Package subject says whom a pod identity association is for: service accounts, by name or by pattern.
package subject

import (
	"cmp"
	"strings"
)

// Subject is a namespace and a service account, each a name or a pattern in which every * stands for any characters, also
// none. AWS has names only.
type Subject struct{ Namespace, ServiceAccount string }

// IsPattern reports whether the subject is more than one service account.
func (s Subject) IsPattern() bool { return isPattern(s.Namespace) || isPattern(s.ServiceAccount) }

func isPattern(s string) bool { return strings.Contains(s, "*") }

// Covers reports whether the subject includes a service account.
func (s Subject) Covers(who Subject) bool {
	return matches(s.Namespace, who.Namespace) && matches(s.ServiceAccount, who.ServiceAccount)
}

// Compare orders subjects: it is negative when a is more specific than b, and zero only when they are equal. The namespace
// counts before the service account. In each a name goes before a pattern, and a pattern with more literal characters before
// one with fewer; where this does not tell them apart, the texts do, so that everybody agrees.
func Compare(a, b Subject) int {
	return cmp.Or(
		moreLiteral(a.Namespace, b.Namespace),
		moreLiteral(a.ServiceAccount, b.ServiceAccount),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.ServiceAccount, b.ServiceAccount),
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

// matches reports whether a name matches a pattern. The leftmost match of each literal part is enough, since what follows
// can then only have more room.
func matches(pattern, name string) bool {
	part, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, part)
	for ok {
		if part, rest, wild = strings.Cut(rest, "*"); !wild {
			return strings.HasSuffix(name, part)
		}
		_, name, ok = strings.Cut(name, part)
	}
	return false
}
