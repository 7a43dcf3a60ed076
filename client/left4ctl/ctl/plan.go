package ctl

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"left4.me/left4/client"
)

// step is one change of a host.
type step struct {
	verb   string // create, update, delete
	kind   string // overlay, blueprint, instance
	name   string
	detail string        // the keys that change, where it is filled from
	layer  layer         // to create, or to update
	config client.Config // all of it to create, what changes to update
}

func (s step) what() string { return s.kind + " " + s.name }

func (s step) String() string {
	text := s.verb + " " + s.what()
	if s.detail != "" {
		text += ": " + s.detail
	}
	return text
}

// present is what a host has. The definitions are completed, and there for what a file speaks of only.
type present struct {
	overlays   map[string]layer
	blueprints map[string]definition
	instances  map[string]definition
}

// plan is what has to be done to make a host match a file, and what the host has beyond it, which goes if prune is set.
// Each step finds what it needs: overlays come before what has them, and a port is free before it is given away.
func (h *host) plan(on present, prune bool) (steps []step, beyond []string, err error) {
	if err := h.checkOn(on, prune); err != nil {
		return nil, nil, err
	}
	for _, l := range h.overlays {
		have, exists := on.overlays[l.name]
		switch {
		case !exists:
			s := step{verb: "create", kind: "overlay", name: l.name, layer: l}
			if l.from != "" {
				s.detail = "from " + l.from
			}
			steps = append(steps, s)
		default:
			var differ []string
			if have.keep != l.keep {
				differ = append(differ, "keep")
			}
			if !slices.Equal(have.item, l.item) {
				differ = append(differ, "items")
			}
			if have.script != l.script {
				differ = append(differ, "script")
			}
			if len(differ) > 0 {
				steps = append(steps, step{verb: "update", kind: "overlay", name: l.name, detail: strings.Join(differ, ", "), layer: l})
			}
		}
	}
	steps = append(steps, differing("blueprint", h.blueprints, on.blueprints)...)
	spare := func(kind string, have []string, named func(string) bool) (gone []step) {
		for _, name := range have {
			if !named(name) {
				beyond = append(beyond, kind+" "+name)
				if prune {
					gone = append(gone, step{verb: "delete", kind: kind, name: name})
				}
			}
		}
		return gone
	}
	instances := spare("instance", sortedNames(on.instances), func(name string) bool { return has(h.instances, name) })
	blueprints := spare("blueprint", sortedNames(on.blueprints), func(name string) bool { return has(h.blueprints, name) })
	overlays := spare("overlay", sortedNames(on.overlays), func(name string) bool {
		return slices.ContainsFunc(h.overlays, func(l layer) bool { return l.name == name })
	})
	steps = append(steps, byPort(differing("instance", h.instances, on.instances), instances, on.instances, h.instances)...)
	return slices.Concat(steps, blueprints, overlays), beyond, nil
}

func has(list []definition, name string) bool {
	return slices.ContainsFunc(list, func(d definition) bool { return d.name == name })
}

// differing creates what is not there and updates what is not as it shall be.
func differing(kind string, want []definition, have map[string]definition) []step {
	var steps []step
	for _, d := range want {
		now, exists := have[d.name]
		if !exists {
			steps = append(steps, step{verb: "create", kind: kind, name: d.name, config: d.given()})
			continue
		}
		if changes, keys := changed(completed(now.config), d.config); len(keys) > 0 {
			steps = append(steps, step{verb: "update", kind: kind, name: d.name, detail: strings.Join(keys, ", "), config: changes})
		}
	}
	return steps
}

// given is the config without the defaults.
func (d definition) given() client.Config {
	changes, _ := changed(completed(client.Config{}), d.config)
	return changes
}

// byPort puts steps of instances into an order in which each finds its port free, and adds those that delete instances.
// These come last, so that what fails before them costs no server, unless a port waits for one. Whoever takes the next
// free port comes behind those who know theirs. Where ports go around in a circle, one instance has another meanwhile.
func byPort(steps, deletes []step, on map[string]definition, want []definition) []step {
	holder := map[uint16]string{}
	used := map[uint16]bool{} // now or in the end
	for name, d := range on {
		holder[*d.config.Port], used[*d.config.Port] = name, true
	}
	for _, d := range want {
		if d.config.Port != nil {
			used[*d.config.Port] = true
		}
	}
	var done, later []step
	for _, s := range steps {
		if s.verb == "create" && s.config.Port == nil {
			later = append(later, s)
		}
	}
	rest := slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return s.verb == "create" && s.config.Port == nil })
	release := func(name string) {
		for port, who := range holder {
			if who == name {
				delete(holder, port)
			}
		}
	}
	do := func(s step) {
		done = append(done, s)
		if s.verb == "delete" || s.config.Port != nil {
			release(s.name)
		}
		if s.config.Port != nil {
			holder[*s.config.Port] = s.name
		}
	}
	take := func(from *[]step, name string) (step, bool) {
		i := slices.IndexFunc(*from, func(s step) bool { return s.name == name })
		if i < 0 {
			return step{}, false
		}
		s := (*from)[i]
		*from = slices.Delete(*from, i, i+1)
		return s, true
	}
	for len(rest) > 0 {
		waiting := rest[:0:0]
		for _, s := range rest {
			if s.config.Port != nil && holder[*s.config.Port] != "" {
				waiting = append(waiting, s)
				continue
			}
			do(s)
		}
		if len(waiting) == len(rest) {
			// Nobody can go on: somebody who goes anyway holds a port, or there is a circle.
			held := holder[*waiting[0].config.Port]
			for seen := map[string]bool{}; !seen[held]; {
				seen[held] = true
				if i := slices.IndexFunc(waiting, func(s step) bool { return s.name == held }); i >= 0 {
					held = holder[*waiting[i].config.Port]
				}
			}
			if s, ok := take(&deletes, held); ok {
				do(s)
			} else {
				port := freePort(used)
				do(step{verb: "update", kind: "instance", name: held, detail: fmt.Sprintf("port, for now to %d", port), config: client.Config{Port: &port}})
			}
		}
		rest = waiting
	}
	return slices.Concat(done, later, deletes)
}

// freePort is a port that nobody has or wants.
func freePort(used map[uint16]bool) uint16 {
	port := uint16(firstPort)
	for used[port] {
		port++
	}
	return port
}

// firstPort is where left4d begins to look for a free one.
const firstPort = 27015

// checkOn finds what is wrong with a file on this host: what it names must be there, and its ports must be free or get
// so.
func (h *host) checkOn(on present, prune bool) error {
	overlays, blueprints := map[string]bool{}, map[string]bool{}
	for _, l := range h.overlays {
		overlays[l.name] = true
		if have, exists := on.overlays[l.name]; exists && have.kind != l.kind {
			n := l.at.keys["type"]
			if n == nil {
				n = l.at.name
			}
			return at(n, "overlays."+l.name, fmt.Sprintf("the overlay is there and of type %s, which cannot be changed to %s", have.kind, l.kind))
		}
	}
	for _, d := range h.blueprints {
		blueprints[d.name] = true
	}
	check := func(section string, d definition) error {
		for i, o := range d.config.Overlays {
			_, exists := on.overlays[o.Name]
			if why := missing("overlay", o.Name, overlays[o.Name], exists, prune); why != "" {
				return d.wrong(section, "overlays", i, why)
			}
		}
		if name := *d.config.Blueprint; name != "" {
			_, exists := on.blueprints[name]
			if why := missing("blueprint", name, blueprints[name], exists, prune); why != "" {
				return d.wrong(section, "blueprint", 0, why)
			}
		}
		return nil
	}
	for _, d := range h.blueprints {
		if err := check("blueprints", d); err != nil {
			return err
		}
	}
	wanted := map[string]*uint16{}
	for _, d := range h.instances {
		if err := check("instances", d); err != nil {
			return err
		}
		wanted[d.name] = d.config.Port
	}
	kept := map[uint16]string{} // the ports of instances that keep theirs without a word about it in the file
	for name, d := range on.instances {
		if own, named := wanted[name]; named && own == nil || !named && !prune {
			kept[*d.config.Port] = name
		}
	}
	for _, d := range h.instances {
		if d.config.Port == nil {
			continue
		}
		name, taken := kept[*d.config.Port]
		if _, named := wanted[name]; taken && named {
			return d.wrong("instances", "port", 0, fmt.Sprintf("%d is that of instance %s, for which the file has none", *d.config.Port, name))
		} else if taken {
			return d.wrong("instances", "port", 0, fmt.Sprintf("%d is that of instance %s, which the file does not have", *d.config.Port, name))
		}
	}
	return nil
}

func sortedNames[T any](set map[string]T) []string { return slices.Sorted(maps.Keys(set)) }

// missing tells why something cannot be named, if it cannot.
func missing(kind, name string, inFile, onHost, prune bool) string {
	switch {
	case inFile, onHost && !prune:
		return ""
	case onHost:
		return fmt.Sprintf("%s %s is on this host, but --prune deletes it, because the file does not have it", kind, name)
	}
	return fmt.Sprintf("there is no %s %s, neither in the file nor on this host", kind, name)
}
