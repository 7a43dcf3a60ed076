package query

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
)

// The kinds of RCON packets. The two that a server and a client use for different things share a number.
const (
	ResponseValue int32 = 0 // an answer; a client sends an empty one to have it mirrored after all answers
	ExecCommand   int32 = 2
	AuthResponse  int32 = 2
	Auth          int32 = 3
)

// MaxBody is the longest body of one RCON packet, in bytes; longer answers come in several packets.
const MaxBody = 4096

var (
	// ErrRefused says that the server does not accept the password. Each refusal counts towards a ban of the address.
	ErrRefused = errors.New("RCON password refused")
	// ErrClosed says that the server closed the connection before the answer was complete: it bans the address, it
	// ends, or its password was changed.
	ErrClosed = errors.New("connection closed by the server")
)

// Packet is one RCON packet.
type Packet struct {
	ID   int32
	Type int32
	Body string // without NUL
}

// Append appends the packet as it goes over the wire: size (of all that follows it), id and type as little-endian
// 32-bit numbers, the body, two NUL bytes.
func (p Packet) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.Body)+10))
	b = binary.LittleEndian.AppendUint32(b, uint32(p.ID))
	b = binary.LittleEndian.AppendUint32(b, uint32(p.Type))
	b = append(b, p.Body...)
	return append(b, 0, 0)
}

// ReadPacket reads one packet. The error is io.EOF only when the stream ends before the packet begins. Whatever
// follows the body's first NUL is dropped.
func ReadPacket(r io.Reader) (Packet, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Packet{}, err
	}
	size := int32(binary.LittleEndian.Uint32(head[:]))
	if size < 10 || size > MaxBody+10 {
		return Packet{}, fmt.Errorf("RCON packet of %d bytes, not of 10 to %d", size, MaxBody+10)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Packet{}, err
	}
	if data[size-1] != 0 {
		return Packet{}, errors.New("RCON packet without a NUL at its end")
	}
	body, _, _ := bytes.Cut(data[8:], []byte{0})
	return Packet{
		ID:   int32(binary.LittleEndian.Uint32(data)),
		Type: int32(binary.LittleEndian.Uint32(data[4:])),
		Body: string(body),
	}, nil
}

// Rcon logs in to the server at addr (HOST:PORT, TCP), runs one console command, and returns all that it printed.
// Without a deadline in ctx it gives up after DefaultTimeout. The error may be ErrRefused, or ErrClosed together with
// what came before the connection was closed; that is how every answer to "quit" ends.
func Rcon(ctx context.Context, addr, password, command string) (string, error) {
	var text string
	err := exchange(ctx, "tcp", addr, func(conn net.Conn) (err error) {
		text, err = rcon(conn, password, command)
		return err
	})
	if err != nil {
		return text, fmt.Errorf("cannot run a command at %s: %w", addr, err)
	}
	return text, nil
}

func rcon(conn net.Conn, password, command string) (string, error) {
	for _, text := range []string{password, command} {
		if len(text) > MaxBody || strings.ContainsRune(text, 0) {
			return "", fmt.Errorf("password and command must have at most %d bytes and no NUL", MaxBody)
		}
	}
	const login, request, mirror = 1, 2, 3
	if err := send(conn, Packet{login, Auth, password}); err != nil {
		return "", err
	}
	for {
		p, err := receive(conn)
		if err != nil {
			return "", err
		}
		// An empty ResponseValue precedes the verdict.
		if p.Type != AuthResponse {
			continue
		}
		if p.ID != login {
			return "", ErrRefused
		}
		break
	}

	if err := send(conn, Packet{request, ExecCommand, command}, Packet{mirror, ResponseValue, ""}); err != nil {
		return "", err
	}
	var text strings.Builder
	for {
		p, err := receive(conn)
		if err != nil {
			return text.String(), err
		}
		switch p.ID {
		case request:
			text.WriteString(p.Body)
		case mirror:
			return text.String(), nil
		}
	}
}

func send(w io.Writer, packets ...Packet) error {
	var data []byte
	for _, p := range packets {
		data = p.Append(data)
	}
	if _, err := w.Write(data); err != nil {
		return closed(err)
	}
	return nil
}

func receive(r io.Reader) (Packet, error) {
	p, err := ReadPacket(r)
	return p, closed(err)
}

// closed turns the ways in which a connection can be cut by its other end into ErrClosed.
func closed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return ErrClosed
	}
	return err
}
