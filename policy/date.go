package policy

import (
	"cmp"
	"strconv"
	"strings"
	"time"
)

// An instant is a time of any year that policies can name.
type instant struct {
	seconds     int64 // since 1970
	nanoseconds int
}

func (i instant) compare(j instant) int {
	return cmp.Or(cmp.Compare(i.seconds, j.seconds), cmp.Compare(i.nanoseconds, j.nanoseconds))
}

// parseInstant reads a date in the W3C profile of ISO 8601 ("Date and Time Formats"): 2025, 2025-01, 2025-01-31,
// 2025-01-31T23:59Z, with seconds, with a fraction of them, and with +hh:mm or -hh:mm for Z. Other numbers are seconds
// since 1970; four digits are a year. What a date leaves out is the earliest it can be, in UTC.
func parseInstant(s string) (instant, bool) {
	if len(s) != len("2006") && allDigits(s) {
		seconds, err := strconv.ParseInt(s, 10, 64)
		return instant{seconds: seconds}, err == nil
	}
	r := dateReader{rest: s}
	year, month, day := r.number(4, 0, 9999), 1, 1
	var hour, minute, second, nanosecond, offset int
	if r.rest != "" {
		r.literal("-")
		month = r.number(2, 1, 12)
	}
	if r.rest != "" {
		r.literal("-")
		day = r.number(2, 1, time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day())
	}
	if r.rest != "" {
		r.literal("T")
		hour = r.number(2, 0, 23)
		r.literal(":")
		minute = r.number(2, 0, 59)
		if r.has(":") {
			second = r.number(2, 0, 59)
			if r.has(".") {
				nanosecond = r.fraction()
			}
		}
		offset = r.zone()
	}
	if r.bad || r.rest != "" {
		return instant{}, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	return instant{t.Unix() - int64(offset), nanosecond}, true
}

// A dateReader reads a text of fixed fields. After the first mistake bad is set, and what it returns means nothing.
type dateReader struct {
	rest string
	bad  bool
}

// has takes the text if it comes next.
func (r *dateReader) has(text string) (ok bool) {
	r.rest, ok = strings.CutPrefix(r.rest, text)
	return ok
}

// literal takes the text, which must come next.
func (r *dateReader) literal(text string) {
	if !r.has(text) {
		r.bad = true
	}
}

// number takes a number of so many digits between low and high.
func (r *dateReader) number(digits, low, high int) int {
	if r.bad || len(r.rest) < digits || !allDigits(r.rest[:digits]) {
		r.bad = true
		return low
	}
	n := 0
	for _, b := range []byte(r.rest[:digits]) {
		n = n*10 + int(b-'0')
	}
	r.rest = r.rest[digits:]
	if n < low || n > high {
		r.bad = true
		return low
	}
	return n
}

// fraction takes one to nine digits behind a decimal point and returns them as billionths.
func (r *dateReader) fraction() int {
	digits := len(r.rest) - len(strings.TrimLeft(r.rest, "0123456789"))
	if digits > 9 {
		r.bad = true
		return 0
	}
	n := r.number(max(digits, 1), 0, 999_999_999)
	for range 9 - digits {
		n *= 10
	}
	return n
}

// zone takes a time zone and returns its offset from UTC in seconds.
func (r *dateReader) zone() int {
	sign := 1
	switch {
	case r.has("Z"):
		return 0
	case r.has("-"):
		sign = -1
	default:
		r.literal("+")
	}
	hour := r.number(2, 0, 23)
	r.literal(":")
	return sign * (hour*60 + r.number(2, 0, 59)) * 60
}
