package policy

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// A template is text with policy variables (IAM User Guide, "IAM policy elements: Variables and tags").
type template struct {
	fixed pattern // the text, if parts is nil
	parts []part
}

// A part of a template is a piece of text or a variable.
type part struct {
	text        pattern
	key         string // folded name of the variable's condition key; empty for a piece of text
	name        string // key as written
	fallback    string
	hasFallback bool
}

// templateSpace is the room that evaluation has for a filled template before it must allocate.
const templateSpace = 256

// A grammar says what has a meaning in a template besides the text itself.
type grammar struct {
	variables bool // ${…}: policies of version 2012-10-17 only
	wildcards bool // * and ?
}

// text compiles a piece of text without variables.
func (g grammar) text(s string) pattern {
	if g.wildcards {
		return makePattern(s)
	}
	return pattern(s)
}

// template compiles text, which must be UTF-8.
func (g grammar) template(s string) (template, error) {
	if !g.variables || !strings.Contains(s, "${") {
		return template{fixed: g.text(s)}, nil
	}
	var parts []part
	for s != "" {
		before, rest, found := strings.Cut(s, "${")
		if before != "" {
			parts = append(parts, part{text: g.text(before)})
		}
		if !found {
			break
		}
		p, after, err := parseVariable(rest)
		if err != nil {
			return template{}, err
		}
		parts = append(parts, p)
		s = after
	}
	return template{parts: parts}, nil
}

var errVariable = errors.New("a policy variable is not of the form ${key} or ${key, 'default'}")

// parseVariable reads a variable behind its ${ and returns the text that follows it.
func parseVariable(s string) (p part, after string, err error) {
	for _, literal := range []string{"*", "?", "$"} {
		if after, ok := strings.CutPrefix(s, literal+"}"); ok {
			return part{text: pattern(literal)}, after, nil
		}
	}
	end := strings.IndexAny(s, ",}")
	if end < 1 || strings.ContainsAny(s[:end], "${'*?") {
		return part{}, "", errVariable
	}
	p.key, p.name = foldKey(s[:end]), s[:end]
	if s[end] == '}' {
		return p, s[end+1:], nil
	}
	fallback, ok := strings.CutPrefix(strings.TrimLeft(s[end+1:], " "), "'")
	if !ok {
		return part{}, "", errVariable
	}
	fallback, after, ok = strings.Cut(fallback, "'}")
	if !ok || strings.Contains(fallback, "'") {
		return part{}, "", errVariable
	}
	p.fallback, p.hasFallback = fallback, true
	return p, after, nil
}

// fill puts the variables' values in and appends the result to space, unless there are none. It reports false when a
// variable has no value. Values are literal text: a * in them is no wildcard.
func (t *template) fill(space []byte, c *Context) (pattern, bool) {
	if t.parts == nil {
		return t.fixed, true
	}
	for i := range t.parts {
		p := &t.parts[i]
		if p.key == "" {
			space = append(space, p.text...)
			continue
		}
		value, ok := p.value(c)
		if !ok {
			return nil, false
		}
		space = append(space, value...)
	}
	return space, true
}

// value returns the literal text that the variable stands for, and false if there is none: its key is missing and it has no
// default, or its key has several values or one that is not UTF-8.
func (p *part) value(c *Context) (text string, ok bool) {
	switch e := c.find(p.key); {
	case e == nil:
		return p.fallback, p.hasFallback
	case e.multi || !utf8.ValidString(e.single[0]):
		return "", false
	default:
		return e.single[0], true
	}
}

// unresolved returns the names of the variables that have no value.
func (t template) unresolved(c *Context) (names []string) {
	for i := range t.parts {
		if p := &t.parts[i]; p.key != "" {
			if _, ok := p.value(c); !ok {
				names = append(names, p.name)
			}
		}
	}
	return names
}

// names returns the names of the variables.
func (t template) names() (names []string) {
	for i := range t.parts {
		if t.parts[i].key != "" {
			names = append(names, t.parts[i].name)
		}
	}
	return names
}
