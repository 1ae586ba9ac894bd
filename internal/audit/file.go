package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// MaxLine is the most bytes that one event may have as JSON: CloudTrail's limit for an event (CloudTrail User Guide,
// "CloudTrail record contents").
const MaxLine = 256 * 1024

// usualLine is how much memory a Writer keeps for the next event, in bytes.
const usualLine = 8 * 1024

// ErrTooLarge is returned by Record for an event of more than MaxLine bytes.
var ErrTooLarge = errors.New("audit: event is too large")

// Writer is a Recorder that writes each event as one line of JSON, by one call of Write, without a buffer of its own. It
// is safe for concurrent use.
type Writer struct {
	mu   sync.Mutex
	w    io.Writer
	line []byte // the last line; its memory is for the next one
	torn bool   // what was written last does not end in a newline
}

// NewWriter returns a Recorder that writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// NewFile returns a Recorder that appends to a file, which is made with mode 0600 if it does not exist. A file that
// others may read or write is refused. An event is in the operating system's hands when Record returns: it survives the end
// of the process, but the last ones may be lost in a crash of the machine. Close closes the file.
func NewFile(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open audit file: %w", err)
	}
	torn, err := inspect(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open audit file %s: %w", path, err), f.Close())
	}
	return &Writer{w: f, torn: torn}, nil
}

// inspect checks an existing file's mode, and whether a crash left it with an unfinished line.
func inspect(f *os.File) (torn bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, nil // a pipe or a terminal: who reads it was decided when it was made
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return false, fmt.Errorf("mode %04o lets others in: run chmod 600 on it", perm)
	}
	if info.Size() == 0 {
		return false, nil
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], info.Size()-1); err != nil {
		return false, err
	}
	return last[0] != '\n', nil
}

// Record implements Recorder. Its errors are ErrTooLarge and what Write returned.
func (w *Writer) Record(ctx context.Context, e *Event) error {
	identify(e)
	w.mu.Lock()
	defer w.mu.Unlock()
	line := w.line[:0]
	if w.torn {
		line = append(line, '\n')
	}
	begin := len(line)
	line = e.appendJSON(line)
	if cap(line) <= usualLine {
		w.line = line
	}
	if len(line)-begin > MaxLine {
		return ErrTooLarge
	}
	line = append(line, '\n')
	n, err := w.w.Write(line)
	if err != nil {
		if n > 0 {
			w.torn = line[n-1] != '\n'
		}
		return fmt.Errorf("write audit event: %w", err)
	}
	w.torn = false
	return nil
}

// Close closes what the Writer writes to, if that can be closed. Record fails from then on.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.w.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
