package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// apiServer serves what an API server tells of its issuer, to whoever has the token "secret" or the client certificate.
func apiServer(t *testing.T, client tls.Certificate, answer func(w http.ResponseWriter, path string)) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		known := r.Header.Get("Authorization") == "Bearer secret" || len(r.TLS.PeerCertificates) == 1 && r.TLS.PeerCertificates[0].Equal(client.Leaf)
		if !known {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"kind": "Status", "message": "Unauthorized"}`)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/jwks") && !strings.Contains(r.Header.Get("Accept"), "application/jwk-set+json") {
			w.WriteHeader(http.StatusNotAcceptable) // as API servers are
			return
		}
		answer(w, r.URL.Path)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func properAnswer(w http.ResponseWriter, path string) {
	switch path {
	case "/k8s/.well-known/openid-configuration":
		io.WriteString(w, `{"issuer": "https://oidc.example.com", "jwks_uri": "https://nowhere.example/openid/v1/jwks"}`)
	case "/k8s/openid/v1/jwks":
		io.WriteString(w, `{"keys": []}`)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// kubeconfig has two contexts: "good", the user of which is given, and "stranger", the current one.
func kubeconfig(t *testing.T, server *httptest.Server, ca []byte, user string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: known, user: %s}, {name: unknown, user: {token: other}}]
contexts: [{name: good, context: {cluster: c, user: known}}, {name: stranger, context: {cluster: c, user: unknown}}]
current-context: stranger
`, server.URL+"/k8s", base64.StdEncoding.EncodeToString(ca), user)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func caOf(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func TestIssuerOfAnAPIServerByEveryCredential(t *testing.T) {
	t.Parallel()
	client := certificate(t, "client.example", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	key, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	server := apiServer(t, client, properAnswer)
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, user := range map[string]string{
		"token":       `{token: secret}`,
		"token file":  fmt.Sprintf(`{tokenFile: %q}`, tokenFile),
		"certificate": fmt.Sprintf(`{client-certificate-data: %s, client-key-data: %s}`, encode("CERTIFICATE", client.Certificate[0]), encode("PRIVATE KEY", key)),
		"exec plugin": `{exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: sh, args: [-c, ` +
			`'echo "{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\", \"status\": {\"token\": \"secret\"}}"']}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := kubeconfig(t, server, caOf(server), user)
			api, err := openKubernetes(file, "good")
			if err != nil {
				t.Fatal(err)
			}
			issuer, keys, err := api.issuer(t.Context())
			if err != nil || issuer != "https://oidc.example.com" || string(keys) != `{"keys": []}` {
				t.Errorf("got %q, %s, %v", issuer, keys, err)
			}
			if api, err = openKubernetes(file, ""); err != nil {
				t.Fatal(err)
			}
			if _, _, err := api.issuer(t.Context()); err == nil || !strings.Contains(err.Error(), "Unauthorized") || !strings.Contains(hint(err), "not valid") {
				t.Errorf("the current context: got %v (%s)", err, hint(err))
			}
		})
	}
	t.Run("a CA that did not sign", func(t *testing.T) {
		t.Parallel()
		ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: client.Certificate[0]})
		api, err := openKubernetes(kubeconfig(t, server, ca, `{token: secret}`), "good")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := api.issuer(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") || !strings.Contains(hint(err), "kubectl") {
			t.Errorf("got %v (%s)", err, hint(err))
		}
	})
	t.Run("a context that is not there", func(t *testing.T) {
		t.Parallel()
		if _, err := openKubernetes(kubeconfig(t, server, caOf(server), `{}`), "none"); err == nil || !strings.Contains(err.Error(), "read kubeconfig") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAPIServersThatTellNoIssuer(t *testing.T) {
	t.Parallel()
	refuse := func(code int, message string) func(http.ResponseWriter, string) {
		return func(w http.ResponseWriter, _ string) {
			w.WriteHeader(code)
			fmt.Fprintf(w, `{"kind": "Status", "message": %q}`, message)
		}
	}
	for _, c := range []struct {
		name        string
		answer      func(w http.ResponseWriter, path string)
		error, hint string
	}{
		{"an issuer that is no https URL", refuse(http.StatusNotFound, "not found"), "not found", "--public-key"},
		{"a user without rights", refuse(http.StatusForbidden, `forbidden: User "ann" cannot get path`), "cannot get path", "system:service-account-issuer-discovery"},
		{"no JSON", func(w http.ResponseWriter, _ string) { io.WriteString(w, "<html>") }, "invalid character", ""},
		{"no issuer", func(w http.ResponseWriter, _ string) { io.WriteString(w, "{}") }, "names none", ""},
		{"no end", func(w http.ResponseWriter, _ string) { w.Write(make([]byte, maxReply+1)) }, "longer than", ""},
		{"no keys", func(w http.ResponseWriter, path string) {
			if strings.HasSuffix(path, "jwks") {
				path = ""
			}
			properAnswer(w, path)
		}, "read the public keys of", "--public-key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := apiServer(t, tls.Certificate{}, c.answer)
			api, err := openKubernetes(kubeconfig(t, server, caOf(server), `{token: secret}`), "good")
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = api.issuer(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.error) || !strings.Contains(hint(err), c.hint) {
				t.Errorf("got %v (%s)", err, hint(err))
			}
		})
	}
}
