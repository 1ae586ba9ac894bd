package cloudformation

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// The limits of a template (CloudFormation User Guide, "Understand CloudFormation quotas").
const (
	maxTemplate    = 51_200 // bytes
	maxResources   = 500
	maxParameters  = 200
	maxOutputs     = 200
	maxMappings    = 200
	maxDescription = 1024 // bytes
	maxLogicalID   = 255
)

// template is a template that holds together by itself: its sections have the right form, what it refers to is there, and its
// types and functions are served.
type template struct {
	description string
	metadata    any
	parameters  map[string]*parameter
	mappings    map[string]any
	conditions  map[string]any
	resources   map[string]*resource
	outputs     map[string]*output
}

// resource is a resource as the template has it.
type resource struct {
	id                string
	typ               *resourceType
	properties        map[string]any
	dependsOn         []string
	condition         string
	deletionPolicy    string // Delete when empty
	updateReplacement string // the UpdateReplacePolicy; Delete when empty
}

type output struct {
	description string
	condition   string
	value       any
	export      any // name; nil for none
}

// What happens to a resource that goes (CloudFormation User Guide, "DeletionPolicy attribute").
const (
	policyDelete               = "Delete"
	policyRetain               = "Retain"
	policyRetainExceptOnCreate = "RetainExceptOnCreate"
)

// parseTemplate reads and checks a template.
func parseTemplate(text string) (*template, error) {
	if len(text) > maxTemplate {
		return nil, invalid("1 validation error detected: Value at 'templateBody' failed to satisfy constraint: "+
			"Member must have length less than or equal to %d", maxTemplate)
	}
	v, err := parseText(text)
	if err != nil {
		return nil, err
	}
	top, ok := v.(map[string]any)
	if !ok {
		return nil, invalid("Template format error: unsupported structure.")
	}
	t := &template{parameters: map[string]*parameter{}, resources: map[string]*resource{}, outputs: map[string]*output{}}
	var unknown []string
	for _, name := range sortedKeys(top) {
		switch name {
		case "AWSTemplateFormatVersion", "Description", "Metadata", "Parameters", "Mappings", "Conditions", "Resources", "Outputs":
		case "Transform", "Rules", "Hooks":
			return nil, invalid("Template format error: this server does not support the section %s.", name)
		default:
			unknown = append(unknown, clip(name))
		}
	}
	if len(unknown) > 0 {
		return nil, invalid("Invalid template property or properties [%s]", strings.Join(unknown, ", "))
	}
	for _, read := range []func(*template, map[string]any) error{
		(*template).readHead, (*template).readParameters, (*template).readMappings, (*template).readConditions,
		(*template).readResources, (*template).readOutputs, (*template).checkReferences,
	} {
		if err := read(t, top); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// noBuckets is why a template with buckets is refused.
const noBuckets = "This server does not support the resource type AWS::S3::Bucket: it keeps no buckets of its own."

// parse is parseTemplate for the templates of requests: it refuses types that this server cannot make.
func (s *Service) parse(text string) (*template, error) {
	t, err := parseTemplate(text)
	if err != nil {
		return nil, err
	}
	for _, r := range t.resources {
		if r.typ.bucket && s.buckets == nil {
			return nil, invalid("Template format error: %s", noBuckets)
		}
	}
	return t, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (t *template) readHead(top map[string]any) error {
	if v, ok := top["AWSTemplateFormatVersion"]; ok && v != "2010-09-09" {
		return invalid("Template format error: Unrecognized template format version: %s", clip(plainText(v)))
	}
	if v, ok := top["Description"]; ok {
		if t.description, ok = v.(string); !ok {
			return invalid("Template format error: every Description member must be a string.")
		}
		if len(t.description) > maxDescription {
			return invalid("Template format error: the Description is longer than %d bytes.", maxDescription)
		}
	}
	t.metadata = top["Metadata"]
	return nil
}

// section returns a part of the template that has to be an object; nil when it is not there.
func section(top map[string]any, name string, limit int) (map[string]any, error) {
	v, ok := top[name]
	if !ok {
		return nil, nil
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, invalid("Template format error: %s must be an object.", name)
	}
	if len(object) > limit {
		return nil, invalid("Template format error: Number of %s, %d, is greater than maximum allowed, %d",
			strings.ToLower(name), len(object), limit)
	}
	for id := range object {
		if !isLogicalID(id) && name != "Mappings" {
			return nil, invalid("Template format error: %s name '%s' is non alphanumeric.", strings.TrimSuffix(name, "s"), clip(id))
		}
	}
	return object, nil
}

func isLogicalID(id string) bool {
	return id != "" && len(id) <= maxLogicalID && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

func (t *template) readParameters(top map[string]any) error {
	from, err := section(top, "Parameters", maxParameters)
	if err != nil {
		return err
	}
	for _, id := range sortedKeys(from) {
		p, err := readParameter(id, from[id])
		if err != nil {
			return err
		}
		t.parameters[id] = p
	}
	return nil
}

// readMappings checks that a mapping has two levels of keys, and strings or lists of them below.
func (t *template) readMappings(top map[string]any) (err error) {
	if t.mappings, err = section(top, "Mappings", maxMappings); err != nil {
		return err
	}
	for _, name := range sortedKeys(t.mappings) {
		keys, ok := t.mappings[name].(map[string]any)
		if !ok {
			return invalid("Template format error: Every Mappings member %s must be a map", clip(name))
		}
		for _, key := range sortedKeys(keys) {
			values, ok := keys[key].(map[string]any)
			if !ok {
				return invalid("Template format error: Every Mappings attribute must be a map; %s in %s is none.", clip(key), clip(name))
			}
			for _, attribute := range sortedKeys(values) {
				if !isScalarOrList(values[attribute]) {
					return invalid("Template format error: Every Mappings attribute must be a String or a List; %s of %s in %s is neither.",
						clip(attribute), clip(key), clip(name))
				}
			}
		}
	}
	return nil
}

func isScalarOrList(v any) bool {
	if list, ok := v.([]any); ok {
		return !slices.ContainsFunc(list, func(item any) bool { return !isScalar(item) })
	}
	return isScalar(v)
}

func isScalar(v any) bool {
	switch v.(type) {
	case string, bool, json.Number:
		return true
	}
	return false
}

func (t *template) readConditions(top map[string]any) (err error) {
	t.conditions, err = section(top, "Conditions", maxResources)
	return err
}

func (t *template) readResources(top map[string]any) error {
	from, err := section(top, "Resources", maxResources)
	if err != nil {
		return err
	}
	if len(from) == 0 {
		return invalid("Template format error: At least one Resources member must be defined.")
	}
	var unknown []string
	for _, id := range sortedKeys(from) {
		object, ok := from[id].(map[string]any)
		if !ok {
			return invalid("Template format error: [/Resources/%s] resource definition is malformed", id)
		}
		name, ok := object["Type"].(string)
		if !ok {
			return invalid("Template format error: [/Resources/%s] Every Resources object must contain a Type member.", id)
		}
		typ := typeNamed(name)
		if typ == nil {
			unknown = append(unknown, clip(name))
			continue
		}
		r := &resource{id: id, typ: typ, properties: map[string]any{}}
		if err := r.read(object); err != nil {
			return err
		}
		t.resources[id] = r
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return invalid("Template format error: Unrecognized resource types: [%s]", strings.Join(slices.Compact(unknown), ", "))
	}
	return nil
}

func (r *resource) read(object map[string]any) error {
	for _, name := range sortedKeys(object) {
		v, ok := object[name], true
		switch name {
		case "Type", "Metadata":
		case "Properties":
			r.properties, ok = v.(map[string]any)
		case "Condition":
			r.condition, ok = v.(string)
		case "DependsOn":
			r.dependsOn, ok = texts(v)
		case "DeletionPolicy":
			r.deletionPolicy, ok = v.(string)
			ok = ok && slices.Contains([]string{policyDelete, policyRetain, policyRetainExceptOnCreate}, r.deletionPolicy)
		case "UpdateReplacePolicy":
			r.updateReplacement, ok = v.(string)
			ok = ok && slices.Contains([]string{policyDelete, policyRetain}, r.updateReplacement)
		case "CreationPolicy", "UpdatePolicy":
			return invalid("Template format error: [/Resources/%s] this server does not support the attribute %s.", r.id, name)
		default:
			return invalid("Invalid template resource property '%s'", clip(name))
		}
		if !ok {
			return invalid("Template format error: [/Resources/%s/%s] %s has a value that is not supported.", r.id, name, name)
		}
	}
	return r.typ.checkNames(r)
}

// texts reads a string or a list of strings.
func texts(v any) ([]string, bool) {
	if text, ok := v.(string); ok {
		return []string{text}, true
	}
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	out := make([]string, len(list))
	for i, item := range list {
		if out[i], ok = item.(string); !ok {
			return nil, false
		}
	}
	return out, true
}

func (t *template) readOutputs(top map[string]any) error {
	from, err := section(top, "Outputs", maxOutputs)
	if err != nil {
		return err
	}
	for _, id := range sortedKeys(from) {
		object, ok := from[id].(map[string]any)
		if !ok {
			return invalid("Template format error: Output %s is malformed.", id)
		}
		o := &output{}
		for _, name := range sortedKeys(object) {
			v, ok := object[name], true
			switch name {
			case "Description":
				o.description, ok = v.(string)
			case "Condition":
				o.condition, ok = v.(string)
			case "Value":
				o.value = v
			case "Export":
				export, isObject := v.(map[string]any)
				o.export, ok = export["Name"]
				ok = ok && isObject && len(export) == 1
			default:
				return invalid("Invalid template output property '%s'", clip(name))
			}
			if !ok {
				return invalid("Template format error: Output %s has a malformed %s.", id, name)
			}
		}
		if o.value == nil {
			return invalid("Template format error: Output %s is malformed. Every Outputs member must contain a Value object", id)
		}
		t.outputs[id] = o
	}
	return nil
}

// capabilities are what the caller has to acknowledge, and which types ask for it.
func (t *template) capabilities() (needed string, types []string) {
	for _, id := range sortedKeys(t.resources) {
		r := t.resources[id]
		if !r.typ.iam {
			continue
		}
		if needed == "" {
			needed = "CAPABILITY_IAM"
		}
		if _, named := r.properties[r.typ.nameProperty]; named && r.typ.nameProperty != "" {
			needed = "CAPABILITY_NAMED_IAM"
		}
		if !slices.Contains(types, r.typ.name) {
			types = append(types, r.typ.name)
		}
	}
	slices.Sort(types)
	return needed, types
}

// plainText shows a value in an error text.
func plainText(v any) string {
	if text, ok := v.(string); ok {
		return text
	}
	return canonical(v)
}
