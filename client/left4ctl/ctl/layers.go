package ctl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

// What an instance is made of: the layers below it, what it changed itself, the server.cfg that comes out of it.

type foundJSON struct {
	Instance string `json:"instance"`
	Layer    string `json:"layer"`
	Kind     string `json:"kind"`
	Hidden   bool   `json:"hidden"`
	Wins     bool   `json:"wins"`
}

// runWhich answers as which does: with 1 if an instance sees no such file, whatever layers hold it.
func runWhich(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	given, path := v.args[:len(v.args)-1], v.args[len(v.args)-1]
	names, err := v.selected(anInstance, given)
	if err != nil {
		return err
	}
	answers := ask(v, names, func(name string) ([]client.Found, error) { return c.FindFile(v.ctx, name, path) })
	result := refusals(v, "look into", answers)
	all := []foundJSON{}
	for _, a := range answers {
		there := false
		for _, f := range a.value {
			kind, hidden := strings.CutPrefix(f.Kind, "hidden ")
			wins := !there && !hidden && kind != "whiteout"
			there = there || wins
			all = append(all, foundJSON{a.name, f.Layer, kind, hidden, wins})
		}
		if a.err == nil && len(a.value) == 0 && !v.json {
			v.say("%s: no layer holds %s", a.name, path)
		}
		if !there {
			result = exitCode(exitFailure)
		}
	}
	switch {
	case v.json:
		return firstOf(printJSON(v.stdout, all), result)
	case len(all) == 0:
		return result
	}
	headings := []string{"LAYER", "WHAT", "MARK"}
	if !one(given) {
		headings = slices.Insert(headings, 0, "INSTANCE")
	}
	var rows [][]string
	for _, l := range all {
		what, mark := l.Kind, ""
		if l.Kind == "whiteout" {
			what = "removed here"
		} else if l.Kind == "opaque" {
			what = "directory, hides those below"
		}
		switch {
		case l.Wins:
			mark = "wins"
		case l.Hidden:
			mark = "hidden"
		case l.Kind == "directory" || l.Kind == "opaque":
			mark = "merged"
		}
		row := []string{l.Layer, what, mark}
		if !one(given) {
			row = slices.Insert(row, 0, l.Instance)
		}
		rows = append(rows, row)
	}
	v.table(headings, rows, "layer")
	return result
}

type changeJSON struct {
	Instance string `json:"instance"`
	Path     string `json:"path"`
	Change   string `json:"change"`
	Size     uint64 `json:"size"`
}

func runDiff(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, err := v.selected(anInstance, v.args)
	if err != nil {
		return err
	}
	type changes struct {
		list []client.Change
		more bool
	}
	answers := ask(v, names, func(name string) (changes, error) {
		list, more, err := c.ListChanges(v.ctx, name)
		return changes{list, more}, err
	})
	result := refusals(v, "look into", answers)
	all, more := []changeJSON{}, false
	for _, a := range answers {
		for _, f := range a.value.list {
			all = append(all, changeJSON{a.name, f.Path, f.Change, f.Bytes})
		}
		more = more || a.value.more
	}
	switch {
	case v.json:
		err = printJSON(v.stdout, all)
	case len(all) > 0 || result == nil:
		headings := []string{"CHANGE", "SIZE", "PATH"}
		if !one(v.args) {
			headings = slices.Insert(headings, 0, "INSTANCE")
		}
		var rows [][]string
		for _, f := range all {
			size := roughSize(f.Size)
			if f.Change == "removed" {
				size = ""
			}
			row := []string{f.Change, size, f.Path}
			if !one(v.args) {
				row = slices.Insert(row, 0, f.Instance)
			}
			rows = append(rows, row)
		}
		v.table(headings, rows, "change")
	}
	v.notAll(more)
	return firstOf(err, result)
}

// notAll tells that a list was cut, on standard error because it is true for JSON too.
func (v *invocation) notAll(more bool) {
	if more {
		v.complain("there are more than are shown")
	}
}

type conflictJSON struct {
	Path     string   `json:"path"`
	Overlays []string `json:"overlays"`
}

func conflictsFlags(v *invocation, fs *pflag.FlagSet) {
	fs.StringVar(&v.instance, "instance", "", "look at the overlays of instance `NAME`, with those of its blueprint")
	tableFlags(v, fs)
}

func runConflicts(v *invocation) error {
	if (len(v.args) == 0) == (v.instance == "") {
		return usagef("conflicts needs BLUEPRINT or --instance NAME")
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	name, ask := v.instance, c.InstanceConflicts
	if name == "" {
		name, ask = v.args[0], c.BlueprintConflicts
	}
	conflicts, more, err := ask(v.ctx, name)
	if err != nil {
		return v.failed("look into", name, err)
	}
	if v.json {
		all := make([]conflictJSON, 0, len(conflicts))
		for _, c := range conflicts {
			all = append(all, conflictJSON(c))
		}
		err = printJSON(v.stdout, all)
	} else {
		var rows [][]string
		for _, c := range conflicts {
			rows = append(rows, []string{c.Path, strings.Join(c.Overlays, ", ")})
		}
		v.table([]string{"PATH", "OVERLAYS"}, rows, "conflict")
	}
	v.notAll(more)
	return err
}

func runPreview(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, err := v.selected(anInstance, v.args)
	if err != nil {
		return err
	}
	answers := ask(v, names, func(name string) (string, error) { return c.GetServerConfig(v.ctx, name) })
	result := refusals(v, "preview", answers)
	told := false
	for _, a := range answers {
		if a.err != nil {
			continue
		}
		if !one(v.args) {
			if told {
				fmt.Fprintln(v.stdout)
			}
			told = true
			fmt.Fprintf(v.stdout, "==> %s <==\n", clean(a.name)) // as head and tail print it
		}
		for line := range strings.Lines(a.value) {
			fmt.Fprintln(v.stdout, cleanLine(line))
		}
	}
	return result
}

// cleanLine is a line of a text file, with its tabs.
func cleanLine(line string) string {
	parts := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
	for n := range parts {
		parts[n] = clean(parts[n])
	}
	return strings.Join(parts, "\t")
}

func runSecret(v *invocation) error {
	name, key := v.args[0], client.SecretRconPassword
	if len(v.args) > 1 {
		key = v.args[1]
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	value, err := c.GetSecret(v.ctx, name, key)
	if err != nil {
		return v.failed("read "+key+" of", name, err)
	}
	fmt.Fprintln(v.stdout, clean(value))
	return nil
}
