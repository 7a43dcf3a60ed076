package ctl

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

func applyFlags(v *invocation, fs *pflag.FlagSet) {
	fs.StringVarP(&v.file, "file", "f", "", "the host `FILE`, - for standard input")
	fs.BoolVar(&v.dryRun, "dry-run", false, "print what would change, and change nothing")
	fs.BoolVar(&v.prune, "prune", false, "delete what the file does not have")
}

func runApply(v *invocation) error {
	if v.file == "" {
		return usagef("apply needs --file FILE")
	}
	h, err := given(v, readHost)
	if err != nil {
		return fmt.Errorf("cannot apply: %w", err)
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	on, err := v.present(c, h)
	if err != nil {
		return v.failed("read what is defined", "", err)
	}
	steps, beyond, err := h.plan(on.present, v.prune)
	if err != nil {
		return fmt.Errorf("cannot apply: %s:%w", v.fileName(), err)
	}
	if err := v.findSources(steps); err != nil {
		return fmt.Errorf("cannot apply: %s:%w", v.fileName(), err)
	}
	if len(beyond) > 0 && !v.prune {
		v.say("not in the file, and left alone: %s", strings.Join(beyond, ", "))
	}
	for _, l := range h.overlays {
		if l.from != "" && on.empty[l.name] {
			v.say("overlay %s is there and has no files, but apply fills only what it makes: left4ctl overlay import %s %s", l.name, l.name, v.source(l))
		}
	}
	if len(steps) == 0 {
		v.say("nothing to change")
	}
	if v.dryRun {
		for _, s := range steps {
			fmt.Fprintln(v.stdout, clean("would "+s.String()))
		}
		return nil
	}
	made := 0
	for made < len(steps) && err == nil {
		var n int
		n, err = v.some(c, steps[made:])
		made += n
	}
	if err != nil && made > 0 {
		v.hint(fmt.Sprintf("%d of %d changes are made; the same command goes on with the rest", made, len(steps)))
	}
	if err == nil {
		v.hintBuilds(steps)
		v.sayPending(c)
	}
	return err
}

// hintBuilds tells which overlays have something to be built.
func (v *invocation) hintBuilds(steps []step) {
	var names []string
	for _, s := range steps {
		if s.kind == "overlay" && s.verb != "delete" && s.layer.kind != defaultType {
			names = append(names, s.name)
		}
	}
	if len(names) > 0 && !v.quiet {
		v.hint("left4ctl overlay build " + strings.Join(names, " ") + " gives them their files")
	}
}

// fileName is what errors call the file.
func (v *invocation) fileName() string {
	if v.file == "-" {
		return "standard input"
	}
	return v.file
}

// source is where an overlay is filled from: a path of a file is meant to be seen from there.
func (v *invocation) source(l layer) string {
	if filepath.IsAbs(l.from) || v.file == "-" {
		return l.from
	}
	return filepath.Join(filepath.Dir(v.file), l.from)
}

// findSources sees to it that what overlays are filled from is there.
func (v *invocation) findSources(steps []step) error {
	for _, s := range steps {
		if s.kind != "overlay" || s.verb != "create" || s.layer.from == "" {
			continue
		}
		if v.host() != "" {
			return at(s.layer.at.keys["from"], "overlays."+s.name+".from", "files do not pass over ssh: run apply on "+v.host()+" itself")
		}
		if _, err := os.Stat(v.source(s.layer)); err != nil {
			return at(s.layer.at.keys["from"], "overlays."+s.name+".from", fmt.Sprintf("%s: %v", v.source(s.layer), plain(err)))
		}
	}
	return nil
}

// found is what a host has, and which of its overlays have no files.
type found struct {
	present
	empty map[string]bool
}

// present reads what the host has; of what the file does not speak of, only that it is there.
func (v *invocation) present(c *client.Client, h *host) (found, error) {
	on := found{
		present: present{overlays: map[string]layer{}, blueprints: map[string]definition{}, instances: map[string]definition{}},
		empty:   map[string]bool{},
	}
	overlays, err := c.ListOverlays(v.ctx)
	if err != nil {
		return on, err
	}
	for _, o := range overlays {
		l := layer{name: o.Name, kind: o.Type}
		if slices.ContainsFunc(h.overlays, func(l layer) bool { return l.name == o.Name }) {
			if l, err = readOverlay(v.ctx, c, o); err != nil {
				return on, err
			}
		}
		on.overlays[o.Name], on.empty[o.Name] = l, o.Files == 0
	}
	blueprints, err := c.ListBlueprints(v.ctx)
	if err != nil {
		return on, err
	}
	for _, b := range blueprints {
		d := definition{name: b.Name}
		if has(h.blueprints, b.Name) {
			if d.config, err = c.GetBlueprintConfig(v.ctx, b.Name); err != nil {
				return on, err
			}
		}
		on.blueprints[b.Name] = d
	}
	instances, err := c.ListInstances(v.ctx)
	if err != nil {
		return on, err
	}
	for _, i := range instances {
		d := definition{name: i.Name}
		if has(h.instances, i.Name) {
			if d.config, err = c.GetInstanceConfig(v.ctx, i.Name); err != nil {
				return on, err
			}
		}
		d.config.Port = &i.Port
		on.instances[i.Name] = d
	}
	return on, nil
}

func readOverlay(ctx context.Context, c *client.Client, o client.OverlayInfo) (layer, error) {
	l := layer{name: o.Name, kind: o.Type, keep: defaultKeep}
	config, err := c.GetOverlayConfig(ctx, o.Name)
	if config.Keep != nil {
		l.keep = *config.Keep
	}
	l.item = config.Items
	if config.Script != nil {
		l.script = *config.Script
	}
	return l, err
}

// some takes the first step, or the first few if these are jobs that can go on at the same time, and tells how many it
// has taken with success. An error has been told.
func (v *invocation) some(c *client.Client, steps []step) (int, error) {
	s := steps[0]
	if s.verb == "delete" && s.kind != "blueprint" {
		n := 1
		for n < len(steps) && steps[n].verb == s.verb && steps[n].kind == s.kind {
			n++
		}
		return v.deletions(c, steps[:n])
	}
	if s.kind == "overlay" && s.verb == "create" && s.layer.from != "" {
		if err := v.fill(s); err != nil {
			return 0, err
		}
	} else if err := v.define(c, s); err != nil {
		return 0, v.stepFailed(s, err)
	}
	v.took(s)
	return 1, nil
}

// took tells that a step is taken.
func (v *invocation) took(s step) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.board.line(v.stdout, clean(s.String()))
}

// stepFailed tells an error; hints that speak of an instance by its name would miss it here.
func (v *invocation) stepFailed(s step, err error) error {
	if v.ctx.Err() != nil || client.IsUnavailable(err) || client.IsAccessDenied(err) {
		return v.failed(s.verb, s.what(), err)
	}
	v.complain(cannot(s.verb, s.what(), err))
	return exitCode(exitFailure)
}

// define takes a step that is over with its call.
func (v *invocation) define(c *client.Client, s step) (err error) {
	switch s.verb + " " + s.kind {
	case "create overlay":
		_, err = c.CreateOverlay(v.ctx, s.name, s.layer.kind, s.layer.config())
	case "update overlay":
		err = c.UpdateOverlay(v.ctx, s.name, s.layer.config())
	case "create blueprint":
		_, err = c.CreateBlueprint(v.ctx, s.name, s.config)
	case "update blueprint":
		err = c.UpdateBlueprint(v.ctx, s.name, s.config)
	case "delete blueprint":
		err = c.DeleteBlueprint(v.ctx, s.name)
	case "create instance":
		_, err = c.CreateInstance(v.ctx, s.name, s.config)
	case "update instance":
		err = c.ConfigureInstance(v.ctx, s.name, s.config, client.ConfigureOptions{})
	}
	return err
}

// fill makes an overlay and imports its files. If these cannot be had the overlay goes again, so that the next time
// begins anew.
func (v *invocation) fill(s step) error {
	var made, live bool
	err := v.importFrom(s.what(), v.source(s.layer), func(c *client.Client, source *client.Source) (*client.Job, error) {
		if err := v.define(c, s); err != nil {
			return nil, err
		}
		made, live = true, source.Live()
		return c.ImportOverlay(v.ctx, s.name, source.File, client.ImportOptions{Size: source.Size, FileName: source.Name})
	})
	if err == nil || !made || v.ctx.Err() != nil && !live {
		return err
	}
	ctx := context.WithoutCancel(v.ctx)
	job, undo := v.c.DeleteOverlay(ctx, s.name, client.JobOptions{})
	if undo == nil {
		_, undo = job.Wait(ctx, func(client.JobInfo) {})
	}
	if undo != nil {
		v.complain(cannot("delete", s.what()+" again", undo))
		v.hint(fmt.Sprintf("it is there without files: left4ctl overlay import %s %s", s.name, v.source(s.layer)))
	}
	return err
}

// deletions deletes instances, or overlays, at the same time.
func (v *invocation) deletions(c *client.Client, all []step) (int, error) {
	type follower struct {
		step step
		job  *client.Job
		end  chan error
	}
	var asked []follower
	var result error
	for _, s := range all {
		ask := c.DeleteInstance
		if s.kind == "overlay" {
			ask = c.DeleteOverlay
		}
		job, err := ask(v.ctx, s.name, client.JobOptions{})
		if err != nil {
			result = v.stepFailed(s, err)
			break
		}
		f := follower{s, job, make(chan error, 1)}
		go func() {
			steps := v.steps(s.name)
			_, err := job.Wait(v.ctx, steps.show)
			steps.finish()
			f.end <- err
		}()
		asked = append(asked, f)
	}
	made := 0
	for _, f := range asked {
		if err := <-f.end; err != nil {
			result = v.unfinished(f.step.verb, f.step.what(), f.job, false, err)
			continue
		}
		v.took(f.step)
		made++
	}
	return made, result
}

// sayPending tells which instances do not run as they are defined now.
func (v *invocation) sayPending(c *client.Client) {
	all, err := c.InspectInstances(v.ctx)
	if err != nil || v.quiet {
		return // all is done, and this is only good to know
	}
	var pending []string
	for _, i := range all {
		if i.PendingRestart {
			pending = append(pending, i.Name)
		}
	}
	if len(pending) > 0 {
		v.say("changed since they were started: %s", strings.Join(pending, ", "))
		v.hint("left4ctl restart " + strings.Join(pending, " "))
	}
}
