package audit

import (
	"context"
	"errors"
	"strconv"
	"time"
)

// The attributes that records are found by, as LookupEvents names them.
const (
	ByEventID      = "EventId"
	ByEventName    = "EventName"
	ByReadOnly     = "ReadOnly" // true or false
	ByUsername     = "Username"
	ByResourceType = "ResourceType"
	ByResourceName = "ResourceName" // also a record's subject and its pod
	ByEventSource  = "EventSource"
	ByAccessKeyID  = "AccessKeyId"
)

// Query asks for records of one account and Region, newest first.
type Query struct {
	Account, Region string
	Attribute       string    // one of those above; empty for all records
	Value           string    // of the attribute, exactly
	From, To        time.Time // both inclusive, to the second; the zero time sets no bound
	Limit           int       // the most records of a page; positive
	After           string    // Page.Next of the page before; empty for the first page
}

// Page is a part of the answer to a Query.
type Page struct {
	Events []Found
	// Next says where the next page begins; empty when there is none. A page may have fewer records than the limit, even none, and
	// others after it.
	Next string
}

// Found is a record that was asked for.
type Found struct {
	Event
	Text string // the record as it was written: JSON
}

// ErrPosition is returned by Lookup for a Query.After that is no position.
var ErrPosition = errors.New("audit: not a position in the trail")

// Store keeps records and finds them.
type Store interface {
	Recorder
	Lookup(ctx context.Context, q *Query) (Page, error)
	// Room returns nil while there is room for the records of calls that begin now, as far as the store can know without asking anybody.
	Room() error
	// Probe returns nil if records can be kept at the moment. It writes nothing that would be found.
	Probe(ctx context.Context) error
	// Close gives back what the store holds. Record and Lookup fail from then on.
	Close() error
}

// Matches reports whether the event answers the query.
func (q *Query) Matches(e *Event) bool {
	if e.Account != q.Account || e.Region != q.Region ||
		!q.From.IsZero() && e.Time.Before(q.From.Truncate(time.Second)) || !q.To.IsZero() && e.Time.Truncate(time.Second).After(q.To) {
		return false
	}
	found := q.Attribute == ""
	e.attributes(func(attribute, value string) { found = found || attribute == q.Attribute && value == q.Value })
	return found
}

// Key is a hash that each event that the query finds has among its AppendKeys, and others have by chance.
func (q *Query) Key() int64 {
	scope := fold(fold(hashBasis, q.Account), q.Region)
	return int64(fold(fold(scope, q.Attribute), q.Value))
}

// AppendKeys adds the hashes that an index finds the event by. They are the same in every process and version, since they are stored.
func (e *Event) AppendKeys(keys []int64) []int64 {
	scope := fold(fold(hashBasis, e.Account), e.Region)
	keys = append(keys, int64(fold(fold(scope, ""), "")))
	e.attributes(func(attribute, value string) { keys = append(keys, int64(fold(fold(scope, attribute), value))) })
	return keys
}

// FNV-1a, 64 bits.
const (
	hashBasis = 14695981039346656037
	hashPrime = 1099511628211
)

// fold adds a text, and that it ends here, to a hash.
func fold(h uint64, text string) uint64 {
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * hashPrime
	}
	return h * hashPrime // as if of a zero byte
}

// attributes calls f with all that the event may be found by.
func (e *Event) attributes(f func(attribute, value string)) {
	for _, a := range [...]struct{ attribute, value string }{
		{ByEventID, e.EventID},
		{ByEventName, e.Name},
		{ByReadOnly, strconv.FormatBool(e.ReadOnly)},
		{ByUsername, e.Identity.User()},
		{ByEventSource, e.Source},
		{ByAccessKeyID, e.Identity.AccessKeyID},
		{ByResourceName, e.Lanyard.Subject},
		{ByResourceName, e.Lanyard.Pod},
	} {
		if a.value != "" {
			f(a.attribute, a.value)
		}
	}
	for _, r := range e.Lanyard.Resources {
		f(ByResourceType, r.Type)
		f(ByResourceName, r.Name)
	}
}
