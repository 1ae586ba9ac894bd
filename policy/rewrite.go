package policy

import "bytes"

// RewritePrincipals returns the document with every string of a Principal or NotPrincipal element, whose type
// ("AWS", "Federated", "Service", "CanonicalUser") is passed along, replaced by rewrite(type, value); all other text
// stays as it is. An error of rewrite is returned as it is; errors about the document are *Error.
//
// IAM keeps users and roles in trust policies by unique ID; this is how it goes there and back.
func RewritePrincipals(document []byte, rewrite func(typ, value string) (string, error)) ([]byte, error) {
	root, err := parse(document)
	if err != nil {
		return nil, err
	}
	strings, err := principalStrings(root)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	done := 0
	for _, p := range strings {
		value, err := rewrite(p.typ, p.value.text)
		if err != nil {
			return nil, err
		}
		if value == p.value.text {
			continue // keeps the way in which the document writes it
		}
		out.Write(document[done:p.value.start.offset])
		out.Write(quote(value))
		done = p.value.end.offset
	}
	out.Write(document[done:])
	return out.Bytes(), nil
}

type principalString struct {
	typ   string
	value *node
}

// principalStrings returns, in the order of the document, the strings in the objects of Principal and NotPrincipal.
func principalStrings(root *node) (found []principalString, err error) {
	malformed := func(n *node) error {
		return &Error{identityWording().syntax, "a principal was looked for where the document is malformed", n.start.line, n.start.column}
	}
	statement := root.member("Statement")
	if statement == nil {
		return nil, malformed(root)
	}
	for i := range statement.list() {
		s := &statement.list()[i]
		if s.typ != objectNode {
			return nil, malformed(s)
		}
		for j := range s.members {
			name, principal := s.members[j].name.text, &s.members[j].value
			if name != "Principal" && name != "NotPrincipal" || principal.typ == stringNode {
				continue
			}
			if principal.typ != objectNode {
				return nil, malformed(principal)
			}
			for k := range principal.members {
				typ, values := principal.members[k].name.text, principal.members[k].value.list()
				for l := range values {
					if values[l].typ != stringNode {
						return nil, malformed(&values[l])
					}
					found = append(found, principalString{typ, &values[l]})
				}
			}
		}
	}
	return found, nil
}

// list returns an array's elements, or a lone value as a list of one: IAM lets every list of one be written so.
func (n *node) list() []node {
	if n.typ == arrayNode {
		return n.elements
	}
	return []node{*n}
}
