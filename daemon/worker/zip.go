package main

import (
	"archive/tar"
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// A zip file says everything twice and much of it ambiguously. What left4 would have to guess is refused by name: names
// that are not UTF-8 or are there twice, entries that are encrypted, overlap or are not as long as they say.

// maxZipDirectory is how long the list of entries at a zip file's end may be, in bytes: maxEntries with long names, and what they
// take of memory then.
const maxZipDirectory = 96 << 20

type zipContents struct {
	im    *importer
	files []*zip.File
	at    int
	open  io.ReadCloser
}

var errDirectory = errors.New("the list of entries is too long")

// zipDirectory reads only so much.
type zipDirectory struct {
	io.ReaderAt
	left *int64
}

func (d zipDirectory) ReadAt(p []byte, at int64) (int, error) {
	if *d.left -= int64(len(p)); *d.left < 0 {
		return 0, errDirectory
	}
	return d.ReaderAt.ReadAt(p, at)
}

func (im *importer) openZip(file *io.SectionReader) (contents, error) {
	var begin [4]byte
	if _, err := file.ReadAt(begin[:], 0); err == nil && string(begin[:]) == "PK\x07\x08" {
		return nil, errors.New("the zip file is one of several volumes: join them first (zip -s 0)")
	}
	left := int64(maxZipDirectory)
	bounded := zipDirectory{file, &left}
	in, err := zip.NewReader(bounded, file.Size())
	left = 1<<63 - 1
	switch {
	case errors.Is(err, errDirectory):
		return nil, im.tooMany()
	case err != nil && !errors.Is(err, zip.ErrInsecurePath): // names are checked with those of all archives
		return nil, fmt.Errorf("the zip file is damaged, cut off or one of several volumes: %w", err)
	case len(in.File) > im.most:
		return nil, im.tooMany()
	}
	var packed uint64
	for _, f := range in.File {
		if packed += f.CompressedSize64; packed < f.CompressedSize64 || packed > uint64(file.Size()) {
			// Many entries on the same few bytes are how a small file becomes petabytes.
			return nil, errors.New("the zip file is damaged: its entries overlap")
		}
	}
	return &zipContents{im: im, files: in.File}, nil
}

func (c *zipContents) next() (*tar.Header, io.Reader, error) {
	c.close()
	if c.at == len(c.files) {
		return nil, nil, io.EOF
	}
	f := c.files[c.at]
	c.at++
	h, data, err := c.entry(f)
	if err != nil {
		return nil, nil, c.failed(fmt.Errorf("%q: %w", short(f.Name), err))
	}
	return h, data, nil
}

func (c *zipContents) close() {
	if c.open != nil {
		c.open.Close()
		c.open = nil
	}
}

func (c *zipContents) failed(err error) error { return c.im.fileFailed(err) }

func (c *zipContents) end() error { return nil }

func (c *zipContents) entry(f *zip.File) (*tar.Header, io.Reader, error) {
	// The programs that made an entry (APPNOTE 4.4.2.2), as far as they matter: those that may have written backslashes between the
	// parts of a name, and those whose file modes are Unix'.
	creator := f.CreatorVersion >> 8
	name := f.Name
	if creator == 0 || creator == 10 || creator == 14 {
		name = strings.ReplaceAll(name, `\`, "/")
	}
	if err := foreignName(name); err != nil {
		return nil, nil, err
	}
	mode := uint32(unix.S_IFREG | 0o644)
	if (creator == 3 || creator == 19) && f.ExternalAttrs>>16 != 0 {
		mode = f.ExternalAttrs >> 16
	}
	h := &tar.Header{Name: name, Mode: int64(mode & 0o7777), ModTime: f.Modified}
	switch kind := mode & unix.S_IFMT; {
	case strings.HasSuffix(name, "/"):
		h.Typeflag = tar.TypeDir
	case kind == 0: // many write the permission bits alone
		h.Typeflag = tar.TypeReg
	default:
		h.Typeflag = typeOf(kind)
	}
	switch {
	case f.Flags&1 != 0, f.Flags&(1<<6) != 0, f.Flags&(1<<13) != 0: // APPNOTE 4.4.4
		return nil, nil, errors.New("it is encrypted: unpack it with its password and import what comes out")
	case h.Typeflag == tar.TypeDir && f.UncompressedSize64 > 0:
		return nil, nil, errors.New("it is a directory with a content of its own")
	case h.Typeflag == tar.TypeDir:
		return h, nil, nil
	case f.Method != zip.Store && f.Method != zip.Deflate:
		return nil, nil, fmt.Errorf("it is compressed by method %d, which is not supported: pack it by the usual one", f.Method)
	case f.UncompressedSize64 > 1<<62:
		return nil, nil, errors.New("it is larger than any disk")
	case f.Method == zip.Store && f.CompressedSize64 != f.UncompressedSize64:
		return nil, nil, damaged{errors.New("it is not as long as it says")}
	}
	h.Size = int64(f.UncompressedSize64)
	in, err := f.Open()
	if err != nil {
		return nil, nil, damaged{err}
	}
	c.open = in
	data := &whole{in, h.Size, c.im.meter}
	if h.Typeflag == tar.TypeSymlink {
		h.Size = 0
		h.Linkname, err = linkTarget(data)
		return h, nil, err
	}
	return h, data, nil
}

// typeOf is what tar calls a kind of file, 0 if it does not know it.
func typeOf(kind uint32) byte {
	switch kind {
	case unix.S_IFREG:
		return tar.TypeReg
	case unix.S_IFDIR:
		return tar.TypeDir
	case unix.S_IFLNK:
		return tar.TypeSymlink
	case unix.S_IFCHR:
		return tar.TypeChar
	case unix.S_IFBLK:
		return tar.TypeBlock
	case unix.S_IFIFO:
		return tar.TypeFifo
	}
	return 0
}
