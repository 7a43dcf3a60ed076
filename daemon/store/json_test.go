package store

import (
	"reflect"
	"testing"

	"left4.me/left4/units"
)

// A column that somebody has changed by hand is refused or read; what was read and is written is read as the same.
func FuzzJSONColumn(f *testing.F) {
	for _, text := range []string{
		`["+map","c1m1_hotel"]`, `[{"Overlay":"sm","Alias":"*"}]`, `{"MemoryMax":18446744073709551615,"AllowedCPUs":"Aw=="}`,
		`{"Merge":true,"Remove":["a\\x0a"],"Base":2,"Into":"left4dead2","FilesFrom":"b","FilesMade":1}`, `{"Keep":3}`, `null`, `[`, `{"MemoryMax":-1}`, "",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		column[[]string](t, text)
		column[[]OverlayRef](t, text)
		column[units.Limits](t, text)
		column[Parameters](t, text)
		column[OverlayConfig](t, text)
	})
}

func column[T any](t *testing.T, text string) {
	t.Helper()
	var j, again JSON[T]
	if j.Scan(text) != nil {
		return
	}
	v, err := j.Value()
	if err != nil {
		t.Fatalf("%q is read, but not written: %v", text, err)
	}
	if err := again.Scan(v); err != nil {
		t.Fatalf("%q is written as %q: %v", text, v, err)
	}
	// An empty list that may be left out is none when it is read again.
	if once, _ := again.Value(); !reflect.DeepEqual(again, j) && once != v {
		t.Fatalf("%q is %+v, and then %+v", text, j, again)
	}
}
