package idtoken

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits of a key set and of its keys.
const (
	maxKeysPerType = 100  // STS's limit for RSA, and again for EC
	minRSABits     = 2048 // RFC 7518, section 3.3
	maxRSABits     = 8192 // more only costs time
)

// KeySource gives the keys that an issuer may have signed with. Static and the sources of a Cache implement it.
type KeySource interface {
	// Keys returns the candidates for a token with the given key ID (all keys if keyID is empty). A source that fetches
	// may fetch again when it does not know the ID. Errors wrap ErrKeys.
	Keys(ctx context.Context, keyID string) ([]jose.JSONWebKey, error)
}

// Static is a KeySource that never fetches: a hosted issuer's keys, or a JWKS that was registered with a cluster.
type Static struct{ Set jose.JSONWebKeySet }

// Keys implements KeySource.
func (s Static) Keys(_ context.Context, keyID string) ([]jose.JSONWebKey, error) {
	if keyID == "" {
		return s.Set.Keys, nil
	}
	keys := selectKeys(s.Set.Keys, keyID)
	if len(keys) == 0 {
		return nil, unknownKey(keyID)
	}
	return keys, nil
}

func unknownKey(keyID string) error { return fmt.Errorf("%w: no key with the ID %q", ErrKeys, keyID) }

// selectKeys picks the keys that a token with this key ID may be verified with. The ID may only be missing, in the token
// or in the set, if there is no choice (OpenID Connect Core, section 10.1).
func selectKeys(keys []jose.JSONWebKey, keyID string) []jose.JSONWebKey {
	if len(keys) == 1 && (keyID == "" || keys[0].KeyID == "" || keys[0].KeyID == keyID) {
		return keys
	}
	if keyID == "" {
		return nil
	}
	var found []jose.JSONWebKey
	for _, k := range keys {
		if k.KeyID == keyID {
			found = append(found, k)
		}
	}
	return found
}

// jwk holds the members of a JSON Web Key (RFC 7517, RFC 7518) that count here. Certificates are not among them.
type jwk struct {
	Type       string   `json:"kty"`
	Use        string   `json:"use,omitempty"`
	Operations []string `json:"key_ops,omitempty"`
	Algorithm  string   `json:"alg,omitempty"`
	KeyID      string   `json:"kid,omitempty"`
	N          string   `json:"n,omitempty"`
	E          string   `json:"e,omitempty"`
	Curve      string   `json:"crv,omitempty"`
	X          string   `json:"x,omitempty"`
	Y          string   `json:"y,omitempty"`
}

// ParseJWKS reads a JWK set with AWS's limits (100 RSA and 100 EC keys) and keeps only public signing keys of the
// accepted algorithms: RSA of 2,048 to 8,192 bits, and EC on P-256, P-384 and P-521. Other kinds of key are left out, as
// RFC 7517 asks; keys of these kinds that are malformed, and private or symmetric keys, are an error. The set may be empty.
func ParseJWKS(data []byte) (jose.JSONWebKeySet, error) {
	var document struct {
		Keys *[]jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(data, &document); err != nil {
		return jose.JSONWebKeySet{}, fmt.Errorf("parse key set: %w", err)
	}
	if document.Keys == nil {
		return jose.JSONWebKeySet{}, errors.New("parse key set: it has no keys member")
	}
	var set jose.JSONWebKeySet
	count := map[string]int{}
	for i, raw := range *document.Keys {
		k, key, err := parseJWK(raw)
		if err != nil {
			return jose.JSONWebKeySet{}, fmt.Errorf("parse key set: key %d: %w", i, err)
		}
		if count[k.Type]++; (k.Type == "RSA" || k.Type == "EC") && count[k.Type] > maxKeysPerType {
			return jose.JSONWebKeySet{}, fmt.Errorf("parse key set: more than %d %s keys", maxKeysPerType, k.Type)
		}
		if key != nil {
			set.Keys = append(set.Keys, *key)
		}
	}
	return set, nil
}

// parseJWK returns a nil key, without an error, for one that is well formed but not usable here.
func parseJWK(raw []byte) (jwk, *jose.JSONWebKey, error) {
	var members map[string]jsontext.Value
	if err := json.Unmarshal(raw, &members); err != nil {
		return jwk{}, nil, err
	}
	for _, secret := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		if members[secret] != nil {
			return jwk{}, nil, errors.New("it is not a public key")
		}
	}
	var k jwk
	if err := json.Unmarshal(raw, &k); err != nil {
		return jwk{}, nil, err
	}
	switch {
	case k.Type != "RSA" && k.Type != "EC",
		k.Type == "EC" && k.Curve != "P-256" && k.Curve != "P-384" && k.Curve != "P-521",
		k.Use != "" && k.Use != "sig",
		k.Operations != nil && !slices.Contains(k.Operations, "verify"):
		return k, nil, nil
	}
	public, err := json.Marshal(k)
	if err != nil {
		return k, nil, err
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(public); err != nil {
		return k, nil, err
	}
	key.Use = "sig"
	if !signs(key) {
		return k, nil, nil
	}
	return k, &key, nil
}

// signs reports whether one of the accepted algorithms fits the key.
func signs(k jose.JSONWebKey) bool {
	for _, name := range []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"} {
		if alg, err := algorithmNamed(name); err == nil && alg.fits(k) {
			return true
		}
	}
	return false
}

// algorithm is a signature algorithm of RFC 7518 that STS accepts.
type algorithm struct {
	name  string
	hash  crypto.Hash
	curve elliptic.Curve // nil for RSASSA-PKCS1-v1_5
}

func algorithmNamed(name string) (algorithm, error) {
	switch name {
	case "RS256":
		return algorithm{name, crypto.SHA256, nil}, nil
	case "RS384":
		return algorithm{name, crypto.SHA384, nil}, nil
	case "RS512":
		return algorithm{name, crypto.SHA512, nil}, nil
	case "ES256":
		return algorithm{name, crypto.SHA256, elliptic.P256()}, nil
	case "ES384":
		return algorithm{name, crypto.SHA384, elliptic.P384()}, nil
	case "ES512":
		return algorithm{name, crypto.SHA512, elliptic.P521()}, nil
	}
	return algorithm{}, fmt.Errorf("%w: %q", ErrAlgorithm, name)
}

// fits reports whether the key is one for this algorithm: the token's header alone never decides how a key is used.
func (a algorithm) fits(k jose.JSONWebKey) bool {
	if (k.Algorithm != "" && k.Algorithm != a.name) || (k.Use != "" && k.Use != "sig") {
		return false
	}
	switch public := k.Key.(type) {
	case *rsa.PublicKey:
		bits := public.N.BitLen()
		return a.curve == nil && bits >= minRSABits && bits <= maxRSABits
	case *ecdsa.PublicKey:
		return a.curve != nil && public.Curve == a.curve
	}
	return false
}

// verify checks the token's signature with those of the keys that fit the algorithm.
func (a algorithm) verify(t *token, keys []jose.JSONWebKey) error {
	if len(keys) == 0 {
		return unknownKey(t.claims.KeyID)
	}
	digest := a.digest(t.signed)
	fit := false
	for _, k := range keys {
		if !a.fits(k) {
			continue
		}
		fit = true
		switch public := k.Key.(type) {
		case *rsa.PublicKey:
			if rsa.VerifyPKCS1v15(public, a.hash, digest, t.signature) == nil {
				return nil
			}
		case *ecdsa.PublicKey:
			if a.verifyECDSA(public, digest, t.signature) {
				return nil
			}
		}
	}
	if !fit {
		return fmt.Errorf("%w: %s with a key of another kind", ErrAlgorithm, a.name)
	}
	return ErrSignature
}

func (a algorithm) digest(signed string) []byte {
	switch a.hash {
	case crypto.SHA384:
		sum := sha512.Sum384([]byte(signed))
		return sum[:]
	case crypto.SHA512:
		sum := sha512.Sum512([]byte(signed))
		return sum[:]
	}
	sum := sha256.Sum256([]byte(signed))
	return sum[:]
}

// verifyECDSA takes a signature as RFC 7518, section 3.4 has it: r and s, each as long as the curve's order.
func (a algorithm) verifyECDSA(public *ecdsa.PublicKey, digest, signature []byte) bool {
	size := (a.curve.Params().BitSize + 7) / 8
	if len(signature) != 2*size {
		return false
	}
	r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
	return ecdsa.Verify(public, digest, r, s)
}
