// Package ctl is left4ctl, the command line of left4.
//
// Its rules:
//
//   - Standard output carries what was asked for and nothing else: tables, status, JSON, a job's path, help. Steps,
//     counts of nothing, errors and hints go to standard error. "Nothing found" is no error.
//   - An error is one line "left4ctl: cannot …", then "left4ctl: hint: …" lines wherever there is a next step.
//   - Exit status: 0 done, 1 failed (which: nothing there), 2 not understood; status NAME also 3 (stopped or failed) and 4
//     (no such instance).
//   - Whatever was written by others (names, labels, causes, steps) passes clean before it is printed: a server's name
//     must not be able to steer a terminal. JSON is printed in the same spirit.
//   - The fields of --json are a promise: they keep name, type and meaning, and new ones may come.
//   - Nothing asks back, so that scripts and people get the same. Only polkit may ask, through its own agent.
//   - With --host everything is asked of that machine, and nothing of this one: not who a uid is, not its polkit.
//   - Every verb stands in one table, verbs, of which help is made.
//   - Only main ends the process; only logs replaces it.
package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"left4.me/left4/client"
)

const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitStopped = 3 // as systemctl status
	exitUnknown = 4
)

// command is one verb.
type command struct {
	name    string // one or two words
	args    string // what follows it, for the synopsis
	group   string
	summary string // one line, below its name in the list of verbs
	help    string // whole sentences
	min     int    // how many arguments it needs
	max     int    // and takes, -1 is any number
	asks    bool   // polkit may have to ask somebody
	files   bool   // it hands files over, which ssh does not
	hosts   bool   // it takes several hosts
	flags   func(*invocation, *pflag.FlagSet)
	run     func(*invocation) error
}

// invocation is one run of left4ctl.
type invocation struct {
	ctx      context.Context
	version  string
	command  *command
	args     []string
	flags    *pflag.FlagSet
	stdin    io.Reader
	stdout   *output
	stderr   *output
	terminal bool // standard error is one
	live     bool // and can show a board
	root     bool // we are, whom polkit is never asked about
	tty      bool // standard output is a terminal
	colors   bool // and may be coloured
	now      func() time.Time
	dial     func(context.Context) (*client.Client, error)
	dialHost func(context.Context, client.Remote) (*client.Client, error)
	hostTime time.Duration

	hosts         []string
	quiet         bool
	noAskPassword bool
	noLegend      bool
	json          bool
	noWait        bool
	follow        bool
	lines         string
	file          string
	timeout       timeout
	settings      settings
	newPassword   bool
	dryRun        bool
	prune         bool
	files         bool
	repair        bool
	layer         layerSettings
	merge         bool
	onTop         bool
	into          string
	recursive     bool
	revision      uint32
	instance      string
	overlaysOnly  bool
	filters       filters
	jobFilters    jobFilters
	log           logFlags
	audit         auditFlags

	elsewhere bool     // what is completed is about another machine
	typed     []string // the words behind the verb, before the one that is completed

	c         *client.Client
	agent     *agent
	all       known
	board     *board
	mu        sync.Mutex      // one line at a time
	hinted    map[string]bool // what has been hinted at
	abandoned []string        // numbers of jobs that nobody waits for any more
}

// exitCode is an end that has been told already.
type exitCode int

func (exitCode) Error() string { return "told already" }

// usageError is a command line that cannot be understood.
type usageError struct {
	text string
	hint string
}

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{text: fmt.Sprintf(format, args...)} }

// output remembers the first error of a stream, so that what did not arrive is not taken for done.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(b)
	o.err = err
	return n, err
}

// Run is left4ctl with its arguments, without the program's name. It returns the exit status.
func Run(ctx context.Context, version string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return newInvocation(ctx, version, stdin, stdout, stderr).run(args)
}

func newInvocation(ctx context.Context, version string, stdin io.Reader, stdout, stderr io.Writer) *invocation {
	v := &invocation{
		ctx: ctx, version: version,
		stdin: stdin, stdout: &output{w: stdout}, stderr: &output{w: stderr},
		terminal: isTerminal(stderr),
		live:     wantsBoard(isTerminal(stderr), os.Getenv),
		root:     os.Geteuid() == 0,
		tty:      isTerminal(stdout),
		colors:   wantsColors(isTerminal(stdout), os.Getenv),
		now:      time.Now,
		dial:     client.Dial,
		dialHost: func(ctx context.Context, r client.Remote) (*client.Client, error) { return r.Dial(ctx) },
		hostTime: hostTime,
	}
	v.board = &board{v: v, size: func() (width, height int) { return terminalSize(stderr) }}
	return v
}

func (v *invocation) run(args []string) int {
	if len(args) > 0 && args[0] == "__complete" {
		return v.runComplete(args[1:])
	}
	err := v.parse(args)
	switch {
	case err != nil:
	case v.command.files && v.host() != "":
		err = v.filesDoNotPass()
	default:
		err = v.command.run(v)
	}
	v.hintCancel()
	if v.agent != nil {
		v.agent.stop()
	}
	if v.c != nil {
		v.c.Close()
	}
	if v.stdout.err != nil {
		err = fmt.Errorf("cannot write the output: %w", plain(v.stdout.err))
	}
	var code exitCode
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		v.complain(usage.text)
		if usage.hint == "" && v.command != nil {
			usage.hint = "left4ctl help " + v.command.name
		}
		v.hint(usage.hint)
		return exitUsage
	}
	v.complain(err.Error())
	return exitFailure
}

// parse finds the verb, which may stand before, between or behind flags, and reads the rest as it asks for.
func (v *invocation) parse(args []string) error {
	words, rest := findVerb(args)
	fs := v.flagSet(&command{})
	if len(words) == 0 {
		v.command = nil
		if err := v.readFlags(fs, rest); err != nil {
			return err
		}
		if help, _ := fs.GetBool("help"); help {
			v.command = find("help")
			return nil
		}
		if version, _ := fs.GetBool("version"); version {
			v.command = find("version")
			return nil
		}
		return &usageError{text: "needs a verb", hint: "left4ctl help"}
	}
	v.command = find(strings.Join(words, " "))
	if v.command == nil {
		return unknownVerb(words)
	}
	fs = v.flagSet(v.command)
	if err := v.readFlags(fs, rest); err != nil {
		return err
	}
	v.args, v.flags = fs.Args(), fs
	if help, _ := fs.GetBool("help"); help {
		v.args, v.command = strings.Fields(v.command.name), find("help")
		return nil
	}
	if version, _ := fs.GetBool("version"); version {
		v.args, v.command = nil, find("version")
		return nil
	}
	switch n := len(v.args); {
	case n < v.command.min:
		return usagef("%s needs %s", v.command.name, v.command.args)
	case v.command.max >= 0 && n > v.command.max:
		return usagef("%s does not take %q", v.command.name, v.args[v.command.max])
	}
	return v.checkHosts()
}

// findVerb takes the words of the verb out of the arguments: the first that are no flags. A flag in front of them that
// takes a value has to take it with "=", because what -f means depends on the verb; only -H means the same everywhere.
func findVerb(args []string) (words, rest []string) {
	want, value := 1, false
	for i, a := range args {
		if value {
			rest, value = append(rest, a), false
			continue
		}
		if len(words) == want || a == "--" {
			return words, append(rest, args[i:]...)
		}
		if len(a) > 1 && a[0] == '-' {
			rest, value = append(rest, a), takesHost.MatchString(a)
			continue
		}
		words = append(words, a)
		if len(words) == 1 && slices.ContainsFunc(verbs(), func(c command) bool { return strings.HasPrefix(c.name, a+" ") }) {
			want = 2
		}
	}
	return words, rest
}

// takesHost knows --host and -H, also behind other letters, where the host is the next word.
var takesHost = regexp.MustCompile(`^(--host|-[a-z]*H)$`)

// flagSet has the flags of all verbs and those of this one.
func (v *invocation) flagSet(c *command) *pflag.FlagSet {
	fs := pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	fs.SortFlags = false
	if c.flags != nil {
		c.flags(v, fs)
	}
	hostFlag(v, fs)
	fs.BoolVarP(&v.quiet, "quiet", "q", false, "print neither steps nor headings")
	if c.asks || c.name == "" {
		fs.BoolVar(&v.noAskPassword, "no-ask-password", false, "do not let polkit ask for a password")
	}
	fs.BoolP("help", "h", false, "print this help")
	fs.Bool("version", false, "print the version")
	return fs
}

const repeatable = "repeatable"

// readFlags reads the flags, each once if it is not made to be repeated: the second would silently win.
func (v *invocation) readFlags(fs *pflag.FlagSet, args []string) error {
	seen := map[string]bool{}
	fs.Usage = func() {}
	fs.SetOutput(io.Discard)
	err := fs.ParseAll(args, func(f *pflag.Flag, value string) error {
		if seen[f.Name] && f.Annotations[repeatable] == nil {
			return usagef("--%s is given twice", f.Name)
		}
		seen[f.Name] = true
		if err := fs.Set(f.Name, value); err != nil {
			var invalid *pflag.InvalidValueError
			if errors.As(err, &invalid) {
				return usagef("--%s: %v", f.Name, invalid.Unwrap())
			}
			return usagef("%v", err)
		}
		return nil
	})
	var usage *usageError
	if err != nil && !errors.As(err, &usage) {
		return usagef("%v", err)
	}
	return err
}

// connect dials left4d, once. It sees to it that polkit has somebody to ask.
func (v *invocation) connect() (*client.Client, error) {
	if v.c != nil {
		return v.c, nil
	}
	v.bringAgent()
	c, err := v.reach()
	if err != nil {
		v.complain(err.Error())
		v.hints(err, "")
		return nil, exitCode(exitFailure)
	}
	c.NoInteraction = v.noAskPassword
	v.c = c
	return c, nil
}

// say tells a step, or what was done.
func (v *invocation) say(format string, args ...any) {
	if v.quiet {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.board.line(v.stderr, clean(fmt.Sprintf(format, args...)))
}

func (v *invocation) complain(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.board.line(v.stderr, "left4ctl: "+clean(text))
}

func (v *invocation) hint(text string) { v.hintOn(v.host(), text) }

// hintOn is hint about another host.
func (v *invocation) hintOn(host, text string) {
	if text == "" {
		return
	}
	text = onHost(host, text)
	v.mu.Lock()
	defer v.mu.Unlock()
	// What helps several names that failed for one reason is said once.
	if v.hinted[text] {
		return
	}
	if v.hinted == nil {
		v.hinted = map[string]bool{}
	}
	v.hinted[text] = true
	v.board.line(v.stderr, "left4ctl: hint: "+clean(text))
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func find(name string) *command {
	for _, c := range verbs() {
		if c.name == name {
			return &c
		}
	}
	return nil
}

func unknownVerb(words []string) error {
	said := strings.Join(words, " ")
	var all []string
	var below []string
	for _, c := range verbs() {
		all = append(all, c.name)
		if strings.HasPrefix(c.name, words[0]+" ") {
			below = append(below, c.name)
		}
	}
	e := &usageError{text: fmt.Sprintf("unknown verb %q", said), hint: "left4ctl help"}
	switch near := nearest(said, all); {
	case len(words) == 1 && len(below) > 0:
		e.text = said + " needs a verb"
		e.hint = "there is left4ctl " + strings.Join(below, ", left4ctl ")
	case near != "":
		e.hint = "did you mean left4ctl " + near + "?"
	case len(below) > 0:
		e.hint = "there is left4ctl " + strings.Join(below, ", left4ctl ")
	}
	return e
}
