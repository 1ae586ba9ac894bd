package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// missingVersion looks for a document without Version.
func (a *analysis) missingVersion() {
	if a.root.typ == objectNode && a.version == nil {
		a.report(nil, "missing-version", a.root.start, a.root.end, a.setVersion(), "Version is missing; 2012-10-17 has all of the language")
	}
}

// variablesWithoutVersion looks for policy variables that are plain text.
func (a *analysis) variablesWithoutVersion(c *clause) {
	if a.variables {
		return
	}
	var values []*node
	for i := range c.resources {
		values = append(values, c.resources[i].node)
	}
	for i := range c.comparisons {
		if base := c.comparisons[i].base; strings.HasPrefix(base, "String") || strings.HasPrefix(base, "Arn") || base == "Bool" {
			values = append(values, c.comparisons[i].values...)
		}
	}
	for _, v := range values {
		if name, ok := firstVariable(v.text); ok {
			a.report(c, "variable-without-version", v.start, v.end, a.setVersion(), "%s is plain text unless Version is 2012-10-17", quoted(name))
		}
	}
}

// firstVariable returns the first part of a text that has the form of a policy variable.
func firstVariable(text string) (string, bool) {
	for {
		start := strings.Index(text, "${")
		if start < 0 {
			return "", false
		}
		text = text[start:]
		if _, after, err := parseVariable(text[2:]); err == nil {
			return text[:len(text)-len(after)], true
		}
		text = text[2:]
	}
}

// literalStar reports whether a value that is compared character by character has a * that may be meant as a wildcard.
func (a *analysis) literalStar(text string) bool {
	if a.variables {
		text = strings.ReplaceAll(text, "${*}", "")
	}
	return strings.Contains(text, "*")
}

// comparisons looks at the operators and keys of a clause's conditions.
func (a *analysis) comparisons(c *clause) {
	var operator *node
	splits := make(map[string]split)
	for i := range c.comparisons {
		x := &c.comparisons[i]
		if !x.known {
			if x.operator != operator {
				a.unknownOperator(c, x.operator)
			}
			operator = x.operator
			continue
		}
		a.literalWildcards(c, x)
		a.forAllValues(c, x)
		a.unknownKey(c, x)
		a.keyOfOtherAction(c, x, splits)
	}
}

func (a *analysis) unknownOperator(c *clause, name *node) {
	near, ok := nearestOperator(name.text)
	switch {
	case near == "":
		a.reportAt(c, "unknown-operator", name, "there is no condition operator %s", quoted(name.text))
	case ok:
		a.report(c, "unknown-operator", name.start, name.end, replace(name, near), "there is no condition operator %s; %s is meant",
			quoted(name.text), near)
	default:
		a.reportAt(c, "unknown-operator", name, "there is no condition operator %s; the nearest is %s", quoted(name.text), near)
	}
}

// operators lists the condition operators, without set operators and IfExists.
func operators() []string {
	return []string{
		"ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike", "BinaryEquals", "Bool", "DateEquals", "DateGreaterThan",
		"DateGreaterThanEquals", "DateLessThan", "DateLessThanEquals", "DateNotEquals", "IpAddress", "NotIpAddress", "Null",
		"NumericEquals", "NumericGreaterThan", "NumericGreaterThanEquals", "NumericLessThan", "NumericLessThanEquals",
		"NumericNotEquals", "StringEquals", "StringEqualsIgnoreCase", "StringLike", "StringNotEquals", "StringNotEqualsIgnoreCase",
		"StringNotLike",
	}
}

// nearestOperator returns the operator that a misspelt name is nearest to, if one is near, and whether it must be meant: no
// other is as near.
func nearestOperator(name string) (near string, sure bool) {
	set, base, ok := strings.Cut(name, ":")
	if !ok {
		set, base = "", name
	} else {
		var only bool
		if set, only = nearest(set, []string{"ForAllValues", "ForAnyValue"}); !only {
			return "", false
		}
		set += ":"
	}
	ifExists := ""
	for _, suffix := range []string{"IfExists", "IfExist"} {
		if i := len(base) - len(suffix); i > 0 && strings.EqualFold(base[i:], suffix) {
			base, ifExists = base[:i], "IfExists"
		}
	}
	if base, sure = nearest(base, operators()); base == "" {
		return "", false
	}
	near = set + base + ifExists
	if _, err := parseOperator(near); err != nil {
		return base, false // Null takes neither a set operator nor IfExists
	}
	return near, sure
}

// nearest returns the first of the words that are nearest to a misspelt one, and whether it is the only one. None is near if
// more than two letters differ, or half of them.
func nearest(word string, words []string) (best string, only bool) {
	least := 3
	for _, w := range words {
		switch d := distance(foldKey(word), foldKey(w), least+1); {
		case d < least && d*2 < len(w):
			best, least, only = w, d, true
		case d == least:
			only = false
		}
	}
	return best, only && best != ""
}

// distance returns how many letters must be put in, left out or changed to make one word of the other, or most if that is
// not fewer.
func distance(v, w string, most int) int {
	if len(v)-len(w) >= most || len(w)-len(v) >= most {
		return most
	}
	row := make([]int, len(w)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(v) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(w) {
			d := diagonal
			if v[i] != w[j] {
				d = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], d
		}
	}
	return min(row[len(w)], most)
}

func (a *analysis) literalWildcards(c *clause, x *comparison) {
	if !strings.HasPrefix(x.base, "String") || strings.HasSuffix(x.base, "Like") {
		return
	}
	if _, ok := issuerOf(x.folded); ok && a.kind == Trust && c.allow && x.selects() && strings.HasSuffix(x.folded, subjectSuffix) {
		return // another rule says more
	}
	for _, v := range x.values {
		if a.literalStar(v.text) {
			a.reportAt(c, "literal-wildcard", v, "in %s the * of %s is not a wildcard", x.operator.text, quoted(v.text))
		}
	}
}

// forAllValues looks for comparisons that a missing key passes. The keys of tags may be missing without harm: there are no
// tags then.
func (a *analysis) forAllValues(c *clause, x *comparison) {
	if !c.allow || x.meaning.quantifier != forAllValues || c.present(x.folded) ||
		x.folded == "aws:tagkeys" || x.folded == "sts:transitivetagkeys" {
		return
	}
	if key, ok := findGlobalKey(x.folded); ok && key.always {
		return
	}
	id := "for-all-values"
	if a.kind == Trust {
		id = "trust-for-all-values"
	}
	a.reportOn(c, id, x, "%s holds when %s is missing", x.operator.text, quoted(x.key.text))
}

func (a *analysis) unknownKey(c *clause, x *comparison) {
	if _, ok := findGlobalKey(x.folded); ok || !strings.HasPrefix(x.folded, "aws:") {
		return
	}
	name, tag := x.folded, ""
	if i := strings.IndexByte(name, '/'); i >= 0 {
		name, tag = name[:i+1], x.key.text[strings.IndexByte(x.key.text, '/')+1:]
	}
	var names []string
	for _, k := range globalKeys() {
		names = append(names, k.name)
	}
	near, _ := nearest(name, names)
	if near == "" {
		a.reportOn(c, "unknown-global-key", x, "there is no condition key %s", quoted(x.key.text))
		return
	}
	a.reportOn(c, "unknown-global-key", x, "there is no condition key %s; the nearest is %s", quoted(x.key.text), quoted(near+tag))
}

// keyOfOtherAction looks for keys that the requests of the clause's actions lack. The splits are those made so far, by scope.
func (a *analysis) keyOfOtherAction(c *clause, x *comparison, splits map[string]split) {
	if c.notAction || len(c.actions) == 0 {
		return
	}
	scope, ok := findKeyScope(x.folded)
	if _, isIssuer := issuerOf(x.folded); isIssuer && a.kind == Trust {
		scope, ok = keyScope{"", "sts", []string{webIdentityAction, "tagsession", "setsourceidentity"}}, true
	}
	if !ok {
		return
	}
	s, ok := splits[scope.key]
	if !ok {
		s = c.split(&scope)
		splits[scope.key] = s
	}
	outcome := "always holds"
	if x.requires() {
		outcome = "never holds"
	}
	switch {
	case s.lacks == nil || s.some && (!x.requires() || scope.vendors == "sts"):
	case s.some:
		a.reportOn(c, "key-of-other-action", x, "no request for %s has the key %s; the condition never holds there",
			quoted(s.lacks.text), quoted(x.key.text))
	default:
		a.reportOn(c, "key-of-other-action", x, "no request for the statement's actions, such as %s, has the key %s; the condition %s",
			quoted(s.lacks.text), quoted(x.key.text), outcome)
	}
}

// A split tells the actions whose requests may have a key from those whose requests lack it.
type split struct {
	some  bool  // some may have it
	lacks *node // the first action that lacks it
}

// split splits the clause's actions. TagSession and SetSourceIdentity do not count, since they are tested along with the
// action that assumes the role.
func (c *clause) split(scope *keyScope) (s split) {
	for i := range c.actions {
		p := c.actions[i].pattern
		switch has := scope.has(p); {
		case !has && s.lacks == nil:
			s.lacks = c.actions[i].node
		case has && (scope.vendors != "sts" || mayOverlap(p.name, "assumerole*")):
			s.some = true
		}
	}
	return s
}

// anyPrincipal looks for statements for everybody.
func (a *analysis) anyPrincipal(c *clause) {
	if !c.allow || c.notPrincipal || len(c.anyone) == 0 || a.kind != Trust && a.kind != Resource {
		return
	}
	external := false
	for i := range c.comparisons {
		x := &c.comparisons[i]
		prefix, isIssuer := issuerOf(x.folded)
		isSubject := isIssuer && x.folded == prefix+subjectSuffix
		if !isSubject && !boundsCaller(x.folded) || !c.bounds(x) || !a.selective(x, isSubject) {
			continue
		}
		if x.folded != externalIDKey {
			return
		}
		external = true
	}
	at := c.anyone[0]
	if external {
		a.reportAt(c, "any-principal-external-id", at, "only the value of sts:ExternalId says who may come")
		return
	}
	a.reportAt(c, "any-principal", at, "everybody may come: no condition on a key such as aws:PrincipalOrgID or aws:PrincipalArn says who")
}

// selective reports whether none of the comparison's values can be met by everybody.
func (a *analysis) selective(x *comparison, isSubject bool) bool {
	for _, v := range x.values {
		if a.variables && !ownersVariables(v.text) {
			return false
		}
		p := a.pattern(v.text, '$')
		switch x.base {
		case "StringEquals", "StringEqualsIgnoreCase":
		case "StringLike":
			if w := p.wildcard(); w >= 0 && !isSubject && !selectiveHead(string(p[:w])) {
				return false
			}
		case "ArnEquals", "ArnLike":
			fields, n := splitARN(p)
			if n < arnFields || fields[arnAccount].wildcard() >= 0 || len(fields[arnAccount]) == 0 && fields[arnResource].wildcard() == 0 {
				return false
			}
		case "IpAddress":
			if network, err := parseNetwork(v.text); err != nil || network == netip.PrefixFrom(network.Addr(), 0) {
				return false
			}
		case "Bool":
			if is, _ := parseBool(v.text); !is {
				return false
			}
		default:
			return false
		}
	}
	return len(x.values) > 0
}

// selectiveHead reports whether what stands before a pattern's first wildcard picks an account or organization: all of an
// ARN's fields but the last, with either an account or the beginning of a name; or the first part of a path or of a
// session's ID.
func selectiveHead(head string) bool {
	if fields, n := splitARN(head); fields[arnPrefix] == "arn" {
		return n == arnFields && (fields[arnAccount] != "" || fields[arnResource] != "")
	}
	return strings.IndexAny(head, "/:") > 0
}

// ownersVariables reports whether all policy variables of a value are of the resource's owner.
func ownersVariables(text string) bool {
	t, err := grammar{variables: true}.template(text)
	return err == nil && !slices.ContainsFunc(t.parts, func(p part) bool { return p.key != "" && !ownersVariable(p.key) })
}

// anyValue looks for conditions on who may come that do not say who. Of a service it does not ask: it is named.
func (a *analysis) anyValue(c *clause) {
	many := len(c.anyone) > 0
	for _, p := range c.named {
		name, _ := parseAWSPrincipal(p.value.text)
		many = many || p.typ == "Federated" || p.typ == "AWS" && name.typ == wholeAccount
	}
	if !c.allow || c.notPrincipal || !many || a.kind != Trust && a.kind != Resource {
		return
	}
	for i := range c.comparisons {
		x := &c.comparisons[i]
		_, isIssuer := issuerOf(x.folded)
		isIssuer = isIssuer && !strings.HasSuffix(x.folded, subjectSuffix)
		if !isIssuer && !boundsCaller(x.folded) || !x.selects() || !strings.HasSuffix(x.base, "Like") && x.base != "ArnEquals" {
			continue
		}
		if slices.ContainsFunc(c.comparisons, func(y comparison) bool {
			return y.folded == x.folded && c.bounds(&y) && !slices.ContainsFunc(y.values, takesAny)
		}) {
			continue // another condition picks the values
		}
		for _, v := range x.values {
			if takesAny(v) {
				a.reportAt(c, "any-value", v, "%s of %s takes any value", quoted(v.text), quoted(x.key.text))
			}
		}
	}
}

// takesAny reports whether a value of an operator with wildcards fits every value but perhaps the shortest.
func takesAny(v *node) bool { return strings.Contains(v.text, "*") && strings.Trim(v.text, "*?") == "" }

// contradictions looks for keys that no request can have as the clause requires.
func (a *analysis) contradictions(c *clause) {
	groups := make(map[string][]*comparison)
	var order []string
	for i := range c.comparisons {
		x := &c.comparisons[i]
		if groups[x.folded] == nil {
			order = append(order, x.folded)
		}
		groups[x.folded] = append(groups[x.folded], x)
	}
	for _, key := range order {
		group := groups[key]
		last := group[len(group)-1]
		switch {
		case len(group) == 1 || !slices.ContainsFunc(group, (*comparison).requires):
		case slices.ContainsFunc(group, requiresAbsence):
			a.reportOn(c, "contradiction", last, "one condition requires that %s is missing, another that it is not", quoted(last.key.text))
		case singleValued(key) && a.impossible(group):
			a.reportOn(c, "contradiction", last, "no value of %s meets all of its conditions", quoted(last.key.text))
		}
	}
}

// requiresAbsence reports whether the comparison fails when its key is there.
func requiresAbsence(x *comparison) bool {
	return x.known && x.meaning.null && len(x.values) > 0 &&
		!slices.ContainsFunc(x.values, func(n *node) bool { absent, ok := parseBool(n.text); return !absent || !ok })
}

// impossible reports whether no value of a key meets all of its comparisons. What it cannot judge it takes for met.
func (a *analysis) impossible(group []*comparison) bool {
	var judged []*comparison
	var conditions []condition
	size := 0
	for _, x := range group {
		compiler := compiler{kind: a.kind, variables: a.variables}
		if !x.known || slices.ContainsFunc(x.values, func(v *node) bool { _, ok := firstVariable(v.text); return ok }) {
			continue
		}
		compiled := compiler.condition(x.operator.text, x.meaning, x.key.text, x.value)
		if compiler.problem != nil {
			continue
		}
		judged, conditions = append(judged, x), append(conditions, compiled)
		size += len(x.values)
	}
	candidates, ok := onlyValues(judged)
	if !ok {
		return emptyRange(judged, "Numeric", compareNumbers) || emptyRange(judged, "Date", compareDates)
	}
	const most = 1 << 16 // comparisons
	if len(candidates)*size > most {
		return false
	}
	return !slices.ContainsFunc(candidates, func(value string) bool {
		context := new(Context)
		context.Set(judged[0].folded, value)
		return !slices.ContainsFunc(conditions, func(x condition) bool { return !x.holds(context) })
	})
}

// onlyValues returns the values that a key may have, if some comparison lists them. Numbers and dates can be written in several
// ways, which makes no difference as long as all comparisons read them alike.
func onlyValues(group []*comparison) (values []string, ok bool) {
	for _, base := range []string{"StringEquals", "NumericEquals", "DateEquals", "Bool"} {
		for _, x := range group {
			if x.base != base {
				continue
			}
			alike := func(y *comparison) bool {
				return y.meaning.null || strings.HasPrefix(y.base, strings.TrimSuffix(base, "Equals"))
			}
			if base != "StringEquals" && slices.ContainsFunc(group, func(y *comparison) bool { return !alike(y) }) {
				continue
			}
			for _, v := range x.values {
				values = append(values, v.text)
			}
			return values, true
		}
	}
	return nil, false
}

// emptyRange reports whether the comparisons of the family leave no value between the greatest lower and the least upper
// bound. Of several values of a comparison one need be met, which is the weakest.
func emptyRange(group []*comparison, family string, compare func(v, w string) int) bool {
	var low, high string
	var lowStrict, highStrict, hasLow, hasHigh bool
	for _, x := range group {
		relation, ok := strings.CutPrefix(x.base, family)
		if !ok {
			continue
		}
		strict := !strings.HasSuffix(relation, "Equals")
		var values []string
		for _, v := range x.values {
			values = append(values, v.text)
		}
		switch {
		case strings.HasPrefix(relation, "GreaterThan"):
			v := slices.MinFunc(values, compare)
			if d := compare(v, low); !hasLow || d > 0 || d == 0 && strict {
				low, lowStrict, hasLow = v, strict, true
			}
		case strings.HasPrefix(relation, "LessThan"):
			v := slices.MaxFunc(values, compare)
			if d := compare(v, high); !hasHigh || d < 0 || d == 0 && strict {
				high, highStrict, hasHigh = v, strict, true
			}
		}
	}
	d := compare(low, high)
	return hasLow && hasHigh && (d > 0 || d == 0 && (lowStrict || highStrict))
}

func compareNumbers(v, w string) int {
	x, _ := parseNumber(v)
	y, _ := parseNumber(w)
	return cmp.Compare(x.compare(y), 0)
}

func compareDates(v, w string) int {
	x, _ := parseInstant(v)
	y, _ := parseInstant(w)
	return x.compare(y)
}

// singleValued reports whether no request has several values of a key, by its folded name.
func singleValued(folded string) bool {
	switch folded {
	case externalIDKey, "sts:rolesessionname", "sts:sourceidentity", "s3:prefix", "s3:delimiter", "s3:max-keys", "iam:passedtoservice":
		return true
	}
	if prefix, ok := issuerOf(folded); ok && (folded == prefix+subjectSuffix || folded == prefix+audienceSuffix) {
		return true
	}
	key, ok := findGlobalKey(folded)
	return ok && !key.multi
}
