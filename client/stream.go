package client

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Source is what ImportGame and ImportOverlay read: a file as it is, or a tar stream that is packed while it is read.
//
// Everything is opened with the rights of this process, below the directory, and no link is followed: whoever can
// write there while it is packed cannot make it hold another file of the machine.
type Source struct {
	File *os.File // the reading end
	Size uint64   // bytes that it carries, if nothing that is packed changes meanwhile
	Name string   // of the file, without its directory; "" where it is packed, or the name is no text

	packed chan error // what the packing ended with; nil for a file
}

// OpenSource opens a file, which left4 finds out the type of and unpacks in a sandbox, or a directory, whose content it
// starts to pack. A directory that holds a device, a socket or a pipe is refused, by the name of that file.
func OpenSource(name string) (*Source, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // without waiting for somebody to write to a pipe
	if err != nil {
		return nil, reason(err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, reason(err)
	}
	var s *Source
	switch {
	case info.IsDir():
		s, err = packing(directory{f})
	case !info.Mode().IsRegular():
		err = errors.New("it is neither a directory nor a file")
	default:
		return &Source{File: f, Size: uint64(info.Size()), Name: textOf(path.Base(name))}, nil
	}
	if err != nil {
		f.Close()
	}
	return s, err
}

// textOf is a name as a caller writes it for left4d, if it can be told at all.
func textOf(name string) string {
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return ""
	}
	return FileText(name)
}

// SourceEntry is a file or directory that PackEntries packs.
type SourceEntry struct {
	Name    string   // its path, as on disk (FileName)
	Mode    uint32   // permission bits
	Content *os.File // a regular file, from its beginning; nil for a directory
}

// PackEntries starts to pack some entries, or none, and closes their contents when that has ended.
func PackEntries(entries ...SourceEntry) (*Source, error) {
	s, err := packing(entryList(entries))
	if err != nil {
		entryList(entries).Close()
	}
	return s, err
}

// Wait ends when everything has been read, or nobody reads any more, and tells what could not be packed, if anything.
// The reading end must be closed by then, for a reader that has gone to be noticed.
func (s *Source) Wait() error {
	if s.packed == nil {
		return nil
	}
	err := <-s.packed
	s.packed <- err
	return err
}

// Live tells that the stream is made by this process and ends with it.
func (s *Source) Live() bool { return s.packed != nil }

// packable is what can be packed. It is gone through twice: the first time finds what cannot be packed before anything
// is sent, and measures.
type packable interface {
	each(visitor) error
	io.Closer
}

// packing owns what it packs from the moment that it succeeds.
func packing(what packable) (*Source, error) {
	var size counter
	if err := what.each(&measurer{size: &size}); err != nil {
		return nil, err
	}
	size += 2 * tarBlock // the end of the archive
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s := &Source{File: reader, Size: uint64(size), packed: make(chan error, 1)}
	go func() {
		err := pack(what, writer)
		what.Close() // before anybody hears of the end
		// A reader that has gone knows why better than we do.
		if errors.Is(err, unix.EPIPE) {
			err = nil
		}
		s.packed <- err
	}()
	return s, nil
}

func pack(what packable, to *os.File) error {
	defer to.Close()
	buffered := bufio.NewWriterSize(to, 1<<18)
	w := &packer{tar: tar.NewWriter(buffered)}
	if err := what.each(w); err != nil {
		return err // without the end of the archive, so that the reader sees that something is missing
	}
	if err := w.tar.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

type directory struct{ *os.File }

func (d directory) each(v visitor) error {
	if _, err := d.Seek(0, io.SeekStart); err != nil {
		return reason(err)
	}
	return walk(d.File, "", v)
}

type entryList []SourceEntry

func (l entryList) each(v visitor) error {
	for _, e := range l {
		h := &tar.Header{Typeflag: tar.TypeDir, Name: e.Name + "/", Mode: int64(e.Mode & 0o777), ModTime: time.Now()}
		if e.Content == nil {
			if err := v.visit(h, nil); err != nil {
				return err
			}
			continue
		}
		info, err := e.Content.Stat()
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", e.Name, reason(err))
		}
		h.Typeflag, h.Name, h.Size = tar.TypeReg, e.Name, info.Size()
		if err := v.visit(h, io.NewSectionReader(e.Content, 0, h.Size)); err != nil {
			return err
		}
	}
	return nil
}

func (l entryList) Close() error {
	for _, e := range l {
		if e.Content != nil {
			e.Content.Close()
		}
	}
	return nil
}

const tarBlock = 512

// visitor gets each entry of a tree; content is nil for all but regular files.
type visitor interface {
	visit(h *tar.Header, content io.Reader) error
}

type packer struct{ tar *tar.Writer }

func (p *packer) visit(h *tar.Header, content io.Reader) error {
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("cannot pack %s: %w", h.Name, err)
	}
	if content == nil {
		return nil
	}
	n, err := io.Copy(p.tar, io.LimitReader(content, h.Size))
	switch {
	case errors.Is(err, unix.EPIPE):
		return err
	case err != nil:
		return fmt.Errorf("cannot read %s: %w", h.Name, reason(err))
	case n < h.Size:
		return fmt.Errorf("cannot pack %s: it became shorter while it was read", h.Name)
	}
	return nil
}

// measurer counts what packer would write.
type measurer struct{ size *counter }

type counter uint64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

func (m *measurer) visit(h *tar.Header, content io.Reader) error {
	if err := tar.NewWriter(m.size).WriteHeader(h); err != nil {
		return fmt.Errorf("cannot pack %s: %w", h.Name, err)
	}
	*m.size += counter((h.Size + tarBlock - 1) / tarBlock * tarBlock)
	return nil
}

// walk visits what is below dir in the order of the names, directories before what they hold.
func walk(dir *os.File, prefix string, v visitor) error {
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", shown(prefix), reason(err))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if err := walkOne(dir, e.Name(), path.Join(prefix, e.Name()), v); err != nil {
			return err
		}
	}
	return nil
}

func walkOne(dir *os.File, base, name string, v visitor) error {
	fd := int(dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, base, target)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", name, err)
		}
		h := header(name, &st)
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, string(target[:n]), 0o777
		return v.visit(h, nil)
	case unix.S_IFDIR, unix.S_IFREG:
	default:
		return fmt.Errorf("cannot pack %s: it is %s", name, kind(st.Mode))
	}
	opened, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	f := os.NewFile(uintptr(opened), name)
	defer f.Close()
	// What was opened may be another file than what was looked at.
	if err := unix.Fstat(opened, &st); err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	h := header(name, &st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		h.Mode &^= unix.S_ISGID | unix.S_ISVTX // they rule what happens in this very directory
		if err := v.visit(h, nil); err != nil {
			return err
		}
		return walk(f, name, v)
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
		return v.visit(h, f)
	}
	return fmt.Errorf("cannot pack %s: it is %s", name, kind(st.Mode))
}

// header leaves owners out: they would be those of this machine.
func header(name string, st *unix.Stat_t) *tar.Header {
	return &tar.Header{Name: name, Mode: int64(st.Mode & 0o7777), ModTime: time.Unix(st.Mtim.Unix())}
}

func kind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFBLK, unix.S_IFCHR:
		return "a device"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFIFO:
		return "a pipe"
	}
	return "no file, directory or link"
}

func shown(prefix string) string {
	if prefix == "" {
		return "the directory"
	}
	return prefix
}

// reason is why, without the name and the system call that package os puts before it.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
