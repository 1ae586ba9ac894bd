package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/lanyard-id/lanyard/internal/localca"
)

// A token is renewed at 80 % of its life; while the issuer fails, the old one stays and the next try is soon.
func TestProjectedTokensAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		begun := time.Now()
		var asked atomic.Int32
		var failing atomic.Bool
		p := projection{audience: "sts.amazonaws.com", file: file, source: func(_ context.Context, audience string) (token, error) {
			n := asked.Add(1)
			if failing.Load() {
				return token{}, errors.New("the issuer does not answer")
			}
			return token{fmt.Sprintf("%s %d", audience, n), time.Now().Add(time.Hour)}, nil
		}}
		wait, err := p.write(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			p.renew(ctx, slog.New(slog.DiscardHandler), wait)
		}()
		at := func(d time.Duration, want string) {
			t.Helper()
			time.Sleep(time.Until(begun.Add(d)))
			synctest.Wait()
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != want {
				t.Errorf("after %v the file holds %q, want %q", d, got, want)
			}
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("after %v the file's mode is %o", d, info.Mode().Perm())
			}
		}
		at(0, "sts.amazonaws.com 1")
		at(48*time.Minute-time.Second, "sts.amazonaws.com 1")
		at(48*time.Minute, "sts.amazonaws.com 2")
		failing.Store(true)
		at(96*time.Minute, "sts.amazonaws.com 2")
		at(96*time.Minute+renewRetry, "sts.amazonaws.com 2")
		if got := asked.Load(); got != 4 {
			t.Errorf("the issuer was asked %d times, want 4", got)
		}
		failing.Store(false)
		at(96*time.Minute+2*renewRetry, "sts.amazonaws.com 5")
		cancel()
		<-ended
		time.Sleep(time.Hour)
		if got := asked.Load(); got != 5 {
			t.Errorf("the issuer was asked %d times, also after the end", got)
		}
		left, err := os.ReadDir(filepath.Dir(file))
		if err != nil {
			t.Fatal(err)
		}
		if len(left) != 1 {
			t.Errorf("the directory holds %v, want the token alone", left)
		}
	})
}

// Tokens whose life is over before they come must not make a loop that never waits.
func TestStaleTokensAreNotRenewedWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		p := projection{file: filepath.Join(t.TempDir(), "token"), source: func(context.Context, string) (token, error) {
			asked++
			return token{"stale", time.Now().Add(-time.Hour)}, nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		p.renew(ctx, slog.New(slog.DiscardHandler), 0)
		if want := int(time.Minute/renewRetry) - 1; asked < want || asked > want+1 {
			t.Errorf("asked %d times in a minute, want one in %v", asked, renewRetry)
		}
	})
}

func TestFirstTokenMustBeThere(t *testing.T) {
	dir := t.TempDir()
	want := errors.New("no such service account")
	p := projection{file: filepath.Join(dir, "token"), source: func(context.Context, string) (token, error) { return token{}, want }}
	if _, err := p.write(t.Context()); !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the directory holds %v", left)
	}
}

func TestCommandsAreLedToLanyardAndPastProxies(t *testing.T) {
	for _, c := range []struct {
		name, endpoint, proxy, trustStore string
		environment                       map[string]string // the caller's
		want                              map[string]string
	}{
		{
			name: "AWS itself",
			want: map[string]string{"NO_PROXY": "localhost,127.0.0.1,::1"},
		},
		{
			name: "the caller's proxies stay, with one exception more", endpoint: "https://lanyard.example:8443/",
			environment: map[string]string{"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "internal.example", "JAVA_TOOL_OPTIONS": "-Xmx1g"},
			want:        map[string]string{"NO_PROXY": "localhost,127.0.0.1,::1,lanyard.example,internal.example"},
		},
		{
			name: "Java is told what to trust", endpoint: "https://lanyard.example", trustStore: "/run/truststore.p12",
			environment: map[string]string{"JAVA_TOOL_OPTIONS": "-Xmx1g"},
			want: map[string]string{
				"NO_PROXY":          "localhost,127.0.0.1,::1,lanyard.example",
				"JAVA_TOOL_OPTIONS": "-Xmx1g -Djavax.net.ssl.trustStore=/run/truststore.p12 -Djavax.net.ssl.trustStoreType=PKCS12",
			},
		},
		{
			name: "with the proxy, no exception of the caller's lets AWS's names escape", endpoint: "http://lanyard.example", proxy: "127.0.0.1:9",
			environment: map[string]string{"HTTPS_PROXY": "http://proxy.example:3128", "no_proxy": ".amazonaws.com"},
			want: map[string]string{
				"HTTPS_PROXY": "http://127.0.0.1:9",
				"NO_PROXY":    "localhost,127.0.0.1,::1,lanyard.example",
				"JAVA_TOOL_OPTIONS": "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=9 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=9 " +
					"-Dhttp.nonProxyHosts=localhost|127.*|[::1]|lanyard.example",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"HTTPS_PROXY", "NO_PROXY", "no_proxy", "JAVA_TOOL_OPTIONS"} {
				t.Setenv(name, c.environment[name])
			}
			r, err := newReach(c.endpoint)
			if err != nil {
				t.Fatal(err)
			}
			r.proxy, r.trustStore = c.proxy, c.trustStore
			got := map[string]string{}
			for _, v := range r.env() {
				got[v.Name] = v.Value
			}
			for _, name := range []string{"HTTPS_PROXY", "NO_PROXY"} {
				if got[name] != got[strings.ToLower(name)] {
					t.Errorf("%s is %q in capitals and %q without", name, got[name], got[strings.ToLower(name)])
				}
				delete(got, strings.ToLower(name))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("variables (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNothingLeadsToTheCallersCredentials(t *testing.T) {
	got := withoutAWS([]string{
		"PATH=/bin", "AWS_ACCESS_KEY_ID=AKIA", "AWS_PROFILE=admin", "AWS_ENDPOINT_URL_S3=http://elsewhere", "HOME=/home/me", "AWS_CONFIG_FILE=/home/me/config",
	})
	want := []string{
		"PATH=/bin", "HOME=/home/me", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true", "BOTO_CONFIG=/dev/null",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

// Java's store replaces its own: it must hold what the bundle holds, each once.
func TestJavaTrustsWhatTheOthersTrust(t *testing.T) {
	var bundle []byte
	var want []string
	for range 3 {
		ca, err := localca.New(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		bundle = append(append(bundle, "# a comment, as bundles have them\n"...), ca.PEM()...)
		want = append(want, string(ca.Certificate().Raw))
	}
	bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(want[0])})...)
	bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("not one that Go can read")})...)
	store, err := javaTrustStore(bundle)
	if err != nil {
		t.Fatal(err)
	}
	var certs []*x509.Certificate
	if certs, err = pkcs12.DecodeTrustStore(store, ""); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range certs {
		got = append(got, string(c.Raw))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("certificates (-want +got):\n%s", diff)
	}
}
