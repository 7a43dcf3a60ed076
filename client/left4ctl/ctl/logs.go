package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

// logFlags is what logs asks of the journal.
type logFlags struct {
	since, until string
	grep         string
	cursorFile   string
	afterCursor  string
	all          bool
	output       string
}

// logOutputs are the formats of journalctl that show what a terminal would obey as something else. cat, export and
// verbose are none of them, nor is anything with --all of journalctl.
var logOutputs = []string{"short", "short-full", "short-iso", "short-precise", "json"}

func logsFlags(v *invocation, fs *pflag.FlagSet) {
	f := &v.log
	fs.BoolVarP(&v.follow, "follow", "f", false, "go on showing new lines")
	fs.StringVarP(&v.lines, "lines", "n", "", "show the newest `N` lines, or all")
	sinceFlags(v, fs)
	fs.StringVar(&f.grep, "grep", "", "only lines that match the regular `EXPRESSION`")
	fs.StringVar(&f.cursorFile, "cursor-file", "", "go on where `FILE` says, and note there where it ended")
	fs.StringVar(&f.afterCursor, "after-cursor", "", "begin behind this `CURSOR`, which -o json tells")
	fs.BoolVar(&f.all, "all", false, "show also what left4d and systemd wrote about it")
	fs.StringVarP(&f.output, "output", "o", "short", "the `FORMAT`: "+strings.Join(logOutputs, ", "))
}

func sinceFlags(v *invocation, fs *pflag.FlagSet) {
	fs.StringVar(&v.log.since, "since", "", "only from that `TIME` on, as journalctl takes it: yesterday, -1h")
	fs.StringVar(&v.log.until, "until", "", "only until that `TIME`")
}

// validOutput complains of a format that would let a server steer the terminal, and of one that is none.
func (f *logFlags) validOutput() error {
	if slices.Contains(logOutputs, f.output) {
		return nil
	}
	return &usageError{
		text: fmt.Sprintf("--output: %q is not known here", f.output), hint: "the formats are " + strings.Join(logOutputs, ", "),
	}
}

// runLogs becomes journalctl: it follows, pages and filters by rights better than we could.
func runLogs(v *invocation) error {
	if err := firstOf(v.checkLines(), v.log.validOutput(), checkPatterns(v.args)); err != nil {
		return err
	}
	if v.host() != "" && v.log.cursorFile != "" {
		return usagef("--cursor-file would be a file on %s: use --after-cursor", v.host())
	}
	// journalctl takes patterns too, so only names reach it.
	for _, name := range v.args {
		if !isPattern(name) && !validName(name) {
			return fmt.Errorf("cannot show the log of %s: it is no name of an instance", name)
		}
	}
	names := v.args
	if slices.ContainsFunc(names, isPattern) {
		if _, err := v.connect(); err != nil {
			return err
		}
		var err error
		if names, err = v.selected(anInstance, v.args); err != nil || len(names) == 0 {
			return err
		}
		v.c.Close()
		v.c = nil
	}
	command, err := v.journalctl(append(v.logArguments(), logMatches(names, v.log.all)...)...)
	if err != nil {
		return fmt.Errorf("cannot show the log: %w", err)
	}
	err = syscall.Exec(command[0], command, os.Environ())
	return fmt.Errorf("cannot show the log: %s: %w", command[0], err)
}

// logArguments are what journalctl is told to do; each value is in one word with its option.
func (v *invocation) logArguments() []string {
	f := v.log
	args := []string{"--output=" + f.output}
	for _, o := range []struct{ name, value string }{
		{"lines", v.lines}, {"since", f.since}, {"until", f.until}, {"grep", f.grep},
		{"cursor-file", f.cursorFile}, {"after-cursor", f.afterCursor},
	} {
		if o.value != "" {
			args = append(args, "--"+o.name+"="+o.value)
		}
	}
	if v.follow {
		args = append(args, "--follow")
	}
	if v.quiet {
		args = append(args, "--quiet")
	}
	return args
}

// logMatches chooses the lines of instances, or of all that there ever were. Whatever may be written by anybody is
// matched only together with a field that the journal itself has set.
func logMatches(names []string, all bool) []string {
	var matches []string
	if !all || len(names) == 0 {
		units := []string{serverUnit("*")}
		if all {
			units = append(units, overlayUnit("*"), left4dUnit)
		}
		if len(names) > 0 {
			units = nil
		}
		for _, name := range names {
			units = append(units, serverUnit(name))
		}
		for _, u := range units {
			matches = append(matches, "--unit="+u) // as journalctl's own, with what systemd says of the unit
		}
		return matches
	}
	or := func(fields ...string) {
		if len(matches) > 0 {
			matches = append(matches, "+")
		}
		matches = append(matches, fields...)
	}
	for _, name := range names {
		or("_SYSTEMD_UNIT="+left4dUnit, "LEFT4_INSTANCE="+name)
		for _, u := range []string{serverUnit(name), overlayUnit(name)} {
			// What --unit= stands for; it cannot be joined with other matches.
			or("_SYSTEMD_UNIT=" + u)
			or("_PID=1", "UNIT="+u)
			or("_UID=0", "OBJECT_SYSTEMD_UNIT="+u)
			or("_UID=0", "COREDUMP_UNIT="+u)
		}
	}
	return matches
}

// checkLines reads --lines as journalctl does.
func (v *invocation) checkLines() error {
	if _, err := strconv.ParseUint(v.lines, 10, 31); err != nil && v.lines != "all" && v.lines != "" {
		return usagef("--lines: %q is no number", v.lines)
	}
	return nil
}

const left4dUnit = "left4d.service"

// serverUnit is the unit of an instance, whose name has been checked; overlayUnit is that of its mount.
func serverUnit(name string) string  { return "left4-server@" + name + ".service" }
func overlayUnit(name string) string { return "left4-overlay@" + name + ".service" }

// lastLinePatience is how long the last lines of a build are awaited when its job has ended.
const lastLinePatience = 2 * time.Second

// workerWord begins what left4-worker itself writes, which is always the last line of a build.
const workerWord = "left4-worker: "

// followBuild shows what a build prints, with before in front of each line, and returns what waits until all of it was shown.
func (v *invocation) followBuild(job *client.Job, before string) (end func()) {
	ctx, cancel := context.WithCancel(v.ctx)
	last, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		args := []string{"--follow", "--no-tail", "--output-fields=MESSAGE", "_SYSTEMD_UNIT=" + buildUnit(job.ID)}
		// A number may have been given out before, where a database was lost.
		if info, err := job.Info(ctx); err == nil && !info.Created.IsZero() {
			args = append(args, fmt.Sprintf("--since=@%d", info.Created.Unix()))
		}
		seen := false
		err := v.readJournal(ctx, args, func(e entry) error {
			text := e["MESSAGE"]
			if strings.HasPrefix(text, workerWord) {
				if !seen {
					close(last)
				}
				seen = true
				return nil
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			v.board.line(v.stdout, before+cleanLine(text))
			return nil
		})
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errJournalRights):
			v.complain("what it prints cannot be shown: " + err.Error())
			v.hint(v.journalHint())
		case err != nil:
			v.complain("what it prints cannot be shown: " + err.Error())
		}
	}()
	return func() {
		patience := time.NewTimer(lastLinePatience)
		defer patience.Stop()
		select {
		case <-last:
		case <-over:
		case <-patience.C:
		}
		cancel()
		<-over
	}
}

// buildUnit is the unit of a job that builds.
func buildUnit(job uint32) string { return "left4-build-" + jobNumber(job) + ".service" }
