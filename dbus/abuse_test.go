package dbus

import (
	"context"
	"encoding/binary"
	"os"
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
		got := incoming{raw: raw}
		args, err := got.body()
		if err != nil || len(args) != 3 {
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
