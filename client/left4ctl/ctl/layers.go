package ctl

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

// What an instance is made of: the layers below it, what it changed itself, the server.cfg that comes out of it.

type foundJSON struct {
	Layer  string `json:"layer"`
	Kind   string `json:"kind"`
	Hidden bool   `json:"hidden"`
	Wins   bool   `json:"wins"`
}

// runWhich answers as which does: with 1 if there is no such file, whatever layers hold it.
func runWhich(v *invocation) error {
	name, path := v.args[0], v.args[1]
	c, err := v.connect()
	if err != nil {
		return err
	}
	found, err := c.FindFile(v.ctx, name, path)
	if err != nil {
		return v.failed("look into", name, err)
	}
	layers := make([]foundJSON, 0, len(found))
	there := false
	for _, f := range found {
		kind, hidden := strings.CutPrefix(f.Kind, "hidden ")
		wins := !there && !hidden && kind != "whiteout"
		there = there || wins
		layers = append(layers, foundJSON{f.Layer, kind, hidden, wins})
	}
	switch {
	case v.json:
		if err := printJSON(v.stdout, layers); err != nil {
			return err
		}
	case len(layers) == 0:
		v.say("%s: no layer holds %s", name, path)
	default:
		var rows [][]string
		for _, l := range layers {
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
			rows = append(rows, []string{l.Layer, what, mark})
		}
		v.table([]string{"LAYER", "WHAT", "MARK"}, rows, "layer")
	}
	if !there {
		return exitCode(exitFailure)
	}
	return nil
}

type changeJSON struct {
	Path   string `json:"path"`
	Change string `json:"change"`
	Size   uint64 `json:"size"`
}

func runDiff(v *invocation) error {
	name := v.args[0]
	c, err := v.connect()
	if err != nil {
		return err
	}
	changes, more, err := c.ListChanges(v.ctx, name)
	if err != nil {
		return v.failed("look into", name, err)
	}
	if v.json {
		all := make([]changeJSON, 0, len(changes))
		for _, f := range changes {
			all = append(all, changeJSON{f.Path, f.Change, f.Bytes})
		}
		err = printJSON(v.stdout, all)
	} else {
		var rows [][]string
		for _, f := range changes {
			size := roughSize(f.Bytes)
			if f.Change == "removed" {
				size = ""
			}
			rows = append(rows, []string{f.Change, size, f.Path})
		}
		v.table([]string{"CHANGE", "SIZE", "PATH"}, rows, "change")
	}
	v.notAll(more)
	return err
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
	name := v.args[0]
	c, err := v.connect()
	if err != nil {
		return err
	}
	text, err := c.GetServerConfig(v.ctx, name)
	if err != nil {
		return v.failed("preview", name, err)
	}
	for line := range strings.Lines(text) {
		fmt.Fprintln(v.stdout, cleanLine(line))
	}
	return nil
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
