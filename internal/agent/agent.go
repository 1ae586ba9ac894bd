// Package agent answers the SDKs of a node's pods the way the EKS Pod Identity Agent (v0.1.37) does: it takes a pod's
// token, asks EKS Auth for credentials, and hands them on. Statuses and texts are that agent's.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"

	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// Where pods find the agent of their node.
const (
	LinkLocalIPv4 = "169.254.170.23"
	LinkLocalIPv6 = "fd00:ec2::23"
	Path          = "/v1/credentials"
)

// Credentials are what a pod gets.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey sigv4.Secret
	SessionToken    sigv4.Secret // as secret as the key: whoever has both signs
	AccountID       string
	Expires         time.Time
}

// Config is what the handler needs.
type Config struct {
	ClusterName string // for the log
	// Hosts are the addresses, without port and brackets, of which one must be the request's Host, so that no page in a
	// browser and no other name that resolves here reaches the agent; the link-local pair when nil.
	Hosts []string
	// Fetch gets the credentials for a token. An *APIError is passed on with its status; anything else becomes a 500. Required.
	Fetch func(ctx context.Context, token string) (Credentials, error)
	// RequestsPerSecond and Burst limit the requests that are answered; 1,000 and 500 when zero.
	RequestsPerSecond float64
	Burst             int
	Metrics           *Metrics     // required
	Log               *slog.Logger // required
}

type handler struct {
	Config
	limiter *rate.Limiter
}

// NewHandler makes the handler of /v1/credentials. Every other path is 404, which the probes rely on.
func NewHandler(c Config) http.Handler {
	if c.Hosts == nil {
		c.Hosts = []string{LinkLocalIPv4, LinkLocalIPv6}
	}
	if c.RequestsPerSecond == 0 {
		c.RequestsPerSecond = 1000
	}
	if c.Burst == 0 {
		c.Burst = 500
	}
	mux := http.NewServeMux()
	mux.Handle(Path, &handler{c, rate.NewLimiter(rate.Limit(c.RequestsPerSecond), c.Burst)})
	return mux
}

// refusal is a request that is refused before EKS Auth is asked.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// ServeHTTP implements http.Handler. The method does not matter, as in AWS's agent.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	credentials, err := h.credentials(r)
	status, text := http.StatusOK, ""
	if err != nil {
		status, text = answer(err)
		http.Error(w, text, status)
	} else {
		err = write(w, credentials)
	}
	h.Metrics.responses.WithLabelValues(strconv.Itoa(status)).Inc()
	h.log(r, status, time.Since(start), err)
}

// log writes the one line of a request.
func (h *handler) log(r *http.Request, status int, took time.Duration, err error) {
	level := slog.LevelInfo
	attributes := []slog.Attr{
		slog.String("client-addr", r.RemoteAddr),
		slog.String("cluster-name", h.ClusterName),
		slog.Int("status", status),
		slog.Duration("took", took),
	}
	if bound, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		attributes = append(attributes, slog.String("bind-addr", bound.String()))
	}
	if err != nil {
		level = slog.LevelError
		attributes = append(attributes, slog.Any("err", err))
	}
	if api, ok := errors.AsType[*APIError](err); ok {
		attributes = append(attributes, slog.String("service", "EKS Auth"), slog.String("operation", "AssumeRoleForPodIdentity"),
			slog.String("request-id", api.RequestID))
	}
	h.Log.LogAttrs(r.Context(), level, "request for credentials", attributes...)
}

func (h *handler) credentials(r *http.Request) (Credentials, error) {
	if !h.limiter.Allow() {
		return Credentials{}, &refusal{http.StatusTooManyRequests, "Too Many Requests"}
	}
	if err := h.checkHost(r.Host); err != nil {
		return Credentials{}, err
	}
	token := r.Header.Get("Authorization")
	if err := checkToken(token); err != nil {
		return Credentials{}, err
	}
	return h.Fetch(r.Context(), token)
}

func (h *handler) checkHost(host string) error {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	if slices.Contains(h.Hosts, host) {
		return nil
	}
	return &refusal{http.StatusForbidden,
		fmt.Sprintf("Access Denied. Called agent through invalid address, please use either %s address not %s", h.Hosts, host)}
}

// checkToken refuses what cannot be a live token, so that it costs EKS Auth nothing. Whether a token is genuine only EKS
// Auth can tell. The library is the one that AWS's agent uses, because its texts are part of the answers.
func checkToken(token string) error {
	if token == "" {
		return &refusal{http.StatusBadRequest, "Service account token cannot be empty"}
	}
	parsed, _, err := jwt.NewParser().ParseUnverified(token, &jwt.RegisteredClaims{})
	if err != nil {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("Service account token cannot be parsed: %v", err)}
	}
	if err := jwt.NewValidator().Validate(parsed.Claims); err != nil {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("Service account token failed basic claim validations: %v", err)}
	}
	return nil
}

// answer turns an error into what the pod is told.
func answer(err error) (status int, text string) {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused.status, refused.text
	}
	if api, ok := errors.AsType[*APIError](err); ok {
		return api.Status, api.Error()
	}
	return http.StatusInternalServerError, err.Error()
}

// write sends credentials in the form that the SDKs' container provider reads.
func write(w http.ResponseWriter, c Credentials) error {
	body, err := json.Marshal(struct {
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		Token           string
		AccountID       string `json:"AccountId"`
		Expiration      string
	}{c.AccessKeyID, string(c.SecretAccessKey), string(c.SessionToken), c.AccountID, c.Expires.UTC().Format(time.RFC3339)})
	if err != nil {
		return fmt.Errorf("encode credentials: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	return nil
}
