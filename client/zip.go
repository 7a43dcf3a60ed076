package client

import (
	"archive/tar"
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A zip file says everything twice and much of it ambiguously. What left4 would have to guess is refused by name: names
// that are not UTF-8, that leave the tree or meet each other, entries that are encrypted, overlap or are not as long as
// they say. Unlike a tar file it has to be read at its end first, so it is unpacked here and sent as a tar stream.

// isZip tells a zip file from its first bytes, those of an entry or of an empty directory of entries.
func isZip(f *os.File) bool {
	head := make([]byte, 4)
	n, _ := f.ReadAt(head, 0)
	return n == 4 && (string(head) == "PK\x03\x04" || string(head) == "PK\x05\x06")
}

type zipFile struct {
	file    *os.File
	entries []zipEntry
}

type zipEntry struct {
	*zip.File
	header tar.Header
}

// openZip owns f from the moment that it succeeds.
func openZip(f *os.File, size int64) (*Source, error) {
	z, err := readZip(f, size)
	if err != nil {
		return nil, err
	}
	return packing(&zipFile{f, z})
}

// readZip checks the directory of a zip file.
func readZip(r io.ReaderAt, size int64) ([]zipEntry, error) {
	in, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // names are checked below, and told
		return nil, fmt.Errorf("it is a broken zip file: %w", err)
	}
	var entries []zipEntry
	var packed, unpacked uint64
	kinds := map[string]byte{} // of each path, the directories above included
	for _, f := range in.File {
		e := zipEntry{File: f}
		if err := e.read(); err != nil {
			return nil, fmt.Errorf("cannot take %s: %w", shorten(FileText(f.Name)), err)
		}
		if packed += f.CompressedSize64; packed < f.CompressedSize64 || packed > uint64(size) {
			// Many entries on the same few bytes are how a small file becomes petabytes.
			return nil, errors.New("it is a broken zip file: its entries overlap")
		}
		if unpacked += uint64(e.header.Size); unpacked > math.MaxInt64 {
			return nil, errors.New("it is a broken zip file: it says that it holds more than any disk")
		}
		if e.header.Name == "./" {
			continue
		}
		if err := e.place(kinds); err != nil {
			return nil, fmt.Errorf("cannot take %s: %w", shorten(FileText(f.Name)), err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// The programs that made an entry (APPNOTE 4.4.2.2), as far as they matter: those whose file modes are Unix', and those
// that may have written backslashes between the parts of a name.
func (e *zipEntry) unix() bool {
	creator := e.CreatorVersion >> 8
	return creator == 3 || creator == 19
}

func (e *zipEntry) dos() bool {
	creator := e.CreatorVersion >> 8
	return creator == 0 || creator == 10 || creator == 14
}

// read makes the header of the tar stream.
func (e *zipEntry) read() error {
	name := e.Name
	if e.dos() {
		name = strings.ReplaceAll(name, `\`, "/")
	}
	if err := checkEntryName(name); err != nil {
		return err
	}
	mode := uint32(unix.S_IFREG | 0o644)
	if e.unix() && e.ExternalAttrs>>16 != 0 {
		mode = e.ExternalAttrs >> 16
	}
	format := mode & unix.S_IFMT
	switch {
	case strings.HasSuffix(name, "/"):
		format, mode = unix.S_IFDIR, mode|mode>>2&0o111
	case format == 0:
		format = unix.S_IFREG // many write the permission bits alone
	}
	if e.UncompressedSize64 > math.MaxInt64 {
		return errors.New("it is larger than any disk")
	}
	h := tar.Header{Name: path.Clean(name), Mode: int64(mode & 0o7777), ModTime: e.Modified}
	switch format {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		h.Mode &^= unix.S_ISGID | unix.S_ISVTX
		if e.UncompressedSize64 > 0 {
			return errors.New("it is a directory with a content of its own")
		}
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, int64(e.UncompressedSize64)
	case unix.S_IFLNK:
		h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
	default:
		return fmt.Errorf("it is %s", kind(format))
	}
	if h.Name == "." {
		return errors.New("it has no name")
	}
	switch {
	case e.Flags&1 != 0:
		return errors.New("it is encrypted")
	case format != unix.S_IFDIR && e.Method != zip.Store && e.Method != zip.Deflate:
		return fmt.Errorf("it is compressed by method %d, which is not supported: pack it with the usual one", e.Method)
	case e.Method == zip.Store && e.CompressedSize64 != e.UncompressedSize64:
		return errors.New("it is not as long as it says")
	}
	if format == unix.S_IFLNK {
		if e.UncompressedSize64 >= unix.PathMax {
			return errors.New("it is a link that leads nowhere")
		}
		target, err := e.target()
		if err != nil {
			return err
		}
		h.Linkname = target
	}
	e.header = h
	return nil
}

func checkEntryName(name string) error {
	switch {
	case !utf8.ValidString(name):
		return errors.New("its name is not UTF-8: pack it with a program that writes UTF-8")
	case strings.Contains(name, "\x00"):
		return errors.New("its name holds a NUL byte")
	case strings.HasPrefix(name, "/"):
		return errors.New("its name begins at the root")
	case len(name) > 2 && name[1] == ':' && name[2] == '/':
		return errors.New("its name begins with a drive")
	}
	for part := range strings.SplitSeq(strings.TrimSuffix(name, "/"), "/") {
		switch {
		case part == "..":
			return errors.New(`its name holds ".."`)
		case part == "":
			return errors.New("its name has an empty part")
		}
	}
	return nil
}

// target is where a link leads: that is its content.
func (e *zipEntry) target() (string, error) {
	in, err := e.Open()
	if err != nil {
		return "", err
	}
	defer in.Close()
	target, err := io.ReadAll(io.LimitReader(in, unix.PathMax))
	if err != nil {
		return "", err
	}
	if len(target) == 0 || strings.Contains(string(target), "\x00") {
		return "", errors.New("it is a link that leads nowhere")
	}
	return string(target), nil
}

// place refuses an entry whose path another one has already, or goes through or below.
func (e *zipEntry) place(kinds map[string]byte) error {
	const implied = 'i' // a directory that nobody wrote down yet
	name := path.Clean(e.header.Name)
	kind := e.header.Typeflag
	if before, ok := kinds[name]; ok && (before != implied || kind != tar.TypeDir) {
		return errors.New("it is there twice")
	}
	kinds[name] = kind
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		switch kinds[dir] {
		case 0:
			kinds[dir] = implied
		case implied, tar.TypeDir:
			return nil // and so is all above it
		default:
			return fmt.Errorf("%s is no directory", shorten(FileText(dir)))
		}
	}
	return nil
}

func (z *zipFile) Close() error { return z.file.Close() }

func (z *zipFile) each(v visitor) error {
	for i := range z.entries {
		if err := z.entries[i].visit(v); err != nil {
			return err
		}
	}
	return nil
}

func (e *zipEntry) visit(v visitor) error {
	h := e.header
	if h.Typeflag != tar.TypeReg {
		return v.visit(&h, nil)
	}
	content := &lazyEntry{entry: e}
	defer content.Close()
	if err := v.visit(&h, content); err != nil || content.in == nil {
		return err
	}
	// What is behind the last byte is its checksum, or more than it said.
	switch n, err := content.Read(make([]byte, 1)); {
	case n > 0:
		return fmt.Errorf("cannot read %s: it is longer than it says", FileText(h.Name))
	case err != io.EOF:
		return fmt.Errorf("cannot read %s: %w", FileText(h.Name), err)
	}
	return nil
}

// lazyEntry opens its entry when somebody reads it, which who only measures does not.
type lazyEntry struct {
	entry *zipEntry
	in    io.ReadCloser
}

func (l *lazyEntry) Read(b []byte) (int, error) {
	if l.in == nil {
		in, err := l.entry.Open()
		if err != nil {
			return 0, err
		}
		l.in = in
	}
	return l.in.Read(b)
}

func (l *lazyEntry) Close() error {
	if l.in == nil {
		return nil
	}
	return l.in.Close()
}

func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
