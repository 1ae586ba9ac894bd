// Package awsapi is the wire: it serves AWS's protocols (Query with XML, REST-JSON, JSON 1.1) for services that are
// plain methods. A request is routed, authenticated, decoded, validated, authorized, called and encoded, in this order,
// and leaves one wide log event. What a service's requests and responses look like, and what their limits are, is data:
// the models in models/, which have the form of AWS's own.
package awsapi

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/policy"
)

// Identity is who makes a request, as the credentials that signed it say.
type Identity struct {
	Kind        policy.PrincipalKind // Anonymous, Root, User, RoleSession or Federated
	Account     string               // account ID
	ARN         string               // as GetCallerIdentity prints it
	UserID      string               // as GetCallerIdentity prints it
	EntityID    string               // unique ID of the user or role; empty for root
	EntityARN   string               // ARN of the user or role; the root's ARN for root
	AccessKeyID string
	Session     *Session // nil for long-term keys
}

// Session is what temporary credentials carry.
type Session struct {
	Name              string
	Tags              []Tag    // session tags, those inherited from the calling session included
	TransitiveKeys    []string // keys of Tags that the next session of a chain inherits
	SourceIdentity    string
	Policies          []string // session policies: JSON documents
	PolicyARNs        []string // session policies: managed policies
	Issued            time.Time
	Expires           time.Time
	FederatedProvider string     // ARN of the OIDC provider of a web identity
	ContextKeys       []KeyValue // keys that stay with the session, such as the provider's :sub and :aud
}

// Tag is a key and a value. Keys are compared without regard to case.
type Tag struct{ Key, Value string }

// KeyValue is a single-valued condition key.
type KeyValue struct{ Key, Value string }

// Caller is an identity together with the request that it makes.
type Caller struct {
	Identity
	RequestID string // UUID
	Service   string // signing name, such as sts
	Operation string
	Region    string // of the credential scope; the server's own for unsigned requests
	SourceIP  netip.Addr
	UserAgent string
	Host      string
	Secure    bool // by TLS
	// TLSVersion and TLSCipher are the connection's as CloudTrail names them, such as TLSv1.3; empty without TLS.
	TLSVersion, TLSCipher string
	Time                  time.Time
	// Via is the service that makes the call for the caller, such as cloudformation; empty for calls by wire.
	Via string `json:",omitempty"`
	// SystemTags are what the service in Via tags the resource with that the call makes, with keys that begin with aws:. The caller can
	// neither bring nor change such tags and needs no permission for them, and they do not count against a quota (AWS General Reference,
	// "Tagging AWS resources"). No request by wire has any.
	SystemTags []Tag `json:",omitempty"`
}

// IsSystemTag reports whether a tag's key is reserved for services: it begins with aws:, in whatever case.
func IsSystemTag(key string) bool {
	const prefix = "aws:"
	return len(key) >= len(prefix) && strings.EqualFold(key[:len(prefix)], prefix)
}

// Access is one permission that an operation needs.
type Access struct {
	Action          string // such as iam:GetRole
	Resource        string // ARN; "*" for operations without a resource
	ResourceAccount string // the caller's own when empty
	// Context adds the operation's condition keys (aws:RequestTag/k, aws:ResourceTag/k, iam:PassedToService, …) to
	// those that every request has; may be nil.
	Context func(*policy.Context)
}

// Operation is one call of an API. Make it with Op.
type Operation struct {
	name   string
	newIn  func() any
	call   func(ctx context.Context, c *Caller, in any) (any, error)
	access func(c *Caller, in any) ([]Access, error)
	in     any // zero In and Out, for checking against the model
	out    any
}

// Op makes an operation of a method. In and Out are structs whose exported fields have the names of the model's members,
// compared without regard to case; NewHandler refuses fields that the model does not have, and required members that In
// lacks. A request with a member of the model that In lacks is refused by name, unless it is an idempotency token: give In
// a field for what is accepted without effect.
//
// Types: string, bool, int32, int64, float64, time.Time, []byte, structs, slices, maps with string keys, and pointers to
// them. When decoding, absent members leave the zero value; use a pointer where absent and zero differ. When encoding, these
// are left out: nil pointers, slices and maps, empty strings, zero times; all else is written, false and 0 too.
//
// access says what the caller must be permitted to do; all of it must be allowed. An error of access is the answer (a
// missing entity, for one). It is required, which NewHandler checks: use [Open] for operations that need no permission or
// that decide by themselves.
func Op[In, Out any](name string, call func(context.Context, *Caller, *In) (*Out, error), access func(*Caller, *In) ([]Access, error)) Operation {
	var in In
	var out Out
	op := Operation{
		name:  name,
		newIn: func() any { return new(In) },
		call:  func(ctx context.Context, c *Caller, v any) (any, error) { return call(ctx, c, v.(*In)) },
		in:    in,
		out:   out,
	}
	if access != nil {
		op.access = func(c *Caller, v any) ([]Access, error) { return access(c, v.(*In)) }
	}
	return op
}

// Open is the access of operations that need no permission, or that decide by themselves.
func Open[In any](*Caller, *In) ([]Access, error) { return nil, nil }

// Service is one API: a model and the operations of it that are served. Operations of the model that are not served
// answer with an error that says so by name.
type Service struct {
	Model      *Model
	Operations []Operation
}

// Error is an error that callers see. Any other error is answered as the protocol's internal failure, and its text
// stays in the log; one that wraps kv.ErrUnavailable is answered as ServiceUnavailable, 503.
type Error struct {
	Code    string         // as on the wire, such as NoSuchEntity
	Message string         // AWS's text
	Status  int            // HTTP status; when 0, what the service's model or the table of common errors says for Code
	Fields  map[string]any // further members of the body (REST-JSON), such as clusterName
	Cause   error          // for the log only
}

// Error returns code and message.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes an Error with the status that the model, or the table of common errors, has for the code.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
