package ctl

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

// Which maps a server could be started with: those that its layers bring.

type mapJSON struct {
	Name     string   `json:"name"`
	Map      string   `json:"map"`
	Campaign string   `json:"campaign"`
	Modes    []string `json:"modes"`
	Layer    string   `json:"layer"`
	File     string   `json:"file"`
}

func mapsFlags(v *invocation, fs *pflag.FlagSet) {
	fs.BoolVar(&v.overlaysOnly, "overlays", false, "the names are those of overlays, where instances have them too")
	tableFlags(v, fs)
}

func runMaps(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	kind, list := anInstance, func(name string) (client.Maps, error) {
		m, err := c.InstanceMaps(v.ctx, name)
		if errors.Is(err, client.ErrNoSuchInstance) {
			of, overlay := c.OverlayMaps(v.ctx, name)
			if !errors.Is(overlay, client.ErrNoSuchOverlay) {
				return of, overlay
			}
		}
		return m, err
	}
	if v.overlaysOnly {
		kind, list = anOverlay, func(name string) (client.Maps, error) { return c.OverlayMaps(v.ctx, name) }
	}
	names, err := v.selected(kind, v.args)
	if err != nil {
		return err
	}
	answers := ask(v, names, list)
	result := refusals(v, "look for the maps of", answers)
	all, more := []mapJSON{}, false
	for _, a := range answers {
		for _, m := range a.value.Maps {
			all = append(all, mapJSON{a.name, m.Name, m.Campaign, append([]string{}, m.Modes...), m.Layer, m.File})
		}
		for _, u := range a.value.Unread {
			v.complain(fmt.Sprintf("%s: cannot read %s of %s: %s", a.name, u.File, u.Layer, u.Reason))
		}
		more = more || a.value.More
	}
	switch {
	case v.json:
		err = printJSON(v.stdout, all)
	case len(all) > 0 || result == nil:
		headings := []string{"MAP", "CAMPAIGN", "MODES", "LAYER", "FILE"}
		if !one(v.args) {
			headings = slices.Insert(headings, 0, "NAME")
		}
		var rows [][]string
		for _, m := range all {
			row := []string{m.Map, m.Campaign, strings.Join(m.Modes, ", "), m.Layer, m.File}
			if !one(v.args) {
				row = slices.Insert(row, 0, m.Name)
			}
			rows = append(rows, row)
		}
		v.table(headings, rows, "map")
	}
	v.notAll(more)
	return firstOf(err, result)
}

// missMap warns where an instance is to be started with a map that none of its layers brings. It is no error: the game may know
// more than can be seen from outside. Who may not look is not told, and nobody is asked for that.
func (v *invocation) missMap(name string, arguments []string) {
	at := slices.IndexFunc(arguments, func(a string) bool { return strings.EqualFold(a, "+map") })
	if at < 0 || at+1 == len(arguments) {
		return
	}
	wanted := arguments[at+1]
	found, err := unasked(v, func() (client.Maps, error) { return v.c.InstanceMaps(v.ctx, name) })
	if err != nil || found.More || len(found.Maps) == 0 || slices.ContainsFunc(found.Maps, func(m client.Map) bool { return strings.EqualFold(m.Name, wanted) }) {
		return
	}
	v.complain(fmt.Sprintf("%s: no layer brings a map %s", name, wanted))
	v.hint("left4ctl maps " + name + " lists the maps that there are")
}
