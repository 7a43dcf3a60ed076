package steam

import (
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// host is a machine with SteamCMD, a server that it finds, and a directory to install into.
type host struct {
	t            *testing.T
	s            *Server
	dir, address string
	world        World
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), world: World{Game: Game{Build: "100", Files: map[string]string{"left4dead2/a.txt": "a of 100"}}}}
	h.s = &Server{Tree: filepath.Join(h.dir, "tree")}
	for name, mode := range map[string]os.FileMode{
		"srcds_run": 0o755, "bin/engine_srv.so": 0o644, "left4dead2/a.txt": 0o644, "left4dead2/b.txt": 0o644, "steamapps/appmanifest_222860.acf": 0o644,
	} {
		if err := writeText(filepath.Join(h.s.Tree, name), name+" of the tree", mode); err != nil {
			t.Fatal(err)
		}
	}
	ts := httptest.NewServer(h.s)
	t.Cleanup(ts.Close)
	h.address = ts.URL
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(WriteSteamCMD(h.in("steamcmd"), self), WriteDepotDownloader(h.dir, self), os.Mkdir(h.in("home"), 0o755)); err != nil {
		t.Fatal(err)
	}
	h.set()
	return h
}

func (h *host) in(name string) string { return filepath.Join(h.dir, name) }

func (h *host) set(faults ...Fault) {
	h.t.Helper()
	h.world.Faults = faults
	if err := h.s.Set(h.world); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) command(argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	// Under the race detector a program would else end a second later.
	cmd.Env = append(os.Environ(), "LEFT4_STEAM="+h.address, "HOME="+h.in("home"), "GORACE=atexit_sleep_ms=0")
	return cmd
}

// run runs a command line and returns what it printed and its status, 128 and more for a signal.
func (h *host) run(argv ...string) (string, int) {
	h.t.Helper()
	out, err := h.command(argv...).CombinedOutput()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		h.t.Fatal(err)
	}
	if ended == nil {
		return string(out), 0
	}
	if s := ended.Sys().(syscall.WaitStatus); s.Signaled() {
		return string(out), 128 + int(s.Signal())
	}
	return string(out), ended.ExitCode()
}

// update has SteamCMD install the game for a platform.
func (h *host) update(platform string, more ...string) (string, int) {
	h.t.Helper()
	argv := []string{h.in("steamcmd/steamcmd.sh"), "+@sSteamCmdForcePlatformType", platform, "+force_install_dir", h.in("game"), "+login", "anonymous", "+app_update", "222860"}
	return h.run(append(append(argv, more...), "+quit")...)
}

// install is both passes, which must go well.
func (h *host) install() {
	h.t.Helper()
	for _, platform := range []string{"windows", "linux"} {
		if out, code := h.update(platform, "validate"); code != 0 || !strings.Contains(out, "Success! App '222860' fully installed.\n") {
			h.t.Fatalf("%s: %d\n%s", platform, code, out)
		}
	}
}

// files are those of the installed game but for SteamCMD's own, as name=content.
func (h *host) files(dir string) (list []string) {
	h.t.Helper()
	err := filepath.WalkDir(h.in(dir), func(name string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		name, _ = filepath.Rel(h.in(dir), name)
		if !strings.HasPrefix(name, "steamapps/") && name[0] != '.' {
			list = append(list, name+"="+string(text))
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

func (h *host) acf(key string) string {
	h.t.Helper()
	text, err := os.ReadFile(h.in("game/steamapps/appmanifest_222860.acf"))
	if err != nil {
		h.t.Fatal(err)
	}
	return value(string(text), key)
}

func wantOutput(t *testing.T, out string, code, wantCode int, want string) {
	t.Helper()
	if code != wantCode || !strings.Contains(out, want) {
		t.Errorf("status %d, not %d, or no %q in:\n%s", code, wantCode, want, out)
	}
}

func TestLinuxNeedsAPassForWindows(t *testing.T) {
	h := newHost(t)
	out, code := h.update("linux")
	wantOutput(t, out, code, 8, "ERROR! Failed to install app '222860' (Invalid platform)\n")
	h.install()
	want := []string{
		"bin/engine_srv.so=bin/engine_srv.so of the tree", "left4dead2/a.txt=a of 100", "left4dead2/b.txt=left4dead2/b.txt of the tree", "srcds_run=srcds_run of the tree",
	}
	if got := h.files("game"); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if info, err := os.Stat(h.in("game/srcds_run")); err != nil || info.Mode() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	if h.acf("buildid") != "100" || h.acf("StateFlags") != "4" || h.acf("BytesToDownload") != h.acf("BytesDownloaded") {
		t.Errorf("build %s, state %s", h.acf("buildid"), h.acf("StateFlags"))
	}
	out, code = h.update("linux")
	wantOutput(t, out, code, 0, "Success! App '222860' already up to date.\n")
}

func TestTheFirstRunUpdatesSteamCMDItself(t *testing.T) {
	h := newHost(t)
	for n, want := range []bool{true, false} {
		out, code := h.run(h.in("steamcmd/steamcmd.sh"), "+quit")
		if code != 0 || strings.Contains(out, "Restarting steamcmd by request") != want {
			t.Errorf("run %d: %d\n%s", n, code, out)
		}
	}
	if err := os.Symlink(h.in("steamcmd/steamcmd.sh"), h.in("link.sh")); err != nil {
		t.Fatal(err)
	}
	if out, code := h.run(h.in("link.sh"), "+quit"); code != 127 {
		t.Errorf("by a link: %d\n%s", code, out)
	}
}

func TestTheOrderOfArguments(t *testing.T) {
	h := newHost(t)
	h.world.Game.Linux = true
	h.set()
	out, code := h.run(h.in("steamcmd/steamcmd.sh"), "+login", "anonymous", "+force_install_dir", h.in("game"), "+app_update", "222860", "+quit")
	wantOutput(t, out, code, 0, "Please use force_install_dir before logon!\n")
	if _, err := os.Stat(h.in("game")); err == nil {
		t.Error("a directory that was told too late is used")
	}
	out, code = h.run(h.in("steamcmd/steamcmd.sh"), "+force_install_dir", h.in("game"), "+app_update", "222860", "+quit")
	wantOutput(t, out, code, 8, "not logged in to Steam")
	h.world.Game.Linux = false
	h.set()
	out, code = h.run(h.in("steamcmd/steamcmd.sh"), "+force_install_dir", h.in("game"), "+login", "anonymous", "+@sSteamCmdForcePlatformType", "windows", "+app_update", "222860", "+quit")
	wantOutput(t, out, code, 8, "(Invalid platform)")
}

func TestAnUpdateTouchesWhatHasChanged(t *testing.T) {
	h := newHost(t)
	h.install()
	before, err := os.Stat(h.in("game/left4dead2/b.txt"))
	if err != nil {
		t.Fatal(err)
	}
	h.world.Game = Game{Build: "101", Files: map[string]string{"left4dead2/a.txt": "a of 101", "left4dead2/c.txt": "new"}, Gone: []string{"bin/engine_srv.so"}}
	h.set()
	h.s.Requests(true)
	out, code := h.update("linux")
	wantOutput(t, out, code, 0, "fully installed")
	want := []string{"left4dead2/a.txt=a of 101", "left4dead2/b.txt=left4dead2/b.txt of the tree", "left4dead2/c.txt=new", "srcds_run=srcds_run of the tree"}
	if got := h.files("game"); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if after, err := os.Stat(h.in("game/left4dead2/b.txt")); err != nil || !os.SameFile(before, after) || before.ModTime() != after.ModTime() {
		t.Errorf("a file that did not change was written: %v", err)
	}
	if _, err := os.Stat(h.in("game/bin")); err == nil {
		t.Error("an empty directory is left")
	}
	if r := h.s.Requests(true); r.Count("depot") != 2 || r.Bytes("depot") != int64(len("a of 101")+len("new")) {
		t.Errorf("%s", r)
	}
}

func TestOnlyValidateFindsAChangedFile(t *testing.T) {
	h := newHost(t)
	h.install()
	if err := writeText(h.in("game/srcds_run"), "edited", 0o755); err != nil {
		t.Fatal(err)
	}
	h.update("linux")
	if sum, _ := sumOf(h.in("game/srcds_run")); sum == "" || !slices.Contains(h.files("game"), "srcds_run=edited") {
		t.Error("found without validate")
	}
	out, code := h.update("linux", "validate")
	wantOutput(t, out, code, 0, " Update state (0x5) verifying install, progress: 100.00 (")
	if !slices.Contains(h.files("game"), "srcds_run=srcds_run of the tree") {
		t.Error("not found by validate")
	}
}

func TestFailuresOfSteamCMD(t *testing.T) {
	zero := 0
	for _, c := range []struct {
		fault Fault
		code  int
		want  string
	}{
		{Fault{Kind: "failed", Text: "No subscription"}, 8, "ERROR! Failed to install app '222860' (No subscription)\n"},
		{Fault{Kind: "state", Code: 0x602, At: 98}, 8, "Error! App '222860' state is 0x602 after update job.\n"},
		{Fault{Kind: "state", Code: 0x6A6, Exit: &zero}, 0, "Error! App '222860' state is 0x6A6 after update job.\n"},
		{Fault{Kind: "crash", At: 50}, 139, "Checking for available updates"},
		{Fault{Kind: "crash", At: 50, Code: 9}, 137, "Killed"},
		{Fault{Kind: "garbage", At: 50}, 0, "1e999"},
		{Fault{Kind: "no-connection"}, 5, "Connecting anonymously to Steam Public...Retrying...\nRetrying...\nRetrying...\nRetrying...\nFAILED (No Connection)\n"},
		{Fault{Kind: "user-info"}, 5, "Waiting for user info...FAILED (Timed out)\n"},
		{Fault{Kind: "rate-limit"}, 5, "FAILED (Rate Limit Exceeded)\n"},
		{Fault{Kind: "appinfo-timeout"}, 1, "ERROR! Timed out waiting for AppInfo update.\n"},
	} {
		t.Run(c.fault.Kind, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.world.Game.Linux = true
			// Enough of it that the lines before a crash leave the program.
			h.world.Game.Sizes = map[string]int64{"left4dead2/pak01_001.vpk": 1 << 20}
			c.fault.On, c.fault.Only, c.fault.Times = "steamcmd", "222860", 1
			h.set(c.fault)
			out, code := h.update("linux")
			if c.fault.Kind == "crash" && c.fault.Code == 0 {
				c.want = "Segmentation fault"
			}
			wantOutput(t, out, code, c.code, c.want)
			if strings.Contains(out, "Success!") {
				t.Errorf("it tells of success:\n%s", out)
			}
			out, code = h.update("linux")
			wantOutput(t, out, code, 0, "Success! App '222860' fully installed.\n")
			if got := h.files("game"); len(got) != 5 {
				t.Errorf("got %d files", len(got))
			}
		})
	}
}

func TestAnInterruptedDownloadGoesOn(t *testing.T) {
	h := newHost(t)
	h.world.Game.Linux = true
	const size = 1 << 20
	h.world.Game.Sizes = map[string]int64{"left4dead2/pak01_001.vpk": size}
	h.set(Fault{On: "steamcmd", Kind: "state", Code: 0x402, At: 50, Times: 1})
	h.update("linux")
	if h.acf("StateFlags") != "1026" || h.acf("buildid") != "0" || h.acf("BytesDownloaded") == h.acf("BytesToDownload") {
		t.Errorf("state %s, build %s, %s bytes", h.acf("StateFlags"), h.acf("buildid"), h.acf("BytesDownloaded"))
	}
	h.s.Requests(true)
	h.update("linux")
	if n := h.s.Requests(true).Bytes("depot"); n == 0 || n > size*6/10 {
		t.Errorf("%d bytes were fetched again", n)
	}
	// What there is of one build is no part of the next.
	h.world.Game.Build = "101"
	h.set(Fault{On: "steamcmd", Kind: "crash", At: 50, Times: 1})
	h.update("linux")
	h.world.Game.Build = "102"
	h.set()
	for n := 0; ; n++ {
		if out, code := h.update("linux", "validate"); code == 0 {
			break
		} else if n == 3 {
			t.Fatal(out)
		}
	}
	if !slices.Contains(h.files("game"), "left4dead2/pak01_001.vpk="+string(made("102 left4dead2/pak01_001.vpk", size))) {
		t.Error("the file is a mixture")
	}
}

func TestNoNetwork(t *testing.T) {
	h := newHost(t)
	h.install()
	h.address = "http://127.0.0.1:1"
	out, code := h.update("linux")
	wantOutput(t, out, code, 5, "FAILED (No Connection)\n")
	out, code = h.run(h.in("DepotDownloader"), "-app", "222860", "-dir", h.in("fetched"))
	wantOutput(t, out, code, 1, "Timeout connecting to Steam3.\n")
}

func TestWhatIsKnownOfTheApp(t *testing.T) {
	h := newHost(t)
	info := func() string {
		out, _ := h.run(h.in("steamcmd/steamcmd.sh"), "+login", "anonymous", "+app_info_update", "1", "+app_info_print", "222860", "+quit")
		return out
	}
	h.set(Fault{On: "steamcmd", Kind: "appinfo-late"})
	if out := info(); strings.Contains(out, "buildid") || !strings.Contains(out, "No app info for AppID 222860 found") {
		t.Errorf("at first: %s", out)
	}
	h.set()
	if out := info(); !strings.Contains(out, "\t\t\t\"public\"\n\t\t\t{\n\t\t\t\t\"buildid\"\t\t\"100\"\n") {
		t.Errorf("got %s", out)
	}
	h.world.Game.Build = "101"
	h.set(Fault{On: "steamcmd", Kind: "stale"})
	if out := info(); !strings.Contains(out, `"100"`) || strings.Contains(out, `"101"`) {
		t.Errorf("not what was known before: %s", out)
	}
	if err := os.Remove(h.in("home/Steam/appcache/appinfo.vdf")); err != nil {
		t.Fatal(err)
	}
	if out := info(); !strings.Contains(out, `"101"`) {
		t.Errorf("still what was known before: %s", out)
	}
}

// Through a pipe the output comes in pieces of 4096 bytes, and what is not a whole one is lost with a killed program.
func TestOutputIsHeldBack(t *testing.T) {
	h := newHost(t)
	h.world.Game.Linux = true
	h.world.Game.Sizes = map[string]int64{"left4dead2/pak01_001.vpk": 1 << 20}
	h.set()
	h.install()
	h.world.Game.Build = "101"
	h.set(Fault{On: "steamcmd", Kind: "crash", Code: 9, At: 98})
	out, err := h.command(h.in("steamcmd/linux32/steamcmd"), "+force_install_dir", h.in("game"), "+login", "anonymous", "+app_update", "222860", "+quit").Output()
	if err == nil || len(out) == 0 || len(out)%4096 != 0 {
		t.Errorf("%v, %d bytes came", err, len(out))
	}
}

func TestDepotDownloader(t *testing.T) {
	h := newHost(t)
	h.world.Items = map[string]Item{"1001": {Title: "Dead Air", Updated: 1, NoURL: true}, "1002": {Title: "b", Updated: 1}}
	h.set()
	dd := func(args ...string) (string, int) {
		return h.run(append([]string{h.in("DepotDownloader")}, args...)...)
	}
	out, code := dd("-app", "222860", "-os", "linux", "-dir", h.in("fetched"), "-validate")
	wantOutput(t, out, code, 0, "from 1 depots\nDisconnected from Steam\n")
	h.install()
	if got, want := h.files("fetched"), h.files("game"); !slices.Equal(got, want) {
		t.Errorf("got %q, and by SteamCMD %q", got, want)
	}
	if _, err := os.Stat(h.in("fetched/steamapps")); err == nil {
		t.Error("it makes an appmanifest")
	}
	for id, name := range map[string]string{"1001": "dead_air.vpk", "1002": "b.vpk"} {
		out, code = dd("-app", "550", "-pubfile", id, "-dir", h.in("items"))
		content, err := os.ReadFile(h.in("items/myl4d2addons/" + name))
		if code != 0 || err != nil || string(content) != string(h.world.Items[id].file(id)) {
			t.Errorf("%s: %d, %v\n%s", id, code, err, out)
		}
	}
	out, code = dd("-app", "550", "-pubfile", "9", "-dir", h.in("items"))
	wantOutput(t, out, code, 0, "Unable to locate manifest ID for published file 9\n")
	h.world.Game = Game{Build: "101", Gone: []string{"left4dead2/a.txt"}}
	h.set()
	dd("-app", "222860", "-os", "linux", "-dir", h.in("fetched"))
	if got := h.files("fetched"); len(got) != 3 {
		t.Errorf("after the update: %q", got)
	}
	h.set(Fault{On: "depotdownloader", Kind: "401"})
	out, code = dd("-app", "222860", "-os", "linux", "-dir", h.in("other"))
	wantOutput(t, out, code, 1, "App 222860 was not completely downloaded.\n")
	h.set(Fault{On: "depotdownloader", Kind: "no-modes"})
	dd("-app", "222860", "-os", "linux", "-dir", h.in("other"))
	if info, err := os.Stat(h.in("other/srcds_run")); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
}
