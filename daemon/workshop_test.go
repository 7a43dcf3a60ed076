package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

// workshop is what the worker of a test finds. What is cached it does not fetch.
type workshop struct {
	*world
	orders []order.Workshop
	result order.WorkshopResult
	files  map[string]string             // by id
	spoil  func(dir string, name string) // the file that was just made
}

func newWorkshop(t *testing.T, overlay string, items ...string) *workshop {
	ws := &workshop{world: newWorld(t), files: map[string]string{}}
	if overlay != "" {
		ws.workshopOverlay(overlay, items...)
	}
	ws.units.Work = ws.work
	return ws
}

func (ws *workshop) workshopOverlay(name string, items ...string) {
	ws.t.Helper()
	if _, err := ws.CreateOverlay(name, workshopType, OverlayChanges{Items: &items}, 1000); err != nil {
		ws.t.Fatal(err)
	}
}

func (ws *workshop) has(id string, updated int64, name, text string) {
	ws.files[id] = text
	ws.put(order.Item{File: order.File{ID: id, Updated: updated, Size: int64(len(text))}, Title: "Map " + id, Name: name})
}

func (ws *workshop) misses(id, why string) {
	ws.put(order.Item{File: order.File{ID: id}, Missing: why})
}

func (ws *workshop) put(item order.Item) {
	at := slices.IndexFunc(ws.result.Items, func(i order.Item) bool { return i.ID == item.ID })
	if at < 0 {
		ws.result.Items = append(ws.result.Items, item)
	} else {
		ws.result.Items[at] = item
	}
}

func (ws *workshop) work(w units.Worker) units.State {
	var o order.Workshop
	if err := order.Read(bytes.NewReader(w.Order), &o); err != nil || w.Dir != filepath.Join(ws.root, "state/workshop/incoming") || w.Stdin != -1 || !slices.Equal(w.Command[1:], []string{"workshop"}) {
		ws.t.Errorf("%+v: %v", w, err)
	}
	ws.orders = append(ws.orders, o)
	for _, item := range ws.result.Items {
		if item.Missing != "" || slices.Contains(o.Cached, item.File) {
			continue
		}
		if err := os.WriteFile(filepath.Join(w.Dir, item.FileName()), []byte(ws.files[item.ID]), 0o600); err != nil {
			ws.t.Error(err)
		}
		if ws.spoil != nil {
			ws.spoil(w.Dir, item.FileName())
		}
	}
	text, err := json.Marshal(ws.result)
	if err := errors.Join(err, os.WriteFile(filepath.Join(w.Dir, order.ResultName), text, 0o644)); err != nil {
		ws.t.Error(err)
	}
	return units.State{Active: "active", Sub: "exited", StatusText: status.Done(0, 0, "")}
}

// build builds, and returns the job and what the current revision holds, a line for each file.
func (ws *workshop) build(overlay, result string) (Job, string) {
	ws.t.Helper()
	j := ws.do(ws.BuildOverlay, overlay, result)
	ws.settled()
	return j, ws.addons(overlay)
}

func (ws *workshop) addons(overlay string) string {
	ws.t.Helper()
	o, err := ws.Overlay(overlay)
	if err != nil {
		ws.t.Fatal(err)
	}
	if o.Revision == 0 {
		return ""
	}
	dir := filepath.Join("overlays", fmt.Sprint(o.ID), fmt.Sprint(o.Revision), addonsDir)
	var lines strings.Builder
	for _, name := range ws.entries(dir) {
		text, err := os.ReadFile(filepath.Join(ws.root, "state", dir, name))
		if err != nil {
			ws.t.Error(err)
		}
		fmt.Fprintf(&lines, "%s %s\n", name, text)
	}
	return lines.String()
}

func (ws *workshop) cache() []string {
	ws.t.Helper()
	return slices.DeleteFunc(ws.entries("workshop"), func(name string) bool { return name == "incoming" })
}

func TestWorkshopIDs(t *testing.T) {
	for text, want := range map[string]string{
		"123": "123", " 123\n": "123", "18446744073709551615": "18446744073709551615",
		"https://steamcommunity.com/sharedfiles/filedetails/?id=123":                       "123",
		"http://www.steamcommunity.com/workshop/filedetails/?searchtext=x&id=123#comments": "123",
		"https://steamcommunity.com/sharedfiles/filedetails?id=123&l=german":               "123",

		"": "", "0": "", "0123": "", "-1": "", "18446744073709551616": "", "1e3": "", "١": "", "12 3": "", "../1": "",
		"https://example.com/sharedfiles/filedetails/?id=123":              "",
		"https://steamcommunity.com.evil/sharedfiles/filedetails/?id=123":  "",
		"https://a@steamcommunity.com/sharedfiles/filedetails/?id=123":     "",
		"https://steamcommunity.com/id/somebody/?id=123":                   "",
		"https://steamcommunity.com/sharedfiles/filedetails/":              "",
		"https://steamcommunity.com/sharedfiles/filedetails/?id=1;DROP":    "",
		"file://steamcommunity.com/sharedfiles/filedetails/?id=123":        "",
		"https://steamcommunity.com/sharedfiles/filedetails/?id=123&id=45": "123",
	} {
		got, ok := workshopID(text)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %v", text, got, ok)
		}
	}
	w := newWorld(t)
	for _, c := range []struct {
		kind  string
		items []string
		want  string
	}{
		{"files", []string{"1"}, "items are not allowed for an overlay of type files: only type workshop has them"},
		{"workshop", []string{"x"}, `"x" is no item of the workshop: use its number, or https://steamcommunity.com/sharedfiles/filedetails/?id=NUMBER`},
		{"workshop", make([]string, maxItems+1), "1001 items are too many: at most 1000 are allowed"},
	} {
		if _, err := w.CreateOverlay("maps", c.kind, OverlayChanges{Items: &c.items}, 0); AsCode(err) != InvalidArgument || AsError(err).Message != c.want {
			t.Error(err)
		}
	}
	o, err := w.CreateOverlay("maps", "workshop", OverlayChanges{Items: &[]string{"1", "https://steamcommunity.com/sharedfiles/filedetails/?id=2", "1"}}, 0)
	if err != nil || !slices.Equal(o.Config.V.Items, []string{"1", "2"}) || o.State != OverlayEmpty {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err = w.UpdateOverlay("maps", "", OverlayChanges{Items: &[]string{"3"}}, nil); err != nil || !slices.Equal(o.Config.V.Items, []string{"3"}) {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestAWorkshopOverlayIsBuilt(t *testing.T) {
	ws := newWorkshop(t, "maps", "100", "7")
	ws.result.Collections = []string{"100", "200"}
	ws.has("1", 10, "a.vpk", "one")
	ws.has("2", 10, "b.vpk", "two")
	ws.has("7", 10, "", "seven")
	ws.misses("9", "it is banned")
	j, got := ws.build("maps", JobDone)
	if want := "7.vpk seven\na.vpk one\nb.vpk two\n"; got != want {
		t.Errorf("built:\n%s", got)
	}
	if want := "3 items, 1 not to be had: 9: it is banned"; j.Status != want {
		t.Errorf("status %q", j.Status)
	}
	o, _ := ws.Overlay("maps")
	if o.State != OverlayReady || o.Revisions[0].Files != 3 || o.Revisions[0].Bytes != 11 {
		t.Errorf("%+v", o)
	}
	items, err := ws.WorkshopItems("maps", 0)
	want := []store.WorkshopItem{
		{ID: "1", Title: "Map 1", Name: "a.vpk", File: "a.vpk", Updated: 10, Bytes: 3}, {ID: "2", Title: "Map 2", Name: "b.vpk", File: "b.vpk", Updated: 10, Bytes: 3},
		{ID: "7", Title: "Map 7", File: "7.vpk", Updated: 10, Bytes: 5}, {ID: "9", Cause: "it is banned"},
	}
	if err != nil || !reflect.DeepEqual(items, want) {
		t.Errorf("%+v, %v", items, err)
	}
	if first := ws.orders[0]; !slices.Equal(first.Items, []string{"100", "7"}) || first.API != "https://api.steampowered.com" || first.Parallel != 4 || first.Private || len(first.Cached)+len(first.Collections) != 0 {
		t.Errorf("order %+v", first)
	}

	// Nothing changed: nothing is fetched, and no revision made.
	j, again := ws.build("maps", JobDone)
	if o, _ := ws.Overlay("maps"); again != got || o.Revision != 1 || len(o.Revisions) != 1 {
		t.Errorf("again, revision %d:\n%s", o.Revision, again)
	}
	if want := "up to date: 3 items, 1 not to be had: 9: it is banned"; j.Status != want {
		t.Errorf("status %q", j.Status)
	}
	second := ws.orders[1]
	if want := []order.File{{ID: "1", Updated: 10, Size: 3}, {ID: "2", Updated: 10, Size: 3}, {ID: "7", Updated: 10, Size: 5}}; !reflect.DeepEqual(second.Cached, want) || !slices.Equal(second.Collections, []string{"100", "200"}) {
		t.Errorf("order %+v", second)
	}

	// One changed: the others are the same files.
	ws.has("2", 11, "b.vpk", "second")
	if _, got := ws.build("maps", JobDone); got != "7.vpk seven\na.vpk one\nb.vpk second\n" {
		t.Errorf("built:\n%s", got)
	}
	at := func(name string) os.FileInfo {
		info, err := os.Stat(filepath.Join(ws.root, "state", name))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	if o, _ := ws.Overlay("maps"); o.Revision < 2 || !os.SameFile(at("overlays/1/1/left4dead2/addons/a.vpk"), at(layerName(1, o.Revision)+"/left4dead2/addons/a.vpk")) ||
		!os.SameFile(at("workshop/1-10.vpk"), at("overlays/1/1/left4dead2/addons/a.vpk")) {
		t.Errorf("an unchanged file takes room twice; revision %d", o.Revision)
	}
	if got := ws.cache(); !slices.Equal(got, []string{"1-10.vpk", "2-10.vpk", "2-11.vpk", "7-10.vpk"}) {
		t.Errorf("the cache has %q", got)
	}

	// Another overlay shares what is there.
	ws.workshopOverlay("more", "1")
	ws.result = order.WorkshopResult{}
	ws.has("1", 10, "a.vpk", "one")
	if _, got := ws.build("more", JobDone); got != "a.vpk one\n" || len(ws.orders[3].Cached) != 4 {
		t.Errorf("built:\n%s", got)
	}
}

// Players do not lose a map because its author, or Steam, is away for a night.
func TestOldFilesStay(t *testing.T) {
	ws := newWorkshop(t, "maps", "100", "7")
	ws.result.Collections = []string{"100"}
	ws.has("1", 10, "a.vpk", "one")
	ws.has("2", 10, "b.vpk", "two")
	ws.has("7", 10, "c.vpk", "seven")
	_, before := ws.build("maps", JobDone)

	ws.misses("1", "it was deleted")
	j, got := ws.build("maps", JobDone)
	if o, _ := ws.Overlay("maps"); got != before || o.Revision != 1 {
		t.Errorf("built:\n%s", got)
	}
	if want := "up to date: 2 items, 1 not to be had: 1 (Map 1): it was deleted, its old file stays"; j.Status != want {
		t.Errorf("status %q", j.Status)
	}
	if items, err := ws.WorkshopItems("maps", 0); err != nil || items[0] != (store.WorkshopItem{ID: "1", Title: "Map 1", Name: "a.vpk", File: "a.vpk", Updated: 10, Bytes: 3, Cause: "it was deleted"}) {
		t.Errorf("%+v, %v", items, err)
	}

	// It stays also in the next revision, and when nothing else has it.
	ws.has("2", 11, "b.vpk", "second")
	if err := os.Remove(filepath.Join(ws.root, "state/workshop/1-10.vpk")); err != nil {
		t.Fatal(err)
	}
	if _, got := ws.build("maps", JobDone); got != "a.vpk one\nb.vpk second\nc.vpk seven\n" {
		t.Errorf("built:\n%s", got)
	}

	// What was taken out of the collection goes.
	ws.result.Items = slices.DeleteFunc(ws.result.Items, func(i order.Item) bool { return i.ID == "1" })
	if _, got := ws.build("maps", JobDone); got != "b.vpk second\nc.vpk seven\n" {
		t.Errorf("built:\n%s", got)
	}

	// A whole collection is away, for two nights.
	ws.result = order.WorkshopResult{}
	ws.misses("100", "it is hidden")
	ws.has("7", 12, "c.vpk", "seven!")
	for range 2 {
		if _, got := ws.build("maps", JobDone); got != "b.vpk second\nc.vpk seven!\n" {
			t.Errorf("built:\n%s", got)
		}
	}
	if items, _ := ws.WorkshopItems("maps", 0); len(items) != 3 || items[2].Cause != "collection 100 is not to be had: it is hidden" {
		t.Errorf("%+v", items)
	}

	// The worker fails.
	ws.units.Work = func(units.Worker) units.State {
		return units.State{Active: "failed", Result: "exit-code", StatusText: status.Error("cannot ask Steam: it is away")}
	}
	j, got = ws.build("maps", JobFailed)
	if got != "b.vpk second\nc.vpk seven!\n" || j.Cause != "cannot build overlay maps: cannot ask Steam: it is away" {
		t.Errorf("%q, built:\n%s", j.Cause, got)
	}
}

func TestNamesThatClash(t *testing.T) {
	ws := newWorkshop(t, "maps", "1")
	ws.has("1", 10, "Map.vpk", "1")
	ws.has("2", 10, "map.vpk", "2")
	ws.has("3", 10, "1-Map.vpk", "3")
	ws.has("4", 10, "", "4")
	ws.has("5", 10, "4.vpk", "5")
	ws.has("6", 10, "other.vpk", "6")
	if _, got := ws.build("maps", JobDone); got != "1-Map.vpk 1\n2-map.vpk 2\n3-1-Map.vpk 3\n4-4.vpk 4\n5-4.vpk 5\nother.vpk 6\n" {
		t.Errorf("built:\n%s", got)
	}
	if j, _ := ws.build("maps", JobDone); !strings.HasPrefix(j.Status, "up to date") {
		t.Errorf("%q", j.Status)
	}
}

func TestNothingToBuild(t *testing.T) {
	ws := newWorkshop(t, "maps", "1", "2")
	ws.misses("1", "it is banned")
	ws.misses("2", "it is hidden")
	j, _ := ws.build("maps", JobFailed)
	if j.Cause != "cannot build overlay maps: no item is to be had: 1: it is banned; 2: it is hidden" {
		t.Errorf("%q", j.Cause)
	}
	if o, _ := ws.Overlay("maps"); o.Revision != 0 || o.State != OverlayFailed {
		t.Errorf("%+v", o)
	}
	ws.workshopOverlay("none")
	if j, _ := ws.build("none", JobFailed); j.Cause != "cannot build overlay none: it names no items" {
		t.Errorf("%q", j.Cause)
	}
}

// A worker that was taken over gets nothing but what it could write anyway.
func TestWorkerThatLies(t *testing.T) {
	for what, c := range map[string]struct {
		spoil func(dir, name string) error
		lie   func(*order.WorkshopResult)
		want  string // a part of the cause
	}{
		"a link": {spoil: func(dir, name string) error {
			return errors.Join(os.Remove(dir+"/"+name), os.Symlink("/etc/shadow", dir+"/"+name))
		}, want: `"1-10.vpk": a link is in the way`},
		"a FIFO": {spoil: func(dir, name string) error {
			return errors.Join(os.Remove(dir+"/"+name), unix.Mkfifo(dir+"/"+name, 0o644))
		}, want: `"1-10.vpk" is not a regular file`},
		"two names":     {spoil: func(dir, name string) error { return os.Link(dir+"/"+name, dir+"/other") }, want: `"1-10.vpk" has 2 names`},
		"another size":  {spoil: func(dir, name string) error { return os.Truncate(dir+"/"+name, 99) }, want: `"1-10.vpk" has 99 bytes, not the 3 that the worker told`},
		"no file":       {spoil: func(dir, name string) error { return os.Remove(dir + "/" + name) }, want: `"1-10.vpk" was not left by the worker`},
		"another owner": {spoil: func(dir, name string) error { return os.Chown(dir+"/"+name, 12345, -1) }, want: "does not belong to the user of the worker"},
		"a path":        {lie: func(r *order.WorkshopResult) { r.Items[0].Name = "../../x.vpk" }, want: `item 1 is called "../../x.vpk"`},
		"no VPK":        {lie: func(r *order.WorkshopResult) { r.Items[0].Name = "server.cfg" }, want: `item 1 is called "server.cfg"`},
		"no id":         {lie: func(r *order.WorkshopResult) { r.Items[0].ID = "01" }, want: `it has an item "01"`},
		"twice":         {lie: func(r *order.WorkshopResult) { r.Items = append(r.Items, r.Items[0]) }, want: `it has an item "1"`},
		"too many":      {lie: func(r *order.WorkshopResult) { r.Items = make([]order.Item, maxAllItems+1) }, want: "it has 4001 items"},
		"no collection": {lie: func(r *order.WorkshopResult) { r.Collections = []string{"/"} }, want: `it has a collection "/"`},
		"no size":       {lie: func(r *order.WorkshopResult) { r.Items[0].Size = -3 }, want: "item 1 has -3 bytes of 10"},
	} {
		t.Run(what, func(t *testing.T) {
			if what == "another owner" && os.Getuid() != 0 {
				t.Skip("only root can give a file away")
			}
			ws := newWorkshop(t, "maps", "1")
			ws.has("1", 10, "a.vpk", "one")
			if c.spoil != nil {
				ws.spoil = func(dir, name string) {
					if err := c.spoil(dir, name); err != nil {
						t.Error(err)
					}
				}
			}
			if c.lie != nil {
				c.lie(&ws.result)
			}
			j, _ := ws.build("maps", JobFailed)
			if !strings.Contains(j.Cause, c.want) {
				t.Errorf("cause %q", j.Cause)
			}
			if got := ws.cache(); len(got) != 0 {
				t.Errorf("the cache has %q", got)
			}
		})
	}
}

// It changes nothing that others count on, and is in nobody's way when it is gone.
func TestWorkerThatSpoils(t *testing.T) {
	ws := newWorkshop(t, "maps", "1")
	ws.has("1", 10, "a.vpk", "one")
	ws.build("maps", JobDone)

	ws.workshopOverlay("other", "2")
	ws.has("2", 20, "b.vpk", "two")
	ws.spoil = func(dir, name string) {
		err := errors.Join(os.WriteFile(dir+"/1-10.vpk", []byte("bad"), 0o600), os.MkdirAll(dir+"/shut/in", 0o755), os.Chmod(dir+"/shut", 0), os.Mkdir(dir+"/3-30.vpk.part", 0o755),
			os.WriteFile(dir+"/4-40.vpk.part", nil, 0), os.WriteFile(dir+"/5-50.vpk.part", []byte("half"), 0o600), unix.Mkfifo(dir+"/pipe", 0o644), os.Symlink("/", dir+"/link"), os.Chmod(dir, 0))
		if err != nil {
			t.Error(err)
		}
	}
	ws.build("other", JobDone)
	ws.workshopOverlay("third", "1")
	work := ws.units.Work
	ws.units.Work = func(w units.Worker) units.State {
		if info, err := os.Stat(w.Dir); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("the next worker has to work in %v, %v", info.Mode(), err)
		}
		if got := ws.entries("workshop/incoming"); !slices.Equal(got, []string{"5-50.vpk.part", "link", order.ResultName}) {
			t.Errorf("the next worker meets %q", got)
		}
		return work(w)
	}
	ws.spoil = nil
	if _, got := ws.build("third", JobDone); got != "a.vpk one\nb.vpk two\n" {
		t.Errorf("another overlay has %q", got)
	}
	// Nor may so much be left there that the next one has no room for its own.
	ws.incomingMost = units.Usage{Files: 1, Bytes: 1 << 30}
	ws.units.Work = func(w units.Worker) units.State {
		if got := ws.entries("workshop/incoming"); len(got) != 0 {
			t.Errorf("the next worker meets %q", got)
		}
		return work(w)
	}
	ws.build("third", JobDone)
}

// What others wrote is one line for people, whatever it is.
func TestWhatAuthorsWrite(t *testing.T) {
	ws := newWorkshop(t, "maps", "1", "2")
	ws.has("1", 10, "a.vpk", "one")
	ws.result.Items[0].Title = "two\nlines \x1b[31m" + strings.Repeat("ü", 500)
	ws.misses("2", "no\nline")
	j, _ := ws.build("maps", JobDone)
	items, _ := ws.WorkshopItems("maps", 0)
	if strings.ContainsAny(items[0].Title+j.Status, "\n\x1b") || len(items[0].Title) > maxTitle || !strings.HasSuffix(j.Status, "2: no line") {
		t.Errorf("%q, %q", items[0].Title, j.Status)
	}
}

// Workers share a directory, so there is one at a time, and it is the same one after a restart.
func TestOneWorkshopBuildAtATime(t *testing.T) {
	ws := newWorkshop(t, "a", "1")
	ws.workshopOverlay("b", "1")
	ws.has("1", 10, "a.vpk", "one")
	ws.units.Work = nil // it runs
	first, err1 := ws.BuildOverlay("a", Request{})
	second, err2 := ws.BuildOverlay("b", Request{})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	ws.units.Wait(t, "worker "+units.BuildUnit(first.ID))
	// One that waits says for what, and does not wait to be canceled.
	ws.workshopOverlay("c", "1")
	third, err := ws.BuildOverlay("c", Request{})
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.CancelJob(third.ID, 0); err != nil {
		t.Fatal(err)
	}
	if j := ws.events.wait(t, third.ID); j.State != JobCanceled {
		t.Errorf("%+v", j)
	}
	ws.again()
	if n := ws.units.Count("worker "); n != 1 {
		t.Errorf("%d workers were started", n)
	}
	work := func(j Job) {
		ws.units.Wait(t, "worker "+units.BuildUnit(j.ID))
		ws.units.Set(units.BuildUnit(j.ID), ws.work(units.Worker{
			Dir: filepath.Join(ws.root, "state/workshop/incoming"), Stdin: -1, Command: []string{"", "workshop"}, Order: []byte("{}"),
		}))
	}
	work(first)
	if j := ws.events.wait(t, first.ID); j.State != JobDone {
		t.Errorf("%+v", j)
	}
	work(second)
	if j := ws.events.wait(t, second.ID); j.State != JobDone || ws.addons("b") != "a.vpk one\n" {
		t.Errorf("%+v", j)
	}
}

// left4d ends when the worker is done and some of what it left is in the cache already.
func TestAWorkshopBuildIsTakenUp(t *testing.T) {
	ws := newWorkshop(t, "maps", "1", "2")
	ws.has("1", 10, "a.vpk", "one")
	ws.has("2", 10, "b.vpk", "two")
	stop := "stop " + units.BuildUnit(1)
	ws.units.Hold[stop] = make(chan struct{})
	j, err := ws.BuildOverlay("maps", Request{})
	if err != nil || j.ID != 1 {
		t.Fatal(j, err)
	}
	ws.units.Wait(t, stop)
	dir := filepath.Join(ws.root, "state/workshop")
	if err := os.Rename(dir+"/incoming/1-10.vpk", dir+"/1-10.vpk"); err != nil {
		t.Fatal(err)
	}
	ws.Close()
	ws.Store.Close()
	ws.units.Release(stop)
	ws.open()
	if j := ws.events.wait(t, j.ID); j.State != JobDone || j.Status != "2 items" || len(ws.orders) != 1 {
		t.Errorf("%+v, %d workers", j, len(ws.orders))
	}
	if got := ws.addons("maps"); got != "a.vpk one\nb.vpk two\n" {
		t.Errorf("built:\n%s", got)
	}
}

func TestTheCacheIsCollected(t *testing.T) {
	ws := newWorkshop(t, "maps", "1")
	for n := range int64(3) {
		ws.has("1", n, "a.vpk", strings.Repeat("x", int(n)+1))
		ws.build("maps", JobDone)
	}
	// The current revision and the one before it are kept.
	if got := ws.cache(); !slices.Equal(got, []string{"1-0.vpk", "1-1.vpk", "1-2.vpk"}) {
		t.Errorf("the cache has %q: what a revision had lately stays", got)
	}
	ws.cacheTime = 0
	ws.has("1", 3, "a.vpk", "xxxx")
	ws.build("maps", JobDone)
	if got := ws.cache(); !slices.Equal(got, []string{"1-2.vpk", "1-3.vpk"}) {
		t.Errorf("the cache has %q", got)
	}
	if got := ws.addons("maps"); got != "a.vpk xxxx\n" {
		t.Errorf("built:\n%s", got)
	}
}

func FuzzWorkshopResult(f *testing.F) {
	f.Add([]byte(`{"Items":[{"ID":"1","Updated":2,"Size":3,"Title":"a","Name":"b.vpk","Missing":""},{"ID":"2","Missing":"gone"}],"Collections":["3"],"Requests":1,"Fetched":0}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/"+order.ResultName, text, 0o644); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		r, err := readWorkshopResult(fd)
		if err != nil {
			return
		}
		names := map[string]bool{}
		last := store.WorkshopBuild{Items: []store.WorkshopItem{{ID: "2", File: "b.vpk", Name: "b.vpk"}, {ID: "9", File: "9.vpk"}}, Collections: []string{"8"}}
		for _, item := range composeWorkshop(r, last).Items {
			if item.File == "" {
				continue
			}
			if filepath.Base(item.File) != item.File || !strings.HasSuffix(item.File, ".vpk") || len(item.File) > 255 || names[strings.ToLower(item.File)] {
				t.Fatalf("%+v", item)
			}
			names[strings.ToLower(item.File)] = true
		}
	})
}
