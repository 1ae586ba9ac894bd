package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Severity says how bad a finding is.
type Severity int

// The severities, in rising order.
const (
	Low    Severity = iota + 1 // allowed, and probably not what was meant
	Medium                     // gives more than it seems to
	High                       // lets in whom nobody meant to let in, or is refused by IAM
)

// A Rule is a fault that Findings looks for.
type Rule struct {
	ID       string   // such as trust-without-subject; it never changes
	Severity Severity // of its findings
	Title    string   // one line
	Why      string   // why it matters, one or two sentences
}

// A Finding is a place in a document that has a fault.
type Finding struct {
	Rule       // which fault
	Message    string
	Statement  int    // its index in the document, from 0; -1 if the finding is about the whole document
	Sid        string // of the statement, if it has one
	Start, End Position
	Fixed      string // the whole document without the fault, where there is one right way to write it; else empty
}

// Findings returns the faults of a document that is used as a policy of the kind, in the order of their places. A document
// that New refuses has a finding that says so, besides those that can still be made out.
func Findings(document []byte, kind Kind) []Finding {
	a := analysis{document: document, kind: kind, rules: make(map[string]Rule)}
	for _, r := range Rules() {
		a.rules[r.ID] = r
	}
	if root, err := parse(document); err == nil {
		a.read(root)
		a.examine()
	}
	if _, err := New("", kind, document); err != nil {
		a.refusal(err)
	} else {
		a.covered()
	}
	return a.findings()
}

// An analysis is a document being looked at. It reads the document itself and not a Policy, since most of a document that
// New refuses can be understood nevertheless.
type analysis struct {
	document  []byte
	kind      Kind
	rules     map[string]Rule
	root      *node // nil if the document is not JSON
	version   *node // nil if the document has none
	variables bool  // the version has policy variables
	clauses   []clause
	found     []draft
}

// A draft is a finding whose fix has not been written out.
type draft struct {
	Finding
	edits []edit
}

// A clause is what can be made out of a statement. What has no meaning is left out of it.
type clause struct {
	index        int
	node         *node
	sid          string
	allow, deny  bool
	principal    *node // the value of Principal or NotPrincipal; nil if there is neither
	notPrincipal bool
	anyone       []*node           // the wildcards among the principals
	named        []principalString // the other principals
	action       *node             // the value of Action or NotAction
	notAction    bool
	actions      []actionText
	resource     *node // the value of Resource or NotResource; nil if there is neither
	notResource  bool
	resources    []resourceText
	condition    *node
	comparisons  []comparison
}

// An actionText is a string of an Action element.
type actionText struct {
	node    *node
	pattern actionPattern
}

// A resourceText is a string of a Resource element.
type resourceText struct {
	node     *node
	all      bool // the lone *
	isARN    bool
	variable bool // has policy variables, for which the last field has wildcards
	fields   [arnFields]pattern
}

// A comparison is one key of an operator in a Condition element.
type comparison struct {
	operator *node // the operator's name
	block    *node // all of its keys
	key      *node
	value    *node
	values   []*node // the strings, numbers and booleans of value
	folded   string  // the key as names are compared
	base     string  // the operator without a set operator and IfExists
	meaning  operator
	known    bool // the operator exists
}

// read reads the document's statements.
func (a *analysis) read(root *node) {
	a.root = root
	if root.typ != objectNode {
		return
	}
	a.version = root.member("Version")
	a.variables = a.version != nil && a.version.text == "2012-10-17"
	if statement := root.member("Statement"); statement != nil {
		list := statement.list()
		for i := range list {
			if list[i].typ == objectNode {
				a.clauses = append(a.clauses, a.clause(i, &list[i]))
			}
		}
	}
}

func (a *analysis) clause(index int, n *node) clause {
	c := clause{index: index, node: n}
	for i := range n.members {
		value := &n.members[i].value
		switch name := n.members[i].name.text; name {
		case "Sid":
			if value.typ == stringNode {
				c.sid = value.text
			}
		case "Effect":
			c.allow, c.deny = value.text == "Allow", value.text == "Deny"
		case "Principal", "NotPrincipal":
			c.principal, c.notPrincipal = value, name == "NotPrincipal"
			c.anyone, c.named = principalsOf(value)
		case "Action", "NotAction":
			c.action, c.notAction = value, name == "NotAction"
			for _, s := range stringsOf(value) {
				c.actions = append(c.actions, actionText{s, actionPatternOf(s.text)})
			}
		case "Resource", "NotResource":
			c.resource, c.notResource = value, name == "NotResource"
			for _, s := range stringsOf(value) {
				c.resources = append(c.resources, a.resource(s))
			}
		case "Condition":
			c.condition = value
			c.comparisons = comparisonsOf(value)
		}
	}
	return c
}

// stringsOf returns the strings of a value that should be a string or a list of them.
func stringsOf(n *node) (found []*node) {
	list := n.list()
	for i := range list {
		if list[i].typ == stringNode {
			found = append(found, &list[i])
		}
	}
	return found
}

func principalsOf(n *node) (anyone []*node, named []principalString) {
	if n.typ == stringNode && n.text == "*" {
		return []*node{n}, nil
	}
	for i := range n.members {
		typ := n.members[i].name.text
		for _, s := range stringsOf(&n.members[i].value) {
			if typ == "AWS" && s.text == "*" {
				anyone = append(anyone, s)
			} else {
				named = append(named, principalString{typ, s})
			}
		}
	}
	return anyone, named
}

func actionPatternOf(text string) actionPattern {
	if text == "*" {
		return makeActionPattern("*", "*")
	}
	vendor, name, _ := strings.Cut(text, ":")
	return makeActionPattern(vendor, name)
}

func (a *analysis) resource(n *node) resourceText {
	r := resourceText{node: n, all: n.text == "*"}
	fields, count := splitARN(n.text)
	r.isARN = count > arnService && fields[arnPrefix] == "arn"
	for i := count; i < arnFields; i++ {
		fields[i] = "*"
	}
	r.variable = a.variables && strings.Contains(fields[arnResource], "${")
	for i := range fields {
		r.fields[i] = makePattern(fields[i])
	}
	if r.variable {
		r.fields[arnResource] = a.pattern(fields[arnResource], anyRun)
	}
	return r
}

// pattern compiles text with wildcards, in which stand takes the place of each policy variable.
func (a *analysis) pattern(text string, stand byte) pattern {
	t, err := grammar{variables: a.variables, wildcards: true}.template(text)
	if err != nil || t.parts == nil {
		return makePattern(text)
	}
	var p pattern
	for i := range t.parts {
		if t.parts[i].key == "" {
			p = append(p, t.parts[i].text...)
		} else {
			p = append(p, stand)
		}
	}
	return p
}

func comparisonsOf(condition *node) (found []comparison) {
	for i := range condition.members {
		name, block := &condition.members[i].name, &condition.members[i].value
		meaning, err := parseOperator(name.text)
		for j := range block.members {
			c := comparison{
				operator: name, block: block, key: &block.members[j].name, value: &block.members[j].value,
				base: name.text, meaning: meaning, known: err == nil,
			}
			c.folded = foldKey(c.key.text)
			if _, base, ok := strings.Cut(c.base, ":"); ok {
				c.base = base
			}
			c.base = strings.TrimSuffix(c.base, "IfExists")
			list := c.value.list()
			for k := range list {
				if t := list[k].typ; t == stringNode || t == numberNode || t == booleanNode {
					c.values = append(c.values, &list[k])
				}
			}
			found = append(found, c)
		}
	}
	return found
}

// requires reports whether the comparison fails when its key is missing.
func (c *comparison) requires() bool {
	switch {
	case !c.known:
		return false
	case c.meaning.null:
		return !slices.ContainsFunc(c.values, func(n *node) bool { absent, ok := parseBool(n.text); return absent || !ok })
	case c.meaning.ifExists, c.meaning.quantifier == forAllValues:
		return false
	}
	return !c.meaning.negated || c.meaning.quantifier == forAnyValue
}

// selects reports whether the comparison says which values the key may have, rather than which it may not.
func (c *comparison) selects() bool { return c.known && !c.meaning.null && !c.meaning.negated }

// present reports whether the clause applies only to requests that have the key.
func (c *clause) present(folded string) bool {
	return slices.ContainsFunc(c.comparisons, func(x comparison) bool { return x.folded == folded && x.requires() })
}

// bounds reports whether the comparison leaves only requests whose key has one of its values.
func (c *clause) bounds(x *comparison) bool {
	return x.selects() && (x.requires() || c.present(x.folded))
}

// may reports whether the clause's actions contain one, given in lower case.
func (c *clause) may(vendor, name string) bool {
	for i := range c.actions {
		if p := &c.actions[i].pattern; p.vendor.matches(vendor) && p.name.matches(name) {
			return !c.notAction
		}
	}
	return c.notAction
}

// report notes a fault of a clause, or of the document if that is nil, which edits correct.
func (a *analysis) report(c *clause, id string, start, end position, edits []edit, format string, args ...any) {
	f := Finding{
		Rule: a.rules[id], Message: fmt.Sprintf(format, args...), Statement: -1,
		Start: Position{start.line, start.column}, End: Position{end.line, end.column},
	}
	if c != nil {
		f.Statement, f.Sid = c.index, c.sid
	}
	a.found = append(a.found, draft{f, edits})
}

// reportAt reports a fault of a node that has no fix.
func (a *analysis) reportAt(c *clause, id string, at *node, format string, args ...any) {
	a.report(c, id, at.start, at.end, nil, format, args...)
}

// reportOn reports a fault of a comparison that has no fix.
func (a *analysis) reportOn(c *clause, id string, x *comparison, format string, args ...any) {
	a.report(c, id, x.key.start, x.value.end, nil, format, args...)
}

// quoted is how messages show a text of the document, which may be long.
func quoted(text string) string {
	const most = 160 // bytes
	if len(text) > most {
		end := most
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "…"
	}
	return strconv.Quote(text)
}

// examine looks for all faults that can be made out whether or not New takes the document.
func (a *analysis) examine() {
	a.missingVersion()
	for i := range a.clauses {
		c := &a.clauses[i]
		a.negatedElements(c)
		a.everything(c)
		a.passRole(c)
		a.mismatches(c)
		a.anyPrincipal(c)
		a.anyValue(c)
		a.variablesWithoutVersion(c)
		a.comparisons(c)
		a.contradictions(c)
		if a.kind == Trust && c.allow && !c.notPrincipal {
			a.webIdentity(c)
			a.wholeAccounts(c)
		}
	}
	if a.kind == Trust {
		a.podIdentity()
	}
}

// refusal notes that New refuses the document with the error.
func (a *analysis) refusal(err error) {
	at := position{line: 1, column: 1}
	message := err.Error()
	var refused *Error
	if errors.As(err, &refused) {
		at.line, at.column = refused.Line, refused.Column
		message = refused.Message + " (" + refused.Detail + ")"
	}
	end, c := at, (*clause)(nil)
	if a.root != nil {
		end = a.root.startingAt(at).end
		for i := range a.clauses {
			if n := a.clauses[i].node; !before(at, n.start) && before(at, n.end) {
				c = &a.clauses[i]
			}
		}
	}
	a.report(c, "malformed", at, end, nil, "%s", message)
}

// startingAt returns the outermost node that begins at the line and column, or else the innermost that is around it.
func (n *node) startingAt(at position) *node {
	if n.start.line == at.line && n.start.column == at.column {
		return n
	}
	var children []*node
	for i := range n.members {
		children = append(children, &n.members[i].name, &n.members[i].value)
	}
	for i := range n.elements {
		children = append(children, &n.elements[i])
	}
	i := slices.IndexFunc(children, func(child *node) bool { return !before(at, child.start) && before(at, child.end) })
	if i < 0 {
		return n
	}
	return children[i].startingAt(at)
}

// before compares lines and columns.
func before(p, q position) bool {
	return p.line < q.line || p.line == q.line && p.column < q.column
}

// maxFixes bounds how many corrected documents are written: each is as long as the document.
const maxFixes = 32

// findings returns what was found, in order and without repetitions, with the fixes written out. A fix that New refuses, for
// another fault that the document has, is no fix.
func (a *analysis) findings() []Finding {
	slices.SortStableFunc(a.found, func(x, y draft) int {
		return cmp.Or(
			cmp.Compare(x.Start.Line, y.Start.Line), cmp.Compare(x.Start.Column, y.Start.Column),
			cmp.Compare(x.End.Line, y.End.Line), cmp.Compare(x.End.Column, y.End.Column),
			cmp.Compare(x.ID, y.ID), cmp.Compare(x.Message, y.Message))
	})
	var found []Finding
	fixes := 0
	for i := range a.found {
		f := a.found[i].Finding
		if i > 0 && f == a.found[i-1].Finding {
			continue
		}
		if edits := a.found[i].edits; edits != nil && fixes < maxFixes {
			fixes++
			fixed := apply(a.document, edits)
			if _, err := New("", a.kind, fixed); err == nil {
				f.Fixed = string(fixed)
			}
		}
		found = append(found, f)
	}
	return found
}
