package ctl

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"left4.me/left4/client"
)

// runOverlayEdit lends a file of an overlay to an editor, as sudoedit does: what comes back is a new revision, unless
// nothing has changed. What somebody wrote is never thrown away: if it cannot be stored it stays in a file that is named.
func runOverlayEdit(v *invocation) error {
	name := v.args[0]
	where, err := overlayPath(v.args[1])
	if err != nil {
		return err
	}
	text := client.FileText(where)
	editor, err := findEditor(os.Getenv, exec.LookPath)
	if err != nil {
		return fmt.Errorf("cannot edit %s: %w", text, err)
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	o, err := c.GetOverlay(v.ctx, name)
	if err != nil {
		return v.failed("edit", text, err)
	}
	before, err := v.borrow(name, where, o.Revision)
	if err != nil {
		return v.failed("edit", text, err)
	}
	dir, err := os.MkdirTemp("", "left4ctl-")
	if err != nil {
		before.close()
		return fmt.Errorf("cannot edit %s: %w", text, plain(err))
	}
	kept := false
	defer func() {
		if !kept {
			os.RemoveAll(dir)
		}
	}()
	file := filepath.Join(dir, path.Base(where)) // editors go by the name
	err = before.lend(file)
	before.close()
	if err != nil {
		return fmt.Errorf("cannot edit %s: %w", text, plain(err))
	}
	editing := v.edit(editor, file)
	after, err := digest(file)
	switch {
	case err == nil && after == before.sum, errors.Is(err, os.ErrNotExist) && !before.there:
		if editing != nil {
			return fmt.Errorf("cannot edit %s: %w", text, editing)
		}
		v.say("%s: no change", text)
		return nil
	case err == nil && editing == nil:
		if err = v.give(name, where, text, file, o.Revision, before); err == nil {
			return nil
		}
	case editing != nil:
		err = fmt.Errorf("cannot edit %s: %w", text, editing)
	default:
		err = fmt.Errorf("cannot edit %s: %w", text, plain(err))
	}
	if _, gone := os.Lstat(file); gone != nil {
		return err
	}
	kept = true
	if _, told := err.(exitCode); !told {
		v.complain(err.Error())
	}
	v.hint("what you wrote is kept in " + file)
	return exitCode(exitFailure)
}

// borrowed is a file before somebody edits it.
type borrowed struct {
	there bool
	mode  uint32
	file  *os.File // nil if it is not there
	sum   [sha256.Size]byte
}

func (b *borrowed) close() {
	if b.file != nil {
		b.file.Close()
	}
}

// borrow opens a file of a revision, or says that a new one is to be made.
func (v *invocation) borrow(name, where string, revision uint32) (*borrowed, error) {
	entry, there, err := v.at(name, where, revision)
	if err != nil {
		return nil, err
	}
	if !there {
		return &borrowed{mode: 0o644, sum: sha256.Sum256(nil)}, nil
	}
	if entry.Kind != "file" {
		return nil, fmt.Errorf("it is a %s", entry.Kind)
	}
	f, err := v.c.OpenOverlayFile(v.ctx, name, client.FileText(where), revision)
	if err != nil {
		return nil, err
	}
	b := &borrowed{there: true, file: f}
	info, err := f.Stat()
	if err == nil {
		b.mode = uint32(info.Mode().Perm())
		b.sum, err = sum(f)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, plain(err)
	}
	return b, nil
}

// lend writes the file to where an editor finds it.
func (b *borrowed) lend(file string) error {
	if !b.there {
		return nil
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, b.file)
	return errors.Join(err, out.Close())
}

// give makes a revision of what was edited, unless the file was changed by somebody else since it was borrowed.
func (v *invocation) give(name, where, text, file string, base uint32, before *borrowed) error {
	now, err := v.c.GetOverlay(v.ctx, name)
	if err != nil {
		return v.failed("edit", text, err)
	}
	if now.Revision != base {
		meanwhile, err := v.borrow(name, where, now.Revision)
		if err != nil {
			return v.failed("edit", text, err)
		}
		meanwhile.close()
		if meanwhile.there != before.there || meanwhile.sum != before.sum {
			return v.failed("edit", text, fmt.Errorf("somebody else has changed it meanwhile: revision %d has another one", now.Revision))
		}
	}
	content, err := openEdited(file)
	if err != nil {
		return fmt.Errorf("cannot edit %s: %w", text, plain(err))
	}
	return v.commit("edit", "wrote", name, text, client.ImportOptions{Base: now.Revision}, client.SourceEntry{Name: where, Mode: before.mode, Content: content})
}

// openEdited opens what an editor has left, which may be anything.
func openEdited(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.New("the editor left no file")
	}
	return f, nil
}

func digest(file string) (d [sha256.Size]byte, err error) {
	f, err := openEdited(file)
	if err != nil {
		return d, err
	}
	defer f.Close()
	return sum(f)
}

func sum(r io.Reader) (d [sha256.Size]byte, err error) {
	h := sha256.New()
	_, err = io.Copy(h, r)
	copy(d[:], h.Sum(nil))
	return d, err
}

// findEditor returns the command of the editor that the user wants, or of one that is there.
func findEditor(getenv func(string) string, look func(string) (string, error)) ([]string, error) {
	for _, name := range []string{"VISUAL", "EDITOR"} {
		if command := strings.Fields(getenv(name)); len(command) > 0 {
			return command, nil
		}
	}
	for _, name := range []string{"editor", "vi"} {
		if _, err := look(name); err == nil {
			return []string{name}, nil
		}
	}
	return nil, errors.New("there is no editor: set EDITOR")
}

// edit runs the editor until it ends. A Ctrl-C meanwhile is the editor's, which shares our terminal; afterwards it ends
// this command again.
func (v *invocation) edit(command []string, file string) error {
	editor := exec.Command(command[0], append(command[1:len(command):len(command)], file)...)
	editor.Stdin, editor.Stdout, editor.Stderr = v.stdin, v.stdout.w, v.stderr.w
	// An agent reads from the terminal too, and a Ctrl-C would end it.
	if v.agent != nil {
		v.agent.stop()
		v.agent = nil
		defer v.bringAgent()
	}
	keys := make(chan os.Signal, 1)
	signal.Reset(os.Interrupt)
	// Taken and not ignored, for the editor would inherit that.
	signal.Notify(keys, os.Interrupt, syscall.SIGQUIT)
	defer func() {
		// The context of main does not hear of Ctrl-C any more.
		ctx, stop := signal.NotifyContext(v.ctx, os.Interrupt)
		signal.Stop(keys)
		signal.Reset(syscall.SIGQUIT)
		v.ctx = ctx
		context.AfterFunc(ctx, stop)
	}()
	if err := editor.Start(); err != nil {
		return fmt.Errorf("%s: %w", command[0], plain(err))
	}
	// From here on the kernel drops them: none may come to us late, when the editor has ended.
	signal.Ignore(os.Interrupt, syscall.SIGQUIT)
	stop := context.AfterFunc(v.ctx, func() { editor.Process.Signal(syscall.SIGTERM) })
	defer stop()
	if err := editor.Wait(); err != nil {
		return fmt.Errorf("%s: %w", command[0], plain(err))
	}
	return nil
}
