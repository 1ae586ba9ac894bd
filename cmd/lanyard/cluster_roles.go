package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/arn"
)

// The service accounts of the chart's agent and webhook.
const (
	agentAccount   = "lanyard-agent"
	webhookAccount = "lanyard-webhook"
)

// componentRoles are the roles of what the chart installs in a cluster.
type componentRoles struct {
	make      bool
	namespace string
	// passable is a pattern for the roles, below the account's role/, that namespaces may ask for by PodIdentityAssociation resources; with
	// none, the webhook makes no associations.
	passable string
}

func (r *componentRoles) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&r.make, "roles", false, "make the roles of the chart's agent and webhook (default: with --kubeconfig)")
	cmd.Flags().StringVar(&r.namespace, "namespace", "lanyard", "namespace that the chart is installed in")
	cmd.Flags().StringVar(&r.passable, "pass-roles", "",
		"pattern of the roles that namespaces may use by PodIdentityAssociation resources, with their path, such as pods/*; empty for none (default NAME-*)")
}

// statement is one of a policy.
type statement struct {
	Effect    string
	Action    []string
	Resource  string
	Condition map[string]map[string]string `json:",omitempty"`
}

// agentPolicy allows what the agent does in a cluster: it trades pods' tokens for credentials.
func agentPolicy(cluster arn.ARN) []statement {
	return []statement{{Effect: "Allow", Action: []string{"eks-auth:AssumeRoleForPodIdentity"}, Resource: cluster.String()}}
}

// webhookPolicy allows what the webhook does: it asks for the cluster's associations and access policies, tells of its keys, and makes the
// associations that namespaces ask for. Roles for these may be passed to pods and to nothing else (EKS User Guide, "Assign an IAM role to a Kubernetes service
// account"; IAM User Guide, "Grant a user permissions to pass a role to an AWS service").
func webhookPolicy(cluster arn.ARN, passable string) []statement {
	_, name, _ := strings.Cut(cluster.Resource(), "/")
	entries := arn.New(cluster.Partition(), "eks", cluster.Region(), cluster.Account(), "access-entry/"+name+"/*")
	policy := []statement{
		{
			Effect: "Allow", Resource: cluster.String(),
			Action: []string{"eks:DescribeCluster", "eks:ListAccessEntries", "eks:ListPodIdentityAssociations", "lanyard:UpdateClusterKeys"},
		},
		{Effect: "Allow", Action: []string{"eks:ListAssociatedAccessPolicies"}, Resource: entries.String()},
	}
	if passable == "" {
		return policy
	}
	associations := arn.New(cluster.Partition(), "eks", cluster.Region(), cluster.Account(), "podidentityassociation/"+name+"/*")
	roles := arn.New(cluster.Partition(), "iam", "", cluster.Account(), "role/"+strings.TrimPrefix(passable, "/"))
	return append(policy,
		statement{Effect: "Allow", Action: []string{"eks:CreatePodIdentityAssociation"}, Resource: cluster.String()},
		statement{
			Effect: "Allow", Resource: associations.String(),
			Action: []string{
				"eks:DeletePodIdentityAssociation", "eks:DescribePodIdentityAssociation", "eks:TagResource", "eks:UntagResource",
				"eks:UpdatePodIdentityAssociation",
			},
		},
		statement{Effect: "Allow", Action: []string{"iam:GetRole"}, Resource: roles.String()},
		statement{
			Effect: "Allow", Action: []string{"iam:PassRole"}, Resource: roles.String(),
			Condition: map[string]map[string]string{"StringEquals": {"iam:PassedToService": "pods.eks.amazonaws.com"}},
		},
	)
}

// ensure makes the roles of a cluster, or brings their policies up to date, and returns their ARNs. Each trusts one service account.
func (r *componentRoles) ensure(ctx context.Context, cfg aws.Config, v *clusterView) error {
	cluster, err := arn.Parse(v.ARN)
	if err != nil {
		return fmt.Errorf("read the cluster's ARN: %w", err)
	}
	client := iam.NewFromConfig(cfg)
	for _, role := range []struct {
		account string
		policy  []statement
		arn     *string
	}{
		{agentAccount, agentPolicy(cluster), &v.AgentRoleARN},
		{webhookAccount, webhookPolicy(cluster, r.passable), &v.WebhookRoleARN},
	} {
		p := rolePlan{subject: subject{v.Name, r.namespace, role.account}, role: strings.Join([]string{v.Name, r.namespace, role.account}, "-")}
		if len(p.role) > maxRoleName {
			return withHint(fmt.Errorf("the role's name %s has more than %d characters", p.role, maxRoleName),
				"register with --roles=false, make roles of shorter names with `lanyard irsa create --role-name`, and give the chart their ARNs")
		}
		trust, err := irsaTrust(v.ProviderARN, r.namespace, role.account)
		if err != nil {
			return err
		}
		made, err := ensureRole(ctx, client, p, trust)
		if err != nil {
			return err
		}
		document, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": role.policy})
		if err != nil {
			return err
		}
		in := &iam.PutRolePolicyInput{RoleName: &p.role, PolicyName: aws.String("lanyard"), PolicyDocument: aws.String(string(document))}
		if _, err := client.PutRolePolicy(ctx, in); err != nil {
			return fmt.Errorf("put the policy of role %s: %w", p.role, err)
		}
		*role.arn = made
	}
	return nil
}
