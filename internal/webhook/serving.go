package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	admissionclient "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/lanyard-id/lanyard/internal/localca"
)

// The life of the authority of the serving certificates. Every replica makes its own certificate by it.
const (
	// authorityLife is how long an authority is used.
	authorityLife = 90 * 24 * time.Hour
	// authorityOverlap is how long a next one is trusted before it is used, and the last one after that: API servers learn
	// of what they have to trust within seconds, but a replica may be cut off for longer.
	authorityOverlap = 24 * time.Hour
	// checkEvery is how often a replica looks at the secret and at the registration.
	checkEvery = 10 * time.Second
)

// Authorities are those of the serving certificate, as they are kept in a secret that all replicas share: the one in use, and
// while they change the next one, or the last.
type Authorities struct {
	Current *localca.CA
	Next    *localca.CA // nil for none; trusted already
	Last    *localca.CA // nil for none; trusted still
	Since   time.Time   // when the last of these changes was made
}

// advance returns what the authorities are to be at a time, and whether that is a change.
func advance(a Authorities, now time.Time) (Authorities, bool, error) {
	if a.Current != nil && now.After(a.Current.Certificate().NotAfter) {
		a = Authorities{} // it has slept for longer than all of it lives
	}
	switch {
	case a.Current == nil:
		ca, err := localca.New(now)
		return Authorities{Current: ca, Since: now}, true, err
	case now.Sub(a.Since) < authorityOverlap:
		return a, false, nil
	case a.Next != nil:
		return Authorities{Current: a.Next, Last: a.Current, Since: now}, true, nil
	case a.Last != nil:
		return Authorities{Current: a.Current, Since: now}, true, nil
	case now.Sub(a.Current.Certificate().NotBefore) > authorityLife:
		ca, err := localca.New(now)
		return Authorities{Current: a.Current, Next: ca, Since: now}, true, err
	}
	return a, false, nil
}

// bundle returns the certificates that API servers have to trust.
func (a Authorities) bundle() []byte {
	var text []byte
	for _, ca := range []*localca.CA{a.Current, a.Next, a.Last} {
		if ca != nil {
			text = append(text, ca.PEM()...)
		}
	}
	return text
}

// The keys of the secret.
const (
	currentKey = "ca.pem"
	nextKey    = "next.pem"
	lastKey    = "last.pem"
	sinceKey   = "since"
)

func (a Authorities) marshal() (map[string][]byte, error) {
	data := map[string][]byte{sinceKey: []byte(a.Since.UTC().Format(time.RFC3339))}
	for key, ca := range map[string]*localca.CA{currentKey: a.Current, nextKey: a.Next, lastKey: a.Last} {
		if ca == nil {
			continue
		}
		text, err := ca.Marshal()
		if err != nil {
			return nil, err
		}
		data[key] = text
	}
	return data, nil
}

// parseAuthorities reads what marshal wrote. A secret that is empty, as a chart may make it, has none.
func parseAuthorities(data map[string][]byte) (a Authorities, err error) {
	if len(data) == 0 {
		return a, nil
	}
	if a.Since, err = time.Parse(time.RFC3339, string(data[sinceKey])); err != nil {
		return a, fmt.Errorf("read %s: %w", sinceKey, err)
	}
	for key, into := range map[string]**localca.CA{currentKey: &a.Current, nextKey: &a.Next, lastKey: &a.Last} {
		text, ok := data[key]
		if !ok && key != currentKey {
			continue
		}
		if *into, err = localca.Parse(text); err != nil {
			return a, fmt.Errorf("read %s: %w", key, err)
		}
	}
	return a, nil
}

// ServingConfig is what Serving needs.
type ServingConfig struct {
	Secrets       corev1client.SecretsGetter                          // required; may get and update the secret, and create it
	Registrations admissionclient.MutatingWebhookConfigurationsGetter // required; may get and update the registration
	// Namespace has the secret and the service, by these names. Required.
	Namespace, Secret, Service string
	// Registration is the name of the MutatingWebhookConfiguration whose webhooks are to trust the certificate: those of the
	// service, and those that have a URL instead, for a webhook outside the cluster. Required.
	Registration string
	Log          *slog.Logger
}

// Serving keeps the serving certificate: it makes the authorities, changes them before they are old, and has the registration
// trust them. Replicas agree through the secret's resourceVersion.
type Serving struct {
	c       ServingConfig
	current atomic.Pointer[localca.CA]
	hosts   atomic.Pointer[[]string] // of the registration's URLs
	trusted atomic.Bool              // the registration trusted the current authority when it was last seen
}

// NewServing returns Serving without a certificate; Run gets one.
func NewServing(c ServingConfig) *Serving { return &Serving{c: c} }

// TLS returns the configuration of the server.
func (s *Serving) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			ca := s.current.Load()
			if ca == nil {
				return nil, errors.New("there is no serving certificate yet")
			}
			return ca.TLS(s.named), nil
		},
	}
}

// named reports whether a name is the service's, or that of a URL in the registration.
func (s *Serving) named(host string) bool {
	short := s.c.Service + "." + s.c.Namespace
	names := []string{s.c.Service, short, short + ".svc", short + ".svc.cluster.local"}
	if hosts := s.hosts.Load(); hosts != nil {
		names = append(names, *hosts...)
	}
	return slices.Contains(names, strings.ToLower(host))
}

// Ready returns nil once there is a certificate that the registration trusts.
func (s *Serving) Ready() error {
	switch {
	case s.current.Load() == nil:
		return errors.New("there is no serving certificate yet")
	case !s.trusted.Load():
		return fmt.Errorf("the MutatingWebhookConfiguration %s does not trust the serving certificate yet", s.c.Registration)
	}
	return nil
}

// Run keeps the certificate until ctx ends.
func (s *Serving) Run(ctx context.Context) {
	for {
		err := s.step(ctx, time.Now())
		if err != nil && ctx.Err() == nil {
			s.c.Log.Warn("serving certificate not checked", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(checkEvery):
		}
	}
}

// step does what is due: the secret, then what trusts it, and only then the use of it.
func (s *Serving) step(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, checkEvery)
	defer cancel()
	a, err := s.authorities(ctx, now)
	if err != nil {
		return err
	}
	if s.current.Load() == nil {
		s.current.Store(a.Current) // better one that is not trusted for some seconds than none
	}
	if err := s.register(ctx, a); err != nil {
		return err
	}
	if !s.current.Load().Certificate().Equal(a.Current.Certificate()) {
		s.current.Store(a.Current)
		s.c.Log.Info("serving certificate's authority changed", "until", a.Current.Certificate().NotAfter)
	}
	s.trusted.Store(true)
	return nil
}

// authorities reads the secret and makes what change is due. Another replica's change goes before: it is read at the next step.
func (s *Serving) authorities(ctx context.Context, now time.Time) (Authorities, error) {
	secrets := s.c.Secrets.Secrets(s.c.Namespace)
	secret, err := secrets.Get(ctx, s.c.Secret, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return Authorities{}, fmt.Errorf("get secret %s: %w", s.c.Secret, err)
	}
	if missing {
		secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.c.Namespace, Name: s.c.Secret}}
	}
	have, err := parseAuthorities(secret.Data)
	if err != nil {
		return Authorities{}, fmt.Errorf("read secret %s: %w (another is made once it is deleted)", s.c.Secret, err)
	}
	a, changed, err := advance(have, now)
	if err != nil || !changed {
		return a, err
	}
	if secret.Data, err = a.marshal(); err != nil {
		return Authorities{}, fmt.Errorf("write secret %s: %w", s.c.Secret, err)
	}
	if missing {
		_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
	} else {
		_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{}) // refused if another replica was faster
	}
	if err != nil {
		return Authorities{}, fmt.Errorf("write secret %s: %w", s.c.Secret, err)
	}
	return a, nil
}

// register has the registration's webhooks trust the authorities. While the registration cannot be read, it is believed to be as it was:
// replicas that are all unready because of an API server's moment would be asked by no other API server either.
func (s *Serving) register(ctx context.Context, a Authorities) error {
	registrations := s.c.Registrations.MutatingWebhookConfigurations()
	r, err := registrations.Get(ctx, s.c.Registration, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s.trusted.Store(false)
	}
	if err != nil {
		return fmt.Errorf("get MutatingWebhookConfiguration: %w", err)
	}
	bundle, changed, trusted := a.bundle(), false, true
	serving := string(s.current.Load().Certificate().Raw)
	var hosts []string
	ours := 0
	for i := range r.Webhooks {
		c := &r.Webhooks[i].ClientConfig
		switch {
		case c.URL != nil:
			u, err := url.Parse(*c.URL)
			if err != nil {
				return fmt.Errorf("read the URL in MutatingWebhookConfiguration %s: %w", s.c.Registration, err)
			}
			hosts = append(hosts, strings.ToLower(u.Hostname()))
		case c.Service == nil || c.Service.Namespace != s.c.Namespace || c.Service.Name != s.c.Service:
			continue
		}
		ours++
		have := certificates(c.CABundle)
		trusted = trusted && slices.Contains(have, serving)
		if !slices.Equal(have, certificates(bundle)) {
			c.CABundle, changed = bundle, true
		}
	}
	s.hosts.Store(&hosts)
	s.trusted.Store(trusted && ours > 0)
	if ours == 0 {
		return fmt.Errorf("MutatingWebhookConfiguration %s has no webhook of service %s/%s", s.c.Registration, s.c.Namespace, s.c.Service)
	}
	if !changed {
		return nil
	}
	if _, err := registrations.Update(ctx, r, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update MutatingWebhookConfiguration: %w", err)
	}
	return nil
}

// certificates returns those of a bundle.
func certificates(bundle []byte) (all []string) {
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, string(block.Bytes))
		}
	}
	return all
}
