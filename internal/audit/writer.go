package audit

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// usualRecord is how much memory is kept for the next record, in bytes.
const usualRecord = 8 * 1024

// Writer is a Recorder that writes each event as one line of JSON, by one call of Write, without a buffer of its own. It
// is safe for concurrent use.
type Writer struct {
	mu   sync.Mutex
	to   lines
	text []byte // the last line; its memory is for the next one
}

// NewWriter returns a Recorder that writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{to: lines{w: w}} }

// Record implements Recorder. Its errors are ErrTooLarge and what Write returned.
func (w *Writer) Record(ctx context.Context, e *Event) error {
	e.complete()
	w.mu.Lock()
	defer w.mu.Unlock()
	line, err := e.appendLine(w.text[:0])
	if cap(line) <= usualRecord {
		w.text = line
	}
	if err != nil {
		return err
	}
	_, err = w.to.write(line)
	return err
}

// appendLine writes the record and the end of its line.
func (e *Event) appendLine(b []byte) ([]byte, error) {
	begin := len(b)
	b = e.appendJSON(b)
	if len(b)-begin > MaxRecord {
		return b[:begin], ErrTooLarge
	}
	return append(b, '\n'), nil
}

// lines writes lines, each by one call of Write, and begins a new one after one that could not be finished.
type lines struct {
	w    io.Writer
	torn bool // what was written last does not end in a newline
}

// write returns how many bytes were written, also when there is an error.
func (l *lines) write(line []byte) (written int64, err error) {
	if l.torn {
		n, err := l.w.Write([]byte{'\n'})
		written += int64(n)
		if err != nil {
			return written, fmt.Errorf("write audit record: %w", err)
		}
		l.torn = false
	}
	n, err := l.w.Write(line)
	written += int64(n)
	if err != nil {
		l.torn = n > 0 && line[n-1] != '\n'
		return written, fmt.Errorf("write audit record: %w", err)
	}
	return written, nil
}
