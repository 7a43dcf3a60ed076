package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jmoiron/sqlx"
	sqlite "github.com/mattn/go-sqlite3"
	"golang.org/x/sys/unix"
)

// Beside the database lies a copy of it, <path>.backup. It is made whole under another name, checked, and renamed into
// place: there is always a good one, also after a kill at any moment. A change of a definition arms a timer, and nothing
// else does: an idle left4d sleeps. The rows of jobs need no backup each.

// backupAfter is how long a change may have no backup. Those that come meanwhile share it.
const backupAfter = 5 * time.Second

// backupJobs is how many jobs may come without a backup for their sake, and jobsAhead how many numbers are left out after
// a backup took the place of the database: those since were given out, and stand in the journal.
const (
	backupJobs = 500
	jobsAhead  = 10_000
)

func backupOf(path string) string { return path + ".backup" }

// part is what a copy is called until it is whole.
func part(path string) string { return path + ".part" }

// beside are the files that SQLite makes beside a database in WAL mode.
var beside = []string{"-wal", "-shm"}

// damage is what is wrong with a database whose place a backup can take.
type damage struct {
	what string
	gone bool // nothing is left of it
	// version is the schema that it was not migrated from, 0 = that is not what is wrong. Either that is not its schema, or
	// the migration is at fault, and an older database would be no better.
	version int
}

func (d *damage) Error() string { return "it " + d.what }

// damaged makes a *damage of those errors that are the file's own, and not of the disk, of memory or of who else uses it.
func damaged(err error) error {
	var e sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code {
	case sqlite.ErrBusy, sqlite.ErrLocked:
		return fmt.Errorf("another process holds it: %w", err)
	case sqlite.ErrIoErr, sqlite.ErrFull, sqlite.ErrCantOpen, sqlite.ErrPerm, sqlite.ErrReadonly, sqlite.ErrNomem, sqlite.ErrAuth,
		sqlite.ErrNoLFS, sqlite.ErrInterrupt, sqlite.ErrAbort, sqlite.ErrMisuse, sqlite.ErrProtocol:
		return err
	}
	return &damage{what: "is damaged: " + err.Error()}
}

// unread is what the check says where it was not given a page of the file, and with which of SQLite's errors. A page that
// cannot be there, or has nonsense in it, is told in other words.
var unread = regexp.MustCompile(`unable to get the page\. error code=([0-9]+)|failed to get page `)

// notMigrated says what it means that the schema after version cannot be made.
func notMigrated(version int, err error) error {
	what := fmt.Sprintf("migration to schema %d: ", version+1)
	var e sqlite.Error
	if errors.As(err, &e) && (e.Code == sqlite.ErrError || e.Code == sqlite.ErrConstraint) {
		return &damage{what: "cannot be brought up to date: " + what + err.Error(), version: version}
	}
	return fmt.Errorf(what+"%w", err)
}

// versionOf reads the schema of a database from its header, 0 = there is none.
func versionOf(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	var version [4]byte
	if _, err := f.ReadAt(version[:], 60); err != nil {
		return 0
	}
	return int(int32(binary.BigEndian.Uint32(version[:])))
}

// checked is what the result of a check means: a disk that fails for a moment has damaged nothing.
func checked(result string) error {
	if result == "ok" {
		return nil
	}
	if found := unread.FindStringSubmatch(result); found != nil {
		if code, _ := strconv.Atoi(found[1]); sqlite.ErrNo(code&0xff) != sqlite.ErrCorrupt {
			return fmt.Errorf("cannot read all of it: %s", result)
		}
	}
	return &damage{what: "is damaged: " + result}
}

// sound checks the structure of the database and that what rows name is there.
func (s *Store) sound() error {
	var check string
	if err := s.db.Get(&check, "PRAGMA quick_check(1)"); err != nil {
		return err
	}
	if err := checked(check); err != nil {
		return err
	}
	var broken struct {
		Table, Parent string
		Row           sql.NullInt64 `db:"rowid"`
		Key           int           `db:"fkid"`
	}
	switch err := s.db.Get(&broken, "PRAGMA foreign_key_check"); {
	case err == nil:
		return &damage{what: fmt.Sprintf("is damaged: a row of %s names a %s that is not there", broken.Table, broken.Parent)}
	case !errors.Is(err, sql.ErrNoRows):
		return err
	}
	return nil
}

// readable reads all that left4d reads when it starts.
func (s *Store) readable() error {
	_, instances := s.Instances()
	_, blueprints := s.Blueprints()
	_, overlays := s.Overlays()
	_, revisions := s.Revisions()
	_, jobs := s.UnfinishedJobs()
	_, last := s.LastJobID()
	_, losses := s.Losses()
	for _, err := range []error{instances, blueprints, overlays, revisions, jobs, last, losses} {
		var e sqlite.Error
		if errors.As(err, &e) {
			return err
		}
		if err != nil {
			return &damage{what: "is damaged: " + err.Error()}
		}
	}
	return nil
}

// startAnew is what may be done where nothing is left to restore.
const startAnew = " to start without definitions: no file and no server goes by that, and left4ctl doctor --repair brings them back"

func openOrRestore(path string) (*Store, error) {
	// What a kill left of a restore or a backup was never in use.
	for _, half := range []string{part(path), part(backupOf(path))} {
		if err := removeAll(half); err != nil {
			return nil, err
		}
	}
	s, err := load(path)
	var bad *damage
	if !errors.As(err, &bad) {
		return s, err
	}
	switch _, err := os.Lstat(backupOf(path)); {
	case err == nil && bad.version > 0 && versionOf(backupOf(path)) <= bad.version:
		return nil, bad
	case err == nil:
		return restore(path, bad)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case !bad.gone:
		return nil, fmt.Errorf("%w, and there is no %s; put a copy in its place, or move it away%s", bad, filepath.Base(backupOf(path)), startAnew)
	}
	return begin(path)
}

// begin makes a database where there is none.
func begin(path string) (*Store, error) {
	// A log of the one that is missing would be taken for one of the new one.
	if err := setAside(path, asideName(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	f.Close()
	s, err := connect(path, true)
	if err == nil {
		s.anew = true
	}
	return s, err
}

// Loss is what happened when a backup took the place of the database: what was changed after it was made is lost. Times
// are microseconds since the epoch.
type Loss struct {
	Restored int64  `db:"restored"`
	Backup   int64  `db:"backup"` // when it was made
	Why      string `db:"why"`
	Aside    string `db:"aside"` // where the damaged file lies, "" = there was none
}

// Losses returns the losses that nobody has acknowledged, the oldest first.
func (s *Store) Losses() ([]Loss, error) {
	var all []Loss
	err := s.db.Select(&all, "SELECT restored, backup, why, aside FROM loss ORDER BY restored")
	return all, err
}

// Older tells that the database may know less than was given out: it was begun anew, or is a backup.
func (s *Store) Older() (bool, error) {
	losses, err := s.Losses()
	return s.anew || len(losses) > 0, err
}

// Acknowledge forgets the losses.
func (s *Store) Acknowledge() error {
	return s.define(func(tx *sqlx.Tx) error {
		_, err := tx.Exec("DELETE FROM loss")
		return err
	})
}

// restore puts the backup in the place of a database that is damaged or gone. Everything that can fail is done under another
// name first. A kill between the two renames leaves no database, and so the next restore.
func restore(path string, bad *damage) (*Store, error) {
	backup, fresh := backupOf(path), part(path)
	loss := Loss{Restored: time.Now().UnixMicro(), Why: bad.Error()}
	if _, err := own(backup); err != nil {
		return nil, fmt.Errorf("%w, and its backup cannot be used: %w", bad, err)
	}
	info, err := os.Stat(backup)
	if err != nil {
		return nil, err
	}
	loss.Backup = info.ModTime().UnixMicro()
	aside := asideName(path)
	if info, err := os.Lstat(path); err == nil && info.Size() > 0 {
		loss.Aside = aside
	}
	err = copyFile(backup, fresh)
	if err == nil {
		err = lose(fresh, loss)
	}
	if err != nil {
		var worse *damage
		advice := ""
		if errors.As(damaged(err), &worse) {
			advice = "; put a good copy in their place, or move both away" + startAnew
		}
		return nil, errors.Join(fmt.Errorf("%w, and its backup cannot take its place: %w%s", bad, err, advice), removeAll(fresh))
	}
	if err := setAside(path, aside); err != nil {
		return nil, err
	}
	if err := os.Rename(fresh, path); err != nil {
		return nil, err
	}
	if err := syncPath(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return load(path)
}

// lose opens a copy of the backup and makes it tell what is lost with what it replaces. Its unfinished jobs may have ended
// since, and what they were about may be another thing by now, so none is taken up: a directory that an import has put in
// place since may be mounted.
func lose(path string, loss Loss) error {
	s, err := load(path)
	if err != nil {
		return err
	}
	err = s.tx(func(tx *sqlx.Tx) error {
		for _, do := range []struct {
			query string
			args  []any
		}{
			{"INSERT INTO loss (restored, backup, why, aside) VALUES (?, ?, ?, ?)", []any{loss.Restored, loss.Backup, loss.Why, loss.Aside}},
			{"UPDATE job SET state = 'failed', finished = ?, cause = ? WHERE finished = 0", []any{loss.Restored, "the database was restored from a backup; what became of it is not known"}},
			{"UPDATE revision SET removed = ? WHERE published = 0 AND removed = 0", []any{loss.Restored}},
			{"INSERT INTO sqlite_sequence (name, seq) SELECT 'job', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'job')", nil},
			{"UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'job'", []any{jobsAhead}},
		} {
			if _, err := tx.Exec(do.query, do.args...); err != nil {
				return err
			}
		}
		return nil
	})
	// SQLite takes its log into the file and removes it.
	if err = errors.Join(err, s.db.Close()); err != nil {
		return err
	}
	return syncPath(path)
}

// asideName is where a damaged database is kept.
func asideName(path string) string {
	return path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000000Z")
}

// setAside moves what is there of a database out of the way. The log goes last: without it the database would look sound,
// and older than it is.
func setAside(path, aside string) error {
	for _, end := range append([]string{""}, beside...) {
		info, err := os.Lstat(path + end)
		if errors.Is(err, fs.ErrNotExist) || err == nil && end == "" && info.Size() == 0 {
			continue
		}
		if err != nil {
			return err
		}
		if err := unix.Renameat2(unix.AT_FDCWD, path+end, unix.AT_FDCWD, aside+end, unix.RENAME_NOREPLACE); err != nil {
			return &fs.PathError{Op: "rename", Path: path + end, Err: err}
		}
	}
	return syncPath(filepath.Dir(path))
}

// Damaged are the damaged databases that were kept.
func (s *Store) Damaged() ([]string, error) {
	all, err := filepath.Glob(s.path + ".damaged-*Z")
	return all, err
}

// changed tells that there is something that no backup has.
func (s *Store) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil && !s.closed {
		s.timer = time.AfterFunc(backupAfter, func() { s.BackUp() })
	}
}

// OnUnbacked has tell called whenever a backup cannot be made.
func (s *Store) OnUnbacked(tell func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell = tell
}

// Backup tells when the newest backup was made, zero = there is none, and why it is not newer, nil = it need not be.
func (s *Store) Backup() (made time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if info, err := os.Stat(backupOf(s.path)); err == nil {
		made = info.ModTime()
	}
	return made, s.unbacked
}

// BackUpAgain has a backup that could not be made tried again, soon.
func (s *Store) BackUpAgain() {
	if _, err := s.Backup(); err != nil {
		s.changed()
	}
}

// BackUp makes a backup at once.
func (s *Store) BackUp() error {
	s.backing.Lock()
	defer s.backing.Unlock()
	s.mu.Lock()
	if s.timer == nil && s.closed {
		s.mu.Unlock()
		return nil // Close has made the last one
	}
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	s.mu.Unlock()
	err := s.writeBackup()
	s.mu.Lock()
	s.unbacked = err
	tell := s.tell
	s.mu.Unlock()
	if err != nil && tell != nil {
		tell(err)
	}
	return err
}

func (s *Store) writeBackup() error {
	backup := backupOf(s.path)
	fresh := part(backup)
	if err := removeAll(fresh); err != nil {
		return err
	}
	err := s.copyTo(fresh)
	if err == nil {
		err = checkCopy(fresh)
	}
	if err != nil {
		err = s.blame(err)
	}
	if err == nil {
		err = syncPath(fresh)
	}
	if err == nil {
		err = os.Rename(fresh, backup)
	}
	if err != nil {
		return errors.Join(err, removeAll(fresh))
	}
	return syncPath(filepath.Dir(backup))
}

// stepPages is how many pages are copied before others may use the database again: a step takes far less than a millisecond.
const stepPages = 64

// maxStuck is how many steps may bring a copy no further.
const maxStuck = 10

// copyTo writes a copy that is of one moment, that of its end: SQLite brings what is changed meanwhile into it. It is of the
// file that is open, whatever has its name by now.
func (s *Store) copyTo(path string) (err error) {
	// SQLite takes an empty file; one that it makes itself would be open to others, as the umask is.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	// It is synced when it is whole, and one that is not is thrown away.
	db, err := sql.Open("sqlite3", (&url.URL{Scheme: "file", Path: path}).String()+"?_synchronous=OFF&_journal_mode=OFF")
	if err != nil {
		return err
	}
	defer db.Close()
	ctx := context.Background()
	into, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer into.Close()
	return into.Raw(func(to any) error {
		var copying *sqlite.SQLiteBackup
		defer func() {
			if copying != nil {
				s.use(ctx, func(*sqlite.SQLiteConn) error { return copying.Finish() }) // its error is that of the last step
			}
		}()
		stuck := 0
		for done := false; !done; {
			left := -1
			err := s.use(ctx, func(from *sqlite.SQLiteConn) (err error) {
				if copying == nil {
					if copying, err = to.(*sqlite.SQLiteConn).Backup("main", from, "main"); err != nil {
						return err
					}
				} else {
					left = copying.Remaining()
				}
				done, err = copying.Step(stepPages)
				return err
			})
			if err != nil {
				return err
			}
			// A step that finds the database locked says nothing of it, and one that finds it changed by another process
			// begins again.
			if copying.PageCount() == 0 || left >= 0 && copying.Remaining() >= left {
				stuck++
			}
			if !done && stuck > maxStuck {
				return errors.New("another process uses it")
			}
		}
		return nil
	})
}

// use lets fn have the one connection, as a query would.
func (s *Store) use(ctx context.Context, fn func(*sqlite.SQLiteConn) error) error {
	c, err := s.db.DB.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Raw(func(driver any) error { return fn(driver.(*sqlite.SQLiteConn)) })
}

// checkCopy looks whether a copy is as sound as a database must be.
func checkCopy(path string) error {
	db, err := sqlx.Open("sqlite3", (&url.URL{Scheme: "file", Path: path}).String()+"?mode=ro&immutable=1")
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	copied := &Store{db: conn{db, make(chan error, 1)}, path: path}
	if err = copied.sound(); err == nil {
		err = copied.readable()
	}
	if err != nil {
		return fmt.Errorf("the copy is not sound: %w", err)
	}
	return nil
}

// blame looks whether it is the database, and not the copy, that a backup failed by. Only that is told as Broken.
func (s *Store) blame(err error) error {
	var e sqlite.Error
	if errors.As(err, &e) && e.Code == sqlite.ErrFull {
		return fmt.Errorf("%w (%w)", ErrFull, err)
	}
	var bad *damage
	if errors.As(s.sound(), &bad) {
		s.db.tell(bad)
		return bad
	}
	return err
}

// conn is the connection, which tells when the database is found broken.
type conn struct {
	*sqlx.DB
	broken chan error // capacity 1
}

// Broken receives why the database may be usable no more: SQLite says that it is damaged. Another Open may mend that. Of a
// disk that fails SQLite says so, too, of a database that is whole: see Readable.
func (s *Store) Broken() <-chan error { return s.db.broken }

// Readable reads all of the database past SQLite, and tells whether the disk gave it.
func (s *Store) Readable() error {
	for _, end := range []string{"", "-wal"} {
		f, err := os.Open(s.path + end)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = io.Copy(io.Discard, f)
			f.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ErrFull tells that a change was not made because the disk is full.
var ErrFull = errors.New("the disk with the database is full")

// seen looks at an error on its way to the caller.
func (c conn) seen(err error) error {
	var e sqlite.Error
	switch {
	case !errors.As(err, &e):
		return err
	case e.ExtendedCode == sqlite.ErrIoErrFsync:
		c.overwrite()
	}
	switch {
	case e.Code == sqlite.ErrFull, slices.Contains([]syscall.Errno{unix.ENOSPC, unix.EDQUOT}, e.SystemErrno):
		return fmt.Errorf("%w (%w)", ErrFull, err)
	case e.SystemErrno == unix.EROFS:
		return err
	case e.Code == sqlite.ErrIoErr:
		return fmt.Errorf("the disk with the database fails (%w)", err)
	case e.Code != sqlite.ErrCorrupt && e.Code != sqlite.ErrNotADB:
		return err
	}
	c.tell(err)
	return err
}

// overwrite takes the place of a commit that was written to the log and not synced: who opens the database next would find it
// there, though its caller was told that nothing has changed. Where that fails too, only a new look tells what is so.
func (c conn) overwrite() {
	var version int
	err := c.DB.Get(&version, "PRAGMA user_version")
	if err == nil {
		_, err = c.DB.Exec("PRAGMA user_version = " + strconv.Itoa(version))
	}
	if err != nil {
		c.tell(err)
	}
}

func (c conn) tell(err error) {
	select {
	case c.broken <- err:
	default: // it is known
	}
}

func (c conn) Get(dest any, query string, args ...any) error {
	return c.seen(c.DB.Get(dest, query, args...))
}

func (c conn) Select(dest any, query string, args ...any) error {
	return c.seen(c.DB.Select(dest, query, args...))
}

func (c conn) Exec(query string, args ...any) (sql.Result, error) {
	result, err := c.DB.Exec(query, args...)
	return result, c.seen(err)
}

func (c conn) NamedExec(query string, arg any) (sql.Result, error) {
	result, err := c.DB.NamedExec(query, arg)
	return result, c.seen(err)
}

// removeAll removes a database and what SQLite made beside it.
func removeAll(path string) error {
	for _, end := range append([]string{"", "-journal"}, beside...) {
		if err := os.Remove(path + end); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
