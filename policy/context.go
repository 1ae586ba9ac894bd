package policy

import (
	"iter"
	"slices"
	"strings"
	"unicode/utf8"
)

// Context holds a request's condition keys. Key names are case-insensitive, with the part that names a tag. The zero
// Context is empty. It must not be changed while a request that has it is evaluated.
//
// Values have the form that policies compare with: times as ISO 8601 or seconds since 1970, numbers in decimals,
// booleans as true and false, and binary values as the bytes themselves.
type Context struct{ entries []entry }

// An entry is one key with its values: one if it is single-valued, else the list.
type entry struct {
	key    string // folded; but a name in ASCII is kept as it is, and sameKey folds it
	single [1]string
	list   []string
	multi  bool
}

// values returns the entry's values without copying them.
func (e *entry) values() []string {
	if e.multi {
		return e.list
	}
	return e.single[:]
}

// foldKey is the form of a key's name in which names are compared.
func foldKey(key string) string { return strings.ToLower(key) }

// newKey is the form of a key's name in an entry. Nearly all names are in ASCII, and need no copy.
func newKey(key string) string {
	for i := range len(key) {
		if key[i] >= utf8.RuneSelf {
			return foldKey(key)
		}
	}
	return key
}

// sameKey reports whether two names, each folded or as newKey returns it, are the same. It begins at their ends, since most
// names begin alike.
func sameKey(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := len(a) - 1; i >= 0; i-- {
		if a[i] != b[i] && lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// Set gives a key a single value.
func (c *Context) Set(key, value string) {
	c.put(entry{key: newKey(key), single: [1]string{value}})
}

// SetList gives a multivalued key its values, which may be none: then the key is present and empty.
func (c *Context) SetList(key string, values []string) {
	c.put(entry{key: newKey(key), list: slices.Clone(values), multi: true})
}

// usualKeys is about how many keys a request has.
const usualKeys = 24

func (c *Context) put(e entry) {
	if old := c.find(e.key); old != nil {
		*old = e
		return
	}
	if c.entries == nil {
		c.entries = make([]entry, 0, usualKeys)
	}
	c.entries = append(c.entries, e)
}

// find returns the entry of a key, given folded or as newKey returns it, or nil. Requests have a few dozen keys, which a scan finds as fast as a map.
func (c *Context) find(key string) *entry {
	if c == nil {
		return nil
	}
	for i := range c.entries {
		if sameKey(c.entries[i].key, key) {
			return &c.entries[i]
		}
	}
	return nil
}

// Get returns a key's values and whether it is present.
func (c *Context) Get(key string) (values []string, ok bool) {
	e := c.find(foldKey(key))
	if e == nil {
		return nil, false
	}
	return slices.Clone(e.values()), true
}

// All yields the keys, named as they were set (but in lower case if the name is not in ASCII), in the order in which they
// were set first, each with its values. The values must not be changed.
func (c *Context) All() iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		if c == nil {
			return
		}
		for i := range c.entries {
			if !yield(c.entries[i].key, c.entries[i].values()) {
				return
			}
		}
	}
}

// Clone returns a copy that can be changed independently.
func (c *Context) Clone() *Context {
	if c == nil {
		return &Context{}
	}
	return &Context{entries: slices.Clone(c.entries)}
}
