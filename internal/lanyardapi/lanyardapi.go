// Package lanyardapi is the client's side of Lanyard's own API: what AWS has nothing like, such as the registration of clusters. Its requests
// are signed as AWS's are (Signature Version 4, service "lanyard"), and are REST with JSON, whose errors have the form of EKS's.
package lanyardapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// maxReply bounds an answer, in bytes.
const maxReply = 4 << 20

// Client makes requests. It does not repeat them.
type Client struct {
	Config   aws.Config // credentials, Region, and the HTTP client, which knows AWS_CA_BUNDLE
	Endpoint string     // URL
}

// AnswerError is an answer that does not hold what was asked for. What it wraps is a smithy.APIError if the answer is one of Lanyard.
type AnswerError struct {
	Status int // HTTP
	Err    error
}

// Error is the text of what it wraps, without the status.
func (e *AnswerError) Error() string { return e.Err.Error() }

// Unwrap returns what it wraps.
func (e *AnswerError) Unwrap() error { return e.Err }

// ClusterPath is the path of a cluster, and of what is below it.
func ClusterPath(name, rest string) string {
	return "/lanyard/clusters/" + url.PathEscape(name) + rest
}

// Do makes a request, whose path may have a query, with in as its body unless that is nil, and reads the answer into out unless that is nil.
// An answer that is not a success is an *AnswerError.
func (c Client) Do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.Endpoint, "/")+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	credentials, err := c.Config.Credentials.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("get credentials: %w", err)
	}
	hash := sha256.Sum256(body)
	sigv4.Sign(r, sigv4.Credentials{
		AccessKeyID:     credentials.AccessKeyID,
		SecretAccessKey: sigv4.Secret(credentials.SecretAccessKey),
		SessionToken:    credentials.SessionToken,
	}, "lanyard", c.Config.Region, hex.EncodeToString(hash[:]), time.Now())
	client := c.Config.HTTPClient
	if client == nil {
		client = http.DefaultClient
	}
	reply, err := client.Do(r)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(io.LimitReader(reply.Body, maxReply+1))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", r.URL.Host, err)
	}
	if len(text) > maxReply {
		return fmt.Errorf("the answer of %s is longer than %d MiB", r.URL.Host, maxReply>>20)
	}
	if reply.StatusCode < 200 || reply.StatusCode > 299 {
		return answerError(r, reply, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return notLanyard(r, reply, err)
	}
	return nil
}

// answerError is what an answer says that is no success.
func answerError(r *http.Request, reply *http.Response, text []byte) error {
	code := reply.Header.Get("X-Amzn-ErrorType")
	if code == "" {
		return notLanyard(r, reply, nil)
	}
	var said struct{ Message string }
	if err := json.Unmarshal(text, &said); err != nil {
		return notLanyard(r, reply, err)
	}
	return &AnswerError{reply.StatusCode, &smithy.OperationError{
		ServiceID: "Lanyard", OperationName: r.Method + " " + r.URL.RequestURI(), Err: &smithy.GenericAPIError{Code: code, Message: said.Message},
	}}
}

// notLanyard is an answer of something else, whose text is nobody's to repeat.
func notLanyard(r *http.Request, reply *http.Response, why error) error {
	err := fmt.Errorf("%s %s answers %s, but not as Lanyard does", r.Method, r.URL.Redacted(), reply.Status)
	if why != nil {
		err = fmt.Errorf("%w: %w", err, why)
	}
	return &AnswerError{reply.StatusCode, err}
}
