package awsapi

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// protocol is a wire format (Smithy's AWS protocols).
type protocol int

const (
	queryProtocol    protocol = iota + 1 // awsQuery: a form in, XML out
	restJSONProtocol                     // restJson1
	jsonProtocol                         // awsJson1_1
)

// Model is a service's model in AWS's form (metadata, operations, shapes), compiled.
type Model struct {
	name       string // signing name
	version    string // API version
	namespace  string // of XML answers
	protocol   protocol
	operations map[string]*opModel
	shapes     map[string]*shape
	// statuses has the HTTP status of each error by its code on the wire.
	statuses map[string]int
	// errors has the error shapes by their code on the wire.
	errors map[string]*shape
	// internal is the code of the service's own internal failure; empty when it has none.
	internal string
}

// opModel is an operation as the model describes it.
type opModel struct {
	name     string
	unsigned bool // auth type none
	method   string
	path     []segment // REST-JSON
	input    *shape    // nil for none
	output   *shape    // nil for none
	wrapper  string    // XML element around the result; empty for none
}

// segment is one part of a path: literal text, or a label that stands for any text.
type segment struct{ literal, label string }

type shapeKind int

const (
	structureKind shapeKind = iota + 1
	listKind
	mapKind
	stringKind
	integerKind
	floatKind
	booleanKind
	timestampKind
	blobKind
)

// shape is a type of the model with its constraints.
type shape struct {
	name      string
	kind      shapeKind
	members   []*member // structures
	elem      *shape    // of a list; the values of a map
	key       *shape    // of a map
	min, max  *int64    // of a number's value, of a text's length in characters, of a list's or map's length
	pattern   *pattern  // nil for none
	enum      []string
	sensitive bool // values are never repeated in error texts
}

// member is a field of a structure.
type member struct {
	name     string
	wire     string // name in JSON bodies, paths and queries
	location string // uri or querystring; empty for the body
	shape    *shape
	required bool
	token    bool // idempotency token: clients make it up
}

// The form of the files, which have no member that is not named here: one that is not understood could change the wire.
type (
	modelFile struct {
		Metadata struct {
			APIVersion, EndpointPrefix, Protocol, SigningName, XMLNamespace string
			ServiceFullName, JSONVersion, TargetPrefix                      string // for the reader only
		}
		Operations map[string]struct {
			HTTP          struct{ Method, RequestURI string }
			Input, Output *struct{ Shape, ResultWrapper string }
			AuthType      string
			Errors        []string // which errors an operation returns is for it to know
		}
		Shapes map[string]shapeFile
	}
	shapeFile struct {
		Type               string
		Members            map[string]memberFile
		Required           []string
		Member, Key, Value memberFile
		Min, Max           *int64
		Pattern            string
		Enum               []string
		Sensitive          bool
		Exception          bool
		Error              struct {
			Code           string
			HTTPStatusCode int
			SenderFault    bool // the status says so too
		}
		Box, Union bool // Go's types and the operations see to these
	}
	memberFile struct {
		Shape, Location, LocationName string
		IdempotencyToken              bool
	}
)

// The files are AWS's service models without their documentation, one operation or shape a line, and Lanyard's own in the same
// form. One pattern is rewritten: AWS's of account aliases has a lookahead, which Go's expressions do not. Three constraints of CloudTrail's
// LookupEvents are left to the service, which has errors of its own for them.
//
//go:embed models/*.json
var modelFiles embed.FS

// models holds what ModelNamed returns; each model is compiled when it is first asked for.
var models = map[string]func() *Model{
	"sts": lazyModel("sts"), "iam": lazyModel("iam"), "eks": lazyModel("eks"), "eks-auth": lazyModel("eks-auth"),
	"cloudformation": lazyModel("cloudformation"), "cloudtrail": lazyModel("cloudtrail"), "lanyard": lazyModel("lanyard"),
}

func lazyModel(name string) func() *Model {
	return sync.OnceValue(func() *Model {
		text, err := modelFiles.ReadFile("models/" + name + ".json")
		if err == nil {
			var m *Model
			if m, err = parseModel(text); err == nil {
				return m
			}
		}
		panic(fmt.Sprintf("awsapi: model %s: %v", name, err))
	})
}

// ModelNamed returns the embedded model of a service by its file name: sts, iam, eks, eks-auth, cloudformation, cloudtrail, lanyard. It panics for other names.
func ModelNamed(name string) *Model {
	model, ok := models[name]
	if !ok {
		panic(fmt.Sprintf("awsapi: there is no model %q", name))
	}
	return model()
}

// parseModel compiles a model. What it does not understand it refuses.
func parseModel(text []byte) (*Model, error) {
	var f modelFile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	m := &Model{
		name: f.Metadata.SigningName, version: f.Metadata.APIVersion, namespace: f.Metadata.XMLNamespace,
		operations: map[string]*opModel{}, shapes: map[string]*shape{}, statuses: map[string]int{}, errors: map[string]*shape{},
	}
	if m.name == "" {
		m.name = f.Metadata.EndpointPrefix
	}
	switch f.Metadata.Protocol {
	case "query":
		m.protocol = queryProtocol
	case "rest-json":
		m.protocol = restJSONProtocol
	case "json":
		m.protocol = jsonProtocol
	default:
		return nil, fmt.Errorf("protocol %q is not supported", f.Metadata.Protocol)
	}
	for name, s := range f.Shapes {
		if err := m.addError(&f, name, s); err != nil {
			return nil, err
		}
	}
	for name, o := range f.Operations {
		op := &opModel{name: name, unsigned: o.AuthType == "none", method: o.HTTP.Method, path: parsePath(o.HTTP.RequestURI)}
		var err error
		if o.Input != nil {
			if op.input, err = m.shape(&f, o.Input.Shape); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		if o.Output != nil {
			if op.output, err = m.shape(&f, o.Output.Shape); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			op.wrapper = o.Output.ResultWrapper
		}
		m.operations[name] = op
	}
	return m, nil
}

// addError enters an error shape into the tables of errors.
func (m *Model) addError(f *modelFile, name string, s shapeFile) error {
	if !s.Exception {
		return nil
	}
	compiled, err := m.shape(f, name)
	if err != nil {
		return err
	}
	code, status := s.Error.Code, s.Error.HTTPStatusCode
	if code == "" {
		code = name
	}
	if status == 0 {
		status = http.StatusBadRequest // Smithy's default for client errors
	}
	m.statuses[code], m.errors[code] = status, compiled
	if status == http.StatusInternalServerError && m.protocol != queryProtocol {
		m.internal = code
	}
	return nil
}

func parsePath(uri string) []segment {
	var path []segment
	for part := range strings.SplitSeq(strings.Trim(uri, "/"), "/") {
		if label, ok := strings.CutPrefix(part, "{"); ok {
			path = append(path, segment{label: strings.TrimSuffix(label, "}")})
		} else {
			path = append(path, segment{literal: part})
		}
	}
	return path
}

// shape returns the compiled shape of a name. Shapes may refer to themselves.
func (m *Model) shape(f *modelFile, name string) (*shape, error) {
	if s, ok := m.shapes[name]; ok {
		return s, nil
	}
	from, ok := f.Shapes[name]
	if !ok {
		return nil, fmt.Errorf("shape %s does not exist", name)
	}
	s := &shape{name: name, min: from.Min, max: from.Max, enum: from.Enum, sensitive: from.Sensitive}
	m.shapes[name] = s
	var err error
	switch from.Type {
	case "structure":
		s.kind = structureKind
		for name, mf := range from.Members {
			mem := &member{name: name, wire: mf.LocationName, location: mf.Location, token: mf.IdempotencyToken,
				required: slices.Contains(from.Required, name)}
			if mem.wire == "" {
				mem.wire = name
			}
			if mem.location != "" && mem.location != "uri" && mem.location != "querystring" {
				return nil, fmt.Errorf("shape %s: location %s is not supported", s.name, mem.location)
			}
			if mem.shape, err = m.shape(f, mf.Shape); err != nil {
				return nil, err
			}
			s.members = append(s.members, mem)
		}
		slices.SortFunc(s.members, func(a, b *member) int { return strings.Compare(a.name, b.name) })
	case "list":
		s.kind = listKind
		if from.Member.LocationName != "" {
			return nil, fmt.Errorf("shape %s: renamed list members are not supported", name)
		}
		s.elem, err = m.shape(f, from.Member.Shape)
	case "map":
		s.kind = mapKind
		if from.Key.LocationName != "" || from.Value.LocationName != "" {
			return nil, fmt.Errorf("shape %s: renamed keys and values are not supported", name)
		}
		if s.key, err = m.shape(f, from.Key.Shape); err == nil {
			s.elem, err = m.shape(f, from.Value.Shape)
		}
	case "string":
		s.kind = stringKind
		if from.Pattern != "" {
			s.pattern, err = compilePattern(from.Pattern)
		}
	case "integer", "long":
		s.kind = integerKind
	case "float", "double":
		s.kind = floatKind
	case "boolean":
		s.kind = booleanKind
	case "timestamp":
		s.kind = timestampKind
	case "blob":
		s.kind = blobKind
	default:
		return nil, fmt.Errorf("shape %s: type %q is not supported", name, from.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("shape %s: %w", name, err)
	}
	return s, nil
}
