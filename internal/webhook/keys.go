package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

// KeysConfig is what Keys needs.
type KeysConfig struct {
	// Read returns the issuer of the API server's tokens, and the public keys that it publishes, as a JWK set. Required.
	Read func(context.Context) (issuer string, jwks []byte, err error)
	// Registered returns the issuer that the cluster is registered with. Required.
	Registered func(context.Context) (issuer string, err error)
	// Push has these keys registered instead of others, and returns the IDs of those that were before. Required.
	Push func(ctx context.Context, jwks []byte) (previous []string, err error)
	// Secrets may get, create and update the secret that remembers what was pushed. Required, as are its namespace and name.
	Secrets           corev1client.SecretsGetter
	Namespace, Secret string
	// Every is the time from one Read to the next, and Retention how long keys stay registered that are not published any more:
	// as long as their tokens may live. Required.
	Every, Retention time.Duration
	// Event tells whoever runs the cluster that something is wrong. Required; it must not block.
	Event   func(reason, message string)
	Metrics *Metrics // required
	Log     *slog.Logger
}

// keysTimeout bounds what is done at a time: two requests to the API server, and a few more where its keys have changed.
const keysTimeout = 30 * time.Second

// The pauses between tries after one has failed.
const (
	firstKeysPause = time.Second
	lastKeysPause  = 30 * time.Second
)

// Keys has the public keys of an API server registered as the API server rotates them. Keys are added as soon as they are published,
// and taken away late: API servers of one cluster need not be of one mind while it is changed what they publish, and tokens of a key
// live on when it is gone. One replica does it at a time.
type Keys struct {
	c      KeysConfig
	wake   chan struct{} // has room for one
	issuer string        // that the cluster is registered with; empty while it is not known
	last   *keyRecord    // what was pushed; nil while it is not known
	warned string        // what was last said of the issuer
}

// NewKeys returns Keys that have done nothing yet; Run does it.
func NewKeys(c KeysConfig) *Keys { return &Keys{c: c, wake: make(chan struct{}, 1)} }

// Look has Run look at once: an API server that was restarted may have other keys.
func (k *Keys) Look() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run pushes the keys until ctx ends: at first in any case, and then when they change.
func (k *Keys) Run(ctx context.Context) {
	k.issuer, k.last = "", nil // another replica may have led meanwhile
	pause := firstKeysPause
	for {
		wait := k.c.Every
		err := k.step(ctx, time.Now())
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			k.c.Log.Warn("keys not pushed", "err", err)
			wait = min(pause, k.c.Every)
			pause = min(2*pause, lastKeysPause)
		default:
			pause = firstKeysPause
		}
		k.c.Metrics.looked(err)
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-time.After(wait):
		}
	}
}

// step looks at the API server's keys, and pushes them if they are not as they were.
func (k *Keys) step(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	issuer, document, err := k.c.Read(ctx)
	if err != nil {
		return err
	}
	if err := k.checkIssuer(ctx, issuer); err != nil {
		return err
	}
	published, err := parsePublished(document)
	if err != nil {
		return fmt.Errorf("read the API server's keys: %w", err)
	}
	if k.last != nil && !k.last.merge(published, now, k.c.Retention).differs(*k.last) {
		return nil
	}
	secret, have, err := k.load(ctx)
	if err != nil {
		return err
	}
	next := have.merge(published, now, k.c.Retention)
	if err := k.save(ctx, secret, next); err != nil { // before the push: what is registered is never forgotten
		return err
	}
	if next, err = k.push(ctx, next); err != nil {
		return err
	}
	if err := k.save(ctx, secret, next); err != nil {
		return err
	}
	k.last = &next
	k.c.Metrics.keys.WithLabelValues("published").Set(float64(len(next.Keys.Keys) - len(next.Retired)))
	k.c.Metrics.keys.WithLabelValues("retained").Set(float64(len(next.Retired)))
	k.c.Log.Info("keys pushed", "published", len(next.Keys.Keys)-len(next.Retired), "retained", slices.Sorted(maps.Keys(next.Retired)))
	return nil
}

// checkIssuer refuses the keys of another issuer than the cluster is registered with: its tokens would not be those of the cluster
// for anybody. A registration that has been changed meanwhile is seen.
func (k *Keys) checkIssuer(ctx context.Context, issuer string) error {
	if issuer != k.issuer {
		registered, err := k.c.Registered(ctx)
		if err != nil {
			return fmt.Errorf("look up the issuer that the cluster is registered with: %w", err)
		}
		k.issuer = registered
	}
	if issuer == k.issuer {
		k.c.Metrics.mismatch.Set(0)
		k.warned = ""
		return nil
	}
	k.c.Metrics.mismatch.Set(1)
	err := fmt.Errorf("the API server's issuer is %s, but the cluster is registered with %s: its keys are not pushed, and its tokens are refused",
		issuer, k.issuer)
	if text := err.Error(); text != k.warned {
		k.c.Log.Error("the API server has another issuer", "err", err)
		k.c.Event("IssuerMismatch", text)
		k.warned = text
	}
	return err
}

// push has the keys registered. A key that is only retained, and that somebody has taken away since it was pushed, does not stay: it
// is not trusted, for whatever reason.
func (k *Keys) push(ctx context.Context, r keyRecord) (keyRecord, error) {
	previous, err := k.pushOnce(ctx, r)
	if err != nil {
		return r, err
	}
	pruned := r.pruned(previous)
	r.Pushed = r.ids()
	if len(pruned) == 0 {
		return r, nil
	}
	k.c.Log.Info("keys were taken away by others", "keys", pruned)
	r = r.without(pruned)
	_, err = k.pushOnce(ctx, r)
	return r, err
}

func (k *Keys) pushOnce(ctx context.Context, r keyRecord) (previous []string, err error) {
	document, err := json.Marshal(r.Keys)
	if err == nil {
		previous, err = k.c.Push(ctx, document)
	}
	k.c.Metrics.pushed(err)
	if err != nil {
		return nil, fmt.Errorf("push the API server's keys: %w", err)
	}
	return previous, nil
}

// recordKey is the key of the secret that has the record.
const recordKey = "keys.json"

// load reads the secret; one that is not there, or empty, has nothing.
func (k *Keys) load(ctx context.Context) (*corev1.Secret, keyRecord, error) {
	secret, err := k.c.Secrets.Secrets(k.c.Namespace).Get(ctx, k.c.Secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: k.c.Namespace, Name: k.c.Secret}}, keyRecord{}, nil
	}
	if err != nil {
		return nil, keyRecord{}, fmt.Errorf("get secret %s: %w", k.c.Secret, err)
	}
	var r keyRecord
	if text := secret.Data[recordKey]; len(text) > 0 {
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, keyRecord{}, fmt.Errorf("read secret %s: %w", k.c.Secret, err)
		}
	}
	return secret, r, nil
}

// save writes the record if it is another than the secret has. The secret then is what the API server answers, so that it can be
// written again.
func (k *Keys) save(ctx context.Context, secret *corev1.Secret, r keyRecord) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write secret %s: %w", k.c.Secret, err)
	}
	if string(secret.Data[recordKey]) == string(text) {
		return nil
	}
	changed := secret.DeepCopy()
	changed.Data = map[string][]byte{recordKey: text}
	secrets := k.c.Secrets.Secrets(k.c.Namespace)
	var written *corev1.Secret
	if secret.ResourceVersion == "" {
		written, err = secrets.Create(ctx, changed, metav1.CreateOptions{})
	} else {
		written, err = secrets.Update(ctx, changed, metav1.UpdateOptions{}) // refused if another replica has written it
	}
	if err != nil {
		return fmt.Errorf("write secret %s: %w", k.c.Secret, err)
	}
	*secret = *written
	return nil
}

// keyRecord is which keys are to be registered, and why those that are not published.
type keyRecord struct {
	Keys    jose.JSONWebKeySet   `json:"keys"`              // by their IDs
	Retired map[string]time.Time `json:"retired,omitempty"` // when those were missed first that are not published
	Pushed  []string             `json:"pushed,omitempty"`  // IDs of the keys that have been registered
}

// parsePublished reads the keys that an API server publishes. All have an ID, by which their tokens find them.
func parsePublished(document []byte) ([]jose.JSONWebKey, error) {
	set, err := idtoken.ParseJWKS(document)
	if err != nil {
		return nil, err
	}
	if len(set.Keys) == 0 {
		return nil, errors.New("there is none that tokens could be verified with")
	}
	for _, key := range set.Keys {
		if key.KeyID == "" {
			return nil, errors.New("there is one without an ID")
		}
	}
	return set.Keys, nil
}

// merge returns the record with the keys that are published at a time, without those that have been missing for longer than they are
// to be retained.
func (r keyRecord) merge(published []jose.JSONWebKey, now time.Time, retention time.Duration) keyRecord {
	next := keyRecord{Pushed: r.Pushed}
	keys := map[string]jose.JSONWebKey{}
	for _, key := range r.Keys.Keys {
		keys[key.KeyID] = key
	}
	retired := map[string]time.Time{}
	for id := range keys {
		since, ok := r.Retired[id]
		if !ok {
			since = now.UTC().Truncate(time.Second)
		}
		if now.Sub(since) < retention {
			retired[id] = since
		} else {
			delete(keys, id)
		}
	}
	for _, key := range published {
		keys[key.KeyID] = key
		delete(retired, key.KeyID)
	}
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		next.Keys.Keys = append(next.Keys.Keys, keys[id])
	}
	if len(retired) > 0 {
		next.Retired = retired
	}
	return next
}

// differs reports whether other keys are to be registered than by another record, or keys to be remembered as retired.
func (r keyRecord) differs(from keyRecord) bool {
	if len(r.Retired) != len(from.Retired) || len(r.Keys.Keys) != len(from.Keys.Keys) {
		return true
	}
	for i, key := range r.Keys.Keys {
		a, errA := key.MarshalJSON()
		b, errB := from.Keys.Keys[i].MarshalJSON()
		if errA != nil || errB != nil || string(a) != string(b) {
			return true
		}
	}
	for id := range r.Retired {
		if _, ok := from.Retired[id]; !ok {
			return true
		}
	}
	return false
}

func (r keyRecord) ids() (ids []string) {
	for _, key := range r.Keys.Keys {
		ids = append(ids, key.KeyID)
	}
	return ids
}

// pruned returns the IDs of the retired keys that have been registered, and were not among those that were before.
func (r keyRecord) pruned(previous []string) (ids []string) {
	for id := range r.Retired {
		if slices.Contains(r.Pushed, id) && !slices.Contains(previous, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// without returns the record without the keys of these IDs.
func (r keyRecord) without(ids []string) keyRecord {
	next := keyRecord{Retired: maps.Clone(r.Retired)}
	for _, key := range r.Keys.Keys {
		if !slices.Contains(ids, key.KeyID) {
			next.Keys.Keys = append(next.Keys.Keys, key)
		}
	}
	for _, id := range ids {
		delete(next.Retired, id)
	}
	next.Pushed = next.ids()
	return next
}
