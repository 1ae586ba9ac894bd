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
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// aws loads the SDK's usual configuration, with the command's own flags on top.
func (c *cli) aws(ctx context.Context) (aws.Config, error) {
	var options []func(*config.LoadOptions) error
	if c.region != "" {
		options = append(options, config.WithRegion(c.region))
	}
	if c.profile != "" {
		options = append(options, config.WithSharedConfigProfile(c.profile))
	}
	if c.endpoint != "" {
		options = append(options, config.WithBaseEndpoint(c.endpoint))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return cfg, fmt.Errorf("load AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return cfg, withHint(errors.New("no region is set"), "give --region, or set AWS_REGION")
	}
	if c.endpoint != "" {
		// The clients look here for endpoints of single services, which would go before the flag.
		cfg.ConfigSources = nil
	}
	return cfg, nil
}

// serviceEndpoint returns the URL of a service for requests that are made without the SDK: the flag's, that of the
// service's own variable, or the base endpoint.
func serviceEndpoint(cfg aws.Config, variable string) string {
	if v := os.Getenv(variable); v != "" && cfg.ConfigSources != nil {
		return v
	}
	return aws.ToString(cfg.BaseEndpoint)
}

// maxReply bounds an answer of Lanyard's own API.
const maxReply = 4 << 20

// lanyardAPI calls an operation of Lanyard's own API, which AWS does not have.
func lanyardAPI(ctx context.Context, cfg aws.Config, method, path string, in, out any) error {
	endpoint := serviceEndpoint(cfg, "AWS_ENDPOINT_URL_LANYARD")
	if endpoint == "" {
		return withHint(errors.New("this command needs Lanyard, and AWS has nothing like it"),
			"give --endpoint-url, or set AWS_ENDPOINT_URL: source the file \"env\" in the data directory of `lanyard dev`")
	}
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(endpoint, "/")+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	credentials, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("get credentials: %w", err)
	}
	hash := sha256.Sum256(body)
	sigv4.Sign(r, sigv4.Credentials{
		AccessKeyID:     credentials.AccessKeyID,
		SecretAccessKey: sigv4.Secret(credentials.SecretAccessKey),
		SessionToken:    credentials.SessionToken,
	}, "lanyard", cfg.Region, hex.EncodeToString(hash[:]), time.Now())
	client := cfg.HTTPClient // knows AWS_CA_BUNDLE
	if client == nil {
		client = http.DefaultClient
	}
	reply, err := client.Do(r)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(io.LimitReader(reply.Body, maxReply))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", r.URL.Host, err)
	}
	if reply.StatusCode >= 300 {
		var message struct{ Message string }
		if err := json.Unmarshal(data, &message); err != nil {
			return withHint(fmt.Errorf("%s %s answers %s, but not as Lanyard does: %w", method, r.URL, reply.Status, err),
				"is AWS_ENDPOINT_URL Lanyard's address?")
		}
		return &smithy.OperationError{ServiceID: "Lanyard", OperationName: method + " " + path, Err: &smithy.GenericAPIError{
			Code: reply.Header.Get("X-Amzn-ErrorType"), Message: message.Message,
		}}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("read the answer of %s: %w", r.URL.Host, err)
	}
	return nil
}

func clusterPath(name, rest string) string {
	return "/lanyard/clusters/" + url.PathEscape(name) + rest
}
