package ctl

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"left4.me/left4/client/clienttest"
)

// terminal is a terminal that nobody looks at.
func terminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { slave.Close() })
	return slave
}

func TestBinaryIsNotPrintedOnATerminal(t *testing.T) {
	bus := clienttest.StartBus(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	d := clienttest.StartDaemon(t, bus)
	d.AddOverlay("sm", map[string]string{"text": "tab\tü\r\n", "binary": "\x7fELF\x00", "nasty": "\x1b]0;x\a", "late": strings.Repeat("x", 100000) + "\xff"})
	for file, want := range map[string]string{
		"text": "",
		"binary": "left4ctl: cannot get binary: it holds bytes that a terminal would not show as they are: " +
			"name a FILE, or - with a pipe behind it\n",
		"nasty": "left4ctl: cannot get nasty: it holds bytes that a terminal would not show as they are: " +
			"name a FILE, or - with a pipe behind it\n",
		"late": "left4ctl: cannot get late: it holds bytes that a terminal would not show as they are: " +
			"name a FILE, or - with a pipe behind it\n",
	} {
		var errs strings.Builder
		code := Run(t.Context(), "", []string{"overlay", "get", "sm", file}, strings.NewReader(""), terminal(t), &errs)
		if errs.String() != want || (code == exitOK) != (want == "") {
			t.Errorf("%s: exit status %d\n%s", file, code, errs.String())
		}
	}
}

func TestPathsOfOverlays(t *testing.T) {
	for text, want := range map[string]string{
		"cfg/server.cfg": "cfg/server.cfg", "cfg//x/": "cfg/x", "./a/../b": "b", `a\\b`: `a\b`, `\xff`: "\xff", "a b": "a b", "..a": "..a",
		"": "", ".": "", "/": "", "/a": "", "..": "", "../a": "", "a/../..": "", `a\`: "", `\x00`: "",
	} {
		got, err := overlayPath(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is read as %q: %v", text, got, err)
		}
	}
}

func TestSizesForPeople(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0", 1023: "1023", 1024: "1.0K", 1536: "1.5K", 1047552: "1023.0K", 1048575: "1.0M", 1 << 30: "1.0G", 1<<64 - 1: "16.0E",
	} {
		if got := roughSize(n); got != want {
			t.Errorf("%d is shown as %s", n, got)
		}
	}
}

func TestDifferenceOfLists(t *testing.T) {
	for _, tt := range []struct{ from, to, want string }{
		{"", "", ""},
		{"a b", "a b", ""},
		{"a b c", "a x c", "- b + x"},
		{"", "a b", "+ a + b"},
		{"a b", "", "- a - b"},
		{"a b c", "c a b", "+ c - c"},
		{"a a", "a", "- a"},
	} {
		lines := listDifference("k", strings.Fields(tt.from), strings.Fields(tt.to))
		got := strings.TrimPrefix(strings.TrimPrefix(strings.Join(lines, " "), "k:"), " ")
		if got != tt.want {
			t.Errorf("%s to %s: %s", tt.from, tt.to, got)
		}
	}
}

func TestEditorIsTheOneThatIsAskedFor(t *testing.T) {
	for _, tt := range []struct {
		visual, editor, there string
		want                  string
	}{
		{"emacs -nw", "nano", "editor vi", "[emacs -nw]"},
		{" ", "nano", "editor vi", "[nano]"},
		{"", "", "editor vi", "[editor]"},
		{"", "", "vi", "[vi]"},
		{"", "", "", "there is no editor: set EDITOR"},
	} {
		got, err := findEditor(
			func(name string) string { return map[string]string{"VISUAL": tt.visual, "EDITOR": tt.editor}[name] },
			func(name string) (string, error) {
				if strings.Contains(tt.there, name) {
					return "/usr/bin/" + name, nil
				}
				return "", exec.ErrNotFound
			})
		text := fmt.Sprint(got)
		if err != nil {
			text = err.Error()
		}
		if text != tt.want {
			t.Errorf("%+v: %s", tt, text)
		}
	}
}

// A file is there as a whole or not at all, also when the disk is full.
func TestNothingIsLeftOfAFileThatCannotBeSaved(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/there", []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	closed, err := os.Open(dir + "/there")
	if err != nil {
		t.Fatal(err)
	}
	write, err := os.OpenFile(dir+"/there", os.O_WRONLY, 0) // cannot be read
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, from := range []*os.File{closed, write} {
		if save(from, dir+"/there") == nil {
			t.Error("saved what cannot be read")
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Error(left, err)
	}
	if text, err := os.ReadFile(dir + "/there"); string(text) != "before" || err != nil {
		t.Errorf("%q %v", text, err)
	}
}
