package oidc

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// served is what an issuer serves, encoded once. It holds for one row (rows are never modified) and until a time.
type served struct {
	row       *issuer
	until     time.Time // zero: forever
	set       jose.JSONWebKeySet
	keys      document
	discovery document
}

type document struct {
	body []byte
	etag string
}

// documents returns what is served for a row now.
func (p *Publisher) documents(id string, row *issuer) (*served, error) {
	now := p.now()
	p.mu.Lock()
	s := p.served[id]
	p.mu.Unlock()
	if s != nil && s.row == row && (s.until.IsZero() || now.Before(s.until)) {
		return s, nil
	}
	keys, until := p.schedule.published(row, now)
	s = &served{row: row, until: until}
	for _, key := range keys {
		public, err := x509.ParsePKIXPublicKey(key.Public)
		if err != nil {
			return nil, fmt.Errorf("read public key %s: %w", key.ID, err)
		}
		if _, ok := public.(*rsa.PublicKey); !ok {
			return nil, fmt.Errorf("read public key %s: it is a %T", key.ID, public)
		}
		s.set.Keys = append(s.set.Keys, jose.JSONWebKey{Key: public, KeyID: key.ID, Algorithm: string(jose.RS256), Use: "sig"})
	}
	var err error
	if s.keys, err = encode(s.set); err != nil {
		return nil, fmt.Errorf("encode key set: %w", err)
	}
	if s.discovery, err = encode(NewMetadata(p.URL(id), p.URL(id)+"/keys", string(jose.RS256))); err != nil {
		return nil, fmt.Errorf("encode discovery document: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served[id] = s
	return s, nil
}

func encode(v any) (document, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return document{}, err
	}
	sum := sha256.Sum256(body)
	return document{body, `"` + hex.EncodeToString(sum[:16]) + `"`}, nil
}

// Metadata is an issuer's discovery document: OpenID provider metadata (OpenID Connect Discovery 1.0, section 3) with the members
// that AWS's STS insists on, and those that EKS's issuers have besides.
type Metadata struct {
	Issuer        string   `json:"issuer"`
	KeysURL       string   `json:"jwks_uri"`
	Authorization string   `json:"authorization_endpoint"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	Claims        []string `json:"claims_supported"`
}

// NewMetadata returns the metadata of an issuer of service account tokens, whose keys are at the URL and sign with the algorithms.
func NewMetadata(issuer, keysURL string, algorithms ...string) Metadata {
	return Metadata{
		Issuer:        issuer,
		KeysURL:       keysURL,
		Authorization: "urn:kubernetes:programmatic_authorization",
		ResponseTypes: []string{"id_token"},
		SubjectTypes:  []string{"public"},
		Claims:        []string{"sub", "iss"},
		Algorithms:    algorithms,
	}
}

// Handler serves GET and HEAD of /id/{id}/.well-known/openid-configuration and /id/{id}/keys.
func (p *Publisher) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /id/{id}/.well-known/openid-configuration", p.serve(func(s *served) document { return s.discovery }))
	mux.HandleFunc("GET /id/{id}/keys", p.serve(func(s *served) document { return s.keys }))
	return mux
}

func (p *Publisher) serve(pick func(*served) document) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		if !validID(id) {
			http.NotFound(w, r)
			return
		}
		row, err := p.find(r.Context(), id)
		if errors.Is(err, ErrNotFound) {
			http.NotFound(w, r)
			return
		}
		if err != nil {
			p.log.Warn("issuer cannot be looked up", "issuer", id, "err", err)
			http.Error(w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
			return
		}
		s, err := p.documents(id, row)
		if err != nil {
			p.log.Error("stored signing keys cannot be read", "issuer", id, "err", err)
			http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
			return
		}
		d := pick(s)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(p.schedule.maxAge.Seconds())))
		w.Header().Set("ETag", d.etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d.body))
	}
}

// validID reports whether s has the form of an issuer ID: strangers' requests for anything else need no look at the store.
func validID(s string) bool {
	if len(s) != 32 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
