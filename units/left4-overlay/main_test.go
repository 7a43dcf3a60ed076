package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"left4.me/left4/units"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	layout := units.Layout{State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run")}
	for _, d := range []string{layout.State + "/game/3", layout.Run} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := layout.WriteInstance("good", units.Plan{Digest: "d", Lower: []string{"game/3"}}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := layout.WriteInstance("bad", units.Plan{Digest: "d", Lower: []string{"game/4"}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(layout.State+"/instances/good/cfg/server.cfg", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)

	for _, c := range []struct {
		args           string
		code           int
		stdout, stderr string // what they hold; "": nothing
	}{
		{"", 2, "", "left4-overlay: no command given\n"},
		{"--help", 0, "usage: left4-overlay mount NAME", ""},
		{"-h", 0, "check-port", ""},
		{"mount", 2, "", "mount takes the name of one instance"},
		{"mount a b", 2, "", "mount takes the name of one instance"},
		{"mount ../a", 2, "", `"../a" is no name of an instance`},
		{"umount A", 2, "", `"A" is no name of an instance`},
		{"plan .", 2, "", `"." is no name`},
		{"unmount a", 2, "", `unknown command "unmount"`},
		{"plan absent", 1, "", `left4-overlay: cannot mount absent: "absent": no such file or directory` + "\n"},
		{"plan bad", 1, `lower    "game/4": unusable`, `cannot mount bad: layer "game/4"`},
		{"plan good", 0, "mounted  no\n", ""},
		{"umount good", 0, "", "good is not mounted\n"},
		{"umount absent", 0, "", "absent is not mounted\n"},
		{"clone good", 2, "", "clone takes the names of two instances"},
		{"clone good Bad", 2, "", `"Bad" is no name of an instance`},
		{"clone good new", 0, `"Done":true`, ""},
		{"clone good good", 1, `"Error":"they are one instance"`, "cannot copy the files of good to good: they are one instance\n"},
		{"check-port", 2, "", "a port and at most one address"},
		{"check-port 0", 2, "", `"0" is no port`},
		{"check-port 65536", 2, "", `"65536" is no port`},
		{"check-port -1", 2, "", `"-1" is no port`},
		{"check-port 27015 localhost", 2, "", `"localhost" is no address`},
		{"check-port " + taken, 98, "", "port " + taken + " is taken by another program (TCP)"},
		{"check-port " + taken + " 127.0.0.1", 98, "", "is taken by another program"},
		{"check-port " + taken + " 127.0.0.2", 0, "", ""},
		{"check-port 27015 192.0.2.1", 1, "", "192.0.2.1 is no address of this machine"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(strings.Fields(c.args), layout, &stdout, &stderr)
		fits := func(got, want string) bool {
			return want == "" && got == "" || want != "" && strings.Contains(got, want)
		}
		if code != c.code || !fits(stdout.String(), c.stdout) || !fits(stderr.String(), c.stderr) {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", c.args, code, stdout.String(), stderr.String())
		}
	}
}

// The service manager shows an error as the unit's status.
func TestErrorsAreNotified(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	layout := units.Layout{State: filepath.Join(t.TempDir(), "new\nline"), Run: t.TempDir()}
	var stdout, stderr bytes.Buffer
	if code := run([]string{"umount", "a"}, layout, &stdout, &stderr); code != 1 {
		t.Errorf("exit %d", code)
	}
	buf := make([]byte, 4096)
	n, err := l.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	got := string(buf[:n])
	if !strings.HasPrefix(got, "STATUS=cannot unmount a: ") || strings.Contains(got, "\n") {
		t.Errorf("told %q", got)
	}
}
