package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"
)

// registration is Lanyard's RegisterCluster.
type registration struct {
	Name   string            `json:"name"`
	Issuer string            `json:"issuer,omitempty"`
	JWKS   string            `json:"jwks,omitempty"`
	Tags   map[string]string `json:"tags,omitempty"`
}

// registered is what RegisterCluster answers.
type registered struct {
	Cluster struct {
		clusterView
		CreatedAt epoch `json:"createdAt"`
		Identity  struct {
			OIDC struct {
				Issuer string `json:"issuer"`
			} `json:"oidc"`
		} `json:"identity"`
	} `json:"cluster"`
}

func newClusterCommand(c *cli) *cobra.Command {
	return group("cluster", "Register, list, describe and delete clusters",
		newClusterRegister(c), newClusterList(c), newClusterDescribe(c), newClusterDelete(c))
}

func newClusterRegister(c *cli) *cobra.Command {
	var r registration
	var jwksFile string
	cmd := &cobra.Command{
		Use:   "register NAME",
		Short: "Register a cluster, with a hosted issuer or with its own",
		Long: `Register a cluster. Without --issuer, Lanyard hosts the cluster's issuer: it keeps the keys and signs the tokens.
With --issuer, the cluster signs its own tokens; its public keys are given with --jwks, or fetched from the issuer.`,
		Example: `  lanyard cluster register dev
  lanyard cluster register prod --issuer https://oidc.example.com/prod
  kubectl get --raw /openid/v1/jwks > jwks.json
  lanyard cluster register prod --issuer https://kubernetes.default.svc --jwks jwks.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[0]
			if jwksFile != "" {
				if r.Issuer == "" {
					return withHint(errors.New("--jwks is given without --issuer"), "name the issuer whose keys these are with --issuer URL")
				}
				keys, err := os.ReadFile(jwksFile)
				if err != nil {
					return fmt.Errorf("read keys: %w", err)
				}
				r.JWKS = string(keys)
			}
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			var out registered
			if err := lanyardAPI(cmd.Context(), cfg, http.MethodPost, "/lanyard/clusters", r, &out); err != nil {
				return explainCluster(err, r.Name, "register")
			}
			v := out.Cluster.clusterView
			v.Issuer, v.CreatedAt = out.Cluster.Identity.OIDC.Issuer, &out.Cluster.CreatedAt.Time
			return c.printCluster(v)
		},
	}
	cmd.Flags().StringVar(&r.Issuer, "issuer", "", "URL of the cluster's own issuer")
	cmd.Flags().StringVar(&jwksFile, "jwks", "", "file with the issuer's public keys, as a JWK set")
	cmd.Flags().StringToStringVar(&r.Tags, "tags", nil, "tags, as key=value,…")
	return cmd
}

func newClusterList(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List clusters",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			client := eks.NewFromConfig(cfg)
			clusters := []clusterView{}
			for pages := eks.NewListClustersPaginator(client, &eks.ListClustersInput{}); pages.HasMorePages(); {
				page, err := pages.NextPage(cmd.Context())
				if err != nil {
					return fmt.Errorf("list clusters: %w", err)
				}
				for _, name := range page.Clusters {
					cluster, err := describeCluster(cmd.Context(), client, name)
					if err != nil {
						return err
					}
					clusters = append(clusters, cluster)
				}
			}
			rows := [][]string{{"NAME", "STATUS", "ISSUER", "AGE"}}
			for _, v := range clusters {
				rows = append(rows, []string{v.Name, v.Status, v.Issuer, age(v.CreatedAt)})
			}
			return c.print(clusters, rows)
		},
	}
}

func newClusterDescribe(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "describe NAME",
		Short:             "Describe a cluster",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			v, err := describeCluster(cmd.Context(), eks.NewFromConfig(cfg), args[0])
			if err != nil {
				return err
			}
			return c.printCluster(v)
		},
	}
}

func newClusterDelete(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "delete NAME",
		Short:             "Delete a cluster, its associations, and its issuer if Lanyard hosts it",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			if _, err := eks.NewFromConfig(cfg).DeleteCluster(cmd.Context(), &eks.DeleteClusterInput{Name: &args[0]}); err != nil {
				return explainCluster(err, args[0], "delete")
			}
			fmt.Fprintf(c.err, "cluster %s deleted\n", args[0])
			return nil
		},
	}
}

// clusterView is a cluster as it is printed.
type clusterView struct {
	Name      string            `json:"name"`
	ARN       string            `json:"arn"`
	Status    string            `json:"status"`
	Version   string            `json:"version,omitempty"`
	Issuer    string            `json:"issuer,omitempty"`
	CreatedAt *time.Time        `json:"createdAt,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`
}

func (c *cli) printCluster(v clusterView) error {
	return c.printFields(v, [][2]string{
		{"Name", v.Name}, {"ARN", v.ARN}, {"Status", v.Status}, {"Version", v.Version}, {"Issuer", v.Issuer}, {"Age", age(v.CreatedAt)},
		{"Tags", pairs(v.Tags)},
	})
}

func describeCluster(ctx context.Context, client *eks.Client, name string) (clusterView, error) {
	out, err := client.DescribeCluster(ctx, &eks.DescribeClusterInput{Name: &name})
	if err != nil {
		return clusterView{}, explainCluster(err, name, "describe")
	}
	v := clusterView{
		Name: value(out.Cluster.Name), ARN: value(out.Cluster.Arn), Status: string(out.Cluster.Status), Version: value(out.Cluster.Version),
		CreatedAt: out.Cluster.CreatedAt, Tags: out.Cluster.Tags,
	}
	if id := out.Cluster.Identity; id != nil && id.Oidc != nil {
		v.Issuer = value(id.Oidc.Issuer)
	}
	return v, nil
}

func explainCluster(err error, name, verb string) error {
	wrapped := fmt.Errorf("%s cluster %s: %w", verb, name, err)
	if api := smithy.APIError(nil); errors.As(err, &api) {
		switch api.ErrorCode() {
		case "ResourceNotFoundException":
			return withHint(wrapped, "list the clusters with `lanyard cluster list`, or register this one with `lanyard cluster register %s`", name)
		case "ResourceInUseException":
			return withHint(wrapped, "see what is there with `lanyard cluster list`, or take another name")
		}
	}
	return wrapped
}
