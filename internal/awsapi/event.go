package awsapi

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-id/lanyard/policy"
)

// event is the wide log event of one request.
type event struct {
	requestID string
	start     time.Time
	service   string
	operation string
	caller    *Caller // nil when the request was not authenticated
	keyID     string  // as claimed
	status    int
	code      string           // of the error; empty for none
	decision  *policy.Decision // the last one
	err       error            // what lies behind the error

	mu    sync.Mutex
	attrs []slog.Attr // of Annotate
}

type eventKey struct{}

// Annotate adds attributes to the wide log event of the request that ctx belongs to. It does nothing for other
// contexts. It may be called from several goroutines, until the request has been answered.
func Annotate(ctx context.Context, attrs ...slog.Attr) {
	if e, ok := ctx.Value(eventKey{}).(*event); ok {
		e.mu.Lock()
		e.attrs = append(e.attrs, attrs...)
		e.mu.Unlock()
	}
}

// maxUserAgent bounds what is logged of a User-Agent, in bytes.
const maxUserAgent = 256

// log writes the event: at level error for failures of the server, else info.
func (e *event) log(ctx context.Context, log *slog.Logger, r *http.Request) {
	level := slog.LevelInfo
	if e.status >= 500 {
		level = slog.LevelError
	}
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 20)
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	text("request_id", e.requestID)
	text("service", e.service)
	text("operation", e.operation)
	if e.caller != nil {
		text("caller", e.caller.ARN)
		text("account", e.caller.Account)
		text("region", e.caller.Region)
	}
	text("access_key_id", clip(e.keyID, 128))
	attrs = append(attrs, slog.Int("status", e.status))
	text("code", e.code)
	if e.decision != nil {
		text("decision", e.decision.String())
	}
	attrs = append(attrs, slog.Duration("latency", time.Since(e.start)), slog.String("source_ip", sourceIP(r).String()))
	text("user_agent", clip(r.UserAgent(), maxUserAgent))
	if e.err != nil {
		attrs = append(attrs, slog.Any("err", e.err))
	}
	e.mu.Lock()
	attrs = append(attrs, e.attrs...)
	e.mu.Unlock()
	log.LogAttrs(ctx, level, "request", attrs...)
}

// clip bounds a text that a stranger chose.
func clip(s string, limit int) string {
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}
