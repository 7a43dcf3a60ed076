package ring

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"left4.me/left4/test/standin/gametree"
)

// TB is what the harness asks of a test: a *testing.T, or whatever else wants a machine.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Each runs a test once per suite named in LEFT4_RING ("bookworm,trixie"), each time in a fresh machine with left4
// installed, and in parallel with other tests. Without LEFT4_RING it skips, so that `go test ./...` needs no root;
// with it, a machine that cannot boot fails the test.
func Each(t *testing.T, test func(t *testing.T, m *Machine)) {
	t.Helper()
	eachSuite(t, func(t *testing.T, suite string) { test(t, Boot(t, suite)) })
}

// EachBare is Each without left4 installed.
func EachBare(t *testing.T, test func(t *testing.T, m *Machine)) {
	t.Helper()
	eachSuite(t, func(t *testing.T, suite string) { test(t, BootBare(t, suite)) })
}

// Once is Each in the last suite only, for what is large and the same in all.
func Once(t *testing.T, test func(t *testing.T, m *Machine)) {
	t.Helper()
	all := suites(t)
	inSuites(t, all[len(all)-1:], func(t *testing.T, suite string) { test(t, Boot(t, suite)) })
}

func eachSuite(t *testing.T, test func(t *testing.T, suite string)) {
	t.Helper()
	inSuites(t, suites(t), test)
}

// suites are those that LEFT4_RING names; without it the test skips.
func suites(t testing.TB) []string {
	t.Helper()
	names := os.Getenv("LEFT4_RING")
	if names == "" {
		t.Skip("boots machines, which LEFT4_RING allows: run sudo make test")
	}
	return strings.Split(names, ",")
}

func inSuites(t *testing.T, suites []string, test func(t *testing.T, suite string)) {
	t.Helper()
	t.Parallel()
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			test(t, suite)
		})
	}
}

// full tells that a test shall do all that it can and not a sample: make fault, make abuse.
func full() bool { return os.Getenv("LEFT4_FULL") != "" }

// Package returns the Debian package under test, which the Makefile names in LEFT4_DEB.
func Package(t TB) string {
	t.Helper()
	deb := os.Getenv("LEFT4_DEB")
	if deb == "" {
		t.Fatalf("LEFT4_DEB does not name the package to test: run sudo make test")
	}
	return deb
}

// Boot boots a machine of a suite with the package under test installed, and throws it away when the test ends.
func Boot(t TB, suite string) *Machine {
	t.Helper()
	r, err := packageRoot(suite, Package(t))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return bootRoot(t, r)
}

// BootBare boots a machine of a suite as Debian made it, without left4.
func BootBare(t TB, suite string) *Machine {
	t.Helper()
	r, err := baseRoot(suite)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return bootRoot(t, r)
}

func bootRoot(t TB, r *root) *Machine {
	t.Helper()
	t.Cleanup(r.release)
	m, err := newMachine(r)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			m.report(t)
		}
		if err := m.destroy(); err != nil {
			t.Logf("cannot remove the machine: %v", err)
		}
	})
	if err := m.start(); err != nil {
		t.Fatalf("%v", err)
	}
	return m
}

// report logs what explains a failed test: the units of left4 and their journal.
func (m *Machine) report(t TB) {
	if m.boot == nil {
		return
	}
	select {
	case <-m.boot.done:
		console, _ := os.ReadFile(filepath.Join(m.dir, "console"))
		t.Logf("%s is down; its console:\n%s", m.Suite, tail(console, 60))
		return
	default:
	}
	units := m.run(nil, "systemctl", "list-units", "--all", "--no-pager", "left4*")
	journal := m.run(nil, "journalctl", "--no-pager", "--output=short-precise", "--lines=200",
		"--unit=left4*", "--unit=polkit.service")
	t.Logf("%s, units:\n%s%s\n%s, journal:\n%s%s", m.Suite, units.Out, units.Err, m.Suite, journal.Out, journal.Err)
}

// Reboot boots the machine again in an orderly way, over the same files.
func (m *Machine) Reboot(t TB) {
	t.Helper()
	if err := m.shutDown("reboot", rebootStatus); err != nil {
		t.Fatalf("%v", err)
	}
	m.restart(t)
}

// PowerCut kills everything that runs in the machine at once, and boots it again over the same files. What was
// written but not synced is still there afterwards, unlike after a true power cut.
func (m *Machine) PowerCut(t TB) {
	t.Helper()
	if err := syscall.Kill(m.boot.init, syscall.SIGKILL); err != nil {
		t.Fatalf("cannot kill PID 1 of %s: %v", m.Suite, err)
	}
	<-m.boot.done
	m.restart(t)
}

func (m *Machine) restart(t TB) {
	t.Helper()
	if err := m.start(); err != nil {
		t.Fatalf("%v", err)
	}
}

// A Result is what a command printed, and its exit status (-1 when a signal or the deadline ended it).
type Result struct {
	Out, Err string
	Code     int
}

// Command returns a command that will run in the machine as root, with a plain environment. It is for what Run and
// its kin do not cover: streams, terminals, processes that stay.
func (m *Machine) Command(ctx context.Context, argv ...string) *exec.Cmd {
	args := []string{
		"--target", strconv.Itoa(m.boot.init), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
		"--", "env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, argv...)...)
	// nsenter waits for its child in the machine and passes no signal on: the two are killed as a group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// asUser returns the command line that runs argv as a user of the machine, with all of the user's groups, in the
// user's home.
func asUser(user string, argv []string) []string {
	script := `cd ~ && exec "$@"`
	return append([]string{
		"setpriv", "--reuid=" + user, "--regid=" + user, "--init-groups", "--reset-env", "--",
		"sh", "-c", script, "sh",
	}, argv...)
}

func (m *Machine) run(stdin io.Reader, argv ...string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), commandDeadline)
	defer cancel()
	cmd := m.Command(ctx, argv...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	r := Result{Out: out.String(), Err: errs.String(), Code: -1}
	if cmd.ProcessState != nil {
		r.Code = cmd.ProcessState.ExitCode()
	}
	if r.Code < 0 {
		r.Err += fmt.Sprintf("\n%v", err)
		if ctx.Err() != nil {
			r.Err += fmt.Sprintf(" (no end after %s)", commandDeadline)
		}
	}
	return r
}

func (m *Machine) mustRun(t TB, stdin io.Reader, argv ...string) string {
	t.Helper()
	r := m.run(stdin, argv...)
	if r.Code != 0 {
		t.Fatalf("%s: %s: exit status %d\n%s%s", m.Suite, strings.Join(argv, " "), r.Code, r.Out, r.Err)
	}
	return r.Out
}

// Run runs a command as root and returns what it printed, without the last newline; any exit status but 0 ends the test.
func (m *Machine) Run(t TB, argv ...string) string {
	t.Helper()
	return strings.TrimSuffix(m.mustRun(t, nil, argv...), "\n")
}

// RunAs is Run as another user, who has no session and no terminal.
func (m *Machine) RunAs(t TB, user string, argv ...string) string {
	t.Helper()
	return m.Run(t, asUser(user, argv)...)
}

// Try runs a command as root and returns its result, whatever that is.
func (m *Machine) Try(argv ...string) Result { return m.run(nil, argv...) }

// TryAs is Try as another user.
func (m *Machine) TryAs(user string, argv ...string) Result { return m.run(nil, asUser(user, argv)...) }

// RunInput is Run with something to read on standard input.
func (m *Machine) RunInput(t TB, stdin io.Reader, argv ...string) string {
	t.Helper()
	return strings.TrimSuffix(m.mustRun(t, stdin, argv...), "\n")
}

// ReadFile returns the content of a file of the machine.
func (m *Machine) ReadFile(t TB, name string) string {
	t.Helper()
	return m.mustRun(t, nil, "cat", "--", name)
}

// WriteFile writes a file of the machine, owned by root, and makes the directories that it needs.
func (m *Machine) WriteFile(t TB, name, content string, mode os.FileMode) {
	t.Helper()
	m.put(t, strings.NewReader(content), name, mode)
}

// CopyIn copies a file of the host into the machine, owned by root with its mode kept.
func (m *Machine) CopyIn(t TB, hostName, name string) {
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

func (m *Machine) put(t TB, content io.Reader, name string, mode os.FileMode) {
	t.Helper()
	// Renamed into place: who watches the directory must not see it half written, or with another mode.
	m.mustRun(t, content, "sh", "-ec", `install -D --mode="$1" /dev/stdin "$2.new"; mv -T "$2.new" "$2"`, "sh", fmt.Sprintf("%04o", mode.Perm()), name)
}

// Programs of this module that machines run, built once per run of the tests: import path → func() (string, error).
var built sync.Map

// Build builds a Go program of this module that runs in any machine, and returns the host's path of the binary.
func Build(t TB, pkg string) string {
	t.Helper()
	return buildOnce(t, pkg, func(out string) error { return goCommand("build", "-buildvcs=false", "-o", out, pkg) })
}

// BuildTest is Build for the tests of a package.
func BuildTest(t TB, pkg string) string {
	t.Helper()
	return buildOnce(t, pkg+".test", func(out string) error { return goCommand("test", "-c", "-o", out, pkg) })
}

// BuildStandIn is Build for the stand-in game server.
func BuildStandIn(t TB) string {
	t.Helper()
	return buildOnce(t, "left4.me/left4/test/standin", func(out string) error {
		return gametree.Build(context.Background(), out)
	})
}

func goCommand(args ...string) error { return goCommandFor(runtime.GOARCH, args...) }

func goCommandFor(arch string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot %s: %w\n%s", strings.Join(cmd.Args, " "), err, text)
	}
	return nil
}

// buildOnce keeps the program in the cache, which outlives this process; another one may be at work on the same.
func buildOnce(t TB, name string, build func(out string) error) string {
	t.Helper()
	once, _ := built.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		cache, err := cacheDir()
		if err != nil {
			return "", err
		}
		bin := filepath.Join(cache, "bin")
		if err := os.MkdirAll(bin, 0o755); err != nil {
			return "", err
		}
		tmp, err := os.MkdirTemp(bin, ".new")
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(tmp)
		out := filepath.Join(tmp, "program")
		if err := build(out); err != nil {
			return "", err
		}
		program := filepath.Join(bin, filepath.Base(name))
		return program, os.Rename(out, program)
	}))
	program, err := once.(func() (string, error))()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return program
}

// BringGame puts the stand-in game into a directory of the machine, for `left4ctl game import`, and left4-query,
// which asks servers by A2S and RCON, into its PATH.
func (m *Machine) BringGame(t TB, dir string) {
	t.Helper()
	m.CopyIn(t, Build(t, "left4.me/left4/test/standin/cmd/left4-query"), "/usr/local/bin/left4-query")
	m.CopyIn(t, BuildStandIn(t), "/usr/local/bin/standin")
	m.Run(t, "standin", "-write-tree", dir)
}

// EnterCommand is what root types on the host for a shell in the machine.
func (m *Machine) EnterCommand() string {
	return fmt.Sprintf("nsenter --target %d --all bash --login", m.boot.init)
}

// State is the host's path of the machine's /var/lib/left4, for looks at the disk that need nothing of the machine.
func (m *Machine) State() string { return filepath.Join(m.dir, "lib/left4") }

// AddUser makes a user with a home, a group of the same name and the further groups.
func (m *Machine) AddUser(t TB, name string, groups ...string) {
	t.Helper()
	m.Run(t, "useradd", "--create-home", "--user-group", "--shell=/bin/sh", "--groups", strings.Join(groups, ","), name)
}

// Install installs packages of the host by apt, as an administrator would; the archive is out of reach.
func (m *Machine) Install(t TB, debs ...string) {
	t.Helper()
	if r := m.install(debs...); r.Code != 0 {
		t.Fatalf("%s: apt-get install: exit status %d\n%s%s", m.Suite, r.Code, r.Out, r.Err)
	}
}

func (m *Machine) install(debs ...string) Result {
	argv := []string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends", "--allow-downgrades"}
	for _, deb := range debs {
		f, err := os.Open(deb)
		if err != nil {
			return Result{Err: err.Error(), Code: -1}
		}
		defer f.Close()
		to := "/tmp/" + filepath.Base(deb)
		if r := m.run(f, "install", "--mode=0644", "/dev/stdin", to); r.Code != 0 {
			return r
		}
		argv = append(argv, to)
	}
	return m.run(nil, argv...)
}

// Journal returns what a unit has logged since the machine was made, one message per line.
func (m *Machine) Journal(t TB, unit string) string {
	t.Helper()
	return m.journal(t, "--unit="+unit)
}

func (m *Machine) journal(t TB, matches ...string) string {
	t.Helper()
	// What was logged a moment ago may still be on its way.
	m.Run(t, "journalctl", "--sync")
	return m.Run(t, append([]string{"journalctl", "--no-pager", "--output=cat"}, matches...)...)
}

// Property returns one property of a unit, as systemctl prints it.
func (m *Machine) Property(t TB, unit, name string) string {
	t.Helper()
	return m.Run(t, "systemctl", "show", "--value", "--property="+name, unit)
}

// MainPID returns the main process of a unit, as the machine numbers it; 0 if it has none.
func (m *Machine) MainPID(t TB, unit string) int {
	t.Helper()
	pid, err := strconv.Atoi(m.Property(t, unit, "MainPID"))
	if err != nil {
		t.Fatalf("%s: MainPID of %s: %v", m.Suite, unit, err)
	}
	return pid
}
