package ring

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// What a test waits for comes by then or is missing. A test asserts no time with it.
const eventDeadline = 3 * time.Minute

// Bus returns a connection of root to the machine's system bus; it ends with the test, or with the machine's boot.
// The bus knows the caller's user, but not its process, which is not the machine's.
func (m *Machine) Bus(t TB) *dbus.Conn {
	t.Helper()
	conn := m.dial(t)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// dial is Bus for who closes the connection.
func (m *Machine) dial(t TB) *dbus.Conn {
	t.Helper()
	socket := fmt.Sprintf("unix:path=/proc/%d/root/run/dbus/system_bus_socket", m.boot.init)
	conn, err := dbus.Connect(socket, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		t.Fatalf("cannot reach the bus of %s: %v", m.Suite, err)
	}
	return conn
}

// Signals are those of one bus connection that match, in the order in which they were sent. All that nobody waits for is
// kept until Close, or the end of the test.
type Signals struct {
	suite string
	conn  *dbus.Conn
	ch    chan *dbus.Signal
}

// Signals collects signals from now on. Nothing that a later call causes is missed.
func (m *Machine) Signals(t TB, match ...dbus.MatchOption) *Signals {
	t.Helper()
	return Collect(t, m.Suite, m.Bus(t), match...)
}

// Collect is Machine.Signals for a connection to the bus of any machine.
func Collect(t TB, suite string, conn *dbus.Conn, match ...dbus.MatchOption) *Signals {
	t.Helper()
	s := &Signals{suite: suite, conn: conn, ch: make(chan *dbus.Signal, 64)}
	conn.Signal(s.ch)
	if err := conn.AddMatchSignal(match...); err != nil {
		t.Fatalf("cannot match signals on the bus of %s: %v", suite, err)
	}
	return s
}

// Close ends the connection that they come by.
func (s *Signals) Close() { s.conn.Close() }

// Wait returns the next signal that is wanted and drops those before it.
func (s *Signals) Wait(t TB, what string, wanted func(*dbus.Signal) bool) *dbus.Signal {
	t.Helper()
	timer := time.NewTimer(eventDeadline)
	defer timer.Stop()
	var seen []string
	for {
		select {
		case signal, ok := <-s.ch:
			if !ok {
				t.Fatalf("the bus of %s is gone, and no %s; came:\n%s", s.suite, what, strings.Join(seen, "\n"))
			}
			if wanted(signal) {
				return signal
			}
			seen = append(seen, fmt.Sprintf("%s %s %v", signal.Path, signal.Name, signal.Body))
		case <-timer.C:
			t.Fatalf("%s: no %s after %s; came:\n%s", s.suite, what, eventDeadline, strings.Join(seen, "\n"))
		}
	}
}

// WaitUnit waits until a property of a unit, as systemctl prints it, is what is wanted.
func (m *Machine) WaitUnit(t TB, unit, property, want string) {
	t.Helper()
	conn := m.Bus(t)
	defer conn.Close()
	manager := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	// PID 1 signals nothing before somebody subscribes.
	if err := manager.Call("org.freedesktop.systemd1.Manager.Subscribe", 0).Err; err != nil {
		t.Fatalf("%s: cannot subscribe to systemd: %v", m.Suite, err)
	}
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	if err := conn.AddMatchSignal(
		dbus.WithMatchPathNamespace("/org/freedesktop/systemd1"),
		dbus.WithMatchSender("org.freedesktop.systemd1"),
	); err != nil {
		t.Fatalf("%s: cannot match systemd's signals: %v", m.Suite, err)
	}
	timer := time.NewTimer(eventDeadline)
	defer timer.Stop()
	for {
		got := m.Property(t, unit, property)
		if got == want {
			return
		}
		select {
		case _, ok := <-signals:
			if !ok {
				t.Fatalf("%s: the bus is gone, and %s of %s is %q, not %q", m.Suite, property, unit, got, want)
			}
		case <-timer.C:
			t.Fatalf("%s: %s of %s is %q, not %q, after %s", m.Suite, property, unit, got, want, eventDeadline)
		}
	}
}

// A Process is a command that stays: one that prints events, or one that asks questions.
type Process struct {
	m     *Machine
	argv  string
	stdin io.WriteCloser
	done  chan struct{}
	cmd   *exec.Cmd
	kill  context.CancelFunc

	mu     sync.Mutex
	output string // what no Expect has consumed yet
	ended  bool
	more   chan struct{} // closed when output grows or ends
}

// Start starts a command as root. It ends with the test.
func (m *Machine) Start(t TB, argv ...string) *Process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &Process{
		m: m, argv: strings.Join(argv, " "), cmd: m.Command(ctx, argv...), kill: cancel,
		done: make(chan struct{}), more: make(chan struct{}),
	}
	p.cmd.Stdout, p.cmd.Stderr = processOutput{p}, processOutput{p}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		cancel()
		t.Fatalf("%s: cannot start %s: %v", m.Suite, p.argv, err)
	}
	go func() {
		p.cmd.Wait()
		p.grow("", true)
		close(p.done)
	}()
	t.Cleanup(p.Kill)
	return p
}

// Kill ends the command, wherever it is.
func (p *Process) Kill() {
	p.kill()
	<-p.done
}

// Terminal starts a command as a user on a terminal of its own, as after a login by ssh: what asks people will ask.
func (m *Machine) Terminal(t TB, user string, argv ...string) *Process {
	t.Helper()
	var line []string
	for _, word := range argv {
		line = append(line, "'"+strings.ReplaceAll(word, "'", `'\''`)+"'")
	}
	return m.Start(t, asUser(user, []string{
		"env", "TERM=dumb", "script", "--quiet", "--return", "--command", strings.Join(line, " "), "/dev/null",
	})...)
}

type processOutput struct{ p *Process }

func (o processOutput) Write(b []byte) (int, error) {
	o.p.grow(string(b), false)
	return len(b), nil
}

func (p *Process) grow(text string, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.output += text
	p.ended = p.ended || ended
	close(p.more)
	p.more = make(chan struct{})
}

// Expect waits until the command has printed the text and returns the output up to there; the next Expect reads on
// behind it.
func (p *Process) Expect(t TB, text string) string {
	t.Helper()
	timer := time.NewTimer(eventDeadline)
	defer timer.Stop()
	for {
		p.mu.Lock()
		before, rest, found := strings.Cut(p.output, text)
		if found {
			p.output = rest
		}
		output, ended, more := p.output, p.ended, p.more
		p.mu.Unlock()
		if found {
			return before + text
		}
		if ended {
			t.Fatalf("%s: %s ended without %q; printed:\n%s", p.m.Suite, p.argv, text, output)
		}
		select {
		case <-more:
		case <-timer.C:
			t.Fatalf("%s: %s: no %q after %s; printed:\n%s", p.m.Suite, p.argv, text, eventDeadline, output)
		}
	}
}

// Type writes to the command's standard input, or types on its terminal.
func (p *Process) Type(t TB, text string) {
	t.Helper()
	if _, err := io.WriteString(p.stdin, text); err != nil {
		t.Fatalf("%s: cannot type to %s: %v", p.m.Suite, p.argv, err)
	}
}

// Wait waits until the command ends and returns the output that no Expect consumed, and the exit status.
func (p *Process) Wait(t TB) (string, int) {
	t.Helper()
	timer := time.NewTimer(eventDeadline)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		t.Fatalf("%s: %s: no end after %s", p.m.Suite, p.argv, eventDeadline)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output, p.cmd.ProcessState.ExitCode()
}

// Eventually asks again and again until the answer is yes. It is for what tells nobody when it changes; for the rest
// there are Signals, WaitUnit and Process.Expect.
func (m *Machine) Eventually(t TB, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	timer := time.NewTimer(eventDeadline)
	defer timer.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-timer.C:
			t.Fatalf("%s: still not true after %s: %s", m.Suite, eventDeadline, what)
		}
	}
}
