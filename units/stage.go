package units

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// stagedName is the file in runtime/NAME, which is root's, that remembers what was staged: a name per line.
const stagedName = "staged"

// stagePath are the directories below upper that lead to what a server executes as its configuration.
var stagePath = []string{"left4dead2", "cfg"}

// stage puts the files cfg where the instance's server will read them, and removes from there what an earlier stage put and
// this one does not, so that the layers' own files show again. Everything below upper is the server's: whatever it planted in the
// way goes, and nothing is followed. No process of the instance may be alive. It can be repeated after it was interrupted.
func stage(runtime, upper int, cfg map[string][]byte, uid, gid int) error {
	if err := sweepTemps(runtime); err != nil {
		return err
	}
	at := upper
	for _, name := range stagePath {
		next, err := stageDir(at, name, uid, gid)
		if at != upper {
			unix.Close(at)
		}
		if err != nil {
			return err
		}
		at = next
	}
	defer unix.Close(at)
	if err := sweepTemps(at); err != nil {
		return err
	}

	before, err := readStaged(runtime)
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(cfg))
	// From here until the end both may be there, so both are remembered: an interruption must not leave a file that nobody knows.
	both := slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(names), before...))))
	if err := writeStaged(runtime, both); err != nil {
		return err
	}
	for _, name := range before {
		if _, ok := cfg[name]; !ok {
			if err := RemoveTree(at, name); err != nil {
				return err
			}
		}
	}
	for _, name := range names {
		_, err := WriteFileAtomic(at, name, cfg[name], 0o600, uid, gid)
		if errors.Is(err, unix.EISDIR) {
			if err := RemoveTree(at, name); err != nil {
				return err
			}
			_, err = WriteFileAtomic(at, name, cfg[name], 0o600, uid, gid)
		}
		if err != nil {
			return fmt.Errorf("staging %w", err)
		}
	}
	return writeStaged(runtime, names)
}

func readStaged(runtime int) ([]string, error) {
	text, err := ReadFileBeneath(runtime, stagedName, 2*maxCfgs*256)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range strings.Lines(string(text)) {
		name = strings.TrimSuffix(name, "\n")
		if err := checkCfgName(name); err != nil {
			return nil, fmt.Errorf("%q: %w", stagedName, err)
		}
		names = append(names, name)
	}
	return names, nil
}

func writeStaged(runtime int, names []string) error {
	var text strings.Builder
	for _, name := range names {
		text.WriteString(name + "\n")
	}
	_, err := WriteFileAtomic(runtime, stagedName, []byte(text.String()), 0o600, -1, -1)
	return err
}

// stageDir opens the directory name, which the server must be able to write to, and makes it where anything else is there.
// A link, FIFO, file or whiteout goes: it would hide the layers' directory from the game.
func stageDir(parent int, name string, uid, gid int) (int, error) {
	for range 3 {
		fd, err := openSame(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		switch {
		case err == nil:
			// Root's are those of a stage that was interrupted, and copies of a directory that an administrator placed.
			if err := ensureOwner(fd, 0o755, uid, gid); err != nil {
				unix.Close(fd)
				return -1, pathError(name, err)
			}
			return fd, nil
		case errors.Is(err, unix.ENOENT):
		case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			if err := unix.Unlinkat(parent, name, 0); err != nil && err != unix.ENOENT {
				return -1, pathError(name, err)
			}
		default:
			return -1, err
		}
		if err := unix.Mkdirat(parent, name, 0o700); err != nil && err != unix.EEXIST {
			return -1, pathError(name, err)
		}
	}
	return -1, fmt.Errorf("%q: somebody keeps changing it", name)
}

// ensureOwner gives a directory its owner, and its mode where the owner was another or is shut out.
func ensureOwner(fd int, mode uint32, uid, gid int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid == uint32(uid) && st.Gid == uint32(gid) && st.Mode&0o700 == 0o700 {
		return nil
	}
	return own(fd, mode, uid, gid)
}

// sweepTemps removes files that an interrupted WriteFileAtomic left in a directory where nobody else writes now.
func sweepTemps(dir int) error {
	return readNames(dir, func(name string) error {
		if !strings.HasPrefix(name, tempPrefix) {
			return nil
		}
		return RemoveTree(dir, name)
	})
}
