// Package vm boots whole Debian systems with Debian's own kernel in an emulator, for what the machines of package ring
// cannot show: limits that the kernel enforces, its OOM killer, mounts by the kernels that people run, boots from
// nothing, and power cuts that take with them what was not synced.
//
// A machine needs no KVM, no network and no loop device. It begins with the image of its suite, see image.go, in a disk
// of its own that has no name on the host: machines end with the process that booted them, and leave nothing behind.
package vm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/ring"
	"left4.me/left4/test/vm/wire"
)

// The emulator is some ten times slower than the machine that it runs on, and others may use that too.
const (
	bootDeadline    = 10 * time.Minute
	commandDeadline = 10 * time.Minute
)

// Each runs a test once per suite named in LEFT4_VM ("bookworm,trixie"), each time in a fresh machine with left4
// installed, and in parallel with other tests. Without LEFT4_VM it skips.
func Each(t *testing.T, test func(t *testing.T, m *Machine)) {
	t.Helper()
	suites := os.Getenv("LEFT4_VM")
	if suites == "" {
		t.Skip("emulates machines, which LEFT4_VM allows: run sudo make vm")
	}
	t.Parallel()
	for suite := range strings.SplitSeq(suites, ",") {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			test(t, New(t, suite))
		})
	}
}

// A Machine is one emulated system. Its methods may be called from several goroutines, but for those that switch it on
// and off.
type Machine struct {
	Suite string
	Up    time.Duration // how long its first boot took

	image image
	disk  *os.File
	boot  *boot
}

// New boots a machine of a suite with the package under test installed, and throws it away when the test ends.
func New(t ring.TB, suite string) *Machine {
	t.Helper()
	m := &Machine{Suite: suite, image: openImage(t, suite)}
	t.Cleanup(func() { m.image.dir.Close() })
	if err := m.makeDisk(); err != nil {
		t.Fatalf("cannot make the disk of a virtual machine: %v", err)
	}
	t.Cleanup(func() { m.disk.Close() })
	t.Cleanup(func() {
		if t.Failed() {
			m.report(t)
		}
		m.kill()
	})
	m.Up = m.PowerOn(t)
	return m
}

// makeDisk makes a disk that has what is written to it, and takes the rest from the image.
func (m *Machine) makeDisk() error {
	dir, err := os.MkdirTemp(filepath.Dir(m.image.dir.Name()), ".disk")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "disk")
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", m.image.disk(), "-F", "raw", name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img: %w\n%s", err, out)
	}
	m.disk, err = os.OpenFile(name, os.O_RDWR, 0)
	return err
}

// agent is where image.sh puts it.
const agent = "/usr/local/libexec/left4-vm-agent"

// A boot is one run of a machine, from power on to power off.
type boot struct {
	emulator *exec.Cmd
	conn     *wire.Conn
	console  *output
	done     chan struct{} // closed when the emulator has ended

	mu       sync.Mutex
	commands map[uint32]*Process // those that run
	last     uint32
}

// PowerOn boots the machine, which must be off, and returns when its systemd says that the boot is complete, and how
// long that took.
func (m *Machine) PowerOn(t ring.TB) time.Duration {
	t.Helper()
	began := time.Now()
	if err := m.power(); err != nil {
		t.Fatalf("cannot boot %s: %v", m.Suite, err)
	}
	// Whether all units are well is for the test to say.
	if r := m.Try("systemctl", "is-system-running", "--wait"); r.Code < 0 {
		t.Fatalf("cannot boot %s: %s; its console:\n%s", m.Suite, strings.TrimSpace(r.Err), m.boot.console.tail())
	}
	return time.Since(began)
}

// The agent's socket and the disk are the emulator's descriptors 3 and 4.
var emulator = []string{
	"qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024",
	"-no-user-config", "-nodefaults", "-display", "none",
	// A reboot ends the emulator too, and the next one begins with nothing of the last one's memory.
	"-no-reboot",
	"-serial", "file:/dev/stdout",
	"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,fd=3",
	"-device", "virtserialport,chardev=agent,name=" + wire.Port,
	// What the machine did not flush may be lost with the emulator, which keeps it in no file.
	"-drive", "if=none,id=disk,format=qcow2,file=/dev/fd/4", "-device", "nvme,drive=disk,serial=left4",
}

func (m *Machine) power() error {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "agent"), os.NewFile(uintptr(fds[1]), "agent")
	defer theirs.Close()

	b := &boot{conn: wire.New(ours), console: &output{}, done: make(chan struct{}), commands: map[uint32]*Process{}}
	// Debian's cloud kernels have NVMe and ext4 built in. An initrd would only double the time.
	b.emulator = exec.Command(emulator[0], append(emulator[1:], "-kernel", m.image.kernel(),
		"-append", "root=/dev/nvme0n1 rw console=ttyS0 systemd.show_status=0")...)
	b.emulator.ExtraFiles = []*os.File{theirs, m.disk}
	b.emulator.Stdout, b.emulator.Stderr = b.console, b.console
	b.emulator.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setsid:    true, // ^C at the terminal reaches the tests and not the machine
	}
	if err := b.emulator.Start(); err != nil {
		ours.Close()
		return err
	}
	go func() {
		b.emulator.Wait()
		ours.Close()
		close(b.done)
	}()
	up := make(chan struct{})
	go b.receive(up)
	m.boot = b
	timer := time.NewTimer(bootDeadline)
	defer timer.Stop()
	select {
	case <-up:
		return nil
	case <-b.done:
		err = errors.New("the emulator ended")
	case <-timer.C:
		err = fmt.Errorf("no answer after %s", bootDeadline)
	}
	m.kill()
	return fmt.Errorf("%w; its console:\n%s", err, b.console.tail())
}

// receive hands out what the agent sends until there is no more; up is closed when it says hello.
func (b *boot) receive(up chan struct{}) {
	for {
		f, err := b.conn.Receive()
		if err != nil {
			break
		}
		if f.Kind == wire.Hello {
			close(up)
			continue
		}
		b.mu.Lock()
		p := b.commands[f.ID]
		if f.Kind == wire.Ended {
			delete(b.commands, f.ID)
		}
		b.mu.Unlock()
		if p == nil {
			continue
		}
		switch f.Kind {
		case wire.Output:
			p.out.Write(f.Data)
		case wire.Error:
			p.errs.Write(f.Data)
		case wire.Ended:
			p.end(f.Code, string(f.Data))
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.commands {
		p.end(-1, "the machine is off")
	}
	b.commands = nil
}

// kill ends the emulator where it stands.
func (m *Machine) kill() {
	if m.boot != nil {
		m.boot.emulator.Process.Kill()
		<-m.boot.done
	}
}

// PowerCut ends the machine where it stands, and boots it again over the same disk: what was written but not synced is
// lost. It returns how long the boot took.
func (m *Machine) PowerCut(t ring.TB) time.Duration {
	t.Helper()
	m.kill()
	return m.PowerOn(t)
}

// Reboot boots the machine again in an orderly way, and returns how long it took to go down and come up.
func (m *Machine) Reboot(t ring.TB) (down, up time.Duration) {
	t.Helper()
	return m.down(t, "reboot"), m.PowerOn(t)
}

// Shutdown switches the machine off in an orderly way, and returns how long that took.
func (m *Machine) Shutdown(t ring.TB) time.Duration {
	t.Helper()
	return m.down(t, "poweroff")
}

func (m *Machine) down(t ring.TB, verb string) time.Duration {
	t.Helper()
	began := time.Now()
	if _, err := m.boot.start(nil, nil, "systemctl", "--no-wall", verb); err != nil {
		t.Fatalf("cannot %s %s: %v", verb, m.Suite, err)
	}
	timer := time.NewTimer(commandDeadline)
	defer timer.Stop()
	select {
	case <-m.boot.done:
	case <-timer.C:
		t.Fatalf("cannot %s %s: still up after %s; its console:\n%s", verb, m.Suite, commandDeadline, m.boot.console.tail())
	}
	if got := m.boot.emulator.ProcessState.ExitCode(); got != 0 {
		t.Fatalf("cannot %s %s: the emulator ended with status %d; its console:\n%s", verb, m.Suite, got, m.boot.console.tail())
	}
	return time.Since(began)
}

// report logs what explains a failed test: the console, and the units of left4 and their journal.
func (m *Machine) report(t ring.TB) {
	if m.boot == nil {
		return
	}
	t.Logf("%s, console:\n%s", m.Suite, m.boot.console.tail())
	select {
	case <-m.boot.done:
		return
	default:
	}
	units := m.Try("systemctl", "list-units", "--all", "--no-pager", "left4*")
	journal := m.Try("journalctl", "--no-pager", "--output=short-precise", "--lines=200", "--unit=left4*", "--unit=polkit.service")
	t.Logf("%s, units:\n%s%s\n%s, journal:\n%s%s", m.Suite, units.Out, units.Err, m.Suite, journal.Out, journal.Err)
}

// Bus returns a connection of root to the machine's system bus, without descriptors; it ends with the test, or with the
// machine's boot.
func (m *Machine) Bus(t ring.TB) *dbus.Conn {
	t.Helper()
	out, feed := io.Pipe()
	p, err := m.boot.start(feed, nil, agent, "dial", "/run/dbus/system_bus_socket")
	if err != nil {
		t.Fatalf("cannot reach the bus of %s: %v", m.Suite, err)
	}
	go func() {
		<-p.done
		feed.Close()
	}()
	conn, err := dbus.NewConn(bus{p, out}, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err == nil {
		if err = conn.Auth([]dbus.Auth{dbus.AuthExternal("0")}); err == nil {
			err = conn.Hello()
		}
	}
	if err != nil {
		t.Fatalf("cannot reach the bus of %s: %v", m.Suite, err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

type bus struct {
	*Process
	out *io.PipeReader
}

func (b bus) Read(p []byte) (int, error) { return b.out.Read(p) }

func (b bus) Close() error {
	b.CloseInput()
	return b.out.Close()
}

// Signals collects signals from now on. Nothing that a later call causes is missed.
func (m *Machine) Signals(t ring.TB, match ...dbus.MatchOption) *ring.Signals {
	t.Helper()
	return ring.Collect(t, m.Suite, m.Bus(t), match...)
}

// A Process is a command that runs in the machine.
type Process struct {
	boot      *boot
	id        uint32
	out, errs io.Writer

	done chan struct{} // closed when it has ended
	code int
	why  string // code is -1
}

func (p *Process) end(code int, why string) {
	p.code, p.why = code, why
	close(p.done)
}

// Write gives the command something to read.
func (p *Process) Write(b []byte) (int, error) {
	return wire.Writer{Conn: p.boot.conn, ID: p.id, Kind: wire.Input}.Write(b)
}

// CloseInput says that there is no more.
func (p *Process) CloseInput() { p.boot.conn.Send(wire.Frame{ID: p.id, Kind: wire.InputEnd}) }

// Kill ends the command and those that it started.
func (p *Process) Kill() { p.boot.conn.Send(wire.Frame{ID: p.id, Kind: wire.Kill}) }

// start starts a command whose output goes to out and errs, if they are not nil.
func (b *boot) start(out, errs io.Writer, argv ...string) (*Process, error) {
	p := &Process{boot: b, out: out, errs: errs, done: make(chan struct{})}
	if p.out == nil {
		p.out = io.Discard
	}
	if p.errs == nil {
		p.errs = io.Discard
	}
	b.mu.Lock()
	if b.commands == nil {
		b.mu.Unlock()
		return nil, errors.New("the machine is off")
	}
	b.last++
	p.id = b.last
	b.commands[p.id] = p
	b.mu.Unlock()
	return p, b.conn.Send(wire.Frame{ID: p.id, Kind: wire.Start, Argv: argv})
}

func (m *Machine) run(stdin io.Reader, argv ...string) ring.Result {
	var out, errs bytes.Buffer
	p, err := m.boot.start(&out, &errs, argv...)
	if err != nil {
		return ring.Result{Err: err.Error(), Code: -1}
	}
	if stdin != nil {
		_, err = io.Copy(p, stdin)
	}
	p.CloseInput()
	timer := time.NewTimer(commandDeadline)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.Kill()
		return ring.Result{Err: fmt.Sprintf("no end after %s", commandDeadline), Code: -1}
	}
	r := ring.Result{Out: out.String(), Err: errs.String(), Code: p.code}
	if p.code < 0 {
		r.Err += "\n" + p.why
	}
	if err != nil {
		r.Err += "\n" + err.Error()
	}
	return r
}

func (m *Machine) mustRun(t ring.TB, stdin io.Reader, argv ...string) string {
	t.Helper()
	r := m.run(stdin, argv...)
	if r.Code != 0 {
		t.Fatalf("%s: %s: exit status %d\n%s%s", m.Suite, strings.Join(argv, " "), r.Code, r.Out, r.Err)
	}
	return r.Out
}

// Run runs a command as root and returns what it printed, without the last newline; any exit status but 0 ends the test.
func (m *Machine) Run(t ring.TB, argv ...string) string {
	t.Helper()
	return strings.TrimSuffix(m.mustRun(t, nil, argv...), "\n")
}

// RunInput is Run with something to read on standard input.
func (m *Machine) RunInput(t ring.TB, stdin io.Reader, argv ...string) string {
	t.Helper()
	return strings.TrimSuffix(m.mustRun(t, stdin, argv...), "\n")
}

// Try runs a command as root and returns its result, whatever that is.
func (m *Machine) Try(argv ...string) ring.Result { return m.run(nil, argv...) }

// ReadFile returns the content of a file of the machine.
func (m *Machine) ReadFile(t ring.TB, name string) string {
	t.Helper()
	return m.mustRun(t, nil, "cat", "--", name)
}

// WriteFile writes a file of the machine, owned by root, and makes the directories that it needs.
func (m *Machine) WriteFile(t ring.TB, name, content string, mode os.FileMode) {
	t.Helper()
	m.put(t, strings.NewReader(content), name, mode)
}

// CopyIn copies a file of the host into the machine, owned by root with its mode kept.
func (m *Machine) CopyIn(t ring.TB, hostName, name string) {
	t.Helper()
	f, err := os.Open(hostName)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatalf("%v", err)
	}
	m.put(t, f, name, info.Mode())
}

func (m *Machine) put(t ring.TB, content io.Reader, name string, mode os.FileMode) {
	t.Helper()
	m.mustRun(t, content, "sh", "-ec", `install -D --mode="$1" /dev/stdin "$2.new"; mv -T "$2.new" "$2"`, "sh", fmt.Sprintf("%04o", mode.Perm()), name)
}

// output is text that grows.
type output struct {
	mu   sync.Mutex
	text []byte
	more chan struct{} // gets something when it has grown
}

// grows returns a channel that tells when there is more, from before the first Write on.
func (o *output) grows() <-chan struct{} {
	o.more = make(chan struct{}, 1)
	return o.more
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, b...)
	select {
	case o.more <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// tail returns the last lines.
func (o *output) tail() string {
	lines := strings.SplitAfter(o.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "")
}
