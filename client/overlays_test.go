package client_test

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"left4.me/left4/client"
	"left4.me/left4/dbus/names"
)

func TestOverlayIsMadeFilledRolledBackAndDeleted(t *testing.T) {
	c, d, _ := dial(t)
	ctx := t.Context()
	keep := uint32(3)
	object, err := c.CreateOverlay(ctx, "sm", "files", client.OverlayConfig{Keep: &keep})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, object, names.OverlayPath("sm"))
	dir := t.TempDir()
	write(t, dir+"/cfg/server.cfg", "sv_cheats 0\n", 0o644)
	importInto(t, c, "sm", dir, client.ImportOptions{})
	write(t, dir+"/cfg/more.cfg", "more", 0o644)
	os.Remove(dir + "/cfg/server.cfg")
	importInto(t, c, "sm", dir, client.ImportOptions{Merge: true, Remove: []string{"cfg/server.cfg"}, Base: 2, Timeout: time.Minute})
	o, err := c.GetOverlay(ctx, "sm")
	if err != nil {
		t.Fatal(err)
	}
	revisions := []client.Revision{
		{1, time.Unix(1700000060, 0), 0, 0}, {2, time.Unix(1700000120, 0), 1, 12}, {3, time.Unix(1700000180, 0), 1, 4},
	}
	expect(t, o, client.OverlayInfo{
		Name: "sm", ID: 1, Type: "files", OwnerName: "root", State: "ready", Revision: 3, Revisions: revisions, Files: 1, Size: 4, Object: object,
	})
	config, err := c.GetOverlayConfig(ctx, "sm")
	if err != nil || *config.Keep != 3 {
		t.Errorf("config: %+v, %v", config, err)
	}
	expect(t, c.RollbackOverlay(ctx, "sm", 2), nil)
	keep = 0
	expect(t, c.UpdateOverlay(ctx, "sm", client.OverlayConfig{Keep: &keep}), nil)
	list, err := c.ListOverlays(ctx)
	if err != nil || len(list) != 1 || list[0].Revision != 2 || len(list[0].Revisions) != 1 {
		t.Errorf("list: %+v, %v", list, err)
	}
	job, err := c.DeleteOverlay(ctx, "sm", client.JobOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := job.Wait(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetOverlay(ctx, "sm"); !errors.Is(err, client.ErrNoSuchOverlay) {
		t.Errorf("it is still there: %v", err)
	}
	expect(t, strings.Join(d.Calls(), "\n"), strings.Join([]string{
		"CreateOverlay sm files {keep: u 3} {} interactive",
		"ImportOverlay sm {size: t 2560} interactive",
		"ImportOverlay sm {base: u 2, merge: b true, remove: as [\"cfg/server.cfg\"], size: t 2560, timeout: t 60000000} interactive",
		"UpdateOverlay sm  {} {revision: u 2} interactive",
		"UpdateOverlay sm  {keep: u 0} {} interactive",
		"DeleteOverlay sm {} interactive",
	}, "\n"))
}

func importInto(t *testing.T, c *client.Client, name, dir string, o client.ImportOptions) {
	t.Helper()
	s, err := client.OpenSource(dir)
	if err != nil {
		t.Fatal(err)
	}
	o.Size = s.Size
	job, err := c.ImportOverlay(t.Context(), name, s.File, o)
	s.File.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := job.Wait(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

func TestChangeInBetweenFailsAnImportThatNamesItsBase(t *testing.T) {
	c, d, _ := dial(t)
	d.AddOverlay("sm", map[string]string{"a": "1"})
	d.PublishOverlay("sm", map[string]string{"a": "2"})
	s, err := client.OpenSource(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	job, err := c.ImportOverlay(t.Context(), "sm", s.File, client.ImportOptions{Base: 1})
	s.File.Close()
	if err != nil {
		t.Fatal(err)
	}
	var failed *client.JobError
	if _, err := job.Wait(t.Context(), nil); !errors.As(err, &failed) || failed.Error() != "changed meanwhile: revision is 2, not 1" {
		t.Errorf("Wait: %v", err)
	}
}

func TestFilesOfAnOverlay(t *testing.T) {
	c, d, _ := dial(t)
	ctx := t.Context()
	d.AddOverlay("sm", map[string]string{"cfg/server.cfg": "old", "cfg/b\xff\n": "x", "readme": "hello"})
	d.PublishOverlay("sm", map[string]string{"cfg/server.cfg": "newer"})
	list := func(path string, revision uint32) []client.FileEntry {
		entries, more, err := c.ListOverlayFiles(ctx, "sm", path, revision)
		if err != nil || more {
			t.Errorf("%s: %v %v", path, more, err)
		}
		return entries
	}
	now := time.Unix(1700000120, 0)
	expect(t, list("", 0), []client.FileEntry{{"cfg", "directory", 0, now}, {"readme", "file", 5, now}})
	expect(t, list("cfg", 0), []client.FileEntry{{`b\xff\x0a`, "file", 1, now}, {"server.cfg", "file", 5, now}})
	expect(t, list("cfg/", 1)[1].Size, 3)
	for revision, want := range map[uint32]string{0: "newer", 1: "old", 2: "newer"} {
		f, err := c.OpenOverlayFile(ctx, "sm", "cfg/server.cfg", revision)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(f)
		f.Close()
		expect(t, string(text), want)
		expect(t, err, nil)
	}
	d.SetMore(true)
	if _, more, err := c.ListOverlayFiles(ctx, "sm", "", 0); !more || err != nil {
		t.Errorf("more: %v %v", more, err)
	}
	if _, err := c.OpenOverlayFile(ctx, "sm", "nothing", 0); !errors.Is(err, client.ErrInvalidArgument) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := c.OpenOverlayFile(ctx, "none", "x", 0); !errors.Is(err, client.ErrNoSuchOverlay) {
		t.Errorf("no overlay: %v", err)
	}
}

func TestBlueprintsAndTheirInstances(t *testing.T) {
	c, d, _ := dial(t)
	ctx := t.Context()
	d.AddOverlay("sm", map[string]string{"cfg/server.cfg": "a", "x": "x"})
	d.AddOverlay("maps", map[string]string{"cfg/server.cfg": "b", "y": "y"})
	memory := uint64(1 << 30)
	config := client.Config{
		Arguments: []string{"+map"}, Lines: []string{"sv_cheats 0"}, Overlays: []client.Overlay{{"sm", "*"}, {"maps", ""}},
		Limits: &client.Limits{MemoryMax: &memory},
	}
	if _, err := c.CreateBlueprint(ctx, "versus", config); err != nil {
		t.Fatal(err)
	}
	blueprint := "versus"
	if _, err := c.CreateInstance(ctx, "a", client.Config{Blueprint: &blueprint}); err != nil {
		t.Fatal(err)
	}
	expect(t, c.UpdateBlueprint(ctx, "versus", client.Config{Lines: []string{"sv_cheats 1"}}), nil)
	back, err := c.GetBlueprintConfig(ctx, "versus")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, back.Lines, []string{"sv_cheats 1"})
	expect(t, back.Overlays, config.Overlays)
	b, err := c.GetBlueprint(ctx, "versus")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, b.Instances, []string{"a"})
	expect(t, *b.Limits.MemoryMax, memory)
	list, err := c.ListBlueprints(ctx)
	expect(t, err, nil)
	expect(t, len(list), 1)
	expect(t, list[0].Overlays, config.Overlays)
	a, err := c.GetInstance(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, a.Blueprint, "versus")
	expect(t, a.Overlays, config.Overlays)
	for of, ask := range map[string]func() ([]client.Conflict, bool, error){
		"blueprint": func() ([]client.Conflict, bool, error) { return c.BlueprintConflicts(ctx, "versus") },
		"instance":  func() ([]client.Conflict, bool, error) { return c.InstanceConflicts(ctx, "a") },
	} {
		conflicts, _, err := ask()
		if err != nil {
			t.Errorf("%s: %v", of, err)
		}
		expect(t, conflicts, []client.Conflict{{"cfg/server.cfg", []string{"sm", "maps"}}})
	}
	if err := c.DeleteBlueprint(ctx, "versus"); !errors.Is(err, client.ErrInUse) || !strings.Contains(err.Error(), "instances a ") {
		t.Errorf("deleted in use: %v", err)
	}
	none := ""
	expect(t, c.ConfigureInstance(ctx, "a", client.Config{Blueprint: &none}, client.ConfigureOptions{}), nil)
	expect(t, c.DeleteBlueprint(ctx, "versus"), nil)
	if _, err := c.GetBlueprint(ctx, "versus"); !errors.Is(err, client.ErrNoSuchBlueprint) {
		t.Errorf("still there: %v", err)
	}
	if _, err := c.CreateBlueprint(ctx, "x", client.Config{Port: new(uint16)}); !errors.Is(err, client.ErrInvalidArgument) {
		t.Errorf("a port: %v", err)
	}
}

func TestWhatAnInstanceIsMadeOf(t *testing.T) {
	c, d, _ := dial(t)
	ctx := t.Context()
	d.AddInstance("a", 27015, nil)
	d.SetServerConfig("a", "hostname x // instance a\n")
	d.SetSecret("a", "s3cret")
	d.SetFound("a", []client.Found{{"upper", "whiteout"}, {"game", "hidden file"}})
	d.SetChanges("a", []client.Change{{"left4dead2/x", "removed", 0}})
	text, err := c.GetServerConfig(ctx, "a")
	expect(t, text, "hostname x // instance a\n")
	expect(t, err, nil)
	secret, err := c.GetSecret(ctx, "a", client.SecretRconPassword)
	expect(t, secret, "s3cret")
	expect(t, err, nil)
	found, err := c.FindFile(ctx, "a", "x")
	expect(t, found, []client.Found{{"upper", "whiteout"}, {"game", "hidden file"}})
	expect(t, err, nil)
	changes, more, err := c.ListChanges(ctx, "a")
	expect(t, changes, []client.Change{{"left4dead2/x", "removed", 0}})
	expect(t, more, false)
	expect(t, err, nil)
	if _, err := c.FindFile(ctx, "b", "x"); !client.IsNoSuchInstance(err) {
		t.Errorf("no instance: %v", err)
	}
	d.Calls()
	expect(t, c.ConfigureInstance(ctx, "a", client.Config{}, client.ConfigureOptions{NewRconPassword: true}), nil)
	expect(t, d.Calls(), []string{"ConfigureInstance a {} {new_rcon_password: b true} interactive"})
}

func TestGameRevisions(t *testing.T) {
	c, d, _ := dial(t)
	d.AddGameRevision(8)
	expect(t, c.SetGameRevision(t.Context(), 7), nil)
	service, err := c.Service(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, service.GameRevision, 7)
	expect(t, len(service.GameRevisions), 2)
	if err := c.SetGameRevision(t.Context(), 9); !errors.Is(err, client.ErrInvalidArgument) {
		t.Errorf("none such: %v", err)
	}
}
