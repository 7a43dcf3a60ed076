package dbus

import (
	"os/user"
	"strconv"

	"left4.me/left4/daemon"
	"left4.me/left4/dbus/names"
	"left4.me/left4/polkit"
)

// maxQuestions is how many questions one user may have open at polkit: each may wait for a person, and polkit serves
// the whole machine.
const maxQuestions = 64

// authorize asks whether the caller may do an action to an instance ("" = to none). The answer may take as long as a
// person, so the instance is looked at again after it: a yes for one is no yes for another that has its name by then.
func (s *Server) authorize(c *call, action, instance string) error {
	c.settled()
	if c.uid == 0 {
		return nil
	}
	details := map[string]string{"verb": verbOf(action)}
	before, err := s.daemon.Instance(instance)
	if instance != "" {
		details["instance"] = instance
	}
	if err == nil {
		// Rules know users by name; a uid without a name owns nothing that a rule could give it.
		if u, err := user.LookupId(strconv.FormatUint(uint64(before.Owner), 10)); err == nil {
			details["owner"] = u.Username
		}
	}
	if !s.quota.ask(c.uid) {
		return dbusError("org.freedesktop.DBus.Error.LimitsExceeded", "too many questions of yours wait for polkit")
	}
	defer s.quota.asked(c.uid)
	answer, err := s.auth.Check(c.ctx, polkit.Request{
		Sender: c.sender, Action: action, Details: details, Interactive: c.interactive(),
	})
	if err != nil && c.ctx.Err() == nil { // a caller that has gone is no news
		s.log.Warn("polkit did not answer, so the answer is no", "action", action, "uid", c.uid, "error", err)
	}
	switch {
	case err == nil && answer == polkit.Yes:
		after, _ := s.daemon.Instance(instance)
		if after.Created != before.Created || after.Owner != before.Owner {
			return &daemon.Error{Code: daemon.Busy, Message: "instance " + instance + " was made or deleted while permission was asked; try again"}
		}
		return nil
	case err == nil && answer == polkit.Challenge:
		return dbusError(names.ErrInteractive, "%s needs authentication, which the caller did not allow", action)
	case err == nil && answer == polkit.Dismissed:
		return dbusError(names.ErrAccessDenied, "%s is not allowed: the authentication was dismissed", action)
	}
	return dbusError(names.ErrAccessDenied, "%s is not allowed", action)
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
