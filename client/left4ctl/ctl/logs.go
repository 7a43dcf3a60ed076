package ctl

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/spf13/pflag"
)

// runLogs becomes journalctl: it follows, pages and filters by rights better than we could.
func runLogs(v *invocation) error {
	name := v.args[0]
	if !validName.MatchString(name) {
		return fmt.Errorf("cannot show the log of %s: it is no name of an instance", name)
	}
	if err := v.checkLines(); err != nil {
		return err
	}
	args := []string{"journalctl", "-u", serverUnit(name)}
	if v.lines != "" {
		args = append(args, "-n", v.lines)
	}
	if v.follow {
		args = append(args, "-f")
	}
	program, err := exec.LookPath("journalctl")
	if err != nil {
		return fmt.Errorf("cannot show the log of %s: journalctl is not installed", name)
	}
	err = syscall.Exec(program, args, os.Environ())
	return fmt.Errorf("cannot show the log of %s: %s: %w", name, program, err)
}

func logsFlags(v *invocation, fs *pflag.FlagSet) {
	fs.StringVarP(&v.lines, "lines", "n", "", "show the newest `N` lines, or all")
	fs.BoolVarP(&v.follow, "follow", "f", false, "go on showing new lines")
}

// checkLines reads --lines as journalctl does.
func (v *invocation) checkLines() error {
	if _, err := strconv.ParseUint(v.lines, 10, 31); err != nil && v.lines != "all" && v.lines != "" {
		return usagef("--lines: %q is no number", v.lines)
	}
	return nil
}

// serverUnit is the unit of an instance, whose name has been checked.
func serverUnit(name string) string { return "left4-server@" + name + ".service" }
