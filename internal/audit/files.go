package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lanyard-id/lanyard/internal/filelock"
)

// FilesConfig is what a store on disk needs.
type FilesConfig struct {
	Dir       string        // belongs to this process alone; made if it is not there, mode 0700
	Retention time.Duration // how long records are kept; DefaultRetention when zero
	MaxSize   int64         // of all files together, in bytes; DefaultMaxSize when zero, at least MinSize. The oldest records go first
	Deliver   bool          // the records are delivered elsewhere: it is told when some are dropped before they were
	Log       *slog.Logger  // required
}

// The bounds of a store on disk.
const (
	DefaultRetention = 90 * 24 * time.Hour // CloudTrail's event history
	DefaultMaxSize   = 1 << 30
	MinSize          = 1 << 20
)

const (
	maxSegment = 16 << 20       // bytes
	maxOpen    = 24 * time.Hour // of the segment that is written to: records go with their segment, not long after their time
	tidyEvery  = time.Hour
	maxScanned = 8       // segments that one Lookup reads, since many may ask
	window     = 1 << 20 // bytes that are read at once; more than a record has
	maxReserve = 4 << 20 // bytes
)

// Files is a Store on disk: a log of records, in segments. Of a segment that is full there is a summary, by which a lookup leaves
// out what cannot have what is asked for. A record is in the operating system's hands when Record returns: it survives
// the end of the process, but the last ones may be lost in a crash of the machine. It is safe for concurrent use.
type Files struct {
	dir         string
	retention   time.Duration
	maxSize     int64
	segmentSize int64
	reserve     int64 // room on disk that there always is for more records, in bytes; 0 where the file system cannot reserve any
	deliver     bool
	log         *slog.Logger
	unlock      func() error

	mu     sync.Mutex
	active *os.File // nil once closed
	to     lines
	full   []*segment // oldest first
	last   segment    // the active one
	begun  time.Time  // when the active one was
	// rotateAt is how long the active one may become, and room how much of the disk it has already, in bytes.
	rotateAt, room int64

	short atomic.Pointer[error] // why there is no reserve; nil while there is

	delivering sync.Mutex // held by Deliver
	noting     sync.Mutex // held while outboxFile is written; guards outbox
	outbox     outbox

	texts   sync.Pool     // of *[]byte, for lines
	wake    chan struct{} // there is a full segment without a summary
	done    chan struct{}
	stopped sync.WaitGroup
}

// segment is one file of records.
type segment struct {
	number  int
	size    int64
	summary *summary // nil while there is none: anything may be in it
	// contents is what was written, if all of it was by this process; else, and once there is a summary, nil.
	contents *contents
}

// OpenFiles opens the store, and begins to drop what is too old or too much.
func OpenFiles(c FilesConfig) (*Files, error) {
	f := &Files{dir: c.Dir, retention: c.Retention, maxSize: c.MaxSize, deliver: c.Deliver, log: c.Log, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if f.retention == 0 {
		f.retention = DefaultRetention
	}
	if f.maxSize == 0 {
		f.maxSize = DefaultMaxSize
	}
	if f.maxSize < MinSize || f.retention < 0 {
		return nil, fmt.Errorf("open audit trail: its size must be at least %d bytes, and its retention positive", MinSize)
	}
	f.segmentSize = min(f.maxSize/8, maxSegment)
	f.reserve = min(f.maxSize/16, maxReserve)
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("open audit trail %s: %w", c.Dir, err)
	}
	f.stopped.Go(f.keep)
	return f, nil
}

func (f *Files) open() (err error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(f.dir)
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("mode %04o lets others in: run chmod 700 on it", perm)
	}
	if f.unlock, err = filelock.Hold(filepath.Join(f.dir, "lock")); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.unlock())
		}
	}()
	if err := f.readOutbox(); err != nil {
		return err
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), segmentSuffix)
		number, numberErr := strconv.Atoi(name)
		if !ok || numberErr != nil {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		f.full = append(f.full, &segment{number: number, size: info.Size()})
	}
	slices.SortFunc(f.full, func(a, b *segment) int { return a.number - b.number })
	for _, s := range f.full {
		s.summary = f.readSummary(s)
	}
	f.last.number = 1
	if n := len(f.full); n > 0 {
		f.last = *f.full[n-1]
		f.full = f.full[:n-1]
		f.last.summary = nil
	}
	if err := f.openActive(); err != nil {
		return err
	}
	f.provide()
	return nil
}

const (
	segmentSuffix = ".jsonl"
	summarySuffix = ".summary"
)

func (f *Files) path(number int, suffix string) string {
	return filepath.Join(f.dir, fmt.Sprintf("%08d", number)+suffix)
}

// openActive opens the file that is written to, which may end in a line that a crash left unfinished.
func (f *Files) openActive() error {
	file, err := os.OpenFile(f.path(f.last.number, segmentSuffix), os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	torn, begun := false, time.Now()
	if f.last.size > 0 {
		var end [1]byte
		if _, err := file.ReadAt(end[:], f.last.size-1); err != nil {
			return errors.Join(err, file.Close())
		}
		torn = end[0] != '\n'
		line, err := bufio.NewReaderSize(io.NewSectionReader(file, 0, f.last.size), window).ReadSlice('\n')
		if first, ok := parseLine(line); err == nil && ok {
			begun = first.Time
		}
	} else {
		f.last.contents = new(contents)
	}
	f.active, f.to, f.begun, f.room, f.rotateAt = file, lines{w: file, torn: torn}, begun, 0, f.segmentSize
	return nil
}

// Record implements Recorder. Its errors are ErrTooLarge, os.ErrClosed and those of the file system.
func (f *Files) Record(ctx context.Context, e *Event) error {
	e.complete()
	text, _ := f.texts.Get().(*[]byte)
	if text == nil {
		text = new([]byte)
	}
	line, err := e.appendLine((*text)[:0])
	if cap(line) <= usualRecord {
		*text = line
	}
	defer f.texts.Put(text)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.write(line); err != nil {
		return err
	}
	if f.last.contents != nil {
		f.last.contents.include(e)
	}
	return nil
}

// Probe implements Store: it writes an empty line.
func (f *Files) Probe(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.provide()
	if err := f.Room(); err != nil {
		return err
	}
	return f.write([]byte{'\n'})
}

// Room implements Store. While it returns nil, some MiB on the disk are the trail's (4 MiB, or the 16th part of FilesConfig.MaxSize if that is
// less): records of calls that have begun by then find room, whatever else fills the disk. Where the file system cannot reserve room, it
// always returns nil.
func (f *Files) Room() error {
	if short := f.short.Load(); short != nil {
		return *short
	}
	return nil
}

// write needs the lock.
func (f *Files) write(line []byte) error {
	if f.active == nil {
		return fmt.Errorf("write audit record: %w", os.ErrClosed)
	}
	if f.last.size > 0 && f.last.size+int64(len(line)) > f.rotateAt {
		f.rotate()
	}
	n, err := f.to.write(line)
	f.last.size += n
	if f.room-f.last.size < f.reserve && f.Room() == nil {
		f.provide()
	}
	return err
}

// provide sees to it that the active segment has the reserve, or else that Room says so. It needs the lock.
func (f *Files) provide() {
	if f.active == nil || f.reserve == 0 || f.room-f.last.size >= f.reserve {
		f.short.Store(nil)
		return
	}
	room := f.last.size + 2*f.reserve // not to ask for each record
	switch err := reserveRoom(f.active, room); {
	case err == nil:
		f.room = room
		f.short.Store(nil)
	case errors.Is(err, errors.ErrUnsupported):
		f.reserve = 0
		f.short.Store(nil)
		f.log.Info("the file system cannot reserve room for the audit trail: that the disk is full shows when a record does not fit", "dir", f.dir)
	default:
		err = fmt.Errorf("reserve room for the audit trail: %w", err)
		f.short.Store(&err)
	}
}

// rotate ends the active segment and begins the next. If there is no room for that, it goes on with the active one, which has its reserve.
// It needs the lock.
func (f *Files) rotate() {
	before, file, to, begun, room := f.last, f.active, f.to, f.begun, f.room
	f.last = segment{number: before.number + 1}
	err := f.openActive()
	if err == nil {
		if f.provide(); f.Room() != nil {
			err = errors.Join(f.Room(), f.active.Close(), os.Remove(f.path(f.last.number, segmentSuffix)))
			f.short.Store(nil)
		}
	}
	if err != nil {
		f.last, f.active, f.to, f.begun, f.room = before, file, to, begun, room
		f.rotateAt = f.last.size + f.segmentSize/16
		f.log.Warn("the audit trail goes on in a segment that is full: there can be no other", "err", err)
		return
	}
	f.full = append(f.full, &before)
	select {
	case f.wake <- struct{}{}:
	default: // it will look anyway
	}
	if err := release(file, before.size); err != nil {
		f.log.Warn("closing a segment of the audit trail failed", "err", err)
	}
}

// release closes a segment, and gives back the room that it did not need.
func release(file *os.File, size int64) error {
	return errors.Join(file.Truncate(size), file.Close())
}

// Close implements Store.
func (f *Files) Close() error {
	f.mu.Lock()
	active, size := f.active, f.last.size
	f.active = nil
	f.mu.Unlock()
	if active == nil {
		return nil
	}
	close(f.done)
	f.stopped.Wait()
	f.delivering.Lock() // no delivery goes on
	defer f.delivering.Unlock()
	return errors.Join(release(active, size), f.unlock())
}

// keep makes summaries and drops segments until the store is closed.
func (f *Files) keep() {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		if err := f.tidy(time.Now()); err != nil {
			f.log.Error("tidying the audit trail failed", "err", err)
		}
		select {
		case <-f.done:
			return
		case <-f.wake:
		case <-tick.C:
		}
	}
}

func (f *Files) tidy(now time.Time) error {
	f.mu.Lock()
	if f.active != nil && f.last.size > 0 && now.Sub(f.begun) > maxOpen {
		f.rotate()
	}
	full := slices.Clone(f.full)
	f.mu.Unlock()

	total := f.segmentSize + 2*f.reserve // of the active one, in the end
	for _, s := range full {
		total += s.size
		if s.summary != nil {
			continue
		}
		made, err := f.summarize(s)
		if err != nil {
			return err
		}
		f.mu.Lock()
		s.summary, s.contents = made, nil
		f.mu.Unlock()
	}
	for _, s := range full {
		old := s.summary.To.Before(now.Add(-f.retention))
		if !old && total <= f.maxSize {
			break
		}
		if !old {
			f.log.Warn("the audit trail is at its largest size: records are dropped before their time", "until", s.summary.To)
		}
		lost, err := f.forgo(s)
		if err != nil {
			return fmt.Errorf("count what is not delivered: %w", err)
		}
		if lost > 0 {
			f.log.Error("audit records are dropped before they are delivered", "records", lost, "until", s.summary.To)
		}
		if err := f.drop(s); err != nil {
			return err
		}
		total -= s.size
	}
	return nil
}

// drop removes the oldest segment. Its summary goes first, so that none is left without its segment.
func (f *Files) drop(s *segment) error {
	f.mu.Lock()
	f.full = slices.DeleteFunc(f.full, func(o *segment) bool { return o == s })
	f.mu.Unlock()
	for _, suffix := range []string{summarySuffix, segmentSuffix} {
		if err := os.Remove(f.path(s.number, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Lookup implements Store. It reads a bounded part of the trail at most, so that a page may be short.
func (f *Files) Lookup(ctx context.Context, q *Query) (Page, error) {
	f.mu.Lock()
	segments := make([]segment, 0, len(f.full)+1)
	for _, s := range f.full {
		segments = append(segments, *s)
	}
	segments = append(segments, f.last)
	closed := f.active == nil
	f.mu.Unlock()
	if closed {
		return Page{}, fmt.Errorf("look up audit records: %w", os.ErrClosed)
	}
	number, end := segments[len(segments)-1].number, int64(-1)
	if q.After != "" {
		var err error
		if number, end, err = parsePosition(q.After); err != nil {
			return Page{}, err
		}
	}
	var page Page
	scanned := 0
	for _, s := range slices.Backward(segments) {
		if s.number > number || !s.mayHave(q) {
			continue
		}
		if scanned == maxScanned {
			page.Next = position(s.number, s.size)
			return page, nil
		}
		scanned++
		to := s.size
		if s.number == number && end >= 0 {
			to = min(end, s.size)
		}
		next, err := f.scan(ctx, s.number, to, q, &page)
		if errors.Is(err, fs.ErrNotExist) {
			break // dropped in the meantime, and so are those before it
		}
		if err != nil {
			return Page{}, fmt.Errorf("look up audit records: %w", err)
		}
		if len(page.Events) == q.Limit {
			page.Next = position(s.number, next)
			return page, nil
		}
	}
	return page, nil
}

// scan adds the records of a segment before an offset, backward, until the page is full, and returns where it stopped.
func (f *Files) scan(ctx context.Context, number int, end int64, q *Query, page *Page) (int64, error) {
	file, err := os.Open(f.path(number, segmentSuffix))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	marks := q.marks()
	buffer := make([]byte, min(window, end))
	for end > 0 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		begin := max(0, end-int64(len(buffer)))
		part := buffer[:end-begin]
		if _, err := file.ReadAt(part, begin); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for len(part) > 0 {
			cut := bytes.LastIndexByte(part[:len(part)-1], '\n') + 1
			if cut == 0 && begin > 0 {
				break // the line begins before the window
			}
			line := part[cut:]
			part = part[:cut]
			end = begin + int64(cut)
			if !hasAll(line, marks) {
				continue
			}
			found, ok := parseLine(line)
			if !ok || !q.Matches(&found.Event) {
				continue
			}
			page.Events = append(page.Events, found)
			if len(page.Events) == q.Limit {
				return end, nil
			}
		}
		if len(part) == len(buffer) { // a line that is longer than any record: no Recorder wrote it
			return 0, fmt.Errorf("segment %d has a line of more than %d bytes", number, window)
		}
	}
	return 0, nil
}

// marks are texts that each record has that the query finds: looking for them is faster than reading all records.
func (q *Query) marks() [][]byte {
	marks := [][]byte{append(appendString([]byte(`"recipientAccountId":`), q.Account), ',')}
	switch q.Attribute {
	case "", ByUsername: // a session's name is a part of other texts
	case ByReadOnly:
		marks = append(marks, []byte(`"readOnly":`+q.Value+`,`))
	default:
		marks = append(marks, appendString(nil, q.Value))
	}
	return marks
}

func hasAll(line []byte, marks [][]byte) bool {
	for _, m := range marks {
		if !bytes.Contains(line, m) {
			return false
		}
	}
	return true
}

// parseLine reads a record. A line that a crash or a full disk cut off is none: its call was not answered.
func parseLine(line []byte) (Found, bool) {
	found, err := Decode(string(bytes.TrimRight(line, "\n")))
	return found, err == nil
}

// position is how Page.Next says where a page begins that ends before an offset.
func position(number int, offset int64) string { return fmt.Sprintf("%d.%d", number, offset) }

func parsePosition(text string) (number int, offset int64, err error) {
	a, b, _ := strings.Cut(text, ".")
	number, err = strconv.Atoi(a)
	if err == nil {
		offset, err = strconv.ParseInt(b, 10, 64)
	}
	if err != nil || number < 0 || offset < 0 {
		return 0, 0, ErrPosition
	}
	return number, offset, nil
}
