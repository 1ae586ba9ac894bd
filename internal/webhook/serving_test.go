package webhook

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	admissionfake "k8s.io/client-go/kubernetes/typed/admissionregistration/v1/fake"
	corev1fake "k8s.io/client-go/kubernetes/typed/core/v1/fake"
	clienttesting "k8s.io/client-go/testing"

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

// A replica that cannot look at the registration for a while does not become unready by that, since all replicas would together: only one
// whose certificate is seen not to be trusted does.
func TestReadinessFollowsTheRegistration(t *testing.T) {
	t.Parallel()
	cluster := memoryCluster()
	var refused map[string]error // by verb
	cluster.PrependReactor("*", "mutatingwebhookconfigurations", func(action clienttesting.Action) (bool, runtime.Object, error) {
		err := refused[action.GetVerb()]
		return err != nil, nil, err
	})
	registrations := (&admissionfake.FakeAdmissionregistrationV1{Fake: cluster}).MutatingWebhookConfigurations()
	_, err := registrations.Create(t.Context(), &admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "webhook"},
		Webhooks: []admissionv1.MutatingWebhook{{ClientConfig: admissionv1.WebhookClientConfig{
			Service: &admissionv1.ServiceReference{Namespace: "lanyard", Name: "webhook"},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := NewServing(ServingConfig{
		Secrets: &corev1fake.FakeCoreV1{Fake: cluster}, Registrations: &admissionfake.FakeAdmissionregistrationV1{Fake: cluster},
		Namespace: "lanyard", Secret: "webhook", Service: "webhook", Registration: "webhook", Log: slog.New(slog.DiscardHandler),
	})
	forget := func() { // as somebody does who applies the registration again
		r, err := registrations.Get(t.Context(), "webhook", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r.Webhooks[0].ClientConfig.CABundle = nil
		if _, err := registrations.Update(t.Context(), r, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	down := errors.New("down")
	for _, c := range []struct {
		name      string
		refused   map[string]error
		before    func()
		ok, ready bool
	}{
		{"at first, without an answer", map[string]error{"get": down}, nil, false, false},
		{"at first, where the registration may not be written", map[string]error{"update": down}, nil, false, false},
		{"once it is written", nil, nil, true, true},
		{"the registration cannot be read", map[string]error{"get": down}, nil, false, true},
		{"there is nothing to write", map[string]error{"update": down}, nil, true, true},
		{"the bundle is gone, and cannot be written", map[string]error{"update": down}, forget, false, false},
		{"still, when it cannot be read", map[string]error{"get": down}, nil, false, false},
		{"it is written again", nil, nil, true, true},
		{"the registration is not there", map[string]error{"get": apierrors.NewNotFound(schema.GroupResource{}, "webhook")}, nil, false, false},
		{"it is there again", nil, nil, true, true},
	} {
		refused = nil
		if c.before != nil {
			c.before()
		}
		refused = c.refused
		if err := s.step(t.Context(), time.Now()); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := s.Ready(); (err == nil) != c.ready {
			t.Errorf("%s: ready: %v", c.name, err)
		}
	}
}
