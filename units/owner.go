package units

import (
	"fmt"
	"os/user"
	"strconv"
)

// ownerName is the user, and the group, that own all files of layers and run servers and workers.
const ownerName = "left4"

// Owner is the uid and gid of the user that owns the files of layers and runs servers and workers.
func (l Layout) Owner() (uid, gid int, err error) {
	u, err := user.Lookup(ownerName)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot find the user %s: %w", ownerName, err)
	}
	if uid, err = strconv.Atoi(u.Uid); err == nil {
		gid, err = strconv.Atoi(u.Gid)
	}
	return uid, gid, err
}
