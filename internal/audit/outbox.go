package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"
)

// outboxFile is where a store on disk keeps how far it has been delivered.
const outboxFile = "delivery.json"

// outbox is what is in outboxFile. A batch is in it before it is delivered, so that after a crash the same one is delivered again.
type outbox struct {
	Trail string    `json:"trail"` // tells this trail from others that are delivered to the same bucket
	Done  place     `json:"done"`  // what is before it has been delivered
	Until place     `json:"until"` // where the batch ends that is being delivered; else the same as Done
	Time  time.Time `json:"time"`  // of that batch

	Attempted time.Time `json:"attempted,omitzero"`
	Delivered time.Time `json:"delivered,omitzero"`
	Failure   string    `json:"failure,omitempty"`
	Lost      int64     `json:"lost,omitempty"`
}

// place is between two lines of the trail.
type place struct {
	Segment int   `json:"segment"`
	Offset  int64 `json:"offset"`
}

// readOutbox reads how far the trail has been delivered. A file that is not there means that nothing has been.
func (f *Files) readOutbox() error {
	text, err := os.ReadFile(filepath.Join(f.dir, outboxFile))
	if errors.Is(err, fs.ErrNotExist) {
		f.outbox.Trail = rand.Text()
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &f.outbox); err != nil {
		return fmt.Errorf("%s: %w; without it, all that is kept would be delivered again", outboxFile, err)
	}
	return nil
}

// writeOutbox changes how far the trail has been delivered. What is on disk is whole whatever happens.
func (f *Files) writeOutbox(change func(o *outbox)) error {
	f.noting.Lock() // not mu: no record waits for the disk
	defer f.noting.Unlock()
	changed := f.outbox
	change(&changed)
	text, err := json.Marshal(changed)
	if err != nil {
		return fmt.Errorf("encode %s: %w", outboxFile, err)
	}
	path := filepath.Join(f.dir, outboxFile)
	if err := writeSynced(path+".new", text); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	f.outbox = changed
	return nil
}

func writeSynced(path string, text []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func (f *Files) delivered() outbox {
	f.noting.Lock()
	defer f.noting.Unlock()
	return f.outbox
}

// Delivery implements Outbox.
func (f *Files) Delivery(context.Context) (Delivery, error) {
	o := f.delivered()
	f.mu.Lock()
	defer f.mu.Unlock()
	d := Delivery{Attempted: o.Attempted, Delivered: o.Delivered, Failure: o.Failure, Lost: o.Lost}
	for _, s := range f.full {
		d.Waiting += s.after(o.Done)
	}
	d.Waiting += f.last.after(o.Done)
	return d, nil
}

// after is how much of the segment comes after a place.
func (s *segment) after(p place) int64 {
	switch {
	case s.number < p.Segment:
		return 0
	case s.number == p.Segment:
		return max(0, s.size-p.Offset)
	}
	return s.size
}

// Deliver implements Outbox. Its own errors are os.ErrClosed and those of the file system.
func (f *Files) Deliver(ctx context.Context, deliver func(context.Context, *Batch) error) (bool, error) {
	f.delivering.Lock()
	defer f.delivering.Unlock()
	o := f.delivered()
	f.mu.Lock()
	end, closed := place{f.last.number, f.last.size}, f.active == nil
	f.mu.Unlock()
	if closed {
		return false, fmt.Errorf("deliver audit records: %w", os.ErrClosed)
	}
	limit := int64(maxBatch)
	again := o.Until != o.Done
	if again {
		end, limit = o.Until, math.MaxInt64
	}
	b := &Batch{Time: o.Time}
	until, err := f.collect(ctx, o.Done, end, limit, &b.Records)
	if err != nil {
		return false, fmt.Errorf("read audit records to deliver: %w", err)
	}
	if len(b.Records) == 0 {
		return false, nil
	}
	if !again {
		b.Time = time.Now().UTC()
		if err := f.writeOutbox(func(o *outbox) { o.Until, o.Time = until, b.Time }); err != nil {
			return false, fmt.Errorf("write down what is delivered next: %w", err)
		}
	}
	b.ID = fmt.Sprintf("%s %d.%d", o.Trail, o.Done.Segment, o.Done.Offset)
	failed := deliver(ctx, b)
	if failed != nil && ctx.Err() != nil { // nobody wants it any more
		return false, failed
	}
	err = f.writeOutbox(func(now *outbox) {
		now.Attempted = time.Now().UTC()
		if failed != nil {
			now.Failure = FailureCode(failed)
			return
		}
		now.Delivered, now.Failure = now.Attempted, ""
		if now.Done == o.Done { // else records were dropped in the meantime, and it goes on after them
			now.Done, now.Until = until, until
		}
	})
	if err != nil {
		err = fmt.Errorf("write down what was delivered: %w", err)
	}
	return failed == nil, errors.Join(failed, err)
}

// collect adds the lines between two places, of at most limit bytes unless it is one line, and returns where it stopped. A line that is not
// finished is left for later, unless nothing will finish it.
func (f *Files) collect(ctx context.Context, from, to place, limit int64, lines *[][]byte) (place, error) {
	f.mu.Lock()
	segments := make([]segment, 0, len(f.full)+1)
	for _, s := range append(f.full[:len(f.full):len(f.full)], &f.last) {
		if s.number >= from.Segment && s.number <= to.Segment {
			segments = append(segments, *s)
		}
	}
	f.mu.Unlock()
	at, size := from, int64(0)
	for _, s := range segments {
		if s.number != at.Segment {
			at = place{Segment: s.number}
		}
		end := s.size
		if s.number == to.Segment {
			end = min(end, to.Offset)
		}
		file, err := os.Open(f.path(s.number, segmentSuffix))
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped in the meantime
		}
		if err != nil {
			return place{}, err
		}
		full, err := collectLines(ctx, io.NewSectionReader(file, at.Offset, end-at.Offset), &at.Offset, &size, limit, lines)
		if err = errors.Join(err, file.Close()); err != nil {
			return place{}, fmt.Errorf("segment %d: %w", s.number, err)
		}
		if full {
			break
		}
	}
	return at, nil
}

// collectLines adds whole lines, and their length to the offset and the size. It reports whether there are as many as the limit allows.
func collectLines(ctx context.Context, r io.Reader, offset, size *int64, limit int64, lines *[][]byte) (bool, error) {
	in := bufio.NewReaderSize(r, window)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return false, ctx.Err()
		}
		if err != nil {
			return false, err
		}
		n := int64(len(line))
		if *size > 0 && *size+n > limit {
			return true, ctx.Err()
		}
		*offset += n
		*size += n
		if len(line) > 1 {
			*lines = append(*lines, bytes.Clone(line[:n-1]))
		}
	}
}

// forgo is told that a segment is about to be dropped, and returns how many of its records have not been delivered and will not be.
func (f *Files) forgo(s *segment) (records int64, err error) {
	o := f.delivered()
	if !f.deliver || s.after(o.Done) == 0 {
		return 0, nil
	}
	from := place{Segment: s.number}
	if o.Done.Segment == s.number {
		from = o.Done
	}
	var lines [][]byte
	if _, err := f.collect(context.Background(), from, place{s.number, s.size}, math.MaxInt64, &lines); err != nil {
		return 0, err
	}
	records = int64(len(lines))
	return records, f.writeOutbox(func(o *outbox) {
		o.Done = place{Segment: s.number + 1}
		o.Until, o.Lost = o.Done, o.Lost+records
	})
}
