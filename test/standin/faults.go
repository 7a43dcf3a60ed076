package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Faults are lines of words, "crash SEGV after 2s". They come from the environment, from the files in faultDirectory,
// and from the console command "standin". README.md tells what each of them does.

const (
	// faultDirectory lies in the game's directory. Names that begin with a dot are the server's own.
	faultDirectory = "standin"
	crashCount     = faultDirectory + "/.crashes"
	crashFile      = faultDirectory + "/crash"
)

// forever is longer than any server runs.
const forever = 100 * 365 * 24 * time.Hour

// fileState tells whether a fault file is still the one that was run.
type fileState struct {
	inode   uint64
	size    int64
	changed time.Time
}

// startFaults reads the faults that are there when the server starts. Those that concern the start itself take effect
// at once; the others are returned, for when the server is up. From then on the fault files are watched.
func (s *server) startFaults(environment string) (later []string) {
	if err := s.watchFaultFiles(); err != nil {
		s.printf("standin: cannot watch %s: %v", faultDirectory, err)
	}
	for _, text := range append(faultLines(environment), s.changedFaults()...) {
		switch words := strings.Fields(text); words[0] {
		case "crash", "ignore-sigint", "slow-start":
			s.runFaults(text)
		default:
			later = append(later, text)
		}
	}
	return later
}

// faultLines takes text apart at line ends and semicolons, with one blank between words; lines that begin with # are
// comments.
func faultLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, fault := range strings.Split(line, ";") {
			if words := strings.Fields(fault); len(words) > 0 {
				lines = append(lines, strings.Join(words, " "))
			}
		}
	}
	return lines
}

// watchFaultFiles runs fault files when they are written or moved into their directory, which may come later too.
func (s *server) watchFaultFiles() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	// The directory need not be there yet: then its creation is seen in the game's.
	watch := func() {
		unix.InotifyAddWatch(fd, filepath.Join(s.game, faultDirectory), unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	}
	if _, err := unix.InotifyAddWatch(fd, s.game, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return err
	}
	watch()
	events := os.NewFile(uintptr(fd), "inotify")
	go func() {
		buffer := make([]byte, 64<<10)
		for {
			if _, err := events.Read(buffer); err != nil {
				return
			}
			watch()
			s.lock()
			for _, text := range s.changedFaults() {
				s.runFaults(text)
			}
			s.unlock()
		}
	}()
	return nil
}

// changedFaults returns the lines of all fault files that are new or changed, by the order of the files' names.
func (s *server) changedFaults() []string {
	dir := filepath.Join(s.game, faultDirectory)
	entries, _ := os.ReadDir(dir)
	seen := make(map[string]fileState)
	var lines []string
	for _, entry := range entries {
		name := entry.Name()
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || !info.Mode().IsRegular() || strings.HasPrefix(name, ".") {
			continue
		}
		state := fileState{info.Sys().(*syscall.Stat_t).Ino, info.Size(), info.ModTime()}
		seen[name] = state
		if s.seenFaultFiles[name] == state {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			s.printf("standin: %v", err)
			continue
		}
		lines = append(lines, faultLines(string(text))...)
	}
	s.seenFaultFiles = seen
	return lines
}

// runFaults runs the faults of a text and prints what is wrong with them.
func (s *server) runFaults(text string) {
	for _, line := range faultLines(text) {
		s.printf("standin: %s", line)
		if err := s.runFault(strings.Fields(line)); err != nil {
			s.printf("standin: cannot %s: %v", line, err)
		}
	}
}

var errUsage = errors.New("wrong arguments")

func (s *server) runFault(words []string) error {
	verb, args := words[0], words[1:]
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch verb {
	case "crash":
		return s.crash(args)
	case "hang":
		duration := forever
		if arg(0) != "" {
			var err error
			if duration, err = time.ParseDuration(arg(0)); err != nil {
				return err
			}
		}
		// The lock is held meanwhile: nobody gets an answer, no signal is heeded.
		<-time.After(duration)
		return nil
	case "ignore-sigint":
		on, err := parseSwitch(arg(0))
		s.ignoreInterrupt.Store(on)
		return err
	case "mute-a2s":
		on, err := parseSwitch(arg(0))
		s.muteA2S = on
		return err
	case "deny-challenge":
		on, err := parseSwitch(arg(0))
		s.denyChallenge = on
		return err
	case "slow-start":
		if s.udp != nil {
			return errors.New("the server has started already")
		}
		delay, err := time.ParseDuration(arg(0))
		s.startDelay = delay
		return err
	case "eat-memory":
		n, err := parseSize(arg(0))
		if err != nil {
			return err
		}
		return s.eatMemory(n)
	case "fill-disk":
		return s.fillDisk(args)
	case "players":
		n, err := strconv.Atoi(arg(0))
		if err != nil || n < 0 || n > 255 {
			return errUsage
		}
		s.setPlayers(n)
		return nil
	case "spam":
		n, err := strconv.Atoi(arg(0))
		if err != nil {
			return errUsage
		}
		for i := range n {
			s.out.printf("standin: spam line %d of %d: %s", i+1, n, strings.Repeat("spam ", 20))
		}
		return nil
	case "plant":
		return s.plant(args)
	case "clear":
		s.ignoreInterrupt.Store(false)
		s.muteA2S, s.denyChallenge = false, false
		s.setPlayers(0)
		return s.eatMemory(0)
	}
	return s.probe(verb, args)
}

// probe does one thing from within the server's process and sandbox, with its rights.
func (s *server) probe(verb string, args []string) error {
	if len(args) == 0 {
		return errors.New("unknown command, or arguments missing")
	}
	path := args[0]
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.game, path)
	}
	switch verb {
	case "read":
		s.readFile(args[0])
		return nil
	case "list":
		entries, err := os.ReadDir(path)
		for _, entry := range entries {
			s.printf("%q", entry.Name())
		}
		return err
	case "write":
		return s.writeFile(path, strings.Join(args[1:], " "))
	case "remove":
		return os.RemoveAll(path)
	case "dial":
		if len(args) != 2 {
			return errUsage
		}
		conn, err := net.DialTimeout(args[0], args[1], 5*time.Second)
		if err != nil {
			return err
		}
		s.printf("connected to %s", args[1])
		return conn.Close()
	case "kill":
		pid, err := strconv.Atoi(args[0])
		if err != nil || len(args) != 2 {
			return errUsage
		}
		sig, err := parseSignal(args[1])
		if err != nil {
			return err
		}
		return unix.Kill(pid, sig)
	}
	return errors.New("unknown command")
}

// crash ends the process: SIGNAL or "exit N", then "after DURATION" and "times N" in any order. With times, this start
// and the next ones crash, until it was N; the count is kept among the fault files.
func (s *server) crash(args []string) error {
	text := "crash " + strings.Join(args, " ")
	if len(args) == 0 {
		return errUsage
	}
	var end func()
	if args[0] == "exit" {
		if len(args) < 2 {
			return errUsage
		}
		status, err := strconv.ParseUint(args[1], 10, 8)
		if err != nil {
			return errUsage
		}
		end = func() { os.Exit(int(status)) }
		args = args[2:]
	} else {
		sig, err := parseSignal(args[0])
		if err != nil {
			return err
		}
		end = func() { die(sig) }
		args = args[1:]
	}
	after, times := time.Duration(0), -1
	for ; len(args) > 0; args = args[2:] {
		var err error
		switch {
		case len(args) < 2:
			err = errUsage
		case args[0] == "after":
			after, err = time.ParseDuration(args[1])
		case args[0] == "times":
			times, err = strconv.Atoi(args[1])
		default:
			err = errUsage
		}
		if err != nil {
			return err
		}
	}
	if times >= 0 {
		// The next starts must find it too. Once it is a file, the watch runs it.
		if !s.isStored(text) {
			return s.writeFile(crashFile, text)
		}
		count := s.crashes(text)
		if count >= times {
			s.printf("standin: crashed %d times", count)
			return nil
		}
		if err := s.writeFile(crashCount, fmt.Sprintf("%d %s", count+1, text)); err != nil {
			return err
		}
	}
	if after == 0 {
		end()
	}
	time.AfterFunc(after, end)
	return nil
}

// crashes is how often the server crashed by this command.
func (s *server) crashes(text string) int {
	data, _ := os.ReadFile(filepath.Join(s.game, crashCount))
	number, of, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	if of != text {
		return 0
	}
	n, _ := strconv.Atoi(number)
	return n
}

// isStored says whether the next start of the server finds a fault.
func (s *server) isStored(text string) bool {
	if slices.Contains(faultLines(os.Getenv("LEFT4_STANDIN")), text) {
		return true
	}
	for name := range s.seenFaultFiles {
		data, err := os.ReadFile(filepath.Join(s.game, faultDirectory, name))
		if err == nil && slices.Contains(faultLines(string(data)), text) {
			return true
		}
	}
	return false
}

// writeFile writes a line to a file of the game, whose directory it creates.
func (s *server) writeFile(name, line string) error {
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.game, name)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(line+"\n"), 0o644)
}

// die ends the process by a signal. The Go runtime handles signals like SIGSEGV itself, and would end with status 2.
func die(sig syscall.Signal) {
	// All zero is struct sigaction with SIG_DFL, on every architecture; 8 is the size of the kernel's signal set.
	var action [64]byte
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	unix.Kill(os.Getpid(), sig)
	<-time.After(forever)
}

// eatMemory takes n bytes of memory that stay in use; 0 gives all back.
func (s *server) eatMemory(n int64) error {
	if n == 0 {
		for _, piece := range s.eaten {
			unix.Munmap(piece)
		}
		s.eaten = nil
		return nil
	}
	const step = 16 << 20
	for ; n > 0; n -= step {
		piece, err := unix.Mmap(-1, 0, int(min(n, step)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return err
		}
		s.eaten = append(s.eaten, piece)
		for i := 0; i < len(piece); i += os.Getpagesize() {
			piece[i] = 1
		}
	}
	return nil
}

// fillDisk writes [PATH] [BYTES] in the background and prints how it ended: standin.fill in the game's directory, until
// nothing goes any more.
func (s *server) fillDisk(args []string) error {
	path, limit := "standin.fill", int64(-1)
	if len(args) > 0 {
		if n, err := parseSize(args[len(args)-1]); err == nil {
			limit = n
			args = args[:len(args)-1]
		}
	}
	if len(args) > 1 {
		return errUsage
	}
	if len(args) == 1 {
		path = args[0]
	}
	full := path
	if !filepath.IsAbs(full) {
		full = filepath.Join(s.game, full)
	}
	file, err := os.OpenFile(full, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	go func() {
		defer file.Close()
		written, err := fill(file, limit)
		reason := "done"
		if err != nil {
			reason = errors.Unwrap(err).Error()
		}
		s.out.printf("standin: fill-disk %s: %d bytes, %s", path, written, reason)
	}()
	return nil
}

// fill writes up to limit bytes, or without end if it is negative, down to the last byte that goes in.
func fill(w io.Writer, limit int64) (written int64, err error) {
	block := slices.Repeat([]byte("standin\n"), 1<<17)
	for size := int64(len(block)); size > 0; {
		if limit >= 0 {
			size = min(size, limit-written)
		}
		var n int
		n, err = w.Write(block[:size])
		written += int64(n)
		if err != nil {
			size /= 16
		}
	}
	return written, err
}

// setPlayers makes it n players; those who were there stay.
func (s *server) setPlayers(n int) {
	for len(s.players) < n {
		s.lastUser++
		s.players = append(s.players, player{id: s.lastUser, name: fmt.Sprintf("Player %d", s.lastUser), joined: time.Now()})
	}
	s.players = s.players[:n]
}

func parseSwitch(word string) (bool, error) {
	switch word {
	case "", "on":
		return true, nil
	case "off":
		return false, nil
	}
	return false, errUsage
}

// parseSize reads a number of bytes, with K, M or G behind it for powers of 1024.
func parseSize(word string) (int64, error) {
	shift := 0
	if word != "" {
		if i := strings.IndexByte("KMG", word[len(word)-1]); i >= 0 {
			shift = 10 * (i + 1)
			word = word[:len(word)-1]
		}
	}
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return 0, errUsage
	}
	return n << shift, nil
}

// parseSignal knows SEGV, SIGSEGV and 11.
func parseSignal(word string) (syscall.Signal, error) {
	if n, err := strconv.ParseUint(word, 10, 8); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n), nil
	}
	word = strings.ToUpper(word)
	if sig := unix.SignalNum("SIG" + strings.TrimPrefix(word, "SIG")); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("%s is no signal", word)
}
