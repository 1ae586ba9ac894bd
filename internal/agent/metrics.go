package agent

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-id/lanyard/internal/credcache"
)

// Metrics are the agent's, in AWS's agent's names.
type Metrics struct {
	responses   *prometheus.CounterVec
	cacheState  *prometheus.CounterVec
	cacheErrors *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		responses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pod_identity_http_response", Help: "Requests for credentials by the status of the answer.",
		}, []string{"code"}),
		cacheState: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pod_identity_cache_state", Help: "Requests answered from the cache (hit) or not (miss), and tokens that left it (evicted).",
		}, []string{"state"}),
		cacheErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pod_identity_cache_errors", Help: "Refreshes that failed, by whether the credentials were dropped (NonRecoverable) and EKS Auth's code.",
		}, []string{"type", "code"}),
	}
	for _, c := range []prometheus.Collector{m.responses, m.cacheState, m.cacheErrors} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Observe counts what happens in the cache of credentials.
func (m *Metrics) Observe(e credcache.Event) {
	switch e.Kind {
	case credcache.Hit:
		m.cacheState.WithLabelValues("hit").Inc()
	case credcache.Miss:
		m.cacheState.WithLabelValues("miss").Inc()
	case credcache.Evicted:
		m.cacheState.WithLabelValues("evicted").Inc()
	case credcache.RefreshFailed:
		m.cacheErrors.WithLabelValues("Recoverable", codeLabel(e.Err)).Inc()
	case credcache.Dropped:
		m.cacheErrors.WithLabelValues("NonRecoverable", codeLabel(e.Err)).Inc()
	}
}

// codeLabel is the code of an error that EKS Auth's model knows; other is one that it does not know, and a failure that
// is no answer of EKS Auth has none.
func codeLabel(err error) string {
	api, ok := errors.AsType[*APIError](err)
	switch {
	case !ok:
		return ""
	case api.Fault() == "unknown":
		return "other"
	}
	return api.Code
}
