package ring

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
	"left4.me/left4/test/report"
)

// hostileTexts are what somebody might take for the end of a text, or for more than a text.
var hostileTexts = []string{
	"new\nline", "new\nExecStart=/bin/sh\n[Service]", "cr\rExecStart=/bin/sh", "tab\there", `quote"d`, "quote'd", `";rcon_password stolen;"`, "percent %n %i %% %H %", "dollar $HOME ${HOME} $$",
	`back\slash`, `ends in \`, "semi;quit", "two // slashes", "exec evil", "$(touch${IFS}/tmp/evil)", "`touch /tmp/evil`", "|touch /tmp/evil", "[Service]", "ExecStart=/bin/sh", "#comment", "=x", "a=b",
	"*", "?", "[a]", "~", "&", ">/tmp/evil", "-debug", "--help", "-netconport", `"-netconport"`, "@/etc/passwd", "+rcon_password", "../../etc", "/etc/passwd", ".", "..", "", " ", "\u00a0",
	"\x1b[2J\x1b[H", "\x1b]52;c;aGk=\x07", "\x1b]8;;http://evil\x1b\\click", "\x1b]0;title\x07", "\x9b", "\u009b2J", "\u009d52;c;aGk=\u009c", "\x7f", "\b\b\b", "\u202etxt.exe", "\u2066\u2069", "\u200f",
	"\u2028", "\u2029", "\u0085", "\ufeff", "\ufffe", "\U000e0041", "\xff\xfe", "\xc0\x80", strings.Repeat("n", 300), strings.Repeat("\u00fc", 70000),
}

// aliased is a (ss).
type aliased struct{ Overlay, Alias string }

// configKeys has for each key of a config the value that is or holds the text. A new key needs a row.
var configKeys = map[string]func(text string) any{
	"blueprint": func(text string) any { return text },
	"port":      nil, // a number
	"label":     func(text string) any { return text },
	"hostname":  func(text string) any { return text },
	"restart":   func(text string) any { return text },
	"arguments": func(text string) any { return []string{"+sv_contact", text} },
	"config":    func(text string) any { return []string{"sv_contact " + text} },
	"overlays":  func(text string) any { return []aliased{{"sm", text}} },
	"limits":    func(text string) any { return map[string]dbus.Variant{text: dbus.MakeVariant(uint64(1 << 30))} },
}

// obeyed is what a terminal would obey in what a command has printed, but for the colours and the erased lines of left4ctl.
func obeyed(out string) string {
	for _, own := range []*regexp.Regexp{regexp.MustCompile(`\x1b\[0(;1;3[123])?m`), regexp.MustCompile(`\x1b\[[JK]`), regexp.MustCompile(`\r`)} {
		out = own.ReplaceAllString(out, "")
	}
	return firstOf(out, func(r rune) bool {
		return control(r) || strings.ContainsRune("\u200f\u202e\u2066\u2069\u2028\u2029\ufeff\ufffe\U000e0041", r)
	})
}

func control(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' && r != '\r' }

// firstOf is where a text has such a character, with its surroundings; "" is nowhere.
func firstOf(out string, bad func(rune) bool) string {
	if i := strings.IndexFunc(out, bad); i >= 0 {
		return fmt.Sprintf("%.200q", out[max(0, i-60):])
	}
	return ""
}

func TestAbuseStrings(t *testing.T) {
	run := Once
	if full() {
		run = Each
	}
	run(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.install()
		wrongs, given, accepted := 0, 0, 0
		wrong := func(format string, args ...any) {
			t.Helper()
			wrongs++
			t.Errorf(format, args...)
		}
		p.layer("sm", map[string]string{"left4dead2/cfg/server.cfg": "sv_tags sm\n"})
		p.ctl("blueprint", "create", "versus")
		p.ctl("create", "plain", "--hostname=plain", "--arg=+map", "--arg=c1m1_hotel", "--config-line=sv_contact plain")
		p.ctl("start", "plain")
		p.ctl("create", "a")
		watcher := p.Start(t, "env", "TERM=xterm", "script", "--quiet", "--flush", "--return", "--command", "left4ctl monitor", "/dev/null")
		// It is on the bus when it tells the first of it.
		p.Eventually(t, "the monitor sees a", func() bool {
			p.rename("a", p.Run(t, "date", "+%N"))
			watcher.mu.Lock()
			defer watcher.mu.Unlock()
			return watcher.output != ""
		})

		bus := p.Bus(t)
		manager := bus.Object(service, "/me/left4")
		// As a caller that the bus lets through: text that is not UTF-8 it does not.
		call := func(method string, args ...any) error {
			return manager.Call(managerI+"."+method, 0, args...).Err
		}
		ours := func(what string, err error) bool {
			t.Helper()
			given++
			if err == nil {
				accepted++
				return true
			}
			e, ok := err.(dbus.Error)
			if !ok || !strings.HasPrefix(e.Name, "me.left4.Error.") && !strings.HasPrefix(e.Name, "org.freedesktop.DBus.Error.") || strings.Contains(e.Error(), "nternal") || len(e.Error()) > 1000 {
				wrong("%s: %.300q", what, err)
			} else if strings.ContainsFunc(e.Error(), unicode.IsControl) {
				wrong("%s: an error that a terminal would obey: %q", what, e.Error())
			}
			return false
		}
		var config map[string]dbus.Variant
		read := func(object dbus.ObjectPath, iface string) {
			t.Helper()
			config = nil
			if err := bus.Object(service, object).Call(iface+".GetConfig", 0).Store(&config); err != nil {
				t.Fatal(err)
			}
		}

		// Each key of each kind of config, by what left4 itself says that it has.
		for _, kind := range []struct {
			object, iface string
			method        string
			name          string
		}{
			{string(names.InstancePath("a")), names.Instance, "ConfigureInstance", "a"},
			{"/me/left4/blueprint/versus", names.Blueprint, "UpdateBlueprint", "versus"},
		} {
			read(dbus.ObjectPath(kind.object), kind.iface)
			for _, key := range slices.Sorted(maps.Keys(config)) {
				value, known := configKeys[key]
				if !known {
					t.Fatalf("the config key %s has no row in configKeys", key)
				}
				if value == nil {
					continue
				}
				read(dbus.ObjectPath(kind.object), kind.iface)
				before := config[key]
				if key == "overlays" {
					before = dbus.MakeVariant([]aliased{}) // a list of structs is read as something else
				}
				for _, text := range hostileTexts {
					if strings.ToValidUTF8(text, "") != text {
						continue
					}
					v := dbus.MakeVariant(value(text))
					what := fmt.Sprintf("%s %s=%.40q", kind.method, key, text)
					if !ours(what, call(kind.method, kind.name, map[string]dbus.Variant{key: v}, map[string]dbus.Variant{})) {
						continue
					}
					read(dbus.ObjectPath(kind.object), kind.iface)
					flat := strings.NewReplacer("{", "[", "}", "]")
					if got, want := fmt.Sprint(config[key].Value()), fmt.Sprint(v.Value()); flat.Replace(got) != flat.Replace(want) {
						wrong("%s is kept as %.200s", what, got)
					}
				}
				if err := call(kind.method, kind.name, map[string]dbus.Variant{key: before}, map[string]dbus.Variant{}); err != nil {
					t.Fatalf("%s: %v", key, err)
				}
			}
		}
		// Each text argument of each method, by its introspection.
		var root struct {
			Interfaces []struct {
				Name    string `xml:"name,attr"`
				Methods []struct {
					Name string `xml:"name,attr"`
					Args []struct {
						Type      string `xml:"type,attr"`
						Direction string `xml:"direction,attr"`
					} `xml:"arg"`
				} `xml:"method"`
			} `xml:"interface"`
		}
		methods := 0
		for _, object := range []string{"/me/left4", string(names.InstancePath("a")), "/me/left4/blueprint/versus", "/me/left4/overlay/sm"} {
			var text string
			if err := bus.Object(service, dbus.ObjectPath(object)).Call("org.freedesktop.DBus.Introspectable.Introspect", 0).Store(&text); err != nil {
				t.Fatal(err)
			}
			if err := xml.Unmarshal([]byte(text), &root); err != nil {
				t.Fatal(err)
			}
			for _, i := range root.Interfaces {
				if !strings.HasPrefix(i.Name, "me.left4.") {
					continue
				}
				for _, method := range i.Methods {
					var args []any
					var texts []int
					for _, a := range method.Args {
						if a.Direction == "out" {
							continue
						}
						switch a.Type {
						case "s":
							texts = append(texts, len(args))
							args = append(args, "plain")
						case "u":
							args = append(args, uint32(0))
						case "a{sv}":
							args = append(args, map[string]dbus.Variant{})
						default: // a descriptor
							texts = nil
						}
					}
					if len(texts) == 0 || slices.Contains([]string{"me.left4.Instance.Delete", "me.left4.Instance.Reset"}, i.Name+"."+method.Name) {
						continue
					}
					methods++
					for _, at := range texts {
						for _, text := range hostileTexts {
							if strings.ToValidUTF8(text, "") != text {
								continue
							}
							with := slices.Clone(args)
							with[at] = text
							ours(fmt.Sprintf("%s argument %d = %.40q", method.Name, at, text), bus.Object(service, dbus.ObjectPath(object)).Call(i.Name+"."+method.Name, 0, with...).Err)
						}
					}
				}
			}
			root.Interfaces = nil
		}

		// By left4ctl, whose arguments are bytes; what it says of them is safe to print.
		turn := 0
		for _, text := range hostileTexts {
			for _, args := range [][]string{
				{"start", text}, {"create", text}, {"configure", "a", "label=" + text}, {"configure", "a", text + "=x"}, {"overlay", "import", "sm", text}, {"overlay", "ls", "sm", text},
				{"overlay", "get", "sm", text}, {"which", "a", text}, {"blueprint", "show", text}, {"logs", text}, {"job", "show", text}, {"list", text}, {"secret", "a", text}, {text},
				{"--" + text}, {"initialize", "a", "-f", text}, {"list", "--columns", text}, {"audit", "--user", text}, {"-H", text, "list"},
			} {
				if turn++; text == "" || len(text) > 100_000 || !full() && turn%13 != 0 {
					continue
				}
				given++
				r := p.Try(append([]string{"timeout", "20", "env", "PATH=/usr/bin:/bin", "left4ctl"}, args...)...)
				if bad := obeyed(r.Out + r.Err); bad != "" {
					wrong("left4ctl %.60q prints %s", args, bad)
				}
				if r.Code > 4 || strings.Contains(r.Err, "panic") {
					wrong("left4ctl %.60q: %+v", args, r)
				}
			}
		}

		// The worst that is allowed, all together: what systemd reads, what the server is told and what it does is that and nothing else.
		p.ctl("stop", "a") // "*" and "?" are patterns, and have started it
		arguments := []string{"+map", "c1m1_hotel"}
		var lines []string
		for _, text := range hostileTexts {
			if call("ConfigureInstance", "a", map[string]dbus.Variant{"arguments": dbus.MakeVariant([]string{text})}, map[string]dbus.Variant{}) == nil && len(text) < 200 {
				arguments = append(arguments, text)
			}
			if !strings.ContainsAny(text, ";/\"") && call("ConfigureInstance", "a", map[string]dbus.Variant{"config": dbus.MakeVariant([]string{text})}, map[string]dbus.Variant{}) == nil {
				lines = append(lines, `sv_contact "`+text+`"`)
			}
		}
		const label, hostname = "\u202elabel %n \\", "%n; rcon_password stolen // $HOME \\"
		if err := call("ConfigureInstance", "a", map[string]dbus.Variant{
			"arguments": dbus.MakeVariant(arguments), "config": dbus.MakeVariant(lines), "label": dbus.MakeVariant(label), "hostname": dbus.MakeVariant(hostname),
			"overlays": dbus.MakeVariant([]aliased{{"sm", "*"}}),
		}, map[string]dbus.Variant{}); err != nil {
			t.Fatal(err)
		}
		p.ctl("start", "a")
		p.ready(27016)
		// srcds_run has split it at blanks, where there are none.
		command := strings.Split(strings.TrimSuffix(p.Run(t, "cat", "/proc/"+strconv.Itoa(p.pid("a"))+"/cmdline"), "\x00"), "\x00")
		if want := append([]string{"./srcds_linux", "-game", "left4dead2", "-norestart", "-strictportbind", "-port", "27016", "+hostport", "27016"}, arguments...); !slices.Equal(command, want) {
			wrong("the server is started as\n%q\nwant\n%q", command, want)
		}
		for property, want := range map[string]string{
			"Description": "Left 4 Dead 2 server a (\ufffdlabel %n \\)", "User": "left4", "Environment": "HOME=/var/lib/left4/runtime/a/merged",
			"NeedDaemonReload": "no", "WorkingDirectory": "/var/lib/left4/runtime/a/merged", "DropInPaths": "/etc/systemd/system/left4-server@a.service.d/10-left4.conf",
		} {
			if got := p.Property(t, unit("a"), property); got != want {
				wrong("%s of the unit is %q", property, got)
			}
		}
		for _, property := range []string{"ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost", "ExecCondition", "EnvironmentFiles", "CapabilityBoundingSet", "SystemCallFilter", "ReadWritePaths", "BindPaths", "Restart", "MemoryMax", "Group"} {
			theirs := strings.ReplaceAll(p.Property(t, unit("plain"), property), "/plain/", "/a/")
			if got := p.Property(t, unit("a"), property); got != theirs {
				wrong("%s of the unit is %q, and of another %q", property, got, theirs)
			}
		}
		if n := strings.Count(p.Run(t, "systemctl", "show", "--property=ExecStart", unit("a")), "argv[]="); n != 1 {
			wrong("the unit has %d commands", n)
		}
		if journal := p.journal(t, "_PID=1", "UNIT="+unit("a")); regexp.MustCompile(`10-left4\.conf:\d+`).MatchString(journal) {
			wrong("systemd complains:\n%s", journal)
		}
		password := p.password("a")
		if r := p.rcon("a", 27016, "hostname"); len(password) < 20 || r.Code != 0 || !strings.Contains(r.Out, hostname) {
			wrong("the server's name is %+v, its password %q", r, password)
		}
		if p.exists("/tmp/evil") || p.exists("/var/lib/left4/runtime/a/merged/evil") {
			wrong("something was run")
		}

		// The server says all of it too, and more; its user has an odd name.
		p.Run(t, "sh", "-ec", `printf 'odd\033[2J\302\2332J:x:4242:4242::/:/bin/sh\n' >>/etc/passwd`)
		p.Run(t, "setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", "sh", "-c", "busctl call me.left4 /me/left4 me.left4.Manager StopInstance 'sa{sv}' a 0; true")
		for _, text := range append(slices.Clone(hostileTexts), "<0>emergency", "MESSAGE_ID="+names.MessageCall+"\nLEFT4_METHOD=Forged", strings.Repeat("long", 300_000)) {
			if text != "" && len(text) < 3000 {
				p.rcon("a", 27016, "echo \""+strings.ReplaceAll(text, `"`, "")+"\"")
			}
		}
		p.rcon("a", 27016, "standin spam 100")
		p.revise("sm", map[string]string{"left4dead2/\x1b]52;c;aGk=\x07": "x", "left4dead2/\xff\u202e": "x", "left4dead2/new\nline": "x"})
		p.rcon("a", 27016, "standin plant names")
		p.Run(t, "journalctl", "--sync")
		for _, args := range [][]string{
			{"list"}, {"list", "--columns=name,label,state,cause"}, {"status"}, {"status", "a", "-n", "all"}, {"logs", "a", "-n", "all"}, {"logs", "--all", "-n", "300"}, {"audit", "-n", "all"}, {"diff", "a"},
			{"which", "a", `left4dead2/\xff\xe2\x80\xae`}, {"overlay", "ls", "sm", "left4dead2"}, {"preview", "a"}, {"job", "list"}, {"blueprint", "show", "versus"}, {"overlay", "show", "sm"}, {"export"},
			{"conflicts", "--instance=a"}, {"configure", "a"}, {"permissions", "a"},
		} {
			out, _ := p.Start(t, "env", "TERM=xterm", "COLUMNS=200", "PAGER=cat", "SYSTEMD_PAGER=cat", "script", "--quiet", "--return", "--command", "left4ctl '"+strings.Join(args, "' '")+"'", "/dev/null").Wait(t)
			given++
			bad := obeyed(out)
			if args[0] == "logs" {
				bad = firstOf(out, control) // of journalctl, which leaves marks of direction as they are
			}
			if bad != "" {
				wrong("on a terminal left4ctl %v prints %s", args, bad)
			}
			if strings.Contains(out, "Forged") && args[0] == "audit" {
				wrong("a line of a server stands in the audit trail:\n%s", out)
			}
		}
		for _, args := range [][]string{{"list"}, {"status", "a"}, {"audit", "-n", "all"}, {"diff", "a"}, {"overlay", "ls", "sm", "left4dead2"}, {"job", "list"}, {"blueprint", "show", "versus"}, {"logs", "a", "-n", "all", "-o", "json"}} {
			if args[0] != "logs" {
				args = append(args, "--json")
			}
			given++
			out := p.ctl(args...)
			decoder := json.NewDecoder(strings.NewReader(out))
			for decoder.More() {
				var v any
				if err := decoder.Decode(&v); err != nil {
					wrong("left4ctl %v prints no JSON: %v", args, err)
					break
				}
			}
			bad := obeyed(out)
			if args[0] == "logs" {
				bad = firstOf(out, control)
			}
			if bad != "" {
				wrong("left4ctl %v prints %s", args, bad)
			}
		}
		// Only calls that were made are in the trail, each once, whatever they were called with.
		for _, e := range p.entries(names.MessageCall) {
			if e["CALLER"] != "root" && e["CALLER_UID"] != "4242" || e["METHOD"] == "" || !regexp.MustCompile(`^[A-Za-z]+$`).MatchString(e["METHOD"]) {
				wrong("the trail has %q", e)
			}
		}
		p.rename("a", "last")
		if bad := obeyed(watcher.Expect(t, "last")); bad != "" {
			wrong("left4ctl monitor prints %s", bad)
		}
		report.Add(t, report.Row{
			Table: "abuse", Suite: m.Suite, Name: "hostile text through every argument, config key and output",
			Figures: []report.Figure{
				report.Count("texts", len(hostileTexts)), report.Count("methods", methods), report.Count("tries", given), report.Count("accepted", accepted), report.Count("violations", wrongs),
			},
			Goal: "0 violations", Met: wrongs == 0, Note: "left4ctl logs is journalctl, which leaves marks of direction as they are",
		})
	})
}

func (p play) rename(name, label string) {
	p.t.Helper()
	p.ctl("configure", name, "label="+label)
}
