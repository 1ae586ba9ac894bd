package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/agent"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// The agent of `lanyard run` serves one pod, whose processes are few: it keeps credentials as AWS's agent does.
const (
	agentRetention = 3 * time.Hour
	agentTokens    = 16
	agentRenewals  = 3 // a second
)

// eksAuth returns a client of EKS Auth for a cluster, with the credentials of whoever runs the command.
func eksAuth(log *slog.Logger, cfg aws.Config, cluster string) (*agent.Client, error) {
	endpoint := serviceEndpoint(cfg, "AWS_ENDPOINT_URL_EKS_AUTH")
	if endpoint == "" {
		partition, ok := arn.PartitionOfRegion(cfg.Region)
		if !ok {
			return nil, withHint(fmt.Errorf("%q is not a region", cfg.Region), "set AWS_REGION to one of AWS's regions, or --endpoint-url to Lanyard's URL")
		}
		endpoint = fmt.Sprintf("https://eks-auth.%s.%s", cfg.Region, partition.DualStackSuffix)
	}
	transport := agent.NewTransport()
	transport.TLSClientConfig = sdkTLS(cfg)
	return agent.NewClient(agent.ClientConfig{
		Endpoint: endpoint, Region: cfg.Region, ClusterName: cluster, Transport: transport, Timeout: agentTimeout, Log: log,
		Credentials: func(ctx context.Context) (sigv4.Credentials, error) {
			c, err := cfg.Credentials.Retrieve(ctx)
			if err != nil {
				return sigv4.Credentials{}, fmt.Errorf("get credentials: %w", err)
			}
			return sigv4.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: sigv4.Secret(c.SecretAccessKey), SessionToken: c.SessionToken}, nil
		},
	})
}

// startAgent serves credentials on loopback until ctx ends, with the credentials of whoever runs it for its own calls,
// and returns the URL for the pod.
func startAgent(ctx context.Context, log *slog.Logger, cfg aws.Config, cluster string) (string, error) {
	client, err := eksAuth(log, cfg, cluster)
	if err != nil {
		return "", err
	}
	metrics, err := agent.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		return "", err
	}
	const host = "127.0.0.1"
	a := agent.New(agent.Config{
		ClusterName: cluster, Hosts: []string{host}, Fetch: client.AssumeRoleForPodIdentity,
		Retain: agentRetention, MaxEntries: agentTokens, RefreshesPerSecond: agentRenewals, Metrics: metrics, Log: log,
	})
	go a.Run(ctx)
	s := &daemon.Server{Name: "agent", Address: host + ":0", Handler: a}
	if err := serve(ctx, log, s); err != nil {
		return "", err
	}
	return "http://" + s.Addr() + agent.Path, nil
}

// agentTimeout bounds a call to EKS Auth: less than SDKs wait for the agent.
const agentTimeout = 2 * time.Second

// sdkTLS returns the TLS settings that the SDK has, which heed AWS_CA_BUNDLE.
func sdkTLS(cfg aws.Config) *tls.Config {
	if c, ok := cfg.HTTPClient.(interface{ GetTransport() *http.Transport }); ok {
		return c.GetTransport().TLSClientConfig
	}
	return nil
}
