package iam_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

var now = time.Date(2026, time.March, 4, 5, 6, 7, 0, time.UTC)

func callerOf(id awsapi.Identity) *awsapi.Caller {
	return &awsapi.Caller{Identity: id, Service: "s3", Region: "eu-west-1", SourceIP: netip.MustParseAddr("::ffff:192.0.2.1"),
		UserAgent: "aws-cli/2", Secure: true, Time: now}
}

// may reports what Authorize says of an action on a bucket's object.
func (in *installation) may(t testing.TB, id awsapi.Identity, action string) policy.Decision {
	t.Helper()
	return in.Authorize(t.Context(), callerOf(id), awsapi.Access{Action: action, Resource: "arn:aws:s3:::bucket/key"})
}

// onlyIf adds a condition to a policy of one statement.
func onlyIf(document, condition string) string {
	return strings.Replace(document, `"Effect"`, `"Condition":`+condition+`,"Effect"`, 1)
}

func (in *installation) identity(t testing.TB, accessKeyID string) awsapi.Identity {
	t.Helper()
	c, ok := in.Credential(accessKeyID)
	if !ok {
		t.Fatalf("access key %s does not resolve", accessKeyID)
	}
	return c.Identity
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	for name, documents := range map[string][]string{
		"reader":   {statement("Allow", "s3:Get*", "*")},
		"denied":   {statement("Allow", "s3:*", "*"), statement("Deny", "s3:GetObject", "*")},
		"bounded":  {statement("Allow", "s3:*", "*")},
		"tagged":   {onlyIf(statement("Allow", "s3:*", "*"), `{"StringEquals":{"aws:PrincipalTag/Team":"a"}}`)},
		"attached": nil,
		"bare":     nil,
		"deleted":  {statement("Allow", "s3:*", "*")},
	} {
		in.role(t, name)
		for i, d := range documents {
			_, err := in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{
				RoleName: &name, PolicyName: of("p" + string(rune('0'+i))), PolicyDocument: &d,
			})
			check(t, err)
		}
	}
	limit := in.policy(t, "limit", statement("Allow", "s3:GetObject", "*"))
	_, err := in.root.PutRolePermissionsBoundary(ctx, &awsiam.PutRolePermissionsBoundaryInput{
		RoleName: of("bounded"), PermissionsBoundary: limit,
	})
	check(t, err)
	_, err = in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{
		RoleName: of("attached"), PolicyArn: of("arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"),
	})
	check(t, err)
	_, err = in.root.TagRole(ctx, &awsiam.TagRoleInput{RoleName: of("tagged"), Tags: []types.Tag{{Key: of("team"), Value: of("a")}}})
	check(t, err)
	deleted := in.roleSession(t, "deleted")
	_, err = in.root.DeleteRolePolicy(ctx, &awsiam.DeleteRolePolicyInput{RoleName: of("deleted"), PolicyName: of("p0")})
	check(t, err)
	_, err = in.root.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: of("deleted")})
	check(t, err)

	_, aliceKey := in.user(t, "alice")
	_, err = in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{
		UserName: of("alice"), PolicyName: of("p"), PolicyDocument: of(statement("Allow", "s3:*", "*")),
	})
	check(t, err)
	alice := in.identity(t, aliceKey.AccessKeyID)
	root := in.identity(t, in.rootKey.AccessKeyID)

	session := func(role string, change func(*awsapi.Session)) awsapi.Identity {
		id := in.roleSession(t, role)
		change(id.Session)
		return id
	}
	temporary := func(id awsapi.Identity, kind policy.PrincipalKind, s awsapi.Session) awsapi.Identity {
		id.Kind, id.Session = kind, &s
		return id
	}
	getOnly := statement("Allow", "s3:GetObject", "*")
	for _, c := range []struct {
		name    string
		id      awsapi.Identity
		action  string
		allowed bool
		layer   policy.Layer
	}{
		{"an inline policy allows", in.roleSession(t, "reader"), "s3:GetObject", true, policy.IdentityLayer},
		{"an inline policy does not allow", in.roleSession(t, "reader"), "s3:PutObject", false, policy.IdentityLayer},
		{"a role without policies may nothing", in.roleSession(t, "bare"), "s3:GetObject", false, policy.IdentityLayer},
		{"one policy denies what another allows", in.roleSession(t, "denied"), "s3:GetObject", false, policy.IdentityLayer},
		{"a Deny is for its action only", in.roleSession(t, "denied"), "s3:PutObject", true, policy.IdentityLayer},
		{"an attached policy allows", in.roleSession(t, "attached"), "s3:GetObject", true, policy.IdentityLayer},
		{"an attached policy does not allow", in.roleSession(t, "attached"), "s3:PutObject", false, policy.IdentityLayer},
		{"the boundary allows", in.roleSession(t, "bounded"), "s3:GetObject", true, policy.IdentityLayer},
		{"the boundary does not allow", in.roleSession(t, "bounded"), "s3:PutObject", false, policy.BoundaryLayer},
		{"the role's tag fits", in.roleSession(t, "tagged"), "s3:GetObject", true, policy.IdentityLayer},
		{"a session tag takes the place of the role's",
			session("tagged", func(s *awsapi.Session) { s.Tags = []awsapi.Tag{{Key: "TEAM", Value: "b"}} }),
			"s3:GetObject", false, policy.IdentityLayer},
		{"a session policy allows",
			session("reader", func(s *awsapi.Session) { s.Policies = []string{getOnly} }), "s3:GetObject", true, policy.IdentityLayer},
		{"a session policy does not allow",
			session("reader", func(s *awsapi.Session) { s.Policies = []string{getOnly} }), "s3:GetBucketAcl", false, policy.SessionLayer},
		{"a managed session policy does not allow",
			session("denied", func(s *awsapi.Session) { s.PolicyARNs = []string{*limit} }), "s3:PutObject", false, policy.SessionLayer},
		{"a managed session policy allows",
			session("reader", func(s *awsapi.Session) { s.PolicyARNs = []string{*limit} }), "s3:GetObject", true, policy.IdentityLayer},
		{"a managed session policy is gone",
			session("reader", func(s *awsapi.Session) { s.PolicyARNs = []string{"arn:aws:iam::111122223333:policy/gone"} }),
			"s3:GetObject", false, policy.NoLayer},
		{"a session policy does not compile",
			session("reader", func(s *awsapi.Session) { s.Policies = []string{"{"} }), "s3:GetObject", false, policy.NoLayer},
		{"the role is gone", deleted, "s3:GetObject", false, policy.NoLayer},
		{"a user's policy allows", alice, "s3:PutObject", true, policy.IdentityLayer},
		{"a user's policy does not allow", alice, "ec2:RunInstances", false, policy.IdentityLayer},
		{"a user's session is the user", temporary(alice, policy.User, awsapi.Session{}), "s3:PutObject", true, policy.IdentityLayer},
		{"a federated user has the session's policies",
			temporary(alice, policy.Federated, awsapi.Session{Policies: []string{getOnly}}), "s3:GetObject", true, policy.IdentityLayer},
		{"a federated user has no more than the session's policies",
			temporary(alice, policy.Federated, awsapi.Session{Policies: []string{getOnly}}), "s3:PutObject", false, policy.SessionLayer},
		{"a federated user has no more than its user's policies",
			temporary(alice, policy.Federated, awsapi.Session{Policies: []string{statement("Allow", "*", "*")}}),
			"ec2:RunInstances", false, policy.IdentityLayer},
		{"a federated user without session policies may nothing",
			temporary(alice, policy.Federated, awsapi.Session{}), "s3:GetObject", false, policy.SessionLayer},
		{"root may everything", root, "ec2:RunInstances", true, policy.RootLayer},
		{"root's federated user has the session's policies",
			temporary(root, policy.Federated, awsapi.Session{Policies: []string{getOnly}}), "s3:GetObject", true, policy.IdentityLayer},
		{"root's federated user has no more than the session's policies",
			temporary(root, policy.Federated, awsapi.Session{Policies: []string{getOnly}}), "s3:PutObject", false, policy.SessionLayer},
		{"root of an account that is missing",
			awsapi.Identity{Kind: policy.Root, Account: "999999999999"}, "s3:GetObject", false, policy.NoLayer},
		{"nobody", awsapi.Identity{}, "s3:GetObject", false, policy.ResourceLayer},
		{"a role's session that claims another account",
			func() awsapi.Identity { id := in.roleSession(t, "reader"); id.Account = other; return id }(), "s3:GetObject", false, policy.NoLayer},
		{"a service", awsapi.Identity{Kind: policy.Service}, "s3:GetObject", false, policy.NoLayer},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := in.may(t, c.id, c.action)
			if got.Allowed != c.allowed || got.Layer != c.layer {
				t.Errorf("%s: %v (%+v)", c.action, got, got)
			}
		})
	}

	t.Run("another account's resource", func(t *testing.T) {
		for owner, allowed := range map[string]bool{"": true, account: true, other: false} {
			got := in.Authorize(ctx, callerOf(alice), awsapi.Access{Action: "s3:GetObject", Resource: "arn:aws:s3:::b/k", ResourceAccount: owner})
			if got.Allowed != allowed {
				t.Errorf("owner %q: %v", owner, got)
			}
		}
	})
}

// What is stored and does not compile, because it was damaged or comes from a version that understands more, denies.
func TestDamagedPoliciesDeny(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.role(t, "app")
	own := in.policy(t, "own", statement("Allow", "ec2:*", "*"))
	_, err := in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{
		RoleName: of("app"), PolicyArn: of("arn:aws:iam::aws:policy/AdministratorAccess"),
	})
	check(t, err)
	_, err = in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{
		RoleName: of("app"), PolicyName: of("p"), PolicyDocument: of(statement("Deny", "iam:*", "*")),
	})
	check(t, err)
	id := in.roleSession(t, "app")
	role, err := arn.Parse(id.EntityARN)
	check(t, err)
	damage := func(key, old, new string) {
		t.Helper()
		e, err := in.store.Get(ctx, "/lanyard/"+key)
		check(t, err)
		value := strings.Replace(string(e.Value), old, new, 1)
		if value == string(e.Value) {
			t.Fatalf("%s does not hold %s", key, old)
		}
		_, err = in.store.Commit(ctx, kv.Op{Key: e.Key, Kind: kv.OpPut, Expect: e.Revision, Value: []byte(value)})
		check(t, err)
		check(t, in.db.Sync(ctx))
	}
	allowed := func(want bool) {
		t.Helper()
		if got := in.may(t, id, "s3:GetObject"); got.Allowed != want {
			t.Errorf("%v, want allowed %v", got, want)
		}
	}
	allowed(true)
	damage("iam-roles/111122223333/app", `\"Deny\"`, `\"Maybe\"`)
	allowed(false)
	damage("iam-roles/111122223333/app", `\"Maybe\"`, `\"Deny\"`)
	allowed(true)
	_, err = in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: of("app"), PolicyArn: own})
	check(t, err)
	damage("iam-policies/111122223333/own", `\"Allow\"`, `\"Maybe\"`)
	allowed(false)
	if _, ok := in.Role(role); !ok {
		t.Error("the role is not found")
	}
	damage("iam-roles/111122223333/app", `sts:AssumeRole`, `s3:AssumeRole`)
	if _, ok := in.Role(role); ok {
		t.Error("a role whose trust policy does not compile is found")
	}
	if _, ok := in.RoleByID(id.EntityID); ok {
		t.Error("a role whose trust policy does not compile is found by its ID")
	}
	damage("iam-access-keys/"+in.rootKey.AccessKeyID, `"Wrapped":"`, `"Wrapped":"AAAA`)
	if _, ok := in.Credential(in.rootKey.AccessKeyID); ok {
		t.Error("an access key whose secret does not unwrap resolves")
	}
}

func TestAChangedPolicyCountsAtOnce(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.role(t, "app")
	p := in.policy(t, "p", statement("Allow", "s3:GetObject", "*"))
	id := in.roleSession(t, "app")
	allowed := func(want bool) {
		t.Helper()
		if got := in.may(t, id, "s3:GetObject"); got.Allowed != want {
			t.Errorf("%v, want allowed %v", got, want)
		}
	}
	allowed(false)
	_, err := in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: of("app"), PolicyArn: p})
	check(t, err)
	allowed(true)
	_, err = in.root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{
		PolicyArn: p, PolicyDocument: of(statement("Allow", "s3:PutObject", "*")), SetAsDefault: true,
	})
	check(t, err)
	allowed(false)
	_, err = in.root.SetDefaultPolicyVersion(ctx, &awsiam.SetDefaultPolicyVersionInput{PolicyArn: p, VersionId: of("v1")})
	check(t, err)
	allowed(true)
	_, err = in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{
		RoleName: of("app"), PolicyName: of("no"), PolicyDocument: of(statement("Deny", "*", "*")),
	})
	check(t, err)
	allowed(false)
}

func TestContextKeysOfEachCaller(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	_, key := in.user(t, "alice")
	_, err := in.root.TagUser(ctx, &awsiam.TagUserInput{UserName: of("alice"), Tags: []types.Tag{{Key: of("Team"), Value: of("a")}}})
	check(t, err)
	in.role(t, "app")
	_, err = in.root.TagRole(ctx, &awsiam.TagRoleInput{
		RoleName: of("app"), Tags: []types.Tag{{Key: of("Team"), Value: of("a")}, {Key: of("env"), Value: of("x")}},
	})
	check(t, err)
	alice, root := in.identity(t, key.AccessKeyID), in.identity(t, in.rootKey.AccessKeyID)
	app := in.roleSession(t, "app")
	app.Session = &awsapi.Session{
		Name: "s", Issued: now.Add(-time.Hour), Tags: []awsapi.Tag{{Key: "TEAM", Value: "b"}}, SourceIdentity: "me",
		FederatedProvider: "arn:aws:iam::111122223333:oidc-provider/oidc.example.com",
		ContextKeys:       []awsapi.KeyValue{{Key: "oidc.example.com:sub", Value: "pod"}, {Key: "aws:PrincipalAccount", Value: other}},
	}
	federated := alice
	federated.Kind, federated.ARN, federated.UserID = policy.Federated, "arn:aws:sts::111122223333:federated-user/bob", "111122223333:bob"
	federated.Session = &awsapi.Session{Issued: now}

	const absent = "(absent)"
	keys := []string{
		"aws:PrincipalType", "aws:PrincipalArn", "aws:PrincipalAccount", "aws:userid", "aws:username", "aws:PrincipalTag/team",
		"aws:PrincipalTag/env", "aws:TokenIssueTime", "aws:MultiFactorAuthPresent", "aws:SourceIdentity", "aws:FederatedProvider",
		"oidc.example.com:sub",
	}
	for _, c := range []struct {
		name string
		id   awsapi.Identity
		want []string
	}{
		{"a user", alice, []string{"User", "arn:aws:iam::111122223333:user/alice", account, alice.UserID, "alice", "a",
			absent, absent, absent, absent, absent, absent}},
		{"root", root, []string{"Account", "arn:aws:iam::111122223333:root", account, account, absent, absent,
			absent, absent, absent, absent, absent, absent}},
		{"a role's session", app, []string{"AssumedRole", "arn:aws:iam::111122223333:role/app", account, app.UserID, absent, "b",
			"x", "2026-03-04T04:06:07Z", "false", "me", "arn:aws:iam::111122223333:oidc-provider/oidc.example.com", "pod"}},
		{"a federated user", federated, []string{"FederatedUser", "arn:aws:sts::111122223333:federated-user/bob", account,
			"111122223333:bob", absent, "a", absent, "2026-03-04T05:06:07Z", "false", absent, absent, absent}},
		{"nobody", awsapi.Identity{}, []string{"Anonymous", absent, absent, "anonymous", absent, absent,
			absent, absent, absent, absent, absent, absent}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := in.Context(callerOf(c.id))
			value := func(key string) string {
				if v, ok := p.Get(key); ok {
					return strings.Join(v, ",")
				}
				return absent
			}
			got := make([]string, len(keys))
			for i, k := range keys {
				got[i] = value(k)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("keys %v\n%s", keys, diff)
			}
			for k, want := range map[string]string{
				"aws:CurrentTime": "2026-03-04T05:06:07Z", "aws:EpochTime": "1772600767", "aws:SecureTransport": "true", "aws:SourceIp": "192.0.2.1",
				"aws:UserAgent": "aws-cli/2", "aws:RequestedRegion": "eu-west-1", "aws:ViaAWSService": "false",
			} {
				if got := value(k); got != want {
					t.Errorf("%s = %s, want %s", k, got, want)
				}
			}
		})
	}
}

// The condition keys of IAM's own operations, each met and not met.
func TestConditionKeysOfOperations(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	admin, _ := in.user(t, "admin")
	allow := func(action, condition string) string {
		return `{"Effect":"Allow","Action":"` + action + `","Resource":"*","Condition":` + condition + `}`
	}
	limit := in.policy(t, "limit", statement("Allow", "*", "*"))
	document := `{"Version":"2012-10-17","Statement":[` + strings.Join([]string{
		allow("iam:AttachRolePolicy", `{"ArnEquals":{"iam:PolicyARN":"arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"}}`),
		allow("iam:CreateRole", `{"StringEquals":{"iam:PermissionsBoundary":"`+*limit+`"}}`),
		allow("iam:PutRolePolicy", `{"StringEquals":{"iam:PermissionsBoundary":"`+*limit+`"}}`),
		allow("iam:TagRole", `{"StringEquals":{"aws:RequestTag/team":"a"},"ForAllValues:StringEquals":{"aws:TagKeys":["team"]}}`),
		allow("iam:UntagRole", `{"ForAnyValue:StringEquals":{"aws:TagKeys":["env"]}}`),
		allow("iam:DeleteRole", `{"StringEquals":{"iam:ResourceTag/team":"a"}}`),
		allow("iam:UpdateRole", `{"StringEquals":{"aws:ResourceTag/team":"a"}}`),
		`{"Effect":"Allow","Action":"iam:AddRoleToInstanceProfile","Resource":"*"}`,
		strings.Replace(allow("iam:PassRole", `{"StringEquals":{"iam:PassedToService":"ec2.amazonaws.com"}}`),
			`"*"`, `"arn:aws:iam::111122223333:role/mine"`, 1),
	}, ",") + `]}`
	_, err := in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: of("admin"), PolicyName: of("p"), PolicyDocument: &document})
	check(t, err)
	in.role(t, "mine")
	in.role(t, "theirs")
	_, err = in.root.TagRole(ctx, &awsiam.TagRoleInput{RoleName: of("mine"), Tags: []types.Tag{{Key: of("team"), Value: of("a")}}})
	check(t, err)
	_, err = in.root.CreateInstanceProfile(ctx, &awsiam.CreateInstanceProfileInput{InstanceProfileName: of("node")})
	check(t, err)

	tag := func(key, value string) func() error {
		return func() error {
			return failure(admin.TagRole(ctx, &awsiam.TagRoleInput{RoleName: of("theirs"), Tags: []types.Tag{{Key: &key, Value: &value}}}))
		}
	}
	attach := func(name string) func() error {
		return func() error {
			return failure(admin.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{
				RoleName: of("theirs"), PolicyArn: of("arn:aws:iam::aws:policy/" + name),
			}))
		}
	}
	create := func(name string, boundary *string) func() error {
		return func() error {
			return failure(admin.CreateRole(ctx, &awsiam.CreateRoleInput{
				RoleName: &name, AssumeRolePolicyDocument: of(trusts("AWS", account)), PermissionsBoundary: boundary,
			}))
		}
	}
	put := func(role string) func() error {
		return func() error {
			return failure(admin.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{
				RoleName: &role, PolicyName: of("p"), PolicyDocument: of(statement("Allow", "s3:*", "*")),
			}))
		}
	}
	add := func(role string) func() error {
		return func() error {
			return failure(admin.AddRoleToInstanceProfile(ctx, &awsiam.AddRoleToInstanceProfileInput{
				RoleName: &role, InstanceProfileName: of("node"),
			}))
		}
	}
	for _, c := range []struct {
		name    string
		call    func() error
		allowed bool
	}{
		{"attaching the policy that is named", attach("AmazonS3ReadOnlyAccess"), true},
		{"attaching another", attach("AdministratorAccess"), false},
		{"making a role with the boundary", create("within", limit), true},
		{"making a role without", create("without", nil), false},
		{"giving permissions to a role that has the boundary", put("within"), true},
		{"giving permissions to one that has none", put("theirs"), false},
		{"tagging as required", tag("team", "a"), true},
		{"tagging with another value", tag("team", "b"), false},
		{"tagging with another key", tag("env", "a"), false},
		{"passing the role that may be passed", add("mine"), true},
		{"passing another", add("theirs"), false},
		{"changing by the resource's tag", func() error {
			return failure(admin.UpdateRole(ctx, &awsiam.UpdateRoleInput{RoleName: of("mine"), Description: of("x")}))
		}, true},
		{"changing without it", func() error {
			return failure(admin.UpdateRole(ctx, &awsiam.UpdateRoleInput{RoleName: of("within"), Description: of("x")}))
		}, false},
		{"deleting without the resource's tag", func() error {
			return failure(admin.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: of("within")}))
		}, false},
		{"untagging by key", func() error {
			return failure(admin.UntagRole(ctx, &awsiam.UntagRoleInput{RoleName: of("mine"), TagKeys: []string{"env"}}))
		}, true},
		{"untagging another key", func() error {
			return failure(admin.UntagRole(ctx, &awsiam.UntagRoleInput{RoleName: of("mine"), TagKeys: []string{"team"}}))
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.allowed {
				check(t, c.call())
			} else {
				refused(t, c.call(), "AccessDenied", "User: arn:aws:iam::111122223333:user/admin is not authorized to perform: iam:")
			}
		})
	}
}

func BenchmarkAuthorize(b *testing.B) {
	in := start(b, "aws")
	in.role(b, "app")
	_, err := in.root.AttachRolePolicy(b.Context(), &awsiam.AttachRolePolicyInput{
		RoleName: of("app"), PolicyArn: of("arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"),
	})
	check(b, err)
	c := callerOf(in.roleSession(b, "app"))
	c.Session.Policies = []string{statement("Allow", "s3:*", "*")}
	a := awsapi.Access{Action: "s3:GetObject", Resource: "arn:aws:s3:::bucket/key"}
	b.ReportAllocs()
	for b.Loop() {
		if !in.Authorize(b.Context(), c, a).Allowed {
			b.Fatal("denied")
		}
	}
}
