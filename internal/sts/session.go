package sts

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

// A session token is the base64 of a fixed prefix and a sealed session. The prefix is that of AWS's own tokens, which
// begin IQoJb3JpZ2luX2Vj. Inside the seal is:
//
//	version (one byte, sessionVersion), kind (one byte, policy.PrincipalKind)
//	issued, expires (seconds since 1970)
//	account, ARN, user ID, entity ID, entity ARN, access key ID, secret access key
//	name, source identity, federated provider
//	tags (a count; then key, value, and a byte that is 1 for transitive ones)
//	policies, policy ARNs (a count, then strings)
//	context keys (a count; then key, value)
//
// Numbers, counts and the lengths in front of strings are unsigned varints in their shortest form (encoding/binary).
const (
	tokenPrefix    = "!\n\torigin_ec"
	sealPurpose    = "session"
	sessionVersion = 1
	// maxToken bounds a session token, in characters. The limits on what goes into a session keep tokens well below it.
	maxToken = 24 * 1024
)

// errSession is the cause of every refusal of a session token that is not, or no more, one of ours.
var errSession = errors.New("not a session token of this service")

// session is what a token carries: whose it is, and the secret that its requests are signed with.
type session struct {
	identity awsapi.Identity // Session is never nil
	secret   sigv4.Secret
}

// encode returns the session's bytes. It is the inverse of decodeSession.
func (s *session) encode() []byte {
	id, ses := &s.identity, s.identity.Session
	b := make([]byte, 0, 1024)
	b = append(b, sessionVersion, byte(id.Kind))
	b = binary.AppendUvarint(b, uint64(ses.Issued.Unix()))
	b = binary.AppendUvarint(b, uint64(ses.Expires.Unix()))
	for _, v := range []string{
		id.Account, id.ARN, id.UserID, id.EntityID, id.EntityARN, id.AccessKeyID, string(s.secret),
		ses.Name, ses.SourceIdentity, ses.FederatedProvider,
	} {
		b = appendString(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(ses.Tags)))
	for _, t := range ses.Tags {
		b = appendString(appendString(b, t.Key), t.Value)
		if containsFold(ses.TransitiveKeys, t.Key) {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	for _, list := range [][]string{ses.Policies, ses.PolicyARNs} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, v := range list {
			b = appendString(b, v)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(ses.ContextKeys)))
	for _, kv := range ses.ContextKeys {
		b = appendString(appendString(b, kv.Key), kv.Value)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decodeSession reads what encode wrote, and nothing else: each session has one encoding.
func decodeSession(b []byte) (*session, error) {
	r := reader{rest: string(b)} // one copy; the session's strings are parts of it
	if v := r.byte(); v != sessionVersion {
		return nil, fmt.Errorf("%w: version %d", errSession, v)
	}
	s := &session{}
	ses := &awsapi.Session{}
	id := &s.identity
	id.Session = ses
	switch id.Kind = policy.PrincipalKind(r.byte()); id.Kind {
	case policy.Root, policy.User, policy.RoleSession, policy.Federated:
	default:
		return nil, fmt.Errorf("%w: principal kind %d", errSession, id.Kind)
	}
	ses.Issued, ses.Expires = r.time(), r.time()
	id.Account, id.ARN, id.UserID, id.EntityID, id.EntityARN = r.string(), r.string(), r.string(), r.string(), r.string()
	id.AccessKeyID, s.secret = r.string(), sigv4.Secret(r.string())
	ses.Name, ses.SourceIdentity, ses.FederatedProvider = r.string(), r.string(), r.string()
	if n := r.count(3); n > 0 {
		ses.Tags = make([]awsapi.Tag, n)
		for i := range ses.Tags {
			ses.Tags[i] = awsapi.Tag{Key: r.string(), Value: r.string()}
			switch r.byte() {
			case 0:
			case 1:
				if ses.TransitiveKeys == nil {
					ses.TransitiveKeys = make([]string, 0, n-i)
				}
				ses.TransitiveKeys = append(ses.TransitiveKeys, ses.Tags[i].Key)
			default:
				r.bad = true
			}
		}
	}
	ses.Policies = r.strings()
	ses.PolicyARNs = r.strings()
	if n := r.count(2); n > 0 {
		ses.ContextKeys = make([]awsapi.KeyValue, n)
		for i := range ses.ContextKeys {
			ses.ContextKeys[i] = awsapi.KeyValue{Key: r.string(), Value: r.string()}
		}
	}
	if r.bad || r.rest != "" {
		return nil, fmt.Errorf("%w: malformed", errSession)
	}
	return s, nil
}

// reader takes a session's bytes apart. Once something is malformed, bad is set and all that follows is zero.
type reader struct {
	rest string
	bad  bool
}

func (r *reader) byte() byte {
	if r.bad || r.rest == "" {
		r.bad = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) uvarint() uint64 {
	var v uint64
	for shift := 0; ; shift += 7 {
		b := r.byte()
		if r.bad || shift == 63 && b > 1 || shift > 0 && b == 0 { // over 64 bits, or not the shortest form
			r.bad = true
			return 0
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
}

// latest is the end of the year 9999; no session is of a later time.
const latest = 253402300799

func (r *reader) time() time.Time {
	v := r.uvarint()
	if v > latest {
		r.bad = true
		return time.Time{}
	}
	return time.Unix(int64(v), 0).UTC()
}

func (r *reader) string() string {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.bad = true
		return ""
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

// count reads the number of elements that follow, each of at least size bytes: what is allocated for them is bounded
// by what is there.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.rest)/size) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) strings() []string {
	n := r.count(1)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.string()
	}
	return list
}

// mint makes credentials for a session of identity id, which must be complete but for its access key ID. Nothing is
// stored: the token is all there is.
func (s *Service) mint(id awsapi.Identity) (sigv4.Credentials, awsapi.Identity, error) {
	var random [30]byte
	rand.Read(random[:])
	id.AccessKeyID = arn.NewID(arn.TemporaryAccessKeyID, id.Account)
	secret := sigv4.Secret(base64.StdEncoding.EncodeToString(random[:]))

	sealed, err := s.keyring.Seal(sealPurpose, (&session{identity: id, secret: secret}).encode())
	if err != nil {
		return sigv4.Credentials{}, awsapi.Identity{}, fmt.Errorf("seal session: %w", err)
	}
	token := base64.StdEncoding.EncodeToString(slices.Concat([]byte(tokenPrefix), sealed))
	if len(token) > maxToken {
		return sigv4.Credentials{}, awsapi.Identity{}, fmt.Errorf("session token of %d characters is longer than %d", len(token), maxToken)
	}
	return sigv4.Credentials{AccessKeyID: id.AccessKeyID, SecretAccessKey: secret, SessionToken: token}, id, nil
}

// open returns the session of a token that was minted, by any replica, together with the access key ID.
func (s *Service) open(accessKeyID, token string) (*session, error) {
	if len(token) > maxToken {
		return nil, fmt.Errorf("%w: too long", errSession)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(token)
	if err != nil || base64.StdEncoding.EncodedLen(len(raw)) != len(token) { // the decoder skips line breaks
		return nil, fmt.Errorf("%w: not base64", errSession)
	}
	sealed, ok := bytes.CutPrefix(raw, []byte(tokenPrefix))
	if !ok {
		return nil, fmt.Errorf("%w: no prefix", errSession)
	}
	plain, err := s.keyring.Open(sealPurpose, sealed)
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	ses, err := decodeSession(plain)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(ses.identity.AccessKeyID), []byte(accessKeyID)) != 1 {
		return nil, fmt.Errorf("%w: of another access key", errSession)
	}
	return ses, nil
}

// containsFold reports whether a tag key is among keys, without regard to case.
func containsFold(keys []string, key string) bool {
	return slices.ContainsFunc(keys, func(k string) bool { return strings.EqualFold(k, key) })
}
