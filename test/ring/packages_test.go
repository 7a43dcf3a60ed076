package ring

import (
	"context"
	"path"
	"strings"
	"testing"
	"time"
)

// Tests of other packages that want a machine of their own to play with, run in one.

func TestUnitsInAMachine(t *testing.T)  { runInside(t, "left4.me/left4/units") }
func TestPolkitInAMachine(t *testing.T) { runInside(t, "left4.me/left4/polkit") }

func runInside(t *testing.T, pkg string) {
	t.Helper()
	Each(t, func(t *testing.T, m *Machine) {
		// Where users and sandboxes see it: the tests start themselves again as others.
		program := "/usr/local/bin/" + path.Base(pkg) + ".test"
		m.CopyIn(t, BuildTest(t, pkg), program)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		out, err := m.Command(ctx, "env", "LEFT4_TEST_SYSTEM=1", "LEFT4_TEST_SYSTEMD=1",
			program, "-test.v", "-test.run=^TestSystem").CombinedOutput()
		if text := string(out); err != nil || strings.Contains(text, "--- SKIP") || !strings.Contains(text, "--- PASS") {
			t.Errorf("%v\n%s", err, text)
		}
	})
}
