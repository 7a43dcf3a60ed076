package ring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"left4.me/left4/dbus/names"
	"left4.me/left4/test/chaos"
)

// How much chaos there is unless LEFT4_CHAOS says so, and how much at most: left4d keeps that many jobs to look them up.
const (
	someChaos  = 2000
	muchChaos  = 10_000
	roundChaos = 1000 // of one round: after each it is looked at what has come of all
	roundKills = 2    // of left4d
	chaosOpen  = 6    // jobs that a caller lets be unfinished
)

// Whoever asks for what, and however often left4d dies of it: each accepted call has one end, which is told once, and
// what is true in the end is what was asked for last. chaos_check_test.go has what must hold. All of it:
//
//	sudo make chaos
//
// LEFT4_CHAOS is the number of verbs, LEFT4_CHAOS_SEED a seed that was printed: the verbs are the same then, though not
// the moments.
func TestChaos(t *testing.T) {
	calls, seed := someChaos, rand.Uint64()
	if s := os.Getenv("LEFT4_CHAOS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 100 || n > muchChaos {
			t.Fatalf("LEFT4_CHAOS=%s is no number of verbs from 100 to %d", s, muchChaos)
		}
		calls = n
	}
	if s := os.Getenv("LEFT4_CHAOS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("LEFT4_CHAOS_SEED=%s is no seed", s)
		}
		seed = n
	}
	Once(t, func(t *testing.T, m *Machine) {
		t.Logf("LEFT4_CHAOS=%d LEFT4_CHAOS_SEED=%d", calls, seed)
		p := play{m, t}
		p.install()
		p.layer(chaos.Overlay, map[string]string{"left4dead2/cfg/server.cfg": "sv_tags extra\n"})
		p.ctl("blueprint", "create", chaos.Blueprint, "--overlay="+chaos.Overlay+":*")
		c := &mayhem{play: p, seed: seed, total: calls}
		c.people()
		c.follow()
		rounds := max(2, calls/roundChaos)
		for round := range rounds {
			err := c.run(round, rounds)
			if err == nil {
				err = c.calm()
			}
			if err != nil {
				t.Errorf("%v%s", err, c.stuck())
				c.judge(t, true)
				t.FailNow()
			}
			c.judge(t, round == rounds-1)
		}
		c.removeAll(t)
	})
}

// mayhem is one run of chaos and all that was heard of it.
type mayhem struct {
	play
	seed  uint64
	total int      // calls to make
	names []string // of the instances
	users []string // by caller, modulo their number
	uids  map[string]uint32
	talk
	bus     dbus.BusObject
	signals chan *dbus.Signal

	victim  int   // pidfd of the left4d that has the name
	began   int64 // microseconds since the epoch, as all times here
	took    time.Duration
	calls   []chaos.Call
	heard   []heard
	lives   []life // of left4d, in their order
	kills   int
	states  map[string]int // of the instances, after all rounds
	halfWay int            // of them where it is not certain what they should be
}

// user is who made a call.
func (c *mayhem) user(call *chaos.Call) string { return c.users[call.Caller%len(c.users)] }

// heard is a signal of left4d's Manager.
type heard struct {
	at     int64
	sender string
	member string
	body   []any
	life   int // of the left4d that has the name, -1 = none has
}

// life is one left4d, from when it took the name to when it lost it.
type life struct {
	name     string
	from, to int64 // to is 0 while it lives
}

// people makes three users, and instances of theirs: two are operators, eve is none but owns hers.
func (c *mayhem) people() {
	c.t.Helper()
	c.AddUser(c.t, "olga", "left4-operators")
	c.AddUser(c.t, "otto", "left4-operators")
	c.AddUser(c.t, "eve")
	c.WriteFile(c.t, "/etc/polkit-1/rules.d/10-eve.rules", `polkit.addRule(function(action, subject) {
		if (action.id == "me.left4.instance.create" && subject.user == "eve" && /^eve-/.test(action.lookup("instance")))
			return polkit.Result.YES;
	});`, 0o644)
	create := func(user, name string, args ...string) Result {
		c.names = append(c.names, name)
		return c.TryAs(user, append([]string{"left4ctl", "--no-ask-password", "create", name}, args...)...)
	}
	c.Eventually(c.t, "the rule lets eve create", func() bool { c.names = nil; return create("eve", "eve-0").Code == 0 })
	for n := range 19 {
		user, name := "olga", fmt.Sprintf("s%d", n)
		var args []string
		if n < 5 {
			user, name = "eve", fmt.Sprintf("eve-%d", n+1)
		} else if n%2 == 0 {
			user, args = "otto", []string{"--blueprint=" + chaos.Blueprint}
		}
		if r := create(user, name, args...); r.Code != 0 {
			c.t.Fatalf("%s cannot create %s: %+v", user, name, r)
		}
	}
	c.users = []string{"olga", "otto", "eve", "olga", "otto", "eve", "olga", "otto"}
	c.uids = map[string]uint32{}
	for _, user := range c.users {
		uid, err := strconv.ParseUint(c.Run(c.t, "id", "-u", user), 10, 32)
		if err != nil {
			c.t.Fatalf("the uid of %s: %v", user, err)
		}
		c.uids[user] = uint32(uid)
	}
}

// follow takes note of all that left4d says from now on.
func (c *mayhem) follow() {
	c.t.Helper()
	c.states = map[string]int{}
	c.CopyIn(c.t, Build(c.t, "left4.me/left4/test/chaos/cmd/left4-chaos"), "/usr/local/bin/left4-chaos")
	conn := c.Bus(c.t)
	c.talk, c.bus, c.signals = talkTo(conn), conn.BusObject(), make(chan *dbus.Signal, 64)
	conn.Signal(c.signals)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchInterface(names.Manager)}, // of any sender: a forger's would be a finding
		{dbus.WithMatchSender(names.Bus), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, names.Service)},
	} {
		if err := conn.AddMatchSignal(match...); err != nil {
			c.t.Fatalf("cannot follow left4d: %v", err)
		}
	}
	var owner string
	if err := c.bus.Call(names.Bus+".GetNameOwner", 0, names.Service).Store(&owner); err != nil {
		c.t.Fatalf("left4d has no name: %v", err)
	}
	c.victim = -1
	c.arrive(owner)
	c.began = time.Now().UnixMicro()
	c.lives = []life{{name: owner, from: c.began}}
}

// run lets the callers loose and kills left4d meanwhile; it returns when all callers have ended.
func (c *mayhem) run(round, rounds int) error {
	c.t.Helper()
	began, before := time.Now(), len(c.calls)
	total := c.total*(round+1)/rounds - c.total*round/rounds
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	said := make(chan saying)
	for n := range c.users {
		calls := total*(n+1)/len(c.users) - total*n/len(c.users)
		go c.call(ctx, round*len(c.users)+n, calls, said)
	}
	plan, dying, pending, killed := c.plan(round, total), false, false, make(chan error, 1)
	for callers := len(c.users); callers > 0; {
		arrival := false
		select {
		case s := <-said:
			switch {
			case s.err != nil:
				return s.err
			case s.call == nil:
				callers--
			default:
				c.calls = append(c.calls, *s.call)
			}
		case s := <-c.signals:
			arrival = c.hear(s)
		case err := <-killed:
			if pending = false; err != nil {
				return fmt.Errorf("cannot kill left4d: %w", err)
			}
			c.kills++
		}
		dying = dying && !arrival
		if len(plan) == 0 || dying {
			continue
		}
		next := &plan[0]
		if next.moment == returned && !arrival || next.moment != returned && len(c.calls)-before < next.calls {
			continue
		}
		if next.moment == heardOf && next.more > 0 {
			next.more--
			continue
		}
		dying, pending, plan = true, true, plan[1:]
		if next.moment == written {
			go func() { killed <- c.killAtWrite(ctx, next.more) }()
		} else {
			killed <- c.kill()
		}
	}
	c.took += time.Since(began)
	if pending {
		cancel()
		if err := <-killed; err != nil {
			return fmt.Errorf("the last kill of left4d did not come to pass: %w", err)
		}
		c.kills++
	}
	if len(plan) > 0 {
		return fmt.Errorf("%d kills of left4d did not come to pass", len(plan))
	}
	return nil
}

// doom is when left4d is killed.
type doom struct {
	moment moment
	calls  int // that have been answered before that
	more   int // events that pass after them
}

type moment int

const (
	heardOf  moment = iota // when there was so many calls and signals more
	returned               // when it has just come back from the kill before, while it takes up the jobs again
	written                // when it has written to its database so many times more, and has not told anybody
)

func (c *mayhem) plan(round, calls int) (plan []doom) {
	random := rand.New(rand.NewPCG(c.seed, 1<<32+uint64(round)))
	// Each within its own part of the calls, and none when only the last callers are at it.
	part := calls * 9 / 10 / roundKills
	for n := range roundKills {
		moment := []moment{heardOf, returned, written, written}[(round*roundKills+n)%4]
		plan = append(plan, doom{moment, n*part + random.IntN(part), random.IntN(8)})
	}
	return plan
}

// arrive takes hold of the left4d that has the name, so that it can be killed at once.
func (c *mayhem) arrive(owner string) {
	c.t.Helper()
	var pid uint32
	err := c.bus.Call(names.Bus+".GetConnectionUnixProcessID", 0, owner).Store(&pid)
	if err == nil {
		unix.Close(c.victim)
		c.victim, err = c.pidfd(int(pid))
	}
	if err != nil {
		c.t.Fatalf("cannot find the process of %s: %v", owner, err)
	}
}

// pidfd holds a process of the machine.
func (m *Machine) pidfd(pid int) (int, error) {
	host, err := m.hostPID(pid)
	if err != nil {
		return -1, err
	}
	return unix.PidfdOpen(host, 0)
}

// hostPID is the number that a process of the machine has on the host.
func (m *Machine) hostPID(pid int) (int, error) {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.boot.init))
	if err != nil {
		return 0, err
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range all {
		status, _ := os.ReadFile(dir + "/status")
		_, numbers, _ := strings.Cut(string(status), "\nNSpid:")
		numbers, _, _ = strings.Cut(numbers, "\n")
		if f := strings.Fields(numbers); len(f) < 2 || f[len(f)-1] != strconv.Itoa(pid) {
			continue
		}
		if in, _ := os.Readlink(dir + "/ns/pid"); in == space {
			return strconv.Atoi(filepath.Base(dir))
		}
	}
	return 0, fmt.Errorf("the host sees no process %d of the machine", pid)
}

func (c *mayhem) kill() error { return unix.PidfdSendSignal(c.victim, unix.SIGKILL, nil, 0) }

// killAtWrite kills left4d when it has written to its database so many times and once more: it waits for the disk then.
func (c *mayhem) killAtWrite(ctx context.Context, times int) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	defer watch.Close()
	defer context.AfterFunc(ctx, func() { watch.SetReadDeadline(time.Unix(1, 0)) })()
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(c.State(), "left4.db-wal"), unix.IN_MODIFY); err != nil {
		return err
	}
	event := make([]byte, unix.SizeofInotifyEvent)
	for range times + 1 {
		if _, err := watch.Read(event); err != nil {
			return err
		}
	}
	return c.kill()
}

// saying is a call, the failure of a caller, or, with neither, its end.
type saying struct {
	call *chaos.Call
	err  error
}

// call runs one caller and passes on what it says.
func (c *mayhem) call(ctx context.Context, n, calls int, said chan<- saying) {
	say := func(s saying) {
		select {
		case said <- s:
		case <-ctx.Done():
		}
	}
	user, instances := c.users[n%len(c.users)], c.names
	if user == "eve" { // mostly what she may
		for _, name := range c.names {
			if strings.HasPrefix(name, "eve-") {
				instances = append(slices.Clone(instances), name, name, name, name)
			}
		}
	}
	cmd := c.Command(ctx, asUser(user, append([]string{
		"left4-chaos", fmt.Sprintf("-seed=%d", c.seed), fmt.Sprintf("-caller=%d", n), fmt.Sprintf("-calls=%d", calls),
		fmt.Sprintf("-open=%d", chaosOpen),
	}, instances...))...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		say(saying{err: err})
		return
	}
	for lines := json.NewDecoder(out); ; {
		var call chaos.Call
		if err = lines.Decode(&call); err != nil {
			break
		}
		say(saying{call: &call})
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, cmd.Wait()); err != nil {
		say(saying{err: fmt.Errorf("caller %d: %w\n%s", n, err, errs.String())})
		return
	}
	say(saying{})
}

// hear takes a signal in and tells whether left4d has come back by it.
func (c *mayhem) hear(s *dbus.Signal) (arrival bool) {
	if s == nil {
		c.t.Fatalf("the bus of %s is gone", c.Suite)
		return false
	}
	now := time.Now().UnixMicro()
	last := &c.lives[len(c.lives)-1]
	switch {
	case s.Name == names.Bus+".NameOwnerChanged":
		if last.to == 0 {
			last.to = now
		}
		if after := s.Body[2].(string); after != "" {
			c.lives = append(c.lives, life{name: after, from: now})
			c.arrive(after)
			return true
		}
	case strings.HasPrefix(s.Name, names.Manager+"."):
		h := heard{now, s.Sender, strings.TrimPrefix(s.Name, names.Manager+"."), s.Body, -1}
		if last.to == 0 {
			h.life = len(c.lives) - 1
		}
		c.heard = append(c.heard, h)
	}
	return false
}

// stuck tells what is at work where something has no end.
func (c *mayhem) stuck() string {
	return "\nunfinished:\n" + c.Try("sh", "-c", "left4ctl job list | grep -e queued -e running; systemctl list-jobs --no-pager").Out
}

// until waits until it is so, and looks again at every signal of left4d or systemd.
func (c *mayhem) until(what string, yes func() bool) error {
	c.t.Helper()
	conn := c.Bus(c.t)
	defer conn.Close() // godbus keeps all that nobody takes any more
	if err := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").Call("org.freedesktop.systemd1.Manager.Subscribe", 0).Err; err != nil {
		c.t.Fatalf("cannot subscribe to systemd: %v", err)
	}
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	for _, sender := range []string{"org.freedesktop.systemd1", names.Service} {
		if err := conn.AddMatchSignal(dbus.WithMatchSender(sender)); err != nil {
			c.t.Fatalf("cannot follow %s: %v", sender, err)
		}
	}
	timer := time.NewTimer(eventDeadline)
	defer timer.Stop()
	for !yes() {
		select {
		case s := <-c.signals:
			c.hear(s)
		case <-signals:
		case <-timer.C:
			return fmt.Errorf("still not true after %s: %s", eventDeadline, what)
		}
	}
	return nil
}

// calm waits until nothing is at work any more: no job of left4d, none of systemd, no unit between two states. What
// timed out may have left systemd with work. A left4d that was killed last of all comes back by the first call.
func (c *mayhem) calm() error {
	c.t.Helper()
	err := c.until("no job is unfinished", func() bool {
		for _, state := range []string{"queued", "running"} {
			if len(c.jobs(map[string]dbus.Variant{"state": dbus.MakeVariant(state)})) > 0 {
				return false
			}
		}
		return true
	})
	if err == nil {
		err = c.until("systemd has no work with the servers", func() bool {
			return !slices.ContainsFunc(c.units(), func(u unitRow) bool {
				return u.Job != 0 || u.Active != "active" && u.Active != "inactive" && u.Active != "failed"
			})
		})
	}
	if err == nil {
		err = c.until("left4d shows what systemd does", func() bool {
			up := c.up()
			return !slices.ContainsFunc(c.list(), func(in instanceRow) bool {
				return (in.State == "running") != (up[in.Name] == "active") || (in.State == "stopped") != (up[in.Name] == "")
			})
		})
	}
	for err == nil {
		select {
		case s := <-c.signals:
			c.hear(s)
		default:
			return nil
		}
	}
	return err
}

func (c *mayhem) jobs(filter map[string]dbus.Variant) []jobRow {
	c.t.Helper()
	rows, err := c.talk.jobs(filter)
	if err != nil {
		c.t.Fatalf("cannot list the jobs: %v", err)
	}
	return rows
}

func (c *mayhem) list() []instanceRow {
	c.t.Helper()
	rows, err := c.talk.instances()
	if err != nil {
		c.t.Fatalf("cannot list the instances: %v", err)
	}
	return rows
}

// units are those of servers and of their files that systemd has loaded.
func (c *mayhem) units() []unitRow {
	c.t.Helper()
	rows, err := c.talk.units("left4-*@*", "left4-build-*")
	if err != nil {
		c.t.Fatalf("cannot list the units: %v", err)
	}
	return rows
}

// up are the states of the servers that are not just inactive, by instance.
func (c *mayhem) up() map[string]string {
	c.t.Helper()
	up := map[string]string{}
	for _, u := range c.units() {
		if name, ok := strings.CutPrefix(u.Name, "left4-server@"); ok && u.Active != "inactive" {
			up[strings.TrimSuffix(name, ".service")] = u.Active
		}
	}
	return up
}

// removeAll deletes every instance, in whatever state chaos has left it: nothing of them may stay.
func (c *mayhem) removeAll(t *testing.T) {
	ends := c.jobsEnd()
	for _, name := range c.names {
		if err := c.left4d.Call(names.Manager+".DeleteInstance", 0, name, map[string]dbus.Variant{}).Err; err != nil {
			t.Errorf("cannot delete %s: %v", name, err)
		}
	}
	for range c.names {
		if s := ends.Wait(t, "the end of a delete", jobEnded("delete")); s.Body[4] != "done" {
			t.Errorf("delete %s: %v", s.Body[3], s.Body[4])
		}
	}
	disk := c.looked(t)
	if left := slices.Concat(disk.odd, slices.Sorted(maps.Keys(disk.found))); len(left) > 0 || len(c.list()) > 0 {
		t.Errorf("after the instances are deleted there is still:\n%s", strings.Join(left, "\n"))
	}
}
