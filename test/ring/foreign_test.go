package ring

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

// The bus is for programs that nobody here has written: each of these does it all with nothing but what introspection
// tells, from create to delete.
func TestProgramsOfOthers(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "olga", "left4-operators")
		p.RunInput(t, bytes.NewReader(archive(map[string]string{"left4dead2/by.txt": "by"})), "sh", "-c", "cat >/home/by.tar")
		for _, c := range []struct {
			user string
			argv []string
			out  string // a pattern
		}{
			{"root", []string{"life.busctl", "by-busctl"}, `STRING "start"; STRING "by-busctl"; STRING "done";
s "running"
s "root"
STRING "delete"; STRING "by-busctl"; STRING "done";`},
			{"olga", []string{"life.gdbus", "by-gdbus"}, `'/me/left4/job/\d+', 'start', 'by-gdbus', 'done'\)
\(<'running'>,\)
\(\{.*'hostname': <'By gdbus'>.*\},\)
'/me/left4/job/\d+', 'delete', 'by-gdbus', 'done'\)`},
			{"olga", []string{"life-dasbus.py", "by-dasbus"}, `(by-dasbus: stopped, starting
)?by-dasbus: \w+, running
start by-dasbus: done
running olga
(by-dasbus: running, stopping
)?by-dasbus: \w+, stopped
stop by-dasbus: done
delete by-dasbus: done
there is no instance by-dasbus`},
			{"olga", []string{"life-dbus.py", "by-dbus", "/home/by.tar"}, `import-overlay by-dbus: done
start by-dbus: done
running olga \[\('by-dbus', ''\)\]
\[\('by-dbus', 'file'\)\]
delete by-dbus: done
delete-overlay by-dbus: done
me.left4.Error.NoSuchOverlay`},
		} {
			p.bringScript(c.argv[0])
			r := p.TryAs(c.user, c.argv...)
			if r.Code != 0 || !regexp.MustCompile("^"+c.out+"$").MatchString(strings.TrimSpace(r.Out)) {
				t.Errorf("%v: %+v, want\n%s", c.argv, r, c.out)
			}
		}
		if left := p.ctl("list", "--no-legend") + p.ctl("overlay", "list", "--no-legend"); left != "" {
			t.Errorf("left are %s", left)
		}

		p.ctl("create", "a")
		tree := p.RunAs(t, "olga", "gdbus", "introspect", "--system", "--dest", "me.left4", "--object-path", "/me/left4", "--recurse")
		for _, want := range []string{"node /me/left4/instance/a {", "StartInstance(in  s name,", "JobRemoved(u id,", "readonly s State = 'stopped';"} {
			if !strings.Contains(tree, want) {
				t.Errorf("gdbus introspect does not say %q:\n%s", want, tree)
			}
		}
		if got := p.RunAs(t, "olga", "busctl", "tree", "--list", "me.left4"); !strings.Contains(got+"\n", "/me/left4/instance/a\n") {
			t.Errorf("busctl tree:\n%s", got)
		}
		if got := p.RunAs(t, "olga", "busctl", "introspect", "me.left4", "/me/left4/instance/a", "me.left4.Instance"); !regexp.MustCompile(`\.Restart +method +a\{sv\} +o `).MatchString(got) {
			t.Errorf("busctl introspect:\n%s", got)
		}
	})
}
