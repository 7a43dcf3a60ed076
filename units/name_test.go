package units

import (
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestNames(t *testing.T) {
	for _, name := range []string{"a", "0", "versus-1", "a_b", "a-", strings.Repeat("x", 64)} {
		if !ValidName(name) {
			t.Errorf("%q is refused", name)
		}
		for _, unit := range []string{ServerUnit(name), OverlayUnit(name)} {
			if got, ok := InstanceOf(unit); !ok || got != name {
				t.Errorf("%s is of %q, %v", unit, got, ok)
			}
			if got := unitOfPath(unitRoot + "/" + busLabel(unit)); got != unit {
				t.Errorf("the object of %s is read as %s", unit, got)
			}
		}
	}
	for _, name := range []string{"", "-a", "_a", "A", "a.b", "a b", "a@b", "a/b", "..", "a\n", "\na", "ä", "a%n", strings.Repeat("x", 65)} {
		if ValidName(name) {
			t.Errorf("%q is accepted", name)
		}
		if got, ok := InstanceOf(ServerUnit(name)); ok {
			t.Errorf("the unit of %q is of %q", name, got)
		}
	}
	for _, unit := range []string{"left4-server@.service", "left4-server@a.service.d", "left4-server@a", "left4-server-a.service", "left4-build-1.service", "left4d.service", ""} {
		if got, ok := InstanceOf(unit); ok {
			t.Errorf("%s is of %q", unit, got)
		}
	}
}

// busLabel escapes as systemd does for object paths.
func busLabel(s string) (label dbus.ObjectPath) {
	const hex = "0123456789abcdef"
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9' {
			label += dbus.ObjectPath(c)
		} else {
			label += dbus.ObjectPath([]byte{'_', hex[c>>4], hex[c&15]})
		}
	}
	return label
}

func FuzzUnitOfPath(f *testing.F) {
	f.Add("/org/freedesktop/systemd1/unit/left4_2dserver_40a_2eservice")
	f.Add("/org/freedesktop/systemd1/unit/_")
	f.Add("/org/freedesktop/systemd1/unit/_2")
	f.Fuzz(func(t *testing.T, path string) {
		name := unitOfPath(dbus.ObjectPath(path)) // never panics
		if len(name) > len(path) {
			t.Errorf("%q became %q", path, name)
		}
	})
}

func TestMountOf(t *testing.T) {
	for unit, want := range map[string]string{
		"var-lib-left4-runtime-a-merged.mount":            "a",
		`var-lib-left4-runtime-versus\x2d1-merged.mount`:  "versus-1",
		"var-lib-left4-runtime-a_b-merged.mount":          "a_b",
		"var-lib-left4-runtime-versus-1-merged.mount":     "",
		"var-lib-left4-runtime-a-upper.mount":             "",
		`var-lib-left4-runtime-\x2d\x2d-merged.mount`:     "",
		"var-lib-left4-runtime--merged.mount":             "",
		"srv-left4-runtime-a-merged.mount":                "",
		`var-lib-left4-runtime-a\x2fb-merged.mount`:       "",
		"var-lib-left4-runtime-versus-1-merged.automount": "",
	} {
		if got, ok := mountOf(unit); ok != (want != "") || ok && got != want {
			t.Errorf("%s is the mount of %q, %v", unit, got, ok)
		}
	}
}
