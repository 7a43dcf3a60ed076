package dbus

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/dbus/names"
	"left4.me/left4/units"
)

// file takes over a descriptor that an answer brought.
func (b *testBus) file(out []any) *os.File {
	b.t.Helper()
	fd, ok := out[0].(dbus.UnixFD)
	if !ok {
		b.t.Fatalf("%v is no descriptor", out)
	}
	f := os.NewFile(uintptr(fd), "answer")
	b.t.Cleanup(func() { f.Close() })
	return f
}

func TestOpenFileGivesTheBytes(t *testing.T) {
	b := startBus(t)
	v := dbus.MakeVariant
	text := strings.Repeat("all the bytes\x00\n", 100_000)
	b.overlay("o", map[string]string{"cfg/server.cfg": text, "odd\xff\nname": "odd"})
	object := names.OverlayPath("o")
	file := b.file(b.must(object, names.Overlay+".OpenFile", "cfg/server.cfg", variants{}))
	got, err := io.ReadAll(file)
	if err != nil || string(got) != text {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(text))
	}
	if _, err := unix.Write(int(file.Fd()), []byte("x")); !errors.Is(err, unix.EBADF) {
		t.Errorf("an overlay's file can be written: %v", err)
	}
	if got, err := io.ReadAll(b.file(b.must(object, names.Overlay+".OpenFile", `odd\xff\x0aname`, variants{}))); err != nil || string(got) != "odd" {
		t.Errorf("a name that is no UTF-8: %q, %v", got, err)
	}

	// Another revision, with what is no file.
	secret := b.server.daemon.Layout.State + "/left4.db"
	links := func(w units.Worker) units.State {
		for name, target := range map[string]string{"link": secret, "up": "../../..", "cfg": "/etc"} {
			if err := os.Symlink(target, w.Dir+"/"+name); err != nil {
				t.Error(err)
			}
		}
		if err := unix.Mkfifo(w.Dir+"/fifo", 0o644); err != nil {
			t.Error(err)
		}
		return units.State{Active: "active", Sub: "exited", StatusText: status.Done(4, 0, "")}
	}
	b.worker.Store(&links)
	b.must(object, names.Overlay+".Import", b.pipe(), variants{})
	b.ended("import-overlay")
	for _, path := range []string{"link", "up", "up/left4.db", "cfg/passwd", "cfg", "fifo", "cfg/server.cfg", "link/x", `a\x00b`, ".", "x\x7fy"} {
		_, err := b.call(object, names.Overlay+".OpenFile", path, variants{})
		wantError(t, err, names.Error+"InvalidArgument")
	}
	if got, err := io.ReadAll(b.file(b.must(object, names.Overlay+".OpenFile", "cfg/server.cfg", variants{"revision": v(uint32(2))}))); err != nil || string(got) != text {
		t.Errorf("of the older revision: %d bytes, %v", len(got), err)
	}
}

func TestDescriptorsThatAreGivenAreClosedHere(t *testing.T) {
	b := startBus(t)
	b.overlay("o", map[string]string{"f": "x"})
	ask := func(flags dbus.Flags) {
		call := b.Object(names.Service, names.OverlayPath("o")).Call(names.Overlay+".OpenFile", flags, "f", variants{})
		if flags == 0 {
			if call.Err != nil {
				t.Fatal(call.Err)
			}
			unix.Close(int(call.Body[0].(dbus.UnixFD)))
		}
	}
	ask(0)
	before := descriptors(t)
	for range 20 {
		ask(0)
		ask(dbus.FlagNoReplyExpected)
	}
	b.must(names.Root, names.Peer+".Ping")
	b.answered()
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// answered returns when left4d has answered all calls that have come to it. Nothing tells when it has.
func (b *testBus) answered() {
	b.t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		open := 0
		b.server.quota.mu.Lock()
		for _, who := range b.server.quota.callers {
			open += who.calls
		}
		b.server.quota.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			b.t.Fatalf("%d calls are never answered", open)
		}
	}
}

// request is an encoded call of left4d.
func request(t *testing.T, path dbus.ObjectPath, iface, member string, args ...any) []byte {
	t.Helper()
	m, err := encode(&dbus.Message{Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(names.Service), dbus.FieldPath: dbus.MakeVariant(path),
		dbus.FieldInterface: dbus.MakeVariant(iface), dbus.FieldMember: dbus.MakeVariant(member),
	}, Body: args})
	if err != nil {
		t.Fatal(err)
	}
	return m.raw
}

// received is the next message that comes by a connection that nobody else reads.
func received(c *conn) (incoming, error) {
	m, err := c.in.next()
	if err == nil {
		err = c.in.take(&m)
	}
	return m, err
}

// waiting is how many descriptors wait in the bus, as it tells itself.
func (b *testBus) waiting(ctx context.Context, name, key string) uint32 {
	b.t.Helper()
	out, err := b.server.conn.callBus(ctx, stats, "GetConnectionStats", name)
	if err != nil {
		b.t.Fatal(err)
	}
	n, ok := out[0].(map[string]dbus.Variant)[key].Value().(uint32)
	if !ok {
		b.t.Fatalf("the bus tells no %s", key)
	}
	return n
}

// Descriptors that wait for one who does not read are few: dbus-daemon stops to read from who has 64 on their way.
func TestACallerWhoDoesNotReadHurtsNobodyElse(t *testing.T) {
	b := startBus(t)
	b.overlay("o", map[string]string{"f": "x"})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	lazy, err := dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer lazy.fail(errors.New("the test ends"))
	queue := func(raw []byte) {
		lazy.mu.Lock()
		defer lazy.mu.Unlock()
		if _, err := lazy.push(outgoing{raw: raw}); err != nil {
			t.Fatal(err)
		}
	}
	go lazy.write()
	hello, err := encode(&dbus.Message{Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(names.Bus), dbus.FieldPath: dbus.MakeVariant(names.BusPath),
		dbus.FieldInterface: dbus.MakeVariant(names.Bus), dbus.FieldMember: dbus.MakeVariant("Hello"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	queue(hello.raw)
	m, err := received(lazy)
	if err != nil {
		t.Fatal(err)
	}
	body, err := m.body()
	if err != nil {
		t.Fatal(err)
	}
	name := body[0].(string)

	// First as many bytes as its socket takes.
	for range 40 {
		queue(request(t, names.Root, names.Introspectable, "Introspect"))
	}
	for range 80 {
		queue(request(t, names.OverlayPath("o"), names.Overlay, "OpenFile", "f", variants{}))
	}
	// The bus reads in order, so what was queued before this has come to left4d before what is called after it.
	mark, err := encode(&dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(b.Names()[0]), dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/x")),
		dbus.FieldInterface: dbus.MakeVariant("x.y"), dbus.FieldMember: dbus.MakeVariant("Mark"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	queue(mark.raw)
	b.next(func(s *dbus.Signal) bool { return s.Name == "x.y.Mark" })
	b.must(names.Root, names.Peer+".Ping")
	b.answered()
	if n := b.waiting(ctx, name, "OutgoingFDs"); n != maxCallerPassing {
		t.Errorf("%d descriptors wait for who does not read, want %d", n, maxCallerPassing)
	}
	if n := b.waiting(ctx, b.server.conn.name, "IncomingFDs"); n != maxCallerPassing {
		t.Errorf("%d descriptors of left4d's wait, want %d", n, maxCallerPassing)
	}
	b.file(b.must(names.OverlayPath("o"), names.Overlay+".OpenFile", "f", variants{})).Close()

	// All of its calls are answered, as soon as it reads.
	var opened, refused int
	for answered := 0; answered < 120; {
		m, err := received(lazy)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case m.sender == names.Bus:
			continue
		case len(m.fds) == 1:
			opened++
		case m.kind == dbus.TypeError && m.errorName == errLimits:
			refused++
		}
		m.closeFDs()
		answered++
	}
	if opened < maxCallerPassing || opened+refused != 80 {
		t.Errorf("%d were opened and %d refused", opened, refused)
	}
	queue(request(t, names.OverlayPath("o"), names.Overlay, "OpenFile", "f", variants{}))
	if m, err := received(lazy); err != nil || len(m.fds) != 1 {
		t.Errorf("afterwards: %+v, %v", m, err)
	} else {
		m.closeFDs()
	}
}

// A connection that has not asked for descriptors gets none: the bus throws the answer away, which must harm nobody.
func TestACallerWhoTakesNoDescriptors(t *testing.T) {
	b := startBus(t)
	b.overlay("o", map[string]string{"f": "x"})
	path, err := socketPath(os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"))
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	socket.SetDeadline(time.Now().Add(2 * time.Minute))
	plain := &conn{socket: socket.(*net.UnixConn), in: newInput(socket.(*net.UnixConn))}
	if _, err := io.WriteString(socket, "\x00AUTH EXTERNAL "+hex.EncodeToString([]byte(strconv.Itoa(os.Getuid())))+"\r\nBEGIN\r\n"); err != nil {
		t.Fatal(err)
	}
	for c := []byte{0}; c[0] != '\n'; { // "OK …"
		if _, err := socket.Read(c); err != nil {
			t.Fatal(err)
		}
	}
	hello, err := encode(&dbus.Message{Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(names.Bus), dbus.FieldPath: dbus.MakeVariant(names.BusPath),
		dbus.FieldInterface: dbus.MakeVariant(names.Bus), dbus.FieldMember: dbus.MakeVariant("Hello"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	for i, raw := range [][]byte{
		hello.raw, request(t, names.OverlayPath("o"), names.Overlay, "OpenFile", "f", variants{}), request(t, names.Root, names.Peer, "Ping"),
	} {
		binary.LittleEndian.PutUint32(raw[8:], uint32(i+1))
		if _, err := socket.Write(raw); err != nil {
			t.Fatal(err)
		}
	}
	for {
		m, err := received(plain)
		if err != nil {
			t.Fatal(err)
		}
		if m.reply == 3 {
			break
		}
	}
	b.must(names.Root, names.Peer+".Ping") // came behind them
	b.answered()
	b.must(names.Root, names.Peer+".Ping") // its answer leaves behind the one with the descriptor
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	b.file(b.must(names.OverlayPath("o"), names.Overlay+".OpenFile", "f", variants{}))
}

// sockets is a connection with its other end.
func sockets(t *testing.T) (*conn, *conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = &conn{socket: c.(*net.UnixConn), in: newInput(c.(*net.UnixConn)), wake: make(chan struct{}, 1), done: make(chan struct{}), pending: map[uint32]chan<- incoming{}}
		t.Cleanup(func() { ends[i].fail(errors.New("the test ends")) })
	}
	return ends[0], ends[1]
}

func null(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func closed(f *os.File) bool {
	_, err := f.Stat()
	return errors.Is(err, os.ErrClosed)
}

func TestDescriptorsOfAnEndedConnectionAreClosed(t *testing.T) {
	c, _ := sockets(t)
	queued, late, bad := null(t), null(t), null(t)
	if _, err := c.push(outgoing{raw: make([]byte, 16), files: []*os.File{queued}}); err != nil {
		t.Fatal(err)
	}
	c.fail(errors.New("the bus has gone"))
	if _, err := c.push(outgoing{raw: make([]byte, 16), files: []*os.File{late}}); err == nil {
		t.Error("something was queued for a bus that has gone")
	}
	if _, err := encode(answer(header{sender: "no name", serial: 1}, []any{bad, "\xff"}, nil)); err == nil {
		t.Error("what is no UTF-8 was encoded")
	}
	for i, f := range []*os.File{queued, late, bad} {
		if !closed(f) {
			t.Errorf("descriptor %d is open", i)
		}
	}
}

// The kernel may refuse to pass a descriptor: the caller is told so then, and is not left without an answer.
func TestARefusedDescriptorIsAnError(t *testing.T) {
	c, other := sockets(t)
	go c.write()
	h := header{sender: ":1.9", serial: 77}
	send := func(f *os.File) {
		m, err := encode(answer(h, []any{f}, nil))
		if err != nil {
			t.Fatal(err)
		}
		refusal, err := encode(answer(h, nil, dbusError(errLimits, "no")))
		if err != nil {
			t.Fatal(err)
		}
		m.instead = refusal.raw
		if f == nil {
			m.files = []*os.File{nil} // no descriptor, which the kernel refuses
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, err := c.push(m); err != nil {
			t.Error(err)
		}
	}
	good := null(t)
	send(nil)
	send(good)
	if _, err := c.send(answer(h, nil, nil)); err != nil { // leaves when all is done about the one before
		t.Fatal(err)
	}
	for i, want := range []dbus.Type{dbus.TypeError, dbus.TypeMethodReply} {
		m, err := received(other)
		if err != nil {
			t.Fatal(err)
		}
		if m.kind != want || m.reply != 77 || m.serial != uint32(i+1) || len(m.fds) != i || m.fdCount() != i {
			t.Errorf("message %d: %+v", i, m)
		}
		m.closeFDs()
	}
	if m, err := received(other); err != nil || m.serial != 3 {
		t.Fatalf("%+v, %v", m, err)
	}
	if !closed(good) {
		t.Error("the descriptor that was sent is open")
	}
}

func (m *incoming) fdCount() int { return int(m.header.fds) }

func TestAnAnswerThatCannotBeSentIsAnError(t *testing.T) {
	answers := map[string]func(*Server, *call) ([]any, error){
		"ListJobs":      func(*Server, *call) ([]any, error) { return []any{strings.Repeat("x", maxReply)}, nil },
		"ListInstances": func(*Server, *call) ([]any, error) { return []any{"a name \xff of a file"}, nil },
		"ListOverlays":  func(*Server, *call) ([]any, error) { return nil, errors.New("a name \xff\x00 of a file") },
	}
	for i := range methods {
		m, saved := &methods[i], methods[i].call
		if wrong, ok := answers[m.name]; ok {
			m.call = wrong
			t.Cleanup(func() { m.call = saved }) // when the server has ended
		}
	}
	b := startBus(t)
	_, err := b.call(names.Root, names.Manager+".ListJobs", variants{})
	wantError(t, err, errLimits)
	_, err = b.call(names.Root, names.Manager+".ListInstances", variants{})
	wantError(t, err, "org.freedesktop.DBus.Error.Failed")
	_, err = b.call(names.Root, names.Manager+".ListOverlays", variants{})
	wantError(t, err, "org.freedesktop.DBus.Error.Failed")
	if err == nil || err.Error() != "a name \uFFFD\uFFFD of a file" {
		t.Errorf("%q", err)
	}
	b.must(names.Root, names.Peer+".Ping")
}

func TestTooManyWalksAreRefused(t *testing.T) {
	b := startBus(t)
	c := &call{ctx: context.Background(), uid: 4000}
	for range maxWalks {
		if !b.server.walks.take(c.uid) {
			t.Fatal("refused too early")
		}
	}
	walked := false
	wantError(t, b.server.walk(c, func(context.Context) error { walked = true; return nil }), errLimits)
	b.server.walks.give(c.uid)
	if err := b.server.walk(c, func(context.Context) error { walked = true; return nil }); err != nil || !walked {
		t.Errorf("%v, walked %v", err, walked)
	}
	if b.server.walks.take(c.uid); b.server.walks.take(c.uid) {
		t.Error("a place was not given back, or given twice")
	}
}
