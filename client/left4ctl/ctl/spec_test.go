package ctl

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"left4.me/left4/client"
)

func TestSpecErrorsNameLineAndKey(t *testing.T) {
	deep := strings.Repeat("[", 20000)
	for _, tt := range []struct{ name, spec, want string }{
		{"empty", "", "1: is empty"},
		{"only a comment", "# nothing\n", "1: is empty"},
		{"no keys", "{}", "1: has no keys"},
		{"a list", "- a\n", "1: must be a mapping of keys to values, not a list"},
		{"text", "start it", "1: must be a mapping of keys to values, not text"},
		{"no YAML", "label: x\nport: [1", "1: did not find expected ',' or ']'"},
		{"a tab", "limits:\n\tMemoryMax: 2G", "2: found character that cannot start any token"},
		{"too deep", deep, "1: exceeded max depth of 10000"},
		{"two documents", "label: x\n---\nlabel: y\n", "2: a second document is not allowed"},
		{"unknown key", "label: x\nlable: y\n", "2: lable: unknown key, did you mean label?"},
		{"unknown key, nothing near", "zzzzzzzzz: y\n", "1: zzzzzzzzz: unknown key"},
		{"twice", "port: 1\nlabel: x\nport: 2\n", "3: port: is given twice"},
		{"port as text", "\n\nport: many\n", "3: port: must be a number, not text"},
		{"port in quotes", "port: '27015'\n", "1: port: must be a number, not text"},
		{"port too high", "port: 70000\n", `1: port: "70000" is no port: use 1024 to 65535, or 0 for the next free one`},
		{"port in octal", "port: 0o65535\n", `1: port: "0o65535" is no port: use 1024 to 65535, or 0 for the next free one`},
		{"port with a zero", "port: 027015\n", `1: port: "027015" is no port: use 1024 to 65535, or 0 for the next free one`},
		{"label as number", "label: 2024\n", `1: label: must be text, not a number: write "2024" in quotes`},
		{"label as list", "label: [x]\n", "1: label: must be text, not a list"},
		{"label as date", "label: 2024-01-01\n", `1: label: must be text, not a date: write "2024-01-01" in quotes`},
		{"label as nothing", "label:\n", "1: label: must be text, not nothing"},
		{"restart as bool", "restart: true\n", `1: restart: must be text, not true or false: write "true" in quotes`},
		{"arguments as text", "arguments: +map c1m1_hotel\n", "1: arguments: must be a list, not text"},
		{"arguments as nothing", "arguments:\n", "1: arguments: must be a list, not nothing"},
		{"an argument as mapping", "arguments:\n  - +map\n  - a: b\n", "3: arguments: must be text, not a mapping"},
		{"an argument as bool", "arguments: [true]\n", `1: arguments: must be text, not true or false: write "true" in quotes`},
		{"an empty argument", "arguments: ['']\n", "1: arguments: an empty element is not allowed"},
		{"overlay without path", "overlays:\n  - {alias: x}\n", "2: overlays: path is missing"},
		{"overlay, unknown key", "overlays:\n  - path: a\n    alais: x\n", "3: overlays.alais: unknown key, did you mean overlays.alias?"},
		{"overlay as number", "overlays: [1]\n", `1: overlays: must be text, not a number: write "1" in quotes`},
		{"empty overlay", "overlays: ['']\n", "1: overlays: an empty name is not allowed"},
		{"limits as list", "limits: [a]\n", "1: limits: must be a mapping of keys to values, not a list"},
		{"unknown limit", "limits:\n  Memory: 2G\n", `2: limits: unknown limit "Memory": there are MemoryMax, MemoryHigh, CPUQuota, AllowedCPUs, TasksMax`},
		{"limit that is none", "limits:\n  MemoryMax: lots\n", `2: limits.MemoryMax: "lots" is no size: use bytes, 512M, 1.5G or infinity`},
		{"an alias", "label: &x a\nhostname: *x\n", "2: hostname: must be text, not an alias (they are not supported)"},
		{"a bomb of aliases", "arguments: &a [x,x,x,x,x,x,x,x,x]\nconfig: [*a,*a,*a]\n", "2: config: must be text, not an alias (they are not supported)"},
		{"a merge", "limits: &l {MemoryMax: 1G}\n<<: *l\n", "2: must be text, not a value of type !!merge: write \"<<\" in quotes"},
		{"a type of its own", "label: !!binary aGk=\n", `1: label: must be text, not a value of type !!binary: write "aGk=" in quotes`},
		{"a key that is no text", "1: x\n", `1: must be text, not a number: write "1" in quotes`},
		{"bytes", "label: \xff\n", "1: invalid leading UTF-8 octet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseSpec(tt.spec)
			if got := fmt.Sprint(err); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestSpecIsReadUpToOneMiB(t *testing.T) {
	spec := "label: x\n#" + strings.Repeat("x", maxSpec)
	if _, err := readSpec("a.yaml", strings.NewReader(spec[:maxSpec])); err != nil {
		t.Error(err)
	}
	if _, err := readSpec("a.yaml", strings.NewReader(spec)); fmt.Sprint(err) != "a.yaml is longer than 1 MiB" {
		t.Error(err)
	}
}

func TestEmptyListsOfASpecAreSent(t *testing.T) {
	c, err := parseSpec("arguments: []\nconfig: []\noverlays: []\nlimits: {}\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.Arguments == nil || c.Lines == nil || c.Overlays == nil || c.Limits == nil {
		t.Errorf("%+v", c)
	}
}

var placed = regexp.MustCompile(`^[0-9]+: `)

func FuzzSpec(f *testing.F) {
	f.Add("port: 27020\nlabel: Versus\noverlays: [sourcemod, {path: maps/custom, alias: maps}]\narguments: [+map, 1, 2.5]\n")
	f.Add("restart: no\nlimits: {MemoryMax: 2G, CPUQuota: 150%, AllowedCPUs: '0-3', TasksMax: infinity}\n")
	f.Add("a: &a [*a]\n---\n? {x: y}\n: |\n  z\n")
	f.Add("%YAML 1.1\n--- !!map {\"port\" : 0x1}\n...\n")
	f.Fuzz(func(t *testing.T, spec string) {
		c, err := readSpec("x", strings.NewReader(spec))
		if err != nil {
			if c.Port != nil || !placed.MatchString(strings.TrimPrefix(err.Error(), "x:")) && len(spec) <= maxSpec {
				t.Errorf("%q: %v", spec, err)
			}
			return
		}
		if c.Empty() {
			t.Errorf("%q gives nothing, and no error", spec)
		}
		// What is accepted can be sent.
		for _, list := range [][]string{c.Arguments, c.Lines} {
			if !utf8.ValidString(strings.Join(list, "")) || slices.Contains(c.Arguments, "") {
				t.Errorf("%q gives %q", spec, list)
			}
		}
		for _, o := range c.Overlays {
			if o.Name == "" {
				t.Errorf("%q gives an overlay without a name", spec)
			}
		}
		if c.Limits != nil {
			for _, l := range limits {
				if text := l.show(*c.Limits); text != "" {
					if err := l.set(&client.Limits{}, text); err != nil {
						t.Errorf("%s is shown as %s: %v", l.name, text, err)
					}
				}
			}
		}
	})
}
