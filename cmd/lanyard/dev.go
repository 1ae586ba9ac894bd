package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/controlplane"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/gateway"
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
	log               *slog.Logger
}

// devServer is a control plane on this machine that answers.
type devServer struct {
	dir      controlplane.Directory
	endpoint string // http://…, all APIs
	issuer   string // https://…, the same and the issuers
	root     sigv4.Credentials
	stopped  chan error // receives once, when the server has stopped
}

func newDevCommand(c *cli) *cobra.Command {
	var d devConfig
	var level, format string
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
			if c.region != "" {
				d.region = c.region
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			s, err := startDev(ctx, d)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.err, "ready: all APIs at %s, issuers at %s; source %s\n", s.endpoint, s.issuer, s.dir.Path("env"))
			return <-s.stopped
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&d.listen, "listen", "127.0.0.1:4566", "address for HTTP")
	flags.StringVar(&d.listenTLS, "listen-tls", "127.0.0.1:4567", "address for HTTPS, which also serves the issuers")
	flags.StringVar(&d.dir, "data-dir", defaultDataDir(), "directory for the state")
	flags.StringVar(&d.account, "account-id", "111122223333", "the first account")
	flags.BoolVar(&d.empty, "empty", false, "make no sample cluster, roles, association and buckets")
	flags.StringVar(&level, "log-level", "warn", "log level: debug, info, warn or error")
	flags.StringVar(&format, "log-format", "text", "log format: text or json")
	d.region = "us-east-1"
	return cmd
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
	dir, err := controlplane.OpenDirectory(d.dir)
	if err != nil {
		return nil, err
	}
	var opened []func() error // closed in reverse order, at the stop or when the start fails
	closeAll := func() error {
		var errs []error
		for i := len(opened) - 1; i >= 0; i-- {
			errs = append(errs, opened[i]())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()

	plain := &daemon.Server{Name: "http", Address: d.listen}
	secure := &daemon.Server{Name: "https", Address: d.listenTLS}
	for _, s := range []*daemon.Server{plain, secure} {
		if err := s.Listen(); err != nil {
			return nil, withHint(err, "another dev server may be running; choose free addresses with --listen and --listen-tls")
		}
		opened = append(opened, s.Close)
	}
	key, err := dir.MasterKey()
	if err != nil {
		return nil, err
	}
	ca, err := localca.Open(d.dir, time.Now())
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
	trail, err := audit.NewFile(dir.Path("audit.jsonl"))
	if err != nil {
		return nil, err
	}
	opened = append(opened, trail.Close)
	s := &devServer{dir: dir, endpoint: "http://" + plain.Addr(), issuer: "https://" + secure.Addr(), stopped: make(chan error, 1)}
	plane, err := controlplane.New(controlplane.Config{
		Store: store, MasterKey: key, Partition: partition.Name, Region: d.region, Account: d.account,
		IssuerURL: s.issuer, Objects: objects, Audit: trail, Log: d.log,
	})
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	opened = append(opened, func() error { stop(); return nil })
	made, err := plane.Start(running)
	if err != nil {
		return nil, err
	}
	if made != nil {
		if err := dir.WriteRootKey(*made); err != nil {
			return nil, err
		}
	}
	if s.root, err = dir.RootKey(); err != nil {
		return nil, err
	}
	if account, ok := arn.AccountOfID(s.root.AccessKeyID); !ok || account != d.account {
		return nil, withHint(fmt.Errorf("%s belongs to account %s, not %s", dir.Path("root.key"), account, d.account),
			"start with --account-id %s, or use another --data-dir", account)
	}
	plain.Handler, secure.Handler = plane.Handler(), plane.Handler()
	secure.TLS = ca.TLS(servedHost(d.listenTLS))
	if err := s.writeEnvironment(d.region, ca); err != nil {
		return nil, err
	}
	// The listeners are the running servers' from here on.
	opened = opened[2:]
	go func() {
		err := daemon.Serve(ctx, d.log, plain, secure)
		s.stopped <- errors.Join(err, closeAll())
	}()
	if !d.empty {
		if err := s.seedOnce(ctx, d.region); err != nil {
			return nil, fmt.Errorf("make the samples: %w", err)
		}
	}
	return s, nil
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

// systemRoots are the places where Linux distributions and macOS keep the trusted roots in one file.
var systemRoots = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}

// bundle returns the system's roots together with further certificates: to the SDKs, a bundle replaces the system's.
func bundle(more ...[]byte) ([]byte, error) {
	var all []byte
	for _, path := range systemRoots {
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
