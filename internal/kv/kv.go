// Package kv keeps Lanyard's state: an ordered, versioned key-value port ([Store]), and above it a database ([DB]) of
// typed tables ([Table]) that answer reads from memory and write by compare-and-swap.
//
// A DB lists its prefix once and then follows one watch over it, so that all its tables stand at the same revision.
// A write returns only after the local tables hold it: a client reads its own writes. What another replica wrote
// arrives by the watch; where "not found" would do harm, [DB.Sync] first catches up with everything that was
// acknowledged anywhere before it was called.
package kv

import (
	"context"
	"errors"
	"fmt"
)

var (
	// ErrNotFound is returned by Store.Get for a key that does not exist.
	ErrNotFound = errors.New("kv: not found")
	// ErrConflict is returned by Store.Commit when an operation's expected revision is not the key's; nothing was written.
	ErrConflict = errors.New("kv: conflict")
	// ErrCompacted ends a watch whose start revision the store no longer has; the watcher must list again.
	ErrCompacted = errors.New("kv: revision compacted")
	// ErrUnavailable wraps every failure to reach the store. The outcome of a Commit that returns it is unknown.
	ErrUnavailable = errors.New("kv: store unavailable")
	// ErrTooLarge is returned by Store.Commit, and so by DB.Update, when the operations are more than MaxOps or
	// MaxCommitBytes; nothing was written.
	ErrTooLarge = errors.New("kv: commit too large")
)

// Entry is a key, its value, and the revision of the commit that last wrote it. Values must not be modified.
type Entry struct {
	Key      string
	Value    []byte
	Revision int64
}

// AnyRevision as an Op's expected revision means: whatever the key's state is.
const AnyRevision int64 = -1

// Op is one part of a Commit. It applies if the key's revision is Expect; 0 means that the key must not exist.
type Op struct {
	Key    string
	Expect int64
	Kind   OpKind
	Value  []byte // for OpPut
}

// OpKind says what an Op does once its expectation holds.
type OpKind int

// The kinds of Op.
const (
	OpCheck  OpKind = iota // only assert the expected revision
	OpPut                  // write Value
	OpDelete               // remove the key
)

// Batch is what one revision changed below a watched prefix, in key order. A batch without events is progress: the
// watcher has seen everything up to Revision.
type Batch struct {
	Revision int64
	Events   []Event
	Err      error // the last batch of a watch that failed: ErrCompacted, ErrUnavailable or the context's error
}

// Event is one change. Deleted entries have no value; their Revision is that of the deletion.
type Event struct {
	Entry
	Deleted bool
}

// Store is the port. Its revisions increase by every commit that writes. Implementations: [NewMemory] and package
// kv/etcd. Each passes the suite in kv/kvtest.
type Store interface {
	// Get is a linearizable read of one key; ErrNotFound when it does not exist.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns all entries below prefix in key order, as they stood at the returned revision.
	List(ctx context.Context, prefix string) (entries []Entry, revision int64, err error)
	// Commit applies all ops at one new revision, or none: ErrConflict when an expectation fails. No key may occur
	// twice. At most MaxOps ops and MaxCommitBytes. A commit that changes nothing (checks, and deletions of what is
	// not there) makes no revision and returns the current one.
	Commit(ctx context.Context, ops ...Op) (revision int64, err error)
	// Watch delivers every change below prefix after the given revision, in order and without a gap, until ctx ends
	// or the watch fails; the channel is closed after a batch with Err. A reconnect that loses nothing is not a failure.
	// To stop reading, end ctx.
	Watch(ctx context.Context, prefix string, after int64) <-chan Batch
	// Revision returns the store's current revision by a linearizable read. Every open watch then delivers, without
	// further writes, a batch with at least this revision, unless it already has.
	Revision(ctx context.Context) (int64, error)
	// Close releases what the store holds; open watches end with ErrUnavailable.
	Close() error
}

// MaxOps is the most operations that one Commit takes (etcd's default limit, --max-txn-ops).
const MaxOps = 128

// MaxCommitBytes is the most that the keys and values of one Commit may add up to: 1 MiB, below etcd's default limit
// for a request (1.5 MiB, --max-request-bytes) with room for its encoding.
const MaxCommitBytes = 1 << 20

// ValidateOps checks what Store.Commit asks of ops that does not depend on the store's content: stores call it first.
func ValidateOps(ops []Op) error {
	if len(ops) == 0 {
		return errors.New("kv: commit without operations")
	}
	if len(ops) > MaxOps {
		return fmt.Errorf("%w: %d operations, at most %d", ErrTooLarge, len(ops), MaxOps)
	}
	seen := make(map[string]struct{}, len(ops))
	size, largest := 0, 0
	for i, op := range ops {
		if op.Key == "" {
			return errors.New("kv: operation without a key")
		}
		if _, twice := seen[op.Key]; twice {
			return fmt.Errorf("kv: key %s occurs twice in a commit", op.Key)
		}
		seen[op.Key] = struct{}{}
		if op.Expect < AnyRevision {
			return fmt.Errorf("kv: key %s: invalid expected revision %d", op.Key, op.Expect)
		}
		if op.Kind < OpCheck || op.Kind > OpDelete {
			return fmt.Errorf("kv: key %s: invalid kind of operation %d", op.Key, op.Kind)
		}
		size += len(op.Key) + len(op.Value)
		if len(op.Value) > len(ops[largest].Value) {
			largest = i
		}
	}
	if size > MaxCommitBytes {
		return fmt.Errorf("%w: %d bytes, at most %d; the largest value is %s with %d bytes",
			ErrTooLarge, size, MaxCommitBytes, ops[largest].Key, len(ops[largest].Value))
	}
	return nil
}
