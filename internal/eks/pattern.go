package eks

import (
	"strings"

	"github.com/lanyard-id/lanyard/internal/subject"
)

// Limits of the names of Kubernetes' objects: a namespace is a DNS label, a service account a DNS subdomain (RFC 1123).
const (
	maxNamespace      = 63
	maxServiceAccount = 253
)

// checkSubject refuses names that Kubernetes cannot have, and patterns that no name can match.
func checkSubject(p subject.Subject) error {
	if !validName(p.Namespace, maxNamespace, false) {
		return invalidParameter("The namespace %q is neither a Kubernetes namespace nor a pattern of such.", p.Namespace)
	}
	if !validName(p.ServiceAccount, maxServiceAccount, true) {
		return invalidParameter("The serviceAccount %q is neither a Kubernetes service account nor a pattern of such.", p.ServiceAccount)
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
