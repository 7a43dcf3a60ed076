package units

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Mounter makes and takes away the overlay mount of an instance, for the binary left4-overlay. It needs CAP_SYS_ADMIN in the host's
// mount namespace, and to stage and own files as another user CAP_CHOWN, CAP_FOWNER, CAP_DAC_OVERRIDE.
type Mounter struct {
	Layout   Layout
	UID, GID int // whom upper, merged and the staged files belong to: the user that servers run as

	api  mountAPI
	proc string // where processes are looked for; "" = /proc
}

// mountAPI is a way to tell the kernel what to mount.
type mountAPI int

const (
	apiNewest mountAPI = iota // the first of the following that the kernel has
	apiFD                     // fsconfig with layers as descriptors, since 6.13
	apiPath                   // fsconfig with layers as names, lowerdir+ since 6.8
	apiOld                    // mount(2)
)

// mountOptions let an upper directory meet newer layers at its next mount: nothing in it refers to the layers it was written over.
// redirect_dir=off would still follow redirects where the kernel was built with OVERLAY_FS_REDIRECT_ALWAYS_FOLLOW, as Debian's is.
// See Documentation/filesystems/overlayfs.rst.
var mountOptions = []struct{ key, value string }{
	{"index", "off"},
	{"metacopy", "off"},
	{"redirect_dir", "nofollow"},
	{"xino", "off"},
}

const (
	upperName  = "upper"
	workName   = "work"
	mergedName = "merged"
	mountedDir = "mounted" // below Layout.Run
)

func sourceName(name string) string { return "left4-" + name }

// mergedPath is where an instance is mounted, as mountinfo writes it.
func (l Layout) mergedPath(name string) (string, error) {
	if !mountable(name) {
		return "", fmt.Errorf("%q is no name of an instance", name)
	}
	state, err := openAbs(l.State)
	if err != nil {
		return "", err
	}
	defer unix.Close(state)
	path, err := descriptorPath(state)
	if err != nil {
		return "", err
	}
	return strings.Join([]string{path, runtimeDir, name, mergedName}, "/"), nil
}

// Mounted tells from the mounts that this process sees whether an instance is mounted, and the digest of the plan that it is mounted
// from; "" when that is not known. It is an error when something else is mounted there.
func (l Layout) Mounted(name string) (digest string, mounted bool, err error) {
	path, err := l.mergedPath(name)
	if err != nil {
		return "", false, err
	}
	if mounted, err = overlayAt(path); err != nil || !mounted {
		return "", false, err
	}
	text, err := l.readMounted(name)
	digest, _, _ = strings.Cut(text, "\n")
	return digest, true, err
}

// MountedLower tells from which layers an instance is mounted now, as in its plan then: relative to l.State, highest precedence first.
// lower is nil while it is mounted when that is not known, as after a mount by an earlier version or by hand.
func (l Layout) MountedLower(name string) (lower []string, mounted bool, err error) {
	path, err := l.mergedPath(name)
	if err != nil {
		return nil, false, err
	}
	if mounted, err = overlayAt(path); err != nil || !mounted {
		return nil, false, err
	}
	text, err := l.readMounted(name)
	if err != nil {
		return nil, true, err
	}
	if lower, err = parseMounted(text); err != nil {
		return nil, true, fmt.Errorf("%q: %w", mountedDir+"/"+name, err)
	}
	return lower, true, nil
}

// mountedText is what the file of a mounted instance says: a line with the digest, and one per layer, quoted as in Go.
func (p Plan) mountedText() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n", p.Digest)
	for _, lower := range p.Lower {
		fmt.Fprintf(&b, "%q\n", lower)
	}
	return b.Bytes()
}

// readMounted is "" where nothing is known.
func (l Layout) readMounted(name string) (string, error) {
	run, err := openAbs(l.Run)
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(run)
	text, err := ReadFileBeneath(run, mountedDir+"/"+name, maxPlan)
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	return string(text), err
}

// parseMounted are the layers in what mountedText wrote.
func parseMounted(text string) (lower []string, err error) {
	_, rest, _ := strings.Cut(text, "\n")
	for line := range strings.Lines(rest) {
		path, err := strconv.Unquote(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("%q is no layer", line)
		}
		if err := checkLower(path); err != nil {
			return nil, err
		}
		if lower = append(lower, path); len(lower) > maxLayers {
			return nil, fmt.Errorf("more than %d layers", maxLayers)
		}
	}
	return lower, nil
}

func overlayAt(path string) (bool, error) {
	all, err := mounts()
	if err != nil {
		return false, err
	}
	switch m := topmost(all, path); {
	case m == nil:
		return false, nil
	case m.fstype != "overlay":
		return false, fmt.Errorf("%q is taken: %q, a file system of type %q, is mounted there", path, m.source, m.fstype)
	}
	return true, nil
}

// makeMounted opens the directory that tells what instances are mounted from.
func (l Layout) makeMounted() (int, error) {
	run, err := openAbs(l.Run)
	if err != nil {
		return -1, err
	}
	defer unix.Close(run)
	return MkdirAllBeneath(run, mountedDir, 0o755, -1, -1)
}

func (l Layout) forgetMounted(name string) error {
	run, err := openAbs(l.Run)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(run)
	return errors.Join(RemoveTree(run, mountedDir+"/"+name), RemoveTree(run, mountedDir+"/"+aside(name)))
}

// Mount makes the directories of an instance's runtime, stages its files and mounts it. Mounted already is success, and then nothing
// is changed. No process of the instance may be alive otherwise.
func (m Mounter) Mount(name string) error {
	if !mountable(name) {
		return fmt.Errorf("cannot mount: %q is no name of an instance", name)
	}
	if err := m.mount(name); err != nil {
		return fmt.Errorf("cannot mount %s: %w", name, err)
	}
	return nil
}

func (m Mounter) mount(name string) error {
	var fds descriptors
	defer fds.close()
	state, err := fds.keep(openAbs(m.Layout.State))
	if err != nil {
		return err
	}
	runtimes, err := fds.keep(MkdirAllBeneath(state, runtimeDir, 0o755, -1, -1))
	if err != nil {
		return err
	}
	root, wheel := os.Geteuid(), os.Getegid()
	runtime, err := fds.keep(ensureDir(runtimes, name, 0o755, root, wheel))
	if err != nil {
		return err
	}
	work, err := fds.keep(ensureDir(runtime, workName, 0o700, root, wheel))
	if err != nil {
		return err
	}
	if err := lock(work); err != nil {
		return err
	}
	path, err := m.Layout.mergedPath(name)
	if err != nil {
		return err
	}
	if mounted, err := overlayAt(path); err != nil || mounted {
		return err
	}
	digests, err := fds.keep(m.Layout.makeMounted())
	if err != nil {
		return err
	}
	// From the plan to the mount no revision that the plan names may go: see FreezeMounts.
	if err := flock(digests, unix.LOCK_SH); err != nil {
		return err
	}

	if err := m.idle(name); err != nil {
		return err
	}
	plan, cfg, err := m.Layout.ReadInstance(name)
	if err != nil {
		return err
	}
	lowers := make([]int, len(plan.Lower))
	for i, lower := range plan.Lower {
		if lowers[i], err = fds.keep(openLower(state, lower)); err != nil {
			return err
		}
	}
	if err := endClone(runtime); err != nil {
		return err
	}
	upper, err := fds.keep(ensureDir(runtime, upperName, 0o755, m.UID, m.GID))
	if err != nil {
		return err
	}
	merged, err := fds.keep(ensureDir(runtime, mergedName, 0o755, m.UID, m.GID))
	if err != nil {
		return err
	}
	if name != GameMount { // no server runs there
		if err := stage(runtime, upper, cfg, m.UID, m.GID); err != nil {
			return err
		}
	}

	// What is told of an earlier mount must not be taken for this one's when we are killed before ours is written.
	if err := errors.Join(RemoveTree(digests, name), RemoveTree(digests, aside(name))); err != nil {
		return err
	}
	// Once it is mounted it only has to be given its name.
	if err := createFile(digests, aside(name), plan.mountedText(), 0o644, -1, -1); err != nil {
		return err
	}
	if err := m.attach(layers{name, plan.Lower, state, lowers, upper, work, merged}); err != nil {
		return errors.Join(err, RemoveTree(digests, aside(name)))
	}
	if err := unix.Renameat(digests, aside(name), digests, name); err != nil {
		return errors.Join(pathError(name, err), unix.Unmount(path, unix.UMOUNT_NOFOLLOW), RemoveTree(digests, aside(name)))
	}
	return nil
}

// descriptors are closed together.
type descriptors []int

func (d *descriptors) keep(fd int, err error) (int, error) {
	if err == nil {
		*d = append(*d, fd)
	}
	return fd, err
}

func (d *descriptors) close() {
	for _, fd := range *d {
		unix.Close(fd)
	}
}

// ensureDir opens the directory name in parent, which is root's, and makes it where nothing is there. A link or a file in
// its place is an error, and so is a mount. Owner and mode become what is asked for.
func ensureDir(parent int, name string, mode uint32, uid, gid int) (int, error) {
	if err := unix.Mkdirat(parent, name, 0o700); err != nil && err != unix.EEXIST {
		return -1, pathError(name, err)
	}
	fd, err := openSame(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && (st.Uid != uint32(uid) || st.Gid != uint32(gid) || st.Mode&0o7777 != mode) {
		err = own(fd, mode, uid, gid)
	}
	if err != nil {
		unix.Close(fd)
		return -1, pathError(name, err)
	}
	return fd, nil
}

// lock waits until no other left4-overlay works on the instance. It is the work directory that is locked, because only root can
// open it; the lock ends with the descriptor.
func lock(work int) error { return flock(work, unix.LOCK_EX) }

// layers is what goes into one mount.
type layers struct {
	name   string
	lower  []string // relative to state
	state  int
	lowers []int
	upper  int
	work   int
	merged int
}

func (m Mounter) attach(l layers) error {
	if m.api == apiOld {
		return l.attachOld()
	}
	err := l.attachNew(m.api)
	if m.api != apiNewest || !errors.Is(err, errOldKernel) {
		return err
	}
	old := l.attachOld()
	if errors.Is(old, unix.EINVAL) {
		// The kernel says the same of an option it does not know and of a layer it cannot use. Its words tell which.
		return fmt.Errorf("%w (%v)", old, err)
	}
	return old
}

var errOldKernel = errors.New("this kernel takes no layers one by one")

// attachNew mounts by fsopen(2) and its kin: the layers are the descriptors that were checked, whatever their names are and however many.
func (l layers) attachNew(api mountAPI) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	switch err {
	case nil:
	case unix.ENOSYS:
		return errOldKernel
	case unix.ENODEV:
		return errors.New("this kernel has no overlayfs (module overlay)")
	default:
		return fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)

	// Three kinds of kernel refuse a descriptor for a layer: before 6.5 all options are taken as text for mount(2) and this says
	// EOPNOTSUPP; before 6.8 lowerdir+ is not known; before 6.13 it must be a name, of at most 255 bytes.
	setDir := func(key string, fd int) error {
		if api == apiPath {
			return unix.FsconfigSetString(fs, key, descriptorLink(fd))
		}
		return unix.FsconfigSetFd(fs, key, fd)
	}
	first := func() error {
		err := setDir("lowerdir+", l.lowers[0])
		if api == apiNewest && err == unix.EINVAL {
			kernelWords(fs)
			api = apiPath
			err = setDir("lowerdir+", l.lowers[0])
		}
		return err
	}
	if err := first(); err == unix.EOPNOTSUPP || err == unix.EINVAL {
		return fmt.Errorf("%w: %w", errOldKernel, fsError(fs, "lowerdir+", err))
	} else if err != nil {
		return fsError(fs, l.lower[0], err)
	}
	for i, fd := range l.lowers[1:] {
		if err := setDir("lowerdir+", fd); err != nil {
			return fsError(fs, l.lower[i+1], err)
		}
	}
	if err := setDir("upperdir", l.upper); err != nil {
		return fsError(fs, "upperdir", err)
	}
	if err := setDir("workdir", l.work); err != nil {
		return fsError(fs, "workdir", err)
	}
	for _, o := range mountOptions {
		if err := unix.FsconfigSetString(fs, o.key, o.value); err != nil {
			return fsError(fs, o.key+"="+o.value, err)
		}
	}
	if err := unix.FsconfigSetString(fs, "source", sourceName(l.name)); err != nil {
		return fsError(fs, "source", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fsError(fs, "", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return fsError(fs, "fsmount", err)
	}
	defer unix.Close(mnt)
	err = unix.MoveMount(mnt, "", l.merged, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// descriptorLink names exactly the directory that a descriptor holds, in few bytes.
func descriptorLink(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// fsError puts the kernel's own words to an error of fsconfig, where it has any.
func fsError(fs int, what string, err error) error {
	if words := kernelWords(fs); words != "" {
		err = fmt.Errorf("%w: %s", err, words)
	}
	if what == "" {
		return err
	}
	return fmt.Errorf("%q: %w", what, err)
}

// kernelWords takes the messages that wait in a file system context; each begins with a letter for its kind and a blank.
func kernelWords(fs int) string {
	var words []string
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fs, buf)
		if err != nil || n == 0 {
			return strings.Join(words, "; ")
		}
		_, text, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
		words = append(words, strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return '?'
			}
			return r
		}, text))
	}
}

// attachOld mounts by mount(2), for kernels before 6.8. Layers have names relative to the state directory, to fit more of them into the
// one page of options. That they are resolved again is no gap: servers and workers can write to no directory on the way.
func (l layers) attachOld() error {
	data, err := l.oldOptions(os.Getpagesize() - 1)
	if err != nil {
		return err
	}
	before, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(before)
	if err := unix.Fchdir(l.state); err != nil {
		return err
	}
	defer unix.Fchdir(before)
	err = unix.Mount(sourceName(l.name), l.path(mergedName), "overlay", unix.MS_NOSUID|unix.MS_NODEV, data)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return nil
}

func (l layers) path(sub string) string { return runtimeDir + "/" + l.name + "/" + sub }

// oldOptions are the options for mount(2), at most limit bytes. A backslash takes a comma's or a colon's meaning away.
func (l layers) oldOptions(limit int) (string, error) {
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`)
	lower := make([]string, len(l.lower))
	for i, path := range l.lower {
		lower[i] = escape.Replace(path)
	}
	data := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + l.path(upperName) + ",workdir=" + l.path(workName)
	for _, o := range mountOptions {
		data += "," + o.key + "=" + o.value
	}
	if len(data) > limit {
		return "", fmt.Errorf("%d layers need %d bytes of options, this kernel takes %d; use kernel 6.8 or newer, or fewer layers",
			len(l.lower), len(data), limit)
	}
	return data, nil
}

// InUseError says that a process of an instance's server lives.
type InUseError struct {
	PID  int
	Unit string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("in use: process %d of %s runs", e.PID, e.Unit)
}

// idle returns an *InUseError while a process of the instance's server lives. EBUSY does not tell: in its sandbox a server uses a mount of
// its own of the same overlay, which outlives ours. A second overlay over the same upper directory would then spoil both.
func (m Mounter) idle(name string) error {
	entries, err := os.ReadDir(m.procDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && m.serves(pid, name) {
			return &InUseError{pid, ServerUnit(name)}
		}
	}
	return nil
}

func (m Mounter) procDir() string {
	if m.proc == "" {
		return "/proc"
	}
	return m.proc
}

// serves tells whether a process is one of the instance's server and lives. One that cannot be read has ended meanwhile.
func (m Mounter) serves(pid int, name string) bool {
	dir := fmt.Sprintf("%s/%d", m.procDir(), pid)
	groups := readSmall(dir + "/cgroup")
	if !inUnit(string(groups), ServerUnit(name)) {
		return false
	}
	stat, _ := os.ReadFile(dir + "/stat")
	return alive(string(stat))
}

// readSmall is os.ReadFile without all that a file could need which is no more than a page of /proc: of each process of the machine
// one is read before a mount. What cannot be read is empty.
func readSmall(name string) []byte {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	buf := make([]byte, os.Getpagesize())
	n := 0
	for n < len(buf) {
		got, err := unix.Read(fd, buf[n:])
		if err != nil || got == 0 {
			break
		}
		n += got
	}
	return buf[:n]
}

// AwaitEnd returns when no process of the instance's server lives. At the deadline it returns what Unmount would, see there.
func (m Mounter) AwaitEnd(name string, deadline time.Time) error {
	for {
		err := m.idle(name)
		busy := (*InUseError)(nil)
		if !errors.As(err, &busy) {
			return err
		}
		ended, waitErr := m.awaitEnd(busy.PID, name, deadline)
		if waitErr != nil {
			return errors.Join(err, waitErr)
		}
		if !ended {
			return err
		}
	}
}

func (m Mounter) awaitEnd(pid int, name string, deadline time.Time) (ended bool, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot wait for process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// The number may be another process's by now.
	if !m.serves(pid, name) {
		return true, nil
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false, nil
		}
		// Rounded up: a wait of less than a millisecond must not become none at all, again and again.
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return false, fmt.Errorf("cannot wait for process %d: %w", pid, err)
		}
		if n > 0 {
			return true, nil
		}
	}
}

// inUnit tells from the text of /proc/PID/cgroup whether the process is in the unit's control group or one below it, see cgroups(7).
func inUnit(groups, unit string) bool {
	for line := range strings.Lines(groups) {
		if slices.Contains(strings.Split(strings.TrimSuffix(line, "\n"), "/"), unit) {
			return true
		}
	}
	return false
}

// alive tells from the text of /proc/PID/stat whether the process has ended and is but waited for, see proc_pid_stat(5).
func alive(stat string) bool {
	// The name before the state may hold anything, the last parenthesis ends it.
	end := strings.LastIndex(stat, ") ")
	return end >= 0 && end+2 < len(stat) && !strings.ContainsRune("ZXx", rune(stat[end+2]))
}

// Unmount takes every overlay away that is mounted for the instance. Not mounted is success. It is never forced and never
// delayed: while a process of the server lives (an *InUseError) or any other has something open there, the error says that it is in use.
func (m Mounter) Unmount(name string) error {
	if !mountable(name) {
		return fmt.Errorf("cannot unmount: %q is no name of an instance", name)
	}
	if err := m.unmount(name); err != nil {
		return fmt.Errorf("cannot unmount %s: %w", name, err)
	}
	return nil
}

func (m Mounter) unmount(name string) error {
	path, err := m.Layout.mergedPath(name)
	if err != nil {
		return err
	}
	runtimes, err := m.Layout.openSub(runtimeDir, name)
	if err == nil {
		defer unix.Close(runtimes)
		var work int
		work, err = openSame(runtimes, name+"/"+workName, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err == nil {
			defer unix.Close(work)
			err = lock(work)
		}
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	for {
		mounted, err := overlayAt(path)
		if err != nil {
			return err
		}
		if !mounted {
			return m.Layout.forgetMounted(name)
		}
		if err := m.idle(name); err != nil {
			return err
		}
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if err == unix.EBUSY {
			return fmt.Errorf("in use: a process works, or has something open or mounted, below %q (%w)", path, err)
		}
		if err != nil {
			return pathError(path, err)
		}
	}
}

// Print tells what Mount would do, without doing any of it: a line per fact, every name quoted. It tells everything that it can and returns
// the first error that would keep Mount from its work.
func (m Mounter) Print(w io.Writer, name string) error {
	if err := m.print(w, name); err != nil {
		return fmt.Errorf("cannot mount %s: %w", name, err)
	}
	return nil
}

func (m Mounter) print(w io.Writer, name string) error {
	merged, err := m.Layout.mergedPath(name)
	if err != nil {
		return err
	}
	runtime := strings.TrimSuffix(merged, mergedName)
	plan, cfg, err := m.Layout.ReadInstance(name)
	if err != nil {
		return err
	}
	state, err := openAbs(m.Layout.State)
	if err != nil {
		return err
	}
	defer unix.Close(state)

	var first error
	fmt.Fprintf(w, "digest   %q\n", plan.Digest)
	for _, lower := range plan.Lower {
		path, err := lowerPath(state, lower)
		if err != nil {
			fmt.Fprintf(w, "lower    %q: unusable (%v)\n", lower, err)
			if first == nil {
				first = err
			}
			continue
		}
		fmt.Fprintf(w, "lower    %q -> %q\n", lower, path)
	}
	fmt.Fprintf(w, "upper    %q\n", runtime+upperName)
	fmt.Fprintf(w, "work     %q\n", runtime+workName)
	fmt.Fprintf(w, "merged   %q\n", merged)
	fmt.Fprintf(w, "options  nosuid,nodev")
	for _, o := range mountOptions {
		fmt.Fprintf(w, ",%s=%s", o.key, o.value)
	}
	fmt.Fprintf(w, "\nsource   %q\n", sourceName(name))
	for _, file := range slices.Sorted(maps.Keys(cfg)) {
		path := runtime + upperName + "/" + strings.Join(stagePath, "/") + "/" + file
		fmt.Fprintf(w, "stage    %q -> %q (%d bytes)\n", file, path, len(cfg[file]))
	}
	digest, mounted, err := m.Layout.Mounted(name)
	switch {
	case err != nil:
		if first == nil {
			first = err
		}
	case mounted:
		fmt.Fprintf(w, "mounted  yes, digest %q\n", digest)
	default:
		fmt.Fprintf(w, "mounted  no\n")
	}
	return first
}

func lowerPath(state int, lower string) (string, error) {
	fd, err := openLower(state, lower)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return descriptorPath(fd)
}
