package cloudformation

import (
	"crypto/rand"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

// wanted is a resource as a template and its parameters want it.
type wanted struct {
	*resource
	properties properties
}

// change is what has to happen to a resource.
type change int

const (
	noChange change = iota
	addChange
	modifyChange
	replaceChange
	keepChange   // only how it is kept changes: its policies and what it needs
	removeChange // it is no longer wanted
)

// planned is one resource of a plan.
type planned struct {
	id     string
	change change
	want   *wanted // nil for removeChange
	have   *held   // nil for addChange
	// replaces and modifies name the properties that differ, or may differ once what they refer to has been made.
	replaces, modifies []string
}

// plan is what an operation would do, in order. Removals come last, each before what it needs.
type plan struct {
	steps   []planned
	outputs []outputValue // as far as they are known
	changed bool          // outputs or exports change
	imports []string
}

func (p *plan) empty() bool {
	return !p.changed && !slices.ContainsFunc(p.steps, func(s planned) bool { return s.change != noChange })
}

// newEvaluator makes an evaluator whose resources are found with the function given.
func (s *Service) newEvaluator(t *template, st identity, parameters map[string]string, resource func(string) (*state, bool)) *evaluator {
	e := &evaluator{t: t, parameters: t.referred(parameters), stack: st, resource: resource, decided: map[string]bool{}}
	e.imported = func(name string) (string, error) { return s.importValue(st, name) }
	return e
}

// active reports whether a resource's or an output's condition lets it be.
func (e *evaluator) active(condition string) (bool, error) {
	if condition == "" {
		return true, nil
	}
	return e.condition(condition)
}

// order returns the resources that conditions let be, each behind those that it needs.
func (e *evaluator) order() ([]*resource, error) {
	needs := map[string][]string{}
	for id, r := range e.t.resources {
		active, err := e.active(r.condition)
		if err != nil {
			return nil, err
		}
		if active {
			needs[id] = r.dependsOn
		}
	}
	ids, _ := inOrder(needs) // there are no circles: the template was checked
	ordered := make([]*resource, len(ids))
	for i, id := range ids {
		ordered[i] = e.t.resources[id]
	}
	return ordered, nil
}

// What a row keeps is bounded: the properties of one resource, and the outputs of a stack, in bytes of JSON.
const (
	maxProperties = 64 << 10
	maxOutputText = 128 << 10
)

// want evaluates a resource.
func (e *evaluator) want(r *resource, tags []tag) (*wanted, error) {
	v, err := e.value(r.properties)
	if err != nil {
		return nil, err
	}
	p, err := r.typ.normal(r.id, v)
	if err != nil {
		return nil, err
	}
	if r.typ.tagged {
		for _, key := range sortedKeys(p.byName("Tags")) {
			if awsapi.IsSystemTag(key) {
				return nil, reservedTag(key)
			}
		}
		p.withTags("Tags", tags)
	}
	if size := len(canonical(p)); size > maxProperties {
		return nil, invalid("Template error: the properties of resource %s are larger than %d bytes.", r.id, maxProperties)
	}
	return &wanted{resource: r, properties: p}, nil
}

// decide compares what is wanted with what there is.
func decide(w *wanted, h *held) planned {
	step := planned{id: w.id, want: w, have: h}
	if h == nil || h.State == nil {
		step.change = addChange
		return step
	}
	have := h.State
	for _, p := range w.typ.properties {
		v := w.properties[p.name]
		if !hasUnknown(v) && have.Properties.same(w.properties, p.name) {
			continue
		}
		if p.replaces {
			step.replaces = append(step.replaces, p.name)
		} else {
			step.modifies = append(step.modifies, p.name)
		}
	}
	switch {
	case len(step.replaces) > 0:
		step.change = replaceChange
	case len(step.modifies) > 0:
		step.change = modifyChange
	case have.DeletionPolicy != w.deletionPolicy || have.UpdateReplacement != w.updateReplacement || !slices.Equal(have.Requires, w.dependsOn):
		step.change = keepChange
	}
	return step
}

// plan finds out what settings would do to a stack, without doing it. All that a template's values can be wrong in shows here, but
// for what depends on attributes of resources that are yet to be made.
func (s *Service) plan(st identity, t *template, parameters map[string]string, tags []tag, have map[string]*held,
	before []outputValue) (*plan, error) {
	made := map[string]*state{}
	e := s.newEvaluator(t, st, parameters, func(id string) (*state, bool) {
		m, ok := made[id]
		return m, ok
	})
	imported := map[string]bool{}
	read := e.imported
	e.imported = func(name string) (string, error) {
		imported[name] = true
		return read(name)
	}
	p := &plan{}
	ordered, err := e.order()
	if err != nil {
		return nil, err
	}
	kept := map[string]bool{}
	for _, r := range ordered {
		w, err := e.want(r, tags)
		if err != nil {
			return nil, err
		}
		if h := have[r.id]; h != nil && h.State != nil && h.State.Type != r.typ.name {
			return nil, invalid("Update of resource type is not permitted. The new template modifies resource type of the following "+
				"resources: [%s]", r.id)
		}
		step := decide(w, have[r.id])
		kept[r.id] = true
		if step.change != addChange && step.change != replaceChange {
			made[r.id] = step.have.State
		}
		p.steps = append(p.steps, step)
	}
	for _, id := range removalOrder(have) {
		if !kept[id] && have[id].State != nil {
			p.steps = append(p.steps, planned{id: id, change: removeChange, have: have[id]})
		}
	}
	if p.outputs, err = e.outputs(); err != nil {
		return nil, err
	}
	p.changed = !slices.Equal(p.outputs, before)
	p.imports = sortedKeys(imported)
	return p, nil
}

// removalOrder sorts resources so that each comes before those that it needs.
func removalOrder(have map[string]*held) []string {
	needs := map[string][]string{}
	for id, h := range have {
		needs[id] = nil
		for _, s := range h.states() {
			needs[id] = append(needs[id], s.Requires...)
		}
		slices.Sort(needs[id])
		needs[id] = slices.Compact(needs[id])
	}
	ordered, rest := inOrder(needs)
	ordered = append(ordered, rest...) // states of two templates may need each other; then any order is as good
	slices.Reverse(ordered)
	return ordered
}

// states are all states that a resource has at present.
func (h *held) states() []*state {
	var all []*state
	for _, s := range []*state{h.State, h.Before} {
		if s != nil {
			all = append(all, s)
		}
	}
	if h.Intent != nil && h.Intent.Made != nil {
		all = append(all, h.Intent.Made)
	}
	for i := range h.Discard {
		all = append(all, &h.Discard[i])
	}
	return all
}

// unknownOutput stands, in a plan, for the value of an output that is not known yet. No value of a template can be it.
const unknownOutput = "\x00"

func (e *evaluator) outputs() ([]outputValue, error) {
	var values []outputValue
	exports := map[string]bool{}
	for _, id := range sortedKeys(e.t.outputs) {
		o := e.t.outputs[id]
		active, err := e.active(o.condition)
		if err != nil {
			return nil, err
		}
		if !active {
			continue
		}
		v := outputValue{Key: id, Description: o.description}
		text, known, err := e.text("the value of the output "+id, o.value)
		if err != nil {
			return nil, err
		}
		if v.Value = text; !known {
			v.Value = unknownOutput
		}
		if o.export != nil {
			if v.Export, _, err = e.text("the name of an Export", o.export); err != nil {
				return nil, err
			}
			switch {
			case !isExportName(v.Export):
				return nil, invalid("Template format error: Output %s is malformed. The Name field of every Export member must be specified and "+
					"consist only of alphanumeric characters, colons, or hyphens.", id)
			case exports[v.Export]:
				return nil, invalid("Template format error: Duplicate Export names. More than one output exports %s.", v.Export)
			}
			exports[v.Export] = true
		}
		values = append(values, v)
	}
	if len(canonical(values)) > maxOutputText {
		return nil, invalid("Template error: the outputs are larger than %d bytes.", maxOutputText)
	}
	if len(exports) > maxExports {
		return nil, invalid("Template format error: the template has more than %d exports.", maxExports)
	}
	return values, nil
}

// nameFor is the name that a resource will have: the template's, or one like STACK-LOGICALID-XXXXXXXXXXXX, cut to the length that
// the type allows; empty for types that have no name.
func nameFor(st identity, w *wanted) string {
	if name := w.properties.text(w.typ.nameProperty); name != "" {
		return name
	}
	if w.typ.nameLength == 0 {
		return ""
	}
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	suffix := make([]byte, 12)
	rand.Read(suffix)
	for i, b := range suffix {
		suffix[i] = alphabet[int(b)%len(alphabet)] // that 256 is no multiple of 36 costs a fraction of a bit
	}
	room := w.typ.nameLength - len(suffix) - len("--")
	logical := w.id[:min(len(w.id), max(room/2, room-len(st.Name)))]
	stack := st.Name[:min(len(st.Name), room-len(logical))]
	name := stack + "-" + logical + "-" + string(suffix)
	if w.typ.lowerCase {
		return strings.ToLower(name)
	}
	return name
}
