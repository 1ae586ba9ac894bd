package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/localca"
)

// authority writes an authority and a configuration with certificates by it, for hosts.
func authority(t *testing.T, hosts string) (file string, ca *localca.CA) {
	t.Helper()
	dir := t.TempDir()
	ca, err := localca.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := ca.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	cert, key := pem.Decode(text)
	config := fmt.Sprintf(`
dataDir: %[1]s/data
issuerURL: https://localhost
listen: 127.0.0.1:0
listenTLS: 127.0.0.1:0
listenProbes: 127.0.0.1:0
tls: {caCertFile: %[1]s/ca.crt, caKeyFile: %[1]s/ca.key, hosts: [%[2]s]}
`, dir, hosts)
	file = filepath.Join(dir, "server.yaml")
	for name, data := range map[string][]byte{"ca.crt": pem.EncodeToMemory(cert), "ca.key": key, "server.yaml": []byte(config)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file, ca
}

func TestCertificatesByAnAuthorityAreForItsHosts(t *testing.T) {
	t.Parallel()
	file, ca := authority(t, `lanyard-server.lanyard.svc, "*.s3.us-east-1.amazonaws.com", 127.0.0.1`)
	s, err := start(t, file)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	for host, want := range map[string]bool{
		"lanyard-server.lanyard.svc": true, "LANYARD-SERVER.lanyard.svc": true, "bucket.s3.us-east-1.amazonaws.com": true, "a.b.s3.us-east-1.amazonaws.com": true, "": true,
		"s3.us-east-1.amazonaws.com": false, "other.lanyard.svc": false, "xs3.us-east-1.amazonaws.com": false, "localhost": false,
	} {
		config := &tls.Config{RootCAs: roots, ServerName: host}
		if host == "" {
			config.ServerName = "127.0.0.1" // for which clients send no name
		}
		conn, err := tls.Dial("tcp", s.addresses["https"], config)
		if (err == nil) != want {
			t.Errorf("%q: got %v, want a certificate: %v", host, err, want)
		}
		if err == nil {
			conn.Close()
		}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	if status, _ := get(t, client, "https://"+s.addresses["https"]+"/id/none"); status != http.StatusNotFound {
		t.Errorf("an issuer that is none: %d", status)
	}
	client.CloseIdleConnections()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

func TestAnAuthorityThatIsNoneIsTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"no certificate": {func(dir string) error { return os.Remove(filepath.Join(dir, "ca.crt")) }, "read CA: open "},
		"no key":         {func(dir string) error { return os.Remove(filepath.Join(dir, "ca.key")) }, "read CA: open "},
		"no authority":   {func(dir string) error { return os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("x"), 0o600) }, "read the CA's certificate and key"},
	} {
		file, _ := authority(t, "localhost")
		if err := c.spoil(filepath.Dir(file)); err != nil {
			t.Fatal(err)
		}
		if _, err := start(t, file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestTheRootKeyIsPrintedWhereTheAccountWasMade(t *testing.T) {
	t.Parallel()
	file, _ := authority(t, "localhost")
	var out, errs strings.Builder
	args := []string{"root-key", "-config", file}
	if err := command(t.Context(), args, &out, &errs); err == nil || !strings.Contains(err.Error(), "of the replica that made the account") || out.Len() > 0 {
		t.Errorf("before the account is made: %v, %s", err, out.String())
	}
	s, err := start(t, file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(filepath.Dir(file), "data", "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(key))
	want := "export AWS_ACCESS_KEY_ID=" + lines[0] + "\nexport AWS_SECRET_ACCESS_KEY=" + lines[1] + "\nexport AWS_REGION=us-east-1\n"
	if err := command(t.Context(), args, &out, &errs); err != nil || out.String() != want || errs.Len() > 0 {
		t.Errorf("while it serves: %v, got %q, want %q, and says %q", err, out.String(), want, errs.String())
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	for name, args := range map[string][]string{
		"a configuration that is not there": {"root-key", "-config", file + ".old"},
		"a flag of the server":              {"root-key", "-trust-guard", "off"},
		"an argument":                       {"root-key", "now"},
		"a command that is none":            {"keys"},
	} {
		out.Reset()
		if err := command(t.Context(), args, &out, &errs); err == nil || out.Len() > 0 {
			t.Errorf("%s: got %v and %q", name, err, out.String())
		}
	}
}
