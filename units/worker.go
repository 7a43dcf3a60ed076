package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Worker is an unprivileged program that works on one directory, in a transient unit of its own.
type Worker struct {
	Unit        string // left4-import-….service, unused so far
	Description string
	Command     []string // absolute path first; systemd expands nothing in it
	// Dir is the working directory and the only place that it can write to. It exists, belongs to User, and nothing
	// beside it below StateDir is visible to the worker.
	Dir     string
	Stdin   int      // a file descriptor of the caller's, who may close it when StartWorker has returned
	Env     []string // NAME=value
	User    string
	Slice   string
	Timeout time.Duration // systemd ends a worker that runs longer; 0 = never
}

// stateDir is hidden from workers, but for their own directory.
const stateDir = "/var/lib/left4"

const (
	workerMemoryMax = 2 << 30 // bytes; the page cache of what it writes counts, but is given back under pressure
	workerTasksMax  = 64
	// workerStopTimeout is what a worker that was told to stop gets before it is killed.
	workerStopTimeout = 10 * time.Second
)

// StartWorker starts the unit and returns when its program runs. From then on Watch tells of its changes, and State has
// what it says (STATUS= of sd_notify) and how it ended: Sub "exited" after success, Active "failed" and Result otherwise.
// A unit that has ended stays, with all that, also when left4d was killed in between: to be rid of it, Stop and
// ResetFailed it.
func (s *Systemd) StartWorker(ctx context.Context, w Worker) error {
	if err := s.startWorker(ctx, w); err != nil {
		var job *JobError
		if errors.As(err, &job) {
			return err // says the same
		}
		return fmt.Errorf("cannot start %s: %w", w.Unit, err)
	}
	return nil
}

func (s *Systemd) startWorker(ctx context.Context, w Worker) error {
	if len(w.Command) == 0 || !filepath.IsAbs(w.Command[0]) {
		return errors.New("its command has no absolute path")
	}
	if !filepath.IsAbs(w.Dir) || filepath.Clean(w.Dir) != w.Dir || w.Dir == "/" {
		return fmt.Errorf("%q is no absolute path of a directory", w.Dir)
	}
	job := s.expect(w.Unit)
	var path dbus.ObjectPath
	defer s.mayHaveChanged(w.Unit)
	if err := s.callWithFDs(ctx, []int{w.Stdin}, &path, "StartTransientUnit", w.Unit, "fail", w.properties(), []auxUnit{}); err != nil {
		s.forget(job)
		return busError(err)
	}
	s.accept(job, path)
	return s.finish(ctx, "start", job)
}

// auxUnit is a member of StartTransientUnit's unused a(sa(sv)).
type auxUnit struct {
	Name       string
	Properties []property
}

// properties is systemd-run's command line, so to say. Each of them exists on systemd 252 and later.
func (w Worker) properties() []property {
	var list []property
	set := func(name string, value any) { list = append(list, property{name, dbus.MakeVariant(value)}) }

	set("Description", w.Description)
	set("Slice", w.Slice)
	// exec, not notify: a worker that fails early then has its own status as the result and not "protocol".
	set("Type", "exec")
	set("NotifyAccess", "main")
	set("RemainAfterExit", true)
	set("ExecStart", []execCommand{{w.Command[0], w.Command, false}})
	set("Environment", w.Env)
	set("WorkingDirectory", w.Dir)
	set("StandardInputFileDescriptor", dbus.UnixFDIndex(0))
	set("StandardOutput", "journal")
	set("StandardError", "journal")
	set("SyslogLevelPrefix", false) // what it prints may come from the archive, and none of that is an emergency
	set("User", w.User)
	set("UMask", uint32(0o022))
	if w.Timeout > 0 {
		set("RuntimeMaxUSec", uint64(w.Timeout.Microseconds()))
	}
	set("TimeoutStopUSec", uint64(workerStopTimeout.Microseconds()))

	set("MemoryMax", uint64(workerMemoryMax))
	set("MemorySwapMax", uint64(0))
	set("TasksMax", uint64(workerTasksMax))
	set("LimitCORE", uint64(0))
	set("OOMScoreAdjust", int32(500)) // rather than a game server

	set("NoNewPrivileges", true)
	set("CapabilityBoundingSet", uint64(0))
	set("AmbientCapabilities", uint64(0))
	set("ProtectSystem", "strict")
	set("ProtectHome", "yes")
	set("ReadWritePaths", []string{w.Dir})
	// Empty and read-only; a directory of its own in /tmp (PrivateTmp=) would be one more place to fill.
	set("TemporaryFileSystem", []mountOption{{stateDir, "ro,mode=0755"}, {"/tmp", "ro"}, {"/var/tmp", "ro"}})
	set("BindPaths", []bindMount{{w.Dir, w.Dir, false, unix.MS_REC}})
	// The bus and the manager's own socket: nothing there is for a worker, and its notifications go elsewhere.
	// PrivateDevices= leaves /dev/shm to write to.
	set("InaccessiblePaths", []string{"-/run/dbus", "-/run/systemd/private", "-/dev/shm"})
	// What it unpacks is never run. A mount made for the unit, as the one for Dir, has to be named besides "/".
	set("NoExecPaths", []string{"/", w.Dir})
	set("ExecPaths", []string{"/usr", "-/lib", "-/lib64", filepath.Dir(w.Command[0])})
	set("PrivateUsers", true)
	list = append(list, confined()...)
	set("SystemCallFilter", allowList{true, []string{"@system-service"}})
	// io_uring opens files and sockets past the filter.
	set("SystemCallFilter", allowList{false, []string{"@privileged", "@resources", "io_uring_enter", "io_uring_register", "io_uring_setup"}})
	set("SystemCallErrorNumber", int32(unix.EPERM))
	return list
}

// confined is what no helper of left4d ever needs.
func confined() []property {
	var list []property
	set := func(name string, value any) { list = append(list, property{name, dbus.MakeVariant(value)}) }
	set("PrivateDevices", true)
	set("PrivateNetwork", true)
	set("PrivateIPC", true)
	set("ProtectProc", "invisible")
	set("ProcSubset", "pid")
	set("ProtectClock", true)
	set("ProtectControlGroups", true)
	set("ProtectHostname", true)
	set("ProtectKernelLogs", true)
	set("ProtectKernelModules", true)
	set("ProtectKernelTunables", true)
	set("KeyringMode", "private")
	set("LockPersonality", true)
	set("MemoryDenyWriteExecute", true)
	set("RestrictAddressFamilies", allowList{true, []string{"AF_UNIX"}}) // sd_notify
	set("RestrictNamespaces", uint64(0))                                 // none may be made
	set("RestrictRealtime", true)
	set("RestrictSUIDSGID", true)
	set("SystemCallArchitectures", []string{"native"})
	return list
}

// The compound types of systemd's properties.
type (
	execCommand struct { // (sasb)
		Path          string
		Args          []string
		IgnoreFailure bool
	}
	allowList struct { // (bas)
		Allow bool
		Names []string
	}
	mountOption struct{ Path, Options string } // (ss)
	bindMount   struct {                       // (ssbt)
		Source, Destination string
		IgnoreMissing       bool
		Flags               uint64
	}
)

// callWithFDs calls a method of systemd's Manager that takes descriptors, as UnixFDIndex(0) and so on, over a connection of
// its own. The long-lived one has nothing to do with descriptors: any local user could leave some in it.
func (s *Systemd) callWithFDs(ctx context.Context, fds []int, result any, method string, args ...any) error {
	socket, err := dialBus(ctx)
	if err != nil {
		return err
	}
	defer socket.Close()
	hung := context.AfterFunc(ctx, func() { socket.Close() })
	defer hung()
	sender := &fdSender{UnixConn: socket}
	conn, err := dbus.NewConn(sender, dbus.WithHandler(refuseCalls{}), dbus.WithSignalHandler(ignoreSignals{}))
	if err != nil {
		return err
	}
	defer conn.Close()
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))})
	if err == nil {
		err = conn.Hello()
	}
	if err == nil {
		sender.fds.Store(&fds)
		reply := conn.SendWithContext(ctx, &dbus.Message{
			Type: dbus.TypeMethodCall,
			Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldDestination: dbus.MakeVariant(busName),
				dbus.FieldPath:        dbus.MakeVariant(managerPath),
				dbus.FieldInterface:   dbus.MakeVariant(managerIface),
				dbus.FieldMember:      dbus.MakeVariant(method),
				dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(args...)),
				dbus.FieldUnixFDs:     dbus.MakeVariant(uint32(len(fds))),
			},
			Body: args,
		}, nil)
		select {
		case <-reply.Done:
			err = reply.Store(result)
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

type ignoreSignals struct{}

func (ignoreSignals) DeliverSignal(string, string, *dbus.Signal) {}

// fdSender negotiates fd passing and adds descriptors to one method call, but receives none: godbus takes it for a
// plain stream, so it reads with read(2), and the kernel drops what others attach.
type fdSender struct {
	*net.UnixConn
	fds atomic.Pointer[[]int]
}

func (c *fdSender) Write(b []byte) (int, error) {
	if bytes.Equal(b, []byte("BEGIN\r\n")) { // the end of the authentication (D-Bus specification, "Authentication Protocol")
		if err := c.negotiate(); err != nil {
			return 0, err
		}
	}
	// godbus writes a message at once. It may answer calls of others meanwhile; those are no method calls.
	if len(b) > 1 && dbus.Type(b[1]) == dbus.TypeMethodCall {
		if fds := c.fds.Swap(nil); fds != nil {
			n, _, err := c.WriteMsgUnix(b, unix.UnixRights(*fds...), nil)
			if err == nil && n < len(b) {
				var rest int
				rest, err = c.UnixConn.Write(b[n:])
				n += rest
			}
			return n, err
		}
	}
	return c.UnixConn.Write(b)
}

func (c *fdSender) negotiate() error {
	if _, err := io.WriteString(c.UnixConn, "NEGOTIATE_UNIX_FD\r\n"); err != nil {
		return err
	}
	const agreed = "AGREE_UNIX_FD\r\n"
	answer := make([]byte, len(agreed))
	// An ERROR line may be shorter, but not than its first letters.
	if _, err := io.ReadFull(c.UnixConn, answer[:5]); err != nil {
		return err
	}
	if string(answer[:5]) != agreed[:5] {
		return errors.New("the bus passes no file descriptors")
	}
	_, err := io.ReadFull(c.UnixConn, answer[5:])
	return err
}
