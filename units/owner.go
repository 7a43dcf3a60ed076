package units

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"syscall"
)

// DefaultUser owns all files of layers and runs servers and workers.
const DefaultUser = "left4"

// Owner is the uid and gid of the user that owns the files of layers and runs servers and workers.
func (l Layout) Owner() (uid, gid int, err error) {
	name := l.User
	if name == "" {
		name = DefaultUser
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot find the user %s: %w", name, err)
	}
	if uid, err = strconv.Atoi(u.Uid); err == nil {
		gid, err = strconv.Atoi(u.Gid)
	}
	return uid, gid, err
}

// Become makes this process one of the user that owns the layers, for good. Only root can.
func (l Layout) Become() error {
	uid, gid, err := l.Owner()
	if err == nil {
		err = errors.Join(syscall.Setgroups(nil), syscall.Setresgid(gid, gid, gid))
	}
	if err == nil {
		err = syscall.Setresuid(uid, uid, uid)
	}
	if err != nil {
		return fmt.Errorf("cannot give up root: %w", err)
	}
	return nil
}
