package policy

import (
	"slices"
	"strings"
)

// ContextKeys returns the names of the condition keys that the policies refer to, in conditions and in policy variables, each
// once and as it is written first, sorted.
func ContextKeys(policies ...*Policy) []string {
	var names []string
	for _, p := range policies {
		for i := range p.statements {
			names = p.statements[i].appendKeys(names)
		}
	}
	seen := make(map[string]bool)
	names = slices.DeleteFunc(names, func(name string) bool {
		key := foldKey(name)
		again := seen[key]
		seen[key] = true
		return again
	})
	slices.SortFunc(names, strings.Compare)
	return names
}

// appendKeys appends the names of the statement's keys.
func (s *statement) appendKeys(names []string) []string {
	if s.resources != nil {
		for i := range s.resources.list {
			names = append(names, s.resources.list[i].resource.names()...)
		}
	}
	for i := range s.conditions {
		c := &s.conditions[i]
		names = append(names, c.key)
		for _, o := range c.operands {
			if t, ok := o.(interface{ names() []string }); ok {
				names = append(names, t.names()...)
			}
		}
	}
	return names
}
