package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/policy"
)

// roleView is a role with all its documents, as IAM has them.
type roleView struct {
	arn       arn.ARN
	id, name  string
	tags      map[string]string
	documents []roleDocument // the trust policy first
}

// roleDocument is a policy of a role.
type roleDocument struct {
	use  documentUse
	name string // as decisions call it: the role's ARN for its trust policy, an inline policy's name, a managed policy's ARN
	text []byte
}

// documentUse says what a role has a document for.
type documentUse string

const (
	trustUse    documentUse = "trust"
	inlineUse   documentUse = "inline"
	attachedUse documentUse = "attached"
	boundaryUse documentUse = "boundary"
)

// kind is what the document is compiled as. A managed policy is the same wherever it is used.
func (d *roleDocument) kind() policy.Kind {
	if d.use == trustUse {
		return policy.Trust
	}
	return policy.Identity
}

// readRole reads a role, by its name, with its inline and managed policies. The error is IAM's, wrapped.
func readRole(ctx context.Context, client *iam.Client, name string) (*roleView, error) {
	got, err := client.GetRole(ctx, &iam.GetRoleInput{RoleName: &name})
	if err != nil {
		return nil, fmt.Errorf("look up role %s: %w", name, err)
	}
	r := &roleView{id: value(got.Role.RoleId), name: name, tags: make(map[string]string)}
	if r.arn, err = arn.Parse(value(got.Role.Arn)); err != nil {
		return nil, fmt.Errorf("look up role %s: %w", name, err)
	}
	for _, t := range got.Role.Tags {
		r.tags[value(t.Key)] = value(t.Value)
	}
	if err := r.add(trustUse, r.arn.String(), got.Role.AssumeRolePolicyDocument); err != nil {
		return nil, err
	}
	inline := iam.NewListRolePoliciesPaginator(client, &iam.ListRolePoliciesInput{RoleName: &name})
	for inline.HasMorePages() {
		page, err := inline.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the inline policies of role %s: %w", name, err)
		}
		for _, p := range page.PolicyNames {
			out, err := client.GetRolePolicy(ctx, &iam.GetRolePolicyInput{RoleName: &name, PolicyName: &p})
			if err != nil {
				return nil, fmt.Errorf("read policy %s of role %s: %w", p, name, err)
			}
			if err := r.add(inlineUse, p, out.PolicyDocument); err != nil {
				return nil, err
			}
		}
	}
	attached := iam.NewListAttachedRolePoliciesPaginator(client, &iam.ListAttachedRolePoliciesInput{RoleName: &name})
	for attached.HasMorePages() {
		page, err := attached.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the managed policies of role %s: %w", name, err)
		}
		for _, p := range page.AttachedPolicies {
			if err := r.addManaged(ctx, client, attachedUse, value(p.PolicyArn)); err != nil {
				return nil, err
			}
		}
	}
	if b := got.Role.PermissionsBoundary; b != nil {
		if err := r.addManaged(ctx, client, boundaryUse, value(b.PermissionsBoundaryArn)); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// addManaged adds the default version of a managed policy.
func (r *roleView) addManaged(ctx context.Context, client *iam.Client, use documentUse, policyARN string) error {
	p, err := client.GetPolicy(ctx, &iam.GetPolicyInput{PolicyArn: &policyARN})
	if err != nil {
		return fmt.Errorf("look up policy %s of role %s: %w", policyARN, r.name, err)
	}
	out, err := client.GetPolicyVersion(ctx, &iam.GetPolicyVersionInput{PolicyArn: &policyARN, VersionId: p.Policy.DefaultVersionId})
	if err != nil {
		return fmt.Errorf("read policy %s of role %s: %w", policyARN, r.name, err)
	}
	return r.add(use, policyARN, out.PolicyVersion.Document)
}

// add adds a document as IAM encodes it.
func (r *roleView) add(use documentUse, name string, encoded *string) error {
	text, err := url.PathUnescape(value(encoded))
	if err != nil {
		return fmt.Errorf("read policy %s of role %s: %w", name, r.name, err)
	}
	r.documents = append(r.documents, roleDocument{use, name, []byte(text)})
	return nil
}

// policies compiles what the role's sessions may do at most.
func (r *roleView) policies() (*policy.Policies, error) {
	p := new(policy.Policies)
	for _, d := range r.documents {
		if d.use == trustUse {
			continue
		}
		compiled, err := r.compile(d)
		if err != nil {
			return nil, err
		}
		if d.use == boundaryUse {
			p.Boundary = compiled
		} else {
			p.Identity = append(p.Identity, compiled)
		}
	}
	return p, nil
}

// trust compiles the role's trust policy.
func (r *roleView) trust() (*policy.Policy, error) { return r.compile(r.documents[0]) }

func (r *roleView) compile(d roleDocument) (*policy.Policy, error) {
	return compile(d.name, r.called(d), d.kind(), d.text)
}

// called is what a document is called for people.
func (r *roleView) called(d roleDocument) string {
	if d.use == trustUse {
		return "role/" + r.name + "/trust"
	}
	return "role/" + r.name + "/" + string(d.use) + "/" + d.name[strings.LastIndexByte(d.name, '/')+1:]
}

// session is a session of the role.
func (r *roleView) session() policy.Principal { return roleSession(r.arn, r.id) }

// roleName returns the name in a role's ARN, or the name itself.
func roleName(text string) string {
	if a, err := arn.Parse(text); err == nil && a.Service() == "iam" && strings.HasPrefix(a.Resource(), "role/") {
		return a.Resource()[strings.LastIndexByte(a.Resource(), '/')+1:]
	}
	return text
}

// explainRole adds the next step to what IAM says of a role that is not there.
func explainRole(err error, name string) error {
	if missing := (*types.NoSuchEntityException)(nil); errors.As(err, &missing) {
		return withHint(err, "is %s of the account whose credentials these are? `aws iam list-roles` lists its roles", name)
	}
	return err
}
