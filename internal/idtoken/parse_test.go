package idtoken_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// unsigned makes a token with these texts as header and claims.
func unsigned(header, claims string) string { return b64(header) + "." + b64(claims) + ".AAAA" }

const minimal = `{"iss":"https://i","sub":"s","aud":"a","exp":2,"iat":1`

func TestParseInsecureShape(t *testing.T) {
	h := `{"alg":"RS256"}`
	tests := []struct {
		name  string
		token string
		ok    bool
	}{
		{"the least there must be", unsigned(h, minimal+"}"), true},
		{"members of no concern", unsigned(h, minimal+`,"groups":["a"],"x":{"y":[1.5,null]}}`), true},
		{"empty", "", false},
		{"no parts", "abc", false},
		{"two parts", b64(h) + "." + b64(minimal+"}"), false},
		{"four parts", unsigned(h, minimal+"}") + ".AAAA", false},
		{"five parts, as encrypted tokens have", "a.b.c.d.e", false},
		{"padded", b64(h) + "=." + b64(minimal+"}") + ".AAAA", false},
		{"standard alphabet", unsigned(h, minimal+"}") + "+/", false},
		{"line break", unsigned(h, minimal+"}")[:10] + "\n" + unsigned(h, minimal+"}")[10:], false},
		{"trailing bits", b64(h) + "." + b64(minimal+"}") + ".AAB", false},
		{"leading space", " " + unsigned(h, minimal+"}"), false},
		{"Bearer", "Bearer " + unsigned(h, minimal+"}"), false},
		{"longest", unsigned(h, minimal+"}")[:len(unsigned(h, minimal+"}"))-4] + strings.Repeat("A", idtoken.MaxSize-len(unsigned(h, minimal+"}"))+4), true},
		{"too long", unsigned(h, minimal+"}") + strings.Repeat("A", idtoken.MaxSize), false},
		{"header is no object", unsigned(`"RS256"`, minimal+"}"), false},
		{"header is null", unsigned(`null`, minimal+"}"), false},
		{"claims are a list", unsigned(h, `[`+minimal+`}]`), false},
		{"claims are null", unsigned(h, `null`), false},
		{"claims are not JSON", unsigned(h, minimal), false},
		{"something after the claims", unsigned(h, minimal+"}{}"), false},
		{"a claim twice", unsigned(h, minimal+`,"sub":"t"}`), false},
		{"a nested member twice", unsigned(h, minimal+`,"kubernetes.io":{"namespace":"a","namespace":"b"}}`), false},
		{"invalid UTF-8", unsigned(h, minimal+",\"azp\":\"\xff\"}"), false},
		{"time with a fraction", unsigned(h, minimal+`,"nbf":1.5}`), false},
		{"time with an exponent", unsigned(h, minimal+`,"nbf":1e3}`), false},
		{"time as text", unsigned(h, minimal+`,"nbf":"1"}`), false},
		{"negative time", unsigned(h, minimal+`,"nbf":-1}`), false},
		{"time that would overflow", unsigned(h, minimal+`,"nbf":9223372036854775807}`), false},
		{"subject is a number", unsigned(h, strings.Replace(minimal, `"s"`, "1", 1)+"}"), false},
		{"audience is an object", unsigned(h, strings.Replace(minimal, `"a"`, "{}", 1)+"}"), false},
		{"audience of a number", unsigned(h, strings.Replace(minimal, `"a"`, "[1]", 1)+"}"), false},
		{"key ID is a number", unsigned(`{"alg":"RS256","kid":1}`, minimal+"}"), false},
		{"kubernetes claim is text", unsigned(h, minimal+`,"kubernetes.io":"x"}`), false},
		{"tags are a list", unsigned(h, minimal+`,"https://aws.amazon.com/tags":[]}`), false},
		{"principal tags are a list", unsigned(h, minimal+`,"https://aws.amazon.com/tags":{"principal_tags":[]}}`), false},
		{"tag without value", unsigned(h, minimal+`,"https://aws.amazon.com/tags":{"principal_tags":{"a":[]}}}`), false},
		{"tag that is null", unsigned(h, minimal+`,"https://aws.amazon.com/tags":{"principal_tags":{"a":null}}}`), false},
		{"tag with two values", unsigned(h, minimal+`,"https://aws.amazon.com/tags":{"principal_tags":{"a":["1","2"]}}}`), false},
		{"tag twice", unsigned(h, minimal+`,"https://aws.amazon.com/tags":{"principal_tags":{"a":"1","a":"2"}}}`), false},
		{"source identity is a list", unsigned(h, minimal+`,"https://aws.amazon.com/source_identity":["x"]}`), false},
		{"deep nesting", unsigned(h, minimal+`,"x":`+strings.Repeat("[", 7000)+strings.Repeat("]", 7000)+"}"), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := idtoken.ParseInsecure(tt.token)
			if tt.ok != (err == nil) || tt.ok != (got != nil) {
				t.Fatalf("got %v, %v; want it accepted: %t", got, err, tt.ok)
			}
			if !tt.ok && !errors.Is(err, idtoken.ErrMalformed) {
				t.Errorf("%v does not wrap ErrMalformed", err)
			}
		})
	}
}

func TestParseInsecureMissingClaims(t *testing.T) {
	all := claims{"iss": "https://i", "sub": "s", "aud": "a", "exp": 2, "iat": 1}
	for _, name := range []string{"iss", "sub", "aud", "exp", "iat"} {
		for _, value := range []any{nil, rawJSON("null")} {
			_, err := idtoken.ParseInsecure(sign(t, nil, header{}, all.with(claims{name: value})))
			var missing *idtoken.MissingClaimError
			if !errors.As(err, &missing) || missing.Claim != name {
				t.Errorf("%s is %s: got %v", name, value, err)
			}
		}
	}
	for name, changes := range map[string]claims{"an empty list": {"aud": []string{}}, "an empty string": {"aud": ""}} {
		var missing *idtoken.MissingClaimError
		if _, err := idtoken.ParseInsecure(sign(t, nil, header{}, all.with(changes))); !errors.As(err, &missing) || missing.Claim != "aud" {
			t.Errorf("aud is %s: got %v", name, err)
		}
	}
}

func TestParseInsecureTags(t *testing.T) {
	got, err := idtoken.ParseInsecure(unsigned(`{"kid":"k"}`, minimal+`,"amr":["pwd","mfa"],"azp":"party","jti":"id",
		"https://aws.amazon.com/source_identity":"alice",
		"https://aws.amazon.com/tags":{"transitive_tag_keys":["b"],"principal_tags":{"b":["2"],"a":"1","\u00e9":[""]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	type picked struct {
		AMR, Transitive        []string
		Party, ID, Source, Key string
		Tags                   []idtoken.Tag
	}
	want := picked{[]string{"pwd", "mfa"}, []string{"b"}, "party", "id", "alice", "k", []idtoken.Tag{{Key: "b", Value: "2"}, {Key: "a", Value: "1"}, {Key: "é"}}}
	if diff := cmp.Diff(want, picked{got.AMR, got.TransitiveTags, got.AuthorizedParty, got.ID, got.SourceIdentity, got.KeyID, got.PrincipalTags}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzParseInsecure holds the parser to encoding/json: whatever it accepts must mean the same there.
func FuzzParseInsecure(f *testing.F) {
	f.Add(`{"alg":"RS256","kid":"k"}`, minimal+`,"kubernetes.io":{"namespace":"n","pod":{"name":"p","uid":"u"}}}`, "AAAA")
	f.Add(`{}`, minimal+`,"https://aws.amazon.com/tags":{"principal_tags":{"b":["2"],"a":"1"},"transitive_tag_keys":["b"]}}`, "")
	f.Add(`{"crit":null}`, minimal+`,"nbf":3,"amr":"x"}`, "_-")
	f.Fuzz(func(t *testing.T, h, c, sig string) {
		c1, err := idtoken.ParseInsecure(b64(h) + "." + b64(c) + "." + sig)
		if err != nil {
			var missing *idtoken.MissingClaimError
			if !errors.Is(err, idtoken.ErrMalformed) && !errors.As(err, &missing) {
				t.Fatalf("%v is neither malformed nor a missing claim", err)
			}
			return
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(c), &m); err != nil {
			t.Fatalf("accepted what encoding/json refuses: %v", err)
		}
		if m["iss"] != c1.Issuer || m["sub"] != c1.Subject || m["exp"] != float64(c1.Expires.Unix()) || m["iat"] != float64(c1.IssuedAt.Unix()) {
			t.Fatalf("understood %q as %+v", c, c1)
		}
		if len(c1.Audience) == 0 {
			t.Fatal("accepted without an audience")
		}
		c2, err := idtoken.ParseInsecure(b64(h) + "." + b64(c) + "." + sig)
		if err != nil || !reflect.DeepEqual(c1, c2) {
			t.Fatalf("parsed differently the second time: %v", err)
		}
	})
}

// FuzzVerify alters a good token: nothing but the original may be accepted.
func FuzzVerify(f *testing.F) {
	k := keysOnce()
	keys := set(jose.JSONWebKey{Key: &k.p256.PublicKey, KeyID: "k"})
	good := sign(f, k.p256, header{"alg": "ES256", "kid": "k"}, podClaims(now, 1))
	f.Add(good)
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add(sign(f, nil, header{"alg": "none"}, podClaims(now, 1)))
	f.Fuzz(func(t *testing.T, token string) {
		got, err := idtoken.Verify(t.Context(), token, idtoken.Expect{Issuer: issuer, Now: now}, keys)
		if (err == nil) != (token == good) || (err == nil) != (got != nil) {
			t.Fatalf("%q: got %v, %v", token, got, err)
		}
	})
}

func jwks(keys ...string) []byte { return []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`) }

func publicJWK(tb testing.TB, public any, id string) string {
	tb.Helper()
	data, err := jose.JSONWebKey{Key: public, KeyID: id}.MarshalJSON()
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

func TestParseJWKS(t *testing.T) {
	k := keysOnce()
	rsaKey, ecKey := publicJWK(t, &k.rsa.PublicKey, "r"), publicJWK(t, &k.p256.PublicKey, "e")
	and := func(jwk, members string) string { return strings.TrimSuffix(jwk, "}") + "," + members + "}" }
	repeat := func(jwk string, n int) string { return strings.TrimSuffix(strings.Repeat(jwk+",", n), ",") }
	privateJWK, err := jose.JSONWebKey{Key: k.p256, KeyID: "private"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		data []byte
		want []string // key IDs; nil for an error
	}{
		{"RSA and EC keys", jwks(rsaKey, ecKey, publicJWK(t, &k.p521.PublicKey, "e5")), []string{"r", "e", "e5"}},
		{"no keys", jwks(), []string{}},
		{"for signatures", jwks(and(rsaKey, `"use":"sig","alg":"RS256"`)), []string{"r"}},
		{"for encryption", jwks(and(rsaKey, `"use":"enc"`), ecKey), []string{"e"}},
		{"for signing only", jwks(and(rsaKey, `"key_ops":["sign"]`), ecKey), []string{"e"}},
		{"for verifying", jwks(and(rsaKey, `"key_ops":["verify"]`)), []string{"r"}},
		{"of another algorithm", jwks(and(rsaKey, `"alg":"PS256"`), ecKey), []string{"e"}},
		{"of an algorithm for the other type", jwks(and(rsaKey, `"alg":"ES256"`), ecKey), []string{"e"}},
		{"of unknown type", jwks(`{"kty":"AKP","kid":"x","pub":"AA"}`, ecKey), []string{"e"}},
		{"Ed25519", jwks(`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`, ecKey), []string{"e"}},
		{"of an unknown curve", jwks(`{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}`, ecKey), []string{"e"}},
		{"weak", jwks(publicJWK(t, &k.smallRSA.PublicKey, "s"), ecKey), []string{"e"}},
		{"certificates are not read", jwks(and(rsaKey, `"x5c":["bm90IGEgY2VydGlmaWNhdGU="],"x5t":"?"`)), []string{"r"}},
		{"as many as AWS takes", jwks(repeat(rsaKey, 100), repeat(ecKey, 100)), append(strings.Fields(strings.Repeat("r ", 100)), strings.Fields(strings.Repeat("e ", 100))...)},
		{"too many RSA keys", jwks(repeat(rsaKey, 101)), nil},
		{"too many EC keys", jwks(repeat(ecKey, 101)), nil},
		{"private", jwks(rsaKey, string(privateJWK)), nil},
		{"symmetric", jwks(`{"kty":"oct","k":"AAAA"}`), nil},
		{"private part of RSA alone", jwks(and(rsaKey, `"p":"AQ"`)), nil},
		{"not on the curve", jwks(strings.Replace(ecKey, `"y":"`, `"y":"A`, 1)), nil},
		{"without modulus", jwks(`{"kty":"RSA","e":"AQAB"}`), nil},
		{"no object", []byte(`[]`), nil},
		{"no keys member", []byte(`{}`), nil},
		{"keys twice", []byte(`{"keys":[],"keys":[]}`), nil},
		{"a key that is no object", jwks(`"x"`), nil},
		{"empty", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := idtoken.ParseJWKS(tt.data)
			if (err == nil) != (tt.want != nil) {
				t.Fatalf("got error %v, want key IDs %v", err, tt.want)
			}
			ids := []string{}
			for _, key := range got.Keys {
				ids = append(ids, key.KeyID)
			}
			if diff := cmp.Diff(tt.want, ids); err == nil && diff != "" {
				t.Errorf("key IDs (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseJWKS(f *testing.F) {
	k := keysOnce()
	f.Add(string(jwks(publicJWK(f, &k.rsa.PublicKey, "r"), publicJWK(f, &k.p256.PublicKey, "e"))))
	f.Add(`{"keys":[{"kty":"oct","k":"AAAA"}]}`)
	f.Fuzz(func(t *testing.T, data string) {
		set, err := idtoken.ParseJWKS([]byte(data))
		if err != nil {
			return
		}
		for _, key := range set.Keys {
			if !key.Valid() || !key.IsPublic() || key.Use != "sig" {
				t.Fatalf("kept %+v", key)
			}
		}
		first, err := json.Marshal(jose.JSONWebKeySet{Keys: append([]jose.JSONWebKey{}, set.Keys...)})
		if err != nil {
			t.Fatal(err)
		}
		set, err = idtoken.ParseJWKS(first)
		if err != nil {
			t.Fatalf("refuses what it kept: %v", err)
		}
		second, err := json.Marshal(jose.JSONWebKeySet{Keys: append([]jose.JSONWebKey{}, set.Keys...)})
		if err != nil || string(first) != string(second) {
			t.Fatalf("round trip of %s gives %s, %v", first, second, err)
		}
	})
}
