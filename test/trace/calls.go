//go:build linux && amd64

package trace

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Call is one system call that changes the world.
type Call struct {
	Name    string // of the call
	On      string // the path that it is about
	Message string // what is sent over a socket, "" = it is no such call
}

func (c Call) String() string {
	if c.Message != "" {
		return c.Name + " " + c.Message
	}
	return c.Name + " " + c.On
}

// how a call names what it changes: by which arguments.
type how struct {
	name string
	kind kind
	a, b int // dir and path, or what the kind says
}

type kind int

const (
	path     kind = iota // a: the path, seen from the working directory
	pathAt               // a: a directory's descriptor, b: the path
	fd                   // a: the descriptor
	opening              // pathAt that is told by its flags, behind the path
	openHow              // the same, the flags are in memory
	openPath             // opening without a directory
	writing              // a: the descriptor: a regular file, or a socket
	option               // of a mount: a: the descriptor, b: the key
	cloning              // an ioctl that may be one
)

var table = map[int]how{
	unix.SYS_OPEN: {"open", openPath, 0, 1}, unix.SYS_CREAT: {"creat", path, 0, 0},
	unix.SYS_OPENAT: {"openat", opening, 0, 1}, unix.SYS_OPENAT2: {"openat2", openHow, 0, 1},
	unix.SYS_MKDIR: {"mkdir", path, 0, 0}, unix.SYS_MKDIRAT: {"mkdirat", pathAt, 0, 1},
	unix.SYS_MKNOD: {"mknod", path, 0, 0}, unix.SYS_MKNODAT: {"mknodat", pathAt, 0, 1},
	unix.SYS_RENAME: {"rename", path, 1, 0}, unix.SYS_RENAMEAT: {"renameat", pathAt, 2, 3}, unix.SYS_RENAMEAT2: {"renameat2", pathAt, 2, 3},
	unix.SYS_UNLINK: {"unlink", path, 0, 0}, unix.SYS_UNLINKAT: {"unlinkat", pathAt, 0, 1}, unix.SYS_RMDIR: {"rmdir", path, 0, 0},
	unix.SYS_LINK: {"link", path, 1, 0}, unix.SYS_LINKAT: {"linkat", pathAt, 2, 3},
	unix.SYS_SYMLINK: {"symlink", path, 1, 0}, unix.SYS_SYMLINKAT: {"symlinkat", pathAt, 1, 2},
	unix.SYS_CHOWN: {"chown", path, 0, 0}, unix.SYS_LCHOWN: {"lchown", path, 0, 0},
	unix.SYS_FCHOWN: {"fchown", fd, 0, 0}, unix.SYS_FCHOWNAT: {"fchownat", pathAt, 0, 1},
	unix.SYS_CHMOD: {"chmod", path, 0, 0}, unix.SYS_FCHMOD: {"fchmod", fd, 0, 0},
	unix.SYS_FCHMODAT: {"fchmodat", pathAt, 0, 1}, unix.SYS_FCHMODAT2: {"fchmodat2", pathAt, 0, 1},
	unix.SYS_UTIMENSAT: {"utimensat", pathAt, 0, 1},
	unix.SYS_SETXATTR:  {"setxattr", path, 0, 0}, unix.SYS_LSETXATTR: {"lsetxattr", path, 0, 0}, unix.SYS_FSETXATTR: {"fsetxattr", fd, 0, 0},
	unix.SYS_REMOVEXATTR: {"removexattr", path, 0, 0}, unix.SYS_LREMOVEXATTR: {"lremovexattr", path, 0, 0},
	unix.SYS_FREMOVEXATTR: {"fremovexattr", fd, 0, 0},
	unix.SYS_TRUNCATE:     {"truncate", path, 0, 0}, unix.SYS_FTRUNCATE: {"ftruncate", fd, 0, 0}, unix.SYS_FALLOCATE: {"fallocate", fd, 0, 0},
	unix.SYS_FSYNC: {"fsync", fd, 0, 0}, unix.SYS_FDATASYNC: {"fdatasync", fd, 0, 0}, unix.SYS_SYNCFS: {"syncfs", fd, 0, 0},
	unix.SYS_WRITE: {"write", writing, 0, 0}, unix.SYS_PWRITE64: {"pwrite64", writing, 0, 0}, unix.SYS_WRITEV: {"writev", writing, 0, 0},
	unix.SYS_PWRITEV: {"pwritev", writing, 0, 0}, unix.SYS_PWRITEV2: {"pwritev2", writing, 0, 0},
	unix.SYS_SENDMSG: {"sendmsg", writing, 0, 0}, unix.SYS_SENDTO: {"sendto", writing, 0, 0},
	unix.SYS_SENDFILE: {"sendfile", writing, 0, 0}, unix.SYS_COPY_FILE_RANGE: {"copy_file_range", writing, 2, 0}, unix.SYS_IOCTL: {"ficlone", cloning, 0, 0},
	unix.SYS_MOUNT: {"mount", path, 1, 0}, unix.SYS_UMOUNT2: {"umount2", path, 0, 0},
	unix.SYS_FSOPEN: {"fsopen", path, 0, 0}, unix.SYS_FSCONFIG: {"fsconfig", option, 0, 2}, unix.SYS_FSMOUNT: {"fsmount", fd, 0, 0},
	unix.SYS_MOVE_MOUNT: {"move_mount", pathAt, 2, 3},
}

// describe tells what a call is about, and whether it changes anything.
func (t *Tracee) describe(tid, nr int, args [6]uint64) (Call, bool) {
	h, ok := table[nr]
	if !ok {
		return Call{}, false
	}
	c := Call{Name: h.name}
	const makes = unix.O_CREAT | unix.O_TRUNC
	switch h.kind {
	case path:
		c.On = at(tid, atCwd, text(tid, args[h.a]))
		if nr == unix.SYS_FSOPEN {
			c.On = text(tid, args[h.a])
		}
	case pathAt:
		c.On = at(tid, args[h.a], text(tid, args[h.b]))
	case openPath:
		c.On = at(tid, atCwd, text(tid, args[0]))
		return c, args[1]&makes != 0
	case opening:
		c.On = at(tid, args[0], text(tid, args[1]))
		return c, args[2]&makes != 0
	case openHow:
		c.On = at(tid, args[0], text(tid, args[1]))
		flags := memory(tid, args[2], 8)
		return c, len(flags) == 8 && binary.LittleEndian.Uint64(flags)&makes != 0
	case fd:
		c.On = descriptor(tid, args[h.a])
		return c, !strings.HasPrefix(c.On, "/memfd:")
	case option:
		c.On = text(tid, args[h.b])
		if args[1] >= unix.FSCONFIG_CMD_CREATE {
			c.On = "create"
		}
	case cloning:
		c.On = descriptor(tid, args[0])
		return c, args[1] == unix.FICLONE
	case writing:
		c.On = descriptor(tid, args[h.a])
		if t.stream(tid, c.On) {
			c.Message = message(sent(tid, nr, args))
			return c, true
		}
		info, err := os.Stat(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(args[h.a])))
		// What is no file of a file system, such as an eventfd, has no kind, which Go takes for a regular file.
		return c, err == nil && info.Mode().IsRegular() && strings.HasPrefix(c.On, "/") && !strings.HasPrefix(c.On, "/memfd:")
	}
	return c, true
}

// atCwd is the working directory where a directory's descriptor stands.
const atCwd = ^uint64(-unix.AT_FDCWD) + 1

// message names a message of the bus: "call StartUnit", "signal JobRemoved", "return"; "bytes" is something else.
func message(b []byte) string {
	const fixed = 16
	if len(b) < fixed || b[0] != 'l' || b[1] < 1 || b[1] > 4 {
		return "bytes"
	}
	kind := []string{"call", "return", "error", "signal"}[b[1]-1]
	end := fixed + int(binary.LittleEndian.Uint32(b[12:]))
	for pos := fixed; pos+4 < min(end, len(b)); {
		pos = (pos + 7) &^ 7
		if pos+4 > len(b) {
			break
		}
		code, signature := b[pos], b[pos+2]
		pos += 4
		switch signature {
		case 's', 'o':
			pos = (pos + 3) &^ 3
			if pos+4 > len(b) {
				return kind
			}
			size := int(binary.LittleEndian.Uint32(b[pos:]))
			pos += 4
			if pos+size > len(b) || size < 0 {
				return kind
			}
			const member, errorName = 3, 4
			if code == member || code == errorName {
				return kind + " " + string(b[pos:pos+size])
			}
			pos += size + 1
		case 'g':
			if pos >= len(b) {
				return kind
			}
			pos += int(b[pos]) + 2
		case 'u':
			pos = (pos+3)&^3 + 4
		default:
			return kind
		}
	}
	return kind
}
