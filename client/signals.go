package client

import (
	"context"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// Anybody on the bus may send a signal to us by our unique name, whatever it says and whatever our match rules are.
// So a signal counts only if its sender, which the bus itself writes into the message, is the connection that owns
// me.left4 at that moment of the stream; and who owns it is believed from the bus alone.

// event is one thing that happened to a watched job.
type event struct {
	changed map[string]dbus.Variant // properties with their new values
	again   bool                    // the job is to be read again: it ended, left4d came or went, values were not sent
}

// watch collects the events of one job for one waiter. The reader of signals never waits for it.
type watch struct {
	events []event // guarded by Client.mu
	wake   chan struct{}
}

// subscribe makes the match rules and learns who owns me.left4. It comes before every call: a job's end may be
// signalled before the reply that names the job has arrived.
func (c *Client) subscribe(ctx context.Context) error {
	rules := []string{
		"type='signal',sender='" + names.Bus + "',interface='" + names.Bus + "',member='NameOwnerChanged',arg0='" + names.Service + "'",
		"type='signal',sender='" + names.Service + "',interface='" + names.Manager + "',member='JobRemoved',path='" + string(names.Root) + "'",
		"type='signal',sender='" + names.Service + "',interface='" + names.Properties + "',member='PropertiesChanged',path_namespace='" + string(names.Root) + "/job'",
	}
	// All at once: the bus does them in this order, and a program that asks one thing waits for one answer, not for four.
	var calls []*dbus.Call
	for _, rule := range rules {
		calls = append(calls, c.conn.BusObject().GoWithContext(ctx, names.Bus+".AddMatch", 0, nil, rule))
	}
	calls = append(calls, c.conn.BusObject().GoWithContext(ctx, names.Bus+".GetNameOwner", 0, nil, names.Service))
	for _, call := range calls[:len(rules)] {
		if <-call.Done; call.Err != nil {
			return c.fromBus(call.Err)
		}
	}
	var owner string
	last := calls[len(rules)]
	<-last.Done
	err := last.Store(&owner)
	if err := c.fromBus(err); err != nil && !IsUnavailable(err) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// A change that was signalled meanwhile is at least as new as this answer.
	if !c.ownerKnown {
		c.owner, c.ownerKnown = owner, true
	}
	return nil
}

// DeliverSignal is for godbus alone, which calls it from its reader: so a signal is known here before a reply that was
// sent behind it, which channels between them would not promise.
func (c *Client) DeliverSignal(_, _ string, s *dbus.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.Sender == names.Bus && s.Name == names.Bus+".NameOwnerChanged":
		var name, before, after string
		if dbus.Store(s.Body, &name, &before, &after) != nil || name != names.Service {
			return
		}
		c.owner, c.ownerKnown = after, true
		c.queue(s)
		for path := range c.watches {
			c.tell(path, event{again: true})
		}
		return
	case c.owner == "" || s.Sender != c.owner:
		return
	}
	c.queue(s)
	switch {
	case s.Name == names.Manager+".JobRemoved" && s.Path == names.Root:
		if job, ok := endedJob(s); ok {
			c.keepResult(job)
			c.tell(job.Object, event{again: true})
		}
	case s.Name == names.Properties+".PropertiesChanged":
		var iface string
		var changed map[string]dbus.Variant
		var invalidated []string
		if dbus.Store(s.Body, &iface, &changed, &invalidated) != nil || iface != names.Job {
			return
		}
		c.tell(s.Path, event{changed: changed, again: len(invalidated) > 0})
	}
}

// endedJob reads a JobRemoved.
func endedJob(s *dbus.Signal) (j JobSummary, ok bool) {
	err := dbus.Store(s.Body, &j.ID, &j.Object, &j.Kind, &j.Target, &j.State)
	return j, err == nil
}

// keepResult remembers how a job ended. Called with mu held.
func (c *Client) keepResult(job JobSummary) {
	if _, known := c.results[job.Object]; !known {
		c.ended = append(c.ended, job.Object)
	}
	c.results[job.Object] = job
	if len(c.ended) > maxResults {
		delete(c.results, c.ended[0])
		c.ended = c.ended[1:]
	}
}

// tell hands an event to all who watch the job. Called with mu held.
func (c *Client) tell(path dbus.ObjectPath, e event) {
	for _, w := range c.watches[path] {
		w.events = append(w.events, e)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (c *Client) watch(path dbus.ObjectPath) *watch {
	w := &watch{wake: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watches[path] = append(c.watches[path], w)
	return w
}

func (c *Client) unwatch(path dbus.ObjectPath, w *watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var left []*watch
	for _, other := range c.watches[path] {
		if other != w {
			left = append(left, other)
		}
	}
	if left == nil {
		delete(c.watches, path)
		return
	}
	c.watches[path] = left
}

// take empties the watch.
func (c *Client) take(w *watch) []event {
	c.mu.Lock()
	defer c.mu.Unlock()
	events := w.events
	w.events = nil
	return events
}

func (c *Client) result(path dbus.ObjectPath) (job JobSummary, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	job, ended = c.results[path]
	return job, ended
}

// present is the unique name of left4d, "" while it is away.
func (c *Client) present() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owner
}
