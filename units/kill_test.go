package units

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The tests here kill a process, as the power button does, before each of its system calls that change something, one after the other,
// and then look whether what is there is whole and whether doing it again ends well.

// changing are the system calls that leave something behind. Of those that open, only those that create are counted. What is not yet
// on the disk is no less there for a kill, so fsync changes nothing.
var changing = map[uint64]bool{
	unix.SYS_OPENAT: true, unix.SYS_MKDIRAT: true, unix.SYS_FCHMOD: true, unix.SYS_FCHOWN: true, unix.SYS_WRITE: true,
	unix.SYS_RENAMEAT: true, unix.SYS_RENAMEAT2: true, unix.SYS_UNLINKAT: true, unix.SYS_MOUNT: true,
	unix.SYS_UMOUNT2: true, unix.SYS_FSCONFIG: true, unix.SYS_FSMOUNT: true, unix.SYS_MOVE_MOUNT: true,
}

// startMark is a system call that nothing else here makes: from it on calls are counted.
const startMark = unix.SYS_GETSID

const victimKey, victimDir = "LEFT4_TEST_VICTIM", "LEFT4_TEST_DIR"

// TestVictim is what gets killed.
func TestVictim(t *testing.T) {
	do := victims[os.Getenv(victimKey)]
	if do == nil {
		return // nobody who kills it has started it
	}
	l := Layout{State: os.Getenv(victimDir) + "/state", Run: os.Getenv(victimDir) + "/run"}
	unix.Getsid(0)
	must(t, do(Mounter{Layout: l, UID: os.Getuid(), GID: os.Getgid()}))
}

var victims = map[string]func(m Mounter) error{
	"write":          func(m Mounter) error { _, err := m.Layout.WriteInstance("x", planB, cfgB); return err },
	"mount":          func(m Mounter) error { return m.Mount("x") },
	"mount old":      func(m Mounter) error { m.api = apiOld; return m.Mount("x") },
	"umount":         func(m Mounter) error { return m.Unmount("x") },
	"clone":          func(m Mounter) error { return m.Clone(context.Background(), "x", "y", io.Discard) },
	"removeInstance": func(m Mounter) error { return m.Layout.RemoveInstance("x") },
	"removeRuntime":  func(m Mounter) error { return m.Layout.RemoveRuntime("x") },
}

// killBefore runs a victim and kills it before its nth changing call. It is false when the victim ended well before that.
func killBefore(t *testing.T, victim, dir string, n int) (killed bool) {
	t.Helper()
	// Tracing belongs to a thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestVictim$")
	cmd.Env = append(os.Environ(), victimKey+"="+victim, victimDir+"="+dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	// Its status is taken by others here, so nothing else closes what os has open for it.
	defer cmd.Process.Release()
	pid := cmd.Process.Pid
	var ws unix.WaitStatus
	_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
	must(t, err)
	must(t, unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL))
	must(t, unix.PtraceSyscall(pid, 0))

	counting, count := false, 0
	for {
		thread, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if err == unix.EINTR {
			continue
		}
		must(t, err)
		if !ws.Stopped() {
			if thread != pid {
				continue
			}
			if killed && ws.Signaled() {
				_ = cmd.Wait() // its status is taken; this only ends the copying of its output
				return true
			}
			_ = cmd.Wait()
			if ws.ExitStatus() != 0 {
				t.Fatalf("%s: %#x\n%s", victim, ws, out.String())
			}
			return false
		}
		signal := 0
		switch s := ws.StopSignal(); {
		case s == unix.SIGTRAP|0x80:
			if call, args, ok := entered(thread); ok && !killed {
				counting = counting || call == startMark
				if counting && changing[call] && (call != unix.SYS_OPENAT || args[2]&unix.O_CREAT != 0) {
					count++
				}
				if count == n {
					killed = true
					must(t, unix.Kill(pid, unix.SIGKILL))
				}
			}
		case s == unix.SIGTRAP, s == unix.SIGSTOP: // a clone, and its first stop
		default:
			signal = int(s)
		}
		if err := unix.PtraceSyscall(thread, signal); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
	}
}

// entered is the system call that a stopped thread is about to make.
func entered(thread int) (call uint64, args [6]uint64, ok bool) {
	const getSyscallInfo = 0x420e // PTRACE_GET_SYSCALL_INFO, the same on all architectures
	var info struct {
		op   uint8
		_    [3]uint8
		arch uint32
		_    [2]uint64
		call uint64
		args [6]uint64
		_    uint64
	}
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(thread), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	return info.call, info.args, errno == 0 && info.op == 1
}

// killEverywhere kills a victim at each of its steps. prepare makes what it starts from, check looks at what it left.
func killEverywhere(t *testing.T, victim, dir string, prepare, check func(t *testing.T, m Mounter)) {
	m := Mounter{Layout: testLayout(t, dir), UID: os.Getuid(), GID: os.Getgid()}
	for n := 1; ; n++ {
		prepare(t, m)
		killed := killBefore(t, victim, dir, n)
		check(t, m)
		if t.Failed() {
			t.Fatalf("%s was killed before step %d", victim, n)
		}
		if !killed {
			if n < 3 {
				t.Fatalf("%s has %d steps, so they were not seen", victim, n-1)
			}
			t.Logf("%s was killed at %d steps", victim, n-1)
			return
		}
	}
}

// memoryDir is a directory in memory: hundreds of mounts on a disk take minutes.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir := diskDir(t)
	must(t, unix.Mount("none", dir, "tmpfs", 0, ""))
	t.Cleanup(func() {
		unmountBelow(t, dir)
		must(t, unix.Unmount(dir, 0))
	})
	return dir
}

func TestKilledWriting(t *testing.T) {
	killEverywhere(t, "write", t.TempDir(), func(t *testing.T, m Mounter) { m.write(t, planA, cfgA) }, func(t *testing.T, m Mounter) {
		p, cfg, err := m.Layout.ReadInstance("x")
		must(t, err)
		want := map[string]map[string][]byte{"aa": cfgA, "bb": cfgB}[p.Digest]
		if !maps.EqualFunc(cfg, want, bytes.Equal) {
			t.Errorf("plan %s with %q", p.Digest, cfg)
		}
		m.write(t, planB, cfgB)
		checkInstance(t, m.Layout, planB, cfgB)
		if got := listDir(t, m.Layout.State+"/instances"); got != "x" {
			t.Errorf("left: %s", got)
		}
	})
}

func TestKilledRemoving(t *testing.T) {
	killEverywhere(t, "removeInstance", t.TempDir(), func(t *testing.T, m Mounter) { m.write(t, planA, cfgA) }, func(t *testing.T, m Mounter) {
		if _, _, err := m.Layout.ReadInstance("x"); err == nil {
			checkInstance(t, m.Layout, planA, cfgA)
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		must(t, m.Layout.RemoveInstance("x"))
		if got := listDir(t, m.Layout.State+"/instances"); got != "" {
			t.Errorf("left: %s", got)
		}
	})

	wrote := []string{"upper/left4dead2/cfg/server.cfg", "upper/a/b/c/d", "work/index/x", "staged"}
	killEverywhere(t, "removeRuntime", t.TempDir(), func(t *testing.T, m Mounter) {
		for _, name := range wrote {
			putFile(t, m.Layout.State+"/runtime/x/"+name, "x")
		}
	}, func(t *testing.T, m Mounter) {
		// Whole or not there: a server must not start on half of its files.
		if _, err := os.Lstat(m.Layout.State + "/runtime/x"); err == nil {
			for _, name := range wrote {
				getFile(t, m.Layout.State+"/runtime/x/"+name)
			}
		}
		must(t, m.Layout.RemoveRuntime("x"))
		if got := listDir(t, m.Layout.State+"/runtime"); got != "" {
			t.Errorf("left: %s", got)
		}
	})
}

func TestKilledMounting(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, victim := range []string{"mount", "mount old"} {
		killEverywhere(t, victim, memoryDir(t), func(t *testing.T, m Mounter) {
			must(t, m.Layout.RemoveRuntime("x"))
			putFile(t, m.Layout.State+"/game/3/left4dead2/cfg/server_overlay_1.cfg", "of the layer")
			m.write(t, planA, cfgA)
			must(t, m.Mount("x"))
			must(t, m.Unmount("x"))
			m.write(t, planB, cfgB)
			// What an earlier mount left must not be taken for the digest of this one.
			putFile(t, m.Layout.Run+"/mounted/x", "stale\n")
		}, func(t *testing.T, m Mounter) {
			digest, mounted, err := m.Layout.Mounted("x")
			must(t, err)
			if mounted && digest != "" && digest != "bb" {
				t.Errorf("mounted from %q", digest)
			}
			must(t, m.Mount("x"))
			if n := len(m.mountedAt(t)); n != 1 {
				t.Errorf("%d mounts", n)
			}
			cfg := m.Layout.State + "/runtime/x/merged/left4dead2/cfg"
			want := append(slices.Sorted(maps.Keys(cfgB)), "server_overlay_1.cfg")
			slices.Sort(want)
			if got := listDir(t, cfg); got != strings.Join(want, " ") {
				t.Errorf("cfg holds %s, want %s", got, want)
			}
			if got := getFile(t, cfg+"/server.cfg") + getFile(t, cfg+"/server_overlay_1.cfg"); got != "b\nof the layer" {
				t.Errorf("cfg says %q", got)
			}
			must(t, m.Unmount("x"))
			if n, got := len(m.mountedAt(t)), listDir(t, m.Layout.State+"/runtime/x"); n != 0 || got != "merged staged upper work" {
				t.Errorf("left: %d mounts, %s", n, got)
			}
		})
	}
}

func TestKilledUnmounting(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	killEverywhere(t, "umount", memoryDir(t), func(t *testing.T, m Mounter) {
		m.write(t, planA, cfgA)
		must(t, m.Mount("x"))
	}, func(t *testing.T, m Mounter) {
		must(t, m.Unmount("x"))
		if n := len(m.mountedAt(t)); n != 0 {
			t.Errorf("%d mounts", n)
		}
		if _, err := os.Lstat(m.Layout.Run + "/mounted/x"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the digest stayed: %v", err)
		}
	})
}
