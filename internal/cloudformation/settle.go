package cloudformation

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/lanyard-id/lanyard/internal/kv"
)

// settlePause is how long Start waits between its looks at what was left behind.
const settlePause = 5 * time.Second

// Start carries on, until ctx ends, what other replicas, or this one before it was started, left behind; and forgets stacks that were
// deleted long ago. The DB must have started.
func (s *Service) Start(ctx context.Context) {
	go func() {
		for {
			if err := s.Settle(ctx); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "stacks are left unsettled", slog.Any("err", err))
			}
			pause := time.NewTimer(settlePause)
			select {
			case <-ctx.Done():
				pause.Stop()
				return
			case <-pause.C:
			}
		}
	}()
}

// Settle finishes every operation whose replica has abandoned it, which is one that has not taken a step for lease, and forgets what
// was deleted more than 90 days ago. What another replica takes over meanwhile it leaves alone. The error joins those of the stacks
// that could not be settled; they remain for the next call.
func (s *Service) Settle(ctx context.Context) error {
	var left []string
	for key := range s.underWay.Get("operation") {
		left = append(left, key)
	}
	var failed []error
	for _, key := range left {
		if err := s.takeOver(ctx, key); err != nil {
			failed = append(failed, err)
		}
	}
	if err := s.forget(ctx); err != nil {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// takeOver carries on an operation that its replica has abandoned.
func (s *Service) takeOver(ctx context.Context, key string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("settle stack %s: panic: %v\n%s", key, p, debug.Stack())
		}
	}()
	var taken *stackRow
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		taken = nil
		st, ok := s.stacks.Read(tx, key)
		if !ok || st.Operation == nil || s.now().Before(st.Operation.Until) {
			return nil
		}
		taken = st.clone()
		taken.Operation.Term++
		taken.Operation.Until = s.now().Add(lease)
		s.stacks.Write(tx, key, taken)
		return nil
	})
	if err != nil || taken == nil {
		return err
	}
	s.log.InfoContext(ctx, "stack operation taken over", slog.String("stack", key))
	return s.carryOut(ctx, taken)
}

// forget removes what is left of stacks that were deleted long ago.
func (s *Service) forget(ctx context.Context) error {
	var old []string
	for key, st := range s.stacks.Scan("", "") {
		if !st.Deleted.IsZero() && s.now().Sub(st.Deleted) > deletedStacksAreKept {
			old = append(old, key)
		}
	}
	for _, key := range old {
		if err := s.removeRows(ctx, key); err != nil {
			return fmt.Errorf("forget the deleted stack %s: %w", key, err)
		}
	}
	return nil
}

// removeRows removes a stack's rows, its own last, so that an interruption leaves something to begin with.
func (s *Service) removeRows(ctx context.Context, key string) error {
	const most = kv.MaxOps - 1 // the stack's own row has to go with the last of them
	for {
		var some []func(*kv.Tx)
		for _, removals := range []iter.Seq[func(*kv.Tx)]{
			removals(s.events, key), removals(s.resources, key), removals(s.settings, key), removals(s.changeSets, key),
		} {
			for remove := range removals {
				if len(some) == most {
					break
				}
				some = append(some, remove)
			}
		}
		err := s.db.Update(ctx, func(tx *kv.Tx) error {
			for _, remove := range some {
				remove(tx)
			}
			if len(some) < most {
				s.stacks.Remove(tx, key)
			}
			return nil
		})
		if err != nil || len(some) < most {
			return err
		}
	}
}

// removals yields the removal of each row of a table that belongs to a stack.
func removals[R any](table *kv.Table[R], stack string) iter.Seq[func(*kv.Tx)] {
	return func(yield func(func(*kv.Tx)) bool) {
		for key := range table.Scan(stack+"/", "") {
			if !yield(func(tx *kv.Tx) { table.Remove(tx, key) }) {
				return
			}
		}
	}
}
