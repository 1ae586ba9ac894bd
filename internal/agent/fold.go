package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// foldFor is how long errors of one kind are counted, instead of logged, after one was logged.
	foldFor = 10 * time.Second
	// maxFolds is how many kinds are told apart; others share one.
	maxFolds = 1024
)

// foldKey is a kind of error.
type foldKey struct {
	client string // its address without port
	status int    // of the answer
	class  string
}

// foldedLog logs errors of which many alike may come: the first of a kind at once, and then how many followed.
type foldedLog struct {
	log *slog.Logger

	mu    sync.Mutex
	folds map[foldKey]*fold
}

type fold struct {
	since   time.Time // when one was logged
	message string
	more    int // since then
}

// error logs an error, or counts it.
func (f *foldedLog) error(ctx context.Context, now time.Time, k foldKey, message string, attributes ...slog.Attr) {
	if f.count(now, k, message) {
		return
	}
	f.log.LogAttrs(ctx, slog.LevelError, message, attributes...)
}

// count reports whether the error was only counted.
func (f *foldedLog) count(now time.Time, k foldKey, message string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.folds == nil {
		f.folds = map[foldKey]*fold{}
	}
	if _, ok := f.folds[k]; !ok && len(f.folds) >= maxFolds {
		k = foldKey{class: "others"}
	}
	known, ok := f.folds[k]
	if ok && now.Sub(known.since) < foldFor {
		known.more++
		return true
	}
	more := 0
	if ok {
		more = known.more // flush tells of them
	}
	f.folds[k] = &fold{since: now, message: message, more: more}
	return false
}

// flush tells how many errors were counted of the kinds whose time is over, and forgets these.
func (f *foldedLog) flush(ctx context.Context, now time.Time) {
	f.mu.Lock()
	over := map[foldKey]*fold{}
	for k, known := range f.folds {
		if now.Sub(known.since) >= foldFor {
			over[k] = known
			delete(f.folds, k)
		}
	}
	f.mu.Unlock()
	for k, known := range over {
		if known.more > 0 {
			f.log.LogAttrs(ctx, slog.LevelError, known.message, slog.Int("repeated", known.more), slog.String("client-addr", k.client),
				slog.Int("status", k.status), slog.String("code", k.class))
		}
	}
}
