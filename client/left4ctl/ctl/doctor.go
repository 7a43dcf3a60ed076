package ctl

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

// problemJSON is a problem in doctor --json.
type problemJSON struct {
	Problem  string `json:"problem"`
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Severity string `json:"severity"`
	What     string `json:"what"`
	Repair   string `json:"repair"`
}

func doctorFlags(v *invocation, fs *pflag.FlagSet) {
	fs.BoolVar(&v.repair, "repair", false, "repair the problems, or all that can be repaired")
	jsonFlag(v, fs)
}

func runDoctor(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	var result error
	if v.repair {
		job, err := c.RepairProblems(v.ctx, v.args, client.JobOptions{})
		if err != nil {
			return v.noDoctor("repair problems", err)
		}
		result = v.wait("repair", "problems", job, false)
	}
	all, err := c.ListProblems(v.ctx)
	if err != nil {
		return v.noDoctor("look for problems", err)
	}
	if service, err := c.Service(v.ctx); err == nil && service.Version != v.version {
		all = append(all, v.otherVersion(service.Version))
	}
	all = slices.DeleteFunc(all, func(p client.Problem) bool {
		return len(v.args) > 0 && !slices.Contains(v.args, p.Kind) && !slices.Contains(v.args, p.ID())
	})
	if v.json {
		shown := make([]problemJSON, 0, len(all))
		for _, p := range all {
			shown = append(shown, problemJSON{p.ID(), p.Kind, p.Name, p.Severity, p.What, p.Repair})
		}
		result = firstOf(result, printJSON(v.stdout, shown))
	} else {
		v.showProblems(all)
	}
	if slices.ContainsFunc(all, func(p client.Problem) bool { return p.Severity != client.SeverityNotice }) {
		return firstOf(result, exitCode(exitFailure))
	}
	return result
}

// otherVersion is the one problem that left4d cannot see. Over ssh two versions are common, and none if the older one knows enough.
func (v *invocation) otherVersion(service string) client.Problem {
	p := client.Problem{
		Kind: "other-version", Name: "left4ctl", Severity: client.SeverityNotice,
		What: fmt.Sprintf("this left4ctl is at version %s and left4d of %s at %s", v.version, v.host(), service),
	}
	if v.host() == "" {
		p.Severity = client.SeverityWarning
		p.What = fmt.Sprintf("left4ctl is at version %s and left4d at %s; systemctl restart left4d lets the one run that is installed, and stops no server", v.version, service)
	}
	return p
}

// showProblems prints problems as paragraphs: what is to be said of them fits no table.
func (v *invocation) showProblems(all []client.Problem) {
	if len(all) == 0 {
		v.say("No problems.")
		return
	}
	repairable := false
	for n, p := range all {
		if n > 0 {
			fmt.Fprintln(v.stdout)
		}
		severity := clean(p.Severity)
		if v.colors {
			severity = painted(map[string]string{client.SeverityError: red, client.SeverityWarning: yellow}[p.Severity], severity)
		}
		fmt.Fprintf(v.stdout, "%s (%s)\n  %s\n", clean(p.ID()), severity, clean(p.What))
		if p.Repair != "" {
			fmt.Fprintf(v.stdout, "  repair: %s\n", clean(p.Repair))
			repairable = true
		}
	}
	if repairable {
		v.hint("left4ctl doctor --repair does all of these repairs, left4ctl doctor --repair PROBLEM… some")
	}
}

// noDoctor tells why left4d did not answer, where it is itself what is ill, by what systemd and the journal know of it.
func (v *invocation) noDoctor(verb string, err error) error {
	if !client.IsUnavailable(err) || v.ctx.Err() != nil {
		return v.failed(verb, "", err)
	}
	unit, failed := v.left4dUnit()
	if failed != nil {
		return v.failed(verb, "", err)
	}
	state := unit["ActiveState"]
	switch {
	case unit["LoadState"] == "not-found":
		v.complain("left4d is not installed: systemd knows no " + left4dUnit)
		v.hint("install the package left4")
	case unit["LoadState"] == "masked":
		v.complain("left4d cannot start: its unit is masked")
		v.hint("systemctl unmask left4d allows it again")
	case state == "active":
		v.complain("left4d runs, but does not answer: " + plain(err).Error())
		v.hint("systemctl restart left4d begins anew; no server stops")
	default:
		text := "left4d does not run: its unit is " + state
		if sub := unit["SubState"]; sub != "" && sub != state && sub != "dead" {
			text += ", " + sub
		}
		if result := unit["Result"]; result != "" && result != "success" {
			text += " (" + result + ")"
		}
		v.complain(text)
		v.lastWords()
		v.hint("servers run on without it; systemctl reset-failed left4d and systemctl start left4d start it again")
	}
	v.hint("systemctl status left4d shows why, and journalctl -u left4d what it wrote")
	return exitCode(exitFailure)
}

// left4dUnit is what systemd knows of left4d.
func (v *invocation) left4dUnit() (map[string]string, error) {
	command, err := v.hostCommand("systemctl", "show", "--property=LoadState,ActiveState,SubState,Result", left4dUnit)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(v.ctx, command[0], command[1:]...).Output()
	if err != nil {
		return nil, err
	}
	unit := map[string]string{}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		unit[key] = value
	}
	if unit["ActiveState"] == "" {
		return nil, errors.New("systemd does not tell")
	}
	return unit, nil
}

// lastWords tells the last error that left4d wrote, if the journal may be read.
func (v *invocation) lastWords() {
	last := ""
	err := v.readJournal(v.ctx, []string{"--unit=" + left4dUnit, "--priority=err", "--lines=20"}, func(e entry) error {
		if e["_SYSTEMD_UNIT"] != left4dUnit {
			return nil // what systemd says is known
		}
		if last = e["LEFT4_ERROR"]; last == "" {
			last = e["MESSAGE"]
		}
		return nil
	})
	switch {
	case last != "":
		v.complain("its last error: " + last)
	case errors.Is(err, errJournalRights):
		v.hint(v.journalHint())
	}
}
