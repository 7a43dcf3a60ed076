package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"left4.me/left4/test/report"
	"left4.me/left4/test/trace"
)

// TestMain is also the child that is killed: it waits for a line, opens a database, defines an instance, makes a backup and
// closes the database, and says how far it has come.
func TestMain(m *testing.M) {
	path := os.Getenv("LEFT4_STORE_CHILD")
	if path == "" {
		os.Exit(m.Run())
	}
	bufio.NewReader(os.Stdin).ReadString('\n')
	s, err := Open(path)
	if err != nil {
		panic(err)
	}
	fmt.Println("opened")
	if err := s.CreateInstance(definition("new", 27100), Ports{}); err != nil {
		panic(err)
	}
	fmt.Println("stored")
	if err := errors.Join(s.BackUp(), s.Close()); err != nil {
		panic(err)
	}
	fmt.Println("closed")
}

// child runs the child on a database and kills it at its nth call that changes a file there, 0 = never. It returns what
// the child has said, and its calls.
func child(t *testing.T, path string, n int) (said string, calls []trace.Call) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	told, tell, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	// The shell waits for it: who traces it must not.
	cmd := exec.Command("sh", "-c", `exec 3<&0; { exec "$0" <&3; } & echo $! >&4; wait $!`, exe)
	cmd.Env = append(os.Environ(), "LEFT4_STORE_CHILD="+path, "GORACE=atexit_sleep_ms=0")
	cmd.ExtraFiles = []*os.File{nil, tell}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	tell.Close()
	pid := 0
	if err == nil {
		_, err = fmt.Fscan(told, &pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	here := func(c trace.Call) bool { return c.Message == "" && strings.Contains(c.On, filepath.Dir(path)) }
	tracee, err := trace.Attach(pid, trace.Plan{Counts: here, At: n})
	if errors.Is(err, unix.EPERM) {
		cmd.Process.Kill()
		cmd.Wait()
		t.Skipf("processes may not be traced here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "go\n")
	cmd.Wait()
	if calls, err = tracee.Detach(); err != nil {
		t.Fatal(err)
	}
	if n == 0 && !strings.HasSuffix(out.String(), "closed\n") {
		t.Fatalf("the child:\n%s", &out)
	}
	return out.String(), calls
}

// Wherever left4d is killed, while it opens, restores, commits, backs up or closes: the next one has all that was stored,
// the backup is good, and what was damaged is kept.
func TestFaultAKillAtAnyCallIsHarmless(t *testing.T) {
	if !trace.Supported {
		t.Skip("nothing can be traced on this machine")
	}
	step := 29
	if os.Getenv("LEFT4_FULL") != "" {
		step = 1
	}
	garbage := bytes.Repeat([]byte("no database "), 3000)
	points, wrongs := 0, 0
	for what, damage := range map[string]func(path string){
		"sound":   func(string) {},
		"damaged": func(path string) { write(t, path, garbage) },
		"missing": func(path string) { os.Remove(path) },
		"new":     func(path string) { os.Remove(path); os.Remove(backupOf(path)) },
	} {
		original := kept(t)
		db, backup := read(t, original), read(t, backupOf(original))
		prepare := func() string {
			path := filepath.Join(t.TempDir(), "left4.db")
			write(t, path, db)
			write(t, backupOf(path), backup)
			damage(path)
			return path
		}
		_, calls := child(t, prepare(), 0)
		if len(calls) < 20 {
			t.Fatalf("%s: only %d calls: %v", what, len(calls), calls)
		}
		for n := 1 + len(what)%step; n <= len(calls); n += step {
			path := prepare()
			said, met := child(t, path, n)
			wrong := func(format string, args ...any) {
				wrongs++
				t.Errorf("%s, killed at %d of %d, %v: %s", what, n, len(calls), met[len(met)-1], fmt.Sprintf(format, args...))
			}
			points++
			s, err := Open(path)
			if err != nil {
				wrong("the next one: %v", err)
				continue
			}
			got := instances(t, s)
			if strings.Contains(said, "stored") && !slices.Contains(got, "new") {
				wrong("what was stored is lost: %q", got)
			}
			if what != "new" && !slices.Contains(got, "a") || what == "sound" && !slices.Contains(got, "b") {
				wrong("there are %q", got)
			}
			if losses, err := s.Losses(); err != nil || len(losses) > 0 != (what == "damaged" || what == "missing") {
				wrong("losses %+v, %v", losses, err)
			}
			if what == "damaged" {
				if all, err := s.Damaged(); err != nil || len(all) != 1 || !bytes.Equal(read(t, all[0]), garbage) {
					wrong("kept is %q, %v", all, err)
				}
			}
			if err := s.Close(); err != nil {
				wrong("%v", err)
			}
			if again, err := restoredFrom(t, read(t, backupOf(path))); err != nil {
				wrong("its backup: %v", err)
			} else {
				if now := instances(t, again); !slices.Equal(now, got) {
					wrong("the backup has %q", now)
				}
				again.Close()
			}
			if left, _ := filepath.Glob(path + "*.part*"); len(left) > 0 {
				wrong("left is %q", left)
			}
		}
	}
	report.Add(t, report.Row{
		Table: "fault", Name: "database: killed at calls of open, restore, commit, backup",
		Figures: []report.Figure{report.Count("points", points), report.Count("violations", wrongs)}, Goal: "0 violations", Met: wrongs == 0,
	})
}
