package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/client"
	"left4.me/left4/client/clienttest"
	"left4.me/left4/dbus/names"
)

// line is an event in short.
func line(e client.Event, err error) string {
	switch e := e.(type) {
	case nil:
		return "error " + err.Error()
	case client.Snapshot:
		var all []string
		for _, i := range e.Instances {
			all = append(all, i.Name+" "+i.State)
		}
		for _, j := range e.Jobs {
			all = append(all, fmt.Sprint(j.ID, " ", j.State))
		}
		return fmt.Sprintf("snapshot missed=%v game=%d blueprints=%d overlays=%d [%s]",
			e.Missed, e.Service.GameRevision, len(e.Blueprints), len(e.Overlays), strings.Join(all, ", "))
	case client.Gone:
		return fmt.Sprintf("gone with an error=%v", e.Err != nil)
	case client.InstanceAdded:
		return fmt.Sprintf("instance %s added, port %d", e.Instance.Name, e.Instance.Port)
	case client.InstanceChanged:
		return fmt.Sprintf("instance %s changed %v: %s, label %q, port %d", e.Instance.Name, e.Changed, e.Instance.State, e.Instance.Label, e.Instance.Port)
	case client.InstanceStateChanged:
		return fmt.Sprintf("instance %s: %s → %s: %s", e.Name, e.Old, e.New, e.Cause)
	case client.InstanceRemoved:
		return fmt.Sprintf("instance %s removed", e.Name)
	case client.BlueprintAdded:
		return fmt.Sprintf("blueprint %s added", e.Blueprint.Name)
	case client.BlueprintChanged:
		return fmt.Sprintf("blueprint %s changed %v: %v", e.Blueprint.Name, e.Changed, e.Blueprint.Instances)
	case client.BlueprintRemoved:
		return fmt.Sprintf("blueprint %s removed", e.Name)
	case client.OverlayAdded:
		return fmt.Sprintf("overlay %s added", e.Overlay.Name)
	case client.OverlayChanged:
		return fmt.Sprintf("overlay %s changed %v: revision %d → %d", e.Overlay.Name, e.Changed, e.Before.Revision, e.Overlay.Revision)
	case client.OverlayRemoved:
		return fmt.Sprintf("overlay %s removed", e.Name)
	case client.JobAdded:
		return fmt.Sprintf("job %d added: %s %s by %s", e.Job.ID, e.Job.Kind, e.Job.Target, e.Job.RequesterName)
	case client.JobChanged:
		return fmt.Sprintf("job %d changed %v: %s → %s %s", e.Job.ID, e.Changed, e.Before.State, e.Job.State, e.Job.Status)
	case client.JobEnded:
		return fmt.Sprintf("job %d ended: %s %s %s: %s", e.Job.ID, e.Job.Kind, e.Job.Target, e.Job.State, e.Job.Cause)
	case client.JobForgotten:
		return fmt.Sprintf("job %d forgotten", e.Job.ID)
	case client.GameChanged:
		return fmt.Sprintf("game changed %v: %d → %d of %d", e.Changed, e.Before.GameRevision, e.Service.GameRevision, len(e.Service.GameRevisions))
	}
	return fmt.Sprintf("%T", e)
}

// watch follows a client's events; each is compared when the test asks for it.
func watch(t *testing.T, ctx context.Context, c *client.Client) (expectNext func(want ...string)) {
	t.Helper()
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for e, err := range c.Watch(ctx) {
			lines <- line(e, err)
		}
	}()
	return func(want ...string) {
		t.Helper()
		for _, w := range want {
			if got := <-lines; got != w {
				t.Errorf("got  %s\nwant %s", got, w)
			}
		}
	}
}

func TestWatchTellsAllThatHappens(t *testing.T) {
	c, d, _ := dial(t)
	d.AddInstance("a", 27015, map[string]any{"State": "running"})
	d.AddJob("a", nil)
	next := watch(t, t.Context(), c)
	next("snapshot missed=false game=7 blueprints=0 overlays=0 [a running, 1 done]")

	d.AddInstance("b", 27016, nil)
	next("instance b added, port 27016")
	d.SetProperties("b", map[string]any{"Label": "B", "Drifted": true})
	next(`instance b changed [Drifted Label]: stopped, label "B", port 27016`)
	d.SetProperties("b", map[string]any{"Label": "B"}) // nothing new
	d.SetProperties("a", map[string]any{"State": "failed", "Cause": "killed by the OOM killer"})
	next(`instance a changed [Cause State]: failed, label "", port 27015`, "instance a: running → failed: killed by the OOM killer")

	d.AddBlueprint("versus", nil)
	next("blueprint versus added")
	d.Bind("b", "versus")
	next("blueprint versus changed [Instances]: [b]", `instance b changed [Blueprint]: stopped, label "B", port 27016`)
	d.RemoveInstance("b")
	next("instance b removed", "blueprint versus changed [Instances]: []")
	if err := c.DeleteBlueprint(t.Context(), "versus"); err != nil {
		t.Fatal(err)
	}
	next("blueprint versus removed")

	d.AddOverlay("sm", map[string]string{"a": "x"})
	next("overlay sm added")
	d.PublishOverlay("sm", map[string]string{"b": "y"})
	next("overlay sm changed [Files Revision Revisions Size]: revision 1 → 2")
	d.AddGameRevision(8)
	next("game changed [GameRevision GameRevisions]: 7 → 8 of 2")

	d.SetPlan("delete-overlay", clienttest.Plan{Steps: []clienttest.Step{{Status: "removing", Progress: 0.5}}, Forget: true})
	job, err := c.DeleteOverlay(t.Context(), "sm", client.JobOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := job.Wait(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	next("job 2 added: delete-overlay sm by root",
		"job 2 changed [Started State]: queued → running ",
		"job 2 changed [Progress Status]: running → running removing",
		"overlay sm removed",
		"job 2 changed [Cancelable Finished State]: running → done removing",
		"job 2 ended: delete-overlay sm done: ",
		"job 2 forgotten")
}

func TestWatchSurvivesARestartOfLeft4d(t *testing.T) {
	c, d, _ := dial(t)
	d.AddInstance("a", 27015, nil)
	next := watch(t, t.Context(), c)
	next("snapshot missed=false game=7 blueprints=0 overlays=0 [a stopped]")
	for range 3 {
		d.Stop()
		next("gone with an error=false")
		d.AddInstance("b", 27016, nil) // nobody hears of it
		d.Start()
		next("snapshot missed=false game=7 blueprints=0 overlays=0 [a stopped, b stopped]")
		d.RemoveInstance("b")
		next("instance b removed")
	}
}

func TestWatchWaitsForLeft4d(t *testing.T) {
	c, d, _ := dial(t)
	d.Stop()
	next := watch(t, t.Context(), c)
	next("gone with an error=true")
	d.Start()
	next("snapshot missed=false game=7 blueprints=0 overlays=0 []")
}

// A left4d that leaves while it is asked, and is back before its answer is missed, did not happen after the snapshot.
func TestWatchTellsOneSnapshotOfOneLeft4d(t *testing.T) {
	bus := clienttest.StartBus(t)
	first, second := another(t, bus), another(t, bus)
	for _, conn := range []*dbus.Conn{first, second} {
		methods := map[string]any{
			"GetAll": func(string) (map[string]dbus.Variant, *dbus.Error) {
				revision := uint32(1)
				if conn == second {
					revision = 2
				}
				return map[string]dbus.Variant{"GameRevision": dbus.MakeVariant(revision)}, nil
			},
			"GetManagedObjects": func() (map[dbus.ObjectPath]map[string]map[string]dbus.Variant, *dbus.Error) {
				if conn == first {
					conn.Close()
				}
				return nil, nil
			},
		}
		for _, iface := range []string{names.Properties, names.ObjectManager} {
			if err := conn.ExportMethodTable(methods, names.Root, iface); err != nil {
				t.Fatal(err)
			}
		}
		// The second waits in the bus's queue for the name.
		if _, err := conn.RequestName(names.Service, 0); err != nil {
			t.Fatal(err)
		}
	}
	next := watch(t, t.Context(), connect(t, bus))
	next("snapshot missed=false game=2 blueprints=0 overlays=0 []")
	if err := second.Emit(names.Root, names.Manager+".InstanceStateChanged", "a", "stopped", "starting", ""); err != nil {
		t.Fatal(err)
	}
	next("instance a: stopped → starting: ")
}

func another(t *testing.T, bus *clienttest.Bus) *dbus.Conn {
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A consumer that sleeps costs a bounded amount of memory, and is told that it missed something.
func TestWatchTellsASlowConsumerWhatIsAndThatItMissedWhatWas(t *testing.T) {
	c, d, _ := dial(t)
	d.AddInstance("a", 27015, nil)
	woken, slept := make(chan bool), make(chan bool)
	lines := make(chan string, 3000)
	go func() {
		defer close(lines)
		for e, err := range c.Watch(t.Context()) {
			if _, ok := e.(client.InstanceChanged); ok && woken != nil {
				slept <- true
				<-woken
				woken = nil
			}
			lines <- line(e, err)
		}
	}()
	<-lines // the snapshot
	for port := range 3000 {
		d.SetProperties("a", map[string]any{"Port": uint16(port)})
		if port == 0 {
			<-slept
		}
	}
	// What the bus sent before this answer has been taken from it.
	if _, err := c.Service(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.SetProperties("a", map[string]any{"Label": "after"})
	if _, err := c.Service(t.Context()); err != nil {
		t.Fatal(err)
	}
	woken <- true
	expect(t, <-lines, `instance a changed [Port]: stopped, label "", port 0`)
	expect(t, <-lines, "snapshot missed=true game=7 blueprints=0 overlays=0 [a stopped]")
	d.SetProperties("a", map[string]any{"Label": "x"})
	expect(t, <-lines, `instance a changed [Label]: stopped, label "x", port 2999`)
}

func TestWatchEnds(t *testing.T) {
	c, d, _ := dial(t)
	d.AddInstance("a", 27015, nil)

	t.Run("with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		next := watch(t, ctx, c)
		next("snapshot missed=false game=7 blueprints=0 overlays=0 [a stopped]")
		cancel()
		next("error context canceled", "")
	})
	t.Run("before it begins", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for e, err := range c.Watch(ctx) {
			if e != nil || !errors.Is(err, context.Canceled) {
				t.Error(line(e, err))
			}
		}
	})
	t.Run("with its loop, and can begin again", func(t *testing.T) {
		other := watch(t, t.Context(), c)
		other("snapshot missed=false game=7 blueprints=0 overlays=0 [a stopped]")
		for n := range 3 {
			for e, err := range c.Watch(t.Context()) {
				expect(t, line(e, err), "snapshot missed=false game=7 blueprints=0 overlays=0 [a stopped]")
				break
			}
			d.SetProperties("a", map[string]any{"Label": fmt.Sprint(n)})
			other(fmt.Sprintf(`instance a changed [Label]: stopped, label "%d", port 27015`, n))
		}
	})
	t.Run("when left4d does not tell what there is", func(t *testing.T) {
		d.Fail("GetManagedObjects", names.Error+"QuotaExceeded", "too many questions")
		for e, err := range c.Watch(t.Context()) {
			if e != nil || !errors.Is(err, client.ErrQuotaExceeded) {
				t.Error(line(e, err))
			}
		}
		d.Fail("GetManagedObjects", "", "")
	})
	t.Run("with the connection", func(t *testing.T) {
		next := watch(t, t.Context(), c)
		next("snapshot missed=false game=7 blueprints=0 overlays=0 [a stopped]")
		c.Close()
		next("error the connection to the system bus is lost", "")
		for e, err := range c.Watch(t.Context()) {
			if e != nil || !client.IsUnavailable(err) {
				t.Error(line(e, err))
			}
		}
	})
}

// Anybody may send a signal with left4d's words in it: to all, and to the one that he means to fool.
func TestWatchDoesNotBelieveOthers(t *testing.T) {
	for _, to := range []string{"all", "each by its name"} {
		t.Run(to, func(t *testing.T) {
			c, d, bus := dial(t)
			d.AddInstance("a", 27015, map[string]any{"State": "running"})
			id := d.AddJob("a", nil)
			next := watch(t, t.Context(), c)
			next("snapshot missed=false game=7 blueprints=0 overlays=0 [a running, 1 done]")

			f := newForger(t, bus, to == "all")
			f.send(names.Root, names.Manager, "InstanceStateChanged", "a", "running", "failed", "a lie")
			f.send(names.InstancePath("a"), names.Properties, "PropertiesChanged", names.Instance,
				map[string]dbus.Variant{"State": dbus.MakeVariant("failed")}, []string{})
			f.send(names.Root, names.Properties, "PropertiesChanged", names.Manager,
				map[string]dbus.Variant{"GameRevision": dbus.MakeVariant(uint32(666))}, []string{})
			f.send(names.Root, names.ObjectManager, "InterfacesAdded", names.InstancePath("b"),
				map[string]map[string]dbus.Variant{names.Instance: {"Name": dbus.MakeVariant("b")}})
			f.send(names.Root, names.ObjectManager, "InterfacesRemoved", names.InstancePath("a"), []string{names.Instance})
			f.send(names.Root, names.Manager, "JobNew", uint32(9), names.JobPath(9), "delete", "a")
			f.send(names.Root, names.Manager, "JobRemoved", id, names.JobPath(id), "start", "a", "failed")
			f.send(names.BusPath, names.Bus, "NameOwnerChanged", names.Service, d.Owner(), "")
			f.send(names.BusPath, names.Bus, "NameOwnerChanged", names.Service, d.Owner(), f.name())
			f.send(names.Root, names.Manager, "InstanceStateChanged", "a", "running", "failed", "a lie")
			f.flush()

			d.SetProperties("a", map[string]any{"Label": "true"})
			next(`instance a changed [Label]: running, label "true", port 27015`)
		})
	}
}

// forger sends signals that are left4d's or the bus's.
type forger struct {
	t    *testing.T
	conn *dbus.Conn
	to   []string
}

func newForger(t *testing.T, bus *clienttest.Bus, broadcast bool) *forger {
	f := &forger{t: t, conn: another(t, bus), to: []string{""}}
	if !broadcast {
		if err := f.conn.BusObject().Call(names.Bus+".ListNames", 0).Store(&f.to); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *forger) name() string { return f.conn.Names()[0] }

func (f *forger) send(path dbus.ObjectPath, iface, member string, body ...any) {
	for _, name := range f.to {
		msg := &dbus.Message{Type: dbus.TypeSignal, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath:      dbus.MakeVariant(path),
			dbus.FieldInterface: dbus.MakeVariant(iface),
			dbus.FieldMember:    dbus.MakeVariant(member),
			dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(body...)),
		}}
		if name != "" {
			if !strings.HasPrefix(name, ":") {
				continue
			}
			msg.Headers[dbus.FieldDestination] = dbus.MakeVariant(name)
		}
		f.conn.Send(msg, nil)
	}
}

// flush returns when all is on its way: what a connection sends arrives in order.
func (f *forger) flush() {
	if err := f.conn.BusObject().Call(names.Peer+".Ping", 0).Err; err != nil {
		f.t.Error(err)
	}
}
