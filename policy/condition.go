package policy

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// A condition is one key of a condition block's operator: all of a statement's conditions must hold.
type condition struct {
	operator   string // as written
	key        string // as written
	folded     string
	quantifier quantifier
	ifExists   bool
	negated    bool
	operands   []operand // one for each of the policy's values
	null       *nullTest // of the Null operator, which has no operands
}

// A quantifier says how many of a request's values must match.
type quantifier int

const (
	noQuantifier quantifier = iota // as forAnyValue, except where the key is missing
	forAllValues
	forAnyValue
)

// nullTest holds the values of a Null condition.
type nullTest struct{ absent, present bool }

// An operand is a value of a policy with the comparison that its operator makes; negation is the condition's.
type operand interface {
	matches(value string, c *Context) bool
}

// holds decides the condition. A key that is present without values counts as missing.
func (c *condition) holds(context *Context) bool {
	var values []string
	if e := context.find(c.folded); e != nil {
		values = e.values()
	}
	if c.null != nil {
		if len(values) == 0 {
			return c.null.absent
		}
		return c.null.present
	}
	if len(values) == 0 {
		switch {
		case c.ifExists, c.quantifier == forAllValues:
			return true
		case c.quantifier == forAnyValue:
			return false
		}
		return c.negated
	}
	if c.quantifier == forAllValues {
		for _, value := range values {
			if !c.accepts(value, context) {
				return false
			}
		}
		return true
	}
	for _, value := range values {
		if c.accepts(value, context) {
			return true
		}
	}
	return false
}

// accepts compares one of the request's values: it must match one of the policy's values, or none if the operator is
// negated.
func (c *condition) accepts(value string, context *Context) bool {
	for _, o := range c.operands {
		if o.matches(value, context) {
			return !c.negated
		}
	}
	return c.negated
}

// An operator is what the name of a condition operator means.
type operator struct {
	quantifier quantifier
	ifExists   bool
	negated    bool
	null       bool
	operand    func(value string, variables bool) (operand, error) // compiles a value; nil for Null
}

// parseOperator reads an operator's name, such as ForAnyValue:StringLikeIfExists.
func parseOperator(name string) (operator, error) {
	var o operator
	base := name
	if rest, ok := strings.CutPrefix(base, "ForAllValues:"); ok {
		base, o.quantifier = rest, forAllValues
	} else if rest, ok := strings.CutPrefix(base, "ForAnyValue:"); ok {
		base, o.quantifier = rest, forAnyValue
	}
	if rest, ok := strings.CutSuffix(base, "IfExists"); ok {
		base, o.ifExists = rest, true
	}
	switch base {
	case "StringEquals":
		o.operand = exactOperand
	case "StringNotEquals":
		o.operand, o.negated = exactOperand, true
	case "StringEqualsIgnoreCase":
		o.operand = foldedOperand
	case "StringNotEqualsIgnoreCase":
		o.operand, o.negated = foldedOperand, true
	case "StringLike":
		o.operand = likeOperand
	case "StringNotLike":
		o.operand, o.negated = likeOperand, true
	case "NumericEquals":
		o.operand = numberOperand(equal)
	case "NumericNotEquals":
		o.operand, o.negated = numberOperand(equal), true
	case "NumericLessThan":
		o.operand = numberOperand(less)
	case "NumericLessThanEquals":
		o.operand = numberOperand(lessOrEqual)
	case "NumericGreaterThan":
		o.operand = numberOperand(greater)
	case "NumericGreaterThanEquals":
		o.operand = numberOperand(greaterOrEqual)
	case "DateEquals":
		o.operand = dateOperand(equal)
	case "DateNotEquals":
		o.operand, o.negated = dateOperand(equal), true
	case "DateLessThan":
		o.operand = dateOperand(less)
	case "DateLessThanEquals":
		o.operand = dateOperand(lessOrEqual)
	case "DateGreaterThan":
		o.operand = dateOperand(greater)
	case "DateGreaterThanEquals":
		o.operand = dateOperand(greaterOrEqual)
	case "Bool":
		o.operand = booleanOperand
	case "BinaryEquals":
		o.operand = binaryOperand
	case "IpAddress":
		o.operand = networkOperand
	case "NotIpAddress":
		o.operand, o.negated = networkOperand, true
	case "ArnEquals", "ArnLike":
		o.operand = arnOperand
	case "ArnNotEquals", "ArnNotLike":
		o.operand, o.negated = arnOperand, true
	case "Null":
		o.null = true
		if o.ifExists || o.quantifier != noQuantifier {
			return operator{}, fmt.Errorf("the operator Null takes neither IfExists nor a set operator: %s", name)
		}
	default:
		return operator{}, fmt.Errorf("unknown condition operator %s", name)
	}
	return o, nil
}

// exact is a value of StringEquals.
type exact struct{ template }

func exactOperand(value string, variables bool) (operand, error) {
	t, err := grammar{variables: variables}.template(value)
	return exact{t}, err
}

func (o exact) matches(value string, c *Context) bool {
	var space [templateSpace]byte
	want, ok := o.fill(space[:0], c)
	return ok && string(want) == value
}

// folded is a value of StringEqualsIgnoreCase.
type folded struct{ template }

func foldedOperand(value string, variables bool) (operand, error) {
	t, err := grammar{variables: variables}.template(value)
	return folded{t}, err
}

func (o folded) matches(value string, c *Context) bool {
	var space [templateSpace]byte
	want, ok := o.fill(space[:0], c)
	return ok && bytes.EqualFold(want, []byte(value))
}

// like is a value of StringLike.
type like struct{ template }

func likeOperand(value string, variables bool) (operand, error) {
	t, err := grammar{variables: variables, wildcards: true}.template(value)
	return like{t}, err
}

func (o like) matches(value string, c *Context) bool {
	var space [templateSpace]byte
	want, ok := o.fill(space[:0], c)
	return ok && want.matches(value)
}

// arnLike is a value of ArnLike and ArnEquals, which are the same.
type arnLike struct{ template }

func arnOperand(value string, variables bool) (operand, error) {
	t, err := grammar{variables: variables, wildcards: true}.template(value)
	if err != nil {
		return nil, err
	}
	if t.parts == nil && value != "*" {
		if fields, n := splitARN(value); n < arnFields || fields[arnPrefix] != "arn" {
			return nil, fmt.Errorf(`%q is neither an ARN nor "*"`, value)
		}
	}
	return arnLike{t}, nil
}

func (o arnLike) matches(value string, c *Context) bool {
	got := makeTarget(value)
	var space [templateSpace]byte
	want, ok := o.fill(space[:0], c)
	if !ok || !got.isARN {
		return false
	}
	if len(want) == 1 && want[0] == anyRun {
		return true
	}
	fields, n := splitARN(want)
	if n < arnFields {
		return false
	}
	for i := range fields {
		if !fields[i].matches(got.fields[i]) {
			return false
		}
	}
	return true
}

// boolean is a value of Bool.
type boolean struct{ template }

func booleanOperand(value string, variables bool) (operand, error) {
	t, err := grammar{variables: variables}.template(value)
	if err != nil {
		return nil, err
	}
	if _, ok := parseBool(value); t.parts == nil && !ok {
		return nil, fmt.Errorf("%q is neither true nor false", value)
	}
	return boolean{t}, nil
}

func (o boolean) matches(value string, c *Context) bool {
	var space [templateSpace]byte
	text, ok := o.fill(space[:0], c)
	if !ok {
		return false
	}
	want, ok := parseBool(string(text))
	if !ok {
		return false
	}
	got, ok := parseBool(value)
	return ok && got == want
}

func parseBool(s string) (value, ok bool) {
	switch {
	case strings.EqualFold(s, "true"):
		return true, true
	case strings.EqualFold(s, "false"):
		return false, true
	}
	return false, false
}

// binary is a value of BinaryEquals.
type binary struct{ want string }

func binaryOperand(value string, _ bool) (operand, error) {
	want, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return nil, fmt.Errorf("%q is not base64", value)
	}
	return binary{string(want)}, nil
}

func (o binary) matches(value string, _ *Context) bool { return value == o.want }

// network is a value of IpAddress.
type network struct{ netip.Prefix }

func networkOperand(value string, _ bool) (operand, error) {
	prefix, err := parseNetwork(value)
	return network{prefix}, err
}

func (o network) matches(value string, _ *Context) bool {
	address, err := netip.ParseAddr(value)
	return err == nil && address.Zone() == "" && o.Contains(address.Unmap())
}

// parseNetwork reads an address range in CIDR form, or one address. IPv4 addresses in IPv6 form become IPv4 addresses.
func parseNetwork(s string) (netip.Prefix, error) {
	var prefix netip.Prefix
	if strings.Contains(s, "/") {
		var err error
		if prefix, err = netip.ParsePrefix(s); err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not an address range", s)
		}
	} else {
		address, err := netip.ParseAddr(s)
		if err != nil || address.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is not an address", s)
		}
		prefix = netip.PrefixFrom(address, address.BitLen())
	}
	prefix = prefix.Masked()
	const mapped = 96 // bits before the IPv4 address; a masked prefix that is shorter has none
	if prefix.Addr().Is4In6() {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mapped)
	}
	return prefix, nil
}

// A relation is a comparison of things that have an order.
type relation int

const (
	equal relation = iota
	less
	lessOrEqual
	greater
	greaterOrEqual
)

// holds takes the result of comparing the request's value with the policy's: negative, zero or positive.
func (r relation) holds(comparison int) bool {
	switch r {
	case equal:
		return comparison == 0
	case less:
		return comparison < 0
	case lessOrEqual:
		return comparison <= 0
	case greater:
		return comparison > 0
	}
	return comparison >= 0
}

// numeric is a value of a Numeric operator.
type numeric struct {
	relation relation
	want     number
}

func numberOperand(r relation) func(string, bool) (operand, error) {
	return func(value string, _ bool) (operand, error) {
		want, ok := parseNumber(value)
		if !ok {
			return nil, fmt.Errorf("%q is not a number", value)
		}
		return numeric{r, want}, nil
	}
}

func (o numeric) matches(value string, _ *Context) bool {
	got, ok := parseNumber(value)
	return ok && o.relation.holds(got.compare(o.want))
}

// A number is a decimal of any size, kept as text so that no digit is lost.
type number struct {
	negative bool
	whole    string // without leading zeros
	fraction string // without trailing zeros
}

// parseNumber reads digits with an optional sign and an optional fraction.
func parseNumber(s string) (n number, ok bool) {
	digits, negative := strings.CutPrefix(s, "-")
	if !negative {
		digits = strings.TrimPrefix(s, "+")
	}
	whole, fraction, point := strings.Cut(digits, ".")
	if !allDigits(whole) || point && !allDigits(fraction) {
		return number{}, false
	}
	n.whole, n.fraction = strings.TrimLeft(whole, "0"), strings.TrimRight(fraction, "0")
	n.negative = negative && n != number{}
	return n, true
}

func allDigits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

func (n number) compare(m number) int {
	switch {
	case n.negative && !m.negative:
		return -1
	case !n.negative && m.negative:
		return 1
	case n.negative:
		n, m = m, n
	}
	if len(n.whole) != len(m.whole) {
		return len(n.whole) - len(m.whole)
	}
	if c := strings.Compare(n.whole, m.whole); c != 0 {
		return c
	}
	return strings.Compare(n.fraction, m.fraction)
}

// date is a value of a Date operator.
type date struct {
	relation relation
	want     instant
}

func dateOperand(r relation) func(string, bool) (operand, error) {
	return func(value string, _ bool) (operand, error) {
		want, ok := parseInstant(value)
		if !ok {
			return nil, errDate
		}
		return date{r, want}, nil
	}
}

var errDate = errors.New("a date is neither of the form 2025-01-31T23:59:59Z nor a number of seconds since 1970")

func (o date) matches(value string, _ *Context) bool {
	got, ok := parseInstant(value)
	return ok && o.relation.holds(got.compare(o.want))
}
