package main

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"

	"left4.me/left4/test/standin/query"
)

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		stderr string
	}{
		{"", 2, "usage: left4-query"},
		{"a b", 2, "usage: left4-query"},
		{"--frobnicate a", 2, "flag provided but not defined: -frobnicate"},
		{"--help", 0, "usage: left4-query"},
		{"nowhere", 1, "left4-query: cannot query nowhere: "},
		{"--rcon status --timeout 1s nowhere", 1, "left4-query: cannot run a command at nowhere: "},
	} {
		var stdout, stderr strings.Builder
		status := run(strings.Fields(c.args), strings.NewReader(""), &stdout, &stderr)
		if status != c.status || stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), c.stderr) {
			t.Errorf("%q: status %d, printed %q and %q", c.args, status, &stdout, &stderr)
		}
	}
}

func TestInfoIsOneLine(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		buffer := make([]byte, 100)
		if _, addr, err := conn.ReadFrom(buffer); err == nil {
			answer := "\xff\xff\xff\xffI\x11two\nlines\x00m p\x00left4dead2\x00x\x00\x26\x02\x01\x08\x00dl\x00\x01" + "2.2\x00"
			conn.WriteTo([]byte(answer), addr)
		}
	}()
	var stdout, stderr strings.Builder
	addr := conn.LocalAddr().String()
	status := run([]string{"--wait", addr}, strings.NewReader(""), &stdout, &stderr)
	want := addr + ` "two\nlines" map="m p" players=1/8 bots=0 password=false game=left4dead2 version=2.2` + "\n"
	if status != 0 || stdout.String() != want || stderr.Len() > 0 {
		t.Errorf("status %d, printed %q and %q, not %q", status, &stdout, &stderr, want)
	}
}

func TestRconReadsThePassword(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		login, _ := query.ReadPacket(conn)
		if login.Body != "pass word" {
			login.ID = -1
		}
		conn.Write(query.Packet{ID: login.ID, Type: query.AuthResponse}.Append(nil))
		for {
			p, err := query.ReadPacket(conn)
			if err != nil {
				return
			}
			conn.Write(query.Packet{ID: p.ID, Type: query.ResponseValue, Body: strings.ToUpper(p.Body)}.Append(nil))
		}
	}()
	var stdout, stderr strings.Builder
	status := run([]string{"--rcon", "status now", l.Addr().String()}, strings.NewReader("pass word\nsecond line"), &stdout, &stderr)
	if status != 0 || stdout.String() != "STATUS NOW" {
		t.Errorf("status %d, printed %q and %q", status, &stdout, &stderr)
	}
}

func TestListsArePrinted(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		buffer := make([]byte, 100)
		for {
			_, addr, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			answer := []byte("\xff\xff\xff\xffD\x01\x00A \"B\"\x00\x07\x00\x00\x00")
			answer = binary.LittleEndian.AppendUint32(answer, 0x42700000)
			if buffer[4] == 'V' {
				answer = []byte("\xff\xff\xff\xffE\x02\x00b\x002\x00a\x001\x00")
			}
			conn.WriteTo(answer, addr)
		}
	}()
	for option, want := range map[string]string{
		"--players": "\"A \\\"B\\\"\" score=7 time=1m0s\n",
		"--rules":   "a = \"1\"\nb = \"2\"\n",
	} {
		var stdout, stderr strings.Builder
		if status := run([]string{option, conn.LocalAddr().String()}, strings.NewReader(""), &stdout, &stderr); status != 0 || stdout.String() != want {
			t.Errorf("%s: status %d, printed %q and %q", option, status, &stdout, &stderr)
		}
	}
}
