package kv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/tidwall/btree"
)

// Table is a typed part of the DB's key space, held in memory. T is encoded as JSON. Values are shared: what a read
// returns must not be modified; copy first.
type Table[T any] struct {
	db      *DB
	part    int    // the table's place in state.parts
	prefix  string // of the table's keys in the store
	indexes []func(key string, v *T) []string
}

// row is what a table keeps for a key.
type row[T any] struct {
	revision int64 // of the commit that wrote it
	value    *T
}

// ref is an index's way from a string to a row. An index is ordered by found, then by key.
type ref[T any] struct {
	found, key string
	value      *T
}

// rows is a table's content at one revision. Once published in a state it never changes: the next revision is built
// on a copy, whose trees share all nodes that stay the same.
type rows[T any] struct {
	byKey   *btree.Map[string, row[T]]
	indexes []*btree.BTreeG[ref[T]] // as Table.indexes
}

// part is what the DB does with a table whatever its type.
type part interface {
	storePrefix() string // of its keys
	// load makes rows out of all the table's entries, reusing values of old that have not changed; old may be nil.
	load(old any, entries []Entry) (any, error)
	// apply makes the rows that follow old by the events.
	apply(old any, events []Event) (any, error)
}

// NewTable adds a table to a DB that has not started. The name is part of every key ("PREFIX/NAME/KEY"), must be unique
// in the DB, and has no slash; anything else panics.
func NewTable[T any](db *DB, name string) *Table[T] {
	if name == "" || strings.Contains(name, "/") {
		panic(fmt.Sprintf("kv: invalid table name %q", name))
	}
	t := &Table[T]{db: db, prefix: db.prefix + name + "/"}
	t.part = db.addTable(t)
	return t
}

// Index finds a table's rows by other strings than their key, in memory.
type Index[T any] struct {
	table *Table[T]
	n     int
}

// NewIndex adds an index to a table whose DB has not started. keys returns the strings under which a row is found; it
// must be a pure function of the row.
func NewIndex[T any](t *Table[T], keys func(key string, v *T) []string) *Index[T] {
	t.db.mustNotHaveStarted()
	t.indexes = append(t.indexes, keys)
	return &Index[T]{table: t, n: len(t.indexes) - 1}
}

func (t *Table[T]) storePrefix() string { return t.prefix }

// at returns the table's rows in a state, or nil in one from before Start.
func (t *Table[T]) at(s *state) *rows[T] {
	if s == nil {
		return nil
	}
	return s.parts[t.part].(*rows[T])
}

// Get reads from memory.
func (t *Table[T]) Get(key string) (*T, bool) {
	r, ok := t.at(t.db.state.Load()).get(key)
	return r.value, ok
}

// Scan yields, in key order and from memory, the rows whose keys begin with prefix and are greater than after (which
// may be empty). Rows that are written during the iteration are not seen.
func (t *Table[T]) Scan(prefix, after string) iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		r := t.at(t.db.state.Load())
		if r == nil {
			return
		}
		r.byKey.Ascend(max(prefix, after), func(key string, r row[T]) bool {
			if !strings.HasPrefix(key, prefix) {
				return false
			}
			return key == after || yield(key, r.value)
		})
	}
}

// Len returns the number of rows.
func (t *Table[T]) Len() int {
	r := t.at(t.db.state.Load())
	if r == nil {
		return 0
	}
	return r.byKey.Len()
}

// Get yields, in key order, the rows that are found under s.
func (x *Index[T]) Get(s string) iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		r := x.table.at(x.table.db.state.Load())
		if r == nil {
			return
		}
		r.indexes[x.n].Ascend(ref[T]{found: s}, func(r ref[T]) bool {
			return r.found == s && yield(r.key, r.value)
		})
	}
}

// First returns the first of the rows that are found under s.
func (x *Index[T]) First(s string) (key string, v *T, ok bool) {
	for key, v := range x.Get(s) {
		return key, v, true
	}
	return "", nil, false
}

func (r *rows[T]) get(key string) (row[T], bool) {
	if r == nil {
		return row[T]{}, false
	}
	return r.byKey.Get(key)
}

// set puts a row in place of old, which may be missing.
func (r *rows[T]) set(t *Table[T], key string, old, new row[T]) {
	r.unindex(t, key, old)
	r.byKey.Set(key, new)
	for i, keys := range t.indexes {
		for _, found := range keys(key, new.value) {
			r.indexes[i].Set(ref[T]{found, key, new.value})
		}
	}
}

func (r *rows[T]) delete(t *Table[T], key string, old row[T]) {
	r.unindex(t, key, old)
	r.byKey.Delete(key)
}

func (r *rows[T]) unindex(t *Table[T], key string, old row[T]) {
	if old.value == nil {
		return
	}
	for i, keys := range t.indexes {
		for _, found := range keys(key, old.value) {
			r.indexes[i].Delete(ref[T]{found: found, key: key})
		}
	}
}

func (t *Table[T]) load(old any, entries []Entry) (any, error) {
	next := &rows[T]{byKey: new(btree.Map[string, row[T]])}
	for range t.indexes {
		next.indexes = append(next.indexes, btree.NewBTreeGOptions(lessRef[T], btree.Options{NoLocks: true}))
	}
	before, _ := old.(*rows[T])
	for _, e := range entries {
		key := t.keyOf(e)
		r, ok := before.get(key)
		if !ok || r.revision != e.Revision {
			var err error
			if r, err = decode[T](e); err != nil {
				return nil, err
			}
		}
		next.set(t, key, row[T]{}, r)
	}
	return next, nil
}

func (t *Table[T]) apply(old any, events []Event) (any, error) {
	before := old.(*rows[T])
	next := &rows[T]{byKey: before.byKey.Copy()}
	for _, x := range before.indexes {
		next.indexes = append(next.indexes, x.Copy())
	}
	for _, e := range events {
		key := t.keyOf(e.Entry)
		was, _ := next.get(key)
		if e.Deleted {
			next.delete(t, key, was)
			continue
		}
		r, err := decode[T](e.Entry)
		if err != nil {
			return nil, err
		}
		next.set(t, key, was, r)
	}
	return next, nil
}

// keyOf is an entry's key in the table. It is a copy, lest what all the table's keys begin with in the store be kept with each.
func (t *Table[T]) keyOf(e Entry) string { return strings.Clone(e.Key[len(t.prefix):]) }

func lessRef[T any](a, b ref[T]) bool {
	if a.found != b.found {
		return a.found < b.found
	}
	return a.key < b.key
}

func decode[T any](e Entry) (row[T], error) {
	v := new(T)
	err := json.Unmarshal(e.Value, v)
	if err == nil && bytes.Equal(bytes.TrimSpace(e.Value), []byte("null")) {
		err = errors.New("it is null")
	}
	if err != nil {
		return row[T]{}, fmt.Errorf("decode the stored row %s (revision %d): %w; it was damaged, or written by a newer version: "+
			"run the version that wrote it, restore the row from a backup, or delete the key", e.Key, e.Revision, err)
	}
	return row[T]{e.Revision, v}, nil
}
