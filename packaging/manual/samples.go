package main

import (
	"fmt"
	"strconv"
	"strings"

	"left4.me/left4/dbus/doc"
	"left4.me/left4/dbus/names"
)

// objects are those that examples speak to.
var objects = map[string]string{
	names.Manager:        "/me/left4",
	names.Instance:       "/me/left4/instance/versus_2d1",
	names.Blueprint:      "/me/left4/blueprint/versus",
	names.Overlay:        "/me/left4/overlay/sourcemod",
	names.Job:            "/me/left4/job/12",
	names.ObjectManager:  "/me/left4",
	names.Properties:     "/me/left4/instance/versus_2d1",
	names.Introspectable: "/me/left4/instance/versus_2d1",
	names.Peer:           "/me/left4",
}

// others are the objects of those members that speak to another one of their interface.
var others = map[string]string{
	names.Overlay + ".Build":     "/me/left4/overlay/tweaks",
	names.Overlay + ".ListItems": "/me/left4/overlay/maps",
}

// objectOf is the object that the example of a member speaks to.
func objectOf(iface, member string) string {
	if other := others[iface+"."+member]; other != "" {
		return other
	}
	return objects[iface]
}

// samples are the arguments of examples. A key is the end of an argument's full name, interface.Method.argument, and the
// longest one that fits is taken.
var samples = map[string]any{
	".name":                 "versus-1",
	"Blueprint.name":        "versus",
	"Overlay.name":          "sourcemod",
	"CreateOverlay.name":    "tweaks",
	"BuildOverlay.name":     "tweaks",
	"UpdateOverlay.name":    "maps",
	".type":                 "script",
	"UpdateOverlay.type":    "",
	".id":                   uint32(12),
	".key":                  "rcon_password",
	".instance":             "versus-1",
	".revision":             uint32(1),
	".path":                 "left4dead2/cfg/server.cfg",
	"ListFiles.path":        "left4dead2/cfg",
	"Overlay.stream":        stream("sourcemod.tar"),
	"Overlay.Import.stream": stream("deadline.vpk"),
	"Game.stream":           stream("game.tar"),
	".interface_name":       names.Instance,
	".property_name":        "Label",

	".config":                 dict{},
	"CreateInstance.config":   dict{{"port", uint16(27020)}, {"hostname", "Versus #1"}, {"arguments", []string{"+map", "c1m1_hotel"}}},
	".changes":                dict{{"label", "Versus"}, {"limits", dict{{"MemoryMax", uint64(2 << 30)}}}},
	"CreateBlueprint.config":  dict{{"overlays", [][2]string{{"sourcemod", "*"}}}, {"config", []string{"sv_cheats 0"}}},
	"Blueprint.config":        dict{{"config", []string{"sv_cheats 0", "sv_gametypes versus"}}},
	"Blueprint.Update.config": dict{{"config", []string{"sv_cheats 0", "sv_gametypes versus"}}},
	"CreateOverlay.config":    dict{{"script", "mkdir -p left4dead2/cfg; echo sv_cheats 0 >left4dead2/cfg/server.cfg"}},
	"UpdateOverlay.config":    dict{{"items", []string{"1001", "https://steamcommunity.com/sharedfiles/filedetails/?id=2001"}}, {"keep", uint32(2)}},

	".options":                  dict{},
	"StartInstance.options":     dict{{"timeout", uint64(180_000_000)}},
	"ConfigureInstance.options": dict{{"new_rcon_password", true}},
	"Overlay.Update.options":    dict{{"revision", uint32(1)}},
	"ImportOverlay.options":     dict{{"merge", true}, {"into", "left4dead2"}},
	"Overlay.Import.options":    dict{{"filename", "deadline.vpk"}},
	"BuildOverlay.options":      dict{{"on_top", true}},
	"InstallGame.options":       dict{{"mode", "check"}},

	".problems":            []string{"orphaned-instance/versus-1"},
	".filter":              dict{},
	"ListInstances.filter": dict{{"state", "running"}},
	"ListJobs.filter":      dict{{"target", "versus-1"}, {"limit", uint32(5)}},

	"Properties.Set.value": variant{"Versus"},
}

// refusals are the methods whose example shows how they are refused: the error, and why.
var refusals = map[string]string{
	names.Properties + ".Set": "PropertyReadOnly: see Configure",
}

// Values of samples, beside those of Go. Their types on the bus are s, b, q, u, t, as, a(ss), a{sv}, v and h.
type (
	entry struct {
		key   string
		value any
	}
	dict    []entry       // a{sv}
	variant struct{ any } // v
	stream  string        // h: a file that is read
)

// bestSample is the key of the sample for an argument, "" where there is none.
func bestSample(name string) string {
	best := ""
	for key := range samples {
		if strings.HasSuffix(name, key) && len(key) > len(best) {
			best = key
		}
	}
	return best
}

// signature is a value's type on the bus.
func signature(value any) string {
	switch value.(type) {
	case string:
		return "s"
	case bool:
		return "b"
	case uint16:
		return "q"
	case uint32:
		return "u"
	case uint64:
		return "t"
	case []string:
		return "as"
	case [][2]string:
		return "a(ss)"
	case dict:
		return "a{sv}"
	case variant:
		return "v"
	case stream:
		return "h"
	}
	panic(fmt.Sprintf("a sample is a %T", value))
}

// busctlWords writes a value as busctl(1) reads it, "Parameter Formatting".
func busctlWords(value any) []string {
	switch v := value.(type) {
	case []string:
		return append([]string{strconv.Itoa(len(v))}, v...)
	case [][2]string:
		words := []string{strconv.Itoa(len(v))}
		for _, pair := range v {
			words = append(words, pair[:]...)
		}
		return words
	case dict:
		words := []string{strconv.Itoa(len(v))}
		for _, e := range v {
			words = append(words, e.key)
			words = append(words, busctlWords(variant{e.value})...)
		}
		return words
	case variant:
		return append([]string{signature(v.any)}, busctlWords(v.any)...)
	case stream:
		return []string{"3"}
	}
	return []string{fmt.Sprint(value)}
}

// gvariant writes a value in GVariant's text format, with its type where nothing else tells it.
func gvariant(value any, typed bool) string {
	list := func(n int, one func(int) string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = one(i)
		}
		return strings.Join(all, ", ")
	}
	switch v := value.(type) {
	case string:
		return "'" + v + "'"
	case uint16, uint32, uint64:
		if typed {
			return fmt.Sprintf("%T %d", v, v)
		}
	case []string:
		return "[" + list(len(v), func(i int) string { return gvariant(v[i], false) }) + "]"
	case [][2]string:
		return "[" + list(len(v), func(i int) string { return fmt.Sprintf("('%s', '%s')", v[i][0], v[i][1]) }) + "]"
	case dict:
		return "{" + list(len(v), func(i int) string { return gvariant(v[i].key, false) + ": " + gvariant(variant{v[i].value}, true) }) + "}"
	case variant:
		return "<" + gvariant(v.any, true) + ">"
	case stream:
		return "handle 0"
	}
	return fmt.Sprint(value)
}

// quoted is a word as a shell reads it.
func quoted(word string) string {
	switch {
	case word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+,-./:=@_") == "":
		return word
	case !strings.Contains(word, "'"):
		return "'" + word + "'"
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(word) + `"`
}

// command is a command line in lines that are not too long.
func command(words ...string) string {
	var b strings.Builder
	width := 0
	for i, word := range words {
		switch {
		case i == 0:
		case width+1+len(word) > commandWidth-2: // " \"
			b.WriteString(" \\\n    ")
			width = 4
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	return b.String() + "\n"
}

// examples are those of an interface: each of its members by busctl and by gdbus.
func (m *source) examples(name string) (string, error) {
	i, err := m.find(name)
	if err != nil {
		return "", err
	}
	path := objects[name]
	var b strings.Builder
	for _, method := range i.Methods {
		title := method.Name
		if why := refusals[name+"."+method.Name]; why != "" {
			title += " (" + why + ")"
		}
		b.WriteString("# " + title + "\n")
		text, err := callExamples(name, objectOf(name, method.Name), method)
		if err != nil {
			return "", err
		}
		b.WriteString(text)
	}
	for _, signal := range i.Signals {
		b.WriteString("# " + signal.Name + "\n")
		rule := fmt.Sprintf("type='signal',sender='%s',interface='%s',member='%s'", names.Service, name, signal.Name)
		b.WriteString(command("busctl", "monitor", "--match", quoted(rule)))
		b.WriteString(command("gdbus", "monitor", "-y", "-d "+names.Service, "-o "+path))
	}
	for _, p := range i.Properties {
		b.WriteString("# " + p.Name + "\n")
		b.WriteString(command("busctl", "get-property", names.Service, path, name, p.Name))
		b.WriteString(command("gdbus", "call", "-y", "-d "+names.Service, "-o "+path, "-m "+names.Properties+".Get", name, p.Name))
	}
	return literal(b.String()), nil
}

// callExamples are those of one method.
func callExamples(name, path string, method doc.Member) (string, error) {
	busctl := []string{"busctl", "call", names.Service, path, name, method.Name}
	gdbus := []string{"gdbus", "call", "-y", "-d " + names.Service, "-o " + path, "-m " + name + "." + method.Name}
	types, file := "", ""
	var words []string
	for _, a := range method.Args {
		if a.Direction != "in" {
			continue
		}
		key := bestSample(name + "." + method.Name + "." + a.Name)
		if key == "" {
			return "", fmt.Errorf("there is no sample for %s of %s.%s in samples.go", a.Name, name, method.Name)
		}
		value := samples[key]
		if signature(value) != a.Type {
			return "", fmt.Errorf("the sample for %s of %s.%s is of type %s, not %s", a.Name, name, method.Name, signature(value), a.Type)
		}
		types += a.Type
		words = append(words, busctlWords(value)...)
		if s, ok := value.(stream); ok {
			file = string(s)
		}
		text := gvariant(value, false)
		if plain, ok := value.(string); ok {
			text = plain // gdbus knows what it has to be
		}
		gdbus = append(gdbus, quoted(text))
	}
	if types != "" {
		busctl = append(busctl, quoted(types))
	}
	for _, word := range words {
		busctl = append(busctl, quoted(word))
	}
	if file == "" {
		return command(busctl...) + command(gdbus...), nil
	}
	// sd_listen_fds(3): a descriptor that busctl was given is number 3.
	inner := append([]string{"'LISTEN_PID=$$", "LISTEN_FDS=1", "exec"}, busctl...)
	for i, word := range inner[1:] {
		inner[i+1] = strings.ReplaceAll(word, "'", `"`)
	}
	inner[len(inner)-1] += "'"
	return "# busctl passes descriptors on from systemd 257 on\n" +
		command(append(append([]string{"sh", "-c"}, inner...), "3<"+file)...) +
		command(append(gdbus, "<"+file)...), nil
}
