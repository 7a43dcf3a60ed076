package ctl

import (
	"errors"
	"fmt"
	"strings"

	"left4.me/left4/client"
)

// cannot is the line that tells an error: what could not be done, to what, and why.
func cannot(verb, name string, err error) string {
	text := err.Error()
	// left4d may have said all of it.
	if strings.HasPrefix(text, "cannot ") {
		return text
	}
	return fmt.Sprintf("cannot %s: %s", strings.TrimSpace(verb+" "+name), text)
}

// failed tells that a call ended in an error, and what to do about it.
func (v *invocation) failed(verb, name string, err error) error {
	if v.ctx.Err() != nil && errors.Is(err, v.ctx.Err()) {
		err = errors.New("interrupted")
	} else if client.IsUnavailable(err) {
		err = &unanswered{err}
	}
	v.complain(cannot(verb, name, err))
	v.hints(err, name)
	return exitCode(exitFailure)
}

// unanswered is an error of the bus, which speaks of services and names, said in words of ours.
type unanswered struct{ err error }

func (u *unanswered) Error() string { return "left4d does not answer: " + u.err.Error() }
func (u *unanswered) Unwrap() error { return u.err }

// hints tells the next step after an error, if there is one; name is what it was about.
func (v *invocation) hints(err error, name string) {
	switch {
	case client.IsUnavailable(err) && v.c == nil:
		v.hint("systemctl status dbus shows whether the system bus runs")
	case client.IsUnavailable(err):
		v.hint("systemctl status left4d shows why, and journalctl -u left4d what it wrote")
	case errors.Is(err, client.ErrInteractiveAuth):
		v.hint("run it with sudo, without --no-ask-password, or ask to be in group left4-operators")
	case client.IsAccessDenied(err):
		v.hint("run it with sudo, or ask to be in group left4-operators")
	case client.IsNoSuchInstance(err):
		if near := v.nearInstance(name); near != "" {
			v.hint("did you mean " + near + "?")
		} else if !validName.MatchString(name) {
			v.hint("left4ctl list shows all instances")
		} else {
			v.hint("left4ctl list shows all instances, left4ctl create " + name + " makes one")
		}
	case errors.Is(err, client.ErrInstanceExists):
		v.hint("left4ctl configure " + name + " changes it")
	case errors.Is(err, client.ErrPortInUse):
		v.hint("left4ctl list shows the ports; without --port the next free one is taken")
	case errors.Is(err, client.ErrNoFreePort):
		v.hint("give a port with --port, or delete an instance")
	case errors.Is(err, client.ErrNotInstalled):
		v.hint(importHint)
	case errors.Is(err, client.ErrNoSuchJob):
		v.hint("left4ctl job list shows the jobs")
	case errors.Is(err, client.ErrBusy), errors.Is(err, client.ErrQuotaExceeded):
		v.hint("left4ctl job list shows what is going on")
	}
}

// nearInstance is the instance whose name was probably meant.
func (v *invocation) nearInstance(name string) string {
	list, err := v.c.ListInstances(v.ctx)
	if err != nil {
		return ""
	}
	var all []string
	for _, i := range list {
		all = append(all, i.Name)
	}
	return nearest(name, all)
}
