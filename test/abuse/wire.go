// Package abuse is a local user who means harm: it sends left4d what an honest client never would, as fast as it can, and
// counts what it is answered with. The machine's tests run it as somebody who may nothing, and as an operator.
//
// It speaks to the bus by itself: godbus does not send what is malformed, too deep or too large, closes what it does not
// like, and reads all that comes.
package abuse

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"left4.me/left4/dbus/names"
)

// Socket is that of the system bus.
const Socket = "/run/dbus/system_bus_socket"

// answerDeadline is when an answer that has not come is missing. Nobody asserts less.
const answerDeadline = 2 * time.Minute

// A Bus is one connection to a bus. It is for one goroutine that sends and one that reads.
type Bus struct {
	*net.UnixConn
	Name   string
	in     *bufio.Reader
	serial uint32
}

// Dial connects to a bus, with the passing of descriptors, and says hello.
func Dial(socket string) (*Bus, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	b := &Bus{UnixConn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	if err := b.hello(); err != nil {
		conn.Close()
		return nil, err
	}
	return b, nil
}

func (b *Bus) hello() error {
	for _, step := range []struct{ send, want string }{
		{"\x00AUTH EXTERNAL " + hex.EncodeToString([]byte(strconv.Itoa(os.Getuid()))) + "\r\n", "OK "},
		{"NEGOTIATE_UNIX_FD\r\n", "AGREE_UNIX_FD"},
	} {
		if _, err := io.WriteString(b, step.send); err != nil {
			return err
		}
		line, err := b.in.ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, step.want) {
			return fmt.Errorf("the bus answered %q", line)
		}
	}
	if _, err := io.WriteString(b, "BEGIN\r\n"); err != nil {
		return err
	}
	reply, err := b.Call(Message{To: names.Bus, Path: string(names.BusPath), Interface: names.Bus, Member: "Hello"})
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	if err == nil {
		b.Name, _ = reply.Text()
	}
	return err
}

// A Message is one to be sent, field by field; nothing of it is checked.
type Message struct {
	Kind                     dbus.Type // 0 = a method call
	Flags                    dbus.Flags
	To                       string
	Path                     string
	Interface, Member, Error string
	Signature                string
	Body                     []byte
	FDs                      int    // as many as the header says
	ReplyTo                  uint32 // the serial of the call that it answers
}

// NewCall is a method call with arguments as godbus would send them.
func NewCall(to string, path dbus.ObjectPath, iface, member string, args ...any) (Message, error) {
	m := Message{To: to, Path: string(path), Interface: iface, Member: member}
	if len(args) == 0 {
		return m, nil
	}
	m.Signature = dbus.SignatureOf(args...).String()
	var raw bytes.Buffer
	sample := &dbus.Message{Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/")), dbus.FieldMember: dbus.MakeVariant("M"),
		dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(args...)),
	}, Body: args}
	if err := sample.EncodeTo(&raw, binary.LittleEndian); err != nil {
		return m, err
	}
	b := raw.Bytes()
	m.Body = b[len(b)-int(binary.LittleEndian.Uint32(b[4:])):]
	return m, nil
}

// left4d is a call of left4d; what cannot be encoded is a mistake of this program.
func left4d(path dbus.ObjectPath, iface, member string, args ...any) Message {
	m, err := NewCall(names.Service, path, iface, member, args...)
	if err != nil {
		panic(err)
	}
	return m
}

func manager(member string, args ...any) Message {
	return left4d(names.Root, names.Manager, member, args...)
}

// Raw are the bytes of a message, without its serial.
func (m Message) Raw() []byte {
	kind := m.Kind
	if kind == 0 {
		kind = dbus.TypeMethodCall
	}
	e := encoder{b: []byte{'l', byte(kind), byte(m.Flags), 1}}
	e.uint32(uint32(len(m.Body)))
	e.uint32(0)
	e.uint32(0)
	field := func(code dbus.HeaderField, sig, value string) {
		if value == "" {
			return
		}
		e.align(8)
		e.b = append(e.b, byte(code))
		e.signature(sig)
		if sig == "g" {
			e.signature(value)
		} else {
			e.string(value)
		}
	}
	field(dbus.FieldPath, "o", m.Path)
	field(dbus.FieldDestination, "s", m.To)
	field(dbus.FieldInterface, "s", m.Interface)
	field(dbus.FieldMember, "s", m.Member)
	field(dbus.FieldErrorName, "s", m.Error)
	field(dbus.FieldSignature, "g", m.Signature)
	number := func(code dbus.HeaderField, value uint32) {
		if value == 0 {
			return
		}
		e.align(8)
		e.b = append(e.b, byte(code))
		e.signature("u")
		e.uint32(value)
	}
	number(dbus.FieldUnixFDs, uint32(m.FDs))
	number(dbus.FieldReplySerial, m.ReplyTo)
	binary.LittleEndian.PutUint32(e.b[12:], uint32(len(e.b)-16))
	e.align(8)
	return append(e.b, m.Body...)
}

// encoder appends values as the D-Bus specification's "Marshaling" has them.
type encoder struct{ b []byte }

func (e *encoder) align(n int) {
	for len(e.b)%n != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) uint32(v uint32) {
	e.align(4)
	e.b = binary.LittleEndian.AppendUint32(e.b, v)
}

func (e *encoder) uint64(v uint64) {
	e.align(8)
	e.b = binary.LittleEndian.AppendUint64(e.b, v)
}

func (e *encoder) string(v string) {
	e.uint32(uint32(len(v)))
	e.b = append(append(e.b, v...), 0)
}

func (e *encoder) signature(v string) {
	e.b = append(append(append(e.b, byte(len(v))), v...), 0)
}

// array appends an array whose elements begin at a multiple of n.
func (e *encoder) array(n int, elements func()) {
	e.uint32(0)
	length := len(e.b) - 4
	e.align(n)
	first := len(e.b)
	elements()
	binary.LittleEndian.PutUint32(e.b[length:], uint32(len(e.b)-first))
}

// number gives an encoded message the next serial.
func (b *Bus) number(raw []byte) uint32 {
	b.serial++
	binary.LittleEndian.PutUint32(raw[8:], b.serial)
	return b.serial
}

// Send sends an encoded message with descriptors, of which its header must speak.
func (b *Bus) Send(raw []byte, fds ...int) (serial uint32, err error) {
	serial = b.number(raw)
	if len(fds) == 0 {
		_, err = b.Write(raw)
		return serial, err
	}
	n, _, err := b.WriteMsgUnix(raw, unix.UnixRights(fds...), nil)
	if err == nil && n < len(raw) {
		_, err = b.Write(raw[n:])
	}
	return serial, err
}

// A Reply is what came for a call, or anything else that came.
type Reply struct {
	Kind   dbus.Type
	To     uint32 // the serial that it answers
	Error  string // its name, "" = none
	Member string
	Path   dbus.ObjectPath
	Sender string
	raw    []byte
}

// Body are the arguments; what is no descriptor of this process is not among them.
func (r *Reply) Body() []any {
	m, err := dbus.DecodeMessage(bytes.NewReader(r.raw))
	if err != nil {
		return nil
	}
	return m.Body
}

// Text is the first argument.
func (r *Reply) Text() (string, bool) {
	if body := r.Body(); len(body) > 0 {
		s, ok := body[0].(string)
		return s, ok
	}
	return "", false
}

// Read takes the next message.
func (b *Bus) Read() (*Reply, error) {
	fixed, err := b.in.Peek(16)
	if err != nil {
		return nil, err
	}
	var order binary.ByteOrder = binary.LittleEndian
	if fixed[0] == 'B' {
		order = binary.BigEndian
	}
	fields := (order.Uint32(fixed[12:]) + 7) &^ 7
	raw := make([]byte, 16+fields+order.Uint32(fixed[4:]))
	if _, err := io.ReadFull(b.in, raw); err != nil {
		return nil, err
	}
	r := &Reply{Kind: dbus.Type(raw[1]), raw: raw}
	r.parse(raw[:16+order.Uint32(raw[12:])], order)
	return r, nil
}

// parse reads the fields of a header, which the bus has looked through.
func (r *Reply) parse(b []byte, order binary.ByteOrder) {
	for at := 16; at+4 <= len(b); at = (at + 7) &^ 7 {
		code, kind := dbus.HeaderField(b[at]), b[at+2]
		at += 4
		if kind == 'g' {
			at += 2 + int(b[at])
			continue
		}
		n := order.Uint32(b[at:])
		at += 4
		if kind == 'u' {
			if code == dbus.FieldReplySerial {
				r.To = n
			}
			continue
		}
		text := string(b[at : at+int(n)])
		at += int(n) + 1
		switch code {
		case dbus.FieldErrorName:
			r.Error = text
		case dbus.FieldMember:
			r.Member = text
		case dbus.FieldPath:
			r.Path = dbus.ObjectPath(text)
		case dbus.FieldSender:
			r.Sender = text
		}
	}
}

// Await reads until the answer to a call comes.
func (b *Bus) Await(serial uint32) (*Reply, error) {
	b.SetReadDeadline(time.Now().Add(answerDeadline))
	defer b.SetReadDeadline(time.Time{})
	for {
		r, err := b.Read()
		if err != nil {
			return nil, err
		}
		if r.To == serial && (r.Kind == dbus.TypeMethodReply || r.Kind == dbus.TypeError) {
			return r, nil
		}
	}
}

// Call sends a call and waits for its answer. An error of the bus or of who was called is no error.
func (b *Bus) Call(m Message, fds ...int) (*Reply, error) {
	m.FDs = len(fds)
	serial, err := b.Send(m.Raw(), fds...)
	if err != nil {
		return nil, err
	}
	return b.Await(serial)
}
