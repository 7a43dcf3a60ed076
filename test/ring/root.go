package ring

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What a machine has besides apt and its dependencies: the services that left4 stands on, and the tools that tests
// call inside. A change to this list or to rootSetup makes new roots: the hash of both is part of a root's name.
var rootPackages = []string{
	"attr", "dbus", "iproute2", "libglib2.0-bin", "libpam-systemd", "login", "openssh-client", "openssh-server",
	"passwd", "polkitd", "procps", "python3-dasbus", "python3-dbus", "systemd", "systemd-sysv", "util-linux", "zstd",
}

// What else is done to a root when it is made: shell, with the root as $1.
const rootSetup = `
echo left4 >"$1"/etc/hostname
# The machine's clock and network are the test's own: nothing may look for updates by itself.
rm -f "$1"/etc/systemd/system/timers.target.wants/*
# No sshd before a test wants one, with keys of its own; systemd 257 would have one listen on a socket of the container's.
rm -f "$1"/etc/systemd/system/multi-user.target.wants/ssh.service "$1"/etc/systemd/system/sshd.service "$1"/etc/ssh/ssh_host_*
mkdir -p "$1"/etc/systemd/system-generators
ln -s /dev/null "$1"/etc/systemd/system-generators/systemd-ssh-generator
`

// A root is a read-only tree below a machine's own files. Its directories stay locked (shared) until release, so that
// no other run prunes them.
type root struct {
	suite  string
	layers []string // for overlayfs: highest first
	lib    string   // what a machine's /var/lib is copied from
	locks  []*os.File
}

func (r *root) release() {
	for _, lock := range r.locks {
		lock.Close()
	}
}

// cacheDir is where roots are kept between runs, and where machines live while they run: outside the checkout,
// on a file system that can carry the writable layer of an overlay.
var cacheDir = sync.OnceValues(func() (string, error) {
	dir := os.Getenv("XDG_CACHE_HOME")
	if dir == "" {
		dir = "/var/cache"
	}
	dir = filepath.Join(dir, "left4-ring")
	if strings.ContainsAny(dir, ":,\\\n") {
		return "", fmt.Errorf("cannot keep root file systems in %q: overlayfs does not bear such a name; set XDG_CACHE_HOME", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("cannot inspect %s: %w", dir, err)
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "", fmt.Errorf("cannot boot machines in %s: it lies on an overlay, which cannot carry another one; "+
			"set XDG_CACHE_HOME to a directory on a disk", dir)
	}
	return dir, nil
})

// flock opens (and makes, if need be) the file and locks it; closing the file unlocks it. Locks belong to the opened
// file, so they hold between goroutines as well as between processes, and end with the process.
func flock(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE, 0o600)
	if errors.Is(err, unix.EISDIR) {
		f, err = os.Open(name)
	}
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err == nil {
			return f, nil
		}
		if err != unix.EINTR {
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
		}
	}
}

// baseRoot returns the tree of a Debian suite with rootPackages and more, made by mmdebstrap at first use.
func baseRoot(suite string, more ...string) (*root, error) {
	packages := slices.Concat(rootPackages, more)
	sum := sha256.Sum256([]byte(strings.Join(packages, " ") + rootSetup))
	dir, lock, err := cached(kind("base-", suite, more), hex.EncodeToString(sum[:6]), func(tmp string) error {
		return debootstrap(suite, packages, tmp)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make a root file system of %s: %w", suite, err)
	}
	return &root{suite: suite, layers: []string{dir}, lib: filepath.Join(dir, "var/lib"), locks: []*os.File{lock}}, nil
}

// kind is what the cache calls the roots of a suite with those packages; only roots of one kind push each other out.
func kind(prefix, suite string, more []string) string {
	return strings.Join(append([]string{prefix + suite}, more...), "+")
}

// packageRoot returns baseRoot with a package installed on top: by apt, in a booted machine, once per package.
func packageRoot(suite, deb string, more ...string) (*root, error) {
	base, err := baseRoot(suite, more...)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(deb)
	if err != nil {
		base.release()
		return nil, fmt.Errorf("cannot read the package: %w", err)
	}
	sum := sha256.Sum256(append([]byte(base.layers[0]+"\n"), content...))
	dir, lock, err := cached(kind("left4-", suite, more), hex.EncodeToString(sum[:6]), func(tmp string) error {
		return installInto(tmp, base, deb)
	})
	if err != nil {
		base.release()
		return nil, fmt.Errorf("cannot install %s on %s: %w", filepath.Base(deb), suite, err)
	}
	return &root{
		suite:  suite,
		layers: []string{filepath.Join(dir, "upper"), base.layers[0]},
		lib:    filepath.Join(dir, "lib"),
		locks:  append(base.locks, lock),
	}, nil
}

// Derive returns a directory of the cache with what make has put into it: from the root file system of a suite with left4 and more of
// Debian's packages installed, whose overlay layers it is told, highest first, and the directory that belongs at /var/lib. It is made
// anew when one of these or the version, which stands for make itself, is another. Nobody prunes it while in is open.
func Derive(name, suite, deb, version string, more []string, make func(dir string, layers []string, lib string) error) (in *os.File, err error) {
	r, err := packageRoot(suite, deb, more...)
	if err != nil {
		return nil, err
	}
	defer r.release()
	sum := sha256.Sum256([]byte(strings.Join(r.layers, "\n") + "\n" + version))
	_, in, err = cached(name+"-"+suite, hex.EncodeToString(sum[:6]), func(tmp string) error {
		return make(tmp, r.layers, r.lib)
	})
	return in, err
}

// cached returns the directory <kind>-<key> of the cache, locked shared; fill makes it aside if it is not there, and
// then others of the same kind go that nobody has used lately.
func cached(kind, key string, fill func(tmp string) error) (string, *os.File, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", nil, err
	}
	making, err := flock(filepath.Join(cache, "."+kind+".lock"), unix.LOCK_EX)
	if err != nil {
		return "", nil, err
	}
	defer making.Close()

	dir := filepath.Join(cache, kind+"-"+key)
	if _, err := os.Stat(dir); err != nil {
		tmp := filepath.Join(cache, "."+kind+".new")
		if err := os.RemoveAll(tmp); err != nil { // of a run that was killed
			return "", nil, err
		}
		if err := os.Mkdir(tmp, 0o755); err != nil {
			return "", nil, err
		}
		if err := fill(tmp); err != nil {
			os.RemoveAll(tmp)
			return "", nil, err
		}
		if err := os.Rename(tmp, dir); err != nil {
			return "", nil, err
		}
	}
	lock, err := flock(dir, unix.LOCK_SH)
	if err != nil {
		return "", nil, err
	}
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil {
		lock.Close()
		return "", nil, err
	}
	prune(filepath.Join(cache, kind+"-"))
	return dir, lock, nil
}

// prune removes the directories that begin with prefix, but for those in use: by a machine, or within the last hour,
// since others may be testing another package.
func prune(prefix string) {
	old, _ := filepath.Glob(prefix + "*")
	for _, dir := range old {
		if info, err := os.Stat(dir); err != nil || time.Since(info.ModTime()) < time.Hour {
			continue
		}
		if lock, err := flock(dir, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			os.RemoveAll(dir)
			lock.Close()
		}
	}
}

// debootstrap fills dir with a fresh system of the suite.
func debootstrap(suite string, packages []string, dir string) error {
	mirror, err := debianMirror(suite)
	if err != nil {
		return err
	}
	args := []string{
		"--mode=root", "--format=directory", "--variant=minbase",
		"--include=" + strings.Join(packages, ","),
		"--customize-hook=" + rootSetup,
		`--aptopt=Acquire::Retries "5"`, // a mirror may fail once
	}
	options, err := aptNetworkOptions()
	if err != nil {
		return err
	}
	for _, o := range options {
		args = append(args, "--aptopt="+o)
	}
	args = append(args, suite, dir, "deb [signed-by="+debianKeyring+"] "+mirror+" "+suite+" main")
	if out, err := exec.Command("mmdebstrap", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mmdebstrap: %w\n%s", err, tail(out, 30))
	}
	return nil
}

const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// debianMirror returns the address of the Debian archive that the host's own apt uses, so that tests fetch from where
// the host does. A mirror carries all suites; one that is known to carry the wanted one comes first.
func debianMirror(suite string) (string, error) {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)",
		"Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main").Output()
	if err != nil {
		return "", fmt.Errorf("cannot ask apt for the host's mirror: %w", err)
	}
	var mirror string
	for line := range strings.Lines(string(out)) {
		codename, uri, _ := strings.Cut(strings.TrimSpace(line), " ")
		if codename == suite {
			return uri, nil
		}
		if mirror == "" {
			mirror = uri
		}
	}
	if mirror == "" {
		return "", errors.New("apt knows no Debian archive on this machine; configure one and run apt-get update")
	}
	return mirror, nil
}

// aptNetworkOptions returns those of the host's apt settings without which its mirror may be out of reach: proxies,
// certificates and the checks against the clock.
func aptNetworkOptions() ([]string, error) {
	out, err := exec.Command("apt-config", "dump", "--no-empty", "--format", "%F \"%v\";%n", "Acquire").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot read the settings of apt: %w", err)
	}
	var options []string
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		key, _, _ := strings.Cut(lines.Text(), " ")
		for _, wanted := range []string{"Proxy", "CaInfo", "Check-Date", "Check-Valid-Until"} {
			if strings.Contains(key, "::"+wanted) {
				options = append(options, lines.Text())
			}
		}
	}
	return options, lines.Err()
}

// installInto boots a machine over base, installs the package as an administrator would, shuts the machine down, and
// leaves what changed in dir: upper, a layer for machines to come, and lib, their /var/lib.
func installInto(dir string, base *root, deb string) (err error) {
	m, err := newMachine(base)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.destroy()) }()
	if err := m.start(); err != nil {
		return err
	}
	if r := m.install(deb); r.Code != 0 {
		return fmt.Errorf("apt-get: exit status %d\n%s", r.Code, r.Out+r.Err)
	}
	if err := m.shutDown("poweroff", 0); err != nil {
		return err
	}
	// A machine's identity and journal are its own.
	if err := os.RemoveAll(filepath.Join(m.dir, "upper/var/log/journal")); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(m.dir, "upper"), filepath.Join(dir, "upper")); err != nil {
		return err
	}
	return os.Rename(filepath.Join(m.dir, "lib"), filepath.Join(dir, "lib"))
}

// copyTree copies a directory with everything that belongs to its files.
func copyTree(from, to string) error {
	if out, err := exec.Command("cp", "-a", "--", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot copy %s: %w\n%s", from, err, out)
	}
	return nil
}

// tail returns the last n lines of a text.
func tail(text []byte, n int) []byte {
	lines := bytes.SplitAfter(text, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], nil)
}
