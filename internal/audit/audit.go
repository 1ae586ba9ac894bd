// Package audit records every credential that is minted or refused, and every management call, as one event.
package audit

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"
)

// Event is one decision. Nothing in it is secret.
type Event struct {
	Time            time.Time         `json:"eventTime"`
	RequestID       string            `json:"requestID,omitempty"`
	EventID         string            `json:"eventID"`     // UUID; Record sets it when it is empty
	Source          string            `json:"eventSource"` // such as sts.amazonaws.com
	Name            string            `json:"eventName"`
	Account         string            `json:"recipientAccountId,omitempty"`
	Region          string            `json:"awsRegion,omitempty"`
	PrincipalType   string            `json:"principalType,omitempty"`
	PrincipalID     string            `json:"principalId,omitempty"`
	PrincipalARN    string            `json:"principalArn,omitempty"`
	AccessKeyID     string            `json:"accessKeyId,omitempty"`
	SourceIP        string            `json:"sourceIPAddress,omitempty"`
	UserAgent       string            `json:"userAgent,omitempty"`
	ErrorCode       string            `json:"errorCode,omitempty"`
	ErrorMessage    string            `json:"errorMessage,omitempty"`
	Decision        string            `json:"decision,omitempty"` // which statement decided, and why
	Parameters      map[string]string `json:"requestParameters,omitempty"`
	ResponseDetails map[string]string `json:"responseElements,omitempty"`
}

// Recorder keeps events. An error refuses the call that is being recorded.
type Recorder interface {
	// Record keeps the event before it returns, so that what the process did is known even if it is killed right after.
	// It sets e.EventID when that is empty, and keeps no reference to e.
	Record(ctx context.Context, e *Event) error
}

// identify gives the event its ID, a random UUID (RFC 9562, version 4), unless it has one.
func identify(e *Event) {
	if e.EventID != "" {
		return
	}
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	e.EventID = fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
