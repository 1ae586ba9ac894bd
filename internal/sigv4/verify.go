package sigv4

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrUnsigned is returned by Parse for a request that carries no signature at all.
var ErrUnsigned = errors.New("sigv4: request is not signed")

// ErrorKind says what is wrong with a signature.
type ErrorKind int

// The kinds of Error.
const (
	Malformed   ErrorKind = iota + 1 // Authorization header or query cannot be read: IncompleteSignature
	BadScope                         // date, region, service or terminator of the credential scope is wrong
	Expired                          // signed too long ago
	NotYetValid                      // signed in the future
	Mismatch                         // the signature is not the one that was calculated, or does not cover what it must
	BadPayload                       // the body does not have the hash that was signed
)

// Error is a signature that was refused. Message is AWS's text for it. CanonicalRequest and StringToSign are set for
// a Mismatch of the signature itself, since S3 shows them to the caller; they hold the caller's session token, so they
// are not for logs.
type Error struct {
	Kind             ErrorKind
	Message          string
	CanonicalRequest string
	StringToSign     string
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// LogValue implements slog.LogValuer: only the message is shown.
func (e *Error) LogValue() slog.Value { return slog.StringValue(e.Message) }

func refuse(kind ErrorKind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Signature is what a signed request says about itself before anything is verified.
type Signature struct {
	AccessKeyID  string
	SessionToken string // from X-Amz-Security-Token, header or query
	Service      string // of the credential scope, as Region
	Region       string
	Time         time.Time
	// Expires is how long a presigned request says that it is valid, from a second to seven days; 0 when it does not
	// say, and for other requests. A caller whose service has a rule of its own may change it before Verify.
	Expires       time.Duration
	Presigned     bool
	SignedHeaders []string
	// PayloadHash is what X-Amz-Content-Sha256 declares: hex, UNSIGNED-PAYLOAD, or STREAMING-…. It is
	// UNSIGNED-PAYLOAD for presigned S3 requests that declare nothing, and empty for other services' requests that do not.
	PayloadHash string
	// Trailers are the names that X-Amz-Trailer announces, in lower case.
	Trailers []string
	// DecodedLength is what X-Amz-Decoded-Content-Length says of a STREAMING-… body's size; -1 for other bodies.
	DecodedLength int64

	date      string // of the credential scope
	signature string // as sent
}

// LogValue implements slog.LogValuer: the session token and the signature are not shown.
func (s *Signature) LogValue() slog.Value {
	return slog.GroupValue(slog.String("access_key_id", s.AccessKeyID), slog.String("scope", s.scope()),
		slog.Time("time", s.Time), slog.Bool("presigned", s.Presigned))
}

// Provided returns the signature as it was sent. S3 repeats it in its error.
func (s *Signature) Provided() string { return s.signature }

// Parse reads the signature from a request's header or query. It does no I/O and touches no body. Errors are
// ErrUnsigned or *Error.
func Parse(r *http.Request) (*Signature, error) {
	auth := r.Header["Authorization"]
	q, inQuery, err := queryParameters(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	s := &Signature{DecodedLength: -1}
	switch {
	case len(auth) == 0 && !inQuery:
		return nil, ErrUnsigned
	case len(auth) > 1 || len(auth) == 1 && inQuery:
		return nil, refuse(Malformed, "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, "+
			"Signature query string parameter or the Authorization header should be specified")
	case inQuery:
		err = s.parseQuery(q)
	default:
		err = s.parseHeader(r, auth[0])
	}
	if err != nil {
		return nil, err
	}
	if err := s.parsePayload(r, q.contentSHA256); err != nil {
		return nil, err
	}
	return s, nil
}

// amzQuery holds the query parameters of a presigned request.
type amzQuery struct {
	algorithm, credential, date, expires, signedHeaders, signature, token, contentSHA256 string
}

// queryParameters finds the parameters of a presigned request, each of which may occur once.
func queryParameters(raw string) (q amzQuery, signed bool, err error) {
	if !strings.Contains(raw, "X-Amz-") && !strings.Contains(raw, "%") {
		return q, false, nil
	}
	seen := 0
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		key, value, _ := strings.Cut(pair, "=")
		key = unescape(key, true)
		if !strings.HasPrefix(key, "X-Amz-") {
			continue
		}
		var field *string
		bit := 0
		switch key[len("X-Amz-"):] {
		case "Algorithm":
			field, bit = &q.algorithm, 1
		case "Credential":
			field, bit = &q.credential, 2
		case "Signature":
			field, bit = &q.signature, 4
		case "Date":
			field, bit = &q.date, 8
		case "Expires":
			field, bit = &q.expires, 16
		case "SignedHeaders":
			field, bit = &q.signedHeaders, 32
		case "Security-Token":
			field, bit = &q.token, 64
		case "Content-Sha256":
			field, bit = &q.contentSHA256, 128
		default:
			continue
		}
		if seen&bit != 0 {
			return q, false, refuse(Malformed, "AWS query-string parameter '%s' may occur only once.", key)
		}
		seen |= bit
		*field = unescape(value, true)
	}
	return q, seen&7 != 0, nil
}

func (s *Signature) parseQuery(q amzQuery) error {
	s.Presigned = true
	var missing []string
	for _, p := range [...]struct{ name, value string }{
		{"X-Amz-Algorithm", q.algorithm}, {"X-Amz-Credential", q.credential}, {"X-Amz-Signature", q.signature},
		{"X-Amz-SignedHeaders", q.signedHeaders}, {"X-Amz-Date", q.date},
	} {
		if p.value == "" {
			missing = append(missing, "AWS query-string parameters must include '"+p.name+"'.")
		}
	}
	if missing != nil {
		return refuse(Malformed, "%s Re-examine the query-string parameters.", strings.Join(missing, " "))
	}
	if q.algorithm != algorithm {
		return refuse(Malformed, "Unsupported AWS 'algorithm': '%s'. Only %s is supported.", clip(q.algorithm), algorithm)
	}
	t, ok := parseISO(q.date)
	if !ok {
		return badDate(q.date)
	}
	s.Time, s.signature, s.SessionToken = t, q.signature, q.token
	if err := s.parseCredential(q.credential); err != nil {
		return err
	}
	if err := s.parseSignedHeaders(q.signedHeaders); err != nil {
		return err
	}
	if q.expires == "" {
		if s.Service == serviceS3 {
			return refuse(Malformed, "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, "+
				"X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.")
		}
		return nil
	}
	seconds, err := strconv.ParseInt(q.expires, 10, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return refuse(Malformed, "X-Amz-Expires should be a number")
	case seconds < 0:
		return refuse(Malformed, "X-Amz-Expires must be non-negative")
	case seconds == 0:
		return refuse(Malformed, "X-Amz-Expires must be at least 1 second")
	case seconds > int64(maxExpires/time.Second):
		return refuse(Malformed, "X-Amz-Expires must be less than a week (in seconds) that is 604800")
	}
	s.Expires = time.Duration(seconds) * time.Second
	return nil
}

func (s *Signature) parseHeader(r *http.Request, auth string) error {
	scheme, params, _ := strings.Cut(auth, " ")
	switch {
	case scheme == "AWS":
		return refuse(Malformed, "The authorization mechanism you have provided is not supported. Please use %s.", algorithm)
	case strings.HasPrefix(scheme, "AWS4-") && scheme != algorithm:
		return refuse(Malformed, "Unsupported AWS 'algorithm': '%s'. Only %s is supported.", clip(scheme), algorithm)
	case scheme != algorithm:
		params = ""
	}
	var credential, signedHeaders string
	for params != "" {
		var part string
		part, params, _ = strings.Cut(params, ",")
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			return refuse(Malformed, "'%s' not a valid key=value pair (missing equal-sign) in Authorization header.", clip(part))
		}
		var field *string
		switch key {
		case "Credential":
			field = &credential
		case "SignedHeaders":
			field = &signedHeaders
		case "Signature":
			field = &s.signature
		default:
			return refuse(Malformed, "Authorization header has the unknown parameter '%s'.", clip(key))
		}
		if *field != "" {
			return refuse(Malformed, "Authorization header has the parameter '%s' twice.", key)
		}
		*field = value
	}
	date, dateHeader := r.Header["X-Amz-Date"], "x-amz-date"
	if len(date) == 0 {
		date, dateHeader = r.Header["Date"], "date"
	}
	var missing []string
	for _, p := range [...]struct{ name, value string }{
		{"Credential", credential}, {"Signature", s.signature}, {"SignedHeaders", signedHeaders},
	} {
		if p.value == "" {
			missing = append(missing, "Authorization header requires '"+p.name+"' parameter.")
		}
	}
	if len(date) == 0 {
		missing = append(missing, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
	}
	if missing != nil {
		return refuse(Malformed, "%s", strings.Join(missing, " "))
	}
	tokens := r.Header["X-Amz-Security-Token"]
	if len(date) > 1 || len(tokens) > 1 {
		return refuse(Malformed, "The headers 'X-Amz-Date', 'Date' and 'X-Amz-Security-Token' may occur only once.")
	}
	t, ok := parseISO(date[0])
	if !ok && dateHeader == "date" {
		var err error
		t, err = http.ParseTime(date[0])
		ok = err == nil
	}
	if !ok {
		return badDate(date[0])
	}
	s.Time = t.UTC()
	if len(tokens) == 1 {
		s.SessionToken = tokens[0]
	}
	if err := s.parseCredential(credential); err != nil {
		return err
	}
	if err := s.parseSignedHeaders(signedHeaders); err != nil {
		return err
	}
	if !slices.Contains(s.SignedHeaders, dateHeader) {
		return refuse(Mismatch, "'%s' must be a 'SignedHeader' in the AWS Authorization.", http.CanonicalHeaderKey(dateHeader))
	}
	return nil
}

// parseCredential reads keyid/date/region/service/term; the time must be known already.
func (s *Signature) parseCredential(credential string) error {
	parts := strings.Split(credential, "/")
	if len(parts) != 5 || slices.Contains(parts, "") {
		return refuse(Malformed, "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '%s'",
			clip(credential))
	}
	s.AccessKeyID, s.date, s.Region, s.Service = parts[0], parts[1], parts[2], parts[3]
	if parts[4] != terminator {
		return refuse(BadScope, "Credential should be scoped with a valid terminator: '%s', not '%s'.", terminator, clip(parts[4]))
	}
	if day := s.Time.Format(dateFormat); s.date != day {
		return refuse(BadScope, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%s' != '%s', from '%s'.",
			clip(s.date), day, s.Time.Format(timeFormat))
	}
	return nil
}

func (s *Signature) parseSignedHeaders(list string) error {
	s.SignedHeaders = strings.Split(list, ";")
	if len(s.SignedHeaders) > maxSigned {
		return refuse(Malformed, "SignedHeaders has more than %d names.", maxSigned)
	}
	for i, name := range s.SignedHeaders {
		if name == "" || strings.ToLower(name) != name || strings.ContainsAny(name, ": \r\n\t") {
			return refuse(Malformed, "SignedHeaders must be header names in lower case, separated by semicolons.")
		}
		if i > 0 && name <= s.SignedHeaders[i-1] {
			return refuse(Malformed, "SignedHeaders must be sorted, each name once.")
		}
	}
	if _, ok := slices.BinarySearch(s.SignedHeaders, "host"); !ok {
		return refuse(Mismatch, "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
	}
	return nil
}

// parsePayload reads what the request declares about its body.
func (s *Signature) parsePayload(r *http.Request, queryHash string) error {
	declared := r.Header[contentSHA256]
	switch {
	case len(declared) > 1:
		return refuse(Malformed, "The header '%s' may occur only once.", contentSHA256)
	case len(declared) == 1:
		s.PayloadHash = declared[0]
	case s.Presigned && queryHash != "":
		s.PayloadHash = queryHash
	case s.Service == serviceS3 && s.Presigned:
		s.PayloadHash = UnsignedPayload
	case s.Service == serviceS3:
		return refuse(Malformed, "Missing required header for this request: x-amz-content-sha256")
	default:
		return nil
	}
	if strings.HasPrefix(s.PayloadHash, "STREAMING-") && knownStreaming(s.PayloadHash) {
		return s.parseStreaming(r)
	}
	if s.PayloadHash != UnsignedPayload && !isHash(s.PayloadHash) {
		return refuse(Malformed, "x-amz-content-sha256 must be %s, %s, %s, %s or a valid sha256 value.",
			UnsignedPayload, StreamingPayload, StreamingUnsignedTrailer, StreamingPayloadTrailer)
	}
	return nil
}

func isHash(s string) bool {
	if len(s) != signatureBytes {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isHex(c) || 'A' <= c && c <= 'F' {
			return false
		}
	}
	return true
}

const mismatchText = "The request signature we calculated does not match the signature you provided. " +
	"Check your AWS Secret Access Key and signing method. Consult the service documentation for details."

// Verify checks, in constant time, that the request was signed with the secret, within the window of skew around now.
// Presigned requests that say how long they are valid may be older than skew, but not older than they say.
//
// bodyHash is the hex SHA-256 of the body when the caller has read it, or empty: then the declared hash is what was
// signed, and the caller must hold the body to it (see [Signature.Body]). Only S3 takes a payload that is not signed. extra
// headers, which were signed but not sent (such as x-k8s-aws-id), may be nil. The host, and every x-amz- header that the
// request has, must be signed. Errors are *Error.
func (s *Signature) Verify(r *http.Request, secret Secret, bodyHash string, skew time.Duration, now time.Time, extra http.Header) error {
	if err := s.checkTime(skew, now.UTC()); err != nil {
		return err
	}
	for name := range r.Header {
		if len(name) < 6 || !strings.EqualFold(name[:6], "X-Amz-") {
			continue
		}
		if _, ok := slices.BinarySearch(s.SignedHeaders, strings.ToLower(name)); !ok {
			return refuse(Mismatch, "There were headers present in the request which were not signed: %s", strings.ToLower(name))
		}
	}
	payload, err := s.payload(r, bodyHash)
	if err != nil {
		return err
	}
	var space [2048]byte // enough for most requests, also those of sessions; it stays on the stack
	want, canonical, toSign := s.calculate(space[:0], r, secret, payload, extra)
	if subtle.ConstantTimeCompare(want, []byte(s.signature)) != 1 {
		return &Error{Kind: Mismatch, Message: mismatchText, CanonicalRequest: string(canonical), StringToSign: string(toSign)}
	}
	return nil
}

// payload is the payload hash that must have been signed.
func (s *Signature) payload(r *http.Request, bodyHash string) (string, error) {
	switch {
	case s.Service == serviceS3 && (bodyHash == "" || !isHash(s.PayloadHash)):
		return s.PayloadHash, nil
	case s.PayloadHash == "" && bodyHash != "":
		return bodyHash, nil
	case s.PayloadHash == "" && r.ContentLength == 0:
		return EmptyPayload, nil
	case bodyHash == "" && isHash(s.PayloadHash):
		return s.PayloadHash, nil
	case bodyHash != "" && subtle.ConstantTimeCompare([]byte(bodyHash), []byte(s.PayloadHash)) == 1:
		return s.PayloadHash, nil
	}
	return "", badHash()
}

func badHash() *Error {
	return refuse(BadPayload, "The provided 'x-amz-content-sha256' header does not match what was computed.")
}

// checkTime holds the time of signing to the clock.
func (s *Signature) checkTime(skew time.Duration, now time.Time) error {
	if s.Time.After(now.Add(skew)) {
		return refuse(NotYetValid, "Signature not yet current: %s is still later than %s (%s + %s)",
			s.Time.Format(timeFormat), now.Add(skew).Format(timeFormat), now.Format(timeFormat), span(skew))
	}
	window := skew
	if s.Expires > 0 {
		window = s.Expires
	}
	if !now.After(s.Time.Add(window)) {
		return nil
	}
	if s.Presigned && s.Service == serviceS3 {
		return refuse(Expired, "Request has expired")
	}
	return refuse(Expired, "Signature expired: %s is now earlier than %s (%s - %s)",
		s.Time.Format(timeFormat), now.Add(-window).Format(timeFormat), now.Format(timeFormat), span(window))
}

// span prints a window as AWS does, "15 min.", or in seconds when it is not whole minutes.
func span(d time.Duration) string {
	if d%time.Minute == 0 {
		return strconv.FormatInt(int64(d/time.Minute), 10) + " min."
	}
	return strconv.FormatInt(int64(d/time.Second), 10) + " sec."
}

func badDate(got string) *Error {
	return refuse(Malformed, "Date must be in ISO-8601 'basic format'. Got '%s'. See http://en.wikipedia.org/wiki/ISO_8601", clip(got))
}

// parseISO reads 20060102T150405Z and nothing else.
func parseISO(s string) (time.Time, bool) {
	if len(s) != len(timeFormat) {
		return time.Time{}, false
	}
	t, err := time.Parse(timeFormat, s)
	return t, err == nil
}

// clip bounds what an error text repeats of the caller's input.
func clip(s string) string {
	const limit = 200
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
