package webhook

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

// outcome is how the review of a pod ended.
type outcome string

const (
	outcomeMutated     outcome = "mutated"
	outcomeUnchanged   outcome = "unchanged"   // it has all that it should have
	outcomeNone        outcome = "none"        // its service account has no role
	outcomeSkipped     outcome = "skipped"     // by its label, or as the mirror of a static pod
	outcomeInvalid     outcome = "invalid"     // its service account's role or its own volumes are wrong
	outcomeUnconfirmed outcome = "unconfirmed" // it could not be told what it should have
)

// source is where something is looked up.
type source string

const (
	sourceAccounts     source = "service_accounts"
	sourceAssociations source = "associations"
	sourceConfigMap    source = "config_map"
)

// Metrics are the webhook's: the first six with AWS's webhook's names, and then its own.
type Metrics struct {
	requests  *prometheus.CounterVec
	latencies *prometheus.HistogramVec
	durations *prometheus.SummaryVec
	pods      *prometheus.CounterVec
	missing   prometheus.Counter
	used      prometheus.Gauge

	reviews      *prometheus.CounterVec
	requestTime  prometheus.Histogram
	lookups      *prometheus.CounterVec
	lookupTimes  *prometheus.HistogramVec
	lists        *prometheus.CounterVec
	associations prometheus.Gauge
	unmutated    prometheus.Gauge

	leading   prometheus.Gauge
	keyLooks  *prometheus.CounterVec
	keyPushes *prometheus.CounterVec
	keys      *prometheus.GaugeVec
	mismatch  prometheus.Gauge
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	seconds := []float64{.0001, .00025, .0005, .001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	m := &Metrics{
		requests: counters("http_request_count", "Requests by verb, path and status.", "verb", "path", "code"),
		latencies: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_latencies", Help: "Time to answer, in microseconds, by verb and path.", Buckets: prometheus.ExponentialBuckets(125000, 2, 7),
		}, []string{"verb", "path"}),
		durations: prometheus.NewSummaryVec(prometheus.SummaryOpts{
			Name: "http_request_duration_microseconds", Help: "Time to answer, in microseconds, by verb and path.", MaxAge: time.Hour,
		}, []string{"verb", "path"}),
		pods:    counters("pod_identity_webhook_pod_count", "Pods that were given an identity, by method.", "method"),
		missing: prometheus.NewCounter(prometheus.CounterOpts{Name: "pod_identity_webhook_missing_sa_count", Help: "Pods whose service account does not exist."}),
		used:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "pod_identity_webhook_used", Help: "1 once a pod was given an identity."}),
		reviews: counters("lanyard_webhook_pods_total",
			"Pods that were reviewed, by outcome: mutated, unchanged, none, skipped, invalid or unconfirmed.", "outcome"),
		requestTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lanyard_webhook_request_duration_seconds", Help: "Time to answer reviews, with the lookups in them.", Buckets: seconds,
		}),
		lookups: counters("lanyard_webhook_lookups_total",
			"Lookups of what was not in memory, by source (service_accounts, associations, config_map) and result (found, none, error).", "source", "result"),
		lookupTimes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lanyard_webhook_lookup_duration_seconds", Help: "Time that those lookups take, by source.", Buckets: seconds,
		}, []string{"source"}),
		lists:        counters("lanyard_webhook_association_lists_total", "Lists of all associations, by result: ok or error.", "result"),
		associations: prometheus.NewGauge(prometheus.GaugeOpts{Name: "lanyard_webhook_associations", Help: "Associations in memory, as of the last list."}),
		unmutated: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lanyard_webhook_unmutated_pods", Help: "Running pods without the identity that their service account has, as of the last look.",
		}),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{Name: "lanyard_webhook_leading", Help: "1 while this replica does what one replica does at a time."}),
		keyLooks: counters("lanyard_webhook_key_looks_total",
			"Looks at the API server's public keys, by result: ok, or error where they were not read, or could not be pushed.", "result"),
		keyPushes: counters("lanyard_webhook_key_pushes_total", "Pushes of the API server's public keys to Lanyard, by result: ok or error.", "result"),
		keys: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lanyard_webhook_keys", Help: "Public keys as of the last push, by state: published, or retained for tokens that still live.",
		}, []string{"state"}),
		mismatch: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "lanyard_webhook_issuer_mismatch", Help: "1 while the API server has another issuer than the cluster is registered with.",
		}),
	}
	for _, c := range []prometheus.Collector{
		m.requests, m.latencies, m.durations, m.pods, m.missing, m.used,
		m.reviews, m.requestTime, m.lookups, m.lookupTimes, m.lists, m.associations, m.unmutated,
		m.leading, m.keyLooks, m.keyPushes, m.keys, m.mismatch,
	} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// answered counts a request. Methods other than POST are strangers' choice, and no label.
func (m *Metrics) answered(method string, status int, took time.Duration) {
	if method != http.MethodPost {
		method = "other"
	}
	micros := float64(took) / float64(time.Microsecond)
	m.requests.WithLabelValues(method, Path, strconv.Itoa(status)).Inc()
	m.latencies.WithLabelValues(method, Path).Observe(micros)
	m.durations.WithLabelValues(method, Path).Observe(micros)
	m.requestTime.Observe(took.Seconds())
}

func (m *Metrics) reviewed(o outcome) { m.reviews.WithLabelValues(string(o)).Inc() }

func (m *Metrics) gave(w podspec.Way) {
	method := "sts_web_identity"
	if w == podspec.PodIdentity {
		method = "container_credentials"
	}
	m.pods.WithLabelValues(method).Inc()
	m.used.Set(1)
}

func (m *Metrics) lookedUp(s source, found bool, err error, took time.Duration) {
	result := "none"
	if found {
		result = "found"
	}
	if err != nil {
		result = "error"
	}
	m.lookups.WithLabelValues(string(s), result).Inc()
	m.lookupTimes.WithLabelValues(string(s)).Observe(took.Seconds())
}

func (m *Metrics) listed(err error) { count(m.lists, err) }
func (m *Metrics) looked(err error) { count(m.keyLooks, err) }
func (m *Metrics) pushed(err error) { count(m.keyPushes, err) }

// count counts what was done by its result, ok or error.
func count(c *prometheus.CounterVec, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	c.WithLabelValues(result).Inc()
}
