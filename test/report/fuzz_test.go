package report

import (
	"io"
	"strings"
	"testing"
)

func FuzzRead(f *testing.F) {
	f.Add(`{"table":"abuse","name":"x","figures":[{"name":"n","value":1}],"goal":"1","met":true}`)
	f.Add(`{"name":"a|b\nc","figures":null}{"figures":[{"value":1e300,"unit":"ms"}]}`)
	f.Add(`{`)
	f.Fuzz(func(t *testing.T, rows string) {
		r, err := Read(strings.NewReader(rows))
		if err != nil {
			return
		}
		if r.Missed() > len(r.Rows) {
			t.Fatalf("%d of %d rows are missed", r.Missed(), len(r.Rows))
		}
		if err := r.WriteText(io.Discard); err != nil {
			t.Fatal(err)
		}
		if err := r.WriteMarkdown(io.Discard); err != nil {
			t.Fatal(err)
		}
	})
}
