// Command lanyard-server is the control plane: STS, IAM, EKS, EKS Auth, the issuers and the gateway. Any number of
// replicas run over one etcd.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/controlplane"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/gateway"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/kv/etcd"
	"github.com/lanyard-id/lanyard/internal/kv/etcd/embedded"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

func main() {
	file := flag.String("config", "/etc/lanyard/server.yaml", "configuration file; docs/server.md describes it")
	var trustGuard string
	flag.Func("trust-guard", "what becomes of dangerous trust policies, in place of the configuration's trustGuard: off, warn or deny",
		func(text string) error {
			guard, err := iam.ParseTrustGuard(text)
			trustGuard = string(guard)
			return err
		})
	flag.Parse()
	daemon.TuneGC()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *file, trustGuard, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and logs to stderr. A trust guard takes the place of the configuration's.
func run(ctx context.Context, file, trustGuard string, stderr io.Writer) (err error) {
	c, err := readConfig(file)
	if err != nil {
		return err
	}
	c.TrustGuard = cmp.Or(trustGuard, c.TrustGuard)
	log, err := daemon.NewLogger(stderr, c.Log.Level, c.Log.Format)
	if err != nil {
		return err
	}
	dir, err := controlplane.OpenDirectory(c.DataDir)
	if err != nil {
		return err
	}
	key, err := masterKey(c, dir)
	if err != nil {
		return err
	}
	store, err := openStore(ctx, c, dir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	objects, err := openObjects(c, dir, log)
	if err != nil {
		return err
	}
	if closer, ok := objects.(io.Closer); ok {
		defer func() { err = errors.Join(err, closer.Close()) }()
	}
	trail, err := audit.NewFile(dir.Path("audit.jsonl"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, trail.Close()) }()
	partition, _ := arn.PartitionOfRegion(c.Region) // validate has seen the region
	plane, err := controlplane.New(controlplane.Config{
		Store: store, MasterKey: key, Partition: partition.Name, Region: c.Region, Account: c.Account, IssuerURL: c.IssuerURL,
		Objects: objects, Audit: trail, MaxAssociations: c.MaxAssociations, TrustGuard: c.TrustGuard, Log: log,
	})
	if err != nil {
		return err
	}
	// The watch and the rotations outlive the last request.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	servers, err := listen(c, plane, log)
	if err != nil {
		return err
	}
	if err := plane.Start(background, dir); err != nil {
		for _, s := range servers {
			err = errors.Join(err, s.Close())
		}
		return err
	}
	for _, s := range servers {
		log.Info("listening", "server", s.Name, "address", s.Addr())
	}
	return daemon.Serve(ctx, log, servers...)
}

// masterKey reads the key that all replicas share, or, where the store is this process's own, the one beside it.
func masterKey(c config, dir controlplane.Directory) (keyring.MasterKey, error) {
	if c.MasterKeyFile == "" {
		return dir.MasterKey()
	}
	text, err := os.ReadFile(c.MasterKeyFile)
	if err != nil {
		return keyring.MasterKey{}, fmt.Errorf("read master key: %w", err)
	}
	return controlplane.ParseMasterKey(c.MasterKeyFile, text)
}

func openStore(ctx context.Context, c config, dir controlplane.Directory, log *slog.Logger) (kv.Store, error) {
	if len(c.Etcd.Endpoints) == 0 {
		return embedded.Open(ctx, dir.Path("etcd"), log)
	}
	config := etcd.Config{Endpoints: c.Etcd.Endpoints, Log: log}
	if strings.HasPrefix(c.Etcd.Endpoints[0], "https://") {
		var err error
		if config.TLS, err = daemon.ClientTLS(c.Etcd.CAFile, c.Etcd.CertFile, c.Etcd.KeyFile); err != nil {
			return nil, err
		}
	}
	return etcd.Open(ctx, config)
}

func openObjects(c config, dir controlplane.Directory, log *slog.Logger) (http.Handler, error) {
	switch {
	case c.S3.Embedded:
		return gateway.OpenDirectory(dir.Path("objects"), log)
	case c.S3.Upstream.Endpoint != "":
		endpoint, err := url.Parse(c.S3.Upstream.Endpoint)
		if err != nil {
			return nil, fmt.Errorf("read the upstream's endpoint: %w", err)
		}
		secret, err := os.ReadFile(c.S3.Upstream.SecretAccessKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the upstream's secret access key: %w", err)
		}
		key := sigv4.Credentials{AccessKeyID: c.S3.Upstream.AccessKeyID, SecretAccessKey: sigv4.Secret(trim(secret))}
		return gateway.Upstream(endpoint, key, c.S3.Upstream.Region)
	}
	return nil, nil
}

// listen binds all addresses.
func listen(c config, plane *controlplane.ControlPlane, log *slog.Logger) (servers []*daemon.Server, err error) {
	if c.Listen != "" {
		servers = append(servers, &daemon.Server{Name: "http", Address: c.Listen, Handler: plane.Handler()})
	}
	if c.ListenTLS != "" {
		tls, err := daemon.CertificateFiles(c.TLS.CertFile, c.TLS.KeyFile, log)
		if err != nil {
			return nil, err
		}
		servers = append(servers, &daemon.Server{Name: "https", Address: c.ListenTLS, Handler: plane.Handler(), TLS: tls})
	}
	if c.ListenProbes != "" {
		servers = append(servers, &daemon.Server{Name: "probes", Address: c.ListenProbes, Handler: probes(plane)})
	}
	for i, s := range servers {
		if err := s.Listen(); err != nil {
			for _, bound := range servers[:i] {
				err = errors.Join(err, bound.Close())
			}
			return nil, err
		}
	}
	return servers, nil
}

// probes answers for the process (/healthz) and for whether it can serve (/readyz).
func probes(plane *controlplane.ControlPlane) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := plane.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return http.TimeoutHandler(mux, time.Second, "timed out")
}
