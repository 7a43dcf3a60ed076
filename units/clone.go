package units

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Names in runtime/NAME, which is root's.
const (
	cloneName  = ".clone" // the copy, until it is whole
	clonedName = "cloned" // names the instance that upper is a copy of, until the first mount
)

const (
	cloneTimeout = 24 * time.Hour // unless the caller has less
	// cloneStopTimeout is how long a copy that was told to stop may take to remove what it made. Another copy, a mount, a reset or a delete
	// removes what is left then.
	cloneStopTimeout = 30 * time.Second
)

// copying is what a copy tells, as JSON, one after the other: how far it is, and at its end that, or an Error.
type copying struct {
	Files, Bytes uint64
	Done         bool
	Error        string
}

// Clone copies all that the server of one instance has written, so that the server of another one finds it with its first mount; that one
// must have nothing yet. What left4 staged for the server is not copied. It takes CAP_SYS_ADMIN and what Mount takes, and tells out as JSON how
// far it is.
//
// Neither may be mounted or have a living process. From this on no left4-overlay mounts them before the copy is done: it waits.
// A copy that was interrupted is made again from its beginning; a whole one that no server has used yet is a success.
func (m Mounter) Clone(ctx context.Context, from, to string, out io.Writer) error {
	for _, name := range []string{from, to} {
		if !ValidName(name) {
			return fmt.Errorf("cannot copy the files: %q is no name of an instance", name)
		}
	}
	var last copying
	var noted time.Time
	tell := json.NewEncoder(out)
	// Whoever listened may have gone: that ends no copy.
	err := m.clone(ctx, from, to, func(files, bytes uint64) {
		last.Files, last.Bytes = files, bytes
		if time.Since(noted) >= time.Second {
			noted = time.Now()
			_ = tell.Encode(last)
		}
	})
	if err != nil {
		last.Error = err.Error()
		_ = tell.Encode(last)
		return fmt.Errorf("cannot copy the files of %s to %s: %w", from, to, err)
	}
	last.Done = true
	_ = tell.Encode(last)
	return nil
}

func (m Mounter) clone(ctx context.Context, from, to string, note func(files, bytes uint64)) error {
	if from == to {
		return errors.New("they are one instance")
	}
	var fds descriptors
	defer fds.close()
	state, err := fds.keep(openAbs(m.Layout.State))
	if err != nil {
		return err
	}
	runtimes, err := fds.keep(MkdirAllBeneath(state, runtimeDir, 0o755, -1, -1))
	if err != nil {
		return err
	}
	target, err := fds.keep(ensureDir(runtimes, to, 0o755, os.Geteuid(), os.Getegid()))
	if err != nil {
		return err
	}
	source, err := fds.keep(openSame(runtimes, from, unix.O_RDONLY|unix.O_DIRECTORY, 0))
	if errors.Is(err, unix.ENOENT) {
		source, err = -1, nil // never started, or reset
	}
	if err != nil {
		return err
	}
	// In the order of the names, so that two copies never wait for each other. Many may read one source.
	locks := []struct {
		name    string
		runtime int
		how     int
	}{{from, source, unix.LOCK_SH}, {to, target, unix.LOCK_EX}}
	if to < from {
		slices.Reverse(locks)
	}
	for _, l := range locks {
		if l.runtime < 0 {
			continue
		}
		work, err := fds.keep(ensureDir(l.runtime, workName, 0o700, os.Geteuid(), os.Getegid()))
		if err == nil {
			err = flockUntil(ctx, work, l.how)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}

	if err := m.unused(to); err != nil {
		return err
	}
	if err := errors.Join(RemoveTree(target, cloneName), sweepTemps(target)); err != nil {
		return err
	}
	switch _, err := statAt(target, upperName); err {
	case unix.ENOENT:
	case nil:
		if of, err := ReadFileBeneath(target, clonedName, maxName); err == nil && string(of) == from {
			return nil
		}
		return fmt.Errorf("%s has files of its own", to)
	default:
		return pathError(upperName, err)
	}
	if err := m.unused(from); err != nil {
		return err
	}
	if source < 0 {
		return nil
	}
	upper, err := fds.keep(openSame(source, upperName, unix.O_RDONLY|unix.O_DIRECTORY, 0))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	err = copyUpper(ctx, source, upper, target, note, func() error {
		// Who removes a tree moves it away first.
		for name, dir := range map[string]int{from + "/" + upperName: upper, to: target} {
			if !isNamed(runtimes, name, dir) {
				return fmt.Errorf("%q was removed meanwhile", runtimeDir+"/"+name)
			}
		}
		_, err := WriteFileAtomic(target, clonedName, []byte(from), 0o600, -1, -1)
		return err
	})
	if err != nil {
		return errors.Join(err, RemoveTree(target, cloneName))
	}
	return nil
}

// unused fails while an instance is mounted or a process of its server lives.
func (m Mounter) unused(name string) error {
	path, err := m.Layout.mergedPath(name)
	if err != nil {
		return err
	}
	mounted, err := overlayAt(path)
	if err != nil {
		return err
	}
	if mounted {
		return fmt.Errorf("%s is mounted; stop it first", name)
	}
	return m.idle(name)
}

// copyUpper gives target the upper directory of source. When it is whole, last may still refuse it.
func copyUpper(ctx context.Context, source, upper, target int, note func(files, bytes uint64), last func() error) error {
	skip, err := stagedIn(source, upper)
	if err != nil {
		return err
	}
	made, err := ensureDir(target, cloneName, 0o700, os.Geteuid(), os.Getegid())
	if err != nil {
		return err
	}
	defer unix.Close(made)
	files, bytes, err := CopyTree(ctx, upper, made, skip, note)
	if err != nil {
		return err
	}
	note(files, bytes)
	if err := sweepStaged(made); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(upper, &st); err != nil {
		return err
	}
	if err := own(made, st.Mode&noSetID, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	// It also tells what went wrong with bytes that were still in memory, as on a disk that was full in the end.
	if err := unix.Syncfs(made); err != nil {
		return err
	}
	if err := last(); err != nil {
		return err
	}
	if err := unix.Renameat2(target, cloneName, target, upperName, unix.RENAME_NOREPLACE); err != nil {
		return pathError(upperName, err)
	}
	return unix.Fsync(target)
}

// stagedIn are the files in upper that left4 staged there, which hold secrets of the instance.
func stagedIn(runtime, upper int) ([]string, error) {
	names, err := readStaged(runtime)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, name := range names {
		path := strings.Join(append(slices.Clone(stagePath), name), "/")
		_, err := statBeneath(upper, path)
		switch {
		case err == nil:
			all = append(all, path)
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		default:
			return nil, fileError(path, err)
		}
	}
	return all, nil
}

// sweepStaged removes what an interrupted stage left in the original, and so in the copy.
func sweepStaged(upper int) error {
	dir, err := openSame(upper, strings.Join(stagePath, "/"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	switch {
	case err == nil:
		defer unix.Close(dir)
		return sweepTemps(dir)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil
	}
	return err
}

// endClone makes an upper directory one that a server uses, and removes what an interrupted copy left.
func endClone(runtime int) error {
	return errors.Join(RemoveTree(runtime, cloneName), RemoveTree(runtime, clonedName))
}

// Clone has program, which is left4-overlay, copy what the server of one instance wrote to another one, see Mounter.Clone. The end of
// ctx ends the copy, unless it is whole by then. note may be nil.
func (s *Systemd) Clone(ctx context.Context, program, from, to string, note func(files, bytes uint64)) error {
	if !ValidName(from) || !ValidName(to) {
		return fmt.Errorf("cannot copy the files: %q or %q is no name of an instance", from, to)
	}
	unit := fmt.Sprintf("left4-clone-%d-%d.service", os.Getpid(), inspections.Add(1))
	limit := cloneTimeout
	if deadline, ok := ctx.Deadline(); ok {
		// A left4d that was killed stops nothing.
		limit = max(time.Until(deadline), time.Second)
	}
	err := s.askCopying(ctx, unit, cloneProperties(program, from, to, limit), nil, cloneStopTimeout+workerStopTimeout, note)
	if err != nil {
		return fmt.Errorf("cannot copy the files of %s: %w", from, err)
	}
	return nil
}

// askCopying is ask for what tells how far it is, as copying.
func (s *Systemd) askCopying(ctx context.Context, unit string, properties []property, question []byte, stop time.Duration, note func(files, bytes uint64)) error {
	var failed string
	err := s.ask(ctx, unit, properties, question, stop, func(answer *json.Decoder) error {
		for {
			var c copying
			if err := answer.Decode(&c); err != nil {
				return err
			}
			if c.Done || c.Error != "" {
				failed = c.Error
				return nil
			}
			if note != nil {
				note(c.Files, c.Bytes)
			}
		}
	})
	if err == nil && failed != "" {
		err = errors.New(failed)
	}
	return err
}

// cloneProperties are those of a process that may change what is below runtime/.
func cloneProperties(program, from, to string, limit time.Duration) []property {
	list := overlayProperties(program, "clone", from, to)
	set := func(name string, value any) { list = append(list, property{name, dbus.MakeVariant(value)}) }
	set("Description", "left4: the files of "+from+" are copied to "+to)
	set("TimeoutStartUSec", uint64(limit.Microseconds()))
	set("TimeoutStopUSec", uint64(cloneStopTimeout.Microseconds()))
	// trusted.* attributes; files of another user, closed ones too.
	set("CapabilityBoundingSet", uint64(1<<unix.CAP_SYS_ADMIN|1<<unix.CAP_CHOWN|1<<unix.CAP_DAC_OVERRIDE|1<<unix.CAP_FOWNER))
	set("ReadWritePaths", []string{stateDir + "/" + runtimeDir})
	// It looks for processes of the servers, which are another user's.
	set("ProtectProc", "default")
	set("SystemCallFilter", allowList{true, []string{"@chown"}})
	return list
}
