package client_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"left4.me/left4/client"
	"left4.me/left4/units"
)

func TestFileNamesHaveATextForm(t *testing.T) {
	for name, text := range map[string]string{
		"cfg/server.cfg":  "cfg/server.cfg",
		"ü 漢":             "ü 漢",
		`back\slash`:      `back\\slash`,
		"a\nb\x1b\x7f":    `a\x0ab\x1b\x7f`,
		"\u0085\u2028":    `\xc2\x85\xe2\x80\xa8`,
		"latin \xfc\xe4":  `latin \xfc\xe4`,
		"cut \xe6\xbc":    `cut \xe6\xbc`,
		"\ufffd \u202e":   "\ufffd \u202e",
		`\x41`:            `\\x41`,
		"":                "",
		"name-\xff\\\x01": `name-\xff\\\x01`,
	} {
		expect(t, client.FileText(name), text)
		back, err := client.FileName(text)
		if back != name || err != nil {
			t.Errorf("%s is read as %q: %v", text, back, err)
		}
	}
	for _, text := range []string{`\`, `a\b`, `\x`, `\x1`, `\xzz`, `\x+1`, `\x00`, "a\x00", `\\\`} {
		if name, err := client.FileName(text); err == nil {
			t.Errorf("%s is read as %q", text, name)
		}
	}
	if name, err := client.FileName(`\x41`); name != "A" || err != nil {
		t.Errorf(`\x41 is read as %q: %v`, name, err)
	}
}

func FuzzFileText(f *testing.F) {
	f.Add("a\\\x00\n\xff\u2028ü")
	f.Add(`\x4g\\x\00`)
	f.Fuzz(func(t *testing.T, name string) {
		text := client.FileText(name)
		if theirs := units.FileText(name); theirs != text {
			t.Errorf("%q becomes %q here and %q in left4d", name, text, theirs)
		}
		if !utf8.ValidString(text) || strings.IndexFunc(text, unicode.IsControl) >= 0 {
			t.Errorf("%q becomes %q", name, text)
		}
		back, err := client.FileName(text)
		if strings.Contains(name, "\x00") != (err != nil) || err == nil && back != name {
			t.Errorf("%q becomes %q, and back %q: %v", name, text, back, err)
		}
		ours, err1 := client.FileName(name)
		theirs, err2 := units.FileName(name)
		if ours != theirs || (err1 == nil) != (err2 == nil) {
			t.Errorf("%q is read as %q (%v) here and as %q (%v) in left4d", name, ours, err1, theirs, err2)
		}
	})
}
