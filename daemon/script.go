package daemon

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"encoding/json"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

// scriptType is the type of overlays whose files a script of their owner makes.
const scriptType = "script"

const (
	maxScript      = 64 << 10  // bytes
	scriptDisk     = 20 << 30  // bytes that it may fill
	scriptFiles    = 1_000_000 // that it may make
	scriptDeadline = time.Hour
)

// checkScript tells whether a text can be one.
func checkScript(text string) error {
	if len(text) > maxScript {
		return errorf(InvalidArgument, "a script of %d bytes is not allowed: at most %d are", len(text), maxScript)
	}
	// As a string of the bus it is UTF-8 without a NUL.
	if strings.TrimSpace(text) == "" {
		return errorf(InvalidArgument, "an empty script is not allowed")
	}
	return nil
}

// buildScript has the overlay's script make a revision.
func (d *Daemon) buildScript(ctx context.Context, j *job) error {
	o, err := d.Overlay(j.Target)
	if err != nil {
		return err
	}
	held := uint32(0)
	defer func() { d.releaseBase(o.ID, held) }()
	return d.makeRevision(ctx, j, maker{
		verb: "build", bound: units.Usage{Files: scriptFiles, Bytes: scriptDisk},
		worker: func(_ context.Context, r store.Revision) (units.Worker, error) {
			if j.Parameters.V.OnTop {
				held = d.holdBase(o.ID)
			}
			return d.scriptWorker(o, r, held)
		},
		take: func(_ context.Context, r *store.Revision, report status.Report) (made, error) {
			files := made{dir: d.layerPath(r.Overlay, importPrefix+revisionName(r.ID))}
			// A rollback in the meantime must not be undone by what was made of the revision that it went back from.
			if base, err := strconv.ParseUint(report.Note, 10, 32); err == nil && j.Parameters.V.OnTop {
				over := uint32(base)
				files.over = &over
			}
			return files, nil
		},
	})
}

// scriptWorker is the one that makes revision r, of the files of base where that is not 0.
func (d *Daemon) scriptWorker(o Overlay, r store.Revision, base uint32) (units.Worker, error) {
	settings, err := d.settings()
	if err != nil {
		return units.Worker{}, err
	}
	staging, err := d.makeStaging(r)
	if err != nil {
		return units.Worker{}, err
	}
	w := units.Worker{
		Command: []string{d.Worker, "script"}, Dir: staging, Stdin: -1, Box: units.BoxScript, FileMax: scriptDisk,
		Env: []string{
			"LEFT4_JOB=" + strconv.FormatUint(uint64(r.Job), 10), "LEFT4_OVERLAY=" + o.Name, "LEFT4_OVERLAY_ID=" + strconv.FormatUint(uint64(o.ID), 10),
		},
	}
	ordered := order.Script{Text: o.Config.V.Script, Private: settings.AllowPrivateNetworks}
	w.Box.Private = settings.AllowPrivateNetworks
	if base != 0 {
		ordered.Base = d.layerPath(o.ID, revisionName(base))
		w.Readable = []string{ordered.Base}
	}
	if w.Order, err = json.Marshal(ordered); err != nil {
		return w, err
	}
	w.Resolver, err = d.writeResolver(settings)
	return w, err
}

// writeResolver writes the resolv.conf(5) of workers: the machine's own names servers that they cannot reach, mostly on the machine itself.
func (d *Daemon) writeResolver(s Settings) (path string, err error) {
	const name = "resolv.conf"
	var text strings.Builder
	for _, addr := range s.DNS {
		fmt.Fprintf(&text, "nameserver %s\n", addr)
	}
	dir, err := unix.Open(d.Layout.Run, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("cannot write %s/%s: %w", d.Layout.Run, name, err)
	}
	defer unix.Close(dir)
	_, err = units.WriteFileAtomic(dir, name, []byte(text.String()), 0o644, -1, -1)
	return d.Layout.Run + "/" + name, err
}

const (
	// guardEvery is how often it is looked at what a worker has written. It grows with how long that takes: to look must not
	// be what keeps the disk busy.
	guardEvery = 2 * time.Second
	guardShare = 20 // a look takes at most one such part of the time
	// reservePart of a file system, and not more than reserveMax, is for the servers and the database.
	reservePart = 20
	reserveMax  = 2 << 30
)

// guard ends a context with its cause when the directory holds more than bound, or nearly nothing is left on its file system: that is seen
// of holes that are filled and of files without a name, too. It returns when the context is over.
func (d *Daemon) guard(ctx context.Context, dir string, bound units.Usage, end context.CancelCauseFunc) {
	clock := time.NewTimer(0)
	defer clock.Stop()
	for {
		select {
		case <-clock.C:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		if err := overfull(ctx, dir, bound); err != nil {
			end(err)
			return
		}
		clock.Reset(max(d.guardEvery, guardShare*time.Since(began)))
	}
}

// overfull is the reason to end whoever writes to a directory.
func overfull(ctx context.Context, path string, bound units.Usage) error {
	dir, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // the work is over
	}
	if err != nil {
		return fmt.Errorf("it cannot be seen what it has written: %w", err)
	}
	defer unix.Close(dir)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(dir, &fs); err != nil {
		return fmt.Errorf("it cannot be seen what it has written: %w", err)
	}
	if size := uint64(fs.Frsize); fs.Blocks > 0 && fs.Bavail*size < min(fs.Blocks*size/reservePart, reserveMax) {
		return errors.New("the disk is nearly full, and the rest of it is for the servers")
	}
	if fs.Files > 0 && fs.Ffree < fs.Files/reservePart {
		return errors.New("the disk has hardly room for another file, and the rest of it is for the servers")
	}
	if bound == (units.Usage{}) {
		return nil
	}
	now, err := units.TreeUsage(ctx, dir, bound)
	switch {
	case ctx.Err() != nil:
	case now.Bytes > bound.Bytes:
		return fmt.Errorf("it has written more than %d GiB", bound.Bytes>>30)
	case now.Files > bound.Files:
		return fmt.Errorf("it has made more than %d files", bound.Files)
	case err != nil:
		return fmt.Errorf("it cannot be seen what it has written: %w", err)
	}
	return nil
}
