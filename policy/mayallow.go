package policy

import "strings"

// MayAllow reports whether some Allow statement of a policy that names principals is about the principal and the action,
// whatever its conditions say: whether the policy could ever let the principal do this. Deny statements are not looked
// at. It is for checking a policy when it is put to use, as EKS checks the trust policy of a role for pods; only
// EvaluateTrust and Evaluate decide.
func (p *Policy) MayAllow(principal *Principal, action string) bool {
	vendor, name, _ := strings.Cut(strings.ToLower(action), ":")
	for i := range p.statements {
		s := &p.statements[i]
		if !s.deny && s.reach(principal) != unnamed && s.actions.contains(vendor, name) {
			return true
		}
	}
	return false
}
