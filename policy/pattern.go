package policy

import (
	"bytes"
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

// matches reports whether the whole text fits. What stands between two stars may be taken where it fits first, since that
// leaves the most for the rest; so nothing is ever tried again, and the time is linear in the pattern and the text.
func (p pattern) matches(text string) bool {
	star := bytes.IndexByte(p, anyRun)
	if star < 0 {
		end, ok := p.fitsStart(text)
		return ok && end == len(text)
	}
	piece, rest := p[:star], p[star+1:]
	end, ok := piece.fitsStart(text)
	for ok {
		text = text[end:]
		if star = bytes.IndexByte(rest, anyRun); star < 0 {
			return rest.fitsEnd(text)
		}
		piece, rest = rest[:star], rest[star+1:]
		end, ok = piece.fitsFirst(text)
	}
	return false
}

// fitsStart reports whether text begins with what fits p, which has no star, and where that ends.
func (p pattern) fitsStart(text string) (end int, ok bool) {
	for _, b := range p {
		switch {
		case end == len(text):
			return 0, false
		case b == anyOne:
			end += characterSize(text[end:])
		case b == text[end]:
			end++
		default:
			return 0, false
		}
	}
	return end, true
}

// fitsEnd reports whether text ends with what fits p, which has no star.
func (p pattern) fitsEnd(text string) bool {
	for i := len(p) - 1; i >= 0; i-- {
		switch {
		case text == "":
			return false
		case p[i] == anyOne:
			_, size := utf8.DecodeLastRuneInString(text)
			text = text[:len(text)-size]
		case p[i] == text[len(text)-1]:
			text = text[:len(text)-1]
		default:
			return false
		}
	}
	return true
}

// fitsFirst returns the end of the first place in text that fits p, which has no star.
func (p pattern) fitsFirst(text string) (end int, ok bool) {
	from, to := 0, len(p)
	for from < to && p[from] == anyOne {
		from++
	}
	for from < to && p[to-1] == anyOne {
		to--
	}
	start, ok := p[:from].fitsStart(text)
	if !ok {
		return 0, false
	}
	inner, rest := p[from:to], text[start:]
	if bytes.IndexByte(inner, anyOne) >= 0 {
		end, ok = inner.search(rest)
	} else {
		end = strings.Index(rest, string(inner))
		end, ok = end+len(inner), end >= 0
	}
	if !ok {
		return 0, false
	}
	last, ok := p[to:].fitsStart(rest[end:])
	return start + end + last, ok
}

// search returns the end of the first place in text that fits p, which has no star and neither begins nor ends with a
// wildcard. It goes through the text once, with a bit for each byte of p that says whether p fits as far as there: 64 of them
// cost one step. Those places at once are what keeps a pattern such as a?a?a?b from being tried anew at each a.
func (p pattern) search(text string) (end int, ok bool) {
	const bits = 64
	words := (len(p) + bits - 1) / bits
	literal := make([]uint64, 256*words) // the bytes of p that are this byte
	wild := make([]uint64, words)        // the bytes of p that stand for any character
	for i, b := range p {
		if b == anyOne {
			wild[i/bits] |= 1 << (i % bits)
		} else {
			literal[int(b)*words+i/bits] |= 1 << (i % bits)
		}
	}
	fits := make([]uint64, words)
	for i, next := 0, 0; i < len(text); i++ {
		first := i == next // the first byte of a character: those that follow it belong to the same wildcard
		if first {
			next += characterSize(text[i:])
		}
		carry := uint64(1)
		for w, is := range literal[int(text[i])*words:][:words] {
			stay := uint64(0)
			if first {
				is |= wild[w]
			} else {
				stay = fits[w] & wild[w]
			}
			carry, fits[w] = fits[w]>>(bits-1), (fits[w]<<1|carry)&is|stay
		}
		if fits[words-1]>>((len(p)-1)%bits)&1 != 0 {
			return i + 1, true
		}
	}
	return 0, false
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
