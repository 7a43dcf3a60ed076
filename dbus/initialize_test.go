package dbus

import (
	"context"
	"slices"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
	"left4.me/left4/polkit"
)

func TestFilesFrom(t *testing.T) {
	b := startBus(t)
	for _, name := range []string{"a", "b"} {
		b.must(names.Root, names.Manager+".CreateInstance", name, variants{}, variants{})
	}
	from := func(v any) variants { return variants{"files_from": dbus.MakeVariant(v)} }
	b.must(names.Root, names.Manager+".InitializeInstance", "b", variants{}, from("a"))
	b.ended("initialize")
	b.must(names.InstancePath("b"), names.Instance+".Initialize", variants{}, from("a"))
	b.ended("initialize")
	// It is created when it is not there, as without files.
	b.must(names.Root, names.Manager+".InitializeInstance", "c", variants{"hostname": dbus.MakeVariant("h")}, from("a"))
	b.ended("initialize")
	b.must(names.Root, names.Manager+".InitializeInstance", "a", variants{}, from(""))
	b.ended("initialize")
	if got := slices.DeleteFunc(b.units.Calls(), func(c string) bool { return c[:5] != "clone" }); !slices.Equal(got, []string{"clone a b", "clone a b", "clone a c"}) {
		t.Errorf("systemd was asked %q", got)
	}

	b.must(names.Root, names.Manager+".StartInstance", "a", variants{})
	b.ended("start")
	for want, given := range map[string]any{"InvalidArgument": uint32(1), "InvalidName": "../a", "NoSuchInstance": "x", "Busy": "a"} {
		_, err := b.call(names.Root, names.Manager+".InitializeInstance", "d", variants{"hostname": dbus.MakeVariant("h")}, from(given))
		wantError(t, err, names.Error+want)
	}
	_, err := b.call(names.Root, names.Manager+".GetInstance", "d")
	wantError(t, err, names.Error+"NoSuchInstance")
}

// The files of a server may hold secrets: whoever may initialize one instance may not have those of another for that.
func TestFilesFromIsAskedAbout(t *testing.T) {
	b := startBus(t)
	for _, name := range []string{"a", "b"} {
		b.must(names.Root, names.Manager+".CreateInstance", name, variants{}, variants{})
	}
	var asked []string
	var answer func(polkit.Request) polkit.Answer
	b.server.auth = answers(func(_ context.Context, r polkit.Request) (polkit.Answer, error) {
		asked = append(asked, r.Action+" "+r.Details["instance"])
		return answer(r), nil
	})
	initialize := func(from string) error {
		asked = nil
		row := b.server.face.methods[names.Manager]["InitializeInstance"]
		c := &call{header: header{sender: ":1.5"}, ctx: context.Background(), uid: 4000, method: row,
			args: []any{"b", variants{}, variants{"files_from": dbus.MakeVariant(from)}}}
		_, err := b.server.initializeInstance(c)
		return err
	}
	only := func(allowed ...string) func(polkit.Request) polkit.Answer {
		return func(r polkit.Request) polkit.Answer {
			if slices.Contains(allowed, r.Action+" "+r.Details["instance"]) {
				return polkit.Yes
			}
			return polkit.No
		}
	}
	const inspectA, initializeB = "me.left4.instance.inspect a", "me.left4.instance.initialize b"
	answer = only(initializeB, "me.left4.instance.inspect b")
	wantError(t, initialize("a"), names.ErrAccessDenied)
	answer = only(inspectA)
	wantError(t, initialize("a"), names.ErrAccessDenied)
	answer = only(inspectA, initializeB)
	if err := initialize("a"); err != nil || !slices.Equal(asked, []string{inspectA, initializeB}) {
		t.Errorf("asked %q, %v", asked, err)
	}
	b.ended("initialize")

	wantError(t, initialize("x"), names.Error+"NoSuchInstance")
	if asked != nil {
		t.Errorf("a password for what is not there: %q", asked)
	}
	answer = func(r polkit.Request) polkit.Answer {
		if r.Action+" "+r.Details["instance"] == initializeB {
			b.must(names.Root, names.Manager+".DeleteInstance", "a", variants{})
			b.ended("delete")
			b.must(names.Root, names.Manager+".CreateInstance", "a", variants{}, variants{})
		}
		return polkit.Yes
	}
	if err := initialize("a"); err == nil {
		t.Error("a yes for one served for another of its name")
	} else {
		wantError(t, err, names.Error+"Busy")
	}
	if n := b.units.Count("clone"); n != 1 {
		t.Errorf("copied %d times", n)
	}
}
