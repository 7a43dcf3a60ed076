package journal

import (
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

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
			sent := 0
			h := newHandler(map[string]string{"job": "0123"}, func(text string, p sd.Priority, fields map[string]string) error {
				sent++
				if text != c.text || p != c.p || !maps.Equal(fields, c.fields) {
					t.Errorf("%v %q %q", p, text, fields)
				}
				return nil
			})
			c.log(slog.New(h)) // returns when it is written
			if sent != 1 {
				t.Errorf("%d entries", sent)
			}
		})
	}
}

// A journal that hangs, as on a dying disk, must not hold up whoever has something to tell.
func TestAJournalThatHangsIsNotWaitedFor(t *testing.T) {
	release := make(chan struct{})
	texts := make(chan string, 3*maxWaiting)
	log := slog.New(newHandler(nil, func(text string, _ sd.Priority, _ map[string]string) error {
		<-release
		texts <- text
		return nil
	}))
	for range 2 * maxWaiting { // one is in the hands of the writer
		log.Info("told")
	}
	close(release)
	log.Info("told again") // when there is room for it, and if not it is counted
	lost := ""
	for lost == "" {
		select {
		case text := <-texts:
			if strings.HasPrefix(text, "told") {
				continue
			}
			lost = text
		case <-time.After(time.Minute):
			t.Fatal("nobody tells what is lost")
		}
	}
	if !strings.HasSuffix(lost, " entries before this one are lost: the journal did not take them") || strings.HasPrefix(lost, "0 ") {
		t.Errorf("told %q", lost)
	}
}
