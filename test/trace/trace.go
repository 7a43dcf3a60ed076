//go:build linux && amd64

// Package trace stops a running program at the system calls by which it changes the world: files, mounts, and what it tells
// others over sockets. It counts them, in one order over all threads, and at a given one kills the program in its place or has
// it fail. So tests reach every point at which a crash or an error can part what belongs together, in the program as it is
// shipped, in its own sandbox: who traces it is outside.
//
// It knows the calls and registers of amd64 only.
package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Supported tells whether there is anything here for this machine.
const Supported = true

// Plan says which calls are numbered, from 1, and what is done at one of them.
type Plan struct {
	Counts func(Call) bool // nil = all
	At     int             // 0 = none of them is touched
	Errno  unix.Errno      // that it fails with; 0 = the program is killed, and the call is not made
	// Exec tells that the program is still to be executed by the process: nothing is numbered before that.
	Exec bool
}

// A Tracee is a program that is being traced.
type Tracee struct {
	plan Plan
	pid  int
	met  chan struct{} // closed at the call that the plan is about
	done chan struct{} // closed when nothing is traced any more

	mu    sync.Mutex
	calls []Call
	hit   bool
	stop  bool
	err   error

	// Of the tracing thread alone.
	threads map[int]*thread
	sockets map[string]bool // by /proc's name: a stream
	begun   bool
}

type thread struct {
	fail    bool // its call is one that fails
	leaving bool // it was asked to stop, to be let go
}

// work is done by threads of their own: the kernel knows a tracer by its thread. They are there before anything else, so that
// none of them ever was one that has started a program, whose end it would then take for a tracee's.
var work = make(chan func())

// atOnce is how many programs can be traced at the same time; further ones wait.
const atOnce = 4

func init() {
	for range atOnce {
		go func() {
			runtime.LockOSThread()
			for do := range work {
				do()
			}
		}()
	}
}

// Attach begins to trace a process and all its threads. It must not be traced already, nor be a child of this process: who
// waits for a child takes its tracer's news away.
func Attach(pid int, plan Plan) (*Tracee, error) {
	t := &Tracee{
		plan: plan, pid: pid, met: make(chan struct{}), done: make(chan struct{}),
		threads: map[int]*thread{}, sockets: map[string]bool{}, begun: !plan.Exec,
	}
	attached := make(chan error)
	work <- func() {
		defer close(t.done)
		err := t.seize()
		attached <- err
		if err == nil {
			t.follow()
		}
	}
	if err := <-attached; err != nil {
		return nil, fmt.Errorf("cannot trace process %d: %w", pid, err)
	}
	return t, nil
}

// Met is closed when the call that the plan is about was met.
func (t *Tracee) Met() <-chan struct{} { return t.met }

// Done is closed when the program has ended, or Detach has let it go.
func (t *Tracee) Done() <-chan struct{} { return t.done }

// Detach lets the program go, if it has not ended, and returns the calls that were numbered, the one that was met among them.
func (t *Tracee) Detach() ([]Call, error) {
	t.mu.Lock()
	t.stop = true
	t.mu.Unlock()
	// Only a tracee ends the tracer's wait; this signal means nothing to a Go program, nor to one that does not know it.
	unix.Tgkill(t.pid, t.pid, unix.SIGURG)
	<-t.done
	return t.calls, t.err
}

const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEEXEC

func ptrace(request, pid int, addr, data uintptr) error {
	_, _, e := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), addr, data, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// seize attaches to all threads; those that begin meanwhile are found by looking again.
func (t *Tracee) seize() error {
	for {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", t.pid))
		if err != nil {
			return err
		}
		found := false
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil || t.threads[tid] != nil {
				continue
			}
			switch err := ptrace(unix.PTRACE_SEIZE, tid, 0, options); {
			case err == nil:
			case errors.Is(err, unix.ESRCH) && tid != t.pid: // it has ended
				continue
			case errors.Is(err, unix.EPERM) && len(t.threads) > 0: // begun by one that is traced, and so traced as well
			default:
				return err
			}
			t.threads[tid] = &thread{}
			found = true
			// Its calls are seen once it has stopped and was let go on so.
			if err := ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if !found {
			return nil
		}
	}
}

// follow lets each thread go on from stop to stop, until there is none left.
func (t *Tracee) follow() {
	defer func() {
		for tid := range t.threads { // there are some only after an error
			ptrace(unix.PTRACE_DETACH, tid, 0, 0)
		}
	}()
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECHILD:
			return
		case err != nil:
			t.fail(fmt.Errorf("cannot wait for process %d: %w", t.pid, err))
			return
		}
		if status.Exited() || status.Signaled() {
			delete(t.threads, tid)
			continue
		}
		th := t.threads[tid]
		if th == nil {
			th = &thread{}
			t.threads[tid] = th
		}
		t.mu.Lock()
		stop := t.stop
		t.mu.Unlock()
		signal := uintptr(0)
		request := unix.PTRACE_SYSCALL
		switch event := int(status) >> 16; {
		case status.StopSignal() == unix.SIGTRAP|0x80:
			if t.syscall(tid, th, stop) {
				return
			}
		case event == unix.PTRACE_EVENT_EXEC:
			t.begun = true
		case event == unix.PTRACE_EVENT_STOP && status.StopSignal() != unix.SIGTRAP:
			request = unix.PTRACE_LISTEN // it was stopped by a signal, and stays so
		case event == 0:
			signal = uintptr(status.StopSignal())
		}
		if stop && !th.fail {
			if err := ptrace(unix.PTRACE_DETACH, tid, 0, signal); err == nil {
				delete(t.threads, tid)
			}
			for other, th := range t.threads {
				if !th.leaving {
					th.leaving = true
					ptrace(unix.PTRACE_INTERRUPT, other, 0, 0)
				}
			}
			continue
		}
		// One that was killed meanwhile says so itself.
		if err := ptrace(request, tid, 0, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			t.fail(fmt.Errorf("cannot let thread %d go on: %w", tid, err))
			return
		}
	}
}

func (t *Tracee) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = errors.Join(t.err, err)
}

// information is what PTRACE_GET_SYSCALL_INFO tells, see ptrace(2).
type information struct {
	op   uint8
	_    [3]uint8
	arch uint32
	_    [2]uint64 // instruction and stack pointers
	nr   uint64    // the result, after the call
	args [6]uint64
	_    [4]uint64
}

const (
	getSyscallInfo = 0x420e
	atEntry        = 1
	atExit         = 2
)

// syscall looks at the call that a thread has come to, or from.
func (t *Tracee) syscall(tid int, th *thread, stopping bool) (failed bool) {
	var info information
	if err := ptrace(getSyscallInfo, tid, unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info))); err != nil {
		return t.gone(tid, "look at its call", err)
	}
	switch {
	case info.op == atExit && th.fail:
		th.fail = false
		return t.set(tid, func(r *unix.PtraceRegs) { r.Rax = uint64(-int64(t.plan.Errno)) })
	case info.op != atEntry || !t.begun || stopping || t.hit && t.plan.Errno == 0:
		return false
	}
	call, changes := t.describe(tid, int(info.nr), info.args)
	if !changes || t.plan.Counts != nil && !t.plan.Counts(call) {
		return false
	}
	t.mu.Lock()
	t.calls = append(t.calls, call)
	now := len(t.calls) == t.plan.At
	if now {
		t.hit = true
	}
	t.mu.Unlock()
	if !now {
		return false
	}
	// No call has this number, so none is made.
	if t.set(tid, func(r *unix.PtraceRegs) { r.Orig_rax = ^uint64(0) }) {
		return true
	}
	if t.plan.Errno != 0 {
		th.fail = true
	} else if err := unix.Kill(t.pid, unix.SIGKILL); err != nil {
		t.fail(fmt.Errorf("cannot kill process %d: %w", t.pid, err))
	}
	close(t.met)
	return false
}

func (t *Tracee) set(tid int, change func(*unix.PtraceRegs)) (failed bool) {
	var regs unix.PtraceRegs
	err := unix.PtraceGetRegs(tid, &regs)
	if err == nil {
		change(&regs)
		err = unix.PtraceSetRegs(tid, &regs)
	}
	if err != nil {
		return t.gone(tid, "change its call", err)
	}
	return false
}

// gone tells an error from the end of a thread that somebody else has killed.
func (t *Tracee) gone(tid int, what string, err error) (failed bool) {
	if errors.Is(err, unix.ESRCH) {
		return false
	}
	t.fail(fmt.Errorf("thread %d: cannot %s: %w", tid, what, err))
	return true
}

// Hit tells whether the call that the plan is about was met.
func (t *Tracee) Hit() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hit
}

// memory reads up to n bytes; there may be fewer, up to the end of a page.
func memory(tid int, at uint64, n int) []byte {
	if n <= 0 || at == 0 {
		return nil
	}
	buf := make([]byte, n)
	for {
		local := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}
		got, err := unix.ProcessVMReadv(tid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(buf)}}, 0)
		if err == nil {
			return buf[:got]
		}
		// Not even a part is read of what goes over a page's end to one that is not there.
		const page = 4096
		rest := page - int(at%page)
		if rest >= len(buf) {
			return nil
		}
		buf = buf[:rest]
	}
}

func text(tid int, at uint64) string {
	b := memory(tid, at, unix.PathMax)
	text, _, _ := strings.Cut(string(b), "\x00")
	return text
}

// descriptor is what /proc calls an open file.
func descriptor(tid int, fd uint64) string {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(fd)))
	if err != nil {
		return "?"
	}
	return name
}

// at is a path, as seen from a directory's descriptor.
func at(tid int, dir uint64, path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	base := ""
	if int32(dir) == unix.AT_FDCWD {
		base, _ = os.Readlink(fmt.Sprintf("/proc/%d/cwd", tid))
	} else {
		base = descriptor(tid, dir)
	}
	if path == "" {
		return base
	}
	return base + "/" + path
}

// stream tells whether a descriptor is a stream socket: datagrams are for the journal, and for systemd's notifications.
func (t *Tracee) stream(tid int, name string) bool {
	inode, ok := strings.CutPrefix(name, "socket:[")
	if !ok {
		return false
	}
	inode = strings.TrimSuffix(inode, "]")
	if is, known := t.sockets[inode]; known {
		return is
	}
	table, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", tid))
	for line := range strings.Lines(string(table)) {
		// Num RefCount Protocol Flags Type St Inode Path
		if f := strings.Fields(line); len(f) > 6 && f[6] == inode {
			t.sockets[inode] = f[4] == "0001"
		}
	}
	return t.sockets[inode]
}

// sent are the first bytes of what a call writes.
func sent(tid int, nr int, args [6]uint64) []byte {
	const enough = 2048
	vector := func(at, n uint64) (all []byte) {
		list := memory(tid, at, int(min(n, 16))*16)
		for ; len(list) >= 16 && len(all) < enough; list = list[16:] {
			size := binary.LittleEndian.Uint64(list[8:])
			all = append(all, memory(tid, binary.LittleEndian.Uint64(list), int(min(size, enough)))...)
		}
		return all
	}
	switch nr {
	case unix.SYS_WRITE, unix.SYS_SENDTO:
		return memory(tid, args[1], int(min(args[2], enough)))
	case unix.SYS_WRITEV:
		return vector(args[1], args[2])
	case unix.SYS_SENDMSG:
		if header := memory(tid, args[1], 32); len(header) == 32 {
			return vector(binary.LittleEndian.Uint64(header[16:]), binary.LittleEndian.Uint64(header[24:]))
		}
	}
	return nil
}
