package daemon

import (
	"context"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

// ImportGame accepts a job that makes a game revision of an archive, and takes over the file, which must be a pipe's
// reading end or a regular file, open for reading. size is that of the stream in bytes, 0 = not known.
func (d *Daemon) ImportGame(stream *os.File, size uint64, r Request) (Job, error) {
	if err := checkStream(stream); err != nil {
		stream.Close()
		return Job{}, err
	}
	j, err := d.submit(&job{Job: Job{Job: store.Job{Kind: importGameKind, Target: gameTarget}}, stream: stream, size: size}, r)
	if err != nil {
		stream.Close()
	}
	return j, err
}

func checkStream(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return errorf(InvalidArgument, "the stream cannot be used: %v", err)
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return errorf(InvalidArgument, "the stream cannot be used: %v", err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFIFO && kind != unix.S_IFREG || flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE == unix.O_WRONLY {
		return errorf(InvalidArgument, "the stream must be the reading end of a pipe or a file open for reading")
	}
	return nil
}

// importRevision is the job of an import of the game or of an overlay.
func (d *Daemon) importRevision(ctx context.Context, j *job) error {
	return d.makeRevision(ctx, j, maker{
		verb: "import", saying: "unpacking: ", once: true,
		worker: func(_ context.Context, r *store.Revision) (units.Worker, error) { return d.importWorker(j, *r) },
		take: func(ctx context.Context, r *store.Revision, _ status.Report) (made, error) {
			return d.takeImport(ctx, j, r)
		},
	})
}

func (d *Daemon) importWorker(j *job, r store.Revision) (units.Worker, error) {
	if err := d.checkBase(j, r.Overlay); err != nil {
		return units.Worker{}, err
	}
	staging, err := d.makeStaging(r)
	if err != nil {
		return units.Worker{}, err
	}
	kind := "overlay"
	switch {
	case r.Overlay == store.Game:
		kind = "game"
	case j.Parameters.V.Merge:
		kind = "part"
	}
	env := []string{"LEFT4_KIND=" + kind}
	if into, err := readPath(j.Parameters.V.Into); err != nil {
		return units.Worker{}, err
	} else if into != "" {
		env = append(env, "LEFT4_INTO="+into)
	}
	file, err := readPath(j.Parameters.V.File)
	if err != nil {
		return units.Worker{}, err
	}
	if file == "" {
		file = j.Target
	}
	env = append(env, "LEFT4_FILE="+file)
	if j.size > 0 {
		env = append(env, "LEFT4_SIZE="+strconv.FormatUint(j.size, 10))
	}
	d.step(j, "unpacking")
	return units.Worker{Command: []string{d.Worker, "import"}, Dir: staging, Stdin: int(j.stream.Fd()), Env: env, Box: units.BoxImport}, nil
}

func (d *Daemon) takeImport(ctx context.Context, j *job, r *store.Revision) (made, error) {
	if !j.Parameters.V.Merge {
		return made{dir: d.layerPath(r.Overlay, importPrefix+revisionName(r.ID))}, nil
	}
	base := d.holdBase(r.Overlay)
	defer d.releaseBase(r.Overlay, base)
	if err := d.checkBase(j, r.Overlay); err != nil {
		return made{}, err
	}
	dir, err := d.merge(ctx, j, r, base)
	// A rollback in the meantime must not be undone by what was made of the revision that it went back from.
	return made{dir: dir, over: &base}, err
}

// holdBase keeps the current revision of an overlay on disk while another is made of it, and returns it.
func (d *Daemon) holdBase(overlay uint32) uint32 {
	// Not while it is found out what nobody needs.
	d.plans.RLock()
	defer d.plans.RUnlock()
	base := d.currentOf(overlay)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.merging[layerName(overlay, base)] = true
	return base
}

func (d *Daemon) releaseBase(overlay, base uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.merging, layerName(overlay, base))
}

// checkBase fails where somebody else has changed the overlay since the caller looked at it.
func (d *Daemon) checkBase(j *job, overlay uint32) error {
	now := d.currentOf(overlay)
	if base := j.Parameters.V.Base; base != 0 && base != now {
		return errorf(Busy, "it was changed meanwhile: its revision is %d, not %d", now, base)
	}
	return nil
}

// merge makes of the current revision and of what a worker unpacked a new tree, and returns where. Files that stay are
// shared by hard links; it is done here and not by the worker, which so never holds a file of a published revision.
func (d *Daemon) merge(ctx context.Context, j *job, r *store.Revision, base uint32) (string, error) {
	d.step(j, "merging")
	dir, err := unix.Open(d.layerPath(r.Overlay, ""), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	name := mergePrefix + revisionName(r.ID)
	if _, err := os.Lstat(d.layerPath(r.Overlay, name)); err == nil {
		// Some of the unpacked files are in it already, and nobody knows which.
		return "", errors.New("left4d was restarted while it put the files together; do it again")
	}
	uid, gid, err := d.Layout.Owner()
	if err != nil {
		return "", err
	}
	into, err := units.MkdirAllBeneath(dir, name, 0o755, uid, gid)
	if err != nil {
		return "", err
	}
	defer unix.Close(into)
	if base != 0 {
		if err := d.linkBase(ctx, j, dir, base, into); err != nil {
			return "", err
		}
	}
	delta, err := units.OpenBeneath(dir, importPrefix+revisionName(r.ID), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(delta)
	if err := units.MergeTree(ctx, delta, into); err != nil {
		return "", err
	}
	if r.Files, r.Bytes, err = units.CountTree(ctx, into); err != nil {
		return "", err
	}
	return d.layerPath(r.Overlay, name), unix.Syncfs(into)
}

func (d *Daemon) linkBase(ctx context.Context, j *job, dir int, base uint32, into int) error {
	var skip []string
	for _, text := range j.Parameters.V.Remove {
		path, err := readPath(text)
		if err != nil {
			return err
		}
		skip = append(skip, path)
	}
	from, err := units.OpenBeneath(dir, revisionName(base), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	told := time.Now()
	_, _, err = units.LinkTree(ctx, from, into, skip, func(files, bytes uint64) {
		if time.Since(told) > stepEvery {
			told = time.Now()
			d.step(j, "merging: %d files, %d bytes", files, bytes)
		}
	})
	return err
}
