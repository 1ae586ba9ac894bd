package eks

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
	want := []subject{
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
		slices.SortFunc(got, moreSpecific)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(subject{})); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestNamesAndPatterns(t *testing.T) {
	t.Parallel()
	label, subdomain := strings.Repeat("a", 63), strings.Repeat("a", 253)
	for _, e := range []struct {
		subject subject
		ok      bool
	}{
		{subject{"default", "app"}, true},
		{subject{"0", "a.b-c.d"}, true},
		{subject{"*", "*"}, true},
		{subject{"team-*", "*-reader"}, true},
		{subject{"a*b*c", "app.*"}, true},
		{subject{label, subdomain}, true},
		{subject{label + "a", "app"}, false},
		{subject{"default", subdomain + "a"}, false},
		{subject{"", "app"}, false},
		{subject{"default", ""}, false},
		{subject{"Default", "app"}, false},
		{subject{"default", "app_1"}, false},
		{subject{"a.b", "app"}, false}, // a namespace has no dots
		{subject{"default", "a..b"}, false},
		{subject{"default", ".a"}, false},
		{subject{"-default", "app"}, false},
		{subject{"default-", "app"}, false},
		{subject{"default", "a.-b"}, false},
		{subject{"team-**", "app"}, false}, // the same as team-*
		{subject{"team-?", "app"}, false},
		{subject{"team-[ab]", "app"}, false},
		{subject{"-*", "app"}, false}, // no name begins so
		{subject{"a/b", "app"}, false},
		{subject{"default", "a/b"}, false},
		{subject{"ns\n", "app"}, false},
		{subject{"ñ", "app"}, false},
	} {
		if err := checkSubject(e.subject); (err == nil) != e.ok {
			t.Errorf("%+v: %v, want ok = %v", e.subject, err, e.ok)
		}
	}
}

func TestAssociationKeysGoThereAndBack(t *testing.T) {
	t.Parallel()
	who := subject{"team-*", "a.b"}
	cluster, got := splitAssociationKey(associationKey("111122223333/us-east-1/demo", who))
	if cluster != "111122223333/us-east-1/demo" || got != who {
		t.Errorf("split = %q, %+v", cluster, got)
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
		a, b := subject{pattern, name}, subject{name, pattern}
		if moreSpecific(a, b) != -moreSpecific(b, a) || (moreSpecific(a, b) == 0) != (a == b) {
			t.Errorf("no order between %+v and %+v", a, b)
		}
		if checkSubject(subject{name, "app"}) == nil && !isPattern(name) && !matches("*", name) {
			t.Errorf("* does not match %q", name)
		}
	})
}
