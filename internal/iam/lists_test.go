package iam_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/google/go-cmp/cmp"
)

func TestListsArePaged(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	var want []string
	for i := range 7 {
		name, path := fmt.Sprintf("r%d", i), "/a/"
		if i%3 == 0 {
			path = "/b/"
		} else {
			want = append(want, name)
		}
		_, err := in.root.CreateRole(ctx, &awsiam.CreateRoleInput{
			RoleName: &name, Path: &path, AssumeRolePolicyDocument: of(trusts("AWS", account)),
		})
		check(t, err)
		_, err = in.other.CreateRole(ctx, &awsiam.CreateRoleInput{
			RoleName: &name, Path: &path, AssumeRolePolicyDocument: of(trusts("AWS", account)),
		})
		check(t, err)
	}
	var got []string
	for p := awsiam.NewListRolesPaginator(in.root, &awsiam.ListRolesInput{
		PathPrefix: of("/a/"), MaxItems: of(int32(3)),
	}); p.HasMorePages(); {
		page, err := p.NextPage(ctx)
		check(t, err)
		if len(page.Roles) > 3 || page.IsTruncated != (page.Marker != nil) {
			t.Errorf("a page of %d roles, truncated %v", len(page.Roles), page.IsTruncated)
		}
		for _, r := range page.Roles {
			if !strings.Contains(*r.Arn, account) {
				t.Errorf("role %s of another account", *r.Arn)
			}
			got = append(got, *r.RoleName)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAMarkerIsForTheListThatMadeIt(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	for _, name := range []string{"a", "b", "c"} {
		in.role(t, name)
		in.policy(t, name, statement("Allow", "s3:*", "*"))
	}
	page, err := in.root.ListRoles(ctx, &awsiam.ListRolesInput{MaxItems: of(int32(1))})
	check(t, err)
	marker := *page.Marker
	if len(marker) > 320 {
		t.Errorf("the marker has %d characters, IAM takes 320", len(marker))
	}
	next, err := in.root.ListRoles(ctx, &awsiam.ListRolesInput{MaxItems: of(int32(1)), Marker: &marker})
	check(t, err)
	if len(next.Roles) != 1 || *next.Roles[0].RoleName != "b" {
		t.Errorf("the second page is %+v", next.Roles)
	}
	altered := []byte(marker)
	slices.Reverse(altered)
	refuses(t, []refusal{
		{"altered", func() error {
			return failure(in.root.ListRoles(ctx, &awsiam.ListRolesInput{Marker: of(string(altered))}))
		}, "ValidationError", "Invalid Marker"},
		{"not of the alphabet", func() error {
			return failure(in.root.ListRoles(ctx, &awsiam.ListRolesInput{
				Marker: of("a b"),
			}))
		}, "ValidationError", "Invalid Marker"},
		{"of another list", func() error {
			return failure(in.root.ListPolicies(ctx, &awsiam.ListPoliciesInput{
				Marker: &marker,
			}))
		}, "ValidationError", "Invalid Marker"},
		{"of another account", func() error {
			return failure(in.other.ListRoles(ctx, &awsiam.ListRolesInput{
				Marker: &marker,
			}))
		}, "ValidationError", "Invalid Marker"},
		{"too long", func() error {
			return failure(in.root.ListRoles(ctx, &awsiam.ListRolesInput{Marker: of(strings.Repeat("a", 321))}))
		}, "ValidationError", ""},
	})
}

func TestTheLongestMarkerFits(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	for _, c := range "ab" {
		in.policy(t, strings.Repeat(string(c), 128), statement("Allow", "s3:*", "*"))
	}
	n := 0
	for p := awsiam.NewListPoliciesPaginator(in.root, &awsiam.ListPoliciesInput{
		MaxItems: of(int32(1)), Scope: "Local",
	}); p.HasMorePages(); n++ {
		_, err := p.NextPage(ctx)
		check(t, err)
	}
	if n != 2 {
		t.Errorf("%d pages, want 2", n)
	}
	p := in.policy(t, "many", statement("Allow", "s3:*", "*"))
	for _, c := range "ab" {
		in.role(t, strings.Repeat(string(c), 64))
		_, err := in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: of(strings.Repeat(string(c), 64)), PolicyArn: p})
		check(t, err)
	}
	first, err := in.root.ListEntitiesForPolicy(ctx, &awsiam.ListEntitiesForPolicyInput{PolicyArn: p, MaxItems: of(int32(1))})
	check(t, err)
	second, err := in.root.ListEntitiesForPolicy(ctx, &awsiam.ListEntitiesForPolicyInput{
		PolicyArn: p, MaxItems: of(int32(1)), Marker: first.Marker,
	})
	check(t, err)
	if len(first.PolicyRoles) != 1 || len(second.PolicyRoles) != 1 || second.IsTruncated {
		t.Errorf("pages %+v and %+v", first.PolicyRoles, second.PolicyRoles)
	}
}

// A list asks for a page of one kind and returns its names and what leads to the next.
type list func(marker *string, size *int32) (names []string, next *string, err error)

// names are those of all pages of a list.
func names(t *testing.T, of list, size int32) (all []string) {
	t.Helper()
	for marker := (*string)(nil); ; {
		page, next, err := of(marker, &size)
		check(t, err)
		if len(page) > int(size) {
			t.Errorf("a page of %d, want %d at most", len(page), size)
		}
		all = append(all, page...)
		if next == nil {
			return all
		}
		marker = next
	}
}

// pick returns one member of each item.
func pick[T any](items []T, member func(T) *string) []string {
	picked := []string{}
	for _, item := range items {
		picked = append(picked, *member(item))
	}
	return picked
}

func TestEveryListHasPages(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	want := []string{"a", "b", "c"}
	var three []types.Tag
	for _, name := range want {
		three = append(three, types.Tag{Key: &name, Value: of("")})
	}
	in.user(t, "alice")
	in.group(t, "main", "alice")
	in.role(t, "app")
	document := of(allowObj)
	check(t, failure(in.root.TagUser(ctx, &awsiam.TagUserInput{UserName: of("alice"), Tags: three})))
	check(t, failure(in.root.TagRole(ctx, &awsiam.TagRoleInput{RoleName: of("app"), Tags: three})))
	for _, name := range want {
		_, err := in.root.CreateUser(ctx, &awsiam.CreateUserInput{UserName: &name, Path: of("/x/")})
		check(t, err)
		check(t, failure(in.root.CreateGroup(ctx, &awsiam.CreateGroupInput{GroupName: &name, Path: of("/x/")})))
		check(t, failure(in.root.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: of("main"), UserName: &name})))
		check(t, failure(in.root.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: &name, UserName: of("a")})))
		made, err := in.root.CreatePolicy(ctx, &awsiam.CreatePolicyInput{PolicyName: &name, Path: of("/x/"), PolicyDocument: document})
		check(t, err)
		check(t, failure(in.root.CreateInstanceProfile(ctx, &awsiam.CreateInstanceProfileInput{InstanceProfileName: &name, Path: of("/x/")})))
		check(t, failure(in.root.AddRoleToInstanceProfile(ctx, &awsiam.AddRoleToInstanceProfileInput{InstanceProfileName: &name, RoleName: of("app")})))
		check(t, failure(in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: of("alice"), PolicyName: &name, PolicyDocument: document})))
		check(t, failure(in.root.PutGroupPolicy(ctx, &awsiam.PutGroupPolicyInput{GroupName: of("main"), PolicyName: &name, PolicyDocument: document})))
		check(t, failure(in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{RoleName: of("app"), PolicyName: &name, PolicyDocument: document})))
		check(t, failure(in.root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{UserName: of("alice"), PolicyArn: made.Policy.Arn})))
		check(t, failure(in.root.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: of("main"), PolicyArn: made.Policy.Arn})))
		check(t, failure(in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: of("app"), PolicyArn: made.Policy.Arn})))
	}
	x, alice, group, role := of("/x/"), of("alice"), of("main"), of("app")
	attached := func(p types.AttachedPolicy) *string { return p.PolicyName }
	key := func(t types.Tag) *string { return t.Key }
	for name, list := range map[string]list{
		"ListUsers": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListUsers(ctx, &awsiam.ListUsersInput{PathPrefix: x, Marker: m, MaxItems: n})
			return pick(out.Users, func(u types.User) *string { return u.UserName }), out.Marker, err
		},
		"ListGroups": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListGroups(ctx, &awsiam.ListGroupsInput{PathPrefix: x, Marker: m, MaxItems: n})
			return pick(out.Groups, func(g types.Group) *string { return g.GroupName }), out.Marker, err
		},
		"ListPolicies": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListPolicies(ctx, &awsiam.ListPoliciesInput{PathPrefix: x, Marker: m, MaxItems: n})
			return pick(out.Policies, func(p types.Policy) *string { return p.PolicyName }), out.Marker, err
		},
		"ListInstanceProfiles": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListInstanceProfiles(ctx, &awsiam.ListInstanceProfilesInput{PathPrefix: x, Marker: m, MaxItems: n})
			return pick(out.InstanceProfiles, func(p types.InstanceProfile) *string { return p.InstanceProfileName }), out.Marker, err
		},
		"ListInstanceProfilesForRole": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListInstanceProfilesForRole(ctx, &awsiam.ListInstanceProfilesForRoleInput{RoleName: role, Marker: m, MaxItems: n})
			return pick(out.InstanceProfiles, func(p types.InstanceProfile) *string { return p.InstanceProfileName }), out.Marker, err
		},
		"ListGroupsForUser": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListGroupsForUser(ctx, &awsiam.ListGroupsForUserInput{UserName: of("a"), Marker: m, MaxItems: n})
			all := pick(out.Groups, func(g types.Group) *string { return g.GroupName })
			return slices.DeleteFunc(all, func(g string) bool { return g == "main" }), out.Marker, err
		},
		"ListUserPolicies": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListUserPolicies(ctx, &awsiam.ListUserPoliciesInput{UserName: alice, Marker: m, MaxItems: n})
			return out.PolicyNames, out.Marker, err
		},
		"ListGroupPolicies": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListGroupPolicies(ctx, &awsiam.ListGroupPoliciesInput{GroupName: group, Marker: m, MaxItems: n})
			return out.PolicyNames, out.Marker, err
		},
		"ListRolePolicies": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListRolePolicies(ctx, &awsiam.ListRolePoliciesInput{RoleName: role, Marker: m, MaxItems: n})
			return out.PolicyNames, out.Marker, err
		},
		"ListAttachedUserPolicies": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListAttachedUserPolicies(ctx, &awsiam.ListAttachedUserPoliciesInput{UserName: alice, PathPrefix: x, Marker: m, MaxItems: n})
			return pick(out.AttachedPolicies, attached), out.Marker, err
		},
		"ListAttachedGroupPolicies": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListAttachedGroupPolicies(ctx, &awsiam.ListAttachedGroupPoliciesInput{GroupName: group, PathPrefix: x, Marker: m, MaxItems: n})
			return pick(out.AttachedPolicies, attached), out.Marker, err
		},
		"ListAttachedRolePolicies": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListAttachedRolePolicies(ctx, &awsiam.ListAttachedRolePoliciesInput{RoleName: role, PathPrefix: x, Marker: m, MaxItems: n})
			return pick(out.AttachedPolicies, attached), out.Marker, err
		},
		"ListUserTags": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListUserTags(ctx, &awsiam.ListUserTagsInput{UserName: alice, Marker: m, MaxItems: n})
			return pick(out.Tags, key), out.Marker, err
		},
		"ListRoleTags": func(m *string, n *int32) ([]string, *string, error) {
			out, err := in.root.ListRoleTags(ctx, &awsiam.ListRoleTagsInput{RoleName: role, Marker: m, MaxItems: n})
			return pick(out.Tags, key), out.Marker, err
		},
	} {
		for _, size := range []int32{1, 2, 1000} {
			if diff := cmp.Diff(want, names(t, list, size)); diff != "" {
				t.Errorf("%s in pages of %d:\n%s", name, size, diff)
			}
		}
	}
	refused(t, failure(in.root.ListUsers(ctx, &awsiam.ListUsersInput{MaxItems: of(int32(1001))})),
		"ValidationError", "1 validation error detected: Value at 'maxItems' failed to satisfy constraint")
}

func TestPoliciesAreFiltered(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.user(t, "alice")
	in.group(t, "g")
	attached, limit, idle := in.policy(t, "attached", allowObj), in.policy(t, "limit", allowObj), in.policy(t, "idle", allowObj)
	read := of("arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
	check(t, failure(in.root.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: of("g"), PolicyArn: attached})))
	check(t, failure(in.root.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: of("g"), PolicyArn: read})))
	check(t, failure(in.root.PutUserPermissionsBoundary(ctx, &awsiam.PutUserPermissionsBoundaryInput{UserName: of("alice"), PermissionsBoundary: limit})))
	for _, c := range []struct {
		name  string
		input awsiam.ListPoliciesInput
		want  []string
	}{
		{"the account's own", awsiam.ListPoliciesInput{Scope: "Local"}, []string{*attached, *idle, *limit}},
		{"the account's own in use", awsiam.ListPoliciesInput{Scope: "Local", OnlyAttached: true}, []string{*attached, *limit}},
		{"all in use", awsiam.ListPoliciesInput{OnlyAttached: true}, []string{*attached, *limit, *read}},
		{"AWS's in use", awsiam.ListPoliciesInput{Scope: "AWS", OnlyAttached: true}, []string{*read}},
		{"those that give permissions", awsiam.ListPoliciesInput{PolicyUsageFilter: "PermissionsPolicy"}, []string{*attached, *read}},
		{"those that limit them", awsiam.ListPoliciesInput{PolicyUsageFilter: "PermissionsBoundary"}, []string{*limit}},
		{"those below a path that has none", awsiam.ListPoliciesInput{Scope: "All", PathPrefix: of("/no/")}, []string{}},
	} {
		out, err := in.root.ListPolicies(ctx, &c.input)
		check(t, err)
		if diff := cmp.Diff(c.want, pick(out.Policies, func(p types.Policy) *string { return p.Arn })); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

func TestQuotasThatAreCounted(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.user(t, "alice")
	for i := range 300 {
		in.group(t, fmt.Sprintf("g%d", i))
	}
	for i := range 10 {
		p := in.policy(t, fmt.Sprintf("p%d", i), allowObj)
		check(t, failure(in.root.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: of("g0"), PolicyArn: p})))
		check(t, failure(in.root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{UserName: of("alice"), PolicyArn: p})))
	}
	one := in.policy(t, "one", allowObj)
	for range 4 {
		check(t, failure(in.root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{PolicyArn: one, PolicyDocument: of(allowObj)})))
	}
	tag := func(from, to int) func() error {
		var tags []types.Tag
		for i := from; i < to; i++ {
			tags = append(tags, types.Tag{Key: of(fmt.Sprintf("k%d", i)), Value: of("")})
		}
		return func() error {
			return failure(in.root.TagPolicy(ctx, &awsiam.TagPolicyInput{PolicyArn: one, Tags: tags}))
		}
	}
	check(t, tag(0, 50)())
	create := func() error {
		return failure(in.root.CreateGroup(ctx, &awsiam.CreateGroupInput{GroupName: of("more")}))
	}
	refuses(t, []refusal{
		{"the 301st group", create, "LimitExceeded", "Cannot exceed quota for GroupsPerAccount: 300"},
		{"the eleventh policy of a group", func() error {
			return failure(in.root.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: of("g0"), PolicyArn: one}))
		}, "LimitExceeded", "Cannot exceed quota for PoliciesPerGroup: 10"},
		{"the eleventh policy of a user", func() error {
			return failure(in.root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{UserName: of("alice"), PolicyArn: one}))
		}, "LimitExceeded", "Cannot exceed quota for PoliciesPerUser: 10"},
		{"the sixth version of a policy", func() error {
			return failure(in.root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{PolicyArn: one, PolicyDocument: of(allowObj)}))
		}, "LimitExceeded", "A managed policy can have up to 5 versions. Before you create a new version, you must delete an existing version."},
		{"the 51st tag", tag(50, 51), "LimitExceeded", "Cannot exceed quota for TagsPerPolicy: 50"},
	})
	check(t, failure(in.root.DeleteGroup(ctx, &awsiam.DeleteGroupInput{GroupName: of("g299")})))
	check(t, create())
}
