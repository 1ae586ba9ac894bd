//lint:file-ignore SA1019 The SDK calls PackedPolicySize deprecated; it is what the API model of these services has.

package sts_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// whoAmI returns what GetCallerIdentity prints.
func (e *env) whoAmI(c *sigv4.Credentials) (arn, userID, acct string) {
	e.t.Helper()
	out, err := e.stsAs(c).GetCallerIdentity(e.t.Context(), nil)
	must(e.t, err)
	return *out.Arn, *out.UserId, *out.Account
}

// assume assumes a role and returns its credentials.
func (e *env) assume(c *sigv4.Credentials, role, session string, edit ...func(*awssts.AssumeRoleInput)) *sigv4.Credentials {
	e.t.Helper()
	out, err := e.tryAssume(c, role, session, edit...)
	must(e.t, err)
	return keysOf(out.Credentials)
}

func (e *env) tryAssume(c *sigv4.Credentials, role, session string, edit ...func(*awssts.AssumeRoleInput)) (*awssts.AssumeRoleOutput, error) {
	in := &awssts.AssumeRoleInput{RoleArn: &role, RoleSessionName: &session}
	for _, f := range edit {
		f(in)
	}
	return e.stsAs(c).AssumeRole(e.t.Context(), in)
}

// tags is key, value, key, value …; a key that ends in * is transitive.
func tags(pairs ...string) func(*awssts.AssumeRoleInput) {
	return func(in *awssts.AssumeRoleInput) {
		for i := 0; i < len(pairs); i += 2 {
			key, transitive := strings.CutSuffix(pairs[i], "*")
			if transitive {
				in.TransitiveTagKeys = append(in.TransitiveTagKeys, key)
			}
			in.Tags = append(in.Tags, ststypes.Tag{Key: &key, Value: &pairs[i+1]})
		}
	}
}

func transitiveKey(key string) func(*awssts.AssumeRoleInput) {
	return func(in *awssts.AssumeRoleInput) { in.TransitiveTagKeys = append(in.TransitiveTagKeys, key) }
}

func source(identity string) func(*awssts.AssumeRoleInput) {
	return func(in *awssts.AssumeRoleInput) { in.SourceIdentity = &identity }
}

func external(id string) func(*awssts.AssumeRoleInput) {
	return func(in *awssts.AssumeRoleInput) { in.ExternalId = &id }
}

func lasting(seconds int32) func(*awssts.AssumeRoleInput) {
	return func(in *awssts.AssumeRoleInput) { in.DurationSeconds = &seconds }
}

func within(document string) func(*awssts.AssumeRoleInput) {
	return func(in *awssts.AssumeRoleInput) { in.Policy = &document }
}

func withinManaged(arns ...string) func(*awssts.AssumeRoleInput) {
	return func(in *awssts.AssumeRoleInput) {
		for _, a := range arns {
			in.PolicyArns = append(in.PolicyArns, ststypes.PolicyDescriptorType{Arn: &a})
		}
	}
}

func TestGetCallerIdentity(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	root := e.rootOf(account)
	alice := e.user("alice", allowAll)
	role := e.role("reader", trusts(ownAccount, assumeOnly, ""), path("/team/"))
	session := e.assume(alice, role, "work")
	federated, err := e.stsAs(alice).GetFederationToken(t.Context(), &awssts.GetFederationTokenInput{Name: aws.String("bob")})
	must(t, err)
	short, err := e.stsAs(alice).GetSessionToken(t.Context(), nil)
	must(t, err)

	user, err := e.iamOf(account).GetUser(t.Context(), &awsiam.GetUserInput{UserName: aws.String("alice")})
	must(t, err)
	reader, err := e.iamOf(account).GetRole(t.Context(), &awsiam.GetRoleInput{RoleName: aws.String("reader")})
	must(t, err)

	for _, c := range []struct {
		name        string
		who         *sigv4.Credentials
		arn, userID string
	}{
		{"root", root, "arn:aws:iam::" + account + ":root", account},
		{"a user", alice, "arn:aws:iam::" + account + ":user/alice", *user.User.UserId},
		{"a user's session", keysOf(short.Credentials), "arn:aws:iam::" + account + ":user/alice", *user.User.UserId},
		{"a role session, without the role's path", session, "arn:aws:sts::" + account + ":assumed-role/reader/work", *reader.Role.RoleId + ":work"},
		{"a federated user", keysOf(federated.Credentials), "arn:aws:sts::" + account + ":federated-user/bob", account + ":bob"},
	} {
		arn, userID, acct := e.whoAmI(c.who)
		if arn != c.arn || userID != c.userID || acct != account {
			t.Errorf("%s is %s, %s, %s, want %s, %s, %s", c.name, arn, userID, acct, c.arn, c.userID, account)
		}
	}
}

func TestAssumeRoleAnswersWhatAWSAnswers(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	alice := e.user("alice", allowAll)
	role := e.role("reader", trusts(ownAccount, everything, ""), path("/team/"))

	before := time.Now().Truncate(time.Second)
	out, err := e.tryAssume(alice, role, "work", tags("team*", "blue"), source("alice"))
	must(t, err)
	c := out.Credentials
	if !strings.HasPrefix(*c.AccessKeyId, "ASIA") || len(*c.AccessKeyId) != 20 {
		t.Errorf("access key ID %q", *c.AccessKeyId)
	}
	if raw, err := base64.StdEncoding.DecodeString(*c.SecretAccessKey); err != nil || len(*c.SecretAccessKey) != 40 || len(raw) != 30 {
		t.Errorf("a secret of %d characters, err %v; want 40 of base64", len(*c.SecretAccessKey), err)
	}
	if !strings.HasPrefix(*c.SessionToken, "IQoJb3JpZ2luX2Vj") || len(*c.SessionToken) > 1300 {
		t.Errorf("session token of %d characters begins %.20s", len(*c.SessionToken), *c.SessionToken)
	}
	if life := c.Expiration.Sub(before); life < time.Hour || life > time.Hour+time.Minute {
		t.Errorf("credentials live for %s, want an hour", life)
	}
	if got := *out.AssumedRoleUser.Arn; got != "arn:aws:sts::"+account+":assumed-role/reader/work" {
		t.Errorf("ARN %s", got)
	}
	if id, session, _ := strings.Cut(*out.AssumedRoleUser.AssumedRoleId, ":"); !strings.HasPrefix(id, "AROA") || len(id) != 21 || session != "work" {
		t.Errorf("assumed role ID %s", *out.AssumedRoleUser.AssumedRoleId)
	}
	if out.PackedPolicySize == nil || *out.PackedPolicySize != 3 || aws.ToString(out.SourceIdentity) != "alice" {
		t.Errorf("packed policy size %v, source identity %v", out.PackedPolicySize, out.SourceIdentity)
	}

	again, err := e.tryAssume(alice, role, "work")
	must(t, err)
	if again.PackedPolicySize != nil || again.SourceIdentity != nil {
		t.Errorf("without policies, tags and source identity: packed policy size %v, source identity %v", again.PackedPolicySize, again.SourceIdentity)
	}
	if *again.Credentials.SecretAccessKey == *c.SecretAccessKey || *again.Credentials.AccessKeyId == *c.AccessKeyId {
		t.Error("two sessions share a key")
	}
}

func TestWhoMayAssume(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const arnPrefix = "arn:aws:iam::" + account + ":"
	admin, nobody := e.user("admin", allowAll), e.user("nobody", "")
	foreigner, foreignNobody := e.userIn(other, "foreigner", allowAll), e.userIn(other, "stranger", "")
	federated, err := e.stsAs(admin).GetFederationToken(t.Context(), &awssts.GetFederationTokenInput{
		Name: aws.String("bob"), Policy: aws.String(allowAll),
	})
	must(t, err)
	short, err := e.stsAs(admin).GetSessionToken(t.Context(), nil)
	must(t, err)

	open := e.role("open", trusts(ownAccount, assumeOnly, ""))
	named := e.role("named", trusts(`{"AWS":"`+arnPrefix+`user/nobody"}`, assumeOnly, ""))
	abroad := e.role("abroad", trusts(`{"AWS":"arn:aws:iam::`+other+`:root"}`, assumeOnly, ""))
	guarded := e.role("guarded", trusts(ownAccount, assumeOnly, `{"StringEquals":{"sts:ExternalId":"swordfish"}}`))
	byName := e.role("by-name", trusts(ownAccount, assumeOnly, `{"StringLike":{"sts:RoleSessionName":"night-*"}}`))
	forPods := e.role("pods", trusts(`{"Service":"pods.eks.amazonaws.com"}`, assumeTag, ""))
	byTag := e.role("by-tag", trusts(ownAccount, assumeOnly, `{"StringEquals":{"aws:ResourceTag/open":"yes","iam:ResourceTag/open":"yes"}}`),
		roleTag("open", "yes"))
	byOtherTag := e.role("by-other-tag", trusts(ownAccount, assumeOnly, `{"StringEquals":{"aws:ResourceTag/open":"yes"}}`), roleTag("open", "no"))

	user := func(name string) string { return arnPrefix + "user/" + name }
	for _, c := range []struct {
		name   string
		who    *sigv4.Credentials
		role   string
		edit   func(*awssts.AssumeRoleInput)
		denied string // "" when allowed
	}{
		{"who has the permission, by trust in the account", admin, open, nil, ""},
		{"the session of who has the permission", keysOf(short.Credentials), open, nil, ""},
		{"who has no permission, by trust in the account", nobody, open, nil, user("nobody")},
		{"who has no permission but is named", nobody, named, nil, ""},
		{"who has the permission but is not named", admin, named, nil, user("admin")},
		{"a trusted account's user who has the permission", foreigner, abroad, nil, ""},
		{"a trusted account's user who has no permission", foreignNobody, abroad, nil, "arn:aws:iam::" + other + ":user/stranger"},
		{"a user of an account that is not trusted", foreigner, open, nil, "arn:aws:iam::" + other + ":user/foreigner"},
		{"with the external ID", admin, guarded, external("swordfish"), ""},
		{"with another external ID", admin, guarded, external("codfish"), user("admin")},
		{"without an external ID", admin, guarded, nil, user("admin")},
		{"under a session name that is not expected", admin, byName, nil, user("admin")},
		{"under the role's tag", admin, byTag, nil, ""},
		{"under a role tag of another value", admin, byOtherTag, nil, user("admin")},
		{"a user where a service is trusted", admin, forPods, nil, user("admin")},
		{"a federated user", keysOf(federated.Credentials), open, nil, "arn:aws:sts::" + account + ":federated-user/bob"},
		{"of a role that does not exist", admin, arnPrefix + "role/missing", nil, user("admin")},
		{"of a role at another path", admin, arnPrefix + "role/else/open", nil, user("admin")},
		{"of a role of an account that does not exist", admin, "arn:aws:iam::999999999999:role/open", nil, user("admin")},
		{"of a role of another partition", admin, "arn:aws-cn:iam::" + account + ":role/open", nil, user("admin")},
		{"of something that is not a role", admin, arnPrefix + "user/admin", nil, user("admin")},
	} {
		edit := c.edit
		if edit == nil {
			edit = func(*awssts.AssumeRoleInput) {}
		}
		_, err := e.tryAssume(c.who, c.role, "work", edit)
		switch {
		case c.denied != "":
			t.Log(c.name)
			wantError(t, err, "AccessDenied", 403, notAuthorized(c.denied, "sts:AssumeRole", c.role))
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		}
	}

	if _, err := e.tryAssume(admin, byName, "night-shift"); err != nil {
		t.Errorf("under the expected session name: %v", err)
	}
	_, err = e.tryAssume(e.rootOf(account), open, "work")
	wantError(t, err, "AccessDenied", 403, "Roles may not be assumed by root accounts.")
}

func TestAssumeRoleParameters(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	alice := e.user("alice", allowAll)
	role := e.role("reader", trusts(ownAccount, everything, ""))
	for _, c := range []struct {
		name    string
		role    string
		edit    func(*awssts.AssumeRoleInput)
		code    string
		message string
	}{
		{"an ARN that is none", "arn:a:a::aaaaaaaaaa:", nil, "ValidationError", "arn:a:a::aaaaaaaaaa: is invalid"},
		{"more than the role allows", role, lasting(3601), "ValidationError",
			"The requested DurationSeconds exceeds the MaxSessionDuration set for this role."},
		{"tags of one key in two spellings", role, tags("team", "a", "Team", "b"), "InvalidParameterValue",
			"Duplicate tag keys found. Please note that Tag keys are case insensitive."},
		{"a transitive key without its tag", role, func(in *awssts.AssumeRoleInput) { tags("team", "a")(in); transitiveKey("stage")(in) },
			"InvalidParameterValue", "The specified transitive tag key must be included in the requested tags."},
		{"a reserved tag key", role, tags("AWS:team", "a"), "InvalidParameterValue",
			"Tag keys that begin with the reserved prefix aws: can't be set: AWS:team"},
		{"a policy that is no policy", role, within(`{"Version":`), "MalformedPolicyDocument", ""},
		{"a policy that STS does not see whole", role, within(`{"Version":"2012-10-17","Statement":[{"Effect":"Perhaps","Action":"*","Resource":"*"}]}`),
			"MalformedPolicyDocument", ""},
		{"a policy for a role that does not exist", role + "x", within(`{`), "MalformedPolicyDocument", ""},
		{"eleven managed policies", role, withinManaged(strings.Split(strings.Repeat("arn:aws:iam::aws:policy/A ", 11), " ")[:11]...), "ValidationError",
			"1 validation error detected: Value at 'policyArns' failed to satisfy constraint: Member must have length less than or equal to 10"},
		{"a managed policy that is no ARN", role, withinManaged("arn:aws:iam:policy/ReadOnly"), "ValidationError", "arn:aws:iam:policy/ReadOnly is invalid"},
		{"a managed policy that does not exist", role, withinManaged("arn:aws:iam::" + account + ":policy/missing"), "ValidationError",
			"Policy arn:aws:iam::" + account + ":policy/missing does not exist or is not attachable."},
		{"a policy that is too long", role, within(allowAll + strings.Repeat(" ", 2048)), "ValidationError",
			"1 validation error detected: Value at 'policy' failed to satisfy constraint: Member must have length less than or equal to 2048"},
		{"tags that do not fit", role, tags("a", strings.Repeat("v", 256), "b", strings.Repeat("v", 256)), "PackedPolicyTooLarge",
			"Packed size of session tags consumes 116% of allotted space."},
		{"a policy that does not fit beside the tags", role,
			func(in *awssts.AssumeRoleInput) {
				tags("a", strings.Repeat("v", 256), "b", strings.Repeat("v", 170))(in)
				within(allowAll)(in)
			},
			"PackedPolicyTooLarge", "Packed policy consumes 101% of allotted space, please use smaller policy."},
	} {
		edit := c.edit
		if edit == nil {
			edit = func(*awssts.AssumeRoleInput) {}
		}
		_, err := e.tryAssume(alice, c.role, "work", edit)
		t.Log(c.name)
		message := c.message
		if message == "" && err != nil { // the policy language's own text
			_, message, _ = strings.Cut(err.Error(), c.code+": ")
		}
		wantError(t, err, c.code, 400, message)
	}

	_, err := e.tryAssume(alice, role, "work", func(in *awssts.AssumeRoleInput) {
		in.SerialNumber, in.TokenCode = aws.String("arn:aws:iam::"+account+":mfa/alice"), aws.String("123456")
	})
	wantError(t, err, "AccessDenied", 403, "MultiFactorAuthentication failed, unable to validate MFA code. "+
		"Please verify your MFA serial number is valid and associated with this user.")
	_, err = e.tryAssume(alice, role, "work", func(in *awssts.AssumeRoleInput) {
		in.ProvidedContexts = []ststypes.ProvidedContext{{
			ProviderArn: aws.String("arn:aws:iam::aws:contextProvider/IdentityCenter"), ContextAssertion: aws.String("assertion"),
		}}
	})
	wantError(t, err, "InvalidParameterValue", 400, "ProvidedContexts is not supported.")
}

func TestDurations(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	alice := e.user("alice", allowAll)
	long := e.role("long", trusts(ownAccount, assumeOnly, ""), longest(43200))
	e.grant("long", allowAll)

	out, err := e.tryAssume(alice, long, "work", lasting(43200))
	must(t, err)
	if life := time.Until(*out.Credentials.Expiration); life < 12*time.Hour-time.Minute || life > 12*time.Hour {
		t.Errorf("life = %s, want twelve hours", life)
	}
	chained := keysOf(out.Credentials)
	if _, err := e.tryAssume(chained, long, "on", lasting(3600)); err != nil {
		t.Errorf("an hour in a chain: %v", err)
	}
	_, err = e.tryAssume(chained, long, "on", lasting(3601))
	wantError(t, err, "ValidationError", 400, "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
}

func TestTagsThroughAChain(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	alice := e.user("alice", allowAll)
	const assumer = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession"],"Resource":"*"}]}`
	first := e.role("first", trusts(ownAccount, assumeTag, ""))
	e.grant("first", assumer)
	// The second role sees the tag as one of the request, and its keys; what is not transitive it does not see.
	second := e.role("second", trusts(ownAccount, assumeTag, `{
		"StringEquals":{"aws:RequestTag/team":"blue","aws:PrincipalTag/TEAM":"blue"},
		"ForAllValues:StringEquals":{"aws:TagKeys":["Team","stage"],"sts:TransitiveTagKeys":["Team"]},
		"Null":{"aws:RequestTag/shift":"true","aws:TagKeys":"false","sts:TransitiveTagKeys":"false"}}`))
	e.grant("second", assumer)
	third := e.role("third", trusts(ownAccount, assumeTag, `{"StringEquals":{"aws:RequestTag/Team":"blue"},"Null":{"aws:RequestTag/stage":"true"}}`))
	untagged := e.role("untagged", trusts(ownAccount, assumeOnly, ""))

	one := e.assume(alice, first, "one", tags("Team*", "blue", "shift", "night"))
	two := e.assume(one, second, "two", tags("stage", "test"))
	e.assume(two, third, "three")

	if _, err := e.tryAssume(e.assume(alice, first, "one", tags("Team*", "red")), second, "two"); err == nil {
		t.Error("a role that trusts team blue was assumed by team red")
	}
	if _, err := e.tryAssume(e.assume(alice, first, "one", tags("Team", "blue")), second, "two"); err == nil {
		t.Error("a tag that is not transitive went down the chain")
	}
	for _, value := range []string{"blue", "red"} {
		_, err := e.tryAssume(one, second, "two", tags("TEAM", value))
		wantError(t, err, "InvalidParameterValue", 400,
			"One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from the calling session.")
	}

	// sts:TagSession is needed for tags, whether they are passed or inherited, on both sides.
	_, err := e.tryAssume(alice, untagged, "work", tags("a", "b"))
	wantError(t, err, "AccessDenied", 403, notAuthorized("arn:aws:iam::"+account+":user/alice", "sts:TagSession", untagged))
	_, err = e.tryAssume(one, untagged, "work")
	wantError(t, err, "AccessDenied", 403, notAuthorized("arn:aws:sts::"+account+":assumed-role/first/one", "sts:TagSession", untagged))
	bare := e.assume(alice, first, "bare")
	if _, err := e.tryAssume(bare, untagged, "work"); err != nil {
		t.Errorf("without tags sts:TagSession was asked for: %v", err)
	}
	assumes := e.user("assumes", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}]}`)
	if _, err := e.tryAssume(assumes, first, "work"); err != nil {
		t.Errorf("with sts:AssumeRole only, and no tags: %v", err)
	}
	_, err = e.tryAssume(assumes, first, "work", tags("a", "b"))
	wantError(t, err, "AccessDenied", 403, notAuthorized("arn:aws:iam::"+account+":user/assumes", "sts:TagSession", first))
}

func TestSessionTagsBecomePrincipalTags(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	alice := e.user("alice", allowAll)
	role := e.role("reader", trusts(ownAccount, assumeTag, ""), roleTag("stage", "test"))
	e.grant("reader", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:ListRoles","Resource":"*",
		"Condition":{"StringEquals":{"aws:PrincipalTag/team":"blue","aws:PrincipalTag/stage":"production"}}}]}`)
	for _, c := range []struct {
		name    string
		tags    []string
		allowed bool
	}{
		{"both tags, the role's overridden", []string{"team", "blue", "Stage", "production"}, true},
		{"the role's own tag counts when none overrides it", []string{"team", "blue"}, false},
		{"no team", []string{"stage", "production"}, false},
	} {
		session := e.assume(alice, role, "work", tags(c.tags...))
		client := awsiam.New(awsiam.Options{Region: "us-east-1", BaseEndpoint: &e.url, Credentials: provide(session), Retryer: aws.NopRetryer{}})
		if _, err := client.ListRoles(t.Context(), nil); (err == nil) != c.allowed {
			t.Errorf("%s: err = %v, want allowed = %v", c.name, err, c.allowed)
		}
	}
}

func TestSourceIdentity(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	alice := e.user("alice", allowAll)
	first := e.role("first", trusts(ownAccount, everything, ""))
	e.grant("first", allowAll)
	byAlice := e.role("by-alice", trusts(ownAccount, everything, `{"StringEquals":{"sts:SourceIdentity":"alice"}}`))
	unset := e.role("unset", trusts(ownAccount, assumeOnly, ""))

	one, err := e.tryAssume(alice, first, "one", source("alice"))
	must(t, err)
	if aws.ToString(one.SourceIdentity) != "alice" {
		t.Errorf("source identity = %v, want alice", one.SourceIdentity)
	}
	two, err := e.tryAssume(keysOf(one.Credentials), byAlice, "two")
	if err != nil {
		t.Errorf("an inherited source identity is not seen: %v", err)
	} else if aws.ToString(two.SourceIdentity) != "alice" {
		t.Errorf("source identity = %v, want the inherited alice", two.SourceIdentity)
	}
	if _, err := e.tryAssume(keysOf(one.Credentials), byAlice, "two", source("alice")); err != nil {
		t.Errorf("the same source identity again: %v", err)
	}
	const session = "arn:aws:sts::" + account + ":assumed-role/first/one"
	_, err = e.tryAssume(keysOf(one.Credentials), first, "two", source("mallory"))
	wantError(t, err, "AccessDenied", 403, notAuthorized(session, "sts:SetSourceIdentity", first))
	_, err = e.tryAssume(keysOf(one.Credentials), unset, "two")
	wantError(t, err, "AccessDenied", 403, notAuthorized(session, "sts:SetSourceIdentity", unset))
	_, err = e.tryAssume(alice, byAlice, "two", source("mallory"))
	wantError(t, err, "AccessDenied", 403, notAuthorized("arn:aws:iam::"+account+":user/alice", "sts:AssumeRole", byAlice))
	_, err = e.tryAssume(alice, first, "two", source("aws:alice"))
	wantError(t, err, "ValidationError", 400, "1 validation error detected: Value 'aws:alice' at 'sourceIdentity' failed to satisfy constraint: "+
		`Member must satisfy regular expression pattern: [\w+=,.@-]*`)
}

func TestSessionPoliciesOnlyTakeAway(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	alice := e.user("alice", allowAll)
	role := e.role("reader", trusts(ownAccount, everything, ""))
	e.grant("reader", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:ListRoles","iam:ListUsers"],"Resource":"*"}]}`)
	made, err := e.iamOf(account).CreatePolicy(t.Context(), &awsiam.CreatePolicyInput{
		PolicyName:     aws.String("roles"),
		PolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:ListRoles","Resource":"*"}]}`),
	})
	must(t, err)

	for _, c := range []struct {
		name                   string
		edit                   func(*awssts.AssumeRoleInput)
		roles, users, policies bool
	}{
		{"without any", func(*awssts.AssumeRoleInput) {}, true, true, false},
		{"an inline one", within(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:ListUsers","iam:ListPolicies"],"Resource":"*"}]}`), false, true, false},
		{"a managed one", withinManaged(*made.Policy.Arn), true, false, false},
		{"one of AWS's", withinManaged("arn:aws:iam::aws:policy/AdministratorAccess"), true, true, false},
	} {
		session := e.assume(alice, role, "work", c.edit)
		client := awsiam.New(awsiam.Options{Region: "us-east-1", BaseEndpoint: &e.url, Credentials: provide(session), Retryer: aws.NopRetryer{}})
		_, rolesErr := client.ListRoles(t.Context(), nil)
		_, usersErr := client.ListUsers(t.Context(), nil)
		_, policiesErr := client.ListPolicies(t.Context(), nil)
		got := [3]bool{rolesErr == nil, usersErr == nil, policiesErr == nil}
		if got != [3]bool{c.roles, c.users, c.policies} {
			t.Errorf("%s: allowed %v, want %v (errors %v, %v, %v)", c.name, got, [3]bool{c.roles, c.users, c.policies}, rolesErr, usersErr, policiesErr)
		}
	}
}

func TestSessionsEndWithTheirEntity(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	ctx, admin := t.Context(), e.iamOf(account)
	alice := e.user("alice", "")
	trust := trusts(`{"AWS":"arn:aws:iam::`+account+`:user/alice"}`, assumeOnly, "")
	role := e.role("reader", trust)
	ofRole := e.assume(alice, role, "work")
	ofUser, err := e.stsAs(alice).GetSessionToken(ctx, nil)
	must(t, err)
	e.whoAmI(ofRole)
	e.whoAmI(keysOf(ofUser.Credentials))

	_, err = admin.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: aws.String("reader")})
	must(t, err)
	gone := func(name string, c *sigv4.Credentials) {
		t.Helper()
		_, err := e.stsAs(c).GetCallerIdentity(ctx, nil)
		t.Log(name)
		wantError(t, err, "InvalidClientTokenId", 403, "The security token included in the request is invalid.")
	}
	gone("session of a deleted role", ofRole)
	e.role("reader", trust)
	gone("session of a deleted role that has a namesake", ofRole)
	e.whoAmI(e.assume(alice, role, "work"))

	_, err = admin.DeleteAccessKey(ctx, &awsiam.DeleteAccessKeyInput{UserName: aws.String("alice"), AccessKeyId: &alice.AccessKeyID})
	must(t, err)
	gone("deleted access key", alice)
	e.whoAmI(keysOf(ofUser.Credentials))
	_, err = admin.DeleteUser(ctx, &awsiam.DeleteUserInput{UserName: aws.String("alice")})
	must(t, err)
	gone("session of a deleted user", keysOf(ofUser.Credentials))
}

// SDKs sign with credentials until the moment at which these end, and what they sign then is still on its way.
func TestSessionsExpire(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	out, err := e.tryAssume(e.user("alice", allowAll), e.role("reader", trusts(ownAccount, assumeOnly, "")), "work", lasting(900))
	must(t, err)
	session, end := keysOf(out.Credentials), *out.Credentials.Expiration
	for _, tt := range []struct {
		name  string
		after time.Duration // their end
		want  bool
	}{
		{"a second before they end", -time.Second, true},
		{"when they end", 0, true},
		{"when the last request may arrive", 5*time.Second - 1, true},
		{"then", 5 * time.Second, false},
		{"an hour later", time.Hour, false},
	} {
		at := end.Add(tt.after)
		e.at.Store(&at)
		_, err := e.stsAs(session).GetCallerIdentity(t.Context(), nil)
		if tt.want && err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if !tt.want {
			wantError(t, err, "ExpiredToken", 403, "The security token included in the request is expired")
		}
	}
}

func TestReplicasOpenEachOthersSessions(t *testing.T) {
	t.Parallel()
	store := kv.NewMemory()
	a, b := newReplica(t, store), newReplica(t, store)
	role := a.role("reader", trusts(ownAccount, assumeOnly, ""))
	session := a.assume(a.user("alice", allowAll), role, "work")
	here, _, _ := a.whoAmI(session)
	there, _, _ := b.whoAmI(session)
	if here != there {
		t.Errorf("the session is %s here and %s there", here, there)
	}
	foreign := newEnv(t)
	_, err := foreign.sts.Credentials(t.Context(), session.AccessKeyID, session.SessionToken)
	wantAuthError(t, err, awsapi.UnknownKey)
}

// What one replica has acknowledged, the other knows when it is asked, though its watch may be behind: users, keys, roles and sessions are
// looked up in the store before they are said not to be there.
func TestReplicasBelieveNoMissTooEarly(t *testing.T) {
	t.Parallel()
	store := kv.NewMemory()
	first, second := newReplica(t, store), newReplica(t, store)
	for i := range 50 {
		name := fmt.Sprintf("app-%d", i)
		user := first.user(name, "")
		role := first.role(name, trusts(`{"AWS":"arn:aws:iam::`+account+`:user/`+name+`"}`, assumeOnly, ""))
		session := second.assume(user, role, name)
		first.whoAmI(session)
	}
}

func wantAuthError(t *testing.T, err error, kind awsapi.AuthKind) {
	t.Helper()
	auth, ok := errors.AsType[*awsapi.AuthError](err)
	if !ok || auth.Kind != kind {
		t.Errorf("err = %v, want an AuthError of kind %d", err, kind)
	}
}

func TestCredentialsThatAreNotOurs(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	alice := e.user("alice", allowAll)
	role := e.role("reader", trusts(ownAccount, assumeOnly, ""))
	one, two := e.assume(alice, role, "one"), e.assume(alice, role, "two")
	flip := func(s string, i int) string {
		raw, err := base64.StdEncoding.DecodeString(s)
		must(t, err)
		raw[(i+len(raw))%len(raw)] ^= 1
		return base64.StdEncoding.EncodeToString(raw)
	}
	got, err := e.sts.Credentials(t.Context(), one.AccessKeyID, one.SessionToken)
	must(t, err)
	if got.Secret != one.SecretAccessKey || got.Identity.Session.Name != "one" || got.Identity.AccessKeyID != one.AccessKeyID {
		t.Errorf("credentials of %+v", got.Identity)
	}
	for name, c := range map[string][2]string{
		"an unknown key":                    {"AKIAIOSFODNN7EXAMPLE", ""},
		"no key":                            {"", ""},
		"a long-term key with a token":      {alice.AccessKeyID, one.SessionToken},
		"a temporary key without a token":   {one.AccessKeyID, ""},
		"a temporary key of another token":  {two.AccessKeyID, one.SessionToken},
		"a token that is no base64":         {one.AccessKeyID, "!" + one.SessionToken},
		"a token with a line break":         {one.AccessKeyID, one.SessionToken[:40] + "\n" + one.SessionToken[40:]},
		"a token cut short":                 {one.AccessKeyID, one.SessionToken[:len(one.SessionToken)-8]},
		"a token of another prefix":         {one.AccessKeyID, flip(one.SessionToken, 0)},
		"a token of an altered seal":        {one.AccessKeyID, flip(one.SessionToken, 20)},
		"a token of an altered end":         {one.AccessKeyID, flip(one.SessionToken, -1)},
		"a token that is only a prefix":     {one.AccessKeyID, "IQoJb3JpZ2luX2Vj"},
		"a token of enormous length":        {one.AccessKeyID, "IQoJb3JpZ2luX2Vj" + strings.Repeat("AAAA", 1<<16)},
		"a token of a session, as the key":  {"ASIA", one.SessionToken},
		"a temporary key with garbage":      {one.AccessKeyID, base64.StdEncoding.EncodeToString([]byte("!\n\torigin_ec and then some garbage"))},
		"an access key ID in lower case":    {strings.ToLower(one.AccessKeyID), one.SessionToken},
		"an access key ID that goes on":     {one.AccessKeyID + "A", one.SessionToken},
		"an access key ID that is cut":      {one.AccessKeyID[:19], one.SessionToken},
		"a temporary key's ID, no session":  {"ASIAIOSFODNN7EXAMPLE", ""},
		"a secret in place of a session":    {one.AccessKeyID, string(one.SecretAccessKey)},
		"a token without its base64 ending": {one.AccessKeyID, strings.TrimRight(one.SessionToken, "=") + "A"},
	} {
		_, err := e.sts.Credentials(t.Context(), c[0], c[1])
		t.Log(name)
		wantAuthError(t, err, awsapi.UnknownKey)
	}
}

// The bits behind the last byte of a token say nothing, and must be zero: there is one spelling of each.
func TestTokensHaveOneSpelling(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	alice := e.user("alice", allowAll)
	role := e.role("reader", trusts(ownAccount, everything, ""))
	padded := 0
	for _, identity := range []string{"al", "ali", "alic"} { // of which two make a token that ends in padding
		session := e.assume(alice, role, "work", source(identity))
		bare := strings.TrimRight(session.SessionToken, "=")
		if bare == session.SessionToken {
			continue
		}
		padded++
		last := bare[len(bare)-1]
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
		next := alphabet[strings.IndexByte(alphabet, last)+1]
		other := bare[:len(bare)-1] + string(next) + session.SessionToken[len(bare):]
		if _, err := e.sts.Credentials(t.Context(), session.AccessKeyID, session.SessionToken); err != nil {
			t.Error(err)
		}
		_, err := e.sts.Credentials(t.Context(), session.AccessKeyID, other)
		wantAuthError(t, err, awsapi.UnknownKey)
	}
	if padded != 2 {
		t.Errorf("%d tokens end in padding, want two", padded)
	}
}

func TestGetSessionToken(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	ctx := t.Context()
	alice := e.user("alice", "")
	role := e.role("reader", trusts(`{"AWS":"arn:aws:iam::`+account+`:user/alice"}`, assumeOnly, ""))

	for _, c := range []struct {
		name string
		who  *sigv4.Credentials
		asks *int32
		want time.Duration
	}{
		{"a user", alice, nil, 12 * time.Hour},
		{"a user, for longer", alice, aws.Int32(129600), 36 * time.Hour},
		{"root", e.rootOf(account), nil, time.Hour},
		{"root, for less", e.rootOf(account), aws.Int32(900), 15 * time.Minute},
		{"root, for longer", e.rootOf(account), aws.Int32(43200), time.Hour},
	} {
		out, err := e.stsAs(c.who).GetSessionToken(ctx, &awssts.GetSessionTokenInput{DurationSeconds: c.asks})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if life := time.Until(*out.Credentials.Expiration); life > c.want || life < c.want-time.Minute {
			t.Errorf("%s gets %s, want %s", c.name, life, c.want)
		}
	}

	out, err := e.stsAs(alice).GetSessionToken(ctx, nil)
	must(t, err)
	session := keysOf(out.Credentials)
	e.whoAmI(session)
	for name, c := range map[string]*sigv4.Credentials{"a user's session": session, "a role session": e.assume(session, role, "work")} {
		_, err = e.stsAs(c).GetSessionToken(ctx, nil)
		t.Log(name)
		wantError(t, err, "AccessDenied", 403, "Cannot call GetSessionToken with session credentials")
		_, err = e.stsAs(c).GetFederationToken(ctx, &awssts.GetFederationTokenInput{Name: aws.String("bob")})
		wantError(t, err, "AccessDenied", 403, "Cannot call GetFederationToken with session credentials")
	}
	_, err = e.stsAs(session).GetAccessKeyInfo(ctx, &awssts.GetAccessKeyInfoInput{AccessKeyId: &alice.AccessKeyID})
	wantError(t, err, "AccessDenied", 403, "Cannot call GetAccessKeyInfo with session credentials")
	_, err = e.stsAs(alice).GetSessionToken(ctx, &awssts.GetSessionTokenInput{SerialNumber: aws.String("GAHT12345678"), TokenCode: aws.String("123456")})
	wantError(t, err, "AccessDenied", 403, "MultiFactorAuthentication failed, unable to validate MFA code. "+
		"Please verify your MFA serial number is valid and associated with this user.")
}

func TestGetFederationToken(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	ctx := t.Context()
	alice, nobody := e.user("alice", allowAll), e.user("nobody", "")
	onlyBob := e.user("only-bob", `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":"sts:GetFederationToken","Resource":"arn:aws:sts::`+account+`:federated-user/bob"}]}`)
	const listRoles = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:ListRoles","Resource":"*"}]}`
	federate := func(c *sigv4.Credentials, edit func(*awssts.GetFederationTokenInput)) (*awssts.GetFederationTokenOutput, error) {
		in := &awssts.GetFederationTokenInput{Name: aws.String("bob")}
		if edit != nil {
			edit(in)
		}
		return e.stsAs(c).GetFederationToken(ctx, in)
	}
	may := func(c *ststypes.Credentials) bool {
		client := awsiam.New(awsiam.Options{Region: "us-east-1", BaseEndpoint: &e.url, Credentials: provide(keysOf(c)), Retryer: aws.NopRetryer{}})
		_, err := client.ListRoles(ctx, nil)
		return err == nil
	}

	out, err := federate(alice, nil)
	must(t, err)
	if *out.FederatedUser.Arn != "arn:aws:sts::"+account+":federated-user/bob" || *out.FederatedUser.FederatedUserId != account+":bob" ||
		out.PackedPolicySize == nil || *out.PackedPolicySize != 0 {
		t.Errorf("got %+v, packed policy size %v", out.FederatedUser, out.PackedPolicySize)
	}
	if may(out.Credentials) {
		t.Error("without a session policy a federated user has its user's permissions")
	}
	_, err = e.stsAs(keysOf(out.Credentials)).GetAccessKeyInfo(ctx, &awssts.GetAccessKeyInfoInput{AccessKeyId: &alice.AccessKeyID})
	wantError(t, err, "AccessDenied", 403, "Cannot call GetAccessKeyInfo with session credentials")

	out, err = federate(alice, func(in *awssts.GetFederationTokenInput) { in.Policy = aws.String(listRoles) })
	must(t, err)
	if !may(out.Credentials) {
		t.Error("what user and session policy both allow is denied")
	}
	out, err = federate(onlyBob, func(in *awssts.GetFederationTokenInput) { in.Policy = aws.String(listRoles) })
	must(t, err)
	if may(out.Credentials) {
		t.Error("a session policy gave a permission that its user does not have")
	}
	out, err = federate(alice, func(in *awssts.GetFederationTokenInput) {
		in.PolicyArns = []ststypes.PolicyDescriptorType{{Arn: aws.String("arn:aws:iam::aws:policy/AdministratorAccess")}}
	})
	must(t, err)
	if !may(out.Credentials) {
		t.Error("a managed session policy does not count")
	}

	resource := "arn:aws:sts::" + account + ":federated-user/bob"
	_, err = federate(nobody, nil)
	wantError(t, err, "AccessDenied", 403, notAuthorized("arn:aws:iam::"+account+":user/nobody", "sts:GetFederationToken", resource)+
		" because no identity-based policy allows the sts:GetFederationToken action")
	_, err = federate(onlyBob, func(in *awssts.GetFederationTokenInput) {
		in.Tags = []ststypes.Tag{{Key: aws.String("team"), Value: aws.String("blue")}}
	})
	wantError(t, err, "AccessDenied", 403, notAuthorized("arn:aws:iam::"+account+":user/only-bob", "sts:TagSession", resource)+
		" because no identity-based policy allows the sts:TagSession action")
	_, err = federate(alice, func(in *awssts.GetFederationTokenInput) { in.Policy = aws.String("{") })
	if err == nil || !strings.Contains(err.Error(), "MalformedPolicyDocument") {
		t.Errorf("err = %v, want MalformedPolicyDocument", err)
	}
	_, err = federate(alice, func(in *awssts.GetFederationTokenInput) {
		in.PolicyArns = []ststypes.PolicyDescriptorType{{Arn: aws.String("arn:aws:iam::" + account + ":policy/missing")}}
	})
	wantError(t, err, "ValidationError", 400, "Policy arn:aws:iam::"+account+":policy/missing does not exist or is not attachable.")

	rooted, err := federate(e.rootOf(account), func(in *awssts.GetFederationTokenInput) { in.DurationSeconds = aws.Int32(7200) })
	must(t, err)
	if life := time.Until(*rooted.Credentials.Expiration); life > time.Hour {
		t.Errorf("root's federated user lives for %s, want an hour", life)
	}
	e.whoAmI(keysOf(rooted.Credentials))
	if may(rooted.Credentials) {
		t.Error("root's federated user has root's permissions without a session policy")
	}
}

func TestGetAccessKeyInfo(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	ctx := t.Context()
	alice, nobody := e.user("alice", allowAll), e.user("nobody", "")
	abroad := e.userIn(other, "carol", "")
	session := e.assume(alice, e.role("reader", trusts(ownAccount, assumeOnly, "")), "work")
	for id, want := range map[string]string{alice.AccessKeyID: account, abroad.AccessKeyID: other, session.AccessKeyID: account} {
		out, err := e.stsAs(alice).GetAccessKeyInfo(ctx, &awssts.GetAccessKeyInfoInput{AccessKeyId: &id})
		if err != nil || *out.Account != want {
			t.Errorf("account of %s: %v, %v, want %s", id, out, err, want)
		}
	}
	_, err := e.stsAs(nobody).GetAccessKeyInfo(ctx, &awssts.GetAccessKeyInfoInput{AccessKeyId: &alice.AccessKeyID})
	wantError(t, err, "AccessDenied", 403, "User: arn:aws:iam::"+account+":user/nobody is not authorized to perform: sts:GetAccessKeyInfo "+
		"because no identity-based policy allows the sts:GetAccessKeyInfo action")
	_, err = e.stsAs(alice).GetAccessKeyInfo(ctx, &awssts.GetAccessKeyInfoInput{AccessKeyId: aws.String("0000000000000000")})
	wantError(t, err, "ValidationError", 400, "0000000000000000 is not a valid access key ID.")
}
