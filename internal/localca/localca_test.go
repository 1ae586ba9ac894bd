package localca_test

import (
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"net"
	"os"
	"path/filepath"
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

func TestOpenKeepsTheAuthority(t *testing.T) {
	dir := t.TempDir()
	first, err := localca.Open(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	second, err := localca.Open(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if string(first.PEM()) != string(second.PEM()) {
		t.Error("the second Open made another authority")
	}
	info, err := os.Stat(filepath.Join(dir, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != fs.FileMode(0o600) {
		t.Errorf("mode of the key is %o, want 600", got)
	}
}

func TestOpenRefusesHalfAnAuthority(t *testing.T) {
	for _, lost := range []string{"ca.pem", "ca-key.pem"} {
		dir := t.TempDir()
		if _, err := localca.Open(dir, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, lost)); err != nil {
			t.Fatal(err)
		}
		if _, err := localca.Open(dir, time.Now()); err == nil {
			t.Errorf("opened without %s", lost)
		}
	}
}

func TestOpenRefusesAKeyOfAnotherAuthority(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if _, err := localca.Open(dir, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	key, err := os.ReadFile(filepath.Join(b, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a, "ca-key.pem"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := localca.Open(a, time.Now()); err == nil {
		t.Error("opened with a key that is not the certificate's")
	}
}
