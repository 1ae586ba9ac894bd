package awsapi

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/policy"
)

// AWS's models have no operation that takes a value of every kind. This one gives back what it gets, in all protocols.
const echoModel = `{
"metadata": {"apiVersion": "1", "endpointPrefix": "echo", "protocol": "%s", "xmlNamespace": "urn:echo"},
"operations": {"Echo": {"authtype": "none", "http": {"method": "POST", "requestUri": "/echo/{label}"},
  "input": {"shape": "All"}, "output": {"shape": "All", "resultWrapper": "EchoResult"}}},
"shapes": {
  "All": {"type": "structure", "members": {
    "label": {"shape": "String", "location": "uri", "locationName": "label"},
    "renamed": {"shape": "String", "locationName": "otherName"},
    "string": {"shape": "String"}, "integer": {"shape": "Integer"}, "long": {"shape": "Long"}, "double": {"shape": "Double"},
    "boolean": {"shape": "Boolean"}, "time": {"shape": "Time"}, "blob": {"shape": "Blob"}, "list": {"shape": "Strings"},
    "map": {"shape": "Map"}, "structures": {"shape": "Structures"}, "times": {"shape": "Times"},
    "nested": {"shape": "All"}, "flag": {"shape": "Boolean", "location": "querystring", "locationName": "flag"},
    "many": {"shape": "Longs", "location": "querystring", "locationName": "many"}}},
  "String": {"type": "string"}, "Integer": {"type": "integer"}, "Long": {"type": "long"}, "Double": {"type": "double"},
  "Boolean": {"type": "boolean"}, "Time": {"type": "timestamp"}, "Blob": {"type": "blob", "max": 8},
  "Strings": {"type": "list", "member": {"shape": "String"}}, "Longs": {"type": "list", "member": {"shape": "Long"}},
  "Times": {"type": "list", "member": {"shape": "Time"}}, "Structures": {"type": "list", "member": {"shape": "All"}},
  "Map": {"type": "map", "key": {"shape": "Key"}, "value": {"shape": "All"}}, "Key": {"type": "string", "min": 1}}
}`

type all struct {
	Label, Renamed, String string
	Integer                int32
	Long                   *int64
	Double                 float64
	Boolean                *bool
	Time                   time.Time
	Blob                   []byte
	List                   []string
	Map                    map[string]all
	Structures             []*all
	Times                  []time.Time
	Nested                 *all
	Flag                   bool
	Many                   []int64
}

// echo sends a request to the model's operation and returns the input that it was called with, and the answer.
func echo(t *testing.T, protocol, path, contentType, body string) (*all, *httptest.ResponseRecorder) {
	t.Helper()
	m, err := parseModel(fmt.Appendf(nil, echoModel, protocol))
	if err != nil {
		t.Fatal(err)
	}
	var got *all
	h, err := NewHandler(HandlerConfig{
		Services: []Service{{Model: m, Operations: []Operation{Op("Echo", func(_ context.Context, _ *Caller, in *all) (*all, error) {
			got = in
			return in, nil
		}, Open)}}},
		Authenticator: &Authenticator{Credentials: func(context.Context, string, string) (Credential, error) {
			return Credential{}, &AuthError{Kind: UnknownKey}
		}},
		Authorize: func(context.Context, *Caller, Access) policy.Decision { return policy.Decision{} },
		Log:       slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	if protocol == "json" {
		r.Header.Set("X-Amz-Target", "Echo.Echo")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return got, w
}

func ptr[T any](v T) *T { return &v }

func TestEveryKindByQuery(t *testing.T) {
	t.Parallel()
	q := url.Values{
		"Action": {"Echo"}, "Version": {"1"}, "string": {"s"}, "integer": {"-2147483648"}, "long": {"9223372036854775807"}, "double": {"1.5e300"},
		"boolean": {"FALSE"}, "time": {"2026-03-04T06:06:07+01:00"}, "blob": {"AAH/"}, "list.member.1": {""}, "nested.nested.string": {"deep"},
		"map.entry.1.key": {"k"}, "map.entry.1.value.string": {"v"}, "map.entry.1.value.integer": {"1"},
		"structures.member.1.integer": {"7"}, "times.member.1": {"1970-01-01T00:00:00Z"},
	}
	got, w := echo(t, "query", "/", "application/x-www-form-urlencoded", q.Encode())
	want := &all{
		String: "s", Integer: math.MinInt32, Long: ptr(int64(math.MaxInt64)), Double: 1.5e300, Boolean: ptr(false),
		Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Blob: []byte{0, 1, 255}, List: []string{""},
		Map: map[string]all{"k": {String: "v", Integer: 1}}, Structures: []*all{{Integer: 7}}, Times: []time.Time{time.Unix(0, 0).UTC()},
		Nested: &all{Nested: &all{String: "deep"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("input (-want +got):\n%s", diff)
	}
	body := `<EchoResponse xmlns="urn:echo">` + "\n<EchoResult><string>s</string><integer>-2147483648</integer><long>9223372036854775807</long>" +
		"<double>1.5e+300</double><boolean>false</boolean><time>2026-03-04T05:06:07Z</time><blob>AAH/</blob><list><member></member></list>" +
		"<map><entry><key>k</key><value><string>v</string><integer>1</integer><double>0</double><flag>false</flag></value></entry></map>" +
		"<structures><member><integer>7</integer><double>0</double><flag>false</flag></member></structures>" +
		"<times><member>1970-01-01T00:00:00Z</member></times>" +
		"<nested><integer>0</integer><double>0</double><nested><string>deep</string><integer>0</integer><double>0</double>" +
		"<flag>false</flag></nested><flag>false</flag></nested>" +
		"<flag>false</flag></EchoResult>\n"
	if diff := cmp.Diff(body, w.Body.String()[:min(len(body), w.Body.Len())]); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func TestEveryKindByJSON(t *testing.T) {
	t.Parallel()
	const body = `{"otherName":"r","string":"s","integer":2147483647,"long":9007199254740992,"double":-0.25,"boolean":true,"time":1772600767.25,"blob":"AAH/",` +
		`"list":["a","b"],"map":{"k":{"string":"v"}},"structures":[{"integer":7}],"times":[-1.5],"nested":{"otherName":"x"},"flag":"not here"}`
	want := &all{
		Renamed: "r", String: "s", Integer: math.MaxInt32, Long: ptr(int64(1 << 53)), Double: -0.25, Boolean: ptr(true),
		Time: time.Date(2026, 3, 4, 5, 6, 7, 250e6, time.UTC), Blob: []byte{0, 1, 255}, List: []string{"a", "b"},
		Map: map[string]all{"k": {String: "v"}}, Structures: []*all{{Integer: 7}}, Times: []time.Time{time.UnixMilli(-1500).UTC()},
		Nested: &all{Renamed: "x"},
	}
	const answer = `{"otherName":"r","string":"s","integer":2147483647,"long":9007199254740992,"double":-0.25,"boolean":true,"time":1772600767.250,` +
		`"blob":"AAH/","list":["a","b"],"map":{"k":{"string":"v","integer":0,"double":0,"flag":false}},` +
		`"structures":[{"integer":7,"double":0,"flag":false}],"times":[-1.500],"nested":{"otherName":"x","integer":0,"double":0,"flag":false}`
	t.Run("REST", func(t *testing.T) {
		t.Parallel()
		got, w := echo(t, "rest-json", "/echo/a%2Fb?flag=true&many=1&many=-2", "application/json", body)
		rest := *want
		rest.Label, rest.Flag, rest.Many = "a/b", true, []int64{1, -2}
		if diff := cmp.Diff(&rest, got); diff != "" {
			t.Errorf("input (-want +got):\n%s", diff)
		}
		wantBody := strings.Replace(answer, "{", `{"label":"a/b",`, 1) + `,"flag":true,"many":[1,-2]}`
		if diff := cmp.Diff(wantBody, w.Body.String()); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
	})
	t.Run("JSON 1.1", func(t *testing.T) {
		t.Parallel()
		got, w := echo(t, "json", "/", "application/x-amz-json-1.1", body)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("input (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(answer+`,"flag":false}`, w.Body.String()); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
	})
}

func TestValuesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, params, body, want string }{
		{"a long", "long=9223372036854775808", `{"long":9007199254740994}`, "valid integer"},
		{"a number", "double=x", `{"double":"1"}`, "umber"},
		{"a boolean", "boolean=yes", `{"boolean":1}`, "oolean"},
		{"a time", "time=2026-03-04", `{"time":true}`, "imestamp"},
		{"a blob", "blob=%21", `{"blob":"!"}`, "valid blob"},
		{"a long blob", "blob=AAAAAAAAAAAAAAAA", `{"blob":"AAAAAAAAAAAAAAAA"}`, "'blob' failed to satisfy constraint: Member must have length less than or equal to 8"},
		{"a map's entry without a key", "map.entry.1.value.string=x", `{"map":[]}`, "ap"},
		{"a map's entry without a value", "map.entry.1.key=x", `{"map":"x"}`, "ap"},
		{"a map's key", "map.entry.1.key=&map.entry.1.value.string=x", `{"map":{"":{}}}`, "Member must have length greater than or equal to 1"},
		{"a map's key twice", "map.entry.1.key=x&map.entry.1.value.string=x&map.entry.2.key=x&map.entry.2.value.string=x", `{"map":1}`, "ap"},
		{"a list's member that is missing", "list.member.1.x=1", `{"list":[null]}`, "'list.1.member'"},
		{"a structure", "nested=1", `{"nested":1}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for protocol, send := range map[string]func() (*all, *httptest.ResponseRecorder){
				"query": func() (*all, *httptest.ResponseRecorder) {
					return echo(t, "query", "/", "", "Action=Echo&Version=1&"+tt.params)
				},
				"rest-json": func() (*all, *httptest.ResponseRecorder) { return echo(t, "rest-json", "/echo/x", "", tt.body) },
			} {
				got, w := send()
				body := strings.ReplaceAll(w.Body.String(), "&#39;", "'")
				if tt.want == "" && protocol == "query" { // an unknown parameter
					continue
				}
				if got != nil || w.Code != 400 || !strings.Contains(body, tt.want) {
					t.Errorf("%s: status %d, want 400 with %q: %s", protocol, w.Code, tt.want, body)
				}
			}
		})
	}
}

func TestModelsThatAreNotUnderstood(t *testing.T) {
	t.Parallel()
	good := fmt.Sprintf(echoModel, "query")
	for _, tt := range []struct{ name, old, new string }{
		{"another protocol", `"query"`, `"smithy-rpc-v2-cbor"`},
		{"a trait that is not known", `"type": "blob"`, `"type": "blob", "streaming": true`},
		{"a flattened list", `"type": "list"`, `"type": "list", "flattened": true`},
		{"a list with another member name", `"member": {"shape": "String"}`, `"member": {"shape": "String", "locationName": "item"}`},
		{"a map with another key name", `"key": {"shape": "Key"}`, `"key": {"shape": "Key", "locationName": "name"}`},
		{"a member in a header", `"querystring"`, `"header"`},
		{"a type that is not known", `"double"}`, `"bigdecimal"}`},
		{"a shape that is missing", `{"shape": "Time"}`, `{"shape": "Nothing"}`},
		{"a pattern that Go does not have", `"Key": {"type": "string"`, `"Key": {"type": "string", "pattern": "-(?!-)"`},
		{"an output that is missing", `"output": {"shape": "All"`, `"output": {"shape": "Nothing"`},
		{"an input that is missing", `"input": {"shape": "All"`, `"input": {"shape": "Nothing"`},
		{"an error that is not understood", `"Boolean": {"type": "boolean"}`, `"Boolean": {"type": "boolean"}, "E": {"type": "x", "exception": true}`},
		{"no JSON", `{`, ``},
	} {
		text := strings.Replace(good, tt.old, tt.new, 1)
		if text == good {
			t.Fatalf("%s: %s is not in the model", tt.name, tt.old)
		}
		if _, err := parseModel([]byte(text)); err == nil {
			t.Errorf("%s: the model compiles", tt.name)
		}
	}
	if _, err := parseModel([]byte(good)); err != nil {
		t.Errorf("the model itself: %v", err)
	}
}

func TestErrorMembers(t *testing.T) {
	t.Parallel()
	s := &service{model: ModelNamed("eks"), protocol: restJSONProtocol}
	e := &Error{Code: "UnsupportedAvailabilityZoneException", Message: "m", Status: 400, Fields: map[string]any{
		"validZones": []string{"a", "b\""}, "retryable": true, "count": 3, "other": 1.5, "none": nil}}
	const want = `{"message":"m","count":3,"none":null,"other":"1.5","retryable":true,"validZones":["a","b\""],"clusterName":null,"nodegroupName":null}`
	if got := string(s.errorReply(e, "id", false).body); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// Statuses of codes that no model has.
func TestCommonStatuses(t *testing.T) {
	t.Parallel()
	query, rest := &service{model: ModelNamed("sts"), protocol: queryProtocol}, &service{model: ModelNamed("lanyard"), protocol: restJSONProtocol}
	for _, tt := range []struct {
		s      *service
		code   string
		status int
	}{
		{query, "AccessDenied", 403}, {query, "ExpiredToken", 403}, {query, "ExpiredTokenException", 400}, {query, "IDPRejectedClaim", 403},
		{query, "ValidationError", 400}, {query, "InvalidParameterValue", 400}, {query, "Throttling", 400}, {query, "ServiceUnavailable", 503},
		{query, "InternalFailure", 500}, {query, "NoSuchEntity", 404}, {query, "EntityAlreadyExists", 409}, {query, "SomethingElse", 400},
		{rest, "AccessDeniedException", 403}, {rest, "ThrottlingException", 429}, {rest, "ResourceInUseException", 409}, {rest, "ServerException", 500},
		{rest, "ConflictException", 409}, {rest, "InternalServerException", 500}, {rest, "Throttling", 429},
	} {
		if got := tt.s.status(tt.code); got != tt.status {
			t.Errorf("%s of %s: got %d, want %d", tt.code, tt.s.model.name, got, tt.status)
		}
	}
}

// FuzzJSONText compares the writer of JSON with encoding/json's reader.
func FuzzJSONText(f *testing.F) {
	f.Add("a\"\\\x00\x1f\x7f\u2028é😀\xff")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(appendJSONText(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		if want := string([]rune(s)); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}
