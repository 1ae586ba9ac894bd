package iam_test

import (
	"net/url"
	"strings"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
)

func TestServiceLinkedRolesAreMadeAndDeleted(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	made, err := in.root.CreateServiceLinkedRole(ctx, &awsiam.CreateServiceLinkedRoleInput{AWSServiceName: of("eks.amazonaws.com"), Description: of("d")})
	check(t, err)
	const name = "AWSServiceRoleForAmazonEKS"
	r := made.Role
	trust, err := url.PathUnescape(*r.AssumeRolePolicyDocument)
	check(t, err)
	if *r.Arn != "arn:aws:iam::111122223333:role/aws-service-role/eks.amazonaws.com/"+name || *r.Path != "/aws-service-role/eks.amazonaws.com/" ||
		*r.Description != "d" || !strings.Contains(trust, `"Principal":{"Service":["eks.amazonaws.com"]}`) {
		t.Errorf("created %+v trusting %s", r, trust)
	}
	suffixed, err := in.root.CreateServiceLinkedRole(ctx, &awsiam.CreateServiceLinkedRoleInput{
		AWSServiceName: of("autoscaling.amazonaws.com"), CustomSuffix: of("web"),
	})
	check(t, err)
	if *suffixed.Role.RoleName != "AWSServiceRoleForAutoScaling_web" {
		t.Errorf("with a suffix it is called %s", *suffixed.Role.RoleName)
	}
	check(t, failure(in.root.UpdateRoleDescription(ctx, &awsiam.UpdateRoleDescriptionInput{RoleName: of(name), Description: of("e")})))

	task, err := in.root.DeleteServiceLinkedRole(ctx, &awsiam.DeleteServiceLinkedRoleInput{RoleName: of(name)})
	check(t, err)
	if !strings.HasPrefix(*task.DeletionTaskId, "task/aws-service-role/eks.amazonaws.com/"+name+"/") {
		t.Errorf("the task is %s", *task.DeletionTaskId)
	}
	status, err := in.root.GetServiceLinkedRoleDeletionStatus(ctx, &awsiam.GetServiceLinkedRoleDeletionStatusInput{DeletionTaskId: task.DeletionTaskId})
	check(t, err)
	if status.Status != types.DeletionTaskStatusTypeSucceeded {
		t.Errorf("its status is %s", status.Status)
	}
	refused(t, failure(in.root.GetRole(ctx, &awsiam.GetRoleInput{RoleName: of(name)})), "NoSuchEntity", "The role with name "+name+" cannot be found.")
	refused(t, failure(in.other.GetServiceLinkedRoleDeletionStatus(ctx, &awsiam.GetServiceLinkedRoleDeletionStatusInput{
		DeletionTaskId: task.DeletionTaskId,
	})), "NoSuchEntity", "The deletion task")
	check(t, failure(in.root.CreateServiceLinkedRole(ctx, &awsiam.CreateServiceLinkedRoleInput{AWSServiceName: of("eks.amazonaws.com")})))
}

func TestOnlyAWSModifiesServiceLinkedRoles(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	check(t, failure(in.root.CreateServiceLinkedRole(ctx, &awsiam.CreateServiceLinkedRoleInput{AWSServiceName: of("eks.amazonaws.com")})))
	check(t, failure(in.root.CreateInstanceProfile(ctx, &awsiam.CreateInstanceProfileInput{InstanceProfileName: of("node")})))
	in.role(t, "own")
	name, p := of("AWSServiceRoleForAmazonEKS"), of("arn:aws:iam::aws:policy/AdministratorAccess")
	const text = "Cannot perform the operation on the protected role 'AWSServiceRoleForAmazonEKS' - this role is only modifiable by AWS"
	cases := []refusal{}
	for what, call := range map[string]func() error{
		"attaching a policy": func() error {
			return failure(in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: name, PolicyArn: p}))
		},
		"detaching a policy": func() error {
			return failure(in.root.DetachRolePolicy(ctx, &awsiam.DetachRolePolicyInput{RoleName: name, PolicyArn: p}))
		},
		"setting an inline policy": func() error {
			return failure(in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{RoleName: name, PolicyName: of("p"), PolicyDocument: of(allowObj)}))
		},
		"deleting an inline policy": func() error {
			return failure(in.root.DeleteRolePolicy(ctx, &awsiam.DeleteRolePolicyInput{RoleName: name, PolicyName: of("p")}))
		},
		"setting a boundary": func() error {
			return failure(in.root.PutRolePermissionsBoundary(ctx, &awsiam.PutRolePermissionsBoundaryInput{RoleName: name, PermissionsBoundary: p}))
		},
		"deleting the boundary": func() error {
			return failure(in.root.DeleteRolePermissionsBoundary(ctx, &awsiam.DeleteRolePermissionsBoundaryInput{RoleName: name}))
		},
		"changing whom it trusts": func() error {
			return failure(in.root.UpdateAssumeRolePolicy(ctx, &awsiam.UpdateAssumeRolePolicyInput{RoleName: name, PolicyDocument: of(trusts("AWS", account))}))
		},
		"lengthening its sessions": func() error {
			return failure(in.root.UpdateRole(ctx, &awsiam.UpdateRoleInput{RoleName: name, MaxSessionDuration: of(int32(7200))}))
		},
		"putting it into an instance profile": func() error {
			return failure(in.root.AddRoleToInstanceProfile(ctx, &awsiam.AddRoleToInstanceProfileInput{RoleName: name, InstanceProfileName: of("node")}))
		},
		"deleting it as other roles": func() error {
			return failure(in.root.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: name}))
		},
	} {
		cases = append(cases, refusal{what, call, "UnmodifiableEntity", text})
	}
	create := func(service, suffix string) func() error {
		return func() error {
			i := &awsiam.CreateServiceLinkedRoleInput{AWSServiceName: &service}
			if suffix != "" {
				i.CustomSuffix = &suffix
			}
			return failure(in.root.CreateServiceLinkedRole(ctx, i))
		}
	}
	status := func(task string) func() error {
		return func() error {
			return failure(in.root.GetServiceLinkedRoleDeletionStatus(ctx, &awsiam.GetServiceLinkedRoleDeletionStatusInput{DeletionTaskId: &task}))
		}
	}
	refuses(t, append(cases,
		refusal{"a second role", create("eks.amazonaws.com", ""), "InvalidInput",
			"Service role name AWSServiceRoleForAmazonEKS has been taken in this account, please try a different suffix."},
		refusal{"a suffix where there is none", create("eks.amazonaws.com", "b"), "InvalidInput", "Custom suffix is not allowed for eks.amazonaws.com"},
		refusal{"an unknown service", create("nothing.amazonaws.com", ""), "InvalidInput", "This server knows no service-linked role for the service nothing.amazonaws.com."},
		refusal{"a name that is too long", create("autoscaling.amazonaws.com", strings.Repeat("x", 64)), "InvalidInput", "The name AWSServiceRoleForAutoScaling_xxx"},
		refusal{"a path of such roles", func() error {
			return failure(in.root.CreateRole(ctx, &awsiam.CreateRoleInput{
				RoleName: of("x"), Path: of("/aws-service-role/eks.amazonaws.com/"), AssumeRolePolicyDocument: of(trusts("AWS", account)),
			}))
		}, "InvalidInput", "The path /aws-service-role/ is reserved for service-linked roles."},
		refusal{"deleting another role as if it were one", func() error {
			return failure(in.root.DeleteServiceLinkedRole(ctx, &awsiam.DeleteServiceLinkedRoleInput{RoleName: of("own")}))
		}, "NoSuchEntity", "The role with name own cannot be found."},
		refusal{"a task that is none", status("task/x"), "InvalidInput", "The deletion task ID task/x is not of the form"},
		refusal{"a task that is not known", status("task/aws-service-role/eks.amazonaws.com/AWSServiceRoleForAmazonEKS/1"), "NoSuchEntity", "The deletion task"},
	))
}
