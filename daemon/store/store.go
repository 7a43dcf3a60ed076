// Package store keeps left4's definitions, jobs and game revisions in one SQLite database.
//
// There is one connection: reads take microseconds, so nothing is gained by more, and a single writer meets no
// "database is locked". Every change is one immediate transaction, durable when the call returns (WAL with
// synchronous=FULL): an accepted job must survive a power cut.
package store

import (
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
	"syscall"

	"github.com/jmoiron/sqlx"
	sqlite "github.com/mattn/go-sqlite3"
)

//go:embed schema/*.sql
var schema embed.FS

// Store is the open database.
type Store struct{ db *sqlx.DB }

// ErrNotFound is returned where a named row does not exist.
var ErrNotFound = errors.New("not found")

// ErrNameTaken and ErrPortTaken tell which of an instance's reservations failed.
var (
	ErrNameTaken = errors.New("the name is taken")
	ErrPortTaken = errors.New("the port is taken")
)

// Open opens the database at path, makes it (0600) where there is none, and brings its schema up to date after a copy
// to <path>.v<old version>. It refuses a database that is not the caller's own, that others may touch, or that a newer
// left4 has written.
func Open(path string) (_ *Store, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the database: %w", err)
	}
	info, err := f.Stat()
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot open the database: %w", err)
	}
	if st := info.Sys().(*syscall.Stat_t); !info.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("cannot open the database: %s must be a file of uid %d that nobody else may read or write", path, os.Geteuid())
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// The pragmas stand in the DSN because one sent by Exec reaches only the connection that happens to run it.
	dsn := (&url.URL{Scheme: "file", Path: abs}).String() +
		"?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=5000&_foreign_keys=on&_txlock=immediate"
	db, err := sqlx.Open("sqlite3", dsn)
	if err != nil {
		return nil, fmt.Errorf("cannot open the database: %w", err)
	}
	db.SetMaxOpenConns(1)
	s := &Store{db}
	if err := s.migrate(abs); err != nil {
		db.Close()
		return nil, fmt.Errorf("cannot open the database %s: %w", path, err)
	}
	return s, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

func (s *Store) migrate(path string) error {
	var check string
	if err := s.db.Get(&check, "PRAGMA quick_check(1)"); err != nil {
		return err
	}
	if check != "ok" {
		return fmt.Errorf("it is damaged: %s", check)
	}
	files, err := fs.Glob(schema, "schema/*.sql")
	if err != nil {
		return err
	}
	var version int
	if err := s.db.Get(&version, "PRAGMA user_version"); err != nil {
		return err
	}
	if version > len(files) {
		return fmt.Errorf("its schema %d is of a newer left4, this one knows %d", version, len(files))
	}
	if version == len(files) {
		return nil
	}
	if version > 0 {
		backup := path + ".v" + strconv.Itoa(version)
		if err := os.Remove(backup); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, err := s.db.Exec("VACUUM INTO ?", backup); err != nil {
			return fmt.Errorf("cannot back up before the migration: %w", err)
		}
		if err := os.Chmod(backup, 0o600); err != nil {
			return err
		}
	}
	return s.tx(func(tx *sqlx.Tx) error {
		for ; version < len(files); version++ {
			text, err := schema.ReadFile(files[version])
			if err != nil {
				return err
			}
			if _, err := tx.Exec(string(text)); err != nil {
				return fmt.Errorf("migration to schema %d: %w", version+1, err)
			}
		}
		_, err := tx.Exec("PRAGMA user_version = " + strconv.Itoa(version))
		return err
	})
}

// tx runs fn in one immediate transaction and commits it when fn returns nil.
func (s *Store) tx(fn func(*sqlx.Tx) error) error {
	tx, err := s.db.Beginx()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
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
