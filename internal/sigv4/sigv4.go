// Package sigv4 signs and verifies HTTP requests with AWS Signature Version 4 (AWS General Reference, "Signing AWS API
// requests"): in the Authorization header, in the query, and for chunked bodies. It knows no identities: who owns an
// access key, and its secret, come from the caller.
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// Secret is a secret access key. It redacts itself in logs and in fmt's verbs.
type Secret string

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue("REDACTED") }

// String redacts.
func (Secret) String() string { return "REDACTED" }

// GoString redacts.
func (Secret) GoString() string { return "REDACTED" }

// Credentials sign requests. SessionToken is empty for long-term keys.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey Secret
	SessionToken    string
}

// LogValue implements slog.LogValuer: only the access key ID is shown.
func (c Credentials) LogValue() slog.Value {
	return slog.GroupValue(slog.String("access_key_id", c.AccessKeyID))
}

const (
	// UnsignedPayload as a payload hash leaves the body out of the signature.
	UnsignedPayload = "UNSIGNED-PAYLOAD"
	// EmptyPayload is the payload hash of a request without a body.
	EmptyPayload = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

const (
	algorithm      = "AWS4-HMAC-SHA256"
	terminator     = "aws4_request"
	timeFormat     = "20060102T150405Z"
	dateFormat     = "20060102"
	maxExpires     = 7 * 24 * time.Hour
	contentSHA256  = "X-Amz-Content-Sha256"
	maxSigned      = 200 // signed headers of one request
	serviceS3      = "s3"
	signatureBytes = 2 * sha256.Size
)

// unsignedHeaders are left out of signatures that this package makes: proxies and clients set or change them.
var unsignedHeaders = [...]string{
	"Accept-Encoding", "Authorization", "Connection", "Content-Length", "Expect", "Transfer-Encoding", "User-Agent", "X-Amzn-Trace-Id",
}

// Sign adds the Authorization, X-Amz-Date and, for sessions, X-Amz-Security-Token headers. payloadHash is the
// lower-case hex SHA-256 of the body, or UnsignedPayload. All headers that the request has are signed, except those
// that are changed on the way, such as User-Agent. S3 requests, and those with an unsigned payload, also get the
// X-Amz-Content-Sha256 header.
func Sign(r *http.Request, c Credentials, service, region, payloadHash string, now time.Time) {
	r.Header.Del("Authorization")
	r.Header.Set("X-Amz-Date", now.UTC().Format(timeFormat))
	if c.SessionToken != "" {
		r.Header.Set("X-Amz-Security-Token", c.SessionToken)
	}
	if service == serviceS3 || payloadHash == UnsignedPayload {
		r.Header.Set(contentSHA256, payloadHash)
	}
	s := newSignature(r, c, service, region, now)
	sig, _, _ := s.calculate(nil, r, c.SecretAccessKey, payloadHash, nil)
	r.Header.Set("Authorization", algorithm+" Credential="+c.AccessKeyID+"/"+s.scope()+
		", SignedHeaders="+s.signedHeaderList()+", Signature="+string(sig))
}

// Presign adds the signature to the request's query; it is valid for expires from now, between a second and seven
// days. All headers that the request has are signed, and must be sent with it. The body is left out of the signature
// for S3, and must be empty for other services.
func Presign(r *http.Request, c Credentials, service, region string, expires time.Duration, now time.Time) {
	s := newSignature(r, c, service, region, now)
	s.Presigned = true
	q := []byte(r.URL.RawQuery)
	add := func(key, value string) {
		if len(q) > 0 {
			q = append(q, '&')
		}
		q = append(q, key...)
		q = append(q, '=')
		q = appendEscaped(q, value, false)
	}
	add("X-Amz-Algorithm", algorithm)
	add("X-Amz-Credential", c.AccessKeyID+"/"+s.scope())
	add("X-Amz-Date", s.Time.Format(timeFormat))
	add("X-Amz-Expires", strconv.FormatInt(int64(expires/time.Second), 10))
	if c.SessionToken != "" {
		add("X-Amz-Security-Token", c.SessionToken)
	}
	add("X-Amz-SignedHeaders", s.signedHeaderList())
	r.URL.RawQuery = string(q)

	payload := EmptyPayload
	if service == serviceS3 {
		payload = UnsignedPayload
	}
	sig, _, _ := s.calculate(nil, r, c.SecretAccessKey, payload, nil)
	r.URL.RawQuery += "&X-Amz-Signature=" + string(sig)
}

// calculate returns the signature in hex, the canonical request, which is appended to space, and the string to sign.
func (s *Signature) calculate(space []byte, r *http.Request, secret Secret, payloadHash string, extra http.Header) (sig, canonical, toSign []byte) {
	canonical = s.appendCanonicalRequest(space, r, payloadHash, extra)
	hash := sha256.Sum256(canonical)
	toSign = make([]byte, 0, 160)
	toSign = append(toSign, algorithm...)
	toSign = append(toSign, '\n')
	toSign = s.Time.AppendFormat(toSign, timeFormat)
	toSign = append(toSign, '\n')
	toSign = append(toSign, s.scope()...)
	toSign = append(toSign, '\n')
	toSign = hex.AppendEncode(toSign, hash[:])
	key := s.signingKey(secret)
	return hex.AppendEncode(make([]byte, 0, signatureBytes), mac(key, toSign)), canonical, toSign
}

// scope is the credential scope: date/region/service/aws4_request.
func (s *Signature) scope() string {
	return s.date + "/" + s.Region + "/" + s.Service + "/" + terminator
}

// signingKey derives the key of the credential scope.
func (s *Signature) signingKey(secret Secret) []byte {
	k := mac([]byte("AWS4"+string(secret)), []byte(s.date))
	k = mac(k, []byte(s.Region))
	k = mac(k, []byte(s.Service))
	return mac(k, []byte(terminator))
}

func mac(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(make([]byte, 0, sha256.Size))
}
