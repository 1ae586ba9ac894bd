package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

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
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch c.output {
		case "table", "json", "yaml":
			return nil
		}
		return withHint(fmt.Errorf("unknown output %q", c.output), "use -o table, -o json or -o yaml")
	}
	root.AddCommand(
		newDevCommand(c), newDemoCommand(c), newRunCommand(c), newTokenCommand(c), newEnvCommand(c),
		newClusterCommand(c), newAssociationCommand(c), newIRSACommand(c), newAccountCommand(c), newVersionCommand(c),
	)
	return root
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

// hint says what to do about an error: its own hint, or one for what AWS clients commonly meet.
func hint(err error) string {
	if h := (*hintError)(nil); errors.As(err, &h) {
		return h.hint
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		return fmt.Sprintf("nothing answers at %v: is `lanyard dev` running, and AWS_ENDPOINT_URL its address?", op.Addr)
	}
	if strings.Contains(err.Error(), "get credentials") || strings.Contains(err.Error(), "failed to refresh cached credentials") {
		return "no AWS credentials were found: source the file \"env\" in the data directory of `lanyard dev` (`eval \"$(lanyard env)\"`), or set AWS_PROFILE"
	}
	if api := smithy.APIError(nil); errors.As(err, &api) {
		switch api.ErrorCode() {
		case "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch":
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
