package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"runtime/debug"
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
)

// serve runs the server command until ctx ends: then it serves the requests in flight, and the probes until that is done.
func serve(ctx context.Context, c *serverConfig, stdout io.Writer) error {
	// Before there are secrets in memory. Systems without such a switch are left as they are.
	if err := daemon.NoCoreDumps(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	log, err := daemon.NewLogger(stdout, c.verbosity, "json")
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	a, background, err := newAgent(ctx, c, log, registry)
	if err != nil {
		return err
	}
	listeners, err := c.listen(log)
	if err != nil {
		return err
	}
	server := agent.NewServer(a, listeners, log)
	registry.MustRegister(prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "lanyard_agent_connections", Help: "Open connections of pods."},
		func() float64 { return float64(server.Connections()) }))
	admin, err := c.admin(log, registry, agent.NewProbes(
		func() error { return errors.Join(server.Healthy(), a.Healthy()) },
		func() error { return errors.Join(server.Ready(), a.Ready()) }, log))
	if err != nil {
		return errors.Join(err, closeAll(listeners))
	}
	for _, l := range listeners {
		log.Info("listening", "server", "credentials", "bind-addr", l.Addr().String())
	}
	log.Info("pod identity agent starts", "version", version(), "cluster-name", c.cluster)

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	after, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAdmin()
	var group sync.WaitGroup
	group.Go(func() { background(ctx) })
	group.Go(func() { returnMemory(ctx) })
	var adminErr error
	group.Go(func() {
		adminErr = daemon.Serve(after, log, admin...)
		stop()
	})
	err = server.Serve(ctx)
	stop()
	stopAdmin()
	group.Wait()
	return errors.Join(err, adminErr)
}

// returnMemoryEvery is how often memory that a burst of requests took is given back. It costs some milliseconds, and the
// node's memory is there for its pods.
const returnMemoryEvery = 20 * time.Second

// gcPercent is the GOGC when the environment sets none: requests make little garbage, so that collecting twice as often as
// by Go's default costs nothing that shows.
const gcPercent = 50

func returnMemory(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	}
	ticker := time.NewTicker(returnMemoryEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			runtime.GC() // what is pooled is only free after two collections
			debug.FreeOSMemory()
		}
	}
}

// newAgent puts the agent together, and what is to run beside its server.
func newAgent(ctx context.Context, c *serverConfig, log *slog.Logger, registry *prometheus.Registry) (*agent.Agent, func(context.Context), error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("load AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return nil, nil, errors.New("no region: set AWS_REGION")
	}
	own := c.identity(cfg)
	client, err := newClient(c, cfg, own, log)
	if err != nil {
		return nil, nil, err
	}
	metrics, err := agent.NewMetrics(registry)
	if err != nil {
		return nil, nil, fmt.Errorf("register metrics: %w", err)
	}
	settings := agent.Config{
		ClusterName: c.cluster, Fetch: client.AssumeRoleForPodIdentity,
		Check: func(ctx context.Context) error {
			_, err := own.get(ctx)
			return err
		},
		MaxAge: c.tokenReview, Retain: c.retain, MaxEntries: c.cacheSize, RefreshesPerSecond: c.perSecond,
		FetchesPerSecond: c.fetchesPerSecond, FetchesPerPod: c.fetchesPerPod,
		Metrics: metrics, Log: log,
	}
	load, err := c.keys()
	if err != nil {
		return nil, nil, err
	}
	jobs := []func(context.Context){own.run}
	if load != nil {
		keys := agent.NewKeys(load, log)
		settings.Verify = keys.Verify
		jobs = append(jobs, keys.Run)
	}
	a := agent.New(settings)
	jobs = append(jobs, a.Run)
	return a, func(ctx context.Context) {
		var group sync.WaitGroup
		for _, job := range jobs {
			group.Go(func() { job(ctx) })
		}
		group.Wait()
	}, nil
}

// listen takes the sockets for pods that were handed over, and binds those that were not.
func (c *serverConfig) listen(log *slog.Logger) (listeners []net.Listener, err error) {
	given, err := inherited(os.Getenv, strconv.Itoa(os.Getpid()))
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, l := range given {
			log.Warn("a socket that was handed over is not used", "bind-addr", l.Addr().String())
			err = errors.Join(err, l.Close())
		}
		if err != nil {
			err = errors.Join(err, closeAll(listeners))
		}
	}()
	hosts := c.bindHosts
	if len(hosts) == 0 {
		hosts = []string{agent.LinkLocalIPv4, agent.LinkLocalIPv6}
	}
	for _, host := range hosts {
		address := hostPort(host, c.port)
		if l, ok := given[address]; ok {
			delete(given, address)
			listeners = append(listeners, l)
			continue
		}
		l, err := net.Listen("tcp", address)
		if err != nil && len(c.bindHosts) == 0 && host == agent.LinkLocalIPv6 {
			// Many nodes have no IPv6, and nobody has asked for it.
			log.Warn("not serving on IPv6", "err", err)
			continue
		}
		if err != nil {
			return listeners, fmt.Errorf("listen for pods: %w", err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// inherited returns the sockets that were handed over as systemd does (sd_listen_fds(3)), by their addresses: whoever holds
// them keeps the connections that arrive while the agent is replaced.
func inherited(getenv func(string) string, pid string) (map[string]net.Listener, error) {
	if getenv("LISTEN_PID") != pid {
		return nil, nil
	}
	const first, most = 3, 16
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > most {
		return nil, fmt.Errorf("LISTEN_FDS is %q: not a number up to %d", getenv("LISTEN_FDS"), most)
	}
	listeners := map[string]net.Listener{}
	for fd := first; fd < first+n; fd++ {
		f := os.NewFile(uintptr(fd), "LISTEN_FDS")
		l, err := net.FileListener(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("socket %d of LISTEN_FDS: %w", fd, err)
		}
		listeners[l.Addr().String()] = l
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) (err error) {
	for _, l := range listeners {
		err = errors.Join(err, l.Close())
	}
	return err
}

func hostPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// admin binds the addresses of probes and metrics.
func (c *serverConfig) admin(log *slog.Logger, registry *prometheus.Registry, probes http.Handler) (servers []*daemon.Server, err error) {
	metrics := http.NewServeMux()
	metrics.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	metrics.Handle("/", probes)
	local := http.NewServeMux()
	local.Handle("/", probes)
	if c.profile {
		local.HandleFunc("/debug/pprof/", pprof.Index)
		local.HandleFunc("/debug/pprof/profile", pprof.Profile)
		local.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		local.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	for _, s := range []*daemon.Server{
		{Name: "probes", Address: hostPort("localhost", c.probePort), Handler: local},
		{Name: "metrics", Address: hostPort(c.metricsAddress, c.metricsPort), Handler: metrics},
	} {
		if err := s.Listen(); err != nil {
			for _, other := range servers {
				err = errors.Join(err, other.Close())
			}
			return nil, err
		}
		servers = append(servers, s)
		log.Info("listening", "server", s.Name, "bind-addr", s.Addr())
	}
	return servers, nil
}

// newClient makes the client of EKS Auth. The CA bundle comes from where the AWS SDKs take it.
func newClient(c *serverConfig, cfg aws.Config, own *identity, log *slog.Logger) (*agent.Client, error) {
	transport := agent.NewTransport()
	if sdk, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		transport.TLSClientConfig = sdk.GetTransport().TLSClientConfig // with AWS_CA_BUNDLE
	}
	endpoint := c.endpoint
	if endpoint == "" {
		var err error
		if endpoint, err = defaultEndpoint(cfg.Region); err != nil {
			return nil, err
		}
	}
	return agent.NewClient(agent.ClientConfig{
		Endpoint: endpoint, Region: cfg.Region, ClusterName: c.cluster, Credentials: own.get, Transport: transport, Timeout: c.timeout, Log: log,
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
