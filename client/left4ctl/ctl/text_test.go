package ctl

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

func TestNearest(t *testing.T) {
	all := []string{"versus-1", "versus-2", "coop", "start", "status", "stop"}
	for said, want := range map[string]string{
		"vresus-1": "versus-1", "strat": "start", "cop": "coop", "stopp": "stop", "x": "", "": "", "realism": "", "versus-1": "versus-2",
	} {
		if got := nearest(said, all); got != want {
			t.Errorf("%q: %q, not %q", said, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"plain ü 漢", "\x1b[2J", "a\tb\nc\r", "\u202e\u2066", "\x9b1m\xff", "\u009b", "\u2028", "\U000e0001", "\ufffd", `a\b`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := clean(s)
		if !utf8.ValidString(c) {
			t.Fatalf("%q becomes %q, which is no UTF-8", s, c)
		}
		for _, r := range c {
			if !harmless(r) {
				t.Fatalf("%q becomes %q", s, c)
			}
		}
		if clean(c) != c {
			t.Errorf("%q becomes %q, and then %q", s, c, clean(c))
		}
		if strings.IndexFunc(s, func(r rune) bool { return !harmless(r) }) < 0 && utf8.ValidString(s) && c != s {
			t.Errorf("%q was harmless and becomes %q", s, c)
		}

		var b strings.Builder
		if err := printJSON(&b, map[string]string{"x": s}); err != nil {
			t.Fatal(err)
		}
		if got := strings.ReplaceAll(b.String(), "\n", ""); clean(got) != got {
			t.Errorf("JSON of %q is %q", s, got)
		}
		var back map[string]string
		if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back["x"] != strings.ToValidUTF8(s, "\ufffd") && utf8.ValidString(s) {
			t.Errorf("JSON of %q is %q, which is %q: %v", s, b.String(), back["x"], err)
		}
	})
}

func TestEveryVerbHasAllItsTexts(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range verbs() {
		if c.name == "" || c.group == "" || c.summary == "" || c.help == "" || c.run == nil {
			t.Errorf("%q lacks a text or its function", c.name)
		}
		if seen[c.name] {
			t.Errorf("%s is there twice", c.name)
		}
		seen[c.name] = true
		if (c.max != 0) != (c.args != "") {
			t.Errorf("%s takes %d arguments and calls them %q", c.name, c.max, c.args)
		}
		if !strings.HasSuffix(c.help, ".") && c.name != "initialize" || strings.HasSuffix(c.summary, ".") || strings.ToLower(c.summary[:1]) != c.summary[:1] {
			t.Errorf("%s: help is sentences, summary is not", c.name)
		}
		if strings.Contains(c.help, "\t") {
			t.Errorf("%s: help holds a tab", c.name)
		}
		for _, line := range strings.Split(c.help, "\n") {
			if len(line) > 100 {
				t.Errorf("%s: a line of help is longer than 100: %s", c.name, line)
			}
		}
		new(invocation).flagSet(&c).VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s: --%s lacks its help, or it is a sentence", c.name, f.Name)
			}
		})
	}
	for verb := range done {
		if !seen[verb] && !seen["overlay "+verb] && !seen["game "+verb] {
			t.Errorf("there is no verb %s", verb)
		}
	}
}

func TestSpansOfTime(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 61 * time.Second: "1min 1s", time.Hour: "1h 0min", 49*time.Hour + 59*time.Minute: "2d 1h",
	} {
		if got := elapsed(d); got != want {
			t.Errorf("%v: %s, not %s", d, got, want)
		}
	}
	v := invocation{now: func() time.Time { return time.Unix(100, 0) }}
	for at, want := range map[int64]string{0: "1min 40s ago", 40: "1min 0s ago", 100: "now", 200: "now"} {
		if got := v.ago(time.Unix(at, 0)); got != want {
			t.Errorf("%d: %s, not %s", at, got, want)
		}
	}
}

func TestWidths(t *testing.T) {
	for text, want := range map[string]int{"": 0, "abc": 3, "\u00e9": 1, "e\u0301": 1, "漢字": 4, "●×": 2, "🎮": 2} {
		if got := columns(text); got != want {
			t.Errorf("%q: %d, not %d", text, got, want)
		}
		for width := range 8 {
			short := cut(text, width)
			if n := columns(short); n > width || n < want && n == columns(text) {
				t.Errorf("%q in %d is %q", text, width, short)
			}
		}
	}
	if got := cut("versus-1", 5); got != "vers…" {
		t.Error(got)
	}
}

func TestColorsAreForTerminalsThatWantThem(t *testing.T) {
	for _, tt := range []struct {
		terminal      bool
		term, noColor string
		want          bool
	}{
		{true, "xterm", "", true}, {false, "xterm", "", false}, {true, "dumb", "", false}, {true, "xterm", "1", false}, {true, "", "", false},
	} {
		env := map[string]string{"TERM": tt.term, "NO_COLOR": tt.noColor}
		if got := wantsColors(tt.terminal, func(name string) string { return env[name] }); got != tt.want {
			t.Errorf("%+v", tt)
		}
	}
}

func TestListOnATerminalHasDotsAndColors(t *testing.T) {
	var out strings.Builder
	v := newInvocation(t.Context(), "", nil, &out, nil)
	v.tty, v.colors = true, true
	var list []hosted
	for _, i := range []client.Instance{
		{InstanceSummary: client.InstanceSummary{Name: "a", State: "running", Port: 1}},
		{InstanceSummary: client.InstanceSummary{Name: "bb", State: "failed", Port: 2}},
		{InstanceSummary: client.InstanceSummary{Name: "c", State: "stopped", Port: 3}},
		{InstanceSummary: client.InstanceSummary{Name: "d", State: "running", Port: 4}, PendingRestart: true},
	} {
		list = append(list, hosted{Instance: i, host: "web1"})
	}
	shown := []column{columnsOfList[0], columnsOfList[1], columnsOfList[3]}
	v.listInstances(list, shown)
	want := "  NAME  STATE    PORT\n" +
		"\x1b[0;1;32m● a\x1b[0m     \x1b[0;1;32mrunning\x1b[0m  1\n" +
		"\x1b[0;1;31m× bb\x1b[0m    \x1b[0;1;31mfailed\x1b[0m   2\n" +
		"○ c     stopped  3\n" +
		"\x1b[0;1;33m● d\x1b[0m     \x1b[0;1;33mrunning\x1b[0m  4\n" +
		"\n4 instances listed.\n"
	if out.String() != want {
		t.Errorf("got\n%q\nwant\n%q", out.String(), want)
	}

	out.Reset()
	v.hosts = []string{"web1", "web2"}
	v.listInstances(list[:1], shown)
	want = "HOST    NAME  STATE    PORT\n" +
		"web1  \x1b[0;1;32m● a\x1b[0m     \x1b[0;1;32mrunning\x1b[0m  1\n" +
		"\n1 instance listed.\n"
	if out.String() != want {
		t.Errorf("of several hosts: got\n%q\nwant\n%q", out.String(), want)
	}
}
