package vm

import (
	"archive/tar"
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/ring"
)

// Words of the bus.
const (
	service  = "me.left4"
	managerI = "me.left4.Manager"
)

// play is a machine with left4 and the stand-in game.
type play struct {
	*Machine
	t *testing.T
}

// eachPlay runs a test in a fresh machine of each suite, with the game imported.
func eachPlay(t *testing.T, test func(t *testing.T, p play)) {
	Each(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		t.Logf("%s: %.1f s for the machine to be up", p.Suite, m.Up.Seconds())
		began := time.Now()
		p.CopyIn(t, ring.Build(t, "left4.me/left4/test/standin/cmd/left4-query"), "/usr/local/bin/left4-query")
		p.CopyIn(t, ring.BuildStandIn(t), "/usr/local/bin/standin")
		p.Run(t, "standin", "-write-tree", "/root/game")
		p.took("the game to be there", began)
		began = time.Now()
		p.ctl("game", "import", "/root/game")
		p.took("the game to be imported", began)
		test(t, p)
	})
}

// took prints how long it took for something to be.
func (p play) took(what string, began time.Time) {
	p.t.Helper()
	p.t.Logf("%s: %.1f s for %s", p.Suite, time.Since(began).Seconds(), what)
}

// ctl runs left4ctl, which must succeed, and returns what it printed.
func (p play) ctl(args ...string) string {
	p.t.Helper()
	return p.Run(p.t, append([]string{"left4ctl"}, args...)...)
}

// get reads a property of an instance, as busctl prints it without the type.
func (p play) get(name, property string) string {
	p.t.Helper()
	return p.property("/me/left4/instance/"+label(name), "me.left4.Instance", property)
}

func (p play) property(object, iface, property string) string {
	p.t.Helper()
	_, value, _ := strings.Cut(p.Run(p.t, "busctl", "get-property", service, object, iface, property), " ")
	return strings.Trim(value, `"`)
}

func label(name string) string { return strings.ReplaceAll(name, "-", "_2d") }

// overlayDir is where the revisions of an overlay lie.
func (p play) overlayDir(name string) string {
	p.t.Helper()
	return "/var/lib/left4/overlays/" + p.property("/me/left4/overlay/"+label(name), "me.left4.Overlay", "Id")
}

func unit(name string) string { return "left4-server@" + name + ".service" }

// show is a property of a unit, as systemctl prints it.
func (p play) show(unit, property string) string {
	p.t.Helper()
	return p.Run(p.t, "systemctl", "show", "--value", "--property="+property, unit)
}

// process identifies the main process of a unit, which must have one: its number, and when the kernel began it.
func (p play) process(unit string) string {
	p.t.Helper()
	pid := p.show(unit, "MainPID")
	if pid == "0" {
		p.t.Fatalf("%s does not run:\n%s", unit, p.Try("systemctl", "status", unit).Out)
	}
	_, rest, _ := strings.Cut(p.ReadFile(p.t, "/proc/"+pid+"/stat"), ") ")
	return pid + " since " + strings.Fields(rest)[19]
}

// ready waits until a server answers, and returns its answer.
func (p play) ready(port int) string {
	p.t.Helper()
	return p.Run(p.t, "left4-query", "-wait", "-timeout", "5m", "127.0.0.1:"+strconv.Itoa(port))
}

// rcon runs a console command in a server.
func (p play) rcon(name string, port int, command string) ring.Result {
	p.t.Helper()
	cfg := p.ReadFile(p.t, "/var/lib/left4/runtime/"+name+"/upper/left4dead2/cfg/server.cfg")
	_, rest, _ := strings.Cut(cfg, `rcon_password "`)
	password, _, _ := strings.Cut(rest, `"`)
	return p.run(strings.NewReader(password+"\n"), "left4-query", "-timeout", "2m", "-rcon", command, "127.0.0.1:"+strconv.Itoa(port))
}

// mounts are those of the machine below left4's runtime directory.
func (p play) mounts() (found []string) {
	p.t.Helper()
	for line := range strings.Lines(p.ReadFile(p.t, "/proc/1/mountinfo")) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], "/var/lib/left4/") {
			found = append(found, line)
		}
	}
	return found
}

// list are the names in a directory.
func (p play) list(dir string) string {
	p.t.Helper()
	return strings.Join(strings.Fields(p.Run(p.t, "ls", "-A", dir)), " ")
}

// layer makes an overlay with these files, by path; the revision that has them is its second.
func (p play) layer(name string, files map[string]string) {
	p.t.Helper()
	p.ctl("overlay", "create", name)
	p.revise(name, files)
}

// revise makes a revision of an overlay that holds these files and nothing else.
func (p play) revise(name string, files map[string]string) {
	p.t.Helper()
	p.RunInput(p.t, bytes.NewReader(archive(files)), "sh", "-ec", `cat >/root/layer.tar; left4ctl overlay import "$1" /root/layer.tar`, "sh", name)
}

// archive is a tar file with these files.
func archive(files map[string]string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))})
		w.Write([]byte(files[name]))
	}
	w.Close()
	return b.Bytes()
}

// states are the changes of states of instances from now on.
func (p play) states() *ring.Signals {
	p.t.Helper()
	return p.Signals(p.t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("InstanceStateChanged"))
}

// becomes waits until an instance changes to a state, and returns the cause.
func (p play) becomes(states *ring.Signals, name, state string) string {
	p.t.Helper()
	s := states.Wait(p.t, name+" "+state, func(s *dbus.Signal) bool {
		return s.Name == managerI+".InstanceStateChanged" && s.Body[0] == name && s.Body[2] == state
	})
	return s.Body[3].(string)
}

// job is one that left4d knows.
type job struct {
	ID                         uint32
	Kind, Target, State, Cause string
	Object                     dbus.ObjectPath
}

// settled waits until left4d has no job that waits or works, and returns the newest of each kind and target.
func (p play) settled() map[string]job {
	p.t.Helper()
	ends := p.Signals(p.t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("JobRemoved"))
	manager := p.Bus(p.t).Object(service, "/me/left4")
	for {
		var rows []job
		if err := manager.Call(managerI+".ListJobs", 0, map[string]dbus.Variant{}).Store(&rows); err != nil {
			p.t.Fatalf("%s: cannot list the jobs: %v", p.Suite, err)
		}
		jobs, unfinished := map[string]job{}, 0
		for _, j := range rows {
			if what := j.Kind + " " + j.Target; jobs[what].ID < j.ID {
				jobs[what] = j
			}
			if j.State == "queued" || j.State == "running" {
				unfinished++
			}
		}
		if unfinished == 0 {
			return jobs
		}
		ends.Wait(p.t, "the end of a job", func(s *dbus.Signal) bool { return s.Name == managerI+".JobRemoved" })
	}
}

// expect compares what a machine tells with what it should.
func (p play) expect(what, got, want string) {
	p.t.Helper()
	if got != want {
		p.t.Errorf("%s: %s is %q, want %q", p.Suite, what, got, want)
	}
}
