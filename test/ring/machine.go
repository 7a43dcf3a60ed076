// Package ring boots whole Debian systems for tests: systemd as PID 1, the bus, polkit, the journal, overlayfs, and
// left4 installed from its package. A machine boots in about a second and is thrown away, so every test has its own.
//
// It works as root wherever systemd-nspawn does, whether or not the host runs systemd and whatever its cgroups are.
// A machine lives in a mount and a process namespace of its own; the host never sees its mounts, and the kernel ends
// all of it with the process that booted it, however that one ends. What is left then is a directory in the cache,
// which the next run removes.
//
// The root directory of a machine is an overlay; /var/lib is a directory of the host's file system instead, since the
// overlays that left4 mounts below /var/lib/left4 cannot lie on another overlay.
package ring

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A machine that is not up, down or through with a command by then never will be.
const (
	bootDeadline    = 3 * time.Minute
	commandDeadline = 5 * time.Minute
)

// A Machine is one booted system. Its methods may be called from several goroutines, but for those that boot it again.
type Machine struct {
	Suite string

	root    *root
	id      string
	dir     string // upper, work and root of the overlay, lib = its /var/lib, console
	lock    *os.File
	cgroups []string

	boot *boot
}

// A boot is one run of a machine, from power on to power off.
type boot struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when nothing of the machine runs any more
	err  error         // of cmd.Wait, after done
	init int           // the machine's PID 1 as the host numbers it
}

// The script runs as PID 1 of a process namespace, in a mount namespace of its own, in the machine's directory.
// Its arguments: the lower layers, then the cgroups of the machine. Without these two machines would share
// one, and each systemd would take the other's processes for its own.
const bootScript = `
set -e
lower=$1; shift
mount --make-rprivate /
mount -t proc proc /proc
for cgroup; do echo 0 >"$cgroup/cgroup.procs"; done
options=index=off,metacopy=off,redirect_dir=off,xino=off
mount -t overlay -o "lowerdir=$lower,upperdir=upper,workdir=work,$options" left4-ring root
: >root/etc/machine-id
exec systemd-nspawn --quiet --boot --directory=root --bind="$PWD/lib:/var/lib" \
	--register=no --keep-unit --settings=no --private-network --resolv-conf=off --timezone=off --link-journal=no \
	--console=pipe --notify-ready=yes --system-call-filter=bpf --kill-signal=SIGRTMIN+3
`

// newMachine makes the directories of a machine over a root, which must be held until it is destroyed.
func newMachine(r *root) (*Machine, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	run := filepath.Join(cache, "run")
	if err := os.MkdirAll(run, 0o755); err != nil {
		return nil, err
	}
	making, err := lockRun(run)
	if err != nil {
		return nil, err
	}
	defer making.Close()
	sweepOnce.Do(func() { sweep(run) })

	dir, err := os.MkdirTemp(run, "")
	if err != nil {
		return nil, err
	}
	m := &Machine{Suite: r.suite, root: r, id: filepath.Base(dir), dir: dir}
	if m.lock, err = flock(dir, unix.LOCK_EX); err != nil {
		return nil, err
	}
	err = func() error {
		for _, name := range []string{"upper", "work", "root"} {
			// The root directory of the overlay has the mode of its highest layer.
			if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
				return err
			}
		}
		if err := copyTree(r.lib, filepath.Join(dir, "lib")); err != nil {
			return err
		}
		m.cgroups, err = makeCgroups(cgroupPrefix + m.id)
		return err
	}()
	if err != nil {
		return nil, errors.Join(err, m.destroy())
	}
	return m, nil
}

var sweepOnce sync.Once

// lockRun keeps all others from making machines in the directory run, and from sweeping it, until the file is closed.
func lockRun(run string) (*os.File, error) {
	return flock(filepath.Join(filepath.Dir(run), ".run.lock"), unix.LOCK_EX)
}

// sweep removes what is left of machines whose process was killed. It needs lockRun: a machine that is being made has
// no lock of its own yet, and one that another sweep is removing looks as if it were in use.
func sweep(run string) {
	entries, _ := os.ReadDir(run)
	for _, e := range entries {
		dir := filepath.Join(run, e.Name())
		if lock, err := flock(dir, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			os.RemoveAll(dir)
			lock.Close()
		}
	}
	parents, _ := ownCgroups()
	for _, parent := range parents {
		cgroups, _ := filepath.Glob(filepath.Join(parent, cgroupPrefix+"*"))
		for _, cgroup := range cgroups {
			id := strings.TrimPrefix(filepath.Base(cgroup), cgroupPrefix)
			if _, err := os.Stat(filepath.Join(run, id)); errors.Is(err, os.ErrNotExist) {
				removeCgroup(cgroup)
			}
		}
	}
}

const cgroupPrefix = "left4-ring-"

// start boots the machine and returns when its systemd says that the boot is complete.
func (m *Machine) start() error {
	if err := m.power(); err != nil {
		return fmt.Errorf("cannot boot %s: %w", m.Suite, err)
	}
	return nil
}

func (m *Machine) power() error {
	// An abstract name: it needs no directory and is short enough whatever the cache is called.
	address := "@left4-ring-" + m.id
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer notify.Close()
	console, err := os.OpenFile(filepath.Join(m.dir, "console"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()

	b := &boot{done: make(chan struct{})}
	b.cmd = exec.Command("sh", "-c", bootScript, "boot", strings.Join(m.root.layers, ":"))
	b.cmd.Args = append(b.cmd.Args, m.cgroups...)
	b.cmd.Dir = m.dir
	b.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+address, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	b.cmd.Stdout, b.cmd.Stderr = console, console
	b.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true, // ^C at the terminal reaches the tests and not the machine
	}
	if err := b.cmd.Start(); errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("this machine does not let root make namespaces and mounts, as in a container without privileges (%w)", err)
	} else if err != nil {
		return err
	}
	go func() {
		b.err = b.cmd.Wait()
		close(b.done)
	}()

	ready := make(chan error, 1)
	go func() { ready <- awaitReady(notify) }()
	timer := time.NewTimer(bootDeadline)
	defer timer.Stop()
	select {
	case err = <-ready:
	case <-b.done:
		err = fmt.Errorf("systemd-nspawn ended: %w", b.err)
	case <-timer.C:
		err = fmt.Errorf("not up after %s", bootDeadline)
	}
	if err == nil {
		b.init, err = initOf(b.cmd.Process.Pid)
	}
	if err != nil {
		b.cmd.Process.Kill()
		<-b.done
		text, _ := os.ReadFile(console.Name())
		return fmt.Errorf("%w\n%s", err, tail(text, 60))
	}
	m.boot = b
	return nil
}

// awaitReady reads sd_notify messages until one says that the machine is up.
func awaitReady(notify *net.UnixConn) error {
	buf := make([]byte, 4096)
	for {
		n, err := notify.Read(buf)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return nil
			}
		}
	}
}

// initOf finds the machine's PID 1, as the host numbers it: the child of systemd-nspawn that is process 1 of its
// namespace.
func initOf(nspawn int) (int, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", nspawn, nspawn))
	if err != nil {
		return 0, fmt.Errorf("cannot find its PID 1: %w", err)
	}
	for _, child := range strings.Fields(string(children)) {
		status, _ := os.ReadFile("/proc/" + child + "/status")
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); f[0] == "NSpid:" && f[len(f)-1] == "1" {
				return strconv.Atoi(child)
			}
		}
	}
	return 0, errors.New("cannot find its PID 1: systemd-nspawn has no such child")
}

// What systemd-nspawn --keep-unit exits with after a reboot, in place of booting again.
const rebootStatus = 133

// shutDown ends the machine in an orderly way, by systemctl's verb, and returns when nothing of it runs any more.
func (m *Machine) shutDown(verb string, status int) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandDeadline)
	defer cancel()
	// It may well be killed with the machine before it can tell its result.
	go m.Command(ctx, "systemctl", "--no-wall", verb).Run()
	select {
	case <-m.boot.done:
	case <-ctx.Done():
		return fmt.Errorf("cannot %s %s: still up after %s", verb, m.Suite, commandDeadline)
	}
	if got := m.boot.cmd.ProcessState.ExitCode(); got != status {
		return fmt.Errorf("cannot %s %s: systemd-nspawn ended with status %d, not %d", verb, m.Suite, got, status)
	}
	return nil
}

// destroy ends the machine as it stands and removes everything of it.
func (m *Machine) destroy() error {
	if m.boot != nil {
		m.boot.cmd.Process.Kill()
		<-m.boot.done
	}
	err := os.RemoveAll(m.dir)
	for _, dir := range m.cgroups {
		err = errors.Join(err, removeCgroup(dir))
	}
	m.lock.Close()
	return err
}

// makeCgroups makes a cgroup of the name below our own, in each hierarchy that systemd uses.
func makeCgroups(name string) ([]string, error) {
	parents, err := ownCgroups()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, parent := range parents {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return dirs, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// ownCgroups returns the directories of our own cgroup: in the unified hierarchy, and in the one named systemd of a
// host with cgroups of version 1.
func ownCgroups() ([]string, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	path := map[string]string{} // by hierarchy: "" is the unified one
	for line := range strings.Lines(string(own)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			path[f[1]] = f[2]
		}
	}
	var dirs []string
	for line := range strings.Lines(string(mounts)) {
		// 36 35 98:0 /root /mount/point rw,noatime shared:1 - type source options
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		f, kind := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(kind) < 3 {
			continue
		}
		hierarchy := ""
		switch {
		case kind[0] == "cgroup" && strings.Contains(kind[2], "name=systemd"):
			hierarchy = "name=systemd"
		case kind[0] != "cgroup2":
			continue
		}
		if own, ok := path[hierarchy]; ok {
			below := strings.TrimPrefix(own, strings.TrimSuffix(f[3], "/"))
			if strings.HasPrefix(below, "/..") { // we came by nsenter, and our own is out of sight
				below = "/"
			}
			dirs = append(dirs, filepath.Join(f[4], below))
			delete(path, hierarchy) // mounted twice, it is still one hierarchy
		}
	}
	if len(dirs) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted that systemd can use")
	}
	return dirs, nil
}

// removeCgroup removes a cgroup without processes, and those below it.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeCgroup(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(err, os.Remove(dir))
}
