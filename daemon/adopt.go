package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// The database is the only one who knows what instances and overlays there are, and it can be lost. What is on disk is not
// taken for garbage then: nothing is removed because no row names it. The doctor lists it, and a repair defines it again.

// kept is what an instance was rendered from. It lies with what was rendered, 0600: the rcon_password is in it.
type kept struct {
	Instance  store.Instance
	Blueprint *store.Blueprint  `json:",omitempty"`
	Overlays  map[string]uint32 `json:",omitempty"` // the ids of all that it mounts, by name
}

// keep writes down what an instance is rendered from.
func (d *Daemon) keep(def store.Instance, layers []layer) error {
	k := kept{Instance: def, Overlays: map[string]uint32{}}
	for _, l := range layers {
		k.Overlays[l.Overlay] = l.id
	}
	if b, err := d.Blueprint(def.Blueprint); err == nil {
		k.Blueprint = &b.Blueprint
	}
	text, err := json.MarshalIndent(k, "", "\t")
	if err != nil {
		return err
	}
	return d.Layout.KeepDefinition(def.Name, append(text, '\n'))
}

// readKept reads it again; none is fs.ErrNotExist.
func (d *Daemon) readKept(name string) (k kept, err error) {
	text, err := d.Layout.ReadDefinition(name)
	if err != nil {
		return k, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&k); err != nil {
		return k, err
	}
	if k.Instance.Name != name {
		return k, fmt.Errorf("it is that of %q", k.Instance.Name)
	}
	// Nobody else writes there; still it is checked as what a caller sends.
	if err := changesOf(k.Instance).Check(); err != nil {
		return k, err
	}
	if b := k.Blueprint; b != nil {
		if err := errors.Join(CheckName(b.Name), changesOfBlueprint(*b).CheckBlueprint()); err != nil {
			return k, err
		}
	}
	return k, nil
}

func changesOf(def store.Instance) Changes {
	return Changes{
		Port: &def.Port, Label: &def.Label, Hostname: &def.Hostname, Arguments: &def.Arguments.V, Config: &def.Config.V,
		Overlays: &def.Overlays.V, Restart: &def.Restart, Limits: &def.Limits.V, Blueprint: &def.Blueprint,
	}
}

func changesOfBlueprint(b store.Blueprint) Changes {
	return Changes{Arguments: &b.Arguments.V, Config: &b.Config.V, Overlays: &b.Overlays.V, Limits: &b.Limits.V}
}

// portOf finds the port on the command line of a drop-in.
var portOf = regexp.MustCompile(`(?m)^ExecStart=.* -port ([0-9]+) `)

// guess is a definition of an instance for which none was kept: its port is on its command line, and its overlays are in
// its plan.
func (d *Daemon) guess(name string, owner uint32) store.Instance {
	def := newDefinition(name, owner, LoginName(owner))
	if text, err := d.Config.ReadDropIn(name); err == nil {
		if found := portOf.FindSubmatch(text); found != nil {
			if port, err := strconv.ParseUint(string(found[1]), 10, 16); err == nil && port >= 1024 {
				def.Port = uint16(port)
			}
		}
	}
	plan, _, err := d.Layout.ReadInstance(name)
	if err != nil {
		return def
	}
	for _, lower := range plan.Lower {
		if id, ok := overlayIn(lower); ok {
			if overlay := d.overlayName(id); overlay != "" {
				def.Overlays.V = append(def.Overlays.V, store.OverlayRef{Overlay: overlay, Alias: "*"})
			}
		}
	}
	return def
}

// overlayIn is the overlay of a layer, as overlays/3/7.
func overlayIn(layer string) (uint32, bool) {
	dir, rest, _ := strings.Cut(layer, "/")
	id, err := strconv.ParseUint(path.Dir(rest), 10, 32)
	return uint32(id), dir == "overlays" && err == nil
}

// adoptInstance defines an instance again that is there, and touches neither its files nor its server.
func (d *Daemon) adoptInstance(ctx context.Context, j *job, name string) error {
	running, err := d.Units.Running(ctx, units.ServerUnit(name))
	if err != nil {
		return err
	}
	k, err := d.readKept(name)
	var failed unix.Errno
	if errors.As(err, &failed) && slices.Contains([]unix.Errno{unix.EIO, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.EACCES, unix.EPERM}, failed) {
		return err // it may be whole, and the next start would write over it
	}
	if err != nil {
		k = kept{Instance: d.guess(name, j.Requester)}
	}
	// Somebody may have deleted it since it was found.
	there := func() bool { return len(running) > 0 || d.onDisk(name) }
	def := k.Instance
	def.OwnerName = LoginName(def.Owner)
	if b := k.Blueprint; b != nil {
		if _, err := d.Blueprint(b.Name); err != nil {
			all := changesOfBlueprint(*b)
			*all.Overlays = d.known(*all.Overlays)
			if _, err := d.CreateBlueprint(b.Name, all, b.Owner); err != nil {
				return err
			}
		}
	} else {
		def.Blueprint = ""
	}
	def.Overlays.V = d.known(def.Overlays.V)
	_, err = d.addInstance(&def, there)
	if AsCode(err) == PortInUse {
		def.Port = 0
		_, err = d.addInstance(&def, there)
	}
	if errors.Is(err, errNotThere) {
		return nil
	}
	if err != nil {
		return err
	}
	<-d.refresh(name)
	return nil
}

var errNotThere = errors.New("nothing is there any more")

// onDisk tells whether there is anything that an instance of this name can have left.
func (d *Daemon) onDisk(name string) bool {
	for _, path := range []string{
		filepath.Join(d.Layout.State, "runtime", name), filepath.Join(d.Layout.State, "instances", name), d.Config.DropInPath(name),
	} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	enabled, err := d.Config.Enabled(name)
	return enabled || err != nil
}

// known are those of some overlays that there are.
func (d *Daemon) known(all []store.OverlayRef) []store.OverlayRef {
	return slices.DeleteFunc(slices.Clone(all), func(o store.OverlayRef) bool {
		_, err := d.Overlay(o.Overlay)
		return err != nil
	})
}

// adoptOverlay defines an overlay again whose directory is there.
func (d *Daemon) adoptOverlay(ctx context.Context, j *job, name string) error {
	id, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return err
	}
	o := store.Overlay{ID: uint32(id), Type: "files", Owner: j.Requester, OwnerName: LoginName(j.Requester), Created: now()}
	onDisk, err := d.numbers(layerDir(o.ID))
	if err != nil {
		return err
	}
	var revisions []store.Revision
	for _, n := range onDisk {
		r := store.Revision{Overlay: o.ID, ID: n, Created: o.Created, Published: o.Created, Current: n == onDisk[len(onDisk)-1]}
		if err := d.count(ctx, &r); err != nil {
			return err
		}
		revisions = append(revisions, r)
	}
	if older := uint32(max(len(onDisk)-1, 0)); older > defaultKeep {
		older = min(older, maxKeep)
		o.Config.V.Keep = &older // all of them stay
	}
	names := d.keptNames()
	d.accept.Lock()
	defer d.accept.Unlock()
	o.Name = d.nameFor(o.ID, names)
	if err := d.Store.AdoptOverlay(o, revisions); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.overlays[o.Name] = &overlay{Overlay: o}
	d.revisions[o.ID] = revisions
	d.Events.OverlayNew(d.overlayView(d.overlays[o.Name]))
	return nil
}

// keptNames are the names that overlays had when instances were rendered with them, by id.
func (d *Daemon) keptNames() map[uint32][]string {
	names := map[uint32][]string{}
	entries, _ := os.ReadDir(filepath.Join(d.Layout.State, "instances"))
	for _, e := range entries {
		k, err := d.readKept(e.Name())
		if err != nil {
			continue
		}
		for name, id := range k.Overlays {
			if !slices.Contains(names[id], name) {
				names[id] = append(names[id], name)
			}
		}
	}
	return names
}

// nameFor is the name that an overlay had, if an instance was rendered with it, or one like recovered-7.
func (d *Daemon) nameFor(id uint32, names map[uint32][]string) string {
	free := func(name string) bool {
		_, err := d.Overlay(name)
		return AsCode(err) == NoSuchOverlay
	}
	for _, name := range names[id] {
		if free(name) {
			return name
		}
	}
	name := "recovered-" + revisionName(id)
	for n := 2; !free(name); n++ {
		name = fmt.Sprintf("recovered-%d-%d", id, n)
	}
	return name
}

// adoptRevision takes in a revision that is there; it becomes the current one where it is the newest.
func (d *Daemon) adoptRevision(ctx context.Context, _ *job, layer string) error {
	r, err := layerNamed(layer)
	if err != nil {
		return err
	}
	all := []store.Revision{r}
	if r.Overlay == store.Game {
		if all, err = d.unknownBases(r); err != nil {
			return err
		}
	}
	for i := range all {
		all[i].Created, all[i].Published = now(), now()
		if err := d.count(ctx, &all[i]); err != nil {
			return err
		}
	}
	if err := d.takeInAll(all); err != nil {
		return err
	}
	d.revisionsChanged(r.Overlay)
	return nil
}

// unknownBases are a revision of the game and those that it lies over and that are not known either, the lowest first.
func (d *Daemon) unknownBases(r store.Revision) ([]store.Revision, error) {
	all := []store.Revision{r}
	for {
		lowest := &all[0]
		base, noted := d.notedBase(lowest.ID)
		if !noted {
			if there, err := d.isWhole(lowest.ID); err != nil || !there {
				return nil, errors.Join(err, fmt.Errorf("nothing tells what revision %d of the game lies over, and there is no %s in it", lowest.ID, srcdsRun))
			}
			return all, nil
		}
		lowest.Base = base
		if base == 0 {
			return all, nil
		}
		d.mu.Lock()
		known := slices.ContainsFunc(d.revisions[store.Game], func(r store.Revision) bool { return r.ID == base })
		d.mu.Unlock()
		err := d.Layout.CheckLower(layerName(store.Game, base))
		if known {
			err = d.checkLayers(store.Game, base)
		}
		if err != nil {
			return nil, fmt.Errorf("it lies over revision %d of the game: %w", base, missing(err))
		}
		if known {
			return all, nil
		}
		all = slices.Insert(all, 0, store.Revision{Overlay: store.Game, ID: base})
	}
}

// srcdsRun is what no server starts without.
const srcdsRun = "srcds_run"

// isWhole tells whether a revision of the game has what no server starts without. One that lies over another mostly has not.
func (d *Daemon) isWhole(revision uint32) (bool, error) {
	_, err := os.Lstat(d.layerPath(store.Game, filepath.Join(revisionName(revision), srcdsRun)))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// takeInAll takes in revisions of one layer, none without those that it lies over.
func (d *Daemon) takeInAll(all []store.Revision) error {
	d.accept.Lock()
	defer d.accept.Unlock()
	d.plans.RLock()
	defer d.plans.RUnlock()
	for _, r := range all {
		if err := d.takeIn(r); err != nil {
			return err
		}
	}
	return nil
}

// takeIn takes one in. accept and plans must be held.
func (d *Daemon) takeIn(r store.Revision) error {
	r.Current = r.ID > d.currentOf(r.Overlay)
	if err := d.Store.AdoptRevision(r); err != nil {
		return err
	}
	d.changeRevisions(r.Overlay, func(all []store.Revision) []store.Revision {
		for i := range all {
			all[i].Current = all[i].Current && !r.Current
		}
		all = append(all, r)
		slices.SortFunc(all, func(a, b store.Revision) int { return int(a.ID) - int(b.ID) })
		return all
	})
	return nil
}

// loseRevision forgets a revision whose directory is gone; the next older one that is there becomes the current one.
func (d *Daemon) loseRevision(_ context.Context, _ *job, layer string) error {
	r, err := layerNamed(layer)
	if err != nil {
		return err
	}
	if err := d.letGo(r); err != nil {
		return err
	}
	d.revisionsChanged(r.Overlay)
	return nil
}

func (d *Daemon) letGo(r store.Revision) error {
	d.accept.Lock()
	defer d.accept.Unlock()
	d.plans.RLock()
	defer d.plans.RUnlock()
	next := uint32(0)
	if d.currentOf(r.Overlay) == r.ID {
		next = d.olderThan(r)
	}
	if err := d.Store.LoseRevision(r.Overlay, r.ID, next, now()); err != nil {
		return err
	}
	d.changeRevisions(r.Overlay, func(all []store.Revision) []store.Revision {
		all = slices.DeleteFunc(all, func(other store.Revision) bool { return other.ID == r.ID })
		for i := range all {
			all[i].Current = all[i].Current || all[i].ID == next
		}
		return all
	})
	return nil
}

// olderThan is the newest older revision of a layer that is there, 0 = none.
func (d *Daemon) olderThan(r store.Revision) (older uint32) {
	d.mu.Lock()
	all := slices.Clone(d.revisions[r.Overlay])
	d.mu.Unlock()
	for _, other := range all {
		if other.ID < r.ID && d.checkLayers(r.Overlay, other.ID) == nil {
			older = other.ID
		}
	}
	return older
}

// layerNamed undoes layerName.
func layerNamed(layer string) (r store.Revision, err error) {
	if overlay, ok := overlayIn(layer); ok {
		r.Overlay = overlay
	} else if path.Dir(layer) != layerDir(store.Game) {
		return r, errorf(InvalidArgument, "%q is no revision", shorten(layer))
	}
	n, err := strconv.ParseUint(path.Base(layer), 10, 32)
	if err != nil || layerName(r.Overlay, uint32(n)) != layer {
		return r, errorf(InvalidArgument, "%q is no revision", shorten(layer))
	}
	r.ID = uint32(n)
	return r, nil
}

// numbers are the directories below one of the state directory that are named by a number as ids and revisions are, in
// order; none where it is not there.
func (d *Daemon) numbers(dir string) ([]uint32, error) {
	entries, err := os.ReadDir(filepath.Join(d.Layout.State, dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []uint32
	for _, e := range entries {
		n, err := strconv.ParseUint(e.Name(), 10, 32)
		if err == nil && n > 0 && revisionName(uint32(n)) == e.Name() && e.IsDir() {
			all = append(all, uint32(n))
		}
	}
	slices.Sort(all)
	return all, nil
}

// reserve sees to it that no id and no number is given out again that is on disk or in a plan: the database may be older
// than they are.
func (d *Daemon) reserve() error {
	ids, err := d.numbers("overlays")
	if err != nil {
		return err
	}
	highest := map[uint32]uint32{} // number of a revision by overlay
	for _, dir := range append([]uint32{store.Game}, ids...) {
		onDisk, err := d.numbers(layerDir(dir))
		if err != nil {
			return err
		}
		if len(onDisk) > 0 {
			highest[dir] = onDisk[len(onDisk)-1]
		}
	}
	older, err := d.Store.Older()
	if err != nil {
		return err
	}
	var entries []fs.DirEntry
	if older {
		if entries, err = os.ReadDir(filepath.Join(d.Layout.State, "instances")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, e := range entries {
		if !units.ValidName(e.Name()) && e.Name() != units.GameMount {
			continue
		}
		plan, _, err := d.Layout.ReadInstance(e.Name())
		if err != nil {
			continue // nothing can be mounted by it
		}
		for _, lower := range plan.Lower {
			if r, err := layerNamed(lower); err == nil {
				highest[r.Overlay] = max(highest[r.Overlay], r.ID)
				ids = append(ids, r.Overlay)
			}
		}
	}
	if len(ids) > 0 {
		if err := d.Store.ReserveOverlay(slices.Max(ids)); err != nil {
			return err
		}
	}
	for overlay, n := range highest {
		if overlay != store.Game && d.overlayName(overlay) == "" {
			continue // it has no rows; its id is not given out again
		}
		if err := d.Store.ReserveRevision(overlay, n, now()); err != nil {
			return err
		}
	}
	return nil
}
