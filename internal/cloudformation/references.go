package cloudformation

import (
	"slices"
	"strconv"
	"strings"
)

// pseudoParameters are what Ref and Fn::Sub know without a declaration (CloudFormation User Guide, "Get AWS values using pseudo
// parameters").
var pseudoParameters = [...]string{
	"AWS::AccountId", "AWS::NotificationARNs", "AWS::NoValue", "AWS::Partition", "AWS::Region", "AWS::StackId", "AWS::StackName",
	"AWS::URLSuffix",
}

// call is a function as a template has it: {"Ref": argument} or {"Fn::Name": argument}.
type call struct {
	name     string
	argument any
}

// asCall reports whether an object is a call of a function. In conditions, {"Condition": name} is one too; elsewhere, policies have
// members of that name.
func asCall(object map[string]any, inCondition bool) (call, bool, error) {
	for name, argument := range object {
		if name != "Ref" && !strings.HasPrefix(name, "Fn::") && (name != "Condition" || !inCondition) {
			continue
		}
		if len(object) == 1 {
			return call{name, argument}, true, nil
		}
		if name != "Condition" && name != "Ref" {
			return call{}, false, invalid("Template error: %s must be the only member of its object.", clip(name))
		}
	}
	return call{}, false, nil
}

// references goes through a part of a template. It checks what can be checked without the values of parameters, and collects
// which resources are referred to.
type references struct {
	t           *template
	block       string // of the template, for error texts
	at          string // where in the template the visit is, for error texts
	inCondition bool
	noResources string // why resources cannot be referred to; empty when they can
	resources   map[string]bool
	conditions  map[string]bool
}

func (r *references) visit(v any) error {
	switch v := v.(type) {
	case nil:
		return invalid("Template format error: [%s] 'null' values are not allowed in templates", clip(r.at))
	case string:
		if i := strings.Index(v, "{{resolve:"); i >= 0 {
			return invalid("Template error: this server does not support dynamic references: %s", clip(v[i:]))
		}
	case []any:
		for i, item := range v {
			if err := r.visitAt(strconv.Itoa(i), item); err != nil {
				return err
			}
		}
	case map[string]any:
		c, ok, err := asCall(v, r.inCondition)
		if err != nil {
			return err
		}
		if ok {
			return r.visitCall(c)
		}
		for _, name := range sortedKeys(v) {
			if err := r.visitAt(name, v[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// visitAt visits what is below a name or an index.
func (r *references) visitAt(name string, v any) error {
	before := r.at
	r.at += "/" + name
	defer func() { r.at = before }()
	return r.visit(v)
}

func (r *references) visitCall(c call) error {
	arguments, _ := c.argument.([]any)
	switch c.name {
	case "Ref":
		name, ok := c.argument.(string)
		if !ok {
			return invalid("Template format error: Every Ref object must have a single String value.")
		}
		return r.visitName(name)
	case "Fn::GetAtt":
		id, attribute, err := splitGetAtt(c.argument)
		if err != nil {
			return err
		}
		return r.visitAttribute(c.name, id, attribute)
	case "Fn::Sub":
		return r.visitSub(c.argument)
	case "Fn::If":
		if len(arguments) != 3 {
			return invalid("Template error: Fn::If requires a list argument with three parameters")
		}
		if err := r.visitCondition(arguments[0]); err != nil {
			return err
		}
		return r.visit(arguments[1:])
	case "Condition":
		return r.visitCondition(c.argument)
	case "Fn::And", "Fn::Or":
		if r.inCondition && (len(arguments) < 2 || len(arguments) > 10) {
			return invalid("Template validation error: %s object requires a list of at least 2 and at most 10 conditions.", c.name)
		}
		return r.visitLogic(c)
	case "Fn::Not":
		if r.inCondition && len(arguments) != 1 {
			return invalid("Template validation error: Fn::Not object requires a list of one condition.")
		}
		return r.visitLogic(c)
	case "Fn::Equals":
		if r.inCondition && len(arguments) != 2 {
			return invalid("Template error: every Fn::Equals object requires a list of two string parameters.")
		}
		return r.visitLogic(c)
	case "Fn::FindInMap":
		if len(arguments) != 3 {
			return invalid("Template error: every Fn::FindInMap object requires three parameters, the map name, map key and the attribute " +
				"for return value")
		}
		if name, ok := arguments[0].(string); ok && r.t.mappings[name] == nil {
			return invalid("Template validation error: Mapping named '%s' is not present in the 'Mappings' section of template.", clip(name))
		}
		return r.without("Fn::FindInMap", arguments)
	case "Fn::ImportValue":
		return r.without("Fn::ImportValue", c.argument)
	case "Fn::Join":
		if _, ok := first(arguments).(string); !ok || len(arguments) != 2 {
			return invalid("Template error: every Fn::Join object requires two parameters, (1) a string delimiter and (2) a list of strings " +
				"to be joined or a function that returns a list of strings (such as Fn::GetAZs) to be joined.")
		}
		return r.visit(arguments[1])
	case "Fn::Split":
		if _, ok := first(arguments).(string); !ok || len(arguments) != 2 {
			return invalid("Template error: every Fn::Split object requires two parameters, (1) a string delimiter and (2) a string to be split " +
				"or a function that returns a string to be split.")
		}
		return r.visit(arguments[1])
	case "Fn::Select":
		if len(arguments) != 2 {
			return invalid("Template error: Fn::Select requires a list argument with two elements: an integer index and a list")
		}
		return r.visit(arguments)
	case "Fn::Base64":
		return r.visit(c.argument)
	}
	return invalid("Template error: the function %s is not supported by this server.", clip(c.name))
}

func first(list []any) any {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

// without visits arguments whose values must be known before any resource is made.
func (r *references) without(function string, arguments any) error {
	before := r.noResources
	r.noResources = "the attributes of " + function + " can't depend on any resources"
	defer func() { r.noResources = before }()
	return r.visit(arguments)
}

func (r *references) visitLogic(c call) error {
	if !r.inCondition {
		return invalid("Template error: %s can only be used in the Conditions block of the template.", c.name)
	}
	return r.visit(c.argument)
}

func (r *references) visitCondition(v any) error {
	name, ok := v.(string)
	if _, there := r.t.conditions[name]; !ok || !there {
		return invalid("Template format error: Unresolved condition dependency %s in the %s block of the template", clip(plainText(v)), r.block)
	}
	r.conditions[name] = true
	return nil
}

// visitName is a reference to a parameter or to a resource itself.
func (r *references) visitName(name string) error {
	if slices.Contains(pseudoParameters[:], name) || r.t.parameters[name] != nil {
		return nil
	}
	if r.t.resources[name] == nil {
		return r.unresolved(name)
	}
	return r.visitResource(name)
}

func (r *references) visitAttribute(function, id, attribute string) error {
	res := r.t.resources[id]
	switch {
	case res == nil && function == "Fn::GetAtt":
		return invalid("Template error: instance of Fn::GetAtt references undefined resource %s", clip(id))
	case res == nil:
		return r.unresolved(id)
	case !slices.Contains(res.typ.attributes, attribute):
		return invalid("Template error: resource %s does not support attribute type %s in %s", id, clip(attribute), function)
	}
	return r.visitResource(id)
}

func (r *references) unresolved(name string) error {
	if r.inCondition {
		return invalid("Template format error: Unresolved dependencies [%s]. Cannot reference resources in the Conditions block of the template",
			clip(name))
	}
	return invalid("Template format error: Unresolved resource dependencies [%s] in the %s block of the template", clip(name), r.block)
}

func (r *references) visitResource(id string) error {
	switch {
	case r.inCondition:
		return r.unresolved(id)
	case r.noResources != "":
		return invalid("Template error: %s: %s", r.noResources, id)
	}
	r.resources[id] = true
	return nil
}

// splitGetAtt reads both forms of the argument: "a.b" and ["a", "b"].
func splitGetAtt(argument any) (id, attribute string, err error) {
	if text, ok := argument.(string); ok {
		if id, attribute, ok = strings.Cut(text, "."); ok {
			return id, attribute, nil
		}
	}
	if list, ok := argument.([]any); ok && len(list) == 2 {
		id, isID := list[0].(string)
		attribute, isAttribute := list[1].(string)
		if isID && isAttribute {
			return id, attribute, nil
		}
	}
	return "", "", invalid("Template error: every Fn::GetAtt object requires two non-empty parameters, the resource name and the " +
		"resource attribute")
}

func (r *references) visitSub(argument any) error {
	text, own, err := splitSub(argument)
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(own) {
		if err := r.visit(own[name]); err != nil {
			return err
		}
	}
	if strings.Contains(text, "{{resolve:") {
		return r.visit(text)
	}
	parts, err := parseSub(text)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if _, ok := own[p.variable]; ok || p.variable == "" {
			continue
		}
		if id, attribute, ok := strings.Cut(p.variable, "."); ok {
			err = r.visitAttribute("Fn::Sub", id, attribute)
		} else {
			err = r.visitName(p.variable)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// splitSub reads both forms of the argument: a text, and a text with variables of its own.
func splitSub(argument any) (text string, own map[string]any, err error) {
	if text, ok := argument.(string); ok {
		return text, nil, nil
	}
	if list, ok := argument.([]any); ok && len(list) == 2 {
		text, isText := list[0].(string)
		own, isObject := list[1].(map[string]any)
		if isText && isObject {
			return text, own, nil
		}
	}
	return "", nil, invalid("Template error: One or more Fn::Sub intrinsic functions don't specify expected arguments. Specify a string as " +
		"first argument, and an optional second argument to specify a mapping of values to replace in the string")
}

// subPart is literal text, or a variable.
type subPart struct{ literal, variable string }

// parseSub takes the text of Fn::Sub apart. ${!Name} stands for the text ${Name}.
func parseSub(text string) ([]subPart, error) {
	var parts []subPart
	for {
		before, rest, found := strings.Cut(text, "${")
		name, after, closed := strings.Cut(rest, "}")
		if !found || !closed {
			return append(parts, subPart{literal: text}), nil
		}
		if escaped, ok := strings.CutPrefix(name, "!"); ok {
			parts = append(parts, subPart{literal: before + "${" + escaped + "}"})
		} else {
			name = strings.TrimSpace(name)
			if name == "" || strings.ContainsFunc(name, notInVariable) {
				return nil, invalid("Template error: variable names in Fn::Sub syntax must contain only alphanumeric characters, underscores, " +
					"periods, and colons")
			}
			parts = append(parts, subPart{literal: before}, subPart{variable: name})
		}
		text = after
	}
}

func notInVariable(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_' && r != '.' && r != ':'
}

// checkReferences checks all that the template refers to, and enters into each resource which others it needs.
func (t *template) checkReferences(map[string]any) error {
	within := map[string][]string{}
	for _, name := range sortedKeys(t.conditions) {
		r := &references{t: t, block: "Conditions", at: "/Conditions/" + name, inCondition: true, conditions: map[string]bool{}}
		if err := r.visit(t.conditions[name]); err != nil {
			return err
		}
		if object, ok := t.conditions[name].(map[string]any); !ok || !isLogic(object) {
			return invalid("Template format error: Every Conditions member must be a condition function; %s is none.", name)
		}
		within[name] = sortedKeys(r.conditions)
	}
	if _, rest := inOrder(within); len(rest) > 0 {
		return invalid("Template error: Found circular condition dependency between: [%s]", strings.Join(rest, ", "))
	}
	needs := map[string][]string{}
	for _, id := range sortedKeys(t.resources) {
		res := t.resources[id]
		r := &references{t: t, block: "Resources", at: "/Resources/" + id + "/Properties", resources: map[string]bool{}, conditions: map[string]bool{}}
		if err := r.visitWhole(res.condition, res.properties); err != nil {
			return err
		}
		for _, other := range res.dependsOn {
			if t.resources[other] == nil {
				return r.unresolved(other)
			}
			r.resources[other] = true
		}
		needs[id] = sortedKeys(r.resources)
	}
	if _, rest := inOrder(needs); len(rest) > 0 {
		return invalid("Circular dependency between resources: [%s]", strings.Join(rest, ", "))
	}
	for id, others := range needs {
		t.resources[id].dependsOn = others
	}
	for _, id := range sortedKeys(t.outputs) {
		o := t.outputs[id]
		r := &references{t: t, block: "Outputs", at: "/Outputs/" + id + "/Value", resources: map[string]bool{}, conditions: map[string]bool{}}
		if err := r.visitWhole(o.condition, o.value); err != nil {
			return err
		}
		if o.export == nil {
			continue
		}
		if err := r.without("the name of an Export", o.export); err != nil {
			return err
		}
	}
	return nil
}

// visitWhole visits a resource or an output: its condition, unless it has none, and its content.
func (r *references) visitWhole(condition string, content any) error {
	if condition != "" {
		if err := r.visitCondition(condition); err != nil {
			return err
		}
	}
	return r.visit(content)
}

func isLogic(object map[string]any) bool {
	c, ok, _ := asCall(object, true)
	return ok && slices.Contains([]string{"Fn::And", "Fn::Or", "Fn::Not", "Fn::Equals", "Condition"}, c.name)
}

// inOrder sorts names so that each comes behind those that it needs, and otherwise by name. rest are those that it cannot place,
// because they need each other.
func inOrder(needs map[string][]string) (ordered, rest []string) {
	left := make(map[string]int, len(needs))
	neededBy := map[string][]string{}
	for name, others := range needs {
		left[name] = 0
		for _, other := range others {
			if _, there := needs[other]; there {
				left[name]++
				neededBy[other] = append(neededBy[other], name)
			}
		}
	}
	var ready []string
	for _, name := range sortedKeys(left) {
		if left[name] == 0 {
			ready = append(ready, name)
		}
	}
	for len(ready) > 0 {
		name := ready[0]
		ready = ready[1:]
		ordered = append(ordered, name)
		delete(left, name)
		for _, other := range neededBy[name] {
			if left[other]--; left[other] == 0 {
				at, _ := slices.BinarySearch(ready, other)
				ready = slices.Insert(ready, at, other)
			}
		}
	}
	return ordered, sortedKeys(left)
}
