package ctl

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"left4.me/left4/client"
)

// hostOf reads a host file as a host that has all of it.
func hostOf(t *testing.T, text string) present {
	t.Helper()
	h, err := parseHost(text)
	if err != nil {
		t.Fatal(err)
	}
	return h.asPresent()
}

func TestPlans(t *testing.T) {
	const all = "overlays:\n  sm: {keep: 2}\n  maps: {}\nblueprints:\n  v: {overlays: [sm], config: [sv_x 1]}\n" +
		"instances:\n  a: {port: 27015, blueprint: v, label: A}\n  b: {port: 27016, overlays: [maps]}\n"
	for _, tt := range []struct {
		name, host, file string
		prune            bool
		want             string
	}{
		{name: "on an empty host, what is needed comes first", host: "overlays: {}", file: "instances:\n  a: {blueprint: v}\nblueprints:\n  v: {overlays: [sm]}\noverlays:\n  sm: {from: ./sm}\n",
			want: "create overlay sm: from ./sm; create blueprint v; create instance a"},
		{name: "the same", host: all, file: all},
		{name: "the same, with what is the default", host: all,
			file: strings.NewReplacer("maps: {}", "maps: {type: files, keep: 1, from: ./x}", "label: A", "label: A, restart: always, hostname: '', config: [], limits: {}", "port: 27016, ", "").Replace(all)},
		{name: "one line", host: all, file: strings.Replace(all, "sv_x 1", "sv_x 2", 1), want: "update blueprint v: config"},
		{name: "what is not given goes back to the default", host: all, file: "overlays:\n  sm: {}\nblueprints:\n  v: {}\ninstances:\n  a: {}\n",
			want: "update overlay sm: keep; update blueprint v: overlays, config; update instance a: blueprint, label; and has instance b, overlay maps"},
		{name: "all that the host has can be named", host: all, file: "instances:\n  c: {blueprint: v, overlays: [maps]}\n",
			want: "create instance c; and has instance a, instance b, blueprint v, overlay maps, overlay sm"},
		{name: "what goes, goes behind those who had it", host: all, file: "instances:\n  b: {port: 27016}\n  c: {}\n", prune: true,
			want: "update instance b: overlays; create instance c; delete instance a; delete blueprint v; delete overlay maps; delete overlay sm"},
		{name: "unless its port is needed", host: all, file: "instances:\n  b: {port: 27016}\n  c: {port: 27015}\n", prune: true,
			want: "update instance b: overlays; delete instance a; create instance c; delete blueprint v; delete overlay maps; delete overlay sm"},
		{name: "a port of one's own comes before any port", host: "overlays: {}", file: "instances:\n  a: {}\n  b: {port: 27015}\n",
			want: "create instance b; create instance a"},
		{name: "a port that another one leaves", host: all, file: strings.NewReplacer("27015", "27016", "27016", "27017").Replace(all),
			want: "update instance b: port; update instance a: port"},
		{name: "ports that change places", host: all, file: strings.NewReplacer("27015", "27016", "27016", "27015").Replace(all),
			want: "update instance b: port, for now to 27017; update instance a: port; update instance b: port"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, err := parseHost(tt.file)
			if err != nil {
				t.Fatal(err)
			}
			steps, beyond, err := h.plan(hostOf(t, tt.host), tt.prune)
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, s := range steps {
				lines = append(lines, s.String())
			}
			if len(beyond) > 0 && !tt.prune {
				lines = append(lines, "and has "+strings.Join(beyond, ", "))
			}
			if got := strings.Join(lines, "; "); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestPlansThatCannotBe(t *testing.T) {
	const all = "overlays:\n  sm: {}\nblueprints:\n  v: {}\ninstances:\n  a: {port: 27015}\n"
	for _, tt := range []struct {
		name, file string
		prune      bool
		want       string
	}{
		{"unknown overlay", "overlays:\n  maps: {}\ninstances:\n  b:\n    overlays:\n      - sm\n      - maps\n      - {path: sn}\n", false,
			"8: instances.b.overlays: there is no overlay sn, neither in the file nor on this host"},
		{"unknown overlay of a blueprint", "blueprints:\n  w: {overlays: [sn]}\n", false, "2: blueprints.w.overlays: there is no overlay sn, neither in the file nor on this host"},
		{"unknown blueprint", "instances:\n  b: {blueprint: w}\n", false, "2: instances.b.blueprint: there is no blueprint w, neither in the file nor on this host"},
		{"an overlay that goes", "blueprints:\n  v: {overlays: [sm]}\n", true, "2: blueprints.v.overlays: overlay sm is on this host, but --prune deletes it, because the file does not have it"},
		{"a blueprint that goes", "instances:\n  b: {blueprint: v}\n", true, "2: instances.b.blueprint: blueprint v is on this host, but --prune deletes it, because the file does not have it"},
		{"the port of one that stays", "instances:\n  b: {port: 27015}\n", false, "2: instances.b.port: 27015 is that of instance a, which the file does not have"},
		{"the port of one that keeps it", "instances:\n  a: {}\n  b: {port: 27015}\n", false, "3: instances.b.port: 27015 is that of instance a, for which the file has none"},
	} {
		h, err := parseHost(tt.file)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := h.plan(hostOf(t, all), tt.prune); fmt.Sprint(err) != tt.want {
			t.Errorf("%s:\ngot  %v\nwant %s", tt.name, err, tt.want)
		}
	}
	on := hostOf(t, all)
	on.overlays["sm"] = layer{name: "sm", kind: "workshop"}
	h, err := parseHost("overlays:\n  sm:\n    type: files\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.plan(on, false); fmt.Sprint(err) != "3: overlays.sm: the overlay is there and of type workshop, which cannot be changed to files" {
		t.Error(err)
	}
}

// However ports are dealt out anew, each step finds its port free, and in the end all is as the file says.
func TestEveryDealOfPortsWorks(t *testing.T) {
	possible := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 0))
		port := func() uint16 { return uint16(firstPort + r.IntN(8)) }
		on := present{instances: map[string]definition{}}
		ports := map[string]uint16{}
		for i := range r.IntN(7) {
			if p := port(); !slices.Contains(slices.Collect(maps.Values(ports)), p) {
				name := fmt.Sprintf("i%d", i)
				ports[name] = p
				on.instances[name] = definition{name: name, config: completed(client.Config{Port: &p})}
			}
		}
		before := maps.Clone(ports)
		h := &host{}
		for i := range r.IntN(8) {
			var c client.Config
			if r.IntN(4) > 0 {
				p := port()
				c.Port = &p
			}
			d := definition{name: fmt.Sprintf("i%d", r.IntN(2)*3+i), config: completed(c)}
			taken := slices.ContainsFunc(h.instances, func(o definition) bool {
				return o.name == d.name || c.Port != nil && o.config.Port != nil && *o.config.Port == *c.Port
			})
			if !taken {
				h.instances = append(h.instances, d)
			}
		}
		prune := r.IntN(2) == 0
		keeps := func(name string) bool {
			i := slices.IndexFunc(h.instances, func(d definition) bool { return d.name == name })
			return i >= 0 && h.instances[i].config.Port == nil || i < 0 && !prune
		}
		if slices.ContainsFunc(h.instances, func(d definition) bool {
			for name, p := range before {
				if d.config.Port != nil && *d.config.Port == p && name != d.name && keeps(name) {
					return true
				}
			}
			return false
		}) {
			continue // refused: TestPlansThatCannotBe
		}
		possible++
		steps, beyond, err := h.plan(on, prune)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		deleted := 0
		for _, s := range steps {
			p := s.config.Port
			if p != nil {
				for name, other := range ports {
					if other == *p && name != s.name {
						t.Fatalf("seed %d: %s finds port %d at %s; %v → %v", seed, s, *p, name, before, steps)
					}
				}
			}
			_, exists := ports[s.name]
			switch {
			case s.verb == "delete":
				deleted++
				delete(ports, s.name)
			case s.verb == "create" == exists:
				t.Fatalf("seed %d: %s, which is there: %v", seed, s, exists)
			case p != nil:
				ports[s.name] = *p
			case s.verb == "create":
				free := uint16(firstPort)
				for slices.Contains(slices.Collect(maps.Values(ports)), free) {
					free++
				}
				ports[s.name] = free
			}
		}
		if prune != (deleted > 0) && len(beyond) > 0 {
			t.Fatalf("seed %d: %d of %v deleted, prune is %v", seed, deleted, beyond, prune)
		}
		for _, d := range h.instances {
			got, exists := ports[d.name]
			if !exists || d.config.Port != nil && got != *d.config.Port || d.config.Port == nil && before[d.name] != 0 && got != before[d.name] {
				t.Fatalf("seed %d: %s has port %d; %v → %v", seed, d.name, got, before, steps)
			}
		}
		if left := len(ports) - len(h.instances); prune && left != 0 || !prune && left != len(beyond) {
			t.Fatalf("seed %d: %d instances are left: %v", seed, left, ports)
		}
	}
	if possible < 1000 {
		t.Errorf("only %d deals were tried", possible)
	}
}
