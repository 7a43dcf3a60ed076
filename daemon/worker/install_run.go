package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	defer endChildren()

	ctx, cancel := context.WithCancelCause(in.ctx)
	defer cancel(nil)
	silence := time.AfterFunc(in.Silence, func() { cancel(errSilent) })
	defer silence.Stop()

	var found *failure
	last := ""
	show := shower{to: in.w.stderr}
	tell := teller{what: what, note: func(fraction float64, text string) { in.w.note(status.Step(fraction, text)) }}
	out := &lines{each: func(text string) {
		show.show(text)
		last = strings.TrimSpace(text)
		tell.line(text)
		if found == nil {
			found = failureOf(program, last)
		}
		line(last)
	}}

	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = in.Home // what it writes beside its work is not part of the game
	cmd.Env = in.environment()
	heard := writer(func(data []byte) (int, error) {
		silence.Reset(in.Silence)
		return out.Write(data)
	})
	cmd.Stdout, cmd.Stderr = &heard, &heard // the same, so that they come in order
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = endWithin
	err := cmd.Run()
	out.flush()

	fail := &failure{program: program, retry: true}
	var exit *exec.ExitError
	switch {
	case err == nil, in.ctx.Err() != nil, errors.Is(err, exec.ErrWaitDelay):
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

type writer func([]byte) (int, error)

func (w *writer) Write(data []byte) (int, error) { return (*w)(data) }

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
		"TMPDIR=" + in.Home,
		"DOTNET_BUNDLE_EXTRACT_BASE_DIR=" + filepath.Join(in.Home, ".net"),
		"DOTNET_EnableDiagnostics=0", // or it leaves a socket in TMPDIR
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
