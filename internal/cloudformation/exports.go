package cloudformation

import (
	"context"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// maxExports is how many outputs of a stack may be exported, and how many exports it may import: all of them change in one
// transaction.
const maxExports = 50

func isExportName(name string) bool {
	return name != "" && len(name) <= 255 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != ':' && r != '-'
	})
}

// setExports replaces a stack's exports as part of tx. What others import stays as it is.
func (s *Service) setExports(tx *kv.Tx, st *stackRow, before, after []outputValue) error {
	key, scope := stackKey(st.identity), st.Account+"/"+st.Region+"/"
	stays := map[string]bool{}
	for _, out := range after {
		if out.Export == "" {
			continue
		}
		stays[out.Export] = true
		at := scope + out.Export
		row, ok := s.exports.Read(tx, at)
		if ok && row.Stack != key {
			return invalid("Export with name %s is already exported by stack %s.", out.Export, s.stackNames(row.Stack))
		}
		next := exportRow{Stack: key}
		if ok {
			var value string
			if err := s.open(at, row.Sealed, &value); err != nil {
				return err
			}
			if value == out.Value {
				continue
			}
			if len(row.Importers) > 0 {
				return invalid("%s", inUse(out.Export, "updated", s.stackNames(row.Importers...)))
			}
		}
		var err error
		if next.Sealed, err = s.seal(at, out.Value); err != nil {
			return err
		}
		s.exports.Write(tx, at, &next)
	}
	for _, out := range before {
		if out.Export == "" || stays[out.Export] {
			continue
		}
		row, ok := s.exports.Read(tx, scope+out.Export)
		if !ok || row.Stack != key {
			continue
		}
		if len(row.Importers) > 0 {
			return invalid("%s", inUse(out.Export, "deleted", s.stackNames(row.Importers...)))
		}
		s.exports.Remove(tx, scope+out.Export)
	}
	return nil
}

func inUse(export, verb, by string) string {
	return "Export " + export + " cannot be " + verb + " as it is in use by " + by + "."
}

// stackNames are the names of stacks, by their keys.
func (s *Service) stackNames(keys ...string) string {
	names := make([]string, 0, len(keys))
	for _, key := range keys {
		if st, ok := s.stacks.Get(key); ok {
			names = append(names, st.Name)
		}
	}
	return strings.Join(names, ", ")
}

// withdrawExports removes a stack's exports as part of tx, or says why they stay.
func (s *Service) withdrawExports(tx *kv.Tx, st *stackRow) (reason string, err error) {
	if st.Current == 0 {
		return "", nil
	}
	_, secrets, err := s.generation(stackKey(st.identity), st.Current)
	if err != nil {
		return "", err
	}
	for _, out := range secrets.Outputs {
		row, ok := s.exports.Read(tx, st.Account+"/"+st.Region+"/"+out.Export)
		if ok && row.Stack == stackKey(st.identity) && len(row.Importers) > 0 {
			return "Delete canceled. " + inUse(out.Export, "deleted", s.stackNames(row.Importers...)), nil
		}
	}
	return "", s.setExports(tx, st, secrets.Outputs, nil)
}

// importValue is the value of an export of the stack's account and region.
func (s *Service) importValue(st identity, name string) (string, error) {
	key := st.Account + "/" + st.Region + "/" + name
	row, ok := s.exports.Get(key)
	if !ok || row.Stack == stackKey(st) {
		return "", invalid("No export named %s found.", clip(name))
	}
	var value string
	return value, s.open(key, row.Sealed, &value)
}

// claimImports enters a stack as an importer of exports, as part of tx.
func (s *Service) claimImports(tx *kv.Tx, st *stackRow, imports []string) error {
	for _, name := range imports {
		at := st.Account + "/" + st.Region + "/" + name
		row, ok := s.exports.Read(tx, at)
		if !ok {
			return invalid("No export named %s found.", clip(name))
		}
		if slices.Contains(row.Importers, stackKey(st.identity)) {
			continue
		}
		next := *row
		next.Importers = append(slices.Clone(row.Importers), stackKey(st.identity))
		s.exports.Write(tx, at, &next)
	}
	return nil
}

// releaseImports strikes a stack from the importers of all exports that are not in keep, as part of tx.
func (s *Service) releaseImports(tx *kv.Tx, st *stackRow, imports, keep []string) {
	for _, name := range without(imports, keep) {
		at := st.Account + "/" + st.Region + "/" + name
		row, ok := s.exports.Read(tx, at)
		if !ok || !slices.Contains(row.Importers, stackKey(st.identity)) {
			continue
		}
		next := *row
		next.Importers = slices.DeleteFunc(slices.Clone(row.Importers), func(key string) bool { return key == stackKey(st.identity) })
		s.exports.Write(tx, at, &next)
	}
}

// imports are the exports that a stack has claimed: those of all generations of its settings. Updates that failed without a rollback
// leave several.
func (s *Service) imports(key string) []string {
	var names []string
	for _, row := range s.settings.Scan(key+"/", "") {
		names = append(names, row.Imports...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

type listExportsIn struct{ NextToken string }

type exportShape struct{ ExportingStackId, Name, Value string }

type listExportsOut struct {
	Exports   []exportShape
	NextToken string
}

func (s *Service) listExports(_ context.Context, c *awsapi.Caller, in *listExportsIn) (*listExportsOut, error) {
	var all []exportShape
	for key, row := range s.exports.Scan(scopeOf(c), "") {
		shape := exportShape{Name: strings.TrimPrefix(key, scopeOf(c))}
		if err := s.open(key, row.Sealed, &shape.Value); err != nil {
			return nil, err
		}
		if st, ok := s.stacks.Get(row.Stack); ok {
			shape.ExportingStackId = st.ARN()
		}
		all = append(all, shape)
	}
	exports, next, err := page(all, func(e exportShape) string { return e.Name }, in.NextToken)
	return &listExportsOut{exports, next}, err
}

type listImportsIn struct{ ExportName, NextToken string }

type listImportsOut struct {
	Imports   []string
	NextToken string
}

func (s *Service) listImports(_ context.Context, c *awsapi.Caller, in *listImportsIn) (*listImportsOut, error) {
	row, ok := s.exports.Get(scopeOf(c) + in.ExportName)
	if !ok || len(row.Importers) == 0 {
		return nil, invalid("Export '%s' is not imported by any stack.", clip(in.ExportName))
	}
	var names []string
	for _, key := range row.Importers {
		if st, ok := s.stacks.Get(key); ok {
			names = append(names, st.Name)
		}
	}
	slices.Sort(names)
	imports, next, err := page(names, func(name string) string { return name }, in.NextToken)
	return &listImportsOut{imports, next}, err
}
