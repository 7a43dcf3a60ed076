package keyvalues

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"
)

// text writes nodes on one line: what can be told from each other looks different.
func text(n *Node) string {
	var all []string
	for _, c := range n.Children {
		if c.Block {
			all = append(all, fmt.Sprintf("%q{%s}", c.Key, text(c)))
		} else {
			all = append(all, fmt.Sprintf("%q=%q", c.Key, c.Value))
		}
	}
	return strings.Join(all, " ")
}

func utf16Text(s string, big bool) string {
	var b strings.Builder
	for _, u := range append([]uint16{0xfeff}, utf16.Encode([]rune(s))...) {
		if big {
			b.Write([]byte{byte(u >> 8), byte(u)})
		} else {
			b.Write([]byte{byte(u), byte(u >> 8)})
		}
	}
	return b.String()
}

func TestParse(t *testing.T) {
	for what, c := range map[string]struct {
		text    string
		escapes bool
		want    string
		err     string
	}{
		"nothing":             {"", false, "", ""},
		"a mission":           {"\"mission\"\r\n{\r\n\t\"Name\"\t\"x\"\r\n\t\"modes\" { \"coop\" { \"1\" { \"Map\" \"c1m1_hotel\" } } }\r\n}\r\n", false, `"mission"{"Name"="x" "modes"{"coop"{"1"{"Map"="c1m1_hotel"}}}}`, ""},
		"no quotes":           {"mission{name x modes{}}", false, `"mission"{"name"="x" "modes"{}}`, ""},
		"no blanks":           {`"a""b""c"{"d""e"}`, false, `"a"="b" "c"{"d"="e"}`, ""},
		"a word at a quote":   {`a"b"`, false, `"a"="b"`, ""},
		"comments":            {"// first\na b // behind\n//\nc//d e\nurl http://x/y // z", false, `"a"="b" "c//d"="e" "url"="http://x/y"`, ""},
		"a comment in quotes": {`a "b // c"`, false, `"a"="b // c"`, ""},
		"twice":               {`a 1 a 2 A { }`, false, `"a"="1" "a"="2" "A"{}`, ""},
		"lines in a value":    {"a \"1\n2\"", false, `"a"="1\n2"`, ""},
		"empty texts":         {`"" "" b ""`, false, `""="" "b"=""`, ""},
		"backslashes":         {`a "c:\new\" b "d"`, false, `"a"="c:\\new\\" "b"="d"`, ""},
		"escapes":             {`a "c:\\new\\" b "say \"x\"\n\q\ü"`, true, `"a"="c:\\new\\" "b"="say \"x\"\nqü"`, ""},
		"UTF-8 with a mark":   {"\ufeffa ü", false, `"a"="ü"`, ""},
		"UTF-16":              {utf16Text("a \"ü😀\"", false), false, `"a"="ü😀"`, ""},
		"UTF-16, big":         {utf16Text("a { b c }", true), false, `"a"{"b"="c"}`, ""},
		"half a character":    {"\xff\xfea\x00 \x00b", false, "", `line 1: "a" has no value`},
		"other bytes":         {"a caf\xe9", false, `"a"="caf�"`, ""},
		"NUL":                 {"a b\x00c d", false, `"a"="b"`, ""},
		"conditions":          {"a 1 [$X360]\nb 2 [!$X360]\nc 3 [$WIN32]\nd 4 [$WIN32||$X360]\ne 5 [ !$WIN32 && $LINUX ]\nf 6 [$odd]", false, `"b"="2" "c"="3" "d"="4"`, ""},
		"condition of blocks": {"a [$X360] { b c } d [$LINUX] { e f }", false, `"d"{"e"="f"}`, ""},
		"condition of none":   {"[$X360] a b { [$X360] }", false, `"a"="b"`, `line 1: a block has no key`},
		"no condition":        {"a [1\nb c", false, `"a"="[1" "b"="c"`, ""},
		"inclusion":           {`#include "/etc/passwd"`, false, `"#include"="/etc/passwd"`, ""},

		"no end":            {"a 1\nb {\nc 2", false, `"a"="1" "b"{"c"="2"}`, `line 3: "b" does not end`},
		"no beginning":      {"a 1 } b 2", false, `"a"="1"`, "line 1: a block ends that did not begin"},
		"no value":          {"a { b }", false, `"a"{}`, `line 1: "b" has no value`},
		"no value at end":   {"a", false, "", `line 1: "a" has no value`},
		"no key":            {"a { { } }", false, `"a"{}`, "line 1: a block has no key"},
		"no closing quote":  {`a 1 b "2`, false, `"a"="1"`, "line 1: a quote does not end"},
		"escape at the end": {`a "2\`, true, "", "line 1: a quote does not end"},
	} {
		t.Run(what, func(t *testing.T) {
			got, err := Parse([]byte(c.text), c.escapes)
			if text(got) != c.want || err == nil && c.err != "" || err != nil && err.Error() != c.err {
				t.Errorf("got  %s, %v\nwant %s, %s", text(got), err, c.want, c.err)
			}
		})
	}
}

func TestHostileTextsAreBounded(t *testing.T) {
	for want, text := range map[string]string{
		"line 1: blocks lie in more than 64 others": strings.Repeat("a{", MaxText/2),
		"line 1: there are more than 200000 keys":   strings.Repeat("a b ", 200_001),
		"it has more than 4194304 bytes":            strings.Repeat(" ", MaxText+1),
		"line 1: a quote does not end":              `a "` + strings.Repeat(`\\`, MaxText/2-2),
	} {
		if _, err := Parse([]byte(text), true); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestFindTakesTheFirstAndNoCase(t *testing.T) {
	n, err := Parse([]byte(`Mission { modes x Modes { coop { } } name one NAME two }`), false)
	if err != nil {
		t.Fatal(err)
	}
	if got := n.Text("mission", "Name"); got != "one" {
		t.Errorf("name is %q", got)
	}
	if n.Find("mission", "modes", "coop") != nil || n.Text("no", "where") != "" || n.Find() != n {
		t.Error("found what is not there")
	}
	var none *Node
	if none.Find("x") != nil {
		t.Error("found in nothing")
	}
}

// A tool prints more than the keys that it was asked for.
func TestFirst(t *testing.T) {
	for text, want := range map[string]string{
		"\"222860\"\n{\n\t\"depots\" { \"1\" \"2\" }\n}\nUnloading Steam API...OK { \"": `"222860"{"depots"{"1"="2"}}`,
		"a b c {":      `"a"="b"`,
		"a b [$LINUX]": `"a"="b"`,
		"a b \"c":      `"a"="b"`,
	} {
		n, err := First([]byte(text), true)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := textOf(n); got != want {
			t.Errorf("%q: got %s", text, got)
		}
	}
	for _, text := range []string{"", "// a b", "a", "a { b c", "a b [$X360]", "}"} {
		if n, err := First([]byte(text), true); err == nil {
			t.Errorf("%q: got %s", text, textOf(n))
		}
	}
}

func textOf(n *Node) string { return text(&Node{Children: []*Node{n}}) }

func FuzzParse(f *testing.F) {
	f.Add([]byte(`"mission" { "Name" "L4D2C1" modes { coop { 1 { Map c1m1_hotel } } } } // x`), false)
	f.Add([]byte(`"a" "\"b\\" [!$X360] c [$WIN32] { d e }`), true)
	f.Add([]byte(utf16Text("a { b c }", false)), false)
	f.Fuzz(func(t *testing.T, in []byte, escapes bool) {
		n, err := Parse(in, escapes)
		if s := text(n); !utf8.ValidString(s) {
			t.Fatalf("got %q", s)
		}
		first, firstErr := First(in, escapes)
		if err == nil && firstErr == nil && len(n.Children) > 0 && textOf(first) != textOf(n.Children[0]) {
			t.Fatalf("the first is %s of %s", textOf(first), text(n))
		}
	})
}
