// Package journal is the log of left4d as the journal takes it: with fields that can be looked for, beside the text.
package journal

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	sd "github.com/coreos/go-systemd/v22/journal"
)

// Event is the key of the attribute that makes an entry one of those that programs may look for: its value is a name in
// the table that New is given. The text of such an entry says all that its fields say.
const Event = "event"

// Handler is a slog.Handler. The attribute instance becomes the field LEFT4_INSTANCE=, and so each other; those without
// a value are left out.
type Handler struct {
	events map[string]string
	attrs  []slog.Attr
	out    *writer
}

// New returns a Handler; events are the MESSAGE_ID= of each event. Its goroutine lives as long as the program.
func New(events map[string]string) *Handler { return newHandler(events, sd.Send) }

type sender = func(message string, p sd.Priority, fields map[string]string) error

func newHandler(events map[string]string, send sender) *Handler {
	w := &writer{send: send, queue: make(chan entry, maxWaiting)}
	go w.run()
	return &Handler{events: events, out: w}
}

// maxWaiting is how many entries wait for a journal that does not read; more are lost, and how many is told later.
const maxWaiting = 1024

// patience is how long an entry is waited for: in ordinary times it is written before the call that it tells of is
// answered. While the journal hangs nobody waits: a server must be stoppable without it.
const patience = time.Second

// writer hands entries to the journal one after the other.
type writer struct {
	send    sender
	queue   chan entry
	stalled atomic.Bool
	lost    atomic.Uint64
}

type entry struct {
	text    string
	p       sd.Priority
	fields  map[string]string
	written chan struct{}
}

func (w *writer) run() {
	for e := range w.queue {
		if w.send(e.text, e.p, e.fields) != nil {
			w.lost.Add(1)
		} else if n := w.lost.Swap(0); n > 0 {
			w.send(fmt.Sprintf("%d entries before this one are lost: the journal did not take them", n), sd.PriWarning, nil)
		}
		w.stalled.Store(false)
		close(e.written)
	}
}

func (w *writer) write(e entry) {
	select {
	case w.queue <- e:
	default:
		w.lost.Add(1)
		return
	}
	if w.stalled.Load() {
		return
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-e.written:
	case <-timer.C:
		w.stalled.Store(true)
	}
}

// Available tells whether standard error goes to the journal of this machine, so that entries may go there directly.
func Available() bool {
	stream, err := sd.StderrIsJournalStream()
	return err == nil && stream && sd.Enabled()
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = append(append([]slog.Attr{}, h.attrs...), attrs...)
	return &with
}

// WithGroup implements slog.Handler. The fields of the journal have no groups.
func (h *Handler) WithGroup(string) slog.Handler { return h }

// Handle implements slog.Handler.
func (h *Handler) Handle(_ context.Context, r slog.Record) error {
	fields := map[string]string{}
	attrs := append([]slog.Attr{}, h.attrs...)
	r.Attrs(func(a slog.Attr) bool { attrs = append(attrs, a); return true })
	var text strings.Builder
	text.WriteString(oneLine(r.Message))
	event := ""
	for _, a := range attrs {
		if a.Key == Event {
			event = a.Value.String()
			fields["MESSAGE_ID"] = h.events[event]
		}
	}
	for _, a := range attrs {
		value := bounded(a.Value.String())
		if a.Key == Event || value == "" {
			continue
		}
		fields["LEFT4_"+strings.ToUpper(a.Key)] = value
		if event == "" {
			text.WriteString(" " + a.Key + "=" + quoted(value))
		}
	}
	h.out.write(entry{bounded(text.String()), priority(r.Level), fields, make(chan struct{})})
	return nil
}

// maxValue is far below what a datagram to the journal may have.
const maxValue = 16 << 10

func bounded(s string) string {
	if len(s) > maxValue {
		return strings.ToValidUTF8(s[:maxValue], "") + "…"
	}
	return s
}

// oneLine keeps a name that holds a line break from making up a second entry for whoever reads the text alone.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

func quoted(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r == ' ' || r == '"' || r == '=' || !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func priority(l slog.Level) sd.Priority {
	switch {
	case l >= slog.LevelError:
		return sd.PriErr
	case l >= slog.LevelWarn:
		return sd.PriWarning
	}
	return sd.PriInfo
}
