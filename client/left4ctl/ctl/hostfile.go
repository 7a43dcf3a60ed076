package ctl

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"left4.me/left4/client"
)

// A host file tells of a whole host: its overlays, blueprints and instances, each by its name. apply reads one and
// export writes one. It is as strict as a spec file (spec.go), and what is not in it is the default, so that a file says
// all of what a host shall be. Whatever texts a definition holds, reading what was written gives them back.

// maxHostFile bounds a host file, in bytes.
const maxHostFile = 4 << 20

// What left4d takes for a key that nobody has set, where that is not nothing.
const (
	defaultRestart = "always"
	defaultType    = "files"
)

const maxKeep = 100

// host is what a host file says.
type host struct {
	overlays   []layer
	blueprints []definition
	instances  []definition
}

// layer is an overlay.
type layer struct {
	name   string
	kind   string
	keep   uint32
	item   []string // of type workshop: ids, as left4d has them
	script string   // of type script: its text
	from   string   // what it is filled with when it is made, beside the file; "" is nothing
	at     place
}

// definition is a blueprint or an instance. Its config has all keys (completed), but for a port that nobody gave.
type definition struct {
	name   string
	config client.Config
	at     place
}

// place is where a file speaks of something: at its name and at each of its keys.
type place struct {
	name *yaml.Node
	keys map[string]*yaml.Node
}

func readHost(name string, r io.Reader) (*host, error) {
	return readYAML(name, r, maxHostFile, parseHost)
}

func parseHost(text string) (*host, error) {
	pairs, err := onlyDocument(text)
	if err != nil {
		return nil, err
	}
	h := &host{}
	for _, p := range pairs {
		switch p.key {
		case "overlays":
			h.overlays, err = items(p, readLayer)
		case "blueprints":
			ofBlueprint := settings{ofBlueprint: true}
			h.blueprints, err = items(p, func(p pair) (definition, error) { return readDefinition(p, ofBlueprint.keys()) })
		case "instances":
			h.instances, err = items(p, func(p pair) (definition, error) { return readDefinition(p, keys) })
		default:
			err = unknown(p, []string{"overlays", "blueprints", "instances"})
		}
		if err != nil {
			return nil, err
		}
	}
	return h, h.check()
}

// items reads a mapping of names to what they stand for.
func items[T any](p pair, read func(pair) (T, error)) ([]T, error) {
	pairs, err := mapping(p.value, "")
	if err != nil {
		return nil, within(p.key, err)
	}
	var all []T
	for _, one := range pairs {
		if err := checkName(one.place, one.key); err != nil {
			return nil, within(p.key, err)
		}
		item, err := read(one)
		if err != nil {
			return nil, within(p.key, within(one.key, err))
		}
		all = append(all, item)
	}
	return all, nil
}

func checkName(n *yaml.Node, name string) error {
	if validName(name) {
		return nil
	}
	return at(n, "", fmt.Sprintf("the name %s is not allowed: use 1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit", excerpt(name)))
}

func excerpt(text string) string {
	if len(text) > 80 {
		text = text[:80] + "…"
	}
	return strconv.Quote(text)
}

func readLayer(p pair) (layer, error) {
	l := layer{name: p.key, kind: defaultType, keep: defaultKeep, at: place{name: p.place}}
	pairs, err := mapping(p.value, "")
	if err != nil {
		return l, err
	}
	for _, p := range pairs {
		switch p.key {
		case "type":
			if l.kind, err = str(p.value, p.key, false); err == nil && !slices.Contains(overlayTypes, l.kind) {
				err = at(p.value, p.key, fmt.Sprintf("%s is not known: there is %s", excerpt(l.kind), strings.Join(overlayTypes, ", ")))
			}
		case "keep":
			n, bad := strconv.ParseUint(p.value.Value, 10, 32)
			if p.value.ShortTag() != "!!int" || bad != nil || n > maxKeep {
				err = at(p.value, p.key, fmt.Sprintf("must be a number of revisions, 0 to %d", maxKeep))
			}
			l.keep = uint32(n)
		case "items":
			l.item, err = workshopItems(p)
		case "script":
			if l.script, err = str(p.value, p.key, false); err == nil && strings.TrimSpace(l.script) == "" {
				err = at(p.value, p.key, "must be what bash runs")
			}
		case "from":
			if l.from, err = str(p.value, p.key, false); err == nil && l.from == "" {
				err = at(p.value, p.key, "must name a directory or an archive")
			}
		default:
			err = unknown(p, []string{"type", "keep", "items", "script", "from"})
		}
		if err != nil {
			return l, err
		}
	}
	l.at.keys = places(pairs)
	for key, kind := range map[string]string{"items": "workshop", "script": "script", "from": defaultType} {
		if n := l.at.keys[key]; n != nil && l.kind != kind {
			return l, at(n, key, fmt.Sprintf("only an overlay of type %s has it, and this one is of type %s", kind, l.kind))
		}
	}
	if l.kind == "script" && l.script == "" {
		return l, at(l.at.name, "", "an overlay of type script must have a script")
	}
	return l, nil
}

// pageID finds the id in the address of an item's page.
var pageID = regexp.MustCompile(`^https?://.*[?&]id=([0-9]+)`)

// workshopItems reads items as left4d will have them, so that they can be compared.
func workshopItems(p pair) ([]string, error) {
	if p.value.Kind != yaml.SequenceNode {
		return nil, at(p.value, p.key, "must be a list of items, not "+kindOf(p.value))
	}
	var all []string
	for _, n := range p.value.Content {
		text, err := str(n, p.key, true)
		if err != nil {
			return nil, err
		}
		if page := pageID.FindStringSubmatch(text); page != nil {
			text = page[1]
		}
		if !digits.MatchString(text) {
			return nil, at(n, p.key, excerpt(text)+" is no number of an item, and no address of its page")
		}
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all, nil
}

// config is what left4d shall have of it; items are sent where the type has them.
func (l layer) config() client.OverlayConfig {
	c := client.OverlayConfig{Keep: &l.keep}
	if l.kind == "workshop" {
		c.Items = append([]string{}, l.item...)
	}
	if l.kind == "script" {
		c.Script = &l.script
	}
	return c
}

func readDefinition(p pair, keys []key) (definition, error) {
	d := definition{name: p.key, at: place{name: p.place}}
	pairs, err := mapping(p.value, "")
	if err != nil {
		return d, err
	}
	for _, p := range pairs {
		if err := p.into(&d.config, keys); err != nil {
			return d, err
		}
	}
	d.config, d.at.keys = completed(d.config), places(pairs)
	return d, nil
}

func places(pairs []pair) map[string]*yaml.Node {
	all := map[string]*yaml.Node{}
	for _, p := range pairs {
		all[p.key] = p.value
	}
	return all
}

// completed gives a definition the defaults of the keys that it has not. A port of 0 is as good as none.
func completed(c client.Config) client.Config {
	for text, value := range map[**string]string{&c.Blueprint: "", &c.Label: "", &c.Hostname: "", &c.Restart: defaultRestart} {
		if *text == nil {
			*text = &value
		}
	}
	if c.Port != nil && *c.Port == 0 {
		c.Port = nil
	}
	if c.Arguments == nil {
		c.Arguments = []string{}
	}
	if c.Lines == nil {
		c.Lines = []string{}
	}
	if c.Overlays == nil {
		c.Overlays = []client.Overlay{}
	}
	if c.Limits == nil {
		c.Limits = &client.Limits{}
	}
	return c
}

// changed is what has to be changed for one completed definition to become another, and the names of those keys.
func changed(from, to client.Config) (changes client.Config, names []string) {
	for _, k := range []struct {
		name   string
		same   bool
		change func()
	}{
		{"blueprint", *from.Blueprint == *to.Blueprint, func() { changes.Blueprint = to.Blueprint }},
		{"port", to.Port == nil || from.Port != nil && *from.Port == *to.Port, func() { changes.Port = to.Port }},
		{"label", *from.Label == *to.Label, func() { changes.Label = to.Label }},
		{"hostname", *from.Hostname == *to.Hostname, func() { changes.Hostname = to.Hostname }},
		{"overlays", slices.Equal(from.Overlays, to.Overlays), func() { changes.Overlays = to.Overlays }},
		{"arguments", slices.Equal(from.Arguments, to.Arguments), func() { changes.Arguments = to.Arguments }},
		{"config", slices.Equal(from.Lines, to.Lines), func() { changes.Lines = to.Lines }},
		{"restart", *from.Restart == *to.Restart, func() { changes.Restart = to.Restart }},
		{"limits", sameLimits(*from.Limits, *to.Limits), func() { changes.Limits = to.Limits }},
	} {
		if !k.same {
			k.change()
			names = append(names, k.name)
		}
	}
	return changes, names
}

func sameLimits(a, b client.Limits) bool {
	return !slices.ContainsFunc(limits, func(l limit) bool { return l.show(a) != l.show(b) })
}

// check finds what is wrong with a file whatever the host is like.
func (h *host) check() error {
	for _, d := range h.blueprints {
		if err := d.checkOverlays("blueprints"); err != nil {
			return err
		}
	}
	ports := map[uint16]definition{}
	for _, d := range h.instances {
		if err := d.checkOverlays("instances"); err != nil {
			return err
		}
		if d.config.Port == nil {
			continue
		}
		if first, taken := ports[*d.config.Port]; taken {
			return d.wrong("instances", "port", 0, fmt.Sprintf("%d is that of instance %s too, in line %d", *d.config.Port, first.name, first.at.name.Line))
		}
		ports[*d.config.Port] = d
	}
	return nil
}

func (d definition) checkOverlays(section string) error {
	seen := map[string]bool{}
	for i, o := range d.config.Overlays {
		if seen[o.Name] {
			return d.wrong(section, "overlays", i, fmt.Sprintf("%s is named twice", o.Name))
		}
		if !validName(o.Name) {
			return d.wrong(section, "overlays", i, fmt.Sprintf("%s cannot be the name of an overlay", excerpt(o.Name)))
		}
		seen[o.Name] = true
	}
	return nil
}

// wrong is an error at a key of the definition, or at an element of it.
func (d definition) wrong(section, key string, element int, message string) error {
	n := d.at.keys[key]
	if n.Kind == yaml.SequenceNode {
		n = n.Content[element]
	}
	return at(n, section+"."+d.name+"."+key, message)
}

// text is the file that says it, without what is the default.
func (h *host) text() string {
	var b strings.Builder
	section(&b, "overlays", h.overlays, func(l layer) (string, [][2]string) {
		var all [][2]string
		if l.kind != defaultType {
			all = append(all, [2]string{"type", quoted(l.kind)})
		}
		if l.keep != defaultKeep {
			all = append(all, [2]string{"keep", strconv.FormatUint(uint64(l.keep), 10)})
		}
		if len(l.item) > 0 {
			all = append(all, [2]string{"items", "[" + strings.Join(each(l.item, quoted), ", ") + "]"})
		}
		if l.script != "" {
			all = append(all, [2]string{"script", quoted(l.script)})
		}
		return l.name, all
	})
	section(&b, "blueprints", h.blueprints, definition.lines)
	section(&b, "instances", h.instances, definition.lines)
	return b.String()
}

// section writes a mapping of names to keys with values that are ready to be written.
func section[T any](b *strings.Builder, name string, all []T, read func(T) (string, [][2]string)) {
	if len(all) == 0 {
		fmt.Fprintf(b, "%s: {}\n", name)
		return
	}
	fmt.Fprintf(b, "%s:\n", name)
	for _, one := range all {
		name, pairs := read(one)
		if len(pairs) == 0 {
			fmt.Fprintf(b, "  %s: {}\n", quoted(name))
			continue
		}
		fmt.Fprintf(b, "  %s:\n", quoted(name))
		for _, p := range pairs {
			separator := " "
			if strings.HasPrefix(p[1], "\n") {
				separator = ""
			}
			fmt.Fprintf(b, "    %s:%s%s\n", p[0], separator, p[1])
		}
	}
}

func (d definition) lines() (string, [][2]string) {
	var all [][2]string
	c := d.config
	say := func(key, value string) { all = append(all, [2]string{key, value}) }
	if c.Port != nil {
		say("port", strconv.Itoa(int(*c.Port)))
	}
	for _, text := range []struct {
		key   string
		value *string
		usual string
	}{{"blueprint", c.Blueprint, ""}, {"label", c.Label, ""}, {"hostname", c.Hostname, ""}, {"restart", c.Restart, defaultRestart}} {
		if text.value != nil && *text.value != text.usual {
			say(text.key, quoted(*text.value))
		}
	}
	var overlays, shown []string
	for _, o := range c.Overlays {
		text := quoted(o.Name)
		if o.Alias != "" {
			text = fmt.Sprintf("{path: %s, alias: %s}", text, quoted(o.Alias))
		}
		overlays = append(overlays, text)
	}
	names, values := shownLimits(*c.Limits)
	for i := range names {
		value := values[i]
		if !digits.MatchString(value) {
			value = quoted(value)
		}
		shown = append(shown, names[i]+": "+value)
	}
	for _, list := range []struct {
		key, mark string
		values    []string
	}{{"overlays", "- ", overlays}, {"arguments", "- ", each(c.Arguments, quoted)}, {"config", "- ", each(c.Lines, quoted)}, {"limits", "", shown}} {
		if len(list.values) > 0 {
			say(list.key, "\n      "+list.mark+strings.Join(list.values, "\n      "+list.mark))
		}
	}
	return d.name, all
}

func each(list []string, do func(string) string) []string {
	var all []string
	for _, s := range list {
		all = append(all, do(s))
	}
	return all
}

var digits = regexp.MustCompile(`^[0-9]+$`)

// bare are texts that mean themselves without quotes, wherever they stand and whoever reads them; some of them are a
// number, a date or a truth.
var bare = regexp.MustCompile(`^(-?[A-Za-z_]|[+/0-9])[A-Za-z0-9_+./%-]*( [A-Za-z0-9_+./%-]+)*$`)

// truths are words that YAML 1.1, which many programs read, takes for true or false.
var truths = regexp.MustCompile(`(?i)^(y|yes|n|no|on|off)$`)

// quoted is a text in YAML: as it is where nobody could take it for something else, or in double quotes, in which what
// a terminal would obey, and what YAML does not allow, is written by its number.
func quoted(s string) string {
	if bare.MatchString(s) && !truths.MatchString(s) && (&yaml.Node{Kind: yaml.ScalarNode, Value: s}).ShortTag() == "!!str" {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case harmless(r) && r != '\ufffe' && r != '\uffff':
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
