package oidc

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/lanyard-id/lanyard/internal/kv"
)

const (
	keyBits = 2048 // as EKS's keys
	// minRotation makes the lead of a new key a minute: no cache of key sets keeps them for less.
	minRotation = 7 * time.Minute
	// skew is how far apart the clocks of replicas, and of those who verify tokens, are assumed to be at most.
	skew = 5 * time.Minute
)

// issuer is a row: all that is known of an issuer.
type issuer struct {
	Account string
	Created time.Time
	Keys    []signingKey // at least one, by the time of activation
}

// signingKey is an RSA key of an issuer.
type signingKey struct {
	ID        string // as Kubernetes makes key IDs: the base64url SHA-256 of the public key's DER form
	Created   time.Time
	Activates time.Time // when it begins to sign, and the key before it ends
	Public    []byte    // PKIX, DER
	Private   []byte    `json:",omitempty"` // PKCS #8, DER, wrapped; gone once the key has been replaced
}

// schedule holds the times of rotation. Its methods are pure functions of a row and the time.
type schedule struct {
	every  time.Duration // how long a key signs
	lead   time.Duration // how long it is published before
	keep   time.Duration // and how long after
	maxAge time.Duration // how long others may cache the key set: never so long that they miss the lead
}

func newSchedule(rotateEvery, maxTokenLife time.Duration) schedule {
	lead := rotateEvery / 7
	return schedule{every: rotateEvery, lead: lead, keep: maxTokenLife + skew, maxAge: min(time.Hour, lead/2)}
}

// signing returns the key that signs now: the last one that is active. The first key signs from the beginning, also
// where the clock is behind that of the replica which made it.
func (schedule) signing(i *issuer, now time.Time) *signingKey {
	current := &i.Keys[0]
	for k := range i.Keys {
		if !i.Keys[k].Activates.After(now) {
			current = &i.Keys[k]
		}
	}
	return current
}

// published returns the keys that are in the key set now, and the time until which this holds if the row stays the same;
// it is zero if that is forever.
func (s schedule) published(i *issuer, now time.Time) (keys []signingKey, until time.Time) {
	for k, key := range i.Keys {
		if end, ends := s.withdrawal(i, k); ends {
			if !now.Before(end) {
				continue
			}
			if until.IsZero() || end.Before(until) {
				until = end
			}
		}
		keys = append(keys, key)
	}
	return keys, until
}

// withdrawal returns the time at which the k-th key leaves the key set, if a successor has been made.
func (s schedule) withdrawal(i *issuer, k int) (time.Time, bool) {
	if k == len(i.Keys)-1 {
		return time.Time{}, false
	}
	return i.Keys[k+1].Activates.Add(s.keep), true
}

// needsKey reports whether the next key is to be made now: the newest key signs, and will have to be replaced when a key
// made now can take over.
func (s schedule) needsKey(i *issuer, now time.Time) bool {
	newest := i.Keys[len(i.Keys)-1]
	return !now.Before(newest.Activates) && !now.Before(newest.Activates.Add(s.every-s.lead))
}

// advance returns the row as it should be now, and whether that differs from how it is. next is used if a key is needed;
// it may be nil. Keys that were replaced lose their private part, and the row once no token of theirs can be alive.
func (s schedule) advance(i *issuer, now time.Time, next *signingKey) (*issuer, bool) {
	out, changed := &issuer{Account: i.Account, Created: i.Created}, false
	for k, key := range i.Keys {
		if end, ends := s.withdrawal(i, k); ends && !now.Before(end) {
			changed = true
			continue
		}
		if k < len(i.Keys)-1 && key.Private != nil && !now.Before(i.Keys[k+1].Activates.Add(skew)) {
			key.Private, changed = nil, true
		}
		out.Keys = append(out.Keys, key)
	}
	if next != nil && s.needsKey(i, now) {
		key := *next
		key.Activates = now.Add(s.lead)
		out.Keys, changed = append(out.Keys, key), true
	}
	return out, changed
}

// newKey makes a key for an issuer.
func (p *Publisher) newKey(issuerID string, now time.Time) (*signingKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	sum := sha256.Sum256(public)
	id := base64.RawURLEncoding.EncodeToString(sum[:])
	wrapped, err := p.keyring.Wrap(wrapPurpose(issuerID, id), private)
	if err != nil {
		return nil, fmt.Errorf("wrap private key: %w", err)
	}
	return &signingKey{ID: id, Created: now, Activates: now, Public: public, Private: wrapped}, nil
}

func wrapPurpose(issuerID, keyID string) string { return "oidc/" + issuerID + "/" + keyID }

// Start rotates keys in the background until ctx ends; it returns at once. The DB must have started.
func (p *Publisher) Start(ctx context.Context) {
	// The steps of the rotation are lead apart, so looking eight times as often is soon enough. Replicas look at different
	// times, so that they seldom make a key twice, of which only one is kept.
	pause := min(p.schedule.lead/8, 10*time.Minute)
	go func() {
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
				p.rotateAll(ctx)
				timer.Reset(pause/2 + mathrand.N(pause))
			}
		}
	}()
}

func (p *Publisher) rotateAll(ctx context.Context) {
	live := map[string]bool{}
	for id, row := range p.issuers.Scan("", "") {
		live[id] = true
		for _, key := range row.Keys {
			live[key.ID] = key.Private != nil
		}
		if _, changed := p.schedule.advance(row, p.now(), nil); !changed && !p.schedule.needsKey(row, p.now()) {
			continue
		}
		if err := p.rotate(ctx, id); err != nil {
			if ctx.Err() != nil {
				return
			}
			p.log.Error("rotation of signing keys will be tried again", "issuer", id, "err", err)
		}
	}
	p.forget(live)
}

// rotate brings an issuer's row up to date. The new key, which takes a moment, is made before the transaction, and is
// dropped if another replica was faster.
func (p *Publisher) rotate(ctx context.Context, id string) error {
	row, ok := p.issuers.Get(id)
	if !ok {
		return nil // deleted meanwhile
	}
	var next *signingKey
	if p.schedule.needsKey(row, p.now()) {
		var err error
		if next, err = p.newKey(id, p.now()); err != nil {
			return err
		}
	}
	added := false
	err := p.db.Update(ctx, func(tx *kv.Tx) error {
		row, ok := p.issuers.Read(tx, id)
		if !ok {
			return nil
		}
		updated, changed := p.schedule.advance(row, p.now(), next)
		if changed {
			p.issuers.Write(tx, id, updated)
		}
		added = changed && next != nil && updated.Keys[len(updated.Keys)-1].ID == next.ID
		return nil
	})
	if err != nil {
		return fmt.Errorf("store issuer: %w", err)
	}
	if added {
		p.log.Info("published the next signing key", "issuer", id, "key", next.ID)
	}
	return nil
}
