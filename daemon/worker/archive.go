package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

// contents is what an archive holds: one entry after the other, in the words of tar.
type contents interface {
	// next is the next entry and what is in it, which has to be read before the next is asked for. io.EOF is behind the last.
	next() (*tar.Header, io.Reader, error)
	// failed says what is wrong where an entry could not be unpacked: err may be of what next returned, or what became of that.
	failed(err error) error
	// end looks at what comes behind the last entry.
	end() error
}

// damaged is an error of the data of an entry, not of writing it.
type damaged struct{ error }

func (d damaged) Unwrap() error { return d.error }

const (
	// maxEntries is how many entries an archive may have: the game has 20 000.
	maxEntries = 500_000
	// maxDirs is how many directories it may make with them, some of them counted more than once.
	maxDirs = 1_000_000

	// An archive that has become larger than bombSize must not be more than bombRatio times as large as what was read of it. Maps and
	// packages shrink to a half or a tenth, text to a fiftieth; only what is made to do harm shrinks further.
	bombSize  = 1 << 30
	bombRatio = 200
)

var errBomb = fmt.Errorf("the archive becomes more than %d times as large as it is, which no files of a game do", bombRatio)

func (im *importer) tooMany() error {
	return fmt.Errorf("the archive holds more than %d entries", im.most)
}

// meter watches how much an archive becomes.
type meter struct {
	in   *input
	out  int64
	bomb int64
}

// grew is told of each piece that was unpacked.
func (m *meter) grew(n int) error {
	m.out += int64(n)
	if m.out > m.bomb && m.out/bombRatio > m.in.read {
		return errBomb
	}
	return nil
}

// seekable is a stream that can be read anywhere, which a pipe cannot.
type seekable interface {
	io.ReadSeeker
	io.ReaderAt
}

// inputAt counts what is read of a seekable stream.
type inputAt struct {
	r  io.ReaderAt
	in *input
}

func (a inputAt) ReadAt(p []byte, at int64) (int, error) {
	n, err := a.r.ReadAt(p, at)
	a.in.read += int64(n)
	if err != nil && err != io.EOF {
		a.in.err = err
	}
	return n, err
}

// magics are how files begin that are not a tar archive, whatever they are called.
var magics = []struct{ begin, format string }{
	{"PK\x03\x04", "zip"}, {"PK\x05\x06", "zip"}, {"PK\x07\x08", "zip"}, // APPNOTE 4.3.7, 4.3.16, 8.5.3
	{"7z\xbc\xaf\x27\x1c", "7z"},  // 7zFormat.txt, "SignatureHeader"
	{"\x34\x12\xaa\x55", "VPK"},   // Valve Developer Wiki, "VPK File Format"
	{"Rar!\x1a\x07", "RAR"},       // RAR 5.0 archive format, "RAR signature"
	{"\xfd7zXZ\x00", "xz"},        // The .xz File Format, 2.1.1.1
	{"BZh", "bzip2"},              // and then a digit
	{"\x1f\x8b", "gzip"},          // RFC 1952, 2.3.1
	{"\x28\xb5\x2f\xfd", "zstd"},  // RFC 8878, 3.1.1
	{"LZIP", "lzip"},              // lzip manual, "File format"
	{"\x04\x22\x4d\x18", "LZ4"},   // LZ4 Frame Format
	{"!<arch>\n", "package (ar)"}, // deb(5)
	{"MSCF", "CAB"},               // MS-CAB 2.1
}

func format(head []byte) string {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.begin)) {
			return m.format
		}
	}
	// A skippable frame (RFC 8878, 3.1.2), which pzstd writes first.
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}) {
		return "zstd"
	}
	return "tar"
}

// open finds out what the stream is. done frees what it took.
func (im *importer) open(stream io.Reader) (c contents, done func(), err error) {
	at, ok := stream.(seekable)
	begin := int64(-1)
	if ok {
		if begin, err = at.Seek(0, io.SeekCurrent); err != nil {
			begin = -1
		}
	}
	buffered := bufio.NewReaderSize(im.in, 1<<20)
	head, err := buffered.Peek(8)
	if err != nil && err != io.EOF {
		return nil, nil, im.streamError(err)
	}
	if len(head) == 0 {
		return nil, nil, errEmpty
	}
	im.format = format(head)
	nothing := func() {}
	switch im.format {
	case "zip", "7z", "VPK":
		if begin < 0 {
			return nil, nil, fmt.Errorf("a %s file cannot be read from a pipe: give the file itself, or a tar archive", im.format)
		}
		end, err := at.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, nil, err
		}
		im.in.read = 0
		file := io.NewSectionReader(inputAt{at, im.in}, begin, end-begin)
		switch im.format {
		case "zip":
			c, err = im.openZip(file)
		case "7z":
			c, err = im.openSevenZip(file)
		default:
			c, err = im.openVPK(file)
		}
		if err != nil && im.in.err != nil {
			err = im.streamError(err)
		}
		return c, nothing, err
	case "tar", "gzip", "zstd", "bzip2", "xz":
		im.archive, done, err = decompress(buffered, im.format, im.meter)
		if err != nil {
			return nil, nil, im.streamError(err)
		}
		return &tarContents{im: im, tar: tar.NewReader(im.archive)}, done, nil
	}
	return nil, nil, fmt.Errorf("a file of type %s cannot be imported: unpack it, or pack its files as tar, zip or 7z", im.format)
}

// tarContents reads a tar archive.
type tarContents struct {
	im   *importer
	tar  *tar.Reader
	some bool
}

func (c *tarContents) next() (*tar.Header, io.Reader, error) {
	h, err := c.tar.Next()
	switch {
	case err == nil:
		c.some = true
	case err == io.EOF:
	case !c.some && c.im.archive.err == nil && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)):
		err = errors.New("the stream is no archive that left4 can read: neither tar, plain or compressed by gzip, zstd, xz or bzip2, nor zip, 7z or VPK")
	default:
		err = c.im.streamError(err)
	}
	return h, c.tar, err
}

func (c *tarContents) failed(err error) error {
	if c.im.archive.ended || c.im.archive.err != nil {
		return c.im.streamError(err)
	}
	return err
}

func (c *tarContents) end() error {
	archive := c.im.archive
	// The end is two blocks of zeros, not the end of the stream: that is where one was cut off between two entries.
	if archive.ended {
		return c.im.cutOff()
	}
	// What follows does not count, but the checksum of a compressed stream comes last, and its writer wants to be rid of all.
	n, err := io.Copy(io.Discard, io.LimitReader(archive, maxTail+1))
	switch {
	case err != nil:
		return c.im.streamError(err)
	case n > maxTail:
		return fmt.Errorf("the stream goes on for more than %d MiB behind the end of the archive", maxTail>>20)
	}
	return nil
}

// streamError says what is wrong with the stream, whichever layer noticed.
func (im *importer) streamError(err error) error {
	if im.in.err != nil {
		return fmt.Errorf("cannot read the stream: %w", im.in.err)
	}
	if im.archive != nil && im.archive.err != nil {
		err = im.archive.err
	}
	switch {
	case errors.Is(err, errEmpty), errors.Is(err, errBomb), errors.Is(err, errDictionary), errors.Is(err, errFilter):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return im.cutOff()
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("the stream refers back more than %d MiB; compress it again without zstd's --long and --ultra", maxWindow>>20)
	}
	return fmt.Errorf("the stream is damaged after %d files: %w", im.files, err)
}

func (im *importer) cutOff() error {
	return fmt.Errorf("the stream is cut off after %d files", im.files)
}

// whole reads what is in an entry of an archive that says how long it is before: not more, and not less.
type whole struct {
	r     io.Reader
	left  int64
	meter *meter
}

func (w *whole) Read(p []byte) (int, error) {
	if w.left == 0 {
		// What is behind the last byte is its checksum, or more than it said.
		n, err := fill(w.r, make([]byte, 1))
		switch {
		case n > 0:
			return 0, damaged{errors.New("it is longer than it says")}
		case err != io.EOF:
			return 0, damaged{err}
		}
		return 0, io.EOF
	}
	n, err := w.r.Read(p[:min(int64(len(p)), w.left)])
	w.left -= int64(n)
	if bomb := w.meter.grew(n); bomb != nil {
		return n, bomb
	}
	switch {
	case err == io.EOF && w.left > 0:
		return n, damaged{errors.New("it is shorter than it says")}
	case err != nil && err != io.EOF:
		return n, damaged{err}
	}
	return n, nil
}

// fileFailed is what contents.failed says for a file that is not a stream.
func (im *importer) fileFailed(err error) error {
	var data damaged
	switch {
	case im.in.err != nil:
		return fmt.Errorf("cannot read the file: %w", im.in.err)
	case errors.Is(err, errBomb):
		return errBomb
	case errors.As(err, &data):
		return fmt.Errorf("the archive is damaged: %w", err)
	}
	return err
}

// foreignName refuses names that Windows or a careless program wrote, and that mean something else here.
func foreignName(name string) error {
	switch {
	case !utf8.ValidString(name):
		return errors.New("its name is not UTF-8: pack it with a program that writes UTF-8")
	case len(name) > 1 && name[1] == ':' && (len(name) == 2 || name[2] == '/' || name[2] == '\\'):
		return errors.New("its name begins with a drive")
	}
	return nil
}

// linkTarget reads where a symbolic link leads that is stored as a file.
func linkTarget(r io.Reader) (string, error) {
	target, err := io.ReadAll(io.LimitReader(r, maxPath+1))
	if err != nil {
		return "", err
	}
	return string(target), nil
}

// isVPK tells whether a file is called as an add-on is.
func isVPK(name string) bool { return strings.EqualFold(extension(name), ".vpk") }

// extension is the part of a name behind its last dot, with it.
func extension(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[i:]
	}
	return ""
}
