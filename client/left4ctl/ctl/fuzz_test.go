package ctl

import (
	"encoding/json"
	"path"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// What is printed as JSON is JSON, is safe on a terminal, and is what it was.
func FuzzJSON(f *testing.F) {
	f.Add("plain", "\x1b[2J\u009b\u202e\U000e0041\u2028")
	f.Add("\xff\xfe", "<&>\"\\")
	f.Fuzz(func(t *testing.T, key, text string) {
		var b strings.Builder
		if err := printJSON(&b, map[string]string{key: text}); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(b.String(), func(r rune) bool { return r != '\n' && unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) }) {
			t.Fatalf("%q", b.String())
		}
		var back map[string]string
		if err := json.Unmarshal([]byte(b.String()), &back); err != nil {
			t.Fatalf("%v: %q", err, b.String())
		}
		valid := func(s string) string { return string([]rune(s)) }
		if got := back[valid(key)]; got != valid(text) {
			t.Fatalf("%q comes back as %q", text, got)
		}
	})
}

// A cell takes as many columns as it is given, and is what was there.
func FuzzCut(f *testing.F) {
	f.Add("plain", 3)
	f.Add("日本語e\u0301", 4)
	f.Add("", 0)
	f.Fuzz(func(t *testing.T, text string, width int) {
		if width < 0 || width > 1000 {
			return
		}
		text = clean(text)
		got := cut(text, width)
		if columns(got) > width || !utf8.ValidString(got) || !strings.HasPrefix(text, strings.TrimSuffix(got, "…")) {
			t.Fatalf("%q cut to %d is %q", text, width, got)
		}
		if columns(text) <= width && got != text {
			t.Fatalf("%q was cut to %q", text, got)
		}
	})
}

// A pattern chooses among the names that there are, or is refused.
func FuzzPattern(f *testing.F) {
	f.Add("versus-*", "versus-1")
	f.Add("[!a]?", "b1")
	f.Add("[", "a")
	f.Add("[!", "a")
	f.Add("\\", "a")
	f.Fuzz(func(t *testing.T, given, name string) {
		if checkPatterns([]string{given}) != nil {
			return
		}
		names, unmatched := expand([]string{given}, []string{name, "other"})
		for _, n := range names {
			if n != name && n != "other" && (n != given || isPattern(given)) {
				t.Fatalf("%q chooses %q", given, n)
			}
		}
		if isPattern(given) && (len(names) == 0) != (len(unmatched) == 1) {
			t.Fatalf("%q chooses %q and leaves %q", given, names, unmatched)
		}
		if want, err := path.Match(given, name); err == nil && want && !strings.Contains(given, "[!") && isPattern(given) && !matchAny([]string{given}, name) {
			t.Fatalf("%q does not match %q", given, name)
		}
	})
}
