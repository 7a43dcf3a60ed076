package vpk

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestNamesAreThoseThatItWasMadeOf(t *testing.T) {
	want := []string{"addoninfo.txt", "maps/a.bsp", "missions/a.txt"}
	archive := Make(want, map[string][]byte{"maps/a.bsp": []byte("VBSP"), "missions/a.txt": []byte(Mission("a", []string{"a"}))})
	if got := Names(bytes.NewReader(archive)); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	for _, other := range []string{"", "PK", strings.Repeat("x", 100), string(archive[:20])} {
		if got := Names(strings.NewReader(other)); got != nil {
			t.Errorf("%q has %q", other, got)
		}
	}
}
