package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Tx is one attempt of an Update. All its reads see the same revision. It is not safe for concurrent use, nor for use
// after its function has returned.
type Tx struct {
	state  *state
	reads  map[string]int64 // revisions by store key; 0 for missing rows
	writes map[string]write // by store key
	order  []string         // the keys of reads and writes as they first came up, so that commits are reproducible
	err    error            // the first write that cannot be made
}

// write is what a Tx leaves in a row.
type write struct {
	value   any    // *T; nil for a removal
	encoded []byte // of value, as it was when written
}

// Update runs fn, which reads and writes tables through tx, and commits what it wrote if nothing that it read has
// changed meanwhile; on a conflict it catches up and runs fn again, with backoff, until ctx ends. An error of fn aborts
// and is returned as it is. fn must have no other effects. After Update returns, the tables show what it wrote. When
// the outcome of a commit is unknown the error wraps ErrUnavailable. A transaction may touch at most MaxOps rows and
// write MaxCommitBytes, or fails with ErrTooLarge.
func (db *DB) Update(ctx context.Context, fn func(tx *Tx) error) error {
	for attempt := 0; ; attempt++ {
		if err := db.running(); err != nil {
			return err
		}
		tx := &Tx{state: db.state.Load(), reads: map[string]int64{}, writes: map[string]write{}}
		if err := fn(tx); err != nil {
			return err
		}
		if tx.err != nil {
			return tx.err
		}
		if len(tx.writes) == 0 {
			return nil
		}
		revision, err := db.store.Commit(ctx, tx.ops()...)
		if err == nil {
			if err := db.await(ctx, revision); err != nil {
				return fmt.Errorf("wait for revision %d, which is committed, to arrive: %w", revision, err)
			}
			return nil
		}
		if !errors.Is(err, ErrConflict) {
			return fmt.Errorf("commit: %w", err)
		}
		if err := db.Sync(ctx); err != nil {
			return fmt.Errorf("catch up after a conflict: %w", err)
		}
		if err := sleep(ctx, backoff(attempt, time.Millisecond, 100*time.Millisecond)); err != nil {
			return fmt.Errorf("retry after a conflict: %w", err)
		}
	}
}

func (tx *Tx) ops() []Op {
	ops := make([]Op, 0, len(tx.order))
	for _, key := range tx.order {
		op := Op{Key: key, Expect: AnyRevision}
		if revision, read := tx.reads[key]; read {
			op.Expect = revision
		}
		if w, written := tx.writes[key]; written {
			op.Kind = OpDelete
			if w.value != nil {
				op.Kind, op.Value = OpPut, w.encoded
			}
		}
		ops = append(ops, op)
	}
	return ops
}

func (tx *Tx) touch(key string) {
	_, read := tx.reads[key]
	_, written := tx.writes[key]
	if !read && !written {
		tx.order = append(tx.order, key)
	}
}

func (tx *Tx) put(key string, w write) {
	tx.touch(key)
	tx.writes[key] = w
}

func (tx *Tx) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

// Read returns a row as tx sees it: with what tx itself wrote. The commit then depends on the row being unchanged,
// or still missing.
func (t *Table[T]) Read(tx *Tx, key string) (*T, bool) {
	full := t.prefix + key
	if w, ok := tx.writes[full]; ok {
		v, ok := w.value.(*T)
		return v, ok
	}
	r, ok := t.at(tx.state).get(key)
	tx.touch(full)
	tx.reads[full] = r.revision
	return r.value, ok
}

// Write sets a row. Unless tx has read the key, the write applies whatever was there before. The value is encoded at
// once. A row that cannot be written (an empty key, a nil value, one that JSON cannot express) fails the Update.
func (t *Table[T]) Write(tx *Tx, key string, v *T) {
	if key == "" {
		tx.fail(fmt.Errorf("write %s: empty key", t.prefix))
		return
	}
	if v == nil {
		tx.fail(fmt.Errorf("write %s%s: nil value", t.prefix, key))
		return
	}
	encoded, err := json.Marshal(v)
	if err != nil {
		tx.fail(fmt.Errorf("write %s%s: %w", t.prefix, key, err))
		return
	}
	tx.put(t.prefix+key, write{value: v, encoded: encoded})
}

// Remove deletes a row, which need not exist.
func (t *Table[T]) Remove(tx *Tx, key string) {
	if key == "" {
		tx.fail(fmt.Errorf("remove %s: empty key", t.prefix))
		return
	}
	tx.put(t.prefix+key, write{})
}

// backoff returns a random pause for an attempt, counted from 0: up to first, doubled by each attempt up to limit.
func backoff(attempt int, first, limit time.Duration) time.Duration {
	most := limit
	if attempt < 20 {
		most = min(limit, first<<attempt)
	}
	return rand.N(most) + 1
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
