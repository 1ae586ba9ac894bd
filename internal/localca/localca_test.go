package localca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
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

// authority returns an authority's certificate and key in PEM: what openssl, cert-manager and Helm make.
func authority(t *testing.T, key crypto.Signer, keyType string, der []byte, change func(*x509.Certificate)) (certPEM, keyPEM []byte) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	change(template)
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der})
}

func TestLoadTakesAuthoritiesOfAllKinds(t *testing.T) {
	elliptical, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(elliptical)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(elliptical)
	if err != nil {
		t.Fatal(err)
	}
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(*x509.Certificate) {}
	for _, c := range []struct {
		name    string
		key     crypto.Signer
		keyType string
		der     []byte
		change  func(*x509.Certificate)
		ok      bool
	}{
		{"ECDSA in PKCS #8", elliptical, "PRIVATE KEY", pkcs8, nothing, true},
		{"ECDSA in SEC 1", elliptical, "EC PRIVATE KEY", sec1, nothing, true},
		{"RSA in PKCS #1", old, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(old), nothing, true},
		{"another's key", old, "EC PRIVATE KEY", sec1, nothing, false},
		{"a server's certificate", elliptical, "EC PRIVATE KEY", sec1, func(c *x509.Certificate) { c.IsCA = false }, false},
		{"one that may not sign", elliptical, "EC PRIVATE KEY", sec1, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }, false},
	} {
		cert, key := authority(t, c.key, c.keyType, c.der, c.change)
		ca, err := localca.Load(cert, key)
		if (err == nil) != c.ok {
			t.Errorf("%s: got %v, want it taken: %v", c.name, err, c.ok)
		}
		if err != nil {
			continue
		}
		if err := handshake(t, ca, func(string) bool { return true }, ca, "lanyard.example.com"); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// OpenSSL takes a certificate whose issuer has its own name for a self-signed one.
func TestCertificatesNeverHaveTheNameOfTheirAuthority(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := localca.Load(authority(t, key, "EC PRIVATE KEY", der, func(c *x509.Certificate) { c.Subject.CommonName = "Lanyard" }))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.TLS(func(string) bool { return true }).GetCertificate(&tls.ClientHelloInfo{ServerName: "localhost"})
	if err != nil || string(c.Leaf.RawSubject) == string(c.Leaf.RawIssuer) {
		t.Errorf("it is %s by %s, %v", c.Leaf.Subject, c.Leaf.Issuer, err)
	}
}

func TestCertificatesDoNotOutliveTheirAuthority(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(expires time.Time) (*tls.Certificate, error) {
		ca, err := localca.Load(authority(t, key, "EC PRIVATE KEY", der, func(c *x509.Certificate) { c.NotAfter = expires }))
		if err != nil {
			t.Fatal(err)
		}
		return ca.TLS(func(string) bool { return true }).GetCertificate(&tls.ClientHelloInfo{ServerName: "localhost"})
	}
	soon := time.Now().Add(time.Hour).Truncate(time.Second)
	if c, err := leaf(soon); err != nil || !c.Leaf.NotAfter.Equal(soon) {
		t.Errorf("of an authority until %s: %v, %v", soon, c, err)
	}
	if _, err := leaf(time.Now().Add(-time.Minute)); err == nil || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("of an authority that has expired: %v", err)
	}
}
