package ctl

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

func runHelp(v *invocation) error {
	if len(v.args) == 0 {
		v.overview()
		return nil
	}
	name := strings.Join(v.args, " ")
	c := find(name)
	if c == nil {
		below := false
		for _, c := range verbs() {
			if strings.HasPrefix(c.name, name+" ") {
				v.verbHelp(&c)
				below = true
			}
		}
		if !below {
			return unknownVerb(v.args)
		}
		return nil
	}
	v.verbHelp(c)
	return nil
}

func (v *invocation) overview() {
	w := v.stdout
	fmt.Fprint(w, "left4ctl [FLAGS] VERB …\n\nControl Left 4 Dead 2 servers that left4d hosts on this machine.\n")
	width := 0
	for _, c := range verbs() {
		width = max(width, len(c.synopsis()))
	}
	group := ""
	for _, c := range verbs() {
		if c.group != group {
			group = c.group
			fmt.Fprintf(w, "\n%s:\n", group)
		}
		fmt.Fprintf(w, "  %-*s  %s\n", width, c.synopsis(), c.summary)
	}
	fmt.Fprint(w, "\nleft4ctl help VERB tells more about each.\n\n"+
		"Exit status: 0 done, 1 failed, 2 not understood; status NAME also 3 (stopped or failed) and 4 (no such instance).\n\n"+
		"Example:\n"+
		"  left4ctl game install\n"+
		"  left4ctl create versus-1 --hostname \"Versus #1\" --arg +map --arg c1m1_hotel\n"+
		"  left4ctl start versus-1\n"+
		"  left4ctl logs versus-1 -f\n")
}

func (c *command) synopsis() string { return strings.TrimSpace(c.name + " " + c.args) }

func (v *invocation) verbHelp(c *command) {
	fmt.Fprintf(v.stdout, "left4ctl %s\n\n%s\n\nFlags:\n%s", c.synopsis(), c.help, flagHelp(new(invocation).flagSet(c)))
}

// flagHelp lists flags in the order they were defined.
func flagHelp(fs *pflag.FlagSet) string {
	var heads, usages []string
	width := 0
	fs.VisitAll(func(f *pflag.Flag) {
		value, usage := pflag.UnquoteUsage(f)
		head := "      --" + f.Name
		if f.Shorthand != "" {
			head = "  -" + f.Shorthand + ", --" + f.Name
		}
		if f.NoOptDefVal == "" {
			head += " " + value
		}
		heads, usages = append(heads, head), append(usages, usage)
		width = max(width, len(head))
	})
	var b strings.Builder
	for i, head := range heads {
		usage := strings.ReplaceAll(usages[i], "\n", "\n"+strings.Repeat(" ", width+3))
		fmt.Fprintf(&b, "%-*s   %s\n", width, head, usage)
	}
	return b.String()
}
