package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

// Modes of an installation of the game.
const (
	ModeInstall  = "install"  // what is not installed, or not the newest build
	ModeUpdate   = "update"   // the same, where a game is installed
	ModeValidate = "validate" // every file, also of the newest build
	ModeCheck    = "check"    // only find out which build there is
)

const (
	// installDisk is many times the game, in bytes; installFiles is, too.
	installDisk  = 64 << 30
	installFiles = 1_000_000

	// steamHome is SteamCMD's own, below the state directory: it updates itself there.
	steamHome = "steam"
	// maxGameLayers are so many that a mount stays cheap; an update that would be one more is joined with those below it.
	maxGameLayers = 8
	// basePrefix begins a link beside the revisions of the game that is named by one and leads to the one that it lies over, for
	// whoever has lost the database.
	basePrefix = ".base-"
)

// Where SteamCMD and DepotDownloader are looked for: Debian's package, and what their makers offer, unpacked where
// their documentation and the Filesystem Hierarchy Standard put it.
var (
	steamCMDs        = []string{"/usr/games/steamcmd", "/usr/bin/steamcmd", "/opt/steamcmd/steamcmd.sh"}
	depotDownloaders = []string{"/usr/bin/DepotDownloader", "/usr/local/bin/DepotDownloader", "/opt/depotdownloader/DepotDownloader"}
)

// InstallGame accepts a job that installs, updates, validates or only checks the game; "" is ModeInstall. Errors:
// InvalidArgument, NotInstalled (there is nothing to install it with).
func (d *Daemon) InstallGame(mode string, r Request) (Job, error) {
	if mode == "" {
		mode = ModeInstall
	}
	if known := []string{ModeInstall, ModeUpdate, ModeValidate, ModeCheck}; !slices.Contains(known, mode) {
		return Job{}, errorf(InvalidArgument, "mode %q is not known: use one of %s", shorten(mode), strings.Join(known, ", "))
	}
	if (mode == ModeUpdate || mode == ModeValidate) && d.GameRevision() == 0 {
		return Job{}, errorf(NotInstalled, "cannot %s the game: it is not installed", mode)
	}
	if _, err := d.installer(); err != nil {
		return Job{}, err
	}
	row := store.Job{Kind: installGameKind, Target: gameTarget}
	row.Parameters.V.Mode = mode
	return d.submit(&job{Job: Job{Job: row}}, r)
}

// installer is what the settings and the disk say about how the game can be had.
func (d *Daemon) installer() (order.Install, error) {
	s, err := d.settings()
	if err != nil {
		return order.Install{}, err
	}
	o := order.Install{
		Home: d.steamHome(), Tries: s.Tries, RetryDelay: s.Retry, Silence: s.Silence,
		SteamCMD: firstProgram(s.SteamCMD, steamCMDs), DepotDownloader: firstProgram(s.DepotDownloader, depotDownloaders),
	}
	switch s.Installer {
	case installerSteamCMD:
		o.DepotDownloader = ""
	case installerDepotDownloader:
		o.SteamCMD = ""
	}
	if o.SteamCMD == "" && o.DepotDownloader == "" {
		return o, errorf(NotInstalled, "cannot install the game: there is no SteamCMD at %s", strings.Join(orElse(s.SteamCMD, steamCMDs), ", "))
	}
	return o, nil
}

func orElse(path string, usual []string) []string {
	if path != "" {
		return []string{path}
	}
	return usual
}

// firstProgram is the first of those that can be run, "" = none.
func firstProgram(path string, usual []string) string {
	for _, path := range orElse(path, usual) {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

func (d *Daemon) steamHome() string { return filepath.Join(d.Layout.State, steamHome) }

// installGame is the job of InstallGame.
func (d *Daemon) installGame(ctx context.Context, j *job) error {
	if j.Parameters.V.Mode == ModeCheck {
		return d.checkGame(ctx, j)
	}
	var installed *store.Revision
	err := d.makeRevision(ctx, j, maker{
		verb: "install", bound: units.Usage{Files: installFiles, Bytes: installDisk}, dir: d.installPath("upper"),
		worker: func(ctx context.Context, r *store.Revision) (units.Worker, error) { return d.installWorker(ctx, j, r) },
		note: func(r *store.Revision, note string) error {
			build, upToDate, err := parseBuild(note)
			if err == nil && upToDate {
				d.setAvailable(build)
				err = &upToDateError{"build " + orUnknown(build) + " is the newest one, and installed"}
			}
			r.Info.V.Build = build
			return err
		},
		take: func(ctx context.Context, r *store.Revision, _ status.Report) (made, error) {
			files, err := d.takeInstall(ctx, j, r)
			if err == nil {
				installed = r
			}
			return files, err
		},
		undo: d.endInstall,
	})
	if err == nil && installed != nil {
		d.step(j, "build %s is installed, as revision %d", orUnknown(installed.Info.V.Build), installed.ID)
	}
	return err
}

// parseBuild reads what the worker says of the build: "build 123", and whether that was there already: "build 123 up to date". Of
// what DepotDownloader has got it is "build unknown", which is "".
func parseBuild(note string) (build string, upToDate bool, err error) {
	build, known := strings.CutPrefix(note, "build ")
	build, upToDate = strings.CutSuffix(build, " up to date")
	if build == "unknown" {
		return "", upToDate, nil
	}
	if _, err := strconv.ParseUint(build, 10, 64); err != nil || !known {
		return "", false, errors.New("the worker did not tell which build it is")
	}
	return build, upToDate, nil
}

// build is the build of the current revision, "" = not known.
func (d *Daemon) build() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return current(d.revisions[store.Game]).Info.V.Build
}

func (d *Daemon) setAvailable(build string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.available != build && build != "" {
		d.available = build
		d.gameChanged()
	}
}

// gameChanged tells of the game. The lock must be held.
func (d *Daemon) gameChanged() {
	d.Events.GameChanged(current(d.revisions[store.Game]), d.available, slices.Clone(d.revisions[store.Game]))
}

// checkGame asks which build there is.
func (d *Daemon) checkGame(ctx context.Context, j *job) error {
	d.mu.Lock()
	j.worker = units.BuildUnit(j.ID)
	d.mu.Unlock()
	build, err := d.findBuild(ctx, j)
	if errors.Is(context.Cause(ctx), errClosing) {
		return err
	}
	end, cancel := context.WithTimeout(d.ctx, undoTime)
	defer cancel()
	if undo := d.endWorker(end, j.ID); undo != nil {
		d.Log.Warn("cannot clean up after a check", "job", j.ID, "error", undo)
	}
	if err != nil {
		return fmt.Errorf("cannot check the game: %w", err)
	}
	d.setAvailable(build)
	switch installed := d.build(); {
	case installed == build:
		d.step(j, "build %s is the newest one, and installed", build)
	case d.GameRevision() == 0:
		d.step(j, "build %s is available, the game is not installed", build)
	default:
		d.step(j, "build %s is available, build %s is installed", build, orUnknown(installed))
	}
	return nil
}

func orUnknown(build string) string {
	if build == "" {
		return "unknown"
	}
	return build
}

func (d *Daemon) findBuild(ctx context.Context, j *job) (string, error) {
	// An answer of an earlier left4d's worker is as good.
	s, err := d.Units.State(ctx, j.worker)
	if err != nil {
		return "", err
	}
	if !j.resumed || !s.Loaded || s.Active == "inactive" {
		w, err := d.steamWorker(order.Install{Check: true})
		if err != nil {
			return "", err
		}
		w.Dir = d.steamHome()
		if err := d.startWorker(ctx, j, w, "check"); err != nil {
			return "", err
		}
	}
	report, err := d.followWorker(ctx, j, "")
	if err != nil {
		return "", err
	}
	build, _, err := parseBuild(report.Note)
	return build, err
}

// steamWorker is a worker that has SteamCMD do something.
func (d *Daemon) steamWorker(what order.Install) (units.Worker, error) {
	o, err := d.installer()
	if err != nil {
		return units.Worker{}, err
	}
	o.Check, o.Build, o.Validate = what.Check, what.Build, what.Validate
	text, err := json.Marshal(o)
	if err != nil {
		return units.Worker{}, err
	}
	w := units.Worker{Command: []string{d.Worker, "install"}, Stdin: -1, Order: text, Writable: []string{o.Home}, Box: units.BoxInstall}
	for _, program := range []string{o.SteamCMD, o.DepotDownloader} {
		if program != "" {
			w.Programs = append(w.Programs, filepath.Dir(program))
		}
	}
	return w, d.network(&w)
}

// network gives a worker what the settings say of the network.
func (d *Daemon) network(w *units.Worker) error {
	s, err := d.settings()
	if err != nil {
		return err
	}
	w.Box.Private = w.Box.Private || s.AllowPrivateNetworks
	// A resolver of a private network, as the machine's own mostly is, could not be reached.
	if !w.Box.Private && len(s.DNS) > 0 {
		w.Resolver, err = d.writeResolver(s)
	}
	return err
}

// writeResolver writes the resolv.conf of workers that may only reach the internet.
func (d *Daemon) writeResolver(s Settings) (string, error) {
	var text strings.Builder
	for _, addr := range s.DNS {
		fmt.Fprintf(&text, "nameserver %s\n", addr)
	}
	run, err := unix.Open(d.Layout.Run, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(run)
	_, err = units.WriteFileAtomic(run, "resolv.conf", []byte(text.String()), 0o644, -1, -1)
	return filepath.Join(d.Layout.Run, "resolv.conf"), err
}

// gameLayers are the directories that make a revision of the game, highest first, as a mount plan names them.
func (d *Daemon) gameLayers(revision uint32) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var layers []string
	for n := revision; n != 0; {
		i := slices.IndexFunc(d.revisions[store.Game], func(r store.Revision) bool { return r.ID == n })
		if i < 0 {
			return nil, errorf(NotInstalled, "game revision %d lies over revision %d, which is gone", revision, n)
		}
		layers = append(layers, layerName(store.Game, n))
		// A base is always older than what lies over it, or a damaged database would have us go round.
		if base := d.revisions[store.Game][i].Base; base < n {
			n = base
		} else {
			return nil, errorf(NotInstalled, "game revision %d cannot lie over revision %d", n, base)
		}
	}
	return layers, nil
}

// The files of an installation, in runtime/_game: upper is what the worker writes, merged what it sees. What an installation
// that failed has downloaded stays in upper for the next one, if that begins with the same files.

func (d *Daemon) installPath(element string) string {
	return filepath.Join(d.Layout.State, "runtime", units.GameMount, element)
}

func (d *Daemon) installWorker(ctx context.Context, j *job, r *store.Revision) (units.Worker, error) {
	if err := d.stopStrayWorkers(ctx); err != nil {
		return units.Worker{}, err
	}
	what := order.Install{Build: d.build(), Validate: j.Parameters.V.Mode == ModeValidate}
	w, err := d.steamWorker(what)
	if err != nil {
		return w, err
	}
	// Not while it is found out which revisions nobody needs: from here on the plan holds them.
	d.plans.RLock()
	base, err := d.prepareInstall(ctx, what.Validate)
	d.plans.RUnlock()
	if err != nil {
		return w, err
	}
	r.Base = base
	if err := d.Store.SealRevision(*r); err != nil { // not sealed, but with its base
		return w, err
	}
	w.Dir = d.installPath("upper")
	if base != 0 {
		w.Dir = d.installPath("merged")
		w.Needs = []string{units.OverlayUnit(units.GameMount)}
	}
	return w, nil
}

// prepareInstall makes what the worker is to work on of the current revision, and returns that. Afresh is without what a failed
// installation has left.
func (d *Daemon) prepareInstall(ctx context.Context, afresh bool) (base uint32, err error) {
	if err := d.unmountInstall(ctx); err != nil {
		return 0, err
	}
	base = d.GameRevision()
	layers, err := d.gameLayers(base)
	if err != nil {
		return 0, err
	}
	for _, layer := range layers {
		if err := d.Layout.CheckLower(layer); err != nil {
			return 0, fmt.Errorf("%s: %w", layer, missing(err))
		}
	}
	plan, _, err := d.Layout.ReadInstance(units.GameMount)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, err
	case afresh, !slices.Equal(plan.Lower, layers):
		// What was downloaded over other files is of no use.
		if err := d.removeInstall(); err != nil {
			return 0, err
		}
	}
	if base != 0 {
		_, err = d.Layout.WriteInstance(units.GameMount, units.Plan{Digest: "game-" + revisionName(base), Lower: layers}, nil)
		return base, err
	}
	if err := os.Mkdir(d.installPath(""), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return 0, err
	}
	if err := d.giveDir(d.installPath("upper")); err != nil && !errors.Is(err, fs.ErrExist) {
		return 0, err
	}
	return 0, nil
}

// unmountInstall waits until what the worker saw is unmounted; its unit needs that no more.
func (d *Daemon) unmountInstall(ctx context.Context) error {
	unit := units.OverlayUnit(units.GameMount)
	if err := d.Units.Stop(ctx, unit); err != nil {
		return err
	}
	err := d.Units.WaitInactive(ctx, unit)
	var failed *units.JobError
	if errors.As(err, &failed) {
		// That may be of the last one, a mount that failed: where nothing is mounted it is in nobody's way.
		if _, mounted, look := d.Layout.Mounted(units.GameMount); look != nil || mounted {
			return errors.Join(err, look)
		}
		return d.Units.ResetFailed(ctx, unit)
	}
	return err
}

func (d *Daemon) removeInstall() error {
	return errors.Join(d.Layout.RemoveRuntime(units.GameMount), d.Layout.RemoveInstance(units.GameMount))
}

// takeInstall makes the revision of what the worker has written.
func (d *Daemon) takeInstall(ctx context.Context, j *job, r *store.Revision) (made, error) {
	if err := d.unmountInstall(ctx); err != nil {
		return made{}, err
	}
	d.setAvailable(r.Info.V.Build)
	staging := d.layerPath(store.Game, importPrefix+revisionName(r.ID))
	if _, err := os.Lstat(staging); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(d.installPath("upper"), staging); err != nil {
			return made{}, err
		}
	}
	upper, err := unix.Open(staging, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return made{}, err
	}
	defer unix.Close(upper)
	base := r.Base
	if base == 0 {
		return made{dir: staging, over: &base}, nil
	}
	// Steam keeps its books anew at each look; that is no other game.
	changed, err := units.HoldsFiles(ctx, upper, "steamapps")
	if err != nil {
		return made{}, err
	}
	if !changed && r.Info.V.Build == d.build() {
		return made{}, &upToDateError{"build " + orUnknown(r.Info.V.Build) + " is installed, and nothing had to be changed"}
	}
	layers, err := d.gameLayers(base)
	if err != nil {
		return made{}, err
	}
	if len(layers) >= maxGameLayers {
		dir, err := d.squash(ctx, j, r, append([]string{layerDir(store.Game) + "/" + filepath.Base(staging)}, layers...))
		return made{dir: dir, over: &base}, err
	}
	if r.Files, r.Bytes, err = units.CountTree(ctx, upper); err != nil {
		return made{}, err
	}
	if err := unix.Syncfs(upper); err != nil {
		return made{}, err
	}
	return made{dir: staging, over: &base}, d.noteBase(*r)
}

// squash makes a whole revision of layers, with which it shares all files.
func (d *Daemon) squash(ctx context.Context, j *job, r *store.Revision, layers []string) (string, error) {
	d.step(j, "joining %d layers", len(layers))
	name := layerDir(store.Game) + "/" + mergePrefix + revisionName(r.ID)
	note := func(files, bytes uint64) {
		d.step(j, "joining %d layers: %d files, %d bytes", len(layers), files, bytes)
	}
	if err := d.Units.Squash(ctx, d.PreStart, units.Squashing{Lower: layers, Into: name}, note); err != nil {
		return "", err
	}
	r.Base = 0
	dir := filepath.Join(d.Layout.State, name)
	whole, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(whole)
	if r.Files, r.Bytes, err = units.CountTree(ctx, whole); err != nil {
		return "", err
	}
	return dir, d.noteBase(*r)
}

// noteBase leaves a link that tells what a revision lies over, 0 = it was joined with that.
func (d *Daemon) noteBase(r store.Revision) error {
	link := d.layerPath(store.Game, basePrefix+revisionName(r.ID))
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(revisionName(r.Base), link)
}

// notedBase is what noteBase left, if it did and that makes sense.
func (d *Daemon) notedBase(revision uint32) (base uint32, noted bool) {
	target, err := os.Readlink(d.layerPath(store.Game, basePrefix+revisionName(revision)))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(target, 10, 32)
	return uint32(n), err == nil && uint32(n) < revision
}

// tidyBases removes the links of revisions that are gone.
func (d *Daemon) tidyBases() error {
	entries, err := os.ReadDir(d.layerPath(store.Game, ""))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		revision, isLink := strings.CutPrefix(e.Name(), basePrefix)
		if !isLink {
			continue
		}
		// An installation makes it before it gives the revision its name.
		made := slices.ContainsFunc([]string{importPrefix, mergePrefix}, func(prefix string) bool {
			_, err := os.Lstat(d.layerPath(store.Game, prefix+revision))
			return err == nil
		})
		if made {
			continue
		}
		if _, gone := os.Lstat(d.layerPath(store.Game, revision)); errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, os.Remove(d.layerPath(store.Game, e.Name())))
		}
	}
	return err
}

// endInstall leaves what a failed installation has downloaded for the next one, unless it is of no use.
func (d *Daemon) endInstall(ctx context.Context, failed error) error {
	err := d.unmountInstall(ctx)
	var spoiled *spoiledError
	if failed == nil || errors.As(failed, &spoiled) {
		err = errors.Join(err, d.removeInstall())
	}
	return err
}
