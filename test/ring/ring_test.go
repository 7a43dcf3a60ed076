package ring

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

func TestBoot(t *testing.T) {
	EachBare(t, func(t *testing.T, m *Machine) {
		if got := m.Run(t, "systemctl", "is-system-running"); got != "running" {
			t.Errorf("the system is %q; failed units:\n%s", got, m.Run(t, "systemctl", "--failed", "--no-legend"))
		}
		version := map[string]string{"bookworm": "systemd 252 ", "trixie": "systemd 257 "}[m.Suite]
		if got := m.Run(t, "systemctl", "--version"); !strings.HasPrefix(got, version) {
			t.Errorf("%s runs %q, not %q", m.Suite, got, version)
		}
		if id := m.ReadFile(t, "/etc/machine-id"); len(id) != 33 {
			t.Errorf("the machine has no identity of its own: %q", id)
		}
		if got := m.Run(t, "ip", "-brief", "address", "show", "lo"); !strings.Contains(got, "127.0.0.1/8") {
			t.Errorf("the loopback interface is not up: %s", got)
		}
		if got := m.Run(t, "busctl", "call", "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority",
			"org.freedesktop.DBus.Peer", "Ping"); got != "" {
			t.Errorf("polkit answers %q to a ping", got)
		}
	})
}

// Machines with left4 come from one that apt installed it on; nothing else of that one is left in them.
func TestBootWithPackage(t *testing.T) {
	Each(t, func(t *testing.T, m *Machine) {
		if got := m.Run(t, "dpkg-query", "--show", "--showformat=${Status}", "left4"); got != "install ok installed" {
			t.Errorf("the package is %q", got)
		}
		if got := m.Run(t, "systemctl", "is-system-running"); got != "running" {
			t.Errorf("the system is %q; failed units:\n%s", got, m.Run(t, "systemctl", "--failed", "--no-legend"))
		}
		if boots := strings.Count(m.Run(t, "journalctl", "--list-boots", "--quiet")+"\n", "\n"); boots != 1 {
			t.Errorf("the journal knows %d boots", boots)
		}
		other := Boot(t, m.Suite)
		if m.ReadFile(t, "/etc/machine-id") == other.ReadFile(t, "/etc/machine-id") {
			t.Error("two machines have the same identity")
		}
	})
}

// Two machines at once must not share a cgroup, or each systemd would kill the other's processes.
func TestMachinesAreApart(t *testing.T) {
	EachBare(t, func(t *testing.T, m *Machine) {
		other := BootBare(t, m.Suite)
		for _, machine := range []*Machine{m, other} {
			machine.Run(t, "systemd-run", "--unit=same-name", "tail", "--follow", "/dev/null")
		}
		m.Run(t, "systemctl", "kill", "--signal=KILL", "same-name.service")
		m.WaitUnit(t, "same-name.service", "SubState", "failed")
		if got := other.Property(t, "same-name.service", "SubState"); got != "running" {
			t.Errorf("the unit of the same name in the other machine is %s", got)
		}
		ids := m.ReadFile(t, "/etc/machine-id") + other.ReadFile(t, "/etc/machine-id")
		if ids[:33] == ids[33:] {
			t.Error("both machines have the same identity")
		}
	})
}

// left4's state must carry the writable layer of an overlay, and be a plain directory that a purge can remove.
func TestStateBearsOverlays(t *testing.T) {
	EachBare(t, func(t *testing.T, m *Machine) {
		m.WriteFile(t, "/var/lib/left4/low/file", "from below", 0o644)
		m.Run(t, "sh", "-ec", `
			cd /var/lib/left4; mkdir up work on
			mount -t overlay -o lowerdir=low,upperdir=up,workdir=work test on
			echo from above >on/file
			umount on`)
		got, err := os.ReadFile(filepath.Join(m.State(), "up/file"))
		if err != nil || string(got) != "from above\n" {
			t.Errorf("the upper layer on the host's disk holds %q, %v", got, err)
		}
		m.Run(t, "rm", "-r", "/var/lib/left4")
		if _, err := os.Lstat(m.State()); !os.IsNotExist(err) {
			t.Errorf("the state is still there: %v", err)
		}
	})
}

func TestRebootKeepsFiles(t *testing.T) {
	EachBare(t, func(t *testing.T, m *Machine) {
		bootID := func() string { return m.ReadFile(t, "/proc/sys/kernel/random/boot_id") }
		for name, again := range map[string]func(TB){"reboot": m.Reboot, "power cut": m.PowerCut} {
			before := bootID()
			m.WriteFile(t, "/etc/kept", name, 0o600)
			m.WriteFile(t, "/var/lib/left4/kept", name, 0o600)
			m.WriteFile(t, "/run/gone", name, 0o600)
			again(t)
			if bootID() == before {
				t.Errorf("%s: the machine was not booted again", name)
			}
			if got := m.ReadFile(t, "/etc/kept") + m.ReadFile(t, "/var/lib/left4/kept"); got != name+name {
				t.Errorf("%s: files hold %q", name, got)
			}
			if m.Try("test", "-e", "/run/gone").Code == 0 {
				t.Errorf("%s: /run outlived it", name)
			}
			if got := m.Run(t, "systemctl", "is-system-running"); got != "running" {
				t.Errorf("%s: the system is %q", name, got)
			}
		}
	})
}

func TestCommandsAndUsers(t *testing.T) {
	EachBare(t, func(t *testing.T, m *Machine) {
		m.Run(t, "groupadd", "players")
		m.AddUser(t, "alice", "players")
		if got := m.RunAs(t, "alice", "sh", "-c", `id -un; id -Gn; pwd; echo "$HOME"`); got != "alice\nalice players\n/home/alice\n/home/alice" {
			t.Errorf("a command of alice sees %q", got)
		}
		m.WriteFile(t, "/etc/secret", "secret", 0o600)
		if r := m.TryAs("alice", "cat", "/etc/secret"); r.Code != 1 || !strings.Contains(r.Err, "Permission denied") {
			t.Errorf("alice reads root's file: %+v", r)
		}
		if got := m.RunInput(t, strings.NewReader("typed"), "cat"); got != "typed" {
			t.Errorf("standard input arrives as %q", got)
		}
		if r := m.Try("sh", "-c", "kill -KILL $$"); r.Code == 0 {
			t.Errorf("a killed command gives %+v", r)
		}
		if got := m.Run(t, "printf", "%s|", "a b", "*", ""); got != "a b|*||" {
			t.Errorf("arguments arrive as %q", got)
		}
	})
}

func TestTerminalAsks(t *testing.T) {
	EachBare(t, func(t *testing.T, m *Machine) {
		m.AddUser(t, "alice")
		p := m.Terminal(t, "alice", "sh", "-c", `printf 'Name? ' >/dev/tty; read name </dev/tty; echo "hello, $name"; stat -c %U "$(tty)"; exit 7`)
		p.Expect(t, "Name? ")
		p.Type(t, "it's me\n")
		p.Expect(t, "hello, it's me")
		if rest, status := p.Wait(t); status != 7 || strings.TrimSpace(rest) != "alice" {
			t.Errorf("ended with %d and %q", status, rest)
		}
	})
}

func TestEventsArrive(t *testing.T) {
	EachBare(t, func(t *testing.T, m *Machine) {
		names := m.Signals(t, dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"))
		journal := m.Start(t, "journalctl", "--follow", "--lines=all", "--output=cat", "--identifier=ring")
		m.Run(t, "systemctl", "restart", "polkit.service")
		names.Wait(t, "polkit on the bus", func(s *dbus.Signal) bool {
			return s.Body[0] == "org.freedesktop.PolicyKit1" && s.Body[2] != ""
		})
		m.WaitUnit(t, "polkit.service", "SubState", "running")
		m.Run(t, "logger", "--tag=ring", "told")
		journal.Expect(t, "told\n")
	})
}

// ^C, a panic or a kill of the tests must leave no machine running, no mount, and nothing that the next run keeps.
func TestKilledRunLeavesNothing(t *testing.T) {
	eachSuite(t, func(t *testing.T, suite string) {
		self := exec.Command(os.Args[0], "-test.run=^TestVictim$")
		self.Env = append(os.Environ(), "LEFT4_RING_VICTIM="+suite)
		out, err := self.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := self.Start(); err != nil {
			t.Fatal(err)
		}
		var init int
		var dir string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, _ := fmt.Sscanf(lines.Text(), "up %d %s", &init, &dir); n == 2 {
				break
			}
		}
		pidfd, err := unix.PidfdOpen(init, 0)
		if err != nil {
			self.Process.Kill()
			t.Fatalf("cannot find the machine's PID 1 (%d): %v", init, err)
		}
		defer unix.Close(pidfd)
		self.Process.Kill()
		self.Wait()

		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(fds, int(eventDeadline.Milliseconds()))
			if err == unix.EINTR {
				continue
			}
			if n != 1 {
				t.Fatalf("the machine runs on: %v", err)
			}
			break
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), dir) {
			t.Errorf("the host has mounts of the machine (%v)", err)
		}
		run := filepath.Dir(dir)
		lock, err := lockRun(run)
		if err != nil {
			t.Fatal(err)
		}
		sweep(run)
		lock.Close()
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("the machine's files are still there: %v", err)
		}
	})
}

// It is no test: TestKilledRunLeavesNothing runs it in a process that it kills.
func TestVictim(t *testing.T) {
	if suite := os.Getenv("LEFT4_RING_VICTIM"); suite != "" {
		m := BootBare(t, suite)
		fmt.Println("up", m.boot.init, m.dir)
		select {}
	}
}
