package ring

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/standin/gametree"
)

// The programs that tests bring into machines are built once per run.
var programs = struct {
	once           sync.Once
	standin, query string
	err            error
}{}

// play is a machine with left4 and the stand-in game.
type play struct {
	*Machine
	t TB
}

// eachPlay runs a test in a fresh machine of each suite, with the game imported.
func eachPlay(t *testing.T, test func(t *testing.T, p play)) {
	Each(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.install()
		test(t, p)
	})
}

// install makes the stand-in the machine's game.
func (p play) install() {
	p.t.Helper()
	p.bring()
	p.ctl("game", "import", "/root/game")
}

// bring puts the stand-in, its tree and the query tool into the machine.
func (p play) bring() {
	p.t.Helper()
	programs.once.Do(func() {
		dir, err := os.MkdirTemp("", "left4-standin")
		if err != nil {
			programs.err = err
			return
		}
		programs.standin = filepath.Join(dir, "standin")
		programs.err = gametree.Build(context.Background(), programs.standin)
		programs.query = filepath.Join(dir, "left4-query")
		atEnd = append(atEnd, func() { os.RemoveAll(dir) })
		if programs.err == nil {
			build := exec.Command("go", "build", "-buildvcs=false", "-o", programs.query, "left4.me/left4/test/standin/cmd/left4-query")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			build.Stderr = os.Stderr
			programs.err = build.Run()
		}
	})
	if programs.err != nil {
		p.t.Fatalf("%v", programs.err)
	}
	p.CopyIn(p.t, programs.standin, "/usr/local/bin/standin")
	p.CopyIn(p.t, programs.query, "/usr/local/bin/left4-query")
	p.Run(p.t, "standin", "-write-tree", "/root/game")
}

var atEnd []func()

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range atEnd {
		f()
	}
	os.Exit(code)
}

// Words of the bus.
const (
	service  = "me.left4"
	managerI = "me.left4.Manager"
)

// ctl runs left4ctl, which must succeed, and returns what it printed.
func (p play) ctl(args ...string) string {
	p.t.Helper()
	return p.Run(p.t, append([]string{"left4ctl"}, args...)...)
}

// manager calls a method of the Manager by busctl, as a user's script does.
func (p play) manager(method string, args ...string) string {
	p.t.Helper()
	return p.Run(p.t, append([]string{"busctl", "call", service, "/me/left4", managerI, method}, args...)...)
}

// get reads a property of an instance, as busctl prints it without the type.
func (p play) get(name, property string) string {
	p.t.Helper()
	return p.property("instance", name, "me.left4.Instance", property)
}

// ofOverlay is get for an overlay.
func (p play) ofOverlay(name, property string) string {
	p.t.Helper()
	return p.property("overlay", name, "me.left4.Overlay", property)
}

func (p play) property(kind, name, iface, property string) string {
	p.t.Helper()
	return value(p.Run(p.t, "busctl", "get-property", service, "/me/left4/"+kind+"/"+label(name), iface, property))
}

// value is what busctl has printed, without the type.
func value(out string) string {
	_, value, _ := strings.Cut(strings.TrimSpace(out), " ")
	return strings.Trim(value, `"`)
}

func label(name string) string { return strings.ReplaceAll(name, "-", "_2d") }

// wait waits until a property of an instance is what is wanted, by its signals.
func (p play) wait(name, property, want string) {
	p.t.Helper()
	changes := p.Signals(p.t, dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"))
	defer changes.Close()
	for p.get(name, property) != want {
		changes.Wait(p.t, property+" of "+name+" = "+want, func(s *dbus.Signal) bool {
			return s.Path == dbus.ObjectPath("/me/left4/instance/"+label(name))
		})
	}
}

// waitJob waits until a job is in a state. A left4d that comes back does not have its object at once.
func (p play) waitJob(job dbus.ObjectPath, state string) {
	p.t.Helper()
	changes := p.Signals(p.t, dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"))
	defer changes.Close()
	for value(p.Try("busctl", "get-property", service, string(job), "me.left4.Job", "State").Out) != state {
		changes.Wait(p.t, fmt.Sprintf("%s in state %s", job, state), func(s *dbus.Signal) bool { return s.Path == job })
	}
}

func unit(name string) string { return "left4-server@" + name + ".service" }

func overlayUnit(name string) string { return "left4-overlay@" + name + ".service" }

// pid is the game's own process.
func (p play) pid(name string) int {
	p.t.Helper()
	pid := p.MainPID(p.t, unit(name))
	if pid == 0 {
		p.t.Fatalf("%s does not run: %s", name, p.Try("systemctl", "status", unit(name)).Out)
	}
	return pid
}

// since tells one process from a later one of the same number.
func (p play) since(pid int) string {
	p.t.Helper()
	stat := p.ReadFile(p.t, "/proc/"+strconv.Itoa(pid)+"/stat")
	_, rest, _ := strings.Cut(stat, ") ")
	return strings.Fields(rest)[19]
}

// ready waits until a server answers, and returns its answer.
func (p play) ready(port int) string {
	p.t.Helper()
	return p.Run(p.t, "left4-query", "-wait", "-timeout", "2m", "127.0.0.1:"+strconv.Itoa(port))
}

// rcon runs a console command in a server.
func (p play) rcon(name string, port int, command string) Result {
	p.t.Helper()
	return p.run(strings.NewReader(p.password(name)+"\n"), "left4-query", "-timeout", "1m", "-rcon", command, "127.0.0.1:"+strconv.Itoa(port))
}

func (p play) password(name string) string {
	p.t.Helper()
	cfg := p.ReadFile(p.t, "/var/lib/left4/runtime/"+name+"/upper/left4dead2/cfg/server.cfg")
	_, rest, _ := strings.Cut(cfg, `rcon_password "`)
	password, _, _ := strings.Cut(rest, `"`)
	return password
}

// mounts are those of the machine below left4's runtime directory.
func (p play) mounts() (found []string) {
	p.t.Helper()
	for _, line := range strings.Split(p.ReadFile(p.t, "/proc/1/mountinfo"), "\n") {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], "/var/lib/left4/") {
			found = append(found, line)
		}
	}
	return found
}

func (p play) exists(name string) bool {
	return p.Try("test", "-e", name, "-o", "-L", name).Code == 0
}

// reloads counts the daemon-reloads that PID 1 has told the journal.
func (p play) reloads() int {
	p.t.Helper()
	journal := p.journal(p.t, "_PID=1")
	return strings.Count(journal, "Reloading.\n") + strings.Count(journal, "Reloading...\n")
}

// jobEnded and changedTo pick signals of the Manager; a connection also gets signals of the bus itself.
func jobEnded(kind string) func(*dbus.Signal) bool {
	return func(s *dbus.Signal) bool { return s.Name == managerI+".JobRemoved" && s.Body[2] == kind }
}

func changedTo(state string) func(*dbus.Signal) bool {
	return func(s *dbus.Signal) bool { return s.Name == managerI+".InstanceStateChanged" && s.Body[2] == state }
}
