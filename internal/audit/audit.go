// Package audit keeps the trail: one record of every management call and of every decision on a credential, in CloudTrail's form.
// A record is in the trail before the answer to its call leaves.
package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"time"
)

// Event is one record. Nothing in it is secret. Its form as JSON is CloudTrail's (CloudTrail User Guide, "CloudTrail record
// contents for management events"), with one member more, "lanyard", which readers of CloudTrail's records leave alone.
type Event struct {
	Version      string       `json:"eventVersion"`
	Identity     UserIdentity `json:"userIdentity"`
	Time         time.Time    `json:"eventTime"`   // in the record to the second, in UTC
	Source       string       `json:"eventSource"` // such as sts.amazonaws.com
	Name         string       `json:"eventName"`
	Region       string       `json:"awsRegion"`
	SourceIP     string       `json:"sourceIPAddress"` // an address, or the name of the service that called
	UserAgent    string       `json:"userAgent"`
	ErrorCode    string       `json:"errorCode"`
	ErrorMessage string       `json:"errorMessage"`
	Parameters   Object       `json:"requestParameters"`
	Response     Object       `json:"responseElements"` // nil for calls that change nothing, and for those that failed
	Additional   Object       `json:"additionalEventData"`
	RequestID    string       `json:"requestID"`
	EventID      string       `json:"eventID"` // UUID; Record sets it when it is empty
	ReadOnly     bool         `json:"readOnly"`
	Resources    []Resource   `json:"resources"`
	Account      string       `json:"recipientAccountId"` // whose trail the record is in
	SharedID     string       `json:"sharedEventID"`      // UUID; for calls that a service makes by itself
	TLS          *TLS         `json:"tlsDetails"`         // nil for plain HTTP and for calls within the process
	Lanyard      Lanyard      `json:"lanyard"`
}

// UserIdentity is who made the call (CloudTrail User Guide, "CloudTrail userIdentity element").
type UserIdentity struct {
	Type        string `json:"type"` // Root, IAMUser, AssumedRole, FederatedUser, WebIdentityUser, AWSService or Unknown
	PrincipalID string `json:"principalId"`
	ARN         string `json:"arn"`
	Account     string `json:"accountId"`
	AccessKeyID string `json:"accessKeyId"`
	UserName    string `json:"userName"`
	Provider    string `json:"identityProvider"` // of a web identity
	Session     Object `json:"sessionContext"`   // of temporary credentials
	InvokedBy   string `json:"invokedBy"`        // the service that called
}

// Resource is what the call was about.
type Resource struct {
	Account string `json:"accountId"`
	Type    string `json:"type"` // such as AWS::IAM::Role
	ARN     string `json:"ARN"`
}

// TLS is what is known of the connection.
type TLS struct {
	Version string `json:"tlsVersion"` // such as TLSv1.3
	Cipher  string `json:"cipherSuite"`
	Host    string `json:"clientProvidedHostHeader"`
}

// Lanyard is what CloudTrail's records do not have: why the answer was what it was, which pod it was about, and what
// LookupEvents finds the record by.
type Lanyard struct {
	Decision    string  `json:"decision"`    // which statement decided, and why
	Subject     string  `json:"subject"`     // system:serviceaccount:NAMESPACE:NAME, if it was verified
	Pod         string  `json:"pod"`         // NAMESPACE/NAME, if it was verified
	Association string  `json:"association"` // ARN of the pod identity association
	Resources   []Named `json:"resources"`
}

// Named is a resource as LookupEvents lists it.
type Named struct {
	Type string `json:"type"` // such as AWS::IAM::Role
	Name string `json:"name"` // a name, an ID or an ARN
}

// Hidden stands in a record for what is secret, as in CloudTrail's.
const Hidden = "HIDDEN_DUE_TO_SECURITY_REASONS"

// MaxRecord is the most bytes that one record may have as JSON: CloudTrail's limit for an event (CloudTrail User Guide, "CloudTrail
// record contents").
const MaxRecord = 256 * 1024

// CloudTrail's limits for parts of a record, in bytes (CloudTrail User Guide, "CloudTrail record contents"): of texts the rest is
// cut off, objects are left out whole.
const (
	maxText       = 1024
	maxObject     = 100 * 1024
	maxAdditional = 28 * 1024
)

// ErrTooLarge is returned by Record for an event of more than MaxRecord bytes.
var ErrTooLarge = errors.New("audit: event is too large")

// Recorder keeps events. An error refuses the call that is being recorded.
type Recorder interface {
	// Record keeps the event before it returns, so that what the process did is known even if it is killed right after.
	// It sets e.EventID when that is empty, and keeps no reference to e.
	Record(ctx context.Context, e *Event) error
}

// User returns what LookupEvents calls the user: a user's name, or a role's session name.
func (u *UserIdentity) User() string {
	switch u.Type {
	case "Root":
		return "root"
	case "AssumedRole", "FederatedUser":
		_, session, _ := strings.Cut(u.PrincipalID, ":")
		return session
	}
	return u.UserName
}

// NewID returns a random UUID (RFC 9562, version 4).
func NewID() string {
	var u [16]byte
	rand.Read(u[:])
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	text := make([]byte, 0, 36)
	for i, part := range [...][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			text = append(text, '-')
		}
		text = hex.AppendEncode(text, part)
	}
	return string(text)
}

// complete gives the event what every record has, and holds it to the limits.
func (e *Event) complete() {
	if e.EventID == "" {
		e.EventID = NewID()
	}
	e.UserAgent, e.ErrorCode, e.ErrorMessage = cut(e.UserAgent), cut(e.ErrorCode), cut(e.ErrorMessage)
	if len(e.Parameters) > maxObject {
		e.Parameters = nil
	}
	if len(e.Response) > maxObject {
		e.Response = nil
	}
	if len(e.Additional) > maxAdditional {
		e.Additional = nil
	}
}

func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "")
}
