package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxWindow is how far back zstd may refer, in bytes, and so what unpacking takes of memory. It is what the zstd program grants, too.
const maxWindow = 128 << 20

// input is the stream as it comes in.
type input struct {
	r    io.Reader
	read int64
	err  error // other than its end
}

func (in *input) Read(p []byte) (int, error) {
	n, err := in.r.Read(p)
	in.read += int64(n)
	if err != nil && err != io.EOF {
		in.err = err
	}
	return n, err
}

// plain is the stream without its compression.
type plain struct {
	r     io.Reader
	ended bool  // somebody tried to read beyond its end
	err   error // other than its end
}

func (p *plain) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	switch {
	case err == io.EOF:
		p.ended = p.ended || n == 0
	case err != nil:
		p.err = err
	}
	return n, err
}

var errEmpty = errors.New("the stream is empty")

// decompress knows gzip and zstd by how they begin. close frees what it took.
func decompress(in io.Reader) (p *plain, close func(), err error) {
	buffered := bufio.NewReaderSize(in, 1<<20)
	magic, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case len(magic) == 0:
		return nil, nil, errEmpty
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}): // RFC 1952, 2.3.1
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, nil, err
		}
		z.Multistream(false)
		return &plain{r: &members{z, buffered}}, func() {}, nil
	case isZstd(magic):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return &plain{r: z}, z.Close, nil
	}
	return &plain{r: buffered}, func() {}, nil
}

// isZstd knows a frame, RFC 8878, 3.1.1, and a skippable one, 3.1.2, which pzstd writes first.
func isZstd(magic []byte) bool {
	return bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) || len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18})
}

// members reads all members of a gzip stream. What follows and is none is garbage that gzip ignores too.
type members struct {
	z  *gzip.Reader
	in *bufio.Reader
}

func (m *members) Read(p []byte) (int, error) {
	for {
		n, err := m.z.Read(p)
		if n > 0 || err != io.EOF {
			// The end of one member is not the end of all, so it is not passed on together with bytes.
			if err == io.EOF {
				err = nil
			}
			return n, err
		}
		if m.z.Reset(m.in) != nil {
			return 0, io.EOF
		}
		m.z.Multistream(false)
	}
}
