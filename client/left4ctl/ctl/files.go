package ctl

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"left4.me/left4/client"
)

// Work on single files of an overlay. A change is an import of a stream of one entry or none, which left4d merges with
// the current revision: files that do not change are neither sent nor copied.

// overlayPath reads the path of a file in an overlay and gives it as it is on disk.
func overlayPath(text string) (string, error) {
	name, err := client.FileName(text)
	if err != nil {
		return "", usagef("path %s is not allowed: %v", text, err)
	}
	clean := path.Clean(name)
	switch {
	case strings.HasPrefix(name, "/"):
		return "", usagef("path %s is not allowed: it begins at the top of the overlay, without a /", text)
	case clean == "." || clean == ".." || strings.HasPrefix(clean, "../"):
		return "", usagef("path %s is not allowed: it names nothing in the overlay", text)
	}
	return clean, nil
}

// commit makes a new revision of an overlay out of the current one, these entries, and without what the options remove.
// past is what has happened then, as "wrote" in "sm: wrote x, revision 4".
func (v *invocation) commit(verb, past, name, what string, o client.ImportOptions, entries ...client.SourceEntry) error {
	source, err := client.PackEntries(entries...)
	if err != nil {
		return fmt.Errorf("cannot %s %s: %w", verb, what, err)
	}
	defer source.File.Close()
	o.Merge, o.Size = true, source.Size
	job, err := v.c.ImportOverlay(v.ctx, name, source.File, o)
	source.File.Close()
	if err != nil {
		return v.failed(verb, what, err)
	}
	// Where nobody looks on, so small a work is not worth its steps.
	steps := v.steps(name)
	show := steps.show
	if !v.terminal {
		show = nil
	}
	_, err = job.Wait(v.ctx, show)
	steps.finish()
	if err != nil {
		err = v.unfinished(verb, what, job, source.Live(), err)
		if v.ctx.Err() == nil {
			if packing := v.feed(source); packing != nil {
				v.complain(packing.Error())
			}
		}
		return err
	}
	revision := ""
	if now, err := v.c.GetOverlay(v.ctx, name); err == nil {
		revision = fmt.Sprintf(", revision %d", now.Revision)
	}
	v.say("%s: %s %s%s", name, past, what, revision)
	return nil
}

func runOverlayPut(v *invocation) error {
	name, to, from := v.args[0], v.args[1], "-"
	if len(v.args) > 2 {
		from = v.args[2]
	}
	if strings.HasSuffix(to, "/") {
		if from == "-" {
			return usagef("overlay put needs a FILE whose name it can take, or a PATH that does not end in /")
		}
		to += client.FileText(filepath.Base(from))
	}
	where, err := overlayPath(to)
	if err != nil {
		return err
	}
	content, mode, err := v.open(from)
	if err != nil {
		return fmt.Errorf("cannot put %s: %w", from, err)
	}
	if _, err := v.connect(); err != nil {
		content.Close()
		return err
	}
	text := client.FileText(where)
	err = v.commit("put", "wrote", name, text, client.ImportOptions{}, client.SourceEntry{Name: where, Mode: mode, Content: content})
	if err != nil && v.ctx.Err() == nil {
		entry, _ := unasked(v, func() (client.FileEntry, error) {
			entry, _, err := v.at(name, where, 0)
			return entry, err
		})
		if entry.Kind == "directory" {
			v.hint(text + " is a directory: " + text + "/ puts the file into it")
		}
	}
	return err
}

// open opens a file whose length is known: what is none, as a pipe, is read into one first.
func (v *invocation) open(name string) (f *os.File, mode uint32, err error) {
	from := v.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, 0, plain(err)
		}
		info, err := f.Stat()
		switch {
		case err != nil:
			f.Close()
			return nil, 0, plain(err)
		case info.Mode().IsRegular():
			return f, uint32(info.Mode().Perm()), nil
		case info.IsDir():
			f.Close()
			return nil, 0, errors.New("it is a directory: left4ctl overlay import --merge takes those")
		}
		defer f.Close()
		from = f
	}
	f, err = os.CreateTemp("", "left4ctl-")
	if err != nil {
		return nil, 0, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, 0, err
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(f, from)
		copied <- err
	}()
	select {
	case err = <-copied:
	case <-v.ctx.Done():
		err = errors.New("interrupted")
	}
	if err != nil {
		f.Close()
		return nil, 0, plain(err)
	}
	return f, 0o644, nil
}

func revisionFlag(v *invocation, fs *pflag.FlagSet) {
	fs.Uint32Var(&v.revision, "revision", 0, "look into revision `N` (the current one if it is not given)")
}

func runOverlayGet(v *invocation) error {
	name, to := v.args[0], "-"
	if len(v.args) > 2 {
		to = v.args[2]
	}
	from, err := overlayPath(v.args[1])
	if err != nil {
		return err
	}
	text := client.FileText(from)
	c, err := v.connect()
	if err != nil {
		return err
	}
	f, err := c.OpenOverlayFile(v.ctx, name, text, v.revision)
	if err != nil {
		return v.failed("get", text, err)
	}
	defer f.Close()
	if to == "-" {
		if isTerminal(v.stdout.w) {
			if err := readable(f); err != nil {
				return fmt.Errorf("cannot get %s: %w", text, err)
			}
		}
		if _, err := io.Copy(v.stdout, f); err != nil && v.stdout.err == nil {
			return fmt.Errorf("cannot get %s: %w", text, plain(err))
		}
		return nil
	}
	if info, err := os.Stat(to); strings.HasSuffix(to, "/") || err == nil && info.IsDir() {
		to = filepath.Join(to, path.Base(from))
	}
	if err := save(f, to); err != nil {
		return fmt.Errorf("cannot write %s: %w", to, plain(err))
	}
	v.say("%s: saved as %s", text, to)
	return nil
}

// readable tells why a file should not be shown on a terminal, and goes back to its beginning.
func readable(f *os.File) error {
	in := bufio.NewReader(f)
	for {
		r, n, err := in.ReadRune()
		if err == io.EOF {
			_, err = f.Seek(0, io.SeekStart)
			return err
		}
		if err != nil {
			return plain(err)
		}
		if r == utf8.RuneError && n == 1 || !harmless(r) && !strings.ContainsRune("\t\n\r", r) && r != '\ufeff' {
			return errors.New("it holds bytes that a terminal would not show as they are: name a FILE, or - with a pipe behind it")
		}
	}
}

// save writes a file aside and renames it, so that nobody sees a half of it. What is there and is no regular file, as
// /dev/null, is written to as it is.
func save(from *os.File, to string) error {
	if info, err := os.Stat(to); err == nil && !info.Mode().IsRegular() {
		out, err := os.OpenFile(to, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, from)
		return errors.Join(err, out.Close())
	}
	info, err := from.Stat()
	if err != nil {
		return err
	}
	aside := filepath.Join(filepath.Dir(to), ".left4ctl-"+rand.Text())
	out, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, from)
	if err == nil {
		err = out.Sync()
	}
	if closing := out.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(aside, to)
	}
	if err != nil {
		os.Remove(aside)
	}
	return err
}

// at looks at one path of a revision; ok is false if there is nothing.
func (v *invocation) at(name, where string, revision uint32) (entry client.FileEntry, ok bool, err error) {
	dir := path.Dir(where)
	if dir == "." {
		dir = ""
	}
	entries, more, err := v.c.ListOverlayFiles(v.ctx, name, client.FileText(dir), revision)
	if errors.Is(err, client.ErrInvalidArgument) {
		return entry, false, nil // nor is there a directory for it
	}
	if err != nil {
		return entry, false, err
	}
	text := client.FileText(path.Base(where))
	for _, e := range entries {
		if e.Name == text {
			return e, true, nil
		}
	}
	if !more {
		return entry, false, nil
	}
	// It may be one of those that the list had no room for.
	if _, _, err := v.c.ListOverlayFiles(v.ctx, name, client.FileText(where), revision); err == nil {
		return client.FileEntry{Name: text, Kind: "directory"}, true, nil
	}
	f, err := v.c.OpenOverlayFile(v.ctx, name, client.FileText(where), revision)
	if err != nil {
		return entry, false, nil
	}
	f.Close()
	return client.FileEntry{Name: text, Kind: "file"}, true, nil
}

func removeFlags(v *invocation, fs *pflag.FlagSet) {
	fs.BoolVarP(&v.recursive, "recursive", "r", false, "remove directories too, with all below them")
}

func runOverlayRm(v *invocation) error {
	name := v.args[0]
	var paths []string
	for _, text := range v.args[1:] {
		where, err := overlayPath(text)
		if err != nil {
			return err
		}
		paths = append(paths, where)
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	o, err := c.GetOverlay(v.ctx, name)
	if err != nil {
		return v.failed("remove files from", name, err)
	}
	var texts []string
	for _, where := range paths {
		text := client.FileText(where)
		entry, ok, err := v.at(name, where, o.Revision)
		switch {
		case err != nil:
			return v.failed("remove", text, err)
		case !ok:
			return v.failed("remove", text, fmt.Errorf("%s has no such file", name))
		case entry.Kind == "directory" && !v.recursive:
			err := v.failed("remove", text, errors.New("it is a directory"))
			v.hint("-r removes it, with all below it")
			return err
		}
		texts = append(texts, text)
	}
	return v.commit("remove", "removed", name, strings.Join(texts, ", "), client.ImportOptions{Remove: texts, Base: o.Revision})
}

func runOverlayMkdir(v *invocation) error {
	name := v.args[0]
	where, err := overlayPath(v.args[1])
	if err != nil {
		return err
	}
	if _, err := v.connect(); err != nil {
		return err
	}
	text := client.FileText(where)
	entry, there, err := v.at(name, where, 0)
	if err != nil {
		return v.failed("make", text, err)
	}
	if there {
		return v.failed("make", text, fmt.Errorf("there is a %s of that name", entry.Kind))
	}
	return v.commit("make", "made", name, text, client.ImportOptions{}, client.SourceEntry{Name: where, Mode: 0o755})
}

type fileJSON struct {
	Name     string  `json:"name"`
	Kind     string  `json:"kind"`
	Size     uint64  `json:"size"`
	Modified *string `json:"modified"`
}

func lsFlags(v *invocation, fs *pflag.FlagSet) {
	revisionFlag(v, fs)
	tableFlags(v, fs)
}

func runOverlayLs(v *invocation) error {
	name, dir := v.args[0], ""
	if len(v.args) > 1 && v.args[1] != "." {
		where, err := overlayPath(v.args[1])
		if err != nil {
			return err
		}
		dir = client.FileText(where)
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	entries, more, err := c.ListOverlayFiles(v.ctx, name, dir, v.revision)
	if err != nil {
		return v.failed("list", name+"/"+dir, err)
	}
	if v.json {
		all := make([]fileJSON, 0, len(entries))
		for _, e := range entries {
			all = append(all, fileJSON{e.Name, e.Kind, e.Size, stamp(e.Modified)})
		}
		err = printJSON(v.stdout, all)
	} else {
		var rows [][]string
		for _, e := range entries {
			size, name := roughSize(e.Size), e.Name
			if e.Kind != "file" {
				size = ""
			}
			if e.Kind == "directory" {
				name += "/"
			}
			rows = append(rows, []string{e.Kind, size, when(e.Modified), name})
		}
		v.table([]string{"KIND", "SIZE", "MODIFIED", "NAME"}, rows, "name")
	}
	v.notAll(more)
	return err
}
