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
	locked := make(chan error, 1)
	go func() { locked <- flock(dir, unix.LOCK_EX) }()
	select {
	case err = <-locked:
	case <-ctx.Done():
		go func() { <-locked; unix.Close(dir) }()
		return nil, fmt.Errorf("files are being mounted: %w", context.Cause(ctx))
	}
	if err != nil {
		unix.Close(dir)
		return nil, err
	}
	return func() { unix.Close(dir) }, nil
}

// flock ends with the descriptor.
func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); err != unix.EINTR {
			return err
		}
	}
}
