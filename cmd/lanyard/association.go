package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/spf13/cobra"
)

// associationView is a pod identity association as it is printed.
type associationView struct {
	ID                 string            `json:"associationId"`
	ARN                string            `json:"associationArn"`
	Cluster            string            `json:"clusterName"`
	Namespace          string            `json:"namespace"`
	ServiceAccount     string            `json:"serviceAccount"`
	RoleARN            string            `json:"roleArn,omitempty"`
	TargetRoleARN      string            `json:"targetRoleArn,omitempty"`
	ExternalID         string            `json:"externalId,omitempty"`
	DisableSessionTags bool              `json:"disableSessionTags,omitempty"`
	Policy             string            `json:"policy,omitempty"`
	OwnerARN           string            `json:"ownerArn,omitempty"`
	CreatedAt          *time.Time        `json:"createdAt,omitempty"`
	Tags               map[string]string `json:"tags,omitempty"`
}

func viewAssociation(a *types.PodIdentityAssociation) associationView {
	return associationView{
		ID: value(a.AssociationId), ARN: value(a.AssociationArn), Cluster: value(a.ClusterName), Namespace: value(a.Namespace),
		ServiceAccount: value(a.ServiceAccount), RoleARN: value(a.RoleArn), TargetRoleARN: value(a.TargetRoleArn), ExternalID: value(a.ExternalId),
		DisableSessionTags: value(a.DisableSessionTags), Policy: value(a.Policy), OwnerARN: value(a.OwnerArn), CreatedAt: a.CreatedAt, Tags: a.Tags,
	}
}

func (c *cli) printAssociation(v associationView) error {
	tags := ""
	if v.DisableSessionTags {
		tags = "disabled"
	}
	return c.printFields(v, [][2]string{
		{"ID", v.ID}, {"ARN", v.ARN}, {"Cluster", v.Cluster}, {"Namespace", v.Namespace}, {"Service account", v.ServiceAccount}, {"Role", v.RoleARN},
		{"Target role", v.TargetRoleARN}, {"External ID", v.ExternalID}, {"Session tags", tags}, {"Policy", v.Policy}, {"Owner", v.OwnerARN},
		{"Age", age(v.CreatedAt)}, {"Tags", pairs(v.Tags)},
	})
}

func newAssociationCommand(c *cli) *cobra.Command {
	return group("association", "Keep pod identity associations: which service account gets which role",
		newAssociationCreate(c), newAssociationList(c), newAssociationDescribe(c), newAssociationUpdate(c), newAssociationDelete(c))
}

// subject is a service account of a cluster, from the usual flags.
type subject struct{ cluster, namespace, serviceAccount string }

func (s *subject) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.cluster, "cluster", "dev", "cluster")
	cmd.Flags().StringVarP(&s.namespace, "namespace", "n", "", "namespace")
	cmd.Flags().StringVarP(&s.serviceAccount, "service-account", "s", "", "service account")
}

func newAssociationCreate(c *cli) *cobra.Command {
	var s subject
	var role, target, policyFile string
	var noTags bool
	var tags map[string]string
	cmd := &cobra.Command{
		Use:   "create --cluster NAME -n NAMESPACE -s SERVICE_ACCOUNT --role-arn ARN",
		Short: "Give a service account a role",
		Long: `Give a service account a role. Lanyard, unlike AWS, takes patterns: -n 'team-*' or -s '*'. Of several associations that fit a pod,
the most specific one applies.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := &eks.CreatePodIdentityAssociationInput{
				ClusterName: &s.cluster, Namespace: &s.namespace, ServiceAccount: &s.serviceAccount, RoleArn: &role, Tags: tags,
			}
			if target != "" {
				in.TargetRoleArn = &target
			}
			if noTags {
				in.DisableSessionTags = &noTags
			}
			if policyFile != "" {
				text, err := os.ReadFile(policyFile)
				if err != nil {
					return fmt.Errorf("read policy: %w", err)
				}
				in.Policy = aws.String(string(text))
			}
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			out, err := eks.NewFromConfig(cfg).CreatePodIdentityAssociation(cmd.Context(), in)
			if err != nil {
				return explainAssociation(fmt.Errorf("create association for %s/%s: %w", s.namespace, s.serviceAccount, err), role)
			}
			return c.printAssociation(viewAssociation(out.Association))
		},
	}
	s.flags(cmd)
	cmd.Flags().StringVar(&role, "role-arn", "", "role that the pods get")
	cmd.Flags().StringVar(&target, "target-role-arn", "", "role that is assumed from the first one, in another account for instance")
	cmd.Flags().BoolVar(&noTags, "disable-session-tags", false, "leave the Kubernetes session tags out")
	cmd.Flags().StringVar(&policyFile, "policy", "", "file with a session policy, which narrows the role; needs --disable-session-tags")
	cmd.Flags().StringToStringVar(&tags, "tags", nil, "tags, as key=value,…")
	required(cmd, "namespace", "service-account", "role-arn")
	return cmd
}

func newAssociationList(c *cli) *cobra.Command {
	var s subject
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List a cluster's associations",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			list, err := listAssociations(cmd.Context(), eks.NewFromConfig(cfg), s)
			if err != nil {
				return explainCluster(err, s.cluster, "list associations of")
			}
			rows := [][]string{{"NAMESPACE", "SERVICE ACCOUNT", "ID", "OWNER"}}
			for _, v := range list {
				rows = append(rows, []string{v.Namespace, v.ServiceAccount, v.ID, v.OwnerARN})
			}
			return c.print(list, rows)
		},
	}
	s.flags(cmd)
	return cmd
}

// listAssociations lists those of the cluster that the subject names; an empty namespace or service account is any.
func listAssociations(ctx context.Context, client *eks.Client, s subject) ([]associationView, error) {
	in := &eks.ListPodIdentityAssociationsInput{ClusterName: &s.cluster}
	if s.namespace != "" {
		in.Namespace = &s.namespace
	}
	if s.serviceAccount != "" {
		in.ServiceAccount = &s.serviceAccount
	}
	list := []associationView{}
	for pages := eks.NewListPodIdentityAssociationsPaginator(client, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, a := range page.Associations {
			list = append(list, associationView{
				ID: value(a.AssociationId), ARN: value(a.AssociationArn), Cluster: value(a.ClusterName), Namespace: value(a.Namespace),
				ServiceAccount: value(a.ServiceAccount), OwnerARN: value(a.OwnerArn),
			})
		}
	}
	return list, nil
}

// selection names one association: by its ID, or by its service account.
type selection struct {
	subject
	id string
}

func (s *selection) args(args []string) error {
	if len(args) == 1 && s.namespace == "" && s.serviceAccount == "" {
		s.id = args[0]
		return nil
	}
	if len(args) == 0 && s.namespace != "" && s.serviceAccount != "" {
		return nil
	}
	return withHint(errors.New("which association?"), "give its ID (a-…), or both -n NAMESPACE and -s SERVICE_ACCOUNT")
}

// find returns the ID, with the client that it can be used by.
func (s *selection) find(ctx context.Context, c *cli) (*eks.Client, string, error) {
	cfg, err := c.aws(ctx)
	if err != nil {
		return nil, "", err
	}
	client := eks.NewFromConfig(cfg)
	if s.id != "" {
		return client, s.id, nil
	}
	list, err := listAssociations(ctx, client, s.subject)
	if err != nil {
		return nil, "", explainCluster(err, s.cluster, "list associations of")
	}
	if len(list) == 0 {
		return nil, "", withHint(fmt.Errorf("%s/%s has no association in cluster %s", s.namespace, s.serviceAccount, s.cluster),
			"list them with `lanyard association list --cluster %s`", s.cluster)
	}
	return client, list[0].ID, nil
}

func newAssociationDescribe(c *cli) *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use:   "describe {ID | -n NAMESPACE -s SERVICE_ACCOUNT}",
		Short: "Describe an association",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.args(args); err != nil {
				return err
			}
			client, id, err := s.find(cmd.Context(), c)
			if err != nil {
				return err
			}
			in := &eks.DescribePodIdentityAssociationInput{ClusterName: &s.cluster, AssociationId: &id}
			out, err := client.DescribePodIdentityAssociation(cmd.Context(), in)
			if err != nil {
				return explainAssociation(fmt.Errorf("describe association %s: %w", id, err), "")
			}
			return c.printAssociation(viewAssociation(out.Association))
		},
	}
	s.flags(cmd)
	return cmd
}

func newAssociationUpdate(c *cli) *cobra.Command {
	var s selection
	var role, target, policyFile string
	var noTags bool
	cmd := &cobra.Command{
		Use:   "update {ID | -n NAMESPACE -s SERVICE_ACCOUNT}",
		Short: "Change an association's role, target role, session tags or policy",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.args(args); err != nil {
				return err
			}
			in := &eks.UpdatePodIdentityAssociationInput{ClusterName: &s.cluster}
			set := cmd.Flags().Changed
			if set("role-arn") {
				in.RoleArn = &role
			}
			if set("target-role-arn") {
				in.TargetRoleArn = &target
			}
			if set("disable-session-tags") {
				in.DisableSessionTags = &noTags
			}
			if set("policy") {
				text, err := os.ReadFile(policyFile)
				if err != nil {
					return fmt.Errorf("read policy: %w", err)
				}
				in.Policy = aws.String(string(text))
			}
			client, id, err := s.find(cmd.Context(), c)
			if err != nil {
				return err
			}
			in.AssociationId = &id
			out, err := client.UpdatePodIdentityAssociation(cmd.Context(), in)
			if err != nil {
				return explainAssociation(fmt.Errorf("update association %s: %w", id, err), role)
			}
			return c.printAssociation(viewAssociation(out.Association))
		},
	}
	s.flags(cmd)
	cmd.Flags().StringVar(&role, "role-arn", "", "role that the pods get")
	cmd.Flags().StringVar(&target, "target-role-arn", "", "role that is assumed from the first one; empty for none")
	cmd.Flags().BoolVar(&noTags, "disable-session-tags", false, "leave the Kubernetes session tags out")
	cmd.Flags().StringVar(&policyFile, "policy", "", "file with a session policy")
	cmd.MarkFlagsOneRequired("role-arn", "target-role-arn", "disable-session-tags", "policy")
	return cmd
}

func newAssociationDelete(c *cli) *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use:   "delete {ID | -n NAMESPACE -s SERVICE_ACCOUNT}",
		Short: "Delete an association",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.args(args); err != nil {
				return err
			}
			client, id, err := s.find(cmd.Context(), c)
			if err != nil {
				return err
			}
			in := &eks.DeletePodIdentityAssociationInput{ClusterName: &s.cluster, AssociationId: &id}
			if _, err := client.DeletePodIdentityAssociation(cmd.Context(), in); err != nil {
				return explainAssociation(fmt.Errorf("delete association %s: %w", id, err), "")
			}
			fmt.Fprintf(c.err, "association %s deleted\n", id)
			return nil
		},
	}
	s.flags(cmd)
	return cmd
}

// explainAssociation adds the next step to what EKS refuses most.
func explainAssociation(err error, role string) error {
	var missing *types.ResourceNotFoundException
	var inUse *types.ResourceInUseException
	var bad *types.InvalidParameterException
	switch {
	case errors.As(err, &missing):
		return withHint(err, "look at `lanyard cluster list` and `lanyard association list --cluster NAME`")
	case errors.As(err, &inUse):
		return withHint(err, "change the association that is there with `lanyard association update`")
	case errors.As(err, &bad) && strings.Contains(bad.ErrorMessage(), "Trust policy"):
		return withHint(err, "the trust policy of %s must allow the service pods.eks.amazonaws.com both sts:AssumeRole and sts:TagSession", role)
	case errors.As(err, &bad) && strings.Contains(bad.ErrorMessage(), "Role provided in the request does not exist"):
		return withHint(err, "make the role first: its trust policy must allow the service pods.eks.amazonaws.com both sts:AssumeRole and sts:TagSession")
	}
	return err
}

// required marks flags that must be given.
func required(cmd *cobra.Command, names ...string) {
	for _, n := range names {
		if err := cmd.MarkFlagRequired(n); err != nil {
			panic(err) // a flag that the command does not have
		}
	}
}
