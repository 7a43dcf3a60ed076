package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/status"
)

// endWithin is what a program that was told to end gets before it is killed. It is well below what systemd gives the worker.
const endWithin = 5 * time.Second

var errSilent = errors.New("silent")

// run runs a program to its end, tells how far it is and gives each of its lines, trimmed, to line. When it returns, neither the program nor anything
// that it has started is left.
func (in *installer) run(program, path string, args []string, what string, line func(string)) *failure {
	in.w.note(status.Step(-1, what))
	fmt.Fprintf(in.w.stderr, "left4-worker: %s %s\n", path, strings.Join(args, " "))

	ctx, cancel := context.WithCancelCause(in.ctx)
	defer cancel(nil)
	silence := time.AfterFunc(in.Silence, func() { cancel(errSilent) })
	defer silence.Stop()

	var found *failure
	last := ""
	show := shower{to: in.w.stderr}
	tell := teller{what: what, note: func(fraction float64, text string) { in.w.note(status.Step(fraction, text)) }}
	out := &lines{heard: func() { silence.Reset(in.Silence) }, each: func(text string) {
		show.show(text)
		last = strings.TrimSpace(text)
		tell.line(text)
		if found == nil {
			found = failureOf(program, last)
		}
		line(last)
	}}

	from, to, err := in.openOutput(program)
	if err != nil {
		return &failure{program: program, class: classUnknown, cause: "its output cannot be read: " + err.Error()}
	}
	defer from.Close()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = in.Home // what it writes beside its work is not part of the game
	cmd.Env = in.environment()
	cmd.Stdout, cmd.Stderr = to, to
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = endWithin
	err = cmd.Start()
	to.Close()
	if err == nil {
		heard := make(chan struct{})
		go func() {
			defer close(heard)
			_, _ = io.Copy(out, from) // a terminal ends in an error when nobody has it open any more
		}()
		err = cmd.Wait()
		endChildren()
		<-heard
	}
	out.flush()

	fail := &failure{program: program, retry: true}
	var exit *exec.ExitError
	switch {
	case err == nil, in.ctx.Err() != nil:
		return found
	case context.Cause(ctx) == errSilent:
		fail.class, fail.cause = classHang, fmt.Sprintf("it hung: it has said nothing for %s", in.Silence)
	case found != nil:
		return found
	case !errors.As(err, &exit):
		fail.class, fail.cause, fail.retry = classProgram, "it cannot be run: "+bare(err).Error(), false
	default:
		fail.class, fail.cause = exited(exit.Sys().(syscall.WaitStatus))
		if last != "" {
			fail.cause += fmt.Sprintf("; the last that it said: %q", last)
		}
	}
	return fail
}

// openOutput makes what a program writes to and where that is read.
//
// SteamCMD keeps what it writes for itself until it has 4096 bytes of it, unless it writes to a terminal
// (github.com/GameServerManagers/LinuxGSM/issues/3655, github.com/ValveSoftware/Source-1-Games/issues/1929): for minutes a
// download would look like one that hangs.
func (in *installer) openOutput(program string) (from, to *os.File, err error) {
	if program == steamProgram {
		if from, to, err = openTerminal(); err == nil {
			return from, to, nil
		}
		fmt.Fprintf(in.w.stderr, "left4-worker: there is no terminal for %s, and the progress will come late: %v\n", program, err)
	}
	return os.Pipe()
}

// openTerminal opens both ends of a new terminal.
func openTerminal() (from, to *os.File, err error) {
	if from, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			from.Close()
		}
	}()
	raw, err := from.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	if e := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err != nil {
			return
		}
		// Wide enough for whoever breaks lines at its edge.
		if err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 500}); err != nil {
			return
		}
		other, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			err = errno
			return
		}
		to = os.NewFile(other, "terminal")
	}); e != nil {
		err = e
	}
	return from, to, err
}

// exited says how a program ended that did not say why.
func exited(how syscall.WaitStatus) (class, string) {
	signal := unix.Signal(0)
	switch {
	case how.Signaled():
		signal = how.Signal()
	case how.ExitStatus() > 128 && how.ExitStatus() <= 128+64: // as a shell puts it
		signal = unix.Signal(how.ExitStatus() - 128)
	default:
		return classUnknown, fmt.Sprintf("it ended with status %d", how.ExitStatus())
	}
	return classCrash, fmt.Sprintf("it crashed (%s)", signalName(signal))
}

func signalName(signal unix.Signal) string {
	if name := unix.SignalName(signal); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(signal))
}

// bare is the reason in an error of os or os/exec, without the path.
func bare(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// environment is what programs get: nothing of the worker's own, so that none speaks to the service manager in its name.
func (in *installer) environment() []string {
	return []string{
		"HOME=" + in.Home,
		"PATH=/usr/local/bin:/usr/bin:/bin:/usr/games",
		"LANG=C.UTF-8", "LC_ALL=C.UTF-8", // SteamCMD and bash say things in other languages too
		"DOTNET_BUNDLE_EXTRACT_BASE_DIR=" + filepath.Join(in.Home, ".net"),
		"DOTNET_EnableDiagnostics=0", // or it leaves a socket in /tmp
	}
}

// endChildren ends all that a program has left behind. As the worker is the reaper of what is below it, whoever loses its parent
// becomes its child. There must be no other child of this process.
func endChildren() {
	for {
		pids := children()
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // it may be gone
		}
		for _, pid := range pids {
			for {
				if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
					break
				}
			}
		}
		// What they had started is here now.
		if len(pids) == 0 {
			return
		}
	}
}

// children are the processes whose parent this one is.
func children() []int {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	self := []byte(strconv.Itoa(os.Getpid()))
	var found []int
	for _, name := range names {
		stat, err := os.ReadFile(filepath.Join(name, "stat"))
		if err != nil {
			continue
		}
		// pid (name) state parent …: the name is the process's own choice.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) > 1 && bytes.Equal(fields[1], self) {
			if pid, err := strconv.Atoi(filepath.Base(name)); err == nil {
				found = append(found, pid)
			}
		}
	}
	return found
}
