package main

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

// kubeconfig writes a kubeconfig of a cluster, and returns its name.
func kubeconfig(t *testing.T, cluster, user string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {%s}}]
users: [{name: u, user: {%s}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, cluster, user)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// reviewing is a configuration with one cluster that is asked.
func reviewing(access clusterAccess) *config {
	var c config
	c.TokenReview.Every, c.TokenReview.Clusters = time.Minute, map[string]clusterAccess{"one": access}
	return &c
}

func TestAnAPIServerIsAskedAsItsKubeconfigSays(t *testing.T) {
	t.Parallel()
	var asked []string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Authorization")+" "+r.URL.Path)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"kind":"TokenReview","status":{"authenticated":true,"user":{"username":"s"},"audiences":["a"]}}`)
	}))
	defer s.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("the-server-s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	file := kubeconfig(t, fmt.Sprintf("server: %q, certificate-authority-data: %s", s.URL, base64.StdEncoding.EncodeToString(certificate)), "tokenFile: "+token)
	review, err := reviewing(clusterAccess{Kubeconfig: file}).tokenReview()
	if err != nil || review.Every != time.Minute {
		t.Fatalf("got %v, %v", review, err)
	}
	if err := review.Servers["one"].Review(t.Context(), "t", &idtoken.Claims{Subject: "s", Audience: []string{"a"}}); err != nil {
		t.Error(err)
	}
	if want := "Bearer the-server-s /apis/authentication.k8s.io/v1/tokenreviews"; len(asked) != 1 || asked[0] != want {
		t.Errorf("it was asked %q, want %q", asked, want)
	}
}

func TestAPIServersThatAreNotAsked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		access clusterAccess
		want   string // part of the error
	}{
		{"no file", clusterAccess{Kubeconfig: "/nonexistent/kubeconfig"}, "cluster one: stat /nonexistent/kubeconfig"},
		{"plain HTTP", clusterAccess{Kubeconfig: kubeconfig(t, "server: 'http://127.0.0.1:8080'", "token: t")}, "not known by a certificate"},
		{"anybody's certificate", clusterAccess{Kubeconfig: kubeconfig(t, "server: 'https://k', insecure-skip-tls-verify: true", "token: t")}, "not known by a certificate"},
		{"outside of a cluster", clusterAccess{InCluster: true}, "cluster one: unable to load in-cluster configuration"},
	} {
		if _, err := reviewing(c.access).tokenReview(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	off := reviewing(clusterAccess{Kubeconfig: "/nonexistent/kubeconfig"})
	off.TokenReview.Every = 0
	if review, err := off.tokenReview(); err != nil || review.Every != 0 || len(review.Servers) != 0 {
		t.Errorf("while reviews are off: %v, %v", review, err)
	}
}

// It is not run beside others: a server with reviews sets the logger of the Kubernetes libraries, of which a process has one.
func TestTheFlagTakesThePlaceOfTheConfiguredTokenReview(t *testing.T) {
	file, _ := files(t, "tokenReview: {clusters: {one: {kubeconfig: /nonexistent/kubeconfig}}}\n")
	for _, c := range []struct{ flag, want string }{
		{"30s", "find the API server of cluster one"},
		{"often", "usage"},
	} {
		err := command(t.Context(), []string{"-config", file, "-token-review", c.flag}, t.Output(), t.Output())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("--token-review %s: got %v, want %q", c.flag, err, c.want)
		}
	}
}
