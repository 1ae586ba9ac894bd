package main

import (
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

// What a check finds.
const (
	checkOK   = "ok"
	checkWarn = "warn" // taken, but not as it should be
	checkFail = "FAIL" // STS would reject it
)

// What STS allows, beside what internal/idtoken checks.
const (
	maxIssuerURL = 255             // characters of a provider's URL (IAM API Reference, CreateOpenIDConnectProvider)
	maxClaim     = 255             // characters of a subject (STS API Reference, webIdentitySubjectType)
	tokenSkew    = 5 * time.Minute // by which a token may be ahead of STS's clock
)

// checkResult is one line.
type checkResult struct {
	Check  string `json:"check"`
	Result string `json:"result"`
	Found  string `json:"found"`
	Hint   string `json:"hint,omitempty"`
}

// issuerCheck looks at an issuer as STS does.
type issuerCheck struct {
	issuer  string
	aws     bool // as AWS's STS, which is out on the Internet; else as Lanyard's
	client  *http.Client
	timeout time.Duration // of each document
	now     time.Time

	results []checkResult
	hosts   []string // whose certificates were looked at
}

func newOIDCCheck(c *cli) *cobra.Command {
	var audience, tokenFile, caFile, judge string
	k := issuerCheck{}
	cmd := &cobra.Command{
		Use:   "check URL [--token FILE [--audience AUDIENCE]]",
		Short: "Say what STS would reject about an issuer, or about one of its tokens",
		Long: `Fetch an issuer's discovery document and keys as STS does, and say line by line what it would reject. With --token, a token of the issuer is
checked too; it is sent nowhere. A file named - is standard input.

By default AWS's STS is the judge: the issuer must be reachable from the Internet, at the usual port. With --sts lanyard it need only
be reachable from here. Redirects are not followed. The exit status is 0 if STS would take it, 3 if it would reject something, and 1 if it
cannot be told.`,
		Example: `  lanyard oidc check https://oidc.example.com/prod
  kubectl create token my-sa --audience sts.amazonaws.com | lanyard oidc check https://oidc.example.com/prod --token -
  lanyard oidc check --sts lanyard --ca-file ca.pem https://127.0.0.1:4567/id/0123456789ABCDEF0123456789ABCDEF -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch judge {
			case "aws", "lanyard":
			default:
				return withHint(fmt.Errorf("unknown STS %q", judge), "use --sts aws or --sts lanyard")
			}
			roots, err := readRoots(caFile)
			if err != nil {
				return err
			}
			var token string
			if tokenFile != "" {
				if token, err = c.readToken(tokenFile); err != nil {
					return err
				}
			} else if cmd.Flags().Changed("audience") {
				return withHint(errors.New("--audience is that of a token, and none is given"), "give a token with --token FILE")
			}
			k.issuer, k.aws, k.client, k.now = args[0], judge == "aws", checkClient(roots), time.Now()
			keys := k.run(cmd.Context())
			if tokenFile != "" {
				k.checkToken(cmd.Context(), token, audience, keys)
			}
			if err := cmd.Context().Err(); err != nil {
				return fmt.Errorf("check %s: %w", k.issuer, err)
			}
			return c.printChecks(&k)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&tokenFile, "token", "", "file with a token of the issuer")
	flags.StringVar(&audience, "audience", stsAudience, "audience that the token must be for")
	flags.StringVar(&caFile, "ca-file", "", "file with the certificates to trust instead of the system's, in PEM")
	flags.StringVar(&judge, "sts", "aws", "whose STS is to take it: aws or lanyard")
	flags.DurationVar(&k.timeout, "timeout", 5*time.Second, "how long one document may take")
	return cmd
}

func (c *cli) printChecks(k *issuerCheck) error {
	failed := slices.ContainsFunc(k.results, func(r checkResult) bool { return r.Result == checkFail })
	rows := [][]string{{"RESULT", "CHECK", "FOUND"}}
	for _, r := range k.results {
		found := r.Found
		if r.Hint != "" {
			found += "; " + r.Hint
		}
		rows = append(rows, []string{r.Result, r.Check, found})
	}
	report := struct {
		Issuer   string        `json:"issuer"`
		Accepted bool          `json:"accepted"`
		Checks   []checkResult `json:"checks"`
	}{k.issuer, !failed, k.results}
	if err := c.print(report, rows); err != nil {
		return err
	}
	if failed {
		return exitNo
	}
	return nil
}

func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil // the system's
	}
	text, err := readCertificates(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return roots, nil
}

func (c *cli) readToken(file string) (string, error) {
	from := c.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		defer f.Close()
		from = f
	}
	text, err := readAtMost(from, maxKeySet)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// checkClient follows no redirects and keeps no connections: each document is fetched as if it were the only one.
func checkClient(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSClientConfig:        &tls.Config{RootCAs: roots},
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (k *issuerCheck) ok(check, found string) {
	k.results = append(k.results, checkResult{check, checkOK, found, ""})
}

func (k *issuerCheck) warn(check, found, hint string) {
	k.results = append(k.results, checkResult{check, checkWarn, found, hint})
}

func (k *issuerCheck) fail(check, found, hint string) {
	k.results = append(k.results, checkResult{check, checkFail, found, hint})
}

func (k *issuerCheck) failed() bool {
	return slices.ContainsFunc(k.results, func(r checkResult) bool { return r.Result == checkFail })
}

// run checks all that there is without a token, as far as it gets: what hangs on something that failed is left out. It returns the keys
// that tokens can be verified with.
func (k *issuerCheck) run(ctx context.Context) []jose.JSONWebKey {
	u := k.checkURL()
	if u == nil {
		return nil
	}
	k.checkAddress(ctx, u)
	text := k.fetch(ctx, "discovery", below(k.issuer, discoveryPath))
	if text == nil {
		return nil
	}
	keysURL := k.checkDiscovery(text)
	if keysURL == "" {
		return nil
	}
	if text = k.fetch(ctx, "keys", keysURL); text == nil {
		return nil
	}
	keys := k.checkKeys(text)
	if k.failed() {
		return keys
	}
	// The last word has the code by which Lanyard's own STS gets its keys.
	cache := idtoken.NewCache(idtoken.CacheConfig{Client: k.client, Now: func() time.Time { return k.now }})
	if _, err := cache.Issuer(k.issuer, nil).Keys(ctx, ""); err != nil {
		k.fail("verification", err.Error(), "")
		return keys
	}
	k.ok("verification", fmt.Sprintf("STS finds %s to verify tokens with", count(len(keys), "key")))
	return keys
}

// checkURL returns nil for what is not to be fetched.
func (k *issuerCheck) checkURL() *url.URL {
	u, err := parseIssuer(k.issuer)
	if err != nil {
		k.fail("url", err.Error(), hint(err))
		return nil
	}
	switch reason := notPublic(k.issuer); {
	case len(k.issuer) > maxIssuerURL:
		k.fail("url", fmt.Sprintf("it has more than %d characters", maxIssuerURL), "IAM takes no provider of that name")
	case strings.Contains(u.Host, "["):
		k.fail("url", "its host is an IPv6 address", "IAM takes no provider of that name: give the host a name")
	case k.aws && reason != "":
		k.fail("url", reason, "AWS's STS asks issuers over the Internet, at port 443: see `lanyard oidc publish --help`, or ask for Lanyard's with --sts lanyard")
	default:
		k.ok("url", k.issuer)
	}
	return u
}

// notPublic says why AWS's STS cannot ask an issuer, as far as its URL tells; empty when it may.
func notPublic(issuer string) string {
	u, err := parseIssuer(issuer)
	if err != nil {
		return err.Error()
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	ip, ipErr := netip.ParseAddr(host)
	switch {
	case u.Port() != "" && u.Port() != "443":
		return "its port is " + u.Port()
	case ipErr == nil && !public(ip):
		return host + " is not an address of the Internet"
	case ipErr == nil:
		return ""
	case !strings.Contains(host, "."):
		return host + " is not a name of the Internet"
	}
	for _, private := range []string{".svc", ".local", ".localhost", ".internal", ".test", ".invalid", ".home.arpa"} {
		if strings.HasSuffix(host, private) {
			return host + " is not a name of the Internet"
		}
	}
	return ""
}

// public reports whether an address may be one of the Internet.
func public(ip netip.Addr) bool {
	ip = ip.Unmap()
	shared := netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !shared.Contains(ip)
}

// checkAddress looks the host up, unless a proxy does. An address that is private here need not be elsewhere: DNS may have two sides.
func (k *issuerCheck) checkAddress(ctx context.Context, u *url.URL) {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if _, literal := netip.ParseAddr(u.Hostname()); literal == nil || proxy != nil || err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	switch {
	case err != nil:
		return // the fetch that follows says so
	case k.aws && !slices.ContainsFunc(ips, public):
		k.warn("address", fmt.Sprintf("%s is %s from here, which is not an address of the Internet", u.Hostname(), ips[0].Unmap()),
			"AWS's STS must find a public one")
	}
}

// fetch gets a document; nil when it cannot be had.
func (k *issuerCheck) fetch(ctx context.Context, check, address string) []byte {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		k.fail(check, err.Error(), "")
		return nil
	}
	r.Header.Set("Accept", acceptKeys)
	reply, err := k.client.Do(r)
	if err != nil {
		k.unreachable(check, r.URL, err)
		return nil
	}
	defer reply.Body.Close()
	k.checkCertificate(r.URL.Host, reply.TLS)
	switch {
	case reply.StatusCode >= 300 && reply.StatusCode < 400:
		k.fail(check, fmt.Sprintf("%s redirects to %q", address, reply.Header.Get("Location")), "STS does not follow: serve the document there itself")
		return nil
	case reply.StatusCode == http.StatusForbidden, reply.StatusCode == http.StatusUnauthorized:
		k.fail(check, fmt.Sprintf("%s answers %s", address, reply.Status), "everybody must be let read it, without credentials")
		return nil
	case reply.StatusCode != http.StatusOK:
		k.fail(check, fmt.Sprintf("%s answers %s", address, reply.Status), "it must answer 200 with the document: see `lanyard oidc publish --help`")
		return nil
	}
	text, err := readAtMost(reply.Body, maxKeySet)
	if err != nil {
		k.fail(check, fmt.Sprintf("%s: %s", address, k.networkText(err)), "")
		return nil
	}
	if kind, _, err := mime.ParseMediaType(reply.Header.Get("Content-Type")); err != nil || !strings.HasSuffix(kind, "json") {
		k.warn(check, fmt.Sprintf("%s is served as %q", address, reply.Header.Get("Content-Type")), "serve it as application/json")
	} else {
		k.ok(check, fmt.Sprintf("%s, %d bytes", address, len(text)))
	}
	return text
}

// networkText is an error for people; the text of one that is only about the time is not.
func (k *issuerCheck) networkText(err error) string {
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %s", k.timeout)
	}
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return err.Error()
}

func (k *issuerCheck) unreachable(check string, u *url.URL, err error) {
	certificate := (*tls.CertificateVerificationError)(nil)
	dns := (*net.DNSError)(nil)
	switch text := k.networkText(err); {
	case errors.As(err, &certificate):
		k.fail("certificate", fmt.Sprintf("%s: %s", u.Host, certificate.Err), certificateHint(certificate))
	case errors.Is(err, http.ErrSchemeMismatch):
		k.fail(check, u.Host+" does not speak TLS", "serve it over https")
	case errors.As(err, &dns):
		k.fail(check, text, "the name must be in public DNS, if AWS's STS is to find it")
	default:
		k.fail(check, fmt.Sprintf("%s: %s", u.Redacted(), text), "STS must be able to reach it")
	}
}

func certificateHint(err *tls.CertificateVerificationError) string {
	invalid := x509.CertificateInvalidError{}
	host := x509.HostnameError{}
	switch {
	case errors.As(err.Err, &host):
		return "the certificate must name the issuer's host"
	case errors.As(err.Err, &invalid) && invalid.Reason == x509.Expired:
		return "renew it"
	case len(err.UnverifiedCertificates) == 0:
		return ""
	}
	// IAM wants the topmost certificate that is served.
	top := err.UnverifiedCertificates[len(err.UnverifiedCertificates)-1]
	sum := sha1.Sum(top.Raw)
	return fmt.Sprintf("serve the whole chain of a public CA; of another CA, list the thumbprint in the provider (%s, of %s) and check with --ca-file",
		hex.EncodeToString(sum[:]), top.Subject)
}

// checkCertificate tells of a certificate that has been verified, once for each host.
func (k *issuerCheck) checkCertificate(host string, state *tls.ConnectionState) {
	if state == nil || len(state.PeerCertificates) == 0 || slices.Contains(k.hosts, host) {
		return
	}
	k.hosts = append(k.hosts, host)
	leaf := state.PeerCertificates[0]
	found := fmt.Sprintf("%s: issued by %s, valid until %s", host, leaf.Issuer, leaf.NotAfter.UTC().Format(time.DateOnly))
	if leaf.NotAfter.Sub(k.now) < 14*24*time.Hour && leaf.NotAfter.Sub(leaf.NotBefore) > 30*24*time.Hour {
		k.warn("certificate", found, "renew it soon")
		return
	}
	k.ok("certificate", found)
}

// checkDiscovery returns the address of the keys; empty if they are not to be fetched.
func (k *issuerCheck) checkDiscovery(text []byte) string {
	var d struct {
		Issuer        string   `json:"issuer"`
		KeysURL       string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := jsonv2.Unmarshal(text, &d); err != nil {
		k.fail("discovery", "it is not the JSON that it should be: "+err.Error(), "see `lanyard oidc publish --help`")
		return ""
	}
	switch {
	case d.Issuer == k.issuer:
		k.ok("issuer", d.Issuer)
	case strings.TrimSuffix(d.Issuer, "/") == strings.TrimSuffix(k.issuer, "/"):
		k.fail("issuer", fmt.Sprintf("the document says %q: the slash at the end counts", d.Issuer), "URL, document and the tokens' iss must be the same")
	default:
		k.fail("issuer", fmt.Sprintf("the document says %q", d.Issuer), "URL, document and the tokens' iss must be the same, letter by letter")
	}
	for _, m := range []struct {
		name   string
		values []string
		should string
	}{
		{"response_types_supported", d.ResponseTypes, "id_token"},
		{"subject_types_supported", d.SubjectTypes, "public"},
		{"id_token_signing_alg_values_supported", d.Algorithms, "RS256"},
	} {
		switch {
		case len(m.values) == 0:
			k.fail("metadata", "there is no "+m.name, fmt.Sprintf("STS insists on it: add %q: [%q]", m.name, m.should))
		case !slices.Contains(m.values, m.should):
			k.warn("metadata", fmt.Sprintf("%s has no %s", m.name, m.should), "OpenID Connect Discovery 1.0 and other verifiers want it")
		default:
			k.ok("metadata", m.name)
		}
	}
	u, err := parseKeysURL(d.KeysURL)
	if err != nil {
		k.fail("jwks_uri", err.Error(), "the keys must be served over https")
		return ""
	}
	if reason := notPublic(u.Scheme + "://" + u.Host); k.aws && reason != "" {
		k.fail("jwks_uri", fmt.Sprintf("%s: %s", d.KeysURL, reason), "AWS's STS asks for keys over the Internet, at port 443")
	} else {
		k.ok("jwks_uri", d.KeysURL)
	}
	return d.KeysURL
}

// parseKeysURL reads the address of an issuer's keys, which unlike the issuer's may have a query.
func parseKeysURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, err
	case text == "":
		return nil, errors.New("the document names no address of keys")
	case u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		return nil, fmt.Errorf("%q is not an https URL", u.Redacted())
	case u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("%q has a user or a fragment", u.Redacted())
	}
	return u, nil
}

// checkKeys returns the keys that tokens can be verified with.
func (k *issuerCheck) checkKeys(text []byte) []jose.JSONWebKey {
	set, err := idtoken.ParseJWKS(text)
	if err != nil {
		k.fail("keys", err.Error(), "a set that has one such key is rejected whole")
		return nil
	}
	reports, err := inspectKeys(text)
	if err != nil {
		k.fail("keys", err.Error(), "")
		return nil
	}
	if len(set.Keys) == 0 {
		k.fail("keys", "there is no key that tokens could be verified with", "publish the API server's: see `lanyard oidc publish --help`")
	}
	var usable []jose.JSONWebKey
	for _, r := range reports {
		switch {
		case r.fault != "" && r.ours:
			k.fail("key", r.name()+": "+r.fault, "tokens that it signs are rejected")
		case r.fault != "":
			k.warn("key", r.name()+": "+r.fault, "it is left out")
		case r.doubt != "":
			k.warn("key", fmt.Sprintf("%s: %s; %s", r.name(), r.about, r.doubt), "")
		default:
			k.ok("key", fmt.Sprintf("%s: %s", r.name(), r.about))
		}
		if r.key != nil {
			usable = append(usable, *r.key)
		}
	}
	return usable
}

// serviceAccountSubjectForm is the sub of Kubernetes' tokens, which trust policies name.
var serviceAccountSubjectForm = regexp.MustCompile(`^system:serviceaccount:[a-z0-9]([-a-z0-9]*[a-z0-9])?:[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`)

// checkToken checks a token claim by claim, and its signature with keys. What it says of itself is told even where the issuer failed.
func (k *issuerCheck) checkToken(ctx context.Context, token, audience string, keys []jose.JSONWebKey) {
	claims, err := idtoken.ParseInsecure(token)
	if err != nil {
		k.fail("token", err.Error(), "give an ID token, as in `kubectl create token SERVICE_ACCOUNT --audience "+stsAudience+"`")
		return
	}
	if claims.Issuer == k.issuer {
		k.ok("token iss", claims.Issuer)
	} else {
		k.fail("token iss", fmt.Sprintf("it is %q", claims.Issuer), "the API server's first --service-account-issuer must be this issuer, letter by letter")
	}
	switch aud, err := claims.EffectiveAudience(); {
	case err != nil:
		k.fail("token aud", err.Error(), "project a token for "+audience+" alone")
	case aud != audience:
		k.fail("token aud", fmt.Sprintf("it is %q, not %q", aud, audience), "project a token for "+audience+", or add the audience to the provider's client IDs")
	default:
		k.ok("token aud", aud)
	}
	switch {
	case len(claims.Subject) > maxClaim:
		k.fail("token sub", fmt.Sprintf("it has more than %d characters", maxClaim), "")
	case !serviceAccountSubjectForm.MatchString(claims.Subject):
		k.warn("token sub", claims.Subject, "it is not that of a service account, system:serviceaccount:NAMESPACE:NAME")
	default:
		k.ok("token sub", claims.Subject)
	}
	k.checkTokenTimes(claims)
	if keys == nil {
		return // why has been said
	}
	// Issuer, audience and times have lines of their own.
	const ever = 290 * 365 * 24 * time.Hour
	_, err = idtoken.Verify(ctx, token, idtoken.Expect{Issuer: claims.Issuer, Now: k.now, Leeway: ever},
		idtoken.Static{Set: jose.JSONWebKeySet{Keys: keys}})
	switch {
	case err == nil:
		k.ok("token signature", "verified by key "+cmp.Or(claims.KeyID, "without an ID"))
	case errors.Is(err, idtoken.ErrKeys):
		k.fail("token signature", err.Error(), "publish the key that the API server signs with: `lanyard oidc publish`")
	default:
		k.fail("token signature", err.Error(), "")
	}
}

func (k *issuerCheck) checkTokenTimes(claims *idtoken.Claims) {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	if k.now.Before(claims.Expires) {
		k.ok("token exp", stamp(claims.Expires))
	} else {
		k.fail("token exp", (&idtoken.ExpiredError{Now: k.now, Expires: claims.Expires}).Error(), "get a new one")
	}
	if latest := k.now.Add(tokenSkew); claims.IssuedAt.After(latest) || claims.NotBefore.After(latest) {
		k.fail("token iat", fmt.Sprintf("it was issued at %s, and is valid from %s", stamp(claims.IssuedAt), stamp(claims.NotBefore)),
			"one of the clocks is wrong: here it is "+stamp(k.now))
	} else {
		k.ok("token iat", stamp(claims.IssuedAt))
	}
}
