package doc

import (
	"reflect"
	"testing"
)

// Parse reads what is written by hand: it complains, or it has read it, and always the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`<node><interface name="a"><method name="m"><arg type="s"/></method></interface></node>`))
	f.Add([]byte(`<interface><!-- x --><signal/><property name="p"/>`))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := Parse(text)
		again, err2 := Parse(text)
		if (err == nil) != (err2 == nil) || !reflect.DeepEqual(all, again) {
			t.Fatalf("%v, then %v", err, err2)
		}
	})
}
