package dbus

import (
	"encoding/binary"
	"errors"

	"github.com/godbus/dbus/v5"
)

// header is what is known of a message before its body is looked at. Offsets and codes are those of the D-Bus
// specification, "Message Format".
type header struct {
	order     binary.ByteOrder
	kind      dbus.Type
	flags     dbus.Flags
	serial    uint32
	body      uint32 // bytes
	path      dbus.ObjectPath
	iface     string
	member    string
	errorName string
	reply     uint32 // the serial that this answers
	sender    string
	signature string
	fds       uint32 // descriptors that came with it
}

const fixedHeader = 16

// errHeader is returned for what a bus never delivers; the connection is not usable after it.
var errHeader = errors.New("the bus sent a message that is none")

// parseFixed reads the first 16 bytes; fields is the length of the array of fields with its padding.
func parseFixed(b []byte) (h header, fields uint32, err error) {
	switch b[0] {
	case 'l':
		h.order = binary.LittleEndian
	case 'B':
		h.order = binary.BigEndian
	default:
		return h, 0, errHeader
	}
	h.kind, h.flags = dbus.Type(b[1]), dbus.Flags(b[2])
	h.body, h.serial = h.order.Uint32(b[4:]), h.order.Uint32(b[8:])
	fields = h.order.Uint32(b[12:])
	if b[3] != 1 || fields > 1<<26 || h.body > 1<<27 {
		return h, 0, errHeader
	}
	return h, (fields + 7) &^ 7, nil
}

// words are those that stand in many messages, by themselves. None of them is put together again for each message.
type words map[string]string

// of is the string that bytes are.
func (w words) of(b []byte) string {
	if s, ok := w[string(b)]; ok {
		return s
	}
	return string(b)
}

// parseFields reads the array of fields, which begins behind the first 16 bytes. Nothing of b is kept.
func (h *header) parseFields(b []byte, length uint32, known words) error {
	if uint64(length) > uint64(len(b)) {
		return errHeader
	}
	r := fieldReader{b[:length], 0, h.order, false}
	for r.align(8); r.at < len(r.b) && !r.bad; r.align(8) {
		code, kind := r.byte(), r.signature()
		switch string(kind) {
		case "s", "o":
			if code := dbus.HeaderField(code); code == dbus.FieldDestination {
				r.string()
				continue
			}
			value := known.of(r.string())
			switch dbus.HeaderField(code) {
			case dbus.FieldPath:
				h.path = dbus.ObjectPath(value)
			case dbus.FieldInterface:
				h.iface = value
			case dbus.FieldMember:
				h.member = value
			case dbus.FieldErrorName:
				h.errorName = value
			case dbus.FieldSender:
				h.sender = value
			}
		case "g":
			value := known.of(r.signature())
			if dbus.HeaderField(code) == dbus.FieldSignature {
				h.signature = value
			}
		case "u":
			value := r.uint32()
			switch dbus.HeaderField(code) {
			case dbus.FieldReplySerial:
				h.reply = value
			case dbus.FieldUnixFDs:
				h.fds = value
			}
		default:
			// The specification lets unknown fields come; a bus removes those that it does not know.
			return errHeader
		}
	}
	if r.bad {
		return errHeader
	}
	return nil
}

// fieldReader reads the few types that header fields have. Alignment counts from the array's own beginning, which lies
// at a multiple of 8 in the message.
type fieldReader struct {
	b     []byte
	at    int
	order binary.ByteOrder
	bad   bool
}

func (r *fieldReader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b)-r.at {
		r.bad = true
		return nil
	}
	r.at += n
	return r.b[r.at-n : r.at]
}

func (r *fieldReader) align(n int) {
	if next := (r.at + n - 1) / n * n; next <= len(r.b) {
		r.at = next
	} else {
		r.at = len(r.b)
	}
}

func (r *fieldReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *fieldReader) uint32() uint32 {
	r.align(4)
	if b := r.take(4); b != nil {
		return r.order.Uint32(b)
	}
	return 0
}

func (r *fieldReader) string() []byte {
	n := r.uint32()
	if n > 1<<26 {
		r.bad = true
	}
	return r.terminated(int(n))
}

func (r *fieldReader) signature() []byte { return r.terminated(int(r.byte())) }

func (r *fieldReader) terminated(n int) []byte {
	b := r.take(n + 1)
	if b == nil || b[n] != 0 {
		r.bad = true
		return nil
	}
	return b[:n]
}
