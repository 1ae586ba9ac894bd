package iam

import (
	"strings"

	"github.com/lanyard-id/lanyard/arn"
)

// PrincipalID returns the unique ID of the user or role that has an ARN; root's is its account's. Whoever keeps an ARN should keep the ID
// with it: another user or role may come to have the ARN.
func (s *Service) PrincipalID(a arn.ARN) (string, bool) {
	if a.Service() != "iam" || a.Partition() != s.partition || a.Region() != "" {
		return "", false
	}
	kind, rest, _ := strings.Cut(a.Resource(), "/")
	_, name := splitPath("/" + rest)
	switch kind {
	case "root":
		_, ok := s.accounts.Get(a.Account())
		return a.Account(), ok && rest == ""
	case "user":
		if r, ok := s.users.Get(nameKey(a.Account(), name)); ok && s.userARN(&r.entity) == a.String() {
			return r.ID, true
		}
	case "role":
		if r, ok := s.roles.Get(nameKey(a.Account(), name)); ok && s.roleARN(&r.entity) == a.String() {
			return r.ID, true
		}
	}
	return "", false
}

// PrincipalARN is the way back: the ARN of the user or role with a unique ID, or of an account's root; empty when there is none.
func (s *Service) PrincipalARN(id string) string {
	if !arn.ValidAccountID(id) {
		return s.arnOfID(id)
	}
	if _, ok := s.accounts.Get(id); !ok {
		return ""
	}
	return arn.New(s.partition, "iam", "", id, "root").String()
}
