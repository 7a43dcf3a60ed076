package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cvar is a setting of the engine or of a plugin.
type cvar struct {
	name   string // in lower case
	value  string
	secret bool // never shown, neither here nor in A2S_RULES
}

const (
	// maxExecs bounds how many files one command may execute, those that its files execute included.
	maxExecs = 256
	// maxConfig is the longest cfg file that is read, in bytes.
	maxConfig = 1 << 20
)

func defaultCvars() map[string]*cvar {
	cvars := make(map[string]*cvar)
	for _, c := range []cvar{
		{name: "hostname", value: "Left 4 Dead 2"},
		{name: "mp_gamemode", value: "coop"},
		{name: "rcon_password", secret: true},
		{name: "sv_allow_lobby_connect_only", value: "1"},
		{name: "sv_cheats", value: "0"},
		{name: "sv_consistency", value: "1"},
		{name: "sv_contact"},
		{name: "sv_downloadurl"},
		{name: "sv_gravity", value: "800"},
		{name: "sv_hibernate_when_empty", value: "1"},
		{name: "sv_lan", value: "0"},
		{name: "sv_password", secret: true},
		{name: "sv_pure", value: "0"},
		{name: "sv_rcon_banpenalty", value: "0"},
		{name: "sv_rcon_maxfailures", value: "10"},
		{name: "sv_rcon_minfailures", value: "5"},
		{name: "sv_rcon_minfailuretime", value: "30"},
		{name: "sv_region", value: "-1"},
		{name: "sv_steamgroup"},
		{name: "sv_tags"},
		{name: "sv_visiblemaxplayers", value: "-1"},
		{name: "z_difficulty", value: "Normal"},
	} {
		cvars[c.name] = &c
	}
	return cvars
}

func (c *cvar) String() string {
	value := c.value
	if c.secret {
		value = "***PROTECTED***"
	}
	return fmt.Sprintf("%q = %q", c.name, value)
}

// value is a cvar's value, "" for an unknown one.
func (s *server) value(name string) string {
	if c := s.cvars[name]; c != nil {
		return c.value
	}
	return ""
}

// number is a cvar's value as a number, 0 when it is none.
func (s *server) number(name string) int {
	n, _ := strconv.Atoi(s.value(name))
	return n
}

// set gives a cvar its value, the last one wins. Every name, in lower case, is a cvar here: this server knows no
// plugin's names.
func (s *server) set(name, value string) {
	c := s.cvars[name]
	if c == nil {
		c = &cvar{name: name}
		s.cvars[name] = c
	}
	changed := c.value != value
	c.value = value
	s.printf("%v", c)
	if changed && name == "rcon_password" {
		s.dropSessions()
	}
}

// execute runs text that came from outside: RCON, the console, a fault file.
func (s *server) execute(text string) {
	s.restartExecs()
	for _, c := range splitCommands(text) {
		s.runCommand(c)
	}
}

func (s *server) restartExecs() {
	s.execs, s.execLeft = nil, maxExecs
}

// execServerConfig is what the engine does at every map.
func (s *server) execServerConfig() {
	s.printf("Executing dedicated server config file server.cfg")
	s.exec("server.cfg")
}

// exec executes a file of the game's cfg directory in place. Files outside it are refused, and loops are cut.
func (s *server) exec(name string) {
	if filepath.Ext(name) == "" {
		name += ".cfg"
	}
	if !filepath.IsLocal(name) {
		s.printf("exec %s: invalid path", name)
		return
	}
	name = filepath.Clean(name)
	if slices.Contains(s.execs, name) {
		s.printf("exec %s: loop, executed by itself through %s", name, strings.Join(s.execs, ", "))
		return
	}
	if s.execLeft == 0 {
		s.printf("exec %s: more than %d files", name, maxExecs)
		return
	}
	s.execLeft--
	file, err := os.Open(filepath.Join(s.game, "cfg", name))
	if err != nil {
		s.printf("exec: couldn't exec %s: %v", name, errors.Unwrap(err))
		return
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfig))
	if err != nil {
		s.printf("exec: couldn't exec %s: %v", name, errors.Unwrap(err))
		return
	}
	s.printf("Executing %s", name)
	s.execs = append(s.execs, name)
	for _, c := range splitCommands(string(text)) {
		s.runCommand(c)
	}
	s.execs = s.execs[:len(s.execs)-1]
}

// runCommand runs one console command.
func (s *server) runCommand(text string) {
	c := parseCommand(text)
	arg := func(i int) string {
		if i < len(c.args) {
			return c.args[i]
		}
		return ""
	}
	switch c.name {
	case "":
	case "exec":
		if arg(0) == "" {
			s.printf("exec <filename>: execute a script file")
			return
		}
		s.exec(arg(0))
	case "echo":
		s.printf("%s", strings.Join(c.args, " "))
	case "changelevel":
		// Map changes that a cfg file asks for would come round again at the new map.
		if s.mapName == "" || len(s.execs) > 0 {
			s.printf("Can't changelevel, not running server")
			return
		}
		fallthrough
	case "map":
		if arg(0) == "" || len(s.execs) > 0 {
			s.printf("Usage: %s <mapname> [game mode]", c.name)
			return
		}
		s.loadMap(c.args)
	case "say":
		s.printf("Console: %s", c.value())
		s.log("\"Console<0><Console><Console>\" say %q", c.value())
	case "status":
		s.status()
	case "stats":
		s.stats()
	case "users":
		s.users()
	case "kick", "kickid":
		s.kick(c.name, arg(0))
	case "log":
		s.logCommand(arg(0))
	case "cvarlist":
		s.cvarlist(arg(0))
	case "banid":
		s.userBans = append(s.userBans, strings.Join(c.args[min(1, len(c.args)):], ""))
	case "addip":
		s.addIP(arg(0), arg(1))
	case "removeip":
		if addr, err := netip.ParseAddr(arg(0)); err == nil {
			delete(s.bans, addr)
		}
	case "writeid":
		s.writeIDs()
	case "writeip":
		s.writeIPs()
	case "sm_cvar":
		s.smCvar(c)
	case "quit", "exit":
		s.quit(c.name)
	case "path":
		s.readFile(c.value())
	case "standin":
		s.runFaults(c.rest)
	default:
		if c.rest != "" {
			s.set(c.name, c.value())
			return
		}
		if known := s.cvars[c.name]; known != nil {
			s.printf("%v", known)
			return
		}
		s.printf("Unknown command %q", c.name)
	}
}

// smCvar is SourceMod's command for cvars that the console hides; without SourceMod nobody knows it.
func (s *server) smCvar(c command) {
	if !s.hasSourceMod() {
		s.printf("Unknown command %q", c.name)
		return
	}
	inner := parseCommand(c.rest)
	known := s.cvars[inner.name]
	switch {
	case inner.name == "":
		s.printf("[SM] Usage: sm_cvar <name|protect> [value]")
	case inner.rest != "":
		s.set(inner.name, inner.value())
	case known != nil:
		s.printf("[SM] Value of cvar %v", known)
	default:
		s.printf("[SM] Unable to find cvar: %s", inner.name)
	}
}

// status prints times as the game does, with hours only when there are any.
func (s *server) status() {
	s.printf("hostname: %s", s.value("hostname"))
	s.printf("version : %s 9000 secure  (unknown)", s.version())
	s.printf("udp/ip  : %v [ public n/a ]", s.udp.LocalAddr())
	s.printf("os      : Linux Dedicated")
	s.printf("map     : %s", s.mapName)
	hibernating := "not hibernating"
	if len(s.players) == 0 {
		hibernating = "hibernating"
	}
	s.printf("players : %d humans, 0 bots (%d max) (%s) (unreserved)", len(s.players), s.opt.maxPlayers, hibernating)
	s.printf("")
	s.printf("# userid name uniqueid connected ping loss state rate adr")
	for _, p := range s.players {
		d := int(time.Since(p.joined).Seconds())
		connected := fmt.Sprintf("%02d:%02d", d/60, d%60)
		if d >= 3600 {
			connected = fmt.Sprintf("%d:%02d:%02d", d/3600, d/60%60, d%60)
		}
		s.printf("#%3d %d %q STEAM_1:0:%d %s 50 0 active 30000 192.0.2.%d:27005", p.id, p.id, p.name, p.id, connected, p.id%256)
	}
	s.printf("#end")
}

func (s *server) stats() {
	s.printf("CPU    In (KB/s)  Out (KB/s)  Uptime  Map changes  FPS      Players  Connects")
	s.printf("%-6.2f %-10.2f %-11.2f %-7d %-12d %-8.2f %-8d %d", 1.0, 0.0, 0.0,
		int(time.Since(s.started).Minutes()), 1, 30.0, len(s.players), s.lastUser)
}

func (s *server) users() {
	s.printf("<slot:userid:\"name\">")
	for i, p := range s.players {
		s.printf("%d:%d:%q", i, p.id, p.name)
	}
	s.printf("%d users", len(s.players))
}

func (s *server) kick(verb, who string) {
	for i, p := range s.players {
		if verb == "kick" && p.name == who || verb == "kickid" && strconv.Itoa(p.id) == who {
			s.players = slices.Delete(s.players, i, i+1)
			s.printf("Kicked %q", p.name)
			s.log("\"%s<%d><STEAM_1:0:%d><>\" disconnected (reason \"Kicked by Console\")", p.name, p.id, p.id)
			return
		}
	}
	s.printf("%s: no player %q", verb, who)
}

func (s *server) logCommand(arg string) {
	switch arg {
	case "on", "1":
		s.openLog()
	case "off", "0":
		s.closeLog()
		s.printf("Server logging disabled.")
	default:
		state := "not currently logging"
		if s.logFile != nil {
			state = "currently logging"
		}
		s.printf("Usage:  log < on | off >\n%s", state)
	}
}

func (s *server) cvarlist(prefix string) {
	var names []string
	for name := range s.cvars {
		if strings.HasPrefix(name, strings.ToLower(prefix)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	s.printf("cvar list\n--------------")
	for _, name := range names {
		s.printf("%v", s.cvars[name])
	}
	s.printf("--------------\n%d total convars/concommands", len(names))
}

// addIP bans an address for so many minutes, 0 for ever.
func (s *server) addIP(minutes, ip string) {
	addr, err := netip.ParseAddr(ip)
	n, e := strconv.Atoi(minutes)
	if err != nil || e != nil || n < 0 {
		s.printf("Usage: addip <minutes> <ipaddress>")
		return
	}
	s.ban(addr, n)
}

func (s *server) ban(addr netip.Addr, minutes int) {
	var until time.Time
	if minutes > 0 {
		until = time.Now().Add(time.Duration(minutes) * time.Minute)
	}
	s.bans[addr] = until
}

// banned forgets a ban whose time is over.
func (s *server) banned(addr netip.Addr) bool {
	until, found := s.bans[addr]
	if found && !until.IsZero() && time.Now().After(until) {
		delete(s.bans, addr)
		return false
	}
	return found
}

// readFile prints a file as the running server sees it; a relative name is one of the game's directory.
func (s *server) readFile(name string) {
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.game, path)
	}
	file, err := os.Open(path)
	if err != nil {
		s.printf("path %s: %v", name, errors.Unwrap(err))
		return
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfig))
	if err != nil {
		s.printf("path %s: %v", name, errors.Unwrap(err))
		return
	}
	s.printf("%s", strings.TrimSuffix(string(text), "\n"))
}
