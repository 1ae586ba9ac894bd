package awsapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// fault is a failure that the wire itself finds. Its code and status depend on the protocol.
type fault int

const (
	validationFault    fault = iota + 1 // the request violates the model's constraints
	unreadableFault                     // the request cannot be read
	accessDeniedFault                   // the caller is not authorized
	unknownActionFault                  // there is no such operation
	missingActionFault                  // the request names no operation
	notServedFault                      // the model has the operation, but this server does not
	tooLargeFault                       // the body is too large
	mediaTypeFault                      // the body is encoded
	incompleteFault                     // the body ends early
	unavailableFault                    // the store cannot be reached
	internalFault                       // all else
)

const (
	invalidTokenText = "The security token included in the request is invalid."
	expiredTokenText = "The security token included in the request is expired"
	unavailableText  = "The request has failed due to a temporary failure of the server."
	internalText     = "The request processing has failed because of an unknown error, exception or failure. Request ID: %s"
	missingText      = "The request is missing an action or a required parameter."
)

// wireCode returns a fault's code and status: for queries as in the IAM API Reference, "Common Errors"; for the JSON
// protocols the names that AWS's services use, and the service's own where its model has one.
func (s *service) wireCode(f fault) (code string, status int) {
	query := s.protocol == queryProtocol
	pick := func(q string, qs int, j string, js int) (string, int) {
		if query {
			return q, qs
		}
		return j, js
	}
	switch f {
	case validationFault:
		if s.has("InvalidParameterException") {
			return "InvalidParameterException", http.StatusBadRequest
		}
		return pick("ValidationError", http.StatusBadRequest, "ValidationException", http.StatusBadRequest)
	case unreadableFault:
		return pick("MalformedInput", http.StatusBadRequest, "SerializationException", http.StatusBadRequest)
	case accessDeniedFault:
		return pick("AccessDenied", http.StatusForbidden, "AccessDeniedException", http.StatusForbidden)
	case unknownActionFault:
		return pick("InvalidAction", http.StatusBadRequest, "UnknownOperationException", http.StatusNotFound)
	case missingActionFault:
		return pick("MissingAction", http.StatusBadRequest, "UnknownOperationException", http.StatusNotFound)
	case notServedFault:
		return pick("NotImplemented", http.StatusNotImplemented, "NotImplementedException", http.StatusNotImplemented)
	case tooLargeFault:
		return pick("RequestEntityTooLarge", http.StatusRequestEntityTooLarge,
			"RequestEntityTooLargeException", http.StatusRequestEntityTooLarge)
	case mediaTypeFault:
		return pick("UnsupportedMediaType", http.StatusUnsupportedMediaType,
			"UnsupportedMediaTypeException", http.StatusUnsupportedMediaType)
	case incompleteFault:
		return pick("IncompleteBody", http.StatusBadRequest, "SerializationException", http.StatusBadRequest)
	case unavailableFault:
		return pick("ServiceUnavailable", http.StatusServiceUnavailable,
			"ServiceUnavailableException", http.StatusServiceUnavailable)
	default:
		if s.model != nil && s.model.internal != "" {
			return s.model.internal, http.StatusInternalServerError
		}
		return "InternalFailure", http.StatusInternalServerError
	}
}

// has reports whether the service's model has the error.
func (s *service) has(code string) bool {
	return s.model != nil && s.model.errors[code] != nil
}

// fault makes the error of a fault.
func (s *service) fault(f fault, format string, args ...any) *Error {
	code, status := s.wireCode(f)
	return &Error{Code: code, Status: status, Message: fmt.Sprintf(format, args...)}
}

// toWire turns any error into one that callers see, with its status.
func (s *service) toWire(err error, requestID string) *Error {
	var e *Error
	var auth *AuthError
	switch {
	case errors.As(err, &e):
		if e.Status != 0 {
			return e
		}
		known := *e
		known.Status = s.status(e.Code)
		return &known
	case errors.As(err, &auth):
		return s.authError(auth)
	case errors.Is(err, kv.ErrUnavailable):
		return s.fault(unavailableFault, "%s", unavailableText)
	default:
		return s.fault(internalFault, internalText, requestID)
	}
}

// Fault returns any error as callers of the service see it, with its status: for what answers them without a Handler. What is
// no *Error becomes one that tells nothing but the request's ID.
func (m *Model) Fault(err error, requestID string) *Error {
	return (&service{model: m, protocol: m.protocol}).toWire(err, requestID)
}

// status is the HTTP status of a code: the model's, or that of the table of common errors; 400 for others.
func (s *service) status(code string) int {
	if s.model != nil {
		if status, ok := s.model.statuses[code]; ok {
			return status
		}
	}
	switch strings.TrimSuffix(code, "Exception") {
	case "AccessDenied", "InvalidClientTokenId", "UnrecognizedClient", "ExpiredToken", "SignatureDoesNotMatch", "InvalidSignature",
		"MissingAuthenticationToken", "OptInRequired":
		return http.StatusForbidden
	case "ResourceNotFound", "NoSuchEntity", "NotFound", "UnknownOperation", "MalformedQueryString":
		return http.StatusNotFound
	case "ResourceInUse", "Conflict", "EntityAlreadyExists":
		return http.StatusConflict
	case "ServiceUnavailable":
		return http.StatusServiceUnavailable
	case "Throttling":
		if s.protocol == restJSONProtocol {
			return http.StatusTooManyRequests
		}
	case "InternalFailure", "InternalServer", "InternalError", "Server", "ServiceFailure":
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// authError gives a failed authentication the code and status that the protocol has for it.
func (s *service) authError(e *AuthError) *Error {
	query := s.protocol == queryProtocol
	// AWS's JSON services answer 400 where its query and REST services answer 403.
	status := http.StatusForbidden
	if s.protocol == jsonProtocol {
		status = http.StatusBadRequest
	}
	pick := func(q, j, message string) *Error {
		if query {
			return &Error{Code: q, Status: status, Message: message, Cause: e}
		}
		return &Error{Code: j, Status: status, Message: message, Cause: e}
	}
	switch e.Kind {
	case MissingToken:
		if query {
			return pick("MissingAuthenticationToken", "", "Request is missing Authentication Token")
		}
		return pick("", "MissingAuthenticationTokenException", "Missing Authentication Token")
	case ExpiredSession:
		return pick("ExpiredToken", "ExpiredTokenException", expiredTokenText)
	case BadSignature:
		if e.Signature == nil {
			break
		}
		if e.Signature.Kind == sigv4.Malformed {
			we := pick("IncompleteSignature", "IncompleteSignatureException", e.Signature.Message)
			we.Status = http.StatusBadRequest
			return we
		}
		return pick("SignatureDoesNotMatch", "InvalidSignatureException", e.Signature.Message)
	}
	return pick("InvalidClientTokenId", "UnrecognizedClientException", invalidTokenText)
}

// faultNamespace is that of errors about requests that no service could be found for.
const faultNamespace = "http://webservices.amazon.com/AWSFault/2005-15-09"

// reply is an answer, ready to be sent.
type reply struct {
	status      int
	contentType string
	errorType   string // x-amzn-ErrorType; empty for none
	body        []byte
}

const (
	xmlType   = "text/xml"
	jsonType  = "application/json"
	json11    = "application/x-amz-json-1.1"
	requestID = "X-Amzn-Requestid"
)

// errorReply writes an error in the protocol's envelope. asJSON is set for queries that ask for JSON.
func (s *service) errorReply(e *Error, id string, asJSON bool) reply {
	if s.protocol == queryProtocol {
		kind := "Sender"
		if e.Status >= 500 {
			kind = "Receiver"
		}
		b := make([]byte, 0, 512)
		if asJSON {
			b = append(b, `{"Error":{"Code":`...)
			b = appendJSONText(b, e.Code)
			b = append(b, `,"Message":`...)
			b = appendJSONText(b, e.Message)
			b = append(b, `,"Type":"`+kind+`"},"RequestId":`...)
			b = appendJSONText(b, id)
			b = append(b, '}')
			return reply{status: e.Status, contentType: jsonType, body: b}
		}
		namespace := faultNamespace
		if s.model != nil && e.Code != "InvalidAction" {
			namespace = s.model.namespace
		}
		b = append(b, `<ErrorResponse xmlns="`+namespace+"\">\n  <Error>\n    <Type>"+kind+"</Type>\n    <Code>"...)
		b = appendXMLText(b, e.Code)
		b = append(b, "</Code>\n    <Message>"...)
		b = appendXMLText(b, e.Message)
		b = append(b, "</Message>\n  </Error>\n  <RequestId>"+id+"</RequestId>\n</ErrorResponse>\n"...)
		return reply{status: e.Status, contentType: xmlType, body: b}
	}
	rep := reply{status: e.Status, contentType: jsonType, errorType: e.Code}
	b := append(make([]byte, 0, 256), '{')
	first := true
	if s.protocol == jsonProtocol {
		rep.contentType = json11
		b = appendName(b, "__type", &first)
		b = appendJSONText(b, e.Code)
	}
	b = appendName(b, "message", &first)
	b = appendJSONText(b, e.Message)
	for _, name := range sortedNames(e.Fields) {
		b = appendName(b, name, &first)
		b = appendValue(b, e.Fields[name])
	}
	if s.has(e.Code) { // members that are not set are null
		for _, m := range s.model.errors[e.Code].members {
			if _, set := e.Fields[m.name]; !set && m.name != "message" {
				b = appendName(b, m.name, &first)
				b = append(b, "null"...)
			}
		}
	}
	rep.body = append(b, '}')
	return rep
}
