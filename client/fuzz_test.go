package client

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// Whatever a host is called, ssh gets it as a destination and a port, and never as an option; the program's words arrive as they are.
func FuzzRemote(f *testing.F) {
	f.Add("root@web1:22", "left4ctl", "a b'c")
	f.Add("-oProxyCommand=sh", "x", "$(reboot)")
	f.Add("[::1]:22", "`x`", "\n;&|<>*?[~")
	f.Add("[fe80::1%eth0]", "", "\\")
	f.Fuzz(func(t *testing.T, host, word, more string) {
		argv, err := Remote{Host: host}.Command(word, more)
		if err != nil {
			return
		}
		at := slices.Index(argv, "--")
		if at < 0 || len(argv) != at+4 || strings.HasPrefix(argv[at+1], "-") || argv[at+1] == "" || strings.ContainsAny(argv[at+1], " \t\n'\"`$;&|<>()\\") {
			t.Fatalf("%q becomes %q", host, argv)
		}
		for _, option := range argv[1:at] {
			if option != "-xT" && option != "-p" && strings.Trim(option, "0123456789") != "" {
				t.Fatalf("%q becomes %q", host, argv)
			}
		}
		for n, given := range []string{word, more} {
			if got, ok := unquoted(argv[at+2+n]); !ok || got != given {
				t.Fatalf("a shell reads %q as %q", argv[at+2+n], got)
			}
		}
	})
}

// unquoted reads one word as a shell does; ok is false where there is anything that a shell would do more with.
func unquoted(word string) (text string, ok bool) {
	if plainWord.MatchString(word) {
		return word, true
	}
	for word != "" {
		if rest, found := strings.CutPrefix(word, `\'`); found {
			text, word = text+"'", rest
			continue
		}
		inner, found := strings.CutPrefix(word, "'")
		if !found {
			return text, false
		}
		quote, rest, found := strings.Cut(inner, "'")
		if !found {
			return text, false
		}
		text, word = text+quote, rest
	}
	return text, true
}

// The quoting, by a shell itself.
func TestAShellReadsTheWords(t *testing.T) {
	for _, word := range []string{"", "plain", "a b", "it's", "$(x)", "`x`", "\\", "\n", "*", "~", "-n", "'"} {
		out, err := exec.Command("sh", "-c", "printf %s "+quoted(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q is read as %q, %v", word, out, err)
		}
	}
}

// A left4d that lies, or is newer, is told from one that does not: what is taken for a config is one, and is sent back as the same.
func FuzzDecodeConfig(f *testing.F) {
	v := dbus.MakeVariant
	label, port := "ä", uint16(27015)
	for _, c := range []Config{
		{Label: &label, Port: &port, Arguments: []string{"+map", "x"}, Lines: []string{}, Overlays: []Overlay{{"sm", "*"}}},
		{Limits: &Limits{MemoryMax: new(uint64), AllowedCPUs: []byte{1}}}, {},
	} {
		f.Add(dictBytes(f, c.variants()))
	}
	f.Add(dictBytes(f, map[string]dbus.Variant{"port": v("x"), "later": v(true)}))
	f.Add(dictBytes(f, map[string]dbus.Variant{"overlays": v([][]string{{"a"}}), "limits": v(map[string]dbus.Variant{"Other": v(v(1))})}))
	f.Fuzz(func(t *testing.T, body []byte) {
		var b bytes.Buffer
		b.Write(dictHeader(t, len(body)))
		b.Write(body)
		m, err := dbus.DecodeMessageWithFDs(&b, nil)
		if err != nil || len(m.Body) != 1 {
			return
		}
		values, ok := m.Body[0].(map[string]dbus.Variant)
		if !ok {
			t.Fatalf("an a{sv} is %T", m.Body[0])
		}
		c, err := decodeConfig(values)
		if err != nil {
			return
		}
		if again, err := decodeConfig(c.variants()); err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%+v, then %+v, %v", c, again, err)
		}
	})
}

// dictHeader is a message whose body is an a{sv} of so many bytes.
func dictHeader(t testing.TB, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	m := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/x")), dbus.FieldInterface: dbus.MakeVariant("x.y"), dbus.FieldMember: dbus.MakeVariant("Z"),
		dbus.FieldSignature: dbus.MakeVariant(dbus.ParseSignatureMust("a{sv}")),
	}}
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	binary.LittleEndian.PutUint32(raw[4:], uint32(size))
	return raw
}

func dictBytes(t testing.TB, values map[string]dbus.Variant) []byte {
	t.Helper()
	var b bytes.Buffer
	m := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/x")), dbus.FieldInterface: dbus.MakeVariant("x.y"), dbus.FieldMember: dbus.MakeVariant("Z"),
		dbus.FieldSignature: dbus.MakeVariant(dbus.ParseSignatureMust("a{sv}")),
	}, Body: []any{values}}
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()[len(dictHeader(t, 0)):]
}
