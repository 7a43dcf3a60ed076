package ring

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

const thousand = 1000

// createThousand brings the number of instances to n. Ports are given, for those that left4 gives by itself are fewer.
func (p play) createThousand(have, n int) {
	p.t.Helper()
	manager := p.Bus(p.t).Object(names.Service, names.Root)
	// Some at once, so that it is not the disk alone that they wait for.
	for first := have; first < n; first += 10 {
		var calls []*dbus.Call
		for i := first; i < min(n, first+10); i++ {
			calls = append(calls, manager.Go(names.Manager+".CreateInstance", 0, nil, fmt.Sprintf("t%d", i), map[string]dbus.Variant{
				"port": dbus.MakeVariant(uint16(20000 + i)), "label": dbus.MakeVariant(fmt.Sprintf("Server %d of a thousand", i)),
				"blueprint": dbus.MakeVariant("thousand"),
			}, map[string]dbus.Variant{}))
		}
		for _, call := range calls {
			if <-call.Done; call.Err != nil {
				p.t.Fatalf("cannot create an instance: %v", call.Err)
			}
		}
	}
}

// asked counts what a command asks left4d for.
func (p play) asked(command ...string) (calls []string) {
	p.t.Helper()
	conn := p.Bus(p.t)
	var owner string
	if err := conn.BusObject().Call(names.Bus+".GetNameOwner", 0, names.Service).Store(&owner); err != nil {
		p.t.Fatalf("left4d has no name: %v", err)
	}
	seen := make(chan *dbus.Message, 64)
	// A call of ours that nobody else makes shows when all that came before it has been seen.
	rules := []string{
		"type='method_call',destination='" + names.Service + "'", "type='method_call',destination='" + owner + "'",
	}
	if err := conn.BusObject().Call("org.freedesktop.DBus.Monitoring.BecomeMonitor", 0, rules, uint32(0)).Err; err != nil {
		p.t.Fatalf("cannot watch the bus: %v", err)
	}
	conn.Eavesdrop(seen)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.Run(p.t, command...)
		p.Bus(p.t).Object(names.Service, "/the/end").Call("org.freedesktop.DBus.Peer.Ping", 0)
	}()
	timer := time.NewTimer(eventDeadline)
	defer timer.Stop()
	for {
		select {
		case m := <-seen:
			if path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath); path == "/the/end" {
				<-ended
				return calls
			}
			if m.Type == dbus.TypeMethodCall { // a monitor is also told that it has lost its name
				calls = append(calls, fmt.Sprintf("%v", m.Headers[dbus.FieldMember].Value()))
			}
		case <-timer.C:
			p.t.Fatalf("%v has no end; it asked for %q", command, calls)
		}
	}
}

// A list asks for a list: however many instances there are, it is the same few calls.
func TestAListIsAFewCalls(t *testing.T) {
	Once(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.ctl("blueprint", "create", "thousand")
		commands := [][]string{{"list"}, {"list", "--json"}, {"status"}, {"blueprint", "list"}, {"job", "list"}}
		few := map[string][]string{}
		p.createThousand(0, 3)
		for _, c := range commands {
			few[strings.Join(c, " ")] = p.asked(append([]string{"left4ctl"}, c...)...)
		}
		p.createThousand(3, thousand)
		for _, c := range commands {
			command := strings.Join(c, " ")
			many := p.asked(append([]string{"left4ctl"}, c...)...)
			t.Logf("left4ctl %s: %d calls (%s)", command, len(many), strings.Join(many, ", "))
			if len(few[command]) == 0 || !slices.Equal(few[command], many) {
				t.Errorf("left4ctl %s makes the calls %q with 3 instances, and with %d: %q", command, few[command], thousand, many)
			}
		}
		if got := strings.Count(p.ctl("list", "--no-legend")+"\n", "\n"); got != thousand {
			t.Errorf("left4ctl list shows %d instances", got)
		}
	})
}
