package iam_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// group makes a group with members.
func (in *installation) group(t testing.TB, name string, members ...string) {
	t.Helper()
	check(t, failure(in.root.CreateGroup(t.Context(), &awsiam.CreateGroupInput{GroupName: &name})))
	for _, m := range members {
		check(t, failure(in.root.AddUserToGroup(t.Context(), &awsiam.AddUserToGroupInput{GroupName: &name, UserName: &m})))
	}
}

func TestGroupsAreShownAsAWSShowsThem(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	made, err := in.root.CreateGroup(ctx, &awsiam.CreateGroupInput{GroupName: of("Admins"), Path: of("/eng/")})
	check(t, err)
	g := made.Group
	if *g.Arn != "arn:aws:iam::111122223333:group/eng/Admins" || *g.Path != "/eng/" || !strings.HasPrefix(*g.GroupId, "AGPA") || g.CreateDate == nil {
		t.Errorf("created %+v", g)
	}
	in.group(t, "other")
	list, err := in.root.ListGroups(ctx, &awsiam.ListGroupsInput{PathPrefix: of("/eng/")})
	check(t, err)
	if len(list.Groups) != 1 || *list.Groups[0].GroupId != *g.GroupId {
		t.Errorf("ListGroups = %+v", list.Groups)
	}
	got, err := in.root.GetGroup(ctx, &awsiam.GetGroupInput{GroupName: of("admins")})
	check(t, err)
	if *got.Group.GroupName != "Admins" || len(got.Users) != 0 || got.IsTruncated {
		t.Errorf("GetGroup = %+v", got)
	}
}

func TestMembersOfAGroupArePaged(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.group(t, "g")
	var want []string
	for i := range 5 {
		name := fmt.Sprintf("u%d", i)
		in.user(t, name)
		if i != 2 {
			want = append(want, name)
			check(t, failure(in.root.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: of("g"), UserName: &name})))
		}
	}
	var got []string
	for p := awsiam.NewGetGroupPaginator(in.root, &awsiam.GetGroupInput{GroupName: of("g"), MaxItems: of(int32(3))}); p.HasMorePages(); {
		page, err := p.NextPage(ctx)
		check(t, err)
		for _, u := range page.Users {
			got = append(got, *u.UserName)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAUserIsInItsGroupsWhateverTheyAreCalled(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.user(t, "alice")
	in.group(t, "b", "alice")
	in.group(t, "a", "alice")
	groups := func(user string) string {
		t.Helper()
		var names []string
		for p := awsiam.NewListGroupsForUserPaginator(in.root, &awsiam.ListGroupsForUserInput{
			UserName: &user, MaxItems: of(int32(1)),
		}); p.HasMorePages(); {
			page, err := p.NextPage(ctx)
			check(t, err)
			for _, g := range page.Groups {
				names = append(names, strings.TrimPrefix(*g.Arn, "arn:aws:iam::111122223333:"))
			}
		}
		return strings.Join(names, " ")
	}
	if got := groups("alice"); got != "group/a group/b" {
		t.Errorf("groups = %s", got)
	}
	check(t, failure(in.root.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: of("a"), UserName: of("alice")})))
	check(t, failure(in.root.UpdateGroup(ctx, &awsiam.UpdateGroupInput{GroupName: of("a"), NewGroupName: of("Z"), NewPath: of("/x/")})))
	check(t, failure(in.root.UpdateUser(ctx, &awsiam.UpdateUserInput{UserName: of("alice"), NewUserName: of("bob")})))
	if got := groups("bob"); got != "group/b group/x/Z" {
		t.Errorf("groups after both were renamed = %s", got)
	}
	check(t, failure(in.root.RemoveUserFromGroup(ctx, &awsiam.RemoveUserFromGroupInput{GroupName: of("z"), UserName: of("BOB")})))
	if got := groups("bob"); got != "group/b" {
		t.Errorf("groups after one was left = %s", got)
	}
	check(t, failure(in.root.DeleteGroup(ctx, &awsiam.DeleteGroupInput{GroupName: of("Z")})))
}

func TestAGroupHasPolicies(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.group(t, "g")
	name, p := of("g"), in.policy(t, "p", statement("Allow", "s3:*", "*"))
	document := statement("Allow", "sqs:*", "*")
	check(t, failure(in.root.PutGroupPolicy(ctx, &awsiam.PutGroupPolicyInput{GroupName: name, PolicyName: of("i"), PolicyDocument: &document})))
	check(t, failure(in.root.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: name, PolicyArn: p})))

	inline, err := in.root.GetGroupPolicy(ctx, &awsiam.GetGroupPolicyInput{GroupName: name, PolicyName: of("i")})
	check(t, err)
	if *inline.GroupName != "g" || *inline.PolicyName != "i" || !strings.HasPrefix(*inline.PolicyDocument, "%7B%22Version%22") {
		t.Errorf("GetGroupPolicy = %+v", inline)
	}
	names, err := in.root.ListGroupPolicies(ctx, &awsiam.ListGroupPoliciesInput{GroupName: name})
	check(t, err)
	attached, err := in.root.ListAttachedGroupPolicies(ctx, &awsiam.ListAttachedGroupPoliciesInput{GroupName: name})
	check(t, err)
	if !slices.Equal(names.PolicyNames, []string{"i"}) || len(attached.AttachedPolicies) != 1 || *attached.AttachedPolicies[0].PolicyName != "p" {
		t.Errorf("policies = %v, %+v", names.PolicyNames, attached.AttachedPolicies)
	}
	uses, err := in.root.ListEntitiesForPolicy(ctx, &awsiam.ListEntitiesForPolicyInput{PolicyArn: p, EntityFilter: types.EntityTypeGroup})
	check(t, err)
	if len(uses.PolicyGroups) != 1 || *uses.PolicyGroups[0].GroupName != "g" {
		t.Errorf("ListEntitiesForPolicy = %+v", uses.PolicyGroups)
	}
	got, err := in.root.GetPolicy(ctx, &awsiam.GetPolicyInput{PolicyArn: p})
	check(t, err)
	if *got.Policy.AttachmentCount != 1 {
		t.Errorf("the policy is attached %d times", *got.Policy.AttachmentCount)
	}

	remove := func() error { return failure(in.root.DeleteGroup(ctx, &awsiam.DeleteGroupInput{GroupName: name})) }
	refused(t, remove(), "DeleteConflict", "Cannot delete entity, must detach all policies first.")
	check(t, failure(in.root.DetachGroupPolicy(ctx, &awsiam.DetachGroupPolicyInput{GroupName: name, PolicyArn: p})))
	refused(t, remove(), "DeleteConflict", "Cannot delete entity, must delete policies first.")
	check(t, failure(in.root.DeleteGroupPolicy(ctx, &awsiam.DeleteGroupPolicyInput{GroupName: name, PolicyName: of("i")})))
	check(t, remove())
	check(t, failure(in.root.DeletePolicy(ctx, &awsiam.DeletePolicyInput{PolicyArn: p})))
}

func TestAGroupsPoliciesCountForItsMembers(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	_, alice := in.user(t, "alice")
	_, bob := in.user(t, "bob")
	in.group(t, "readers", "alice")
	in.group(t, "limited", "bob")
	member, stranger := in.identity(t, alice.AccessKeyID), in.identity(t, bob.AccessKeyID)
	put := func(group, document string) {
		t.Helper()
		check(t, failure(in.root.PutGroupPolicy(ctx, &awsiam.PutGroupPolicyInput{
			GroupName: &group, PolicyName: of("p"), PolicyDocument: &document,
		})))
	}
	decides := func(when string, action string, forMember, forStranger bool) {
		t.Helper()
		if got := in.may(t, member, action).Allowed; got != forMember {
			t.Errorf("%s, a member's %s is allowed: %v, want %v", when, action, got, forMember)
		}
		if got := in.may(t, stranger, action).Allowed; got != forStranger {
			t.Errorf("%s, a stranger's %s is allowed: %v, want %v", when, action, got, forStranger)
		}
	}
	decides("without policies", "s3:GetObject", false, false)
	put("readers", statement("Allow", "s3:GetObject", "*"))
	decides("with an inline policy of the group", "s3:GetObject", true, false)
	p := in.policy(t, "sqs", statement("Allow", "sqs:*", "*"))
	check(t, failure(in.root.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: of("readers"), PolicyArn: p})))
	decides("with a managed policy of the group", "sqs:SendMessage", true, false)

	check(t, failure(in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{
		UserName: of("bob"), PolicyName: of("p"), PolicyDocument: of(statement("Allow", "s3:*", "*")),
	})))
	decides("with a policy of the user's own", "s3:GetObject", true, true)
	put("limited", statement("Deny", "s3:GetObject", "*"))
	decides("where the group denies what the user's policy allows", "s3:GetObject", true, false)
	if d := in.may(t, stranger, "s3:GetObject"); d.Verdict() != policy.ExplicitDeny {
		t.Errorf("the verdict is %s", d.Verdict())
	}
	check(t, failure(in.root.UpdateGroup(ctx, &awsiam.UpdateGroupInput{GroupName: of("limited"), NewGroupName: of("renamed")})))
	decides("where the group was renamed", "s3:GetObject", true, false)
	check(t, failure(in.root.RemoveUserFromGroup(ctx, &awsiam.RemoveUserFromGroupInput{GroupName: of("renamed"), UserName: of("bob")})))
	decides("where the user has left the group", "s3:GetObject", true, true)
	check(t, failure(in.root.PutUserPermissionsBoundary(ctx, &awsiam.PutUserPermissionsBoundaryInput{UserName: of("alice"), PermissionsBoundary: p})))
	decides("where the user's boundary has no such permission", "s3:GetObject", false, true)
}

func TestAnExplanationShowsTheGroupsPolicy(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	_, key := in.user(t, "alice")
	in.group(t, "g", "alice")
	own, groups := statement("Allow", "s3:GetObject", "*"), statement("Deny", "s3:*", "*")
	check(t, failure(in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: of("alice"), PolicyName: of("p"), PolicyDocument: &own})))
	check(t, failure(in.root.PutGroupPolicy(ctx, &awsiam.PutGroupPolicyInput{GroupName: of("g"), PolicyName: of("p"), PolicyDocument: &groups})))
	explained, err := in.Explain(callerOf(in.identity(t, key.AccessKeyID)), awsapi.Access{Action: "s3:GetObject", Resource: object})
	check(t, err)
	for name, want := range map[string]string{"p": own, "g/p": groups} {
		if got, ok := explained.Document(name); !ok || got != want {
			t.Errorf("the document %s is %q, %v", name, got, ok)
		}
	}
	for _, name := range []string{"g/q", "other/p", "/p"} {
		if got, ok := explained.Document(name); ok {
			t.Errorf("there is a document %s: %s", name, got)
		}
	}
}

func TestGroupsAreSimulated(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.user(t, "alice")
	in.group(t, "g", "alice")
	p := in.policy(t, "shared", allowObj)
	check(t, failure(in.root.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: of("g"), PolicyArn: p})))
	check(t, failure(in.root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{UserName: of("alice"), PolicyArn: p})))
	check(t, failure(in.root.PutGroupPolicy(ctx, &awsiam.PutGroupPolicyInput{GroupName: of("g"), PolicyName: of("i"), PolicyDocument: of(allowObj)})))
	for source, want := range map[string]string{
		"user/alice": "allowed shared(IAM Policy)@" + whole(allowObj) + " group_g_i(IAM Policy)@" + whole(allowObj),
		"group/g":    "allowed group_g_i(IAM Policy)@" + whole(allowObj) + " shared(IAM Policy)@" + whole(allowObj),
	} {
		out, err := in.root.SimulatePrincipalPolicy(ctx, &awsiam.SimulatePrincipalPolicyInput{
			PolicySourceArn: of("arn:aws:iam::" + account + ":" + source), ActionNames: []string{"s3:GetObject"}, ResourceArns: []string{object},
		})
		check(t, err)
		r := out.EvaluationResults[0]
		if got := line(r.EvalDecision, r.MatchedStatements, r.MissingContextValues); got != want {
			t.Errorf("%s\n got %s\nwant %s", source, got, want)
		}
	}
}

func TestGroupsAreRefused(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.user(t, "alice")
	in.user(t, "bob")
	in.group(t, "g", "alice")
	in.group(t, "h")
	p := of("arn:aws:iam::aws:policy/AdministratorAccess")
	for i := range 9 {
		in.group(t, fmt.Sprintf("more%d", i), "alice")
	}
	refuses(t, []refusal{
		{"a name that is taken, in another case", func() error {
			return failure(in.root.CreateGroup(ctx, &awsiam.CreateGroupInput{GroupName: of("G")}))
		}, "EntityAlreadyExists", "Group with name G already exists."},
		{"a new name that is taken", func() error {
			return failure(in.root.UpdateGroup(ctx, &awsiam.UpdateGroupInput{GroupName: of("h"), NewGroupName: of("G")}))
		}, "EntityAlreadyExists", "Group with name G already exists."},
		{"a group that is missing", func() error {
			return failure(in.root.GetGroup(ctx, &awsiam.GetGroupInput{GroupName: of("no")}))
		}, "NoSuchEntity", "The group with name no cannot be found."},
		{"a group of another account", func() error {
			return failure(in.other.GetGroup(ctx, &awsiam.GetGroupInput{GroupName: of("g")}))
		}, "NoSuchEntity", "The group with name g cannot be found."},
		{"a member that is missing", func() error {
			return failure(in.root.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: of("g"), UserName: of("no")}))
		}, "NoSuchEntity", "The user with name no cannot be found."},
		{"the eleventh group of a user", func() error {
			return failure(in.root.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: of("h"), UserName: of("alice")}))
		}, "LimitExceeded", "Cannot exceed quota for GroupsPerUser: 10"},
		{"removing who is no member", func() error {
			return failure(in.root.RemoveUserFromGroup(ctx, &awsiam.RemoveUserFromGroupInput{GroupName: of("g"), UserName: of("bob")}))
		}, "NoSuchEntity", "The user with name bob cannot be found."},
		{"deleting a group with members", func() error {
			return failure(in.root.DeleteGroup(ctx, &awsiam.DeleteGroupInput{GroupName: of("g")}))
		}, "DeleteConflict", "Cannot delete entity, must remove users from group first."},
		{"deleting a member", func() error {
			return failure(in.root.DeleteUser(ctx, &awsiam.DeleteUserInput{UserName: of("alice")}))
		}, "DeleteConflict", "Cannot delete entity, must remove users from group first."},
		{"an inline policy that is missing", func() error {
			return failure(in.root.GetGroupPolicy(ctx, &awsiam.GetGroupPolicyInput{GroupName: of("g"), PolicyName: of("no")}))
		}, "NoSuchEntity", "The group policy with name no cannot be found."},
		{"inline policies over 5,120 characters", func() error {
			return failure(in.root.PutGroupPolicy(ctx, &awsiam.PutGroupPolicyInput{
				GroupName: of("g"), PolicyName: of("p"), PolicyDocument: of(statement("Allow", "s3:*", "arn:aws:s3:::"+strings.Repeat("b", 5120))),
			}))
		}, "LimitExceeded", "Maximum policy size of 5120 bytes exceeded for group g"},
		{"detaching what is not attached", func() error {
			return failure(in.root.DetachGroupPolicy(ctx, &awsiam.DetachGroupPolicyInput{GroupName: of("g"), PolicyArn: p}))
		}, "NoSuchEntity", "Policy " + *p + " was not found."},
	})
}
