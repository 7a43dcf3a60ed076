package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

const (
	socket      = "/run/dbus/system_bus_socket"
	systemd     = "org.freedesktop.systemd1"
	managerPath = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerI    = "org.freedesktop.systemd1.Manager"
)

// patience is for what should have come long before.
const patience = 3 * time.Minute

// ear is the client that waits for jobs, of systemd and of left4d, and hears all their other signals. What it is told is
// stamped where it is read.
type ear struct {
	conn *dbus.Conn

	mu      sync.Mutex
	ended   map[dbus.ObjectPath]end
	waiting map[dbus.ObjectPath]chan end
	reloads int
	heard   func(at time.Time, s *dbus.Signal) // nil: nobody listens
}

type end struct {
	at     time.Time
	result string
}

func listen() *ear {
	e := &ear{ended: map[dbus.ObjectPath]end{}, waiting: map[dbus.ObjectPath]chan end{}}
	conn, err := dbus.ConnectSystemBus(dbus.WithSignalHandler(e))
	check(err)
	e.conn = conn
	for _, rule := range []string{
		"type='signal',sender='" + names.Service + "'",
		"type='signal',sender='" + systemd + "'",
		"type='signal',sender='" + names.Bus + "',member='NameOwnerChanged',arg0='" + names.Service + "'",
	} {
		check(conn.BusObject().Call(names.Bus+".AddMatch", 0, rule).Err)
	}
	check(conn.Object(systemd, managerPath).Call(managerI+".Subscribe", 0).Err)
	return e
}

// DeliverSignal implements dbus.SignalHandler.
func (e *ear) DeliverSignal(iface, member string, s *dbus.Signal) {
	at := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.heard != nil {
		e.heard(at, s)
	}
	switch {
	case member == "JobRemoved" && (iface == managerI || iface == names.Manager):
		path, _ := s.Body[1].(dbus.ObjectPath)
		result, _ := s.Body[len(s.Body)-1].(string)
		if ch := e.waiting[path]; ch != nil {
			delete(e.waiting, path)
			ch <- end{at, result}
		} else {
			e.ended[path] = end{at, result}
		}
	case member == "Reloading" && iface == managerI:
		if begins, _ := s.Body[0].(bool); begins {
			e.reloads++
		}
	}
}

// listenTo has a function called with every signal until it is undone.
func (e *ear) listenTo(heard func(at time.Time, s *dbus.Signal)) (undo func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = heard
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.heard = nil
	}
}

func (e *ear) reloadsSoFar() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reloads
}

// await waits for the end of a job, which must be a good one.
func (e *ear) await(job dbus.ObjectPath) time.Time {
	e.mu.Lock()
	got, ok := e.ended[job]
	delete(e.ended, job)
	ch := make(chan end, 1)
	if !ok {
		e.waiting[job] = ch
	}
	e.mu.Unlock()
	if !ok {
		select {
		case got = <-ch:
		case <-time.After(patience):
			fatalf("%s has no end", job)
		}
	}
	if got.result != "done" {
		fatalf("%s ended as %s", job, got.result)
	}
	return got.at
}

// queue calls a method that returns a job.
func (e *ear) queue(service string, path dbus.ObjectPath, method string, args ...any) dbus.ObjectPath {
	var job dbus.ObjectPath
	if err := e.conn.Object(service, path).Call(method, 0, args...).Store(&job); err != nil {
		fatalf("%s %v: %v", method, args, err)
	}
	return job
}

// left4 has left4d do something with an instance, and returns when that is done.
func (e *ear) left4(method, name string, args ...any) time.Time {
	return e.await(e.queue(names.Service, names.Root, names.Manager+"."+method, append([]any{name}, append(args, none)...)...))
}

// pid1 has systemd do something with a unit, and returns when that is done.
func (e *ear) pid1(method, unit string) time.Time {
	return e.await(e.queue(systemd, managerPath, managerI+"."+method, unit, "replace"))
}

// all has left4d do something with many instances at once, and returns when all is done.
func (e *ear) all(method string, instances []string, args ...any) {
	calls := make([]*dbus.Call, len(instances))
	jobs := make([]dbus.ObjectPath, len(calls))
	take := func(i int) {
		if err := (<-calls[i].Done).Store(&jobs[i]); err != nil {
			fatalf("%s %s: %v", method, instances[i], err)
		}
	}
	const pending = 100 // a bus lets one connection wait for 128 answers
	for i, name := range instances {
		if i >= pending {
			take(i - pending)
		}
		calls[i] = e.conn.Object(names.Service, names.Root).Go(names.Manager+"."+method, 0, nil, append([]any{name}, append(args, none)...)...)
	}
	for i := max(0, len(calls)-pending); i < len(calls); i++ {
		take(i)
	}
	for _, job := range jobs {
		e.await(job)
	}
}

var none = map[string]dbus.Variant{}

// raw is a connection that sends calls that are encoded already and does not decode the answers, so that it is the other
// side that is measured.
type raw struct {
	conn net.Conn
	buf  []byte
}

func dialRaw() *raw {
	conn, err := net.Dial("unix", socket)
	check(err)
	r := &raw{conn, make([]byte, 1<<20)}
	fmt.Fprintf(conn, "\x00AUTH EXTERNAL 30\r\n") // uid 0
	r.line()
	fmt.Fprintf(conn, "BEGIN\r\n")
	r.call(message(names.Bus, names.BusPath, names.Bus, "Hello"))
	return r
}

func (r *raw) line() {
	for b := []byte{0}; b[0] != '\n'; {
		_, err := io.ReadFull(r.conn, b)
		check(err)
	}
}

// message is a call, encoded. Its serial is 1: the bus minds no other call of that serial that has been answered.
func message(service string, path dbus.ObjectPath, iface, member string, args ...any) []byte {
	m := &dbus.Message{Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(service),
		dbus.FieldPath:        dbus.MakeVariant(path),
		dbus.FieldInterface:   dbus.MakeVariant(iface),
		dbus.FieldMember:      dbus.MakeVariant(member),
	}, Body: args}
	if len(args) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(args...))
	}
	var b bytes.Buffer
	check(m.EncodeTo(&b, binary.LittleEndian))
	text := b.Bytes()
	binary.LittleEndian.PutUint32(text[8:], 1)
	return text
}

// call sends a call and takes its answer.
func (r *raw) call(m []byte) {
	_, err := r.conn.Write(m)
	check(err)
	r.answer()
}

// answer takes messages until one is an answer, which must be no error.
func (r *raw) answer() {
	for {
		head := r.buf[:16]
		_, err := io.ReadFull(r.conn, head)
		check(err)
		kind, body, fields := dbus.Type(head[1]), binary.LittleEndian.Uint32(head[4:]), binary.LittleEndian.Uint32(head[12:])
		size := int((fields+7)&^7 + body)
		if size+16 > len(r.buf) {
			r.buf = append(make([]byte, 0, 2*(size+16)), r.buf[:16]...)[:2*(size+16)]
		}
		_, err = io.ReadFull(r.conn, r.buf[16:16+size])
		check(err)
		switch kind {
		case dbus.TypeMethodReply:
			return
		case dbus.TypeError:
			fatalf("a call was answered with an error: %q", r.buf[16:16+size])
		}
	}
}

// timed calls each of the messages in turn, so often, and returns how long each took.
func (r *raw) timed(times int, messages ...[]byte) []samples {
	took := make([]samples, len(messages))
	for n := -times / 10; n < times; n++ {
		for i, m := range messages {
			began := time.Now()
			r.call(m)
			if n >= 0 { // the first ones only warm up
				took[i] = append(took[i], time.Since(began))
			}
		}
	}
	return took
}
