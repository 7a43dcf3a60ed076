package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

func runCreate(v *invocation) error {
	name := v.args[0]
	config, err := v.settings.result(client.Limits{})
	if err != nil {
		return err
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	if _, err := c.CreateInstance(v.ctx, name, config); err != nil {
		return v.failed("create", name, err)
	}
	v.sayCreated(c, name)
	return nil
}

// sayCreated tells which port an instance got, if it can be had; that it is there is certain without it.
func (v *invocation) sayCreated(c *client.Client, name string) {
	if i, err := c.GetInstance(v.ctx, name); err == nil {
		v.say("%s: created, port %d", name, i.Port)
	} else {
		v.say("%s: created", name)
	}
}

func runInitialize(v *invocation) error {
	var config client.Config
	if v.file != "" {
		var err error
		if config, err = given(v, readSpec); err != nil {
			return fmt.Errorf("cannot initialize %s: %w", strings.Join(v.args, ", "), err)
		}
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, unmatched := v.named("initialize", anInstance, v.args)
	if err := portForOne(config, names); err != nil {
		return err
	}
	return firstOf(v.jobs("initialize", names, func(name string) (*client.Job, error) {
		return c.InitializeInstance(v.ctx, name, config, client.InitializeOptions{})
	}), unmatched)
}

// portForOne keeps one port from being given to several instances, of which only the first would get it.
func portForOne(config client.Config, names []string) error {
	if config.Port != nil && *config.Port != 0 && len(names) > 1 {
		return usagef("port: %d cannot be that of %d instances", *config.Port, len(names))
	}
	return nil
}

// given reads what --file names, or standard input for "-"; there it does not wait for more when it is told to end.
func given[T any](v *invocation, read func(name string, r io.Reader) (T, error)) (T, error) {
	var none T
	if v.file != "-" {
		f, err := os.Open(v.file)
		if err != nil {
			return none, fmt.Errorf("%s: %w", v.file, plain(err))
		}
		defer f.Close()
		return read(v.file, f)
	}
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		value, err := read("standard input", v.stdin)
		done <- answer{value, err}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-v.ctx.Done():
		return none, errors.New("interrupted")
	}
}

func runConfigure(v *invocation) error {
	given, err := v.assignments()
	if err != nil {
		return err
	}
	changes, err := v.settings.result(client.Limits{})
	if err != nil {
		return err
	}
	if changes.Empty() && !v.newPassword {
		return usagef("configure needs something to change")
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, unmatched := v.named("configure", anInstance, given)
	if err := portForOne(changes, names); err != nil {
		return err
	}
	done, err := v.each("configure", names, func(name string) error {
		changes := changes
		if v.settings.changesLimits() {
			// The bus takes limits as a whole, so those that stay have to be known.
			now, err := c.GetInstanceConfig(v.ctx, name)
			if err != nil {
				return err
			}
			if now.Limits != nil {
				if changes, err = v.settings.result(*now.Limits); err != nil {
					return err
				}
			}
		}
		return c.ConfigureInstance(v.ctx, name, changes, client.ConfigureOptions{NewRconPassword: v.newPassword})
	})
	for _, name := range done {
		v.say("%s: configured", name)
	}
	v.hintRestart(c, done)
	return firstOf(err, unmatched)
}

// hintRestart tells which of those that were changed run on as they were.
func (v *invocation) hintRestart(c *client.Client, names []string) {
	if v.quiet || len(names) == 0 {
		return
	}
	var pending []string
	if len(names) == 1 {
		if i, err := c.GetInstance(v.ctx, names[0]); err == nil && i.PendingRestart {
			pending = names
		}
	} else if all, err := c.InspectInstances(v.ctx); err == nil {
		for _, i := range all {
			if i.PendingRestart && slices.Contains(names, i.Name) {
				pending = append(pending, i.Name)
			}
		}
	}
	switch len(pending) {
	case 0:
	case 1:
		v.hint("the running server has it from its next start: left4ctl restart " + pending[0])
	default:
		v.hint("the running servers have it from their next start: left4ctl restart " + strings.Join(pending, " "))
	}
}

// runLifecycle is all verbs that ask for one job for each name.
func runLifecycle(call func(*client.Client, context.Context, string, client.JobOptions) (*client.Job, error)) func(*invocation) error {
	return func(v *invocation) error {
		c, err := v.connect()
		if err != nil {
			return err
		}
		names, unmatched := v.named(v.command.name, anInstance, v.args)
		return firstOf(v.jobs(v.command.name, names, func(name string) (*client.Job, error) {
			return call(c, v.ctx, name, v.jobOptions())
		}), unmatched)
	}
}

// instanceJSON is an instance in list --json and, with the second half, in status --json.
type instanceJSON struct {
	Name         string `json:"name"`
	Label        string `json:"label"`
	State        string `json:"state"`
	DesiredState string `json:"desired_state"`
	Cause        string `json:"cause"`
	Blueprint    string `json:"blueprint"`
	Port         uint16 `json:"port"`
	Object       string `json:"object"`
}

type statusJSON struct {
	instanceJSON
	Overlays       []overlayJSON     `json:"overlays"`
	Unit           string            `json:"unit"`
	Owner          uint32            `json:"owner"`
	Drifted        bool              `json:"drifted"`
	PendingRestart bool              `json:"pending_restart"`
	MainPID        uint32            `json:"main_pid"`
	StateSince     *string           `json:"state_since"`
	Restarts       uint32            `json:"restarts"`
	Limits         map[string]string `json:"limits"`
}

type overlayJSON struct {
	Name  string `json:"name"`
	Alias string `json:"alias"`
}

type serviceJSON struct {
	Version      string         `json:"version"`
	GameRevision uint32         `json:"game_revision"`
	Instances    int            `json:"instances"`
	States       map[string]int `json:"states"`
}

func asJSON(i client.InstanceSummary) instanceJSON {
	return instanceJSON{i.Name, i.Label, i.State, i.DesiredState, i.Cause, i.Blueprint, i.Port, string(i.Object)}
}

func runList(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	list, err := c.ListInstances(v.ctx)
	if err != nil {
		return v.failed("list the instances", "", err)
	}
	if v.json {
		all := make([]instanceJSON, 0, len(list))
		for _, i := range list {
			all = append(all, asJSON(i))
		}
		return printJSON(v.stdout, all)
	}
	headings := []string{"NAME", "STATE", "DESIRED", "PORT", "LABEL", "CAUSE"}
	bound := slices.ContainsFunc(list, func(i client.InstanceSummary) bool { return i.Blueprint != "" })
	if bound {
		headings = slices.Insert(headings, 4, "BLUEPRINT")
	}
	var rows [][]string
	for _, i := range list {
		row := []string{i.Name, i.State, i.DesiredState, strconv.Itoa(int(i.Port)), i.Label, i.Cause}
		if bound {
			row = slices.Insert(row, 4, i.Blueprint)
		}
		rows = append(rows, row)
	}
	v.table(headings, rows, "instance")
	return nil
}

func runStatus(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	if len(v.args) == 0 {
		return v.serviceStatus(c)
	}
	name := v.args[0]
	i, err := c.GetInstance(v.ctx, name)
	if client.IsNoSuchInstance(err) {
		v.failed("show", name, err)
		return exitCode(exitUnknown)
	}
	if err != nil {
		return v.failed("show", name, err)
	}
	if err := v.showInstance(i); err != nil {
		return err
	}
	if i.Drifted && !v.json && !v.quiet {
		if i.DesiredState == "running" {
			v.hint("it should be running: left4ctl start " + name + " (left4ctl stop " + name + " if it should not)")
		} else {
			v.hint("it should be stopped: left4ctl stop " + name + " (left4ctl start " + name + " if it should not)")
		}
	}
	if i.PendingRestart && !v.json && !v.quiet {
		v.hint("its definition, an overlay or the game has changed since it was started: left4ctl restart " + name)
	}
	if i.State == "stopped" || i.State == "failed" {
		return exitCode(exitStopped)
	}
	return nil
}

func (v *invocation) showInstance(i client.Instance) error {
	names, values := shownLimits(i.Limits)
	if v.json {
		s := statusJSON{
			instanceJSON: asJSON(i.InstanceSummary), Overlays: []overlayJSON{}, Unit: i.Unit, Owner: i.Owner,
			Drifted: i.Drifted, PendingRestart: i.PendingRestart, MainPID: i.MainPID, StateSince: stamp(i.StateSince),
			Restarts: i.Restarts, Limits: map[string]string{},
		}
		for _, o := range i.Overlays {
			s.Overlays = append(s.Overlays, overlayJSON(o))
		}
		for n := range names {
			s.Limits[names[n]] = values[n]
		}
		return printJSON(v.stdout, s)
	}
	title := i.Name
	if i.Label != "" {
		title += " - " + i.Label
	}
	fmt.Fprintln(v.stdout, clean(title))
	state := i.State
	if since := when(i.StateSince); since != "" {
		state += " since " + since
	}
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
	v.sheet([][2]string{
		{"State", state},
		{"Desired", desired},
		{"Cause", i.Cause},
		{"Port", strconv.Itoa(int(i.Port))},
		{"Blueprint", i.Blueprint},
		{"Overlays", shownOverlays(i.Overlays)},
		{"Limits", assigned(names, values)},
		{"Main PID", pid},
		{"Restarts", strconv.FormatUint(uint64(i.Restarts), 10)},
		{"Owner", userName(i.OwnerName, i.Owner)},
		{"Unit", i.Unit},
	})
	return nil
}

// shownOverlays are overlays as --overlay takes them.
func shownOverlays(list []client.Overlay) string {
	var all []string
	for _, o := range list {
		all = append(all, shownOverlay(o))
	}
	return strings.Join(all, ", ")
}

func shownOverlay(o client.Overlay) string {
	if o.Alias == "" {
		return o.Name
	}
	return o.Name + ":" + o.Alias
}

// assigned are limits as --limit takes them.
func assigned(names, values []string) string {
	var all []string
	for n := range names {
		all = append(all, names[n]+"="+values[n])
	}
	return strings.Join(all, ", ")
}

func (v *invocation) serviceStatus(c *client.Client) error {
	service, err := c.Service(v.ctx)
	if err != nil {
		return v.failed("show the state of left4d", "", err)
	}
	list, err := c.ListInstances(v.ctx)
	if err != nil {
		return v.failed("list the instances", "", err)
	}
	states := map[string]int{}
	for _, i := range list {
		states[i.State]++
	}
	if v.json {
		return printJSON(v.stdout, serviceJSON{service.Version, service.GameRevision, len(list), states})
	}
	game := "not installed"
	if service.GameRevision != 0 {
		game = fmt.Sprintf("revision %d", service.GameRevision)
	}
	var parts []string
	for _, state := range []string{"running", "starting", "restarting", "stopping", "stopped", "failed"} {
		if states[state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", states[state], state))
		}
	}
	instances := strconv.Itoa(len(list))
	if len(parts) > 0 {
		instances += " (" + strings.Join(parts, ", ") + ")"
	}
	v.sheet([][2]string{{"left4d", service.Version}, {"Game", game}, {"Instances", instances}})
	if service.GameRevision == 0 && !v.quiet {
		v.hint(importHint)
	}
	return nil
}

// userName is the name of a user as left4d tells it, or the uid of one who has none. Who has that uid here is another
// question, which over ssh has another answer.
func userName(name string, uid uint32) string {
	if name != "" {
		return name
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// validName is what left4d takes for a name. It is checked here only where a name does not go to left4d.
var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// runLogs becomes journalctl: it follows, pages and filters by rights better than we could.
func runLogs(v *invocation) error {
	name := v.args[0]
	if !validName.MatchString(name) {
		return fmt.Errorf("cannot show the log of %s: it is no name of an instance", name)
	}
	args := []string{"journalctl", "-u", "left4-server@" + name + ".service"}
	if v.lines != "" {
		if _, err := strconv.ParseUint(v.lines, 10, 31); err != nil && v.lines != "all" {
			return usagef("--lines: %q is no number", v.lines)
		}
		args = append(args, "-n", v.lines)
	}
	if v.follow {
		args = append(args, "-f")
	}
	program, err := exec.LookPath("journalctl")
	if err != nil {
		return fmt.Errorf("cannot show the log of %s: journalctl is not installed", name)
	}
	err = syscall.Exec(program, args, os.Environ())
	return fmt.Errorf("cannot show the log of %s: %s: %w", name, program, err)
}

func logsFlags(v *invocation, fs *pflag.FlagSet) {
	fs.StringVarP(&v.lines, "lines", "n", "", "show the newest `N` lines, or all")
	fs.BoolVarP(&v.follow, "follow", "f", false, "go on showing new lines")
}

func initializeFlags(v *invocation, fs *pflag.FlagSet) {
	fs.StringVarP(&v.file, "file", "f", "", "the spec `FILE`, - for standard input")
	noWaitFlag(v, fs)
}

func tableFlags(v *invocation, fs *pflag.FlagSet) {
	jsonFlag(v, fs)
	fs.BoolVar(&v.noLegend, "no-legend", false, "print neither headings nor a count")
}

func jsonFlag(v *invocation, fs *pflag.FlagSet) {
	fs.BoolVar(&v.json, "json", false, "print JSON")
}

func runVersion(v *invocation) error {
	fmt.Fprintf(v.stdout, "left4ctl %s\n", v.version)
	// The own version is known whatever happens; that of left4d is more of a courtesy.
	c, err := v.dial(v.ctx)
	if err != nil {
		return nil
	}
	defer c.Close()
	c.NoInteraction = true
	if service, err := c.Service(v.ctx); err == nil {
		fmt.Fprintf(v.stdout, "left4d %s\n", clean(service.Version))
	}
	return nil
}

// plain is an error without the path and the system call that package os puts in front.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) && !errors.Is(err, io.EOF) {
		return p.Err
	}
	return err
}
