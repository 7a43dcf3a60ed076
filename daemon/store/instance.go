package store

import (
	"fmt"
	"strings"

	"github.com/jmoiron/sqlx"

	"left4.me/left4/units"
)

// Instance is the definition of one game server.
type Instance struct {
	Name         string             `db:"name"`
	Port         uint16             `db:"port"`
	Owner        uint32             `db:"owner"`
	OwnerName    string             `db:"-"`       // the login name of Owner, which only the daemon knows; "" = none
	Created      int64              `db:"created"` // microseconds since the epoch
	Label        string             `db:"label"`
	Hostname     string             `db:"hostname"`
	Restart      string             `db:"restart"`
	RconPassword string             `db:"rcon_password"`
	Blueprint    string             `db:"blueprint"` // "" = none
	Arguments    JSON[[]string]     `db:"arguments"`
	Config       JSON[[]string]     `db:"config"`
	Overlays     JSON[[]OverlayRef] `db:"overlays"`
	Limits       JSON[units.Limits] `db:"limits"`
}

// OverlayRef is one layer of an instance. Alias "" hides the overlay's server.cfg, "*" stages it under the overlay's
// own name, anything else under that name.
type OverlayRef struct{ Overlay, Alias string }

const instanceColumns = "name, port, owner, created, label, hostname, restart, rcon_password, arguments, config, overlays, limits, blueprint"

// Instances returns all definitions by name.
func (s *Store) Instances() ([]Instance, error) {
	var all []Instance
	err := s.db.Select(&all, "SELECT "+strings.Replace(instanceColumns, "blueprint", "coalesce(blueprint, '') AS blueprint", 1)+" FROM instance ORDER BY name")
	return all, err
}

// Ports is a range to take a free port from, both ends included.
type Ports struct{ First, Last uint16 }

// ErrNoFreePort is returned where every port of the range is reserved.
var ErrNoFreePort = fmt.Errorf("no port is free")

// CreateInstance stores a new definition; a port of 0 becomes the next free one of the range. Errors: ErrNameTaken,
// ErrPortTaken, ErrNoFreePort.
func (s *Store) CreateInstance(in *Instance, free Ports) error {
	created := *in
	err := s.define(func(tx *sqlx.Tx) error {
		// The name is looked at first, so that a second create with the same name and port is told the name.
		var n int
		if err := tx.Get(&n, "SELECT count(*) FROM instance WHERE name = ?", in.Name); err != nil {
			return err
		}
		if n > 0 {
			return ErrNameTaken
		}
		if err := takePort(tx, &created, free); err != nil {
			return err
		}
		_, err := tx.NamedExec("INSERT INTO instance ("+instanceColumns+`) VALUES (:name, :port, :owner, :created, :label,
			:hostname, :restart, :rcon_password, :arguments, :config, :overlays, :limits, nullif(:blueprint, ''))`, created)
		return err
	})
	if err != nil {
		return taken(err)
	}
	*in = created
	return nil
}

// UpdateInstance stores a changed definition; a port of 0 becomes the next free one of the range. Errors: ErrNotFound,
// ErrPortTaken, ErrNoFreePort.
func (s *Store) UpdateInstance(in *Instance, free Ports) error {
	updated := *in
	err := s.define(func(tx *sqlx.Tx) error {
		if err := takePort(tx, &updated, free); err != nil {
			return err
		}
		return one(tx.NamedExec(`UPDATE instance SET port = :port, label = :label, hostname = :hostname,
			restart = :restart, rcon_password = :rcon_password, arguments = :arguments, config = :config,
			overlays = :overlays, limits = :limits, blueprint = nullif(:blueprint, '') WHERE name = :name`, updated))
	})
	if err != nil {
		return taken(err)
	}
	*in = updated
	return nil
}

func takePort(tx *sqlx.Tx, in *Instance, free Ports) error {
	if in.Port != 0 {
		return nil
	}
	var used []uint16
	if err := tx.Select(&used, "SELECT port FROM instance WHERE port BETWEEN ? AND ? AND name != ? ORDER BY port", free.First, free.Last, in.Name); err != nil {
		return err
	}
	next := int(free.First)
	for _, port := range used {
		if int(port) != next {
			break
		}
		next++
	}
	if next > int(free.Last) {
		return ErrNoFreePort
	}
	in.Port = uint16(next)
	return nil
}

// DeleteInstance forgets a definition; one that is not there is no error.
func (s *Store) DeleteInstance(name string) error {
	return s.define(func(tx *sqlx.Tx) error {
		_, err := tx.Exec("DELETE FROM instance WHERE name = ?", name)
		return err
	})
}
