package dbus

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/daemon"
	"left4.me/left4/dbus/names"
)

// Results of a call in the audit trail.
const (
	callAllowed = "allowed"
	callRefused = "refused" // by polkit, or because nobody could be asked
	callFailed  = "failed"  // for any other reason
)

// audited tells that a method would change something, or gives a secret away.
func (m *method) audited() bool {
	return m.action != open && m.action != action+"diagnose" && !strings.HasSuffix(m.action, ".inspect")
}

// audit tells the journal who wanted what, and what became of it, before the caller hears of it.
func (s *Server) audit(c *call, out []any, err error) {
	result, name, text := callAllowed, "", ""
	if err != nil {
		result = callFailed
		if name, text = errorName(err); name == names.ErrAccessDenied || name == names.ErrInteractive {
			result = callRefused
		}
	}
	more, ok := s.refusals.pass(c.uid, result, time.Now())
	if !ok {
		return
	}
	login := daemon.LoginName(c.uid)
	what := c.method.name
	if c.subject.name != "" {
		what += " " + c.subject.name
	}
	job := c.jobID
	if len(out) > 0 && err == nil {
		if path, ok := out[0].(dbus.ObjectPath); ok {
			if id, ok := names.JobID(path); ok {
				job = id
			}
		}
	}
	attrs := []any{
		"event", "call", "method", c.method.name, "action", c.method.action, "result", result, "error", name,
		"caller_uid", c.uid, "caller", login, "sender", c.sender,
	}
	if c.subject.name != "" {
		attrs = append(attrs, c.subject.kind, c.subject.name)
	}
	line := fmt.Sprintf("%s by %s: %s", what, daemon.UserName(c.uid, login), result)
	if job != 0 {
		line += fmt.Sprintf(", job %d", job)
		attrs = append(attrs, "job", job)
	}
	if text != "" {
		line += ": " + text
	}
	if more > 0 {
		line += fmt.Sprintf(" (and %d more of this user that are not told)", more)
		attrs = append(attrs, "untold", more)
	}
	s.log.Info(line, attrs...)
}

// refusals bounds how many entries somebody can make who may not change anything: without a bound the journal's own limit
// would drop those that matter.
type refusals struct {
	mu    sync.Mutex
	users map[uint32]*refusal
}

type refusal struct {
	since        time.Time
	told, untold int
}

const (
	maxRefusals  = 60 // of one user within refusalTime
	refusalTime  = time.Minute
	refusalUsers = 1024 // from so many on, those whose time is over are forgotten
)

// pass tells whether an entry is to be made, and how many of that user were not within the time before.
func (r *refusals) pass(uid uint32, result string, now time.Time) (untold int, ok bool) {
	if uid == 0 || result == callAllowed {
		return 0, true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.users[uid]
	if u == nil || now.Sub(u.since) >= refusalTime {
		if u != nil {
			untold = u.untold
		}
		r.forget(now)
		u = &refusal{since: now}
		r.users[uid] = u
	}
	if u.told == maxRefusals {
		u.untold++
		return 0, false
	}
	u.told++
	return untold, true
}

// forget keeps the map from growing with every user there ever was.
func (r *refusals) forget(now time.Time) {
	if r.users == nil {
		r.users = map[uint32]*refusal{}
	}
	if len(r.users) < refusalUsers {
		return
	}
	for uid, u := range r.users {
		if now.Sub(u.since) >= refusalTime {
			delete(r.users, uid)
		}
	}
}
