package sts_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

// encode makes the message of a caller that may not start an instance.
func (e *env) encode(t testing.TB, c *sigv4.Credentials, edit ...func(*awsapi.Caller)) string {
	t.Helper()
	cred, err := e.sts.Credentials(t.Context(), c.AccessKeyID, c.SessionToken)
	must(t, err)
	caller := &awsapi.Caller{
		Identity: cred.Identity, Service: "ec2", Region: "us-east-1", SourceIP: netip.MustParseAddr("192.0.2.1"),
		UserAgent: "aws-cli/2 <x>", Time: time.Date(2026, time.March, 4, 5, 6, 7, 0, time.UTC),
	}
	for _, f := range edit {
		f(caller)
	}
	text, err := e.sts.EncodeDenial(t.Context(), caller, awsapi.Access{Action: "ec2:RunInstances", Resource: "*", Context: func(c *policy.Context) {
		c.Set("ec2:Region", "us-east-1")
	}})
	must(t, err)
	return text
}

func (e *env) decode(t testing.TB, c *sigv4.Credentials, text string) (string, error) {
	t.Helper()
	out, err := e.stsAs(c).DecodeAuthorizationMessage(t.Context(), &awssts.DecodeAuthorizationMessageInput{EncodedMessage: &text})
	if err != nil {
		return "", err
	}
	return *out.DecodedMessage, nil
}

func TestEncodedMessagesSayWhy(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	user := e.user("bob", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:*","Resource":"*"},`+
		`{"Sid":"NoStarts","Effect":"Deny","Action":["ec2:RunInstances","ec2:StartInstances"],"Resource":"*","Condition":`+
		`{"StringEquals":{"ec2:Region":["us-east-1","eu-west-1"]},"Bool":{"aws:SecureTransport":false}}},`+
		`{"Effect":"Deny","NotAction":"s3:*","NotResource":"arn:aws:s3:::*"}]}`)
	id := e.whoIs(user)
	decoded, err := e.decode(t, e.rootOf(account), e.encode(t, user))
	must(t, err)
	want := `{"allowed":false,"explicitDeny":true,"matchedStatements":{"items":[` +
		`{"statementId":"NoStarts","effect":"DENY","principals":{"items":[{"value":"` + id + `"}]},"principalGroups":{"items":[]},` +
		`"actions":{"items":[{"value":"ec2:RunInstances"},{"value":"ec2:StartInstances"}]},"resources":{"items":[{"value":"*"}]},` +
		`"conditions":{"items":[{"key":"aws:SecureTransport","values":{"items":[{"value":"false"}]}},` +
		`{"key":"ec2:Region","values":{"items":[{"value":"us-east-1"},{"value":"eu-west-1"}]}}]}},` +
		`{"statementId":"","effect":"DENY","principals":{"items":[{"value":"` + id + `"}]},"principalGroups":{"items":[]},` +
		`"actions":{"items":[]},"notActions":{"items":[{"value":"s3:*"}]},"resources":{"items":[]},"notResources":{"items":[{"value":"arn:aws:s3:::*"}]},` +
		`"conditions":{"items":[]}}]},"failures":{"items":[]},` +
		`"context":{"principal":{"id":"` + id + `","name":"bob","arn":"arn:aws:iam::111122223333:user/bob"},"action":"ec2:RunInstances","resource":"*",` +
		`"conditions":{"items":[` + conditionItems(
		"aws:CurrentTime", "2026-03-04T05:06:07Z", "aws:EpochTime", "1772600767", "aws:SecureTransport", "false", "aws:ViaAWSService", "false",
		"aws:RequestedRegion", "us-east-1", "aws:UserAgent", "aws-cli/2 <x>", "aws:SourceIp", "192.0.2.1", "aws:PrincipalType", "User",
		"aws:ResourceAccount", account, "aws:PrincipalAccount", account, "aws:PrincipalIsAWSService", "false", "aws:userid", id,
		"aws:PrincipalArn", "arn:aws:iam::111122223333:user/bob", "aws:username", "bob", "ec2:Region", "us-east-1") + `]}}}`
	if diff := cmp.Diff(want, decoded); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// conditionItems is pairs of keys and values as messages have them.
func conditionItems(pairs ...string) string {
	var items []string
	for i := 0; i < len(pairs); i += 2 {
		items = append(items, fmt.Sprintf(`{"key":%q,"values":{"items":[{"value":%q}]}}`, pairs[i], pairs[i+1]))
	}
	return strings.Join(items, ",")
}

// whoIs returns the unique ID of whose key it is.
func (e *env) whoIs(c *sigv4.Credentials) string {
	_, id, _ := e.whoAmI(c)
	return id
}

func TestWherePoliciesOfMessagesComeFrom(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	denyAll := `{"Version":"2012-10-17","Statement":[{"Sid":"Managed","Effect":"Deny","Action":"ec2:Run*","Resource":"*"}]}`
	managed, err := e.iamOf(account).CreatePolicy(t.Context(), &awsiam.CreatePolicyInput{PolicyName: ptr("deny"), PolicyDocument: &denyAll})
	must(t, err)
	role := e.role("runner", trusts(ownAccount, assumeOnly, ""))
	e.grant("runner", allowAll)
	caller := e.user("bob", allowAll)
	session := strings.Replace(denyAll, "Managed", "Passed", 1)
	for _, c := range []struct {
		name     string
		creds    *sigv4.Credentials
		explicit bool
		sids     []string
		actions  int
	}{
		{"nobody allows", e.user("carol", ""), false, nil, 0},
		{"a managed policy as the boundary", func() *sigv4.Credentials {
			key := e.user("dave", allowAll)
			_, err := e.iamOf(account).PutUserPermissionsBoundary(t.Context(), &awsiam.PutUserPermissionsBoundaryInput{UserName: ptr("dave"), PermissionsBoundary: managed.Policy.Arn})
			must(t, err)
			return key
		}(), true, []string{"Managed"}, 1},
		{"a session policy", e.assume(caller, role, "work", within(session)), true, []string{"Passed"}, 1},
		{"a session policy that is managed", e.assume(caller, role, "work", withinManaged(*managed.Policy.Arn)), true, []string{"Managed"}, 1},
	} {
		text := e.encode(t, c.creds)
		decoded, err := e.decode(t, e.rootOf(account), text)
		must(t, err)
		var m struct {
			Allowed, ExplicitDeny bool
			MatchedStatements     struct {
				Items []struct {
					StatementID string
					Actions     struct{ Items []struct{ Value string } }
				}
			}
			Context struct {
				Principal struct{ ID, Name, ARN string }
			}
		}
		must(t, json.Unmarshal([]byte(decoded), &m))
		var sids []string
		for _, st := range m.MatchedStatements.Items {
			sids = append(sids, st.StatementID)
			if len(st.Actions.Items) != c.actions {
				t.Errorf("%s: statement %s has the actions %v", c.name, st.StatementID, st.Actions)
			}
		}
		arn, id, _ := e.whoAmI(c.creds)
		if m.Allowed || m.ExplicitDeny != c.explicit || !cmp.Equal(sids, c.sids) || m.Context.Principal.ID != id || m.Context.Principal.ARN != arn {
			t.Errorf("%s: got %s", c.name, decoded)
		}
		// Neither what is in the message nor any secret is to be seen from outside, and no secret from inside.
		raw, err := base64.RawURLEncoding.DecodeString(text)
		must(t, err)
		for _, plain := range []string{"RunInstances", "allowed", "aws:", account, id} {
			if strings.Contains(string(raw), plain) || strings.Contains(text, plain) {
				t.Errorf("%s: the encoded message shows %q", c.name, plain)
			}
		}
		forbidden(t, decoded, string(c.creds.SecretAccessKey))
		if c.creds.SessionToken != "" {
			forbidden(t, decoded, c.creds.SessionToken)
		}
	}
}

func ptr(s string) *string { return &s }

func TestLongMessagesLoseTheirLongestKeys(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c := e.user("bob", "")
	text := e.encode(t, c, func(c *awsapi.Caller) { c.UserAgent = strings.Repeat("a", 20_000) })
	decoded, err := e.decode(t, e.rootOf(account), text)
	must(t, err)
	if len(text) > 10240 || strings.Contains(decoded, "aws:UserAgent") || !strings.Contains(decoded, "aws:SourceIp") || !strings.Contains(decoded, "aws:username") {
		t.Errorf("%d characters of %s", len(text), decoded)
	}
	// Statements go when keys do not suffice.
	var statements []string
	for i := range 40 {
		statements = append(statements, fmt.Sprintf(`{"Sid":"S%d","Effect":"Deny","Action":"*","Resource":"*"}`, i))
	}
	role := e.role("runner", trusts(ownAccount, assumeOnly, ""))
	e.grant("runner", `{"Version":"2012-10-17","Statement":[`+strings.Join(statements, ",")+`]}`)
	c = e.assume(e.user("carol", allowAll), role, "work")
	text = e.encode(t, c)
	decoded, err = e.decode(t, e.rootOf(account), text)
	must(t, err)
	if len(text) > 10240 || !strings.Contains(decoded, `"S0"`) || strings.Contains(decoded, `"S39"`) || !json.Valid([]byte(decoded)) {
		t.Errorf("%d characters of %s", len(text), decoded)
	}
}

func TestWhoMayDecodeMessages(t *testing.T) {
	t.Parallel()
	store := kv.NewMemory()
	e := newReplica(t, store)
	c := e.user("bob", "")
	text := e.encode(t, c)

	allowed := e.user("auditor", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"sts:DecodeAuthorizationMessage","Resource":"*"}}`)
	if decoded, err := e.decode(t, allowed, text); err != nil || !strings.Contains(decoded, "ec2:RunInstances") {
		t.Errorf("got %q, %v", decoded, err)
	}
	again := newReplica(t, store)
	if _, err := again.decode(t, allowed, text); err != nil {
		t.Errorf("on another replica: %v", err)
	}
	_, err := e.decode(t, c, text)
	wantError(t, err, "AccessDenied", 403, "User: arn:aws:iam::111122223333:user/bob is not authorized to perform: sts:DecodeAuthorizationMessage "+
		"because no identity-based policy allows the sts:DecodeAuthorizationMessage action")
	session, err := e.stsAs(allowed).GetSessionToken(t.Context(), &awssts.GetSessionTokenInput{})
	must(t, err)
	_, err = e.decode(t, keysOf(session.Credentials), text)
	wantError(t, err, "AccessDenied", 403, "Cannot call DecodeAuthorizationMessage with session credentials")

	flipped := []byte(text)
	flipped[len(flipped)/2] ^= 1
	root := e.rootOf(account)
	for name, bad := range map[string]struct {
		who  *sigv4.Credentials
		text string
	}{
		"of another account":  {e.rootOf(other), text},
		"altered":             {root, string(flipped)},
		"cut":                 {root, text[:len(text)-4]},
		"padded":              {root, text + "="},
		"with a line break":   {root, text[:8] + "\n" + text[8:]},
		"that is none":        {root, "hello"},
		"that is a session's": {root, strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(sealedSession(session)), "=")},
	} {
		_, err := e.decode(t, bad.who, bad.text)
		if err == nil {
			t.Errorf("a message %s is decoded", name)
			continue
		}
		wantError(t, err, "InvalidAuthorizationMessageException", 400, "Message is not valid")
	}
	_, err = e.decode(t, root, strings.Repeat("a", 10241))
	wantError(t, err, "ValidationError", 400, "1 validation error detected: Value '"+strings.Repeat("a", 1024)+
		"...' at 'encodedMessage' failed to satisfy constraint: Member must have length less than or equal to 10240")
}

// sealedSession is the token of a session without its prefix: what the keyring sealed for another purpose.
func sealedSession(out *awssts.GetSessionTokenOutput) string {
	raw, _ := base64.StdEncoding.DecodeString(*out.Credentials.SessionToken)
	return base64.StdEncoding.EncodeToString(raw[len("!\n\torigin_ec"):])
}

// Nothing but what was encoded is decoded, and every message has one spelling.
func FuzzDecodeMessage(f *testing.F) {
	e := newEnv(f)
	text := e.encode(f, e.user("bob", ""))
	root := e.rootOf(account)
	for _, seed := range []string{text, text[1:], text + "A", "AQ", "AQAAAAE", "\n" + text, strings.ToLower(text)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, guess string) {
		decoded, err := e.decode(t, root, guess)
		if (err == nil) != (guess == text) {
			t.Errorf("%q: %q, %v", guess, decoded, err)
		}
	})
}
