package awsapi_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// assumed is the input that AssumeRole was called with.
func assumed(t *testing.T, body string) assumeRoleIn {
	t.Helper()
	var out struct {
		ID string `xml:"AssumeRoleResult>AssumedRoleUser>AssumedRoleId"`
	}
	if err := xml.Unmarshal([]byte(body), &out); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	var in assumeRoleIn
	if err := json.Unmarshal([]byte(out.ID), &in); err != nil {
		t.Fatalf("%v in %s", err, out.ID)
	}
	return in
}

func ptr[T any](v T) *T { return &v }

func TestQueryParameters(t *testing.T) {
	t.Parallel()
	const base = "Action=AssumeRole&RoleArn=arn:aws:iam::111122223333:role/r&RoleSessionName=me"
	want := assumeRoleIn{RoleArn: "arn:aws:iam::111122223333:role/r", RoleSessionName: "me"}
	with := func(change func(*assumeRoleIn)) assumeRoleIn {
		in := want
		change(&in)
		return in
	}
	for _, tt := range []struct {
		name, params string
		want         assumeRoleIn
	}{
		{"what is absent stays zero", "", want},
		{"empty pairs are nothing", "&&", want},
		{"unknown parameters are ignored", "&Nothing=1&Nothing.member.1=2", want},
		{"numbers", "&DurationSeconds=3600", with(func(in *assumeRoleIn) { in.DurationSeconds = ptr(int32(3600)) })},
		{"plus is a space, percent is decoded", "&Policy=%7B+%22a%22%3A%09%22%C3%A9%22%7D", with(func(in *assumeRoleIn) { in.Policy = ptr("{ \"a\":\t\"é\"}") })},
		{"lists of texts", "&TransitiveTagKeys.member.1=a&TransitiveTagKeys.member.2=b",
			with(func(in *assumeRoleIn) { in.TransitiveTagKeys = []string{"a", "b"} })},
		{"lists in numerical order", "&TransitiveTagKeys.member.10=j&TransitiveTagKeys.member.9=i&TransitiveTagKeys.member.1=a",
			with(func(in *assumeRoleIn) { in.TransitiveTagKeys = []string{"a", "i", "j"} })},
		{"lists of structures", "&Tags.member.2.Value=d&Tags.member.1.Key=a&Tags.member.2.Key=c&Tags.member.1.Value=b",
			with(func(in *assumeRoleIn) { in.Tags = []tagShape{{"a", "b"}, {"c", "d"}} })},
		{"members of lists with names in lower case", "&PolicyArns.member.1.arn=arn:aws:iam::aws:policy/ReadOnlyAccess",
			with(func(in *assumeRoleIn) { in.PolicyArns = []policyARN{{"arn:aws:iam::aws:policy/ReadOnlyAccess"}} })},
		{"an empty list", "&Tags=", with(func(in *assumeRoleIn) { in.Tags = []tagShape{} })},
		{"an empty value", "&Tags.member.1.Key=a&Tags.member.1.Value=", with(func(in *assumeRoleIn) { in.Tags = []tagShape{{"a", ""}} })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newAPI(t).send(t, stsQuery(base+tt.params))
			body := text(t, r)
			if r.StatusCode != 200 {
				t.Fatalf("status %d: %s", r.StatusCode, body)
			}
			if diff := cmp.Diff(tt.want, assumed(t, body)); diff != "" {
				t.Errorf("input (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNestedListsAndMaps(t *testing.T) {
	t.Parallel()
	r := newAPI(t).send(t, iamQuery("Action=SimulateCustomPolicy&PolicyInputList.member.1=%7B%7D&ActionNames.member.1=s3:GetObject&"+
		"ContextEntries.member.1.ContextKeyName=aws:TagKeys&ContextEntries.member.1.ContextKeyType=stringList&"+
		"ContextEntries.member.1.ContextKeyValues.member.1=a&ContextEntries.member.1.ContextKeyValues.member.2=b"))
	body := text(t, r)
	var out struct {
		Result struct {
			EvalActionName      string
			EvalDecisionDetails string `xml:",innerxml"`
		} `xml:"SimulateCustomPolicyResult>EvaluationResults>member"`
	}
	if err := xml.Unmarshal([]byte(body), &out); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	var in simulateIn
	if err := json.Unmarshal([]byte(out.Result.EvalActionName), &in); err != nil {
		t.Fatal(err)
	}
	want := simulateIn{PolicyInputList: []string{"{}"}, ActionNames: []string{"s3:GetObject"},
		ContextEntries: []contextEntry{{"aws:TagKeys", "stringList", []string{"a", "b"}}}}
	if diff := cmp.Diff(want, in); diff != "" {
		t.Errorf("input (-want +got):\n%s", diff)
	}
	const details = "<EvalDecisionDetails><entry><key>a</key><value>implicitDeny</value></entry><entry><key>b</key><value>allowed</value></entry></EvalDecisionDetails>"
	if !strings.Contains(body, details) {
		t.Errorf("%s is not in %s", details, body)
	}
}

func TestValidation(t *testing.T) {
	t.Parallel()
	const role = "RoleArn=arn:aws:iam::111122223333:role/r&"
	long := strings.Repeat("x", 65)
	jwt := strings.Repeat("x", 20001)
	manyTags := ""
	for i := range 51 {
		manyTags += fmt.Sprintf("&Tags.member.%d.Key=k&Tags.member.%[1]d.Value=v", i+1)
	}
	association := func(body string) call {
		return rest("eks", "POST", "/clusters/demo/pod-identity-associations", body)
	}
	const good = `"namespace":"n","serviceAccount":"s","roleArn":"r"`
	for _, tt := range []struct {
		name string
		call call
		want answer
	}{
		{"a missing parameter", stsQuery("Action=AssumeRole&" + role), answer{400, "ValidationError",
			"1 validation error detected: Value at 'roleSessionName' failed to satisfy constraint: Member must not be null"}},
		{"a text that is too short", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=x"), answer{400, "ValidationError",
			"1 validation error detected: Value 'x' at 'roleSessionName' failed to satisfy constraint: Member must have length greater than or equal to 2"}},
		{"a text that is too long", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=" + long), answer{400, "ValidationError",
			"1 validation error detected: Value '" + long + "' at 'roleSessionName' failed to satisfy constraint: Member must have length less than or equal to 64"}},
		{"characters are counted, not bytes", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&Tags.member.1.Key=" +
			url.QueryEscape(strings.Repeat("é", 128)) + "&Tags.member.1.Value="), answer{Status: 200}},
		{"a text that does not match", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=Session1%3A2"), answer{400, "ValidationError",
			`1 validation error detected: Value 'Session1:2' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]*`}},
		{"a text that matches but for its end", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me%0A"), answer{400, "ValidationError",
			"1 validation error detected: Value 'me\n' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\w+=,.@-]*"}},
		{"a number that is too small", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&DurationSeconds=100"), answer{400, "ValidationError",
			"1 validation error detected: Value '100' at 'durationSeconds' failed to satisfy constraint: Member must have value greater than or equal to 900"}},
		{"a number that is too large", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&DurationSeconds=43201"), answer{400, "ValidationError",
			"1 validation error detected: Value '43201' at 'durationSeconds' failed to satisfy constraint: Member must have value less than or equal to 43200"}},
		{"a number that is none", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&DurationSeconds=abc"), answer{400, "MalformedInput",
			"The value at 'durationSeconds' is not a valid integer"}},
		{"a number of more than 32 bits", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&DurationSeconds=4294968196"), answer{400, "MalformedInput",
			"4294968196 is not a 32-bit integer"}},
		{"two violations", stsQuery("Action=AssumeRole&RoleArn=short&RoleSessionName=x"), answer{400, "ValidationError",
			"2 validation errors detected: Value 'short' at 'roleArn' failed to satisfy constraint: Member must have length greater than or equal to 20; " +
				"Value 'x' at 'roleSessionName' failed to satisfy constraint: Member must have length greater than or equal to 2"}},
		{"a violation within a list", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&Tags.member.1.Key=a&Tags.member.1.Value=b&Tags.member.2.Key=&Tags.member.2.Value=b"),
			answer{400, "ValidationError", "2 validation errors detected: Value '' at 'tags.2.member.key' failed to satisfy constraint: " +
				`Member must have length greater than or equal to 1; Value '' at 'tags.2.member.key' failed to satisfy constraint: Member must satisfy regular expression pattern: [\p{L}\p{Z}\p{N}_.:/=+\-@]+`}},
		{"a required member of a list's member", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&Tags.member.1.Key=a"), answer{400, "ValidationError",
			"1 validation error detected: Value at 'tags.1.member.value' failed to satisfy constraint: Member must not be null"}},
		{"a secret is not repeated", form("", "Version=2011-06-15&Action=AssumeRoleWithWebIdentity&"+role+"RoleSessionName=me&WebIdentityToken="+jwt),
			answer{400, "ValidationError", "1 validation error detected: Value at 'webIdentityToken' failed to satisfy constraint: Member must have length less than or equal to 20000"}},
		{"IAM does not repeat values", iamQuery("Action=GetRole&RoleName=" + url.QueryEscape("a/b")), answer{400, "ValidationError",
			`1 validation error detected: Value at 'roleName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]+`}},
		{"IAM does not list enumerations", iamQuery("Action=SimulateCustomPolicy&PolicyInputList.member.1=x&ActionNames.member.1=a:b&ContextEntries.member.1.ContextKeyType=x"),
			answer{400, "ValidationError", "1 validation error detected: Value at 'contextEntries.1.member.contextKeyType' failed to satisfy constraint: Member must satisfy enum value set"}},
		{"a member that the server does not have", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&SerialNumber=arn:aws:iam::1:mfa/a"),
			answer{400, "ValidationError", "This server does not support the member 'serialNumber' of AssumeRole."}},
		{"a list that the server does not have", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&ProvidedContexts.member.1.ProviderArn=x"),
			answer{400, "ValidationError", "This server does not support the member 'providedContexts' of AssumeRole."}},
		{"a parameter twice", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&RoleSessionName=you"), answer{400, "MalformedInput",
			`The request cannot be read: the parameter "RoleSessionName" occurs twice`}},
		{"an action twice, in query and body", call{method: "POST", url: "http://localhost/?Action=GetCallerIdentity", service: "sts",
			body: "Action=AssumeRole&Version=2011-06-15"}, answer{400, "MalformedInput", `The request cannot be read: the parameter "Action" occurs twice`}},
		{"an escape that is none", stsQuery("Action=GetCallerIdentity&a=%zz"), answer{400, "MalformedInput", `The request cannot be read: invalid URL escape "%zz"`}},
		{"text that is not UTF-8", stsQuery("Action=GetCallerIdentity&a=%ff"), answer{400, "MalformedInput", "The request cannot be read: a parameter is not valid UTF-8"}},
		{"a list's index that is none", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&TransitiveTagKeys.member.x=a"), answer{400, "MalformedInput",
			"The value at 'transitiveTagKeys' has the index 'x'"}},
		{"a list's index of zero", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&TransitiveTagKeys.member.0=a"), answer{400, "MalformedInput",
			"The value at 'transitiveTagKeys' has the index '0'"}},
		{"a list without members", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&TransitiveTagKeys.1=a"), answer{400, "MalformedInput",
			"The value at 'transitiveTagKeys' has a parameter that is not below 'TransitiveTagKeys.member.'"}},
		{"a list that is a text", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&TransitiveTagKeys=a"), answer{400, "MalformedInput",
			"The value at 'transitiveTagKeys' is not a valid list"}},
		{"a list's member that is a text", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me&Tags.member.1=a"), answer{400, "MalformedInput",
			"The value at 'tags.1.member' is not a valid structure"}},
		{"a list that is too long", stsQuery("Action=AssumeRole&" + role + "RoleSessionName=me" + manyTags),
			answer{400, "ValidationError", "1 validation error detected: Value at 'tags' failed to satisfy constraint: Member must have length less than or equal to 50"}},

		{"a missing member of a body", association(`{"namespace":"n","serviceAccount":"s"}`), answer{400, "InvalidParameterException",
			"1 validation error detected: Value at 'roleArn' failed to satisfy constraint: Member must not be null"}},
		{"a member that is null", association(`{"namespace":"n","serviceAccount":"s","roleArn":null}`), answer{400, "InvalidParameterException",
			"1 validation error detected: Value at 'roleArn' failed to satisfy constraint: Member must not be null"}},
		{"no body", association(``), answer{400, "InvalidParameterException", "3 validation errors detected: " +
			"Value at 'namespace' failed to satisfy constraint: Member must not be null; " +
			"Value at 'serviceAccount' failed to satisfy constraint: Member must not be null; " +
			"Value at 'roleArn' failed to satisfy constraint: Member must not be null"}},
		{"a map's key that is too short", association(`{` + good + `,"tags":{"":"b"}}`), answer{400, "InvalidParameterException",
			"1 validation error detected: Value '' at 'tags.' failed to satisfy constraint: Member must have length greater than or equal to 1"}},
		{"a map's value that is too long", association(`{` + good + `,"tags":{"a":"` + strings.Repeat("x", 257) + `"}}`), answer{400, "InvalidParameterException",
			"1 validation error detected: Value '" + strings.Repeat("x", 257) + "' at 'tags.a' failed to satisfy constraint: Member must have length less than or equal to 256"}},
		{"a map's value that is null", association(`{` + good + `,"tags":{"a":null}}`), answer{400, "InvalidParameterException",
			"1 validation error detected: Value at 'tags.a' failed to satisfy constraint: Member must not be null"}},
		{"unknown members are ignored", association(`{` + good + `,"x":{"y":[1,null,{}]}}`), answer{Status: 200}},
		{"an idempotency token that the server does not have", association(`{` + good + `,"clientRequestToken":"x"}`), answer{Status: 200}},
		{"a member that the server does not have, in a body", association(`{` + good + `,"targetRoleArn":"arn:aws:iam::111122223333:role/t"}`), answer{400, "InvalidParameterException",
			"This server does not support the member 'targetRoleArn' of CreatePodIdentityAssociation."}},
		{"a member that the server does not have is null", association(`{` + good + `,"targetRoleArn":null}`), answer{Status: 200}},
		{"a number for a text", association(`{"namespace":1}`), answer{400, "SerializationException", "NUMBER_VALUE can not be converted to a String"}},
		{"a text for a boolean", association(`{` + good + `,"disableSessionTags":"true"}`), answer{400, "SerializationException",
			"STRING_VALUE can not be converted to a Boolean"}},
		{"a list for a map", association(`{` + good + `,"tags":[]}`), answer{400, "SerializationException", "START_ARRAY can not be converted to a Map"}},
		{"a boolean for a text", association(`{"namespace":true}`), answer{400, "SerializationException", "TRUE_VALUE can not be converted to a String"}},
		{"a structure for a text", association(`{"namespace":{}}`), answer{400, "SerializationException", "START_OBJECT can not be converted to a String"}},
		{"a body that is not JSON", association(`{"namespace"`), answer{400, "SerializationException", "The request body is not a JSON object: unexpected EOF at byte 12"}},
		{"a body that is null", association(`null`), answer{400, "SerializationException", "The request body is not a JSON object: it is null"}},
		{"a body that is a list", association(`[1]`), answer{400, "SerializationException", "The request body is not a JSON object: it is a JSON array"}},
		{"a body that is a number", association(`17`), answer{400, "SerializationException", "The request body is not a JSON object: it is a JSON number"}},
		{"a body of two values", association(`{} {}`), answer{400, "SerializationException", "The request body is not a JSON object: invalid character '{' after top-level value at byte 3"}},
		{"a body that is not UTF-8", association("{\"a\":\"\xff\"}"), answer{400, "SerializationException", "The request body is not a JSON object: invalid UTF-8 at byte 6"}},
		{"a body with a member twice", association(`{` + good + `,"namespace":"b"}`), answer{400, "SerializationException",
			"The request body is not a JSON object: duplicate object member name at byte 52"}},
		{"a number for a time that is a text", lookup(`{"StartTime":"2026-03-04T05:06:07Z"}`), answer{400, "SerializationException",
			"STRING_VALUE can not be converted to a Timestamp"}},
		{"a time beyond all times", lookup(`{"StartTime":1e300}`), answer{400, "SerializationException", "The value at 'startTime' is not a valid timestamp"}},
		{"an integer written as a float", lookup(`{"StartTime":1,"MaxResults":5.0}`), answer{Status: 200}},
		{"a float for an integer", lookup(`{"StartTime":1,"MaxResults":5.5}`), answer{400, "SerializationException", "The value at 'maxResults' is not a valid integer"}},
		{"a number too large for any type", lookup(`{"StartTime":1,"MaxResults":1e999}`), answer{400, "SerializationException",
			"The request body is not a JSON object: a number is too large"}},
		{"cloudtrail's validation", lookup(`{"StartTime":1,"LookupAttributes":[{"AttributeKey":"EventName","AttributeValue":""}]}`), answer{400, "ValidationException",
			"1 validation error detected: Value '' at 'lookupAttributes.1.member.attributeValue' failed to satisfy constraint: Member must have length greater than or equal to 1"}},
		{"a path's label that does not match", rest("eks-auth", "POST", "/clusters/-x/assume-role-for-pod-identity", `{"token":"a.b.c"}`), answer{400, "InvalidParameterException",
			`1 validation error detected: Value '-x' at 'clusterName' failed to satisfy constraint: Member must satisfy regular expression pattern: [0-9A-Za-z][A-Za-z0-9\-_]*`}},
		{"a token is not repeated", rest("eks-auth", "POST", "/clusters/x/assume-role-for-pod-identity", `{"token":"abc"}`), answer{400, "InvalidParameterException",
			`1 validation error detected: Value at 'token' failed to satisfy constraint: Member must satisfy regular expression pattern: [A-Za-z0-9-_=]+\.[A-Za-z0-9-_=]+\.[A-Za-z0-9-_=]+`}},
		{"a number in the query that is none", rest("eks", "GET", "/clusters/x/pod-identity-associations?maxResults=x", ""), answer{400, "SerializationException",
			"The value at 'maxResults' is not a valid integer"}},
		{"a number in the query that is too large", rest("eks", "GET", "/clusters/x/pod-identity-associations?maxResults=101", ""), answer{400, "InvalidParameterException",
			"1 validation error detected: Value '101' at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 100"}},
		{"a query parameter twice", rest("eks", "GET", "/clusters/x/pod-identity-associations?namespace=a&namespace=b", ""), answer{400, "SerializationException",
			"The value at 'namespace' is there twice"}},
		{"a list in the query that is missing", rest("eks", "DELETE", "/tags/arn", ""), answer{400, "InvalidParameterException",
			"1 validation error detected: Value at 'tagKeys' failed to satisfy constraint: Member must not be null"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newAPI(t).send(t, tt.call)
			if tt.want.Status == 200 {
				if r.StatusCode != 200 {
					t.Errorf("status %d: %s", r.StatusCode, text(t, r))
				}
				return
			}
			got := answerOf(t, r)
			got.Message = strings.NewReplacer("&#xA;", "\n", "&#xD;", "\r", "&#x9;", "\t").Replace(got.Message)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestErrorTextsAreBounded(t *testing.T) {
	t.Parallel()
	var params strings.Builder
	params.WriteString("Action=AssumeRole&RoleArn=" + strings.Repeat("x", 100_000) + "&RoleSessionName=me")
	for i := range 1000 {
		fmt.Fprintf(&params, "&TransitiveTagKeys.member.%d=%%21%s", i+1, strings.Repeat("y", 200))
	}
	got := answerOf(t, newAPI(t).send(t, stsQuery(params.String())))
	if !strings.HasPrefix(got.Message, "2002 validation errors detected: ") || len(got.Message) > 40_000 {
		t.Errorf("a text of %d bytes: %.100s", len(got.Message), got.Message)
	}
}

func TestNewHandlerRefuses(t *testing.T) {
	t.Parallel()
	type lacksRequired struct{ RoleSessionName string }
	type unknownField struct{ RoleName, Nothing string }
	type wrongType struct{ RoleName int64 }
	type wrongNested struct{ Role struct{ Tags []string } }
	type twice struct{ RoleName, Rolename string }
	type embedsPointer struct{ *roleIn }
	op := func(operations ...awsapi.Operation) func(*awsapi.HandlerConfig) {
		return func(c *awsapi.HandlerConfig) {
			c.Services = []awsapi.Service{{Model: awsapi.ModelNamed("iam"), Operations: operations}}
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*awsapi.HandlerConfig)
		want   string // part of the error
	}{
		{"an operation that the model does not have", op(awsapi.Op("GetRoll", noop[roleIn, none], awsapi.Open)), "no operation GetRoll"},
		{"an operation twice", op(awsapi.Op("DeleteRole", noop[roleIn, none], awsapi.Open), awsapi.Op("DeleteRole", noop[roleIn, none], awsapi.Open)), "twice"},
		{"an operation without access", op(awsapi.Op[roleIn, none]("DeleteRole", noop[roleIn, none], nil)), "no access"},
		{"an input that lacks a required member", op(awsapi.Op("DeleteRole", noop[lacksRequired, none], awsapi.Open)), "RoleSessionName"},
		{"an input without a required member", op(awsapi.Op("DeleteRole", noop[none, none], awsapi.Open)), "required member RoleName"},
		{"a field that the model does not have", op(awsapi.Op("DeleteRole", noop[unknownField, none], awsapi.Open)), "Nothing"},
		{"a field of another type", op(awsapi.Op("DeleteRole", noop[wrongType, none], awsapi.Open)), "int64 cannot hold"},
		{"a nested field of another type", op(awsapi.Op("GetRole", noop[roleIn, wrongNested], awsapi.Open)), "cannot hold the shape Tag"},
		{"a result where there is none", op(awsapi.Op("DeleteRole", noop[roleIn, roleIn], awsapi.Open)), "RoleName"},
		{"two fields for one member", op(awsapi.Op("DeleteRole", noop[twice, none], awsapi.Open)), "twice"},
		{"an embedded pointer", op(awsapi.Op("DeleteRole", noop[embedsPointer, none], awsapi.Open)), "embeds a pointer"},
		{"a service twice", func(c *awsapi.HandlerConfig) { c.Services = append(c.Services, iamService()) }, "iam is there twice"},
		{"a raw service twice", func(c *awsapi.HandlerConfig) { c.Raw["iam"] = http.NotFoundHandler() }, "iam is there twice"},
		{"a service without a model", func(c *awsapi.HandlerConfig) { c.Services = []awsapi.Service{{}} }, "no model"},
		{"no log", func(c *awsapi.HandlerConfig) { c.Log = nil }, "Log"},
		{"no authenticator", func(c *awsapi.HandlerConfig) { c.Authenticator = nil }, "Authenticator"},
		{"no authorizer", func(c *awsapi.HandlerConfig) { c.Authorize = nil }, "Authorize"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := awsapi.HandlerConfig{Services: []awsapi.Service{iamService()}, Raw: map[string]http.Handler{}, Authorize: authorize,
				Authenticator: &awsapi.Authenticator{Credentials: credentials}, Log: slog.New(slog.DiscardHandler)}
			tt.change(&c)
			if _, err := awsapi.NewHandler(c); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestEmbeddedStructsAndTimes(t *testing.T) {
	t.Parallel()
	type common struct{ Path, RoleName string }
	type role struct {
		common
		CreateDate   time.Time
		RoleLastUsed *struct {
			LastUsedDate time.Time
			Region       string
		}
	}
	type out struct{ Role *role }
	a := newAPI(t, func(c *awsapi.HandlerConfig) {
		c.Services = []awsapi.Service{{Model: awsapi.ModelNamed("iam"), Operations: []awsapi.Operation{
			awsapi.Op("GetRole", func(context.Context, *awsapi.Caller, *roleIn) (*out, error) {
				return &out{&role{common: common{"/", "r"}, RoleLastUsed: &struct {
					LastUsedDate time.Time
					Region       string
				}{}}}, nil
			}, awsapi.Open),
		}}}
	})
	const want = "<GetRoleResult><Role><Path>/</Path><RoleName>r</RoleName><RoleLastUsed></RoleLastUsed></Role></GetRoleResult>"
	if body := text(t, a.send(t, iamQuery("Action=GetRole&RoleName=r"))); !strings.Contains(body, want) {
		t.Errorf("%s is not in %s", want, body)
	}
}

// Every permission must be allowed, and nothing is called before.
func TestAllPermissionsAreNeeded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		resources []string
		asked     []string
		called    bool
	}{
		{"none", nil, nil, true},
		{"two that are allowed", []string{"arn:a", "arn:b"}, []string{"arn:a", "arn:b"}, true},
		{"the first is denied", []string{"arn:forbidden", "arn:b"}, []string{"arn:forbidden"}, false},
		{"the last is denied", []string{"arn:a", "arn:forbidden"}, []string{"arn:a", "arn:forbidden"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var asked []string
			called := false
			a := newAPI(t, func(c *awsapi.HandlerConfig) {
				c.Authorize = func(ctx context.Context, c *awsapi.Caller, a awsapi.Access) policy.Decision {
					asked = append(asked, a.Resource)
					return authorize(ctx, c, a)
				}
				c.Services = []awsapi.Service{{Model: awsapi.ModelNamed("iam"), Operations: []awsapi.Operation{
					awsapi.Op("DeleteRole", func(context.Context, *awsapi.Caller, *roleIn) (*none, error) {
						called = true
						return nil, nil
					}, func(*awsapi.Caller, *roleIn) (needed []awsapi.Access, err error) {
						for _, r := range tt.resources {
							needed = append(needed, awsapi.Access{Action: "iam:DeleteRole", Resource: r})
						}
						return needed, nil
					}),
				}}}
			})
			r := a.send(t, iamQuery("Action=DeleteRole&RoleName=r"))
			if (r.StatusCode == 200) != tt.called || called != tt.called {
				t.Errorf("status %d, called %t; want called %t", r.StatusCode, called, tt.called)
			}
			if diff := cmp.Diff(tt.asked, asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
		})
	}
}
