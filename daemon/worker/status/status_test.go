package status

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestRoundTrip(t *testing.T) {
	for _, c := range []struct {
		text string
		want Report
	}{
		{Progress(0.5, 12, 345), Report{Progress: 0.5, Detail: "12 files, 345 bytes"}},
		{Progress(-1, 0, 0), Report{Progress: -1, Detail: "0 files, 0 bytes"}},
		{Progress(1.5, 1, 2), Report{Progress: -1, Detail: "1 files, 2 bytes"}},
		{Progress(0, 1, 2), Report{Progress: 0, Detail: "1 files, 2 bytes"}},
		{Done(12, 345, ""), Report{Progress: 1, Done: true, Files: 12, Bytes: 345, Detail: "12 files, 345 bytes"}},
		{Done(1, 2, `build "7" 100%`), Report{Progress: 1, Done: true, Files: 1, Bytes: 2, Detail: "1 files, 2 bytes", Note: `build "7" 100%`}},
		{Step(0.25, "trying again: \\ 50%\n"), Report{Progress: 0.25, Detail: `trying again: \ 50%`}},
		{Error("disk full"), Report{Progress: -1, Failed: "disk full"}},
		{Error("two\nlines\x1b[31m"), Report{Progress: -1, Failed: "two lines [31m"}},
		{Error(`"a\nb\\": 100%5c %`), Report{Progress: -1, Failed: `"a\nb\\": 100%5c %`}},
		{Error(""), Report{Progress: -1, Failed: "no reason given"}},
	} {
		if got := ParseStatus(c.text); got != c.want {
			t.Errorf("%q: got %+v, want %+v", c.text, got, c.want)
		}
	}
}

// What is on its way must not have what systemd changes.
func TestWhatSystemdWouldChange(t *testing.T) {
	if text := Error(`a\b`); strings.Contains(text, `\`) {
		t.Error(text)
	}
}

func TestNotUnderstood(t *testing.T) {
	for _, text := range []string{
		"", "x", "progress", "progress x 1 files", "done", "done 1", "done 1 2x", "done -1 2", "done 1 2\nerror x", "Done 1 2", "error",
		"progress NaN 1 files, 2 bytes", "progress +Inf x", "progress -7 x",
	} {
		got := ParseStatus(text)
		if got.Done || got.Progress != -1 {
			t.Errorf("%q: got %+v", text, got)
		}
	}
	if got := ParseStatus(Error(strings.Repeat("ü", 5000))); len(got.Failed) > 1100 {
		t.Errorf("%d bytes of a reason", len(got.Failed))
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add(Progress(0.25, 3, 4))
	f.Add(Done(3, 4, ""))
	f.Add(Error("\"a\\n\": no"))
	f.Fuzz(func(t *testing.T, text string) {
		r := ParseStatus(text)
		if r.Progress != -1 && !(0 <= r.Progress && r.Progress <= 1) || r.Done && r.Failed != "" {
			t.Fatalf("%+v", r)
		}
		for _, s := range []string{r.Failed, r.Detail} {
			if strings.ContainsFunc(s, unicode.IsControl) || !utf8.ValidString(s) {
				t.Fatalf("%q came out", s)
			}
		}
		if r.Failed != "" && ParseStatus(Error(r.Failed)) != r {
			t.Fatalf("%+v is not stable: %+v", r, ParseStatus(Error(r.Failed)))
		}
	})
}
