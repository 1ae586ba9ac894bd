package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// Upstream returns a store that is an S3-compatible service elsewhere, whose requests are signed with its own key. The
// endpoint is an http or https URL; buckets are asked for by path.
//
// Bodies stream. Over https they are left out of the signature, as TLS guards them. Over http they are signed by their hash:
// the one that the client declared, or else the one of a copy that is spooled to a temporary file first.
//
// Keys with an empty, "." or ".." segment are refused with InvalidURI, because services and the proxies before them differ in what they
// make of them.
func Upstream(endpoint *url.URL, key sigv4.Credentials, region string) (http.Handler, error) {
	switch {
	case endpoint.Scheme != "http" && endpoint.Scheme != "https" || endpoint.Host == "":
		return nil, fmt.Errorf("upstream %q: want an http or https URL", endpoint.Redacted())
	case endpoint.User != nil || endpoint.RawQuery != "" || endpoint.Fragment != "":
		return nil, fmt.Errorf("upstream %q: must not have user, query or fragment", endpoint.Redacted())
	case key.AccessKeyID == "" || key.SecretAccessKey == "" || region == "":
		return nil, fmt.Errorf("upstream %q: needs an access key, its secret, and a region", endpoint.Redacted())
	}
	base := *endpoint
	base.Path = strings.TrimSuffix(base.Path, "/")
	return &upstream{endpoint: base, key: key, region: region, transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   64,
		DisableCompression:    true, // content encodings belong to the objects
		ForceAttemptHTTP2:     true,
	}}, nil
}

type upstream struct {
	endpoint  url.URL
	key       sigv4.Credentials
	region    string
	transport *http.Transport
}

// hopByHop are the headers of one connection (RFC 9110 section 7.6.1).
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade",
}

// notForwarded are the headers of the caller's own signature and transfer.
var notForwarded = append([]string{
	"Authorization", "Content-Length", "Expect", "X-Amz-Content-Sha256", "X-Amz-Date", "X-Amz-Decoded-Content-Length",
	"X-Amz-Security-Token", "X-Amz-Trailer",
}, hopByHop...)

// ServeHTTP implements http.Handler.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if ambiguousPath(r.URL.Path) {
		writeStoreError(w, http.StatusBadRequest, "InvalidURI", "Keys with empty, '.' or '..' segments are not taken by this store.")
		return
	}
	out, cleanup, err := u.request(r)
	if err != nil {
		storeFailed(w, http.StatusInternalServerError, "InternalError", fmt.Errorf("prepare the upstream's request: %w", err))
		return
	}
	defer cleanup()
	res, err := u.transport.RoundTrip(out)
	if err != nil {
		storeFailed(w, http.StatusServiceUnavailable, "ServiceUnavailable", fmt.Errorf("ask the upstream: %w", err))
		return
	}
	defer res.Body.Close()
	for name, values := range res.Header {
		if slices.Contains(hopByHop, name) {
			continue
		}
		if strings.HasPrefix(name, "X-Amz-Meta-") {
			name = strings.ToLower(name) // clients take the names of user metadata as they are spelled
		}
		w.Header()[name] = values
	}
	w.WriteHeader(res.StatusCode)
	if _, err := io.Copy(w, res.Body); err != nil {
		panic(http.ErrAbortHandler) // the answer has begun: the caller must see that it is not whole
	}
}

// storeFailed answers that the store cannot, and tells the gateway's log why.
func storeFailed(w http.ResponseWriter, status int, code string, cause error) {
	if a, ok := w.(*answer); ok {
		a.cause = cause
	}
	writeStoreError(w, status, code, "")
}

// ambiguousPath reports whether a path has segments that a server might resolve: ., .., or an empty one, unless it is the last.
func ambiguousPath(path string) bool {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && i < len(segments)-1 {
			return true
		}
	}
	return false
}

// request makes the signed request to the upstream. cleanup must be called when it is done.
func (u *upstream) request(r *http.Request) (out *http.Request, cleanup func(), err error) {
	target := u.endpoint
	target.Path += r.URL.Path
	target.RawPath = escapePath(target.Path)
	target.RawQuery = r.URL.RawQuery
	out = (&http.Request{
		Method: r.Method, URL: &target, Host: target.Host, Header: r.Header.Clone(), ContentLength: r.ContentLength,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(r.Context())
	for _, name := range notForwarded {
		out.Header.Del(name)
	}
	out.Header.Set("User-Agent", "lanyard-gateway")
	body, hash, cleanup, err := u.body(r)
	if err != nil {
		return nil, nil, err
	}
	out.Body = body
	sigv4.Sign(out, u.key, "s3", u.region, hash, time.Now())
	return out, cleanup, nil
}

// body returns the body to send and the payload hash to sign.
func (u *upstream) body(r *http.Request) (body io.ReadCloser, hash string, cleanup func(), err error) {
	none := func() {}
	declared := r.Header.Get(headerSHA256)
	switch {
	case r.ContentLength == 0:
		return http.NoBody, sigv4.EmptyPayload, none, nil
	case r.ContentLength < 0:
		return nil, "", nil, errors.New("upstream: a body needs a length")
	case len(declared) == 2*sha256.Size:
		return io.NopCloser(r.Body), declared, none, nil
	case u.endpoint.Scheme == "https":
		return io.NopCloser(r.Body), sigv4.UnsignedPayload, none, nil
	}
	return spoolBody(r.Body, r.ContentLength)
}

// spoolBody copies a body to where it can be read twice, and hashes it: to memory when it is small.
func spoolBody(in io.Reader, length int64) (body io.ReadCloser, hash string, cleanup func(), err error) {
	const small = 1 << 20
	sum := sha256.New()
	if length <= small {
		b, err := io.ReadAll(io.TeeReader(in, sum))
		if err != nil {
			return nil, "", nil, fmt.Errorf("read body: %w", err)
		}
		return io.NopCloser(bytes.NewReader(b)), hex.EncodeToString(sum.Sum(nil)), func() {}, nil
	}
	f, err := os.CreateTemp("", "lanyard-upload-")
	if err != nil {
		return nil, "", nil, fmt.Errorf("spool body: %w", err)
	}
	cleanup = func() {
		// A file that stays behind is in the directory for temporary files; there is no one to tell.
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
	if _, err = io.Copy(io.MultiWriter(f, sum), in); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		cleanup()
		return nil, "", nil, fmt.Errorf("spool body: %w", err)
	}
	return io.NopCloser(f), hex.EncodeToString(sum.Sum(nil)), cleanup, nil
}
