package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"left4.me/left4/daemon/store"
)

// copyDeadline is how long an initialize may take that copies what another server wrote.
const copyDeadline = time.Hour

// checkSource tells whether what the server of one instance wrote can be copied to another one now, and which instance that is. A start
// that comes later does no harm: left4-overlay mounts nothing that is being copied.
func (d *Daemon) checkSource(from, to string) (store.Instance, error) {
	if from == to {
		return store.Instance{}, errorf(InvalidArgument, "cannot initialize %s: it cannot have its own files copied", to)
	}
	if _, err := d.Instance(from); err != nil {
		return store.Instance{}, err
	}
	<-d.refresh(from)
	in, err := d.Instance(from)
	if err != nil {
		return in.Instance, err
	}
	d.mu.Lock()
	at := slices.IndexFunc(d.queues[from], func(j *job) bool { return !j.over })
	var work *job
	if at >= 0 {
		work = d.queues[from][at]
	}
	d.mu.Unlock()
	switch {
	case work != nil:
		return in.Instance, errorf(Busy, "cannot initialize %s: %s has work to do: %s (job %d)", to, from, work.Kind, work.ID)
	case in.State != Stopped && in.State != FailedState:
		return in.Instance, errorf(Busy, "cannot initialize %s: %s runs; stop it first", to, from)
	}
	return in.Instance, nil
}

// checkEmpty fails for an instance whose server has written something.
func (d *Daemon) checkEmpty(name string) error {
	_, err := os.Lstat(filepath.Join(d.Layout.State, "runtime", name, "upper"))
	switch {
	case err == nil:
		return errorf(InUse, "cannot initialize %s: it has files of its own; reset %s removes them", name, name)
	case errors.Is(err, os.ErrNotExist):
		return nil
	}
	return cannot("initialize", name, err)
}

// copyFiles copies what another server wrote, if the job was asked to.
func (d *Daemon) copyFiles(ctx context.Context, j *job) error {
	from := j.Parameters.V.FilesFrom
	if from == "" {
		return nil
	}
	in, err := d.Instance(from)
	if err == nil && !j.resumed {
		// Otherwise left4-overlay knows whether the copy is whole by now, and whether it can be made again.
		in.Instance, err = d.checkSource(from, j.Target)
	}
	if err != nil {
		return err
	}
	// Whoever asked was allowed to read that one's files.
	if in.Created != j.Parameters.V.FilesMade {
		return errorf(Busy, "cannot initialize %s: %s was deleted and made again meanwhile", j.Target, from)
	}
	d.step(j, "copying the files of %s", from)
	err = d.Units.Clone(ctx, d.PreStart, from, j.Target, func(files, bytes uint64) {
		d.step(j, "copying the files of %s: %d files, %d bytes", from, files, bytes)
	})
	if err != nil {
		return cannot("initialize", j.Target, err)
	}
	return nil
}
