package gateway

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
)

// maxCaptured is the most of a store's answer that the gateway keeps to read it: the result of deleting 1,000 objects.
const maxCaptured = 8 << 20

// answer is the http.ResponseWriter that the store writes to. What succeeded goes through as it comes; errors, and answers
// that the gateway has to change, are kept until the store is done.
type answer struct {
	x        *exchange
	capture  bool          // keep successes too
	merge    *deleteResult // DeleteObjects: what was refused before
	header   http.Header
	status   int
	captured bytes.Buffer
	overflow bool
	cause    error // why the store failed, for the log only
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status != 0 || status < 200 {
		return
	}
	a.status = status
	if a.keeps() {
		return
	}
	a.copyHeader()
	a.x.w.WriteHeader(status)
}

// keeps reports whether the answer is kept: redirections too, since no caller may be sent to where only the gateway has
// credentials.
func (a *answer) keeps() bool {
	return a.capture || a.status >= 300 && a.status != http.StatusNotModified
}

// copyHeader gives the caller the store's headers, but for those that name the store.
func (a *answer) copyHeader() {
	out := a.x.w.Header()
	for name, values := range a.header {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case canonical == "Server" || canonical == "X-Amz-Request-Id" || canonical == "X-Amz-Id-2" || canonical == "X-Amz-Bucket-Region",
			strings.HasPrefix(canonical, "Access-Control-"):
		default:
			out[name] = values // the spelling counts: names of user metadata are in lower case
		}
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if !a.keeps() {
		return a.x.w.Write(p)
	}
	if a.captured.Len()+len(p) > maxCaptured {
		a.overflow = true
		return 0, errors.New("the answer is too long to be read")
	}
	return a.captured.Write(p)
}

// Flush implements http.Flusher.
func (a *answer) Flush() {
	if f, ok := a.x.w.(http.Flusher); ok && a.status != 0 && !a.keeps() {
		f.Flush()
	}
}

// finish answers what was kept.
func (a *answer) finish() *s3Error {
	x := a.x
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	switch {
	case x.body != nil && x.body.err != nil && a.status >= 300:
		return x.body.err
	case a.overflow:
		return internalError(errors.New("the store's answer is too long to be read"))
	case !a.keeps():
		return nil
	case a.status < 300:
		return a.change()
	case a.status < 400:
		return internalError(fmt.Errorf("the store redirects with %d to %s", a.status, a.header.Get("Location")))
	}
	return a.storeError()
}

// change answers with the store's success, changed.
func (a *answer) change() *s3Error {
	x := a.x
	if a.merge == nil {
		return x.writeXML(newLocation(x.g.Authenticator.Region))
	}
	var doc deleteResult
	if err := xml.Unmarshal(a.captured.Bytes(), &doc); err != nil {
		return internalError(fmt.Errorf("read the store's DeleteResult: %w", err))
	}
	a.merge.Deleted = append(a.merge.Deleted, doc.Deleted...)
	a.merge.Errors = append(a.merge.Errors, doc.Errors...)
	return x.writeXML(*a.merge)
}

// location is the answer to GetBucketLocation.
type location struct {
	XMLName   xml.Name `xml:"LocationConstraint"`
	Namespace string   `xml:"xmlns,attr"`
	Region    string   `xml:",chardata"`
}

// newLocation names a region; us-east-1 goes without a name.
func newLocation(region string) location {
	if region == unconstrained {
		region = ""
	}
	return location{Namespace: s3Namespace, Region: region}
}

// storeError answers with the store's error in the gateway's envelope.
func (a *answer) storeError() *s3Error {
	x, q := a.x, a.x.request
	if x.r.Method == http.MethodHead {
		// Its error has no body to be read; a missing object is told from a missing bucket by asking for the bucket.
		e := &s3Error{code: http.StatusText(a.status)}
		if a.status == http.StatusNotFound {
			e.code = "NoSuchKey"
		}
		if a.status == http.StatusForbidden || a.status == http.StatusUnauthorized {
			return internalError(fmt.Errorf("the store answers HEAD with %d", a.status))
		}
		e.cause = a.cause
		if err := x.mayKnow(e); err != nil {
			return err
		}
		a.copyHeader()
		x.w.Header().Del("Content-Length")
		x.failure = e
		x.w.WriteHeader(a.status)
		return nil
	}
	e := parseStoreError(a.status, a.captured.Bytes())
	if a.cause != nil {
		e.cause = a.cause
	}
	switch e.code {
	case "NoSuchKey":
		if err := x.mayKnow(e); err != nil {
			return err
		}
		if q.source.key != "" {
			e.with("Key", q.source.key)
		} else {
			e.with("Key", q.key)
		}
	case "NoSuchBucket", "BucketNotEmpty":
		e.with("BucketName", q.bucket)
	case "BucketAlreadyExists":
		if x.g.owners.owner(q.bucket) == x.caller.Account {
			e = s3Errorf("BucketAlreadyOwnedByYou", "")
		}
		e.with("BucketName", q.bucket)
	}
	x.failure = e
	for _, name := range []string{"Retry-After", "X-Amz-Delete-Marker", "X-Amz-Version-Id"} {
		if v := a.header.Get(name); v != "" {
			x.w.Header().Set(name, v)
		}
	}
	e.write(x.w, x.r, x.requestID, x.hostID, a.status)
	return nil
}

// mayKnow says whether the caller may learn that an object does not exist: only who may list the bucket may (Amazon S3 API
// Reference, "GetObject"); others are answered AccessDenied.
func (x *exchange) mayKnow(e *s3Error) *s3Error {
	if e.code != "NoSuchKey" || x.request.op.on != onObject {
		return nil
	}
	bucket := x.request.bucket
	if x.request.source.bucket != "" {
		bucket = x.request.source.bucket
	}
	if x.g.owners.owner(bucket) == "" {
		return nil // it is the bucket that does not exist
	}
	keys := maps.Clone(x.request.conditions())
	decided := x.decision
	err := x.authorize(permission{action: "s3:ListBucket", bucket: bucket, single: keys})
	if err == nil {
		x.decision = decided
	}
	return err
}
