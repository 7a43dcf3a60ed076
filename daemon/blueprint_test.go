package daemon

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

func TestAnInstanceFollowsItsBlueprint(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"own", "both", "base"} {
		w.overlay(name, map[string]string{"left4dead2/cfg/server.cfg": name})
	}
	if _, err := w.CreateBlueprint("versus", Changes{
		Overlays:  &[]store.OverlayRef{{Overlay: "base", Alias: "*"}, {Overlay: "both", Alias: "*"}},
		Arguments: &[]string{"+map", "c1m1_hotel"}, Config: &[]string{"sv_x 1"},
		Limits: &units.Limits{MemoryMax: ptr(uint64(1 << 30)), TasksMax: ptr(uint64(100))},
	}, 1000); err != nil {
		t.Fatal(err)
	}
	w.create("a", Changes{
		Blueprint: ptr("versus"), Overlays: &[]store.OverlayRef{{Overlay: "own", Alias: "*"}, {Overlay: "both"}},
		Arguments: &[]string{"+sv_y", "2"}, Config: &[]string{"sv_x 3"}, Limits: &units.Limits{TasksMax: ptr(uint64(50))},
	})
	in, err := w.Instance("a")
	if err != nil {
		t.Fatal(err)
	}
	want := Effective{[]store.OverlayRef{{Overlay: "own", Alias: "*"}, {Overlay: "both"}, {Overlay: "base", Alias: "*"}},
		units.Limits{MemoryMax: ptr(uint64(1 << 30)), TasksMax: ptr(uint64(50))}}
	if !reflect.DeepEqual(in.Effective, want) {
		t.Errorf("%+v", in.Effective)
	}
	text, err := w.ServerConfig("a")
	preview := "exec server_overlay_3 // from overlay base, revision 2\nexec server_overlay_1 // from overlay own, revision 2\n" +
		"sv_x 1 // from blueprint versus\nsv_x 3 // from instance a\nrcon_password \"********\" // from instance a\n"
	if err != nil || text != preview {
		t.Errorf("the preview is %q, %v", text, err)
	}
	r, err := w.render(in.Instance)
	if err != nil || !slices.Equal(r.server.Command[len(r.server.Command)-4:], []string{"+map", "c1m1_hotel", "+sv_y", "2"}) {
		t.Errorf("%v, %v", r.server.Command, err)
	}

	w.create("b", Changes{})
	if err := w.ConfigureInstance("b", Changes{Blueprint: ptr("versus")}); err != nil {
		t.Fatal(err)
	}
	if b, _ := w.Blueprint("versus"); !slices.Equal(b.Instances, []string{"a", "b"}) {
		t.Errorf("%+v", b)
	}
	if err := w.DeleteBlueprint("versus"); AsCode(err) != InUse || !strings.Contains(err.Error(), "instances a, b") {
		t.Errorf("%v", err)
	}
	if err := w.ConfigureInstance("b", Changes{Blueprint: ptr("")}); err != nil {
		t.Fatal(err)
	}
	if b, _ := w.Blueprint("versus"); !slices.Equal(b.Instances, []string{"a"}) {
		t.Errorf("%+v", b)
	}
	w.do(w.DeleteInstance, "a", JobDone)
	w.again()
	if err := w.DeleteBlueprint("versus"); err != nil {
		t.Error(err)
	}
	if err := w.DeleteBlueprint("versus"); err != nil {
		t.Errorf("deleting what is not there: %v", err)
	}
}

func TestABlueprintIsLive(t *testing.T) {
	w := newWorld(t)
	if _, err := w.CreateBlueprint("b", Changes{}, 0); err != nil {
		t.Fatal(err)
	}
	w.create("a", Changes{Blueprint: ptr("b")})
	w.do(w.StartInstance, "a", JobDone)
	w.units.Set("left4-server@a.service", units.State{Active: "active", MainPID: 7, ActiveEnter: time.Now()})
	if _, err := w.UpdateBlueprint("b", Changes{Limits: &units.Limits{TasksMax: ptr(uint64(99))}}); err != nil {
		t.Fatal(err)
	}
	if n := w.units.Count("set-limits left4-server@a"); n != 1 {
		t.Errorf("limits were given to the running server %d times", n)
	}
	if _, err := w.UpdateBlueprint("b", Changes{Config: &[]string{"sv_cheats 0"}}); err != nil {
		t.Fatal(err)
	}
	if n := w.units.Count("set-limits left4-server@a"); n != 1 {
		t.Errorf("limits were given to the running server %d times", n)
	}
	if in, _ := w.Instance("a"); in.PendingCause == "" {
		t.Errorf("%+v", in)
	}
}

func TestBlueprintsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	var many []store.OverlayRef
	for i := range 501 {
		many = append(many, store.OverlayRef{Overlay: fmt.Sprintf("o%d", i)})
	}
	for _, name := range []string{"x", "y"} {
		w.overlay(name, nil)
	}
	if _, err := w.CreateBlueprint("b", Changes{}, 0); err != nil {
		t.Fatal(err)
	}
	w.create("a", Changes{Blueprint: ptr("b"), Overlays: &[]store.OverlayRef{{Overlay: "x", Alias: "one"}}, Arguments: ptr(slices.Repeat([]string{"+x"}, 200))})
	for _, c := range []struct {
		name    string
		changes Changes
		code    Code
	}{
		{"B", Changes{}, InvalidName},
		{"b", Changes{Port: ptr(uint16(27020))}, InvalidArgument},
		{"b", Changes{Blueprint: ptr("b")}, InvalidArgument},
		{"b", Changes{Overlays: &many}, InvalidArgument},
		{"b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "x"}, {Overlay: "x"}}}, InvalidArgument},
		{"b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "x", Alias: "server_overlay_7"}}}, InvalidArgument},
		{"b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "none"}}}, NoSuchOverlay},
		{"b", Changes{Overlays: &[]store.OverlayRef{{Overlay: "y", Alias: "ONE"}}}, InvalidArgument}, // a has it
		{"b", Changes{Arguments: ptr(slices.Repeat([]string{"+x"}, 100))}, InvalidArgument},
		{"c", Changes{}, NoSuchBlueprint},
	} {
		if _, err := w.UpdateBlueprint(c.name, c.changes); AsCode(err) != c.code {
			t.Errorf("%s %+.60v: %v, want %s", c.name, c.changes, err, c.code)
		}
	}
	if _, err := w.CreateBlueprint("b", Changes{}, 0); AsCode(err) != BlueprintExists {
		t.Error(err)
	}
	if _, err := w.CreateInstance("i", Changes{Blueprint: ptr("none")}, 0); AsCode(err) != NoSuchBlueprint {
		t.Error(err)
	}
	if err := w.ConfigureInstance("a", Changes{Blueprint: ptr("none")}); AsCode(err) != NoSuchBlueprint {
		t.Error(err)
	}
	if b, _ := w.Blueprint("b"); len(b.Overlays.V) != 0 || len(b.Arguments.V) != 0 {
		t.Errorf("a refused change was kept: %+v", b)
	}
}

func TestExposedFilesAreBounded(t *testing.T) {
	w := newWorld(t)
	var all []store.OverlayRef
	for i := range 9 {
		name := fmt.Sprintf("o%d", i)
		w.overlay(name, map[string]string{"left4dead2/cfg/server.cfg": strings.Repeat("x\n", 1<<19)})
		all = append(all, store.OverlayRef{Overlay: name, Alias: "*"})
	}
	w.create("a", Changes{Overlays: &all})
	if _, err := w.ServerConfig("a"); AsCode(err) != InvalidArgument {
		t.Errorf("%v", err)
	}
	if j := w.do(w.StartInstance, "a", JobFailed); !strings.Contains(j.Cause, "8388608 bytes together") {
		t.Errorf("%q", j.Cause)
	}
}

func TestSecrets(t *testing.T) {
	w := newWorld(t)
	w.create("a", Changes{})
	old, err := w.Secret("a", "rcon_password")
	if err != nil || len(old) != 26 {
		t.Errorf("%q, %v", old, err)
	}
	if err := w.ConfigureInstance("a", Changes{NewPassword: true}); err != nil {
		t.Fatal(err)
	}
	if now, err := w.Secret("a", "rcon_password"); err != nil || now == old || len(now) != 26 {
		t.Errorf("%q after %q, %v", now, old, err)
	}
	if _, err := w.Secret("a", "port"); AsCode(err) != InvalidArgument {
		t.Error(err)
	}
	if _, err := w.Secret("b", "rcon_password"); AsCode(err) != NoSuchInstance {
		t.Error(err)
	}
}
