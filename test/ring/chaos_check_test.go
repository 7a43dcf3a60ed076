package ring

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/daemon/store"
	"left4.me/left4/dbus/names"
	"left4.me/left4/test/chaos"
)

// verdict is what comes of looking at a run of chaos: counts, and what must not be.
type verdict struct {
	*mayhem
	t     *testing.T
	table strings.Builder

	jobs      map[uint32]store.Job // accepted while there was chaos
	ids       []uint32             // of jobs, in order
	instances map[string]store.Instance
	layers    []string               // revisions of overlays and of the game, by their directories
	asked     map[uint32]*chaos.Call // by job
	lost      map[uint32]bool        // jobs whose callers do not know of them
	births    map[string][]int64     // when the instances of a name were made
	news      map[uint32][]heard
	ends      map[uint32][]heard

	wrongs []wrong
}

// wrong is one thing that must not be.
type wrong struct {
	name string // of the instance that it is about, "" = none
	job  uint32 // 0 = none
	text string
}

func (v *verdict) wrong(name string, job uint32, format string, args ...any) {
	v.wrongs = append(v.wrongs, wrong{name, job, fmt.Sprintf(format, args...)})
}

func (v *verdict) row(what string, format string, args ...any) {
	fmt.Fprintf(&v.table, "| %-46s %s\n", what, fmt.Sprintf(format, args...))
}

// judge compares what was asked, what was told, what the database and the disk hold and what runs. It ends the test where
// something is wrong, and prints all counts then, or in the end.
func (c *mayhem) judge(t *testing.T, last bool) {
	v := &verdict{
		mayhem: c, t: t,
		jobs: map[uint32]store.Job{}, instances: map[string]store.Instance{}, asked: map[uint32]*chaos.Call{},
		lost: map[uint32]bool{}, births: map[string][]int64{}, news: map[uint32][]heard{}, ends: map[uint32][]heard{},
	}
	v.readDatabase()
	v.judgeCalls()
	v.judgeJobs()
	v.judgeSignals()
	v.judgeJournal()
	v.judgeDefinitions()
	v.judgeStates()
	v.weigh()
	v.row("violations", "%d", len(v.wrongs))
	if last || len(v.wrongs) > 0 {
		t.Logf("chaos\n%s", v.table.String())
	}
	for n, w := range v.wrongs {
		if n == 20 {
			t.Errorf("and %d more", len(v.wrongs)-n)
			break
		}
		t.Errorf("%s%s", w.text, v.history(w))
	}
	if len(v.wrongs) > 0 {
		t.FailNow()
	}
}

// readDatabase reads a copy, while nothing is written.
func (v *verdict) readDatabase() {
	dir := v.t.TempDir()
	for _, file := range []string{"left4.db", "left4.db-wal"} {
		content, err := os.ReadFile(filepath.Join(v.State(), file))
		if os.IsNotExist(err) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), content, 0o600)
		}
		if err != nil {
			v.t.Fatal(err)
		}
	}
	db, err := store.Open(filepath.Join(dir, "left4.db"))
	if err != nil {
		v.t.Fatal(err)
	}
	defer db.Close()
	jobs, err := db.Jobs(store.JobFilter{Limit: 2 * muchChaos})
	if err != nil {
		v.t.Fatal(err)
	}
	instances, err := db.Instances()
	if err != nil {
		v.t.Fatal(err)
	}
	for _, in := range instances {
		v.instances[in.Name] = in
	}
	revisions, err := db.Revisions()
	if err != nil {
		v.t.Fatal(err)
	}
	for _, r := range revisions {
		layer := fmt.Sprintf("overlays/%d/%d", r.Overlay, r.ID)
		if r.Overlay == store.Game {
			layer = fmt.Sprintf("game/%d", r.ID)
		}
		v.layers = append(v.layers, layer)
	}
	told := v.mayhem.jobs(map[string]dbus.Variant{})
	if len(told) != len(jobs) {
		v.wrong("", 0, "the database has %d jobs, ListJobs tells %d", len(jobs), len(told))
	}
	for n, j := range jobs {
		if n < len(told) {
			if row := (jobRow{j.ID, j.Kind, j.Target, j.State, j.Cause, names.JobPath(j.ID)}); told[n] != row {
				v.wrong(j.Target, j.ID, "the database has job %+v, ListJobs tells %+v", row, told[n])
			}
		}
		if j.Created >= v.began {
			v.jobs[j.ID] = j
			v.ids = append(v.ids, j.ID)
		}
	}
	slices.Sort(v.ids)
}

// refusals are the errors that whoever asks for anything at any time must expect.
var refusals = []string{
	names.Error + "Busy", names.Error + "InstanceExists", names.Error + "NoSuchInstance", names.Error + "NoSuchJob",
	names.ErrAccessDenied, names.ErrInteractive,
}

// judgeCalls finds the job of each accepted call, and the call of each job: one that was neither answered nor refused
// may have made one.
func (v *verdict) judgeCalls() {
	var accepted, makeJobs, lost, made int
	refused := map[string]int{}
	sent := map[string]int{}
	var unknown []*chaos.Call
	for n := range v.calls {
		call := &v.calls[n]
		sent[call.Verb]++
		switch {
		case call.Lost():
			lost++
			if call.MakesJob() {
				unknown = append(unknown, call)
			}
			continue
		case call.Error != "":
			refused[call.Error]++
			if !slices.Contains(refusals, call.Error) {
				v.wrong(call.Name, 0, "%s %s was refused: %s %s", call.Verb, call.Name, call.Error, call.Text)
			}
			continue
		}
		accepted++
		if !call.MakesJob() {
			continue
		}
		makeJobs++
		j, stored := v.jobs[call.Job]
		switch {
		case !stored:
			v.wrong(call.Name, 0, "%+v was answered with a job that is not in the database", *call)
		case v.asked[call.Job] != nil:
			v.wrong(call.Name, call.Job, "two calls were answered with job %d", call.Job)
		case j.Kind != call.Verb || j.Target != call.Name || j.Requester != v.uids[v.user(call)]:
			v.wrong(call.Name, call.Job, "%+v was answered with job %d, which is %s %s of uid %d", *call, j.ID, j.Kind, j.Target, j.Requester)
		}
		v.asked[call.Job] = call
	}
	slices.SortFunc(unknown, func(a, b *chaos.Call) int { return int(a.Sent - b.Sent) })
	for _, id := range v.ids {
		j := v.jobs[id]
		if v.asked[id] != nil || j.Kind == "collect" {
			continue
		}
		n := slices.IndexFunc(unknown, func(call *chaos.Call) bool {
			return call.Verb == j.Kind && call.Name == j.Target && v.uids[v.user(call)] == j.Requester &&
				call.Sent <= j.Created && j.Created <= call.Answered
		})
		if n < 0 {
			v.wrong(j.Target, id, "nobody asked for job %d, %s %s", id, j.Kind, j.Target)
			continue
		}
		v.asked[id], v.lost[id] = unknown[n], true
		unknown = slices.Delete(unknown, n, n+1)
		made++
	}

	v.row("verbs sent", "%d by %d callers of %d users on %d instances in %.0f s (%.0f/s)", len(v.calls), len(v.users), len(v.uids),
		len(v.names), v.took.Seconds(), float64(len(v.calls))/v.took.Seconds())
	for _, verb := range slices.Sorted(maps.Keys(sent)) {
		v.row("  "+verb, "%d", sent[verb])
	}
	v.row("left4d killed", "%d times", v.kills)
	v.row("accepted", "%d, of them %d with a job", accepted, makeJobs)
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		v.row("refused: "+name, "%d", refused[name])
	}
	v.row("unknown (left4d was killed before it answered)", "%d: %d had made a job, %d would have and had not", lost, made, len(unknown))
	if died := len(v.lives) - 1; died != v.kills {
		v.wrong("", 0, "left4d was killed %d times and went %d times", v.kills, died)
	}
}

// judgeJobs looks at how the jobs ended.
func (v *verdict) judgeJobs() {
	results, endless, killed := map[string]map[string]int{}, 0, 0
	for _, id := range v.ids {
		j := v.jobs[id]
		if results[j.Kind] == nil {
			results[j.Kind] = map[string]int{}
		}
		results[j.Kind][j.State]++
		switch {
		case j.Finished == 0 || j.State == "queued" || j.State == "running":
			endless++
			v.wrong(j.Target, id, "job %d (%s %s) has no end: %s", id, j.Kind, j.Target, j.State)
		case j.State == "failed" && strings.HasSuffix(j.Cause, lookKilled):
			killed++
		case j.State == "failed" && !v.excused(j):
			v.wrong(j.Target, id, "job %d (%s %s) failed: %s", id, j.Kind, j.Target, j.Cause)
		case j.State != "done" && j.Cause == "":
			v.wrong(j.Target, id, "job %d (%s %s) is %s without a cause", id, j.Kind, j.Target, j.State)
		case j.State == "timeout" && (v.asked[id] == nil || v.asked[id].Timeout == 0):
			v.wrong(j.Target, id, "job %d (%s %s) timed out, and nobody was impatient: %s", id, j.Kind, j.Target, j.Cause)
		}
	}
	v.row("jobs", "%d", len(v.ids))
	for _, kind := range slices.Sorted(maps.Keys(results)) {
		var counts []string
		for _, state := range slices.Sorted(maps.Keys(results[kind])) {
			counts = append(counts, fmt.Sprintf("%s %d", state, results[kind][state]))
		}
		v.row("  "+kind, "%s", strings.Join(counts, ", "))
	}
	v.row("jobs without an end", "%d", endless)
	v.row("starts whose look at the port was killed", "%d", killed)
	if killed > 2 {
		v.wrong("", 0, "somebody kills what looks at the port, again and again: %d times", killed)
	}
}

// Once in some ten thousand verbs the look at the port is killed at its birth, where no kill of that instance is at work for
// seconds. By whom is not known; left4 tells it, and the next start goes well.
const lookKilled = ": the look at its port was killed by SIGKILL"

// excused tells whether a job had to fail: its instance was deleted before its turn came, or what was to be imported went
// with a left4d.
func (v *verdict) excused(j store.Job) bool {
	if j.Kind == "import-overlay" {
		return slices.ContainsFunc(v.lives, func(l life) bool { return l.to >= j.Created && l.to <= j.Finished })
	}
	return strings.HasPrefix(j.Cause, "there is no instance ")
}

// toldLate is how long after a job is stored as ended its end may still be on its way to the bus: it is looked at what
// the job has changed before that.
const toldLate = int64(5 * time.Second / time.Microsecond)

// judgeSignals looks at what was told of the jobs and the instances.
func (v *verdict) judgeSignals() {
	byName := map[string]int{}
	for n, l := range v.lives {
		byName[l.name] = n
	}
	order := map[uint32]int{} // when the end was told
	last := map[string]heard{}
	strangers, changes := 0, 0
	blamed := map[string]int{}
	for n := range v.heard {
		h := &v.heard[n]
		life, ok := byName[h.sender]
		if !ok {
			strangers++
			v.wrong("", 0, "%s %v came from %s, which is no left4d", h.member, h.body, h.sender)
			continue
		}
		h.life = life
		switch h.member {
		case "JobNew", "JobRemoved":
			id, kind, target := h.body[0].(uint32), h.body[2].(string), h.body[3].(string)
			j, ok := v.jobs[id]
			if !ok || j.Kind != kind || j.Target != target {
				v.wrong(target, id, "%s %v is told, and the database has %+v", h.member, h.body, j)
			}
			if h.member == "JobRemoved" {
				v.ends[id] = append(v.ends[id], *h)
				order[id] = n
				if result := h.body[4].(string); result != j.State {
					v.wrong(target, id, "job %d (%s %s) was told as %s, and the database has %s", id, kind, target, result, j.State)
				}
				continue
			}
			if _, ended := order[id]; ended {
				v.wrong(target, id, "job %d (%s %s) is told as new after its end was told", id, kind, target)
			}
			if slices.ContainsFunc(v.news[id], func(other heard) bool { return other.life == life }) {
				v.wrong(target, id, "job %d (%s %s) is told as new twice by one left4d", id, kind, target)
			}
			v.news[id] = append(v.news[id], *h)
		case "InstanceStateChanged":
			changes++
			name, old, now := h.body[0].(string), h.body[1].(string), h.body[2].(string)
			before, ok := last[name]
			// A new instance of the name begins as stopped.
			if ok && before.life == life && before.body[2] != old && old != "stopped" || old == now {
				v.wrong(name, 0, "%s is told to change from %s to %s, and before that it had changed to %v", name, old, now, before.body[2])
			}
			last[name] = *h
			// Nobody does anything here but by left4.
			if cause := h.body[3].(string); strings.Contains(cause, "outside left4") {
				blamed[cause]++
			}
		}
	}

	var once, twice, untold int
	var latest int64
	for _, id := range v.ids {
		j := v.jobs[id]
		if len(v.news[id]) == 0 {
			v.wrong(j.Target, id, "job %d (%s %s) was never told as new", id, j.Kind, j.Target)
		}
		switch {
		case j.Finished == 0:
		case len(v.ends[id]) == 1:
			once++
		case len(v.ends[id]) > 1:
			twice++
			v.wrong(j.Target, id, "the end of job %d (%s %s) was told %d times", id, j.Kind, j.Target, len(v.ends[id]))
		default:
			before, why := v.silenced(j)
			if why != "" {
				v.wrong(j.Target, id, "the end of job %d (%s %s) was never told: %s", id, j.Kind, j.Target, why)
				continue
			}
			untold++
			latest = max(latest, before)
		}
	}
	v.row("JobRemoved once", "%d", once)
	v.row("JobRemoved more than once", "%d", twice)
	v.row("ended, and left4d was killed before it told so", "%d, at most %d ms before", untold, latest/1000)
	v.row("signals of others", "%d", strangers)
	v.row("InstanceStateChanged", "%d", changes)
	for _, cause := range slices.Sorted(maps.Keys(blamed)) {
		v.row("  by nobody: "+cause, "%d", blamed[cause])
	}
	for _, in := range v.list() {
		h, ok := last[in.Name]
		if ok && h.life == len(v.lives)-1 && h.at > v.instances[in.Name].Created && h.body[2] != in.State {
			v.wrong(in.Name, 0, "%s is %s, and the last that was told is a change to %v", in.Name, in.State, h.body[2])
		}
	}
}

// judgeJournal looks whether the audit trail has every end that was told, and every call that was answered with a job.
func (v *verdict) judgeJournal() {
	v.Run(v.t, "journalctl", "--sync")
	read := func(id string) map[uint32]int {
		count := map[uint32]int{}
		for line := range strings.Lines(v.Run(v.t, "journalctl", "--no-pager", "--output=json", "--output-fields=LEFT4_JOB",
			"_SYSTEMD_UNIT=left4d.service", "MESSAGE_ID="+id)) {
			var entry struct {
				Job string `json:"LEFT4_JOB"`
			}
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				v.t.Fatalf("the journal tells %q: %v", line, err)
			}
			if id, err := strconv.ParseUint(entry.Job, 10, 32); err == nil {
				count[uint32(id)]++
			}
		}
		return count
	}
	for line := range strings.Lines(v.Journal(v.t, "left4d.service")) {
		if strings.Contains(line, "internal error") || strings.Contains(line, "panic") || strings.Contains(line, "DATA RACE") {
			v.wrong("", 0, "left4d says: %s", strings.TrimSpace(line))
		}
	}
	calls, ends := read(names.MessageCall), read(names.MessageJob)
	var noCall, noEnd int
	for _, id := range v.ids {
		j := v.jobs[id]
		if call := v.asked[id]; call != nil && !v.lost[id] && calls[id] == 0 {
			noCall++
			v.wrong(j.Target, id, "the journal does not have the call that job %d (%s %s) was made by", id, j.Kind, j.Target)
		}
		if len(v.ends[id]) > 0 && ends[id] != 1 || ends[id] > 1 {
			noEnd++
			v.wrong(j.Target, id, "the journal has the end of job %d (%s %s) %d times", id, j.Kind, j.Target, ends[id])
		}
	}
	v.row("calls, ends that the journal lacks", "%d, %d", noCall, noEnd)
}

// silenced tells how long before its kill a left4d had ended a job, or why its kill is no excuse for its silence.
func (v *verdict) silenced(j store.Job) (before int64, why string) {
	for _, l := range v.lives {
		// One that has just come is heard of after it has begun to end jobs.
		if l.to == 0 || j.Finished > l.to {
			continue
		}
		if before = l.to - j.Finished; before > toldLate {
			return 0, fmt.Sprintf("the left4d that ended it lived for another %d ms", before/1000)
		}
		// One that never began ends beside those that do.
		for _, id := range v.ids {
			later := v.jobs[id]
			if j.Started != 0 && later.Target == j.Target && id > j.ID && later.Started > j.Finished && later.Started < l.to {
				return 0, fmt.Sprintf("left4d had begun job %d before it was killed", id)
			}
		}
		return before, ""
	}
	return 0, "the left4d that ended it lives"
}

// judgeDefinitions compares the instances that there are, and their labels, with what was asked.
func (v *verdict) judgeDefinitions() {
	told := map[string]instanceRow{}
	for _, in := range v.list() {
		told[in.Name] = in
		def, ok := v.instances[in.Name]
		if !ok || def.Label != in.Label || def.Blueprint != in.Blueprint || def.Port != in.Port {
			v.wrong(in.Name, 0, "ListInstances tells %+v, the database has %+v", in, def)
		}
	}
	for name := range v.instances {
		if _, ok := told[name]; !ok {
			v.wrong(name, 0, "%s is in the database and not in ListInstances", name)
		}
	}
	var objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	if err := v.left4d.Call("org.freedesktop.DBus.ObjectManager.GetManagedObjects", 0).Store(&objects); err != nil {
		v.t.Fatal(err)
	}
	managed := 0
	for path, interfaces := range objects {
		name, ok := names.InstanceName(path)
		if !ok {
			continue
		}
		managed++
		p := interfaces[names.Instance]
		row := told[name]
		if p["State"].Value() != row.State || p["DesiredState"].Value() != row.Desired || p["Port"].Value() != row.Port || p["Cause"].Value() != row.Cause {
			v.wrong(name, 0, "GetManagedObjects tells %v, ListInstances %+v", p, row)
		}
		if drifted := (row.State == "running") != (row.Desired == "running"); p["Drifted"].Value() != drifted {
			v.wrong(name, 0, "%s is %s, wanted %s, and Drifted is %v", name, row.State, row.Desired, p["Drifted"])
		}
	}
	if managed != len(told) {
		v.wrong("", 0, "GetManagedObjects tells %d instances, ListInstances %d", managed, len(told))
	}

	deleted := 0
	for _, name := range v.names {
		deleted += v.judgeLifeSpans(name)
		if in, ok := v.instances[name]; ok {
			v.judgeLabel(in)
		}
	}
	for name := range v.instances {
		if !slices.Contains(v.names, name) {
			v.wrong(name, 0, "there is an instance %s", name)
		}
	}
	v.row("instances made, deleted, there", "%d, %d, %d", deleted+len(v.instances), deleted, len(v.instances))
}

// judgeLifeSpans matches the calls that make an instance with the instances of a name that there were: each but the
// last was deleted by a job.
func (v *verdict) judgeLifeSpans(name string) (deleted int) {
	made := map[int64]bool{}
	for _, id := range v.ids {
		j := v.jobs[id]
		if j.Target == name && j.Kind == "delete" && j.State == "done" && j.Instance != 0 {
			made[j.Instance] = true
		}
	}
	deleted = len(made)
	if in, ok := v.instances[name]; ok {
		if made[in.Created] {
			v.wrong(name, 0, "%s is there, though a job has deleted it", name)
		}
		made[in.Created] = true
	}
	v.births[name] = slices.Sorted(maps.Keys(made))
	within := func(call *chaos.Call) func(int64) bool {
		return func(at int64) bool { return call.Sent <= at && at <= call.Answered }
	}
	left := slices.DeleteFunc(slices.Clone(v.births[name]), func(at int64) bool { return at < v.began })
	take := func(which func(*chaos.Call) bool, must bool) {
		for n := range v.calls {
			call := &v.calls[n]
			if call.Name != name || !which(call) {
				continue
			}
			if i := slices.IndexFunc(left, within(call)); i >= 0 {
				left = slices.Delete(left, i, i+1)
			} else if must {
				v.wrong(name, 0, "%+v was accepted, and nothing came of it", *call)
			}
		}
	}
	take(func(call *chaos.Call) bool { return call.Verb == "create" && call.Error == "" }, true)
	take(func(call *chaos.Call) bool {
		return call.Verb == "create" && call.Lost() || call.Verb == "initialize" && call.Label != "" && (call.Error == "" || call.Lost())
	}, false)
	for _, at := range left {
		v.wrong(name, 0, "nobody asked for the %s that was made at %s", name, v.when(at))
	}
	return deleted
}

// judgeLabel tells whether an instance has a label that may be the one written last.
func (v *verdict) judgeLabel(in store.Instance) {
	var possible []string
	if in.Created < v.began {
		possible = append(possible, "")
	}
	for n := range v.calls {
		w := &v.calls[n]
		if w.Name != in.Name || w.Label == "" || w.Error != "" && !w.Lost() || w.Answered < in.Created {
			continue
		}
		over := slices.ContainsFunc(v.calls, func(later chaos.Call) bool {
			return later.Name == in.Name && later.Label != "" && later.Error == "" && later.Sent > w.Answered
		})
		if !over {
			possible = append(possible, w.Label)
		}
		if w.Error == "" && w.Sent > in.Created {
			possible = slices.DeleteFunc(possible, func(label string) bool { return label == "" })
		}
	}
	if !slices.Contains(possible, in.Label) {
		v.wrong(in.Name, 0, "the label of %s is %q, and the last that was written is one of %q", in.Name, in.Label, possible)
	}
}

// fate is what the jobs of an instance make of it.
type fate struct {
	enabled, up, rendered, written known
}

// known is what is known of it: a job that was called off may have done its work or not.
type known int

const (
	no known = iota
	yes
	either
)

func (a known) String() string { return [...]string{"no", "yes", "either"}[a] }

// unless is what a comes to where something that would make it b was called off.
func (a known) unless(b known) known {
	if a == b {
		return a
	}
	return either
}

func (a known) fits(is bool) bool { return a == either || (a == yes) == is }

// after is the fate of an instance after one more job. A job that never began changes nothing. A start that is called
// off is taken back. What stops is not: it has disabled at least, and systemd may have been told already. A restart
// that is called off may have stopped the server, and leaves enabled what was.
func (f fate) after(j store.Job, resumed bool) fate {
	if j.Started == 0 || j.State == "skipped" {
		return f
	}
	done := j.State == "done"
	switch j.Kind {
	case "start", "restart":
		switch {
		case done:
			return fate{yes, yes, yes, yes}
		case j.State == "failed":
			return fate{f.enabled.unless(yes), either, f.rendered.unless(yes), f.written.unless(yes)}
		}
		if j.Kind == "restart" && f.up != no {
			f.up = either
		}
		// The next left4d does not know what was there before an earlier one began.
		if resumed && (j.Kind == "restart" || f.up != yes) {
			f.enabled = f.enabled.unless(no)
		}
		f.rendered, f.written = f.rendered.unless(yes), f.written.unless(yes)
	case "stop", "kill":
		f.enabled = no
		if done || f.up == no {
			f.up = no
		} else {
			f.up = either
		}
	case "reset", "delete":
		if done {
			return fate{}
		}
		f.enabled = no
		f.up, f.rendered, f.written = f.up.unless(no), f.rendered.unless(no), f.written.unless(no)
	case "initialize":
		if done {
			f.rendered = yes
		} else {
			f.rendered = f.rendered.unless(yes)
		}
	}
	return f
}

// judgeStates compares what runs, what is enabled, mounted and on disk with what was asked for last.
func (v *verdict) judgeStates() {
	disk, up := v.looked(v.t), v.up()
	mounted := map[string]int{}
	for _, line := range v.mounts() {
		name, _ := strings.CutSuffix(strings.TrimPrefix(strings.Fields(line)[4], "/var/lib/left4/runtime/"), "/merged")
		mounted[name]++
	}
	for _, odd := range disk.odd {
		v.wrong("", 0, "left behind: %s", odd)
	}
	slices.Sort(disk.layers)
	slices.Sort(v.layers)
	if !slices.Equal(disk.layers, v.layers) {
		v.wrong("", 0, "the disk has the revisions %q, the database %q", disk.layers, v.layers)
	}
	for path, name := range disk.found {
		if _, ok := v.instances[name]; !ok {
			v.wrong(name, 0, "left behind of an instance that is gone: %s", path)
		}
	}
	for _, all := range []map[string]int{mounted, disk.processes} {
		for name := range all {
			if _, ok := v.instances[name]; !ok {
				v.wrong(name, 0, "%s is gone, and has %d mounts and %d processes", name, mounted[name], disk.processes[name])
			}
		}
	}
	for name, state := range up {
		if _, ok := v.instances[name]; !ok {
			v.wrong(name, 0, "%s is gone, and its unit is %s", name, state)
		}
	}

	list := map[string]instanceRow{}
	for _, in := range v.list() {
		list[in.Name] = in
	}
	for _, name := range v.names {
		in, ok := v.instances[name]
		if !ok {
			v.states["absent"]++
			continue
		}
		var f fate
		for _, id := range v.ids {
			if j := v.jobs[id]; j.Target == name && j.Instance == in.Created {
				f = f.after(j, len(v.news[id]) > 1)
			}
		}
		if f.up == either || f.enabled == either {
			v.halfWay++
		}
		_, enabled := disk.found["/etc/systemd/system/multi-user.target.wants/"+unit(name)]
		_, rendered := disk.found["/var/lib/left4/instances/"+name]
		_, written := disk.found["/var/lib/left4/runtime/"+name]
		_, dropIn := disk.found["/etc/systemd/system/"+unit(name)+".d"]
		_, marked := disk.found["/run/left4/mounted/"+name]
		runs := up[name] == "active"
		row := list[name]
		v.states[row.State]++
		// A kill that was called off may have killed, and does not let systemd forget that.
		if state := up[name]; state != "" && !runs && !(state == "failed" && f.up == either) {
			v.wrong(name, 0, "the unit of %s is %s", name, state)
		}
		if !f.up.fits(runs) || !f.enabled.fits(enabled) {
			v.wrong(name, 0, "%s runs: %v, is enabled: %v; its jobs demand %v and %v", name, runs, enabled, f.up, f.enabled)
		}
		if !f.rendered.fits(rendered) || !f.written.fits(written) || rendered && !dropIn {
			v.wrong(name, 0, "%s has files in instances: %v, in runtime: %v, a drop-in: %v; its jobs demand %v and %v", name, rendered, written, dropIn, f.rendered, f.written)
		}
		one := map[bool]int{true: 1}[runs]
		if mounted[name] != one || disk.processes[name] != one || marked != runs {
			v.wrong(name, 0, "%s runs: %v, and has %d mounts (remembered: %v) and %d processes", name, runs, mounted[name], marked, disk.processes[name])
		}
		if (row.State == "running") != runs || (row.Desired == "running") != enabled {
			v.wrong(name, 0, "%s runs: %v, is enabled: %v, and left4d tells %+v", name, runs, enabled, row)
		}
	}
	var counts []string
	total := 0
	for _, state := range slices.Sorted(maps.Keys(v.states)) {
		counts = append(counts, fmt.Sprintf("%d %s", v.states[state], state))
		total += v.states[state]
	}
	v.row("states after each round", "%s", strings.Join(counts, ", "))
	v.row("  as the last verb demands", "%d, and %d where that was called off half way", total-v.halfWay, v.halfWay)
	v.row("enabled, mounts, processes of servers", "%d, %d, %d", disk.enabled, len(mounted), len(disk.processes))
	v.row("left behind, revisions on disk", "%d, %d", len(disk.odd), len(disk.layers))
	for line := range strings.Lines(v.Run(v.t, "systemctl", "--failed", "--no-legend", "--plain")) {
		if !strings.HasPrefix(line, "left4-server@") { // of those it is known
			v.wrong("", 0, "a unit has failed: %s", line)
		}
	}
}

// looked is what is on the disk.
func (c *mayhem) looked(t TB) diskState {
	t.Helper()
	d, err := c.disk()
	if err != nil {
		t.Fatalf("cannot look at the disk: %v", err)
	}
	return d
}

// weigh tells what left4d takes in the end.
func (v *verdict) weigh() {
	pid := v.MainPID(v.t, "left4d.service")
	status := v.ReadFile(v.t, fmt.Sprintf("/proc/%d/status", pid))
	_, peak, _ := strings.Cut(status, "VmHWM:")
	peak, _, _ = strings.Cut(peak, "\n")
	fds := strings.Count(v.Run(v.t, "ls", fmt.Sprintf("/proc/%d/fd", pid))+"\n", "\n")
	v.row("left4d: peak memory, descriptors", "%s, %d", strings.TrimSpace(peak), fds)
	if fds > 64 {
		v.wrong("", 0, "left4d has %d descriptors open", fds)
	}
}

// when is a time as people follow it: seconds since the chaos began.
func (v *verdict) when(at int64) string {
	if at == 0 {
		return "-"
	}
	return strconv.FormatFloat(float64(at-v.began)/1e6, 'f', 4, 64)
}

// history is all that happened to the instance that something is wrong with, around the job that it is about.
func (v *verdict) history(w wrong) string {
	if w.name == "" {
		return ""
	}
	type line struct {
		at   int64
		text string
	}
	var all []line
	add := func(at int64, format string, args ...any) { all = append(all, line{at, fmt.Sprintf(format, args...)}) }
	mark := int64(0)
	for _, id := range v.ids {
		j := v.jobs[id]
		if j.Target != w.name {
			continue
		}
		if id == w.job {
			mark = j.Created
		}
		lost := ""
		if v.lost[id] {
			lost = ", the answer was lost"
		}
		add(j.Created, "job %d %s of %s: %s, started %s, finished %s, timeout %s, status %q, cause %q, instance of %s, told %d times as new, %d times as ended%s",
			id, j.Kind, j.RequesterName, j.State, v.when(j.Started), v.when(j.Finished), j.Timeout, j.Status, j.Cause, v.when(j.Instance), len(v.news[id]), len(v.ends[id]), lost)
	}
	for _, call := range v.calls {
		of := v.jobs[call.Job].Target
		if call.Name == w.name && call.Label != "" || call.Verb == "cancel" && of == w.name {
			add(call.Sent, "%s of caller %d, label %q, job %d: answered %s %s %s", call.Verb, call.Caller, call.Label, call.Job, v.when(call.Answered), call.Error, call.Text)
		}
	}
	for _, h := range v.heard {
		if h.member == "InstanceStateChanged" && h.body[0] == w.name {
			add(h.at, "changes from %s to %s: %s", h.body[1], h.body[2], h.body[3])
		}
	}
	for n, l := range v.lives {
		add(l.from, "left4d %d comes", n)
		if l.to != 0 {
			add(l.to, "left4d %d goes", n)
		}
	}
	slices.SortStableFunc(all, func(a, b line) int { return int(a.at - b.at) })
	const around = 40
	from := len(all) - around
	if mark != 0 {
		from = slices.IndexFunc(all, func(l line) bool { return l.at >= mark }) - around/2
	}
	all = all[max(0, from):min(len(all), max(0, from)+around)]
	var b strings.Builder
	for _, l := range all {
		fmt.Fprintf(&b, "\n  %10s %s", v.when(l.at), l.text)
	}
	if j, ok := v.jobs[w.job]; ok {
		second := int64(time.Second / time.Microsecond)
		at := func(t int64) string { return fmt.Sprintf("@%d", t/second) }
		fmt.Fprintf(&b, "\n  the journal of %s meanwhile:\n%s", w.name, v.Try("journalctl", "--no-pager", "--output=short-precise",
			"--since="+at(j.Created-second), "--until="+at(max(j.Created, j.Finished)+2*second), "--unit="+unit(w.name), "--unit="+overlayUnit(w.name)).Out)
	}
	return b.String()
}
