package daemon

import (
	"strings"
	"testing"
	"unicode"

	"left4.me/left4/daemon/store"
)

// Whatever a definition is made of, what is taken can be rendered: into a unit that systemd can read, and into a server.cfg with as many
// lines as it should have, of which the last is the password.
func FuzzDefinition(f *testing.F) {
	f.Add("Versus #1", "Left 4 Dead; quit // x", "sv_lan 0", "+map", "c1m1_hotel", "*")
	f.Add("a\nExecStart=/bin/sh", "\"; rcon_password x", "exec x\nrcon_password x", "-port", `"-netconport"`, "server")
	f.Add("100% \\", "\u2028", "\x1b]52;c;\a", "@/etc/passwd", "$HOME", "a/b")
	f.Add("\xff", "\ufffe", "//", "\ufdd0", "\\", "server_overlay_1")
	f.Fuzz(func(t *testing.T, label, hostname, line, one, two, alias string) {
		c := Changes{
			Label: &label, Hostname: &hostname, Config: &[]string{line}, Arguments: &[]string{one, two},
			Overlays: &[]store.OverlayRef{{Overlay: "sm", Alias: alias}},
		}
		def := store.Instance{Name: "a", Port: 27015, RconPassword: "secret"}
		if err := c.apply(&def); err != nil {
			if e := AsError(err); e.Code != InvalidArgument || len(e.Message) > 2*maxArgument+200 || strings.ContainsFunc(e.Message, unicode.IsControl) {
				t.Fatalf("%s %.300q", e.Code, e.Message)
			}
			return
		}
		d := &Daemon{Options: Options{PreStart: "/usr/libexec/left4/left4-overlay"}}
		d.Layout.State = "/var/lib/left4"
		s := combine(def, nil)
		if _, err := d.unitOf(def, s).DropIn(); err != nil {
			t.Fatalf("what was taken cannot be a unit: %v", err)
		}
		l := layer{def.Overlays.V[0], 1, 2}
		var shown []exposed
		if alias != "" {
			shown = []exposed{{l, nil}}
			if name := l.staged(); strings.ContainsAny(name, "/.\\ \"") || name == "server" {
				t.Fatalf("its server.cfg is staged as %q", name)
			}
		}
		var said []string
		for text := range strings.Lines(string(serverConfig(def, configLines(def, s, shown, def.RconPassword)))) {
			if text = strings.TrimSuffix(text, "\n"); !strings.HasPrefix(text, "// ") {
				said = append(said, text)
			}
			if strings.ContainsFunc(text, unicode.IsControl) {
				t.Fatalf("a line of the server.cfg is %q", text)
			}
		}
		var want []string
		if alias != "" {
			want = append(want, "exec "+l.staged())
		}
		if !strings.HasPrefix(line, "// ") {
			want = append(want, line)
		}
		if hostname != "" {
			want = append(want, `hostname "`+hostname+`"`)
		}
		want = append(want, `rcon_password "secret"`)
		if strings.Join(said, "\n") != strings.Join(want, "\n") {
			t.Fatalf("the server.cfg says\n%q\nwant\n%q", said, want)
		}
	})
}
