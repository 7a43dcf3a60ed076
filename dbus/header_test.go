package dbus

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/godbus/dbus/v5"
)

func encoded(t testing.TB, msg *dbus.Message, order binary.ByteOrder) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := msg.EncodeTo(&b, order); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func parse(b []byte) (header, error) {
	if len(b) < fixedHeader {
		return header{}, errHeader
	}
	h, padded, err := parseFixed(b)
	if err != nil {
		return h, err
	}
	if uint64(padded) > uint64(len(b)-fixedHeader) {
		return h, errHeader
	}
	return h, h.parseFields(b[fixedHeader:fixedHeader+padded], h.order.Uint32(b[12:]), words{"GetJob": "GetJob"})
}

func sample() *dbus.Message {
	return &dbus.Message{Type: dbus.TypeMethodCall, Flags: dbus.FlagAllowInteractiveAuthorization, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant("me.left4"), dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/me/left4")),
		dbus.FieldInterface: dbus.MakeVariant("me.left4.Manager"), dbus.FieldMember: dbus.MakeVariant("GetJob"),
		dbus.FieldSender: dbus.MakeVariant(":1.7"), dbus.FieldUnixFDs: dbus.MakeVariant(uint32(3)),
		dbus.FieldSignature: dbus.MakeVariant(dbus.ParseSignatureMust("su")),
	}, Body: []any{"x", uint32(5)}}
}

func TestHeaderIsWhatGodbusWrites(t *testing.T) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		h, err := parse(encoded(t, sample(), order))
		if err != nil {
			t.Fatal(err)
		}
		if h.kind != dbus.TypeMethodCall || h.flags != dbus.FlagAllowInteractiveAuthorization || h.path != "/me/left4" ||
			h.iface != "me.left4.Manager" || h.member != "GetJob" || h.sender != ":1.7" || h.fds != 3 || h.signature != "su" {
			t.Errorf("got %+v", h)
		}
	}
}

// A bus validates what it passes on, so what is malformed only must not break anything; what is well-formed must mean the
// same to godbus and here.
func FuzzHeader(f *testing.F) {
	f.Add(encoded(f, sample(), binary.LittleEndian))
	f.Add(encoded(f, sample(), binary.BigEndian))
	f.Fuzz(func(t *testing.T, b []byte) {
		parse(b)
		msg, err := dbus.DecodeMessageWithFDs(bytes.NewReader(b), nil)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if msg.EncodeTo(&again, binary.BigEndian) != nil {
			return
		}
		h, err := parse(again.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		text := func(field dbus.HeaderField) string { s, _ := msg.Headers[field].Value().(string); return s }
		path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
		signature, _ := msg.Headers[dbus.FieldSignature].Value().(dbus.Signature)
		if h.kind != msg.Type || h.flags != msg.Flags || h.member != text(dbus.FieldMember) || h.iface != text(dbus.FieldInterface) ||
			h.sender != text(dbus.FieldSender) || h.path != path || h.signature != signature.String() {
			t.Errorf("%+v and %v", h, msg.Headers)
		}
	})
}
