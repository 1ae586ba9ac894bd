package idtoken

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
)

// maxHeaderBytes bounds the header of an issuer's answers.
const maxHeaderBytes = 64 << 10

// fetcher gets the documents of issuers (OpenID Connect Discovery 1.0).
type fetcher struct {
	client    *http.Client
	transport *http.Transport // of the client; nil if it has another kind
	maxBytes  int64
}

func newFetcher(client *http.Client, maxBytes int64) fetcher {
	own := *client
	own.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		return fmt.Errorf("redirected to %s, which is not followed", r.URL.Redacted())
	}
	own.Timeout = 0 // each fetch brings its deadline
	f := fetcher{client: &own, maxBytes: maxBytes}
	switch t := client.Transport.(type) {
	case nil:
		if standard, ok := http.DefaultTransport.(*http.Transport); ok {
			f.transport = standard.Clone()
		}
	case *http.Transport:
		f.transport = t.Clone()
	}
	if f.transport != nil {
		if f.transport.MaxResponseHeaderBytes == 0 {
			f.transport.MaxResponseHeaderBytes = maxHeaderBytes
		}
		own.Transport = f.transport
	}
	return f
}

// issuer fetches an issuer's discovery document and then its keys, and says how long these may be kept.
func (f fetcher) issuer(ctx context.Context, key cacheKey) ([]jose.JSONWebKey, time.Duration, error) {
	base, err := parseHTTPS(key.url)
	if err != nil {
		return nil, 0, fmt.Errorf("issuer URL: %w", err)
	}
	if base.RawQuery != "" || base.ForceQuery {
		return nil, 0, errors.New("issuer URL: it has a query")
	}
	discovery, err := url.Parse(strings.TrimSuffix(key.url, "/") + "/.well-known/openid-configuration")
	if err != nil {
		return nil, 0, fmt.Errorf("issuer URL: %w", err)
	}
	body, _, err := f.get(ctx, discovery, key.thumbprints)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch discovery document: %w", err)
	}
	keysURL, err := readDiscovery(body, key.url)
	if err != nil {
		return nil, 0, fmt.Errorf("read discovery document: %w", err)
	}
	body, header, err := f.get(ctx, keysURL, key.thumbprints)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch key set: %w", err)
	}
	set, err := ParseJWKS(body)
	if err != nil {
		return nil, 0, err
	}
	return set.Keys, lifetime(header), nil
}

// readDiscovery checks what AWS checks in a discovery document and returns the address of the keys, which may be on
// another host.
func readDiscovery(document []byte, issuer string) (*url.URL, error) {
	var d struct {
		Issuer        string   `json:"issuer"`
		KeysURL       string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, err
	}
	switch {
	case d.Issuer != issuer:
		return nil, fmt.Errorf("its issuer is %q, not %q", d.Issuer, issuer)
	case len(d.ResponseTypes) == 0:
		return nil, errors.New("it lacks response_types_supported")
	case len(d.SubjectTypes) == 0:
		return nil, errors.New("it lacks subject_types_supported")
	case len(d.Algorithms) == 0:
		return nil, errors.New("it lacks id_token_signing_alg_values_supported")
	}
	u, err := parseHTTPS(d.KeysURL)
	if err != nil {
		return nil, fmt.Errorf("jwks_uri: %w", err)
	}
	return u, nil
}

func parseHTTPS(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, err
	case u.Scheme != "https" || u.Host == "" || u.Opaque != "":
		return nil, fmt.Errorf("%q is not an https URL", u.Redacted())
	case u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("%q has a user or a fragment", u.Redacted())
	}
	return u, nil
}

// get fetches one document.
func (f fetcher) get(ctx context.Context, u *url.URL, thumbprints string) ([]byte, http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Accept", "application/json, application/jwk-set+json") // a Kubernetes API server has its keys as the latter only
	client := f.client
	if thumbprints != "" && f.transport != nil {
		client = f.thumbprintClient(u.Hostname(), strings.Fields(thumbprints))
	}
	response, err := client.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s answers %s", u.Redacted(), response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, f.maxBytes+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", u.Redacted(), err)
	}
	if int64(len(body)) > f.maxBytes {
		return nil, nil, fmt.Errorf("%s is longer than %d bytes", u.Redacted(), f.maxBytes)
	}
	return body, response.Header, nil
}

// thumbprintClient is a client for one request to host. Its connection is not kept, so that it serves nobody who did not
// list the thumbprint.
func (f fetcher) thumbprintClient(host string, thumbprints []string) *http.Client {
	transport := f.transport.Clone()
	transport.DisableKeepAlives = true
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = &tls.Config{}
	}
	roots := transport.TLSClientConfig.RootCAs
	transport.TLSClientConfig.InsecureSkipVerify = true // VerifyConnection does the work
	transport.TLSClientConfig.VerifyConnection = func(state tls.ConnectionState) error {
		return verifyChain(state.PeerCertificates, host, roots, thumbprints)
	}
	client := *f.client
	client.Transport = transport
	return &client
}

// verifyChain accepts a chain that leads to one of the roots or, failing that, to a certificate in it that has one of the
// thumbprints: that certificate then counts as a root. Merely showing it among the others is not enough. Host name,
// dates and usage must hold either way.
func verifyChain(chain []*x509.Certificate, host string, roots *x509.CertPool, thumbprints []string) error {
	if len(chain) == 0 {
		return errors.New("no certificate was served")
	}
	options := x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(options)
	if err == nil {
		return nil
	}
	options.Roots = x509.NewCertPool()
	for _, c := range chain {
		if sum := sha1.Sum(c.Raw); slices.Contains(thumbprints, hex.EncodeToString(sum[:])) {
			options.Roots.AddCert(c)
		}
	}
	if _, thumbprintErr := chain[0].Verify(options); thumbprintErr != nil {
		return fmt.Errorf("%w: %w", ErrThumbprint, err)
	}
	return nil
}

// lifetime reads how long a response may be kept (RFC 9111): max-age less the age it came with, within bounds.
func lifetime(h http.Header) time.Duration {
	life := defaultLife
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return minLife
		case "max-age":
			seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil {
				continue // an unreadable directive is none
			}
			life = time.Duration(seconds) * time.Second
			if age, err := strconv.ParseUint(h.Get("Age"), 10, 31); err == nil {
				life -= time.Duration(age) * time.Second
			}
		}
	}
	return min(max(life, minLife), maxLife)
}
