package journal

import (
	"log/slog"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	sd "github.com/coreos/go-systemd/v22/journal"
)

// Whatever an entry tells of, it is one line of a bounded length, and its fields are those that were given.
func FuzzEntry(f *testing.F) {
	f.Add("start a: done", "a", "no such file", true)
	f.Add("bad\nname", "x\nMESSAGE_ID=forged", "\x1b[2J\u009b", false)
	f.Add("\xff\xfe", strings.Repeat("ü", 20000), "a=\"b\"", false)
	var text string
	var fields map[string]string
	log := slog.New(newHandler(map[string]string{"job": "0123"}, func(said string, _ sd.Priority, with map[string]string) error {
		text, fields = said, with
		return nil
	}))
	f.Fuzz(func(t *testing.T, message, name, cause string, event bool) {
		attrs := []any{"instance", name, "cause", cause}
		if event {
			attrs = append(attrs, Event, "job")
		}
		log.Info(message, attrs...)
		if strings.ContainsFunc(text, unicode.IsControl) || len(text) > maxValue+len("…") {
			t.Fatalf("the text is %.300q", text)
		}
		want := map[string]string{"LEFT4_INSTANCE": name, "LEFT4_CAUSE": cause}
		for key, value := range fields {
			given, ours := want[key]
			switch {
			case key == "MESSAGE_ID" && event && value == "0123":
			case !ours || len(value) > maxValue+len("…"):
				t.Fatalf("a field is %s=%.300q", key, value)
			case len(given) <= maxValue && value != given, len(given) > maxValue && utf8.ValidString(given) && !strings.HasPrefix(given, strings.TrimSuffix(value, "…")):
				t.Fatalf("%s is %.300q, was %.300q", key, value, given)
			}
		}
	})
}
