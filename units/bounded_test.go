package units

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// feed is a connection that has been sent these bytes.
type feed struct {
	net.Conn
	r io.Reader
}

func (f feed) Read(b []byte) (int, error) { return f.r.Read(b) }

func message(t testing.TB, order binary.ByteOrder, kind dbus.Type, body string) []byte {
	t.Helper()
	m := &dbus.Message{Type: kind, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/x")), dbus.FieldInterface: dbus.MakeVariant("x.y"), dbus.FieldMember: dbus.MakeVariant("Z"),
		dbus.FieldReplySerial: dbus.MakeVariant(uint32(1)), dbus.FieldErrorName: dbus.MakeVariant("x.y"),
		dbus.FieldSignature: dbus.MakeVariant(dbus.ParseSignatureMust("s")),
	}, Body: []any{body}}
	var b bytes.Buffer
	if err := m.EncodeTo(&b, order); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLargeMessagesThatNobodyAskedForArePassedOver(t *testing.T) {
	small, large := "x", strings.Repeat("y", maxUnasked)
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		auth := []byte("OK 1234\r\n")
		signal, reply := message(t, order, dbus.TypeSignal, small), message(t, order, dbus.TypeMethodReply, large)
		sent := bytes.Join([][]byte{
			auth, signal, message(t, order, dbus.TypeSignal, large), message(t, order, dbus.TypeMethodCall, large), reply, signal,
		}, nil)
		got, err := io.ReadAll(newBoundedConn(feed{r: bytes.NewReader(sent)}))
		if err != nil {
			t.Fatal(err)
		}
		if want := bytes.Join([][]byte{auth, signal, reply, signal}, nil); !bytes.Equal(got, want) {
			t.Errorf("%d bytes came through, want %d", len(got), len(want))
		}
	}
}

func FuzzBoundedConn(f *testing.F) {
	f.Add(message(f, binary.LittleEndian, dbus.TypeSignal, "x"))
	f.Add([]byte("OK\r\nl\x04\x00\x01"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		got, _ := io.ReadAll(newBoundedConn(feed{r: bytes.NewReader(sent)}))
		if len(got) > len(sent) {
			t.Errorf("%d bytes became %d", len(sent), len(got))
		}
	})
}
