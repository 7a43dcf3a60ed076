package units

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// FreezeMounts waits until no left4-overlay is between the reading of a plan and its mount, and lets none begin until it
// is undone. Unmounts go on.
func (l Layout) FreezeMounts(ctx context.Context) (undo func(), err error) {
	dir, err := l.makeMounted()
	if err != nil {
		return nil, err
	}
	if err := flockUntil(ctx, dir, unix.LOCK_EX); err != nil {
		unix.Close(dir)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("files are being mounted: %w", context.Cause(ctx))
		}
		return nil, err
	}
	return func() { unix.Close(dir) }, nil
}

// flockUntil is flock that gives up with the context.
func flockUntil(ctx context.Context, fd, how int) error {
	// The lock belongs to both descriptors, so a late one ends with this.
	second, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	locked := make(chan error, 1)
	go func() {
		err := flock(second, how)
		unix.Close(second)
		locked <- err
	}()
	select {
	case err = <-locked:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flock ends with the descriptor.
func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); err != unix.EINTR {
			return err
		}
	}
}
