// Package oidc publishes OpenID Connect issuers: their signing keys and rotation, discovery documents and key sets.
//
// An issuer is one row, which holds its keys with the moment from which each of them signs. Everything else follows
// from the row and the time alone (see [issuer]), so that replicas agree without talking: a key is published long
// before it signs, signs until the next one does, and stays published until the last token it signed has expired.
package oidc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// ErrNotFound is returned for an issuer that does not exist.
var ErrNotFound = errors.New("oidc: no such issuer")

// Config is what a Publisher needs.
type Config struct {
	DB      *kv.DB           // required, not yet started
	Keyring *keyring.Keyring // required; wraps the private keys
	// BaseURL is the https URL under which the issuers are served, without a path: issuer ID X is BaseURL/id/X.
	BaseURL string
	// RotateEvery is the age at which an issuer's key is replaced; 7 days when zero. The next key is published
	// RotateEvery/7 before its use.
	// At least 7 minutes.
	RotateEvery time.Duration
	// MaxTokenLife bounds the tokens that Sign makes, and how long a replaced key stays published; 24 h when zero.
	MaxTokenLife time.Duration
	Now          func() time.Time // time.Now when nil
	Log          *slog.Logger     // required
}

// Publisher keeps the issuers that Lanyard hosts. It is safe for concurrent use.
type Publisher struct {
	db           *kv.DB
	issuers      *kv.Table[issuer] // by ID
	keyring      *keyring.Keyring
	baseURL      string
	hostname     string // of baseURL
	schedule     schedule
	maxTokenLife time.Duration
	now          func() time.Time
	log          *slog.Logger

	mu      sync.Mutex
	signers map[string]*signer // unwrapped keys by key ID
	served  map[string]*served // encoded documents by issuer ID
}

// Validate reports what is wrong with the settings that come from outside: BaseURL and RotateEvery.
func (c Config) Validate() error {
	base, err := url.Parse(c.BaseURL)
	if err != nil {
		return fmt.Errorf("oidc: base URL: %w", err)
	}
	if base.Scheme != "https" || base.Host == "" || base.String() != "https://"+base.Host {
		return fmt.Errorf("oidc: base URL %q is not an https URL without a path", c.BaseURL)
	}
	if c.RotateEvery != 0 && c.RotateEvery < minRotation {
		return fmt.Errorf("oidc: rotation every %s is too often for key sets to be cached; at least %s", c.RotateEvery, minRotation)
	}
	return nil
}

// New makes the publisher and its table, "issuers". It panics if the configuration is not valid.
func New(c Config) *Publisher {
	if err := c.Validate(); err != nil {
		panic(err)
	}
	if c.RotateEvery == 0 {
		c.RotateEvery = 7 * 24 * time.Hour
	}
	if c.MaxTokenLife == 0 {
		c.MaxTokenLife = 24 * time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	base, _ := url.Parse(c.BaseURL) // valid, as above
	return &Publisher{
		db:           c.DB,
		issuers:      kv.NewTable[issuer](c.DB, "issuers"),
		keyring:      c.Keyring,
		baseURL:      c.BaseURL,
		hostname:     base.Hostname(),
		schedule:     newSchedule(c.RotateEvery, c.MaxTokenLife),
		maxTokenLife: c.MaxTokenLife,
		now:          c.Now,
		log:          c.Log,
		signers:      map[string]*signer{},
		served:       map[string]*served{},
	}
}

// Issuer is a new issuer with its first key, not yet stored.
type Issuer struct {
	ID  string // 32 upper-case hex digits
	URL string

	row *issuer
}

// NewIssuer makes an issuer and its first key (which takes a moment). It exists once Put has committed.
func (p *Publisher) NewIssuer(account string) (*Issuer, error) {
	var random [16]byte
	rand.Read(random[:])
	id := strings.ToUpper(hex.EncodeToString(random[:]))
	now := p.now()
	key, err := p.newKey(id, now)
	if err != nil {
		return nil, fmt.Errorf("make issuer: %w", err)
	}
	return &Issuer{ID: id, URL: p.URL(id), row: &issuer{Account: account, Created: now, Keys: []signingKey{*key}}}, nil
}

// Put stores a new issuer as part of tx.
func (p *Publisher) Put(tx *kv.Tx, i *Issuer) { p.issuers.Write(tx, i.ID, i.row) }

// Remove deletes an issuer as part of tx; its tokens verify no more.
func (p *Publisher) Remove(tx *kv.Tx, id string) { p.issuers.Remove(tx, id) }

// ByURL finds the hosted issuer that a URL names, whatever port and host the URL has been reached or registered by:
// the ID in its path is what counts, and the host must be BaseURL's. account is the one that owns it.
func (p *Publisher) ByURL(rawURL string) (id, account string, ok bool) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "https" || !strings.EqualFold(u.Hostname(), p.hostname) ||
		u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", "", false
	}
	id, found := strings.CutPrefix(u.EscapedPath(), "/id/")
	if !found {
		return "", "", false
	}
	row, found := p.issuers.Get(id)
	if !found {
		return "", "", false
	}
	return id, row.Account, true
}

// URL returns an issuer's URL, exactly as its tokens and its discovery document have it.
func (p *Publisher) URL(id string) string { return p.baseURL + "/id/" + id }

// Keys returns the published keys of an issuer. The set must not be modified.
func (p *Publisher) Keys(id string) (jose.JSONWebKeySet, bool) {
	row, ok := p.issuers.Get(id)
	if !ok {
		return jose.JSONWebKeySet{}, false
	}
	s, err := p.documents(id, row)
	if err != nil {
		p.log.Error("stored signing keys cannot be read", "issuer", id, "err", err)
		return jose.JSONWebKeySet{}, false
	}
	return s.set, true
}

// find returns an issuer's row. One that memory does not have may have been made on another replica a moment ago.
func (p *Publisher) find(ctx context.Context, id string) (*issuer, error) {
	if row, ok := p.issuers.Get(id); ok {
		return row, nil
	}
	if err := p.db.Sync(ctx); err != nil {
		return nil, fmt.Errorf("find issuer %s: %w", id, err)
	}
	if row, ok := p.issuers.Get(id); ok {
		return row, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
}
