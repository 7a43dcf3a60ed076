package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"left4.me/left4/test/standin/query"
)

func TestA2SNeedsChallenge(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.start()
	conn, err := net.Dial("udp4", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	ask := func(request string) []byte {
		t.Helper()
		if _, err := conn.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 2048)
		n, err := conn.Read(answer)
		if err != nil {
			t.Fatal(err)
		}
		return answer[:n]
	}
	const all = "\xff\xff\xff\xff"
	for name, request := range map[string]string{
		"info":    all + "TSource Engine Query\x00",
		"players": all + "U",
		"rules":   all + "V",
	} {
		first := request
		if name != "info" {
			first += all
		}
		challenge := ask(first)
		if len(challenge) != 9 || !bytes.HasPrefix(challenge, []byte(all+"A")) {
			t.Fatalf("%s: %q is no challenge", name, challenge)
		}
		if wrong := ask(request + "abcd"); !bytes.Equal(wrong, challenge) {
			t.Errorf("%s with a wrong challenge: %q", name, wrong)
		}
		answer := ask(request + string(challenge[5:]))
		if want := map[string]byte{"info": 'I', "players": 'D', "rules": 'E'}[name]; answer[4] != want {
			t.Errorf("%s: %q", name, answer)
		}
	}
}

func TestPlayersAndRules(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.write("cfg/many.cfg", manyCvars(1000))
	g.start("+map", "c1m1_hotel")
	g.rcon("standin players 3")
	players, err := query.Players(g.context(), g.addr)
	if err != nil || len(players) != 3 || players[2].Name != "Player 3" {
		t.Errorf("players %+v, error %v", players, err)
	}
	if info := g.info(); info.Players != 3 {
		t.Errorf("A2S_INFO tells %d players", info.Players)
	}
	// An answer of many packets.
	g.rcon("exec many")
	rules, err := query.Rules(g.context(), g.addr)
	if err != nil || rules["test_999"] != "value 999" || rules["sv_gravity"] != "800" {
		t.Errorf("%d rules, error %v", len(rules), err)
	}
	if _, found := rules["rcon_password"]; found {
		t.Error("the rules tell rcon_password")
	}
	if got := g.rcon("cvarlist test_"); strings.Count(got, "\n") != 1004 || !strings.Contains(got, `"test_500" = "value 500"`) {
		t.Errorf("cvarlist has %d lines", strings.Count(got, "\n"))
	}
}

func manyCvars(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "test_%d \"value %d\"\n", i, i)
	}
	return text.String()
}

// rconClient talks RCON packet by packet.
type rconClient struct {
	t    *testing.T
	conn net.Conn
}

func newRconClient(t *testing.T, addr string) *rconClient {
	t.Helper()
	conn, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return &rconClient{t, conn}
}

func (c *rconClient) send(p query.Packet) {
	c.t.Helper()
	if _, err := c.conn.Write(p.Append(nil)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rconClient) want(want query.Packet) {
	c.t.Helper()
	got, err := query.ReadPacket(c.conn)
	if err != nil || got != want {
		c.t.Fatalf("%+v, error %v, not %+v", got, err, want)
	}
}

func (c *rconClient) wantEnd() {
	c.t.Helper()
	if p, err := query.ReadPacket(c.conn); err == nil || errors.Is(err, context.DeadlineExceeded) {
		c.t.Fatalf("the connection is not closed: %+v, %v", p, err)
	}
}

func TestRconConversation(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.start()
	c := newRconClient(t, g.addr)
	c.send(query.Packet{ID: 5, Type: query.ExecCommand, Body: "echo no"})
	c.want(query.Packet{ID: -1, Type: query.AuthResponse})
	c.send(query.Packet{ID: 6, Type: query.Auth, Body: "wrong"})
	c.want(query.Packet{ID: 6, Type: query.ResponseValue})
	c.want(query.Packet{ID: -1, Type: query.AuthResponse})
	c.send(query.Packet{ID: 7, Type: query.Auth, Body: password})
	c.want(query.Packet{ID: 7, Type: query.ResponseValue})
	c.want(query.Packet{ID: 7, Type: query.AuthResponse})
	c.send(query.Packet{ID: 8, Type: query.ExecCommand, Body: "echo yes"})
	c.want(query.Packet{ID: 8, Type: query.ResponseValue, Body: "yes\n"})
	c.send(query.Packet{ID: 9, Type: query.ResponseValue})
	c.want(query.Packet{ID: 9, Type: query.ResponseValue})
	head := make([]byte, 18)
	if _, err := io.ReadFull(c.conn, head); err != nil || string(head) != "\x0e\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00" {
		t.Errorf("after the mirrored packet: %q, error %v", head, err)
	}
	// A packet that is too long ends the connection.
	if _, err := c.conn.Write(binary.LittleEndian.AppendUint32(nil, query.MaxBody+11)); err != nil {
		t.Fatal(err)
	}
	c.wantEnd()
}

func TestRconWithoutPasswordIsClosed(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.write("cfg/server.cfg", "")
	g.start()
	if _, err := query.Rcon(g.context(), g.addr, "", "status"); !errors.Is(err, query.ErrRefused) {
		t.Errorf("error %v", err)
	}
}

func TestRconBansAfterFailures(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.start()
	for range 5 {
		if _, err := query.Rcon(g.context(), g.addr, "wrong", "status"); !errors.Is(err, query.ErrRefused) {
			t.Fatalf("error %v", err)
		}
	}
	if _, err := query.Rcon(g.context(), g.addr, password, "status"); !errors.Is(err, query.ErrClosed) {
		t.Errorf("a banned address: error %v", err)
	}
	g.info()
	g.rconFrom("127.0.0.9", "removeip 127.0.0.1")
	g.rcon("status")
}

// rconFrom runs a command from another address of this machine.
func (g *game) rconFrom(ip, command string) {
	g.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	conn, err := dialer.Dial("tcp4", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	c := &rconClient{g.t, conn}
	c.send(query.Packet{ID: 1, Type: query.Auth, Body: password})
	c.want(query.Packet{ID: 1, Type: query.ResponseValue})
	c.want(query.Packet{ID: 1, Type: query.AuthResponse})
	c.send(query.Packet{ID: 2, Type: query.ExecCommand, Body: command})
	c.want(query.Packet{ID: 2, Type: query.ResponseValue})
}

func TestPasswordChangeDropsSessions(t *testing.T) {
	t.Parallel()
	g := newGame(t)
	g.start()
	login := func() *rconClient {
		c := newRconClient(t, g.addr)
		c.send(query.Packet{ID: 1, Type: query.Auth, Body: password})
		c.want(query.Packet{ID: 1, Type: query.ResponseValue})
		c.want(query.Packet{ID: 1, Type: query.AuthResponse})
		return c
	}
	idle, busy := login(), login()
	busy.send(query.Packet{ID: 2, Type: query.ExecCommand, Body: "rcon_password \"" + password + "\""})
	busy.want(query.Packet{ID: 2, Type: query.ResponseValue, Body: "\"rcon_password\" = \"***PROTECTED***\"\n"})
	busy.send(query.Packet{ID: 3, Type: query.ExecCommand, Body: "rcon_password other"})
	busy.want(query.Packet{ID: 3, Type: query.ResponseValue, Body: "\"rcon_password\" = \"***PROTECTED***\"\n"})
	busy.wantEnd()
	idle.wantEnd()
	if _, err := query.Rcon(g.context(), g.addr, "other", "status"); err != nil {
		t.Error(err)
	}
}

func FuzzParseA2S(f *testing.F) {
	for _, seed := range []string{"", "\xff\xff\xff\xffTSource Engine Query\x00", "\xff\xff\xff\xffTSource Engine Query\x00abcd", "\xff\xff\xff\xffUabcd", "\xff\xff\xff\xffV"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, ok := parseA2S(packet)
		if ok && (!bytes.HasPrefix(packet, header) || packet[4] != r.kind) {
			t.Errorf("%q is taken for %+v", packet, r)
		}
	})
}

// Whatever a server has to say, the pieces are whole, in order, and small enough for any network.
func FuzzSplitAnswer(f *testing.F) {
	f.Add(uint32(1), 1400)
	f.Add(uint32(2), 1401)
	f.Add(uint32(3), maxAnswer)
	f.Fuzz(func(t *testing.T, id uint32, size int) {
		if size <= 0 || size > maxAnswer {
			return
		}
		answer := bytes.Repeat([]byte("0123456"), size/7+1)[:size]
		packets := splitAnswer(id, answer)
		if len(packets) == 1 {
			if !bytes.Equal(packets[0], answer) {
				t.Fatal("a short answer was changed")
			}
			return
		}
		var whole []byte
		for i, p := range packets {
			if len(p) > maxDatagram || string(p[:4]) != "\xfe\xff\xff\xff" || int(p[8]) != len(packets) || int(p[9]) != i {
				t.Fatalf("packet %d of %d: %q", i, len(packets), p[:12])
			}
			whole = append(whole, p[12:]...)
		}
		if !bytes.Equal(whole, answer) {
			t.Fatal("the pieces are not the answer")
		}
	})
}
