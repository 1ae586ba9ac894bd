package policy

import (
	"strings"

	"github.com/lanyard-id/lanyard/arn"
)

// PrincipalKind says what kind of principal makes a request.
type PrincipalKind int

// The kinds of principal.
const (
	Anonymous   PrincipalKind = iota
	Root                      // an account's root user
	User                      // an IAM user
	RoleSession               // a session of a role
	Federated                 // a federated user session (GetFederationToken)
	Service                   // an AWS service, by its service principal
	WebIdentity               // the bearer of an OIDC token, by its provider
)

// hasIdentityPolicies reports whether principals of the kind belong to an account, whose policies bear on them.
func (k PrincipalKind) hasIdentityPolicies() bool {
	return k == Root || k == User || k == RoleSession || k == Federated
}

// Principal is who makes a request.
type Principal struct {
	Kind    PrincipalKind
	Account string // account ID; empty for services and web identities
	ARN     string // of the user, role session, federated user or root: what error texts print
	RoleARN string // RoleSession: the role
	ID      string // unique ID (AIDA…, AROA…) of the user or role; trust policies name principals by it
	Name    string // Service: service principal such as pods.eks.amazonaws.com. WebIdentity: the provider's ARN
}

// A reach says how far the allowance of a policy that names principals goes, by how it names the caller (IAM User
// Guide, "Determining whether a request is allowed or denied within an account").
type reach int

const (
	unnamed   reach = iota // it does not name the caller
	delegated              // it names the caller's account: the caller's own policies must allow too
	limited                // it names the role: the session is still within its boundary and session policies
	direct                 // it names the user or session itself
)

type principalType int

const (
	anyone       principalType = iota // "*"
	anyOfAccount                      // "*" of a trust policy's Allow: whoever belongs to some account
	wholeAccount
	byARN
	byUniqueID
	byService
	byProvider
)

// A principalName is one string of a Principal element.
type principalName struct {
	typ  principalType
	name string // account ID, ARN, unique ID, or service principal
}

// reach returns how the name reaches the principal.
func (n *principalName) reach(p *Principal) reach {
	switch n.typ {
	case anyone:
		return limited
	case anyOfAccount:
		if p.Kind.hasIdentityPolicies() {
			return limited
		}
	case wholeAccount:
		if p.Kind == Root && p.Account == n.name {
			return direct
		}
		if p.Kind.hasIdentityPolicies() && p.Account == n.name {
			return delegated
		}
	case byARN:
		if (p.Kind == User || p.Kind == RoleSession || p.Kind == Federated) && p.ARN == n.name {
			return direct
		}
		if p.Kind == RoleSession && p.RoleARN == n.name {
			return limited
		}
	case byUniqueID:
		if p.Kind == User && p.ID == n.name {
			return direct
		}
		if (p.Kind == RoleSession || p.Kind == Federated) && p.ID == n.name {
			return limited
		}
	case byService:
		if p.Kind == Service && p.Name == n.name {
			return direct
		}
	case byProvider:
		if p.Kind == WebIdentity && p.Name == n.name {
			return direct
		}
	}
	return unnamed
}

type principalSet struct {
	not  bool // NotPrincipal: all but those that the names reach
	list []principalName
}

// reach returns the farthest reach of the set's names.
func (s *principalSet) reach(p *Principal) reach {
	farthest := unnamed
	for i := range s.list {
		farthest = max(farthest, s.list[i].reach(p))
	}
	switch {
	case !s.not:
		return farthest
	case farthest == unnamed:
		return direct
	}
	return unnamed
}

// reach returns how the statement of a policy that names principals reaches one. A wildcard reaches a session as its
// role's name would, unless a condition on aws:PrincipalArn picks the principal. A statement that names nobody, of a
// policy that was compiled for another use, denies everybody and allows nobody.
func (s *statement) reach(p *Principal) reach {
	if s.principals == nil {
		if s.deny {
			return direct
		}
		return unnamed
	}
	r := s.principals.reach(p)
	if r == limited && s.principals.hasWildcard() && s.namesPrincipalInCondition() {
		return direct
	}
	return r
}

func (s *principalSet) hasWildcard() bool {
	for i := range s.list {
		if s.list[i].typ == anyone || s.list[i].typ == anyOfAccount {
			return true
		}
	}
	return false
}

// parseAWSPrincipal reads a string of the AWS type: an account, a user, a role, a session, or a unique ID. The
// wildcard is not among them.
func parseAWSPrincipal(s string) (principalName, bool) {
	if arn.ValidAccountID(s) {
		return principalName{wholeAccount, s}, true
	}
	if isUniqueID(s) {
		return principalName{byUniqueID, s}, true
	}
	a, err := arn.Parse(s)
	if err != nil || a.Region() != "" || !arn.ValidAccountID(a.Account()) || strings.ContainsAny(s, "*?") {
		return principalName{}, false
	}
	if _, ok := arn.PartitionNamed(a.Partition()); !ok {
		return principalName{}, false
	}
	if a.Service() == "iam" && a.Resource() == "root" {
		return principalName{wholeAccount, a.Account()}, true
	}
	typ, name, _ := strings.Cut(a.Resource(), "/")
	switch {
	case name == "" || strings.HasSuffix(name, "/"):
		return principalName{}, false
	case a.Service() == "iam" && (typ == "user" || typ == "role"):
		return principalName{byARN, s}, true
	case a.Service() == "sts" && typ == "federated-user":
		return principalName{byARN, s}, true
	case a.Service() == "sts" && typ == "assumed-role" && strings.Count(name, "/") == 1:
		return principalName{byARN, s}, true
	}
	return principalName{}, false
}

// isUniqueID reports whether s has the form of a user's or role's unique ID.
func isUniqueID(s string) bool {
	const shortest, longest = 16, 128 // the IAM service model's limits for IDs
	if len(s) < shortest || len(s) > longest {
		return false
	}
	if !strings.HasPrefix(s, string(arn.UserID)) && !strings.HasPrefix(s, string(arn.RoleID)) {
		return false
	}
	for _, b := range []byte(s) {
		if !isDigit(b) && (b < 'A' || b > 'Z') {
			return false
		}
	}
	return true
}

// parseProvider reads a string of the Federated type: the ARN of an OIDC or SAML provider, or the domain name of a
// provider that IAM knows by itself.
func parseProvider(s string) (principalName, bool) {
	a, err := arn.Parse(s)
	if err != nil {
		return principalName{byProvider, s}, isDomainName(s)
	}
	typ, name, _ := strings.Cut(a.Resource(), "/")
	_, ok := arn.PartitionNamed(a.Partition())
	ok = ok && a.Service() == "iam" && a.Region() == "" && arn.ValidAccountID(a.Account()) &&
		(typ == "oidc-provider" || typ == "saml-provider") && name != "" && !strings.ContainsAny(s, "*?")
	return principalName{byProvider, s}, ok
}

// isDomainName reports whether s has at least two labels of letters, digits and hyphens.
func isDomainName(s string) bool {
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if label == "" {
			return false
		}
		for _, b := range []byte(label) {
			if !isDigit(b) && b != '-' && (b|0x20 < 'a' || b|0x20 > 'z') {
				return false
			}
		}
	}
	return len(labels) > 1
}
