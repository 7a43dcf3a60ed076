package query

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"time"
)

// ServerInfo is the answer to A2S_INFO.
type ServerInfo struct {
	Protocol   byte
	Name       string // the cvar hostname
	Map        string
	Folder     string // the game directory, "left4dead2"
	Game       string // the game's name for people
	AppID      uint16
	Players    byte // bots included
	MaxPlayers byte
	Bots       byte
	Type       byte // 'd': dedicated
	OS         byte // 'l': Linux
	Password   bool
	VAC        bool
	Version    string
	Port       uint16 // 0 when the server does not tell it
	SteamID    uint64 // 0 likewise
	Keywords   string // the cvar sv_tags
	GameID     uint64 // 0 likewise
}

// Player is one entry of the answer to A2S_PLAYER.
type Player struct {
	Name     string
	Score    int32
	Duration time.Duration // since the player joined
}

// ErrChallenge says that the server accepts none of the challenges that it gives out.
var ErrChallenge = errors.New("challenge refused")

// The packets of A2S, from Valve's page "Server queries": each starts with -1, a split one with -2, both as a
// little-endian 32-bit number, then comes the kind.
const (
	single = 0xffffffff
	split  = 0xfffffffe

	infoRequest      = 'T'
	playersRequest   = 'U'
	rulesRequest     = 'V'
	challengeAnswer  = 'A'
	infoAnswer       = 'I'
	playersAnswer    = 'D'
	rulesAnswer      = 'E'
	infoRequestText  = "Source Engine Query\x00"
	maxChallenges    = 3
	resendAfter      = time.Second
	maxDatagram      = 64 << 10
	splitHeaderBytes = 12
)

// Info sends A2S_INFO to addr (HOST:PORT, UDP). Requests are sent again every second until the context ends, or for
// DefaultTimeout if it has no deadline. A closed port is an error at once.
func Info(ctx context.Context, addr string) (ServerInfo, error) {
	var info ServerInfo
	err := ask(ctx, addr, infoRequest, infoAnswer, func(data []byte) (err error) {
		info, err = parseInfo(data)
		return err
	})
	return info, err
}

// Players sends A2S_PLAYER; see Info.
func Players(ctx context.Context, addr string) ([]Player, error) {
	var players []Player
	err := ask(ctx, addr, playersRequest, playersAnswer, func(data []byte) (err error) {
		players, err = parsePlayers(data)
		return err
	})
	return players, err
}

// Rules sends A2S_RULES, which is answered with the public cvars; see Info.
func Rules(ctx context.Context, addr string) (map[string]string, error) {
	var rules map[string]string
	err := ask(ctx, addr, rulesRequest, rulesAnswer, func(data []byte) (err error) {
		rules, err = parseRules(data)
		return err
	})
	return rules, err
}

func ask(ctx context.Context, addr string, request, answer byte, parse func([]byte) error) error {
	err := exchange(ctx, "udp", addr, func(conn net.Conn) error {
		data, err := requestAnswer(conn, request, answer)
		if err != nil {
			return err
		}
		return parse(data)
	})
	if err != nil {
		return fmt.Errorf("cannot query %s: %w", addr, err)
	}
	return nil
}

// requestAnswer returns what follows the kind in the answer.
func requestAnswer(conn net.Conn, request, answer byte) ([]byte, error) {
	challenge := uint32(single)
	refusals := 0
	var parts assembly
	buffer := make([]byte, maxDatagram)
	for {
		if _, err := conn.Write(encodeRequest(request, challenge)); err != nil {
			return nil, err
		}
		conn.SetReadDeadline(time.Now().Add(resendAfter))
	answers:
		for {
			n, err := conn.Read(buffer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break answers
			}
			if err != nil {
				return nil, err
			}
			data, err := parts.add(buffer[:n])
			if err != nil {
				return nil, err
			}
			switch {
			case len(data) == 0:
			case data[0] == challengeAnswer && len(data) == 5:
				if refusals++; refusals > maxChallenges {
					return nil, ErrChallenge
				}
				challenge = binary.LittleEndian.Uint32(data[1:])
				break answers
			case data[0] == answer:
				return data[1:], nil
			}
		}
	}
}

func encodeRequest(kind byte, challenge uint32) []byte {
	data := binary.LittleEndian.AppendUint32(nil, single)
	data = append(data, kind)
	if kind == infoRequest {
		data = append(data, infoRequestText...)
		if challenge == single {
			return data
		}
	}
	return binary.LittleEndian.AppendUint32(data, challenge)
}

// assembly joins the packets of a split answer: -2, an id, the number of packets, this one's number, the size limit of
// a packet (16 bits), a piece of the answer, which has a header of its own.
type assembly struct {
	id     uint32
	pieces [][]byte
	left   int
}

// add returns the answer without its header when the packet completes one, else nothing.
func (a *assembly) add(packet []byte) ([]byte, error) {
	if len(packet) < 4 {
		return nil, errShort
	}
	switch binary.LittleEndian.Uint32(packet) {
	case single:
		return bytes.Clone(packet[4:]), nil
	case split:
	default:
		return nil, errors.New("packet without the header of an answer")
	}
	if len(packet) < splitHeaderBytes {
		return nil, errShort
	}
	id := binary.LittleEndian.Uint32(packet[4:])
	total, number := int(packet[8]), int(packet[9])
	if id&(1<<31) != 0 {
		return nil, errors.New("compressed answer")
	}
	if total == 0 || number >= total {
		return nil, fmt.Errorf("packet %d of %d", number, total)
	}
	if id != a.id || len(a.pieces) != total {
		*a = assembly{id: id, pieces: make([][]byte, total), left: total}
	}
	if a.pieces[number] == nil {
		a.pieces[number] = append([]byte{}, packet[splitHeaderBytes:]...)
		a.left--
	}
	if a.left > 0 {
		return nil, nil
	}
	whole := bytes.Join(a.pieces, nil)
	*a = assembly{}
	if len(whole) < 4 || binary.LittleEndian.Uint32(whole) != single {
		return nil, errors.New("split answer without a header")
	}
	return whole[4:], nil
}

var errShort = fmt.Errorf("answer too short: %w", io.ErrUnexpectedEOF)

// reader takes the fields of an answer; after its end all fields are zero and short is set.
type reader struct {
	data  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if len(r.data) < n {
		r.data, r.short = nil, true
		return make([]byte, n)
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) byte() byte     { return r.take(1)[0] }
func (r *reader) bool() bool     { return r.byte() != 0 }
func (r *reader) uint16() uint16 { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *reader) uint32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) uint64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

func (r *reader) string() string {
	text, rest, found := bytes.Cut(r.data, []byte{0})
	r.data = rest
	if !found {
		r.data, r.short = nil, true
		return ""
	}
	return string(text)
}

func (r *reader) err() error {
	if r.short {
		return errShort
	}
	return nil
}

// The flags of the extra fields at the end of an A2S_INFO answer, in the order of the fields.
const (
	extraPort     = 0x80
	extraSteamID  = 0x10
	extraTV       = 0x40
	extraKeywords = 0x20
	extraGameID   = 0x01
)

func parseInfo(data []byte) (ServerInfo, error) {
	r := &reader{data: data}
	info := ServerInfo{
		Protocol: r.byte(), Name: r.string(), Map: r.string(), Folder: r.string(), Game: r.string(), AppID: r.uint16(),
		Players: r.byte(), MaxPlayers: r.byte(), Bots: r.byte(), Type: r.byte(), OS: r.byte(),
		Password: r.bool(), VAC: r.bool(), Version: r.string(),
	}
	if r.short || len(r.data) == 0 {
		return info, r.err()
	}
	extra := r.byte()
	if extra&extraPort != 0 {
		info.Port = r.uint16()
	}
	if extra&extraSteamID != 0 {
		info.SteamID = r.uint64()
	}
	if extra&extraTV != 0 {
		r.uint16()
		r.string()
	}
	if extra&extraKeywords != 0 {
		info.Keywords = r.string()
	}
	if extra&extraGameID != 0 {
		info.GameID = r.uint64()
	}
	return info, r.err()
}

func parsePlayers(data []byte) ([]Player, error) {
	r := &reader{data: data}
	players := make([]Player, 0, 8)
	for n := r.byte(); n > 0 && !r.short; n-- {
		r.byte() // always 0
		p := Player{Name: r.string(), Score: int32(r.uint32())}
		seconds := math.Float32frombits(r.uint32())
		if seconds > 0 && seconds < 1e9 {
			p.Duration = time.Duration(float64(seconds) * float64(time.Second))
		}
		players = append(players, p)
	}
	return players, r.err()
}

func parseRules(data []byte) (map[string]string, error) {
	r := &reader{data: data}
	rules := make(map[string]string)
	for n := r.uint16(); n > 0 && !r.short; n-- {
		name := r.string()
		rules[name] = r.string()
	}
	return rules, r.err()
}
