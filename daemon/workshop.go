package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

// An overlay of type workshop names items and collections of the Steam Workshop. All such overlays share a cache, where each
// state of an item lies once, as a file that order.File.FileName names; a revision has hard links to it. A worker downloads
// what is not there into a directory beside it, the only place that it can write to. What it leaves there is looked at
// when it is gone, and only then moved to where no worker can reach it.

const (
	workshopType = "workshop"

	cacheDir    = "workshop"
	incomingDir = "workshop/incoming"
	addonsDir   = "left4dead2/addons"

	maxItems     = 1000 // of one overlay
	maxAllItems  = 4000 // with all that its collections hold, and what is not to be had of it
	maxItemBytes = 4 << 30
	maxTitle     = 200     // bytes
	maxCause     = 500     // bytes
	maxAddonName = 200     // bytes: an id may have to go before it
	maxUpdated   = 1 << 40 // seconds since the epoch
	missingTold  = 5       // items that are named where a person reads one line

	workshopDisk  = 64 << 30 // bytes that one build may download
	workshopFiles = 2 * maxAllItems

	// cacheTime is how long what no revision has any more stays: long enough for a rollback of a collection.
	cacheTime = 7 * 24 * time.Hour
)

// workshopIDs are the ids that items, which may be addresses, stand for, each once.
func workshopIDs(items []string) ([]string, error) {
	if len(items) > maxItems {
		return nil, errorf(InvalidArgument, "%d items are too many: at most %d are allowed", len(items), maxItems)
	}
	ids := []string{}
	for _, text := range items {
		id, ok := workshopID(text)
		if !ok {
			return nil, errorf(InvalidArgument, "%q is no item of the workshop: use its number, or https://steamcommunity.com/sharedfiles/filedetails/?id=NUMBER", shorten(text))
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// workshopID reads an item's number, or the address of its page.
func workshopID(text string) (string, bool) {
	if len(text) > 1000 {
		return "", false
	}
	text = strings.TrimSpace(text)
	if u, err := url.Parse(text); err == nil && u.Host != "" {
		host := strings.TrimPrefix(strings.ToLower(u.Host), "www.")
		page := strings.Trim(u.Path, "/")
		if u.Scheme != "https" && u.Scheme != "http" || u.User != nil || host != "steamcommunity.com" || page != "sharedfiles/filedetails" && page != "workshop/filedetails" {
			return "", false
		}
		text = u.Query().Get("id")
	}
	n, err := strconv.ParseUint(text, 10, 64)
	// As Steam writes it, so that one item is not taken for two.
	return text, err == nil && n > 0 && strconv.FormatUint(n, 10) == text
}

// workshopBuild is a build of an overlay of type workshop.
type workshopBuild struct {
	*Daemon
	job      *job
	upToDate bool
}

func (d *Daemon) buildWorkshop(ctx context.Context, j *job) error {
	select {
	case d.cache <- struct{}{}:
		defer func() { <-d.cache }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	b := &workshopBuild{Daemon: d, job: j}
	if err := d.makeRevision(ctx, j, maker{
		verb: "build", bound: units.Usage{Files: workshopFiles, Bytes: workshopDisk}, dir: filepath.Join(d.Layout.State, incomingDir),
		worker: b.worker, take: b.take,
	}); err != nil {
		return err
	}
	o, err := d.Overlay(j.Target)
	if err != nil {
		return nil // it was deleted meanwhile
	}
	build, err := d.Store.Workshop(o.ID, o.Revision)
	if err != nil {
		return nil // what it tells is not worth a failure
	}
	d.step(j, "%s", b.outcome(build))
	return nil
}

// outcome is what has become of a build, in one line.
func (b *workshopBuild) outcome(build store.WorkshopBuild) string {
	there, missing := 0, 0
	for _, item := range build.Items {
		if item.Cause == "" {
			there++
		} else {
			missing++
		}
	}
	text := fmt.Sprintf("%d items", there)
	if there == 1 {
		text = "1 item"
	}
	if b.upToDate {
		text = "up to date: " + text
	}
	if missing > 0 {
		text += fmt.Sprintf(", %d not to be had: %s", missing, missingItems(build))
	}
	return text
}

// missingItems names what was not to be had.
func missingItems(build store.WorkshopBuild) string {
	var told []string
	more := 0
	for _, item := range build.Items {
		switch {
		case item.Cause == "":
			continue
		case len(told) == missingTold:
			more++
			continue
		}
		text := item.ID
		if item.Title != "" {
			text += " (" + item.Title + ")"
		}
		text += ": " + item.Cause
		if item.File != "" {
			text += ", its old file stays"
		}
		told = append(told, text)
	}
	if more > 0 {
		told = append(told, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(told, "; ")
}

// worker orders what the overlay names and the cache has not.
func (b *workshopBuild) worker(ctx context.Context, r *store.Revision) (units.Worker, error) {
	s, err := b.settings()
	if err != nil {
		return units.Worker{}, err
	}
	o, err := b.Overlay(b.job.Target)
	if err != nil {
		return units.Worker{}, err
	}
	if len(o.Config.V.Items) == 0 {
		return units.Worker{}, errors.New("it names no items")
	}
	last, err := b.Store.Workshop(r.Overlay, o.Revision)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return units.Worker{}, err
	}
	cached, err := b.cached()
	if err != nil {
		return units.Worker{}, err
	}
	text, err := json.Marshal(order.Workshop{
		Items: o.Config.V.Items, Collections: last.Collections, Cached: cached,
		API: s.API, Proxy: s.Proxy, Private: s.AllowPrivateNetworks, Parallel: s.Parallel,
	})
	if err != nil {
		return units.Worker{}, err
	}
	if err := b.tidyIncoming(ctx); err != nil {
		return units.Worker{}, err
	}
	dir := filepath.Join(b.Layout.State, incomingDir)
	b.step(b.job, "asking the workshop")
	// It looks itself at what it connects to: the resolver, the proxy or the API may lie in a private network.
	box := units.BoxDownload
	box.Private = true
	return units.Worker{Command: []string{b.Worker, "workshop"}, Dir: dir, Stdin: -1, Order: text, Box: box}, nil
}

// tidyIncoming makes the directory of the workers, and removes there what no download can go on with and the next worker may have no right
// to remove itself, or what would have it ended at once: the last one may have been taken over.
func (d *Daemon) tidyIncoming(ctx context.Context) error {
	fd, err := d.openState(incomingDir)
	if errors.Is(err, unix.ENOENT) {
		return d.makeIncoming()
	}
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), incomingDir)
	defer dir.Close()
	now, err := units.TreeUsage(ctx, fd, d.incomingMost)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil || now.Files > d.incomingMost.Files || now.Bytes > d.incomingMost.Bytes {
		if err := d.removeBeneath(incomingDir); err != nil {
			return err
		}
		return d.makeIncoming()
	}
	if err := unix.Fchmod(fd, 0o755); err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		// A link takes no rights to remove; the worker tells of it.
		if st.Mode&unix.S_IFMT == unix.S_IFLNK || st.Mode&(unix.S_IFMT|0o600) == unix.S_IFREG|0o600 && st.Nlink == 1 {
			continue
		}
		if err := d.removeBeneath(path.Join(incomingDir, name)); err != nil {
			return err
		}
	}
	return nil
}

func (d *Daemon) makeIncoming() error {
	if err := os.MkdirAll(filepath.Join(d.Layout.State, cacheDir), 0o700); err != nil {
		return err
	}
	return d.giveDir(filepath.Join(d.Layout.State, incomingDir))
}

// openState opens a directory below the state directory, through no link.
func (d *Daemon) openState(path string) (int, error) {
	state, err := unix.Open(d.Layout.State, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(state)
	return units.OpenBeneath(state, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// eachCached calls fn for each file in the cache, which is open as dir.
func (d *Daemon) eachCached(fn func(dir int, f order.File, st unix.Stat_t) error) error {
	dir, err := d.openState(cacheDir)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	entries, err := os.ReadDir(filepath.Join(d.Layout.State, cacheDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, ok := cacheFile(e.Name())
		var st unix.Stat_t
		if !ok || unix.Fstatat(dir, e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		f.Size = st.Size
		if err := fn(dir, f, st); err != nil {
			return err
		}
	}
	return nil
}

// cacheFile reads a name in the cache.
func cacheFile(name string) (order.File, bool) {
	id, updated, _ := strings.Cut(strings.TrimSuffix(name, ".vpk"), "-")
	var f order.File
	var err error
	f.Updated, err = strconv.ParseInt(updated, 10, 64)
	var ok bool
	f.ID, ok = workshopID(id)
	return f, ok && err == nil && f.FileName() == name
}

func (d *Daemon) cached() ([]order.File, error) {
	all := []order.File{}
	err := d.eachCached(func(_ int, f order.File, _ unix.Stat_t) error {
		all = append(all, f)
		return nil
	})
	return all, err
}

// collectCache removes from the cache what no revision has had for long. Not while a build counts on what is there.
func (d *Daemon) collectCache() (files int, err error) {
	select {
	case d.cache <- struct{}{}:
		defer func() { <-d.cache }()
	default:
		return 0, nil
	}
	err = d.eachCached(func(dir int, f order.File, st unix.Stat_t) error {
		// It changed last when it lost a name.
		if st.Nlink > 1 || time.Since(time.Unix(st.Ctim.Unix())) < d.cacheTime {
			return nil
		}
		files++
		return unix.Unlinkat(dir, f.FileName(), 0)
	})
	return files, err
}

// take makes the revision of what the worker has left and of what was there before.
func (b *workshopBuild) take(ctx context.Context, r *store.Revision, _ status.Report) (made, error) {
	cache, err := b.openState(cacheDir)
	if err != nil {
		return made{}, err
	}
	defer unix.Close(cache)
	incoming, err := b.openState(incomingDir)
	if err != nil {
		return made{}, err
	}
	defer unix.Close(incoming)
	result, err := readWorkshopResult(incoming)
	if err != nil {
		return made{}, fmt.Errorf("what the worker has left cannot be used: %w", err)
	}
	base := b.holdBase(r.Overlay)
	defer b.releaseBase(r.Overlay, base)
	last, err := b.Store.Workshop(r.Overlay, base)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return made{}, err
	}
	for i := range result.Items {
		item := &result.Items[i]
		if item.Missing == "" {
			if err := b.moveToCache(incoming, cache, item.File); err != nil {
				item.Missing = status.Line(err.Error(), maxCause)
			}
		}
	}
	if err := unix.Fsync(cache); err != nil {
		return made{}, err
	}
	build := composeWorkshop(result, last)
	there := slices.DeleteFunc(slices.Clone(build.Items), func(i store.WorkshopItem) bool { return i.File == "" })
	if len(there) == 0 {
		return made{}, fmt.Errorf("no item is to be had: %s", missingItems(build))
	}
	if base != 0 && sameFiles(there, last.Items) {
		b.upToDate = true
		if err := b.Store.PutWorkshop(r.Overlay, base, build); err != nil {
			return made{}, err
		}
		return made{}, &upToDateError{"up to date"}
	}
	staging, err := b.makeStaging(*r)
	if err != nil {
		return made{}, err
	}
	if err := b.linkAddons(ctx, staging, *r, base, cache, there, last); err != nil {
		return made{}, err
	}
	r.Files, r.Bytes = uint64(len(there)), 0
	for _, item := range there {
		r.Bytes += item.Bytes
	}
	if err := b.Store.PutWorkshop(r.Overlay, r.ID, build); err != nil {
		return made{}, err
	}
	// A rollback in the meantime must not be undone.
	return made{dir: staging, over: &base}, nil
}

// linkAddons puts the files of items into the new revision.
func (b *workshopBuild) linkAddons(ctx context.Context, staging string, r store.Revision, base uint32, cache int, items []store.WorkshopItem, last store.WorkshopBuild) error {
	uid, gid, err := b.Layout.Owner()
	if err != nil {
		return err
	}
	top, err := b.openState(path.Join(layerDir(r.Overlay), filepath.Base(staging)))
	if err != nil {
		return err
	}
	defer unix.Close(top)
	addons, err := units.MkdirAllBeneath(top, addonsDir, 0o755, uid, gid)
	if err != nil {
		return err
	}
	defer unix.Close(addons)
	for _, item := range items {
		f := order.File{ID: item.ID, Updated: item.Updated}
		err := units.LinkFile(ctx, cache, f.FileName(), addons, item.File)
		if errors.Is(err, unix.ENOENT) && item.Cause != "" {
			// Somebody has emptied the cache.
			err = b.linkOld(ctx, r.Overlay, base, last, item, addons)
		}
		if err != nil {
			return err
		}
	}
	return unix.Syncfs(top)
}

// linkOld links a file that stays out of the revision that has it.
func (b *workshopBuild) linkOld(ctx context.Context, overlay, base uint32, last store.WorkshopBuild, item store.WorkshopItem, to int) error {
	old, err := b.openState(path.Join(layerName(overlay, base), addonsDir))
	if err != nil {
		return err
	}
	defer unix.Close(old)
	at := slices.IndexFunc(last.Items, func(was store.WorkshopItem) bool { return was.ID == item.ID })
	return units.LinkFile(ctx, old, last.Items[at].File, to, item.File)
}

// moveToCache puts a file that a worker has left where no worker can write to.
func (d *Daemon) moveToCache(incoming, cache int, f order.File) error {
	uid, _, err := d.Layout.Owner()
	if err != nil {
		return err
	}
	name := f.FileName()
	fd, err := units.OpenBeneath(incoming, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.ENOENT) {
		var st unix.Stat_t
		if unix.Fstatat(cache, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != f.Size {
			return fmt.Errorf("%q was not left by the worker", name)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%q is not a regular file", name)
	case st.Uid != uint32(uid):
		return fmt.Errorf("%q does not belong to the user of the worker", name)
	case st.Nlink != 1:
		return fmt.Errorf("%q has %d names", name, st.Nlink)
	case st.Size != f.Size:
		return fmt.Errorf("%q has %d bytes, not the %d that the worker told", name, st.Size, f.Size)
	}
	// What other overlays count on stays as it is. Of another size it is broken, and the next build would fetch it again.
	var there unix.Stat_t
	if unix.Fstatat(cache, name, &there, unix.AT_SYMLINK_NOFOLLOW) == nil && there.Mode&unix.S_IFMT == unix.S_IFREG && there.Size == f.Size {
		return unix.Unlinkat(incoming, name, 0)
	}
	if err := unix.Fchmod(fd, 0o644); err != nil {
		return err
	}
	return unix.Renameat(incoming, name, cache, name)
}

// readWorkshopResult reads what a worker, which may have been taken over, says that it has done.
func readWorkshopResult(dir int) (order.WorkshopResult, error) {
	var r order.WorkshopResult
	text, err := units.ReadFileBeneath(dir, order.ResultName, order.Max)
	if err != nil {
		return r, err
	}
	if err := order.Read(bytes.NewReader(text), &r); err != nil {
		return r, fmt.Errorf("%s: %w", order.ResultName, err)
	}
	if len(r.Items)+len(r.Collections) > maxAllItems {
		return r, fmt.Errorf("%s: it has %d items", order.ResultName, len(r.Items)+len(r.Collections))
	}
	seen := map[string]bool{}
	for i := range r.Items {
		item := &r.Items[i]
		if _, ok := workshopID(item.ID); !ok || seen[item.ID] {
			return r, fmt.Errorf("%s: it has an item %q", order.ResultName, shorten(item.ID))
		}
		seen[item.ID] = true
		item.Title, item.Missing = status.Line(item.Title, maxTitle), status.Line(item.Missing, maxCause)
		if item.Missing == "" && (item.Size <= 0 || item.Size > maxItemBytes || item.Updated < 0 || item.Updated > maxUpdated) {
			return r, fmt.Errorf("%s: item %s has %d bytes of %d", order.ResultName, item.ID, item.Size, item.Updated)
		}
		if !addonName(item.Name) {
			return r, fmt.Errorf("%s: item %s is called %q", order.ResultName, item.ID, shorten(item.Name))
		}
	}
	for _, id := range r.Collections {
		if _, ok := workshopID(id); !ok {
			return r, fmt.Errorf("%s: it has a collection %q", order.ResultName, shorten(id))
		}
	}
	return r, nil
}

// addonName tells whether a file of the game may be called so; "" is none.
func addonName(name string) bool {
	return name == "" || len(name) <= maxAddonName && name[0] != '.' && strings.HasSuffix(name, ".vpk") && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == '\\' || !unicode.IsPrint(r) })
}

// composeWorkshop is what a revision is to hold. What is not to be had now and was in the last one stays as it was there: also
// all that a collection had which is not to be had itself.
func composeWorkshop(result order.WorkshopResult, last store.WorkshopBuild) store.WorkshopBuild {
	build := store.WorkshopBuild{Collections: result.Collections}
	old := map[string]store.WorkshopItem{}
	for _, item := range last.Items {
		if item.File != "" {
			old[item.ID] = item
		}
	}
	known := map[string]bool{}
	lost := ""
	for _, item := range result.Items {
		known[item.ID] = true
		row := store.WorkshopItem{ID: item.ID, Title: item.Title, Cause: item.Missing}
		switch was, there := old[item.ID]; {
		case item.Missing == "":
			row.Name, row.Updated, row.Bytes = item.Name, item.Updated, uint64(item.Size)
			row.File = addonFile(row)
		case there:
			was.Cause = item.Missing
			row = was
		case lost == "" && slices.Contains(last.Collections, item.ID):
			lost = fmt.Sprintf("collection %s is not to be had: %s", item.ID, item.Missing)
		}
		build.Items = append(build.Items, row)
	}
	for _, item := range last.Items {
		if lost != "" && !known[item.ID] && item.File != "" && !slices.Contains(result.Collections, item.ID) {
			item.Cause = status.Line(lost, maxCause)
			build.Items = append(build.Items, item)
		}
	}
	if lost != "" {
		// What was one of them is still missed at the next build.
		build.Collections = append(build.Collections, slices.DeleteFunc(slices.Clone(last.Collections), func(id string) bool {
			return slices.Contains(result.Collections, id)
		})...)
	}
	nameAddons(build.Items)
	return build
}

func addonFile(item store.WorkshopItem) string {
	if item.Name == "" {
		return item.ID + ".vpk"
	}
	return item.Name
}

// nameAddons names the files of a revision: as their authors called them, with the id before it where several have one name, which
// for the game are those that differ by case, too.
func nameAddons(items []store.WorkshopItem) {
	times := map[string]int{}
	for _, item := range items {
		if item.File != "" {
			times[strings.ToLower(addonFile(item))]++
		}
	}
	taken := map[string]bool{}
	for i := range items {
		item := &items[i]
		if item.File == "" {
			continue
		}
		item.File = addonFile(*item)
		for times[strings.ToLower(addonFile(*item))] > 1 && item.File == addonFile(*item) || taken[strings.ToLower(item.File)] {
			item.File = item.ID + "-" + item.File
		}
		taken[strings.ToLower(item.File)] = true
	}
}

// sameFiles tells whether two builds have the same files under the same names.
func sameFiles(a, b []store.WorkshopItem) bool {
	files := func(items []store.WorkshopItem) map[string]order.File {
		all := map[string]order.File{}
		for _, item := range items {
			if item.File != "" {
				all[item.File] = order.File{ID: item.ID, Updated: item.Updated, Size: int64(item.Bytes)}
			}
		}
		return all
	}
	return maps.Equal(files(a), files(b))
}

// WorkshopItems are the items of a revision of an overlay of type workshop, 0 is the current one; of one that was not built by this
// left4d they are not known. Errors: NoSuchOverlay, InvalidArgument.
func (d *Daemon) WorkshopItems(name string, revision uint32) ([]store.WorkshopItem, error) {
	o, err := d.Overlay(name)
	if err != nil {
		return nil, err
	}
	if o.Type != workshopType {
		return nil, errorf(InvalidArgument, "overlay %s has no items: it is of type %s, not %s", name, o.Type, workshopType)
	}
	if revision == 0 {
		revision = o.Revision
	} else if !slices.ContainsFunc(o.Revisions, func(r store.Revision) bool { return r.ID == revision }) {
		return nil, errorf(InvalidArgument, "overlay %s has no revision %d on disk", name, revision)
	}
	build, err := d.Store.Workshop(o.ID, revision)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("cannot list the items of overlay %s: %w", name, err)
	}
	return build.Items, nil
}
