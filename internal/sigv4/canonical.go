package sigv4

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// newSignature describes the signature that is about to be made for a request.
func newSignature(r *http.Request, c Credentials, service, region string, now time.Time) *Signature {
	now = now.UTC().Truncate(time.Second)
	s := &Signature{
		AccessKeyID: c.AccessKeyID, SessionToken: c.SessionToken, Service: service, Region: region,
		Time: now, date: now.Format(dateFormat), SignedHeaders: []string{"host"},
	}
	for name := range r.Header {
		if name != "Host" && !slices.Contains(unsignedHeaders[:], name) {
			s.SignedHeaders = append(s.SignedHeaders, strings.ToLower(name))
		}
	}
	slices.Sort(s.SignedHeaders)
	return s
}

func (s *Signature) signedHeaderList() string { return strings.Join(s.SignedHeaders, ";") }

// appendCanonicalRequest writes the canonical request (IAM User Guide, "Create a signed AWS API request", step 1).
func (s *Signature) appendCanonicalRequest(b []byte, r *http.Request, payloadHash string, extra http.Header) []byte {
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	b = append(b, method...)
	b = append(b, '\n')
	b = appendCanonicalPath(b, r, s.Service)
	b = append(b, '\n')
	b = appendCanonicalQuery(b, r.URL.RawQuery, s.Presigned)
	b = append(b, '\n')
	for _, name := range s.SignedHeaders {
		b = append(b, name...)
		b = append(b, ':')
		b = appendHeader(b, r, name, extra)
		b = append(b, '\n')
	}
	b = append(b, '\n')
	for i, name := range s.SignedHeaders {
		if i > 0 {
			b = append(b, ';')
		}
		b = append(b, name...)
	}
	b = append(b, '\n')
	return append(b, payloadHash...)
}

// appendCanonicalPath writes the path as it is signed. S3 takes object keys as they are: its path is decoded and encoded
// once, never normalized. For other services the path that is on the wire is normalized (RFC 3986 section 5.2.4, and
// empty segments fall away) and encoded once more.
func appendCanonicalPath(b []byte, r *http.Request, service string) []byte {
	path := r.URL.EscapedPath()
	if path == "" {
		return append(b, '/')
	}
	if service == serviceS3 {
		for i, seg := range strings.Split(path, "/") {
			if i > 0 {
				b = append(b, '/')
			}
			b = appendEscaped(b, unescape(seg, false), false) // an encoded slash stays encoded
		}
		return b
	}
	return appendEscaped(b, normalize(path), true)
}

// normalize removes dot segments and empty segments.
func normalize(path string) string {
	if !strings.Contains(path, "/.") && !strings.Contains(path, "//") {
		return path
	}
	var kept []string
	segments := strings.Split(path, "/")
	for _, seg := range segments {
		switch seg {
		case "", ".":
		case "..":
			if len(kept) > 0 {
				kept = kept[:len(kept)-1]
			}
		default:
			kept = append(kept, seg)
		}
	}
	out := "/" + strings.Join(kept, "/")
	last := segments[len(segments)-1]
	if len(kept) > 0 && (last == "" || last == "." || last == "..") {
		out += "/"
	}
	return out
}

// appendCanonicalQuery writes the query with keys and values encoded alike and sorted. A presigned request's own
// signature is left out.
func appendCanonicalQuery(b []byte, raw string, presigned bool) []byte {
	if raw == "" {
		return b
	}
	type param struct{ key, value string }
	var space [16]param
	params := space[:0]
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		key = escape(unescape(key, true))
		if presigned && key == "X-Amz-Signature" {
			continue
		}
		params = append(params, param{key, escape(unescape(value, true))})
	}
	slices.SortFunc(params, func(x, y param) int {
		if c := strings.Compare(x.key, y.key); c != 0 {
			return c
		}
		return strings.Compare(x.value, y.value)
	})
	for i, p := range params {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(b, p.key...)
		b = append(b, '=')
		b = append(b, p.value...)
	}
	return b
}

// appendHeader writes a signed header's value: repeated headers joined by commas, outer white space removed, inner runs of
// spaces made one. A header that the request does not have is looked up in extra, and is else empty.
func appendHeader(b []byte, r *http.Request, name string, extra http.Header) []byte {
	var values []string
	switch name {
	case "host":
		host := r.Host
		if host == "" {
			host = r.URL.Host
		}
		return append(b, host...)
	case "content-length":
		// net/http keeps the length apart from the headers of requests that it sends.
		if values = r.Header["Content-Length"]; len(values) == 0 && r.ContentLength >= 0 {
			return strconv.AppendInt(b, r.ContentLength, 10)
		}
	case "transfer-encoding":
		values = r.TransferEncoding
	default:
		values = r.Header[http.CanonicalHeaderKey(name)]
	}
	if len(values) == 0 {
		values = extra[http.CanonicalHeaderKey(name)]
	}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendFolded(b, v)
	}
	return b
}

func appendFolded(b []byte, v string) []byte {
	v = strings.TrimSpace(v)
	for {
		i := strings.Index(v, "  ")
		if i < 0 {
			return append(b, v...)
		}
		b = append(b, v[:i+1]...)
		v = strings.TrimLeft(v[i:], " ")
	}
}

// unreserved says which bytes are never encoded: RFC 3986's unreserved characters.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

const upperHex = "0123456789ABCDEF"

func appendEscaped(b []byte, s string, keepSlash bool) []byte {
	for i := range len(s) {
		if c := s[i]; unreserved(c) || keepSlash && c == '/' {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b
}

func escape(s string) string {
	for i := range len(s) {
		if !unreserved(s[i]) {
			return string(appendEscaped(make([]byte, 0, len(s)+16), s, false))
		}
	}
	return s
}

// unescape decodes percent-encoding. What is not a valid escape stands for itself. In a query a plus is a space.
func unescape(s string, query bool) string {
	if !strings.Contains(s, "%") && (!query || !strings.Contains(s, "+")) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			b = append(b, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		case c == '+' && query:
			b = append(b, ' ')
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}
