package main

import (
	"strings"
	"testing"
)

func FuzzOptions(f *testing.F) {
	f.Add("-game left4dead2 -port 27015 +map c1m1_hotel coop")
	f.Add("-port +hostport -ip")
	f.Add("+ - -port 99999999999999999999 +hostport -1 -maxplayers 0")
	f.Fuzz(func(t *testing.T, line string) {
		o := parseOptions(strings.Fields(line))
		if o.port < 0 || o.port > 65535 || o.maxPlayers < 1 || o.maxPlayers > 255 {
			t.Fatalf("%q: %+v", line, o)
		}
	})
}

func FuzzFaultLines(f *testing.F) {
	f.Add("crash SEGV after 2s; hang\n# comment\nspam 3")
	f.Add(";;\n#\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, line := range faultLines(text) {
			if line == "" || strings.Join(strings.Fields(line), " ") != line || strings.ContainsAny(line, ";\n") {
				t.Fatalf("%q has the fault %q", text, line)
			}
			if n, err := parseSize(strings.Fields(line)[0]); err == nil && n < 0 {
				t.Fatalf("%q is %d bytes", line, n)
			}
		}
	})
}
