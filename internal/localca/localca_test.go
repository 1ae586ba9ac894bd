package localca_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/localca"
)

// handshake connects to a server of the authority as a client that trusts only roots and asks for host.
func handshake(t *testing.T, server *localca.CA, allow func(string) bool, roots *localca.CA, host string) error {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server.TLS(allow))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.(*tls.Conn).Handshake()
	}()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots.PEM())
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return tls.Client(c, &tls.Config{RootCAs: pool, ServerName: host}).Handshake()
}

func TestCertificatesAreForAllowedHostsOnly(t *testing.T) {
	ca, err := localca.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := localca.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	allow := func(host string) bool { return host == "sts.amazonaws.com" || host == "127.0.0.1" }
	for _, c := range []struct {
		name  string
		roots *localca.CA
		host  string
		ok    bool
	}{
		{"an allowed name is vouched for", ca, "sts.amazonaws.com", true},
		{"an address is vouched for when the client sends no name", ca, "127.0.0.1", true},
		{"another name is not", ca, "example.com", false},
		{"a client that trusts another authority is not convinced", stranger, "sts.amazonaws.com", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := handshake(t, ca, allow, c.roots, c.host)
			if (err == nil) != c.ok {
				t.Errorf("handshake for %s: got error %v, want success %v", c.host, err, c.ok)
			}
		})
	}
}

func TestParseReadsWhatMarshalWrote(t *testing.T) {
	ca, err := localca.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := ca.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := localca.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if string(again.PEM()) != string(ca.PEM()) {
		t.Error("it has another certificate")
	}
	localhost := func(host string) bool { return host == "localhost" }
	if err := handshake(t, again, localhost, ca, "localhost"); err != nil {
		t.Errorf("who trusts the one does not trust the other: %v", err)
	}
}

func TestParseRefusesWhatIsDamaged(t *testing.T) {
	marshal := func() (cert, key string) {
		ca, err := localca.New(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		text, err := ca.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return string(ca.PEM()), strings.TrimPrefix(string(text), string(ca.PEM()))
	}
	cert, key := marshal()
	_, otherKey := marshal()
	for name, text := range map[string]string{
		"nothing":                         "",
		"the certificate alone":           cert,
		"the key alone":                   key,
		"half a key":                      cert + key[:len(key)/2],
		"the key of another authority":    cert + otherKey,
		"a certificate where the key was": cert + cert,
		"a key that is no key":            cert + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"a certificate that is none":      "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + key,
	} {
		if _, err := localca.Parse([]byte(text)); err == nil {
			t.Errorf("took %s", name)
		}
	}
}

func TestLongNamesHaveCertificates(t *testing.T) {
	ca, err := localca.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	host := strings.Repeat("bucket-", 8) + "name.s3.dualstack.us-gov-east-1.amazonaws.com"
	if err := handshake(t, ca, func(string) bool { return true }, ca, host); err != nil {
		t.Error(err)
	}
}
