// Package sevenzip reads 7z archives (LZMA SDK, DOC/7zFormat.txt), which may be hostile: what it takes of memory is bounded by Limits, and
// nothing panics. It reads what 7-Zip writes unless told otherwise: LZMA, LZMA2, Copy, Deflate, BZip2, with the x86 and
// Delta filters. What else there is is an error that names it.
//
// github.com/bodgit/sevenzip reads more, but its last release for Go 1.24 (1.6.1) takes memory, and ends in a panic, by the numbers in a
// header of some bytes; that is mended in releases that need Go 1.25. With such a Go it can take the place of this package.
package sevenzip

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"time"
	"unicode/utf16"

	"github.com/ulikunitz/xz/lzma"
)

// Limits bound what an archive may ask for.
type Limits struct {
	Files      int   // entries
	Header     int64 // bytes of the list of entries
	Dictionary int64 // bytes that a decompressor refers back
}

var (
	// ErrEncrypted is an archive that needs a password.
	ErrEncrypted = errors.New("it is encrypted")
	// ErrCutOff is an archive that says that it is longer than it is: it was cut off, or is the first of several volumes.
	ErrCutOff = errors.New("it is cut off, or the first of several volumes")
	// ErrFiles and ErrDictionary tell which limit was met.
	ErrFiles      = errors.New("it holds too many entries")
	ErrDictionary = errors.New("its dictionary is too large")

	errDamaged = errors.New("its header is damaged")
)

// Unsupported is a way to pack that is not known here.
type Unsupported struct{ Method string }

func (e *Unsupported) Error() string {
	return "it is packed by " + e.Method + ", which is not supported"
}

// File is an entry.
type File struct {
	Name string // parts are separated by slashes; may be anything else
	Size int64
	// Mode is as st_mode has it, 0 where the archive was not made on Unix.
	Mode     uint32
	Modified time.Time
	Dir      bool
	Link     bool // of Windows; what it holds is no content
	Anti     bool // stands for the removal of a file

	stream bool // has content
	crc    uint32
	hasCRC bool
	folder int
}

// Reader gives the entries in the order in which they are packed.
type Reader struct {
	Files []File

	file    io.ReaderAt
	limits  Limits
	folders []folder
	at      int       // in Files
	open    int       // folder that is being read, -1 = none
	data    io.Reader // of it
	rest    *checked  // of the last entry
}

// folder is what is packed as one.
type folder struct {
	coders []coder
	binds  []bind
	packed int   // its only stream
	offset int64 // in the file, and how long
	size   int64
	sizes  []int64 // unpacked, of each coder
	crc    uint32
	hasCRC bool
	files  int // streams in it
}

type coder struct {
	id         string
	properties []byte
}

type bind struct{ in, out int }

const signatureSize = 32

// NewReader reads the list of entries.
func NewReader(file io.ReaderAt, size int64, limits Limits) (*Reader, error) {
	var head [signatureSize]byte
	if n, err := file.ReadAt(head[:], 0); n < len(head) {
		if err == io.EOF {
			err = ErrCutOff
		}
		return nil, err
	}
	if string(head[:6]) != "7z\xbc\xaf\x27\x1c" || crc32.ChecksumIEEE(head[12:]) != binary.LittleEndian.Uint32(head[8:]) {
		return nil, errDamaged
	}
	offset, length := binary.LittleEndian.Uint64(head[12:]), binary.LittleEndian.Uint64(head[20:])
	r := &Reader{file: file, limits: limits, open: -1}
	switch {
	case length == 0:
		return r, nil // an empty archive
	case length > uint64(limits.Header):
		return nil, ErrFiles
	case offset > uint64(size) || uint64(size)-offset < signatureSize+length:
		return nil, ErrCutOff
	}
	header := make([]byte, length)
	if _, err := file.ReadAt(header, signatureSize+int64(offset)); err != nil && err != io.EOF {
		return nil, err
	}
	if crc32.ChecksumIEEE(header) != binary.LittleEndian.Uint32(head[28:]) {
		return nil, errDamaged
	}
	for range 4 { // a header may be packed, and its header too
		in := &parser{text: header, size: size, limits: limits}
		id := in.byte()
		if id == idHeader {
			err := in.header(r)
			return r, err
		}
		if id != idEncodedHeader {
			return nil, errDamaged
		}
		folders := in.streams()
		if in.err != nil {
			return nil, in.err
		}
		if len(folders) != 1 {
			return nil, errDamaged
		}
		f := folders[0]
		if f.unpacked() > limits.Header {
			return nil, ErrFiles
		}
		data, err := r.unpack(&f)
		if err != nil {
			return nil, err
		}
		// Memory only for what really comes.
		if header, err = io.ReadAll(io.LimitReader(data, f.unpacked())); err != nil {
			return nil, err
		}
		if int64(len(header)) != f.unpacked() || f.hasCRC && crc32.ChecksumIEEE(header) != f.crc {
			return nil, errDamaged
		}
	}
	return nil, errDamaged
}

// Next is the next entry and its content, which has to be read before Next is called again; nil for a directory. io.EOF
// is behind the last one.
func (r *Reader) Next() (*File, io.Reader, error) {
	if r.rest != nil {
		if _, err := io.Copy(io.Discard, r.rest); err != nil {
			return nil, nil, err
		}
		r.rest = nil
	}
	if r.at == len(r.Files) {
		return nil, nil, io.EOF
	}
	f := &r.Files[r.at]
	r.at++
	if !f.stream {
		return f, bytes.NewReader(nil), nil
	}
	if f.folder != r.open {
		data, err := r.unpack(&r.folders[f.folder])
		if err != nil {
			return f, nil, err
		}
		r.open, r.data = f.folder, data
	}
	r.rest = &checked{in: r.data, left: f.Size, file: f}
	return f, r.rest, nil
}

// checked reads one entry of a folder.
type checked struct {
	in   io.Reader
	left int64
	sum  uint32
	file *File
}

func (c *checked) Read(p []byte) (int, error) {
	if c.left == 0 {
		if c.file.hasCRC && c.sum != c.file.crc {
			return 0, errors.New("its checksum is wrong")
		}
		return 0, io.EOF
	}
	n, err := c.in.Read(p[:min(int64(len(p)), c.left)])
	c.sum = crc32.Update(c.sum, crc32.IEEETable, p[:n])
	c.left -= int64(n)
	switch {
	case err == io.EOF && c.left > 0:
		return n, io.ErrUnexpectedEOF
	case err == io.EOF:
		return n, nil
	}
	return n, err
}

// last is the coder whose output no other one reads, -1 if there is none.
func (f *folder) last() int {
	for i := range f.coders {
		if !slices.ContainsFunc(f.binds, func(b bind) bool { return b.out == i }) {
			return i
		}
	}
	return -1
}

func (f *folder) unpacked() int64 {
	if last := f.last(); last >= 0 && last < len(f.sizes) {
		return f.sizes[last]
	}
	return 0
}

// unpack begins to read a folder.
func (r *Reader) unpack(f *folder) (io.Reader, error) {
	return r.coder(f, f.last(), len(f.coders))
}

// coder is what comes out of one coder; deep bounds how many others may stand before it.
func (r *Reader) coder(f *folder, i, deep int) (io.Reader, error) {
	if deep == 0 || i < 0 {
		return nil, errDamaged
	}
	var in io.Reader
	if i == f.packed {
		in = io.NewSectionReader(r.file, f.offset, f.size)
	} else {
		n := slices.IndexFunc(f.binds, func(b bind) bool { return b.in == i })
		if n < 0 {
			return nil, errDamaged
		}
		var err error
		if in, err = r.coder(f, f.binds[n].out, deep-1); err != nil {
			return nil, err
		}
	}
	out, err := r.decode(f.coders[i], in, f.sizes[i])
	if err != nil {
		return nil, err
	}
	return io.LimitReader(out, f.sizes[i]), nil
}

// The methods, DOC/Methods.txt.
func (r *Reader) decode(c coder, in io.Reader, size int64) (io.Reader, error) {
	switch c.id {
	case "\x00":
		return in, nil
	case "\x03\x01\x01":
		if len(c.properties) != 5 {
			return nil, errDamaged
		}
		dictionary, err := r.dictionary(int64(binary.LittleEndian.Uint32(c.properties[1:])), size)
		if err != nil {
			return nil, err
		}
		// The library wants it as it stands in a .lzma file.
		header := binary.LittleEndian.AppendUint32([]byte{c.properties[0]}, uint32(dictionary))
		header = binary.LittleEndian.AppendUint64(header, uint64(size))
		return lzma.NewReader(bufio.NewReaderSize(io.MultiReader(bytes.NewReader(header), in), 1<<16))
	case "\x21":
		if len(c.properties) != 1 || c.properties[0] > 40 {
			return nil, errDamaged
		}
		p := c.properties[0]
		asked := int64(math.MaxUint32)
		if p < 40 {
			asked = int64(2|p&1) << (p/2 + 11)
		}
		dictionary, err := r.dictionary(asked, size)
		if err != nil {
			return nil, err
		}
		return lzma.Reader2Config{DictCap: int(dictionary)}.NewReader2(bufio.NewReaderSize(in, 1<<16))
	case "\x04\x01\x08":
		return flate.NewReader(bufio.NewReaderSize(in, 1<<16)), nil
	case "\x04\x02\x02":
		return bzip2.NewReader(bufio.NewReaderSize(in, 1<<16)), nil
	case "\x03":
		if len(c.properties) == 1 {
			return &delta{in: in, distance: int(c.properties[0]) + 1}, nil
		}
	case "\x03\x03\x01\x03", "\x04":
		return newX86(in), nil
	case "\x03\x04\x01":
		return nil, &Unsupported{"PPMd"}
	case "\x04\x01\x09":
		return nil, &Unsupported{"Deflate64"}
	case "\x06\xf1\x07\x01":
		return nil, ErrEncrypted
	}
	return nil, &Unsupported{fmt.Sprintf("the method %x", c.id)}
}

// dictionary is how much is needed: nothing refers back further than to the beginning.
func (r *Reader) dictionary(asked, size int64) (int64, error) {
	needed := max(min(asked, size), lzma.MinDictCap)
	if needed > r.limits.Dictionary {
		return 0, ErrDictionary
	}
	return needed, nil
}

// delta adds to each byte the one that came so much before it.
type delta struct {
	in       io.Reader
	distance int
	before   [256]byte
	at       byte
}

func (d *delta) Read(p []byte) (int, error) {
	n, err := d.in.Read(p)
	for i := range p[:n] {
		p[i] += d.before[d.at-byte(d.distance)]
		d.before[d.at] = p[i]
		d.at++
	}
	return n, err
}

// The parts of a header.
const (
	idEnd             = 0x00
	idHeader          = 0x01
	idProperties      = 0x02
	idAdditional      = 0x03
	idMainStreams     = 0x04
	idFiles           = 0x05
	idPackInfo        = 0x06
	idUnpackInfo      = 0x07
	idSubStreams      = 0x08
	idSize            = 0x09
	idCRC             = 0x0a
	idFolder          = 0x0b
	idUnpackSize      = 0x0c
	idNumUnpackStream = 0x0d
	idEmptyStream     = 0x0e
	idEmptyFile       = 0x0f
	idAnti            = 0x10
	idNames           = 0x11
	idModified        = 0x14
	idAttributes      = 0x15
	idEncodedHeader   = 0x17
)

const maxCoders = 32

// parser reads a header. After the first error it reads nothing but zeros.
type parser struct {
	text   []byte
	err    error
	size   int64 // of the file
	limits Limits

	substreams []substream
}

// substream is a file in a folder.
type substream struct {
	size   int64
	crc    uint32
	hasCRC bool
	folder int
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
	p.text = nil
}

func (p *parser) bytes(n int64) []byte {
	if n < 0 || n > int64(len(p.text)) {
		p.fail(errDamaged)
		return nil
	}
	b := p.text[:n]
	p.text = p.text[n:]
	return b
}

func (p *parser) byte() byte {
	if b := p.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// number has as many bytes behind its first one as that has ones at its top.
func (p *parser) number() int64 {
	first := p.byte()
	var value uint64
	for i, mask := 0, byte(0x80); i < 8; i, mask = i+1, mask>>1 {
		if first&mask == 0 {
			value |= uint64(first&(mask-1)) << (8 * i)
			break
		}
		value |= uint64(p.byte()) << (8 * i)
	}
	if value > math.MaxInt64 {
		p.fail(errDamaged)
		return 0
	}
	return int64(value)
}

// count is a number of things, of which there are at most so many.
func (p *parser) count(most int64) int {
	n := p.number()
	if n > most {
		p.fail(errDamaged)
		return 0
	}
	return int(n)
}

func (p *parser) expect(id byte) {
	if p.byte() != id {
		p.fail(errDamaged)
	}
}

func (p *parser) bits(n int) []bool {
	packed := p.bytes(int64(n+7) / 8)
	if packed == nil {
		return make([]bool, 0)
	}
	all := make([]bool, n)
	for i := range all {
		all[i] = packed[i/8]&(0x80>>(i%8)) != 0
	}
	return all
}

// defined is which of n have a value.
func (p *parser) defined(n int) []bool {
	if p.byte() == 0 {
		return p.bits(n)
	}
	all := make([]bool, n)
	for i := range all {
		all[i] = true
	}
	return all
}

// digests calls set for each of n that has a checksum.
func (p *parser) digests(n int, set func(i int, crc uint32)) {
	for i, is := range p.defined(n) {
		if !is {
			continue
		}
		if b := p.bytes(4); b != nil {
			set(i, binary.LittleEndian.Uint32(b))
		}
	}
}

func (p *parser) header(r *Reader) error {
	id := p.byte()
	if id == idProperties {
		for p.err == nil && p.byte() != idEnd {
			p.bytes(p.number())
		}
		id = p.byte()
	}
	if id == idAdditional {
		return &Unsupported{"additional streams"}
	}
	if id == idMainStreams {
		r.folders = p.streams()
		id = p.byte()
	}
	if id == idFiles {
		r.Files = p.files()
		id = p.byte()
	}
	if id != idEnd {
		p.fail(errDamaged)
	}
	return p.err
}

// streams reads where the data is and how it is packed.
func (p *parser) streams() []folder {
	var position int64
	var packed []int64
	var folders []folder
	id := p.byte()
	if id == idPackInfo {
		position = p.number()
		n := p.count(int64(p.limits.Files))
		for id = p.byte(); id != idEnd && p.err == nil; id = p.byte() {
			switch id {
			case idSize:
				packed = make([]int64, n)
				for i := range packed {
					packed[i] = p.number()
				}
			case idCRC:
				p.digests(n, func(int, uint32) {})
			default:
				p.fail(errDamaged)
			}
		}
		id = p.byte()
	}
	if id == idUnpackInfo {
		folders = p.unpackInfo()
		id = p.byte()
	}
	// Each folder has one packed stream: others are refused.
	if len(packed) != len(folders) {
		p.fail(errDamaged)
		return nil
	}
	at := position
	for i, n := range packed {
		// In what there is, and no two on the same bytes.
		if at < 0 || n > p.size-signatureSize || at > p.size-signatureSize-n {
			p.fail(ErrCutOff)
			return nil
		}
		folders[i].offset, folders[i].size = signatureSize+at, n
		at += n
	}
	for i := range folders {
		folders[i].files = 1
	}
	if id == idSubStreams {
		id = p.subStreams(folders)
	} else {
		for i, f := range folders {
			p.substreams = append(p.substreams, substream{f.unpacked(), f.crc, f.hasCRC, i})
		}
	}
	if id != idEnd {
		p.fail(errDamaged)
	}
	if p.err != nil {
		return nil
	}
	return folders
}

func (p *parser) unpackInfo() []folder {
	p.expect(idFolder)
	n := p.count(int64(p.limits.Files))
	if p.byte() != 0 {
		p.fail(&Unsupported{"an external list"})
	}
	var folders []folder
	for range n {
		if p.err != nil {
			return nil
		}
		folders = append(folders, p.folder())
	}
	p.expect(idUnpackSize)
	for i := range folders {
		for range folders[i].coders {
			folders[i].sizes = append(folders[i].sizes, p.number())
		}
	}
	id := p.byte()
	if id == idCRC {
		p.digests(n, func(i int, crc uint32) { folders[i].crc, folders[i].hasCRC = crc, true })
		id = p.byte()
	}
	if id != idEnd {
		p.fail(errDamaged)
	}
	return folders
}

func (p *parser) folder() folder {
	var f folder
	n := p.count(maxCoders)
	if n == 0 {
		p.fail(errDamaged)
	}
	for range n {
		flags := p.byte()
		c := coder{id: string(p.bytes(int64(flags & 0xf)))}
		in, out := int64(1), int64(1)
		if flags&0x10 != 0 {
			in, out = p.number(), p.number()
		}
		if flags&0x20 != 0 {
			c.properties = slices.Clone(p.bytes(p.number()))
		}
		switch {
		case p.err != nil:
			return f
		case c.id == "\x06\xf1\x07\x01":
			p.fail(ErrEncrypted)
			return f
		case in != 1 || out != 1 || flags&0x80 != 0:
			p.fail(&Unsupported{"a filter of several streams, as BCJ2 (7-Zip leaves it out with -mf=off)"})
			return f
		}
		f.coders = append(f.coders, c)
	}
	for range n - 1 {
		b := bind{p.count(int64(n) - 1), p.count(int64(n) - 1)}
		f.binds = append(f.binds, b)
	}
	for i := range n {
		if !slices.ContainsFunc(f.binds, func(b bind) bool { return b.in == i }) {
			f.packed = i
		}
	}
	return f
}

// subStreams tells the files in the folders apart. It returns the id behind.
func (p *parser) subStreams(folders []folder) byte {
	id := p.byte()
	total := 0
	if id == idNumUnpackStream {
		for i := range folders {
			folders[i].files = p.count(math.MaxInt32)
			total += folders[i].files
			if total > p.limits.Files {
				p.fail(ErrFiles)
			}
			if p.err != nil {
				return 0
			}
		}
		id = p.byte()
	} else if total = len(folders); total > p.limits.Files {
		p.fail(ErrFiles)
		return 0
	}
	for i := range folders {
		left := folders[i].unpacked()
		for j := range folders[i].files {
			size := left
			if j < folders[i].files-1 {
				if size = 0; id == idSize {
					size = p.number()
				}
			}
			if size > left {
				p.fail(errDamaged)
				return 0
			}
			left -= size
			s := substream{size: size, folder: i}
			if folders[i].files == 1 {
				s.crc, s.hasCRC = folders[i].crc, folders[i].hasCRC
			}
			p.substreams = append(p.substreams, s)
		}
	}
	if id == idSize {
		id = p.byte()
	}
	if id == idCRC {
		var unknown []int
		for i, s := range p.substreams {
			if !s.hasCRC {
				unknown = append(unknown, i)
			}
		}
		p.digests(len(unknown), func(i int, crc uint32) {
			p.substreams[unknown[i]].crc, p.substreams[unknown[i]].hasCRC = crc, true
		})
		id = p.byte()
	}
	if id != idEnd {
		p.fail(errDamaged)
	}
	return p.byte()
}

func (p *parser) files() []File {
	n := p.number()
	switch {
	case n > int64(p.limits.Files):
		p.fail(ErrFiles)
		return nil
	case n > int64(len(p.text)): // each has a name of two bytes and more
		p.fail(errDamaged)
		return nil
	}
	files := make([]File, n)
	empty, emptyFile, anti := make([]bool, n), []bool(nil), []bool(nil)
	named := n == 0
	for p.err == nil {
		id := p.byte()
		if id == idEnd {
			break
		}
		size := p.number()
		part := &parser{text: p.bytes(size), limits: p.limits}
		if p.err != nil {
			break
		}
		switch id {
		case idEmptyStream:
			empty = part.bits(len(files))
		case idEmptyFile:
			emptyFile = part.bits(count(empty))
		case idAnti:
			anti = part.bits(count(empty))
		case idNames:
			part.inline()
			for i := range files {
				files[i].Name = part.name()
			}
			named = true
		case idModified:
			defined := part.defined(len(files))
			part.inline()
			for i, is := range defined {
				if is {
					if b := part.bytes(8); b != nil {
						files[i].Modified = fileTime(binary.LittleEndian.Uint64(b))
					}
				}
			}
		case idAttributes:
			defined := part.defined(len(files))
			part.inline()
			for i, is := range defined {
				if is {
					if b := part.bytes(4); b != nil {
						files[i].attributes(binary.LittleEndian.Uint32(b))
					}
				}
			}
		}
		if part.err != nil {
			p.fail(part.err)
		}
	}
	if !named || len(empty) != len(files) {
		p.fail(errDamaged)
	}
	if p.err != nil {
		return nil
	}
	nth, next := 0, 0
	for i := range files {
		f := &files[i]
		if empty[i] {
			f.Anti = nth < len(anti) && anti[nth]
			f.Dir = nth >= len(emptyFile) || !emptyFile[nth]
			nth++
			continue
		}
		if next == len(p.substreams) {
			p.fail(errDamaged)
			return nil
		}
		s := p.substreams[next]
		next++
		f.stream, f.Size, f.crc, f.hasCRC, f.folder = true, s.size, s.crc, s.hasCRC, s.folder
	}
	return files
}

func (p *parser) inline() {
	if p.byte() != 0 {
		p.fail(&Unsupported{"an external list"})
	}
}

// name is UTF-16 with a zero behind it.
func (p *parser) name() string {
	for i := 0; i+1 < len(p.text); i += 2 {
		if p.text[i] != 0 || p.text[i+1] != 0 {
			continue
		}
		units := make([]uint16, i/2)
		for j := range units {
			units[j] = binary.LittleEndian.Uint16(p.text[2*j:])
		}
		p.text = p.text[i+2:]
		return string(utf16.Decode(units))
	}
	p.fail(errDamaged)
	return ""
}

// attributes are those of Windows; above them stand those of Unix, where bit 15 says so.
func (f *File) attributes(a uint32) {
	if a&0x8000 != 0 {
		f.Mode = a >> 16
		return
	}
	f.Link = a&0x400 != 0
}

// fileTime counts 100 ns since 1601.
func fileTime(t uint64) time.Time {
	const epoch = 116444736000000000
	if t < epoch || t > math.MaxInt64 {
		return time.Time{}
	}
	t -= epoch
	return time.Unix(int64(t/1e7), int64(t%1e7)*100)
}

func count(all []bool) int {
	n := 0
	for _, is := range all {
		if is {
			n++
		}
	}
	return n
}
