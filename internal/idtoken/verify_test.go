package idtoken_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

// testKeys are made once: RSA keys take a while.
type testKeys struct {
	rsa, otherRSA, smallRSA *rsa.PrivateKey
	p256, p384, p521        *ecdsa.PrivateKey
}

var keysOnce = sync.OnceValue(func() testKeys {
	rsaKey := func(bits int) *rsa.PrivateKey {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		return k
	}
	ecKey := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			panic(err)
		}
		return k
	}
	return testKeys{rsaKey(2048), rsaKey(2048), rsaKey(1024), ecKey(elliptic.P256()), ecKey(elliptic.P384()), ecKey(elliptic.P521())}
})

func set(keys ...jose.JSONWebKey) idtoken.Static {
	return idtoken.Static{Set: jose.JSONWebKeySet{Keys: keys}}
}

// with returns the claims with some changed; a nil value removes a claim.
func (c claims) with(changes claims) claims {
	out := maps.Clone(c)
	for k, v := range changes {
		if v == nil {
			delete(out, k)
		} else {
			out[k] = v
		}
	}
	return out
}

var now = time.Unix(1_800_000_000, 0)

func TestVerifyAcceptsEveryAlgorithm(t *testing.T) {
	k := keysOnce()
	for alg, key := range map[string]any{"RS256": k.rsa, "RS384": k.rsa, "RS512": k.rsa, "ES256": k.p256, "ES384": k.p384, "ES512": k.p521} {
		t.Run(alg, func(t *testing.T) {
			var public any
			switch key := key.(type) {
			case *rsa.PrivateKey:
				public = &key.PublicKey
			case *ecdsa.PrivateKey:
				public = &key.PublicKey
			}
			token := sign(t, key, header{"alg": alg, "kid": "k", "typ": "JWT"}, podClaims(now, 1))
			got, err := idtoken.Verify(t.Context(), token,
				idtoken.Expect{Issuer: issuer, Audiences: []string{"other", "pods.eks.amazonaws.com"}, Now: now},
				set(jose.JSONWebKey{Key: public, KeyID: "k"}))
			if err != nil {
				t.Fatal(err)
			}
			want := &idtoken.Claims{
				Issuer: issuer, Subject: "system:serviceaccount:shop:checkout", Audience: []string{"pods.eks.amazonaws.com"},
				ID: "5f1c0a9e-000000000001", IssuedAt: now, NotBefore: now, Expires: now.Add(24 * time.Hour), KeyID: "k",
				Kubernetes: &idtoken.Kubernetes{
					Namespace:      "shop",
					ServiceAccount: idtoken.Ref{Name: "checkout", UID: "1c9d47e8-0f6b-4dfd-8a3e-6d2f1b7a9c10"},
					Pod:            &idtoken.Ref{Name: "checkout-1", UID: "9b1de6c2-7a35-4f1e-b0a4-3c5d2e8f7a61"},
					Node:           &idtoken.Ref{Name: "ip-10-0-1-17", UID: "e2f7b3a4-55c1-4b0f-9d6e-8a1c2b3d4e5f"},
				},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
}

func TestVerifyKeyAndSignature(t *testing.T) {
	k := keysOnce()
	good := jose.JSONWebKey{Key: &k.rsa.PublicKey, KeyID: "k", Algorithm: "RS256", Use: "sig"}
	other := jose.JSONWebKey{Key: &k.otherRSA.PublicKey, KeyID: "other"}
	c := podClaims(now, 1)
	publicPEM := func() []byte {
		der, err := x509.MarshalPKIXPublicKey(&k.rsa.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}()
	intruder := jose.JSONWebKey{Key: &k.otherRSA.PublicKey, KeyID: "k"}
	tests := []struct {
		name  string
		token string
		keys  idtoken.Static
		want  error // nil: accepted
	}{
		{"signed by the key", sign(t, k.rsa, header{"alg": "RS256", "kid": "k"}, c), set(other, good), nil},
		{"signed by another key", sign(t, k.otherRSA, header{"alg": "RS256", "kid": "k"}, c), set(other, good), idtoken.ErrSignature},
		{"without signature", sign(t, nil, header{"alg": "RS256", "kid": "k"}, c), set(good), idtoken.ErrSignature},
		{"algorithm none", sign(t, nil, header{"alg": "none", "kid": "k"}, c), set(good), idtoken.ErrAlgorithm},
		{"algorithm None", sign(t, nil, header{"alg": "None", "kid": "k"}, c), set(good), idtoken.ErrAlgorithm},
		{"no algorithm", sign(t, nil, header{"kid": "k"}, c), set(good), idtoken.ErrAlgorithm},
		{"HMAC with the public key", sign(t, publicPEM, header{"alg": "HS256", "kid": "k"}, c), set(good), idtoken.ErrAlgorithm},
		{"RSA-PSS", sign(t, k.rsa, header{"alg": "PS256", "kid": "k"}, c), set(good), idtoken.ErrAlgorithm},
		{"an algorithm the key is not for", sign(t, k.rsa, header{"alg": "RS512", "kid": "k"}, c), set(good), idtoken.ErrAlgorithm},
		{"an EC algorithm with an RSA key", sign(t, k.p256, header{"alg": "ES256", "kid": "k"}, c), set(good), idtoken.ErrAlgorithm},
		{"an RSA algorithm with an EC key", sign(t, k.rsa, header{"alg": "RS256", "kid": "k"}, c),
			set(jose.JSONWebKey{Key: &k.p256.PublicKey, KeyID: "k"}), idtoken.ErrAlgorithm},
		{"a curve that is not the algorithm's", sign(t, k.p384, header{"alg": "ES256", "kid": "k"}, c),
			set(jose.JSONWebKey{Key: &k.p384.PublicKey, KeyID: "k"}), idtoken.ErrAlgorithm},
		{"a weak RSA key", sign(t, k.smallRSA, header{"alg": "RS256", "kid": "k"}, c),
			set(jose.JSONWebKey{Key: &k.smallRSA.PublicKey, KeyID: "k"}), idtoken.ErrAlgorithm},
		{"a key for encryption", sign(t, k.rsa, header{"alg": "RS256", "kid": "k"}, c),
			set(jose.JSONWebKey{Key: &k.rsa.PublicKey, KeyID: "k", Use: "enc"}), idtoken.ErrAlgorithm},
		{"the right one of two keys with one ID", sign(t, k.rsa, header{"alg": "RS256", "kid": "k"}, c), set(intruder, good), nil},
		{"unknown key ID", sign(t, k.rsa, header{"alg": "RS256", "kid": "x"}, c), set(good), idtoken.ErrKeys},
		{"no key ID, one key", sign(t, k.rsa, header{"alg": "RS256"}, c), set(good), nil},
		{"no key ID, two keys", sign(t, k.rsa, header{"alg": "RS256"}, c), set(good, other), idtoken.ErrKeys},
		{"no keys at all", sign(t, k.rsa, header{"alg": "RS256", "kid": "k"}, c), set(), idtoken.ErrKeys},
		{"the only key has no ID", sign(t, k.rsa, header{"alg": "RS256", "kid": "k"}, c), set(jose.JSONWebKey{Key: &k.rsa.PublicKey}), nil},
		{"two keys without ID", sign(t, k.rsa, header{"alg": "RS256", "kid": "k"}, c),
			set(jose.JSONWebKey{Key: &k.rsa.PublicKey}, jose.JSONWebKey{Key: &k.otherRSA.PublicKey}), idtoken.ErrKeys},
		{"the token brings its own key", sign(t, k.otherRSA, header{"alg": "RS256", "kid": "k", "jwk": jwkOf(t, other), "jku": "https://evil.example/keys",
			"x5u": "https://evil.example/chain", "x5c": []string{"MIIB"}}, c), set(good), idtoken.ErrSignature},
		{"critical extensions", sign(t, k.rsa, header{"alg": "RS256", "kid": "k", "crit": []string{"b64"}, "b64": true}, c), set(good), idtoken.ErrMalformed},
		{"an empty list of critical extensions", sign(t, k.rsa, header{"alg": "RS256", "kid": "k", "crit": []string{}}, c), set(good), idtoken.ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := idtoken.Verify(t.Context(), tt.token, idtoken.Expect{Issuer: issuer, Now: now}, tt.keys)
			if !errors.Is(err, tt.want) || (err != nil && got != nil) {
				t.Errorf("got %v, %v; want error %v", got, err, tt.want)
			}
		})
	}
}

func jwkOf(t *testing.T, k jose.JSONWebKey) any {
	t.Helper()
	data, err := k.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return rawJSON(data)
}

type rawJSON []byte

func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }

func TestVerifyAlteredByOneBit(t *testing.T) {
	k := keysOnce()
	keys := set(jose.JSONWebKey{Key: &k.p256.PublicKey, KeyID: "k"})
	token := sign(t, k.p256, header{"alg": "ES256", "kid": "k"}, podClaims(now, 1))
	want := idtoken.Expect{Issuer: issuer, Now: now}
	if _, err := idtoken.Verify(t.Context(), token, want, keys); err != nil {
		t.Fatal(err)
	}
	for part, text := range strings.Split(token, ".") {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		for i := range raw {
			altered := append([]byte(nil), raw...)
			altered[i] ^= 1
			parts := strings.Split(token, ".")
			parts[part] = base64.RawURLEncoding.EncodeToString(altered)
			if _, err := idtoken.Verify(t.Context(), strings.Join(parts, "."), want, keys); err == nil {
				t.Fatalf("accepted with byte %d of part %d altered", i, part)
			}
		}
	}
}

func TestVerifyIssuerAudienceAndTimes(t *testing.T) {
	k := keysOnce()
	keys := set(jose.JSONWebKey{Key: &k.p256.PublicKey, KeyID: "k"})
	sts := idtoken.Expect{Issuer: issuer, Audiences: []string{"sts.amazonaws.com"}, SingleAudience: true, Now: now}
	pods := idtoken.Expect{Issuer: issuer, Audiences: []string{"pods.eks.amazonaws.com"}, Now: now}
	unchecked := idtoken.Expect{Issuer: issuer, Now: now}
	change := func(e idtoken.Expect, f func(*idtoken.Expect)) idtoken.Expect { f(&e); return e }
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	tests := []struct {
		name    string
		changes claims
		want    idtoken.Expect
		err     error
	}{
		{"issuer is the expected", claims{}, pods, nil},
		{"issuer differs by a slash", claims{"iss": issuer + "/"}, pods, idtoken.ErrIssuer},
		{"issuer differs by case", claims{"iss": strings.ToUpper(issuer)}, pods, idtoken.ErrIssuer},
		{"no issuer is expected", claims{}, change(pods, func(e *idtoken.Expect) { e.Issuer = "" }), idtoken.ErrIssuer},

		{"one of several audiences fits", claims{"aud": []string{"a", "pods.eks.amazonaws.com"}}, pods, nil},
		{"audience as a string", claims{"aud": "pods.eks.amazonaws.com"}, pods, nil},
		{"no audience fits", claims{"aud": []string{"a", "sts.amazonaws.com"}}, pods, idtoken.ErrAudience},
		{"audience is a prefix", claims{"aud": "pods.eks.amazonaws"}, pods, idtoken.ErrAudience},
		{"authorized party is no audience of Kubernetes", claims{"aud": "a", "azp": "pods.eks.amazonaws.com"}, pods, idtoken.ErrAudience},
		{"audience is not checked", claims{"aud": "a"}, unchecked, nil},
		{"no audience is accepted", claims{"aud": "a"}, change(unchecked, func(e *idtoken.Expect) { e.Audiences = []string{} }), idtoken.ErrAudience},

		{"STS: the audience", claims{"aud": "sts.amazonaws.com"}, sts, nil},
		{"STS: the audience as a list", claims{"aud": []string{"sts.amazonaws.com"}}, sts, nil},
		{"STS: another audience", claims{"aud": "a"}, sts, idtoken.ErrAudience},
		{"STS: several audiences", claims{"aud": []string{"sts.amazonaws.com", "a"}}, sts, idtoken.ErrManyAudiences},
		{"STS: several audiences and a fitting authorized party", claims{"aud": []string{"b", "a"}, "azp": "sts.amazonaws.com"}, sts, nil},
		{"STS: the authorized party hides the audience", claims{"aud": "sts.amazonaws.com", "azp": "a"}, sts, idtoken.ErrAudience},
		{"STS: an empty list of client IDs", claims{"aud": "a"}, change(sts, func(e *idtoken.Expect) { e.Audiences = nil }), idtoken.ErrAudience},

		{"last second", claims{"exp": at(time.Second)}, pods, nil},
		{"just expired", claims{"exp": at(0)}, pods, &idtoken.ExpiredError{Now: now, Expires: now}},
		{"expired within the leeway", claims{"exp": at(-time.Minute)}, change(pods, func(e *idtoken.Expect) { e.Leeway = 2 * time.Minute }), nil},
		{"expired beyond the leeway", claims{"exp": at(-2 * time.Minute)}, change(pods, func(e *idtoken.Expect) { e.Leeway = 2 * time.Minute }),
			&idtoken.ExpiredError{Now: now, Expires: now.Add(-2 * time.Minute)}},
		{"not before now", claims{"nbf": at(0)}, pods, nil},
		{"not before later", claims{"nbf": at(time.Second)}, pods, idtoken.ErrNotYet},
		{"not before within the leeway", claims{"nbf": at(time.Second)}, change(pods, func(e *idtoken.Expect) { e.Leeway = time.Second }), nil},
		{"without nbf", claims{"nbf": nil}, pods, nil},
		{"issued in the future", claims{"iat": at(time.Second)}, pods, idtoken.ErrNotYet},
		{"issued in the future within the leeway", claims{"iat": at(time.Second)}, change(pods, func(e *idtoken.Expect) { e.Leeway = time.Second }), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			token := sign(t, k.p256, header{"alg": "ES256", "kid": "k"}, podClaims(now, 1).with(tt.changes))
			_, err := idtoken.Verify(t.Context(), token, tt.want, keys)
			if expired, ok := tt.err.(*idtoken.ExpiredError); ok {
				var got *idtoken.ExpiredError
				if !errors.As(err, &got) || *got != *expired {
					t.Errorf("got %v, want %v", err, expired)
				}
				return
			}
			if !errors.Is(err, tt.err) {
				t.Errorf("got %v, want %v", err, tt.err)
			}
		})
	}
	if !errors.Is(idtoken.ErrManyAudiences, idtoken.ErrAudience) {
		t.Error("ErrManyAudiences does not wrap ErrAudience")
	}
}

func TestErrorTexts(t *testing.T) {
	expired := &idtoken.ExpiredError{Now: time.Unix(1740387458, 0), Expires: time.Unix(1740319004, 0)}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{expired, "Token expired: current date/time 1740387458 must be before the expiration date/time 1740319004"},
		{&idtoken.MissingClaimError{Claim: "iat"}, "Missing a required claim: iat."},
		{idtoken.ErrManyAudiences, "Token audience contains more than one audience while authorized party is not present"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
