package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/internal/lanyardapi"
)

// tokenRequest asks a hosted issuer for a service account token.
type tokenRequest struct {
	Namespace      string   `json:"namespace"`
	ServiceAccount string   `json:"serviceAccount"`
	Pod            string   `json:"podName,omitempty"`
	Audiences      []string `json:"audiences"`
	Duration       int64    `json:"durationSeconds"`
}

// token is a service account token and when it ends.
type token struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expiration"`
}

// hostedToken gets a token from the issuer that Lanyard hosts for a cluster.
func hostedToken(ctx context.Context, cfg aws.Config, cluster string, r tokenRequest) (token, error) {
	var out struct {
		Token      string `json:"token"`
		Expiration epoch  `json:"expiration"`
	}
	if err := lanyardAPI(ctx, cfg, http.MethodPost, lanyardapi.ClusterPath(cluster, "/service-account-tokens"), r, &out); err != nil {
		return token{}, explainCluster(err, cluster, fmt.Sprintf("get a token of %s/%s in", r.Namespace, r.ServiceAccount))
	}
	return token{out.Token, out.Expiration.Time}, nil
}

func newTokenCommand(c *cli) *cobra.Command {
	var r tokenRequest
	var audience string
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   "token CLUSTER --namespace NS --service-account SA --audience AUD",
		Short: "Print a service account token of a cluster whose issuer Lanyard hosts",
		Long: `Print a service account token, shaped as Kubernetes' own bound tokens. STS takes those for the audience
sts.amazonaws.com, EKS Auth those for pods.eks.amazonaws.com.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.Pod == "" {
				r.Pod = r.ServiceAccount + "-0"
			}
			r.Audiences = []string{audience}
			r.Duration = int64(duration.Seconds())
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			t, err := hostedToken(cmd.Context(), cfg, args[0], r)
			if err != nil {
				return err
			}
			if c.output == "table" {
				fmt.Fprintln(c.out, t.Token)
				return nil
			}
			return c.print(t, nil)
		},
	}
	cmd.Flags().StringVarP(&r.Namespace, "namespace", "n", "default", "namespace")
	cmd.Flags().StringVarP(&r.ServiceAccount, "service-account", "s", "", "service account")
	cmd.Flags().StringVar(&r.Pod, "pod", "", "pod that the token is bound to (default: the service account's name and -0)")
	cmd.Flags().StringVar(&audience, "audience", "", "audience")
	cmd.Flags().DurationVar(&duration, "duration", time.Hour, "how long the token is valid: 10m to 24h")
	required(cmd, "service-account", "audience")
	return cmd
}
