package awsapi

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

// Credential is what an access key resolves to: the secret to verify with, and whose it is.
type Credential struct {
	Secret   sigv4.Secret
	Identity Identity
}

// AuthKind says why a request was not authenticated; each protocol has its own code and status for it.
type AuthKind int

// The kinds of AuthError.
const (
	MissingToken   AuthKind = iota + 1 // not signed
	UnknownKey                         // the access key or its session token is not known, not valid, or its entity is gone
	ExpiredSession                     // temporary credentials whose time is over
	BadSignature                       // see Signature for why
)

// String names the kind for logs.
func (k AuthKind) String() string {
	switch k {
	case MissingToken:
		return "not signed"
	case UnknownKey:
		return "unknown key"
	case ExpiredSession:
		return "expired session"
	case BadSignature:
		return "bad signature"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// AuthError is a failed authentication.
type AuthError struct {
	Kind      AuthKind
	Signature *sigv4.Error // for BadSignature
	Cause     error        // for the log only
}

// Error describes the failure for logs.
func (e *AuthError) Error() string {
	switch {
	case e.Signature != nil:
		return "not authenticated: " + e.Kind.String() + ": " + e.Signature.Message
	case e.Cause != nil:
		return "not authenticated: " + e.Kind.String() + ": " + e.Cause.Error()
	}
	return "not authenticated: " + e.Kind.String()
}

// Unwrap returns the cause.
func (e *AuthError) Unwrap() error { return e.Cause }

// skew is how far a client's clock may be off, and how old a signature may be (AWS General Reference, "Signature
// calculation": 15 minutes for STS, IAM and S3).
const skew = 15 * time.Minute

// Authenticator verifies signed requests. The gateway and the handler share one.
type Authenticator struct {
	// Credentials finds what an access key (and the session token of temporary ones) resolves to. Errors are *AuthError of kind UnknownKey or
	// ExpiredSession, or wrap kv.ErrUnavailable.
	Credentials func(ctx context.Context, accessKeyID, sessionToken string) (Credential, error)
	// Region is what unsigned requests are taken to be for.
	Region string
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Authenticate verifies the request's signature for a service (its signing name) and returns the caller. bodyHash is
// the hex SHA-256 of the body if it was read, else empty (see sigv4.Signature.Verify). Errors are *AuthError, or wrap
// kv.ErrUnavailable.
//
// The credential scope must be of the service, and of a region that has the form of an AWS region. A presigned request is valid
// for the time that it says only if it is for S3. Others are valid for 15 minutes whatever they say, as AWS's STS has it:
// Kubernetes tokens made by eksctl and the AWS CLI say one minute and are used for ten.
func (a *Authenticator) Authenticate(r *http.Request, service, bodyHash string) (*Caller, error) {
	sig, err := sigv4.Parse(r)
	if err != nil {
		return nil, signatureError(err)
	}
	return a.authenticate(r, sig, service, bodyHash)
}

// signatureError wraps an error of sigv4.
func signatureError(err error) *AuthError {
	var s *sigv4.Error
	if errors.As(err, &s) {
		return &AuthError{Kind: BadSignature, Signature: s}
	}
	return &AuthError{Kind: MissingToken, Cause: err}
}

func (a *Authenticator) authenticate(r *http.Request, sig *sigv4.Signature, service, bodyHash string) (*Caller, error) {
	if sig.Service != service {
		return nil, &AuthError{Kind: BadSignature, Signature: &sigv4.Error{Kind: sigv4.BadScope,
			Message: "Credential should be scoped to correct service: '" + service + "'."}}
	}
	if _, ok := arn.PartitionOfRegion(sig.Region); !ok {
		return nil, &AuthError{Kind: BadSignature, Signature: &sigv4.Error{Kind: sigv4.BadScope,
			Message: fmt.Sprintf("Credential should be scoped to a valid Region, not '%.64s'.", sig.Region)}}
	}
	cred, err := a.Credentials(r.Context(), sig.AccessKeyID, sig.SessionToken)
	if err != nil {
		var ae *AuthError
		if errors.As(err, &ae) || errors.Is(err, kv.ErrUnavailable) {
			return nil, err
		}
		return nil, fmt.Errorf("find access key %.128s: %w", sig.AccessKeyID, err)
	}
	if service != "s3" {
		sig.Expires = 0
	}
	now := a.now()
	if err := sig.Verify(r, cred.Secret, bodyHash, skew, now, nil); err != nil {
		return nil, signatureError(err)
	}
	c := a.caller(r, service, now)
	c.Identity, c.Region = cred.Identity, sig.Region
	return c, nil
}

// Anonymous returns the caller of an unsigned request.
func (a *Authenticator) Anonymous(r *http.Request, service string) *Caller {
	c := a.caller(r, service, a.now())
	c.Identity, c.Region = Identity{Kind: policy.Anonymous}, a.Region
	return c
}

func (a *Authenticator) now() time.Time {
	if a.Now == nil {
		return time.Now()
	}
	return a.Now()
}

// caller is what every request tells about its sender.
func (a *Authenticator) caller(r *http.Request, service string, now time.Time) *Caller {
	c := &Caller{Service: service, UserAgent: r.UserAgent(), Host: r.Host, Secure: r.TLS != nil, Time: now, SourceIP: sourceIP(r)}
	if r.TLS != nil {
		c.TLSVersion = strings.Replace(tls.VersionName(r.TLS.Version), " ", "v", 1)
		c.TLSCipher = tls.CipherSuiteName(r.TLS.CipherSuite)
	}
	if e, ok := r.Context().Value(eventKey{}).(*event); ok {
		c.RequestID = e.requestID
	} else {
		c.RequestID = NewUUID()
	}
	return c
}

func sourceIP(r *http.Request) netip.Addr {
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return from.Addr().Unmap()
	}
	return netip.Addr{} // a listener without addresses, such as a Unix socket
}

// NewUUID makes a random UUID (RFC 9562, version 4).
func NewUUID() string {
	var u [16]byte
	rand.Read(u[:])
	u[6] = u[6]&0x0F | 0x40
	u[8] = u[8]&0x3F | 0x80
	text := make([]byte, 0, 36)
	for i, part := range [...][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			text = append(text, '-')
		}
		text = hex.AppendEncode(text, part)
	}
	return string(text)
}
