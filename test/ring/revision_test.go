package ring

import (
	"strconv"
	"strings"
	"testing"
)

// fingerprint stands for all that a server can read of its files: names, modes, times and content, as its process sees
// them.
func (p play) fingerprint(name string) string {
	p.t.Helper()
	return p.Run(p.t, "sh", "-ec", `cd "/proc/$1/cwd"
		{ find . -printf '%y %m %s %T@ %p %l\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum`,
		"sh", strconv.Itoa(p.pid(name)))
}

// reads is the content of a file as a server sees it, "" if there is none.
func (p play) reads(name, file string) string {
	p.t.Helper()
	return strings.TrimSpace(p.Try("cat", "/proc/"+strconv.Itoa(p.pid(name))+"/cwd/left4dead2/"+file).Out)
}

// lower are the layers that an instance is mounted from, as the kernel was told.
func (p play) lower(name string) string {
	p.t.Helper()
	for _, line := range p.mounts() {
		if strings.Contains(line, "/runtime/"+name+"/merged ") {
			_, options, _ := strings.Cut(line, " - overlay ")
			return options
		}
	}
	p.t.Fatalf("%s is not mounted", name)
	return ""
}

func TestAMountedRevisionNeverChanges(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		const file = "left4dead2/maps/extra.bsp"
		pending := func(name, want string) {
			t.Helper()
			if got := p.get(name, "PendingRestart"); got != want {
				t.Errorf("PendingRestart of %s is %s", name, got)
			}
		}
		reads := func(name, want string) {
			t.Helper()
			if got := p.reads(name, "maps/extra.bsp"); got != want {
				t.Errorf("%s reads %q, not %q", name, got, want)
			}
		}
		ends := p.jobsEnd()
		p.layer("maps", map[string]string{file: "two", "left4dead2/maps/old.bsp": "old"})
		dir := p.overlayDir("maps")
		for _, name := range []string{"a", "b"} {
			p.ctl("create", name, "--overlay=maps")
			p.ctl("start", name)
		}
		p.ready(27015)
		p.ready(27016)
		a, b := p.fingerprint("a"), p.fingerprint("b")

		p.revise("maps", map[string]string{file: "three"})
		if p.fingerprint("a") != a || p.fingerprint("b") != b {
			t.Error("a running server sees the new revision")
		}
		pending("a", "true")
		pending("b", "true")
		// The empty first one is one too many to be kept for a rollback.
		p.waitFor(ends, dir, "2", "3")

		p.ctl("restart", "a")
		p.ready(27015)
		reads("a", "three")
		reads("b", "two")
		if p.reads("a", "maps/old.bsp") != "" || p.reads("b", "maps/old.bsp") != "old" {
			t.Error("a file that the new revision has not is with the wrong server")
		}
		if p.fingerprint("b") != b {
			t.Error("the restart of a is seen by b")
		}
		pending("a", "false")
		pending("b", "true")
		if a, b := p.lower("a"), p.lower("b"); !strings.Contains(a, dir+"/3") || strings.Contains(a, dir+"/2") || !strings.Contains(b, dir+"/2") {
			t.Errorf("mounted are\n%s\n%s", a, b)
		}

		// With two newer ones, that of b is not kept for a rollback any more, but as long as it is mounted.
		p.revise("maps", map[string]string{file: "four"})
		p.revise("maps", map[string]string{file: "five"})
		p.waitFor(ends, dir, "2", "3", "4", "5")
		if p.fingerprint("b") != b {
			t.Error("b sees a newer revision")
		}
		p.ctl("restart", "a")
		p.ready(27015)
		reads("a", "five")
		p.waitFor(ends, dir, "2", "4", "5")

		p.ctl("overlay", "rollback", "maps")
		if got := p.ofOverlay("maps", "Revision"); got != "4" {
			t.Errorf("after the rollback the revision is %s", got)
		}
		pending("a", "true")
		p.waitFor(ends, dir, "2", "4", "5")
		p.ctl("restart", "a")
		p.ready(27015)
		reads("a", "four")
		p.waitFor(ends, dir, "2", "4")
		if p.fingerprint("b") != b {
			t.Error("b sees the rollback")
		}
		p.refused(t, []string{"overlay", "rollback", "maps", "5"}, "there is no revision 5 on disk")
		p.ctl("stop", "b")
		p.ctl("overlay", "configure", "maps", "--keep=0")
		p.waitFor(ends, dir, "4")
		p.ctl("start", "b")
		p.ready(27016)
		reads("b", "four")
		// A number is never given again.
		p.revise("maps", map[string]string{file: "six"})
		if got := p.ofOverlay("maps", "Revision"); got != "6" {
			t.Errorf("the next revision is %s", got)
		}
	})
}

func TestTheGameHasRevisionsToo(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		const dir = "/var/lib/left4/game"
		ends := p.jobsEnd()
		for _, name := range []string{"a", "b"} {
			p.ctl("create", name)
			p.ctl("start", name)
		}
		p.ready(27015)
		p.ready(27016)
		a, b := p.fingerprint("a"), p.fingerprint("b")
		p.Run(t, "sh", "-c", "echo two >/root/game/left4dead2/second.txt; rm /root/game/left4dead2/maps/c14m2_lighthouse.bsp")
		p.ctl("game", "import", "/root/game")
		if p.fingerprint("a") != a || p.fingerprint("b") != b {
			t.Error("a running server sees the new game")
		}
		p.ctl("restart", "a")
		p.ready(27015)
		if p.reads("a", "second.txt") != "two" || p.reads("b", "second.txt") != "" || p.fingerprint("b") != b {
			t.Error("the servers have the wrong games")
		}
		if a, b := p.lower("a"), p.lower("b"); !strings.Contains(a, dir+"/2") || !strings.Contains(b, dir+"/1") {
			t.Errorf("mounted are\n%s\n%s", a, b)
		}
		for name, want := range map[string]string{"a": "false", "b": "true"} {
			if got := p.get(name, "PendingRestart"); got != want {
				t.Errorf("PendingRestart of %s is %s", name, got)
			}
		}
		p.ctl("game", "rollback")
		for name, want := range map[string]string{"a": "true", "b": "false"} {
			if got := p.get(name, "PendingRestart"); got != want {
				t.Errorf("after the rollback PendingRestart of %s is %s", name, got)
			}
		}
		p.waitFor(ends, dir, "1", "2")
		p.ctl("restart", "a")
		p.ready(27015)
		if p.reads("a", "second.txt") != "" {
			t.Error("a has the second game after the rollback")
		}
		p.waitFor(ends, dir, "1")
		if got := p.ctl("game", "revisions", "--no-legend"); !strings.HasPrefix(got, "1 ") || strings.Contains(got, "\n") {
			t.Errorf("the revisions are\n%s", got)
		}
		p.ctl("game", "import", "/root/game")
		p.waitFor(ends, dir, "1", "3")
	})
}
