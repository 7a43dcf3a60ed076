package ctl

import (
	"slices"
	"testing"
)

func TestPatterns(t *testing.T) {
	all := []string{"coop", "versus-1", "versus-10", "versus-2"}
	for _, tt := range []struct{ given, names, unmatched []string }{
		{nil, nil, nil},
		{[]string{"x", "coop", "x"}, []string{"x", "coop"}, nil}, // names are taken as they are
		{[]string{"versus-?"}, []string{"versus-1", "versus-2"}, nil},
		{[]string{"*"}, all, nil},
		{[]string{"versus-2", "v*"}, []string{"versus-2", "versus-1", "versus-10"}, nil},
		{[]string{"versus-[!1]", "[^v]*"}, []string{"versus-2", "coop"}, nil},
		{[]string{"x*", "c*", "y?"}, []string{"coop"}, []string{"x*", "y?"}},
		{[]string{"versus"}, []string{"versus"}, nil}, // a pattern matches the whole
		{[]string{"?ersus"}, nil, []string{"?ersus"}},
	} {
		names, unmatched := expand(tt.given, all)
		if !slices.Equal(names, tt.names) || !slices.Equal(unmatched, tt.unmatched) {
			t.Errorf("%q: %q and %q, not %q and %q", tt.given, names, unmatched, tt.names, tt.unmatched)
		}
	}
	for pattern, bad := range map[string]bool{"[": true, "a[b": true, "[]": true, "a*[!x]?": false, "plain": false} {
		if err := checkPatterns([]string{"ok", pattern}); (err != nil) != bad {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}
