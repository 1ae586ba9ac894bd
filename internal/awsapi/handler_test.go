package awsapi_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

var uuid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)

// The envelopes, byte for byte but for the request ID.
func TestEnvelopes(t *testing.T) {
	t.Parallel()
	asJSON := func(c call) call {
		c.header.Set("Accept", "application/json")
		return c
	}
	for _, tt := range []struct {
		name        string
		call        call
		status      int
		contentType string
		errorType   string
		body        string
	}{
		{"query success", stsQuery("Action=GetCallerIdentity"), 200, "text/xml", "",
			`<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<GetCallerIdentityResult><UserId>AIDAEXAMPLE</UserId><Account>111122223333</Account><Arn>arn:aws:iam::111122223333:user/alice</Arn></GetCallerIdentityResult>
<ResponseMetadata><RequestId>ID</RequestId></ResponseMetadata>
</GetCallerIdentityResponse>
`},
		{"query success without a result", iamQuery("Action=DeleteRole&RoleName=r"), 200, "text/xml", "",
			`<DeleteRoleResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
<ResponseMetadata><RequestId>ID</RequestId></ResponseMetadata>
</DeleteRoleResponse>
`},
		{"query success with an empty result", iamQuery("Action=UpdateRole&RoleName=r"), 200, "text/xml", "",
			`<UpdateRoleResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
<UpdateRoleResult></UpdateRoleResult>
<ResponseMetadata><RequestId>ID</RequestId></ResponseMetadata>
</UpdateRoleResponse>
`},
		{"query success with an empty list", iamQuery("Action=ListRoles"), 200, "text/xml", "",
			`<ListRolesResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
<ListRolesResult><Roles></Roles><IsTruncated>false</IsTruncated></ListRolesResult>
<ResponseMetadata><RequestId>ID</RequestId></ResponseMetadata>
</ListRolesResponse>
`},
		{"query success with times, lists and markup", iamQuery("Action=GetRole&RoleName=r"), 200, "text/xml", "",
			`<GetRoleResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
<GetRoleResult><Role><Path>/</Path><RoleName>r</RoleName><RoleId>AROAEXAMPLE</RoleId><Arn>arn:aws:iam::111122223333:role/r</Arn>` +
				`<CreateDate>2026-03-04T05:06:07Z</CreateDate><AssumeRolePolicyDocument>%7B%22a%22%3A%20%221%22%7D</AssumeRolePolicyDocument>` +
				`<MaxSessionDuration>3600</MaxSessionDuration><Tags><member><Key>a</Key>` +
				`<Value>&lt;1&gt;&amp;&#xD;&#xA;&#x9;&#34;&#39;` + "\uFFFD" + `é</Value></member></Tags></Role></GetRoleResult>
<ResponseMetadata><RequestId>ID</RequestId></ResponseMetadata>
</GetRoleResponse>
`},
		{"query success with nothing at all", iamQuery("Action=GetRole&RoleName=nil"), 200, "text/xml", "",
			`<GetRoleResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
<GetRoleResult><Role><MaxSessionDuration>0</MaxSessionDuration></Role></GetRoleResult>
<ResponseMetadata><RequestId>ID</RequestId></ResponseMetadata>
</GetRoleResponse>
`},
		{"query success as JSON", asJSON(form("", "Version=2011-06-15&Action=AssumeRoleWithWebIdentity&RoleArn=arn:aws:iam::111122223333:role/r&"+
			"RoleSessionName=me&WebIdentityToken=good")), 200, "application/json", "",
			`{"AssumeRoleWithWebIdentityResponse":{"AssumeRoleWithWebIdentityResult":{"Credentials":{"AccessKeyId":"ASIAEXAMPLE",` +
				`"SecretAccessKey":"s3cr3t/+=","SessionToken":"token","Expiration":1772604367},"SubjectFromWebIdentityToken":"sub"},` +
				`"ResponseMetadata":{"RequestId":"ID"}}}`},
		{"query error", iamQuery("Action=GetRole&RoleName=missing"), 404, "text/xml", "",
			`<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
  <Error>
    <Type>Sender</Type>
    <Code>NoSuchEntity</Code>
    <Message>The role with name missing cannot be found.</Message>
  </Error>
  <RequestId>ID</RequestId>
</ErrorResponse>
`},
		{"query error with markup", iamQuery("Action=GetRole&RoleName=wrapped"), 409, "text/xml", "",
			`<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
  <Error>
    <Type>Sender</Type>
    <Code>EntityAlreadyExists</Code>
    <Message>&lt;&amp;&gt;</Message>
  </Error>
  <RequestId>ID</RequestId>
</ErrorResponse>
`},
		{"query error of the server", iamQuery("Action=GetRole&RoleName=unavailable"), 503, "text/xml", "",
			`<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
  <Error>
    <Type>Receiver</Type>
    <Code>ServiceUnavailable</Code>
    <Message>The request has failed due to a temporary failure of the server.</Message>
  </Error>
  <RequestId>ID</RequestId>
</ErrorResponse>
`},
		{"query error about the action", stsQuery("Action=Nothing"), 400, "text/xml", "",
			`<ErrorResponse xmlns="http://webservices.amazon.com/AWSFault/2005-15-09">
  <Error>
    <Type>Sender</Type>
    <Code>InvalidAction</Code>
    <Message>Could not find operation Nothing for version 2011-06-15</Message>
  </Error>
  <RequestId>ID</RequestId>
</ErrorResponse>
`},
		{"query error as JSON", asJSON(form("", "Version=2011-06-15&Action=AssumeRoleWithWebIdentity&RoleArn=arn:aws:iam::111122223333:role/r&"+
			"RoleSessionName=me&WebIdentityToken=reject")), 400, "application/json", "",
			`{"Error":{"Code":"InvalidIdentityToken","Message":"Incorrect token audience","Type":"Sender"},"RequestId":"ID"}`},
		{"REST success", rest("eks", "GET", "/clusters/demo", ""), 200, "application/json", "",
			`{"cluster":{"name":"demo","status":"ACTIVE","createdAt":1772600767.050,"identity":{"oidc":{"issuer":"https://issuer.example/id/1"}},` +
				`"tags":{},"resourcesVpcConfig":{"subnetIds":[],"endpointPublicAccess":false}}}`},
		{"REST success with nothing at all", rest("eks", "POST", "/tags/arn%3Aaws%3Aeks", `{"tags":{"a":"b"}}`), 200, "application/json", "", `{}`},
		{"REST error with members", rest("eks", "GET", "/clusters/missing", ""), 404, "application/json", "ResourceNotFoundException",
			`{"message":"No cluster found for name: missing.","clusterName":"missing","addonName":null,"fargateProfileName":null,` +
				`"nodegroupName":null,"subscriptionId":null}`},
		{"REST error of authorization", rest("eks", "GET", "/clusters/forbidden", ""), 403, "application/json", "AccessDeniedException",
			`{"message":"User: arn:aws:iam::111122223333:user/alice is not authorized to perform: eks:DescribeCluster on resource: ` +
				`arn:aws:eks:us-east-1:111122223333:cluster/forbidden because no identity-based policy allows the eks:DescribeCluster action"}`},
		{"JSON success", lookup(`{"StartTime":1772600767.5}`), 200, "application/x-amz-json-1.1", "",
			`{"Events":[{"EventId":"e-1","EventTime":1772600768.500}]}`},
		{"JSON error", lookup(`{}`), 400, "application/x-amz-json-1.1", "InvalidTimeRangeException",
			`{"__type":"InvalidTimeRangeException","message":"no start"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newAPI(t).send(t, tt.call)
			id := r.Header.Get("x-amzn-RequestId")
			if !uuid.MatchString(id) {
				t.Errorf("request ID %q is not a UUID", id)
			}
			if r.StatusCode != tt.status || r.Header.Get("Content-Type") != tt.contentType || r.Header.Get("X-Amzn-ErrorType") != tt.errorType {
				t.Errorf("got %d, %s, %s; want %d, %s, %s", r.StatusCode, r.Header.Get("Content-Type"), r.Header.Get("X-Amzn-ErrorType"),
					tt.status, tt.contentType, tt.errorType)
			}
			if diff := cmp.Diff(tt.body, strings.ReplaceAll(text(t, r), id, "ID")); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func lookup(body string) call {
	return call{method: "POST", url: "http://localhost:4566/", service: "cloudtrail", body: body, header: http.Header{
		"Content-Type": {"application/x-amz-json-1.1"},
		"X-Amz-Target": {"com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents"}}}
}

// answer is what matters of an answer that is an error.
type answer struct {
	Status  int
	Code    string
	Message string
}

var (
	xmlCode    = regexp.MustCompile(`<Code>(.*)</Code>`)
	xmlMessage = regexp.MustCompile(`<Message>(.*)</Message>`)
	entities   = strings.NewReplacer("&#39;", "'", "&#34;", `"`, "&lt;", "<", "&gt;", ">", "&amp;", "&")
)

// answerOf reads an error in any of the envelopes.
func answerOf(t testing.TB, r *http.Response) answer {
	t.Helper()
	a := answer{Status: r.StatusCode}
	body := text(t, r)
	if strings.HasPrefix(body, "<") {
		if m := xmlCode.FindStringSubmatch(body); m != nil {
			a.Code = m[1]
		}
		if m := xmlMessage.FindStringSubmatch(body); m != nil {
			a.Message = entities.Replace(m[1])
		}
		return a
	}
	var e struct {
		Message string
		Type    string `json:"__type"`
		Error   struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("body %q: %v", body, err)
	}
	a.Code, a.Message = r.Header.Get("X-Amzn-ErrorType")+e.Error.Code, e.Message+e.Error.Message
	if e.Type != "" && e.Type != a.Code {
		t.Errorf("__type is %s, X-Amzn-ErrorType %s", e.Type, a.Code)
	}
	return a
}

func TestAuthenticationFailures(t *testing.T) {
	t.Parallel()
	const invalid, over = "The security token included in the request is invalid.", "The security token included in the request is expired"
	const mismatch = "The request signature we calculated does not match the signature you provided. " +
		"Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
	const late = "Signature expired: 20260304T050607Z is now earlier than 20260304T050608Z (20260304T052108Z - 15 min.)"
	const early = "Signature not yet current: 20260304T050607Z is still later than 20260304T050606Z (20260304T045106Z + 15 min.)"
	query, restful, target := stsQuery("Action=GetCallerIdentity"), rest("eks", "GET", "/clusters/a", ""), lookup(`{}`)
	with := func(c call, change func(*call)) call {
		c.header = c.header.Clone()
		change(&c)
		return c
	}
	unsigned := func(c *call) { c.service = "" }
	unknown := func(c *call) { c.creds = sigv4.Credentials{AccessKeyID: "AKIANOBODY", SecretAccessKey: "x"} }
	badToken := func(c *call) { c.creds = alice; c.creds.SessionToken = "forged" }
	oldToken := func(c *call) { c.creds = alice; c.creds.SessionToken = expired }
	badSecret := func(c *call) { c.creds = alice; c.creds.SecretAccessKey = "x" }
	malformed := func(c *call) {
		c.alter = func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "Signature=", "Sig=", 1))
		}
	}
	region := func(c *call) { c.region = "nowhere" }
	for _, tt := range []struct {
		name string
		call call
		at   time.Duration
		want answer
	}{
		{"query, unsigned", with(query, unsigned), 0, answer{403, "MissingAuthenticationToken", "Request is missing Authentication Token"}},
		{"REST, unsigned", with(restful, unsigned), 0, answer{403, "MissingAuthenticationTokenException", "Missing Authentication Token"}},
		{"JSON, unsigned", with(target, unsigned), 0, answer{400, "MissingAuthenticationTokenException", "Missing Authentication Token"}},
		{"query, unknown key", with(query, unknown), 0, answer{403, "InvalidClientTokenId", invalid}},
		{"REST, unknown key", with(restful, unknown), 0, answer{403, "UnrecognizedClientException", invalid}},
		{"JSON, unknown key", with(target, unknown), 0, answer{400, "UnrecognizedClientException", invalid}},
		{"query, forged session token", with(query, badToken), 0, answer{403, "InvalidClientTokenId", invalid}},
		{"query, expired session", with(query, oldToken), 0, answer{403, "ExpiredToken", over}},
		{"REST, expired session", with(restful, oldToken), 0, answer{403, "ExpiredTokenException", over}},
		{"JSON, expired session", with(target, oldToken), 0, answer{400, "ExpiredTokenException", over}},
		{"query, wrong secret", with(query, badSecret), 0, answer{403, "SignatureDoesNotMatch", mismatch}},
		{"REST, wrong secret", with(restful, badSecret), 0, answer{403, "InvalidSignatureException", mismatch}},
		{"JSON, wrong secret", with(target, badSecret), 0, answer{400, "InvalidSignatureException", mismatch}},
		{"query, malformed", with(query, malformed), 0, answer{400, "IncompleteSignature", "Authorization header has the unknown parameter 'Sig'."}},
		{"REST, malformed", with(restful, malformed), 0, answer{400, "IncompleteSignatureException", "Authorization header has the unknown parameter 'Sig'."}},
		{"query, late", query, 15*time.Minute + time.Second, answer{403, "SignatureDoesNotMatch", late}},
		{"query, 15 minutes late", query, 15 * time.Minute, answer{Status: 200}},
		{"REST, late", restful, 15*time.Minute + time.Second, answer{403, "InvalidSignatureException", late}},
		{"query, early", query, -15*time.Minute - time.Second, answer{403, "SignatureDoesNotMatch", early}},
		{"query, no region", with(query, region), 0, answer{403, "SignatureDoesNotMatch", "Credential should be scoped to a valid Region, not 'nowhere'."}},
		{"query, another region", with(query, func(c *call) { c.region = "eu-central-1" }), 0, answer{Status: 200}},
		{"query, body not the one that was signed", with(query, func(c *call) {
			c.alter = func(r *http.Request) {
				r.Body = io.NopCloser(strings.NewReader(strings.ReplaceAll(c.body, "2011-06-15&", "2011-06-15&&")))
				r.ContentLength++
			}
		}), 0, answer{403, "SignatureDoesNotMatch", mismatch}},
		{"query, store unavailable", with(query, func(c *call) { c.creds = sigv4.Credentials{AccessKeyID: "AKIAUNAVAILABLE", SecretAccessKey: "x"} }), 0,
			answer{503, "ServiceUnavailable", "The request has failed due to a temporary failure of the server."}},
		{"REST, store unavailable", with(restful, func(c *call) { c.creds = sigv4.Credentials{AccessKeyID: "AKIAUNAVAILABLE", SecretAccessKey: "x"} }), 0,
			answer{503, "ServiceUnavailableException", "The request has failed due to a temporary failure of the server."}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, func(c *awsapi.HandlerConfig) { c.Authenticator.Now = func() time.Time { return now.Add(tt.at) } })
			got := answerOf(t, a.send(t, tt.call))
			if diff := cmp.Diff(tt.want, got); diff != "" && (tt.want.Status != 200 || got.Status != 200) {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// A broken record must not be taken for an unknown key, nor its text be shown.
func TestCredentialsThatFail(t *testing.T) {
	t.Parallel()
	c := stsQuery("Action=GetCallerIdentity")
	c.creds = sigv4.Credentials{AccessKeyID: "AKIABROKEN", SecretAccessKey: "x"}
	a := newAPI(t)
	if got := answerOf(t, a.send(t, c)); got.Status != 500 || got.Code != "InternalFailure" || strings.Contains(got.Message, "hunter2") {
		t.Errorf("got %+v, want an internal failure that tells nothing", got)
	}
	if !strings.Contains(a.log.String(), "hunter2") {
		t.Errorf("the log does not say what happened: %s", a.log.String())
	}
}

func TestPresigned(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		at     time.Duration
		status int
	}{
		{"at once", 0, 200},
		{"after the time that it says, within 15 minutes", 10 * time.Minute, 200},
		{"after 15 minutes", 15*time.Minute + time.Second, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, func(c *awsapi.HandlerConfig) { c.Authenticator.Now = func() time.Time { return now.Add(tt.at) } })
			r := a.send(t, call{method: "GET", url: "http://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15",
				alter: func(r *http.Request) { sigv4.Presign(r, alice, "sts", "us-east-1", time.Minute, now) }})
			if r.StatusCode != tt.status {
				t.Errorf("status %d, want %d: %s", r.StatusCode, tt.status, text(t, r))
			}
		})
	}
}

func TestRouting(t *testing.T) {
	t.Parallel()
	at := func(host string, c call) call {
		c.url = strings.Replace(c.url, "http://localhost:4566", "http://"+host, 1)
		return c
	}
	signed := func(service string, c call) call {
		c.service = service
		return c
	}
	identity := stsQuery("Action=GetCallerIdentity")
	ok := answer{Status: 200}
	wrongService := func(name string) answer {
		return answer{403, "SignatureDoesNotMatch", "Credential should be scoped to correct service: '" + name + "'."}
	}
	wrongRESTService := func(name string) answer {
		w := wrongService(name)
		w.Code = "InvalidSignatureException"
		return w
	}
	raw := answer{Status: 418}
	web := "Version=2011-06-15&Action=AssumeRoleWithWebIdentity&RoleArn=arn:aws:iam::111122223333:role/r&RoleSessionName=me&WebIdentityToken=good"
	pod := rest("eks-auth", "POST", "/clusters/demo/assume-role-for-pod-identity", `{"token":"a.b.c"}`)
	for _, tt := range []struct {
		name string
		call call
		want answer
	}{
		{"the scope tells the service", identity, ok},
		{"the scope of another service than the action's", signed("iam", identity), wrongService("sts")},
		{"the scope of a service that is not there, and an action that is", signed("dynamodb", identity), wrongService("sts")},
		{"the scope of a service that is not there", signed("dynamodb", form("", "Action=X&Version=1")),
			answer{400, "InvalidAction", "Could not find operation X for version 1"}},
		{"the scope of a service that is not there, and a REST path", rest("lambda", "GET", "/functions", ""),
			answer{404, "UnknownOperationException", "This server does not serve the service 'lambda'."}},
		{"the scope of another service than the host's", at("sts.us-east-1.amazonaws.com", signed("iam", identity)), wrongService("sts")},
		{"the action of another service than the host's", at("sts.us-east-1.amazonaws.com", iamQuery("Action=ListRoles")),
			answer{400, "InvalidAction", "Could not find operation ListRoles for version 2010-05-08"}},
		{"the path of another service than the host's", at("eks-auth.us-east-1.api.aws", rest("eks", "GET", "/clusters/a", "")),
			answer{404, "UnknownOperationException", "There is no operation for GET /clusters/a."}},
		{"the host of a service", at("sts.eu-west-1.amazonaws.com", identity), ok},
		{"the host of a service with a port", at("sts.amazonaws.com:443", identity), ok},
		{"the host of a service in China", at("sts.cn-north-1.amazonaws.com.cn", identity), ok},
		{"the host of a service behind an endpoint", at("vpce-1.sts.us-east-1.vpce.amazonaws.com", identity), ok},
		{"a host that only looks like a service", at("eks.example.com", identity), ok},
		{"iam signed for any region", call{method: "POST", url: "http://localhost/", service: "iam", region: "us-west-2", header: identity.header,
			body: "Action=ListRoles&Version=2010-05-08"}, ok},
		{"iam's host in GovCloud", at("iam.us-gov.amazonaws.com", iamQuery("Action=ListRoles")), ok},
		{"pod identity shares eks's paths", pod, ok},
		{"pod identity with eks's scope", signed("eks", pod), wrongRESTService("eks-auth")},
		{"eks-auth's host", at("eks-auth.us-east-1.api.aws", pod), ok},
		{"an unsigned call that needs no signature", form("", web), ok},
		{"an unsigned call that needs no signature, by GET", call{method: "GET", url: "http://localhost/?" + web}, ok},
		{"a signature where none is needed", form("sts", web), ok},
		{"a wrong signature where none is needed", call{method: "POST", url: "http://localhost/", service: "sts", body: web, header: identity.header,
			creds: sigv4.Credentials{AccessKeyID: "AKIANOBODY", SecretAccessKey: "x"}}, ok},
		{"a malformed signature where none is needed", call{method: "POST", url: "http://localhost/", body: web,
			header: http.Header{"Authorization": {"Bearer x"}}}, ok},
		{"nothing to go by", call{method: "GET", url: "http://localhost/"},
			answer{403, "MissingAuthenticationToken", "Request is missing Authentication Token"}},
		{"nothing but a path", call{method: "GET", url: "http://localhost/x"},
			answer{403, "MissingAuthenticationTokenException", "Missing Authentication Token"}},
		{"a service without an action", stsQuery(""), answer{400, "MissingAction", "The request is missing an action or a required parameter."}},
		{"an action without a version", form("sts", "Action=GetCallerIdentity"),
			answer{400, "InvalidAction", "Could not find operation GetCallerIdentity for version NO_VERSION_SPECIFIED"}},
		{"an action of another version", form("sts", "Action=GetCallerIdentity&Version=2010-05-08"),
			answer{400, "InvalidAction", "Could not find operation GetCallerIdentity for version 2010-05-08"}},
		{"an action that is not served", stsQuery("Action=GetSessionToken"), answer{501, "NotImplemented", "This server does not implement GetSessionToken."}},
		{"a path that is not served", rest("eks", "GET", "/clusters", ""),
			answer{501, "NotImplementedException", "This server does not implement ListClusters."}},
		{"a path that is not served, unsigned", rest("", "GET", "/clusters", ""),
			answer{403, "MissingAuthenticationTokenException", "Missing Authentication Token"}},
		{"a path that does not exist", rest("eks", "GET", "/nothing/here", ""),
			answer{404, "UnknownOperationException", "There is no operation for GET /nothing/here."}},
		{"a method that does not exist", rest("eks", "PATCH", "/clusters/a", ""),
			answer{404, "UnknownOperationException", "There is no operation for PATCH /clusters/a."}},
		{"a path with an empty label", rest("eks", "GET", "/clusters//addons", ""),
			answer{404, "UnknownOperationException", "There is no operation for GET /clusters//addons."}},
		{"a path with dots", rest("eks", "GET", "/clusters/../tags/x", ""),
			answer{404, "UnknownOperationException", "There is no operation for GET /clusters/../tags/x."}},
		{"a query in the query string of a POST", call{method: "POST", url: "http://localhost/?Action=GetCallerIdentity&Version=2011-06-15", service: "sts"}, ok},
		{"a query by GET", call{method: "GET", url: "http://localhost/?Action=GetCallerIdentity&Version=2011-06-15", service: "sts"}, ok},
		{"a query with JSON's content type", call{method: "POST", url: "http://localhost/", service: "sts", body: identity.body,
			header: http.Header{"Content-Type": {"application/json"}}}, answer{400, "MissingAction", "The request is missing an action or a required parameter."}},
		{"a target without a prefix", call{method: "POST", url: "http://localhost/", service: "cloudtrail", body: `{"StartTime":1}`,
			header: http.Header{"X-Amz-Target": {"CloudTrail_20131101.LookupEvents"}}}, ok},
		{"a target that does not exist", call{method: "POST", url: "http://localhost/", service: "cloudtrail", body: `{}`,
			header: http.Header{"X-Amz-Target": {"CloudTrail_20131101.Nothing"}}},
			answer{404, "UnknownOperationException", "There is no operation for POST /."}},
		{"a raw service by its scope", rest("s3", "PUT", "/b/k", "data"), raw},
		{"a raw service by its host", call{method: "GET", url: "http://s3.us-east-1.amazonaws.com/k"}, raw},
		{"a raw service by its bucket's host", call{method: "GET", url: "http://my.sts.bucket.s3.us-east-1.amazonaws.com/k"}, raw},
		{"a raw service by its bucket's old host", call{method: "GET", url: "http://bucket.s3-us-west-2.amazonaws.com/k"}, raw},
		{"a raw service by its dual-stack host", call{method: "GET", url: "http://sts.s3.dualstack.us-east-1.amazonaws.com/k"}, raw},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newAPI(t).send(t, tt.call)
			if tt.want.Code == "" {
				if r.StatusCode != tt.want.Status {
					t.Errorf("status %d, want %d: %s", r.StatusCode, tt.want.Status, text(t, r))
				}
				return
			}
			if diff := cmp.Diff(tt.want, answerOf(t, r)); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPathLabelsAreDecodedOnce(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.send(t, rest("eks", "POST", "/tags/arn%3Aaws%3Aeks%3Aus-east-1%3A111122223333%3Acluster%2Fdemo%2525", `{"tags":{"a":"b"}}`))
	a.send(t, rest("eks", "DELETE", "/tags/arn:aws:eks?tagKeys=a&tagKeys=b%20c", ""))
	a.send(t, rest("eks", "GET", "/clusters/demo/pod-identity-associations?namespace=ns&serviceAccount=sa&maxResults=7", ""))
	seven := int32(7)
	want := []any{
		&tagResourceIn{"arn:aws:eks:us-east-1:111122223333:cluster/demo%25", map[string]string{"a": "b"}},
		&untagResourceIn{"arn:aws:eks", []string{"a", "b c"}},
		&listAssociationsIn{ClusterName: "demo", Namespace: "ns", ServiceAccount: "sa", MaxResults: &seven},
	}
	if diff := cmp.Diff(want, a.seen.seen); diff != "" {
		t.Errorf("inputs (-want +got):\n%s", diff)
	}
}

func TestErrorsOfOperations(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		call call
		want answer // of the message, the part before the request ID
		log  string // what the log tells
	}{
		{"an error that callers must not see", iamQuery("Action=GetRole&RoleName=secret"), answer{500, "InternalFailure", ""}, "hunter2"},
		{"a panic", iamQuery("Action=GetRole&RoleName=panic"), answer{500, "InternalFailure", ""}, "services_test.go"},
		{"an error that callers must not see, of eks", rest("eks", "GET", "/clusters/secret", ""), answer{500, "ServerException", ""}, "hunter2"},
		{"an error that callers must not see, of eks-auth", rest("eks-auth", "POST", "/clusters/secret/assume-role-for-pod-identity", `{"token":"a.b.c"}`),
			answer{500, "InternalServerException", ""}, "hunter2"},
		{"the store, of eks", rest("eks", "GET", "/clusters/unavailable", ""), answer{503, "ServiceUnavailableException", ""}, "store unavailable"},
		{"an error of access", iamQuery("Action=GetRole&RoleName=gone"), answer{404, "NoSuchEntity", ""}, "NoSuchEntity"},
		{"a denial", iamQuery("Action=GetRole&RoleName=forbidden"), answer{403, "AccessDenied", ""}, "denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			got := answerOf(t, a.send(t, tt.call))
			if strings.Contains(got.Message, "hunter2") {
				t.Errorf("the answer tells too much: %s", got.Message)
			}
			if got.Status == 500 && !uuid.MatchString(got.Message) {
				t.Errorf("the answer does not have the request ID: %s", got.Message)
			}
			if got.Message = ""; got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if !strings.Contains(a.log.String(), tt.log) {
				t.Errorf("the log lacks %q: %s", tt.log, a.log.String())
			}
			if again := a.send(t, iamQuery("Action=ListRoles")); again.StatusCode != 200 {
				t.Errorf("the next request is answered %d", again.StatusCode)
			}
		})
	}
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *awsapi.HandlerConfig) { c.Ready = func() error { return errors.New("behind: hunter2") } })
	for _, tt := range []struct {
		name string
		call call
		code string
	}{
		{"query", stsQuery("Action=GetCallerIdentity"), "ServiceUnavailable"},
		{"query, unsigned", call{method: "GET", url: "http://localhost/"}, "ServiceUnavailable"},
		{"REST", rest("eks", "GET", "/clusters/a", ""), "ServiceUnavailableException"},
		{"JSON", lookup("{}"), "ServiceUnavailableException"},
		{"raw", rest("s3", "GET", "/b", ""), "ServiceUnavailable"},
	} {
		got := answerOf(t, a.send(t, tt.call))
		if got.Status != 503 || got.Code != tt.code || strings.Contains(got.Message, "hunter2") {
			t.Errorf("%s: got %+v, want 503 %s", tt.name, got, tt.code)
		}
	}
	if !strings.Contains(a.log.String(), "behind") {
		t.Error("the log does not say why")
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	small := func(c *awsapi.HandlerConfig) { c.MaxBody = 64 }
	long := stsQuery("Action=GetCallerIdentity&" + strings.Repeat("x", 100))
	chunked := long
	chunked.alter = func(r *http.Request) { r.ContentLength = -1 }
	exact := stsQuery("Action=GetCallerIdentity&" + strings.Repeat("x", 64-len("Version=2011-06-15&Action=GetCallerIdentity&")))
	exactChunked := exact
	exactChunked.alter = chunked.alter
	truncated := stsQuery("Action=GetCallerIdentity")
	truncated.alter = func(r *http.Request) { r.ContentLength++ }
	compressed := exact
	compressed.header = http.Header{"Content-Encoding": {"gzip"}}
	restLong := rest("eks", "POST", "/clusters", strings.Repeat(" ", 65))
	for _, tt := range []struct {
		name string
		call call
		want answer
	}{
		{"as large as allowed", exact, answer{Status: 200}},
		{"as large as allowed, of no declared length", exactChunked, answer{Status: 200}},
		{"too large", long, answer{413, "RequestEntityTooLarge", "The request body is larger than 64 bytes."}},
		{"too large, of no declared length", chunked, answer{413, "RequestEntityTooLarge", "The request body is larger than 64 bytes."}},
		{"too large for REST", restLong, answer{413, "RequestEntityTooLargeException", "The request body is larger than 64 bytes."}},
		{"cut short", truncated, answer{400, "IncompleteBody", "The request body terminated unexpectedly"}},
		{"compressed", compressed, answer{415, "UnsupportedMediaType", "The content encoding 'gzip' is not supported."}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := answerOf(t, newAPI(t, small).send(t, tt.call))
			if tt.want.Status == 200 && got.Status == 200 {
				return
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := iamQuery("Action=GetRole&RoleName=annotated")
	c.header.Set("User-Agent", strings.Repeat("u", 1000))
	r := a.send(t, c)
	var got map[string]any
	if err := json.Unmarshal(a.log.Bytes(), &got); err != nil {
		t.Fatalf("not one event: %v\n%s", err, a.log.String())
	}
	if d, ok := got["latency"].(float64); !ok || d < 0 {
		t.Errorf("latency is %v", got["latency"])
	}
	delete(got, "time")
	delete(got, "latency")
	want := map[string]any{
		"level": "INFO", "msg": "request", "request_id": r.Header.Get("x-amzn-RequestId"), "service": "iam", "operation": "GetRole",
		"caller": userARN, "account": account, "region": "us-east-1", "access_key_id": keyID, "status": 200.0, "source_ip": "192.0.2.1",
		"user_agent": strings.Repeat("u", 256) + "...", "role": "annotated", "decision": got["decision"],
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	if decision, _ := got["decision"].(string); !strings.HasPrefix(decision, "allowed") {
		t.Errorf("decision is %q", decision)
	}
}

func TestWarningsAreHeaders(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	r := a.send(t, iamQuery("Action=GetRole&RoleName=warned"))
	long := `299 lanyard "` + strings.Repeat("?", 512) + `..."`
	want := []string{`299 lanyard "look \"there\":  X-Evil: \\ ??"`, long, long, long}
	if diff := cmp.Diff(want, r.Header.Values("Warning")); diff != "" || r.StatusCode != 200 || r.Header.Get("X-Evil") != "" {
		t.Errorf("status %d, warnings (-want +got):\n%s", r.StatusCode, diff)
	}
	r = a.send(t, iamQuery("Action=GetRole&RoleName=warned-missing"))
	if got := r.Header.Get("Warning"); r.StatusCode != 404 || got != `299 lanyard "it is gone"` {
		t.Errorf("status %d, warning %s", r.StatusCode, got)
	}
	if r = a.send(t, iamQuery("Action=GetRole&RoleName=r")); r.Header.Values("Warning") != nil {
		t.Errorf("a request without warnings has %q", r.Header.Values("Warning"))
	}
	awsapi.Warn(t.Context(), "nobody hears this")
}

func TestLogHasNoSecrets(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.send(t, form("", "Version=2011-06-15&Action=AssumeRoleWithWebIdentity&RoleArn=short&RoleSessionName=me&WebIdentityToken=topsecret"))
	c := stsQuery("Action=GetCallerIdentity")
	c.creds = alice
	c.creds.SessionToken = "topsecret"
	a.send(t, c)
	c.creds = sigv4.Credentials{AccessKeyID: keyID, SecretAccessKey: "wrong"}
	a.send(t, c)
	c = stsQuery("Action=AssumeRole&RoleArn=arn:aws:iam::111122223333:role/r&RoleSessionName=me")
	r := a.send(t, c)
	if r.StatusCode != 200 {
		t.Fatal(text(t, r))
	}
	for _, word := range []string{"topsecret", "s3cr3t", string(secret), "Signature="} {
		if strings.Contains(a.log.String(), word) {
			t.Errorf("%q is in the log: %s", word, a.log.String())
		}
	}
	if n := strings.Count(a.log.String(), "\n"); n != 4 {
		t.Errorf("%d events for 4 requests", n)
	}
}

func TestLogLevels(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	a := newAPI(t, func(c *awsapi.HandlerConfig) {
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
	})
	a.send(t, iamQuery("Action=GetRole&RoleName=missing"))
	if log.Len() > 0 {
		t.Errorf("an error of the caller is logged as one of the server: %s", log.String())
	}
	a.send(t, iamQuery("Action=GetRole&RoleName=secret"))
	if !strings.Contains(log.String(), `"level":"ERROR"`) {
		t.Errorf("an error of the server is not logged as one: %s", log.String())
	}
}

func TestRawServicesAreLoggedAndRecovered(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	r := a.send(t, rest("s3", "GET", "/b/k", ""))
	if body := text(t, r); r.StatusCode != 418 || body != "raw /b/k" || r.Header.Get("x-amzn-RequestId") != "" {
		t.Errorf("got %d %q, request ID %q", r.StatusCode, body, r.Header.Get("x-amzn-RequestId"))
	}
	for _, part := range []string{`"service":"s3"`, `"status":418`, `"bucket":"b"`, keyID} {
		if !strings.Contains(a.log.String(), part) {
			t.Errorf("the log lacks %s: %s", part, a.log.String())
		}
	}
	if got := answerOf(t, a.send(t, rest("s3", "GET", "/panic", ""))); got.Status != 500 || got.Code != "InternalError" || strings.Contains(got.Message, "hunter2") {
		t.Errorf("a panic is answered %+v", got)
	}
	if !strings.Contains(a.log.String(), "panic: hunter2") {
		t.Errorf("the log lacks the panic: %s", a.log.String())
	}
}

// A key is used by whoever is authenticated with it, permitted or not, also where no permission is needed.
func TestUsesOfKeys(t *testing.T) {
	t.Parallel()
	foreign := iamQuery("Action=GetRole&RoleName=r")
	foreign.creds = sigv4.Credentials{AccessKeyID: "AKIAFOREIGN", SecretAccessKey: "x"}
	for name, c := range map[string]struct {
		call call
		want []string
	}{
		"an operation that needs no permission": {stsQuery("Action=GetCallerIdentity"), []string{keyID + " sts"}},
		"one that is not permitted":             {iamQuery("Action=GetRole&RoleName=forbidden"), []string{keyID + " iam"}},
		"one that is not served":                {iamQuery("Action=CreateSAMLProvider"), []string{keyID + " iam"}},
		"a key that is not known":               {foreign, nil},
		"an unsigned operation": {
			stsQuery("Action=AssumeRoleWithWebIdentity&RoleArn=arn:aws:iam::111122223333:role/role&RoleSessionName=session&WebIdentityToken=token"), nil,
		},
	} {
		if name == "an unsigned operation" {
			c.call.service = ""
		}
		var used []string
		a := newAPI(t, func(h *awsapi.HandlerConfig) {
			h.Used = func(c *awsapi.Caller) { used = append(used, c.AccessKeyID+" "+c.Service) }
		})
		a.send(t, c.call)
		if diff := cmp.Diff(c.want, used); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

func TestAnonymousCaller(t *testing.T) {
	t.Parallel()
	auth := &awsapi.Authenticator{Credentials: credentials, Region: "eu-west-1", Now: func() time.Time { return now }}
	r := httptest.NewRequest("GET", "https://api.example/", nil)
	r.RemoteAddr = "[::ffff:198.51.100.7]:1234"
	c := auth.Anonymous(r, "sts")
	if c.Region != "eu-west-1" || c.Service != "sts" || c.SourceIP.String() != "198.51.100.7" || !c.Secure || c.Host != "api.example" ||
		!c.Time.Equal(now) || !uuid.MatchString(c.RequestID) || c.ARN != "" {
		t.Errorf("got %+v", c)
	}
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	auth := &awsapi.Authenticator{Credentials: credentials, Region: "us-east-1", Now: func() time.Time { return now }}
	c, err := auth.Authenticate(rest("s3", "GET", "/b", "").request(t), "s3", "")
	if err != nil || c.ARN != userARN || c.Region != "us-east-1" || c.Secure {
		t.Errorf("got %+v, %v", c, err)
	}
	for _, tt := range []struct {
		name string
		call call
		kind awsapi.AuthKind
	}{
		{"unsigned", rest("", "GET", "/b", ""), awsapi.MissingToken},
		{"another service", rest("ec2", "GET", "/b", ""), awsapi.BadSignature},
		{"unknown key", call{method: "GET", url: "http://h/", service: "s3", creds: sigv4.Credentials{AccessKeyID: "x", SecretAccessKey: "x"}}, awsapi.UnknownKey},
		{"wrong secret", call{method: "GET", url: "http://h/", service: "s3", creds: sigv4.Credentials{AccessKeyID: keyID, SecretAccessKey: "x"}}, awsapi.BadSignature},
	} {
		_, err := auth.Authenticate(tt.call.request(t), "s3", "")
		var ae *awsapi.AuthError
		if !errors.As(err, &ae) || ae.Kind != tt.kind || (ae.Signature != nil) != (tt.kind == awsapi.BadSignature) {
			t.Errorf("%s: got %v, want kind %v", tt.name, err, tt.kind)
		}
	}
	_, err = auth.Authenticate(call{method: "GET", url: "http://h/", service: "s3",
		creds: sigv4.Credentials{AccessKeyID: "AKIAUNAVAILABLE", SecretAccessKey: "x"}}.request(t), "s3", "")
	if !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("got %v, want kv.ErrUnavailable", err)
	}
}
