package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// summary says what may be in a segment that is full.
type summary struct {
	Size     int64 // of the segment that it is made of
	From, To time.Time
	Filter   filter
}

// filter is a Bloom filter of keys: with ten bits a key and seven of them set, one key in a hundred that is not there seems to be.
type filter []byte

const (
	bitsPerKey = 10
	bitsSet    = 7
)

// makeFilter makes a filter that has the keys, of which some are there many times. It sorts them.
func makeFilter(keys []int64) filter {
	slices.Sort(keys)
	keys = slices.Compact(keys)
	f := make(filter, max(8, len(keys)*bitsPerKey/8))
	for _, k := range keys {
		for bit := range f.bits(k) {
			f[bit/8] |= 1 << (bit % 8)
		}
	}
	return f
}

func (f filter) mayHave(key int64) bool {
	for bit := range f.bits(key) {
		if f[bit/8]&(1<<(bit%8)) == 0 {
			return false
		}
	}
	return true
}

// bits yields the bits of a key.
func (f filter) bits(key int64) func(yield func(uint64) bool) {
	return func(yield func(uint64) bool) {
		h, step := uint64(key), uint64(key)>>32|1
		for range bitsSet {
			if !yield(h % (uint64(len(f)) * 8)) {
				return
			}
			h += step
		}
	}
}

// mayHave reports whether the segment may have records that the query finds.
func (s *segment) mayHave(q *Query) bool {
	if s.size == 0 {
		return false
	}
	if s.summary == nil {
		return true
	}
	if !q.From.IsZero() && s.summary.To.Before(q.From.Truncate(time.Second)) || !q.To.IsZero() && s.summary.From.After(q.To) {
		return false
	}
	return s.summary.Filter.mayHave(q.Key())
}

// readSummary returns a segment's summary; nil if there is none of this segment as it is.
func (f *Files) readSummary(s *segment) *summary {
	text, err := os.ReadFile(f.path(s.number, summarySuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var got summary
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil || got.Size != s.size || len(got.Filter) == 0 {
		f.log.Warn("a summary of the audit trail is not usable and will be made again", "segment", s.number, "err", err)
		return nil
	}
	return &got
}

// contents is what a summary is made of.
type contents struct {
	from, to time.Time
	keys     []int64
}

func (c *contents) include(e *Event) {
	if c.from.IsZero() || e.Time.Before(c.from) {
		c.from = e.Time.Truncate(time.Second)
	}
	if e.Time.After(c.to) {
		c.to = e.Time
	}
	c.keys = e.AppendKeys(c.keys)
}

// summarize makes a segment's summary and keeps it.
func (f *Files) summarize(s *segment) (*summary, error) {
	has := s.contents
	if has == nil {
		var err error
		if has, err = f.read(s.number); err != nil {
			return nil, err
		}
	}
	made := &summary{Size: s.size, From: has.from, To: has.to, Filter: makeFilter(has.keys)}
	text, err := json.Marshal(made)
	if err != nil {
		return nil, fmt.Errorf("encode summary: %w", err)
	}
	path := f.path(s.number, summarySuffix)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return nil, err
	}
	return made, os.Rename(path+".new", path)
}

// read returns what is in a segment.
func (f *Files) read(number int) (*contents, error) {
	file, err := os.Open(f.path(number, segmentSuffix))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	has := new(contents)
	for lines := bufio.NewReaderSize(file, window); ; {
		line, err := lines.ReadSlice('\n')
		if found, ok := parseLine(line); ok {
			has.include(&found.Event)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read segment %d: %w", number, err)
		}
	}
	if has.to.IsZero() { // nothing but unfinished lines: it is as old as its file
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		has.from, has.to = info.ModTime(), info.ModTime()
	}
	return has, nil
}
