package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/arn"
)

// stsAudience is the audience of the tokens that STS takes for IRSA.
const stsAudience = "sts.amazonaws.com"

// maxRoleName is how many characters a role's name may have (IAM User Guide, "IAM and AWS STS quotas").
const maxRoleName = 64

// rolePlan is a role for one service account by web identity.
type rolePlan struct {
	subject
	role       string
	policyARNs []string
	policyFile string
	boundary   string
}

// rolePlanned is what became of it, as it is printed.
type rolePlanned struct {
	RoleARN     string `json:"roleArn"`
	ProviderARN string `json:"providerArn"`
	Annotation  string `json:"annotation"`
}

func newIRSACommand(c *cli) *cobra.Command {
	var p rolePlan
	create := &cobra.Command{
		Use:   "create -n NAMESPACE -s SERVICE_ACCOUNT [--policy-arn ARN]…",
		Short: "Make the provider, the role with its trust policy, and the role's policies, in one step",
		Long: `Make what IRSA needs for one service account: the OIDC provider of the cluster's issuer unless it is there, and a role that
trusts this service account and no other (conditions on both :sub and :aud), with the policies given. Done twice, it changes nothing.
A role that is there and trusts something else is left as it is.`,
		Example: `  lanyard irsa create --cluster dev -n default -s my-sa --policy-arn arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			out, err := createIRSA(cmd.Context(), cfg, p)
			if err != nil {
				return err
			}
			return c.printFields(out, [][2]string{{"Role", out.RoleARN}, {"Provider", out.ProviderARN}, {"Annotation", out.Annotation}})
		},
	}
	p.flags(create)
	create.Flags().StringVar(&p.role, "role-name", "", "name of the role (default: CLUSTER-NAMESPACE-SERVICE_ACCOUNT)")
	create.Flags().StringArrayVar(&p.policyARNs, "policy-arn", nil, "managed policy to attach; may be repeated")
	create.Flags().StringVar(&p.policyFile, "policy", "", "file with an inline policy")
	create.Flags().StringVar(&p.boundary, "permissions-boundary", "", "managed policy that bounds the role")
	required(create, "namespace", "service-account")
	return group("irsa", "Give service accounts roles by web identity (IAM roles for service accounts)", create)
}

func createIRSA(ctx context.Context, cfg aws.Config, p rolePlan) (rolePlanned, error) {
	if p.role == "" {
		p.role = strings.Join([]string{p.cluster, p.namespace, p.serviceAccount}, "-")
	}
	switch {
	case len(p.role) > maxRoleName:
		return rolePlanned{}, withHint(fmt.Errorf("the role's name %s has more than %d characters", p.role, maxRoleName),
			"give a shorter one with --role-name")
	case strings.ContainsAny(p.namespace+p.serviceAccount, "*?"):
		return rolePlanned{}, withHint(fmt.Errorf("%s/%s is a pattern: a role by web identity is for one service account", p.namespace, p.serviceAccount),
			"make one for each, or use `lanyard association create`, which takes patterns")
	}
	policy, err := p.policy()
	if err != nil {
		return rolePlanned{}, err
	}
	cluster, err := describeCluster(ctx, eks.NewFromConfig(cfg), p.cluster)
	if err != nil {
		return rolePlanned{}, err
	}
	client := iam.NewFromConfig(cfg)
	who, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return rolePlanned{}, fmt.Errorf("find out the account: %w", err)
	}
	provider, err := ensureProvider(ctx, client, value(who.Arn), cluster.Issuer)
	if err != nil {
		return rolePlanned{}, err
	}
	trust, err := irsaTrust(provider, p.namespace, p.serviceAccount)
	if err != nil {
		return rolePlanned{}, err
	}
	role, err := ensureRole(ctx, client, p, trust)
	if err != nil {
		return rolePlanned{}, err
	}
	for _, a := range p.policyARNs {
		if _, err := client.AttachRolePolicy(ctx, &iam.AttachRolePolicyInput{RoleName: &p.role, PolicyArn: &a}); err != nil {
			return rolePlanned{}, fmt.Errorf("attach %s to role %s: %w", a, p.role, err)
		}
	}
	if policy != "" {
		in := &iam.PutRolePolicyInput{RoleName: &p.role, PolicyName: aws.String("irsa"), PolicyDocument: &policy}
		if _, err := client.PutRolePolicy(ctx, in); err != nil {
			return rolePlanned{}, fmt.Errorf("put the policy of role %s: %w", p.role, err)
		}
	}
	return rolePlanned{RoleARN: role, ProviderARN: provider, Annotation: "eks.amazonaws.com/role-arn: " + role}, nil
}

// policy reads the inline policy; empty when none was given.
func (p *rolePlan) policy() (string, error) {
	if p.policyFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(p.policyFile)
	if err != nil {
		return "", fmt.Errorf("read policy: %w", err)
	}
	return string(text), nil
}

// providerARN returns the ARN that the provider of an issuer has in the caller's account; the port is not part of it.
func providerARN(caller, issuer string) (string, error) {
	who, err := arn.Parse(caller)
	if err != nil {
		return "", fmt.Errorf("read the caller's ARN: %w", err)
	}
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return "", withHint(fmt.Errorf("the cluster's issuer %q is not an https URL", issuer), "register the cluster with an issuer that STS can verify")
	}
	return arn.New(who.Partition(), "iam", "", who.Account(), "oidc-provider/"+u.Hostname()+u.EscapedPath()).String(), nil
}

// ensureProvider makes the provider of an issuer, or lets the one that is there take STS's audience.
func ensureProvider(ctx context.Context, client *iam.Client, caller, issuer string) (string, error) {
	provider, err := providerARN(caller, issuer)
	if err != nil {
		return "", err
	}
	out, err := client.GetOpenIDConnectProvider(ctx, &iam.GetOpenIDConnectProviderInput{OpenIDConnectProviderArn: &provider})
	if missing := (*types.NoSuchEntityException)(nil); errors.As(err, &missing) {
		in := &iam.CreateOpenIDConnectProviderInput{Url: &issuer, ClientIDList: []string{stsAudience}}
		_, err := client.CreateOpenIDConnectProvider(ctx, in)
		// Somebody may have made it just now.
		if exists := (*types.EntityAlreadyExistsException)(nil); err != nil && !errors.As(err, &exists) {
			return "", fmt.Errorf("create the provider of %s: %w", issuer, err)
		}
		return provider, nil
	}
	if err != nil {
		return "", fmt.Errorf("look up the provider of %s: %w", issuer, err)
	}
	if slices.Contains(out.ClientIDList, stsAudience) {
		return provider, nil
	}
	in := &iam.AddClientIDToOpenIDConnectProviderInput{OpenIDConnectProviderArn: &provider, ClientID: aws.String(stsAudience)}
	if _, err := client.AddClientIDToOpenIDConnectProvider(ctx, in); err != nil {
		return "", fmt.Errorf("add the audience %s to %s: %w", stsAudience, provider, err)
	}
	return provider, nil
}

// irsaTrust is the trust policy for one service account: without both conditions, any pod of the cluster could take the role.
func irsaTrust(provider, namespace, serviceAccount string) (string, error) {
	_, issuer, _ := strings.Cut(provider, ":oidc-provider/")
	text, err := json.Marshal(map[string]any{
		"Version": "2012-10-17",
		"Statement": []any{map[string]any{
			"Effect":    "Allow",
			"Principal": map[string]string{"Federated": provider},
			"Action":    "sts:AssumeRoleWithWebIdentity",
			"Condition": map[string]any{"StringEquals": map[string]string{
				issuer + ":aud": stsAudience,
				issuer + ":sub": serviceAccountSubject(namespace, serviceAccount),
			}},
		}},
	})
	return string(text), err
}

// serviceAccountSubject is the sub of a service account's tokens.
func serviceAccountSubject(namespace, serviceAccount string) string {
	return "system:serviceaccount:" + namespace + ":" + serviceAccount
}

// ensureRole makes the role. One of the same name that trusts something else is not touched; one that trusts the same gets the
// permissions boundary, if one is given.
func ensureRole(ctx context.Context, client *iam.Client, p rolePlan, trust string) (string, error) {
	in := &iam.CreateRoleInput{
		RoleName: &p.role, AssumeRolePolicyDocument: &trust,
		Description: aws.String(fmt.Sprintf("IRSA for %s/%s in cluster %s", p.namespace, p.serviceAccount, p.cluster)),
	}
	if p.boundary != "" {
		in.PermissionsBoundary = &p.boundary
	}
	out, err := client.CreateRole(ctx, in)
	if err == nil {
		return value(out.Role.Arn), nil
	}
	if exists := (*types.EntityAlreadyExistsException)(nil); !errors.As(err, &exists) {
		return "", fmt.Errorf("create role %s: %w", p.role, err)
	}
	got, err := client.GetRole(ctx, &iam.GetRoleInput{RoleName: &p.role})
	if err != nil {
		return "", fmt.Errorf("look up role %s: %w", p.role, err)
	}
	document, err := url.PathUnescape(value(got.Role.AssumeRolePolicyDocument))
	if err != nil {
		return "", fmt.Errorf("read the trust policy of role %s: %w", p.role, err)
	}
	if !sameJSON(document, trust) {
		return "", withHint(fmt.Errorf("role %s is there and trusts something else", p.role),
			"choose another name with --role-name, or delete the role first")
	}
	if p.boundary != "" && (got.Role.PermissionsBoundary == nil || value(got.Role.PermissionsBoundary.PermissionsBoundaryArn) != p.boundary) {
		in := &iam.PutRolePermissionsBoundaryInput{RoleName: &p.role, PermissionsBoundary: &p.boundary}
		if _, err := client.PutRolePermissionsBoundary(ctx, in); err != nil {
			return "", fmt.Errorf("bound role %s: %w", p.role, err)
		}
	}
	return value(got.Role.Arn), nil
}

func sameJSON(a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	p, errP := json.Marshal(x)
	q, errQ := json.Marshal(y)
	return errP == nil && errQ == nil && string(p) == string(q)
}

// rolesFor finds the roles whose trust policies name a service account of an issuer by web identity: what an
// annotation would say in a cluster.
func rolesFor(ctx context.Context, cfg aws.Config, issuer, namespace, serviceAccount string) ([]string, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, fmt.Errorf("read issuer URL: %w", err)
	}
	key := u.Hostname() + u.EscapedPath() + ":sub"
	subject := serviceAccountSubject(namespace, serviceAccount)
	var roles []string
	for pages := iam.NewListRolesPaginator(iam.NewFromConfig(cfg), &iam.ListRolesInput{}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list roles: %w", err)
		}
		for _, r := range page.Roles {
			document, err := url.PathUnescape(value(r.AssumeRolePolicyDocument))
			if err != nil {
				return nil, fmt.Errorf("read the trust policy of role %s: %w", value(r.RoleName), err)
			}
			if trustNames(document, key, subject) {
				roles = append(roles, value(r.Arn))
			}
		}
	}
	return roles, nil
}

// trustNames reports whether a trust policy has a condition that names the subject exactly. It only finds the role to
// ask for: STS decides.
func trustNames(document, key, subject string) bool {
	var d struct{ Statement json.RawMessage }
	if json.Unmarshal([]byte(document), &d) != nil {
		return false
	}
	type statement struct {
		Condition map[string]map[string]json.RawMessage
	}
	var statements []statement
	if json.Unmarshal(d.Statement, &statements) != nil {
		var one statement
		if json.Unmarshal(d.Statement, &one) != nil {
			return false
		}
		statements = []statement{one}
	}
	for _, s := range statements {
		for _, operator := range []string{"StringEquals", "StringLike"} {
			for k, raw := range s.Condition[operator] {
				if !strings.EqualFold(k, key) {
					continue
				}
				var values []string
				if json.Unmarshal(raw, &values) != nil {
					values = make([]string, 1)
					if json.Unmarshal(raw, &values[0]) != nil {
						continue
					}
				}
				if slices.Contains(values, subject) {
					return true
				}
			}
		}
	}
	return false
}
