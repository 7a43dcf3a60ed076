package units

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// fakeBus is a system bus with a systemd behind it, and whoever else a test wants: it sends any signal from anybody.
type fakeBus struct {
	t        *testing.T
	listener net.Listener
	answer   func(call *dbus.Message) (body []any, err error) // systemd's; err is a dbus error name
	replies  chan *dbus.Message                               // what clients answer to calls

	mu    sync.Mutex
	conns []*fakeConn
	calls []string // methods of systemd, in order
	owner string
}

// fakeConn is the bus's end of one connection.
type fakeConn struct {
	net.Conn
	mu sync.Mutex // one message at a time
}

const (
	realOwner  = ":1.1"
	clientName = ":1.2"
	mallory    = ":1.3"
)

func newFakeBus(t *testing.T, answer func(*dbus.Message) ([]any, error)) *fakeBus {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "bus socket") // the blank is to be unescaped
	listener, err := net.Listen("unix", socket)
	noError(t, err)
	b := &fakeBus{t: t, listener: listener, answer: answer, replies: make(chan *dbus.Message, 10), owner: realOwner}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "tcp:host=nowhere;unix:path="+dbus.EscapeBusAddressValue(socket)+",guid=00")
	var tasks sync.WaitGroup
	tasks.Add(1)
	go func() {
		defer tasks.Done()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c := &fakeConn{Conn: conn}
			b.mu.Lock()
			b.conns = append(b.conns, c)
			b.mu.Unlock()
			tasks.Add(1)
			go func() {
				defer tasks.Done()
				b.serve(c)
			}()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		b.mu.Lock()
		for _, c := range b.conns {
			c.Close()
		}
		b.mu.Unlock()
		tasks.Wait()
	})
	return b
}

func (b *fakeBus) serve(c *fakeConn) {
	in := bufio.NewReader(c)
	if zero, err := in.ReadByte(); err != nil || zero != 0 {
		return
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch line = strings.TrimSpace(line); {
		case line == "AUTH":
			io.WriteString(c, "REJECTED EXTERNAL\r\n")
		case line == "AUTH EXTERNAL":
			io.WriteString(c, "DATA\r\n")
		case strings.HasPrefix(line, "AUTH EXTERNAL "), strings.HasPrefix(line, "DATA"):
			io.WriteString(c, "OK 00\r\n")
		case line == "NEGOTIATE_UNIX_FD":
			io.WriteString(c, "AGREE_UNIX_FD\r\n")
		case line == "BEGIN":
			b.messages(c, in)
			return
		default:
			io.WriteString(c, "ERROR\r\n")
		}
	}
}

func (b *fakeBus) messages(c *fakeConn, in io.Reader) {
	for {
		call, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		if call.Type != dbus.TypeMethodCall {
			b.replies <- call
			continue
		}
		go b.dispatch(c, call) // a call that hangs holds nobody up
	}
}

func (b *fakeBus) dispatch(c *fakeConn, call *dbus.Message) {
	member := call.Headers[dbus.FieldMember].Value().(string)
	sender, body, err := driverName, []any(nil), error(nil)
	if call.Headers[dbus.FieldDestination].Value() == busName {
		b.mu.Lock()
		sender = b.owner
		b.calls = append(b.calls, member)
		b.mu.Unlock()
		switch {
		case sender == "":
			sender, err = driverName, errors.New("org.freedesktop.DBus.Error.ServiceUnknown")
		case member != "Subscribe":
			body, err = b.answer(call)
		}
	} else {
		switch member {
		case "Hello":
			body = []any{clientName}
		case "GetNameOwner":
			body = []any{realOwner}
		}
	}
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
		dbus.FieldSender:      dbus.MakeVariant(sender),
	}}
	if err != nil {
		reply.Type = dbus.TypeError
		reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant(err.Error())
	}
	b.send(c, reply)
}

func (b *fakeBus) send(c *fakeConn, m *dbus.Message) {
	if len(m.Body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(m.Body...))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = m.EncodeTo(c, binary.LittleEndian)
}

// signal sends to the first connection.
func (b *fakeBus) signal(sender string, path dbus.ObjectPath, iface, member string, body ...any) {
	b.mu.Lock()
	c := b.conns[0]
	b.mu.Unlock()
	b.send(c, &dbus.Message{Type: dbus.TypeSignal, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldSender:    dbus.MakeVariant(sender),
		dbus.FieldPath:      dbus.MakeVariant(path),
		dbus.FieldInterface: dbus.MakeVariant(iface),
		dbus.FieldMember:    dbus.MakeVariant(member),
	}})
}

func (b *fakeBus) jobRemoved(sender string, id uint32, unit, result string) {
	b.signal(sender, managerPath, managerIface, "JobRemoved", id, jobPath(id), unit, result)
}

func jobPath(id uint32) dbus.ObjectPath {
	return dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", id))
}

func (b *fakeBus) changed(sender, unit string) {
	b.signal(sender, unitRoot+"/"+busLabel(unit), propsIface, "PropertiesChanged", unitIface, map[string]dbus.Variant{}, []string{"Conditions"})
}

func (b *fakeBus) newOwner(owner string) {
	b.mu.Lock()
	old := b.owner
	b.owner = owner
	b.mu.Unlock()
	b.signal(driverName, "/org/freedesktop/DBus", driverName, "NameOwnerChanged", busName, old, owner)
}

// flush returns when s has taken in all that was sent to it before.
func (b *fakeBus) flush(ctx context.Context, s *Systemd) {
	b.t.Helper()
	noError(b.t, s.conn.BusObject().CallWithContext(ctx, driverName+".GetId", 0).Err)
}

func connectFake(t *testing.T, answer func(*dbus.Message) ([]any, error)) (context.Context, *fakeBus, *Systemd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	b := newFakeBus(t, answer)
	s, err := Connect(ctx)
	noError(t, err)
	t.Cleanup(func() { s.Close() })
	return ctx, b, s
}

// fakeUnits answers as a systemd whose units all have one state, and that starts jobs with the number 7.
func fakeUnits(active string) func(*dbus.Message) ([]any, error) {
	return func(call *dbus.Message) ([]any, error) {
		switch call.Headers[dbus.FieldMember].Value() {
		case "GetUnit":
			return []any{unitRoot + "/x"}, nil
		case "StartUnit", "StopUnit":
			return []any{jobPath(7)}, nil
		case "GetJob":
			return nil, errors.New(busName + ".NoSuchJob")
		case "GetAll":
			return []any{map[string]dbus.Variant{"ActiveState": dbus.MakeVariant(active), "MainPID": dbus.MakeVariant(uint32(42))}}, nil
		case "Get":
			return []any{dbus.MakeVariant(uint32(42))}, nil
		}
		return nil, nil
	}
}

// awaited is how many jobs of the unit have no result yet.
func (s *Systemd) awaited(unit string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.jobs[unit])
}

func stillWaiting(t *testing.T, ch <-chan error) {
	t.Helper()
	select {
	case err := <-ch:
		t.Fatalf("ended with %v", err)
	default:
	}
}

func TestForgedResultsAreDropped(t *testing.T) {
	ctx, b, s := connectFake(t, fakeUnits("active"))
	unit := ServerUnit("a")
	wait, err := s.queue(ctx, "start", "StartUnit", unit)
	noError(t, err)
	done := make(chan error, 1)
	go func() { done <- wait(ctx) }()
	b.jobRemoved(mallory, 7, unit, "done")
	b.jobRemoved(driverName, 7, unit, "done")
	b.signal(mallory, "/org/freedesktop/DBus", driverName, "NameOwnerChanged", busName, realOwner, mallory)
	b.jobRemoved(mallory, 7, unit, "done")
	b.jobRemoved(realOwner, 8, unit, "failed")
	b.jobRemoved(realOwner, 7, ServerUnit("b"), "failed")
	b.flush(ctx, s)
	if s.awaited(unit) != 1 {
		t.Error("a forged result was believed")
	}
	stillWaiting(t, done)
	b.jobRemoved(realOwner, 7, unit, "done")
	noError(t, <-done)
	if s.awaited(unit) != 0 {
		t.Error("the job is still waited for")
	}
}

func TestForgedChangesAreDropped(t *testing.T) {
	ctx, b, s := connectFake(t, fakeUnits("active"))
	var mu sync.Mutex
	var told []string
	last := make(chan struct{})
	s.Watch(func(unit string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, unit)
		if unit == ServerUnit("last") {
			close(last)
		}
	}, func() { t.Error("a forged reload was believed") })
	b.changed(mallory, ServerUnit("a"))
	b.signal(mallory, managerPath, managerIface, "Reloading", false)
	b.signal(mallory, managerPath, managerIface, "UnitNew", ServerUnit("a"), unitRoot+"/x")
	b.signal(realOwner, managerPath, managerIface, "Reloading", true)
	b.changed(realOwner, "ssh.service")
	// Of another shape than systemd's.
	b.signal(realOwner, managerPath, managerIface, "JobRemoved", "x")
	b.signal(realOwner, managerPath, managerIface, "UnitNew")
	b.signal(realOwner, "/", propsIface, "PropertiesChanged", unitIface)
	b.signal(realOwner, unitRoot, propsIface, "PropertiesChanged")
	b.changed(realOwner, ServerUnit("last"))
	select {
	case <-last:
	case <-ctx.Done():
		t.Fatal("nothing was told")
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(told, []string{ServerUnit("last")}) {
		t.Errorf("told of %q", told)
	}
}

// The result may arrive before the answer that says which job it is about.
func TestResultBeforeTheAnswer(t *testing.T) {
	unit := ServerUnit("a")
	var b *fakeBus
	units := fakeUnits("failed")
	ctx, b, s := connectFake(t, func(call *dbus.Message) ([]any, error) {
		if call.Headers[dbus.FieldMember].Value() == "StartUnit" {
			b.jobRemoved(realOwner, 6, unit, "done")
			b.jobRemoved(realOwner, 7, unit, "failed")
		}
		return units(call)
	})
	var job *JobError
	if err := s.Start(ctx, unit); !errors.As(err, &job) || job.Result != "failed" || job.Unit != unit || job.State.MainPID != 42 {
		t.Errorf("start says %v", err)
	}
}

func TestWaitsEndWithTheContext(t *testing.T) {
	ctx, b, s := connectFake(t, fakeUnits("active"))
	short, cancel := context.WithCancel(ctx)
	wait, err := s.QueueStop(ctx, ServerUnit("a"))
	noError(t, err)
	done := make(chan error, 2)
	go func() { done <- wait(short) }()
	go func() { done <- s.WaitInactive(short, ServerUnit("a")) }()
	cancel()
	for range 2 {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	}
	// The job goes on, and its end can be waited for again. It came to nothing: the unit is active.
	b.jobRemoved(realOwner, 7, ServerUnit("a"), "done")
	var job *JobError
	for range 2 {
		if err := wait(ctx); !errors.As(err, &job) || job.Result != "done" || job.Verb != "stop" {
			t.Errorf("the stop says %v", err)
		}
	}
}

func TestReexecution(t *testing.T) {
	asked, hang := make(chan struct{}), make(chan struct{})
	var once sync.Once
	units := fakeUnits("active")
	ctx, b, s := connectFake(t, func(call *dbus.Message) ([]any, error) {
		var lost bool
		once.Do(func() { lost = true })
		if lost { // the first call comes right into it
			close(asked)
			<-hang
			return nil, errors.New("org.freedesktop.DBus.Error.NoReply")
		}
		return units(call)
	})
	reloaded := make(chan struct{}, 1)
	s.Watch(func(string) {}, func() { wake(reloaded) })
	loaded := make(chan error, 1)
	go func() {
		_, err := s.Loaded(ctx, ServerUnit("a"))
		loaded <- err
	}()
	<-asked
	b.newOwner("")
	close(hang)
	other := make(chan error, 1)
	go func() {
		_, err := s.Loaded(ctx, ServerUnit("b"))
		other <- err
	}()
	b.jobRemoved(realOwner, 7, ServerUnit("a"), "done") // from a name that is nobody's now
	b.flush(ctx, s)
	stillWaiting(t, loaded)
	stillWaiting(t, other)
	b.newOwner(":1.9")
	noError(t, <-loaded)
	noError(t, <-other)
	select {
	case <-reloaded:
	case <-ctx.Done():
		t.Fatal("the new systemd was not noticed")
	}
	b.mu.Lock()
	subscriptions := 0
	for _, member := range b.calls {
		if member == "Subscribe" {
			subscriptions++
		}
	}
	b.mu.Unlock()
	if subscriptions < 2 {
		t.Errorf("%d subscriptions", subscriptions)
	}

	// A job that ended while nobody listened is judged by the unit.
	wait, err := s.queue(ctx, "start", "StartUnit", ServerUnit("a"))
	noError(t, err)
	b.newOwner("")
	b.newOwner(":1.10")
	noError(t, wait(ctx))
}

// The reader goes on while a watcher is busy, and what piles up is bounded.
func TestABusyWatcherDelaysNobody(t *testing.T) {
	ctx, b, s := connectFake(t, fakeUnits("active"))
	busy, release := make(chan struct{}), make(chan struct{})
	counts := map[string]int{}
	last := make(chan struct{})
	s.Watch(func(unit string) {
		switch counts[unit]++; unit {
		case ServerUnit("first"):
			close(busy)
			<-release
		case ServerUnit("last"):
			close(last)
		}
	}, func() {})
	b.changed(realOwner, ServerUnit("first"))
	<-busy
	for range 5000 {
		b.changed(realOwner, ServerUnit("a"))
	}
	_, err := s.State(ctx, ServerUnit("a"))
	noError(t, err)
	close(release)
	b.flush(ctx, s)
	b.changed(realOwner, ServerUnit("last"))
	<-last
	if n := counts[ServerUnit("a")]; n != 1 {
		t.Errorf("5000 changes were told %d times", n)
	}
}

// systemd signals a unit ten times in the course of a start; who watches is told of its states.
func TestAStateIsToldOnce(t *testing.T) {
	ctx, b, s := connectFake(t, fakeUnits("active"))
	told := make(chan string, 100)
	s.Watch(func(unit string) { told <- unit }, func() { told <- "all" })
	signal := func(unit, active, sub string, at uint64) {
		b.signal(realOwner, unitRoot+"/"+busLabel(unit), propsIface, "PropertiesChanged", unitIface, map[string]dbus.Variant{
			"ActiveState": dbus.MakeVariant(active), "SubState": dbus.MakeVariant(sub), "StateChangeTimestamp": dbus.MakeVariant(at),
		}, []string{})
	}
	a, overlay, mount := ServerUnit("a"), OverlayUnit("a"), "var-lib-left4-runtime-a-merged.mount"
	for _, step := range []struct {
		what string
		do   func()
		want string
	}{
		{"it starts", func() { signal(a, "activating", "start-pre", 1) }, a},
		{"the same again", func() { signal(a, "activating", "start-pre", 1) }, ""},
		{"it was loaded", func() { b.signal(realOwner, managerPath, managerIface, "UnitNew", a, unitRoot+"/x") }, ""},
		{"its job is done", func() { b.jobRemoved(realOwner, 7, a, "done") }, ""},
		{"it runs", func() { signal(a, "active", "running", 2) }, a},
		{"it was restarted in between", func() { signal(a, "active", "running", 3) }, a},
		{"its mount", func() { signal(overlay, "active", "exited", 3) }, overlay},
		{"the mount's own unit", func() { signal(mount, "active", "mounted", 4) }, overlay},
		{"again", func() { signal(mount, "active", "mounted", 4) }, overlay},
		{"another's", func() { signal("cron.service", "active", "running", 5) }, ""},
		{"it is forgotten", func() { b.signal(realOwner, managerPath, managerIface, "UnitRemoved", a, unitRoot+"/x") }, a},
		{"and loaded as it was", func() { signal(a, "active", "running", 3) }, a},
		{"all was read again", func() { b.signal(realOwner, managerPath, managerIface, "Reloading", false) }, "all"},
		{"the same after that", func() { signal(a, "active", "running", 3) }, a},
	} {
		step.do()
		b.flush(ctx, s)
		// The watcher tells in order, so that of a last one shows what came before it.
		b.changed(realOwner, ServerUnit("end"))
		got := ""
		for unit := range told {
			if unit == ServerUnit("end") {
				break
			}
			got += unit
		}
		if got != step.want {
			t.Errorf("%s: told of %q, not %q", step.what, got, step.want)
		}
	}
}

// What was read serves until systemd tells anything of the unit; what came in the middle of a reading is not kept.
func TestAReadingServesUntilASignal(t *testing.T) {
	var during func()
	units := fakeUnits("active")
	ctx, b, s := connectFake(t, func(call *dbus.Message) ([]any, error) {
		if call.Headers[dbus.FieldMember].Value() == "GetUnit" && during != nil {
			during()
		}
		return units(call)
	})
	a := ServerUnit("a")
	asked := func() (n int) {
		t.Helper()
		b.flush(ctx, s)
		st, err := s.State(ctx, a)
		noError(t, err)
		if st.Active != "active" || st.MainPID != 42 {
			t.Fatalf("state %+v", st)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, member := range b.calls {
			if member == "GetUnit" {
				n++
			}
		}
		return n
	}
	for _, step := range []struct {
		what string
		do   func()
		want int
	}{
		{"at first", func() {}, 1},
		{"again", func() {}, 1},
		{"another unit changed", func() { b.changed(realOwner, ServerUnit("b")) }, 1},
		{"somebody else said so", func() { b.changed(mallory, a) }, 1},
		{"it changed", func() { b.changed(realOwner, a) }, 2},
		{"again", func() {}, 2},
		{"it was unloaded", func() { b.signal(realOwner, managerPath, managerIface, "UnitRemoved", a, unitRoot+"/x") }, 3},
		{"all may have changed", func() { b.signal(realOwner, managerPath, managerIface, "Reloading", false) }, 4},
		{"it was asked to forget", func() { noError(t, s.ResetFailed(ctx, a)) }, 5},
		{"it was to start", func() { _, err := s.queue(ctx, "start", "StartUnit", a); noError(t, err) }, 6},
		{"it changes meanwhile", func() {
			b.changed(realOwner, a)
			during = func() { b.changed(realOwner, a) }
		}, 7},
		{"that reading was not kept", func() { during = nil }, 8},
		{"again", func() {}, 8},
		{"there is another systemd", func() { b.newOwner(""); b.newOwner(":1.9") }, 9},
	} {
		step.do()
		if got := asked(); got != step.want {
			t.Errorf("%s: asked %d times, not %d", step.what, got, step.want)
		}
	}
}

// A bus lets a connection wait for so many answers, and refuses to pass on what is more.
func TestTheBusIsNotAskedTooMuchAtOnce(t *testing.T) {
	var open, most int
	var mu sync.Mutex
	release := make(chan struct{})
	full := make(chan struct{}, maxAsking)
	units := fakeUnits("active")
	ctx, _, s := connectFake(t, func(call *dbus.Message) ([]any, error) {
		if call.Headers[dbus.FieldMember].Value() != "GetUnit" {
			return units(call)
		}
		mu.Lock()
		open++
		most = max(most, open)
		mu.Unlock()
		select {
		case full <- struct{}{}:
		default:
		}
		<-release
		mu.Lock()
		open--
		mu.Unlock()
		return units(call)
	})
	const many = 10 * maxAsking
	ends := make(chan error, many)
	for i := range many {
		go func() {
			_, err := s.Loaded(ctx, ServerUnit(fmt.Sprintf("s%d", i)))
			ends <- err
		}()
	}
	for range maxAsking {
		<-full
	}
	close(release)
	for range many {
		noError(t, <-ends)
	}
	if most > maxAsking {
		t.Errorf("%d calls were under way", most)
	}
}

// Who asks while another does gets that answer, and asks himself where it was none.
func TestReadingsAreShared(t *testing.T) {
	asked, hang := make(chan struct{}, 2), make(chan struct{})
	units := fakeUnits("active")
	ctx, b, s := connectFake(t, func(call *dbus.Message) ([]any, error) {
		if call.Headers[dbus.FieldMember].Value() == "GetUnit" {
			asked <- struct{}{}
			<-hang
		}
		return units(call)
	})
	_ = b
	impatient, leave := context.WithCancel(ctx)
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := s.State(impatient, ServerUnit("a")); first <- err }()
	<-asked
	go func() { _, err := s.State(ctx, ServerUnit("a")); second <- err }()
	stillWaiting(t, second)
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who left was told %v", err)
	}
	close(hang)
	noError(t, <-second)
}

// A reload says something of every unit, and is told as one thing.
func TestAReloadIsToldOnce(t *testing.T) {
	ctx, b, s := connectFake(t, fakeUnits("active"))
	busy, release, last := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var told []string
	s.Watch(func(unit string) {
		told = append(told, unit)
		switch unit {
		case ServerUnit("first"):
			close(busy)
			<-release
		case ServerUnit("last"):
			close(last)
		}
	}, func() { told = append(told, "all") })
	b.changed(realOwner, ServerUnit("first"))
	<-busy
	b.signal(realOwner, managerPath, managerIface, "Reloading", true)
	for i := range 100 {
		b.changed(realOwner, ServerUnit(fmt.Sprintf("s%d", i)))
	}
	b.signal(realOwner, managerPath, managerIface, "Reloading", false)
	b.changed(realOwner, ServerUnit("last"))
	b.flush(ctx, s)
	close(release)
	<-last
	if !slices.Equal(told, []string{ServerUnit("first"), "all", ServerUnit("last")}) {
		t.Errorf("told of %q", told)
	}
}

// A call from anybody is refused, whatever it is for.
func TestIncomingCallsAreRefused(t *testing.T) {
	ctx, b, s := connectFake(t, fakeUnits("active"))
	b.mu.Lock()
	c := b.conns[0]
	b.mu.Unlock()
	for _, header := range []map[dbus.HeaderField]dbus.Variant{
		{dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/")), dbus.FieldMember: dbus.MakeVariant("Introspect"), dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.DBus.Introspectable")},
		{dbus.FieldPath: dbus.MakeVariant(managerPath), dbus.FieldMember: dbus.MakeVariant("Reload"), dbus.FieldInterface: dbus.MakeVariant(managerIface)},
		{dbus.FieldPath: dbus.MakeVariant(managerPath), dbus.FieldMember: dbus.MakeVariant("Reload")},
	} {
		header[dbus.FieldSender] = dbus.MakeVariant(mallory)
		b.send(c, &dbus.Message{Type: dbus.TypeMethodCall, Headers: header})
		select {
		case reply := <-b.replies:
			if name := reply.Headers[dbus.FieldErrorName].Value(); name != "org.freedesktop.DBus.Error.UnknownObject" && name != "org.freedesktop.DBus.Error.NoSuchObject" {
				t.Errorf("%v is answered with %v", header, reply)
			}
		case <-ctx.Done():
			t.Fatal("no answer")
		}
	}
	_, err := s.State(ctx, ServerUnit("a"))
	noError(t, err)
}

func TestConnectEndsWithTheContext(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "bus")
	listener, err := net.Listen("unix", socket)
	noError(t, err)
	defer listener.Close()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+socket)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 1))
			cancel() // never answered
			_, _ = io.Copy(io.Discard, conn)
		}
	}()
	if _, err := Connect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("connect says %v", err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "tcp:host=x")
	if _, err := Connect(context.Background()); err == nil {
		t.Error("connected to nowhere")
	}
}

func TestALostConnectionEndsEverything(t *testing.T) {
	ctx, b, s := connectFake(t, fakeUnits("active"))
	done := make(chan error, 3)
	wait, err := s.QueueStop(ctx, ServerUnit("a"))
	noError(t, err)
	go func() { done <- wait(ctx) }()
	go func() { done <- s.WaitInactive(ctx, ServerUnit("a")) }()
	b.newOwner("")
	b.flush(ctx, s)
	go func() { done <- s.Reload(ctx) }()
	b.mu.Lock()
	b.conns[0].Close()
	b.mu.Unlock()
	for range 3 {
		if err := <-done; !errors.Is(err, ErrLost) {
			t.Errorf("ended with %v", err)
		}
	}
	<-s.Done()
	if _, err := s.State(ctx, ServerUnit("a")); !errors.Is(err, ErrLost) {
		t.Errorf("state says %v", err)
	}
	noError(t, s.Close())
}

// A descriptor that somebody attaches to a message is closed by the kernel when the message is read.
func TestDescriptorsAreNotTakenIn(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	noError(t, err)
	file := os.NewFile(uintptr(pair[0]), "")
	conn, err := net.FileConn(file)
	noError(t, err)
	file.Close()
	defer conn.Close()
	defer unix.Close(pair[1])
	r, w, err := os.Pipe()
	noError(t, err)
	defer r.Close()
	noError(t, unix.Sendmsg(pair[1], []byte("x"), unix.UnixRights(int(w.Fd())), nil, 0))
	noError(t, w.Close())
	reader := newBoundedConn(conn)
	if n, err := reader.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	// The pipe ends only if no copy of its writing end is left.
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the pipe: %d, %v", n, err)
	}
}

func TestWorkerSendsItsDescriptorWithTheCallOnly(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	noError(t, err)
	file := os.NewFile(uintptr(pair[0]), "")
	conn, err := net.FileConn(file)
	noError(t, err)
	file.Close()
	defer conn.Close()
	defer unix.Close(pair[1])
	received := func() (fds int, data []byte) {
		t.Helper()
		buf, oob := make([]byte, 4096), make([]byte, 4096)
		n, oobn, _, _, err := unix.Recvmsg(pair[1], buf, oob, unix.MSG_CMSG_CLOEXEC)
		noError(t, err)
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		noError(t, err)
		for _, m := range messages {
			rights, err := unix.ParseUnixRights(&m)
			noError(t, err)
			for _, fd := range rights {
				fds++
				unix.Close(fd)
			}
		}
		return fds, buf[:n]
	}
	two := []int{0, 1}
	sender := &fdSender{UnixConn: conn.(*net.UnixConn)}
	sender.fds.Store(&two)
	for _, c := range []struct {
		message []byte
		fds     int
	}{
		{[]byte{'l', byte(dbus.TypeError), 1}, 0}, // the refusal of somebody's call
		{[]byte{'l', byte(dbus.TypeMethodCall), 2}, 2},
		{[]byte{'l', byte(dbus.TypeMethodCall), 3}, 0},
	} {
		if n, err := sender.Write(c.message); n != len(c.message) || err != nil {
			t.Errorf("write: %d, %v", n, err)
		}
		if fds, data := received(); fds != c.fds || !bytes.Equal(data, c.message) {
			t.Errorf("%v went as %v with %d descriptors", c.message, data, fds)
		}
	}
}

// Those who come one by one, but close behind each other, share a reload; it waits neither for ever nor for nobody.
func TestReloadsWaitForEachOther(t *testing.T) {
	runs := 0
	g := groupCommit{commit: func() error { runs++; return nil }, pause: time.Hour, most: time.Hour}
	run := g.join()
	for range 50 {
		if g.join() != run {
			t.Fatal("one of those that come at once has a reload of its own")
		}
	}
	late := groupCommit{commit: func() error { return nil }, pause: time.Hour, most: time.Millisecond}
	noError(t, late.do(t.Context()))
	alone := groupCommit{commit: func() error { return nil }, pause: time.Millisecond, most: time.Hour}
	noError(t, alone.do(t.Context()))
	if runs != 0 {
		t.Errorf("%d reloads while more may come", runs)
	}
}

func TestReloadsAreShared(t *testing.T) {
	ctx := context.Background()
	running, release := make(chan int), make(chan error)
	runs := 0
	g := groupCommit{commit: func() error {
		runs++
		running <- runs
		return <-release
	}}
	first := make(chan error, 1)
	go func() { first <- g.do(ctx) }()
	<-running
	// Who comes while one runs shares the next, however many they are.
	second := g.join()
	for range 50 {
		if g.join() != second {
			t.Fatal("a second reload is queued")
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := g.do(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("one without patience: %v", err)
	}
	failure := errors.New("refused")
	release <- failure
	if err := <-first; err != failure {
		t.Errorf("the first got %v", err)
	}
	if n := <-running; n != 2 {
		t.Errorf("run %d", n)
	}
	third := g.join()
	if third == second {
		t.Error("one who came after the second had begun shares it")
	}
	release <- nil
	<-second.done
	<-running
	release <- failure
	<-third.done
	if second.err != nil || third.err != failure {
		t.Errorf("the results are %v, %v", second.err, third.err)
	}
	// And from rest again.
	go func() { first <- g.do(ctx) }()
	if n := <-running; n != 4 {
		t.Errorf("run %d", n)
	}
	release <- nil
	noError(t, <-first)
}
