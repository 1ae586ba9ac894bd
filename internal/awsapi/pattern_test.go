package awsapi

import (
	"strings"
	"testing"
)

func TestPattern(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		expr    string
		row     bool // a row of classes
		matches []string
		others  []string
	}{
		{`[\w+=,.@-]*`, true, []string{"", "a", "a+=,.@-_9"}, []string{"a/b", "é", "a\n", " "}},
		{`[\w]+`, true, []string{"a"}, []string{"", "a-"}},
		{`[\u0009\u000A\u000D\u0020-\u00FF]+`, true, []string{"\t\n\r ÿ"}, []string{"", "\x01", "Ā", "\xff\xfe€"}},
		{`[\u0009\u000A\u000D\u0020-\u007E\u0085\u00A0-\uD7FF\uE000-\uFFFD\u10000-\u10FFFF]+`, true, []string{"arn:é😀"}, []string{"\x7f", "\uFFFF"}},
		{`[A-Za-z0-9-_=]+\.[A-Za-z0-9-_=]+\.[A-Za-z0-9-_=]+`, true, []string{"a.b.c", "a-_=.b.c"}, []string{"a.b", "a..c", "a.b.c.d", "a.b.c\n", ".a.b"}},
		{`^[0-9A-Za-z][A-Za-z0-9\-_]*`, true, []string{"a", "9-_"}, []string{"", "-a", "a b"}},
		{`^o-[a-z0-9]{2,4}$`, true, []string{"o-ab", "o-abcd"}, []string{"o-a", "o-abcde", "x-ab", "o-ab\n"}},
		{`\d{12}`, true, []string{"111122223333"}, []string{"11112222333", "1111222233334", "١١١١٢٢٢٢٣٣٣٣"}},
		{`[\p{L}\p{Z}\p{N}_.:/=+\-@]*`, true, []string{"", "é ü_x٣"}, []string{"<", "\t"}},
		{`https?://[\u0021-\u007E]+`, true, []string{"http://a", "https://a"}, []string{"https://", "httpss://a"}},
		{`(\u002F)|(\u002F[\u0021-\u007E]+\u002F)`, false, []string{"/", "/a/", "/a//b/"}, []string{"", "/a", "a/"}},
		{`((/[A-Za-z0-9\.,\+@=_-]+)*)/`, false, []string{"/", "/a/", "/a/b/"}, []string{"", "//", "/a"}},
		{`v[1-9][0-9]*(\.[A-Za-z0-9-]*)?`, false, []string{"v1", "v10.x"}, []string{"v0", "v1x"}},
		{`[a-z]*a`, false, []string{"a", "ba", "aa"}, []string{"", "ab"}},
		{`[a-z]?[0-9]*a`, false, []string{"a", "aa", "a1a", "1a"}, []string{"", "11"}},
		{`a$b`, false, nil, []string{"ab", "a"}},
		{`(?i)ab`, false, []string{"AB"}, []string{"a"}},
		{`a|b`, true, []string{"a", "b"}, []string{"ab", ""}},
	} {
		p, err := compilePattern(tt.expr)
		if err != nil {
			t.Errorf("%s: %v", tt.expr, err)
			continue
		}
		if (p.runs != nil) != tt.row {
			t.Errorf("%s: a row of classes is %t, want %t", tt.expr, p.runs != nil, tt.row)
		}
		for _, s := range tt.matches {
			if !p.match(s) {
				t.Errorf("%s does not match %q", tt.expr, s)
			}
		}
		for _, s := range tt.others {
			if p.match(s) {
				t.Errorf("%s matches %q", tt.expr, s)
			}
		}
	}
	if _, err := compilePattern(`-(?!-)`); err == nil {
		t.Error("a lookahead compiles: Go has none")
	}
}

// FuzzPattern compares the walk with package regexp, over all patterns of the models.
func FuzzPattern(f *testing.F) {
	patterns := map[string]*pattern{}
	for name := range models {
		for _, s := range ModelNamed(name).shapes {
			if s.pattern != nil {
				patterns[s.pattern.text] = s.pattern
			}
		}
	}
	for _, seed := range []string{"", "arn:aws:iam::111122223333:role/r", "a.b.c", "o-abcdefghij", "/a/", "\xff", "é€😀\uFFFD", "v1.a", "a--b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for text, p := range patterns {
			if got, want := p.match(s), p.regexp.MatchString(s); got != want {
				t.Errorf("%s: match(%q) is %t, package regexp says %t", text, s, got, want)
			}
		}
	})
}

func BenchmarkPattern(b *testing.B) {
	p, err := compilePattern(`[A-Za-z0-9-_=]+\.[A-Za-z0-9-_=]+\.[A-Za-z0-9-_=]+`)
	if err != nil {
		b.Fatal(err)
	}
	token := strings.Repeat("a", 300) + "." + strings.Repeat("b", 900) + "." + strings.Repeat("c", 340)
	for b.Loop() {
		if !p.match(token) {
			b.Fatal("no match")
		}
	}
}
