package daemon

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/order"
)

// The worker sees the layers of the instance, highest first, and nothing else; who it answers with are people's names.
func TestMapsOfAnInstance(t *testing.T) {
	w := newWorld(t)
	w.overlay("high", map[string]string{"left4dead2/x": "x"})
	w.overlay("low", map[string]string{"left4dead2/x": "x"})
	if _, err := w.CreateInstance("a", Changes{Overlays: &[]store.OverlayRef{{Overlay: "high"}, {Overlay: "low"}}}, 0); err != nil {
		t.Fatal(err)
	}
	w.units.Answer(`{"Maps":[{"Name":"m","Campaign":"C","Modes":["coop"],"Layer":1,"File":"f"},{"Name":"g","Layer":2,"File":"g"}]}`)
	got, err := w.InstanceMaps(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Maps) != 2 || got.Maps[0].Layer != "low" || got.Maps[1].Layer != "game" || got.More {
		t.Errorf("%+v", got)
	}
	var q order.Maps
	if err := json.Unmarshal(w.units.Consulted.Order, &q); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, layer := range []string{"overlays/1/2", "overlays/2/2", "game/1"} {
		want = append(want, filepath.Join(w.Layout.State, layer))
	}
	if !slices.Equal(q.Layers, want) || !slices.Equal(w.units.Consulted.Readable, want) || w.units.Consulted.User != "left4" || w.units.Consulted.Writable != nil {
		t.Errorf("asked of %q with %+v", q.Layers, w.units.Consulted)
	}
	if _, err := w.InstanceMaps(t.Context(), "none"); AsCode(err) != NoSuchInstance {
		t.Error(err)
	}
	if _, err := w.OverlayMaps(t.Context(), "none", 0); AsCode(err) != NoSuchOverlay {
		t.Error(err)
	}
	if _, err := w.OverlayMaps(t.Context(), "low", 9); AsCode(err) != InvalidArgument {
		t.Error(err)
	}
	if got, err := w.OverlayMaps(t.Context(), "low", 0); err != nil || len(got.Maps) != 0 {
		t.Errorf("what is of no layer that was asked of: %+v, %v", got, err)
	}
	w.units.Fail = map[string]error{"consult maps": errors.New("no answer")}
	if _, err := w.InstanceMaps(t.Context(), "a"); err == nil || err.Error() != "cannot look for the maps of a: no answer" {
		t.Error(err)
	}
}

// A worker may have been taken over by what it read.
func TestNoAnswerAboutMapsIsBelieved(t *testing.T) {
	w := newWorld(t)
	w.overlay("o", map[string]string{"x": "x"})
	var r order.MapsResult
	for range maxRows + 1 {
		r.Maps = append(r.Maps, order.Map{Name: strings.Repeat("m", 100)})
	}
	for _, bad := range []order.Map{{Name: ""}, {Name: "a", Layer: -1}, {Name: "b", Layer: 1}, {Name: "c\x00"}, {Name: strings.Repeat("d", 20_000)}} {
		r.Maps = slices.Insert(r.Maps, 0, bad)
		r.Unread = append(r.Unread, order.Unread{Layer: bad.Layer, File: bad.Name})
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	w.units.Answer(string(text))
	got, err := w.OverlayMaps(t.Context(), "o", 0)
	if err != nil || len(got.Maps) != maxRows || !got.More || len(got.Unread) != 1 {
		t.Errorf("%d maps, more %v, %d unread, %v", len(got.Maps), got.More, len(got.Unread), err)
	}
	for _, m := range got.Maps {
		if m.Name[0] != 'm' || m.Layer != "o" {
			t.Fatalf("%.100v", m)
		}
	}
	for n := range r.Maps {
		r.Maps[n] = order.Map{Name: "m", File: strings.Repeat("f", 4000)}
	}
	if text, err = json.Marshal(r); err != nil {
		t.Fatal(err)
	}
	w.units.Answer(string(text))
	if got, err = w.OverlayMaps(t.Context(), "o", 0); err != nil || !got.More || len(got.Maps)*4000 > maxAnswer {
		t.Errorf("%d maps, more %v, %v", len(got.Maps), got.More, err)
	}
}
