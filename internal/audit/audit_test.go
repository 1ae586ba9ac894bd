package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func event(name string) *audit.Event {
	return &audit.Event{
		Time: time.Unix(1_700_000_000, 0).UTC(), RequestID: "r-1", Source: "sts.amazonaws.com", Name: name, Account: "111122223333",
		Region: "us-east-1", PrincipalType: "AWSService", PrincipalARN: "pods.eks.amazonaws.com", SourceIP: "192.0.2.1", UserAgent: "test",
		Decision:   "allowed by statement 0 of role-policy at 4:7",
		Parameters: map[string]string{"roleArn": "arn:aws:iam::111122223333:role/r"}, ResponseDetails: map[string]string{"accessKeyId": "ASIA1"},
	}
}

// lines decodes what a Writer wrote; every line must be one event.
func lines(t *testing.T, data []byte) []audit.Event {
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

func TestWriterKeepsEveryField(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	e := event("AssumeRole")
	if err := audit.NewWriter(&buf).Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if !uuid.MatchString(e.EventID) {
		t.Errorf("event ID = %q, want a random UUID", e.EventID)
	}
	if diff := cmp.Diff([]audit.Event{*e}, lines(t, buf.Bytes())); diff != "" {
		t.Error(diff)
	}
}

func TestWriterKeepsFieldsOfAnyKind(t *testing.T) {
	t.Parallel()
	var want audit.Event
	fields := reflect.ValueOf(&want).Elem()
	for i := range fields.NumField() {
		text := fields.Type().Field(i).Name + ": \"\\<&>\x00\n\u2028é\U0001F600"
		switch f := fields.Field(i).Addr().Interface().(type) {
		case *string:
			*f = text
		case *map[string]string:
			*f = map[string]string{"b": text, "a" + text: "", "c": "x"}
		case *time.Time:
			*f = time.Unix(1_700_000_000, 123_456_789).UTC()
		default:
			t.Fatalf("the test knows no %T", f)
		}
	}
	var buf bytes.Buffer
	if err := audit.NewWriter(&buf).Record(t.Context(), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]audit.Event{want}, lines(t, buf.Bytes())); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsNotUTF8IsReplaced(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	e := event("AssumeRole")
	e.UserAgent, e.Parameters = "a\xffb", map[string]string{"k\xfe": "\xc3"}
	if err := audit.NewWriter(&buf).Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	e.UserAgent, e.Parameters = "a\uFFFDb", map[string]string{"k\uFFFD": "\uFFFD"}
	if diff := cmp.Diff([]audit.Event{*e}, lines(t, buf.Bytes())); diff != "" {
		t.Error(diff)
	}
}

func TestEventIDsDifferAndGivenOnesStay(t *testing.T) {
	t.Parallel()
	for _, r := range []audit.Recorder{audit.NewWriter(io.Discard), audit.NewLog(slog.New(slog.DiscardHandler))} {
		a, b, c := event("A"), event("B"), event("C")
		c.EventID = "given"
		for _, e := range []*audit.Event{a, b, c} {
			if err := r.Record(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		if a.EventID == b.EventID || !uuid.MatchString(a.EventID) || c.EventID != "given" {
			t.Errorf("%T: event IDs %q, %q, %q", r, a.EventID, b.EventID, c.EventID)
		}
	}
}

func TestFileIsPrivateAndAppended(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for i := range 2 {
		f, err := audit.NewFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Record(t.Context(), event(fmt.Sprint("run", i))); err != nil {
			t.Fatal(err)
		}
		// No Close before the read: a recorded event must not depend on an orderly end.
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := lines(t, data); len(got) != i+1 || got[i].Name != fmt.Sprint("run", i) {
			t.Errorf("after run %d the file holds %+v", i, got)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := f.Record(t.Context(), event("late")); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Record after Close: %v, want os.ErrClosed", err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode = %v, want 0600", got)
	}
}

func TestFileThatOthersMayReadIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil { // whatever the umask made of it
		t.Fatal(err)
	}
	if _, err := audit.NewFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("err = %v, want one that says what to do", err)
	}
}

func TestFileWithAnUnfinishedLineGoesOnWithANewOne(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(path, []byte(`{"eventName":"cut o`), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := audit.NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Record(t.Context(), event("next")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(data, []byte("\n"))
	if got := lines(t, rest); len(got) != 1 || got[0].Name != "next" {
		t.Errorf("after the unfinished line: %+v", got)
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
		if got := lines(t, whole); len(got) != 1 || got[0].Name != "kept" {
			t.Errorf("torn at %d: %+v", n, got)
		}
	}
}

func TestTooLargeAnEventIsRefused(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	w := audit.NewWriter(&buf)
	e := event("big")
	e.UserAgent = strings.Repeat("a", audit.MaxLine)
	if err := w.Record(t.Context(), e); !errors.Is(err, audit.ErrTooLarge) {
		t.Errorf("err = %v, want ErrTooLarge", err)
	}
	if buf.Len() != 0 {
		t.Errorf("%d bytes were written", buf.Len())
	}
}

func TestWriterSerializes(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer // is not safe for concurrent use: the race detector would see two writers
	w := audit.NewWriter(&buf)
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				if err := w.Record(context.Background(), event(fmt.Sprintf("%d-%d", i, j))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	names := make(map[string]bool)
	for _, e := range lines(t, buf.Bytes()) {
		names[e.Name] = true
	}
	if len(names) != writers*each {
		t.Errorf("%d distinct events, want %d", len(names), writers*each)
	}
}

func TestLogWritesWhateverTheLevel(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	l := slog.New(slog.NewJSONHandler(&buf, &slog.HandlerOptions{Level: slog.LevelError}))
	e := event("AssumeRole")
	e.ErrorCode, e.ErrorMessage = "AccessDenied", "no"
	if err := audit.NewLog(l).Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	var got audit.Event
	if err := json.Unmarshal(buf.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	got.Time = e.Time // slog's own key holds it
	if diff := cmp.Diff(*e, got); diff != "" {
		t.Error(diff)
	}
}

// failing is a log whose disk is full.
type failing struct{ slog.Handler }

func (failing) Handle(context.Context, slog.Record) error { return io.ErrShortWrite }

func TestLogThatFailsRefuses(t *testing.T) {
	t.Parallel()
	l := audit.NewLog(slog.New(failing{slog.DiscardHandler}))
	if err := l.Record(t.Context(), event("AssumeRole")); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("err = %v, want the handler's", err)
	}
}

func BenchmarkFile(b *testing.B) {
	f, err := audit.NewFile(filepath.Join(b.TempDir(), "audit.jsonl"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	e := event("AssumeRole")
	for b.Loop() {
		if err := f.Record(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}
