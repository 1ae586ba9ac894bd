package sigv4

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// The payload hashes of aws-chunked bodies (Amazon S3 API Reference, "Signature calculations for the Authorization
// header: transferring payload in multiple chunks").
const (
	StreamingPayload         = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"         // every chunk is signed
	StreamingPayloadTrailer  = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" // every chunk and the trailer are signed
	StreamingUnsignedTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"         // chunks are not signed; a trailer has their checksum
)

const (
	maxChunkLine   = 256     // a chunk's size and signature
	maxTrailerLine = 1024    // one trailer
	maxTrailers    = 8       // trailers of one body, its signature included
	maxChunk       = 5 << 30 // the largest part that S3 takes
	maxDecoded     = 5 << 40 // the largest object that S3 takes
	trailerSigned  = "x-amz-trailer-signature"
	checksumPrefix = "x-amz-checksum-"
)

func knownStreaming(payload string) bool {
	return payload == StreamingPayload || payload == StreamingPayloadTrailer || payload == StreamingUnsignedTrailer
}

// parseStreaming reads the headers that describe an aws-chunked body.
func (s *Signature) parseStreaming(r *http.Request) error {
	length := r.Header["X-Amz-Decoded-Content-Length"]
	if len(length) != 1 {
		return refuse(Malformed, "You must provide the Content-Length HTTP header: x-amz-decoded-content-length.")
	}
	n, err := strconv.ParseUint(length[0], 10, 63)
	if err != nil || n > maxDecoded {
		return refuse(Malformed, "x-amz-decoded-content-length must be a number of bytes, not '%s'.", clip(length[0]))
	}
	s.DecodedLength = int64(n)
	for _, line := range r.Header["X-Amz-Trailer"] {
		for name := range strings.SplitSeq(line, ",") {
			s.Trailers = append(s.Trailers, strings.ToLower(strings.TrimSpace(name)))
		}
	}
	if len(s.Trailers) >= maxTrailers {
		return refuse(Malformed, "x-amz-trailer has more than %d names.", maxTrailers-1)
	}
	for _, name := range s.Trailers {
		if kind, ok := strings.CutPrefix(name, checksumPrefix); !ok || newChecksum(kind) == nil {
			return refuse(Malformed, "The value specified in the x-amz-trailer header is not supported")
		}
	}
	if s.PayloadHash == StreamingPayload && len(s.Trailers) > 0 {
		return refuse(Malformed, "x-amz-trailer needs a payload that has a trailer, not %s.", StreamingPayload)
	}
	return nil
}

// Body returns a reader of the request's decoded body that holds it to what was declared: to its SHA-256, or to the signatures
// and checksums of its chunks. The secret is the one that Verify was given. What a Read returns before io.EOF is not
// verified yet: commit nothing until then. Errors of the reader are *Error of kind BadPayload, io.ErrUnexpectedEOF for
// a body that ends early, or those of body.
func (s *Signature) Body(body io.Reader, secret Secret) io.Reader {
	switch {
	case knownStreaming(s.PayloadHash):
		return NewChunkedReader(body, s, secret)
	case s.PayloadHash == UnsignedPayload:
		return body
	case s.PayloadHash == "":
		return NewVerifyingReader(body, EmptyPayload)
	default:
		return NewVerifyingReader(body, s.PayloadHash)
	}
}

// NewVerifyingReader returns a reader that fails with an *Error of kind BadPayload, instead of io.EOF, when what was read
// does not have the SHA-256, in lower-case hex.
func NewVerifyingReader(body io.Reader, sum string) io.Reader {
	return &verifyingReader{body: body, want: sum, hash: sha256.New()}
}

type verifyingReader struct {
	body io.Reader
	want string
	hash hash.Hash
}

func (v *verifyingReader) Read(p []byte) (int, error) {
	n, err := v.body.Read(p)
	v.hash.Write(p[:n])
	if err == io.EOF && hex.EncodeToString(v.hash.Sum(nil)) != v.want {
		err = badHash()
	}
	return n, err
}

// ChunkedReader decodes an aws-chunked body and verifies the signatures of its chunks and trailer, its announced
// checksums, and its length.
type ChunkedReader struct {
	in        *bufio.Reader
	s         *Signature
	key       []byte // nil when chunks are not signed
	previous  string // signature that the next one builds on
	declared  string // of the current chunk
	chunk     hash.Hash
	left      int64 // of the current chunk
	total     int64
	checksums map[string]hash.Hash // by trailer name
	trailer   http.Header
	started   bool // the first chunk's header has been read
	err       error
}

// NewChunkedReader returns a reader of the data in an aws-chunked body. The signature's PayloadHash, Trailers and
// DecodedLength say what the body must be; it should have been verified. Its errors, and what they mean for data that was
// returned before, are those of [Signature.Body].
func NewChunkedReader(body io.Reader, s *Signature, secret Secret) *ChunkedReader {
	c := &ChunkedReader{in: bufio.NewReaderSize(body, 4096), s: s, previous: s.signature, trailer: http.Header{},
		checksums: make(map[string]hash.Hash, len(s.Trailers))}
	if !knownStreaming(s.PayloadHash) {
		c.err = refuse(BadPayload, "The body is not %s.", StreamingPayload)
		return c
	}
	if s.PayloadHash != StreamingUnsignedTrailer {
		c.key, c.chunk = s.signingKey(secret), sha256.New()
	}
	for _, name := range s.Trailers {
		sum := newChecksum(strings.TrimPrefix(name, checksumPrefix))
		if sum == nil {
			c.err = refuse(BadPayload, "The trailer %s is not supported.", clip(name))
			return c
		}
		c.checksums[name] = sum
	}
	return c
}

// Trailer returns the trailers, all of them verified, once Read has returned io.EOF; before, it is empty.
func (c *ChunkedReader) Trailer() http.Header { return c.trailer }

// Read implements io.Reader.
func (c *ChunkedReader) Read(p []byte) (int, error) {
	if c.err == nil && !c.started {
		c.started = true
		c.err = c.nextChunk()
	}
	if c.err != nil {
		return 0, c.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.in.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if c.chunk != nil {
		c.chunk.Write(p[:n])
	}
	for _, sum := range c.checksums {
		sum.Write(p[:n])
	}
	switch {
	case err != nil:
		c.err = unexpected(err)
	case c.left == 0:
		if c.err = c.endChunk(); c.err == nil {
			c.err = c.nextChunk()
		}
	}
	if n > 0 && c.err == io.EOF {
		return n, nil // the end is reported by the next Read, like most readers do
	}
	return n, c.err
}

// nextChunk reads a chunk's header; after the last chunk it reads the trailer and returns io.EOF.
func (c *ChunkedReader) nextChunk() error {
	line, err := c.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, extension, _ := strings.Cut(line, ";")
	n, err := strconv.ParseUint(size, 16, 63)
	if err != nil || n > maxChunk {
		return badChunk("size")
	}
	declared, signed := strings.CutPrefix(extension, "chunk-signature=")
	if signed != (c.key != nil) || !signed && extension != "" {
		return badChunk("signature")
	}
	c.declared = declared
	if c.total += int64(n); c.total > c.s.DecodedLength {
		return badLength()
	}
	if c.left = int64(n); n > 0 {
		return nil
	}
	if c.total != c.s.DecodedLength {
		return badLength()
	}
	if err := c.checkChunk(); err != nil {
		return err
	}
	if err := c.readTrailer(); err != nil {
		return err
	}
	switch _, err := c.in.ReadByte(); err {
	case io.EOF:
		return io.EOF
	case nil:
		return badChunk("end")
	default:
		return err
	}
}

// endChunk reads the line end after a chunk's data and checks the chunk's signature.
func (c *ChunkedReader) endChunk() error {
	line, err := c.line(2)
	if err != nil {
		return err
	}
	if line != "" {
		return badChunk("end")
	}
	return c.checkChunk()
}

func (c *ChunkedReader) checkChunk() error {
	if c.key == nil {
		return nil
	}
	err := c.checkSignature("AWS4-HMAC-SHA256-PAYLOAD", EmptyPayload+"\n"+hex.EncodeToString(c.chunk.Sum(nil)), c.declared)
	c.chunk.Reset()
	return err
}

// checkSignature verifies one link of the chain of signatures.
func (c *ChunkedReader) checkSignature(algorithm, content, declared string) error {
	h := hmac.New(sha256.New, c.key)
	fmt.Fprintf(h, "%s\n%s\n%s\n%s\n%s", algorithm, c.s.Time.Format(timeFormat), c.s.scope(), c.previous, content)
	want := hex.EncodeToString(h.Sum(nil))
	if subtle.ConstantTimeCompare([]byte(want), []byte(declared)) != 1 {
		return refuse(BadPayload, mismatchText)
	}
	c.previous = want
	return nil
}

// readTrailer reads the lines after the last chunk, up to the empty one, and checks them.
func (c *ChunkedReader) readTrailer() error {
	trailer := http.Header{}
	var signed bytes.Buffer
	var signature string
	for lines := 0; ; lines++ {
		line, err := c.line(maxTrailerLine)
		if err != nil {
			return err
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		switch {
		case !ok || lines >= maxTrailers:
			return badChunk("trailer")
		case name == trailerSigned && signature == "" && c.s.PayloadHash == StreamingPayloadTrailer:
			signature = value
			continue
		case !slices.Contains(c.s.Trailers, name) || trailer.Get(name) != "" || signature != "":
			return badChunk("trailer")
		}
		fmt.Fprintf(&signed, "%s:%s\n", name, value)
		trailer.Set(name, value)
	}
	if c.s.PayloadHash == StreamingPayloadTrailer {
		sum := sha256.Sum256(signed.Bytes())
		if err := c.checkSignature("AWS4-HMAC-SHA256-TRAILER", hex.EncodeToString(sum[:]), signature); err != nil {
			return err
		}
	}
	for name, sum := range c.checksums {
		want := base64.StdEncoding.EncodeToString(sum.Sum(nil))
		switch got := trailer.Get(name); {
		case got == "":
			return badChunk("trailer")
		case got != want:
			return refuse(BadPayload, "The %s you specified did not match the calculated checksum.",
				strings.ToUpper(strings.TrimPrefix(name, checksumPrefix)))
		}
	}
	c.trailer = trailer
	return nil
}

// line reads one line of at most limit bytes and returns it without its end, which is CRLF. Some clients (minio-go) end
// a trailer with LF and then CRLF.
func (c *ChunkedReader) line(limit int) (string, error) {
	line, err := c.in.ReadSlice('\n')
	switch {
	case err == bufio.ErrBufferFull || len(line) > limit:
		return "", badChunk("line")
	case err != nil:
		return "", unexpected(err)
	}
	if before, ok := bytes.CutSuffix(line, []byte("\r\n")); ok {
		return string(before), nil
	}
	text := string(line[:len(line)-1])
	if end, err := c.in.Peek(2); err != nil && err != io.EOF {
		return "", err
	} else if string(end) != "\r\n" || text == "" {
		return "", badChunk("line")
	}
	if _, err := c.in.Discard(2); err != nil {
		return "", unexpected(err)
	}
	return text, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func badChunk(what string) *Error {
	return refuse(BadPayload, "The aws-chunked body has an invalid %s.", what)
}

func badLength() *Error {
	return refuse(BadPayload, "The body does not have the length that x-amz-decoded-content-length declares.")
}

// newChecksum returns the hash of an x-amz-checksum- header, or nil when it is not known.
func newChecksum(kind string) hash.Hash {
	switch kind {
	case "crc32":
		return crc32.NewIEEE()
	case "crc32c":
		return crc32.New(crc32.MakeTable(crc32.Castagnoli))
	case "crc64nvme":
		return crc64.New(crc64.MakeTable(0x9a6c9329ac4bc9b5))
	case "sha1":
		return sha1.New()
	case "sha256":
		return sha256.New()
	}
	return nil
}
