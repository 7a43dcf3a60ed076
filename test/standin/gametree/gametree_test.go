package gametree

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// reporter is a server program that tells how it was started.
const reporter = `#!/bin/sh
echo "pid $$ directory $(pwd) libraries $LD_LIBRARY_PATH"
for argument; do echo "<$argument>"; done
exit 3
`

func newTree(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "reporter")
	if err := makeFile(program, strings.NewReader(reporter), 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "game")
	if err := Write(dir, program); err != nil {
		t.Fatal(err)
	}
	return dir
}

// launch starts the wrapper from elsewhere and returns what it printed, its pid and how it ended.
func launch(t *testing.T, dir string, args ...string) (string, int, syscall.WaitStatus) {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, "srcds_run"), args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH=")
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.Process.Pid, cmd.ProcessState.Sys().(syscall.WaitStatus)
}

func TestTree(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := newTree(t)
	// Written again over what is there.
	if err := Write(dir, filepath.Join(dir, "srcds_run")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		want := fs.FileMode(0o644)
		if strings.HasPrefix(d.Name(), "srcds_") || info.IsDir() {
			want = 0o755
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, not %v", path, info.Mode().Perm(), want)
		}
		if target, err := os.Readlink(path); err == nil && filepath.IsAbs(target) {
			t.Errorf("%s leads to %s", path, target)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(Maps) != 57 {
		t.Errorf("%d maps", len(Maps))
	}
}

func TestWrapperBecomesTheServer(t *testing.T) {
	dir := newTree(t)
	text, pid, status := launch(t, dir, "-game", "left4dead2", "-norestart", "-port 1", "left4dead2/steam*", "+map", "c2m1_highway")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	want := []string{"", "<-game>", "<left4dead2>", "<-norestart>", "<-port>", "<1>", "<left4dead2/steam.inf>", "<+map>", "<c2m1_highway>"}
	var here, libraries string
	var its int
	if _, err := fmt.Sscanf(lines[0], "pid %d directory %s libraries %s", &its, &here, &libraries); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if its != pid || here != dir || libraries != ".:bin" {
		t.Errorf("started as %d, printed %s", pid, lines[0])
	}
	want[0] = lines[0]
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("printed %q, not %q", lines, want)
	}
	if status.ExitStatus() != 3 {
		t.Errorf("ended with %v", status)
	}
}

func TestWrapperTraps(t *testing.T) {
	const clean = "SIGINT to itself"
	for name, c := range map[string]struct {
		prepare func(t *testing.T, dir string)
		args    []string
		want    string // part of the output
		end     string // clean, or "" for the server's own status
	}{
		"no map":                  {nil, []string{"-norestart"}, "<+map>\n<c1m1_hotel>", ""},
		"no map wanted":           {nil, []string{"-norestart", "-nodefaultmap"}, "<-nodefaultmap>\n<-game>\n<left4dead2>\n", ""},
		"no game directory":       {nil, []string{"-game", "nowhere", "-norestart"}, "no game directory 'nowhere'", clean},
		"game inside an argument": {nil, []string{"-norestart", "+x -game nowhere"}, "no game directory 'nowhere'", clean},
		"no server": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "srcds_linux")); err != nil {
				t.Fatal(err)
			}
		}, []string{"-norestart"}, "not found", clean},
		"server not executable": {func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "srcds_linux"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"-norestart"}, "not executable", clean},
		"another program":        {nil, []string{"-norestart", "-binary", "/bin/echo"}, "-norestart -binary /bin/echo -game left4dead2", ""},
		"debug hides the status": {nil, []string{"-norestart", "-debug"}, "<-debug>", clean},
		"help":                   {nil, []string{"-norestart", "-help"}, "usage", clean},
		"an option at the end":   {nil, []string{"-norestart", "-game"}, "<-game>", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newTree(t)
			if c.prepare != nil {
				c.prepare(t, dir)
			}
			text, _, status := launch(t, dir, c.args...)
			if !strings.Contains(text, c.want) {
				t.Errorf("printed %q", text)
			}
			if got := status.Signaled() && status.Signal() == syscall.SIGINT; got != (c.end == clean) {
				t.Errorf("ended with %#x", int(status))
			}
		})
	}
}

func TestWrapperDeletesThePidfile(t *testing.T) {
	dir := newTree(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	launch(t, dir, "-norestart", "-game", "nowhere")
	if _, err := os.Stat(victim); err != nil {
		t.Fatal(err)
	}
	launch(t, dir, "-pidfile", victim, "-norestart", "-game", "nowhere")
	if _, err := os.Stat(victim); err == nil {
		t.Error("the file is still there")
	}
}

func TestWrapperRestarts(t *testing.T) {
	dir := newTree(t)
	program := "#!/bin/sh\necho run\n[ -e again ] && exit 0\n: >again\nexit 1\n"
	if err := makeFile(filepath.Join(dir, "srcds_linux"), strings.NewReader(program), 0o755); err != nil {
		t.Fatal(err)
	}
	text, _, status := launch(t, dir, "-timeout", "0")
	if strings.Count(text, "run\n") != 2 || !status.Signaled() {
		t.Errorf("printed %q, ended with %#x", text, int(status))
	}
}

// A tree could not be started now and then: "text file busy". Another child had begun while its program was written, and
// had it open.
func TestNoChildBeginsWhileAProgramIsWritten(t *testing.T) {
	begins := false
	text := readerFunc(func([]byte) (int, error) {
		if begins = syscall.ForkLock.TryLock(); begins {
			syscall.ForkLock.Unlock()
		}
		return 0, io.EOF
	})
	if err := makeFile(filepath.Join(t.TempDir(), "program"), text, 0o755); err != nil {
		t.Fatal(err)
	}
	if begins {
		t.Error("one can begin")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles")
	}
	program := filepath.Join(t.TempDir(), "srcds_linux")
	if err := Build(context.Background(), program); err != nil {
		t.Fatal(err)
	}
	// The program has the tree in it.
	dir := filepath.Join(t.TempDir(), "game")
	if text, err := exec.Command(program, "-write-tree", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, name := range []string{"srcds_run", "srcds_linux", "left4dead2/gameinfo.txt"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if err := Build(context.Background(), filepath.Join(program, "below a file")); err == nil {
		t.Error("a build to nowhere succeeded")
	}
}
