package ctl

import (
	"context"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"
	"time"
)

func TestJournalEntries(t *testing.T) {
	for _, tt := range []struct {
		line string
		want entry // nil is an error
	}{
		{`{}`, entry{}},
		{`{"MESSAGE":"plain ü","_PID":"1"}`, entry{"MESSAGE": "plain ü", "_PID": "1"}},
		{`{"MESSAGE":""}`, entry{"MESSAGE": ""}},
		{`{"MESSAGE":[27,91,50,74,255,0]}`, entry{"MESSAGE": "\x1b[2J\xff\x00"}},        // no printable text
		{`{"MESSAGE":[]}`, entry{"MESSAGE": ""}},                                        // nothing at all
		{`{"MESSAGE":null,"_PID":"1"}`, entry{"_PID": "1"}},                             // too big
		{`{"LEFT4_JOB":["1","2"]}`, entry{"LEFT4_JOB": "1"}},                            // twice
		{`{"LEFT4_JOB":[[49,50],"2"]}`, entry{"LEFT4_JOB": "12"}},                       // twice, the first as bytes
		{`{"A":[null,"2"],"B":"x"}`, entry{"B": "x"}},                                   // twice, the first too big
		{` {"A" : "x" , "B" : [ 65 , 66 ] , "C" : null } `, entry{"A": "x", "B": "AB"}}, // as a person would write it
		{`{"MESSAGE":"\u001b[2J\u202e"}`, entry{"MESSAGE": "\x1b[2J\u202e"}},
		{`{"A":{}}`, nil}, {`{"A":1}`, nil}, {`{"A":true}`, nil}, {`{"A":[256]}`, nil}, {`{"A":[-1]}`, nil}, {`{"A":[1.5]}`, nil},
		{`{"A":[[[1]]]}`, nil}, {`{"A":[1,"x"]}`, nil}, {`{"A":[{}]}`, nil}, {`[]`, nil}, {`{`, nil}, {``, nil}, {`-- No entries --`, nil},
	} {
		got, err := parseEntry([]byte(tt.line))
		if (err != nil) != (tt.want == nil) || !maps.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v", tt.line, got, err)
		}
	}
}

func FuzzJournalEntry(f *testing.F) {
	for _, s := range []string{
		`{"__REALTIME_TIMESTAMP":"1700000000000000","MESSAGE":"x","LEFT4_INSTANCE":[[97],"b"],"LEFT4_CALLER":null}`,
		`{"MESSAGE":[27,91,50,74]}`, `{"A":[]}`, `{"A":[null]}`, `{"__REALTIME_TIMESTAMP":"-1"}`, "{\"A\":\n\t[ 1 ]}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parseEntry(line)
		if err != nil {
			return
		}
		if text := clean(logLine(e)); strings.ContainsFunc(text, func(r rune) bool { return !harmless(r) }) {
			t.Errorf("%q", text)
		}
	})
}

// What journalctl writes decides, and a program that reads no further ends it.
func TestReadingTheJournal(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	script := func(text string) {
		if err := os.WriteFile(dir+"/journalctl", []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	v := newInvocation(t.Context(), "", nil, nil, nil)
	read := func(ctx context.Context, stop error) (n int, err error) {
		err = v.readJournal(ctx, nil, func(entry) error { n++; return stop })
		return n, err
	}
	script(`echo '{"MESSAGE":"a"}'; echo -- No entries --; printf '{"MESSAGE":"%02000000d"}\n' 0; echo; printf '{"MESSAGE":"b"}'`)
	if n, err := read(t.Context(), nil); n != 2 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
	enough := errors.New("enough")
	script(`while :; do echo '{"MESSAGE":"a"}'; done`)
	if n, err := read(t.Context(), enough); n != 1 || err != enough {
		t.Errorf("%d entries, %v", n, err)
	}
	script(`exec sleep 1000`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := read(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	script(`echo one >&2; echo two >&2; exit 3`)
	if _, err := read(t.Context(), nil); err == nil || err.Error() != "journalctl: two" {
		t.Error(err)
	}
	script(`exit 3`)
	if _, err := read(t.Context(), nil); err == nil || err.Error() != "journalctl: exit status 3" {
		t.Error(err)
	}
	os.Remove(dir + "/journalctl")
	t.Setenv("PATH", dir)
	if _, err := read(t.Context(), nil); err != errNoJournalctl {
		t.Error(err)
	}
}
