package cloudformation_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awscfn "github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/google/go-cmp/cmp"
)

// The requests of these tests are those that eksctl sends, with its template: a role, an inline policy whose name is a Fn::Sub, and
// an output with Fn::GetAtt in its string form.

const irsaTrust = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["sts:AssumeRoleWithWebIdentity"],` +
	`"Principal":{"Federated":"arn:aws:iam::111122223333:oidc-provider/oidc.example.com/id/X"},` +
	`"Condition":{"StringEquals":{"oidc.example.com/id/X:aud":"sts.amazonaws.com","oidc.example.com/id/X:sub":"system:serviceaccount:default:s3-reader"}}}]}`

const podsTrust = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession"],` +
	`"Principal":{"Service":["pods.eks.amazonaws.com"]}}]}`

func eksctlTemplate(trust, roleName, action string) string {
	named := ""
	if roleName != "" {
		named = `"RoleName":"` + roleName + `",`
	}
	return fmt.Sprintf(`{"AWSTemplateFormatVersion":"2010-09-09","Description":"IAM role for serviceaccount [created and managed by eksctl]",`+
		`"Resources":{"Policy1":{"Type":"AWS::IAM::Policy","Properties":{"PolicyDocument":{"Statement":[{"Action":["%s"],"Effect":"Allow","Resource":"*"}],`+
		`"Version":"2012-10-17"},"PolicyName":{"Fn::Sub":"${AWS::StackName}-Policy1"},"Roles":[{"Ref":"Role1"}]}},`+
		`"Role1":{"Type":"AWS::IAM::Role","Properties":{%s"AssumeRolePolicyDocument":%s,`+
		`"ManagedPolicyArns":[{"Fn::Sub":"arn:${AWS::Partition}:iam::aws:policy/AmazonS3ReadOnlyAccess"}]}}},`+
		`"Outputs":{"Role1":{"Value":{"Fn::GetAtt":"Role1.Arn"}}}}`, action, named, trust)
}

func eksctlTags(kind string) []cfntypes.Tag {
	return tags("alpha.eksctl.io/cluster-name", "demo", "eksctl.cluster.k8s.io/v1alpha1/cluster-name", "demo", "alpha.eksctl.io/eksctl-version", "0.231.0",
		"alpha.eksctl.io/"+kind, "default/s3-reader")
}

// notDeleted is the filter that eksctl lists stacks with.
func notDeleted() []cfntypes.StackStatus {
	var filter []cfntypes.StackStatus
	for _, s := range cfntypes.StackStatus("").Values() {
		if s != cfntypes.StackStatusDeleteComplete {
			filter = append(filter, s)
		}
	}
	return filter
}

// describeAll lists stacks and describes each by its ID, as eksctl does before most commands.
func (r *replica) describeAll(t *testing.T) []cfntypes.Stack {
	t.Helper()
	list, err := r.cfn().ListStacks(t.Context(), &awscfn.ListStacksInput{StackStatusFilter: notDeleted()})
	if err != nil {
		t.Fatal(err)
	}
	var all []cfntypes.Stack
	for _, s := range list.StackSummaries {
		all = append(all, r.stack(t, *s.StackId))
	}
	return all
}

// deleteAsEksctl is what eksctl does to a stack of its own, with --wait.
func (r *replica) deleteAsEksctl(t *testing.T, name string) {
	t.Helper()
	ctx, c := t.Context(), r.cfn()
	id := r.stack(t, name).StackId
	_, err := c.DeleteStack(ctx, &awscfn.DeleteStackInput{StackName: id})
	wantRefused(t, err, "ValidationError", "Stack ["+name+"] cannot be deleted while TerminationProtection is enabled")
	protection, err := c.UpdateTerminationProtection(ctx, &awscfn.UpdateTerminationProtectionInput{StackName: id, EnableTerminationProtection: aws.Bool(false)})
	if err != nil {
		t.Fatal(err)
	}
	if *protection.StackId != *id {
		t.Errorf("protection of %s, want %s", *protection.StackId, *id)
	}
	if _, err := c.DeleteStack(ctx, &awscfn.DeleteStackInput{StackName: id}); err != nil {
		t.Fatal(err)
	}
	waiter := awscfn.NewStackDeleteCompleteWaiter(c)
	if err := waiter.Wait(ctx, &awscfn.DescribeStacksInput{StackName: &name}, time.Hour); err != nil {
		t.Errorf("wait for the deletion: %v", err)
	}
	_, err = c.DescribeStacks(ctx, &awscfn.DescribeStacksInput{StackName: &name})
	wantRefused(t, err, "ValidationError", "Stack with id "+name+" does not exist")
	if response, ok := errors.AsType[*smithyhttp.ResponseError](err); !ok || response.HTTPStatusCode() != 400 {
		t.Errorf("a deleted stack answers %v, want status 400", err)
	}
	wantStatus(t, r.stack(t, *id), cfntypes.StackStatusDeleteComplete)
}

func TestEksctlServiceAccountRole(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	ctx, c := t.Context(), r.cfn()
	empty := r.inventory(t)
	if found := r.describeAll(t); len(found) != 0 {
		t.Fatalf("got %d stacks in an empty account", len(found))
	}

	// create iamserviceaccount
	name := "eksctl-demo-addon-iamserviceaccount-default-s3-reader"
	template := eksctlTemplate(irsaTrust, "", "s3:GetObject")
	made, err := c.CreateStack(ctx, &awscfn.CreateStackInput{
		StackName: &name, TemplateBody: &template, Capabilities: []cfntypes.Capability{"CAPABILITY_IAM"}, DisableRollback: aws.Bool(false),
		EnableTerminationProtection: aws.Bool(true), Tags: eksctlTags("iamserviceaccount-name"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(*made.StackId, "arn:aws:cloudformation:us-east-1:111122223333:stack/"+name+"/") {
		t.Errorf("the stack's ID is %s", *made.StackId)
	}
	// A waiter that finds the stack still in progress would sleep for half a minute, and exceed its limit.
	if err := awscfn.NewStackCreateCompleteWaiter(c).Wait(ctx, &awscfn.DescribeStacksInput{StackName: &name}, time.Hour); err != nil {
		t.Fatal(err)
	}
	st := r.stack(t, name)
	roleName := r.physical(t, name, "Role1")
	if got, want := output(t, st, "Role1"), "arn:aws:iam::111122223333:role/"+roleName; got != want {
		t.Errorf("output Role1 is %s, want %s", got, want)
	}
	if !strings.HasPrefix(roleName, "eksctl-demo-addon-iamserviceaccount-default-") || !strings.Contains(roleName, "-Role1-") || len(roleName) != 64 {
		t.Errorf("the role's name is %s", roleName)
	}
	role, err := r.IAM().GetRole(ctx, &awsiam.GetRoleInput{RoleName: &roleName})
	if err != nil {
		t.Fatal(err)
	}
	wantJSON(t, *role.Role.AssumeRolePolicyDocument, irsaTrust)
	if n := len(role.Role.Tags); n != 7 {
		t.Errorf("the role has %d tags, want the stack's 4 and CloudFormation's 3", n)
	}
	inline, err := r.IAM().GetRolePolicy(ctx, &awsiam.GetRolePolicyInput{RoleName: &roleName, PolicyName: aws.String(name + "-Policy1")})
	if err != nil {
		t.Fatal(err)
	}
	wantJSON(t, *inline.PolicyDocument, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":"*"}]}`)

	// get iamserviceaccount
	all := r.describeAll(t)
	if len(all) != 1 || !hasTag(all[0], "alpha.eksctl.io/iamserviceaccount-name", "default/s3-reader") || output(t, all[0], "Role1") == "" {
		t.Errorf("got stacks %v", all)
	}

	// utils migrate-to-pod-identity reads the template, and changes the trust by a change set.
	got, err := c.GetTemplate(ctx, &awscfn.GetTemplateInput{StackName: &name})
	if err != nil {
		t.Fatal(err)
	}
	if *got.TemplateBody != template {
		t.Errorf("got the template %s", *got.TemplateBody)
	}

	r.deleteAsEksctl(t, name)
	if diff := cmp.Diff(empty, r.inventory(t)); diff != "" {
		t.Errorf("the deleted stack leaves (-want +got):\n%s", diff)
	}
	if found := r.describeAll(t); len(found) != 0 {
		t.Errorf("got %d stacks after the deletion", len(found))
	}
}

func TestEksctlPodIdentityRole(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.Register(t, "demo")
	ctx, c := t.Context(), r.cfn()

	// create podidentityassociation
	name := "eksctl-demo-podidentityrole-default-s3-reader"
	template := eksctlTemplate(podsTrust, "", "s3:GetObject")
	_, err := c.CreateStack(ctx, &awscfn.CreateStackInput{
		StackName: &name, TemplateBody: &template, Capabilities: []cfntypes.Capability{"CAPABILITY_IAM"}, DisableRollback: aws.Bool(false),
		EnableTerminationProtection: aws.Bool(true), Tags: eksctlTags("podidentityassociation-name"),
	})
	if err != nil {
		t.Fatal(err)
	}
	st := r.stack(t, name)
	_, err = r.EKS().CreatePodIdentityAssociation(ctx, &awseks.CreatePodIdentityAssociationInput{
		ClusterName: aws.String("demo"), Namespace: aws.String("default"), ServiceAccount: aws.String("s3-reader"), RoleArn: aws.String(output(t, st, "Role1")),
	})
	if err != nil {
		t.Fatal(err)
	}

	// update podidentityassociation -f: the stack's tags come twice.
	change := func(set, template string) *awscfn.DescribeChangeSetOutput {
		t.Helper()
		made, err := c.CreateChangeSet(ctx, &awscfn.CreateChangeSetInput{
			StackName: &name, ChangeSetName: &set, ChangeSetType: "UPDATE", TemplateBody: &template,
			Capabilities: []cfntypes.Capability{"CAPABILITY_IAM"}, Tags: append(st.Tags, eksctlTags("podidentityassociation-name")...),
			Description: aws.String("updating policies for IAM role"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if *made.StackId != *st.StackId {
			t.Errorf("the change set is of %s", *made.StackId)
		}
		if _, err := c.DescribeChangeSet(ctx, &awscfn.DescribeChangeSetInput{StackName: &name, ChangeSetName: &set}); err != nil {
			t.Fatal(err)
		}
		out, err := c.DescribeChangeSet(ctx, &awscfn.DescribeChangeSetInput{StackName: st.StackId, ChangeSetName: &set})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	none := change("eksctl-none-1", template)
	if none.Status != "FAILED" || none.ExecutionStatus != "UNAVAILABLE" || !strings.Contains(*none.StatusReason, "The submitted information didn't contain changes") {
		t.Errorf("without changes: %s, %s: %s", none.Status, none.ExecutionStatus, aws.ToString(none.StatusReason))
	}
	updated := eksctlTemplate(podsTrust, "", "s3:PutObject")
	some := change("eksctl-update-1", updated)
	if some.Status != "CREATE_COMPLETE" || some.ExecutionStatus != "AVAILABLE" || len(some.Tags) != 4 {
		t.Errorf("with changes: %s, %s, tags %v", some.Status, some.ExecutionStatus, some.Tags)
	}
	if len(some.Changes) != 1 || *some.Changes[0].ResourceChange.LogicalResourceId != "Policy1" || some.Changes[0].ResourceChange.Action != "Modify" ||
		some.Changes[0].ResourceChange.Replacement != "False" {
		t.Errorf("changes %v", some.Changes)
	}
	if _, err := c.ExecuteChangeSet(ctx, &awscfn.ExecuteChangeSetInput{StackName: st.StackId, ChangeSetName: some.ChangeSetName}); err != nil {
		t.Fatal(err)
	}
	if err := awscfn.NewStackUpdateCompleteWaiter(c).Wait(ctx, &awscfn.DescribeStacksInput{StackName: &name}, time.Hour); err != nil {
		t.Fatal(err)
	}
	after := r.stack(t, name)
	if output(t, after, "Role1") != output(t, st, "Role1") || aws.ToString(after.ChangeSetId) != *some.ChangeSetId {
		t.Errorf("after the update: %v, change set %s", after.Outputs, aws.ToString(after.ChangeSetId))
	}
	role := r.physical(t, name, "Role1")
	inline, err := r.IAM().GetRolePolicy(ctx, &awsiam.GetRolePolicyInput{RoleName: &role, PolicyName: aws.String(name + "-Policy1")})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(*inline.PolicyDocument, "PutObject") {
		t.Errorf("the policy after the update is %s", *inline.PolicyDocument)
	}
	_, err = c.ExecuteChangeSet(ctx, &awscfn.ExecuteChangeSetInput{StackName: st.StackId, ChangeSetName: some.ChangeSetName})
	wantRefused(t, err, "InvalidChangeSetStatus", "")
	_, err = c.DescribeChangeSet(ctx, &awscfn.DescribeChangeSetInput{StackName: &name, ChangeSetName: aws.String("eksctl-none-1")})
	wantRefused(t, err, "ChangeSetNotFound", "ChangeSet [eksctl-none-1] does not exist")

	r.deleteAsEksctl(t, name)
}

// With --role-name the role has a name of its own, which takes another capability.
func TestEksctlNamedRole(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	name := "eksctl-demo-podidentityrole-default-s3-reader"
	template := eksctlTemplate(podsTrust, "my-role", "s3:GetObject")
	_, err := r.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{
		StackName: &name, TemplateBody: &template, Capabilities: []cfntypes.Capability{"CAPABILITY_IAM"},
	})
	wantRefused(t, err, "InsufficientCapabilitiesException", "Requires capabilities : [CAPABILITY_NAMED_IAM]")
	st := r.create(t, name, template)
	if got := output(t, st, "Role1"); got != "arn:aws:iam::111122223333:role/my-role" {
		t.Errorf("output Role1 is %s", got)
	}
}

// create addon makes a role by a stack of its own for each service account, or one for the add-on by IRSA, and then the add-on.
func TestEksctlAddonRoles(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, stack, trust string
		in                 func(role *string) *awseks.CreateAddonInput
	}{
		{"by EKS Pod Identity", "eksctl-demo-addon-vpc-cni-podidentityrole-aws-node", podsTrust, func(role *string) *awseks.CreateAddonInput {
			return &awseks.CreateAddonInput{PodIdentityAssociations: []ekstypes.AddonPodIdentityAssociations{
				{ServiceAccount: aws.String("aws-node"), RoleArn: role},
			}}
		}},
		{"by IRSA", "eksctl-demo-addon-vpc-cni", irsaTrust, func(role *string) *awseks.CreateAddonInput {
			return &awseks.CreateAddonInput{ServiceAccountRoleArn: role}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newReplica(t)
			r.Register(t, "demo")
			ctx := t.Context()
			template := eksctlTemplate(tc.trust, "", "ec2:DescribeInstances")
			_, err := r.cfn().CreateStack(ctx, &awscfn.CreateStackInput{
				StackName: &tc.stack, TemplateBody: &template, Capabilities: []cfntypes.Capability{"CAPABILITY_IAM"}, DisableRollback: aws.Bool(false),
				EnableTerminationProtection: aws.Bool(true), Tags: eksctlTags("addon-name"),
			})
			if err != nil {
				t.Fatal(err)
			}
			in := tc.in(aws.String(output(t, r.stack(t, tc.stack), "Role1")))
			in.ClusterName, in.AddonName = aws.String("demo"), aws.String("vpc-cni")
			if _, err := r.EKS().CreateAddon(ctx, in); err != nil {
				t.Fatal(err)
			}
			all := r.describeAll(t)
			if len(all) != 1 || !hasTag(all[0], "alpha.eksctl.io/addon-name", "default/s3-reader") {
				t.Errorf("got stacks %v", all)
			}
			if _, err := r.EKS().DeleteAddon(ctx, &awseks.DeleteAddonInput{ClusterName: in.ClusterName, AddonName: in.AddonName}); err != nil {
				t.Fatal(err)
			}
			r.deleteAsEksctl(t, tc.stack)
			if left := r.inventory(t); len(left) != 0 {
				t.Errorf("left are %q", left)
			}
		})
	}
}

func hasTag(st cfntypes.Stack, key, value string) bool {
	for _, t := range st.Tags {
		if *t.Key == key && *t.Value == value {
			return true
		}
	}
	return false
}

// wantJSON compares a percent-encoded document with what it should say.
func wantJSON(t *testing.T, encoded, want string) {
	t.Helper()
	text, err := url.PathUnescape(encoded)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, a); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
}
