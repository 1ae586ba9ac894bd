package iam_test

import (
	"encoding/json"
	"strings"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

// storedRows are rows without what may be absent, such as the groups that a user is in. Whatever is added to a row, these must be read.
var storedRows = map[string]string{
	"iam-installation/installation": `{"ManagementAccount":"111122223333"}`,
	"iam-accounts/111122223333": `{"ID":"111122223333","Name":"test","Created":"2026-03-04T05:06:07Z","Alias":"corp","AccessKeys":[],` +
		`"Usage":{"UsersPerAccount":1,"RolesPerAccount":1,"PoliciesPerAccount":1,"InstanceProfilesPerAccount":1,"OpenIDConnectProvidersPerAccount":1}}`,
	"iam-aliases/corp": `{"Account":"111122223333"}`,
	"iam-users/111122223333/alice": `{"Account":"111122223333","Name":"Alice","Path":"/eng/","ID":"AIDARTHEVLWTLLGPDX5YX","Created":"2026-03-04T05:06:07Z",` +
		`"Tags":[{"Key":"team","Value":"a"}],"Inline":[{"Name":"i","Document":"{\"Statement\":{\"Effect\":\"Allow\",\"Action\":\"s3:*\",\"Resource\":\"*\"}}"}],` +
		`"Attached":["arn:aws:iam::111122223333:policy/own"],"Boundary":"arn:aws:iam::111122223333:policy/own","AccessKeys":null}`,
	"iam-roles/111122223333/app": `{"Account":"111122223333","Name":"app","Path":"/","ID":"AROARTHEVLWTLLGPDX5YX","Created":"2026-03-04T05:06:07Z","Tags":null,` +
		`"Inline":null,"Attached":null,"Boundary":"","Trust":"{\"Statement\":{\"Effect\":\"Allow\",\"Principal\":{\"AWS\":\"AIDARTHEVLWTLLGPDX5YX\"},\"Action\":\"sts:AssumeRole\"}}",` +
		`"Description":"d","MaxSession":7200,"Profiles":["node"]}`,
	"iam-policies/111122223333/own": `{"Account":"111122223333","Name":"own","Path":"/","ARN":"arn:aws:iam::111122223333:policy/own","ID":"ANPARTHEVLWTLLGPDX5YX",` +
		`"Description":"","Created":"2026-03-04T05:06:07Z","Updated":"2026-03-04T05:06:07Z","Tags":null,"Versions":[{"Number":2,"Document":"{\"Statement\":` +
		`{\"Effect\":\"Allow\",\"Action\":\"s3:*\",\"Resource\":\"*\"}}","Created":"2026-03-04T05:06:07Z"}],"Default":2,"Last":2,"Attachments":1,"BoundaryUses":1}`,
	"iam-instance-profiles/111122223333/node": `{"Account":"111122223333","Name":"node","Path":"/","ID":"AIPARTHEVLWTLLGPDX5YX","Created":"2026-03-04T05:06:07Z","Role":"app","Tags":null}`,
	"iam-oidc-providers/111122223333/id.example.com/a": `{"Account":"111122223333","URL":"id.example.com/a","Port":"8443","ClientIDs":["sts.amazonaws.com"],` +
		`"Thumbprints":[],"Created":"2026-03-04T05:06:07Z","Tags":null}`,
}

func TestStoredRowsAreReadAndKept(t *testing.T) {
	t.Parallel()
	ctx, store := t.Context(), kv.NewMemory()
	for key, row := range storedRows {
		if _, err := store.Commit(ctx, kv.Op{Kind: kv.OpPut, Key: "/lanyard/" + key, Value: []byte(row), Expect: kv.AnyRevision}); err != nil {
			t.Fatal(err)
		}
	}
	in, h := replica(t, store, "aws")
	key := sigv4.Credentials{AccessKeyID: arn.NewID(arn.AccessKeyID, account), SecretAccessKey: "secret"}
	in.sessions.Store(key.AccessKeyID, awsapi.Credential{Secret: key.SecretAccessKey, Identity: awsapi.Identity{
		Kind: policy.Root, Account: account, ARN: "arn:aws:iam::" + account + ":root", UserID: account, AccessKeyID: key.AccessKeyID,
	}})
	root := direct{h}.client(key)

	user, err := root.GetUser(ctx, &awsiam.GetUserInput{UserName: of("alice")})
	check(t, err)
	if u := user.User; *u.Arn != "arn:aws:iam::111122223333:user/eng/Alice" || len(u.Tags) != 1 || u.PermissionsBoundary == nil {
		t.Errorf("the user is %+v", u)
	}
	role, err := root.GetRole(ctx, &awsiam.GetRoleInput{RoleName: of("app")})
	check(t, err)
	if r := role.Role; !strings.Contains(*r.AssumeRolePolicyDocument, "user%2Feng%2FAlice") || *r.MaxSessionDuration != 7200 || r.RoleLastUsed.LastUsedDate != nil {
		t.Errorf("the role is %+v", r)
	}
	alice := awsapi.Identity{Kind: policy.User, Account: account, ARN: *user.User.Arn, EntityARN: *user.User.Arn, EntityID: *user.User.UserId}
	if !in.may(t, alice, "s3:GetObject").Allowed || in.may(t, alice, "sqs:SendMessage").Allowed {
		t.Error("the user's policies are not what they were")
	}
	details, err := root.GetAccountAuthorizationDetails(ctx, &awsiam.GetAccountAuthorizationDetailsInput{})
	check(t, err)
	if len(details.Policies) != 1 || len(details.RoleDetailList[0].InstanceProfileList) != 1 {
		t.Errorf("the account has %+v", details)
	}
	provider, ok := in.Provider(account, "https://id.example.com:8443/a")
	if !ok || provider.FetchURL != "https://id.example.com:8443/a" {
		t.Errorf("the provider is %+v", provider)
	}

	// A change leaves all that it is not about as it was.
	check(t, failure(root.CreateGroup(ctx, &awsiam.CreateGroupInput{GroupName: of("g")})))
	check(t, failure(root.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: of("g"), UserName: of("alice")})))
	entries, _, err := store.List(ctx, "/lanyard/iam-users/")
	check(t, err)
	var before, after map[string]any
	check(t, json.Unmarshal([]byte(storedRows["iam-users/111122223333/alice"]), &before))
	check(t, json.Unmarshal(entries[0].Value, &after))
	delete(after, "Groups")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}
