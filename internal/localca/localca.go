// Package localca is a certificate authority for one machine, one process, or the replicas of one service: it vouches for a
// development server's names, for the names that an intercepting proxy answers for, and for those of a server in a cluster.
package localca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 30 * 24 * time.Hour
	backdate = time.Hour // for clients whose clock is a little behind
	// maxLeaves bounds the certificates that are kept; past it, they are made anew.
	maxLeaves = 1000
)

// CA issues server certificates. It is safe for concurrent use.
type CA struct {
	cert  *x509.Certificate
	chain [][]byte // cert, and those that vouch for it
	key   crypto.Signer

	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

// New makes an authority.
func New(now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Lanyard local CA"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read CA certificate: %w", err)
	}
	return &CA{cert: cert, chain: [][]byte{cert.Raw}, key: key, leaves: map[string]*tls.Certificate{}}, nil
}

// The PEM types of the blocks that Marshal writes, in this order (RFC 7468, sections 5 and 10).
const (
	certificateType = "CERTIFICATE"
	privateKeyType  = "PRIVATE KEY"
)

// Marshal returns the authority with its private key, for Parse.
func (ca *CA) Marshal() ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return nil, fmt.Errorf("encode CA key: %w", err)
	}
	return append(ca.PEM(), pem.EncodeToMemory(&pem.Block{Type: privateKeyType, Bytes: key})...), nil
}

// Parse reads what Marshal wrote.
func Parse(text []byte) (*CA, error) { return Load(text, text) }

// Load reads an authority's certificate, which those that vouch for it may follow, and its private key, both in PEM. The key is for
// RSA, ECDSA or Ed25519, in PKCS #8 or the older forms of its own.
func Load(cert, key []byte) (*CA, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("read the CA's certificate and key: %w", err)
	}
	if !pair.Leaf.IsCA || pair.Leaf.KeyUsage != 0 && pair.Leaf.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("the CA's certificate is not one of an authority")
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the CA's key, a %T, signs nothing", pair.PrivateKey)
	}
	return &CA{cert: pair.Leaf, chain: pair.Certificate, key: signer, leaves: map[string]*tls.Certificate{}}, nil
}

// PEM returns the authority's certificate, for those who are to trust it.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateType, Bytes: ca.cert.Raw})
}

// Certificate returns the authority's certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// TLS returns a server configuration that has a certificate for every name or address that allow accepts. Clients that send
// no server name are answered for the address that they connected to.
func (ca *CA) TLS(allow func(host string) bool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			host := hello.ServerName
			if host == "" {
				var err error
				if host, _, err = net.SplitHostPort(hello.Conn.LocalAddr().String()); err != nil {
					return nil, fmt.Errorf("find the server's address: %w", err)
				}
			}
			if !allow(host) {
				return nil, fmt.Errorf("no certificate for %q", host)
			}
			return ca.leaf(host, time.Now())
		},
	}
}

// leaf returns a certificate for a host, made once and again when two thirds of its life are over. It does not outlive the authority.
func (ca *CA) leaf(host string, now time.Time) (*tls.Certificate, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if c := ca.leaves[host]; c != nil && now.Before(c.Leaf.NotAfter.Add(-c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)/3)) {
		return c, nil
	}
	expires := now.Add(leafLife)
	if ca.cert.NotAfter.Before(expires) {
		expires = ca.cert.NotAfter
	}
	if now.After(expires) {
		return nil, fmt.Errorf("make certificate for %s: the CA's own has expired at %s", host, expires.UTC().Format(time.RFC3339))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key for %s: %w", host, err)
	}
	number := serial()
	template := &x509.Certificate{
		SerialNumber: number,
		// Not the host, since names may be longer than the field; and never the authority's own name, whatever that is: OpenSSL would take the
		// certificate for a self-signed one.
		Subject:     pkix.Name{CommonName: "Lanyard", SerialNumber: number.Text(16)},
		NotBefore:   now.Add(-backdate),
		NotAfter:    expires,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate for %s: %w", host, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate for %s: %w", host, err)
	}
	if len(ca.leaves) >= maxLeaves {
		clear(ca.leaves)
	}
	c := &tls.Certificate{Certificate: append([][]byte{der}, ca.chain...), PrivateKey: key, Leaf: leaf}
	ca.leaves[host] = c
	return c, nil
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f // positive, RFC 5280 section 4.1.2.2
	return new(big.Int).SetBytes(b[:])
}
