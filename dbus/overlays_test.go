package dbus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/dbus/names"
	"left4.me/left4/polkit"
	"left4.me/left4/units"
)

// pipe is the reading end of a stream that holds nothing.
func (b *testBus) pipe() dbus.UnixFD {
	b.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		b.t.Fatal(err)
	}
	w.Close()
	b.t.Cleanup(func() { r.Close() })
	return dbus.UnixFD(r.Fd())
}

// unpack is a worker that unpacks these files, by path.
func (b *testBus) unpack(files map[string]string) {
	work := func(w units.Worker) units.State {
		for name, text := range files {
			name = filepath.Join(w.Dir, name)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				b.t.Error(err)
			}
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				b.t.Error(err)
			}
		}
		return units.State{Active: "active", Sub: "exited", StatusText: status.Done(int64(len(files)), 7, "")}
	}
	b.worker.Store(&work)
}

// overlay makes an overlay whose current revision, 2, holds these files.
func (b *testBus) overlay(name string, files map[string]string) {
	b.t.Helper()
	b.must(names.Root, names.Manager+".CreateOverlay", name, "files", variants{}, variants{})
	b.unpack(files)
	b.must(names.Root, names.Manager+".ImportOverlay", name, b.pipe(), variants{})
	b.ended("import-overlay")
}

func (b *testBus) property(path dbus.ObjectPath, iface, name string) any {
	b.t.Helper()
	return b.must(path, names.Properties+".Get", iface, name)[0].(dbus.Variant).Value()
}

// changedTo waits until an object's property has been told to be this.
func (b *testBus) changedTo(path dbus.ObjectPath, property string, value any) {
	b.t.Helper()
	b.next(func(s *dbus.Signal) bool {
		if s.Path != path || s.Name != names.Properties+".PropertiesChanged" {
			return false
		}
		v, told := s.Body[1].(map[string]dbus.Variant)[property]
		return told && reflect.DeepEqual(v.Value(), value)
	})
}

func TestAnOverlayOnTheBus(t *testing.T) {
	b := startBus(t)
	path := b.must(names.Root, names.Manager+".CreateOverlay", "sm", "files", variants{"keep": dbus.MakeVariant(uint32(5))}, variants{})[0]
	if s := <-b.signals; s.Name != names.ObjectManager+".InterfacesAdded" || s.Body[0] != path || path != names.OverlayPath("sm") {
		t.Errorf("%v: the first signal is %v", path, s)
	}
	object := names.OverlayPath("sm")
	if got := b.must(names.Root, names.Manager+".GetOverlay", "sm")[0]; got != object {
		t.Errorf("GetOverlay: %v", got)
	}
	if c := b.must(object, names.Overlay+".GetConfig")[0].(map[string]dbus.Variant); len(c) != 1 || c["keep"].Value() != uint32(5) {
		t.Errorf("config %v", c)
	}

	b.unpack(map[string]string{"a": "one", "d/b": "two"})
	job := b.must(object, names.Overlay+".Import", b.pipe(), variants{"size": dbus.MakeVariant(uint64(10))})[0].(dbus.ObjectPath)
	b.changedTo(object, "State", "building")
	b.changedTo(object, "Revision", uint32(2))
	b.ended("import-overlay")
	if kind, target := b.property(job, names.Job, "Kind"), b.property(job, names.Job, "Target"); kind != "import-overlay" || target != "sm" {
		t.Errorf("the job is %v %v", kind, target)
	}
	all := b.must(object, names.Properties+".GetAll", names.Overlay)[0].(map[string]dbus.Variant)
	if all["Revision"].Value() != uint32(2) || all["State"].Value() != "ready" || all["Files"].Value() != uint64(2) {
		t.Errorf("after the import: %v", all)
	}
	rows := all["Revisions"].Value().([][]any)
	if len(rows) != 2 || rows[0][0] != uint32(1) || rows[1][0] != uint32(2) || rows[1][2] != uint64(2) || rows[1][1] == uint64(0) {
		t.Errorf("revisions %v", rows)
	}

	// A part of it, and what is not asked for as it should be.
	b.unpack(map[string]string{"d/c": "three"})
	v := dbus.MakeVariant
	for _, options := range []variants{
		{"merge": v("yes")}, {"remove": v([]string{"a"})}, {"merge": v(true), "remove": v([]string{"../a"})}, {"merge": v(true), "remove": v("a")},
		{"base": v(int32(1))}, {"into": v("../x")}, {"into": v([]string{"x"})}, {"timeout": v(uint64(0))}, {"sizes": v(uint64(1))},
	} {
		_, err := b.call(object, names.Overlay+".Import", b.pipe(), options)
		wantError(t, err, names.Error+"InvalidArgument")
	}
	_, err := b.call(names.Root, names.Manager+".ImportOverlay", "none", b.pipe(), variants{})
	wantError(t, err, names.Error+"NoSuchOverlay")
	b.must(object, names.Overlay+".Import", b.pipe(), variants{"merge": v(true), "remove": v([]string{"a"}), "base": v(uint32(2))})
	b.ended("import-overlay")
	if got := b.files(object, "", nil); !slices.Equal(got, []string{"d directory"}) {
		t.Errorf("at the top: %q", got)
	}
	if got := b.files(object, "d", nil); !slices.Equal(got, []string{"b file", "c file"}) {
		t.Errorf("in d: %q", got)
	}
	if got := b.files(object, "", variants{"revision": v(uint32(2))}); !slices.Equal(got, []string{"a file", "d directory"}) {
		t.Errorf("in revision 2: %q", got)
	}

	// Back, by the object and by name. Each change is told before the reply.
	b.must(object, names.Overlay+".Update", variants{}, variants{"revision": v(uint32(2))})
	b.toldAlready(object, "Revision", uint32(2))
	if got := b.must(names.Root, names.Manager+".UpdateOverlay", "sm", "files", variants{"keep": v(uint32(6))}, variants{"revision": v(uint32(1))})[0]; got != object {
		t.Errorf("UpdateOverlay: %v", got)
	}
	b.toldAlready(object, "Revision", uint32(1))
	if c := b.must(object, names.Overlay+".GetConfig")[0].(map[string]dbus.Variant); c["keep"].Value() != uint32(6) {
		t.Errorf("config %v", c)
	}

	b.overlay("other", nil)
	for _, want := range []struct {
		filter variants
		names  string
	}{{variants{}, "other sm"}, {variants{"name": v("sm")}, "sm"}, {variants{"type": v("files")}, "other sm"}, {variants{"type": v("script")}, ""}} {
		if got := listed(b.must(names.Root, names.Manager+".ListOverlays", want.filter)[0], names.OverlayPath); got != want.names {
			t.Errorf("ListOverlays %v: %q", want.filter, got)
		}
	}

	b.must(object, names.Overlay+".Delete", variants{})
	b.next(func(s *dbus.Signal) bool {
		return s.Name == names.ObjectManager+".InterfacesRemoved" && s.Body[0] == object && reflect.DeepEqual(s.Body[1], []string{names.Overlay})
	})
	b.ended("delete-overlay")
	_, err = b.call(object, names.Overlay+".GetConfig")
	wantError(t, err, names.Error+"NoSuchOverlay")
	b.must(names.Root, names.Manager+".DeleteOverlay", "sm", variants{})
	b.ended("delete-overlay")
}

// toldAlready wants a change among the signals that have come by now: the reply is behind them.
func (b *testBus) toldAlready(path dbus.ObjectPath, property string, value any) {
	b.t.Helper()
	told := false
	for len(b.signals) > 0 {
		s := <-b.signals
		if s.Path == path && s.Name == names.Properties+".PropertiesChanged" {
			if v, ok := s.Body[1].(map[string]dbus.Variant)[property]; ok {
				told = reflect.DeepEqual(v.Value(), value)
			}
		}
	}
	if !told {
		b.t.Errorf("%s of %s was not told before the reply", property, path)
	}
}

// listed joins the names of an a(so), and wants each to be that of its object.
func listed(rows any, path func(string) dbus.ObjectPath) string {
	var all []string
	for _, row := range rows.([][]any) {
		name := row[0].(string)
		if row[1] != path(name) {
			name += " with the object of another"
		}
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

// files lists a directory of an overlay.
func (b *testBus) files(object dbus.ObjectPath, path string, options variants) []string {
	b.t.Helper()
	if options == nil {
		options = variants{}
	}
	out := b.must(object, names.Overlay+".ListFiles", path, options)
	if out[1] != false {
		b.t.Errorf("%s holds more than is listed", path)
	}
	all := []string{}
	for _, row := range out[0].([][]any) {
		if row[3].(uint64) == 0 {
			b.t.Errorf("%s was never modified", row[0])
		}
		all = append(all, row[0].(string)+" "+row[1].(string))
	}
	return all
}

func TestABlueprintOnTheBus(t *testing.T) {
	b := startBus(t)
	v := dbus.MakeVariant
	b.overlay("low", map[string]string{"x": "1", "y": "1"})
	b.overlay("high", map[string]string{"x": "2"})
	given := variants{
		"arguments": v([]string{"+map", "c1m1_hotel"}), "config": v([]string{"sv_lan 0"}),
		"overlays": v([]pair{{"high", "*"}, {"low", ""}}), "limits": v(variants{"TasksMax": v(uint64(99))}),
	}
	for len(b.signals) > 0 {
		<-b.signals
	}
	object := b.must(names.Root, names.Manager+".CreateBlueprint", "versus", given, variants{})[0].(dbus.ObjectPath)
	if s := <-b.signals; s.Name != names.ObjectManager+".InterfacesAdded" || s.Body[0] != object || object != names.BlueprintPath("versus") {
		t.Errorf("%v: the first signal is %v", object, s)
	}
	got := b.must(object, names.Blueprint+".GetConfig")[0].(map[string]dbus.Variant)
	if len(got) != len(given) {
		t.Errorf("config %v", got)
	}
	for key, want := range given {
		if key != "overlays" && got[key].String() != want.String() {
			t.Errorf("%s: %s, want %s", key, got[key], want)
		}
	}
	if !reflect.DeepEqual(got["overlays"].Value(), [][]any{{"high", "*"}, {"low", ""}}) {
		t.Errorf("overlays: %v", got["overlays"])
	}

	// An instance that follows it has what it says.
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{"blueprint": v("versus"), "limits": v(variants{"MemoryMax": v(uint64(1 << 30))})}, variants{})
	b.must(names.Root, names.Manager+".CreateInstance", "b", variants{}, variants{})
	b.toldAlready(object, "Instances", []string{"a"})
	all := b.must(names.InstancePath("a"), names.Properties+".GetAll", names.Instance)[0].(map[string]dbus.Variant)
	if limits := all["Limits"].Value().(map[string]dbus.Variant); all["Blueprint"].Value() != "versus" || len(limits) != 2 || limits["TasksMax"].Value() != uint64(99) {
		t.Errorf("the instance: %v", all)
	}
	if overlays := all["Overlays"].Value(); !reflect.DeepEqual(overlays, [][]any{{"high", "*"}, {"low", ""}}) {
		t.Errorf("its overlays: %v", overlays)
	}
	if c := b.must(names.InstancePath("a"), names.Instance+".GetConfig")[0].(map[string]dbus.Variant); c["blueprint"].Value() != "versus" || len(c["overlays"].Value().([][]any)) != 0 {
		t.Errorf("its own config: %v", c)
	}
	for _, want := range []struct {
		filter variants
		names  string
	}{{variants{"blueprint": v("versus")}, "a versus"}, {variants{"blueprint": v("")}, "b "}, {variants{"blueprint": v("coop")}, ""}, {variants{"name": v("a"), "blueprint": v("")}, ""}} {
		var rows []string
		for _, row := range b.must(names.Root, names.Manager+".ListInstances", want.filter)[0].([][]any) {
			rows = append(rows, row[0].(string)+" "+row[5].(string))
		}
		if strings.Join(rows, ",") != want.names {
			t.Errorf("ListInstances %v: %q", want.filter, rows)
		}
	}

	// A change of the blueprint is one of the instance, and both are told before the reply.
	if got := b.must(names.Root, names.Manager+".UpdateBlueprint", "versus", variants{"overlays": v([]pair{{"low", ""}})}, variants{})[0]; got != object {
		t.Errorf("UpdateBlueprint: %v", got)
	}
	seen := map[dbus.ObjectPath]bool{}
	for len(b.signals) > 0 {
		if s := <-b.signals; s.Name == names.Properties+".PropertiesChanged" {
			if v, ok := s.Body[1].(map[string]dbus.Variant)["Overlays"]; ok && reflect.DeepEqual(v.Value(), [][]any{{"low", ""}}) {
				seen[s.Path] = true
			}
		}
	}
	if !seen[object] || !seen[names.InstancePath("a")] || len(seen) != 2 {
		t.Errorf("the change was told of %v", seen)
	}
	b.must(object, names.Blueprint+".Update", variants{"overlays": v([]pair{{"high", ""}, {"low", ""}})}, variants{})

	out := b.must(object, names.Blueprint+".ListConflicts", variants{})
	if !reflect.DeepEqual(out, []any{[][]any{{"x", []string{"high", "low"}}}, false}) {
		t.Errorf("conflicts: %v", out)
	}
	if out := b.must(names.InstancePath("a"), names.Instance+".ListConflicts", variants{}); !reflect.DeepEqual(out, []any{[][]any{{"x", []string{"high", "low"}}}, false}) {
		t.Errorf("conflicts of the instance: %v", out)
	}
	if got := listed(b.must(names.Root, names.Manager+".ListBlueprints", variants{})[0], names.BlueprintPath); got != "versus" {
		t.Errorf("ListBlueprints: %q", got)
	}
	if got := listed(b.must(names.Root, names.Manager+".ListBlueprints", variants{"name": v("coop")})[0], names.BlueprintPath); got != "" {
		t.Errorf("ListBlueprints: %q", got)
	}

	_, err := b.call(object, names.Blueprint+".Delete", variants{})
	wantError(t, err, names.Error+"InUse")
	if err == nil || !strings.Contains(err.Error(), " a") {
		t.Errorf("who uses it is not told: %v", err)
	}
	b.must(names.Root, names.Manager+".ConfigureInstance", "a", variants{"blueprint": v("")}, variants{})
	b.toldAlready(object, "Instances", []string{})
	b.must(object, names.Blueprint+".Delete", variants{})
	removed := false
	for len(b.signals) > 0 {
		s := <-b.signals
		removed = removed || s.Name == names.ObjectManager+".InterfacesRemoved" && s.Body[0] == object
	}
	if !removed {
		t.Error("its end was not told before the reply")
	}
	b.must(names.Root, names.Manager+".DeleteBlueprint", "versus", variants{})
}

func TestProvenanceOnTheBus(t *testing.T) {
	b := startBus(t)
	b.overlay("low", map[string]string{"cfg/x": "1", "new\nline": "1"})
	b.overlay("high", map[string]string{"cfg/x": "2"})
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{"overlays": dbus.MakeVariant([]pair{{"high", ""}, {"low", ""}})}, variants{})
	object := names.InstancePath("a")
	if got := b.must(object, names.Instance+".FindFile", "cfg/x")[0]; !reflect.DeepEqual(got, [][]any{{"upper", "whiteout"}, {"low", "hidden file"}}) {
		t.Errorf("cfg/x: %v", got)
	}
	if out := b.must(object, names.Instance+".ListChanges", variants{}); !reflect.DeepEqual(out, []any{[][]any{{"cfg/x", "changed", uint64(4)}, {`new\x0aline`, "added", uint64(1 << 40)}}, true}) {
		t.Errorf("changes: %v", out)
	}
	b.units.Answer(`{"Maps":[{"Name":"dl_1","Campaign":"Dead Line","Modes":["coop","versus"],"Layer":0,"File":"left4dead2/addons/d.vpk"},{"Name":"x","Layer":1,"File":"maps/x.bsp"}],
		"Unread":[{"Layer":1,"File":"bad.vpk","Reason":"it is cut off"}],"More":true}`)
	if out := b.must(object, names.Instance+".ListMaps", variants{}); !reflect.DeepEqual(out, []any{
		[][]any{{"dl_1", "Dead Line", []string{"coop", "versus"}, "high", "left4dead2/addons/d.vpk"}, {"x", "", []string{}, "low", "maps/x.bsp"}}, [][]any{{"low", "bad.vpk", "it is cut off"}}, true}) {
		t.Errorf("maps: %v", out)
	}
	// What names a layer that was not asked for is nothing.
	if out := b.must(names.OverlayPath("low"), names.Overlay+".ListMaps", variants{"revision": dbus.MakeVariant(uint32(1))}); len(out[0].([][]any)) != 1 || out[0].([][]any)[0][3] != "low" {
		t.Errorf("maps: %v", out)
	}
	if got := b.files(names.OverlayPath("low"), "", nil); !slices.Equal(got, []string{"cfg directory", `new\x0aline file`}) {
		t.Errorf("files: %q", got)
	}
}

func TestSecretsAndPasswords(t *testing.T) {
	b := startBus(t)
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{}, variants{})
	secret := func() string { return b.must(names.Root, names.Manager+".GetSecret", "a", "rcon_password")[0].(string) }
	first := secret()
	if len(first) < 20 {
		t.Errorf("the password is %q", first)
	}
	b.must(names.Root, names.Manager+".ConfigureInstance", "a", variants{}, variants{"new_rcon_password": dbus.MakeVariant(false)})
	if secret() != first {
		t.Error("there is another password, which nobody asked for")
	}
	b.must(names.InstancePath("a"), names.Instance+".Configure", variants{}, variants{"new_rcon_password": dbus.MakeVariant(true)})
	second := secret()
	if second == first {
		t.Error("there is no new password")
	}
	// It stands nowhere else.
	objects := b.must(names.Root, names.ObjectManager+".GetManagedObjects")[0]
	config := b.must(names.InstancePath("a"), names.Instance+".GetConfig")[0]
	text := b.must(names.InstancePath("a"), names.Instance+".GetServerConfig")[0].(string)
	if strings.Contains(dbus.MakeVariant(objects).String()+dbus.MakeVariant(config).String()+text, second) {
		t.Error("the password is told")
	}
	for len(b.signals) > 0 {
		if s := <-b.signals; strings.Contains(dbus.MakeVariant(s.Body).String(), second) {
			t.Errorf("the password is told in %v", s)
		}
	}
}

func TestTheGameGoesBack(t *testing.T) {
	b := startBus(t)
	b.unpack(map[string]string{"srcds_run": "x"})
	b.must(names.Root, names.Manager+".ImportGame", b.pipe(), variants{})
	b.changedTo(names.Root, "GameRevision", uint32(2))
	b.ended("import-game")
	rows := b.property(names.Root, names.Manager, "GameRevisions").([][]any)
	if len(rows) != 2 || !reflect.DeepEqual(rows[0], []any{uint32(1), uint64(1), uint64(5), uint64(50)}) || rows[1][0] != uint32(2) {
		t.Errorf("revisions %v", rows)
	}
	b.must(names.Root, names.Manager+".SetGameRevision", uint32(1), variants{})
	b.toldAlready(names.Root, "GameRevision", uint32(1))
	if got := b.property(names.Root, names.Manager, "GameRevision"); got != uint32(1) {
		t.Errorf("GameRevision is %v", got)
	}
}

// as lets a user, whom polkit says no, call a method, and returns what polkit was asked.
func (b *testBus) as(uid uint32, path dbus.ObjectPath, iface, member string, args ...any) (asked polkit.Request, err error) {
	b.t.Helper()
	b.server.auth = answers(func(_ context.Context, r polkit.Request) (polkit.Answer, error) {
		asked = r
		return polkit.No, nil
	})
	c := &call{header: header{sender: ":1.5", path: path, iface: iface, member: member}, ctx: context.Background(), uid: uid, args: args}
	for _, arg := range args {
		if fd, ok := arg.(dbus.UnixFD); ok {
			c.fds = []int{int(fd)}
		}
	}
	if err := b.server.find(c); err != nil {
		return asked, err
	}
	_, err = c.method.call(b.server, c)
	c.settled()
	return asked, err
}

// Whoever may not, does not, and polkit's rules are told what it is about.
func TestWhatPolkitIsAsked(t *testing.T) {
	b := startBus(t)
	b.overlay("o", map[string]string{"f": "x"})
	b.must(names.Root, names.Manager+".CreateBlueprint", "b", variants{}, variants{})
	b.must(names.Root, names.Manager+".CreateInstance", "i", variants{"blueprint": dbus.MakeVariant("b")}, variants{})
	b.must(names.Root, names.Manager+".CreateOverlay", "s", "script", variants{"script": dbus.MakeVariant("echo")}, variants{})
	held := make(chan struct{})
	hang := func(units.Worker) units.State { <-held; return units.State{Active: "failed"} }
	b.worker.Store(&hang)
	defer close(held)
	overlayJob := b.must(names.Root, names.Manager+".ImportOverlay", "o", b.pipe(), variants{})[0].(dbus.ObjectPath)
	gameJob := b.must(names.Root, names.Manager+".ImportGame", b.pipe(), variants{})[0].(dbus.ObjectPath)

	type details = map[string]string
	of := func(kind, verb string) details {
		return details{map[string]string{"i": "instance", "o": "overlay", "s": "overlay", "b": "blueprint"}[kind]: kind, "verb": verb, "owner": "root"}
	}
	fresh := func(kind, verb string) details { return details{kind: "new", "verb": verb} }
	none, text := variants{}, variants{"script": dbus.MakeVariant("true")}
	asked := map[string]bool{}
	for _, tt := range []struct {
		path   dbus.ObjectPath
		method string
		args   []any
		action string
		want   details
	}{
		{names.Root, "Manager.GetSecret", []any{"i", "rcon_password"}, "instance.secret", of("i", "secret")},
		{names.Root, "Manager.CreateBlueprint", []any{"new", none, none}, "blueprint.edit", fresh("blueprint", "edit")},
		{names.Root, "Manager.CreateBlueprint", []any{"b", none, none}, "blueprint.edit", of("b", "edit")},
		{names.Root, "Manager.UpdateBlueprint", []any{"b", none, none}, "blueprint.edit", of("b", "edit")},
		{names.Root, "Manager.DeleteBlueprint", []any{"b", none}, "blueprint.delete", of("b", "delete")},
		{names.Root, "Manager.DeleteBlueprint", []any{"new", none}, "blueprint.delete", fresh("blueprint", "delete")},
		{names.Root, "Manager.CreateOverlay", []any{"new", "files", none, none}, "overlay.edit", fresh("overlay", "edit")},
		{names.Root, "Manager.CreateOverlay", []any{"o", "files", none, none}, "overlay.edit", of("o", "edit")},
		{names.Root, "Manager.UpdateOverlay", []any{"o", "", none, none}, "overlay.edit", of("o", "edit")},
		{names.Root, "Manager.ImportOverlay", []any{"o", b.pipe(), none}, "overlay.edit", of("o", "edit")},
		{names.Root, "Manager.BuildOverlay", []any{"o", none}, "overlay.build", of("o", "build")},
		{names.Root, "Manager.CreateOverlay", []any{"new", "script", text, none}, "overlay.script", fresh("overlay", "script")},
		{names.Root, "Manager.UpdateOverlay", []any{"s", "", text, none}, "overlay.script", of("s", "script")},
		{names.Root, "Manager.UpdateOverlay", []any{"s", "", none, none}, "overlay.edit", of("s", "edit")},
		{names.Root, "Manager.BuildOverlay", []any{"s", none}, "overlay.script", of("s", "script")},
		{names.OverlayPath("s"), "Overlay.Update", []any{text, none}, "overlay.script", of("s", "script")},
		{names.OverlayPath("s"), "Overlay.Build", []any{variants{"on_top": dbus.MakeVariant(true)}}, "overlay.script", of("s", "script")},
		{names.Root, "Manager.DeleteOverlay", []any{"o", none}, "overlay.delete", of("o", "delete")},
		{names.Root, "Manager.DeleteOverlay", []any{"new", none}, "overlay.delete", fresh("overlay", "delete")},
		{names.Root, "Manager.SetGameRevision", []any{uint32(1), none}, "game.install", details{"verb": "install"}},
		{names.Root, "Manager.ImportGame", []any{b.pipe(), none}, "game.install", details{"verb": "install"}},
		{names.Root, "Manager.ListProblems", []any{none}, "diagnose", details{"verb": "diagnose"}},
		{names.Root, "Manager.RepairProblems", []any{[]string{}, none}, "repair", details{"verb": "repair"}},
		{names.InstancePath("i"), "Instance.FindFile", []any{"x"}, "instance.inspect", of("i", "inspect")},
		{names.InstancePath("i"), "Instance.ListChanges", []any{none}, "instance.inspect", of("i", "inspect")},
		{names.InstancePath("i"), "Instance.ListConflicts", []any{none}, "instance.inspect", of("i", "inspect")},
		{names.InstancePath("i"), "Instance.ListMaps", []any{none}, "instance.inspect", of("i", "inspect")},
		{names.InstancePath("i"), "Instance.GetConfig", nil, "instance.inspect", of("i", "inspect")},
		{names.InstancePath("i"), "Instance.Configure", []any{none, none}, "instance.configure", of("i", "configure")},
		{names.BlueprintPath("b"), "Blueprint.Update", []any{none, none}, "blueprint.edit", of("b", "edit")},
		{names.BlueprintPath("b"), "Blueprint.Delete", []any{none}, "blueprint.delete", of("b", "delete")},
		{names.BlueprintPath("b"), "Blueprint.GetConfig", nil, "blueprint.inspect", of("b", "inspect")},
		{names.BlueprintPath("b"), "Blueprint.ListConflicts", []any{none}, "blueprint.inspect", of("b", "inspect")},
		{names.OverlayPath("o"), "Overlay.Update", []any{none, none}, "overlay.edit", of("o", "edit")},
		{names.OverlayPath("o"), "Overlay.Import", []any{b.pipe(), none}, "overlay.edit", of("o", "edit")},
		{names.OverlayPath("o"), "Overlay.Build", []any{none}, "overlay.build", of("o", "build")},
		{names.OverlayPath("o"), "Overlay.Delete", []any{none}, "overlay.delete", of("o", "delete")},
		{names.OverlayPath("o"), "Overlay.GetConfig", nil, "overlay.inspect", of("o", "inspect")},
		{names.OverlayPath("o"), "Overlay.ListItems", []any{none}, "overlay.inspect", of("o", "inspect")},
		{names.OverlayPath("o"), "Overlay.ListFiles", []any{"", none}, "overlay.inspect", of("o", "inspect")},
		{names.OverlayPath("o"), "Overlay.ListMaps", []any{none}, "overlay.inspect", of("o", "inspect")},
		{names.OverlayPath("o"), "Overlay.OpenFile", []any{"f", none}, "overlay.inspect", of("o", "inspect")},
		{overlayJob, "Job.Cancel", []any{none}, "job.cancel", of("o", "cancel")},
		{gameJob, "Job.Cancel", []any{none}, "job.cancel", details{"verb": "cancel"}},
	} {
		iface, member, _ := strings.Cut(tt.method, ".")
		got, err := b.as(4000, tt.path, "me.left4."+iface, member, tt.args...)
		wantError(t, err, names.ErrAccessDenied)
		if got.Action != action+tt.action || !maps.Equal(got.Details, tt.want) {
			t.Errorf("%s %v: asked for %s %v, want %s %v", tt.method, tt.args, got.Action, got.Details, tt.action, tt.want)
		}
		asked["me.left4."+tt.method] = true
	}
	for _, iface := range []string{names.Blueprint, names.Overlay} {
		for member := range b.server.face.methods[iface] {
			if !asked[iface+"."+member] {
				t.Errorf("%s.%s is not tried", iface, member)
			}
		}
	}
	// A mistyped name is told without a question.
	for _, tt := range []struct{ member, name, err string }{
		{"UpdateBlueprint", "new", "NoSuchBlueprint"}, {"UpdateOverlay", "new", "NoSuchOverlay"}, {"GetSecret", "new", "NoSuchInstance"},
	} {
		args := map[string][]any{"UpdateBlueprint": {none, none}, "UpdateOverlay": {"", none, none}, "GetSecret": {"rcon_password"}}[tt.member]
		got, err := b.as(4000, names.Root, names.Manager, tt.member, append([]any{tt.name}, args...)...)
		wantError(t, err, names.Error+tt.err)
		if got.Action != "" {
			t.Errorf("%s of what there is not asks for %s", tt.member, got.Action)
		}
	}
	if got := listed(b.must(names.Root, names.Manager+".ListBlueprints", none)[0], names.BlueprintPath); got != "b" {
		t.Errorf("blueprints: %q", got)
	}
	if got := listed(b.must(names.Root, names.Manager+".ListOverlays", none)[0], names.OverlayPath); got != "o s" {
		t.Errorf("overlays: %q", got)
	}
}

func TestAWorkshopOverlayOnTheBus(t *testing.T) {
	b := startBus(t)
	create := func(kind string, items ...string) error {
		_, err := b.call(names.Root, names.Manager+".CreateOverlay", "maps", kind, variants{"items": dbus.MakeVariant(items)}, variants{})
		return err
	}
	if err := create("files", "1"); !strings.Contains(fmt.Sprint(err), "items are not allowed for an overlay of type files") {
		t.Error(err)
	}
	if err := create("workshop", "https://example.com/?id=1"); !strings.Contains(fmt.Sprint(err), "is no item of the workshop") {
		t.Error(err)
	}
	if err := create("workshop", "https://steamcommunity.com/sharedfiles/filedetails/?id=7", "8"); err != nil {
		t.Fatal(err)
	}
	object := names.OverlayPath("maps")
	if c := b.must(object, names.Overlay+".GetConfig")[0].(map[string]dbus.Variant); len(c) != 1 || !reflect.DeepEqual(c["items"].Value(), []string{"7", "8"}) {
		t.Errorf("config %v", c)
	}
	list := func() any { return b.must(object, names.Overlay+".ListItems", variants{})[0] }
	if got := list(); !reflect.DeepEqual(got, [][]any{}) {
		t.Errorf("before the first build: %v", got)
	}
	work := func(w units.Worker) units.State {
		result := `{"Items":[{"ID":"7","Updated":10,"Size":3,"Title":"Map","Name":"a.vpk"},{"ID":"8","Missing":"it is banned"}]}`
		if err := errors.Join(os.WriteFile(filepath.Join(w.Dir, "7-10.vpk"), []byte("one"), 0o644), os.WriteFile(filepath.Join(w.Dir, order.ResultName), []byte(result), 0o644)); err != nil {
			t.Error(err)
		}
		return units.State{Active: "active", Sub: "exited", StatusText: status.Done(1, 3, "")}
	}
	b.worker.Store(&work)
	job := b.must(object, names.Overlay+".Build", variants{})[0].(dbus.ObjectPath)
	b.ended("build-overlay")
	if got := b.property(job, names.Job, "Status"); got != "1 item, 1 not to be had: 8: it is banned" {
		t.Errorf("status %q", got)
	}
	want := [][]any{{"7", "Map", "a.vpk", "present", "", uint64(3), uint64(10e6)}, {"8", "", "", "missing", "it is banned", uint64(0), uint64(0)}}
	if got := list(); !reflect.DeepEqual(got, want) {
		t.Errorf("items %v", got)
	}
	for _, c := range []struct {
		path    dbus.ObjectPath
		options variants
		want    string
	}{
		{object, variants{"revision": dbus.MakeVariant(uint32(9))}, "overlay maps has no revision 9 on disk"},
		{object, variants{"x": dbus.MakeVariant(true)}, `option "x" is not known`},
	} {
		if _, err := b.call(c.path, names.Overlay+".ListItems", c.options); !strings.Contains(fmt.Sprint(err), c.want) {
			t.Error(err)
		}
	}
	b.must(names.Root, names.Manager+".CreateOverlay", "sm", "files", variants{}, variants{})
	if _, err := b.call(names.OverlayPath("sm"), names.Overlay+".ListItems", variants{}); !strings.Contains(fmt.Sprint(err), "overlay sm has no items: it is of type files, not workshop") {
		t.Error(err)
	}
}
