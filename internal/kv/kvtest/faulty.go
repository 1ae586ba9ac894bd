package kvtest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/lanyard-id/lanyard/internal/kv"
)

// ErrInjected is what a [Faulty] store's failures wrap, next to kv.ErrUnavailable.
var ErrInjected = errors.New("kvtest: injected failure")

var errDisconnected = fmt.Errorf("%w: %w", kv.ErrUnavailable, ErrInjected)

// Faulty is a real store behind a network that fails on command.
type Faulty struct {
	inner kv.Store

	mu           sync.Mutex
	connection   context.Context // of all watches; nil while disconnected
	disconnect   context.CancelFunc
	failures     []func(ctx context.Context, ops []kv.Op) error // for the next commits
	held         chan struct{}                                  // closed by Release; nil while batches flow
	hung         chan struct{}                                  // closed, and replaced, by Hang
	watchesBegun int
}

// NewFaulty returns a store that passes everything on to inner until told otherwise.
func NewFaulty(inner kv.Store) *Faulty {
	f := &Faulty{inner: inner, hung: make(chan struct{})}
	f.Reconnect()
	return f
}

// Disconnect makes all calls fail and ends all watches, with ErrUnavailable, until Reconnect.
func (f *Faulty) Disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.disconnect()
	f.connection = nil
}

// Reconnect ends what Disconnect began.
func (f *Faulty) Reconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.connection == nil {
		f.connection, f.disconnect = context.WithCancel(context.Background())
	}
}

// CutWatches ends the open watches with ErrUnavailable; new ones work.
func (f *Faulty) CutWatches() {
	f.Disconnect()
	f.Reconnect()
}

// Hold keeps the batches of all watches back until Release.
func (f *Faulty) Hold() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held == nil {
		f.held = make(chan struct{})
	}
}

// Release lets the batches that Hold kept back, and all later ones, through.
func (f *Faulty) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held != nil {
		close(f.held)
		f.held = nil
	}
}

// Hang makes the open watches deliver nothing more, and not even fail; new ones work.
func (f *Faulty) Hang() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.hung)
	f.hung = make(chan struct{})
}

// LoseCommit makes the next commit fail with ErrUnavailable before it reaches the store.
func (f *Faulty) LoseCommit() {
	f.nextCommit(func(context.Context, []kv.Op) error { return errDisconnected })
}

// LoseAnswer makes the next commit fail with ErrUnavailable after the store has applied it.
func (f *Faulty) LoseAnswer() {
	f.nextCommit(func(ctx context.Context, ops []kv.Op) error {
		if _, err := f.inner.Commit(ctx, ops...); err != nil {
			return err
		}
		return errDisconnected
	})
}

func (f *Faulty) nextCommit(fail func(context.Context, []kv.Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures = append(f.failures, fail)
}

// WatchesBegun returns how often Watch was called.
func (f *Faulty) WatchesBegun() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.watchesBegun
}

func (f *Faulty) check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.connection == nil {
		return errDisconnected
	}
	return nil
}

// Get implements kv.Store.
func (f *Faulty) Get(ctx context.Context, key string) (kv.Entry, error) {
	if err := f.check(); err != nil {
		return kv.Entry{}, err
	}
	return f.inner.Get(ctx, key)
}

// List implements kv.Store.
func (f *Faulty) List(ctx context.Context, prefix string) ([]kv.Entry, int64, error) {
	if err := f.check(); err != nil {
		return nil, 0, err
	}
	return f.inner.List(ctx, prefix)
}

// Revision implements kv.Store.
func (f *Faulty) Revision(ctx context.Context) (int64, error) {
	if err := f.check(); err != nil {
		return 0, err
	}
	return f.inner.Revision(ctx)
}

// Commit implements kv.Store.
func (f *Faulty) Commit(ctx context.Context, ops ...kv.Op) (int64, error) {
	if err := f.check(); err != nil {
		return 0, err
	}
	f.mu.Lock()
	var fail func(context.Context, []kv.Op) error
	if len(f.failures) > 0 {
		fail, f.failures = f.failures[0], f.failures[1:]
	}
	f.mu.Unlock()
	if fail != nil {
		return 0, fail(ctx, ops)
	}
	return f.inner.Commit(ctx, ops...)
}

// Watch implements kv.Store.
func (f *Faulty) Watch(ctx context.Context, prefix string, after int64) <-chan kv.Batch {
	f.mu.Lock()
	f.watchesBegun++
	connection, hung := f.connection, f.hung
	f.mu.Unlock()
	return kv.Deliver(ctx, func(send func(kv.Batch) bool) error {
		if connection == nil {
			return errDisconnected
		}
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(connection, cancel)()
		for b := range f.inner.Watch(inner, prefix, after) {
			if held := f.holding(); held != nil {
				select {
				case <-held:
				case <-inner.Done():
				}
			}
			select {
			case <-hung:
				<-inner.Done()
			default:
			}
			switch {
			case connection.Err() != nil:
				return errDisconnected
			case inner.Err() != nil:
				return ctx.Err()
			case b.Err != nil:
				return b.Err
			case !send(b):
				return ctx.Err()
			}
		}
		return errDisconnected
	})
}

func (f *Faulty) holding() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

// Close implements kv.Store.
func (f *Faulty) Close() error { return f.inner.Close() }
