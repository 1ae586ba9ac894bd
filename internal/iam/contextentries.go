package iam

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/lanyard-id/lanyard/policy"
)

// The bounds of ContextEntries.
const (
	maxContextEntries = 256
	maxContextValues  = 1000 // of all entries together
)

// contextEntry is a condition key of a simulated request.
type contextEntry struct {
	ContextKeyName   string
	ContextKeyType   string
	ContextKeyValues []string
}

// readContext sets the keys of the entries, which take the place of those that the simulation filled in itself.
func readContext(keys *policy.Context, entries []contextEntry) error {
	if len(entries) > maxContextEntries {
		return invalidInput("ContextEntries must have %d members at most.", maxContextEntries)
	}
	seen, count := make(map[string]bool, len(entries)), 0
	for _, e := range entries {
		folded := strings.ToLower(e.ContextKeyName)
		single := !strings.HasSuffix(e.ContextKeyType, "List")
		count += len(e.ContextKeyValues)
		switch {
		case e.ContextKeyName == "" || e.ContextKeyType == "":
			return invalidInput("Each member of ContextEntries must have a ContextKeyName and a ContextKeyType.")
		case seen[folded]:
			return invalidInput("Invalid Context Entry: %s is there more than once.", e.ContextKeyName)
		case single && len(e.ContextKeyValues) != 1:
			return invalidInput("Invalid Context Entry: %s of type %s must have exactly one value.", e.ContextKeyName, e.ContextKeyType)
		case count > maxContextValues:
			return invalidInput("ContextEntries must have %d values at most together.", maxContextValues)
		}
		seen[folded] = true
		values := make([]string, len(e.ContextKeyValues))
		for i, text := range e.ContextKeyValues {
			var ok bool
			if values[i], ok = contextValue(e.ContextKeyType, text); !ok {
				return invalidInput("Invalid Context Entry: a value of %s is not of type %s.", e.ContextKeyName, e.ContextKeyType)
			}
		}
		if single {
			keys.Set(e.ContextKeyName, values[0])
		} else {
			keys.SetList(e.ContextKeyName, values)
		}
	}
	return nil
}

// contextValue returns a value in the form that policies compare with, or false if it is not of the entry's type.
func contextValue(typ, text string) (value string, ok bool) {
	switch strings.TrimSuffix(typ, "List") {
	case "string":
		return text, true
	case "boolean":
		value = strings.ToLower(text)
		return value, value == "true" || value == "false"
	case "ip":
		ip, err := netip.ParseAddr(text)
		return text, err == nil && ip.Zone() == ""
	case "binary":
		raw, err := base64.StdEncoding.Strict().DecodeString(text)
		return string(raw), err == nil && !strings.ContainsAny(text, "\r\n")
	case "numeric":
		return text, comparesWith("NumericEquals", text)
	case "date":
		return text, comparesWith("DateEquals", text)
	}
	return "", false
}

// comparesWith reports whether policies can compare with a value by an operator: whether a condition may have it. So numbers
// and dates are here what they are there.
func comparesWith(operator, value string) bool {
	quoted, err := json.Marshal(value)
	if err != nil {
		return false
	}
	_, err = policy.New("", policy.Identity, fmt.Appendf(nil,
		`{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*","Condition":{%q:{"aws:CurrentTime":%s}}}}`,
		operator, quoted))
	return err == nil
}
