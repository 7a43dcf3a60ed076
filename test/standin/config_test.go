package main

import (
	"slices"
	"strings"
	"testing"
)

func TestSplitCommands(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                  nil,
		"\r\n  \n//only a comment\n":        nil,
		"a 1; b 2\nc 3":                     {"a 1", "b 2", "c 3"},
		"say \"a; b // c\" // d":            {"say \"a; b // c\""},
		"hostname \"open\nsv_x 1":           {"hostname \"open", "sv_x 1"},
		"sv_downloadurl http://example.org": {"sv_downloadurl http:"},
		"a / b":                             {"a / b"},
		"a 1 // x; b 2":                     {"a 1"},
		"a 1\x00b 2\nc 3":                   {"a 1"},
		strings.Repeat("x", 600):            {strings.Repeat("x", 512)},
	} {
		if got := splitCommands(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, not %q", text, got, want)
		}
	}
}

func TestParseCommand(t *testing.T) {
	for text, want := range map[string]struct {
		name, value string
		args        []string
	}{
		`hostname "My server"`:     {"hostname", "My server", []string{"My server"}},
		`Hostname My server`:       {"hostname", "My server", []string{"My", "server"}},
		`hostname " blanks " `:     {"hostname", " blanks ", []string{" blanks "}},
		`sv_x ""`:                  {"sv_x", "", []string{""}},
		`sv_x "a" "b"`:             {"sv_x", `a" "b`, []string{"a", "b"}},
		`sv_x "open`:               {"sv_x", "open", []string{"open"}},
		`exec"one"`:                {"exec", "one", []string{"one"}},
		`addip 0 192.0.2.1:27015`:  {"addip", "0 192.0.2.1:27015", []string{"0", "192.0.2.1", ":", "27015"}},
		"caf\u00e9 1":              {"caf", "\u00e9 1", []string{"1"}},
		"hostname \"caf\u00e9 1\"": {"hostname", "caf\u00e9 1", []string{"caf\u00e9 1"}},
	} {
		c := parseCommand(text)
		if c.name != want.name || c.value() != want.value || !slices.Equal(c.args, want.args) {
			t.Errorf("%s: %q %q %q, not %q", text, c.name, c.value(), c.args, want)
		}
	}
}

// What an administrator quotes arrives as it is, and nothing after it is lost.
func FuzzQuotedValue(f *testing.F) {
	f.Add("My server")
	f.Add("a; b // c {}()':")
	f.Fuzz(func(t *testing.T, value string) {
		if strings.ContainsAny(value, "\"\n\x00") || len(value) > 400 {
			return
		}
		commands := splitCommands("hostname \"" + value + "\"\nrcon_password last")
		if len(commands) != 2 || commands[1] != "rcon_password last" {
			t.Fatalf("commands %q", commands)
		}
		c := parseCommand(commands[0])
		if c.name != "hostname" || c.value() != value {
			t.Errorf("%q: %q %q", value, c.name, c.value())
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add("exec one; exec two\n\"hostname\" \"x // y\"")
	f.Fuzz(func(t *testing.T, text string) {
		for _, one := range splitCommands(text) {
			if strings.ContainsAny(one, "\n\x00") || len(one) > maxCommand || one == "" {
				t.Errorf("command %q", one)
			}
			c := parseCommand(one)
			if len(c.args) > 0 && c.rest == "" {
				t.Errorf("%q: words %q and no rest", one, c.args)
			}
			c.value()
		}
	})
}

func TestParseOptions(t *testing.T) {
	for line, want := range map[string]options{
		"":                              {port: 27015},
		"-port 27016 +hostport 27017":   {port: 27016},
		"+hostport 27017":               {port: 27017},
		"-port none":                    {port: 27015},
		"-port":                         {port: 27015},
		"-port 27016 -port 27018":       {port: 27018},
		"-strictportbind -ip 192.0.2.1": {port: 27015, strictPort: true, ip: "192.0.2.1"},
		"+ip 192.0.2.2 -tickrate 60 +map c1m1_hotel":                     {port: 27015, ip: "192.0.2.2", mapArgs: []string{"c1m1_hotel"}},
		"-maxplayers 12 +sv_x -1 -nohltv":                                {port: 27015, maxPlayers: 12, sets: []string{"sv_x -1"}},
		"-game left4dead2 -norestart +map c1m1_hotel versus -maxplayers": {port: 27015, mapArgs: []string{"c1m1_hotel", "versus"}},
	} {
		want.game = "left4dead2"
		if want.maxPlayers == 0 {
			want.maxPlayers = 8
		}
		got := parseOptions(strings.Fields(line))
		if got.game != want.game || got.port != want.port || got.ip != want.ip || got.strictPort != want.strictPort ||
			got.maxPlayers != want.maxPlayers || !slices.Equal(got.mapArgs, want.mapArgs) || !slices.Equal(got.sets, want.sets) {
			t.Errorf("%s: %+v, not %+v", line, got, want)
		}
	}
}
