package cloudformation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

// A template's text becomes values: nil, bool, json.Number, string, []any and map[string]any. YAML's short forms of the functions
// become the long ones, so that nothing behind this file knows which language a template was in.

// maxDepth is how deep the values of a template may be nested. No template of use comes near.
const maxDepth = 64

func invalid(format string, args ...any) error {
	return awsapi.Errorf("ValidationError", format, args...)
}

// parseText reads a template: JSON if it begins with a brace, else YAML.
func parseText(text string) (any, error) {
	if !utf8.ValidString(text) {
		return nil, invalid("Template format error: the template is not valid UTF-8.")
	}
	if strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") {
		return parseJSON(text)
	}
	return parseYAML(text)
}

func parseJSON(text string) (any, error) {
	d := jsontext.NewDecoder(strings.NewReader(text))
	v, err := readJSON(d, 0)
	if err == nil {
		if _, err = d.ReadToken(); err == io.EOF {
			return v, nil
		}
	}
	if _, ok := errors.AsType[*awsapi.Error](err); ok {
		return nil, err
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		syntax, _ := errors.AsType[*jsontext.SyntacticError](err)
		return nil, invalid("Template format error: duplicate key at %s.", syntax.JSONPointer)
	}
	line, column := position(text, int(d.InputOffset()))
	return nil, invalid("Template format error: JSON not well-formed. (line %d, column %d)", line, column)
}

// readJSON reads one value. Numbers keep their text; a name that is there twice is refused, for others may read it differently.
func readJSON(d *jsontext.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, tooDeep()
	}
	t, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch t.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return t.Bool(), nil
	case '"':
		return t.String(), nil
	case '0':
		return json.Number(t.String()), nil
	case '[':
		list := []any{}
		for d.PeekKind() != ']' {
			v, err := readJSON(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.ReadToken()
		return list, err
	default: // an object: names come as values of their own
		object := map[string]any{}
		for d.PeekKind() != '}' {
			name, err := d.ReadToken()
			if err != nil {
				return nil, err
			}
			key := name.String()
			if object[key], err = readJSON(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := d.ReadToken()
		return object, err
	}
}

func tooDeep() error {
	return invalid("Template format error: the template is nested deeper than %d levels.", maxDepth)
}

// position turns an offset into a line and a column, from 1.
func position(text string, offset int) (line, column int) {
	before := text[:min(offset, len(text))]
	return strings.Count(before, "\n") + 1, len(before) - strings.LastIndexByte(before, '\n')
}

func parseYAML(text string) (any, error) {
	d := yaml.NewDecoder(strings.NewReader(text))
	var document yaml.Node
	if err := d.Decode(&document); err != nil {
		if err == io.EOF {
			return nil, invalid("Template format error: unsupported structure.")
		}
		return nil, notYAML(err)
	}
	if err := d.Decode(new(yaml.Node)); err != io.EOF {
		return nil, invalid("Template format error: YAML not well-formed. A template is one document.")
	}
	return readYAML(document.Content[0], 0)
}

// notYAML says where a text stops being YAML: the library's own text has the line.
func notYAML(err error) error {
	refused := awsapi.Errorf("ValidationError", "Template format error: YAML not well-formed. (%s)", strings.TrimPrefix(err.Error(), "yaml: "))
	refused.Cause = err
	return refused
}

func readYAML(n *yaml.Node, depth int) (any, error) {
	if depth > maxDepth {
		return nil, tooDeep()
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return nil, invalid("Template error: YAML aliases are not allowed in CloudFormation templates")
	}
	if name, short := strings.CutPrefix(n.Tag, "!"); short && !strings.HasPrefix(n.Tag, "!!") {
		return readShortForm(name, n, depth)
	}
	switch n.Kind {
	case yaml.MappingNode:
		return readMapping(n, depth)
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			var err error
			if list[i], err = readYAML(item, depth+1); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return readScalar(n)
}

func readMapping(n *yaml.Node, depth int) (any, error) {
	if n.Tag != "!!map" {
		return nil, unknownTag(n)
	}
	object := make(map[string]any, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch _, twice := object[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Tag == "!!merge" || key.Tag == "!!null":
			return nil, invalid("Template format error: the key at line %d, column %d is not a string.", key.Line, key.Column)
		case twice:
			return nil, invalid("Template format error: duplicate key %s at line %d, column %d.", clip(key.Value), key.Line, key.Column)
		}
		v, err := readYAML(n.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		object[key.Value] = v
	}
	return object, nil
}

// readScalar keeps a scalar's text. What JSON cannot write as a number, and dates, which policies have as their version, are strings.
func readScalar(n *yaml.Node) (any, error) {
	switch n.Tag {
	case "!!null":
		return nil, nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true"), nil
	case "!!int", "!!float":
		if isJSONNumber(n.Value) {
			return json.Number(n.Value), nil
		}
		return n.Value, nil
	case "!!str", "!!timestamp":
		return n.Value, nil
	}
	return nil, unknownTag(n)
}

func isJSONNumber(text string) bool {
	v := jsontext.Value(text)
	return v.IsValid() && v.Kind() == '0' && strings.TrimSpace(text) == text
}

func unknownTag(n *yaml.Node) error {
	return invalid("Template format error: YAML tag %s at line %d, column %d is not supported.", clip(n.Tag), n.Line, n.Column)
}

// readShortForm makes the long form of a function: !Ref x is {"Ref": x}, !Sub x is {"Fn::Sub": x}. The attribute of !GetAtt a.b is
// what follows the first dot.
func readShortForm(name string, n *yaml.Node, depth int) (any, error) {
	plain := *n
	plain.Tag = ""
	plain.Tag = plain.ShortTag()
	if n.Kind == yaml.ScalarNode {
		plain.Tag = "!!str"
	}
	argument, err := readYAML(&plain, depth+1)
	if err != nil {
		return nil, err
	}
	switch name {
	case "Ref", "Condition":
		return map[string]any{name: argument}, nil
	}
	return map[string]any{"Fn::" + name: argument}, nil
}

// clip bounds what an error text repeats of a template.
func clip(text string) string {
	const limit = 255
	if len(text) > limit {
		return strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return text
}

// canonical writes a value as JSON in one way only: keys sorted, nothing escaped that need not be.
func canonical(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("cloudformation: write a value as JSON: %v", err)) // they come from JSON
	}
	return strings.TrimSuffix(b.String(), "\n")
}
