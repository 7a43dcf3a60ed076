package ctl

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"left4.me/left4/dbus/names"
)

// calledEntry is an entry of the audit trail with some fields of its own.
func calledEntry(fields string) string {
	return `{"MESSAGE_ID":"` + names.MessageCall + `","_SYSTEMD_UNIT":"left4d.service","__REALTIME_TIMESTAMP":"1700000000000000"` + fields + `}`
}

func TestCallsInTheJournal(t *testing.T) {
	zone := time.Local
	time.Local = time.UTC
	defer func() { time.Local = zone }()
	for _, tt := range []struct {
		line string
		want []string // nil is no call
	}{
		{calledEntry(``), []string{"2023-11-14 22:13:20 UTC", "", "", "", "", "", ""}},
		{
			calledEntry(`,"LEFT4_METHOD":"StopInstance","LEFT4_RESULT":"allowed","LEFT4_CALLER_UID":"1000","LEFT4_CALLER":"alice","LEFT4_INSTANCE":"a","LEFT4_JOB":"7"`),
			[]string{"2023-11-14 22:13:20 UTC", "alice (1000)", "StopInstance", "a", "allowed", "7", ""},
		},
		{ // bytes that are no text, twice, too big
			calledEntry(`,"LEFT4_METHOD":[255],"LEFT4_CALLER":[[97],"b"],"LEFT4_INSTANCE":null,"LEFT4_CALLER_UID":"4294967296","LEFT4_JOB":"-1"`),
			[]string{"2023-11-14 22:13:20 UTC", "a", "\xff", "", "", "", ""},
		},
		{
			calledEntry(`,"LEFT4_ACTION":"me.left4.game.install","LEFT4_ERROR":"org.freedesktop.DBus.Error.AccessDenied","LEFT4_UNTOLD":"12"`),
			[]string{"2023-11-14 22:13:20 UTC", "", "", "game", "", "", "AccessDenied (12 more before it)"},
		},
		{`{"MESSAGE_ID":"` + names.MessageCall + `"}`, nil},
		{`{"MESSAGE_ID":"` + names.MessageCall + `","_SYSTEMD_UNIT":"user@1000.service"}`, nil},
		{`{"MESSAGE_ID":"` + names.MessageCall + `","_SYSTEMD_UNIT":["left4d.service"],"_SYSTEMD_UNIT":"x"}`, nil},
		{`{"MESSAGE_ID":"` + names.MessageJob + `","_SYSTEMD_UNIT":"left4d.service"}`, nil},
		{`{"_SYSTEMD_UNIT":"left4d.service"}`, nil},
	} {
		e, err := parseEntry([]byte(tt.line))
		if err != nil {
			t.Fatal(err)
		}
		c, ok := parseCall(e)
		if ok != (tt.want != nil) {
			t.Errorf("%s: %v", tt.line, ok)
		} else if ok && !slices.Equal(c.row(), tt.want) {
			t.Errorf("%s: %q", tt.line, c.row())
		}
	}
}

func FuzzCall(f *testing.F) {
	f.Add([]byte(calledEntry(`,"LEFT4_METHOD":"x\u001b[2J","LEFT4_CALLER":[27],"LEFT4_CALLER_UID":"1","LEFT4_OVERLAY":"sm","LEFT4_UNTOLD":"1"`)))
	f.Add([]byte(calledEntry(`,"MESSAGE":[1,2],"LEFT4_JOB":null,"LEFT4_BLUEPRINT":["a",[98],null]`)))
	f.Add([]byte(calledEntry(`,"__CURSOR":"s=1;i=2"`)))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parseEntry(line)
		if err != nil {
			return
		}
		e["MESSAGE_ID"], e["_SYSTEMD_UNIT"] = names.MessageCall, left4dUnit
		c, ok := parseCall(e)
		if !ok {
			t.Fatal("it is a call")
		}
		var out strings.Builder
		v := newInvocation(t.Context(), "", nil, &out, nil)
		v.gridRow(make([]int, len(callHeadings)), c.row(), nil)
		if line := strings.TrimSuffix(out.String(), "\n"); clean(line) != line {
			t.Errorf("%q", line)
		}
		out.Reset()
		if err := printJSONLine(&out, c.asJSON()); err != nil || strings.Count(out.String(), "\n") != 1 || !json.Valid([]byte(out.String())) {
			t.Errorf("%q: %v", out.String(), err)
		}
	})
}
