package store

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// Job is one action: what was asked, by whom, and how it went. Times are microseconds since the epoch, 0 where it has
// not come to that.
type Job struct {
	ID            uint32        `db:"id"`
	Kind          string        `db:"kind"`
	Target        string        `db:"target"`
	Instance      int64         `db:"instance"` // Created of the instance, or id of the overlay, that it is about; 0 = there was none
	State         string        `db:"state"`
	Requester     uint32        `db:"requester"`
	RequesterName string        `db:"requester_name"` // login name when it was accepted, "" = none
	Status        string        `db:"status"`
	Canceled      string        `db:"canceled"` // why it is to end, "" = it is not
	Cause         string        `db:"cause"`
	Timeout       time.Duration `db:"-"`
	TimeoutUS     int64         `db:"timeout"`
	Created       int64         `db:"created"`
	Started       int64         `db:"started"`
	Finished      int64         `db:"finished"`

	Parameters JSON[Parameters] `db:"parameters"`
}

// Parameters is what a job was asked for beyond its kind and target.
type Parameters struct {
	// Of an import of an overlay.
	Merge  bool     `json:",omitempty"` // the archive is put over what the overlay holds
	Remove []string `json:",omitempty"` // what of it goes before that
	Base   uint32   `json:",omitempty"` // the revision that it must hold, 0 = any
	Into   string   `json:",omitempty"` // the directory that the archive is unpacked into, "" = the top
	File   string   `json:",omitempty"` // what the file is called that a VPK becomes, "" = as the overlay

	// Of an initialize.
	FilesFrom string `json:",omitempty"` // the instance whose server's files are copied, "" = none
	FilesMade int64  `json:",omitempty"` // Created of that instance

	// Of a build of an overlay.
	OnTop bool `json:",omitempty"` // of the current revision; else from nothing

	// Of an installation of the game.
	Mode string `json:",omitempty"`

	// Of a repair.
	Problems []string `json:",omitempty"` // by kind, or kind/name; none are all
}

const jobColumns = "id, kind, target, instance, state, requester, requester_name, status, cause, timeout, created, started, finished, parameters, canceled"

// PutJob stores a job under its id, whether or not it was stored before.
func (s *Store) PutJob(j Job) error {
	j.TimeoutUS = j.Timeout.Microseconds()
	_, err := s.db.NamedExec(`INSERT INTO job (`+jobColumns+`)
		VALUES (:id, :kind, :target, :instance, :state, :requester, :requester_name, :status, :cause, :timeout, :created, :started, :finished, :parameters, :canceled)
		ON CONFLICT (id) DO UPDATE SET state = excluded.state, status = excluded.status, cause = excluded.cause,
		started = excluded.started, finished = excluded.finished,
		parameters = CASE excluded.finished WHEN 0 THEN parameters ELSE '{}' END`, j)
	if err == nil && j.ID%backupJobs == 0 {
		s.changed()
	}
	return err
}

// CancelJob notes why an unfinished job is to end.
func (s *Store) CancelJob(id uint32, why string) error {
	_, err := s.db.Exec("UPDATE job SET canceled = ? WHERE id = ? AND finished = 0", why, id)
	return err
}

// LastJobID is the largest id that was ever given to a stored job, 0 before the first.
func (s *Store) LastJobID() (uint32, error) {
	var id uint32
	err := s.db.Get(&id, "SELECT seq FROM sqlite_sequence WHERE name = 'job'")
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return id, err
}

// Job returns one job, or ErrNotFound.
func (s *Store) Job(id uint32) (Job, error) {
	var j Job
	err := s.db.Get(&j, "SELECT "+jobColumns+" FROM job WHERE id = ?", id)
	j.Timeout = time.Duration(j.TimeoutUS) * time.Microsecond
	return j, notFound(err)
}

// UnfinishedJobs returns the jobs that no living left4d has ended, in the order they were accepted.
func (s *Store) UnfinishedJobs() ([]Job, error) {
	var all []Job
	err := s.db.Select(&all, "SELECT "+jobColumns+" FROM job WHERE finished = 0 ORDER BY id")
	for i := range all {
		all[i].Timeout = time.Duration(all[i].TimeoutUS) * time.Microsecond
	}
	return all, err
}

// JobFilter selects jobs; an empty field selects all.
type JobFilter struct {
	Target, Kind, State string
	Requester           *uint32
	Limit               uint32
}

// Jobs returns the selected jobs, newest first.
func (s *Store) Jobs(f JobFilter) ([]Job, error) {
	var where []string
	var args []any
	for _, c := range []struct{ column, value string }{{"target", f.Target}, {"kind", f.Kind}, {"state", f.State}} {
		if c.value != "" {
			where = append(where, c.column+" = ?")
			args = append(args, c.value)
		}
	}
	if f.Requester != nil {
		where = append(where, "requester = ?")
		args = append(args, *f.Requester)
	}
	query := "SELECT " + jobColumns + " FROM job"
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	var all []Job
	err := s.db.Select(&all, query+" ORDER BY id DESC LIMIT ?", append(args, f.Limit)...)
	for i := range all {
		all[i].Timeout = time.Duration(all[i].TimeoutUS) * time.Microsecond
	}
	return all, err
}

// LastJob returns the newest job of the given kinds for a target that has begun and ended, was created at since
// (microseconds) or later and whose status is not except, or ErrNotFound.
func (s *Store) LastJob(target string, since int64, except string, kinds ...string) (Job, error) {
	query, args, err := sqlx.In("SELECT "+jobColumns+` FROM job WHERE target = ? AND created >= ? AND status != ?
		AND kind IN (?) AND started != 0 AND finished != 0 ORDER BY id DESC LIMIT 1`, target, since, except, kinds)
	if err != nil {
		return Job{}, fmt.Errorf("internal error: %w", err)
	}
	var j Job
	err = s.db.Get(&j, query, args...)
	return j, notFound(err)
}

// StartedBy returns the newest start or restart of a target that was created at since or later and was at work at a
// moment (all in microseconds), or ErrNotFound.
func (s *Store) StartedBy(target string, since, moment int64) (Job, error) {
	var j Job
	err := s.db.Get(&j, "SELECT "+jobColumns+` FROM job WHERE target = ? AND created >= ? AND kind IN ('start', 'restart')
		AND started != 0 AND started <= ? AND finished >= ? ORDER BY id DESC LIMIT 1`, target, since, moment, moment)
	return j, notFound(err)
}

// PruneJobs forgets finished jobs that ended before the given time or are not among the newest keep.
func (s *Store) PruneJobs(before time.Time, keep int) error {
	_, err := s.db.Exec(`DELETE FROM job WHERE finished != 0 AND
		(finished < ? OR id <= (SELECT id FROM job ORDER BY id DESC LIMIT 1 OFFSET ?))`, before.UnixMicro(), keep)
	return err
}
