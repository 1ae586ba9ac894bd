package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// secretMark begins all secrets, so that they are known where they must not be.
const secretMark = "soaksecret"

// node has the pods, and the key that their cluster signs tokens with.
type node struct {
	signer, forger jose.Signer // forger has another key under the same name
	jwks           []byte
	seal           []byte // key of the MACs that credentials have
	pods           []*pod
}

type pod struct {
	uid, name string

	mu    sync.Mutex
	token string
}

func newNode(pods int) (*node, error) {
	n := &node{seal: []byte(rand.Text())}
	signer := func() (jose.Signer, *rsa.PublicKey, error) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, nil, err
		}
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
		return s, &key.PublicKey, err
	}
	var err error
	if n.forger, _, err = signer(); err != nil {
		return nil, err
	}
	var public *rsa.PublicKey
	if n.signer, public, err = signer(); err != nil {
		return nil, err
	}
	if n.jwks, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "k", Algorithm: "RS256", Use: "sig"}}}); err != nil {
		return nil, err
	}
	for i := range pods {
		p := &pod{uid: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), name: fmt.Sprintf("app-%d", i)}
		if err := n.rotate(p); err != nil {
			return nil, err
		}
		n.pods = append(n.pods, p)
	}
	return n, nil
}

// sign makes a token for a pod, as Kubernetes does.
func (n *node) sign(signer jose.Signer, p *pod) (string, error) {
	now := time.Now()
	payload, err := json.Marshal(map[string]any{
		"iss": "https://issuer.example.com", "aud": []string{"pods.eks.amazonaws.com"}, "sub": "system:serviceaccount:default:app",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text(),
		"kubernetes.io": map[string]any{
			"namespace":      "default",
			"serviceaccount": map[string]string{"name": "app", "uid": "00000000-0000-4000-9000-000000000000"},
			"pod":            map[string]string{"name": p.name, "uid": p.uid},
		},
	})
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// rotate gives a pod another token.
func (n *node) rotate(p *pod) error {
	token, err := n.sign(n.signer, p)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.token = token
	return nil
}

func (p *pod) current() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.token
}

func (n *node) mac(uid string, expires int64) string {
	h := hmac.New(sha256.New, n.seal)
	fmt.Fprintf(h, "%s %d", uid, expires)
	return hex.EncodeToString(h.Sum(nil))
}

// mint makes credentials that say whose they are and when they end.
func (n *node) mint(uid string, expires time.Time) (id, secret, session string) {
	digest := sha256.Sum256([]byte(uid))
	at := expires.Unix()
	return "ASIA" + base32.StdEncoding.EncodeToString(digest[:10]), secretMark + n.mac(uid, at), strings.Join([]string{secretMark, uid, strconv.FormatInt(at, 10), n.mac(uid, at)}, "/")
}

// check says what is wrong with an answer to a pod.
func (n *node) check(p *pod, body []byte, now time.Time) error {
	var got struct {
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		Token           string
		AccountID       string `json:"AccountId"`
		Expiration      time.Time
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return fmt.Errorf("the answer is %q: %w", body, err)
	}
	id, secret, session := n.mint(p.uid, got.Expiration)
	switch {
	case got.AccessKeyID != id || got.SecretAccessKey != secret || got.Token != session || got.AccountID != "111122223333":
		return fmt.Errorf("pod %s got the credentials of another: %q", p.uid, got.Token)
	case !got.Expiration.After(now):
		return fmt.Errorf("pod %s got credentials that ended %v before", p.uid, now.Sub(got.Expiration))
	}
	return nil
}
