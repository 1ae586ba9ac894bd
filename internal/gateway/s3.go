package gateway

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

// ownership is what the gateway asks about a store's contents before it authorizes.
type ownership interface {
	// owner returns the account that owns a bucket, or "" when there is no such bucket.
	owner(bucket string) string
	// tags returns an object's tags; nil when it has none, does not exist, or the store cannot tell.
	tags(bucket, key string) map[string]string
	// versioned reports whether the store may have more than one version of an object.
	versioned() bool
}

// soleOwner is the account that owns everything in a store that keeps no owners.
type soleOwner string

// nobody owns the buckets of a store for which no account was configured. It is no account's ID.
const nobody = "nobody"

func (s soleOwner) owner(string) string {
	if s == "" {
		return nobody
	}
	return string(s)
}

func (soleOwner) tags(string, string) map[string]string { return nil }

func (soleOwner) versioned() bool { return true }

// accountKey is the context key of the account on whose behalf a store is asked.
type accountKey struct{}

func withAccount(ctx context.Context, account string) context.Context {
	return context.WithValue(ctx, accountKey{}, account)
}

func accountOf(ctx context.Context) string {
	account, _ := ctx.Value(accountKey{}).(string)
	return account
}

// partitionOf returns the ARN's partition of a region; regions that no partition knows are taken to be in aws.
func partitionOf(region string) string {
	if p, ok := arn.PartitionOfRegion(region); ok {
		return p.Name
	}
	return "aws"
}

type s3Gateway struct {
	Config
	owners    ownership
	partition string
}

// exchange is one request on its way through the gateway, and what its event says.
type exchange struct {
	g         *s3Gateway
	w         http.ResponseWriter
	r         *http.Request
	requestID string
	hostID    string
	caller    *awsapi.Caller
	request   *s3Request
	body      *body           // nil for operations without one
	decision  policy.Decision // the last one
	decided   bool
	failure   *s3Error
}

// ServeHTTP implements http.Handler.
func (g *s3Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{g: g, w: w, r: r, requestID: newRequestID(), hostID: newHostID()}
	w.Header().Set("X-Amz-Request-Id", x.requestID)
	w.Header().Set("X-Amz-Id-2", x.hostID)
	defer x.annotate()
	stream, length, err := x.authenticate()
	if err == nil {
		err = x.serve(stream, length)
	}
	if err != nil {
		x.failure = err
		err.write(w, r, x.requestID, x.hostID, http.StatusInternalServerError)
	}
}

// newRequestID makes an S3 request ID: 16 hexadecimal digits.
func newRequestID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return strings.ToUpper(hex.EncodeToString(b[:]))
}

// newHostID makes an S3 host ID: opaque text, in base64.
func newHostID() string {
	var b [48]byte
	rand.Read(b[:]) // never fails
	return base64.StdEncoding.EncodeToString(b[:])
}

// serve answers the request of a caller that is known, unless it returns an error. stream and length are what authenticate returns.
func (x *exchange) serve(stream io.Reader, length int64) (err *s3Error) {
	if x.request, err = parseS3Request(x.r); err != nil {
		return err
	}
	x.caller.Operation = x.request.op.name
	if x.request.op.on == onBucket {
		x.w.Header().Set("X-Amz-Bucket-Region", x.g.Authenticator.Region)
	}
	if err := x.checkOwners(); err != nil {
		return err
	}

	if x.request.op.body != noBody {
		if x.body, err = newBody(x.request, stream, length); err != nil {
			return err
		}
	}
	switch x.request.op.body {
	case deleteBody:
		return x.deleteObjects(length)
	case tagBody:
		return x.putTags(length)
	case createBody:
		return x.createBucket(length)
	}
	if err := x.authorizeAll(nil, ""); err != nil {
		return err
	}
	if x.body == nil {
		return x.forward(nil, 0)
	}
	return x.forward(x.body, length)
}

// authenticate verifies the signature. The stream is the body, decoded and held to what was signed; length is its size, or
// -1 when it does not say.
func (x *exchange) authenticate() (stream io.Reader, length int64, err *s3Error) {
	a := x.g.Authenticator
	caller, aerr := a.Authenticate(x.r, "s3", "")
	if aerr != nil {
		return nil, 0, authenticationError(x.r, aerr)
	}
	x.caller = caller
	sig, perr := sigv4.Parse(x.r)
	if perr != nil {
		return nil, 0, internalError(fmt.Errorf("parse a verified signature: %w", perr))
	}
	if sig.DecodedLength < 0 {
		return sig.Body(x.r.Body, ""), x.r.ContentLength, nil
	}
	// Every chunk is signed too, so the secret is needed once more.
	credential, aerr := a.Credentials(x.r.Context(), sig.AccessKeyID, sig.SessionToken)
	if aerr != nil {
		return nil, 0, authenticationError(x.r, aerr)
	}
	return sig.Body(x.r.Body, credential.Secret), sig.DecodedLength, nil
}

// checkOwners refuses requests about other accounts' buckets. There are no bucket policies that could allow them.
func (x *exchange) checkOwners() *s3Error {
	denied := &s3Error{code: "AccessDenied"}
	q := x.request
	for _, b := range []struct{ bucket, expectHeader string }{
		{q.bucket, "X-Amz-Expected-Bucket-Owner"}, {q.source.bucket, "X-Amz-Source-Expected-Bucket-Owner"},
	} {
		expected := q.header.Get(b.expectHeader)
		if expected != "" && !arn.ValidAccountID(expected) {
			return s3Errorf("InvalidArgument", "The value of the %s header must be an AWS account ID", strings.ToLower(b.expectHeader))
		}
		if b.bucket == "" {
			continue
		}
		owner := x.g.owners.owner(b.bucket)
		if _, sole := x.g.owners.(soleOwner); q.op.name == "CreateBucket" && !sole {
			continue // that the name is taken is for the store to say
		}
		if owner != "" && (owner != x.caller.Account || expected != "" && owner != expected) {
			return denied
		}
	}
	return nil
}

// checkACL refuses access control lists that grant anything. With the owner enforced, as has been the default since April
// 2023, S3 takes no others either.
func (q *s3Request) checkACL() *s3Error {
	acl := q.header.Get(headerACL)
	if q.setsACL() && acl != "private" && acl != "bucket-owner-full-control" {
		return s3Errorf("AccessControlListNotSupported", "")
	}
	for name := range q.header {
		if strings.HasPrefix(name, "X-Amz-Grant-") {
			return s3Errorf("AccessControlListNotSupported", "")
		}
	}
	return nil
}

// authorizeAll asks for everything that the operation needs, and refuses the operations that are refused to everyone.
func (x *exchange) authorizeAll(tags []tag, region string) *s3Error {
	needs, err := x.request.permissions(tags, region)
	if err != nil {
		return err
	}
	if x.request.op.header == headerCopySource {
		needs = append(needs, x.copiedTags()...)
	}
	for _, p := range needs {
		if err := x.authorize(p); err != nil {
			return err
		}
	}
	if x.request.op.refused {
		return notImplemented(x.request.op.name)
	}
	for _, version := range []string{x.request.query.Get("versionId"), x.request.source.version} {
		if err := x.checkVersion(version); err != nil {
			return err
		}
	}
	return x.request.checkACL()
}

// checkVersion refuses to name versions in a store that has none, which would take the only one for it.
func (x *exchange) checkVersion(version string) *s3Error {
	if version == "" || version == "null" || x.g.owners.versioned() {
		return nil
	}
	return notImplemented("Versioning")
}

// copiedTags is what copying an object's tags along with it needs.
func (x *exchange) copiedTags() []permission {
	q := x.request
	if q.op.name != "CopyObject" || strings.EqualFold(q.header.Get("X-Amz-Tagging-Directive"), "REPLACE") ||
		len(x.g.owners.tags(q.source.bucket, q.source.key)) == 0 {
		return nil
	}
	return []permission{
		{action: "s3:GetObjectTagging", bucket: q.source.bucket, key: q.source.key, single: q.conditions(), tags: true},
		{action: "s3:PutObjectTagging", bucket: q.bucket, key: q.key, single: q.conditions(), tags: true},
	}
}

// authorize decides on one permission.
func (x *exchange) authorize(p permission) *s3Error {
	resource := p.resource(x.g.partition)
	x.decided = true
	x.decision = x.g.Authorize(x.r.Context(), x.caller, awsapi.Access{
		Action: p.action, Resource: resource, ResourceAccount: x.caller.Account, Context: func(c *policy.Context) {
			for key, value := range p.single {
				c.Set(key, value)
			}
			for key, values := range p.multiple {
				c.SetList(key, values)
			}
			if p.bucket != "" {
				c.Set("s3:ResourceAccount", x.caller.Account)
			}
			x.caller.CalledVia(c)
			if p.tags {
				for key, value := range x.g.owners.tags(p.bucket, p.key) {
					c.Set("s3:ExistingObjectTag/"+key, value)
				}
			}
		},
	})
	if x.decision.Allowed {
		return nil
	}
	printed := "*"
	if p.bucket != "" {
		printed = `"` + resource + `"` // S3 alone quotes it
	}
	return s3Errorf("AccessDenied", "%s", x.decision.Message(&policy.Request{
		Principal: policy.Principal{Kind: x.caller.Kind, Account: x.caller.Account, ARN: x.caller.ARN},
		Action:    p.action, Resource: printed,
	}))
}

// forward hands the request to the store and its answer to the caller. A nil body is an empty one.
func (x *exchange) forward(b io.ReadCloser, length int64) *s3Error {
	q := x.request
	if q.op.name == "ListBuckets" {
		if account := x.g.owners.owner(""); account != "" && account != x.caller.Account {
			return x.emptyBucketList()
		}
	}
	if b == nil {
		b, length = http.NoBody, 0
	}
	if length == 0 && x.body != nil && x.body.err == nil && !x.body.done {
		// Nobody reads an empty body, so its hash is checked here.
		if _, err := io.Copy(io.Discard, x.body); err != nil {
			return x.body.s3(err)
		}
	}
	answer := &answer{x: x, capture: q.op.name == "GetBucketLocation" || q.op.name == "DeleteObjects"}
	x.g.Store.ServeHTTP(answer, x.storeRequest(b, length))
	return answer.finish()
}

// storeRequest makes the request that the store sees.
func (x *exchange) storeRequest(b io.ReadCloser, length int64) *http.Request {
	u := x.request.url()
	ctx := withAccount(x.r.Context(), x.caller.Account)
	r := (&http.Request{
		Method: x.r.Method, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "store",
		Header: x.request.header.Clone(), Body: b, ContentLength: length, RequestURI: u.RequestURI(), RemoteAddr: x.r.RemoteAddr,
	}).WithContext(ctx)
	for _, name := range []string{"X-Amz-Expected-Bucket-Owner", "X-Amz-Source-Expected-Bucket-Owner", headerACL} {
		r.Header.Del(name) // decided above
	}
	if declared := r.Header.Get(headerSHA256); len(declared) != 64 || length == 0 {
		r.Header.Del(headerSHA256)
	}
	if x.request.op.body != noBody {
		r.Header.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	return r
}

// replaceBody makes the store see XML that was made from what was authorized, instead of the caller's.
func (x *exchange) replaceBody(doc any) (io.ReadCloser, int64, *s3Error) {
	b, err := xml.Marshal(doc)
	if err != nil {
		return nil, 0, internalError(fmt.Errorf("encode %s: %w", x.request.op.name, err))
	}
	h := x.request.header
	for name := range h {
		if strings.HasPrefix(name, "X-Amz-Checksum-") || name == "X-Amz-Sdk-Checksum-Algorithm" || name == headerSHA256 {
			h.Del(name) // they were of the caller's bytes, and were verified
		}
	}
	sum := md5.Sum(b)
	h.Set("Content-Md5", base64.StdEncoding.EncodeToString(sum[:]))
	h.Set("Content-Type", "application/xml")
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
}

const s3Namespace = "http://s3.amazonaws.com/doc/2006-03-01/"

// tagging is the body of PutObjectTagging.
type tagging struct {
	XMLName xml.Name `xml:"Tagging"`
	TagSet  []tag    `xml:"TagSet>Tag"`
}

func (x *exchange) putTags(length int64) *s3Error {
	b, err := x.body.readAll(length)
	if err != nil {
		return err
	}
	var doc tagging
	if xml.Unmarshal(b, &doc) != nil {
		return s3Errorf("MalformedXML", "")
	}
	if err := checkTags(doc.TagSet); err != nil {
		return err
	}
	if err := x.authorizeAll(doc.TagSet, ""); err != nil {
		return err
	}
	doc.XMLName = xml.Name{Local: "Tagging"}
	body, length, err := x.replaceBody(doc)
	if err != nil {
		return err
	}
	return x.forward(body, length)
}

// unconstrained is the region whose buckets are made without saying so.
const unconstrained = "us-east-1"

// createBucketConfiguration is the body of CreateBucket. Of its elements only the region is known.
type createBucketConfiguration struct {
	XMLName            xml.Name `xml:"CreateBucketConfiguration"`
	LocationConstraint string
	Unknown            []struct {
		XMLName xml.Name
	} `xml:",any"`
}

func (x *exchange) createBucket(length int64) *s3Error {
	b, err := x.body.readAll(length)
	if err != nil {
		return err
	}
	var doc createBucketConfiguration
	if len(b) > 0 {
		if xml.Unmarshal(b, &doc) != nil {
			return s3Errorf("MalformedXML", "")
		}
		if len(doc.Unknown) > 0 {
			return notImplemented("The element " + doc.Unknown[0].XMLName.Local + " of CreateBucketConfiguration")
		}
	}
	if err := x.authorizeAll(nil, doc.LocationConstraint); err != nil {
		return err
	}
	region := x.g.Authenticator.Region
	switch {
	case doc.LocationConstraint == "" && region != unconstrained:
		return s3Errorf("IllegalLocationConstraintException",
			"The unspecified location constraint is incompatible for the region specific endpoint this request was sent to.")
	case doc.LocationConstraint != "" && doc.LocationConstraint != region:
		return s3Errorf("IllegalLocationConstraintException",
			"The %s location constraint is incompatible for the region specific endpoint this request was sent to.", doc.LocationConstraint)
	}
	const ownership = "X-Amz-Object-Ownership"
	if v := x.request.header.Get(ownership); v != "" && v != "BucketOwnerEnforced" {
		return notImplemented("The object ownership " + v)
	}
	x.request.header.Del(ownership)
	x.request.header.Del(headerSHA256)
	return x.forward(nil, 0)
}

// deleteRequest is the body of DeleteObjects.
type deleteRequest struct {
	XMLName xml.Name       `xml:"Delete"`
	Quiet   bool           `xml:"Quiet,omitempty"`
	Objects []deleteObject `xml:"Object"`
}

type deleteObject struct {
	Key              string
	VersionID        string `xml:"VersionId,omitempty"`
	ETag             string `xml:",omitempty"`
	LastModifiedTime string `xml:",omitempty"`
	Size             string `xml:",omitempty"`
}

// deleteResult is the answer to DeleteObjects.
type deleteResult struct {
	XMLName   xml.Name        `xml:"DeleteResult"`
	Namespace string          `xml:"xmlns,attr,omitempty"`
	Deleted   []deletedObject `xml:"Deleted"`
	Errors    []deleteError   `xml:"Error"`
}

type deletedObject struct {
	Key                   string
	VersionID             string `xml:"VersionId,omitempty"`
	DeleteMarker          string `xml:",omitempty"`
	DeleteMarkerVersionID string `xml:"DeleteMarkerVersionId,omitempty"`
}

type deleteError struct {
	Key       string
	VersionID string `xml:"VersionId,omitempty"`
	Code      string
	Message   string
}

// deleteObjects decides on every object by itself: those that the caller may not delete are reported, the others are
// deleted.
func (x *exchange) deleteObjects(length int64) *s3Error {
	const maxObjects = 1000
	b, err := x.body.readAll(length)
	if err != nil {
		return err
	}
	var doc deleteRequest
	if xml.Unmarshal(b, &doc) != nil || len(doc.Objects) == 0 || len(doc.Objects) > maxObjects {
		return s3Errorf("MalformedXML", "")
	}
	result := deleteResult{Namespace: s3Namespace}
	allowed := doc.Objects[:0:0]
	for _, o := range doc.Objects {
		var refusal *s3Error
		if _, _, perr := parseTarget("", "/"+x.request.bucket+"/"+o.Key); perr != nil || o.Key == "" {
			refusal = s3Errorf("UserKeyMustBeSpecified", "The key is empty, too long, or not valid.")
		} else {
			if refusal = x.authorize(x.request.deletePermission(o.Key, o.VersionID)); refusal == nil {
				refusal = x.checkVersion(o.VersionID)
			}
		}
		if refusal != nil {
			result.Errors = append(result.Errors, deleteError{o.Key, o.VersionID, refusal.code, refusal.message})
			continue
		}
		allowed = append(allowed, o)
	}
	if len(allowed) > 0 {
		body, length, err := x.replaceBody(deleteRequest{Objects: allowed, Quiet: doc.Quiet})
		if err != nil {
			return err
		}
		answer := &answer{x: x, capture: true, merge: &result}
		x.g.Store.ServeHTTP(answer, x.storeRequest(body, length))
		return answer.finish()
	}
	if x.g.owners.owner(x.request.bucket) == "" {
		return s3Errorf("NoSuchBucket", "").with("BucketName", x.request.bucket)
	}
	return x.writeXML(result)
}

// writeXML answers with a document.
func (x *exchange) writeXML(doc any) *s3Error {
	b, err := xml.Marshal(doc)
	if err != nil {
		return internalError(fmt.Errorf("encode the answer to %s: %w", x.request.op.name, err))
	}
	x.w.Header().Del("Content-Length")
	x.w.Header().Set("Content-Type", "application/xml")
	x.w.WriteHeader(http.StatusOK)
	// A caller that has gone away is no failure of the request.
	_, _ = x.w.Write(append([]byte(xml.Header), b...))
	return nil
}

// emptyBucketList answers ListBuckets for an account that owns nothing in the store.
func (x *exchange) emptyBucketList() *s3Error {
	return x.writeXML(bucketList{Namespace: s3Namespace, Owner: newOwner(x.caller.Account)})
}

// annotate adds what the gateway knows to the request's one event.
func (x *exchange) annotate() {
	attrs := []slog.Attr{slog.String("s3_request_id", x.requestID)}
	if c := x.caller; c != nil {
		attrs = append(attrs, slog.String("operation", c.Operation), slog.String("caller", c.ARN), slog.String("account", c.Account))
	}
	if q := x.request; q != nil {
		attrs = append(attrs, slog.String("bucket", q.bucket), slog.String("key", q.key))
	}
	if x.decided {
		attrs = append(attrs, slog.String("decision", x.decision.String()))
	}
	if f := x.failure; f != nil {
		attrs = append(attrs, slog.String("code", f.code))
		if f.cause != nil {
			attrs = append(attrs, slog.Any("err", f.cause))
		}
	}
	awsapi.Annotate(x.r.Context(), attrs...)
}
