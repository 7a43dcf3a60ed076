package units

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// mount is one line of mountinfo, see proc_pid_mountinfo(5).
type mount struct {
	id, parent string
	device     string // major:minor
	root       string // of the mount within its file system
	point      string // absolute
	options    string // of the mount
	fstype     string
	source     string
	super      string // options of the file system
}

// mounts are the mounts that this process sees. They are read again only when the kernel tells that they have changed: with
// many servers that is a long text, and every look at one asks for it.
func mounts() ([]mount, error) { return mountTable.read() }

var mountTable mountFile

type mountFile struct {
	mu   sync.Mutex
	file *os.File
	all  []mount // nobody changes it
}

func (t *mountFile) read() (all []mount, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		// Not os.Open: the runtime would wait for the file's changes, too.
		t.file = os.NewFile(uintptr(fd), "/proc/self/mountinfo")
	}
	// See proc_pid_mountinfo(5): a change is told once, as POLLPRI. Asked before the reading, none is missed.
	poll := []unix.PollFd{{Fd: int32(t.file.Fd()), Events: unix.POLLPRI}}
	n, err := unix.Poll(poll, 0)
	if err == nil && n == 0 && t.all != nil {
		return t.all, nil
	}
	t.all = nil
	if _, err := t.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(t.file)
	if err != nil {
		return nil, err
	}
	t.all, err = parseMountinfo(data)
	return t.all, err
}

// parseMountinfo reads the whole text of a mountinfo file. Fields are separated by single blanks and may be empty (a source can be);
// after the sixth come any number of tagged ones up to a lone "-".
func parseMountinfo(data []byte) ([]mount, error) {
	var all []mount
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte{'\n'})
		if !ended {
			return nil, errors.New("mountinfo ends within a line")
		}
		data = rest
		m, ok := parseMount(string(line))
		if !ok {
			return nil, fmt.Errorf("mountinfo has a line that cannot be read: %q", line)
		}
		all = append(all, m)
	}
	return all, nil
}

func parseMount(line string) (mount, bool) {
	field := strings.Split(line, " ")
	dash := 6
	for dash < len(field) && field[dash] != "-" {
		dash++
	}
	if len(field)-dash != 4 {
		return mount{}, false
	}
	m := mount{
		id:      field[0],
		parent:  field[1],
		device:  field[2],
		root:    unescapeOctal(field[3]),
		point:   unescapeOctal(field[4]),
		options: field[5],
		fstype:  unescapeOctal(field[dash+1]),
		source:  unescapeOctal(field[dash+2]),
		super:   unescapeOctal(field[dash+3]),
	}
	return m, strings.HasPrefix(m.point, "/")
}

// unescapeOctal undoes what the kernel does to blanks, line ends and backslashes: a backslash and three octal digits.
func unescapeOctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] <= '3' && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return '0' <= c && c <= '7' }

// topmost is the visible one of the mounts stacked at exactly this absolute path; nil: none.
func topmost(all []mount, path string) *mount {
	covered := make(map[string]bool)
	for _, m := range all {
		if m.point == path {
			covered[m.parent] = true
		}
	}
	for _, m := range all {
		if m.point == path && !covered[m.id] {
			return &m
		}
	}
	return nil
}
