package names

import (
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestEscapeLabelIsSystemds(t *testing.T) {
	// The right column is what systemd's bus_label_escape gives.
	for plain, label := range map[string]string{
		"":              "_",
		"a":             "a",
		"versus-1":      "versus_2d1",
		"1st":           "_31st",
		"a_b":           "a_5fb",
		"left4@x.y":     "left4_40x_2ey",
		"\xff\n":        "_ff_0a",
		"foobar123bar.": "foobar123bar_2e",
	} {
		if got := EscapeLabel(plain); got != label {
			t.Errorf("EscapeLabel(%q) = %q, want %q", plain, got, label)
		}
		if got, ok := UnescapeLabel(label); !ok || got != plain {
			t.Errorf("UnescapeLabel(%q) = %q, %v, want %q", label, got, ok, plain)
		}
	}
}

func TestAnObjectHasOnePath(t *testing.T) {
	for _, label := range []string{"", "_2", "_zz", "_2D", "_61", "a_62", "a-b", "_+1", "9a"} {
		if name, ok := UnescapeLabel(label); ok {
			t.Errorf("UnescapeLabel(%q) = %q, want a refusal", label, name)
		}
	}
	for _, path := range []string{"/me/left4/job/", "/me/left4/job/01", "/me/left4/job/+1", "/me/left4/job/4294967296", "/me/left4/jobs/1"} {
		if id, ok := JobID(dbus.ObjectPath(path)); ok {
			t.Errorf("JobID(%q) = %d, want a refusal", path, id)
		}
	}
	if name, ok := OverlayName(OverlayPath("versus-1")); !ok || name != "versus-1" {
		t.Errorf("OverlayName(OverlayPath(versus-1)) = %q, %v", name, ok)
	}
	if name, ok := BlueprintName(BlueprintPath("1st")); !ok || name != "1st" {
		t.Errorf("BlueprintName(BlueprintPath(1st)) = %q, %v", name, ok)
	}
	for _, path := range []dbus.ObjectPath{OverlayPath("a"), BlueprintPath("a"), JobPath(1)} {
		if name, ok := InstanceName(path); ok {
			t.Errorf("InstanceName(%s) = %q, want a refusal", path, name)
		}
	}
	if id, ok := JobID(JobPath(4294967295)); !ok || id != 4294967295 {
		t.Errorf("JobID(JobPath(max)) = %d, %v", id, ok)
	}
}

func FuzzLabel(f *testing.F) {
	f.Add("versus-1")
	f.Add("_2d")
	f.Fuzz(func(t *testing.T, s string) {
		if back, ok := UnescapeLabel(EscapeLabel(s)); !ok || back != s {
			t.Fatalf("%q came back as %q, %v", s, back, ok)
		}
		if !InstancePath(s).IsValid() {
			t.Fatalf("InstancePath(%q) is no object path", s)
		}
		if plain, ok := UnescapeLabel(s); ok && EscapeLabel(plain) != s {
			t.Fatalf("two labels for %q: %q and %q", plain, s, EscapeLabel(plain))
		}
	})
}
