package policy_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/lanyard-id/lanyard/policy"
)

// scenes calls check with so many scenes, which are the same in every run.
func scenes(t *testing.T, number int, check func(d *dice, x scene)) {
	t.Helper()
	const enough = 2000 // bytes for a scene and what is done to it
	source := rand.NewChaCha8([32]byte([]byte("scenes that all the laws are for")))
	for range number {
		bytes := make([]byte, enough)
		if _, err := source.Read(bytes); err != nil {
			t.Fatal(err)
		}
		d := &dice{bytes}
		x := d.scene()
		check(d, x)
	}
}

func checkOracle(t testing.TB, x scene) policy.Decision {
	t.Helper()
	d := x.compile(t).decide()
	if want := x.naiveAllows(t); d.Allowed != want {
		t.Fatalf("%v%v, but by the User Guide's words allowed is %v", x, d, want)
	}
	return d
}

func TestDecisionsAreThoseOfTheUserGuide(t *testing.T) {
	t.Parallel()
	outcomes := make(map[string]int)
	scenes(t, 2000, func(_ *dice, x scene) { outcomes[outcome(checkOracle(t, x))]++ })
	for _, kind := range []string{
		"identity-based policy", "resource-based policy", "role trust policy", "permissions boundary", "session policy", "service control policy",
		"resource control policy", "root user",
	} {
		const some = 8
		if kind != "root user" && outcomes["refused by "+kind] < some {
			t.Errorf("only %d requests were refused by the %s", outcomes["refused by "+kind], kind)
		}
		if kind != "root user" && outcomes["denied by "+kind] < some {
			t.Errorf("only %d requests were denied for want of the %s", outcomes["denied by "+kind], kind)
		}
		if strings.Contains("identity-based policy, resource-based policy, role trust policy, root user", kind) && outcomes["allowed by "+kind] < some {
			t.Errorf("only %d requests were allowed by the %s", outcomes["allowed by "+kind], kind)
		}
	}
}

// A law says what a change of a scene does to the decision.
type law struct {
	words  string
	change func(*dice, scene) scene
	holds  func(before, after policy.Decision) bool
	makes  int // how many requests it must make a difference for, or the law was hardly tried
}

func neverGrants(before, after policy.Decision) bool { return before.Allowed || !after.Allowed }

func neverDenies(before, after policy.Decision) bool { return after.Allowed || !before.Allowed }

// changesNothing compares all but which of several statements is named.
func changesNothing(before, after policy.Decision) bool { return outcome(before) == outcome(after) }

func laws() []law {
	return []law{
		{"adding a Deny statement never grants", func(d *dice, x scene) scene {
			return x.edit(func(kind policy.Kind, text string) string {
				return withStatements(text, func(list []json.RawMessage) []json.RawMessage {
					return append(list, json.RawMessage(d.statement(kind, false, "Deny")))
				})
			})
		}, neverGrants, 1},
		{"adding an Allow statement never denies", func(d *dice, x scene) scene {
			return x.edit(func(kind policy.Kind, text string) string {
				return withStatements(text, func(list []json.RawMessage) []json.RawMessage {
					return append(list, json.RawMessage(d.statement(kind, false, "Allow")))
				})
			})
		}, neverDenies, 1},
		{"one more condition of an Allow statement never grants", func(d *dice, x scene) scene { return narrow(d, x, "Allow") }, neverGrants, 1},
		{"one more condition of a Deny statement never denies", func(d *dice, x scene) scene { return narrow(d, x, "Deny") }, neverDenies, 1},
		{"one more level of the organization never grants", func(d *dice, x scene) scene {
			x.serviceControl = append(slices.Clone(x.serviceControl), d.documents(policy.ServiceControl, 2))
			return x
		}, neverGrants, 1},
		{"setting a boundary never grants", func(d *dice, x scene) scene {
			if x.boundary == "" {
				x.boundary = d.document(policy.Boundary)
			}
			return x
		}, neverGrants, 1},
		{"passing session policies never grants", func(d *dice, x scene) scene {
			if !x.passed && x.principal.Kind != policy.Federated {
				x.passed, x.session = true, d.documents(policy.Session, 2)
			}
			return x
		}, neverGrants, 1},
		{"a session has no more than its session policies give, but for the resource's policy", func(_ *dice, x scene) scene {
			if x.passed && x.resourcePolicy == "" && x.trust == "" {
				x.identity = x.session
			}
			return x
		}, neverDenies, 1},
		{"the order of statements, lists and policies changes nothing", func(d *dice, x scene) scene {
			x.identity, x.session = shuffled(d, x.identity), shuffled(d, x.session)
			x.serviceControl, x.resourceControl = shuffled(d, x.serviceControl), shuffled(d, x.resourceControl)
			return x.edit(func(_ policy.Kind, text string) string {
				return withLists(text, func(list []any) []any { return shuffled(d, list) })
			})
		}, changesNothing, 0},
		{"saying everything twice changes nothing", func(_ *dice, x scene) scene {
			x.identity = append(slices.Clone(x.identity), x.identity...)
			return x.edit(func(_ policy.Kind, text string) string {
				return withLists(text, func(list []any) []any { return append(slices.Clone(list), list...) })
			})
		}, changesNothing, 0},
		{"the case of the action changes nothing", func(_ *dice, x scene) scene {
			x.action = strings.ToUpper(x.action)
			return x
		}, changesNothing, 0},
		{"the case of the keys changes nothing", func(_ *dice, x scene) scene {
			x.context = slices.Clone(x.context)
			for i := range x.context {
				x.context[i].name = strings.ToUpper(x.context[i].name)
			}
			return x
		}, changesNothing, 0},
		{"a document for each statement is as good as one", func(_ *dice, x scene) scene {
			var split []string
			for _, text := range x.identity {
				withStatements(text, func(list []json.RawMessage) []json.RawMessage {
					for i := range list {
						split = append(split, withStatements(text, func([]json.RawMessage) []json.RawMessage { return list[i : i+1] }))
					}
					return list
				})
			}
			x.identity = split
			return x
		}, changesNothing, 0},
		{"printing the documents changes nothing", func(_ *dice, x scene) scene {
			return x.edit(func(_ policy.Kind, text string) string { return printed(text) })
		}, func(before, after policy.Decision) bool {
			after.Line, after.Column = before.Line, before.Column
			return before == after
		}, 0},
	}
}

func TestLaws(t *testing.T) {
	t.Parallel()
	for _, l := range laws() {
		t.Run(l.words, func(t *testing.T) {
			t.Parallel()
			bothAllow, differ := 0, 0
			scenes(t, 400, func(d *dice, x scene) {
				before, changed := x.compile(t).decide(), l.change(d, x)
				after := changed.compile(t).decide()
				if !l.holds(before, after) {
					t.Fatalf("%v%v\n\nBut after the change:\n\n%v%v", x, before, changed, after)
				}
				if before.Allowed && after.Allowed {
					bothAllow++
				}
				if before.Allowed != after.Allowed {
					differ++
				}
			})
			if bothAllow < 5 {
				t.Errorf("only %d requests are allowed before and after: the law was hardly tried", bothAllow)
			}
			if differ < l.makes {
				t.Errorf("the change made a difference for %d requests only: the law was hardly tried", differ)
			}
		})
	}
}

// withStatements replaces the statements of a document.
func withStatements(text string, edit func([]json.RawMessage) []json.RawMessage) string {
	var document map[string]json.RawMessage
	mustDecode(text, &document)
	var list []json.RawMessage
	if strings.HasPrefix(string(document["Statement"]), "{") {
		list = []json.RawMessage{document["Statement"]}
	} else {
		mustDecode(string(document["Statement"]), &list)
	}
	document["Statement"] = json.RawMessage(mustEncode(edit(list)))
	return mustEncode(document)
}

// withLists replaces every list in a document.
func withLists(text string, edit func([]any) []any) string {
	var walk func(v any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			for name, value := range v {
				v[name] = walk(value)
			}
			return v
		case []any:
			for i := range v {
				v[i] = walk(v[i])
			}
			return edit(v)
		}
		return v
	}
	var document any
	mustDecode(text, &document)
	return mustEncode(walk(document))
}

// narrow gives every statement of that effect a condition more.
func narrow(d *dice, x scene, effect string) scene {
	return x.edit(func(_ policy.Kind, text string) string {
		return withStatements(text, func(list []json.RawMessage) []json.RawMessage {
			for i := range list {
				var statement map[string]any
				mustDecode(string(list[i]), &statement)
				if statement["Effect"] != effect {
					continue
				}
				conditions, _ := statement["Condition"].(map[string]any)
				if conditions == nil {
					conditions = make(map[string]any)
				}
				operator := d.pick("StringNotLike", "StringLike")
				more, _ := conditions[operator].(map[string]any)
				if more == nil {
					more = make(map[string]any)
				}
				more["T:sTrInG"] = d.pick("r*", "nothing") // no scene writes the key so
				conditions[operator] = more
				statement["Condition"] = conditions
				list[i] = json.RawMessage(mustEncode(statement))
			}
			return list
		})
	})
}

func shuffled[T any](d *dice, list []T) []T {
	list = slices.Clone(list)
	for i := len(list) - 1; i > 0; i-- {
		j := d.roll(i + 1)
		list[i], list[j] = list[j], list[i]
	}
	return list
}

func printed(text string) string {
	out, err := policy.Print([]byte(text))
	if err != nil {
		panic(err)
	}
	return string(out)
}

func mustDecode(text string, v any) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(v); err != nil {
		panic(err)
	}
}

func mustEncode(v any) string {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(out)
}

// checkExplanation compares an explanation with the decision, and each of its statements with the naive evaluator.
func checkExplanation(t testing.TB, x scene) {
	t.Helper()
	c := x.compile(t)
	d, explained := c.decide(), c.explain()
	e := explained.Explanation
	explained.Explanation = nil
	if explained != d {
		t.Fatalf("%v%+v, but explained it is %+v", x, d, explained)
	}
	sentence := d.String()
	if !d.Allowed {
		sentence = d.Message(c.request)
	}
	if e.Verdict != d.Verdict() || e.Sentence != sentence || e.Action != x.action || e.Resource != x.resource {
		t.Fatalf("%v%v is explained as %+v", x, d, e)
	}
	statements, named := 0, d.Line == 0
	for _, l := range e.Layers {
		verdict := policy.ImplicitDeny
		for i, s := range l.Statements {
			statements++
			source := c.texts[s.Policy]
			naive := naiveDocument(t, source, source == x.trust)[s.Statement]
			applies := naive.naiveReach(x.principal) != notAtAll && naive.applies(x, x.values())
			if s.Applies != applies || (s.Failed == nil) != applies || s.Effect != naive.Effect {
				t.Fatalf("%vstatement %d of %s is explained as %+v, but applies %v", x, s.Statement, s.Policy, s, applies)
			}
			text := string([]rune(source)[s.Start.Column-1 : s.End.Column-1])
			if s.Start.Line != 1 || text[0] != '{' || !json.Valid([]byte(text)) {
				t.Fatalf("%vstatement %d of %s is said to be at %v to %v", x, s.Statement, s.Policy, s.Start, s.End)
			}
			decided := l.Decided != nil && *l.Decided == i
			if decided && (!applies || l.Verdict == policy.ExplicitDeny != (s.Effect == "Deny")) {
				t.Fatalf("%vthe %v is decided by statement %d of %s, which %s and applies %v", x, l.Layer, s.Statement, s.Policy, s.Effect, applies)
			}
			named = named || decided && l.Layer == d.Layer && s.Policy == d.Policy && s.Statement == d.Statement && s.Sid == d.Sid
			switch {
			case applies && s.Effect == "Deny":
				verdict = policy.ExplicitDeny
			case applies && verdict == policy.ImplicitDeny:
				verdict = policy.Allowed
			}
		}
		if l.Verdict != verdict && l.Layer != policy.RootLayer {
			t.Fatalf("%vthe %v says %s, but its statements say %s", x, l.Layer, l.Verdict, verdict)
		}
	}
	if statements != e.Statements || !named {
		t.Fatalf("%v%v is explained by %d statements of %d, with the one that decided: %v", x, d, statements, e.Statements, named)
	}
	for _, key := range e.Missing {
		// Variables need more of a key than conditions do: one value, that is text.
		if k, ok := x.values()[strings.ToLower(key)]; ok && !k.list && utf8.ValidString(k.values[0]) {
			t.Fatalf("%vthe key %s is said to be missing", x, key)
		}
	}
	if tree := e.Tree(); !strings.Contains(tree, e.Sentence) || !strings.HasSuffix(tree, "\n") {
		t.Fatalf("%v is drawn as %s", x, tree)
	}
}

func TestExplanationsAreConsistent(t *testing.T) {
	t.Parallel()
	scenes(t, 600, func(_ *dice, x scene) { checkExplanation(t, x) })
}

// TestAnUnknownOperatorNeverGrants cannot ask what a document with an operator that nobody knows decides: it is no policy, in
// whichever statement the operator stands.
func TestAnUnknownOperatorNeverGrants(t *testing.T) {
	t.Parallel()
	refused := 0
	scenes(t, 300, func(d *dice, x scene) {
		x.edit(func(kind policy.Kind, text string) string {
			unknown := withStatements(text, func(list []json.RawMessage) []json.RawMessage {
				i := d.roll(len(list))
				var statement map[string]any
				mustDecode(string(list[i]), &statement)
				conditions, _ := statement["Condition"].(map[string]any)
				if conditions == nil {
					conditions = make(map[string]any)
				}
				operator := d.pick("StringStartsWith", "ForNoValue:StringEquals", "stringlike", "StringLikeIfexists", "NotNull", "NullIfExists",
					"BinaryNotEquals", "")
				conditions[operator] = map[string]any{"t:string": "x"}
				statement["Condition"] = conditions
				list[i] = json.RawMessage(mustEncode(statement))
				return list
			})
			if _, err := policy.New("p", kind, []byte(unknown)); err == nil {
				t.Fatalf("the kind %s takes %s", kindName(kind), unknown)
			}
			refused++
			return text
		})
	})
	if refused < 300 {
		t.Errorf("only %d documents were tried", refused)
	}
}
