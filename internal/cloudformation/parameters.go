package cloudformation

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxParameterValue is how long a parameter's value may be, in bytes (CloudFormation User Guide, "Parameters": 4,096).
const maxParameterValue = 4096

// parameter is a parameter as the template declares it.
type parameter struct {
	id          string
	typ         string
	value       *string // default
	description string
	noEcho      bool
	allowed     []string
	pattern     *regexp.Regexp // anchored
	patternText string
	explanation string // the ConstraintDescription
	minLength   *int
	maxLength   *int
	minValue    *float64
	maxValue    *float64
}

// The types of parameters.
const (
	stringType    = "String"
	numberType    = "Number"
	numbersType   = "List<Number>"
	delimitedType = "CommaDelimitedList"
)

func readParameter(id string, v any) (*parameter, error) {
	object, ok := v.(map[string]any)
	if !ok {
		return nil, invalid("Template format error: Every Parameters object must contain a Type member: %s does not.", id)
	}
	p := &parameter{id: id}
	for _, name := range sortedKeys(object) {
		if err := p.read(name, object[name]); err != nil {
			return nil, err
		}
	}
	switch {
	case p.typ == "":
		return nil, invalid("Template format error: Every Parameters object must contain a Type member.")
	case !slices.Contains([]string{stringType, numberType, numbersType, delimitedType}, p.typ):
		return nil, invalid("Template format error: this server does not support the type %s of the parameter %s.", clip(p.typ), id)
	case p.value != nil:
		if err := p.check(*p.value); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *parameter) read(name string, v any) (err error) {
	malformed := invalid("Template format error: Parameter %s has a malformed %s.", p.id, clip(name))
	ok := true
	switch name {
	case "Type":
		p.typ, ok = v.(string)
	case "Default":
		if ok = isScalar(v); ok {
			text := plainText(v)
			p.value = &text
		}
	case "Description":
		p.description, ok = v.(string)
	case "ConstraintDescription":
		p.explanation, ok = v.(string)
	case "NoEcho":
		text := plainText(v)
		p.noEcho, err = strconv.ParseBool(text)
		ok = err == nil && isScalar(v)
	case "AllowedValues":
		var list []any
		list, ok = v.([]any)
		for _, item := range list {
			ok = ok && isScalar(item)
			p.allowed = append(p.allowed, plainText(item))
		}
	case "AllowedPattern":
		if p.patternText, ok = v.(string); ok {
			p.pattern, err = regexp.Compile("^(?:" + p.patternText + ")$")
			ok = err == nil
		}
	case "MinLength":
		p.minLength, ok = integer(v)
	case "MaxLength":
		p.maxLength, ok = integer(v)
	case "MinValue":
		p.minValue, ok = number(v)
	case "MaxValue":
		p.maxValue, ok = number(v)
	default:
		return invalid("Invalid template parameter property '%s'", clip(name))
	}
	if !ok {
		return malformed
	}
	return nil
}

func number(v any) (*float64, bool) {
	switch v.(type) {
	case string, json.Number:
		f, err := strconv.ParseFloat(plainText(v), 64)
		return &f, err == nil
	}
	return nil, false
}

func integer(v any) (*int, bool) {
	f, ok := number(v)
	if !ok || *f != float64(int(*f)) {
		return nil, false
	}
	i := int(*f)
	return &i, true
}

// check holds a value to the parameter's constraints. Texts are CloudFormation's; a ConstraintDescription takes their place.
func (p *parameter) check(text string) error {
	fail := func(format string, args ...any) error {
		if p.explanation != "" {
			return invalid("Parameter %s failed to satisfy constraint: %s", p.id, clip(p.explanation))
		}
		return invalid("Parameter '%s' must "+format, append([]any{p.id}, args...)...)
	}
	items := []string{text}
	if p.isList() {
		items = splitList(text)
	}
	switch length := utf8.RuneCountInString(text); {
	case len(text) > maxParameterValue:
		return invalid("Parameter '%s' must not be longer than %d bytes", p.id, maxParameterValue)
	case p.minLength != nil && length < *p.minLength:
		return fail("contain at least %d characters", *p.minLength)
	case p.maxLength != nil && length > *p.maxLength:
		return fail("contain at most %d characters", *p.maxLength)
	}
	for _, item := range items {
		if p.allowed != nil && !slices.Contains(p.allowed, item) {
			return fail("be one of AllowedValues")
		}
		if p.pattern != nil && !p.pattern.MatchString(item) {
			return fail("match pattern %s", p.patternText)
		}
		if p.typ != numberType && p.typ != numbersType {
			continue
		}
		switch f, err := strconv.ParseFloat(item, 64); {
		case err != nil || !isJSONNumber(item):
			return fail("be a number")
		case p.minValue != nil && f < *p.minValue:
			return fail("be a number not less than %s", formatNumber(*p.minValue))
		case p.maxValue != nil && f > *p.maxValue:
			return fail("be a number not greater than %s", formatNumber(*p.maxValue))
		}
	}
	return nil
}

func formatNumber(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func (p *parameter) isList() bool { return p.typ == numbersType || p.typ == delimitedType }

// splitList takes a list's text apart at its commas; white space around the items is not part of them.
func splitList(text string) []string {
	items := strings.Split(text, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return items
}

// value is the parameter's value as Ref gives it.
func (p *parameter) refer(text string) any {
	if !p.isList() {
		return text
	}
	list := []any{}
	for _, item := range splitList(text) {
		list = append(list, item)
	}
	return list
}

// parameterIn is a parameter as a request gives it.
type parameterIn struct {
	ParameterKey     string
	ParameterValue   *string
	UsePreviousValue bool
}

// chooseParameters gives each of the template's parameters its value: what the request says, what it was before if the request
// says so, or its default.
func (t *template) chooseParameters(given []parameterIn, before map[string]string) (map[string]string, error) {
	chosen := make(map[string]string, len(t.parameters))
	var strange, missing []string
	for _, in := range given {
		if _, twice := chosen[in.ParameterKey]; twice {
			return nil, invalid("Duplicate parameter keys: [%s]", clip(in.ParameterKey))
		}
		switch previous, had := before[in.ParameterKey]; {
		case t.parameters[in.ParameterKey] == nil:
			strange = append(strange, clip(in.ParameterKey))
		case in.UsePreviousValue && in.ParameterValue != nil:
			return nil, invalid("Invalid input for parameter key %s. Cannot specify usePreviousValue as true and non empty value for a parameter",
				in.ParameterKey)
		case in.UsePreviousValue && !had:
			return nil, invalid("Invalid input for parameter key %s. Cannot specify usePreviousValue as true for a parameter key not in the "+
				"previous template",
				in.ParameterKey)
		case in.UsePreviousValue:
			chosen[in.ParameterKey] = previous
		case in.ParameterValue != nil:
			chosen[in.ParameterKey] = *in.ParameterValue
		}
	}
	if len(strange) > 0 {
		return nil, invalid("Parameters: [%s] do not exist in the template", strings.Join(strange, ", "))
	}
	for _, id := range sortedKeys(t.parameters) {
		p := t.parameters[id]
		text, ok := chosen[id]
		if !ok && p.value != nil {
			text, ok = *p.value, true
		}
		if !ok {
			missing = append(missing, id)
			continue
		}
		if err := p.check(text); err != nil {
			return nil, err
		}
		chosen[id] = text
	}
	if len(missing) > 0 {
		return nil, invalid("Parameters: [%s] must have values", strings.Join(missing, ", "))
	}
	return chosen, nil
}

// referred are the parameters' values as Ref gives them.
func (t *template) referred(chosen map[string]string) map[string]any {
	values := make(map[string]any, len(chosen))
	for id, text := range chosen {
		if p := t.parameters[id]; p != nil {
			values[id] = p.refer(text)
		}
	}
	return values
}

// echo is a parameter's value as answers show it.
func (p *parameter) echo(text string) string {
	if p != nil && p.noEcho {
		return "****"
	}
	return text
}
