package policy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

// The naive evaluator below decides requests from the documents' text, word by word as the IAM User Guide has it and
// with no thought of speed. Requests and policies made at random must have the same answer from both.

// literalStar stands for a * that came out of a variable.
const literalStar = '\ue000'

func naiveMatch(pattern, text []rune) bool {
	switch {
	case len(pattern) == 0:
		return len(text) == 0
	case pattern[0] == '*':
		return naiveMatch(pattern[1:], text) || len(text) > 0 && naiveMatch(pattern, text[1:])
	case len(text) == 0:
		return false
	case pattern[0] == '?' || pattern[0] == text[0] || pattern[0] == literalStar && text[0] == '*':
		return naiveMatch(pattern[1:], text[1:])
	}
	return false
}

// naiveValues is a request's context: values by key in lower case, and which keys have one value only.
type naiveValues map[string][]string

// substitute puts in the variables' values.
func (v naiveValues) substitute(s string) (string, bool) {
	for {
		before, rest, found := strings.Cut(s, "${")
		if !found {
			return s, true
		}
		key, after, _ := strings.Cut(rest, "}")
		values := v[strings.ToLower(key)]
		if len(values) != 1 || strings.Contains(key, "list") {
			return "", false
		}
		s = before + strings.ReplaceAll(values[0], "*", string(literalStar)) + after
	}
}

func naiveList(v any) (list []string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			list = append(list, naiveList(e)...)
		}
	case nil:
	default:
		list = []string{fmt.Sprint(v)}
	}
	return list
}

func naiveARN(pattern, name string, values naiveValues) bool {
	if pattern == "*" {
		return true
	}
	p, n := strings.SplitN(pattern, ":", 6), strings.SplitN(name, ":", 6)
	if len(n) < 6 {
		return false
	}
	for i := range p {
		text, ok := values.substitute(p[i])
		if !ok || !naiveMatch([]rune(text), []rune(n[i])) {
			return false
		}
	}
	return true
}

func naiveCompare(operator, want, got string, values naiveValues) bool {
	switch operator {
	case "StringEquals", "StringNotEquals":
		text, ok := values.substitute(want)
		return ok && strings.ReplaceAll(text, string(literalStar), "*") == got
	case "StringLike", "StringNotLike":
		text, ok := values.substitute(want)
		return ok && naiveMatch([]rune(text), []rune(got))
	case "NumericLessThan":
		w, err1 := strconv.ParseFloat(want, 64)
		g, err2 := strconv.ParseFloat(got, 64)
		return err1 == nil && err2 == nil && g < w
	case "Bool":
		return strings.EqualFold(want, got)
	}
	panic("unknown operator " + operator)
}

func naiveCondition(name, key string, wants []string, values naiveValues) bool {
	got := values[strings.ToLower(key)]
	if name == "Null" {
		for _, w := range wants {
			if (w == "true") == (len(got) == 0) {
				return true
			}
		}
		return false
	}
	operator := name
	set := ""
	if before, after, found := strings.Cut(operator, ":"); found {
		set, operator = before, after
	}
	operator, ifExists := strings.CutSuffix(operator, "IfExists")
	negated := strings.Contains(operator, "Not")
	if len(got) == 0 {
		if ifExists || set == "ForAllValues" {
			return true
		}
		return set == "" && negated
	}
	matching := 0
	for _, g := range got {
		listed := false
		for _, w := range wants {
			listed = listed || naiveCompare(operator, w, g, values)
		}
		if listed != negated {
			matching++
		}
	}
	if set == "ForAllValues" {
		return matching == len(got)
	}
	return matching > 0
}

// naiveReach says how a principal's string reaches the caller: 0 not, 1 its account, 2 its role, 3 itself.
func naiveReach(name string, p policy.Principal) int {
	switch {
	case name == p.ARN:
		return 3
	case p.Kind == policy.User && name == p.ID:
		return 3
	case name == "*", name == p.ID && p.ID != "", name == p.RoleARN && p.RoleARN != "":
		return 2
	case name == p.Account && p.Account != "", name == "arn:aws:iam::"+p.Account+":root":
		return 1
	}
	return 0
}

// naiveSays evaluates a document: whether it denies, and how far its farthest allowance reaches; documents without
// principals reach 3.
func naiveSays(t *testing.T, doc string, r *policy.Request, values naiveValues) (denies bool, allows int) {
	t.Helper()
	var d struct{ Statement []map[string]any }
	if err := json.Unmarshal([]byte(doc), &d); err != nil {
		t.Fatal(err)
	}
	for _, s := range d.Statement {
		action := false
		for _, a := range append(naiveList(s["Action"]), naiveList(s["NotAction"])...) {
			action = action || naiveMatch([]rune(strings.ToLower(a)), []rune(strings.ToLower(r.Action)))
		}
		resource, unresolved := false, false
		for _, a := range append(naiveList(s["Resource"]), naiveList(s["NotResource"])...) {
			resource = resource || naiveARN(a, r.Resource, values)
			_, ok := values.substitute(a)
			unresolved = unresolved || !ok && naiveARN(a[:strings.Index(a, "${")]+"*", r.Resource, values)
		}
		if s["NotAction"] != nil {
			action = !action
		}
		if s["NotResource"] != nil {
			resource = !resource && (s["Effect"] == "Deny" || !unresolved)
		}
		applies := action && resource
		for name, block := range s["Condition"].(map[string]any) {
			for key, wants := range block.(map[string]any) {
				applies = applies && naiveCondition(name, key, naiveList(wants), values)
			}
		}
		reach := 3
		if s["Principal"] != nil {
			reach = 0
			for _, name := range naiveList(s["Principal"].(map[string]any)["AWS"]) {
				reach = max(reach, naiveReach(name, r.Principal))
			}
		}
		if applies && reach > 0 {
			if s["Effect"] == "Deny" {
				denies = true
			} else {
				allows = max(allows, reach)
			}
		}
	}
	return denies, allows
}

// naivePolicies are the documents that bear on a request; an empty string is no document.
type naivePolicies struct{ identity, boundary, session, resource, scp string }

func naiveEvaluate(t *testing.T, r *policy.Request, p naivePolicies, values naiveValues) bool {
	t.Helper()
	ask := func(doc string) (bool, int) {
		if doc == "" {
			return false, 0
		}
		return naiveSays(t, doc, r, values)
	}
	identityDenies, identity := ask(p.identity)
	boundaryDenies, boundary := ask(p.boundary)
	sessionDenies, session := ask(p.session)
	resourceDenies, resource := ask(p.resource)
	scpDenies, scp := ask(p.scp)
	if identityDenies || boundaryDenies || sessionDenies || resourceDenies || scpDenies {
		return false
	}
	if p.scp != "" && scp == 0 {
		return false
	}
	within := (p.boundary == "" || boundary > 0) && (p.session == "" || session > 0)
	if r.ResourceAccount != r.Principal.Account {
		return resource > 0 && identity > 0 && within
	}
	return resource == 3 || resource == 2 && within || identity > 0 && within
}

// A world makes requests and policies from a few words that often meet.
type world struct{ *rand.Rand }

func (w world) pick(words ...string) string { return words[w.IntN(len(words))] }

func (w world) some(words ...string) string {
	if w.IntN(2) == 0 {
		return quote(w.pick(words...))
	}
	list := []string{quote(w.pick(words...))}
	for range w.IntN(3) {
		list = append(list, quote(w.pick(words...)))
	}
	return "[" + strings.Join(list, ",") + "]"
}

func (w world) condition() string {
	operator := w.pick("StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "NumericLessThan", "Bool", "Null")
	values := w.some("red", "r*", "?e?", "${t:one}", "*", "${t:list}x", "a${t:two}")
	switch operator {
	case "NumericLessThan":
		values = w.some("1", "2.5", "-3")
	case "Bool", "Null":
		values = w.some("true", "false")
	}
	if operator != "Null" {
		operator = w.pick("", "", "ForAllValues:", "ForAnyValue:") + operator + w.pick("", "", "IfExists")
	}
	return fmt.Sprintf(`%q:{%q:%s}`, operator, w.pick("t:one", "T:Two", "t:list", "t:none"), values)
}

func (w world) statement(principals bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"Effect":%q`, w.pick("Allow", "Allow", "Allow", "Allow", "Allow", "Deny"))
	if principals {
		fmt.Fprintf(&b, `,"Principal":{"AWS":%s}`, w.some("*", home, abroad, "arn:aws:iam::"+home+":root", roleARN, roleID,
			session().ARN, user().ARN, user().ID, stranger().ARN, stranger().RoleARN))
	}
	fmt.Fprintf(&b, `,%q:%s`, w.pick("Action", "Action", "NotAction"), w.some("s3:GetObject", "S3:Get*", "*", "s3:*Object", "s?:PutObject", "sqs:*"))
	fmt.Fprintf(&b, `,%q:%s`, w.pick("Resource", "Resource", "Resource", "NotResource"), w.some("*", "arn:aws:s3:::*", "arn:aws:s3:::red/*",
		"arn:aws:s3:::${t:one}/*", "arn:aws:s3:::${t:none}", "arn:aws:s3:::*/x", "arn:aws:sqs:*:*:*"))
	conditions := make([]string, 0, 2)
	if w.IntN(3) == 0 {
		conditions = append(conditions, w.condition())
	}
	fmt.Fprintf(&b, `,"Condition":{%s}}`, strings.Join(conditions, ","))
	return b.String()
}

func (w world) document(principals bool) string {
	statements := []string{w.statement(principals)}
	for range w.IntN(4) {
		statements = append(statements, w.statement(principals))
	}
	return document(statements...)
}

func (w world) maybe(principals bool) string {
	if w.IntN(3) > 0 {
		return ""
	}
	return w.document(principals)
}

func (w world) request() (*policy.Request, naiveValues) {
	context, values := new(policy.Context), naiveValues{}
	for _, key := range []string{"t:one", "t:two"} {
		if w.IntN(4) > 0 {
			values[key] = []string{w.pick("red", "a*", "*", "1", "true", "FALSE", "ared", "")}
			context.Set(key, values[key][0])
		}
	}
	if w.IntN(3) > 0 {
		for range w.IntN(3) {
			values["t:list"] = append(values["t:list"], w.pick("red", "blue", "1", "redx", "true"))
		}
		context.SetList("t:list", values["t:list"])
	}
	return &policy.Request{
		Principal:       []policy.Principal{session(), user(), stranger()}[w.IntN(3)],
		Action:          w.pick("s3:GetObject", "s3:PutObject", "sqs:SendMessage"),
		Resource:        w.pick("*", "arn:aws:s3:::red/x", "arn:aws:s3:::a*/x", "arn:aws:s3:::b", "arn:aws:sqs:us-east-1:111122223333:q"),
		ResourceAccount: home,
		Context:         context,
	}, values
}

func (w world) policies() naivePolicies {
	return naivePolicies{
		identity: w.document(false), boundary: w.maybe(false), session: w.maybe(false), resource: w.maybe(true), scp: w.maybe(false),
	}
}

func (p naivePolicies) compile(t *testing.T) *policy.Policies {
	t.Helper()
	var c policy.Policies
	if p.identity != "" {
		c.Identity = []*policy.Policy{compileDocument(t, policy.Identity, p.identity)}
	}
	if p.boundary != "" {
		c.Boundary = compileDocument(t, policy.Boundary, p.boundary)
	}
	if p.session != "" {
		c.Session = []*policy.Policy{compileDocument(t, policy.Session, p.session)}
	}
	if p.resource != "" {
		c.Resource = compileDocument(t, policy.Resource, p.resource)
	}
	if p.scp != "" {
		c.ServiceControl = [][]*policy.Policy{{compileDocument(t, policy.ServiceControl, p.scp)}}
	}
	return &c
}

func FuzzEvaluate(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		w := world{rand.New(rand.NewPCG(seed, 1))}
		documents := w.policies()
		compiled := documents.compile(t)
		for range 10 {
			r, values := w.request()
			d := policy.Evaluate(r, compiled)
			if want := naiveEvaluate(t, r, documents, values); d.Allowed != want {
				t.Fatalf("%+v\n%+v\n%v\n%v, want allowed %v", documents, r, values, d, want)
			}
		}
	})
}

// TestLaws checks what must hold of all policies, on policies made at random.
func TestLaws(t *testing.T) {
	t.Parallel()
	w := world{rand.New(rand.NewPCG(2025, 1))}
	allowed := 0
	for range 700 {
		documents := w.policies()
		p := documents.compile(t)
		r, _ := w.request()
		d := policy.Evaluate(r, p)
		if again := policy.Evaluate(r, p); again != d {
			t.Fatalf("asked twice: %v, then %v", d, again)
		}
		if d.Allowed {
			allowed++
		}

		more := *p
		more.Identity = append([]*policy.Policy{compile(t, policy.Identity, replace(w.statement(false), "Allow", "Deny"))}, p.Identity...)
		if got := policy.Evaluate(r, &more); got.Allowed && !d.Allowed {
			t.Fatalf("adding a Deny grants: %+v %+v: %v, before %v", documents, r, got, d)
		}

		shuffled := documents
		var parts struct{ Statement []json.RawMessage }
		if err := json.Unmarshal([]byte(documents.identity), &parts); err != nil {
			t.Fatal(err)
		}
		statements := make([]string, len(parts.Statement))
		for i, j := range w.Perm(len(statements)) {
			statements[i] = string(parts.Statement[j])
		}
		shuffled.identity = document(statements...)
		if got := policy.Evaluate(r, shuffled.compile(t)); got.Allowed != d.Allowed {
			t.Fatalf("the order of statements matters: %+v %+v: %v, before %v", documents, r, got, d)
		}

		if p.Session == nil || p.Resource != nil {
			continue
		}
		identityOnly, sessionOnly := *p, *p
		identityOnly.Session = nil
		sessionOnly.Identity, sessionOnly.Session = p.Session, nil
		if d.Allowed && (!policy.Evaluate(r, &identityOnly).Allowed || !policy.Evaluate(r, &sessionOnly).Allowed) {
			t.Fatalf("a session has more than its role or its session policy: %+v %+v: %v", documents, r, d)
		}
	}
	if allowed < 50 {
		t.Errorf("only %d of the requests were allowed: the laws were hardly tried", allowed)
	}
}
