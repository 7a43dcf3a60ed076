package units

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestAnswerInspection(t *testing.T) {
	if trusted() != nil {
		t.Skip("not root")
	}
	l := Layout{State: t.TempDir(), Run: t.TempDir()}
	for path, text := range map[string]string{
		"overlays/2/1/d/a": "overlay", "game/1/d/a": "game", "game/1/srcds_run": "", "runtime/up/upper/d/a": "server", "runtime/up/upper/b\xff\n": "",
	} {
		path = filepath.Join(l.State, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	lower := []string{"overlays/2/1", "game/1"}
	for _, c := range []struct {
		question Inspection
		want     Findings
	}{
		{Inspection{Instance: "new", Lower: lower, Path: []byte("d/a")},
			Findings{Found: []Found{{0, "file", false}, {1, "file", true}}}},
		{Inspection{Instance: "up", Lower: lower, Path: []byte("d/a")},
			Findings{Upper: true, Found: []Found{{0, "file", false}, {1, "file", true}, {2, "file", true}}}},
		{Inspection{Instance: "up", Lower: lower, Path: []byte("b\xff\n")},
			Findings{Upper: true, Found: []Found{{0, "file", false}}}},
		{Inspection{Instance: "up", Lower: lower, Changes: true, Max: 10},
			Findings{Upper: true, Changes: []Change{{`b\xff\x0a`, "added", 0}, {"d/a", "changed", 6}}}},
		{Inspection{Instance: "up", Lower: lower, Changes: true, Max: 1},
			Findings{Upper: true, Changes: []Change{{`b\xff\x0a`, "added", 0}}, More: true}},
		{Inspection{Instance: "new", Lower: lower, Changes: true, Max: 10}, Findings{}},
	} {
		text, err := json.Marshal(c.question)
		must(t, err)
		var out bytes.Buffer
		must(t, l.AnswerInspection(context.Background(), bytes.NewReader(text), &out))
		var got Findings
		must(t, json.Unmarshal(out.Bytes(), &got))
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: %+v, want %+v", c.question, got, c.want)
		}
	}
	for _, question := range []string{"", "{", `{"Instance":"../x"}`, `{"Instance":"a","Lower":["../etc"]}`, `{"Instance":"a","Lower":["game/9"]}`} {
		var out bytes.Buffer
		err := l.AnswerInspection(context.Background(), strings.NewReader(question), &out)
		var got Findings
		if err == nil && json.Unmarshal(out.Bytes(), &got) == nil && got.Error == "" {
			t.Errorf("%q was answered: %+v", question, got)
		}
	}
}
