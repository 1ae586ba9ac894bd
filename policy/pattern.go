package policy

import (
	"strings"
	"unicode/utf8"
)

// A pattern is text in which two bytes that no UTF-8 text contains stand for the wildcards. So a * or ? that is meant
// literally, such as one in a variable's value, needs no quoting.
type pattern []byte

const (
	anyRun = 0xfe // matches any characters, also none
	anyOne = 0xff // matches one character
)

// makePattern compiles text in which * and ? are wildcards. The text must be UTF-8.
func makePattern(text string) pattern {
	p := pattern(text)
	for i, b := range p {
		switch b {
		case '*':
			p[i] = anyRun
		case '?':
			p[i] = anyOne
		}
	}
	return p
}

// matches reports whether the whole text fits. When it comes to a dead end it goes back to the last * only: whatever
// an earlier one could take, the last one can take too. So the time is at most len(p) times len(text).
func (p pattern) matches(text string) bool {
	i, j := 0, 0
	star, mark := -1, 0 // the last * in p, and the end of what it has taken
	for j < len(text) {
		if i < len(p) {
			switch b := p[i]; {
			case b == anyRun:
				i++
				star, mark = i, j
				if i == len(p) {
					return true
				}
				continue
			case b == anyOne:
				i++
				j += characterSize(text[j:])
				continue
			case b == text[j]:
				i++
				j++
				continue
			}
		}
		if star < 0 {
			return false
		}
		mark += characterSize(text[mark:])
		i, j = star, mark
	}
	for i < len(p) && p[i] == anyRun {
		i++
	}
	return i == len(p)
}

// characterSize returns the length in bytes of the first character of s, which is not empty.
func characterSize(s string) int {
	if s[0] < utf8.RuneSelf {
		return 1
	}
	_, size := utf8.DecodeRuneInString(s)
	return size
}

// An actionPattern is an action such as s3:Get*, in lower case because actions are case-insensitive. The lone * is
// a pair of patterns that match everything.
type actionPattern struct{ vendor, name pattern }

func makeActionPattern(vendor, name string) actionPattern {
	return actionPattern{makePattern(strings.ToLower(vendor)), makePattern(strings.ToLower(name))}
}

type actionSet struct {
	not  bool // NotAction: the actions that the patterns do not match
	list []actionPattern
}

// contains takes an action's two parts in lower case.
func (s *actionSet) contains(vendor, name string) bool {
	for i := range s.list {
		if s.list[i].vendor.matches(vendor) && s.list[i].name.matches(name) {
			return !s.not
		}
	}
	return s.not
}

// The fields of an ARN.
const (
	arnPrefix = iota
	arnPartition
	arnService
	arnRegion
	arnAccount
	arnResource
	arnFields
)

// splitARN cuts s at its first five colons and returns the number of fields that it has.
func splitARN[T string | pattern](s T) (fields [arnFields]T, n int) {
	start := 0
	for i := 0; i < len(s) && n < arnResource; i++ {
		if s[i] == ':' {
			fields[n] = s[start:i]
			start = i + 1
			n++
		}
	}
	fields[n] = s[start:]
	return fields, n + 1
}

// A target is a request's resource, split once for all patterns.
type target struct {
	fields [arnFields]string
	isARN  bool
}

func makeTarget(resource string) target {
	fields, n := splitARN(resource)
	return target{fields, n == arnFields && fields[arnPrefix] == "arn"}
}

// A resourcePattern is the pattern of an ARN, whose fields are compared one by one; the last may have variables.
type resourcePattern struct {
	all      bool // the lone *, which also matches actions without a resource
	fields   [arnResource]pattern
	resource template
}

// matches reports whether the resource fits, and false for resolved if it could not tell for want of a variable's value.
func (p *resourcePattern) matches(t *target, c *Context) (fits, resolved bool) {
	if p.all {
		return true, true
	}
	if !t.isARN {
		return false, true
	}
	for i := arnPartition; i < arnResource; i++ {
		if !p.fields[i].matches(t.fields[i]) {
			return false, true
		}
	}
	var space [templateSpace]byte
	resource, ok := p.resource.fill(space[:0], c)
	return ok && resource.matches(t.fields[arnResource]), ok
}

type resourceSet struct {
	not  bool // NotResource: the resources that the patterns do not match
	list []resourcePattern
}

// contains reports whether the statement's Resource or NotResource element takes in the resource. A pattern whose
// variable has no value matches nothing. In a NotResource element that must not widen what an Allow allows: there the
// element takes in nothing, while that of a Deny takes in everything that its other patterns leave.
func (s *resourceSet) contains(t *target, c *Context, deny bool) bool {
	unresolved := false
	for i := range s.list {
		fits, resolved := s.list[i].matches(t, c)
		if fits {
			return !s.not
		}
		unresolved = unresolved || !resolved
	}
	return s.not && (deny || !unresolved)
}
