package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

func newOIDCCommand(c *cli) *cobra.Command {
	return group("oidc", "Publish an issuer on a static host, and check one as STS would", newOIDCPublish(c), newOIDCCheck(c))
}

// maxKeySet bounds a document with keys, or a discovery document, in bytes: as STS's side of Lanyard does.
const maxKeySet = 1 << 20

// keyInput says where the public keys of an issuer are read from: a JWK set, PEM files, or an API server.
type keyInput struct {
	jwks        string
	pem         []string
	kubeconfig  string
	kubeContext string
}

func (k *keyInput) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&k.jwks, "jwks", "", "file with the issuer's public keys, as a JWK set")
	flags.StringArrayVar(&k.pem, "public-key", nil, "file with public keys in PEM, such as an API server's --service-account-key-file; may be repeated")
	flags.StringVar(&k.kubeconfig, "kubeconfig", "", "read issuer and keys from the API server of this kubeconfig")
	flags.StringVar(&k.kubeContext, "kube-context", "", "context of the kubeconfig (default: its current one; without --kubeconfig, of kubectl's)")
	for _, other := range []string{"kubeconfig", "kube-context"} {
		cmd.MarkFlagsMutuallyExclusive("jwks", "public-key", other)
	}
}

// fromKubernetes reports whether an API server is to be asked.
func (k *keyInput) fromKubernetes() bool { return k.kubeconfig != "" || k.kubeContext != "" }

// given reports whether keys are to be read from anywhere.
func (k *keyInput) given() bool { return k.jwks != "" || k.pem != nil || k.fromKubernetes() }

// publicKeys are the public keys of an issuer.
type publicKeys struct {
	issuer   string         // that of the API server's tokens, when it was asked
	document []byte         // a JWK set of those that tokens can be verified with
	keys     []keyReport    // all that were given
	api      *kubernetesAPI // the API server that was asked; nil for none
}

// read reads the keys. There is at least one that tokens can be verified with.
func (k *keyInput) read(ctx context.Context) (p publicKeys, err error) {
	switch {
	case k.jwks != "":
		p.document, err = readKeyFile(k.jwks)
	case k.pem != nil:
		p.document, err = readPEM(k.pem)
	default:
		if p.api, err = openKubernetes(k.kubeconfig, k.kubeContext); err == nil {
			p.issuer, p.document, err = p.api.issuer(ctx)
		}
	}
	if err != nil {
		return publicKeys{}, err
	}
	if _, err := idtoken.ParseJWKS(p.document); err != nil {
		return publicKeys{}, withHint(err, "a JWK set of public keys is needed: that of an API server is printed by `kubectl get --raw /openid/v1/jwks`")
	}
	if p.keys, err = inspectKeys(p.document); err != nil {
		return publicKeys{}, err
	}
	usable := p.usable()
	if len(usable) == 0 {
		reason := "it is empty"
		if len(p.keys) > 0 {
			reason = p.keys[0].name() + ": " + p.keys[0].fault
		}
		return publicKeys{}, withHint(fmt.Errorf("the key set has no key that tokens could be verified with: %s", reason),
			"STS takes RSA keys of 2048 bits or more, and EC keys on P-256, P-384 and P-521")
	}
	p.document, err = json.Marshal(jose.JSONWebKeySet{Keys: usable})
	return p, err
}

// usable returns the keys that tokens can be verified with.
func (p *publicKeys) usable() []jose.JSONWebKey {
	var keys []jose.JSONWebKey
	for _, k := range p.keys {
		if k.key != nil {
			keys = append(keys, *k.key)
		}
	}
	return keys
}

// ids returns the IDs of those keys.
func (p *publicKeys) ids() []string {
	ids := []string{}
	for _, k := range p.usable() {
		ids = append(ids, k.KeyID)
	}
	return ids
}

// warnOfKeys tells of keys that no token can be verified with, or not everywhere.
func (c *cli) warnOfKeys(keys []keyReport) {
	for _, k := range keys {
		if k.fault != "" {
			fmt.Fprintf(c.err, "warning: %s: %s; it is left out\n", k.name(), k.fault)
		} else if k.doubt != "" {
			fmt.Fprintf(c.err, "warning: %s: %s\n", k.name(), k.doubt)
		}
	}
}

func readKeyFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	defer f.Close()
	text, err := readAtMost(f, maxKeySet)
	if err != nil {
		return nil, fmt.Errorf("read keys: %s: %w", name, err)
	}
	return text, nil
}

// readAtMost reads all there is, up to a number of bytes.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("longer than %d bytes", limit)
	}
	return text, err
}

// readPEM makes a JWK set of the public keys in PEM files. A file may hold several; a certificate counts for its key, as
// for an API server.
func readPEM(files []string) ([]byte, error) {
	set := jose.JSONWebKeySet{}
	for _, name := range files {
		text, err := readKeyFile(name)
		if err != nil {
			return nil, err
		}
		found := 0
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			key, err := publicKeyOf(block)
			if err != nil {
				return nil, fmt.Errorf("read keys: %s: %w", name, err)
			}
			if key == nil {
				return nil, withHint(fmt.Errorf("%s holds a private key, which is nobody else's business", name),
					"give its public half: openssl pkey -in %s -pubout", name)
			}
			found++
			if !slices.ContainsFunc(set.Keys, func(k jose.JSONWebKey) bool { return k.KeyID == key.KeyID }) {
				set.Keys = append(set.Keys, *key)
			}
		}
		if found == 0 {
			return nil, withHint(fmt.Errorf("%s holds no public key in PEM", name), "give a JWK set with --jwks")
		}
	}
	return json.Marshal(set)
}

// publicKeyOf reads a PEM block; nil is a private key. The key's ID is the one that Kubernetes gives it: the SHA-256 of its PKIX form.
func publicKeyOf(block *pem.Block) (*jose.JSONWebKey, error) {
	var public any
	var err error
	switch {
	case strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return nil, nil
	case block.Type == "PUBLIC KEY":
		public, err = x509.ParsePKIXPublicKey(block.Bytes)
	case block.Type == "RSA PUBLIC KEY":
		public, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case block.Type == "CERTIFICATE":
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
			public = cert.PublicKey
		}
	default:
		return nil, fmt.Errorf("a PEM block of type %q is no public key", block.Type)
	}
	if err != nil {
		return nil, err
	}
	algorithm, err := algorithmOf(public)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return &jose.JSONWebKey{Key: public, KeyID: base64.RawURLEncoding.EncodeToString(sum[:]), Algorithm: algorithm, Use: "sig"}, nil
}

// algorithmOf returns the algorithm that an API server signs with by such a key.
func algorithmOf(public crypto.PublicKey) (string, error) {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return "RS256", nil
	case *ecdsa.PublicKey:
		switch key.Params().BitSize {
		case 256:
			return "ES256", nil
		case 384:
			return "ES384", nil
		case 521:
			return "ES512", nil
		}
	}
	return "", errors.New("STS takes neither this type of key nor its like: RSA, or EC on P-256, P-384 or P-521")
}

// keyReport is what there is to say about one key of a JWK set.
type keyReport struct {
	index int
	id    string
	about string           // algorithm and size
	key   *jose.JSONWebKey // nil: no token can be verified with it
	fault string           // why
	ours  bool             // the fault is in a key that was meant to sign: others are in a set for other uses
	doubt string           // what other verifiers may not take
}

func (k *keyReport) name() string {
	if k.id == "" {
		return fmt.Sprintf("key %d, which has no ID", k.index+1)
	}
	return "key " + k.id
}

// inspectKeys looks at the keys of a JWK set one by one. Which of them are usable is what [idtoken.ParseJWKS] says.
func inspectKeys(document []byte) ([]keyReport, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(document, &set); err != nil {
		return nil, fmt.Errorf("parse key set: %w", err)
	}
	var reports []keyReport
	for i, raw := range set.Keys {
		r := inspectKey(raw)
		r.index = i
		if r.id == "" && len(set.Keys) > 1 && r.fault == "" {
			r.key, r.fault = nil, "it has no kid, and there are others: no token can name it"
		}
		if r.id != "" && r.key != nil && slices.ContainsFunc(reports, func(k keyReport) bool { return k.id == r.id && k.key != nil }) {
			r.key, r.fault = nil, "its kid is there twice: tokens cannot tell the keys apart"
		}
		reports = append(reports, r)
	}
	return reports, nil
}

func inspectKey(raw json.RawMessage) keyReport {
	var m struct {
		Type       string   `json:"kty"`
		ID         string   `json:"kid"`
		Use        string   `json:"use"`
		Operations []string `json:"key_ops"`
		Algorithm  string   `json:"alg"`
		Curve      string   `json:"crv"`
		N          string   `json:"n"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return keyReport{fault: err.Error(), ours: true}
	}
	r := keyReport{id: m.ID, ours: true, about: strings.TrimSpace(m.Algorithm + " " + m.Type + " " + m.Curve)}
	modulus, err := base64.RawURLEncoding.DecodeString(m.N)
	bits := 8 * len(modulus)
	if m.Type == "RSA" && err == nil {
		r.about += " " + strconv.Itoa(bits) + " bits"
	}
	set, err := idtoken.ParseJWKS(slices.Concat([]byte(`{"keys":[`), raw, []byte(`]}`)))
	switch {
	case err != nil:
		r.fault = strings.TrimPrefix(err.Error(), "parse key set: key 0: ")
	case len(set.Keys) == 1:
		r.key = &set.Keys[0]
	case m.Use != "" && m.Use != "sig":
		r.fault, r.ours = fmt.Sprintf("its use is %q, not sig", m.Use), false
	case m.Operations != nil && !slices.Contains(m.Operations, "verify"):
		r.fault, r.ours = "its key_ops do not have verify", false
	case m.Type == "RSA" && bits < 2048:
		r.fault = fmt.Sprintf("an RSA key of %d bits is weak: at least 2048 are needed", bits)
	default:
		r.fault = "STS takes RS256, RS384, RS512, ES256, ES384 and ES512, each with a key of its kind"
	}
	switch {
	case r.fault != "":
	case m.ID == "":
		r.doubt = "it has no kid, which is only taken of a single key"
	case m.Algorithm == "" || m.Use == "":
		r.doubt = "it lacks alg or use, which EKS's keys have"
	}
	return r
}

// parseIssuer reads an issuer's URL, as it is in tokens (OpenID Connect Discovery 1.0, section 2).
func parseIssuer(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		return nil, withHint(fmt.Errorf("the issuer %q is not an https URL", text), "STS asks issuers over https only")
	case u.User != nil || strings.ContainsAny(text, "?#"):
		return nil, withHint(fmt.Errorf("the issuer %s has a user, a query or a fragment", u.Redacted()), "an issuer has a host and perhaps a path")
	}
	return u, nil
}

// below returns the address of a document of an issuer. A slash at the end of the issuer counts once.
func below(issuer, name string) string { return strings.TrimSuffix(issuer, "/") + "/" + name }

// discoveryPath is where an issuer's discovery document is, below its URL.
const discoveryPath = ".well-known/openid-configuration"
