package awsapi

import (
	"encoding/base64"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// appendXML writes a value's content: what stands between its tags.
func (k *codec) appendXML(b []byte, v reflect.Value) []byte {
	if k.isPtr {
		v = v.Elem()
	}
	switch k.shape.kind {
	case structureKind:
		for i := range k.fields {
			f := &k.fields[i]
			fv := v.FieldByIndex(f.index)
			if !f.codec.omitted(fv) {
				b = f.codec.appendElement(b, f.name, fv)
			}
		}
	case listKind:
		for i := range v.Len() {
			b = k.elem.appendElement(b, "member", v.Index(i))
		}
	case mapKind:
		for _, key := range sortedKeys(v) {
			b = append(b, "<entry><key>"...)
			b = appendXMLText(b, key.String())
			b = append(b, "</key>"...)
			b = k.elem.appendElement(b, "value", v.MapIndex(key))
			b = append(b, "</entry>"...)
		}
	case stringKind:
		b = appendXMLText(b, v.String())
	case integerKind:
		b = strconv.AppendInt(b, v.Int(), 10)
	case floatKind:
		b = strconv.AppendFloat(b, v.Float(), 'g', -1, 64)
	case booleanKind:
		b = strconv.AppendBool(b, v.Bool())
	case timestampKind:
		b = timeOf(v).UTC().AppendFormat(b, "2006-01-02T15:04:05Z")
	case blobKind:
		b = base64.StdEncoding.AppendEncode(b, v.Bytes())
	}
	return b
}

func (k *codec) appendElement(b []byte, name string, v reflect.Value) []byte {
	b = append(b, '<')
	b = append(b, name...)
	b = append(b, '>')
	b = k.appendXML(b, v)
	b = append(b, "</"...)
	b = append(b, name...)
	return append(b, '>')
}

// appendXMLText escapes markup and white space that parsers would change. What XML cannot hold becomes U+FFFD.
func appendXMLText(b []byte, s string) []byte {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			i++
			switch {
			case c == '<':
				b = append(b, "&lt;"...)
			case c == '>':
				b = append(b, "&gt;"...)
			case c == '&':
				b = append(b, "&amp;"...)
			case c == '"':
				b = append(b, "&#34;"...)
			case c == '\'':
				b = append(b, "&#39;"...)
			case c == '\t':
				b = append(b, "&#x9;"...)
			case c == '\n':
				b = append(b, "&#xA;"...)
			case c == '\r':
				b = append(b, "&#xD;"...)
			case c < ' ':
				b = append(b, "\uFFFD"...)
			default:
				b = append(b, c)
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == 0xFFFE || r == 0xFFFF {
			r = utf8.RuneError
		}
		b = utf8.AppendRune(b, r)
		i += size
	}
	return b
}

// appendJSON writes a value as JSON.
func (k *codec) appendJSON(b []byte, v reflect.Value) []byte {
	if k.isPtr {
		v = v.Elem()
	}
	switch k.shape.kind {
	case structureKind:
		b = append(b, '{')
		first := true
		for i := range k.fields {
			f := &k.fields[i]
			fv := v.FieldByIndex(f.index)
			if f.codec.omitted(fv) {
				continue
			}
			b = appendName(b, f.wire, &first)
			b = f.codec.appendJSON(b, fv)
		}
		b = append(b, '}')
	case listKind:
		b = append(b, '[')
		for i := range v.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = k.elem.appendJSON(b, v.Index(i))
		}
		b = append(b, ']')
	case mapKind:
		b = append(b, '{')
		first := true
		for _, key := range sortedKeys(v) {
			b = appendName(b, key.String(), &first)
			b = k.elem.appendJSON(b, v.MapIndex(key))
		}
		b = append(b, '}')
	case stringKind:
		b = appendJSONText(b, v.String())
	case integerKind:
		b = strconv.AppendInt(b, v.Int(), 10)
	case floatKind:
		b = strconv.AppendFloat(b, v.Float(), 'g', -1, 64)
	case booleanKind:
		b = strconv.AppendBool(b, v.Bool())
	case timestampKind:
		b = appendEpoch(b, timeOf(v))
	case blobKind:
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, v.Bytes())
		b = append(b, '"')
	}
	return b
}

func appendName(b []byte, name string, first *bool) []byte {
	if !*first {
		b = append(b, ',')
	}
	*first = false
	b = appendJSONText(b, name)
	return append(b, ':')
}

// appendJSONText writes a JSON string. What is not valid UTF-8 becomes U+FFFD.
func appendJSONText(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		plain := i // most texts need no escape, and some are long
		for i < len(s) && isPlain(s[i]) {
			i++
		}
		b = append(b, s[plain:i]...)
		if i == len(s) {
			break
		}
		if c := s[i]; c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c == '\n':
				b = append(b, `\n`...)
			case c == '\r':
				b = append(b, `\r`...)
			case c == '\t':
				b = append(b, `\t`...)
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		b = utf8.AppendRune(b, r)
		i += size
	}
	return append(b, '"')
}

// isPlain reports whether a byte stands for itself in a JSON text.
func isPlain(c byte) bool { return c >= ' ' && c < 0x7F && c != '"' && c != '\\' }

// appendEpoch writes a time as seconds since 1970, to the millisecond.
func appendEpoch(b []byte, t time.Time) []byte {
	ms := t.UnixMilli()
	if ms < 0 {
		b = append(b, '-')
		ms = -ms
	}
	b = strconv.AppendInt(b, ms/1000, 10)
	if frac := ms % 1000; frac != 0 {
		b = append(b, '.', byte('0'+frac/100), byte('0'+frac/10%10), byte('0'+frac%10))
	}
	return b
}

func timeOf(v reflect.Value) time.Time { return v.Interface().(time.Time) }

func sortedKeys(v reflect.Value) []reflect.Value {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		switch x, y := a.String(), b.String(); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return keys
}

// appendValue writes a member of an error: text, a list of texts, a number, a bool, or nil.
func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case string:
		return appendJSONText(b, v)
	case bool:
		return strconv.AppendBool(b, v)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case []string:
		b = append(b, '[')
		for i, s := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSONText(b, s)
		}
		return append(b, ']')
	default:
		return appendJSONText(b, fmt.Sprint(v))
	}
}

// sortedNames returns the names of a map in order.
func sortedNames(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
