package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
)

// scriptRun is what has come of a script that ran in an empty directory.
type scriptRun struct {
	dir, out string
	outcome
	err error

	mu    sync.Mutex
	notes []string
}

func (r *scriptRun) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, text)
}

func runText(t *testing.T, ctx context.Context, o order.Script, alone func() error) *scriptRun {
	t.Helper()
	r := &scriptRun{dir: t.TempDir()}
	t.Chdir(r.dir)
	var out bytes.Buffer
	env := map[string]string{"LEFT4_JOB": "7", "LEFT4_OVERLAY": "maps", "LEFT4_OVERLAY_ID": "3"}
	s := &script{order: o, temp: t.TempDir(), getenv: func(name string) string { return env[name] }, out: &out, note: r.note, alone: alone}
	r.outcome, r.err = s.build(ctx)
	r.out = out.String()
	return r
}

func TestScriptMakesFiles(t *testing.T) {
	base := t.TempDir()
	if err := os.WriteFile(filepath.Join(base, "old"), []byte("old\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("old", filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	r := runText(t, t.Context(), order.Script{Base: base, Text: `
		[[ $LEFT4_JOB/$LEFT4_OVERLAY/$LEFT4_OVERLAY_ID == 7/maps/3 && -z ${NOTIFY_SOCKET-} ]]
		(cd "$HOME" && cd "$TMPDIR" && echo x > scratch)
		[[ -z $(cat) ]] # nothing to read
		echo more >> old
		mkdir -p left4dead2/addons secret
		umask 077
		echo made | tee left4dead2/addons/a.txt
		echo '#!/bin/sh' > run.sh; chmod 700 run.sh
		touch secret/x; chmod 0 secret/x secret .
	`}, nil)
	if r.err != nil {
		t.Fatal(r.err)
	}
	if r.files != 5 || r.bytes != 9+5+10 {
		t.Errorf("counted %d files, %d bytes", r.files, r.bytes)
	}
	for name, mode := range map[string]os.FileMode{".": 0o755, "left4dead2/addons": 0o755, "left4dead2/addons/a.txt": 0o644, "run.sh": 0o744, "old": 0o755, "secret": 0o755, "secret/x": 0o644} {
		if st, err := os.Stat(filepath.Join(r.dir, name)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	if text, _ := os.ReadFile(filepath.Join(base, "old")); string(text) != "old\n" {
		t.Errorf("the base has become %q", text)
	}
	if text, _ := os.ReadFile(filepath.Join(r.dir, "link")); string(text) != "old\nmore\n" {
		t.Errorf("the copy of the base holds %q", text)
	}
	if r.out != "made\nleft4-worker: the script made 5 files, 24 bytes\n" {
		t.Errorf("it printed %q", r.out)
	}
}

func TestScriptFails(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"exit 3", "the script ended with status 3"},
		{"echo out; echo more >&2\necho last; echo; false\necho never", "the script ended with status 1 in line 2: last"},
		{"\n\necho 'curl: (6) Could not resolve host: x' >&2; (exit 6)", "the script ended with status 6 in line 3: curl: \\(6\\) Could not resolve host: x"},
		{"f() {\n  false\n}\nif f; then :; fi\nx=$(false) || :\nset +e; false; set -e\nexit 9", "the script ended with status 9"},
		{"f() {\n  (exit 4)\n}\nf", "the script ended with status 4 in line 2"},
		{"false | cat", "the script ended with status 1 in line 1"},
		{"nowhere-to-be-found", "the script ended with status 127 in line 1: .*/script: line 1: nowhere-to-be-found: command not found"},
		{"if", "the script ended with status 2: .*/script: line 2: syntax error: unexpected end of file.*"},
		{"echo \"$nothing\"", "the script ended with status 1: .*/script: line 1: nothing: unbound variable"},
		{"printf '\\033[31mred\\033[0m\\a\\033]0;title\\007 \\xff\\n' >&2; false", "the script ended with status 1 in line 1: red  \\?"},
		{"kill -9 $$", "the script was killed by SIGKILL"},
		{"mkfifo left4dead2-fifo", `"left4dead2-fifo": a FIFO is not allowed`},
		{"mkdir a; ln -s /etc/passwd a/b", `"a/b": a link to an absolute name, "/etc/passwd", is not allowed`},
		{"mkdir a; ln -s ../../x a/b", `"a/b": a link out of the overlay, to "../../x", is not allowed`},
		{"mkdir -p a/b; ln -s . c; ln -s c/../.. a/d; ln -s a/b/../../.. e", `".*": a link out of the overlay.*`},
		{"mkdir -p a/b; ln -s . a/b/here; ln -s here/../../.. a/b/out", `"a/b/out": a link out of the overlay.*`},
		{"ln -s a b; ln -s b a", `"[ab]": a link that leads through more than 40 others, or to itself, is not allowed`},
		{"touch s; chmod 4755 s", `"s": a setuid file is not allowed`},
		{"touch s; chmod 2755 s", `"s": a setgid file is not allowed`},
		{"python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'", `"s": a socket is not allowed`},
		{"for n in 1 2 3 4 5; do truncate -s 60G f$n; done", `"f.": with it the overlay holds more than 274877906944 bytes`},
	} {
		r := runText(t, t.Context(), order.Script{Text: c.text}, nil)
		if r.err == nil || !regexp.MustCompile("^"+c.want+"$").MatchString(r.err.Error()) {
			t.Errorf("%q: %v, want %s", c.text, r.err, c.want)
		}
	}
}

// What it says by itself is told, at last also where nothing follows for a long time.
func TestScriptSaysWhatItIsAt(t *testing.T) {
	told := make(chan string, 100)
	s := &script{note: func(text string) { told <- text }, out: &bytes.Buffer{}}
	s.printed("a line")
	s.printed("::status compiling 3 plugins")
	for text := range told {
		if r := status.ParseStatus(text); r.Detail == "compiling 3 plugins" {
			return
		}
	}
}

// The journal is not only its own.
func TestScriptThatPrintsWithoutEnd(t *testing.T) {
	r := runText(t, t.Context(), order.Script{Text: "head -c 40M /dev/zero | tr '\\000' x | fold -w 1000\necho\necho end\nfalse"}, nil)
	if r.err == nil || !strings.HasSuffix(r.err.Error(), ": end") || len(r.out) > maxShown+1000 || !strings.HasSuffix(r.out, "\nleft4: the script has printed more than 16 MiB; no more of it is shown\n") {
		t.Errorf("%d bytes, %v", len(r.out), r.err)
	}
}

func TestScriptIsStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := make(chan *scriptRun)
	begun := filepath.Join(t.TempDir(), "begun")
	if err := unix.Mkfifo(begun, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		if _, err := os.ReadFile(begun); err != nil {
			t.Error(err)
		}
		cancel()
	}()
	go func() {
		r <- runText(t, ctx, order.Script{Text: "trap '' TERM INT; echo > " + begun + "; exec sleep 1000"}, nil)
	}()
	select {
	case r := <-r:
		if r.err == nil || r.err.Error() != "the script was stopped" {
			t.Error(r.err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
}

// As in its unit: what it has started ends with it, and it can signal nobody else.
func TestScriptIsAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a process namespace takes root")
	}
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	r := runText(t, t.Context(), order.Script{Text: fmt.Sprintf(`
		grep -E '^CapAmb:' /proc/self/status > caps
		(trap '' TERM HUP INT; setsid sleep 1000 & setsid sh -c 'while echo more; do :; done' >/dev/null &) &
		if kill -9 %d 2>/dev/null; then echo killed it; fi
		kill -9 -1 2>/dev/null || :
		echo "$$"
	`, other.Process.Pid)}, alone)
	if r.err != nil || !strings.Contains("\n"+r.out, "\n1\n") || strings.Contains(r.out, "killed it") {
		t.Fatalf("%v\n%s", r.err, r.out)
	}
	if err := other.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("another process: %v", err)
	}
	caps, err := os.ReadFile(filepath.Join(r.dir, "caps"))
	if err != nil || regexp.MustCompile(`:\s0*[1-9a-f]`).Match(caps) {
		t.Errorf("capabilities: %v\n%s", err, caps)
	}
	// Whatever it has started is still in its directory.
	places, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range places {
		if at, err := os.Readlink(place); err == nil && at == r.dir && filepath.Dir(place) != fmt.Sprint("/proc/", os.Getpid()) {
			t.Errorf("a process of it goes on: %s", place)
		}
	}
}

func TestOrderOfAScript(t *testing.T) {
	for _, text := range []string{"", `{"Text": 1}`, `{"Txt": ""}`} {
		var errs bytes.Buffer
		if code := run([]string{"script"}, func(string) string { return "" }, strings.NewReader(text), &errs); code != 2 {
			t.Errorf("%q: %d %s", text, code, errs.String())
		}
	}
	// Nothing bars private networks here, so a script is refused, and does nothing.
	t.Chdir(t.TempDir())
	text, _ := json.Marshal(order.Script{Text: "touch there"})
	var errs bytes.Buffer
	code := run([]string{"script"}, func(string) string { return "" }, bytes.NewReader(text), &errs)
	if _, err := os.Stat("there"); code != 1 || err == nil || !strings.Contains(errs.String(), "does not keep a script from private networks") {
		t.Errorf("%d %s", code, errs.String())
	}
}
