package units

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
)

// JobError tells that systemd was asked to do something with a unit and it did not come to that.
type JobError struct {
	Unit string
	Verb string // start, stop, restart
	// Result is how systemd's job ended: failed, canceled (another job took its place), timeout, dependency, skipped, …;
	// "done" when the job went well but State shows that its effect did not last; "lost" when systemd re-executed itself
	// and the result is not known.
	Result string
	State  State  // of the unit, read after the job had ended
	Need   string // the unit that failed, where the result is dependency; "" = not known
}

func (e *JobError) Error() string { return fmt.Sprintf("cannot %s %s: %s", e.Verb, e.Unit, e.Reason()) }

// Reason is why, without what.
func (e *JobError) Reason() string {
	reason := map[string]string{
		"canceled":   "another request took its place",
		"timeout":    "it took too long",
		"dependency": "a unit that it needs failed",
		"skipped":    "there was nothing to do",
	}[e.Result]
	switch {
	case e.Need != "":
		reason = e.Need + ", which it needs, failed"
	case reason != "":
	case e.State.StatusText != "" && e.State.Active == "failed":
		reason = e.State.StatusText
	case e.State.Result != "" && e.State.Result != "success":
		reason = e.State.Result
	default:
		reason = "it is " + e.State.Active + " after a job that ended as " + e.Result
	}
	return reason
}

// NeedError tells that a unit was not started because of another one, which it needs: ErrMasked or ErrNoUnit.
type NeedError struct {
	Unit string
	err  error
}

func (e *NeedError) Error() string {
	if e.err == ErrMasked {
		return e.Unit + ", which it needs, is masked"
	}
	return e.Unit + ", which it needs, is not there"
}

// Start starts the unit and waits until that is done: for the server's unit, until its program runs. It fails with
// *JobError when the unit is down after that, with *NeedError, ErrNoUnit, ErrMasked, or ctx.Err(): the end of ctx ends the waiting,
// not systemd's job. Starting what runs is a success.
//
// systemd counts starts by people too against StartLimitBurst=: call ResetFailed before a start that somebody wants.
func (s *Systemd) Start(ctx context.Context, unit string) error {
	return s.run(ctx, "start", "StartUnit", unit)
}

// Stop stops the unit and waits until that is done. Stopping what is not there, or does not run, is a success.
func (s *Systemd) Stop(ctx context.Context, unit string) error {
	return s.run(ctx, "stop", "StopUnit", unit)
}

// Restart stops and starts the unit, or starts one that is down; the units it is bound to stay as they are.
func (s *Systemd) Restart(ctx context.Context, unit string) error {
	return s.run(ctx, "restart", "RestartUnit", unit)
}

func (s *Systemd) run(ctx context.Context, verb, method, unit string) error {
	wait, err := s.queue(ctx, verb, method, unit)
	if err != nil {
		return err
	}
	return wait(ctx)
}

// QueueStop asks systemd to stop the unit and returns when the request is taken; wait does what Stop does after that.
// A process that dies while a stop is queued is not restarted: that is how to Kill for good.
func (s *Systemd) QueueStop(ctx context.Context, unit string) (wait func(ctx context.Context) error, err error) {
	return s.queue(ctx, "stop", "StopUnit", unit)
}

func (s *Systemd) queue(ctx context.Context, verb, method, unit string) (wait func(context.Context) error, err error) {
	job := s.expect(unit)
	defer s.mayHaveChanged(unit)
	var path dbus.ObjectPath
	if err := s.managerStore(ctx, &path, method, unit, "replace"); err != nil {
		s.forget(job)
		if verb == "stop" && errors.Is(err, ErrNoUnit) {
			return func(context.Context) error { return nil }, nil
		}
		if about := (*unitError)(nil); errors.As(err, &about) && about.unit != "" && about.unit != unit {
			err = &NeedError{about.unit, about.err}
		}
		return nil, fmt.Errorf("cannot %s %s: %w", verb, unit, err)
	}
	s.accept(job, path)
	return func(ctx context.Context) error { return s.finish(ctx, verb, job) }, nil
}

// finish waits for the result and looks at the unit: the result is that of systemd's job, which others may have
// replaced, shared or undone.
func (s *Systemd) finish(ctx context.Context, verb string, job *jobWait) error {
	var result string
	select {
	case result = <-job.result:
		job.result <- result // for another call of the same wait
	case <-ctx.Done():
		return ctx.Err()
	case <-s.Done():
		return fmt.Errorf("cannot %s %s: %w", verb, job.unit, ErrLost)
	}
	state, err := s.State(ctx, job.unit)
	if err != nil {
		return err
	}
	if (result == "done" || result == jobLost) && state.Down() == (verb == "stop") {
		return nil
	}
	failed := &JobError{Unit: job.unit, Verb: verb, Result: result, State: state}
	if result == "dependency" {
		failed.Need = s.failedNeed(ctx, job.unit, 3)
	}
	return failed
}

// activeState is that of a unit of any kind, "" where it is not loaded.
func (s *Systemd) activeState(ctx context.Context, unit string) (active string) {
	path, err := s.unitPath(ctx, unit)
	if err != nil {
		return ""
	}
	all, err := s.properties(ctx, path, unitIface)
	if err != nil {
		return ""
	}
	put(&active, all["ActiveState"])
	return active
}

// failedNeed is the first unit that failed of those that a unit needs, or that those need, down to a depth; "" = none.
func (s *Systemd) failedNeed(ctx context.Context, unit string, depth int) string {
	if depth == 0 {
		return ""
	}
	// It may be forgotten already, as what never came to run is: then it is read from disk again.
	var path dbus.ObjectPath
	if err := s.managerStore(ctx, &path, "LoadUnit", unit); err != nil {
		return ""
	}
	all, err := s.properties(ctx, path, unitIface)
	if err != nil {
		return ""
	}
	for _, kind := range []string{"Requires", "Requisite", "BindsTo"} {
		needs, _ := all[kind].Value().([]string)
		for _, need := range needs {
			switch s.activeState(ctx, need) {
			case "", "active":
			case "failed":
				return need
			default:
				if deeper := s.failedNeed(ctx, need, depth-1); deeper != "" {
					return deeper
				}
			}
		}
	}
	return ""
}

// Kill sends the signal to every process of the unit. Nothing to kill is a success.
func (s *Systemd) Kill(ctx context.Context, unit string, signal int32) error {
	defer s.mayHaveChanged(unit)
	err := s.manager(ctx, "KillUnit", unit, "all", signal)
	if err == nil || errors.Is(err, ErrNoUnit) || errorName(err) == busName+".NoSuchProcess" {
		return nil
	}
	return fmt.Errorf("cannot kill %s: %w", unit, err)
}

// ResetFailed forgets that the unit failed, and how often it was started of late. What is not loaded has nothing to
// forget. systemd unloads a unit after that if nothing wants it.
func (s *Systemd) ResetFailed(ctx context.Context, unit string) error {
	defer s.mayHaveChanged(unit)
	if err := s.manager(ctx, "ResetFailedUnit", unit); err != nil && !errors.Is(err, ErrNoUnit) {
		return fmt.Errorf("cannot reset %s: %w", unit, err)
	}
	return nil
}

// WaitInactive waits until the unit is down. It asks for nothing: the overlay's unit stops by itself
// (StopWhenUnneeded=), a moment after the server's. A unit that ended as failed is a *JobError.
func (s *Systemd) WaitInactive(ctx context.Context, unit string) error {
	changed, stop := s.changes(unit)
	defer stop()
	for {
		state, err := s.State(ctx, unit)
		if err != nil {
			return err
		}
		switch {
		case state.Active == "failed":
			return &JobError{Unit: unit, Verb: "stop", Result: "failed", State: state}
		case state.Active == "inactive" && state.Job == 0:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.Done():
			return fmt.Errorf("cannot wait for %s: %w", unit, ErrLost)
		}
	}
}

// jobLost is the result of a job that ended while nobody could be told.
const jobLost = "lost"

// jobWait waits for one JobRemoved. The signal may come before the answer that names the job, so until then all
// results for the unit are kept. Fields are under Systemd.mu.
type jobWait struct {
	unit   string
	path   dbus.ObjectPath // "" until accept
	early  map[dbus.ObjectPath]string
	result chan string // capacity 1, sent to once
}

func (s *Systemd) expect(unit string) *jobWait {
	job := &jobWait{unit: unit, early: map[dbus.ObjectPath]string{}, result: make(chan string, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.jobs[unit] == nil {
		s.jobs[unit] = map[*jobWait]struct{}{}
	}
	s.jobs[unit][job] = struct{}{}
	return job
}

func (s *Systemd) accept(job *jobWait, path dbus.ObjectPath) {
	s.mu.Lock()
	defer s.mu.Unlock()
	job.path = path
	if result, ok := job.early[path]; ok {
		s.settle(job, result)
	}
}

func (s *Systemd) forget(job *jobWait) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(job)
}

// jobRemoved is called with mu held.
func (s *Systemd) jobRemoved(unit string, path dbus.ObjectPath, result string) {
	for job := range s.jobs[unit] {
		switch job.path {
		case "":
			job.early[path] = result
		case path:
			s.settle(job, result)
		}
	}
}

// settle is called with mu held.
func (s *Systemd) settle(job *jobWait, result string) {
	if _, ok := s.jobs[job.unit][job]; ok {
		s.drop(job)
		job.result <- result
	}
}

// drop is called with mu held.
func (s *Systemd) drop(job *jobWait) {
	delete(s.jobs[job.unit], job)
	if len(s.jobs[job.unit]) == 0 {
		delete(s.jobs, job.unit)
	}
}

// settleJobs ends the waiting for jobs that are gone. Jobs outlive a re-execution of systemd with their numbers, but
// nobody hears of those that end within it.
func (s *Systemd) settleJobs(ctx context.Context) {
	s.mu.Lock()
	var jobs []*jobWait
	for _, unit := range s.jobs {
		for job := range unit {
			if job.path != "" {
				jobs = append(jobs, job)
			}
		}
	}
	s.mu.Unlock()
	for _, job := range jobs {
		id, err := strconv.ParseUint(string(job.path[strings.LastIndexByte(string(job.path), '/')+1:]), 10, 32)
		if err == nil {
			var path dbus.ObjectPath
			err = s.managerStore(ctx, &path, "GetJob", uint32(id))
		}
		if err != nil {
			s.mu.Lock()
			s.settle(job, jobLost)
			s.mu.Unlock()
		}
	}
}
