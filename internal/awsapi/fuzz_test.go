package awsapi_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

const unsignedAction = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&"

// FuzzQuery feeds forms to an operation that needs no signature.
func FuzzQuery(f *testing.F) {
	f.Add("RoleArn=arn:aws:iam::111122223333:role/r&RoleSessionName=me&WebIdentityToken=good")
	f.Add("RoleArn=a&RoleArn=b&%zz")
	f.Add("PolicyArns.member.1.arn=x&PolicyArns.member.=&PolicyArns.=&DurationSeconds=-1")
	a := newAPI(f)
	f.Fuzz(func(t *testing.T, params string) {
		a.log.Reset()
		r := a.send(t, form("", unsignedAction+params))
		body := text(t, r)
		if r.StatusCode >= 500 {
			t.Fatalf("status %d: %s\n%s", r.StatusCode, body, a.log.String())
		}
		if err := wellFormed(body); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
	})
}

func wellFormed(text string) error {
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := d.Token(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// FuzzQueryRoundTrip checks that every list of tags arrives as it was sent, or is refused.
func FuzzQueryRoundTrip(f *testing.F) {
	f.Add("k", "v", "key", "value")
	f.Add("&=+%", "é \x00", "\xff", "")
	a := newAPI(f)
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		a.log.Reset()
		q := url.Values{"Tags.member.1.Key": {k1}, "Tags.member.1.Value": {v1}, "Tags.member.2.Key": {k2}, "Tags.member.2.Value": {v2},
			"RoleArn": {"arn:aws:iam::111122223333:role/r"}, "RoleSessionName": {"me"}, "Action": {"AssumeRole"}}
		r := a.send(t, stsQuery(q.Encode()))
		body := text(t, r)
		switch r.StatusCode {
		case 200:
			var out struct {
				ID string `xml:"AssumeRoleResult>AssumedRoleUser>AssumedRoleId"`
			}
			var in assumeRoleIn
			if err := xml.Unmarshal([]byte(body), &out); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(out.ID), &in); err != nil {
				t.Fatal(err)
			}
			if want := []tagShape{{k1, v1}, {k2, v2}}; !reflect.DeepEqual(in.Tags, want) {
				t.Fatalf("got %q, want %q", in.Tags, want)
			}
		case 400:
		default:
			t.Fatalf("status %d: %s", r.StatusCode, body)
		}
	})
}

// FuzzJSON feeds bodies to a REST operation whose answer repeats its input.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"namespace":"n","serviceAccount":"s","roleArn":"r","tags":{"a":"\u2028\"\\"},"disableSessionTags":true}`))
	f.Add([]byte(`{"namespace":1e999}`))
	f.Add([]byte(`[[[[`))
	a := newAPI(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		a.log.Reset()
		r := a.send(t, rest("eks", "POST", "/clusters/demo/pod-identity-associations", string(body)))
		got := text(t, r)
		if r.StatusCode >= 500 || !json.Valid([]byte(got)) {
			t.Fatalf("status %d: %s\n%s", r.StatusCode, got, a.log.String())
		}
		if r.StatusCode != 200 {
			return
		}
		var in map[string]any
		var out struct{ Association map[string]any }
		if err := json.Unmarshal(body, &in); err != nil {
			t.Fatalf("a body that is not JSON was taken: %v", err)
		}
		if err := json.Unmarshal([]byte(got), &out); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"namespace", "serviceAccount", "roleArn", "tags", "disableSessionTags"} {
			if want := in[name]; want != nil && want != "" && !reflect.DeepEqual(out.Association[name], want) {
				t.Fatalf("%s: got %v, want %v", name, out.Association[name], want)
			}
		}
	})
}

// FuzzRoute sends requests of all kinds without a signature: none may reach an operation that needs one.
func FuzzRoute(f *testing.F) {
	f.Add("GET", "/clusters/demo", "", "localhost", "")
	f.Add("POST", "/", "Action=GetCallerIdentity&Version=2011-06-15", "sts.amazonaws.com", "")
	f.Add("POST", "/tags/arn%3Aaws%3Aeks//..", "", "eks.us-east-1.amazonaws.com:443", "")
	f.Add("POST", "/", "", "s3-.amazonaws.com", "CloudTrail_20131101.LookupEvents")
	a := newAPI(f, func(c *awsapi.HandlerConfig) { c.Raw = nil })
	f.Fuzz(func(t *testing.T, method, path, query, host, target string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || !strings.HasPrefix(path, "/") || strings.ContainsAny(method, " \r\n") || method == "" {
			return
		}
		a.log.Reset()
		r := &http.Request{Method: method, URL: u, Host: host, Header: http.Header{}, Body: http.NoBody, RemoteAddr: "192.0.2.1:1"}
		r.URL.RawQuery = query
		if target != "" {
			r.Header.Set("X-Amz-Target", target)
		}
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		if w.Code == 200 && !strings.Contains(query, "AssumeRoleWithWebIdentity") || w.Code == 500 {
			t.Fatalf("status %d: %s\n%s", w.Code, w.Body, a.log.String())
		}
	})
}

func BenchmarkGetCallerIdentity(b *testing.B) {
	benchmark(b, stsQuery("Action=GetCallerIdentity"))
}

func BenchmarkAssumeRoleForPodIdentity(b *testing.B) {
	token := strings.Repeat("a", 300) + "." + strings.Repeat("b", 900) + "." + strings.Repeat("c", 340)
	benchmark(b, rest("eks-auth", "POST", "/clusters/demo/assume-role-for-pod-identity", `{"token":"`+token+`"}`))
}

// benchmark measures a whole request but for the network.
func benchmark(b *testing.B, c call) {
	a := newAPI(b, func(c *awsapi.HandlerConfig) { c.Log = slog.New(slog.DiscardHandler) })
	r := c.request(b)
	w := &discardWriter{header: http.Header{}}
	body := []byte(c.body)
	b.ReportAllocs()
	for b.Loop() {
		r.Body = io.NopCloser(bytes.NewReader(body))
		clear(w.header)
		a.ServeHTTP(w, r)
	}
	if w.status != 200 {
		b.Fatalf("status %d", w.status)
	}
}

type discardWriter struct {
	header http.Header
	status int
}

func (w *discardWriter) Header() http.Header         { return w.header }
func (w *discardWriter) WriteHeader(status int)      { w.status = status }
func (w *discardWriter) Write(p []byte) (int, error) { return len(p), nil }
