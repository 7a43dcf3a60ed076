package store

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	sqlite "github.com/mattn/go-sqlite3"
)

// kept makes a database with a backup in a directory of its own, and closes it. The backup has instance a; the database
// also has b, which came later.
func kept(t testing.TB) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "left4.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	backup, err := os.ReadFile(backupOf(path))
	if err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateInstance(definition("b", 27016), Ports{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, backupOf(path), backup)
	return path
}

// fill stores one of everything, and jobs enough that not all of it fits a page.
func fill(t testing.TB, s *Store) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	o := Overlay{Name: "sm", Type: "files", Owner: 1, Created: 1}
	must(s.CreateOverlay(&o))
	for _, overlay := range []uint32{Game, o.ID} {
		id, err := s.AddRevision(overlay, 1, 1)
		must(err)
		must(s.PublishRevision(Revision{Overlay: overlay, ID: id, Published: 1}))
	}
	b := Blueprint{Name: "bp", Owner: 1, Created: 1}
	b.Arguments.V, b.Config.V, b.Overlays.V = []string{}, []string{"sv_cheats 0"}, []OverlayRef{}
	must(s.CreateBlueprint(b))
	in := definition("a", 27015)
	in.Blueprint = "bp"
	must(s.CreateInstance(in, Ports{}))
	for id := range uint32(120) {
		must(s.PutJob(Job{ID: id + 1, Kind: "start", Target: "a", State: "done", Cause: strings.Repeat("x", 50), Created: 1, Started: 1, Finished: 2}))
	}
	must(s.PutJob(Job{ID: 121, Kind: "delete", Target: "a", State: "running", Created: 3, Started: 3}))
	if _, err := s.AddRevision(Game, 121, 4); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func instances(t testing.TB, s *Store) (names []string) {
	t.Helper()
	all, err := s.Instances()
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range all {
		names = append(names, in.Name)
	}
	return names
}

func TestABackupTakesThePlaceOfWhatIsDamaged(t *testing.T) {
	truncated := func(n int) func(*testing.T, string) {
		return func(t *testing.T, path string) { write(t, path, read(t, path)[:n]) }
	}
	exec := func(query string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			db, err := sql.Open("sqlite3", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(query); err != nil {
				t.Fatal(err)
			}
		}
	}
	cases := map[string]func(t *testing.T, path string){
		"missing": func(t *testing.T, path string) { os.Remove(path) },
		"empty":   truncated(0),
		"garbage": func(t *testing.T, path string) { write(t, path, bytes.Repeat([]byte("no database "), 4000)) },
		"its header only": func(t *testing.T, path string) {
			write(t, path, append([]byte("SQLite format 3\x00"), make([]byte, 5000)...))
		},
		"another database": func(t *testing.T, path string) {
			os.Remove(path)
			exec("CREATE TABLE other (x)")(t, path)
			os.Chmod(path, 0o600)
		},
		"a new database": func(t *testing.T, path string) {
			os.Remove(path)
			exec("VACUUM")(t, path)
			exec("PRAGMA application_id = 1")(t, path)
			os.Chmod(path, 0o600)
		},
		"a table is missing":  exec("DROP TABLE revision"),
		"a column is missing": exec("ALTER TABLE instance DROP COLUMN label"),
		"an older version":    exec("PRAGMA user_version = 1"),
		"version 0":           exec("PRAGMA user_version = 0"),
		"a negative version":  exec("PRAGMA user_version = -5"),
		"a foreign key":       exec("PRAGMA foreign_keys = off; UPDATE instance SET blueprint = 'gone' WHERE name = 'b'"),
		"no JSON":             exec(`PRAGMA ignore_check_constraints = on; UPDATE instance SET arguments = '{' WHERE name = 'b'`),
		"other JSON":          exec(`UPDATE instance SET limits = '{"MemoryMax": "much"}' WHERE name = 'b'`),
		"a log of the missing": func(t *testing.T, path string) {
			os.Remove(path)
			write(t, path+"-wal", bytes.Repeat([]byte{1, 2, 3}, 3000))
		},
		"a kill after it was set aside": func(t *testing.T, path string) {
			if err := os.Rename(path, asideName(path)); err != nil {
				t.Fatal(err)
			}
			write(t, part(path), []byte("half a copy"))
			write(t, part(path)+"-wal", []byte("half a log"))
		},
	}
	for _, n := range []int{1, 15, 16, 99, 100, 511, 1024, 4095, 4096, 4097, 8192, 12288, 20480} {
		cases[fmt.Sprintf("truncated to %d", n)] = truncated(n)
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := kept(t)
			backup := read(t, backupOf(path))
			made, _ := os.Stat(backupOf(path))
			damage(t, path)
			before, _ := os.ReadFile(path)
			began := time.Now()
			s := open(t, path)
			if got := instances(t, s); len(got) != 1 || got[0] != "a" {
				t.Errorf("instances %q", got)
			}
			if !bytes.Equal(read(t, backupOf(path)), backup) {
				t.Error("the backup has changed")
			}
			losses, err := s.Losses()
			if err != nil || len(losses) != 1 {
				t.Fatal(losses, err)
			}
			l := losses[0]
			if l.Why == "" || l.Restored < began.UnixMicro() || l.Backup != made.ModTime().UnixMicro() {
				t.Errorf("%+v", l)
			}
			if (l.Aside == "") != (len(before) == 0) {
				t.Errorf("set aside as %q", l.Aside)
			}
			if l.Aside != "" {
				// SQLite may have looked into its log, but what it was is kept.
				if damaged, err := s.Damaged(); err != nil || len(damaged) != 1 || damaged[0] != l.Aside || len(read(t, l.Aside)) == 0 {
					t.Errorf("%q, %v", damaged, err)
				}
			}
			if _, err := os.Stat(part(path)); !errors.Is(err, os.ErrNotExist) {
				t.Error("half a copy is left")
			}
			// Nothing that was under way is done again, and no number is given out again.
			if all, err := s.UnfinishedJobs(); err != nil || len(all) != 0 {
				t.Errorf("%+v, %v", all, err)
			}
			if id, err := s.LastJobID(); err != nil || id < 121+backupJobs {
				t.Errorf("%d, %v", id, err)
			}
			if all, err := s.Revisions(); err != nil || len(all) != 2 || !all[0].Current {
				t.Errorf("%+v, %v", all, err)
			}
			if id, err := s.AddRevision(Game, 0, 0); err != nil || id != 3 {
				t.Errorf("%d, %v", id, err)
			}
			if err := s.Acknowledge(); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			// It goes on from there, and so does its backup.
			again := open(t, path)
			if losses, err := again.Losses(); err != nil || len(losses) != 0 {
				t.Errorf("%+v, %v", losses, err)
			}
			if info, err := os.Stat(backupOf(path)); err != nil || info.Mode().Perm() != 0o600 || bytes.Equal(read(t, backupOf(path)), backup) {
				t.Errorf("%v, %v", info.Mode(), err)
			}
		})
	}
}

// Where a backup cannot help, or must not, all stays as it is, and the error says what to do.
func TestWhatNoBackupTakesThePlaceOf(t *testing.T) {
	garbage := bytes.Repeat([]byte("x"), 9000)
	for name, c := range map[string]struct {
		do   func(t *testing.T, path string)
		want string
	}{
		"no backup": {func(t *testing.T, path string) { write(t, path, garbage); os.Remove(backupOf(path)) }, "move it away to start without definitions"},
		"both are damaged": {func(t *testing.T, path string) {
			write(t, path, garbage)
			write(t, backupOf(path), garbage)
		}, "move both away to start without definitions"},
		"missing, and a damaged backup": {func(t *testing.T, path string) {
			os.Remove(path)
			write(t, backupOf(path), read(t, backupOf(path))[:6000])
		}, "its backup cannot take its place"},
		"missing, and an empty backup": {func(t *testing.T, path string) { os.Remove(path); write(t, backupOf(path), nil) }, "it is empty"},
		"missing, and a backup for all": {func(t *testing.T, path string) {
			os.Remove(path)
			os.Chmod(backupOf(path), 0o644)
		}, "nobody else may"},
		"readable for others": {func(t *testing.T, path string) { os.Chmod(path, 0o640) }, "nobody else may"},
		"a link": {func(t *testing.T, path string) {
			os.Rename(path, path+".real")
			os.Symlink(path+".real", path)
		}, "too many levels of symbolic links"},
		"a directory": {func(t *testing.T, path string) { os.Remove(path); os.Mkdir(path, 0o700) }, "is a directory"},
		"a newer schema": {func(t *testing.T, path string) {
			db, err := sql.Open("sqlite3", path)
			if err == nil {
				_, err = db.Exec("PRAGMA user_version = 999")
			}
			if err = errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
		}, "newer left4"},
		"a migration that fails": {func(t *testing.T, path string) {
			for path, query := range map[string]string{
				path:           "PRAGMA user_version = 3", // and it has a table of 4
				backupOf(path): "DROP TABLE loss; PRAGMA user_version = 3",
			} {
				db, err := sql.Open("sqlite3", path)
				if err == nil {
					_, err = db.Exec(query)
				}
				if err = errors.Join(err, db.Close()); err != nil {
					t.Fatal(err)
				}
			}
		}, "migration to schema 4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := kept(t)
			c.do(t, path)
			before, backup := contents(path), contents(backupOf(path))
			for range 2 {
				s, err := Open(path)
				if err == nil {
					s.Close()
					t.Fatal("it was opened")
				}
				if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("%v", err)
				}
			}
			if contents(path) != before || contents(backupOf(path)) != backup {
				t.Error("something has changed")
			}
			if all, _ := filepath.Glob(path + ".damaged*"); len(all) != 0 {
				t.Errorf("%q", all)
			}
			if all, _ := filepath.Glob(path + "*.part*"); len(all) != 0 {
				t.Errorf("%q", all)
			}
		})
	}
}

func contents(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func TestADatabaseThatAnotherHoldsIsRefused(t *testing.T) {
	path := kept(t)
	other, err := sql.Open("sqlite3", path+"?_txlock=exclusive")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if s, err := Open(path); err == nil || !strings.Contains(err.Error(), "another process holds it") {
		t.Errorf("%v", err)
		s.Close()
	}
	tx.Rollback()
	other.Close()
	s := open(t, path)
	if got := instances(t, s); len(got) != 2 {
		t.Errorf("%q", got)
	}
	if losses, _ := s.Losses(); len(losses) != 0 {
		t.Errorf("%+v", losses)
	}
}

func TestAMissingDatabaseWithoutABackupIsBegunAgain(t *testing.T) {
	for name, do := range map[string]func(path string){
		"missing": func(path string) { os.Remove(path) },
		"empty":   func(path string) { os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			path := kept(t)
			do(path)
			os.Remove(backupOf(path))
			log := bytes.Repeat([]byte("log"), 2000)
			write(t, path+"-wal", log)
			s := open(t, path)
			if got := instances(t, s); len(got) != 0 {
				t.Errorf("%q", got)
			}
			if left, _ := filepath.Glob(path + ".damaged-*-wal"); len(left) != 1 || !bytes.Equal(read(t, left[0]), log) {
				t.Errorf("the log is not kept: %q", left)
			}
		})
	}
}

// A log that is torn, or gone, takes with it what was in it alone, and no more.
func TestATornLogLosesItsEndOnly(t *testing.T) {
	path := kept(t)
	s := open(t, path)
	for n := range 30 {
		if err := s.CreateInstance(definition(fmt.Sprintf("w%d", n), uint16(28000+n)), Ports{}); err != nil {
			t.Fatal(err)
		}
	}
	db, wal := read(t, path), read(t, path+"-wal")
	if len(wal) == 0 {
		t.Fatal("there is no log")
	}
	for _, size := range []int{0, 1, 31, 32, 33, 56, 4000, len(wal) / 3, len(wal) / 2, len(wal) - 1, len(wal)} {
		torn := filepath.Join(t.TempDir(), "left4.db")
		write(t, torn, db)
		write(t, torn+"-wal", wal[:size])
		write(t, backupOf(torn), read(t, backupOf(path)))
		s := open(t, torn)
		got := instances(t, s)
		if len(got) < 2 || got[0] != "a" || size == len(wal) && len(got) != 32 {
			t.Errorf("log of %d bytes: %q", size, got)
		}
		for n, name := range got[2:] {
			if !strings.HasPrefix(name, "w") {
				t.Errorf("log of %d bytes: %d is %q", size, n, name)
			}
		}
		if losses, _ := s.Losses(); len(losses) != 0 {
			t.Errorf("log of %d bytes: %+v", size, losses)
		}
	}
}

// Bytes that change by themselves: what cannot be seen to be wrong may stay, but what is opened can be used, and the backup
// is never worse after it.
func TestFlippedBits(t *testing.T) {
	path := kept(t)
	db, backup := read(t, path), read(t, backupOf(path))
	restored := 0
	for seed := range int64(80) {
		random := rand.New(rand.NewSource(seed))
		damaged := bytes.Clone(db)
		for range 1 + random.Intn(40) {
			damaged[random.Intn(len(damaged))] ^= 1 << random.Intn(8)
		}
		if survives(t, damaged, nil, backup) {
			restored++
		}
	}
	if restored == 0 {
		t.Error("none of the damages was seen")
	}
	t.Logf("%d of 80 were restored", restored)
}

// survives opens a damaged database beside a good backup and tells whether the backup took its place.
func survives(t testing.TB, db, wal, backup []byte) (restored bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "left4.db")
	write(t, path, db)
	if len(wal) > 0 {
		write(t, path+"-wal", wal)
	}
	write(t, backupOf(path), backup)
	s, err := Open(path)
	if err != nil {
		// A newer schema is one that only a bit told it.
		if !strings.Contains(err.Error(), "newer left4") {
			t.Errorf("refused beside a good backup: %v", err)
		}
	} else {
		losses, err := s.Losses()
		if err != nil {
			t.Error(err)
		}
		restored = len(losses) > 0
		if got := instances(t, s); restored && (len(got) != 1 || got[0] != "a") {
			t.Errorf("restored: %q", got)
		}
		s.Close()
		// What it has become the backup of is sound.
		again, err := restoredFrom(t, read(t, backupOf(path)))
		if err != nil {
			t.Errorf("the backup is worse: %v", err)
			return restored
		}
		again.Close()
	}
	return restored
}

func restoredFrom(t testing.TB, backup []byte) (*Store, error) {
	path := filepath.Join(t.TempDir(), "left4.db")
	write(t, backupOf(path), backup)
	return Open(path)
}

func FuzzOpen(f *testing.F) {
	path := kept(f)
	db, backup := read(f, path), read(f, backupOf(path))
	s, err := Open(path)
	if err != nil {
		f.Fatal(err)
	}
	if err := s.CreateInstance(definition("c", 27017), Ports{}); err != nil {
		f.Fatal(err)
	}
	wal := read(f, path+"-wal")
	s.Close()
	f.Add(uint32(0), []byte{}, uint32(0), []byte{})
	f.Add(uint32(0), []byte("SQLite format 2"), uint32(0), []byte{})
	f.Add(uint32(28), []byte{0, 0, 0, 200}, uint32(0), []byte{})
	f.Add(uint32(60), []byte{0, 0, 0, 200}, uint32(32), []byte{1})
	f.Add(uint32(100), bytes.Repeat([]byte{0xff}, 40), uint32(12), []byte{9, 9})
	f.Add(uint32(len(db)-10), []byte{}, uint32(len(wal)/2), []byte{})
	// Bytes put over the database and its log at a place; none cuts it off there.
	f.Fuzz(func(t *testing.T, at uint32, over []byte, logAt uint32, logOver []byte) {
		put := func(data []byte, at uint32, over []byte) []byte {
			n := int(at) % (len(data) + 1)
			if len(over) == 0 {
				return data[:n]
			}
			changed := bytes.Clone(data)
			copy(changed[n:], over)
			return changed
		}
		survives(t, put(db, at, over), put(wal, logAt, logOver), backup)
	})
}

func TestABackupFollowsAChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "left4.db")
	s := open(t, path)
	if s.timer == nil {
		t.Fatal("what was just opened has no backup coming")
	}
	if err := s.BackUp(); err != nil || s.timer != nil {
		t.Fatal(err)
	}
	for id := range uint32(backupJobs - 1) {
		if err := s.PutJob(Job{ID: id + 1, Kind: "start", Target: "a", State: "done"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Instances(); err != nil || s.timer != nil {
		t.Fatalf("jobs and reads arm the timer: %v", err)
	}
	if err := s.PutJob(Job{ID: backupJobs, Kind: "start", Target: "a", State: "done"}); err != nil || s.timer == nil {
		t.Fatalf("%d jobs do not: %v", backupJobs, err)
	}
	if err := s.BackUp(); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateInstance(definition("a", 27015), Ports{}); err != nil || s.timer == nil {
		t.Fatalf("a definition does not: %v", err)
	}
	// Also of a file that somebody has taken away under it.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if made, err := s.Backup(); made.IsZero() || err != nil {
		t.Errorf("%v, %v", made, err)
	}
	if got := instances(t, open(t, path)); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

func TestWhatCannotBeBackedUpIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "left4.db")
	s := open(t, path)
	if err := s.BackUp(); err != nil {
		t.Fatal(err)
	}
	good := read(t, backupOf(path))
	if err := os.MkdirAll(part(backupOf(path))+"/x", 0o700); err != nil {
		t.Fatal(err)
	}
	var told error
	s.OnUnbacked(func(err error) { told = err })
	if err := s.BackUp(); err == nil || told == nil {
		t.Error("it was made")
	}
	if _, err := s.Backup(); err == nil {
		t.Error("it is not told")
	}
	if !bytes.Equal(read(t, backupOf(path)), good) {
		t.Error("the old one is gone")
	}
	if err := os.RemoveAll(part(backupOf(path))); err != nil {
		t.Fatal(err)
	}
	if s.BackUpAgain(); s.timer == nil {
		t.Error("it is not tried again")
	}
	if err := s.BackUp(); err != nil {
		t.Error(err)
	}
	if _, err := s.Backup(); err != nil {
		t.Error(err)
	}
}

// What could not be synced does not come back as done.
func TestACommitThatWasNotSyncedIsTakenBack(t *testing.T) {
	path := kept(t)
	s := open(t, path)
	before := read(t, path+"-wal")
	if err := s.db.seen(sqlite.Error{Code: sqlite.ErrIoErr, ExtendedCode: sqlite.ErrIoErrFsync, SystemErrno: syscall.ENOSPC}); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	if bytes.Equal(read(t, path+"-wal"), before) {
		t.Error("nothing was written over it")
	}
	select {
	case err := <-s.Broken():
		t.Error(err)
	default:
	}
}

// A damage that is met at work is told, and does not become the backup. A full disk is another thing.
func TestADamageThatIsMetAtWork(t *testing.T) {
	path := kept(t)
	s := open(t, path)
	if err := s.BackUp(); err != nil {
		t.Fatal(err)
	}
	good := read(t, backupOf(path))
	s.db.seen(sqlite.Error{Code: sqlite.ErrFull})
	s.db.seen(sqlite.Error{Code: sqlite.ErrBusy})
	s.db.seen(sqlite.Error{Code: sqlite.ErrConstraint})
	s.db.seen(sqlite.Error{Code: sqlite.ErrIoErr})
	select {
	case err := <-s.Broken():
		t.Fatalf("nothing is broken: %v", err)
	default:
	}
	if err := s.db.seen(sqlite.Error{Code: sqlite.ErrFull}); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	if err := os.Truncate(path, 5000); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path+"-wal", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec("PRAGMA shrink_memory"); err != nil { // what it has read already it would not read again
		t.Fatal(err)
	}
	if err := s.BackUp(); err == nil {
		t.Error("there is a backup of it")
	}
	select {
	case <-s.Broken():
	default:
		t.Error("it is not told")
	}
	s.Close()
	if !bytes.Equal(read(t, backupOf(path)), good) {
		t.Error("the good backup is gone")
	}
	if got := instances(t, open(t, path)); len(got) != 2 {
		t.Errorf("%q", got)
	}
}

func TestNumbersAreReserved(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "left4.db"))
	for _, id := range []uint32{9, 4} {
		if err := errors.Join(s.ReserveOverlay(id), s.ReserveRevision(Game, id, 1), s.ReserveRevision(3, id, 1)); err != nil {
			t.Fatal(err)
		}
	}
	o := Overlay{Name: "a", Type: "files", Created: 1}
	if err := s.CreateOverlay(&o); err != nil || o.ID != 10 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, overlay := range []uint32{Game, 3} {
		if id, err := s.AddRevision(overlay, 0, 1); err != nil || id != 10 {
			t.Errorf("%d, %v", id, err)
		}
	}
	// What is reserved is not there, until it is adopted.
	if err := s.AdoptRevision(Revision{Overlay: Game, ID: 9, Created: 1, Published: 1, Current: true}); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Revisions(); err != nil || len(all) != 3 || !all[0].Current || all[0].ID != 9 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := s.AdoptOverlay(Overlay{ID: 7, Name: "b", Type: "files", Created: 1}, []Revision{{Overlay: 7, ID: 2, Published: 1}, {Overlay: 7, ID: 5, Published: 1, Current: true}}); err != nil {
		t.Fatal(err)
	}
	if err := s.LoseRevision(7, 5, 2, 1); err != nil {
		t.Fatal(err)
	}
	all, err := s.Revisions()
	if err != nil || len(all) != 4 || all[3].ID != 2 && all[2].ID != 2 {
		t.Errorf("%+v, %v", all, err)
	}
	if id, err := s.AddRevision(7, 0, 1); err != nil || id != 6 {
		t.Errorf("%d, %v", id, err)
	}
	if err := s.AdoptOverlay(Overlay{ID: 8, Name: "b", Type: "files", Created: 1}, nil); err == nil {
		t.Error("two overlays of one name")
	}
}

// So left4d starts on a disk that is full.
func TestOpeningWhatIsSoundWritesNothing(t *testing.T) {
	path := kept(t)
	before := read(t, path)
	s := open(t, path)
	if wal, err := os.Stat(path + "-wal"); err == nil && wal.Size() > 0 {
		t.Errorf("there are %d bytes in the log", wal.Size())
	}
	if !bytes.Equal(read(t, path), before) || s.anew {
		t.Error("it has changed")
	}
}

func TestADirectoryThatCannotBeWrittenTo(t *testing.T) {
	// Root writes where it wants to, but for what is mounted read-only: in a process with mounts of its own.
	const child = "LEFT4_TEST_READ_ONLY"
	root := os.Geteuid() == 0
	if root && os.Getenv(child) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), child+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	path := kept(t)
	dir, backup := filepath.Dir(path), contents(backupOf(path))
	forbid := func() error { return os.Chmod(dir, 0o500) }
	allow := func() error { return os.Chmod(dir, 0o700) }
	if root {
		forbid = func() error {
			return errors.Join(syscall.Mount(dir, dir, "", syscall.MS_BIND, ""), syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""))
		}
		allow = func() error { return syscall.Unmount(dir, 0) }
	}
	for _, damage := range []func(){func() {}, func() { os.Truncate(path, 0) }} {
		damage()
		if err := forbid(); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(path); err == nil {
			t.Error("it was opened")
			s.Close()
		}
		if contents(backupOf(path)) != backup {
			t.Error("the backup has changed")
		}
		if err := allow(); err != nil {
			t.Fatal(err)
		}
	}
}

// The check of a database says in its result, and not as an error, that the disk did not give it a page.
func TestADiskThatFailsHasDamagedNothing(t *testing.T) {
	for result, want := range map[string]bool{
		"*** in database main ***\nTree 13 page 13: unable to get the page. error code=8458": false,
		"*** in database main ***\nTree 2 page 48: unable to get the page. error code=266":   false,
		"*** in database main ***\nTree 2 page 48: unable to get the page. error code=7":     false,
		"*** in database main ***\nTree 2 page 48 cell 3: failed to get page 7":              false,
		"*** in database main ***\nTree 2 page 48: unable to get the page. error code=11":    true,
		"*** in database main ***\nTree 2 page 48: btreeInitPage() returns error code 11":    true,
		"*** in database main ***\nTree 2 page 48 cell 3: invalid page number 4000":          true,
		"row 3 missing from index sqlite_autoindex_instance_1":                               true,
	} {
		var bad *damage
		if err := checked(result); err == nil || errors.As(err, &bad) != want {
			t.Errorf("%q: %v", result, err)
		}
	}
	if err := checked("ok"); err != nil {
		t.Error(err)
	}
}

// Changes go on while a backup is made in steps, which still is of one moment.
func TestABackupIsOfOneMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "left4.db")
	s := open(t, path)
	const pages = 12 * stepPages
	b := Blueprint{Name: "big", Owner: 1, Created: 1}
	b.Arguments.V, b.Overlays.V, b.Config.V = []string{}, []OverlayRef{}, []string{strings.Repeat("x", 4096*pages)}
	if err := s.CreateBlueprint(b); err != nil {
		t.Fatal(err)
	}
	made := make(chan error)
	go func() { made <- s.BackUp() }()
	var changes int
	for done := false; !done; {
		// A job comes before the instance that it is of, in another table and in another change.
		name := fmt.Sprintf("i%d", changes)
		if err := s.PutJob(Job{ID: uint32(changes + 1), Kind: "start", Target: name, State: "done"}); err != nil {
			t.Fatal(err)
		}
		if err := s.CreateInstance(definition(name, uint16(2000+changes)), Ports{}); err != nil {
			t.Fatal(err)
		}
		changes++
		select {
		case err := <-made:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		default:
		}
	}
	s.mu.Lock()
	s.timer.Stop() // the backup that is looked at is that of the middle
	s.timer = nil
	s.mu.Unlock()
	s.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	jobs, err := s.Jobs(JobFilter{Limit: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(instances(t, s)); n > changes || len(jobs) != n && len(jobs) != n+1 {
		t.Errorf("%d instances and %d jobs of %d", n, len(jobs), changes)
	}
}
