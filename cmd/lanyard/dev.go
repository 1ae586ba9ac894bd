package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/controlplane"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/gateway"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/kv/etcd/embedded"
	"github.com/lanyard-id/lanyard/internal/localca"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// devConfig is what `lanyard dev` runs with.
type devConfig struct {
	listen, listenTLS string
	dir               string
	account, region   string
	empty             bool // without the sample cluster, roles, association and buckets
	trustGuard        string
	audit             audit.Mode // Required when empty
	log               *slog.Logger
}

// devServer is a control plane on this machine that answers.
type devServer struct {
	dir      controlplane.Directory
	endpoint string // http://…, all APIs
	issuer   string // https://…, the same and the issuers
	root     sigv4.Credentials
	cancel   context.CancelFunc
	stopped  chan error // receives once, when the server has stopped
}

// stop stops the server and waits until it has.
func (s *devServer) stop() error {
	s.cancel()
	return <-s.stopped
}

func newDevCommand(c *cli) *cobra.Command {
	var d devConfig
	var level, format, mode string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run all of Lanyard on this machine",
		Long: `Run the control plane on this machine, with an embedded store and an embedded S3. It keeps its state in --data-dir and writes there the file
"env", whose lines point AWS's tools at it:

  eval "$(lanyard env)"
  aws s3 ls

Unless --empty is given, the first start makes a cluster "dev", a role for default/my-sa by IRSA, a role and an association
for default/s3-sa by Pod Identity, and three buckets.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := daemon.NewLogger(c.err, level, format)
			if err != nil {
				return err
			}
			d.log = log
			if d.audit, err = audit.ParseMode(mode); err != nil {
				return withHint(err, "give --audit required or best-effort")
			}
			if c.region != "" {
				d.region = c.region
			}
			daemon.TuneGC()
			s, err := startDev(cmd.Context(), d)
			if err != nil && cmd.Context().Err() != nil {
				log.Info("stopped before it was ready", "err", err)
				return nil
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(c.err, "ready: all APIs at %s, issuers at %s; source %s\n", s.endpoint, s.issuer, s.dir.Path("env"))
			return <-s.stopped
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&d.listen, "listen", "127.0.0.1:4566", "address for HTTP")
	flags.StringVar(&d.listenTLS, "listen-tls", "127.0.0.1:4567",
		"address for HTTPS, which also serves the issuers; roles by IRSA name its host, but not its port")
	flags.StringVar(&d.dir, "data-dir", defaultDataDir(), "directory for the state")
	flags.StringVar(&d.account, "account-id", "111122223333", "the first account")
	flags.BoolVar(&d.empty, "empty", false, "make no sample cluster, roles, association and buckets")
	flags.StringVar(&d.trustGuard, "trust-guard", string(iam.TrustWarn),
		"what becomes of trust policies that let in whom nobody meant to let in: off, warn or deny")
	flags.StringVar(&mode, "audit", string(audit.Required), "what becomes of calls that cannot be recorded: required (they are refused) or best-effort")
	flags.StringVar(&level, "log-level", "warn", "log level: debug, info, warn or error")
	flags.StringVar(&format, "log-format", "text", "log format: text or json")
	d.region = "us-east-1"
	return cmd
}

// closers are what has been opened, in this order.
type closers []func() error

// close closes in reverse order.
func (c closers) close() error {
	var errs []error
	for _, f := range slices.Backward(c) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// startDev returns once everything answers. The server stops when ctx ends.
func startDev(ctx context.Context, d devConfig) (_ *devServer, err error) {
	if !arn.ValidAccountID(d.account) {
		return nil, withHint(fmt.Errorf("%q is not an account ID", d.account), "an account ID has 12 digits")
	}
	partition, ok := arn.PartitionOfRegion(d.region)
	if !ok {
		return nil, withHint(fmt.Errorf("%q is not a region", d.region), "use a region of AWS, such as us-east-1")
	}
	if _, err := iam.ParseTrustGuard(d.trustGuard); err != nil {
		return nil, withHint(err, "give --trust-guard off, warn or deny")
	}
	dir, err := controlplane.OpenDirectory(d.dir)
	if err != nil {
		return nil, err
	}
	var opened closers
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.close())
		}
	}()
	plain := &daemon.Server{Name: "http", Address: d.listen}
	secure := &daemon.Server{Name: "https", Address: d.listenTLS}
	for _, s := range []*daemon.Server{plain, secure} {
		if err := s.Listen(); errors.Is(err, syscall.EADDRINUSE) {
			return nil, withHint(err, "another dev server may be running; choose free addresses with --listen and --listen-tls")
		} else if err != nil {
			return nil, withHint(err, "give --listen and --listen-tls addresses of this machine, as HOST:PORT")
		}
		opened = append(opened, s.Close)
	}
	issuerHost, err := issuerAddress(d.listenTLS, secure.Addr())
	if err != nil {
		return nil, err
	}
	key, err := dir.MasterKey()
	if err != nil {
		return nil, err
	}
	ca, err := openCA(dir)
	if err != nil {
		return nil, err
	}
	store, err := embedded.Open(ctx, dir.Path("etcd"), d.log)
	if err != nil {
		return nil, err
	}
	opened = append(opened, store.Close)
	objects, err := gateway.OpenDirectory(dir.Path("objects"), d.log)
	if err != nil {
		return nil, err
	}
	if c, ok := objects.(io.Closer); ok {
		opened = append(opened, c.Close)
	}
	records, err := audit.OpenFiles(audit.FilesConfig{Dir: dir.Path("audit"), Log: d.log})
	if err != nil {
		return nil, err
	}
	opened = append(opened, records.Close)
	s := &devServer{
		dir: dir, endpoint: "http://" + reachable(d.listen, plain.Addr()), issuer: "https://" + issuerHost, stopped: make(chan error, 1),
	}
	plane, err := controlplane.New(controlplane.Config{
		Store: store, MasterKey: key, Partition: partition.Name, Region: d.region, Account: d.account,
		IssuerURL: s.issuer, Objects: objects, Audit: audit.NewTrail(records, d.audit, d.log), TrustGuard: d.trustGuard, Log: d.log,
	})
	if err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives the last request
	opened = append(opened, func() error { stop(); return nil })
	if err := plane.Start(background, dir); err != nil {
		return nil, err
	}
	if s.root, err = dir.RootKey(); err != nil {
		return nil, err
	}
	plain.Handler, secure.Handler = plane.Handler(), plane.Handler()
	secure.TLS = ca.TLS(servedHost(d.listenTLS))
	if err := s.writeEnvironment(d.region, ca); err != nil {
		return nil, err
	}
	if !onLoopback(plain.Addr()) {
		d.log.Warn("plain HTTP is served beyond this machine: whoever sees the traffic can read what is answered, secrets too", "address", plain.Addr())
	}
	ctx, s.cancel = context.WithCancel(ctx)
	running := opened[2:] // the listeners are the servers' from here on
	opened = nil
	go func() {
		err := daemon.Serve(ctx, d.log, plain, secure)
		s.stopped <- errors.Join(err, running.close())
	}()
	if !d.empty {
		if err := s.seedOnce(ctx, d.region); err != nil {
			return nil, errors.Join(fmt.Errorf("make the samples: %w", err), s.stop())
		}
	}
	return s, nil
}

// openCA reads the authority that vouches for the server, and makes it at the first start.
func openCA(dir controlplane.Directory) (*localca.CA, error) {
	const name = "ca-key.pem"
	text, err := dir.Keep(name, func() ([]byte, error) {
		ca, err := localca.New(time.Now())
		if err != nil {
			return nil, err
		}
		return ca.Marshal()
	})
	if err != nil {
		return nil, fmt.Errorf("open the local CA: %w", err)
	}
	ca, err := localca.Parse(text)
	if err != nil {
		return nil, withHint(fmt.Errorf("read %s: %w", dir.Path(name), err),
			"restore the file from a backup, or remove it: what trusts the old CA must then trust a new one")
	}
	return ca, nil
}

// reachable returns where a server that listens at an address is reached from this machine: at the name that was given, if any,
// with the port that it got.
func reachable(address, bound string) string {
	host, _, _ := net.SplitHostPort(address) // the address has been listened at
	_, port, _ := net.SplitHostPort(bound)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// issuerAddress is where the hosted issuers are: STS and IAM take no provider whose URL has an IPv6 address, so that they need a name.
func issuerAddress(address, bound string) (string, error) {
	host, port, err := net.SplitHostPort(reachable(address, bound))
	if err != nil {
		return "", fmt.Errorf("read the address for HTTPS: %w", err)
	}
	ip := net.ParseIP(host)
	switch {
	case ip == nil || ip.To4() != nil:
	case ip.IsLoopback():
		host = "localhost"
	default:
		return "", withHint(fmt.Errorf("issuers cannot be served at %s: IAM takes no identity provider whose URL has an IPv6 address", address),
			"give --listen-tls a name that has this address, as NAME:PORT")
	}
	return net.JoinHostPort(host, port), nil
}

func onLoopback(bound string) bool {
	host, _, _ := net.SplitHostPort(bound)
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// servedHost accepts the names of this machine that the address stands for, and AWS's own names: clients that are
// brought here by DNS ask for those.
func servedHost(address string) func(string) bool {
	bound, _, _ := net.SplitHostPort(address)
	return func(host string) bool {
		if host == bound || host == "localhost" {
			return true
		}
		if ip := net.ParseIP(host); ip != nil {
			return ip.IsLoopback() || bound == "" || net.ParseIP(bound).IsUnspecified()
		}
		return strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn") || strings.HasSuffix(host, ".api.aws")
	}
}

// bundle returns the system's roots together with further certificates: to the SDKs, a bundle replaces the system's.
func bundle(more ...[]byte) ([]byte, error) {
	var all []byte
	for _, path := range []string{ // where Linux distributions and macOS keep them in one file
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
	} {
		roots, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the system's roots: %w", err)
		}
		all = append(roots, '\n')
		break
	}
	for _, m := range more {
		all = append(all, m...)
	}
	return all, nil
}

func (s *devServer) writeEnvironment(region string, ca *localca.CA) error {
	roots, err := bundle(ca.PEM())
	if err != nil {
		return err
	}
	if err := s.dir.Write("ca-bundle.pem", roots); err != nil {
		return err
	}
	if err := s.dir.Write("ca.pem", ca.PEM()); err != nil {
		return err
	}
	lines := []string{"# Points AWS's tools at this Lanyard: source it."}
	for _, v := range s.environment(region) {
		name, val, _ := strings.Cut(v, "=")
		lines = append(lines, fmt.Sprintf("export %s='%s'", name, strings.ReplaceAll(val, "'", `'\''`)))
	}
	lines = append(lines, "unset AWS_SESSION_TOKEN AWS_PROFILE", "")
	return s.dir.Write("env", []byte(strings.Join(lines, "\n")))
}

// environment is what AWS's tools need to reach the server as its root. Both endpoint variables are there because
// aws-sdk-go-v2 does not heed the general one for web identities.
func (s *devServer) environment(region string) []string {
	return []string{
		"AWS_ENDPOINT_URL=" + s.endpoint,
		"AWS_ENDPOINT_URL_STS=" + s.endpoint,
		"AWS_REGION=" + region,
		"AWS_DEFAULT_REGION=" + region,
		"AWS_ACCESS_KEY_ID=" + s.root.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY=" + string(s.root.SecretAccessKey),
		"AWS_CA_BUNDLE=" + s.dir.Path("ca-bundle.pem"),
		"NODE_EXTRA_CA_CERTS=" + s.dir.Path("ca.pem"),
	}
}
