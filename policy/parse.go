package policy

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// A position is a place in a document.
type position struct {
	offset int // in bytes, from 0
	line   int // from 1
	column int // in characters, from 1
}

func (p position) public() Position { return Position{p.line, p.column} }

type nodeType int

const (
	objectNode nodeType = iota
	arrayNode
	stringNode
	numberNode
	booleanNode
	nullNode
)

// A node is a JSON value and its place in the document.
type node struct {
	typ        nodeType
	start, end position // end is behind the last character
	text       string   // a string's value; a number's or boolean's text as written
	members    []member // of an object, in order
	elements   []node   // of an array
}

type member struct{ name, value node }

// member returns the value of the object's member of that name, or nil.
func (n *node) member(name string) *node {
	for i := range n.members {
		if n.members[i].name.text == name {
			return &n.members[i].value
		}
	}
	return nil
}

// maxDepth bounds the nesting of objects and arrays. A well-formed policy needs six levels.
const maxDepth = 16

// invalidJSON is IAM's text for a document that is not JSON.
const invalidJSON = "This policy contains invalid Json"

// parse reads a document as strict JSON (RFC 8259). It also refuses what that leaves open and readers disagree on:
// duplicate names, text that is not UTF-8, unpaired surrogates. Errors are *Error.
func parse(document []byte) (*node, error) {
	if len(document) > MaxDocument {
		return nil, &Error{invalidJSON, fmt.Sprintf("the document is longer than %d bytes", MaxDocument), 1, 1}
	}
	s := scanner{document: document, at: position{line: 1, column: 1}}
	s.space()
	root, err := s.value(0)
	if err != nil {
		return nil, err
	}
	s.space()
	if s.at.offset < len(document) {
		return nil, s.fail("text after the end of the document")
	}
	return &root, nil
}

// A scanner reads JSON from a document and keeps the place of the next byte.
type scanner struct {
	document []byte
	at       position
}

func (s *scanner) fail(format string, args ...any) error {
	return &Error{invalidJSON, fmt.Sprintf(format, args...), s.at.line, s.at.column}
}

// peek returns the next byte, or 0 at the end; a NUL is nowhere valid in JSON.
func (s *scanner) peek() byte {
	if s.at.offset < len(s.document) {
		return s.document[s.at.offset]
	}
	return 0
}

// next takes the next byte.
func (s *scanner) next() {
	b := s.document[s.at.offset]
	s.at.offset++
	switch {
	case b == '\n':
		s.at.line++
		s.at.column = 1
	case utf8.RuneStart(b):
		s.at.column++
	}
}

// take takes the next byte if it is b.
func (s *scanner) take(b byte) bool {
	if s.peek() != b {
		return false
	}
	s.next()
	return true
}

func (s *scanner) space() {
	for {
		switch s.peek() {
		case ' ', '\t', '\n', '\r':
			s.next()
		default:
			return
		}
	}
}

func (s *scanner) value(depth int) (n node, err error) {
	if depth > maxDepth {
		return n, s.fail("nested more than %d levels deep", maxDepth)
	}
	n.start = s.at
	switch b := s.peek(); {
	case b == '{':
		n.typ = objectNode
		n.members, err = s.object(depth)
	case b == '[':
		n.typ = arrayNode
		n.elements, err = s.array(depth)
	case b == '"':
		n.typ = stringNode
		n.text, err = s.string()
	case b == '-' || isDigit(b):
		n.typ = numberNode
		n.text, err = s.number()
	case b == 't':
		n.typ, n.text = booleanNode, "true"
		err = s.literal(n.text)
	case b == 'f':
		n.typ, n.text = booleanNode, "false"
		err = s.literal(n.text)
	case b == 'n':
		n.typ = nullNode
		err = s.literal("null")
	default:
		err = s.fail("a JSON value is missing")
	}
	n.end = s.at
	return n, err
}

func (s *scanner) object(depth int) (members []member, err error) {
	s.next()
	s.space()
	if s.take('}') {
		return nil, nil
	}
	seen := make(map[string]bool)
	for {
		s.space()
		name := node{typ: stringNode, start: s.at}
		if s.peek() != '"' {
			return nil, s.fail("a member's name is missing")
		}
		if name.text, err = s.string(); err != nil {
			return nil, err
		}
		name.end = s.at
		if seen[name.text] {
			return nil, &Error{invalidJSON, fmt.Sprintf("duplicate member %q", name.text), name.start.line, name.start.column}
		}
		seen[name.text] = true
		s.space()
		if !s.take(':') {
			return nil, s.fail("a colon is missing")
		}
		s.space()
		value, err := s.value(depth + 1)
		if err != nil {
			return nil, err
		}
		members = append(members, member{name, value})
		s.space()
		if s.take('}') {
			return members, nil
		}
		if !s.take(',') {
			return nil, s.fail("a comma or the end of the object is missing")
		}
	}
}

func (s *scanner) array(depth int) (elements []node, err error) {
	s.next()
	s.space()
	if s.take(']') {
		return nil, nil
	}
	for {
		s.space()
		element, err := s.value(depth + 1)
		if err != nil {
			return nil, err
		}
		elements = append(elements, element)
		s.space()
		if s.take(']') {
			return elements, nil
		}
		if !s.take(',') {
			return nil, s.fail("a comma or the end of the array is missing")
		}
	}
}

func (s *scanner) literal(word string) error {
	for i := range len(word) {
		if !s.take(word[i]) {
			return s.fail("%s is misspelt", word)
		}
	}
	return nil
}

func (s *scanner) number() (string, error) {
	start := s.at.offset
	s.take('-')
	if !s.take('0') && !s.digits() {
		return "", s.fail("a digit is missing")
	}
	if s.take('.') && !s.digits() {
		return "", s.fail("a digit is missing")
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if !s.digits() {
			return "", s.fail("a digit is missing")
		}
	}
	return string(s.document[start:s.at.offset]), nil
}

// digits takes a run of digits and reports whether there was one.
func (s *scanner) digits() bool {
	start := s.at.offset
	for isDigit(s.peek()) {
		s.next()
	}
	return s.at.offset > start
}

func (s *scanner) string() (string, error) {
	s.next()
	var text []byte
	for {
		rest := s.document[s.at.offset:]
		if len(rest) == 0 {
			return "", s.fail("a string does not end")
		}
		switch b := rest[0]; {
		case b == '"':
			s.next()
			return string(text), nil
		case b == '\\':
			r, err := s.escape()
			if err != nil {
				return "", err
			}
			text = utf8.AppendRune(text, r)
		case b < ' ':
			return "", s.fail("a control character in a string")
		default:
			r, size := utf8.DecodeRune(rest)
			if r == utf8.RuneError && size == 1 {
				return "", s.fail("text that is not UTF-8")
			}
			for range size {
				s.next()
			}
			text = append(text, rest[:size]...)
		}
	}
}

// escape reads a backslash and what it stands for.
func (s *scanner) escape() (rune, error) {
	s.next()
	b := s.peek()
	switch b {
	case '"', '\\', '/':
	case 'b':
		b = '\b'
	case 'f':
		b = '\f'
	case 'n':
		b = '\n'
	case 'r':
		b = '\r'
	case 't':
		b = '\t'
	case 'u':
		return s.unicode()
	default:
		return 0, s.fail("an unknown escape")
	}
	s.next()
	return rune(b), nil
}

// unicode reads the rest of a \uXXXX escape, or of the two that make up a surrogate pair.
func (s *scanner) unicode() (rune, error) {
	high, err := s.hex()
	if err != nil {
		return 0, err
	}
	if !utf16.IsSurrogate(high) {
		return high, nil
	}
	if !s.take('\\') || s.peek() != 'u' {
		return 0, s.fail("an unpaired surrogate")
	}
	low, err := s.hex()
	if err != nil {
		return 0, err
	}
	r := utf16.DecodeRune(high, low)
	if r == utf8.RuneError {
		return 0, s.fail("an unpaired surrogate")
	}
	return r, nil
}

// hex reads the u and the four digits of a \uXXXX escape.
func (s *scanner) hex() (rune, error) {
	s.next()
	var r rune
	for range 4 {
		b := s.peek()
		switch {
		case isDigit(b):
			b -= '0'
		case 'a' <= b && b <= 'f':
			b -= 'a' - 10
		case 'A' <= b && b <= 'F':
			b -= 'A' - 10
		default:
			return 0, s.fail("a hexadecimal digit is missing")
		}
		s.next()
		r = r<<4 | rune(b)
	}
	return r, nil
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }
