package audit

import (
	"context"
	"fmt"
	"log/slog"
)

// Log is a Recorder that hands events to a logger's handler, at level info, whatever level the handler has been set to: a
// quieter log must not be a gap in the record.
type Log struct{ handler slog.Handler }

// NewLog returns a Recorder for when no audit file is configured.
func NewLog(l *slog.Logger) *Log { return &Log{l.Handler()} }

// Record implements Recorder. Its errors are the handler's.
func (l *Log) Record(ctx context.Context, e *Event) error {
	identify(e)
	r := slog.NewRecord(e.Time, slog.LevelInfo, "audit event", 0)
	for _, t := range e.texts() {
		if t.value != "" {
			r.AddAttrs(slog.String(t.name, t.value))
		}
	}
	if len(e.Parameters) > 0 {
		r.AddAttrs(slog.Any("requestParameters", e.Parameters))
	}
	if len(e.ResponseDetails) > 0 {
		r.AddAttrs(slog.Any("responseElements", e.ResponseDetails))
	}
	if err := l.handler.Handle(ctx, r); err != nil {
		return fmt.Errorf("log audit event: %w", err)
	}
	return nil
}
