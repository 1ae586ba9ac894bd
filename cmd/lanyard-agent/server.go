package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
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
	"github.com/lanyard-id/lanyard/internal/handover"
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
	var server *agent.Server
	probes := agent.NewProbes(
		func() error { return errors.Join(server.Healthy(), a.Healthy()) },
		func() error { return errors.Join(server.Ready(), a.Ready()) }, log)
	listeners, admin, offer, err := c.bind(ctx, log, registry, probes)
	if err != nil {
		return err
	}
	server = agent.NewServer(a, listeners, log)
	registry.MustRegister(prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "lanyard_agent_connections", Help: "Open connections of pods."},
		func() float64 { return float64(server.Connections()) }))
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
	err = c.serveInTurn(ctx, a, server, listeners, offer, log)
	stop()
	stopAdmin()
	group.Wait()
	return errors.Join(err, adminErr)
}

// serveInTurn serves once no other server does, or this one could as well: until then it leaves connections to the other. It hands its sockets
// over, if that is wanted, until all is answered: so long does a holder keep the node's addresses.
func (c *serverConfig) serveInTurn(ctx context.Context, a *agent.Agent, server *agent.Server, listeners []net.Listener, offer *handover.Offer, log *slog.Logger) error {
	if offer == nil {
		return server.Serve(ctx)
	}
	err := c.waitForTurn(ctx, a, log)
	if err == nil {
		err = c.announce(ctx, offer)
	}
	switch {
	case err == nil:
		err = server.Serve(ctx)
	case ctx.Err() != nil: // told to end
		err = closeAll(listeners)
	default:
		err = errors.Join(err, closeAll(listeners))
	}
	return errors.Join(err, offer.Close())
}

// announce has the offer be a server's. Nobody who has locked the folder misses it meanwhile.
func (c *serverConfig) announce(ctx context.Context, offer *handover.Offer) error {
	unlock, err := handover.Lock(ctx, c.handover)
	if err != nil {
		return err
	}
	return errors.Join(offer.Rename(servers), unlock())
}

// lookEvery is how often it is looked whether there are others who serve.
const lookEvery = 50 * time.Millisecond

// waitForTurn returns when the agent is ready, or nobody else offers sockets as a server.
func (c *serverConfig) waitForTurn(ctx context.Context, a *agent.Agent, log *slog.Logger) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for waiting := false; ; waiting = true {
		notReady := a.Ready()
		others, err := handover.Take(c.handover, servers)
		err = errors.Join(err, handover.CloseAll(others))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // who does not answer this one does not answer pods either
			return err
		}
		if notReady == nil || len(others) == 0 {
			return nil
		}
		if !waiting {
			log.Info("another server goes on until this one is ready")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
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

// socketsWithin bounds how long a holder of sockets is waited for.
const socketsWithin = 30 * time.Second

// bind takes the sockets that are handed over, binds those that are not, and hands them over in its turn, if that is wanted.
func (c *serverConfig) bind(ctx context.Context, log *slog.Logger, registry *prometheus.Registry, probes http.Handler) (
	listeners []net.Listener, admin []*daemon.Server, offer *handover.Offer, err error,
) {
	given, err := inherited(os.Getenv, strconv.Itoa(os.Getpid()))
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		for _, l := range given {
			log.Warn("a socket that was handed over is not used", "bind-addr", l.Addr().String())
			err = errors.Join(err, l.Close())
		}
		if err != nil {
			err = errors.Join(err, closeAll(listeners))
			for _, s := range admin {
				err = errors.Join(err, s.Close())
			}
		}
	}()
	if c.handover != "" {
		var unlock func() error
		if unlock, err = c.take(ctx, given); err != nil {
			return nil, nil, nil, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	if listeners, err = c.listen(given, log); err != nil {
		return listeners, nil, nil, err
	}
	if admin, err = c.admin(given, log, registry, probes); err != nil {
		return listeners, nil, nil, err
	}
	all := slices.Clone(listeners)
	for _, s := range admin {
		all = append(all, s.Listener)
	}
	if c.healthSocket != "" {
		l, err := listenUnix(c.healthSocket)
		if err != nil {
			return listeners, admin, nil, err
		}
		admin = append(admin, &daemon.Server{Name: "health", Listener: l, Handler: probes})
	}
	if c.handover != "" {
		if offer, err = handOver(c.handover, all, log); err != nil {
			return listeners, admin, nil, err
		}
	}
	return listeners, admin, offer, nil
}

// handOver offers the sockets of listeners.
func handOver(dir string, listeners []net.Listener, log *slog.Logger) (*handover.Offer, error) {
	var sockets []*handover.Socket
	for _, l := range listeners {
		s, err := handover.New(l)
		if err != nil {
			return nil, errors.Join(err, handover.CloseAll(sockets))
		}
		sockets = append(sockets, s)
	}
	offer, err := handover.NewOffer(dir, next, sockets, log)
	if err != nil {
		return nil, errors.Join(err, handover.CloseAll(sockets))
	}
	return offer, nil
}

// take adds the sockets that are offered to those that are given, once those for pods are among them, and locks the folder.
func (c *serverConfig) take(ctx context.Context, given map[string]net.Listener) (unlock func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, socketsWithin)
	defer cancel()
	hosts := c.bindHosts
	if len(hosts) == 0 {
		hosts = []string{agent.LinkLocalIPv4}
	}
	sockets, unlock, err := handover.Wait(ctx, c.handover, func(sockets []*handover.Socket) error {
		for _, host := range hosts {
			if address := hostPort(host, c.port); given[address] == nil && handover.Find(sockets, address) == nil {
				return fmt.Errorf("nobody hands over %s", address)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, s := range sockets {
		if given[s.Address()] == nil {
			var l net.Listener
			if l, err = s.Listener(); err != nil {
				return nil, errors.Join(err, handover.CloseAll(sockets), unlock())
			}
			given[s.Address()] = l
		}
	}
	if err := handover.CloseAll(sockets); err != nil {
		return nil, errors.Join(err, unlock())
	}
	return unlock, nil
}

// listenUnix listens at a file, which it makes anew.
func listenUnix(file string) (net.Listener, error) {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen for probes: %w", err)
	}
	l, err := net.Listen("unix", file)
	if err != nil {
		return nil, fmt.Errorf("listen for probes: %w", err)
	}
	return l, nil
}

// listen uses the sockets for pods that are given, and binds those that are not. It takes them out of the map.
func (c *serverConfig) listen(given map[string]net.Listener, log *slog.Logger) (listeners []net.Listener, err error) {
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
	listeners := map[string]net.Listener{}
	if getenv("LISTEN_PID") != pid {
		return listeners, nil
	}
	const first, most = 3, 16
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > most {
		return nil, fmt.Errorf("LISTEN_FDS is %q: not a number up to %d", getenv("LISTEN_FDS"), most)
	}
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

// boundTo returns what net.Listen may have bound for an address: numbers, and all addresses in two ways.
func boundTo(address string) []string {
	a, err := net.ResolveTCPAddr("tcp", address)
	switch {
	case err != nil:
		return nil // net.Listen will say so
	case len(a.IP) == 0 || a.IP.IsUnspecified():
		return []string{hostPort("::", uint16(a.Port)), hostPort("0.0.0.0", uint16(a.Port))}
	}
	return []string{a.String()}
}

// admin uses the sockets for probes and metrics that are given, and binds those that are not. It takes them out of the map.
func (c *serverConfig) admin(given map[string]net.Listener, log *slog.Logger, registry *prometheus.Registry, probes http.Handler) (servers []*daemon.Server, err error) {
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
		for _, address := range boundTo(s.Address) {
			if l, ok := given[address]; ok {
				delete(given, address)
				s.Listener = l
				break
			}
		}
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
