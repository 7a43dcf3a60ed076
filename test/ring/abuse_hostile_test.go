package ring

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"unicode/utf8"
)

const hostilePort = "27015" // of the first instance

// bringHostile makes the overlay hostile, whose srcds_run is left4-hostile: a 32-bit program as the game is, and beside it as try64
// one of the machine's own kind.
func (p play) bringHostile() {
	p.t.Helper()
	small, large := buildHostile(p.t, "386"), buildHostile(p.t, "amd64")
	p.CopyIn(p.t, large, "/usr/local/bin/left4-hostile")
	p.CopyIn(p.t, small, "/root/hostile/srcds_run")
	p.CopyIn(p.t, large, "/root/hostile/try64")
	p.ctl("overlay", "create", "hostile")
	p.ctl("overlay", "import", "hostile", "/root/hostile")
}

func buildHostile(t TB, arch string) string {
	t.Helper()
	return buildOnce(t, "left4-hostile-"+arch, func(out string) error {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-o", out, "left4.me/left4/test/standin/cmd/left4-hostile")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build left4-hostile: %w\n%s", err, text)
		}
		return nil
	})
}

// inside runs a command in the sandbox of the hostile server at a port, in its tree.
func (p play) inside(port string, argv ...string) Result {
	p.t.Helper()
	return p.insideInput(port, "", argv...)
}

func (p play) insideInput(port, input string, argv ...string) Result {
	p.t.Helper()
	r := p.run(strings.NewReader(input), append([]string{"left4-hostile", "ask", port}, argv...)...)
	if r.Code == 125 {
		p.t.Fatalf("the hostile server at %s does not answer: %+v", port, r)
	}
	return r
}

// traceOf is all that can be told of the files at these paths of the machine; two that are equal saw the same files.
func (p play) traceOf(paths ...string) string {
	p.t.Helper()
	return p.Run(p.t, append([]string{"sh", "-ec", `
		# A directory's time is that of what came and went there meanwhile.
		find "$@" -xdev \( -type d -printf '%p %y %i %m %U:%G %n\n' \) -o -printf '%p %y %i %m %U:%G %s %n %T@ %l\n' 2>/dev/null | sort
		find "$@" -xdev -type f -print0 2>/dev/null | sort -z | xargs -0r sha256sum`, "sh"}, paths...)...)
}

// differences are the lines that two fingerprints do not share.
func differences(before, after string) string {
	lines := map[string]int{}
	for line := range strings.SplitSeq(before, "\n") {
		lines[line]--
	}
	for line := range strings.SplitSeq(after, "\n") {
		lines[line]++
	}
	var found []string
	for line, n := range lines {
		switch {
		case n < 0:
			found = append(found, "- "+line)
		case n > 0:
			found = append(found, "+ "+line)
		}
	}
	if len(found) > 40 {
		found = append(found[:40], fmt.Sprintf("and %d more", len(found)-40))
	}
	return strings.Join(found, "\n")
}

// unsafe tells of bytes that a terminal would obey, or of none that it could show.
func unsafe(text string) bool {
	return strings.ContainsAny(text, "\x1b\x07\u009b\u202e") || !utf8.ValidString(text)
}
