package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"
)

// cli is what all commands share.
type cli struct {
	in       io.Reader
	out, err io.Writer

	endpoint string // --endpoint-url
	region   string // --region
	profile  string // --profile
	output   string // --output: table, json or yaml

	running bool // the command line was understood
}

func newRootCommand(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "lanyard",
		Short: "Workload identity for Kubernetes pods: short-lived AWS credentials on any cluster",
		Long: `Lanyard gives every Kubernetes pod its own short-lived AWS credentials, by IRSA and by EKS Pod Identity.

"lanyard dev" runs all of it on this machine. The other commands reach Lanyard, or AWS, as every AWS tool does:
by AWS_ENDPOINT_URL, AWS_REGION and the usual credentials, which the file "env" of a dev server's data directory sets.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.endpoint, "endpoint-url", "", "URL of Lanyard (default: AWS_ENDPOINT_URL; without either, AWS itself)")
	flags.StringVar(&c.region, "region", "", "region (default: AWS_REGION, or the profile's)")
	flags.StringVar(&c.profile, "profile", "", "profile of the AWS configuration files")
	flags.StringVarP(&c.output, "output", "o", "table", "output: table, json or yaml")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch c.output {
		case "table", "json", "yaml":
			return nil
		}
		return withHint(fmt.Errorf("unknown output %q", c.output), "use -o table, -o json or -o yaml")
	}
	root.AddCommand(
		newDevCommand(c), newDemoCommand(c), newRunCommand(c), newTokenCommand(c), newEnvCommand(c),
		newClusterCommand(c), newAssociationCommand(c), newIRSACommand(c), newMigrateCommand(c), newOIDCCommand(c), newExplainCommand(c), newSimulateCommand(c),
		newDoctorCommand(c), newLintCommand(c), newAccountCommand(c), newEventsCommand(c), newVersionCommand(c),
	)
	c.finish(root)
	return root
}

// group is a command that has commands and does nothing itself.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: cobra.NoArgs, // else a mistyped command would print help and succeed
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// finish adds to a command and those below it what all of them have.
func (c *cli) finish(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			c.running = true
			return run(cmd, args)
		}
	}
	for flag, complete := range map[string]cobra.CompletionFunc{
		"output": cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp),
		"cluster": func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return c.completeClusters(cmd, nil, "")
		},
	} {
		if f := cmd.LocalNonPersistentFlags().Lookup(flag); f == nil && cmd.PersistentFlags().Lookup(flag) == nil {
			continue
		}
		if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
			panic(err) // it is there twice
		}
	}
	for _, sub := range cmd.Commands() {
		c.finish(sub)
	}
}

// completeClusters completes the name of a cluster, the only argument.
func (c *cli) completeClusters(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second) // somebody waits at a prompt
	defer cancel()
	cfg, err := c.aws(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	page, err := eks.NewFromConfig(cfg).ListClusters(ctx, &eks.ListClustersInput{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return page.Clusters, cobra.ShellCompDirectiveNoFileComp
}

// hintError is an error with the next step.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

func withHint(err error, format string, args ...any) error {
	return &hintError{err, fmt.Sprintf(format, args...)}
}

// exitError carries the exit status of a command that was run.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// message is an error for people: of what the SDK tells about a call that failed, it keeps the service's own words, or
// what went wrong with the network.
func message(err error) string {
	text := err.Error()
	var operation *smithy.OperationError
	if !errors.As(err, &operation) {
		return text
	}
	var api smithy.APIError
	var network *net.OpError
	switch {
	case errors.As(operation, &api):
		return strings.Replace(text, operation.Error(), api.ErrorCode()+": "+api.ErrorMessage(), 1)
	case errors.As(operation, &network):
		return strings.Replace(text, operation.Error(), network.Error(), 1)
	}
	return text
}

// hint says what to do about an error: its own hint, or one for what AWS clients commonly meet.
func hint(err error) string {
	if h := (*hintError)(nil); errors.As(err, &h) {
		return h.hint
	}
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) {
		return fmt.Sprintf("the name %s does not resolve: is AWS_ENDPOINT_URL right, and AWS_REGION?", dns.Name)
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		return fmt.Sprintf("nothing answers at %v: is `lanyard dev` running, and AWS_ENDPOINT_URL its address?", op.Addr)
	}
	if cert := (*tls.CertificateVerificationError)(nil); errors.As(err, &cert) {
		return "the server's certificate is not trusted: set AWS_CA_BUNDLE to its CA; that of a dev server is ca-bundle.pem in its data directory"
	}
	if strings.Contains(err.Error(), "get credentials") || strings.Contains(err.Error(), "failed to refresh cached credentials") {
		return "no AWS credentials were found: source the file \"env\" in the data directory of `lanyard dev` " +
			"(`eval \"$(lanyard env)\"`), or set AWS_PROFILE"
	}
	if api := smithy.APIError(nil); errors.As(err, &api) {
		switch api.ErrorCode() {
		case "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidSignatureException":
			return "the access key is not one of this server's: source the \"env\" file of the data directory that the server runs with"
		case "ExpiredToken", "ExpiredTokenException":
			return "the credentials have expired: get new ones"
		case "AccessDenied", "AccessDeniedException":
			return "the caller's policies do not allow this: use credentials that may, or have the permission added"
		}
	}
	return ""
}

// defaultDataDir is where `lanyard dev` keeps its state: below XDG_DATA_HOME (XDG Base Directory Specification).
func defaultDataDir() string {
	base := os.Getenv("XDG_DATA_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "lanyard-data"
		}
		base = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(base, "lanyard", "dev")
}
