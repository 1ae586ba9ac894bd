package oidc

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// signer is a signing key as it is used.
type signer struct {
	key    *rsa.PrivateKey
	header string // of tokens, encoded
}

// Sign returns a token with the claims, which must have exp, an int64 or int of seconds since 1970, at most MaxTokenLife
// from now, signed by the issuer's current key. iss is set to the issuer's URL and may be left out. Errors wrap
// ErrNotFound or kv.ErrUnavailable, or say what is wrong with the claims.
func (p *Publisher) Sign(ctx context.Context, id string, claims map[string]any) (string, error) {
	row, err := p.find(ctx, id)
	if err != nil {
		return "", err
	}
	now := p.now()
	body, err := p.encodeClaims(id, claims, now)
	if err != nil {
		return "", fmt.Errorf("sign token of issuer %s: %w", id, err)
	}
	s, err := p.signer(id, p.schedule.signing(row, now))
	if err != nil {
		return "", fmt.Errorf("sign token of issuer %s: %w", id, err)
	}
	text := s.header + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, s.key, crypto.SHA256, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign token of issuer %s: %w", id, err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

func (p *Publisher) encodeClaims(id string, claims map[string]any, now time.Time) ([]byte, error) {
	all := make(map[string]any, len(claims)+1)
	for name, value := range claims {
		all[name] = value
	}
	if iss, ok := all["iss"]; ok && iss != p.URL(id) {
		return nil, fmt.Errorf("iss is %v, not %s", iss, p.URL(id))
	}
	all["iss"] = p.URL(id)
	var expires int64
	switch exp := all["exp"].(type) {
	case int64:
		expires = exp
	case int:
		expires = int64(exp)
	default:
		return nil, errors.New("exp is not an integer")
	}
	if latest := now.Add(p.maxTokenLife); expires > latest.Unix() {
		return nil, fmt.Errorf("exp is more than %s from now", p.maxTokenLife)
	}
	return json.Marshal(all)
}

// signer returns the unwrapped key. Key IDs are digests of the keys, so one that is known never changes its meaning.
func (p *Publisher) signer(issuerID string, key *signingKey) (*signer, error) {
	p.mu.Lock()
	s, ok := p.signers[key.ID]
	p.mu.Unlock()
	if ok {
		return s, nil
	}
	der, err := p.keyring.Unwrap(wrapPurpose(issuerID, key.ID), key.Private)
	if err != nil {
		return nil, fmt.Errorf("unwrap key %s: %w", key.ID, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", key.ID, err)
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read key %s: it is a %T", key.ID, parsed)
	}
	header, err := json.Marshal(map[string]string{"alg": "RS256", "kid": key.ID})
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	s = &signer{key: private, header: base64.RawURLEncoding.EncodeToString(header)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signers[key.ID] = s
	return s, nil
}

// forget drops from memory what belongs to issuers and keys that are not live any more.
func (p *Publisher) forget(live map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for keyID := range p.signers {
		if !live[keyID] {
			delete(p.signers, keyID)
		}
	}
	for id := range p.served {
		if !live[id] {
			delete(p.served, id)
		}
	}
}
