package iam_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/google/go-cmp/cmp"
)

// details are the names of all that GetAccountAuthorizationDetails shows, page by page.
func details(t *testing.T, client *awsiam.Client, size int32, filter ...types.EntityType) (names []string) {
	t.Helper()
	for p := awsiam.NewGetAccountAuthorizationDetailsPaginator(client, &awsiam.GetAccountAuthorizationDetailsInput{
		Filter: filter, MaxItems: &size,
	}); p.HasMorePages(); {
		page, err := p.NextPage(t.Context())
		check(t, err)
		before := len(names)
		for _, u := range page.UserDetailList {
			names = append(names, "user "+*u.UserName)
		}
		for _, g := range page.GroupDetailList {
			names = append(names, "group "+*g.GroupName)
		}
		for _, r := range page.RoleDetailList {
			names = append(names, "role "+*r.RoleName)
		}
		for _, m := range page.Policies {
			names = append(names, "policy "+*m.PolicyName)
		}
		if len(names)-before > int(size) {
			t.Errorf("a page of %d, want %d at most", len(names)-before, size)
		}
	}
	return names
}

func TestAuthorizationDetails(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.user(t, "alice")
	in.user(t, "bob")
	in.group(t, "g", "alice")
	in.role(t, "app")
	in.role(t, "web")
	own := in.policy(t, "own", allowObj)
	check(t, failure(in.root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{PolicyArn: own, PolicyDocument: of(allowObj), SetAsDefault: true})))
	check(t, failure(in.root.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: of("g"), PolicyArn: of("arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")})))
	check(t, failure(in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: of("alice"), PolicyName: of("i"), PolicyDocument: of(allowObj)})))
	check(t, failure(in.root.PutRolePermissionsBoundary(ctx, &awsiam.PutRolePermissionsBoundaryInput{RoleName: of("app"), PermissionsBoundary: own})))
	check(t, failure(in.root.CreateInstanceProfile(ctx, &awsiam.CreateInstanceProfileInput{InstanceProfileName: of("node")})))
	check(t, failure(in.root.AddRoleToInstanceProfile(ctx, &awsiam.AddRoleToInstanceProfileInput{InstanceProfileName: of("node"), RoleName: of("app")})))

	everything := []string{"user alice", "user bob", "group g", "role app", "role web", "policy own", "policy AmazonS3ReadOnlyAccess"}
	for _, size := range []int32{1, 2, 3, 100} {
		if diff := cmp.Diff(everything, details(t, in.root, size)); diff != "" {
			t.Errorf("in pages of %d:\n%s", size, diff)
		}
	}
	for _, c := range []struct {
		filter []types.EntityType
		want   []string
	}{
		{[]types.EntityType{types.EntityTypeUser}, everything[:2]},
		{[]types.EntityType{types.EntityTypeGroup}, everything[2:3]},
		{[]types.EntityType{types.EntityTypeRole}, everything[3:5]},
		{[]types.EntityType{types.EntityTypeLocalManagedPolicy}, everything[5:6]},
		{[]types.EntityType{types.EntityTypeAWSManagedPolicy}, everything[6:]},
		{[]types.EntityType{types.EntityTypeRole, types.EntityTypeUser}, slices.Concat(everything[:2], everything[3:5])},
	} {
		if diff := cmp.Diff(c.want, details(t, in.root, 1, c.filter...)); diff != "" {
			t.Errorf("%v:\n%s", c.filter, diff)
		}
	}
	if got := details(t, in.other, 100); len(got) != 0 {
		t.Errorf("the other account has %v", got)
	}

	all, err := in.root.GetAccountAuthorizationDetails(ctx, &awsiam.GetAccountAuthorizationDetailsInput{})
	check(t, err)
	alice, g, app, p := all.UserDetailList[0], all.GroupDetailList[0], all.RoleDetailList[0], all.Policies[0]
	document, err := url.PathUnescape(*alice.UserPolicyList[0].PolicyDocument)
	check(t, err)
	if document != allowObj || !slices.Equal(alice.GroupList, []string{"g"}) {
		t.Errorf("alice has %s and is in %v", document, alice.GroupList)
	}
	if len(g.AttachedManagedPolicies) != 1 || *g.AttachedManagedPolicies[0].PolicyName != "AmazonS3ReadOnlyAccess" {
		t.Errorf("the group has %+v", g.AttachedManagedPolicies)
	}
	if *app.PermissionsBoundary.PermissionsBoundaryArn != *own || len(app.InstanceProfileList) != 1 || app.RoleLastUsed == nil ||
		!strings.Contains(*app.AssumeRolePolicyDocument, account) {
		t.Errorf("the role is %+v", app)
	}
	if len(p.PolicyVersionList) != 2 || *p.PolicyVersionList[0].VersionId != "v2" || !p.PolicyVersionList[0].IsDefaultVersion ||
		p.PolicyVersionList[1].Document == nil || *p.PermissionsBoundaryUsageCount != 1 {
		t.Errorf("the policy is %+v", p)
	}
}
