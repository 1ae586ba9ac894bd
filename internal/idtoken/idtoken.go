// Package idtoken verifies OpenID Connect ID tokens, and Kubernetes service account tokens in particular, against the
// keys of a known issuer.
//
// A token's algorithm is pinned by the type of the key that verifies it. Keys and addresses of keys that a token brings
// along (jwk, jku, x5c, x5u) are never looked at, and a token that declares critical extensions (crit) is refused.
package idtoken

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxSize is the longest token that is read, in bytes: STS's limit for WebIdentityToken.
const MaxSize = 20000

// Claims are what a token says, once verified (or, from ParseInsecure, merely claimed).
type Claims struct {
	Issuer          string
	Subject         string
	Audience        []string // at least one
	AuthorizedParty string   // azp
	AMR             []string // authentication methods references
	ID              string   // jti
	IssuedAt        time.Time
	NotBefore       time.Time // zero when absent
	Expires         time.Time
	Kubernetes      *Kubernetes // nil when the token has no kubernetes.io claim
	PrincipalTags   []Tag       // https://aws.amazon.com/tags, in the token's order
	TransitiveTags  []string
	SourceIdentity  string // https://aws.amazon.com/source_identity
	KeyID           string // of the header
}

// EffectiveAudience is the audience that STS holds a token to, and that trust policies see as PROVIDER:aud: the
// authorized party if the token names one (PROVIDER:oaud is then Audience), and otherwise the only audience. A token
// with several audiences and no authorized party has none: the error is ErrManyAudiences.
func (c *Claims) EffectiveAudience() (string, error) {
	switch {
	case c.AuthorizedParty != "":
		return c.AuthorizedParty, nil
	case len(c.Audience) == 1:
		return c.Audience[0], nil
	}
	return "", ErrManyAudiences
}

// Tag is a session tag that a token carries.
type Tag struct{ Key, Value string }

// Kubernetes is the kubernetes.io claim of a bound service account token.
type Kubernetes struct {
	Namespace      string `json:"namespace"`
	ServiceAccount Ref    `json:"serviceaccount"`
	Pod            *Ref   `json:"pod,omitempty"`
	Node           *Ref   `json:"node,omitempty"`
}

// Ref is an object's name and UID.
type Ref struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// The reasons for which a token is refused. Verify wraps them.
var (
	ErrMalformed = errors.New("not a valid JWT")
	ErrAlgorithm = errors.New("signing algorithm is not accepted")
	ErrSignature = errors.New("signature does not verify")
	ErrKeys      = errors.New("issuer's keys could not be had") // unreachable, malformed, or no key of that ID
	ErrIssuer    = errors.New("issued by another issuer")
	ErrAudience  = errors.New("issued for another audience")
	ErrNotYet    = errors.New("not valid yet")

	// ErrRevoked and ErrUnreviewed are of those who ask the cluster that issued a token whether it honours it, which Verify does
	// not: it does not, and it could not be asked.
	ErrRevoked    = errors.New("its cluster does not honour it")
	ErrUnreviewed = errors.New("its cluster could not be asked whether it honours it")

	// ErrManyAudiences refuses, with STS's text, a token whose effective audience cannot be told. It wraps ErrAudience.
	ErrManyAudiences error = manyAudiencesError{}
	// ErrThumbprint is returned by the sources of a Cache when neither the system's roots nor a thumbprint vouch for the
	// certificate that the issuer's host serves. It wraps ErrKeys.
	ErrThumbprint error = thumbprintError{}
)

type manyAudiencesError struct{}

func (manyAudiencesError) Error() string {
	return "Token audience contains more than one audience while authorized party is not present"
}

func (manyAudiencesError) Unwrap() error { return ErrAudience }

type thumbprintError struct{}

func (thumbprintError) Error() string {
	return "neither the trusted roots nor a configured thumbprint vouch for the certificate"
}

func (thumbprintError) Unwrap() error { return ErrKeys }

// ExpiredError refuses a token whose time is over.
type ExpiredError struct{ Now, Expires time.Time }

// Error is STS's text.
func (e *ExpiredError) Error() string {
	return fmt.Sprintf("Token expired: current date/time %d must be before the expiration date/time %d", e.Now.Unix(), e.Expires.Unix())
}

// MissingClaimError refuses a token that lacks a required claim: iss, sub, aud, exp or iat.
type MissingClaimError struct{ Claim string }

// Error names the claim.
func (e *MissingClaimError) Error() string { return "Missing a required claim: " + e.Claim + "." }

// Expect is what a token must be.
type Expect struct {
	Issuer string // exact; the empty string matches no token
	// Audiences are those of which one must fit. With SingleAudience the list always counts; without it, nil means that
	// the audience is not checked. An empty list that is not nil fits no token.
	Audiences []string
	// SingleAudience chooses STS's rule, by which the token's effective audience must be listed. Otherwise one of the
	// token's audiences must be, which is the rule of Kubernetes and EKS Auth.
	SingleAudience bool
	Now            time.Time     // required
	Leeway         time.Duration // for all times of the token; 0 is none
}

// Verify checks a token in full: algorithm (RS256, RS384, RS512, ES256, ES384, ES512 and no other), issuer, audience, key,
// signature and times, in this order, which is STS's as far as it is known. The claims are only returned without an error.
func Verify(ctx context.Context, token string, want Expect, keys KeySource) (*Claims, error) {
	t, err := parse(token)
	if err != nil {
		return nil, err
	}
	alg, err := algorithmNamed(t.algorithm)
	if err != nil {
		return nil, err
	}
	if want.Issuer == "" || t.claims.Issuer != want.Issuer {
		return nil, fmt.Errorf("%w: %s", ErrIssuer, t.claims.Issuer)
	}
	if err := want.checkAudience(&t.claims); err != nil {
		return nil, err
	}
	candidates, err := keys.Keys(ctx, t.claims.KeyID)
	if err != nil {
		return nil, err
	}
	if err := alg.verify(t, selectKeys(candidates, t.claims.KeyID)); err != nil {
		return nil, err
	}
	if err := want.checkTimes(&t.claims); err != nil {
		return nil, err
	}
	return &t.claims, nil
}

func (want *Expect) checkAudience(c *Claims) error {
	if want.SingleAudience {
		aud, err := c.EffectiveAudience()
		if err != nil {
			return err
		}
		if !slices.Contains(want.Audiences, aud) {
			return fmt.Errorf("%w: %s", ErrAudience, aud)
		}
		return nil
	}
	if want.Audiences == nil {
		return nil
	}
	for _, aud := range c.Audience {
		if slices.Contains(want.Audiences, aud) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s", ErrAudience, c.Audience)
}

func (want *Expect) checkTimes(c *Claims) error {
	if !want.Now.Before(c.Expires.Add(want.Leeway)) {
		return &ExpiredError{Now: want.Now, Expires: c.Expires}
	}
	latest := want.Now.Add(want.Leeway)
	if c.NotBefore.After(latest) {
		return fmt.Errorf("%w: nbf is %s", ErrNotYet, c.NotBefore.UTC().Format(time.RFC3339))
	}
	if c.IssuedAt.After(latest) {
		return fmt.Errorf("%w: iat is %s", ErrNotYet, c.IssuedAt.UTC().Format(time.RFC3339))
	}
	return nil
}
