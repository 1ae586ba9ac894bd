package iam_test

import (
	"strings"
	"sync"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

func TestUsersAreShownAsAWSShowsThem(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	created, err := in.root.CreateUser(ctx, &awsiam.CreateUserInput{
		UserName: of("Alice"), Path: of("/eng/"), Tags: []types.Tag{{Key: of("team"), Value: of("a")}},
	})
	check(t, err)
	u := created.User
	if *u.Arn != "arn:aws:iam::111122223333:user/eng/Alice" || len(u.Tags) != 1 ||
		!strings.HasPrefix(*u.UserId, "AIDA") || len(*u.UserId) != 21 {
		t.Errorf("created %+v", u)
	}
	got, err := in.root.GetUser(ctx, &awsiam.GetUserInput{UserName: of("alice")})
	check(t, err)
	if *got.User.UserId != *u.UserId || len(got.User.Tags) != 1 || got.User.CreateDate == nil {
		t.Errorf("GetUser = %+v", got.User)
	}
	list, err := in.root.ListUsers(ctx, &awsiam.ListUsersInput{PathPrefix: of("/eng/")})
	check(t, err)
	if len(list.Users) != 1 || list.Users[0].Tags != nil {
		t.Errorf("ListUsers = %+v", list.Users)
	}
	document := statement("Allow", "iam:*", "*")
	_, err = in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: of("alice"), PolicyName: of("p"), PolicyDocument: &document})
	check(t, err)
	inline, err := in.root.GetUserPolicy(ctx, &awsiam.GetUserPolicyInput{UserName: of("alice"), PolicyName: of("p")})
	check(t, err)
	if *inline.UserName != "Alice" || strings.ContainsAny(*inline.PolicyDocument, `{"`) {
		t.Errorf("GetUserPolicy = %+v", inline)
	}
}

// What Terraform asks for before it deletes a user with force_destroy, and the User Guide's steps for it. A user has none of it.
func TestWhatNoUserHas(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	alice, _ := in.user(t, "alice")
	lists := map[string]func(c *awsiam.Client, user *string) (int, error){
		"MFA devices": func(c *awsiam.Client, user *string) (int, error) {
			out, err := c.ListMFADevices(ctx, &awsiam.ListMFADevicesInput{UserName: user})
			if err != nil {
				return 0, err
			}
			return len(out.MFADevices), nil
		},
		"SSH keys": func(c *awsiam.Client, user *string) (int, error) {
			out, err := c.ListSSHPublicKeys(ctx, &awsiam.ListSSHPublicKeysInput{UserName: user})
			if err != nil {
				return 0, err
			}
			return len(out.SSHPublicKeys), nil
		},
		"signing certificates": func(c *awsiam.Client, user *string) (int, error) {
			out, err := c.ListSigningCertificates(ctx, &awsiam.ListSigningCertificatesInput{UserName: user})
			if err != nil {
				return 0, err
			}
			return len(out.Certificates), nil
		},
		"service-specific credentials": func(c *awsiam.Client, user *string) (int, error) {
			out, err := c.ListServiceSpecificCredentials(ctx, &awsiam.ListServiceSpecificCredentialsInput{UserName: user, ServiceName: of("codecommit.amazonaws.com")})
			if err != nil {
				return 0, err
			}
			return len(out.ServiceSpecificCredentials), nil
		},
	}
	for what, list := range lists {
		if n, err := list(in.root, of("alice")); n != 0 || err != nil {
			t.Errorf("%s: %d, %v", what, n, err)
		}
		if n, err := list(in.root, nil); n != 0 || err != nil {
			t.Errorf("%s of root: %d, %v", what, n, err)
		}
		_, err := list(in.root, of("nobody"))
		refused(t, err, "NoSuchEntity", "The user with name nobody cannot be found.")
		_, err = list(alice, of("alice"))
		refused(t, err, "AccessDenied", "")
	}
	virtual, err := in.root.ListVirtualMFADevices(ctx, &awsiam.ListVirtualMFADevicesInput{AssignmentStatus: types.AssignmentStatusTypeAny})
	check(t, err)
	if len(virtual.VirtualMFADevices) != 0 {
		t.Errorf("virtual devices %+v", virtual.VirtualMFADevices)
	}
	_, err = in.root.ListMFADevices(ctx, &awsiam.ListMFADevicesInput{UserName: of("alice"), Marker: of("elsewhere")})
	refused(t, err, "ValidationError", "Invalid Marker")

	_, err = in.root.GetLoginProfile(ctx, &awsiam.GetLoginProfileInput{UserName: of("alice")})
	refused(t, err, "NoSuchEntity", "Login Profile for User alice cannot be found.")
	_, err = in.root.DeleteLoginProfile(ctx, &awsiam.DeleteLoginProfileInput{UserName: of("alice")})
	refused(t, err, "NoSuchEntity", "Login Profile for User alice cannot be found.")
	_, err = in.root.GetLoginProfile(ctx, &awsiam.GetLoginProfileInput{UserName: of("nobody")})
	refused(t, err, "NoSuchEntity", "The user with name nobody cannot be found.")
}

func TestWithoutANameTheCallerIsMeant(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	alice, key := in.user(t, "alice")
	_, err := in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: of("alice"), PolicyName: of("self"),
		PolicyDocument: of(statement("Allow", "iam:*", "arn:aws:iam::111122223333:user/${aws:username}"))})
	check(t, err)

	got, err := alice.GetUser(ctx, &awsiam.GetUserInput{})
	check(t, err)
	if *got.User.UserName != "alice" {
		t.Errorf("GetUser = %+v", got.User)
	}
	keys, err := alice.ListAccessKeys(ctx, &awsiam.ListAccessKeysInput{})
	check(t, err)
	if k := keys.AccessKeyMetadata; len(k) != 1 || *k[0].AccessKeyId != key.AccessKeyID || k[0].Status != types.StatusTypeActive {
		t.Errorf("ListAccessKeys = %+v", k)
	}
	root, err := in.root.GetUser(ctx, &awsiam.GetUserInput{})
	check(t, err)
	if *root.User.Arn != "arn:aws:iam::111122223333:root" || *root.User.UserId != account {
		t.Errorf("GetUser of root = %+v", root.User)
	}
	rootKeys, err := in.root.ListAccessKeys(ctx, &awsiam.ListAccessKeysInput{})
	check(t, err)
	if len(rootKeys.AccessKeyMetadata) != 1 || *rootKeys.AccessKeyMetadata[0].AccessKeyId != in.rootKey.AccessKeyID {
		t.Errorf("ListAccessKeys of root = %+v", rootKeys.AccessKeyMetadata)
	}
	in.role(t, "app")
	session := in.session(in.roleSession(t, "app"))
	_, err = session.GetUser(ctx, &awsiam.GetUserInput{})
	refused(t, err, "ValidationError", "Must specify userName when calling with non-User credentials")
}

func TestAccessKeysWorkWhileTheyAreActive(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	alice, key := in.user(t, "alice")
	_, err := in.root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{
		UserName: of("alice"), PolicyArn: of("arn:aws:iam::aws:policy/AdministratorAccess"),
	})
	check(t, err)
	works := func() error { return failure(alice.GetUser(ctx, &awsiam.GetUserInput{})) }
	update := func(status types.StatusType) {
		t.Helper()
		_, err := in.root.UpdateAccessKey(ctx, &awsiam.UpdateAccessKeyInput{
			UserName: of("alice"), AccessKeyId: &key.AccessKeyID, Status: status,
		})
		check(t, err)
	}
	if len(key.SecretAccessKey) != 40 || len(key.AccessKeyID) != 20 {
		t.Errorf("key ID of %d characters, secret of %d", len(key.AccessKeyID), len(key.SecretAccessKey))
	}
	unused, err := in.root.GetAccessKeyLastUsed(ctx, &awsiam.GetAccessKeyLastUsedInput{AccessKeyId: &key.AccessKeyID})
	check(t, err)
	if *unused.UserName != "alice" || *unused.AccessKeyLastUsed.ServiceName != "N/A" || unused.AccessKeyLastUsed.LastUsedDate != nil {
		t.Errorf("last use before any = %+v", unused.AccessKeyLastUsed)
	}
	check(t, works())
	used, err := in.root.GetAccessKeyLastUsed(ctx, &awsiam.GetAccessKeyLastUsedInput{AccessKeyId: &key.AccessKeyID})
	check(t, err)
	if u := used.AccessKeyLastUsed; *u.ServiceName != "iam" || *u.Region != "us-east-1" || u.LastUsedDate == nil {
		t.Errorf("last use = %+v", u)
	}
	update(types.StatusTypeInactive)
	refused(t, works(), "InvalidClientTokenId", "The security token included in the request is invalid.")
	update(types.StatusTypeActive)
	check(t, works())
	_, err = in.root.UpdateUser(ctx, &awsiam.UpdateUserInput{UserName: of("alice"), NewUserName: of("bob")})
	check(t, err)
	check(t, works())
	_, err = in.root.DeleteAccessKey(ctx, &awsiam.DeleteAccessKeyInput{UserName: of("bob"), AccessKeyId: &key.AccessKeyID})
	check(t, err)
	refused(t, works(), "InvalidClientTokenId", "")
	if _, ok := in.Credential(key.AccessKeyID); ok {
		t.Error("a deleted key resolves")
	}
}

func TestAnAccessKeyResolvesToItsOwner(t *testing.T) {
	t.Parallel()
	in := start(t, "aws-cn")
	_, key := in.user(t, "alice")
	user, err := in.root.GetUser(t.Context(), &awsiam.GetUserInput{UserName: of("alice")})
	check(t, err)
	got, ok := in.Credential(key.AccessKeyID)
	want := awsapi.Credential{Secret: key.SecretAccessKey, Identity: awsapi.Identity{
		Kind: policy.User, Account: account, ARN: "arn:aws-cn:iam::111122223333:user/alice", EntityARN: "arn:aws-cn:iam::111122223333:user/alice",
		UserID: *user.User.UserId, EntityID: *user.User.UserId, AccessKeyID: key.AccessKeyID,
	}}
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Errorf("user's key: %v %s", ok, diff)
	}
	got, ok = in.Credential(in.rootKey.AccessKeyID)
	want = awsapi.Credential{Secret: in.rootKey.SecretAccessKey, Identity: awsapi.Identity{
		Kind: policy.Root, Account: account, ARN: "arn:aws-cn:iam::111122223333:root", EntityARN: "arn:aws-cn:iam::111122223333:root",
		UserID: account, AccessKeyID: in.rootKey.AccessKeyID,
	}}
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Errorf("root's key: %v %s", ok, diff)
	}
	if _, ok := in.Credential("AKIAAAAAAAAAAAAAAAAA"); ok {
		t.Error("an unknown key resolves")
	}
}

func TestUsersAreRefused(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	alice, key := in.user(t, "alice")
	in.user(t, "bob")
	_, err := in.root.CreateAccessKey(ctx, &awsiam.CreateAccessKeyInput{UserName: of("alice")})
	check(t, err)
	refuses(t, []refusal{
		{"a name that is taken",
			func() error {
				return failure(in.root.CreateUser(ctx, &awsiam.CreateUserInput{UserName: of("ALICE")}))
			},
			"EntityAlreadyExists", "User with name ALICE already exists."},
		{"a new name that is taken",
			func() error {
				return failure(in.root.UpdateUser(ctx, &awsiam.UpdateUserInput{UserName: of("bob"), NewUserName: of("Alice")}))
			},
			"EntityAlreadyExists", "User with name Alice already exists."},
		{"a user that is missing",
			func() error { return failure(in.root.GetUser(ctx, &awsiam.GetUserInput{UserName: of("no")})) },
			"NoSuchEntity", "The user with name no cannot be found."},
		{"the third access key",
			func() error {
				return failure(in.root.CreateAccessKey(ctx, &awsiam.CreateAccessKeyInput{UserName: of("alice")}))
			},
			"LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: 2"},
		{"deleting a user with access keys",
			func() error {
				return failure(in.root.DeleteUser(ctx, &awsiam.DeleteUserInput{UserName: of("alice")}))
			},
			"DeleteConflict", "Cannot delete entity, must remove referenced objects first."},
		{"deleting another user's key",
			func() error {
				return failure(in.root.DeleteAccessKey(ctx, &awsiam.DeleteAccessKeyInput{UserName: of("bob"), AccessKeyId: &key.AccessKeyID}))
			},
			"NoSuchEntity", "The Access Key with id " + key.AccessKeyID + " cannot be found."},
		{"changing another user's key",
			func() error {
				return failure(in.root.UpdateAccessKey(ctx, &awsiam.UpdateAccessKeyInput{
					UserName: of("bob"), AccessKeyId: &key.AccessKeyID, Status: types.StatusTypeInactive,
				}))
			},
			"NoSuchEntity", "The Access Key with id " + key.AccessKeyID + " cannot be found."},
		{"a key that has expired by decree",
			func() error {
				return failure(in.root.UpdateAccessKey(ctx, &awsiam.UpdateAccessKeyInput{
					UserName: of("alice"), AccessKeyId: &key.AccessKeyID, Status: types.StatusTypeExpired,
				}))
			},
			"InvalidInput", "The status of an access key must be"},
		{"the last use of another account's key",
			func() error {
				return failure(in.other.GetAccessKeyLastUsed(ctx, &awsiam.GetAccessKeyLastUsedInput{AccessKeyId: &key.AccessKeyID}))
			},
			"NoSuchEntity", "The Access Key with id " + key.AccessKeyID + " cannot be found."},
		{"an inline policy over the quota",
			func() error {
				return failure(in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{
					UserName:       of("alice"),
					PolicyName:     of("p"),
					PolicyDocument: of(statement("Allow", "s3:"+strings.Repeat("x", 2048), "*")),
				}))
			},
			"LimitExceeded", "Maximum policy size of 2048 bytes exceeded for user alice"},
		{"a caller without permission, for a user that exists",
			func() error { return failure(alice.GetUser(ctx, &awsiam.GetUserInput{UserName: of("bob")})) },
			"AccessDenied", "User: arn:aws:iam::111122223333:user/alice is not authorized to perform: iam:GetUser on resource: " +
				"arn:aws:iam::111122223333:user/bob because no identity-based policy allows the iam:GetUser action"},
		{"a caller without permission, for a user that does not",
			func() error { return failure(alice.GetUser(ctx, &awsiam.GetUserInput{UserName: of("no")})) },
			"AccessDenied", "User: arn:aws:iam::111122223333:user/alice is not authorized to perform: iam:GetUser on resource: " +
				"arn:aws:iam::111122223333:user/no because no identity-based policy allows the iam:GetUser action"},
	})
}

func TestRenamingNeedsPermissionOnBothNames(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.user(t, "x1")
	in.user(t, "y1")
	admin, _ := in.user(t, "admin")
	_, err := in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: of("admin"), PolicyName: of("p"),
		PolicyDocument: of(statement("Allow", "iam:UpdateUser", "arn:aws:iam::111122223333:user/x*"))})
	check(t, err)
	_, err = admin.UpdateUser(ctx, &awsiam.UpdateUserInput{UserName: of("x1"), NewUserName: of("x2")})
	check(t, err)
	_, err = admin.UpdateUser(ctx, &awsiam.UpdateUserInput{UserName: of("x2"), NewUserName: of("z")})
	refused(t, err, "AccessDenied", "")
	_, err = admin.UpdateUser(ctx, &awsiam.UpdateUserInput{UserName: of("y1"), NewUserName: of("x3")})
	refused(t, err, "AccessDenied", "")
}

func TestConcurrentKeysKeepToTheQuota(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	_, err := in.root.CreateUser(ctx, &awsiam.CreateUserInput{UserName: of("alice")})
	check(t, err)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := in.root.CreateAccessKey(ctx, &awsiam.CreateAccessKeyInput{UserName: of("alice")}); err != nil {
				refused(t, err, "LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: 2")
			}
		})
	}
	wg.Wait()
	keys, err := in.root.ListAccessKeys(ctx, &awsiam.ListAccessKeysInput{UserName: of("alice")})
	check(t, err)
	if len(keys.AccessKeyMetadata) != 2 {
		t.Errorf("alice has %d keys, want 2", len(keys.AccessKeyMetadata))
	}
}

func TestUsersAreChanged(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	name := of("alice")
	_, err := in.root.CreateUser(ctx, &awsiam.CreateUserInput{UserName: name})
	check(t, err)
	_, err = in.root.TagUser(ctx, &awsiam.TagUserInput{
		UserName: name, Tags: []types.Tag{{Key: of("a"), Value: of("1")}, {Key: of("b"), Value: of("2")}},
	})
	check(t, err)
	_, err = in.root.UntagUser(ctx, &awsiam.UntagUserInput{UserName: name, TagKeys: []string{"A"}})
	check(t, err)
	tags, err := in.root.ListUserTags(ctx, &awsiam.ListUserTagsInput{UserName: name})
	check(t, err)
	if len(tags.Tags) != 1 || *tags.Tags[0].Key != "b" {
		t.Errorf("tags = %+v", tags.Tags)
	}

	_, err = in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{
		UserName: name, PolicyName: of("p"), PolicyDocument: of(statement("Allow", "s3:*", "*")),
	})
	check(t, err)
	limit := in.policy(t, "limit", statement("Allow", "s3:*", "*"))
	_, err = in.root.PutUserPermissionsBoundary(ctx, &awsiam.PutUserPermissionsBoundaryInput{UserName: name, PermissionsBoundary: limit})
	check(t, err)
	_, err = in.root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{UserName: name, PolicyArn: limit})
	check(t, err)
	got, err := in.root.GetUser(ctx, &awsiam.GetUserInput{UserName: name})
	check(t, err)
	if b := got.User.PermissionsBoundary; b == nil || *b.PermissionsBoundaryArn != *limit || b.PermissionsBoundaryType != "Policy" {
		t.Errorf("boundary = %+v", b)
	}
	inline, err := in.root.ListUserPolicies(ctx, &awsiam.ListUserPoliciesInput{UserName: name})
	check(t, err)
	attached, err := in.root.ListAttachedUserPolicies(ctx, &awsiam.ListAttachedUserPoliciesInput{UserName: name})
	check(t, err)
	if len(inline.PolicyNames) != 1 || len(attached.AttachedPolicies) != 1 || *attached.AttachedPolicies[0].PolicyArn != *limit {
		t.Errorf("policies = %v, %+v", inline.PolicyNames, attached.AttachedPolicies)
	}

	remove := func() error { return failure(in.root.DeleteUser(ctx, &awsiam.DeleteUserInput{UserName: name})) }
	refused(t, remove(), "DeleteConflict", "Cannot delete entity, must detach all policies first.")
	check(t, failure(in.root.DetachUserPolicy(ctx, &awsiam.DetachUserPolicyInput{UserName: name, PolicyArn: limit})))
	refused(t, remove(), "DeleteConflict", "Cannot delete entity, must delete policies first.")
	check(t, failure(in.root.DeleteUserPolicy(ctx, &awsiam.DeleteUserPolicyInput{UserName: name, PolicyName: of("p")})))
	check(t, failure(in.root.DeleteUserPermissionsBoundary(ctx, &awsiam.DeleteUserPermissionsBoundaryInput{UserName: name})))
	check(t, failure(in.root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: limit})))
	check(t, remove())
}
