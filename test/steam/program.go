package steam

import (
	"bufio"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Program runs the program that is called by this name, and returns its exit status: steamcmd or DepotDownloader.
func Program(name string, args []string) int {
	p := &program{out: newOutput(os.Stdout), home: os.Getenv("HOME"), client: Client{os.Getenv("LEFT4_STEAM")}}
	defer p.out.flush()
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p.dir = filepath.Dir(self)
	if p.client.Address == "" {
		p.client.Address = DefaultAddress
	}
	if name == "DepotDownloader" {
		return p.depotDownloader(args)
	}
	return p.steamcmd(args)
}

type program struct {
	out    *output
	dir    string // that the program lies in
	home   string
	client Client
	orders orders
}

// Output is held back until it is 4096 bytes, unless it goes to a terminal, as the C library does it and as is told of SteamCMD:
// https://github.com/GameServerManagers/LinuxGSM/issues/3655. What a killed program has held back is lost.
type output struct {
	w   *bufio.Writer
	tty bool
}

func newOutput(f *os.File) *output {
	return &output{bufio.NewWriterSize(f, 4096), term.IsTerminal(int(f.Fd()))}
}

func (o *output) printf(format string, args ...any) {
	fmt.Fprintf(o.w, format, args...)
	if o.tty {
		o.flush()
	}
}

func (o *output) flush() { _ = o.w.Flush() }

// A misfortune is a fault whose time has come.
type misfortune struct{ *Fault }

func (m misfortune) Error() string { return m.Kind }

// befalls is the fault of this run, if it is of that kind.
func (p *program) befalls(kind string) *Fault {
	if f := p.orders.Fault; f != nil && f.Kind == kind {
		return f
	}
	return nil
}

// strike does what does not come back.
func (p *program) strike(f *Fault) {
	switch f.Kind {
	case "hang":
		time.Sleep(1<<63 - 1)
	case "crash":
		signal := syscall.Signal(f.Code)
		if signal == 0 {
			signal = syscall.SIGSEGV
		}
		die(signal)
	}
}

// die ends the process by a signal. The Go runtime handles signals like SIGSEGV itself, and would end with status 2.
func die(signal syscall.Signal) {
	// All zero is struct sigaction with SIG_DFL, on every architecture; 8 is the size of the kernel's signal set.
	var action [64]byte
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(signal), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	_ = unix.Kill(os.Getpid(), signal)
	time.Sleep(1<<63 - 1)
}

// canExecute says whether memory that was written to may be executed, which code of i386 and a just-in-time compiler need.
func canExecute() error {
	code, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(code) }()
	return unix.Mprotect(code, unix.PROT_READ|unix.PROT_EXEC)
}

// transfer brings a directory to the state of a manifest. Files are fetched into a directory of their own, where a later run finds
// those that are whole and what there is of the others, and are renamed into place when all are there.
type transfer struct {
	p            *program
	dir, staging string
	manifest     manifest
	modes        bool              // executable files are made executable
	changed      []depotFile       // that must be fetched
	gone         []string          // that an older manifest has
	total, done  int64             // bytes
	line         func(file string) // is told after each piece
	fetching     func() error      // is told after each file
}

// plan finds what is to do. Where the last manifest is known and nothing is to be verified, the files themselves are not looked at.
func (t *transfer) plan(last *manifest, verify func(done, total int64)) error {
	known := map[string]string{}
	if last != nil {
		for _, f := range last.Files {
			known[f.Path] = f.SHA1
		}
	}
	var looked int64
	want := map[string]bool{}
	for _, f := range t.manifest.Files {
		want[f.Path] = true
		have := known[f.Path]
		if verify != nil || last == nil {
			sum, err := sumOf(filepath.Join(t.dir, f.Path))
			if err != nil {
				return err
			}
			have = sum
			looked += f.Size
			if verify != nil {
				verify(looked, t.manifest.size())
			}
		}
		if have != f.SHA1 {
			t.changed = append(t.changed, f)
			t.total += f.Size
		}
	}
	if last != nil {
		for _, f := range last.Files {
			if !want[f.Path] {
				t.gone = append(t.gone, f.Path)
			}
		}
	}
	return nil
}

// sumOf is the checksum of a file, "" if there is none.
func sumOf(name string) (string, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha1.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// fetch downloads what has changed. It ends with a misfortune at the percentage that one is meant for.
func (t *transfer) fetch() error {
	piece := make([]byte, max(t.total/64, 4096))
	for _, f := range t.changed {
		name := filepath.Join(t.staging, f.Path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := t.fetchOne(f, name, piece); err != nil {
			return err
		}
		if t.fetching != nil {
			if err := t.fetching(); err != nil {
				return err
			}
		}
	}
	return t.struck()
}

func (t *transfer) fetchOne(f depotFile, name string, piece []byte) error {
	mode := fs.FileMode(0o644)
	if f.Exec && t.modes {
		mode = 0o755
	}
	out, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, mode)
	if err != nil {
		return err
	}
	defer out.Close()
	info, err := out.Stat()
	if err != nil {
		return err
	}
	have := info.Size()
	sum, err := sumOf(name)
	if err != nil {
		return err
	}
	if sum == f.SHA1 {
		t.done += f.Size
		t.line(f.Path)
		return t.struck()
	}
	if have >= f.Size { // of another build
		if err := out.Truncate(0); err != nil {
			return err
		}
		have = 0
	}
	t.done += have
	in, err := t.p.client.open(t.manifest.Platform, f.Path, have)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return err
	}
	for {
		n, err := io.ReadFull(in, piece)
		if _, err := out.Write(piece[:n]); err != nil {
			return err
		}
		if n > 0 {
			t.done += int64(n)
			t.line(f.Path)
			if err := t.struck(); err != nil {
				return err
			}
			time.Sleep(time.Duration(t.p.orders.Pace))
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := out.Chmod(mode); err != nil {
		return err
	}
	sum, err = sumOf(name)
	if err == nil && sum != f.SHA1 {
		// What was there already was of another build.
		_ = os.Remove(name)
		err = errors.New("corrupt")
	}
	return err
}

// struck is the misfortune whose percentage is reached.
func (t *transfer) struck() error {
	f := t.p.orders.Fault
	if f == nil || !slices.Contains([]string{"state", "hang", "crash", "garbage"}, f.Kind) {
		return nil
	}
	if t.total > 0 && t.done*100 < t.total*int64(f.At) {
		return nil
	}
	return misfortune{f}
}

// place renames what was fetched into place and removes what no longer belongs there.
func (t *transfer) place() error {
	for _, f := range t.changed {
		to := filepath.Join(t.dir, f.Path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(t.staging, f.Path), to); err != nil {
			return err
		}
		t.line(f.Path)
	}
	for _, name := range t.gone {
		if err := os.Remove(filepath.Join(t.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for dir := filepath.Dir(name); dir != "." && os.Remove(filepath.Join(t.dir, dir)) == nil; dir = filepath.Dir(dir) {
		}
	}
	return nil
}

func percent(done, total int64) float64 {
	if total == 0 {
		return 0
	}
	return float64(done) * 100 / float64(total)
}

func readManifest(name string) *manifest {
	text, err := os.ReadFile(name)
	m := &manifest{}
	if err != nil || json.Unmarshal(text, m) != nil {
		return nil
	}
	return m
}

func writeManifest(name string, m manifest) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return writeText(name, string(text), 0o644)
}

// value is that of a key in the text of a VDF, the first one; "" = there is none.
func value(text, key string) string {
	for line := range strings.Lines(text) {
		f := strings.Split(line, `"`)
		if len(f) == 5 && f[1] == key {
			return f[3]
		}
	}
	return ""
}
