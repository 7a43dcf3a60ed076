package dbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"left4.me/left4/client/clienttest"
	"left4.me/left4/daemon"
	"left4.me/left4/daemon/daemontest"
	"left4.me/left4/daemon/store"
	"left4.me/left4/dbus/names"
	"left4.me/left4/polkit"
	"left4.me/left4/units"
)

// answers is an Authorizer that says what a test wants.
type answers func(context.Context, polkit.Request) (polkit.Answer, error)

func (a answers) Check(ctx context.Context, r polkit.Request) (polkit.Answer, error) {
	return a(ctx, r)
}

// lines is a log that is read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take returns what was written since the last call.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
}

// testBus is a bus of its own with a left4d on it that has a systemd of its own.
type testBus struct {
	*dbus.Conn
	t       *testing.T
	server  *Server
	units   *daemontest.Units
	log     lines // of the face
	signals chan *dbus.Signal
	worker  atomic.Pointer[func(units.Worker) units.State] // does what a worker would
}

func startBus(t *testing.T) *testBus {
	t.Helper()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", clienttest.StartBus(t).Address)
	return serveOn(t, t.TempDir())
}

func serveOn(t *testing.T, dir string) *testBus {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	for _, sub := range []string{"state/game/1", "state/overlays", "state/instances", "state/runtime", "run", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	db, err := store.Open(filepath.Join(dir, "state/left4.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.AddRevision(store.Game, 0, 1); err != nil {
		t.Fatal(err)
	}
	if err := db.PublishRevision(store.Revision{ID: 1, Published: 1, Files: 5, Bytes: 50}); err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	b := &testBus{t: t, units: daemontest.NewUnits()}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	server, err := Dial(ctx, slog.New(slog.NewTextHandler(&b.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	b.server = server
	d, err := daemon.New(daemon.Options{
		Store: db, Units: b.units, Config: units.Config{Dir: filepath.Join(dir, "etc"), RunDir: filepath.Join(dir, "run")},
		Layout: units.Layout{State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), User: me.Username}, Events: server, Log: log,
		Version: "1.2.3", PreStart: "/check",
	})
	if err != nil {
		t.Fatal(err)
	}
	b.units.Changed = d.UnitChanged
	b.units.Findings = units.Findings{
		Upper:   true,
		Found:   []units.Found{{Layer: 0, Kind: "whiteout"}, {Layer: 2, Kind: "file", Hidden: true}},
		Changes: []units.Change{{Path: "cfg/x", Change: "changed", Size: 4}, {Path: `new\x0aline`, Change: "added", Size: 1 << 40}},
		More:    true,
	}
	b.units.Work = func(w units.Worker) units.State { return (*b.worker.Load())(w) }
	yes := answers(func(context.Context, polkit.Request) (polkit.Answer, error) { return polkit.Yes, nil })
	if err := d.Begin(ctx, func() error { return server.Serve(ctx, d, yes) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Close(ctx)
		d.Close()
		db.Close()
	})
	b.signals = make(chan *dbus.Signal, 10_000)
	b.Conn = b.connect(dbus.WithSignalHandler(inOrder(b.signals)))
	if err := b.AddMatchSignal(dbus.WithMatchSender(names.Service)); err != nil {
		t.Fatal(err)
	}
	return b
}

// inOrder takes each signal before the message behind it is looked at, so that what has come before a reply is there
// when the reply is.
type inOrder chan<- *dbus.Signal

func (c inOrder) DeliverSignal(_, _ string, s *dbus.Signal) {
	if s.Sender != names.Bus {
		c <- s
	}
}

func (b *testBus) connect(options ...dbus.ConnOption) *dbus.Conn {
	b.t.Helper()
	c, err := dbus.ConnectSystemBus(options...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

func (b *testBus) call(path dbus.ObjectPath, method string, args ...any) ([]any, error) {
	call := b.Object(names.Service, path).Call(method, 0, args...)
	checkTold(b.t, method, call.Err)
	return call.Body, call.Err
}

func (b *testBus) must(path dbus.ObjectPath, method string, args ...any) []any {
	b.t.Helper()
	out, err := b.call(path, method, args...)
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	return out
}

// next returns the next signal of left4d that test accepts.
func (b *testBus) next(accept func(*dbus.Signal) bool) *dbus.Signal {
	b.t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		select {
		case s := <-b.signals:
			if accept(s) {
				return s
			}
		case <-deadline:
			b.t.Fatal("the signal never came")
		}
	}
}

// ended waits until a job of a kind has ended well.
func (b *testBus) ended(kind string) {
	b.t.Helper()
	s := b.next(func(s *dbus.Signal) bool { return s.Name == names.Manager+".JobRemoved" && s.Body[2] == kind })
	if s.Body[4] != "done" {
		j, _ := b.server.daemon.Job(s.Body[0].(uint32))
		b.t.Fatalf("the %s ended %s: %s", kind, s.Body[4], j.Cause)
	}
}

type variants = map[string]dbus.Variant

func wantError(t *testing.T, err error, name string) {
	t.Helper()
	var e dbus.Error
	if !errors.As(err, &e) && err != nil {
		e.Name, _ = errorName(err)
	}
	if e.Name != name {
		t.Errorf("got %v, want %s", err, name)
	}
}

func TestTheTableAndTheXMLAgree(t *testing.T) {
	f, err := newFace()
	if err != nil {
		t.Fatal(err)
	}
	for iface, x := range f.xml {
		for _, m := range x.Methods {
			for _, arg := range m.Args {
				if arg.Name == "" {
					t.Errorf("%s.%s has an argument without a name", iface, m.Name)
				}
			}
			options := len(m.Args) > 0 && slices.ContainsFunc(m.Args, func(a struct {
				Name      string `xml:"name,attr"`
				Type      string `xml:"type,attr"`
				Direction string `xml:"direction,attr"`
			}) bool {
				return a.Name == "options" && a.Type == "a{sv}"
			})
			if row := f.methods[iface][m.Name]; row.action != open && !options && !strings.HasSuffix(row.action, ".inspect") && !strings.HasSuffix(row.action, ".secret") {
				t.Errorf("%s.%s changes something and has no options", iface, m.Name)
			}
		}
		for _, p := range x.Properties {
			if !slices.Contains([]string{"true", "const", "false", "invalidates"}, p.emits()) || len(p.Annotations) == 0 {
				t.Errorf("%s.%s does not say how it announces changes", iface, p.Name)
			}
		}
	}
	// What the manual and other people's clients are written by: who may stands with each method.
	told := 0
	for iface, text := range f.text {
		for _, m := range regexp.MustCompile(`<!--((?:[^-]|-[^-])*)-->\s*<method name="(\w+)">`).FindAllStringSubmatch(text, -1) {
			row := f.methods[iface][m[2]]
			if !strings.HasPrefix(iface, action) || row.action == open {
				continue
			}
			told++
			if who := regexp.MustCompile(`polkit: ([a-z0-9.]*[a-z0-9])`).FindStringSubmatch(m[1]); who == nil || who[1] != row.action {
				t.Errorf("%s.%s says %v, not %s", iface, m[2], who, row.action)
			}
		}
	}
	if told < 30 {
		t.Errorf("only %d methods say who may", told)
	}

	saved := methods[2]
	defer func() { methods[2] = saved }()
	methods[2].in = "s"
	if _, err := newFace(); err == nil {
		t.Error("a wrong signature in the table is not seen")
	}
	methods[2] = saved
	methods[2].name = "BeginInstance"
	if _, err := newFace(); err == nil {
		t.Error("a method that the XML lacks is not seen")
	}
}

func TestEveryActionOfTheTableIsShipped(t *testing.T) {
	text, err := os.ReadFile("../packaging/polkit/me.left4.policy")
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := polkit.Actions(text)
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]bool{
		action + "administer": true, // implies the others
		scriptAction:          true, // instead of a method's own
	}
	for _, m := range methods {
		asked[m.action] = true
		if m.action != open && !slices.Contains(shipped, m.action) {
			t.Errorf("%s.%s asks for %s, which is not shipped", m.iface, m.name, m.action)
		}
	}
	for _, id := range shipped {
		if !asked[id] {
			t.Errorf("%s is shipped, and nothing asks for it", id)
		}
	}
}

func TestPropertiesAreThoseOfTheXML(t *testing.T) {
	b := startBus(t)
	b.must(names.Root, names.Manager+".CreateInstance", "versus-1", variants{"limits": dbus.MakeVariant(variants{"MemoryMax": dbus.MakeVariant(uint64(1 << 30))})}, variants{})
	b.must(names.Root, names.Manager+".StartInstance", "versus-1", variants{})
	b.ended("start")
	b.must(names.Root, names.Manager+".CreateOverlay", "sm-1", "files", variants{"keep": dbus.MakeVariant(uint32(3))}, variants{})
	b.must(names.Root, names.Manager+".CreateBlueprint", "bp-1", variants{}, variants{})
	for path, iface := range map[dbus.ObjectPath]string{
		names.Root: names.Manager, "/me/left4/instance/versus_2d1": names.Instance, "/me/left4/job/1": names.Job,
		"/me/left4/overlay/sm_2d1": names.Overlay, "/me/left4/blueprint/bp_2d1": names.Blueprint,
	} {
		got := b.must(path, names.Properties+".GetAll", iface)[0].(map[string]dbus.Variant)
		x := b.server.face.xml[iface]
		if len(got) != len(x.Properties) {
			t.Errorf("%s has %d properties, the XML %d", iface, len(got), len(x.Properties))
		}
		for _, p := range x.Properties {
			if v, ok := got[p.Name]; !ok || v.Signature().String() != p.Type {
				t.Errorf("%s.%s is %s, in the XML %s", iface, p.Name, v.Signature().String(), p.Type)
			}
			one := b.must(path, names.Properties+".Get", iface, p.Name)[0].(dbus.Variant)
			if one.String() != got[p.Name].String() {
				t.Errorf("%s.%s: Get says %s, GetAll %s", iface, p.Name, one, got[p.Name])
			}
			_, err := b.call(path, names.Properties+".Set", iface, p.Name, dbus.MakeVariant("x"))
			wantError(t, err, "org.freedesktop.DBus.Error.PropertyReadOnly")
		}
	}
	objects := b.must(names.Root, names.ObjectManager+".GetManagedObjects")[0].(map[dbus.ObjectPath]map[string]map[string]dbus.Variant)
	if len(objects) != 4 || objects["/me/left4/instance/versus_2d1"][names.Instance]["Port"].Value() != uint16(27015) ||
		objects["/me/left4/overlay/sm_2d1"][names.Overlay]["Revision"].Value() != uint32(1) ||
		objects["/me/left4/blueprint/bp_2d1"][names.Blueprint]["Name"].Value() != "bp-1" {
		t.Errorf("objects: %v", objects)
	}
}

func TestIntrospectionLeadsToEveryObject(t *testing.T) {
	b := startBus(t)
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{}, variants{})
	b.must(names.Root, names.Manager+".StopInstance", "a", variants{})
	b.must(names.Root, names.Manager+".CreateOverlay", "a", "files", variants{}, variants{})
	b.must(names.Root, names.Manager+".CreateBlueprint", "a", variants{}, variants{})
	seen := map[string]int{}
	var walk func(path string)
	walk = func(path string) {
		text := b.must(dbus.ObjectPath(path), names.Introspectable+".Introspect")[0].(string)
		var node struct {
			Interfaces []xmlInterface `xml:"interface"`
			Nodes      []struct {
				Name string `xml:"name,attr"`
			} `xml:"node"`
		}
		if err := xml.Unmarshal([]byte(text), &node); err != nil {
			t.Fatalf("%s: %v\n%s", path, err, text)
		}
		for _, i := range node.Interfaces {
			seen[i.Name]++
		}
		for _, n := range node.Nodes {
			walk(strings.TrimSuffix(path, "/") + "/" + n.Name)
		}
	}
	walk("/")
	for _, iface := range []string{names.Manager, names.Instance, names.Blueprint, names.Overlay, names.Job} {
		if seen[iface] != 1 {
			t.Errorf("%s is on %d objects", iface, seen[iface])
		}
	}
	if seen[names.Peer] != 11 {
		t.Errorf("seen %v", seen)
	}
}

func TestSignalsComeBeforeTheReply(t *testing.T) {
	b := startBus(t)
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{}, variants{})
	if s := <-b.signals; s.Name != names.ObjectManager+".InterfacesAdded" {
		t.Errorf("the first signal is %s", s.Name)
	}
	job := b.must(names.Root, names.Manager+".StartInstance", "a", variants{})[0].(dbus.ObjectPath)
	var order []string
	b.next(func(s *dbus.Signal) bool {
		if strings.HasPrefix(s.Name, names.Manager) {
			order = append(order, s.Name[len(names.Manager)+1:])
		}
		return s.Name == names.Manager+".JobRemoved" && s.Body[1] == job && s.Body[4] == "done"
	})
	if want := "JobNew InstanceStateChanged JobRemoved"; strings.Join(order, " ") != want {
		t.Errorf("told %q, want %q", order, want)
	}
	b.must(names.Root, names.Manager+".ConfigureInstance", "a", variants{"label": dbus.MakeVariant("x")}, variants{})
	s := b.next(func(s *dbus.Signal) bool {
		return s.Name == names.Properties+".PropertiesChanged" && s.Body[0] == names.Instance
	})
	if got := s.Body[1].(map[string]dbus.Variant); len(got) != 1 || got["Label"].Value() != "x" {
		t.Errorf("changed %v", got)
	}
}

func TestWhatIsRefused(t *testing.T) {
	b := startBus(t)
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{}, variants{})
	b.must(names.Root, names.Manager+".CreateOverlay", "sm", "files", variants{}, variants{})
	v := dbus.MakeVariant
	b.must(names.Root, names.Manager+".CreateBlueprint", "bp", variants{"overlays": v([]pair{{"sm", ""}})}, variants{})
	b.must(names.Root, names.Manager+".ConfigureInstance", "a", variants{"blueprint": v("bp")}, variants{})
	for _, c := range []struct {
		path   dbus.ObjectPath
		method string
		args   []any
		name   string
	}{
		{names.Root, names.Manager + ".StartInstance", []any{"b", variants{}}, names.Error + "NoSuchInstance"},
		{names.Root, names.Manager + ".StartInstance", []any{"../a", variants{}}, names.Error + "InvalidName"},
		{names.Root, names.Manager + ".StartInstance", []any{"a", variants{"force": v(true)}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".StartInstance", []any{"a", variants{"timeout": v(uint32(5))}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".StartInstance", []any{"a", variants{"timeout": v(uint64(0))}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".StartInstance", []any{"a", variants{"timeout": v(^uint64(0))}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".StartInstance", []any{"a"}, "org.freedesktop.DBus.Error.InvalidArgs"},
		{names.Root, names.Manager + ".StartInstance", []any{"a", "x"}, "org.freedesktop.DBus.Error.InvalidArgs"},
		{names.Root, names.Manager + ".CreateInstance", []any{"b", variants{"prot": v(uint16(1))}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateInstance", []any{"b", variants{"port": v(int32(27015))}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateInstance", []any{"b", variants{"port": v("27015")}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateInstance", []any{"b", variants{"overlays": v([]string{"x"})}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateInstance", []any{"b", variants{"overlays": v([][]string{{"x"}})}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateInstance", []any{"b", variants{"limits": v(variants{"Nice": v(int32(1))})}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateInstance", []any{"a", variants{}, variants{}}, names.Error + "InstanceExists"},
		{names.Root, names.Manager + ".CreateInstance", []any{"b", variants{"port": v(uint16(27015))}, variants{}}, names.Error + "PortInUse"},
		{names.Root, names.Manager + ".GetJob", []any{uint32(77)}, names.Error + "NoSuchJob"},
		{names.Root, names.Manager + ".CancelJob", []any{uint32(77), variants{}}, names.Error + "NoSuchJob"},
		{names.Root, names.Manager + ".GetSecret", []any{"b", "rcon_password"}, names.Error + "NoSuchInstance"},
		{names.Root, names.Manager + ".GetSecret", []any{"a", "sv_password"}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".GetSecret", []any{"a", "rcon_password", variants{}}, "org.freedesktop.DBus.Error.InvalidArgs"},
		{names.Root, names.Manager + ".ConfigureInstance", []any{"a", variants{}, variants{"new_rcon_password": v("yes")}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".ConfigureInstance", []any{"a", variants{"new_rcon_password": v(true)}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".ConfigureInstance", []any{"a", variants{"blueprint": v("none")}, variants{}}, names.Error + "NoSuchBlueprint"},
		{names.Root, names.Manager + ".ConfigureInstance", []any{"a", variants{"blueprint": v("../b")}, variants{}}, names.Error + "InvalidName"},
		{names.Root, names.Manager + ".SetGameRevision", []any{uint32(2), variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".SetGameRevision", []any{uint32(1), variants{"force": v(true)}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".ListInstances", []any{variants{"blueprint": v(uint32(1))}}, names.Error + "InvalidArgument"},
		{"/me/left4/instance/a", names.Instance + ".FindFile", []any{"../a"}, names.Error + "InvalidArgument"},
		{"/me/left4/instance/a", names.Instance + ".FindFile", []any{`a\x`}, names.Error + "InvalidArgument"},
		{"/me/left4/instance/b", names.Instance + ".FindFile", []any{"a"}, names.Error + "NoSuchInstance"},
		{"/me/left4/instance/a", names.Instance + ".ListMaps", []any{variants{"revision": v(uint32(1))}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/sm", names.Overlay + ".ListMaps", []any{variants{"revision": v(uint32(9))}}, names.Error + "InvalidArgument"},
		{"/me/left4/instance/a", names.Instance + ".ListChanges", []any{variants{"max": v(uint32(1))}}, names.Error + "InvalidArgument"},
		{"/me/left4/instance/a", names.Instance + ".ListConflicts", []any{variants{"max": v(uint32(1))}}, names.Error + "InvalidArgument"},

		{names.Root, names.Manager + ".CreateBlueprint", []any{"bp", variants{}, variants{}}, names.Error + "BlueprintExists"},
		{names.Root, names.Manager + ".CreateBlueprint", []any{"B", variants{}, variants{}}, names.Error + "InvalidName"},
		{names.Root, names.Manager + ".CreateBlueprint", []any{"b", variants{"port": v(uint16(27015))}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateBlueprint", []any{"b", variants{"blueprint": v("bp")}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateBlueprint", []any{"b", variants{"limits": v(variants{"Nice": v(int32(1))})}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateBlueprint", []any{"b", variants{}, variants{"force": v(true)}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateBlueprint", []any{"b", variants{"overlays": v([]pair{{"none", ""}})}, variants{}}, names.Error + "NoSuchOverlay"},
		{names.Root, names.Manager + ".UpdateBlueprint", []any{"b", variants{}, variants{}}, names.Error + "NoSuchBlueprint"},
		{names.Root, names.Manager + ".UpdateBlueprint", []any{"bp", variants{"overlays": v([]pair{{"sm", ""}, {"sm", "x"}})}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".DeleteBlueprint", []any{"bp", variants{"force": v(true)}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".DeleteBlueprint", []any{"bp", variants{}}, names.Error + "InUse"},
		{names.Root, names.Manager + ".GetBlueprint", []any{"b"}, names.Error + "NoSuchBlueprint"},
		{names.Root, names.Manager + ".ListBlueprints", []any{variants{"owner": v(uint32(0))}}, names.Error + "InvalidArgument"},
		{"/me/left4/blueprint/bp", names.Blueprint + ".Update", []any{variants{"hostname": v("x")}, variants{}}, names.Error + "InvalidArgument"},
		{"/me/left4/blueprint/bp", names.Blueprint + ".Delete", []any{variants{}}, names.Error + "InUse"},
		{"/me/left4/blueprint/bp", names.Blueprint + ".ListConflicts", []any{variants{"max": v(uint32(1))}}, names.Error + "InvalidArgument"},
		{"/me/left4/blueprint/b", names.Blueprint + ".GetConfig", nil, names.Error + "NoSuchBlueprint"},
		{"/me/left4/blueprint/b", names.Blueprint + ".Explode", nil, "org.freedesktop.DBus.Error.UnknownObject"},
		{"/me/left4/blueprint/_62p", names.Blueprint + ".GetConfig", nil, "org.freedesktop.DBus.Error.UnknownObject"},

		{names.Root, names.Manager + ".CreateOverlay", []any{"sm", "files", variants{}, variants{}}, names.Error + "OverlayExists"},
		{names.Root, names.Manager + ".CreateOverlay", []any{"", "files", variants{}, variants{}}, names.Error + "InvalidName"},
		{names.Root, names.Manager + ".CreateOverlay", []any{"b/c", "files", variants{}, variants{}}, names.Error + "InvalidName"},
		{names.Root, names.Manager + ".CreateOverlay", []any{"b", "", variants{}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateOverlay", []any{"b", "script", variants{}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateOverlay", []any{"b", "files", variants{"keep": v(uint32(101))}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateOverlay", []any{"b", "files", variants{"keep": v(int32(1))}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateOverlay", []any{"b", "files", variants{"url": v("x")}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".CreateOverlay", []any{"b", "files", variants{}, variants{"revision": v(uint32(1))}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".UpdateOverlay", []any{"b", "", variants{}, variants{}}, names.Error + "NoSuchOverlay"},
		{names.Root, names.Manager + ".UpdateOverlay", []any{"sm", "workshop", variants{}, variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".UpdateOverlay", []any{"sm", "files", variants{}, variants{"revision": v(uint32(9))}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".UpdateOverlay", []any{"sm", "files", variants{}, variants{"revision": v(uint32(0))}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".UpdateOverlay", []any{"sm", "", variants{}, variants{"revision": v("1")}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".BuildOverlay", []any{"b", variants{}}, names.Error + "NoSuchOverlay"},
		{names.Root, names.Manager + ".BuildOverlay", []any{"sm", variants{}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".BuildOverlay", []any{"sm", variants{"timeout": v(uint64(0))}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".DeleteOverlay", []any{"../sm", variants{}}, names.Error + "InvalidName"},
		{names.Root, names.Manager + ".DeleteOverlay", []any{"sm", variants{"force": v(true)}}, names.Error + "InvalidArgument"},
		{names.Root, names.Manager + ".DeleteOverlay", []any{"sm", variants{}}, names.Error + "InUse"},
		{names.Root, names.Manager + ".GetOverlay", []any{"b"}, names.Error + "NoSuchOverlay"},
		{names.Root, names.Manager + ".ListOverlays", []any{variants{"state": v("ready")}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/sm", names.Overlay + ".Update", []any{variants{"keep": v(uint32(101))}, variants{}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/sm", names.Overlay + ".Update", []any{"files", variants{}, variants{}}, "org.freedesktop.DBus.Error.InvalidArgs"},
		{"/me/left4/overlay/sm", names.Overlay + ".Delete", []any{variants{}}, names.Error + "InUse"},
		{"/me/left4/overlay/sm", names.Overlay + ".Build", []any{variants{}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/sm", names.Overlay + ".ListFiles", []any{"", variants{"revision": v(uint32(9))}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/sm", names.Overlay + ".ListFiles", []any{"none", variants{}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/sm", names.Overlay + ".ListFiles", []any{"", variants{"depth": v(uint32(9))}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/sm", names.Overlay + ".OpenFile", []any{"", variants{}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/sm", names.Overlay + ".OpenFile", []any{"/etc/shadow", variants{}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/sm", names.Overlay + ".OpenFile", []any{"../../left4.db", variants{}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/sm", names.Overlay + ".OpenFile", []any{"a", variants{"write": v(true)}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/sm", names.Overlay + ".OpenFile", []any{"a", variants{"revision": v(uint64(1))}}, names.Error + "InvalidArgument"},
		{"/me/left4/overlay/b", names.Overlay + ".OpenFile", []any{"a", variants{}}, names.Error + "NoSuchOverlay"},

		{names.Root, names.Manager + ".Explode", nil, "org.freedesktop.DBus.Error.UnknownMethod"},
		{names.Root, "me.left4.Other.Explode", nil, "org.freedesktop.DBus.Error.UnknownInterface"},
		{"/me/left4/instance/b", names.Instance + ".Start", []any{variants{}}, names.Error + "NoSuchInstance"},
		{"/me/left4/nothing", names.Instance + ".Start", []any{variants{}}, "org.freedesktop.DBus.Error.UnknownObject"},
		{"/me/left4/job/99", names.Job + ".Cancel", []any{variants{}}, names.Error + "NoSuchJob"},
		{"/me/left4/instance/_61", names.Instance + ".Start", []any{variants{}}, "org.freedesktop.DBus.Error.UnknownObject"},
		{names.Root, names.Properties + ".Get", []any{names.Manager, "Nothing"}, "org.freedesktop.DBus.Error.UnknownProperty"},
		{names.Root, names.Properties + ".Get", []any{names.Job, "Id"}, "org.freedesktop.DBus.Error.UnknownInterface"},
	} {
		_, err := b.call(c.path, c.method, c.args...)
		var e dbus.Error
		if !errors.As(err, &e) || e.Name != c.name {
			t.Errorf("%s %v: got %v (%s), want %s", c.method, c.args, err, e.Name, c.name)
		}
	}
	if rows := b.must(names.Root, names.Manager+".ListInstances", variants{})[0].([][]any); len(rows) != 1 {
		t.Errorf("something was made: %v", rows)
	}
	for _, list := range []string{"ListOverlays", "ListBlueprints"} {
		if rows := b.must(names.Root, names.Manager+"."+list, variants{})[0].([][]any); len(rows) != 1 {
			t.Errorf("something was made: %v", rows)
		}
	}
	if rows := b.must(names.Root, names.Manager+".ListJobs", variants{})[0].([][]any); len(rows) != 0 {
		t.Errorf("something was begun: %v", rows)
	}
}

func TestConfigComesBackAsItWent(t *testing.T) {
	b := startBus(t)
	given := variants{
		"port": dbus.MakeVariant(uint16(27050)), "label": dbus.MakeVariant("Käse"), "hostname": dbus.MakeVariant("h"),
		"arguments": dbus.MakeVariant([]string{"+map", "c1m1_hotel"}), "config": dbus.MakeVariant([]string{"sv_lan 0"}),
		"overlays": dbus.MakeVariant([]pair{}), "restart": dbus.MakeVariant("no"),
		"limits": dbus.MakeVariant(variants{"AllowedCPUs": dbus.MakeVariant([]byte{3}), "TasksMax": dbus.MakeVariant(uint64(99))}),
	}
	path := b.must(names.Root, names.Manager+".CreateInstance", "a", given, variants{})[0].(dbus.ObjectPath)
	got := b.must(path, names.Instance+".GetConfig")[0].(map[string]dbus.Variant)
	for key, want := range given {
		if got[key].String() != want.String() {
			t.Errorf("%s: %s, want %s", key, got[key], want)
		}
	}
	b.must(names.Root, names.Manager+".DeleteInstance", "a", variants{})
	b.next(func(s *dbus.Signal) bool { return s.Name == names.Manager+".JobRemoved" })
	b.must(names.Root, names.Manager+".CreateInstance", "a", got, variants{})
}

func TestACallWithoutAnInterfaceIsLegal(t *testing.T) {
	b := startBus(t)
	msg := &dbus.Message{Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(names.Service), dbus.FieldPath: dbus.MakeVariant(names.Root),
		dbus.FieldMember: dbus.MakeVariant("ListInstances"), dbus.FieldSignature: dbus.MakeVariant(dbus.ParseSignatureMust("a{sv}")),
	}, Body: []any{variants{}}}
	ch := make(chan *dbus.Call, 1)
	if call := <-b.Send(msg, ch).Done; call.Err != nil {
		t.Error(call.Err)
	}
}

// descriptors counts what this process, and so left4d in it, has open.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestDescriptorsOfRefusedMessagesAreClosed(t *testing.T) {
	b := startBus(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	fd := dbus.UnixFD(r.Fd())
	send := func() {
		b.call(names.Root, names.Manager+".ImportGame", fd, variants{"unknown": dbus.MakeVariant(1)})
		b.call(names.Root, names.Manager+".ImportGame", dbus.UnixFD(w.Fd()), variants{})
		b.call(names.Root, names.Manager+".ImportGame", fd, fd)
		b.call(names.Root, names.Manager+".StartInstance", fd, fd, fd)
		b.call(names.Root, names.Manager+".Nothing", fd)
		b.call("/nowhere", "x.y.Z", fd)
		b.call(names.Root, names.Peer+".Ping", fd)
		b.call(names.Root, names.Manager+".ConfigureInstance", "a", variants{"x": dbus.MakeVariant(fd)}, variants{})
		msg := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(b.server.conn.name), dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/x")),
			dbus.FieldInterface: dbus.MakeVariant("x.y"), dbus.FieldMember: dbus.MakeVariant("Z"),
			dbus.FieldSignature: dbus.MakeVariant(dbus.ParseSignatureMust("h")),
		}, Body: []any{fd}}
		b.Send(msg, nil)
	}
	send()
	b.must(names.Root, names.Peer+".Ping")
	before := descriptors(t)
	for range 50 {
		send()
	}
	b.must(names.Root, names.Peer+".Ping")
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// A number in place of a descriptor could name any that left4d has open: its database, its bus.
func TestANumberIsNoDescriptor(t *testing.T) {
	b := startBus(t)
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	c := b.connect()
	for _, value := range []any{dbus.UnixFDIndex(0), dbus.UnixFDIndex(5), dbus.UnixFDIndex(1 << 31)} {
		msg := &dbus.Message{Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(names.Service), dbus.FieldPath: dbus.MakeVariant(names.Root),
			dbus.FieldInterface: dbus.MakeVariant(names.Manager), dbus.FieldMember: dbus.MakeVariant("ImportGame"),
			dbus.FieldSignature: dbus.MakeVariant(dbus.ParseSignatureMust("ha{sv}")),
		}, Body: []any{value, variants{}}}
		ch := make(chan *dbus.Call, 1)
		call := <-c.Send(msg, ch).Done
		wantError(t, call.Err, names.Error+"InvalidArgument")
	}
	before := descriptors(t)
	b.must(names.Root, names.Peer+".Ping")
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestAFloodIsRefusedAndHurtsNobodyElse(t *testing.T) {
	b := startBus(t)
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{}, variants{})
	flooder := b.connect()
	big := strings.Repeat("x", 3<<20)
	msg := func(member string, args ...any) *dbus.Message {
		return &dbus.Message{Type: dbus.TypeMethodCall, Flags: dbus.FlagNoReplyExpected, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(names.Service), dbus.FieldPath: dbus.MakeVariant(names.Root),
			dbus.FieldInterface: dbus.MakeVariant(names.Manager), dbus.FieldMember: dbus.MakeVariant(member),
			dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(args...)),
		}, Body: args}
	}
	for range 2000 {
		flooder.Send(msg("GetSecret", "a", "rcon_password"), nil)
	}
	_, err := b.call(names.Root, names.Manager+".GetInstance", big)
	wantError(t, err, "org.freedesktop.DBus.Error.LimitsExceeded")
	b.must(names.Root, names.Manager+".GetInstance", "a")
	b.server.quota.mu.Lock()
	defer b.server.quota.mu.Unlock()
	if who := b.server.quota.callers[flooder.Names()[0]]; who == nil || who.calls > maxCallerCalls {
		t.Errorf("under way: %+v", who)
	}
}

func TestQuota(t *testing.T) {
	q := newQuota()
	var all []ticket
	for range maxCallerCalls {
		ticket, err := q.enter(":1.1", 1)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ticket)
	}
	if _, err := q.enter(":1.1", 1); err == nil {
		t.Error("one call too many was let in")
	}
	other, err := q.enter(":1.2", 1)
	if err != nil {
		t.Errorf("another caller pays for it: %v", err)
	}
	if _, err := q.enter(":1.2", maxCallerBytes); err == nil {
		t.Error("too many bytes were let in")
	}
	q.gone(":1.1")
	if all[0].who.ctx.Err() == nil || other.who.ctx.Err() != nil {
		t.Error("the end of a caller ended the wrong calls")
	}
	for _, ticket := range all {
		q.leave(ticket)
	}
	if len(q.callers) != 1 {
		t.Errorf("%d callers are known", len(q.callers))
	}
	q.leave(other)
	q.gone(":1.2")
	if q.unknown != (share{}) || q.all != (share{}) || len(q.callers) != 0 {
		t.Errorf("left behind: %+v", q)
	}
	p := newPlaces(2)
	for range 2 {
		if !p.take(5) {
			t.Fatal("refused too early")
		}
	}
	if p.take(5) || !p.take(6) {
		t.Error("the places of one user are not his own")
	}
	p.give(5)
	if !p.take(5) {
		t.Error("a place that was given back is not free")
	}
}

func TestAuthorize(t *testing.T) {
	b := startBus(t)
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{}, variants{})
	var asked polkit.Request
	var answer polkit.Answer
	var fail error
	b.server.auth = answers(func(_ context.Context, r polkit.Request) (polkit.Answer, error) {
		asked = r
		return answer, fail
	})
	c := &call{header: header{sender: ":1.5", flags: dbus.FlagAllowInteractiveAuthorization}, ctx: context.Background(), uid: 4000}
	for _, want := range []struct {
		answer polkit.Answer
		err    error
		name   string
	}{
		{polkit.Yes, nil, ""},
		{polkit.No, nil, names.ErrAccessDenied},
		{polkit.Challenge, nil, names.ErrInteractive},
		{polkit.Dismissed, nil, names.ErrAccessDenied},
		{polkit.Yes, errors.New("polkit is broken"), names.ErrAccessDenied},
		{polkit.Answer(99), nil, names.ErrAccessDenied},
	} {
		answer, fail = want.answer, want.err
		err := b.server.authorize(c, "me.left4.instance.start", thing{instance, "a"})
		if want.name == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		wantError(t, err, want.name)
	}
	if asked.Sender != ":1.5" || !asked.Interactive || asked.Details["instance"] != "a" || asked.Details["verb"] != "start" {
		t.Errorf("asked %+v", asked)
	}
	c.uid = 0
	fail = errors.New("root was asked about")
	if err := b.server.authorize(c, "me.left4.instance.start", thing{instance, "a"}); err != nil {
		t.Error(err)
	}
}

// A yes for a thing must not serve for another that took its name while a person was asked.
func TestAYesIsForWhatWasAskedAbout(t *testing.T) {
	b := startBus(t)
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{}, variants{})
	b.must(names.Root, names.Manager+".CreateOverlay", "a", "files", variants{}, variants{})
	b.must(names.Root, names.Manager+".CreateBlueprint", "a", variants{}, variants{})
	b.server.auth = answers(func(context.Context, polkit.Request) (polkit.Answer, error) {
		b.must(names.Root, names.Manager+".DeleteInstance", "a", variants{})
		b.ended("delete")
		b.must(names.Root, names.Manager+".CreateInstance", "a", variants{}, variants{})
		b.must(names.Root, names.Manager+".DeleteOverlay", "a", variants{})
		b.ended("delete-overlay")
		b.must(names.Root, names.Manager+".CreateOverlay", "a", "files", variants{}, variants{})
		b.must(names.Root, names.Manager+".DeleteBlueprint", "a", variants{})
		b.must(names.Root, names.Manager+".CreateBlueprint", "a", variants{}, variants{})
		return polkit.Yes, nil
	})
	c := &call{header: header{sender: ":1.5"}, ctx: context.Background(), uid: 4000}
	for _, about := range []thing{{instance, "a"}, {overlay, "a"}, {blueprint, "a"}} {
		wantError(t, b.server.authorize(c, "me.left4.instance.reset", about), names.Error+"Busy")
	}
	if err := b.server.authorize(c, "me.left4.game.install", thing{}); err != nil {
		t.Errorf("the game was never remade: %v", err)
	}
}

func TestALostBusIsTold(t *testing.T) {
	b := startBus(t)
	b.server.conn.socket.Close()
	select {
	case <-b.server.Done():
	case <-time.After(2 * time.Minute):
		t.Fatal("not told")
	}
	if b.server.Err() == nil {
		t.Error("no reason is given")
	}
}

func TestASecondLeft4dIsRefused(t *testing.T) {
	b := startBus(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	second, err := Dial(ctx, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close(ctx)
	if err := second.Serve(ctx, b.server.daemon, nil); err == nil || !strings.Contains(err.Error(), "another left4d") {
		t.Errorf("%v", err)
	}
}

// raw sends bytes to the bus as another connection of this user, after Hello.
func (b *testBus) raw(messages ...[]byte) *conn {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := dial(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.fail(errors.New("the test ends")) })
	go c.run(func(*incoming) error { return nil })
	if _, err := c.call(ctx, "Hello"); err != nil {
		b.t.Fatal(err)
	}
	c.mu.Lock()
	for _, m := range messages {
		c.push(outgoing{raw: m})
	}
	c.mu.Unlock()
	c.flush(ctx)
	return c
}

// One message of any user must never end left4d.
func TestAnOversizedHeaderIsPassedOver(t *testing.T) {
	b := startBus(t)
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{}, variants{})
	var long bytes.Buffer
	msg := &dbus.Message{Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(names.Service), dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/" + strings.Repeat("a", 70_000))),
		dbus.FieldInterface: dbus.MakeVariant(names.Peer), dbus.FieldMember: dbus.MakeVariant("Ping"),
	}}
	if err := msg.EncodeTo(&long, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	b.raw(long.Bytes(), long.Bytes())
	b.must(names.Root, names.Manager+".GetInstance", "a")
	select {
	case <-b.server.Done():
		t.Error(b.server.Err())
	default:
	}
}

// A method that takes a name must not make left4d unpack a megabyte.
func TestALargeBodyIsForDefinitionsOnly(t *testing.T) {
	b := startBus(t)
	lines := make([]string, 900)
	for i := range lines {
		lines[i] = strings.Repeat("x", 500)
	}
	_, err := b.call(names.Root, names.Manager+".GetInstance", strings.Repeat("x", 100_000))
	wantError(t, err, "org.freedesktop.DBus.Error.LimitsExceeded")
	b.must(names.Root, names.Manager+".CreateInstance", "a", variants{"config": dbus.MakeVariant(lines)}, variants{})
}

func TestOneUserLeavesRoomForOthers(t *testing.T) {
	q := newQuota()
	n := 0
	for ; ; n++ {
		ticket, err := q.enter(fmt.Sprintf(":1.%d", n), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.claim(&ticket, 1000); err != nil {
			q.leave(ticket)
			// The next one of this connection is refused before anything is made of it.
			if _, err := q.enter(ticket.who.name, 1<<20); err == nil {
				t.Error("a connection of a user who has all under way got further")
			}
			break
		}
	}
	if n != maxUserBytes>>20 {
		t.Errorf("one user got %d MiB", n)
	}
	ticket, err := q.enter(":2.1", 1<<20)
	if err == nil {
		err = q.claim(&ticket, 1001)
	}
	if err != nil {
		t.Error(err)
	}
	q.leave(ticket)
	all := q.all
	for range 2 { // it is known the second time
		root, err := q.enter(":3.1", 5)
		if err == nil {
			err = q.claim(&root, 0)
		}
		if err != nil || q.all != all {
			t.Errorf("root is counted: %v", err)
		}
		q.leave(root)
	}
	if q.all != all || q.unknown != (share{}) || len(q.users) != 1 {
		t.Errorf("%+v, before %+v", q, all)
	}
}

// Nobody knows who a new connection is before the bus has told, and somebody may have as many as the bus lets him.
func TestManyNewConnectionsLockNobodyOut(t *testing.T) {
	q := newQuota()
	var all []ticket
	for n := 0; !q.unknown.full(100); n++ {
		for range maxCallerCalls {
			ticket, err := q.enter(fmt.Sprintf(":1.%d", n), 100)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, ticket)
		}
	}
	if _, err := q.enter(":1.0", 100); err == nil {
		t.Error("one call too many was let in")
	}
	for n := range firstCalls {
		root, err := q.enter(":2.1", 200)
		if err != nil {
			t.Fatalf("call %d of a new connection: %v", n, err)
		}
		all = append(all, root)
	}
	if _, err := q.enter(":2.1", 200); err == nil {
		t.Error("a connection of nobody known got all that it wanted")
	}
	if err := q.claim(&all[len(all)-1], 0); err != nil {
		t.Error(err)
	}
	root, err := q.enter(":2.1", 1<<20)
	if err != nil {
		t.Errorf("root: %v", err)
	}
	for _, ticket := range append(all, root) {
		q.leave(ticket)
	}
	if q.unknown != (share{}) || q.all != (share{}) || len(q.users) != 0 {
		t.Errorf("left behind: %+v", q)
	}
}
