package ctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"left4.me/left4/dbus/names"
)

// call is a call that would have changed something, as left4d wrote it into the journal.
type call struct {
	time      time.Time
	cursor    string
	method    string
	action    string
	result    string // allowed, refused, failed
	err       string
	uid       *uint32
	user      string
	sender    string
	instance  string
	overlay   string
	blueprint string
	job       uint32 // 0 for none
	untold    uint64 // refusals of this user before it that left4d did not write down
	message   string
}

// callFields are what is asked of journalctl; the cursor and the time come with each entry.
var callFields = strings.Join([]string{
	"MESSAGE", "MESSAGE_ID", "_SYSTEMD_UNIT", "LEFT4_METHOD", "LEFT4_ACTION", "LEFT4_RESULT", "LEFT4_ERROR", "LEFT4_CALLER_UID",
	"LEFT4_CALLER", "LEFT4_SENDER", "LEFT4_INSTANCE", "LEFT4_OVERLAY", "LEFT4_BLUEPRINT", "LEFT4_JOB", "LEFT4_UNTOLD",
}, ",")

// parseCall reads an entry of the audit trail; ok is false for any other, however it got here.
func parseCall(e entry) (c call, ok bool) {
	if e["MESSAGE_ID"] != names.MessageCall || e["_SYSTEMD_UNIT"] != left4dUnit {
		return call{}, false
	}
	c = call{
		time: e.time(), cursor: e["__CURSOR"], method: e["LEFT4_METHOD"], action: e["LEFT4_ACTION"], result: e["LEFT4_RESULT"],
		err: e["LEFT4_ERROR"], user: e["LEFT4_CALLER"], sender: e["LEFT4_SENDER"], instance: e["LEFT4_INSTANCE"],
		overlay: e["LEFT4_OVERLAY"], blueprint: e["LEFT4_BLUEPRINT"], message: e["MESSAGE"],
	}
	if uid, err := strconv.ParseUint(e["LEFT4_CALLER_UID"], 10, 32); err == nil {
		n := uint32(uid)
		c.uid = &n
	}
	if job, err := strconv.ParseUint(e["LEFT4_JOB"], 10, 32); err == nil {
		c.job = uint32(job)
	}
	c.untold, _ = strconv.ParseUint(e["LEFT4_UNTOLD"], 10, 64)
	return c, true
}

// callJSON is a line of audit --json.
type callJSON struct {
	Time      *string `json:"time"`
	UID       *uint32 `json:"uid"`
	User      string  `json:"user"`
	Method    string  `json:"method"`
	Action    string  `json:"action"`
	Result    string  `json:"result"`
	Error     string  `json:"error"`
	Instance  string  `json:"instance"`
	Overlay   string  `json:"overlay"`
	Blueprint string  `json:"blueprint"`
	Job       *uint32 `json:"job"`
	Untold    uint64  `json:"untold"`
	Sender    string  `json:"sender"`
	Message   string  `json:"message"`
	Cursor    string  `json:"cursor"`
}

func (c call) asJSON() callJSON {
	j := callJSON{
		Time: stamp(c.time), UID: c.uid, User: c.user, Method: c.method, Action: c.action, Result: c.result, Error: c.err,
		Instance: c.instance, Overlay: c.overlay, Blueprint: c.blueprint, Untold: c.untold, Sender: c.sender, Message: c.message, Cursor: c.cursor,
	}
	if c.job != 0 {
		j.Job = &c.job
	}
	return j
}

var callHeadings = []string{"TIME", "WHO", "CALL", "TARGET", "RESULT", "JOB", "ERROR"}

func (c call) row() []string {
	who := c.user
	switch {
	case c.uid != nil && who == "":
		who = strconv.FormatUint(uint64(*c.uid), 10)
	case c.uid != nil:
		who += fmt.Sprintf(" (%d)", *c.uid)
	}
	target := c.instance
	switch {
	case c.overlay != "":
		target = "overlay " + c.overlay
	case c.blueprint != "":
		target = "blueprint " + c.blueprint
	case target == "" && strings.HasPrefix(c.action, "me.left4.game."):
		target = "game"
	}
	err := strings.TrimPrefix(strings.TrimPrefix(c.err, names.Error), "org.freedesktop.DBus.Error.")
	if c.untold > 0 {
		err = strings.TrimSpace(err + fmt.Sprintf(" (%d more before it)", c.untold))
	}
	return []string{when(c.time), who, c.method, target, c.result, dashed(uint64(c.job)), err}
}

func (c call) color() string {
	switch c.result {
	case "refused":
		return red
	case "failed":
		return yellow
	}
	return ""
}

// auditFlags is what audit shows.
type auditFlags struct {
	user    string
	refused bool
}

func auditFlagSet(v *invocation, fs *pflag.FlagSet) {
	fs.StringVar(&v.audit.user, "user", "", "only what `USER`, a name or uid, has called")
	fs.BoolVar(&v.audit.refused, "refused", false, "only what was not allowed")
	sinceFlags(v, fs)
	fs.StringVarP(&v.lines, "lines", "n", "", "only the newest `N`, or all (100 if it is not given, with -f 10)")
	fs.BoolVarP(&v.follow, "follow", "f", false, "go on showing what comes")
	jsonFlag(v, fs)
	fs.BoolVar(&v.noLegend, "no-legend", false, "print neither headings nor a count")
}

// matches choose the entries. Everybody may write to the journal, left4d alone as its unit.
func (f *auditFlags) matches(given []string) []string {
	every := []string{"MESSAGE_ID=" + names.MessageCall, "_SYSTEMD_UNIT=" + left4dUnit}
	if f.refused {
		every = append(every, "LEFT4_RESULT=refused")
	}
	if _, err := strconv.ParseUint(f.user, 10, 32); err == nil {
		every = append(every, "LEFT4_CALLER_UID="+f.user)
	} else if f.user != "" {
		every = append(every, "LEFT4_CALLER="+f.user)
	}
	if len(given) == 0 || slices.ContainsFunc(given, isPattern) {
		return every
	}
	var matches []string
	for _, field := range []string{"LEFT4_INSTANCE", "LEFT4_OVERLAY", "LEFT4_BLUEPRINT"} {
		if matches != nil {
			matches = append(matches, "+")
		}
		matches = append(matches, every...)
		for _, name := range given {
			matches = append(matches, field+"="+name)
		}
	}
	return matches
}

// about tells that a call was about one of those names or patterns.
func (c call) about(given []string) bool {
	if len(given) == 0 {
		return true
	}
	return slices.ContainsFunc([]string{c.instance, c.overlay, c.blueprint}, func(name string) bool {
		return name != "" && matchAny(given, name)
	})
}

func runAudit(v *invocation) error {
	if err := firstOf(v.checkLines(), checkPatterns(v.args)); err != nil {
		return err
	}
	for _, name := range v.args {
		if !isPattern(name) && !validName(name) {
			return fmt.Errorf("cannot show the audit trail of %s: it is no name", name)
		}
	}
	a := &auditing{v: v, begun: v.now(), limit: 100}
	switch n, err := strconv.Atoi(v.lines); {
	case err == nil:
		a.limit = n
	case v.lines == "all":
		a.limit = -1
	case v.follow:
		a.limit = 10
	}
	err := a.history()
	if err == nil && v.follow {
		err = a.follow()
	}
	switch {
	case v.stdout.err != nil, v.ctx.Err() != nil && v.follow:
		return nil // the former is told elsewhere
	case v.ctx.Err() != nil:
		return errors.New("cannot read the audit trail: interrupted")
	case errors.Is(err, errJournalRights):
		v.complain("cannot read the audit trail: " + err.Error())
		v.hint(v.journalHint())
		return exitCode(exitFailure)
	case err != nil:
		return fmt.Errorf("cannot read the audit trail: %w", err)
	}
	return nil
}

// auditing is one run of audit.
type auditing struct {
	v      *invocation
	begun  time.Time
	limit  int    // how many of those that there are already, -1 for all
	cursor string // of the last entry that was read
	widths []int
}

// history shows what there is. What journalctl cannot do, choose by a pattern or take the newest of a span of time, is
// done here.
func (a *auditing) history() error {
	v := a.v
	args := []string{"--output-fields=" + callFields}
	if v.log.since == "" && v.log.until == "" && !slices.ContainsFunc(v.args, isPattern) && a.limit >= 0 {
		args = append(args, fmt.Sprintf("--lines=%d", a.limit))
	}
	var calls []call
	err := a.read(v.ctx, args, func(c call) error {
		calls = append(calls, c)
		if a.limit >= 0 && len(calls) > a.limit {
			calls = calls[1:]
		}
		return nil
	})
	if err != nil && !errors.Is(err, errJournalRights) {
		return err
	}
	if v.json {
		for _, c := range calls {
			if err := printJSONLine(v.stdout, c.asJSON()); err != nil {
				return err
			}
		}
		return err
	}
	var rows [][]string
	for _, c := range calls {
		rows = append(rows, c.row())
	}
	paint := func(row, column int) string {
		if column != 4 {
			return ""
		}
		return calls[row].color()
	}
	switch {
	case v.follow:
		a.widths = v.grid(callHeadings, rows, paint)
	case len(rows) > 0 || err == nil:
		v.paintedTable(callHeadings, rows, "call", paint)
	}
	return err
}

// follow shows what comes from where history ended.
func (a *auditing) follow() error {
	args := []string{"--output-fields=" + callFields, "--follow", "--no-tail"}
	if a.cursor != "" {
		args = append(args, "--after-cursor="+a.cursor)
	} else {
		args = append(args, fmt.Sprintf("--since=@%d.%06d", a.begun.Unix(), a.begun.Nanosecond()/1000))
	}
	v := a.v
	return a.read(v.ctx, args, func(c call) error {
		if v.json {
			return printJSONLine(v.stdout, c.asJSON())
		}
		v.gridRow(a.widths, c.row(), func(column int) string {
			if column != 4 {
				return ""
			}
			return c.color()
		})
		return v.stdout.err
	})
}

func (a *auditing) read(ctx context.Context, args []string, f func(call) error) error {
	v := a.v
	if v.log.since != "" && a.cursor == "" {
		args = append(args, "--since="+v.log.since)
	}
	if v.log.until != "" {
		args = append(args, "--until="+v.log.until)
	}
	return v.readJournal(ctx, append(args, v.audit.matches(v.args)...), func(e entry) error {
		a.cursor = e["__CURSOR"]
		if c, ok := parseCall(e); ok && c.about(v.args) {
			return f(c)
		}
		return nil
	})
}
