package sigv4_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// The example of the S3 API Reference, "Signature calculations for the Authorization header: transferring payload in
// multiple chunks": its request, and the signatures that it says come out.
func TestPublishedChunkedExample(t *testing.T) {
	t.Parallel()
	signedAt := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	a := strings.Repeat("a", 65536)
	for _, tt := range []struct {
		name    string
		headers string
		auth    string
		body    string
		trailer string
	}{
		{
			name: "signed chunks",
			headers: "content-encoding:aws-chunked\ncontent-length:66824\nx-amz-content-sha256:STREAMING-AWS4-HMAC-SHA256-PAYLOAD\n" +
				"x-amz-decoded-content-length:66560\nx-amz-storage-class:REDUCED_REDUNDANCY",
			auth: "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class," +
				"Signature=4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
			body: "10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n" + a + "\r\n" +
				"400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n" + a[:1024] + "\r\n" +
				"0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n",
		},
		{
			name: "signed chunks and trailer",
			headers: "content-encoding:aws-chunked\nx-amz-content-sha256:STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER\n" +
				"x-amz-decoded-content-length:66560\nx-amz-storage-class:REDUCED_REDUNDANCY\nx-amz-trailer:x-amz-checksum-crc32c",
			auth: "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer," +
				"Signature=106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
			body: "10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n" + a + "\r\n" +
				"400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n" + a[:1024] + "\r\n" +
				"0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n" +
				"x-amz-checksum-crc32c:sOO8/Q==\r\n" +
				"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n",
			trailer: "sOO8/Q==",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := http.NewRequest("PUT", "https://s3.amazonaws.com/examplebucket/chunkObject.txt", nil)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.SplitSeq(tt.headers, "\n") {
				name, value, _ := strings.Cut(line, ":")
				r.Header.Set(name, value)
			}
			r.Header.Set("X-Amz-Date", "20130524T000000Z")
			r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders="+tt.auth)
			s, err := sigv4.Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Verify(r, secret, "", skew, signedAt, nil); err != nil {
				t.Fatal(explain(err))
			}
			c := sigv4.NewChunkedReader(strings.NewReader(tt.body), s, secret)
			got, err := io.ReadAll(c)
			if err != nil || string(got) != a+a[:1024] {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			if sum := c.Trailer().Get("x-amz-checksum-crc32c"); sum != tt.trailer {
				t.Errorf("trailer is %q, want %q", sum, tt.trailer)
			}
		})
	}
}

// What the SDK's own S3 client sends, over TLS and in the clear.
func TestBodiesOfTheSDK(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	for _, tt := range []struct {
		name    string
		server  func(http.Handler) *httptest.Server
		payload string
	}{
		{"over TLS", httptest.NewTLSServer, sigv4.StreamingUnsignedTrailer},
		{"in the clear", httptest.NewServer, hashOf(string(data))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := tt.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s, err := sigv4.Parse(r)
				if err == nil {
					err = s.Verify(r, secret, "", skew, time.Now(), nil)
				}
				if err != nil {
					t.Errorf("the request is refused: %v", explain(err))
					return
				}
				if s.PayloadHash != tt.payload {
					t.Errorf("payload is %s, want %s", s.PayloadHash, tt.payload)
				}
				got, err := io.ReadAll(s.Body(r.Body, secret))
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("read %d bytes, %v", len(got), err)
				}
			}))
			defer server.Close()
			client := s3.New(s3.Options{
				Region: "us-east-1", BaseEndpoint: &server.URL, HTTPClient: server.Client(), UsePathStyle: true,
				RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
				Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
					return aws.Credentials{AccessKeyID: keys.AccessKeyID, SecretAccessKey: string(secret), SessionToken: "token"}, nil
				}),
			})
			_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("bucket"), Key: aws.String("a b/ü+%2F//c"), Body: bytes.NewReader(data)})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// chunkedBody is an aws-chunked body in the making. Its signatures are made here, apart from the package.
type chunkedBody struct {
	payload  string
	seed     string
	chunks   []string
	checksum string // trailer "name:value"; empty for none
}

func (c chunkedBody) key() []byte {
	key := []byte("AWS4" + string(secret))
	for _, part := range []string{"20260304", "us-east-1", "s3", "aws4_request"} {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(part))
		key = h.Sum(nil)
	}
	return key
}

func (c chunkedBody) link(previous, kind, content string) string {
	h := hmac.New(sha256.New, c.key())
	fmt.Fprintf(h, "AWS4-HMAC-SHA256-%s\n20260304T050607Z\n20260304/us-east-1/s3/aws4_request\n%s\n%s", kind, previous, content)
	return hex.EncodeToString(h.Sum(nil))
}

func (c chunkedBody) encode() string {
	var b strings.Builder
	previous := c.seed
	for _, chunk := range append(c.chunks[:len(c.chunks):len(c.chunks)], "") {
		fmt.Fprintf(&b, "%x", len(chunk))
		if c.payload != sigv4.StreamingUnsignedTrailer {
			previous = c.link(previous, "PAYLOAD", hashOf("")+"\n"+hashOf(chunk))
			b.WriteString(";chunk-signature=" + previous)
		}
		b.WriteString("\r\n" + chunk)
		if chunk != "" {
			b.WriteString("\r\n")
		}
	}
	if c.checksum != "" {
		b.WriteString(c.checksum + "\r\n")
	}
	if c.payload == sigv4.StreamingPayloadTrailer {
		signed := ""
		if c.checksum != "" {
			signed = c.checksum + "\n"
		}
		b.WriteString("x-amz-trailer-signature:" + c.link(previous, "TRAILER", hashOf(signed)) + "\r\n")
	}
	return b.String() + "\r\n"
}

// signature returns the verified signature of a request that announces the body.
func (c *chunkedBody) signature(t testing.TB) *sigv4.Signature {
	t.Helper()
	r, err := http.NewRequest("PUT", "http://s3.example/b/k", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Decoded-Content-Length", fmt.Sprint(len(strings.Join(c.chunks, ""))))
	if name, _, ok := strings.Cut(c.checksum, ":"); ok {
		r.Header.Set("X-Amz-Trailer", name)
	}
	sigv4.Sign(r, keys, "s3", "us-east-1", c.payload, now)
	s, err := sigv4.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(r, secret, "", skew, now, nil); err != nil {
		t.Fatal(explain(err))
	}
	c.seed = s.Provided()
	return s
}

func checksums(data string) []string {
	sum := sha1.Sum([]byte(data))
	sum256 := sha256.Sum256([]byte(data))
	b64 := base64.StdEncoding.EncodeToString
	return []string{
		"",
		"x-amz-checksum-crc32:" + b64(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(data)))),
		"x-amz-checksum-crc32c:" + b64(binary.BigEndian.AppendUint32(nil, crc32.Checksum([]byte(data), crc32.MakeTable(crc32.Castagnoli)))),
		"x-amz-checksum-sha1:" + b64(sum[:]),
		"x-amz-checksum-sha256:" + b64(sum256[:]),
	}
}

func TestChunkedReader(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{sigv4.StreamingPayload, sigv4.StreamingPayloadTrailer, sigv4.StreamingUnsignedTrailer} {
		for _, chunks := range [][]string{{"hello, ", "chunked ", "world"}, {"x"}, {}, {strings.Repeat("y", 100_000), "z"}} {
			data := strings.Join(chunks, "")
			for _, sum := range checksums(data) {
				if payload == sigv4.StreamingPayload && sum != "" {
					continue
				}
				name, value, _ := strings.Cut(sum, ":")
				c := chunkedBody{payload: payload, chunks: chunks, checksum: sum}
				s := c.signature(t)
				for way, wrap := range map[string]func(io.Reader) io.Reader{
					"all at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "with the end": iotest.DataErrReader,
				} {
					r := sigv4.NewChunkedReader(wrap(strings.NewReader(c.encode())), s, secret)
					got, err := io.ReadAll(r)
					if err != nil || string(got) != data || name != "" && r.Trailer().Get(name) != value {
						t.Errorf("%s, %d chunks, %s, %s: read %d bytes, %v, trailer %v", payload, len(chunks), name, way, len(got), err, r.Trailer())
					}
				}
			}
		}
	}
}

func TestTrailerWithTwoLineEnds(t *testing.T) {
	t.Parallel()
	const data = "hello"
	c := chunkedBody{payload: sigv4.StreamingPayloadTrailer, chunks: []string{data}, checksum: checksums(data)[2]}
	s := c.signature(t)
	body := strings.Replace(c.encode(), c.checksum+"\r\n", c.checksum+"\n\r\n", 1)
	if got, err := io.ReadAll(sigv4.NewChunkedReader(iotest.OneByteReader(strings.NewReader(body)), s, secret)); err != nil || string(got) != data {
		t.Errorf("read %q, %v", got, err)
	}
}

// The CRC-64/NVME of "123456789" is in the catalogue of parametrised CRC algorithms.
func TestChecksumCRC64NVME(t *testing.T) {
	t.Parallel()
	c := chunkedBody{payload: sigv4.StreamingUnsignedTrailer, chunks: []string{"123456789"},
		checksum: "x-amz-checksum-crc64nvme:" + base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, 0xae8b14860a799888))}
	s := c.signature(t)
	if _, err := io.ReadAll(s.Body(strings.NewReader(c.encode()), secret)); err != nil {
		t.Error(err)
	}
}

func TestTamperedChunkedBodies(t *testing.T) {
	t.Parallel()
	const data = "hello, chunked world"
	crc := checksums(data)[1]
	edit := func(old, replacement string) func(string) string {
		return func(body string) string { return strings.Replace(body, old, replacement, 1) }
	}
	for _, tt := range []struct {
		name    string
		payload string
		tamper  func(string) string
		want    string // error's text; "EOF" for a body that ends early
	}{
		{"data of a signed chunk", sigv4.StreamingPayload, edit("world", "w0rld"), "does not match"},
		{"a chunk's signature", sigv4.StreamingPayload, edit("chunk-signature=", "chunk-signature=0"), "does not match"},
		{"no signature", sigv4.StreamingPayload, func(b string) string { return "14\r\n" + data + "\r\n0\r\n\r\n" }, "invalid signature"},
		{"signature by another name", sigv4.StreamingPayload, edit("chunk-signature", "chunk-sig"), "invalid signature"},
		{"signature where there should be none", sigv4.StreamingUnsignedTrailer, edit("14\r\n", "14;chunk-signature=00\r\n"), "invalid signature"},
		{"an extension where there should be none", sigv4.StreamingUnsignedTrailer, edit("14\r\n", "14;x=y\r\n"), "invalid signature"},
		{"data of an unsigned chunk", sigv4.StreamingUnsignedTrailer, edit("world", "w0rld"), "The CRC32 you specified did not match"},
		{"the checksum", sigv4.StreamingUnsignedTrailer, edit("crc32:", "crc32:A"), "The CRC32 you specified did not match"},
		{"the checksum missing", sigv4.StreamingUnsignedTrailer, edit(crc+"\r\n", ""), "invalid trailer"},
		{"the checksum twice", sigv4.StreamingUnsignedTrailer, edit(crc, crc+"\r\n"+crc), "invalid trailer"},
		{"another trailer", sigv4.StreamingUnsignedTrailer, edit(crc, crc+"\r\nx-amz-meta-a:b"), "invalid trailer"},
		{"a trailer's signature where there should be none", sigv4.StreamingUnsignedTrailer, edit(crc, crc+"\r\nx-amz-trailer-signature:00"), "invalid trailer"},
		{"a trailer without a colon", sigv4.StreamingUnsignedTrailer, edit(crc, "x"), "invalid trailer"},
		{"the checksum of a signed trailer", sigv4.StreamingPayloadTrailer, edit("crc32:", "crc32:A"), "does not match"},
		{"the trailer's signature", sigv4.StreamingPayloadTrailer, edit("trailer-signature:", "trailer-signature:0"), "does not match"},
		{"the trailer's signature missing", sigv4.StreamingPayloadTrailer, func(b string) string {
			return b[:strings.Index(b, "x-amz-trailer-signature")] + "\r\n"
		}, "does not match"},
		{"the trailer's signature before the trailer", sigv4.StreamingPayloadTrailer, func(b string) string {
			return strings.Replace(strings.Replace(b, crc+"\r\n", "", 1), "\r\n\r\n", "\r\n"+crc+"\r\n\r\n", 1)
		}, "invalid trailer"},
		{"a chunk repeated", sigv4.StreamingPayload, func(b string) string { i := strings.Index(b, "0;"); return b[:i] + b }, "length"},
		{"more data than declared", sigv4.StreamingUnsignedTrailer, edit("0\r\n", "1\r\nx\r\n0\r\n"), "length"},
		{"less data than declared", sigv4.StreamingUnsignedTrailer, edit("14\r\n"+data+"\r\n", ""), "length"},
		{"a chunk shorter than it says", sigv4.StreamingUnsignedTrailer, edit("world", "worl"), "invalid line"},
		{"a chunk longer than it says", sigv4.StreamingUnsignedTrailer, edit("world", "worlds"), "invalid line"},
		{"lines that end in LF", sigv4.StreamingUnsignedTrailer, func(b string) string { return strings.ReplaceAll(b, "\r\n", "\n") }, "invalid line"},
		{"a size that is no number", sigv4.StreamingUnsignedTrailer, edit("14\r\n", "1g\r\n"), "invalid size"},
		{"a size with a sign", sigv4.StreamingUnsignedTrailer, edit("14\r\n", "+14\r\n"), "invalid size"},
		{"a size below zero", sigv4.StreamingUnsignedTrailer, edit("14\r\n", "-14\r\n"), "invalid size"},
		{"a size that overflows", sigv4.StreamingUnsignedTrailer, edit("14\r\n", "ffffffffffffffff\r\n"), "invalid size"},
		{"a huge size", sigv4.StreamingUnsignedTrailer, edit("14\r\n", "7fffffffffffffff\r\n"), "invalid size"},
		{"no size", sigv4.StreamingUnsignedTrailer, edit("14\r\n", "\r\n"), "invalid size"},
		{"a line without an end", sigv4.StreamingUnsignedTrailer, func(string) string { return strings.Repeat("0", 100_000) }, "invalid line"},
		{"a line that is too long", sigv4.StreamingUnsignedTrailer, edit("14\r\n", strings.Repeat("0", 300)+"14\r\n"), "invalid line"},
		{"a trailer that is too long", sigv4.StreamingUnsignedTrailer, edit(crc, strings.Repeat("x", 2000)), "invalid line"},
		{"something after the end", sigv4.StreamingPayload, func(b string) string { return b + "x" }, "invalid end"},
		{"cut within the data", sigv4.StreamingUnsignedTrailer, func(b string) string { return b[:10] }, "EOF"},
		{"cut before the last chunk", sigv4.StreamingUnsignedTrailer, func(b string) string { return b[:4+len(data)+2] }, "EOF"},
		{"cut before the trailer", sigv4.StreamingUnsignedTrailer, func(b string) string { return b[:4+len(data)+2+3] }, "EOF"},
		{"cut before the empty line", sigv4.StreamingPayload, func(b string) string { return b[:len(b)-2] }, "EOF"},
		{"nothing", sigv4.StreamingPayload, func(string) string { return "" }, "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := chunkedBody{payload: tt.payload, chunks: []string{data}, checksum: crc}
			if tt.payload == sigv4.StreamingPayload {
				c.checksum = ""
			}
			s := c.signature(t)
			body := c.encode()
			tampered := tt.tamper(body)
			if tampered == body {
				t.Fatalf("nothing was changed in %q", body)
			}
			r := sigv4.NewChunkedReader(strings.NewReader(tampered), s, secret)
			_, err := io.ReadAll(r)
			var refused *sigv4.Error
			switch {
			case tt.want == "EOF":
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("got %v, want an unexpected EOF", err)
				}
			case !errors.As(err, &refused) || refused.Kind != sigv4.BadPayload || !strings.Contains(refused.Message, tt.want):
				t.Errorf("got %v, want one with %q", err, tt.want)
			}
			if len(r.Trailer()) > 0 {
				t.Errorf("trailers of a body that was refused: %v", r.Trailer())
			}
			if _, again := r.Read(make([]byte, 1)); again == nil || again == io.EOF {
				t.Errorf("the next read says %v", again)
			}
		})
	}
}

func TestChunksOfAnotherRequestAreRefused(t *testing.T) {
	t.Parallel()
	c := chunkedBody{payload: sigv4.StreamingPayload, chunks: []string{"data"}}
	s := c.signature(t)
	body := c.encode()
	if _, err := io.ReadAll(sigv4.NewChunkedReader(strings.NewReader(body), s, secret)); err != nil {
		t.Fatal(err)
	}
	_, err := io.ReadAll(sigv4.NewChunkedReader(strings.NewReader(body), s, secret+"x"))
	wantKind(t, err, sigv4.BadPayload)
	c.seed = strings.Repeat("0", 64)
	_, err = io.ReadAll(sigv4.NewChunkedReader(strings.NewReader(c.encode()), s, secret))
	wantKind(t, err, sigv4.BadPayload)
}

func TestStreamingHeaders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		payload string
		length  string
		trailer string
		kind    sigv4.ErrorKind
	}{
		{"all there", sigv4.StreamingUnsignedTrailer, "5", "x-amz-checksum-crc32", 0},
		{"no trailer", sigv4.StreamingPayloadTrailer, "5", "", 0},
		{"two trailers", sigv4.StreamingUnsignedTrailer, "5", "x-amz-checksum-crc32, X-Amz-Checksum-SHA256", 0},
		{"no length", sigv4.StreamingPayload, "", "", sigv4.Malformed},
		{"a length below zero", sigv4.StreamingPayload, "-1", "", sigv4.Malformed},
		{"a length that is no number", sigv4.StreamingPayload, "x", "", sigv4.Malformed},
		{"a length of 6 TiB", sigv4.StreamingPayload, "6597069766656", "", sigv4.Malformed},
		{"a trailer of another kind", sigv4.StreamingUnsignedTrailer, "5", "x-amz-meta-a", sigv4.Malformed},
		{"a checksum of another kind", sigv4.StreamingUnsignedTrailer, "5", "x-amz-checksum-md5", sigv4.Malformed},
		{"too many trailers", sigv4.StreamingUnsignedTrailer, "5", strings.Repeat("x-amz-checksum-crc32,", 9), sigv4.Malformed},
		{"a trailer where there is none", sigv4.StreamingPayload, "5", "x-amz-checksum-crc32", sigv4.Malformed},
		{"an unknown way", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "5", "", sigv4.Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, _ := http.NewRequest("PUT", "http://s3.example/b/k", nil)
			if tt.length != "" {
				r.Header.Set("X-Amz-Decoded-Content-Length", tt.length)
			}
			if tt.trailer != "" {
				r.Header.Set("X-Amz-Trailer", tt.trailer)
			}
			sigv4.Sign(r, keys, "s3", "us-east-1", tt.payload, now)
			wantKind(t, verify(r, ""), tt.kind)
		})
	}
}

// A Signature that was not made by Parse may be anything.
func TestChunkedReaderRefusesOtherBodies(t *testing.T) {
	t.Parallel()
	for _, s := range []*sigv4.Signature{
		{PayloadHash: sigv4.UnsignedPayload},
		{PayloadHash: sigv4.StreamingUnsignedTrailer, Trailers: []string{"x-amz-meta-a"}},
	} {
		_, err := io.ReadAll(sigv4.NewChunkedReader(strings.NewReader("0\r\n\r\n"), s, secret))
		wantKind(t, err, sigv4.BadPayload)
	}
}

func TestErrorsOfTheBodyPassThrough(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	c := chunkedBody{payload: sigv4.StreamingUnsignedTrailer, chunks: []string{"data"}}
	s := c.signature(t)
	body := c.encode()
	for n := range body {
		_, err := io.ReadAll(sigv4.NewChunkedReader(io.MultiReader(strings.NewReader(body[:n]), iotest.ErrReader(broken)), s, secret))
		if !errors.Is(err, broken) {
			t.Errorf("after %d bytes: got %v", n, err)
		}
	}
}

// Body chooses what the request declares.
func TestBody(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, payload, body string
		kind                sigv4.ErrorKind
	}{
		{"the hash that was signed", hashOf("data"), "data", 0},
		{"another body", hashOf("data"), "Data", sigv4.BadPayload},
		{"a shorter body", hashOf("data"), "dat", sigv4.BadPayload},
		{"an empty body", hashOf("data"), "", sigv4.BadPayload},
		{"a body where none was signed", sigv4.EmptyPayload, "x", sigv4.BadPayload},
		{"none where none was signed", sigv4.EmptyPayload, "", 0},
		{"a body that was left out of the signature", sigv4.UnsignedPayload, "anything", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, _ := http.NewRequest("PUT", "http://s3.example/b/k", nil)
			sigv4.Sign(r, keys, "s3", "us-east-1", tt.payload, now)
			s, err := sigv4.Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(s.Body(iotest.OneByteReader(strings.NewReader(tt.body)), secret))
			wantKind(t, err, tt.kind)
			if string(got) != tt.body {
				t.Errorf("read %q, want %q", got, tt.body)
			}
		})
	}
	t.Run("nothing declared", func(t *testing.T) {
		t.Parallel()
		r, _ := http.NewRequest("GET", "http://sts.example/", nil)
		sigv4.Sign(r, keys, "sts", "us-east-1", sigv4.EmptyPayload, now)
		s, err := sigv4.Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(s.Body(strings.NewReader("x"), secret))
		wantKind(t, err, sigv4.BadPayload)
	})
}

// FuzzChunkedReader checks that only what was signed comes out without an error.
func FuzzChunkedReader(f *testing.F) {
	signed := chunkedBody{payload: sigv4.StreamingPayloadTrailer, chunks: []string{"hello, ", "world"}, checksum: checksums("hello, world")[1]}
	unsigned := chunkedBody{payload: sigv4.StreamingUnsignedTrailer, chunks: []string{"hello, world"}, checksum: checksums("hello, world")[4]}
	sigs := map[bool]*sigv4.Signature{true: signed.signature(f), false: unsigned.signature(f)}
	f.Add(true, []byte(signed.encode()))
	f.Add(false, []byte(unsigned.encode()))
	f.Add(false, []byte("c\nhello, world\n0\nX-Amz-Checksum-Sha256 : \n\n"))
	f.Fuzz(func(t *testing.T, withSignatures bool, body []byte) {
		r := sigv4.NewChunkedReader(bytes.NewReader(body), sigs[withSignatures], secret)
		got, err := io.ReadAll(r)
		if err == nil && string(got) != "hello, world" {
			t.Fatalf("%q was taken for %q", body, got)
		}
		if len(got) > len("hello, world") {
			t.Fatalf("%d bytes came out", len(got))
		}
	})
}

func BenchmarkChunkedReader(b *testing.B) {
	chunks := make([]string, 16)
	for i := range chunks {
		chunks[i] = strings.Repeat("x", 64<<10)
	}
	c := chunkedBody{payload: sigv4.StreamingPayload, chunks: chunks}
	s := c.signature(b)
	body := c.encode()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.Copy(io.Discard, sigv4.NewChunkedReader(strings.NewReader(body), s, secret)); err != nil {
			b.Fatal(err)
		}
	}
}
