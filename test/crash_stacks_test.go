package test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
)

// Many stacks are being made when the server is killed, each at another step: the next start settles every one that it had begun. A stack is
// then complete, with its role, or rolled back, without.
func TestKillDuringStacks(t *testing.T) {
	t.Parallel()
	const stacks, killAfter = 60, 8
	dir := dataDir(t)
	s := startDev(t, dir)
	client := cloudformation.NewFromConfig(s.aws(), func(o *cloudformation.Options) { o.RetryMaxAttempts = 1 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	var made atomic.Int64
	enough := make(chan struct{})
	for i := range stacks {
		group.Go(func() {
			_, err := client.CreateStack(ctx, &cloudformation.CreateStackInput{
				StackName: aws.String(fmt.Sprintf("app-%d", i)), Capabilities: []types.Capability{types.CapabilityCapabilityNamedIam},
				TemplateBody: aws.String(fmt.Sprintf(`{"Resources": {
					"Role": {"Type": "AWS::IAM::Role", "Properties": {"RoleName": "stack-%d", "AssumeRolePolicyDocument": %s}},
					"Policy": {"Type": "AWS::IAM::Policy", "Properties": {"PolicyName": "p", "Roles": [{"Ref": "Role"}], "PolicyDocument":
						{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"}]}}},
					"Association": {"Type": "AWS::EKS::PodIdentityAssociation", "Properties":
						{"ClusterName": "dev", "Namespace": "stacks", "ServiceAccount": "app-%d", "RoleArn": {"Fn::GetAtt": "Role.Arn"}}}}}`, i, trustPods, i)),
			})
			if err == nil && made.Add(1) == killAfter {
				close(enough)
			}
		})
	}
	<-enough
	s.kill()
	cancel()
	group.Wait()

	s = startDev(t, dir)
	client = cloudformation.NewFromConfig(s.aws())
	complete, undone := 0, 0
	eventually(t, "all stacks are settled", func(ctx context.Context) error {
		complete, undone = 0, 0
		pages := cloudformation.NewDescribeStacksPaginator(client, &cloudformation.DescribeStacksInput{})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return err
			}
			for _, stack := range page.Stacks {
				role := "stack-" + aws.ToString(stack.StackName)[len("app-"):]
				_, err := iam.NewFromConfig(s.aws()).GetRole(ctx, &iam.GetRoleInput{RoleName: &role})
				switch stack.StackStatus {
				case types.StackStatusCreateComplete:
					complete++
				case types.StackStatusRollbackComplete:
					undone++
					if err == nil {
						return fmt.Errorf("%s is rolled back, but its role is there", aws.ToString(stack.StackName))
					}
					err = nil
				default:
					return fmt.Errorf("%s is %s", aws.ToString(stack.StackName), stack.StackStatus)
				}
				if err != nil {
					return fmt.Errorf("the role of %s: %w", aws.ToString(stack.StackName), err)
				}
			}
		}
		if complete < killAfter {
			return errors.New("stacks that were made are gone")
		}
		return nil
	})
	t.Logf("%d stacks were answered before the kill; %d are complete and %d rolled back after it", made.Load(), complete, undone)
	if complete+undone <= killAfter {
		t.Error("no stack was under way when the server was killed")
	}
}
