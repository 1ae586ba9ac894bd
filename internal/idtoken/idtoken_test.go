package idtoken_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"testing"
)

const issuer = "https://oidc.eks.us-east-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF"

type (
	header map[string]any
	claims map[string]any
)

// sign makes a compact JWS by hand, so that tests can make those that no library would. key is an *rsa.PrivateKey, an
// *ecdsa.PrivateKey, a []byte for HMAC, or nil for an empty signature.
func sign(tb testing.TB, key any, h header, c any) string {
	tb.Helper()
	text := encode(tb, h) + "." + encode(tb, c)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature(tb, key, h["alg"], text))
}

func encode(tb testing.TB, v any) string {
	tb.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

func signature(tb testing.TB, key, alg any, text string) []byte {
	tb.Helper()
	hash, digest := crypto.SHA256, func() []byte { d := sha256.Sum256([]byte(text)); return d[:] }()
	switch alg {
	case "RS384", "ES384":
		d := sha512.Sum384([]byte(text))
		hash, digest = crypto.SHA384, d[:]
	case "RS512", "ES512":
		d := sha512.Sum512([]byte(text))
		hash, digest = crypto.SHA512, d[:]
	}
	switch key := key.(type) {
	case nil:
		return nil
	case []byte:
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	case *rsa.PrivateKey:
		if alg == "PS256" {
			sig, err := rsa.SignPSS(rand.Reader, key, hash, digest, nil)
			if err != nil {
				tb.Fatal(err)
			}
			return sig
		}
		sig, err := rsa.SignPKCS1v15(nil, key, hash, digest)
		if err != nil {
			tb.Fatal(err)
		}
		return sig
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, digest)
		if err != nil {
			tb.Fatal(err)
		}
		size := (key.Curve.Params().BitSize + 7) / 8
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	}
	tb.Fatalf("cannot sign with a %T", key)
	return nil
}
