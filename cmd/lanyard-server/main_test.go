package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/lanyard-id/lanyard/internal/localca"
)

// server is a server that runs in this process.
type server struct {
	addresses map[string]string // by the server's name in the log
	stop      func() error
}

// start runs a server, and returns once it listens or has failed.
func start(t *testing.T, file string) (*server, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var rest sync.WaitGroup // of the log
	end := func() {
		cancel()
		rest.Wait()
	}
	t.Cleanup(end)
	log, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, file, "", nil, auditFlags{}, out)
		out.Close()
		ended <- err
	}()
	s := &server{addresses: map[string]string{}, stop: func() error { end(); return <-ended }}
	lines := json.NewDecoder(log)
	for len(s.addresses) < 3 {
		var line struct{ Msg, Server, Address string }
		if err := lines.Decode(&line); err != nil {
			return nil, <-ended
		}
		if line.Msg == "listening" {
			s.addresses[line.Server] = line.Address
		}
	}
	rest.Go(func() {
		if _, err := io.Copy(t.Output(), io.MultiReader(lines.Buffered(), log)); err != nil {
			t.Error(err)
		}
	})
	return s, nil
}

// files writes a certificate for localhost and a configuration that uses it, with text added.
func files(t *testing.T, text string) (file string, trust *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	ca, err := localca.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.TLS(func(string) bool { return true }).GetCertificate(&tls.ClientHelloInfo{ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"tls.crt": {Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}, "tls.key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text = fmt.Sprintf(`
dataDir: %[1]s/data
issuerURL: https://localhost
listen: 127.0.0.1:0
listenTLS: 127.0.0.1:0
listenProbes: 127.0.0.1:0
tls: {certFile: %[1]s/tls.crt, keyFile: %[1]s/tls.key}
`, dir) + text
	file = filepath.Join(dir, "server.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	trust = x509.NewCertPool()
	trust.AddCert(ca.Certificate())
	return file, trust
}

// get returns what a URL answers.
func get(t *testing.T, client *http.Client, url string) (status int, body string) {
	t.Helper()
	reply, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(text)
}

func TestAServerServesStopsAndStartsAgain(t *testing.T) {
	t.Parallel()
	file, trust := files(t, "s3: {embedded: true}\n")
	data := filepath.Join(filepath.Dir(file), "data")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust, ServerName: "localhost"}}}
	var key []byte
	for _, round := range []string{"at first", "again"} {
		s, err := start(t, file)
		if err != nil {
			t.Fatalf("start %s: %v", round, err)
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			if status, body := get(t, client, "http://"+s.addresses["probes"]+path); status != http.StatusOK || body != "ok\n" {
				t.Errorf("%s %s: %d %q", round, path, status, body)
			}
		}
		if status, _ := get(t, client, "http://"+s.addresses["probes"]+"/"); status != http.StatusNotFound {
			t.Errorf("%s, the probes serve something else: %d", round, status)
		}
		text, err := os.ReadFile(filepath.Join(data, "root.key"))
		if err != nil {
			t.Fatal(err)
		}
		if key != nil && string(key) != string(text) {
			t.Errorf("%s, it is another root key", round)
		}
		key = text
		lines := strings.Fields(string(text))
		for _, url := range []string{"http://" + s.addresses["http"], "https://" + s.addresses["https"]} {
			cfg := aws.Config{
				Region: "us-east-1", BaseEndpoint: &url, HTTPClient: client, Credentials: credentials.NewStaticCredentialsProvider(lines[0], lines[1], ""),
			}
			who, err := sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
			if err != nil {
				t.Fatalf("%s, by %s: %v", round, url, err)
			}
			if got := aws.ToString(who.Arn); got != "arn:aws:iam::111122223333:root" {
				t.Errorf("%s, by %s, root is %s", round, url, got)
			}
			list, err := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }).ListBuckets(t.Context(), &s3.ListBucketsInput{})
			if err != nil || len(list.Buckets) != 0 {
				t.Errorf("%s, by %s, the buckets are %v, %v", round, url, list, err)
			}
		}
		client.CloseIdleConnections()
		if err := s.stop(); err != nil {
			t.Errorf("stop %s: %v", round, err)
		}
	}
}

func TestAServerSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, config string
		spoil        func(t *testing.T, data string)
		want         string // part of the error
	}{
		{"a fault in the file", "region: nowhere\n", nil, "region: must be a region of AWS"},
		{"no master key", "masterKeyFile: /nonexistent/key\n", nil, "read master key: open /nonexistent/key"},
		{"a directory that others may read", "", func(t *testing.T, data string) {
			if err := os.Mkdir(data, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "run chmod 700"},
		{"a store without its key", "", func(t *testing.T, data string) {
			if err := os.MkdirAll(filepath.Join(data, "etcd"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "master.key is missing"},
		{"an upstream without its secret",
			"s3: {upstream: {endpoint: https://s3.example.com, region: r, accessKeyID: a, secretAccessKeyFile: /nonexistent/secret}}\n", nil,
			"secret access key: open /nonexistent/secret"},
		{"a log level that is none", "log: {level: loud}\n", nil, `log level "loud"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file, _ := files(t, c.config)
			if c.spoil != nil {
				c.spoil(t, filepath.Join(filepath.Dir(file), "data"))
			}
			_, err := start(t, file)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestAnotherAccountIsRefusedAfterTheFirstStart(t *testing.T) {
	t.Parallel()
	file, _ := files(t, "")
	s, err := start(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, "account: '444455556666'\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := start(t, file); err == nil || !strings.Contains(err.Error(), "is of account 111122223333, not 444455556666") {
		t.Errorf("got %v", err)
	}
}

func TestTheFlagTakesThePlaceOfTheConfiguredTrustGuard(t *testing.T) {
	t.Parallel()
	file, _ := files(t, "trustGuard: off\n")
	if err := run(t.Context(), file, "lenient", nil, auditFlags{}, t.Output()); err == nil || !strings.Contains(err.Error(), `trust guard "lenient"`) {
		t.Errorf("got error %v, want one about the flag's value", err)
	}
}
