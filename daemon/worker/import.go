package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

const (
	maxFile   = 64 << 30               // bytes of one file
	maxTotal  = 256 << 30              // bytes of all files, holes too: they take no room, but time
	maxTail   = 64 << 20               // bytes behind the end of the archive
	maxPath   = 4095                   // bytes of a path or of a link's target, as the kernel counts them
	maxName   = 255                    // bytes of a part of a path
	maxLinks  = 40                     // links that the kernel follows in one path
	noteEvery = 500 * time.Millisecond // between two words about the progress
	hole      = 64 << 10               // bytes; so many zeros in a row are not written
)

// importer unpacks one archive into one empty directory. Memory does not grow with the number of entries.
//
// Everything is opened beneath the directory, and no link is followed, whatever the archive holds. What has no place in the files of a game
// is refused by the name of its entry: devices, FIFOs, setuid, setgid and sticky files, links that leave the tree, entries that go
// through a link or turn what is there into something else. A file may be there twice, the last one stays. Owners,
// extended attributes and the times of directories are not taken over.
type importer struct {
	game     bool   // it must be a game
	part     bool   // it is put over other files, and may be empty
	into     bool   // the caller has said where all belongs
	called   string // the name of the file that the stream is, "" = not known
	size     int64  // of the stream in bytes, -1 = not known
	note     func(text string)
	max      int64 // bytes of one file, 0 = maxFile
	all      int64 // bytes of all files, 0 = maxTotal
	most     int   // entries, 0 = maxEntries
	bomb     int64 // bytes, 0 = bombSize
	mostDirs int   // directories, 0 = maxDirs

	files, bytes int64

	root    int
	in      *input
	meter   *meter
	format  string
	archive *plain // of a stream that is read from its beginning to its end
	dirs    int    // that were made, or more
	noted   time.Time
	buf     []byte
	last    directory // where the last entry went
	links   *os.File  // the paths of all symbolic links, each with a NUL after it
	pending *bufio.Writer
}

type directory struct {
	path string
	fd   int
}

// unpack reads stream to its end. When it fails, what was unpacked so far stays.
func (im *importer) unpack(root int, stream io.Reader) error {
	im.root = root
	im.in = &input{r: stream}
	im.buf = make([]byte, 4*hole)
	im.last = directory{".", root}
	defer im.leave()
	if im.max == 0 {
		im.max = maxFile
	}
	if im.all == 0 {
		im.all = maxTotal
	}
	if im.most == 0 {
		im.most = maxEntries
	}
	if im.bomb == 0 {
		im.bomb = bombSize
	}
	if im.mostDirs == 0 {
		im.mostDirs = maxDirs
	}
	im.meter = &meter{in: im.in, bomb: im.bomb}

	if err := im.begin(); err != nil {
		return im.told(err)
	}
	defer im.links.Close()
	in, done, err := im.open(stream)
	if err != nil {
		return im.told(err)
	}
	defer done()
	if err := im.entries(in); err != nil {
		return im.told(err)
	}
	if err := im.end(); err != nil {
		return im.told(err)
	}
	return nil
}

// told turns reasons into the words that people know them by.
func (im *importer) told(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("disk full after %d files, %d bytes", im.files, im.bytes)
	}
	return err
}

func (im *importer) begin() error {
	dir, err := units.OpenBeneath(im.root, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(dir), ".")
	defer d.Close()
	if names, err := d.Readdirnames(1); err != io.EOF {
		return fmt.Errorf("the directory to unpack into is not empty: %q is there", names)
	}
	// A file without a name in the one place that can be written to.
	const name = ".links"
	fd, err := units.OpenBeneath(im.root, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	im.links = os.NewFile(uintptr(fd), name)
	im.pending = bufio.NewWriter(im.links)
	return unix.Unlinkat(im.root, name, 0)
}

func (im *importer) entries(in contents) error {
	for n := 0; ; n++ {
		h, data, err := in.next()
		switch {
		case err == io.EOF && n == 0 && !im.part:
			return errors.New("the archive is empty")
		case err == io.EOF:
			return in.end()
		case err != nil:
			return err
		case n == im.most:
			return im.tooMany()
		}
		if err := im.entry(h, data); err != nil {
			return in.failed(err)
		}
		im.progress()
	}
}

// entry unpacks one entry; errors name it.
func (im *importer) entry(h *tar.Header, data io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // only attributes, as git writes them
	}
	path, err := cleanName(h.Name)
	if err != nil {
		return fmt.Errorf("%q: %w", short(h.Name), err)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		err = im.file(path, h, data)
	case tar.TypeDir:
		err = im.directory(path)
	case tar.TypeSymlink:
		err = im.symlink(path, h.Linkname)
	case tar.TypeLink:
		err = im.hardLink(path, h)
	case tar.TypeChar, tar.TypeBlock:
		err = errors.New("a device is not allowed")
	case tar.TypeFifo:
		err = errors.New("a FIFO is not allowed")
	case 0:
		err = errors.New("it is neither a file, a directory nor a link")
	default:
		err = fmt.Errorf("an entry of type %q is not known", h.Typeflag)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", short(h.Name), err)
	}
	return nil
}

// short keeps a name that is too long out of errors.
func short(name string) string {
	if len(name) > 300 {
		return name[:300] + "…"
	}
	return name
}

// cleanName is the entry's path below the directory, without "." parts; "" is the directory itself.
func cleanName(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("an empty name is not allowed")
	case strings.Contains(name, "\x00"):
		return "", errors.New("a NUL in a name is not allowed")
	case name[0] == '/':
		return "", errors.New("an absolute name is not allowed")
	case len(name) > maxPath:
		return "", fmt.Errorf("the name has more than %d bytes", maxPath)
	}
	var parts []string
	for _, part := range strings.Split(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return "", errors.New(`".." in a name is not allowed`)
		case len(part) > maxName:
			return "", fmt.Errorf("a part of the name has more than %d bytes", maxName)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "/"), nil
}

// enter opens the directory path, which becomes complete where it is missing.
func (im *importer) enter(path string) (int, error) {
	switch path {
	case ".":
		return im.root, nil
	case im.last.path:
		return im.last.fd, nil
	}
	// Down from where the last entry went: all the way from the top for each would take a deep tree as long as its square.
	from, rest := im.root, path
	if below, ok := strings.CutPrefix(path, im.last.path+"/"); ok {
		from, rest = im.last.fd, below
	}
	fd, err := units.OpenBeneath(from, rest, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		if im.dirs += 1 + strings.Count(rest, "/"); im.dirs > im.mostDirs {
			return -1, fmt.Errorf("the archive makes more than %d directories", im.mostDirs)
		}
		fd, err = units.MkdirAllBeneath(from, rest, 0o755, -1, -1)
	}
	switch {
	case errors.Is(err, unix.ELOOP):
		return -1, errors.New("its path goes through a link")
	case errors.Is(err, unix.ENOTDIR):
		return -1, errors.New("its path goes through a file")
	case err != nil:
		return -1, err
	}
	im.leave()
	im.last = directory{path, fd}
	return fd, nil
}

func (im *importer) leave() {
	if im.last.fd != im.root {
		unix.Close(im.last.fd)
	}
	im.last = directory{".", im.root}
}

// place opens the directory that path lies in. kind (unix.S_IFREG or S_IFLNK) may replace one of its own kind, and nothing else.
func (im *importer) place(path string, kind uint32) (dir int, name string, err error) {
	if path == "" {
		return -1, "", errors.New("the top of the archive must be a directory")
	}
	parent, name := split(path)
	if dir, err = im.enter(parent); err != nil {
		return -1, "", err
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return dir, name, nil
	case err != nil:
		return -1, "", err
	case st.Mode&unix.S_IFMT != kind:
		return -1, "", fmt.Errorf("the archive has it as %s before", kindName(st.Mode))
	case im.format == "zip" || im.format == "7z":
		return -1, "", errors.New("it is there twice") // and who reads the list and who reads the files see another one
	}
	return dir, name, unix.Unlinkat(dir, name, 0)
}

func split(path string) (parent, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return ".", path
}

func kindName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a link"
	}
	return "a file"
}

func (im *importer) directory(path string) error {
	if path == "" {
		return nil
	}
	parent, name := split(path)
	dir, err := im.enter(parent)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("the archive has it as %s before", kindName(st.Mode))
	}
	_, err = im.enter(path)
	return err
}

// notSpecial refuses modes that give a file rights of its own. Archives have them on directories, where they are dropped.
func notSpecial(mode int64) error {
	for _, bit := range []struct {
		bit  int64
		name string
	}{{unix.S_ISUID, "setuid"}, {unix.S_ISGID, "setgid"}, {unix.S_ISVTX, "sticky"}} {
		if mode&bit.bit != 0 {
			return fmt.Errorf("a %s file is not allowed", bit.name)
		}
	}
	return nil
}

func (im *importer) file(path string, h *tar.Header, data io.Reader) error {
	if err := notSpecial(h.Mode); err != nil {
		return err
	}
	if h.Size > im.max {
		return fmt.Errorf("it has more than %d bytes", im.max)
	}
	if h.Size > im.all-im.bytes {
		return fmt.Errorf("with it the archive holds more than %d bytes", im.all)
	}
	dir, name, err := im.place(path, unix.S_IFREG)
	if err != nil {
		return err
	}
	if err := hasRoom(dir); err != nil {
		return err
	}
	fd, err := units.OpenBeneath(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := im.content(fd, data); err != nil {
		return err
	}
	if err := unix.Ftruncate(fd, h.Size); err != nil { // it may end in a hole
		return err
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o755|0o644); err != nil {
		return err
	}
	im.files++
	// A time that no clock of a builder can have shown stays what it is: now.
	// In seconds: the largest of them are beyond what Time compares.
	if s := h.ModTime.Unix(); s >= 0 && s < time.Now().Add(24*time.Hour).Unix() {
		t, err := unix.TimeToTimespec(h.ModTime)
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(dir, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return nil
}

// content writes what the file holds, and no zeros: what the archive or its maker left out takes no room here either.
func (im *importer) content(fd int, data io.Reader) error {
	for at := int64(0); ; {
		n, err := fill(data, im.buf)
		if full := hasRoom(fd); full != nil {
			return full
		}
		for rest := im.buf[:n]; len(rest) > 0; {
			part := rest[:min(hole, len(rest))]
			rest = rest[len(part):]
			if !zero(part) {
				if err := writeAt(fd, part, at); err != nil {
					return err
				}
			}
			at += int64(len(part))
			im.bytes += int64(len(part))
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		im.progress()
	}
}

const (
	// reservePart of a file system, and not more than reserveMax, is left alone: servers and the database write there, too.
	reservePart = 50
	reserveMax  = 512 << 20
)

// hasRoom is as good as full when only the reserve is left on the file system of what is open as fd.
func hasRoom(fd int) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	if free(fs) <= 0 || fs.Files > 0 && fs.Ffree < fs.Files/reservePart {
		return unix.ENOSPC
	}
	return nil
}

// free are the bytes that may be written.
func free(fs unix.Statfs_t) int64 {
	if fs.Blocks == 0 {
		return math.MaxInt64 // it does not tell
	}
	size := fs.Frsize
	return int64(fs.Bavail)*size - min(int64(fs.Blocks)*size/reservePart, reserveMax)
}

// fill is io.ReadFull that leaves the reader's error as it is, so that an end can be told from a cut.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func zero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

func writeAt(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

func (im *importer) symlink(path, target string) error {
	if err := properTarget(path, target, "the archive"); err != nil {
		return err
	}
	dir, name, err := im.place(path, unix.S_IFLNK)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(target, dir, name); err != nil {
		return err
	}
	im.files++
	// Where it leads cannot be known before all is there.
	_, err = im.pending.WriteString(path + "\x00")
	return err
}

func (im *importer) hardLink(path string, h *tar.Header) error {
	if err := notSpecial(h.Mode); err != nil {
		return err
	}
	target, err := cleanName(h.Linkname)
	if err != nil {
		return fmt.Errorf("a link to %q: %w", short(h.Linkname), err)
	}
	missing := fmt.Errorf("a link to %q, which is not in the archive before it, is not allowed", short(h.Linkname))
	if target == "" {
		return missing
	}
	parent, base := split(target)
	from, err := units.OpenBeneath(im.root, parent, unix.O_PATH|unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return missing
	case errors.Is(err, unix.ELOOP):
		return fmt.Errorf("a link to %q, whose path goes through a link, is not allowed", short(h.Linkname))
	case err != nil:
		return err
	}
	defer unix.Close(from)
	var st, old unix.Stat_t
	switch err := unix.Fstatat(from, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return missing
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("a link to %q, which is %s, is not allowed", short(h.Linkname), kindName(st.Mode))
	}
	if path != "" {
		up, name := split(path)
		dir, err := im.enter(up)
		if err != nil {
			return err
		}
		// To replace a file by a link to itself would lose it.
		if unix.Fstatat(dir, name, &old, unix.AT_SYMLINK_NOFOLLOW) == nil && old.Ino == st.Ino && old.Dev == st.Dev {
			return nil
		}
	}
	dir, name, err := im.place(path, unix.S_IFREG)
	if err != nil {
		return err
	}
	if err := unix.Linkat(from, base, dir, name, 0); err != nil {
		return err
	}
	im.files++
	return nil
}

// end looks at the whole and brings it to the disk.
func (im *importer) end() error {
	if im.game {
		var st unix.Stat_t
		err := unix.Fstatat(im.root, "srcds_run", &st, unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG:
			return errors.New("the archive holds no srcds_run at its top")
		case st.Mode&0o100 == 0:
			return errors.New("srcds_run at the top of the archive is not executable")
		}
	}
	if err := im.sortAddons(); err != nil {
		return err
	}
	if err := im.pending.Flush(); err != nil {
		return err
	}
	if _, err := im.links.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for links := bufio.NewReader(im.links); ; {
		path, err := links.ReadString(0)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		path = strings.TrimSuffix(path, "\x00")
		if err := staysInside(im.root, path, "the archive"); err != nil {
			return fmt.Errorf("%q: %w", short(path), err)
		}
		im.progress()
	}
	return unix.Syncfs(im.root)
}

// addonsDir is where the game looks for VPK files.
const addonsDir = "left4dead2/addons"

// besides are what map sites put beside the VPK files in their archives.
var besides = []string{".txt", ".md", ".pdf", ".rtf", ".htm", ".html", ".url", ".nfo", ".jpg", ".jpeg", ".png"}

// sortAddons puts what map sites offer, a zip or 7z file with VPK files and nothing to tell where they belong, to where the game finds it.
func (im *importer) sortAddons() error {
	if im.game || im.into || im.format != "zip" && im.format != "7z" {
		return nil
	}
	fd, err := units.OpenBeneath(im.root, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	top := os.NewFile(uintptr(fd), ".")
	defer top.Close()
	var names []string
	some := false
	for {
		entries, err := top.ReadDir(100)
		for _, e := range entries {
			isAddon := isVPK(e.Name())
			if !e.Type().IsRegular() || !isAddon && !slices.Contains(besides, strings.ToLower(extension(e.Name()))) {
				return nil
			}
			some = some || isAddon
			names = append(names, e.Name())
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if !some {
		return nil
	}
	dir, err := im.enter(addonsDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := unix.Renameat(im.root, name, dir, name); err != nil {
			return err
		}
	}
	return nil
}

// progress tells how far it is, now and then.
func (im *importer) progress() {
	if now := time.Now(); now.Sub(im.noted) >= noteEvery {
		im.noted = now
		fraction := -1.0
		if im.size > 0 {
			fraction = min(1, float64(im.in.read)/float64(im.size)) // a list of entries is read besides
		}
		im.note(status.Progress(fraction, im.files, im.bytes))
	}
}
