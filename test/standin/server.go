package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/test/steam/vpk"
)

const appID = 550

// portTries is how many ports the engine tries in a row without -strictportbind.
const portTries = 32

// server is the game. Like the engine it has one thread: whoever touches a field below mu holds it, and while it is
// held, nobody gets an answer.
type server struct {
	opt     options
	root    string // working directory, the game's installation
	game    string // directory of the game below root
	out     *console
	started time.Time
	ended   chan int // the exit status

	ignoreInterrupt atomic.Bool

	mu       sync.Mutex
	reply    *strings.Builder // where a command from RCON has its output copied to
	cvars    map[string]*cvar
	execs    []string // the files that are being executed, outermost first
	execLeft int      // how many more files the command that came from outside may execute
	mapName  string
	packed   map[string]bool // files in the archives of addons
	players  []player
	lastUser int
	logFile  *os.File
	bans     map[netip.Addr]time.Time // until when; the zero time: for ever
	userBans []string
	failures map[netip.Addr][]time.Time
	sessions map[net.Conn]bool
	tcp      net.Listener
	udp      *net.UDPConn
	port     int
	secret   [16]byte // what A2S challenges are made from

	startDelay     time.Duration
	muteA2S        bool
	denyChallenge  bool
	eaten          [][]byte
	seenFaultFiles map[string]fileState
}

type player struct {
	id     int
	name   string
	score  int32
	joined time.Time
}

// console is the standard output, one whole line at a time.
type console struct {
	mu sync.Mutex
	w  io.Writer
}

func (c *console) printf(format string, args ...any) {
	line := fmt.Sprintf(format, args...) + "\n"
	c.mu.Lock()
	defer c.mu.Unlock()
	io.WriteString(c.w, line)
}

func newServer(opt options, stdout io.Writer) *server {
	root, err := os.Getwd()
	if err != nil {
		root = "."
	}
	s := &server{
		opt:            opt,
		root:           root,
		game:           filepath.Join(root, opt.game),
		out:            &console{w: stdout},
		started:        time.Now(),
		ended:          make(chan int, 1),
		cvars:          defaultCvars(),
		bans:           make(map[netip.Addr]time.Time),
		failures:       make(map[netip.Addr][]time.Time),
		sessions:       make(map[net.Conn]bool),
		seenFaultFiles: make(map[string]fileState),
		packed:         make(map[string]bool),
	}
	rand.Read(s.secret[:])
	return s
}

func (s *server) lock()   { s.mu.Lock() }
func (s *server) unlock() { s.mu.Unlock() }

// printf prints to the console, and to the RCON client whose command is being run.
func (s *server) printf(format string, args ...any) {
	s.out.printf(format, args...)
	if s.reply != nil {
		fmt.Fprintf(s.reply, format+"\n", args...)
	}
}

// checkHost fails where the real server cannot run: without its game, and where code that was written to may not be
// executed, since its 32-bit libraries have text relocations. What only costs it the master server is printed.
func (s *server) checkHost() error {
	if _, err := os.Stat(filepath.Join(s.game, "gameinfo.txt")); err != nil {
		return fmt.Errorf("cannot find %s/gameinfo.txt: %w", s.opt.game, errors.Unwrap(err))
	}
	code, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("cannot map memory: %w", err)
	}
	defer unix.Munmap(code)
	if err := unix.Mprotect(code, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		return fmt.Errorf("cannot restore segment prot after reloc: %w", err)
	}
	for _, name := range []string{"sdk32", "sdk64"} {
		if _, err := os.Stat(filepath.Join(os.Getenv("HOME"), ".steam", name, "steamclient.so")); err != nil {
			s.out.printf("[S_API FAIL] SteamAPI_Init() failed; no .steam/%s/steamclient.so below HOME. LAN only.", name)
		}
	}
	if _, err := os.ReadFile("/proc/cpuinfo"); err != nil {
		s.out.printf("[S_API FAIL] SteamAPI_Init() failed; /proc/cpuinfo is not readable. LAN only.")
	}
	return nil
}

// listen binds the game's port for UDP and TCP. SO_REUSEADDR is set on TCP only, so that a port with connections of a
// previous process can be had, but not one where somebody listens.
func (s *server) listen() error {
	ip := net.IPv4zero
	if s.opt.ip != "" {
		if ip = net.ParseIP(s.opt.ip).To4(); ip == nil {
			return fmt.Errorf("cannot allocate dedicated server IP %s: not an IPv4 address", s.opt.ip)
		}
	}
	tries := portTries
	if s.opt.strictPort {
		tries = 1
	}
	var err error
	for port := s.opt.port; port < s.opt.port+tries && port < 1<<16; port++ {
		if s.udp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: ip, Port: port}); err == nil {
			s.tcp, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: ip, Port: port})
			if err == nil {
				s.port = port
				s.printf("Network: IP %v, dedicated Yes, ports %d SV", ip, port)
				return nil
			}
			s.udp.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		s.out.printf("WARNING: Port %d was unavailable", port)
	}
	return fmt.Errorf("cannot allocate dedicated server port: %w", err)
}

// play does what a server does between its first breath and its first player, and begins to answer. The lock is held
// when it is called; it releases it.
func (s *server) play(later []string) {
	defer s.unlock()
	go s.serveA2S()
	go s.serveRcon()
	s.loadAddons()
	s.restartExecs()
	for _, text := range s.opt.sets {
		if name := parseCommand(text).name; name == "exec" || name == "servercfgfile" {
			s.printf("standin: +%s on the command line has no effect", text)
			continue
		}
		s.runCommand(text)
	}
	if len(s.opt.mapArgs) > 0 {
		s.loadMap(s.opt.mapArgs)
	} else {
		s.execServerConfig()
	}
	for _, text := range later {
		s.runFaults(text)
	}
	s.printf("standin: ready on port %d", s.port)
}

// quit ends the server in an orderly manner, with status 0.
func (s *server) quit(reason string) {
	s.printf("Server shutting down (%s)", reason)
	s.writeBans()
	s.closeLog()
	select {
	case s.ended <- 0:
	default:
	}
}

// loadMap makes a map the current one, whereupon the engine reads server.cfg anew. A missing map leaves all as it is,
// but a server that has no map yet at least reads its configuration.
func (s *server) loadMap(args []string) {
	name := strings.ToLower(args[0])
	file := "maps/" + filepath.Base(name) + ".bsp"
	if _, err := os.Stat(filepath.Join(s.game, file)); err != nil && !s.packed[file] {
		s.printf("map load failed: %s not found or invalid", name)
		if s.mapName == "" {
			s.execServerConfig()
		}
		return
	}
	s.mapName = name
	s.printf("---- Host_NewGame: %s ----", name)
	if len(args) > 1 {
		s.set("mp_gamemode", args[1])
	}
	if s.logFile != nil {
		s.openLog()
	}
	s.log("Loading map %q", name)
	s.execServerConfig()
	s.logSourceMod()
	s.log("Started map %q", name)
}

// unpack notes what an archive has.
func (s *server) unpack(name string) {
	f, err := os.Open(filepath.Join(s.game, name))
	if err != nil {
		return
	}
	defer f.Close()
	for _, file := range vpk.Names(f) {
		s.packed[strings.ToLower(file)] = true
	}
}

// loadAddons prints what the engine would load, by name: archives and plugins.
func (s *server) loadAddons() {
	entries, err := os.ReadDir(filepath.Join(s.game, "addons"))
	if err != nil {
		return
	}
	for _, entry := range entries {
		path := "addons/" + entry.Name()
		if info, err := os.Stat(filepath.Join(s.game, path)); err != nil || !info.Mode().IsRegular() {
			continue
		}
		switch filepath.Ext(path) {
		case ".vpk":
			s.printf("Loaded addon %q", path)
			s.unpack(path)
		case ".vdf":
			s.printf("Loaded plugin %q", path)
		}
	}
}

// hasSourceMod says whether SourceMod would be running.
func (s *server) hasSourceMod() bool {
	info, err := os.Stat(filepath.Join(s.game, "addons/sourcemod"))
	return err == nil && info.IsDir()
}

// logSourceMod writes SourceMod's own logs.
func (s *server) logSourceMod() {
	if !s.hasSourceMod() {
		return
	}
	now := time.Now()
	for _, prefix := range []string{"L", "errors_"} {
		s.append("addons/sourcemod/logs/"+prefix+now.Format("20060102")+".log",
			fmt.Sprintf("L %s: -------- Mapchange to %s --------\n", now.Format(logTime), s.mapName))
	}
}

// logTime is how the engine writes times in its logs.
const logTime = "01/02/2006 - 15:04:05"

// openLog begins a new log file, as the engine does at "log on" and for every map.
func (s *server) openLog() {
	s.closeLog()
	if err := os.MkdirAll(filepath.Join(s.game, "logs"), 0o755); err != nil {
		s.printf("cannot log: %v", err)
		return
	}
	day := time.Now().Format("0102")
	for i := range 1000 {
		name := fmt.Sprintf("logs/L%s%03d.log", day, i)
		file, err := os.OpenFile(filepath.Join(s.game, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o644)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			s.printf("cannot log: %v", err)
			return
		}
		s.logFile = file
		s.printf("Server logging data to file %s", name)
		s.log("Log file started (file %q) (game %q) (version %q)", name, s.game, s.version())
		return
	}
	s.printf("cannot log: no free file name")
}

func (s *server) closeLog() {
	if s.logFile != nil {
		s.log("Log file closed")
		s.logFile.Close()
		s.logFile = nil
	}
}

// log writes a line to the console and, after "log on", to the log file.
func (s *server) log(format string, args ...any) {
	line := fmt.Sprintf("L %s: %s", time.Now().Format(logTime), fmt.Sprintf(format, args...))
	s.out.printf("%s", line)
	if s.logFile != nil {
		if _, err := s.logFile.WriteString(line + "\n"); err != nil {
			s.out.printf("cannot log: %v", err)
		}
	}
}

// append adds text to a file of the game, creating it and its directory.
func (s *server) append(name, text string) {
	path := filepath.Join(s.game, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		var file *os.File
		if file, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err == nil {
			_, err = file.WriteString(text)
			file.Close()
		}
	}
	if err != nil {
		s.printf("cannot write %s: %v", name, err)
	}
}

// writeBans writes both lists of bans, as the commands writeid and writeip do.
func (s *server) writeBans() {
	s.writeIDs()
	s.writeIPs()
}

func (s *server) writeIDs() {
	var text strings.Builder
	for _, id := range s.userBans {
		fmt.Fprintf(&text, "banid 0 %s\r\n", id)
	}
	s.writeConfig("banned_user.cfg", text.String())
}

// writeIPs writes permanent bans only: the others end with the server.
func (s *server) writeIPs() {
	var lines []string
	for addr, until := range s.bans {
		if until.IsZero() {
			lines = append(lines, fmt.Sprintf("addip 0 %s\r\n", addr))
		}
	}
	slices.Sort(lines)
	s.writeConfig("banned_ip.cfg", strings.Join(lines, ""))
}

func (s *server) writeConfig(name, text string) {
	if err := os.WriteFile(filepath.Join(s.game, "cfg", name), []byte(text), 0o644); err != nil {
		s.printf("Couldn't write %s: %v", name, err)
	}
}

// version is the PatchVersion of the game's steam.inf: it tells which revision of the game is running.
func (s *server) version() string {
	data, err := os.ReadFile(filepath.Join(s.game, "steam.inf"))
	if err == nil {
		for line := range strings.Lines(string(data)) {
			if value, found := strings.CutPrefix(trim(line), "PatchVersion="); found {
				return value
			}
		}
	}
	return "0.0.0.0"
}
