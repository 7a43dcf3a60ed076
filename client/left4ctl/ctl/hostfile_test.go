package ctl

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"left4.me/left4/client"
)

func TestHostFileErrorsNameLineAndKey(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"empty", "", "1: is empty"},
		{"no keys", "{}", "1: has no keys"},
		{"unknown key", "instances: {}\noverlay: {}\n", "2: overlay: unknown key, did you mean overlays?"},
		{"section twice", "instances: {}\ninstances: {}\n", "2: instances: is given twice"},
		{"section as list", "instances:\n  - a\n", "2: instances: must be a mapping of keys to values, not a list"},
		{"section as nothing", "overlays:\n", "1: overlays: must be a mapping of keys to values, not nothing"},
		{"item as nothing", "overlays:\n  sm:\n", "2: overlays.sm: must be a mapping of keys to values, not nothing"},
		{"item twice", "instances:\n  a: {}\n  b: {}\n  a: {}\n", "4: instances.a: is given twice"},
		{"item as number", "instances:\n  1: {}\n", `2: instances: must be text, not a number: write "1" in quotes`},
		{"bad name", "blueprints:\n  Versus: {}\n", `2: blueprints: the name "Versus" is not allowed: use 1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit`},
		{"long name", "blueprints:\n  ? " + strings.Repeat("x", 5000) + "\n  : {}\n", `2: blueprints: the name "` + strings.Repeat("x", 80) + `…" is not allowed: use 1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit`},
		{"steering name", "overlays:\n  \"a\\eb\": {}\n", `2: overlays: the name "a\x1bb" is not allowed: use 1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit`},

		{"overlay, unknown key", "overlays:\n  sm: {kepe: 2}\n", "2: overlays.sm.kepe: unknown key, did you mean keep?"},
		{"overlay, unknown type", "overlays:\n  sm:\n    type: magic\n", `3: overlays.sm.type: "magic" is not known: there is files, script, workshop`},
		{"keep as text", "overlays:\n  sm: {keep: many}\n", "2: overlays.sm.keep: must be a number of revisions, 0 to 100"},
		{"keep too high", "overlays:\n  sm: {keep: 101}\n", "2: overlays.sm.keep: must be a number of revisions, 0 to 100"},
		{"keep below nothing", "overlays:\n  sm: {keep: -1}\n", "2: overlays.sm.keep: must be a number of revisions, 0 to 100"},
		{"keep as list", "overlays:\n  sm: {keep: [1]}\n", "2: overlays.sm.keep: must be a number of revisions, 0 to 100"},
		{"from as list", "overlays:\n  sm: {from: [x]}\n", "2: overlays.sm.from: must be text, not a list"},
		{"from nothing", "overlays:\n  sm: {from: ''}\n", "2: overlays.sm.from: must name a directory or an archive"},

		{"blueprint with a port", "blueprints:\n  v:\n    port: 27015\n", "3: blueprints.v.port: unknown key"},
		{"blueprint of a blueprint", "blueprints:\n  v:\n    blueprint: w\n", "3: blueprints.v.blueprint: unknown key"},
		{"unknown limit", "blueprints:\n  v:\n    limits:\n      Memory: 2G\n", `4: blueprints.v.limits: unknown limit "Memory": there are MemoryMax, MemoryHigh, CPUQuota, AllowedCPUs, TasksMax`},
		{"limit that is none", "blueprints:\n  v:\n    limits:\n      MemoryMax: lots\n", `4: blueprints.v.limits.MemoryMax: "lots" is no size: use bytes, 512M, 1.5G or infinity`},
		{"overlay without path", "blueprints:\n  v:\n    overlays:\n      - a\n      - {alias: x}\n", "5: blueprints.v.overlays: path is missing"},
		{"overlay named twice", "blueprints:\n  v:\n    overlays:\n      - a\n      - {path: b, alias: x}\n      - path: a\n", "6: blueprints.v.overlays: a is named twice"},
		{"overlay with a bad name", "instances:\n  v:\n    overlays: [a/b]\n", `3: instances.v.overlays: "a/b" cannot be the name of an overlay`},

		{"instance, unknown key", "instances:\n  a:\n    lable: x\n", "3: instances.a.lable: unknown key, did you mean label?"},
		{"port too low", "instances:\n  a:\n    port: 80\n", `3: instances.a.port: "80" is no port: use 1024 to 65535, or 0 for the next free one`},
		{"port twice", "instances:\n  a: {port: 27015}\n  b: {port: 0}\n  c: {port: 0}\n  d:\n    port: 27015\n", "6: instances.d.port: 27015 is that of instance a too, in line 2"},
		{"restart", "instances:\n  a: {restart: never}\n", `2: instances.a.restart: "never" is not known: use always, on-failure or no`},
		{"an alias", "overlays: &o {}\ninstances: *o\n", "2: instances: must be a mapping of keys to values, not an alias (they are not supported)"},
		{"a merge", "instances:\n  a: &a {label: x}\n  b: {<<: *a}\n", "3: instances.b: must be text, not a value of type !!merge: write \"<<\" in quotes"},
		{"two documents", "instances: {}\n---\n", "2: a second document is not allowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseHost(tt.file)
			if got := fmt.Sprint(err); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestHostFileIsReadUpToFourMiB(t *testing.T) {
	text := "instances: {}\n#" + strings.Repeat("x", maxHostFile)
	if _, err := readHost("a.yaml", strings.NewReader(text[:maxHostFile])); err != nil {
		t.Error(err)
	}
	if _, err := readHost("a.yaml", strings.NewReader(text)); fmt.Sprint(err) != "a.yaml is longer than 4 MiB" {
		t.Error(err)
	}
}

func TestHostFileIsWrittenLikeThis(t *testing.T) {
	port := uint16(27015)
	label, blueprint, restart := `Versus "1" # best`, "versus", "no"
	memory, tasks := uint64(2<<30), uint64(256)
	h := host{
		overlays: []layer{{name: "maps", kind: "files", keep: 1}, {name: "on", kind: "files", keep: 3}},
		blueprints: []definition{{name: "versus", config: completed(client.Config{
			Overlays:  []client.Overlay{{Name: "maps"}, {Name: "on", Alias: "*"}},
			Arguments: []string{"+map", "c1m1_hotel", "-tickrate", "60"},
			Lines:     []string{"sv_cheats 0", "", `sm_cvar x "a: b"`, "~"},
			Limits:    &client.Limits{MemoryMax: &memory, TasksMax: &tasks, AllowedCPUs: []byte{0x0d}},
		})}},
		instances: []definition{
			{name: "a", config: completed(client.Config{Port: &port, Label: &label, Blueprint: &blueprint, Restart: &restart})},
			{name: "b", config: completed(client.Config{})},
		},
	}
	want := `overlays:
  maps: {}
  "on":
    keep: 3
blueprints:
  versus:
    overlays:
      - maps
      - {path: "on", alias: "*"}
    arguments:
      - +map
      - c1m1_hotel
      - -tickrate
      - "60"
    config:
      - sv_cheats 0
      - ""
      - "sm_cvar x \"a: b\""
      - "~"
    limits:
      MemoryMax: 2G
      AllowedCPUs: "0,2-3"
      TasksMax: 256
instances:
  a:
    port: 27015
    blueprint: versus
    label: "Versus \"1\" # best"
    restart: "no"
  b: {}
`
	if got := h.text(); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := (&host{}).text(); got != "overlays: {}\nblueprints: {}\ninstances: {}\n" {
		t.Errorf("of nothing\n%s", got)
	}
}

// same compares what two files say, whatever their lines.
func same(a, b *host) error {
	bare := func(h *host) any {
		var overlays []layer
		for _, l := range h.overlays {
			l.at = place{}
			overlays = append(overlays, l)
		}
		definitions := func(all []definition) (bare []definition) {
			for _, d := range all {
				d.at = place{}
				d.config.Limits.AllowedCPUs = append([]byte(nil), []byte(strings.TrimRight(string(d.config.Limits.AllowedCPUs), "\x00"))...)
				bare = append(bare, d)
			}
			return bare
		}
		return []any{overlays, definitions(h.blueprints), definitions(h.instances)}
	}
	if !reflect.DeepEqual(bare(a), bare(b)) {
		return fmt.Errorf("differs:\n%s\n%s", a.text(), b.text())
	}
	// What apply compares with must see the same.
	for _, lists := range [][2][]definition{{a.blueprints, b.blueprints}, {a.instances, b.instances}} {
		for i := range lists[0] {
			if _, keys := changed(lists[0][i].config, lists[1][i].config); keys != nil {
				return fmt.Errorf("%s differs in %v", lists[0][i].name, keys)
			}
		}
	}
	return nil
}

// hostile are texts that mean something to YAML, to a terminal or to those who read it carelessly.
var hostile = []string{
	"", " ", "~", "null", "Null", "yes", "No", "on", "y", "true", "False", "1", "0", "-1", "+1", "1.5", "1e3", "0x1f", "0o17", "017", "1_000",
	"12:30:45", "2024-01-01", "2001-12-14t21:59:43.10-05:00", ".inf", "-.inf", ".nan", "<<", "=", "-", "- a", "--", "---", "...", "? a", ": a", ":", "a:", "a: b", "a #b",
	"#", "# x", "&a", "*a", "!a", "!!str a", "|", ">", "%a", "@a", "`a", "'", `"`, `\`, `\n`, `\\`, `"a"`, "'a'", "it's", `a "b" c`, "[a]", "{a: b}", "a, b", "a]", "}",
	" leading", "trailing ", "  two  blanks  ", "\u00a0", "ü", "日本", "🎮", "\u0085", "\u2028", "\u2029", "\ufeff", "\ufeffx", "\ufffd", "\ufffe", "\uffff", "\U0010ffff",
	"\u202eabc", "\u200b", "\u0301", "\u001b[2J", "\a", "\t", "a\tb", "a\nb", "\n", "\r\n", "a\rb", "\u007f", "\u0080", "\ue000", "\U000e0041", "$(x)", "${x}", "%n", "sv_tags a,b",
}

func randomText(r *rand.Rand) string {
	switch r.IntN(4) {
	case 0:
		return hostile[r.IntN(len(hostile))]
	case 1:
		return hostile[r.IntN(len(hostile))] + hostile[r.IntN(len(hostile))]
	case 2:
		return strings.Repeat(hostile[r.IntN(len(hostile))], r.IntN(5))
	}
	var b strings.Builder
	for range r.IntN(30) {
		c := rune(r.IntN(0x300))
		if r.IntN(8) == 0 {
			c = rune(r.IntN(utf8.MaxRune + 1))
		}
		if c != 0 && utf8.ValidRune(c) { // what the bus can carry
			b.WriteRune(c)
		}
	}
	return b.String()
}

func randomName(r *rand.Rand, i int) string {
	names := []string{"a", "0", "1e3", "null", "true", "yes", "on", "y", "n", "0x1f", "0o7", "1_000", "a-b", "a_b", "2024-01-01", "1-"}
	return names[r.IntN(len(names))] + strings.Repeat("x", i)
}

func randomDefinition(r *rand.Rand, name string, instance bool) definition {
	var c client.Config
	text := func() *string {
		s := randomText(r)
		return &s
	}
	number := func(least uint64) *uint64 {
		n := []uint64{r.Uint64(), r.Uint64N(1 << 40), r.Uint64N(1000) << r.UintN(50), client.Unlimited, client.Unlimited - 1, 1 << 63, 1<<63 - 1}[r.IntN(7)]
		n = max(n, least)
		return &n
	}
	some := func() bool { return r.IntN(2) == 0 }
	for i := range r.IntN(4) {
		o := client.Overlay{Name: randomName(r, i)}
		if some() {
			o.Alias = randomText(r)
		}
		c.Overlays = append(c.Overlays, o)
	}
	for range r.IntN(5) {
		if s := randomText(r); s != "" { // left4d refuses an empty one
			c.Arguments = append(c.Arguments, s)
		}
		c.Lines = append(c.Lines, randomText(r))
	}
	if some() {
		c.Limits = &client.Limits{}
		for _, n := range []**uint64{&c.Limits.MemoryMax, &c.Limits.MemoryHigh, &c.Limits.TasksMax} {
			if some() {
				*n = number(0)
			}
		}
		if some() {
			quota := 10_000 + r.Uint64N(1_024_000_000-10_000+1) // what left4d takes
			c.Limits.CPUQuotaPerSecUSec = &quota
		}
		if some() {
			c.Limits.AllowedCPUs = make([]byte, 1+r.IntN(1024))
			for range 1 + r.IntN(20) {
				c.Limits.AllowedCPUs[r.IntN(len(c.Limits.AllowedCPUs))] = byte(1 + r.IntN(255))
			}
		}
	}
	if instance {
		if some() {
			c.Label, c.Hostname = text(), text()
		}
		if some() {
			blueprint := randomName(r, 0)
			c.Blueprint = &blueprint
		}
		restart := []string{"always", "on-failure", "no"}[r.IntN(3)]
		c.Restart = &restart
	}
	return definition{name: name, config: completed(c)}
}

func randomHost(r *rand.Rand) *host {
	h := &host{}
	for i := range r.IntN(4) {
		h.overlays = append(h.overlays, layer{name: randomName(r, i), kind: "files", keep: uint32(r.IntN(maxKeep + 1))})
	}
	for i := range r.IntN(3) {
		h.blueprints = append(h.blueprints, randomDefinition(r, randomName(r, i), false))
	}
	for i := range r.IntN(4) {
		d := randomDefinition(r, randomName(r, i), true)
		if port := uint16(1024 + i + 10*r.IntN(6000)); r.IntN(5) > 0 {
			d.config.Port = &port
		}
		h.instances = append(h.instances, d)
	}
	return h
}

func TestWhatIsExportedIsReadAsTheSame(t *testing.T) {
	for seed := range uint64(1000) {
		h := randomHost(rand.New(rand.NewPCG(seed, 0)))
		text := h.text()
		back, err := parseHost(text)
		if err == nil {
			err = same(h, back)
		}
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		if again := back.text(); again != text {
			t.Fatalf("seed %d is written in another way the second time:\n%s\n%s", seed, text, again)
		}
		if clean(strings.ReplaceAll(text, "\n", "")) != strings.ReplaceAll(text, "\n", "") {
			t.Fatalf("seed %d can steer a terminal:\n%q", seed, text)
		}
	}
}

func FuzzQuotedTextIsReadAsTheSame(f *testing.F) {
	for _, text := range hostile {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) || strings.Contains(text, "\x00") {
			return // the bus does not carry it
		}
		h := &host{instances: []definition{{name: "a", config: completed(client.Config{Label: &text, Hostname: &text, Lines: []string{text, text}})}}}
		h.blueprints = []definition{{name: "b", config: completed(client.Config{Overlays: []client.Overlay{{Name: "x", Alias: text}}})}}
		back, err := parseHost(h.text())
		if err == nil {
			err = same(h, back)
		}
		if err != nil {
			t.Errorf("%q: %v\n%s", text, err, h.text())
		}
	})
}

func FuzzHostFile(f *testing.F) {
	f.Add("overlays:\n  sm: {type: files, keep: 2, from: ./x}\nblueprints:\n  v: {overlays: [sm, {path: maps, alias: '*'}]}\ninstances:\n  a: {port: 27015, blueprint: v}\n")
	f.Add("instances:\n  a: {port: 27015}\n  b: {port: 27015}\n")
	f.Add("overlays: &a {x: *a}\n")
	for seed := range uint64(10) {
		f.Add(randomHost(rand.New(rand.NewPCG(seed, 1))).text())
	}
	f.Fuzz(func(t *testing.T, text string) {
		h, err := readHost("x", strings.NewReader(text))
		if err != nil {
			if !placed.MatchString(strings.TrimPrefix(err.Error(), "x:")) && len(text) <= maxHostFile {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		// Whatever is accepted can be written and read again.
		for i := range h.overlays {
			h.overlays[i].from = ""
		}
		back, err := parseHost(h.text())
		if err == nil {
			err = same(h, back)
		}
		if err != nil {
			t.Errorf("%q: %v\n%s", text, err, h.text())
		}
		if _, _, err := h.plan(present{}, false); err == nil {
			on := h.asPresent()
			if steps, beyond, err := h.plan(on, true); len(steps) > 0 || len(beyond) > 0 || err != nil {
				t.Errorf("%q: on a host that has it all: %v, %v, %v", text, steps, beyond, err)
			}
		}
	})
}

// asPresent is a host that has just what the file says.
func (h *host) asPresent() present {
	on := present{overlays: map[string]layer{}, blueprints: map[string]definition{}, instances: map[string]definition{}}
	for _, l := range h.overlays {
		on.overlays[l.name] = l
	}
	for _, d := range h.blueprints {
		on.blueprints[d.name] = d
	}
	used := map[uint16]bool{}
	for _, d := range h.instances {
		if d.config.Port != nil {
			used[*d.config.Port] = true
		}
	}
	for _, d := range h.instances {
		if d.config.Port == nil {
			port := freePort(used)
			used[port], d.config.Port = true, &port
		}
		on.instances[d.name] = d
	}
	return on
}

func TestDefinitionsAreComparedByKey(t *testing.T) {
	base := completed(client.Config{})
	text, port := "x", uint16(27020)
	cases := map[string]client.Config{
		"blueprint": {Blueprint: &text},
		"port":      {Port: &port},
		"label":     {Label: &text},
		"hostname":  {Hostname: &text},
		"restart":   {Restart: &text},
		"overlays":  {Overlays: []client.Overlay{{Name: "x"}}},
		"arguments": {Arguments: []string{"x"}},
		"config":    {Lines: []string{""}},
		"limits":    {Limits: &client.Limits{AllowedCPUs: []byte{1}}},
	}
	// A key that export and apply do not know would be lost without a word.
	for _, count := range [][2]int{
		{reflect.TypeFor[client.Config]().NumField(), len(cases)},
		{reflect.TypeFor[client.Limits]().NumField(), len(limits)},
		{reflect.TypeFor[client.OverlayConfig]().NumField(), len(layerKeys)},
	} {
		if count[0] != count[1] {
			t.Errorf("a definition has %d keys, of which a host file can hold %d", count[0], count[1])
		}
	}
	for want, c := range cases {
		changes, keys := changed(base, completed(c))
		if !slices.Equal(keys, []string{want}) || !reflect.DeepEqual(changes, c) {
			t.Errorf("%s: %v, %+v", want, keys, changes)
		}
		if _, lines := (definition{config: completed(c)}).lines(); len(lines) != 1 || lines[0][0] != want {
			t.Errorf("%s is written as %q", want, lines)
		}
		// And back: the default has to be sent, but for the port, which stays.
		changes, keys = changed(completed(c), base)
		if want == "port" {
			if keys != nil {
				t.Errorf("a port that the file does not give is changed: %v", keys)
			}
		} else if !slices.Equal(keys, []string{want}) || changes.Empty() {
			t.Errorf("%s back to the default: %v, %+v", want, keys, changes)
		}
	}
}
