package clienttest

import (
	"archive/tar"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/client"
	"left4.me/left4/dbus/names"
)

// Daemon is the fake left4d. Its state outlives Stop and Start, as that of the real one does.
//
// A job runs its Plan as soon as somebody has read the job, so that a waiter sees every step.
type Daemon struct {
	t   testing.TB
	bus *Bus

	mu        sync.Mutex
	cond      *sync.Cond
	conn      *dbus.Conn      // nil while stopped
	owed      *sync.WaitGroup // answers to calls that have come in
	instances map[string]*Instance
	jobs      map[uint32]*job
	last      uint32
	plans     map[string]Plan
	failures  map[string]*dbus.Error
	calls     []string
	imported  []string
	runs      sync.WaitGroup

	overlays    map[string]*overlay
	lastOverlay uint32
	blueprints  map[string]map[string]dbus.Variant
	game        game
	answers     map[string]answer
	more        bool // lists say that they left some out
	permissions map[string]string
	problems    []client.Problem
	version     string
	looks       int                                // how often somebody has asked for all objects
	told        map[dbus.ObjectPath]map[string]any // properties of all objects as they were signalled last
}

// game is what is installed.
type game struct {
	current   uint32
	revisions []revisionRow

	build, available string
}

// answer is what the fake says of one instance, because it has no layers to look at.
type answer struct {
	serverConfig string
	secret       string
	found        []client.Found
	changes      []client.Change
	maps         client.Maps
}

// Instance is an instance of the fake; its properties are served as they are.
type Instance struct {
	Properties map[string]any
	Config     map[string]dbus.Variant
}

// Plan is how jobs of one kind go.
type Plan struct {
	Steps  []Step
	Result string // done if empty
	Cause  string
	Early  bool // it has ended, and is signalled so, before the reply that names it
	Forget bool // it is not known any more when it has ended
	Hold   bool // after its steps it waits for Release
}

// Step is what a job tells while it runs.
type Step struct {
	Status   string
	Progress float64
}

type job struct {
	properties map[string]any
	plan       Plan
	stream     *os.File
	effect     func(files map[string]file) (cause string) // what it does when it comes to its end
	read       bool                                       // by a client
	running    bool
	held       bool
	released   bool
}

// StartDaemon starts a fake left4d without instances on the bus; it ends with the test.
func StartDaemon(t testing.TB, bus *Bus) *Daemon {
	d := &Daemon{
		t:         t,
		bus:       bus,
		instances: map[string]*Instance{},
		jobs:      map[uint32]*job{},
		plans:     map[string]Plan{},
		failures:  map[string]*dbus.Error{},

		overlays:   map[string]*overlay{},
		blueprints: map[string]map[string]dbus.Variant{},
		game:       game{current: 7, revisions: []revisionRow{{7, 1700000000000000, 3, 4096}}},
		answers:    map[string]answer{},
		permissions: map[string]string{
			"me.left4.instance.start": "yes", "me.left4.instance.delete": "auth", "me.left4.game.install": "no",
		},
	}
	d.told = d.all()
	d.cond = sync.NewCond(&d.mu)
	d.Start()
	t.Cleanup(func() {
		d.Stop()
		d.mu.Lock()
		d.release()
		d.mu.Unlock()
		d.runs.Wait()
	})
	return d
}

// Start puts it on the bus.
func (d *Daemon) Start() {
	d.t.Helper()
	answers := new(sync.WaitGroup)
	conn, err := dbus.Connect(d.bus.Address, dbus.WithIncomingInterceptor(func(msg *dbus.Message) {
		if msg.Type == dbus.TypeMethodCall && msg.Flags&dbus.FlagNoReplyExpected == 0 {
			answers.Add(1)
		}
	}), dbus.WithOutgoingInterceptor(func(msg *dbus.Message) {
		if msg.Type == dbus.TypeMethodReply || msg.Type == dbus.TypeError {
			answers.Done()
		}
	}))
	if err != nil {
		d.t.Fatal(err)
	}
	for iface, object := range map[string]any{
		names.Manager: (*manager)(d), names.Properties: (*props)(d), names.ObjectManager: (*objects)(d),
		names.Instance: (*instanceFace)(d), names.Overlay: (*overlayFace)(d), names.Blueprint: (*blueprintFace)(d),
	} {
		if err := conn.ExportSubtree(object, names.Root, iface); err != nil {
			d.t.Fatal(err)
		}
	}
	d.mu.Lock()
	d.conn, d.owed = conn, answers // before the first call can come in
	d.mu.Unlock()
	// After Stop the bus may take a moment to see that the name is free; then it tells.
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	defer conn.RemoveSignal(signals)
	if _, err := conn.RequestName(names.Service, 0); err != nil {
		d.t.Fatalf("cannot own %s: %v", names.Service, err)
	}
	for s := range signals {
		if s.Name == names.Bus+".NameAcquired" && s.Body[0] == names.Service {
			return
		}
	}
	d.t.Fatal("the bus is gone")
}

// Stop takes it off the bus, as a crash does. All that it has signalled, or was asked, is on its way by then.
func (d *Daemon) Stop() {
	d.mu.Lock()
	conn, owed := d.conn, d.owed
	d.conn = nil
	d.mu.Unlock()
	if conn != nil {
		owed.Wait()
		// The bus reads nothing more of a connection that was closed before all was read that it had sent.
		conn.BusObject().Call(names.Peer+".Ping", 0)
		conn.Close()
	}
}

// AddInstance defines an instance, stopped unless properties say something else.
func (d *Daemon) AddInstance(name string, port uint16, properties map[string]any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tell()
	d.addInstance(name, port, properties)
}

func (d *Daemon) addInstance(name string, port uint16, properties map[string]any) {
	p := map[string]any{
		"Name": name, "Label": "", "Blueprint": "", "Overlays": []client.Overlay{}, "Port": port,
		"Unit": "left4-server@" + name + ".service", "Owner": uint32(0), "OwnerName": "root", "State": "stopped",
		"DesiredState": "stopped", "Drifted": false, "PendingRestart": false, "PendingCause": "", "Cause": "",
		"MainPID": uint32(0), "StateSince": uint64(0), "Restarts": uint32(0), "Limits": map[string]dbus.Variant{},
	}
	maps.Copy(p, properties)
	d.instances[name] = &Instance{Properties: p, Config: map[string]dbus.Variant{"port": dbus.MakeVariant(port)}}
}

// SetProperties sets properties of an instance.
func (d *Daemon) SetProperties(name string, properties map[string]any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tell()
	maps.Copy(d.instances[name].Properties, properties)
}

// SetConfig is what GetConfig answers.
func (d *Daemon) SetConfig(name string, config map[string]dbus.Variant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.instances[name].Config = config
}

// SetServerConfig is what GetServerConfig answers.
func (d *Daemon) SetServerConfig(name, text string) {
	d.answer(name, func(a *answer) { a.serverConfig = text })
}

// SetSecret is the password that GetSecret answers with.
func (d *Daemon) SetSecret(name, value string) {
	d.answer(name, func(a *answer) { a.secret = value })
}

// SetFound is what FindFile answers, whatever the path.
func (d *Daemon) SetFound(name string, found []client.Found) {
	d.answer(name, func(a *answer) { a.found = found })
}

// SetChanges is what ListChanges answers.
func (d *Daemon) SetChanges(name string, changes []client.Change) {
	d.answer(name, func(a *answer) { a.changes = changes })
}

// SetMaps is what ListMaps answers, of an instance or an overlay.
func (d *Daemon) SetMaps(name string, m client.Maps) {
	d.answer(name, func(a *answer) { a.maps = m })
}

// maps are what ListMaps answers.
func (d *Daemon) maps(name string) ([]client.Map, []client.Unread, bool, *dbus.Error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.answers[name].maps
	return append([]client.Map{}, m.Maps...), append([]client.Unread{}, m.Unread...), m.More || d.more, d.failures["ListMaps"]
}

func (d *Daemon) answer(name string, set func(*answer)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.answers[name]
	set(&a)
	d.answers[name] = a
}

// SetMore makes all lists that can be cut say that they are.
func (d *Daemon) SetMore(more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.more = more
}

// RemoveInstance deletes an instance, as somebody else would.
func (d *Daemon) RemoveInstance(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tell()
	delete(d.instances, name)
}

// SetPermissions is what GetPermissions answers: actions, and yes, auth or no.
func (d *Daemon) SetPermissions(permissions map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.permissions = permissions
}

// AddProblem adds one that ListProblems tells, until it is repaired.
func (d *Daemon) AddProblem(p client.Problem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problems = append(d.problems, p)
}

// SetVersion makes it a left4d of another version.
func (d *Daemon) SetVersion(version string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.version = version
}

// AddGameRevision adds a revision of the game and makes it the current one.
func (d *Daemon) AddGameRevision(id uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tell()
	d.game.current = id
	d.game.revisions = append(d.game.revisions, revisionRow{id, 1700000000000000 + uint64(id)*60e6, 3, 4096})
}

// SetLimits sets the limits of an instance, in its definition and as a property.
func (d *Daemon) SetLimits(name string, limits map[string]dbus.Variant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tell()
	d.instances[name].Properties["Limits"] = limits
	d.instances[name].Config["limits"] = dbus.MakeVariant(limits)
}

// AddJob adds a job that has been; properties override those of a start that is done.
func (d *Daemon) AddJob(target string, properties map[string]any) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := d.newJob("start", target)
	maps.Copy(d.jobs[id].properties, map[string]any{
		"State": "done", "Progress": 1.0, "Started": uint64(1700000001000000), "Finished": uint64(1700000002000000), "Cancelable": false,
	})
	maps.Copy(d.jobs[id].properties, properties)
	defer d.tell()
	d.jobs[id].running = true // whatever its state: it has no plan
	return id
}

// SetPlan says how jobs of a kind ("start", "import-game", …) go from now on.
func (d *Daemon) SetPlan(kind string, p Plan) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plans[kind] = p
}

// Fail lets a method of the Manager, by its name, end in an error; an empty error name ends that.
func (d *Daemon) Fail(method, name, message string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.failures, method)
	if name != "" {
		d.failures[method] = dbus.NewError(name, []any{message})
	}
}

// Calls returns the changing calls so far, one line each, and forgets them.
func (d *Daemon) Calls() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

// Imported returns what the last imported tar stream held, one line for each entry.
func (d *Daemon) Imported() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.imported
}

// AwaitHeld returns when the newest job is of that kind and held by its plan. So somebody has read it and waits for it.
func (d *Daemon) AwaitHeld(kind string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		if j := d.jobs[d.last]; j != nil && j.properties["Kind"] == kind && j.held && !j.released {
			return
		}
		d.cond.Wait()
	}
}

// AwaitLooks returns how often somebody has asked for all objects, as a client does that watches, when that is at least
// n times.
func (d *Daemon) AwaitLooks(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.looks < n {
		d.cond.Wait()
	}
	return d.looks
}

// Release ends all jobs that their plan holds.
func (d *Daemon) Release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.release()
}

func (d *Daemon) release() {
	for _, j := range d.jobs {
		j.released = true
	}
	d.cond.Broadcast()
}

// ForgetJobs forgets all jobs, as a left4d would whose database was lost.
func (d *Daemon) ForgetJobs() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.release()
	clear(d.jobs)
	d.tell()
}

// Owner is the unique name on the bus.
func (d *Daemon) Owner() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn.Names()[0]
}

// all is what there is: the properties of every object, and the Manager's.
func (d *Daemon) all() map[dbus.ObjectPath]map[string]any {
	all := map[dbus.ObjectPath]map[string]any{names.Root: d.serviceProperties()}
	for name := range d.instances {
		all[names.InstancePath(name)] = d.instanceProperties(name)
	}
	for name := range d.blueprints {
		all[names.BlueprintPath(name)] = d.blueprintProperties(name)
	}
	for name, one := range d.overlays {
		all[names.OverlayPath(name)] = one.properties(name)
	}
	for id, j := range d.jobs {
		all[names.JobPath(id)] = maps.Clone(j.properties)
	}
	return all
}

func (d *Daemon) serviceProperties() map[string]any {
	return map[string]any{"Version": cmp.Or(d.version, "1.2.3"), "GameRevision": d.game.current, "GameRevisions": slices.Clone(d.game.revisions),
		"GameBuild": d.game.build, "AvailableGameBuild": d.game.available}
}

// tell signals all that has changed since it was last called, in the order of the paths. Called with mu held.
func (d *Daemon) tell() {
	before := d.told
	d.told = d.all()
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if d.told[path] == nil {
			d.emit(names.Root, names.ObjectManager+".InterfacesRemoved", path, []string{interfaceOf(path)})
		}
	}
	for _, path := range slices.Sorted(maps.Keys(d.told)) {
		now, was := d.told[path], before[path]
		if was == nil {
			d.emit(names.Root, names.ObjectManager+".InterfacesAdded", path, map[string]map[string]dbus.Variant{interfaceOf(path): variants(now)})
			continue
		}
		differ := map[string]any{}
		for name, value := range now {
			if !reflect.DeepEqual(was[name], value) {
				differ[name] = value
			}
		}
		if len(differ) == 0 {
			continue
		}
		d.emit(path, names.Properties+".PropertiesChanged", interfaceOf(path), variants(differ), []string{})
		if name, ok := names.InstanceName(path); ok && differ["State"] != nil {
			d.emit(names.Root, names.Manager+".InstanceStateChanged", name, was["State"], now["State"], now["Cause"])
		}
	}
}

func interfaceOf(path dbus.ObjectPath) string {
	for part, iface := range map[string]string{
		"/instance/": names.Instance, "/blueprint/": names.Blueprint, "/overlay/": names.Overlay, "/job/": names.Job,
	} {
		if strings.Contains(string(path), part) {
			return iface
		}
	}
	return names.Manager
}

func (d *Daemon) emit(path dbus.ObjectPath, name string, values ...any) {
	if d.conn == nil {
		return
	}
	if err := d.conn.Emit(path, name, values...); err != nil && !errors.Is(err, dbus.ErrClosed) {
		d.t.Logf("cannot emit %s: %v", name, err)
	}
}

func (d *Daemon) newJob(kind, target string) uint32 {
	d.last++
	d.jobs[d.last] = &job{plan: d.plans[kind], properties: map[string]any{
		"Id": d.last, "Kind": kind, "Target": target, "State": "queued", "Progress": -1.0, "Status": "", "Requester": uint32(0),
		"RequesterName": "root", "Cause": "", "Timeout": uint64(600000000), "Created": uint64(1700000000000000),
		"Started": uint64(0), "Finished": uint64(0), "Cancelable": true,
	}}
	return d.last
}

func (d *Daemon) change(id uint32, changed map[string]any) {
	maps.Copy(d.jobs[id].properties, changed)
	d.tell()
}

// run is a job's life. Called with mu held.
func (d *Daemon) run(id uint32) {
	j := d.jobs[id]
	if j == nil || j.running {
		return
	}
	j.running = true
	var files map[string]file
	if j.stream != nil {
		files = d.readStream(j.stream)
	}
	if j.properties["State"] == "queued" {
		d.change(id, map[string]any{"State": "running", "Started": uint64(1700000001000000)})
	}
	for _, s := range j.plan.Steps {
		d.change(id, map[string]any{"Status": s.Status, "Progress": s.Progress})
	}
	for j.plan.Hold && !j.released {
		j.held = true
		d.cond.Broadcast()
		d.cond.Wait()
	}
	if d.jobs[id] != j || j.properties["Finished"] != uint64(0) {
		return
	}
	result, cause := j.plan.Result, j.plan.Cause
	if result == "" {
		result = "done"
		if j.effect != nil {
			cause = j.effect(files)
		}
		if cause != "" {
			result = "failed"
		}
	}
	d.end(id, result, cause)
	if j.plan.Forget {
		delete(d.jobs, id)
		d.tell()
	}
}

func (d *Daemon) end(id uint32, result, cause string) {
	d.jobs[id].released = true
	d.cond.Broadcast()
	p := d.jobs[id].properties
	d.change(id, map[string]any{"State": result, "Cause": cause, "Finished": uint64(1700000002000000), "Cancelable": false})
	d.emit(names.Root, names.Manager+".JobRemoved", id, names.JobPath(id), p["Kind"], p["Target"], result)
}

func (d *Daemon) readStream(f *os.File) map[string]file {
	d.mu.Unlock()
	var list []string
	files := map[string]file{}
	in := tar.NewReader(f)
	for {
		h, err := in.Next()
		if err != nil {
			if err != io.EOF {
				list = append(list, "error: "+err.Error())
			}
			break
		}
		data, err := io.ReadAll(in)
		if err != nil {
			list = append(list, "error: "+err.Error())
			break
		}
		list = append(list, strings.TrimSpace(fmt.Sprintf("%c %04o %s %s%s", h.Typeflag, h.Mode, h.Name, h.Linkname, data)))
		switch h.Typeflag {
		case tar.TypeDir:
			files[path.Clean(h.Name)] = file{kind: "directory", mode: h.Mode}
		case tar.TypeSymlink:
			files[path.Clean(h.Name)] = file{"link", h.Mode, []byte(h.Linkname)}
		default:
			files[path.Clean(h.Name)] = file{"file", h.Mode, data}
		}
	}
	io.Copy(io.Discard, f)
	f.Close()
	d.mu.Lock()
	d.imported = list
	return files
}

func variants(m map[string]any) map[string]dbus.Variant {
	v := map[string]dbus.Variant{}
	for key, value := range m {
		v[key] = dbus.MakeVariant(value)
	}
	return v
}

// called writes a call down, and gives the error that it shall end in. Called with mu held.
func (d *Daemon) called(msg dbus.Message) *dbus.Error {
	member := msg.Headers[dbus.FieldMember].Value().(string)
	line := member
	for _, a := range msg.Body { // as sent: what is decoded for the methods has lost the signatures
		if _, ok := a.(dbus.UnixFD); !ok {
			line += " " + show(a)
		}
	}
	if msg.Flags&dbus.FlagAllowInteractiveAuthorization != 0 {
		line += " interactive"
	}
	d.calls = append(d.calls, line)
	return d.failures[member]
}

func show(v any) string {
	switch v := v.(type) {
	case map[string]dbus.Variant:
		var parts []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, key+": "+show(v[key]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case dbus.Variant:
		if m, ok := v.Value().(map[string]dbus.Variant); ok {
			return show(m)
		}
		return v.Signature().String() + " " + show(v.Value())
	case []byte:
		return fmt.Sprintf("%x", v)
	case string:
		return v
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func noSuchInstance(name string) *dbus.Error {
	return dbus.NewError(names.Error+"NoSuchInstance", []any{"there is no instance " + name})
}

// manager is me.left4.Manager.
type manager Daemon

func (m *manager) daemon() *Daemon { return (*Daemon)(m) }

type options = map[string]dbus.Variant

func (m *manager) CreateInstance(msg dbus.Message, name string, config, o options) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return "", err
	}
	if d.instances[name] != nil {
		return "", dbus.NewError(names.Error+"InstanceExists", []any{"there is an instance " + name + " already"})
	}
	if err := d.check(config); err != nil {
		return "", err
	}
	port, err := d.port(name, config)
	if err != nil {
		return "", err
	}
	defer d.tell()
	d.addInstance(name, port, nil)
	d.define(d.instances[name], config)
	return names.InstancePath(name), nil
}

// port is the one that a config asks for on behalf of an instance, or the next free one.
func (d *Daemon) port(name string, config map[string]dbus.Variant) (uint16, *dbus.Error) {
	holder := map[uint16]string{}
	for other, i := range d.instances {
		holder[i.Properties["Port"].(uint16)] = other
	}
	if v, ok := config["port"]; ok && v.Value() != uint16(0) {
		port := v.Value().(uint16)
		if other := holder[port]; other != "" && other != name {
			return 0, dbus.NewError(names.Error+"PortInUse", []any{fmt.Sprintf("port %d belongs to %s", port, other)})
		}
		return port, nil
	}
	port := uint16(27015)
	for holder[port] != "" {
		port++
	}
	return port, nil
}

func (m *manager) ConfigureInstance(msg dbus.Message, name string, changes, o options) *dbus.Error {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return err
	}
	if d.instances[name] == nil {
		return noSuchInstance(name)
	}
	if err := d.check(changes); err != nil {
		return err
	}
	if _, err := d.port(name, changes); err != nil {
		return err
	}
	if v, ok := o["new_rcon_password"]; ok && v.Value().(bool) {
		a := d.answers[name]
		a.secret += "-new"
		d.answers[name] = a
	}
	defer d.tell()
	d.define(d.instances[name], changes)
	return nil
}

// lifecycle is a verb on an instance, which ends in a job.
func (m *manager) lifecycle(msg dbus.Message, kind, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	unknown := kind != "initialize" && kind != "delete" && d.instances[name] == nil
	d.mu.Unlock()
	if unknown {
		d.mu.Lock()
		defer d.mu.Unlock()
		if err := d.called(msg); err != nil {
			return "", err
		}
		return "", noSuchInstance(name)
	}
	var effect func(map[string]file) string
	if kind == "delete" {
		effect = func(map[string]file) string {
			delete(d.instances, name)
			return ""
		}
	}
	return m.begin(msg, kind, name, o, nil, effect)
}

// begin begins a job and answers with it.
func (m *manager) begin(msg dbus.Message, kind, name string, o options, stream *os.File, effect func(map[string]file) string) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return "", err
	}
	id := d.newJob(kind, name)
	d.jobs[id].stream, d.jobs[id].effect = stream, effect
	if timeout, ok := o["timeout"]; ok {
		d.jobs[id].properties["Timeout"] = timeout.Value()
	}
	d.tell()
	d.emit(names.Root, names.Manager+".JobNew", id, names.JobPath(id), kind, name)
	if d.jobs[id].plan.Early {
		d.run(id)
	}
	return names.JobPath(id), nil
}

func (m *manager) InitializeInstance(msg dbus.Message, name string, config, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "initialize", name, o)
}

func (m *manager) StartInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "start", name, o)
}

func (m *manager) StopInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "stop", name, o)
}

func (m *manager) RestartInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "restart", name, o)
}

func (m *manager) KillInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "kill", name, o)
}

func (m *manager) ResetInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "reset", name, o)
}

func (m *manager) DeleteInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "delete", name, o)
}

func (m *manager) ImportGame(msg dbus.Message, stream dbus.UnixFD, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.begin(msg, "import-game", "game", o, os.NewFile(uintptr(stream), "stream"), nil)
}

// InstallGame finds build 200.
func (m *manager) InstallGame(msg dbus.Message, o options) (dbus.ObjectPath, *dbus.Error) {
	mode, _ := o["mode"].Value().(string)
	delete(o, "mode")
	d := m.daemon()
	return m.begin(msg, "install-game", "game", o, nil, func(map[string]file) string {
		d.game.available = "200"
		if mode != client.GameCheck {
			d.game.build = "200"
		}
		return ""
	})
}

func (m *manager) SetGameRevision(msg dbus.Message, revision uint32, o options) *dbus.Error {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return err
	}
	if !slices.ContainsFunc(d.game.revisions, func(r revisionRow) bool { return r.ID == revision }) {
		return invalid("the game has no revision %d", revision)
	}
	defer d.tell()
	d.game.current = revision
	return nil
}

// ListProblems is a reading method, but one that polkit is asked about.
func (m *manager) ListProblems(msg dbus.Message, o options) ([]client.Problem, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return nil, err
	}
	return append([]client.Problem{}, d.problems...), nil
}

func (m *manager) RepairProblems(msg dbus.Message, which []string, o options) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	return m.begin(msg, "repair", "problems", o, nil, func(map[string]file) string {
		d.problems = slices.DeleteFunc(d.problems, func(p client.Problem) bool {
			return p.Repair != "" && (len(which) == 0 || slices.Contains(which, p.Kind) || slices.Contains(which, p.ID()))
		})
		return ""
	})
}

// GetSecret is a reading method, but one that polkit is asked about.
func (m *manager) GetSecret(msg dbus.Message, name, key string) (string, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return "", err
	}
	if d.instances[name] == nil {
		return "", noSuchInstance(name)
	}
	if key != "rcon_password" {
		return "", invalid("there is no secret %q", key)
	}
	return d.answers[name].secret, nil
}

func (m *manager) GetPermissions(instance string) (map[string]string, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if instance != "" && d.instances[instance] == nil {
		return nil, noSuchInstance(instance)
	}
	return d.permissions, d.failures["GetPermissions"]
}

func (m *manager) GetInstance(name string) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.instances[name] == nil {
		return "", noSuchInstance(name)
	}
	return names.InstancePath(name), nil
}

type instanceRow struct {
	Name, Label, State, Desired, Cause, Blueprint string
	Port                                          uint16
	Object                                        dbus.ObjectPath
}

func (m *manager) ListInstances(filter options) ([]instanceRow, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failures["ListInstances"]; err != nil {
		return nil, err
	}
	list := []instanceRow{}
	for _, name := range slices.Sorted(maps.Keys(d.instances)) {
		p := d.instances[name].Properties
		list = append(list, instanceRow{
			name, p["Label"].(string), p["State"].(string), p["DesiredState"].(string), p["Cause"].(string),
			p["Blueprint"].(string), p["Port"].(uint16), names.InstancePath(name),
		})
	}
	return list, nil
}

func (m *manager) GetJob(id uint32) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.jobs[id] == nil {
		return "", dbus.NewError(names.Error+"NoSuchJob", []any{fmt.Sprintf("there is no job %d", id)})
	}
	return names.JobPath(id), nil
}

type jobRow struct {
	ID                         uint32
	Kind, Target, State, Cause string
	Object                     dbus.ObjectPath
}

func (m *manager) ListJobs(filter options) ([]jobRow, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	list := []jobRow{}
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(d.jobs))) {
		p := d.jobs[id].properties
		selects := func(key, property string) bool {
			v, ok := filter[key]
			return !ok || v.Value() == p[property]
		}
		if !selects("target", "Target") || !selects("kind", "Kind") || !selects("state", "State") || !selects("requester", "Requester") {
			continue
		}
		if limit, ok := filter["limit"]; ok && uint32(len(list)) == limit.Value() {
			break
		}
		list = append(list, jobRow{id, p["Kind"].(string), p["Target"].(string), p["State"].(string), p["Cause"].(string), names.JobPath(id)})
	}
	return list, nil
}

func (m *manager) CancelJob(msg dbus.Message, id uint32, o options) *dbus.Error {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return err
	}
	if d.jobs[id] == nil {
		return dbus.NewError(names.Error+"NoSuchJob", []any{fmt.Sprintf("there is no job %d", id)})
	}
	d.end(id, "canceled", "")
	return nil
}

// instanceFace is me.left4.Instance.
type instanceFace Daemon

func (i *instanceFace) name(msg dbus.Message) string {
	name, _ := names.InstanceName(msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath))
	return name
}

func (i *instanceFace) GetConfig(msg dbus.Message) (map[string]dbus.Variant, *dbus.Error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.failures["GetConfig"]; err != nil {
		return nil, err
	}
	return i.instances[i.name(msg)].Config, nil
}

func (i *instanceFace) GetServerConfig(msg dbus.Message) (string, *dbus.Error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.answers[i.name(msg)].serverConfig, i.failures["GetServerConfig"]
}

func (i *instanceFace) FindFile(msg dbus.Message, path string) ([]client.Found, *dbus.Error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	found := i.answers[i.name(msg)].found
	if found == nil {
		found = []client.Found{}
	}
	return found, i.failures["FindFile"]
}

func (i *instanceFace) ListChanges(msg dbus.Message, o options) ([]client.Change, bool, *dbus.Error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	changes := i.answers[i.name(msg)].changes
	if changes == nil {
		changes = []client.Change{}
	}
	return changes, i.more, i.failures["ListChanges"]
}

func (i *instanceFace) ListMaps(msg dbus.Message, o options) ([]client.Map, []client.Unread, bool, *dbus.Error) {
	return (*Daemon)(i).maps(i.name(msg))
}

func (i *instanceFace) ListConflicts(msg dbus.Message, o options) ([]client.Conflict, bool, *dbus.Error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	d := (*Daemon)(i)
	layers, _ := d.instanceProperties(i.name(msg))["Overlays"].([]client.Overlay)
	return d.conflicts(layers), i.more, i.failures["ListConflicts"]
}

// objects is org.freedesktop.DBus.ObjectManager.
type objects Daemon

func (o *objects) GetManagedObjects() (map[dbus.ObjectPath]map[string]map[string]dbus.Variant, *dbus.Error) {
	d := (*Daemon)(o)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looks++
	d.cond.Broadcast()
	all := map[dbus.ObjectPath]map[string]map[string]dbus.Variant{}
	for path, properties := range d.all() {
		if path != names.Root {
			all[path] = map[string]map[string]dbus.Variant{interfaceOf(path): variants(properties)}
		}
	}
	return all, d.failures["GetManagedObjects"]
}

// props is org.freedesktop.DBus.Properties of every object.
type props Daemon

func (p *props) GetAll(msg dbus.Message, iface string) (map[string]dbus.Variant, *dbus.Error) {
	d := (*Daemon)(p)
	d.mu.Lock()
	defer d.mu.Unlock()
	path := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	if id, ok := names.JobID(path); ok && iface == names.Job && d.jobs[id] != nil {
		j := d.jobs[id]
		values := variants(j.properties)
		if !j.read && !j.running && j.properties["Finished"] == uint64(0) {
			d.runs.Add(1)
			go func() {
				defer d.runs.Done()
				d.mu.Lock()
				defer d.mu.Unlock()
				d.run(id)
			}()
		}
		j.read = true
		d.cond.Broadcast()
		return values, nil
	}
	if name, ok := names.InstanceName(path); ok && iface == names.Instance && d.instances[name] != nil {
		return variants(d.instanceProperties(name)), nil
	}
	if name, ok := names.BlueprintName(path); ok && iface == names.Blueprint && d.blueprints[name] != nil {
		return variants(d.blueprintProperties(name)), nil
	}
	if name, ok := names.OverlayName(path); ok && iface == names.Overlay && d.overlays[name] != nil {
		return variants(d.overlays[name].properties(name)), nil
	}
	if path == names.Root && iface == names.Manager {
		return variants(d.serviceProperties()), nil
	}
	return nil, dbus.NewError("org.freedesktop.DBus.Error.UnknownObject", []any{"there is no " + string(path)})
}
