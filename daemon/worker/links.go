package main

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"left4.me/left4/units"
)

// properTarget refuses the target of the symbolic link at path where it leads out of the tree by itself, whatever the tree holds: other layers
// may have other things there. top is what people call the tree.
func properTarget(path, target, top string) error {
	switch {
	case target == "" || len(target) > maxPath || strings.Contains(target, "\x00"):
		return errors.New("a link without a proper target is not allowed")
	case target[0] == '/':
		return fmt.Errorf("a link to an absolute name, %q, is not allowed", short(target))
	}
	depth := strings.Count(path, "/")
	for _, part := range strings.Split(target, "/") {
		switch part {
		case "", ".":
		case "..":
			depth--
		default:
			depth++
		}
		if depth < 0 {
			return fmt.Errorf("a link out of %s, to %q, is not allowed", top, short(target))
		}
	}
	return nil
}

// staysInside follows the symbolic link at path as the kernel would, and fails where that leaves the tree. What is missing on the
// way counts as a directory: another layer may bring it.
func staysInside(root int, path, top string) error {
	at := strings.Split(path, "/")
	todo := at[len(at)-1:]
	at = at[:len(at)-1]
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return fmt.Errorf("a link out of %s is not allowed", top)
			}
			at = at[:len(at)-1]
			continue
		}
		target, err := readLink(root, strings.Join(at, "/"), name)
		if err != nil {
			return err
		}
		if target == "" {
			at = append(at[:len(at):len(at)], name)
			continue
		}
		if links++; links > maxLinks {
			return errors.New("a link that leads through more than 40 others, or to itself, is not allowed")
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return nil
}

// readLink is where the link name in the directory parent leads; "" if it is none.
func readLink(root int, parent, name string) (string, error) {
	if parent == "" {
		parent = "."
	}
	dir, err := units.OpenBeneath(root, parent, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		defer unix.Close(dir)
		buf := make([]byte, maxPath+1)
		var n int
		if n, err = unix.Readlinkat(dir, name, buf); err == nil {
			return string(buf[:n]), nil
		}
	}
	for _, none := range []error{unix.ENOENT, unix.ENOTDIR, unix.EINVAL, unix.ENAMETOOLONG} {
		if errors.Is(err, none) {
			return "", nil
		}
	}
	return "", err
}
