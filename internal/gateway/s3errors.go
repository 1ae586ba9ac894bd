package gateway

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// s3Error is an error in S3's form (Amazon S3 API Reference, "Error responses"). Its status, and its message when it has
// none, come from the table of codes.
type s3Error struct {
	code    string
	message string
	details []detail // further elements, in order
	cause   error    // for the log only
}

// detail is a further element of an error.
type detail struct{ name, value string }

func (e *s3Error) Error() string { return e.code + ": " + e.message }

// s3Errorf makes an error; without a format the message is the table's.
func s3Errorf(code, format string, args ...any) *s3Error {
	return &s3Error{code: code, message: fmt.Sprintf(format, args...)}
}

// with adds an element.
func (e *s3Error) with(name, value string) *s3Error {
	e.details = append(e.details, detail{name, value})
	return e
}

// notImplemented says that something of S3 is not served here.
func notImplemented(what string) *s3Error {
	return s3Errorf("NotImplemented", "%s is not implemented.", what)
}

// internalError hides a cause from the caller.
func internalError(cause error) *s3Error { return &s3Error{code: "InternalError", cause: cause} }

// s3Codes has the status and the usual message of S3's error codes.
var s3Codes = map[string]struct {
	status  int
	message string
}{
	"AccessControlListNotSupported":     {400, "The bucket does not allow ACLs"},
	"AccessDenied":                      {403, "Access Denied"},
	"AuthorizationHeaderMalformed":      {400, "The authorization header that you provided is not valid."},
	"AuthorizationQueryParametersError": {400, "The authorization query parameters that you provided are not valid."},
	"BadDigest":                         {400, "The Content-MD5 or checksum value that you specified did not match what the server received."},
	"BadRequest":                        {400, "Bad Request"},
	"BucketAlreadyExists": {409, "The requested bucket name is not available. The bucket namespace is shared by all users of the system. " +
		"Please select a different name and try again."},
	"BucketAlreadyOwnedByYou":                 {409, "Your previous request to create the named bucket succeeded and you already own it."},
	"BucketNotEmpty":                          {409, "The bucket you tried to delete is not empty"},
	"EntityTooLarge":                          {400, "Your proposed upload exceeds the maximum allowed size"},
	"EntityTooSmall":                          {400, "Your proposed upload is smaller than the minimum allowed size"},
	"ExpiredToken":                            {400, "The provided token has expired."},
	"IllegalLocationConstraintException":      {400, "The specified location constraint is not valid."},
	"IllegalVersioningConfigurationException": {400, "The versioning configuration specified in the request is invalid."},
	"IncompleteBody":                          {400, "You did not provide the number of bytes specified by the Content-Length HTTP header"},
	"InternalError":                           {500, "We encountered an internal error. Please try again."},
	"InvalidAccessKeyId":                      {403, "The AWS Access Key Id you provided does not exist in our records."},
	"InvalidArgument":                         {400, "Invalid Argument"},
	"InvalidBucketName":                       {400, "The specified bucket is not valid."},
	"InvalidBucketState":                      {409, "The request is not valid with the current state of the bucket."},
	"InvalidDigest":                           {400, "The Content-MD5 you specified is not valid."},
	"InvalidPart": {400, "One or more of the specified parts could not be found.  The part may not have been uploaded, " +
		"or the specified entity tag may not match the part's entity tag."},
	"InvalidPartOrder":         {400, "The list of parts was not in ascending order. Parts must be ordered by part number."},
	"InvalidRange":             {416, "The requested range is not satisfiable"},
	"InvalidRequest":           {400, "Invalid Request"},
	"InvalidTag":               {400, "The tag provided was not a valid tag."},
	"InvalidToken":             {400, "The provided token is malformed or otherwise invalid."},
	"InvalidURI":               {400, "Couldn't parse the specified URI."},
	"KeyTooLongError":          {400, "Your key is too long"},
	"MalformedXML":             {400, "The XML you provided was not well-formed or did not validate against our published schema"},
	"MaxMessageLengthExceeded": {400, "Your request was too big."},
	"MetadataTooLarge":         {400, "Your metadata headers exceed the maximum allowed metadata size"},
	"MethodNotAllowed":         {405, "The specified method is not allowed against this resource."},
	"MissingContentLength":     {411, "You must provide the Content-Length HTTP header."},
	"MissingRequestBodyError":  {400, "Request Body is empty"},
	"NoSuchBucket":             {404, "The specified bucket does not exist"},
	"NoSuchBucketPolicy":       {404, "The bucket policy does not exist"},
	"NoSuchCORSConfiguration":  {404, "The CORS configuration does not exist"},
	"NoSuchKey":                {404, "The specified key does not exist."},
	"NoSuchTagSet":             {404, "The TagSet does not exist"},
	"NoSuchUpload": {404, "The specified upload does not exist. The upload ID may be invalid, " +
		"or the upload may have been aborted or completed."},
	"NoSuchVersion":        {404, "The specified version does not exist."},
	"NotImplemented":       {501, "A header you provided implies functionality that is not implemented"},
	"PreconditionFailed":   {412, "At least one of the pre-conditions you specified did not hold"},
	"RequestTimeTooSkewed": {403, "The difference between the request time and the current time is too large."},
	"ServiceUnavailable":   {503, "Service is unable to handle request."},
	"SignatureDoesNotMatch": {403, "The request signature we calculated does not match the signature you provided. " +
		"Check your key and signing method."},
	"SlowDown":                  {503, "Please reduce your request rate."},
	"XAmzContentSHA256Mismatch": {400, "The provided 'x-amz-content-sha256' header does not match what was computed."},

	"NoSuchLifecycleConfiguration":                   {404, "The lifecycle configuration does not exist"},
	"NoSuchPublicAccessBlockConfiguration":           {404, "The public access block configuration was not found"},
	"NoSuchWebsiteConfiguration":                     {404, "The specified bucket does not have a website configuration"},
	"ObjectLockConfigurationNotFoundError":           {404, "Object Lock configuration does not exist for this bucket"},
	"OwnershipControlsNotFoundError":                 {404, "The bucket ownership controls were not found"},
	"ReplicationConfigurationNotFoundError":          {404, "The replication configuration was not found"},
	"ServerSideEncryptionConfigurationNotFoundError": {404, "The server side encryption configuration was not found"},
}

// status returns the HTTP status: the table's, or what the store answered with for a code that is not in it.
func (e *s3Error) status(fallback int) int {
	if known, ok := s3Codes[e.code]; ok {
		return known.status
	}
	return fallback
}

// write sends the error. HEAD gets no body.
func (e *s3Error) write(w http.ResponseWriter, r *http.Request, requestID, hostID string, fallback int) {
	status := e.status(fallback)
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return
	}
	message := e.message
	if known := s3Codes[e.code].message; message == "" || message == e.code {
		message = known
	}
	var b bytes.Buffer
	b.WriteString(xml.Header + "<Error>")
	for _, d := range slices.Concat([]detail{{"Code", e.code}, {"Message", message}}, e.details,
		[]detail{{"RequestId", requestID}, {"HostId", hostID}}) {
		writeElement(&b, d.name, d.value)
	}
	b.WriteString("</Error>")
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	// A caller that has gone away is no failure of the request.
	_, _ = w.Write(b.Bytes())
}

// writeElement appends <name>value</name>. The name is ours.
func writeElement(b *bytes.Buffer, name, value string) {
	b.WriteString("<" + name + ">")
	// A bytes.Buffer takes everything.
	_ = xml.EscapeText(b, []byte(value))
	b.WriteString("</" + name + ">")
}

// storeDetails are the elements of a store's errors that callers see; others may tell of an upstream's insides.
var storeDetails = []string{
	"ArgumentName", "ArgumentValue", "Condition", "RangeRequested", "ActualObjectSize", "ProposedSize", "MinSizeAllowed",
	"MaxSizeAllowed", "PartNumber", "ETag", "UploadId",
}

// storeFaults are codes by which a store refuses the gateway's own signature or routing. Callers cannot do anything about
// them.
var storeFaults = []string{
	"AccountProblem", "AllAccessDisabled", "AuthorizationHeaderMalformed", "AuthorizationQueryParametersError", "ExpiredToken",
	"InvalidAccessKeyId", "InvalidSecurity", "InvalidToken", "NotSignedUp", "PermanentRedirect", "RequestTimeTooSkewed",
	"SignatureDoesNotMatch", "TemporaryRedirect", "XAmzContentSHA256Mismatch",
}

// parseStoreError reads a store's error body.
func parseStoreError(status int, body []byte) *s3Error {
	var doc struct {
		XMLName  xml.Name `xml:"Error"`
		Code     string
		Message  string
		Children []struct {
			XMLName xml.Name
			Text    string `xml:",chardata"`
		} `xml:",any"`
	}
	if err := xml.Unmarshal(body, &doc); err != nil || doc.Code == "" {
		return internalError(fmt.Errorf("the store answered %d without an S3 error", status))
	}
	if slices.Contains(storeFaults, doc.Code) {
		return internalError(fmt.Errorf("the store refused the gateway: %s: %s", doc.Code, doc.Message))
	}
	e := &s3Error{code: doc.Code, message: doc.Message}
	for _, c := range doc.Children {
		if slices.Contains(storeDetails, c.XMLName.Local) {
			e.with(c.XMLName.Local, c.Text)
		}
	}
	return e
}

// authenticationError turns a failed authentication into S3's error.
func authenticationError(r *http.Request, err error) *s3Error {
	var auth *awsapi.AuthError
	switch {
	case errors.Is(err, kv.ErrUnavailable):
		return &s3Error{code: "ServiceUnavailable", cause: err}
	case !errors.As(err, &auth):
		return internalError(err)
	}
	e := &s3Error{cause: auth}
	switch {
	case strings.HasPrefix(r.Header.Get("Authorization"), "AWS ") || r.URL.Query().Has("AWSAccessKeyId"):
		e.code, e.message = "InvalidRequest", "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
	case auth.Kind == awsapi.MissingToken:
		e.code = "AccessDenied"
	case auth.Kind == awsapi.UnknownKey:
		// A key with a session token is temporary: what is not valid is, as far as can be told, the token.
		e.code = "InvalidAccessKeyId"
		sig, perr := sigv4.Parse(r)
		if perr == nil && sig.SessionToken != "" {
			e.code = "InvalidToken"
		} else if perr == nil {
			e.with("AWSAccessKeyId", sig.AccessKeyID)
		}
	case auth.Kind == awsapi.ExpiredSession:
		e.code = "ExpiredToken"
	case auth.Signature == nil:
		return internalError(err)
	default:
		signatureError(e, r, auth.Signature)
	}
	return e
}

// signatureError fills in why a signature was refused.
func signatureError(e *s3Error, r *http.Request, refused *sigv4.Error) {
	sig, err := sigv4.Parse(r)
	presigned := err == nil && sig.Presigned || r.URL.Query().Has("X-Amz-Algorithm")
	switch refused.Kind {
	case sigv4.Expired, sigv4.NotYetValid:
		if presigned {
			e.code, e.message = "AccessDenied", "Request has expired"
			if refused.Kind == sigv4.NotYetValid {
				e.message = "Request is not valid yet"
			}
			return
		}
		e.code = "RequestTimeTooSkewed"
		if err == nil {
			e.with("RequestTime", sig.Time.Format("20060102T150405Z")).with("MaxAllowedSkewMilliseconds", "900000")
		}
	case sigv4.Mismatch:
		e.code = "SignatureDoesNotMatch"
		if refused.StringToSign == "" {
			e.code, e.message = "AccessDenied", refused.Message
			return
		}
		if err == nil {
			e.with("AWSAccessKeyId", sig.AccessKeyID).with("StringToSign", refused.StringToSign).
				with("SignatureProvided", sig.Provided()).with("StringToSignBytes", spacedHex(refused.StringToSign)).
				with("CanonicalRequest", refused.CanonicalRequest).with("CanonicalRequestBytes", spacedHex(refused.CanonicalRequest))
		}
	case sigv4.BadPayload:
		e.code = "XAmzContentSHA256Mismatch"
	default:
		e.code, e.message = "AuthorizationHeaderMalformed", refused.Message
		if presigned {
			e.code = "AuthorizationQueryParametersError"
		}
	}
}

// spacedHex prints bytes as S3 does in its signature errors.
func spacedHex(s string) string { return fmt.Sprintf("% x", s) }
