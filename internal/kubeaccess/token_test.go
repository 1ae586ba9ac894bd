package kubeaccess

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/sigv4"
)

func TestHosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		host, partition string
		want            bool
	}{
		{"sts.amazonaws.com", "aws", true},
		{"sts.us-east-1.amazonaws.com", "aws", true},
		{"sts-fips.us-east-1.amazonaws.com", "aws", true},
		{"sts.us-east-1.api.aws", "aws", true},
		{"sts-fips.us-east-1.api.aws", "aws", true},
		{"sts.us-gov-west-1.amazonaws.com", "aws-us-gov", true},
		{"sts.cn-north-1.amazonaws.com.cn", "aws-cn", true},
		{"sts.us-gov-west-1.amazonaws.com", "aws", false},
		{"sts.us-east-1.amazonaws.com", "aws-us-gov", false},
		{"sts.cn-north-1.amazonaws.com.cn", "aws", false},
		{"s3.us-east-1.amazonaws.com", "aws", false},
		{"sts.nowhere.amazonaws.com", "aws", false},
		{"sts.api.aws", "aws", false},
		{"x.sts.us-east-1.amazonaws.com", "aws", false},
		{"sts.us-east-1.amazonaws.com.example.com", "aws", false},
		{"stsxus-east-1.amazonaws.com", "aws", false},
		{"amazonaws.com", "aws", false},
		{"sts.us-east-1.amazonaws.com", "nothing", false},
	} {
		if got := isSTS(c.host, c.partition); got != c.want {
			t.Errorf("%s is STS's in %s: got %v", c.host, c.partition, got)
		}
	}
	for _, c := range []struct {
		served, host string
		want         bool
	}{
		{"lanyard.example.com", "lanyard.example.com", true},
		{"Lanyard.example.com", "lanyard.example.com", true},
		{"*.example.com", "lanyard.example.com", true},
		{"*.example.com", "a.b.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", ".example.com", false},
		{"*.example.com", "lanyardexample.com", false},
		{"lanyard.example.com", "example.com", false},
	} {
		if got := covers(c.served, c.host); got != c.want {
			t.Errorf("%s covers %s: got %v", c.served, c.host, got)
		}
	}
}

// presigned returns a token's URL, as AWS's clients make it.
func presigned(t testing.TB, host string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, host+"/?Action=GetCallerIdentity&Version=2011-06-15", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(clusterHeader, "one")
	sigv4.Presign(r, sigv4.Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "secret", SessionToken: "a+b/c=="}, "sts", "us-east-1", time.Minute,
		time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC))
	return r.URL.String()
}

// What is taken for a token has one text, asks for nothing but GetCallerIdentity, and was signed by nobody with another secret.
func FuzzParseToken(f *testing.F) {
	good := presigned(f, "https://sts.us-east-1.amazonaws.com")
	for _, raw := range []string{
		good, presigned(f, "http://127.0.0.1:4566"), presigned(f, "https://[::1]:4567"), good + "&x=y", good + "&X-Amz-Date=1", strings.Replace(good, "Action", "Actio%6E", 1),
		strings.Replace(good, "/?", "/%2e/?", 1), strings.Replace(good, "host%3B", "", 1), good + "#", good + ";a=b", good + "&%zz", "https://user@h/", "", "mailto:x", "https://",
	} {
		f.Add(tokenPrefix + base64.RawURLEncoding.EncodeToString([]byte(raw)))
	}
	f.Add(tokenPrefix + base64.URLEncoding.EncodeToString([]byte(good)))
	f.Add(tokenPrefix + "aa\n" + base64.RawURLEncoding.EncodeToString([]byte(good)))
	f.Add("eyJhbGciOiJSUzI1NiJ9.e30.c2ln")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseToken(text)
		if err != nil {
			if !errors.Is(err, errForeign) && !errors.Is(err, errFormed) {
				t.Errorf("the error is %v", err)
			}
			return
		}
		raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, tokenPrefix))
		if err != nil || tokenPrefix+base64.RawURLEncoding.EncodeToString(raw) != text {
			t.Errorf("one request has two tokens: %v", err)
		}
		query, err := url.ParseQuery(got.request.URL.RawQuery)
		if err != nil || query.Get("Action") != "GetCallerIdentity" || len(query) < 8 || len(query) > 9 {
			t.Errorf("the query is %q, %v", query, err)
		}
		for name, values := range query {
			if len(values) != 1 {
				t.Errorf("%s is there %d times", name, len(values))
			}
		}
		if s := got.signature; !s.Presigned || s.Service != "sts" || !slices.Contains(s.SignedHeaders, clusterHeader) || s.AccessKeyID == "" {
			t.Errorf("the signature is %+v", s)
		}
		if got.request.Method != http.MethodGet || len(got.request.Header) > 0 || strings.Trim(got.request.URL.Path, "/") != "" {
			t.Errorf("the request is %+v", got.request)
		}
		if err := got.verify("another secret", "one", got.signature.Time); err == nil {
			t.Error("any secret is the signer's")
		}
	})
}
