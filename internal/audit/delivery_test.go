package audit_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
)

// bucket is where tests have the trail delivered to.
type bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
	puts    int
	fail    func(put int) (stored bool, err error) // of the put of that number, from 1
}

func (b *bucket) put(_ context.Context, key string, gzipped []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.puts++
	stored, err := true, error(nil)
	if b.fail != nil {
		stored, err = b.fail(b.puts)
	}
	if stored {
		if b.objects == nil {
			b.objects = map[string][]byte{}
		}
		b.objects[key] = bytes.Clone(gzipped)
	}
	return err
}

// names returns the names of all records, as often as they are there, by the directory of their file.
func (b *bucket) names(t testing.TB) map[string][]string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	names := map[string][]string{}
	for _, key := range slices.Sorted(maps.Keys(b.objects)) {
		dir := strings.TrimSuffix(key[:strings.LastIndexByte(key, '/')], "/")
		for _, e := range unpack(t, b.objects[key]) {
			names[dir] = append(names[dir], e.Name)
		}
	}
	return names
}

// calls returns how often something was put, and files what is there.
func (b *bucket) calls() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.puts
}

func (b *bucket) files() map[string][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.objects)
}

// count returns how many records there are.
func (b *bucket) count(t testing.TB) (n int) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, file := range b.objects {
		n += bytes.Count(unzip(t, file), []byte(`"eventVersion"`))
	}
	return n
}

// unpack reads a file as CloudTrail's readers do.
func unpack(t testing.TB, gzipped []byte) []audit.Event {
	t.Helper()
	text := unzip(t, gzipped)
	var file struct{ Records []audit.Event }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return file.Records
}

func unzip(t testing.TB, gzipped []byte) []byte {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(gzipped))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// delivering has the store delivered until the function that it returns is called. What is recorded before the virtual time passes is of one
// batch: the deliverer has looked once when it returns.
func delivering(t testing.TB, s audit.Outbox, b *bucket, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	d := audit.NewDeliverer(audit.DelivererConfig{Outbox: s, Bucket: "b", Prefix: "p/q", Put: b.put, Log: log})
	var running sync.WaitGroup
	running.Go(func() { d.Run(ctx) })
	synctest.Wait()
	return func() {
		cancel()
		running.Wait()
	}
}

// fresh is an event that is not too old to be kept.
func fresh(name string) *audit.Event {
	e := event(name)
	e.Time = time.Now()
	return e
}

func state(t testing.TB, s audit.Outbox) audit.Delivery {
	t.Helper()
	d, err := s.Delivery(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func toDeliver(dir string) audit.FilesConfig {
	return audit.FilesConfig{Dir: dir, Deliver: true, Log: slog.New(slog.DiscardHandler)}
}

var discard = slog.New(slog.DiscardHandler)

var fileName = regexp.MustCompile(`^p/q/AWSLogs/(\d{12})/CloudTrail/([a-z0-9-]+)/2000/01/01/(\d{12})_CloudTrail_([a-z0-9-]+)_20000101T00\d\dZ_[A-Za-z0-9]{16}\.json\.gz$`)

func TestFilesAreCloudTrails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which begins at midnight of 1 January 2000
		s := open(t, toDeliver(filepath.Join(t.TempDir(), "audit")))
		var b bucket
		stop := delivering(t, s, &b, discard)
		defer stop()
		foreign, elsewhere := event("Foreign"), event("Elsewhere")
		foreign.Account, elsewhere.Region = "444455556666", "eu-west-1"
		record(t, s, event("A"), foreign, elsewhere, event("B"))
		time.Sleep(time.Minute)
		synctest.Wait()
		want := map[string][]string{
			"p/q/AWSLogs/111122223333/CloudTrail/us-east-1/2000/01/01": {"A", "B"},
			"p/q/AWSLogs/111122223333/CloudTrail/eu-west-1/2000/01/01": {"Elsewhere"},
			"p/q/AWSLogs/444455556666/CloudTrail/us-east-1/2000/01/01": {"Foreign"},
		}
		if diff := cmp.Diff(want, b.names(t)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		for key, file := range b.files() {
			part := fileName.FindStringSubmatch(key)
			if part == nil || part[1] != part[3] || part[2] != part[4] {
				t.Errorf("key %s", key)
			}
			for _, e := range unpack(t, file) {
				if e.EventID == "" || e.Account != part[1] || e.Region != part[2] {
					t.Errorf("%s has the record %+v", key, e)
				}
			}
		}

		// What comes then is delivered after five minutes, all of it together.
		for i := range 6 {
			record(t, s, event(fmt.Sprint("later", i)))
			time.Sleep(30 * time.Second)
			synctest.Wait()
		}
		if b.calls() != 3 {
			t.Errorf("after four minutes there have been %d puts, want the first 3", b.calls())
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if b.calls() != 4 || len(b.names(t)["p/q/AWSLogs/111122223333/CloudTrail/us-east-1/2000/01/01"]) != 8 {
			t.Errorf("after six minutes there have been %d puts, want 4; %v", b.calls(), b.names(t))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if d := state(t, s); b.calls() != 4 || d.Waiting != 0 || d.Failure != "" || d.Delivered.IsZero() || d.Lost != 0 {
			t.Errorf("with nothing to deliver, there have been %d puts, and it is at %+v", b.calls(), d)
		}
	})
}

func TestMuchIsDeliveredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, toDeliver(filepath.Join(t.TempDir(), "audit")))
		var b bucket
		stop := delivering(t, s, &b, discard)
		defer stop()
		record(t, s, event("first"))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		const n, size = 300, 200 << 10 // 60 MB
		for i := range n {
			e := event(fmt.Sprint(i))
			e.Lanyard.Decision = strings.Repeat("x", size)
			record(t, s, e)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(b.files()) != 2 {
			t.Fatalf("with 60 MB, there are %d files, want 2 so soon", len(b.files()))
		}
		delivered := b.count(t) - 1
		if delivered*size > 50<<20 || (delivered+2)*size < 50<<20 {
			t.Errorf("%d records are in a file, want some 50 MiB", delivered)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := b.count(t); got != n+1 {
			t.Errorf("%d records have been delivered, want %d", got, n+1)
		}
	})
}

// However a delivery ends, each record is in the bucket once when all is over: the process ends before or after a file is there, before the
// next one is, or before what was done is written down; and meanwhile there are more records.
func TestNothingIsLostOrDoubledByCrashes(t *testing.T) {
	errGone := errors.New("the process has ended")
	for crashAt := 1; crashAt <= 8; crashAt++ {
		for _, stored := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "audit")
				b := bucket{fail: func(put int) (bool, error) {
					if put >= crashAt {
						return stored && put == crashAt, errGone
					}
					return true, nil
				}}
				var want []string
				s := open(t, toDeliver(dir))
				for round := range 6 {
					if round == 4 {
						b.mu.Lock()
						b.fail = nil
						b.mu.Unlock()
					}
					stop := delivering(t, s, &b, discard)
					for i, account := range []string{account, "444455556666", account} {
						e := event(fmt.Sprintf("%d-%d", round, i))
						e.Account = account
						record(t, s, e)
						want = append(want, e.Name)
					}
					time.Sleep(10 * time.Minute)
					synctest.Wait()
					stop()
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = open(t, toDeliver(dir))
				}
				var got []string
				for _, names := range b.names(t) {
					got = append(got, names...)
				}
				slices.Sort(got)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("crash at put %d, stored %t (-want +got)\n%s", crashAt, stored, diff)
				}
			})
		}
	}
}

// A file that was delivered when the process ended is delivered again as it was: that what came since is not in it keeps a late answer
// from taking the place of a longer file.
func TestABatchStaysAsItIs(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	errGone := errors.New("the process has ended")
	var batches []audit.Batch
	deliver := func(result error) func(context.Context, *audit.Batch) error {
		return func(_ context.Context, b *audit.Batch) error {
			batches = append(batches, *b)
			return result
		}
	}
	for i, result := range []error{errGone, errGone, nil, nil} {
		s := open(t, toDeliver(dir))
		record(t, s, fresh(fmt.Sprint(i)))
		if ok, err := s.Deliver(t.Context(), deliver(result)); !errors.Is(err, result) || ok != (result == nil) {
			t.Fatalf("%t, %v", ok, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(batches[0], batches[2]); diff != "" || len(batches[0].Records) != 1 {
		t.Errorf("a batch of %d records is another when it is delivered again (-first +third)\n%s", len(batches[0].Records), diff)
	}
	if last := batches[3]; len(last.Records) != 3 || last.ID == batches[0].ID {
		t.Errorf("the next batch is %+v", last)
	}
	s := open(t, toDeliver(dir))
	if ok, err := s.Deliver(t.Context(), deliver(nil)); ok || err != nil {
		t.Errorf("with nothing to deliver: %t, %v", ok, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Deliver(t.Context(), deliver(nil)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Deliver after Close: %v", err)
	}
}

// coded is an error as the AWS SDK has them.
type coded string

func (c coded) Error() string     { return "the bucket says " + string(c) }
func (c coded) ErrorCode() string { return string(c) }

func TestFailuresAreToldAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, toDeliver(filepath.Join(t.TempDir(), "audit")))
		var failure error = coded("NoSuchBucket")
		b := bucket{}
		b.fail = func(int) (bool, error) { return failure == nil, failure }
		set := func(err error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			failure = err
		}
		var log bytes.Buffer
		stop := delivering(t, s, &b, slog.New(slog.NewTextHandler(&log, nil)))
		defer stop()
		record(t, s, event("A"))
		time.Sleep(time.Hour)
		synctest.Wait()
		if d := state(t, s); d.Failure != "NoSuchBucket" || d.Attempted.IsZero() || !d.Delivered.IsZero() || d.Waiting == 0 {
			t.Errorf("while there is no bucket: %+v", d)
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 || b.calls() < 12 || b.calls() > 25 {
			t.Errorf("%d attempts within an hour, told %d times:\n%s", b.calls(), n, log.String())
		}
		set(errors.New("no route to host"))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if d := state(t, s); d.Failure != "InternalError" || strings.Count(log.String(), "level=ERROR") != 2 {
			t.Errorf("another failure: %+v, and in the log\n%s", d, log.String())
		}
		set(nil)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if d := state(t, s); d.Failure != "" || d.Delivered.IsZero() || d.Waiting != 0 || strings.Count(log.String(), "delivered again") != 1 {
			t.Errorf("when there is a bucket: %+v, and in the log\n%s", d, log.String())
		}
	})
}

func TestWhatIsDroppedBeforeItIsDeliveredIsTold(t *testing.T) {
	for _, wanted := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			c := small(filepath.Join(t.TempDir(), "audit"))
			c.Deliver, c.Log = wanted, slog.New(slog.NewTextHandler(&log, nil))
			s := open(t, c)
			events, names := numbered(1000) // more than 2 MiB
			b := bucket{fail: func(int) (bool, error) { return false, coded("NoSuchBucket") }}
			if wanted {
				stop := delivering(t, s, &b, discard)
				record(t, s, events[:10]...)
				time.Sleep(time.Minute) // a batch of ten is to be delivered
				stop()
			} else {
				record(t, s, events[:10]...)
			}
			record(t, s, events[10:]...)
			synctest.Wait()
			lost := 1000 - len(find(t, s, audit.Query{}))
			if !wanted {
				lost = 0
			}
			if d := state(t, s); d.Lost != int64(lost) {
				t.Errorf("deliver %t: %d records were dropped, and %d are told", wanted, lost, d.Lost)
			}
			if told := strings.Contains(log.String(), "before they are delivered"); told != wanted {
				t.Errorf("deliver %t: the log has\n%s", wanted, log.String())
			}
			b.fail = nil
			stop := delivering(t, s, &b, discard)
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			stop()
			got := b.names(t)["p/q/AWSLogs/111122223333/CloudTrail/us-east-1/2000/01/01"]
			if wanted && !slices.Equal(got, names[lost:]) {
				t.Errorf("%d records were delivered, want the %d that are left", len(got), 1000-lost)
			}
		})
	}
}

// Lines that a crash cut off are left out, and what follows them is not.
func TestUnfinishedLinesAreNotDelivered(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	s := open(t, toDeliver(dir))
	record(t, s, fresh("A"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	file, err := os.OpenFile(segments[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(`{"eventName":"cut o`); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, toDeliver(dir))
	var b bucket
	for _, more := range [][]*audit.Event{nil, {fresh("B"), fresh("C")}} {
		record(t, s, more...)
		ok, err := s.Deliver(t.Context(), func(ctx context.Context, batch *audit.Batch) error { return deliverOne(ctx, batch, &b) })
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	var all []string
	for _, names := range b.names(t) {
		all = append(all, names...)
	}
	slices.Sort(all)
	if diff := cmp.Diff([]string{"A", "B", "C"}, all); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestABrokenPositionIsNotTakenForNone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	s := open(t, toDeliver(dir))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "delivery.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.OpenFiles(toDeliver(dir)); err == nil || !strings.Contains(err.Error(), "delivery.json") {
		t.Errorf("opened: %v", err)
	}
}

// once is an Outbox of one batch.
type once struct {
	batch *audit.Batch
	done  chan error // has room for the result
}

func (o *once) Delivery(context.Context) (audit.Delivery, error) {
	return audit.Delivery{Waiting: 1}, nil
}

func (o *once) Deliver(ctx context.Context, deliver func(context.Context, *audit.Batch) error) (bool, error) {
	o.done <- deliver(ctx, o.batch)
	<-ctx.Done()
	return false, ctx.Err()
}

// deliverOne has a batch written to a bucket.
func deliverOne(ctx context.Context, batch *audit.Batch, b *bucket) error {
	ctx, cancel := context.WithCancel(ctx)
	o := &once{batch: batch, done: make(chan error, 1)}
	d := audit.NewDeliverer(audit.DelivererConfig{Outbox: o, Prefix: "p/q", Put: b.put, Log: discard})
	var running sync.WaitGroup
	running.Go(func() { d.Run(ctx) })
	err := <-o.done
	cancel()
	running.Wait()
	return err
}

// Whatever is in a record, its file has a key of the form that all have, and has it whole; or it is no record.
func FuzzDeliver(f *testing.F) {
	var line bytes.Buffer
	if err := audit.NewWriter(&line).Record(f.Context(), event("A")); err != nil {
		f.Fatal(err)
	}
	f.Add(line.Bytes())
	f.Add(line.Bytes()[:line.Len()/2])
	f.Add([]byte(`{"recipientAccountId":"../x","awsRegion":null,"recipientAccountId":["y"]}`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`{}0`))
	name := regexp.MustCompile(`^p/q/AWSLogs/([a-z0-9-]+)/CloudTrail/([a-z0-9-]+)/2000/01/01/[a-z0-9-]+_CloudTrail_[a-z0-9-]+_20000101T0000Z_[A-Za-z0-9]{16}\.json\.gz$`)
	f.Fuzz(func(t *testing.T, record []byte) {
		var b bucket
		batch := &audit.Batch{ID: "x", Time: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), Records: [][]byte{record}}
		if err := deliverOne(t.Context(), batch, &b); err != nil {
			t.Fatal(err)
		}
		for key, file := range b.files() {
			if text := unzip(t, file); !json.Valid(text) || !bytes.Contains(text, record) || !name.MatchString(key) {
				t.Errorf("%s has %q", key, text)
			}
		}
		var object map[string]json.RawMessage
		if len(b.files()) == 0 && utf8.Valid(record) && json.Unmarshal(record, &object) == nil && object != nil {
			t.Errorf("the record %q is not delivered", record)
		}
	})
}
