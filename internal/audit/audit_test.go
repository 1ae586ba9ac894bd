package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
)

const (
	account = "111122223333"
	region  = "us-east-1"
	roleARN = "arn:aws:iam::111122223333:role/r"
)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func event(name string) *audit.Event {
	return &audit.Event{
		Version: "1.08", Time: time.Unix(1_700_000_000, 0).UTC(), RequestID: "r-1", Source: "sts.amazonaws.com", Name: name,
		Account: account, Region: region, SourceIP: "pods.eks.amazonaws.com", UserAgent: "pods.eks.amazonaws.com", ReadOnly: true,
		Identity:   audit.UserIdentity{Type: "AWSService", InvokedBy: "pods.eks.amazonaws.com"},
		Parameters: audit.Object(nil).Text("roleArn", roleARN),
		Response:   audit.Object(nil).Object("credentials", audit.Object(nil).Text("accessKeyId", "ASIA1").Text("sessionToken", audit.Hidden)),
		Resources:  []audit.Resource{{Account: account, Type: "AWS::IAM::Role", ARN: roleARN}},
		Lanyard: audit.Lanyard{
			Decision: "allowed by statement 0 of role-policy at 4:7", Subject: "system:serviceaccount:ns:sa", Pod: "ns/pod-1",
			Resources: []audit.Named{{Type: "AWS::IAM::AccessKey", Name: "ASIA1"}, {Type: "AWS::IAM::Role", Name: roleARN}},
		},
	}
}

// records decodes what a Writer wrote; every line must be one record.
func records(t *testing.T, data []byte) []audit.Event {
	t.Helper()
	if len(data) > 0 && data[len(data)-1] != '\n' {
		t.Fatalf("the last line is not finished: %q", data)
	}
	var out []audit.Event
	for line := range strings.Lines(string(data)) {
		var e audit.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		out = append(out, e)
	}
	return out
}

func TestRecordHasCloudTrailsForm(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	e := event("AssumeRole")
	e.EventID, e.ErrorCode, e.ErrorMessage = "e-1", "AccessDenied", "no"
	e.Time = e.Time.Add(999 * time.Millisecond).In(time.FixedZone("", 3600))
	e.TLS = &audit.TLS{Version: "TLSv1.3", Cipher: "TLS_AES_128_GCM_SHA256", Host: "sts.us-east-1.amazonaws.com"}
	e.SharedID, e.Additional, e.Response = "s-1", audit.Object(nil).Number("a", 1), nil
	if err := audit.NewWriter(&buf).Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	const want = `{"eventVersion":"1.08","userIdentity":{"type":"AWSService","invokedBy":"pods.eks.amazonaws.com"},"eventTime":"2023-11-14T22:13:20Z",` +
		`"eventSource":"sts.amazonaws.com","eventName":"AssumeRole","awsRegion":"us-east-1","sourceIPAddress":"pods.eks.amazonaws.com",` +
		`"userAgent":"pods.eks.amazonaws.com","errorCode":"AccessDenied","errorMessage":"no",` +
		`"requestParameters":{"roleArn":"arn:aws:iam::111122223333:role/r"},"responseElements":null,"additionalEventData":{"a":1},` +
		`"requestID":"r-1","eventID":"e-1","readOnly":true,` +
		`"resources":[{"accountId":"111122223333","type":"AWS::IAM::Role","ARN":"arn:aws:iam::111122223333:role/r"}],` +
		`"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"111122223333","sharedEventID":"s-1","eventCategory":"Management",` +
		`"tlsDetails":{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256","clientProvidedHostHeader":"sts.us-east-1.amazonaws.com"},` +
		`"lanyard":{"decision":"allowed by statement 0 of role-policy at 4:7","subject":"system:serviceaccount:ns:sa","pod":"ns/pod-1",` +
		`"resources":[{"type":"AWS::IAM::AccessKey","name":"ASIA1"},{"type":"AWS::IAM::Role","name":"arn:aws:iam::111122223333:role/r"}]}}` + "\n"
	if diff := cmp.Diff(want, buf.String()); diff != "" {
		t.Error(diff)
	}
}

// What is written is read back, whatever is in it.
func TestFieldsOfAnyKindAreReadBack(t *testing.T) {
	t.Parallel()
	var want audit.Event
	fill(t, reflect.ValueOf(&want).Elem(), "Event")
	var buf bytes.Buffer
	if err := audit.NewWriter(&buf).Record(t.Context(), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]audit.Event{want}, records(t, buf.Bytes())); diff != "" {
		t.Error(diff)
	}
}

// fill sets all that is in v to something.
func fill(t *testing.T, v reflect.Value, name string) {
	t.Helper()
	switch f := v.Addr().Interface().(type) {
	case *string:
		*f = name + ": \"\\<&>\x00\n\u2028é\U0001F600"
		return
	case *bool:
		*f = true
		return
	case *time.Time:
		*f = time.Unix(1_700_000_000, 0).UTC()
		return
	case *audit.Object:
		*f = audit.Object(nil).Text(name+"\n", "\"").Number("n", -1).Texts("t", []string{"a", "\\"}).Objects("o", []audit.Object{nil, audit.Object("{}")})
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), v.Type().Field(i).Name)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(t, v.Index(i), name)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), name)
	default:
		t.Fatalf("the test knows no %s", v.Type())
	}
}

func TestWhatIsNotUTF8IsReplaced(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	e := event("AssumeRole")
	e.UserAgent, e.Parameters = "a\xffb", audit.Object(nil).Text("k\xfe", "\xc3")
	if err := audit.NewWriter(&buf).Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	got := records(t, buf.Bytes())[0]
	if got.UserAgent != "a\uFFFDb" || string(got.Parameters) != "{\"k\uFFFD\":\"\uFFFD\"}" {
		t.Errorf("got %q and %s", got.UserAgent, got.Parameters)
	}
}

func TestEventIDsDifferAndGivenOnesStay(t *testing.T) {
	t.Parallel()
	r := audit.NewWriter(io.Discard)
	a, b, c := event("A"), event("B"), event("C")
	c.EventID = "given"
	for _, e := range []*audit.Event{a, b, c} {
		if err := r.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if a.EventID == b.EventID || !uuid.MatchString(a.EventID) || c.EventID != "given" {
		t.Errorf("event IDs %q, %q, %q", a.EventID, b.EventID, c.EventID)
	}
}

func TestPartsAreBounded(t *testing.T) {
	t.Parallel()
	long := func(n int) string { return strings.Repeat("ä", n/2) + "x" }
	e := event("A")
	e.UserAgent, e.ErrorCode, e.ErrorMessage = long(1024), long(2000), "short"
	e.Parameters, e.Response = audit.Object(nil).Text("p", long(100<<10)), audit.Object(nil).Text("p", long(99<<10))
	e.Additional = audit.Object(nil).Text("a", long(28<<10))
	var buf bytes.Buffer
	if err := audit.NewWriter(&buf).Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	got := records(t, buf.Bytes())[0]
	if len(got.UserAgent) != 1024 || len(got.ErrorCode) != 1024 || got.ErrorMessage != "short" {
		t.Errorf("texts of %d, %d and %d bytes", len(got.UserAgent), len(got.ErrorCode), len(got.ErrorMessage))
	}
	if got.Parameters != nil || got.Response == nil || got.Additional != nil {
		t.Errorf("objects of %d, %d and %d bytes", len(got.Parameters), len(got.Response), len(got.Additional))
	}
}

func TestTooLargeAnEventIsRefused(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	e := event("big")
	e.Lanyard.Decision = strings.Repeat("a", audit.MaxRecord)
	if err := audit.NewWriter(&buf).Record(t.Context(), e); !errors.Is(err, audit.ErrTooLarge) || buf.Len() != 0 {
		t.Errorf("err = %v after %d bytes, want ErrTooLarge and none", err, buf.Len())
	}
	if _, err := e.Encode(); !errors.Is(err, audit.ErrTooLarge) {
		t.Errorf("err = %v, want ErrTooLarge", err)
	}
}

// faulty fails its first write after n bytes, as a full disk does.
type faulty struct {
	bytes.Buffer
	n      int
	failed bool
}

func (f *faulty) Write(p []byte) (int, error) {
	if f.failed {
		return f.Buffer.Write(p)
	}
	f.failed = true
	f.Buffer.Write(p[:f.n])
	return f.n, io.ErrShortWrite
}

func TestFailedWriteRefusesAndDoesNotSpoilTheNextLine(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 10} {
		out := &faulty{n: n}
		w := audit.NewWriter(out)
		if err := w.Record(t.Context(), event("lost")); !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("err = %v, want the writer's", err)
		}
		if err := w.Record(t.Context(), event("kept")); err != nil {
			t.Fatal(err)
		}
		whole := out.Bytes()[n:]
		if n > 0 {
			whole = whole[1:] // the newline that ends the unfinished line
		}
		if got := records(t, whole); len(got) != 1 || got[0].Name != "kept" {
			t.Errorf("torn at %d: %+v", n, got)
		}
	}
}

// broken is a store that fails while it is told to.
type broken struct {
	audit.Store
	mu     sync.Mutex
	broken bool
	probes int
	room   error
}

var errFull = errors.New("no space left on device")

func (b *broken) set(broken bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = broken
}

func (b *broken) state() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken {
		return errFull
	}
	return nil
}

func (b *broken) Record(context.Context, *audit.Event) error { return b.state() }

func (b *broken) Room() error { return b.room }

func (b *broken) Probe(context.Context) error {
	b.mu.Lock()
	b.probes++
	b.mu.Unlock()
	return b.state()
}

func TestRequiredTrailRefusesUntilItRecovers(t *testing.T) {
	t.Parallel()
	store := &broken{}
	trail := audit.NewTrail(store, "", slog.New(slog.DiscardHandler))
	if err := trail.Record(t.Context(), event("A")); err != nil || trail.Ready() != nil || trail.Failure() != nil {
		t.Fatalf("a trail that works: %v, %v", err, trail.Ready())
	}
	store.set(true)
	if err := trail.Record(t.Context(), event("A")); !errors.Is(err, errFull) {
		t.Errorf("err = %v, want the store's", err)
	}
	if err := trail.Ready(); !errors.Is(err, errFull) || !errors.Is(trail.Failure(), errFull) || store.probes != 1 {
		t.Errorf("ready = %v after %d probes", err, store.probes)
	}
	store.set(false)
	if err := trail.Ready(); err != nil || trail.Failure() != nil {
		t.Errorf("once it works again: %v", err)
	}
	store.room = errFull
	store.set(true)
	if err := trail.Ready(); !errors.Is(err, errFull) {
		t.Errorf("without room: ready = %v", err)
	}
	store.set(false)
	if err := trail.Ready(); err != nil {
		t.Errorf("once the store has found room: %v", err)
	}
	if trail.Lost() != 0 {
		t.Errorf("%d lost, but nothing was answered without its record", trail.Lost())
	}
}

func TestBestEffortTrailCounts(t *testing.T) {
	t.Parallel()
	store := &broken{broken: true, room: errFull}
	var log bytes.Buffer
	trail := audit.NewTrail(store, audit.BestEffort, slog.New(slog.NewTextHandler(&log, nil)))
	for range 3 {
		if err := trail.Record(t.Context(), event("A")); err != nil {
			t.Errorf("best effort refused: %v", err)
		}
	}
	if trail.Lost() != 3 || trail.Ready() != nil || trail.Failure() == nil {
		t.Errorf("lost %d, ready %v, failure %v", trail.Lost(), trail.Ready(), trail.Failure())
	}
	if n := strings.Count(log.String(), "audit records are lost"); n != 1 {
		t.Errorf("it was said %d times within a moment, want once:\n%s", n, log.String())
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]audit.Mode{"": audit.Required, "required": audit.Required, "best-effort": audit.BestEffort} {
		if got, err := audit.ParseMode(text); got != want || err != nil {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	if _, err := audit.ParseMode("off"); err == nil {
		t.Error("off is a mode")
	}
}

func FuzzObject(f *testing.F) {
	f.Add("name", "value", int64(1))
	f.Add("\x00\"\\", "\xff\u2028", int64(-1))
	f.Fuzz(func(t *testing.T, name, value string, n int64) {
		o := audit.Object(nil).Text("a"+name, value).Number("b"+name, n).Texts("c"+name, []string{value, name}).
			Object("d"+name, audit.Object(nil).Text(name, value)).Objects("e"+name, []audit.Object{nil, audit.Object(nil).Text(name, value)})
		var got map[string]any
		if err := json.Unmarshal(o, &got); err != nil || len(got) != 5 {
			t.Errorf("%s has %d members: %v", o, len(got), err)
		}
	})
}
