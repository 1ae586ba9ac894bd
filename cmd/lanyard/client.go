package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/internal/lanyardapi"
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

// lanyardAPI calls an operation of Lanyard's own API, which AWS does not have.
func lanyardAPI(ctx context.Context, cfg aws.Config, method, path string, in, out any) error {
	api := lanyardapi.Client{Config: cfg, Endpoint: serviceEndpoint(cfg, "AWS_ENDPOINT_URL_LANYARD")}
	if api.Endpoint == "" {
		return withHint(errors.New("this command needs Lanyard, and AWS has nothing like it"),
			"give --endpoint-url, or set AWS_ENDPOINT_URL: source the file \"env\" in the data directory of `lanyard dev`")
	}
	err := api.Do(ctx, method, path, in, out)
	if _, ok := errors.AsType[smithy.APIError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*lanyardapi.AnswerError](err); ok {
		return withHint(err, "is AWS_ENDPOINT_URL Lanyard's address?")
	}
	return err
}
