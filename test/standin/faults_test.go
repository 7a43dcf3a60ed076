package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"left4.me/left4/test/standin/query"
)

func (g *game) wantSignal(want syscall.Signal) {
	g.t.Helper()
	if got := g.status(); !got.Signaled() || got.Signal() != want {
		g.t.Fatalf("the server ended with status %d, signal %v, not by %v", got.ExitStatus(), got.Signal(), want)
	}
}

// command sends a command to which there may be no answer.
func (g *game) command(text string) {
	g.t.Helper()
	if _, err := query.Rcon(g.context(), g.addr, password, text); err != nil && !errors.Is(err, query.ErrClosed) {
		g.t.Fatal(err)
	}
}

func TestCrash(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]func(*game){
		"crash SEGV":             func(g *game) { g.wantSignal(syscall.SIGSEGV) },
		"crash sigabrt":          func(g *game) { g.wantSignal(syscall.SIGABRT) },
		"crash 9":                func(g *game) { g.wantSignal(syscall.SIGKILL) },
		"crash INT":              func(g *game) { g.wantSignal(syscall.SIGINT) },
		"crash exit 3":           func(g *game) { g.wantStatus(3) },
		"crash exit 0 after 1ms": func(g *game) { g.wantStatus(0) },
		"crash TERM times 1":     func(g *game) { g.wantSignal(syscall.SIGTERM) },
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			g := newGame(t)
			g.start()
			g.command("standin " + fault)
			want(g)
		})
	}
	t.Run("by a file, which comes with its directory", func(t *testing.T) {
		t.Parallel()
		g := newGame(t)
		g.start()
		g.write("standin/now", "# a comment\ncrash exit 7\n")
		g.wantStatus(7)
	})
	t.Run("by a file that is there at the start", func(t *testing.T) {
		t.Parallel()
		g := newGame(t)
		g.write("standin/now", "crash exit 7")
		g.launch("-port", freePort(t))
		g.wantStatus(7)
	})
	t.Run("by the environment", func(t *testing.T) {
		t.Parallel()
		g := newGame(t)
		g.env = []string{"LEFT4_STANDIN=players 1; crash SEGV"}
		g.launch("-port", freePort(t))
		g.wantSignal(syscall.SIGSEGV)
	})
}

func TestCrashSoManyTimes(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(g *game){
		"file":        func(g *game) { g.write("standin/f", "crash  exit 4 times 3\n") },
		"environment": func(g *game) { g.env = []string{"LEFT4_STANDIN=crash exit 4 times 3"} },
		"command": func(g *game) {
			// One crash less is left for the starts that follow.
			g.start()
			g.command("standin crash exit 4 times 4")
			g.wantStatus(4)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGame(t)
			set(g)
			for range 3 {
				g.launch("-port", freePort(t))
				g.wantStatus(4)
			}
			g.start()
			g.info()
		})
	}
}

func TestHangAnswersNothing(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.start()
	ctx, cancel := context.WithCancel(context.Background())
	answer := make(chan error)
	go func() {
		_, err := query.Rcon(ctx, g.addr, password, "standin hang")
		answer <- err
	}()
	g.line("standin: hang")
	short, stop := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer stop()
	if _, err := query.Info(short, g.addr); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("A2S of a server that hangs: %v", err)
	}
	g.signal(syscall.SIGINT)
	if _, err := query.Rcon(short, g.addr, password, "status"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("RCON of a server that hangs: %v", err)
	}
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Errorf("the command that hangs: %v", err)
	}
	g.signal(syscall.SIGKILL)
	g.wantSignal(syscall.SIGKILL)
}

func TestHangThatEnds(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.write("standin/start", "hang 10ms")
	g.start()
	g.info()
}

func TestIgnoredInterrupt(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.write("standin/start", "ignore-sigint")
	g.start()
	g.signal(syscall.SIGINT)
	g.line("standin: SIGINT ignored")
	g.info()
	g.signal(syscall.SIGTERM)
	g.wantStatus(0)
}

func TestSlowStart(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.env = []string{"LEFT4_STANDIN=slow-start 1h"}
	port := freePort(t)
	g.launch("-port", port)
	g.line("standin: no ports for 1h")
	if _, err := query.Info(g.context(), "127.0.0.1:"+port); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("A2S before the start: %v", err)
	}
	g.signal(syscall.SIGINT)
	g.wantStatus(0)

	g.env = []string{"LEFT4_STANDIN=slow-start 50ms"}
	g.launch("-strictportbind", "-port", port)
	if _, err := query.WaitInfo(g.context(), "127.0.0.1:"+port); err != nil {
		t.Error(err)
	}
}

func TestMuteAndDeny(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.start()
	g.rcon("standin mute-a2s")
	short, stop := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer stop()
	if _, err := query.Info(short, g.addr); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a mute server: %v", err)
	}
	g.rcon("standin mute-a2s off; standin deny-challenge")
	if _, err := query.Info(g.context(), g.addr); !errors.Is(err, query.ErrChallenge) {
		t.Errorf("a server that denies: %v", err)
	}
	g.rcon("standin clear")
	g.info()
}

func TestMemoryDiskAndOutput(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.start()
	before := g.resident()
	g.rcon("standin eat-memory 64M")
	if after := g.resident(); after < before+60<<20 {
		t.Errorf("resident memory was %d and is %d", before, after)
	}
	g.rcon("standin eat-memory 0")
	g.rcon("standin fill-disk data 3M")
	g.line("standin: fill-disk data: 3145728 bytes, done")
	if info, err := os.Stat(g.path("data")); err != nil || info.Size() != 3<<20 {
		t.Errorf("file %v, error %v", info, err)
	}
	if _, err := os.Stat("/dev/full"); err == nil {
		g.rcon("standin fill-disk /dev/full")
		g.line("standin: fill-disk /dev/full: 0 bytes, no space left on device")
	}
	if got := g.rcon("standin spam 100"); got != "standin: spam 100\n" {
		t.Errorf("spam went to RCON: %q", got)
	}
	g.line("standin: spam line 100 of 100")
}

// resident is the resident memory of the server in bytes.
func (g *game) resident() int64 {
	g.t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(g.cmd.Process.Pid), "statm"))
	if err != nil {
		g.t.Fatal(err)
	}
	n, err := parseSize(strings.Fields(string(data))[1])
	if err != nil {
		g.t.Fatal(err)
	}
	return n * int64(os.Getpagesize())
}

func TestPlant(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.start()
	t.Cleanup(func() {
		// Else only root could remove the tree.
		if text, err := exec.Command("chmod", "-R", "u+rwX", g.path(plantDirectory)).CombinedOutput(); err != nil {
			t.Logf("%s", text)
		}
	})
	g.command("standin plant")
	for name, want := range map[string]os.FileMode{
		"cfg":                             os.ModeSymlink,
		plantDirectory + "/etc":           os.ModeSymlink,
		plantDirectory + "/none":          os.ModeDir,
		plantDirectory + "/fifo":          os.ModeNamedPipe,
		plantDirectory + "/socket":        os.ModeSocket,
		plantDirectory + "/namenew\nline": 0,
	} {
		info, err := os.Lstat(g.path(name))
		if err != nil || info.Mode().Type() != want {
			t.Errorf("%q: %v, error %v", name, info, err)
		}
	}
	var deepest string
	for path := g.path(plantDirectory); len(path) < 3800; path = filepath.Join(path, strings.Repeat("deep", 32)) {
		if _, err := os.Lstat(path); err != nil {
			t.Fatal(err)
		}
		deepest = path
	}
	if len(deepest) < 3000 {
		t.Errorf("the deep tree ends after %d bytes", len(deepest))
	}
	if got := g.rcon("standin plant everything"); !strings.Contains(got, "nothing is called everything") {
		t.Errorf("plant: %q", got)
	}
	g.info()
}

func TestPlantedConfiguration(t *testing.T) {
	t.Parallel()
	for kind, check := range map[string]func(os.FileMode) bool{
		"server-cfg-link":      func(m os.FileMode) bool { return m&os.ModeSymlink != 0 },
		"server-cfg-fifo":      func(m os.FileMode) bool { return m&os.ModeNamedPipe != 0 },
		"server-cfg-directory": os.FileMode.IsDir,
	} {
		g := newGame(t)
		g.start()
		g.rcon("standin plant " + kind)
		if info, err := os.Lstat(g.path("cfg/server.cfg")); err != nil || !check(info.Mode()) {
			t.Errorf("%s: %v, error %v", kind, info, err)
		}
	}
	for kind, name := range map[string]string{"cfg-file": "cfg", "game-link": "."} {
		g := newGame(t)
		g.start()
		g.rcon("standin plant " + kind)
		info, err := os.Lstat(filepath.Clean(g.path(name)))
		if err != nil || info.IsDir() {
			t.Errorf("%s: %v, error %v", kind, info, err)
		}
	}
}

func TestFaultLines(t *testing.T) {
	got := faultLines("  hang  1s ; players 2;;\n# crash SEGV; crash SEGV\n\nmute-a2s")
	if want := []string{"hang 1s", "players 2", "mute-a2s"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestParseSize(t *testing.T) {
	for word, want := range map[string]int64{"0": 0, "17": 17, "3K": 3 << 10, "2M": 2 << 20, "1G": 1 << 30} {
		if got, err := parseSize(word); err != nil || got != want {
			t.Errorf("%s: %d, error %v", word, got, err)
		}
	}
	for _, word := range []string{"", "M", "-1", "1T", "x", "99999999999999999999"} {
		if got, err := parseSize(word); err == nil {
			t.Errorf("%q is taken for %d", word, got)
		}
	}
}
