package main

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"left4.me/left4/test/standin/query"
)

// rconWriteTimeout ends the connection of a client that does not take its answers.
const rconWriteTimeout = 10 * time.Second

func (s *server) serveRcon() {
	for {
		conn, err := s.tcp.Accept()
		if err != nil {
			return
		}
		go s.rconSession(conn)
	}
}

func (s *server) rconSession(conn net.Conn) {
	defer conn.Close()
	addr := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if !s.openSession(conn, addr) {
		return
	}
	defer s.closeSession(conn)
	loggedIn := false
	for {
		request, err := query.ReadPacket(conn)
		if err != nil {
			return
		}
		var answers []query.Packet
		switch {
		case request.Type == query.Auth:
			loggedIn = s.rconLogin(conn, addr, request.Body)
			verdict := query.Packet{ID: request.ID, Type: query.AuthResponse}
			if !loggedIn {
				verdict.ID = -1
			}
			answers = []query.Packet{{ID: request.ID, Type: query.ResponseValue}, verdict}
		case !loggedIn:
			s.rconFailed(conn, addr)
			answers = []query.Packet{{ID: -1, Type: query.AuthResponse}}
		case request.Type == query.ExecCommand:
			answers = splitReply(request.ID, s.rconCommand(conn, request.Body))
		case request.Type == query.ResponseValue:
			// The engine mirrors it, and sends this after it.
			answers = []query.Packet{
				{ID: request.ID, Type: query.ResponseValue},
				{ID: request.ID, Type: query.ResponseValue, Body: "\x00\x01\x00\x00"},
			}
		}
		var data []byte
		for _, p := range answers {
			data = p.Append(data)
		}
		conn.SetWriteDeadline(time.Now().Add(rconWriteTimeout))
		if _, err := conn.Write(data); err != nil {
			return
		}
	}
}

// splitReply puts the output of a command into as many packets as it needs, one at least.
func splitReply(id int32, text string) []query.Packet {
	packets := []query.Packet{}
	for len(text) > query.MaxBody {
		packets = append(packets, query.Packet{ID: id, Type: query.ResponseValue, Body: text[:query.MaxBody]})
		text = text[query.MaxBody:]
	}
	return append(packets, query.Packet{ID: id, Type: query.ResponseValue, Body: text})
}

// openSession refuses banned addresses.
func (s *server) openSession(conn net.Conn, addr netip.Addr) bool {
	s.lock()
	defer s.unlock()
	if s.banned(addr) {
		s.log("rcon from %q: banned", conn.RemoteAddr())
		return false
	}
	s.sessions[conn] = true
	return true
}

func (s *server) closeSession(conn net.Conn) {
	s.lock()
	defer s.unlock()
	delete(s.sessions, conn)
}

// dropSessions ends every RCON session; the one whose command asked for it gets its answer first.
func (s *server) dropSessions() {
	for conn := range s.sessions {
		conn.SetReadDeadline(time.Unix(1, 0))
	}
}

func (s *server) rconLogin(conn net.Conn, addr netip.Addr, password string) bool {
	s.lock()
	want := s.value("rcon_password")
	s.unlock()
	// An empty password lets nobody in.
	if want == "" || password != want {
		s.rconFailed(conn, addr)
		return false
	}
	return true
}

// rconFailed bans an address that failed sv_rcon_minfailures times within sv_rcon_minfailuretime seconds, or
// sv_rcon_maxfailures times in all, for sv_rcon_banpenalty minutes, where 0 is for ever.
func (s *server) rconFailed(conn net.Conn, addr netip.Addr) {
	s.lock()
	defer s.unlock()
	s.log("rcon from %q: Bad Password", conn.RemoteAddr())
	now := time.Now()
	all := append(s.failures[addr], now)
	s.failures[addr] = all
	since := now.Add(-time.Duration(s.number("sv_rcon_minfailuretime")) * time.Second)
	first, _ := slices.BinarySearchFunc(all, since, time.Time.Compare)
	if len(all)-first < max(s.number("sv_rcon_minfailures"), 1) && len(all) < max(s.number("sv_rcon_maxfailures"), 1) {
		return
	}
	s.log("Banning %s for rcon hacking attempts", addr)
	s.ban(addr, s.number("sv_rcon_banpenalty"))
	delete(s.failures, addr)
	for other := range s.sessions {
		if other.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap() == addr {
			other.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

// rconCommand runs a command and returns what it printed.
func (s *server) rconCommand(conn net.Conn, text string) string {
	s.lock()
	defer s.unlock()
	s.log("rcon from %q: command %q", conn.RemoteAddr(), text)
	var reply strings.Builder
	s.reply = &reply
	defer func() { s.reply = nil }()
	s.execute(text)
	return reply.String()
}
