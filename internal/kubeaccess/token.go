package kubeaccess

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

const (
	// tokenPrefix begins every token; what follows is the base64url of a URL, without padding.
	tokenPrefix = "k8s-aws-v1."
	// maxToken bounds a token, in bytes. It has room for the longest session token of STS, twice encoded.
	maxToken = 40 << 10
	// clusterHeader is signed, but not sent: who verifies the token knows which cluster it has to be for.
	clusterHeader = "x-k8s-aws-id"
	// maxExpires bounds what a token says of its own life, in seconds. AWS's authenticator refuses more.
	maxExpires = 900

	// life is that of a token, whatever it says of itself: STS takes presigned requests for so long, and clients go by that.
	life = 15 * time.Minute
	// ahead is how far a client's clock may be ahead.
	ahead = 5 * time.Minute
)

// Why a token is refused before anything is looked up.
var (
	errForeign = errors.New("not a token of IAM's")
	errFormed  = errors.New("malformed token")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errFormed}, args...)...)
}

// token is a presigned GetCallerIdentity request that has the form of a token. Nothing in it has been verified.
type token struct {
	host      string // in lower case, without a port
	request   *http.Request
	signature *sigv4.Signature
}

// parseToken reads a token. It takes what AWS's clients make and nothing besides: each parameter that belongs to the request is there once, and
// no other (aws-iam-authenticator, "How does it work?"). Errors wrap errForeign or errFormed.
func parseToken(text string) (*token, error) {
	encoded, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return nil, errForeign
	}
	if len(text) > maxToken {
		return nil, malformed("it has %d bytes", len(text))
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || base64.RawURLEncoding.EncodedLen(len(raw)) != len(encoded) { // the decoder skips line breaks
		return nil, malformed("not base64url without padding")
	}
	u, err := url.Parse(string(raw))
	switch {
	case err != nil:
		return nil, malformed("not a URL") // the error would repeat it
	case u.Scheme != "https" && u.Scheme != "http" || u.Opaque != "" || u.User != nil || strings.Contains(string(raw), "#"):
		return nil, malformed("not a URL of a web server alone")
	case u.Path != "/" && u.Path != "":
		return nil, malformed("its path is not /")
	}
	if err := checkParameters(u.RawQuery); err != nil {
		return nil, err
	}
	t := &token{
		host:    strings.ToLower(u.Hostname()),
		request: &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{}},
	}
	if t.signature, err = sigv4.Parse(t.request); err != nil {
		return nil, malformed("%w", err)
	}
	s := t.signature
	switch _, known := arn.PartitionOfRegion(s.Region); {
	case s.Service != "sts" || !known:
		return nil, malformed("signed for %.64q in %.64q", s.Service, s.Region)
	case !slices.Equal(s.SignedHeaders, []string{"host", clusterHeader}):
		return nil, malformed("signed are the headers %.200q", s.SignedHeaders)
	}
	return t, nil
}

// checkParameters holds a query to what a token's has.
func checkParameters(raw string) error {
	// A percent sign or a semicolon that is not understood is an error here; sigv4 would take it for itself.
	query, err := url.ParseQuery(raw)
	if err != nil {
		return malformed("its query cannot be read")
	}
	for _, name := range []string{
		"Action", "Version", "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature",
	} {
		if len(query[name]) != 1 {
			return malformed("%s is there %d times", name, len(query[name]))
		}
	}
	if len(query["X-Amz-Security-Token"]) > 1 {
		return malformed("X-Amz-Security-Token is there %d times", len(query["X-Amz-Security-Token"]))
	}
	delete(query, "X-Amz-Security-Token")
	expires, err := strconv.Atoi(query.Get("X-Amz-Expires"))
	switch {
	case len(query) > 8:
		return malformed("it has parameters that no token has")
	case query.Get("Action") != "GetCallerIdentity" || query.Get("Version") != "2011-06-15":
		return malformed("it asks for another thing than GetCallerIdentity")
	case err != nil || expires < 1 || expires > maxExpires:
		return malformed("X-Amz-Expires is not between 1 and %d", maxExpires)
	}
	return nil
}

// verify checks that a token was signed with a secret, for a cluster, and that it is valid now.
func (t *token) verify(secret sigv4.Secret, cluster string, now time.Time) error {
	if t.signature.Time.After(now.Add(ahead)) {
		return fmt.Errorf("signed %s ahead of now", t.signature.Time.Sub(now).Round(time.Second))
	}
	t.signature.Expires = 0
	extra := http.Header{http.CanonicalHeaderKey(clusterHeader): {cluster}}
	return t.signature.Verify(t.request, secret, sigv4.EmptyPayload, life, now, extra)
}

// isSTS reports whether a host is STS's in a partition: the global endpoint, a region's, or one of these with FIPS, or for both versions of IP
// (AWS General Reference, "AWS STS endpoints and quotas").
func isSTS(host, partition string) bool {
	p, ok := arn.PartitionNamed(partition)
	if !ok {
		return false
	}
	if host == "sts."+p.DNSSuffix {
		return true
	}
	for _, suffix := range []string{"." + p.DNSSuffix, "." + p.DualStackSuffix} {
		rest, ok := strings.CutSuffix(host, suffix)
		if !ok {
			continue
		}
		service, region, _ := strings.Cut(rest, ".")
		if of, known := arn.PartitionOfRegion(region); (service == "sts" || service == "sts-fips") && known && of.Name == partition {
			return true
		}
	}
	return false
}

// covers reports whether a name is one that a server goes by: *.example.com stands for all names below it.
func covers(served, host string) bool {
	served = strings.ToLower(served)
	if below, ok := strings.CutPrefix(served, "*"); ok {
		return len(host) > len(below) && strings.HasSuffix(host, below)
	}
	return host == served
}
