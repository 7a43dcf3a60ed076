package units

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests talk to the machine's real systemd, as root, and make units there: they run only where
// LEFT4_TEST_SYSTEMD=1 says that it is a throw-away one. They use instances named t-… and leave nothing.

const (
	testUnits = "/run/systemd/system"
	testState = "/var/lib/left4"
)

// testTemplates stand in for the package's units, with the same relations between them.
var testTemplates = map[string]string{
	"left4-overlay@.service": `[Unit]
StopWhenUnneeded=yes
StartLimitIntervalSec=0
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'test ! -e /run/left4-test/%i.umount-fails'
`,
	"left4-server@.service": `[Unit]
Requires=left4-overlay@%i.service
After=left4-overlay@%i.service
StartLimitIntervalSec=60
StartLimitBurst=5
[Service]
Type=exec
ExecStart=/bin/false
KillSignal=SIGINT
TimeoutStopSec=5
Restart=always
RestartSec=100ms
MemoryMax=1G
`,
}

// testServer runs until SIGINT; its arguments stay visible in /proc.
const testServer = `#!/bin/sh
trap 'kill $!; exit 0' INT
sleep 100000 &
wait
`

type machine struct {
	t *testing.T
	*Systemd
	config Config
	dir    string // for programs
}

// realSystemd prepares the machine for one test.
func realSystemd(t *testing.T) (context.Context, *machine) {
	t.Helper()
	if os.Getenv("LEFT4_TEST_SYSTEMD") != "1" {
		t.Skip("needs a real systemd that may be played with: LEFT4_TEST_SYSTEMD=1")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	dir := "/run/left4-test"
	cleanup := func() {
		out, _ := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", "left4-*@t-*", "left4-build-t-*").Output()
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			if unit, _, _ := strings.Cut(line, " "); unit != "" {
				_ = exec.Command("systemctl", "kill", "-s", "KILL", unit).Run()
				_ = exec.Command("systemctl", "stop", unit).Run()
				_ = exec.Command("systemctl", "reset-failed", unit).Run()
			}
		}
		for _, glob := range []string{"/etc/systemd/system/left4-*@t-*", "/etc/systemd/system/multi-user.target.wants/left4-*@t-*",
			systemControl + "/left4-*@t-*", "/etc/systemd/system.control/left4-*@t-*"} {
			found, _ := filepath.Glob(glob)
			for _, name := range found {
				os.RemoveAll(name)
			}
		}
		for name := range testTemplates {
			os.Remove(filepath.Join(testUnits, name))
		}
		os.RemoveAll(dir)
		systemctl(t, "daemon-reload")
	}
	cleanup()
	t.Cleanup(cleanup)

	for name, text := range testTemplates {
		write(t, filepath.Join(testUnits, name), text, 0o644)
	}
	write(t, filepath.Join(dir, "server"), testServer, 0o755)
	systemctl(t, "daemon-reload")

	s, err := Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return ctx, &machine{t: t, Systemd: s, dir: dir, config: Config{Dir: "/etc/systemd/system", RunDir: filepath.Join(dir, "run")}}
}

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Errorf("systemctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (m *machine) dropIn(s Server) bool {
	m.t.Helper()
	if s.Command == nil {
		s.Command = []string{m.dir + "/server"}
	}
	changed, err := m.config.WriteDropIn(s)
	if err != nil {
		m.t.Fatal(err)
	}
	return changed
}

func (m *machine) ok(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) state(ctx context.Context, unit string) State {
	m.t.Helper()
	st, err := m.State(ctx, unit)
	m.ok(err)
	return st
}

// until waits, by signals, for a state that fits.
func (m *machine) until(ctx context.Context, unit string, fits func(State) bool) State {
	m.t.Helper()
	changed, stop := m.changes(unit)
	defer stop()
	for {
		st := m.state(ctx, unit)
		if fits(st) {
			return st
		}
		select {
		case <-changed:
		case <-ctx.Done():
			m.t.Fatalf("%s stays as %+v", unit, st)
		}
	}
}

// reloads counts the daemon-reloads that anybody makes from now on.
func (m *machine) reloads() func() int {
	n := make(chan struct{}, 100)
	m.Watch(func(string) {}, func() { n <- struct{}{} })
	return func() int { return len(n) }
}

func TestSystemdRunsAServer(t *testing.T) {
	ctx, m := realSystemd(t)
	reloads := m.reloads()
	unit, overlay := ServerUnit("t-a"), OverlayUnit("t-a")

	if st := m.state(ctx, unit); st.Loaded || st.Active != "inactive" {
		t.Errorf("before: %+v", st)
	}
	args := []string{m.dir + "/server", "-port", "27015", "+map", `a "b' \ $HOME ${HOME} $$ %n %%`, "", ";", "ünï", "-x=1;2", "#", "~", "`id`"}
	m.dropIn(Server{Name: "t-a", Label: "Tuesday 100% %n\n[Service]\nUser=nobody \\", Command: args, PreStart: []string{"/bin/sh", "-c", "exit 0"}})
	m.ok(m.config.Enable("t-a"))
	if got := systemctl(t, "is-enabled", unit); got != "enabled" {
		t.Errorf("is-enabled says %q", got)
	}
	m.ok(m.ResetFailed(ctx, unit))
	m.ok(m.Start(ctx, unit))

	st := m.state(ctx, unit)
	if !st.Loaded || st.Active != "active" || st.Sub != "running" || st.MainPID == 0 ||
		st.LoadState != "loaded" || st.NRestarts != 0 || st.Job != 0 || len(st.InvocationID) != 32 || st.Fragment != testUnits+"/left4-server@.service" {
		t.Errorf("running: %+v", st)
	}
	for _, when := range []time.Time{st.StateChange, st.ActiveEnter} {
		if time.Since(when).Abs() > time.Hour {
			t.Errorf("times: %+v", st)
		}
	}
	if !st.ExecMainExit.IsZero() {
		t.Errorf("it has not ended: %+v", st)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", st.MainPID))
	m.ok(err)
	if got := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00"); !slices.Equal(got[1:], args) {
		t.Errorf("arguments:\n%q, want\n%q", got[1:], args)
	}
	if got, want := systemctl(t, "show", "-P", "Description", unit), "Left 4 Dead 2 server t-a (Tuesday 100% %n [Service] User=nobody \\)"; got != want {
		t.Errorf("description %q, want %q", got, want)
	}
	if got := systemctl(t, "show", "-P", "User", unit); got != "" {
		t.Errorf("the label set User=%s", got)
	}
	if got := systemctl(t, "show", "-P", "LogExtraFields", unit); got != "LEFT4_INSTANCE=t-a" {
		t.Errorf("log fields %q", got)
	}

	m.ok(m.Start(ctx, unit)) // again: nothing happens
	if again := m.state(ctx, unit); again.MainPID != st.MainPID {
		t.Errorf("a second start changed the process")
	}
	mounted := m.state(ctx, overlay)
	m.ok(m.Restart(ctx, unit))
	if again := m.state(ctx, unit); again.MainPID == st.MainPID || again.Active != "active" {
		t.Errorf("after the restart: %+v", again)
	}
	if again := m.state(ctx, overlay); again.InvocationID != mounted.InvocationID {
		t.Errorf("the restart took the overlay down")
	}
	m.ok(m.Survey(ctx, []string{"t-a", "t-none"}))
	if up, mounted, none := m.state(ctx, unit), m.state(ctx, overlay), m.state(ctx, ServerUnit("t-none")); up.Active != "active" || up.MainPID == 0 || mounted.Sub != "exited" || none.Loaded {
		t.Errorf("surveyed: %+v, %+v, %+v", up, mounted, none)
	}

	m.ok(m.config.Disable("t-a"))
	m.ok(m.Stop(ctx, unit))
	m.ok(m.WaitInactive(ctx, overlay))
	if st := m.state(ctx, overlay); !st.Down() {
		t.Errorf("overlay after the stop: %+v", st)
	}
	m.ok(m.Stop(ctx, unit)) // again
	m.ok(m.Stop(ctx, "left4-nothing-t.service"))
	if got := reloads(); got != 0 {
		t.Errorf("%d daemon-reloads for a first start", got)
	}
}

func TestSystemdCrashRestartsWithoutUnmount(t *testing.T) {
	ctx, m := realSystemd(t)
	unit, overlay := ServerUnit("t-a"), OverlayUnit("t-a")
	m.dropIn(Server{Name: "t-a"})
	m.ok(m.Start(ctx, unit))
	first, mounted := m.state(ctx, unit), m.state(ctx, overlay)
	m.ok(m.Kill(ctx, unit, int32(syscall.SIGKILL)))
	second := m.until(ctx, unit, func(st State) bool { return st.NRestarts == 1 && st.Active == "active" })
	if second.MainPID == first.MainPID {
		t.Errorf("same process after a kill")
	}
	if again := m.state(ctx, overlay); again.InvocationID != mounted.InvocationID {
		t.Errorf("the crash took the overlay down")
	}

	// For good: the stop first.
	wait, err := m.QueueStop(ctx, unit)
	m.ok(err)
	m.ok(m.Kill(ctx, unit, int32(syscall.SIGKILL)))
	m.ok(wait(ctx))
	m.ok(m.WaitInactive(ctx, overlay))
	if st := m.state(ctx, unit); !st.Down() {
		t.Errorf("after the kill: %+v", st)
	}
	m.ok(m.Kill(ctx, unit, int32(syscall.SIGKILL)))
	m.ok(m.Kill(ctx, ServerUnit("t-none"), int32(syscall.SIGKILL)))
	m.ok(m.ResetFailed(ctx, ServerUnit("t-none")))
}

func TestSystemdTellsWhyNot(t *testing.T) {
	ctx, m := realSystemd(t)
	unit := ServerUnit("t-a")

	t.Run("no program", func(t *testing.T) {
		m.dropIn(Server{Name: "t-a", Command: []string{"/nonexistent"}, Restart: "no"})
		var job *JobError
		if err := m.Start(ctx, unit); !errors.As(err, &job) {
			t.Fatalf("start says %v", err)
		}
		if job.Result != "failed" || job.State.Active != "failed" || job.State.ExecMainStatus != 203 || job.State.Result != "exit-code" {
			t.Errorf("%+v", job)
		}
		// A failed unit stays loaded, so it reads nothing new, until it is reset.
		if loaded, err := m.Loaded(ctx, unit); err != nil || !loaded {
			t.Errorf("loaded: %v, %v", loaded, err)
		}
		m.ok(m.ResetFailed(ctx, unit))
		m.until(ctx, unit, func(st State) bool { return !st.Loaded })
	})
	t.Run("port taken", func(t *testing.T) {
		m.dropIn(Server{Name: "t-a", PreStart: []string{"/bin/sh", "-c", "exit 98"}, Restart: "no"})
		var job *JobError
		if err := m.Start(ctx, unit); !errors.As(err, &job) {
			t.Fatalf("start says %v", err)
		}
		if len(job.State.PreStart) != 1 || job.State.PreStart[0].Code != 1 || job.State.PreStart[0].Status != 98 {
			t.Errorf("%+v", job)
		}
		m.ok(m.ResetFailed(ctx, unit))
		m.until(ctx, unit, func(st State) bool { return !st.Loaded })
	})
	t.Run("start limit", func(t *testing.T) {
		m.dropIn(Server{Name: "t-a", Command: []string{"/bin/false"}})
		_ = m.Start(ctx, unit) // may or may not see the first end
		st := m.until(ctx, unit, func(st State) bool { return st.Active == "failed" })
		// Result says how the last process ended, not that systemd gave up: nothing says that but the state.
		if st.NRestarts != 5 || st.Result != "exit-code" {
			t.Errorf("%+v", st)
		}
		var job *JobError
		if err := m.Start(ctx, unit); !errors.As(err, &job) || job.Result != "failed" || job.State.Result != "exit-code" {
			t.Errorf("start over the limit says %v", err)
		}
		m.ok(m.ResetFailed(ctx, unit))
		m.until(ctx, unit, func(st State) bool { return !st.Loaded })
		m.dropIn(Server{Name: "t-a"})
		for range 10 {
			m.ok(m.ResetFailed(ctx, unit))
			m.ok(m.Restart(ctx, unit))
		}
		m.ok(m.Stop(ctx, unit))
		m.until(ctx, unit, func(st State) bool { return !st.Loaded })
	})
	t.Run("canceled, and not waited for", func(t *testing.T) {
		fifo := m.dir + "/fifo"
		m.ok(syscall.Mkfifo(fifo, 0o600))
		m.dropIn(Server{Name: "t-a", PreStart: []string{"/bin/cat", fifo}})
		first, err := m.queue(ctx, "start", "StartUnit", unit)
		m.ok(err)
		second, err := m.queue(ctx, "start", "StartUnit", unit)
		m.ok(err)
		m.until(ctx, unit, func(st State) bool { return st.Sub == "start-pre" })
		short, cancel := context.WithCancel(ctx)
		cancel()
		if err := second(short); err != context.Canceled {
			t.Errorf("the start without patience says %v", err)
		}
		m.ok(m.Stop(ctx, unit))
		var job *JobError
		if err := first(ctx); !errors.As(err, &job) || job.Result != "canceled" {
			t.Errorf("the pre-empted start says %v", err)
		}
		m.ok(m.ResetFailed(ctx, unit))
		m.until(ctx, unit, func(st State) bool { return !st.Loaded })
	})
	t.Run("masked", func(t *testing.T) {
		link := filepath.Join(m.config.Dir, unit)
		m.ok(os.Symlink(os.DevNull, link))
		defer os.Remove(link)
		if err := m.Start(ctx, unit); !errors.Is(err, ErrMasked) {
			t.Errorf("start says %v", err)
		}
		if !m.config.Masked("t-a") {
			t.Errorf("not told as masked")
		}
	})
	t.Run("what it needs is masked", func(t *testing.T) {
		// What is loaded is not read again, and so not seen to be masked.
		m.until(ctx, OverlayUnit("t-a"), func(st State) bool { return !st.Loaded })
		m.dropIn(Server{Name: "t-a"})
		link := filepath.Join(m.config.Dir, OverlayUnit("t-a"))
		m.ok(os.Symlink(os.DevNull, link))
		defer os.Remove(link)
		var need *NeedError
		if err := m.Start(ctx, unit); !errors.As(err, &need) || need.Unit != OverlayUnit("t-a") || errors.Is(err, ErrMasked) {
			t.Errorf("start says %v", err)
		}
	})
	t.Run("no unit", func(t *testing.T) {
		if err := m.Start(ctx, "left4-nothing-t.service"); !errors.Is(err, ErrNoUnit) {
			t.Errorf("start says %v", err)
		}
		if err := m.Restart(ctx, "left4-nothing-t.service"); !errors.Is(err, ErrNoUnit) {
			t.Errorf("restart says %v", err)
		}
	})
	t.Run("unmount fails", func(t *testing.T) {
		m.dropIn(Server{Name: "t-b"})
		m.ok(m.Start(ctx, ServerUnit("t-b")))
		write(t, m.dir+"/t-b.umount-fails", "", 0o644)
		m.ok(m.Stop(ctx, ServerUnit("t-b")))
		var job *JobError
		if err := m.WaitInactive(ctx, OverlayUnit("t-b")); !errors.As(err, &job) || job.State.Result != "exit-code" {
			t.Errorf("WaitInactive says %v", err)
		}
	})
}

func TestSystemdReadsDropInsWhenItLoads(t *testing.T) {
	ctx, m := realSystemd(t)
	reloads := m.reloads()
	unit := ServerUnit("t-a")
	lastArg := func() string {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.state(ctx, unit).MainPID))
		m.ok(err)
		words := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
		return words[len(words)-1]
	}
	server := func(arg string) Server { return Server{Name: "t-a", Command: []string{m.dir + "/server", arg}} }

	m.dropIn(server("one"))
	m.ok(m.Start(ctx, unit))
	if got := lastArg(); got != "one" {
		t.Errorf("first start: %s", got)
	}
	// Stop + start of a unit that nothing wants picks a change up by itself.
	m.ok(m.Stop(ctx, unit))
	m.until(ctx, unit, func(st State) bool { return !st.Loaded })
	m.dropIn(server("two"))
	m.ok(m.Start(ctx, unit))
	if got := lastArg(); got != "two" {
		t.Errorf("start after the unit was unloaded: %s", got)
	}
	if n := reloads(); n != 0 {
		t.Errorf("%d reloads so far", n)
	}
	// A loaded one does not.
	if !m.dropIn(server("three")) || !m.config.Stale("t-a") {
		t.Errorf("the change is not marked")
	}
	if loaded, err := m.Loaded(ctx, unit); err != nil || !loaded {
		t.Errorf("loaded: %v, %v", loaded, err)
	}
	m.ok(m.Restart(ctx, unit))
	if got := lastArg(); got != "two" {
		t.Errorf("a loaded unit read the change without a reload: %s", got)
	}
	m.ok(m.Reload(ctx))
	m.ok(m.config.ClearStale("t-a"))
	m.ok(m.Restart(ctx, unit))
	if got := lastArg(); got != "three" {
		t.Errorf("after the reload: %s", got)
	}
	m.ok(m.Stop(ctx, unit))
	m.ok(m.config.RemoveDropIn("t-a"))
	m.until(ctx, unit, func(st State) bool { return !st.Loaded })
}

func TestSystemdLimitsHoldLiveAndAfterAReload(t *testing.T) {
	ctx, m := realSystemd(t)
	unit := ServerUnit("t-a")
	p := func(v uint64) *uint64 { return &v }
	check := func(when string, want map[string]string) {
		t.Helper()
		for key, value := range want {
			if got := systemctl(t, "show", "-P", key, unit); got != value {
				t.Errorf("%s: %s is %s, want %s", when, key, got, value)
			}
		}
		if left, _ := filepath.Glob(systemControl + "/left4-server@t-a*"); len(left) > 0 {
			t.Errorf("%s: left behind: %q", when, left)
		}
	}
	one := Limits{MemoryMax: p(2 << 30), MemoryHigh: p(1 << 30), TasksMax: p(300), CPUQuotaPerSecUSec: p(1500000), AllowedCPUs: []byte{3}}
	wantOne := map[string]string{"MemoryMax": "2147483648", "MemoryHigh": "1073741824", "TasksMax": "300", "CPUQuotaPerSecUSec": "1.500000s", "AllowedCPUs": "0-1"}
	m.dropIn(Server{Name: "t-a", Limits: one})
	m.ok(m.SetLimits(ctx, unit, one)) // not loaded: nothing happens
	m.ok(m.Start(ctx, unit))
	check("start", wantOne)

	two := Limits{MemoryMax: p(3 << 30), MemoryHigh: p(math.MaxUint64), TasksMax: p(math.MaxUint64), CPUQuotaPerSecUSec: p(math.MaxUint64), AllowedCPUs: []byte{2}}
	wantTwo := map[string]string{"MemoryMax": "3221225472", "MemoryHigh": "infinity", "TasksMax": "infinity", "CPUQuotaPerSecUSec": "infinity", "AllowedCPUs": "1"}
	pid := m.state(ctx, unit).MainPID
	m.dropIn(Server{Name: "t-a", Limits: two})
	m.ok(m.SetLimits(ctx, unit, two))
	check("live", wantTwo)
	m.ok(m.Reload(ctx))
	check("live, after a reload", wantTwo)

	// Back to the template's default: the reload alone, and what runs gets it.
	m.dropIn(Server{Name: "t-a", Limits: Limits{TasksMax: p(100), AllowedCPUs: []byte{}}})
	m.ok(m.SetLimits(ctx, unit, Limits{TasksMax: p(100), AllowedCPUs: []byte{}}))
	check("some taken away", map[string]string{"TasksMax": "100", "MemoryMax": "3221225472", "AllowedCPUs": ""})
	m.ok(m.Reload(ctx))
	check("some taken away, after a reload", map[string]string{"TasksMax": "100", "MemoryMax": "1073741824", "MemoryHigh": "infinity", "CPUQuotaPerSecUSec": "infinity", "AllowedCPUs": ""})
	if m.state(ctx, unit).MainPID != pid {
		t.Errorf("the process changed")
	}

	// What a left4d that was killed half way, or set-property --runtime, left is over with the next change; ...
	systemctl(t, "set-property", "--runtime", unit, "MemoryMax=5G", "IOWeight=50")
	m.dropIn(Server{Name: "t-a", Limits: Limits{MemoryMax: p(6 << 30)}})
	if left, _ := filepath.Glob(systemControl + "/left4-server@t-a.service.d/*"); !slices.Equal(left, []string{systemControl + "/left4-server@t-a.service.d/50-IOWeight.conf"}) {
		t.Errorf("after a changed drop-in: %q", left)
	}
	m.ok(m.Reload(ctx))
	if got := systemctl(t, "show", "-P", "MemoryMax", unit); got != "6442450944" {
		t.Errorf("the drop-in lost: %s", got)
	}
	// ... an administrator's own word is kept.
	systemctl(t, "set-property", unit, "MemoryMax=7G")
	m.ok(m.SetLimits(ctx, unit, Limits{MemoryMax: p(6 << 30)}))
	m.ok(m.Reload(ctx))
	if got := systemctl(t, "show", "-P", "MemoryMax", unit); got != "7516192768" {
		t.Errorf("the administrator lost: %s", got)
	}
	m.ok(m.config.RemoveDropIn("t-a"))
	check("removed", nil)
}

func TestSystemdWatchSeesWhatPeopleDo(t *testing.T) {
	ctx, m := realSystemd(t)
	unit, overlay := ServerUnit("t-a"), OverlayUnit("t-a")
	m.dropIn(Server{Name: "t-a"})
	changed, reloaded := make(chan string, 1000), make(chan struct{}, 100)
	m.Watch(func(unit string) { changed <- unit }, func() { reloaded <- struct{}{} })
	sees := func(what string, unit string, fits func(State) bool) {
		t.Helper()
		for !fits(m.state(ctx, unit)) {
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatalf("%s was not seen", what)
			}
		}
	}
	systemctl(t, "start", unit)
	sees("start", unit, func(st State) bool { return st.Active == "active" })
	systemctl(t, "stop", unit)
	sees("stop", unit, func(st State) bool { return st.Down() })
	sees("the overlay's stop", overlay, func(st State) bool { return st.Down() })
	sees("unload", unit, func(st State) bool { return !st.Loaded })
	systemctl(t, "start", unit)
	sees("second start", unit, func(st State) bool { return st.Active == "active" })
	systemctl(t, "kill", "-s", "KILL", unit)
	sees("crash", unit, func(st State) bool { return st.NRestarts == 1 && st.Active == "active" })

	systemctl(t, "daemon-reload")
	<-reloaded
	pid := m.state(ctx, unit).MainPID
	systemctl(t, "daemon-reexec")
	<-reloaded
	if got := m.state(ctx, unit).MainPID; got != pid {
		t.Errorf("re-execution changed the process")
	}
	for len(changed) > 0 {
		<-changed
	}
	systemctl(t, "stop", unit)
	sees("stop after re-execution", unit, func(st State) bool { return st.Down() })
}

func TestSystemdJobsOutliveItsReexecution(t *testing.T) {
	ctx, m := realSystemd(t)
	fifo := m.dir + "/fifo"
	m.ok(syscall.Mkfifo(fifo, 0o600))
	unit := ServerUnit("t-a")
	m.dropIn(Server{Name: "t-a", PreStart: []string{"/bin/cat", fifo}})
	m.dropIn(Server{Name: "t-b"})
	started := make(chan error, 1)
	go func() { started <- m.Start(ctx, unit) }()
	m.until(ctx, unit, func(st State) bool { return st.Sub == "start-pre" })

	// Calls that come into it are made again.
	calls := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				calls <- nil
				return
			default:
			}
			if err := m.Start(ctx, ServerUnit("t-b")); err != nil {
				calls <- err
				return
			}
			if err := m.Stop(ctx, ServerUnit("t-b")); err != nil {
				calls <- err
				return
			}
		}
	}()
	for range 3 {
		systemctl(t, "daemon-reexec")
	}
	close(done)
	m.ok(<-calls)
	select {
	case err := <-started:
		t.Fatalf("the start ended by itself: %v", err)
	default:
	}
	m.ok(os.WriteFile(fifo, nil, 0o600))
	m.ok(<-started)
	if st := m.state(ctx, unit); st.Active != "active" {
		t.Errorf("%+v", st)
	}
}

// What a local user sends to the connection is not taken for systemd's word.
func TestSystemdForgedSignalsAreDropped(t *testing.T) {
	ctx, m := realSystemd(t)
	fifo := m.dir + "/fifo"
	m.ok(syscall.Mkfifo(fifo, 0o600))
	unit := ServerUnit("t-a")
	m.dropIn(Server{Name: "t-a", PreStart: []string{"/bin/cat", fifo}})
	started := make(chan error, 1)
	go func() { started <- m.Start(ctx, unit) }()
	id := m.until(ctx, unit, func(st State) bool { return st.Sub == "start-pre" && st.Job != 0 }).Job

	forge := exec.Command("dbus-send", "--system", "--type=signal", "--dest="+m.Conn().Names()[0], string(managerPath),
		managerIface+".JobRemoved", fmt.Sprintf("uint32:%d", id), fmt.Sprintf("objpath:/org/freedesktop/systemd1/job/%d", id), "string:"+unit, "string:done")
	forge.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := forge.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// It has arrived when a later message of anybody's has.
	m.ok(m.Conn().BusObject().CallWithContext(ctx, driverName+".GetId", 0).Err)
	if m.awaited(unit) != 1 {
		t.Error("the forged result was believed")
	}
	m.ok(os.WriteFile(fifo, nil, 0o600))
	m.ok(<-started)
}

func TestSystemdAgreesAboutEnablement(t *testing.T) {
	ctx, m := realSystemd(t)
	unit := ServerUnit("t-a")
	m.dropIn(Server{Name: "t-a"})
	template := filepath.Join(testUnits, "left4-server@.service")
	write(t, template, testTemplates["left4-server@.service"]+"[Install]\nWantedBy=multi-user.target\n", 0o644)
	names := make(chan string, 1000)
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	m.ok(m.config.WatchEnablement(watch, func(name string) { names <- name }))
	told := func(what string, enabled bool) {
		t.Helper()
		for {
			got, err := m.config.Enabled("t-a")
			m.ok(err)
			if got == enabled {
				break
			}
			select {
			case <-names:
			case <-ctx.Done():
				t.Fatalf("%s was not seen", what)
			}
		}
		if got, want := exec.Command("systemctl", "is-enabled", "-q", unit).Run() == nil, enabled; got != want {
			t.Errorf("after %s systemctl is-enabled says %v", what, got)
		}
	}
	m.ok(m.config.Enable("t-a"))
	told("Enable", true)
	systemctl(t, "enable", unit)
	told("enable", true)
	systemctl(t, "disable", unit)
	told("disable", false)
	m.ok(m.config.Disable("t-a"))
	systemctl(t, "enable", unit)
	told("enable", true)
	m.ok(m.config.Enable("t-a"))
	m.ok(m.config.Disable("t-a"))
	told("Disable", false)
}

const helperVariable = "LEFT4_TEST_HELPER"

// TestHelperProcess is no test: it is the program that the worker's unit runs.
func TestHelperProcess(t *testing.T) {
	mode := os.Getenv(helperVariable)
	if mode == "" {
		t.Skip("no test")
	}
	status := func(text string) {
		conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
		if err == nil {
			_, err = conn.Write([]byte("STATUS=" + text))
			conn.Close()
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
	}
	status("reading")
	data, err := io.ReadAll(os.Stdin)
	if err != nil {
		fmt.Println(err)
		os.Exit(4)
	}
	if mode == "fail" {
		status("error " + string(data))
		os.Exit(1)
	}
	var sins []string
	sin := func(what string, err error) {
		if err == nil {
			sins = append(sins, what)
		}
	}
	dir, _ := os.Getwd()
	if err := os.WriteFile("out", data, 0o644); err != nil {
		sins = append(sins, err.Error())
	}
	_, err = os.Stat(filepath.Join(testState, "secret"))
	sin("sees a secret", err)
	sin("writes beside its directory", os.WriteFile(filepath.Join(testState, "x"), nil, 0o600))
	sin("writes above its directory", os.WriteFile(filepath.Join(filepath.Dir(dir), "x"), nil, 0o600))
	sin("sees /var/tmp of others", func() error { _, err := os.Stat("/var/tmp/t-seen"); return err }())
	sin("writes to /tmp", os.WriteFile("/tmp/x", nil, 0o600))
	sin("writes to /dev/shm", os.WriteFile("/dev/shm/x", nil, 0o600))
	_, err = os.ReadFile("/run/dbus/system_bus_socket")
	if !errors.Is(err, os.ErrPermission) && !errors.Is(err, os.ErrNotExist) {
		sins = append(sins, fmt.Sprintf("sees the bus: %v", err))
	}
	_, err = net.Dial("unix", "/run/dbus/system_bus_socket")
	sin("reaches the bus", err)
	_, err = net.Listen("tcp", "127.0.0.1:0")
	sin("has a network", err)
	_, err = os.Stat("/proc/1/status")
	sin("sees other processes", err)
	sin("makes setuid files", os.Chmod("out", 0o4755|os.ModeSetuid))
	if err := os.WriteFile("program", []byte("#!/bin/sh\n"), 0o755); err == nil {
		sin("runs what it unpacked", exec.Command("./program").Run())
	}
	if d, err := os.Open("."); err == nil {
		if err := unix.Syncfs(int(d.Fd())); err != nil {
			sins = append(sins, "syncfs: "+err.Error())
		}
	}
	if os.Getenv("GIVEN") != "a b%n$HOME" {
		sins = append(sins, "GIVEN="+os.Getenv("GIVEN"))
	}
	status(fmt.Sprintf("done %d uid %d: %s.", len(data), os.Getuid(), strings.Join(sins, "; ")))
	os.Exit(0)
}

func TestSystemdWorker(t *testing.T) {
	ctx, m := realSystemd(t)
	dir := testState + "/game/.import-t-1"
	m.ok(os.MkdirAll(dir, 0o755))
	m.ok(os.Chown(dir, 65534, 65534))
	write(t, testState+"/secret", "s", 0o644)
	write(t, "/var/tmp/t-seen", "s", 0o644)
	t.Cleanup(func() {
		os.RemoveAll(dir)
		os.Remove(filepath.Dir(dir)) // unless it is in use
		os.Remove(testState + "/secret")
		os.Remove("/var/tmp/t-seen")
	})
	program, err := os.Executable()
	m.ok(err)
	start := func(unit, mode string) *os.File {
		t.Helper()
		r, w, err := os.Pipe()
		m.ok(err)
		m.ok(m.StartWorker(ctx, Worker{Box: BoxImport,
			Unit: unit, Description: "test 100% \"import\"", Command: []string{program, "-test.run=^TestHelperProcess$", "-test.v=false"},
			Dir: dir, Stdin: int(r.Fd()), Env: []string{helperVariable + "=" + mode, "GIVEN=a b%n$HOME"}, User: "nobody", Slice: "left4-build.slice", Timeout: time.Minute,
		}))
		r.Close()
		return w
	}
	gone := func(unit string) {
		t.Helper()
		m.ok(m.Stop(ctx, unit))
		m.ok(m.ResetFailed(ctx, unit))
		m.until(ctx, unit, func(st State) bool { return !st.Loaded })
	}

	unit := "left4-build-t-1.service"
	told := make(chan struct{}, 1000)
	m.Watch(func(u string) {
		if u == unit {
			told <- struct{}{}
		}
	}, func() {})
	stdin := start(unit, "import")
	m.until(ctx, unit, func(st State) bool { return st.StatusText == "reading" && st.Active == "active" && st.Sub == "running" })
	for len(told) > 0 {
		<-told
	}
	_, err = stdin.WriteString(strings.Repeat("0123456789", 100000))
	m.ok(err)
	m.ok(stdin.Close())
	<-told
	st := m.until(ctx, unit, func(st State) bool { return st.Sub != "running" })
	if st.Active != "active" || st.Sub != "exited" || st.Result != "success" || st.ExecMainCode != 1 || st.ExecMainStatus != 0 {
		t.Errorf("ended as %+v", st)
	}
	if want := "done 1000000 uid 65534: ."; st.StatusText != want {
		t.Errorf("it says %q, want %q", st.StatusText, want)
	}
	if info, err := os.Stat(dir + "/out"); err != nil || info.Size() != 1000000 {
		t.Errorf("its file: %v, %v", info, err)
	}
	if got := systemctl(t, "show", "-P", "Description", unit); got != "test 100% \"import\"" {
		t.Errorf("description %q", got)
	}
	if err := m.StartWorker(ctx, Worker{Unit: unit, Command: []string{"/bin/true"}, Dir: dir, User: "nobody", Slice: "left4-build.slice", Box: BoxImport}); err == nil {
		t.Errorf("a second one of that name started")
	}
	// A later left4d reads it, also after a reload and a re-execution.
	systemctl(t, "daemon-reload")
	systemctl(t, "daemon-reexec")
	second, err := Connect(ctx)
	m.ok(err)
	defer second.Close()
	if again, err := second.State(ctx, unit); err != nil || again.StatusText != st.StatusText || again.Sub != "exited" {
		t.Errorf("read later: %+v, %v", again, err)
	}
	gone(unit)

	unit = "left4-build-t-2.service"
	stdin = start(unit, "fail")
	_, err = stdin.WriteString("no tar")
	m.ok(err)
	m.ok(stdin.Close())
	st = m.until(ctx, unit, func(st State) bool { return st.Sub != "running" && st.Sub != "start" })
	if st.Active != "failed" || st.Result != "exit-code" || st.ExecMainStatus != 1 || st.StatusText != "error no tar" {
		t.Errorf("failed as %+v", st)
	}
	gone(unit)

	unit = "left4-build-t-3.service"
	var job *JobError
	err = m.StartWorker(ctx, Worker{Unit: unit, Command: []string{"/nonexistent"}, Dir: dir, User: "nobody", Slice: "left4-build.slice", Box: BoxImport})
	if !errors.As(err, &job) || job.State.ExecMainStatus != 203 {
		t.Errorf("a worker that is not there: %v", err)
	}
	gone(unit)

	// A cancelled one, which hangs.
	unit = "left4-build-t-4.service"
	stdin = start(unit, "import")
	defer stdin.Close()
	m.ok(m.Stop(ctx, unit))
	gone(unit)
	if left, _ := filepath.Glob("/run/systemd/transient/left4-build-t-*"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestSystemdClosedConnectionsSaySo(t *testing.T) {
	ctx, m := realSystemd(t)
	s, err := Connect(ctx)
	m.ok(err)
	ran := make(chan error, 1)
	go func() { ran <- s.WaitInactive(ctx, "multi-user.target") }()
	go func() { _, _ = s.State(ctx, "init.scope") }()
	s.socket.Close()
	<-s.Done()
	if err := <-ran; err == nil {
		t.Errorf("a wait went on without a connection")
	}
	if _, err := s.State(ctx, ServerUnit("t-a")); !errors.Is(err, ErrLost) {
		t.Errorf("state says %v", err)
	}
	if err := s.Start(ctx, ServerUnit("t-a")); !errors.Is(err, ErrLost) {
		t.Errorf("start says %v", err)
	}
	m.ok(s.Close())
}
