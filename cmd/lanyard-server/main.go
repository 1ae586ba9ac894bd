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
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"github.com/lanyard-id/lanyard/arn"
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

func main() { daemon.Main("lanyard-server", command) }

const usage = `usage: lanyard-server [FLAGS]            serve
       lanyard-server root-key [FLAGS]   print the first account's root access key, for a shell to read

`

// command runs what the arguments ask for.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("lanyard-server", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	file := flags.String("config", "/etc/lanyard/server.yaml", "configuration `file`; docs/server.md describes it")
	if len(args) > 0 && args[0] == "root-key" {
		if err := daemon.ParseFlags(flags, args[1:]); err != nil {
			return err
		}
		return printRootKey(*file, stdout)
	}
	var trustGuard string
	flags.Func("trust-guard", "what becomes of dangerous trust policies, in place of the configuration's trustGuard: off, warn or deny",
		func(text string) error {
			guard, err := iam.ParseTrustGuard(text)
			trustGuard = string(guard)
			return err
		})
	var tokenReview *time.Duration
	flags.Func("token-review", "`time` within which tokens are refused that their clusters do not honour any more, in place of the configuration's tokenReview.every; 0 asks no cluster",
		func(text string) error {
			every, err := time.ParseDuration(text)
			tokenReview = &every
			return err
		})
	var trail auditFlags
	trail.register(flags)
	if err := daemon.ParseFlags(flags, args); err != nil {
		return err
	}
	daemon.TuneGC()
	return run(ctx, *file, trustGuard, tokenReview, trail, stderr)
}

// printRootKey prints the root key in the data directory. It is there where the account was made, and is not to be had from the store.
func printRootKey(file string, stdout io.Writer) error {
	c, err := readConfig(file)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, "root.key")); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no root key in %s: it is in the data directory of the replica that made the account, the one that started first",
			c.DataDir)
	}
	dir, err := controlplane.OpenDirectory(c.DataDir)
	if err != nil {
		return err
	}
	key, err := dir.RootKey()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "export AWS_ACCESS_KEY_ID=%s\nexport AWS_SECRET_ACCESS_KEY=%s\nexport AWS_REGION=%s\n",
		key.AccessKeyID, string(key.SecretAccessKey), c.Region)
	return err
}

// run serves until ctx ends, and logs to stderr. A trust guard, a time of token reviews, and what is said of the audit trail, take the
// place of the configuration's.
func run(
	ctx context.Context, file, trustGuard string, tokenReview *time.Duration, trailFlags auditFlags, stderr io.Writer,
) (err error) {
	c, err := readConfig(file)
	if err != nil {
		return err
	}
	c.TrustGuard = cmp.Or(trustGuard, c.TrustGuard)
	if tokenReview != nil {
		c.TokenReview.Every = *tokenReview
	}
	if err := trailFlags.apply(&c.Audit); err != nil {
		return err
	}
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
	trail, records, err := openTrail(ctx, c.Audit, dir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	delivery, err := openDelivery(ctx, c, records, objects, log)
	if err != nil {
		return err
	}
	partition, _ := arn.PartitionOfRegion(c.Region) // validate has seen the region
	if c.TokenReview.Every != 0 {
		klog.SetSlogLogger(log) // of the whole process
	}
	review, err := c.tokenReview()
	if err != nil {
		return err
	}
	plane, err := controlplane.New(controlplane.Config{
		Store: store, MasterKey: key, Partition: partition.Name, Region: c.Region, Account: c.Account, IssuerURL: c.IssuerURL,
		Objects: objects, Audit: trail, Delivery: delivery, MaxAssociations: c.MaxAssociations, TrustGuard: c.TrustGuard, TokenReview: review,
		Hosts: c.TLS.Hosts, Log: log,
	})
	if err != nil {
		return err
	}
	// The watch and the rotations outlive the last request.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ready := func() error {
		if ctx.Err() != nil {
			return errors.New("stopping")
		}
		return plane.Ready()
	}
	servers, err := listen(c, plane, ready, log)
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
	serving, stopServing := daemon.Linger(ctx, *c.StopDelay)
	defer stopServing()
	return daemon.Serve(serving, log, servers...)
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
func listen(c config, plane *controlplane.ControlPlane, ready func() error, log *slog.Logger) (servers []*daemon.Server, err error) {
	if c.Listen != "" {
		servers = append(servers, &daemon.Server{Name: "http", Address: c.Listen, Handler: plane.Handler()})
	}
	if c.ListenTLS != "" {
		tls, err := c.TLS.serving(log)
		if err != nil {
			return nil, err
		}
		servers = append(servers, &daemon.Server{Name: "https", Address: c.ListenTLS, Handler: plane.Handler(), TLS: tls})
	}
	if c.ListenProbes != "" {
		servers = append(servers, &daemon.Server{Name: "probes", Address: c.ListenProbes, Handler: probes(ready)})
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
func probes(ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return http.TimeoutHandler(mux, time.Second, "timed out")
}
