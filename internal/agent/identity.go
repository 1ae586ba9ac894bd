package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

// verifiedFor is how long a token that was verified is taken for it without looking again: a key that the cluster has
// withdrawn counts for no longer than that.
const verifiedFor = 5 * time.Minute

// key is what credentials are kept under: the digest of a verified pod's names, or of a token. Digests keep secrets out of
// the keys, and make them equally long.
type key [sha256.Size]byte

// caller is what is known of who presents a token.
type caller struct {
	key     key
	holder  string // the pod's UID if that was verified, and else its address
	digest  key    // of the token
	expires time.Time
	checked time.Time // when the token was last looked at in full
}

// identify finds out whose a token is, or refuses it. known says that it was remembered.
func (a *Agent) identify(ctx context.Context, token, address string, now time.Time) (who caller, known bool, err error) {
	digest := key(sha256.Sum256([]byte(token)))
	if who, ok := a.tokens.recall(digest, now); ok {
		return who, true, nil
	}
	expires, err := checkToken(token)
	if err != nil {
		return caller{}, false, err
	}
	who = caller{key: digest, holder: clientHost(address), digest: digest, expires: expires, checked: now}
	if a.config.Verify == nil {
		return who, false, nil
	}
	claims, err := a.config.Verify(ctx, token)
	switch {
	case errors.Is(err, idtoken.ErrKeys):
		return who, false, nil // EKS Auth has to tell
	case err != nil:
		return caller{}, false, &refusal{http.StatusBadRequest, fmt.Sprintf("Service account token cannot be verified: %v", err)}
	}
	if k, ok := podKey(claims); ok {
		who.key, who.holder = k, claims.Kubernetes.Pod.UID
	}
	a.tokens.remember(who, now) // no stranger can make one up
	return who, true, nil
}

// podKey is what the credentials of a verified pod are kept under: all that EKS Auth's answer depends on and that stays
// the same when the token is rotated. The service account's UID is part of it, since one of the same name may take the place of one
// that was deleted, whose tokens EKS Auth may refuse. A token that is bound to no pod has none; what becomes of it is for EKS Auth to say.
func podKey(c *idtoken.Claims) (key, bool) {
	k := c.Kubernetes
	if k == nil || k.Pod == nil || k.Pod.UID == "" || k.Namespace == "" || k.ServiceAccount.Name == "" {
		return key{}, false
	}
	// Quoted, so that no two lists of names read the same; and no token begins like this.
	return key(sha256.Sum256(fmt.Appendf(nil, "pod %q %q %q %q %q %q %q %q",
		c.Issuer, c.Audience, c.Subject, k.Namespace, k.ServiceAccount.Name, k.ServiceAccount.UID, k.Pod.Name, k.Pod.UID))), true
}

// checkToken refuses what cannot be a live token, so that it costs EKS Auth nothing, and returns when the token expires.
// The library is the one that AWS's agent uses, because its texts are part of the answers.
func checkToken(token string) (expires time.Time, err error) {
	if token == "" {
		return time.Time{}, &refusal{http.StatusBadRequest, "Service account token cannot be empty"}
	}
	if len(token) > idtoken.MaxSize {
		return time.Time{}, &refusal{http.StatusBadRequest,
			fmt.Sprintf("Service account token cannot be parsed: token is malformed: longer than %d bytes", idtoken.MaxSize)}
	}
	parsed, _, err := jwt.NewParser().ParseUnverified(token, &jwt.RegisteredClaims{})
	if err != nil {
		return time.Time{}, &refusal{http.StatusBadRequest, fmt.Sprintf("Service account token cannot be parsed: %v", err)}
	}
	if err := jwt.NewValidator().Validate(parsed.Claims); err != nil {
		return time.Time{}, &refusal{http.StatusBadRequest, fmt.Sprintf("Service account token failed basic claim validations: %v", err)}
	}
	end, err := parsed.Claims.GetExpirationTime()
	if err != nil || end == nil {
		return time.Time{}, nil // AWS's agent lets it pass, and EKS Auth does not
	}
	return end.Time, nil
}

// clientHost is a client's address without its port.
func clientHost(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// tokens remembers whose the tokens are that got credentials, so that most requests need no look into the token.
type tokens struct {
	max int // how many; any goes when there are more

	mu       sync.Mutex
	byDigest map[key]caller
}

// recall returns what is known of a token that is still good.
func (t *tokens) recall(digest key, now time.Time) (caller, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	who, ok := t.byDigest[digest]
	if !ok {
		return caller{}, false
	}
	if !who.expires.IsZero() && !now.Before(who.expires) || now.Sub(who.checked) >= verifiedFor {
		delete(t.byDigest, digest)
		return caller{}, false
	}
	return who, true
}

func (t *tokens) remember(who caller, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.max <= 0 {
		return
	}
	if t.byDigest == nil {
		t.byDigest = map[key]caller{}
	}
	if len(t.byDigest) >= t.max {
		for digest, other := range t.byDigest {
			if now.Sub(other.checked) >= verifiedFor {
				delete(t.byDigest, digest)
			}
		}
	}
	for digest := range t.byDigest {
		if len(t.byDigest) < t.max {
			break
		}
		delete(t.byDigest, digest)
	}
	t.byDigest[who.digest] = who
}
