package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/internal/subject"
)

// lanyardAPI is Lanyard's own API, which the SDK does not know.
type lanyardAPI struct {
	cfg      aws.Config
	endpoint string // URL; empty where AWS is asked
}

func newLanyardAPI(cfg aws.Config) lanyardAPI {
	api := lanyardAPI{cfg: cfg, endpoint: os.Getenv("AWS_ENDPOINT_URL_LANYARD")}
	if api.endpoint == "" {
		api.endpoint = aws.ToString(cfg.BaseEndpoint)
	}
	return api
}

// maxReply bounds an answer of it, in bytes.
const maxReply = 1 << 20

// updateKeys replaces the registered keys of a cluster, and returns the IDs of those that were.
func (a lanyardAPI) updateKeys(ctx context.Context, cluster string, jwks []byte) (previous []string, err error) {
	body, err := json.Marshal(map[string]string{"jwks": string(jwks)})
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	var answer struct{ PreviousKeyIDs []string }
	err = a.do(ctx, http.MethodPut, "/lanyard/clusters/"+url.PathEscape(cluster)+"/keys", body, &answer)
	return answer.PreviousKeyIDs, err
}

// associated asks whether an association applies to a service account, by its names or by a pattern.
func (a lanyardAPI) associated(ctx context.Context, cluster string, who subject.Subject) (bool, error) {
	query := url.Values{"namespace": {who.Namespace}, "serviceAccount": {who.ServiceAccount}}
	var answer struct {
		Association *struct{ AssociationID string }
	}
	err := a.do(ctx, http.MethodGet, "/lanyard/clusters/"+url.PathEscape(cluster)+"/effective-association?"+query.Encode(), nil, &answer)
	return answer.Association != nil, err
}

// answerError is an answer that does not have what was asked for.
type answerError struct {
	status int // HTTP
	err    error
}

func (e *answerError) Error() string { return e.err.Error() }
func (e *answerError) Unwrap() error { return e.err }

// unasked reports whether an error may be the answer of something that does not know the question: of AWS, or of a Lanyard of before.
func unasked(err error) bool {
	var a *answerError
	return errors.As(err, &a) && (a.status < 500 && a.status != http.StatusTooManyRequests || a.status == http.StatusNotImplemented)
}

// do makes a request, and reads the answer.
func (a lanyardAPI) do(ctx context.Context, method, path string, body []byte, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(a.endpoint, "/")+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	credentials, err := a.cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("get credentials: %w", err)
	}
	hash := sha256.Sum256(body)
	sigv4.Sign(r, sigv4.Credentials{
		AccessKeyID:     credentials.AccessKeyID,
		SecretAccessKey: sigv4.Secret(credentials.SecretAccessKey),
		SessionToken:    credentials.SessionToken,
	}, "lanyard", a.cfg.Region, hex.EncodeToString(hash[:]), time.Now())
	client := a.cfg.HTTPClient // knows AWS_CA_BUNDLE
	if client == nil {
		client = http.DefaultClient
	}
	reply, err := client.Do(r)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(io.LimitReader(reply.Body, maxReply))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", r.URL.Host, err)
	}
	if reply.StatusCode != http.StatusOK {
		var said struct{ Message string }
		code := reply.Header.Get("X-Amzn-ErrorType")
		if json.Unmarshal(text, &said) != nil || code == "" {
			return &answerError{reply.StatusCode, fmt.Errorf("%s answers %s, but not as Lanyard does", r.URL.Host, reply.Status)}
		}
		return &answerError{reply.StatusCode, &smithy.GenericAPIError{Code: code, Message: said.Message}}
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return &answerError{reply.StatusCode, fmt.Errorf("%s answers %s, but not as Lanyard does: %w", r.URL.Host, reply.Status, err)}
	}
	return nil
}
