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

// instanceJSON is an instance in list --json and status --json.
type instanceJSON struct {
	Host           string            `json:"host,omitempty"` // only where there are several
	Name           string            `json:"name"`
	Label          string            `json:"label"`
	State          string            `json:"state"`
	DesiredState   string            `json:"desired_state"`
	Cause          string            `json:"cause"`
	Blueprint      string            `json:"blueprint"`
	Port           uint16            `json:"port"`
	Object         string            `json:"object"`
	Overlays       []overlayJSON     `json:"overlays"`
	Unit           string            `json:"unit"`
	Owner          uint32            `json:"owner"`
	OwnerName      string            `json:"owner_name"`
	Drifted        bool              `json:"drifted"`
	PendingRestart bool              `json:"pending_restart"`
	PendingCause   string            `json:"pending_cause"`
	MainPID        uint32            `json:"main_pid"`
	StateSince     *string           `json:"state_since"`
	Restarts       uint32            `json:"restarts"`
	Limits         map[string]string `json:"limits"`
	Job            *liveJobJSON      `json:"job"`
}

type overlayJSON struct {
	Name  string `json:"name"`
	Alias string `json:"alias"`
}

// liveJobJSON is a job that has not ended.
type liveJobJSON struct {
	ID       uint32   `json:"id"`
	Kind     string   `json:"kind"`
	Target   string   `json:"target"`
	State    string   `json:"state"`
	Progress *float64 `json:"progress"`
	Status   string   `json:"status"`
}

// hostJSON is status --json without a name.
type hostJSON struct {
	Host         string         `json:"host,omitempty"` // only where there are several
	Version      string         `json:"version"`
	Since        *string        `json:"since"`
	GameRevision uint32         `json:"game_revision"`
	Instances    int            `json:"instances"`
	States       map[string]int `json:"states"`
	Attention    []instanceJSON `json:"attention"`
	Jobs         []liveJobJSON  `json:"jobs"`
}

func asJSON(i hosted) instanceJSON {
	names, values := shownLimits(i.Limits)
	j := instanceJSON{
		Host: i.host, Name: i.Name, Label: i.Label, State: i.State, DesiredState: i.DesiredState, Cause: i.Cause, Blueprint: i.Blueprint,
		Port: i.Port, Object: string(i.Object), Overlays: overlaysAsJSON(i.Overlays), Unit: i.Unit, Owner: i.Owner,
		OwnerName: i.OwnerName, Drifted: i.Drifted, PendingRestart: i.PendingRestart, PendingCause: i.PendingCause,
		MainPID: i.MainPID, StateSince: stamp(i.StateSince), Restarts: i.Restarts, Limits: map[string]string{},
	}
	for n := range names {
		j.Limits[names[n]] = values[n]
	}
	if i.job != nil {
		live := liveAsJSON(*i.job)
		j.Job = &live
	}
	return j
}

func liveAsJSON(j client.JobInfo) liveJobJSON {
	live := liveJobJSON{ID: j.ID, Kind: j.Kind, Target: j.Target, State: j.State, Status: j.Status}
	if j.Progress >= 0 {
		live.Progress = &j.Progress
	}
	return live
}

// ofInstance tells the jobs whose target is an instance: an overlay may have the same name.
func ofInstance(kind string) bool {
	return slices.Contains([]string{"initialize", "start", "stop", "restart", "kill", "reset", "delete"}, kind)
}

// jobOf is the job that is at work on an instance, or else the first that waits for it.
func jobOf(name string, jobs []client.JobInfo) *client.JobInfo {
	var found *client.JobInfo
	for n, j := range jobs {
		if j.Target == name && ofInstance(j.Kind) && (found == nil || j.State == client.JobRunning && found.State != client.JobRunning) {
			found = &jobs[n]
		}
	}
	return found
}

func statusFlags(v *invocation, fs *pflag.FlagSet) {
	jsonFlag(v, fs)
	fs.StringVarP(&v.lines, "lines", "n", "10", "show the newest `N` lines of the log, or all")
}

func runStatus(v *invocation) error {
	if err := v.checkLines(); err != nil {
		return err
	}
	if err := checkPatterns(v.args); err != nil {
		return err
	}
	if len(v.args) == 0 {
		return v.hostStatus()
	}
	answers, result := askHosts(v, "show", strings.Join(v.args, ", "), inspect)
	if len(answers) == 0 {
		return result
	}
	var list []hosted
	var all []string
	for _, a := range answers {
		for _, i := range a.value.Instances {
			list = append(list, hosted{i, a.host, jobOf(i.Name, a.value.Jobs)})
			all = append(all, i.Name)
		}
	}
	names, unmatched := expand(v.args, all)
	for _, pattern := range unmatched {
		v.say("No instance matches %s.", pattern)
	}
	shown := []instanceJSON{}
	for _, name := range names {
		found := slices.DeleteFunc(slices.Clone(list), func(i hosted) bool { return i.Name != name })
		if len(found) == 0 {
			i, err := v.absent(name)
			if err != nil {
				result = firstOf(result, err)
				continue
			}
			found = []hosted{{Instance: i}}
		}
		for _, i := range found {
			if !v.json {
				if len(shown) > 0 {
					fmt.Fprintln(v.stdout)
				}
				v.showInstance(i)
			}
			shown = append(shown, asJSON(i))
			if i.State == "stopped" || i.State == "failed" {
				result = firstOf(result, exitCode(exitStopped))
			}
		}
	}
	var err error
	switch {
	case v.json && (!one(v.args) || len(v.hosts) > 1):
		err = printJSON(v.stdout, shown)
	case v.json && len(shown) > 0:
		err = printJSON(v.stdout, shown[0])
	}
	return firstOf(err, result)
}

// absent tells why there is no instance of that name, which left4d knows best; it may also have come to be.
func (v *invocation) absent(name string) (client.Instance, error) {
	if len(v.hosts) > 1 {
		v.complain(cannot("show", name, errors.New("there is no such instance on these hosts")))
		return client.Instance{}, exitCode(exitUnknown)
	}
	i, err := v.c.GetInstance(v.ctx, name)
	if err == nil {
		return i, nil
	}
	code := exitFailure
	if client.IsNoSuchInstance(err) {
		code = exitUnknown
	}
	v.failed("show", name, err)
	return i, exitCode(code)
}

// dot is the mark of a state as systemctl has it, and its colour.
func dot(i client.Instance) (mark, color string) {
	switch {
	case i.State == "failed":
		return "×", red
	case i.State == "stopped" && i.Drifted:
		return "○", yellow
	case i.State == "stopped":
		return "○", ""
	case i.State == "running" && !i.Drifted && !i.PendingRestart:
		return "●", green
	}
	return "●", yellow
}

// dotted is a title behind its dot.
func (v *invocation) dotted(mark, color, title string) string {
	if v.colors {
		mark = painted(color, mark)
	}
	return mark + " " + clean(title)
}

func (v *invocation) showInstance(i hosted) {
	names, values := shownLimits(i.Limits)
	title := i.Name
	if i.Label != "" {
		title += " - " + i.Label
	}
	mark, color := dot(i.Instance)
	fmt.Fprintln(v.stdout, v.dotted(mark, color, title))
	desired := i.DesiredState
	if i.Drifted {
		desired += " (drifted)"
	}
	if i.PendingRestart {
		desired += " (restart pending)"
	}
	pid := ""
	if i.MainPID != 0 {
		pid = strconv.FormatUint(uint64(i.MainPID), 10)
	}
	rows := [][2]string{
		{"State", i.State + v.since(i.StateSince)},
		{"Desired", desired},
		{"Cause", i.Cause},
	}
	if i.host != "" {
		rows = slices.Insert(rows, 0, [2]string{"Host", i.host})
	}
	if i.PendingRestart {
		rows = append(rows, [2]string{"Pending", orElse(i.PendingCause, "its definition, an overlay or the game has changed")})
	}
	if i.job != nil {
		rows = append(rows, [2]string{"Job", fmt.Sprintf("%d (%s)", i.job.ID, describe(*i.job))})
	}
	v.sheet(append(rows, [][2]string{
		{"Unit", i.Unit},
		{"Main PID", pid},
		{"Restarts", strconv.FormatUint(uint64(i.Restarts), 10)},
		{"Port", strconv.Itoa(int(i.Port))},
		{"Blueprint", i.Blueprint},
		{"Overlays", shownOverlays(i.Overlays)},
		{"Limits", assigned(names, values)},
		{"Owner", userName(i.OwnerName, i.Owner)},
	}...))
	// Over ssh a log is one more connection: it is shown if it is asked for, and never of several hosts.
	if len(v.hosts) == 0 || v.host() != "" && v.flags.Changed("lines") {
		v.showLog(i.Name)
	}
	if v.quiet {
		return
	}
	hint := v.hint
	if i.host != "" {
		hint = func(text string) { v.hintOn(i.host, text) }
	}
	switch {
	case i.Drifted && i.DesiredState == "running":
		hint("it should be running: left4ctl start " + i.Name + " (left4ctl stop " + i.Name + " if it should not)")
	case i.Drifted:
		hint("it should be stopped: left4ctl stop " + i.Name + " (left4ctl start " + i.Name + " if it should not)")
	}
	if i.PendingRestart {
		hint("it has that from its next start: left4ctl restart " + i.Name)
	}
}

// since is the part of a line that tells since when.
func (v *invocation) since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " since " + when(t) + "; " + v.ago(t)
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// describe tells how far a job is.
func describe(j client.JobInfo) string {
	text := j.Kind + ", " + j.State
	if j.State == client.JobRunning && j.Progress >= 0 {
		text = fmt.Sprintf("%s, %.0f%%", j.Kind, j.Progress*100)
	}
	if j.Status != "" {
		text += ": " + j.Status
	}
	return text
}

// showLog prints the newest lines of a server's unit below its status. That they cannot be read is no error.
func (v *invocation) showLog(name string) {
	if v.lines == "0" || !validName(name) {
		return
	}
	any := false
	args := []string{"--output-fields=MESSAGE,SYSLOG_IDENTIFIER,SYSLOG_PID,_COMM,_PID,_HOSTNAME", "-n", v.lines, "-u", serverUnit(name)}
	err := v.readJournal(v.ctx, args, func(e entry) error {
		if !any {
			fmt.Fprintln(v.stdout)
		}
		any = true
		_, err := fmt.Fprintln(v.stdout, clean(logLine(e)))
		return err
	})
	switch {
	case err == nil, v.quiet, errors.Is(err, context.Canceled), v.stdout.err != nil:
	case errors.Is(err, errJournalRights):
		v.hint(v.journalHint())
	default:
		v.complain("cannot show the log of " + name + ": " + err.Error())
	}
}

// states is the order in which the states of instances are counted.
var states = []string{"running", "starting", "restarting", "stopping", "stopped", "failed"}

// attention tells what somebody should look at about an instance, "" for nothing.
func attention(i client.Instance) string {
	var all []string
	if i.Drifted {
		all = append(all, "should be "+i.DesiredState)
	}
	if i.State == "failed" || i.Drifted && i.Cause != "" {
		all = append(all, orElse(i.Cause, "failed"))
	}
	if i.PendingRestart {
		all = append(all, "restart pending: "+orElse(i.PendingCause, "something has changed"))
	}
	return strings.Join(all, "; ")
}

// about is what there is to tell of a left4d.
type about struct {
	client.Host
	service client.ServiceInfo
	since   time.Time
}

func askAbout(ctx context.Context, c *client.Client) (a about, err error) {
	if a.service, err = c.Service(ctx); err != nil {
		return a, err
	}
	if a.Host, err = c.Inspect(ctx); err != nil {
		return a, err
	}
	a.since, _ = c.Since(ctx) // where systemd does not tell, nothing else is wrong
	return a, nil
}

// needs are the instances that somebody should look at, and counts how many are in each state.
func (a about) needs(host string) (needs []hosted, counts map[string]int) {
	counts = map[string]int{}
	for _, i := range a.Instances {
		counts[i.State]++
		if attention(i) != "" {
			needs = append(needs, hosted{i, host, jobOf(i.Name, a.Jobs)})
		}
	}
	return needs, counts
}

func (a about) asJSON(host string) hostJSON {
	needs, counts := a.needs(host)
	j := hostJSON{
		Host: host, Version: a.service.Version, Since: stamp(a.since), GameRevision: a.service.GameRevision, Instances: len(a.Instances),
		States: counts, Attention: []instanceJSON{}, Jobs: []liveJobJSON{},
	}
	for _, i := range needs {
		j.Attention = append(j.Attention, asJSON(i))
	}
	for _, job := range a.Jobs {
		j.Jobs = append(j.Jobs, liveAsJSON(job))
	}
	return j
}

// rows are what is told in few words, and the colour of it all.
func (a about) rows() (game, instances, jobs, color string) {
	needs, counts := a.needs("")
	color = green
	if len(needs) > 0 {
		color = yellow
	}
	if counts["failed"] > 0 {
		color = red
	}
	game = "not installed"
	if a.service.GameRevision != 0 {
		game = fmt.Sprintf("revision %d", a.service.GameRevision)
	}
	running := 0
	for _, j := range a.Jobs {
		if j.State == client.JobRunning {
			running++
		}
	}
	return game, counted(len(a.Instances), states, counts), counted(len(a.Jobs), []string{client.JobRunning, client.JobQueued},
		map[string]int{client.JobRunning: running, client.JobQueued: len(a.Jobs) - running}), color
}

// hostStatus shows left4d itself, what needs somebody, and what is going on.
func (v *invocation) hostStatus() error {
	answers, result := askHosts(v, "show the state of left4d", "", askAbout)
	switch {
	case len(answers) == 0:
		return result
	case v.json && len(v.hosts) < 2:
		return printJSON(v.stdout, answers[0].value.asJSON(""))
	case v.json:
		var all []hostJSON
		for _, a := range answers {
			all = append(all, a.value.asJSON(a.host))
		}
		return firstOf(printJSON(v.stdout, all), result)
	}
	if len(v.hosts) < 2 {
		a := answers[0].value
		game, instances, jobs, color := a.rows()
		fmt.Fprintln(v.stdout, v.dotted("●", color, "left4d "+a.service.Version))
		rows := [][2]string{{"Game", game}, {"Instances", instances}, {"Jobs", jobs}}
		if !a.since.IsZero() {
			rows = slices.Insert(rows, 0, [2]string{"Since", when(a.since) + "; " + v.ago(a.since)})
		}
		v.sheet(rows)
	} else {
		v.showHosts(answers)
	}
	var needs []hosted
	var jobs []hostedJob
	for _, a := range answers {
		some, _ := a.value.needs(a.host)
		needs = append(needs, some...)
		for _, j := range a.value.Jobs {
			jobs = append(jobs, hostedJob{j, a.host})
		}
	}
	v.showNeeds(needs)
	v.showLive(jobs)
	for _, a := range answers {
		if a.value.service.GameRevision == 0 && !v.quiet {
			host := a.host
			if host == "" {
				host = v.host()
			}
			v.hintOn(host, importHint)
		}
	}
	return result
}

// showHosts is a table of several hosts.
func (v *invocation) showHosts(answers []told[about]) {
	var hosts, colors []string
	var rows [][]string
	for _, a := range answers {
		game, instances, jobs, color := a.value.rows()
		hosts, colors = append(hosts, a.host), append(colors, color)
		rows = append(rows, []string{a.value.service.Version, game, instances, jobs})
	}
	headings, rows, paint := v.withHosts(hosts, []string{"LEFT4D", "GAME", "INSTANCES", "JOBS"}, rows, func(row, column int) string {
		if column > 0 {
			return ""
		}
		return colors[row]
	})
	v.grid(headings, rows, paint)
}

// counted is a number, and how it is made up.
func counted(all int, order []string, counts map[string]int) string {
	var parts []string
	for _, state := range order {
		if counts[state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[state], state))
		}
	}
	if len(parts) == 0 {
		return strconv.Itoa(all)
	}
	return fmt.Sprintf("%d (%s)", all, strings.Join(parts, ", "))
}

func (v *invocation) showNeeds(list []hosted) {
	if len(list) == 0 {
		return
	}
	var rows [][]string
	var hosts []string
	for _, i := range list {
		mark, _ := dot(i.Instance)
		rows, hosts = append(rows, []string{mark + " " + i.Name, i.State, attention(i.Instance)}), append(hosts, i.host)
	}
	fmt.Fprintln(v.stdout)
	headings, rows, paint := v.withHosts(hosts, []string{"  INSTANCE", "STATE", "NEEDS ATTENTION"}, rows, func(row, column int) string {
		if column > 1 {
			return ""
		}
		_, color := dot(list[row].Instance)
		return color
	})
	v.grid(headings, rows, paint)
}

// hostedJob is a job, and the host that it is on, "" where all this is about one machine only.
type hostedJob struct {
	client.JobInfo
	host string
}

func (v *invocation) showLive(jobs []hostedJob) {
	if len(jobs) == 0 {
		return
	}
	var rows [][]string
	var hosts []string
	for _, j := range jobs {
		progress := ""
		if j.Progress >= 0 && j.State == client.JobRunning {
			progress = fmt.Sprintf("%.0f%%", j.Progress*100)
		}
		rows = append(rows, []string{strconv.FormatUint(uint64(j.ID), 10), j.Kind, j.Target, j.State, progress, j.Status})
		hosts = append(hosts, j.host)
	}
	fmt.Fprintln(v.stdout)
	headings, rows, paint := v.withHosts(hosts, []string{"JOB", "KIND", "TARGET", "STATE", "PROGRESS", "STEP"}, rows, nil)
	v.grid(headings, rows, paint)
}
