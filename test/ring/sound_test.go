package ring

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// toldWithin is how long what is true may take to be seen, when nothing is at work any more.
const toldWithin = 20 * time.Second

// violations are what must not be after a fault, whatever it was: a state that lies, a mount, a process, a file or a row
// that belongs to nothing, a definition that is lost, a job without an end. It waits until nothing is at work; a left4d
// that is down comes back by it. untouched are the servers that ran before the fault, by instance, and their MainPIDs.
func violations(t *testing.T, m *Machine, untouched map[string]int) []string {
	t.Helper()
	return violationsBut(t, m, untouched, toldWithin, nil)
}

// violationsBut is violations without those that a test expects, and with another time for what is true to be seen.
func violationsBut(t *testing.T, m *Machine, untouched map[string]int, within time.Duration, expected func(string) bool) []string {
	t.Helper()
	s := &soundness{Machine: m, untouched: untouched, expected: expected}
	conn := m.dial(t)
	defer conn.Close()
	s.talk = talkTo(conn)
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	err := s.systemd.Call("org.freedesktop.systemd1.Manager.Subscribe", 0).Err
	for _, match := range []dbus.MatchOption{
		dbus.WithMatchSender("org.freedesktop.systemd1"), dbus.WithMatchSender(names.Service), dbus.WithMatchMember("NameOwnerChanged"),
	} {
		err = errors.Join(err, conn.AddMatchSignal(match))
	}
	if err != nil {
		return []string{fmt.Sprintf("the bus, or systemd, does not answer: %v", err)}
	}
	// What nobody signals, such as a file that goes, is looked at again with the next tick.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	await := func(deadline time.Duration, look func() []string) (wrongs []string) {
		timer := time.NewTimer(deadline)
		defer timer.Stop()
		for {
			if wrongs = look(); len(wrongs) == 0 {
				return nil
			}
			select {
			case <-signals:
				for len(signals) > 0 {
					<-signals
				}
			case <-tick.C:
			case <-timer.C:
				return wrongs
			}
		}
	}
	if wrongs := await(eventDeadline, s.atWork); wrongs != nil {
		return append([]string{fmt.Sprintf("after %s there still is work:", eventDeadline)}, wrongs...)
	}
	return await(within, s.look)
}

// mustBeSound fails the test for each violation that there is after what was done.
func mustBeSound(t *testing.T, m *Machine, after string, untouched map[string]int) {
	t.Helper()
	for _, wrong := range violations(t, m, untouched) {
		t.Errorf("%s: after %s: %s", m.Suite, after, wrong)
	}
}

// The tests of faults are worth what violations sees.
func TestViolationsAreSeen(t *testing.T) {
	Once(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.install()
		for _, name := range []string{"a", "b", "c"} {
			p.ctl("create", name)
		}
		p.ctl("start", "a")
		p.ctl("start", "b")
		mustBeSound(t, m, "two starts", map[string]int{"a": p.pid("a"), "b": p.pid("b")})

		p.Run(t, "sh", "-ec", `
			cd /var/lib/left4
			mkdir instances/.c.aside game/7 runtime/gone
			touch runtime/b/.left4-1 /etc/systemd/system/left4-server@b.service.d/.10-left4.conf.new
			ln -s /usr/lib/systemd/system/left4-server@.service /etc/systemd/system/multi-user.target.wants/left4-server@gone.service
			mkdir runtime/c && mkdir runtime/c/merged && mount --bind game runtime/c/merged
			rm -r instances/b
			cp left4.db damaged.db`)
		got := violationsBut(t, m, map[string]int{"a": 1, "b": p.pid("b")}, 0, nil)
		for _, want := range []string{
			"left behind: /var/lib/left4/instances/.c.aside",
			"left behind: /var/lib/left4/runtime/b/.left4-1",
			"left behind: /etc/systemd/system/left4-server@b.service.d/.10-left4.conf.new",
			"left behind: /var/lib/left4/damaged.db",
			"left behind of an instance that is not defined: /var/lib/left4/runtime/gone",
			"left behind of an instance that is not defined: /etc/systemd/system/multi-user.target.wants/left4-server@gone.service",
			`the disk has the revisions ["game/1" "game/7"], the database ["game/1"]`,
			`c has 1 mounts (remembered: false), and the unit of its files is ""`,
			"b runs, and is rendered: false, has a drop-in: true",
			fmt.Sprintf(`nobody touched a, its unit is "active", and its MainPID was 1 and is %d`, p.pid("a")),
		} {
			n := slices.Index(got, want)
			if n < 0 {
				t.Errorf("not seen: %s", want)
				continue
			}
			got = slices.Delete(got, n, n+1)
		}
		if len(got) > 0 {
			t.Errorf("seen, and nobody did it:\n%s", strings.Join(got, "\n"))
		}
	})
}

// soundness is one look at a machine after a fault.
type soundness struct {
	*Machine
	talk
	untouched map[string]int
	expected  func(string) bool // nil = nothing
	wrongs    []string
}

func (s *soundness) wrong(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if s.expected == nil || !s.expected(text) {
		s.wrongs = append(s.wrongs, text)
	}
}

// atWork is what has no end yet: jobs of left4d and of systemd, and units between two states.
func (s *soundness) atWork() (busy []string) {
	for _, state := range []string{"queued", "running"} {
		jobs, err := s.jobs(map[string]dbus.Variant{"state": dbus.MakeVariant(state)})
		if err != nil {
			return []string{fmt.Sprintf("left4d does not tell its jobs: %v", err)}
		}
		for _, j := range jobs {
			busy = append(busy, fmt.Sprintf("job %d (%s %s) is %s", j.ID, j.Kind, j.Target, j.State))
		}
	}
	loaded, err := s.units("left4*")
	if err != nil {
		return append(busy, fmt.Sprintf("systemd does not tell its units: %v", err))
	}
	for _, u := range loaded {
		working := ofJob.MatchString(u.Name) && u.Active == "active"
		if u.Job != 0 || working || u.Active != "active" && u.Active != "inactive" && u.Active != "failed" {
			busy = append(busy, fmt.Sprintf("%s is %s (%s), job %d %s", u.Name, u.Active, u.Sub, u.Job, u.JobType))
		}
	}
	return busy
}

// ofJob are the units that left4d makes for its jobs.
var ofJob = regexp.MustCompile(`^left4-(import|clone|inspect)-`)

func (s *soundness) look() []string {
	s.wrongs = nil
	db := s.lookAtDatabase()
	disk, err := s.disk()
	if err != nil {
		return append(s.wrongs, fmt.Sprintf("cannot look at the disk: %v", err))
	}
	for _, odd := range disk.odd {
		s.wrong("left behind: %s", odd)
	}
	for path, name := range disk.found {
		if !slices.Contains(db.instances, name) {
			s.wrong("left behind of an instance that is not defined: %s", path)
		}
	}
	slices.Sort(disk.layers)
	slices.Sort(db.layers)
	if !slices.Equal(disk.layers, db.layers) {
		s.wrong("the disk has the revisions %q, the database %q", disk.layers, db.layers)
	}
	s.lookAtInstances(db.instances, disk)
	return s.wrongs
}

// stored is what the database has of what is also elsewhere.
type stored struct {
	instances []string
	layers    []string
}

// lookAtDatabase reads a copy, while nothing is written.
func (s *soundness) lookAtDatabase() (found stored) {
	failed := func(err error) stored {
		s.wrong("cannot read the database: %v", err)
		return found
	}
	dir, err := os.MkdirTemp("", "left4-sound")
	if err != nil {
		return failed(err)
	}
	defer os.RemoveAll(dir)
	for _, file := range []string{"left4.db", "left4.db-wal"} {
		content, err := os.ReadFile(s.hostPath("/var/lib/left4/" + file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), content, 0o600)
		}
		if err != nil {
			return failed(err)
		}
	}
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, "left4.db"))
	if err != nil {
		return failed(err)
	}
	defer db.Close()
	strings := func(query string) (all []string) {
		rows, err := db.Query(query)
		if err != nil {
			failed(err)
			return nil
		}
		defer rows.Close()
		for rows.Next() {
			var text string
			if err := rows.Scan(&text); err != nil {
				failed(err)
			}
			all = append(all, text)
		}
		if err := rows.Err(); err != nil {
			failed(err)
		}
		return all
	}
	if check := strings("PRAGMA integrity_check"); !slices.Equal(check, []string{"ok"}) {
		s.wrong("the database is damaged: %q", check)
	}
	for _, row := range strings(`SELECT "table" || ' ' || rowid || ' names no ' || parent FROM pragma_foreign_key_check`) {
		s.wrong("the database has a row that hangs in the air: %s", row)
	}
	for _, job := range strings(`SELECT id || ' (' || kind || ' ' || target || '): ' || state FROM job WHERE finished = 0 OR state IN ('queued', 'running')`) {
		s.wrong("the database has a job without an end: %s", job)
	}
	found.instances = strings("SELECT name FROM instance")
	found.layers = strings(`SELECT iif(overlay = 0, 'game', 'overlays/' || overlay) || '/' || id FROM revision WHERE published != 0 AND removed = 0`)
	return found
}

// lookAtInstances compares what left4d tells with what systemd does and what is on disk.
func (s *soundness) lookAtInstances(defined []string, disk diskState) {
	var objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	if err := s.left4d.Call("org.freedesktop.DBus.ObjectManager.GetManagedObjects", 0).Store(&objects); err != nil {
		s.wrong("left4d does not tell its objects: %v", err)
		return
	}
	loaded, err := s.units("left4*")
	if err != nil {
		s.wrong("systemd does not tell its units: %v", err)
		return
	}
	active, units := map[string]string{}, map[string]unitRow{}
	for _, u := range loaded {
		active[u.Name], units[u.Name] = u.Active, u
		name := ""
		if m := ofUnit.FindStringSubmatch(u.Name); m != nil {
			name = m[1]
		}
		switch {
		case ofJob.MatchString(u.Name):
			s.wrong("the unit of a job that has ended is left: %s, %s", u.Name, u.Active)
		case name == "" && u.Active == "failed":
			s.wrong("a unit has failed: %s", u.Name)
		case name != "" && u.Active != "inactive" && !slices.Contains(defined, name):
			s.wrong("%s is not defined, and its unit %s is %s", name, u.Name, u.Active)
		}
	}
	if active["left4d.service"] != "active" {
		s.wrong("left4d.service is %q", active["left4d.service"])
	}
	mounted := map[string]int{}
	mountinfo, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", s.boot.init))
	if err != nil {
		s.wrong("cannot read the mounts: %v", err)
	}
	for line := range strings.Lines(string(mountinfo)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], "/var/lib/left4/runtime/") {
			name, _ := strings.CutSuffix(strings.TrimPrefix(f[4], "/var/lib/left4/runtime/"), "/merged")
			mounted[name]++
		}
	}
	for _, all := range []map[string]int{mounted, disk.processes} {
		for name := range all {
			if !slices.Contains(defined, name) {
				s.wrong("%s is not defined, and has %d mounts and %d processes", name, mounted[name], disk.processes[name])
			}
		}
	}

	told := map[string]map[string]dbus.Variant{}
	for path, interfaces := range objects {
		if name, ok := names.InstanceName(path); ok {
			told[name] = interfaces[names.Instance]
		}
	}
	if got := slices.Sorted(maps.Keys(told)); !slices.Equal(got, slices.Sorted(slices.Values(defined))) {
		s.wrong("left4d tells the instances %q, the database has %q", got, defined)
	}
	for _, name := range slices.Sorted(maps.Keys(told)) {
		server, files := active[unit(name)], active[overlayUnit(name)]
		state, desired := told[name]["State"].Value(), told[name]["DesiredState"].Value()
		runs := server == "active"
		_, enabled := disk.found["/etc/systemd/system/multi-user.target.wants/"+unit(name)]
		_, rendered := disk.found["/var/lib/left4/instances/"+name]
		_, dropIn := disk.found["/etc/systemd/system/"+unit(name)+".d"]
		_, marked := disk.found["/run/left4/mounted/"+name]
		want := map[string]string{"active": "running", "failed": "failed"}[server]
		if want == "" {
			want = "stopped"
			if files == "failed" && state == "failed" {
				want = "failed" // it could not be mounted
			}
		}
		if state != want || (desired == "running") != enabled {
			s.wrong("%s is told as %v, wanted %v: its unit is %q, its files' %q, it is enabled: %v", name, state, desired, server, files, enabled)
		}
		if drifted := told[name]["Drifted"].Value(); drifted != (runs != enabled) {
			s.wrong("%s: Drifted is %v, its unit is %q, it is enabled: %v", name, drifted, server, enabled)
		}
		main := 0
		if runs {
			main = s.mainPID(units[unit(name)].Object)
		}
		if pid := told[name]["MainPID"].Value(); pid != uint32(main) {
			s.wrong("%s: left4d tells the MainPID %v, systemd %d", name, pid, main)
		}
		one := map[bool]int{true: 1}[files == "active"]
		// What is remembered without a mount tells nothing, and the next mount removes it first.
		if mounted[name] != one || one == 1 && !marked {
			s.wrong("%s has %d mounts (remembered: %v), and the unit of its files is %q", name, mounted[name], marked, files)
		}
		if (files == "active") != runs {
			s.wrong("%s: the unit of its files is %q, its server's %q", name, files, server)
		}
		if runs != (disk.processes[name] > 0) {
			s.wrong("%s has %d processes, and its unit is %q", name, disk.processes[name], server)
		}
		if limits, ok := told[name]["Limits"].Value().(map[string]dbus.Variant); ok && runs {
			s.lookAtLimits(name, units[unit(name)].Object, limits)
		}
		if runs && (!rendered || !dropIn) {
			s.wrong("%s runs, and is rendered: %v, has a drop-in: %v", name, rendered, dropIn)
		}
	}
	for name, pid := range s.untouched {
		if now := s.mainPID(units[unit(name)].Object); now != pid {
			s.wrong("nobody touched %s, its unit is %q, and its MainPID was %d and is %d", name, active[unit(name)], pid, now)
		}
	}
}

// lookAtLimits compares the limits that left4d tells with those that systemd has for the running server.
func (s *soundness) lookAtLimits(name string, unit dbus.ObjectPath, told map[string]dbus.Variant) {
	for _, key := range slices.Sorted(maps.Keys(told)) {
		v, err := s.conn.Object("org.freedesktop.systemd1", unit).GetProperty("org.freedesktop.systemd1.Service." + key)
		if err != nil {
			s.wrong("systemd does not tell %s of %s: %v", key, name, err)
		} else if want, ok := told[key].Value().(uint64); ok && v.Value() != want {
			s.wrong("%s: left4d tells %s %d, systemd %v", name, key, want, v.Value())
		}
	}
}

// mainPID is the main process of a loaded unit, 0 where there is none.
func (s *soundness) mainPID(unit dbus.ObjectPath) int {
	if unit == "" {
		return 0
	}
	v, err := s.conn.Object("org.freedesktop.systemd1", unit).GetProperty("org.freedesktop.systemd1.Service.MainPID")
	if err != nil {
		s.wrong("systemd does not tell the MainPID of %s: %v", unit, err)
		return 0
	}
	pid, _ := v.Value().(uint32)
	return int(pid)
}

// hostPath is the host's name of a path of the machine, with all that is mounted there.
func (m *Machine) hostPath(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", m.boot.init, path)
}

// diskState is what the disk of the machine has of instances.
type diskState struct {
	found     map[string]string // path → instance
	odd       []string          // what belongs to no instance
	layers    []string          // of the game and of overlays, below /var/lib/left4
	enabled   int
	processes map[string]int // of servers, by instance
}

var (
	ofUnit     = regexp.MustCompile(`^left4-(?:server|overlay)@([a-z0-9][a-z0-9_-]*)\.service(?:\.d)?$`)
	instanceID = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
)

// limitFile is what systemd keeps of a limit that was set live.
var limitFile = regexp.MustCompile(`^50-(MemoryMax|MemoryHigh|TasksMax|CPUQuota|AllowedCPUs)\.conf$`)

// inState are the names below /var/lib/left4, and those below each instance's directories.
var (
	inState    = regexp.MustCompile(`^(game|instances|overlays|runtime|steam|workshop|left4\.db(-shm|-wal|\.backup|\.backup\.part(-journal)?|\.damaged-.*)?)$`)
	inInstance = map[string]*regexp.Regexp{
		"/var/lib/left4/instances": regexp.MustCompile(`^(plan\.json|definition\.json|cfg)$`),
		"/var/lib/left4/runtime":   regexp.MustCompile(`^(upper|work|merged|staged|cloned)$`),
	}
)

// disk reads all that left4 keeps of instances, and which processes their servers have.
func (m *Machine) disk() (diskState, error) {
	d := diskState{found: map[string]string{}, processes: map[string]int{}}
	var failed error
	list := func(dir string) (names []string) {
		entries, err := os.ReadDir(m.hostPath(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	for _, name := range list("/var/lib/left4") {
		if !inState.MatchString(name) {
			d.odd = append(d.odd, "/var/lib/left4/"+name)
		}
	}
	for _, dir := range []string{"/var/lib/left4/instances", "/var/lib/left4/runtime", "/run/left4/mounted", "/run/left4/stale", "/run/left4/exits", "/run/left4/limits"} {
		for _, name := range list(dir) {
			path := dir + "/" + name
			if name == "_game" && (dir == "/var/lib/left4/instances" || dir == "/var/lib/left4/runtime") {
				continue // what an installation of the game that failed leaves for the next one
			}
			if !instanceID.MatchString(name) {
				d.odd = append(d.odd, path)
				continue
			}
			d.found[path] = name
			if inInstance[dir] == nil {
				continue
			}
			for _, inside := range list(path) {
				if !inInstance[dir].MatchString(inside) {
					d.odd = append(d.odd, path+"/"+inside)
				}
			}
		}
	}
	for _, dir := range []string{"game", "overlays"} {
		for _, name := range list("/var/lib/left4/" + dir) {
			if dir == "game" || strings.HasPrefix(name, ".") {
				d.layers = append(d.layers, dir+"/"+name)
				continue
			}
			for _, revision := range list("/var/lib/left4/overlays/" + name) {
				d.layers = append(d.layers, "overlays/"+name+"/"+revision)
			}
		}
	}
	for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system.control"} {
		for _, name := range list(dir) {
			path := dir + "/" + name
			m := ofUnit.FindStringSubmatch(name)
			switch {
			case strings.HasSuffix(name, ".wants"):
				for _, link := range list(path) {
					if m := ofUnit.FindStringSubmatch(link); m != nil {
						d.found[path+"/"+link] = m[1]
						d.enabled++
					} else if strings.Contains(link, "left4-server@") {
						d.odd = append(d.odd, path+"/"+link)
					}
				}
			case m != nil:
				d.found[path] = m[1]
				if !strings.HasSuffix(name, ".d") {
					continue
				}
				for _, file := range list(path) {
					// What systemctl edit and set-property write is the administrator's.
					// What left4d has set live must not win over the drop-in.
					if strings.HasPrefix(file, ".") || !strings.HasSuffix(file, ".conf") || dir != "/etc/systemd/system" && limitFile.MatchString(file) {
						d.odd = append(d.odd, path+"/"+file)
					}
				}
			case strings.Contains(name, "left4-server@") && name != "left4-server@.service", strings.Contains(name, "left4-overlay@") && name != "left4-overlay@.service":
				if !strings.HasPrefix(name, "left4-server@.service.") && !strings.HasPrefix(name, "left4-overlay@.service.") {
					d.odd = append(d.odd, path)
				}
			}
		}
	}
	for _, pid := range list("/proc") {
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		groups, _ := os.ReadFile(m.hostPath("/proc/" + pid + "/cgroup")) // it may have ended
		for element := range strings.SplitSeq(strings.TrimSpace(string(groups)), "/") {
			if m := ofUnit.FindStringSubmatch(element); m != nil && strings.HasPrefix(element, "left4-server@") {
				d.processes[m[1]]++
				break
			}
		}
	}
	return d, failed
}

// talk is how tests talk to left4d and to systemd over one connection.
type talk struct {
	conn            *dbus.Conn
	left4d, systemd dbus.BusObject
}

func talkTo(conn *dbus.Conn) talk {
	return talk{conn, conn.Object(names.Service, names.Root), conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")}
}

// jobRow is one job as ListJobs has it.
type jobRow struct {
	ID                         uint32
	Kind, Target, State, Cause string
	Object                     dbus.ObjectPath
}

func (k talk) jobs(filter map[string]dbus.Variant) (rows []jobRow, err error) {
	filter = maps.Clone(filter)
	filter["limit"] = dbus.MakeVariant(uint32(muchChaos))
	err = k.left4d.Call(names.Manager+".ListJobs", 0, filter).Store(&rows)
	return rows, err
}

// instanceRow is one instance as ListInstances has it.
type instanceRow struct {
	Name, Label, State, Desired, Cause, Blueprint string
	Port                                          uint16
	Object                                        dbus.ObjectPath
}

func (k talk) instances() (rows []instanceRow, err error) {
	err = k.left4d.Call(names.Manager+".ListInstances", 0, map[string]dbus.Variant{}).Store(&rows)
	return rows, err
}

// unitRow is one unit as systemd lists it.
type unitRow struct {
	Name, Description, Load, Active, Sub, Following string
	Object                                          dbus.ObjectPath
	Job                                             uint32
	JobType                                         string
	JobObject                                       dbus.ObjectPath
}

func (k talk) units(patterns ...string) (rows []unitRow, err error) {
	err = k.systemd.Call("org.freedesktop.systemd1.Manager.ListUnitsByPatterns", 0, []string{}, patterns).Store(&rows)
	return rows, err
}
