package policy

// A statement is compiled: what evaluation needs, in the order in which it looks.
type statement struct {
	deny       bool
	principals *principalSet // nil when there is neither Principal nor NotPrincipal
	actions    actionSet
	resources  *resourceSet // nil when there is neither Resource nor NotResource
	conditions []condition

	index      int
	sid        string
	start, end position // of its object in the document
}

// namesPrincipalInCondition reports whether a condition requires the key aws:PrincipalArn to have one of certain values.
func (s *statement) namesPrincipalInCondition() bool {
	for i := range s.conditions {
		c := &s.conditions[i]
		if c.folded == "aws:principalarn" && c.null == nil && !c.negated && !c.ifExists && c.quantifier != forAllValues {
			return true
		}
	}
	return false
}
