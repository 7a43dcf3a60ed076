package journal

import (
	"log/slog"
	"maps"
	"strings"
	"testing"

	sd "github.com/coreos/go-systemd/v22/journal"
)

func TestEntries(t *testing.T) {
	for name, c := range map[string]struct {
		log    func(*slog.Logger)
		text   string
		p      sd.Priority
		fields map[string]string
	}{
		"an event says it all in its text": {
			func(l *slog.Logger) { l.Info("start a: done", Event, "job", "job", 12, "instance", "a", "overlay", "") },
			"start a: done", sd.PriInfo, map[string]string{"MESSAGE_ID": "0123", "LEFT4_JOB": "12", "LEFT4_INSTANCE": "a"},
		},
		"what is no event has its attributes in the text too": {
			func(l *slog.Logger) { l.Warn("cannot look", "instance", "a", "error", "no such file") },
			`cannot look instance=a error="no such file"`, sd.PriWarning, map[string]string{"LEFT4_INSTANCE": "a", "LEFT4_ERROR": "no such file"},
		},
		"a line break is none in the text": {
			func(l *slog.Logger) { l.Error("bad\nname", "target", "x\ny") },
			`bad name target="x\ny"`, sd.PriErr, map[string]string{"LEFT4_TARGET": "x\ny"},
		},
		"a value is bounded": {
			func(l *slog.Logger) {
				l.With("uid", 5).Info("long", Event, "job", "cause", strings.Repeat("x", 20<<10))
			},
			"long", sd.PriInfo, map[string]string{"MESSAGE_ID": "0123", "LEFT4_UID": "5", "LEFT4_CAUSE": strings.Repeat("x", 16<<10) + "…"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := New(map[string]string{"job": "0123"})
			sent := 0
			h.send = func(text string, p sd.Priority, fields map[string]string) error {
				sent++
				if text != c.text || p != c.p || !maps.Equal(fields, c.fields) {
					t.Errorf("%v %q %q", p, text, fields)
				}
				return nil
			}
			c.log(slog.New(h))
			if sent != 1 {
				t.Errorf("%d entries", sent)
			}
		})
	}
}
