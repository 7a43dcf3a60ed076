package units

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// Reload makes systemd read all unit files again ("daemon-reload"). It blocks PID 1 for up to seconds on a machine with
// many units, so callers share: at most one reload runs and one is queued, and who calls while one runs gets the next,
// which begins after the call. The end of ctx ends the waiting, not the reload.
func (s *Systemd) Reload(ctx context.Context) error {
	if err := s.group.do(ctx); err != nil {
		return fmt.Errorf("cannot reload systemd: %w", err)
	}
	return nil
}

// reloadTimeout only keeps a hung PID 1 from holding up reloads for ever.
const reloadTimeout = 5 * time.Minute

func (s *Systemd) reload() error {
	ctx, cancel := context.WithTimeout(context.Background(), reloadTimeout)
	defer cancel()
	defer s.mayHaveChanged("")
	return s.manager(ctx, "Reload")
}

// Fifty instances that are restarted at once come here one by one, some milliseconds after each other. A run waits until for
// some time nobody has come any more, but not for ever: that is little beside a reload, of which each saves one.
const (
	gatherPause = 80 * time.Millisecond
	gatherMost  = 500 * time.Millisecond
)

// groupCommit lets concurrent callers share runs of commit.
type groupCommit struct {
	commit      func() error
	pause, most time.Duration // how a run waits for more callers; 0 = not at all

	mu      sync.Mutex
	running bool
	joined  chan struct{} // capacity 1: somebody has come
	next    *commitRun    // who calls now waits for this one; nil = nobody does yet
}

type commitRun struct {
	done chan struct{}
	err  error // set before done is closed
}

func (g *groupCommit) do(ctx context.Context) error {
	run := g.join()
	select {
	case <-run.done:
		return run.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *groupCommit) join() *commitRun {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == nil {
		g.next = &commitRun{done: make(chan struct{})}
	}
	if !g.running {
		g.running = true
		g.joined = make(chan struct{}, 1)
		go g.work()
	}
	wake(g.joined)
	return g.next
}

// gather returns when nobody has come for a while.
func (g *groupCommit) gather() {
	if g.pause == 0 {
		return
	}
	most := time.NewTimer(g.most)
	defer most.Stop()
	for {
		pause := time.NewTimer(g.pause)
		select {
		case <-g.joined:
			pause.Stop()
		case <-pause.C:
			return
		case <-most.C:
			pause.Stop()
			return
		}
	}
}

// work commits for as long as somebody waits.
func (g *groupCommit) work() {
	for {
		g.mu.Lock()
		if g.next == nil {
			g.running = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		g.gather()
		g.mu.Lock()
		run := g.next
		g.next = nil
		g.mu.Unlock()
		run.err = g.commit()
		close(run.done)
	}
}

// systemControl is where systemd stores what SetUnitProperties sets with runtime=true.
const systemControl = "/run/systemd/system.control"

// allLimits are the keys of Limits, by the names that systemd gives the files in systemControl.
var allLimits = []string{"MemoryMax", "MemoryHigh", "TasksMax", "CPUQuota", "AllowedCPUs"}

// SetLimits gives a loaded unit these limits at once, without a reload; for one that is not loaded it does nothing.
// A nil limit is left as it is: to go back to the template's default takes Reload, which applies the drop-in to what
// runs. Write the drop-in first: it is what holds from the next Reload or load on.
//
// systemd also writes what it is told here to files, which would win over the drop-in until the next boot. SetLimits
// removes them again, so it needs to write below /run/systemd/system.control. An administrator's "systemctl
// set-property" keeps its word, since its files lie elsewhere: at the next Reload it wins over both. One with --runtime
// is replaced.
func (s *Systemd) SetLimits(ctx context.Context, unit string, l Limits) error {
	if err := s.setLimits(ctx, unit, l); err != nil {
		return fmt.Errorf("cannot set the limits of %s: %w", unit, err)
	}
	return nil
}

func (s *Systemd) setLimits(ctx context.Context, unit string, l Limits) error {
	if err := l.Check(); err != nil {
		return err
	}
	var properties []property
	var files []string
	set := func(file, name string, value any) {
		properties = append(properties, property{name, dbus.MakeVariant(value)})
		files = append(files, file)
	}
	if l.MemoryMax != nil {
		set("MemoryMax", "MemoryMax", *l.MemoryMax)
	}
	if l.MemoryHigh != nil {
		set("MemoryHigh", "MemoryHigh", *l.MemoryHigh)
	}
	if l.TasksMax != nil {
		set("TasksMax", "TasksMax", *l.TasksMax)
	}
	if l.CPUQuotaPerSecUSec != nil {
		set("CPUQuota", "CPUQuotaPerSecUSec", *l.CPUQuotaPerSecUSec)
	}
	if l.AllowedCPUs != nil {
		set("AllowedCPUs", "AllowedCPUs", l.AllowedCPUs)
	}
	if len(properties) == 0 {
		return nil
	}
	if _, err := s.unitPath(ctx, unit); errors.Is(err, ErrNoUnit) {
		return nil
	} else if err != nil {
		return err
	}
	if err := s.manager(ctx, "SetUnitProperties", unit, true, properties); err != nil {
		return err
	}
	return dropRuntimeLimits(systemControl, unit, files)
}

// RenewLimits makes the kernel enforce what systemd has read of a running unit's limits: a Reload does that with systemd 252,
// and leaves the old ones in force with 257.
func (s *Systemd) RenewLimits(ctx context.Context, unit string) error {
	path, err := s.unitPath(ctx, unit)
	if errors.Is(err, ErrNoUnit) {
		return nil
	}
	if err == nil {
		var all map[string]dbus.Variant
		if all, err = s.properties(ctx, path, "org.freedesktop.systemd1.Service"); err == nil {
			number := func(name string) *uint64 {
				n, ok := all[name].Value().(uint64)
				if !ok {
					return nil
				}
				return &n
			}
			l := Limits{MemoryMax: number("MemoryMax"), MemoryHigh: number("MemoryHigh"), TasksMax: number("TasksMax"), CPUQuotaPerSecUSec: number("CPUQuotaPerSecUSec")}
			l.AllowedCPUs, _ = all["AllowedCPUs"].Value().([]byte)
			err = s.setLimits(ctx, unit, l)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot renew the limits of %s: %w", unit, err)
	}
	return nil
}

// property is one member of systemd's a(sv).
type property struct {
	Name  string
	Value dbus.Variant
}

// dropRuntimeLimits removes what systemd stored for these keys of the unit; what it had applied stays applied.
func dropRuntimeLimits(controlDir, unit string, keys []string) error {
	dir := filepath.Join(controlDir, unit+".d")
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, key := range keys {
		if err := os.Remove(filepath.Join(dir, "50-"+key+".conf")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// Another setting's file may be left in it.
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
