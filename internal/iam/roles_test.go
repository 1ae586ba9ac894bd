package iam_test

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/arn"
)

func TestRolesAreShownAsAWSShowsThem(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	document := trusts("Service", "pods.eks.amazonaws.com")
	document = strings.Replace(document, `"Action":"sts:AssumeRole"`, `"Action": [ "sts:AssumeRole", "sts:TagSession" ]`, 1)
	boundary := in.policy(t, "limit", statement("Allow", "s3:*", "*"))

	created, err := in.root.CreateRole(ctx, &awsiam.CreateRoleInput{
		RoleName: of("App"), Path: of("/team/"), AssumeRolePolicyDocument: &document, Description: of("what it is"),
		PermissionsBoundary: boundary, Tags: []types.Tag{{Key: of("b"), Value: of("2")}, {Key: of("a"), Value: of("")}},
	})
	check(t, err)
	r := created.Role
	if *r.Arn != "arn:aws:iam::111122223333:role/team/App" || !strings.HasPrefix(*r.RoleId, "AROA") || len(*r.RoleId) != 21 {
		t.Errorf("created %s (%s)", *r.Arn, *r.RoleId)
	}
	if r.MaxSessionDuration != nil || r.RoleLastUsed != nil {
		t.Error("the echo of CreateRole has MaxSessionDuration or RoleLastUsed")
	}
	if strings.Contains(*r.AssumeRolePolicyDocument, "+") || !strings.Contains(*r.AssumeRolePolicyDocument, "%20") {
		t.Errorf("document is not percent-encoded with %%20: %s", *r.AssumeRolePolicyDocument)
	}
	if got, err := url.PathUnescape(*r.AssumeRolePolicyDocument); err != nil || got != document {
		t.Errorf("document = %s, %v; want %s", got, err, document)
	}

	got, err := in.root.GetRole(ctx, &awsiam.GetRoleInput{RoleName: of("app")})
	check(t, err)
	if got.Role.MaxSessionDuration == nil || *got.Role.MaxSessionDuration != 3600 || got.Role.RoleLastUsed == nil {
		t.Errorf("GetRole shows MaxSessionDuration %v and RoleLastUsed %v", got.Role.MaxSessionDuration, got.Role.RoleLastUsed)
	}
	if *got.Role.PermissionsBoundary.PermissionsBoundaryArn != *boundary || *got.Role.Description != "what it is" {
		t.Errorf("GetRole shows boundary %v, description %s", got.Role.PermissionsBoundary, *got.Role.Description)
	}
	if len(got.Role.Tags) != 2 || *got.Role.Tags[0].Key != "a" {
		t.Errorf("tags = %v", got.Role.Tags)
	}

	list, err := in.root.ListRoles(ctx, &awsiam.ListRolesInput{PathPrefix: of("/team")})
	check(t, err)
	if len(list.Roles) != 1 {
		t.Fatalf("ListRoles = %+v", list.Roles)
	}
	if r := list.Roles[0]; r.Tags != nil || r.PermissionsBoundary != nil || *r.MaxSessionDuration != 3600 {
		t.Errorf("ListRoles = %+v", list.Roles)
	}
	list, err = in.root.ListRoles(ctx, &awsiam.ListRolesInput{PathPrefix: of("/other")})
	check(t, err)
	if len(list.Roles) != 0 {
		t.Errorf("ListRoles of another path = %+v", list.Roles)
	}
}

func TestRolesAreChanged(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.role(t, "app")
	_, err := in.root.UpdateRole(ctx, &awsiam.UpdateRoleInput{
		RoleName: of("app"), MaxSessionDuration: of(int32(7200)), Description: of("new"),
	})
	check(t, err)
	_, err = in.root.UpdateRole(ctx, &awsiam.UpdateRoleInput{RoleName: of("app")})
	check(t, err)
	out, err := in.root.UpdateRoleDescription(ctx, &awsiam.UpdateRoleDescriptionInput{RoleName: of("app"), Description: of("newer")})
	check(t, err)
	if *out.Role.MaxSessionDuration != 7200 || *out.Role.Description != "newer" {
		t.Errorf("role = %+v", out.Role)
	}
	_, err = in.root.TagRole(ctx, &awsiam.TagRoleInput{
		RoleName: of("app"), Tags: []types.Tag{{Key: of("Team"), Value: of("a")}, {Key: of("x"), Value: of("y")}},
	})
	check(t, err)
	_, err = in.root.TagRole(ctx, &awsiam.TagRoleInput{RoleName: of("app"), Tags: []types.Tag{{Key: of("team"), Value: of("b")}}})
	check(t, err)
	_, err = in.root.UntagRole(ctx, &awsiam.UntagRoleInput{RoleName: of("app"), TagKeys: []string{"X", "missing"}})
	check(t, err)
	tags, err := in.root.ListRoleTags(ctx, &awsiam.ListRoleTagsInput{RoleName: of("app")})
	check(t, err)
	if len(tags.Tags) != 1 || *tags.Tags[0].Key != "team" || *tags.Tags[0].Value != "b" {
		t.Errorf("tags = %+v", tags.Tags)
	}
	document := statement("Allow", "s3:GetObject", "arn:aws:s3:::bucket/a b")
	for _, name := range []string{"two", "one"} {
		_, err = in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{RoleName: of("app"), PolicyName: &name, PolicyDocument: &document})
		check(t, err)
	}
	names, err := in.root.ListRolePolicies(ctx, &awsiam.ListRolePoliciesInput{RoleName: of("app")})
	check(t, err)
	if diff := cmp.Diff([]string{"one", "two"}, names.PolicyNames); diff != "" {
		t.Error(diff)
	}
	inline, err := in.root.GetRolePolicy(ctx, &awsiam.GetRolePolicyInput{RoleName: of("app"), PolicyName: of("one")})
	check(t, err)
	if got, err := url.PathUnescape(*inline.PolicyDocument); err != nil || got != document || strings.Contains(*inline.PolicyDocument, "+") {
		t.Errorf("inline policy = %s, %v", *inline.PolicyDocument, err)
	}
}

func TestARecreatedRoleIsAnotherRole(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.role(t, "app")
	session := in.roleSession(t, "app")
	before := session.EntityID
	if !in.Exists(&session) {
		t.Error("the session of a role does not exist")
	}
	_, err := in.root.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: of("app")})
	check(t, err)
	in.role(t, "app")
	after := in.roleSession(t, "app")
	if before == after.EntityID {
		t.Error("the role has the same ID again")
	}
	if in.Exists(&session) {
		t.Error("a session of the deleted role exists")
	}
	if _, ok := in.RoleByID(before); ok {
		t.Error("the deleted role is found by its ID")
	}
	if r, ok := in.RoleByID(after.EntityID); !ok || in.RoleARN(r).String() != after.EntityARN {
		t.Errorf("the new role is not found by its ID: %+v", r)
	}
}

func TestARoleIsFoundByItsWholeARN(t *testing.T) {
	t.Parallel()
	in := start(t, "aws")
	_, err := in.root.CreateRole(t.Context(), &awsiam.CreateRoleInput{
		RoleName: of("App"), Path: of("/a/b/"), AssumeRolePolicyDocument: of(trusts("AWS", "*")),
	})
	check(t, err)
	for text, want := range map[string]bool{
		"arn:aws:iam::111122223333:role/a/b/App":    true,
		"arn:aws:iam::111122223333:role/App":        false,
		"arn:aws:iam::111122223333:role/a/App":      false,
		"arn:aws:iam::111122223333:role/a/b/app":    false,
		"arn:aws:iam::111122223333:user/a/b/App":    false,
		"arn:aws:iam::444455556666:role/a/b/App":    false,
		"arn:aws-cn:iam::111122223333:role/a/b/App": false,
		"arn:aws:sts::111122223333:role/a/b/App":    false,
	} {
		a, err := arn.Parse(text)
		check(t, err)
		if r, ok := in.Role(a); ok != want || ok && (r.Name != "App" || r.Trust == nil) {
			t.Errorf("Role(%s) = %+v, %v; want %v", text, r, ok, want)
		}
	}
}

func TestTrustPoliciesNamePrincipalsThatExist(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.role(t, "peer")
	in.user(t, "alice")
	_, err := in.other.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: of("far"), AssumeRolePolicyDocument: of(trusts("AWS", other))})
	check(t, err)
	create := func(document string) error {
		return failure(in.root.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: of("made"), AssumeRolePolicyDocument: &document}))
	}
	for name, document := range map[string]string{
		"a role":                         trusts("AWS", "arn:aws:iam::111122223333:role/peer"),
		"a user":                         trusts("AWS", "arn:aws:iam::111122223333:user/alice"),
		"a role of another account":      trusts("AWS", "arn:aws:iam::444455556666:role/far"),
		"an account ID":                  trusts("AWS", account),
		"another account's root":         trusts("AWS", "arn:aws:iam::444455556666:root"),
		"everyone":                       trusts("AWS", "*"),
		"a role session":                 trusts("AWS", "arn:aws:sts::111122223333:assumed-role/peer/session"),
		"a federated user":               trusts("AWS", "arn:aws:sts::111122223333:federated-user/bob"),
		"a service":                      trusts("Service", "pods.eks.amazonaws.com"),
		"a provider that does not exist": trusts("Federated", "arn:aws:iam::111122223333:oidc-provider/example.com"),
	} {
		t.Run(name, func(t *testing.T) {
			check(t, create(document))
			got, err := in.root.GetRole(ctx, &awsiam.GetRoleInput{RoleName: of("made")})
			check(t, err)
			if read, err := url.PathUnescape(*got.Role.AssumeRolePolicyDocument); err != nil || read != document {
				t.Errorf("read back %s, %v; want %s", read, err, document)
			}
			_, err = in.root.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: of("made")})
			check(t, err)
		})
	}
	for name, principal := range map[string]string{
		"a role that does not exist":      "arn:aws:iam::111122223333:role/no",
		"a user that does not exist":      "arn:aws:iam::111122223333:user/no",
		"a role by another path":          "arn:aws:iam::111122223333:role/x/peer",
		"a role of an unknown account":    "arn:aws:iam::999999999999:role/peer",
		"a role of another partition":     "arn:aws-cn:iam::111122223333:role/peer",
		"an account of another partition": "arn:aws-cn:iam::111122223333:root",
		"itself, before it is made":       "arn:aws:iam::111122223333:role/made",
		"a unique ID that nobody has":     "AROAABCDEFGHIJKLMNOPQ",
		"a wildcard in a role's name":     "arn:aws:iam::111122223333:role/*",
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, create(trusts("AWS", principal)), "MalformedPolicyDocument", `Invalid principal in policy: "AWS":"`+principal+`"`)
		})
	}
	refused(t, create("{"), "MalformedPolicyDocument", "This policy contains invalid Json")
	refused(t, create(trusts("AWS", strings.Repeat("x", 2048))), "LimitExceeded", "Cannot exceed quota for ACLSizePerRole: 2048")
}

func TestWhiteSpaceDoesNotCountAgainstTheTrustQuota(t *testing.T) {
	t.Parallel()
	in := start(t, "aws")
	document := strings.Replace(trusts("AWS", "*"), ",", ","+strings.Repeat(" \n\t", 2000), 1)
	_, err := in.root.CreateRole(t.Context(), &awsiam.CreateRoleInput{RoleName: of("app"), AssumeRolePolicyDocument: &document})
	check(t, err)
}

func TestTrustPoliciesFollowTheEntityNotItsName(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.user(t, "alice")
	created, err := in.root.GetUser(ctx, &awsiam.GetUserInput{UserName: of("alice")})
	check(t, err)
	_, err = in.root.CreateRole(ctx, &awsiam.CreateRoleInput{
		RoleName: of("app"), AssumeRolePolicyDocument: of(trusts("AWS", *created.User.Arn)),
	})
	check(t, err)
	shows := func(principal string) {
		t.Helper()
		got, err := in.root.GetRole(ctx, &awsiam.GetRoleInput{RoleName: of("app")})
		check(t, err)
		document, err := url.PathUnescape(*got.Role.AssumeRolePolicyDocument)
		check(t, err)
		if document != trusts("AWS", principal) {
			t.Errorf("trust policy is %s, want one for %s", document, principal)
		}
	}
	_, err = in.root.UpdateUser(ctx, &awsiam.UpdateUserInput{UserName: of("alice"), NewUserName: of("bob"), NewPath: of("/x/")})
	check(t, err)
	shows("arn:aws:iam::111122223333:user/x/bob")

	keys, err := in.root.ListAccessKeys(ctx, &awsiam.ListAccessKeysInput{UserName: of("bob")})
	check(t, err)
	_, err = in.root.DeleteAccessKey(ctx, &awsiam.DeleteAccessKeyInput{
		UserName: of("bob"), AccessKeyId: keys.AccessKeyMetadata[0].AccessKeyId,
	})
	check(t, err)
	_, err = in.root.DeleteUser(ctx, &awsiam.DeleteUserInput{UserName: of("bob")})
	check(t, err)
	shows(*created.User.UserId)
	_, err = in.root.CreateUser(ctx, &awsiam.CreateUserInput{UserName: of("bob"), Path: of("/x/")})
	check(t, err)
	shows(*created.User.UserId)
	_, err = in.root.UpdateAssumeRolePolicy(ctx, &awsiam.UpdateAssumeRolePolicyInput{
		RoleName: of("app"), PolicyDocument: of(trusts("AWS", *created.User.UserId)),
	})
	refused(t, err, "MalformedPolicyDocument", "Invalid principal in policy")
}

func TestRolesAreRefused(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.role(t, "app")
	policyARN := in.policy(t, "p", statement("Allow", "s3:*", "*"))
	big := statement("Allow", "s3:"+strings.Repeat("x", 5200), "*")
	_, err := in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{RoleName: of("app"), PolicyName: of("big"), PolicyDocument: &big})
	check(t, err)
	tags := make([]types.Tag, 50)
	for i := range tags {
		tags[i] = types.Tag{Key: of(fmt.Sprintf("k%d", i)), Value: of("")}
	}
	_, err = in.root.TagRole(ctx, &awsiam.TagRoleInput{RoleName: of("app"), Tags: tags})
	check(t, err)
	trust := trusts("AWS", account)
	refuses(t, []refusal{
		{"a name that is taken, whatever its case",
			func() error {
				return failure(in.root.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: of("APP"), AssumeRolePolicyDocument: &trust}))
			},
			"EntityAlreadyExists", "Role with name APP already exists."},
		{"a path of service-linked roles",
			func() error {
				return failure(in.root.CreateRole(ctx, &awsiam.CreateRoleInput{
					RoleName: of("slr"), Path: of("/aws-service-role/x/"), AssumeRolePolicyDocument: &trust,
				}))
			},
			"InvalidInput", "The path /aws-service-role/"},
		{"a boundary that does not exist",
			func() error {
				return failure(in.root.CreateRole(ctx, &awsiam.CreateRoleInput{
					RoleName: of("b"), AssumeRolePolicyDocument: &trust, PermissionsBoundary: of("arn:aws:iam::111122223333:policy/no"),
				}))
			},
			"NoSuchEntity", "Scope ARN: arn:aws:iam::111122223333:policy/no does not exist or is not attachable."},
		{"tags whose keys differ only by case",
			func() error {
				return failure(in.root.CreateRole(ctx, &awsiam.CreateRoleInput{
					RoleName:                 of("b"),
					AssumeRolePolicyDocument: &trust,
					Tags:                     []types.Tag{{Key: of("a"), Value: of("")}, {Key: of("A"), Value: of("")}},
				}))
			},
			"InvalidInput", "Duplicate tag keys found. Please note that Tag keys are case insensitive."},
		{"a tag of AWS's own",
			func() error {
				return failure(in.root.TagRole(ctx, &awsiam.TagRoleInput{RoleName: of("app"), Tags: []types.Tag{{Key: of("AWS:x"), Value: of("")}}}))
			},
			"InvalidInput", "Tag keys that begin with aws:"},
		{"the 51st tag",
			func() error {
				return failure(in.root.TagRole(ctx, &awsiam.TagRoleInput{RoleName: of("app"), Tags: []types.Tag{{Key: of("more"), Value: of("")}}}))
			},
			"LimitExceeded", "Cannot exceed quota for TagsPerRole: 50"},
		{"a role that is missing",
			func() error { return failure(in.root.GetRole(ctx, &awsiam.GetRoleInput{RoleName: of("no")})) },
			"NoSuchEntity", "The role with name no cannot be found."},
		{"an inline policy that is missing",
			func() error {
				return failure(in.root.GetRolePolicy(ctx, &awsiam.GetRolePolicyInput{RoleName: of("app"), PolicyName: of("no")}))
			},
			"NoSuchEntity", "The role policy with name no cannot be found."},
		{"deleting an inline policy that is missing",
			func() error {
				return failure(in.root.DeleteRolePolicy(ctx, &awsiam.DeleteRolePolicyInput{RoleName: of("app"), PolicyName: of("no")}))
			},
			"NoSuchEntity", "The role policy with name no cannot be found."},
		{"an inline policy that is malformed",
			func() error {
				return failure(in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{
					RoleName: of("app"), PolicyName: of("x"), PolicyDocument: of(trust),
				}))
			},
			"MalformedPolicyDocument", "Policy document should not specify a principal."},
		{"inline policies that are together too large",
			func() error {
				return failure(in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{
					RoleName: of("app"), PolicyName: of("big2"), PolicyDocument: &big,
				}))
			},
			"LimitExceeded", "Maximum policy size of 10240 bytes exceeded for role app"},
		{"inline policies with white space without end",
			func() error {
				for _, name := range []string{"s1", "s2", "s3"} {
					document := statement("Allow", "s3:*", "*") + strings.Repeat(" ", 100_000)
					if _, err := in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{
						RoleName: of("app"), PolicyName: &name, PolicyDocument: &document,
					}); err != nil {
						return err
					}
				}
				return nil
			},
			"LimitExceeded", "Maximum policy size of 10240 bytes exceeded for role app"},
		{"attaching what is no ARN",
			func() error {
				return failure(in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{
					RoleName: of("app"), PolicyArn: of("this is not an ARN at all"),
				}))
			},
			"ValidationError", "Invalid ARN:  Could not be parsed!"},
		{"attaching what does not exist",
			func() error {
				return failure(in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{
					RoleName: of("app"), PolicyArn: of("arn:aws:iam::aws:policy/NoSuchPolicy"),
				}))
			},
			"NoSuchEntity", "Policy arn:aws:iam::aws:policy/NoSuchPolicy does not exist or is not attachable."},
		{"attaching another account's policy",
			func() error {
				out, err := in.other.CreatePolicy(ctx, &awsiam.CreatePolicyInput{
					PolicyName: of("theirs"), PolicyDocument: of(statement("Allow", "*", "*")),
				})
				if err != nil {
					return err
				}
				return failure(in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: of("app"), PolicyArn: out.Policy.Arn}))
			},
			"NoSuchEntity", "Policy arn:aws:iam::444455556666:policy/theirs does not exist or is not attachable."},
		{"detaching what is not attached",
			func() error {
				return failure(in.root.DetachRolePolicy(ctx, &awsiam.DetachRolePolicyInput{RoleName: of("app"), PolicyArn: policyARN}))
			},
			"NoSuchEntity", "Policy arn:aws:iam::111122223333:policy/p was not found."},
		{"a session of an hour less one second",
			func() error {
				return failure(in.root.UpdateRole(ctx, &awsiam.UpdateRoleInput{RoleName: of("app"), MaxSessionDuration: of(int32(3599))}))
			},
			"ValidationError", ""},
	})
}

func TestARoleInUseIsNotDeleted(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.role(t, "app")
	policyARN := in.policy(t, "p", statement("Allow", "s3:*", "*"))
	remove := func() error {
		return failure(in.root.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: of("app")}))
	}
	_, err := in.root.CreateInstanceProfile(ctx, &awsiam.CreateInstanceProfileInput{InstanceProfileName: of("node")})
	check(t, err)
	for _, c := range []struct {
		use, stop func() error
		message   string
	}{
		{
			func() error {
				return failure(in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: of("app"), PolicyArn: policyARN}))
			},
			func() error {
				return failure(in.root.DetachRolePolicy(ctx, &awsiam.DetachRolePolicyInput{RoleName: of("app"), PolicyArn: policyARN}))
			},
			"Cannot delete entity, must detach all policies first.",
		},
		{
			func() error {
				return failure(in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{
					RoleName: of("app"), PolicyName: of("i"), PolicyDocument: of(statement("Allow", "s3:*", "*")),
				}))
			},
			func() error {
				return failure(in.root.DeleteRolePolicy(ctx, &awsiam.DeleteRolePolicyInput{RoleName: of("app"), PolicyName: of("i")}))
			},
			"Cannot delete entity, must delete policies first.",
		},
		{
			func() error {
				return failure(in.root.AddRoleToInstanceProfile(ctx, &awsiam.AddRoleToInstanceProfileInput{
					RoleName: of("app"), InstanceProfileName: of("node"),
				}))
			},
			func() error {
				return failure(in.root.RemoveRoleFromInstanceProfile(ctx, &awsiam.RemoveRoleFromInstanceProfileInput{
					RoleName: of("app"), InstanceProfileName: of("node"),
				}))
			},
			"Cannot delete entity, must remove roles from instance profile first.",
		},
	} {
		check(t, c.use())
		refused(t, remove(), "DeleteConflict", c.message)
		check(t, c.stop())
	}
	check(t, remove())
	refused(t, remove(), "NoSuchEntity", "The role with name app cannot be found.")
}

func TestOneOfManyConcurrentCreationsWins(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	const n = 50
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			_, errs[i] = in.root.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: of("app"), AssumeRolePolicyDocument: of(trusts("AWS", "*"))})
		})
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else {
			refused(t, err, "EntityAlreadyExists", "Role with name app already exists.")
		}
	}
	if made != 1 {
		t.Errorf("%d creations succeeded, want 1", made)
	}
}
