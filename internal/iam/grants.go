package iam

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
)

// granted is what a report on services looks at in a policy document: whom its statements are about does not matter, nor
// under which conditions.
type granted struct {
	Statement oneOrMany[struct {
		Effect    string
		Action    oneOrMany[string]
		NotAction oneOrMany[string]
	}]
}

// oneOrMany is a list that may be written as its only element.
type oneOrMany[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *oneOrMany[T]) UnmarshalJSON(text []byte) error {
	var many []T
	if json.Unmarshal(text, &many) == nil {
		*l = many
		return nil
	}
	var one T
	if err := json.Unmarshal(text, &one); err != nil {
		return err
	}
	*l = []T{one}
	return nil
}

// readGrants reads a document that the policy engine took.
func readGrants(document string) granted {
	var g granted
	if err := json.Unmarshal([]byte(document), &g); err != nil {
		return granted{} // what cannot be read grants nothing
	}
	return g
}

// vendorOf is an action's service, in lower case.
func vendorOf(action string) string {
	vendor, _, _ := strings.Cut(action, ":")
	return strings.ToLower(vendor)
}

// reaches reports whether some statement allows an action of the service.
func (g granted) reaches(namespace string) bool {
	about := func(action string) bool {
		match, err := path.Match(vendorOf(action), namespace)
		return err == nil && match
	}
	wholly := func(action string) bool { return about(action) && (action == "*" || strings.HasSuffix(action, ":*")) }
	for _, st := range g.Statement {
		if st.Effect != "Allow" {
			continue
		}
		if slices.ContainsFunc(st.Action, about) || len(st.NotAction) > 0 && !slices.ContainsFunc(st.NotAction, wholly) {
			return true
		}
	}
	return false
}

// services are those that a report lists for a document: of what Lanyard serves, and what the document names, those that it
// reaches.
func (g granted) services() []string {
	list := servedNamespaces()
	for _, st := range g.Statement {
		for _, action := range st.Action {
			if v := vendorOf(action); !strings.ContainsAny(v, "*?[") {
				list = append(list, v)
			}
		}
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(namespace string) bool { return !g.reaches(namespace) })
}
