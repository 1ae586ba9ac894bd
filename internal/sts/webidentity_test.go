//lint:file-ignore SA1019 The SDK calls PackedPolicySize deprecated; it is what the API model of these services has.

package sts_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
)

const providerARN = "arn:aws:iam::" + account + ":oidc-provider/" + host

// present trades a token for a session of a role.
func (e *env) present(role, session, token string, edit ...func(*awssts.AssumeRoleWithWebIdentityInput)) (*awssts.AssumeRoleWithWebIdentityOutput, error) {
	in := &awssts.AssumeRoleWithWebIdentityInput{RoleArn: &role, RoleSessionName: &session, WebIdentityToken: &token}
	for _, f := range edit {
		f(in)
	}
	return e.stsAs(nil).AssumeRoleWithWebIdentity(e.t.Context(), in)
}

func TestWebIdentity(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.provider(account, issuer)
	role := e.role("app", trusts(ourProvider, webIdentity, forSubject), path("/pods/"))
	e.grant("app", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:ListRoles","Resource":"*","Condition":{"StringEquals":{
		"aws:FederatedProvider":"`+providerARN+`","`+host+`:sub":"`+subject+`","`+host+`:aud":"sts.amazonaws.com"}}}]}`)

	text := token(t, good())
	out, err := e.present(role, "1690000000000000000", text)
	must(t, err)
	if out.PackedPolicySize != nil || out.SourceIdentity != nil {
		t.Errorf("packed policy size %v, source identity %v, want neither", out.PackedPolicySize, out.SourceIdentity)
	}
	session := "arn:aws:sts::" + account + ":assumed-role/app/1690000000000000000"
	got := []string{*out.SubjectFromWebIdentityToken, *out.Audience, *out.Provider, *out.AssumedRoleUser.Arn}
	if diff := cmp.Diff([]string{subject, "sts.amazonaws.com", providerARN, session}, got); diff != "" {
		t.Error(diff)
	}
	if arn, _, _ := e.whoAmI(keysOf(out.Credentials)); arn != session {
		t.Errorf("the credentials are %s, want %s", arn, session)
	}
	client := awsiam.New(awsiam.Options{Region: "us-east-1", BaseEndpoint: &e.url, Credentials: provide(keysOf(out.Credentials)), Retryer: aws.NopRetryer{}})
	if _, err := client.ListRoles(t.Context(), nil); err != nil {
		t.Errorf("the session does not know the token's issuer and subject: %v", err)
	}

	want := []audit.Event{{
		Version: "1.08", Source: "sts.amazonaws.com", Name: "AssumeRoleWithWebIdentity", Account: account, Region: "us-east-1", ReadOnly: true,
		Identity: audit.UserIdentity{
			Type: "WebIdentityUser", PrincipalID: providerARN + ":sts.amazonaws.com:" + subject, UserName: subject, Provider: providerARN,
		},
		SourceIP:   "127.0.0.1",
		Parameters: audit.Object(`{"roleArn":"` + role + `","roleSessionName":"1690000000000000000"}`),
		Response: audit.Object(`{"credentials":{"accessKeyId":"` + *out.Credentials.AccessKeyId + `","sessionToken":"` + audit.Hidden +
			`","expiration":"` + audit.TextTime(*out.Credentials.Expiration) + `"},"subjectFromWebIdentityToken":"` + subject +
			`","assumedRoleUser":{"assumedRoleId":"` + *out.AssumedRoleUser.AssumedRoleId + `","arn":"` + session +
			`"},"provider":"` + providerARN + `","audience":"sts.amazonaws.com"}`),
		Additional: audit.Object(`{"identityProviderConnectionVerificationMethod":"IAMTrustStore",` +
			`"RequestDetails":{"awsServingRegion":"us-east-1","endpointType":"regional"}}`),
		Resources: []audit.Resource{{Account: account, Type: "AWS::IAM::Role", ARN: role}},
		Lanyard: audit.Lanyard{Resources: []audit.Named{
			{Type: "AWS::IAM::AccessKey", Name: *out.Credentials.AccessKeyId}, {Type: "AWS::STS::AssumedRole", Name: *out.AssumedRoleUser.AssumedRoleId},
			{Type: "AWS::STS::AssumedRole", Name: session}, {Type: "AWS::IAM::Role", Name: role},
		}},
	}}
	events := e.journal.events(t, "1690000000000000000")
	for i := range events {
		ev := &events[i]
		if ev.RequestID == "" || ev.EventID == "" || ev.UserAgent == "" || !strings.HasPrefix(ev.Lanyard.Decision, "allowed") || ev.Time.IsZero() {
			t.Errorf("incomplete event %+v", *ev)
		}
		ev.RequestID, ev.EventID, ev.UserAgent, ev.Lanyard.Decision, ev.Time = "", "", "", "", time.Time{}
	}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("events (-want +got)\n%s", diff)
	}
	forbidden(t, e.journal.text(), text, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
}

// alter returns a token whose header or claims were replaced after it was signed.
func alter(t *testing.T, token string, part int, value any) string {
	t.Helper()
	parts := strings.Split(token, ".")
	data, err := json.Marshal(value)
	must(t, err)
	parts[part] = base64.RawURLEncoding.EncodeToString(data)
	return strings.Join(parts, ".")
}

func TestWebIdentityRefusals(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.provider(account, issuer)
	e.provider(account, issuer+"/unreachable")
	e.provider(other, issuer+"/elsewhere")
	role := e.role("app", trusts(ourProvider, webIdentity, forSubject))
	forService := e.role("service", trusts(`{"Service":"pods.eks.amazonaws.com"}`, webIdentity, ""))
	now := time.Now().Unix()

	public, err := x509.MarshalPKIXPublicKey(issuerKey().Public())
	must(t, err)
	none := alter(t, token(t, good()), 0, map[string]string{"alg": "none"})

	const (
		unverifiable = "The web identity token provided could not be validated. See the AssumeRoleWithWebIdentity documentation for requirements."
		noJWT        = "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)"
		noKeys       = "Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements"
		wrongAud     = "Incorrect token audience"
		notTrusted   = "Not authorized to perform sts:AssumeRoleWithWebIdentity"
		noProvider   = "No OpenIDConnect provider found in your account for "
	)
	type input = awssts.AssumeRoleWithWebIdentityInput
	for _, c := range []struct {
		name    string
		token   string
		edit    func(*input)
		code    string
		status  int
		message string
	}{
		{"claims altered after signing", alter(t, token(t, good()), 1, good().with("exp", now+7200)), nil, "InvalidIdentityToken", 400, unverifiable},
		{"signed by another key of the same name", tokenBy(t, jose.ES256, foreignKey(), "k1", good()), nil, "InvalidIdentityToken", 400, ""},
		{"signed by a key that the issuer does not have", tokenBy(t, jose.ES256, foreignKey(), "k9", good()), nil, "InvalidIdentityToken", 400, noKeys},
		{"unsigned, algorithm none", none, nil, "InvalidIdentityToken", 400, unverifiable},
		{"unsigned, without a signature", none[:strings.LastIndex(none, ".")+1], nil, "InvalidIdentityToken", 400, unverifiable},
		{"HMAC with the public key", tokenBy(t, jose.HS256, public, "k1", good()), nil, "InvalidIdentityToken", 400, unverifiable},
		{"expired an hour ago", token(t, good().with("exp", now-3600)), nil, "ExpiredTokenException", 400,
			fmt.Sprintf("Token expired: current date/time NOW must be before the expiration date/time %d", now-3600)},
		{"expired just now", token(t, good().with("exp", now-1)), nil, "ExpiredTokenException", 400,
			fmt.Sprintf("Token expired: current date/time NOW must be before the expiration date/time %d", now-1)},
		{"not valid yet", token(t, good().with("nbf", now+600)), nil, "InvalidIdentityToken", 400, unverifiable},
		{"issued in the future", token(t, good().with("iat", now+600)), nil, "InvalidIdentityToken", 400, unverifiable},
		{"for another audience", token(t, good().with("aud", "pods.eks.amazonaws.com")), nil, "InvalidIdentityToken", 400, wrongAud},
		{"for another audience and subject", token(t, good().with("aud", "x").with("sub", "system:serviceaccount:default:other")), nil, "InvalidIdentityToken", 400, wrongAud},
		{"for two audiences", token(t, good().with("aud", []string{"sts.amazonaws.com", "api"})), nil, "InvalidIdentityToken", 400,
			"Token audience contains more than one audience while authorized party is not present"},
		{"for another authorized party", token(t, good().with("azp", "api")), nil, "InvalidIdentityToken", 400, wrongAud},
		{"of an issuer that is not registered", token(t, good().with("iss", "https://issuer.example/id/X/")), nil, "InvalidIdentityToken", 400,
			noProvider + "https://issuer.example/id/X/"},
		{"of an issuer with a slash too many", token(t, good().with("iss", issuer+"/")), nil, "InvalidIdentityToken", 400, noProvider + issuer + "/"},
		{"of an issuer that another account registered", token(t, good().with("iss", issuer+"/elsewhere")), nil, "InvalidIdentityToken", 400,
			noProvider + issuer + "/elsewhere"},
		{"of an issuer that cannot be reached", token(t, good().with("iss", issuer+"/unreachable")), nil, "InvalidIdentityToken", 400, noKeys},
		{"of another service account", token(t, good().with("sub", "system:serviceaccount:default:other")), nil, "AccessDenied", 403, notTrusted},
		{"of another namespace", token(t, good().with("sub", "system:serviceaccount:other:app")), nil, "AccessDenied", 403, notTrusted},
		{"of a subject in other letters", token(t, good().with("sub", strings.ToUpper(subject))), nil, "AccessDenied", 403, notTrusted},
		{"with a subject that is too long", token(t, good().with("sub", strings.Repeat("s", 256))), nil, "InvalidIdentityToken", 400, unverifiable},
		{"no JWT", "not.a.jwt", nil, "InvalidIdentityToken", 400, noJWT},
		{"an opaque access token", "ya29.a0AfH6SMBx", nil, "InvalidIdentityToken", 400, noJWT},
		{"without iat", token(t, good().with("iat", nil)), nil, "InvalidIdentityToken", 400, "Missing a required claim: iat."},
		{"without sub", token(t, good().with("sub", nil)), nil, "InvalidIdentityToken", 400, "Missing a required claim: sub."},
		{"for a role that does not exist", token(t, good()), func(in *input) { in.RoleArn = aws.String(role + "x") }, "AccessDenied", 403, notTrusted},
		{"for a role of another account", token(t, good()), func(in *input) { in.RoleArn = aws.String(strings.Replace(role, account, other, 1)) },
			"AccessDenied", 403, notTrusted},
		{"for a role that trusts a service", token(t, good()), func(in *input) { in.RoleArn = &forService }, "AccessDenied", 403, notTrusted},
		{"for longer than the role allows", token(t, good()), func(in *input) { in.DurationSeconds = aws.Int32(3601) }, "ValidationError", 400,
			"The requested DurationSeconds exceeds the MaxSessionDuration set for this role."},
		{"for a role ARN that is none", token(t, good()), func(in *input) { in.RoleArn = aws.String("arn:a:a::aaaaaaaaaa:") }, "ValidationError", 400,
			"arn:a:a::aaaaaaaaaa: is invalid"},
		{"under a session name that cannot be", token(t, good()), func(in *input) { in.RoleSessionName = aws.String("Session1:2") }, "ValidationError", 400,
			`1 validation error detected: Value 'Session1:2' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]*`},
		{"within a policy that is none", token(t, good()), func(in *input) { in.Policy = aws.String("{") }, "MalformedPolicyDocument", 400, ""},
		{"with an OAuth provider", token(t, good()), func(in *input) { in.ProviderId = aws.String("www.amazon.com") }, "ValidationError", 400,
			"ProviderId is for OAuth 2.0 access tokens, which are not supported."},
	} {
		var edits []func(*input)
		if c.edit != nil {
			edits = append(edits, c.edit)
		}
		out, err := e.present(role, "refused", c.token, edits...)
		t.Log(c.name)
		if err == nil {
			t.Errorf("credentials were made: %+v", out.AssumedRoleUser)
			continue
		}
		message := c.message
		if before, after, ok := strings.Cut(c.message, "NOW"); ok { // the server's clock, which the text shows
			var seen int64
			if _, err := fmt.Sscanf(err.Error()[strings.Index(err.Error(), before)+len(before):], "%d", &seen); err != nil || seen < now || seen > now+600 {
				t.Errorf("the text shows the time %d, err %v", seen, err)
			}
			message = before + fmt.Sprint(seen) + after
		} else if message == "" {
			_, message, _ = strings.Cut(err.Error(), c.code+": ")
		}
		wantError(t, err, c.code, c.status, message)
	}
}

func TestTokenTimesHaveALeewayOnlyForTheFuture(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.provider(account, issuer)
	role := e.role("app", trusts(ourProvider, webIdentity, forSubject))
	soon := time.Now().Add(4 * time.Minute).Unix()
	for _, claim := range []string{"nbf", "iat"} {
		if _, err := e.present(role, "early", token(t, good().with(claim, soon))); err != nil {
			t.Errorf("%s four minutes ahead: %v", claim, err)
		}
	}
}

func TestWebIdentityOfManyShapes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.provider(account, issuer)
	azp := e.role("azp", trusts(ourProvider, webIdentity,
		`{"StringEquals":{"`+host+`:aud":"sts.amazonaws.com","`+host+`:azp":"sts.amazonaws.com","`+host+`:oaud":"real"}}`))
	amr := e.role("amr", trusts(ourProvider, webIdentity, `{"ForAnyValue:StringEquals":{"`+host+`:amr":"mfa"}}`))
	request := e.role("request", trusts(ourProvider, webIdentity, `{
		"StringEquals":{"sts:RoleSessionName":"shaped","aws:RequestedRegion":"us-east-1"},
		"Bool":{"aws:SecureTransport":"false"},
		"IpAddress":{"aws:SourceIp":"127.0.0.0/8"},
		"DateGreaterThan":{"aws:CurrentTime":"2024-01-01T00:00:00Z"},
		"NumericGreaterThan":{"aws:EpochTime":"1700000000"},
		"StringLike":{"aws:UserAgent":"aws-sdk-go-v2/*"},
		"Null":{"aws:PrincipalArn":"true","aws:TagKeys":"true","sts:SourceIdentity":"true"}}`))
	secure := e.role("secure", trusts(ourProvider, webIdentity, `{"Bool":{"aws:SecureTransport":"true"}}`))

	for _, c := range []struct {
		name    string
		role    string
		claims  claims
		allowed bool
	}{
		{"the authorized party is the audience", azp, good().with("azp", "sts.amazonaws.com").with("aud", "real"), true},
		{"without authorized party there is no oaud", azp, good(), false},
		{"one of the authentication methods fits", amr, good().with("amr", []string{"pwd", "mfa"}), true},
		{"no authentication method fits", amr, good().with("amr", []string{"pwd"}), false},
		{"no authentication methods", amr, good(), false},
		{"the request's own keys", request, good(), true},
		{"a request without TLS", secure, good(), false},
	} {
		_, err := e.present(c.role, "shaped", token(t, c.claims))
		if c.allowed && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if !c.allowed {
			t.Log(c.name)
			wantError(t, err, "AccessDenied", 403, "Not authorized to perform sts:AssumeRoleWithWebIdentity")
		}
	}
}

func TestTagsAndSourceIdentityOfAToken(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.provider(account, issuer)
	app := e.role("app", trusts(ourProvider, `["sts:AssumeRoleWithWebIdentity","sts:TagSession","sts:SetSourceIdentity"]`,
		`{"StringEqualsIfExists":{"aws:RequestTag/team":"blue","sts:SourceIdentity":"alice"}}`))
	e.grant("app", allowAll)
	plain := e.role("plain", trusts(ourProvider, webIdentity, ""))
	next := e.role("next", trusts(ownAccount, everything, `{"StringEquals":{"aws:RequestTag/team":"blue","sts:SourceIdentity":"alice"}}`))
	tagged := good().with("https://aws.amazon.com/tags", map[string]any{
		"principal_tags": map[string]any{"team": []string{"blue"}, "shift": []string{"night"}}, "transitive_tag_keys": []string{"team"},
	})

	out, err := e.present(app, "tagged", token(t, tagged.with("https://aws.amazon.com/source_identity", "alice")))
	must(t, err)
	if aws.ToString(out.SourceIdentity) != "alice" || out.PackedPolicySize == nil {
		t.Errorf("source identity %v, packed policy size %v", out.SourceIdentity, out.PackedPolicySize)
	}
	e.assume(keysOf(out.Credentials), next, "on")

	if _, err := e.present(plain, "tagged", token(t, good())); err != nil {
		t.Errorf("without tags: %v", err)
	}
	_, err = e.present(plain, "tagged", token(t, tagged))
	wantError(t, err, "AccessDenied", 403, "Not authorized to perform sts:TagSession")
	_, err = e.present(plain, "tagged", token(t, good().with("https://aws.amazon.com/source_identity", "alice")))
	wantError(t, err, "AccessDenied", 403, "Not authorized to perform sts:SetSourceIdentity")
	_, err = e.present(app, "tagged", token(t, good().with("https://aws.amazon.com/source_identity", "mallory")))
	wantError(t, err, "AccessDenied", 403, "Not authorized to perform sts:AssumeRoleWithWebIdentity")

	for name, c := range map[string]struct {
		tags    map[string]any
		code    string
		message string
	}{
		"a tag value that no request could have": {map[string]any{"team": "blue;red"}, "ValidationError",
			`1 validation error detected: Value 'blue;red' at 'tags.1.member.value' failed to satisfy constraint: Member must satisfy regular expression pattern: [\p{L}\p{Z}\p{N}_.:/=+\-@]*`},
		"a tag key that no request could have": {map[string]any{"te*m": "blue"}, "ValidationError",
			`1 validation error detected: Value 'te*m' at 'tags.1.member.key' failed to satisfy constraint: Member must satisfy regular expression pattern: [\p{L}\p{Z}\p{N}_.:/=+\-@]+`},
		"a tag key that is empty": {map[string]any{"": "blue"}, "ValidationError",
			"1 validation error detected: Value '' at 'tags.1.member.key' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		"a tag value that is too long": {map[string]any{"team": strings.Repeat("b", 257)}, "ValidationError",
			"1 validation error detected: Value '" + strings.Repeat("b", 257) + "' at 'tags.1.member.value' failed to satisfy constraint: Member must have length less than or equal to 256"},
		"a reserved tag key": {map[string]any{"aws:team": "blue"}, "InvalidParameterValue", "Tag keys that begin with the reserved prefix aws: can't be set: aws:team"},
	} {
		_, err := e.present(app, "tagged", token(t, good().with("https://aws.amazon.com/tags", map[string]any{"principal_tags": c.tags})))
		t.Log(name)
		wantError(t, err, c.code, 400, c.message)
	}
	many := make(map[string]any)
	for i := range 51 {
		many[fmt.Sprint("k", i)] = "v"
	}
	_, err = e.present(app, "tagged", token(t, good().with("https://aws.amazon.com/tags", map[string]any{"principal_tags": many})))
	wantError(t, err, "ValidationError", 400,
		"1 validation error detected: Value at 'tags' failed to satisfy constraint: Member must have length less than or equal to 50")
	_, err = e.present(app, "tagged", token(t, good().with("https://aws.amazon.com/source_identity", "a")))
	wantError(t, err, "ValidationError", 400,
		"1 validation error detected: Value 'a' at 'sourceIdentity' failed to satisfy constraint: Member must have length greater than or equal to 2")
}

func TestRefusedTokensAreRecordedOnceTheirIssuerIsKnown(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.provider(account, issuer)
	role := e.role("app", trusts(ourProvider, webIdentity, forSubject))
	for _, c := range []struct {
		name   string
		claims claims
		code   string // "" when nothing is recorded
	}{
		{"unknown-issuer", good().with("iss", "https://nobody.example"), ""},
		{"wrong-audience", good().with("aud", "other"), "InvalidIdentityToken"},
		{"expired", good().with("exp", time.Now().Unix()-60), "ExpiredTokenException"},
		{"wrong-subject", good().with("sub", "system:serviceaccount:x:y"), "AccessDenied"},
	} {
		text := token(t, c.claims)
		if _, err := e.present(role, c.name, text); err == nil {
			t.Errorf("%s: credentials were made", c.name)
		}
		events := e.journal.events(t, c.name)
		forbidden(t, e.journal.text(), text)
		switch {
		case c.code == "":
			if len(events) != 0 {
				t.Errorf("%s: recorded %+v", c.name, events)
			}
		case len(events) != 1 || events[0].ErrorCode != c.code || events[0].Account != account || events[0].Identity.Provider != providerARN ||
			events[0].Lanyard.Decision == "" || strings.HasPrefix(events[0].Lanyard.Decision, "allowed"):
			t.Errorf("%s: recorded %+v, want one refusal with %s", c.name, events, c.code)
		}
	}
	if events := e.journal.events(t, "expired"); len(events) == 1 && events[0].Identity.PrincipalID != "" {
		t.Errorf("a subject that was not verified was recorded as if it were: %s", events[0].Identity.PrincipalID)
	}
}

func TestWebIdentityWithinSessionPolicies(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.provider(account, issuer)
	role := e.role("app", trusts(ourProvider, webIdentity, forSubject))
	e.grant("app", allowAll)
	out, err := e.present(role, "within", token(t, good()), func(in *awssts.AssumeRoleWithWebIdentityInput) {
		in.Policy = aws.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:ListUsers","Resource":"*"}]}`)
		in.PolicyArns = []ststypes.PolicyDescriptorType{}
	})
	must(t, err)
	if out.PackedPolicySize == nil || *out.PackedPolicySize < 1 {
		t.Errorf("packed policy size %v", out.PackedPolicySize)
	}
	client := awsiam.New(awsiam.Options{Region: "us-east-1", BaseEndpoint: &e.url, Credentials: provide(keysOf(out.Credentials)), Retryer: aws.NopRetryer{}})
	if _, err := client.ListUsers(t.Context(), nil); err != nil {
		t.Errorf("what the session policy allows: %v", err)
	}
	if _, err := client.ListRoles(t.Context(), nil); err == nil {
		t.Error("what the session policy does not allow was allowed")
	}
}
