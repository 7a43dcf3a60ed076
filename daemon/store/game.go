package store

import (
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"
)

// GameRevision is one imported state of the game, or one that a job is about to import (Published 0).
type GameRevision struct {
	ID        uint32 `db:"id"`
	Job       uint32 `db:"job"`
	Created   int64  `db:"created"`
	Published int64  `db:"published"`
	Current   bool   `db:"current"`
}

// AddGameRevision reserves a number, which is never given out again, for the job that imports it.
func (s *Store) AddGameRevision(job uint32, created int64) (uint32, error) {
	result, err := s.db.Exec("INSERT INTO game_revision (job, created) VALUES (?, ?)", job, created)
	if err != nil {
		return 0, err
	}
	id, err := result.LastInsertId()
	return uint32(id), err
}

// GameRevisions returns all revisions, oldest first.
func (s *Store) GameRevisions() ([]GameRevision, error) {
	var all []GameRevision
	err := s.db.Select(&all, "SELECT id, job, created, published, current FROM game_revision ORDER BY id")
	return all, err
}

// PublishGameRevision makes a revision, whose directory is complete and in place, the current one.
func (s *Store) PublishGameRevision(id uint32, now int64) error {
	return s.tx(func(tx *sqlx.Tx) error {
		if _, err := tx.Exec("UPDATE game_revision SET current = 0 WHERE current = 1"); err != nil {
			return err
		}
		return one(tx.Exec("UPDATE game_revision SET published = ?, current = 1 WHERE id = ?", now, id))
	})
}

// DropGameRevision forgets a revision that was never published.
func (s *Store) DropGameRevision(id uint32) error {
	_, err := s.db.Exec("DELETE FROM game_revision WHERE id = ? AND published = 0", id)
	return err
}

// CurrentGame is the revision that the next start mounts; 0 where no game is installed.
func (s *Store) CurrentGame() (uint32, error) {
	var id uint32
	err := s.db.Get(&id, "SELECT id FROM game_revision WHERE current = 1")
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return id, err
}
