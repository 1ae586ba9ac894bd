package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Mode says what becomes of a call that cannot be recorded.
type Mode string

// The modes.
const (
	Required   Mode = "required"    // it is refused
	BestEffort Mode = "best-effort" // it goes on, and is counted
)

// ParseMode reads a mode; the empty text is Required.
func ParseMode(text string) (Mode, error) {
	switch m := Mode(text); m {
	case "":
		return Required, nil
	case Required, BestEffort:
		return m, nil
	}
	return "", fmt.Errorf("the audit mode %q is neither %s nor %s", text, Required, BestEffort)
}

const (
	probeTimeout = time.Second      // of a store that has failed
	complainAt   = 10 * time.Second // at most, of records that are lost
)

// Trail is a Recorder over a store, in one of the modes. It is safe for concurrent use.
type Trail struct {
	store Store
	mode  Mode
	log   *slog.Logger
	lost  atomic.Int64

	failed  atomic.Pointer[error] // why the last record could not be kept; nil when it could
	probing sync.Mutex
	mu      sync.Mutex
	said    time.Time // when the loss of records was logged last
}

// NewTrail returns the trail over a store, which the caller closes. The empty mode is Required.
func NewTrail(store Store, mode Mode, log *slog.Logger) *Trail {
	if mode == "" {
		mode = Required
	}
	return &Trail{store: store, mode: mode, log: log}
}

// Record implements Recorder. Its errors are the store's. Of a trail of mode BestEffort there are none.
func (t *Trail) Record(ctx context.Context, e *Event) error {
	err := t.store.Record(ctx, e)
	switch {
	case err == nil:
		if t.failed.Load() != nil {
			t.failed.Store(nil)
		}
		return nil
	case !errors.Is(err, ErrTooLarge) && ctx.Err() == nil:
		t.failed.Store(&err)
	}
	if t.mode == Required {
		return err
	}
	t.complain(t.lost.Add(1), err)
	return nil
}

// complain logs that records are lost, but not each.
func (t *Trail) complain(lost int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.said) >= complainAt {
		t.said = now
		t.log.Error("audit records are lost", "lost", lost, "err", err)
	}
}

// Lost is how many calls were answered without their record since the start. It stays 0 in mode Required.
func (t *Trail) Lost() int64 { return t.lost.Load() }

// Failure is why the last record could not be kept; nil when it could.
func (t *Trail) Failure() error {
	if failed := t.failed.Load(); failed != nil {
		return *failed
	}
	return nil
}

// Ready returns why a call could not be recorded and must not be begun; nil when it could, and always in mode BestEffort. After
// a failure, and when there is no room, it asks the store, one caller at a time, whether it has recovered.
func (t *Trail) Ready() error {
	err := t.Failure()
	if err == nil {
		err = t.store.Room()
	}
	if err == nil || t.mode != Required {
		return nil
	}
	if t.probing.TryLock() {
		defer t.probing.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		defer cancel()
		if t.store.Probe(ctx) == nil {
			t.failed.Store(nil)
			return nil
		}
	}
	return fmt.Errorf("the audit trail cannot be written: %w", err)
}

// Lookup finds records.
func (t *Trail) Lookup(ctx context.Context, q *Query) (Page, error) { return t.store.Lookup(ctx, q) }
