package iam_test

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/policy"
)

func TestManagedPoliciesHaveVersions(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	first := statement("Allow", "s3:Get*", "*")
	created, err := in.root.CreatePolicy(ctx, &awsiam.CreatePolicyInput{
		PolicyName: of("p"), Path: of("/team/"), PolicyDocument: &first, Description: of("d"),
	})
	check(t, err)
	p := created.Policy
	if *p.Arn != "arn:aws:iam::111122223333:policy/team/p" || !strings.HasPrefix(*p.PolicyId, "ANPA") || *p.DefaultVersionId != "v1" ||
		*p.AttachmentCount != 0 || *p.PermissionsBoundaryUsageCount != 0 || !p.IsAttachable {
		t.Errorf("created %+v", p)
	}
	for v := 2; v <= 5; v++ {
		out, err := in.root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{
			PolicyArn: p.Arn, PolicyDocument: of(statement("Allow", fmt.Sprintf("s3:V%d", v), "*")), SetAsDefault: v == 3,
		})
		check(t, err)
		if *out.PolicyVersion.VersionId != fmt.Sprintf("v%d", v) || out.PolicyVersion.IsDefaultVersion != (v == 3) {
			t.Errorf("version %d = %+v", v, out.PolicyVersion)
		}
	}
	_, err = in.root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{PolicyArn: p.Arn, PolicyDocument: &first})
	refused(t, err, "LimitExceeded", "A managed policy can have up to 5 versions. "+
		"Before you create a new version, you must delete an existing version.")
	_, err = in.root.DeletePolicyVersion(ctx, &awsiam.DeletePolicyVersionInput{PolicyArn: p.Arn, VersionId: of("v3")})
	refused(t, err, "DeleteConflict", "Cannot delete the default version of a policy.")
	_, err = in.root.DeletePolicyVersion(ctx, &awsiam.DeletePolicyVersionInput{PolicyArn: p.Arn, VersionId: of("v5")})
	check(t, err)
	again, err := in.root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{PolicyArn: p.Arn, PolicyDocument: &first})
	check(t, err)
	if *again.PolicyVersion.VersionId != "v6" {
		t.Errorf("a version number was used again: %s", *again.PolicyVersion.VersionId)
	}
	_, err = in.root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: p.Arn})
	refused(t, err, "DeleteConflict", "This policy has more than one version.")
	_, err = in.root.SetDefaultPolicyVersion(ctx, &awsiam.SetDefaultPolicyVersionInput{PolicyArn: p.Arn, VersionId: of("v1")})
	check(t, err)
	_, err = in.root.SetDefaultPolicyVersion(ctx, &awsiam.SetDefaultPolicyVersionInput{PolicyArn: p.Arn, VersionId: of("v5")})
	refused(t, err, "NoSuchEntity", "Policy "+*p.Arn+" version v5 does not exist")

	list, err := in.root.ListPolicyVersions(ctx, &awsiam.ListPolicyVersionsInput{PolicyArn: p.Arn})
	check(t, err)
	var ids []string
	for _, v := range list.Versions {
		ids = append(ids, *v.VersionId)
		if v.Document != nil {
			t.Error("ListPolicyVersions shows documents")
		}
	}
	if got := strings.Join(ids, " "); got != "v6 v4 v3 v2 v1" {
		t.Errorf("versions = %s", got)
	}
	one, err := in.root.GetPolicyVersion(ctx, &awsiam.GetPolicyVersionInput{PolicyArn: p.Arn, VersionId: of("v1")})
	check(t, err)
	if document, err := url.PathUnescape(*one.PolicyVersion.Document); err != nil || document != first || !one.PolicyVersion.IsDefaultVersion {
		t.Errorf("v1 = %s (default %v), %v", document, one.PolicyVersion.IsDefaultVersion, err)
	}
	got, err := in.root.GetPolicy(ctx, &awsiam.GetPolicyInput{PolicyArn: p.Arn})
	check(t, err)
	if *got.Policy.Description != "d" || *got.Policy.DefaultVersionId != "v1" {
		t.Errorf("GetPolicy = %+v", got.Policy)
	}
}

func TestAttachmentsAreCountedAndListed(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	own := in.policy(t, "own", statement("Allow", "s3:*", "*"))
	admin := of("arn:aws:iam::aws:policy/AdministratorAccess")
	in.role(t, "app")
	in.user(t, "alice")
	for _, p := range []*string{own, admin} {
		for range 2 { // attaching twice is attaching once
			_, err := in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: of("app"), PolicyArn: p})
			check(t, err)
		}
		_, err := in.root.PutUserPermissionsBoundary(ctx, &awsiam.PutUserPermissionsBoundaryInput{
			UserName: of("alice"), PermissionsBoundary: p,
		})
		check(t, err)
	}
	for _, c := range []struct {
		arn                    *string
		attachments, boundarys int32
	}{{own, 1, 0}, {admin, 1, 1}} {
		got, err := in.root.GetPolicy(ctx, &awsiam.GetPolicyInput{PolicyArn: c.arn})
		check(t, err)
		if *got.Policy.AttachmentCount != c.attachments || *got.Policy.PermissionsBoundaryUsageCount != c.boundarys {
			t.Errorf("%s is attached %d times and a boundary %d times, want %d and %d",
				*c.arn, *got.Policy.AttachmentCount, *got.Policy.PermissionsBoundaryUsageCount, c.attachments, c.boundarys)
		}
	}
	theirs, err := in.other.GetPolicy(ctx, &awsiam.GetPolicyInput{PolicyArn: admin})
	check(t, err)
	if *theirs.Policy.AttachmentCount != 0 {
		t.Error("another account counts this one's attachments")
	}

	entities := func(filter types.EntityType, usage types.PolicyUsageType) string {
		t.Helper()
		out, err := in.root.ListEntitiesForPolicy(ctx, &awsiam.ListEntitiesForPolicyInput{
			PolicyArn: admin, EntityFilter: filter, PolicyUsageFilter: usage,
		})
		check(t, err)
		var names []string
		for _, u := range out.PolicyUsers {
			names = append(names, *u.UserName)
		}
		for _, r := range out.PolicyRoles {
			names = append(names, *r.RoleName)
		}
		return strings.Join(names, " ")
	}
	for _, c := range []struct {
		filter types.EntityType
		usage  types.PolicyUsageType
		want   string
	}{
		{"", "", "alice app"},
		{types.EntityTypeRole, "", "app"},
		{types.EntityTypeUser, "", "alice"},
		{types.EntityTypeGroup, "", ""},
		{"", types.PolicyUsageTypePermissionsBoundary, "alice"},
		{"", types.PolicyUsageTypePermissionsPolicy, "app"},
	} {
		if got := entities(c.filter, c.usage); got != c.want {
			t.Errorf("entities with filters %q and %q = %q, want %q", c.filter, c.usage, got, c.want)
		}
	}

	attached, err := in.root.ListAttachedRolePolicies(ctx, &awsiam.ListAttachedRolePoliciesInput{RoleName: of("app")})
	check(t, err)
	if a := attached.AttachedPolicies; len(a) != 2 || *a[0].PolicyName != "own" || *a[1].PolicyArn != *admin {
		t.Errorf("attached = %+v", a)
	}
	local, err := in.root.ListPolicies(ctx, &awsiam.ListPoliciesInput{Scope: types.PolicyScopeTypeLocal})
	check(t, err)
	if len(local.Policies) != 1 || *local.Policies[0].PolicyName != "own" {
		t.Errorf("local policies = %+v", local.Policies)
	}
	used, err := in.root.ListPolicies(ctx, &awsiam.ListPoliciesInput{OnlyAttached: true})
	check(t, err)
	if len(used.Policies) != 2 {
		t.Errorf("attached policies = %+v", used.Policies)
	}

	_, err = in.root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: own})
	refused(t, err, "DeleteConflict", "Cannot delete a policy attached to entities.")
	_, err = in.root.DetachRolePolicy(ctx, &awsiam.DetachRolePolicyInput{RoleName: of("app"), PolicyArn: own})
	check(t, err)
	_, err = in.root.PutRolePermissionsBoundary(ctx, &awsiam.PutRolePermissionsBoundaryInput{RoleName: of("app"), PermissionsBoundary: own})
	check(t, err)
	_, err = in.root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: own})
	refused(t, err, "DeleteConflict", "Cannot delete a policy attached to entities.")
	_, err = in.root.DeleteRolePermissionsBoundary(ctx, &awsiam.DeleteRolePermissionsBoundaryInput{RoleName: of("app")})
	check(t, err)
	_, err = in.root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: own})
	check(t, err)
	_, err = in.root.GetPolicy(ctx, &awsiam.GetPolicyInput{PolicyArn: own})
	refused(t, err, "NoSuchEntity", "Policy arn:aws:iam::111122223333:policy/own was not found.")
}

func TestDeletingAnEntityFreesItsBoundary(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	limit := in.policy(t, "limit", statement("Allow", "s3:*", "*"))
	_, err := in.root.CreateUser(ctx, &awsiam.CreateUserInput{UserName: of("alice"), PermissionsBoundary: limit})
	check(t, err)
	_, err = in.root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: limit})
	refused(t, err, "DeleteConflict", "Cannot delete a policy attached to entities.")
	_, err = in.root.DeleteUser(ctx, &awsiam.DeleteUserInput{UserName: of("alice")})
	check(t, err)
	_, err = in.root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: limit})
	check(t, err)
}

func TestManagedPoliciesAreRefused(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.policy(t, "p", statement("Allow", "s3:*", "*"))
	in.role(t, "app")
	for i := range 10 {
		_, err := in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{
			RoleName: of("app"), PolicyArn: in.policy(t, fmt.Sprintf("p%d", i), statement("Allow", "s3:*", "*")),
		})
		check(t, err)
	}
	admin := of("arn:aws:iam::aws:policy/AdministratorAccess")
	large := statement("Allow", "s3:"+strings.Repeat("x", 6144), "*")
	refuses(t, []refusal{
		{"a name that is taken, in another path too",
			func() error {
				return failure(in.root.CreatePolicy(ctx, &awsiam.CreatePolicyInput{
					PolicyName: of("P"), Path: of("/x/"), PolicyDocument: of(statement("Allow", "s3:*", "*")),
				}))
			},
			"EntityAlreadyExists", "A policy called P already exists."},
		{"a document over the quota",
			func() error {
				return failure(in.root.CreatePolicy(ctx, &awsiam.CreatePolicyInput{PolicyName: of("l"), PolicyDocument: &large}))
			},
			"LimitExceeded", "Cannot exceed quota for PolicySize: 6144"},
		{"a document that is malformed",
			func() error {
				return failure(in.root.CreatePolicy(ctx, &awsiam.CreatePolicyInput{PolicyName: of("l"), PolicyDocument: of("{}")}))
			},
			"MalformedPolicyDocument", ""},
		{"the eleventh policy of a role",
			func() error {
				return failure(in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: of("app"), PolicyArn: admin}))
			},
			"LimitExceeded", "Cannot exceed quota for PoliciesPerRole: 10"},
		{"deleting AWS's policy",
			func() error { return failure(in.root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: admin})) },
			"AccessDenied", "Policy arn:aws:iam::aws:policy/AdministratorAccess is managed by AWS"},
		{"changing AWS's policy",
			func() error {
				return failure(in.root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{
					PolicyArn: admin, PolicyDocument: of(statement("Allow", "s3:*", "*")), SetAsDefault: true,
				}))
			},
			"AccessDenied", "Policy arn:aws:iam::aws:policy/AdministratorAccess is managed by AWS"},
		{"another account's policy",
			func() error {
				return failure(in.other.GetPolicy(ctx, &awsiam.GetPolicyInput{PolicyArn: of("arn:aws:iam::111122223333:policy/p")}))
			},
			"NoSuchEntity", "Policy arn:aws:iam::111122223333:policy/p was not found."},
		{"a policy by another path",
			func() error {
				return failure(in.root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: of("arn:aws:iam::111122223333:policy/x/p")}))
			},
			"NoSuchEntity", "Policy arn:aws:iam::111122223333:policy/x/p was not found."},
	})
}

func TestAWSPoliciesShipInEveryPartition(t *testing.T) {
	t.Parallel()
	for _, partition := range []string{"aws", "aws-cn", "aws-us-gov"} {
		in, ctx := start(t, partition), t.Context()
		list, err := in.root.ListPolicies(ctx, &awsiam.ListPoliciesInput{Scope: types.PolicyScopeTypeAws})
		check(t, err)
		if len(list.Policies) < 10 {
			t.Errorf("%d policies", len(list.Policies))
		}
		for _, p := range list.Policies {
			if !strings.HasPrefix(*p.Arn, "arn:"+partition+":iam::aws:policy/") {
				t.Errorf("ARN %s", *p.Arn)
			}
			a, err := arn.Parse(*p.Arn)
			check(t, err)
			if _, ok := in.ManagedPolicy(account, a); !ok {
				t.Errorf("%s does not compile", a)
			}
			v, err := in.root.GetPolicyVersion(ctx, &awsiam.GetPolicyVersionInput{PolicyArn: p.Arn, VersionId: of("v1")})
			check(t, err)
			document, err := url.PathUnescape(*v.PolicyVersion.Document)
			check(t, err)
			if _, err := policy.New("", policy.Boundary, []byte(document)); err != nil {
				t.Errorf("%s is no boundary: %v", a, err)
			}
			if partition != "aws" && strings.Contains(document, "arn:aws:") {
				t.Errorf("%s of %s names another partition", a, partition)
			}
		}
	}
}

// Whichever comes first, a policy is never both deleted and attached.
func TestAPolicyIsNeverDeletedWhileItIsAttached(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.role(t, "app")
	for i := range 20 {
		p := in.policy(t, fmt.Sprintf("p%d", i), statement("Allow", "s3:*", "*"))
		var attach, remove error
		var wg sync.WaitGroup
		wg.Go(func() {
			_, attach = in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: of("app"), PolicyArn: p})
		})
		wg.Go(func() { _, remove = in.root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: p}) })
		wg.Wait()
		if (attach == nil) == (remove == nil) {
			t.Fatalf("attach: %v, delete: %v; want one of them refused", attach, remove)
		}
		if attach == nil {
			refused(t, remove, "DeleteConflict", "Cannot delete a policy attached to entities.")
			_, err := in.root.DetachRolePolicy(ctx, &awsiam.DetachRolePolicyInput{RoleName: of("app"), PolicyArn: p})
			check(t, err)
		} else {
			refused(t, attach, "NoSuchEntity", "Policy "+*p+" does not exist or is not attachable.")
		}
	}
}

func TestPoliciesAreTagged(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	p := in.policy(t, "p", statement("Allow", "s3:*", "*"))
	check(t, failure(in.root.TagPolicy(ctx, &awsiam.TagPolicyInput{
		PolicyArn: p, Tags: []types.Tag{{Key: of("a"), Value: of("1")}, {Key: of("b"), Value: of("2")}},
	})))
	check(t, failure(in.root.UntagPolicy(ctx, &awsiam.UntagPolicyInput{PolicyArn: p, TagKeys: []string{"a"}})))
	tags, err := in.root.ListPolicyTags(ctx, &awsiam.ListPolicyTagsInput{PolicyArn: p})
	check(t, err)
	got, err := in.root.GetPolicy(ctx, &awsiam.GetPolicyInput{PolicyArn: p})
	check(t, err)
	if len(tags.Tags) != 1 || *tags.Tags[0].Key != "b" || len(got.Policy.Tags) != 1 {
		t.Errorf("tags = %+v, %+v", tags.Tags, got.Policy.Tags)
	}
	admin := of("arn:aws:iam::aws:policy/AdministratorAccess")
	refused(t, failure(in.root.TagPolicy(ctx, &awsiam.TagPolicyInput{
		PolicyArn: admin, Tags: []types.Tag{{Key: of("a"), Value: of("1")}},
	})), "AccessDenied", "")
}
