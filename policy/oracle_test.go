package policy_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/lanyard-id/lanyard/policy"
)

// The naive evaluator below decides requests from the texts of the documents, as the IAM User Guide has it, word by word and
// with no thought of speed. It shares no code with the package. Scenes made at random must have the same answer from both.

// A glyph is a character of a pattern, which is a wildcard only if the document's author wrote it as one.
type glyph struct {
	r    rune
	wild bool
}

func glyphs(text string, wildcards bool) (g []glyph) {
	for _, r := range text {
		g = append(g, glyph{r, wildcards && (r == '*' || r == '?')})
	}
	return g
}

func naiveMatch(pattern []glyph, text []rune) bool {
	switch {
	case len(pattern) == 0:
		return len(text) == 0
	case pattern[0] == glyph{'*', true}:
		return naiveMatch(pattern[1:], text) || len(text) > 0 && naiveMatch(pattern, text[1:])
	case len(text) == 0:
		return false
	case pattern[0] == glyph{'?', true} || pattern[0].r == text[0]:
		return naiveMatch(pattern[1:], text[1:])
	}
	return false
}

func naiveLike(pattern, text string) bool { return naiveMatch(glyphs(pattern, true), []rune(text)) }

// A naiveKey is a condition key of a request.
type naiveKey struct {
	values []string
	list   bool // it may have several values
}

// naiveContext holds keys by their names in lower case.
type naiveContext map[string]naiveKey

var naiveVariable = regexp.MustCompile(`\$\{(?:([*?$])|([^,}]+?)(?:, *'([^']*)')?)\}`)

// fill puts the variables' values in; ok is false if one has none.
func (c naiveContext) fill(text string, variables, wildcards bool) (g []glyph, ok bool) {
	if !variables {
		return glyphs(text, wildcards), true
	}
	for {
		at := naiveVariable.FindStringSubmatchIndex(text)
		if at == nil {
			return append(g, glyphs(text, wildcards)...), true
		}
		g = append(g, glyphs(text[:at[0]], wildcards)...)
		key, present := naiveKey{}, false
		if at[4] >= 0 {
			key, present = c[strings.ToLower(text[at[4]:at[5]])]
		}
		switch {
		case at[2] >= 0:
			g = append(g, glyphs(text[at[2]:at[3]], false)...)
		case present && (key.list || !utf8.ValidString(key.values[0])):
			return nil, false
		case present:
			g = append(g, glyphs(key.values[0], false)...)
		case at[6] >= 0:
			g = append(g, glyphs(text[at[6]:at[7]], false)...)
		default:
			return nil, false
		}
		text = text[at[1]:]
	}
}

func plain(g []glyph) string {
	var b strings.Builder
	for _, g := range g {
		b.WriteRune(g.r)
	}
	return b.String()
}

// segments cuts at the first five colons.
func segments(g []glyph) (parts [][]glyph) {
	for len(parts) < 5 {
		colon := slices.Index(g, glyph{':', false})
		if colon < 0 {
			break
		}
		parts = append(parts, g[:colon])
		g = g[colon+1:]
	}
	return append(parts, g)
}

func naiveARN(pattern []glyph, name string) bool {
	want, got := segments(pattern), segments(glyphs(name, false))
	if len(got) < 6 || plain(got[0]) != "arn" {
		return false
	}
	if len(pattern) == 1 && pattern[0] == (glyph{'*', true}) {
		return true
	}
	if len(want) < 6 {
		return false
	}
	for i := range want {
		if !naiveMatch(want[i], []rune(plain(got[i]))) {
			return false
		}
	}
	return true
}

var naiveDecimal = regexp.MustCompile(`^[+-]?\d+(\.\d+)?$`)

func naiveNumber(s string) *big.Rat {
	if !naiveDecimal.MatchString(s) {
		return nil
	}
	n, _ := new(big.Rat).SetString(s)
	return n
}

var (
	naiveYear  = regexp.MustCompile(`^\d{4}$`)
	naiveEpoch = regexp.MustCompile(`^\d+$`)
	naiveDay   = regexp.MustCompile(`^\d{4}(-\d\d(-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d))?)?)?$`)
)

// naiveDate returns seconds since 1970.
func naiveDate(s string) *big.Rat {
	switch {
	case naiveEpoch.MatchString(s) && !naiveYear.MatchString(s):
		if _, err := strconv.ParseInt(s, 10, 64); err != nil {
			return nil
		}
		return naiveNumber(s)
	case !naiveDay.MatchString(s):
		return nil
	}
	for _, layout := range []string{"2006", "2006-01", "2006-01-02", "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05Z07:00"} {
		if t, err := time.Parse(layout, s); err == nil {
			return new(big.Rat).Add(big.NewRat(t.Unix(), 1), big.NewRat(int64(t.Nanosecond()), 1_000_000_000))
		}
	}
	return nil
}

// naiveOrder compares a request's value with a policy's; either may be nil, which has no order.
func naiveOrder(operator string, got, want *big.Rat) bool {
	if got == nil || want == nil {
		return false
	}
	order := got.Cmp(want)
	switch {
	case strings.HasSuffix(operator, "LessThan"):
		return order < 0
	case strings.HasSuffix(operator, "LessThanEquals"):
		return order <= 0
	case strings.HasSuffix(operator, "GreaterThan"):
		return order > 0
	case strings.HasSuffix(operator, "GreaterThanEquals"):
		return order >= 0
	}
	return order == 0
}

func naiveNetwork(want, got string) bool {
	address := net.ParseIP(got)
	if address == nil {
		return false
	}
	if !strings.Contains(want, "/") {
		return address.Equal(net.ParseIP(want))
	}
	_, network, err := net.ParseCIDR(want)
	return err == nil && network.Contains(address)
}

// naiveCompare makes one comparison, without the negation that the operator may have.
func (c naiveContext) naiveCompare(operator, want, got string, variables bool) bool {
	like := operator == "StringLike" || strings.HasPrefix(operator, "Arn")
	text, filled := c.fill(want, variables, like)
	switch {
	case strings.HasPrefix(operator, "String") || strings.HasPrefix(operator, "Arn") || operator == "Bool":
		if !filled {
			return false
		}
	}
	switch operator {
	case "StringEquals":
		return plain(text) == got
	case "StringEqualsIgnoreCase":
		return strings.EqualFold(plain(text), got)
	case "StringLike":
		return naiveMatch(text, []rune(got))
	case "ArnEquals", "ArnLike":
		return naiveARN(text, got)
	case "Bool":
		boolean := strings.ToLower(got)
		return (boolean == "true" || boolean == "false") && boolean == strings.ToLower(plain(text))
	case "BinaryEquals":
		bytes, err := base64.StdEncoding.DecodeString(want)
		return err == nil && string(bytes) == got
	case "IpAddress":
		return naiveNetwork(want, got)
	}
	if strings.HasPrefix(operator, "Numeric") {
		return naiveOrder(operator, naiveNumber(got), naiveNumber(want))
	}
	return naiveOrder(operator, naiveDate(got), naiveDate(want))
}

func (c naiveContext) naiveCondition(name, key string, wants []string, variables bool) bool {
	got := c[strings.ToLower(key)].values
	if name == "Null" {
		for _, want := range wants {
			if strings.EqualFold(want, "true") == (len(got) == 0) {
				return true
			}
		}
		return false
	}
	set, operator, found := strings.Cut(name, ":")
	if !found {
		set, operator = "", name
	}
	operator, ifExists := strings.CutSuffix(operator, "IfExists")
	negated := strings.Contains(operator, "Not")
	operator = strings.Replace(operator, "Not", "", 1)
	if len(got) == 0 {
		return ifExists || set == "ForAllValues" || set == "" && negated
	}
	matching := 0
	for _, g := range got {
		listed := false
		for _, want := range wants {
			listed = listed || c.naiveCompare(operator, want, g, variables)
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

// naiveReaches, in rising order.
const (
	notAtAll  = iota
	byAccount // the principal's account is named
	byRole    // its role is, or everybody
	byItself
)

// A naiveStatement is a statement as encoding/json reads it.
type naiveStatement struct {
	Effect                  string
	Principal, NotPrincipal any
	Action, NotAction       any
	Resource, NotResource   any
	Condition               map[string]map[string]any
	variables, trust        bool // of the document
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

func naiveDocument(t testing.TB, text string, trust bool) (statements []naiveStatement) {
	t.Helper()
	var document struct {
		Version   string
		Statement json.RawMessage
	}
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	list := string(document.Statement)
	if strings.HasPrefix(strings.TrimSpace(list), "{") {
		list = "[" + list + "]"
	}
	decoder := json.NewDecoder(strings.NewReader(list))
	decoder.UseNumber()
	if err := decoder.Decode(&statements); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	for i := range statements {
		statements[i].variables, statements[i].trust = document.Version == "2012-10-17", trust
	}
	return statements
}

// picksPrincipal reports whether a condition requires aws:PrincipalArn to be one of certain names.
func (s naiveStatement) picksPrincipal() bool {
	for operator, keys := range s.Condition {
		for key := range keys {
			if strings.EqualFold(key, "aws:PrincipalArn") && operator != "Null" && !strings.Contains(operator, "Not") &&
				!strings.HasSuffix(operator, "IfExists") && !strings.HasPrefix(operator, "ForAllValues:") {
				return true
			}
		}
	}
	return false
}

func (s naiveStatement) naiveName(typ, name string, p policy.Principal) int {
	account := p.Kind == policy.Root || p.Kind == policy.User || p.Kind == policy.RoleSession || p.Kind == policy.Federated
	switch {
	case typ == "Service":
		if p.Kind == policy.Service && p.Name == name {
			return byItself
		}
	case typ == "Federated":
		if p.Kind == policy.WebIdentity && p.Name == name {
			return byItself
		}
	case name == "*" && s.trust && s.Effect == "Allow" && !account:
	case name == "*" && s.picksPrincipal():
		return byItself
	case name == "*":
		return byRole
	case !account:
	case name == p.Account || strings.HasPrefix(name, "arn:") && strings.HasSuffix(name, "::"+p.Account+":root"):
		if p.Kind == policy.Root {
			return byItself
		}
		return byAccount
	case p.Kind == policy.Root:
	case name == p.ARN, name == p.ID && p.Kind == policy.User:
		return byItself
	case name == p.ID, name == p.RoleARN && p.Kind == policy.RoleSession:
		return byRole
	}
	return notAtAll
}

func (s naiveStatement) naiveReach(p policy.Principal) int {
	element := s.Principal
	if s.NotPrincipal != nil {
		element = s.NotPrincipal
	}
	farthest := notAtAll
	switch element := element.(type) {
	case nil: // the principal is what the policy is attached to
		return byItself
	case string:
		farthest = s.naiveName("", element, p)
	case map[string]any:
		for typ, names := range element {
			for _, name := range naiveList(names) {
				farthest = max(farthest, s.naiveName(typ, name, p))
			}
		}
	}
	switch {
	case s.NotPrincipal == nil:
		return farthest
	case farthest == notAtAll:
		return byItself
	}
	return notAtAll
}

func (s naiveStatement) naiveAction(action string) bool {
	vendor, name, _ := strings.Cut(strings.ToLower(action), ":")
	for _, pattern := range append(naiveList(s.Action), naiveList(s.NotAction)...) {
		v, n, _ := strings.Cut(strings.ToLower(pattern), ":")
		if pattern == "*" || naiveLike(v, vendor) && naiveLike(n, name) {
			return s.Action != nil
		}
	}
	return s.Action == nil
}

func (s naiveStatement) naiveResource(resource string, c naiveContext) bool {
	if s.Resource == nil && s.NotResource == nil {
		return true
	}
	unknown := false
	for _, pattern := range append(naiveList(s.Resource), naiveList(s.NotResource)...) {
		if pattern == "*" {
			return s.Resource != nil
		}
		for strings.Count(pattern, ":") < 5 {
			pattern += ":*"
		}
		parts := strings.SplitN(pattern, ":", 6)
		before := naiveARN(glyphs(strings.Join(parts[:5], ":")+":*", true), resource)
		last, known := c.fill(parts[5], s.variables, true)
		if before && known && naiveMatch(last, []rune(strings.SplitN(resource, ":", 6)[5])) {
			return s.Resource != nil
		}
		unknown = unknown || before && !known
	}
	// What cannot be told is never a reason to allow.
	return s.Resource == nil && (s.Effect == "Deny" || !unknown)
}

func (s naiveStatement) applies(x scene, c naiveContext) bool {
	if !s.naiveAction(x.action) || !s.naiveResource(x.resource, c) {
		return false
	}
	for operator, keys := range s.Condition {
		for key, values := range keys {
			if !c.naiveCondition(operator, key, naiveList(values), s.variables) {
				return false
			}
		}
	}
	return true
}

// naiveAnswer is what a policy says: whether it denies, and how far its farthest allowance reaches the principal.
type naiveAnswer struct {
	denies bool
	allows int
}

func (x scene) values() naiveContext {
	c := make(naiveContext)
	for _, k := range x.context {
		c[strings.ToLower(k.name)] = k.naiveKey
	}
	return c
}

func (x scene) ask(t testing.TB, documents ...string) (all naiveAnswer) {
	c := x.values()
	for _, text := range documents {
		if text == "" {
			continue
		}
		for _, s := range naiveDocument(t, text, text == x.trust) {
			reach := s.naiveReach(x.principal)
			switch {
			case reach == notAtAll || !s.applies(x, c):
			case s.Effect == "Deny":
				all.denies = true
			default:
				all.allows = max(all.allows, reach)
			}
		}
	}
	return all
}

// naiveAllows decides as the IAM User Guide's "Policy evaluation logic" says.
func (x scene) naiveAllows(t testing.TB) bool {
	identity, boundary, session := x.ask(t, x.identity...), x.ask(t, x.boundary), x.ask(t, x.session...)
	resource, trust := x.ask(t, x.resourcePolicy), x.ask(t, x.trust)

	// An explicit Deny, of any policy, ends it.
	if identity.denies || boundary.denies || session.denies || resource.denies || trust.denies {
		return false
	}
	for _, level := range append(slices.Clone(x.resourceControl), x.serviceControl...) {
		if x.ask(t, level...).denies {
			return false
		}
	}
	// Each level of the organization must allow.
	for _, level := range append(slices.Clone(x.resourceControl), x.serviceControl...) {
		if x.ask(t, level...).allows == notAtAll {
			return false
		}
	}

	kind, owner := x.principal.Kind, x.owner
	if owner == "" && x.trust != "" && strings.Count(x.resource, ":") >= 5 {
		owner = strings.Split(x.resource, ":")[4]
	}
	if owner == "" && x.trust == "" {
		owner = x.principal.Account
	}
	granted := resource.allows
	if x.trust != "" {
		granted = trust.allows
	}
	own := kind == policy.Root || identity.allows > notAtAll
	within := (x.boundary == "" || boundary.allows > notAtAll) &&
		(!x.passed && kind != policy.Federated || session.allows > notAtAll)
	switch {
	case kind == policy.Anonymous || kind == policy.Service || kind == policy.WebIdentity:
		return granted > notAtAll // they have no account, and so no other policies
	case x.principal.Account != owner:
		return granted > notAtAll && own && within // both accounts must allow
	case granted == byItself, granted == byRole && within:
		return true // the owner's word is enough
	case x.trust != "":
		return granted > notAtAll && own && within // trust policies must always allow
	}
	return own && within
}
