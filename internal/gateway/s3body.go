package gateway

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"net/http"
	"strings"

	"github.com/lanyard-id/lanyard/internal/sigv4"
)

const (
	maxObject    = 5 << 40 // bytes of an object; a single upload may be smaller in AWS
	maxSmallBody = 4 << 20 // bytes of an XML body that the gateway reads: 1,000 keys, escaped
)

// body is a request's decoded body, held to everything that the request says about it. The last bytes are given out only
// after all of it was verified, so a store that insists on the announced length never has the whole of a body that was
// refused.
type body struct {
	in     io.Reader
	hashed bool // a SHA-256 in hex was declared
	left   int64
	checks []check
	err    *s3Error // what the reader met, io.EOF aside
	done   bool
}

// check is a checksum that the request declares.
type check struct {
	hash hash.Hash
	want string // base64
	name string // as the message says it
	code string // of the error
}

// newBody prepares a request's body: stream holds it to its signature, and has length bytes.
func newBody(q *s3Request, stream io.Reader, length int64) (*body, *s3Error) {
	switch {
	case length < 0:
		return nil, s3Errorf("MissingContentLength", "")
	case length > maxObject:
		return nil, s3Errorf("EntityTooLarge", "")
	}
	b := &body{in: stream, left: length, hashed: len(q.header.Get(headerSHA256)) == 2*sha256.Size}
	if v, ok := q.header["Content-Md5"]; ok {
		if len(v) != 1 || !decodesTo(v[0], md5.Size) {
			return nil, s3Errorf("InvalidDigest", "")
		}
		b.checks = append(b.checks, check{md5.New(), v[0], "Content-MD5", "BadDigest"})
	}
	// CompleteMultipartUpload's checksum is the object's, not the body's.
	if q.op.name != "CompleteMultipartUpload" {
		c, err := checksumOf(q.header)
		if err != nil {
			return nil, err
		}
		if c != nil {
			b.checks = append(b.checks, *c)
		}
	}
	return b, nil
}

// checksumOf returns the x-amz-checksum- header's check, or nil when there is none.
func checksumOf(h http.Header) (*check, *s3Error) {
	var found *check
	for header, newHash := range map[string]func() hash.Hash{
		"X-Amz-Checksum-Crc32":     func() hash.Hash { return crc32.NewIEEE() },
		"X-Amz-Checksum-Crc32c":    func() hash.Hash { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) },
		"X-Amz-Checksum-Crc64nvme": func() hash.Hash { return crc64.New(crc64.MakeTable(0x9a6c9329ac4bc9b5)) },
		"X-Amz-Checksum-Sha1":      sha1.New,
		"X-Amz-Checksum-Sha256":    sha256.New,
	} {
		v := h.Get(header)
		if v == "" {
			continue
		}
		if found != nil {
			return nil, s3Errorf("InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
		}
		if found = (&check{newHash(), v, strings.ToUpper(strings.TrimPrefix(header, "X-Amz-Checksum-")), "BadDigest"}); !decodesTo(v, found.hash.Size()) {
			return nil, s3Errorf("InvalidRequest", "Value for %s header is invalid.", strings.ToLower(header))
		}
	}
	return found, nil
}

func decodesTo(s string, size int) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && len(b) == size
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.done {
		return 0, io.EOF
	}
	if len(p) == 0 && b.left > 0 {
		return 0, nil
	}
	n, err := b.in.Read(p[:min(int64(len(p)), b.left)])
	for _, c := range b.checks {
		c.hash.Write(p[:n])
	}
	b.left -= int64(n)
	switch {
	case err != nil && err != io.EOF:
		return b.fail(err)
	case b.left > 0 && err == io.EOF:
		return b.fail(io.ErrUnexpectedEOF)
	case b.left > 0:
		return n, nil
	}
	if err == nil {
		err = expectEnd(b.in)
	}
	if err != io.EOF {
		return b.fail(err)
	}
	for _, c := range b.checks {
		if base64.StdEncoding.EncodeToString(c.hash.Sum(nil)) != c.want {
			return b.fail(s3Errorf(c.code, "The %s you specified did not match the calculated checksum.", c.name))
		}
	}
	b.done = true
	return n, io.EOF
}

// fail keeps the first error; the bytes that were read with it are withheld.
func (b *body) fail(err error) (int, error) {
	b.err = b.s3(err)
	return 0, b.err
}

// s3 turns what went wrong with a body into S3's error.
func (b *body) s3(err error) *s3Error {
	var known *s3Error
	var refused *sigv4.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &refused) && b.hashed:
		return &s3Error{code: "XAmzContentSHA256Mismatch", cause: err}
	case refused != nil && strings.HasSuffix(refused.Message, "calculated checksum."):
		return &s3Error{code: "BadDigest", message: refused.Message, cause: err}
	case refused != nil && strings.HasPrefix(refused.Message, "The request signature"):
		return &s3Error{code: "SignatureDoesNotMatch", cause: err}
	case refused != nil:
		return &s3Error{code: "InvalidRequest", message: refused.Message, cause: err}
	}
	return &s3Error{code: "IncompleteBody", cause: err}
}

// Close implements io.Closer; net/http closes the request's own body.
func (b *body) Close() error { return nil }

// errTooLong is met when a body goes on after its announced length.
var errTooLong = errors.New("the body is longer than announced")

// expectEnd reads the end of a body, which is where its signature or hash is verified.
func expectEnd(r io.Reader) error {
	var one [1]byte
	for range 100 {
		switch n, err := r.Read(one[:]); {
		case n > 0:
			return errTooLong
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// readAll reads a body that the gateway itself has to understand.
func (b *body) readAll(length int64) ([]byte, *s3Error) {
	if length > maxSmallBody {
		return nil, s3Errorf("MaxMessageLengthExceeded", "")
	}
	buf := bytes.NewBuffer(make([]byte, 0, length+bytes.MinRead))
	if _, err := buf.ReadFrom(b); err != nil {
		return nil, b.s3(err)
	}
	return buf.Bytes(), nil
}
