package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// Problem is something that is not as left4 has left it, or would want it.
type Problem struct {
	Kind     string
	Name     string // of what it is about; the two together name the problem
	Severity string
	What     string // in one line, for people
	Repair   string // what a repair would do, "" = only a person can mend it
}

// How bad a problem is. A notice is none, but good to know.
const (
	SeverityError   = "error"
	SeverityWarning = "warning"
	SeverityNotice  = "notice"
)

// check looks for one kind of problem. Nothing looks by itself but a left4d that has just started.
type check struct {
	kind string
	// slow tells that it takes a rendering of every instance, or a unit of its own: it is done for who asks.
	slow bool
	find func(*Daemon, *examination) error
	// repair mends one that find has found. It removes nothing that anybody could want, and can be done again.
	repair func(d *Daemon, ctx context.Context, j *job, name string) error
}

// checks are in the order in which they are told and repaired: what another needs comes first. An init, because repairs
// are jobs, whose table names them.
var checks []check

func init() {
	checks = []check{
		{kind: "restored-database", find: (*Daemon).findLosses, repair: (*Daemon).acknowledge},
		{kind: "failed-backup", find: (*Daemon).findFailedBackup, repair: (*Daemon).backUp},
		{kind: "damaged-copy", find: (*Daemon).findDamagedCopies},
		{kind: "orphaned-overlay", find: (*Daemon).findOrphanedOverlays, repair: (*Daemon).adoptOverlay},
		{kind: "orphaned-revision", find: (*Daemon).findOrphanedRevisions, repair: (*Daemon).adoptRevision},
		{kind: "missing-revision", find: (*Daemon).findMissingRevisions, repair: (*Daemon).loseRevision},
		{kind: "orphaned-instance", find: (*Daemon).findOrphanedInstances, repair: (*Daemon).adoptInstance},
		{kind: "missing-overlay", find: (*Daemon).findMissingOverlays},
		{kind: "unknown-mount", find: (*Daemon).findUnknownMounts, repair: (*Daemon).renderAgain},
		{kind: "changed-unit", slow: true, find: (*Daemon).findChangedUnits, repair: (*Daemon).renderAgain},
		{kind: "wrong-owner", find: (*Daemon).findWrongOwners, repair: (*Daemon).ownAgain},
		{kind: "leftover", find: (*Daemon).findLeftovers, repair: (*Daemon).removeLeftover},
		{kind: "full-disk", find: (*Daemon).findFullDisks},
		{kind: "no-overlay", slow: true, find: (*Daemon).findNoOverlay},
		{kind: "missing-library", find: (*Daemon).findMissingLibraries},
		{kind: "missing-steamclient", find: (*Daemon).findMissingSteamclient},
		{kind: "bad-settings", find: (*Daemon).findBadSettings},
		{kind: "no-installer", find: (*Daemon).findNoInstaller},
		{kind: "taken-port", slow: true, find: (*Daemon).findTakenPorts},
		{kind: "shared-port", find: (*Daemon).findSharedPorts},
		{kind: "wrong-slice", find: (*Daemon).findWrongSlices},
		{kind: "missing-controller", find: (*Daemon).findMissingControllers},
		{kind: "script-network", slow: true, find: (*Daemon).findScriptNetwork},
		{kind: "missing-rule", find: (*Daemon).findMissingRule},
		{kind: "old-systemd", find: (*Daemon).findOldSystemd},
		{kind: "other-version", slow: true, find: (*Daemon).findOtherVersions},
		{kind: "masked-unit", find: (*Daemon).findMasked},
		{kind: "edited-unit", find: (*Daemon).findEdits},
	}
}

// examination is one look for problems.
type examination struct {
	ctx     context.Context
	machine *machine
	self    *job // the repair that looks, nil = none
	kind    string
	all     []Problem
}

func (e *examination) add(name, severity, repair, what string, args ...any) {
	e.all = append(e.all, Problem{e.kind, name, severity, fmt.Sprintf(what, args...), repair})
}

// lookFor has one check done.
func (d *Daemon) lookFor(ctx context.Context, m *machine, c check, self *job) []Problem {
	e := &examination{ctx: ctx, machine: m, self: self, kind: c.kind}
	if err := c.find(d, e); err != nil {
		e.add("", SeverityWarning, "", "cannot look for it: %v", err)
	}
	return e.all
}

// Problems are all that are found now.
func (d *Daemon) Problems(ctx context.Context) []Problem {
	var all []Problem
	m := d.machine(ctx)
	for _, c := range checks {
		all = append(all, d.lookFor(ctx, m, c, nil)...)
	}
	return all
}

// logProblems tells the log what is wrong when left4d starts.
func (d *Daemon) logProblems() {
	defer d.running.Done()
	m := d.machine(d.ctx)
	for _, c := range checks {
		if c.slow {
			continue
		}
		for _, p := range d.lookFor(d.ctx, m, c, nil) {
			tell := d.Log.Warn
			if p.Severity == SeverityError {
				tell = d.Log.Error
			}
			if d.ctx.Err() == nil && p.Severity != SeverityNotice {
				tell(strings.TrimSuffix(p.Kind+" "+p.Name, " ")+": "+p.What, "problem", p.Kind)
			}
		}
	}
}

// maxProblem is more than any problem's kind and name have: a path is the longest.
const maxProblem = 5000

// RepairProblems accepts a job that mends problems, each named as kind/name, or by its kind all of that; none is all that
// can be repaired. Error: InvalidArgument.
func (d *Daemon) RepairProblems(which []string, r Request) (Job, error) {
	for _, problem := range which {
		kind, _, _ := strings.Cut(problem, "/")
		i := slices.IndexFunc(checks, func(c check) bool { return c.kind == kind })
		switch {
		case len(problem) > maxProblem:
			return Job{}, errorf(InvalidArgument, "there are no problems with names as long as %q", shorten(problem))
		case i < 0:
			return Job{}, errorf(InvalidArgument, "there are no problems of the kind %q", shorten(kind))
		case checks[i].repair == nil:
			return Job{}, errorf(InvalidArgument, "cannot repair %s: only a person can", shorten(problem))
		}
	}
	row := store.Job{Kind: repairKind, Target: problemsTarget}
	row.Parameters.V.Problems = which
	return d.submit(&job{Job: Job{Job: row}}, r)
}

// repair looks anew before each kind: what was repaired may have been the reason of others.
func (d *Daemon) repair(ctx context.Context, j *job) error {
	which := j.Parameters.V.Problems
	var done []string
	var failed []error
	for _, c := range checks {
		wanted := func(problem string) bool {
			return len(which) == 0 || slices.Contains(which, c.kind) || problem != "" && slices.Contains(which, problem)
		}
		if c.repair == nil || !wanted("") && !slices.ContainsFunc(which, func(p string) bool { return strings.HasPrefix(p, c.kind+"/") }) {
			continue
		}
		for _, p := range d.lookFor(ctx, d.machine(ctx), c, j) {
			name := p.Kind + "/" + p.Name
			if p.Repair == "" || !wanted(name) {
				continue
			}
			if ctx.Err() != nil {
				return errors.Join(append(failed, context.Cause(ctx))...)
			}
			d.step(j, "repairing %s", name)
			if err := c.repair(d, ctx, j, p.Name); err != nil {
				failed = append(failed, fmt.Errorf("cannot repair %s: %w", name, err))
				continue
			}
			d.Log.Info("repaired "+name, "problem", p.Kind)
			done = append(done, name)
		}
	}
	switch {
	case len(failed) > 0:
		return errors.Join(failed...)
	case len(done) == 0:
		return &skippedError{"there is nothing to repair"}
	case len(done) > 5:
		d.step(j, "repaired %d problems", len(done))
	default:
		d.step(j, "repaired %s", strings.Join(done, ", "))
	}
	return nil
}

func moment(us int64) string { return time.UnixMicro(us).UTC().Format("2006-01-02 15:04:05 UTC") }

func (d *Daemon) findLosses(e *examination) error {
	losses, err := d.Store.Losses()
	if err != nil || len(losses) == 0 {
		return err
	}
	first, last := losses[0], losses[len(losses)-1]
	aside := ""
	if last.Aside != "" {
		aside = "; it is kept as " + last.Aside
	}
	e.add("left4.db", SeverityError, "take note of it: it is not told any more", "the database was restored at %s: %s%s. What was changed after %s, when the backup was made, is lost",
		moment(last.Restored), strings.TrimPrefix(last.Why, "it "), aside, moment(first.Backup))
	return nil
}

func (d *Daemon) acknowledge(context.Context, *job, string) error { return d.Store.Acknowledge() }

func (d *Daemon) findFailedBackup(e *examination) error {
	made, err := d.Store.Backup()
	if err == nil {
		return nil
	}
	since := "there is none"
	if !made.IsZero() {
		since = "the last one is of " + moment(made.UnixMicro())
	}
	e.add("left4.db", SeverityWarning, "try again", "the database could not be backed up, %s: %v", since, err)
	return nil
}

func (d *Daemon) backUp(context.Context, *job, string) error { return d.Store.BackUp() }

func (d *Daemon) findDamagedCopies(e *examination) error {
	all, err := d.Store.Damaged()
	for _, path := range all {
		e.add(filepath.Base(path), SeverityNotice, "", "%s was set aside when the database was restored; remove it when nobody wants to look into it", path)
	}
	return err
}

func (d *Daemon) findOrphanedOverlays(e *examination) error {
	if found, err := d.unknownOverlays(); err != nil || len(found) == 0 {
		return err
	}
	names := d.keptNames()
	// What is being created or deleted is not looked at halfway.
	d.accept.Lock()
	defer d.accept.Unlock()
	found, err := d.unknownOverlays()
	for _, id := range found {
		e.add(revisionName(id), SeverityError, "define it again as overlay "+d.nameFor(id, names), "%s has files, and no overlay is known that they belong to", d.layerPath(id, ""))
	}
	return err
}

func (d *Daemon) unknownOverlays() ([]uint32, error) {
	onDisk, err := d.numbers("overlays")
	return slices.DeleteFunc(onDisk, func(id uint32) bool { return d.overlayName(id) != "" }), err
}

// layersKnown are the game and the overlays, by id.
func (d *Daemon) layersKnown() []uint32 {
	all := []uint32{store.Game}
	for _, o := range d.Overlays() {
		all = append(all, o.ID)
	}
	return all
}

func (d *Daemon) findOrphanedRevisions(e *examination) error {
	d.accept.Lock()
	defer d.accept.Unlock()
	rows, err := d.Store.Revisions() // those that a job is about to publish, too
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, r := range rows {
		known[layerName(r.Overlay, r.ID)] = true
	}
	for _, overlay := range d.layersKnown() {
		onDisk, err := d.numbers(layerDir(overlay))
		if err != nil {
			return err
		}
		// What would be taken for one that nobody needs any more is not offered.
		newest := onDisk[max(len(onDisk)-1-defaultKeep, 0):]
		for _, n := range onDisk {
			layer := layerName(overlay, n)
			if known[layer] {
				continue
			}
			repair := ""
			if n > d.currentOf(overlay) && slices.Contains(newest, n) {
				repair = fmt.Sprintf("take it in as revision %d of %s", n, d.layerTitle(layerDir(overlay)))
			}
			e.add(layer, SeverityWarning, repair, "%s has files, and no revision is known that they are", filepath.Join(d.Layout.State, layer))
		}
	}
	return nil
}

func (d *Daemon) findMissingRevisions(e *examination) error {
	// Not while they are taken out of the way.
	d.accept.Lock()
	defer d.accept.Unlock()
	d.plans.RLock()
	defer d.plans.RUnlock()
	d.mu.Lock()
	var rows []store.Revision
	for _, all := range d.revisions {
		rows = append(rows, all...)
	}
	d.mu.Unlock()
	slices.SortFunc(rows, func(a, b store.Revision) int {
		return strings.Compare(layerName(a.Overlay, a.ID), layerName(b.Overlay, b.ID))
	})
	for _, r := range rows {
		layer, lost := layerName(r.Overlay, r.ID), ""
		layers, err := d.layersOf(r.Overlay, r.ID)
		if err != nil {
			lost = layerName(r.Overlay, r.Base) // nothing is known of what it lies over
		}
		for _, l := range layers {
			if errors.Is(d.Layout.CheckLower(l), fs.ErrNotExist) {
				lost = l
			}
		}
		if lost == "" {
			continue
		}
		severity, repair := SeverityWarning, "forget it"
		if older := d.olderThan(r); r.Current && older != 0 {
			severity, repair = SeverityError, fmt.Sprintf("forget it; revision %d becomes the current one", older)
		} else if r.Current {
			severity, repair = SeverityError, "forget it; there is no older one, so new files have to be imported"
		}
		e.add(layer, severity, repair, "revision %d of %s is not there: %s is missing", r.ID, d.layerTitle(layerDir(r.Overlay)), filepath.Join(d.Layout.State, lost))
	}
	return nil
}

// traces are what there is of each instance, in words for people.
func (d *Daemon) traces(ctx context.Context) (map[string][]string, error) {
	all := map[string][]string{}
	add := func(what string, names ...string) {
		for _, name := range names {
			if units.ValidName(name) {
				all[name] = append(all[name], what)
			}
		}
	}
	for _, dir := range []struct{ path, what string }{
		{"runtime", "files that its server wrote"}, {"instances", "rendered files"},
	} {
		entries, err := os.ReadDir(filepath.Join(d.Layout.State, dir.path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			add(dir.what, e.Name())
		}
	}
	dropIns, links, err := d.Config.Traces()
	if err != nil {
		return nil, err
	}
	add("a drop-in of its unit", dropIns...)
	add("a link that starts it at boot", links...)
	for _, unit := range []struct{ of, what string }{
		{units.ServerUnit("*"), "a running server"}, {units.OverlayUnit("*"), "a mount"},
	} {
		running, err := d.Units.Running(ctx, unit.of)
		if err != nil {
			return nil, err
		}
		for _, name := range running {
			if name, ok := units.InstanceOf(name); ok {
				add(unit.what, name)
			}
		}
	}
	return all, nil
}

func (d *Daemon) findOrphanedInstances(e *examination) error {
	traces, err := d.traces(e.ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	for name := range traces {
		// Known, or on its way out.
		if d.instances[name] != nil || len(d.queues[name]) > 0 {
			delete(traces, name)
		}
	}
	d.mu.Unlock()
	names, whole := sortedKeys(traces), map[string]bool{}
	for _, name := range names {
		_, err := d.readKept(name)
		whole[name] = err == nil
	}
	// Those that have a port come first, before another is given it as the next that is free.
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case whole[a] == whole[b]:
			return 0
		case whole[a]:
			return -1
		}
		return 1
	})
	for _, name := range names {
		what := strings.Join(traces[name], ", ")
		repair := "define it again, as it was when it was last rendered"
		if !whole[name] {
			repair = "define it again, with the port and the overlays that are left of it and the default of all else"
		}
		e.add(name, SeverityError, repair, "no instance %s is known, but there is %s; left4ctl delete %s removes it", name, what, name)
	}
	return nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	all := make([]K, 0, len(m))
	for key := range m {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

func (d *Daemon) findMissingOverlays(e *examination) error {
	for _, in := range d.Instances() {
		if _, err := d.layers(d.spec(in.Instance)); err != nil {
			e.add(in.Name, SeverityError, "", "instance %s cannot be started: %v; left4ctl configure %s gives it other overlays", in.Name, err, in.Name)
		}
	}
	return nil
}

// idle tells whether no job is at an instance. What it is at may look wrong for a moment.
func (d *Daemon) idle(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.queues[name]) == 0
}

func (d *Daemon) findUnknownMounts(e *examination) error {
	for _, in := range d.Instances() {
		_, mounted, err := d.Layout.MountedLower(in.Name)
		if err != nil || !mounted || !d.idle(in.Name) {
			continue // what was mounted is told with the instance
		}
		if _, _, err := d.Layout.ReadInstance(in.Name); errors.Is(err, fs.ErrNotExist) {
			e.add(in.Name, SeverityWarning, "render it again, for its next start", "the files of %s are mounted, and the plan of that is gone", in.Name)
		}
	}
	return nil
}

// findChangedUnits compares those lines of a drop-in that only a start writes: limits and the description may be newer or older.
func (d *Daemon) findChangedUnits(e *examination) error {
	for _, in := range d.Instances() {
		if e.ctx.Err() != nil {
			return context.Cause(e.ctx)
		}
		enabled, err := d.Config.Enabled(in.Name)
		if err != nil || !enabled || !d.idle(in.Name) {
			continue
		}
		text, err := d.Config.ReadDropIn(in.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			e.add(in.Name, SeverityError, "write it again", "%s starts at boot, but %s is missing", in.Name, d.Config.DropInPath(in.Name))
			continue
		case err != nil:
			return err
		}
		plan, _, err := d.Layout.ReadInstance(in.Name)
		if err != nil {
			continue
		}
		r, err := d.render(in.Instance)
		if err != nil || !samePart(plan.Digest, r.plan.Digest, commandPart) || !samePart(plan.Digest, r.plan.Digest, restartPart) {
			continue // a start would change it
		}
		if want, err := r.server.DropIn(); err == nil && !slices.Equal(settings(text), settings(want)) {
			e.add(in.Name, SeverityWarning, "write it again", "%s is not what left4 wrote; systemctl edit %s is where changes of it belong", d.Config.DropInPath(in.Name), units.ServerUnit(in.Name))
		}
	}
	return nil
}

func samePart(a, b string, part int) bool {
	x, y := strings.Split(a, "-"), strings.Split(b, "-")
	return len(x) == digestParts && len(y) == digestParts && x[part] == y[part]
}

// settings are the lines of a drop-in that decide what is run.
func settings(dropIn []byte) []string {
	return slices.DeleteFunc(strings.Split(string(dropIn), "\n"), func(line string) bool {
		return !strings.HasPrefix(line, "Exec") && !strings.HasPrefix(line, "Restart")
	})
}

// renderAgain puts on disk what the next start needs.
func (d *Daemon) renderAgain(ctx context.Context, _ *job, name string) error {
	in, err := d.Instance(name)
	if err != nil {
		return err
	}
	defer d.lockUnit(name)()
	if idle, err := d.prepareIdle(in.Instance); err != nil || !idle {
		return err
	}
	return d.freshen(ctx, name)
}

// prepareIdle renders an instance that no job is at: what a delete removes must not come back behind it.
func (d *Daemon) prepareIdle(def store.Instance) (idle bool, err error) {
	d.accept.Lock()
	defer d.accept.Unlock()
	if _, err := d.Instance(def.Name); err != nil || !d.idle(def.Name) {
		return false, nil
	}
	_, err = d.prepare(def)
	return true, err
}

// owned is a directory that must belong to somebody, and have a mode where it is root's.
type owned struct {
	path string
	uid  int
	mode uint32 // 0 = any: a server changes that of its own
}

func (d *Daemon) owned() ([]owned, error) {
	uid, _, err := d.Layout.Owner()
	if err != nil {
		return nil, err
	}
	root := os.Geteuid()
	all := []owned{
		{"instances", root, 0o700}, {"runtime", root, 0o700}, {"overlays", root, 0o755}, {"game", root, 0o755},
		{"steam", uid, 0}, {"workshop", root, 0o700}, {"workshop/incoming", uid, 0},
	}
	entries, err := os.ReadDir(filepath.Join(d.Layout.State, "runtime"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if units.ValidName(e.Name()) {
			dir := path.Join("runtime", e.Name())
			all = append(all, owned{dir, root, 0o755}, owned{path.Join(dir, "upper"), uid, 0}, owned{path.Join(dir, "work"), root, 0})
		}
	}
	return all, nil
}

func (d *Daemon) findWrongOwners(e *examination) error {
	all, err := d.owned()
	if err != nil {
		return err
	}
	for _, o := range all {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(d.Layout.State, o.path), &st); err != nil {
			continue
		}
		switch mode := st.Mode & 0o7777; {
		case st.Mode&unix.S_IFMT != unix.S_IFDIR:
			e.add(o.path, SeverityError, "", "%s is no directory", filepath.Join(d.Layout.State, o.path))
		case int(st.Uid) != o.uid:
			e.add(o.path, SeverityError, "give it to uid "+fmt.Sprint(o.uid), "%s belongs to uid %d and not to uid %d", filepath.Join(d.Layout.State, o.path), st.Uid, o.uid)
		case o.mode != 0 && mode != o.mode:
			e.add(o.path, SeverityError, fmt.Sprintf("give it mode %04o", o.mode), "%s has mode %04o and not %04o", filepath.Join(d.Layout.State, o.path), mode, o.mode)
		}
	}
	return nil
}

func (d *Daemon) ownAgain(_ context.Context, _ *job, name string) error {
	all, err := d.owned()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(o owned) bool { return o.path == name })
	if i < 0 {
		return nil // it has gone
	}
	fd, err := d.openDir(name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, all[i].uid, -1); err != nil {
		return err
	}
	if all[i].mode == 0 {
		return nil
	}
	return unix.Fchmod(fd, all[i].mode)
}

// findLeftovers looks for what a kill can leave, and only while no job is at work that may be at it.
func (d *Daemon) findLeftovers(e *examination) error {
	d.accept.Lock()
	defer d.accept.Unlock()
	if d.othersAtWork(e.self) {
		return nil
	}
	dirs := []string{"game", "overlays", "instances", "runtime"}
	onDisk, err := d.numbers("overlays")
	if err != nil {
		return err
	}
	for _, id := range onDisk {
		dirs = append(dirs, layerDir(id))
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(filepath.Join(d.Layout.State, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, entry := range entries {
			if ours.MatchString(entry.Name()) {
				name := path.Join(dir, entry.Name())
				e.add(name, SeverityNotice, "remove it", "%s was left by work that was cut off", filepath.Join(d.Layout.State, name))
			}
		}
	}
	return nil
}

// ours are the names of what left4 makes aside. What else has a dot is not its own: snapshots, say.
var ours = regexp.MustCompile(`^\.(import-[0-9]+|merge-[0-9]+|gone-[0-9]+|left4-.+|[a-z0-9_-]+\.aside)$`)

// othersAtWork tells whether there is a job that is not at its end, but for one.
func (d *Daemon) othersAtWork(self *job) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, queue := range d.queues {
		if slices.ContainsFunc(queue, func(j *job) bool { return j != self && !j.over }) {
			return true
		}
	}
	return false
}

func (d *Daemon) removeLeftover(_ context.Context, j *job, name string) error {
	if path.Dir(name) == "instances" {
		// Its name is taken again when the instance is rendered. A number is not.
		d.accept.Lock()
		defer d.accept.Unlock()
		if d.othersAtWork(j) {
			return errors.New("another job is at work; do it again when none is")
		}
	}
	return d.removeBeneath(name)
}

// What a disk should have left: that much is gone within a game update, or with the logs of a day.
const (
	lowBytes  = 512 << 20
	lowInodes = 10_000
	// gameBytes are what the first installation takes, of 9.3 to 9.7 GB.
	gameBytes = 10_000_000_000
)

func (d *Daemon) findFullDisks(e *examination) error {
	for _, dir := range []string{d.Layout.State, d.Config.Dir} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return err
		}
		switch free := st.Bavail * uint64(st.Bsize); {
		case st.Flags&unix.ST_RDONLY != 0:
			e.add(dir, SeverityError, "", "%s cannot be written to", dir)
		case free < lowBytes:
			e.add(dir, SeverityWarning, "", "only %d MiB are free in %s; du -xhd2 %s tells what takes it", free>>20, dir, dir)
		case st.Files > 0 && st.Ffree < lowInodes:
			e.add(dir, SeverityWarning, "", "only %d more files can be made in %s; du --inodes -xd2 %s tells where they are", st.Ffree, dir, dir)
		case dir == d.Layout.State && free < gameBytes && d.GameRevision() == 0:
			e.add(dir, SeverityWarning, "", "only %d MB are free in %s, and the game takes %d", free/1_000_000, dir, gameBytes/1_000_000)
		}
	}
	return nil
}

func (d *Daemon) findMasked(e *examination) error {
	for _, in := range d.Instances() {
		if d.Config.Masked(in.Name) {
			e.add(in.Name, SeverityNotice, "", "the unit of %s is masked, so it cannot be started: systemctl unmask %s", in.Name, units.ServerUnit(in.Name))
		}
	}
	return nil
}

func (d *Daemon) findEdits(e *examination) error {
	edits, err := d.Config.Edits()
	for _, path := range edits {
		e.add(path, SeverityNotice, "", "%s changes what a unit of left4 says", path)
	}
	return err
}
