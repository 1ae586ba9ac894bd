package iam

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

// SAML providers are kept for those who manage them. Nothing trusts them: AssumeRoleWithSAML is not served.

// samlProvider is keyed by its account and name.
type samlProvider struct {
	Account    string
	Name       string
	UUID       string
	Metadata   []byte // XML
	Created    time.Time
	ValidUntil time.Time
	Tags       []awsapi.Tag
}

func (p *samlProvider) key() string { return nameKey(p.Account, p.Name) }

//lint:ignore U1000 change calls it, by the constraint of its type parameter
func (p *samlProvider) clone() *samlProvider {
	n := *p
	n.Tags = slices.Clone(p.Tags)
	return &n
}

func (s *Service) samlProviderARN(account, name string) string {
	return s.iamARN(account, "saml-provider/"+name)
}

// The bounds of a metadata document.
const (
	maxMetadata      = 512 << 10 // bytes; AWS takes 10 MB
	maxMetadataDepth = 32        // elements within each other
	// metadataLifetime is how long a document is valid that does not say.
	metadataLifetime = 100 * 365 * 24 * time.Hour
)

// checkMetadata reads the metadata of a SAML identity provider (OASIS, "Metadata for SAML 2.0", sections 2.3 and 2.4): an
// EntityDescriptor, which has an ID, with an IDPSSODescriptor that has a signing certificate. It returns until when the
// document is valid; zero when it does not say.
func checkMetadata(document []byte) (validUntil time.Time, err error) {
	const ns = "urn:oasis:names:tc:SAML:2.0:metadata"
	const dsig = "http://www.w3.org/2000/09/xmldsig#"
	d := xml.NewDecoder(bytes.NewReader(document))
	var open []xml.Name
	idp, certificate := xml.Name{Space: ns, Local: "IDPSSODescriptor"}, xml.Name{Space: dsig, Local: "X509Certificate"}
	provider, certified, roots := false, false, 0
	var text []byte // of the innermost element, as far as it has been read
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("it is not well-formed XML: %w", err)
		}
		switch t := token.(type) {
		case xml.Directive:
			return time.Time{}, errors.New("it has a document type, or another directive")
		case xml.StartElement:
			if len(open) == 0 {
				roots++
				if t.Name != (xml.Name{Space: ns, Local: "EntityDescriptor"}) || roots > 1 || attribute(t, "entityID") == "" {
					return time.Time{}, errors.New("it is not one EntityDescriptor with an entityID")
				}
				if until := attribute(t, "validUntil"); until != "" {
					if validUntil, err = time.Parse(time.RFC3339, until); err != nil {
						return time.Time{}, fmt.Errorf("its validUntil is not a time: %w", err)
					}
				}
			}
			if open = append(open, t.Name); len(open) > maxMetadataDepth {
				return time.Time{}, fmt.Errorf("its elements are more than %d deep", maxMetadataDepth)
			}
			text, provider = nil, provider || t.Name == idp
		case xml.EndElement:
			if t.Name == certificate && slices.Contains(open, idp) {
				raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(text)), ""))
				if err != nil || len(raw) == 0 {
					return time.Time{}, errors.New("a certificate in it is not base64")
				}
				certified = true
			}
			open = open[:len(open)-1]
		case xml.CharData:
			text = append(text, t...)
		}
	}
	switch {
	case roots == 0:
		return time.Time{}, errors.New("it has no element")
	case !provider:
		return time.Time{}, errors.New("it has no IDPSSODescriptor")
	case !certified:
		return time.Time{}, errors.New("its IDPSSODescriptor has no certificate")
	}
	return validUntil, nil
}

func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// setMetadata gives a provider a metadata document.
func (s *Service) setMetadata(p *samlProvider, document string) error {
	if len(document) > maxMetadata {
		return invalidInput("This server takes metadata documents of %d bytes at most.", maxMetadata)
	}
	until, err := checkMetadata([]byte(document))
	if err != nil {
		failed := invalidInput("Could not parse metadata: %v", err)
		failed.Cause = err
		return failed
	}
	if until.IsZero() {
		until = s.time().Add(metadataLifetime)
	}
	p.Metadata, p.ValidUntil = []byte(document), until.UTC()
	return nil
}

// samlARN names a SAML provider.
type samlARN struct{ SAMLProviderArn string }

func (a samlARN) noun() string { return "SAMLProvider" }

// key reads the ARN. One that cannot be of one of the account's providers has a key that no provider has.
func (a samlARN) key(s *Service, account string) (string, error) {
	parsed, err := arn.Parse(a.SAMLProviderArn)
	if err != nil {
		return "", awsapi.Errorf("ValidationError", "Invalid ARN:  Could not be parsed!")
	}
	name, ok := strings.CutPrefix(parsed.Resource(), "saml-provider/")
	if !ok || s.samlProviderARN(account, name) != a.SAMLProviderArn {
		return "", nil
	}
	return nameKey(account, name), nil
}

func (a samlARN) target(s *Service, c *awsapi.Caller) (target, error) {
	key, err := a.key(s, c.Account)
	if err != nil {
		return target{}, err
	}
	if p, ok := s.saml.Get(key); ok {
		return target{arn: s.samlProviderARN(p.Account, p.Name), tags: p.Tags}, nil
	}
	return target{arn: a.SAMLProviderArn}, nil
}

func (a samlARN) missing() error {
	return awsapi.Errorf("NoSuchEntity", "Manifest not found for arn %s", a.SAMLProviderArn)
}

func (a samlARN) provider(s *Service, c *awsapi.Caller) (*samlProvider, error) {
	key, err := a.key(s, c.Account)
	if err != nil {
		return nil, err
	}
	if p, ok := s.saml.Get(key); ok {
		return p, nil
	}
	return nil, a.missing()
}

func (a samlARN) change(ctx context.Context, s *Service, c *awsapi.Caller, do func(*kv.Tx, *samlProvider) error) error {
	key, err := a.key(s, c.Account)
	if err != nil {
		return err
	}
	if key == "" {
		return a.missing()
	}
	return change(ctx, s.db, s.saml, key, a.missing(), do)
}

func (a samlARN) tags(s *Service, c *awsapi.Caller) ([]awsapi.Tag, error) {
	p, err := a.provider(s, c)
	if err != nil {
		return nil, err
	}
	return p.Tags, nil
}

func (a samlARN) retag(ctx context.Context, s *Service, c *awsapi.Caller, edit func([]awsapi.Tag) ([]awsapi.Tag, error)) error {
	return a.change(ctx, s, c, func(_ *kv.Tx, p *samlProvider) (err error) {
		p.Tags, err = edit(p.Tags)
		return err
	})
}

type createSAMLIn struct {
	Name                 string
	SAMLMetadataDocument string
	Tags                 []awsapi.Tag
}

func (in *createSAMLIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return target{arn: s.samlProviderARN(c.Account, in.Name)}, nil
}

func (in *createSAMLIn) conditions(p *policy.Context, _ target) { requestTags(p, in.Tags) }

type createSAMLOut struct {
	SAMLProviderArn string
	Tags            []awsapi.Tag
}

func (s *Service) createSAML(ctx context.Context, c *awsapi.Caller, in *createSAMLIn) (*createSAMLOut, error) {
	tags, err := tagsOfNew(c, in.Tags, "SAMLProvider")
	if err != nil {
		return nil, err
	}
	made := &samlProvider{Account: c.Account, Name: in.Name, UUID: rand.Text(), Created: s.time(), Tags: tags}
	if err := s.setMetadata(made, in.SAMLMetadataDocument); err != nil {
		return nil, err
	}
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		return add(s, tx, s.saml, made.key(), made, samlQuota,
			awsapi.Errorf("EntityAlreadyExists", "SAMLProvider with name %s already exists.", in.Name))
	})
	return &createSAMLOut{s.samlProviderARN(made.Account, made.Name), tags}, err
}

type getSAMLOut struct {
	SAMLProviderUUID     string
	SAMLMetadataDocument string
	CreateDate           time.Time
	ValidUntil           time.Time
	Tags                 []awsapi.Tag
}

func (s *Service) getSAML(_ context.Context, c *awsapi.Caller, in *samlARN) (*getSAMLOut, error) {
	p, err := in.provider(s, c)
	if err != nil {
		return nil, err
	}
	return &getSAMLOut{p.UUID, string(p.Metadata), p.Created, p.ValidUntil, p.Tags}, nil
}

type listSAMLIn struct{}

func (in *listSAMLIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.listTarget(c, "saml-provider", "")
}

type samlEntry struct {
	Arn        string
	CreateDate time.Time
	ValidUntil time.Time
}

type listSAMLOut struct{ SAMLProviderList []samlEntry }

func (s *Service) listSAML(_ context.Context, c *awsapi.Caller, _ *listSAMLIn) (*listSAMLOut, error) {
	out := &listSAMLOut{[]samlEntry{}}
	for _, p := range s.saml.Scan(c.Account+"/", "") {
		out.SAMLProviderList = append(out.SAMLProviderList, samlEntry{s.samlProviderARN(p.Account, p.Name), p.Created, p.ValidUntil})
	}
	return out, nil
}

type updateSAMLIn struct {
	samlARN
	SAMLMetadataDocument string
}

type updateSAMLOut struct{ SAMLProviderArn string }

func (s *Service) updateSAML(ctx context.Context, c *awsapi.Caller, in *updateSAMLIn) (*updateSAMLOut, error) {
	err := in.change(ctx, s, c, func(_ *kv.Tx, p *samlProvider) error {
		if in.SAMLMetadataDocument == "" {
			return nil
		}
		return s.setMetadata(p, in.SAMLMetadataDocument)
	})
	return &updateSAMLOut{in.SAMLProviderArn}, err
}

func (s *Service) deleteSAML(ctx context.Context, c *awsapi.Caller, in *samlARN) error {
	key, err := in.key(s, c.Account)
	if err != nil {
		return err
	}
	if key == "" {
		return in.missing()
	}
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		if _, ok := s.saml.Read(tx, key); !ok {
			return in.missing()
		}
		s.saml.Remove(tx, key)
		s.release(tx, c.Account, samlQuota)
		return nil
	})
}

// The requests about a SAML provider's tags.
type (
	tagSAMLIn struct {
		samlARN
		newTags
	}
	untagSAMLIn struct {
		samlARN
		oldTags
	}
	listOfSAMLIn struct {
		samlARN
		page
	}
)
