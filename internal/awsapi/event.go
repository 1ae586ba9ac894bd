package awsapi

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
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
	recorded  atomic.Bool      // the audit record has been written

	mu       sync.Mutex
	attrs    []slog.Attr // of Annotate
	warnings []string    // of Warn, as header values
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

// What Warn adds is bounded: so many headers, each of so many bytes.
const (
	maxWarnings    = 4
	maxWarningText = 1024
)

// Warn tells the caller of something that did not keep the request from being served, as a header: Warning: 299 lanyard
// "text" (RFC 7234, section 5.5). A text longer than 1,024 bytes is cut, and of one request's warnings the first four are
// sent. Characters that a header cannot have become "?". It does nothing for contexts of other than modelled requests, nor
// once the request has been answered.
func Warn(ctx context.Context, text string) {
	if e, ok := ctx.Value(eventKey{}).(*event); ok {
		e.mu.Lock()
		if len(e.warnings) < maxWarnings {
			e.warnings = append(e.warnings, "299 lanyard "+quoteHeader(clip(text, maxWarningText)))
		}
		e.mu.Unlock()
	}
}

// quoteHeader makes a quoted-string of a text (RFC 9110, section 5.6.4) that has printable ASCII only.
func quoteHeader(text string) string {
	b := make([]byte, 0, len(text)+2)
	b = append(b, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n' || r == '\r' || r == '\t':
			b = append(b, ' ')
		case r < ' ' || r > '~':
			b = append(b, '?')
		default:
			b = append(b, byte(r))
		}
	}
	return string(append(b, '"'))
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
