package main

import (
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxWindow is how far back zstd may refer, in bytes, and so what unpacking takes of memory. It is what the zstd program grants, too.
	maxWindow = 128 << 20
	// maxDictionary is the same for LZMA, as xz and 7z have it: twice what their programs take at their highest level.
	maxDictionary = 512 << 20
)

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
	meter *meter
	ended bool  // somebody tried to read beyond its end
	err   error // other than its end
}

func (p *plain) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if bomb := p.meter.grew(n); bomb != nil {
		p.err = bomb
		return 0, bomb
	}
	switch {
	case err == io.EOF:
		p.ended = p.ended || n == 0
	case err != nil:
		p.err = err
	}
	return n, err
}

var errEmpty = errors.New("the stream is empty")

// decompress undoes one of the compressions of tar archives. close frees what it took.
func decompress(in *bufio.Reader, format string, m *meter) (p *plain, close func(), err error) {
	close = func() {}
	var r io.Reader = in
	switch format {
	case "gzip":
		var z *gzip.Reader
		if z, err = gzip.NewReader(in); err == nil {
			z.Multistream(false)
			r = &members{z, in}
		}
	case "zstd":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			r, close = z, z.Close
		}
	case "bzip2":
		r = bzip2.NewReader(in)
	case "xz":
		r = &xzReader{in: in}
	}
	return &plain{r: r, meter: m}, close, err
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
