package store

import (
	"github.com/jmoiron/sqlx"
)

// WorkshopBuild is what a revision of an overlay of type workshop was made of.
type WorkshopBuild struct {
	Items []WorkshopItem
	// Collections are the ids of all collections that were asked for or found within others.
	Collections []string `json:",omitempty"`
}

// WorkshopItem is what has become of one item.
type WorkshopItem struct {
	ID      string
	Title   string `json:",omitempty"`
	Name    string `json:",omitempty"` // of the file as its author called it, "" = not known
	File    string `json:",omitempty"` // in the revision, "" = it is not there
	Updated int64  `json:",omitempty"` // when the file was, in seconds since the epoch
	Bytes   uint64 `json:",omitempty"`
	Cause   string `json:",omitempty"` // why it was not to be had, "" = it was; then File is that of an earlier revision
}

// State is present, kept or missing: whether the revision has the newest file, an older one or none.
func (i WorkshopItem) State() string {
	switch {
	case i.Cause == "":
		return "present"
	case i.File != "":
		return "kept"
	}
	return "missing"
}

// PutWorkshop stores what a revision, which may be one that a job is about to make, was made of.
func (s *Store) PutWorkshop(overlay, revision uint32, b WorkshopBuild) error {
	return s.define(func(tx *sqlx.Tx) error {
		_, err := tx.Exec(`INSERT INTO workshop (overlay, revision, build) VALUES (?, ?, ?)
			ON CONFLICT (overlay, revision) DO UPDATE SET build = excluded.build`, overlay, revision, JSON[WorkshopBuild]{b})
		return err
	})
}

// Workshop returns what a revision was made of. Error: ErrNotFound.
func (s *Store) Workshop(overlay, revision uint32) (WorkshopBuild, error) {
	var b JSON[WorkshopBuild]
	err := s.db.Get(&b, "SELECT build FROM workshop WHERE overlay = ? AND revision = ?", overlay, revision)
	return b.V, notFound(err)
}

// dropWorkshop forgets what a revision was made of.
func dropWorkshop(tx *sqlx.Tx, overlay, revision uint32) error {
	_, err := tx.Exec("DELETE FROM workshop WHERE overlay = ? AND revision = ?", overlay, revision)
	return err
}
