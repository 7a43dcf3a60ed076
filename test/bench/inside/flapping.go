package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
	"left4.me/left4/units"
)

// flapping is row 7: servers that crash again and again, and systemd restarts them. A client hears both of systemd's change
// and of left4d's, which is what lies between.
func (b *bench) flapping() {
	var all []string
	for i := range b.Flap {
		name := fmt.Sprintf("flap%d", i)
		all = append(all, name)
		b.define(name, "flap", firstPort+7000+i)
		dir := unitDir + "/" + units.ServerUnit(name) + ".d"
		check(os.MkdirAll(dir, 0o755))
		check(os.WriteFile(dir+"/20-flap.conf", []byte("[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=1\n"), 0o644))
	}
	b.stopAllLight()
	b.all("StartInstance", all)
	type change struct{ name, state string }
	told := map[change]time.Time{}
	var late samples
	unheard := 0
	undo := b.listenTo(func(at time.Time, s *dbus.Signal) {
		switch s.Name {
		case names.Properties + ".PropertiesChanged":
			name, ok := flapOf(s.Path)
			if !ok || s.Body[0] != systemd+".Unit" {
				return
			}
			changed, _ := s.Body[1].(map[string]dbus.Variant)
			active, _ := changed["ActiveState"].Value().(string)
			sub, _ := changed["SubState"].Value().(string)
			c := change{name, stateOf(active, sub)}
			if _, twice := told[c]; twice {
				unheard++ // the one before it was over before left4d had looked
			}
			told[c] = at
		case names.Manager + ".InstanceStateChanged":
			name, _ := s.Body[0].(string)
			state, _ := s.Body[2].(string)
			c := change{name, state}
			if since, ok := told[c]; ok {
				late = append(late, at.Sub(since))
				delete(told, c)
			}
		}
	})
	time.Sleep(time.Duration(b.Flaps) * time.Second)
	undo()
	b.all("StopInstance", all)
	b.quiet()
	if len(late) == 0 {
		fatalf("no change of a flapping server was heard")
	}
	b.row(fmt.Sprintf("7 systemd's signal to ours, %d flapping", b.Flap), late.figures("delay"), "p99 ≤ 20 ms", late.p99() <= 20*time.Millisecond,
		fmt.Sprintf("%d changes in %d s, %d more were over before they could be told", len(late), b.Flaps, unheard))
}

// stopAllLight stops what runs, so that it is the flapping alone that the machine has to do.
func (b *bench) stopAllLight() {
	before := b.reloadsSoFar()
	for b.light > b.Changed {
		first := max(b.Changed, b.light-25)
		b.all("StopInstance", lightNames(first, b.light))
		b.light = first
	}
	b.stops += b.reloadsSoFar() - before
	b.quiet()
}

func flapOf(path dbus.ObjectPath) (name string, ok bool) {
	// /org/freedesktop/systemd1/unit/left4_2dserver_40flap7_2eservice
	rest, ok := strings.CutPrefix(string(path), "/org/freedesktop/systemd1/unit/left4_2dserver_40flap")
	rest, ok2 := strings.CutSuffix(rest, "_2eservice")
	return "flap" + rest, ok && ok2
}

// stateOf is what left4 calls a state of systemd's.
func stateOf(active, sub string) string {
	switch {
	case active == "active":
		return "running"
	case strings.HasPrefix(sub, "auto-restart"):
		return "restarting"
	case active == "activating":
		return "starting"
	case active == "deactivating":
		return "stopping"
	case active == "failed":
		return "failed"
	}
	return "stopped"
}
