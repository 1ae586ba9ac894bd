package iam

import (
	"context"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

// splitIssuer takes an issuer's URL apart: its name, which is host and path as they were given, and its port unless that
// is 443. A trailing slash belongs to the name.
func splitIssuer(text string) (name, port string, err error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme == "" || u.Host == "":
		return "", "", awsapi.Errorf("ValidationError", "Invalid Open ID Connect Provider URL")
	case u.Scheme != "https":
		return "", "", awsapi.Errorf("InvalidInput", "Invalid Open ID Connect Provider URL. The URL must begin with https://.")
	case u.User != nil || u.Hostname() == "" || strings.Contains(u.Host, "[") || strings.ContainsFunc(text, notInIssuer):
		return "", "", awsapi.Errorf("InvalidInput", "Invalid Open ID Connect Provider URL")
	}
	_, rest, _ := strings.Cut(text, "://")
	port = u.Port()
	if port == "443" {
		port = ""
	}
	return u.Hostname() + rest[len(u.Host):], port, nil
}

// notInIssuer reports whether an issuer's URL may not have the character.
func notInIssuer(r rune) bool { return r <= ' ' || r > '~' || r == '?' || r == '#' }

// issuerKey is the key of a provider by its name: a host's case does not matter, a path's does.
func issuerKey(account, name string) string {
	host, path, slash := strings.Cut(name, "/")
	key := account + "/" + strings.ToLower(host)
	if slash {
		key += "/" + path
	}
	return key
}

func (s *Service) providerARN(p *provider) arn.ARN {
	return arn.New(s.partition, "iam", "", p.Account, "oidc-provider/"+p.URL)
}

// providerKey reads a provider's ARN. An ARN that cannot be one of the account's providers has a key that no provider has.
func (s *Service) providerKey(account, text string) (string, error) {
	a, err := arn.Parse(text)
	if err != nil {
		return "", awsapi.Errorf("ValidationError", "Invalid ARN:  Could not be parsed!")
	}
	name, ok := strings.CutPrefix(a.Resource(), "oidc-provider/")
	if !ok || a != arn.New(s.partition, "iam", "", account, a.Resource()) {
		return "", nil
	}
	return issuerKey(account, name), nil
}

func noSuchProvider(providerARN string) error {
	return awsapi.Errorf("NoSuchEntity", "OpenIDConnect Provider not found for arn %s", providerARN)
}

func (s *Service) findProvider(account, providerARN string) (*providerRow, error) {
	key, err := s.providerKey(account, providerARN)
	if err != nil {
		return nil, err
	}
	if p, ok := s.providers.Get(key); ok {
		return p, nil
	}
	return nil, noSuchProvider(providerARN)
}

func (s *Service) changeProvider(ctx context.Context, account, providerARN string, do func(*kv.Tx, *providerRow) error) error {
	key, err := s.providerKey(account, providerARN)
	if err != nil {
		return err
	}
	if key == "" {
		return noSuchProvider(providerARN)
	}
	return change(ctx, s.db, s.providers, key, noSuchProvider(providerARN), do)
}

// Provider finds the account's provider for a token's issuer URL. The port is not part of a provider's name: tokens of
// an external issuer must come from the registered port, which the caller checks against FetchURL.
func (s *Service) Provider(account, issuerURL string) (*Provider, bool) {
	name, _, err := splitIssuer(issuerURL)
	if err != nil {
		return nil, false
	}
	r, ok := s.providers.Get(issuerKey(account, name))
	if !ok {
		return nil, false
	}
	return r.derived.get(func() *Provider {
		host, path, slash := strings.Cut(r.URL, "/")
		if r.Port != "" {
			host += ":" + r.Port
		}
		if slash {
			path = "/" + path
		}
		return &Provider{
			Account: r.Account, ARN: s.providerARN(&r.provider), URL: r.URL, FetchURL: "https://" + host + path,
			ClientIDs: r.ClientIDs, Thumbprints: r.Thumbprints,
		}
	}), true
}

type createProviderIn struct {
	URL            string
	ClientIDList   []string
	ThumbprintList []string
	Tags           []awsapi.Tag
}

func (in *createProviderIn) target(s *Service, c *awsapi.Caller) (target, error) {
	name, _, err := splitIssuer(in.URL)
	if err != nil {
		return target{}, err
	}
	return target{arn: s.iamARN(c.Account, "oidc-provider/"+name)}, nil
}

func (in *createProviderIn) conditions(p *policy.Context, _ target) { requestTags(p, in.Tags) }

type createProviderOut struct {
	OpenIDConnectProviderArn string
	Tags                     []awsapi.Tag
}

func (s *Service) createProvider(ctx context.Context, c *awsapi.Caller, in *createProviderIn) (*createProviderOut, error) {
	name, port, err := splitIssuer(in.URL)
	if err != nil {
		return nil, err
	}
	thumbprints, err := checkThumbprints(in.ThumbprintList)
	if err != nil {
		return nil, err
	}
	tags, err := tagsOfNew(c, in.Tags, "OpenIDConnectProvider")
	if err != nil {
		return nil, err
	}
	clientIDs := []string{}
	for _, id := range in.ClientIDList {
		if !slices.Contains(clientIDs, id) {
			clientIDs = append(clientIDs, id)
		}
	}
	if len(clientIDs) > maxClientIDs {
		return nil, overQuota("ClientIdsPerOpenIdConnectProvider", maxClientIDs)
	}
	made := &providerRow{provider: provider{
		Account: c.Account, URL: name, Port: port, ClientIDs: clientIDs, Thumbprints: thumbprints, Created: s.time(), Tags: tags,
	}}
	key := issuerKey(c.Account, name)
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		return add(s, tx, s.providers, key, made, providersQuota,
			awsapi.Errorf("EntityAlreadyExists", "Provider with url %s already exists.", in.URL))
	})
	if err != nil {
		return nil, err
	}
	return &createProviderOut{s.providerARN(&made.provider).String(), tags}, nil
}

// checkThumbprints returns thumbprints in lower case.
func checkThumbprints(list []string) ([]string, error) {
	if len(list) > maxThumbprints {
		return nil, awsapi.Errorf("InvalidInput", "Thumbprint list must contain fewer than %d entries.", maxThumbprints)
	}
	lower := make([]string, len(list))
	for i, t := range list {
		if _, err := hex.DecodeString(t); err != nil {
			return nil, awsapi.Errorf("InvalidInput", "Thumbprint %s is not a hexadecimal SHA-1 hash.", t)
		}
		lower[i] = strings.ToLower(t)
	}
	return lower, nil
}

// oidcARN names an OIDC provider.
type oidcARN struct{ OpenIDConnectProviderArn string }

func (a oidcARN) noun() string { return "OpenIDConnectProvider" }

func (a oidcARN) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.providerTarget(c, a.OpenIDConnectProviderArn)
}

func (a oidcARN) tags(s *Service, c *awsapi.Caller) ([]awsapi.Tag, error) {
	p, err := s.findProvider(c.Account, a.OpenIDConnectProviderArn)
	if err != nil {
		return nil, err
	}
	return p.Tags, nil
}

func (a oidcARN) retag(ctx context.Context, s *Service, c *awsapi.Caller, edit func([]awsapi.Tag) ([]awsapi.Tag, error)) error {
	return s.changeProvider(ctx, c.Account, a.OpenIDConnectProviderArn, func(_ *kv.Tx, p *providerRow) (err error) {
		p.Tags, err = edit(p.Tags)
		return err
	})
}

type getProviderOut struct {
	URL            string
	ClientIDList   []string
	ThumbprintList []string
	CreateDate     time.Time
	Tags           []awsapi.Tag
}

func (s *Service) getProvider(_ context.Context, c *awsapi.Caller, in *oidcARN) (*getProviderOut, error) {
	p, err := s.findProvider(c.Account, in.OpenIDConnectProviderArn)
	if err != nil {
		return nil, err
	}
	return &getProviderOut{p.URL, p.ClientIDs, p.Thumbprints, p.Created, p.Tags}, nil
}

type listProvidersIn struct{}

func (in *listProvidersIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.listTarget(c, "oidc-provider", "")
}

type providerEntry struct{ Arn string }

type listProvidersOut struct{ OpenIDConnectProviderList []providerEntry }

func (s *Service) listProviders(_ context.Context, c *awsapi.Caller, _ *listProvidersIn) (*listProvidersOut, error) {
	out := &listProvidersOut{OpenIDConnectProviderList: []providerEntry{}}
	for _, p := range s.providers.Scan(c.Account+"/", "") {
		out.OpenIDConnectProviderList = append(out.OpenIDConnectProviderList, providerEntry{s.providerARN(&p.provider).String()})
	}
	return out, nil
}

// deleteProvider succeeds for a provider that does not exist, as IAM's API reference promises.
func (s *Service) deleteProvider(ctx context.Context, c *awsapi.Caller, in *oidcARN) error {
	key, err := s.providerKey(c.Account, in.OpenIDConnectProviderArn)
	if err != nil || key == "" {
		return err
	}
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		if _, ok := s.providers.Read(tx, key); ok {
			s.providers.Remove(tx, key)
			s.release(tx, c.Account, providersQuota)
		}
		return nil
	})
}

// clientIDIn names a provider and one of its client IDs.
type clientIDIn struct {
	oidcARN
	ClientID string
}

func (s *Service) addClientID(ctx context.Context, c *awsapi.Caller, in *clientIDIn) error {
	return s.changeProvider(ctx, c.Account, in.OpenIDConnectProviderArn, func(_ *kv.Tx, p *providerRow) error {
		if slices.Contains(p.ClientIDs, in.ClientID) {
			return nil
		}
		if len(p.ClientIDs) >= maxClientIDs {
			return overQuota("ClientIdsPerOpenIdConnectProvider", maxClientIDs)
		}
		p.ClientIDs = append(p.ClientIDs, in.ClientID)
		return nil
	})
}

func (s *Service) removeClientID(ctx context.Context, c *awsapi.Caller, in *clientIDIn) error {
	return s.changeProvider(ctx, c.Account, in.OpenIDConnectProviderArn, func(_ *kv.Tx, p *providerRow) error {
		p.ClientIDs = slices.DeleteFunc(p.ClientIDs, func(id string) bool { return id == in.ClientID })
		return nil
	})
}

type updateThumbprintIn struct {
	oidcARN
	ThumbprintList []string
}

func (s *Service) updateThumbprint(ctx context.Context, c *awsapi.Caller, in *updateThumbprintIn) error {
	if len(in.ThumbprintList) == 0 {
		return awsapi.Errorf("InvalidInput", "Thumbprint list must contain at least one entry.")
	}
	thumbprints, err := checkThumbprints(in.ThumbprintList)
	if err != nil {
		return err
	}
	return s.changeProvider(ctx, c.Account, in.OpenIDConnectProviderArn, func(_ *kv.Tx, p *providerRow) error {
		p.Thumbprints = thumbprints
		return nil
	})
}

// The requests about a provider's tags.
type (
	tagProviderIn struct {
		oidcARN
		newTags
	}
	untagProviderIn struct {
		oidcARN
		oldTags
	}
	listOfProviderIn struct {
		oidcARN
		page
	}
)
