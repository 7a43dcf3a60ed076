// Package vpk reads the directory of a VPK file, Valve's package of game files (Valve Developer Wiki, "VPK File Format"), of
// version 1 or 2. What it reads may be hostile: memory is bounded by MaxTree, and nothing panics.
package vpk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

const (
	// MaxTree is how long the directory may be, in bytes: that of the game has 6 MB.
	MaxTree = 64 << 20
	// MaxFiles is how many files it may name.
	MaxFiles = 500_000
	// Inside is File.Archive of a file that is in the package with the directory, and not in one beside it.
	Inside = 0x7fff

	signature  = 0x55aa1234
	terminator = 0xffff
	maxName    = 4095
)

// ErrNotVPK is a file that does not begin as one.
var ErrNotVPK = errors.New("it is no VPK file")

// Package is an opened VPK file.
type Package struct {
	// Version is 1 or 2.
	Version int

	file io.ReaderAt
	size int64
	data int64 // where what is inside begins
	tree []byte
}

// File is a file in a package.
type File struct {
	Dir, Base, Ext string // as they stand there: "" is the top, and no extension
	Archive        int    // the number of the file beside it, or Inside
	CRC            uint32

	preload        []byte
	offset, length uint32
}

// Path is the file's name in the tree of the game.
func (f *File) Path() string {
	name := f.Base
	if f.Ext != "" {
		name += "." + f.Ext
	}
	if f.Dir != "" {
		name = f.Dir + "/" + name
	}
	return name
}

// Size is how long the file is, in bytes.
func (f *File) Size() int64 { return int64(len(f.preload)) + int64(f.length) }

// Open reads the directory of a package.
func Open(file io.ReaderAt, size int64) (*Package, error) {
	header := make([]byte, 28)
	n, err := file.ReadAt(header, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if n < 4 || binary.LittleEndian.Uint32(header) != signature {
		return nil, ErrNotVPK
	}
	p := &Package{Version: int(binary.LittleEndian.Uint32(header[4:])), file: file, size: size}
	length := int64(12)
	switch p.Version {
	case 1:
	case 2:
		length = 28
	default:
		return nil, fmt.Errorf("version %d of VPK is not known", p.Version)
	}
	if int64(n) < length {
		return nil, errors.New("the VPK file is cut off")
	}
	tree := int64(binary.LittleEndian.Uint32(header[8:]))
	switch {
	case tree > MaxTree:
		return nil, fmt.Errorf("the directory of the VPK file has more than %d MiB", MaxTree>>20)
	case tree > size-length:
		return nil, errors.New("the VPK file is cut off")
	}
	p.data = length + tree
	p.tree = make([]byte, tree)
	if _, err := file.ReadAt(p.tree, length); err != nil && err != io.EOF {
		return nil, err
	}
	return p, nil
}

var errTree = errors.New("the directory of the VPK file is damaged")

// Each calls fn for each file until that is false. What is in the File counts only until fn returns.
func (p *Package) Each(fn func(f *File) bool) error {
	rest := p.tree
	text := func() (string, bool) {
		n := bytes.IndexByte(rest, 0)
		if n < 0 || n > maxName {
			return "", false
		}
		s := string(rest[:n])
		rest = rest[n+1:]
		return s, true
	}
	blank := func(s string) string { // stands for nothing
		if s == " " {
			return ""
		}
		return s
	}
	for files := 0; ; {
		ext, ok := text()
		if !ok {
			return errTree
		}
		if ext == "" {
			return nil
		}
		for {
			dir, ok := text()
			if !ok {
				return errTree
			}
			if dir == "" {
				break
			}
			for {
				base, ok := text()
				if !ok {
					return errTree
				}
				if base == "" {
					break
				}
				if len(rest) < 18 || binary.LittleEndian.Uint16(rest[16:]) != terminator {
					return errTree
				}
				preload := int(binary.LittleEndian.Uint16(rest[4:]))
				if len(rest)-18 < preload {
					return errTree
				}
				if files++; files > MaxFiles {
					return fmt.Errorf("the VPK file holds more than %d files", MaxFiles)
				}
				f := &File{
					Dir: blank(dir), Base: blank(base), Ext: blank(ext),
					CRC:     binary.LittleEndian.Uint32(rest),
					Archive: int(binary.LittleEndian.Uint16(rest[6:])),
					offset:  binary.LittleEndian.Uint32(rest[8:]),
					length:  binary.LittleEndian.Uint32(rest[12:]),
					preload: rest[18 : 18+preload],
				}
				rest = rest[18+preload:]
				if !fn(f) {
					return nil
				}
			}
		}
	}
}

// Read reads a whole file of at most most bytes. beside is the package's other file that f.Archive names; it is asked for only
// where there is something in it.
func (p *Package) Read(f *File, most int64, beside func(archive int) (io.ReaderAt, error)) ([]byte, error) {
	if f.Size() > most {
		return nil, fmt.Errorf("it has more than %d bytes", most)
	}
	content := make([]byte, f.Size())
	n := copy(content, f.preload)
	if f.length > 0 {
		from, at := p.file, p.data+int64(f.offset)
		if f.Archive != Inside {
			if beside == nil {
				return nil, errors.New("it is in another file than the directory")
			}
			var err error
			if from, err = beside(f.Archive); err != nil {
				return nil, err
			}
			at = int64(f.offset)
		}
		switch read, err := from.ReadAt(content[n:], at); {
		case read == len(content)-n:
		case err == io.EOF:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
	if crc32.ChecksumIEEE(content) != f.CRC {
		return nil, errors.New("its checksum is wrong")
	}
	return content, nil
}

// Whole tells whether all files are in the package itself, and within it.
func (p *Package) Whole() error {
	var elsewhere error
	err := p.Each(func(f *File) bool {
		switch {
		case f.length == 0:
		case f.Archive != Inside:
			elsewhere = fmt.Errorf("it is the directory of a VPK of several files: %s is in number %d", quoted(f.Path()), f.Archive)
		case int64(f.offset)+int64(f.length) > p.size-p.data:
			elsewhere = errors.New("the VPK file is cut off")
		}
		return elsewhere == nil
	})
	if err != nil {
		return err
	}
	return elsewhere
}

func quoted(name string) string {
	if len(name) > 100 {
		name = name[:100] + "…"
	}
	return fmt.Sprintf("%q", strings.ToValidUTF8(name, "\ufffd"))
}
