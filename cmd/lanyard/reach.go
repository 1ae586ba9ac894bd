package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/intercept"
	"github.com/lanyard-id/lanyard/internal/localca"
	"github.com/lanyard-id/lanyard/internal/podspec"
)

// reach is how a command's requests get to Lanyard: past the caller's proxies, or by a proxy that answers for AWS, with
// certificates that the command must trust.
type reach struct {
	endpoint   *url.URL    // nil where AWS itself is asked
	proxy      string      // host:port of the intercepting proxy; empty without
	authority  *localca.CA // of that proxy
	trustStore string      // the trusted certificates, for Java; empty where the system's suffice
}

func newReach(endpoint string) (*reach, error) {
	if endpoint == "" {
		return &reach{}, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("read the endpoint: %w", err)
	}
	return &reach{endpoint: u}, nil
}

// intercept starts the proxy that answers for AWS until ctx ends.
func (r *reach) intercept(ctx context.Context, log *slog.Logger, cfg aws.Config) error {
	if r.endpoint == nil {
		return withHint(errors.New("--intercept needs Lanyard, and no endpoint is set"), "give --endpoint-url, or set AWS_ENDPOINT_URL")
	}
	ca, err := localca.New(time.Now())
	if err != nil {
		return err
	}
	s := &daemon.Server{Name: "proxy", Address: "127.0.0.1:0", Handler: intercept.New(intercept.Config{
		Endpoint: r.endpoint, CA: ca, TLS: sdkTLS(cfg), Log: log,
	})}
	if err := serve(ctx, log, s); err != nil {
		return err
	}
	r.proxy, r.authority = s.Addr(), ca
	return nil
}

// writeTrust writes the certificates that the command is to trust, if those of the system are not all, and returns the file's path.
// The SDKs and Java take what they are given instead of the system's, so it holds both.
func (r *reach) writeTrust(dir string) (bundleFile string, err error) {
	var extra [][]byte
	if own := os.Getenv("AWS_CA_BUNDLE"); own != "" {
		pem, err := os.ReadFile(own)
		if err != nil {
			return "", fmt.Errorf("read AWS_CA_BUNDLE: %w", err)
		}
		extra = append(extra, append(pem, '\n'))
	}
	if r.authority != nil {
		extra = append(extra, r.authority.PEM())
	}
	if extra == nil {
		return "", nil
	}
	all, err := bundle(extra...)
	if err != nil {
		return "", err
	}
	bundleFile = filepath.Join(dir, "ca-bundle.pem")
	if err := os.WriteFile(bundleFile, all, 0o600); err != nil {
		return "", fmt.Errorf("write certificates: %w", err)
	}
	store, err := javaTrustStore(all)
	if err != nil {
		return "", err
	}
	r.trustStore = filepath.Join(dir, "truststore.p12")
	if err := os.WriteFile(r.trustStore, store, 0o600); err != nil {
		return "", fmt.Errorf("write Java's trust store: %w", err)
	}
	return bundleFile, nil
}

// javaTrustStore holds the certificates of a bundle, each once. Java reads neither variables nor PEM files. There is no password,
// since nothing in it is secret. Certificates that Go cannot read are left out, as by crypto/x509 itself.
func javaTrustStore(bundle []byte) ([]byte, error) {
	var entries []pkcs12.TrustStoreEntry
	seen := map[string]bool{}
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || seen[string(block.Bytes)] {
			continue
		}
		seen[string(block.Bytes)] = true
		entries = append(entries, pkcs12.TrustStoreEntry{Cert: cert, FriendlyName: strconv.Itoa(len(entries))})
	}
	store, err := pkcs12.Passwordless.EncodeTrustStoreEntries(entries, "")
	if err != nil {
		return nil, fmt.Errorf("make Java's trust store: %w", err)
	}
	return store, nil
}

// env returns the variables that lead there.
func (r *reach) env() []podspec.EnvVar {
	// Lanyard, and the agent on loopback, are asked without a proxy.
	direct := []string{"localhost", "127.0.0.1", "::1"}
	if r.endpoint != nil {
		direct = append(direct, r.endpoint.Hostname())
	}
	var env []podspec.EnvVar
	if r.proxy == "" {
		// The caller's proxies stay the command's, with the caller's exceptions.
		if own := cmp.Or(os.Getenv("NO_PROXY"), os.Getenv("no_proxy")); own != "" {
			direct = append(direct, own)
		}
	} else {
		// The proxy for HTTPS alone: some SDKs would ask the one for HTTP for the agent.
		env = append(env, podspec.EnvVar{Name: "HTTPS_PROXY", Value: "http://" + r.proxy}, podspec.EnvVar{Name: "https_proxy", Value: "http://" + r.proxy})
	}
	exceptions := strings.Join(direct, ",")
	env = append(env, podspec.EnvVar{Name: "NO_PROXY", Value: exceptions}, podspec.EnvVar{Name: "no_proxy", Value: exceptions})
	if java := r.javaOptions(); java != "" {
		env = append(env, podspec.EnvVar{Name: "JAVA_TOOL_OPTIONS", Value: strings.TrimSpace(os.Getenv("JAVA_TOOL_OPTIONS") + " " + java)})
	}
	return env
}

// javaOptions are the system properties that say the same to Java.
func (r *reach) javaOptions() string {
	var options []string
	set := func(property, value string) { options = append(options, "-D"+property+"="+value) }
	if host, port, err := net.SplitHostPort(r.proxy); err == nil {
		// AWS's SDK for Java 2 asks the proxy for HTTP also where it speaks HTTPS.
		for _, scheme := range []string{"http", "https"} {
			set(scheme+".proxyHost", host)
			set(scheme+".proxyPort", port)
		}
		set("http.nonProxyHosts", "localhost|127.*|[::1]|"+r.endpoint.Hostname())
	}
	if r.trustStore != "" {
		set("javax.net.ssl.trustStore", r.trustStore)
		set("javax.net.ssl.trustStoreType", "PKCS12") // Java 8's default is another
	}
	return strings.Join(options, " ")
}
