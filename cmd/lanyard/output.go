package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"
)

// print writes v for programs, or the rows for people. The first row is the header.
func (c *cli) print(v any, rows [][]string) error {
	switch c.output {
	case "json":
		e := json.NewEncoder(c.out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	case "yaml":
		// By way of JSON, so that both have the same names.
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		var plain any
		if err := yaml.Unmarshal(text, &plain); err != nil {
			return err
		}
		e := yaml.NewEncoder(c.out)
		e.SetIndent(2)
		if err := e.Encode(plain); err != nil {
			return err
		}
		return e.Close()
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// printFields writes v for programs, or a name and a value a line for people. Fields without a value are left out.
func (c *cli) printFields(v any, fields [][2]string) error {
	var rows [][]string
	for _, f := range fields {
		if f[1] != "" {
			rows = append(rows, []string{f[0] + ":", f[1]})
		}
	}
	return c.print(v, rows)
}

// age is how long ago t was, as kubectl prints it.
func age(t *time.Time) string {
	if t == nil {
		return ""
	}
	d := time.Since(*t)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// pairs prints a map as the flags take it.
func pairs(m map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, k+"="+m[k])
	}
	return strings.Join(all, ",")
}

// epoch is a time, which Lanyard's API gives in seconds since 1970, and which is printed as RFC 3339 has it.
type epoch struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler.
func (e *epoch) UnmarshalJSON(text []byte) error {
	var seconds float64
	if err := json.Unmarshal(text, &seconds); err != nil {
		return err
	}
	e.Time = time.UnixMilli(int64(seconds * 1000)).UTC()
	return nil
}

// value returns what p points to, or the zero value.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
