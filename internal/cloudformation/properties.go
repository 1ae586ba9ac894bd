package cloudformation

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// kind is what a property's value has to be. Values are brought into one form, so that what means the same is the same: text is a
// string, a number is a float64, a document is its JSON text.
type kind int

const (
	textKind     kind = iota + 1 // string
	numberKind                   // float64
	flagKind                     // bool
	documentKind                 // string: the JSON text of a policy
	textsKind                    // []any of strings
	tagsKind                     // map[string]any of strings, by key
	policiesKind                 // map[string]any of documents, by name
	podRolesKind                 // map[string]any of roles' ARNs, by service account
	scopesKind                   // map[string]any of access scopes, by the access policy's ARN
	scopeKind                    // map[string]any: Type, and Namespaces unless there are none
)

// property is a property that a resource type has.
type property struct {
	name     string
	kind     kind
	required bool
	replaces bool // it cannot be changed: another value takes another resource
}

// properties are a resource's properties, evaluated and in their one form.
type properties map[string]any

func (p properties) text(name string) string {
	text, _ := p[name].(string)
	return text
}

// texts returns a list of strings.
func (p properties) texts(name string) []string {
	list, _ := p[name].([]any)
	out := make([]string, 0, len(list))
	for _, item := range list {
		if text, ok := item.(string); ok {
			out = append(out, text)
		}
	}
	return out
}

// byName returns tags or policies.
func (p properties) byName(name string) map[string]string {
	object, _ := p[name].(map[string]any)
	out := make(map[string]string, len(object))
	for key, v := range object {
		out[key], _ = v.(string)
	}
	return out
}

// only returns the properties with the given names.
func (p properties) only(names []string) properties {
	out := properties{}
	for _, name := range names {
		if v, ok := p[name]; ok {
			out[name] = v
		}
	}
	return out
}

// same reports whether a property has the same value in both.
func (p properties) same(q properties, name string) bool {
	return canonical(p[name]) == canonical(q[name])
}

// hasUnknown reports whether a value is, or holds, what is not known yet.
func hasUnknown(v any) bool {
	switch v := v.(type) {
	case unknown:
		return true
	case []any:
		return slices.ContainsFunc(v, hasUnknown)
	case map[string]any:
		for _, item := range v {
			if hasUnknown(item) {
				return true
			}
		}
	}
	return false
}

// checkNames holds a resource of a template to its type: no property that the type does not have, none missing that it needs.
func (t *resourceType) checkNames(r *resource) error {
	for _, name := range sortedKeys(r.properties) {
		if t.property(name) == nil && !strings.HasPrefix(name, "Fn::") {
			return invalid("Properties validation failed for resource %s with message:\n#: extraneous key [%s] is not permitted", r.id, clip(name))
		}
	}
	for _, p := range t.properties {
		if _, ok := r.properties[p.name]; p.required && !ok {
			return invalid("Properties validation failed for resource %s with message:\n#: required key [%s] not found", r.id, p.name)
		}
	}
	return nil
}

func (t *resourceType) property(name string) *property {
	for i := range t.properties {
		if t.properties[i].name == name {
			return &t.properties[i]
		}
	}
	return nil
}

// normal brings evaluated properties into their one form. Unknown values stay what they are.
func (t *resourceType) normal(id string, v any) (properties, error) {
	object, ok := v.(map[string]any)
	if !ok {
		return nil, invalid("Properties validation failed for resource %s with message:\n#: expected type: JSONObject", id)
	}
	out := make(properties, len(object))
	for _, name := range sortedKeys(object) {
		p := t.property(name)
		if p == nil {
			return nil, invalid("Properties validation failed for resource %s with message:\n#: extraneous key [%s] is not permitted", id, clip(name))
		}
		x, ok := p.kind.normal(object[name])
		if !ok {
			return nil, invalid("Properties validation failed for resource %s with message:\n#/%s: expected type: %s", id, name, p.kind)
		}
		out[name] = x
	}
	for _, p := range t.properties {
		if _, ok := out[p.name]; p.required && !ok { // it had AWS::NoValue
			return nil, invalid("Properties validation failed for resource %s with message:\n#: required key [%s] not found", id, p.name)
		}
	}
	return out, nil
}

// String names a kind in error texts.
func (k kind) String() string {
	switch k {
	case textKind:
		return "String"
	case numberKind:
		return "Number"
	case flagKind:
		return "Boolean"
	case documentKind:
		return "JSONObject"
	case textsKind:
		return "JSONArray of String"
	case tagsKind:
		return "JSONArray of Tag"
	case policiesKind:
		return "JSONArray of Policy"
	case podRolesKind:
		return "JSONArray of PodIdentityAssociation"
	case scopesKind:
		return "JSONArray of AccessPolicy"
	case scopeKind:
		return "AccessScope"
	}
	return "nothing"
}

func (k kind) normal(v any) (any, bool) {
	if v == (unknown{}) {
		return v, true
	}
	switch k {
	case textKind:
		return plainText(v), isScalar(v)
	case numberKind:
		f, err := strconv.ParseFloat(plainText(v), 64)
		return f, err == nil && isScalar(v)
	case flagKind:
		b, err := strconv.ParseBool(strings.ToLower(plainText(v)))
		return b, err == nil && isScalar(v)
	case documentKind:
		return document(v)
	case textsKind:
		list, ok := v.([]any)
		out := make([]any, 0, len(list))
		for _, item := range list {
			x, fits := textKind.normal(item)
			ok = ok && fits
			out = append(out, x)
		}
		return out, ok
	case tagsKind:
		return byName(v, "Key", "Value", textKind)
	case policiesKind:
		return byName(v, "PolicyName", "PolicyDocument", documentKind)
	case podRolesKind:
		return byName(v, "ServiceAccount", "RoleArn", textKind)
	case scopesKind:
		return byName(v, "PolicyArn", "AccessScope", scopeKind)
	case scopeKind:
		return scope(v)
	}
	return nil, false
}

// scope is where an access policy applies. The order of its namespaces does not matter.
func scope(v any) (any, bool) {
	object, ok := v.(map[string]any)
	if hasUnknown(object) {
		return unknown{}, true
	}
	out := make(map[string]any, len(object))
	for name, member := range object {
		fits := false
		switch name {
		case "Type":
			out[name], fits = textKind.normal(member)
		case "Namespaces":
			out[name], fits = textsKind.normal(member)
		}
		ok = ok && fits
	}
	if list := properties(out).texts("Namespaces"); len(list) > 0 {
		slices.Sort(list)
		out["Namespaces"] = anys(list)
	} else {
		delete(out, "Namespaces")
	}
	return out, ok && out["Type"] != nil
}

// document is the text of a policy that is an object, or a text of one.
func document(v any) (any, bool) {
	switch v := v.(type) {
	case map[string]any:
		if hasUnknown(v) {
			return unknown{}, true
		}
		return canonical(v), true
	case string:
		d := jsontext.NewDecoder(strings.NewReader(v))
		object, err := readJSON(d, 0)
		if _, ok := object.(map[string]any); !ok || err != nil {
			return nil, false
		}
		return canonical(object), true
	}
	return nil, false
}

// byName turns a list of pairs into a map.
func byName(v any, key, value string, values kind) (any, bool) {
	list, ok := v.([]any)
	out := make(map[string]any, len(list))
	for _, item := range list {
		if item == (unknown{}) {
			return unknown{}, true
		}
		pair, isObject := item.(map[string]any)
		name, isText := textKind.normal(pair[key])
		x, fits := values.normal(pair[value])
		text, known := name.(string)
		switch {
		case !ok || !isObject || !isText || !fits || len(pair) != 2:
			return nil, false
		case !known:
			return unknown{}, true
		}
		if _, twice := out[text]; twice {
			return nil, false
		}
		out[text] = x
	}
	return out, ok
}

// withTags adds a stack's tags to those of a resource, which come first.
func (p properties) withTags(name string, stack []tag) {
	if len(stack) == 0 {
		return
	}
	own, _ := p[name].(map[string]any)
	if p[name] == (unknown{}) {
		return
	}
	tags := make(map[string]any, len(own)+len(stack))
	for _, t := range stack {
		tags[t.Key] = t.Value
	}
	maps.Copy(tags, own)
	p[name] = tags
}
