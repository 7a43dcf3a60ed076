package clienttest

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

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
	conn      *dbus.Conn // nil while stopped
	instances map[string]*Instance
	jobs      map[uint32]*job
	last      uint32
	plans     map[string]Plan
	failures  map[string]*dbus.Error
	calls     []string
	imported  []string
	runs      sync.WaitGroup
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
	read       bool // by a client
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
	}
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
	conn, err := dbus.Connect(d.bus.Address)
	if err != nil {
		d.t.Fatal(err)
	}
	for iface, object := range map[string]any{names.Manager: (*manager)(d), names.Properties: (*props)(d), names.Instance: (*instanceFace)(d)} {
		if err := conn.ExportSubtree(object, names.Root, iface); err != nil {
			d.t.Fatal(err)
		}
	}
	d.mu.Lock()
	d.conn = conn // before the first call can come in
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

// Stop takes it off the bus, as a crash does.
func (d *Daemon) Stop() {
	d.mu.Lock()
	conn := d.conn
	d.conn = nil
	d.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// AddInstance defines an instance, stopped unless properties say something else.
func (d *Daemon) AddInstance(name string, port uint16, properties map[string]any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addInstance(name, port, properties)
}

func (d *Daemon) addInstance(name string, port uint16, properties map[string]any) {
	p := map[string]any{
		"Name": name, "Label": "", "Blueprint": "", "Overlays": []struct{ Name, Alias string }{}, "Port": port,
		"Unit": "left4-server@" + name + ".service", "Owner": uint32(0), "State": "stopped", "DesiredState": "stopped",
		"Drifted": false, "PendingRestart": false, "Cause": "", "MainPID": uint32(0), "StateSince": uint64(0),
		"Restarts": uint32(0), "Limits": map[string]dbus.Variant{},
	}
	maps.Copy(p, properties)
	d.instances[name] = &Instance{Properties: p, Config: map[string]dbus.Variant{"port": dbus.MakeVariant(port)}}
}

// SetConfig is what GetConfig answers.
func (d *Daemon) SetConfig(name string, config map[string]dbus.Variant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.instances[name].Config = config
}

// SetLimits sets the limits of an instance, in its definition and as a property.
func (d *Daemon) SetLimits(name string, limits map[string]dbus.Variant) {
	d.mu.Lock()
	defer d.mu.Unlock()
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
}

// Owner is the unique name on the bus.
func (d *Daemon) Owner() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn.Names()[0]
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
		"Cause": "", "Created": uint64(1700000000000000), "Started": uint64(0), "Finished": uint64(0), "Cancelable": true,
	}}
	return d.last
}

func (d *Daemon) change(id uint32, changed map[string]any) {
	maps.Copy(d.jobs[id].properties, changed)
	d.emit(names.JobPath(id), names.Properties+".PropertiesChanged", names.Job, variants(changed), []string{})
}

// run is a job's life. Called with mu held.
func (d *Daemon) run(id uint32) {
	j := d.jobs[id]
	if j == nil || j.running {
		return
	}
	j.running = true
	if j.stream != nil {
		d.readStream(j.stream)
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
	result := j.plan.Result
	if result == "" {
		result = "done"
	}
	d.end(id, result, j.plan.Cause)
	if j.plan.Forget {
		delete(d.jobs, id)
	}
}

func (d *Daemon) end(id uint32, result, cause string) {
	d.jobs[id].released = true
	d.cond.Broadcast()
	p := d.jobs[id].properties
	d.change(id, map[string]any{"State": result, "Cause": cause, "Finished": uint64(1700000002000000), "Cancelable": false})
	d.emit(names.Root, names.Manager+".JobRemoved", id, names.JobPath(id), p["Kind"], p["Target"], result)
}

func (d *Daemon) readStream(f *os.File) {
	d.mu.Unlock()
	var list []string
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
	}
	io.Copy(io.Discard, f)
	f.Close()
	d.mu.Lock()
	d.imported = list
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
	port := uint16(27015)
	if v, ok := config["port"]; ok {
		port = v.Value().(uint16)
	}
	d.addInstance(name, port, nil)
	return names.InstancePath(name), nil
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
	return nil
}

// lifecycle begins a job and answers with it.
func (m *manager) lifecycle(msg dbus.Message, kind, name string, stream *os.File) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return "", err
	}
	if stream == nil && kind != "initialize" && kind != "delete" && d.instances[name] == nil {
		return "", noSuchInstance(name)
	}
	id := d.newJob(kind, name)
	d.jobs[id].stream = stream
	d.emit(names.Root, names.Manager+".JobNew", id, names.JobPath(id), kind, name)
	if d.jobs[id].plan.Early {
		d.run(id)
	}
	return names.JobPath(id), nil
}

func (m *manager) InitializeInstance(msg dbus.Message, name string, config, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "initialize", name, nil)
}

func (m *manager) StartInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "start", name, nil)
}

func (m *manager) StopInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "stop", name, nil)
}

func (m *manager) RestartInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "restart", name, nil)
}

func (m *manager) KillInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "kill", name, nil)
}

func (m *manager) ResetInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "reset", name, nil)
}

func (m *manager) DeleteInstance(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "delete", name, nil)
}

func (m *manager) ImportGame(msg dbus.Message, stream dbus.UnixFD, o options) (dbus.ObjectPath, *dbus.Error) {
	return m.lifecycle(msg, "import-game", "game", os.NewFile(uintptr(stream), "stream"))
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

func (i *instanceFace) GetConfig(msg dbus.Message) (map[string]dbus.Variant, *dbus.Error) {
	d := (*Daemon)(i)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failures["GetConfig"]; err != nil {
		return nil, err
	}
	name, _ := names.InstanceName(msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath))
	return d.instances[name].Config, nil
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
		return variants(d.instances[name].Properties), nil
	}
	if path == names.Root && iface == names.Manager {
		return variants(map[string]any{"Version": "1.2.3", "GameRevision": uint32(7)}), nil
	}
	return nil, dbus.NewError("org.freedesktop.DBus.Error.UnknownObject", []any{"there is no " + string(path)})
}
