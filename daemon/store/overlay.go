package store

import (
	"github.com/jmoiron/sqlx"
)

// Overlay is a named layer of files. Its files are in its revisions.
type Overlay struct {
	ID        uint32              `db:"id"` // never given out again
	Name      string              `db:"name"`
	Type      string              `db:"type"`
	Owner     uint32              `db:"owner"`
	OwnerName string              `db:"-"`       // the login name of Owner, which only the daemon knows; "" = none
	Created   int64               `db:"created"` // microseconds since the epoch
	Config    JSON[OverlayConfig] `db:"config"`
}

// OverlayConfig is what the owner of an overlay may set; nil is the default.
type OverlayConfig struct {
	Keep *uint32 `json:",omitempty"` // older revisions that stay for a rollback

	// Of type workshop.
	Items []string `json:",omitempty"` // ids of items and collections

	// Of type script.
	Script string `json:",omitempty"` // what bash runs
}

// Overlays returns all overlays by name.
func (s *Store) Overlays() ([]Overlay, error) {
	var all []Overlay
	err := s.db.Select(&all, "SELECT id, name, type, owner, created, config FROM overlay ORDER BY name")
	return all, err
}

// CreateOverlay stores a new overlay and gives it its id. Error: ErrNameTaken.
func (s *Store) CreateOverlay(o *Overlay) error {
	created := *o
	err := s.define(func(tx *sqlx.Tx) error {
		var n int
		if err := tx.Get(&n, "SELECT count(*) FROM overlay WHERE name = ?", o.Name); err != nil {
			return err
		}
		if n > 0 {
			return ErrNameTaken
		}
		result, err := tx.NamedExec(`INSERT INTO overlay (name, type, owner, created, config)
			VALUES (:name, :type, :owner, :created, :config)`, created)
		if err != nil {
			return err
		}
		id, err := result.LastInsertId()
		created.ID = uint32(id)
		return err
	})
	if err == nil {
		*o = created
	}
	return err
}

// UpdateOverlay stores the changed config of an overlay. Error: ErrNotFound.
func (s *Store) UpdateOverlay(o Overlay) error {
	return s.define(func(tx *sqlx.Tx) error {
		return one(tx.NamedExec("UPDATE overlay SET config = :config WHERE id = :id", o))
	})
}

// DeleteOverlay forgets an overlay and its revisions; one that is not there is no error.
func (s *Store) DeleteOverlay(id uint32) error {
	return s.define(func(tx *sqlx.Tx) error {
		if _, err := tx.Exec("DELETE FROM revision WHERE overlay = ?", id); err != nil {
			return err
		}
		_, err := tx.Exec("DELETE FROM overlay WHERE id = ?", id)
		return err
	})
}

// AdoptOverlay stores an overlay whose directory was there first, under its id and with its revisions. Error: ErrNameTaken.
func (s *Store) AdoptOverlay(o Overlay, revisions []Revision) error {
	err := s.define(func(tx *sqlx.Tx) error {
		if _, err := tx.NamedExec(`INSERT INTO overlay (id, name, type, owner, created, config)
			VALUES (:id, :name, :type, :owner, :created, :config)`, o); err != nil {
			return err
		}
		for _, r := range revisions {
			if err := adoptRevision(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	return taken(err)
}

// ReserveOverlay sees to it that an id is given to no new overlay.
func (s *Store) ReserveOverlay(id uint32) error {
	return s.tx(func(tx *sqlx.Tx) error {
		_, err := tx.Exec("INSERT INTO sqlite_sequence (name, seq) SELECT 'overlay', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'overlay')")
		if err == nil {
			_, err = tx.Exec("UPDATE sqlite_sequence SET seq = ? WHERE name = 'overlay' AND seq < ?", id, id)
		}
		return err
	})
}
