package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Worker is an unprivileged program that works on one directory, in a transient unit of its own.
type Worker struct {
	Unit        string // see BuildUnit
	Description string
	Job         uint32   // stands in its journal as LEFT4_JOB=
	Command     []string // absolute path first; systemd expands nothing in it
	// Dir is the working directory and, with Writable, the only place that it can write to. It exists, belongs to User, and
	// nothing beside them and Readable below StateDir is visible to the worker.
	Dir                string
	Writable, Readable []string
	Programs           []string // directories with programs that it may run, beside those of the system
	// Stdin is a file descriptor of the caller's, who may close it when StartWorker has returned, or -1: then it reads Order.
	Stdin   int
	Order   []byte
	Env     []string // NAME=value
	User    string
	Slice   string
	Timeout time.Duration // systemd ends a worker that runs longer; 0 = never
	Needs   []string      // units that are started before it, and whose end is its own
	Box     Box
	// Resolver takes the place of /etc/resolv.conf where it is not "".
	Resolver string
	FileMax  uint64 // bytes that a file may have, 0 = any
}

// Box is what a kind of worker gets beyond what every worker has, and its limits.
type Box struct {
	Network bool // the internet
	Private bool // private networks and this machine, too
	Foreign bool // programs of others, 32-bit ones too, which make code as they run and may lie where it writes
	Shut    bool // nothing of the machine's own data, not even what everybody may read
	// Alone lets it make namespaces of processes, and gives it the capability that this takes, in the unit's own user namespace.
	Alone  bool
	Temp   string // size of a /tmp of its own, as mount options write it; "" = there is none
	Memory uint64 // bytes; the page cache of what it writes counts, but is given back under pressure
	Tasks  uint64
	CPUs   uint64 // that it may use in full, 0 = all
}

// Boxes of the workers of left4d.
var (
	BoxImport = Box{Memory: 2 << 30, Tasks: 64, CPUs: 2}
	// BoxDownload is for our own program, which is careful about what it gets.
	BoxDownload = Box{Network: true, Memory: 1 << 30, Tasks: 64, CPUs: 2}
	// BoxInstall is for SteamCMD: a 32-bit program that updates itself where it lies.
	BoxInstall = Box{Network: true, Foreign: true, Temp: "256M", Memory: 4 << 30, Tasks: 256, CPUs: 2}
	// BoxScript is for what the owner of an overlay has written. /tmp counts as memory.
	BoxScript = Box{Network: true, Foreign: true, Shut: true, Alone: true, Temp: "1G", Memory: 4 << 30, Tasks: 512, CPUs: 2}
)

// stateDir is hidden from workers, but for their own directories.
const stateDir = "/var/lib/left4"

const (
	// notifySocket is where systemd hears of a worker's progress.
	notifySocket = "/run/systemd/notify"

	workerTasksMax = 64
	// workerStopTimeout is what a worker that was told to stop gets before it is killed.
	workerStopTimeout = 10 * time.Second
	// startCallTimeout is what PID 1 gets to answer that a worker is to start; mostly it takes some milliseconds.
	startCallTimeout = 25 * time.Second
)

// privateNetworks are all addresses that are not of the internet, or may lead elsewhere: RFC 6890 and the registries of IANA that follow it
// (https://www.iana.org/assignments/iana-ipv4-special-registry, iana-ipv6-special-registry), and those of IPv6 in which a gateway finds
// one of IPv4 (RFC 6052, 8215, 3056, 4380). Those for documentation are nobody's, and left out. Nothing is allowed beside them: on
// systemd 257 an IPAddressAllow=any would beat every one of them.
var privateNetworks = append([]string{
	"::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2002::/16", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
}, slices.Concat(privateIPv4, translated(privateIPv4))...)

var privateIPv4 = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.88.99.0/24", "192.168.0.0/16",
	"198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
}

// IsPublic tells whether an address is one of the internet, which a worker with Network and without Private may reach.
func IsPublic(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsValid() && !slices.ContainsFunc(privateNetworks, func(text string) bool { return netip.MustParsePrefix(text).Contains(a) })
}

// translated are the prefixes as NAT64 writes them.
func translated(prefixes []string) []string {
	var list []string
	for _, text := range prefixes {
		p := netip.MustParsePrefix(text)
		addr := netip.MustParseAddr("64:ff9b::").As16()
		copy(addr[12:], p.Addr().AsSlice())
		list = append(list, netip.PrefixFrom(netip.AddrFrom16(addr), 96+p.Bits()).String())
	}
	return list
}

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
	for _, dir := range slices.Concat(w.Writable, w.Readable, w.Programs) {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/" {
			return fmt.Errorf("%q is no absolute path of a directory", dir)
		}
	}
	stdin := w.Stdin
	if stdin < 0 {
		order, err := memoryFile(w.Order)
		if err != nil {
			return err
		}
		defer order.Close()
		stdin = int(order.Fd())
	}
	job := s.expect(w.Unit)
	var path dbus.ObjectPath
	defer s.mayHaveChanged(w.Unit)
	if err := ctx.Err(); err != nil {
		s.forget(job)
		return err
	}
	// Its answer is waited for in any case: as long as the call is under way nobody can stop what it starts.
	call, done := context.WithTimeout(context.WithoutCancel(ctx), startCallTimeout)
	defer done()
	if err := s.callWithFDs(call, []int{stdin}, &path, "StartTransientUnit", w.Unit, "fail", w.properties(), []auxUnit{}); err != nil {
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

	if len(w.Needs) > 0 {
		set("BindsTo", w.Needs)
		set("After", w.Needs)
	}
	set("LogExtraFields", [][]byte{[]byte("LEFT4_JOB=" + strconv.FormatUint(uint64(w.Job), 10))})

	set("MemoryMax", w.Box.Memory)
	set("MemorySwapMax", uint64(0))
	set("TasksMax", w.Box.Tasks)
	if w.Box.CPUs > 0 {
		set("CPUQuotaPerSecUSec", w.Box.CPUs*uint64(time.Second/time.Microsecond))
	}
	set("LimitCORE", uint64(0))
	if w.FileMax > 0 {
		set("LimitFSIZE", w.FileMax)
	}
	set("OOMScoreAdjust", int32(500)) // rather than a game server

	set("NoNewPrivileges", true)
	var capabilities uint64
	if w.Box.Alone {
		capabilities = 1 << unix.CAP_SYS_ADMIN // of PrivateUsers=, and the calls to mount are filtered
	}
	set("CapabilityBoundingSet", capabilities)
	set("AmbientCapabilities", capabilities)
	set("ProtectSystem", "strict")
	set("ProtectHome", "yes")
	writable := append([]string{w.Dir}, w.Writable...)
	set("ReadWritePaths", writable)
	// Without one of its own /tmp is empty and read-only: it would be one more place to fill.
	temp := "ro"
	if w.Box.Temp != "" {
		temp = "mode=1777,nosuid,nodev,nr_inodes=100k,size=" + w.Box.Temp
	}
	hidden := []mountOption{{stateDir, "ro,mode=0755"}, {"/tmp", temp}, {"/var/tmp", "ro"}}
	// The bus and the manager's own socket: nothing there is for a worker, and its notifications go elsewhere.
	// PrivateDevices= leaves /dev/shm to write to.
	inaccessible := []string{"-/run/dbus", "-/run/systemd/private", "-/dev/shm"}
	var binds []bindMount
	if w.Box.Shut {
		// In /run are the sockets of all services, those of the name service too, so names are looked up where Resolver says.
		hidden = []mountOption{{"/var", "ro,mode=0755"}, {"/run", "ro,mode=0755"}, {"/tmp", temp}}
		binds = append(binds, bindMount{notifySocket, notifySocket, false, 0})
		inaccessible = []string{"-/dev/shm", "-/boot", "-/efi", "-/media", "-/mnt", "-/srv", "-/etc/left4"}
	}
	set("TemporaryFileSystem", hidden)
	for _, dir := range writable {
		binds = append(binds, bindMount{dir, dir, false, unix.MS_REC})
	}
	set("BindPaths", binds)
	var views []bindMount
	for _, dir := range w.Readable {
		views = append(views, bindMount{dir, dir, false, unix.MS_REC})
	}
	const resolver = "/etc/resolv.conf"
	switch {
	case w.Resolver != "":
		views = append(views, bindMount{w.Resolver, resolver, false, 0})
	case w.Box.Shut:
		views = append(views, bindMount{resolver, resolver, true, 0}) // it may be a link into /run
	}
	if len(views) > 0 { // systemd keeps both in one list, which an empty one empties
		set("BindReadOnlyPaths", views)
	}
	set("InaccessiblePaths", inaccessible)
	// What it unpacks is never run. A mount made for the unit, as the one for Dir, has to be named besides "/".
	programs := append([]string{"/usr", "-/lib", "-/lib64", "-/lib32", filepath.Dir(w.Command[0])}, w.Programs...)
	noExec := append([]string{"/"}, writable...)
	if w.Box.Foreign {
		programs, noExec = append(programs, writable...), noExec[:1]
	}
	// A script runs what it likes, also in /tmp: with ExecPaths=/tmp systemd would leave out the file system that belongs there.
	if !w.Box.Shut {
		set("NoExecPaths", noExec)
		set("ExecPaths", programs)
	}
	set("PrivateUsers", true)
	for _, p := range confined() {
		if w.Box.Alone && p.Name == "RestrictNamespaces" {
			p.Value = dbus.MakeVariant(uint64(unix.CLONE_NEWPID)) // set twice, none may be made
		}
		list = append(list, p)
	}
	set("SystemCallFilter", allowList{true, []string{"@system-service"}})
	// io_uring opens files and sockets past the filter.
	set("SystemCallFilter", allowList{false, []string{"@privileged", "@resources", "io_uring_enter", "io_uring_register", "io_uring_setup"}})
	set("SystemCallErrorNumber", int32(unix.EPERM))
	return append(list, w.Box.properties()...)
}

// properties are what counts instead of what confined says.
func (b Box) properties() []property {
	var list []property
	set := func(name string, value any) { list = append(list, property{name, dbus.MakeVariant(value)}) }
	if b.Network {
		set("PrivateNetwork", false)
		// NETLINK: the C library looks there which kinds of addresses the machine has.
		set("RestrictAddressFamilies", allowList{true, []string{"AF_INET", "AF_INET6", "AF_NETLINK"}})
		if !b.Private {
			set("IPAddressDeny", prefixes(privateNetworks))
			// So that the machine's own public addresses are none either: what listens there counts on a firewall that such a
			// packet does not meet. Debian 12's systemd does without, and says nothing (-BPF_FRAMEWORK).
			set("RestrictNetworkInterfaces", allowList{false, []string{"lo"}})
		}
	}
	if b.Foreign {
		set("MemoryDenyWriteExecute", false)
		set("ProcSubset", "all") // /proc/cpuinfo
		set("SystemCallArchitectures", []string{"x86"})
	}
	return list
}

// ipPrefix is (iayu), an element of IPAddressDeny.
type ipPrefix struct {
	Family  int32
	Address []byte
	Bits    uint32
}

func prefixes(texts []string) []ipPrefix {
	list := make([]ipPrefix, len(texts))
	for i, text := range texts {
		p := netip.MustParsePrefix(text)
		list[i] = ipPrefix{unix.AF_INET6, p.Addr().AsSlice(), uint32(p.Bits())}
		if p.Addr().Is4() {
			list[i].Family = unix.AF_INET
		}
	}
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
