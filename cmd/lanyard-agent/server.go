package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/agent"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// serve runs the server command until ctx ends.
func serve(ctx context.Context, c *serverConfig, stdout io.Writer) error {
	log, err := daemon.NewLogger(stdout, c.verbosity, "json")
	if err != nil {
		return err
	}
	client, err := newClient(ctx, c, log)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	metrics, err := agent.NewMetrics(registry)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	cache := agent.NewCache(client.AssumeRoleForPodIdentity, c.retain, c.cacheSize, c.perSecond, metrics)
	servers, err := listen(c, log, registry, agent.NewHandler(agent.Config{ClusterName: c.cluster, Fetch: cache.Get, Metrics: metrics, Log: log}))
	if err != nil {
		return err
	}
	log.Info("pod identity agent starts", "version", version(), "cluster-name", c.cluster)
	ctx, stop := context.WithCancel(ctx)
	var refreshing sync.WaitGroup
	refreshing.Go(func() { cache.Run(ctx) })
	err = daemon.Serve(ctx, log, servers...)
	stop()
	refreshing.Wait()
	return err
}

// listen binds all addresses: those for pods, probes and metrics.
func listen(c *serverConfig, log *slog.Logger, registry *prometheus.Registry, handler http.Handler) (servers []*daemon.Server, err error) {
	defer func() {
		if err != nil {
			for _, s := range servers {
				err = errors.Join(err, s.Close())
			}
		}
	}()
	address := func(host string, port uint16) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }
	hosts := c.bindHosts
	if len(hosts) == 0 {
		hosts = []string{agent.LinkLocalIPv4, agent.LinkLocalIPv6}
	}
	var bound []string
	for _, host := range hosts {
		s := &daemon.Server{Name: "credentials", Address: address(host, c.port), Handler: handler}
		if err := s.Listen(); err != nil {
			if len(c.bindHosts) == 0 && host == agent.LinkLocalIPv6 {
				// Many nodes have no IPv6, and nobody has asked for it.
				log.Warn("not serving on IPv6", "err", err)
				continue
			}
			return servers, err
		}
		servers = append(servers, s)
		bound = append(bound, s.Addr())
	}
	probes := agent.NewProbes(bound, log)
	admin := http.NewServeMux()
	admin.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	admin.Handle("/", probes)
	for _, s := range []*daemon.Server{
		{Name: "probes", Address: address("localhost", c.probePort), Handler: probes},
		{Name: "metrics", Address: address(c.metricsAddress, c.metricsPort), Handler: admin},
	} {
		if err := s.Listen(); err != nil {
			return servers, err
		}
		servers = append(servers, s)
	}
	for _, s := range servers {
		log.Info("listening", "server", s.Name, "bind-addr", s.Addr())
	}
	return servers, nil
}

// newClient makes the client of EKS Auth. Region, credentials and CA bundle come from where the AWS SDKs take them.
func newClient(ctx context.Context, c *serverConfig, log *slog.Logger) (*agent.Client, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("load AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return nil, errors.New("no region: set AWS_REGION")
	}
	transport := agent.NewTransport()
	if own, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		transport.TLSClientConfig = own.GetTransport().TLSClientConfig // with AWS_CA_BUNDLE
	}
	endpoint := c.endpoint
	if endpoint == "" {
		if endpoint, err = defaultEndpoint(cfg.Region); err != nil {
			return nil, err
		}
	}
	provider := cfg.Credentials
	if c.rotateCredentials {
		provider = rereading()
	}
	return agent.NewClient(agent.ClientConfig{
		Endpoint:    endpoint,
		Region:      cfg.Region,
		ClusterName: c.cluster,
		Credentials: func(ctx context.Context) (sigv4.Credentials, error) {
			own, err := provider.Retrieve(ctx)
			return sigv4.Credentials{
				AccessKeyID: own.AccessKeyID, SecretAccessKey: sigv4.Secret(own.SecretAccessKey), SessionToken: own.SessionToken,
			}, err
		},
		Transport: transport,
		Log:       log,
	})
}

// defaultEndpoint is EKS Auth's in the region, or what the SDKs' variables say.
func defaultEndpoint(region string) (string, error) {
	for _, name := range []string{"AWS_ENDPOINT_URL_EKS_AUTH", "AWS_ENDPOINT_URL"} {
		if endpoint := os.Getenv(name); endpoint != "" {
			return endpoint, nil
		}
	}
	partition, ok := arn.PartitionOfRegion(region)
	if !ok {
		return "", fmt.Errorf("region %q is in no known partition: give the --endpoint", region)
	}
	return strings.Join([]string{"https://eks-auth", region, partition.DualStackSuffix}, "."), nil
}

// rereading provides credentials that are looked up anew every minute, so that a shared credentials file may be replaced.
func rereading() aws.CredentialsProvider {
	return aws.NewCredentialsCache(aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		cfg, err := config.LoadDefaultConfig(ctx)
		if err != nil {
			return aws.Credentials{}, fmt.Errorf("load AWS configuration: %w", err)
		}
		own, err := cfg.Credentials.Retrieve(ctx)
		if err != nil {
			return aws.Credentials{}, err
		}
		if next := time.Now().Add(time.Minute); !own.CanExpire || own.Expires.After(next) {
			own.CanExpire, own.Expires = true, next
		}
		return own, nil
	}))
}
