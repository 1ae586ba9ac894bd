package policy

import (
	"fmt"
	"slices"
	"strings"
)

// A Verdict is what policies say about a request, in the words of IAM's policy simulator.
type Verdict string

// The verdicts.
const (
	Allowed      Verdict = "allowed"
	ExplicitDeny Verdict = "explicitDeny" // a Deny statement applies
	ImplicitDeny Verdict = "implicitDeny" // no Allow statement applies
)

// An Explanation says why a request was decided as it was. It can be encoded as JSON.
type Explanation struct {
	Principal  string             `json:"principal"` // as error texts call it
	Action     string             `json:"action"`
	Resource   string             `json:"resource"`
	Verdict    Verdict            `json:"verdict"`
	Sentence   string             `json:"sentence"` // for a denial AWS's error text, else what allowed
	Layers     []LayerExplanation `json:"layers"`   // those that were asked, in the order of IAM's evaluation
	Missing    []string           `json:"missingContextKeys"`
	Statements int                `json:"statements"` // how many were looked at
}

// A LayerExplanation says what the policies of one type say.
type LayerExplanation struct {
	Layer      Layer                  `json:"layer"`
	Level      int                    `json:"level,omitempty"` // of the organization, from 1; else 0
	Verdict    Verdict                `json:"verdict"`
	Note       string                 `json:"note,omitempty"`    // why the layer's verdict is not its statements', such as root's implicit permission
	Decided    *int                   `json:"decided,omitempty"` // index in Statements of the one that decided; nil for an implicit denial
	Statements []StatementExplanation `json:"statements"`
}

// A StatementExplanation says whether a statement applies to the request and, if not, why.
type StatementExplanation struct {
	Policy    string    `json:"policy"`
	Sid       string    `json:"sid,omitempty"`
	Statement int       `json:"statement"` // its index in the document, from 0
	Effect    string    `json:"effect"`    // Allow or Deny
	Start     Position  `json:"start"`
	End       Position  `json:"end"` // behind its last character
	Applies   bool      `json:"applies"`
	Failed    *Mismatch `json:"failed,omitempty"` // the first element that does not fit the request; nil if the statement applies
}

// A Mismatch is an element of a statement that does not fit a request.
type Mismatch struct {
	Element  string   `json:"element"`            // Principal, Action, Resource, Condition, or one of the Not forms
	Operator string   `json:"operator,omitempty"` // of a condition, as written
	Key      string   `json:"key,omitempty"`      // of a condition, as written
	Want     []string `json:"want"`               // the document's values, as written
	Got      []string `json:"got"`                // the request's values
	Missing  bool     `json:"missing,omitempty"`  // the request does not have the condition's key
	Start    Position `json:"start"`              // of the element or of the condition's key
}

// A Position is a place in a document.
type Position struct {
	Line   int `json:"line"`   // from 1
	Column int `json:"column"` // from 1, in characters
}

// Explain decides as Evaluate does, and its Decision carries an Explanation.
func Explain(r *Request, p *Policies) Decision {
	var e evaluation
	d := e.evaluate(r, p)
	e.explain(&d, ResourceLayer, e.policies.Resource)
	return d
}

// ExplainTrust decides as EvaluateTrust does, and its Decision carries an Explanation.
func ExplainTrust(r *Request, trust *Policy, p *Policies) Decision {
	var e evaluation
	d := e.evaluateTrust(r, trust, p)
	e.explain(&d, TrustLayer, trust)
	return d
}

// explain gives the decision its explanation. The layer is the owner's, whose policy is given.
func (e *evaluation) explain(d *Decision, owner Layer, policy *Policy) {
	caller := &e.request.Principal
	x := &Explanation{
		Principal: caller.label(), Action: e.request.Action, Resource: e.request.Resource,
		Verdict: d.Verdict(), Sentence: d.Message(e.request), Missing: []string{},
	}
	if d.Allowed {
		x.Sentence = d.String()
	}
	x.Layers = e.explainLayers(owner, policy, d.Layer)
	seen := make(map[string]bool)
	for _, l := range x.Layers {
		x.Statements += len(l.Statements)
	}
	for _, key := range e.missing {
		if folded := foldKey(key); !seen[folded] {
			seen[folded] = true
			x.Missing = append(x.Missing, key)
		}
	}
	slices.Sort(x.Missing)
	d.Explanation = x
}

// explainLayers explains the layers that were asked, and the one that decided.
func (e *evaluation) explainLayers(owner Layer, policy *Policy, decided Layer) (layers []LayerExplanation) {
	p := &e.policies
	add := func(l Layer, level int, policies ...*Policy) {
		layers = append(layers, e.explainLayer(l, level, policies))
	}
	for i, level := range p.ResourceControl {
		add(ResourceControlLayer, i+1, level...)
	}
	for i, level := range p.ServiceControl {
		add(ServiceControlLayer, i+1, level...)
	}
	switch {
	case policy != nil:
		add(owner, 0, policy)
	case decided == owner:
		add(owner, 0)
	}
	if owner != ResourceLayer && p.Resource != nil {
		add(ResourceLayer, 0, p.Resource)
	}
	if kind := e.request.Principal.Kind; len(p.Identity) > 0 || kind.hasIdentityPolicies() && kind != Root {
		add(IdentityLayer, 0, p.Identity...)
	}
	if p.Boundary != nil {
		add(BoundaryLayer, 0, p.Boundary)
	}
	if p.Session != nil || e.request.Principal.Kind == Federated {
		add(SessionLayer, 0, p.Session...)
	}
	if decided == RootLayer {
		layers = append(layers, LayerExplanation{
			Layer: RootLayer, Verdict: Allowed, Note: "the account's root user may do everything that no policy denies",
			Statements: []StatementExplanation{},
		})
	}
	return layers
}

// explainLayer says what the policies of one layer, or of one level of an organization, say.
func (e *evaluation) explainLayer(l Layer, level int, policies []*Policy) LayerExplanation {
	x := LayerExplanation{Layer: l, Level: level, Verdict: ImplicitDeny, Statements: []StatementExplanation{}}
	if len(policies) == 0 {
		x.Note = "there is no policy"
	}
	farthest := unnamed
	for _, p := range policies {
		root, _ := parse([]byte(p.document)) // New has parsed it
		nodes := root.member("Statement").list()
		for i := range p.statements {
			s := &p.statements[i]
			r := e.reachIn(l, s)
			index := len(x.Statements)
			x.Statements = append(x.Statements, e.explainStatement(p, s, &nodes[i], r))
			if !x.Statements[index].Applies {
				continue
			}
			switch {
			case s.deny && x.Verdict != ExplicitDeny:
				x.Verdict, x.Decided = ExplicitDeny, &index
			case !s.deny && x.Verdict != ExplicitDeny && r > farthest:
				x.Verdict, x.Decided, farthest = Allowed, &index, r
			}
		}
	}
	if x.Verdict == Allowed && l.namesPrincipals() {
		x.Note = e.note(farthest)
	}
	return x
}

// namesPrincipals reports whether the layer's policies say whom they are about.
func (l Layer) namesPrincipals() bool { return l == ResourceLayer || l == TrustLayer }

// note says what else must allow when the allowance of a policy that names principals reaches so far.
func (e *evaluation) note(r reach) string {
	switch kind := e.request.Principal.Kind; {
	case !kind.hasIdentityPolicies():
	case e.foreign():
		return "the caller belongs to another account, so its own policies must allow too"
	case r == delegated:
		return "the account is named, so the caller's own policies must allow too"
	case r == limited:
		return "the caller's boundary and session policies must allow too"
	}
	return ""
}

// reachIn returns how a statement of the layer reaches the caller. Where policies do not name principals all statements
// reach it; but an Allow that names some was written for another use.
func (e *evaluation) reachIn(l Layer, s *statement) reach {
	switch {
	case l.namesPrincipals() || l == ResourceControlLayer:
		return s.reach(&e.request.Principal)
	case !s.deny && s.principals != nil:
		return unnamed
	}
	return direct
}

// explainStatement compares a statement, whose place in the document is the node, with the request.
func (e *evaluation) explainStatement(p *Policy, s *statement, n *node, r reach) StatementExplanation {
	x := StatementExplanation{
		Policy: p.name, Sid: s.sid, Statement: s.index, Effect: "Allow",
		Start: s.start.public(), End: s.end.public(),
	}
	if s.deny {
		x.Effect = "Deny"
	}
	if r == unnamed {
		x.Failed = e.failedPrincipal(n)
		return x
	}
	misfit := e.misfit(s)
	switch misfit {
	case actionMisfit:
		x.Failed = failedElement(n, "Action", e.request.Action)
		return x
	case resourceMisfit:
		x.Failed = failedElement(n, "Resource", e.request.Resource)
		e.missResource(s, x.Failed)
		return x
	case fits:
		x.Applies = true
	default:
		x.Failed = e.failedCondition(n, int(misfit-conditionMisfit))
	}
	for i := range s.conditions {
		e.missCondition(&s.conditions[i])
	}
	return x
}

// failedPrincipal tells that a statement does not name the caller.
func (e *evaluation) failedPrincipal(n *node) *Mismatch {
	m := failedElement(n, "Principal")
	caller := &e.request.Principal
	m.Got = append(m.Got, caller.label())
	if caller.RoleARN != "" {
		m.Got = append(m.Got, caller.RoleARN)
	}
	return m
}

// failedElement tells that the element of the name, or of that behind Not, does not fit what the request has.
func failedElement(n *node, name string, got ...string) *Mismatch {
	m := &Mismatch{Element: name, Want: []string{}, Got: got, Start: n.start.public()}
	for i := range n.members {
		switch member := &n.members[i]; member.name.text {
		case "Not" + name:
			m.Element = "Not" + name
			fallthrough
		case name:
			m.Start, m.Want = member.name.start.public(), member.value.texts()
		}
	}
	return m
}

// failedCondition tells that the condition of that index does not hold.
func (e *evaluation) failedCondition(n *node, index int) *Mismatch {
	var operator, key *member
	operators := n.member("Condition").members
	for i := range operators {
		keys := operators[i].value.members
		if index < len(keys) {
			operator, key = &operators[i], &keys[index]
			break
		}
		index -= len(keys)
	}
	m := &Mismatch{
		Element: "Condition", Operator: operator.name.text, Key: key.name.text,
		Want: key.value.texts(), Got: []string{}, Missing: true, Start: key.name.start.public(),
	}
	if entry := e.request.Context.find(foldKey(m.Key)); entry != nil {
		m.Got = append(m.Got, entry.values()...)
		m.Missing = len(m.Got) == 0
	}
	return m
}

// texts returns an element's values as they are written, each behind its type if they have types.
func (n *node) texts() []string {
	texts := []string{}
	for i := range n.members {
		for _, value := range n.members[i].value.list() {
			texts = append(texts, n.members[i].name.text+" "+value.text)
		}
	}
	if n.typ != objectNode {
		for _, value := range n.list() {
			texts = append(texts, value.text)
		}
	}
	return texts
}

// missResource notes the variables in a statement's resources that have no value.
func (e *evaluation) missResource(s *statement, m *Mismatch) {
	for i := range s.resources.list {
		for _, key := range s.resources.list[i].resource.unresolved(e.request.Context) {
			e.missing = append(e.missing, key)
			if !m.Missing {
				m.Missing, m.Key = true, key
			}
		}
	}
}

// missCondition notes what a condition asks for and the request does not have.
func (e *evaluation) missCondition(c *condition) {
	if entry := e.request.Context.find(c.folded); entry == nil || len(entry.values()) == 0 {
		e.missing = append(e.missing, c.key)
	}
	for _, o := range c.operands {
		if t, ok := o.(interface{ unresolved(*Context) []string }); ok {
			e.missing = append(e.missing, t.unresolved(e.request.Context)...)
		}
	}
}

// Tree renders the explanation for people: a line for the verdict, and below it the layers, their statements, and for each
// that does not apply the element that failed. It ends with a line end.
func (e *Explanation) Tree() string {
	var b strings.Builder
	if e.Verdict != Allowed {
		fmt.Fprintf(&b, "%s: ", e.Verdict)
	}
	b.WriteString(e.Sentence + "\n")
	for i := range e.Layers {
		e.Layers[i].write(&b)
	}
	fmt.Fprintf(&b, "  %s looked at\n", count(e.Statements, "statement"))
	if len(e.Missing) > 0 {
		fmt.Fprintf(&b, "  the request does not have: %s\n", strings.Join(e.Missing, ", "))
	}
	return b.String()
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (l *LayerExplanation) write(b *strings.Builder) {
	b.WriteString("  " + l.Layer.String())
	if l.Level > 0 {
		fmt.Fprintf(b, " (level %d)", l.Level)
	}
	fmt.Fprintf(b, ": %s", l.Verdict)
	if l.Note != "" {
		b.WriteString("; " + l.Note)
	}
	b.WriteByte('\n')
	for i := range l.Statements {
		l.Statements[i].write(b, l.Decided != nil && *l.Decided == i)
	}
}

func (s *StatementExplanation) write(b *strings.Builder, decided bool) {
	mark := " "
	if decided {
		mark = ">"
	}
	fmt.Fprintf(b, "  %s %s %d:%d %s", mark, s.Policy, s.Start.Line, s.Start.Column, s.Effect)
	if s.Sid != "" {
		b.WriteString(" " + s.Sid)
	}
	if s.Applies {
		b.WriteString(" applies\n")
		return
	}
	b.WriteString(" does not apply: " + s.Failed.String() + "\n")
}

// String says what the element is and what the request has, such as: "Condition StringEquals aws:username at 9:12 is ann; the
// request has bob".
func (m *Mismatch) String() string {
	var b strings.Builder
	b.WriteString(m.Element)
	if m.Operator != "" {
		b.WriteString(" " + m.Operator + " " + m.Key)
	}
	fmt.Fprintf(&b, " at %d:%d is %s", m.Start.Line, m.Start.Column, strings.Join(m.Want, " or "))
	switch {
	case m.Missing && m.Operator == "":
		b.WriteString("; the request does not have " + m.Key)
	case m.Missing:
		b.WriteString("; the request does not have it")
	default:
		b.WriteString("; the request has " + strings.Join(m.Got, ", "))
	}
	return b.String()
}

// Verdict returns the decision in the policy simulator's words.
func (d Decision) Verdict() Verdict {
	switch {
	case d.Allowed:
		return Allowed
	case d.Explicit:
		return ExplicitDeny
	}
	return ImplicitDeny
}
