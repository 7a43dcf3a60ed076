package ctl

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

const (
	importHint  = "left4ctl game install has Steam install the game, left4ctl game import DIR takes it from a directory or an archive"
	installHint = "install the package steamcmd, unpack Valve's archive of it in /opt/steamcmd, or tell where it is in /etc/left4/left4d.conf"
)

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
	return firstOf(v.waitAll(verb, answers), result)
}

// waitAll waits for all jobs at once.
func (v *invocation) waitAll(verb string, answers []answer[*client.Job]) error {
	ends := make(chan error, len(answers))
	for _, a := range answers {
		if a.err != nil {
			ends <- nil
			continue
		}
		name := a.name
		if verb == "" {
			name = ""
		}
		steps := v.steps(name)
		go func() { ends <- steps.wait(verb, name, a.value, false) }()
	}
	var result error
	for range answers {
		result = firstOf(<-ends, result)
	}
	return result
}

// wait follows a job to its end and tells its steps and how it ended; live is a job that cannot go on without us. Where
// somebody else asked for it, and verb and name are "", the job itself tells them.
func (v *invocation) wait(verb, name string, job *client.Job, live bool) error {
	return v.steps(name).wait(verb, name, job, live)
}

func (s *steps) wait(verb, name string, job *client.Job, live bool) error {
	v := s.v
	info, err := job.Wait(v.ctx, func(i client.JobInfo) {
		if verb == "" {
			verb, _, _ = strings.Cut(i.Kind, "-")
			name, s.name = i.Target, i.Target
		}
		s.show(i)
	})
	s.finish()
	switch {
	case err != nil:
		return v.unfinished(verb, name, job, live, err)
	case v.live && tells(info.Kind):
		v.say("%s: %s", name, info.Status) // its line has gone
	case info.State == client.JobSkipped:
		v.say("%s: nothing to do", name)
	default:
		v.say("%s: %s", name, orElse(done[verb], verb+" is done"))
	}
	return nil
}

// unfinished tells why a job did not end well, or why nobody waits for its end any more.
func (v *invocation) unfinished(verb, name string, job *client.Job, live bool, err error) error {
	what := fmt.Sprintf("job %d", job.ID)
	if verb != "" {
		what += fmt.Sprintf(" (%s %s)", verb, name)
	}
	var failed *client.JobError
	switch {
	case errors.As(err, &failed):
		v.complain(cannot(verb, name, err))
		if failed.Info.State != client.JobCanceled {
			v.failureHint(verb, name)
		}
	case v.ctx.Err() != nil && live:
		v.complain("interrupted: " + what + " gets no more data, and fails")
	case v.ctx.Err() != nil:
		v.complain("stopped waiting: " + what + " goes on")
		v.mu.Lock()
		v.abandoned = append(v.abandoned, jobNumber(job.ID))
		v.mu.Unlock()
	default:
		v.complain(fmt.Sprintf("cannot follow %s: %v", what, err))
		if errors.Is(err, client.ErrNoSuchJob) {
			v.hint("left4d was restarted and does not know the job any more: " + v.look(name))
		} else {
			v.hints(err, "")
		}
	}
	return exitCode(exitFailure)
}

// hintCancel tells what can be done about jobs that nobody waits for any more.
func (v *invocation) hintCancel() {
	if len(v.abandoned) == 0 {
		return
	}
	them := "it"
	if len(v.abandoned) > 1 {
		them = "them"
	}
	v.hint("left4ctl job cancel " + strings.Join(v.abandoned, " ") + " ends " + them)
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
	case "job":
		return "left4ctl status"
	}
	return "left4ctl status " + name
}

// done is what has happened when a job of a verb has ended well.
var done = map[string]string{
	"initialize": "initialized", "start": "started", "stop": "stopped", "restart": "restarted", "kill": "killed",
	"reset": "reset", "delete": "deleted", "import": "imported", "build": "built",
	"install": "installed", "update": "updated", "validate": "validated", "check": "checked",
}

// tells says of which jobs the last step is what has come of them.
func tells(kind string) bool { return kind == "install-game" || kind == "build-overlay" }

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

// runGame is game install, update and validate.
func runGame(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	_, mode, _ := strings.Cut(v.command.name, " ")
	return v.jobs(mode, []string{"game"}, func(string) (*client.Job, error) {
		return c.InstallGame(v.ctx, mode, v.jobOptions())
	})
}

// gameJSON is the game in game check --json.
type gameJSON struct {
	Revision  uint32 `json:"revision"`
	Installed string `json:"installed"`
	Available string `json:"available"`
	Update    bool   `json:"update"`
}

func runGameCheck(v *invocation) error {
	quiet := v.quiet
	v.quiet = v.quiet || v.json
	err := runGame(v)
	v.quiet = quiet
	if err != nil || !v.json || v.noWait {
		return err
	}
	game, err := v.c.Service(v.ctx)
	if err != nil {
		return v.failed("check", "game", err)
	}
	return printJSON(v.stdout, gameJSON{game.GameRevision, game.GameBuild, game.AvailableGameBuild, game.GameBuild != game.AvailableGameBuild})
}

func gameCheckFlags(v *invocation, fs *pflag.FlagSet) {
	fs.BoolVar(&v.json, "json", false, "print the result as JSON")
	jobFlags(v, fs)
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
	Progress      *float64 `json:"progress"`
	Status        string   `json:"status"`
	Requester     uint32   `json:"requester"`
	RequesterName string   `json:"requester_name"`
	Timeout       *float64 `json:"timeout"`
	Created       *string  `json:"created"`
	Started       *string  `json:"started"`
	Finished      *string  `json:"finished"`
	Cancelable    bool     `json:"cancelable"`
}

func jobAsJSON(j client.JobSummary) jobJSON {
	return jobJSON{j.ID, j.Kind, j.Target, j.State, j.Cause, string(j.Object)}
}

func jobShownAsJSON(i client.JobInfo) any {
	j := jobShowJSON{
		jobJSON: jobAsJSON(i.JobSummary), Status: i.Status, Requester: i.Requester, RequesterName: i.RequesterName,
		Created: stamp(i.Created), Started: stamp(i.Started), Finished: stamp(i.Finished), Cancelable: i.Cancelable,
	}
	if i.Progress >= 0 {
		j.Progress = &i.Progress
	}
	if i.Timeout > 0 {
		seconds := i.Timeout.Seconds()
		j.Timeout = &seconds
	}
	return j
}

// jobStates are the states of a job, in the order that it goes through them.
var jobStates = []string{
	client.JobQueued, client.JobRunning, client.JobDone, client.JobFailed, client.JobCanceled, client.JobTimeout, client.JobSkipped,
}

// maxJobs is how many jobs left4d tells at most.
const maxJobs = 10000

// jobFilters are the jobs that job list shows.
type jobFilters struct {
	filter    client.JobFilter
	requester string
	mine      bool
}

func jobListFlags(v *invocation, fs *pflag.FlagSet) {
	f := &v.jobFilters
	fs.StringVar(&f.filter.Target, "target", "", "only jobs of that instance or overlay `NAME`, or game")
	fs.StringVar(&f.filter.Kind, "kind", "", "only jobs of that `KIND`, as start or import-overlay")
	fs.StringVar(&f.filter.State, "state", "", "only jobs in that `STATE`")
	fs.StringVar(&f.requester, "requester", "", "only jobs that `USER`, a name or uid, has asked for")
	fs.BoolVar(&f.mine, "mine", false, "only jobs that you have asked for")
	fs.StringVarP(&v.lines, "lines", "n", "", "only the newest `N`, or all that left4d tells (100 if it is not given)")
	tableFlags(v, fs)
}

// jobFilter makes the filter that goes to left4d.
func (v *invocation) jobFilter() (client.JobFilter, error) {
	f := v.jobFilters
	if err := v.checkLines(); err != nil {
		return f.filter, err
	}
	if n, err := strconv.ParseUint(v.lines, 10, 32); err == nil && n > 0 {
		f.filter.Limit = uint32(min(n, maxJobs))
	} else if err == nil {
		return f.filter, usagef("--lines: 0 shows nothing")
	} else if v.lines == "all" {
		f.filter.Limit = maxJobs
	}
	switch {
	case f.filter.State != "" && !slices.Contains(jobStates, f.filter.State):
		return f.filter, &usageError{
			text: fmt.Sprintf("--state: there is no state %q", f.filter.State), hint: "the states are " + strings.Join(jobStates, ", "),
		}
	case f.mine && f.requester != "":
		return f.filter, usagef("--mine and --requester exclude each other")
	case f.requester != "":
		uid, err := strconv.ParseUint(f.requester, 10, 32)
		if err != nil {
			if v.host() != "" {
				return f.filter, usagef("--requester: %q is no uid, and who that is on %s is not known here", f.requester, v.host())
			}
			u, unknown := user.Lookup(f.requester)
			if unknown != nil {
				return f.filter, usagef("--requester: there is no user %q; a uid always works", f.requester)
			}
			uid, err = strconv.ParseUint(u.Uid, 10, 32)
		}
		asked := uint32(uid)
		f.filter.Requester = &asked
		return f.filter, err
	}
	return f.filter, nil
}

func runJobList(v *invocation) error {
	filter, err := v.jobFilter()
	if err != nil {
		return err
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	if v.jobFilters.mine {
		uid, err := c.UID(v.ctx)
		if err != nil {
			return v.failed("ask the bus who you are", "", err)
		}
		filter.Requester = &uid
	}
	list, err := c.ListJobs(v.ctx, filter)
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
		rows = append(rows, []string{jobNumber(j.ID), j.Kind, j.Target, j.State, j.Cause})
	}
	v.paintedTable([]string{"ID", "KIND", "TARGET", "STATE", "CAUSE"}, rows, "job", func(row, column int) string {
		if column != 3 {
			return ""
		}
		return jobColor(list[row].State)
	})
	return nil
}

func jobNumber(id uint32) string { return strconv.FormatUint(uint64(id), 10) }

func jobColor(state string) string {
	switch state {
	case client.JobRunning:
		return green
	case client.JobFailed, client.JobTimeout:
		return red
	case client.JobQueued, client.JobCanceled:
		return yellow
	}
	return ""
}

// jobIDs reads the numbers of jobs, or their paths as --no-wait prints them, and gives the numbers, each once.
func (v *invocation) jobIDs() ([]string, error) {
	var all []string
	for _, a := range v.args {
		id, err := strconv.ParseUint(a[strings.LastIndexByte(a, '/')+1:], 10, 32)
		if err != nil {
			return nil, usagef("%q is no number of a job", a)
		}
		if number := jobNumber(uint32(id)); !slices.Contains(all, number) {
			all = append(all, number)
		}
	}
	return all, nil
}

// eachJob asks something about each job that is named; errors are told of "job N".
func eachJob[T any](v *invocation, verb string, call func(c *client.Client, id uint32) (T, error)) ([]answer[T], error) {
	ids, err := v.jobIDs()
	if err != nil {
		return nil, err
	}
	c, err := v.connect()
	if err != nil {
		return nil, err
	}
	answers := ask(v, ids, func(number string) (T, error) {
		id, _ := strconv.ParseUint(number, 10, 32)
		return call(c, uint32(id))
	})
	for n := range answers {
		answers[n].name = "job " + answers[n].name
	}
	return answers, refusals(v, verb, answers)
}

func jobInfo(ctx context.Context, c *client.Client, id uint32) (client.JobInfo, error) {
	job, err := c.GetJob(ctx, id)
	if err != nil {
		return client.JobInfo{}, err
	}
	return job.Info(ctx)
}

func runJobShow(v *invocation) error {
	answers, err := eachJob(v, "show", func(c *client.Client, id uint32) (client.JobInfo, error) { return jobInfo(v.ctx, c, id) })
	return firstOf(printShown(v, answers, jobShownAsJSON, v.showJob), err)
}

func (v *invocation) showJob(info client.JobInfo) {
	progress, timeout, took := "", "", ""
	if info.Progress >= 0 {
		progress = fmt.Sprintf("%.0f%%", info.Progress*100)
	}
	if info.Timeout > 0 {
		timeout = elapsed(info.Timeout)
	}
	if !info.Started.IsZero() && !info.Finished.IsZero() {
		took = "; took " + elapsed(info.Finished.Sub(info.Started))
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
		{"Finished", when(info.Finished) + took},
		{"Timeout", timeout},
	})
}

func runJobCancel(v *invocation) error {
	answers, err := eachJob(v, "cancel", func(c *client.Client, id uint32) (struct{}, error) {
		return struct{}{}, c.CancelJob(v.ctx, id)
	})
	for _, a := range answers {
		if a.err == nil {
			v.say("%s: asked to end", a.name)
		}
	}
	return err
}

// runJobWait follows jobs that somebody else may have asked for.
func runJobWait(v *invocation) error {
	answers, err := eachJob(v, "wait for", func(c *client.Client, id uint32) (*client.Job, error) { return c.GetJob(v.ctx, id) })
	return firstOf(v.waitAll("", answers), err)
}

func jobFlags(v *invocation, fs *pflag.FlagSet) {
	fs.BoolVar(&v.noWait, "no-wait", false, "print the job's path and do not wait for its end")
	fs.Var(&v.timeout, "timeout", "give the job up after that time: 90s, 5m, 1h")
}
