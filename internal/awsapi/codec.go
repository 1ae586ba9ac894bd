package awsapi

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// codec carries values between a Go type and a shape. It is compiled once, when the handler is made.
type codec struct {
	shape  *shape
	typ    reflect.Type // the Go type, pointers taken off
	isPtr  bool
	fields []field // structures
	elem   *codec  // of a list; the values of a map
	// unserved are the members of the shape that the Go type lacks. A request that has one is refused: ignoring what a
	// caller asks for could do harm. Idempotency tokens are not among them, since clients send them unasked.
	unserved []*member
}

type field struct {
	*member
	index []int
	codec *codec
	bit   uint64 // its place in the set of members that a request has
}

var (
	timeType  = reflect.TypeFor[time.Time]()
	bytesType = reflect.TypeFor[[]byte]()
)

// codecKey names a codec; types may contain themselves.
type codecKey struct {
	typ   reflect.Type
	shape *shape
}

type compiler struct {
	input bool
	done  map[codecKey]*codec
}

// compileCodec checks a Go type against a shape. Input types must have the shape's required members.
func compileCodec(typ reflect.Type, s *shape, input bool) (*codec, error) {
	if s == nil {
		s = &shape{name: "(none)", kind: structureKind}
	}
	c := &compiler{input: input, done: map[codecKey]*codec{}}
	return c.compile(typ, s)
}

func (c *compiler) compile(typ reflect.Type, s *shape) (*codec, error) {
	key := codecKey{typ, s}
	if k, ok := c.done[key]; ok {
		return k, nil
	}
	k := &codec{shape: s, typ: typ}
	c.done[key] = k
	if typ.Kind() == reflect.Pointer {
		k.isPtr, k.typ = true, typ.Elem()
	}
	fits := false
	var err error
	switch kind := k.typ.Kind(); s.kind {
	case structureKind:
		if fits = kind == reflect.Struct && k.typ != timeType; fits {
			err = c.compileFields(k)
		}
	case listKind:
		if fits = kind == reflect.Slice && k.typ != bytesType; fits {
			k.elem, err = c.compile(k.typ.Elem(), s.elem)
		}
	case mapKind:
		if fits = kind == reflect.Map && k.typ.Key().Kind() == reflect.String; fits {
			k.elem, err = c.compile(k.typ.Elem(), s.elem)
		}
	case stringKind:
		fits = kind == reflect.String
	case integerKind:
		fits = kind == reflect.Int32 || kind == reflect.Int64
	case floatKind:
		fits = kind == reflect.Float64
	case booleanKind:
		fits = kind == reflect.Bool
	case timestampKind:
		fits = k.typ == timeType
	case blobKind:
		fits = k.typ == bytesType
	}
	if !fits {
		return nil, fmt.Errorf("the Go type %s cannot hold the shape %s", typ, s.name)
	}
	return k, err
}

func (c *compiler) compileFields(k *codec) error {
	left := make(map[string]*member, len(k.shape.members))
	for _, m := range k.shape.members {
		left[strings.ToLower(m.name)] = m
	}
	for _, f := range reflect.VisibleFields(k.typ) {
		if f.Anonymous || !f.IsExported() {
			if f.Anonymous && f.Type.Kind() == reflect.Pointer {
				return fmt.Errorf("%s embeds a pointer", k.typ)
			}
			continue
		}
		m, ok := left[strings.ToLower(f.Name)]
		if !ok {
			return fmt.Errorf("field %s of %s is not a member of the shape %s, or is there twice", f.Name, k.typ, k.shape.name)
		}
		delete(left, strings.ToLower(f.Name))
		fc, err := c.compile(f.Type, m.shape)
		if err != nil {
			return fmt.Errorf("field %s of %s: %w", f.Name, k.typ, err)
		}
		k.fields = append(k.fields, field{member: m, index: f.Index, codec: fc, bit: 1 << len(k.fields)})
	}
	if len(k.fields) > 64 {
		return fmt.Errorf("%s has more than 64 fields", k.typ)
	}
	for _, m := range k.shape.members {
		if left[strings.ToLower(m.name)] == nil || !c.input || m.token {
			continue
		}
		if m.required {
			return fmt.Errorf("%s lacks the required member %s of the shape %s", k.typ, m.name, k.shape.name)
		}
		k.unserved = append(k.unserved, m)
	}
	return nil
}

// target returns the value that a pointer points at, made if needed; v itself for what is not a pointer.
func (k *codec) target(v reflect.Value) reflect.Value {
	if !k.isPtr {
		return v
	}
	if v.IsNil() {
		v.Set(reflect.New(k.typ))
	}
	return v.Elem()
}

// omitted reports whether an answer leaves the value out.
func (k *codec) omitted(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return v.IsNil()
	case reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return k.typ == timeType && v.IsZero()
	}
	return false
}
