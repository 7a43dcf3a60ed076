package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/units"
)

const (
	// guardEvery is how often it is looked at what a worker has written. It grows with how long that takes: to look must not
	// be what keeps the disk busy.
	guardEvery = 2 * time.Second
	guardShare = 20 // a look takes at most one such part of the time
	// reservePart of a file system, and not more than reserveMax, is for the servers and the database. What is bound in what it writes is
	// code of somebody's and quick to fill a disk; our own worker leaves more by itself than is asked of it here.
	reservePart, reservePartOwn = 20, 100
	reserveMax, reserveMaxOwn   = 2 << 30, 256 << 20
)

// guard ends a context with its cause when the directory holds more than bound, which is nothing where any size is allowed, or nearly nothing is left on its file system: that is seen
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
	part, most := uint64(reservePart), uint64(reserveMax)
	if bound == (units.Usage{}) {
		part, most = reservePartOwn, reserveMaxOwn
	}
	if size := uint64(fs.Frsize); fs.Blocks > 0 && fs.Bavail*size < min(fs.Blocks*size/part, most) {
		return errors.New("the disk is nearly full, and the rest of it is for the servers")
	}
	if fs.Files > 0 && fs.Ffree < fs.Files/part {
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
