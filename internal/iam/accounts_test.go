package iam_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// extension calls Lanyard's own API and returns the status and the body.
func (in *installation) extension(t testing.TB, key sigv4.Credentials, method, path, body string) (int, map[string]any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, in.url+path, strings.NewReader(body))
	check(t, err)
	sum := sha256.Sum256([]byte(body))
	sigv4.Sign(r, key, "lanyard", "us-east-1", hex.EncodeToString(sum[:]), time.Now())
	response, err := http.DefaultClient.Do(r)
	check(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	check(t, err)
	var out map[string]any
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&out); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, text)
	}
	return response.StatusCode, out
}

func TestTheFirstAccountMakesOthers(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	status, made := in.extension(t, in.rootKey, "POST", "/lanyard/accounts", `{"accountId":"555566667777","name":"third"}`)
	if status != 200 {
		t.Fatalf("%d: %v", status, made)
	}
	a := made["account"].(map[string]any)
	if a["id"] != "555566667777" || a["name"] != "third" || a["arn"] != "arn:aws:iam::555566667777:root" {
		t.Errorf("account = %v", a)
	}
	third := sigv4.Credentials{AccessKeyID: made["accessKeyId"].(string), SecretAccessKey: sigv4.Secret(made["secretAccessKey"].(string))}
	root, err := in.client(third).GetUser(ctx, &awsiam.GetUserInput{})
	check(t, err)
	if *root.User.Arn != "arn:aws:iam::555566667777:root" {
		t.Errorf("the new root is %s", *root.User.Arn)
	}

	status, chosen := in.extension(t, in.rootKey, "POST", "/lanyard/accounts", `{"name":"fourth"}`)
	if id, _ := chosen["account"].(map[string]any)["id"].(string); status != 200 || !arn.ValidAccountID(id) {
		t.Errorf("%d: %v", status, chosen)
	}
	if status, out := in.extension(t, in.rootKey, "POST", "/lanyard/accounts", `{"accountId":"555566667777","name":"again"}`); status != 409 {
		t.Errorf("an account that exists: %d: %v", status, out)
	}
	if status, out := in.extension(t, third, "POST", "/lanyard/accounts", `{"name":"fifth"}`); status != 403 {
		t.Errorf("root of another account: %d: %v", status, out)
	}
	if status, out := in.extension(t, third, "GET", "/lanyard/accounts", ""); status != 403 {
		t.Errorf("root of another account lists: %d: %v", status, out)
	}
	_, alice := in.user(t, "alice")
	if status, out := in.extension(t, alice, "POST", "/lanyard/accounts", `{"name":"fifth"}`); status != 403 {
		t.Errorf("a user without permission: %d: %v", status, out)
	}
	_, err = in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{
		UserName: of("alice"), PolicyName: of("p"), PolicyDocument: of(statement("Allow", "lanyard:CreateAccount", "*")),
	})
	check(t, err)
	if status, out := in.extension(t, alice, "POST", "/lanyard/accounts", `{"name":"fifth"}`); status != 200 {
		t.Errorf("a user with permission: %d: %v", status, out)
	}

	var ids []string
	for token, path := "", "/lanyard/accounts?maxResults=2"; ; path = "/lanyard/accounts?maxResults=2&nextToken=" + token {
		status, page := in.extension(t, in.rootKey, "GET", path, "")
		if status != 200 {
			t.Fatalf("%d: %v", status, page)
		}
		for _, a := range page["accounts"].([]any) {
			ids = append(ids, a.(map[string]any)["id"].(string))
		}
		if token, _ = page["nextToken"].(string); token == "" {
			break
		}
	}
	if status, out := in.extension(t, in.rootKey, "GET", "/lanyard/accounts?nextToken=x", ""); status != 400 {
		t.Errorf("a token that nobody gave: %d: %v", status, out)
	}
	if len(ids) != 5 || !strings.Contains(strings.Join(ids, " "), "111122223333") {
		t.Errorf("accounts %v, want five", ids)
	}
}

func TestAnAccountIsMadeOnce(t *testing.T) {
	t.Parallel()
	in := start(t, "aws")
	again, err := in.EnsureAccount(t.Context(), account, "again")
	if again != nil || err != nil {
		t.Errorf("EnsureAccount = %v, %v; want nothing", again, err)
	}
	if _, err := in.EnsureAccount(t.Context(), "12345", "short"); err == nil {
		t.Error("an account ID of five digits is taken")
	}
}

func TestTheFirstAccountKeepsItsRootKey(t *testing.T) {
	t.Parallel()
	in := start(t, "aws") // whose first account is the one of the constant
	stranger := iam.NewRootKey(account)
	for _, c := range []struct {
		name    string
		account string
		key     sigv4.Credentials
		kept    bool
		refused bool
	}{
		{"its own key is kept, however often it is brought", account, in.rootKey, true, false},
		{"a new key does not become that of an account that is there", account, stranger, false, false},
		{"another account cannot come first any more", "555566667777", iam.NewRootKey("555566667777"), false, true},
		{"an account ID of five digits is refused", "12345", stranger, false, true},
	} {
		kept, err := in.EnsureFirstAccount(t.Context(), c.account, "test", c.key)
		if kept != c.kept || (err != nil) != c.refused {
			t.Errorf("%s: got %v, %v", c.name, kept, err)
		}
	}
	if _, ok := in.Credential(stranger.AccessKeyID); ok {
		t.Error("the key that was not kept is known")
	}
}

func TestTheFirstAccountIsMadeWithTheKeyThatItWasGiven(t *testing.T) {
	t.Parallel()
	in := startEmpty(t, "aws")
	key := iam.NewRootKey(account)
	for range 2 { // the second time is after a crash
		if kept, err := in.EnsureFirstAccount(t.Context(), account, "first", key); !kept || err != nil {
			t.Fatalf("EnsureFirstAccount = %v, %v", kept, err)
		}
	}
	if c, ok := in.Credential(key.AccessKeyID); !ok || c.Secret != key.SecretAccessKey {
		t.Errorf("the key resolves: %v, to the secret that was given: %v", ok, c.Secret == key.SecretAccessKey)
	}
	if status, out := in.extension(t, key, "GET", "/lanyard/accounts", ""); status != 200 {
		t.Errorf("the first account is not the management account: %d: %v", status, out)
	}
}

func TestAccountsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.role(t, "app")
	refused(t, failure(in.other.GetRole(ctx, &awsiam.GetRoleInput{
		RoleName: of("app"),
	})), "NoSuchEntity", "The role with name app cannot be found.")
	list, err := in.other.ListRoles(ctx, &awsiam.ListRolesInput{})
	check(t, err)
	if len(list.Roles) != 0 {
		t.Errorf("the other account lists %+v", list.Roles)
	}
}

func TestAnAccountHasOneAlias(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	shows := func(want string) {
		t.Helper()
		list, err := in.root.ListAccountAliases(ctx, &awsiam.ListAccountAliasesInput{})
		check(t, err)
		if got := strings.Join(list.AccountAliases, " "); got != want {
			t.Errorf("aliases = %q, want %q", got, want)
		}
	}
	shows("")
	for _, a := range []string{"first", "second", "second"} {
		_, err := in.root.CreateAccountAlias(ctx, &awsiam.CreateAccountAliasInput{AccountAlias: &a})
		check(t, err)
		shows(a)
	}
	refused(t, failure(in.other.CreateAccountAlias(ctx, &awsiam.CreateAccountAliasInput{AccountAlias: of("second")})),
		"EntityAlreadyExists", "The account alias second already exists.")
	check(t, failure(in.other.CreateAccountAlias(ctx, &awsiam.CreateAccountAliasInput{AccountAlias: of("first")})))
	refused(t, failure(in.root.DeleteAccountAlias(ctx, &awsiam.DeleteAccountAliasInput{AccountAlias: of("first")})),
		"NoSuchEntity", "The account alias first cannot be found.")
	refused(t, failure(in.root.CreateAccountAlias(ctx, &awsiam.CreateAccountAliasInput{AccountAlias: of("123456789012")})),
		"InvalidInput", "The account alias 123456789012 must not be 12 digits, as account IDs are.")
	for _, malformed := range []string{"ab", "-abc", "abc-", "a--b", "Abc", "a.b", strings.Repeat("a", 64)} {
		refused(t, failure(in.root.CreateAccountAlias(ctx, &awsiam.CreateAccountAliasInput{AccountAlias: &malformed})), "ValidationError", "")
	}
	check(t, failure(in.root.DeleteAccountAlias(ctx, &awsiam.DeleteAccountAliasInput{AccountAlias: of("second")})))
	shows("")
}

func TestTheAccountSummaryCounts(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.role(t, "app")
	in.role(t, "gone")
	in.user(t, "alice")
	check(t, failure(in.root.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: of("gone")})))
	got, err := in.root.GetAccountSummary(ctx, &awsiam.GetAccountSummaryInput{})
	check(t, err)
	for key, want := range map[string]int32{
		"Roles": 1, "Users": 1, "Policies": 0, "RolesQuota": 1000, "UsersQuota": 5000, "AccountAccessKeysPresent": 1,
	} {
		if got.SummaryMap[key] != want {
			t.Errorf("%s = %d, want %d", key, got.SummaryMap[key], want)
		}
	}
}
