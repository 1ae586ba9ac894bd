package idtoken_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

// BenchmarkVerify measures the verification of tokens that all differ, next to the bare signature check that each of
// them needs: what Verify adds is the difference between the two.
func BenchmarkVerify(b *testing.B) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	keys := idtoken.Static{Set: jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &key.PublicKey, KeyID: "k", Algorithm: "RS256", Use: "sig"},
	}}}
	now := time.Unix(1_800_000_000, 0)
	tokens := make([]string, 512)
	for i := range tokens {
		tokens[i] = sign(b, key, header{"alg": "RS256", "kid": "k"}, podClaims(now, i))
	}
	b.Run("bare", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			token := tokens[i%len(tokens)]
			dot := strings.LastIndexByte(token, '.')
			digest := sha256.Sum256([]byte(token[:dot]))
			signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
			if err != nil {
				b.Fatal(err)
			}
			if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("full", func(b *testing.B) {
		want := idtoken.Expect{Issuer: issuer, Audiences: []string{"pods.eks.amazonaws.com"}, Now: now}
		for i := 0; b.Loop(); i++ {
			if _, err := idtoken.Verify(b.Context(), tokens[i%len(tokens)], want, keys); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := idtoken.ParseInsecure(tokens[i%len(tokens)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// podClaims are the claims of a token as the kubelet mounts it.
func podClaims(now time.Time, n int) claims {
	return claims{
		"iss": issuer, "aud": []string{"pods.eks.amazonaws.com"}, "sub": "system:serviceaccount:shop:checkout",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(24 * time.Hour).Unix(), "jti": fmt.Sprintf("5f1c0a9e-%012d", n),
		"kubernetes.io": claims{
			"namespace":      "shop",
			"serviceaccount": claims{"name": "checkout", "uid": "1c9d47e8-0f6b-4dfd-8a3e-6d2f1b7a9c10"},
			"pod":            claims{"name": fmt.Sprintf("checkout-%d", n), "uid": "9b1de6c2-7a35-4f1e-b0a4-3c5d2e8f7a61"},
			"node":           claims{"name": "ip-10-0-1-17", "uid": "e2f7b3a4-55c1-4b0f-9d6e-8a1c2b3d4e5f"},
		},
	}
}
