package iam_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
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
