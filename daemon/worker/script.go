package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

// statusMark begins a line by which a script says in its own words what it is at.
const statusMark = "::status "

// prelude runs the script, which is $0, and tells the line of a command whose failure ends it, by a descriptor that no script uses. Sourced,
// it has the messages that it would have as bash's own file.
const prelude = `exec 250>&3 3>&-; trap '[[ $- != *e* ]] || printf "%s\n" "$LINENO" >&250' ERR; . "$0"`

// script runs the text of an order with bash. Its process sees no other one and ends with all that it has started.
type script struct {
	order  order.Script
	temp   string // a directory of its own for the script's temporary files
	getenv func(string) string
	out    io.Writer
	note   func(text string)
	// alone makes the calling thread's children be by themselves; nil = they are not, for tests.
	alone func() error

	output
}

// output is what the script has printed.
type output struct {
	mu      sync.Mutex
	lines   int
	shown   int    // bytes that went to the journal
	last    string // line of its output that is not empty
	line    string // number of the line of the command that has failed; "" = not known
	said    string // by itself; "" = nothing so far
	pending bool   // a note will be sent
	noted   time.Time
	over    bool
}

func runScript(w *worker) (outcome, error) {
	s := &script{temp: os.TempDir(), getenv: w.getenv, out: w.stderr, note: w.note, alone: alone}
	// At the first child package os starts another one, to find out what the kernel can. In alone that would be the first process of the
	// namespace, and with its end nobody else could come.
	if err := exec.Command("/bin/true").Run(); err != nil {
		return outcome{}, err
	}
	if err := order.Read(w.stdin, &s.order); err != nil {
		return outcome{}, usageError{fmt.Errorf("the order cannot be read: %w", err)}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if !s.order.Private {
		if err := privateIsBarred(); err != nil {
			return outcome{}, err
		}
	}
	return s.build(ctx)
}

// build works in the current directory, which is empty.
func (s *script) build(ctx context.Context) (outcome, error) {
	// Opened before the script can take its mode away.
	root, err := unix.Open(".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return outcome{}, err
	}
	defer unix.Close(root)
	if s.order.Base != "" {
		s.note(status.Step(-1, "copying the current revision"))
		if err := s.copyBase(ctx, root); err != nil {
			return outcome{}, fullDisk(err)
		}
	}
	s.note(status.Step(-1, "the script runs"))
	if err := s.run(ctx); err != nil {
		return outcome{}, err
	}
	s.note(status.Step(-1, "looking at what it made"))
	made := crop{root: root}
	if err := made.take(ctx); err != nil {
		return outcome{}, fullDisk(err)
	}
	fmt.Fprintf(s.out, "left4-worker: the script made %d files, %d bytes\n", made.files, made.bytes)
	o := outcome{files: made.files, bytes: made.bytes}
	if s.order.Base != "" {
		o.note = filepath.Base(s.order.Base)
	}
	return o, nil
}

func fullDisk(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errors.New("disk full")
	}
	return err
}

func (s *script) copyBase(ctx context.Context, root int) error {
	base, err := unix.Open(s.order.Base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the current revision cannot be read: %w", err)
	}
	defer unix.Close(base)
	return units.CopyFiles(ctx, base, root, func(files, bytes uint64) {
		s.note(status.Step(-1, fmt.Sprintf("copying the current revision: %d files, %d bytes", files, bytes)))
	})
}

// run returns when nothing of the script is left.
func (s *script) run(ctx context.Context) error {
	file, home := filepath.Join(s.temp, "script"), filepath.Join(s.temp, "home")
	err := os.WriteFile(file, []byte(s.order.Text), 0o400)
	if err == nil {
		err = os.Mkdir(home, 0o700)
	}
	if err != nil {
		return err
	}
	failed, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer failed.Close()
	defer tell.Close()
	// The command of a pipeline or function that fails is told of, and so are those around it.
	cmd := exec.Command("/bin/bash", "-eu", "-o", "pipefail", "-o", "errtrace", "-c", prelude, file)
	cmd.Env = []string{
		"HOME=" + home, "LANG=C.UTF-8", "LOGNAME=left4", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"SHELL=/bin/bash", "TERM=dumb", "TMPDIR=" + s.temp, "USER=left4",
	}
	for _, name := range []string{"LEFT4_JOB", "LEFT4_OVERLAY", "LEFT4_OVERLAY_ID"} {
		cmd.Env = append(cmd.Env, name+"="+s.getenv(name))
	}
	// One pipe for both, so that what was written first comes first.
	out := &lines{each: s.printed}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = s.wait(ctx, cmd, tell, failed)
	out.flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if err := ctx.Err(); err != nil {
		return errors.New("the script was stopped")
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	how := fmt.Sprintf("ended with status %d", exit.ExitCode())
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		how = "was killed by " + unix.SignalName(ws.Signal())
	}
	if s.line != "" {
		how += " in line " + s.line
	}
	if s.last != "" {
		how += ": " + s.last
	}
	return errors.New("the script " + how)
}

// wait starts the command on a thread that is used for nothing else after, and waits for its end.
func (s *script) wait(ctx context.Context, cmd *exec.Cmd, tell, failed *os.File) error {
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ended <- func() error {
			if s.alone != nil {
				if err := s.alone(); err != nil {
					return fmt.Errorf("a script cannot be run by itself: %w", err)
				}
			}
			if err := cmd.Start(); err != nil {
				return err
			}
			stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
			defer stop()
			tell.Close()
			read := make(chan struct{})
			go func() {
				defer close(read)
				l := &lines{each: func(text string) { s.line = text }}
				io.Copy(l, failed)
			}()
			err := cmd.Wait()
			<-read
			return err
		}()
	}()
	return <-ended
}

// printed takes a line that the script has written.
func (s *script) printed(text string) {
	if said, ok := strings.CutPrefix(text, statusMark); ok {
		s.say(func() { s.said = strings.TrimSpace(said) })
		return
	}
	s.say(func() {
		s.lines++
		if last := strings.TrimSpace(text); last != "" {
			s.last = last
		}
		// The journal is everybody's: what is new there drives out what is old.
		if s.shown > maxShown {
			return
		}
		if s.shown += len(text) + 1; s.shown > maxShown {
			text = fmt.Sprintf("left4: the script has printed more than %d MiB; no more of it is shown", maxShown>>20)
		}
		fmt.Fprintln(s.out, text)
	})
}

// say notes what has changed, now or soon.
func (s *script) say(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	if s.pending {
		return
	}
	s.pending = true
	time.AfterFunc(time.Until(s.noted.Add(noteEvery)), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pending, s.noted = false, time.Now()
		switch {
		case s.over: // its end was told
		case s.said != "":
			s.note(status.Step(-1, s.said))
		default:
			s.note(status.Step(-1, fmt.Sprintf("%d lines of output", s.lines)))
		}
	})
}

// privateIsBarred fails where a packet to this machine arrives. The manager says nothing where it cannot filter addresses, so we ask the
// kernel: what a filter holds back is EPERM to who sends it by UDP, at once.
func privateIsBarred() error {
	asked := false
	for _, address := range []string{"127.0.0.1", "::1"} {
		l, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0)))
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("it cannot be seen whether private networks are barred: %w", err)
		}
		_, err = l.WriteTo([]byte("left4"), l.LocalAddr())
		l.Close()
		switch {
		case err == nil:
			return errors.New("this machine does not keep a script from private networks: its kernel or its systemd cannot filter by address; " +
				"AllowPrivateNetworks=yes in left4d.conf lets scripts reach them")
		case !errors.Is(err, unix.EPERM):
			return fmt.Errorf("it cannot be seen whether private networks are barred: %w", err)
		}
		asked = true
	}
	if !asked {
		return errors.New("it cannot be seen whether private networks are barred: there is no loopback address")
	}
	return nil
}

// alone lets the calling thread's next child be the first process of its own, which can signal no other and whose end is that of all
// it has started, and gives up what that takes. What it does lasts as long as the thread.
func alone() error {
	if err := unix.Unshare(unix.CLONE_NEWPID); err != nil {
		return err
	}
	// What is not ambient any more goes when the child becomes another program; capset(2) is not open to a worker.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return scope()
}

// scope bars the sockets of others that lie in no directory, where the kernel knows how (6.12).
func scope() error {
	attr := struct{ fs, net, scoped uint64 }{scoped: unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return nil // an older kernel, or one without
	}
	defer unix.Close(int(fd))
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
