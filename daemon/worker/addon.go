package main

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"

	valve "left4.me/left4/daemon/worker/vpk"
)

// addonContents is a VPK file: it is imported as one file and not unpacked, for that is how the game reads it.
type addonContents struct {
	im   *importer
	file *io.SectionReader
	done bool
}

func (im *importer) openVPK(file *io.SectionReader) (contents, error) {
	p, err := valve.Open(file, file.Size())
	if err == nil {
		err = p.Whole()
	}
	if err != nil {
		return nil, fmt.Errorf("the VPK file cannot be used: %w", err)
	}
	return &addonContents{im: im, file: file}, nil
}

func (c *addonContents) next() (*tar.Header, io.Reader, error) {
	if c.done {
		return nil, nil, io.EOF
	}
	c.done = true
	name := c.im.called
	if name == "" {
		name = "addon"
	}
	if isVPK(name) {
		name = strings.TrimSuffix(name, extension(name))
	}
	name += ".vpk"
	if !c.im.into {
		name = addonsDir + "/" + name
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: c.file.Size()}
	return h, &whole{c.file, h.Size, c.im.meter}, nil
}

func (c *addonContents) failed(err error) error { return c.im.fileFailed(err) }

func (c *addonContents) end() error { return nil }
