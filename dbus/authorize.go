package dbus

import (
	"context"
	"errors"
	"os/user"
	"strconv"
	"time"

	"left4.me/left4/daemon"
	"left4.me/left4/dbus/names"
	"left4.me/left4/polkit"
)

// How many questions about one user may be open at polkit: those that may wait for a person, and the others. Who has more
// waits here: polkit answers one after the other, for the whole machine, and the bus bounds how many answers left4d may
// wait for (128 on the system bus), of systemd's too.
const (
	maxPrompts   = 8
	maxQuestions = 4
)

// A refusal keeps its user's turn for so many times as long as polkit took for it, and so does a list of permissions: who may
// not, and asks all the same, leaves polkit, and the bus that it asks in turn, to others.
const (
	refusalCost    = 10
	maxRefusalCost = 100 * time.Millisecond
	rightsCost     = 4
)

// Kinds of things that have a name, an owner and an object.
const (
	instance  = "instance"
	blueprint = "blueprint"
	overlay   = "overlay"
)

// thing is what a call is about. The zero thing is the game, or a job that is about nothing else: it has no owner.
type thing struct{ kind, name string }

func (t thing) String() string { return t.kind + " " + t.name }

// identity tells a thing from another that has its name later.
type identity struct {
	made  int64 // when, or its id
	owner uint32
}

// identify returns who a thing is, or the error that says that there is none.
func (s *Server) identify(t thing) (identity, error) {
	switch t.kind {
	case instance:
		in, err := s.daemon.Instance(t.name)
		return identity{in.Created, in.Owner}, err
	case blueprint:
		b, err := s.daemon.Blueprint(t.name)
		return identity{b.Created, b.Owner}, err
	case overlay:
		o, err := s.daemon.Overlay(t.name)
		return identity{int64(o.ID), o.Owner}, err
	}
	return identity{}, errors.New("the game has no owner")
}

// authorize asks whether the caller may do an action to a thing. The answer may take as long as a person, so the thing
// is looked at again after it: a yes for one is no yes for another that has its name by then.
func (s *Server) authorize(c *call, action string, about thing) error {
	c.settled()
	if c.uid == 0 {
		return nil
	}
	before, _ := s.identify(about)
	turns, ctx := s.prompts, c.ctx
	if !c.interactive() {
		var stop context.CancelFunc
		turns = s.questions
		ctx, stop = s.inTime(c.ctx)
		defer stop()
	}
	answer, err := polkit.No, turns.take(ctx, c.uid)
	if err == nil {
		began := time.Now()
		defer func() {
			if answer == polkit.Yes || err != nil || c.interactive() {
				turns.give(c.uid)
			} else {
				turns.giveLater(c.uid, min(refusalCost*time.Since(began), maxRefusalCost))
			}
		}()
		answer, err = s.auth.Check(ctx, polkit.Request{
			Sender: c.sender, Action: action, Details: details(action, about, before), Interactive: c.interactive(),
		})
	}
	s.unanswered(c, action, err)
	switch {
	case err == nil && answer == polkit.Yes:
		if after, _ := s.identify(about); after != before {
			return changedMeanwhile(about)
		}
		return nil
	case err == nil && answer == polkit.Challenge:
		return dbusError(names.ErrInteractive, "%s needs authentication, which the caller did not allow", action)
	case err == nil && answer == polkit.Dismissed:
		return dbusError(names.ErrAccessDenied, "%s is not allowed: the authentication was dismissed", action)
	case err != nil && c.ctx.Err() == nil:
		return dbusError(names.ErrAccessDenied, "%s is not allowed: polkit does not answer", action)
	}
	return dbusError(names.ErrAccessDenied, "%s is not allowed", action)
}

// inTime ends a question, and the wait for its turn with it, when nobody can be at a prompt any more: or those of one user
// would wait one after the other for a polkit that hangs.
func (s *Server) inTime(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.patience, polkit.ErrLimit)
}

// details are what rules and messages may look at.
func details(action string, about thing, who identity) map[string]string {
	all := map[string]string{"verb": verbOf(action)}
	if about.name != "" {
		all[about.kind] = about.name
	}
	if who != (identity{}) {
		// Rules know users by name; a uid without a name owns nothing that a rule could give it.
		if u, err := user.LookupId(strconv.FormatUint(uint64(who.owner), 10)); err == nil {
			all["owner"] = u.Username
		}
	}
	return all
}

// unanswered tells the log that polkit did not answer, once a second: anybody can ask. That a caller has gone is no news.
func (s *Server) unanswered(c *call, action string, err error) {
	if err == nil || c.ctx.Err() != nil {
		return
	}
	now, last := time.Now().Unix(), s.warned.Load()
	if now != last && s.warned.CompareAndSwap(last, now) {
		s.log.Warn("polkit did not answer, so the answer is no", "action", action, "uid", c.uid, "error", err)
	}
}

func changedMeanwhile(t thing) error {
	return &daemon.Error{Code: daemon.Busy, Message: t.String() + " was made or deleted while permission was asked; try again"}
}

// verbOf is the last part of an action: me.left4.instance.start is start.
func verbOf(action string) string {
	for i := len(action) - 1; i >= 0; i-- {
		if action[i] == '.' {
			return action[i+1:]
		}
	}
	return action
}
