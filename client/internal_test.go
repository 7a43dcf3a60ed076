package client

import (
	"net"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// The third byte of a message holds its flags. 0x4 is ALLOW_INTERACTIVE_AUTHORIZATION: without it polkit never asks.
func TestInteractiveAuthorizationIsAllowedOnTheWire(t *testing.T) {
	for _, tt := range []struct {
		no   bool
		want byte
	}{{false, 0x4}, {true, 0}} {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		conn, err := dbus.NewConn(ours)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient()
		c.conn = conn
		c.NoInteraction = tt.no
		done := make(chan error)
		go func() {
			var object dbus.ObjectPath
			done <- c.call(t.Context(), names.Root, names.Manager, "StartInstance", []any{"a", noOptions()}, &object)
		}()
		head := make([]byte, 4)
		if _, err := theirs.Read(head); err != nil {
			t.Fatal(err)
		}
		if head[2] != tt.want {
			t.Errorf("NoInteraction %v: flags are %#x", tt.no, head[2])
		}
		// The rest is not read, so the call cannot have ended otherwise.
		theirs.Close()
		conn.Close()
		if err := <-done; err == nil {
			t.Error("the call succeeded")
		}
	}
}

// A change that was signalled while the job was read may be in the answer, or behind it.
func TestStepsThatTheAnswerHoldsAreNotToldAgain(t *testing.T) {
	status := func(s string) event {
		return event{changed: map[string]dbus.Variant{"Status": dbus.MakeVariant(s)}}
	}
	for _, tt := range []struct {
		name, read string
		signalled  []event
		want, left string
	}{
		{"nothing signalled", "a", nil, "a", ""},
		{"all of it read", "c", []event{status("a"), status("b"), status("c")}, "c", ""},
		{"some of it read", "b", []event{status("a"), status("b"), status("c")}, "b", "c"},
		{"none of it read", "x", []event{status("a"), status("b")}, "x", "ab"},
		{"an end between", "b", []event{status("a"), {again: true}, status("b")}, "b", "!"},
	} {
		j := &Job{c: newClient()}
		w := &watch{events: tt.signalled}
		info := JobInfo{Status: tt.read}
		if err := j.settle(w, &info); err != nil {
			t.Fatal(err)
		}
		left := ""
		for _, e := range j.c.take(w) {
			if v, ok := e.changed["Status"]; ok {
				left += v.Value().(string)
			}
			if e.again {
				left += "!"
			}
		}
		if info.Status != tt.want || left != tt.left {
			t.Errorf("%s: %q with %q left", tt.name, info.Status, left)
		}
	}
}

// A client that lives for months hears of many jobs that it never waits for.
func TestResultsOfOthersJobsAreForgottenInTime(t *testing.T) {
	c := newClient()
	c.owner = ":1.1"
	for id := range uint32(3 * maxResults) {
		for range 2 {
			c.DeliverSignal("", "", &dbus.Signal{Sender: ":1.1", Path: names.Root, Name: names.Manager + ".JobRemoved",
				Body: []any{id, names.JobPath(id), "start", "a", "done"}})
		}
	}
	if len(c.results) != maxResults || len(c.ended) != maxResults {
		t.Errorf("%d results are kept", len(c.results))
	}
	if _, known := c.result(names.JobPath(3*maxResults - 1)); !known {
		t.Error("the newest is not")
	}
}
