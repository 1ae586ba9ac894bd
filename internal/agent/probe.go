package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// ProbeTimeout is how long a probe may take.
const ProbeTimeout = 10 * time.Second

// NewProbes serves /healthz and /readyz with AWS's agent's answers: 200 if the check returns nil, 408 if that takes longer than
// ten seconds, and else 500. Unlike that agent's, a probe makes no request of its own.
func NewProbes(healthy, ready func() error, log *slog.Logger) http.Handler {
	probe := func(check func() error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), ProbeTimeout)
			defer cancel()
			err := within(ctx, check)
			switch {
			case err == nil:
				w.WriteHeader(http.StatusOK)
				return
			case errors.Is(err, context.DeadlineExceeded):
				w.WriteHeader(http.StatusRequestTimeout)
			default:
				w.WriteHeader(http.StatusInternalServerError)
				fmt.Fprint(w, "Internal Server Error occurred")
			}
			log.LogAttrs(ctx, slog.LevelWarn, "probe failed", slog.String("path", r.URL.Path), slog.Any("err", err))
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", probe(healthy))
	mux.HandleFunc("/readyz", probe(ready))
	return mux
}

// within calls check, and leaves it alone when ctx ends: what it waits for may never come.
func within(ctx context.Context, check func() error) error {
	result := make(chan error, 1)
	go func() { result <- check() }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("check: %w", context.Cause(ctx))
	}
}
