package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

const (
	// managedLabel is on the ConfigMaps that Bundles keep, with managedBy as its value.
	managedLabel = "app.kubernetes.io/managed-by"
	managedBy    = "lanyard-webhook"
	// hashAnnotation has the SHA-256 of the certificates in a ConfigMap, so that they need not be read to know whether they
	// are the present ones.
	hashAnnotation = "lanyard.dev/bundle-sha256"
	// bundlesEvery is how often Bundles look whether all is as it should be; the next try after a failure is as far off.
	bundlesEvery = 15 * time.Second
	// maxBundle bounds the certificates, in bytes: Kubernetes takes a MiB.
	maxBundle = 1 << 20
)

// BundlesConfig is what Bundles needs.
type BundlesConfig struct {
	ConfigMaps corev1client.ConfigMapsGetter // required; may create ConfigMaps, and get and update those of the name
	Metadata   metadata.Interface            // required; may list those of the name
	ConfigMap  podspec.ConfigMapKey          // required
	// Read returns the certificates to trust, in PEM. Required.
	Read func() ([]byte, error)
	Log  *slog.Logger
}

// Bundles keeps a ConfigMap with certificates to trust in each namespace that has pods which mount it, and up to date in all
// that had.
type Bundles struct {
	c      BundlesConfig
	wake   chan struct{} // has room for one
	mu     sync.Mutex
	wanted map[string]bool   // namespaces that pods have come to
	known  map[string]string // hashes by namespace, as of the last look
}

// NewBundles returns Bundles that have done nothing yet; Run does it.
func NewBundles(c BundlesConfig) *Bundles {
	return &Bundles{c: c, wake: make(chan struct{}, 1), wanted: map[string]bool{}, known: map[string]string{}}
}

// Want sees to it that a namespace has the ConfigMap soon. Pods wait for it when they start.
func (b *Bundles) Want(namespace string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.known[namespace]; ok || b.wanted[namespace] {
		return
	}
	b.wanted[namespace] = true
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Run keeps the ConfigMaps until ctx ends.
func (b *Bundles) Run(ctx context.Context) {
	tick := time.NewTicker(bundlesEvery)
	defer tick.Stop()
	for look := true; ; {
		if err := b.step(ctx, look); err != nil && ctx.Err() == nil {
			b.c.Log.Warn("certificates for pods not published", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
			look = false
		case <-tick.C:
			look = true
		}
	}
}

// step writes the ConfigMaps that are missing or old. It looks at all of them, or only does what is wanted.
func (b *Bundles) step(ctx context.Context, look bool) error {
	ctx, cancel := context.WithTimeout(ctx, bundlesEvery)
	defer cancel()
	text, err := b.c.Read()
	if err != nil {
		return fmt.Errorf("read certificates: %w", err)
	}
	if n := len(certificates(text)); n == 0 || len(text) > maxBundle {
		return fmt.Errorf("the certificates to publish are %d in %d bytes: there must be some, in at most %d bytes", n, len(text), maxBundle)
	}
	sum := sha256.Sum256(text)
	hash := hex.EncodeToString(sum[:])
	if look {
		if err := b.look(ctx); err != nil {
			return err
		}
	}
	var failed error
	for _, namespace := range b.due(hash) {
		err := b.write(ctx, namespace, text, hash)
		switch {
		case err == nil:
			b.done(namespace, hash)
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err):
			b.forget(namespace)
		default:
			failed = errors.Join(failed, fmt.Errorf("namespace %s: %w", namespace, err))
		}
	}
	return failed
}

// look learns which namespaces have the ConfigMap.
func (b *Bundles) look(ctx context.Context) error {
	list, err := b.c.Metadata.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).
		List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + b.c.ConfigMap.Name}) // by name, so that RBAC can be, too
	if err != nil {
		return fmt.Errorf("list ConfigMaps: %w", err)
	}
	have := map[string]string{}
	for _, m := range list.Items {
		if m.Labels[managedLabel] == managedBy {
			have[m.Namespace] = m.Annotations[hashAnnotation]
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for namespace := range b.known {
		if _, ok := have[namespace]; !ok {
			b.wanted[namespace] = true // somebody has deleted it
		}
	}
	b.known = have
	return nil
}

// due returns the namespaces whose ConfigMap is to be written.
func (b *Bundles) due(hash string) (namespaces []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := maps.Clone(b.wanted)
	for namespace, have := range b.known {
		if have != hash {
			all[namespace] = true
		}
	}
	for namespace := range all {
		namespaces = append(namespaces, namespace)
	}
	return namespaces
}

func (b *Bundles) done(namespace, hash string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.wanted, namespace)
	b.known[namespace] = hash
}

func (b *Bundles) forget(namespace string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.wanted, namespace)
	delete(b.known, namespace)
}

// write makes the ConfigMap, or brings it up to date. One that others have made under the name is theirs.
func (b *Bundles) write(ctx context.Context, namespace string, text []byte, hash string) error {
	configMaps := b.c.ConfigMaps.ConfigMaps(namespace)
	want := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: b.c.ConfigMap.Name,
			Labels: map[string]string{managedLabel: managedBy}, Annotations: map[string]string{hashAnnotation: hash},
		},
		Data: map[string]string{b.c.ConfigMap.Key: string(text)},
	}
	have, err := configMaps.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if _, err = configMaps.Create(ctx, want, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) { // by another replica
			return fmt.Errorf("create ConfigMap: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("get ConfigMap: %w", err)
	}
	if have.Labels[managedLabel] != managedBy {
		return fmt.Errorf("ConfigMap %s is there already, and not the webhook's: it has no label %s=%s", want.Name, managedLabel, managedBy)
	}
	if have.Annotations[hashAnnotation] == hash && have.Data[b.c.ConfigMap.Key] == string(text) {
		return nil
	}
	want.ResourceVersion = have.ResourceVersion
	if _, err := configMaps.Update(ctx, want, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update ConfigMap: %w", err)
	}
	return nil
}

// DeleteBundles deletes the ConfigMaps of a name that Bundles keep, in all namespaces. Others' of the name stay. It may list and delete
// those of the name.
func DeleteBundles(ctx context.Context, configMaps corev1client.ConfigMapsGetter, name string, log *slog.Logger) error {
	list, err := configMaps.ConfigMaps(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: "metadata.name=" + name, LabelSelector: managedLabel + "=" + managedBy,
	})
	if err != nil {
		return fmt.Errorf("list ConfigMaps: %w", err)
	}
	var failed error
	for _, m := range list.Items {
		err := configMaps.ConfigMaps(m.Namespace).Delete(ctx, m.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			failed = errors.Join(failed, fmt.Errorf("delete ConfigMap %s/%s: %w", m.Namespace, m.Name, err))
			continue
		}
		log.Info("ConfigMap deleted", "namespace", m.Namespace, "name", m.Name)
	}
	return failed
}
