package units

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestFileText(t *testing.T) {
	for name, text := range map[string]string{
		"":                            "",
		"left4dead2/cfg/server.cfg":   "left4dead2/cfg/server.cfg",
		"a b ü 日本 \"'$%\u202e\ufffd":  "a b ü 日本 \"'$%\u202e\ufffd",
		`a\x41\\b`:                    `a\\x41\\\\b`,
		"line\nend\t\x1b[31m\x7f":     `line\x0aend\x09\x1b[31m\x7f`,
		"\u0085\u009b":                `\xc2\x85\xc2\x9b`,
		"\u2028\u2029":                `\xe2\x80\xa8\xe2\x80\xa9`,
		"latin \xfc, cut \xe2\x80":    `latin \xfc, cut \xe2\x80`,
		"\xed\xa0\x80 \xc0\x80 \xff/": `\xed\xa0\x80 \xc0\x80 \xff/`,
	} {
		if got := FileText(name); got != text {
			t.Errorf("%q is %s, want %s", name, got, text)
		}
		if got, err := FileName(text); got != name || err != nil {
			t.Errorf("%s is %q, %v; want %q", text, got, err, name)
		}
	}
	for text, name := range map[string]string{
		`\x41\x7E\xfF`: "A~\xff",
		"raw\n\xff":    "raw\n\xff",
	} {
		if got, err := FileName(text); got != name || err != nil {
			t.Errorf("%s is %q, %v; want %q", text, got, err, name)
		}
	}
	for _, text := range []string{`\`, `a\`, `\n`, `\x`, `\x4`, `\x4g`, `\xg4`, `\X41`, `\\\`, `\101`, `\u0041`, `\x00`, "a\x00", "\x00\\\\", `a\`, `\x 4`, "\\x4\x20"} {
		if got, err := FileName(text); err == nil {
			t.Errorf("%q is %q", text, got)
		}
	}
}

func FuzzFileText(f *testing.F) {
	for _, seed := range []string{"a/b", `\`, `\x41`, "\xff\xfe", "\u2028", "\n", "é\xc3", "\ufffd"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text := FileText(s)
		if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }) {
			t.Fatalf("%q is %q", s, text)
		}
		name, err := FileName(text)
		if strings.Contains(s, "\x00") {
			if err == nil {
				t.Fatalf("%q holds a NUL and was taken", s)
			}
			return
		}
		if name != s || err != nil {
			t.Fatalf("%q is %q, and that is %q, %v", s, text, name, err)
		}
		// What a caller wrote means what it is told of then.
		if name, err := FileName(s); err == nil {
			if again, err := FileName(FileText(name)); again != name || err != nil {
				t.Fatalf("%q means %q, told of as %q, %v", s, name, again, err)
			}
		}
	})
}

func TestCleanPath(t *testing.T) {
	long := strings.Repeat("a/", 2047) + "a" // 4095 bytes
	for path, want := range map[string]string{
		"":                       "",
		".":                      "",
		"./":                     "",
		"a":                      "a",
		"a/b\n/\xff":             "a/b\n/\xff",
		"./a//b/./c/":            "a/b/c",
		"...":                    "...",
		"..a/b..":                "..a/b..",
		" / ":                    " / ",
		long:                     long,
		strings.Repeat("n", 255): strings.Repeat("n", 255),
	} {
		if got, err := CleanPath(path); got != want || err != nil {
			t.Errorf("%q is %q, %v; want %q", path, got, err, want)
		}
	}
	for path, reason := range map[string]string{
		"/":                             "must not begin with /",
		"/a":                            "must not begin with /",
		"//a":                           "must not begin with /",
		"..":                            `".." is not allowed`,
		"a/../b":                        `".." is not allowed`,
		"a/..":                          `".." is not allowed`,
		"../\n":                         `"../\x0a" is no path`,
		"a\x00b":                        "holds a NUL",
		long + "a":                      "4096 bytes is too long",
		"x/" + strings.Repeat("n", 256): "more than 255 bytes",
	} {
		if got, err := CleanPath(path); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q is %q, %v; want %s", path, got, err, reason)
		}
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, seed := range []string{"", "a/b", "../a", "./a//b/", "/", "a/./..", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		path, err := CleanPath(s)
		if err != nil {
			return
		}
		if again, err := CleanPath(path); again != path || err != nil {
			t.Fatalf("%q is %q, and that is %q, %v", s, path, again, err)
		}
		if path == "" {
			return
		}
		for part := range strings.SplitSeq(path, "/") {
			if err := oneName(part); err != nil {
				t.Fatalf("%q is %q: %v", s, path, err)
			}
		}
	})
}
