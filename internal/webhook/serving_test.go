package webhook

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-id/lanyard/internal/localca"
)

// trusts reports whether an API server that has the bundle trusts what an authority signs.
func trusts(t *testing.T, bundle []byte, ca *localca.CA) bool {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bundle)
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go tls.Server(server, ca.TLS(func(string) bool { return true })).Handshake()
	return tls.Client(client, &tls.Config{RootCAs: pool, ServerName: "webhook.lanyard.svc"}).Handshake() == nil
}

// A replica that is one step behind, and an API server that is, never meet a certificate that is not trusted.
func TestAuthoritiesChangeWithoutAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last Authorities
		changes, rotations := 0, 0
		for end := time.Now().Add(400 * 24 * time.Hour); time.Now().Before(end); time.Sleep(time.Hour) {
			a, changed, err := advance(last, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if again, twice, err := advance(a, time.Now()); twice || err != nil || again != a {
				t.Fatalf("asked once more at %s, there is another change: %v", time.Now(), err)
			}
			if !changed {
				continue
			}
			changes++
			data, err := a.marshal()
			if err != nil {
				t.Fatal(err)
			}
			read, err := parseAuthorities(data)
			if err != nil {
				t.Fatal(err)
			}
			if string(read.bundle()) != string(a.bundle()) || !read.Since.Equal(a.Since.Truncate(time.Second)) {
				t.Fatal("what was written is read as something else")
			}
			if last.Current != nil {
				if !trusts(t, a.bundle(), last.Current) {
					t.Errorf("after change %d, a replica that does not know of it is not trusted", changes)
				}
				if !trusts(t, last.bundle(), a.Current) {
					t.Errorf("after change %d, an API server that does not know of it does not trust", changes)
				}
				if last.Current != a.Current {
					rotations++
				}
			}
			last = a
		}
		if rotations != 4 {
			t.Errorf("in 400 days there were %d rotations, want 4", rotations)
		}
	})
}

func TestAuthoritiesThatHaveExpiredAreMadeAnew(t *testing.T) {
	t.Parallel()
	now := time.Now()
	first, _, err := advance(Authorities{}, now)
	if err != nil {
		t.Fatal(err)
	}
	a, changed, err := advance(first, now.Add(11*365*24*time.Hour))
	if err != nil || !changed || a.Current == first.Current || a.Last != nil || a.Next != nil {
		t.Errorf("got %+v, %v, %v", a, changed, err)
	}
}

func TestSecretsThatAreDamagedAreNotWrittenOver(t *testing.T) {
	t.Parallel()
	a, _, err := advance(Authorities{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(map[string][]byte){
		"no time":         func(d map[string][]byte) { delete(d, sinceKey) },
		"no time that is": func(d map[string][]byte) { d[sinceKey] = []byte("now") },
		"no authority":    func(d map[string][]byte) { delete(d, currentKey) },
		"half of it":      func(d map[string][]byte) { d[currentKey] = d[currentKey][:100] },
		"a next that is none": func(d map[string][]byte) {
			d[nextKey] = []byte("none")
		},
	} {
		data, err := a.marshal()
		if err != nil {
			t.Fatal(err)
		}
		damage(data)
		if _, err := parseAuthorities(data); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if empty, err := parseAuthorities(nil); err != nil || empty != (Authorities{}) {
		t.Errorf("a secret that a chart has made empty: %v", err)
	}
}

func TestNamesOfTheCertificate(t *testing.T) {
	t.Parallel()
	s := NewServing(ServingConfig{Namespace: "lanyard", Service: "webhook"})
	s.hosts.Store(&[]string{"127.0.0.1"})
	for name, want := range map[string]bool{
		"webhook": true, "webhook.lanyard": true, "webhook.lanyard.svc": true, "Webhook.Lanyard.svc.cluster.local": true, "127.0.0.1": true,
		"": false, "lanyard.svc": false, "other.lanyard.svc": false, "webhook.other.svc": false, "127.0.0.2": false, "x.webhook.lanyard.svc": false,
	} {
		if got := s.named(name); got != want {
			t.Errorf("%q: got %v", name, got)
		}
	}
	if s.Ready() == nil {
		t.Error("it is ready without a certificate")
	}
	if _, err := s.TLS().GetConfigForClient(nil); err == nil {
		t.Error("it serves without a certificate")
	}
}
