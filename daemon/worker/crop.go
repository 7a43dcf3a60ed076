package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"left4.me/left4/units"
)

// crop is what somebody's program has made. It is taken by the rules of an import, when no process is left that could change it.
type crop struct {
	root         int
	files, bytes int64
}

// take refuses what has no place in the files of a game, by its name, makes the rest readable and executable as it is meant to be, and brings
// it to the disk.
func (c *crop) take(ctx context.Context) error {
	if err := unix.Fchmod(c.root, 0o755); err != nil {
		return err
	}
	err := units.WalkTree(ctx, c.root, func(dir int, name, path string, st unix.Stat_t) error {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			return unix.Fchmodat(dir, name, 0o755, 0)
		case unix.S_IFREG:
			c.files++
			return c.file(dir, name, st)
		case unix.S_IFLNK:
			c.files++
			return c.link(dir, name, path)
		case unix.S_IFCHR, unix.S_IFBLK:
			return errors.New("a device is not allowed")
		case unix.S_IFIFO:
			return errors.New("a FIFO is not allowed")
		}
		return errors.New("a socket is not allowed")
	})
	if err != nil {
		return err
	}
	return unix.Syncfs(c.root)
}

func (c *crop) file(dir int, name string, st unix.Stat_t) error {
	if err := notSpecial(int64(st.Mode)); err != nil {
		return err
	}
	if st.Size > maxTotal-c.bytes {
		return fmt.Errorf("with it the overlay holds more than %d bytes", int64(maxTotal))
	}
	c.bytes += st.Size
	if mode := st.Mode&0o755 | 0o644; mode != st.Mode&0o777 {
		return unix.Fchmodat(dir, name, mode, 0)
	}
	return nil
}

func (c *crop) link(dir int, name, path string) error {
	target := make([]byte, maxPath+1)
	n, err := unix.Readlinkat(dir, name, target)
	if err != nil {
		return err
	}
	if err := properTarget(path, string(target[:n]), "the overlay"); err != nil {
		return err
	}
	return staysInside(c.root, path, "the overlay")
}
