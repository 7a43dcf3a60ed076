package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"
)

// The server's side of Valve's "Server queries". A request is -1 as a little-endian 32-bit number, its kind, for
// A2S_INFO a fixed text, and a challenge, which A2S_INFO may lack. Without the right challenge the answer is a challenge.
const (
	infoRequest    = 'T'
	playersRequest = 'U'
	rulesRequest   = 'V'
	infoText       = "Source Engine Query\x00"

	noChallenge = 0xffffffff

	// maxDatagram is the longest answer in one packet, in bytes; longer ones are split into pieces of splitSize.
	maxDatagram = 1400
	splitSize   = 1248
	// maxAnswer leaves room in the 255 pieces that a split answer can have.
	maxAnswer = 200 * splitSize
)

var header = []byte{0xff, 0xff, 0xff, 0xff}

type a2sRequest struct {
	kind      byte
	challenge uint32
}

func parseA2S(packet []byte) (a2sRequest, bool) {
	data, found := bytes.CutPrefix(packet, header)
	if !found || len(data) == 0 {
		return a2sRequest{}, false
	}
	r := a2sRequest{kind: data[0], challenge: noChallenge}
	data = data[1:]
	switch r.kind {
	case infoRequest:
		if data, found = bytes.CutPrefix(data, []byte(infoText)); !found {
			return a2sRequest{}, false
		}
		if len(data) < 4 {
			return r, true
		}
	case playersRequest, rulesRequest:
		if len(data) < 4 {
			return a2sRequest{}, false
		}
	default:
		return a2sRequest{}, false
	}
	r.challenge = binary.LittleEndian.Uint32(data)
	return r, true
}

func (s *server) serveA2S() {
	buffer := make([]byte, 2048)
	for id := uint32(1); ; id++ {
		n, addr, err := s.udp.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		request, ok := parseA2S(buffer[:n])
		if !ok {
			continue
		}
		for _, packet := range splitAnswer(id&0x7fffffff, s.answerA2S(request, addr.Addr().Unmap())) {
			s.udp.WriteToUDPAddrPort(packet, addr)
		}
	}
}

// answerA2S returns the answer, header included, or nothing for a server that is mute.
func (s *server) answerA2S(r a2sRequest, addr netip.Addr) []byte {
	s.lock()
	defer s.unlock()
	if s.muteA2S {
		return nil
	}
	if want := s.challenge(addr); r.challenge != want || s.denyChallenge {
		return binary.LittleEndian.AppendUint32(append(bytes.Clone(header), 'A'), want)
	}
	switch r.kind {
	case infoRequest:
		return s.a2sInfo()
	case playersRequest:
		return s.a2sPlayers()
	default:
		return s.a2sRules()
	}
}

// challenge is what an address must prove to have received.
func (s *server) challenge(addr netip.Addr) uint32 {
	if s.denyChallenge {
		rand.Read(s.secret[:])
	}
	mac := hmac.New(sha256.New, s.secret[:])
	mac.Write(addr.AsSlice())
	// Neither of the two numbers that clients send for "none".
	return binary.LittleEndian.Uint32(mac.Sum(nil))&0x7fffffff | 1
}

func (s *server) a2sInfo() []byte {
	b := append(bytes.Clone(header), 'I', 17)
	for _, text := range []string{s.value("hostname"), s.mapName, s.opt.game, "Left 4 Dead 2"} {
		b = appendText(b, text)
	}
	b = binary.LittleEndian.AppendUint16(b, appID)
	password := byte(0)
	if s.value("sv_password") != "" {
		password = 1
	}
	b = append(b, byte(min(len(s.players), 255)), byte(s.opt.maxPlayers), 0, 'd', 'l', password, 1)
	b = appendText(b, s.version())
	b = append(b, 0x80|0x20|0x01)
	b = binary.LittleEndian.AppendUint16(b, uint16(s.port))
	b = appendText(b, s.value("sv_tags"))
	return binary.LittleEndian.AppendUint64(b, appID)
}

func (s *server) a2sPlayers() []byte {
	n := min(len(s.players), 255)
	b := append(bytes.Clone(header), 'D', byte(n))
	for _, p := range s.players[:n] {
		b = appendText(append(b, 0), p.name)
		b = binary.LittleEndian.AppendUint32(b, uint32(p.score))
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(time.Since(p.joined).Seconds())))
	}
	return b
}

func (s *server) a2sRules() []byte {
	b := append(bytes.Clone(header), 'E', 0, 0)
	n := uint16(0)
	for _, name := range slices.Sorted(maps.Keys(s.cvars)) {
		c := s.cvars[name]
		if c.secret || len(b)+len(c.name)+len(c.value) > maxAnswer {
			continue
		}
		b = appendText(appendText(b, c.name), c.value)
		n++
	}
	binary.LittleEndian.PutUint16(b[len(header)+1:], n)
	return b
}

func appendText(b []byte, text string) []byte {
	return append(append(b, text...), 0)
}

// splitAnswer returns the packets in which an answer goes out. Each packet of a split one begins with -2, an id, the
// number of packets, its own number, and the size at which the server splits.
func splitAnswer(id uint32, answer []byte) [][]byte {
	if len(answer) == 0 {
		return nil
	}
	if len(answer) <= maxDatagram {
		return [][]byte{answer}
	}
	pieces := slices.Collect(slices.Chunk(answer, splitSize))
	for i, piece := range pieces {
		packet := []byte{0xfe, 0xff, 0xff, 0xff}
		packet = binary.LittleEndian.AppendUint32(packet, id)
		packet = append(packet, byte(len(pieces)), byte(i))
		packet = binary.LittleEndian.AppendUint16(packet, splitSize)
		pieces[i] = append(packet, piece...)
	}
	return pieces
}
