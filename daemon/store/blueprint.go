package store

import (
	"github.com/jmoiron/sqlx"

	"left4.me/left4/units"
)

// Blueprint is a recipe that instances follow.
type Blueprint struct {
	Name      string             `db:"name"`
	Owner     uint32             `db:"owner"`
	OwnerName string             `db:"-"`       // the login name of Owner, which only the daemon knows; "" = none
	Created   int64              `db:"created"` // microseconds since the epoch
	Arguments JSON[[]string]     `db:"arguments"`
	Config    JSON[[]string]     `db:"config"`
	Overlays  JSON[[]OverlayRef] `db:"overlays"`
	Limits    JSON[units.Limits] `db:"limits"`
}

const blueprintColumns = "name, owner, created, arguments, config, overlays, limits"

// Blueprints returns all blueprints by name.
func (s *Store) Blueprints() ([]Blueprint, error) {
	var all []Blueprint
	err := s.db.Select(&all, "SELECT "+blueprintColumns+" FROM blueprint ORDER BY name")
	return all, err
}

// CreateBlueprint stores a new blueprint. Error: ErrNameTaken.
func (s *Store) CreateBlueprint(b Blueprint) error {
	return s.define(func(tx *sqlx.Tx) error {
		var n int
		if err := tx.Get(&n, "SELECT count(*) FROM blueprint WHERE name = ?", b.Name); err != nil {
			return err
		}
		if n > 0 {
			return ErrNameTaken
		}
		_, err := tx.NamedExec("INSERT INTO blueprint ("+blueprintColumns+`) VALUES (:name, :owner, :created, :arguments,
			:config, :overlays, :limits)`, b)
		return err
	})
}

// UpdateBlueprint stores a changed blueprint. Error: ErrNotFound.
func (s *Store) UpdateBlueprint(b Blueprint) error {
	return s.define(func(tx *sqlx.Tx) error {
		return one(tx.NamedExec(`UPDATE blueprint SET arguments = :arguments, config = :config, overlays = :overlays,
			limits = :limits WHERE name = :name`, b))
	})
}

// DeleteBlueprint forgets a blueprint; one that is not there is no error, one that an instance follows is.
func (s *Store) DeleteBlueprint(name string) error {
	return s.define(func(tx *sqlx.Tx) error {
		_, err := tx.Exec("DELETE FROM blueprint WHERE name = ?", name)
		return err
	})
}
