package agent

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-id/lanyard/internal/credcache"
)

// outcome is how a request for credentials ended.
type outcome string

const (
	outcomeHit     outcome = "hit"     // answered from memory
	outcomeMiss    outcome = "miss"    // answered after a fetch
	outcomeRefused outcome = "refused" // before EKS Auth was asked
	outcomeFailed  outcome = "failed"  // EKS Auth refused, or could not be asked
)

// Metrics are the agent's: the first three with AWS's agent's names, and then its own.
type Metrics struct {
	responses   *prometheus.CounterVec
	cacheState  *prometheus.CounterVec
	cacheErrors *prometheus.CounterVec

	durations     *prometheus.HistogramVec
	entries       prometheus.GaugeFunc
	bytes         prometheus.GaugeFunc
	calls         *prometheus.CounterVec
	callDurations prometheus.Histogram
	refreshLag    prometheus.Histogram
	throttles     *prometheus.CounterVec

	stats atomic.Pointer[func() (entries int, bytes int64)] // of the agent's cache

	// What each request answered from memory counts, looked up once.
	hits        prometheus.Counter
	ok          prometheus.Counter
	hitDuration prometheus.Observer
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		responses:   counters("pod_identity_http_response", "Requests for credentials by the status of the answer.", "code"),
		cacheState:  counters("pod_identity_cache_state", "Requests answered from the cache (hit) or not (miss), and pods that left it (evicted).", "state"),
		cacheErrors: counters("pod_identity_cache_errors", "Refreshes that failed, by whether the credentials were dropped (NonRecoverable) and EKS Auth's code.", "type", "code"),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lanyard_agent_request_duration_seconds", Help: "Time to answer requests for credentials, by outcome: hit, miss, refused or failed.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"outcome"}),
		calls: counters("lanyard_agent_upstream_calls_total", "Calls to EKS Auth by its code, or OK, Timeout, Unreachable or other.", "code"),
		callDurations: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lanyard_agent_upstream_duration_seconds", Help: "Time that calls to EKS Auth take.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
		refreshLag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lanyard_agent_refresh_lag_seconds", Help: "How long after they were due refreshes start.", Buckets: []float64{1, 5, 10, 30, 60, 300, 900, 3600},
		}),
		throttles: counters("lanyard_agent_throttles_total", "Fetches given up because of the agent's own limit of a pod, of the node, or of those under way (busy).", "limit"),
	}
	m.entries = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "lanyard_agent_cache_entries", Help: "Pods whose credentials are kept."}, func() float64 {
		entries, _ := m.cacheStats()
		return float64(entries)
	})
	m.bytes = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "lanyard_agent_cache_bytes", Help: "Size of what is kept."}, func() float64 {
		_, bytes := m.cacheStats()
		return float64(bytes)
	})
	m.hits, m.ok = m.cacheState.WithLabelValues("hit"), m.responses.WithLabelValues("200")
	m.hitDuration = m.durations.WithLabelValues(string(outcomeHit))
	for _, c := range []prometheus.Collector{
		m.responses, m.cacheState, m.cacheErrors, m.durations, m.entries, m.bytes, m.calls, m.callDurations, m.refreshLag, m.throttles,
	} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// answered counts a request.
func (m *Metrics) answered(status int, o outcome, took time.Duration) {
	if o == outcomeHit {
		m.ok.Inc()
		m.hitDuration.Observe(took.Seconds())
		return
	}
	m.responses.WithLabelValues(strconv.Itoa(status)).Inc()
	m.durations.WithLabelValues(string(o)).Observe(took.Seconds())
}

// called counts a call of EKS Auth.
func (m *Metrics) called(err error, took time.Duration) {
	code := codeLabel(err)
	switch {
	case err == nil:
		code = "OK"
	case code != "":
	case errors.Is(err, context.DeadlineExceeded):
		code = "Timeout"
	default:
		code = "Unreachable"
	}
	m.calls.WithLabelValues(code).Inc()
	m.callDurations.Observe(took.Seconds())
}

// cacheStats is the size of the cache, if there is one yet.
func (m *Metrics) cacheStats() (entries int, bytes int64) {
	if stats := m.stats.Load(); stats != nil {
		return (*stats)()
	}
	return 0, 0
}

// observe counts what happens in the cache of credentials.
func (m *Metrics) observe(e credcache.Event) {
	switch e.Kind {
	case credcache.Hit:
		m.hits.Inc()
	case credcache.Miss:
		m.cacheState.WithLabelValues("miss").Inc()
	case credcache.Evicted:
		m.cacheState.WithLabelValues("evicted").Inc()
	case credcache.Refreshing:
		m.refreshLag.Observe(e.Late.Seconds())
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
