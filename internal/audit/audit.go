// Package audit records every credential that is minted or refused as one event.
package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
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
	e.EventID = string(text)
}

// text is a member of an event that is a string.
type text struct{ name, value string }

// texts returns the members that are strings, under their names in JSON.
func (e *Event) texts() [15]text {
	return [...]text{
		{"requestID", e.RequestID},
		{"eventID", e.EventID},
		{"eventSource", e.Source},
		{"eventName", e.Name},
		{"recipientAccountId", e.Account},
		{"awsRegion", e.Region},
		{"principalType", e.PrincipalType},
		{"principalId", e.PrincipalID},
		{"principalArn", e.PrincipalARN},
		{"accessKeyId", e.AccessKeyID},
		{"sourceIPAddress", e.SourceIP},
		{"userAgent", e.UserAgent},
		{"errorCode", e.ErrorCode},
		{"errorMessage", e.ErrorMessage},
		{"decision", e.Decision},
	}
}

// appendJSON writes what json.Unmarshal reads back as the event. json.Marshal takes twice as long, and every credential that
// is minted waits for it.
func (e *Event) appendJSON(b []byte) []byte {
	b = append(b, `{"eventTime":"`...)
	b = e.Time.AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	for _, t := range e.texts() {
		if t.value != "" {
			b = appendName(b, t.name)
			b = appendString(b, t.value)
		}
	}
	b = appendMap(b, "requestParameters", e.Parameters)
	b = appendMap(b, "responseElements", e.ResponseDetails)
	return append(b, '}')
}

// appendName begins a member; others come before it.
func appendName(b []byte, name string) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	return append(b, `":`...)
}

func appendString(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s) // the error says that something was not UTF-8, of which U+FFFD has taken the place
	return b
}

// appendMap writes a member that is an object, its own members in order; nothing if it has none.
func appendMap(b []byte, name string, m map[string]string) []byte {
	if len(m) == 0 {
		return b
	}
	keys := make([]string, 0, 16)
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	b = append(appendName(b, name), '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k), ':')
		b = appendString(b, m[k])
	}
	return append(b, '}')
}
