package dbus

import (
	"context"
	"errors"
	"io"
	"os"
	"reflect"
	"testing"
	"time"

	"left4.me/left4/client"
)

// The client's own tests speak to a left4d of theirs: here it is held against this one.
func TestTheClientSpeaksToThisServer(t *testing.T) {
	b := startBus(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	c, err := client.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	done := func(j *client.Job, err error) {
		t.Helper()
		must(err)
		if info, err := j.Wait(ctx, nil); err != nil || info.State != "done" {
			t.Fatalf("the job ended %+v, %v", info, err)
		}
	}
	stream := func() *os.File {
		r, w, err := os.Pipe()
		must(err)
		w.Close()
		return r
	}
	keep := uint32(4)
	for name, files := range map[string]map[string]string{"low": {"cfg/x": "1", "odd\xff": ""}, "high": {"cfg/x": "22"}} {
		_, err := c.CreateOverlay(ctx, name, "files", client.OverlayConfig{Keep: &keep})
		must(err)
		b.unpack(files)
		done(c.ImportOverlay(ctx, name, stream(), client.ImportOptions{Size: 5, Merge: true, Base: 1, Timeout: time.Minute}))
	}
	must(c.UpdateOverlay(ctx, "low", client.OverlayConfig{Keep: &keep}))
	if config, err := c.GetOverlayConfig(ctx, "low"); err != nil || config.Keep == nil || *config.Keep != 4 {
		t.Errorf("config %+v, %v", config, err)
	}
	if o, err := c.GetOverlay(ctx, "low"); err != nil || o.ID == 0 || o.Type != "files" || o.State != "ready" || o.Revision != 2 || len(o.Revisions) != 2 || o.Files == 0 {
		t.Errorf("overlay %+v, %v", o, err)
	}
	if all, err := c.ListOverlays(ctx); err != nil || len(all) != 2 || all[0].Name != "high" {
		t.Errorf("overlays %+v, %v", all, err)
	}
	if entries, more, err := c.ListOverlayFiles(ctx, "low", "", 0); err != nil || more || len(entries) != 2 || entries[1].Name != `odd\xff` || entries[1].Modified.IsZero() {
		t.Errorf("files %+v, %v", entries, err)
	}
	if f, err := c.OpenOverlayFile(ctx, "high", "cfg/x", 2); err != nil {
		t.Error(err)
	} else if text, err := io.ReadAll(f); err != nil || string(text) != "22" || f.Close() != nil {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if _, err := c.BuildOverlay(ctx, "low", client.BuildOptions{}); err == nil {
		t.Error("files were built")
	}

	overlays := []client.Overlay{{Name: "high", Alias: "*"}, {Name: "low"}}
	_, err = c.CreateBlueprint(ctx, "b", client.Config{Overlays: overlays[:1]})
	must(err)
	must(c.UpdateBlueprint(ctx, "b", client.Config{Overlays: overlays}))
	name, memory := "b", uint64(1<<30)
	_, err = c.CreateInstance(ctx, "i", client.Config{Blueprint: &name, Limits: &client.Limits{MemoryMax: &memory}})
	must(err)
	if config, err := c.GetBlueprintConfig(ctx, "b"); err != nil || !reflect.DeepEqual(config.Overlays, overlays) {
		t.Errorf("config %+v, %v", config, err)
	}
	if info, err := c.GetBlueprint(ctx, "b"); err != nil || !reflect.DeepEqual(info.Instances, []string{"i"}) || !reflect.DeepEqual(info.Overlays, overlays) {
		t.Errorf("blueprint %+v, %v", info, err)
	}
	if all, err := c.ListBlueprints(ctx); err != nil || len(all) != 1 {
		t.Errorf("blueprints %+v, %v", all, err)
	}
	conflict := []client.Conflict{{Path: "cfg/x", Overlays: []string{"high", "low"}}}
	if got, more, err := c.BlueprintConflicts(ctx, "b"); err != nil || more || !reflect.DeepEqual(got, conflict) {
		t.Errorf("conflicts %+v, %v", got, err)
	}
	if got, more, err := c.InstanceConflicts(ctx, "i"); err != nil || more || !reflect.DeepEqual(got, conflict) {
		t.Errorf("conflicts %+v, %v", got, err)
	}
	if config, err := c.GetInstanceConfig(ctx, "i"); err != nil || config.Blueprint == nil || *config.Blueprint != "b" {
		t.Errorf("config %+v, %v", config, err)
	}
	if in, err := c.GetInstance(ctx, "i"); err != nil || in.Blueprint != "b" || !reflect.DeepEqual(in.Overlays, overlays) {
		t.Errorf("instance %+v, %v", in, err)
	}
	if found, err := c.FindFile(ctx, "i", "cfg/x"); err != nil || len(found) != 2 {
		t.Errorf("found %+v, %v", found, err)
	}
	if changes, more, err := c.ListChanges(ctx, "i"); err != nil || !more || len(changes) != 2 {
		t.Errorf("changes %+v, %v", changes, err)
	}
	before, err := c.GetSecret(ctx, "i", "rcon_password")
	must(err)
	must(c.ConfigureInstance(ctx, "i", client.Config{}, client.ConfigureOptions{NewRconPassword: true}))
	if after, err := c.GetSecret(ctx, "i", "rcon_password"); err != nil || after == before {
		t.Errorf("the password stays %q, %v", after, err)
	}

	b.unpack(map[string]string{"srcds_run": ""})
	done(c.ImportGame(ctx, stream(), 0, client.JobOptions{}))
	must(c.SetGameRevision(ctx, 1))
	if info, err := c.Service(ctx); err != nil || info.GameRevision != 1 || len(info.GameRevisions) == 0 {
		t.Errorf("service %+v, %v", info, err)
	}
	must(c.RollbackOverlay(ctx, "low", 1))

	if err := c.DeleteBlueprint(ctx, "b"); !errors.Is(err, client.ErrInUse) {
		t.Errorf("a blueprint in use: %v", err)
	}
	none := ""
	must(c.ConfigureInstance(ctx, "i", client.Config{Blueprint: &none}, client.ConfigureOptions{}))
	must(c.DeleteBlueprint(ctx, "b"))
	done(c.DeleteOverlay(ctx, "low", client.JobOptions{}))
	if _, err := c.GetOverlay(ctx, "low"); !errors.Is(err, client.ErrNoSuchOverlay) {
		t.Errorf("an overlay that was deleted: %v", err)
	}
	if _, err := c.GetBlueprint(ctx, "b"); !errors.Is(err, client.ErrNoSuchBlueprint) {
		t.Errorf("a blueprint that was deleted: %v", err)
	}
}
