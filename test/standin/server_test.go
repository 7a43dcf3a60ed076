package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"left4.me/left4/test/standin/gametree"
	"left4.me/left4/test/standin/query"
	"left4.me/left4/test/steam/vpk"
)

// The test program is the server, too, when this is set: so the server runs as a process of its own, and with the race
// detector.
const serve = "LEFT4_STANDIN_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serve) != "" {
		os.Exit(run(os.Args[1:], os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// patience bounds every wait of these tests; nothing is measured by it.
const patience = time.Minute

const password = "secret word"

// game is a game tree and the server that runs in it.
type game struct {
	t    *testing.T
	dir  string
	env  []string
	cmd  *exec.Cmd
	addr string

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and made anew with every line; stays closed after the last
	ended bool
}

// newGame writes a tree whose server.cfg sets a password.
func newGame(t *testing.T) *game {
	t.Helper()
	g := &game{t: t, dir: t.TempDir()}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := gametree.Write(g.dir, program); err != nil {
		t.Fatal(err)
	}
	g.write("cfg/server.cfg", fmt.Sprintf("hostname \"Test server\"\nrcon_password %q\n", password))
	return g
}

func (g *game) path(name string) string { return filepath.Join(g.dir, "left4dead2", name) }

func (g *game) write(name, text string) {
	g.t.Helper()
	if err := os.MkdirAll(filepath.Dir(g.path(name)), 0o755); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(g.path(name), []byte(text), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

func (g *game) read(name string) string {
	g.t.Helper()
	data, err := os.ReadFile(g.path(name))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(data)
}

// launch starts the server through its wrapper, as a unit would.
func (g *game) launch(args ...string) {
	g.t.Helper()
	g.mu.Lock()
	g.lines, g.ended, g.more = nil, false, make(chan struct{})
	g.mu.Unlock()
	g.cmd = exec.Command(filepath.Join(g.dir, "srcds_run"), append([]string{"-game", "left4dead2", "-norestart"}, args...)...)
	g.cmd.Env = append(os.Environ(), serve+"=1", "HOME="+g.dir)
	g.cmd.Env = append(g.cmd.Env, g.env...)
	g.cmd.Stderr = os.Stderr
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	cmd, read := g.cmd, make(chan struct{})
	go func() {
		defer close(read)
		scanner := bufio.NewScanner(stdout)
		for scanner.Scan() {
			g.mu.Lock()
			g.lines = append(g.lines, scanner.Text())
			close(g.more)
			g.more = make(chan struct{})
			g.mu.Unlock()
		}
		g.mu.Lock()
		g.ended = true
		close(g.more)
		g.mu.Unlock()
	}()
	g.t.Cleanup(func() {
		// Not by SIGINT: a clean end would write, and some tests plant links.
		cmd.Process.Kill()
		<-read
		cmd.Wait()
		if g.t.Failed() {
			g.t.Logf("the server printed:\n%s", strings.Join(g.lines, "\n"))
		}
	})
}

// start launches the server and waits until it is up.
func (g *game) start(args ...string) {
	g.t.Helper()
	g.launch(append([]string{"-port", freePort(g.t)}, args...)...)
	line := g.line("standin: ready on port ")
	g.addr = "127.0.0.1:" + line[strings.LastIndex(line, " ")+1:]
}

// line waits for a line with this text and returns it.
func (g *game) line(text string) (line string) {
	g.t.Helper()
	found := g.await(fmt.Sprintf("no line with %q", text), func() bool {
		i := slices.IndexFunc(g.lines, func(line string) bool { return strings.Contains(line, text) })
		if i >= 0 {
			line = g.lines[i]
		}
		return i >= 0
	})
	if !found {
		g.t.Fatalf("the server ended without a line with %q", text)
	}
	return line
}

// await waits until the output of the server fulfils a condition, or ends: then it returns false.
func (g *game) await(complaint string, condition func() bool) bool {
	g.t.Helper()
	timeout := time.After(patience)
	for {
		g.mu.Lock()
		fulfilled, ended, more := condition(), g.ended, g.more
		g.mu.Unlock()
		if fulfilled || ended {
			return fulfilled
		}
		select {
		case <-more:
		case <-timeout:
			g.t.Fatal(complaint)
		}
	}
}

// status waits for the end of the server.
func (g *game) status() syscall.WaitStatus {
	g.t.Helper()
	g.await("the server does not end", func() bool { return false })
	g.cmd.Wait()
	return g.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

func (g *game) wantStatus(want int) {
	g.t.Helper()
	if got := g.status(); !got.Exited() || got.ExitStatus() != want {
		g.t.Fatalf("the server ended with %v %v, not with status %d", got.ExitStatus(), got.Signal(), want)
	}
}

func (g *game) signal(sig syscall.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(sig); err != nil {
		g.t.Fatal(err)
	}
}

func (g *game) rcon(command string) string {
	g.t.Helper()
	text, err := query.Rcon(g.context(), g.addr, password, command)
	if err != nil {
		g.t.Fatal(err)
	}
	return text
}

func (g *game) info() query.ServerInfo {
	g.t.Helper()
	info, err := query.Info(g.context(), g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	return info
}

func (g *game) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	g.t.Cleanup(cancel)
	return ctx
}

var portsGiven atomic.Uint32

// freePort returns a port that is free and that no other test gets. It lies below those that the kernel gives out by
// itself: who finds nobody at it, or comes back to it, must not meet a stranger.
func freePort(t *testing.T) string {
	t.Helper()
	const first, count = 10000, 12000
	for range count {
		// Another run of these tests begins elsewhere.
		port := strconv.Itoa(first + (os.Getpid()*61+int(portsGiven.Add(1)))%count)
		udp, err := net.ListenPacket("udp4", ":"+port)
		if err != nil {
			continue
		}
		tcp, err := net.Listen("tcp4", ":"+port)
		udp.Close()
		if err == nil {
			tcp.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

func TestServerTellsWhatItRuns(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.write("addons/b.vpk", "")
	g.write("addons/metamod.vdf", "")
	g.write("addons/readme.txt", "")
	g.start("-maxplayers", "12", "+map", "c2m1_highway", "versus", "+sv_tags", "from the line")
	info := g.info()
	_, port, _ := net.SplitHostPort(g.addr)
	want := query.ServerInfo{
		Protocol: 17, Name: "Test server", Map: "c2m1_highway", Folder: "left4dead2", Game: "Left 4 Dead 2", AppID: 550,
		MaxPlayers: 12, Type: 'd', OS: 'l', VAC: true, Version: gametree.Version, Keywords: "from the line", GameID: 550,
	}
	want.Port = uint16(portNumber(port))
	if info != want {
		t.Errorf("A2S_INFO: %+v, not %+v", info, want)
	}
	g.line(`Loaded addon "addons/b.vpk"`)
	g.line(`Loaded plugin "addons/metamod.vdf"`)
	if got := g.rcon("mp_gamemode"); got != "\"mp_gamemode\" = \"versus\"\n" {
		t.Errorf("mp_gamemode: %q", got)
	}
	if got := g.rcon("status"); !strings.Contains(got, "hostname: Test server\n") || !strings.Contains(got, "map     : c2m1_highway\n") {
		t.Errorf("status: %q", got)
	}
}

func TestConfigurationIsExecutedInOrder(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.write("cfg/server.cfg", `
hostname "first"; sv_gravity 100
exec one
exec two.cfg
exec missing
exec ../gameinfo.txt
mp_gamemode survival // the last word
rcon_password "`+password+`"`)
	g.write("cfg/one.cfg", "hostname \"one\"\nexec deep/three\nexec server")
	g.write("cfg/deep/three.cfg", "sv_gravity 300\nmp_gamemode coop")
	g.write("cfg/two.cfg", "hostname two words unquoted  \nchangelevel c5m1_waterfront")
	g.start("+map", "c1m1_hotel")
	g.mu.Lock()
	var order []string
	for _, line := range g.lines {
		if strings.HasPrefix(line, "Executing ") || strings.HasPrefix(line, "exec") || strings.HasPrefix(line, `"`) {
			order = append(order, line)
		}
	}
	g.mu.Unlock()
	want := []string{
		"Executing dedicated server config file server.cfg",
		"Executing server.cfg",
		`"hostname" = "first"`,
		`"sv_gravity" = "100"`,
		"Executing one.cfg",
		`"hostname" = "one"`,
		"Executing deep/three.cfg",
		`"sv_gravity" = "300"`,
		`"mp_gamemode" = "coop"`,
		"exec server.cfg: loop, executed by itself through server.cfg, one.cfg",
		"Executing two.cfg",
		`"hostname" = "two words unquoted"`,
		"exec: couldn't exec missing.cfg: no such file or directory",
		"exec ../gameinfo.txt: invalid path",
		`"mp_gamemode" = "survival"`,
		`"rcon_password" = "***PROTECTED***"`,
	}
	if !slices.Equal(order, want) {
		t.Errorf("executed\n%s\nnot\n%s", strings.Join(order, "\n"), strings.Join(want, "\n"))
	}

	// What an administrator changes in a file counts from the next map on.
	g.write("cfg/one.cfg", "hostname changed")
	g.write("cfg/two.cfg", "")
	g.rcon("changelevel c5m2_park")
	if info := g.info(); info.Name != "changed" || info.Map != "c5m2_park" {
		t.Errorf("after the map change: %+v", info)
	}
	if got := g.rcon("changelevel nowhere"); got != "map load failed: nowhere not found or invalid\n" {
		t.Errorf("changelevel to no map: %q", got)
	}
}

func TestMapsOfAddOns(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.write("addons/no.vpk", "no archive")
	g.write("addons/da.vpk", string(vpk.Make([]string{"maps/DeadAir01.bsp"}, nil)))
	g.start("+map", "deadair01")
	if got := g.info().Map; got != "deadair01" {
		t.Errorf("the map is %q", got)
	}
}

func TestExecBombEnds(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	for i := range 40 {
		g.write(fmt.Sprintf("cfg/f%d.cfg", i), fmt.Sprintf("exec f%d\nexec f%d", i+1, i+1))
	}
	g.start("+map", "c1m1_hotel")
	if got := g.rcon("exec f0"); !strings.Contains(got, "more than") {
		t.Errorf("no limit was met: %.500q", got)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.start("+map", "c1m1_hotel")
	for _, c := range []struct{ command, want string }{
		{"echo hello; echo there", "hello\nthere\n"},
		{"sv_gravity", "\"sv_gravity\" = \"800\"\n"},
		{"SV_Gravity 600", "\"sv_gravity\" = \"600\"\n"},
		{"rcon_password", "\"rcon_password\" = \"***PROTECTED***\"\n"},
		{"nonsense", "Unknown command \"nonsense\"\n"},
		{"say \"hello\"", "Console: hello\n"},
		{"sm_cvar x 1", "Unknown command \"sm_cvar\"\n"},
		{"standin players 2", "standin: players 2\n"},
		{"users", "<slot:userid:\"name\">\n0:1:\"Player 1\"\n1:2:\"Player 2\"\n2 users\n"},
		{"kick \"Player 1\"", "Kicked \"Player 1\"\n"},
		{"kickid 2", "Kicked \"Player 2\"\n"},
		{"users", "<slot:userid:\"name\">\n0 users\n"},
		{"path steam.inf", "PatchVersion=2.2.4.3\nProductName=left4dead2\nappID=550\nServerAppID=222860\n"},
		{"path none", "path none: no such file or directory\n"},
		{"standin frobnicate", "standin: frobnicate\nstandin: cannot frobnicate: unknown command, or arguments missing\n"},
		{"standin write data/x some text", "standin: write data/x some text\n"},
		{"path data/x", "some text\n"},
		{"standin list data", "standin: list data\n\"x\"\n"},
		{"standin remove data", "standin: remove data\n"},
		{"standin list data", "standin: list data\nstandin: cannot list data: open " + g.path("data") + ": no such file or directory\n"},
		{"standin kill 1 nosuch", "standin: kill 1 nosuch\nstandin: cannot kill 1 nosuch: NOSUCH is no signal\n"},
		{"standin slow-start 1s", "standin: slow-start 1s\nstandin: cannot slow-start 1s: the server has started already\n"},
		{"cvarlist sv_g", "cvar list\n--------------\n\"sv_gravity\" = \"600\"\n--------------\n1 total convars/concommands\n"},
	} {
		if got := g.rcon(c.command); got != c.want {
			t.Errorf("%s: %q, not %q", c.command, got, c.want)
		}
	}
	if err := os.Mkdir(g.path("addons/sourcemod"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := g.rcon("sm_cvar sv_gravity 5"); got != "\"sv_gravity\" = \"5\"\n" {
		t.Errorf("sm_cvar: %q", got)
	}
	if got := g.rcon("stats"); len(strings.Split(strings.TrimSpace(got), "\n")) != 2 {
		t.Errorf("stats: %q", got)
	}
}

func TestServerWritesWhatTheGameWrites(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	if err := os.Mkdir(g.path("addons/sourcemod"), 0o755); err != nil {
		t.Fatal(err)
	}
	syscall.Umask(0o022)
	g.start("+map", "c1m1_hotel")
	g.rcon("log on")
	g.rcon("changelevel c1m2_streets")
	g.rcon("banid 0 STEAM_1:0:12345; addip 0 192.0.2.7; addip 5 192.0.2.8")
	g.signal(syscall.SIGINT)
	g.wantStatus(0)

	logs, err := filepath.Glob(g.path("logs/L*.log"))
	if err != nil || len(logs) != 2 {
		t.Fatalf("logs %v, error %v", logs, err)
	}
	mods, err := filepath.Glob(g.path("addons/sourcemod/logs/*.log"))
	if err != nil || len(mods) != 2 {
		t.Fatalf("logs of SourceMod %v, error %v", mods, err)
	}
	for _, name := range append(logs, mods...) {
		info, err := os.Stat(name)
		if err != nil || info.Mode() != 0o644 || info.Size() == 0 {
			t.Errorf("%s: mode %v, %d bytes, error %v", name, info.Mode(), info.Size(), err)
		}
	}
	if got := g.read("cfg/banned_user.cfg"); got != "banid 0 STEAM_1:0:12345\r\n" {
		t.Errorf("banned_user.cfg: %q", got)
	}
	if got := g.read("cfg/banned_ip.cfg"); got != "addip 0 192.0.2.7\r\n" {
		t.Errorf("banned_ip.cfg: %q", got)
	}
}

func TestServerEndsCleanly(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(g *game){
		"SIGINT":  func(g *game) { g.signal(syscall.SIGINT) },
		"SIGTERM": func(g *game) { g.signal(syscall.SIGTERM) },
		"quit": func(g *game) {
			if _, err := query.Rcon(g.context(), g.addr, password, "quit"); err != nil && !errors.Is(err, query.ErrClosed) {
				g.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGame(t)
			g.start()
			end(g)
			g.wantStatus(0)
			g.read("cfg/banned_user.cfg")
		})
	}
}

func TestPort(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)

	t.Run("taken, strict", func(t *testing.T) {
		g := newGame(t)
		g.launch("-strictportbind", "-port", port)
		g.wantStatus(1)
	})
	t.Run("taken, not strict", func(t *testing.T) {
		g := newGame(t)
		g.start("-port", port)
		if strings.HasSuffix(g.addr, ":"+port) {
			t.Error("two servers on one port")
		}
		g.info()
	})
	t.Run("on one address", func(t *testing.T) {
		g := newGame(t)
		g.start("-ip", "127.0.0.2")
		if _, err := query.Info(g.context(), g.addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("on another address: %v", err)
		}
		g.addr = strings.Replace(g.addr, "127.0.0.1", "127.0.0.2", 1)
		g.info()
	})
	t.Run("bad address", func(t *testing.T) {
		g := newGame(t)
		g.launch("-ip", "nowhere")
		g.wantStatus(1)
	})
}

func TestNoGameNoServer(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	if err := os.Remove(g.path("gameinfo.txt")); err != nil {
		t.Fatal(err)
	}
	g.launch()
	g.wantStatus(1)
}

func TestMissingMapStillReadsConfiguration(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.start("+map", "nowhere")
	if info := g.info(); info.Map != "" || info.Name != "Test server" {
		t.Errorf("A2S_INFO: %+v", info)
	}
}

func TestSteamNeedsItsLinksInHome(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.env = []string{"HOME=/nonexistent"}
	g.start()
	g.line("[S_API FAIL] SteamAPI_Init() failed; no .steam/sdk32/steamclient.so")
}
