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

	"left4.me/left4/client"
)

const importHint = "left4ctl game import DIR installs the game from a directory, a .tar, .tar.gz, .tar.zst or .zip"

func (v *invocation) jobOptions() client.JobOptions {
	return client.JobOptions{Timeout: time.Duration(v.timeout)}
}

// jobs asks for one job for each name, then waits for all of them at once. One that cannot be had, or fails, does not
// hold up the others.
func (v *invocation) jobs(verb string, names []string, call func(name string) (*client.Job, error)) error {
	answers := ask(v, names, call)
	result := refusals(v, verb, answers)
	if v.noWait {
		for _, a := range answers {
			if a.err == nil {
				fmt.Fprintln(v.stdout, a.value.Object)
			}
		}
		return result
	}
	ends := make(chan error, len(answers))
	for _, a := range answers {
		if a.err != nil {
			ends <- nil
			continue
		}
		go func() { ends <- v.wait(verb, a.name, a.value, false) }()
	}
	for range answers {
		if err := <-ends; err != nil {
			result = err
		}
	}
	return result
}

// wait follows a job to its end and tells its steps and how it ended; live is a job that cannot go on without us.
func (v *invocation) wait(verb, name string, job *client.Job, live bool) error {
	steps := steps{v: v, name: name}
	info, err := job.Wait(v.ctx, steps.show)
	steps.finish()
	switch {
	case err != nil:
		return v.unfinished(verb, name, job, live, err)
	case info.State == client.JobSkipped:
		v.say("%s: nothing to do", name)
	default:
		v.say("%s: %s", name, done[verb])
	}
	return nil
}

// unfinished tells why a job did not end well, or why nobody waits for its end any more.
func (v *invocation) unfinished(verb, name string, job *client.Job, live bool, err error) error {
	var failed *client.JobError
	switch {
	case errors.As(err, &failed):
		v.complain(cannot(verb, name, err))
		v.failureHint(verb, name)
	case v.ctx.Err() != nil && live:
		v.complain(fmt.Sprintf("interrupted: job %d (%s %s) gets no more data, and fails", job.ID, verb, name))
	case v.ctx.Err() != nil:
		v.complain(fmt.Sprintf("stopped waiting: job %d (%s %s) goes on", job.ID, verb, name))
		v.hint(fmt.Sprintf("left4ctl job cancel %d ends it", job.ID))
	default:
		v.complain(fmt.Sprintf("cannot follow job %d (%s %s): %v", job.ID, verb, name, err))
		if errors.Is(err, client.ErrNoSuchJob) {
			v.hint("left4d was restarted and does not know the job any more: " + v.look(name))
		} else {
			v.hints(err, "")
		}
	}
	return exitCode(exitFailure)
}

// look is the command that shows what a verb is about.
func (v *invocation) look(name string) string {
	switch group, _, _ := strings.Cut(v.command.name, " "); group {
	case "overlay":
		return "left4ctl overlay show " + name
	case "game":
		return "left4ctl game revisions"
	case "apply":
		return "the same command goes on with what is left"
	}
	return "left4ctl status " + name
}

// done is what has happened when a job of a verb has ended well.
var done = map[string]string{
	"initialize": "initialized", "start": "started", "stop": "stopped", "restart": "restarted", "kill": "killed",
	"reset": "reset", "delete": "deleted", "import": "imported", "build": "built",
}

// failureHint tells what to do about a job that failed.
func (v *invocation) failureHint(verb, name string) {
	switch verb {
	case "start", "restart", "initialize":
		// left4d names the cause for people; whether the game is there at all can be asked.
		if service, err := v.c.Service(v.ctx); err == nil && service.GameRevision == 0 {
			v.hint(importHint)
		} else if verb != "initialize" {
			v.hint("left4ctl logs " + name + " shows what the server wrote")
		}
	}
}

// steps tells what a job is at: a line for each new step or, for an import on a terminal, one line that is
// overwritten.
type steps struct {
	v     *invocation
	name  string
	last  string // key of what was told last
	drawn bool
}

func (s *steps) show(i client.JobInfo) {
	if s.v.quiet || i.Status == "" || i.Ended() {
		return
	}
	if s.v.terminal && long(i.Kind) {
		s.draw(i)
		return
	}
	// An import counts files twice a second: a new line is worth a tenth of the way, or another kind of step.
	key := i.Status
	if long(i.Kind) {
		key = fmt.Sprint(int(i.Progress*10), strings.Map(dropDigits, i.Status))
	}
	if key == s.last {
		return
	}
	s.last = key
	s.v.say("%s: %s", s.name, withPercent(i))
}

// long tells the jobs that count what they have done.
func long(kind string) bool {
	return strings.HasPrefix(kind, "import-") || strings.HasPrefix(kind, "build-") || kind == "initialize" // it may copy
}

func dropDigits(r rune) rune {
	if r >= '0' && r <= '9' || r == '.' {
		return -1
	}
	return r
}

func withPercent(i client.JobInfo) string {
	if !long(i.Kind) || i.Progress < 0 {
		return i.Status
	}
	return fmt.Sprintf("%3.0f%% %s", i.Progress*100, i.Status)
}

// barWidth is how many characters stand for the whole way.
const barWidth = 30

func (s *steps) draw(i client.JobInfo) {
	bar := ""
	if i.Progress >= 0 {
		full := int(min(i.Progress, 1) * barWidth)
		bar = fmt.Sprintf("[%s%s] ", strings.Repeat("#", full), strings.Repeat(".", barWidth-full))
	}
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	s.drawn = true
	// The line is erased behind the text (ECMA-48, EL).
	fmt.Fprintf(s.v.stderr, "\r%s: %s%s\x1b[K", clean(s.name), bar, clean(withPercent(i)))
}

// finish ends the line that is overwritten.
func (s *steps) finish() {
	if !s.drawn {
		return
	}
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	fmt.Fprintln(s.v.stderr)
}

func runImport(v *invocation) error {
	path := v.args[0]
	return v.importFrom(path, path, func(c *client.Client, s *client.Source) (*client.Job, error) {
		return c.ImportGame(v.ctx, s.File, s.Size, v.jobOptions())
	})
}

// importFrom imports what is under a path; name is what it is told about, the path or what it is imported into.
func (v *invocation) importFrom(name, path string, ask func(*client.Client, *client.Source) (*client.Job, error)) error {
	source, err := client.OpenSource(path)
	if err != nil {
		return fmt.Errorf("cannot import %s: %w", path, err)
	}
	defer source.File.Close()
	c, err := v.connect()
	if err != nil {
		return err
	}
	job, err := ask(c, source)
	// Only when nobody else holds the reading end does the packing notice that the other side has gone.
	source.File.Close()
	if err != nil {
		return v.failed("import", name, err)
	}
	if v.noWait {
		fmt.Fprintln(v.stdout, job.Object)
		if err := v.feed(source); err != nil {
			return fmt.Errorf("cannot import %s: %w", path, err)
		}
		return nil
	}
	err = v.wait("import", name, job, source.Live())
	if err == nil || v.ctx.Err() != nil {
		return err
	}
	if packing := v.feed(source); packing != nil {
		v.complain(fmt.Sprintf("%s: %v", path, packing))
	}
	return err
}

// feed stays until a directory is packed: the stream ends with this process.
func (v *invocation) feed(source *client.Source) error {
	packed := make(chan error, 1)
	go func() { packed <- source.Wait() }()
	select {
	case err := <-packed:
		return err
	case <-v.ctx.Done():
		return errors.New("interrupted")
	}
}

// jobJSON is a job in job list --json and, with the second half, in job show --json.
type jobJSON struct {
	ID     uint32 `json:"id"`
	Kind   string `json:"kind"`
	Target string `json:"target"`
	State  string `json:"state"`
	Cause  string `json:"cause"`
	Object string `json:"object"`
}

type jobShowJSON struct {
	jobJSON
	Progress   *float64 `json:"progress"`
	Status     string   `json:"status"`
	Requester  uint32   `json:"requester"`
	Created    *string  `json:"created"`
	Started    *string  `json:"started"`
	Finished   *string  `json:"finished"`
	Cancelable bool     `json:"cancelable"`
}

func jobAsJSON(j client.JobSummary) jobJSON {
	return jobJSON{j.ID, j.Kind, j.Target, j.State, j.Cause, string(j.Object)}
}

func runJobList(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	list, err := c.ListJobs(v.ctx, client.JobFilter{})
	if err != nil {
		return v.failed("list the jobs", "", err)
	}
	slices.Reverse(list) // the newest is read first at the bottom of a terminal
	if v.json {
		all := make([]jobJSON, 0, len(list))
		for _, j := range list {
			all = append(all, jobAsJSON(j))
		}
		return printJSON(v.stdout, all)
	}
	var rows [][]string
	for _, j := range list {
		rows = append(rows, []string{strconv.FormatUint(uint64(j.ID), 10), j.Kind, j.Target, j.State, j.Cause})
	}
	v.table([]string{"ID", "KIND", "TARGET", "STATE", "CAUSE"}, rows, "job")
	return nil
}

// jobID reads the number of a job, or its path as --no-wait prints it.
func (v *invocation) jobID() (uint32, error) {
	text := v.args[0][strings.LastIndexByte(v.args[0], '/')+1:]
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, usagef("%q is no number of a job", v.args[0])
	}
	return uint32(id), nil
}

func runJobShow(v *invocation) error {
	id, err := v.jobID()
	if err != nil {
		return err
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	info, err := jobInfo(v.ctx, c, id)
	if err != nil {
		return v.failed("show", fmt.Sprintf("job %d", id), err)
	}
	if v.json {
		j := jobShowJSON{
			jobJSON: jobAsJSON(info.JobSummary), Status: info.Status, Requester: info.Requester,
			Created: stamp(info.Created), Started: stamp(info.Started), Finished: stamp(info.Finished), Cancelable: info.Cancelable,
		}
		if info.Progress >= 0 {
			j.Progress = &info.Progress
		}
		return printJSON(v.stdout, j)
	}
	progress := ""
	if info.Progress >= 0 {
		progress = fmt.Sprintf("%.0f%%", info.Progress*100)
	}
	v.sheet([][2]string{
		{"Job", fmt.Sprintf("%d (%s %s)", info.ID, info.Kind, info.Target)},
		{"State", info.State},
		{"Cause", info.Cause},
		{"Step", info.Status},
		{"Progress", progress},
		{"Requester", userName(info.RequesterName, info.Requester)},
		{"Created", when(info.Created)},
		{"Started", when(info.Started)},
		{"Finished", when(info.Finished)},
	})
	return nil
}

func jobInfo(ctx context.Context, c *client.Client, id uint32) (client.JobInfo, error) {
	job, err := c.GetJob(ctx, id)
	if err != nil {
		return client.JobInfo{}, err
	}
	return job.Info(ctx)
}

func runJobCancel(v *invocation) error {
	id, err := v.jobID()
	if err != nil {
		return err
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	if err := c.CancelJob(v.ctx, id); err != nil {
		return v.failed("cancel", fmt.Sprintf("job %d", id), err)
	}
	v.say("job %d: asked to end", id)
	return nil
}

func jobFlags(v *invocation, fs *pflag.FlagSet) {
	noWaitFlag(v, fs)
	fs.Var(&v.timeout, "timeout", "give the job up after that time: 90s, 5m, 1h")
}

func noWaitFlag(v *invocation, fs *pflag.FlagSet) {
	fs.BoolVar(&v.noWait, "no-wait", false, "print the job's path and do not wait for its end")
}
