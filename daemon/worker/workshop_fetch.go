package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"

	"left4.me/left4/units"
)

// vpkSignature begins every VPK, https://developer.valvesoftware.com/wiki/VPK_(file_format): 0x55aa1234, little-endian.
const vpkSignature = "\x34\x12\xaa\x55"

// download is one file on its way. It has a name of its own until it is complete, and is taken up there by the next try,
// also by one of a later worker: the name holds the item's id and version.
type download struct {
	want
	shop      *workshop
	fd        int
	have      int64  // bytes that are in the file
	most      int64  // that any try came to
	validator string // for If-Range, "" = the server gave none
}

// errBad is for a file that will not become better by another try.
type errBad struct{ error }

func (e errBad) Unwrap() error { return e.error }

func bad(format string, args ...any) error {
	return backoff.Permanent(errBad{fmt.Errorf(format, args...)})
}

// fetch brings one file into the directory.
func (s *workshop) fetch(ctx context.Context, w want) error {
	name := w.FileName()
	if whole, err := s.isThere(w); err != nil || whole {
		return errors.Join(err, s.clear(name, err))
	}
	part := name + partSuffix
	fd, st, err := openRegular(s.dir, part, unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return errors.Join(err, s.clear(part, err))
	}
	defer unix.Close(fd)
	d := &download{want: w, shop: s, fd: fd, have: st.Size}
	if d.have > w.Size {
		if err := d.restart(); err != nil {
			return err
		}
	}
	d.most = d.have
	s.progress(d.have, "")
	err = s.retry(ctx, func(words string) { s.progress(0, words) }, func(p *patience) error { return d.try(ctx, p) })
	if err == nil {
		err = d.finish(part, name)
	}
	var useless errBad
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		err = fmt.Errorf("disk full after %d of %d bytes", d.have, w.Size)
		fallthrough
	case errors.As(err, &useless):
		// Half a file of what is wrong, or on a full disk, is in the way.
		err = errors.Join(err, unix.Unlinkat(s.dir, part, 0))
	}
	if err != nil {
		s.progress(-d.have, "")
		return err
	}
	s.mu.Lock()
	s.result.Fetched++
	s.bytes += w.Size
	s.mu.Unlock()
	fmt.Fprintf(s.log, "fetched %s %q, %d bytes\n", name, w.Title, w.Size)
	return nil
}

// clear removes what was in the way of a file, so that it is only once: err is why it was refused.
func (s *workshop) clear(name string, err error) error {
	if err == nil {
		return nil
	}
	return units.RemoveTree(s.dir, name)
}

// openRegular opens a file that nobody can have made to lead elsewhere.
func openRegular(dir int, name string, flags int, mode uint32) (fd int, st unix.Stat_t, err error) {
	// Without O_NONBLOCK a FIFO would be waited for.
	fd, err = units.OpenBeneath(dir, name, flags|unix.O_NONBLOCK|unix.O_NOCTTY, mode)
	if err != nil {
		return -1, st, err
	}
	if err = unix.Fstat(fd, &st); err == nil {
		switch {
		case st.Mode&unix.S_IFMT != unix.S_IFREG:
			err = fmt.Errorf("%q is in the way: it is not a regular file", name)
		case st.Nlink != 1:
			err = fmt.Errorf("%q is in the way: it has %d names", name, st.Nlink)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// isThere tells whether an earlier worker, whose end nobody took note of, has fetched the file.
func (s *workshop) isThere(w want) (bool, error) {
	fd, st, err := openRegular(s.dir, w.FileName(), unix.O_RDONLY, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if st.Size != w.Size || checkSignature(fd) != nil {
		return false, unix.Unlinkat(s.dir, w.FileName(), 0)
	}
	s.progress(w.Size, "")
	return true, nil
}

func checkSignature(fd int) error {
	begin := make([]byte, len(vpkSignature))
	n, err := unix.Pread(fd, begin, 0)
	if err != nil {
		return err
	}
	if string(begin[:n]) != vpkSignature {
		return bad("its file is no VPK: it begins with %q", begin[:n])
	}
	return nil
}

func (d *download) restart() error {
	if err := unix.Ftruncate(d.fd, 0); err != nil {
		return backoff.Permanent(err)
	}
	d.shop.progress(-d.have, "")
	d.have, d.validator = 0, ""
	return nil
}

// try gets what is missing, or as much of it as comes.
func (d *download) try(ctx context.Context, p *patience) error {
	if d.have == d.Size {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(d.shop.idle, func() { cancel(fmt.Errorf("nothing came for %v", d.shop.idle)) })
	defer idle.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.from.String(), nil)
	if err != nil {
		return backoff.Permanent(err)
	}
	if d.have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
		if d.validator != "" {
			req.Header.Set("If-Range", d.validator)
		}
	}
	resp, err := d.shop.net.files.Do(req)
	if err != nil {
		return d.failed(ctx, err)
	}
	defer resp.Body.Close()
	if err := d.begin(resp); err != nil {
		return err
	}
	err = d.copy(resp.Body, func() { idle.Reset(d.shop.idle) })
	if d.have > d.most {
		d.most = d.have
		p.progressed()
	}
	var final *backoff.PermanentError
	switch {
	case errors.As(err, &final):
		return err
	case err != nil:
		return fmt.Errorf("cut off after %d of %d bytes: %w", d.have, d.Size, d.failed(ctx, err))
	case d.have < d.Size:
		return fmt.Errorf("cut off after %d of %d bytes", d.have, d.Size)
	}
	return nil
}

// failed is an error of the network, or why it was given up.
func (d *download) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return netError(err)
}

// begin looks at what the server says that it will send, before any of it is taken.
func (d *download) begin(resp *http.Response) error {
	length := d.Size
	switch resp.StatusCode {
	case http.StatusOK:
		// It knows no ranges, or has another file now than the one that was begun.
		if err := d.restart(); err != nil {
			return err
		}
	case http.StatusPartialContent:
		var from, to, all int64
		said := resp.Header.Get("Content-Range")
		if n, _ := fmt.Sscanf(said, "bytes %d-%d/%d", &from, &to, &all); n != 3 || from != d.have || to != all-1 || all != d.Size {
			if err := d.restart(); err != nil {
				return err
			}
			return fmt.Errorf("%s sends %q where the rest was asked for", resp.Request.URL.Host, short(said))
		}
		length -= d.have
	case http.StatusRequestedRangeNotSatisfiable:
		if err := d.restart(); err != nil {
			return err
		}
		return fmt.Errorf("%s does not have the rest", resp.Request.URL.Host)
	default:
		return statusError(resp)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != length {
		return bad("%s wants to send %d bytes, where Steam says that there are %d", resp.Request.URL.Host, resp.ContentLength, length)
	}
	// A weak one does not promise the same bytes, RFC 9110, 13.1.5.
	d.validator = resp.Header.Get("ETag")
	if d.validator == "" || strings.HasPrefix(d.validator, "W/") {
		d.validator = resp.Header.Get("Last-Modified")
	}
	return nil
}

// copy takes what the server sends, up to what there is to be.
func (d *download) copy(from io.Reader, alive func()) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := from.Read(buf)
		alive()
		if int64(n) > d.Size-d.have {
			return bad("its file is longer than the %d bytes that Steam says", d.Size)
		}
		if n > 0 {
			if err := writeAt(d.fd, buf[:n], d.have); err != nil {
				return backoff.Permanent(err)
			}
			begun := d.have < int64(len(vpkSignature))
			d.have += int64(n)
			d.shop.progress(int64(n), "")
			if begun && d.have >= int64(len(vpkSignature)) {
				if err := checkSignature(d.fd); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// finish gives a complete file its name.
func (d *download) finish(part, name string) error {
	if err := checkSignature(d.fd); err != nil {
		return err
	}
	if err := unix.Fchmod(d.fd, 0o644); err != nil {
		return err
	}
	if err := unix.Fsync(d.fd); err != nil {
		return err
	}
	if err := unix.Renameat2(d.shop.dir, part, d.shop.dir, name, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}
