// Command lanyard-agent hands out credentials to the pods of its node: it is the EKS Pod Identity Agent, with the same
// flags, for any cluster and for AWS's EKS Auth as well as Lanyard's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/daemon"
)

const usage = `usage: lanyard-agent COMMAND [FLAGS]

  server      serve credentials to the pods of this node
  hold        hold the sockets of servers, so that one can take the place of another
  supervise   run another command of these, and again when it fails
  health      ask a server whether it is ready
  initialize  give this node the link-local addresses of the agent
  version     print the version

Run "lanyard-agent COMMAND -h" for the flags of a command.
`

func main() { daemon.Main("lanyard-agent", run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return daemon.ErrUsage
	}
	switch args[0] {
	case "server":
		c, err := parseServer(args[1:], stderr)
		if err != nil {
			return err
		}
		return serve(ctx, c, stdout)
	case "hold":
		c, err := parseHold(args[1:], stderr)
		if err != nil {
			return err
		}
		return hold(ctx, c, stdout)
	case "supervise":
		return supervise(ctx, args[1:], stdout, stderr)
	case "health":
		c, err := parseHealth(args[1:], stderr)
		if err != nil {
			return err
		}
		return health(ctx, c)
	case "initialize":
		return initialize(args[1:], stdout, stderr)
	case "version":
		fmt.Fprintln(stdout, version())
		return nil
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return nil
	}
	fmt.Fprintf(stderr, "unknown command %q\n\n%s", args[0], usage)
	return daemon.ErrUsage
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// serverConfig is what the flags of the server command say.
type serverConfig struct {
	cluster           string
	port, probePort   uint16
	metricsAddress    string
	metricsPort       uint16
	bindHosts         []string // empty: both link-local addresses, of which IPv6 may be missing
	retain            time.Duration
	cacheSize         int
	perSecond         int
	rotateCredentials bool
	endpoint          string
	verbosity         string

	// What AWS's agent does not have.
	timeout           time.Duration // of a call to EKS Auth
	fetchesPerSecond  int
	fetchesPerPod     int
	roleARN           string // with tokenFile, or both empty
	tokenFile         string
	jwksURL, jwksFile string // at most one of them
	jwksCA, jwksToken string // files, with jwksURL
	tokenReview       time.Duration
	profile           bool
	handover          string // folder
	healthSocket      string // file
}

// portFlag adds a flag for a port, by some names.
func portFlag(flags *flag.FlagSet, into *uint16, what string, names ...string) {
	for _, name := range names {
		flags.Func(name, fmt.Sprintf("%s (default %d)", what, *into), func(s string) error {
			n, err := strconv.ParseUint(s, 10, 16)
			if err != nil {
				return errors.New("not a port")
			}
			*into = uint16(n)
			return nil
		})
	}
}

func verbosityFlag(flags *flag.FlagSet, into *string) {
	for _, name := range []string{"v", "verbosity"} {
		flags.StringVar(into, name, "info", "log `level`: debug, info, warn or error")
	}
}

func parseServer(args []string, stderr io.Writer) (*serverConfig, error) {
	c := &serverConfig{port: 80, probePort: 2703, metricsPort: 2705}
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	flags.SetOutput(stderr)
	for _, name := range []string{"c", "cluster-name"} {
		flags.StringVar(&c.cluster, name, "", "`name` of the cluster that the node is in (required)")
	}
	portFlag(flags, &c.port, "`port` for the pods", "p", "port")
	portFlag(flags, &c.probePort, "`port` on localhost for probes", "probe-port")
	flags.StringVar(&c.metricsAddress, "metrics-address", "0.0.0.0", "`address` for metrics")
	portFlag(flags, &c.metricsPort, "`port` for metrics", "metrics-port")
	for _, name := range []string{"b", "bind-hosts"} {
		flags.Func(name, "`address` for the pods; may be given more than once (default both link-local addresses)", func(s string) error {
			c.bindHosts = append(c.bindHosts, strings.Trim(s, "[]"))
			return nil
		})
	}
	flags.DurationVar(&c.retain, "max-credential-retention-before-renewal", 3*time.Hour, "`age` at which credentials are renewed; 0 keeps none")
	flags.IntVar(&c.cacheSize, "max-cache-size", 2000, "`number` of tokens whose credentials are kept; 0 keeps none")
	flags.IntVar(&c.perSecond, "max-service-qps", 3, "`number` of renewals in a second")
	flags.BoolVar(&c.rotateCredentials, "rotate-credentials", false, "read the agent's own credentials anew every minute")
	flags.StringVar(&c.endpoint, "endpoint", "", "`URL` of EKS Auth (default AWS's in the region)")
	flags.DurationVar(&c.timeout, "service-timeout", time.Second, "`time` that a call to EKS Auth may take")
	flags.IntVar(&c.fetchesPerSecond, "max-fetch-qps", 500, "`number` of calls to EKS Auth in a second for pods that wait, and twice as many at once; more wait longer")
	flags.IntVar(&c.fetchesPerPod, "max-fetches-per-pod", 64, "`number` of calls to EKS Auth for one pod at a time; more wait longer")
	flags.StringVar(&c.roleARN, "role-arn", "", "`ARN` of the agent's own role (default: whatever credentials the AWS SDK finds)")
	flags.StringVar(&c.tokenFile, "web-identity-token-file", "", "`file` with a token of the agent's own service account, for --role-arn")
	flags.StringVar(&c.jwksURL, "jwks-url", "", "`URL` of the cluster's public keys, to verify tokens with, so that a rotated token is known")
	flags.StringVar(&c.jwksFile, "jwks-file", "", "`file` with the cluster's public keys, instead of --jwks-url")
	flags.StringVar(&c.jwksCA, "jwks-ca-file", "", "`file` with the CA of --jwks-url (default the system's)")
	flags.StringVar(&c.jwksToken, "jwks-token-file", "", "`file` with a bearer token for --jwks-url")
	flags.DurationVar(&c.tokenReview, "token-review", 0,
		"`age` at which EKS Auth is asked again before kept credentials are handed out, in case that it does not honour the token any more; 0 asks only to renew")
	flags.BoolVar(&c.profile, "pprof", false, "serve profiles under /debug/pprof/ on the port for probes")
	flags.StringVar(&c.handover, "handover", "",
		"`folder` of this user in which sockets are handed over: those for the pods are those that a hold command offers there, and others go from one server to the next")
	flags.StringVar(&c.healthSocket, "health-socket", "", "`file` for a Unix socket that answers probes too: that of no other server")
	verbosityFlag(flags, &c.verbosity)
	if err := daemon.ParseFlags(flags, args); err != nil {
		return nil, err
	}
	return c, c.check()
}

// minTokenReview is the least --token-review: a fetch that pods wait for may take ten seconds of it.
const minTokenReview = 15 * time.Second

// check returns what cannot work.
func (c *serverConfig) check() error {
	switch {
	case c.cluster == "":
		return errors.New("--cluster-name is required")
	case c.cacheSize < 0 || c.retain < 0:
		return errors.New("--max-cache-size and --max-credential-retention-before-renewal must not be negative")
	case c.perSecond <= 0 || c.fetchesPerSecond <= 0 || c.fetchesPerPod <= 0 || c.timeout <= 0:
		return errors.New("--max-service-qps, --max-fetch-qps, --max-fetches-per-pod and --service-timeout must be positive")
	case c.retain > 0 && float64(c.perSecond)*c.retain.Seconds() < float64(c.cacheSize)/2:
		return fmt.Errorf("%d renewals a second cannot keep %d credentials fresh for %s: raise --max-service-qps or lower --max-cache-size",
			c.perSecond, c.cacheSize, c.retain)
	case c.tokenReview != 0 && c.tokenReview < minTokenReview:
		return fmt.Errorf("--token-review must be 0, or %s or more", minTokenReview)
	case (c.roleARN == "") != (c.tokenFile == ""):
		return errors.New("--role-arn and --web-identity-token-file belong together")
	case c.roleARN != "" && c.rotateCredentials:
		return errors.New("--rotate-credentials is for credentials that the AWS SDK finds: not with --role-arn")
	case c.jwksURL != "" && c.jwksFile != "":
		return errors.New("give --jwks-url or --jwks-file, not both")
	case c.jwksURL == "" && (c.jwksCA != "" || c.jwksToken != ""):
		return errors.New("--jwks-ca-file and --jwks-token-file belong to --jwks-url")
	}
	if c.roleARN != "" {
		if _, err := arn.Parse(c.roleARN); err != nil {
			return fmt.Errorf("--role-arn: %w", err)
		}
	}
	if c.jwksURL != "" && !trustworthy(c.jwksURL) {
		return errors.New("--jwks-url is not an https URL") // who can change the keys can be any pod
	}
	return nil
}

// trustworthy reports whether a URL is one whose answers nobody can change on the way: https, or http on this host.
func trustworthy(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && net.ParseIP(u.Hostname()).IsLoopback()
}
