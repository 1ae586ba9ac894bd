package daemon_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-id/lanyard/internal/daemon"
)

func TestNewLogger(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ level, format, want string }{
		{"info", "text", `level=INFO msg=hello n=1`},
		{"info", "json", `"level":"INFO","msg":"hello","n":1`},
		{"error", "text", ""},
	} {
		var out bytes.Buffer
		log, err := daemon.NewLogger(&out, c.level, c.format)
		if err != nil {
			t.Errorf("%s, %s: %v", c.level, c.format, err)
			continue
		}
		log.Info("hello", "n", 1)
		if !strings.Contains(out.String(), c.want) || (out.Len() == 0) != (c.want == "") {
			t.Errorf("%s, %s: got %q, want %q", c.level, c.format, out.String(), c.want)
		}
	}
	for _, c := range []struct{ level, format string }{{"loud", "text"}, {"", "text"}, {"info", "xml"}, {"info", ""}} {
		if _, err := daemon.NewLogger(io.Discard, c.level, c.format); err == nil {
			t.Errorf("took level %q and format %q", c.level, c.format)
		}
	}
}

// listening returns a server that listens on a free port.
func listening(t *testing.T, name string, h http.HandlerFunc) *daemon.Server {
	t.Helper()
	s := &daemon.Server{Name: name, Address: "127.0.0.1:0", Handler: h}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStopWaitsForRequestsInFlight(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	busy := listening(t, "busy", func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		select {
		case <-release:
			io.WriteString(w, "done")
		case <-r.Context().Done():
			t.Error("the request was cut off")
		}
	})
	idle := listening(t, "idle", func(http.ResponseWriter, *http.Request) {})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- daemon.Serve(ctx, slog.New(slog.DiscardHandler), busy, idle) }()
	answer := make(chan string, 1)
	go func() {
		reply, err := http.Get("http://" + busy.Addr())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer reply.Body.Close()
		text, err := io.ReadAll(reply.Body)
		answer <- string(text)
		if err != nil {
			t.Error(err)
		}
	}()
	<-entered
	stop()
	for _, s := range []*daemon.Server{busy, idle} {
		for { // until the stop has come this far
			c, err := net.Dial("tcp", s.Addr())
			if err != nil {
				break
			}
			c.Close()
		}
	}
	select {
	case err := <-served:
		t.Fatalf("Serve returned while a request was in flight: %v", err)
	default:
	}
	close(release)
	if got := <-answer; got != "done" {
		t.Errorf("the request in flight was answered %q", got)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestLingering(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		stop, end time.Duration // when; 0 for never
		want      time.Duration // when the context ends
	}{
		{"for the delay", time.Minute, 0, time.Minute + 5*time.Second},
		{"until it is cancelled before the stop", time.Minute, time.Second, time.Second},
		{"until it is cancelled after the stop", time.Minute, time.Minute + time.Second, time.Minute + time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				lingering, end := daemon.Linger(ctx, 5*time.Second)
				defer end()
				time.AfterFunc(c.stop, stop)
				if c.end > 0 {
					time.AfterFunc(c.end, end)
				}
				<-lingering.Done()
				if took := time.Since(begun); took != c.want {
					t.Errorf("it ended after %v, want %v", took, c.want)
				}
			})
		})
	}
}

func TestOneServersFailureStopsAll(t *testing.T) {
	t.Parallel()
	nothing := func(http.ResponseWriter, *http.Request) {}
	broken, other := listening(t, "broken", nothing), listening(t, "other", nothing)
	if err := broken.Close(); err != nil {
		t.Fatal(err)
	}
	err := daemon.Serve(t.Context(), slog.New(slog.DiscardHandler), broken, other)
	if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "serve broken") {
		t.Errorf("Serve: %v", err)
	}
	if c, err := net.Dial("tcp", other.Addr()); err == nil {
		c.Close()
		t.Error("the other one still listens")
	}
}

func TestAddressesInUseAreTold(t *testing.T) {
	t.Parallel()
	s := listening(t, "first", nil)
	defer s.Close()
	err := (&daemon.Server{Name: "second", Address: s.Addr()}).Listen()
	if err == nil || !strings.Contains(err.Error(), "second") {
		t.Errorf("Listen: %v", err)
	}
}

// pair makes a self-signed certificate of a name, and its key, in PEM.
func pair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func write(t *testing.T, file string, data []byte, modified time.Time) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, modified, modified); err != nil {
		t.Fatal(err)
	}
}

// presented returns the name on the certificate that a new connection sees.
func presented(t *testing.T, config *tls.Config) string {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(server, config).Handshake() }()
	c := tls.Client(client, &tls.Config{InsecureSkipVerify: true}) // only the name is looked at
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState().PeerCertificates[0].DNSNames[0]
}

func TestCertificatesAreReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	synctest.Test(t, func(t *testing.T) {
		replace := func(cert, key []byte) {
			write(t, keyFile, key, time.Now())
			write(t, certFile, cert, time.Now())
		}
		const check = 10 * time.Second // the time that a change may take to be seen
		replace(pair(t, "first.example"))
		var logged bytes.Buffer
		config, err := daemon.CertificateFiles(certFile, keyFile, slog.New(slog.NewTextHandler(&logged, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if got := presented(t, config); got != "first.example" {
			t.Errorf("at first it is %s", got)
		}

		time.Sleep(check)
		replace(pair(t, "second.example"))
		if got := presented(t, config); got != "second.example" {
			t.Errorf("after the change it is %s", got)
		}

		time.Sleep(check)
		cert, key := pair(t, "third.example")
		write(t, certFile, cert, time.Now()) // the key comes later
		if got := presented(t, config); got != "second.example" {
			t.Errorf("with half of the change made it is %s", got)
		}
		if !strings.Contains(logged.String(), "certificate not reloaded") {
			t.Errorf("the log does not tell: %s", logged.String())
		}
		time.Sleep(check)
		write(t, keyFile, key, time.Now())
		if got := presented(t, config); got != "third.example" {
			t.Errorf("after the second half it is %s", got)
		}

		time.Sleep(check)
		if err := os.Remove(certFile); err != nil {
			t.Fatal(err)
		}
		if got := presented(t, config); got != "third.example" {
			t.Errorf("without the file it is %s", got)
		}
	})
}

func TestCertificatesMustBeThereAtFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	cert, _ := pair(t, "one.example")
	_, otherKey := pair(t, "other.example")
	log := slog.New(slog.DiscardHandler)
	if _, err := daemon.CertificateFiles(certFile, keyFile, log); err == nil {
		t.Error("no files are taken")
	}
	write(t, certFile, cert, time.Now())
	write(t, keyFile, otherKey, time.Now())
	if _, err := daemon.CertificateFiles(certFile, keyFile, log); err == nil {
		t.Error("the key of another certificate is taken")
	}
}

func TestClientTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		write(t, path, data, time.Now())
		return path
	}
	cert, key := pair(t, "client.example")
	_, otherKey := pair(t, "other.example")
	certFile, keyFile, damaged := file("cert", cert), file("key", key), file("damaged", []byte("no PEM"))
	for _, c := range []struct {
		name, ca, cert, key string
		ok                  bool
	}{
		{"the system's roots and no certificate", "", "", "", true},
		{"a CA", certFile, "", "", true},
		{"a CA and a certificate", certFile, certFile, keyFile, true},
		{"a CA that is not there", filepath.Join(dir, "none"), "", "", false},
		{"a CA that is none", damaged, "", "", false},
		{"a certificate with another's key", "", certFile, file("other", otherKey), false},
		{"a certificate that is none", "", damaged, keyFile, false},
	} {
		config, err := daemon.ClientTLS(c.ca, c.cert, c.key)
		if (err == nil) != c.ok {
			t.Errorf("%s: got error %v, want success %v", c.name, err, c.ok)
			continue
		}
		if !c.ok {
			continue
		}
		if config.InsecureSkipVerify || config.MinVersion < tls.VersionTLS12 {
			t.Errorf("%s: it is not safe: %+v", c.name, config)
		}
		if (config.RootCAs != nil) != (c.ca != "") || (len(config.Certificates) == 1) != (c.cert != "") {
			t.Errorf("%s: got %+v", c.name, config)
		}
	}
}
