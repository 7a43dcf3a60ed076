package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

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
	v.missMap(name, config.Arguments)
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
		return c.InitializeInstance(v.ctx, name, config, client.InitializeOptions{JobOptions: v.jobOptions()})
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
	if one(given) && len(done) == 1 {
		v.missMap(done[0], changes.Arguments)
	}
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

// userName is the name of a user as left4d tells it, or the uid of one who has none. Who has that uid here is another
// question, which over ssh has another answer.
func userName(name string, uid uint32) string {
	if name != "" {
		return name
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// validName is what left4d takes for a name. It is checked here only where a name does not go to left4d.
func validName(name string) bool { return namePattern.MatchString(name) }

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

func initializeFlags(v *invocation, fs *pflag.FlagSet) {
	fs.StringVarP(&v.file, "file", "f", "", "the spec `FILE`, - for standard input")
	jobFlags(v, fs)
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
	if v.host() == "" {
		c, err := v.dial(v.ctx)
		if err != nil {
			return nil
		}
		v.c = c
	} else if _, err := v.connect(); err != nil {
		return err
	}
	v.c.NoInteraction = true
	service, err := v.c.Service(v.ctx)
	if err == nil {
		fmt.Fprintf(v.stdout, "left4d %s\n", clean(service.Version))
	} else if v.host() != "" {
		return v.failed("ask left4d for its version", "", err)
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
