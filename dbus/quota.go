package dbus

import (
	"context"
	"sync"
	"time"
)

// Bounds of what may be under way at once. A person or a script has one call open at a time, a busy program some
// hundred; what is over is refused at once and can be sent again.
const (
	maxCalls       = 4096
	maxCallerCalls = 256
	maxBytes       = 16 << 20
	maxCallerBytes = 4 << 20
	maxUserCalls   = maxCalls / 4
	maxUserBytes   = maxBytes / 4

	// The first calls of a connection, if they are small, get in however many others of whom nobody knows who they are: it
	// may be root's.
	firstCalls = 4
	firstBytes = 4 << 10
)

// Refused often, so made once.
var (
	errCalls = dbusError(errLimits, "too many calls are under way; wait for answers")
	errYours = dbusError(errLimits, "too many calls of yours are under way; wait for answers")
)

// quota counts the calls and bytes that each sender, each user, and all together have under way. Root is counted by the
// connection only, so that others cannot lock it out.
type quota struct {
	mu      sync.Mutex
	callers map[string]*caller // all that have called and are still on the bus
	all     share              // of all users but root
	users   map[uint32]*share
	unknown share // of those of whom it is not known yet who they are: as much as one user's
}

// share is what somebody has under way.
type share struct{ calls, bytes int }

func (s *share) add(calls, bytes int) {
	s.calls += calls
	s.bytes += bytes
}

// full tells that one user's share bears no more.
func (s *share) full(bytes int) bool {
	return s.calls >= maxUserCalls || s.bytes+bytes > maxUserBytes
}

// caller is one connection on the bus. It is kept until it leaves: who it is, is asked once.
type caller struct {
	name   string
	ctx    context.Context // ends when the connection does
	cancel context.CancelFunc
	calls  int
	bytes  int

	told bool // who it is, by claim
	user uint32

	mu    sync.Mutex
	uid   uint32
	known bool
}

// ticket is one call that has been let in.
type ticket struct {
	who   *caller
	bytes int
	told  bool // counted for its user
}

func newQuota() *quota {
	return &quota{callers: map[string]*caller{}, users: map[uint32]*share{}}
}

// enter lets a call in, or refuses it before it costs anything.
func (q *quota) enter(name string, bytes int) (ticket, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	who := q.callers[name]
	if who == nil {
		who = &caller{name: name}
		who.ctx, who.cancel = context.WithCancel(context.Background())
		q.callers[name] = who
	}
	t := ticket{who, bytes, who.told}
	if who.calls >= maxCallerCalls || who.bytes+bytes > maxCallerBytes {
		return t, errCalls
	}
	switch {
	case !who.told:
		if q.unknown.full(bytes) && (who.calls >= firstCalls || bytes > firstBytes) {
			return t, errCalls
		}
		q.unknown.add(1, bytes)
	case who.user != 0:
		if err := q.share(who.user, bytes); err != nil {
			return t, err
		}
	}
	who.calls++
	who.bytes += bytes
	return t, nil
}

// share counts a call for a user, if there is room: nobody may take all there is.
func (q *quota) share(uid uint32, bytes int) error {
	if q.all.calls >= maxCalls || q.all.bytes+bytes > maxBytes {
		return errCalls
	}
	u := q.users[uid]
	if u == nil {
		u = &share{}
	}
	if u.full(bytes) {
		return errYours
	}
	q.users[uid] = u
	u.add(1, bytes)
	q.all.add(1, bytes)
	return nil
}

// leave takes back what enter and claim have done.
func (q *quota) leave(t ticket) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.who.calls--
	t.who.bytes -= t.bytes
	switch {
	case !t.told:
		q.unknown.add(-1, -t.bytes)
	case t.who.user != 0:
		q.all.add(-1, -t.bytes)
		u := q.users[t.who.user]
		if u.add(-1, -t.bytes); u.calls == 0 {
			delete(q.users, t.who.user)
		}
	}
}

// gone ends the calls of a connection that has left the bus, which gives its name to no other.
func (q *quota) gone(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if who := q.callers[name]; who != nil {
		who.cancel()
		delete(q.callers, name)
	}
}

// claim counts a call for its user, as soon as the bus has told who that is.
func (q *quota) claim(t *ticket, uid uint32) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.who.told, t.who.user = true, uid
	if t.told {
		return nil
	}
	if uid != 0 {
		if err := q.share(uid, t.bytes); err != nil {
			return err
		}
	}
	t.told = true
	q.unknown.add(-1, -t.bytes)
	return nil
}

// turns are of something that each user may have a few of at once, and waits for otherwise: as long as there is room for
// the waiting, which the quota bounds.
type turns struct {
	limit int
	root  int // root's limit, 0 = as others'

	mu    sync.Mutex
	users map[uint32]*queue
}

type queue struct {
	slots chan struct{} // taken
	users int           // who have a turn or wait for one
}

func newTurns(limit int) *turns { return &turns{limit: limit, users: map[uint32]*queue{}} }

// take waits for a turn, or for the end of ctx; give gives it back.
func (t *turns) take(ctx context.Context, uid uint32) error {
	t.mu.Lock()
	q := t.users[uid]
	if q == nil {
		limit := t.limit
		if uid == 0 && t.root != 0 {
			limit = t.root
		}
		q = &queue{slots: make(chan struct{}, limit)}
		t.users[uid] = q
	}
	q.users++
	t.mu.Unlock()
	select {
	case q.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		t.leave(uid, q)
		return context.Cause(ctx)
	}
}

func (t *turns) give(uid uint32) {
	t.mu.Lock()
	q := t.users[uid]
	t.mu.Unlock()
	<-q.slots
	t.leave(uid, q)
}

// giveLater gives a turn back after a while.
func (t *turns) giveLater(uid uint32, after time.Duration) {
	time.AfterFunc(after, func() { t.give(uid) })
}

// giveFair is giveLater while others wait for the turn of a user other than root.
func (t *turns) giveFair(uid uint32, after time.Duration) {
	t.mu.Lock()
	wanted := t.users[uid].users > 1
	t.mu.Unlock()
	if wanted && uid != 0 {
		t.giveLater(uid, after)
	} else {
		t.give(uid)
	}
}

func (t *turns) leave(uid uint32, q *queue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if q.users--; q.users == 0 {
		delete(t.users, uid)
	}
}

// places are of something that each user may have a few of at once.
type places struct {
	limit int

	mu    sync.Mutex
	taken map[uint32]int // by uid
}

func newPlaces(limit int) *places { return &places{limit: limit, taken: map[uint32]int{}} }

// take takes one of a user's places, if one is left; give gives it back.
func (p *places) take(uid uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[uid] >= p.limit {
		return false
	}
	p.taken[uid]++
	return true
}

func (p *places) give(uid uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[uid]--; p.taken[uid] == 0 {
		delete(p.taken, uid)
	}
}
