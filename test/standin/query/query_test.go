package query

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
)

// A real server's answers are tested with the stand-in, in the directory above. Here it is what no good server says.

const infoBytes = "\x11Name\x00c1m1_hotel\x00left4dead2\x00Left 4 Dead 2\x00\x26\x02\x03\x08\x01dl\x01\x01" + "2.2.4.3\x00"

func TestParseInfo(t *testing.T) {
	want := ServerInfo{
		Protocol: 17, Name: "Name", Map: "c1m1_hotel", Folder: "left4dead2", Game: "Left 4 Dead 2", AppID: 550,
		Players: 3, MaxPlayers: 8, Bots: 1, Type: 'd', OS: 'l', Password: true, VAC: true, Version: "2.2.4.3",
	}
	if got, err := parseInfo([]byte(infoBytes)); err != nil || got != want {
		t.Errorf("without extra fields: %+v, error %v", got, err)
	}
	extra := "\xf1\x87\x69\x01\x02\x03\x04\x05\x06\x07\x08\x88\x69tv\x00tags\x00\x26\x02\x00\x00\x00\x00\x00\x00"
	want.Port, want.SteamID, want.Keywords, want.GameID = 27015, 0x0807060504030201, "tags", 550
	if got, err := parseInfo([]byte(infoBytes + extra)); err != nil || got != want {
		t.Errorf("with all extra fields: %+v, error %v", got, err)
	}
	for i := range len(infoBytes) {
		if got, err := parseInfo([]byte(infoBytes[:i])); err == nil {
			t.Errorf("cut off after %d bytes: %+v", i, got)
		}
	}
}

func TestParsePlayersAndRules(t *testing.T) {
	players, err := parsePlayers([]byte("\x02\x00One\x00\x05\x00\x00\x00\x00\x00\xc0\x3f\x01Two\x00\xff\xff\xff\xff\x00\x00\xc0\xff"))
	want := []Player{{"One", 5, 1500 * time.Millisecond}, {"Two", -1, 0}}
	if err != nil || !reflect.DeepEqual(players, want) {
		t.Errorf("%+v, error %v", players, err)
	}
	rules, err := parseRules([]byte("\x02\x00a\x001\x00b\x00\x00"))
	if err != nil || !reflect.DeepEqual(rules, map[string]string{"a": "1", "b": ""}) {
		t.Errorf("%+v, error %v", rules, err)
	}
	if _, err := parsePlayers([]byte("\xff")); err == nil {
		t.Error("255 players without a name each")
	}
	if _, err := parseRules([]byte("\xff\xffa\x00")); err == nil {
		t.Error("65535 rules of which none is there")
	}
}

func splitPacket(id uint32, total, number byte, piece string) []byte {
	b := binary.LittleEndian.AppendUint32([]byte("\xfe\xff\xff\xff"), id)
	return append(append(b, total, number, 0xe0, 0x04), piece...)
}

func TestAssembly(t *testing.T) {
	for name, c := range map[string]struct {
		packets [][]byte
		want    string
		wrong   bool
	}{
		"whole":               {[][]byte{[]byte("\xff\xff\xff\xffIx")}, "Ix", false},
		"in another order":    {[][]byte{splitPacket(1, 2, 1, "34"), splitPacket(1, 2, 0, "\xff\xff\xff\xff12")}, "1234", false},
		"one comes twice":     {[][]byte{splitPacket(1, 2, 1, "34"), splitPacket(1, 2, 1, "34")}, "", false},
		"the rest is missing": {[][]byte{splitPacket(1, 3, 0, "\xff\xff\xff\xff12"), splitPacket(1, 3, 2, "56")}, "", false},
		"a new one begins":    {[][]byte{splitPacket(1, 2, 0, "\xff\xff\xff\xff12"), splitPacket(2, 2, 1, "34"), splitPacket(2, 2, 0, "\xff\xff\xff\xff56")}, "5634", false},
		"no header":           {[][]byte{[]byte("12345")}, "", true},
		"nothing":             {[][]byte{nil}, "", true},
		"number too high":     {[][]byte{splitPacket(1, 2, 2, "")}, "", true},
		"of none":             {[][]byte{splitPacket(1, 0, 0, "")}, "", true},
		"compressed":          {[][]byte{splitPacket(1<<31, 1, 0, "")}, "", true},
		"headless inside":     {[][]byte{splitPacket(1, 1, 0, "1234")}, "", true},
	} {
		var a assembly
		var got []byte
		var err error
		for _, p := range c.packets {
			if got, err = a.add(p); err != nil {
				break
			}
		}
		if string(got) != c.want || (err != nil) != c.wrong {
			t.Errorf("%s: %q, error %v", name, got, err)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	if _, err := Info(context.Background(), addr); err == nil || !strings.HasPrefix(err.Error(), "cannot query "+addr) {
		t.Errorf("A2S: %v", err)
	}
	if _, err := Rcon(context.Background(), addr, "", ""); err == nil || !strings.HasPrefix(err.Error(), "cannot run a command at "+addr) {
		t.Errorf("RCON: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := WaitInfo(ctx, addr); err == nil {
		t.Error("waiting for nobody succeeded")
	}
}

func TestRconRefusesWhatCannotBeSent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, command := range []string{strings.Repeat("x", MaxBody+1), "a\x00b"} {
		if _, err := Rcon(context.Background(), l.Addr().String(), "", command); err == nil {
			t.Errorf("%.10q was sent", command)
		}
	}
}

func TestServerThatClosesAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			conn.Close()
		}
	}()
	if _, err := Rcon(context.Background(), l.Addr().String(), "x", "status"); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v", err)
	}
}

func FuzzReadPacket(f *testing.F) {
	f.Add(Packet{ID: 1, Type: ExecCommand, Body: "status"}.Append(nil))
	f.Add([]byte("\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ReadPacket(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := ReadPacket(bytes.NewReader(p.Append(nil)))
		if err != nil || again != p {
			t.Errorf("%+v comes back as %+v, error %v", p, again, err)
		}
	})
}

func FuzzA2SAnswers(f *testing.F) {
	f.Add([]byte(infoBytes))
	f.Add([]byte("\x02\x00a\x001\x00b\x00\x00"))
	f.Add(splitPacket(1, 1, 0, "\xff\xff\xff\xff12"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parseInfo(data)
		parseRules(data)
		players, _ := parsePlayers(data)
		for _, p := range players {
			if p.Duration < 0 {
				t.Errorf("a player since %v", p.Duration)
			}
		}
		var a assembly
		a.add(data)
		a.add(data)
	})
}
