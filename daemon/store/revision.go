package store

import (
	"github.com/jmoiron/sqlx"
)

// Game stands in place of an overlay's id for the game itself.
const Game uint32 = 0

// Revision is one state of an overlay's files or of the game, or one that a job is about to make (Published 0). Times
// are microseconds since the epoch.
type Revision struct {
	Overlay   uint32 `db:"overlay"` // Game or an overlay's id
	ID        uint32 `db:"id"`      // counts from 1 in each overlay
	Job       uint32 `db:"job"`
	Created   int64  `db:"created"`
	Published int64  `db:"published"`
	Files     uint64 `db:"files"` // 0 as Bytes where an earlier left4 did not count
	Bytes     uint64 `db:"bytes"`
	Current   bool   `db:"current"`
	Base      uint32 `db:"base"`   // the revision that it lies over, 0 = it is whole
	Sealed    int64  `db:"sealed"` // when the worker that made its files was done, 0 = it is not, or not known

	Info JSON[RevisionInfo] `db:"info"`
}

// RevisionInfo is what is known of a revision beyond its files.
type RevisionInfo struct {
	Build string `json:",omitempty"` // of the game, as Steam numbers it; "" = not known
}

// AddRevision reserves the next number of an overlay for the job that makes it.
func (s *Store) AddRevision(overlay, job uint32, created int64) (id uint32, err error) {
	err = s.define(func(tx *sqlx.Tx) error {
		id, err = addRevision(tx, overlay, job, created)
		return err
	})
	return id, err
}

func addRevision(tx *sqlx.Tx, overlay, job uint32, created int64) (id uint32, err error) {
	err = tx.Get(&id, `INSERT INTO revision (overlay, id, job, created)
		VALUES (?, (SELECT coalesce(max(id), 0) + 1 FROM revision WHERE overlay = ?), ?, ?) RETURNING id`, overlay, overlay, job, created)
	return id, err
}

// Revisions returns what is on disk or being made of all overlays and of the game, oldest first in each.
func (s *Store) Revisions() ([]Revision, error) {
	var all []Revision
	err := s.db.Select(&all, `SELECT overlay, id, job, created, published, files, bytes, current, base, sealed, info FROM revision
		WHERE removed = 0 ORDER BY overlay, id`)
	return all, err
}

// SealRevision stores that all files of a revision are there, if not in their place, and what is known of them.
func (s *Store) SealRevision(r Revision) error {
	return s.define(func(tx *sqlx.Tx) error {
		return one(tx.NamedExec(`UPDATE revision SET sealed = :sealed, files = :files, bytes = :bytes, base = :base, info = :info
			WHERE overlay = :overlay AND id = :id AND removed = 0`, r))
	})
}

// PublishRevision makes a revision, whose directory is complete and in place, the current one.
func (s *Store) PublishRevision(r Revision) error {
	return s.define(func(tx *sqlx.Tx) error {
		if _, err := tx.Exec("UPDATE revision SET current = 0 WHERE overlay = ? AND current = 1", r.Overlay); err != nil {
			return err
		}
		return one(tx.NamedExec(`UPDATE revision SET published = :published, files = :files, bytes = :bytes, base = :base, info = :info, current = 1
			WHERE overlay = :overlay AND id = :id AND removed = 0`, r))
	})
}

// SetCurrent makes a published revision the current one. Error: ErrNotFound.
func (s *Store) SetCurrent(overlay, id uint32) error {
	return s.define(func(tx *sqlx.Tx) error {
		if _, err := tx.Exec("UPDATE revision SET current = 0 WHERE overlay = ? AND current = 1", overlay); err != nil {
			return err
		}
		return one(tx.Exec("UPDATE revision SET current = 1 WHERE overlay = ? AND id = ? AND published != 0 AND removed = 0", overlay, id))
	})
}

// DropRevision forgets a revision, whose directory is gone, unless it is the current one. Its number stays used.
func (s *Store) DropRevision(overlay, id uint32, now int64) error {
	return s.define(func(tx *sqlx.Tx) error {
		if err := one(tx.Exec("UPDATE revision SET removed = ? WHERE overlay = ? AND id = ? AND current = 0", now, overlay, id)); err != nil {
			return err
		}
		if err := dropWorkshop(tx, overlay, id); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM revision WHERE overlay = ? AND removed != 0
			AND id < (SELECT max(id) FROM revision WHERE overlay = ?)`, overlay, overlay)
		return err
	})
}

// AdoptRevision stores a revision whose directory was there first.
func (s *Store) AdoptRevision(r Revision) error {
	return s.define(func(tx *sqlx.Tx) error { return adoptRevision(tx, r) })
}

func adoptRevision(tx *sqlx.Tx, r Revision) error {
	if r.Current {
		if _, err := tx.Exec("UPDATE revision SET current = 0 WHERE overlay = ? AND current = 1", r.Overlay); err != nil {
			return err
		}
	}
	_, err := tx.NamedExec(`INSERT INTO revision (overlay, id, job, created, published, files, bytes, current, base, info)
		VALUES (:overlay, :id, :job, :created, :published, :files, :bytes, :current, :base, :info)
		ON CONFLICT (overlay, id) DO UPDATE SET published = excluded.published, removed = 0, files = excluded.files,
		bytes = excluded.bytes, current = excluded.current, base = excluded.base, info = excluded.info`, r)
	return err
}

// LoseRevision forgets a published revision whose directory is gone, also if it is the current one: then next, if it is
// not 0, becomes that. Its number stays used.
func (s *Store) LoseRevision(overlay, id, next uint32, now int64) error {
	return s.define(func(tx *sqlx.Tx) error {
		if err := one(tx.Exec("UPDATE revision SET removed = ?, current = 0 WHERE overlay = ? AND id = ?", now, overlay, id)); err != nil {
			return err
		}
		if err := dropWorkshop(tx, overlay, id); err != nil || next == 0 {
			return err
		}
		return one(tx.Exec("UPDATE revision SET current = 1 WHERE overlay = ? AND id = ? AND published != 0 AND removed = 0", overlay, next))
	})
}

// ReserveRevision sees to it that a number, and those below it, are given to no new revision.
func (s *Store) ReserveRevision(overlay, id uint32, now int64) error {
	return s.tx(func(tx *sqlx.Tx) error {
		_, err := tx.Exec(`INSERT INTO revision (overlay, id, job, created, removed) SELECT ?, ?, 0, ?, ?
			WHERE ? > (SELECT coalesce(max(id), 0) FROM revision WHERE overlay = ?)`, overlay, id, now, now, id, overlay)
		return err
	})
}
