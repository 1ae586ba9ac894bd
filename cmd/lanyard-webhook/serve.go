package main

import (
	"context"
	"crypto/tls"
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

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	admissionclient "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/webhook"
)

// listTimeout bounds a list of all associations, which takes a request for a hundred of them.
const listTimeout = 2 * time.Minute

// serve runs the webhook until ctx ends: then it serves for a while, and the requests in flight.
func serve(ctx context.Context, c *config, stdout io.Writer) error {
	log, err := daemon.NewLogger(stdout, c.logLevel, "json")
	if err != nil {
		return err
	}
	klog.SetSlogLogger(log)
	cluster, err := kubernetes(c.kubeAPI, c.kubeconfig)
	if err != nil {
		return err
	}
	core, err := corev1client.NewForConfig(cluster)
	if err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	registry := prometheus.NewRegistry()
	metrics, err := webhook.NewMetrics(registry)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	events := record.NewBroadcaster()
	events.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: core.Events("")})
	defer events.Shutdown()
	recorder := events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "lanyard-webhook"})
	led, err := c.led(ctx, cluster, core, recorder, metrics, registry, log)
	if err != nil {
		return err
	}
	accounts := webhook.NewClusterAccounts(webhook.ClusterAccountsConfig{
		Client: core, AnnotationPrefix: c.settings.AnnotationPrefix, Timeout: c.lookupTimeout, Metrics: metrics, Followed: led.followed,
	})
	jobs := []func(context.Context){accounts.Run}
	if led.run != nil {
		jobs = append(jobs, led.run)
	}
	associations, err := c.associations(ctx, metrics, log)
	if err != nil {
		return err
	}
	if associations != nil {
		jobs = append(jobs, associations.Run)
	}
	certificate, certified, err := c.certificate(cluster, core, log, &jobs)
	if err != nil {
		return err
	}
	reviews := webhook.Config{
		Settings: c.settings, Accounts: accounts.Accounts(), Associations: associations, FailClosed: c.failClosed,
		Event: func(account *corev1.ServiceAccount, reason, message string) {
			recorder.Event(account, corev1.EventTypeWarning, reason, message)
		},
		Metrics: metrics, Log: log,
	}
	configured := func() bool { return true }
	if c.watchConfigMap {
		roles := webhook.NewConfigMapAccounts(webhook.ConfigMapAccountsConfig{
			Client: core, Namespace: c.namespace, Settings: c.settings, Timeout: c.lookupTimeout, Metrics: metrics, Log: log,
		})
		reviews.Configured, configured = roles.Configured(), roles.Synced
		jobs = append(jobs, roles.Run)
	}
	if len(c.caFiles) > 0 {
		bundles, err := c.bundles(cluster, core, log)
		if err != nil {
			return err
		}
		reviews.Given = bundles.Want
		jobs = append(jobs, bundles.Run)
	}
	if c.reportPeriod > 0 {
		jobs = append(jobs, webhook.NewReporter(webhook.ReporterConfig{
			Settings: c.settings, Pods: core, Events: core, Accounts: reviews.Accounts, Configured: reviews.Configured, Associations: associations,
			Except: append(strings.Split(c.reportExcept, ","), c.namespace), Given: reviews.Given, Every: c.reportPeriod, Metrics: metrics, Log: log,
		}).Run)
	}

	// What stops first is readiness, then the servers, and last what they need.
	serving, stopServing := daemon.Linger(ctx, c.stopDelay)
	defer stopServing()
	running, stopRunning := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRunning()
	ready := func() error {
		switch {
		case ctx.Err() != nil:
			return errors.New("stopping")
		case !accounts.Synced():
			return errors.New("the service accounts have not been read yet")
		case associations != nil && !associations.Synced():
			return errors.New("the associations have not been listed yet")
		case !configured():
			return fmt.Errorf("the ConfigMap %s has not been read yet", webhook.ConfiguredConfigMap)
		}
		return certified()
	}
	servers := c.servers(webhook.New(reviews), certificate, registry, ready)
	for i, s := range servers {
		if err := s.Listen(); err != nil {
			for _, s := range servers[:i] {
				err = errors.Join(err, s.Close())
			}
			return err
		}
		log.Info("listening", "server", s.Name, "address", s.Addr())
	}
	log.Info("webhook starts", "version", version())
	var group sync.WaitGroup
	for _, job := range jobs {
		group.Go(func() { job(running) })
	}
	err = daemon.Serve(serving, log, servers...)
	stopRunning()
	group.Wait()
	return err
}

// kubernetes returns how the API server is reached.
func kubernetes(url, kubeconfig string) (*rest.Config, error) {
	cluster, err := clientcmd.BuildConfigFromFlags(url, kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	cluster.QPS = -1 // lookups are bounded by themselves, and the API server has its own priorities
	cluster.UserAgent = "lanyard-webhook/" + version()
	cluster.ContentType, cluster.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	return cluster, nil
}

// certificate returns the TLS configuration, and what says whether API servers trust it. Where the certificate is made here,
// there is a job more.
func (c *config) certificate(
	cluster *rest.Config, core *corev1client.CoreV1Client, log *slog.Logger, jobs *[]func(context.Context),
) (*tls.Config, func() error, error) {
	if !c.inCluster {
		files, err := daemon.CertificateFiles(c.tlsCert, c.tlsKey, log)
		return files, func() error { return nil }, err
	}
	registrations, err := admissionclient.NewForConfig(cluster)
	if err != nil {
		return nil, nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	s := webhook.NewServing(webhook.ServingConfig{
		Secrets: core, Registrations: registrations, Namespace: c.namespace, Secret: c.tlsSecret, Service: c.service, Registration: c.webhookName, Log: log,
	})
	*jobs = append(*jobs, s.Run)
	return s.TLS(), s.Ready, nil
}

// bundles returns what publishes the certificates of files to the pods' namespaces.
func (c *config) bundles(cluster *rest.Config, core *corev1client.CoreV1Client, log *slog.Logger) (*webhook.Bundles, error) {
	client, err := metadata.NewForConfig(cluster)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	return webhook.NewBundles(webhook.BundlesConfig{
		ConfigMaps: core, Metadata: client, ConfigMap: c.settings.CA, Log: log,
		Read: func() (all []byte, err error) {
			for _, name := range c.caFiles {
				text, err := os.ReadFile(name)
				if err != nil {
					return nil, err
				}
				all = append(append(all, text...), '\n')
			}
			return all, nil
		},
	}), nil
}

// servers returns the one for API servers, and the one for probes and metrics.
func (c *config) servers(review http.Handler, certificate *tls.Config, registry *prometheus.Registry, ready func() error) []*daemon.Server {
	ok := func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "ok") //nolint:errcheck // who asked has gone
	}
	reviews := http.NewServeMux()
	reviews.Handle(webhook.Path, review)
	reviews.HandleFunc("GET /healthz", ok)
	admin := http.NewServeMux()
	admin.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	admin.HandleFunc("GET /healthz", ok)
	admin.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		ok(w, r)
	})
	address := func(port uint16) string { return net.JoinHostPort(c.address, strconv.Itoa(int(port))) }
	return []*daemon.Server{
		{Name: "reviews", Address: address(c.port), Handler: reviews, TLS: certificate},
		{Name: "admin", Address: address(c.metricsPort), Handler: admin},
	}
}
