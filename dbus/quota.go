package dbus

import (
	"context"
	"sync"
)

// Bounds of what may be under way at once. A person or a script has one call open at a time, a busy program some
// hundred; what is over is refused at once and can be sent again.
const (
	maxCalls       = 4096
	maxCallerCalls = 256
	maxBytes       = 32 << 20
	maxCallerBytes = 4 << 20
	maxUserCalls   = maxCalls / 4
	maxUserBytes   = maxBytes / 4
)

// quota counts the calls and bytes that each sender, and all together, have under way.
type quota struct {
	mu      sync.Mutex
	callers map[string]*caller
	calls   int
	bytes   int
	users   map[uint32]*share
}

// share is what all connections of one user have under way.
type share struct{ calls, bytes int }

// caller is one connection on the bus that has calls under way.
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

func newQuota() *quota {
	return &quota{callers: map[string]*caller{}, users: map[uint32]*share{}}
}

func (q *quota) enter(name string, bytes int) (*caller, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	who := q.callers[name]
	calls, held := 0, 0
	if who != nil {
		calls, held = who.calls, who.bytes
	}
	// Once it is known who calls, what claim would refuse is refused before it costs anything.
	if who != nil && who.told {
		if u := q.users[who.user]; u != nil && (u.calls >= maxUserCalls || u.bytes+bytes > maxUserBytes) {
			return nil, dbusError(errLimits, "too many calls of yours are under way; wait for answers")
		}
	}
	if q.calls >= maxCalls || q.bytes+bytes > maxBytes || calls >= maxCallerCalls || held+bytes > maxCallerBytes {
		return nil, dbusError(errLimits, "too many calls are under way; wait for answers")
	}
	if who == nil {
		who = &caller{name: name}
		who.ctx, who.cancel = context.WithCancel(context.Background())
		q.callers[name] = who
	}
	who.calls++
	who.bytes += bytes
	q.calls++
	q.bytes += bytes
	return who, nil
}

func (q *quota) leave(who *caller, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	who.calls--
	who.bytes -= bytes
	q.calls--
	q.bytes -= bytes
	if who.calls == 0 && q.callers[who.name] == who {
		delete(q.callers, who.name)
		who.cancel()
	}
}

// gone ends the calls of a connection that has left the bus.
func (q *quota) gone(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if who := q.callers[name]; who != nil {
		who.cancel()
	}
}

// claim counts a call for its user, as soon as the bus has told who that is: nobody may take all there is. Root is not
// counted at all, so that others cannot lock it out.
func (q *quota) claim(who *caller, uid uint32, bytes int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	who.told, who.user = true, uid
	if uid == 0 {
		q.calls--
		q.bytes -= bytes
		return nil
	}
	u := q.users[uid]
	if u == nil {
		u = &share{}
		q.users[uid] = u
	}
	if u.calls >= maxUserCalls || u.bytes+bytes > maxUserBytes {
		return dbusError(errLimits, "too many calls of yours are under way; wait for answers")
	}
	u.calls++
	u.bytes += bytes
	return nil
}

// release takes back what claim has done.
func (q *quota) release(uid uint32, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if uid == 0 {
		q.calls++
		q.bytes += bytes
		return
	}
	u := q.users[uid]
	u.calls--
	u.bytes -= bytes
	if u.calls == 0 {
		delete(q.users, uid)
	}
}

// turns are of something that each user may have a few of at once, and waits for otherwise: as long as there is room for
// the waiting, which the quota bounds.
type turns struct {
	limit int

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
		q = &queue{slots: make(chan struct{}, t.limit)}
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
