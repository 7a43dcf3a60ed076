package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/client"
)

// happening is one event, in monitor --json. What does not belong to an event is empty.
type happening struct {
	Time    *string  `json:"time"`
	Host    string   `json:"host,omitempty"` // only where there are several
	Event   string   `json:"event"`
	Name    string   `json:"name"`
	Job     *uint32  `json:"job"`
	Kind    string   `json:"kind"`
	Old     string   `json:"old"`
	New     string   `json:"new"`
	Cause   string   `json:"cause"`
	Status  string   `json:"status"`
	Changed []string `json:"changed"`

	text string // for people; "" is not worth a line
}

func runMonitor(v *invocation) error {
	if err := checkPatterns(v.args); err != nil {
		return err
	}
	var hosts []string
	var clients []*client.Client
	var result error
	if len(v.hosts) <= 1 {
		c, err := v.connect()
		if err != nil {
			return err
		}
		hosts, clients = []string{""}, []*client.Client{c}
	} else {
		hosts, clients, result = v.reachAll()
		defer func() {
			for _, c := range clients {
				c.Close()
			}
		}()
	}
	// Who reads may have enough at any time: that is an end like Ctrl-C, not the death that SIGPIPE is.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := context.WithCancel(v.ctx)
	defer stop()
	go awaitNoReader(v.stdout.w, stop)

	width := 0
	for _, host := range hosts {
		width = max(width, len(host))
	}
	ends := make([]error, len(clients))
	var all sync.WaitGroup
	for n, c := range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			m := monitor{v: v, host: hosts[n], width: width}
			ends[n] = m.follow(ctx, c)
			if v.stdout.err != nil {
				stop()
			}
		}()
	}
	all.Wait()
	if errors.Is(v.stdout.err, syscall.EPIPE) {
		v.stdout.err = nil
	}
	if ctx.Err() != nil {
		return result
	}
	for n, err := range ends {
		if err == nil {
			continue
		}
		if hosts[n] != "" {
			v.complain(hosts[n] + ": " + cannot("watch", "", v.plainly(err)))
			result = exitCode(exitFailure)
		} else {
			result = v.failed("watch", "", err)
		}
	}
	return result
}

// awaitNoReader calls back when what is written to can no more be read by anybody. Else that would show with the next
// event only, which may be tomorrow.
func awaitNoReader(w io.Writer, gone func()) {
	f, ok := w.(*os.File)
	if !ok {
		return
	}
	for {
		// POLLERR and POLLHUP are told without being asked for.
		fds := []unix.PollFd{{Fd: int32(f.Fd())}}
		if _, err := unix.Poll(fds, -1); err == nil {
			break
		} else if err != unix.EINTR {
			return
		}
	}
	gone()
}

// monitor prints what happens on one host.
type monitor struct {
	v     *invocation
	host  string // "" where there is but one
	width int    // of the longest host

	away      bool
	looked    bool
	instances map[string]client.Instance // as they were told last
	jobs      map[uint32]client.JobInfo  // that have not ended
	steps     map[uint32]string          // what was printed of them last
}

func (m *monitor) follow(ctx context.Context, c *client.Client) error {
	for e, err := range c.Watch(ctx) {
		if err != nil {
			return err
		}
		for _, h := range m.happenings(e) {
			if err := m.print(h); err != nil {
				return nil // it is told with the output
			}
		}
	}
	return nil
}

func (m *monitor) print(h happening) error {
	if !m.v.concerns(h) {
		return nil
	}
	now := time.Now()
	m.v.mu.Lock()
	defer m.v.mu.Unlock()
	if m.v.json {
		h.Time, h.Host = stamp(now), m.host
		if h.Changed == nil {
			h.Changed = []string{}
		}
		return printJSONLine(m.v.stdout, h)
	}
	if h.text == "" {
		return nil
	}
	host := ""
	if m.host != "" {
		host = fmt.Sprintf("%-*s  ", m.width, m.host)
	}
	_, err := fmt.Fprintf(m.v.stdout, "%s  %s%s\n", when(now), host, clean(h.text))
	return err
}

// concerns tells whether an event is about one of the names that were given. left4d concerns everybody.
func (v *invocation) concerns(h happening) bool {
	return h.Name == "" || matchAny(v.args, h.Name)
}

// happenings are what an event is told as.
func (m *monitor) happenings(e client.Event) []happening {
	switch e := e.(type) {
	case client.Snapshot:
		return m.look(e)
	case client.Gone:
		m.away = true
		h := happening{Event: "left4d-gone", text: "left4d: away"}
		if e.Err != nil {
			h.Cause = e.Err.Error()
			h.text += ": " + h.Cause
		}
		return []happening{h}

	case client.InstanceAdded:
		m.instances[e.Instance.Name] = e.Instance
		return []happening{created(e.Instance)}
	case client.InstanceChanged:
		m.instances[e.Instance.Name] = e.Instance
		// The state, and why, are told of their own.
		hidden := []string{"MainPID", "StateSince"}
		if slices.Contains(e.Changed, "State") {
			hidden = append(hidden, "State", "Cause")
		}
		return []happening{changes("instance", e.Instance.Name, e.Changed, e.Before, e.Instance, hidden...)}
	case client.InstanceStateChanged:
		return []happening{stateChange(e.Name, e.Old, e.New, e.Cause)}
	case client.InstanceRemoved:
		delete(m.instances, e.Name)
		return []happening{deleted("instance", e.Name)}

	case client.BlueprintAdded:
		return []happening{{Event: "blueprint-added", Name: e.Blueprint.Name, text: "blueprint " + e.Blueprint.Name + ": created"}}
	case client.BlueprintChanged:
		return []happening{changes("blueprint", e.Blueprint.Name, e.Changed, e.Before, e.Blueprint)}
	case client.BlueprintRemoved:
		return []happening{deleted("blueprint", e.Name)}

	case client.OverlayAdded:
		return []happening{{Event: "overlay-added", Name: e.Overlay.Name, New: e.Overlay.State, text: "overlay " + e.Overlay.Name + ": created"}}
	case client.OverlayChanged:
		h := changes("overlay", e.Overlay.Name, e.Changed, e.Before, e.Overlay, "Revisions")
		h.Old, h.New, h.Cause = e.Before.State, e.Overlay.State, e.Overlay.Cause
		return []happening{h}
	case client.OverlayRemoved:
		return []happening{deleted("overlay", e.Name)}

	case client.GameChanged:
		h := changes("game", "game", e.Changed, e.Before, e.Service, "GameRevisions")
		h.Old, h.New = fmt.Sprint(e.Before.GameRevision), fmt.Sprint(e.Service.GameRevision)
		return []happening{h}

	case client.JobAdded:
		if !e.Job.Ended() {
			m.jobs[e.Job.ID] = e.Job
		}
		h := ofJob("job-added", e.Job)
		h.text += e.Job.State + ", asked for by " + userName(e.Job.RequesterName, e.Job.Requester)
		return []happening{h}
	case client.JobChanged:
		if !e.Job.Ended() {
			m.jobs[e.Job.ID] = e.Job
		}
		return []happening{m.step(e)}
	case client.JobEnded:
		return []happening{m.ended(e.Job)}
	case client.JobForgotten:
		h := ofJob("job-forgotten", e.Job)
		h.text = ""
		return []happening{h}
	}
	return nil
}

// look tells what has changed where that was not told when it happened, because left4d was away or this was too slow.
func (m *monitor) look(s client.Snapshot) (all []happening) {
	if m.away {
		all = append(all, happening{Event: "left4d-back", text: "left4d: back"})
	}
	if s.Missed {
		all = append(all, happening{Event: "missed", text: "left4d: more happened than could be told"})
	}
	before, jobs := m.instances, m.jobs
	m.away, m.instances, m.jobs, m.steps = false, map[string]client.Instance{}, map[uint32]client.JobInfo{}, map[uint32]string{}
	for _, i := range s.Instances {
		m.instances[i.Name] = i
		was, known := before[i.Name]
		switch {
		case !m.looked:
		case !known:
			all = append(all, created(i))
		case was.State != i.State:
			all = append(all, stateChange(i.Name, was.State, i.State, i.Cause))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, known := m.instances[name]; !known {
			all = append(all, deleted("instance", name))
		}
	}
	for _, j := range s.Jobs {
		if !j.Ended() {
			m.jobs[j.ID] = j
		} else if _, waits := jobs[j.ID]; waits {
			all = append(all, m.ended(j))
		}
	}
	m.looked = true
	return all
}

func created(i client.Instance) happening {
	return happening{
		Event: "instance-added", Name: i.Name, New: i.State, Cause: i.Cause,
		text: fmt.Sprintf("instance %s: created, port %d", i.Name, i.Port),
	}
}

func deleted(kind, name string) happening {
	return happening{Event: kind + "-removed", Name: name, text: kind + " " + name + ": deleted"}
}

func stateChange(name, old, now, cause string) happening {
	h := happening{Event: "instance-state", Name: name, Old: old, New: now, Cause: cause, text: fmt.Sprintf("instance %s: %s → %s", name, old, now)}
	if cause != "" {
		h.text += ": " + cause
	}
	return h
}

// changes tells properties that have changed, with their values; some are not worth it.
func changes(kind, name string, changed []string, before, now any, hidden ...string) happening {
	h := happening{Event: kind + "-changed", Name: name, Changed: changed}
	var parts []string
	for _, property := range changed {
		if !slices.Contains(hidden, property) {
			parts = append(parts, fmt.Sprintf("%s %s → %s", property, shownField(before, property), shownField(now, property)))
		}
	}
	if len(parts) > 0 {
		if h.text = kind + " " + name; kind == name {
			h.text = kind
		}
		h.text += ": " + strings.Join(parts, ", ")
	}
	return h
}

// shownField is a property of an object for people. One that this program does not know has no field.
func shownField(object any, property string) string {
	f := reflect.ValueOf(object).FieldByName(property)
	if !f.IsValid() {
		return "?"
	}
	switch value := f.Interface().(type) {
	case []client.Overlay:
		return orDash(shownOverlays(value))
	case client.Limits:
		return orDash(assigned(shownLimits(value)))
	case []string:
		return orDash(strings.Join(value, " "))
	case bool:
		if value {
			return "yes"
		}
		return "no"
	default:
		return orDash(fmt.Sprint(value))
	}
}

func ofJob(event string, j client.JobInfo) happening {
	return happening{
		Event: event, Name: j.Target, Job: &j.ID, Kind: j.Kind, New: j.State, Cause: j.Cause, Status: j.Status,
		text: fmt.Sprintf("job %d (%s %s): ", j.ID, j.Kind, j.Target),
	}
}

// step tells what a job is at, for people only where that is more than another number.
func (m *monitor) step(e client.JobChanged) happening {
	h := ofJob("job-changed", e.Job)
	h.Old, h.Changed = e.Before.State, e.Changed
	what := e.Job.State
	if e.Job.Status != "" {
		what = e.Job.Status
	}
	key := fmt.Sprint(int(e.Job.Progress*10), strings.Map(dropDigits, what))
	if e.Job.Ended() || m.steps[e.Job.ID] == key {
		h.text = ""
		return h
	}
	m.steps[e.Job.ID] = key
	h.text += what
	return h
}

func (m *monitor) ended(j client.JobInfo) happening {
	h := ofJob("job-ended", j)
	h.Old, h.text = m.jobs[j.ID].State, h.text+j.State
	if j.Cause != "" {
		h.text += ": " + j.Cause
	}
	delete(m.jobs, j.ID)
	delete(m.steps, j.ID)
	return h
}
