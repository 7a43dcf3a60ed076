package dbus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/client/clienttest"
	"left4.me/left4/daemon"
	"left4.me/left4/dbus/names"
	"left4.me/left4/polkit"
)

// problems are those that ListProblems tells, by kind/name, with their severity and repair.
func (b *testBus) problems() map[string][]string {
	b.t.Helper()
	all := map[string][]string{}
	for _, row := range b.must(names.Root, names.Manager+".ListProblems", variants{})[0].([][]any) {
		all[row[0].(string)+"/"+row[1].(string)] = []string{row[2].(string), row[3].(string), row[4].(string)}
	}
	return all
}

func TestProblemsAreListedAndRepaired(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", clienttest.StartBus(t).Address)
	b := serveOn(t, dir)
	for _, path := range []string{"/state/overlays/9/4", "/state/runtime/gone/upper"} {
		if err := os.MkdirAll(dir+path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	all := b.problems()
	for _, problem := range []string{"orphaned-overlay/9", "orphaned-instance/gone"} {
		if p := all[problem]; len(p) != 3 || p[0] != "error" || p[1] == "" || p[2] == "" {
			t.Errorf("%s: %q in %v", problem, p, all)
		}
	}
	_, err := b.call(names.Root, names.Manager+".RepairProblems", []string{"nonsense"}, variants{})
	wantError(t, err, names.Error+"InvalidArgument")
	_, err = b.call(names.Root, names.Manager+".RepairProblems", slices.Repeat([]string{"orphaned-overlay/9"}, maxProblems+1), variants{})
	wantError(t, err, names.Error+"InvalidArgument")
	_, err = b.call(names.Root, names.Manager+".ListProblems", variants{"x": dbus.MakeVariant(1)})
	wantError(t, err, names.Error+"InvalidArgument")

	job := b.must(names.Root, names.Manager+".RepairProblems", []string{"orphaned-overlay/9", "orphaned-instance"}, variants{})[0].(dbus.ObjectPath)
	b.ended("repair")
	if got := b.must(job, names.Properties+".Get", names.Job, "Target")[0].(dbus.Variant).Value(); got != "problems" {
		t.Errorf("its target is %v", got)
	}
	all = b.problems()
	if all["orphaned-overlay/9"] != nil || all["orphaned-instance/gone"] != nil {
		t.Errorf("there still are %v", all)
	}
	b.must(names.Root, names.Manager+".GetOverlay", "recovered-9")
	b.must(names.Root, names.Manager+".GetInstance", "gone")

	// That polkit is away only root can be told, and is.
	away := &Server{daemon: b.server.daemon, face: b.server.face, walks: newPlaces(maxWalks), auth: answers(func(context.Context, polkit.Request) (polkit.Answer, error) { return polkit.No, errors.New("gone") })}
	out, err := away.listProblems(&call{method: b.server.face.methods[names.Manager]["ListProblems"], ctx: t.Context(), args: []any{variants{}}})
	if err != nil {
		t.Fatal(err)
	}
	list := out[0].([]daemon.Problem)
	if p := list[len(list)-1]; p.Kind != "no-polkit" || p.Severity != daemon.SeverityWarning || p.Repair != "" || !strings.Contains(p.What, "nobody but root") {
		t.Errorf("%+v", p)
	}
	// Nor can anybody else mend that it knows an action not.
	away.auth = answers(func(_ context.Context, r polkit.Request) (polkit.Answer, error) {
		if strings.HasPrefix(r.Action, "me.left4.overlay.") {
			return polkit.No, fmt.Errorf("cannot ask polkit: %w", polkit.ErrUnknown)
		}
		return polkit.No, nil
	})
	if out, err = away.listProblems(&call{method: b.server.face.methods[names.Manager]["ListProblems"], ctx: t.Context(), args: []any{variants{}}}); err != nil {
		t.Fatal(err)
	}
	list = out[0].([]daemon.Problem)
	if p := list[len(list)-1]; p.Kind != "unknown-action" || p.Severity != daemon.SeverityWarning || !strings.Contains(p.What, "the first is me.left4.overlay.") || strings.Contains(p.What, " not know 0 ") {
		t.Errorf("%+v", p)
	}
	if log := b.log.take(); strings.Contains(log, "ListProblems") || !strings.Contains(log, "RepairProblems") {
		t.Errorf("the log has\n%s", log)
	}
}
