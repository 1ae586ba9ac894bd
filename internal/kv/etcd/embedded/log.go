package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// bridge takes etcd's log to slog, and keeps etcd from ending the process: where etcd logs at the levels that panic or
// exit, only the goroutine that logged ends, and the bridge tells of the failure.
type bridge struct {
	logger *zap.Logger
	failed chan struct{} // closed at the first failure

	once    sync.Once
	err     error                     // set before failed is closed
	serving atomic.Pointer[time.Time] // since when; nil before the start has succeeded, and after the stop has begun
	log     *slog.Logger
}

func newBridge(log *slog.Logger) *bridge {
	b := &bridge{failed: make(chan struct{}), log: log}
	b.logger = zap.New(slogCore{bridge: b}, zap.WithFatalHook(b), zap.WithPanicHook(b))
	return b
}

// OnWrite implements zapcore.CheckWriteHook for entries that must not return to their writer.
func (b *bridge) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	b.fail(fmt.Errorf("etcd: %s%s", e.Message, errorOf(fields)))
	runtime.Goexit()
}

func (b *bridge) fail(err error) {
	b.once.Do(func() {
		b.err = err
		close(b.failed)
		if b.serving.Load() != nil {
			b.log.Error("embedded etcd has failed and serves no more; restart the process", "err", err)
		}
	})
}

// failure returns the first failure, once failed is closed.
func (b *bridge) failure() error {
	<-b.failed
	return b.err
}

// started says that failures have nobody left to be returned to.
func (b *bridge) started() {
	now := time.Now()
	b.serving.Store(&now)
}

// stopping says that what fails from now on fails because the member stops.
func (b *bridge) stopping() { b.serving.Store(nil) }

// guard runs f in a goroutine of its own and returns its error, its panic, or the failure that etcd ended it with.
// Damaged files are mapped into memory; reading beyond their end is made a panic, too.
func (b *bridge) guard(f func() error) error {
	result := make(chan error, 1)
	go func() {
		debug.SetPanicOnFault(true)
		finished := false
		var err error
		defer func() {
			if finished {
				result <- err
				return
			}
			if p := recover(); p != nil {
				result <- fmt.Errorf("etcd: panic: %v", p)
				return
			}
			result <- b.failure()
		}()
		err = f()
		finished = true
	}()
	return <-result
}

func errorOf(fields []zapcore.Field) string {
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			return ": " + err.Error()
		}
	}
	return ""
}

// slogCore writes etcd's warnings and errors to slog while the member serves. What goes wrong before is in the error
// that the start returns.
type slogCore struct {
	bridge *bridge
	fields []zapcore.Field
}

// Enabled implements zapcore.Core.
func (slogCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

// With implements zapcore.Core.
func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	c.fields = append(c.fields[:len(c.fields):len(c.fields)], fields...)
	return c
}

// Check implements zapcore.Core.
func (c slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	since := c.bridge.serving.Load()
	if since == nil || premature(e.Message) && time.Since(*since) < 10*time.Second {
		return nil
	}
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	encoded := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(encoded)
	}
	attrs := []slog.Attr{slog.String("msg", e.Message)}
	for key, value := range encoded.Fields {
		attrs = append(attrs, slog.Any(key, value))
	}
	c.bridge.log.LogAttrs(context.Background(), level, "embedded etcd", slog.GroupAttrs("etcd", attrs...))
	return nil
}

// premature tells of messages that every new directory causes: etcd looks for the version of the schema before the
// first commit of the database, a tenth of a second later, has recorded it. It looks again after a few seconds.
func premature(message string) bool {
	return message == "Failed to detect schema version" || message == "failed to update storage version"
}

// Sync implements zapcore.Core.
func (slogCore) Sync() error { return nil }
