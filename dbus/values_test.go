package dbus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/daemon"
)

// dictMessage is a message whose body is the bytes of an a{sv}.
func dictMessage(body []byte) []byte {
	var b bytes.Buffer
	msg := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/x")), dbus.FieldInterface: dbus.MakeVariant("x.y"), dbus.FieldMember: dbus.MakeVariant("Z"),
		dbus.FieldSignature: dbus.MakeVariant(dbus.ParseSignatureMust("a{sv}")),
	}}
	if err := msg.EncodeTo(&b, binary.LittleEndian); err != nil {
		panic(err)
	}
	raw := b.Bytes()
	binary.LittleEndian.PutUint32(raw[4:], uint32(len(body)))
	return append(raw, body...)
}

func dictBody(f *testing.F, v variants) []byte {
	m, err := encode(&dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/x")), dbus.FieldInterface: dbus.MakeVariant("x.y"), dbus.FieldMember: dbus.MakeVariant("Z"),
	}, Body: []any{v}})
	if err != nil {
		f.Fatal(err)
	}
	h, padded, err := parseFixed(m.raw)
	if err != nil {
		f.Fatal(err)
	}
	return m.raw[fixedHeader+padded:][:h.body]
}

// Whatever a caller sends as a dictionary is a definition, or refused by name; what is a definition comes back the same.
func FuzzDict(f *testing.F) {
	v := dbus.MakeVariant
	for _, seed := range []variants{
		{"port": v(uint16(27015)), "blueprint": v("b"), "overlays": v([]pair{{"a", "*"}}), "limits": v(variants{"AllowedCPUs": v([]byte{1}), "TasksMax": v(uint64(99))})},
		{"arguments": v([]string{"+map", "x"}), "config": v([]string{"sv_lan 0"}), "restart": v("no"), "label": v("ä"), "hostname": v("h")},
		{"keep": v(uint32(3))}, {"merge": v(true), "remove": v([]string{`a\x0a`}), "base": v(uint32(2)), "size": v(uint64(9)), "timeout": v(uint64(5))},
		{"overlays": v([][]any{{"a", uint32(1)}})}, {"limits": v(v(v("x")))}, {},
	} {
		f.Add(dictBody(f, seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		msg, err := dbus.DecodeMessageWithFDs(bytes.NewReader(dictMessage(body)), nil)
		if err != nil || len(msg.Body) != 1 {
			return
		}
		named := func(err error) {
			var e *daemon.Error
			if err != nil && (!errors.As(err, &e) || e.Code == daemon.Failed) {
				t.Errorf("an error without a name: %v", err)
			}
		}
		_, err = changes(msg.Body[0])
		named(err)
		c, err := blueprintChanges(msg.Body[0])
		named(err)
		if err == nil && (c.Port != nil || c.Label != nil || c.Hostname != nil || c.Restart != nil || c.Blueprint != nil) {
			t.Errorf("a blueprint has %+v", c)
		}
		o, err := overlayChanges(msg.Body[0])
		named(err)
		if err == nil {
			if keys := msg.Body[0].(variants); len(keys) > 1 || len(keys) == 1 && (o.Keep == nil || keys["keep"].Value() != *o.Keep) {
				t.Errorf("%v became %+v", keys, o)
			}
		}
		_, _, err = importOptions(newDict("option", msg.Body[0]), 0)
		named(err)
	})
}
