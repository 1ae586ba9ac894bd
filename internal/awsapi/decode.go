package awsapi

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// decoder fills the input of an operation from a request. It goes on after violations of the model's constraints, so
// that one answer names them all; it stops at what it cannot read.
type decoder struct {
	noEcho     bool     // the service never repeats values
	path       []step   // where the decoder is
	violations []string // the first maxViolations
	count      int      // of all violations
	unserved   string   // path of the first member that the operation does not serve
	unreadable string   // why the request cannot be read
}

// step is one part of a path: a member's name, or a list's index from 1.
type step struct {
	name  string
	index int
}

func (d *decoder) push(s step) { d.path = append(d.path, s) }
func (d *decoder) pop()        { d.path = d.path[:len(d.path)-1] }

// where prints the path as AWS does, such as tags.1.member.key.
func (d *decoder) where() string {
	var b strings.Builder
	for i, s := range d.path {
		if i > 0 {
			b.WriteByte('.')
		}
		if s.index > 0 {
			fmt.Fprintf(&b, "%d.member", s.index)
		} else if s.name != "" {
			b.WriteString(strings.ToLower(s.name[:1]) + s.name[1:])
		}
	}
	return b.String()
}

const (
	maxEcho       = 1024 // bytes that an error text repeats of a value
	maxViolations = 32   // violations that an error text lists
)

// violate notes that the value at the path does not satisfy its shape. echo is the value, or nil.
func (d *decoder) violate(s *shape, echo any, constraint string) {
	if d.count++; d.count > maxViolations {
		return
	}
	value := "Value"
	if echo != nil && !s.sensitive && !d.noEcho {
		text := fmt.Sprint(echo)
		if len(text) > maxEcho {
			text = strings.ToValidUTF8(text[:maxEcho], "") + "..."
		}
		value = "Value '" + text + "'"
	}
	d.violations = append(d.violations, value+" at '"+d.where()+"' failed to satisfy constraint: "+constraint)
}

// malformed notes that the request cannot be read, once.
func (d *decoder) malformed(format string, args ...any) {
	if d.unreadable == "" {
		d.unreadable = fmt.Sprintf(format, args...)
	}
}

func (d *decoder) notServed(m *member) {
	if d.unserved == "" {
		d.push(step{name: m.name})
		d.unserved = d.where()
		d.pop()
	}
}

// missing notes the required members that are not in the set.
func (d *decoder) missing(k *codec, seen uint64) {
	for i := range k.fields {
		if f := &k.fields[i]; f.required && seen&f.bit == 0 {
			d.push(step{name: f.name})
			d.violate(f.shape, nil, "Member must not be null")
			d.pop()
		}
	}
}

// checkLength holds a length to a shape's bounds.
func (d *decoder) checkLength(s *shape, n int, echo any) {
	if s.min != nil && int64(n) < *s.min {
		d.violate(s, echo, fmt.Sprintf("Member must have length greater than or equal to %d", *s.min))
	}
	if s.max != nil && int64(n) > *s.max {
		d.violate(s, echo, fmt.Sprintf("Member must have length less than or equal to %d", *s.max))
	}
}

func (d *decoder) setString(k *codec, v reflect.Value, text string) {
	d.checkString(k.shape, text)
	k.target(v).SetString(text)
}

func (d *decoder) checkString(s *shape, text string) {
	if s.min != nil || s.max != nil {
		d.checkLength(s, utf8.RuneCountInString(text), text)
	}
	tooLong := s.max != nil && int64(len(text)) > utf8.UTFMax**s.max // spares the pattern a text that is refused anyway
	if s.pattern != nil && !tooLong && !s.pattern.match(text) {
		d.violate(s, text, "Member must satisfy regular expression pattern: "+s.pattern.text)
	}
	if s.enum != nil && !slices.Contains(s.enum, text) {
		constraint := "Member must satisfy enum value set"
		if !d.noEcho {
			constraint += ": [" + strings.Join(s.enum, ", ") + "]"
		}
		d.violate(s, text, constraint)
	}
}

func (d *decoder) setInt(k *codec, v reflect.Value, n int64) {
	s, t := k.shape, k.target(v)
	if t.OverflowInt(n) {
		d.malformed("%d is not a 32-bit integer", n)
		return
	}
	if s.min != nil && n < *s.min {
		d.violate(s, n, fmt.Sprintf("Member must have value greater than or equal to %d", *s.min))
	}
	if s.max != nil && n > *s.max {
		d.violate(s, n, fmt.Sprintf("Member must have value less than or equal to %d", *s.max))
	}
	t.SetInt(n)
}

// setText reads a scalar from text: a parameter of a query, a form or a path.
func (d *decoder) setText(k *codec, v reflect.Value, text string) {
	var err error
	switch k.shape.kind {
	case stringKind:
		d.setString(k, v, text)
	case integerKind:
		var n int64
		if n, err = strconv.ParseInt(text, 10, 64); err == nil {
			d.setInt(k, v, n)
		}
	case floatKind:
		var f float64
		if f, err = strconv.ParseFloat(text, 64); err == nil {
			k.target(v).SetFloat(f)
		}
	case booleanKind:
		switch strings.ToLower(text) {
		case "true", "false":
			k.target(v).SetBool(len(text) == len("true"))
		default:
			err = strconv.ErrSyntax
		}
	case timestampKind:
		var t time.Time
		if t, err = time.Parse(time.RFC3339, text); err == nil {
			k.target(v).Set(reflect.ValueOf(t.UTC()))
		}
	case blobKind:
		var b []byte
		if b, err = base64.StdEncoding.DecodeString(text); err == nil {
			d.checkLength(k.shape, len(b), nil)
			k.target(v).SetBytes(b)
		}
	default:
		err = strconv.ErrSyntax
	}
	if err != nil {
		d.malformed("The value at '%s' is not a valid %s", d.where(), k.shape.kind)
	}
}

// String names a kind in error texts.
func (k shapeKind) String() string {
	switch k {
	case structureKind:
		return "structure"
	case listKind:
		return "list"
	case mapKind:
		return "map"
	case stringKind:
		return "string"
	case integerKind:
		return "integer"
	case floatKind:
		return "number"
	case booleanKind:
		return "boolean"
	case timestampKind:
		return "timestamp"
	case blobKind:
		return "blob"
	}
	return "value"
}

// params are the parameters of a query request, sorted by key.
type params []param

type param struct{ key, value string }

// maxParams bounds the parameters of one request.
const maxParams = 10_000

// parseParams reads forms and queries (application/x-www-form-urlencoded). A key may occur once.
func parseParams(texts ...string) (params, error) {
	var ps params
	for _, text := range texts {
		for text != "" {
			var pair string
			pair, text, _ = strings.Cut(text, "&")
			if pair == "" {
				continue
			}
			if len(ps) == maxParams {
				return nil, fmt.Errorf("more than %d parameters", maxParams)
			}
			key, value, _ := strings.Cut(pair, "=")
			key, err := url.QueryUnescape(key)
			if err != nil {
				return nil, err
			}
			value, err = url.QueryUnescape(value)
			if err != nil {
				return nil, err
			}
			if !utf8.ValidString(key) || !utf8.ValidString(value) {
				return nil, errors.New("a parameter is not valid UTF-8")
			}
			ps = append(ps, param{key, value})
		}
	}
	slices.SortFunc(ps, func(a, b param) int { return strings.Compare(a.key, b.key) })
	for i := 1; i < len(ps); i++ {
		if ps[i].key == ps[i-1].key {
			return nil, fmt.Errorf("the parameter %.100q occurs twice", ps[i].key)
		}
	}
	return ps, nil
}

func (ps params) find(key string) (int, bool) {
	return slices.BinarySearchFunc(ps, key, func(p param, key string) int { return strings.Compare(p.key, key) })
}

// get returns the value of a key.
func (ps params) get(key string) (string, bool) {
	if i, ok := ps.find(key); ok {
		return ps[i].value, true
	}
	return "", false
}

// below returns the parameters whose keys begin with the prefix.
func (ps params) below(prefix string) params {
	from, _ := ps.find(prefix)
	n := from
	for n < len(ps) && strings.HasPrefix(ps[n].key, prefix) {
		n++
	}
	return ps[from:n]
}

// query fills v from the parameters at key, and below it, and reports whether there were any (AWS query protocol: lists are
// key.member.N, maps key.entry.N.key and key.entry.N.value).
func (d *decoder) query(k *codec, v reflect.Value, ps params, key string) bool {
	switch k.shape.kind {
	case structureKind:
		sub := ps.below(key + ".")
		if len(sub) == 0 {
			return false
		}
		d.queryFields(k, k.target(v), sub, key+".")
		return true
	case listKind, mapKind:
		sub := ps.below(key + ".")
		if len(sub) == 0 {
			value, ok := ps.get(key)
			if ok && value != "" {
				d.malformed("The value at '%s' is not a valid %s", d.where(), k.shape.kind)
			}
			if ok { // clients write an empty list as key=
				d.setEmpty(k, k.target(v))
			}
			return ok
		}
		if k.shape.kind == listKind {
			d.queryList(k, k.target(v), sub, key+".member.")
		} else {
			d.queryMap(k, k.target(v), sub, key+".entry.")
		}
		return true
	default:
		text, ok := ps.get(key)
		if ok {
			d.setText(k, v, text)
		}
		return ok
	}
}

func (d *decoder) queryFields(k *codec, v reflect.Value, ps params, prefix string) {
	var seen uint64
	for i := range k.fields {
		f := &k.fields[i]
		d.push(step{name: f.name})
		if d.query(f.codec, v.FieldByIndex(f.index), ps, prefix+f.name) {
			seen |= f.bit
		}
		d.pop()
	}
	for _, m := range k.unserved {
		if _, ok := ps.get(prefix + m.name); ok || len(ps.below(prefix+m.name+".")) > 0 {
			d.notServed(m)
		}
	}
	d.missing(k, seen)
}

// items finds the indexes that follow the prefix, in numerical order.
func (d *decoder) items(ps params, prefix string) []int {
	var indexes []int
	sub := ps.below(prefix)
	if len(sub) < len(ps) {
		d.malformed("The value at '%s' has a parameter that is not below '%s'", d.where(), prefix)
	}
	last := ""
	for _, p := range sub {
		text, _, _ := strings.Cut(p.key[len(prefix):], ".")
		if text == last {
			continue
		}
		last = text
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || text[0] == '+' || text[0] == '0' {
			d.malformed("The value at '%s' has the index '%.20s'", d.where(), text)
			return nil
		}
		indexes = append(indexes, n)
	}
	slices.Sort(indexes)
	return slices.Compact(indexes)
}

func (d *decoder) queryList(k *codec, v reflect.Value, ps params, prefix string) {
	indexes := d.items(ps, prefix)
	d.checkLength(k.shape, len(indexes), nil)
	list := reflect.MakeSlice(k.typ, len(indexes), len(indexes))
	for i, n := range indexes {
		d.push(step{index: i + 1})
		if !d.query(k.elem, list.Index(i), ps, prefix+strconv.Itoa(n)) {
			d.malformed("The value at '%s' is not a valid %s", d.where(), k.elem.shape.kind)
		}
		d.pop()
	}
	v.Set(list)
}

func (d *decoder) queryMap(k *codec, v reflect.Value, ps params, prefix string) {
	indexes := d.items(ps, prefix)
	d.checkLength(k.shape, len(indexes), nil)
	m := reflect.MakeMapWithSize(k.typ, len(indexes))
	for _, n := range indexes {
		entry := prefix + strconv.Itoa(n)
		key, ok := ps.get(entry + ".key")
		d.push(step{name: key})
		d.checkString(k.shape.key, key)
		value := reflect.New(k.typ.Elem()).Elem()
		if !d.query(k.elem, value, ps, entry+".value") || !ok {
			d.malformed("The value at '%s' has an entry without a key or a value", d.where())
		}
		d.pop()
		m.SetMapIndex(reflect.ValueOf(key).Convert(k.typ.Key()), value)
	}
	if m.Len() != len(indexes) {
		d.malformed("The value at '%s' has a key twice", d.where())
	}
	v.Set(m)
}

func (d *decoder) setEmpty(k *codec, v reflect.Value) {
	d.checkLength(k.shape, 0, nil)
	if k.shape.kind == listKind {
		v.Set(reflect.MakeSlice(k.typ, 0, 0))
	} else {
		v.Set(reflect.MakeMap(k.typ))
	}
}

// parseJSON reads a body that has to be one JSON object; an empty body is an empty one. An object that has a member twice is
// refused, for others may read it differently.
func parseJSON(body []byte) (map[string]any, error) {
	if len(body) == 0 {
		return nil, nil
	}
	switch jsontext.Value(body).Kind() {
	case 'n':
		return nil, errors.New("it is null")
	case 't', 'f':
		return nil, errors.New("it is a JSON boolean")
	case '0':
		return nil, errors.New("it is a JSON number")
	case '"':
		return nil, errors.New("it is a JSON string")
	case '[':
		return nil, errors.New("it is a JSON array")
	}
	var object map[string]any
	err := json.Unmarshal(body, &object)
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return nil, fmt.Errorf("%w at byte %d", syntax.Err, syntax.ByteOffset)
	}
	if err != nil { // nothing else does not fit
		return nil, errors.New("a number is too large")
	}
	return object, nil
}

// rest fills the top structure of a REST-JSON request from its path, query and body.
func (d *decoder) rest(k *codec, v reflect.Value, labels map[string]string, query url.Values, body map[string]any) {
	var seen uint64
	for i := range k.fields {
		f := &k.fields[i]
		fv := v.FieldByIndex(f.index)
		d.push(step{name: f.name})
		present := false
		switch f.location {
		case "uri":
			var text string
			if text, present = labels[f.wire]; present {
				d.setText(f.codec, fv, text)
			}
		case "querystring":
			var values []string
			if values, present = query[f.wire]; present {
				d.queryString(f.codec, fv, values)
			}
		default:
			var x any
			if x, present = body[f.wire]; present {
				present = d.json(f.codec, fv, x)
			}
		}
		if present {
			seen |= f.bit
		}
		d.pop()
	}
	for _, m := range k.unserved {
		switch {
		case m.location == "querystring" && query[m.wire] != nil, m.location == "" && body[m.wire] != nil:
			d.notServed(m)
		}
	}
	d.missing(k, seen)
}

func (d *decoder) queryString(k *codec, v reflect.Value, values []string) {
	if k.shape.kind != listKind {
		if len(values) > 1 {
			d.malformed("The value at '%s' is there twice", d.where())
		}
		d.setText(k, v, values[0])
		return
	}
	d.checkLength(k.shape, len(values), nil)
	list := reflect.MakeSlice(k.typ, len(values), len(values))
	for i, text := range values {
		d.push(step{index: i + 1})
		d.setText(k.elem, list.Index(i), text)
		d.pop()
	}
	k.target(v).Set(list)
}

// json fills v from a JSON value and reports whether there was one: null stands for none.
func (d *decoder) json(k *codec, v reflect.Value, x any) bool {
	if x == nil {
		return false
	}
	switch k.shape.kind {
	case structureKind:
		object, ok := x.(map[string]any)
		if !ok {
			return d.wrongType(k, x)
		}
		d.jsonFields(k, k.target(v), object)
	case listKind:
		array, ok := x.([]any)
		if !ok {
			return d.wrongType(k, x)
		}
		d.checkLength(k.shape, len(array), nil)
		list := reflect.MakeSlice(k.typ, len(array), len(array))
		for i, item := range array {
			d.push(step{index: i + 1})
			if !d.json(k.elem, list.Index(i), item) {
				d.violate(k.elem.shape, nil, "Member must not be null")
			}
			d.pop()
		}
		k.target(v).Set(list)
	case mapKind:
		object, ok := x.(map[string]any)
		if !ok {
			return d.wrongType(k, x)
		}
		d.checkLength(k.shape, len(object), nil)
		m := reflect.MakeMapWithSize(k.typ, len(object))
		for _, key := range slices.Sorted(maps.Keys(object)) {
			d.push(step{name: key})
			d.checkString(k.shape.key, key)
			value := reflect.New(k.typ.Elem()).Elem()
			if !d.json(k.elem, value, object[key]) {
				d.violate(k.elem.shape, nil, "Member must not be null")
			}
			d.pop()
			m.SetMapIndex(reflect.ValueOf(key).Convert(k.typ.Key()), value)
		}
		k.target(v).Set(m)
	default:
		return d.jsonScalar(k, v, x)
	}
	return true
}

func (d *decoder) jsonFields(k *codec, v reflect.Value, object map[string]any) {
	var seen uint64
	for i := range k.fields {
		f := &k.fields[i]
		d.push(step{name: f.name})
		if d.json(f.codec, v.FieldByIndex(f.index), object[f.wire]) {
			seen |= f.bit
		}
		d.pop()
	}
	for _, m := range k.unserved {
		if object[m.wire] != nil {
			d.notServed(m)
		}
	}
	d.missing(k, seen)
}

func (d *decoder) jsonScalar(k *codec, v reflect.Value, x any) bool {
	switch x := x.(type) {
	case string:
		if k.shape.kind == stringKind || k.shape.kind == blobKind {
			d.setText(k, v, x)
			return true
		}
	case bool:
		if k.shape.kind == booleanKind {
			k.target(v).SetBool(x)
			return true
		}
	case float64:
		switch k.shape.kind {
		case integerKind:
			if x != math.Trunc(x) || math.Abs(x) > 1<<53 {
				d.malformed("The value at '%s' is not a valid integer", d.where())
				return true
			}
			d.setInt(k, v, int64(x))
			return true
		case floatKind:
			k.target(v).SetFloat(x)
			return true
		case timestampKind:
			if math.Abs(x) > 1e12 {
				d.malformed("The value at '%s' is not a valid timestamp", d.where())
				return true
			}
			k.target(v).Set(reflect.ValueOf(time.UnixMilli(int64(math.Round(x * 1000))).UTC()))
			return true
		}
	}
	return d.wrongType(k, x)
}

// wrongType notes a JSON value of the wrong type, in the words of AWS's services.
func (d *decoder) wrongType(k *codec, x any) bool {
	got := "VALUE"
	switch x := x.(type) {
	case string:
		got = "STRING_VALUE"
	case float64:
		got = "NUMBER_VALUE"
	case bool:
		got = "FALSE_VALUE"
		if x {
			got = "TRUE_VALUE"
		}
	case []any:
		got = "START_ARRAY"
	case map[string]any:
		got = "START_OBJECT"
	}
	kind := k.shape.kind.String()
	d.malformed("%s can not be converted to %s %s", got, article(kind), strings.ToUpper(kind[:1])+kind[1:])
	return true
}

func article(word string) string {
	if strings.ContainsRune("aeiou", rune(word[0])) {
		return "an"
	}
	return "a"
}
