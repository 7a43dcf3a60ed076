package ctl

import (
	"errors"
	"fmt"
	"slices"
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
	case client.IsUnavailable(err) && v.c == nil && v.host() != "":
		v.hint("systemctl status left4d goes the same way")
	case client.IsUnavailable(err) && v.c == nil:
		v.hint("systemctl status dbus shows whether the system bus runs")
	case client.IsUnavailable(err):
		v.hint("systemctl status left4d shows why, and journalctl -u left4d what it wrote")
	case client.IsAccessDenied(err) && v.host() != "":
		v.hint("connect as somebody who may, as -H root@…, or ask to be in group left4-operators there")
	case errors.Is(err, client.ErrInteractiveAuth):
		v.hint("run it with sudo, without --no-ask-password, or ask to be in group left4-operators")
	case client.IsAccessDenied(err):
		v.hint("run it with sudo, or ask to be in group left4-operators")
	case client.IsNoSuchInstance(err):
		if near := v.nearInstance(name); near != "" {
			v.hint("did you mean " + near + "?")
		} else if !validName(name) {
			v.hint("left4ctl list shows all instances")
		} else {
			v.hint("left4ctl list shows all instances, left4ctl create " + name + " makes one")
		}
	case errors.Is(err, client.ErrNoSuchOverlay):
		v.hint(v.overlayHint(name))
	case errors.Is(err, client.ErrNoSuchBlueprint):
		v.hint(v.blueprintHint(name))
	case errors.Is(err, client.ErrOverlayExists):
		v.hint("left4ctl overlay import " + name + " DIR gives it new files")
	case errors.Is(err, client.ErrBlueprintExists):
		v.hint("left4ctl blueprint configure " + name + " changes it")
	case errors.Is(err, client.ErrInUse) && (v.command.name == "create" || v.command.name == "clone"):
		v.hint("left4ctl doctor tells what is left, and brings it back with --repair; left4ctl delete " + name + " removes it")
	case errors.Is(err, client.ErrInUse) && v.ofGroup("blueprint"):
		v.hint("left4ctl configure INSTANCE blueprint= takes an instance off it")
	case errors.Is(err, client.ErrInUse):
		v.hint("give what uses it another list of overlays first, with left4ctl configure or left4ctl blueprint configure")
	case errors.Is(err, client.ErrInstanceExists):
		v.hint("left4ctl configure " + name + " changes it")
	case errors.Is(err, client.ErrPortInUse):
		v.hint("left4ctl list shows the ports; without --port the next free one is taken")
	case errors.Is(err, client.ErrNoFreePort):
		v.hint("give a port with --port, or delete an instance")
	case errors.Is(err, client.ErrNotInstalled) && v.command.name == "game install":
		v.hint(installHint)
	case errors.Is(err, client.ErrNotInstalled) && v.ofGroup("game"):
		v.hint("left4ctl game install installs it; " + installHint)
	case errors.Is(err, client.ErrNotInstalled):
		v.hint(importHint)
	case errors.Is(err, client.ErrNoSuchJob):
		v.hint("left4ctl job list shows the jobs")
	case errors.Is(err, client.ErrBusy), errors.Is(err, client.ErrQuotaExceeded):
		v.hint("left4ctl job list shows what is going on")
	}
}

// ofGroup tells that the verb is one of a group, as "overlay".
func (v *invocation) ofGroup(group string) bool { return strings.HasPrefix(v.command.name, group+" ") }

// overlayHint is what to do where an overlay is not there: the one that a verb is about, or one of those given to it.
func (v *invocation) overlayHint(name string) string {
	var wanted []string
	for _, o := range v.settings.config.Overlays {
		wanted = append(wanted, o.Name)
	}
	if v.ofGroup("overlay") {
		wanted = []string{v.about(name)}
	}
	all, err := v.known(anOverlay)
	if err != nil {
		return "left4ctl overlay list shows all overlays"
	}
	return absent("overlay", wanted, all)
}

// blueprintHint is the same for blueprints.
func (v *invocation) blueprintHint(name string) string {
	var wanted []string
	switch {
	case v.ofGroup("blueprint"), v.command.name == "conflicts":
		wanted = []string{v.about(name)}
	case v.settings.config.Blueprint != nil:
		wanted = []string{*v.settings.config.Blueprint}
	}
	all, err := v.known(aBlueprint)
	if err != nil {
		return "left4ctl blueprint list shows all blueprints"
	}
	return absent("blueprint", wanted, all)
}

// about is the overlay or blueprint that an error is about: some verbs tell it of a file in there.
func (v *invocation) about(name string) string {
	if v.command.group == groupFiles {
		return v.args[0]
	}
	return name
}

// absent is the hint for the first of the wanted names that is not there.
func absent(noun string, wanted, all []string) string {
	show := fmt.Sprintf("left4ctl %s list shows all %ss", noun, noun)
	for _, name := range wanted {
		if slices.Contains(all, name) {
			continue
		}
		if near := nearest(name, all); near != "" {
			return "did you mean " + near + "?"
		}
		if validName(name) {
			return fmt.Sprintf("%s, left4ctl %s create %s makes one", show, noun, name)
		}
		break
	}
	return show
}

// nearInstance is the instance whose name was probably meant.
func (v *invocation) nearInstance(name string) string {
	all, err := v.known(anInstance)
	if err != nil {
		return ""
	}
	return nearest(name, all)
}
