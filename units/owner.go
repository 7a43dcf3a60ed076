package units

import (
	"fmt"
	"os/user"
	"strconv"
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
