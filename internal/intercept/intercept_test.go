package intercept_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/intercept"
	"github.com/lanyard-id/lanyard/internal/localca"
)

// client returns an HTTP client that goes through an intercepting proxy to lanyard, and trusts roots.
func client(t *testing.T, lanyard *httptest.Server, trust func(ca *localca.CA) *x509.CertPool) *http.Client {
	t.Helper()
	return clientTLS(t, lanyard, trust, nil)
}

// clientTLS is client with the proxy's own TLS settings towards lanyard.
func clientTLS(t *testing.T, lanyard *httptest.Server, trust func(ca *localca.CA) *x509.CertPool, c *tls.Config) *http.Client {
	t.Helper()
	ca, err := localca.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := url.Parse(lanyard.URL)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	proxy := httptest.NewServer(intercept.New(intercept.Config{Endpoint: endpoint, CA: ca, TLS: c, Log: log}))
	t.Cleanup(proxy.Close)
	address, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(address), TLSClientConfig: &tls.Config{RootCAs: trust(ca)}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func trustProxy(ca *localca.CA) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate())
	return pool
}

func TestAWSHostsAreAnsweredByLanyard(t *testing.T) {
	lanyard := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		for _, added := range []string{"X-Forwarded-For", "Accept-Encoding", "Via"} {
			if r.Header.Get(added) != "" && r.Header.Get(added) != "identity" {
				t.Errorf("the proxy added %s: %s", added, r.Header.Get(added))
			}
		}
		io.WriteString(w, r.Method+" "+r.Host+r.URL.String()+" "+string(body)+" "+r.Header.Get("Authorization"))
	}))
	defer lanyard.Close()
	c := client(t, lanyard, trustProxy)
	for _, u := range []string{"https://sts.amazonaws.com/?Action=A%2Fb", "https://bucket.s3.us-east-1.amazonaws.com//a//b%20c", "https://eks-auth.us-east-1.api.aws/clusters/dev"} {
		for range 2 { // the second request finds the connection still there
			r, err := http.NewRequest(http.MethodPost, u, strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "AWS4-HMAC-SHA256 …")
			r.Header.Set("Accept-Encoding", "identity")
			reply, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(reply.Body)
			reply.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			want := "POST " + strings.TrimPrefix(u, "https://") + " body AWS4-HMAC-SHA256 …"
			if string(got) != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	}
}

func TestOtherHostsAreTunnelledUntouched(t *testing.T) {
	lanyard := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a request for another host came to Lanyard")
	}))
	defer lanyard.Close()
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "elsewhere") }))
	defer elsewhere.Close()
	c := client(t, lanyard, func(*localca.CA) *x509.CertPool { // not the proxy's: its certificate must never be seen
		pool := x509.NewCertPool()
		pool.AddCert(elsewhere.Certificate())
		return pool
	})
	reply, err := c.Get(elsewhere.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if got, _ := io.ReadAll(reply.Body); string(got) != "elsewhere" {
		t.Errorf("got %q", got)
	}
}

func TestPlainRequestsPass(t *testing.T) {
	say := func(who string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, who+" "+r.Host+r.URL.String()) }))
		t.Cleanup(s.Close)
		return s
	}
	lanyard, elsewhere := say("lanyard"), say("elsewhere")
	c := client(t, lanyard, trustProxy)
	other := strings.TrimPrefix(elsewhere.URL, "http://")
	for u, want := range map[string]string{
		"http://sts.amazonaws.com/?b=%7e;a": "lanyard sts.amazonaws.com/?b=%7e;a",
		"http://" + other + "//a?b=%7e;a":   "elsewhere " + other + "//a?b=%7e;a",
	} {
		reply, err := c.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(reply.Body)
		reply.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTheProxyIsNoServer(t *testing.T) {
	lanyard := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a request that is not for a proxy came to Lanyard")
	}))
	defer lanyard.Close()
	ca, err := localca.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := url.Parse(lanyard.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(intercept.New(intercept.Config{Endpoint: endpoint, CA: ca, Log: slog.New(slog.DiscardHandler)}))
	defer proxy.Close()
	reply, err := http.Get(proxy.URL + "/?Action=GetCallerIdentity")
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusBadRequest {
		t.Errorf("got %s, want 400", reply.Status)
	}
}

// Lanyard may be served with a certificate of its own authority.
func TestTheEndpointsCertificateIsChecked(t *testing.T) {
	lanyard := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "lanyard") }))
	defer lanyard.Close()
	roots := x509.NewCertPool()
	roots.AddCert(lanyard.Certificate())
	for name, c := range map[string]struct {
		tls    *tls.Config
		status int
	}{
		"trusted":     {&tls.Config{RootCAs: roots}, http.StatusOK},
		"not trusted": {nil, http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			reply, err := clientTLS(t, lanyard, trustProxy, c.tls).Get("https://sts.amazonaws.com/")
			if err != nil {
				t.Fatal(err)
			}
			defer reply.Body.Close()
			if reply.StatusCode != c.status {
				t.Errorf("got %s, want %d", reply.Status, c.status)
			}
		})
	}
}

func TestOnlyAWSHostsAreAWS(t *testing.T) {
	for host, want := range map[string]bool{
		"sts.amazonaws.com":               true,
		"STS.US-EAST-1.AMAZONAWS.COM.":    true,
		"sts.cn-north-1.amazonaws.com.cn": true,
		"eks-auth.us-east-1.api.aws":      true,
		"amazonaws.com.example.com":       false,
		"notamazonaws.com":                false,
		"169.254.169.254":                 false,
		"":                                false,
	} {
		if got := intercept.IsAWS(host); got != want {
			t.Errorf("IsAWS(%q) = %v, want %v", host, got, want)
		}
	}
}
