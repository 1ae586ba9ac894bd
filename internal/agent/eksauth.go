package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

const (
	// maxAnswer bounds what is read of EKS Auth's answers, in bytes.
	maxAnswer = 1 << 20
	// maxCalls is how many calls are under way at a time, and connections kept.
	maxCalls = 128
	// latestExpiration is the end of the year 9999 in seconds since 1970: RFC 3339 cannot write later times.
	latestExpiration = 253402300799
)

// ClientConfig is what a Client needs.
type ClientConfig struct {
	// Endpoint is EKS Auth's URL, such as https://eks-auth.us-east-1.api.aws. Required.
	Endpoint    string
	Region      string // to sign for; required
	ClusterName string // required
	// Credentials returns those of the caller, which is the node or the agent itself. Required.
	Credentials func(ctx context.Context) (sigv4.Credentials, error)
	// Transport is used as it is; nil means a new one that takes at most 500 ms to connect and goes by the proxy
	// variables of the environment.
	Transport http.RoundTripper
	Timeout   time.Duration    // of a call; one second when zero. Up to 128 are under way at a time; others wait before it
	Now       func() time.Time // time.Now when nil
	Log       *slog.Logger     // required
}

// Client calls EKS Auth. It is safe for concurrent use.
type Client struct {
	url         string
	region      string
	cluster     string
	credentials func(ctx context.Context) (sigv4.Credentials, error)
	http        *http.Client
	places      chan struct{} // one is in it for each call under way
	now         func() time.Time
	log         *slog.Logger
}

// NewTransport returns a transport with AWS's agent's limit for connecting, for the caller to set CA certificates on.
func NewTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 500 * time.Millisecond}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   maxCalls,
		IdleConnTimeout:       20 * time.Second, // most calls come in bursts
		TLSHandshakeTimeout:   time.Second,
		ExpectContinueTimeout: time.Second,
	}
}

// NewClient checks the configuration and makes a client.
func NewClient(c ClientConfig) (*Client, error) {
	endpoint, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("EKS Auth endpoint: %w", err)
	}
	if (endpoint.Scheme != "https" && endpoint.Scheme != "http") || endpoint.Host == "" || endpoint.RawQuery != "" || endpoint.Fragment != "" {
		return nil, fmt.Errorf("EKS Auth endpoint %q is not an http or https URL", endpoint.Redacted())
	}
	if c.ClusterName == "" || c.Region == "" {
		return nil, errors.New("EKS Auth needs a cluster name and a region")
	}
	if c.Timeout == 0 {
		c.Timeout = time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Transport == nil {
		c.Transport = NewTransport()
	}
	return &Client{
		url:         endpoint.JoinPath("clusters", url.PathEscape(c.ClusterName), "assume-role-for-pod-identity").String(),
		region:      c.Region,
		cluster:     c.ClusterName,
		credentials: c.Credentials,
		http: &http.Client{
			Transport: c.Transport, Timeout: c.Timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		places: make(chan struct{}, maxCalls),
		now:    c.Now,
		log:    c.Log,
	}, nil
}

// APIError is an error that EKS Auth answered.
type APIError struct {
	Status    int
	Code      string // such as AccessDeniedException
	Message   string
	RequestID string
	// RetryAfter is how long EKS Auth, or what is before it, asks to wait until the next call; zero if it does not say.
	RetryAfter time.Duration
}

// Error is the text that AWS's agent passes on to the pod.
func (e *APIError) Error() string {
	return fmt.Sprintf("[%s]: (%s): %s, fault: %s", e.RequestID, e.Code, e.Message, e.Fault())
}

// Fault says whose fault the error is: client, server, or unknown for those that are not in the service's API model.
func (e *APIError) Fault() string {
	switch e.Code {
	case "AccessDeniedException", "ExpiredTokenException", "InvalidParameterException", "InvalidRequestException",
		"InvalidTokenException", "ResourceNotFoundException", "ThrottlingException":
		return "client"
	case "InternalServerException", "ServiceUnavailableException":
		return "server"
	}
	return "unknown"
}

// Irrecoverable reports whether an error of Fetch means that the token will never get credentials any more.
func Irrecoverable(err error) bool {
	api, ok := errors.AsType[*APIError](err)
	if !ok {
		return false
	}
	switch api.Code {
	case "ResourceNotFoundException", "ExpiredTokenException", "InvalidTokenException", "AccessDeniedException":
		return true
	}
	return false
}

// AssumeRoleForPodIdentity trades a pod's token for credentials. Errors that EKS Auth answered are *APIError.
func (c *Client) AssumeRoleForPodIdentity(ctx context.Context, token string) (Credentials, error) {
	start := c.now()
	out, requestID, err := c.call(ctx, token)
	if err != nil {
		return Credentials{}, fmt.Errorf("unable to fetch credentials from EKS Auth: %w", err)
	}
	credentials, err := out.credentials()
	if err != nil {
		return Credentials{}, fmt.Errorf("invalid response from server: %w", err)
	}
	c.log.LogAttrs(ctx, slog.LevelInfo, "fetched credentials",
		slog.String("cluster-name", c.cluster), slog.String("fetched_role_arn", out.User.ARN), slog.String("fetched_role_id", out.User.ID),
		slog.Int64("request_time_ms", c.now().Sub(start).Milliseconds()), slog.String("request-id", requestID))
	return credentials, nil
}

func (c *Client) call(ctx context.Context, token string) (*assumed, string, error) {
	body, err := json.Marshal(struct {
		Token string `json:"token"`
	}{token})
	if err != nil {
		return nil, "", fmt.Errorf("encode request: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	select {
	case c.places <- struct{}{}:
		defer func() { <-c.places }()
	case <-ctx.Done():
		return nil, "", fmt.Errorf("wait for other calls: %w", ctx.Err())
	}
	own, err := c.credentials(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("get the agent's own credentials: %w", err)
	}
	sum := sha256.Sum256(body)
	sigv4.Sign(r, own, "eks-auth", c.region, hex.EncodeToString(sum[:]), c.now())
	// An empty list is not sent, and lets net/http repeat the call when the server has just closed the idle connection.
	r.Header["Idempotency-Key"] = []string{}
	response, err := c.http.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	requestID := response.Header.Get("X-Amzn-Requestid")
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, "", fmt.Errorf("read response: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, "", readError(response, requestID, answer, c.now())
	}
	var out assumed
	if err := json.Unmarshal(answer, &out); err != nil {
		return nil, "", fmt.Errorf("read response: %w", err)
	}
	return &out, requestID, nil
}

// readError reads an error of the REST-JSON protocol as the SDKs do: the code is in a header or in the body, with
// decoration around its name.
func readError(response *http.Response, requestID string, body []byte, now time.Time) *APIError {
	var fields struct {
		Type    string `json:"__type"`
		Code    string `json:"code"`
		Message string `json:"message"` // encoding/json also reads Message
	}
	// What is not JSON, such as a proxy's page, has none of the fields.
	if err := json.Unmarshal(body, &fields); err != nil {
		fields.Code, fields.Message = "", ""
	}
	code := "UnknownError"
	for _, candidate := range []string{response.Header.Get("X-Amzn-Errortype"), fields.Code, fields.Type} {
		candidate, _, _ = strings.Cut(candidate, ":")
		if _, name, ok := strings.Cut(candidate, "#"); ok {
			candidate = name
		}
		if candidate != "" {
			code = candidate
			break
		}
	}
	message := fields.Message
	if message == "" {
		message = code
	}
	return &APIError{
		Status: errorStatus(response.StatusCode), Code: code, Message: message, RequestID: requestID,
		RetryAfter: retryAfter(response.Header.Get("Retry-After"), now),
	}
}

// retryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds, or a date. One that makes no sense is none.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// errorStatus is the status for the pod: one that is no error, such as a redirect, must not reach it as it is.
func errorStatus(status int) int {
	if status < 400 {
		return http.StatusInternalServerError
	}
	return status
}

// assumed is AssumeRoleForPodIdentity's response, as far as it is used.
type assumed struct {
	User struct {
		ARN string `json:"arn"`
		ID  string `json:"assumeRoleId"`
	} `json:"assumedRoleUser"`
	Credentials struct {
		AccessKeyID     string  `json:"accessKeyId"`
		SecretAccessKey string  `json:"secretAccessKey"`
		SessionToken    string  `json:"sessionToken"`
		Expiration      float64 `json:"expiration"` // seconds since 1970
	} `json:"credentials"`
}

func (a *assumed) credentials() (Credentials, error) {
	c := a.Credentials
	if c.AccessKeyID == "" || c.SecretAccessKey == "" || c.SessionToken == "" {
		return Credentials{}, errors.New("credentials or assumed role empty")
	}
	if c.Expiration <= 0 || c.Expiration > latestExpiration {
		return Credentials{}, errors.New("expiration is out of range")
	}
	role, err := arn.Parse(a.User.ARN)
	if err != nil {
		return Credentials{}, fmt.Errorf("unable to parse arn from assumed role: %w", err)
	}
	seconds, fraction := math.Modf(c.Expiration)
	return Credentials{
		AccessKeyID:     c.AccessKeyID,
		SecretAccessKey: sigv4.Secret(c.SecretAccessKey),
		SessionToken:    sigv4.Secret(c.SessionToken),
		AccountID:       role.Account(),
		Expires:         time.Unix(int64(seconds), int64(fraction*1e9)),
	}, nil
}
