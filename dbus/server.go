// Package dbus is left4's face on the system bus: names, object paths, errors, introspection and signals. It decides
// nothing: package daemon does, and polkit says who may.
//
// Around every call stand, in this order: a quota for its sender and for all, the table of methods with the exact
// signature, the caller's lifetime, polkit, a second look at the object, the call itself with a recover around it, and
// the mapping of its error. A call is answered exactly once.
package dbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/daemon"
	"left4.me/left4/dbus/names"
	"left4.me/left4/polkit"
)

// Authorizer answers whether a caller may; *polkit.Authority does.
type Authorizer interface {
	Check(ctx context.Context, r polkit.Request) (polkit.Answer, error)
}

// Server is the face of one daemon on one connection.
type Server struct {
	daemon    *daemon.Daemon
	auth      Authorizer
	log       *slog.Logger
	conn      *conn
	face      *face
	quota     *quota
	questions *turns        // at polkit
	prompts   *turns        // at polkit, with a person to ask
	rights    *turns        // at polkit, with all questions one after the other
	patience  time.Duration // with a question where there is none to ask
	reads     *turns        // calls that anybody may make, up to the end of their answer
	walks     *places       // calls that look through files
	refusals  refusals
	warned    atomic.Int64  // when it was told last that polkit does not answer, in seconds
	hello     atomic.Bool   // the bus knows us; before that nobody can listen
	big       chan struct{} // capacity 1: the turn to decode a big body
	passing   chan struct{} // capacity 1: the turn to answer with a descriptor
	ctx       context.Context
	cancel    context.CancelFunc
	calls     sync.WaitGroup
}

// Dial connects to the system bus. Nothing is answered before Serve.
func Dial(ctx context.Context, log *slog.Logger) (*Server, error) {
	f, err := newFace()
	if err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	c, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the system bus: %w", err)
	}
	s := &Server{
		log: log, conn: c, face: f, quota: newQuota(), walks: newPlaces(maxWalks),
		questions: newTurns(maxQuestions), prompts: newTurns(maxPrompts), rights: newTurns(1), patience: polkit.Limit,
		reads: &turns{limit: maxReads, root: maxRootReads, users: map[uint32]*queue{}},
		big:   make(chan struct{}, 1), passing: make(chan struct{}, 1),
	}
	c.in.known = f.words()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Serve answers for d from now on and takes the name; it returns when the name is ours.
func (s *Server) Serve(ctx context.Context, d *daemon.Daemon, auth Authorizer) error {
	s.daemon, s.auth = d, auth
	go s.conn.run(s.deliver)
	hello, err := s.conn.call(ctx, "Hello")
	if err != nil {
		return fmt.Errorf("cannot say hello to the system bus: %w", err)
	}
	s.conn.name, _ = hello[0].(string)
	s.hello.Store(true)
	// A name that goes has an empty new owner: this is how the end of a caller is seen.
	rule := "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg2=''"
	if _, err := s.conn.call(ctx, "AddMatch", rule); err != nil {
		return fmt.Errorf("cannot follow the callers on the system bus: %w", err)
	}
	// DBUS_NAME_FLAG_DO_NOT_QUEUE: two left4d would work against each other.
	reply, err := s.conn.call(ctx, "RequestName", names.Service, uint32(dbus.NameFlagDoNotQueue))
	if err != nil {
		return fmt.Errorf("cannot take the name %s on the system bus: %w", names.Service, err)
	}
	if code, _ := reply[0].(uint32); dbus.RequestNameReply(code) != dbus.RequestNameReplyPrimaryOwner {
		return fmt.Errorf("cannot take the name %s on the system bus: another left4d has it", names.Service)
	}
	return nil
}

// Done is closed when the bus is lost; Err then says why.
func (s *Server) Done() <-chan struct{} { return s.conn.done }

// Err says why the bus was lost.
func (s *Server) Err() error { return s.conn.err }

// Close ends the calls that wait, gives the others up to ctx to be answered, and leaves the bus.
func (s *Server) Close(ctx context.Context) {
	s.cancel()
	ended := make(chan struct{})
	go func() { s.calls.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	s.conn.flush(ctx)
	s.conn.fail(errors.New("left4d has left"))
}

// call is one method call on its way.
type call struct {
	header
	ctx    context.Context
	uid    uint32
	method *method
	args   []any
	fds    []int // those of args; who uses one takes it out
	ticket ticket
	// turn is held while a big body is decoded and looked through.
	turn    chan struct{}
	passing chan struct{} // held until the descriptor that the call is answered with is queued
	reading bool          // has a turn of reads
	// What the call is about, as far as it has been read: for the audit trail.
	subject thing
	jobID   uint32
	audited bool
}

func (c *call) interactive() bool {
	return c.flags&dbus.FlagAllowInteractiveAuthorization != 0
}

// deliver takes a message from the connection. It must not wait.
func (s *Server) deliver(m *incoming) error {
	switch m.kind {
	case dbus.TypeMethodCall:
		// What changes nothing and is not to be answered is not worth a look.
		if m.flags&dbus.FlagNoReplyExpected != 0 && !s.face.matters[m.member] {
			return nil
		}
		t, err := s.quota.enter(m.sender, m.held())
		if err != nil {
			s.refuse(m.header, err)
			return nil
		}
		if err := s.conn.in.take(m); err != nil {
			s.quota.leave(t)
			return err
		}
		// Descriptors count against this process as a whole, so none is kept for a method that takes none.
		if m.lost || !strings.Contains(m.signature, "h") || len(m.fds) != 1 {
			m.closeFDs()
		}
		s.calls.Add(1)
		go func(m incoming) {
			defer s.calls.Done()
			s.handle(m, t)
		}(*m)
	case dbus.TypeSignal:
		if m.sender != names.Bus || m.iface != names.Bus {
			return nil
		}
		if err := s.conn.in.take(m); err != nil {
			return err
		}
		m.closeFDs()
		s.signal(m)
	}
	return nil
}

// signal is one of the bus itself.
func (s *Server) signal(m *incoming) {
	switch m.member {
	case "NameOwnerChanged":
		if body, err := m.body(); err == nil && len(body) == 3 && body[2] == "" {
			if name, _ := body[0].(string); strings.HasPrefix(name, ":") {
				s.quota.gone(name)
			}
		}
	case "NameLost":
		if body, err := m.body(); err == nil && len(body) == 1 && body[0] == names.Service {
			s.conn.fail(errors.New("the name " + names.Service + " was lost"))
		}
	}
}

// handle answers one call.
func (s *Server) handle(m incoming, t ticket) {
	ctx, cancel := context.WithCancel(t.who.ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	c := &call{header: m.header, ctx: ctx, fds: m.fds, ticket: t}
	defer func() {
		m.fds = c.fds
		m.closeFDs()
		c.settled()
		if c.passing != nil {
			<-c.passing
		}
		s.quota.leave(c.ticket)
	}()
	out, err := s.run(c, &m)
	if c.audited {
		s.audit(c, out, err)
	}
	var left func()
	if c.reading {
		queued := time.Now()
		left = func() { s.reads.giveFair(c.uid, min(answerCost*time.Since(queued), maxAnswerCost)) }
	}
	s.reply(c.header, out, err, left)
}

// bigBody is from where on a body is decoded alone: what is decoded takes up to some 30 times its bytes on the wire.
const bigBody = 64 << 10

// smallAnswer is what is sent however much waits for the bus.
const smallAnswer = 4 << 10

// How many of a user's calls that anybody may make are at work at once, or have an answer that the bus has not taken yet.
// The others wait, so that one user's flood takes neither the processors nor the memory from others, nor holds up their
// answers behind his.
const (
	maxReads     = 1
	maxRootReads = 4
)

// While further calls of a user wait, he leaves the way to the bus to others for so many times as long as his answer took
// on it: dbus-daemon reads 2 KiB of left4d at a time, and as much of everybody who calls it meanwhile.
const (
	answerCost    = 3
	maxAnswerCost = 100 * time.Millisecond
)

// settled lets the next big body be decoded: this one has become a definition, or nothing.
func (c *call) settled() {
	if c.turn != nil {
		<-c.turn
		c.turn = nil
	}
}

func (s *Server) run(c *call, m *incoming) (out []any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("internal error", "method", c.iface+"."+c.member, "panic", p, "stack", string(debug.Stack()))
			out, err = nil, dbusError("org.freedesktop.DBus.Error.Failed", "internal error")
		}
	}()
	if err := s.find(c); err != nil {
		return nil, err
	}
	if m.raw == nil {
		return nil, dbusError(errLimits, "a message of %d bytes is too large, at most %d are taken", m.header.body, maxCall)
	}
	if c.signature != c.method.in {
		return nil, dbusError("org.freedesktop.DBus.Error.InvalidArgs", "%s takes (%s), not (%s)", c.member, c.method.in, c.signature)
	}
	if m.lost {
		return nil, dbusError(errLimits, "left4d has too many descriptors open; try again")
	}
	if c.uid, err = s.uid(c.ctx, c.ticket.who); errors.Is(err, context.DeadlineExceeded) && c.ctx.Err() == nil {
		return nil, dbusError(errLimits, "the bus does not tell in time who is calling; try again")
	} else if err != nil {
		s.quota.gone(c.sender)
		return nil, dbusError(names.ErrAccessDenied, "the caller has gone")
	}
	if err := s.quota.claim(&c.ticket, c.uid); err != nil {
		return nil, err
	}
	// GetPermissions asks polkit, which has turns of its own.
	if c.method.action == open && c.member != "GetPermissions" {
		if s.reads.take(c.ctx, c.uid) != nil {
			return nil, dbusError(names.ErrAccessDenied, "the caller has gone")
		}
		c.reading = true
	}
	if len(m.raw) > bigBody {
		if !c.method.config {
			return nil, dbusError(errLimits, "%s takes no message of %d bytes", c.member, len(m.raw))
		}
		select {
		case s.big <- struct{}{}:
			c.turn = s.big
		case <-c.ctx.Done():
			return nil, dbusError(names.ErrAccessDenied, "the caller has gone")
		}
	}
	c.args, err = m.body()
	m.raw = nil
	if err != nil {
		return nil, dbusError("org.freedesktop.DBus.Error.InvalidArgs", "the arguments cannot be read: %v", err)
	}
	c.audited = c.method.audited()
	return c.method.call(s, c)
}

// find looks up the method, with the errors that the specification has for what is not there.
func (s *Server) find(c *call) error {
	interfaces := s.interfaces(c.path)
	if interfaces == nil {
		for _, k := range kinds {
			if _, ok := k.name(c.path); ok && (c.iface == k.iface || c.iface == "") && s.face.methods[k.iface][c.member] != nil {
				return &daemon.Error{Code: k.missing, Message: fmt.Sprintf("there is no %s with the object %s", k.kind, c.path)}
			}
		}
		if _, ok := names.JobID(c.path); ok && (c.iface == names.Job || c.iface == "") && s.face.methods[names.Job][c.member] != nil {
			return &daemon.Error{Code: daemon.NoSuchJob, Message: fmt.Sprintf("there is no job with the object %s", c.path)}
		}
		// Peer is answered by any path: it asks for the connection, not for an object.
		if c.iface != names.Peer {
			return dbusError("org.freedesktop.DBus.Error.UnknownObject", "there is no object %s", c.path)
		}
		interfaces = between
	}
	m, known := s.face.find(interfaces, c.iface, c.member)
	if !known {
		return dbusError("org.freedesktop.DBus.Error.UnknownInterface", "%s has no interface %q", c.path, c.iface)
	}
	if m == nil {
		return dbusError("org.freedesktop.DBus.Error.UnknownMethod", "there is no method %s", c.member)
	}
	c.method = m
	return nil
}

// uid asks the bus who a caller is: once, because a unique name is never given to another connection.
func (s *Server) uid(ctx context.Context, who *caller) (uint32, error) {
	who.mu.Lock()
	defer who.mu.Unlock()
	if who.known {
		return who.uid, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 25*time.Second)
	defer cancel()
	reply, err := s.conn.call(ctx, "GetConnectionUnixUser", who.name)
	if err != nil {
		return 0, err
	}
	uid, ok := reply[0].(uint32)
	if !ok {
		return 0, errors.New("the bus names no user")
	}
	who.uid, who.known = uid, true
	return uid, nil
}

// reply answers a call. It owns the files in out, and calls left, if it is not nil, when the answer has left.
func (s *Server) reply(h header, out []any, err error, left func()) {
	if h.flags&dbus.FlagNoReplyExpected != 0 {
		if left != nil {
			left()
		}
		for _, value := range out {
			if f, ok := value.(*os.File); ok {
				f.Close()
			}
		}
		return
	}
	m, err := encode(answer(h, out, err))
	if err == nil && len(m.raw) > smallAnswer && s.conn.crowded(len(m.raw)) {
		m.close()
		err = dbusError(errLimits, "too many answers wait to be read; try again")
	}
	if err != nil {
		m, err = encode(answer(h, nil, err))
	}
	if err == nil && m.files != nil {
		var refusal outgoing
		refusal, err = encode(answer(h, nil, dbusError(errLimits, "too many descriptors are on their way; try again")))
		m.instead = refusal.raw
	}
	m.left = left
	if err != nil {
		m.close()
		s.log.Error("cannot answer a call", "method", h.iface+"."+h.member, "error", err)
		return
	}
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.conn.push(m)
}

// refuse answers a call that was not let in, after all that others wait for.
func (s *Server) refuse(h header, err error) {
	if h.flags&dbus.FlagNoReplyExpected != 0 {
		return
	}
	m, err := encode(answer(h, nil, err))
	if err != nil {
		s.log.Error("cannot refuse a call", "method", h.iface+"."+h.member, "error", err)
		return
	}
	s.conn.sendLast(m)
}

func answer(h header, out []any, err error) *dbus.Message {
	msg := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(h.sender),
		dbus.FieldReplySerial: dbus.MakeVariant(h.serial),
	}, Body: out}
	if err != nil {
		name, text := errorName(err)
		msg.Type, msg.Body = dbus.TypeError, []any{sendable(text)}
		msg.Headers[dbus.FieldErrorName] = dbus.MakeVariant(name)
	}
	return msg
}

// sendable makes a string of any bytes: names of files get into the texts of errors.
func sendable(text string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", "\uFFFD"), "\uFFFD")
}

// errorName is the one place where errors get their names on the bus.
func errorName(err error) (name, text string) {
	var d dbus.Error
	if errors.As(err, &d) {
		text, _ := d.Body[0].(string)
		return d.Name, text
	}
	e := daemon.AsError(err)
	if e.Code == daemon.Failed {
		return "org.freedesktop.DBus.Error.Failed", e.Message
	}
	return names.Error + string(e.Code), e.Message
}

const errLimits = "org.freedesktop.DBus.Error.LimitsExceeded"

func dbusError(name, format string, args ...any) error {
	return dbus.Error{Name: name, Body: []any{fmt.Sprintf(format, args...)}}
}
