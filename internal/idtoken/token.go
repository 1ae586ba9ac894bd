package idtoken

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	// The coming encoding/json/v2: unlike encoding/json it tells member names apart by case and refuses duplicates and
	// invalid UTF-8, so that no two readers of a token can understand it differently; and it is three times as fast.
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// token is a compact JWS (RFC 7515, section 7.1) taken apart.
type token struct {
	algorithm string
	signed    string // header and payload, as signed
	signature []byte
	claims    Claims
}

// header is the part of a JOSE header that matters here.
type header struct {
	Algorithm string         `json:"alg"`
	KeyID     string         `json:"kid"`
	Critical  jsontext.Value `json:"crit"`
}

// payload is the JSON form of Claims. Times must be integers: a pointer tells a missing time from zero.
type payload struct {
	Issuer          string      `json:"iss"`
	Subject         string      `json:"sub"`
	Audience        stringList  `json:"aud"`
	AuthorizedParty string      `json:"azp"`
	AMR             stringList  `json:"amr"`
	ID              string      `json:"jti"`
	IssuedAt        *int64      `json:"iat"`
	NotBefore       *int64      `json:"nbf"`
	Expires         *int64      `json:"exp"`
	Kubernetes      *Kubernetes `json:"kubernetes.io"`
	Tags            *tagsClaim  `json:"https://aws.amazon.com/tags"`
	SourceIdentity  string      `json:"https://aws.amazon.com/source_identity"`
}

// ParseInsecure reads a token's claims without verifying anything: to find out which issuer it says it is from.
// Errors wrap ErrMalformed or are *MissingClaimError.
func ParseInsecure(text string) (*Claims, error) {
	t, err := parse(text)
	if err != nil {
		return nil, err
	}
	return &t.claims, nil
}

func parse(text string) (*token, error) {
	if len(text) > MaxSize {
		return nil, malformed("longer than %d bytes", MaxSize)
	}
	first, last := strings.IndexByte(text, '.'), strings.LastIndexByte(text, '.')
	if first < 0 || first == last || strings.IndexByte(text[first+1:last], '.') >= 0 {
		return nil, malformed("not three parts")
	}
	var h header
	if err := decodeJSON(text[:first], &h); err != nil {
		return nil, malformed("header: %v", err)
	}
	if h.Critical != nil {
		return nil, malformed("header: critical extensions are not supported")
	}
	var p payload
	if err := decodeJSON(text[first+1:last], &p); err != nil {
		return nil, malformed("claims: %v", err)
	}
	signature, err := decodePart(text[last+1:])
	if err != nil {
		return nil, malformed("signature: %v", err)
	}
	t := &token{algorithm: h.Algorithm, signed: text[:last], signature: signature}
	if err := p.into(&t.claims); err != nil {
		return nil, err
	}
	t.claims.KeyID = h.KeyID
	return t, nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, args...))
}

// decodePart is strict base64url without padding. The standard library's decoder would skip line breaks, which would
// give one token many spellings.
func decodePart(part string) ([]byte, error) {
	if strings.IndexByte(part, '\n') >= 0 || strings.IndexByte(part, '\r') >= 0 {
		return nil, errors.New("line break in base64url")
	}
	return base64.RawURLEncoding.Strict().DecodeString(part)
}

// decodeJSON decodes a part that must be a JSON object.
func decodeJSON(part string, v any) error {
	data, err := decodePart(part)
	if err != nil {
		return err
	}
	if jsontext.Value(data).Kind() != '{' {
		return errors.New("not a JSON object")
	}
	return json.Unmarshal(data, v)
}

func (p *payload) into(c *Claims) error {
	switch {
	case p.Issuer == "":
		return &MissingClaimError{"iss"}
	case p.Subject == "":
		return &MissingClaimError{"sub"}
	case len(p.Audience) == 0:
		return &MissingClaimError{"aud"}
	case p.Expires == nil:
		return &MissingClaimError{"exp"}
	case p.IssuedAt == nil:
		return &MissingClaimError{"iat"}
	}
	*c = Claims{
		Issuer:          p.Issuer,
		Subject:         p.Subject,
		Audience:        p.Audience,
		AuthorizedParty: p.AuthorizedParty,
		AMR:             p.AMR,
		ID:              p.ID,
		Kubernetes:      p.Kubernetes,
		SourceIdentity:  p.SourceIdentity,
	}
	if p.Tags != nil {
		c.PrincipalTags, c.TransitiveTags = p.Tags.Principal, p.Tags.Transitive
	}
	for _, t := range []struct {
		name    string
		seconds *int64
		into    *time.Time
	}{{"exp", p.Expires, &c.Expires}, {"iat", p.IssuedAt, &c.IssuedAt}, {"nbf", p.NotBefore, &c.NotBefore}} {
		if t.seconds == nil {
			continue
		}
		if *t.seconds < 0 || *t.seconds > maxTime {
			return malformed("claims: %s is out of range", t.name)
		}
		*t.into = time.Unix(*t.seconds, 0)
	}
	return nil
}

// maxTime is the end of the year 9999 in seconds since 1970: later times cannot be written in RFC 3339, and far later ones
// would overflow time.Time's arithmetic.
const maxTime = 253402300799

// stringList is a JSON string or array of strings, as aud may be (RFC 7519, section 4.1.3). An empty string is no value.
type stringList []string

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (l *stringList) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '[' {
		return json.UnmarshalDecode(d, (*[]string)(l))
	}
	var one string
	if err := json.UnmarshalDecode(d, &one); err != nil {
		return err
	}
	if one != "" {
		*l = stringList{one}
	}
	return nil
}

// tagsClaim is the claim for session tags (IAM User Guide, "Pass session tags in AWS STS").
type tagsClaim struct {
	Principal  tagList  `json:"principal_tags"`
	Transitive []string `json:"transitive_tag_keys"`
}

// tagList is a JSON object of tags, {KEY:[VALUE]}, in the order of the text. A tag has exactly one value, which may also
// be a plain string.
type tagList []Tag

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (l *tagList) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if kind := d.PeekKind(); kind != '{' {
		return fmt.Errorf("principal tags are %s, not an object", kind)
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != '}' {
		var key string
		if err := json.UnmarshalDecode(d, &key); err != nil {
			return err
		}
		var values []string
		switch kind := d.PeekKind(); kind {
		case '[':
			if err := json.UnmarshalDecode(d, &values); err != nil {
				return err
			}
		case '"':
			values = make([]string, 1)
			if err := json.UnmarshalDecode(d, &values[0]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("tag %q is %s, not a list of one string", key, kind)
		}
		if len(values) != 1 {
			return fmt.Errorf("tag %q has %d values, not one", key, len(values))
		}
		*l = append(*l, Tag{key, values[0]})
	}
	_, err := d.ReadToken()
	return err
}
