package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
)

// asWorker has this test binary be a worker: one that ends all its children must not be the process of other tests.
const asWorker = "LEFT4_TEST_AS_WORKER"

func init() {
	if command := os.Getenv(asWorker); command != "" {
		os.Unsetenv(asWorker)
		os.Exit(run([]string{command}, os.Getenv, os.Stdin, os.Stderr))
	}
}

func transcript(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/install/" + name + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What SteamCMD and DepotDownloader have said to people, and what they had to know.
func TestFailuresAreToldApart(t *testing.T) {
	for _, c := range []struct {
		transcript string
		class      class
		cause      string
		retry      bool
	}{
		{"invalid-platform", classPlatform, "Invalid platform", true},
		{"no-subscription", classSubscription, "No subscription", true},
		{"missing-configuration", classConfig, "Missing configuration", true},
		{"no-connection", classNetwork, "no connection to Steam (No Connection)", true},
		{"no-connection-2015", classNetwork, "no connection to Steam (No Connection)", true},
		{"not-online", classNetwork, "no connection to Steam (it cannot update itself)", true},
		{"app-info-timeout", classNetwork, "no connection to Steam (no word about the app)", true},
		{"rate-limit", classLogin, "too many logins", true},
		{"state-0x202", classDiskFull, "disk full", false},
		{"state-0x212", classDiskFull, "disk full", false},
		{"state-0x402", classNetwork, "the download broke off (state 0x402)", true},
		{"state-0x602", classNetwork, "the download broke off (state 0x602)", true},
		{"state-0x606", classDiskWrite, "the disk cannot be written to", false},
		{"disk-write", classDiskWrite, "the disk cannot be written to", false},
		{"state-0x626", classIncomplete, "files are missing", true},
		{"state-0x6A6", classIncomplete, "files are corrupt", true},
		{"corrupt", classIncomplete, "files are corrupt", true},
		{"state-0x206", classUnknown, "state 0x206 after the update", true},
		{"no-loader", classProgram, "it cannot be run without the loader of 32-bit programs", false},
		{"no-loader-bash-5.2", classProgram, "it cannot be run without the loader of 32-bit programs", false},
		{"no-library", classProgram, "the library libstdc++.so.6 is missing", false},
		{"no-console", classProgram, "it cannot load steamconsole.so", false},
		{"depot-none", classSubscription, "the game is not available without a login", false},
		{"depot-app", classSubscription, "the game is not available without a login", false},
		{"depot-401", classSubscription, "the game is not available without a login", false},
		{"depot-offline", classNetwork, "no connection to Steam", true},
		{"depot-full", classDiskFull, "disk full", false},
		{"depot-exception", classUnknown, "A task was canceled.", true},
		{"windows", "", "", false},
		{"linux", "", "", false},
		{"up-to-date", "", "", false},
		{"app-info", "", "", false},
		{"depot-up-to-date", "", "", false},
	} {
		var found *failure
		out := lines{each: func(line string) {
			if found == nil {
				found = failureOf("it", strings.TrimSpace(line))
			}
		}}
		out.Write(transcript(t, c.transcript))
		out.flush()
		if found == nil {
			found = &failure{}
		}
		if found.class != c.class || found.cause != c.cause || found.retry != c.retry {
			t.Errorf("%s: %q, %q, retry %t; want %q, %q, %t", c.transcript, found.class, found.cause, found.retry, c.class, c.cause, c.retry)
		}
	}
}

func TestProgressIsTold(t *testing.T) {
	for _, c := range []struct {
		transcript string
		want       []string
	}{
		{"windows", []string{
			"0.00 SteamCMD updates itself", "0.50 SteamCMD updates itself", "-1.00 reconfiguring", "0.12 preallocating, 1.20 GB of 9.70 GB",
			"0.50 downloading, 4.85 GB of 9.70 GB", "1.00 verifying update, 9.70 GB of 9.70 GB", "0.34 committing, 3.31 GB of 9.70 GB",
		}},
		{"linux", []string{
			"0.03 verifying install, 0.30 GB of 9.70 GB", "0.00 downloading, 0.00 GB of 0.34 GB", "0.75 downloading, 0.26 GB of 0.34 GB",
			"0.99 committing, 0.34 GB of 0.34 GB",
		}},
		{"depot", []string{"-1.00 preallocating", "0.01 downloading", "0.98 downloading", "-1.00 verifying", "1.00 downloading"}},
	} {
		var got []string
		out := lines{each: func(line string) {
			if fraction, step := stepOf(line); step != "" {
				got = append(got, fmt.Sprintf("%.2f %s", fraction, step))
			}
		}}
		out.Write(transcript(t, c.transcript))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got\n%q, want\n%q", c.transcript, got, c.want)
		}
	}
}

func TestLinesOfHostileOutput(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"returns", "[  1%] a\r[  2%] b\r\n\nc", []string{"[  1%] a", "[  2%] b", "c"}},
		{"NULs, colours, a title, no UTF-8", "\x1b[1;31ma\x00b\x1b[0m\x1b]0;title\x07c\xff\x01d\n", []string{"abc? d"}},
		{"no end", strings.Repeat("x", maxLine) + "yz\na", []string{strings.Repeat("x", maxLine), "a"}},
		{"nothing", "\n \n\x00\n", nil},
	} {
		var got []string
		out := lines{each: func(line string) { got = append(got, line) }}
		for _, b := range []byte(c.text) { // as it comes
			out.Write([]byte{b})
		}
		out.flush()
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

func FuzzOutput(f *testing.F) {
	files, err := filepath.Glob("testdata/install/*.txt")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, 100)
	}
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		read := func(parts ...[]byte) (got []string) {
			var info appInfo
			var got1 depots
			out := lines{each: func(line string) {
				if len(line) > 3*maxLine || !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) {
					t.Fatalf("%q came out", line)
				}
				if fraction, _ := stepOf(line); fraction != -1 && (fraction < 0 || fraction > 1) {
					t.Fatalf("%q is at %g", line, fraction)
				}
				if fail := failureOf("it", line); fail != nil && fail.cause == "" {
					t.Fatalf("%q is a failure without a cause", line)
				}
				info.line(line)
				got1.line(line)
				got = append(got, line)
			}}
			for _, part := range parts {
				if n, err := out.Write(part); n != len(part) || err != nil {
					t.Fatal(n, err)
				}
			}
			out.flush()
			if build := info.build(); build != "" && !isBuild(build) {
				t.Fatalf("%q is a build", build)
			}
			return got
		}
		cut = min(max(cut, 0), len(text))
		if whole, parts := read(text), read(text[:cut], text[cut:]); !slices.Equal(whole, parts) {
			t.Fatalf("%q in one piece, %q in two", whole, parts)
		}
	})
}

// installing has a stand-in of SteamCMD in the form of Valve's archive, and of DepotDownloader, and a worker's places.
type installing struct {
	t     *testing.T
	dir   string // all of it
	order order.Install
}

// newInstalling makes programs whose nth run is the nth of these scripts, the last one for ever. A script finds the functions and
// variables of testdata/install/play.sh.
func newInstalling(t *testing.T, runs ...string) *installing {
	t.Helper()
	dir := t.TempDir()
	s := &installing{t: t, dir: dir}
	for _, name := range []string{"game", "home", "runs", "valve/linux32", "valve/linux64", "valve/steamapps"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	library, err := filepath.Abs("testdata/install")
	if err != nil {
		t.Fatal(err)
	}
	for i, script := range runs {
		s.write(fmt.Sprintf("runs/%d", i+1), script, 0o644)
	}
	program := fmt.Sprintf("#!/bin/bash\nroot=%q texts=%q\n. %q\n", dir, library, filepath.Join(library, "play.sh"))
	s.write("valve/steamcmd.sh", program, 0o755)
	s.write("valve/linux32/steamcmd", "a program", 0o755)
	s.write("valve/linux32/steamclient.so", "32 bits", 0o644)
	s.write("valve/linux64/steamclient.so", "64 bits", 0o644)
	s.write("valve/steamapps/huge", "somebody's game", 0o644)
	s.write("depot", program, 0o755)
	s.order = order.Install{
		Home: filepath.Join(dir, "home"), SteamCMD: filepath.Join(dir, "valve/steamcmd.sh"),
		Tries: 3, RetryDelay: time.Millisecond, Silence: time.Minute,
	}
	return s
}

func (s *installing) write(name, text string, mode fs.FileMode) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

func (s *installing) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// calls are the arguments of each run so far.
func (s *installing) calls() []string {
	text, err := os.ReadFile(filepath.Join(s.dir, "calls"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(strings.ReplaceAll(string(text), filepath.Join(s.dir, "game"), "DIR")), "\n")
}

// worker is one that is at work.
type worked struct {
	cmd    *exec.Cmd
	log    strings.Builder
	told   chan string // each text for left4d
	socket *net.UnixConn
}

// allTold is what no worker sends.
const allTold = "that is all"

func (s *installing) start() *worked {
	s.t.Helper()
	text, err := json.Marshal(s.order)
	if err != nil {
		s.t.Fatal(err)
	}
	w := &worked{told: make(chan string, 10_000)}
	name := filepath.Join(s.t.TempDir(), "notify")
	if w.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name}); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(w.told)
		buf := make([]byte, 64<<10)
		for {
			n, err := w.socket.Read(buf)
			if err != nil || string(buf[:n]) == allTold {
				return
			}
			w.told <- strings.TrimPrefix(string(buf[:n]), "STATUS=")
		}
	}()
	w.cmd = exec.Command(os.Args[0])
	w.cmd.Env = []string{asWorker + "=install", "NOTIFY_SOCKET=" + name, "LC_ALL=de_DE.UTF-8", "PATH=/usr/bin:/bin"}
	w.cmd.Dir = filepath.Join(s.dir, "game")
	w.cmd.Stdin = strings.NewReader(string(text))
	w.cmd.Stderr = &w.log
	if err := w.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { w.socket.Close(); w.cmd.Process.Kill() })
	return w
}

// end waits for the worker's end and returns what it said last and the progress before it.
func (s *installing) end(w *worked) (status.Report, []string) {
	s.t.Helper()
	err := w.cmd.Wait()
	// Behind what the worker has sent, and nobody has read yet.
	if _, err := w.socket.WriteTo([]byte(allTold), w.socket.LocalAddr()); err != nil {
		s.t.Fatal(err)
	}
	var steps []string
	last := ""
	for text := range w.told {
		if last = text; strings.HasPrefix(text, "progress ") {
			steps = append(steps, text)
		}
	}
	r := status.ParseStatus(last)
	if r.Done != (err == nil) || r.Done == (r.Failed != "") {
		s.t.Fatalf("it ended with %v and told %q; its log:\n%s", err, last, &w.log)
	}
	log := w.log.String()
	s.t.Logf("%s\n%+v", log[max(0, len(log)-20_000):], r)
	return r, steps
}

func (s *installing) work() (status.Report, []string) {
	s.t.Helper()
	return s.end(s.start())
}

const (
	linuxPass   = "+force_install_dir DIR +@sSteamCmdForcePlatformType linux +login anonymous +app_update 222860 +quit"
	linuxWhole  = "+force_install_dir DIR +@sSteamCmdForcePlatformType linux +login anonymous +app_update 222860 validate +quit"
	windowsPass = "+force_install_dir DIR +@sSteamCmdForcePlatformType windows +login anonymous +app_update 222860 +quit"
	askBuild    = "+login anonymous +app_info_update 1 +app_info_print 222860 +quit"
	askLonger   = "+login anonymous +app_info_request 222860 +login anonymous +app_info_print 222860 +quit"
	byDepot     = "-app 222860 -os linux -dir DIR -validate"
)

func TestInstallFromNothing(t *testing.T) {
	s := newInstalling(t, "[[ -t 1 ]] && say windows; mkdir -p $game/left4dead2; : > $game/srcds.exe",
		"say linux; game 14982371; chmod 644 $game/srcds_linux; mkdir -p $game/steamapps/{downloading/222860,temp}; : > $game/steamapps/temp/x; ln -s linux.so $game/left4dead2/other.so")
	r, steps := s.work()
	if r.Note != "build 14982371" {
		t.Fatalf("%+v", r)
	}
	if got := s.calls(); !slices.Equal(got, []string{windowsPass, linuxWhole}) {
		t.Errorf("%q", got)
	}
	for name, mode := range map[string]fs.FileMode{"srcds_run": 0o755, "srcds_linux": 0o755, "left4dead2/gameinfo.txt": 0o644} {
		if st, err := os.Stat(filepath.Join(s.dir, "game", name)); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	for _, name := range []string{"game/steamapps/downloading", "game/steamapps/temp", "home/steamcmd/steamapps", "home/steamcmd.new"} {
		if _, err := os.Lstat(filepath.Join(s.dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	if a, b := s.read("game/.steam/sdk32/steamclient.so"), s.read("game/.steam/sdk64/steamclient.so"); a != "32 bits" || b != "64 bits" {
		t.Errorf("%q, %q", a, b)
	}
	if !slices.ContainsFunc(steps, func(s string) bool { return strings.HasSuffix(s, "files for Windows: downloading, 4.85 GB of 9.70 GB") }) {
		t.Errorf("%q", steps)
	}
	var files, bytes int64
	if err := filepath.WalkDir(filepath.Join(s.dir, "game"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files++
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
				bytes += info.Size()
			}
		}
		return err
	}); err != nil || r.Files != files || r.Bytes != bytes {
		t.Errorf("%+v, but there are %d files, %d bytes, %v", r, files, bytes, err)
	}
}

// installed begins with build 1 in place.
func installed(t *testing.T, runs ...string) *installing {
	t.Helper()
	s := newInstalling(t, append([]string{"say windows", "say linux; game 1"}, runs...)...)
	if r, _ := s.work(); r.Note != "build 1" {
		t.Fatalf("%+v", r)
	}
	if err := os.Remove(filepath.Join(s.dir, "calls")); err != nil {
		t.Fatal(err)
	}
	s.order.Build = "1"
	return s
}

// times are those of all files: what is written to is in the delta of a revision.
func (s *installing) times() string {
	s.t.Helper()
	var all strings.Builder
	if err := filepath.WalkDir(filepath.Join(s.dir, "game"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintln(&all, path, info.Mode(), info.Size(), info.ModTime().UnixNano(), info.Sys().(*syscall.Stat_t).Ino)
		}
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	return all.String()
}

func TestUpdate(t *testing.T) {
	s := installed(t, "say app-info", "say linux; game 14982371")
	before := s.times()
	if r, _ := s.work(); r.Note != "build 14982371" {
		t.Fatalf("%+v", r)
	}
	if got := s.calls(); !slices.Equal(got, []string{askBuild, linuxPass}) {
		t.Errorf("%q", got)
	}
	// Only the manifest is another one.
	old, now := strings.Split(before, "\n"), strings.Split(s.times(), "\n")
	changed := slices.DeleteFunc(now, func(line string) bool { return slices.Contains(old, line) })
	if len(changed) != 1 || !strings.Contains(changed[0], "appmanifest") {
		t.Errorf("%q", changed)
	}
}

func TestUpToDateTouchesNothing(t *testing.T) {
	for name, script := range map[string]string{
		"Steam's answer":         "say app-info | sed s/14982371/1/",
		"no answer about builds": "[[ $* == *app_info* ]] && say app-info-later || say up-to-date",
	} {
		t.Run(name, func(t *testing.T) {
			s := installed(t, script)
			before := s.times()
			if r, _ := s.work(); r.Note != "build 1 up to date" {
				t.Fatalf("%+v", r)
			}
			if now := s.times(); now != before {
				t.Errorf("it was\n%s\nand is\n%s", before, now)
			}
		})
	}
}

func TestValidateDoesNotAskFirst(t *testing.T) {
	s := installed(t, "say linux; game 1")
	s.order.Validate = true
	if r, _ := s.work(); r.Note != "build 1" || !slices.Equal(s.calls(), []string{linuxWhole}) {
		t.Fatalf("%+v, %q", r, s.calls())
	}
}

// An update that fails as the first install would is done like it.
func TestUpdateWithInvalidPlatform(t *testing.T) {
	s := installed(t, "say app-info", "say invalid-platform; exit 8", "say windows", "say linux; game 14982371")
	if r, _ := s.work(); r.Note != "build 14982371" {
		t.Fatalf("%+v", r)
	}
	if got := s.calls(); !slices.Equal(got, []string{askBuild, linuxPass, windowsPass, linuxWhole}) {
		t.Errorf("%q", got)
	}
}

func TestUpdateThatWasInterruptedGoesOn(t *testing.T) {
	s := installed(t, "say app-info", "say linux; game 14982371")
	manifest := filepath.Join("game", manifestPath)
	s.write(manifest, strings.NewReplacer(`"4"`, `"1026"`, "1000", "980").Replace(s.read(manifest)), 0o644)
	if r, _ := s.work(); r.Note != "build 14982371" || !slices.Equal(s.calls(), []string{askBuild, linuxWhole}) {
		t.Fatalf("%+v, %q", r, s.calls())
	}
}

func TestFailuresThatPass(t *testing.T) {
	for name, c := range map[string]struct {
		runs  []string
		calls []string
	}{
		"invalid platform": {
			[]string{"say invalid-platform; exit 8", "say windows", "say invalid-platform; exit 8", "say windows", "say linux; game 7"},
			[]string{windowsPass, windowsPass, linuxWhole, windowsPass, linuxWhole},
		},
		"0x402 at 98 %": {
			[]string{"say windows", "say state-0x402; exit 8", "say state-0x402; exit 8", "say linux; game 7"},
			[]string{windowsPass, linuxWhole, linuxWhole, linuxWhole},
		},
		"the first run ever": {[]string{"say missing-configuration; exit 8", "say windows", "say linux; game 7"}, []string{windowsPass, windowsPass, linuxWhole}},
		"a crash":            {[]string{"kill -SEGV $$", "say windows", "say linux; game 7"}, []string{windowsPass, windowsPass, linuxWhole}},
		"a crash after it is done": {
			[]string{"say windows; say segfault; exit 139", "say linux; game 7; kill -SEGV $$"}, []string{windowsPass, linuxWhole},
		},
		"half a download": {
			[]string{"say windows", "say linux; game 7; sed -i '/BytesDownloaded/s/1000/980/' $manifest", "say linux; game 7"},
			[]string{windowsPass, linuxWhole, linuxWhole},
		},
		"another state": {
			[]string{"say windows", "say linux; game 7; sed -i '/StateFlags/s/4/1026/' $manifest", "say linux; game 7"},
			[]string{windowsPass, linuxWhole, linuxWhole},
		},
		"no program": {
			[]string{"say windows", "say linux; game 7; rm $game/srcds_linux", "say linux; game 7"}, []string{windowsPass, linuxWhole, linuxWhole},
		},
		"no word": {[]string{"exit 0", "say windows", "say linux; game 7"}, []string{windowsPass, windowsPass, linuxWhole}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newInstalling(t, c.runs...)
			if r, _ := s.work(); r.Note != "build 7" {
				t.Fatalf("%+v", r)
			}
			if got := s.calls(); !slices.Equal(got, c.calls) {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestFailuresThatStay(t *testing.T) {
	for name, c := range map[string]struct {
		runs   []string
		reason string // a pattern
		tries  int
	}{
		"invalid platform": {[]string{"say invalid-platform; exit 8"}, `SteamCMD failed: Invalid platform \(tried 3 times\); DepotDownloader may get it: set DepotDownloader= in /etc/left4/left4d.conf`, 3},
		"disk full":        {[]string{"say state-0x202; exit 8"}, "SteamCMD failed: disk full; " + spaceHint, 1},
		"disk write":       {[]string{"say state-0x606; exit 8"}, "SteamCMD failed: the disk cannot be written to; .*", 1},
		"network":          {[]string{"say no-connection; exit 5"}, `SteamCMD failed: no connection to Steam \(No Connection\) \(tried 3 times\)`, 3},
		"rate limit":       {[]string{"say rate-limit; exit 5"}, `SteamCMD failed: too many logins \(tried 3 times\); .*`, 3},
		"no loader":        {[]string{"say no-loader; exit 127"}, "SteamCMD failed: it cannot be run without the loader of 32-bit programs; .*i386.*lib32gcc-s1", 1},
		"crash":            {[]string{"say segfault; exit 139"}, `SteamCMD failed: it crashed \(SIGSEGV\); the last that it said: ".*Segmentation fault.*" \(tried 3 times\)`, 3},
		"unknown":          {[]string{"echo $'odd\\e[1m \\xff'; exit 7"}, `SteamCMD failed: it ended with status 7; the last that it said: "odd \?" \(tried 3 times\)`, 3},
		"never whole":      {[]string{"say windows", "say linux; mkdir -p $game/steamapps"}, `SteamCMD failed: it says that the game is installed, but its manifest cannot be read: .* \(tried 3 times\)`, 4},
		"a hostile manifest": {
			[]string{"say windows", `say linux; game 7; echo '"AppState" { "buildid" "7/../x" "StateFlags" "4" }' > $manifest`},
			`SteamCMD failed: it says that the game is installed, but the manifest has .*`, 4,
		},
		"a link out": {[]string{"say windows", "say linux; game 7; ln -s ../../etc $game/left4dead2/etc"}, `"left4dead2/etc": a link to "../../etc", out of the game or without an end, is not allowed`, 2},
		"an absolute link": {
			[]string{"say windows", "say linux; game 7; ln -s /etc $game/etc"}, `"etc": a link to an absolute name, "/etc", is not allowed`, 2,
		},
		"a FIFO":        {[]string{"say windows", "say linux; game 7; mkfifo $game/pipe"}, `"pipe": it is neither a file nor a directory nor a link`, 2},
		"a setuid file": {[]string{"say windows", "say linux; game 7; chmod u+s $game/srcds_run"}, `"srcds_run": a setuid file is not allowed`, 2},
		"steamapps is a link": {
			[]string{"say windows", "say linux; game 7; mv $game/steamapps $root/elsewhere; mkdir $root/elsewhere/temp; ln -s $root/elsewhere $game/steamapps"},
			`SteamCMD failed: .*steamapps.*a link is in the way.*`, 4,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newInstalling(t, c.runs...)
			r, _ := s.work()
			if !regexp.MustCompile("^" + c.reason + "$").MatchString(r.Failed) {
				t.Errorf("%q, want %s", r.Failed, c.reason)
			}
			if got := s.calls(); len(got) != c.tries {
				t.Errorf("%d runs: %q", len(got), got)
			}
		})
	}
}

// alive tells which of the processes that wrote their ids into the file are still there.
func (s *installing) alive(name string) []int {
	s.t.Helper()
	var alive []int
	for _, word := range strings.Fields(s.read(name)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			s.t.Fatal(err)
		}
		if syscall.Kill(pid, 0) == nil {
			alive = append(alive, pid)
		}
	}
	return alive
}

// escapes starts processes that try to outlive SteamCMD, and writes their ids.
const escapes = `trap '' TERM
for i in 1 2; do setsid bash -c 'trap "" TERM HUP; echo $$ >> '$root'/pids; (exec sleep 1000) & echo $! >> '$root'/pids; wait' & done
while [[ $(wc -l < $root/pids) != 4 ]]; do :; done 2>/dev/null
`

func TestHangEndsWithAllProcesses(t *testing.T) {
	t.Parallel()
	s := newInstalling(t, escapes+"say state-0x402; exec sleep 1000")
	s.order.Tries, s.order.Silence = 1, time.Second
	r, _ := s.work()
	if r.Failed != "SteamCMD failed: it hung: it has said nothing for 1s" {
		t.Errorf("%+v", r)
	}
	if left := s.alive("pids"); left != nil {
		t.Errorf("%v are left", left)
	}
}

func TestNothingIsLeftOfASuccess(t *testing.T) {
	t.Parallel()
	s := newInstalling(t, "say windows", escapes+"say linux; game 7")
	if r, _ := s.work(); r.Note != "build 7" {
		t.Fatalf("%+v", r)
	}
	if left := s.alive("pids"); left != nil {
		t.Errorf("%v are left", left)
	}
}

func TestStopEndsARunAndAPause(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ script, until string }{
		"run":   {escapes + "say state-0x402; exec sleep 1000", "files for Windows: downloading"},
		"pause": {": > $root/pids; say state-0x402; exit 8", "try 2 of 3 follows in 1h0m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newInstalling(t, c.script)
			s.order.RetryDelay = time.Hour
			w := s.start()
			for text := range w.told {
				if strings.Contains(text, c.until) {
					break
				}
			}
			if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if r, _ := s.end(w); r.Failed != "it was stopped" {
				t.Errorf("%+v", r)
			}
			if left := s.alive("pids"); left != nil {
				t.Errorf("%v are left", left)
			}
		})
	}
}

func TestEndlessOutputIsBounded(t *testing.T) {
	t.Parallel()
	s := newInstalling(t, "yes | tr '\\n' x | head -c 20000000; seq -f %.0f$(printf -- '-%.0s' {1..2000}) 9000; say state-0x202; exit 8")
	w := s.start()
	r, _ := s.end(w)
	if r.Failed != "SteamCMD failed: disk full; "+spaceHint || w.log.Len() > maxShown+1<<20 {
		t.Errorf("%+v after %d bytes in the journal", r, w.log.Len())
	}
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		runs  []string
		want  string
		calls []string
	}{
		"at once":    {[]string{"say app-info"}, "build 14982371", []string{askBuild}},
		"later":      {[]string{"say app-info-later", "say app-info"}, "build 14982371", []string{askBuild, askBuild}},
		"much later": {[]string{"say app-info-later", "say app-info-empty", "say app-info-empty; say app-info"}, "build 14982371", []string{askBuild, askBuild, askLonger}},
		"cut off":    {[]string{"say app-info | head -n 40", "say app-info"}, "build 14982371", []string{askBuild, askBuild}},
		"never":      {[]string{"say app-info-empty"}, "SteamCMD failed: it does not tell which build there is (tried 3 times)", []string{askBuild, askBuild, askLonger}},
		"hostile": {
			[]string{`say app-info | sed 's/14982371/1\\n2/'`}, "SteamCMD failed: it does not tell which build there is (tried 3 times)", []string{askBuild, askBuild, askLonger},
		},
		"no network": {[]string{"say no-connection; exit 5"}, "SteamCMD failed: no connection to Steam (No Connection) (tried 3 times)", []string{askBuild, askBuild, askLonger}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newInstalling(t, c.runs...)
			s.order.Check = true
			caches := []string{"home/Steam/appcache/appinfo.vdf", "home/.local/share/Steam/appcache/appinfo.vdf"}
			for _, name := range caches {
				s.write(name, "old", 0o644)
			}
			r, _ := s.work()
			if got := r.Note + r.Failed; got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if got := s.calls(); !slices.Equal(got, c.calls) {
				t.Errorf("%q", got)
			}
			for _, name := range caches {
				if _, err := os.Stat(filepath.Join(s.dir, name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if names, err := os.ReadDir(filepath.Join(s.dir, "game")); err != nil || len(names) != 0 {
				t.Errorf("%v, %v", names, err)
			}
		})
	}
}

func TestDepotDownloader(t *testing.T) {
	for name, c := range map[string]struct {
		runs   []string
		change func(*installing)
		want   string
		calls  []string
	}{
		"after SteamCMD": {
			[]string{"say invalid-platform; exit 8", "say invalid-platform; exit 8", "say invalid-platform; exit 8", "say depot; game; mkdir -p $game/.DepotDownloader/staging"},
			nil, "build unknown", []string{windowsPass, windowsPass, windowsPass, byDepot},
		},
		"with a build that SteamCMD knew": {
			[]string{"say app-info", "say no-subscription; exit 8", "say no-subscription; exit 8", "say no-subscription; exit 8", "say depot; game"},
			func(s *installing) { s.order.Build = "9" }, "build 14982371", []string{askBuild, windowsPass, windowsPass, windowsPass, byDepot},
		},
		"alone":               {[]string{"say depot; game"}, func(s *installing) { s.order.SteamCMD = "" }, "build unknown", []string{byDepot}},
		"SteamCMD is missing": {[]string{"say depot; game"}, func(s *installing) { s.order.SteamCMD = "/nowhere/steamcmd" }, "build unknown", []string{byDepot}},
		"nothing new":         {[]string{"say depot-up-to-date; game"}, func(s *installing) { s.order.SteamCMD = "" }, "build unknown up to date", []string{byDepot}},
		"offline first":       {[]string{"say depot-offline; exit 1", "say depot; game"}, func(s *installing) { s.order.SteamCMD = "" }, "build unknown", []string{byDepot, byDepot}},
		"both fail": {
			[]string{"say missing-configuration; exit 8", "say missing-configuration; exit 8", "say missing-configuration; exit 8", "say depot-none"}, nil,
			"SteamCMD failed: Missing configuration (tried 3 times); DepotDownloader failed: the game is not available without a login",
			[]string{windowsPass, windowsPass, windowsPass, byDepot},
		},
		"a failure that it would have too": {[]string{"say state-0x202; exit 8"}, nil, "SteamCMD failed: disk full; " + spaceHint, []string{windowsPass}},
		"no check": {
			nil, func(s *installing) { s.order.SteamCMD, s.order.Check = "", true },
			"DepotDownloader cannot tell which build there is, and SteamCMD is not there; " + getSteamCMD, nil,
		},
		"neither": {nil, func(s *installing) { s.order.SteamCMD, s.order.DepotDownloader = "", "" }, errNoInstaller.Error(), nil},
		"SteamCMD alone is missing": {
			nil, func(s *installing) { s.order.SteamCMD, s.order.DepotDownloader = "/nowhere/steamcmd", "" },
			"SteamCMD failed: /nowhere/steamcmd: no such file or directory; " + getSteamCMD, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newInstalling(t, c.runs...)
			s.order.DepotDownloader = filepath.Join(s.dir, "depot")
			if c.change != nil {
				c.change(s)
			}
			r, _ := s.work()
			if got := r.Note + r.Failed; got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if got := s.calls(); !slices.Equal(got, c.calls) {
				t.Errorf("%q", got)
			}
			if !r.Done || strings.HasSuffix(r.Note, "up to date") {
				return
			}
			// What SteamCMD has said of an earlier game is not true of this one.
			for _, name := range []string{"game/steamapps/appmanifest_222860.acf", "game/.DepotDownloader/staging"} {
				if _, err := os.Stat(filepath.Join(s.dir, name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", name, err)
				}
			}
			// There is none of SteamCMD's.
			if link, err := os.Readlink(filepath.Join(s.dir, "game/.steam/sdk32/steamclient.so")); link != "../../bin/steamclient.so" {
				t.Errorf("%q, %v", link, err)
			}
		})
	}
}

// SteamCMD updates its copy; it is made again when there is another one to copy.
func TestCopyOfSteamCMD(t *testing.T) {
	s := installed(t, "echo self-made > $(dirname $0)/public; say linux; game 1", "say linux; game 1", "say linux; game 1")
	s.order.Validate = true
	if err := os.Chmod(filepath.Join(s.dir, "valve"), 0o555); err != nil {
		t.Fatal(err)
	}
	s.work()
	s.work()
	if got := s.read("home/steamcmd/public"); got != "self-made\n" {
		t.Error(got)
	}
	s.write("valve/linux32/steamcmd", "a newer program", 0o755)
	s.work()
	if got := s.read("home/steamcmd/linux32/steamcmd"); got != "a newer program" {
		t.Error(got)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "home/steamcmd/public")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// A link to steamcmd.sh and a distribution's script are both called steamcmd.
func TestOtherFormsOfSteamCMD(t *testing.T) {
	s := installed(t, "say linux; game 1; echo $0 > $root/zero")
	s.order.Validate = true
	link := filepath.Join(s.dir, "steamcmd")
	if err := os.Symlink("valve/steamcmd.sh", link); err != nil {
		t.Fatal(err)
	}
	s.order.SteamCMD = link
	s.work()
	if got := strings.TrimSpace(s.read("zero")); got != filepath.Join(s.dir, "home/steamcmd/steamcmd.sh") {
		t.Error(got)
	}
	s.write("bin/steamcmd", s.read("valve/steamcmd.sh"), 0o755)
	s.order.SteamCMD = filepath.Join(s.dir, "bin/steamcmd")
	s.write("home/.local/share/Steam/steamcmd/linux32/steamclient.so", "of the distribution", 0o644)
	s.work()
	if got := strings.TrimSpace(s.read("zero")); got != s.order.SteamCMD {
		t.Error(got)
	}
	if got := s.read("game/.steam/sdk32/steamclient.so"); got != "of the distribution" {
		t.Error(got)
	}
}

func TestWrongOrders(t *testing.T) {
	for name, change := range map[string]func(*order.Install){
		"no home":         func(o *order.Install) { o.Home = "" },
		"a relative home": func(o *order.Install) { o.Home = "home" },
		"a path with ..":  func(o *order.Install) { o.SteamCMD = "/a/../b" },
		"no tries":        func(o *order.Install) { o.Tries = 0 },
		"many tries":      func(o *order.Install) { o.Tries = 101 },
		"no silence":      func(o *order.Install) { o.Silence = 0 },
		"a build":         func(o *order.Install) { o.Build = "1; x" },
	} {
		s := newInstalling(t, "say windows", "say linux; game 1")
		change(&s.order)
		if r, _ := s.work(); !strings.HasPrefix(r.Failed, "the order is wrong: ") || s.calls() != nil {
			t.Errorf("%s: %+v, %q", name, r, s.calls())
		}
	}
}
