package eks_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/eks/types"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/eks"
)

const (
	rootARN   = "arn:aws:iam::111122223333:root"
	editARN   = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSEditPolicy"
	viewARN   = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSViewPolicy"
	adminsARN = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"
)

// access is what a principal is in the cluster demo.
func (r *replica) access(t testing.TB, principal string) *eks.Access {
	t.Helper()
	cluster, ok := r.eks.Cluster(account, region, "demo")
	if !ok {
		t.Fatal("there is no cluster")
	}
	a, err := arn.Parse(principal)
	if err != nil {
		t.Fatal(err)
	}
	id, ok := r.iam.PrincipalID(a)
	if !ok {
		t.Fatalf("there is no %s", principal)
	}
	return must(r.eks.Access(t.Context(), cluster, id))(t)
}

func TestAccessEntries(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	c := r.client()
	role := r.role(t, "editor", trustEKS)
	demo := aws.String("demo")

	t.Run("the creator is the administrator", func(t *testing.T) {
		want := &eks.Access{Username: rootARN, Policies: map[string][]string{"AmazonEKSClusterAdminPolicy": nil}}
		if diff := cmp.Diff(want, r.access(t, rootARN)); diff != "" {
			t.Error(diff)
		}
	})
	if a := r.access(t, role); a != nil {
		t.Errorf("a role without an entry is %+v", a)
	}
	made := must(c.CreateAccessEntry(t.Context(), &awseks.CreateAccessEntryInput{
		ClusterName: demo, PrincipalArn: &role, KubernetesGroups: []string{"writers"}, Tags: map[string]string{"team": "web"},
	}))(t).AccessEntry
	if !strings.HasPrefix(*made.AccessEntryArn, "arn:aws:eks:us-east-1:111122223333:access-entry/demo/role/111122223333/editor/") {
		t.Errorf("ARN = %s", *made.AccessEntryArn)
	}
	const username = "arn:aws:sts::111122223333:assumed-role/editor/{{SessionName}}"
	described := must(c.DescribeAccessEntry(t.Context(), &awseks.DescribeAccessEntryInput{ClusterName: demo, PrincipalArn: &role}))(t).AccessEntry
	if diff := cmp.Diff([]any{username, "STANDARD", []string{"writers"}, map[string]string{"team": "web"}},
		[]any{*described.Username, *described.Type, described.KubernetesGroups, described.Tags}); diff != "" {
		t.Error(diff)
	}
	list := func(policy string) []string {
		t.Helper()
		in := &awseks.ListAccessEntriesInput{ClusterName: demo, MaxResults: aws.Int32(1)}
		if policy != "" {
			in.AssociatedPolicyArn = &policy
		}
		var all []string
		for pages := awseks.NewListAccessEntriesPaginator(c, in); pages.HasMorePages(); {
			all = append(all, must(pages.NextPage(t.Context()))(t).AccessEntries...)
		}
		return all
	}
	if diff := cmp.Diff([]string{role, rootARN}, list("")); diff != "" {
		t.Error(diff)
	}

	associate := func(policy string, scope *types.AccessScope) error {
		_, err := c.AssociateAccessPolicy(t.Context(), &awseks.AssociateAccessPolicyInput{ClusterName: demo, PrincipalArn: &role, PolicyArn: &policy, AccessScope: scope})
		return err
	}
	if err := associate(editARN, &types.AccessScope{Type: types.AccessScopeTypeNamespace, Namespaces: []string{"web", "dev-*"}}); err != nil {
		t.Fatal(err)
	}
	if err := associate(viewARN, &types.AccessScope{Type: types.AccessScopeTypeCluster}); err != nil {
		t.Fatal(err)
	}
	want := &eks.Access{Username: username, Groups: []string{"writers"}, Policies: map[string][]string{
		"AmazonEKSEditPolicy": {"web", "dev-*"}, "AmazonEKSViewPolicy": nil,
	}}
	if diff := cmp.Diff(want, r.access(t, role)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{role}, list(editARN)); diff != "" {
		t.Error(diff)
	}
	var policies []string
	for pages := awseks.NewListAssociatedAccessPoliciesPaginator(c, &awseks.ListAssociatedAccessPoliciesInput{
		ClusterName: demo, PrincipalArn: &role, MaxResults: aws.Int32(1),
	}); pages.HasMorePages(); {
		for _, p := range must(pages.NextPage(t.Context()))(t).AssociatedAccessPolicies {
			policies = append(policies, fmt.Sprint(*p.PolicyArn, " ", p.AccessScope.Type, " ", p.AccessScope.Namespaces))
		}
	}
	if diff := cmp.Diff([]string{editARN + " namespace [web dev-*]", viewARN + " cluster []"}, policies); diff != "" {
		t.Error(diff)
	}
	must(c.DisassociateAccessPolicy(t.Context(), &awseks.DisassociateAccessPolicyInput{ClusterName: demo, PrincipalArn: &role, PolicyArn: aws.String(viewARN)}))(t)
	must(c.UpdateAccessEntry(t.Context(), &awseks.UpdateAccessEntryInput{
		ClusterName: demo, PrincipalArn: &role, KubernetesGroups: []string{}, Username: aws.String("editor:{{SessionName}}"),
	}))(t)
	want = &eks.Access{Username: "editor:{{SessionName}}", Policies: map[string][]string{"AmazonEKSEditPolicy": {"web", "dev-*"}}}
	if diff := cmp.Diff(want, r.access(t, role)); diff != "" {
		t.Error(diff)
	}
	must(c.TagResource(t.Context(), &awseks.TagResourceInput{ResourceArn: made.AccessEntryArn, Tags: map[string]string{"stage": "test"}}))(t)
	tags := must(c.ListTagsForResource(t.Context(), &awseks.ListTagsForResourceInput{ResourceArn: made.AccessEntryArn}))(t).Tags
	if diff := cmp.Diff(map[string]string{"team": "web", "stage": "test"}, tags); diff != "" {
		t.Error(diff)
	}

	t.Run("another role of the same name is another principal", func(t *testing.T) {
		if _, err := r.iamClient().DeleteRole(t.Context(), &awsiam.DeleteRoleInput{RoleName: aws.String("editor")}); err != nil {
			t.Fatal(err)
		}
		r.role(t, "editor", trustEKS)
		if a := r.access(t, role); a != nil {
			t.Errorf("it is %+v", a)
		}
		_, err := c.CreateAccessEntry(t.Context(), &awseks.CreateAccessEntryInput{ClusterName: demo, PrincipalArn: &role})
		wantRefused(t, err, "ResourceInUseException", "The specified access entry resource is already in use on this cluster.")
	})
	must(c.DeleteAccessEntry(t.Context(), &awseks.DeleteAccessEntryInput{ClusterName: demo, PrincipalArn: &role}))(t)
	_, err := c.DescribeAccessEntry(t.Context(), &awseks.DescribeAccessEntryInput{ClusterName: demo, PrincipalArn: &role})
	wantRefused(t, err, "ResourceNotFoundException", "")

	t.Run("with the cluster goes the access", func(t *testing.T) {
		must(c.DeleteCluster(t.Context(), &awseks.DeleteClusterInput{Name: demo}))(t)
		admin := r.role(t, "admin", trustEKS)
		must(c.CreateCluster(t.Context(), &awseks.CreateClusterInput{
			Name: demo, RoleArn: &admin, ResourcesVpcConfig: &types.VpcConfigRequest{SubnetIds: []string{"subnet-1", "subnet-2"}},
			AccessConfig: &types.CreateAccessConfigRequest{BootstrapClusterCreatorAdminPermissions: aws.Bool(false), AuthenticationMode: types.AuthenticationModeApi},
		}))(t)
		if got := list(""); len(got) > 0 {
			t.Errorf("a cluster whose creator wants no access has the entries %q", got)
		}
	})
}

func TestAccessEntriesThatAreRefused(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	role := r.role(t, "reader", trustEKS)
	many := slices.Repeat([]string{"g"}, 51)
	for _, c := range []struct {
		name, code, message string
		in                  awseks.CreateAccessEntryInput
	}{
		{"a role that is not there", "InvalidParameterException", "The specified principalArn is invalid: invalid principal.",
			awseks.CreateAccessEntryInput{PrincipalArn: aws.String("arn:aws:iam::111122223333:role/none")}},
		{"a session", "InvalidParameterException", "The specified principalArn is invalid: invalid principal.",
			awseks.CreateAccessEntryInput{PrincipalArn: aws.String("arn:aws:sts::111122223333:assumed-role/reader/s")}},
		{"what is no ARN", "InvalidParameterException", "", awseks.CreateAccessEntryInput{PrincipalArn: aws.String("reader")}},
		{"a role by another path", "InvalidParameterException", "", awseks.CreateAccessEntryInput{PrincipalArn: aws.String("arn:aws:iam::111122223333:role/path/reader")}},
		{"a group of Kubernetes' own", "InvalidParameterException", "", awseks.CreateAccessEntryInput{PrincipalArn: &role, KubernetesGroups: []string{"system:masters"}}},
		{"a group of Lanyard's own", "InvalidParameterException", "", awseks.CreateAccessEntryInput{PrincipalArn: &role, KubernetesGroups: []string{"lanyard:cluster-admin"}}},
		{"a username of Kubernetes' own", "InvalidParameterException", "", awseks.CreateAccessEntryInput{PrincipalArn: &role, Username: aws.String("system:admin")}},
		{"sessions that cannot be told apart", "InvalidParameterException", "",
			awseks.CreateAccessEntryInput{PrincipalArn: &role, Username: aws.String("arn:aws:sts::111122223333:assumed-role/reader/one")}},
		{"too many groups", "InvalidParameterException", "", awseks.CreateAccessEntryInput{PrincipalArn: &role, KubernetesGroups: many}},
		{"a node's type", "InvalidParameterException", "", awseks.CreateAccessEntryInput{PrincipalArn: &role, Type: aws.String("EC2_LINUX")}},
		{"a cluster that is not there", "ResourceNotFoundException", "No cluster found for name: none.",
			awseks.CreateAccessEntryInput{ClusterName: aws.String("none"), PrincipalArn: &role}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.in.ClusterName == nil {
				c.in.ClusterName = aws.String("demo")
			}
			_, err := r.client().CreateAccessEntry(t.Context(), &c.in)
			wantRefused(t, err, c.code, c.message)
		})
	}
	must(r.client().CreateAccessEntry(t.Context(), &awseks.CreateAccessEntryInput{ClusterName: aws.String("demo"), PrincipalArn: &role}))(t)
	for _, c := range []struct {
		name, code string
		in         awseks.AssociateAccessPolicyInput
	}{
		{"a policy that is not there", "ResourceNotFoundException", awseks.AssociateAccessPolicyInput{
			PolicyArn: aws.String("arn:aws:eks::aws:cluster-access-policy/None"), AccessScope: &types.AccessScope{Type: types.AccessScopeTypeCluster}}},
		{"a principal without an entry", "ResourceNotFoundException", awseks.AssociateAccessPolicyInput{
			PrincipalArn: aws.String("arn:aws:iam::111122223333:role/none"), PolicyArn: aws.String(editARN), AccessScope: &types.AccessScope{Type: types.AccessScopeTypeCluster}}},
		{"a namespace for the whole cluster", "InvalidParameterException", awseks.AssociateAccessPolicyInput{
			PolicyArn: aws.String(editARN), AccessScope: &types.AccessScope{Type: types.AccessScopeTypeCluster, Namespaces: []string{"web"}}}},
		{"no namespace", "InvalidParameterException", awseks.AssociateAccessPolicyInput{
			PolicyArn: aws.String(editARN), AccessScope: &types.AccessScope{Type: types.AccessScopeTypeNamespace}}},
		{"a namespace that cannot be", "InvalidParameterException", awseks.AssociateAccessPolicyInput{
			PolicyArn: aws.String(editARN), AccessScope: &types.AccessScope{Type: types.AccessScopeTypeNamespace, Namespaces: []string{"We/b"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.ClusterName = aws.String("demo")
			if c.in.PrincipalArn == nil {
				c.in.PrincipalArn = &role
			}
			_, err := r.client().AssociateAccessPolicy(t.Context(), &c.in)
			wantRefused(t, err, c.code, "")
		})
	}
	_, err := r.client().DisassociateAccessPolicy(t.Context(), &awseks.DisassociateAccessPolicyInput{
		ClusterName: aws.String("demo"), PrincipalArn: &role, PolicyArn: aws.String(adminsARN),
	})
	wantRefused(t, err, "ResourceNotFoundException", "")
	if n := len(must(r.client().ListAccessPolicies(t.Context(), &awseks.ListAccessPoliciesInput{}))(t).AccessPolicies); n != 5 {
		t.Errorf("there are %d access policies", n)
	}
}

// A token that comes again gets the entry that it made, but never as an answer to another question.
func TestAccessEntryIsRepeatedByItsToken(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	role := r.role(t, "reader", trustEKS)
	in := awseks.CreateAccessEntryInput{
		ClusterName: aws.String("demo"), PrincipalArn: &role, KubernetesGroups: []string{"readers"}, ClientRequestToken: aws.String("once"),
	}
	made := must(r.client().CreateAccessEntry(t.Context(), &in))(t).AccessEntry
	again := must(r.client().CreateAccessEntry(t.Context(), &in))(t).AccessEntry
	if *again.AccessEntryArn != *made.AccessEntryArn {
		t.Errorf("the repeated request made %s besides %s", *again.AccessEntryArn, *made.AccessEntryArn)
	}
	other := in
	other.KubernetesGroups = []string{"writers"}
	_, err := r.client().CreateAccessEntry(t.Context(), &other)
	wantRefused(t, err, "InvalidRequestException", "The clientRequestToken was used with other parameters, for the access entry of "+role+".")

	must(r.iamClient().DeleteRole(t.Context(), &awsiam.DeleteRoleInput{RoleName: aws.String("reader")}))(t)
	r.role(t, "reader", trustEKS)
	_, err = r.client().CreateAccessEntry(t.Context(), &in)
	wantRefused(t, err, "InvalidRequestException", "") // the entry is the former role's
}

// Who may give access may be held to certain policies and namespaces.
func TestGivingAccessIsHeldToConditions(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	role := r.role(t, "reader", trustEKS)
	must(r.client().CreateAccessEntry(t.Context(), &awseks.CreateAccessEntryInput{ClusterName: aws.String("demo"), PrincipalArn: &role}))(t)
	lead := r.user(t, "lead", `{"Effect":"Allow","Action":"eks:AssociateAccessPolicy","Resource":"arn:aws:eks:us-east-1:111122223333:access-entry/demo/role/*",`+
		`"Condition":{"ArnEquals":{"eks:policyArn":"`+viewARN+`"},"StringEquals":{"eks:accessScope":"namespace"},"ForAllValues:StringEquals":{"eks:namespaces":"web"}}}`)
	give := func(policy string, namespaces ...string) error {
		scope := &types.AccessScope{Type: types.AccessScopeTypeNamespace, Namespaces: namespaces}
		if len(namespaces) == 0 {
			scope.Type = types.AccessScopeTypeCluster
		}
		_, err := lead.client().AssociateAccessPolicy(t.Context(), &awseks.AssociateAccessPolicyInput{
			ClusterName: aws.String("demo"), PrincipalArn: &role, PolicyArn: &policy, AccessScope: scope,
		})
		return err
	}
	if err := give(viewARN, "web"); err != nil {
		t.Error(err)
	}
	for _, err := range []error{give(editARN, "web"), give(viewARN, "web", "other"), give(viewARN)} {
		wantRefused(t, err, "AccessDeniedException", "")
	}
}
