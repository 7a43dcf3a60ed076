package dbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
	"left4.me/left4/test/abuse"
	"left4.me/left4/units"
)

// Every method of every object, with every argument of every other type and with values that nobody would send: what a
// machine's test does as a stranger and as an operator, here as somebody who may do all of it.
func TestNoCallIsLeftUnanswered(t *testing.T) {
	b := startBus(t)
	fails := func(units.Worker) units.State { return units.State{Active: "failed", Result: "exit-code"} }
	b.worker.Store(&fails)
	b.must(names.Root, names.Manager+".CreateInstance", "other", variants{}, variants{})
	b.must(names.Root, names.Manager+".CreateInstance", "scratch", variants{}, variants{})
	b.must(names.Root, names.Manager+".CreateOverlay", "scratch", "files", variants{}, variants{})
	b.must(names.Root, names.Manager+".CreateBlueprint", "scratch", variants{}, variants{})
	before := b.must("/me/left4/instance/other", names.Properties+".GetAll", names.Instance)[0].(map[string]dbus.Variant)
	socket, err := socketPath(os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	seed := uint64(time.Now().UnixNano())
	tally, err := abuse.Run(ctx, "fuzz", abuse.Options{
		Socket: socket, Instance: "other", Overlay: "scratch", Operator: true, Connections: 1, Count: 3000, Seed: seed, Ready: func() {},
	})
	if err != nil || tally.Lost > 0 || tally.Sent < 2000 {
		t.Errorf("seed %d: %+v, %v", seed, tally, err)
	}
	for _, fault := range tally.Faults {
		t.Error(fault)
	}
	after := b.must("/me/left4/instance/other", names.Properties+".GetAll", names.Instance)[0].(map[string]dbus.Variant)
	for key, value := range before {
		if after[key].String() != value.String() {
			t.Errorf("%s of an instance that nobody named was %s and is %s", key, value, after[key])
		}
	}
}

// FuzzBody gives left4d's readers what the bus would have let through, and what it would not have.
func FuzzBody(f *testing.F) {
	bodies := [][]any{
		{"a", variants{"port": dbus.MakeVariant(uint16(27015)), "arguments": dbus.MakeVariant([]string{"+map", "x"})}, variants{}},
		{"a", variants{"overlays": dbus.MakeVariant([]pair{{"sm", "x"}}), "limits": dbus.MakeVariant(variants{"AllowedCPUs": dbus.MakeVariant([]byte{3})})}, variants{}},
		{"a", variants{"overlays": dbus.MakeVariant([][]string{{"x"}}), "limits": dbus.MakeVariant(7)}, variants{"timeout": dbus.MakeVariant(uint64(5))}},
	}
	signature := dbus.MakeVariant(dbus.ParseSignatureMust("sa{sv}a{sv}"))
	head := sample()
	head.Headers[dbus.FieldSignature] = signature
	for _, body := range bodies {
		head.Body = body
		raw := encoded(f, head, binary.LittleEndian)
		f.Add(raw[len(raw)-int(binary.LittleEndian.Uint32(raw[4:])):])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		// The signature stands in the header, and godbus encodes none without a body.
		m := sample()
		m.Headers[dbus.FieldSignature] = signature
		m.Body = bodies[0]
		raw := encoded(t, m, binary.LittleEndian)
		raw = append(raw[:len(raw)-int(binary.LittleEndian.Uint32(raw[4:]))], body...)
		binary.LittleEndian.PutUint32(raw[4:], uint32(len(body)))
		h, err := parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		got := incoming{header: h, raw: raw}
		args, err := got.body()
		if err != nil {
			// What is refused unread is too much, or what godbus does not read either.
			if errors.Is(err, errBroken) {
				if _, err := dbus.DecodeMessageWithFDs(bytes.NewReader(raw), nil); err == nil {
					t.Errorf("%q is whole", body)
				}
			}
			return
		}
		for _, arg := range args[1:] {
			changes(arg)
			blueprintChanges(arg)
			newDict("option", arg).timeout()
			importOptions(newDict("option", arg), 0)
		}
	})
}

// What is small on the wire and large in memory is refused unread.
func TestArgumentsAreBoundedBeforeTheyAreRead(t *testing.T) {
	b := startBus(t)
	var deep any = byte(7)
	for range 50 {
		deep = dbus.MakeVariant(deep)
	}
	many, lines, paths := make([][]string, 100_000), make([]string, 1000), make([]string, 20_000)
	for i := range lines {
		lines[i] = fmt.Sprintf("sv_tags %d", i)
	}
	for i := range paths {
		paths[i] = fmt.Sprintf("left4dead2/maps/%d.bsp", i)
	}
	create := func(name, key string, value any) error {
		_, err := b.call(names.Root, names.Manager+".CreateInstance", name, variants{key: dbus.MakeVariant(value)}, variants{})
		return err
	}
	for key, value := range map[string]any{"label": deep, "arguments": many, "limits": make([]byte, 1000<<10)} {
		err := create("a", key, value)
		if wantError(t, err, "org.freedesktop.DBus.Error.InvalidArgs"); err != nil && !strings.Contains(err.Error(), "they are too") {
			t.Error(err)
		}
	}
	if err := create("a", "config", lines); err != nil {
		t.Error(err)
	}
	limits := variants{"AllowedCPUs": dbus.MakeVariant([]byte{3})}
	if err := create("b", "limits", limits); err != nil {
		t.Error(err)
	}
	raw := request(t, names.Root, names.Manager, "ImportOverlay", "a", variants{"remove": dbus.MakeVariant(paths)})
	h, err := parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&incoming{header: h, raw: raw}).body(); err != nil {
		t.Errorf("a list of %d paths: %v", len(paths), err)
	}
}
