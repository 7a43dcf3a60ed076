package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/sevenzip"
)

type sevenContents struct {
	im *importer
	in *sevenzip.Reader
}

func (im *importer) openSevenZip(file *io.SectionReader) (contents, error) {
	in, err := sevenzip.NewReader(file, file.Size(), sevenzip.Limits{Files: im.most, Header: maxZipDirectory, Dictionary: maxDictionary})
	if err != nil {
		return nil, im.sevenFailed(err)
	}
	return &sevenContents{im, in}, nil
}

// sevenFailed says in words of ours what is wrong with the whole file.
func (im *importer) sevenFailed(err error) error {
	var unsupported *sevenzip.Unsupported
	switch {
	case errors.Is(err, sevenzip.ErrEncrypted):
		return errors.New("the archive is encrypted: unpack it with its password and import what comes out")
	case errors.Is(err, sevenzip.ErrCutOff):
		return errors.New("the archive is cut off, or the first of several volumes: join those first")
	case errors.Is(err, sevenzip.ErrFiles):
		return im.tooMany()
	case errors.Is(err, sevenzip.ErrDictionary):
		return errDictionary
	case errors.As(err, &unsupported):
		return fmt.Errorf("the archive cannot be read: %w", err)
	}
	return fmt.Errorf("the archive is damaged: %w", err)
}

func (c *sevenContents) next() (*tar.Header, io.Reader, error) {
	f, data, err := c.in.Next()
	switch {
	case err == io.EOF && f == nil:
		return nil, nil, err
	case err != nil:
		return nil, nil, c.failed(c.im.sevenFailed(err))
	}
	h, content, err := c.entry(f, data)
	if err != nil {
		return nil, nil, c.failed(fmt.Errorf("%q: %w", short(f.Name), err))
	}
	return h, content, nil
}

func (c *sevenContents) failed(err error) error { return c.im.fileFailed(err) }

func (c *sevenContents) end() error { return nil }

func (c *sevenContents) entry(f *sevenzip.File, data io.Reader) (*tar.Header, io.Reader, error) {
	if err := foreignName(f.Name); err != nil {
		return nil, nil, err
	}
	switch {
	case f.Anti:
		return nil, nil, errors.New("it stands for the removal of a file, which is not supported")
	case f.Link:
		return nil, nil, errors.New("a link of Windows is not supported")
	}
	mode := f.Mode
	if mode == 0 {
		mode = unix.S_IFREG | 0o644
	}
	h := &tar.Header{Name: f.Name, Mode: int64(mode & 0o7777), ModTime: f.Modified, Size: f.Size, Typeflag: typeOf(mode & unix.S_IFMT)}
	switch {
	case f.Dir || h.Typeflag == tar.TypeDir:
		h.Typeflag = tar.TypeDir
		if f.Size > 0 {
			return nil, nil, errors.New("it is a directory with a content of its own")
		}
		return h, nil, nil
	case h.Typeflag == tar.TypeSymlink:
		h.Size = 0
		var err error
		h.Linkname, err = linkTarget(&whole{data, f.Size, c.im.meter})
		return h, nil, err
	}
	return h, &whole{data, f.Size, c.im.meter}, nil
}
