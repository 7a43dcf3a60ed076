package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/client"
	"left4.me/left4/client/clienttest"
	"left4.me/left4/dbus/names"
)

func dial(t *testing.T) (*client.Client, *clienttest.Daemon, *clienttest.Bus) {
	t.Helper()
	bus := clienttest.StartBus(t)
	d := clienttest.StartDaemon(t, bus)
	return connect(t, bus), d, bus
}

func connect(t *testing.T, bus *clienttest.Bus) *client.Client {
	t.Helper()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	c, err := client.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// steps collects what Wait tells.
type steps []string

func (s *steps) add(i client.JobInfo) {
	line := i.State
	if i.Status != "" {
		line += " " + i.Status
	}
	if len(*s) == 0 || (*s)[len(*s)-1] != line {
		*s = append(*s, line)
	}
}

func expect(t *testing.T, got, want any) {
	t.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("got  %s\nwant %s", g, w)
	}
}

func TestWaitFollowsEveryStepOfTheJob(t *testing.T) {
	c, d, _ := dial(t)
	d.AddInstance("versus-1", 27015, nil)
	d.SetPlan("start", clienttest.Plan{Steps: []clienttest.Step{{Status: "rendering", Progress: 0.2}, {Status: "waiting for systemd", Progress: 0.5}}})
	job, err := c.StartInstance(t.Context(), "versus-1", client.JobOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var seen steps
	info, err := job.Wait(t.Context(), seen.add)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, seen, steps{"queued", "running", "running rendering", "running waiting for systemd", "done waiting for systemd"})
	expect(t, info.Kind+" "+info.Target, "start versus-1")
	expect(t, fmt.Sprint(info.RequesterName, " ", info.Timeout), "root 10m0s")
	expect(t, info.Finished.UTC(), time.UnixMicro(1700000002000000).UTC())
	expect(t, d.Calls(), []string{"StartInstance versus-1 {} interactive"})
}

// left4d may signal the end of a job before it answers the call that began it; the job may even be forgotten by then.
func TestEndThatComesBeforeTheReplyIsNotMissed(t *testing.T) {
	for _, forget := range []bool{false, true} {
		t.Run(fmt.Sprintf("forgotten=%v", forget), func(t *testing.T) {
			c, d, _ := dial(t)
			d.AddInstance("a", 27015, nil)
			d.SetPlan("start", clienttest.Plan{Early: true, Forget: forget, Result: "failed", Cause: "no luck"})
			job, err := c.StartInstance(t.Context(), "a", client.JobOptions{})
			if err != nil {
				t.Fatal(err)
			}
			info, err := job.Wait(t.Context(), nil)
			var failed *client.JobError
			if !errors.As(err, &failed) {
				t.Fatalf("Wait ended with %v", err)
			}
			expect(t, info.State+" "+info.Kind+" "+info.Target, "failed start a")
		})
	}
}

func TestJobThatDidNotDoItsWorkIsAnErrorWithItsCause(t *testing.T) {
	c, d, _ := dial(t)
	d.AddInstance("a", 27015, nil)
	for _, tt := range []struct{ result, cause, want string }{
		{"failed", "port 27015 is taken by another program", "port 27015 is taken by another program"},
		{"timeout", "", "the job took too long and was given up"},
		{"canceled", "", "the job was canceled"},
		{"skipped", "", ""},
		{"done", "", ""},
	} {
		d.SetPlan("start", clienttest.Plan{Result: tt.result, Cause: tt.cause})
		job, err := c.StartInstance(t.Context(), "a", client.JobOptions{})
		if err != nil {
			t.Fatal(err)
		}
		info, err := job.Wait(t.Context(), nil)
		text := ""
		if err != nil {
			text = err.Error()
		}
		expect(t, text, tt.want)
		expect(t, info.State, tt.result)
	}
}

func TestWaitSurvivesARestartOfLeft4d(t *testing.T) {
	for _, when := range []string{"ends after the restart", "ended before it is back"} {
		t.Run(when, func(t *testing.T) {
			c, d, _ := dial(t)
			d.AddInstance("a", 27015, nil)
			d.SetPlan("start", clienttest.Plan{Hold: true})
			job, err := c.StartInstance(t.Context(), "a", client.JobOptions{})
			if err != nil {
				t.Fatal(err)
			}
			away := make(chan struct{})
			var once sync.Once
			go func() {
				d.AwaitHeld("start")
				d.Stop()
				<-away
				if when == "ended before it is back" {
					d.Release()
				}
				d.Start()
				d.Release()
			}()
			var seen steps
			info, err := job.Wait(t.Context(), func(i client.JobInfo) {
				seen.add(i)
				if strings.Contains(i.Status, "away") {
					once.Do(func() { close(away) })
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, info.State, "done")
		})
	}
}

func TestWaitEndsWhenLeft4dStaysAway(t *testing.T) {
	c, d, _ := dial(t)
	c.Patience = time.Millisecond
	d.AddInstance("a", 27015, nil)
	d.SetPlan("start", clienttest.Plan{Hold: true})
	job, err := c.StartInstance(t.Context(), "a", client.JobOptions{})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		d.AwaitHeld("start")
		d.Stop()
	}()
	if _, err := job.Wait(t.Context(), nil); !client.IsUnavailable(err) {
		t.Fatalf("Wait ended with %v", err)
	}
}

func TestWaitEndsWhenTheJobIsUnknownAfterARestart(t *testing.T) {
	c, d, _ := dial(t)
	d.AddInstance("a", 27015, nil)
	d.SetPlan("start", clienttest.Plan{Hold: true})
	job, err := c.StartInstance(t.Context(), "a", client.JobOptions{})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		d.AwaitHeld("start")
		d.Stop()
		d.ForgetJobs()
		d.Start()
	}()
	if _, err := job.Wait(t.Context(), nil); !errors.Is(err, client.ErrNoSuchJob) {
		t.Fatalf("Wait ended with %v", err)
	}
}

// Anybody may send a signal with left4d's words in it, to all or to a client's unique name.
func TestSignalsOfOthersAreNotBelieved(t *testing.T) {
	c, d, bus := dial(t)
	d.AddInstance("a", 27015, nil)
	d.SetPlan("start", clienttest.Plan{Hold: true, Steps: []clienttest.Step{{Status: "true step", Progress: 0.5}}})
	job, err := c.StartInstance(t.Context(), "a", client.JobOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var seen steps
	info, err := job.Wait(t.Context(), func(i client.JobInfo) {
		if i.Status == "true step" && len(seen) > 0 && seen[len(seen)-1] != "running true step" {
			for _, broadcast := range []bool{true, false} {
				f := newForger(t, bus, broadcast)
				f.send(names.BusPath, names.Bus, "NameOwnerChanged", names.Service, d.Owner(), f.name())
				f.send(job.Object, names.Properties, "PropertiesChanged", names.Job,
					map[string]dbus.Variant{"Status": dbus.MakeVariant("forged step")}, []string{})
				f.send(names.Root, names.Manager, "JobRemoved", job.ID, job.Object, "start", "a", "failed")
				f.flush()
			}
			d.Release()
		}
		seen.add(i)
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, info.State, "done")
	expect(t, seen, steps{"queued", "running", "running true step", "done true step"})
}

func TestWaitEndsWithItsContextAndTheJobGoesOn(t *testing.T) {
	c, d, _ := dial(t)
	d.AddInstance("a", 27015, nil)
	d.SetPlan("start", clienttest.Plan{Hold: true})
	job, err := c.StartInstance(t.Context(), "a", client.JobOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		d.AwaitHeld("start")
		cancel()
	}()
	if _, err := job.Wait(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("Wait ended with %v", err)
	}
	d.Release()
	if info, err := job.Wait(t.Context(), nil); err != nil || info.State != "done" {
		t.Fatalf("%v %v", info.State, err)
	}
}

func TestCloseEndsAWait(t *testing.T) {
	c, d, _ := dial(t)
	d.AddInstance("a", 27015, nil)
	d.SetPlan("start", clienttest.Plan{Hold: true})
	job, err := c.StartInstance(t.Context(), "a", client.JobOptions{})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		d.AwaitHeld("start")
		c.Close()
	}()
	if _, err := job.Wait(t.Context(), nil); !client.IsUnavailable(err) {
		t.Fatalf("Wait ended with %v", err)
	}
	if _, err := c.ListJobs(t.Context(), client.JobFilter{}); !client.IsUnavailable(err) {
		t.Fatalf("ListJobs ended with %v", err)
	}
}

func TestErrorsAreToldByTheirNames(t *testing.T) {
	c, d, _ := dial(t)
	if _, err := c.GetInstance(t.Context(), "nobody"); !client.IsNoSuchInstance(err) || client.IsAccessDenied(err) {
		t.Errorf("GetInstance: %v", err)
	}
	if _, err := c.GetJob(t.Context(), 99); !errors.Is(err, client.ErrNoSuchJob) {
		t.Errorf("GetJob: %v", err)
	}
	for _, name := range []string{names.ErrAccessDenied, names.ErrInteractive} {
		d.Fail("CreateInstance", name, "no")
		if _, err := c.CreateInstance(t.Context(), "a", client.Config{}); !client.IsAccessDenied(err) || err.Error() != "no" {
			t.Errorf("%s: %v", name, err)
		}
	}
	d.Fail("CreateInstance", "", "")
	if _, err := c.CreateInstance(t.Context(), "a\xff", client.Config{}); !errors.Is(err, client.ErrInvalidArgument) {
		t.Errorf("a name that is not UTF-8: %v", err)
	}
	d.Stop()
	if _, err := c.ListInstances(t.Context()); !client.IsUnavailable(err) {
		t.Errorf("without left4d: %v", err)
	}
}

func TestDialWithoutABusIsUnavailable(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
	if _, err := client.Dial(t.Context()); !client.IsUnavailable(err) {
		t.Errorf("Dial: %v", err)
	}
}

func TestConfigAndLimitsArriveAndComeBack(t *testing.T) {
	c, d, _ := dial(t)
	d.AddOverlay("sm", nil)
	d.AddOverlay("maps", nil)
	port, label, memory := uint16(27020), "Versus #1", uint64(2<<30)
	config := client.Config{
		Port: &port, Label: &label, Arguments: []string{"+map", "c1m1_hotel"}, Lines: []string{},
		Overlays: []client.Overlay{{"sm", ""}, {"maps", "*"}},
		Limits:   &client.Limits{MemoryMax: &memory, AllowedCPUs: []byte{0x0f}},
	}
	object, err := c.CreateInstance(t.Context(), "a", config)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, object, names.InstancePath("a"))
	expect(t, d.Calls(), []string{`CreateInstance a {arguments: as ["+map","c1m1_hotel"], config: as [], label: s Versus #1, ` +
		`limits: {AllowedCPUs: ay 0f, MemoryMax: t 2147483648}, overlays: a(ss) [["sm",""],["maps","*"]], port: q 27020} {} interactive`})

	d.SetConfig("a", map[string]dbus.Variant{
		"port": dbus.MakeVariant(port), "label": dbus.MakeVariant(label), "arguments": dbus.MakeVariant(config.Arguments),
		"config": dbus.MakeVariant([]string{}), "overlays": dbus.MakeVariant(config.Overlays),
		"limits": dbus.MakeVariant(map[string]dbus.Variant{"MemoryMax": dbus.MakeVariant(memory), "AllowedCPUs": dbus.MakeVariant([]byte{15})}),
	})
	back, err := c.GetInstanceConfig(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ConfigureInstance(t.Context(), "a", back, client.ConfigureOptions{}); err != nil {
		t.Fatal(err)
	}
	calls := d.Calls()
	expect(t, calls, []string{`ConfigureInstance a {arguments: as ["+map","c1m1_hotel"], config: as [], label: s Versus #1, ` +
		`limits: {AllowedCPUs: ay 0f, MemoryMax: t 2147483648}, overlays: a(ss) [["sm",""],["maps","*"]], port: q 27020} {} interactive`})

	// What is not known cannot be sent back, so it must not be dropped in silence.
	d.SetConfig("a", map[string]dbus.Variant{"colour": dbus.MakeVariant("x")})
	if _, err := c.GetInstanceConfig(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), `"colour"`) {
		t.Errorf("unknown key: %v", err)
	}
}

func TestReads(t *testing.T) {
	c, d, _ := dial(t)
	d.AddInstance("b", 27016, map[string]any{"Label": "B"})
	d.AddInstance("a", 27015, map[string]any{
		"State": "running", "DesiredState": "running", "MainPID": uint32(42), "StateSince": uint64(1700000000000000),
		"Overlays": []client.Overlay{{"sm", "*"}},
		"Limits":   map[string]dbus.Variant{"TasksMax": dbus.MakeVariant(uint64(99)), "FromTheFuture": dbus.MakeVariant(true)},
	})
	d.AddJob("a", nil)
	d.AddJob("b", map[string]any{"State": "failed", "Cause": "why"})

	list, err := c.ListInstances(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, list, []client.InstanceSummary{
		{"a", "", "running", "running", "", "", 27015, names.InstancePath("a")},
		{"b", "B", "stopped", "stopped", "", "", 27016, names.InstancePath("b")},
	})
	a, err := c.GetInstance(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, a.Overlays, []client.Overlay{{"sm", "*"}})
	expect(t, *a.Limits.TasksMax, 99)
	expect(t, a.StateSince.Unix(), 1700000000)
	all, err := c.InspectInstances(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, len(all), 2)
	expect(t, all[1].Label, "B")
	expect(t, dump(all[0]), dump(a))
	jobs, err := c.ListJobs(t.Context(), client.JobFilter{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, jobs, []client.JobSummary{
		{2, "start", "b", "failed", "why", names.JobPath(2)},
		{1, "start", "a", "done", "", names.JobPath(1)},
	})
	service, err := c.Service(t.Context())
	expect(t, service, client.ServiceInfo{Version: "1.2.3", GameRevision: 7, GameRevisions: []client.Revision{{7, time.Unix(1700000000, 0), 3, 4096}}})
	if err != nil {
		t.Fatal(err)
	}
}

// dump prints what pointers lead to, too.
func dump(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestOptionsAndInteraction(t *testing.T) {
	c, d, _ := dial(t)
	c.NoInteraction = true
	d.AddInstance("a", 27015, nil)
	if _, err := c.StopInstance(t.Context(), "a", client.JobOptions{Timeout: 1500 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	expect(t, d.Calls(), []string{"StopInstance a {timeout: t 1500000}"})
}

func TestImportGamePassesTheStream(t *testing.T) {
	c, d, _ := dial(t)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/srcds_run", []byte("#!/bin/sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	source, err := client.OpenSource(dir)
	if err != nil {
		t.Fatal(err)
	}
	job, err := c.ImportGame(t.Context(), source.File, source.Size, client.JobOptions{})
	source.File.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := job.Wait(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := source.Wait(); err != nil {
		t.Fatal(err)
	}
	expect(t, d.Imported(), []string{"0 0755 srcds_run #!/bin/sh"})
	expect(t, d.Calls(), []string{"ImportGame {size: t 2048} interactive"})
}

func TestManyWaitersOfManyJobs(t *testing.T) {
	c, d, _ := dial(t)
	const n = 50
	ends := make(chan string, 2*n)
	for i := range n {
		name := fmt.Sprintf("i%d", i)
		d.AddInstance(name, 27015, nil)
		job, err := c.StartInstance(t.Context(), name, client.JobOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			go func() {
				info, err := job.Wait(t.Context(), nil)
				ends <- fmt.Sprint(info.State, err)
			}()
		}
	}
	for range 2 * n {
		expect(t, <-ends, "done<nil>")
	}
	if calls := d.Calls(); !slices.ContainsFunc(calls, func(s string) bool { return strings.Contains(s, "i49") }) {
		t.Errorf("calls %v", calls)
	}
}

// An upgrade restarts left4d while somebody lists: they get their list.
func TestAReadIsRepeatedWhenLeft4dLeaves(t *testing.T) {
	bus := clienttest.StartBus(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	connect := func() *dbus.Conn {
		conn, err := dbus.ConnectSystemBus()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	type row struct {
		Name, Label, State, Desired, Cause, Blueprint string
		Port                                          uint16
		Object                                        dbus.ObjectPath
	}
	first, second := connect(), connect()
	for _, conn := range []*dbus.Conn{first, second} {
		methods := map[string]any{"ListInstances": func(map[string]dbus.Variant) ([]row, *dbus.Error) {
			if conn == first {
				conn.Close()
			}
			return []row{{Name: "a", Object: "/me/left4/instance/a"}}, nil
		}}
		if err := conn.ExportMethodTable(methods, names.Root, names.Manager); err != nil {
			t.Fatal(err)
		}
		// The second waits in the bus's queue for the name.
		if _, err := conn.RequestName(names.Service, 0); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	list, err := c.ListInstances(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "a" {
		t.Errorf("%v, %v", list, err)
	}
}
