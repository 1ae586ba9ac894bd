package subject

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, e := range []struct {
		pattern string
		yes, no []string
	}{
		{"app", []string{"app"}, []string{"", "ap", "apps", "xapp"}},
		{"*", []string{"", "a", "team-a"}, nil},
		{"team-*", []string{"team-", "team-a"}, []string{"team", "ateam-a"}},
		{"*-prod", []string{"-prod", "web-prod"}, []string{"web-prod2", "prod"}},
		{"a*b", []string{"ab", "axb", "abb"}, []string{"a", "b", "abc"}},
		{"a*a", []string{"aa", "aba"}, []string{"a"}},
		{"a*b*c", []string{"abc", "axbxc", "abbc"}, []string{"acb", "ac"}},
		{"*ab*ab*", []string{"abab", "xababx"}, []string{"aba", "ab"}},
		{"*.v1", []string{"app.v1"}, []string{"appxv1"}},
	} {
		for _, name := range e.yes {
			if !matches(e.pattern, name) {
				t.Errorf("%q does not match %q", e.pattern, name)
			}
		}
		for _, name := range e.no {
			if matches(e.pattern, name) {
				t.Errorf("%q matches %q", e.pattern, name)
			}
		}
	}
}

func TestSpecificityIsTotalAndInThisOrder(t *testing.T) {
	t.Parallel()
	want := []Subject{
		{"team-a", "api"},   // a name and a name
		{"team-a", "web"},   // of the same kind: by text
		{"team-a", "api-*"}, // a name, and the pattern with more characters
		{"team-a", "a*p*"},
		{"team-a", "ap*"},
		{"team-a", "*"},
		{"team-*", "api"}, // the namespace counts first
		{"team-*", "api-*"},
		{"team-*", "*"},
		{"team*", "api"},
		{"*", "api"},
		{"*", "web"},
		{"*", "a*"},
		{"*", "w*"},
		{"*", "*"},
	}
	for range 100 {
		got := slices.Clone(want)
		rand.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		slices.SortFunc(got, Compare)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
}

// FuzzMatches compares matches with the regular expression of the same meaning, and holds the order of subjects to what a
// total order is.
func FuzzMatches(f *testing.F) {
	f.Add("team-*", "team-a")
	f.Add("a*b*c", "aabbcc")
	f.Add("*ab*ab*", "abxab")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 64 || len(name) > 64 {
			return
		}
		parts := strings.Split(pattern, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		re, err := regexp.Compile(`^(?s:` + strings.Join(parts, ".*") + `)$`)
		if err != nil {
			return // not UTF-8
		}
		if strings.ContainsRune(pattern+name, '\uFFFD') {
			return // the regular expression sees broken text as this
		}
		if got, want := matches(pattern, name), re.MatchString(name); got != want {
			t.Errorf("matches(%q, %q) = %v, want %v", pattern, name, got, want)
		}
		a, b := Subject{pattern, name}, Subject{name, pattern}
		if Compare(a, b) != -Compare(b, a) || (Compare(a, b) == 0) != (a == b) {
			t.Errorf("no order between %+v and %+v", a, b)
		}
	})
}
