package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/podspec"
	podsubject "github.com/lanyard-id/lanyard/internal/subject"
)

// roleChoice is a service account and how it gets its role.
type roleChoice struct {
	subject
	via         string // auto, irsa or pod-identity
	roleARN     string // for irsa; found when empty
	kubeconfig  string // of the cluster's API server, which knows the service account; empty for Lanyard's clusters
	association string // ID of the association that applies, once way has found it
}

func (r *roleChoice) flags(cmd *cobra.Command) {
	r.subject.flags(cmd)
	cmd.Flags().StringVar(&r.via, "via", "auto", "auto, irsa or pod-identity; auto takes Pod Identity where there is an association, as EKS does")
	cmd.Flags().StringVar(&r.roleARN, "role-arn", "", "role for IRSA")
	cmd.RegisterFlagCompletionFunc("via", cobra.FixedCompletions([]string{"auto", "irsa", "pod-identity"}, cobra.ShellCompDirectiveNoFileComp))
}

// runConfig is the pod that a command is run as.
type runConfig struct {
	roleChoice
	pod       string
	duration  time.Duration
	intercept bool
}

func newRunCommand(c *cli) *cobra.Command {
	var r runConfig
	cmd := &cobra.Command{
		Use:   "run -n NAMESPACE -s SERVICE_ACCOUNT -- COMMAND [ARG]…",
		Short: "Run a command as if it were in a pod of a service account",
		Long: `Run a command with what a pod of the service account would have: a projected token in a private directory, renewed before it ends, the variables
that the webhook would set, and for Pod Identity an agent on loopback. The credentials and configuration of whoever runs it are
taken away. Signals and the exit status pass through.

IRSA needs a role: --role-arn, or the one whose trust policy names the service account. With --intercept, programs that know no
endpoint setting are reached too: a local proxy answers for AWS's host names, with certificates that only the command trusts.`,
		Example: `  lanyard run -n default -s s3-sa -- aws s3 ls
  lanyard run -n default -s my-sa --via irsa --intercept -- ./program-that-knows-only-aws`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			return c.run(cmd.Context(), cfg, r, args)
		},
	}
	r.flags(cmd)
	cmd.Flags().StringVar(&r.pod, "pod", "", "name of the pod (default: the service account's, with a random suffix)")
	cmd.Flags().StringVar(&r.kubeconfig, "kubeconfig", "", "take the tokens from this cluster's API server; --pod then names a pod that is there")
	cmd.Flags().DurationVar(&r.duration, "token-duration", time.Hour, "how long the projected token is valid")
	cmd.Flags().BoolVar(&r.intercept, "intercept", false, "answer for AWS's host names by a local proxy")
	cmd.Flags().SetInterspersed(false)
	required(cmd, "namespace", "service-account")
	return cmd
}

// tokenSource gets a token of the pod for an audience.
type tokenSource func(ctx context.Context, audience string) (token, error)

// run prepares what the command needs, which ctx may interrupt, and runs it.
func (c *cli) run(ctx context.Context, cfg aws.Config, r runConfig, command []string) error {
	log, err := daemon.NewLogger(c.err, "warn", "text")
	if err != nil {
		return err
	}
	way, err := r.way(ctx, cfg)
	if err != nil {
		return err
	}
	source, err := r.tokens(ctx, cfg, way)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lanyard-run-") // mode 0700
	if err != nil {
		return fmt.Errorf("make a directory for the token: %w", err)
	}
	// The command gets the signals: what it needs goes on until it has ended.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var writers sync.WaitGroup
	defer func() {
		stop()
		writers.Wait()
		if err := os.RemoveAll(dir); err != nil {
			log.Warn("token not removed", "err", err)
		}
	}()
	p := projection{source: source, audience: way.Projection().Audience, file: filepath.Join(dir, way.Projection().File)}
	wait, err := p.write(ctx)
	if err != nil {
		return err
	}
	writers.Go(func() { p.renew(running, log, wait) })
	options := podspec.Options{
		TokenFile: p.file,
		RoleARN:   r.roleARN,
		Region:    cfg.Region,
		Endpoint:  serviceEndpoint(cfg, "AWS_ENDPOINT_URL_STS"),
	}
	if way == podspec.PodIdentity {
		if options.AgentURI, err = startAgent(running, log, cfg, r.cluster); err != nil {
			return err
		}
	}
	reach, err := newReach(options.Endpoint)
	if err != nil {
		return err
	}
	if r.intercept {
		if err := reach.intercept(running, log, cfg); err != nil {
			return err
		}
	}
	if options.CABundle, err = reach.writeTrust(dir); err != nil {
		return err
	}
	env := withoutAWS(os.Environ())
	for _, v := range slices.Concat(podspec.Env(way, options), reach.env()) {
		env = append(env, v.Name+"="+v.Value)
	}
	return c.passThrough(ctx, command, env)
}

// way decides between the two, and finds the association or the role that goes with it.
func (r *roleChoice) way(ctx context.Context, cfg aws.Config) (podspec.Way, error) {
	switch r.via {
	case "pod-identity":
		return podspec.PodIdentity, nil
	case "irsa":
		return podspec.WebIdentity, r.findRole(ctx, cfg)
	case "auto":
	default:
		return 0, withHint(fmt.Errorf("unknown way %q", r.via), "use --via auto, --via irsa or --via pod-identity")
	}
	if err := r.findAssociation(ctx, cfg); err != nil {
		return 0, err
	}
	if r.association != "" {
		return podspec.PodIdentity, nil
	}
	return podspec.WebIdentity, r.findRole(ctx, cfg)
}

// findAssociation finds the association that EKS Auth would choose, if any: of several that fit, the most specific one.
func (r *roleChoice) findAssociation(ctx context.Context, cfg aws.Config) error {
	list, err := listAssociations(ctx, eks.NewFromConfig(cfg), subject{cluster: r.cluster})
	if err != nil {
		return explainCluster(err, r.cluster, "list associations of")
	}
	who := podsubject.Subject{Namespace: r.namespace, ServiceAccount: r.serviceAccount}
	list = slices.DeleteFunc(list, func(a associationView) bool { return !a.whom().Covers(who) })
	if len(list) > 0 {
		r.association = slices.MinFunc(list, func(a, b associationView) int { return podsubject.Compare(a.whom(), b.whom()) }).ID
	}
	return nil
}

// whom says whom the association is for.
func (a *associationView) whom() podsubject.Subject {
	return podsubject.Subject{Namespace: a.Namespace, ServiceAccount: a.ServiceAccount}
}

func (r *roleChoice) findRole(ctx context.Context, cfg aws.Config) error {
	if r.roleARN != "" {
		return nil
	}
	if r.kubeconfig != "" {
		role, err := r.annotatedRole(ctx)
		r.roleARN = role
		return err
	}
	cluster, err := describeCluster(ctx, eks.NewFromConfig(cfg), r.cluster)
	if err != nil {
		return err
	}
	roles, err := rolesFor(ctx, cfg, cluster.Issuer, r.namespace, r.serviceAccount)
	if err != nil {
		return err
	}
	switch len(roles) {
	case 1:
		r.roleARN = roles[0]
		return nil
	case 0:
		return withHint(fmt.Errorf("%s/%s has neither an association in cluster %s nor a role that trusts it", r.namespace, r.serviceAccount, r.cluster),
			"make one: `lanyard association create --cluster %[1]s -n %[2]s -s %[3]s --role-arn ARN`, or `lanyard irsa create --cluster %[1]s -n %[2]s -s %[3]s`",
			r.cluster, r.namespace, r.serviceAccount)
	}
	return withHint(fmt.Errorf("several roles trust %s/%s: %s", r.namespace, r.serviceAccount, strings.Join(roles, ", ")), "choose one with --role-arn")
}

// tokens chooses where the tokens come from.
func (r *runConfig) tokens(ctx context.Context, cfg aws.Config, way podspec.Way) (tokenSource, error) {
	if r.kubeconfig != "" {
		return r.fromKubernetes(ctx, way)
	}
	return r.hosted(cfg), nil
}

// hosted gets tokens from the issuer that Lanyard hosts, all for one pod: one that is made up unless it was named.
func (r *runConfig) hosted(cfg aws.Config) tokenSource {
	if r.pod == "" {
		r.pod = r.serviceAccount + "-" + strings.ToLower(rand.Text()[:5])
	}
	return func(ctx context.Context, audience string) (token, error) {
		return hostedToken(ctx, cfg, r.cluster, tokenRequest{
			Namespace: r.namespace, ServiceAccount: r.serviceAccount, Pod: r.pod, Audiences: []string{audience}, Duration: int64(r.duration.Seconds()),
		})
	}
}

// projection is a file with a token for an audience.
type projection struct {
	source         tokenSource
	audience, file string
}

// write puts a new token into the file, in one step, and returns after how long the next is due: at 80 % of its life, as a
// kubelet does.
func (p projection) write(ctx context.Context) (next time.Duration, err error) {
	t, err := p.source(ctx, p.audience)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(p.file+".new", []byte(t.Token), 0o600); err != nil {
		return 0, fmt.Errorf("write token: %w", err)
	}
	if err := os.Rename(p.file+".new", p.file); err != nil {
		return 0, fmt.Errorf("write token: %w", err)
	}
	return time.Until(t.Expires) * 8 / 10, nil
}

// renewRetry is the wait after a renewal that failed, and the shortest between two.
const renewRetry = 10 * time.Second

// renew writes a new token whenever one is due, the first after wait, until ctx ends. The old one stays where there is no new one.
func (p projection) renew(ctx context.Context, log *slog.Logger, wait time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(wait, renewRetry)):
		}
		next, err := p.write(ctx)
		if err != nil && ctx.Err() == nil {
			log.Warn("token not renewed", "err", err)
		}
		wait = next
	}
}

// serve runs a server until ctx ends.
func serve(ctx context.Context, log *slog.Logger, s *daemon.Server) error {
	if err := s.Listen(); err != nil {
		return err
	}
	go func() {
		if err := daemon.Serve(ctx, log, s); err != nil {
			log.Error("server ended", "server", s.Name, "err", err)
		}
	}()
	return nil
}

// withoutAWS removes whatever would lead an SDK to other credentials than the pod's, or to other endpoints.
func withoutAWS(environment []string) []string {
	var env []string
	for _, v := range environment {
		name, _, _ := strings.Cut(v, "=")
		switch {
		case strings.HasPrefix(name, "AWS_"):
		default:
			env = append(env, v)
		}
	}
	return append(env, "AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull, "AWS_EC2_METADATA_DISABLED=true",
		"BOTO_CONFIG="+os.DevNull) // boto3 still reads credentials from boto 2's files
}

// passThrough runs a command unless ctx has ended: signals go to it, and its exit status comes back.
func (c *cli) passThrough(ctx context.Context, command, env []string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.in, c.out, c.err
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	if ctx.Err() != nil {
		return fmt.Errorf("stopped before %s was started: %w", command[0], ctx.Err())
	}
	if err := cmd.Start(); err != nil {
		return withHint(fmt.Errorf("run %s: %w", command[0], err), "the command comes after --, as in: lanyard run -n NS -s SA -- aws s3 ls")
	}
	ended := make(chan struct{})
	go func() {
		terminal := term.IsTerminal(int(os.Stdin.Fd()))
		for {
			select {
			case <-ended:
				return
			case s := <-signals:
				if terminal && (s == syscall.SIGINT || s == syscall.SIGQUIT) {
					continue // the terminal has sent it to the command, too
				}
				cmd.Process.Signal(s) // fails only if it has just ended
			}
		}
	}()
	err := cmd.Wait()
	close(ended)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitError(128 + int(status.Signal()))
	}
	return exitError(exit.ExitCode())
}
