package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/policy"
)

// An operator of the table below: its name without set operator and IfExists, values of a policy, two values of a request for
// each of which the comparison holds, and two for each of which it does not. Those of a negated operator that do not hold are
// one equal to each of the policy's values.
type operator struct {
	name        string
	values      string
	fit, unfit  [2]string
	trueMissing bool // the operator holds when the key is missing: it is negated
}

// operators are all of them, but for Null, which has a test of its own.
func operators() []operator {
	const red, blue, green = roleARN, "arn:aws:iam::111122223333:user/ann", "arn:aws:s3:::reports/x"
	return []operator{
		{"StringEquals", `["red","blue"]`, [2]string{"red", "blue"}, [2]string{"Red", "re*"}, false},
		{"StringNotEquals", `["red","blue"]`, [2]string{"Red", "re*"}, [2]string{"red", "blue"}, true},
		{"StringEqualsIgnoreCase", `["red","Blue"]`, [2]string{"Red", "blue"}, [2]string{"reds", "re*"}, false},
		{"StringNotEqualsIgnoreCase", `["red","Blue"]`, [2]string{"reds", "re*"}, [2]string{"Red", "blue"}, true},
		{"StringLike", `["r*","b?ue"]`, [2]string{"red/x", "blue"}, [2]string{"Red", "bue"}, false},
		{"StringNotLike", `["r*","b?ue"]`, [2]string{"Red", "bue"}, [2]string{"red/x", "blue"}, true},

		{"NumericEquals", `["5",10]`, [2]string{"5.0", "10"}, [2]string{"6", "five"}, false},
		{"NumericNotEquals", `["5",10]`, [2]string{"6", "five"}, [2]string{"5.0", "10"}, true},
		{"NumericLessThan", `["5",10]`, [2]string{"-11", "9.9"}, [2]string{"10", "four"}, false},
		{"NumericLessThanEquals", `["5",10]`, [2]string{"5", "10"}, [2]string{"10.1", "four"}, false},
		{"NumericGreaterThan", `["5",10]`, [2]string{"5.1", "11"}, [2]string{"5", "four"}, false},
		{"NumericGreaterThanEquals", `["5",10]`, [2]string{"5", "10"}, [2]string{"4.9", "eleven"}, false},

		{"DateEquals", `["2025",1767225600]`, [2]string{"2025-01-01T00:00Z", "2026-01-01"}, [2]string{"2025-06", "soon"}, false},
		{"DateNotEquals", `["2025",1767225600]`, [2]string{"2025-06", "soon"}, [2]string{"2025-01-01T00:00Z", "2026-01-01"}, true},
		{"DateLessThan", `["2025","2026"]`, [2]string{"2024", "2025-12-31T23:59:59Z"}, [2]string{"2026", "soon"}, false},
		{"DateLessThanEquals", `["2025","2026"]`, [2]string{"2025", "2026"}, [2]string{"2026-01-02", "soon"}, false},
		{"DateGreaterThan", `["2025","2026"]`, [2]string{"2025-01-02", "2027"}, [2]string{"2025", "soon"}, false},
		{"DateGreaterThanEquals", `["2025","2026"]`, [2]string{"2025", "2026"}, [2]string{"2024-12-31", "soon"}, false},

		{"Bool", `"false"`, [2]string{"false", "FALSE"}, [2]string{"true", "no"}, false},
		{"BinaryEquals", `["QUJD","/w=="]`, [2]string{"ABC", "\xff"}, [2]string{"QUJD", ""}, false},
		{"IpAddress", `["10.0.0.0/8","2001:db8::1"]`, [2]string{"10.1.2.3", "2001:db8::1"}, [2]string{"2001:db8::2", "nowhere"}, false},
		{"NotIpAddress", `["10.0.0.0/8","2001:db8::1"]`, [2]string{"2001:db8::2", "nowhere"}, [2]string{"10.1.2.3", "2001:db8::1"}, true},

		{"ArnEquals", `["arn:aws:iam::*:role/*","` + blue + `"]`, [2]string{red, blue}, [2]string{green, "ann"}, false},
		{"ArnLike", `["arn:aws:iam::*:role/*","` + blue + `"]`, [2]string{red, blue}, [2]string{green, "ann"}, false},
		{"ArnNotEquals", `["arn:aws:iam::*:role/*","` + blue + `"]`, [2]string{green, "ann"}, [2]string{red, blue}, true},
		{"ArnNotLike", `["arn:aws:iam::*:role/*","` + blue + `"]`, [2]string{green, "ann"}, [2]string{red, blue}, true},
	}
}

// A form is what stands around an operator's name.
type form struct {
	set      string // ForAllValues:, ForAnyValue: or nothing
	ifExists bool
}

func forms() (all []form) {
	for _, set := range []string{"", "ForAllValues:", "ForAnyValue:"} {
		all = append(all, form{set, false}, form{set, true})
	}
	return all
}

func (f form) of(operator string) string {
	if f.ifExists {
		operator += "IfExists"
	}
	return f.set + operator
}

// A given is what a request has of the condition's key.
type given struct {
	what       string
	context    *policy.Context
	fit, unfit int // how many values fit the operator and how many do not
}

func (o operator) givens() []given {
	const key = "test:key"
	list := func(values ...string) *policy.Context {
		c := keys("test:other", o.fit[0])
		c.SetList(key, values)
		return c
	}
	return []given{
		{"there is no context", nil, 0, 0},
		{"the key is missing", keys("test:kez", o.fit[0]), 0, 0},
		{"the key has no values", list(), 0, 0},
		{"the value fits", keys(key, o.fit[0]), 1, 0},
		{"the value fits the policy's other value", keys(key, o.fit[1]), 1, 0},
		{"the value does not fit", keys(key, o.unfit[0]), 0, 1},
		{"the value does not fit for another reason", keys(key, o.unfit[1]), 0, 1},
		{"the only one of a list fits", list(o.fit[1]), 1, 0},
		{"the only one of a list does not fit", list(o.unfit[1]), 0, 1},
		{"all of several values fit", list(o.fit[0], o.fit[1], o.fit[0]), 3, 0},
		{"the first of several values fits", list(o.fit[0], o.unfit[0], o.unfit[1]), 1, 2},
		{"the last of several values fits", list(o.unfit[0], o.unfit[1], o.fit[1]), 1, 2},
		{"none of several values fits", list(o.unfit[0], o.unfit[1]), 0, 2},
	}
}

// TestEveryOperatorInEveryForm holds each operator, in each form, for each thing that a request can have of the key, against
// rules in words: those of the IAM User Guide, "Condition operators" and "Single-valued vs. multivalued context keys".
func TestEveryOperatorInEveryForm(t *testing.T) {
	t.Parallel()
	missing := func(g given) bool { return g.fit+g.unfit == 0 }
	type rule struct {
		words string
		about func(operator, form, given) bool
		holds func(operator, given) bool
	}
	rules := []rule{ // the first that is about a row decides it
		{
			"IfExists passes a key that is missing",
			func(_ operator, f form, g given) bool { return missing(g) && f.ifExists },
			func(operator, given) bool { return true },
		},
		{
			"ForAllValues passes a key that is missing or empty",
			func(_ operator, f form, g given) bool { return missing(g) && f.set == "ForAllValues:" },
			func(operator, given) bool { return true },
		},
		{
			"ForAnyValue fails a key that is missing or empty",
			func(_ operator, f form, g given) bool { return missing(g) && f.set == "ForAnyValue:" },
			func(operator, given) bool { return false },
		},
		{
			"a missing key passes negated operators only",
			func(_ operator, _ form, g given) bool { return missing(g) },
			func(o operator, _ given) bool { return o.trueMissing },
		},
		{
			"ForAllValues wants every value of the request to fit",
			func(_ operator, f form, _ given) bool { return f.set == "ForAllValues:" },
			func(_ operator, g given) bool { return g.unfit == 0 },
		},
		{
			"otherwise one value of the request that fits is enough",
			func(operator, form, given) bool { return true },
			func(_ operator, g given) bool { return g.fit > 0 },
		},
	}
	rows := 0
	for _, o := range operators() {
		for _, f := range forms() {
			condition := fmt.Sprintf(`%q:{"Test:Key":%s}`, f.of(o.name), o.values)
			allows := identity(t, allow("s3:*", "*", condition))
			denies := identity(t, allow("*", "*"), deny("s3:*", "*", condition))
			for _, g := range o.givens() {
				rule := rules[slices.IndexFunc(rules, func(r rule) bool { return r.about(o, f, g) })]
				want, r := rule.holds(o, g), asks("s3:GetObject", object, g.context)
				if got := policy.Evaluate(r, allows).Allowed; got != want {
					t.Errorf("%s when %s: an Allow applies %v, but %s", condition, g.what, got, rule.words)
				}
				if got := !policy.Evaluate(r, denies).Allowed; got != want {
					t.Errorf("%s when %s: a Deny applies %v, but %s", condition, g.what, got, rule.words)
				}
				rows++
			}
		}
	}
	if want := 26 * 6 * 13; rows != want {
		t.Errorf("%d rows were held against the rules, want %d", rows, want)
	}
}

// TestTheOperatorsOfTheUserGuide keeps the table above complete, and refuses what is near to an operator's name.
func TestTheOperatorsOfTheUserGuide(t *testing.T) {
	t.Parallel()
	guide := strings.Fields(`
		StringEquals StringNotEquals StringEqualsIgnoreCase StringNotEqualsIgnoreCase StringLike StringNotLike
		NumericEquals NumericNotEquals NumericLessThan NumericLessThanEquals NumericGreaterThan NumericGreaterThanEquals
		DateEquals DateNotEquals DateLessThan DateLessThanEquals DateGreaterThan DateGreaterThanEquals
		Bool BinaryEquals IpAddress NotIpAddress ArnEquals ArnLike ArnNotEquals ArnNotLike`)
	var tested []string
	for _, o := range operators() {
		tested = append(tested, o.name)
	}
	slices.Sort(guide)
	slices.Sort(tested)
	if diff := cmp.Diff(guide, tested); diff != "" {
		t.Errorf("the operators that are tested: (-guide +tested)\n%s", diff)
	}
	for _, o := range operators() {
		for _, name := range []string{
			strings.ToLower(o.name), o.name + " ", "Not" + o.name, o.name + "ifExists", o.name + "IfExistsIfExists", "forAllValues:" + o.name,
			"ForAllValues" + o.name, "ForAllValues: " + o.name, "ForAnyValues:" + o.name, "ForAnyValue:ForAnyValue:" + o.name, "",
			"ForAnyValue:", "IfExists",
		} {
			if name == "NotIpAddress" {
				continue
			}
			condition := fmt.Sprintf(`%q:{"Test:Key":%s}`, name, o.values)
			if _, err := policy.New("p", policy.Identity, []byte(document(deny("*", "*", condition)))); err == nil {
				t.Errorf("the operator %q was compiled", name)
			}
		}
	}
}

func TestNull(t *testing.T) {
	t.Parallel()
	empty := new(policy.Context)
	empty.SetList("test:key", nil)
	list := new(policy.Context)
	list.SetList("test:key", []string{"", "x"})
	for _, c := range []struct {
		what    string
		context *policy.Context
		absent  bool
	}{
		{"there is no context", nil, true},
		{"the key is missing", keys("test:kez", "true"), true},
		{"the key has no values", empty, true},
		{"the key has a value", keys("test:key", "x"), false},
		{"the key has the empty value", keys("test:key", ""), false},
		{"the key has the value true", keys("test:key", "true"), false},
		{"the key has several values", list, false},
	} {
		for values, want := range map[string]bool{
			`"true"`: c.absent, `true`: c.absent, `"TRUE"`: c.absent, `["true","true"]`: c.absent,
			`"false"`: !c.absent, `false`: !c.absent, `["False"]`: !c.absent,
			`["true","false"]`: true,
		} {
			if got := holds(t, `"Null":{"Test:Key":`+values+`}`, c.context); got != want {
				t.Errorf("Null %s is %v when %s, want %v", values, got, c.what, want)
			}
		}
	}
}
