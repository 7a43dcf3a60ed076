package ring

import (
	"database/sql"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	_ "github.com/mattn/go-sqlite3"

	"left4.me/left4/test/report"
)

// hurt is a machine whose database is damaged while its servers run.
type hurt struct {
	play
	test    *testing.T
	db      string // from here
	servers map[string]int
	export  string // what is defined
	faults  int
	wrongs  int
}

// TestFaultDatabase damages the database in many ways, under servers that run: nothing that is on disk or in systemd goes
// by that, all that was defined is defined again, and what was lost is told.
func TestFaultDatabase(t *testing.T) {
	each := Once
	if full() {
		each = Each
	}
	each(t, func(t *testing.T, m *Machine) {
		h := &hurt{play: play{m, t}, test: t}
		h.install()
		h.db = filepath.Join(h.State(), "left4.db")
		h.layer("maps", map[string]string{"left4dead2/maps/extra.bsp": "good"})
		h.layer("sm", map[string]string{"left4dead2/cfg/server.cfg": "sv_x 1"})
		h.ctl("blueprint", "create", "bp", "--overlay=sm:*", "--config-line=sv_cheats 0")
		h.ctl("create", "a", "--overlay=maps", "--label=The first", "--limit=TasksMax=99")
		h.ctl("create", "b", "--blueprint=bp", "--port=27020", "--restart=on-failure")
		h.ctl("start", "a", "b")
		h.ready(27015)
		h.ready(27020)
		h.servers = map[string]int{"a": h.pid("a"), "b": h.pid("b")}
		h.export = h.ctl("export")
		if r := h.Try("left4ctl", "doctor"); r.Code != 0 {
			t.Fatalf("there are problems before any fault: %+v", r)
		}
		for _, fault := range []func(){h.restored, h.refused, h.underneath, h.withoutBackup, h.killedAtCommits} {
			fault()
		}
		h.played()
		report.Add(t, report.Row{
			Table: "fault", Suite: m.Suite, Name: "database: damaged, lost, locked, killed at commits",
			Figures: []report.Figure{report.Count("faults", h.faults), report.Count("violations", h.wrongs)},
			Goal:    "0 violations", Met: h.wrongs == 0,
		})
	})
}

func (h *hurt) wrong(format string, args ...any) {
	h.t.Helper()
	h.wrongs++
	h.test.Errorf(format, args...)
}

// sound looks whether all is as it was before a fault, and as it should be.
func (h *hurt) sound(after string) {
	h.t.Helper()
	h.faults++
	for _, wrong := range violations(h.test, h.Machine, h.servers) {
		h.wrong("after %s: %s", after, wrong)
	}
	if got := h.ctl("export"); got != h.export {
		h.wrong("after %s there is defined\n%s\nand was\n%s", after, got, h.export)
	}
}

// down does something to the database while left4d is down, killed in the middle of nothing.
func (h *hurt) down(do func()) {
	h.t.Helper()
	h.killLeft4d(func() {})
	do()
	h.startLeft4d()
}

// backedUp waits until the backup has all that is defined.
func (h *hurt) backedUp() {
	h.t.Helper()
	h.Run(h.t, "systemctl", "restart", "left4d.service")
}

func (h *hurt) must(err error) {
	h.t.Helper()
	if err != nil {
		h.test.Fatal(err)
	}
}

// sql changes the database by hand.
func (h *hurt) sql(statement string) {
	h.t.Helper()
	db, err := sql.Open("sqlite3", "file:"+h.db)
	h.must(err)
	defer db.Close()
	_, err = db.Exec(statement)
	h.must(err)
}

// schema is the version of the database's.
func (h *hurt) schema() (version string) {
	h.t.Helper()
	db, err := sql.Open("sqlite3", "file:"+h.db)
	h.must(err)
	defer db.Close()
	h.must(db.QueryRow("PRAGMA user_version").Scan(&version))
	return version
}

func (h *hurt) remove(ends ...string) {
	h.t.Helper()
	for _, end := range ends {
		if err := os.Remove(h.db + end); err != nil && !os.IsNotExist(err) {
			h.test.Fatal(err)
		}
	}
}

// settled takes the log into the database, which is all there is then.
func (h *hurt) settled() { h.sql("PRAGMA wal_checkpoint(TRUNCATE)") }

// flip changes bits of the pages behind the first.
func (h *hurt) flip(seed int64) {
	h.t.Helper()
	data, err := os.ReadFile(h.db)
	h.must(err)
	random := rand.New(rand.NewSource(seed))
	for page := 4096; page < len(data); page += 4096 {
		for range 8 {
			data[page+random.Intn(64)] ^= byte(1 << random.Intn(8)) // its header, and the first cells
		}
	}
	h.must(os.WriteFile(h.db, data, 0o600))
}

// restored are the damages whose place the backup takes.
func (h *hurt) restored() {
	h.backedUp()
	damages := []struct {
		what string
		do   func()
	}{
		{"a missing database", func() { h.remove("", "-wal", "-shm") }},
		{"one that is cut off", func() { h.settled(); h.must(os.Truncate(h.db, 3*4096+1000)) }},
		{"flipped bits", func() { h.settled(); h.flip(1) }},
		{"a kill in a restore", func() { h.must(os.Rename(h.db, h.db+".damaged-20260101T000000.000000Z")) }},
		{"an empty one", func() { h.must(os.Truncate(h.db, 0)) }},
		{"garbage", func() { h.must(os.WriteFile(h.db, []byte(strings.Repeat("no database ", 3000)), 0o600)) }},
		{"a missing table", func() { h.sql("DROP TABLE revision") }},
		{"a foreign file", func() { h.sql("PRAGMA user_version = 0") }},
	}
	kept := 6
	if !full() {
		damages, kept = damages[:4], 3
	}
	for _, damage := range damages {
		what := damage.what
		h.down(damage.do)
		r := h.Try("left4ctl", "doctor")
		if r.Code != 1 || !strings.Contains(r.Out, "restored-database/left4.db (error)") || !strings.Contains(r.Out, "is lost") {
			h.wrong("after %s the loss is not told: %+v", what, r)
		}
		if !strings.Contains(h.Journal(h.t, "left4d.service"), "the database was restored at ") {
			h.wrong("after %s the journal does not tell the loss", what)
		}
		h.sound(what)
		if r := h.Try("left4ctl", "doctor", "--repair"); r.Code != 0 {
			h.wrong("after %s not all is repaired: %+v", what, r)
		}
	}
	if all, err := filepath.Glob(h.db + ".damaged-*Z"); err != nil || len(all) < kept {
		h.wrong("of the damaged files there are kept %q, %v", all, err)
	}
	// What was in the log alone, and is not torn, is not lost.
	h.ctl("rename", "a", "Another")
	h.down(func() {})
	if got := h.get("a", "Label"); got != "Another" {
		h.wrong("a kill has lost a label: %q", got)
	}
	h.ctl("rename", "a", "The first")
	h.sound("a kill behind a change")
}

// refused are those that are not damaged, and those that nothing can replace.
func (h *hurt) refused() {
	h.backedUp()
	backup, err := os.ReadFile(h.db + ".backup")
	h.must(err)
	schema := ""
	for what, c := range map[string]struct {
		do, undo func()
		want     string
	}{
		"a newer schema": {func() {
			schema = h.schema()
			h.sql("PRAGMA user_version = 99")
		}, func() { h.sql("PRAGMA user_version = " + schema) }, "newer left4"},
		"an open file": {func() { h.must(os.Chmod(h.db, 0o644)) }, func() { h.must(os.Chmod(h.db, 0o600)) }, "nobody else may read or write"},
		"no good backup": {func() {
			h.must(os.Rename(h.db, h.db+".kept"))
			h.must(os.WriteFile(h.db, []byte(strings.Repeat("x", 9000)), 0o600))
			h.must(os.WriteFile(h.db+".backup", backup[:5000], 0o600))
			h.remove("-wal", "-shm")
		}, func() {
			h.must(os.WriteFile(h.db+".backup", backup, 0o600))
			h.must(os.Rename(h.db+".kept", h.db))
		}, "move both away to start without definitions"},
	} {
		h.killLeft4d(func() {})
		h.settled()
		c.do()
		h.Run(h.t, "systemctl", "unmask", "--runtime", "left4d.service")
		h.Try("systemctl", "start", "left4d.service")
		r := h.Try("left4ctl", "doctor")
		if r.Code != 1 || !strings.Contains(r.Err, "left4d does not run") || !strings.Contains(r.Err, c.want) {
			h.wrong("%s is not told: %+v", what, r)
		}
		for name, pid := range h.servers {
			if h.pid(name) != pid {
				h.wrong("%s has stopped %s", what, name)
			}
		}
		h.Run(h.t, "systemctl", "stop", "left4d.service")
		c.undo()
		h.Run(h.t, "sh", "-c", "systemctl reset-failed left4d.service; systemctl start left4d.service")
		if r := h.Try("left4ctl", "doctor"); r.Code != 0 {
			h.wrong("%s is over, and there are problems: %+v", what, r)
		}
		h.sound(what)
	}

	// Held by another, and let go: systemd tries again.
	h.killLeft4d(func() {})
	db, err := sql.Open("sqlite3", "file:"+h.db+"?_locking_mode=EXCLUSIVE&_txlock=exclusive")
	h.must(err)
	tx, err := db.Begin()
	h.must(err)
	h.Run(h.t, "systemctl", "unmask", "--runtime", "left4d.service")
	if r := h.Try("systemctl", "start", "left4d.service"); r.Code == 0 {
		h.wrong("left4d started with a database that is locked")
	}
	if r := h.Try("left4ctl", "doctor"); !strings.Contains(r.Err, "another process holds it") {
		h.wrong("a lock is not told: %+v", r)
	}
	h.must(tx.Rollback())
	h.must(db.Close())
	h.WaitUnit(h.t, "left4d.service", "ActiveState", "active")
	if r := h.Try("left4ctl", "doctor"); r.Code != 0 {
		h.wrong("the lock is gone, and there are problems: %+v", r)
	}
	h.sound("a lock")
}

// underneath are damages of the file that a left4d has open.
func (h *hurt) underneath() {
	// A history that is larger than what SQLite keeps of a file.
	h.down(func() {
		h.sql(`WITH RECURSIVE n (i) AS (SELECT max(id) + 1 FROM job UNION ALL SELECT i + 1 FROM n LIMIT 9000)
			INSERT INTO job (id, kind, target, instance, state, requester, status, cause, timeout, created, started, finished)
			SELECT i, 'start', 'z', 0, 'failed', 0, '', printf('%0400d', i), 1, unixepoch() * 1000000, unixepoch() * 1000000, unixepoch() * 1000000 FROM n`)
	})
	h.backedUp()
	for what, damage := range map[string]func(){
		"flipped bits under a left4d that runs": func() { h.settled(); h.flip(2) },
		"a file that was taken away":            func() { h.remove("", "-wal", "-shm") },
		"a file that was cut off":               func() { h.settled(); h.must(os.Truncate(h.db, 4096)) },
	} {
		gone := "the database cannot be used any more"
		met := strings.Count(h.Journal(h.t, "left4d.service"), gone)
		damage()
		h.Try("left4ctl", "job", "list", "-n", "all")
		if what != "a file that was taken away" { // that one is still there for who has it open
			h.Eventually(h.t, "left4d sees "+what, func() bool { return strings.Count(h.Journal(h.t, "left4d.service"), gone) > met })
		}
		h.Run(h.t, "sh", "-c", "systemctl reset-failed left4d.service; systemctl restart left4d.service")
		h.Try("left4ctl", "rename", "a", "The first")
		if r := h.Try("left4ctl", "doctor", "--repair"); r.Code != 0 {
			h.wrong("after %s not all is repaired: %+v", what, r)
		}
		h.sound(what)
	}
}

// withoutBackup loses all that is known.
func (h *hurt) withoutBackup() {
	h.backedUp()
	h.down(func() { h.remove("", "-wal", "-shm", ".backup") })
	h.faults++
	if got := h.ctl("list", "--no-legend"); got != "" {
		h.wrong("something is known: %s", got)
	}
	r := h.Try("left4ctl", "doctor")
	for _, want := range []string{"orphaned-instance/a (error)", "orphaned-instance/b (error)", "orphaned-overlay/1 (error)", "orphaned-overlay/2 (error)", "orphaned-revision/game/1 (warning)", "a running server"} {
		if r.Code != 1 || !strings.Contains(r.Out, want) {
			h.wrong("not listed: %s: %+v", want, r)
		}
	}
	if r := h.Try("left4ctl", "create", "a"); r.Code != 1 || !strings.Contains(r.Err, "hint: left4ctl doctor") {
		h.wrong("the name of a running server is given again: %+v", r)
	}
	for name, pid := range h.servers {
		if h.pid(name) != pid {
			h.wrong("%s was stopped", name)
		}
	}
	if r := h.Try("left4ctl", "doctor", "--repair"); r.Code != 0 {
		h.wrong("not all is repaired: %+v", r)
	}
	h.sound("the loss of the database and its backup, and a repair")
}

// killedAtCommits kills left4d again and again while definitions are made: what was answered is stored.
func (h *hurt) killedAtCommits() {
	rounds := 3
	if full() {
		rounds = 40
	}
	lost := 0
	for round := range rounds {
		making := h.Start(h.t, "sh", "-c", `n=0; while [ ! -e /root/enough ]; do
			left4ctl create x-$1-$n >/dev/null 2>&1 && echo "made x-$1-$n."
			n=$((n+1)); done`, "sh", strconv.Itoa(round))
		told := making.Expect(h.t, fmt.Sprintf("made x-%d-%d.", round, 1+round%3))
		h.Run(h.t, "systemctl", "kill", "--signal=KILL", "left4d.service")
		told += making.Expect(h.t, "made ") // the next left4d takes them
		told += making.Expect(h.t, ".")
		h.Run(h.t, "touch", "/root/enough")
		rest, _ := making.Wait(h.t)
		h.Run(h.t, "rm", "/root/enough")
		told += rest
		list := h.ctl("list", "--no-legend", "--columns=name")
		for _, line := range strings.Split(told, "made ") {
			name, _, whole := strings.Cut(line, ".")
			if whole && !slices.Contains(strings.Fields(list), name) {
				lost++
				h.wrong("%s was made, and is not there", name)
			}
		}
		h.faults++
		for _, name := range strings.Fields(list) {
			if strings.HasPrefix(name, "x-") {
				h.ctl("delete", "-q", name)
			}
		}
	}
	h.Run(h.t, "systemctl", "reset-failed", "left4d.service")
	h.faults-- // sound counts one
	h.sound(fmt.Sprintf("%d kills while definitions were made", rounds))
	h.test.Logf("%d definitions were lost", lost)
}

// played shows that what was adopted is as good as before.
func (h *hurt) played() {
	h.ctl("restart", "a")
	h.ready(27015)
	h.ctl("stop", "b")
	h.ctl("start", "b")
	h.ready(27020)
	if h.reads("a", "maps/extra.bsp") != "good" {
		h.wrong("a has not its files")
	}
	h.ctl("delete", "a", "b")
	h.ctl("blueprint", "delete", "bp")
	h.ctl("overlay", "delete", "maps")
	h.ctl("overlay", "delete", "sm")
	h.servers, h.export = nil, h.ctl("export")
	h.sound("all was deleted")
	if left := h.Run(h.t, "sh", "-c", "ls -A /var/lib/left4/overlays /var/lib/left4/instances /var/lib/left4/runtime | grep -v ^/ | grep . || true"); strings.TrimSpace(left) != "" {
		h.wrong("after deletes there is left: %s", left)
	}
}
