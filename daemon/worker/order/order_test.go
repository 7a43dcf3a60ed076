package order

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestOrdersArriveAsTheyWereSent(t *testing.T) {
	for _, sent := range []any{
		&Install{Home: "/h", SteamCMD: "/s", Build: "1", Tries: 3, RetryDelay: 5},
		&Workshop{Items: []string{"1"}, Cached: []File{{"1", 2, 3}}, API: "http://a", Parallel: 4},
		&WorkshopResult{Items: []Item{{File: File{"1", 2, 3}, Title: "<ü>", Missing: "gone"}}, Requests: 1},
		&Script{Text: "echo \"$x\"\n", Base: "/b"},
	} {
		text, err := json.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(sent).Elem()).Interface()
		if err := Read(bytes.NewReader(text), got); err != nil || !reflect.DeepEqual(got, sent) {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
}

func TestWhatIsNoOrder(t *testing.T) {
	for _, text := range []string{"", "{", `{"Home": 1}`, `{"Hom": ""}`, `{} {}`, "\"\xff\"", `{"Home": "` + strings.Repeat("a", Max) + `"}`} {
		if err := Read(strings.NewReader(text), &Install{}); err == nil {
			t.Errorf("%.20q is taken", text)
		}
	}
}

func FuzzWorkshopResult(f *testing.F) {
	f.Add([]byte(`{"Items":[{"ID":"1","Updated":2,"Size":3,"Title":"a","Name":"b.vpk","Missing":""}],"Requests":1,"Fetched":0}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r, again WorkshopResult
		if Read(bytes.NewReader(text), &r) != nil {
			return
		}
		written, err := json.Marshal(r)
		if err != nil || Read(bytes.NewReader(written), &again) != nil || !reflect.DeepEqual(r, again) {
			t.Fatalf("%s is read as %+v, and then as %+v", text, r, again)
		}
	})
}

func TestListsAreBounded(t *testing.T) {
	text := `{"Maps": [` + strings.Repeat("{},", 2*listMax) + `{}], "Unread": null, "More": true}`
	var r MapsResult
	if err := json.Unmarshal([]byte(text), &r); err != nil || len(r.Maps) != listMax || len(r.Unread) != 0 || !r.More {
		t.Errorf("%d maps, %d unread, more %v, %v", len(r.Maps), len(r.Unread), r.More, err)
	}
	text = `{"Items": [` + strings.Repeat("{},", 2*listMax) + `{}], "Collections": [` + strings.Repeat(`"",`, 2*listMax) + `""]}`
	var w WorkshopResult
	if err := Read(strings.NewReader(text), &w); err != nil || len(w.Items) != listMax || len(w.Collections) != listMax {
		t.Errorf("%d items, %d collections, %v", len(w.Items), len(w.Collections), err)
	}
	if err := Read(strings.NewReader(`{"Items": [{"Other": 1}]}`), &w); err == nil {
		t.Error("what is not known is read")
	}
}
