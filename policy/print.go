package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Print returns a document in its canonical form: indented by two spaces; elements in the order of the IAM User Guide's
// grammar; statements in a list, in their order; a lone action, resource, principal or value without a list around it, several
// sorted and without repetitions; values as strings; principal types, condition operators and keys sorted. The result means what the document means, and printing it again changes nothing. It ends with a line end.
//
// A document need not be valid for any kind, but an element that no policy has is refused. Errors are *Error.
func Print(document []byte) ([]byte, error) {
	root, err := parse(document)
	if err != nil {
		return nil, err
	}
	var p printer
	p.object(root, []string{"Version", "Id", "Statement"}, p.element)
	if p.problem != nil {
		return nil, p.problem
	}
	var out bytes.Buffer
	_ = json.Indent(&out, p.out.Bytes(), "", "  ") // what the printer writes is JSON
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// statementElements are the elements of a statement in the order of the grammar.
func statementElements() []string {
	return []string{"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
}

// A printer writes the canonical form without white space. Where an element does not have the form that the grammar gives
// it, the printer writes it as it is.
type printer struct {
	out     bytes.Buffer
	problem *Error // the first element that no policy has
}

// object writes the members of an object that may have only the names given, in their order.
func (p *printer) object(n *node, names []string, value func(name string, n *node)) {
	if n.typ != objectNode {
		p.value(n)
		return
	}
	for i := range n.members {
		if name := &n.members[i].name; !slices.Contains(names, name.text) && p.problem == nil {
			p.problem = &Error{identityWording().syntax, fmt.Sprintf("unknown element %q", name.text), name.start.line, name.start.column}
		}
	}
	p.members(n, func(a, b string) int { return cmp.Compare(slices.Index(names, a), slices.Index(names, b)) }, value)
}

// members writes an object whose members are ordered by their names.
func (p *printer) members(n *node, order func(a, b string) int, value func(name string, n *node)) {
	sorted := slices.SortedStableFunc(slices.Values(n.members), func(a, b member) int { return order(a.name.text, b.name.text) })
	p.out.WriteByte('{')
	for i := range sorted {
		if i > 0 {
			p.out.WriteByte(',')
		}
		p.string(sorted[i].name.text)
		p.out.WriteByte(':')
		value(sorted[i].name.text, &sorted[i].value)
	}
	p.out.WriteByte('}')
}

// element writes the value of a document's or a statement's element.
func (p *printer) element(name string, n *node) {
	switch name {
	case "Statement":
		p.list(n.list(), func(n *node) { p.object(n, statementElements(), p.element) })
	case "Condition":
		p.values(n, func(n node) bool { return n.typ == stringNode || n.typ == numberNode || n.typ == booleanNode })
	default:
		p.values(n, func(n node) bool { return n.typ == stringNode })
	}
}

// values writes a value or a list of values, or objects of such. Only values of the types that may stand there become strings,
// so that what is wrong with a document stays wrong.
func (p *printer) values(n *node, mayBe func(node) bool) {
	list := n.list()
	switch {
	case n.typ == objectNode:
		p.members(n, strings.Compare, func(_ string, n *node) { p.values(n, mayBe) })
	case slices.ContainsFunc(list, func(n node) bool { return !mayBe(n) }):
		p.value(n)
	default:
		list = slices.SortedFunc(slices.Values(list), func(a, b node) int { return strings.Compare(a.text, b.text) })
		list = slices.CompactFunc(list, func(a, b node) bool { return a.text == b.text })
		if len(list) == 1 {
			p.string(list[0].text)
			return
		}
		p.list(list, func(n *node) { p.string(n.text) })
	}
}

func (p *printer) list(list []node, element func(*node)) {
	p.out.WriteByte('[')
	for i := range list {
		if i > 0 {
			p.out.WriteByte(',')
		}
		element(&list[i])
	}
	p.out.WriteByte(']')
}

// value writes any JSON as it is.
func (p *printer) value(n *node) {
	switch n.typ {
	case objectNode:
		p.members(n, func(string, string) int { return 0 }, func(_ string, n *node) { p.value(n) })
	case arrayNode:
		p.list(n.elements, p.value)
	case stringNode:
		p.string(n.text)
	case nullNode:
		p.out.WriteString("null")
	default:
		p.out.WriteString(n.text)
	}
}

func (p *printer) string(s string) { p.out.Write(quote(s)) }

// quote returns text as a JSON string.
func quote(text string) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // any text can be encoded
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// Size returns the size that IAM's quotas are held against: the characters that are not white space (IAM User Guide, "IAM
// and AWS STS quotas").
func Size(document []byte) int {
	n := 0
	for _, b := range document {
		if b != ' ' && b != '\t' && b != '\n' && b != '\r' && utf8.RuneStart(b) {
			n++
		}
	}
	return n
}
