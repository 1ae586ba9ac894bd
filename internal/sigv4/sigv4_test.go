package sigv4_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/lanyard-id/lanyard/internal/sigv4"
)

const secret = sigv4.Secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")

var (
	now  = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	keys = sigv4.Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: secret}
)

const skew = 15 * time.Minute

func hashOf(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

// overTheWire returns the request as a server reads it.
func overTheWire(t testing.TB, r *http.Request) *http.Request {
	t.Helper()
	got, err := arrive(r)
	if err != nil {
		t.Fatalf("the request does not survive the wire: %v", err)
	}
	return got
}

// example is a request before it is signed.
type example struct {
	name    string
	method  string
	url     string
	service string
	header  http.Header
	body    string
}

var examples = []example{
	{name: "a form for STS", method: "POST", url: "https://sts.us-east-1.amazonaws.com/", service: "sts",
		header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, body: "Action=GetCallerIdentity&Version=2011-06-15"},
	{name: "a GET without a body", method: "GET", url: "http://127.0.0.1:4566/?Action=GetCallerIdentity&Version=2011-06-15", service: "sts"},
	{name: "a percent-encoded ARN in the path", method: "POST", url: "http://eks.example/tags/arn%3Aaws%3Aeks%3Aus-east-1%3A1%3Acluster%2Fdemo", service: "eks",
		header: http.Header{"Content-Type": {"application/json"}}, body: `{"tags":{}}`},
	{name: "a path that is escaped by no one", method: "GET", url: "http://eks.example/clusters/a:b@c,d!*'()", service: "eks"},
	{name: "unicode in path and query", method: "GET", url: "http://eks.example/clusters/%C3%A9?x=%E2%82%AC", service: "eks"},
	{name: "an empty path", method: "GET", url: "http://eks.example", service: "eks"},
	{name: "query keys that are repeated, empty and out of order", method: "GET", url: "http://eks.example/c?b=2&a=z&a=a&empty=&flag&B=1&a-b=1", service: "eks"},
	{name: "spaces as plus and as percent", method: "GET", url: "http://eks.example/c?x=a%20b+c%2Bd~", service: "eks"},
	{name: "a query value that sorts differently encoded", method: "GET", url: "http://eks.example/c?a%7E=1&a%21=2&a=%7E&a=%21", service: "eks"},
	{name: "headers repeated and folded", method: "GET", url: "http://eks.example/", service: "eks",
		header: http.Header{"X-Amz-Meta": {"  b   c ", "a"}, "My-Header": {"x", "  y  "}}},
	{name: "an S3 key with odd segments", method: "PUT", url: "http://s3.example/b//k/./x%2F..%2F%20%2B%3A", service: "s3", body: "data"},
	{name: "an S3 query", method: "GET", url: "http://s3.example/b?list-type=2&prefix=&delimiter=%2F&uploads", service: "s3"},
	{name: "a host with a port", method: "GET", url: "http://localhost:4566/clusters", service: "eks"},
	{name: "a body whose length is signed", method: "POST", url: "http://eks.example/clusters", service: "eks", body: `{"a":1}`},
}

func (e example) request(t testing.TB) *http.Request {
	t.Helper()
	r, err := http.NewRequest(e.method, e.url, strings.NewReader(e.body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range e.header {
		r.Header[k] = v
	}
	return r
}

func sdkSigner(service string) *v4.Signer {
	return v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = service == "s3" })
}

func verify(r *http.Request, bodyHash string) error {
	s, err := sigv4.Parse(r)
	if err != nil {
		return err
	}
	return s.Verify(r, secret, bodyHash, skew, now, nil)
}

func TestVerifyAcceptsWhatTheSDKSigns(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"", "IQoJb3JpZ2luX2VjEXAMPLE//+="} {
		for _, e := range examples {
			t.Run(fmt.Sprintf("%s, session %t", e.name, token != ""), func(t *testing.T) {
				t.Parallel()
				creds := aws.Credentials{AccessKeyID: keys.AccessKeyID, SecretAccessKey: string(secret), SessionToken: token}
				r := e.request(t)
				if e.service == "s3" {
					r.Header.Set("X-Amz-Content-Sha256", hashOf(e.body))
				}
				if err := sdkSigner(e.service).SignHTTP(context.Background(), creds, r, hashOf(e.body), e.service, "us-east-1", now); err != nil {
					t.Fatal(err)
				}
				r = overTheWire(t, r)
				s, err := sigv4.Parse(r)
				if err != nil {
					t.Fatalf("Parse: %v", err)
				}
				if s.AccessKeyID != keys.AccessKeyID || s.SessionToken != token || s.Service != e.service || s.Region != "us-east-1" ||
					!s.Time.Equal(now) || s.Presigned {
					t.Errorf("Parse = %+v", *s)
				}
				if err := s.Verify(r, secret, hashOf(e.body), skew, now, nil); err != nil {
					t.Errorf("Verify: %v", explain(err))
				}
			})
		}
	}
}

func TestVerifyAcceptsWhatTheSDKPresigns(t *testing.T) {
	t.Parallel()
	for _, e := range examples {
		if e.body != "" {
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			creds := aws.Credentials{AccessKeyID: keys.AccessKeyID, SecretAccessKey: string(secret), SessionToken: "session//+="}
			payload := sigv4.EmptyPayload
			if e.service == "s3" {
				payload = sigv4.UnsignedPayload
			}
			r := e.request(t)
			q := r.URL.Query()
			q.Set("X-Amz-Expires", "60")
			r.URL.RawQuery = q.Encode()
			uri, header, err := sdkSigner(e.service).PresignHTTP(context.Background(), creds, r, payload, e.service, "us-east-1", now)
			if err != nil {
				t.Fatal(err)
			}
			if r, err = http.NewRequest(e.method, uri, nil); err != nil {
				t.Fatal(err)
			}
			r.Header = header
			r.Host = header.Get("Host")
			header.Del("Host")
			if err := verify(overTheWire(t, r), ""); err != nil {
				t.Errorf("Verify: %v", explain(err))
			}
		})
	}
}

// The SDK is the other party: it must come to the same signature for what this package signs.
func TestSignIsWhatTheSDKSigns(t *testing.T) {
	t.Parallel()
	for _, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := e.request(t), e.request(t)
			ours.URL.RawQuery = ours.URL.Query().Encode() // what the SDK sends
			creds := aws.Credentials{AccessKeyID: keys.AccessKeyID, SecretAccessKey: string(secret)}
			if e.service == "s3" {
				theirs.Header.Set("X-Amz-Content-Sha256", hashOf(e.body))
			}
			theirs.ContentLength = 0 // this package leaves the length out
			if err := sdkSigner(e.service).SignHTTP(context.Background(), creds, theirs, hashOf(e.body), e.service, "us-east-1", now); err != nil {
				t.Fatal(err)
			}
			sigv4.Sign(ours, keys, e.service, "us-east-1", hashOf(e.body), now)
			if got, want := ours.Header.Get("Authorization"), theirs.Header.Get("Authorization"); got != want {
				t.Errorf("Authorization\n got %s\nwant %s", got, want)
			}
		})
	}
}

func TestSignAndPresignAreVerified(t *testing.T) {
	t.Parallel()
	session := keys
	session.SessionToken = "token//+= "
	for _, c := range []sigv4.Credentials{keys, session} {
		for _, e := range examples {
			r := e.request(t)
			sigv4.Sign(r, c, e.service, "us-east-1", hashOf(e.body), now)
			r = overTheWire(t, r)
			if err := verify(r, hashOf(e.body)); err != nil {
				t.Errorf("%s: signed: %v", e.name, explain(err))
			}
			if e.body != "" {
				continue
			}
			r = e.request(t)
			sigv4.Presign(r, c, e.service, "us-east-1", time.Minute, now)
			if err := verify(overTheWire(t, r), ""); err != nil {
				t.Errorf("%s: presigned: %v", e.name, explain(err))
			}
		}
	}
}

func explain(err error) error {
	var e *sigv4.Error
	if errors.As(err, &e) {
		return fmt.Errorf("%w\n%s\n%s", err, e.CanonicalRequest, e.StringToSign)
	}
	return err
}

func TestTamperedRequestsAreRefused(t *testing.T) {
	t.Parallel()
	const body = `{"name":"a"}`
	for _, tt := range []struct {
		name   string
		tamper func(r *http.Request)
		kind   sigv4.ErrorKind
	}{
		{"nothing", func(*http.Request) {}, 0},
		{"method", func(r *http.Request) { r.Method = "PUT" }, sigv4.Mismatch},
		{"path", func(r *http.Request) { r.URL.Path = "/clusters/b" }, sigv4.Mismatch},
		{"encoding of the path", func(r *http.Request) { r.URL.RawPath = "/%63lusters/a" }, sigv4.Mismatch},
		{"query value", func(r *http.Request) { r.URL.RawQuery = "a=2" }, sigv4.Mismatch},
		{"query added", func(r *http.Request) { r.URL.RawQuery += "&b" }, sigv4.Mismatch},
		{"host", func(r *http.Request) { r.Host = "eks.example:81" }, sigv4.Mismatch},
		{"content type", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, sigv4.Mismatch},
		{"content type removed", func(r *http.Request) { r.Header.Del("Content-Type") }, sigv4.Mismatch},
		{"signed header repeated", func(r *http.Request) { r.Header.Add("Content-Type", "x") }, sigv4.Mismatch},
		{"signed x-amz header", func(r *http.Request) { r.Header.Set("X-Amz-Meta", "2") }, sigv4.Mismatch},
		{"x-amz header added", func(r *http.Request) { r.Header.Set("X-Amz-Other", "2") }, sigv4.Mismatch},
		{"session token added", func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "x") }, sigv4.Mismatch},
		{"header that is not signed", func(r *http.Request) { r.Header.Set("X-Forwarded-For", "192.0.2.1") }, 0},
		{"date", func(r *http.Request) { r.Header.Set("X-Amz-Date", "20260304T050608Z") }, sigv4.Mismatch},
		{"day", func(r *http.Request) { r.Header.Set("X-Amz-Date", "20260305T050607Z") }, sigv4.BadScope},
		{"region", edit("/us-east-1/", "/us-east-2/"), sigv4.Mismatch},
		{"service", edit("/eks/", "/iam/"), sigv4.Mismatch},
		{"terminator", edit("aws4_request", "aws5_request"), sigv4.BadScope},
		{"access key", edit("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLF"), 0}, // only the secret is bound: the caller looks it up by the key
		{"signed headers", edit("content-type;", ""), sigv4.Mismatch},
		{"host not signed", edit("host;", ""), sigv4.Mismatch},
		{"date not signed", edit("x-amz-date;", ""), sigv4.Mismatch},
		{"signature", func(r *http.Request) {
			a := []byte(r.Header.Get("Authorization"))
			a[len(a)-1] ^= 1
			r.Header.Set("Authorization", string(a))
		}, sigv4.Mismatch},
		{"signature cut short", func(r *http.Request) {
			a := r.Header.Get("Authorization")
			r.Header.Set("Authorization", a[:len(a)-1])
		}, sigv4.Mismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := http.NewRequest("POST", "http://eks.example/clusters/a?a=1", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("X-Amz-Meta", "1")
			r.Header.Set("X-Z", "1")
			sigv4.Sign(r, keys, "eks", "us-east-1", hashOf(body), now)
			r = overTheWire(t, r)
			tt.tamper(r)
			wantKind(t, verify(r, hashOf(body)), tt.kind)
		})
	}
	t.Run("body", func(t *testing.T) {
		t.Parallel()
		r, _ := http.NewRequest("POST", "http://eks.example/", strings.NewReader(body))
		sigv4.Sign(r, keys, "eks", "us-east-1", hashOf(body), now)
		wantKind(t, verify(r, hashOf(body+" ")), sigv4.Mismatch)
		wantKind(t, verify(r, hashOf(body)), 0)
	})
	t.Run("secret", func(t *testing.T) {
		t.Parallel()
		r, _ := http.NewRequest("POST", "http://eks.example/", strings.NewReader(body))
		sigv4.Sign(r, keys, "eks", "us-east-1", hashOf(body), now)
		s, err := sigv4.Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		wantKind(t, s.Verify(r, secret+"x", hashOf(body), skew, now, nil), sigv4.Mismatch)
	})
}

// edit replaces text of the Authorization header.
func edit(old, replacement string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, replacement, 1))
	}
}

func wantKind(t *testing.T, err error, kind sigv4.ErrorKind) {
	t.Helper()
	var e *sigv4.Error
	switch {
	case kind == 0 && err != nil:
		t.Errorf("refused: %v", explain(err))
	case kind == 0:
	case !errors.As(err, &e):
		t.Errorf("got error %v, want one of kind %d", err, kind)
	case e.Kind != kind:
		t.Errorf("got kind %d (%v), want %d", e.Kind, e, kind)
	}
}

func TestTamperedPresignedRequestsAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		old, new string
		kind     sigv4.ErrorKind
	}{
		{"nothing", "", "", 0},
		{"action", "GetCallerIdentity", "AssumeRole", sigv4.Mismatch},
		{"expiry", "X-Amz-Expires=60", "X-Amz-Expires=61", sigv4.Mismatch},
		{"expiry too long", "X-Amz-Expires=60", "X-Amz-Expires=604801", sigv4.Malformed},
		{"expiry that overflows", "X-Amz-Expires=60", "X-Amz-Expires=9999999999999999999", sigv4.Malformed},
		{"expiry of nothing", "X-Amz-Expires=60", "X-Amz-Expires=0", sigv4.Malformed},
		{"expiry below nothing", "X-Amz-Expires=60", "X-Amz-Expires=-1", sigv4.Malformed},
		{"expiry that is no number", "X-Amz-Expires=60", "X-Amz-Expires=x", sigv4.Malformed},
		{"date", "T050607Z", "T050608Z", sigv4.Mismatch},
		{"token", "X-Amz-Security-Token=token", "X-Amz-Security-Token=other", sigv4.Mismatch},
		{"a second token", "X-Amz-Security-Token=token", "X-Amz-Security-Token=token&X-Amz-Security-Token=x", sigv4.Malformed},
		{"a second token in disguise", "X-Amz-Security-Token=token", "X-Amz-Security-Token=token&X-Amz-Security-%54oken=x", sigv4.Malformed},
		{"algorithm", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1", sigv4.Malformed},
		{"no credential", "X-Amz-Credential=", "X-Amz-Nothing=", sigv4.Malformed},
		{"no signature", "X-Amz-Signature=", "X-Amz-Nothing=", sigv4.Malformed},
		{"signed headers", "SignedHeaders=host", "SignedHeaders=hos", sigv4.Mismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := http.NewRequest("GET", "http://sts.example/?Action=GetCallerIdentity", nil)
			if err != nil {
				t.Fatal(err)
			}
			c := keys
			c.SessionToken = "token"
			sigv4.Presign(r, c, "sts", "us-east-1", time.Minute, now)
			if tt.old != "" && !strings.Contains(r.URL.RawQuery, tt.old) {
				t.Fatalf("%q is not in %s", tt.old, r.URL.RawQuery)
			}
			r.URL.RawQuery = strings.Replace(r.URL.RawQuery, tt.old, tt.new, 1)
			wantKind(t, verify(r, ""), tt.kind)
		})
	}
}

// The examples of the S3 API Reference, "Signature calculations for the Authorization header: transferring payload in a
// single chunk" and "Authenticating requests: using query parameters".
func TestPublishedExamples(t *testing.T) {
	t.Parallel()
	signedAt := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, method, url string
		header            http.Header
		payload           string
		signature         string
	}{
		{"get an object", "GET", "http://examplebucket.s3.amazonaws.com/test.txt", http.Header{"Range": {"bytes=0-9"}}, sigv4.EmptyPayload,
			"f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		{"put an object", "PUT", "http://examplebucket.s3.amazonaws.com/test$file.text",
			http.Header{"Date": {"Fri, 24 May 2013 00:00:00 GMT"}, "X-Amz-Storage-Class": {"REDUCED_REDUNDANCY"}}, hashOf("Welcome to Amazon S3."),
			"98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
		{"get a bucket's lifecycle", "GET", "http://examplebucket.s3.amazonaws.com/?lifecycle", nil, sigv4.EmptyPayload,
			"fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
		{"list objects", "GET", "http://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J", nil, sigv4.EmptyPayload,
			"34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := http.NewRequest(tt.method, tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			for name, values := range tt.header {
				r.Header[name] = values
			}
			sigv4.Sign(r, keys, "s3", "us-east-1", tt.payload, signedAt)
			if got := r.Header.Get("Authorization"); !strings.HasSuffix(got, "Signature="+tt.signature) {
				t.Errorf("got %s, want the signature %s", got, tt.signature)
			}
		})
	}
	t.Run("presign", func(t *testing.T) {
		t.Parallel()
		r, err := http.NewRequest("GET", "https://examplebucket.s3.amazonaws.com/test.txt", nil)
		if err != nil {
			t.Fatal(err)
		}
		sigv4.Presign(r, keys, "s3", "us-east-1", 24*time.Hour, signedAt)
		const want = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&" +
			"X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&" +
			"X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
		if r.URL.RawQuery != want {
			t.Errorf("got %s\nwant %s", r.URL.RawQuery, want)
		}
	})
}

// A kubectl token is a presigned URL whose x-k8s-aws-id header was signed, but is not sent.
func TestHeadersThatWereNotSent(t *testing.T) {
	t.Parallel()
	r, err := http.NewRequest("GET", "https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("x-k8s-aws-id", "demo")
	sigv4.Presign(r, keys, "sts", "us-east-1", time.Minute, now)
	r.Header = http.Header{}
	s, err := sigv4.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.Verify(r, secret, "", skew, now, http.Header{"X-K8s-Aws-Id": {"demo"}}), 0)
	wantKind(t, s.Verify(r, secret, "", skew, now, http.Header{"X-K8s-Aws-Id": {"other"}}), sigv4.Mismatch)
	wantKind(t, s.Verify(r, secret, "", skew, now, nil), sigv4.Mismatch)
}

func TestTime(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		at      time.Duration // the clock at verification, from signing
		presign time.Duration
		service string
		kind    sigv4.ErrorKind
		text    string
	}{
		{name: "at once", at: 0},
		{name: "15 minutes later", at: skew},
		{name: "a second too late", at: skew + time.Second, kind: sigv4.Expired,
			text: "Signature expired: 20260304T050607Z is now earlier than 20260304T050608Z (20260304T052108Z - 15 min.)"},
		{name: "15 minutes before", at: -skew},
		{name: "a second too early", at: -skew - time.Second, kind: sigv4.NotYetValid,
			text: "Signature not yet current: 20260304T050607Z is still later than 20260304T050606Z (20260304T045106Z + 15 min.)"},
		{name: "presigned, within its time", at: time.Hour, presign: time.Hour},
		{name: "presigned, after its time", at: time.Hour + time.Second, presign: time.Hour, kind: sigv4.Expired,
			text: "Signature expired: 20260304T050607Z is now earlier than 20260304T050608Z (20260304T060608Z - 60 min.)"},
		{name: "presigned for half a minute", at: time.Minute, presign: 30 * time.Second, kind: sigv4.Expired,
			text: "Signature expired: 20260304T050607Z is now earlier than 20260304T050637Z (20260304T050707Z - 30 sec.)"},
		{name: "presigned for S3, after its time", at: 2 * time.Hour, presign: time.Hour, service: "s3", kind: sigv4.Expired,
			text: "Request has expired"},
		{name: "presigned, from the future", at: -skew - time.Second, presign: 7 * 24 * time.Hour, kind: sigv4.NotYetValid,
			text: "Signature not yet current: 20260304T050607Z is still later than 20260304T050606Z (20260304T045106Z + 15 min.)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			service := tt.service
			if service == "" {
				service = "sts"
			}
			r, err := http.NewRequest("GET", "http://sts.example/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.presign > 0 {
				sigv4.Presign(r, keys, service, "us-east-1", tt.presign, now)
			} else {
				sigv4.Sign(r, keys, service, "us-east-1", sigv4.EmptyPayload, now)
			}
			s, err := sigv4.Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Verify(r, secret, sigv4.EmptyPayload, skew, now.Add(tt.at), nil)
			wantKind(t, err, tt.kind)
			if tt.text != "" && err != nil && err.Error() != tt.text {
				t.Errorf("text\n got %s\nwant %s", err, tt.text)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const date = "20260304T050607Z"
	const good = "AWS4-HMAC-SHA256 Credential=AKID/20260304/us-east-1/sts/aws4_request, SignedHeaders=host;x-amz-date, Signature=00"
	for _, tt := range []struct {
		name, auth, date, query string
		kind                    sigv4.ErrorKind
		text                    string // of the error; empty when any will do
	}{
		{name: "nothing", auth: good, date: date},
		{name: "commas without spaces", auth: strings.ReplaceAll(good, ", ", ","), date: date},
		{name: "a bearer token", auth: "Bearer abc", date: date, kind: sigv4.Malformed,
			text: "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. " +
				"Authorization header requires 'SignedHeaders' parameter."},
		{name: "a date that is missing", auth: good, kind: sigv4.Malformed,
			text: "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."},
		{name: "a date in another form", auth: good, date: "2026-03-04T05:06:07Z", kind: sigv4.Malformed,
			text: "Date must be in ISO-8601 'basic format'. Got '2026-03-04T05:06:07Z'. See http://en.wikipedia.org/wiki/ISO_8601"},
		{name: "a date that does not exist", auth: good, date: "20260230T050607Z", kind: sigv4.Malformed},
		{name: "a credential without a region", auth: strings.Replace(good, "us-east-1/", "", 1), date: date, kind: sigv4.Malformed,
			text: "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got 'AKID/20260304/sts/aws4_request'"},
		{name: "a credential with an empty region", auth: strings.Replace(good, "us-east-1", "", 1), date: date, kind: sigv4.Malformed},
		{name: "another terminator", auth: strings.Replace(good, "aws4_request", "x", 1), date: date, kind: sigv4.BadScope,
			text: "Credential should be scoped with a valid terminator: 'aws4_request', not 'x'."},
		{name: "the scope of another day", auth: strings.Replace(good, "20260304/", "20260303/", 1), date: date, kind: sigv4.BadScope,
			text: "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: " +
				"'20260303' != '20260304', from '20260304T050607Z'."},
		{name: "version 2", auth: "AWS AKID:c2ln", date: date, kind: sigv4.Malformed,
			text: "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."},
		{name: "version 4A", auth: strings.Replace(good, "AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", 1), date: date, kind: sigv4.Malformed,
			text: "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'. Only AWS4-HMAC-SHA256 is supported."},
		{name: "a parameter without a value", auth: good + ", x", date: date, kind: sigv4.Malformed,
			text: "'x' not a valid key=value pair (missing equal-sign) in Authorization header."},
		{name: "an unknown parameter", auth: good + ", X=y", date: date, kind: sigv4.Malformed},
		{name: "a parameter twice", auth: good + ", Signature=11", date: date, kind: sigv4.Malformed},
		{name: "signed headers in upper case", auth: strings.Replace(good, "host;", "Host;", 1), date: date, kind: sigv4.Malformed},
		{name: "signed headers out of order", auth: strings.Replace(good, "host;x-amz-date", "x-amz-date;host", 1), date: date, kind: sigv4.Malformed},
		{name: "signed headers repeated", auth: strings.Replace(good, "host;", "host;host;", 1), date: date, kind: sigv4.Malformed},
		{name: "too many signed headers", auth: strings.Replace(good, "host;", "host"+strings.Repeat(";x", 300)+";", 1), date: date, kind: sigv4.Malformed},
		{name: "a host that is not signed", auth: strings.Replace(good, "host;", "", 1), date: date, kind: sigv4.Mismatch,
			text: "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."},
		{name: "a date that is not signed", auth: strings.Replace(good, ";x-amz-date", "", 1), date: date, kind: sigv4.Mismatch,
			text: "'X-Amz-Date' must be a 'SignedHeader' in the AWS Authorization."},
		{name: "header and query together", auth: good, date: date, query: "X-Amz-Signature=00", kind: sigv4.Malformed},
		{name: "a query with a signature alone", query: "X-Amz-Signature=00", kind: sigv4.Malformed,
			text: "AWS query-string parameters must include 'X-Amz-Algorithm'. AWS query-string parameters must include 'X-Amz-Credential'. " +
				"AWS query-string parameters must include 'X-Amz-SignedHeaders'. AWS query-string parameters must include 'X-Amz-Date'. " +
				"Re-examine the query-string parameters."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &http.Request{Method: "GET", Host: "h", Header: http.Header{}, URL: &url.URL{Path: "/", RawQuery: tt.query}}
			if tt.auth != "" {
				r.Header.Set("Authorization", tt.auth)
			}
			if tt.date != "" {
				r.Header.Set("X-Amz-Date", tt.date)
			}
			_, err := sigv4.Parse(r)
			wantKind(t, err, tt.kind)
			if tt.text != "" && err != nil && err.Error() != tt.text {
				t.Errorf("text\n got %s\nwant %s", err, tt.text)
			}
		})
	}
}

func TestParseUnsigned(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"", "Action=AssumeRoleWithWebIdentity", "X-Amz-Date=20260304T050607Z", "x=X-Amz-Signature"} {
		r := &http.Request{Method: "GET", Header: http.Header{}, URL: &url.URL{Path: "/", RawQuery: query}}
		if _, err := sigv4.Parse(r); !errors.Is(err, sigv4.ErrUnsigned) {
			t.Errorf("Parse of query %q: got %v, want ErrUnsigned", query, err)
		}
	}
}

// Services other than S3 normalize the path before they sign it; in S3 every segment counts.
func TestPathsAreNormalized(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ sent, signed string }{
		{"/", "/"}, {"//", "/"}, {"/.", "/"}, {"/./", "/"}, {"/..", "/"}, {"/../../a", "/a"}, {"/a/..", "/"}, {"/a/../", "/"},
		{"/a/b/..", "/a/"}, {"/a/./b", "/a/b"}, {"//a//b//", "/a/b/"}, {"/a/.b/..c", "/a/.b/..c"}, {"/a/b/.", "/a/b/"}, {"/a%2F..%2Fb", "/a%2F..%2Fb"},
	} {
		for _, service := range []string{"eks", "s3"} {
			r, err := http.NewRequest("GET", "http://h.example"+tt.signed, nil)
			if err != nil {
				t.Fatal(err)
			}
			sigv4.Sign(r, keys, service, "us-east-1", sigv4.EmptyPayload, now)
			if r.URL, err = url.Parse("http://h.example" + tt.sent); err != nil {
				t.Fatal(err)
			}
			want := sigv4.Mismatch
			if service != "s3" || tt.sent == tt.signed {
				want = 0
			}
			t.Run(service+tt.sent, func(t *testing.T) { wantKind(t, verify(overTheWire(t, r), ""), want) })
		}
	}
}

func TestHeadersThatMayOccurOnce(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token", "X-Amz-Content-Sha256"} {
		r, err := http.NewRequest("GET", "http://h.example/", nil)
		if err != nil {
			t.Fatal(err)
		}
		c := keys
		c.SessionToken = "token"
		sigv4.Sign(r, c, "s3", "us-east-1", sigv4.EmptyPayload, now)
		wantKind(t, verify(r, ""), 0)
		r.Header.Add(name, r.Header.Get(name))
		wantKind(t, verify(r, ""), sigv4.Malformed)
	}
}

func TestDateHeader(t *testing.T) {
	t.Parallel()
	// The SDKs always send X-Amz-Date; the signature is calculated here as they would.
	r, _ := http.NewRequest("GET", "http://sts.example/", nil)
	sigv4.Sign(r, keys, "sts", "us-east-1", sigv4.EmptyPayload, now)
	auth := strings.Replace(r.Header.Get("Authorization"), "host;x-amz-date", "date;host", 1)
	for _, date := range []string{now.Format(http.TimeFormat), now.Format("20060102T150405Z")} {
		r := &http.Request{Method: "GET", Host: "sts.example", Header: http.Header{"Date": {date}, "Authorization": {auth}}, URL: &url.URL{Path: "/"}}
		s, err := sigv4.Parse(r)
		if err != nil {
			t.Fatalf("Parse with Date %q: %v", date, err)
		}
		if !s.Time.Equal(now) {
			t.Errorf("Date %q: time %v, want %v", date, s.Time, now)
		}
	}
}

// Verify must not take a signed declaration for the body itself.
func TestPayloadHash(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		service  string
		declared string // X-Amz-Content-Sha256
		signed   string
		bodyHash string
		length   int64
		kind     sigv4.ErrorKind
	}{
		{name: "S3, declared and read", service: "s3", declared: hashOf("a"), signed: hashOf("a"), bodyHash: hashOf("a")},
		{name: "S3, declared and another read", service: "s3", declared: hashOf("a"), signed: hashOf("a"), bodyHash: hashOf("b"), kind: sigv4.BadPayload},
		{name: "S3, declared and not read", service: "s3", declared: hashOf("a"), signed: hashOf("a")},
		{name: "S3, unsigned", service: "s3", declared: sigv4.UnsignedPayload, signed: sigv4.UnsignedPayload, bodyHash: hashOf("a")},
		{name: "S3, nonsense declared", service: "s3", declared: "x", signed: "x", kind: sigv4.Malformed},
		{name: "S3, upper case", service: "s3", declared: strings.ToUpper(hashOf("a")), signed: strings.ToUpper(hashOf("a")), kind: sigv4.Malformed},
		{name: "STS, unsigned", service: "sts", declared: sigv4.UnsignedPayload, signed: sigv4.UnsignedPayload, bodyHash: hashOf("a"), kind: sigv4.BadPayload},
		{name: "STS, unsigned and not read", service: "sts", declared: sigv4.UnsignedPayload, signed: sigv4.UnsignedPayload, kind: sigv4.BadPayload},
		{name: "STS, nothing declared and not read", service: "sts", signed: sigv4.EmptyPayload, length: 1, kind: sigv4.BadPayload},
		{name: "STS, nothing declared, no body", service: "sts", signed: sigv4.EmptyPayload},
		{name: "STS, nothing declared and read", service: "sts", signed: hashOf("a"), bodyHash: hashOf("a")},
		{name: "STS, declared and not read", service: "sts", declared: hashOf("a"), signed: hashOf("a")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, _ := http.NewRequest("PUT", "http://h.example/", nil)
			if tt.declared != "" {
				r.Header.Set("X-Amz-Content-Sha256", tt.declared)
			}
			r.ContentLength = tt.length
			sigv4.Sign(r, keys, tt.service, "us-east-1", tt.signed, now)
			wantKind(t, verify(r, tt.bodyHash), tt.kind)
		})
	}
}

func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	c := sigv4.Credentials{AccessKeyID: "AKID", SecretAccessKey: "very-secret", SessionToken: "session-token"}
	r, _ := http.NewRequest("GET", "http://h.example/", nil)
	sigv4.Sign(r, c, "sts", "us-east-1", sigv4.EmptyPayload, now)
	s, err := sigv4.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	mismatch := s.Verify(r, "other", "", skew, now, nil)
	var e *sigv4.Error
	if !errors.As(mismatch, &e) || !strings.Contains(e.CanonicalRequest, "session-token") {
		t.Fatalf("got %v, want a mismatch that shows what was signed", mismatch)
	}
	var buf bytes.Buffer
	slog.New(slog.NewJSONHandler(&buf, nil)).Info("x", "credentials", c, "signature", s, "err", e, "secret", c.SecretAccessKey)
	fmt.Fprintf(&buf, "%v %+v %#v %s %q", c.SecretAccessKey, c.SecretAccessKey, c.SecretAccessKey, c.SecretAccessKey, c.SecretAccessKey)
	for _, word := range []string{"very-secret", "session-token", s.Provided()} {
		if strings.Contains(buf.String(), word) {
			t.Errorf("%q is in the log: %s", word, buf.String())
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=AKID/20260304/us-east-1/sts/aws4_request, SignedHeaders=host;x-amz-date, Signature=00", "20260304T050607Z", "")
	f.Add("", "", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20260304%2Fus-east-1%2Fsts%2Faws4_request&X-Amz-Date=20260304T050607Z"+
		"&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00")
	f.Fuzz(func(t *testing.T, auth, date, query string) {
		r := &http.Request{Method: "GET", Host: "h", Header: http.Header{}, URL: &url.URL{Path: "/", RawQuery: query}}
		if auth != "" {
			r.Header.Set("Authorization", auth)
		}
		if date != "" {
			r.Header.Set("X-Amz-Date", date)
		}
		s, err := sigv4.Parse(r)
		if err != nil {
			var e *sigv4.Error
			if !errors.Is(err, sigv4.ErrUnsigned) && !errors.As(err, &e) {
				t.Fatalf("error %v is neither ErrUnsigned nor *Error", err)
			}
			return
		}
		if s.AccessKeyID == "" || s.Region == "" || s.Service == "" || s.Time.IsZero() || s.Expires < 0 || s.Expires > 7*24*time.Hour {
			t.Fatalf("Parse accepted %+v", *s)
		}
		if err := s.Verify(r, secret, sigv4.EmptyPayload, skew, s.Time, nil); err == nil {
			t.Fatal("a signature that was made up verifies")
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	const body = "Action=GetCallerIdentity&Version=2011-06-15"
	r := examples[0].request(b)
	creds := aws.Credentials{AccessKeyID: keys.AccessKeyID, SecretAccessKey: string(secret), SessionToken: strings.Repeat("x", 900)}
	if err := sdkSigner("sts").SignHTTP(context.Background(), creds, r, hashOf(body), "sts", "us-east-1", now); err != nil {
		b.Fatal(err)
	}
	r = overTheWire(b, r)
	hash := hashOf(body)
	b.ReportAllocs()
	for b.Loop() {
		s, err := sigv4.Parse(r)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Verify(r, secret, hash, skew, now, nil); err != nil {
			b.Fatal(err)
		}
	}
}
