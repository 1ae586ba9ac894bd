package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// probeTimeout is how long a probe may take over all addresses.
const probeTimeout = 10 * time.Second

// NewProbes serves /healthz and /readyz: 200 if each of the addresses (host:port) answers HTTP, 408 if that took too
// long, and else 500. The answer that is expected is the 404 of the handler for paths that it does not know.
func NewProbes(addresses []string, log *slog.Logger) http.Handler {
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // never by a proxy
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	probe := func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
		defer cancel()
		err := probeAll(ctx, client, addresses)
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
		log.LogAttrs(ctx, slog.LevelWarn, "probe failed", slog.Any("err", err))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", probe)
	mux.HandleFunc("/readyz", probe)
	return mux
}

func probeAll(ctx context.Context, client *http.Client, addresses []string) error {
	for _, address := range addresses {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
		if err != nil {
			return fmt.Errorf("probe %s: %w", address, err)
		}
		response, err := client.Do(r)
		if err != nil {
			return fmt.Errorf("probe %s: %w", address, err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusNotFound {
			return fmt.Errorf("probe %s: it answers %s, not 404", address, response.Status)
		}
	}
	return nil
}
