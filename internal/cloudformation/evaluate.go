package cloudformation

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
)

// maxEvaluated bounds the text, in bytes, that one evaluation of a template may produce, intermediate values included: a short
// template can repeat a long parameter many times.
const maxEvaluated = 1 << 20

// unknown stands for a value that is known only once a resource has been made.
type unknown struct{}

// noValue is AWS::NoValue: what has it goes.
type noValue struct{}

// evaluator gives the values of a template's functions. It is made anew for each pass over a template.
type evaluator struct {
	t          *template
	parameters map[string]any // string, or []any of strings
	stack      identity
	// resource returns what Ref and Fn::GetAtt give of a resource; known is false for one that is yet to be made.
	resource func(id string) (s *state, known bool)
	// imported returns the value of an export.
	imported func(name string) (string, error)

	decided map[string]bool // conditions
	spent   int             // bytes of maxEvaluated
}

// identity is what tells a stack from others.
type identity struct {
	Partition string
	Region    string
	Account   string
	Name      string
	ID        string // UUID
}

// ARN is the stack's ID as callers see it.
func (i identity) ARN() string {
	return arn.New(i.Partition, "cloudformation", i.Region, i.Account, "stack/"+i.Name+"/"+i.ID).String()
}

func (e *evaluator) pseudo(name string) (any, bool) {
	switch name {
	case "AWS::AccountId":
		return e.stack.Account, true
	case "AWS::NotificationARNs":
		return []any{}, true
	case "AWS::NoValue":
		return noValue{}, true
	case "AWS::Partition":
		return e.stack.Partition, true
	case "AWS::Region":
		return e.stack.Region, true
	case "AWS::StackId":
		return e.stack.ARN(), true
	case "AWS::StackName":
		return e.stack.Name, true
	case "AWS::URLSuffix":
		return urlSuffix(e.stack.Partition), true
	}
	return nil, false
}

// urlSuffix is what the host names of a partition end in.
func urlSuffix(partition string) string {
	p, _ := arn.PartitionNamed(partition)
	return p.DNSSuffix
}

func (e *evaluator) spend(n int) error {
	if e.spent += n; e.spent > maxEvaluated {
		return invalid("Template error: the evaluated template is larger than %d bytes.", maxEvaluated)
	}
	return nil
}

// value evaluates a value: what holds unknown or noValue inside may come out.
func (e *evaluator) value(v any) (any, error) {
	switch v := v.(type) {
	case []any:
		list := make([]any, 0, len(v))
		for _, item := range v {
			x, err := e.value(item)
			if err != nil {
				return nil, err
			}
			if x != (noValue{}) {
				list = append(list, x)
			}
		}
		return list, nil
	case map[string]any:
		if c, ok, err := asCall(v, false); ok || err != nil {
			if err != nil {
				return nil, err
			}
			return e.call(c)
		}
		object := make(map[string]any, len(v))
		for name, item := range v {
			x, err := e.value(item)
			if err != nil {
				return nil, err
			}
			if x != (noValue{}) {
				object[name] = x
			}
			if err := e.spend(len(name)); err != nil {
				return nil, err
			}
		}
		return object, nil
	case string:
		return v, e.spend(len(v))
	}
	return v, e.spend(1)
}

// call evaluates a function. The form of its arguments has been checked with the template; their values have not.
func (e *evaluator) call(c call) (any, error) {
	arguments, _ := c.argument.([]any)
	switch c.name {
	case "Ref":
		name, _ := c.argument.(string)
		return e.ref(name)
	case "Fn::GetAtt":
		id, attribute, err := splitGetAtt(c.argument)
		if err != nil {
			return nil, err
		}
		return e.attribute(id, attribute)
	case "Fn::Sub":
		return e.sub(c.argument)
	case "Fn::If":
		name, _ := arguments[0].(string)
		holds, err := e.condition(name)
		if err != nil {
			return nil, err
		}
		if holds {
			return e.value(arguments[1])
		}
		return e.value(arguments[2])
	case "Fn::Join":
		return e.join(arguments)
	case "Fn::Split":
		delimiter, _ := arguments[0].(string)
		text, known, err := e.text(c.name, arguments[1])
		if err != nil || !known {
			return unknown{}, err
		}
		if delimiter == "" {
			return nil, invalid("Template error: the delimiter of Fn::Split must not be empty.")
		}
		parts := strings.Split(text, delimiter)
		list := make([]any, len(parts))
		for i, p := range parts {
			list[i] = p
		}
		return list, e.spend(len(text) + len(list))
	case "Fn::Select":
		return e.choose(arguments)
	case "Fn::FindInMap":
		return e.findInMap(arguments)
	case "Fn::ImportValue":
		name, known, err := e.text(c.name, c.argument)
		if err != nil || !known {
			return unknown{}, err
		}
		return e.imported(name)
	case "Fn::Base64":
		text, known, err := e.text(c.name, c.argument)
		if err != nil || !known {
			return unknown{}, err
		}
		return base64.StdEncoding.EncodeToString([]byte(text)), e.spend(2 * len(text))
	}
	return nil, invalid("Template error: the function %s is not supported here.", clip(c.name))
}

func (e *evaluator) ref(name string) (any, error) {
	if v, ok := e.pseudo(name); ok {
		return v, nil
	}
	if v, ok := e.parameters[name]; ok {
		return v, e.spend(sizeOf(v))
	}
	s, known, err := e.find(name)
	if err != nil || !known {
		return unknown{}, err
	}
	return s.Reference, e.spend(len(s.Reference))
}

func sizeOf(v any) int {
	n := 0
	switch v := v.(type) {
	case string:
		n = len(v)
	case []any:
		for _, item := range v {
			n += sizeOf(item) + 1
		}
	}
	return n
}

func (e *evaluator) attribute(id, attribute string) (any, error) {
	s, known, err := e.find(id)
	if err != nil || !known {
		return unknown{}, err
	}
	v, ok := s.Attributes[attribute]
	if !ok {
		return nil, invalid("Template error: resource %s has no attribute %s", id, clip(attribute))
	}
	return v, e.spend(len(v))
}

// find finds a resource, which its condition must not have left out.
func (e *evaluator) find(id string) (s *state, known bool, err error) {
	r := e.t.resources[id]
	there := r != nil
	if there && r.condition != "" {
		if there, err = e.condition(r.condition); err != nil {
			return nil, false, err
		}
	}
	if !there {
		return nil, false, invalid("Template format error: Unresolved resource dependencies [%s] in the Resources block of the template", clip(id))
	}
	s, known = e.resource(id)
	return s, known, nil
}

// text evaluates what has to be a string; a number or a boolean is taken for its text.
func (e *evaluator) text(function string, v any) (text string, known bool, err error) {
	x, err := e.value(v)
	if err != nil {
		return "", false, err
	}
	switch x := x.(type) {
	case string:
		return x, true, nil
	case json.Number:
		return x.String(), true, nil
	case bool:
		return strconv.FormatBool(x), true, nil
	case unknown:
		return "", false, nil
	}
	return "", false, invalid("Template error: %s has an argument that is not a string.", function)
}

func (e *evaluator) sub(argument any) (any, error) {
	text, own, err := splitSub(argument)
	if err != nil {
		return nil, err
	}
	parts, err := parseSub(text)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	allKnown := true
	for _, p := range parts {
		b.WriteString(p.literal)
		if p.variable == "" {
			continue
		}
		from := any(map[string]any{"Ref": p.variable})
		if v, ok := own[p.variable]; ok {
			from = v
		} else if strings.Contains(p.variable, ".") {
			from = map[string]any{"Fn::GetAtt": p.variable}
		}
		value, known, err := e.text("Fn::Sub", from)
		if err != nil {
			return nil, err
		}
		allKnown = allKnown && known
		b.WriteString(value)
	}
	if !allKnown {
		return unknown{}, nil
	}
	return b.String(), e.spend(b.Len())
}

// list evaluates what has to be a list.
func (e *evaluator) list(function string, v any) (list []any, known bool, err error) {
	x, err := e.value(v)
	if err != nil {
		return nil, false, err
	}
	switch x := x.(type) {
	case []any:
		return x, true, nil
	case unknown:
		return nil, false, nil
	}
	return nil, false, invalid("Template error: %s has an argument that is not a list.", function)
}

func (e *evaluator) join(arguments []any) (any, error) {
	delimiter, _ := arguments[0].(string)
	list, known, err := e.list("Fn::Join", arguments[1])
	if err != nil || !known {
		return unknown{}, err
	}
	if slices.Contains(list, any(unknown{})) {
		return unknown{}, nil
	}
	size := 0
	parts := make([]string, len(list))
	for i, item := range list {
		if parts[i], _, err = e.text("Fn::Join", item); err != nil {
			return nil, err
		}
		size += len(parts[i]) + len(delimiter)
	}
	if err := e.spend(size); err != nil {
		return nil, err
	}
	return strings.Join(parts, delimiter), nil
}

func (e *evaluator) choose(arguments []any) (any, error) {
	index, known, err := e.text("Fn::Select", arguments[0])
	if err != nil || !known {
		return unknown{}, err
	}
	list, known, err := e.list("Fn::Select", arguments[1])
	if err != nil || !known {
		return unknown{}, err
	}
	i, err := strconv.Atoi(index)
	if err != nil || i < 0 || i >= len(list) {
		return nil, invalid("Template error: Fn::Select  cannot select nonexistent value at index %s", clip(index))
	}
	return list[i], nil
}

func (e *evaluator) findInMap(arguments []any) (any, error) {
	var keys [3]string
	for i := range keys {
		var err error
		if keys[i], _, err = e.text("Fn::FindInMap", arguments[i]); err != nil {
			return nil, err
		}
	}
	mapping, _ := e.t.mappings[keys[0]].(map[string]any)
	values, _ := mapping[keys[1]].(map[string]any)
	v, ok := values[keys[2]]
	if !ok {
		return nil, invalid("Template error: Unable to get mapping for %s::%s::%s", clip(keys[0]), clip(keys[1]), clip(keys[2]))
	}
	return e.value(v)
}

// condition decides a condition, once.
func (e *evaluator) condition(name string) (bool, error) {
	if holds, ok := e.decided[name]; ok {
		return holds, nil
	}
	holds, err := e.holds(e.t.conditions[name])
	if err == nil {
		e.decided[name] = holds
	}
	return holds, err
}

func (e *evaluator) holds(v any) (bool, error) {
	object, _ := v.(map[string]any)
	c, ok, err := asCall(object, true)
	if err != nil {
		return false, err
	}
	if !ok {
		return false, invalid("Template format error: Every Conditions member must be a condition function.")
	}
	arguments, _ := c.argument.([]any)
	switch c.name {
	case "Condition":
		name, _ := c.argument.(string)
		return e.condition(name)
	case "Fn::Not":
		holds, err := e.holds(arguments[0])
		return !holds, err
	case "Fn::And", "Fn::Or":
		for _, argument := range arguments {
			holds, err := e.holds(argument)
			if err != nil || holds == (c.name == "Fn::Or") {
				return holds, err
			}
		}
		return c.name == "Fn::And", nil
	case "Fn::Equals":
		a, err := e.value(arguments[0])
		if err != nil {
			return false, err
		}
		b, err := e.value(arguments[1])
		if err != nil {
			return false, err
		}
		return equated(a) == equated(b), nil
	}
	return false, invalid("Template format error: Every Conditions member must be a condition function; %s is none.", clip(c.name))
}

// equated is the text that Fn::Equals compares: 1 and "1" are equal.
func equated(v any) string {
	if isScalar(v) {
		return plainText(v)
	}
	return canonical(v)
}
