package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Object is the text of a JSON object that grows by its methods, which add a member each, in order. The nil Object is null.
type Object []byte

// member begins a member, and leaves the object open.
func (o Object) member(name string) Object {
	if len(o) == 0 {
		o = append(o, '{')
	} else {
		o[len(o)-1] = ','
	}
	return append(appendString(o, name), ':')
}

// Text adds a text.
func (o Object) Text(name, value string) Object {
	return append(appendString(o.member(name), value), '}')
}

// Texts adds a list of texts.
func (o Object) Texts(name string, values []string) Object {
	o = append(o.member(name), '[')
	for i, v := range values {
		if i > 0 {
			o = append(o, ',')
		}
		o = appendString(o, v)
	}
	return append(o, ']', '}')
}

// Number adds an integer.
func (o Object) Number(name string, value int64) Object {
	return append(strconv.AppendInt(o.member(name), value, 10), '}')
}

// Object adds an object.
func (o Object) Object(name string, value Object) Object {
	return append(append(o.member(name), value.orNull()...), '}')
}

// Objects adds a list of objects.
func (o Object) Objects(name string, values []Object) Object {
	o = append(o.member(name), '[')
	for i, v := range values {
		if i > 0 {
			o = append(o, ',')
		}
		o = append(o, v.orNull()...)
	}
	return append(o, ']', '}')
}

func (o Object) orNull() []byte {
	if len(o) == 0 {
		return []byte("null")
	}
	return o
}

// MarshalJSON implements json.Marshaler.
func (o Object) MarshalJSON() ([]byte, error) { return o.orNull(), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (o *Object) UnmarshalJSON(text []byte) error {
	*o = nil
	if !bytes.Equal(text, []byte("null")) {
		*o = bytes.Clone(text)
	}
	return nil
}

// TextTime is a time as CloudTrail writes it within parameters and responses: Jul 3, 2024, 7:20:11 PM.
func TextTime(t time.Time) string { return t.UTC().Format("Jan 2, 2006, 3:04:05 PM") }

// Encode returns the record as JSON, for a store to keep. It sets e.EventID when that is empty. The error is ErrTooLarge.
func (e *Event) Encode() ([]byte, error) {
	e.complete()
	text := e.appendJSON(make([]byte, 0, usualRecord/2))
	if len(text) > MaxRecord {
		return nil, ErrTooLarge
	}
	return text, nil
}

// Decode reads a record that a store has kept.
func Decode(text string) (Found, error) {
	found := Found{Text: text}
	if err := json.Unmarshal([]byte(text), &found.Event); err != nil {
		return Found{}, fmt.Errorf("decode audit record: %w", err)
	}
	return found, nil
}

// writer writes the members of one object.
type writer struct{ b []byte }

func (w *writer) name(name string) {
	if w.b[len(w.b)-1] != '{' {
		w.b = append(w.b, ',')
	}
	w.b = append(w.b, '"')
	w.b = append(w.b, name...)
	w.b = append(w.b, '"', ':')
}

// text writes a member that is there only if it is not empty.
func (w *writer) text(name, value string) {
	if value != "" {
		w.name(name)
		w.b = appendString(w.b, value)
	}
}

func (w *writer) raw(name, value string) {
	w.name(name)
	w.b = append(w.b, value...)
}

func (w *writer) open(name string) {
	w.name(name)
	w.b = append(w.b, '{')
}

func (w *writer) close() { w.b = append(w.b, '}') }

// appendJSON writes the record. json.Marshal takes several times as long, and every credential that is minted waits for it.
func (e *Event) appendJSON(b []byte) []byte {
	w := writer{append(b, '{')}
	w.text("eventVersion", e.Version)
	e.Identity.append(&w)
	w.name("eventTime")
	w.b = append(w.b, '"')
	w.b = e.Time.UTC().AppendFormat(w.b, "2006-01-02T15:04:05Z")
	w.b = append(w.b, '"')
	w.text("eventSource", e.Source)
	w.text("eventName", e.Name)
	w.text("awsRegion", e.Region)
	w.text("sourceIPAddress", e.SourceIP)
	w.text("userAgent", e.UserAgent)
	w.text("errorCode", e.ErrorCode)
	w.text("errorMessage", e.ErrorMessage)
	w.name("requestParameters")
	w.b = append(w.b, e.Parameters.orNull()...)
	w.name("responseElements")
	w.b = append(w.b, e.Response.orNull()...)
	if e.Additional != nil {
		w.name("additionalEventData")
		w.b = append(w.b, e.Additional...)
	}
	w.text("requestID", e.RequestID)
	w.text("eventID", e.EventID)
	w.raw("readOnly", strconv.FormatBool(e.ReadOnly))
	if len(e.Resources) > 0 {
		w.name("resources")
		for i, r := range e.Resources {
			w.b = append(w.b, separator(i), '{')
			w.text("accountId", r.Account)
			w.text("type", r.Type)
			w.text("ARN", r.ARN)
			w.close()
		}
		w.b = append(w.b, ']')
	}
	w.raw("eventType", `"AwsApiCall"`)
	w.raw("managementEvent", "true")
	w.text("recipientAccountId", e.Account)
	w.text("sharedEventID", e.SharedID)
	w.raw("eventCategory", `"Management"`)
	if e.TLS != nil {
		w.open("tlsDetails")
		w.text("tlsVersion", e.TLS.Version)
		w.text("cipherSuite", e.TLS.Cipher)
		w.text("clientProvidedHostHeader", e.TLS.Host)
		w.close()
	}
	e.Lanyard.append(&w)
	w.close()
	return w.b
}

func (u *UserIdentity) append(w *writer) {
	w.open("userIdentity")
	w.text("type", u.Type)
	w.text("principalId", u.PrincipalID)
	w.text("arn", u.ARN)
	w.text("accountId", u.Account)
	w.text("accessKeyId", u.AccessKeyID)
	w.text("userName", u.UserName)
	w.text("identityProvider", u.Provider)
	if u.Session != nil {
		w.name("sessionContext")
		w.b = append(w.b, u.Session...)
	}
	w.text("invokedBy", u.InvokedBy)
	w.close()
}

func (l *Lanyard) append(w *writer) {
	w.open("lanyard")
	w.text("decision", l.Decision)
	w.text("subject", l.Subject)
	w.text("pod", l.Pod)
	w.text("association", l.Association)
	if len(l.Resources) > 0 {
		w.name("resources")
		for i, r := range l.Resources {
			w.b = append(w.b, separator(i), '{')
			w.text("type", r.Type)
			w.text("name", r.Name)
			w.close()
		}
		w.b = append(w.b, ']')
	}
	w.close()
}

// separator comes before element i of a list.
func separator(i int) byte {
	if i == 0 {
		return '['
	}
	return ','
}

func appendString(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s) // the error says that something was not UTF-8, of which U+FFFD has taken the place
	return b
}
