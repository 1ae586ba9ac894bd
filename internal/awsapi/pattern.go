package awsapi

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// pattern is a model's regular expression. Nearly all of them are a row of character classes, each repeated, such as
// [\w+=,.@-]+: those are matched by one walk over the text, which is many times faster than package regexp and matters
// for tokens and policy documents.
type pattern struct {
	text   string // as the model has it: error texts show it
	regexp *regexp.Regexp
	runs   []run // nil when the expression is not a row of classes
}

// run is a character class, repeated.
type run struct {
	ranges   []rune // pairs, sorted
	ascii    [utf8.RuneSelf]bool
	min, max int // max is -1 for no limit
}

// javaEscape finds the escapes of Java's regular expressions that Go's do not have.
var javaEscape = regexp.MustCompile(`\\u([0-9A-Fa-f]{4})`)

// compilePattern compiles a model's pattern, which is one of Java's and has to match the whole text.
func compilePattern(text string) (*pattern, error) {
	// Java reads \u10000 as U+1000 and a zero; what the models mean is the plane above.
	expr := strings.ReplaceAll(text, `\u10000-\u10FFFF`, `\x{10000}-\x{10FFFF}`)
	expr = javaEscape.ReplaceAllString(expr, `\x{$1}`)
	re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return nil, err
	}
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, err
	}
	p := &pattern{text: text, regexp: re}
	if runs, ok := appendRuns(nil, tree); ok && unambiguous(runs) {
		p.runs = runs
	}
	return p, nil
}

// appendRuns adds the runs of an expression. It reports false for expressions that are not rows of classes.
func appendRuns(runs []run, e *syntax.Regexp) ([]run, bool) {
	once := func(ranges []rune, low, high int) ([]run, bool) {
		r := run{ranges: ranges, min: low, max: high}
		for c := range rune(utf8.RuneSelf) {
			r.ascii[c] = inRanges(ranges, c)
		}
		return append(runs, r), true
	}
	switch e.Op {
	case syntax.OpBeginText, syntax.OpEndText, syntax.OpEmptyMatch:
		// At the ends these say nothing new. Elsewhere the expression could match nothing.
		return runs, e.Op == syntax.OpEmptyMatch || len(runs) == 0 && e.Op == syntax.OpBeginText
	case syntax.OpCharClass:
		return once(e.Rune, 1, 1)
	case syntax.OpLiteral:
		if e.Flags&syntax.FoldCase != 0 {
			return nil, false
		}
		for _, c := range e.Rune {
			runs, _ = once([]rune{c, c}, 1, 1)
		}
		return runs, true
	case syntax.OpCapture:
		return appendRuns(runs, e.Sub[0])
	case syntax.OpConcat:
		ok := true
		for i, sub := range e.Sub {
			if i > 0 && i == len(e.Sub)-1 && sub.Op == syntax.OpEndText {
				break
			}
			if runs, ok = appendRuns(runs, sub); !ok {
				return nil, false
			}
		}
		return runs, true
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		inner, ok := appendRuns(nil, e.Sub[0])
		if !ok || len(inner) != 1 || inner[0].min != 1 || inner[0].max != 1 {
			return nil, false
		}
		switch e.Op {
		case syntax.OpStar:
			return once(inner[0].ranges, 0, -1)
		case syntax.OpPlus:
			return once(inner[0].ranges, 1, -1)
		case syntax.OpQuest:
			return once(inner[0].ranges, 0, 1)
		}
		return once(inner[0].ranges, e.Min, e.Max)
	}
	return nil, false
}

// unambiguous reports whether taking as many characters as fit is always right: nothing that may follow a run of open
// length begins with one of its characters.
func unambiguous(runs []run) bool {
	for i, r := range runs {
		if r.min == r.max {
			continue
		}
		for _, next := range runs[i+1:] {
			if overlap(r.ranges, next.ranges) {
				return false
			}
			if next.min > 0 {
				break
			}
		}
	}
	return true
}

func overlap(a, b []rune) bool {
	for i := 0; i < len(a); i += 2 {
		for j := 0; j < len(b); j += 2 {
			if a[i] <= b[j+1] && b[j] <= a[i+1] {
				return true
			}
		}
	}
	return false
}

func inRanges(ranges []rune, c rune) bool {
	i, found := slices.BinarySearch(ranges, c)
	return found || i%2 == 1
}

// match reports whether the whole text matches.
func (p *pattern) match(s string) bool {
	if p.runs == nil {
		return p.regexp.MatchString(s)
	}
	for i := range p.runs {
		r := &p.runs[i]
		n := 0
		for n != r.max && s != "" {
			if c := s[0]; c < utf8.RuneSelf {
				if !r.ascii[c] {
					break
				}
				s = s[1:]
			} else {
				c, size := utf8.DecodeRuneInString(s)
				if !inRanges(r.ranges, c) {
					break
				}
				s = s[size:]
			}
			n++
		}
		if n < r.min {
			return false
		}
	}
	return s == ""
}
