package daemon

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"left4.me/left4/units"
)

// initializeFrom asks for a copy of the files of from.
func (w *world) initializeFrom(name, from string) (Job, error) {
	w.t.Helper()
	return w.InitializeInstance(name, nil, false, from, Request{Requester: 1000})
}

func TestInitializeCopiesFilesFirst(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.create("b", Changes{})
	w.units.Copy = func(from, to string) {
		if _, _, err := w.Layout.ReadInstance("b"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("b was rendered before its files were copied: %v", err)
		}
		w.mkdir("state/runtime/b/upper")
	}
	j, err := w.initializeFrom("b", "a")
	if err != nil || j.Timeout != copyDeadline {
		t.Fatalf("%+v, %v", j, err)
	}
	if j = w.events.wait(t, j.ID); j.State != JobDone {
		t.Fatalf("%+v", j)
	}
	if w.units.Count("clone a b") != 1 {
		t.Errorf("systemd was asked: %q", w.units.Calls())
	}
	if _, _, err := w.Layout.ReadInstance("b"); err != nil {
		t.Error(err)
	}
	// What systemd says no to.
	w.create("c", Changes{})
	w.units.Fail["clone a c"] = errors.New("cannot copy the files of a: no space left on device")
	j, err = w.initializeFrom("c", "a")
	if err != nil {
		t.Fatal(err)
	}
	if j = w.events.wait(t, j.ID); j.State != JobFailed || j.Cause != "cannot initialize c: cannot copy the files of a: no space left on device" {
		t.Errorf("%+v", j)
	}
	if _, _, err := w.Layout.ReadInstance("c"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("c was rendered: %v", err)
	}
}

func TestInitializeCopiesOnlyWhatIsDown(t *testing.T) {
	for what, c := range map[string]struct {
		from, to string
		prepare  func(w *world)
		code     Code
		want     string
	}{
		"itself":       {"a", "a", nil, InvalidArgument, "cannot initialize a: it cannot have its own files copied"},
		"no source":    {"x", "b", nil, NoSuchInstance, "there is no instance x"},
		"a bad source": {"../x", "b", nil, InvalidName, ""},
		"no target":    {"a", "x", nil, NoSuchInstance, "there is no instance x"},
		"a running source": {"a", "b", func(w *world) { w.do(w.StartInstance, "a", JobDone) },
			Busy, "cannot initialize b: a runs; stop it first"},
		"a source that systemd restarts": {"a", "b", func(w *world) {
			w.units.Set("left4-server@a.service", units.State{Active: "activating", Sub: "auto-restart"})
		}, Busy, "cannot initialize b: a runs; stop it first"},
		"a source with a job": {"a", "b", func(w *world) {
			w.units.Hold["stop left4-server@a.service"] = make(chan struct{})
			if _, err := w.ResetInstance("a", Request{}); err != nil {
				w.t.Fatal(err)
			}
			w.units.Wait(w.t, "stop left4-server@a")
		}, Busy, "cannot initialize b: a has work to do: reset (job 1)"},
		"a target with files": {"a", "b", func(w *world) { w.mkdir("state/runtime/b/upper") },
			InUse, "cannot initialize b: it has files of its own; reset b removes them"},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.create("a", Changes{})
			w.create("b", Changes{})
			if c.prepare != nil {
				c.prepare(w)
			}
			// Nor is anything defined then.
			_, err := w.InitializeInstance(c.to, &Changes{Hostname: ptr("changed")}, false, c.from, Request{})
			if AsCode(err) != c.code || c.want != "" && err.Error() != c.want {
				t.Errorf("%v (%s), want %s (%s)", err, AsCode(err), c.want, c.code)
			}
			if in, err := w.Instance("b"); err != nil || in.Hostname != "" {
				t.Errorf("b is %+v, %v", in, err)
			}
			if w.units.Count("clone") != 0 {
				t.Error("files were copied")
			}
		})
	}
}

// Between the asking and the copying others had their turn.
func TestWhatIsCopiedIsLookedAtAgain(t *testing.T) {
	for what, c := range map[string]struct {
		meanwhile func(w *world)
		want      string
	}{
		"the source was started": {func(w *world) { w.do(w.StartInstance, "a", JobDone) }, "cannot initialize b: a runs; stop it first"},
		"the source was deleted": {func(w *world) { w.do(w.DeleteInstance, "a", JobDone) }, "there is no instance a"},
		"the source is another's": {func(w *world) {
			w.do(w.DeleteInstance, "a", JobDone)
			w.create("a", Changes{})
		}, "cannot initialize b: a was deleted and made again meanwhile"},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.create("a", Changes{})
			w.create("b", Changes{})
			hold := make(chan struct{})
			w.units.Hold["queue-stop left4-server@b.service"] = hold
			if _, err := w.KillInstance("b", Request{}); err != nil {
				t.Fatal(err)
			}
			w.units.Wait(t, "queue-stop left4-server@b")
			j, err := w.initializeFrom("b", "a")
			if err != nil {
				t.Fatal(err)
			}
			c.meanwhile(w)
			close(hold)
			if j = w.events.wait(t, j.ID); j.State != JobFailed || j.Cause != c.want {
				t.Errorf("%s: %s, want %s", j.State, j.Cause, c.want)
			}
			if w.units.Count("clone") != 0 {
				t.Error("files were copied")
			}
		})
	}
}

// left4d was killed in the middle, and the source was started by then: left4-overlay knows whether the copy is whole.
func TestACopyIsTakenUpAgain(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	w.create("b", Changes{})
	w.units.Hold["clone a b"] = make(chan struct{})
	j, err := w.initializeFrom("b", "a")
	if err != nil {
		t.Fatal(err)
	}
	w.units.Wait(t, "clone a b")
	w.units.Release("clone a b")
	w.mkdir("state/runtime/b/upper")
	w.units.Set("left4-server@a.service", units.State{Active: "active", MainPID: 77, ActiveEnter: time.Now()})
	w.again()
	if j = w.events.wait(t, j.ID); j.State != JobDone || w.units.Count("clone a b") != 2 {
		t.Errorf("%+v after %q", j, w.units.Calls())
	}
}

// Who deletes what is being filled must not wait an hour.
func TestARemovalEndsACopy(t *testing.T) {
	for _, c := range []struct {
		kind   string
		remove func(w *world) (Job, error)
	}{
		{"delete", func(w *world) (Job, error) { return w.DeleteInstance("b", Request{}) }},
		{"reset", func(w *world) (Job, error) { return w.ResetInstance("b", Request{}) }},
	} {
		w := newWorld(t)
		w.create("a", Changes{})
		w.create("b", Changes{})
		w.units.Hold["clone a b"] = make(chan struct{})
		j, err := w.initializeFrom("b", "a")
		if err != nil {
			t.Fatal(err)
		}
		w.units.Wait(t, "clone a b")
		remove, err := c.remove(w)
		if err != nil {
			t.Fatal(err)
		}
		if j = w.events.wait(t, j.ID); j.State != JobCanceled || j.Cause != fmt.Sprintf("canceled by %s (job %d)", c.kind, remove.ID) {
			t.Errorf("%+v", j)
		}
		if remove = w.events.wait(t, remove.ID); remove.State != JobDone {
			t.Errorf("%+v", remove)
		}
	}
}
