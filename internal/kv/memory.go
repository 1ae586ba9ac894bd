package kv

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/tidwall/btree"
)

// memoryHistory is how many revisions a memory store keeps for watches before it compacts by itself.
const memoryHistory = 10_000

// NewMemory returns a Store that lives in this process only: for tests, and the model that the other stores are held
// to. It is a *[Memory].
func NewMemory() Store {
	return &Memory{revision: 1, compacted: 1, asked: 1, changed: make(chan struct{})}
}

// Memory is the Store that [NewMemory] returns.
type Memory struct {
	mu       sync.Mutex
	rows     btree.Map[string, Entry]
	revision int64
	// history holds one batch for each revision after compacted.
	history   []Batch
	compacted int64
	asked     int64         // the highest revision that Revision returned; watches owe their readers a batch up to it
	changed   chan struct{} // closed, and replaced, whenever a watch may have something to deliver
	closed    bool
}

// wake lets every watch look again. The caller holds mu.
func (m *Memory) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// lock takes the mutex if the store can serve ctx.
func (m *Memory) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return errMemoryClosed
	}
	return nil
}

var errMemoryClosed = fmt.Errorf("%w: memory store is closed", ErrUnavailable)

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string) (Entry, error) {
	if err := m.lock(ctx); err != nil {
		return Entry{}, err
	}
	defer m.mu.Unlock()
	e, ok := m.rows.Get(key)
	if !ok {
		return Entry{}, ErrNotFound
	}
	return e, nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix string) ([]Entry, int64, error) {
	if err := m.lock(ctx); err != nil {
		return nil, 0, err
	}
	defer m.mu.Unlock()
	var entries []Entry
	m.rows.Ascend(prefix, func(key string, e Entry) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		entries = append(entries, e)
		return true
	})
	return entries, m.revision, nil
}

// Commit implements Store.
func (m *Memory) Commit(ctx context.Context, ops ...Op) (int64, error) {
	if err := ValidateOps(ops); err != nil {
		return 0, err
	}
	if err := m.lock(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	for _, op := range ops {
		// A missing key reads as the zero Entry, whose revision is the 0 that Expect uses for it.
		if e, _ := m.rows.Get(op.Key); op.Expect != AnyRevision && op.Expect != e.Revision {
			return 0, ErrConflict
		}
	}
	next := Batch{Revision: m.revision + 1}
	for _, op := range ops {
		e := Entry{Key: op.Key, Revision: next.Revision}
		switch op.Kind {
		case OpPut:
			e.Value = bytes.Clone(op.Value)
			m.rows.Set(op.Key, e)
			next.Events = append(next.Events, Event{Entry: e})
		case OpDelete:
			if _, had := m.rows.Delete(op.Key); had {
				next.Events = append(next.Events, Event{Entry: e, Deleted: true})
			}
		}
	}
	if len(next.Events) == 0 {
		return m.revision, nil
	}
	slices.SortFunc(next.Events, func(a, b Event) int { return strings.Compare(a.Key, b.Key) })
	m.revision = next.Revision
	m.history = append(m.history, next)
	if len(m.history) > memoryHistory {
		m.compact(m.revision - memoryHistory/2)
	}
	m.wake()
	return m.revision, nil
}

// Compact forgets the history up to and including a revision: a watch that has yet to read it fails with ErrCompacted.
func (m *Memory) Compact(revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.compact(min(revision, m.revision))
	m.wake()
}

func (m *Memory) compact(revision int64) {
	if revision > m.compacted {
		m.history = slices.Clone(m.history[revision-m.compacted:])
		m.compacted = revision
	}
}

// Revision implements Store.
func (m *Memory) Revision(ctx context.Context) (int64, error) {
	if err := m.lock(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	if m.asked < m.revision {
		m.asked = m.revision
		m.wake()
	}
	return m.revision, nil
}

// Close implements Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.wake()
	return nil
}

// Watch implements Store.
func (m *Memory) Watch(ctx context.Context, prefix string, after int64) <-chan Batch {
	return Deliver(ctx, func(send func(Batch) bool) error { return m.watch(ctx, prefix, after, send) })
}

func (m *Memory) watch(ctx context.Context, prefix string, delivered int64, send func(Batch) bool) error {
	seen := delivered // revisions up to here hold nothing more for this watch; they may not have been reported
	for {
		m.mu.Lock()
		if m.closed {
			m.mu.Unlock()
			return errMemoryClosed
		}
		if seen < m.compacted {
			m.mu.Unlock()
			return ErrCompacted
		}
		changed := m.changed
		var next Batch
		for seen < m.revision && len(next.Events) == 0 {
			next = below(prefix, m.history[seen-m.compacted])
			seen++
		}
		due := len(next.Events) > 0
		if !due && delivered < m.asked {
			next, due = Batch{Revision: m.revision}, true
		}
		m.mu.Unlock()

		if due {
			if !send(next) {
				return ctx.Err()
			}
			delivered = next.Revision
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// below returns the part of a batch that is below a prefix.
func below(prefix string, b Batch) Batch {
	var events []Event
	for _, e := range b.Events {
		if strings.HasPrefix(e.Key, prefix) {
			events = append(events, e)
		}
	}
	return Batch{Revision: b.Revision, Events: events}
}

// Deliver runs a Store's watch in a goroutine of its own and returns the channel for its reader. watch hands over
// batches with send, which reports false once ctx has ended; the error that watch returns is delivered last. If the
// reader has gone away with ctx, nothing blocks.
func Deliver(ctx context.Context, watch func(send func(Batch) bool) error) <-chan Batch {
	// With room for exactly one batch, a batch that is left behind when ctx ends can be replaced by the final one
	// without making a gap.
	ch := make(chan Batch, 1)
	send := func(b Batch) bool {
		select {
		case ch <- b:
			return true
		case <-ctx.Done():
			return false
		}
	}
	go func() {
		defer close(ch)
		err := watch(send)
		if ctx.Err() == nil && send(Batch{Err: err}) {
			return
		}
		select {
		case <-ch:
		default:
		}
		ch <- Batch{Err: ctx.Err()}
	}()
	return ch
}
