package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
	"left4.me/left4/test/report"
)

const service = "left4d.service"

// restart restarts left4d and returns how long it took, from the moment that its program ran, until it had its name, and until it
// told of n instances that they run.
func (b *bench) restart(n int) (named, right time.Duration) {
	owned := make(chan time.Duration, 1)
	undo := b.listenTo(func(_ time.Time, s *dbus.Signal) {
		if s.Name == names.Bus+".NameOwnerChanged" && s.Body[0] == names.Service && s.Body[2] != "" {
			owned <- monotonic()
		}
	})
	defer undo()
	job := b.queue(systemd, managerPath, managerI+".RestartUnit", service, "replace")
	var at time.Duration
	select {
	case at = <-owned:
	case <-time.After(patience):
		fatalf("left4d does not come back")
	}
	deadline := time.Now().Add(patience)
	for b.running() != n {
		if time.Now().After(deadline) {
			fatalf("left4d tells of %d instances that they run, not %d", b.running(), n)
		}
	}
	told := monotonic()
	b.await(job)
	usec, err := strconv.ParseInt(command("systemctl", "show", "--value", "--property=ExecMainStartTimestampMonotonic", service), 10, 64)
	check(err)
	exec := time.Duration(usec) * time.Microsecond
	return at - exec, told - exec
}

// running counts the instances that left4d says run, and should.
func (b *bench) running() (n int) {
	var list []struct {
		Name, Label, State, Desired, Cause, Blueprint string
		Port                                          uint16
		Object                                        dbus.ObjectPath
	}
	check(b.conn.Object(names.Service, names.Root).Call(names.Manager+".ListInstances", 0, none).Store(&list))
	for _, i := range list {
		if i.State == "running" && i.Desired == "running" && strings.HasPrefix(i.Cause, "started by ") {
			n++
		}
	}
	return n
}

// weight is what left4d has of the machine.
type weight struct{ rss, threads, files int }

func (b *bench) weigh() weight {
	pid := b.pidOf(service)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	check(err)
	status := fmt.Sprintf("/proc/%d/status", pid)
	return weight{statusOf(status, "VmRSS"), statusOf(status, "Threads"), len(files)}
}

// grow is what of left4d grows with n instances that run.
func (b *bench) grow(n int) {
	var named samples
	for range b.Again {
		b.quiet()
		at, _ := b.restart(n)
		named = append(named, at)
	}
	b.quiet()
	b.plot("restart", "until left4d has its name", n, float64(named.p50().Microseconds())/1000)
	b.plot("memory", "RSS of left4d", n, float64(b.weigh().rss)/1024)
}

// rest are rows 8, 9 and 10.
func (b *bench) rest(n int) {
	var named, right samples
	for range b.Again {
		b.quiet()
		at, told := b.restart(n)
		named, right = append(named, at), append(right, told)
	}
	b.row(fmt.Sprintf("8 restart of left4d, %d running", n), append(named.figures("name owned"), right.figures("all states right")...),
		"p50 ≤ 300 ms, ≤ 1 s", named.p50() <= 300*time.Millisecond && right.p50() <= time.Second, "from its exec on")

	b.quiet()
	wakes := b.wakes()
	before := b.weigh()
	goroutines := b.goroutines()
	b.restart(n)
	b.flood()
	b.quiet()
	after := b.weigh()
	goroutinesAfter := b.goroutines()
	b.restart(n)
	grown := float64(after.rss)/float64(before.rss) - 1
	b.row(fmt.Sprintf("9 memory of left4d, %d running", n), []report.Figure{
		report.Measure("RSS idle", float64(before.rss)/1024, "MB"),
		report.Measure(fmt.Sprintf("after %d calls", b.Flood), float64(after.rss)/1024, "MB"),
		report.Measure("grown by", 100*grown, "%"),
		report.Count("goroutines", goroutines), report.Count("after", goroutinesAfter),
		report.Count("descriptors", before.files), report.Count("after", after.files),
		report.Count("threads", before.threads), report.Count("after", after.threads),
	}, "≤ 30 MB, ≤ +5 %", before.rss <= 30<<10 && grown <= 0.05 && goroutinesAfter <= goroutines && after.files <= before.files, "")
	b.row("10 wake-ups of left4d, idle", []report.Figure{
		report.Count("wake-ups", wakes), report.Measure("in", float64(b.Idle), "s"),
	}, "0 in a minute", wakes == 0, "voluntary context switches of all its threads")
}

// wakes counts how often a thread of left4d went to sleep again while nobody asked it for anything.
func (b *bench) wakes() int {
	pid := b.pidOf(service)
	// What the Go runtime still does after a start, such as giving memory back, is over by then.
	time.Sleep(time.Duration(b.Idle) * time.Second / 4)
	before := switchesOf(pid)
	time.Sleep(time.Duration(b.Idle) * time.Second)
	return switchesOf(pid) - before
}

// goroutines ends left4d with the signal on which Go tells of all of them, and counts.
func (b *bench) goroutines() int {
	pid := b.pidOf(service)
	command("kill", "-QUIT", strconv.Itoa(pid))
	told := func() string {
		command("journalctl", "--sync")
		return command("journalctl", "--output=cat", "--no-pager", fmt.Sprintf("_PID=%d", pid))
	}
	// The end of what it prints: the registers.
	for deadline := time.Now().Add(patience); !strings.Contains(told(), "rflags"); {
		if time.Now().After(deadline) {
			fatalf("left4d does not tell its goroutines")
		}
	}
	return strings.Count("\n"+told(), "\ngoroutine ")
}

// flood asks left4d for this and that, so often.
func (b *bench) flood() {
	const atOnce = 64
	messages := [][]byte{
		message(names.Service, names.Root, names.Manager, "GetInstance", lightName(0)),
		message(names.Service, names.InstancePath(lightName(0)), names.Properties, "Get", names.Instance, "State"),
		message(names.Service, names.InstancePath(lightName(0)), names.Properties, "GetAll", names.Instance),
		message(names.Service, names.Root, names.Peer, "Ping"),
	}
	serial := uint32(1)
	for sent := 0; sent < b.Flood; sent += atOnce {
		var batch []byte
		for i := range atOnce {
			m := slices.Clone(messages[(sent+i)%len(messages)])
			binary.LittleEndian.PutUint32(m[8:], serial)
			serial++
			batch = append(batch, m...)
		}
		_, err := b.raw.conn.Write(batch)
		check(err)
		for range atOnce {
			b.raw.answer()
		}
	}
}
