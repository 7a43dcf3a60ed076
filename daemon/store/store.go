// Package store keeps left4's definitions, jobs and game revisions in one SQLite database.
//
// There is one connection: reads take microseconds, so nothing is gained by more, and a single writer meets no
// "database is locked". Every change is one immediate transaction, durable when the call returns (WAL with
// synchronous=FULL): an accepted job must survive a power cut.
package store

import (
	"bytes"
	"database/sql"
	"database/sql/driver"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jmoiron/sqlx"
	sqlite "github.com/mattn/go-sqlite3"
)

//go:embed schema/*.sql
var schema embed.FS

// Store is the open database.
type Store struct {
	db   conn
	path string
	anew bool // there was none

	backing sync.Mutex // over the making of a backup

	mu       sync.Mutex
	timer    *time.Timer // runs while there is a change that no backup has
	closed   bool        // nothing changes any more
	unbacked error       // why the last backup could not be made
	tell     func(error) // is told that, nil = nobody
}

// ErrNotFound is returned where a named row does not exist.
var ErrNotFound = errors.New("not found")

// ErrNameTaken and ErrPortTaken tell which of an instance's reservations failed.
var (
	ErrNameTaken = errors.New("the name is taken")
	ErrPortTaken = errors.New("the port is taken")
)

// Open opens the database at path, makes it (0600) where there never was one, and brings its schema up to date after a
// copy to <path>.v<old version>. A backup takes the place of one that is missing, empty or damaged (Losses tells); where
// there is none, a damaged one is refused. It also refuses a database that is not the caller's own, that others may touch,
// that another process holds, or that a newer left4 has written: nothing is wrong with such a one.
func Open(path string) (*Store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	s, err := openOrRestore(abs)
	if err != nil {
		return nil, fmt.Errorf("cannot open the database %s: %w", path, err)
	}
	s.changed()
	return s, nil
}

// load opens a database that is there.
func load(path string) (*Store, error) {
	size, err := own(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &damage{what: "is missing", gone: true}
	case err != nil:
		return nil, err
	case size == 0: // for SQLite it would be a new one
		return nil, &damage{what: "is empty", gone: true}
	}
	return connect(path, false)
}

// own checks that a file is the caller's alone, and returns its size.
func own(path string) (int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if st := info.Sys().(*syscall.Stat_t); !info.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return 0, fmt.Errorf("%s must be a file of uid %d that nobody else may read or write", path, os.Geteuid())
	}
	return info.Size(), nil
}

// connect opens a database, checks all of it and migrates it; fresh is one without anything in it. The error is a *damage
// if it is the file that is wrong.
func connect(path string, fresh bool) (*Store, error) {
	// The pragmas stand in the DSN because one sent by Exec reaches only the connection that happens to run it.
	dsn := (&url.URL{Scheme: "file", Path: path}).String() +
		"?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=5000&_foreign_keys=on&_txlock=immediate"
	db, err := sqlx.Open("sqlite3", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	s := &Store{db: conn{db, make(chan error, 1)}, path: path}
	if err := damaged(s.migrate(fresh)); err != nil {
		db.Close()
		return nil, err
	}
	return s, nil
}

// Close makes a backup of what none has, and closes the database.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	last := s.timer != nil
	s.mu.Unlock()
	if last {
		s.BackUp()
	}
	s.backing.Lock() // one may be under way
	defer s.backing.Unlock()
	return s.db.Close()
}

// migrate checks the database and brings its schema up to date.
func (s *Store) migrate(fresh bool) error {
	files, err := fs.Glob(schema, "schema/*.sql")
	if err != nil {
		return err
	}
	var version, tables int
	if err := s.db.Get(&version, "PRAGMA user_version"); err != nil {
		return err
	}
	if version > len(files) {
		return fmt.Errorf("its schema %d is of a newer left4, this one knows %d", version, len(files))
	}
	if err := s.sound(); err != nil {
		return err
	}
	if err := s.db.Get(&tables, "SELECT count(*) FROM sqlite_schema"); err != nil {
		return err
	}
	if version < 0 || version == 0 && !(fresh && tables == 0) {
		return &damage{what: "is no database of left4", gone: version == 0 && tables == 0}
	}
	if version > 0 && version < len(files) {
		if err := s.copyOld(version); err != nil {
			return fmt.Errorf("cannot back up before the migration: %w", err)
		}
	}
	// Without a migration too: what another process holds is met now, not by the first change. It writes nothing then, so
	// that left4d starts on a full disk.
	err = s.tx(func(tx *sqlx.Tx) error {
		if version == len(files) {
			return nil
		}
		for ; version < len(files); version++ {
			text, err := schema.ReadFile(files[version])
			if err != nil {
				return err
			}
			if _, err := tx.Exec(string(text)); err != nil {
				return notMigrated(version, err)
			}
		}
		_, err := tx.Exec("PRAGMA user_version = " + strconv.Itoa(version))
		return err
	})
	if err != nil {
		return err
	}
	return s.readable()
}

func (s *Store) copyOld(version int) error {
	old := strings.TrimSuffix(s.path, part("")) + ".v" + strconv.Itoa(version)
	if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.copyTo(old)
}

// tx runs fn in one immediate transaction and commits it when fn returns nil.
func (s *Store) tx(fn func(*sqlx.Tx) error) error {
	tx, err := s.db.Beginx()
	if err != nil {
		return s.db.seen(err)
	}
	defer tx.Rollback()
	if err := fn(tx); err != nil {
		return s.db.seen(err)
	}
	return s.db.seen(tx.Commit())
}

// define is tx for what no backup should be without for long.
func (s *Store) define(fn func(*sqlx.Tx) error) error {
	err := s.tx(fn)
	if err == nil {
		s.changed()
	}
	return err
}

// JSON is a column that holds T as JSON text.
type JSON[T any] struct{ V T }

// Value implements driver.Valuer.
func (j JSON[T]) Value() (driver.Value, error) {
	text, err := json.Marshal(j.V)
	return string(text), err
}

// Scan implements sql.Scanner.
func (j *JSON[T]) Scan(src any) error {
	text, ok := src.(string)
	if !ok {
		return fmt.Errorf("a JSON column holds %T", src)
	}
	return json.Unmarshal([]byte(text), &j.V)
}

// MarshalJSON makes the value stand in JSON as it is.
func (j JSON[T]) MarshalJSON() ([]byte, error) { return json.Marshal(j.V) }

// UnmarshalJSON undoes MarshalJSON.
func (j *JSON[T]) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(&j.V)
}

// one maps the end of a single-row read or write to ErrNotFound.
func one(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

// taken names the reservation that a failed write of an instance ran into. SQLite tells the constraint's kind by
// code; which column it was only its message says ("UNIQUE constraint failed: instance.port").
func taken(err error) error {
	var e sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.ExtendedCode == sqlite.ErrConstraintPrimaryKey:
		return ErrNameTaken
	case e.ExtendedCode == sqlite.ErrConstraintUnique && strings.HasSuffix(e.Error(), "instance.port"):
		return ErrPortTaken
	}
	return err
}
