package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// The library's own reader of .xz files takes as much memory as a file asks for. So only its LZMA2 is used, and what is around that
// is read here ("The .xz File Format", 1.2.0; numbers of sections below).

var (
	errDictionary = fmt.Errorf("the archive refers back more than %d MiB, which takes as much memory; compress it again with a smaller dictionary", maxDictionary>>20)
	errFilter     = errors.New("the stream is compressed by xz with a filter besides LZMA2, which is not supported: compress it again without")
)

// xzReader reads the streams of an .xz file.
type xzReader struct {
	in      *bufio.Reader
	check   byte // of this stream; its kind
	within  bool // a stream
	blocks  uint64
	block   io.Reader // what is being read; nil between two
	packed  *counted
	sum     hash.Hash
	trouble error
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (x *xzReader) Read(p []byte) (int, error) {
	for x.trouble == nil && len(p) > 0 {
		if x.block == nil {
			if x.trouble = x.advance(); x.trouble != nil {
				break
			}
			continue
		}
		n, err := x.block.Read(p)
		if x.sum != nil {
			x.sum.Write(p[:n])
		}
		if err == io.EOF {
			err = x.endBlock()
		}
		x.trouble = err
		if n > 0 {
			return n, nil
		}
	}
	return 0, x.trouble
}

// advance goes on to the next block, if there is none behind a stream to the next stream.
func (x *xzReader) advance() error {
	if !x.within {
		return x.begin()
	}
	size, err := x.in.ReadByte()
	if err != nil {
		return unexpected(err)
	}
	if size == 0 {
		return x.endStream()
	}
	header := make([]byte, (int(size)+1)*4) // 3.1.1
	header[0] = size
	if _, err := io.ReadFull(x.in, header[1:]); err != nil {
		return unexpected(err)
	}
	body := header[:len(header)-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(header[len(body):]) {
		return errors.New("the header of a block is damaged")
	}
	dictionary, err := blockDictionary(body)
	if err != nil {
		return err
	}
	x.packed = &counted{r: x.in}
	if x.block, err = (lzma.Reader2Config{DictCap: dictionary}).NewReader2(x.packed); err != nil {
		return unexpected(err)
	}
	x.blocks++
	x.sum = nil
	switch x.check { // 2.1.1.2
	case 0:
	case 1:
		x.sum = crc32.NewIEEE()
	case 4:
		x.sum = crc64.New(crc64.MakeTable(crc64.ECMA))
	case 10:
		x.sum = sha256.New()
	default:
		return fmt.Errorf("a check of kind %d is not known", x.check)
	}
	return nil
}

// blockDictionary reads the header of a block, 3.1.
func blockDictionary(header []byte) (int, error) {
	in := bytes.NewReader(header[2:])
	flags := header[1]
	if flags&0x3c != 0 {
		return 0, errors.New("the header of a block is not known")
	}
	for _, bit := range []byte{0x40, 0x80} { // the sizes, which the data tells too
		if flags&bit != 0 {
			if _, err := binary.ReadUvarint(in); err != nil {
				return 0, unexpected(err)
			}
		}
	}
	id, idErr := binary.ReadUvarint(in)
	size, sizeErr := binary.ReadUvarint(in)
	property, err := in.ReadByte()
	if err := errors.Join(idErr, sizeErr, err); err != nil {
		return 0, errors.New("the header of a block is damaged")
	}
	if flags&3 != 0 || id != 0x21 || size != 1 {
		return 0, errFilter
	}
	dictionary, ok := lzma2Dictionary(property)
	switch {
	case !ok:
		return 0, errors.New("the header of a block is damaged")
	case dictionary > maxDictionary:
		return 0, errDictionary
	}
	return int(max(dictionary, lzma.MinDictCap)), nil
}

// lzma2Dictionary is the size that a property stands for, 5.3.1.
func lzma2Dictionary(property byte) (size int64, ok bool) {
	switch {
	case property > 40:
		return 0, false
	case property == 40:
		return 1<<32 - 1, true
	}
	return int64(2|property&1) << (property/2 + 11), true
}

func (x *xzReader) endBlock() error {
	x.block = nil
	padding := make([]byte, -x.packed.n&3)
	if _, err := io.ReadFull(x.in, padding); err != nil {
		return unexpected(err)
	}
	if x.sum == nil {
		return nil
	}
	want := make([]byte, x.sum.Size())
	if _, err := io.ReadFull(x.in, want); err != nil {
		return unexpected(err)
	}
	got := x.sum.Sum(nil)
	if x.check != 10 {
		// The short ones stand the other way round.
		for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
			got[i], got[j] = got[j], got[i]
		}
	}
	if !bytes.Equal(got, want) {
		return errors.New("its checksum is wrong")
	}
	return nil
}

// begin reads the header of a stream, or the padding before it.
func (x *xzReader) begin() error {
	header := make([]byte, 12)
	for {
		// The end, when it comes here, is that of all.
		if _, err := io.ReadFull(x.in, header[:4]); err != nil {
			return err
		}
		if !bytes.Equal(header[:4], make([]byte, 4)) { // 2.2
			break
		}
	}
	if _, err := io.ReadFull(x.in, header[4:]); err != nil {
		return unexpected(err)
	}
	if string(header[:6]) != "\xfd7zXZ\x00" || header[6] != 0 || crc32.ChecksumIEEE(header[6:8]) != binary.LittleEndian.Uint32(header[8:]) {
		return errors.New("the header of a stream is damaged, or something else follows its end")
	}
	x.within, x.check, x.blocks = true, header[7], 0
	return nil
}

// endStream reads the index, whose first byte has been read, and the footer. 4 and 2.1.2.
func (x *xzReader) endStream() error {
	x.within = false
	sum := crc32.NewIEEE()
	sum.Write([]byte{0})
	index := &summed{x.in, sum, 1}
	records, err := binary.ReadUvarint(index)
	if err != nil {
		return unexpected(err)
	}
	if records != x.blocks {
		return errors.New("its index is damaged")
	}
	for range 2 * records {
		if _, err := binary.ReadUvarint(index); err != nil {
			return unexpected(err)
		}
	}
	for index.n&3 != 0 {
		if _, err := index.ReadByte(); err != nil {
			return unexpected(err)
		}
	}
	var end [16]byte // the index' checksum, and the footer
	if _, err := io.ReadFull(x.in, end[:]); err != nil {
		return unexpected(err)
	}
	if sum.Sum32() != binary.LittleEndian.Uint32(end[:]) || string(end[14:]) != "YZ" || crc32.ChecksumIEEE(end[8:14]) != binary.LittleEndian.Uint32(end[4:]) {
		return errors.New("its index is damaged")
	}
	return nil
}

type summed struct {
	in  *bufio.Reader
	sum hash.Hash32
	n   int
}

func (s *summed) ReadByte() (byte, error) {
	b, err := s.in.ReadByte()
	if err == nil {
		s.sum.Write([]byte{b})
		s.n++
	}
	return b, err
}

// unexpected is the end of a file where something should follow.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
