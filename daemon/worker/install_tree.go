package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/keyvalues"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

const (
	manifestPath = "steamapps/appmanifest_" + app + ".acf"
	// maxSteamClient is how large a steamclient.so may be, in bytes; it has about 40 MB.
	maxSteamClient = 256 << 20
	// maxSteamFiles and maxSteamBytes bound what is taken for SteamCMD: about 30 files, 400 MB after it has updated itself.
	maxSteamFiles = 10_000
	maxSteamBytes = 4 << 30
)

// manifest is what SteamCMD says that it has installed.
type manifest struct {
	state                  string
	build                  string
	toDownload, downloaded string
	toStage, staged        string
}

func readManifest(dir int) (manifest, error) {
	text, err := units.ReadFileBeneath(dir, manifestPath, keyvalues.MaxText)
	if err != nil {
		return manifest{}, err
	}
	n, err := keyvalues.Parse(text, true)
	if err != nil {
		return manifest{}, fmt.Errorf("%q: %w", manifestPath, err)
	}
	get := func(key string) string { return n.Text("AppState", key) }
	return manifest{
		state: get("StateFlags"), build: get("buildid"),
		toDownload: get("BytesToDownload"), downloaded: get("BytesDownloaded"),
		toStage: get("BytesToStage"), staged: get("BytesStaged"),
	}, nil
}

// installed tells whether all of it is there: "4" is fully installed and nothing besides.
func (m manifest) installed() bool {
	return m.state == "4" && isBuild(m.build) && m.downloaded == m.toDownload && m.staged == m.toStage
}

func removeManifest(dir int) error {
	parent, err := units.OpenBeneath(dir, filepath.Dir(manifestPath), unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := unix.Unlinkat(parent, filepath.Base(manifestPath), 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("%q: %w", manifestPath, err)
	}
	return nil
}

// programs must be there for a server to start.
var programs = []string{"srcds_run", "srcds_linux"}

// missing is the first thing that a server cannot start without, "" if all is there.
func (in *installer) missing() string {
	for _, name := range append([]string{"left4dead2"}, programs...) {
		var st unix.Stat_t
		want := uint32(unix.S_IFREG)
		if name == "left4dead2" {
			want = unix.S_IFDIR
		}
		if unix.Fstatat(in.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != want {
			return name
		}
	}
	return ""
}

func (in *installer) isWhole() bool { return in.missing() == "" }

// whole looks whether SteamCMD has done what it says: it is known to end well after half a download.
func (in *installer) whole() *failure {
	m, err := readManifest(in.dir)
	fail := &failure{program: steamProgram, class: classIncomplete, retry: true}
	switch {
	case err != nil:
		fail.cause = "it says that the game is installed, but its manifest cannot be read: " + err.Error()
	case !m.installed():
		fail.cause = fmt.Sprintf("it says that the game is installed, but the manifest has StateFlags %q, %q of %q bytes", m.state, m.downloaded, m.toDownload)
	case in.missing() != "":
		fail.cause = fmt.Sprintf("it says that the game is installed, but there is no %s", in.missing())
	default:
		return nil
	}
	return fail
}

// finish makes a revision of what was installed, and looks at the whole. steam is the SteamCMD that did it, "" if another did.
func (in *installer) finish(steam, note string) (outcome, error) {
	in.w.note(status.Step(-1, "looking at the files"))
	for _, name := range []string{"steamapps/downloading", "steamapps/temp", ".DepotDownloader/staging"} {
		if err := in.remove(name); err != nil {
			return outcome{}, err
		}
	}
	if err := in.look(); err != nil {
		if in.ctx.Err() == nil {
			err = spoiledError{err}
		}
		return outcome{}, err
	}
	for _, name := range programs {
		if err := in.makeExecutable(name); err != nil {
			return outcome{}, err
		}
	}
	if err := in.steamClients(steam); err != nil {
		return outcome{}, err
	}
	files, bytes, err := units.CountTree(in.ctx, in.dir)
	if err != nil {
		return outcome{}, err
	}
	if err := unix.Syncfs(in.dir); err != nil {
		return outcome{}, err
	}
	fmt.Fprintf(in.w.stderr, "installed %d files, %d bytes\n", files, bytes)
	return outcome{files: int64(files), bytes: int64(bytes), note: note}, nil
}

// remove removes a directory with all below it, but not through a link.
func (in *installer) remove(path string) error {
	parent, err := units.OpenBeneath(in.dir, filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	}
	defer unix.Close(parent)
	// A descriptor's name leads to what it is open for, and from there RemoveAll follows no link.
	if err := os.RemoveAll(fmt.Sprintf("/proc/self/fd/%d/%s", parent, filepath.Base(path))); err != nil {
		return fmt.Errorf("%q: %w", path, bare(err))
	}
	return nil
}

// look goes through all files, for what must not be in a game that servers share. No process is left that could change them.
func (in *installer) look() error {
	self := uint32(os.Geteuid())
	return filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = in.ctx.Err()
		}
		var info fs.FileInfo
		if err == nil {
			info, err = d.Info()
		}
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		switch kind := info.Mode(); {
		case st.Uid != self:
			err = errors.New("it belongs to another user")
		case kind.IsRegular():
			err = notSpecial(int64(st.Mode))
		case kind&fs.ModeSymlink != 0:
			err = leadsInside(in.dir, path)
		case !kind.IsDir():
			err = errors.New("it is neither a file nor a directory nor a link")
		}
		if err != nil {
			return fmt.Errorf("%q: %w", short(path), err)
		}
		return nil
	})
}

// leadsInside is staysInside for a link that no archive brought.
func leadsInside(root int, path string) error {
	parent, name := split(path)
	target, err := readLink(root, parent, name)
	switch {
	case err != nil:
		return err
	case strings.HasPrefix(target, "/"):
		return fmt.Errorf("a link to an absolute name, %q, is not allowed", short(target))
	}
	if err := staysInside(root, path, "the game"); err != nil {
		return fmt.Errorf("a link to %q, out of the game or without an end, is not allowed", short(target))
	}
	return nil
}

func (in *installer) makeExecutable(name string) error {
	fd, err := units.OpenBeneath(in.dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&0o111 == 0o111 {
		return nil // on an overlay even a mode that stays the same would copy the file into the delta
	}
	if err := unix.Fchmod(fd, st.Mode&0o777|0o755); err != nil {
		return fmt.Errorf("%q cannot be made executable: %w", name, err)
	}
	return nil
}

// steamClients puts the steamclient.so where SteamAPI looks for it below a server's HOME: without it there are only LAN servers, no
// master list, no workshop. Those of SteamCMD are the newest; the game has its own.
func (in *installer) steamClients(steam string) error {
	for _, c := range []struct {
		dir  string
		from string
		own  []string // in the game; a 32-bit one is better than none where there is no other
	}{
		{".steam/sdk32", "linux32", []string{"bin/steamclient.so"}},
		{".steam/sdk64", "linux64", []string{"bin/linux64/steamclient.so", "linux64/steamclient.so", "bin/steamclient.so"}},
	} {
		if err := in.steamClient(c.dir, in.steamClientFrom(steam, c.from), c.own); err != nil {
			return err
		}
	}
	return nil
}

const steamClientName = "steamclient.so"

// steamClientFrom is the steamclient.so of SteamCMD, "" if it has none.
func (in *installer) steamClientFrom(steam, platform string) string {
	if steam == "" {
		return ""
	}
	for _, root := range append([]string{filepath.Dir(steam)}, in.steamRoots()...) {
		path := filepath.Join(root, platform, steamClientName)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// steamRoots are the directories in which SteamCMD may keep itself.
func (in *installer) steamRoots() []string {
	var roots []string
	for _, root := range []string{".local/share/Steam/steamcmd", ".steam/steamcmd", ".local/share/Steam", ".steam/steam", "Steam"} {
		roots = append(roots, filepath.Join(in.Home, root))
	}
	return roots
}

func (in *installer) steamClient(path, from string, own []string) error {
	dir, err := units.MkdirAllBeneath(in.dir, path, 0o755, -1, -1)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if from != "" {
		text, err := readBounded(from, maxSteamClient)
		if err != nil {
			return fmt.Errorf("SteamCMD's %s: %w", steamClientName, err)
		}
		_, err = units.WriteFileAtomic(dir, steamClientName, text, 0o644, -1, -1)
		return err
	}
	// What is there is good: it was looked at, or it is what an earlier install has put there.
	if unix.Faccessat(dir, steamClientName, unix.R_OK, 0) == nil {
		return nil
	}
	for _, name := range own {
		var st unix.Stat_t
		if unix.Fstatat(in.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if err := unix.Unlinkat(dir, steamClientName, 0); err != nil && err != unix.ENOENT {
			return err
		}
		return unix.Symlinkat("../../"+name, dir, steamClientName)
	}
	fmt.Fprintf(in.w.stderr, "left4-worker: there is no %s for %s: servers will not be seen outside of the local network\n", steamClientName, path)
	return nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return text, err
}

// removeAppInfo removes what SteamCMD knows of apps. Where it keeps that depends on who has packaged it.
func removeAppInfo(home string) {
	for _, dir := range []string{".local/share/Steam", ".steam/steam", ".steam", "Steam", "steamcmd"} {
		_ = os.Remove(filepath.Join(home, dir, "appcache/appinfo.vdf")) // it is in one of them, or nowhere
	}
}

// steamCMD is the path of a SteamCMD that can be run.
//
// Valve's steamcmd.sh takes the directory of $0 for its root and updates what lies there, so the worker runs a copy in its own
// home. What distributions have is a script that makes such a copy itself. Behind a link it would take the link's directory.
func (in *installer) steamCMD() (string, error) {
	source, err := filepath.EvalSymlinks(in.SteamCMD)
	if err == nil {
		var st fs.FileInfo
		if st, err = os.Stat(source); err == nil && !st.Mode().IsRegular() {
			err = errors.New("it is no file")
		}
	}
	if err != nil {
		return "", &failure{program: steamProgram, class: classProgram, cause: fmt.Sprintf("%s: %v", in.SteamCMD, bare(err)), hint: getSteamCMD}
	}
	own := filepath.Join(in.Home, "steamcmd")
	from := filepath.Dir(source)
	if filepath.Ext(source) != ".sh" || from == own {
		return source, nil
	}
	path := filepath.Join(own, filepath.Base(source))
	stamp := sourceStamp(source)
	if old, err := readBounded(filepath.Join(own, stampName), 64<<10); err == nil && bytes.Equal(old, stamp) {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	in.w.note(status.Step(-1, "copying SteamCMD"))
	if err := copySteam(in.ctx, from, own, stamp); err != nil {
		return "", fmt.Errorf("SteamCMD cannot be copied from %s to %s: %w", from, own, err)
	}
	return path, nil
}

// stampName is the file that tells of what a copy was made.
const stampName = ".left4-source"

// sourceStamp changes when there is another SteamCMD to copy. The copy itself is no measure: it updates itself.
func sourceStamp(path string) []byte {
	var text bytes.Buffer
	for _, name := range []string{path, filepath.Join(filepath.Dir(path), "linux32/steamcmd")} {
		if st, err := os.Stat(name); err == nil {
			fmt.Fprintf(&text, "%s\n%d %d\n", name, st.Size(), st.ModTime().UnixNano())
		}
	}
	return text.Bytes()
}

// notSteam are directories beside steamcmd.sh that hold what somebody has done with it.
var notSteam = []string{"steamapps", "logs", "appcache", "config", "userdata", "depotcache"}

// copySteam makes a copy that is whole or not there.
func copySteam(ctx context.Context, from, to string, stamp []byte) error {
	aside := to + ".new"
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	defer os.RemoveAll(aside)
	var files, size int64
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		below, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(notSteam, below) {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(aside, below), 0o755)
		}
		if !d.Type().IsRegular() {
			return nil // in Valve's archive there is nothing else
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if files, size = files+1, size+info.Size(); files > maxSteamFiles || size > maxSteamBytes {
			return errors.New("it holds more than SteamCMD")
		}
		return copyInto(filepath.Join(aside, below), path, info.Mode().Perm()&0o755|0o600)
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(aside, stampName), stamp, 0o644); err != nil {
		return err
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.Rename(aside, to)
}

func copyInto(to, from string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
