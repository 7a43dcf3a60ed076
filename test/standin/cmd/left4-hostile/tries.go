package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tries are what a server has no business to do. Each returns the kernel's refusal, or nil when it was done.
var tries = map[string]func(args []string) error{
	// To the process whose number is told.
	"ptrace": func(args []string) error {
		runtime.LockOSThread()
		return unix.PtraceAttach(number(args[0]))
	},
	"read-memory": func(args []string) error {
		buf := make([]byte, 16)
		local := []unix.Iovec{{Base: &buf[0]}}
		local[0].SetLen(len(buf))
		_, err := unix.ProcessVMReadv(number(args[0]), local, []unix.RemoteIovec{{Base: uintptr(number(args[1])), Len: len(buf)}}, 0)
		return err
	},
	"write-memory": func(args []string) error {
		buf := make([]byte, 16)
		local := []unix.Iovec{{Base: &buf[0]}}
		local[0].SetLen(len(buf))
		_, err := unix.ProcessVMWritev(number(args[0]), local, []unix.RemoteIovec{{Base: uintptr(number(args[1])), Len: len(buf)}}, 0)
		return err
	},
	"take-descriptor": func(args []string) error {
		fd, err := unix.PidfdOpen(number(args[0]), 0)
		if err != nil {
			return err
		}
		_, err = unix.PidfdGetfd(fd, 1, 0)
		return err
	},
	"enter-namespaces": func(args []string) error {
		fd, err := unix.PidfdOpen(number(args[0]), 0)
		if err != nil {
			return err
		}
		return unix.Setns(fd, unix.CLONE_NEWNS|unix.CLONE_NEWUSER)
	},
	"signal": func(args []string) error { return unix.Kill(number(args[0]), 0) },
	"kill":   func(args []string) error { return unix.Kill(number(args[0]), unix.SIGKILL) },
	"signal-by-descriptor": func(args []string) error {
		fd, err := unix.PidfdOpen(number(args[0]), 0)
		if err != nil {
			return err
		}
		return unix.PidfdSendSignal(fd, 0, nil, 0)
	},
	"slow-down": func(args []string) error { return unix.Setpriority(unix.PRIO_PROCESS, number(args[0]), 19) },
	"slow-down-user": func(args []string) error {
		// Those of the caller's own user, which are all servers.
		return unix.Setpriority(unix.PRIO_USER, os.Getuid(), number(args[0]))
	},
	"pin": func(args []string) error {
		var set unix.CPUSet
		set.Set(0)
		return unix.SchedSetaffinity(number(args[0]), &set)
	},
	"limit": func(args []string) error {
		return unix.Prlimit(number(args[0]), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: 3}, nil)
	},
	"starve-io": func(args []string) error {
		const who, idle = 1, 3 << 13 // IOPRIO_WHO_PROCESS, IOPRIO_CLASS_IDLE
		return call(unix.SYS_IOPRIO_SET, who, uintptr(number(args[0])), idle)
	},

	// To files.
	"open-by-handle": func(args []string) error {
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, args[0], 0)
		if err != nil {
			return err
		}
		at, err := unix.Open(args[0], unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		_, err = unix.OpenByHandleAt(at, h, unix.O_RDONLY)
		return err
	},
	"setuid": func(args []string) error {
		if err := os.WriteFile(args[0], nil, 0o755); err != nil {
			return err
		}
		return unix.Chmod(args[0], 0o4755)
	},
	"setuid-2": func(args []string) error { // by a call that is newer than some filters
		if err := os.WriteFile(args[0], nil, 0o755); err != nil {
			return err
		}
		path, err := unix.BytePtrFromString(args[0])
		if err != nil {
			return err
		}
		const fchmodat2 = 452
		return call(fchmodat2, at(), uintptr(unsafe.Pointer(path)), 0o4755, 0)
	},
	"setuid-create": func(args []string) error {
		_, err := unix.Open(args[0], unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o4755)
		return err
	},
	"setuid-openat2": func(args []string) error {
		_, err := unix.Openat2(unix.AT_FDCWD, args[0], &unix.OpenHow{Flags: unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY, Mode: 0o4755})
		return err
	},
	"device":      func(args []string) error { return unix.Mknod(args[0], unix.S_IFCHR|0o666, int(unix.Mkdev(1, 8))) },
	"block":       func(args []string) error { return unix.Mknod(args[0], unix.S_IFBLK|0o666, int(unix.Mkdev(254, 0))) },
	"whiteout":    func(args []string) error { return unix.Mknod(args[0], unix.S_IFCHR, 0) },
	"immutable":   func(args []string) error { return flag(args[0], 0x10) }, // FS_IMMUTABLE_FL
	"append-only": func(args []string) error { return flag(args[0], 0x20) }, // FS_APPEND_FL
	"trusted-xattr": func(args []string) error {
		return unix.Setxattr(args[0], "trusted.overlay.opaque", []byte("y"), 0)
	},
	"capability-xattr": func(args []string) error {
		// Version 2, effective, CAP_SYS_ADMIN permitted (linux/capability.h).
		return unix.Setxattr(args[0], "security.capability", []byte("\x01\x00\x00\x02\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
	},
	"chown": func(args []string) error { return unix.Chown(args[0], 0, 0) },
	"write": func(args []string) error {
		f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(args[1])
		return err
	},
	"create": func(args []string) error { return os.WriteFile(args[0], []byte(args[1]), 0o644) },
	"read": func(args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		n, err := f.Read(make([]byte, 1))
		if n == 0 && err == nil {
			err = errors.New("it is empty")
		}
		return err
	},
	"list": func(args []string) error {
		names, err := os.ReadDir(args[0])
		if err == nil && len(names) == 0 {
			err = errors.New("it is empty")
		}
		return err
	},
	"stat": func(args []string) error {
		_, err := os.Stat(args[0])
		return err
	},
	// What is open to read may be opened again by its descriptor, to write.
	"write-again": func(args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = w.WriteString("hostile")
		return err
	},
	"write-mapped": func(args []string) error {
		f, err := os.OpenFile(args[0], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		m, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		m[0] = '!'
		return unix.Msync(m, unix.MS_SYNC)
	},

	// Sockets.
	"dial": func(args []string) error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			if err = unix.Connect(fd, &unix.SockaddrUnix{Name: args[0]}); err == unix.EPROTOTYPE {
				if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0); err == nil {
					err = unix.Connect(fd, &unix.SockaddrUnix{Name: args[0]})
				}
			}
		}
		return err
	},
	"socket": func(args []string) error {
		_, err := unix.Socket(number(args[0]), number(args[1]), 0)
		return err
	},
	// Somebody at a host and port answers by tcp or udp.
	"reach": func(args []string) error {
		c, err := net.DialTimeout(args[0], args[1], reachTime)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(reachTime)); err != nil {
			return err
		}
		if _, err := c.Write([]byte("hostile")); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	},
	"change-address": func([]string) error { return netlink(unix.RTM_NEWADDR) },
	"change-link":    func([]string) error { return netlink(unix.RTM_NEWLINK) },
	"change-route":   func([]string) error { return netlink(unix.RTM_DELROUTE) },
	"low-port": func([]string) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Port: 22})
	},

	// Keys of the user's keyring, which all processes of a user share.
	"keep-key": func(args []string) error {
		_, err := unix.AddKey("user", args[0], []byte("secret"), unix.KEY_SPEC_USER_KEYRING)
		return err
	},
	"find-key": func(args []string) error {
		_, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", args[0], 0)
		return err
	},

	// The machine.
	"user-namespace":    func([]string) error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"mount-namespace":   func([]string) error { return unix.Unshare(unix.CLONE_NEWNS) },
	"network-namespace": func([]string) error { return unix.Unshare(unix.CLONE_NEWNET) },
	"cgroup-namespace":  func([]string) error { return unix.Unshare(unix.CLONE_NEWCGROUP) },
	"process-namespace": func([]string) error { return unix.Unshare(unix.CLONE_NEWPID) },
	"clone3": func([]string) error {
		args := [8]uint64{unix.CLONE_NEWUSER, 0, 0, 0, uint64(unix.SIGCHLD)}
		pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		if pid == 0 && errno == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return failure(errno)
	},
	"mount":   func([]string) error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
	"bind":    func([]string) error { return unix.Mount("/etc", "/tmp", "", unix.MS_BIND, "") },
	"unmount": func(args []string) error { return unix.Unmount(args[0], unix.MNT_DETACH) },
	"new-mount": func([]string) error {
		_, err := unix.Fsopen("tmpfs", 0)
		return err
	},
	"open-tree": func([]string) error {
		_, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)
		return err
	},
	"chroot":     func([]string) error { return unix.Chroot("/tmp") },
	"pivot-root": func([]string) error { return unix.PivotRoot("/", "/") },
	"uring": func([]string) error {
		var params [120]byte // struct io_uring_params
		fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
		if errno == 0 {
			unix.Close(int(fd))
		}
		return failure(errno)
	},
	"bpf":         func([]string) error { return call(unix.SYS_BPF, 0, 0, 0) },
	"perf":        func([]string) error { return call(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0) },
	"userfaultfd": func([]string) error { return call(unix.SYS_USERFAULTFD, 0) },
	"kexec":       func([]string) error { return call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0) },
	"module":      func([]string) error { return call(unix.SYS_INIT_MODULE, 0, 0, 0) },
	"reboot":      func([]string) error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) },
	"swap":        func([]string) error { return call(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(&[]byte("/none\x00")[0]))) },
	"clock": func([]string) error {
		now := unix.NsecToTimeval(time.Now().UnixNano())
		return unix.Settimeofday(&now)
	},
	"host-name": func([]string) error { return unix.Sethostname([]byte("hostile")) },
	"kernel-log": func([]string) error {
		_, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 64))
		return err
	},
	"personality": func([]string) error { return call(unix.SYS_PERSONALITY, 0x0040000) }, // ADDR_NO_RANDOMIZE
	"real-time": func([]string) error {
		param := int32(1)
		return call(unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&param)))
	},
	"first-class": func([]string) error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -20) },
	"root":        func([]string) error { return unix.Setuid(0) },
	"oom-proof":   func([]string) error { return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0) },
	// Not hostile: the game's libraries have relocations in their text, so this must work.
	"write-and-execute": func([]string) error {
		_, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	},
}

// reachTime is how long an answer is awaited: a packet that is dropped has none.
const reachTime = 2 * time.Second

func number(text string) int {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 0, 64)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%q is no number\n", text)
		os.Exit(2)
	}
	return int(n)
}

// at is AT_FDCWD as system calls take it.
func at() uintptr {
	cwd := unix.AT_FDCWD
	return uintptr(cwd)
}

func call(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return failure(errno)
}

func failure(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// flag sets a flag of a file as chattr does (ioctl_iflags(2)).
func flag(path string, flag int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flag)
}

// netlink asks the kernel for a change of the network, and returns its answer.
func netlink(kind uint16) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	message := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	h := (*unix.NlMsghdr)(unsafe.Pointer(&message[0]))
	*h = unix.NlMsghdr{Len: uint32(len(message)), Type: kind, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK, Seq: 1}
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return errors.New("no answer")
	}
	if code := *(*int32)(unsafe.Pointer(&answer[unix.SizeofNlMsghdr])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
